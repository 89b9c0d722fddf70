#ifndef TTMD_BASE_MEM_H
#define TTMD_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

/* mem_alloc, mem_calloc, mem_realloc, mem_strdup -- small allocations; out of memory is a BUG
 * (abort), so the result is never NULL. Freed with free(). Not for weights, KV or scratch. */
void *mem_alloc(size_t bytes);
void *mem_calloc(size_t n, size_t bytes);
void *mem_realloc(void *p, size_t bytes);
char *mem_strdup(const char *s);

/* mem_map -- large allocation: zeroed, page-aligned, committed lazily by the kernel, with
 * transparent huge pages advised.
 *
 *   what  for the message: "KV cache", "weights of h.3.mlp.c_fc"
 *
 * Errors  ERR_NOMEM with `what` and the bytes asked for; *out untouched.
 */
int mem_map(void **out, size_t bytes, const char *what, struct err *err);

/* mem_unmap -- free what mem_map gave; p may be NULL. `bytes` as given to mem_map. */
void mem_unmap(void *p, size_t bytes);

/* mem_mul, mem_add -- *out = a*b, a+b; false (and *out untouched) on overflow. */
static inline bool mem_mul(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}
static inline bool mem_add(size_t a, size_t b, size_t *out)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

/* mem_least, mem_most -- the smaller and the larger of two sizes. */
static inline size_t mem_least(size_t a, size_t b)
{
    return a < b ? a : b;
}
static inline size_t mem_most(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* mem_round_up -- n rounded up to a multiple of a (a > 0). */
static inline size_t mem_round_up(size_t n, size_t a)
{
    return (n + a - 1) / a * a;
}

/* mem_lines -- so many floats rounded up to whole lines of a cache, of 64 bytes: parts of scratch begin on one. */
static inline size_t mem_lines(size_t floats)
{
    return mem_round_up(floats, 64 / sizeof(float));
}

#endif
