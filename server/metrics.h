#ifndef TTMD_SERVER_METRICS_H
#define TTMD_SERVER_METRICS_H

#include <stddef.h>

#include "engine/base/buf.h"
#include "engine/run/engine.h"

/* Counters and histograms of the daemon, and their text for Prometheus. Everything is atomic: any thread
 * counts without a lock, and reading never waits. */
struct served;
struct server;
struct metrics;

enum metric_hist {
    HIST_TTFT,        /* seconds from the request's first byte to its first token */
    HIST_INTER_TOKEN, /* seconds between tokens of a sequence */
    HIST_QUEUE,
    HIST_PREFILL,
    HIST_DECODE,
    HIST_REQUEST,
    HIST_PROMPT_TOKENS,
    HIST_GENERATED_TOKENS,
    HIST_BATCH,
    HIST_STEP_PREFILL,
    HIST_STEP_DECODE,
    HIST_COUNT
};
enum metric_outcome {
    OUTCOME_OK,
    OUTCOME_INVALID,
    OUTCOME_CANCELLED,
    OUTCOME_TIMEOUT,
    OUTCOME_REJECTED,
    OUTCOME_FAILED,
    OUTCOME_COUNT
};
enum metric_reject {
    REJECT_QUEUE_FULL,
    REJECT_BODIES_FULL,
    REJECT_LOADING,
    REJECT_SHUTTING_DOWN,
    REJECT_TOO_LARGE,
    REJECT_RATE_LIMIT,
    REJECT_COUNT
};
enum metric_phase { PHASE_UPLOAD, PHASE_QUEUED, PHASE_PREFILL, PHASE_DECODE, PHASE_COUNT };
enum metric_cause {
    CAUSE_DISCONNECT,
    CAUSE_DEADLINE,
    CAUSE_QUEUE_TIMEOUT,
    CAUSE_SHUTDOWN,
    CAUSE_COUNT
};

struct metrics *metrics_new(void);
void metrics_free(struct metrics *m);

void metrics_observe(struct metrics *m, enum metric_hist h, double value);
void metrics_http(struct metrics *m, int route, const char *method, int status, double seconds);
void metrics_outcome(struct metrics *m, int route, enum metric_outcome o);
void metrics_reject(struct metrics *m, enum metric_reject r);
void metrics_cancel(struct metrics *m, enum metric_phase p, enum metric_cause c);

/* metrics_set_plans -- name the plans of the TTM layers whose use metrics_step() counts. Once, before
 * the first step. */
void metrics_set_plans(struct metrics *m, const struct engine_info *i);
void metrics_step(void *m, const struct engine_step_info *i); /* for engine_set_on_step() */

/* metrics_write -- the page of /metrics; m is the current model, NULL while there is none. */
void metrics_write(struct server *s, const struct served *m, struct buf *out);

#endif
