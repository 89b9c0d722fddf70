/* Numbers for Prometheus. Fixed arrays of atomics, indexed by enums and route numbers: counting is one
 * atomic addition on any thread, and every series exists from the start with the value 0, so that
 * rate() works from the first scrape. Sums of histograms are doubles in an atomic word, by exchange. */
#include "server/metrics.h"

#include <dirent.h>
#include <microhttpd.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/version.h"
#include "server/metrics_text.h"
#include "server/routes.h"
#include "server/server.h"

#define MAX_ROUTES 32
#define MAX_BUCKETS 16
#define MAX_PLANS 16 /* different ones; a model has one or two per shape */

/* What the table of errors has, what answers without one have, and 499. */
static const int codes[] = {200, 204, 304, 400, 401, 403, 404, 405, 408,
                            409, 413, 422, 429, 499, 500, 503, 504, 0};
#define N_CODES (sizeof codes / sizeof *codes)
static const char *const methods[] = {"GET", "HEAD", "POST", "OPTIONS", "other"};
#define N_METHODS (sizeof methods / sizeof *methods)

struct hist {
    atomic_ullong bucket[MAX_BUCKETS + 1]; /* not cumulative; the last is +Inf */
    atomic_ullong sum_bits;                /* a double */
};

/* A way in which TTM layers are applied, and the steps in which one was. */
struct plan_steps {
    char text[sizeof((struct ttm_info *)0)->plan[0]];
    atomic_bool role[2]; /* decode, prefill; of the current model */
    atomic_ullong steps;
};

struct metrics {
    atomic_ullong http[MAX_ROUTES + 1][N_METHODS][N_CODES]; /* the last route is "other" */
    struct hist http_seconds[MAX_ROUTES + 1];
    atomic_ullong outcome[MAX_ROUTES][OUTCOME_COUNT];
    atomic_ullong rejected[REJECT_COUNT];
    atomic_ullong cancelled[PHASE_COUNT][CAUSE_COUNT];
    struct hist hist[HIST_COUNT];
    struct plan_steps plans[MAX_PLANS];
    atomic_int n_plans; /* grows with the models that the loader loads */
};

static const double slow_s[] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                2.5,   5,    10,    30,   60,  120,  300, 0};
static const double fast_s[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                0.1,    0.25,  0.5,    1,     2.5,  0};
static const double tokens[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 0};
static const double rows[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 0};

static const struct {
    const char *name, *labels, *help;
    const double *bounds; /* ascending, ended by 0 */
} hists[HIST_COUNT] = {
    [HIST_TTFT] = {"time_to_first_token_seconds", "",
                   "From the request's headers to its first token.", slow_s},
    [HIST_INTER_TOKEN] = {"inter_token_latency_seconds", "", "Between tokens of a sequence.",
                          fast_s},
    [HIST_QUEUE] = {"request_queue_seconds", "", "Time of a sequence in the queue.", slow_s},
    [HIST_PREFILL] = {"request_prefill_seconds", "", "From admission to the first token.", slow_s},
    [HIST_DECODE] = {"request_decode_seconds", "", "From the first token to the last.", slow_s},
    [HIST_REQUEST] = {"request_duration_seconds", "", "Of requests that reached the engine.",
                      slow_s},
    [HIST_PROMPT_TOKENS] = {"request_prompt_tokens", "", "Prompt tokens per sequence.", tokens},
    [HIST_GENERATED_TOKENS] = {"request_generated_tokens", "", "Generated tokens per sequence.",
                               tokens},
    [HIST_BATCH] = {"batch_size", "", "Rows (tokens) computed in one step.", rows},
    [HIST_STEP_PREFILL] = {"engine_step_seconds", "phase=\"prefill\"", "Duration of engine steps.",
                           fast_s},
    [HIST_STEP_DECODE] = {"engine_step_seconds", "phase=\"decode\"", "Duration of engine steps.",
                          fast_s},
};
static const char *const outcomes[] = {"ok",      "invalid",  "cancelled",
                                       "timeout", "rejected", "failed"};
static const char *const rejects[] = {"queue_full",    "bodies_full", "loading",
                                      "shutting_down", "too_large",   "rate_limit"};
static const char *const phases[] = {"upload", "queued", "prefill", "decode"};
static const char *const causes[] = {"disconnect", "deadline", "queue_timeout", "shutdown"};

struct metrics *metrics_new(void)
{
    BUG_ON(n_routes > MAX_ROUTES);
    return mem_calloc(1, sizeof(struct metrics));
}

void metrics_free(struct metrics *m)
{
    free(m);
}

static void count(atomic_ullong *c)
{
    atomic_fetch_add_explicit(c, 1, memory_order_relaxed);
}

static void observe(struct hist *h, const double *bounds, double v)
{
    size_t i = 0;
    while (bounds[i] != 0 && v > bounds[i])
        i++;
    count(&h->bucket[bounds[i] != 0 ? i : MAX_BUCKETS]);
    unsigned long long old = atomic_load_explicit(&h->sum_bits, memory_order_relaxed), new;
    do {
        double sum;
        memcpy(&sum, &old, sizeof sum);
        sum += v;
        memcpy(&new, &sum, sizeof sum);
    } while (!atomic_compare_exchange_weak_explicit(&h->sum_bits, &old, new, memory_order_relaxed,
                                                    memory_order_relaxed));
}

void metrics_observe(struct metrics *m, enum metric_hist h, double value)
{
    observe(&m->hist[h], hists[h].bounds, value);
}

void metrics_http(struct metrics *m, int route, const char *method, int status, double seconds)
{
    size_t r = route < 0 ? MAX_ROUTES : (size_t)route, c = 0, k = 0;
    while (k + 1 < N_METHODS && strcmp(methods[k], method) != 0)
        k++;
    while (c + 1 < N_CODES && codes[c] != status)
        c++;
    count(&m->http[r][k][c]);
    observe(&m->http_seconds[r], slow_s, seconds);
}

void metrics_outcome(struct metrics *m, int route, enum metric_outcome o)
{
    count(&m->outcome[route][o]);
}

void metrics_reject(struct metrics *m, enum metric_reject r)
{
    count(&m->rejected[r]);
}

void metrics_cancel(struct metrics *m, enum metric_phase p, enum metric_cause c)
{
    count(&m->cancelled[p][c]);
}

static void add_plan(struct metrics *m, int *n, const char *text, int role)
{
    int at = 0;
    while (at < *n && strcmp(m->plans[at].text, text) != 0)
        at++;
    if (at == MAX_PLANS) return;
    if (at == *n) snprintf(m->plans[(*n)++].text, sizeof m->plans[at].text, "%s", text);
    atomic_store(&m->plans[at].role[role], true);
}

void metrics_set_plans(struct metrics *m, const struct engine_info *i)
{
    int n = atomic_load(&m->n_plans);
    for (int k = 0; k < n; k++)
        for (int r = 0; r < 2; r++)
            atomic_store(&m->plans[k].role[r], false);
    for (int k = 0; k < i->n_ttm; k++)
        for (int r = 0; r < 2; r++)
            add_plan(m, &n, i->ttm[k].plan[r], r);
    atomic_store_explicit(&m->n_plans, n, memory_order_release);
}

static void count_plans(struct metrics *m, const struct engine_step_info *i)
{
    int n = atomic_load_explicit(&m->n_plans, memory_order_relaxed);
    for (int k = 0; k < n; k++) {
        struct plan_steps *p = &m->plans[k];
        if ((p->role[0] && i->decode_rows) || (p->role[1] && i->prefill_rows)) count(&p->steps);
    }
}

void metrics_step(void *arg, const struct engine_step_info *i)
{
    struct metrics *m = arg;
    count_plans(m, i);
    metrics_observe(m, HIST_BATCH, (double)(i->decode_rows + i->prefill_rows));
    metrics_observe(m, i->prefill_rows ? HIST_STEP_PREFILL : HIST_STEP_DECODE, i->seconds);
}

static double get(const atomic_ullong *c)
{
    return (double)atomic_load_explicit(c, memory_order_relaxed);
}

static void write_hist(struct buf *b, const char *name, const char *labels, const struct hist *h,
                       const double *bounds)
{
    double sum, total = 0;
    unsigned long long bits = atomic_load_explicit(&h->sum_bits, memory_order_relaxed);
    const char *comma = *labels ? "," : "";
    memcpy(&sum, &bits, sizeof sum);
    for (size_t i = 0; bounds[i] != 0; i++) {
        total += get(&h->bucket[i]);
        buf_printf(b, "ttmd_%s_bucket{%s%sle=\"%g\"} %.0f\n", name, labels, comma, bounds[i],
                   total);
    }
    total += get(&h->bucket[MAX_BUCKETS]);
    buf_printf(b, "ttmd_%s_bucket{%s%sle=\"+Inf\"} %.0f\n", name, labels, comma, total);
    metric_sample(b, name, "_sum", labels, sum);
    metric_sample(b, name, "_count", labels, total);
}

/* The series that can occur are there from the start: the route's own methods with 200. */
static bool shown(int route, size_t method, size_t code, double value)
{
    if (value > 0) return true;
    if (route >= n_routes || codes[code] != 200) return false;
    return routes[route].post ? method == 2 : method == 0;
}

static const char *route_label(int route)
{
    return route < n_routes ? routes[route].label : "other";
}

static void write_http(struct metrics *m, struct buf *b)
{
    struct buf l = {0};
    metric_head(b, "http_requests_total", "counter",
                "HTTP requests answered; code 499: the client left before.");
    for (int i = 0; i <= n_routes; i++)
        for (size_t k = 0; k < N_METHODS; k++)
            for (size_t c = 0; c < N_CODES; c++) {
                double v = get(&m->http[i < n_routes ? i : MAX_ROUTES][k][c]);
                if (!shown(i, k, c, v)) continue;
                buf_clear(&l);
                buf_printf(&l, "route=\"%s\",method=\"%s\",code=\"", route_label(i), methods[k]);
                if (codes[c])
                    buf_printf(&l, "%d\"", codes[c]);
                else
                    buf_puts(&l, "other\"");
                metric_sample(b, "http_requests_total", "", l.data, v);
            }
    metric_head(b, "http_request_duration_seconds", "histogram",
                "From the headers to the end of the answer.");
    for (int i = 0; i <= n_routes; i++) {
        buf_clear(&l);
        buf_printf(&l, "route=\"%s\"", route_label(i));
        write_hist(b, "http_request_duration_seconds", l.data,
                   &m->http_seconds[i < n_routes ? i : MAX_ROUTES], slow_s);
    }
    buf_release(&l);
}

static void write_requests(struct metrics *m, struct buf *b)
{
    struct buf l = {0};
    metric_head(b, "requests_total", "counter", "POST requests by endpoint and how they ended.");
    for (int i = 0; i < n_routes; i++)
        for (size_t o = 0; routes[i].post && o < OUTCOME_COUNT; o++) {
            buf_clear(&l);
            buf_printf(&l, "endpoint=\"%s\",outcome=\"%s\"", routes[i].label, outcomes[o]);
            metric_sample(b, "requests_total", "", l.data, get(&m->outcome[i][o]));
        }
    metric_head(b, "requests_rejected_total", "counter", "Requests refused before they were read.");
    for (size_t i = 0; i < REJECT_COUNT; i++) {
        buf_clear(&l);
        buf_printf(&l, "reason=\"%s\"", rejects[i]);
        metric_sample(b, "requests_rejected_total", "", l.data, get(&m->rejected[i]));
    }
    metric_head(b, "requests_cancelled_total", "counter",
                "Requests cancelled, by how far they had come and why.");
    for (size_t p = 0; p < PHASE_COUNT; p++)
        for (size_t c = 0; c < CAUSE_COUNT; c++) {
            buf_clear(&l);
            buf_printf(&l, "phase=\"%s\",cause=\"%s\"", phases[p], causes[c]);
            metric_sample(b, "requests_cancelled_total", "", l.data, get(&m->cancelled[p][c]));
        }
    buf_release(&l);
}

static void write_hists(struct metrics *m, struct buf *b)
{
    for (size_t i = 0; i < HIST_COUNT; i++) {
        if (i == 0 || strcmp(hists[i].name, hists[i - 1].name) != 0)
            metric_head(b, hists[i].name, "histogram", hists[i].help);
        write_hist(b, hists[i].name, hists[i].labels, &m->hist[i], hists[i].bounds);
    }
}

static void write_plans(struct metrics *m, struct buf *b)
{
    struct buf l = {0};
    int n = atomic_load_explicit(&m->n_plans, memory_order_acquire);
    metric_head(b, "ttm_plan_steps_total", "counter",
                "Engine steps in which Tensor-Train layers were applied by a plan.");
    for (int k = 0; k < n; k++) {
        buf_clear(&l);
        buf_printf(&l, "plan=\"%s\"", m->plans[k].text);
        metric_sample(b, "ttm_plan_steps_total", "", l.data, get(&m->plans[k].steps));
    }
    buf_release(&l);
}

void metrics_write(struct server *s, const struct served *m, struct buf *out)
{
    metrics_write_server(s, m, out);
    write_http(s->metrics, out);
    write_requests(s->metrics, out);
    write_hists(s->metrics, out);
    write_plans(s->metrics, out);
    metrics_write_process(out);
}
