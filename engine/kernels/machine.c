/* How fast could it be? Two limits bound a transformer on a CPU: multiplications per second (prefill,
 * large batches) and bytes read per second (decode). Both are measured here instead of being taken
 * from a data sheet, because what counts is this container on this shared machine at this moment.
 *
 * OpenBLAS stands for the arithmetic: it is what a large f32 product would otherwise be given to.
 * Work is handed out in more pieces than threads, so that a thread that was disturbed takes fewer.
 * The read buffer is written first: untouched pages are all the same zero page, which never leaves
 * the cache. Pieces are read front to back, as the decode kernels read their weights. */
#include "engine/kernels/machine.h"

#include <cblas.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"

enum { SGEMMS_PER_THREAD = 2, SPINS_PER_THREAD = 16, SPIN_TURNS = 200000 };
#define PIECE_BYTES ((size_t)1 << 20)
#define MIN_READ_BYTES ((size_t)1 << 30)
#define SGEMM_FLOATS ((size_t)MACHINE_SGEMM_N * MACHINE_SGEMM_N)

struct machine {
    struct pool *pool; /* borrowed */
    int threads;
    float *matrices; /* (threads, 3, N, N) owned */
    size_t matrices_bytes;
    unsigned char *read; /* owned, a multiple of PIECE_BYTES */
    size_t read_bytes;
    uint64_t *sums; /* (threads) owned: keeps the reading from being optimised away */
};

static void touch(void *arg, size_t begin, size_t end, int worker)
{
    struct machine *m = arg;
    (void)worker;
    memset(m->read + begin * PIECE_BYTES, 1, (end - begin) * PIECE_BYTES);
}

static size_t read_size(const struct cpu *cpu)
{
    size_t want = 4 * cpu->l3_bytes > MIN_READ_BYTES ? 4 * cpu->l3_bytes : MIN_READ_BYTES;
    if (cpu->memory_bytes && want > cpu->memory_bytes / 4) want = cpu->memory_bytes / 4;
    return mem_round_up(want ? want : 1, PIECE_BYTES);
}

int machine_open(struct machine **out, struct pool *pool, const struct cpu *cpu, struct err *err)
{
    struct machine *m = mem_calloc(1, sizeof *m);
    void *p = NULL;
    m->pool = pool;
    m->threads = pool_threads(pool);
    m->sums = mem_calloc((size_t)m->threads, sizeof *m->sums);
    m->matrices_bytes = (size_t)m->threads * 3 * SGEMM_FLOATS * sizeof(float);
    int rc = mem_map(&p, m->matrices_bytes, "matrices to measure SGEMM with", err);
    if (rc) goto out;
    m->matrices = p;
    for (size_t i = 0; i < m->matrices_bytes / sizeof(float); i++)
        m->matrices[i] = (float)(i % 17) / 17;
    size_t bytes = read_size(cpu);
    rc = mem_map(&p, bytes, "a buffer to measure memory with", err);
    if (rc) goto out;
    m->read = p;
    m->read_bytes = bytes;
    pool_for(pool, bytes / PIECE_BYTES, 1, touch, m);
    openblas_set_num_threads(1);
    *out = m;
    m = NULL;
out:
    machine_close(m);
    return rc;
}

void machine_close(struct machine *m)
{
    if (!m) return;
    mem_unmap(m->matrices, m->matrices_bytes);
    mem_unmap(m->read, m->read_bytes);
    free(m->sums);
    free(m);
}

size_t machine_read_bytes(const struct machine *m)
{
    return m->read_bytes;
}

static void sgemm(void *arg, size_t begin, size_t end, int worker)
{
    struct machine *m = arg;
    const int n = MACHINE_SGEMM_N;
    float *a = m->matrices + (size_t)worker * 3 * SGEMM_FLOATS;
    for (size_t i = begin; i < end; i++)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1.0f, a, n,
                    a + SGEMM_FLOATS, n, 0.0f, a + 2 * SGEMM_FLOATS, n);
}

double machine_sgemm_peak(struct machine *m)
{
    size_t products = (size_t)m->threads * SGEMMS_PER_THREAD;
    uint64_t start = clock_ns();
    pool_for(m->pool, products, 1, sgemm, m);
    double seconds = (double)(clock_ns() - start) / (double)CLOCK_NS_PER_S;
    return 2.0 * (double)SGEMM_FLOATS * MACHINE_SGEMM_N * (double)products / seconds;
}

struct spinning {
    struct machine *m;
    const struct int8_kernels *k;
};

static void spin(void *arg, size_t begin, size_t end, int worker)
{
    struct spinning *s = arg;
    for (size_t i = begin; i < end; i++)
        s->m->sums[worker] += (uint32_t)s->k->spin(SPIN_TURNS);
}

double machine_int8_peak(struct machine *m, const struct int8_kernels *k)
{
    struct spinning s = {m, k};
    size_t pieces = (size_t)m->threads * SPINS_PER_THREAD;
    uint64_t start = clock_ns();
    pool_for(m->pool, pieces, 1, spin, &s);
    double seconds = (double)(clock_ns() - start) / (double)CLOCK_NS_PER_S;
    return (double)k->turn_ops * SPIN_TURNS * (double)pieces / seconds;
}

struct reading {
    struct machine *m;
    const struct kernels *k;
};

static void read_pieces(void *arg, size_t begin, size_t end, int worker)
{
    const struct reading *r = arg;
    const float *p = (const float *)(const void *)(r->m->read + begin * PIECE_BYTES);
    r->m->sums[worker] += r->k->max(p, (end - begin) * (PIECE_BYTES / sizeof *p)) > 0;
}

double machine_read_bandwidth(struct machine *m, const struct kernels *k)
{
    struct reading r = {m, k};
    uint64_t start = clock_ns();
    pool_for(m->pool, m->read_bytes / PIECE_BYTES, 1, read_pieces, &r);
    return (double)m->read_bytes * (double)CLOCK_NS_PER_S / (double)(clock_ns() - start);
}
