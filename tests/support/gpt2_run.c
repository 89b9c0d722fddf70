/* Driving a model by hand, without a scheduler. */
#include "tests/support/gpt2_run.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "tests/support/harness.h"

static float *floats(size_t n)
{
    float *p = aligned_alloc(64, mem_round_up(n * sizeof(float) + 1, 64));
    ck_assert_ptr_nonnull(p);
    memset(p, 0x7f, n * sizeof *p); /* stale scratch must not matter */
    return p;
}

void gpt2_run_open(struct gpt2_run *r, const char *dir, int threads, const char *kernels,
                   enum dtype kv, int n_seqs, int max_tokens)
{
    gpt2_run_open_with(r, dir, NULL, threads, kernels, kv, n_seqs, max_tokens);
}

void gpt2_run_open_with(struct gpt2_run *r, const char *dir, const struct gpt2_options *o,
                        int threads, const char *kernels, enum dtype kv, int n_seqs, int max_tokens)
{
    struct err err = {0};
    struct cpu cpu;
    cpu_detect(&cpu);
    *r = (struct gpt2_run){.n_seqs = n_seqs, .max_tokens = max_tokens};
    r->c.k = kernels_choose(&cpu, kernels);
    if (!r->c.k) ck_abort_msg("no kernels \"%s\" here", kernels);
    if (pool_new(&r->c.pool, threads, &err)) ck_abort_msg("%s", err.msg);
    if (gpt2_open_with(&r->m, dir, &r->c, o, &err)) ck_abort_msg("%s", err.msg);
    const struct gpt2_config *g = &r->m->cfg;
    r->seq_blocks = (g->n_positions + KV_BLOCK - 1) / KV_BLOCK;
    int all = r->seq_blocks * n_seqs;
    if (kv_store_init(&r->kv, g, kv, all, &err)) ck_abort_msg("%s", err.msg);
    memset(r->kv.base, 0x7f, r->kv.block_bytes * (size_t)all); /* nor what a block held before */
    r->blocks = mem_alloc((size_t)all * sizeof *r->blocks);
    for (int s = 0; s < n_seqs; s++)
        for (int b = 0; b < r->seq_blocks; b++)
            r->blocks[s * r->seq_blocks + b] = all - 1 - (b * n_seqs + s);
    r->hidden = floats((size_t)max_tokens * (size_t)g->n_embd);
    r->logits_scratch = floats(gpt2_logits_floats(r->m, max_tokens));
    r->scratch = floats(gpt2_scratch_floats(r->m, max_tokens, threads));
}

void gpt2_run_close(struct gpt2_run *r)
{
    gpt2_close(r->m);
    kv_store_release(&r->kv);
    pool_free(r->c.pool);
    free(r->hidden);
    free(r->logits_scratch);
    free(r->scratch);
    free(r->blocks);
}

void gpt2_run_step(struct gpt2_run *r, const struct gpt2_piece *pieces, int n, float *logits)
{
    struct gpt2_seq seqs[64];
    int t = 0;
    ck_assert_int_le(n, 64);
    for (int i = 0; i < n; i++) {
        const struct gpt2_piece *p = &pieces[i];
        seqs[i] = (struct gpt2_seq){.tokens = p->tokens,
                                    .n = p->n,
                                    .pos0 = p->pos0,
                                    .blocks = r->blocks + p->seq * r->seq_blocks};
        t += p->n;
    }
    ck_assert_int_le(t, r->max_tokens);
    struct gpt2_step step = {
        .seqs = seqs, .n_seqs = n, .n_decode = r->n_decode, .tap = r->tap, .tap_arg = r->tap_arg};
    gpt2_forward(r->m, &r->c, &r->kv, &step, r->hidden, r->scratch);
    gpt2_logits(r->m, &r->c, r->hidden, NULL, t, logits, r->logits_scratch);
}

void gpt2_run_logits(struct gpt2_run *r, int seq, const int32_t *tokens, int n, int chunk,
                     float *logits)
{
    for (int at = 0; at < n; at += chunk) {
        struct gpt2_piece p = {.seq = seq, .pos0 = at, .n = n - at < chunk ? n - at : chunk};
        p.tokens = tokens + at;
        gpt2_run_step(r, &p, 1, logits + (size_t)at * (size_t)r->m->cfg.vocab_size);
    }
}

void random_tokens(int32_t *out, int n, int vocab, uint64_t seed)
{
    for (int i = 0; i < n; i++)
        out[i] = (int32_t)(rng_uniform(seed, 77, (uint64_t)i) * vocab);
}
