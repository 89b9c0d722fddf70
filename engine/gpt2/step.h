#ifndef TTMD_GPT2_STEP_H
#define TTMD_GPT2_STEP_H

#include "engine/gpt2/model.h"

/* A step on its way through the layers (forward.c); what attention.c and blocks.c see of it. */

/* Up to ATTEND_MAX_Q successive queries of one sequence. */
struct tile {
    int seq, row0, pos0, nq;
};

struct step {
    const struct gpt2 *m;
    const struct compute *c;
    const struct kv_store *kv;
    const struct gpt2_step *in;
    struct linear_rows rows;
    size_t t;              /* rows of the step */
    size_t blocks;         /* that blocks.c takes them in; 0 = layer by layer */
    float *x;              /* (T, C) residual stream */
    float *a;              /* (T, C), stride ld_a */
    float *wide;           /* (T, 3C), then (T, n_inner) with stride ld_inner */
    size_t ld_a, ld_inner; /* floats; as products like them, without padding for a tap */
    const float *q;        /* (T, C) queries, stride ldq; part of wide */
    size_t ldq;
    int32_t *row_seq;   /* (T) sequence of a row */
    int32_t *row_pos;   /* (T) its position */
    struct tile *tiles; /* (n_tiles <= T) by row; only singles may lie in two blocks */
    size_t n_tiles;
    size_t singles; /* leading tiles that are all rows of their sequences: mostly decoding */
    bool late;      /* attention itself is to store the keys and values of singles */
    float *attend;  /* (threads, attention_floats()) */
    float *linear;  /* for linear_apply(), or of blocks */
};

/* step_grain -- items of a piece of work for the pool, of `ops` multiplications each. */
size_t step_grain(size_t ops);

#endif
