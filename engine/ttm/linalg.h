#ifndef TTMD_TTM_LINALG_H
#define TTMD_TTM_LINALG_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/err.h"

/* Dense algebra in double for the TTM's decompositions: the one door to BLAS and LAPACK in this
 * room. All matrices are row-major without gaps between rows. Large memory is asked for here, too,
 * so that a decomposition too big for the machine is an ERR_NOMEM and not a crash. */

/* la_alloc -- n doubles, zeroed; freed with free().
 * Errors  ERR_NOMEM naming `what` and the bytes. *out untouched. */
int la_alloc(double **out, size_t n, const char *what, struct err *err);

/* la_gemm -- c (m,n) = alpha op(a) op(b) + beta c; op(a) is (m,k), op(b) (k,n). ta: a is stored as
 * its transpose (k,m); tb likewise. */
void la_gemm(bool ta, bool tb, size_t m, size_t n, size_t k, double alpha, const double *a,
             const double *b, double beta, double *c);

/* la_qr -- a (m,n) = q (m,p) r (p,n), p = min(m,n), q with orthonormal columns.
 * la_lq -- a (m,n) = l (m,p) q (p,n), q with orthonormal rows.
 *
 *   a     destroyed
 *   q, r, l  overwritten; none may alias a
 *
 * Errors  ERR_NOMEM; ERR_INVALID when a dimension exceeds LAPACK's integers.
 */
int la_qr(size_t m, size_t n, double *a, double *q, double *r, struct err *err);
int la_lq(size_t m, size_t n, double *a, double *l, double *q, struct err *err);

/* la_svd -- a (m,n) = u (m,p) diag(s) vt (p,n), p = min(m,n), s descending.
 *
 *   a          destroyed
 *   u, s, vt   overwritten
 *
 * Errors  ERR_NOMEM; ERR_INVALID when a has a NaN or infinity or is too large; ERR_INTERNAL when
 *         neither of LAPACK's two algorithms converges.
 */
int la_svd(size_t m, size_t n, double *a, double *u, double *s, double *vt, struct err *err);

/* la_dot, la_norm -- sums over n numbers. */
double la_dot(size_t n, const double *a, const double *b);
double la_norm(size_t n, const double *a);

#endif
