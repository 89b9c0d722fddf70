/* What the processor can do and how much of it is ours. Instruction sets count only when the
 * operating system saves their registers too (XGETBV): CPUID alone would let a guest on an old
 * hypervisor die with SIGILL.
 *
 * OpenBLAS chooses its kernels when it is loaded, before main(), and a version older than the CPU may
 * choose SSE3: six times slower. It can only be told through the environment, hence the re-execution.
 * The alternative, dlopen() after setenv(), would make every use of BLAS a table of pointers. */
#include "engine/base/cpu.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include <cblas.h>

#include "engine/base/mem.h"

#define CGROUP_ROOT "/sys/fs/cgroup"
#define CGROUP_SELF "/proc/self/cgroup"

#if defined(__x86_64__)
static unsigned long long xgetbv0(void)
{
    unsigned lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (unsigned long long)hi << 32 | lo;
}

static bool bit(unsigned word, int n)
{
    return word >> n & 1;
}

/* Tiles are 8 KiB more of state for each thread: Linux gives them on demand, and not where a thread's
 * stack for signals is too small for them. */
static bool may_use_tiles(unsigned long long xcr0)
{
    enum {
        REQUEST = 0x1023,
        TILE_DATA = 18
    }; /* ARCH_REQ_XCOMP_PERM, of <asm/prctl.h> since 5.16 */
    return (xcr0 >> 17 & 3) == 3 && syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

static void detect_features(struct cpu *c)
{
    unsigned a, b, cx, d, b7 = 0, c7 = 0, d7 = 0, a71 = 0;
    if (!__get_cpuid(1, &a, &b, &cx, &d) || !bit(cx, 27)) return; /* OSXSAVE */
    unsigned f16c_word = cx;
    unsigned long long xcr0 = xgetbv0();
    bool ymm = (xcr0 & 0x6) == 0x6, zmm = ymm && (xcr0 & 0xe0) == 0xe0;
    unsigned leaves = 0;
    if (__get_cpuid_count(7, 0, &leaves, &b7, &c7, &d7) && leaves >= 1) {
        unsigned b71, c71, d71;
        __get_cpuid_count(7, 1, &a71, &b71, &c71, &d71);
    }
    bool avx = ymm && bit(f16c_word, 28);
    c->fma = avx && bit(f16c_word, 12);
    c->f16c = avx && bit(f16c_word, 29);
    c->avx2 = avx && bit(b7, 5);
    c->avx_vnni = c->avx2 && bit(a71, 4);
    c->avx512 = zmm && c->avx2 && bit(b7, 16) && bit(b7, 17) && bit(b7, 30) && bit(b7, 31);
    c->avx512_vnni = c->avx512 && bit(c7, 11);
    c->avx512_bf16 = c->avx512 && bit(a71, 5);
    c->amx_int8 = c->avx512_vnni && bit(d7, 24) && bit(d7, 25) && may_use_tiles(xcr0);
}
#elif defined(__aarch64__)
static void detect_features(struct cpu *c)
{
    unsigned long caps = getauxval(AT_HWCAP);
    c->neon = caps >> 1 & 1;          /* HWCAP_ASIMD */
    c->neon_dotprod = caps >> 20 & 1; /* HWCAP_ASIMDDP */
}
#else
static void detect_features(struct cpu *c)
{
    (void)c;
}
#endif

/* More processors than a cpu_set_t holds make the call fail: double the set until it fits. */
static int count_affinity(void)
{
    for (size_t cpus = 1024; cpus <= 1u << 20; cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC(cpus);
        if (!set) return 0;
        size_t bytes = CPU_ALLOC_SIZE(cpus);
        int n = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (n > 0) return n;
    }
    return 0;
}

static void detect_model(struct cpu *c)
{
    FILE *f = fopen("/proc/cpuinfo", "re");
    if (!f) return;
    char line[256];
    while (fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon) continue;
        colon += 1 + strspn(colon + 1, " \t");
        colon[strcspn(colon, "\n")] = 0;
        snprintf(c->model, sizeof c->model, "%s", colon);
        break;
    }
    fclose(f);
}

static size_t sysconf_bytes(int name)
{
    long n = sysconf(name);
    return n > 0 ? (size_t)n : 0;
}

static size_t detect_memory(void)
{
    size_t ram, limit = cpu_cgroup_memory(CGROUP_ROOT, CGROUP_SELF);
    if (!mem_mul(sysconf_bytes(_SC_PHYS_PAGES), sysconf_bytes(_SC_PAGESIZE), &ram)) ram = 0;
    return limit && (!ram || limit < ram) ? limit : ram;
}

void cpu_detect(struct cpu *c)
{
    memset(c, 0, sizeof *c);
    detect_features(c);
    c->online = (int)sysconf_bytes(_SC_NPROCESSORS_ONLN);
    c->affinity = count_affinity();
    if (!c->affinity) c->affinity = c->online;
    c->quota_cores = cpu_cgroup_quota(CGROUP_ROOT, CGROUP_SELF);
    c->memory_bytes = detect_memory();
    c->l2_bytes = sysconf_bytes(_SC_LEVEL2_CACHE_SIZE);
    c->l3_bytes = sysconf_bytes(_SC_LEVEL3_CACHE_SIZE);
    detect_model(c);
}

int cpu_threads(const struct cpu *c, int configured)
{
    int n = c->affinity > 0 ? c->affinity : 1;
    if (c->quota_cores > 0 && c->quota_cores < n) n = c->quota_cores < 1 ? 1 : (int)c->quota_cores;
    return configured > 0 && configured < n ? configured : n;
}

void cpu_features(const struct cpu *c, struct buf *out)
{
    const struct {
        bool on;
        const char *name;
    } all[] = {{c->avx2, "avx2"},
               {c->fma, "fma"},
               {c->f16c, "f16c"},
               {c->avx_vnni, "avx_vnni"},
               {c->avx512, "avx512"},
               {c->avx512_vnni, "avx512_vnni"},
               {c->avx512_bf16, "avx512_bf16"},
               {c->amx_int8, "amx_int8"},
               {c->neon, "neon"},
               {c->neon_dotprod, "neon_dotprod"}};
    buf_reserve(out, 0);
    for (size_t i = 0, n = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].on) buf_printf(out, "%s%s", n++ ? " " : "", all[i].name);
}

double cpu_throttled_seconds(void)
{
    return cpu_cgroup_throttled(CGROUP_ROOT, CGROUP_SELF);
}

const char *cpu_blas_core(void)
{
    return openblas_get_corename();
}

/* The widest instruction set that a kernel family of OpenBLAS uses. */
enum blas_rank { BLAS_UNKNOWN, BLAS_SSE, BLAS_AVX, BLAS_AVX2, BLAS_AVX512 };

static enum blas_rank blas_rank(const char *core)
{
    static const struct {
        const char *core;
        enum blas_rank rank;
    } ranks[] = {
        {"Katmai", BLAS_SSE},        {"Coppermine", BLAS_SSE},
        {"Northwood", BLAS_SSE},     {"Prescott", BLAS_SSE},
        {"Banias", BLAS_SSE},        {"Core2", BLAS_SSE},
        {"Penryn", BLAS_SSE},        {"Dunnington", BLAS_SSE},
        {"Nehalem", BLAS_SSE},       {"Athlon", BLAS_SSE},
        {"Opteron", BLAS_SSE},       {"Opteron_SSE3", BLAS_SSE},
        {"Barcelona", BLAS_SSE},     {"Nano", BLAS_SSE},
        {"Atom", BLAS_SSE},          {"Bobcat", BLAS_SSE},
        {"Sandybridge", BLAS_AVX},   {"Bulldozer", BLAS_AVX},
        {"Piledriver", BLAS_AVX},    {"Steamroller", BLAS_AVX},
        {"Excavator", BLAS_AVX2},    {"Haswell", BLAS_AVX2},
        {"Zen", BLAS_AVX2},          {"SkylakeX", BLAS_AVX512},
        {"Cooperlake", BLAS_AVX512}, {"SapphireRapids", BLAS_AVX512},
    };
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++)
        if (!strcasecmp(ranks[i].core, core)) return ranks[i].rank;
    return BLAS_UNKNOWN;
}

const char *cpu_blas_wanted(const struct cpu *c, const char *core)
{
    enum blas_rank have = blas_rank(core);
    if (have == BLAS_UNKNOWN) return NULL;
    if (c->avx512 && c->fma) return have < BLAS_AVX512 ? "SKYLAKEX" : NULL;
    if (c->avx2 && c->fma && have < BLAS_AVX2) return strstr(c->model, "AMD") ? "ZEN" : "HASWELL";
    return NULL;
}

/* The program's own path keeps its name in process lists; /proc/self/exe works even when the file was
 * replaced, and shows as "exe". */
static void reexecute(char **argv)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n > 0 && n < (ssize_t)sizeof path - 1) {
        path[n] = 0;
        execv(path, argv);
    }
    execv("/proc/self/exe", argv);
}

void cpu_blas_fix(const struct cpu *c, char **argv)
{
    const char *type = cpu_blas_wanted(c, cpu_blas_core());
    if (type && !getenv("OPENBLAS_CORETYPE") && !getenv("TTMD_BLAS_REEXEC")) {
        setenv("OPENBLAS_CORETYPE", type, 1);
        setenv("OPENBLAS_NUM_THREADS", "1", 0);
        setenv("TTMD_BLAS_REEXEC", "1", 1);
        reexecute(argv);
        unsetenv("OPENBLAS_CORETYPE");
    }
    openblas_set_num_threads(1);
}
