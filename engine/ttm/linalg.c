/* LAPACK counts columns first, we count rows first: a row-major (m,n) matrix is LAPACK's (n,m)
 * transpose, so that a QR here is an LQ there and the factors of an SVD change places. No matrix is
 * ever transposed in memory for that.
 *
 * LAPACK's Fortran interface is declared here by hand: the C wrapper is a package of its own in the
 * distributions, and copies. dgesdd is several times faster than dgesvd but fails, rarely, to
 * converge; then the slower one is tried on a copy. */
#include "engine/ttm/linalg.h"

#include <cblas.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

void dgelqf_(const int *m, const int *n, double *a, const int *lda, double *tau, double *work,
             const int *lwork, int *info);
void dorglq_(const int *m, const int *n, const int *k, double *a, const int *lda, const double *tau,
             double *work, const int *lwork, int *info);
void dgeqrf_(const int *m, const int *n, double *a, const int *lda, double *tau, double *work,
             const int *lwork, int *info);
void dorgqr_(const int *m, const int *n, const int *k, double *a, const int *lda, const double *tau,
             double *work, const int *lwork, int *info);
void dgesdd_(const char *jobz, const int *m, const int *n, double *a, const int *lda, double *s,
             double *u, const int *ldu, double *vt, const int *ldvt, double *work, const int *lwork,
             int *iwork, int *info, size_t jobz_len);
void dgesvd_(const char *jobu, const char *jobvt, const int *m, const int *n, double *a,
             const int *lda, double *s, double *u, const int *ldu, double *vt, const int *ldvt,
             double *work, const int *lwork, int *info, size_t jobu_len, size_t jobvt_len);

int la_alloc(double **out, size_t n, const char *what, struct err *err)
{
    size_t bytes;
    double *p = mem_mul(n ? n : 1, sizeof *p, &bytes) ? calloc(1, bytes) : NULL;
    if (!p) return err_set(err, ERR_NOMEM, "%s: no memory for %zu numbers of 8 bytes", what, n);
    *out = p;
    return 0;
}

static int check_size(size_t m, size_t n, struct err *err)
{
    if (m < 1 || n < 1 || m > INT_MAX || n > INT_MAX)
        return err_set(err, ERR_INVALID, "matrix of %zu x %zu: each side must be 1..%d", m, n,
                       INT_MAX);
    return 0;
}

void la_gemm(bool ta, bool tb, size_t m, size_t n, size_t k, double alpha, const double *a,
             const double *b, double beta, double *c)
{
    if (!m || !n) return;
    BUG_ON(m > INT_MAX || n > INT_MAX || k > INT_MAX);
    cblas_dgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans,
                (int)m, (int)n, (int)k, alpha, a, (int)(ta ? m : k), b, (int)(tb ? k : n), beta, c,
                (int)n);
}

/* dgelqf and dgeqrf, dorglq and dorgqr take the same arguments. */
typedef void factor_fn(const int *, const int *, double *, const int *, double *, double *,
                       const int *, int *);
typedef void form_fn(const int *, const int *, const int *, double *, const int *, const double *,
                     double *, const int *, int *);

/* Factor the column-major (rows, cols) a in place, hand the triangular part to `keep`, then form
 * the orthogonal factor in a's place. */
static int factor(factor_fn *fact, form_fn *form, int rows, int cols, double *a, bool lq,
                  void (*keep)(int, int, const double *, double *), double *tri, struct err *err)
{
    int p = rows < cols ? rows : cols, info = 0, query = -1;
    double want1 = 0, want2 = 0;
    fact(&rows, &cols, a, &rows, &want1, &want1, &query, &info);
    int form_rows = lq ? p : rows, form_cols = lq ? cols : p;
    form(&form_rows, &form_cols, &p, a, &rows, &want2, &want2, &query, &info);
    int lwork = (int)fmax(fmax(want1, want2), 1);
    double *work = NULL;
    int rc = la_alloc(&work, (size_t)lwork + (size_t)p, "orthogonalisation", err);
    if (rc) return rc;
    double *tau = work + lwork;
    fact(&rows, &cols, a, &rows, tau, work, &lwork, &info);
    keep(rows, cols, a, tri);
    form(&form_rows, &form_cols, &p, a, &rows, tau, work, &lwork, &info);
    free(work);
    BUG_ON(info != 0); /* only an illegal argument can be reported */
    return 0;
}

/* a = column-major (n,m) seen as the row-major (m,n); its L is our R: (p,n), upper. */
static void keep_r(int n, int m, const double *a, double *r)
{
    int p = m < n ? m : n;
    memset(r, 0, (size_t)p * (size_t)n * sizeof *r);
    for (int i = 0; i < p; i++)
        memcpy(r + (size_t)i * (size_t)n + i, a + (size_t)i * (size_t)n + i,
               (size_t)(n - i) * sizeof *r);
}

/* The same for the column-major R: our L (m,p), lower. */
static void keep_l(int n, int m, const double *a, double *l)
{
    int p = m < n ? m : n;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < p; j++)
            l[(size_t)i * (size_t)p + (size_t)j] =
                j <= i ? a[(size_t)i * (size_t)n + (size_t)j] : 0.0;
}

int la_qr(size_t m, size_t n, double *a, double *q, double *r, struct err *err)
{
    int rc = check_size(m, n, err);
    if (rc) return rc;
    rc = factor(dgelqf_, dorglq_, (int)n, (int)m, a, true, keep_r, r, err);
    if (rc) return rc;
    size_t p = m < n ? m : n;
    for (size_t i = 0; i < m; i++)
        memcpy(q + i * p, a + i * n, p * sizeof *q);
    return 0;
}

int la_lq(size_t m, size_t n, double *a, double *l, double *q, struct err *err)
{
    int rc = check_size(m, n, err);
    if (rc) return rc;
    rc = factor(dgeqrf_, dorgqr_, (int)n, (int)m, a, false, keep_l, l, err);
    if (rc) return rc;
    memcpy(q, a, (m < n ? m : n) * n * sizeof *q);
    return 0;
}

/* Our (m,n) = U S Vt is LAPACK's (n,m) = V S Ut: its u is our vt, its vt our u. */
static int svd_dgesdd(int n, int m, double *a, double *u, double *s, double *vt, int *info,
                      struct err *err)
{
    int p = m < n ? m : n, query = -1, lwork;
    int *iwork = mem_alloc(8 * (size_t)p * sizeof *iwork);
    double want = 0, *work = NULL;
    dgesdd_("S", &n, &m, a, &n, s, vt, &n, u, &p, &want, &query, iwork, info, 1);
    lwork = (int)fmin(fmax(want, 1), INT_MAX);
    int rc = la_alloc(&work, (size_t)lwork, "singular value decomposition", err);
    if (!rc) {
        dgesdd_("S", &n, &m, a, &n, s, vt, &n, u, &p, work, &lwork, iwork, info, 1);
        free(work);
    }
    free(iwork);
    return rc;
}

static int svd_dgesvd(int n, int m, double *a, double *u, double *s, double *vt, int *info,
                      struct err *err)
{
    int p = m < n ? m : n, query = -1, lwork;
    double want = 0, *work = NULL;
    dgesvd_("S", "S", &n, &m, a, &n, s, vt, &n, u, &p, &want, &query, info, 1, 1);
    lwork = (int)fmin(fmax(want, 1), INT_MAX);
    int rc = la_alloc(&work, (size_t)lwork, "singular value decomposition", err);
    if (!rc) {
        dgesvd_("S", "S", &n, &m, a, &n, s, vt, &n, u, &p, work, &lwork, info, 1, 1);
        free(work);
    }
    return rc;
}

int la_svd(size_t m, size_t n, double *a, double *u, double *s, double *vt, struct err *err)
{
    int rc = check_size(m, n, err);
    if (rc) return rc;
    for (size_t i = 0; i < m * n; i++)
        if (!isfinite(a[i]))
            return err_set(err, ERR_INVALID, "a matrix to decompose has the value %g", a[i]);
    double *copy = NULL;
    rc = la_alloc(&copy, m * n, "singular value decomposition", err);
    if (rc) return rc;
    memcpy(copy, a, m * n * sizeof *a);
    int info = 0;
    rc = svd_dgesdd((int)n, (int)m, a, u, s, vt, &info, err);
    if (!rc && info) rc = svd_dgesvd((int)n, (int)m, copy, u, s, vt, &info, err);
    if (!rc && info)
        rc = err_set(err, ERR_INTERNAL, "the SVD of a %zu x %zu matrix did not converge", m, n);
    free(copy);
    return rc;
}

double la_dot(size_t n, const double *a, const double *b)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += a[i] * b[i];
    return s;
}

double la_norm(size_t n, const double *a)
{
    return sqrt(la_dot(n, a, a));
}
