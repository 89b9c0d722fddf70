#ifndef TTMD_TESTS_COUNT_ALLOC_H
#define TTMD_TESTS_COUNT_ALLOC_H

#include <stdatomic.h>
#include <stdlib.h>

/* allocations() -- how often this program has allocated; it never moves (COUNT_ALLOC is 0) where a
 * sanitizer or another C library has the allocator. Include it in one file of a test program. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define COUNT_ALLOC 0
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define COUNT_ALLOC 0
#endif
#ifndef COUNT_ALLOC
#define COUNT_ALLOC 1
#endif

static atomic_long allocation_count;

static inline long allocations(void)
{
    return atomic_load(&allocation_count);
}

#if COUNT_ALLOC
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);

void *malloc(size_t n)
{
    atomic_fetch_add(&allocation_count, 1);
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    atomic_fetch_add(&allocation_count, 1);
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    atomic_fetch_add(&allocation_count, 1);
    return __libc_realloc(p, n);
}
#endif

#endif
