#ifndef TTMD_SERVER_METER_H
#define TTMD_SERVER_METER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a key may use: a token bucket of requests and one of tokens (prompt and completion). Each holds a
 * minute's allowance when it is full and fills at that rate. */
struct meter_limits {
    double requests_per_minute, tokens_per_minute; /* 0 = no limit */
};

/* struct meter -- the levels of one key's buckets. Counted references; any thread. */
struct meter;
struct meter *meter_new(void); /* full buckets */
void meter_ref(struct meter *m);
void meter_unref(struct meter *m); /* m may be NULL */

/* What a client is told of one bucket. */
struct meter_view {
    bool limited;
    int64_t limit, remaining; /* requests or tokens */
    double reset_s;           /* until it is full again */
};
struct meter_state {
    struct meter_view requests, tokens;
    double retry_s; /* of a refusal: until a request would be let in */
};

/* meter_take -- let a request in: takes one from the requests' bucket when that holds one and the tokens'
 * bucket is not empty. How many tokens a request uses is known at its end only, so that bucket may go
 * below zero, and who has overdrawn it waits.
 *
 *   now_ns  monotonic
 *   out     the levels after it
 *
 * Returns false when it must wait; nothing is taken then.
 */
bool meter_take(struct meter *m, const struct meter_limits *l, uint64_t now_ns,
                struct meter_state *out);

/* meter_use -- tokens that were used. */
void meter_use(struct meter *m, const struct meter_limits *l, uint64_t now_ns, double tokens);

#endif
