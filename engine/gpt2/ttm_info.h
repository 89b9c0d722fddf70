#ifndef TTMD_GPT2_TTM_INFO_H
#define TTMD_GPT2_TTM_INFO_H

#include <stddef.h>

/* A TTM layer in words and numbers, for logs, metrics and the API. */
struct ttm_info {
    char name[48];                /* "h.3.mlp.c_fc" */
    int in, out;                  /* C_in, C_out */
    char shape[256];              /* "(8,8)(8,8)(12,8)(1,6)" */
    char ranks[256];              /* "1,64,64,6,1", after exact rounding */
    char stored_ranks[256];       /* as in the file */
    size_t params, stored_params; /* of the cores, after rounding and as stored */
    size_t dense_params;          /* in * out */
    size_t bytes;                 /* resident */
    char plan[2][96];             /* by role: decode, prefill */
    int plan_rows[2];             /* rows of a call that each is planned for */
    double mults[2];              /* multiplications of such a call, relative to dense */
    double seconds[2];            /* predicted for such a call */
};

struct gpt2;

/* ttm_info_get -- describe TTM layer i of m, 0 <= i < m->n_ttm. */
void ttm_info_get(const struct gpt2 *m, int i, struct ttm_info *out);

#endif
