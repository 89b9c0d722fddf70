/* One step of the model: the tokens of many sequences as the rows of one matrix, through all layers.
 *
 *     x = embed                                    (T, C)   the residual stream, in `hidden`
 *     per layer:  a = ln_1 x                       (T, C)
 *                 q k v = a W_attn + b             (T, 3C)  k, v -> store
 *                 a = attention                    (T, C)   by (sequence, head, tile of queries)
 *                 x = x + a W_proj + b
 *                 a = ln_2 x
 *                 h = act(a W_fc + b)              (T, n_inner)
 *                 x = x + h W_proj + b
 *     x = ln_f x
 *
 * Rows mix in attention only, and there each query reads the keys of its own sequence up to itself.
 * All the rest is row by row, by kernels whose result for a row does not depend on its neighbours: so
 * neither chunking, nor batching, nor the number of threads changes a bit. That is why keys and
 * values always travel through the store, also those of the same step: a prompt in one piece reads
 * back exactly what a prompt in two pieces does, rounding to F16 or int8 included.
 *
 * Scratch is carved once per step; nothing is allocated. */
#include <string.h>

#include "engine/base/mem.h"
#include "engine/gpt2/attention.h"
#include "engine/gpt2/blocks.h"
#include "engine/gpt2/norm.h"

/* Below so many multiplications a piece of work is not worth waking another thread. */
#define PIECE_OPS 16384

/* ---- scratch ---- */

static size_t wide_cols(const struct gpt2 *m)
{
    return mem_most(3 * (size_t)m->cfg.n_embd, matmul_stride((size_t)m->cfg.n_inner));
}

static size_t tile_floats(size_t tokens)
{
    return mem_lines((tokens * sizeof(struct tile) + sizeof(float) - 1) / sizeof(float));
}

static size_t linear_floats(const struct gpt2 *m, struct linear_rows rows)
{
    size_t n = 0;
    for (int i = 0; i < m->cfg.n_layer; i++) {
        const struct gpt2_layer *l = &m->layers[i];
        n = mem_most(n, linear_scratch_floats(&l->c_attn, rows));
        n = mem_most(n, linear_scratch_floats(&l->attn_proj, rows));
        n = mem_most(n, linear_scratch_floats(&l->c_fc, rows));
        n = mem_most(n, linear_scratch_floats(&l->mlp_proj, rows));
    }
    return mem_lines(n);
}

size_t gpt2_scratch_floats(const struct gpt2 *m, int max_tokens, int threads)
{
    size_t t = (size_t)max_tokens;
    struct linear_rows all = {.n_decode = t, .n_prefill = t};
    return mem_lines(t * matmul_stride((size_t)m->cfg.n_embd)) + mem_lines(t * wide_cols(m)) +
           2 * mem_lines(t) + tile_floats(t) + (size_t)threads * attention_floats(m) +
           mem_most(linear_floats(m, all), blocks_floats(m, t, threads));
}

/* The next `floats` of scratch; void, as some of it holds indices. */
static void *take(float **at, size_t floats)
{
    void *p = *at;
    *at += mem_lines(floats);
    return p;
}

static void carve(struct step *s, float *scratch)
{
    const struct gpt2 *m = s->m;
    float *at = scratch;
    size_t c = (size_t)m->cfg.n_embd, inner = (size_t)m->cfg.n_inner;
    s->ld_a = s->in->tap ? c : matmul_stride(c);
    s->ld_inner = s->in->tap ? inner : matmul_stride(inner);
    s->a = take(&at, s->t * s->ld_a);
    s->wide = take(&at, s->t * wide_cols(m));
    s->row_seq = take(&at, s->t);
    s->row_pos = take(&at, s->t);
    s->tiles = take(&at, tile_floats(s->t));
    s->attend = take(&at, (size_t)pool_threads(s->c->pool) * attention_floats(m));
    s->linear = at;
}

/* ---- the rows of the step ---- */

static void check_seq(const struct gpt2 *m, const struct gpt2_seq *q)
{
    BUG_ON(q->n < 1 || q->pos0 < 0 || q->n > m->cfg.n_positions - q->pos0);
    for (int i = 0; i < q->n; i++)
        BUG_ON(q->tokens[i] < 0 || q->tokens[i] >= m->cfg.vocab_size);
}

static size_t count_rows(const struct gpt2 *m, const struct gpt2_step *in)
{
    size_t t = 0;
    BUG_ON(in->n_decode < 0 || in->n_decode > in->n_seqs);
    for (int i = 0; i < in->n_seqs; i++) {
        check_seq(m, &in->seqs[i]);
        t += (size_t)in->seqs[i].n;
    }
    return t;
}

/* Rows of q from j on that one tile takes: no more than to the end of the sequence, or of a block of rows. */
static int tile_rows(const struct step *s, const struct gpt2_seq *q, int row, int j, size_t *block)
{
    int n = q->n - j < ATTEND_MAX_Q ? q->n - j : ATTEND_MAX_Q;

    if (s->blocks == 0) return n;
    while (blocks_begin(s, *block + 1) <= (size_t)(row + j))
        ++*block;
    int left = (int)blocks_begin(s, *block + 1) - (row + j);
    return n < left ? n : left;
}

static void lay_out(struct step *s)
{
    int row = 0;
    size_t block = 0;
    s->n_tiles = s->singles = 0;
    for (int i = 0; i < s->in->n_seqs; i++) {
        const struct gpt2_seq *q = &s->in->seqs[i];
        bool single = q->n <= ATTEND_MAX_Q && s->singles == s->n_tiles;
        for (int j = 0; j < q->n; j++) {
            s->row_seq[row + j] = i;
            s->row_pos[row + j] = q->pos0 + j;
        }
        for (int j = 0, nq; j < q->n; j += nq) {
            nq = single ? q->n : tile_rows(s, q, row, j, &block);
            s->tiles[s->n_tiles++] =
                (struct tile){.seq = i, .row0 = row + j, .pos0 = q->pos0 + j, .nq = nq};
        }
        s->singles += single;
        row += q->n;
    }
}

size_t step_grain(size_t ops)
{
    return ops < PIECE_OPS ? PIECE_OPS / (ops ? ops : 1) : 1;
}

static void tap(const struct step *s, int layer, const char *what, const float *data, size_t cols)
{
    if (s->in->tap) s->in->tap(s->in->tap_arg, layer, what, data, s->t, cols);
}

/* ---- row by row ---- */

static void embed_task(void *arg, size_t begin, size_t end, int worker)
{
    (void)worker;
    const struct step *s = arg;
    const struct gpt2 *m = s->m;
    size_t c = (size_t)m->cfg.n_embd;
    const struct packed *wte = m->tied ? &m->head : &m->wte;
    for (size_t r = begin; r < end; r++) {
        const struct gpt2_seq *q = &s->in->seqs[s->row_seq[r]];
        const float *wpe = m->wpe + (size_t)s->row_pos[r] * c;
        float *x = s->x + r * c;
        packed_get_column(wte, (size_t)q->tokens[s->row_pos[r] - q->pos0], x);
        for (size_t i = 0; i < c; i++)
            x[i] += wpe[i];
    }
}

/* y = act(norm(x) W + b). What a tap is to see has to be there as floats. */
static void apply_to_norm(struct step *s, int i, const char *what, struct norm n,
                          const struct linear *l, float *y, size_t ldy, enum act act)
{
    if (linear_is_int8(l) && !s->in->tap) {
        struct int8_rows rows = norm_int8_all(s, n, s->linear);
        linear_apply_int8(l, s->c, &rows, s->t, y, ldy, act, NULL);
        return;
    }
    norm_all(s, n, s->a, s->ld_a);
    tap(s, i, what, s->a, (size_t)s->m->cfg.n_embd);
    linear_apply(l, s->c, s->rows, s->a, s->ld_a, y, ldy, act, NULL, s->linear);
}

/* ---- the step ---- */

/* `late`: attention_all() follows, and stores what of it can wait. */
static void qkv_by_layer(struct step *s, int i, bool late)
{
    const struct gpt2_layer *l = &s->m->layers[i];
    const struct norm ln_1 = {l->ln_1_weight, l->ln_1_bias};
    size_t c = (size_t)s->m->cfg.n_embd;

    apply_to_norm(s, i, "ln_1", ln_1, &l->c_attn, s->wide, 3 * c, ACT_NONE);
    tap(s, i, "qkv", s->wide, 3 * c);
    s->q = s->wide;
    s->ldq = 3 * c;
    s->late = late;
    attention_put_all(s, i);
}

static void mlp_by_layer(struct step *s, int i)
{
    const struct gpt2_layer *l = &s->m->layers[i];
    const struct norm ln_2 = {l->ln_2_weight, l->ln_2_bias};
    size_t c = (size_t)s->m->cfg.n_embd, inner = (size_t)s->m->cfg.n_inner;

    attention_all(s, i);
    tap(s, i, "attn", s->a, c);
    linear_apply(&l->attn_proj, s->c, s->rows, s->a, s->ld_a, s->x, c, ACT_NONE, s->x, s->linear);
    tap(s, i, "attn_resid", s->x, c);
    apply_to_norm(s, i, "ln_2", ln_2, &l->c_fc, s->wide, s->ld_inner, s->m->cfg.activation);
    tap(s, i, "act", s->wide, inner);
    linear_apply(&l->mlp_proj, s->c, s->rows, s->wide, s->ld_inner, s->x, c, ACT_NONE, s->x,
                 s->linear);
    tap(s, i, "mlp_resid", s->x, c);
}

static void run_layers(struct step *s)
{
    const struct gpt2_layer *l = s->m->layers;
    int n = s->m->cfg.n_layer;
    bool begun = false; /* the layer's front was computed with the one before */

    for (int i = 0; i < n; i++) {
        bool back = s->blocks && blocks_back_suits(&l[i]);
        if (!begun && s->blocks && blocks_front_suits(&l[i]))
            blocks_front(s, i);
        else if (!begun)
            qkv_by_layer(s, i, !back);
        begun = back && i + 1 < n && blocks_front_suits(&l[i + 1]);
        if (back)
            blocks_back(s, i, begun);
        else
            mlp_by_layer(s, i);
    }
}

void gpt2_forward(const struct gpt2 *m, const struct compute *c, const struct kv_store *kv,
                  const struct gpt2_step *in, float *hidden, float *scratch)
{
    struct step s = {.m = m, .c = c, .kv = kv, .in = in, .x = hidden};
    s.t = count_rows(m, in);
    if (s.t == 0) return;
    for (int i = 0; i < in->n_decode; i++)
        s.rows.n_decode += (size_t)in->seqs[i].n;
    s.rows.n_prefill = s.t - s.rows.n_decode;
    s.blocks = in->tap ? 0 : blocks_count(m, s.t, pool_threads(c->pool));
    carve(&s, scratch);
    lay_out(&s);
    pool_for(c->pool, s.t, step_grain(16 * (size_t)m->cfg.n_embd), embed_task, &s);
    tap(&s, -1, "embed", s.x, (size_t)m->cfg.n_embd);
    run_layers(&s);
    norm_all(&s, (struct norm){m->ln_f_weight, m->ln_f_bias}, s.x, (size_t)m->cfg.n_embd);
    tap(&s, -1, "ln_f", s.x, (size_t)m->cfg.n_embd);
}

void gpt2_logits(const struct gpt2 *m, const struct compute *c, const float *hidden,
                 const int32_t *rows, int n, float *logits, float *scratch)
{
    size_t ch = (size_t)m->cfg.n_embd, v = (size_t)m->cfg.vocab_size;
    const float *x = hidden;
    if (n < 1) return;
    if (m->head.dtype == DTYPE_I8) {
        struct int8_rows q = quantise_rows(c, hidden, ch, rows, (size_t)n, ch, scratch);
        matmul_int8(c, &q, (size_t)n, &m->head, logits, v, NULL);
        return;
    }
    if (rows) {
        for (int i = 0; i < n; i++)
            memcpy(scratch + (size_t)i * ch, hidden + (size_t)rows[i] * ch, ch * sizeof(float));
        x = scratch;
    }
    matmul(c, x, ch, (size_t)n, &m->head, logits, v, NULL);
}

size_t gpt2_logits_floats(const struct gpt2 *m, int n)
{
    size_t c = (size_t)m->cfg.n_embd;
    return mem_most((size_t)n * c, matmul_scratch_floats(&m->head, (size_t)n));
}
