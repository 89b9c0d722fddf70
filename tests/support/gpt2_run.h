#ifndef TTMD_TESTS_GPT2_RUN_H
#define TTMD_TESTS_GPT2_RUN_H

#include "engine/gpt2/model.h"

/* A model with all that a step needs: pool, KV store, scratch. Sequences 0..n_seqs-1 own blocks that
 * are interleaved and in falling order, so that a wrong block number cannot go unnoticed. */
struct gpt2_run {
    struct gpt2 *m;
    struct kv_store kv;
    struct compute c;
    float *hidden; /* (max_tokens, C) of the last step */
    int n_seqs, seq_blocks;
    int32_t *blocks; /* (n_seqs, seq_blocks) */
    int max_tokens;
    float *scratch, *logits_scratch;
    int n_decode;  /* of the next step, 0 at first; see gpt2_run_step() */
    gpt2_tap *tap; /* of the next steps, NULL at first */
    void *tap_arg;
};

/* gpt2_run_open -- a failure ends the test. kernels NULL = the fastest. */
void gpt2_run_open(struct gpt2_run *r, const char *dir, int threads, const char *kernels,
                   enum dtype kv, int n_seqs, int max_tokens);
void gpt2_run_open_with(struct gpt2_run *r, const char *dir, const struct gpt2_options *o,
                        int threads, const char *kernels, enum dtype kv, int n_seqs,
                        int max_tokens);
void gpt2_run_close(struct gpt2_run *r);

/* One sequence's part of a step. */
struct gpt2_piece {
    int seq, pos0, n;
    const int32_t *tokens;
};

/* gpt2_run_step -- one step of these pieces, the first r->n_decode of them in the role of decoding;
 * logits (T, V) of all its rows. */
void gpt2_run_step(struct gpt2_run *r, const struct gpt2_piece *pieces, int n, float *logits);

/* gpt2_run_logits -- all positions of one sequence in pieces of `chunk` tokens. */
void gpt2_run_logits(struct gpt2_run *r, int seq, const int32_t *tokens, int n, int chunk,
                     float *logits);

/* random_tokens -- n ids below the model's vocabulary, a function of the seed. */
void random_tokens(int32_t *out, int n, int vocab, uint64_t seed);

#endif
