#ifndef TTMD_TESTS_MAKE_MODEL_H
#define TTMD_TESTS_MAKE_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/dtype.h"

/* A small GPT-2 with random weights, as a Hugging Face directory without a tokenizer. A zero field
 * has the default named; `(struct make_model){0}` is a model of 2 layers. */
struct make_model {
    int layers;             /* 2 */
    int channels;           /* 32 */
    int heads;              /* 4 */
    int positions;          /* 64 */
    int vocab;              /* 101 */
    int n_inner;            /* null in config.json: 4 * channels */
    enum dtype dtype;       /* F32 (0), F16, BF16 */
    const char *activation; /* "gelu_new" */
    bool untied;            /* lm_head.weight of its own, tie_word_embeddings false */
    bool no_scale;          /* scale_attn_weights false */
    bool inverse_layer;     /* scale_attn_by_inverse_layer_idx true */
    const char *prefix;     /* of all names but lm_head.weight; "transformer.", "" for none */
    int shards;             /* 0 = model.safetensors, n = shards and their index */
    double std;             /* of the weights, 0.2: large enough that greedy text varies */
    uint64_t seed;
    /* TTM layers: shapes as text for attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj; NULL = dense.
     * Factors may exceed the layer (padding). */
    const char *ttm[4];
    int ttm_rank;          /* 3, of all bonds */
    const char *ttm_cores; /* what stands between layer and number: ".ttm.cores." */
    bool ttm_no_bias;      /* these layers have none */
};

/* make_model -- write config.json and the safetensors file(s) into `dir`; a failure ends the test. */
void make_model(const char *dir, const struct make_model *options);

#endif
