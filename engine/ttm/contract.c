/* Contracting merged groups against rows of x: any number of groups in any order. (Two groups, which is
 * what plans mostly have, go another way: contract_pair.c.) Rows go through all steps in chunks, so that the
 * intermediates, which can be tens of times larger than the rows, stay in cache: two buffers, from
 * one to the other at every reordering and every product.
 *
 * With many rows each thread takes chunks of its own and no thread waits for another between steps;
 * with few rows the chunks come one after the other and each product is split over the pool by
 * columns. Groups of 8-bit numbers have the rows of each product quantised, in a part of scratch behind the
 * buffers. Both give the same bits: the kernels' sums for a row do not depend on the rows around it. */
#include <string.h>

#include "engine/ttm/held.h"

#define ROWS_PER_THREAD 32 /* fewer rows of a product than this: split its columns instead */

struct contraction {
    const struct ttm_held *h;
    const struct ttm_plan *plan;
    const struct ttm_shape *s;
    const struct kernels *k;
    const struct ttm_call *call;
    size_t piece; /* rows per chunk */
    size_t worker_floats;
};

/* dst = src with its axes reordered, for one row. */
static void reorder(const struct ttm_permutation *p, const float *src, float *dst)
{
    if (p->n == 0) {
        *dst = *src;
        return;
    }
    size_t at[TTM_MAX_AXES] = {0}, inner = p->dim[p->n - 1], step = p->stride[p->n - 1];
    for (;;) {
        if (step == 1)
            memcpy(dst, src, inner * sizeof *dst);
        else
            for (size_t i = 0; i < inner; i++)
                dst[i] = src[i * step];
        dst += inner;
        int a = p->n - 2;
        for (; a >= 0; a--) {
            src += p->stride[a];
            if (++at[a] < p->dim[a]) break;
            src -= p->dim[a] * p->stride[a];
            at[a] = 0;
        }
        if (a < 0) return;
    }
}

void contract_finish_row(const struct ttm_call *call, const struct ttm_shape *s,
                         const struct kernels *k, const float *row, size_t index)
{
    struct epilogue e = call->e ? *call->e : (struct epilogue){0};
    if (e.residual) e.residual += index * e.ldr;
    k->finish_row(call->y + index * call->ldy, row, (size_t)s->out, &e);
}

/* The state of one chunk: where its rows are now, and the buffer that is free. */
struct state {
    const float *at;
    size_t ld;
    float *buffer[2];
    int next;
};

static float *flip(struct state *q)
{
    float *b = q->buffer[q->next];
    q->next ^= 1;
    return b;
}

/* x as the steps want it: full width, without gaps where a product takes several rows of it. */
static void enter(const struct contraction *t, struct state *q, size_t rows)
{
    size_t full = ttm_shape_rows(&t->s[0]), in = (size_t)t->s->in;
    const struct ttm_step *st = &t->h->steps.step[0];
    bool gaps = q->ld != full && st->in.identity && st->rows > 1;
    if (full == in && !gaps) return;
    float *to = flip(q);
    for (size_t r = 0; r < rows; r++) {
        memcpy(to + r * full, q->at + r * q->ld, in * sizeof *to);
        memset(to + r * full + in, 0, (full - in) * sizeof *to);
    }
    q->at = to;
    q->ld = full;
}

static void prepare(const struct ttm_step *st, struct state *q, size_t rows)
{
    if (st->in.identity) return;
    float *to = flip(q);
    size_t width = st->rows * st->k;
    for (size_t r = 0; r < rows; r++)
        reorder(&st->in, q->at + r * q->ld, to + r * width);
    q->at = to;
    q->ld = width;
}

static void leave(const struct contraction *t, struct state *q, size_t row0, size_t rows)
{
    float *row = flip(q);
    for (size_t r = 0; r < rows; r++) {
        const float *src = q->at + r * q->ld;
        if (t->h->steps.out.identity)
            memcpy(row, src, (size_t)t->s->out * sizeof *row);
        else
            reorder(&t->h->steps.out, src, row);
        contract_finish_row(t->call, t->s, t->k, row, row0 + r);
    }
}

/* The last product may write y itself when its rows are y's rows. */
static bool direct(const struct contraction *t)
{
    const struct ttm_steps *s = &t->h->steps;
    const struct ttm_step *last = &s->step[s->n - 1];
    return last->rows == 1 && s->out.identity && last->n == (size_t)t->s->out;
}

static void run_chunk(const struct contraction *t, const struct compute *c, size_t row0,
                      size_t rows, float *scratch)
{
    const struct ttm_call *call = t->call;
    float *quantised = scratch + t->plan->worker_floats;
    struct state q = {.at = call->x + row0 * call->ldx,
                      .ld = call->ldx,
                      .buffer = {scratch, scratch + t->plan->worker_floats / 2}};
    enter(t, &q, rows);
    for (int i = 0; i < t->h->steps.n; i++) {
        const struct ttm_step *st = &t->h->steps.step[i];
        prepare(st, &q, rows);
        size_t all = rows * st->rows, ld = st->rows == 1 ? q.ld : st->k;
        if (call->mults)
            __atomic_fetch_add(call->mults, (uint64_t)all * st->k * st->n, __ATOMIC_RELAXED);
        if (i + 1 == t->h->steps.n && direct(t)) {
            struct epilogue e = call->e ? *call->e : (struct epilogue){0};
            if (e.residual) e.residual += row0 * e.ldr;
            matmul_any(c, q.at, ld, all, &t->h->group[i], call->y + row0 * call->ldy, call->ldy, &e,
                       quantised);
            return;
        }
        float *to = flip(&q);
        matmul_any(c, q.at, ld, all, &t->h->group[i], to, st->n, NULL, quantised);
        q.at = to;
        q.ld = st->rows * st->n;
    }
    leave(t, &q, row0, rows);
}

static void run_pieces(void *arg, size_t begin, size_t end, int worker)
{
    const struct contraction *t = arg;
    struct compute alone = {.pool = NULL, .k = t->k};
    float *scratch = t->call->scratch + (size_t)worker * t->worker_floats;
    for (size_t i = begin; i < end; i++) {
        size_t row0 = i * t->piece, rows = t->call->rows - row0;
        run_chunk(t, &alone, row0, rows < t->piece ? rows : t->piece, scratch);
    }
}

size_t contract_scratch_floats(const struct ttm_plan *p, const struct ttm_shape *s, enum dtype t,
                               int threads)
{
    size_t floats = p->worker_floats, most = 0;
    if (t == DTYPE_I8 && p->groups == 2) {
        floats = contract_int8_worker_floats(p, s);
    } else if (t == DTYPE_I8) {
        struct ttm_steps st;
        ttm_plan_steps(&st, p, s);
        for (int i = 0; i < st.n; i++) {
            size_t n = quantised_floats(p->chunk_rows * st.step[i].rows, st.step[i].k);
            if (n > most) most = n;
        }
    }
    return (size_t)threads * (floats + most);
}

void contract_apply(const struct ttm_held *h, const struct ttm_plan *p, const struct ttm_shape *s,
                    const struct compute *c, const struct ttm_call *call)
{
    bool int8 = h->group[0].dtype == DTYPE_I8;
    if (p->groups == 2) {
        (int8 ? contract_int8_apply : contract_pair_apply)(h, p, s, c, call);
        return;
    }
    struct contraction t = {.h = h, .plan = p, .s = s, .k = c->k, .call = call};
    t.worker_floats = contract_scratch_floats(p, s, h->group[0].dtype, 1);
    size_t threads = (size_t)pool_threads(c->pool), fewest = SIZE_MAX;
    for (int i = 0; i < h->steps.n; i++)
        if (h->steps.step[i].rows < fewest) fewest = h->steps.step[i].rows;
    size_t rounds = (call->rows + threads * p->chunk_rows - 1) / (threads * p->chunk_rows);
    t.piece = (call->rows + threads * rounds - 1) / (threads * rounds);
    if (threads > 1 && t.piece * fewest >= ROWS_PER_THREAD) {
        pool_for(c->pool, (call->rows + t.piece - 1) / t.piece, 1, run_pieces, &t);
        return;
    }
    for (size_t row0 = 0; row0 < call->rows; row0 += p->chunk_rows) {
        size_t rows = call->rows - row0;
        run_chunk(&t, c, row0, rows < p->chunk_rows ? rows : p->chunk_rows, call->scratch);
    }
}
