/* Philox4x32-10: a bijection of 128-bit counters keyed by 64 bits, ten rounds of two 32x32->64
 * multiplications. A counter-based generator rather than a stateful one, because a draw must be a
 * pure function of (seed, sequence, position): batching, cancelling or resuming sequences then
 * cannot shift anybody's numbers. Key = seed; counter words = counter low, high, stream low, high.
 *
 * Source  Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3. SC11. */
#include "engine/base/rng.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/random.h>

#include "engine/base/err.h"

#define M0 0xD2511F53u
#define M1 0xCD9E8D57u
#define W0 0x9E3779B9u /* golden ratio */
#define W1 0xBB67AE85u /* sqrt(3) - 1 */
#define ROUNDS 10

void rng_bits(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4])
{
    uint32_t c[4] = {(uint32_t)counter, (uint32_t)(counter >> 32), (uint32_t)stream,
                     (uint32_t)(stream >> 32)};
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int r = 0; r < ROUNDS; r++) {
        uint64_t p0 = (uint64_t)M0 * c[0], p1 = (uint64_t)M1 * c[2];
        uint32_t hi0 = (uint32_t)(p0 >> 32), hi1 = (uint32_t)(p1 >> 32);
        c[0] = hi1 ^ c[1] ^ k0;
        c[2] = hi0 ^ c[3] ^ k1;
        c[1] = (uint32_t)p1;
        c[3] = (uint32_t)p0;
        k0 += W0;
        k1 += W1;
    }
    memcpy(out, c, sizeof c);
}

static double uniform(uint32_t hi, uint32_t lo)
{
    return (double)(((uint64_t)hi << 32 | lo) >> 11) * 0x1p-53;
}

double rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter)
{
    uint32_t w[4];
    rng_bits(seed, stream, counter, w);
    return uniform(w[0], w[1]);
}

void rng_normal_fill(float *dst, uint64_t n, double std, uint64_t seed, uint64_t stream)
{
    for (uint64_t i = 0; i < n; i += 2) { /* Box-Muller: two uniforms make two normals */
        uint32_t w[4];
        rng_bits(seed, stream, i / 2, w);
        double radius = std * sqrt(-2.0 * log(1.0 - uniform(w[0], w[1]))); /* 1 - u is never 0 */
        double angle = 2.0 * 3.14159265358979323846 * uniform(w[2], w[3]);
        dst[i] = (float)(radius * cos(angle));
        if (i + 1 < n) dst[i + 1] = (float)(radius * sin(angle));
    }
}

uint64_t rng_entropy(void)
{
    uint64_t x = 0;
    char *p = (char *)&x;
    size_t got = 0;
    while (got < sizeof x) {
        ssize_t n = getrandom(p + got, sizeof x - got, 0);
        if (n > 0)
            got += (size_t)n;
        else if (errno != EINTR)
            BUG("getrandom: %s", strerror(errno));
    }
    return x;
}
