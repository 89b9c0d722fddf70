#ifndef TTMD_GPT2_CONFIG_H
#define TTMD_GPT2_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/kernels/kernels.h"

/* The hyper-parameters of a GPT-2 model, from a Hugging Face config.json. */
struct gpt2_config {
    int n_layer, n_head, n_embd, n_positions, vocab_size;
    int n_inner; /* 4 * n_embd when null or absent */
    float layer_norm_epsilon;
    enum act activation; /* gelu_new (also gelu_pytorch_tanh), gelu, relu */
    bool scale_attn_weights;
    bool scale_attn_by_inverse_layer_idx;
    bool tie_word_embeddings; /* as the file says; the checkpoint decides (see gpt2_open) */
    int32_t bos_token_id, eos_token_id; /* -1 when null, absent or not in the vocabulary */
};

/* gpt2_config_parse -- from the text of a config.json.
 *
 *   name  the file's name, for messages; borrowed
 *
 * Unknown keys are ignored, as Hugging Face does; a known key whose value cannot be honoured
 * (another model_type, reorder_and_upcast_attn is harmless, add_cross_attention true, an unknown
 * activation, n_embd not divisible by n_head, sizes outside 1..2^24) is refused by name.
 * Errors  ERR_INVALID, ERR_TYPE, ERR_MISSING, ERR_UNSUPPORTED; *out untouched.
 */
int gpt2_config_parse(struct gpt2_config *out, const char *json, size_t len, const char *name,
                      struct err *err);

/* gpt2_config_load -- gpt2_config_parse() of DIR/config.json; also ERR_IO. */
int gpt2_config_load(struct gpt2_config *out, const char *dir, struct err *err);

#endif
