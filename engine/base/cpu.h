#ifndef TTMD_BASE_CPU_H
#define TTMD_BASE_CPU_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"

/* What this machine can do and what this process may use of it. */
struct cpu {
    bool avx2, fma, f16c; /* x86-64: usable, i.e. also enabled by the OS */
    bool avx512;          /* F, BW, DQ, VL */
    bool avx512_vnni, avx512_bf16, avx_vnni;
    bool amx_int8;             /* with avx512_vnni; the kernel lets this process use tiles */
    bool neon, neon_dotprod;   /* aarch64 */
    int online;                /* processors online */
    int affinity;              /* processors in this process's affinity mask */
    double quota_cores;        /* cgroup v2 cpu.max or v1 cfs quota; 0 = none */
    size_t memory_bytes;       /* min(RAM, cgroup limit) */
    size_t l2_bytes, l3_bytes; /* 0 if unknown */
    char model[64];            /* "AMD EPYC", from /proc/cpuinfo; "" if unknown */
};

/* cpu_detect -- fill *c. Never fails: what cannot be read stays 0. Asks the kernel for leave to use AMX's
 * tiles, for all threads of the process; call it before they start. */
void cpu_detect(struct cpu *c);

/* cpu_cgroup_quota -- the quota from a cgroup tree rooted at `root` ("/sys/fs/cgroup"), for the
 * cgroup that `proc_self_cgroup` ("/proc/self/cgroup") names; walks up to the root and takes the
 * smallest. Returns cores, 0 = unlimited. Tests give it directories of their own. */
double cpu_cgroup_quota(const char *root, const char *proc_self_cgroup);
size_t cpu_cgroup_memory(const char *root, const char *proc_self_cgroup);
double cpu_cgroup_throttled(const char *root, const char *proc_self_cgroup); /* seconds, summed */

/* cpu_threads -- min(affinity, max(1, floor(quota))), and `configured` when > 0. */
int cpu_threads(const struct cpu *c, int configured);

/* cpu_throttled_seconds -- cgroup cpu.stat's throttled time so far; 0 if there is none. */
double cpu_throttled_seconds(void);

/* cpu_features -- "avx2 fma f16c avx512 ..." for logs. */
void cpu_features(const struct cpu *c, struct buf *out);

/* cpu_blas_core -- the kernel family that the loaded OpenBLAS picked, e.g. "SkylakeX". */
const char *cpu_blas_core(void);

/* cpu_blas_wanted -- the OPENBLAS_CORETYPE that would serve this CPU better than `core`, the name that
 * cpu_blas_core() gave; NULL when `core` is as good, or unknown. Static storage. */
const char *cpu_blas_wanted(const struct cpu *c, const char *core);

/* cpu_blas_fix -- OpenBLAS reads OPENBLAS_CORETYPE when it is loaded, and versions older than the
 * CPU fall back to an SSE3 core. When the core in use is weaker than what the CPU can run, set
 * OPENBLAS_CORETYPE (and OPENBLAS_NUM_THREADS=1: our pool owns the threads) and re-execute this
 * program with the same arguments; does nothing when the core is right, when the user set
 * OPENBLAS_CORETYPE, or when re-execution was already tried (TTMD_BLAS_REEXEC is set). Without
 * re-execution OpenBLAS is told to use one thread. Call first in main(), before any thread.
 * Returns only when no re-execution was needed or it failed. */
void cpu_blas_fix(const struct cpu *c, char **argv);

#endif
