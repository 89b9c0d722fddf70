#ifndef TTMD_KERNELS_PACK_H
#define TTMD_KERNELS_PACK_H

#include <stddef.h>

#include "engine/base/dtype.h"
#include "engine/base/err.h"

/* A weight matrix in the layout that the kernels stream:
 *
 *     W (K, N)  ->  panels of PACK_N columns:  panel p, row k:  W[k][p*PACK_N .. +PACK_N)
 *
 *     data:  | k=0: 32 columns | k=1: 32 columns | ... | k=K-1 |   panel 0, contiguous
 *            | ...                                     |           panel 1
 *
 * The last panel is padded with zero columns. Element type F32, F16 or BF16; products and sums are
 * always f32. The layout is the same for every instruction set. */
#define PACK_N 32

struct packed {
    enum dtype dtype;
    size_t k, n;  /* logical shape: k inputs, n outputs */
    size_t bytes; /* of data */
    void *data;   /* owned (mem_map), 64-byte aligned */
};

static inline size_t packed_panels(size_t n)
{
    return (n + PACK_N - 1) / PACK_N;
}

/* packed_init -- allocate zeroed storage for a (k, n) matrix.
 * Errors  ERR_NOMEM naming `what`; ERR_INVALID when k or n is 0 or k*n overflows; ERR_UNSUPPORTED
 *         for another dtype; *w untouched. */
int packed_init(struct packed *w, enum dtype t, size_t k, size_t n, const char *what,
                struct err *err);
void packed_release(struct packed *w); /* zeroes *w */

/* packed_fill -- pack panels [p0, p1) from a row-major source of the same dtype.
 *
 *   src        (K, N) when !transposed, (N, K) when transposed; borrowed, need not be aligned
 *
 * Disjoint panel ranges may be filled from several threads at once. */
void packed_fill(struct packed *w, const void *src, int transposed, size_t p0, size_t p1);

/* packed_get_column -- dst[0..k) = column j as f32: the embedding look-up of a tied LM head. */
void packed_get_column(const struct packed *w, size_t j, float *dst);

#endif
