/* POST /v1/completions: a job per choice, the answer when all are done, or a stream of their deltas.
 *
 * Slot i is choice i % per_prompt of prompt i / per_prompt, and that number alone (not the slot, the
 * batch or the prompt's place) selects its random numbers: the same prompt and seed give the same bytes
 * in any company. A stream's cursors are in the slots; each pull writes what the jobs have published
 * since, choice by choice. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "server/completion.h"
#include "server/jsonw.h"
#include "server/served.h"

static void make_prefix(struct request *r, struct completion *c)
{
    struct buf b = {0};
    snprintf(c->id, sizeof c->id, "cmpl-%016llx", (unsigned long long)rng_entropy());
    buf_printf(&b,
               "{\"id\":\"%s\",\"object\":\"text_completion\",\"created\":%llu,\"model\":", c->id,
               (unsigned long long)(clock_unix_ms() / 1000));
    json_put_cstring(&b, r->srv->model_id);
    buf_printf(&b, ",\"system_fingerprint\":\"%s\"", r->model->fingerprint);
    if (c->truncated) buf_puts(&b, ",\"prompt_truncated\":true");
    c->prefix = buf_take(&b);
}

static void make_echoes(struct completion *c)
{
    if (!c->echo) return;
    c->echoes = mem_calloc(c->prompts.n, sizeof *c->echoes);
    for (size_t i = 0; i < c->prompts.n; i++)
        token_text_make(&c->echoes[i], c->tokenizer, c->prompts.list[i].ids, c->prompts.list[i].n);
}

int completions_start(struct request *r, const json_t *body, struct api_error *e)
{
    struct param_env env = env_of(r);
    struct completion *c = mem_calloc(1, sizeof *c);
    if (completion_parse(c, body, &env, e)) {
        free(c);
        return -1;
    }
    if (!c->has_seed) c->seed = (int64_t)rng_entropy();
    if (c->user) snprintf(r->user, sizeof r->user, "%s", c->user);
    make_prefix(r, c);
    make_echoes(c);
    env_deadlines(r, c->timeout_s);
    r->task = c;
    r->stream = c->stream;
    jobs_init(r, c->prompts.n * completion_per_prompt(c));
    return 0;
}

void completions_release(void *task)
{
    completion_release(task);
    free(task);
}

void completions_spec(struct request *r, size_t i, struct job_spec *spec)
{
    struct completion *c = r->task;
    size_t per = completion_per_prompt(c);
    const struct tokens *prompt = &c->prompts.list[i / per];
    spec->tokens = prompt->ids;
    spec->n_tokens = prompt->n;
    spec->max_tokens = (int)c->max_tokens;
    spec->min_tokens = (int)c->min_tokens;
    spec->ignore_eos = c->ignore_eos;
    spec->score_from = c->echo && c->logprobs >= 0 ? 0 : SIZE_MAX;
    spec->top_logprobs = (int)c->logprobs;
    if (spec->top_logprobs < 0 && c->best_of > c->n) spec->top_logprobs = 0; /* to rank them */
    spec->stop_ids = c->stop_ids.ids;
    spec->n_stop_ids = c->stop_ids.n;
    spec->stop = (const char *const *)c->stop;
    spec->stop_len = c->stop_len;
    spec->n_stop = c->n_stop;
    spec->include_stop = c->include_stop;
    spec->cache_prompt = c->cache_prompt;
    spec->cache_salt = c->cache_salt;
    if (per > 1) spec->family = jobs_family(r, i / per);
    struct sampling *s = &spec->sampling;
    s->temperature = c->temperature;
    s->top_k = c->top_k > 0 ? (int32_t)c->top_k : 0;
    s->top_p = c->top_p;
    s->typical_p = c->typical_p;
    s->min_p = c->min_p;
    s->repetition_penalty = c->repetition_penalty;
    s->presence_penalty = c->presence_penalty;
    s->frequency_penalty = c->frequency_penalty;
    s->seed = (uint64_t)c->seed;
    s->stream = i % per;
    s->bias = c->bias;
    s->n_bias = c->n_bias;
    s->allowed = c->allowed.n ? c->allowed.ids : NULL;
    s->n_allowed = c->allowed.n;
}

/* ---- whole ---- */

static double mean_logprob(const struct job *job)
{
    struct job_view v;
    job_view(job, &v);
    return v.completion_tokens ? v.sum_logprob / (double)v.completion_tokens : 0;
}

/* The best not yet taken of a prompt's candidates; the first among equals. */
static size_t take_best(struct request *r, size_t begin, size_t per, bool *taken)
{
    size_t best = SIZE_MAX;
    double best_mean = 0;
    for (size_t k = 0; k < per; k++) {
        if (taken[k]) continue;
        double mean = mean_logprob(r->slots[begin + k].job);
        if (best == SIZE_MAX || mean > best_mean) {
            best = k;
            best_mean = mean;
        }
    }
    taken[best] = true;
    return begin + best;
}

static void put_choices(struct request *r, struct completion *c, struct buf *b)
{
    size_t per = completion_per_prompt(c), n = (size_t)c->n;
    bool *taken = mem_calloc(per, sizeof *taken);
    for (size_t p = 0; p < c->prompts.n; p++) {
        memset(taken, 0, per * sizeof *taken);
        for (size_t k = 0; k < n; k++) {
            size_t slot = per > n ? take_best(r, p * per, per, taken) : p * per + k;
            struct job_view v;
            job_view(r->slots[slot].job, &v);
            struct piece piece = {.index = p * n + k,
                                  .slot = &r->slots[slot],
                                  .prompt = p,
                                  .first = true,
                                  .echo = c->echo,
                                  .final = true,
                                  .to = v.n_tokens,
                                  .text_to = v.text_len};
            if (piece.index) buf_putc(b, ',');
            completion_put_choice(c, &piece, &v, b);
        }
    }
    free(taken);
}

bool completions_all_done(struct request *r)
{
    pthread_mutex_lock(&r->lock);
    bool all = r->n_done == r->n_slots;
    pthread_mutex_unlock(&r->lock);
    return all;
}

size_t completions_best(struct request *r)
{
    size_t per = completion_per_prompt(r->task);
    bool *taken = mem_calloc(per, sizeof *taken);
    size_t best = take_best(r, 0, per, taken);
    free(taken);
    return best;
}

void completions_progress(struct request *r)
{
    struct completion *c = r->task;
    if (c->stream || !completions_all_done(r)) return;
    struct buf b = {0};
    buf_puts(&b, c->prefix);
    buf_puts(&b, ",\"choices\":[");
    put_choices(r, c, &b);
    buf_puts(&b, "],\"usage\":");
    completion_put_usage(r, c, &b);
    buf_puts(&b, ",\"timings\":");
    completion_put_timings(r, &b);
    buf_putc(&b, '}');
    request_answer(r, &b);
}

/* ---- stream ---- */

static void put_chunk(struct completion *c, struct slot *sl, struct piece *p,
                      const struct job_view *v, struct buf *b)
{
    p->first = !sl->sent_any;
    sl->sent_any = true;
    buf_puts(b, "data: ");
    buf_puts(b, c->prefix);
    buf_puts(b, ",\"choices\":[");
    completion_put_choice(c, p, v, b);
    buf_putc(b, ']');
    if (c->include_usage) buf_puts(b, ",\"usage\":null");
}

/* The next delta of a choice: a token and its text, or text that was let go without one. Tokens without
 * text wait for the next that has some, unless the client asked for every token. */
static bool next_delta(const struct completion *c, const struct slot *sl, const struct job_view *v,
                       struct piece *p)
{
    const struct job_token *t = job_tokens(sl->job);
    size_t to = sl->sent_tokens;
    bool each = c->logprobs >= 0 || c->return_token_ids;
    p->from = to;
    p->text_from = sl->sent_text;
    p->text_to = sl->sent_text;
    while (to < v->n_tokens) {
        to++;
        size_t end = to < v->n_tokens ? t[to].text_begin : v->text_len;
        if (end > p->text_to) p->text_to = end;
        if (each || p->text_to > p->text_from) break;
    }
    if (to == sl->sent_tokens) p->text_to = v->text_len;
    p->to = to;
    return p->text_to > p->text_from || (each && to > p->from);
}

static void pull_slot(struct request *r, struct completion *c, size_t i, struct buf *b)
{
    struct slot *sl = &r->slots[i];
    struct job_view v;
    job_view(sl->job, &v);
    struct piece p = {.index = i, .slot = sl, .prompt = i / completion_per_prompt(c)};
    bool scored = c->logprobs < 0 || v.n_scored >= c->prompts.list[p.prompt].n;
    if (c->echo && !sl->sent_echo) {
        if (!scored) return;
        p.echo = true;
        put_chunk(c, sl, &p, &v, b);
        buf_puts(b, "}\n\n");
        p.echo = false;
        sl->sent_echo = true;
    }
    while (next_delta(c, sl, &v, &p)) {
        put_chunk(c, sl, &p, &v, b);
        buf_puts(b, "}\n\n");
        sl->sent_tokens = p.to;
        sl->sent_text = p.text_to;
    }
    if (!v.done || (v.finish != FINISH_STOP && v.finish != FINISH_LENGTH)) return;
    p = (struct piece){.index = i,
                       .slot = sl,
                       .prompt = p.prompt,
                       .final = true,
                       .from = sl->sent_tokens,
                       .to = sl->sent_tokens};
    put_chunk(c, sl, &p, &v, b);
    sl->sent_finish = true;
    if (++c->finished == r->n_slots) {
        buf_puts(b, ",\"timings\":");
        completion_put_timings(r, b);
    }
    buf_puts(b, "}\n\n");
}

static void pull_progress(struct request *r, struct completion *c, size_t n_jobs, struct buf *b)
{
    size_t total = 0, done = 0, cached = 0;
    for (size_t i = 0; i < r->n_slots; i++) {
        total += c->prompts.list[i / completion_per_prompt(c)].n;
        if (i >= n_jobs) continue;
        struct job_view v;
        job_view(r->slots[i].job, &v);
        done += v.prompt_done;
        cached += v.cached_tokens;
    }
    if (done == c->progress_sent) return;
    c->progress_sent = done;
    buf_puts(b, "data: ");
    buf_puts(b, c->prefix);
    buf_printf(
        b,
        ",\"choices\":[],\"prompt_progress\":{\"total\":%zu,\"cached\":%zu,\"processed\":%zu,"
        "\"time_ms\":%.0f}%s}\n\n",
        total, cached, done, (double)(clock_ns() - r->start_ns) / 1e6,
        c->include_usage ? ",\"usage\":null" : "");
}

void completions_pull(struct request *r, size_t n_jobs, struct buf *b, bool *end)
{
    struct completion *c = r->task;
    if (c->return_progress) pull_progress(r, c, n_jobs, b);
    for (size_t i = 0; i < n_jobs; i++)
        if (!r->slots[i].sent_finish) pull_slot(r, c, i, b);
    if (c->finished < r->n_slots) return;
    if (c->include_usage) {
        buf_puts(b, "data: ");
        buf_puts(b, c->prefix);
        buf_puts(b, ",\"choices\":[],\"usage\":");
        completion_put_usage(r, c, b);
        buf_puts(b, ",\"timings\":");
        completion_put_timings(r, b);
        buf_puts(b, "}\n\n");
    }
    buf_puts(b, "data: [DONE]\n\n");
    *end = true;
}
