#ifndef TTMD_TTM_PLAN_H
#define TTMD_TTM_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"
#include "engine/base/err.h"
#include "engine/ttm/shape.h"

/* How a TTM layer is applied to rows. Three ways, each best somewhere:
 *
 *   contract  merge neighbouring cores into groups once, at load, and contract x with the groups in
 *             some order: least memory traffic, more arithmetic
 *   rebuild   W into scratch, then one dense product: one rebuild costs what r rows of dense cost
 *   resident  dense W, rebuilt once at load: the memory of a dense layer, no further cost
 *
 * A plan is plain data, made once per layer and role. It never depends on the rows of a call, so
 * that a row's result does not depend on its neighbours. */
enum ttm_method { TTM_CONTRACT, TTM_REBUILD, TTM_RESIDENT };
#define TTM_METHODS 3

enum ttm_role { TTM_DECODE, TTM_PREFILL };
#define TTM_ROLES 2

struct ttm_plan {
    enum ttm_method method;
    int groups; /* CONTRACT: groups, >= 2; group g = cores first[g]..first[g+1]-1 */
    int first[TTM_MAX_CORES + 1]; /* first[0] = 0, first[groups] = d */
    int order[TTM_MAX_CORES];     /* CONTRACT: the groups in the order of contraction */
    int split; /* REBUILD, RESIDENT: W = cores 0..split-1 times the others; 0 if d = 1 */

    /* What follows is derived, by ttm_plan_finish(). */
    uint64_t mults_per_row;  /* multiplications, exact, padding of the shape included */
    uint64_t mults_per_call; /* REBUILD: those of one rebuild */
    size_t resident_floats;  /* elements that this plan needs resident */
    size_t packed_floats;    /* the same as laid out, columns in multiples of PACK_N */
    size_t packed_columns;   /* columns of what is laid out; I8 has 8 bytes more for each */
    size_t chunk_rows;       /* CONTRACT: rows that go through all steps together */
    size_t worker_floats;    /* scratch of each compute thread */
};

/* ttm_plan_finish -- check the choice in *p for a checked shape and fill the derived fields.
 * Errors  ERR_INVALID when it is no grouping, no order or no split of that shape. */
int ttm_plan_finish(struct ttm_plan *p, const struct ttm_shape *s, const char *what,
                    struct err *err);

/* ttm_plan_format -- "contract [0 1][2 3] left first", "contract [0][1][2] order 1 0 2", "rebuild",
 * "resident". */
#define TTM_PLAN_TEXT 96
void ttm_plan_format(const struct ttm_plan *p, char text[TTM_PLAN_TEXT]);

/* ttm_plan_mults -- multiplications that applying the plan to `rows` rows costs, exactly. */
uint64_t ttm_plan_mults(const struct ttm_plan *p, size_t rows);

/* ttm_plan_scratch -- floats of scratch for a pool of `threads`. */
size_t ttm_plan_scratch(const struct ttm_plan *p, int threads);

/* ---- the steps of a contraction, shared by the cost model and the executor ---- */

/* A reordering of one row's intermediate: destination axes with their strides in the source. */
#define TTM_MAX_AXES (2 * TTM_MAX_CORES)
struct ttm_permutation {
    int n;         /* axes after merging those that move together */
    bool identity; /* nothing to move */
    size_t dim[TTM_MAX_AXES], stride[TTM_MAX_AXES];
};

/* One step, per row of x: (reorder,) then (rows, k) x (k, n). The weight matrix is group `group`
 * with k = (m, left bond?, right bond?), those bonds that earlier steps opened, and n = (n, left
 * bond?, right bond?), those that this step opens. */
struct ttm_step {
    int group;
    bool left_open, right_open; /* the bond is contracted here, i.e. is in k; else in n */
    size_t rows, k, n;
    struct ttm_permutation in;
};

struct ttm_steps {
    int n;
    struct ttm_step step[TTM_MAX_CORES];
    struct ttm_permutation out; /* after the last step: to row-major (n0, n1, ..) */
    size_t max_floats;          /* the largest intermediate of a row */
};

/* ttm_plan_steps -- the steps of a CONTRACT plan (groups, first and order set). */
void ttm_plan_steps(struct ttm_steps *out, const struct ttm_plan *p, const struct ttm_shape *s);

/* ---- the machine and the cost ---- */

struct ttm_rates {
    double flops_few,
        flops_many;     /* operations/s (2 per multiplication) at 1 row, >= TTM_MANY_ROWS */
    double flops_f32;   /* the same as flops_many, of F32 weights: what a rebuild computes
                           with; 0 = flops_many */
    double dram, cache; /* bytes/s */
    double overhead_s;  /* per matrix product */
    size_t cache_bytes; /* weights of a step that fit in it are read at cache speed */
    size_t lanes;       /* columns come in multiples of this: PACK_N; 1 = an ideal machine */
};
#define TTM_MANY_ROWS 4

/* ttm_rates_ideal -- a machine on which nothing but multiplications costs: the planner then finds
 * the fewest of them within the memory allowed. */
extern const struct ttm_rates ttm_rates_ideal;

/* What a layer is planned for. */
struct ttm_workload {
    size_t rows[TTM_ROLES];  /* rows of a typical call in each role, >= 1 */
    double share[TTM_ROLES]; /* how many calls of each role there are, relatively, >= 0 */
    enum dtype dtype;        /* of resident weights: F32, F16, BF16 or I8 */
    int layers;              /* layers like this one that a step goes through, >= 1 */
    size_t other_bytes;      /* weights that the rest of a step reads: they share the cache */
    size_t budget_bytes;     /* resident bytes allowed for the plans of this layer; 0 = no limit */
    unsigned methods;        /* those that may be chosen, 1u << method each; 0 = all. Where none of
                                them is possible (a single core is a dense matrix already, 8-bit groups
                                have INT8_MAX_K inputs at most) RESIDENT and REBUILD are, too */
    bool below_dense;        /* pairs of plans must keep less than W itself would, where any does */
};

/* ttm_plan_seconds -- predicted time of one call with `rows` rows under a finished plan. */
double ttm_plan_seconds(const struct ttm_plan *p, const struct ttm_shape *s, size_t rows,
                        const struct ttm_workload *w, const struct ttm_rates *m);

/* ttm_dense_bytes -- of a dense layer's weights, as they are laid out. */
size_t ttm_dense_bytes(const struct ttm_shape *s, enum dtype t);

/* ttm_plan_bytes -- resident bytes of a plan; of both roles' plans together, which share what is
 * the same in both. */
size_t ttm_plan_bytes(const struct ttm_plan *p, enum dtype t);
size_t ttm_plan_pair_bytes(const struct ttm_plan plan[TTM_ROLES], enum dtype t);
bool ttm_plan_same(const struct ttm_plan *a, const struct ttm_plan *b);

/* ttm_plan_role -- the fastest plan for one role within the budget: every grouping of the cores and
 * every order (dynamic programming over sets of groups, exact because a step's cost depends only on
 * which groups were contracted before it and which one was the last), every rebuild, resident.
 * Errors  ERR_INVALID naming the budget when no plan fits in it, or what 8-bit weights allow when a single
 *         core has more inputs. */
int ttm_plan_role(struct ttm_plan *out, const struct ttm_shape *s, enum ttm_role role,
                  const struct ttm_workload *w, const struct ttm_rates *m, const char *what,
                  struct err *err);

/* ttm_plan_layer -- the best pair of plans, one per role, that together fit in the budget; weighted
 * by the workload's shares. Errors as ttm_plan_role(). */
int ttm_plan_layer(struct ttm_plan out[TTM_ROLES], const struct ttm_shape *s,
                   const struct ttm_workload *w, const struct ttm_rates *m, const char *what,
                   struct err *err);

/* ttm_plan_model -- pairs for all TTM layers of a model within one budget. Every layer gets its
 * smallest pair; what is left of the budget is spent where a byte saves the most time.
 *
 *   out      (n) pairs
 *   shapes   (n)
 *   w        (n) a layer's own budget_bytes limits it alone
 *   budget   resident bytes for all layers together; 0 = no limit: every layer gets its best pair
 *   least    set to what the smallest pairs need, when that is more than the budget; NULL where there is
 *            no limit
 *   names    (n) for messages
 *
 * Errors  ERR_INVALID with the budget and what the smallest pairs need. */
int ttm_plan_model(struct ttm_plan (*out)[TTM_ROLES], const struct ttm_shape *shapes, int n,
                   const struct ttm_workload *w, size_t budget, size_t *least,
                   const struct ttm_rates *m, const char *const *names, struct err *err);

#endif
