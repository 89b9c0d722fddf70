#ifndef TTMD_MODELS_MOMENTS_H
#define TTMD_MODELS_MOMENTS_H

#include "models/layers.h"
#include "models/score.h"

/* What the inputs of layers look like on a text: X^T X of each, X being the rows that reach the layer
 * while the model reads the text. */
struct moments {
    double **s; /* (n) S (in, in) of layer i, NULL unless chosen; owned */
    size_t n;
    size_t tokens; /* rows of X */
};

/* moments_collect -- run the text through the model, once, in disjoint windows of the context.
 *
 *   chosen      (l->n) the layers wanted
 *   max_tokens  only so many tokens from the beginning; 0 = all
 *   threads     as cpu_threads() takes it
 *
 * Memory  in * in * 8 bytes for each layer, beside the model.
 * Errors  those of gpt2_open() and tokenizer_open(); ERR_INVALID for a text without tokens; ERR_NOMEM;
 *         ERR_SHUTDOWN after a signal. *out is empty then.
 */
int moments_collect(struct moments *out, const struct tool *t, const struct layers *l,
                    const bool *chosen, const struct score_text *text, size_t max_tokens,
                    int threads, struct err *err);
void moments_release(struct moments *m);

#endif
