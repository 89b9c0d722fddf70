/* The pool: every item once, no lost wakeup, idle means idle, pieces never above the grain. */
#include "engine/base/pool.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/cpu.h"
#include "engine/base/mem.h"
#include "tests/support/harness.h"

#define MAX_ITEMS 5000

struct job {
    size_t n, grain;
    int threads;
    unsigned char seen[MAX_ITEMS]; /* plain: each item belongs to one piece */
    atomic_int wrong;
    atomic_size_t calls;
};

static void mark(void *arg, size_t begin, size_t end, int worker)
{
    struct job *j = arg;
    atomic_fetch_add(&j->calls, 1);
    if (begin >= end || end > j->n || end - begin > j->grain || begin % j->grain || worker < 0 ||
        worker >= j->threads)
        atomic_store(&j->wrong, 1);
    else
        for (size_t i = begin; i < end; i++)
            j->seen[i]++;
}

static void check_job(struct pool *p, size_t n, size_t grain)
{
    struct job *j = mem_calloc(1, sizeof *j);
    j->n = n;
    j->grain = grain;
    j->threads = pool_threads(p);
    pool_for(p, n, grain, mark, j);
    ck_assert_int_eq(j->wrong, 0);
    ck_assert_uint_eq(j->calls, (n + grain - 1) / grain);
    for (size_t i = 0; i < n; i++)
        ck_assert_uint_eq(j->seen[i], 1);
    free(j);
}

static struct pool *new_pool(int threads)
{
    struct pool *p = NULL;
    struct err e = {0};
    ck_assert_int_eq(pool_new(&p, threads, &e), 0);
    ck_assert_int_eq(pool_threads(p), threads);
    return p;
}

START_TEST(every_item_once)
{
    const size_t sizes[] = {0, 1, 2, 3, 7, 64, 65, 1000, MAX_ITEMS};
    const size_t grains[] = {1, 2, 3, 64, 1000, MAX_ITEMS, MAX_ITEMS + 1};
    for (int threads = 0; threads <= 5; threads++) {
        struct pool *p = threads ? new_pool(threads) : NULL;
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (size_t k = 0; k < sizeof grains / sizeof *grains; k++)
                check_job(p, sizes[i], grains[k]);
        pool_free(p);
    }
    ck_assert_int_eq(pool_threads(NULL), 1);
}
END_TEST

static void huge_item(void *arg, size_t begin, size_t end, int worker)
{
    (void)worker;
    if (begin < end) atomic_fetch_add((atomic_size_t *)arg, 1);
}

START_TEST(the_largest_grain_does_not_overflow)
{
    struct pool *p = new_pool(2);
    atomic_size_t calls = 0;
    pool_for(p, SIZE_MAX, SIZE_MAX / 3, huge_item, &calls);
    ck_assert_uint_eq(calls, 3);
    pool_for(p, SIZE_MAX, SIZE_MAX / 2, huge_item, &calls);
    ck_assert_uint_eq(calls, 6);
    pool_free(p);
}
END_TEST

/* One slot per worker, plain memory: a data race or a piece after pool_for's return shows. */
struct tally {
    struct {
        size_t sum;
        char pad[56];
    } of[16];
};

static void tally(void *arg, size_t begin, size_t end, int worker)
{
    struct tally *t = arg;
    for (size_t i = begin; i < end; i++)
        t->of[worker].sum += i + 1;
}

static void stress(int threads, int rounds, int pause_every)
{
    struct pool *p = new_pool(threads);
    struct tally t;
    for (int r = 0; r < rounds; r++) {
        size_t n = 2 + (size_t)r % 13, sum = 0;
        memset(&t, 0, sizeof t);
        pool_for(p, n, 1, tally, &t);
        for (int w = 0; w < threads; w++)
            sum += t.of[w].sum;
        ck_assert_uint_eq(sum, n * (n + 1) / 2);
        if (pause_every &&
            r % pause_every == 0) /* let workers reach every point of falling asleep */
            nanosleep(&(struct timespec){.tv_nsec = 1000 * (r % 97)}, NULL);
    }
    pool_free(p);
}

START_TEST(thousands_of_tiny_jobs)
{
    int rounds = harness_sanitized() ? 4000 : 40000;
    stress(2, rounds, 0);
    stress(2, rounds / 10, 1);
    stress(3, rounds / 10, 5);
    stress(8, rounds / 10, 7); /* more threads than processors, on most machines that test */
}
END_TEST

START_TEST(many_pools_come_and_go)
{
    for (int i = 0; i < 200; i++) {
        struct pool *p = new_pool(1 + i % 5);
        if (i % 3) check_job(p, 17, 2);
        pool_free(p);
    }
    pool_free(NULL);
}
END_TEST

static double cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

START_TEST(an_idle_pool_uses_no_cpu)
{
    struct pool *p = new_pool(4);
    check_job(p, 100, 1);
    double before = cpu_ms();
    nanosleep(&(struct timespec){.tv_nsec = 200 * 1000 * 1000}, NULL);
    ck_assert_double_lt(cpu_ms() - before, 20);
    pool_free(p);
}
END_TEST

/* As many threads as processors, which spin for the next job: only for microseconds. A pool learns when that is futile,
 * so each time a new one; what the process does besides counts, too, so the least of some times. */
START_TEST(waiting_soon_is_sleeping)
{
    struct cpu cpu;
    cpu_detect(&cpu);
    int threads = cpu_threads(&cpu, 0);
    double least = 1e9;
    for (int i = 0; i < 10; i++) {
        struct pool *p = new_pool(threads < 2 ? 2 : threads);
        check_job(p, 100, 1);
        double before = cpu_ms();
        nanosleep(&(struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL);
        double used = cpu_ms() - before;
        if (used < least) least = used;
        pool_free(p);
    }
    ck_assert_double_lt(least, 2);
}
END_TEST

#define PARTS 4 /* threads, and pieces that wait for each other */

static void rendezvous(void *arg, size_t begin, size_t end, int worker)
{
    atomic_int *here = arg;
    (void)begin, (void)end, (void)worker;
    atomic_fetch_add(here, 1);
    while (atomic_load(here) < PARTS)
        sched_yield();
}

START_TEST(all_threads_work_at_once)
{
    struct pool *p = new_pool(PARTS);
    for (int i = 0; i < 20; i++) { /* hangs if a piece waits for a thread that never comes */
        atomic_int here = 0;
        pool_for(p, PARTS, 1, rendezvous, &here);
        ck_assert_int_eq(here, PARTS);
        if (i % 2) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    pool_free(p);
}
END_TEST

struct part {
    const struct pool *pool;
    size_t n, grain;
    atomic_int here, elsewhere; /* pieces begun; those of another worker's part */
};

/* Waits until all workers have a piece: nobody has got to help. */
static void note_part(void *arg, size_t begin, size_t end, int worker)
{
    struct part *j = arg;
    size_t from = worker ? pool_part_end(j->pool, j->n, j->grain, worker - 1) : 0;
    if (begin < from || end > pool_part_end(j->pool, j->n, j->grain, worker)) j->elsewhere++;
    rendezvous(&j->here, begin, end, worker);
}

/* Whatever the sizes, a worker begins with what is its own: the same part of every job. */
START_TEST(workers_begin_with_their_own_part)
{
    static const size_t grains[] = {1, 3, 7};
    struct pool *p = new_pool(PARTS);
    for (size_t g = 0; g < sizeof grains / sizeof *grains; g++)
        for (int i = 0; i < 10; i++) {
            struct part j = {.pool = p, .n = PARTS * grains[g] - (i % 2 && g), .grain = grains[g]};
            pool_for(p, j.n, j.grain, note_part, &j);
            ck_assert_int_eq(j.here, PARTS);
            ck_assert_int_eq(j.elsewhere, 0);
            ck_assert_uint_eq(pool_part_end(p, j.n, j.grain, 0), j.grain);
            ck_assert_uint_eq(pool_part_end(p, j.n, j.grain, PARTS - 1), j.n);
        }
    ck_assert_uint_eq(pool_part_end(p, 2, 1, 0), 0); /* fewer pieces than workers */
    ck_assert_uint_eq(pool_part_end(p, 2, 1, 1), 1);
    ck_assert_uint_eq(pool_part_end(NULL, 100, 7, 0), 100);
    pool_free(p);
}
END_TEST

/* Waits, in the first worker's piece, until all others are done. */
static void wait_for_others(void *arg, size_t begin, size_t end, int worker)
{
    struct part *j = arg;
    (void)end, (void)worker;
    if (begin > 0)
        atomic_fetch_add(&j->here, 1);
    else
        while ((size_t)atomic_load(&j->here) < j->n - 1)
            sched_yield();
}

START_TEST(others_do_what_a_worker_does_not_get_to)
{
    struct pool *p = new_pool(PARTS);
    for (int i = 0; i < 20; i++) { /* hangs if pieces behind the first are left to their worker */
        struct part j = {.n = 100 + (size_t)i};
        pool_for(p, j.n, 1, wait_for_others, &j);
        ck_assert_int_eq(j.here, (int)j.n - 1);
    }
    pool_free(p);
}
END_TEST

START_TEST(a_thread_that_cannot_start_is_an_error)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    ck_assert(f && fscanf(f, "%lu", &pages) == 1);
    fclose(f);
    rlim_t most = pages * (rlim_t)sysconf(_SC_PAGESIZE) + (64 << 20); /* room for a few stacks */
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &(struct rlimit){.rlim_cur = most, .rlim_max = most}), 0);
    struct pool *p = NULL;
    struct err e = {0};
    ck_assert_int_eq(pool_new(&p, 1000, &e), ERR_IO);
    ck_assert_ptr_null(p);
    ck_assert_ptr_nonnull(strstr(e.msg, "of 999"));
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("pool");
    TCase *t = tcase_create("pool");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, every_item_once);
    tcase_add_test(t, the_largest_grain_does_not_overflow);
    tcase_add_test(t, thousands_of_tiny_jobs);
    tcase_add_test(t, many_pools_come_and_go);
    tcase_add_test(t, an_idle_pool_uses_no_cpu);
    tcase_add_test(t, waiting_soon_is_sleeping);
    tcase_add_test(t, all_threads_work_at_once);
    tcase_add_test(t, workers_begin_with_their_own_part);
    tcase_add_test(t, others_do_what_a_worker_does_not_get_to);
    if (harness_sanitized())
        skip("pool: thread start failure", "sanitizers need address space");
    else
        tcase_add_test(t, a_thread_that_cannot_start_is_an_error);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
