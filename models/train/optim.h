#ifndef TTMD_MODELS_TRAIN_OPTIM_H
#define TTMD_MODELS_TRAIN_OPTIM_H

#include "engine/kernels/matmul.h"
#include "models/train/net.h"

/* AdamW over all parameters of a net: decoupled decay of matrices (not of norms and biases), one
 * clipping of the whole gradient, and learning rates of their own for the cores of TTM layers. */
struct optim_options {
    float beta1, beta2, eps;
    float decay;   /* per step and learning rate */
    float clip;    /* largest norm of the gradient; 0 = any */
    bool one_rate; /* cores get the plain learning rate */
};

struct optim {
    const struct net *net; /* borrowed */
    struct optim_options o;
    float *m, *v;     /* (net->floats) owned by mem_map */
    float *scratch;   /* of the cores' rates, owned */
    double *partials; /* owned */
    float *rates;     /* (n_tensors) owned: learning rate of a tensor / learning rate */
};

/* optim_init -- moments of zero. Errors  ERR_NOMEM; *o zeroed then. */
int optim_init(struct optim *o, const struct net *net, const struct optim_options *options,
               struct err *err);
void optim_release(struct optim *o);

/* optim_step -- one step.
 *
 *   w, grad  (net->floats); grad is not modified
 *   step     1, 2, ..: for the correction of the moments
 *
 * Returns the gradient's norm before clipping. When it is not finite nothing is changed.
 * Thread  the pool's owner. */
double optim_step(struct optim *o, const struct compute *c, float *w, const float *grad, float lr,
                  uint64_t step);

/* optim_core_rates -- factors of the learning rate for the cores of one TTM layer, such that a step
 * moves the entries of W as far as a dense step of the same learning rate: core k moves W by its own
 * change times the interfaces left and right of it, whose mean squares are traces of Gram matrices.
 *
 *   cores    (d)
 *   rates    (d) written
 *   scratch  >= optim_core_floats(s)
 *
 * Source  Qiu et al. 2024, arXiv:2406.06248 (structure-aware learning rates), for Adam's sign-like
 *         steps and measured instead of assumed interfaces. */
void optim_core_rates(const struct compute *c, const struct ttm_shape *s, const float *const *cores,
                      float *rates, float *scratch);
size_t optim_core_floats(const struct ttm_shape *s);

#endif
