/* The published models' sizes, and how flags change them: one table for all commands that make a
 * model from nothing. */
#include "models/sizes.h"

#include <string.h>

static const struct preset {
    const char *name;
    int layers, channels, heads, positions, vocab;
} presets[] = {
    {"gpt2", 12, 768, 12, 1024, 50257},        {"gpt2-medium", 24, 1024, 16, 1024, 50257},
    {"gpt2-large", 36, 1280, 20, 1024, 50257}, {"gpt2-xl", 48, 1600, 25, 1024, 50257},
    {"distilgpt2", 6, 768, 12, 1024, 50257},   {"tiny", 2, 64, 4, 128, 512},
};

static int pick(int64_t given, int preset)
{
    return given ? (int)given : preset;
}

int sizes_resolve(const struct sizes *s, struct gpt2_config *cfg, struct err *err)
{
    const struct preset *p = presets;
    while (strcmp(p->name, s->preset) != 0)
        p++;
    *cfg = (struct gpt2_config){
        .n_layer = pick(s->layers, p->layers),
        .n_head = pick(s->heads, p->heads),
        .n_embd = pick(s->channels, p->channels),
        .n_positions = pick(s->positions, p->positions),
        .vocab_size = pick(s->vocab, p->vocab),
        .layer_norm_epsilon = 1e-5f,
        .activation = ACT_GELU_NEW,
        .scale_attn_weights = true,
        .tie_word_embeddings = true,
        .bos_token_id = -1,
        .eos_token_id = -1,
    };
    if (cfg->n_embd % cfg->n_head)
        return err_set_param(err, ERR_INVALID, "heads",
                             "--heads: %d heads do not divide %d channels", cfg->n_head,
                             cfg->n_embd);
    int64_t inner = s->inner ? s->inner : 4 * (int64_t)cfg->n_embd;
    if (inner > (int64_t)SIZES_MAX)
        return err_set_param(err, ERR_INVALID, "channels",
                             "--channels: %d channels make an MLP wider than %d", cfg->n_embd,
                             (int)SIZES_MAX);
    cfg->n_inner = (int)inner;
    return 0;
}
