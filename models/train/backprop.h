#ifndef TTMD_MODELS_TRAIN_BACKPROP_H
#define TTMD_MODELS_TRAIN_BACKPROP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/kernels/matmul.h"
#include "models/train/net.h"
#include "models/train/ttm_grad.h"

/* Loss and gradients of a GPT-2, language model or classifier, on a batch of sequences of one length.
 * What the backward pass needs of the forward pass lies in one arena whose size is known at start;
 * nothing is allocated in a step. The same bits come out with any number of threads. */
struct backprop;

struct backprop_options {
    size_t sequences, length; /* B and T of the largest batch */
    bool backward;            /* false: losses only; the layers then share their activations */
    bool
        recompute; /* keep only the input of each block and compute the rest again when going back */
    bool teacher;  /* steps may be given a teacher */
    float dropout; /* of embeddings, attention and both residual branches, in steps; 0 = none */
    uint64_t seed; /* of dropout */
    enum ttm_route route; /* of TTM layers; TTM_ROUTE_AUTO: the cheaper one */
};

/* backprop_new
 *   net  borrowed until backprop_free();  c  likewise
 * Errors  ERR_NOMEM naming the bytes; ERR_INVALID when the length exceeds the model's positions. */
int backprop_new(struct backprop **out, const struct net *net, const struct backprop_options *o,
                 const struct compute *c, struct err *err);
void backprop_free(struct backprop *b);          /* may be NULL */
size_t backprop_bytes(const struct backprop *b); /* of the arena */

/* backprop_route -- how a TTM layer is computed. */
const struct ttm_grad_plan *backprop_route(const struct backprop *b, int layer, int which);

/* Another model of the same vocabulary whose distribution is to be learnt: the loss of a token becomes
 * (1 - weight) * cross-entropy + weight * temperature^2 * KL(teacher || student), both softened by the
 * temperature. Source  Hinton, Vinyals, Dean 2015, arXiv:1503.02531. */
struct backprop_teacher {
    struct backprop *model; /* made without `backward`, for batches at least as large */
    const float *w;
    float temperature, weight;
};

struct backprop_batch {
    /* (B, T) ids below the vocabulary; and what follows each token, of a classifier the label that is to be
     * told there; -1 = nothing to learn there. Borrowed. */
    const int32_t *tokens, *targets;
    size_t sequences, length;
    uint64_t draw; /* number of this batch: selects the dropout masks; */
    size_t first;  /* and where in it these sequences are, when others have the rest of it */
    const struct backprop_teacher *teacher; /* NULL: none */
};

struct backprop_loss {
    double sum;    /* of cross-entropies, nats */
    double distil; /* of temperature^2 * KL; 0 without a teacher */
    size_t tokens; /* targets that are not -1 */
};

/* backprop_loss -- forward only, without dropout.
 *   w  (net->floats) parameters; borrowed */
void backprop_loss(struct backprop *b, const float *w, const struct backprop_batch *batch,
                   struct backprop_loss *out);

/* backprop_step -- also grad += scale * d(sum of the tokens' losses) / dw.
 *   grad  (net->floats)
 * Thread  the pool's owner, for all calls. */
void backprop_step(struct backprop *b, const float *w, const struct backprop_batch *batch,
                   float scale, float *grad, struct backprop_loss *out);

/* backprop_hidden -- the final hidden states (B*T, C) of a batch, without dropout; valid until the next
 * call. */
const float *backprop_hidden(struct backprop *b, const float *w,
                             const struct backprop_batch *batch);

#endif
