#ifndef TTMD_GPT2_TTM_TENSORS_H
#define TTMD_GPT2_TTM_TENSORS_H

#include "engine/gpt2/safetensors.h"
#include "engine/ttm/ttm.h"

/* The cores of one TTM layer among the tensors of a checkpoint: LAYER.ttm.cores.{k}, or
 * LAYER.ttm.tt.cores.{k} as the paper's authors write it; each (r[k], m[k], n[k], r[k+1]). */
struct ttm_tensors {
    struct ttm_shape shape;                      /* as stored */
    const struct st_tensor *core[TTM_MAX_CORES]; /* borrowed from the set */
};

/* ttm_tensors_key -- a tensor's name without the prefixes `module.` and `transformer.` that
 * checkpoints carry or not, in any order; inside `name`. */
const char *ttm_tensors_key(const char *name);

/* ttm_tensors_find -- look the cores of a layer up and check everything but their values.
 *
 *   layer    "h.0.mlp.c_fc"
 *   in, out  the layer's dimensions; factors may exceed them (padding), by less than four times
 *
 * Returns 1 when the layer is a TTM, 0 when it has no cores.
 * Errors  ERR_MISSING, ERR_INVALID, ERR_UNSUPPORTED naming file and tensor; *out untouched.
 */
int ttm_tensors_find(struct ttm_tensors *out, const struct st_set *st, const char *layer, size_t in,
                     size_t n_out, struct err *err);

/* ttm_tensors_load -- the cores' values as f32, `out` initialised here.
 * Errors  ERR_INVALID naming a tensor with a NaN or an infinity and its place; ERR_NOMEM. */
int ttm_tensors_load(struct ttm *out, const struct ttm_tensors *t, const char *layer,
                     struct err *err);

#endif
