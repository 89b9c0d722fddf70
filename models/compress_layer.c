/* The work on the layers: singular value decompositions, by far the most of what compress computes. They
 * do not depend on each other, so that whole layers are the pieces that the pool hands out; BLAS stays
 * at one thread. Memory bounds how many are at work at a time.
 *
 * Errors are measured on the cores as they will be read back, narrowed to the file's type, and not taken
 * from the decomposition, which knows nothing of the narrowing, the refinement or what padding hides. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/pool.h"
#include "models/compress.h"
#include "models/progress.h"

/* Doubles that a decomposition holds at its peak, in multiples of the dense matrix. */
enum { PEAK = 10 };

#define RIDGE 1e-3 /* of the mean second moment */

struct work {
    struct compress *c;
    int (*step)(struct compress *c, struct compress_layer *x, struct err *err);
    pthread_mutex_t lock; /* of what follows */
    struct progress bar;
    int done;
};

static void some_layers(void *arg, size_t begin, size_t end, int worker)
{
    struct work *w = arg;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        struct compress_layer *x = &w->c->list[i];
        x->rc = tool_stopped(w->c->tool) ? tool_interrupted(&x->err) : w->step(w->c, x, &x->err);
        pthread_mutex_lock(&w->lock);
        w->done++;
        progress_set(&w->bar, (double)w->done / w->c->n, x->layer->name);
        pthread_mutex_unlock(&w->lock);
    }
}

static int threads_for(const struct compress *c)
{
    double largest = 1;
    for (int i = 0; i < c->n; i++)
        largest = fmax(largest, (double)c->list[i].layer->in * c->list[i].layer->out);
    double fit = (double)c->tool->cpu.memory_bytes / 2 / (largest * PEAK * sizeof(double));
    int threads = cpu_threads(&c->tool->cpu, c->threads);
    if (fit < threads) threads = (int)fit;
    return threads < 1 ? 1 : threads > c->n ? c->n : threads;
}

static int each_layer(struct compress *c, const char *what,
                      int (*step)(struct compress *, struct compress_layer *, struct err *),
                      struct err *err)
{
    struct work w = {.c = c, .step = step};
    struct pool *pool = NULL;
    int rc = pool_new(&pool, threads_for(c), err);
    if (rc) return rc;
    pthread_mutex_init(&w.lock, NULL);
    progress_start(&w.bar, c->tool->log, what);
    pool_for(pool, (size_t)c->n, 1, some_layers, &w);
    progress_end(&w.bar);
    pthread_mutex_destroy(&w.lock);
    pool_free(pool);
    for (int i = 0; !rc && i < c->n; i++)
        if (c->list[i].rc) rc = err_set(err, c->list[i].rc, "%s", c->list[i].err.msg);
    return rc;
}

/* ---- a budget: spectra first ---- */

/* The spectrum of each candidate; the one that loses least at its ranks is kept. */
static int best_spectrum(struct compress *c, struct compress_layer *x, struct err *err)
{
    (void)c;
    float *dense = NULL;
    double best = INFINITY;
    int rc = layers_dense(&dense, x->layer, err);
    for (int i = 0; !rc && i < x->n_candidates; i++) {
        struct ttm_spectrum s;
        rc = ttm_spectrum_init(&s, dense, &x->candidate[i], x->layer->name, err);
        if (rc) break;
        struct ttm_shape at = x->candidate[i];
        double error = x->n_candidates > 1 ? ttm_spectrum_error(&s, &at) : 0;
        if (error < best) {
            best = error;
            ttm_spectrum_release(&x->spectrum);
            x->spectrum = s;
        } else {
            ttm_spectrum_release(&s);
        }
    }
    free(dense);
    return rc;
}

static int spread_budget(struct compress *c, struct err *err)
{
    struct ttm_spectrum *s = mem_calloc((size_t)c->n, sizeof *s);
    struct ttm_shape *shape = mem_calloc((size_t)c->n, sizeof *shape);
    for (int i = 0; i < c->n; i++)
        s[i] = c->list[i].spectrum;
    struct err why = {0};
    int rc = ttm_budget(shape, s, NULL, c->n, c->budget, NULL, &why);
    if (rc) err_set_param(err, rc, "params", "--params: %s", why.msg);
    for (int i = 0; i < c->n; i++) {
        c->list[i].shape = shape[i];
        ttm_spectrum_release(&c->list[i].spectrum);
    }
    free(s);
    free(shape);
    return rc;
}

/* ---- decomposition ---- */

static int decompose_as(const struct compress *c, struct compress_layer *x, const float *dense,
                        const struct ttm_shape *shape, struct ttm64 *w, struct err *err)
{
    int ranks[TTM_MAX_CORES + 1];
    for (int k = 0; k <= TTM_MAX_CORES; k++)
        ranks[k] = c->goal == COMPRESS_RANK ? c->rank : shape->r[k];
    return ttm_decompose(w, dense, shape, c->goal == COMPRESS_ERROR ? NULL : ranks,
                         c->goal == COMPRESS_ERROR ? c->max_error : 0, NULL, x->layer->name, err);
}

/* For an error bound the candidate with the fewest parameters. */
static int decompose(const struct compress *c, struct compress_layer *x, const float *dense,
                     struct ttm64 *w, struct err *err)
{
    if (c->goal == COMPRESS_PARAMS) return decompose_as(c, x, dense, &x->shape, w, err);
    int rc = decompose_as(c, x, dense, &x->candidate[0], w, err);
    for (int i = 1; !rc && i < x->n_candidates; i++) {
        struct ttm64 other;
        rc = decompose_as(c, x, dense, &x->candidate[i], &other, err);
        if (rc) {
            ttm64_release(w);
        } else if (ttm_shape_params(&other.shape) < ttm_shape_params(&w->shape)) {
            ttm64_release(w);
            *w = other;
        } else {
            ttm64_release(&other);
        }
    }
    return rc;
}

/* A few steps in each core suffice when the sweeps come back to it. The ridge lets directions that the
 * text hardly shows keep some of their weight. One back and forth at a time, so that a signal need not
 * wait for all of them. */
static int refine(const struct compress *c, struct compress_layer *x, const float *dense,
                  struct ttm64 *w, struct err *err)
{
    enum { ROUNDS = 2, STEPS = 8 };
    struct ttm_refine_options o = {.sweeps = 2, .steps = STEPS, .ridge = RIDGE};
    int rc = 0;
    for (int i = 0; !rc && i < ROUNDS; i++) {
        double before;
        if (tool_stopped(c->tool)) return tool_interrupted(err);
        rc = ttm_refine(w, dense, x->moments, &o, &before, &x->output_after, err);
        if (i == 0) x->output_before = before;
    }
    return rc;
}

/* TT-SVD leaves the norm of the whole layer in the last core, and F16 may hold every weight but not that.
 * Cores count only as a product: powers of two, which cost no digit, make the largest number of each about
 * the same. */
static void level(struct ttm64 *w)
{
    const struct ttm_shape *s = &w->shape;
    int exponent[TTM_MAX_CORES], sum = 0;
    for (int k = 0; k < s->d; k++) {
        double largest = 0;
        for (size_t i = 0; i < ttm_shape_core(s, k); i++)
            largest = fmax(largest, fabs(w->core[k][i]));
        frexp(largest, &exponent[k]);
        sum += exponent[k];
    }
    for (int k = 0; k < s->d; k++) {
        int wanted = sum * (k + 1) / s->d - sum * k / s->d; /* in all, the sum */
        for (size_t i = 0; i < ttm_shape_core(s, k); i++)
            w->core[k][i] = ldexp(w->core[k][i], wanted - exponent[k]);
    }
}

/* Cores as the file will give them back. A number that its type does not hold is refused here: once it is an
 * infinity, the writer takes it for one of the model's. */
static int narrow(struct compress_layer *x, const struct ttm64 *w, enum dtype t, struct err *err)
{
    int rc = ttm64_to(&x->cores, w, x->layer->name, err);
    for (int k = 0; !rc && k < w->shape.d; k++)
        for (size_t i = 0; !rc && i < ttm_shape_core(&w->shape, k); i++) {
            float *v = &x->cores.core[k][i];
            uint16_t half;
            if (t != DTYPE_F32) {
                dtype_from_f32(&half, t, v, 1);
                dtype_to_f32(v, &half, t, 1);
            }
            if (!isfinite(*v))
                rc = err_set(err, ERR_INVALID,
                             "%s: core %d has the value %g, which is too large for %s",
                             x->layer->name, k, w->core[k][i], dtype_name(t));
        }
    return rc;
}

static int measure(struct compress_layer *x, const float *dense, struct err *err)
{
    size_t n = ttm_shape_dense(&x->cores.shape);
    float *again = malloc(n * sizeof *again);
    if (!again)
        return err_set(err, ERR_NOMEM, "%s: no memory for %zu weights of 4 bytes", x->layer->name,
                       n);
    int rc = ttm_to_dense(&x->cores, again, err);
    double lost = 0, norm = 0;
    for (size_t i = 0; !rc && i < n; i++) {
        double d = (double)dense[i] - (double)again[i];
        lost += d * d;
        norm += (double)dense[i] * (double)dense[i];
    }
    x->error = norm > 0 ? sqrt(lost / norm) : sqrt(lost);
    free(again);
    return rc;
}

static int compress_layer(struct compress *c, struct compress_layer *x, struct err *err)
{
    enum dtype t = c->dtype >= 0 ? (enum dtype)c->dtype : layers_dtype(x->layer);
    float *dense = NULL;
    struct ttm64 w = {0};
    int rc = layers_dense(&dense, x->layer, err);
    if (!rc) rc = decompose(c, x, dense, &w, err);
    if (!rc && x->moments) rc = refine(c, x, dense, &w, err);
    if (!rc && t == DTYPE_F16) level(&w);
    if (!rc) rc = narrow(x, &w, t, err);
    if (!rc) rc = measure(x, dense, err);
    ttm64_release(&w);
    free(dense);
    return rc;
}

int compress_decompose(struct compress *c, struct err *err)
{
    int rc = 0;
    if (c->goal == COMPRESS_PARAMS) {
        rc = each_layer(c, "singular values", best_spectrum, err);
        if (!rc) rc = spread_budget(c, err);
    }
    return rc ? rc : each_layer(c, "decomposing", compress_layer, err);
}
