#ifndef TTMD_KERNELS_KERNELS_ISA_H
#define TTMD_KERNELS_KERNELS_ISA_H

#include "engine/kernels/grad.h"
#include "engine/kernels/kernels.h"

/* The tables, one per instruction set; private to this room. Only those of the machine that the
 * build is for exist. */
extern const struct kernels kernels_table_scalar;
#if defined(__x86_64__)
extern const struct kernels kernels_table_avx2;
extern const struct kernels kernels_table_avx2_vnni; /* differ in the products of 8-bit numbers */
extern const struct kernels kernels_table_avx512;
extern const struct kernels kernels_table_avx512_vnni;
extern const struct kernels kernels_table_avx512_amx;
extern const struct grad_kernels grad_table_avx2;
extern const struct grad_kernels grad_table_avx512;
#elif defined(__aarch64__)
extern const struct kernels kernels_table_neon;
extern const struct kernels kernels_table_neon_dot;
extern const struct grad_kernels grad_table_neon;
#endif

/* kv_put in plain C: the strided columns are a handful of cache lines. */
void kernels_kv_put_f32(void *k_tile, void *v_tile, const struct kv_rows *in);

#endif
