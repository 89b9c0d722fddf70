/* From cores and two plans to a layer that computes. All the work that does not depend on x happens
 * here, once: merging, rounding to the resident type, packing, and for a resident W its rebuild, by
 * the same code that rebuilds it into scratch, so that both ways give the same bits. A model has dozens of
 * layers, so that what making one takes for a while is kept in a room for the next. */
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

/* What a layer is made from, and for whom. */
struct making {
    const struct ttm *w;
    enum dtype dtype;
    const struct compute *c;
    struct ttm_room *room;
    const char *what;
    struct err *err;
};

static int room_take(struct ttm_room_part *r, size_t bytes, const struct making *t)
{
    if (bytes <= r->bytes) return 0;
    mem_unmap(r->at, r->bytes);
    *r = (struct ttm_room_part){0};
    int rc = mem_map(&r->at, bytes, t->what, t->err);
    if (!rc) r->bytes = bytes;
    return rc;
}

void ttm_room_release(struct ttm_room *r)
{
    mem_unmap(r->rows.at, r->rows.bytes);
    mem_unmap(r->left.at, r->left.bytes);
    mem_unmap(r->scratch.at, r->scratch.bytes);
    *r = (struct ttm_room){0};
}

/* Cores first..last-1 merged, as a row-major (k, n), packed. */
static int merge(struct packed *out, const struct making *t, int first, int last,
                 struct merge_strides to, enum dtype dtype, size_t k, size_t n)
{
    int rc = room_take(&t->room->rows, k * n * sizeof(float), t);
    if (!rc) rc = merge_group(t->room->rows.at, t->w, first, last, to, t->err);
    if (!rc) rc = merge_pack(out, t->room->rows.at, dtype, k, n, t->c, t->what, t->err);
    return rc;
}

/* The weights of one step, (k, n) with k = (m, bonds..), n = (n, bonds..), both row-major. */
static int hold_step(struct packed *out, const struct making *t, const struct ttm_plan *p,
                     const struct ttm_step *st)
{
    int first = p->first[st->group], last = p->first[st->group + 1];
    size_t ra = (size_t)t->w->shape.r[first], rb = (size_t)t->w->shape.r[last];
    struct merge_strides to;
    size_t in_k = 1, in_n = 1; /* what stands right of the mode, in k and in n */
    to.b = st->right_open ? st->n : 1;
    *(st->right_open ? &in_k : &in_n) *= rb;
    to.a = st->left_open ? in_k * st->n : in_n;
    *(st->left_open ? &in_k : &in_n) *= ra;
    to.i = in_k * st->n;
    to.j = in_n;
    return merge(out, t, first, last, to, t->dtype, st->k, st->n);
}

static int hold_contract(struct ttm_held *h, const struct making *t, const struct ttm_plan *p)
{
    ttm_plan_steps(&h->steps, p, &t->w->shape);
    int rc = 0;
    for (int i = 0; !rc && i < h->steps.n; i++)
        rc = hold_step(&h->group[i], t, p, &h->steps.step[i]);
    return rc;
}

/* The two factors of W: left (iL, jL, r), right (r, iR, jR). The left one is lent by the room unless they are to
 * be kept. */
static int hold_factors(struct ttm_held *h, const struct making *t, const struct ttm_plan *p,
                        bool keep)
{
    const struct ttm_shape *s = &t->w->shape;
    plan_tiles(&h->tiles, p, s);
    const struct plan_tiles *q = &h->tiles;
    size_t left = q->rank;
    for (int k = 0; k < p->split; k++)
        left *= (size_t)s->m[k] * (size_t)s->n[k];
    struct ttm_room_part own = {0}, *part = keep ? &own : &t->room->left;
    int rc = room_take(part, left * sizeof(float), t);
    if (rc) return rc;
    h->left = part->at;
    h->left_bytes = own.bytes;
    rc = merge_group(h->left, t->w, 0, p->split,
                     (struct merge_strides){0, q->n_left * q->rank, q->rank, 1}, t->err);
    if (!rc)
        rc = merge(&h->right, t, p->split, s->d, (struct merge_strides){q->width, q->n_right, 1, 0},
                   DTYPE_F32, q->rank, q->width);
    return rc;
}

/* A single core is W itself, up to padding. */
static int hold_single(struct ttm_held *h, const struct making *t)
{
    const struct ttm_shape *s = &t->w->shape;
    size_t in = (size_t)s->in, out = (size_t)s->out, n = (size_t)s->n[0];
    int rc = room_take(&t->room->rows, in * out * sizeof(float), t);
    if (rc) return rc;
    float *rows = t->room->rows.at;
    for (size_t i = 0; i < in; i++)
        memcpy(rows + i * out, t->w->core[0] + i * n, out * sizeof *rows);
    return merge_pack(&h->dense, rows, t->dtype, in, out, t->c, t->what, t->err);
}

static int hold_dense(struct ttm_held *h, const struct making *t, const struct ttm_plan *p)
{
    const struct ttm_shape *s = &t->w->shape;
    if (s->d == 1) return hold_single(h, t);
    struct ttm_plan rebuild = {.method = TTM_REBUILD, .split = p->split};
    int rc = ttm_plan_finish(&rebuild, s, t->what, t->err);
    size_t bytes = (size_t)pool_threads(t->c->pool) * rebuild.worker_floats * sizeof(float);
    if (!rc) rc = hold_factors(h, t, &rebuild, false);
    if (!rc) rc = room_take(&t->room->scratch, bytes, t);
    if (!rc) rc = packed_init(&h->dense, t->dtype, (size_t)s->in, (size_t)s->out, t->what, t->err);
    if (!rc && !rebuild_pack(&h->dense, h, &rebuild, t->c, t->room->scratch.at))
        rc = merge_not_finite(t->what, t->err);
    if (h->right.data) packed_release(&h->right); /* the factors are done with */
    h->left = NULL;
    return rc;
}

static int hold(struct ttm_held *h, const struct making *t, const struct ttm_plan *p)
{
    if (p->method == TTM_CONTRACT) return hold_contract(h, t, p);
    if (p->method == TTM_REBUILD) return hold_factors(h, t, p, true);
    return hold_dense(h, t, p);
}

int ttm_linear_new(struct ttm_linear **out, const struct ttm *w,
                   const struct ttm_plan plan[TTM_ROLES], enum dtype dtype, const struct compute *c,
                   const char *what, struct err *err)
{
    struct ttm_room room = {0};
    int rc = ttm_linear_new_in(out, w, plan, dtype, c, &room, what, err);
    ttm_room_release(&room);
    return rc;
}

int ttm_linear_new_in(struct ttm_linear **out, const struct ttm *w,
                      const struct ttm_plan plan[TTM_ROLES], enum dtype dtype,
                      const struct compute *c, struct ttm_room *room, const char *what,
                      struct err *err)
{
    const struct making t = {w, dtype, c, room, what, err};
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
        if (!rc && l->held_of[r] == r) rc = hold(&l->held[r], &t, &l->plan[r]);
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
