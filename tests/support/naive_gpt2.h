#ifndef TTMD_TESTS_NAIVE_GPT2_H
#define TTMD_TESTS_NAIVE_GPT2_H

#include <stddef.h>
#include <stdint.h>

#include "engine/gpt2/gpt2_config.h"

/* GPT-2 as its definition reads: plain loops over row-major arrays, sums in double, one sequence at a
 * time, no cache. The oracle of the engine; it shares with it only the reading of files. */
struct naive_gpt2;

struct naive_gpt2 *naive_open(const char *dir); /* a failure ends the test */
void naive_free(struct naive_gpt2 *m);
const struct gpt2_config *naive_config(const struct naive_gpt2 *m);

/* What the computation went through; as gpt2_tap, and besides: "q_k" (H*T, T) scaled products before
 * the mask, "attention" (H*T, T) after softmax, "proj" (T, C), "fc" (T, n_inner), "mlp" (T, C). */
typedef void naive_tap(void *arg, int layer, const char *what, const float *data, size_t rows,
                       size_t cols);

/* naive_logits -- logits (n, V) of all positions of one sequence; tap may be NULL. */
void naive_logits(const struct naive_gpt2 *m, const int32_t *tokens, int n, float *logits,
                  naive_tap *tap, void *arg);

#endif
