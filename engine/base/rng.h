#ifndef TTMD_BASE_RNG_H
#define TTMD_BASE_RNG_H

#include <stdint.h>

/* Counter-based random numbers: Philox4x32-10 (Salmon et al., SC11). A draw is a pure function of
 * (seed, stream, counter), so that a sequence's numbers do not depend on who else is in the batch,
 * and nothing has to be carried from step to step. */

/* rng_bits -- four independent 32-bit words for one (seed, stream, counter). */
void rng_bits(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4]);

/* rng_uniform -- a double in [0, 1), 53 bits. */
double rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter);

/* rng_normal_fill -- dst[0..n) ~ N(0, std^2) by Box-Muller; counters 0.. of the stream. */
void rng_normal_fill(float *dst, uint64_t n, double std, uint64_t seed, uint64_t stream);

/* rng_entropy -- 64 bits from the operating system, for requests without a seed. */
uint64_t rng_entropy(void);

#endif
