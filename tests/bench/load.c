/* load -- a closed loop of clients against a running ttmd: each sends a streamed completion, waits for its
 * end, sends the next. One line for a table, tabs between the fields:
 *
 *     clients  tokens/s  ttft p50 p99  between tokens p50 p99 max  latency p50  requests  errors     (ms)
 *
 *     load PORT CLIENTS [SECONDS [PROMPT_TOKENS MAX_TOKENS VOCAB]]
 *
 * Prompts are random ids, different for every request and in every run, so that nothing can be reused: neither
 * of this run nor of one before it. What counts is a window of time in which all clients are busy: a fixed
 * number of requests would end in a time when they run out, and the fewer requests the larger its part.
 * Requests reach over both ends of the window; of each, tokens count by the part of its stream that lies
 * within. The process is only threads that wait.
 *
 * Models of random weights repeat tokens, and many of those are halves of a character, whose text waits for
 * the other half. So ids are asked for, which makes every token an event, and tokens that come together share
 * the time since those before. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "tests/support/httpc.h"

enum { TIMEOUT_MS = 120000, TOGETHER_NS = 500000 };

struct samples {
    double *v; /* (cap) owned */
    size_t n, cap;
};

struct client {
    pthread_t thread;
    struct run *run;
    int number;
    struct samples ttft, between, latency; /* ms */
    double tokens;                         /* within the window */
    int requests, errors;
};

struct run {
    int port, n_clients, prompt_tokens, max_tokens, vocab;
    uint64_t number;     /* of this run: no other has it */
    uint64_t begin, end; /* of the window */
    atomic_bool stop;
    struct client *clients;
};

static void add(struct samples *s, double v)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 1024;
        s->v = mem_realloc(s->v, s->cap * sizeof *s->v);
    }
    s->v[s->n++] = v;
}

static bool within(const struct run *r, uint64_t t)
{
    return t >= r->begin && t < r->end;
}

static void make_body(const struct client *c, int request, struct buf *b)
{
    const struct run *r = c->run;
    buf_puts(b, "{\"prompt\":[");
    for (int i = 0; i < r->prompt_tokens; i++)
        buf_printf(b, i ? ",%d" : "%d",
                   (int)(rng_uniform((uint64_t)c->number << 32 | (unsigned)request, r->number,
                                     (uint64_t)i) *
                         r->vocab));
    buf_printf(b,
               "],\"max_tokens\":%d,\"temperature\":0,\"ignore_eos\":true,\"stream\":true,"
               "\"return_token_ids\":true}",
               r->max_tokens);
}

/* The part of [from, to) that lies within the window. */
static double overlap(const struct run *r, uint64_t from, uint64_t to)
{
    uint64_t a = from > r->begin ? from : r->begin, b = to < r->end ? to : r->end;
    return to > from && b > a ? (double)(b - a) / (double)(to - from) : 0;
}

static double ms(uint64_t from, uint64_t to)
{
    return (double)(to - from) / (double)CLOCK_NS_PER_MS;
}

/* Tokens that came together. */
struct group {
    uint64_t before, at; /* when the group before came, and this one */
    int n;
};

static void group_end(struct client *c, struct group *g)
{
    for (int i = 0; i < g->n && g->before && within(c->run, g->at); i++)
        add(&c->between, ms(g->before, g->at) / g->n);
    *g = (struct group){.before = g->at};
}

static void group_token(struct client *c, struct group *g, uint64_t now)
{
    if (g->n && now - g->at > TOGETHER_NS) group_end(c, g);
    if (!g->n) g->at = now;
    g->n++;
}

/* Read one stream to its end; false when it has none. */
static bool read_stream(struct client *c, struct httpc *h, uint64_t sent)
{
    uint64_t first = 0, last = 0;
    bool done = false;
    struct group g = {0};
    for (char *e; !done && (e = httpc_event(h, TIMEOUT_MS)) != NULL; free(e)) {
        uint64_t now = clock_ns();
        done = strcmp(e, "data: [DONE]") == 0;
        if (done || strncmp(e, "data: ", 6) != 0 || !strstr(e, "\"finish_reason\":null")) continue;
        if (!first && within(c->run, now)) add(&c->ttft, ms(sent, now));
        group_token(c, &g, now);
        if (!first) first = now;
        last = now;
    }
    group_end(c, &g);
    if (!done) return false;
    c->tokens += c->run->max_tokens * overlap(c->run, first, last);
    if (within(c->run, last)) add(&c->latency, ms(sent, last));
    return true;
}

static void one_request(struct client *c, struct httpc *h, int request)
{
    struct buf b = {0};
    make_body(c, request, &b);
    uint64_t sent = clock_ns();
    bool ok = (h->fd >= 0 || httpc_connect(h, c->run->port)) &&
              httpc_send(h, "POST", "/v1/completions", "", b.data, b.len) &&
              httpc_head(h, TIMEOUT_MS) == 200 && read_stream(c, h, sent);
    buf_release(&b);
    c->requests++;
    if (ok) return;
    c->errors++;
    httpc_close(h);
}

static void *client_main(void *arg)
{
    struct client *c = arg;
    struct httpc h = {.fd = -1};
    for (int i = 0; !atomic_load(&c->run->stop); i++)
        one_request(c, &h, i);
    httpc_close(&h);
    return NULL;
}

/* ---- the figures ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double quantile(struct samples *s, double q)
{
    if (s->n == 0) return 0;
    qsort(s->v, s->n, sizeof *s->v, by_value);
    return s->v[(size_t)((double)(s->n - 1) * q + 0.5)];
}

static void append(struct samples *all, struct samples *one)
{
    for (size_t i = 0; i < one->n; i++)
        add(all, one->v[i]);
    free(one->v);
}

static int print(struct run *r)
{
    struct samples ttft = {0}, between = {0}, latency = {0};
    double tokens = 0;
    int requests = 0, errors = 0;
    for (int i = 0; i < r->n_clients; i++) {
        struct client *c = &r->clients[i];
        append(&ttft, &c->ttft);
        append(&between, &c->between);
        append(&latency, &c->latency);
        tokens += c->tokens;
        requests += c->requests;
        errors += c->errors;
    }
    double seconds = (double)(r->end - r->begin) / (double)CLOCK_NS_PER_S;
    printf("%d\t%.2f\t%.1f\t%.1f\t%.2f\t%.2f\t%.2f\t%.1f\t%d\t%d\n", r->n_clients, tokens / seconds,
           quantile(&ttft, 0.5), quantile(&ttft, 0.99), quantile(&between, 0.5),
           quantile(&between, 0.99), quantile(&between, 1), quantile(&latency, 0.5), requests,
           errors);
    free(ttft.v);
    free(between.v);
    free(latency.v);
    return errors ? 2 : 0;
}

static int argument(int argc, char **argv, int i, int initial)
{
    return argc > i ? (int)strtol(argv[i], NULL, 10) : initial;
}

int main(int argc, char **argv)
{
    struct run r = {.port = argument(argc, argv, 1, 0),
                    .n_clients = argument(argc, argv, 2, 0),
                    .prompt_tokens = argument(argc, argv, 4, 128),
                    .max_tokens = argument(argc, argv, 5, 64),
                    .vocab = argument(argc, argv, 6, 50000)};
    int seconds = argument(argc, argv, 3, 10);
    if (r.port < 1 || r.port > 65535 || r.n_clients < 1 || r.n_clients > 1024 || seconds < 1 ||
        r.prompt_tokens < 1 || r.max_tokens < 2 || r.vocab < 1) {
        fprintf(stderr, "usage: load PORT CLIENTS [SECONDS [PROMPT_TOKENS MAX_TOKENS VOCAB]]\n");
        return 2;
    }
    r.clients = mem_calloc((size_t)r.n_clients, sizeof *r.clients);
    uint64_t length = (unsigned)seconds * CLOCK_NS_PER_S;
    r.number = clock_ns();
    r.begin = r.number + length / 3; /* the first third is for all to have come under way */
    r.end = r.begin + length;
    for (int i = 0; i < r.n_clients; i++) {
        r.clients[i] = (struct client){.run = &r, .number = i};
        BUG_ON(pthread_create(&r.clients[i].thread, NULL, client_main, &r.clients[i]));
    }
    while (clock_ns() < r.end)
        nanosleep(&(struct timespec){.tv_nsec = 20 * CLOCK_NS_PER_MS}, NULL);
    atomic_store(&r.stop, true);
    for (int i = 0; i < r.n_clients; i++)
        pthread_join(r.clients[i].thread, NULL);
    int rc = print(&r);
    free(r.clients);
    return rc;
}
