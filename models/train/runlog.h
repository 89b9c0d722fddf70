#ifndef TTMD_MODELS_TRAIN_RUNLOG_H
#define TTMD_MODELS_TRAIN_RUNLOG_H

#include <stdint.h>
#include <stdio.h>

#include "engine/base/err.h"

/* The log of a run: one JSON object a line, for `ttm plot` and whoever reads JSON.
 *   {"step": 1, "loss": 9.01, "lr": 6e-06, "grad_norm": 2.1, "tokens": 2048, "tokens_per_s": 3000}
 *   {"step": 250, "valid_loss": 5.2} and, of a classifier, "accuracy": 0.8 */
struct runlog {
    FILE *f;    /* owned */
    char *path; /* owned */
};

struct runlog_step {
    uint64_t step, tokens;
    double loss, distil, lr, grad_norm, tokens_per_s; /* distil < 0: no teacher */
};

/* runlog_open -- go on with the log at `path` after step `keep` (later lines are dropped), or begin it
 * when keep is 0. Errors  ERR_IO. */
int runlog_open(struct runlog *l, const char *path, uint64_t keep, struct err *err);
int runlog_step(struct runlog *l, const struct runlog_step *s, struct err *err);
int runlog_valid(struct runlog *l, uint64_t step, double loss, double accuracy,
                 struct err *err);                  /* accuracy < 0: none */
int runlog_sync(struct runlog *l, struct err *err); /* to the disk */
void runlog_close(struct runlog *l);

#endif
