/* Which shape a layer gets. Left to itself (auto), the choice is between two ends of one trade: the shape
 * of the front that `ttm shapes` shows, whose W can have full rank, and plain low rank. Which of
 * them loses less cannot be seen from the sizes, it depends on the weights: trained matrices have
 * singular values that fall off, and low rank takes the best of them; others do not. So where the goal
 * leaves ranks open both are made, and the layer keeps the better one (compress_layer.c). */
#include <string.h>

#include "models/compress.h"

/* A shape that is larger than the layer fits it when at most a quarter is padding. */
static bool pads(size_t product, size_t size)
{
    return product >= size && product <= size + size / 4;
}

/* The share of the parameters that an `auto` shape is chosen for, when the goal is an error and nobody
 * knows them yet: 1/4 of dense. */
enum { ERROR_SHARE = 4 };

static void transpose(struct ttm_shape *s)
{
    for (int k = 0; k < s->d; k++) {
        int m = s->m[k];
        s->m[k] = s->n[k];
        s->n[k] = m;
    }
}

static bool covers(const struct ttm_shape *s, const struct layer *l)
{
    return pads(ttm_shape_rows(s), (size_t)l->in) && pads(ttm_shape_cols(s), (size_t)l->out);
}

/* The parsed shape for a layer, as it is or transposed, whichever pads less; false if neither. */
static bool fit(struct ttm_shape *out, const struct ttm_shape *s, const struct layer *l)
{
    struct ttm_shape t = *s;
    transpose(&t);
    bool a = covers(s, l), b = covers(&t, l);
    if (!a && !b) return false;
    if (a && b)
        a = ttm_shape_rows(s) * ttm_shape_cols(s) <= ttm_shape_rows(&t) * ttm_shape_cols(&t) &&
            ttm_shape_rows(s) <= ttm_shape_rows(&t);
    *out = a ? *s : t;
    out->in = l->in;
    out->out = l->out;
    return true;
}

static int given(struct compress *c, const struct option_list *shapes, struct err *err)
{
    struct ttm_shape parsed[OPTION_LIST_MAX];
    for (size_t i = 0; i < shapes->n; i++) {
        int rc = ttm_shape_parse(&parsed[i], shapes->items[i], "--shape", err);
        if (rc) return rc;
    }
    for (int i = 0; i < c->n; i++) {
        struct compress_layer *x = &c->list[i];
        size_t k = 0;
        while (k < shapes->n && !fit(&x->candidate[0], &parsed[k], x->layer))
            k++;
        if (k == shapes->n)
            return err_set_param(err, ERR_INVALID, "shape",
                                 "--shape: \"%.80s\"%s not of the size (%d,%d) of layer %s",
                                 shapes->items[0], k > 1 ? " and the others are" : " is",
                                 x->layer->in, x->layer->out, x->layer->name);
        x->n_candidates = 1;
    }
    return 0;
}

static int paper(struct compress *c, struct err *err)
{
    if (c->goal != COMPRESS_RANK)
        return err_set_param(err, ERR_INVALID, "shape",
                             "--shape: paper needs --rank, which its cores follow from");
    for (int i = 0; i < c->n; i++) {
        struct compress_layer *x = &c->list[i];
        int rc = ttm_shape_paper(&x->candidate[0], x->layer->in, x->layer->out, c->rank,
                                 x->layer->name, err);
        if (rc) return rc;
        x->n_candidates = 1;
    }
    return 0;
}

/* At a given rank there is nothing to choose by but the sizes. Low rank where no other shape is smaller
 * than dense. */
static int auto_rank(struct compress *c, struct compress_layer *x, struct err *err)
{
    struct shapes_query q = {.in = x->layer->in, .out = x->layer->out, .rank = c->rank};
    struct shapes_front f;
    struct shapes_point p;
    int rc = shapes_front_search(&f, &q, err);
    if (rc) return rc;
    if (f.n)
        p = *shapes_front_pick(&f);
    else
        shapes_front_low_rank(&p, q.in, q.out, c->rank);
    x->candidate[0] = p.shape;
    x->n_candidates = 1;
    shapes_front_release(&f);
    return 0;
}

static int auto_share(struct compress_layer *x, size_t params, struct err *err)
{
    struct shapes_query q = {.in = x->layer->in, .out = x->layer->out, .params = params};
    size_t per_rank = (size_t)q.in + (size_t)q.out;
    struct shapes_point p;
    int rc = shapes_front_fit(&p, &q, err);
    if (rc) return rc;
    x->candidate[0] = p.shape;
    x->n_candidates = 1;
    if (params < per_rank) return 0;
    shapes_front_low_rank(&p, q.in, q.out, (int)(params / per_rank));
    if (memcmp(&p.shape, &x->candidate[0], sizeof p.shape) != 0)
        x->candidate[x->n_candidates++] = p.shape;
    return 0;
}

/* The search knows sizes and numbers of parameters only. */
static int auto_shape(struct compress *c, struct compress_layer *x, double dense, struct err *err)
{
    static const char *const flags[] = {
        [COMPRESS_RANK] = "rank", [COMPRESS_ERROR] = "error", [COMPRESS_PARAMS] = "params"};
    const char *flag = flags[c->goal];
    double size = (double)x->layer->in * x->layer->out;
    double share = c->goal == COMPRESS_PARAMS ? (double)c->budget / dense : 1.0 / ERROR_SHARE;
    struct err why = {0};
    int rc = c->goal == COMPRESS_RANK ? auto_rank(c, x, &why)
                                      : auto_share(x, (size_t)(share * size), &why);
    return rc ? err_set_param(err, rc, flag, "--%s: %s: %s", flag, x->layer->name, why.msg) : 0;
}

static int automatic(struct compress *c, struct err *err)
{
    double dense = 0;
    for (int i = 0; i < c->n; i++)
        dense += (double)c->list[i].layer->in * c->list[i].layer->out;
    for (int i = 0; i < c->n; i++) {
        struct compress_layer *x = &c->list[i];
        const struct layer *same = NULL; /* a layer of the same kind has the same candidates */
        for (int j = 0; j < i && !same; j++)
            if (c->list[j].layer->kind == x->layer->kind) {
                same = c->list[j].layer;
                memcpy(x->candidate, c->list[j].candidate, sizeof x->candidate);
                x->n_candidates = c->list[j].n_candidates;
            }
        if (same) continue;
        int rc = auto_shape(c, x, dense, err);
        if (rc) return rc;
    }
    return 0;
}

int compress_shapes(struct compress *c, const struct option_list *shapes, struct err *err)
{
    bool is_auto = shapes->n == 0, is_paper = false;
    for (size_t i = 0; i < shapes->n; i++) {
        is_auto |= !strcmp(shapes->items[i], "auto");
        is_paper |= !strcmp(shapes->items[i], "paper");
    }
    if (shapes->n > 1 && (is_auto || is_paper))
        return err_set_param(err, ERR_INVALID, "shape",
                             "--shape: %s stands alone, not beside other shapes",
                             is_auto ? "auto" : "paper");
    if (is_auto) return automatic(c, err);
    return is_paper ? paper(c, err) : given(c, shapes, err);
}
