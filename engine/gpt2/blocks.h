#ifndef TTMD_GPT2_BLOCKS_H
#define TTMD_GPT2_BLOCKS_H

#include "engine/gpt2/step.h"

/* Many rows through layers of dense 8-bit matrices: a block of rows after the other, each by one thread from
 * one attention to the next. The same numbers as layer by layer. */

/* blocks_count -- of a step of t rows; 0 where layer by layer is better: no layer of m has such matrices, or
 * the threads have so few rows each that the weights and not the rows are what the caches are for. */
size_t blocks_count(const struct gpt2 *m, size_t t, int threads);

/* blocks_begin -- the first row of block i of s->blocks, i <= s->blocks. */
size_t blocks_begin(const struct step *s, size_t i);

/* blocks_front -- queries of ln_1(x) W_attn + b to s->q, keys and values to the store.
 * blocks_back -- x += attention W_proj + b, then x += act(ln_2(x) W_fc + b) W_proj + b; with `next` the front of
 * the layer behind, too, which the step need not wait for.
 * Each for layers that suit, if s->blocks. Thread  the pool's owner. */
bool blocks_front_suits(const struct gpt2_layer *l);
bool blocks_back_suits(const struct gpt2_layer *l);
void blocks_front(struct step *s, int layer);
void blocks_back(struct step *s, int layer, bool next);

/* blocks_floats -- scratch for any number of rows up to max_rows. */
size_t blocks_floats(const struct gpt2 *m, size_t max_rows, int threads);

#endif
