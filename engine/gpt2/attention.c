/* Attention of a step's rows: where keys and values lie, and who computes which queries.
 *
 * A row's keys and values travel through the store, also within one step: they are written before any row that
 * may see them is computed. Queries go by tiles of successive ones, head by head, so that the tiles of a
 * sequence find its keys in the cache. */
#include "engine/gpt2/attention.h"

#include "engine/base/mem.h"

size_t attention_floats(const struct gpt2 *m)
{
    return mem_lines(attend_scratch_floats(m->cfg.n_embd / m->cfg.n_head, m->cfg.n_positions));
}

static size_t kv_offset(const struct kv_store *kv, int layer, size_t head)
{
    return (size_t)layer * kv->layer_bytes + head * (kv->k_tile_bytes + kv->v_tile_bytes);
}

/* Rows [row, row + n) of one sequence, whose positions lie in one block: head by head, so that the
 * tile that they fill stays in L1. */
static void put_run(const struct step *s, int layer, size_t row, struct kv_rows in)
{
    const struct kv_store *kv = s->kv;
    const struct gpt2_seq *q = &s->in->seqs[s->row_seq[row]];
    size_t block = (size_t)q->blocks[s->row_pos[row] / KV_BLOCK];

    in.t = s->row_pos[row] % KV_BLOCK;
    for (size_t h = 0; h < (size_t)kv->n_head; h++) {
        char *tile = (char *)kv->base + block * kv->block_bytes + kv_offset(kv, layer, h);
        s->c->k->kv_put[kv_slot(kv->dtype)](tile, tile + kv->k_tile_bytes, &in);
        in.k += kv->d;
        in.v += kv->d;
    }
}

void attention_put(const struct step *s, int layer, size_t begin, size_t end, const float *k,
                   const float *v, size_t ld)
{
    for (size_t row = begin, n; row < end; row += n) {
        size_t left = KV_BLOCK - (size_t)s->row_pos[row] % KV_BLOCK, at = (row - begin) * ld;
        for (n = 1; n < left && row + n < end && s->row_seq[row + n] == s->row_seq[row];)
            n++;
        put_run(s, layer, row,
                (struct kv_rows){.n = (int)n, .d = s->kv->d, .k = k + at, .v = v + at, .ld = ld});
    }
}

/* Where a tile's attention goes. */
struct place {
    float *out; /* of the tile's first row */
    size_t ldo;
    int worker;
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
        .int8 = s->c->k->int8,
        .scratch = s->attend + (size_t)to->worker * attention_floats(s->m),
    };
    s->c->k->attend[kv_slot(kv->dtype)](&a);
}

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
    const struct tile *first = tile_from(s, begin), *last = tile_from(s, end);

    for (size_t h = 0; h < (size_t)s->kv->n_head; h++)
        for (const struct tile *t = first; t < last; t++) {
            const struct place to = {out + ((size_t)t->row0 - begin) * ldo, ldo, worker};
            attend(s, layer, t, h, &to);
        }
}

/* ---- all rows, over the pool ---- */

struct work {
    const struct step *s;
    int layer;
};

static void put_task(void *arg, size_t begin, size_t end, int worker)
{
    const struct work *w = arg;
    const struct step *s = w->s;
    size_t c = (size_t)s->m->cfg.n_embd;
    const float *k = s->wide + begin * 3 * c + c;

    (void)worker;
    attention_put(s, w->layer, begin, end, k, k + c, 3 * c);
}

static void attend_task(void *arg, size_t begin, size_t end, int worker)
{
    const struct work *w = arg;
    const struct step *s = w->s;

    for (size_t i = begin; i < end; i++) {
        const struct tile *t = &s->tiles[i % s->n_tiles];
        const struct place to = {s->a + (size_t)t->row0 * s->ld_a, s->ld_a, worker};
        attend(s, w->layer, t, i / s->n_tiles, &to);
    }
}

void attention_put_all(struct step *s, int layer)
{
    struct work w = {s, layer};

    pool_for(s->c->pool, s->t, step_grain(2 * (size_t)s->m->cfg.n_embd), put_task, &w);
}

void attention_all(struct step *s, int layer)
{
    size_t heads = (size_t)s->kv->n_head, d = (size_t)s->kv->d, keys = 0;
    struct work w = {s, layer};

    for (size_t i = 0; i < s->n_tiles; i++)
        keys += (size_t)s->tiles[i].nq * (size_t)(s->tiles[i].pos0 + s->tiles[i].nq);
    pool_for(s->c->pool, heads * s->n_tiles, step_grain(2 * d * keys / s->n_tiles), attend_task,
             &w);
}
