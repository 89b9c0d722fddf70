#ifndef TTMD_TESTS_HARNESS_H
#define TTMD_TESTS_HARNESS_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Every test program: static Suite *suite(void) {...}  TEST_MAIN(suite)
 * Tests fork (libcheck's default) but for ThreadSanitizer. */
int harness_main(Suite *(*make)(void));
#define TEST_MAIN(make)            \
    int main(void)                 \
    {                              \
        return harness_main(make); \
    }

/* A build under a sanitizer: heavy loops take fewer rounds. */
bool harness_sanitized(void);

/* harness_cpu_ns -- CPU time of the calling thread: what tests of complexity compare, because wall time on a
 * busy machine is somebody else's. */
uint64_t harness_cpu_ns(void);

/* shared_path -- path of a fixture below ../shared ("models/tarot"), or NULL when it is not there.
 * Static storage per call site is not promised: copy what you keep. */
const char *shared_path(const char *relative);

/* skip -- print "SKIPPED <what>: <why>"; the runner counts these lines. Used by suite constructors
 * in place of adding a case whose fixture is absent. */
void skip(const char *what, const char *why);

/* temp_dir -- a new directory, removed with all it holds when the program exits; static storage. */
const char *temp_dir(void);

/* path_join -- "a/b" in a rotating set of 16 static buffers. */
const char *path_join(const char *a, const char *b);

/* write_file, read_file -- whole files; failures end the test. read_file's result is freed by the
 * caller and NUL-terminated. */
void write_file(const char *path, const void *data, size_t len);
char *read_file(const char *path, size_t *len);

/* build_path -- path of a program of the build under test: build_path("ttm"). */
const char *build_path(const char *program);

/* assert_close -- |a - b| <= abs_tol + rel_tol * |b|, with a message that shows both. */
#define assert_close(a, b, abs_tol, rel_tol) \
    harness_close(__FILE__, __LINE__, #a, (double)(a), (double)(b), (abs_tol), (rel_tol))
void harness_close(const char *file, int line, const char *what, double a, double b, double abs_tol,
                   double rel_tol);

#endif
