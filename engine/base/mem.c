/* Two kinds of memory, two ways to fail. Small blocks come from malloc, and a process that cannot
 * get a few kilobytes cannot do anything sensible about it: abort. Large blocks (weights, KV cache,
 * scratch) come straight from mmap: they are zeroed without being touched, return to the system
 * when freed, may use huge pages, and their failure is an ordinary error with a size in its
 * message. Large blocks start on a huge page boundary, since the kernel can only back aligned 2 MiB
 * ranges: mmap alone aligns to 4 KiB, so one huge page more is mapped and the ends are given back.
 */
#include "engine/base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE_BYTES ((size_t)2 << 20)

void *mem_alloc(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    if (!p) BUG("out of memory: %zu bytes", bytes);
    return p;
}

void *mem_calloc(size_t n, size_t bytes)
{
    void *p = calloc(n ? n : 1, bytes ? bytes : 1);
    if (!p) BUG("out of memory: %zu x %zu bytes", n, bytes);
    return p;
}

void *mem_realloc(void *p, size_t bytes)
{
    void *q = realloc(p, bytes ? bytes : 1);
    if (!q) BUG("out of memory: %zu bytes", bytes);
    return q;
}

char *mem_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    return memcpy(mem_alloc(n), s, n);
}

static size_t page_bytes(void)
{
    long n = sysconf(_SC_PAGESIZE);
    return n > 0 ? (size_t)n : 4096;
}

/* What mem_map really takes for a request of `bytes`; 0 on overflow. */
static size_t mapped_bytes(size_t bytes)
{
    size_t page = page_bytes(), n;
    if (!mem_add(bytes ? bytes : 1, page - 1, &n)) return 0;
    return n / page * page;
}

static char *map_pages(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static char *map_huge_aligned(size_t bytes)
{
    size_t total;
    if (!mem_add(bytes, HUGE_PAGE_BYTES, &total)) return NULL;
    char *raw = map_pages(total);
    if (!raw) return NULL;
    size_t head = (HUGE_PAGE_BYTES - (uintptr_t)raw % HUGE_PAGE_BYTES) % HUGE_PAGE_BYTES;
    size_t tail = total - head - bytes;
    if (head) munmap(raw, head);
    if (tail) munmap(raw + head + bytes, tail);
    madvise(raw + head, bytes, MADV_HUGEPAGE); /* advice: kernels without it refuse, no matter */
    return raw + head;
}

int mem_map(void **out, size_t bytes, const char *what, struct err *err)
{
    size_t n = mapped_bytes(bytes);
    char *p = NULL;
    if (n) p = n >= HUGE_PAGE_BYTES ? map_huge_aligned(n) : map_pages(n);
    if (!p)
        return err_set(err, ERR_NOMEM, "out of memory for %s: %zu bytes asked for", what, bytes);
    *out = p;
    return 0;
}

void mem_unmap(void *p, size_t bytes)
{
    if (p && munmap(p, mapped_bytes(bytes))) BUG("munmap of %zu bytes: %s", bytes, strerror(errno));
}
