#ifndef TTMD_TTM_PAIR_H
#define TTMD_TTM_PAIR_H

/* Inside engine/ttm only: what contracting two groups does alike whatever their numbers are
 * (contract_pair.c, contract_int8.c). */

#include "engine/base/mem.h"
#include "engine/ttm/held.h"

/* One call; borrowed, but for the plan's shape. */
struct pair {
    struct plan_pair p;
    const struct packed *first, *second;
    const struct ttm_shape *s;
    const struct kernels *k;
    const struct ttm_call *call;
    size_t worker_floats, rows; /* scratch of a thread; rows of x in a chunk */
};

/* pair_take -- the next part of scratch, on a line of its own. */
static inline void *pair_take(float **at, size_t floats)
{
    float *p = *at;
    *at += mem_lines(floats);
    return p;
}

static inline float *pair_worker_scratch(const struct pair *q, int worker)
{
    return q->call->scratch + (size_t)worker * q->worker_floats;
}

static inline void pair_count(const struct pair *q, size_t rows, size_t k, size_t cols)
{
    if (q->call->mults)
        __atomic_fetch_add(q->call->mults, (uint64_t)rows * k * cols, __ATOMIC_RELAXED);
}

/* pair_j_block -- values of j whose part of t, for so many rows, is a block: all, when the second group is
 * the larger one. */
static inline size_t pair_j_block(const struct plan_pair *p, size_t rows)
{
    if (!p->by_output) return p->nf;
    size_t n = p->block / (rows * p->ms * p->r) / p->j_step * p->j_step;
    return n < p->j_step ? p->j_step : mem_least(n, p->nf);
}

/* pair_j_share -- the same for threads that take blocks of j of the same rows: two or more each. */
static inline size_t pair_j_share(const struct plan_pair *p, size_t rows, size_t threads)
{
    size_t even = (p->nf + 2 * threads - 1) / (2 * threads);
    return mem_least(pair_j_block(p, rows), mem_round_up(even, p->j_step));
}

/* pair_share -- rows of a chunk for threads with rows of their own: no more than the plan's, and as many
 * for each. */
static inline size_t pair_share(const struct pair *q, size_t threads)
{
    size_t share = (q->call->rows + threads - 1) / threads;
    size_t rounds = (share + q->p.rows - 1) / q->p.rows;
    return (share + rounds - 1) / rounds;
}

/* pair_row_grain -- rows of so many floats that are worth waking another thread to move. */
static inline size_t pair_row_grain(size_t floats)
{
    size_t rows = 8192 / floats;
    return rows ? rows : 1;
}

/* pair_finish -- rows [begin, end) of the `rows` of a chunk, from row0 on, to y.
 *   acc  (nf, rows, ns) their sums; borrowed
 *   row  room for nf * ns floats */
void pair_finish(const struct pair *q, const float *acc, size_t rows, size_t row0, size_t begin,
                 size_t end, float *row);

#endif
