/* Fork-join for jobs of tens of microseconds: a decode step has some 75 of them, so that waking
 * threads through the kernel each time (5-50 us) would cost as much as the work.
 *
 *   owner                                   worker
 *   job = ...; tag++                        spin on `round`, for SPIN_NS at most,
 *   gate = OPEN; round++                      then sleep on it (futex)
 *   wake sleepers, if any                   round changed: enter the gate: OPEN|k -> OPEN|k+1
 *   take pieces                             take pieces
 *   gate &= ~OPEN                           leave: gate - 1
 *   wait until gate == 0
 *
 * The gate counts the workers inside. The owner waits only for those, never for a worker that is
 * still asleep: when it has run out of pieces, all others are held by workers inside. That is what
 * a plain barrier lacks: with it, one worker that the kernel did not schedule stops every job, even
 * when the others have done all the work. Job fields are plain memory: they change only while the
 * gate is shut and empty, and the gate's acquire/release orders them.
 *
 * Each thread has a range of the pieces, the same part of every job, and takes what others have not got to
 * when its own is done. So what a thread wrote when weights were packed is what it streams in every step:
 * from its own node's memory, where a machine has several, and from the caches that it shares with few, where
 * they are large enough. Threads meet at a counter only when one helps another. A counter says which job
 * it counts, so that nobody has to set all of them to 0 before a job.
 *
 * Lost wakeups cannot happen. A worker announces itself in `sleepers` before the kernel compares
 * `round` with the value it saw; the owner changes `round` before it reads `sleepers` (all
 * sequentially consistent): either the owner sees the sleeper or the kernel sees the new round.
 * The owner sleeps on the gate with WAITED set; the last worker to leave sees the bit and wakes it.
 *
 * Nobody spins when there are more threads than processors: the spinner would hold the processor
 * that the other one needs. */
#include "engine/base/pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/cpu.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"

#define OPEN 0x80000000u
#define WAITED 0x40000000u
#define SPIN_NS 40000
#define SHORT_SPIN_NS 1000 /* after some futile spins in a row ... */
#define FUTILE_SPINS 3
#define PROBE_EVERY 16 /* ... but for every 16th, which finds out whether spinning pays again */
#define PAUSES_PER_LOOK 16
#define CACHE_LINE 64

/* How long one thread spins, from how its last spins ended. */
struct patience {
    unsigned futile; /* spins in a row that ran out */
    unsigned turns;
};

struct worker {
    struct pool *pool;
    pthread_t thread;
    struct patience patience;
    int index; /* 1.. ; the owner is 0 */
};

/* How many pieces of a thread's range were taken: tag of the job << 32 | pieces. */
struct range {
    alignas(CACHE_LINE) _Atomic uint64_t taken;
};

struct pool {
    alignas(CACHE_LINE) atomic_uint round; /* futex of the workers */
    atomic_uint sleepers;                  /* workers asleep on round, or about to be */
    atomic_bool stop;
    alignas(CACHE_LINE) atomic_uint gate; /* OPEN | WAITED | workers inside; futex of the owner */
    alignas(CACHE_LINE) pool_task *task;  /* the job: stable while the gate is open or occupied */
    void *arg;
    size_t n, grain, pieces;
    uint32_t tag; /* of the job; never 0 */
    int threads;
    uint64_t spin_ns;
    struct patience patience; /* of the owner */
    struct worker *workers;   /* owned; threads - 1 of them */
    struct range ranges[];    /* (threads) */
};

static void futex_wait(atomic_uint *word, unsigned seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(atomic_uint *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory"); /* yield is a no-op on most cores; isb waits a little */
#endif
}

static void run_pieces(size_t n, size_t grain, size_t piece, pool_task *task, void *arg, int worker)
{
    size_t begin = piece * grain, left = n - begin;
    task(arg, begin, begin + (left < grain ? left : grain), worker);
}

static size_t count_pieces(size_t n, size_t grain)
{
    return n / grain + (n % grain != 0);
}

/* The first piece of the range of thread `of`. */
static size_t first_piece(const struct pool *p, size_t pieces, size_t of)
{
    return pieces * of / (size_t)p->threads;
}

/* A piece of the range of thread `of`; false if none is left. */
static bool take(struct pool *p, size_t of, size_t *piece)
{
    size_t begin = first_piece(p, p->pieces, of);
    size_t size = first_piece(p, p->pieces, of + 1) - begin, i;
    uint64_t taken = atomic_load_explicit(&p->ranges[of].taken, memory_order_relaxed);
    do {
        i = taken >> 32 == p->tag ? (uint32_t)taken : 0;
        if (i >= size) return false;
    } while (!atomic_compare_exchange_weak_explicit(&p->ranges[of].taken, &taken,
                                                    (uint64_t)p->tag << 32 | (i + 1),
                                                    memory_order_relaxed, memory_order_relaxed));
    *piece = begin + i;
    return true;
}

static void work(struct pool *p, int worker)
{
    size_t threads = (size_t)p->threads, piece;
    for (size_t i = 0; i < threads; i++) {
        size_t of = ((size_t)worker + i) % threads;
        while (take(p, of, &piece))
            run_pieces(p->n, p->grain, piece, p->task, p->arg, worker);
    }
}

/* Spin until *word differs from seen, or the time is up. */
static unsigned spin_while(const atomic_uint *word, unsigned seen, uint64_t spin_ns)
{
    unsigned now = atomic_load(word);
    if (now != seen || !spin_ns) return now;
    uint64_t end = clock_ns() + spin_ns;
    do {
        for (int i = 0; i < PAUSES_PER_LOOK; i++) {
            cpu_pause();
            now = atomic_load_explicit(word, memory_order_acquire);
            if (now != seen) return now;
        }
    } while (clock_ns() < end);
    return now;
}

static uint64_t spin_time(const struct pool *p, struct patience *a)
{
    if (a->futile < FUTILE_SPINS || ++a->turns % PROBE_EVERY == 0) return p->spin_ns;
    return p->spin_ns ? SHORT_SPIN_NS : 0;
}

static void spin_ended(struct patience *a, bool futile)
{
    a->futile = !futile ? 0 : a->futile < FUTILE_SPINS ? a->futile + 1 : a->futile;
}

static unsigned next_round(struct pool *p, struct patience *a, unsigned seen)
{
    unsigned now = spin_while(&p->round, seen, spin_time(p, a));
    spin_ended(a, now == seen);
    if (now != seen) return now;
    atomic_fetch_add(&p->sleepers, 1);
    while ((now = atomic_load(&p->round)) == seen)
        futex_wait(&p->round, seen);
    atomic_fetch_sub(&p->sleepers, 1);
    return now;
}

static bool enter(struct pool *p)
{
    unsigned g = atomic_load(&p->gate);
    while (g & OPEN)
        if (atomic_compare_exchange_weak(&p->gate, &g, g + 1)) return true;
    return false;
}

static void leave(struct pool *p)
{
    if (atomic_fetch_sub(&p->gate, 1) == (WAITED | 1)) futex_wake(&p->gate, 1);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    unsigned seen = 0;
    for (;;) {
        seen = next_round(p, &w->patience, seen);
        if (atomic_load(&p->stop)) return NULL;
        if (!enter(p)) continue;
        work(p, w->index);
        leave(p);
    }
}

/* Spin until nobody is inside, or the time is up. */
static unsigned spin_until_empty(struct pool *p, unsigned g)
{
    uint64_t end = clock_ns() + spin_time(p, &p->patience), now = 0;
    while (g && (now = clock_ns()) < end)
        g = spin_while(&p->gate, g, end - now);
    spin_ended(&p->patience, g != 0);
    return g;
}

/* Shut the gate, then wait for the workers inside. */
static void drain(struct pool *p)
{
    unsigned g = atomic_fetch_and(&p->gate, ~OPEN) & ~OPEN;
    if (g && p->spin_ns) g = spin_until_empty(p, g);
    while (g && g != WAITED) {
        if (!(g & WAITED)) {
            if (!atomic_compare_exchange_strong(&p->gate, &g, g | WAITED)) continue;
            g |= WAITED;
        }
        futex_wait(&p->gate, g);
        g = atomic_load(&p->gate);
    }
}

static void new_round(struct pool *p, int wake)
{
    atomic_fetch_add(&p->round, 1);
    unsigned asleep = atomic_load(&p->sleepers);
    if (asleep) futex_wake(&p->round, wake);
}

/* A tag of long ago must not be taken for the new one. */
static void new_tag(struct pool *p)
{
    if (++p->tag) return;
    for (int i = 0; i < p->threads; i++)
        atomic_store_explicit(&p->ranges[i].taken, 0, memory_order_relaxed);
    p->tag = 1;
}

void pool_for(struct pool *p, size_t n, size_t grain, pool_task *task, void *arg)
{
    BUG_ON(grain < 1);
    size_t pieces = count_pieces(n, grain);
    if (!p || p->threads == 1 || pieces <= 1) {
        for (size_t i = 0; i < pieces; i++)
            run_pieces(n, grain, i, task, arg, 0);
        return;
    }
    BUG_ON(pieces > UINT32_MAX);
    p->task = task;
    p->arg = arg;
    p->n = n;
    p->grain = grain;
    p->pieces = pieces;
    new_tag(p);
    atomic_store(&p->gate, OPEN);
    new_round(p, pieces - 1 < INT_MAX ? (int)(pieces - 1) : INT_MAX);
    work(p, 0);
    drain(p);
}

size_t pool_part_end(const struct pool *p, size_t n, size_t grain, int worker)
{
    if (!p) return n;
    size_t end = first_piece(p, count_pieces(n, grain), (size_t)worker + 1) * grain;
    return end < n ? end : n;
}

int pool_threads(const struct pool *p)
{
    return p ? p->threads : 1;
}

static void stop_workers(struct pool *p, int started)
{
    atomic_store(&p->stop, true);
    new_round(p, INT_MAX);
    for (int i = 0; i < started; i++)
        pthread_join(p->workers[i].thread, NULL);
    free(p->workers);
    free(p);
}

static int start_workers(struct pool *p, int *started)
{
    int rc = 0;
    for (*started = 0; *started < p->threads - 1; ++*started) {
        struct worker *w = &p->workers[*started];
        *w = (struct worker){.pool = p, .index = *started + 1};
        char name[16];
        snprintf(name, sizeof name, "compute-%u", (unsigned)w->index % 100000);
        rc = thread_start(&w->thread, worker_main, w, name);
        if (rc) break;
    }
    return rc;
}

int pool_new(struct pool **out, int threads, struct err *err)
{
    BUG_ON(threads < 1);
    void *block;
    size_t bytes = sizeof(struct pool) + (size_t)threads * sizeof(struct range);
    if (posix_memalign(&block, CACHE_LINE, bytes)) BUG("out of memory");
    struct pool *p = memset(block, 0, bytes);
    struct cpu cpu;
    cpu_detect(&cpu);
    p->threads = threads;
    p->spin_ns = threads <= cpu_threads(&cpu, 0) ? SPIN_NS : 0;
    p->workers = mem_calloc((size_t)threads, sizeof *p->workers);
    int started, rc = start_workers(p, &started);
    if (rc) {
        stop_workers(p, started);
        return err_set(err, ERR_IO, "cannot start compute thread %d of %d: %s", started + 1,
                       threads - 1, strerror(rc));
    }
    *out = p;
    return 0;
}

void pool_free(struct pool *p)
{
    if (p) stop_workers(p, p->threads - 1);
}
