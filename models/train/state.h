#ifndef TTMD_MODELS_TRAIN_STATE_H
#define TTMD_MODELS_TRAIN_STATE_H

#include "models/train/net.h"

/* All that a run needs to go on bit for bit: parameters and moments in f32, and where it was. It is no
 * model: it lies beside the exported one as train.state, and only the trainer reads it. */
struct train_state {
    uint64_t step;      /* steps done */
    uint64_t tokens;    /* trained on so far */
    double seconds;     /* spent in steps so far */
    double best;        /* lowest validation loss, INFINITY = none yet */
    uint64_t best_step; /* when it was */
    /* what must be the same when going on */
    uint64_t seed, batch, block, accumulate, corpus_tokens;
};

/* state_save -- atomically. w, m, v are of the net's layout; at step 0 they are what the flags make of
 * them, and left out. Errors  ERR_IO: the old file stays. */
int state_save(const char *path, const struct net *net, const struct train_state *s, const float *w,
               const float *m, const float *v, struct err *err);

/* state_load -- *s holds what must be the same (seed..corpus_tokens) and receives the rest;
 * w, m and v are left alone at step 0.
 * Errors  ERR_IO, ERR_MISSING; ERR_INVALID naming what differs from the run that was saved, or a
 *         file that is cut short; *s and the arrays may be partly written then. */
int state_load(const char *path, const struct net *net, struct train_state *s, float *w, float *m,
               float *v, struct err *err);

/* state_begun -- whether a file is the state of a run that has done a step, or none of ours. */
bool state_begun(const char *path);

#endif
