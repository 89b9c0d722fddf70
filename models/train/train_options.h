#ifndef TTMD_MODELS_TRAIN_OPTIONS_H
#define TTMD_MODELS_TRAIN_OPTIONS_H

#include "models/options.h"
#include "models/sizes.h"

/* The flags of `ttm train`. */
struct train_args {
    const char *data, *valid, *out;
    const char *task; /* NULL: a language model */
    const char *from, *config, *tokenizer;
    struct sizes sizes;
    const char *activation;
    int64_t ttm_rank;
    const char *ttm_shape, *ttm_layers, *ttm_route;
    int64_t steps;
    double epochs, minutes;
    int64_t batch, block, accumulate;
    double lr, min_lr;
    int64_t warmup;
    double beta1, beta2, eps, decay, clip, dropout;
    bool plain_rates;
    const char *teacher;
    double temperature, teacher_weight;
    int64_t eval_every, save_every, valid_tokens;
    const char *dtype;
    int64_t seed, threads;
    const char *kernels;
    bool recompute, resume, force;
};

/* train_options_parse -- the flags, and defaults for others; what has to be given, and what goes with what,
 * is checked.
 * Returns OPTIONS_RUN or OPTIONS_HELP. Errors  ERR_INVALID, ERR_MISSING naming the flag. */
int train_options_parse(struct train_args *a, int argc, char **argv, FILE *help, struct err *err);

#endif
