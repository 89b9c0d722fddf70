/* Attention of a step's rows: where keys and values lie, and who computes which queries.
 *
 * A row's keys and values travel through the store, also within one step: they are written before any row that
 * may see them is computed. Queries go by tiles of successive ones, head by head, so that the tiles of a
 * sequence find its keys in the cache. */
#include "engine/gpt2/attention.h"

#include <string.h>

#include "engine/base/mem.h"

size_t attention_floats(const struct gpt2 *m)
{
    return mem_lines(attend_scratch_floats(m->cfg.n_embd / m->cfg.n_head, m->cfg.n_positions));
}

/* Pieces per thread: enough that an interrupted thread does not hold the others up. */
#define PIECES 8

static size_t kv_offset(const struct kv_store *kv, int layer, size_t head)
{
    return (size_t)layer * kv->layer_bytes + head * (kv->k_tile_bytes + kv->v_tile_bytes);
}

/* Keys and values of rows that a step computed: of row `begin` on; (.., C) with stride ld floats. */
struct computed {
    const float *k, *v;
    size_t ld, begin;
};

/* Rows [row, row + n) of one sequence, whose positions lie in one block, and heads [h, end): head by head, so
 * that the tile that they fill stays in L1. */
static void put_run(const struct step *s, int layer, size_t row, size_t n, size_t h, size_t end,
                    const struct computed *from)
{
    const struct kv_store *kv = s->kv;
    const struct gpt2_seq *q = &s->in->seqs[s->row_seq[row]];
    size_t block = (size_t)q->blocks[s->row_pos[row] / KV_BLOCK], d = (size_t)kv->d;
    size_t at = (row - from->begin) * from->ld;

    for (; h < end; h++) {
        char *tile = (char *)kv->base + block * kv->block_bytes + kv_offset(kv, layer, h);
        const struct kv_rows in = {.t = s->row_pos[row] % KV_BLOCK,
                                   .n = (int)n,
                                   .d = kv->d,
                                   .k = from->k + at + h * d,
                                   .v = from->v + at + h * d,
                                   .ld = from->ld};
        s->c->k->kv_put[kv_slot(kv->dtype)](tile, tile + kv->k_tile_bytes, &in);
    }
}

static void put_heads(const struct step *s, int layer, size_t begin, size_t end, size_t h,
                      size_t h_end, const struct computed *from)
{
    for (size_t row = begin, n; row < end; row += n) {
        size_t left = KV_BLOCK - (size_t)s->row_pos[row] % KV_BLOCK;
        for (n = 1; n < left && row + n < end && s->row_seq[row + n] == s->row_seq[row];)
            n++;
        put_run(s, layer, row, n, h, h_end, from);
    }
}

void attention_put(const struct step *s, int layer, size_t begin, size_t end, const float *k,
                   const float *v, size_t ld)
{
    const struct computed from = {k, v, ld, begin};
    put_heads(s, layer, begin, end, 0, (size_t)s->kv->n_head, &from);
}

/* Where a tile's attention goes. */
struct place {
    float *out; /* of the tile's first row */
    size_t ldo;
    int worker;
    bool next; /* the head behind comes next */
};

static void attend(const struct step *s, int layer, const struct tile *t, size_t head,
                   const struct place *to)
{
    const struct kv_store *kv = s->kv;
    size_t d = (size_t)kv->d, k_offset = kv_offset(kv, layer, head);
    struct attend a = {
        .q = s->q + (size_t)t->row0 * s->ldq + head * d,
        .ldq = s->ldq,
        .out = to->out + head * d,
        .ldo = to->ldo,
        .nq = t->nq,
        .pos0 = t->pos0,
        .d = kv->d,
        .scale = s->m->layers[layer].attn_scale,
        .kv = kv->base,
        .blocks = s->in->seqs[t->seq].blocks,
        .block_bytes = kv->block_bytes,
        .k_offset = k_offset,
        .v_offset = k_offset + kv->k_tile_bytes,
        .next = to->next ? kv->k_tile_bytes + kv->v_tile_bytes : 0,
        .int8 = s->c->k->int8,
        .scratch = s->attend + (size_t)to->worker * attention_floats(s->m),
    };
    s->c->k->attend[kv_slot(kv->dtype)](&a);
}

/* ---- all rows, over the pool ---- */

struct work {
    const struct step *s;
    int layer;
};

/* As rows of queries, keys and values side by side. */
static struct computed in_wide(const struct step *s)
{
    size_t c = (size_t)s->m->cfg.n_embd;
    return (struct computed){s->wide + c, s->wide + 2 * c, 3 * c, 0};
}

/* Rows of the leading tiles that are singles. */
static size_t single_rows(const struct step *s)
{
    return s->singles < s->n_tiles ? (size_t)s->tiles[s->singles].row0 : s->t;
}

/* Those whose keys and values are stored when they are attended to. */
static size_t late_rows(const struct step *s)
{
    return s->late ? single_rows(s) : 0;
}

static void put_task(void *arg, size_t begin, size_t end, int worker)
{
    const struct work *w = arg;
    const struct computed from = in_wide(w->s);
    size_t first = late_rows(w->s);

    (void)worker;
    put_heads(w->s, w->layer, first + begin, first + end, 0, (size_t)w->s->kv->n_head, &from);
}

/* A sequence with no more rows than one tile needs its new keys and values for that tile alone: a head's are stored
 * by who computes it, when their lines are wanted anyway, and nobody waits. Its heads lie side by side in each
 * block and come one after the other; tiles that share keys come one after the other for each head. */
static void attend_task(void *arg, size_t begin, size_t end, int worker)
{
    const struct work *w = arg;
    const struct step *s = w->s;
    const struct computed from = in_wide(s);
    size_t heads = (size_t)s->kv->n_head, single = s->singles * heads;

    for (size_t i = begin; i < end; i++) {
        size_t others = s->n_tiles - s->singles, j = i - single;
        size_t tile = i < single ? i / heads : s->singles + j % others;
        size_t h = i < single ? i % heads : j / others;
        const struct tile *t = &s->tiles[tile];
        size_t row = (size_t)t->row0;
        const struct place to = {s->a + row * s->ld_a, s->ld_a, worker,
                                 i < single && h + 1 < heads && i + 1 < end};
        if (i < single && s->late)
            put_heads(s, w->layer, row, row + (size_t)t->nq, h, h + 1, &from);
        attend(s, w->layer, t, h, &to);
    }
}

void attention_put_all(struct step *s, int layer)
{
    struct work w = {s, layer};

    pool_for(s->c->pool, s->t - late_rows(s), step_grain(2 * (size_t)s->m->cfg.n_embd), put_task,
             &w);
}

/* The first n tiles. */
static void attend_tiles(struct step *s, int layer, size_t n)
{
    size_t heads = (size_t)s->kv->n_head, d = (size_t)s->kv->d, keys = 0;
    struct work w = {s, layer};

    for (size_t i = 0; i < n; i++)
        keys += (size_t)s->tiles[i].nq * (size_t)(s->tiles[i].pos0 + s->tiles[i].nq);
    size_t items = heads * n, each = (size_t)pool_threads(s->c->pool) * PIECES;
    size_t grain = mem_most(items / each, step_grain(2 * d * keys / n));
    pool_for(s->c->pool, items, grain, attend_task, &w);
}

void attention_all(struct step *s, int layer)
{
    attend_tiles(s, layer, s->n_tiles);
}

void attention_singles(struct step *s, int layer)
{
    if (s->singles) attend_tiles(s, layer, s->singles);
}

/* ---- a block of rows, by one thread ---- */

/* The first tile at or behind a row. */
static const struct tile *tile_from(const struct step *s, size_t row)
{
    size_t low = 0, high = s->n_tiles;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if ((size_t)s->tiles[mid].row0 < row)
            low = mid + 1;
        else
            high = mid;
    }
    return s->tiles + low;
}

void attention_rows(const struct step *s, int layer, size_t begin, size_t end, float *out,
                    size_t ldo, int worker)
{
    size_t done = single_rows(s), c = (size_t)s->m->cfg.n_embd;
    const struct tile *first = tile_from(s, mem_most(begin, done)), *last = tile_from(s, end);

    for (size_t r = begin; r < end && r < done; r++)
        memcpy(out + (r - begin) * ldo, s->a + r * s->ld_a, c * sizeof *out);
    for (size_t h = 0; h < (size_t)s->kv->n_head; h++)
        for (const struct tile *t = first; t < last; t++) {
            const struct place to = {out + ((size_t)t->row0 - begin) * ldo, ldo, worker, false};
            attend(s, layer, t, h, &to);
        }
}
