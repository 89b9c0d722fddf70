/* Copying weights out of the mapped file. Each tensor is split over the pool by panels; the panels
 * that a thread has just packed are still in its cache, so they are checked for NaN and infinity there
 * at almost no cost: one such weight silently turns every answer into nonsense. A tensor's pages are
 * given back as soon as it is copied, so that the model is never resident twice. */
#include "engine/gpt2/weights.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#define PIECE_BYTES (1u << 20) /* of a matrix packed by one thread in one go: stays in L2 */

/* True if any of n numbers has an exponent of all ones. Exponent + 1 then carries into the sign bit;
 * groups of 32 with a constant bound are what compilers vectorise without being asked twice. */
static bool nonfinite_f32(const void *data, size_t groups)
{
    const uint32_t *p = data;
    uint32_t any = 0;
    for (size_t g = 0; g < groups; g++, p += 32)
        for (int i = 0; i < 32; i++)
            any |= (p[i] & 0x7f800000u) + 0x00800000u;
    return any >> 31;
}

static bool nonfinite_16(const void *data, size_t groups, uint16_t exponent, uint16_t one)
{
    const uint16_t *p = data;
    uint16_t any = 0;
    for (size_t g = 0; g < groups; g++, p += 32)
        for (int i = 0; i < 32; i++)
            any = (uint16_t)(any | (uint16_t)((p[i] & exponent) + one));
    return any >> 15;
}

static bool panels_finite(const struct packed *w, size_t p0, size_t p1)
{
    size_t panel_bytes = w->k * PACK_N * dtype_size(w->dtype);
    const char *data = (const char *)w->data + p0 * panel_bytes;
    size_t groups = (p1 - p0) * w->k * (PACK_N / 32);
    if (w->dtype == DTYPE_F32) return !nonfinite_f32(data, groups);
    if (w->dtype == DTYPE_F16) return !nonfinite_16(data, groups, 0x7c00, 0x0400);
    return !nonfinite_16(data, groups, 0x7f80, 0x0080);
}

struct pack_job {
    const struct weight_fill *f;
    atomic_bool bad;
};

static void pack_task(void *arg, size_t begin, size_t end, int worker)
{
    (void)worker;
    struct pack_job *j = arg;
    packed_fill(j->f->packed, j->f->tensor->data, j->f->transposed, begin, end);
    if (!panels_finite(j->f->packed, begin, end)) j->bad = true;
}

static bool fill_matrix(const struct weight_fill *f, const struct compute *c)
{
    struct pack_job j = {.f = f};
    size_t panel_bytes = f->packed->k * PACK_N * dtype_size(f->packed->dtype);
    size_t grain = PIECE_BYTES / panel_bytes;
    pool_for(c->pool, packed_panels(f->packed->n), grain ? grain : 1, pack_task, &j);
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

/* Say which element it is: found again in the file, where its index means something. */
static int refuse(const struct st_tensor *t, struct err *err)
{
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
    return err_set(err, ERR_IO, "%s: tensor %s changed while it was being loaded", t->file,
                   t->name);
}

void weight_fills_release(struct weight_fills *f)
{
    free(f->list);
    free(f->ttm);
    *f = (struct weight_fills){0};
}

int weights_fill(const struct weight_fills *fills, const struct compute *c,
                 const struct gpt2_options *o, struct err *err)
{
    double total = 0, done = 0;
    for (size_t i = 0; i < fills->n; i++)
        total += (double)fills->list[i].tensor->bytes;
    for (size_t i = 0; i < fills->n; i++) {
        const struct weight_fill *f = &fills->list[i];
        if (!(f->vector ? fill_vector(f) : fill_matrix(f, c))) return refuse(f->tensor, err);
        st_drop(f->tensor);
        done += (double)f->tensor->bytes;
        if (o->progress) o->progress(o->progress_arg, done / total);
    }
    return 0;
}
