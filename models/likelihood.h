#ifndef TTMD_MODELS_LIKELIHOOD_H
#define TTMD_MODELS_LIKELIHOOD_H

#include <stdbool.h>
#include <stddef.h>

#include "models/session.h"

/* log P(continuation | context) of many pairs, as POST /v1/loglikelihood answers them. */
struct likelihood {
    const char *context, *continuation; /* borrowed, UTF-8; the continuation is not empty */
    double logprob;                     /* natural; sum over the continuation's tokens */
    size_t n_tokens;                    /* of the continuation */
    bool greedy;    /* each of these tokens is the most probable one at its place */
    bool truncated; /* the context did not fit: its beginning was left out */
};

/* likelihood_run -- fill in the results of pairs[0..n), several at a time, with a progress bar `what`.
 * The results do not depend on the order or the batch.
 * Errors  ERR_INVALID naming the number of a pair whose continuation has no tokens or more than the
 *         model's context; ERR_SHUTDOWN after a signal. */
int likelihood_run(struct session *s, struct likelihood *pairs, size_t n, const char *what,
                   struct err *err);

#endif
