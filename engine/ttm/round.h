#ifndef TTMD_TTM_ROUND_H
#define TTMD_TTM_ROUND_H

#include "engine/base/err.h"
#include "engine/ttm/ttm.h"

/* Smaller ranks for the same or nearly the same matrix. All work in place; on failure the cores
 * hold some equivalent form of the matrix or are partly worked on: release them.
 *
 * Source  Oseledets 2011, "Tensor-Train decomposition", algorithm 2. */

/* ttm64_left_orthogonalise -- cores 0..upto-1 get orthonormal columns (as (r m n, r') matrices),
 * and ranks r[1..upto] fall to the left cap; W is unchanged. 0 <= upto < d.
 * ttm64_right_orthogonalise -- cores downto+1..d-1 get orthonormal rows (as (r, m n r')), ranks
 * fall to the right cap; W is unchanged. 0 <= downto < d. Errors  ERR_NOMEM. */
int ttm64_left_orthogonalise(struct ttm64 *w, int upto, struct err *err);
int ttm64_right_orthogonalise(struct ttm64 *w, int downto, struct err *err);

/* ttm64_push_right -- core k = q t by QR: q stays (orthonormal columns), t goes into core k+1; k + 1 < d.
 * ttm64_push_left -- core k = t q: q stays (orthonormal rows), t goes into core k-1; k > 0. */
int ttm64_push_right(struct ttm64 *w, int k, struct err *err);
int ttm64_push_left(struct ttm64 *w, int k, struct err *err);

/* ttm64_round_exact -- bring every rank to the cap from both sides, without any loss: afterwards
 * the shape is what ttm_shape_cap_exact() says. Cores at bonds within the caps are left as they are.
 * Errors: ERR_NOMEM. */
int ttm64_round_exact(struct ttm64 *w, struct err *err);

/* ttm64_round -- truncate by singular values.
 *
 *   max_error  relative Frobenius error allowed, >= 0; 0 cuts only what is zero in double
 *   max_rank   d+1 upper bounds for the ranks (ends ignored), or NULL; where they bind, the error
 * may exceed max_error error      the relative error reached, exact: the truncations are
 * orthogonal; may be NULL
 *
 * The smallest ranks that keep the bound are taken bond by bond from the left, each with an equal
 * share of the error that is left. A zero matrix becomes ranks of 1.
 * Errors  ERR_NOMEM; ERR_INVALID when W has NaN or infinity; ERR_INTERNAL (see la_svd()).
 */
int ttm64_round(struct ttm64 *w, double max_error, const int *max_rank, double *error,
                struct err *err);

/* ttm_round_exact -- ttm64_round_exact() of f32 cores into new ones, `out` initialised here. The
 * authors' stored ranks exceed the cap on the right: this is a smaller model, the same function. */
int ttm_round_exact(struct ttm *out, const struct ttm *w, const char *what, struct err *err);

/* ttm_keep -- how many of n descending singular values to keep so that the dropped ones' squares
 * sum to at most `budget` (squared error), at least 1 and at most max; *dropped = that sum. */
int ttm_keep(const double *s, int n, double budget, int max, double *dropped);

#endif
