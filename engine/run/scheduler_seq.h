#ifndef TTMD_RUN_SCHEDULER_SEQ_H
#define TTMD_RUN_SCHEDULER_SEQ_H

#include <pthread.h>

#include "engine/run/prefix.h"
#include "engine/run/scheduler.h"

/* The scheduler's inside, shared by scheduler.c (queue, thread), scheduler_cache.c (blocks),
 * scheduler_plan.c (the rows of a step) and scheduler_step.c (the step). All but the inbox and the
 * statistics belongs to the engine thread. */

/* A running sequence. */
struct seq {
    struct job *job; /* one reference */
    int32_t *blocks; /* (max_blocks) owned; the first n_blocks are taken */
    int n_blocks;
    int pos;    /* positions in the KV store that hold its text */
    int n_feed; /* job_feed() */
    bool decoding;
    enum finish how; /* set when it ended in this step */
    bool news;       /* something was published */

    int work;       /* rows that were not in the cache at its admission */
    double urgency; /* of a prompt: nanoseconds since its admission for each row of work */

    bool cache;      /* its blocks are looked for and kept */
    int n_reusable;  /* leading blocks that need not be computed: nobody wants their logits */
    int n_kept;      /* leading blocks that are in the prefix cache */
    uint64_t parent; /* id and hash of the text that those hold */
    uint64_t hash;

    /* The rows of a decode step: the last token, then guesses. */
    int32_t feed[1 + SCHEDULER_MAX_DRAFT];
    int n_rows;     /* of feed, in this step; 1 for a prompt's last row */
    int n_proposed; /* guesses in feed, also those that were not worth a row */
    int n_new;      /* tokens sampled in this step */
    bool missed;    /* a guess was wrong: what follows it is void */
    double luck;    /* moving average: how often the first guess is right */
};

/* What is to be done with rows of logits: sample successive tokens, or score one. */
struct row_task {
    struct seq *seq;
    int32_t row;     /* in the block of logits */
    int n;           /* rows; 1 to score */
    size_t position; /* prompt position that the row predicts */
    bool generate;
};

struct step {
    struct gpt2_seq *seqs; /* (max_batch) */
    struct seq **of;       /* (max_batch) whose they are */
    int n_seqs, n_decode, n_decode_rows, n_prefill_rows;
};

struct scheduler_stats {
    atomic_int running, waiting, kv_used, idle_blocks;
    atomic_uint_least64_t computed, cached, lookup, generated, scored, steps, drafted, accepted;
};

/* What decode steps cost as a function of their rows: weighted sums for a line through them. */
struct step_cost {
    double n, rows, rows2, s, rows_s;
    double row_s; /* the slope; 0: nothing measured yet */
};

struct scheduler {
    struct scheduler_model model;
    struct scheduler_options opt;
    struct kv_pool kv;
    struct prefix_cache prefix;

    pthread_t thread;
    pthread_mutex_t lock; /* inbox, n_jobs, setting stop and drop */
    pthread_cond_t wake;
    struct job *inbox, **inbox_end;
    int n_jobs; /* waiting and running */
    atomic_bool stop, drop;

    struct job *queue, **queue_end; /* first come, first served; each holds a reference */
    struct seq *seqs;               /* (max_batch) storage */
    struct seq **running;           /* (max_batch) the first n_running, in the order of admission */
    struct seq **idle;              /* (max_batch) the other max_batch - n_running */
    int n_running;

    struct step step;
    struct row_task tasks[SCHEDULER_LOGIT_ROWS];
    int n_tasks;
    int32_t rows[SCHEDULER_LOGIT_ROWS]; /* of the step, that the block of logits is for */
    int n_rows;
    float *hidden, *logits; /* into scratch */
    char *sampler;          /* threads * sampler_bytes, into scratch */
    size_t sampler_bytes;
    void *scratch; /* owned */
    size_t scratch_bytes;

    double step_s;               /* moving averages: seconds of a step with decoding sequences */
    double prefill_s_per_row;    /* what a prefill row adds; 0 = not measured yet */
    struct step_cost cost;       /* of steps without prompts */
    struct step_cost mixed_cost; /* of all with decoding sequences */
    struct scheduler_stats stats;
};

/* ---- scheduler_cache.c ---- */

/* seq_reserve -- all the blocks that q->job can need, those of a known prefix among them; false, and
 * nothing taken, when there are not enough. Sets up the fields of q that concern blocks. */
bool seq_reserve(struct scheduler *s, struct seq *q);
void seq_release(struct scheduler *s, struct seq *q);

/* seq_adopt -- go on behind the blocks that others have computed in the meantime. */
void seq_adopt(struct scheduler *s, struct seq *q);

/* seq_waits_for -- whether q had better wait for `a`, which was admitted before: that is computing q's next block. */
bool seq_waits_for(const struct seq *q, const struct seq *a);

/* seq_keep -- make the blocks that were filled known to the cache. */
void seq_keep(struct scheduler *s, struct seq *q);

/* scheduler_forget -- drop all prefixes, if that was asked for. */
void scheduler_forget(struct scheduler *s);

/* scheduler_count -- add to one of the counters that others may read. */
static inline void scheduler_count(atomic_uint_least64_t *c, int n)
{
    atomic_fetch_add_explicit(c, (uint64_t)n, memory_order_relaxed);
}

/* ---- scheduler_plan.c ---- */

void scheduler_plan(struct scheduler *s);                    /* fill s->step */
void scheduler_measure(struct scheduler *s, double seconds); /* what the step took */

/* ---- scheduler_step.c ---- */

/* scheduler_step -- one step of all running sequences (at least one). Sequences that ended have `how`
 * set; they are still in `running`. */
void scheduler_step(struct scheduler *s);

#endif
