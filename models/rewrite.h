#ifndef TTMD_MODELS_REWRITE_H
#define TTMD_MODELS_REWRITE_H

#include "models/layers.h"
#include "models/outdir.h"
#include "models/tool.h"

/* Writing a model directory from another one: the same configuration, tokenizer and tensors, but some
 * layers in another form. */
struct rewrite {
    const struct layers *from;      /* borrowed */
    const struct ttm *const *cores; /* (from->n) what a layer becomes; NULL, or an entry NULL: it
                                     * stays as it is */
    bool dense;       /* TTM layers become dense, expanded one at a time; a layer without bias gets
                      * one of zeros, which Hugging Face's GPT-2 has everywhere */
    int dtype;        /* of all floating-point tensors: an enum dtype; -1 = each as it was */
    const bool *int8; /* (from->n) dense layers that become I8 with NAME_scale, together with token
                       * embedding and LM head; NULL = none of all these */
};

/* rewrite_model -- write config.json, the tokenizer's files and model.safetensors into the directory
 * begun. Tensors keep order and names; a layer's cores are PREFIX.ttm.cores.{k}. 8-bit numbers and scales
 * are those that loading with the number format int8 makes.
 *
 * Errors  ERR_IO; ERR_INVALID naming a tensor with a number that the dtype cannot hold, or with the name
 *         NAME_scale that another one needs; ERR_NOMEM; ERR_SHUTDOWN after a signal. The directory is to
 *         be aborted then.
 */
int rewrite_model(const struct tool *t, const struct rewrite *r, const struct outdir *o,
                  struct err *err);

/* rewrite_dtype -- "f32", "f16", "bf16" -> enum dtype; NULL -> -1. */
int rewrite_dtype(const char *name);

/* The flags. */
#define REWRITE_OUT_OPTION(offset)                                                             \
    {                                                                                          \
        "out", 'o', OPTION_STRING, (offset), "OUT", 0, 0, NULL, "where to write it (required)" \
    }
#define REWRITE_FORCE_OPTION(offset)                                                         \
    {                                                                                        \
        "force", 0, OPTION_BOOL, (offset), NULL, 0, 0, NULL, "replace a model that is there" \
    }
#define REWRITE_DTYPE_OPTION(offset)                                     \
    {                                                                    \
        "dtype", 0, OPTION_STRING, (offset), "T", 0, 0, "f32|f16|bf16",  \
            "element type of all weights written (default: as they are)" \
    }

#endif
