/* TTM layers are described from their headers alone, as the rest of `ttm inspect` is: shapes give the
 * ranks that exact rounding leaves, the parameters and the plans; no core is read. */
#include "models/inspect_ttm.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/ttm/rates_file.h"
#include "models/layers.h"

static const struct {
    const char *key;
    enum ttm_role role;
    size_t rows;
} wanted[INSPECT_PLANS] = {{"decode_1", TTM_DECODE, 1},
                           {"decode_8", TTM_DECODE, 8},
                           {"decode_32", TTM_DECODE, 32},
                           {"prefill_128", TTM_PREFILL, 128},
                           {"prefill_1024", TTM_PREFILL, 1024}};

static int find_layers(struct inspect_ttm *out, const struct gpt2_config *cfg,
                       const struct st_set *set, struct err *warn)
{
    struct layer_kind kind[LAYERS_PER_BLOCK];
    layers_kinds(cfg, kind);
    out->layers = mem_calloc(LAYERS_PER_BLOCK * (size_t)cfg->n_layer + 1, sizeof *out->layers);
    for (int i = 0; i < cfg->n_layer; i++)
        for (int k = 0; k < LAYERS_PER_BLOCK; k++) {
            struct inspect_ttm_layer *l = &out->layers[out->n];
            struct ttm_tensors t;
            snprintf(l->name, sizeof l->name, "h.%d.%s", i, kind[k].name);
            int rc =
                ttm_tensors_find(&t, set, l->name, (size_t)kind[k].in, (size_t)kind[k].out, warn);
            if (rc <= 0) continue;
            l->stored = l->rounded = t.shape;
            ttm_shape_cap_exact(&l->rounded);
            out->stored_params += ttm_shape_params(&l->stored);
            out->rounded_params += ttm_shape_params(&l->rounded);
            out->dense_params += ttm_shape_dense(&l->stored);
            out->n++;
        }
    return out->n;
}

static int get_rates(struct ttm_rates *r, enum dtype held, const struct tool *t, struct err *err)
{
    struct compute c = {.k = kernels_choose(&t->cpu, NULL)};
    struct buf machine = {0}, path = {0};
    int rc = pool_new(&c.pool, cpu_threads(&t->cpu, 0), err);
    if (rc) return rc;
    ttm_rates_machine(&machine, &t->cpu, &c, held);
    rc = ttm_rates_get(r, held, &c, ttm_rates_path(&path, &c, held) ? path.data : NULL,
                       machine.data, NULL, err);
    buf_release(&machine);
    buf_release(&path);
    pool_free(c.pool);
    return rc;
}

static int plan_layer(struct inspect_ttm_layer *l, enum dtype held, const struct ttm_rates *m,
                      int layers, size_t other_bytes, struct err *err)
{
    int rc = 0;
    for (int i = 0; !rc && i < INSPECT_PLANS; i++) {
        struct ttm_workload w = {.rows = {wanted[i].rows, wanted[i].rows},
                                 .dtype = held,
                                 .layers = layers,
                                 .other_bytes = other_bytes,
                                 .below_dense = true};
        struct ttm_plan pair[TTM_ROLES];
        w.share[wanted[i].role] = 1;
        rc = ttm_plan_layer(pair, &l->rounded, &w, m, l->name, err);
        if (rc) break;
        l->plan[i] = pair[wanted[i].role];
        l->seconds[i] = ttm_plan_seconds(&l->plan[i], &l->rounded, wanted[i].rows, &w, m);
    }
    return rc;
}

/* The first layer of the same kind: planned once, shown once. */
static int twin_of(const struct inspect_ttm *t, int i)
{
    int k = 0;
    while (memcmp(&t->layers[k].stored, &t->layers[i].stored, sizeof t->layers[k].stored) != 0)
        k++;
    return k;
}

int inspect_ttm_open(struct inspect_ttm *out, const struct tool *t, const char *dir,
                     const struct gpt2_config *cfg, const struct st_set *set, enum dtype held,
                     size_t other_bytes, struct err *warn, struct err *err)
{
    struct ttm_rates m;
    *out = (struct inspect_ttm){0};
    int rc = layers_promised(cfg, set, dir, err);
    if (rc || !find_layers(out, cfg, set, warn)) return rc;
    rc = get_rates(&m, held, t, err);
    for (int i = 0; !rc && i < out->n; i++) {
        int k = twin_of(out, i);
        if (k == i) {
            rc = plan_layer(&out->layers[i], held, &m, out->n, other_bytes, err);
            continue;
        }
        memcpy(out->layers[i].plan, out->layers[k].plan, sizeof out->layers[k].plan);
        memcpy(out->layers[i].seconds, out->layers[k].seconds, sizeof out->layers[k].seconds);
    }
    return rc;
}

void inspect_ttm_release(struct inspect_ttm *t)
{
    free(t->layers);
    *t = (struct inspect_ttm){0};
}

static void print_kind(const struct inspect_ttm *t, int i, FILE *f)
{
    const struct inspect_ttm_layer *l = &t->layers[i];
    char shape[TTM_SHAPE_TEXT], stored[TTM_SHAPE_TEXT], ranks[TTM_SHAPE_TEXT], plan[TTM_PLAN_TEXT];
    int n = 0;
    for (int k = i; k < t->n; k++)
        n += twin_of(t, k) == i;
    ttm_shape_format(&l->stored, shape);
    ttm_shape_format_ranks(&l->stored, stored);
    ttm_shape_format_ranks(&l->rounded, ranks);
    fprintf(f, "\n%d TTM layers like %s: %d -> %d, cores %s\n", n, l->name, l->stored.in,
            l->stored.out, shape);
    fprintf(f, "  ranks      %s stored, %s after exact rounding\n", stored, ranks);
    fprintf(f, "  parameters %zu stored, %zu rounded, %.3f of %zu dense\n",
            ttm_shape_params(&l->stored), ttm_shape_params(&l->rounded),
            (double)ttm_shape_params(&l->rounded) / (double)ttm_shape_dense(&l->stored),
            ttm_shape_dense(&l->stored));
    for (int p = 0; p < INSPECT_PLANS; p++) {
        ttm_plan_format(&l->plan[p], plan);
        fprintf(f, "  %-12s %-36s %9.1f us predicted, %5.2f of dense multiplications\n",
                wanted[p].key, plan, l->seconds[p] * 1e6,
                (double)ttm_plan_mults(&l->plan[p], wanted[p].rows) /
                    ((double)wanted[p].rows * (double)ttm_shape_dense(&l->stored)));
    }
}

void inspect_ttm_print(const struct inspect_ttm *t, FILE *f)
{
    for (int i = 0; i < t->n; i++)
        if (twin_of(t, i) == i) print_kind(t, i, f);
}

static json_t *numbers(const int *v, int n)
{
    json_t *a = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(a, json_integer(v[i]));
    return a;
}

static json_t *plans_json(const struct inspect_ttm_layer *l)
{
    json_t *o = json_object();
    for (int p = 0; p < INSPECT_PLANS; p++) {
        char text[TTM_PLAN_TEXT];
        ttm_plan_format(&l->plan[p], text);
        json_object_set_new(o, wanted[p].key,
                            json_pack("{s:s, s:f, s:I}", "method", text, "predicted_us",
                                      l->seconds[p] * 1e6, "multiplications",
                                      (json_int_t)ttm_plan_mults(&l->plan[p], wanted[p].rows)));
    }
    return o;
}

json_t *inspect_ttm_json(const struct inspect_ttm *t)
{
    json_t *a = json_array();
    for (int i = 0; i < t->n; i++) {
        const struct inspect_ttm_layer *l = &t->layers[i];
        const struct ttm_shape *s = &l->stored;
        json_array_append_new(
            a, json_pack("{s:s, s:i, s:i, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:o}", "name", l->name,
                         "in", s->in, "out", s->out, "m", numbers(s->m, s->d), "n",
                         numbers(s->n, s->d), "stored_ranks", numbers(s->r, s->d + 1), "ranks",
                         numbers(l->rounded.r, s->d + 1), "stored_params",
                         (json_int_t)ttm_shape_params(s), "params",
                         (json_int_t)ttm_shape_params(&l->rounded), "dense_params",
                         (json_int_t)ttm_shape_dense(s), "plans", plans_json(l)));
    }
    return a;
}
