#ifndef TTMD_MODELS_INSPECT_TTM_H
#define TTMD_MODELS_INSPECT_TTM_H

#include <jansson.h>
#include <stdio.h>

#include "engine/gpt2/gpt2_config.h"
#include "engine/gpt2/ttm_tensors.h"
#include "engine/ttm/plan.h"
#include "models/tool.h"

/* The TTM layers of a checkpoint, as `ttm inspect` shows them: cores, ranks, parameters stored and
 * after exact rounding, and the plans that this machine would choose. */
enum { INSPECT_PLANS = 5 }; /* decode at 1, 8 and 32 rows, prefill at 128 and 1024 */

struct inspect_ttm_layer {
    char name[48];
    struct ttm_shape stored, rounded;
    struct ttm_plan plan[INSPECT_PLANS];
    double seconds[INSPECT_PLANS];
};

struct inspect_ttm {
    struct inspect_ttm_layer *layers; /* (n) owned */
    int n;
    size_t stored_params, rounded_params, dense_params; /* of these layers */
};

/* inspect_ttm_open -- find and check the layers and plan them.
 *
 *   dir          whose configuration and tensors they are: for messages
 *   held         what the layers will be held in
 *   other_bytes  of the weights that are not TTM, as they will be held
 *
 * A layer that is refused is not listed here: `warn` says why, to be printed. Plans come from the
 * machine's rates, measured once and kept in the user's cache.
 * Errors  ERR_NOMEM, ERR_INVALID, those of layers_promised(). *out is to be released all the same. */
int inspect_ttm_open(struct inspect_ttm *out, const struct tool *t, const char *dir,
                     const struct gpt2_config *cfg, const struct st_set *set, enum dtype held,
                     size_t other_bytes, struct err *warn, struct err *err);
void inspect_ttm_release(struct inspect_ttm *t);

void inspect_ttm_print(const struct inspect_ttm *t, FILE *f);
json_t *inspect_ttm_json(const struct inspect_ttm *t); /* an array, new reference */

#endif
