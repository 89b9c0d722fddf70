#ifndef TTMD_TESTS_KERNELS_TABLES_H
#define TTMD_TESTS_KERNELS_TABLES_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/cpu.h"
#include "engine/base/dtype.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/kernels/kernels.h"
#include "tests/support/harness.h"

/* The tables that this CPU runs, and inputs for them. */
#define TABLES_MAX 5

static inline int tables(const struct kernels *out[TABLES_MAX])
{
    static const char *const names[] = {"scalar", "avx2", "avx512", "neon"};
    struct cpu c;
    int n = 0;

    cpu_detect(&c);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const struct kernels *k = kernels_choose(&c, names[i]);
        if (k) out[n++] = k;
    }
    return n;
}

/* The 8-bit kernels that this CPU runs, the reference first. */
static inline int int8_tables(const struct int8_kernels *out[TABLES_MAX])
{
    struct cpu c;
    int n = 0;

    cpu_detect(&c);
    out[n++] = &int8_scalar;
#if defined(__x86_64__)
    if (c.avx2) out[n++] = &int8_avx2;
    if (c.avx_vnni) out[n++] = &int8_avxvnni;
    if (c.avx512_vnni) out[n++] = &int8_avx512vnni;
    if (c.amx_int8) out[n++] = &int8_amx;
#elif defined(__aarch64__)
    if (c.neon) out[n++] = &int8_neon;
    if (c.neon_dotprod) out[n++] = &int8_neondot;
#endif
    return n;
}

/* n floats ~ N(0, 1) in storage of exactly their size, for the sanitizer to watch the end. */
static inline float *floats(size_t n, uint64_t stream)
{
    float *p = mem_alloc(n * sizeof *p + (n == 0));
    rng_normal_fill(p, n, 1.0, 7, stream);
    return p;
}

/* The same values as type t, and x itself rounded to that type. */
static inline void *as_dtype(float *x, size_t n, enum dtype t)
{
    void *p = mem_alloc(n * dtype_size(t) + (n == 0));
    dtype_from_f32(p, t, x, n);
    dtype_to_f32(x, p, t, n);
    return p;
}

static inline void assert_same(const float *a, const float *b, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        ck_assert_msg(memcmp(a + i, b + i, sizeof *a) == 0, "%s: [%zu] %.9g, expected %.9g", what,
                      i, (double)a[i], (double)b[i]);
}

#endif
