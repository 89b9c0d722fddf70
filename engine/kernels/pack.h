#ifndef TTMD_KERNELS_PACK_H
#define TTMD_KERNELS_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"
#include "engine/base/err.h"

/* A weight matrix in the layout that the kernels stream:
 *
 *     W (K, N)  ->  panels of PACK_N columns:  panel p, row k:  W[k][p*PACK_N .. +PACK_N)
 *
 *     data:  | k=0: 32 columns | k=1: 32 columns | ... | k=K-1 |   panel 0, contiguous
 *            | ...                                     |           panel 1
 *
 * The last panel is padded with zero columns. Element type F32, F16 or BF16 (products and sums are f32
 * then), or I8: a panel is then (quads of k, 32 columns, 4 values of k), zero beyond K, and behind all
 * panels lie each column's scale and what int8.h calls its shift. The layout is the same for every
 * instruction set. */
#define PACK_N 32

/* How far ahead of their use kernels that stream panels ask for weights from memory. */
#define PACK_AHEAD_BYTES 16384

struct packed {
    enum dtype dtype;
    size_t k, n;    /* logical shape: k inputs, n outputs */
    size_t bytes;   /* of data */
    void *data;     /* owned (mem_map), 64-byte aligned */
    float *scale;   /* I8: (N padded) inside data, else NULL */
    int32_t *shift; /* I8: (N padded) inside data, else NULL */
};

static inline size_t packed_panels(size_t n)
{
    return (n + PACK_N - 1) / PACK_N;
}

/* packed_panel_bytes -- of one panel of k rows. packed_columns -- the same as a matrix of the panels from
 * `panel` on with `n` columns; borrows from w. */
size_t packed_panel_bytes(enum dtype t, size_t k);
struct packed packed_columns(const struct packed *w, size_t panel, size_t n);

/* packed_init -- allocate zeroed storage for a (k, n) matrix.
 * Errors  ERR_NOMEM naming `what`; ERR_INVALID when k or n is 0, k*n overflows, or an I8 matrix has more
 *         rows than its sums can hold; ERR_UNSUPPORTED for another dtype; *w untouched. */
int packed_init(struct packed *w, enum dtype t, size_t k, size_t n, const char *what,
                struct err *err);
void packed_release(struct packed *w); /* zeroes *w */

/* What a matrix is packed from; borrowed. */
struct pack_source {
    const void *data; /* (K, N) when !transposed, (N, K) when transposed; need not be aligned */
    enum dtype dtype; /* F32, F16, BF16, or I8 with scales */
    bool transposed;
    const void *scale; /* I8: (N) f32, of each column of W; need not be aligned */
};

/* packed_fill -- pack panels [p0, p1). Another type than the source's is rounded to nearest even; to I8 each
 * column by the scale max |w| / 127. I8 from I8 is the same numbers and scales.
 *
 * Disjoint panel ranges may be filled from several threads at once.
 * Returns false when a number of them is a NaN or an infinity; *w is then undefined. */
bool packed_fill(struct packed *w, const struct pack_source *src, size_t p0, size_t p1);

/* packed_get_int8 -- the numbers of an I8 matrix as (K, N), or (N, K) when transposed. */
void packed_get_int8(const struct packed *w, int8_t *dst, bool transposed);

/* packed_get_column -- dst[0..k) = column j as f32: the embedding look-up of a tied LM head. */
void packed_get_column(const struct packed *w, size_t j, float *dst);

#endif
