#ifndef TTMD_TTM_SHAPES_FRONT_H
#define TTMD_TTM_SHAPES_FRONT_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/ttm/plan.h"
#include "engine/ttm/shape.h"

/* Which shapes are worth having. A shape with ranks has parameters and multiplications per row. By
 * these two alone, whatever the rank, nothing beats plain low rank, (1,C_out)(C_in,1): every parameter
 * of any chain takes part in at least one multiplication, and there it is exactly one. But its W has
 * no higher rank than the chain, while that of (m0,n0)(m1,n1) is a sum of r Kronecker products and
 * has rank r min(m0,n0) min(m1,n1) for almost all cores. Shapes are therefore compared at one rank of
 * the chain, among those whose W can have full rank. */
struct shapes_point {
    struct ttm_shape shape; /* with ranks, within the exact cap */
    size_t params;
    uint64_t mults;  /* per row of x: the fewest of any contraction */
    int matrix_rank; /* of W: an upper bound, and what almost all cores reach */
};

#define SHAPES_MAX_CORES 4
#define SHAPES_MAX_SIZE (1 << 24)

struct shapes_query {
    int in, out;   /* C_in, C_out; one with a prime factor above 13 is padded, as ttm_pad() says */
    int rank;      /* of every bond */
    size_t params; /* at most so many; 0 = no more than dense */
};

/* Sorted by parameters, ascending, and thereby by multiplications, descending: no point is beaten by
 * another in both. */
struct shapes_front {
    struct shapes_point *point; /* (n) owned */
    size_t n, cap;
    uint64_t searched; /* shapes that were looked at */
};

/* shapes_front_search -- the front of all factorisations into 2..SHAPES_MAX_CORES cores, factors of 1
 * included, whose W can have full rank. Left out beforehand: cores (1,1); a chain whose mirror image
 * is in; two neighbours that take no fewer parameters than their product (so that every bond has
 * the rank asked for). The front is empty when no shape is within the limits.
 *
 * Cost    about 0.1 s for the layers of GPT-2 small.
 * Errors  ERR_INVALID for a size or rank out of range.
 */
int shapes_front_search(struct shapes_front *out, const struct shapes_query *q, struct err *err);
void shapes_front_release(struct shapes_front *f);

/* shapes_front_pick -- the fewest parameters among the points that need no more multiplications than
 * dense; the fewest multiplications if all need more; NULL of an empty front. */
const struct shapes_point *shapes_front_pick(const struct shapes_front *f);

/* shapes_front_fit -- of all ranks the highest one at which some shape has at most q->params parameters
 * and no more multiplications than dense: its pick (q->rank is not looked at). Plain low rank where
 * the parameters are too few for any other shape.
 *
 * Cost    some ten searches.
 * Errors  ERR_INVALID also when not even rank 1 fits, with both numbers.
 */
int shapes_front_fit(struct shapes_point *out, const struct shapes_query *q, struct err *err);

/* shapes_front_low_rank -- (1,C_out)(C_in,1) at a rank, capped. */
void shapes_front_low_rank(struct shapes_point *out, int in, int width, int rank);

/* shapes_point_of -- the numbers of any checked shape with its ranks as they are.
 *
 *   plan  the contraction of `mults`, finished; may be NULL. One core alone: the resident W.
 */
void shapes_point_of(struct shapes_point *out, const struct ttm_shape *s, struct ttm_plan *plan);

#endif
