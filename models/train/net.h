#ifndef TTMD_MODELS_TRAIN_NET_H
#define TTMD_MODELS_TRAIN_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/gpt2/gpt2_config.h"
#include "engine/gpt2/safetensors.h"
#include "engine/ttm/shape.h"
#include "models/checkpoint.h"

/* The parameters of a GPT-2 in training, as a layout: every tensor has a place in one flat array of
 * floats. Weights, gradients and the optimiser's moments are four arrays of the same layout, so that
 * whatever walks over all parameters is one loop. Tensors begin at multiples of 64 bytes; the gaps
 * stay zero. Names and shapes are those of the checkpoint. */
enum net_which { NET_ATTN, NET_ATTN_PROJ, NET_FC, NET_MLP_PROJ, NET_LINEARS };

struct net_tensor {
    char name[80];
    enum checkpoint_kind kind;
    int n_dims;
    size_t shape[4];
    size_t elements, offset; /* floats */
    int layer, linear, core; /* a core of which layer (enum net_which); -1: no core */
};

struct net_linear {
    size_t in, out;
    size_t weight, bias; /* offsets; weight (in, out) of a dense layer */
    bool ttm;
    struct ttm_shape shape;     /* TTM */
    size_t core[TTM_MAX_CORES]; /* TTM: offsets of the cores (r, m, n, r') */
};

struct net_layer {
    size_t ln_1_weight, ln_1_bias, ln_2_weight, ln_2_bias; /* offsets */
    struct net_linear linear[NET_LINEARS];
};

struct net {
    struct gpt2_config cfg;
    bool untied;
    int labels; /* of a classifier, whose head is score.weight (labels, C); 0 = a language model */
    size_t wte, wpe, ln_f_weight, ln_f_bias;
    size_t head;                /* (outputs, C); == wte when tied */
    size_t outputs;             /* vocab_size, or labels */
    struct net_layer *layers;   /* (n_layer) owned */
    struct net_tensor *tensors; /* (n_tensors) owned, in the file's order */
    size_t n_tensors;
    size_t floats; /* of the flat array, gaps included */
    size_t params; /* without gaps */
};

/* Shapes of the TTM layers, (n_layer, NET_LINEARS); d = 0 is a dense layer. */
typedef struct ttm_shape net_shapes[NET_LINEARS];

/* net_init -- lay out a model.
 *
 *   shapes  NULL = all dense; borrowed during the call
 *
 * Errors  ERR_INVALID naming a layer whose shape is none or is not of its size; *net is zeroed then.
 */
int net_init(struct net *net, const struct gpt2_config *cfg, bool untied, const net_shapes *shapes,
             struct err *err);

/* net_init_classifier -- the same with the head of GPT2ForSequenceClassification in place of the LM head:
 * score.weight (labels, C), no bias. */
int net_init_classifier(struct net *net, const struct gpt2_config *cfg, int labels,
                        const net_shapes *shapes, struct err *err);
void net_release(struct net *net);

/* net_matmul_params -- parameters that take part in matrix products, the tied head counted as one: the
 * N of "6 N operations per token". A TTM layer counts as the dense layer that it stands for. */
size_t net_matmul_params(const struct net *net);

/* net_linear_name -- "h.3.mlp.c_fc". */
void net_linear_name(char out[48], int layer, int which);

/* net_linear_sizes -- in and out of the linear layers of a block. */
void net_linear_sizes(const struct gpt2_config *cfg, int sizes[NET_LINEARS][2]);

/* net_random -- GPT-2's initialisation: N(0, 0.02^2), the two projections into the residual stream
 * divided by sqrt(2 n_layer), norms 1 and 0, biases 0; TTM layers by ttm_random() for the same
 * deviation of W.
 *
 *   w  (floats); overwritten
 *
 * Errors  ERR_INVALID for ranks that the cores cannot span; ERR_NOMEM.
 */
int net_random(const struct net *net, float *w, uint64_t seed, struct err *err);

/* net_shapes_of -- which layers of a checkpoint are TTM, by its tensors' names and shapes.
 *   shapes  (cfg->n_layer) written
 * Errors  those of ttm_tensors_find(); shapes partly written then. */
int net_shapes_of(const struct st_set *st, const struct gpt2_config *cfg, net_shapes *shapes,
                  struct err *err);

/* net_has_head -- whether a checkpoint has an LM head that is not its token embedding. */
bool net_has_head(const struct st_set *st);

/* net_has_score -- whether a checkpoint has the head of a classifier with so many labels. */
bool net_has_score(const struct st_set *st, int labels);

/* net_load -- the checkpoint's tensors into w, widened to f32. Names with or without "transformer." and
 * "module."; cores also as "ttm.tt.cores". A TTM layer without a bias gets one of
 * zeros, a classifier a head of zeros from a checkpoint that has none of its labels.
 * Errors  ERR_MISSING, ERR_INVALID naming the tensor; w is partly written then. */
int net_load(const struct net *net, const struct st_set *st, float *w, struct err *err);

/* net_open -- a model directory as layout and parameters.
 *
 *   labels  of a classifier, 0 = a language model
 *   w       (net->floats) receives memory of mem_map(); NULL after some failures
 *
 * Errors  those of gpt2_config_load(), st_open(), layers_promised(), net_shapes_of(), net_init(),
 *         net_load(); ERR_NOMEM.
 *         *net and *w are to be released also then. */
int net_open(struct net *net, float **w, const char *dir, int labels, struct err *err);

/* net_fits_tokenizer -- that all ids of the tokenizer in `dir` are the model's. Errors  ERR_INVALID. */
int net_fits_tokenizer(const struct net *net, int32_t vocab, const char *dir, struct err *err);

/* net_save -- all tensors as a safetensors file (replaced atomically). Errors  ERR_IO. */
int net_save(const struct net *net, const float *w, enum dtype t, const char *path,
             struct err *err);

#endif
