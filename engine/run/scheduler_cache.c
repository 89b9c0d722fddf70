/* Which blocks a sequence computes and which it shares.
 *
 *     admission   [found][found][own  ][own  ]     whole blocks from the beginning
 *     later       [found][found][found][own  ]     another one has computed it first: its own goes back
 *
 * A prompt's last row is always computed, its logits are wanted; so are all rows from the first scored
 * token on. Only whole blocks are shared: nothing is ever written into a block that two sequences use,
 * so no copies are needed.
 *
 * Copies of a prompt that arrive together (n > 1) find nothing at admission, since nothing is computed
 * yet. The first of them computes, block by block; the others wait at a block's border as long as somebody
 * before them is in that very block, then look again; who is waited for is as urgent as who waits. No links
 * between sequences are kept: when the first is cancelled, the second no longer sees anybody before it.
 *
 * Where the prefix cache is off, or a request does not want it, its copies share all the same, under a salt of their
 * own; what nobody of them uses any more is forgotten at once.
 *
 * What is generated is computed by decode rows. Where these have the bits of prompt rows, generated
 * blocks are kept as well (the text will come back as the beginning of a prompt); with a TTM plan of
 * its own for either role they are not, because then a warm answer would not be a cold one. */
#include "engine/run/scheduler_seq.h"

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

/* Blocks before the first row whose logits are wanted. */
static int count_reusable(const struct job *j, int n_feed)
{
    size_t rows = n_feed > 0 ? (size_t)n_feed - 1 : 0;
    size_t scored = j->score_from > 0 ? j->score_from - 1 : 0;
    return (int)((scored < rows ? scored : rows) / KV_BLOCK);
}

/* The next block of the prompt, if it is known; takes a reference. */
static int32_t find_next(struct scheduler *s, struct seq *q)
{
    const struct job *j = q->job;
    if (!q->cache || q->pos % KV_BLOCK || q->pos / KV_BLOCK >= q->n_reusable) return -1;
    int b = q->pos / KV_BLOCK;
    int32_t found = prefix_find(&s->prefix, q->parent, j->chain[b], j->tokens + q->pos);
    if (found < 0) return -1;
    q->parent = prefix_id(&s->prefix, found);
    q->hash = j->chain[b];
    q->pos += KV_BLOCK;
    q->n_kept = b + 1;
    return found;
}

static void count_found(struct scheduler *s, struct seq *q, int tokens)
{
    if (tokens == 0) return;
    atomic_fetch_add_explicit(&q->job->cached_tokens, (size_t)tokens, memory_order_relaxed);
    scheduler_count(&s->stats.cached, tokens);
}

bool seq_reserve(struct scheduler *s, struct seq *q)
{
    struct job *j = q->job;
    int need = kv_blocks_for(job_positions(j)), found = 0;
    q->n_feed = job_feed(j);
    q->cache = j->cache;
    q->hash = j->salt;
    q->n_reusable = count_reusable(j, q->n_feed);
    for (int32_t b; (b = find_next(s, q)) >= 0; found++)
        q->blocks[found] = b;
    q->n_blocks = found;
    if (prefix_take(&s->prefix, q->blocks + found, need - found)) {
        seq_release(s, q);
        return false;
    }
    q->n_blocks = need;
    q->work = q->n_feed - q->pos;
    if (q->cache) scheduler_count(&s->stats.lookup, q->n_feed);
    count_found(s, q, q->pos);
    return true;
}

static void release_block(struct scheduler *s, const struct seq *q, int32_t block)
{
    if (q->job->fleeting)
        prefix_discard(&s->prefix, block);
    else
        prefix_unref(&s->prefix, block);
}

void seq_release(struct scheduler *s, struct seq *q)
{
    while (q->n_blocks > 0)
        release_block(s, q, q->blocks[--q->n_blocks]);
}

void seq_adopt(struct scheduler *s, struct seq *q)
{
    int begin = q->pos;
    for (int32_t b; (b = find_next(s, q)) >= 0;) {
        int32_t *own = &q->blocks[q->n_kept - 1];
        prefix_unref(&s->prefix, *own);
        *own = b;
    }
    count_found(s, q, q->pos - begin);
}

bool seq_waits_for(const struct seq *q, const struct seq *a)
{
    int b = q->pos / KV_BLOCK;
    if (!q->cache || q->pos % KV_BLOCK || b >= q->n_reusable) return false;
    return a->cache && a->pos / KV_BLOCK == b && (size_t)b < a->job->n_chain &&
           a->job->chain[b] == q->job->chain[b];
}

/* Token at position p of the text so far. */
static int32_t token_at(const struct job *j, size_t p)
{
    return p < j->n_tokens ? j->tokens[p] : j->out[p - j->n_tokens].id;
}

void seq_keep(struct scheduler *s, struct seq *q)
{
    const struct job *j = q->job;
    if (!q->cache) return;
    int full = (s->model.one_role ? q->pos : min_int(q->pos, q->n_feed)) / KV_BLOCK;
    for (int b = q->n_kept; b < full; b++) {
        int32_t tokens[KV_BLOCK];
        for (int i = 0; i < KV_BLOCK; i++)
            tokens[i] = token_at(j, (size_t)b * KV_BLOCK + (size_t)i);
        q->hash = (size_t)b < j->n_chain ? j->chain[b] : prefix_hash(q->hash, tokens);
        q->blocks[b] = prefix_put(&s->prefix, q->parent, q->hash, tokens, q->blocks[b]);
        q->parent = prefix_id(&s->prefix, q->blocks[b]);
        q->n_kept = b + 1;
    }
}

void scheduler_forget(struct scheduler *s)
{
    if (!atomic_exchange(&s->drop, false)) return;
    prefix_drop(&s->prefix);
    for (int i = 0; i < s->n_running; i++)
        s->running[i]->cache = false; /* the texts that their next blocks continue are gone */
}
