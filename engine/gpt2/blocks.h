#ifndef TTMD_GPT2_BLOCKS_H
#define TTMD_GPT2_BLOCKS_H

#include "engine/gpt2/model.h"

/* Many rows through the dense 8-bit layers, between one attention and the next: a block of rows after the
 * other, each by one thread from norm to residual. The same numbers as layer by layer. */
struct blocks {
    const struct gpt2 *m;
    const struct compute *c;
    size_t t;       /* rows */
    float *x;       /* (T, C) residual stream */
    float *a;       /* (T, C) output of attention, stride ld_a */
    size_t ld_a;    /* floats */
    float *qkv;     /* (T, 3C) */
    float *scratch; /* >= blocks_floats(), 64-byte aligned */
};

/* blocks_suit -- whether a layer's rows are better taken so: all four matrices dense and I8, and for each
 * thread enough rows that they and not the weights are what the caches are for. */
bool blocks_suit(const struct gpt2_layer *l, size_t t, int threads);

/* blocks_qkv -- qkv = ln_1(x) W_attn + b.
 * blocks_mlp -- x += a W_proj + b, then x += act(ln_2(x) W_fc + b) W_proj + b.
 * Thread  the pool's owner. */
void blocks_qkv(const struct blocks *b, const struct gpt2_layer *l);
void blocks_mlp(const struct blocks *b, const struct gpt2_layer *l);

/* blocks_floats -- scratch for any number of rows up to max_rows; 0 when no layer of m would be taken so. */
size_t blocks_floats(const struct gpt2 *m, size_t max_rows, int threads);

#endif
