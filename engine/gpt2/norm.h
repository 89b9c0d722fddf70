#ifndef TTMD_GPT2_NORM_H
#define TTMD_GPT2_NORM_H

#include "engine/gpt2/step.h"

/* A LayerNorm of the residual stream; (C) each, borrowed. */
struct norm {
    const float *weight, *bias;
};

/* norm_all -- y = norm(s->x), (T, C) with stride ldy floats; split over the pool. Thread  the pool's owner. */
void norm_all(const struct step *s, struct norm n, float *y, size_t ldy);

/* norm_int8_all -- the same as quantised rows in `scratch`, of quantised_floats(t, C), 64-byte aligned. Thread
 * the pool's owner.
 * norm_int8_rows -- rows [begin, end) alone, in this thread; `row` has room for C floats. */
struct int8_rows norm_int8_all(const struct step *s, struct norm n, float *scratch);
struct int8_rows norm_int8_rows(const struct step *s, struct norm n, size_t begin, size_t end,
                                float *scratch, float *row);

#endif
