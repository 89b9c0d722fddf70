#ifndef TTMD_TTM_TTM_H
#define TTMD_TTM_TTM_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/ttm/shape.h"

/* A Tensor-Train matrix: W (C_in, C_out) as a chain of cores,
 *
 *     W[(i0..id-1), (j0..jd-1)] = G0[i0,j0,:] . G1[:,i1,j1,:] . ... . Gd-1[:,id-1,jd-1]
 *
 * core k (r[k], m[k], n[k], r[k+1]) row-major; shape.h has the index rules and the padding. Storage
 * and arithmetic are f32 in struct ttm; the algebra (rounding, decomposition) works on struct
 * ttm64.
 *
 * Source  Oseledets 2010 (matrices in TT form); Chekalina et al. 2023, arXiv:2306.02697. */
struct ttm {
    struct ttm_shape shape;
    float *core[TTM_MAX_CORES]; /* owned by `storage`, or borrowed when it is NULL */
    float *storage;             /* all cores, one after another; owned */
};

struct ttm64 {
    struct ttm_shape shape;
    double *core[TTM_MAX_CORES]; /* each owned */
};

/* ttm_init -- zeroed cores of a shape, owned.
 * Errors  those of ttm_shape_check(); ERR_NOMEM. *w zeroed on failure. */
int ttm_init(struct ttm *w, const struct ttm_shape *s, const char *what, struct err *err);

/* ttm_borrow -- a view of cores that the caller keeps alive and unchanged while *w is used.
 * Errors  those of ttm_shape_check(). */
int ttm_borrow(struct ttm *w, const struct ttm_shape *s, float *const *cores, const char *what,
               struct err *err);
void ttm_release(struct ttm *w); /* zeroes *w; frees what is owned */

/* ttm_random -- the paper's initialisation: cores N(0,1)/sqrt(r_left), the last one times `std`, so
 * that the entries of W have that standard deviation (the paper: 0.02); then left-to-right QR,
 * which leaves W as it is and every core but the last with orthonormal columns. Ranks above the
 * left cap would be cut by the QR: they are an error.
 *
 *   w     initialised; overwritten
 *   seed, stream  as in rng.h; core k takes stream * TTM_MAX_CORES + k
 *
 * Errors  ERR_INVALID for such ranks; ERR_NOMEM.
 */
int ttm_random(struct ttm *w, double std, uint64_t seed, uint64_t stream, const char *what,
               struct err *err);

/* ttm_entry -- W[i, j] by the definition above, in double; the oracle of everything else.
 * i < prod m, j < prod n (padding included). Cost: sum of r[k] r[k+1]. */
double ttm_entry(const struct ttm *w, size_t i, size_t j);

/* ttm_to_dense -- W (in, out) f32 row-major, from products in double.
 * Errors  ERR_NOMEM (it needs prod m * prod n * 16 bytes); dense is then undefined. */
int ttm_to_dense(const struct ttm *w, float *dense, struct err *err);

/* ttm_apply_naive -- y (T, out) = x (T, in) W, in double, through the dense matrix: an oracle.
 * Errors  ERR_NOMEM. */
int ttm_apply_naive(const struct ttm *w, const float *x, size_t t, float *y, struct err *err);

/* ttm64_init -- zeroed cores of a shape. ttm64_from, ttm64_to -- copies between the precisions; the
 * target is initialised here. Errors as ttm_init(). */
int ttm64_init(struct ttm64 *w, const struct ttm_shape *s, const char *what, struct err *err);
int ttm64_from(struct ttm64 *out, const struct ttm *w, struct err *err);
int ttm64_to(struct ttm *out, const struct ttm64 *w, const char *what, struct err *err);
void ttm64_release(struct ttm64 *w);

/* ttm64_set_core -- core k becomes `core` (ownership moves), of the ranks r[k], r[k+1] given. The
 * neighbours must be brought to the same ranks by the caller. */
void ttm64_set_core(struct ttm64 *w, int k, double *core, int r_left, int r_right);

/* ttm64_tensor -- the full product as a tensor (m0 n0, m1 n1, ..): newly allocated, freed by the
 * caller with free(). A part of a chain (r[0] or r[d] > 1) keeps its outer ranks.
 * ttm_tensor_offsets -- where W[i, j] lies in it: at row[i] + col[j]; both arrays (prod m and prod n)
 * newly allocated.
 * Errors  ERR_NOMEM. */
int ttm64_tensor(double **out, const struct ttm64 *w, struct err *err);
void ttm_tensor_offsets(const struct ttm_shape *s, size_t **row, size_t **col);

/* ttm64_to_dense -- W (in, out) in double; `dense` is the caller's. Errors: ERR_NOMEM. */
int ttm64_to_dense(const struct ttm64 *w, double *dense, struct err *err);

#endif
