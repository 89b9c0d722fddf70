/* Token buckets. A level is not kept current by a clock: it is what it was at `at_ns`, and the rate times
 * what has passed is added when somebody looks. A bucket starts full, and limits are arguments, not
 * part of the meter: they may change when the file of keys is read again, and what was used stays used. */
#include "server/meter.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"

struct bucket {
    double missing; /* of a full bucket; may be more than all */
    uint64_t at_ns;
};
struct meter {
    atomic_int refs;
    pthread_mutex_t lock;
    struct bucket requests, tokens;
};

struct meter *meter_new(void)
{
    struct meter *m = mem_calloc(1, sizeof *m);
    atomic_init(&m->refs, 1);
    pthread_mutex_init(&m->lock, NULL);
    return m;
}

void meter_ref(struct meter *m)
{
    atomic_fetch_add(&m->refs, 1);
}

void meter_unref(struct meter *m)
{
    if (!m || atomic_fetch_sub(&m->refs, 1) != 1) return;
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static double per_s(double per_minute)
{
    return per_minute / 60;
}

static void refill(struct bucket *b, double per_minute, uint64_t now_ns)
{
    if (now_ns > b->at_ns) {
        double passed = (double)(now_ns - b->at_ns) / CLOCK_NS_PER_S;
        b->missing = fmax(0, b->missing - passed * per_s(per_minute));
        b->at_ns = now_ns;
    }
}

static struct meter_view view(const struct bucket *b, double per_minute)
{
    struct meter_view v = {.limited = per_minute > 0};
    if (!v.limited) return v;
    v.limit = (int64_t)per_minute;
    v.remaining = (int64_t)fmax(0, floor(per_minute - b->missing + 1e-9));
    v.reset_s = b->missing / per_s(per_minute);
    return v;
}

/* Seconds until the bucket holds `need`. */
static double wait_for(const struct bucket *b, double per_minute, double need)
{
    double lacks = b->missing + need - per_minute;
    return per_minute > 0 && lacks > 1e-9 ? lacks / per_s(per_minute) : 0;
}

bool meter_take(struct meter *m, const struct meter_limits *l, uint64_t now_ns,
                struct meter_state *out)
{
    pthread_mutex_lock(&m->lock);
    refill(&m->requests, l->requests_per_minute, now_ns);
    refill(&m->tokens, l->tokens_per_minute, now_ns);
    double wait = fmax(wait_for(&m->requests, l->requests_per_minute, 1),
                       wait_for(&m->tokens, l->tokens_per_minute, 1));
    if (wait <= 0 && l->requests_per_minute > 0) m->requests.missing += 1;
    *out = (struct meter_state){.requests = view(&m->requests, l->requests_per_minute),
                                .tokens = view(&m->tokens, l->tokens_per_minute),
                                .retry_s = wait};
    pthread_mutex_unlock(&m->lock);
    return wait <= 0;
}

void meter_use(struct meter *m, const struct meter_limits *l, uint64_t now_ns, double tokens)
{
    if (l->tokens_per_minute <= 0) return;
    pthread_mutex_lock(&m->lock);
    refill(&m->tokens, l->tokens_per_minute, now_ns);
    m->tokens.missing += tokens;
    pthread_mutex_unlock(&m->lock);
}
