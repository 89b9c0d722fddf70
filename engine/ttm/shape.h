#ifndef TTMD_TTM_SHAPE_H
#define TTMD_TTM_SHAPE_H

#include <stddef.h>

#include "engine/base/err.h"

#define TTM_MAX_CORES 8
#define TTM_SHAPE_TEXT 256     /* bytes that hold any shape or rank list as text */
#define TTM_MAX_RANK (1 << 20) /* a larger rank is a malformed file */

/* The shape of a TTM weight W (in, out): core k is (r[k], m[k], n[k], r[k+1]), r[0] = r[d] = 1.
 * The multi-indices are row-major, index 0 the most significant. When the product of m exceeds
 * `in`, the input is padded with zeros; when that of n exceeds `out`, the output is cut. */
struct ttm_shape {
    int d; /* cores, 1..TTM_MAX_CORES */
    int m[TTM_MAX_CORES], n[TTM_MAX_CORES];
    int r[TTM_MAX_CORES + 1];
    int in, out; /* C_in, C_out of the layer */
};

/* ttm_shape_check -- everything the rest of this room relies on: 1..8 cores, factors and ranks >=
 * 1, r[0] = r[d] = 1, in <= prod m, out <= prod n, every product in range.
 *
 *   what  the layer or tensor, for the message: "h.3.mlp.c_fc"
 *
 * Errors  ERR_INVALID naming `what`, the core and field, the value and what was expected.
 */
int ttm_shape_check(const struct ttm_shape *s, const char *what, struct err *err);

/* ttm_shape_parse -- "(4,512)(192,6)" -> d, m, n; ranks become 1, in and out the products. Spaces
 * are allowed anywhere between tokens, a comma or an 'x' between cores. Errors  ERR_INVALID with
 * the position; *s untouched. */
int ttm_shape_parse(struct ttm_shape *s, const char *text, const char *what, struct err *err);

/* ttm_shape_format, ttm_shape_format_ranks -- "(4,512)(192,6)" and "1,128,1". */
void ttm_shape_format(const struct ttm_shape *s, char text[TTM_SHAPE_TEXT]);
void ttm_shape_format_ranks(const struct ttm_shape *s, char text[TTM_SHAPE_TEXT]);

/* ttm_pad -- the smallest number of the form 2^a 3^b that is >= n (n >= 1): the padded dimension in
 * the paper's factorisation. 1280 -> 1296, 1600 -> 1728, 5120 -> 5184, 6400 -> 6561; GPT-2 small's
 * and medium's dimensions are of that form already. 0 if there is none in the range of int. */
int ttm_pad(int n);

/* ttm_shape_paper -- the paper's factorisation for rank R: pad both dimensions, factorise them
 * ascending, pad the shorter list with ones at its end, pair them up, merge pairs from the left
 * until m*n >= R (what is left over is the last core). Ranks are R, capped from the left only, as
 * the authors store them.
 *
 * Errors  ERR_INVALID when a dimension or R is out of range or the rule gives over 8 cores.
 * Source  Chekalina et al. 2023, arXiv:2306.02697, and the authors' published code (facts).
 */
int ttm_shape_paper(struct ttm_shape *s, int in, int out, int rank, const char *what,
                    struct err *err);

/* ttm_shape_cap_left -- r[k+1] = min(rank, r[k] m[k] n[k]) from the left; the right end stays 1.
 * ttm_shape_cap_exact -- also r[k] <= m[k] n[k] r[k+1] from the right: the ranks that a lossless
 * rounding of such cores leaves. Both keep r[k] <= what it was / `rank`. */
void ttm_shape_cap_left(struct ttm_shape *s, int rank);
void ttm_shape_cap_exact(struct ttm_shape *s);

size_t ttm_shape_rows(const struct ttm_shape *s);        /* prod m, >= in */
size_t ttm_shape_cols(const struct ttm_shape *s);        /* prod n, >= out */
size_t ttm_shape_core(const struct ttm_shape *s, int k); /* elements of core k */
size_t ttm_shape_params(const struct ttm_shape *s);      /* elements of all cores */

/* ttm_shape_dense -- in * out, the parameters of the layer that the TTM stands for. */
size_t ttm_shape_dense(const struct ttm_shape *s);

#endif
