#ifndef TTMD_MODELS_TRAIN_PARALLEL_H
#define TTMD_MODELS_TRAIN_PARALLEL_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/err.h"

/* The processes of one training run. They do the same, each on its share of every batch; process 0
 * alone writes. Built with MPI=1 these are the processes of an MPI job (parallel_mpi.c), otherwise
 * there is one (parallel_one.c), for whom every call below is done at once.
 *
 * All calls but parallel_share() are made by all processes, in the same order.
 * Thread  main. */
struct parallel {
    int rank, size;
};

/* parallel_begin -- join the other processes; they part at the end of the program.
 * Errors  ERR_INTERNAL. */
int parallel_begin(struct parallel *p, struct err *err);

/* parallel_mpi -- whether this program was built with MPI. */
bool parallel_mpi(void);

/* parallel_sum -- x[i] = the sum over all processes, the same everywhere. */
void parallel_sum(const struct parallel *p, double *x, size_t n);
void parallel_sum_floats(const struct parallel *p, float *x, size_t n);

/* parallel_copy -- every process gets what process 0 has. */
void parallel_copy(const struct parallel *p, void *data, size_t bytes);

/* parallel_agree -- 0 when rc is 0 everywhere; otherwise every process gets the code and the message of
 * the first of those that failed. */
int parallel_agree(const struct parallel *p, int rc, struct err *err);

static inline bool parallel_writes(const struct parallel *p)
{
    return p->rank == 0;
}

/* parallel_share -- of n things this process has [*from, *from + *count); the shares differ by one at
 * most. */
static inline void parallel_share(const struct parallel *p, size_t n, size_t *from, size_t *count)
{
    size_t rank = (size_t)p->rank, size = (size_t)p->size;
    *from = n * rank / size;
    *count = n * (rank + 1) / size - *from;
}

#endif
