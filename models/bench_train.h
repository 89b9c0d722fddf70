#ifndef TTMD_MODELS_BENCH_TRAIN_H
#define TTMD_MODELS_BENCH_TRAIN_H

#include "models/tool.h"

/* bench_train -- ttm bench --train: the memory that one TTM layer takes forward and backward, and the
 * speed of an optimiser step, dense and with TTM MLPs, beside the machine's SGEMM in the same rounds.
 * Everything is random; no model is read. argv as the command's.
 * Errors  those of the flags; ERR_NOMEM; ERR_SHUTDOWN after a signal. */
int bench_train(const struct tool *t, int argc, char **argv, struct err *err);

#endif
