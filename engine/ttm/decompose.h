#ifndef TTMD_TTM_DECOMPOSE_H
#define TTMD_TTM_DECOMPOSE_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/err.h"
#include "engine/ttm/ttm.h"

/* From a dense matrix to a TTM: TT-SVD of one layer, a parameter budget spread over the layers of a
 * model, and a refinement that minimises the error of the layer's outputs. */

/* ttm_decompose -- TT-SVD of W.
 *
 *   out        initialised here; orthonormal columns in every core but the last
 *   dense      (in, out) f32, row-major; borrowed; padded with zeros to the shape
 *   shape      d, m, n, in, out; its ranks are ignored
 *   max_rank   d+1 upper bounds (ends ignored; 0 = none), or NULL
 *   max_error  relative Frobenius error allowed where max_rank does not bind; 0 = exact
 *   error      the relative error reached, exact; with padding an upper bound, since errors in what is
 *              cut off count; may be NULL
 *
 * Errors  ERR_INVALID (shape, NaN or infinity in W), ERR_NOMEM, ERR_INTERNAL (see la_svd()).
 * Source  Oseledets 2011, algorithm 1.
 */
int ttm_decompose(struct ttm64 *out, const float *dense, const struct ttm_shape *shape,
                  const int *max_rank, double max_error, double *error, const char *what,
                  struct err *err);

/* The singular values of a layer at each bond, i.e. of W's unfoldings after cores 0..k-1. The squared
 * error of cutting every bond k to rank r[k] is at most the sum of the squares of what is cut. */
struct ttm_spectrum {
    struct ttm_shape shape;       /* ranks: the number of values at each bond */
    double *s[TTM_MAX_CORES + 1]; /* s[k], k = 1..d-1: descending, shape.r[k] of them; owned */
    double norm;                  /* of W */
};

/* ttm_spectrum_init -- the spectra of W under a shape; arguments as in ttm_decompose().
 * Cost    one SVD per bond, without truncation. */
int ttm_spectrum_init(struct ttm_spectrum *out, const float *dense, const struct ttm_shape *shape,
                      const char *what, struct err *err);
void ttm_spectrum_release(struct ttm_spectrum *s);

/* ttm_spectrum_error -- sqrt of the bound above, relative to the norm, for the ranks of *shape. */
double ttm_spectrum_error(const struct ttm_spectrum *s, const struct ttm_shape *shape);

/* ttm_budget -- spread `params` parameters over n layers: from ranks of 1, the next singular value is
 * always bought where it removes the largest relative squared error per parameter, until nothing
 * more fits. All singular values of all bonds of all layers compete in this one order; neighbouring
 * bonds may be raised together, since their prices depend on each other.
 *
 *   shape   (n) out: the layers' shapes with the chosen ranks, within the exact cap
 *   weight  (n) how much a layer's squared error counts, > 0; NULL = all alike
 *   used    parameters used; may be NULL
 *
 * Optimal when every layer has two cores of the same sizes; greedy, hence near it, otherwise.
 * Errors  ERR_INVALID when ranks of 1 already exceed the budget; the message has both numbers.
 */
int ttm_budget(struct ttm_shape *shape, const struct ttm_spectrum *spectrum, const double *weight,
               int n, size_t params, size_t *used, struct err *err);

/* ttm_refine -- alternating least squares: minimise || X (W - W') ||_F over one core of W' after the
 * other, back and forth, S = X^T X being the second moments of the layer's inputs. Each core's
 * problem is solved by conjugate gradients from where it is, so that the error never grows.
 *
 *   w        the TTM, in and out (e.g. from ttm_decompose()); ranks above the cap are cut, losslessly
 *   dense    W (in, out) f32; borrowed
 *   s        S (in, in), symmetric positive semidefinite; borrowed; NULL = identity
 *   options  below
 *   before, after  relative errors || X (W - W') || / || X W ||; after <= before; may be NULL
 *
 * Errors  ERR_NOMEM; ERR_INVALID when S has NaN or infinity or a negative diagonal. *w is then some
 *         equivalent or better form of what it was.
 */
struct ttm_refine_options {
    int sweeps;       /* back and forth is two; 0 = 4 */
    int steps;        /* conjugate gradient steps per core; 0 = 20 */
    double ridge;     /* added to S's diagonal, relative to its mean: what inputs that were never
                       * seen count; 0 = 1e-6 */
    double tolerance; /* stop when a sweep improves by less, relatively; 0 = 1e-4 */
};
int ttm_refine(struct ttm64 *w, const float *dense, const double *s,
               const struct ttm_refine_options *options, double *before, double *after,
               struct err *err);

#endif
