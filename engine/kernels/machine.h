#ifndef TTMD_KERNELS_MACHINE_H
#define TTMD_KERNELS_MACHINE_H

#include <stddef.h>

#include "engine/base/cpu.h"
#include "engine/base/err.h"
#include "engine/base/pool.h"
#include "engine/kernels/kernels.h"

/* The machine's limits, measured: what OpenBLAS reaches in large products and how fast memory can be
 * read, with the same threads that the model computes with. Rates mean something only beside these. */
struct machine;

/* Side of the square matrices of machine_sgemm_peak(). */
#define MACHINE_SGEMM_N 2048

/* machine_open -- allocate and touch what the measurements need.
 *
 *   pool  borrowed until machine_close(); NULL = the calling thread alone
 *   cpu   borrowed during the call: the read buffer is >= 1 GB and >= 4 last-level caches (a quarter
 *         of memory at most)
 *
 * Sets OpenBLAS to one thread per caller, as this program always uses it: the pool owns the threads.
 * Errors  ERR_NOMEM. Thread: the pool's owner, for all calls.
 */
int machine_open(struct machine **out, struct pool *pool, const struct cpu *cpu, struct err *err);
void machine_close(struct machine *m); /* m may be NULL */

/* machine_sgemm_peak -- FLOP/s of all threads together, each running single-threaded OpenBLAS SGEMMs
 * of MACHINE_SGEMM_N^3 on matrices of its own. One round, a fraction of a second. */
double machine_sgemm_peak(struct machine *m);

/* machine_int8_peak -- 8-bit operations/s (2 per multiplication) of all threads together, in registers
 * alone, with the given kernels. One round, some hundredths of a second. */
double machine_int8_peak(struct machine *m, const struct int8_kernels *k);

/* machine_read_bandwidth -- bytes/s of all threads together, reading the buffer once, with the loads and the
 * prefetching of the given kernels: its maximum. */
double machine_read_bandwidth(struct machine *m, const struct kernels *k);
size_t machine_read_bytes(const struct machine *m); /* size of the buffer */

#endif
