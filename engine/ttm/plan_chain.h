#ifndef TTMD_TTM_PLAN_CHAIN_H
#define TTMD_TTM_PLAN_CHAIN_H

/* Inside engine/ttm only: the grouped chain that plan.c, plan_search.c and the executors share. */

#include "engine/ttm/plan.h"

struct plan_chain {
    int g;
    size_t m[TTM_MAX_CORES], n[TTM_MAX_CORES], r[TTM_MAX_CORES + 1];
};

/* plan_chain -- the shape of the groups whose first cores are first[0..groups]. */
void plan_chain(struct plan_chain *c, const struct ttm_shape *s, const int *first, int groups);
size_t plan_chain_floats(const struct plan_chain *c);

/* plan_step -- the step that applies `group` when `applied` (a bit per group) are done and `last` was
 * the last of them (-1: none). plan_out -- the final reordering after `last`. */
void plan_step(struct ttm_step *st, const struct plan_chain *c, unsigned applied, int last,
               int group);
void plan_out(struct ttm_permutation *out, const struct plan_chain *c, int last);

/* A contraction of two groups, `first` and then `second`, as contract_pair.c cuts it up:
 *
 *     t[row, i, j, b] = sum_f x[row, (f, i)] first[f, j, b]          f < mf, i < ms
 *     y[row, (j, s)]  = sum_{i, b} t[row, i, j, b] second[i, b, s]   j < nf, b < r, s < ns
 *
 * (f, i) and (j, s) in the order of the groups. By output: blocks of j, each through both products.
 * By input: blocks of i, the sums of y going on from block to block. */
#define PAIR_TILE_ROWS 96
struct plan_pair {
    size_t mf, nf, ms, ns, r;
    bool left;       /* the first group is the left one */
    bool by_output;  /* the first group has the larger weights */
    size_t j_step;   /* blocks of j in multiples of this begin with a panel */
    size_t block;    /* floats of t at once */
    size_t rows;     /* most rows of x at once */
    size_t few_rows; /* up to so many rows a thread the weights are shared; > 1: t is whole then */
};
void plan_pair(struct plan_pair *out, const struct ttm_plan *p, const struct ttm_shape *s);
size_t plan_pair_worker_floats(const struct plan_pair *p);

/* The same for 8-bit groups (contract_int8.c): always by output, since a row of t is quantised as a whole;
 * `block` then has at most pair_int8_rows() rows (j, row) of ms * r floats. */
void plan_pair_int8(struct plan_pair *out, const struct ttm_plan *p, const struct ttm_shape *s);
static inline size_t pair_int8_rows(const struct plan_pair *p)
{
    return p->block / (p->ms * p->r);
}

/* How a rebuild is cut up: W is made in blocks of `cols` columns, each from tiles: for some left input
 * indices and the left output indices that the block touches, tile_rows pairs of them at most, a
 * (pairs, rank) x (rank, width) product, width = m_right * n_right. */
struct plan_tiles {
    size_t rank, m_right, n_right, n_left, width;
    size_t left;      /* left input indices that are needed */
    size_t cols;      /* whole panels */
    size_t tile_rows; /* >= the left output indices that any block touches */
};
void plan_tiles(struct plan_tiles *t, const struct ttm_plan *p, const struct ttm_shape *s);

/* plan_step_seconds, plan_out_seconds -- the cost model's terms for `rows` rows of x. Between two
 * groups nothing is moved: `moves` says whether this step's reordering is done at all. */
double plan_step_seconds(const struct ttm_step *st, size_t rows, size_t element, bool cached,
                         bool moves, const struct ttm_rates *m);
double plan_out_seconds(const struct ttm_permutation *out, size_t floats, size_t rows,
                        const struct ttm_rates *m);

/* plan_cached -- do all weights of a step fit in the cache, when a layer's are `bytes`? */
bool plan_cached(size_t bytes, const struct ttm_workload *w, const struct ttm_rates *m);

/* All plans worth comparing for a role: each grouping in its best order, each rebuild, resident;
 * those that the workload allows and its type can be packed for, with their predicted seconds at its
 * number of rows. */
#define PLAN_MAX_CANDIDATES ((1 << (TTM_MAX_CORES - 1)) + TTM_MAX_CORES)
struct plan_candidates {
    int n;
    struct ttm_plan plan[PLAN_MAX_CANDIDATES];
    double seconds[PLAN_MAX_CANDIDATES];
};

/* plan_candidates -- allocated, freed by the caller with free(). */
struct plan_candidates *plan_candidates(const struct ttm_shape *s, enum ttm_role role,
                                        const struct ttm_workload *w, const struct ttm_rates *m);

/* plan_no_fit -- ERR_INVALID: nothing fits in the workload's budget, or without one is possible. */
int plan_no_fit(const struct ttm_shape *s, const struct ttm_workload *w, const char *what,
                struct err *err);

#endif
