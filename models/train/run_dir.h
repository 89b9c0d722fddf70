#ifndef TTMD_MODELS_TRAIN_RUN_DIR_H
#define TTMD_MODELS_TRAIN_RUN_DIR_H

#include <stdbool.h>

#include "engine/base/err.h"

/* The directory of a run, which one process at a time may have: train.lock in it is locked while the
 * process lives, however it ends. The file itself stays. */
struct run_dir {
    int lock; /* descriptor; -1: not claimed */
};

/* run_dir_claim -- make the directory if need be, and lock it.
 *
 *   resume  in: a run there is to go on; out: there is one that has begun. A run that was stopped before
 *           its first state, as long as there is no model, is one that has not
 *   force   whatever run or model is there is to make room
 *
 * Errors  ERR_INVALID when a trainer is at work there, or there is a run or a model and neither flag;
 *         ERR_MISSING when there is nothing to resume; ERR_IO. Nothing is written then but the lock.
 */
int run_dir_claim(struct run_dir *d, const char *path, bool *resume, bool force, struct err *err);
void run_dir_release(struct run_dir *d);

/* run_dir_has -- whether there is a file of that name. */
bool run_dir_has(const char *path, const char *name);

#endif
