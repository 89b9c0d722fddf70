/* What all test programs share: the main function, fixtures, temporary files. Temporary directories
 * carry the process id, so that the suite passes when it runs twice at once. */
#include "tests/support/harness.h"

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char dirs[512][128];   /* a suite that does not fork takes many */
static int n_dirs, first_own; /* those before first_own were made before a fork */
static pid_t owner;

bool harness_sanitized(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
    return true;
#endif
#endif
    return false;
}

uint64_t harness_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st, (void)type, (void)f;
    return remove(path);
}

static void remove_dirs(void)
{
    if (getpid() != owner) return; /* a forked test must not remove what its parent still uses */
    for (int i = first_own; i < n_dirs; i++)
        nftw(dirs[i], remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

int harness_main(Suite *(*make)(void))
{
    owner = getpid();
    atexit(remove_dirs);
    setenv("XDG_CACHE_HOME", temp_dir(), 1); /* what programs keep must not outlive the tests */
    SRunner *sr = srunner_create(make());
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

const char *path_join(const char *a, const char *b)
{
    static char ring[16][1024];
    static unsigned next;
    char *out = ring[next++ % 16];
    snprintf(out, sizeof ring[0], "%s/%s", a, b);
    return out;
}

const char *shared_path(const char *relative)
{
    const char *p = path_join("../shared", relative);
    return access(p, R_OK) == 0 ? p : NULL;
}

void skip(const char *what, const char *why)
{
    printf("SKIPPED %s: %s\n", what, why);
    fflush(stdout);
}

const char *temp_dir(void)
{
    if (n_dirs == (int)(sizeof dirs / sizeof *dirs)) ck_abort_msg("too many temporary directories");
    const char *base = getenv("TMPDIR");
    char *d = dirs[n_dirs];
    snprintf(d, sizeof dirs[0], "%s/ttmd-test-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(d)) ck_abort_msg("mkdtemp %s failed", d);
    if (getpid() != owner) { /* made in a forked test: that process cleans up, its own only */
        owner = getpid();
        first_own = n_dirs;
    }
    n_dirs++;
    return d;
}

void write_file(const char *path, const void *data, size_t len)
{
    FILE *f = fopen(path, "wb");
    if (!f) ck_abort_msg("cannot write %s", path);
    if (len && fwrite(data, 1, len, f) != len) ck_abort_msg("short write to %s", path);
    if (fclose(f)) ck_abort_msg("close %s", path);
}

char *read_file(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    if (!f) ck_abort_msg("cannot read %s", path);
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    char *p = malloc((size_t)n + 1);
    if (!p || fread(p, 1, (size_t)n, f) != (size_t)n) ck_abort_msg("short read of %s", path);
    fclose(f);
    p[n] = 0;
    if (len) *len = (size_t)n;
    return p;
}

const char *build_path(const char *program)
{
    const char *b = getenv("TTMD_BUILD");
    return path_join(b ? b : "build/release", program);
}

void harness_close(const char *file, int line, const char *what, double a, double b, double abs_tol,
                   double rel_tol)
{
    if (!(fabs(a - b) <= abs_tol + rel_tol * fabs(b)))
        ck_abort_msg("%s:%d: %s = %.9g, expected %.9g (tolerance %g + %g relative)", file, line,
                     what, a, b, abs_tol, rel_tol);
}
