#ifndef TTMD_GPT2_MODEL_H
#define TTMD_GPT2_MODEL_H

#include <stdint.h>

#include "engine/gpt2/gpt2_config.h"
#include "engine/gpt2/kv_store.h"
#include "engine/gpt2/linear.h"

/* A GPT-2 model, ready to compute: weights packed, nothing left of the file mapping. */
struct gpt2_layer {
    float *ln_1_weight, *ln_1_bias, *ln_2_weight, *ln_2_bias; /* (C) f32, owned */
    struct linear c_attn;                                     /* C -> 3C */
    struct linear attn_proj;                                  /* C -> C */
    struct linear c_fc;                                       /* C -> n_inner */
    struct linear mlp_proj;                                   /* n_inner -> C */
    float attn_scale; /* 1/sqrt(D) and/or 1/(layer+1), as the config asks */
};

/* A TTM layer, for reports. */
struct gpt2_ttm {
    char name[48];               /* "h.3.mlp.c_fc" */
    const struct linear *linear; /* its shape after rounding, its plans: ttm_linear_shape(), .. */
    struct ttm_shape stored;     /* as the file has it */
    double seconds[TTM_ROLES];   /* predicted for one call of the rows planned for */
};

struct gpt2 {
    struct gpt2_config cfg;
    struct gpt2_layer *layers;      /* (n_layer) owned */
    float *wpe;                     /* (P, C) f32, owned */
    float *ln_f_weight, *ln_f_bias; /* (C) f32, owned */
    struct packed head;             /* (C, V): LM head; when tied also the token embedding */
    bool tied;
    struct packed wte;    /* (C, V) packed token embedding when untied, else empty */
    enum dtype dtype;     /* of most weights, as they are held */
    struct gpt2_ttm *ttm; /* (n_ttm) owned */
    int n_ttm;
    enum dtype ttm_dtype;    /* that their groups are held in */
    int ttm_rows[TTM_ROLES]; /* the rows of a call that they are planned for */
    size_t n_params;         /* stored parameters, a tied head counted once */
    size_t n_params_rounded; /* the same after exact rounding of TTM ranks */
    size_t n_params_dense;   /* of the model that has dense layers instead */
    size_t weight_bytes;     /* resident bytes of all weights */
};

/* Progress of loading: fraction 0..1; may be called from the calling thread only. */
typedef void gpt2_progress(void *arg, double fraction);

/* Number format of the matrices: as the file has them (AUTO), or all converted to one. Vectors, positions
 * and sums are f32 in every format; TTM layers are held in F32 by AUTO, unless the token embedding of the
 * file is I8. */
enum gpt2_dtype { GPT2_AUTO, GPT2_F32, GPT2_BF16, GPT2_INT8 };

/* gpt2_dtype_parse -- "auto", "f32", "bf16", "int8" (NULL = auto) -> enum gpt2_dtype; -1 for another text. */
int gpt2_dtype_parse(const char *name);

/* How to load. Zero everything for the defaults. */
struct gpt2_options {
    enum gpt2_dtype dtype;
    unsigned ttm_methods; /* 1u << enum ttm_method each; 0 = automatic: the fastest within memory */
    size_t
        memory_budget_bytes; /* for all weights; 0 = TTM layers keep less than dense ones would */
    int decode_rows, prefill_rows; /* of a typical step, for planning; 0 = 8, 256 */
    const struct ttm_rates *rates; /* borrowed; NULL = from rates_file, or measured */
    const char *rates_file;  /* borrowed; "auto" = in the user's cache; NULL = measured anew */
    const struct cpu *cpu;   /* what rates_file belongs to; borrowed; NULL = any machine */
    gpt2_progress *progress; /* may be NULL */
    void *progress_arg;
};

/* gpt2_open -- load a Hugging Face GPT-2 directory.
 *
 *   c  used for packing in parallel; gpt2_forward() may use no more threads than it has
 *   o  borrowed during the call; NULL = the defaults
 *
 * Any linear layer may be a TTM: cores in place of its weight (ttm_tensors.h), a bias or none. Matrices are
 * F32, F16, BF16, or I8 with a scale for every output, NAME_scale F32.
 * Tensor names are taken with or without `module.` and `transformer.`; `attn.bias` and
 * `attn.masked_bias` buffers are skipped; lm_head.weight absent or equal to wte = tied. Any other
 * unknown tensor, a missing one, or a wrong shape or dtype is refused by name.
 * Errors  ERR_IO, ERR_MISSING, ERR_INVALID, ERR_UNSUPPORTED, ERR_NOMEM; nothing stays allocated.
 */
int gpt2_open_with(struct gpt2 **out, const char *dir, const struct compute *c,
                   const struct gpt2_options *o, struct err *err);
int gpt2_open(struct gpt2 **out, const char *dir, const struct compute *c, gpt2_progress *progress,
              void *arg, struct err *err);
void gpt2_close(struct gpt2 *m); /* m may be NULL */

/* Successive tokens of one sequence in a step. */
struct gpt2_seq {
    const int32_t *tokens; /* (n) ids in [0, V); borrowed */
    int n;
    int pos0;              /* position of tokens[0]; positions before it are in the KV store */
    const int32_t *blocks; /* KV blocks that cover positions 0..pos0+n-1; borrowed */
};

/* What a step computed on its way, (rows, cols) without padding, valid during the call:
 *   layer -1:    "embed" (T, C), "ln_f" (T, C)
 *   each layer:  "ln_1" (T, C), "qkv" (T, 3C), "attn" (T, C), "attn_resid" (T, C), "ln_2" (T, C),
 *                "act" (T, n_inner), "mlp_resid" (T, C) */
typedef void gpt2_tap(void *arg, int layer, const char *what, const float *data, size_t rows,
                      size_t cols);

/* A step: the first n_decode sequences hold generated tokens, and guesses at more (TTM_DECODE), the
 * others pieces of prompts (TTM_PREFILL). */
struct gpt2_step {
    const struct gpt2_seq *seqs;
    int n_seqs;
    int n_decode;
    gpt2_tap *tap; /* NULL but in tests */
    void *tap_arg;
};

/* gpt2_forward -- run the step's tokens through all layers, writing their keys and values to kv.
 *
 *   hidden   (T, C) f32, T = all tokens of the step in order; after the final LayerNorm; overwritten
 *   scratch  >= gpt2_scratch_floats(m, T, threads), 64-byte aligned; borrowed
 *
 * A row's result does not depend on the other sequences of the step, bit for bit.
 * Thread  the pool's owner. Allocates nothing.
 */
void gpt2_forward(const struct gpt2 *m, const struct compute *c, const struct kv_store *kv,
                  const struct gpt2_step *step, float *hidden, float *scratch);
size_t gpt2_scratch_floats(const struct gpt2 *m, int max_tokens, int threads);

/* gpt2_logits -- logits[i] = hidden[rows[i]] . head, for the rows somebody needs.
 *
 *   rows     (n) row numbers of hidden; NULL = 0..n-1
 *   logits   (n, V) f32, overwritten; V floats per row, no padding
 *   scratch  >= gpt2_logits_floats(m, n), 64-byte aligned
 */
void gpt2_logits(const struct gpt2 *m, const struct compute *c, const float *hidden,
                 const int32_t *rows, int n, float *logits, float *scratch);
size_t gpt2_logits_floats(const struct gpt2 *m, int n);

#endif
