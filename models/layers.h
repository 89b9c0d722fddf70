#ifndef TTMD_MODELS_LAYERS_H
#define TTMD_MODELS_LAYERS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/gpt2/gpt2_config.h"
#include "engine/gpt2/ttm_tensors.h"

/* A model directory as the tools that change its fully connected layers see it: four of them in each
 * block, each dense or a Tensor-Train matrix, and other tensors. Reads headers only. */
#define LAYERS_PER_BLOCK 4

struct layer {
    char name[48];                  /* "h.3.mlp.c_fc" */
    int block;                      /* 3 */
    int kind;                       /* 0..3: attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj */
    int in, out;                    /* C_in, C_out, as config.json says */
    char *prefix;                   /* its name in the file: "transformer.h.3.mlp.c_fc"; owned */
    size_t first;                   /* its first tensor in the file, bias apart */
    const struct st_tensor *weight; /* NULL: a TTM */
    struct ttm_tensors ttm;         /* of a TTM: its cores and shape; d = 0 otherwise */
    bool has_bias;
};

/* layers_kinds -- the linear layers of a block: "mlp.c_fc" and its sizes, by struct layer's kind. */
struct layer_kind {
    const char *name;
    int in, out;
};
void layers_kinds(const struct gpt2_config *cfg, struct layer_kind out[LAYERS_PER_BLOCK]);

struct layers {
    const char *dir; /* borrowed */
    struct gpt2_config cfg;
    struct st_set *set;  /* owned */
    struct layer *layer; /* (n) in the order of the model; owned */
    size_t n;
    struct layer **of; /* (tensors) whose weight or core a tensor is; NULL: another one; owned */
};

/* layers_promised -- whether the tensors can be those of as many blocks as config.json promises: to be asked
 * before anything is sized by it. Errors  ERR_MISSING naming dir and both numbers. */
int layers_promised(const struct gpt2_config *cfg, const struct st_set *set, const char *dir,
                    struct err *err);

/* layers_open -- find the layers of a model directory and check that they are whole, as the loader does.
 * Tensors that belong to no layer are not judged.
 *
 * Errors  those of gpt2_config_load(), st_open() and ttm_tensors_find(); ERR_MISSING, ERR_INVALID,
 *         ERR_UNSUPPORTED by tensor, with what was found and expected. Nothing stays open.
 */
int layers_open(struct layers *l, const char *dir, struct err *err);
void layers_close(struct layers *l);

/* layers_dense -- the dense weight of a layer, (in, out) f32, whichever way it is stored; freed by the
 * caller with free(). Errors  those of ttm_tensors_load(); ERR_NOMEM. */
int layers_dense(float **out, const struct layer *l, struct err *err);

/* layers_dtype -- of a layer's weight or first core. */
enum dtype layers_dtype(const struct layer *l);

/* layers_stored -- parameters of a layer as it is stored, without bias. layers_params -- of the model:
 * stored, and as if all layers were dense; a head stored although it is tied and the causal masks of
 * old checkpoints are not counted. */
size_t layers_stored(const struct layer *l);
void layers_params(const struct layers *l, size_t *stored, size_t *dense);

/* layers_select -- which layers a list of patterns means.
 *
 *   patterns  "mlp", "all", or globs on layer names, comma separated: "h.*.mlp.c_fc,h.0.attn.*"
 *   chosen    (n) out
 *
 * Errors  ERR_INVALID naming a pattern that matches no layer.
 */
int layers_select(const struct layers *l, const char *patterns, bool *chosen, struct err *err);

#endif
