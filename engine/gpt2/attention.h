#ifndef TTMD_GPT2_ATTENTION_H
#define TTMD_GPT2_ATTENTION_H

#include "engine/gpt2/step.h"

/* attention_put -- the keys and values of rows [begin, end) into the store.
 *   k, v  (end - begin, C) of these rows, stride ld floats; borrowed */
void attention_put(const struct step *s, int layer, size_t begin, size_t end, const float *k,
                   const float *v, size_t ld);

/* attention_rows -- attention of rows [begin, end) of s->blocks to the store; all positions that they may see are
 * there, and of singles what attention_singles() has put into s->a.
 *   out     (end - begin, C) of these rows, stride ldo floats; overwritten
 *   worker  whose scratch it takes */
void attention_rows(const struct step *s, int layer, size_t begin, size_t end, float *out,
                    size_t ldo, int worker);

/* attention_put_all, attention_all -- the same for all rows, split over the pool: keys and values from s->wide,
 * (T, 3C) with queries before them, attention to s->a. With s->late those of singles are left to
 * attention_all(). attention_singles -- attention of singles alone. Thread  the pool's owner. */
void attention_put_all(struct step *s, int layer);
void attention_all(struct step *s, int layer);
void attention_singles(struct step *s, int layer);

/* attention_floats -- scratch of one thread. */
size_t attention_floats(const struct gpt2 *m);

#endif
