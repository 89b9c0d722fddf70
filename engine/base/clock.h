#ifndef TTMD_BASE_CLOCK_H
#define TTMD_BASE_CLOCK_H

#include <stdint.h>

/* clock_ns -- monotonic time in nanoseconds from an arbitrary origin. Thread: any. */
uint64_t clock_ns(void);

/* clock_unix_ms -- wall-clock milliseconds since 1970. Thread: any. */
uint64_t clock_unix_ms(void);

#define CLOCK_NS_PER_S 1000000000ull
#define CLOCK_NS_PER_MS 1000000ull

#endif
