#ifndef TTMD_MODELS_INIT_TENSORS_H
#define TTMD_MODELS_INIT_TENSORS_H

#include "engine/ttm/shape.h"
#include "models/checkpoint.h"
#include "models/init_weights.h"

/* What `ttm init` writes, tensor by tensor: the dense checkpoint, or with TTM layers the cores in
 * place of their weights. */
struct init_tensor {
    char name[96];
    enum checkpoint_kind kind;
    int n_dims;
    size_t shape[4];
    size_t elements;
    size_t stream;        /* of random numbers: the place of the dense tensor it is or replaces */
    int core;             /* which core it is, -1 = none */
    struct ttm_shape ttm; /* of the layer, when it is a core */
};

/* init_tensors -- the list, newly allocated; freed by the caller with free().
 * Errors  those of ttm_shape_paper(), naming the layer; outputs untouched. */
int init_tensors(struct init_tensor **out, size_t *n, const struct init_weights *w,
                 struct err *err);

#endif
