/* Copying weights out of the mapped file. Each tensor is split over the pool by panels, which are also
 * converted to the number format that is asked for and checked for NaN and infinity. A tensor's pages are
 * given back as soon as it is copied, so that the model is never resident twice. */
#include "engine/gpt2/weights.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

#define PIECE_BYTES (1u << 20) /* of a matrix packed by one thread in one go at most: stays in L2 */
#define PIECES 4               /* per thread at least, as products take it (matmul.c) */

struct pack_job {
    const struct weight_fill *f;
    atomic_bool bad;
};

static void pack_task(void *arg, size_t begin, size_t end, int worker)
{
    (void)worker;
    struct pack_job *j = arg;
    const struct weight_fill *f = j->f;
    const struct pack_source src = {.data = f->tensor->data,
                                    .dtype = f->tensor->dtype,
                                    .transposed = f->transposed,
                                    .scale = f->scale ? f->scale->data : NULL};
    if (!packed_fill(f->packed, &src, begin, end)) j->bad = true;
}

/* Each thread writes first, and has near its processor, what it will stream in every step: also a small matrix
 * is therefore dealt out as products deal it out. */
static bool fill_matrix(const struct weight_fill *f, const struct compute *c)
{
    struct pack_job j = {.f = f};
    size_t panels = packed_panels(f->packed->n);
    size_t most = PIECE_BYTES / packed_panel_bytes(f->packed->dtype, f->packed->k);
    size_t grain = mem_least(panels / ((size_t)pool_threads(c->pool) * PIECES), most);
    pool_for(c->pool, panels, grain ? grain : 1, pack_task, &j);
    return !j.bad;
}

static bool fill_vector(const struct weight_fill *f)
{
    const struct st_tensor *t = f->tensor;
    dtype_to_f32(f->vector, t->data, t->dtype, t->elements);
    bool finite = true;
    for (size_t i = 0; i < t->elements; i++)
        finite &= isfinite(f->vector[i]) != 0;
    return finite;
}

static int changed(const struct st_tensor *t, struct err *err)
{
    return err_set(err, ERR_IO, "%s: tensor %s changed while it was being loaded", t->file,
                   t->name);
}

/* A finite scale that makes 8-bit numbers, of up to 128, more than the type that is asked for can hold. */
static int refuse_scale(const struct weight_fill *f, struct err *err)
{
    const struct st_tensor *t = f->scale;
    const float most = (f->packed->dtype == DTYPE_BF16 ? 0x1.fep127F : FLT_MAX) / 128;
    for (size_t i = 0; i < t->elements; i++) {
        float x;
        memcpy(&x, (const char *)t->data + i * sizeof x, sizeof x);
        if (x <= most) continue;
        return err_set(err, ERR_INVALID,
                       "%s: tensor %s has %g at [%zu], expected at most %g for weights held as %s",
                       t->file, t->name, (double)x, i, (double)most, dtype_name(f->packed->dtype));
    }
    return changed(t, err);
}

/* Say which element it is: found again in the file, where its index means something. */
static int refuse(const struct weight_fill *f, struct err *err)
{
    const struct st_tensor *t = f->tensor;
    if (f->scale) return refuse_scale(f, err); /* weights_bind() has seen that all are finite */
    for (size_t i = 0; i < t->elements; i++) {
        float x;
        dtype_to_f32(&x, (const char *)t->data + i * dtype_size(t->dtype), t->dtype, 1);
        if (isfinite(x)) continue;
        const char *what = isnan(x) ? "a NaN" : "an infinity";
        if (t->n_dims == 2)
            return err_set(err, ERR_INVALID, "%s: tensor %s has %s at [%zu, %zu]", t->file, t->name,
                           what, i / t->shape[1], i % t->shape[1]);
        return err_set(err, ERR_INVALID, "%s: tensor %s has %s at [%zu]", t->file, t->name, what,
                       i);
    }
    if (f->packed && f->packed->dtype != t->dtype)
        return err_set(err, ERR_INVALID, "%s: tensor %s has a number that %s cannot hold", t->file,
                       t->name, dtype_name(f->packed->dtype));
    return changed(t, err);
}

void weight_fills_release(struct weight_fills *f)
{
    free(f->list);
    free(f->ttm);
    *f = (struct weight_fills){0};
}

double weight_fills_bytes(const struct weight_fills *fills)
{
    double sum = 0;
    for (size_t i = 0; i < fills->n; i++)
        sum += (double)fills->list[i].tensor->bytes;
    return sum;
}

double weight_ttm_bytes(const struct weight_ttm *t)
{
    return (double)ttm_shape_dense(&t->tensors.shape) * sizeof(float);
}

void weights_report(const struct weight_fills *fills, const struct gpt2_options *o, double done)
{
    double total = weight_fills_bytes(fills);
    if (!o->progress) return;
    for (size_t i = 0; i < fills->n_ttm; i++)
        total += weight_ttm_bytes(&fills->ttm[i]);
    o->progress(o->progress_arg, done / total);
}

int weights_fill(const struct weight_fills *fills, const struct compute *c,
                 const struct gpt2_options *o, struct err *err)
{
    double done = 0;
    for (size_t i = 0; i < fills->n; i++) {
        const struct weight_fill *f = &fills->list[i];
        if (!(f->vector ? fill_vector(f) : fill_matrix(f, c))) return refuse(f, err);
        st_drop(f->tensor);
        done += (double)f->tensor->bytes;
        weights_report(fills, o, done);
    }
    return 0;
}
