/* Which rows a step computes, from what rows have cost.
 *
 *     rows of the step     d d g g d | p p p p p p | p p p      d: last token of a decoding sequence
 *                                      piece of A    piece of B g: guesses at what comes after it
 *                                                               p: pieces of prompts
 *
 * Mixing prompts into decode steps keeps running streams alive while a long prompt is read; a step
 * for either alone would stop the other. How many prompt rows fit is decided from their measured
 * cost, so that a step stays short on any machine and with any model. Prompts may add a part of what
 * steps have lately taken: who reads a stream sees steps of one length and now and then one of twice that,
 * and not, where decoding is fast, gaps of many. With d for a step without prompts and half
 * of the steps with them, those take 2.5 d; where nearly all have prompts they may take longer, all alike.
 * Where several prompts wait, and the first of them for some time, prompts may add as many times more as it has lost
 * patience, or as they are more than those that decode: a few that decode fast would else leave them so little that
 * as many end as begin, and the others stay for seconds.
 *
 * Prompts are read one after the other, not side by side, where all would end late and together: the one goes first
 * whose wait since its admission is the longest for its length. Among equals that is first come, first served; a
 * short one overtakes a long one, but not for ever. Source: Brinch Hansen, Short-term scheduling in multiprogramming
 * systems (highest response ratio next), SOSP 1971.
 *
 * Guesses (speculative decoding): a decode step mostly waits for weights, rows beyond the first are
 * cheap while there are few. A guess is worth a row while the chance that it is right exceeds what
 * the row costs in tokens: q^i for the i-th guess of a sequence whose first guess is right with
 * frequency q, against (seconds of a row) / (seconds of a token at present). So guessing fades out by
 * itself in large batches, with models whose rows are dear, and for texts that do not repeat: q is
 * watched also while nothing is spent on guesses, since what comes can always be compared with what
 * would have been guessed. All of that changes when tokens come, never which: see scheduler_step.c. */
#include <math.h>

#include "engine/base/clock.h"
#include "engine/run/scheduler_seq.h"

#define STEP_SECONDS 0.100 /* a step of prompts alone */
#define MIXED_PART 0.85    /* of lately a step's seconds: what prompts may add to a decode step, */
#define STEP_SECONDS_MIXED 0.080 /* but no more than this */
#define STEP_SECONDS_LEAST 0.015 /* and no less than this; */
#define MOST_CROWD 4.0           /* times as much for a crowd of prompts, */
#define PATIENCE_SECONDS 0.5     /* as often as the first has waited so long */
#define FIRST_ROWS 64            /* before anything was measured */
#define LEAST_ROWS 16
#define WORK_LEAST 64 /* what the shortest prompt counts as, lest many of them pass all others by */
#define AVERAGE 0.25  /* weight of the newest measurement */
#define AVERAGE_STEP 0.0625
#define COST_DECAY 0.98 /* of older steps in the line through costs */
#define DRIFT 0.02
#define ROWS_OF_PASS 16 /* rows that cost as much as a pass over the weights, until measured */

/* ---- prompts ---- */

/* What prompts cost whatever their rows is worth least_rows of them. So many rows are worth that often. */
static int rows_worth(const struct scheduler *s, int times)
{
    int rows = times * s->model.least_rows;
    return rows > LEAST_ROWS ? rows : LEAST_ROWS;
}

/* How many times more than usually prompts may add to the step. Nobody waits for the first token of a text that is only
 * scored. */
static double crowd(const struct scheduler *s)
{
    const struct step *st = &s->step;
    uint64_t now = clock_ns(), first = now;
    int n = 0;

    for (int i = st->n_decode; i < st->n_seqs; i++) {
        const struct job *j = st->of[i]->job;
        uint64_t since = job_time(&j->admitted_ns);
        if (j->max_tokens == 0) continue;
        if (since < first) first = since;
        n++;
    }
    double patiences = (double)(now - first) / (PATIENCE_SECONDS * CLOCK_NS_PER_S);
    if (n < 2 || patiences < 1) return 1;
    return fmin(fmax(patiences, (double)n / st->n_decode), MOST_CROWD);
}

/* What prompts may add to a step with sequences that decode. */
static double mixed_seconds(const struct scheduler *s)
{
    double part = MIXED_PART * crowd(s) * s->step_s;
    return fmin(fmax(part, STEP_SECONDS_LEAST), STEP_SECONDS_MIXED);
}

/* A step for prompts alone, in which nobody waits for the next token, takes enough rows to spend no more than a
 * third on fixed costs. */
static int prefill_budget(const struct scheduler *s)
{
    bool decoding = s->step.n_decode > 0;
    double seconds = decoding ? mixed_seconds(s) : STEP_SECONDS;
    double rows = s->prefill_s_per_row > 0 ? seconds / s->prefill_s_per_row - s->model.least_rows
                                           : FIRST_ROWS;
    int least = rows_worth(s, decoding ? 1 : 2);
    if (rows < least) rows = least;
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

/* All prompts, in the order of their admission, and how urgent they are; returns how many. Who is waited for is as
 * urgent as who waits. */
static int weigh_prompts(struct scheduler *s, struct seq **prompts)
{
    uint64_t now = clock_ns();
    int n = 0;

    for (int i = 0; i < s->n_running; i++) {
        struct seq *q = s->running[i];
        if (q->decoding) continue;
        seq_adopt(s, q);
        q->n_rows = 1;
        q->urgency = (double)(now - job_time(&q->job->admitted_ns)) / (WORK_LEAST + q->work);
        for (int k = 0; k < n; k++)
            if (seq_waits_for(q, prompts[k]) && prompts[k]->urgency < q->urgency)
                prompts[k]->urgency = q->urgency;
        prompts[n++] = q;
    }
    return n;
}

/* The most urgent first, equals as they were. */
static void sort_prompts(struct seq **prompts, int n)
{
    for (int i = 1; i < n; i++) {
        struct seq *q = prompts[i];
        int k = i;
        for (; k > 0 && prompts[k - 1]->urgency < q->urgency; k--)
            prompts[k] = prompts[k - 1];
        prompts[k] = q;
    }
}

/* Prompts that are not waiting for another one enter the step, the most urgent first, without rows yet. */
static void choose_prompts(struct scheduler *s)
{
    struct step *st = &s->step;
    struct seq **prompts = st->of + st->n_decode;
    int n = weigh_prompts(s, prompts);

    sort_prompts(prompts, n);
    for (int i = 0; i < n; i++) {
        struct seq *q = prompts[i];
        bool waits = false;
        for (int k = 0; k < st->n_seqs - st->n_decode && !waits; k++)
            waits = seq_waits_for(q, prompts[k]);
        if (!waits) add_seq(s, q, q->job->tokens + q->pos, 0);
    }
}

/* A few last rows would cost a pass over the weights, or fixed costs, of their own: they come along, where there is
 * room. */
static int take_ends(struct scheduler *s, int n)
{
    struct step *st = &s->step;
    int most = n + n / 2, few = rows_worth(s, st->n_decode > 0 ? 0 : 1);
    if (most > s->opt.prefill_chunk_tokens) most = s->opt.prefill_chunk_tokens;
    for (int i = st->n_decode; i < st->n_seqs; i++) {
        int left = st->of[i]->n_feed - st->of[i]->pos - st->seqs[i].n;
        if (st->seqs[i].n == 0 || left > few || n + left > most) continue;
        st->seqs[i].n += left;
        n += left;
    }
    return n;
}

/* `budget` rows for the prompts, each all that it has left. */
static void give_rows(struct scheduler *s, int budget)
{
    struct step *st = &s->step;
    int n = 0;
    for (int i = st->n_decode; i < st->n_seqs && n < budget; i++) {
        int left = st->of[i]->n_feed - st->of[i]->pos;
        st->seqs[i].n = left < budget - n ? left : budget - n;
        n += st->seqs[i].n;
    }
    while (st->seqs[st->n_seqs - 1].n == 0) /* nothing was left for the last ones */
        st->n_seqs--;
    st->n_prefill_rows = take_ends(s, n);
}

/* ---- guesses ---- */

static void propose(struct scheduler *s, struct seq *q)
{
    struct job *j = q->job;
    int left = j->max_tokens - (int)j->n_out - 1, most = s->opt.speculative_tokens;
    q->n_rows = 1;
    q->n_proposed = 0;
    if (!j->draft || left < 1) return;
    q->n_proposed = draft_propose(j->draft, q->feed + 1, most < left ? most : left);
}

/* The least chance at which a guess pays: tokens that a row costs. */
static double price_of_row(const struct scheduler *s, int n_decode)
{
    const struct step_cost *c = &s->cost;
    if (s->opt.row_price > 0) return s->opt.row_price;
    if (c->n <= 0) return 1.0 / ROWS_OF_PASS;
    double row = c->row_s, plain = c->s / c->n - row * (c->rows / c->n - n_decode);
    return plain > row * n_decode ? row * n_decode / plain : 1;
}

static void add_guesses(struct scheduler *s)
{
    int left = SCHEDULER_DRAFT_ROWS - s->step.n_decode;
    if (s->opt.speculative_tokens == 0 || left <= 0) return;
    double price = price_of_row(s, s->step.n_decode);
    for (int i = 0; i < s->step.n_decode; i++) {
        struct seq *q = s->step.of[i];
        double chance = q->luck;
        for (int k = 0; k < q->n_proposed && left > 0 && chance > price; k++, left--) {
            q->n_rows++;
            chance *= q->luck;
        }
        s->step.seqs[i].n = q->n_rows;
        s->step.n_decode_rows += q->n_rows - 1;
    }
}

void scheduler_plan(struct scheduler *s)
{
    struct step *st = &s->step;
    st->n_seqs = st->n_prefill_rows = 0;
    for (int i = 0; i < s->n_running; i++) {
        struct seq *q = s->running[i];
        if (!q->decoding) continue;
        propose(s, q);
        add_seq(s, q, q->feed, 1);
    }
    st->n_decode = st->n_decode_rows = st->n_seqs;
    add_guesses(s);
    choose_prompts(s);
    if (st->n_seqs > st->n_decode) give_rows(s, prefill_budget(s));
}

/* ---- costs ---- */

/* The slope can be seen while steps differ in their rows. Where they do not, it drifts back to what
 * is supposed of a machine unseen: a bad measurement must not stop guesses for ever. */
static void fit_cost(struct step_cost *c, double rows, double seconds)
{
    c->n = COST_DECAY * c->n + 1;
    c->rows = COST_DECAY * c->rows + rows;
    c->rows2 = COST_DECAY * c->rows2 + rows * rows;
    c->s = COST_DECAY * c->s + seconds;
    c->rows_s = COST_DECAY * c->rows_s + rows * seconds;
    double mean = c->rows / c->n, variance = c->rows2 / c->n - mean * mean;
    double slope = (c->rows_s / c->n - mean * c->s / c->n) / variance;
    double supposed = c->s / (c->rows + c->n * ROWS_OF_PASS);
    if (variance >= 0.5 && c->n >= 8)
        c->row_s = fmin(fmax(slope, 1e-3 * c->s / c->n), c->s / c->rows);
    else
        c->row_s += (c->row_s > 0 ? DRIFT : 1) * (supposed - c->row_s);
}

/* What the prompt rows of a mixed step cost is not seen, only the whole step: it is the slope of such steps'
 * seconds over their rows. A share of the step would charge the prompts with the pass over the weights that
 * every step makes, so that pieces shrink, and the smaller they are the dearer they look. */
void scheduler_measure(struct scheduler *s, double seconds)
{
    int rows = s->step.n_prefill_rows, all = rows + s->step.n_decode_rows;
    if (s->step.n_decode > 0) {
        s->step_s += (s->step_s > 0 ? AVERAGE_STEP : 1) * (seconds - s->step_s);
        fit_cost(&s->mixed_cost, all, seconds);
    }
    if (rows == 0) {
        if (s->opt.speculative_tokens > 0) fit_cost(&s->cost, all, seconds);
        return;
    }
    double each = seconds / (all + s->model.least_rows);
    if (s->step.n_decode > 0) each = fmin(fmax(s->mixed_cost.row_s, 0.1 * each), each);
    s->prefill_s_per_row +=
        (s->prefill_s_per_row > 0 ? AVERAGE : 1) * (each - s->prefill_s_per_row);
}
