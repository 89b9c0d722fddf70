#ifndef TTMD_SERVER_ROUTES_H
#define TTMD_SERVER_ROUTES_H

#include <jansson.h>
#include <stdbool.h>

#include "engine/run/engine.h"
#include "server/error.h"
#include "server/keys.h"

struct request;
struct reply;

/* An endpoint. GET routes answer at once, on the HTTP thread; POST routes hold a place, get their body
 * parsed on the worker and usually run jobs. */
struct route {
    const char *path;     /* a '*' stands for one or more bytes */
    const char *label;    /* in metrics and logs */
    bool post;            /* POST, else GET and HEAD */
    bool open;            /* answered without a key, also where keys are asked for */
    enum key_scope scope; /* that a key must have; 0 = any key will do */
    bool probe;           /* logged at debug level; served whatever the state */
    bool needs_model;     /* 503 model_loading until it is there */
    bool kserve;          /* errors in the form of its protocol */

    /* GET: fill reply; `rest` is what '*' stands for. Must be quick. */
    void (*get)(struct request *r, const char *rest, struct reply *reply);

    /* POST, on the worker: check the body, then either answer (request_answer()) or set r->task, call
     * jobs_init() and return; the jobs are fed from there. */
    int (*start)(struct request *r, const json_t *body, struct api_error *e);
    /* Fill the spec of job i; arrays belong to the task. Under the request's lock. */
    void (*spec)(struct request *r, size_t i, struct job_spec *spec);
    /* On the worker: some jobs are done (r->slots[].done). Answers when all are; appends to the stream. */
    void (*progress)(struct request *r);
    /* HTTP thread, without the lock: append to *out what the first n_jobs jobs have published since the
     * last call; *end = true with the last event. NULL: the worker writes the stream. */
    void (*pull)(struct request *r, size_t n_jobs, struct buf *out, bool *end);
    void (*release)(void *task);
};

extern const struct route routes[];
extern const int n_routes;

/* route_find -- index of the route of a path, -1 if none; (*rest, *len) is what '*' stands for. */
int route_find(const char *path, const char **rest, size_t *len);

/* GET handlers, by file. */
void models_list(struct request *r, const char *rest, struct reply *reply);
void models_one(struct request *r, const char *rest, struct reply *reply);
void tokenizer_info(struct request *r, const char *rest, struct reply *reply);
void health_livez(struct request *r, const char *rest, struct reply *reply);
void health_readyz(struct request *r, const char *rest, struct reply *reply);
void health_startupz(struct request *r, const char *rest, struct reply *reply);
void health_health(struct request *r, const char *rest, struct reply *reply);
void health_metrics(struct request *r, const char *rest, struct reply *reply);
void health_version(struct request *r, const char *rest, struct reply *reply);
void kserve_live(struct request *r, const char *rest, struct reply *reply);
void kserve_ready(struct request *r, const char *rest, struct reply *reply);
void kserve_server(struct request *r, const char *rest, struct reply *reply);
void kserve_model(struct request *r, const char *rest, struct reply *reply);
void kserve_model_ready(struct request *r, const char *rest, struct reply *reply);
void page_root(struct request *r, const char *rest, struct reply *reply);
void page_openapi(struct request *r, const char *rest, struct reply *reply);

/* POST handlers, by file. */
int completions_start(struct request *r, const json_t *body, struct api_error *e);
void completions_spec(struct request *r, size_t i, struct job_spec *spec);
void completions_progress(struct request *r);
void completions_pull(struct request *r, size_t n_jobs, struct buf *out, bool *end);
void completions_release(void *task);
int perplexity_start(struct request *r, const json_t *body, struct api_error *e);
void perplexity_spec(struct request *r, size_t i, struct job_spec *spec);
void perplexity_progress(struct request *r);
void perplexity_release(void *task);
int loglikelihood_start(struct request *r, const json_t *body, struct api_error *e);
void loglikelihood_spec(struct request *r, size_t i, struct job_spec *spec);
void loglikelihood_progress(struct request *r);
void loglikelihood_release(void *task);
int generate_start(struct request *r, const json_t *body, struct api_error *e);
int generate_stream_start(struct request *r, const json_t *body, struct api_error *e);
void generate_progress(struct request *r);
void generate_pull(struct request *r, size_t n_jobs, struct buf *out, bool *end);
int tokenize_start(struct request *r, const json_t *body, struct api_error *e);
int reload_start(struct request *r, const json_t *body, struct api_error *e);
int detokenize_start(struct request *r, const json_t *body, struct api_error *e);

#endif
