#ifndef TTMD_SERVER_REQUEST_H
#define TTMD_SERVER_REQUEST_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/run/engine.h"
#include "server/error.h"
#include "server/keys.h"
#include "server/routes.h"
#include "server/server.h"

struct MHD_Connection;

/* One HTTP request, from its first header to the last byte of its answer or the end of its last job,
 * whichever is later. Counted references: the HTTP side (until MHD reports completion), the response
 * of a stream, the worker's queue, and each submitted job (until its last notification).
 *
 * Lock order: watcher's registry, request, then {worker's queue, engine, MHD}. */

enum request_state {
    REQ_UPLOAD,  /* body arriving */
    REQ_WORK,    /* with the worker or the engine; connection suspended */
    REQ_STREAM,  /* streamed answer queued */
    REQ_REPLIED, /* whole answer queued */
    REQ_DEAD,    /* answered behind MHD's back (408): nothing more is sent */
};

enum cancel_cause { CANCEL_NONE, CANCEL_GONE, CANCEL_SHUTDOWN, CANCEL_FAILED };

/* A whole answer. */
struct reply {
    bool ready;
    int status;
    struct buf body;              /* owned */
    const char *content_type;     /* static; NULL: application/json */
    const char *allow;            /* "GET, HEAD", NULL */
    const struct header *headers; /* (n_headers) more; borrowed from the server */
    size_t n_headers;
    int retry_after_s;
    bool no_retry, close;
};

/* One job of a request. */
struct slot {
    struct request *r;
    struct job *job; /* NULL until submitted */
    bool done;
    size_t seen_tokens; /* for the inter-token histogram */
    uint64_t last_token_ns;
    /* what a stream has sent of it: */
    size_t sent_tokens, sent_text; /* text in bytes */
    size_t sent_progress;          /* prompt tokens reported */
    bool sent_any, sent_echo, sent_finish;
};

struct request {
    /* fixed when the request is made */
    struct server *srv;
    struct MHD_Connection *conn; /* HTTP side */
    const struct route *route;   /* NULL: no such path */
    int route_index;
    char method[32]; /* cut: longer than any that is compared with it */
    char id[65];
    char rest[256]; /* what the route's '*' stands for */
    int fd;
    struct key_grant grant;   /* whose key it came with; its meter is NULL without one */
    struct meter_state meter; /* the key's limits, as the headers say them */
    const char *origin;       /* for Access-Control-Allow-Origin; borrowed; NULL = none */
    bool vary_origin;
    bool strict;          /* unknown fields are refused: the client prefers it so */
    struct served *model; /* a reference: current when it came; NULL while there was none */
    uint64_t serial, start_ns;
    atomic_int refs;

    struct request *prev, *next; /* watcher's registry, under its lock */
    bool registered;
    struct request *work_next; /* worker's queue, under its lock */
    bool work_queued;

    pthread_mutex_t lock; /* all below */
    enum request_state state;
    enum cancel_cause cancel;
    bool has_place, suspended, started;
    struct buf body;
    size_t body_bytes; /* of s->body_bytes: held until the request ends */
    struct reply reply;
    int status; /* of the answer that was sent; 0 none */

    bool stream, stream_ready;
    struct buf out; /* stream bytes not yet taken by MHD: [out_pos, len) */
    size_t out_pos;
    bool news; /* jobs have published since the last pull */
    bool out_end, want_ping;
    uint64_t last_out_ns;

    struct slot *slots; /* (n_room) owned: job i in slots[i % n_room], while it is not dropped */
    size_t n_slots, n_room, n_dropped, next_slot, outstanding, n_done;
    enum finish bad_finish;                  /* first job that ended by a deadline or a shutdown */
    uint64_t deadline_ns, queue_deadline_ns; /* 0 none; for job specs */
    void *task;                              /* the endpoint's own; released by route->release() */

    /* for the access log */
    size_t prompt_tokens, completion_tokens, drafted_tokens, accepted_tokens;
    struct times {
        uint64_t submitted, admitted, first, last;
    } times;
    double queue_ms, prefill_ms, decode_ms;
    char user[65];
};

struct request *request_new(struct server *s, struct MHD_Connection *conn, const char *method,
                            const char *path);
void request_ref(struct request *r);
void request_unref(struct request *r);

/* request_take_place -- reserve one of max_places; false when all are taken. */
bool request_take_place(struct request *r);
void request_release_place_locked(struct request *r);

/* request_take_body -- append to the body; false when it is with others' more than max_bodies_bytes.
 * request_fits -- may a body of `bytes` come as things are? HTTP thread.
 *
 * What is made of a body (ids, scores) is in proportion to it and stays to the request's end: the bytes are
 * counted until then. The first 16 KiB of each are not, so that long texts keep no ordinary request out. */
bool request_take_body_locked(struct request *r, const char *bytes, size_t n);
void request_drop_body_locked(struct request *r);
bool request_fits(const struct server *s, unsigned long long bytes);

/* request_answer -- a whole JSON answer of status 200; takes `body`. Any thread, lock not held. */
void request_answer(struct request *r, struct buf *body);
/* request_fail -- an error as the whole answer, or as the stream's end; cancels what still runs. */
void request_fail(struct request *r, const struct api_error *e);
void request_fail_locked(struct request *r, const struct api_error *e);
/* request_stream_begin -- the answer is a stream from now on: headers go out. */
void request_stream_begin(struct request *r);
/* request_stream_put -- append to the stream; takes nothing. */
void request_stream_put(struct request *r, const struct buf *b, bool end);

/* request_wake_locked -- let MHD look at the request again, if it sleeps. */
void request_wake_locked(struct request *r);

/* request_cancel -- the client is gone, or the server stops. Idempotent; the first cause counts. */
void request_cancel(struct request *r, enum cancel_cause cause);
void request_cancel_locked(struct request *r, enum cancel_cause cause);

/* reply_error -- fill a reply with an error, in the form of the route's protocol. */
void reply_error(const struct request *r, struct reply *reply, const struct api_error *e);

/* request_finish_error -- what a job's end by deadline, queue timeout or shutdown means to the client. */
void request_finish_error(const struct request *r, struct api_error *e);

/* ---- jobs of a request (jobs.c) ---- */
void jobs_init(struct request *r, size_t n);
/* jobs_init_in_turn -- of any number, which jobs_drop() drops in their order: there is room for as many as
 * keep the engine busy, and slot i is jobs_slot(). */
void jobs_init_in_turn(struct request *r, size_t n);
struct slot *jobs_slot(const struct request *r, size_t i);
/* jobs_family -- for the specs of jobs whose prompts have much in common, those of one part of the request. */
uint64_t jobs_family(const struct request *r, size_t part);
/* jobs_feed -- submit as many as may be outstanding. On failure the error is the answer's. Worker. */
int jobs_feed(struct request *r, struct api_error *e);
/* jobs_work -- the worker's share of a request: parse and start it, or go on with it. */
void jobs_work(struct request *r);
void jobs_drop(struct request *r);    /* the next in turn, done and its results read; worker */
void jobs_account(struct request *r); /* token counts and times into the log fields; all done */

#endif
