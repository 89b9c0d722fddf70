#ifndef TTMD_MODELS_CHECKPOINT_H
#define TTMD_MODELS_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/buf.h"
#include "engine/base/dtype.h"
#include "engine/gpt2/gpt2_config.h"

/* What a dense GPT-2 checkpoint consists of, as a list: the writer declares it, `ttm init` fills it,
 * parameters are counted by it. */
enum checkpoint_kind { CHECKPOINT_WEIGHT, CHECKPOINT_BIAS, CHECKPOINT_NORM_WEIGHT };

struct checkpoint_tensor {
    char name[64]; /* as Hugging Face writes it: "transformer.h.0.mlp.c_fc.weight" */
    enum checkpoint_kind kind;
    int n_dims;
    size_t shape[2];
    size_t elements;
};

/* checkpoint_count -- tensors of the model; with `untied` an LM head of its own is one of them. */
size_t checkpoint_count(const struct gpt2_config *cfg, bool untied);
void checkpoint_tensor_at(const struct gpt2_config *cfg, bool untied, size_t i,
                          struct checkpoint_tensor *out);

/* checkpoint_params -- stored parameters, a tied head counted once: 124439808 for GPT-2 small. */
size_t checkpoint_params(const struct gpt2_config *cfg, bool untied);

/* checkpoint_config_json -- config.json as Hugging Face's transformers writes it. */
void checkpoint_config_json(const struct gpt2_config *cfg, enum dtype t, struct buf *out);

/* checkpoint_classifier_json -- the same for GPT2ForSequenceClassification.
 *   labels  (n) names of the rows of score.weight, plain words */
void checkpoint_classifier_json(const struct gpt2_config *cfg, enum dtype t,
                                const char *const *labels, int n, struct buf *out);

/* checkpoint_activation -- "gelu_new" etc. and back; -1 for an unknown name. */
const char *checkpoint_activation_name(enum act a);
int checkpoint_activation_parse(const char *name);

#endif
