/* Shapes are data from files, flags and searches, so that they are checked once, here, and trusted
 * afterwards: whoever holds a checked shape may multiply its numbers without looking for overflow.
 * The bound that gives this is 2^31 on every dimension product and 2^40 on the elements of a core.
 *
 * The authors' padded dimensions (1280 -> 1296 and so on) are exactly the next numbers whose only
 * prime factors are 2 and 3, which is what makes their pairs merge to cores of even size; that is
 * the rule implemented, and it leaves 768, 1024, 3072 and 4096 alone. */
#include "engine/ttm/shape.h"

#include <ctype.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/mem.h"

#define MAX_CORE_ELEMENTS ((size_t)1 << 40)

static int check_core(const struct ttm_shape *s, int k, const char *what, struct err *err)
{
    if (s->m[k] < 1)
        return err_set(err, ERR_INVALID, "%s: core %d has m = %d, expected >= 1", what, k, s->m[k]);
    if (s->n[k] < 1)
        return err_set(err, ERR_INVALID, "%s: core %d has n = %d, expected >= 1", what, k, s->n[k]);
    if (s->r[k + 1] < 1 || s->r[k + 1] > TTM_MAX_RANK)
        return err_set(err, ERR_INVALID, "%s: rank r[%d] = %d, expected 1..%d", what, k + 1,
                       s->r[k + 1], TTM_MAX_RANK);
    size_t e = (size_t)s->r[k];
    if (!mem_mul(e, (size_t)s->m[k], &e) || !mem_mul(e, (size_t)s->n[k], &e) ||
        !mem_mul(e, (size_t)s->r[k + 1], &e) || e > MAX_CORE_ELEMENTS)
        return err_set(err, ERR_INVALID, "%s: core %d of shape (%d,%d,%d,%d) is too large", what, k,
                       s->r[k], s->m[k], s->n[k], s->r[k + 1]);
    return 0;
}

static int check_dimension(const int *f, int d, int want, const char *side, const char *what,
                           struct err *err)
{
    size_t p = 1;
    for (int k = 0; k < d; k++)
        if (!mem_mul(p, (size_t)f[k], &p) || p > INT_MAX)
            return err_set(err, ERR_INVALID, "%s: the product of the %s factors exceeds %d", what,
                           side, INT_MAX);
    if (want < 1 || (size_t)want > p)
        return err_set(err, ERR_INVALID,
                       "%s: the %s factors multiply to %zu, expected at least the layer's %d", what,
                       side, p, want);
    return 0;
}

int ttm_shape_check(const struct ttm_shape *s, const char *what, struct err *err)
{
    if (s->d < 1 || s->d > TTM_MAX_CORES)
        return err_set(err, ERR_INVALID, "%s: %d cores, expected 1..%d", what, s->d, TTM_MAX_CORES);
    if (s->r[0] != 1)
        return err_set(err, ERR_INVALID, "%s: the first core's left rank is %d, expected 1", what,
                       s->r[0]);
    for (int k = 0; k < s->d; k++) {
        int rc = check_core(s, k, what, err);
        if (rc) return rc;
    }
    if (s->r[s->d] != 1)
        return err_set(err, ERR_INVALID, "%s: the last core's right rank is %d, expected 1", what,
                       s->r[s->d]);
    int rc = check_dimension(s->m, s->d, s->in, "input", what, err);
    return rc ? rc : check_dimension(s->n, s->d, s->out, "output", what, err);
}

static const char *skip_space(const char *p)
{
    while (isspace((unsigned char)*p))
        p++;
    return p;
}

/* "(4,512)" at *at: 0 and *at behind it, or -1 and *at where it stopped. */
static int parse_core(const char **at, int *m, int *n)
{
    static const char punctuation[] = "(,)";
    int *out[] = {m, n};
    const char *p = skip_space(*at);
    for (int i = 0; i < 3; i++) {
        *at = p;
        if (*p != punctuation[i]) return -1;
        p = skip_space(p + 1);
        if (i == 2) break;
        char *end;
        long v = isdigit((unsigned char)*p) ? strtol(p, &end, 10) : 0;
        *at = p;
        if (v < 1 || v > INT_MAX) return -1;
        *out[i] = (int)v;
        p = skip_space(end);
    }
    *at = p;
    return 0;
}

int ttm_shape_parse(struct ttm_shape *s, const char *text, const char *what, struct err *err)
{
    struct ttm_shape t = {.r = {1}, .in = 1, .out = 1};
    const char *p = skip_space(text);
    do {
        if (t.d == TTM_MAX_CORES)
            return err_set(err, ERR_INVALID, "%s: shape \"%s\" has more than %d cores", what, text,
                           TTM_MAX_CORES);
        if (parse_core(&p, &t.m[t.d], &t.n[t.d]))
            return err_set(err, ERR_INVALID,
                           "%s: shape \"%s\" is malformed at character %zu, expected cores like "
                           "(4,512)(192,6) with factors >= 1",
                           what, text, (size_t)(p - text) + 1);
        t.r[++t.d] = 1;
        if (*p == ',' || *p == 'x')
            p = skip_space(p + 1);
        else if (!*p)
            break;
    } while (1);
    int rc = ttm_shape_check(&t, what, err);
    if (rc) return rc;
    t.in = (int)ttm_shape_rows(&t);
    t.out = (int)ttm_shape_cols(&t);
    *s = t;
    return 0;
}

void ttm_shape_format(const struct ttm_shape *s, char text[TTM_SHAPE_TEXT])
{
    size_t at = 0;
    for (int k = 0; k < s->d && at < TTM_SHAPE_TEXT; k++)
        at += (size_t)snprintf(text + at, TTM_SHAPE_TEXT - at, "(%d,%d)", s->m[k], s->n[k]);
}

void ttm_shape_format_ranks(const struct ttm_shape *s, char text[TTM_SHAPE_TEXT])
{
    size_t at = 0;
    for (int k = 0; k <= s->d && at < TTM_SHAPE_TEXT; k++)
        at += (size_t)snprintf(text + at, TTM_SHAPE_TEXT - at, "%s%d", k ? "," : "", s->r[k]);
}

int ttm_pad(int n)
{
    int64_t best = INT64_MAX;
    for (int64_t p3 = 1; p3 <= INT_MAX; p3 *= 3) {
        int64_t v = p3;
        while (v < n)
            v *= 2;
        if (v < best) best = v;
    }
    return best <= INT_MAX ? (int)best : 0;
}

/* The prime factors of a number 2^a 3^b, ascending; returns how many. */
static int factorise(int v, int f[32])
{
    int n = 0;
    for (int p = 2; p <= 3; p++)
        for (; v % p == 0; v /= p)
            f[n++] = p;
    return n;
}

/* Close the core that is being merged: 0, or -1 when there is no room for it. */
static int close_core(struct ttm_shape *s, int *m, int *n)
{
    if (s->d == TTM_MAX_CORES) return -1;
    s->m[s->d] = *m;
    s->n[s->d++] = *n;
    *m = *n = 1;
    return 0;
}

int ttm_shape_paper(struct ttm_shape *s, int in, int out, int rank, const char *what,
                    struct err *err)
{
    if (in < 1 || out < 1 || rank < 1 || rank > TTM_MAX_RANK || !ttm_pad(in) || !ttm_pad(out))
        return err_set(err, ERR_INVALID, "%s: no TTM shape for (%d,%d) at rank %d", what, in, out,
                       rank);
    int fm[32], fn[32];
    int cm = factorise(ttm_pad(in), fm), cn = factorise(ttm_pad(out), fn);
    struct ttm_shape t = {.in = in, .out = out};
    int m = 1, n = 1, full = 0;
    for (int i = 0; i < cm || i < cn; i++) {
        if (i < cm) m *= fm[i];
        if (i < cn) n *= fn[i];
        if ((int64_t)m * n >= rank) full |= close_core(&t, &m, &n);
    }
    if (m > 1 || n > 1 || !t.d) full |= close_core(&t, &m, &n);
    if (full)
        return err_set(err, ERR_INVALID, "%s: rank %d factorises (%d,%d) into more than %d cores",
                       what, rank, in, out, TTM_MAX_CORES);
    ttm_shape_cap_left(&t, rank);
    int rc = ttm_shape_check(&t, what, err);
    if (!rc) *s = t;
    return rc;
}

static int capped(int rank, int a, int b, int c)
{
    int64_t full = (int64_t)a * b; /* below 2^62; the third factor may only enlarge it */
    if (full >= rank || full * c >= rank) return rank;
    return (int)(full * c);
}

void ttm_shape_cap_left(struct ttm_shape *s, int rank)
{
    s->r[0] = s->r[s->d] = 1;
    for (int k = 0; k + 1 < s->d; k++)
        s->r[k + 1] = capped(rank, s->m[k], s->n[k], s->r[k]);
}

void ttm_shape_cap_exact(struct ttm_shape *s)
{
    for (int k = 0; k + 1 < s->d; k++)
        s->r[k + 1] = capped(s->r[k + 1], s->m[k], s->n[k], s->r[k]);
    for (int k = s->d - 1; k > 0; k--)
        s->r[k] = capped(s->r[k], s->m[k], s->n[k], s->r[k + 1]);
}

static size_t product(const int *f, int d)
{
    size_t p = 1;
    for (int k = 0; k < d; k++)
        p *= (size_t)f[k];
    return p;
}

size_t ttm_shape_rows(const struct ttm_shape *s)
{
    return product(s->m, s->d);
}

size_t ttm_shape_cols(const struct ttm_shape *s)
{
    return product(s->n, s->d);
}

size_t ttm_shape_core(const struct ttm_shape *s, int k)
{
    return (size_t)s->r[k] * (size_t)s->m[k] * (size_t)s->n[k] * (size_t)s->r[k + 1];
}

size_t ttm_shape_params(const struct ttm_shape *s)
{
    size_t sum = 0;
    for (int k = 0; k < s->d; k++)
        sum += ttm_shape_core(s, k);
    return sum;
}

size_t ttm_shape_dense(const struct ttm_shape *s)
{
    return (size_t)s->in * (size_t)s->out;
}
