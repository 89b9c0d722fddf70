#ifndef TTMD_MODELS_SIZES_H
#define TTMD_MODELS_SIZES_H

#include <stdint.h>

#include "engine/base/err.h"
#include "engine/gpt2/gpt2_config.h"

/* A model's sizes as the commands that make models take them: a preset, of which each size can be
 * overridden. */
#define SIZES_PRESETS "gpt2|gpt2-medium|gpt2-large|gpt2-xl|distilgpt2|tiny"
#define SIZES_MAX 16777216.0 /* what the loader takes */
enum { SIZES_MAX_LAYERS = 4096 };

struct sizes {
    const char *preset;                                       /* borrowed */
    int64_t layers, channels, heads, positions, vocab, inner; /* 0 = the preset's */
};

/* sizes_resolve -- sizes, GPT-2's constants, no end-of-text token; activation and tying are left to the
 * caller. Errors  ERR_INVALID naming the flag; *cfg may be partly written. */
int sizes_resolve(const struct sizes *s, struct gpt2_config *cfg, struct err *err);

#endif
