/* One step: every decoding sequence gets its next token or several, and prompts move on in between.
 *
 *     rows of the step     d d g g d | p p p p p p | p p p      (scheduler_plan.c)
 *     logits only for      d d g g d             .   s s s      last row of a prompt, scored rows
 *
 * The next step needs the tokens of this one, so sampling cannot overlap it and is spread over the threads, row by
 * row; what is made of the tokens, text and events, others do while the next step runs.
 *
 * Logits are taken in blocks of SCHEDULER_LOGIT_ROWS: V floats for each row of a long prompt would
 * be more memory than the model.
 *
 * Guesses are verified by sampling as always: the token at a position is a function of its logits, its
 * seed and its number, and of the tokens before. The first row gives the next token for certain. The second
 * row was computed as if the first guess were that token: when it is, its logits are the true ones and
 * the token sampled from them is the one that a step of its own would give; when it is not, the rest is
 * void. Nothing is ever sampled in another way, so answers are the same with guesses and without, also
 * with penalties, at any temperature. (Rejection sampling would only keep the distribution.) Keys and
 * values of void rows stay behind the sequence's end, where the next rows overwrite them. */
#include <math.h>

#include "engine/base/clock.h"
#include "engine/run/scheduler_seq.h"

#define LUCK_AVERAGE 0.125

/* ---- what the rows give ---- */

static int32_t generate_row(struct scheduler *s, struct job *j, size_t i, const float *logits,
                            void *scratch)
{
    size_t top = j->top_logprobs > 0 ? (size_t)j->top_logprobs : 0;
    bool ban = j->min_tokens > 0 && i < (size_t)j->min_tokens;
    struct job_token *out = &j->out[i];
    out->id = sample(s->opt.kernels, &j->sampling, j->history, logits, s->model.vocab, j->banned,
                     ban ? j->n_banned : 0, i, scratch);
    if (j->history) sampler_history_add(j->history, out->id);
    out->logprob = NAN;
    if (j->top_logprobs < 0) return out->id;
    int32_t best;
    out->logprob = logprobs_of(s->opt.kernels, logits, s->model.vocab, out->id,
                               top ? j->out_top + i * top : NULL, (int)top, &best);
    out->greedy = best == out->id;
    return out->id;
}

/* Successive tokens of one sequence, until a guess was wrong. */
static void generate_rows(struct scheduler *s, const struct row_task *t, void *scratch)
{
    struct seq *q = t->seq;
    size_t vocab = (size_t)s->model.vocab;
    for (int k = 0; k < t->n && !q->missed; k++) {
        const float *logits = s->logits + (size_t)(t->row + k) * vocab;
        int32_t id = generate_row(s, q->job, q->job->n_out + (size_t)q->n_new, logits, scratch);
        q->n_new++;
        q->missed = q->n_new < q->n_rows && id != q->feed[q->n_new];
    }
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
        if (t->generate)
            generate_rows(s, t, s->sampler + (size_t)worker * s->sampler_bytes);
        else
            score_row(s, t, s->logits + (size_t)t->row * (size_t)s->model.vocab);
    }
}

static void flush_rows(struct scheduler *s)
{
    if (s->n_rows == 0) return;
    s->model.logits(s->model.ctx, s->hidden, s->rows, s->n_rows, s->logits);
    pool_for(s->opt.pool, (size_t)s->n_tasks, 1, rows_task, s);
    s->n_rows = s->n_tasks = 0;
}

/* The logits of row `row` of the step are wanted; successive rows to sample from make one task. */
static void push_row(struct scheduler *s, struct seq *q, int row, size_t position, bool generate)
{
    struct row_task *last = s->n_tasks > 0 ? &s->tasks[s->n_tasks - 1] : NULL;
    if (generate && last && last->generate && last->seq == q)
        last->n++;
    else
        s->tasks[s->n_tasks++] = (struct row_task){
            .seq = q, .row = s->n_rows, .n = 1, .position = position, .generate = generate};
    s->rows[s->n_rows++] = row;
    if (s->n_rows == SCHEDULER_LOGIT_ROWS) flush_rows(s);
}

/* Collect the rows that somebody needs, block by block; results go to the jobs' unpublished entries. */
static void compute_rows(struct scheduler *s)
{
    int row = 0;
    for (int i = 0; i < s->step.n_seqs; i++) {
        struct seq *q = s->step.of[i];
        const struct job *j = q->job;
        q->n_new = 0;
        q->missed = false;
        for (int k = 0; k < s->step.seqs[i].n; k++, row++) {
            size_t next = (size_t)(s->step.seqs[i].pos0 + k) + 1;
            bool generate = next >= j->n_tokens;
            if (!generate && next < j->score_from) continue;
            push_row(s, q, row, next, generate);
            if (!generate) scheduler_count(&s->stats.scored, 1);
        }
    }
    flush_rows(s);
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
    int32_t id = j->out[j->n_out].id;
    size_t len;
    const char *text = s->model.token_text(s->model.ctx, id, &len);
    if (j->draft) draft_add(j->draft, id);
    q->feed[0] = id;
    q->how = job_accept(j, text, len);
    scheduler_count(&s->stats.generated, 1);
}

/* How the guesses fared, those that were given a row and those that were not. */
static void learn(struct seq *q, const struct job_token *out)
{
    for (int k = 0; k < q->n_new && k < q->n_proposed; k++) {
        bool right = out[k].id == q->feed[1 + k];
        q->luck += LUCK_AVERAGE * (right - q->luck);
        if (!right) break;
    }
}

/* n of the new tokens are the answer's: the last that was sampled is no guess, one behind the end was for nothing. */
static void count_guesses(struct scheduler *s, struct seq *q, int n)
{
    int right = n < q->n_new ? n : q->n_new - 1;
    q->job->drafted_tokens += (size_t)q->n_rows - 1;
    q->job->accepted_tokens += (size_t)right;
    scheduler_count(&s->stats.drafted, q->n_rows - 1);
    scheduler_count(&s->stats.accepted, right);
}

/* The prompt has come to q->pos; true when it is through and a token was sampled. */
static bool advance_prompt(struct seq *q)
{
    struct job *j = q->job;
    bool all = q->pos == q->n_feed;
    size_t fed = all ? j->n_tokens : (size_t)q->pos;
    if (j->prompt) /* position q->pos was predicted by the last row */
        atomic_store_explicit(&j->n_scored, all ? fed : fed + 1, memory_order_release);
    atomic_store_explicit(&j->prompt_done, fed, memory_order_release);
    q->news = true;
    if (all && j->max_tokens == 0) q->how = FINISH_LENGTH;
    return all && j->max_tokens > 0;
}

static void advance(struct scheduler *s, struct seq *q, int n)
{
    struct job *j = q->job;
    q->news = false;
    if (q->decoding) {
        learn(q, j->out + j->n_out);
        q->pos += q->n_new; /* what lies behind was computed for wrong guesses */
    } else {
        q->pos += n;
        if (!advance_prompt(q)) return;
    }
    int k = 0;
    while (k < q->n_new && q->how == FINISH_NONE) {
        accept(s, q);
        k++;
        if (q->how == FINISH_NONE && job_publish(j)) q->news = true;
    }
    count_guesses(s, q, k);
}

void scheduler_step(struct scheduler *s)
{
    uint64_t t0 = clock_ns();
    scheduler_plan(s);
    const struct step *st = &s->step;
    struct gpt2_step g = {.seqs = st->seqs, .n_seqs = st->n_seqs, .n_decode = st->n_decode};
    s->model.forward(s->model.ctx, &g, s->hidden);
    compute_rows(s);
    for (int i = 0; i < st->n_seqs; i++) {
        advance(s, st->of[i], st->seqs[i].n);
        seq_keep(s, st->of[i]);
    }
    double seconds = (double)(clock_ns() - t0) / (double)CLOCK_NS_PER_S;
    scheduler_measure(s, seconds);
    scheduler_count(&s->stats.computed, st->n_prefill_rows);
    scheduler_count(&s->stats.steps, 1);
    if (s->opt.on_step)
        s->opt.on_step(s->opt.on_step_arg,
                       &(struct engine_step_info){.decode_rows = st->n_decode_rows,
                                                  .prefill_rows = st->n_prefill_rows,
                                                  .seconds = seconds});
    for (int i = 0; i < st->n_seqs; i++) {
        struct seq *q = st->of[i];
        if (q->how == FINISH_NONE && q->news && q->job->notify) q->job->notify(q->job->notify_arg);
    }
}
