/* Finding and checking a layer's cores. Everything that a file may get wrong is said here, in terms of
 * the tensor that has it wrong; behind this point a TTM is known to be well formed.
 *
 * The tensors are looked through once per layer instead of through an index: there are some hundred
 * of each, and every user (loader, inspect, compress, training) can call it on a bare set. */
#include "engine/gpt2/ttm_tensors.h"

#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MOST_PADDING 4 /* factors may multiply to less than so many times the dimension */

static bool skip_prefix(const char **s, const char *prefix)
{
    size_t n = strlen(prefix);
    if (strncmp(*s, prefix, n) != 0) return false;
    *s += n;
    return true;
}

const char *ttm_tensors_key(const char *name)
{
    while (skip_prefix(&name, "module.") || skip_prefix(&name, "transformer."))
        ;
    return name;
}

/* The k of "LAYER.ttm.cores.k" or "LAYER.ttm.tt.cores.k"; -1 for any other name. */
static int core_index(const char *name, const char *layer)
{
    const char *key = ttm_tensors_key(name);
    if (!skip_prefix(&key, layer) || !skip_prefix(&key, ".ttm.")) return -1;
    skip_prefix(&key, "tt.");
    if (!skip_prefix(&key, "cores.") || *key < '0' || *key > '9') return -1;
    if (*key == '0' && key[1]) return -1;
    char *end;
    long k = strtol(key, &end, 10);
    return *end || k > INT_MAX ? -1 : (int)k;
}

static int collect(struct ttm_tensors *t, const struct st_set *st, const char *layer,
                   struct err *err)
{
    int last = -1;
    for (size_t i = 0; i < st_count(st); i++) {
        const struct st_tensor *s = st_at(st, i);
        int k = core_index(s->name, layer);
        if (k < 0) continue;
        if (k >= TTM_MAX_CORES)
            return err_set(err, ERR_INVALID, "%s: tensor %s: a TTM has cores 0 to %d at most",
                           s->file, s->name, TTM_MAX_CORES - 1);
        if (t->core[k])
            return err_set(err, ERR_INVALID, "tensors %s and %s are the same core",
                           t->core[k]->name, s->name);
        t->core[k] = s;
        if (k > last) last = k;
    }
    for (int k = 0; k < last; k++)
        if (!t->core[k])
            return err_set(err, ERR_MISSING,
                           "core %d of %s is missing from the checkpoint: %s is there", k, layer,
                           t->core[last]->name);
    t->shape.d = last + 1;
    return 0;
}

static int check_core(const struct st_tensor *s, struct err *err)
{
    if (s->dtype != DTYPE_F32 && s->dtype != DTYPE_F16 && s->dtype != DTYPE_BF16)
        return err_set(err, ERR_UNSUPPORTED,
                       "%s: tensor %s has dtype %s, expected F32, F16 or BF16", s->file, s->name,
                       dtype_name(s->dtype));
    if (s->n_dims != 4)
        return err_set(err, ERR_INVALID,
                       "%s: tensor %s has %d dimensions, expected 4: rank, in, out, rank", s->file,
                       s->name, s->n_dims);
    for (int i = 0; i < 4; i++) {
        size_t most = i % 3 ? INT_MAX : TTM_MAX_RANK;
        if (s->shape[i] < 1 || s->shape[i] > most)
            return err_set(err, ERR_INVALID,
                           "%s: tensor %s has %zu in dimension %d, expected 1 to %zu", s->file,
                           s->name, s->shape[i], i, most);
    }
    return 0;
}

/* Neighbours' ranks, and ranks of 1 at both ends. */
static int check_chain(const struct ttm_tensors *t, struct err *err)
{
    const struct st_tensor *first = t->core[0], *last = t->core[t->shape.d - 1];
    if (first->shape[0] != 1)
        return err_set(err, ERR_INVALID, "%s: tensor %s begins with rank %zu, expected 1",
                       first->file, first->name, first->shape[0]);
    for (int k = 1; k < t->shape.d; k++) {
        const struct st_tensor *a = t->core[k - 1], *b = t->core[k];
        if (a->shape[3] != b->shape[0])
            return err_set(err, ERR_INVALID,
                           "%s: tensor %s begins with rank %zu, expected %zu, with which %s ends",
                           b->file, b->name, b->shape[0], a->shape[3], a->name);
    }
    if (last->shape[3] != 1)
        return err_set(err, ERR_INVALID, "%s: tensor %s ends with rank %zu, expected 1", last->file,
                       last->name, last->shape[3]);
    return 0;
}

static int check_product(const struct ttm_tensors *t, int axis, size_t dim, const char *layer,
                         struct err *err)
{
    size_t product = 1;
    for (int k = 0; k < t->shape.d; k++)
        if (product < MOST_PADDING * dim) product *= t->core[k]->shape[axis];
    if (product >= dim && product < MOST_PADDING * dim) return 0;
    return err_set(err, ERR_INVALID,
                   "%s: the cores' %s factors multiply to %s%zu for a dimension of %zu, expected "
                   "%zu to %zu",
                   layer, axis == 1 ? "input" : "output", product < dim ? "" : "at least ", product,
                   dim, dim, MOST_PADDING * dim - 1);
}

int ttm_tensors_find(struct ttm_tensors *out, const struct st_set *st, const char *layer, size_t in,
                     size_t n_out, struct err *err)
{
    struct ttm_tensors t = {0};
    int rc = collect(&t, st, layer, err);
    if (rc || t.shape.d == 0) return rc;
    for (int k = 0; !rc && k < t.shape.d; k++)
        rc = check_core(t.core[k], err);
    if (!rc) rc = check_chain(&t, err);
    if (!rc) rc = check_product(&t, 1, in, layer, err);
    if (!rc) rc = check_product(&t, 2, n_out, layer, err);
    if (rc) return rc;
    t.shape.in = (int)in;
    t.shape.out = (int)n_out;
    t.shape.r[0] = 1;
    for (int k = 0; k < t.shape.d; k++) {
        t.shape.m[k] = (int)t.core[k]->shape[1];
        t.shape.n[k] = (int)t.core[k]->shape[2];
        t.shape.r[k + 1] = (int)t.core[k]->shape[3];
    }
    rc = ttm_shape_check(&t.shape, layer, err);
    if (rc) return rc;
    *out = t;
    return 1;
}

static int refuse(const struct st_tensor *s, size_t i, float x, struct err *err)
{
    size_t n = s->shape[3], at[4];
    for (int k = 3; k >= 0; k--) {
        n = s->shape[k];
        at[k] = i % n;
        i /= n;
    }
    return err_set(err, ERR_INVALID, "%s: tensor %s has %s at [%zu, %zu, %zu, %zu]", s->file,
                   s->name, isnan(x) ? "a NaN" : "an infinity", at[0], at[1], at[2], at[3]);
}

int ttm_tensors_load(struct ttm *out, const struct ttm_tensors *t, const char *layer,
                     struct err *err)
{
    struct ttm w;
    int rc = ttm_init(&w, &t->shape, layer, err);
    for (int k = 0; !rc && k < t->shape.d; k++) {
        const struct st_tensor *s = t->core[k];
        dtype_to_f32(w.core[k], s->data, s->dtype, s->elements);
        for (size_t i = 0; !rc && i < s->elements; i++)
            if (!isfinite(w.core[k][i])) rc = refuse(s, i, w.core[k][i], err);
    }
    if (rc)
        ttm_release(&w);
    else
        *out = w;
    return rc;
}
