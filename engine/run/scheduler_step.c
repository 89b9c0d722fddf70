/* One step: every decoding sequence gets its next token, and prompts move on in between.
 *
 *     rows of the step     d d d d | p p p p p p | p p p        d: one per decoding sequence
 *                                    piece of A    piece of B   p: pieces of prompts
 *     logits only for      d d d d             .   s s s        last row of a prompt, scored rows
 *
 * Mixing prompts into decode steps keeps running streams alive while a long prompt is read; a step
 * for either alone would stop the other. How many prompt rows fit is decided from their measured
 * cost, so that a step stays short on any machine and with any model. A row's result does not
 * depend on its neighbours, so none of this can be seen in a result.
 *
 * Logits are taken in blocks of SCHEDULER_LOGIT_ROWS: V floats for each row of a long prompt would
 * be more memory than the model. */
#include <math.h>

#include "engine/base/clock.h"
#include "engine/run/scheduler_seq.h"

#define STEP_SECONDS 0.100       /* a step of prompts alone */
#define STEP_SECONDS_MIXED 0.050 /* what prompts may add to a decode step */
#define FIRST_ROWS 64            /* before anything was measured */
#define LEAST_ROWS 16
#define AVERAGE 0.25 /* weight of the newest measurement */

/* ---- which rows ---- */

static int prefill_budget(const struct scheduler *s, bool decoding)
{
    double seconds = decoding ? STEP_SECONDS_MIXED : STEP_SECONDS;
    double rows = s->prefill_s_per_row > 0 ? seconds / s->prefill_s_per_row : FIRST_ROWS;
    if (rows < LEAST_ROWS) rows = LEAST_ROWS;
    if (rows >= s->opt.prefill_chunk_tokens) return s->opt.prefill_chunk_tokens;
    return (int)rows / LEAST_ROWS * LEAST_ROWS;
}

static void add_seq(struct scheduler *s, struct seq *q, const int32_t *tokens, int n)
{
    struct step *st = &s->step;
    st->of[st->n_seqs] = q;
    st->seqs[st->n_seqs++] =
        (struct gpt2_seq){.tokens = tokens, .n = n, .pos0 = q->pos, .blocks = q->blocks};
}

/* Share `budget` rows among the prompts: an equal part each (but a useful one: at least LEAST_ROWS
 * while they last), first come first served, and what short ones leave over to the first. */
static void add_prompts(struct scheduler *s, int n_prompts, int budget)
{
    int part = budget / n_prompts;
    if (part < LEAST_ROWS) part = LEAST_ROWS;
    int first = s->step.n_seqs;
    for (int i = 0; i < s->n_running && budget > 0; i++) {
        struct seq *q = s->running[i];
        if (q->decoding) continue;
        int left = q->n_feed - q->pos, n = left < part ? left : part;
        if (n > budget) n = budget;
        add_seq(s, q, q->job->tokens + q->pos, n);
        budget -= n;
    }
    for (int i = first; i < s->step.n_seqs && budget > 0; i++) {
        struct seq *q = s->step.of[i];
        int more = q->n_feed - q->pos - s->step.seqs[i].n;
        if (more > budget) more = budget;
        s->step.seqs[i].n += more;
        budget -= more;
    }
    for (int i = first; i < s->step.n_seqs; i++)
        s->step.n_prefill_rows += s->step.seqs[i].n;
}

static void plan_step(struct scheduler *s)
{
    s->step.n_seqs = s->step.n_prefill_rows = 0;
    for (int i = 0; i < s->n_running; i++)
        if (s->running[i]->decoding) add_seq(s, s->running[i], &s->running[i]->last, 1);
    s->step.n_decode = s->step.n_seqs;
    int n_prompts = s->n_running - s->step.n_decode;
    if (n_prompts > 0) add_prompts(s, n_prompts, prefill_budget(s, s->step.n_decode > 0));
}

/* ---- what the rows give ---- */

static void generate_row(struct scheduler *s, const struct row_task *t, const float *logits,
                         void *scratch)
{
    struct job *j = t->seq->job;
    size_t i = j->n_out, top = j->top_logprobs > 0 ? (size_t)j->top_logprobs : 0;
    bool ban = j->min_tokens > 0 && i < (size_t)j->min_tokens;
    struct job_token *out = &j->out[i];
    out->id = sample(s->opt.kernels, &j->sampling, j->history, logits, s->model.vocab, j->banned,
                     ban ? j->n_banned : 0, i, scratch);
    out->logprob = NAN;
    if (j->top_logprobs < 0) return;
    int32_t best;
    out->logprob = logprobs_of(s->opt.kernels, logits, s->model.vocab, out->id,
                               top ? j->out_top + i * top : NULL, (int)top, &best);
    out->greedy = best == out->id;
}

static void score_row(struct scheduler *s, const struct row_task *t, const float *logits)
{
    struct job *j = t->seq->job;
    size_t p = t->position, top = j->top_logprobs > 0 ? (size_t)j->top_logprobs : 0;
    int32_t best;
    j->prompt[p].logprob = logprobs_of(s->opt.kernels, logits, s->model.vocab, j->tokens[p],
                                       top ? j->prompt_top + p * top : NULL, (int)top, &best);
    j->prompt[p].greedy = best == j->tokens[p];
}

static void rows_task(void *arg, size_t begin, size_t end, int worker)
{
    struct scheduler *s = arg;
    for (size_t i = begin; i < end; i++) {
        const struct row_task *t = &s->tasks[i];
        const float *logits = s->logits + i * (size_t)s->model.vocab;
        if (t->generate)
            generate_row(s, t, logits, s->sampler + (size_t)worker * s->sampler_bytes);
        else
            score_row(s, t, logits);
    }
}

static void flush_rows(struct scheduler *s, int *n)
{
    if (*n == 0) return;
    for (int i = 0; i < *n; i++)
        s->task_rows[i] = s->tasks[i].row;
    s->model.logits(s->model.ctx, s->hidden, s->task_rows, *n, s->logits);
    pool_for(s->opt.pool, (size_t)*n, 1, rows_task, s);
    *n = 0;
}

static void push_row(struct scheduler *s, int *n, struct row_task t)
{
    s->tasks[(*n)++] = t;
    if (*n == SCHEDULER_LOGIT_ROWS) flush_rows(s, n);
}

/* Collect the rows that somebody needs, block by block; results go to the jobs' unpublished entries. */
static void compute_rows(struct scheduler *s)
{
    int n = 0, row = 0;
    for (int i = 0; i < s->step.n_seqs; i++) {
        struct seq *q = s->step.of[i];
        const struct job *j = q->job;
        for (int k = 0; k < s->step.seqs[i].n; k++, row++) {
            size_t next = (size_t)(s->step.seqs[i].pos0 + k) + 1;
            bool generate = next >= j->n_tokens;
            if (!generate && next < j->score_from) continue;
            push_row(s, &n, (struct row_task){q, row, next, generate});
            if (!generate) atomic_fetch_add_explicit(&s->stats.scored, 1, memory_order_relaxed);
        }
    }
    flush_rows(s, &n);
}

/* ---- what becomes of the sequences ---- */

static void accept(struct scheduler *s, struct seq *q)
{
    struct job *j = q->job;
    if (j->n_out == 0) {
        atomic_store_explicit(&j->first_token_ns, clock_ns(), memory_order_relaxed);
        atomic_store_explicit(&j->phase, JOB_DECODE, memory_order_relaxed);
        q->decoding = true;
    }
    q->last = j->out[j->n_out].id;
    size_t len;
    const char *text = s->model.token_text(s->model.ctx, q->last, &len);
    q->how = job_accept(j, text, len);
    if (q->how == FINISH_NONE && job_publish(j)) q->news = true;
    atomic_fetch_add_explicit(&s->stats.generated, 1, memory_order_relaxed);
}

static void advance(struct scheduler *s, struct seq *q, int n)
{
    struct job *j = q->job;
    bool was_decoding = q->decoding;
    q->pos += n;
    q->news = !was_decoding;
    if (!was_decoding) {
        bool all = q->pos == q->n_feed;
        size_t fed = all ? j->n_tokens : (size_t)q->pos;
        if (j->prompt) /* position q->pos was predicted by the last row */
            atomic_store_explicit(&j->n_scored, all ? fed : fed + 1, memory_order_release);
        atomic_store_explicit(&j->prompt_done, fed, memory_order_release);
        if (!all) return;
        if (j->max_tokens == 0) {
            q->how = FINISH_LENGTH;
            return;
        }
    }
    accept(s, q);
}

/* What the prompt rows of a mixed step cost is not seen, only the whole step. Two estimates, and the
 * smaller one counts: the step less one without prompts, and the rows' share of it. The former alone is wrong
 * where steps without prompts are old or never happen, as under load: it charges the prompts with the pass
 * over the weights that every step makes, so pieces shrink, and the smaller they are the dearer they look. */
static void measure(struct scheduler *s, double seconds)
{
    int rows = s->step.n_prefill_rows;
    if (rows == 0) {
        s->decode_s += (s->decode_s > 0 ? AVERAGE : 1) * (seconds - s->decode_s);
        return;
    }
    double added = seconds;
    if (s->step.n_decode > 0)
        added = fmin(seconds - s->decode_s, seconds * rows / (rows + s->step.n_decode));
    double each = fmax(added, 0.1 * seconds) / rows;
    s->prefill_s_per_row +=
        (s->prefill_s_per_row > 0 ? AVERAGE : 1) * (each - s->prefill_s_per_row);
}

void scheduler_step(struct scheduler *s)
{
    uint64_t t0 = clock_ns();
    plan_step(s);
    struct gpt2_step g = {
        .seqs = s->step.seqs, .n_seqs = s->step.n_seqs, .n_decode = s->step.n_decode};
    s->model.forward(s->model.ctx, &g, s->hidden);
    compute_rows(s);
    for (int i = 0; i < s->step.n_seqs; i++)
        advance(s, s->step.of[i], s->step.seqs[i].n);
    double seconds = (double)(clock_ns() - t0) / (double)CLOCK_NS_PER_S;
    measure(s, seconds);
    atomic_fetch_add_explicit(&s->stats.computed, (uint64_t)s->step.n_prefill_rows,
                              memory_order_relaxed);
    atomic_fetch_add_explicit(&s->stats.steps, 1, memory_order_relaxed);
    if (s->opt.on_step)
        s->opt.on_step(s->opt.on_step_arg,
                       &(struct engine_step_info){.decode_rows = s->step.n_decode,
                                                  .prefill_rows = s->step.n_prefill_rows,
                                                  .seconds = seconds});
    for (int i = 0; i < s->step.n_seqs; i++) {
        struct seq *q = s->step.of[i];
        if (q->how == FINISH_NONE && q->news && q->job->notify) q->job->notify(q->job->notify_arg);
    }
}
