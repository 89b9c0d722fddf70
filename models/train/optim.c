/* Tensors are walked in the layout's order and cut into pieces of PIECE floats, whatever the number of
 * threads; the gradient's norm is the sum of the pieces' sums in order. So a step is the same bits on
 * any machine with the same instruction set.
 *
 * A core's learning rate: with Adam every element moves by about the learning rate. Element (i, j) of
 * W moves by sum_ab L[i,a] d[a,b] R[b,j] when one core changes by d, L and R being the products of
 * the cores on either side; for changes of independent sign the mean square is lr^2 mean|L_row|^2
 * mean|R_col|^2. The rate makes every core's share of W's movement lr / sqrt(d), so that together
 * they move W by lr, as a dense step would. */
#include "models/train/optim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/kernels/gemm.h"
#include "engine/kernels/grad.h"

#define PIECE ((size_t)1 << 16)

static size_t pieces_of(const struct net *net)
{
    return (net->floats + PIECE - 1) / PIECE;
}

int optim_init(struct optim *o, const struct net *net, const struct optim_options *options,
               struct err *err)
{
    *o = (struct optim){.net = net, .o = *options};
    size_t scratch = 1;
    for (int i = 0; i < net->cfg.n_layer; i++)
        for (int j = 0; j < NET_LINEARS; j++) {
            const struct net_linear *l = &net->layers[i].linear[j];
            size_t n = l->ttm ? optim_core_floats(&l->shape) : 0;
            if (n > scratch) scratch = n;
        }
    void *p = NULL;
    int rc = mem_map(&p, net->floats * sizeof(float), "first moments", err);
    o->m = p;
    p = NULL;
    if (!rc) rc = mem_map(&p, net->floats * sizeof(float), "second moments", err);
    o->v = p;
    o->rates = mem_alloc(net->n_tensors * sizeof *o->rates);
    o->partials = mem_alloc(pieces_of(net) * sizeof *o->partials);
    o->scratch = mem_alloc(scratch * sizeof *o->scratch);
    if (rc) optim_release(o);
    return rc;
}

void optim_release(struct optim *o)
{
    if (!o->net) return;
    mem_unmap(o->m, o->net->floats * sizeof *o->m);
    mem_unmap(o->v, o->net->floats * sizeof *o->v);
    free(o->rates);
    free(o->partials);
    free(o->scratch);
    memset(o, 0, sizeof *o);
}

struct job {
    struct optim *o;
    const struct grad_kernels *g;
    float *w;
    const float *grad;
    float lr;
    struct adamw a; /* decay is per learning rate */
};

static void norm_pieces(void *arg, size_t begin, size_t end, int worker)
{
    const struct job *j = arg;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        size_t left = j->o->net->floats - i * PIECE;
        j->o->partials[i] = j->g->sum_squares(j->grad + i * PIECE, left < PIECE ? left : PIECE);
    }
}

static double norm(const struct job *j, struct pool *pool)
{
    double sum = 0;
    pool_for(pool, pieces_of(j->o->net), 1, norm_pieces, (void *)(uintptr_t)j);
    for (size_t i = 0; i < pieces_of(j->o->net); i++)
        sum += j->o->partials[i];
    return sqrt(sum);
}

/* The part of tensor i that lies in floats [from, to) of the layout. */
static void update(const struct job *j, size_t i, size_t from, size_t to)
{
    const struct net *net = j->o->net;
    const struct net_tensor *t = &net->tensors[i];
    size_t begin = t->offset > from ? t->offset : from, end = t->offset + t->elements;
    if (end > to) end = to;
    if (begin >= end) return;
    struct adamw a = j->a;
    int cores = t->core < 0 ? 1 : net->layers[t->layer].linear[t->linear].shape.d;
    a.lr = j->lr * j->o->rates[i];
    a.decay = t->kind == CHECKPOINT_WEIGHT ? j->lr * a.decay / (float)cores : 0;
    j->g->adamw(j->w + begin, j->grad + begin, j->o->m + begin, j->o->v + begin, end - begin, &a);
}

static void update_pieces(void *arg, size_t begin, size_t end, int worker)
{
    const struct job *j = arg;
    const struct net *net = j->o->net;
    (void)worker;
    for (size_t p = begin; p < end; p++) {
        size_t lo = 0, hi = net->n_tensors; /* the first tensor that ends after the piece begins */
        while (lo < hi) {
            size_t mid = (lo + hi) / 2;
            if (net->tensors[mid].offset + net->tensors[mid].elements <= p * PIECE)
                lo = mid + 1;
            else
                hi = mid;
        }
        for (; lo < net->n_tensors && net->tensors[lo].offset < (p + 1) * PIECE; lo++)
            update(j, lo, p * PIECE, (p + 1) * PIECE);
    }
}

static void find_rates(struct optim *o, const struct compute *c, const float *w)
{
    const struct net *net = o->net;
    for (size_t i = 0; i < net->n_tensors; i++) {
        const struct net_tensor *t = &net->tensors[i];
        if (t->core <= 0 || o->o.one_rate) o->rates[i] = 1;
        if (t->core != 0 || o->o.one_rate) continue;
        const struct net_linear *l = &net->layers[t->layer].linear[t->linear];
        const float *cores[TTM_MAX_CORES];
        for (int k = 0; k < l->shape.d; k++)
            cores[k] = w + l->core[k];
        optim_core_rates(c, &l->shape, cores, o->rates + i, o->scratch); /* cores are successive */
    }
}

double optim_step(struct optim *o, const struct compute *c, float *w, const float *grad, float lr,
                  uint64_t step)
{
    struct job j = {.o = o, .g = grad_kernels(c->k), .w = w, .grad = grad, .lr = lr};
    double length = norm(&j, c->pool), t = (double)step;
    if (!isfinite(length)) return length;
    find_rates(o, c, w);
    j.a = (struct adamw){.beta1 = o->o.beta1,
                         .beta2 = o->o.beta2,
                         .eps = o->o.eps,
                         .decay = o->o.decay,
                         .grad_scale = 1};
    j.a.correction1 = (float)(1 / (1 - pow((double)o->o.beta1, t)));
    j.a.correction2 = (float)(1 / (1 - pow((double)o->o.beta2, t)));
    if (o->o.clip > 0 && length > (double)o->o.clip)
        j.a.grad_scale = (float)((double)o->o.clip / length);
    pool_for(c->pool, pieces_of(o->net), 1, update_pieces, &j);
    return length;
}
