#ifndef TTMD_KERNELS_INT8_H
#define TTMD_KERNELS_INT8_H

#include <stddef.h>
#include <stdint.h>

/* Products of 8-bit numbers. Inputs are quantised row by row, weights column by column (pack.h):
 *
 *     x[r][i] ~ (q[r][i] - INT8_ZERO) * scale[r]      q in 1..255
 *     w[i][j] ~ b[i][j] * scale[j]                    b in -128..127
 *     x . w   ~ scale[r] * scale[j] * sum over i of (q - INT8_ZERO) b
 *
 * The sums are whole numbers in 32 bits and exact, so that every instruction set gives the same ones and
 * no order matters. Inputs are stored unsigned because x86's dot product takes unsigned times signed;
 * what the offset adds to a sum, INT8_ZERO times the column's sum, is known beforehand. */
#define INT8_ZERO 128
#define INT8_QUAD 4      /* values of k that lie together: what one lane of a dot product takes */
#define INT8_MAX_K 65536 /* 255 * 128 * k fits in 31 bits */
#define INT8_LEAST 0x1p-100F /* rows and columns of nothing larger count as zero */
#define KV_BLOCK 16          /* positions of a tile of keys or values (kernels.h) */

static inline size_t int8_quads(size_t k)
{
    return (k + INT8_QUAD - 1) / INT8_QUAD;
}

/* Quantised rows; borrowed. Beyond k they are INT8_ZERO up to whole quads. */
struct int8_rows {
    const uint8_t *q; /* (rows, INT8_QUAD * quads), stride ld bytes */
    size_t ld;
    const float *scale; /* (rows) */
};

/* One panel of weights, PACK_N columns; borrowed. */
struct int8_panel {
    const int8_t *w; /* (quads, PACK_N, INT8_QUAD) */
    size_t quads;
    const float *scale;   /* (PACK_N) */
    const int32_t *shift; /* (PACK_N) -INT8_ZERO times the sum of the column */
    const void *next;     /* where the caller's next weights lie, or NULL: only prefetched */
};

/* Weights for values: whole numbers in two digits of 7 bits, which every instruction set can take for signed
 * ones, too. */
#define INT8_DIGIT 128
#define INT8_WEIGHT (INT8_DIGIT * INT8_DIGIT - 1) /* the largest */
#define INT8_MAX_POSITIONS 131072                 /* 127 * 128 times as many fits in 31 bits */

/* Keys of some positions of one head; borrowed. A tile is (quads, KV_BLOCK, INT8_QUAD) int8, then (KV_BLOCK) int32
 * shifts as a panel's. */
struct int8_keys {
    const void *const *tile; /* (n) */
    size_t n, quads;
    size_t next; /* bytes from a tile to what is wanted after it, or 0: only prefetched */
};

/* The values of all positions of one head, a tile of KV_BLOCK after the other; borrowed. */
struct int8_values {
    const char *base; /* tile j is at base + blocks[j] * block_bytes */
    const int32_t *blocks;
    size_t block_bytes;
    size_t n;        /* tiles, each (KV_BLOCK / INT8_QUAD, channels, INT8_QUAD) int8 */
    size_t channels; /* a multiple of 16 */
    size_t next;     /* as for keys */
};

/* What differs between instruction sets; all give the same numbers. */
struct int8_kernels {
    const char *name; /* "amx", "avx512vnni", "avxvnni", "avx2", "neondot", "neon", "scalar" */

    /* sums -- out[r][j] = sum over i of (q[r][i] - INT8_ZERO) * w[i][j], exactly.
     *   x    only q and ld are read     out  (rows, PACK_N) int32, overwritten */
    void (*sums)(const struct int8_rows *x, size_t rows, const struct int8_panel *p, int32_t *out);

    /* keys -- queries times keys: out[r][j * KV_BLOCK + p] = sum over i of (q[r][i] - INT8_ZERO) * key p of
     * tile j, exactly.
     *   q    (rows <= 8, INT8_QUAD * quads), stride ld bytes
     *   out  (rows, n * KV_BLOCK) int32, stride ldo; overwritten */
    void (*keys)(const uint8_t *q, size_t ld, size_t rows, const struct int8_keys *k, int32_t *out,
                 size_t ldo);

    /* values -- weighted sums of values: out[2 r + s][c] = sum over positions of digit s of row r there times
     * value c, exactly.
     *   digits  (rows <= 8, n, 2, KV_BLOCK), the high ones first, stride ld bytes
     *   out     (2 * rows, channels) int32, overwritten */
    void (*values)(const struct int8_values *v, const uint8_t *digits, size_t ld, size_t rows,
                   int32_t *out);

    /* spin -- products in registers alone, to measure what the machine could do: n turns of `turn_ops`
     * operations (2 per multiplication). Returns a number that depends on all of them. */
    size_t turn_ops;
    int32_t (*spin)(size_t n);
};

extern const struct int8_kernels int8_scalar;
#if defined(__x86_64__)
extern const struct int8_kernels int8_avx2, int8_avxvnni, int8_avx512vnni, int8_amx;
#elif defined(__aarch64__)
extern const struct int8_kernels int8_neon, int8_neondot;
#endif

#endif
