/* POST /v1/perplexity: how surprised the model is by a text of any length. Each window of the plan
 * (engine/run/perplexity.h) is a job that generates nothing; its scores are added in the order of the text,
 * whatever the order in which windows finish, so that the sums do not depend on the batch. A window's job
 * is dropped as soon as it was added: memory does not grow with the text. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "server/env.h"
#include "server/jsonw.h"
#include "server/served.h"

struct text_sums {
    size_t bytes, words, windows, first_slot;
    struct ppl_plan plan;
    struct ppl_sums sums;
    float *logprobs; /* (tokens) NaN = not scored; owned; NULL unless per_token */
};

struct perplexity {
    int64_t window, stride; /* 0: absent */
    bool per_token, stream, bos;
    double timeout_s;
    char *prefix;
    struct prompts input;
    int32_t bos_id;
    int32_t *with_bos;       /* scratch for a window behind a bos; owned */
    struct text_sums *texts; /* (input.n) */
};

static int parse_input(const struct param *p, const json_t *v, void *out,
                       const struct param_env *env, struct api_error *e)
{
    struct perplexity *x = out;
    return param_prompts(p->name, v, env, true, &x->input, e);
}

/* A window, or a stride of windows, is at most a context. */
static int parse_width(const struct param *p, const json_t *v, void *out,
                       const struct param_env *env, struct api_error *e)
{
    int64_t *at = (int64_t *)(void *)((char *)out + p->offset);
    return param_int(p->name, v, (int64_t)p->min, (int64_t)env->n_ctx, at, e);
}

static int parse_prefix(const struct param *p, const json_t *v, void *out,
                        const struct param_env *env, struct api_error *e)
{
    (void)env;
    struct perplexity *x = out;
    const char *s = param_text(p->name, v, "\"none\" or \"bos\"", e);
    if (!s) return -1;
    x->bos = strcmp(s, "bos") == 0;
    if (!x->bos && strcmp(s, "none") != 0)
        return api_fail(e, API_INVALID_VALUE, p->name,
                        "'prefix' is '%.40s': expected 'none' or 'bos'", s);
    return 0;
}

#define AT(field) .offset = offsetof(struct perplexity, field)
static const struct param table[] = {
    {.name = "model", .type = PARAM_CUSTOM, .parse = param_model},
    {.name = "input", .type = PARAM_CUSTOM, .parse = parse_input},
    {.name = "window", .type = PARAM_CUSTOM, .parse = parse_width, .min = 2, AT(window)},
    {.name = "stride", .type = PARAM_CUSTOM, .parse = parse_width, .min = 1, AT(stride)},
    {.name = "prefix", .type = PARAM_CUSTOM, .parse = parse_prefix},
    {.name = "per_token", .type = PARAM_BOOL, AT(per_token)},
    {.name = "stream", .type = PARAM_BOOL, AT(stream)},
    {.name = "timeout_s",
     .type = PARAM_NUMBER,
     .min = 0,
     .max = 86400,
     .above_min = true,
     AT(timeout_s)},
};
#undef AT

static int check(struct perplexity *x, const struct param_env *env, struct api_error *e)
{
    if (!x->input.list)
        return api_fail(e, API_MISSING_PARAMETER, "input",
                        "'input' is missing: expected a text, token ids, or an array of either");
    if (x->window == 0) x->window = (int64_t)env->n_ctx;
    if (x->stride > x->window)
        return api_fail(e, API_INVALID_VALUE, "stride",
                        "'stride' is %lld: expected at most window, %lld", (long long)x->stride,
                        (long long)x->window);
    if (x->stride == 0) x->stride = x->window;
    if (x->bos && env->eos < 0)
        return api_fail(e, API_UNSUPPORTED, "prefix",
                        "'prefix' is 'bos', but the model has no end-of-text token");
    x->bos_id = env->eos;
    return 0;
}

static void measure(struct perplexity *x, const struct param_env *env, size_t *n_slots)
{
    struct buf bytes = {0};
    x->texts = mem_calloc(x->input.n, sizeof *x->texts);
    for (size_t i = 0; i < x->input.n; i++) {
        struct text_sums *t = &x->texts[i];
        const struct tokens *ids = &x->input.list[i];
        buf_clear(&bytes);
        tokenizer_decode(env->tokenizer, ids->ids, ids->n, true, &bytes);
        t->bytes = bytes.len;
        t->words = ppl_count_words(bytes.data ? bytes.data : "", bytes.len);
        t->plan = (struct ppl_plan){.n_tokens = ids->n,
                                    .window = (size_t)x->window,
                                    .stride = (size_t)x->stride,
                                    .prefix = x->bos ? PPL_PREFIX_BOS : PPL_PREFIX_NONE};
        t->windows = ppl_window_count(&t->plan);
        t->first_slot = *n_slots;
        *n_slots += t->windows;
        if (!x->per_token) continue;
        t->logprobs = mem_alloc((ids->n + 1) * sizeof *t->logprobs);
        for (size_t k = 0; k < ids->n; k++)
            t->logprobs[k] = NAN;
    }
    buf_release(&bytes);
}

void perplexity_release(void *task)
{
    struct perplexity *x = task;
    for (size_t i = 0; x->texts && i < x->input.n; i++)
        free(x->texts[i].logprobs);
    free(x->texts);
    free(x->with_bos);
    free(x->prefix);
    prompts_release(&x->input);
    free(x);
}

/* ---- jobs ---- */

/* The text and window of slot i. */
static const struct text_sums *window_of(const struct perplexity *x, size_t i, struct ppl_window *w,
                                         size_t *text)
{
    size_t k = 0;
    while (i >= x->texts[k].first_slot + x->texts[k].windows)
        k++;
    BUG_ON(!ppl_window_at(&x->texts[k].plan, i - x->texts[k].first_slot, w));
    *text = k;
    return &x->texts[k];
}

void perplexity_spec(struct request *r, size_t i, struct job_spec *spec)
{
    struct perplexity *x = r->task;
    struct ppl_window w;
    size_t k;
    window_of(x, i, &w, &k);
    const int32_t *ids = x->input.list[k].ids;
    size_t n = w.end - w.begin;
    spec->max_tokens = 0;
    spec->tokens = ids + w.begin;
    spec->n_tokens = n;
    spec->score_from = w.score - w.begin;
    spec->cache_prompt = false; /* windows begin anywhere in a text: none is another's prefix */
    if (!w.bos) return;
    x->with_bos[0] = x->bos_id;
    memcpy(x->with_bos + 1, ids + w.begin, n * sizeof *ids);
    spec->tokens = x->with_bos;
    spec->n_tokens = n + 1;
    spec->score_from++;
}

static void take_window(struct request *r, struct perplexity *x, size_t i)
{
    struct ppl_window w;
    size_t k;
    window_of(x, i, &w, &k);
    struct text_sums *t = &x->texts[k];
    const struct job_token *scored = job_prompt(jobs_slot(r, i)->job) + (w.bos ? 1 : 0);
    for (size_t at = w.score; at < w.end; at++) {
        float lp = scored[at - w.begin].logprob;
        ppl_add(&t->sums, lp);
        if (t->logprobs) t->logprobs[at] = lp;
    }
}

/* ---- answer ---- */

static void put_stats(struct buf *b, size_t n_tokens, size_t windows, const struct ppl_sums *s,
                      size_t bytes, size_t words)
{
    struct ppl_stats st;
    ppl_stats(s, bytes, words, &st);
    const struct {
        const char *key;
        double value;
    } fields[] = {{"nll_sum", s->nll},
                  {"nll_mean", st.nll_mean},
                  {"perplexity", st.perplexity},
                  {"bits_per_byte", st.bits_per_byte},
                  {"word_perplexity", st.word_perplexity},
                  {"byte_perplexity", st.byte_perplexity},
                  {"stderr", st.stderr_mean}};
    buf_printf(b, "\"tokens\":%zu,\"scored_tokens\":%zu,\"windows\":%zu", n_tokens, s->scored,
               windows);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        buf_printf(b, ",\"%s\":", fields[i].key);
        json_put_number(b, fields[i].value);
    }
}

static void put_result(const struct perplexity *x, size_t i, struct buf *b)
{
    const struct text_sums *t = &x->texts[i];
    const struct tokens *ids = &x->input.list[i];
    buf_printf(b, "%s{\"index\":%zu,", i ? "," : "", i);
    put_stats(b, ids->n, t->windows, &t->sums, t->bytes, t->words);
    if (t->logprobs) {
        buf_puts(b, ",\"token_ids\":[");
        for (size_t k = 0; k < ids->n; k++)
            buf_printf(b, k ? ",%d" : "%d", ids->ids[k]);
        buf_puts(b, "],\"token_logprobs\":[");
        for (size_t k = 0; k < ids->n; k++) {
            if (k) buf_putc(b, ',');
            json_put_number(b, t->logprobs[k]);
        }
        buf_putc(b, ']');
    }
    buf_putc(b, '}');
}

static void put_answer(struct request *r, const struct perplexity *x, struct buf *b)
{
    struct ppl_sums all = {0};
    size_t tokens = 0, windows = 0, bytes = 0, words = 0;
    buf_puts(b, "{\"object\":\"perplexity\",\"model\":");
    json_put_cstring(b, r->srv->model_id);
    buf_printf(b,
               ",\"system_fingerprint\":\"%s\",\"window\":%lld,\"stride\":%lld,\"prefix\":\"%s\","
               "\"results\":[",
               r->model->fingerprint, (long long)x->window, (long long)x->stride,
               x->bos ? "bos" : "none");
    for (size_t i = 0; i < x->input.n; i++) {
        const struct text_sums *t = &x->texts[i];
        put_result(x, i, b);
        ppl_merge(&all, &t->sums);
        tokens += x->input.list[i].n;
        windows += t->windows;
        bytes += t->bytes;
        words += t->words;
    }
    buf_puts(b, "],\"total\":{");
    put_stats(b, tokens, windows, &all, bytes, words);
    buf_puts(b, "},\"timings\":{\"queue_ms\":");
    json_put_number(b, r->queue_ms);
    buf_puts(b, ",\"compute_ms\":");
    json_put_number(b, r->prefill_ms + r->decode_ms);
    buf_puts(b, "}}");
}

static void put_event(const struct buf *json, struct buf *b)
{
    buf_puts(b, "data: ");
    buf_append(b, json->data, json->len);
    buf_puts(b, "\n\n");
}

static void finish(struct request *r, struct perplexity *x)
{
    struct buf json = {0}, event = {0};
    put_answer(r, x, &json);
    if (!x->stream) {
        request_answer(r, &json);
        return;
    }
    put_event(&json, &event);
    buf_puts(&event, "data: [DONE]\n\n");
    request_stream_put(r, &event, true);
    buf_release(&json);
    buf_release(&event);
}

static void report(struct request *r, const struct perplexity *x)
{
    struct buf json = {0}, event = {0};
    size_t scored = 0;
    double nll = 0;
    for (size_t i = 0; i < x->input.n; i++) {
        scored += x->texts[i].sums.scored;
        nll += x->texts[i].sums.nll;
    }
    buf_printf(&json,
               "{\"object\":\"perplexity.progress\",\"windows_done\":%zu,\"windows\":%zu,"
               "\"scored_tokens\":%zu,\"nll_sum\":",
               r->n_dropped, r->n_slots, scored);
    json_put_number(&json, nll);
    buf_putc(&json, '}');
    put_event(&json, &event);
    request_stream_put(r, &event, false);
    buf_release(&json);
    buf_release(&event);
}

void perplexity_progress(struct request *r)
{
    struct perplexity *x = r->task;
    size_t before = r->n_dropped; /* windows in the sums; this thread alone drops */
    for (;;) {
        pthread_mutex_lock(&r->lock);
        size_t i = r->n_dropped;
        bool next = i < r->n_slots && jobs_slot(r, i)->done && r->cancel == CANCEL_NONE;
        pthread_mutex_unlock(&r->lock);
        if (!next) break;
        take_window(r, x, i);
        jobs_drop(r);
    }
    if (r->n_dropped == r->n_slots)
        finish(r, x);
    else if (r->n_dropped > before && x->stream)
        report(r, x);
}

int perplexity_start(struct request *r, const json_t *body, struct api_error *e)
{
    struct param_env env = env_of(r);
    struct perplexity *x = mem_calloc(1, sizeof *x);
    size_t n_slots = 0;
    if (params_parse(body, table, sizeof table / sizeof *table, x, &env, e) || check(x, &env, e)) {
        perplexity_release(x);
        return -1;
    }
    measure(x, &env, &n_slots);
    x->with_bos = mem_alloc(((size_t)x->window + 1) * sizeof *x->with_bos);
    r->task = x;
    r->stream = x->stream;
    env_deadlines(r, x->timeout_s);
    if (n_slots)
        jobs_init_in_turn(r, n_slots);
    else
        finish(r, x); /* texts too short to score: zeros */
    return 0;
}
