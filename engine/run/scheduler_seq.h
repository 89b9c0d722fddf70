#ifndef TTMD_RUN_SCHEDULER_SEQ_H
#define TTMD_RUN_SCHEDULER_SEQ_H

#include <pthread.h>

#include "engine/run/scheduler.h"

/* The scheduler's inside, shared by scheduler.c (queue, thread) and scheduler_step.c (a step). All
 * but the inbox and the statistics belongs to the engine thread. */

/* A running sequence. */
struct seq {
    struct job *job; /* one reference */
    int32_t *blocks; /* (max_blocks) owned; the first n_blocks are taken */
    int n_blocks;
    int pos;      /* positions in the KV store */
    int n_feed;   /* prompt tokens to feed: all, or all but the last when nothing is generated */
    int32_t last; /* the generated token to feed next; valid when decoding */
    bool decoding;
    enum finish how; /* set when it ended in this step */
    bool news;       /* something was published */
};

/* What is to be done with one row of logits. */
struct row_task {
    struct seq *seq;
    int32_t row;     /* of the step */
    size_t position; /* prompt position that this row predicts; n_tokens: the first token */
    bool generate;   /* else score the prompt token at `position` */
};

struct step {
    struct gpt2_seq *seqs; /* (max_batch) */
    struct seq **of;       /* (max_batch) whose they are */
    int n_seqs, n_decode, n_prefill_rows;
};

struct scheduler_stats {
    atomic_int running, waiting, kv_used;
    atomic_uint_least64_t computed, cached, generated, scored, steps;
};

struct scheduler {
    struct scheduler_model model;
    struct scheduler_options opt;
    struct kv_pool kv;

    pthread_t thread;
    pthread_mutex_t lock; /* inbox, n_jobs, setting stop */
    pthread_cond_t wake;
    struct job *inbox, **inbox_end;
    int n_jobs; /* waiting and running */
    atomic_bool stop;

    struct job *queue, **queue_end; /* first come, first served; each holds a reference */
    struct seq *seqs;               /* (max_batch) storage */
    struct seq **running;           /* (max_batch) the first n_running, in the order of admission */
    struct seq **idle;              /* (max_batch) the other max_batch - n_running */
    int n_running;

    struct step step;
    struct row_task tasks[SCHEDULER_LOGIT_ROWS];
    int32_t task_rows[SCHEDULER_LOGIT_ROWS];
    float *hidden, *logits; /* into scratch */
    char *sampler;          /* threads * sampler_bytes, into scratch */
    size_t sampler_bytes;
    void *scratch; /* owned */
    size_t scratch_bytes;

    double decode_s;          /* moving averages: seconds of a step without prefill, */
    double prefill_s_per_row; /* what a prefill row adds; 0 = not measured yet */
    struct scheduler_stats stats;
};

/* scheduler_step -- one step of all running sequences (at least one). Sequences that ended have `how`
 * set; they are still in `running`. */
void scheduler_step(struct scheduler *s);

#endif
