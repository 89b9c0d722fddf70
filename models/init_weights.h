#ifndef TTMD_MODELS_INIT_WEIGHTS_H
#define TTMD_MODELS_INIT_WEIGHTS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/dtype.h"
#include "engine/base/pool.h"
#include "engine/gpt2/gpt2_config.h"
#include "models/tool.h"

struct init_weights {
    const struct gpt2_config *cfg; /* borrowed */
    bool untied;                   /* an LM head of its own */
    bool random_biases;            /* biases, and the norms' weights around 1, are random too */
    int ttm_rank;                  /* 0 = dense; else TTM layers in the paper's shapes */
    bool ttm_all;                  /* attention's linear layers too, not only the MLPs' */
    bool no_mlp_bias;              /* the MLPs' layers have no bias; they are TTM then */
    enum dtype dtype;              /* F32, F16, BF16 */
    uint64_t seed;
    struct pool *pool; /* borrowed */
};

#define INIT_STD 0.02

/* init_weights_write -- a safetensors file of random weights: N(0, INIT_STD^2), norms 1 and 0, biases
 * 0. TTM layers start as the paper's do, see ttm_random(). What a tensor holds depends on seed and
 * configuration alone, not on the number of threads.
 *
 * Errors  ERR_IO, ERR_NOMEM; ERR_SHUTDOWN after a signal. The file is then removed.
 */
int init_weights_write(const struct tool *t, const struct init_weights *w, const char *path,
                       struct err *err);

/* init_weights_params -- parameters that it stores, a tied head counted once. Errors as above. */
int init_weights_params(const struct init_weights *w, size_t *params, struct err *err);

#endif
