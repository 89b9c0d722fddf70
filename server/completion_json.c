/* What a completion looks like on the wire. Whole answers and stream chunks are written by the same code, so
 * that the digits of a number and the escapes of a text cannot differ between them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "server/completion.h"
#include "server/jsonw.h"

/* One column of the logprobs object. */
struct entry {
    int32_t id;
    float logprob;
    bool none; /* the first token of a text has no probability */
    const struct token_logprob *top;
    uint32_t offset;
};

static void put_name(const struct completion *c, int32_t id, struct buf *scratch, struct buf *b)
{
    buf_clear(scratch);
    token_string(c->tokenizer, id, scratch);
    json_put_string(b, scratch->data ? scratch->data : "", scratch->len);
}

static void put_logprob(float v, struct buf *b)
{
    json_put_number(b, v >= -9999.0f ? (double)v : -9999.0);
}

/* The n best, and the token itself when it is not among them. */
static void put_top(const struct completion *c, const struct entry *en, struct buf *scratch,
                    struct buf *b)
{
    bool own = false;
    buf_putc(b, '{');
    for (int64_t k = 0; k < c->logprobs; k++) {
        if (k) buf_putc(b, ',');
        put_name(c, en->top[k].id, scratch, b);
        buf_putc(b, ':');
        put_logprob(en->top[k].id == en->id ? en->logprob : en->top[k].logprob, b);
        own = own || en->top[k].id == en->id;
    }
    if (!own) {
        if (c->logprobs) buf_putc(b, ',');
        put_name(c, en->id, scratch, b);
        buf_putc(b, ':');
        put_logprob(en->logprob, b);
    }
    buf_putc(b, '}');
}

static void put_columns(const struct completion *c, const struct entry *en, size_t n, struct buf *b)
{
    struct buf scratch = {0};
    buf_puts(b, "{\"tokens\":[");
    for (size_t i = 0; i < n; i++) {
        if (i) buf_putc(b, ',');
        put_name(c, en[i].id, &scratch, b);
    }
    buf_puts(b, "],\"token_logprobs\":[");
    for (size_t i = 0; i < n; i++) {
        if (i) buf_putc(b, ',');
        if (en[i].none)
            buf_puts(b, "null");
        else
            put_logprob(en[i].logprob, b);
    }
    buf_puts(b, "],\"top_logprobs\":[");
    for (size_t i = 0; i < n; i++) {
        if (i) buf_putc(b, ',');
        if (en[i].none)
            buf_puts(b, "null");
        else
            put_top(c, &en[i], &scratch, b);
    }
    buf_puts(b, "],\"text_offset\":[");
    for (size_t i = 0; i < n; i++)
        buf_printf(b, i ? ",%u" : "%u", en[i].offset);
    buf_puts(b, "]}");
    buf_release(&scratch);
}

static void put_logprobs(const struct completion *c, const struct piece *p, struct buf *b)
{
    const struct tokens *prompt = &c->prompts.list[p->prompt];
    const struct token_text *echo = c->echo ? &c->echoes[p->prompt] : NULL;
    const struct job *job = p->slot->job;
    size_t n_prompt = p->echo ? prompt->n : 0, n = n_prompt + (p->to - p->from);
    if (c->logprobs < 0 || n == 0) {
        buf_puts(b, "null");
        return;
    }
    struct entry *en = mem_calloc(n, sizeof *en);
    for (size_t i = 0; i < n_prompt; i++) {
        const struct job_token *t = &job_prompt(job)[i];
        en[i] = (struct entry){.id = prompt->ids[i],
                               .logprob = t->logprob,
                               .none = i == 0 || isnan(t->logprob),
                               .top = c->logprobs ? job_prompt_top(job, i) : NULL,
                               .offset = echo ? echo->char_begin[i] : 0};
    }
    for (size_t i = p->from; i < p->to; i++) {
        const struct job_token *t = &job_tokens(job)[i];
        en[n_prompt + i - p->from] =
            (struct entry){.id = t->id,
                           .logprob = t->logprob,
                           .top = c->logprobs ? job_token_top(job, i) : NULL,
                           .offset = (echo ? echo->chars : 0) + t->char_begin};
    }
    put_columns(c, en, n, b);
    free(en);
}

static void put_finish(const struct completion *c, const struct job_view *v, struct buf *b)
{
    buf_printf(b, ",\"finish_reason\":\"%s\",\"stop_reason\":", completion_finish_name(v->finish));
    if (v->finish == FINISH_STOP && v->stop_index >= 0) {
        json_put_string(b, c->stop[v->stop_index], c->stop_len[v->stop_index]);
        return;
    }
    for (size_t i = 0; v->finish == FINISH_STOP && i < c->stop_ids.n; i++)
        if (c->stop_ids.ids[i] == v->stop_id) {
            buf_printf(b, "%d", v->stop_id);
            return;
        }
    buf_puts(b, "null");
}

static void put_ids(const struct completion *c, const struct piece *p, struct buf *b)
{
    const struct tokens *prompt = &c->prompts.list[p->prompt];
    if (p->first) {
        buf_puts(b, ",\"prompt_token_ids\":[");
        for (size_t i = 0; i < prompt->n; i++)
            buf_printf(b, i ? ",%d" : "%d", prompt->ids[i]);
        buf_putc(b, ']');
    }
    buf_puts(b, ",\"token_ids\":[");
    for (size_t i = p->from; i < p->to; i++)
        buf_printf(b, i > p->from ? ",%d" : "%d", job_tokens(p->slot->job)[i].id);
    buf_putc(b, ']');
}

void completion_put_choice(const struct completion *c, const struct piece *p,
                           const struct job_view *v, struct buf *b)
{
    struct buf text = {0};
    if (p->echo) {
        const struct buf *echo = &c->echoes[p->prompt].text;
        if (echo->len) buf_append(&text, echo->data, echo->len);
    }
    if (p->text_to > p->text_from)
        buf_append(&text, v->text + p->text_from, p->text_to - p->text_from);
    buf_puts(b, "{\"text\":");
    json_put_string(b, text.data ? text.data : "", text.len);
    buf_printf(b, ",\"index\":%zu,\"logprobs\":", p->index);
    put_logprobs(c, p, b);
    if (p->final)
        put_finish(c, v, b);
    else
        buf_puts(b, ",\"finish_reason\":null");
    if (c->return_token_ids) put_ids(c, p, b);
    buf_putc(b, '}');
    buf_release(&text);
}

void completion_put_usage(struct request *r, const struct completion *c, struct buf *b)
{
    size_t prompt = 0, cached = 0, completion = 0, per = completion_per_prompt(c);
    for (size_t i = 0; i < r->n_slots; i++) {
        struct job_view v;
        job_view(r->slots[i].job, &v);
        completion += v.completion_tokens;
        if (i % per) continue; /* a prompt counts once */
        prompt += c->prompts.list[i / per].n;
        cached += v.cached_tokens;
    }
    buf_printf(b,
               "{\"prompt_tokens\":%zu,\"completion_tokens\":%zu,\"total_tokens\":%zu,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%zu}}",
               prompt, completion, prompt + completion, cached);
}

void completion_put_timings(struct request *r, struct buf *b)
{
    jobs_account(r);
    buf_puts(b, "{\"queue_ms\":");
    json_put_number(b, r->queue_ms);
    buf_puts(b, ",\"prefill_ms\":");
    json_put_number(b, r->prefill_ms);
    buf_puts(b, ",\"decode_ms\":");
    json_put_number(b, r->decode_ms);
    buf_puts(b, ",\"tokens_per_s\":");
    json_put_number(b, r->decode_ms > 0 ? (double)r->completion_tokens * 1e3 / r->decode_ms : 0);
    if (r->srv->cfg->speculative_tokens > 0)
        buf_printf(b, ",\"drafted_tokens\":%zu,\"accepted_tokens\":%zu", r->drafted_tokens,
                   r->accepted_tokens);
    buf_putc(b, '}');
}
