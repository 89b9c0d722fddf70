#ifndef TTMD_KERNELS_KERNELS_H
#define TTMD_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/cpu.h"
#include "engine/base/dtype.h"
#include "engine/kernels/int8.h"
#include "engine/kernels/pack.h"

/* Arithmetic on rows: one table of functions per instruction set, chosen once per process, with a
 * scalar reference beside it.
 *
 * The rule that everything here keeps: the result for a row is a function of that row and of the
 * weights alone, bit for bit. Sums over k run in the order of k whatever the number of rows and
 * wherever a row stands in its block. That is what makes an answer independent of the batch. */

enum act { ACT_NONE, ACT_GELU_NEW, ACT_GELU_ERF, ACT_RELU };

/* What happens to a finished sum s[j] before it is stored: y = act(s + bias[j]) + residual. With
 * `start` the sums begin there instead of at 0, so that a long sum over k may be made in pieces: the
 * bits are those of one piece. */
struct epilogue {
    const float *bias; /* (n) f32, or NULL */
    enum act act;
    const float *residual; /* (rows, n) f32 with stride ldr, or NULL; may be y itself */
    size_t ldr;            /* floats */
    const float *start;    /* (rows, n) f32 with stride lds, or NULL; may be y itself */
    size_t lds;            /* floats */
    const void *next;      /* where the caller's next weights lie, or NULL: only prefetched */
};

/* One tile of attention: nq successive queries of one sequence and one head. The keys and values
 * lie in blocks of KV_BLOCK positions: block b of the sequence is at kv + blocks[b]*block_bytes,
 * and in it the head's K tile (d, KV_BLOCK) at k_offset and its V tile (KV_BLOCK, dp) at v_offset,
 * dp = d rounded up to KV_LANES. Positions beyond a query's own are never read for it (causal).
 *
 * Elements are f32, f16, or int8 with a scale for each position and head, in the tile's last KV_BLOCK
 * floats. Keys in int8 lie as (quads of d, KV_BLOCK, 4), the shifts of int8.h between them and the scales,
 * values as (quads of positions, dp, 4); queries and weights become whole numbers, too. */
#define KV_LANES 16
#define KV_DTYPES 3
#define ATTEND_MAX_Q 8

/* kv_dp -- d rounded up to KV_LANES: the channels of a V tile. */
static inline size_t kv_dp(size_t d)
{
    return (d + KV_LANES - 1) / KV_LANES * KV_LANES;
}

/* kv_slot -- of an element type of keys and values (F32, F16, I8) in the tables below. */
static inline int kv_slot(enum dtype t)
{
    return t == DTYPE_I8 ? 2 : t == DTYPE_F16;
}

/* kv_k_bytes, kv_v_bytes -- of a tile, with what belongs to it; multiples of 64. */
static inline size_t kv_k_bytes(size_t d, enum dtype t)
{
    if (t == DTYPE_I8)
        return KV_BLOCK * (int8_quads(d) * INT8_QUAD + sizeof(int32_t) + sizeof(float));
    return (d * KV_BLOCK * dtype_size(t) + 63) / 64 * 64;
}

static inline size_t kv_v_bytes(size_t dp, enum dtype t)
{
    return KV_BLOCK * (dp * dtype_size(t) + (t == DTYPE_I8 ? sizeof(float) : 0));
}

/* Keys and values of successive positions that one tile of each takes. */
struct kv_rows {
    int t, n; /* columns [t, t + n) of KV_BLOCK */
    int d;
    const float *k, *v; /* (n, d) f32, both with stride ld floats; borrowed */
    size_t ld;
};

struct attend {
    const float *q; /* (nq, d), stride ldq floats; borrowed */
    size_t ldq;
    float *out; /* (nq, d), stride ldo floats; overwritten */
    size_t ldo;
    int nq;                /* 1..ATTEND_MAX_Q */
    int pos0;              /* position of the first query; query i attends to 0..pos0+i */
    int d;                 /* head size */
    float scale;           /* multiplies q.k */
    const void *kv;        /* base of the block store; borrowed */
    const int32_t *blocks; /* block numbers of this sequence; borrowed */
    size_t block_bytes, k_offset, v_offset;
    size_t next; /* bytes from here to the next head's tiles, 0 = unknown; only prefetched */
    const struct int8_kernels *int8; /* for keys in int8; borrowed */
    float *scratch;                  /* >= attend_scratch_floats(), 64-byte aligned; borrowed */
};

static inline size_t attend_scratch_floats(int d, int positions)
{
    size_t pp = ((size_t)positions + KV_BLOCK - 1) / KV_BLOCK * KV_BLOCK;
    return ATTEND_MAX_Q * (2 * kv_dp((size_t)d) + pp) + 64;
}

struct kernels {
    const char *name; /* "avx512", "avx2", "neon", "scalar" */

    /* panel -- y[r][0..cols) = epilogue(x[r] . panel) for `rows` rows and one panel of PACK_N columns;
     * indexed by dtype F32, F16, BF16.
     *   x      (rows, k) f32, stride ldx      panel  (k, PACK_N) of that dtype
     *   y      (rows, cols) f32, stride ldy; cols <= PACK_N; e never NULL, its pointers at column 0 */
    void (*panel[3])(const float *x, size_t ldx, size_t rows, const void *panel, size_t k, float *y,
                     size_t ldy, size_t cols, const struct epilogue *e);

    /* panel_int8 -- the same for quantised rows and weights: the sum is the exact one of whole numbers, times
     * the row's scale, times the column's, plus e->start, the last two rounded once. */
    void (*panel_int8)(const struct int8_kernels *int8, const struct int8_rows *x, size_t rows,
                       const struct int8_panel *p, float *y, size_t ldy, size_t cols,
                       const struct epilogue *e);
    const struct int8_kernels *int8;

    /* quantise -- q[i] = INT8_ZERO + round(x[i] / scale), *scale = max |x| / 127, for i < n; INT8_ZERO from
     * there to `padded`. Rounds to nearest even; the same bits in every table. A row with a NaN or an
     * infinity gets the scale NaN, one below INT8_LEAST throughout is all zero. */
    void (*quantise)(uint8_t *q, size_t padded, float *scale, const float *x, size_t n);

    /* layer_norm -- y = (x - mean) / sqrt(var + eps) * w + b over n channels; y may be x. */
    void (*layer_norm)(float *y, const float *x, const float *w, const float *b, float eps,
                       size_t n);

    /* activate -- x[i] = act(x[i]), in place; the same function that the epilogue applies. */
    void (*activate)(float *x, size_t n, enum act act);

    /* finish_row -- y[i] = act(x[i] + bias[i]) + residual[i], i < n, as the epilogue of a product; e's pointers at this
     * row, each may be NULL. y may be x or the residual. */
    void (*finish_row)(float *y, const float *x, size_t n, const struct epilogue *e);

    /* transpose -- dst[c * ldd + r] = src[r * lds + c], r < rows, c < cols; ldd and lds in floats. */
    void (*transpose)(float *dst, size_t ldd, const float *src, size_t lds, size_t rows,
                      size_t cols);

    /* max -- the largest of x[0..n), n > 0; NaN is treated as -infinity. */
    float (*max)(const float *x, size_t n);

    /* argmax -- its index, the lowest one among equals. */
    size_t (*argmax)(const float *x, size_t n);

    /* sum_exp -- sum of exp(x[i] - shift), in double where it adds up. */
    double (*sum_exp)(const float *x, size_t n, float shift);

    /* exp_to -- y[i] = exp((x[i] - shift) * scale); y may be x. Returns the sum. */
    double (*exp_to)(float *y, const float *x, size_t n, float shift, float scale);

    /* dot -- the inner product of a[0..n) and b[0..n). */
    float (*dot)(const float *a, const float *b, size_t n);

    /* attend -- out[i] = softmax(scale * q[i] K^T) V; indexed by kv_slot(). */
    void (*attend[KV_DTYPES])(const struct attend *a);

    /* kv_put -- store keys and values of one head: k[0..d) of a position into its column of the K tile, v[0..d)
     * into its row of the V tile (whose padding lanes are set to zero). Indexed by kv_slot(); int8 as by
     * quantise() without INT8_ZERO: x ~ element * scale of the position, each of the two with its scale. */
    void (*kv_put[KV_DTYPES])(void *k_tile, void *v_tile, const struct kv_rows *in);
};

/* kernels_scalar -- the reference: plain loops, the same order of summation; never NULL. */
const struct kernels *kernels_scalar(void);

/* kernels_choose -- the fastest table that this CPU runs. `force` NULL, or a table's name ("scalar",
 * "avx2"), also with that of its 8-bit products ("avx512+avx512vnni" where "avx512" would take tiles): tests
 * and --kernels; NULL is returned if that one is unknown or cannot run here. */
const struct kernels *kernels_choose(const struct cpu *c, const char *force);

#endif
