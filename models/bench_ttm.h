#ifndef TTMD_MODELS_BENCH_TTM_H
#define TTMD_MODELS_BENCH_TTM_H

#include "engine/base/dtype.h"
#include "models/tool.h"

struct bench_ttm_args {
    const char *dir, *kernels;
    int threads, rounds; /* 0 = all that may be used, 5 */
    enum dtype dtype;    /* of all weights: F32, BF16, I8 */
    bool json;
};

/* bench_ttm -- time every candidate plan of every kind of TTM layer in the model against dense and
 * against the chain of stored cores from left to right, at 1 to 512 rows, beside what the planner
 * predicts. Printed to t->out.
 * Errors  those of loading; ERR_INVALID when the model has no TTM layer. */
int bench_ttm(const struct tool *t, const struct bench_ttm_args *a, struct err *err);

#endif
