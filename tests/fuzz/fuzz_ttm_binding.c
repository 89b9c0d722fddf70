/* Fuzzer: cores of a TTM layer in a checkpoint, from bytes that are a safetensors file (first byte
 * even) or that describe one, nearly right (odd). What is accepted must round, plan and compute, and
 * every method must agree with the dense matrix. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/mem.h"
#include "engine/gpt2/ttm_tensors.h"
#include "engine/ttm/round.h"
#include "engine/ttm/ttm_linear.h"

#define LAYER "h.0.mlp.c_fc"
#define MAX_CORE 4096 /* elements */
#define MAX_DENSE 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct bytes {
    const uint8_t *at, *end;
};

static unsigned take(struct bytes *b)
{
    return b->at < b->end ? *b->at++ : 0;
}

/* A header that is right unless a byte says otherwise: ranks that do not fit, five dimensions, other
 * names, other types, cores left out. */
static void describe(struct bytes *b, struct buf *image)
{
    static const char *const names[] = {"transformer.h.0.mlp.c_fc.ttm.cores.",
                                        LAYER ".ttm.tt.cores.", "module." LAYER ".ttm.cores.",
                                        LAYER ".ttm.corez."};
    struct buf header = {0}, values = {0};
    unsigned d = take(b) % 9 + 1, rank = 1;
    for (unsigned k = 0; k < d; k++) {
        unsigned odd = take(b), m = take(b) % 8 + 1, n = take(b) % 8 + 1;
        unsigned next = k + 1 < d ? take(b) % 6 + 1 : 1;
        size_t elements = (size_t)rank * m * n * next;
        if (elements > MAX_CORE || odd == 255) continue;
        buf_printf(&header, "%s\"%s%u\": {\"dtype\": \"%s\", ", header.len ? ", " : "{",
                   names[odd % 64 == 1 ? take(b) % 4 : 0], odd == 7 ? k + 1 : k,
                   odd == 9 ? "I32" : "F32");
        if (odd == 11)
            buf_printf(&header, "\"shape\": [%u, %u, %u]", rank, m * n, next);
        else
            buf_printf(&header, "\"shape\": [%u, %u, %u, %u]", odd == 13 ? rank + 1 : rank, m, n,
                       next);
        buf_printf(&header, ", \"data_offsets\": [%zu, %zu]}", values.len,
                   values.len + 4 * elements);
        for (size_t i = 0; i < elements; i++) {
            float v = odd == 15 ? NAN : (float)((int)(i * 7 + k) % 13 - 6) / 8;
            buf_append(&values, &v, sizeof v);
        }
        rank = next;
    }
    buf_puts(&header, header.len ? "}" : "{}");
    uint64_t len = header.len;
    buf_append(image, &len, sizeof len);
    buf_append(image, header.data, header.len);
    if (values.len) buf_append(image, values.data, values.len);
    buf_release(&header);
    buf_release(&values);
}

static void apply(const struct ttm *w, const float *dense, unsigned method)
{
    const struct compute c = {.k = kernels_scalar()};
    const struct ttm_workload work = {
        .rows = {2, 2}, .share = {1, 1}, .dtype = DTYPE_F32, .layers = 1, .methods = 1u << method};
    struct ttm_plan plan[TTM_ROLES];
    struct ttm_linear *l = NULL;
    size_t in = (size_t)w->shape.in, out = (size_t)w->shape.out;
    if (ttm_plan_layer(plan, &w->shape, &work, &ttm_rates_ideal, LAYER, NULL)) abort();
    if (ttm_linear_new(&l, w, plan, DTYPE_F32, &c, LAYER, NULL)) abort();
    float *x = mem_calloc(2 * in, sizeof *x), *y = mem_calloc(2 * out, sizeof *y);
    size_t bytes = mem_round_up(4 * ttm_linear_scratch_floats(l, 1, 1) + 1, 64);
    float *scratch = aligned_alloc(64, bytes);
    for (size_t i = 0; i < 2 * in; i++)
        x[i] = (float)((int)(i * 5) % 11 - 5) / 8;
    ttm_linear_apply(l, &c, 1, 1, x, in, y, out, NULL, scratch);
    for (size_t r = 0; r < 2; r++)
        for (size_t j = 0; j < out; j++) {
            double sum = 0, scale = 0;
            for (size_t i = 0; i < in; i++) {
                sum += (double)x[r * in + i] * (double)dense[i * out + j];
                scale += fabs((double)x[r * in + i] * (double)dense[i * out + j]);
            }
            if (isfinite(sum) && fabs((double)y[r * out + j] - sum) > 1e-2 * scale + 1) abort();
        }
    free(x);
    free(y);
    free(scratch);
    ttm_linear_free(l);
}

static void use(const struct ttm_tensors *t)
{
    struct ttm w = {0}, rounded = {0};
    struct err err = {0};
    size_t size = ttm_shape_dense(&t->shape);
    bool sane = true;
    if (ttm_tensors_load(&w, t, LAYER, &err)) {
        if (!err.msg[0]) abort();
        return;
    }
    for (int k = 0; k < w.shape.d; k++)
        for (size_t i = 0; i < ttm_shape_core(&w.shape, k); i++)
            sane &= fabsf(w.core[k][i]) < 16;
    if (sane && size <= MAX_DENSE) {
        float *dense = mem_alloc(size * sizeof *dense);
        if (ttm_round_exact(&rounded, &w, LAYER, NULL)) abort();
        if (ttm_to_dense(&w, dense, NULL)) abort();
        for (unsigned method = 0; method < TTM_METHODS; method++)
            apply(&rounded, dense, method);
        free(dense);
    }
    ttm_release(&w);
    ttm_release(&rounded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes b = {data, data + size};
    struct buf image = {0};
    struct st_set *set = NULL;
    bool described = take(&b) & 1;
    size_t in = take(&b) % 64 + 1, out = take(&b) % 64 + 1;
    if (described)
        describe(&b, &image);
    else if (b.at < b.end)
        buf_append(&image, b.at, (size_t)(b.end - b.at));
    if (image.len && st_parse(&set, image.data, image.len, "fuzz", NULL) == 0) {
        struct ttm_tensors t;
        struct err err = {0};
        int rc = ttm_tensors_find(&t, set, LAYER, in, out, &err);
        if (rc < 0 && (rc != err.code || !err.msg[0])) abort();
        if (rc == 1) use(&t);
        st_close(set);
    }
    buf_release(&image);
    return 0;
}
