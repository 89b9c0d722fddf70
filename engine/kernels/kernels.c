/* Choosing the table of kernels: the widest instruction set that the CPU and the operating system
 * both enable. One comparison at start instead of a test in every call; the binary built on any
 * machine of an architecture runs on all of them. Tables of one name differ in the products of 8-bit
 * numbers alone, and those are the same numbers. */
#include <string.h>

#include "engine/kernels/kernels_isa.h"

struct candidate {
    const struct kernels *table;
    bool runs;
};

const struct kernels *kernels_scalar(void)
{
    return &kernels_table_scalar;
}

/* "avx512", or "avx512+amx". */
static bool is_called(const struct kernels *t, const char *name)
{
    size_t n = strlen(t->name);
    if (strncmp(name, t->name, n) != 0) return false;
    return !name[n] || (name[n] == '+' && strcmp(name + n + 1, t->int8->name) == 0);
}

const struct kernels *kernels_choose(const struct cpu *c, const char *force)
{
    const struct candidate all[] = {
#if defined(__x86_64__)
        {&kernels_table_avx512_amx, c->amx_int8 && c->avx2 && c->fma && c->f16c},
        {&kernels_table_avx512_vnni, c->avx512_vnni && c->avx2 && c->fma && c->f16c},
        {&kernels_table_avx512, c->avx512 && c->avx2 && c->fma && c->f16c},
        {&kernels_table_avx2_vnni, c->avx_vnni && c->avx2 && c->fma && c->f16c},
        {&kernels_table_avx2, c->avx2 && c->fma && c->f16c},
#elif defined(__aarch64__)
        {&kernels_table_neon_dot, c->neon && c->neon_dotprod},
        {&kernels_table_neon, c->neon},
#endif
        {&kernels_table_scalar, true},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i].runs && (!force || is_called(all[i].table, force))) return all[i].table;
    return NULL;
}
