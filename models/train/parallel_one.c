/* One process: it has everything, and agrees with itself. The Makefile chooses between this file and
 * parallel_mpi.c, so that no other file knows of MPI. */
#include "models/train/parallel.h"

int parallel_begin(struct parallel *p, struct err *err)
{
    (void)err;
    *p = (struct parallel){.size = 1};
    return 0;
}

bool parallel_mpi(void)
{
    return false;
}

void parallel_sum(const struct parallel *p, double *x, size_t n)
{
    (void)p;
    (void)x;
    (void)n;
}

void parallel_sum_floats(const struct parallel *p, float *x, size_t n)
{
    (void)p;
    (void)x;
    (void)n;
}

void parallel_copy(const struct parallel *p, void *data, size_t bytes)
{
    (void)p;
    (void)data;
    (void)bytes;
}

int parallel_agree(const struct parallel *p, int rc, struct err *err)
{
    (void)p;
    (void)err;
    return rc;
}
