/* From cores and two plans to a layer that computes. All the work that does not depend on x happens
 * here, once: merging, rounding to the resident type, packing, and for a resident W its rebuild, by
 * the same code that rebuilds it into scratch, so that both ways give the same bits. */
#include "engine/ttm/ttm_linear.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/ttm/held.h"

struct ttm_linear {
    struct ttm_shape shape;
    enum dtype dtype;
    int threads; /* most that may compute */
    struct ttm_plan plan[TTM_ROLES];
    struct ttm_held held[TTM_ROLES];
    int held_of[TTM_ROLES]; /* role -> index in held */
};

static void release_held(struct ttm_held *h)
{
    for (int g = 0; g < TTM_MAX_CORES; g++)
        if (h->group[g].data) packed_release(&h->group[g]);
    if (h->right.data) packed_release(&h->right);
    if (h->dense.data) packed_release(&h->dense);
    mem_unmap(h->left, h->left_bytes);
    memset(h, 0, sizeof *h);
}

/* The weights of one step, (k, n) with k = (m, bonds..), n = (n, bonds..), both row-major. */
static int hold_step(struct packed *out, const struct ttm *w, const struct ttm_plan *p,
                     const struct ttm_step *st, enum dtype t, const char *what, struct err *err)
{
    int first = p->first[st->group], last = p->first[st->group + 1];
    size_t ra = (size_t)w->shape.r[first], rb = (size_t)w->shape.r[last];
    struct merge_strides to;
    size_t in_k = 1, in_n = 1; /* what stands right of the mode, in k and in n */
    to.b = st->right_open ? st->n : 1;
    *(st->right_open ? &in_k : &in_n) *= rb;
    to.a = st->left_open ? in_k * st->n : in_n;
    *(st->left_open ? &in_k : &in_n) *= ra;
    to.i = in_k * st->n;
    to.j = in_n;
    size_t bytes = st->k * st->n * sizeof(float);
    void *rows = NULL;
    int rc = mem_map(&rows, bytes, what, err);
    if (!rc) rc = merge_group(rows, w, first, last, to, err);
    if (!rc) rc = merge_pack(out, rows, t, st->k, st->n, what, err);
    mem_unmap(rows, bytes);
    return rc;
}

static int hold_contract(struct ttm_held *h, const struct ttm *w, const struct ttm_plan *p,
                         enum dtype t, const char *what, struct err *err)
{
    ttm_plan_steps(&h->steps, p, &w->shape);
    int rc = 0;
    for (int i = 0; !rc && i < h->steps.n; i++)
        rc = hold_step(&h->group[i], w, p, &h->steps.step[i], t, what, err);
    return rc;
}

/* The two factors of W: left (iL, jL, r), right (r, iR, jR). */
static int hold_factors(struct ttm_held *h, const struct ttm *w, const struct ttm_plan *p,
                        const char *what, struct err *err)
{
    plan_tiles(&h->tiles, p, &w->shape);
    const struct plan_tiles *t = &h->tiles;
    size_t left = 1;
    for (int k = 0; k < p->split; k++)
        left *= (size_t)w->shape.m[k] * (size_t)w->shape.n[k];
    size_t left_bytes = left * t->rank * sizeof(float);
    size_t right_bytes = t->rank * t->width * sizeof(float);
    void *at = NULL, *rows = NULL;
    int rc = mem_map(&at, left_bytes, what, err);
    if (rc) return rc;
    h->left = at;
    h->left_bytes = left_bytes;
    rc = merge_group(h->left, w, 0, p->split,
                     (struct merge_strides){0, t->n_left * t->rank, t->rank, 1}, err);
    if (!rc) rc = mem_map(&rows, right_bytes, what, err);
    if (!rc)
        rc = merge_group(rows, w, p->split, w->shape.d,
                         (struct merge_strides){t->width, t->n_right, 1, 0}, err);
    if (!rc) rc = merge_pack(&h->right, rows, DTYPE_F32, t->rank, t->width, what, err);
    mem_unmap(rows, right_bytes);
    return rc;
}

/* A single core is W itself, up to padding. */
static int hold_single(struct ttm_held *h, const struct ttm *w, enum dtype t, const char *what,
                       struct err *err)
{
    size_t in = (size_t)w->shape.in, out = (size_t)w->shape.out, n = (size_t)w->shape.n[0];
    void *rows = NULL;
    int rc = mem_map(&rows, in * out * sizeof(float), what, err);
    if (rc) return rc;
    for (size_t i = 0; i < in; i++)
        memcpy((float *)rows + i * out, w->core[0] + i * n, out * sizeof(float));
    rc = merge_pack(&h->dense, rows, t, in, out, what, err);
    mem_unmap(rows, in * out * sizeof(float));
    return rc;
}

/* A packed F32 matrix as one of another type. Panels are row-major matrices of PACK_N columns. */
static int narrow(struct packed *out, const struct packed *wide, enum dtype t, const char *what,
                  struct err *err)
{
    int rc = packed_init(out, t, wide->k, wide->n, what, err);
    for (size_t p = 0; !rc && p < packed_panels(wide->n); p++) {
        struct packed one = packed_columns(out, p, PACK_N), from = packed_columns(wide, p, PACK_N);
        const struct pack_source src = {.data = from.data, .dtype = DTYPE_F32};
        if (!packed_fill(&one, &src, 0, 1))
            rc = err_set(err, ERR_INVALID, "%s: its cores multiply to a number that is not finite",
                         what);
    }
    return rc;
}

static int hold_dense(struct ttm_held *h, const struct ttm *w, const struct ttm_plan *p,
                      enum dtype t, const struct compute *c, const char *what, struct err *err)
{
    if (w->shape.d == 1) return hold_single(h, w, t, what, err);
    struct ttm_plan rebuild = {.method = TTM_REBUILD, .split = p->split};
    struct packed wide = {0};
    void *scratch = NULL;
    int rc = ttm_plan_finish(&rebuild, &w->shape, what, err);
    size_t bytes = (size_t)pool_threads(c->pool) * rebuild.worker_floats * sizeof(float);
    if (!rc) rc = hold_factors(h, w, &rebuild, what, err);
    if (!rc) rc = mem_map(&scratch, bytes, what, err);
    if (!rc)
        rc = packed_init(&wide, DTYPE_F32, (size_t)w->shape.in, (size_t)w->shape.out, what, err);
    if (rc) goto out;
    rebuild_make(wide.data, h, &rebuild, &w->shape, c, scratch);
    if (t == DTYPE_F32) {
        h->dense = wide;
        memset(&wide, 0, sizeof wide);
    } else {
        rc = narrow(&h->dense, &wide, t, what, err);
    }
    packed_release(&h->right); /* the factors are done with */
    mem_unmap(h->left, h->left_bytes);
    h->left = NULL;
    h->left_bytes = 0;
out:
    mem_unmap(scratch, bytes);
    if (wide.data) packed_release(&wide);
    return rc;
}

static int hold(struct ttm_held *h, const struct ttm *w, const struct ttm_plan *p, enum dtype t,
                const struct compute *c, const char *what, struct err *err)
{
    if (p->method == TTM_CONTRACT) return hold_contract(h, w, p, t, what, err);
    if (p->method == TTM_REBUILD) return hold_factors(h, w, p, what, err);
    return hold_dense(h, w, p, t, c, what, err);
}

int ttm_linear_new(struct ttm_linear **out, const struct ttm *w,
                   const struct ttm_plan plan[TTM_ROLES], enum dtype dtype, const struct compute *c,
                   const char *what, struct err *err)
{
    int rc = ttm_shape_check(&w->shape, what, err);
    if (rc) return rc;
    if (dtype != DTYPE_F32 && dtype != DTYPE_F16 && dtype != DTYPE_BF16 && dtype != DTYPE_I8)
        return err_set(err, ERR_INVALID, "%s: weights of type %s, expected F32, F16, BF16 or I8",
                       what, dtype_name(dtype));
    struct ttm_linear *l = mem_calloc(1, sizeof *l);
    l->shape = w->shape;
    l->dtype = dtype;
    l->threads = pool_threads(c->pool);
    for (int r = 0; !rc && r < TTM_ROLES; r++) {
        l->plan[r] = plan[r];
        rc = ttm_plan_finish(&l->plan[r], &w->shape, what, err);
        l->held_of[r] = r && ttm_plan_same(&l->plan[0], &l->plan[r]) ? 0 : r;
        if (!rc && l->held_of[r] == r) rc = hold(&l->held[r], w, &l->plan[r], dtype, c, what, err);
    }
    if (rc)
        ttm_linear_free(l);
    else
        *out = l;
    return rc;
}

void ttm_linear_free(struct ttm_linear *l)
{
    if (!l) return;
    for (int r = 0; r < TTM_ROLES; r++)
        release_held(&l->held[r]);
    free(l);
}

const struct ttm_shape *ttm_linear_shape(const struct ttm_linear *l)
{
    return &l->shape;
}

const struct ttm_plan *ttm_linear_plan(const struct ttm_linear *l, enum ttm_role role)
{
    return &l->plan[role];
}

size_t ttm_linear_bytes(const struct ttm_linear *l)
{
    size_t sum = 0;
    for (int r = 0; r < TTM_ROLES; r++) {
        const struct ttm_held *h = &l->held[r];
        sum += h->left_bytes + h->right.bytes + h->dense.bytes;
        for (int g = 0; g < TTM_MAX_CORES; g++)
            sum += h->group[g].bytes;
    }
    return sum;
}

static void apply_dense(const struct packed *w, const struct compute *c,
                        const struct ttm_call *call)
{
    matmul_any(c, call->x, call->ldx, call->rows, w, call->y, call->ldy, call->e, call->scratch);
    if (call->mults)
        __atomic_fetch_add(call->mults, (uint64_t)call->rows * w->k * w->n, __ATOMIC_RELAXED);
}

void ttm_linear_apply_role(const struct ttm_linear *l, enum ttm_role role, const struct compute *c,
                           const struct ttm_call *call)
{
    const struct ttm_plan *p = &l->plan[role];
    const struct ttm_held *h = &l->held[l->held_of[role]];
    if (!call->rows) return;
    BUG_ON(pool_threads(c->pool) > l->threads);
    if (p->method == TTM_CONTRACT) {
        contract_apply(h, p, &l->shape, c, call);
    } else if (p->method == TTM_RESIDENT) {
        apply_dense(&h->dense, c, call);
    } else {
        rebuild_apply(h, p, &l->shape, c, call);
    }
}

void ttm_linear_apply(const struct ttm_linear *l, const struct compute *c, size_t n_decode,
                      size_t n_prefill, const float *x, size_t ldx, float *y, size_t ldy,
                      const struct epilogue *e, float *scratch)
{
    struct ttm_call call = {
        .rows = n_decode, .x = x, .ldx = ldx, .y = y, .ldy = ldy, .e = e, .scratch = scratch};
    ttm_linear_apply_role(l, TTM_DECODE, c, &call);
    struct epilogue rest = e ? *e : (struct epilogue){0};
    if (rest.residual) rest.residual += n_decode * rest.ldr;
    call.rows = n_prefill;
    call.x = x + n_decode * ldx;
    call.y = y + n_decode * ldy;
    call.e = &rest;
    ttm_linear_apply_role(l, TTM_PREFILL, c, &call);
}

static size_t role_scratch(const struct ttm_linear *l, enum ttm_role role, size_t rows)
{
    const struct ttm_plan *p = &l->plan[role];
    if (!rows) return 0;
    if (p->method == TTM_CONTRACT)
        return contract_scratch_floats(p, &l->shape, l->dtype, l->threads);
    size_t floats = ttm_plan_scratch(p, l->threads);
    if (p->method == TTM_RESIDENT)
        floats += matmul_scratch_floats(&l->held[l->held_of[role]].dense, rows);
    return floats;
}

size_t ttm_linear_scratch_floats(const struct ttm_linear *l, size_t max_decode, size_t max_prefill)
{
    size_t d = role_scratch(l, TTM_DECODE, max_decode);
    size_t p = role_scratch(l, TTM_PREFILL, max_prefill);
    return d > p ? d : p;
}
