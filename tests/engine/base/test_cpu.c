/* What the process may use, from cgroup trees built here in every layout; the choice of OpenBLAS' core as a table;
 * re-execution with this program as the patient: run with an argument it does what main() of a
 * daemon does, with an OpenBLAS that claims to have chosen SSE3. */
#include "engine/base/cpu.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cblas.h>

#include "tests/support/harness.h"

/* This definition takes the place of the library's. It behaves like a version that does not know
 * the CPU, but obeys OPENBLAS_CORETYPE. */
char *openblas_get_corename(void)
{
    static char old[] = "Prescott", obedient[] = "SkylakeX";
    return getenv("OPENBLAS_CORETYPE") && !getenv("TTMD_TEST_STUBBORN") ? obedient : old;
}

/* ---- cgroup trees ---- */

static const char *root;

static void make_root(void)
{
    root = path_join(temp_dir(), "cgroup");
    static char kept[PATH_MAX];
    snprintf(kept, sizeof kept, "%s", root);
    root = kept;
    ck_assert_int_eq(mkdir(root, 0700), 0);
}

/* Write root/file with its directories. */
static void put(const char *file, const char *text)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", root, file);
    for (char *s = path + strlen(root) + 1; (s = strchr(s, '/')); *s++ = '/') {
        *s = 0;
        mkdir(path, 0700);
    }
    write_file(path, text, strlen(text));
}

/* A "/proc/self/cgroup" with that text. */
static const char *self(const char *text)
{
    put("self", text);
    return path_join(root, "self");
}

static double quota(const char *text)
{
    return cpu_cgroup_quota(root, self(text));
}

static size_t memory(const char *text)
{
    return cpu_cgroup_memory(root, self(text));
}

START_TEST(v2_smallest_on_the_way_up)
{
    put("cpu.max", "max 100000\n");
    put("kube/cpu.max", "300000 100000\n");
    put("kube/pod/cpu.max", "150000 100000\n");
    put("kube/pod/box/cpu.max", "max 100000\n");
    put("kube/other/cpu.max", "10000 100000\n");
    assert_close(quota("0::/kube/pod/box\n"), 1.5, 0, 0);
    assert_close(quota("0::/kube/pod/box/\n"), 1.5, 0, 0);
    assert_close(quota("0::/kube"), 3, 0, 0);
    assert_close(quota("0::/\n"), 0, 0, 0);
    assert_close(quota("0::/elsewhere/unseen\n"), 0, 0, 0);
    put("cpu.max", "250000 100000\n");
    assert_close(quota("0::/elsewhere/unseen\n"), 2.5, 0, 0);
    assert_close(quota("0::/../../outside\n"), 2.5, 0, 0);
}
END_TEST

START_TEST(v2_memory_and_throttling)
{
    put("a/memory.max", "8589934592\n");
    put("a/b/memory.max", "max\n");
    put("a/b/c/memory.max", "17179869184\n");
    ck_assert_uint_eq(memory("0::/a/b/c\n"), 8589934592u);
    ck_assert_uint_eq(memory("0::/a/b\n"), 8589934592u);
    ck_assert_uint_eq(memory("0::/\n"), 0);
    put("a/b/cpu.stat", "usage_usec 5\nnr_throttled 3\nthrottled_usec 1500000\n");
    put("a/cpu.stat", "throttled_usec 250000\n");
    assert_close(cpu_cgroup_throttled(root, self("0::/a/b\n")), 1.75, 1e-9, 0);
    assert_close(cpu_cgroup_throttled(root, self("0::/x\n")), 0, 0, 0);
}
END_TEST

START_TEST(v1_controllers)
{
    const char *lines = "12:pids:/d\n4:memory:/d/x\n3:cpu,cpuacct:/d/x\n1:name=systemd:/d\n0::/d\n";
    put("cpu,cpuacct/d/x/cpu.cfs_quota_us", "-1\n");
    put("cpu,cpuacct/d/x/cpu.cfs_period_us", "100000\n");
    assert_close(quota(lines), 0, 0, 0);
    put("cpu,cpuacct/d/cpu.cfs_quota_us", "50000\n");
    put("cpu,cpuacct/d/cpu.cfs_period_us", "100000\n");
    assert_close(quota(lines), 0.5, 0, 0);
    put("cpu,cpuacct/d/cpu.stat", "nr_periods 1\nthrottled_time 2500000000\n");
    assert_close(cpu_cgroup_throttled(root, self(lines)), 2.5, 1e-9, 0);
    ck_assert_uint_eq(memory(lines), 0);
    put("memory/memory.limit_in_bytes", "9223372036854771712\n"); /* "no limit" */
    ck_assert_uint_eq(memory(lines), 0);
    put("memory/d/memory.limit_in_bytes", "1073741824\n");
    ck_assert_uint_eq(memory(lines), 1073741824u);
    put("cpu/cpu.cfs_quota_us", "400000\n"); /* mounted under the single name; path not visible */
    put("cpu/cpu.cfs_period_us", "200000\n");
    assert_close(quota("3:cpu:/docker/0123\n"), 2, 0, 0);
}
END_TEST

START_TEST(hybrid_takes_the_smaller)
{
    put("unified/g/cpu.max", "300000 100000\n");
    put("cpu/g/cpu.cfs_quota_us", "200000\n");
    put("cpu/g/cpu.cfs_period_us", "100000\n");
    assert_close(quota("2:cpu:/g\n0::/g\n"), 2, 0, 0);
    put("unified/g/cpu.max", "100000 100000\n");
    assert_close(quota("2:cpu:/g\n0::/g\n"), 1, 0, 0);
}
END_TEST

START_TEST(broken_files_mean_no_limit)
{
    static const char *const bad[] = {"",           "\n",          "abc\n",      "100000\n",
                                      "100000 0\n", "-5 100000\n", "0 100000\n", "nan nan\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put("cpu.max", bad[i]);
        put("memory.max", bad[i]);
        assert_close(quota("0::/\n"), 0, 0, 0);
    }
    put("cpu.max", "100000 100000\n");
    static const char *const lines[] = {"",   "\n",  "::",      "x",
                                        "0:", "0::", ":::::\n", "5:cpuset:/\n"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        ck_assert_double_ge(quota(lines[i]), 0);
    assert_close(cpu_cgroup_quota(root, "/nonexistent"), 0, 0, 0);
    assert_close(cpu_cgroup_quota("/nonexistent", self("0::/\n")), 0, 0, 0);
}
END_TEST

/* ---- this machine ---- */

START_TEST(threads_follow_affinity_quota_and_configuration)
{
    static const struct {
        int affinity;
        double quota;
        int configured, want;
    } cases[] = {{8, 0, 0, 8},  {8, 2.5, 0, 2},   {8, 0.5, 0, 1}, {8, 1, 0, 1},
                 {2, 16, 0, 2}, {8, 0, 3, 3},     {8, 2, 5, 2},   {8, 0, -1, 8},
                 {0, 0, 0, 1},  {8, 7.999, 0, 7}, {8, 1e18, 0, 8}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct cpu c = {.affinity = cases[i].affinity, .quota_cores = cases[i].quota};
        ck_assert_int_eq(cpu_threads(&c, cases[i].configured), cases[i].want);
    }
}
END_TEST

/* The kernel lists in /proc/cpuinfo what it lets programs use: an independent witness. */
static bool kernel_says(const char *text, const char *flag)
{
    size_t n = strlen(flag);
    for (const char *s = text; (s = strstr(s, flag)); s += n)
        if (s[-1] == ' ' && (s[n] == ' ' || s[n] == '\n')) return true;
    return false;
}

START_TEST(detection_agrees_with_the_kernel)
{
    struct cpu c;
    cpu_detect(&c);
    ck_assert_int_ge(c.online, 1);
    ck_assert_int_ge(c.affinity, 1);
    ck_assert_uint_gt(c.memory_bytes, 1u << 20);
    ck_assert_double_ge(cpu_throttled_seconds(), 0);
    static char text[1 << 16];
    FILE *f = fopen("/proc/cpuinfo", "r");
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
#if defined(__x86_64__)
    ck_assert_int_eq(c.avx2, kernel_says(text, "avx2"));
    ck_assert_int_eq(c.fma, kernel_says(text, "fma"));
    ck_assert_int_eq(c.f16c, kernel_says(text, "f16c"));
    ck_assert_int_eq(c.avx512, kernel_says(text, "avx512bw") && kernel_says(text, "avx512dq") &&
                                   kernel_says(text, "avx512vl"));
    ck_assert_int_eq(c.avx512_vnni, kernel_says(text, "avx512_vnni"));
    ck_assert_int_eq(c.avx512_bf16, kernel_says(text, "avx512_bf16"));
    ck_assert_int_eq(c.avx_vnni, kernel_says(text, "avx_vnni"));
    ck_assert(!c.amx_int8 || kernel_says(text, "amx_int8")); /* the kernel may refuse */
    ck_assert(strstr(text, c.model));
#else
    ck_assert_int_eq(c.neon, kernel_says(text, "asimd"));
    ck_assert_int_eq(c.neon_dotprod, kernel_says(text, "asimddp"));
#endif
}
END_TEST

START_TEST(feature_names)
{
    struct cpu c = {.avx2 = true, .f16c = true, .avx512_bf16 = true};
    struct buf b = {0};
    cpu_features(&c, &b);
    ck_assert_str_eq(b.data, "avx2 f16c avx512_bf16");
    buf_clear(&b);
    cpu_features(&(struct cpu){0}, &b);
    ck_assert_str_eq(b.data, "");
    buf_release(&b);
}
END_TEST

/* ---- OpenBLAS ---- */

static const char *wanted(const char *cpu, const char *core)
{
    struct cpu c = {.avx2 = !!strstr(cpu, "avx2"),
                    .fma = !!strstr(cpu, "avx2"),
                    .avx512 = !!strstr(cpu, "avx512")};
    snprintf(c.model, sizeof c.model, "%s",
             strstr(cpu, "amd") ? "AMD EPYC 9654" : "Intel(R) Xeon(R)");
    const char *w = cpu_blas_wanted(&c, core);
    return w ? w : "-";
}

START_TEST(core_choice)
{
    ck_assert_str_eq(wanted("avx2 avx512", "Prescott"), "SKYLAKEX");
    ck_assert_str_eq(wanted("avx2 avx512", "Nehalem"), "SKYLAKEX");
    ck_assert_str_eq(wanted("avx2 avx512 amd", "Zen"), "SKYLAKEX");
    ck_assert_str_eq(wanted("avx2 avx512", "Haswell"), "SKYLAKEX");
    ck_assert_str_eq(wanted("avx2 avx512", "SkylakeX"), "-");
    ck_assert_str_eq(wanted("avx2 avx512 amd", "Cooperlake"), "-");
    ck_assert_str_eq(wanted("avx2 avx512", "Sapphirerapids"), "-");
    ck_assert_str_eq(wanted("avx2", "Prescott"), "HASWELL");
    ck_assert_str_eq(wanted("avx2", "Sandybridge"), "HASWELL");
    ck_assert_str_eq(wanted("avx2 amd", "Barcelona"), "ZEN");
    ck_assert_str_eq(wanted("avx2", "Haswell"), "-");
    ck_assert_str_eq(wanted("avx2", "Zen"), "-");
    ck_assert_str_eq(wanted("", "Prescott"), "-");
    ck_assert_str_eq(wanted("avx2 avx512", "Graniterapids"), "-"); /* unknown: newer than we */
}
END_TEST

static int child_main(char **argv)
{
    struct cpu c = {.avx2 = true, .fma = true, .avx512 = true};
    printf("start\n");
    fflush(stdout);
    cpu_blas_fix(&c, argv);
    const char *type = getenv("OPENBLAS_CORETYPE"), *threads = getenv("OPENBLAS_NUM_THREADS");
    printf("end %s %s %s %d %s %s\n", cpu_blas_core(), type ? type : "-", threads ? threads : "-",
           openblas_get_num_threads(), argv[1], argv[2]);
    return 0;
}

/* Run this program as the child with one more variable; what it printed, in static storage. */
static const char *run_child(const char *variable)
{
    static char out[1024];
    int fd[2];
    ck_assert_int_eq(pipe(fd), 0);
    pid_t pid = fork();
    if (!pid) {
        unsetenv("OPENBLAS_CORETYPE"), unsetenv("OPENBLAS_NUM_THREADS"),
            unsetenv("TTMD_BLAS_REEXEC");
        char copy[64];
        snprintf(copy, sizeof copy, "%s", variable);
        if (*copy) putenv(copy);
        dup2(fd[1], 1);
        execl("/proc/self/exe", "patient", "--child", "two words", (char *)NULL);
        _exit(99);
    }
    close(fd[1]);
    size_t n = 0;
    ssize_t got;
    while ((got = read(fd[0], out + n, sizeof out - 1 - n)) > 0)
        n += (size_t)got;
    out[n] = 0;
    close(fd[0]);
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
    return out;
}

START_TEST(reexecution)
{
    ck_assert_str_eq(run_child(""), "start\nstart\nend SkylakeX SKYLAKEX 1 1 --child two words\n");
    /* the user's choice stands */
    ck_assert_str_eq(run_child("OPENBLAS_CORETYPE=PRESCOTT"),
                     "start\nend SkylakeX PRESCOTT - 1 --child two words\n");
    ck_assert_str_eq(run_child("TTMD_BLAS_REEXEC=1"),
                     "start\nend Prescott - - 1 --child two words\n");
    /* a library that does not obey: once, not for ever */
    ck_assert_str_eq(run_child("TTMD_TEST_STUBBORN=1"),
                     "start\nstart\nend Prescott SKYLAKEX 1 1 --child two words\n");
    ck_assert_str_eq(run_child("OPENBLAS_NUM_THREADS=2"),
                     "start\nstart\nend SkylakeX SKYLAKEX 2 1 --child two words\n");
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("cpu");
    TCase *t = tcase_create("cgroup");
    tcase_add_checked_fixture(t, make_root, NULL);
    tcase_add_test(t, v2_smallest_on_the_way_up);
    tcase_add_test(t, v2_memory_and_throttling);
    tcase_add_test(t, v1_controllers);
    tcase_add_test(t, hybrid_takes_the_smaller);
    tcase_add_test(t, broken_files_mean_no_limit);
    suite_add_tcase(s, t);
    TCase *m = tcase_create("machine");
    tcase_add_test(m, threads_follow_affinity_quota_and_configuration);
    tcase_add_test(m, detection_agrees_with_the_kernel);
    tcase_add_test(m, feature_names);
    tcase_add_test(m, core_choice);
    tcase_add_test(m, reexecution);
    suite_add_tcase(s, m);
    return s;
}

int main(int argc, char **argv)
{
    return argc == 3 && !strcmp(argv[1], "--child") ? child_main(argv) : harness_main(suite);
}
