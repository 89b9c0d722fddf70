#ifndef TTMD_GPT2_WEIGHTS_H
#define TTMD_GPT2_WEIGHTS_H

#include "engine/gpt2/model.h"
#include "engine/gpt2/safetensors.h"
#include "engine/gpt2/ttm_tensors.h"

/* From a checkpoint's tensors to a model's weights, in two passes: weights_bind() finds, checks and
 * allocates everything, weights_fill() copies. A file that cannot be served is thereby refused before
 * the first byte of data is read. */

/* One copy to make: a tensor into a vector widened to f32, or into a packed matrix. */
struct weight_fill {
    const struct st_tensor *tensor; /* borrowed */
    const struct st_tensor *scale;  /* of an I8 matrix, else NULL; borrowed */
    float *vector;                  /* borrowed; NULL for a matrix */
    struct packed *packed;          /* borrowed */
    int transposed;                 /* the tensor is (N, K) */
};

/* One TTM layer to make. */
struct weight_ttm {
    char name[48];         /* "h.3.mlp.c_fc" */
    struct linear *linear; /* borrowed */
    struct ttm_tensors tensors;
};

struct weight_fills {
    struct weight_fill *list; /* (n) owned */
    size_t n, cap;
    struct weight_ttm *ttm; /* (n_ttm) owned */
    size_t n_ttm, cap_ttm;
    enum dtype ttm_dtype; /* that they are to be held in */
};
void weight_fills_release(struct weight_fills *f);

/* weights_bind -- allocate the weights of m (m->cfg is set, the rest zero) and list the copies.
 *
 *   st   borrowed until weights_fill() is done
 *   o    the number format is what matters here
 *
 * Errors  ERR_MISSING, ERR_INVALID, ERR_UNSUPPORTED, ERR_NOMEM, by tensor name; m may be partly
 *         allocated then and is to be closed. */
int weights_bind(struct gpt2 *m, const struct st_set *st, const struct gpt2_options *o,
                 struct weight_fills *fills, struct err *err);

/* weights_report -- tell that `done` bytes are loaded: of the copies as the file has them, and of each TTM
 * layer as the f32 matrix that it stands for, half when it is rounded and half when it is made. */
void weights_report(const struct weight_fills *fills, const struct gpt2_options *o, double done);
double weight_fills_bytes(const struct weight_fills *fills); /* of the copies */
double weight_ttm_bytes(const struct weight_ttm *t);         /* of one layer */

/* weights_fill -- make the copies, split over the pool, tensor by tensor.
 * Errors  ERR_INVALID naming a tensor with a NaN or an infinity, and where it is. */
int weights_fill(const struct weight_fills *fills, const struct compute *c,
                 const struct gpt2_options *o, struct err *err);

/* weights_make_ttm -- plan the TTM layers as the options ask, round their cores exactly, merge and
 * pack; m->ttm describes them afterwards. Between weights_bind() and st_close().
 * Errors  ERR_INVALID: no plan within the budget, NaN in a core; ERR_NOMEM. */
int weights_make_ttm(struct gpt2 *m, const struct weight_fills *fills, const struct compute *c,
                     const struct gpt2_options *o, struct err *err);

#endif
