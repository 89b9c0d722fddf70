/* MPI behind the few calls of parallel.h. MPI may be begun and ended once in a program, and a command may
 * be called twice in one (tests do), so it is ended when the program is. A failure inside MPI ends the
 * whole job: that is its default, and there is nothing better to do when the others cannot be reached.
 *
 * Sums are made in pieces, because counts are int. */
#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#include "models/train/parallel.h"

#define PIECE ((size_t)1 << 26) /* elements or bytes of one call */

static void finish(void)
{
    MPI_Finalize();
}

int parallel_begin(struct parallel *p, struct err *err)
{
    int begun = 0, have = 0;
    *p = (struct parallel){.size = 1};
    MPI_Initialized(&begun);
    if (!begun) {
        if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &have) != MPI_SUCCESS)
            return err_set(err, ERR_INTERNAL, "MPI cannot be initialised");
        if (atexit(finish) != 0) return err_set(err, ERR_INTERNAL, "atexit() has no room");
    }
    MPI_Comm_rank(MPI_COMM_WORLD, &p->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &p->size);
    return 0;
}

bool parallel_mpi(void)
{
    return true;
}

static void sum(void *x, size_t n, size_t width, MPI_Datatype type)
{
    for (size_t at = 0; at < n; at += PIECE) {
        size_t count = n - at < PIECE ? n - at : PIECE;
        MPI_Allreduce(MPI_IN_PLACE, (char *)x + at * width, (int)count, type, MPI_SUM,
                      MPI_COMM_WORLD);
    }
}

void parallel_sum(const struct parallel *p, double *x, size_t n)
{
    if (p->size > 1) sum(x, n, sizeof *x, MPI_DOUBLE);
}

void parallel_sum_floats(const struct parallel *p, float *x, size_t n)
{
    if (p->size > 1) sum(x, n, sizeof *x, MPI_FLOAT);
}

static void copy(void *data, size_t bytes, int from)
{
    for (size_t at = 0; at < bytes; at += PIECE) {
        size_t count = bytes - at < PIECE ? bytes - at : PIECE;
        MPI_Bcast((char *)data + at, (int)count, MPI_BYTE, from, MPI_COMM_WORLD);
    }
}

void parallel_copy(const struct parallel *p, void *data, size_t bytes)
{
    if (p->size > 1) copy(data, bytes, 0);
}

int parallel_agree(const struct parallel *p, int rc, struct err *err)
{
    struct {
        int rc;
        char msg[sizeof err->msg];
    } said = {.rc = rc};
    int first = rc ? p->rank : INT_MAX;
    if (p->size < 2) return rc;
    MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (first == INT_MAX) return 0;
    snprintf(said.msg, sizeof said.msg, "%s", err->code ? err->msg : err_code_name(rc));
    copy(&said, sizeof said, first);
    *err = (struct err){0};
    if (first) return err_set(err, said.rc, "process %d: %.480s", first, said.msg);
    return err_set(err, said.rc, "%s", said.msg);
}
