/* NEON with the dot product instructions of Armv8.2: signed times signed, four sums of four. */
#include "engine/kernels/int8_neon.inc"

INLINE vi vi_dot(vi sum, vi quad, vi w)
{
    return vdotq_s32(sum, vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(quad));
}

#define INT8_TABLE int8_neondot
#define INT8_NAME "neondot"
#include "engine/kernels/int8.inc"
