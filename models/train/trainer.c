/* The loop. A step is a function of the state, the seed and the texts; the clock decides nothing but
 * when to stop, and the schedule if --minutes alone says how long. Checkpoints go model first, then
 * state: a process that dies in between takes the same steps again and writes the same model. */
#include "models/train/trainer.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "models/atomic_file.h"
#include "models/outdir.h"

#define LINE_NS (30 * CLOCK_NS_PER_S) /* between progress lines when it is no terminal */

static double progress_of(const struct trainer *r)
{
    double done = 0;
    if (r->total_steps) return (double)r->state.step / (double)r->total_steps;
    if (r->a.minutes > 0) done = r->state.seconds / (60 * r->a.minutes);
    return done < 1 ? done : 1;
}

/* Learning rate of the next step: linear warm-up, then a cosine down to min_lr of the peak. */
static double rate_of(const struct trainer *r)
{
    double warm = (double)r->a.warmup, step = (double)r->state.step + 1, at = progress_of(r);
    if (step <= warm) return r->a.lr * step / warm;
    double first = r->total_steps ? warm / (double)r->total_steps : 0;
    double along = first < 1 ? (at - first) / (1 - first) : 1;
    along = along < 0 ? 0 : along > 1 ? 1 : along;
    return r->a.lr * (r->a.min_lr + (1 - r->a.min_lr) * 0.5 * (1 + cos(M_PI * along)));
}

static bool finished(const struct trainer *r)
{
    if (r->total_steps && r->state.step >= r->total_steps) return true;
    return r->a.minutes > 0 && r->state.seconds >= 60 * r->a.minutes;
}

static void zero(void *arg, size_t begin, size_t end, int worker)
{
    (void)worker;
    memset((float *)arg + begin, 0, (end - begin) * sizeof(float));
}

/* One optimiser step; fills in what is logged. */
static int take_step(struct trainer *r, struct runlog_step *out, struct err *err)
{
    const struct train_args *a = &r->a;
    size_t batch = (size_t)a->batch, accumulate = (size_t)a->accumulate;
    float scale = 1.0F / (float)(batch * (r->source.task ? 1 : (size_t)a->block) * accumulate);
    double loss[2] = {0}; /* of the text, of the teacher */
    uint64_t draw = r->state.step * accumulate;
    struct source_batch want = {.total = batch};
    parallel_share(&r->parallel, batch, &want.from, &want.n);
    pool_for(r->c.pool, r->net.floats, (size_t)1 << 18, zero, r->grad);
    for (size_t i = 0; i < accumulate; i++) {
        struct backprop_loss l;
        struct backprop_batch b;
        want.first = (draw + i) * batch;
        out->tokens += source_train(&r->source, &want, r->tokens, r->targets, &b);
        b.draw = draw + i;
        b.teacher = r->teacher.model ? &r->teacher : NULL;
        backprop_step(r->backprop, r->w, &b, scale, r->grad, &l);
        loss[0] += l.sum * (double)scale;
        loss[1] += l.distil * (double)scale;
    }
    parallel_sum(&r->parallel, loss, 2);
    parallel_sum_floats(&r->parallel, r->grad, r->net.floats);
    out->lr = rate_of(r);
    out->grad_norm = optim_step(&r->optim, &r->c, r->w, r->grad, (float)out->lr, r->state.step + 1);
    if (!isfinite(loss[0]) || !isfinite(out->grad_norm))
        return err_set(err, ERR_INTERNAL,
                       "step %llu: the loss is %g, the gradient's norm %g; a lower --lr may help",
                       (unsigned long long)r->state.step + 1, loss[0], out->grad_norm);
    r->state.step++;
    r->state.tokens += out->tokens;
    out->step = r->state.step;
    out->loss = loss[0];
    out->distil = r->teacher.model ? loss[1] : -1;
    return 0;
}

/* The first model of a run may take another one's place, and needs another configuration and tokenizer then.
 * The weights, which take the time and the room, are on the disk before any of them is replaced. */
static int export_first(struct trainer *r, const char *path, struct err *err)
{
    char *first = outdir_join(r->a.out, "model.safetensors.first");
    int rc = net_save(&r->net, r->w, trainer_dtype(r), first, err);
    if (!rc) {
        rc = trainer_describe(r, err);
        if (!rc && rename(first, path) != 0)
            rc = err_set(err, ERR_IO, "cannot rename %s to %s: %s", first, path, strerror(errno));
        if (rc) unlink(first);
    }
    free(first);
    return rc;
}

static int export_model(struct trainer *r, struct err *err)
{
    char *path = outdir_join(r->a.out, "model.safetensors");
    int rc = r->exported ? net_save(&r->net, r->w, trainer_dtype(r), path, err)
                         : export_first(r, path, err);
    if (!rc) rc = atomic_file_sync_dir(path, err);
    free(path);
    if (!rc) r->exported = true;
    return rc;
}

static void print_valid(const struct trainer *r, const struct trainer_valid *v, bool best)
{
    FILE *f = r->tool->log;
    fprintf(f, "%sstep %llu: validation loss %.4f, ", isatty(fileno(f)) ? "\r\x1b[K" : "",
            (unsigned long long)r->state.step, v->loss);
    if (v->accuracy >= 0)
        fprintf(f, "accuracy %.4f%s\n", v->accuracy, best ? ", the best so far" : "");
    else
        fprintf(f, "perplexity %.2f%s\n", exp(v->loss), best ? ", the best so far" : "");
}

/* Validate; keep the model when it is the best so far. Without a validation text the last one is. */
static int evaluate(struct trainer *r, struct err *err)
{
    bool writes = parallel_writes(&r->parallel);
    if (!r->source.valid) return writes ? export_model(r, err) : 0;
    struct trainer_valid v = trainer_validate(r);
    bool best = v.loss < r->state.best;
    if (best) {
        r->state.best = v.loss;
        r->state.best_step = r->state.step;
    }
    if (!writes) return 0;
    print_valid(r, &v, best);
    int rc = runlog_valid(&r->log, r->state.step, v.loss, v.accuracy, err);
    return rc || !best ? rc : export_model(r, err);
}

static int save(struct trainer *r, struct err *err)
{
    if (!parallel_writes(&r->parallel)) return 0;
    char *path = outdir_join(r->a.out, "train.state");
    int rc = runlog_sync(&r->log, err);
    if (!rc) rc = state_save(path, &r->net, &r->state, r->w, r->optim.m, r->optim.v, err);
    free(path);
    return rc;
}

static void print_line(const struct trainer *r, const struct runlog_step *s, bool terminal)
{
    char total[32] = "", left[48] = "";
    double done = progress_of(r);
    if (r->total_steps) snprintf(total, sizeof total, "/%llu", (unsigned long long)r->total_steps);
    if (done > 0) {
        double eta = r->state.seconds / done * (1 - done);
        snprintf(left, sizeof left, "  %d:%02d:%02d left", (int)(eta / 3600), (int)(eta / 60) % 60,
                 (int)eta % 60);
    }
    fprintf(r->tool->log, "%sstep %llu%s  loss %.4f  norm %.2f  lr %.2e  %.0f tokens/s%s%s",
            terminal ? "\r" : "", (unsigned long long)s->step, total, s->loss, s->grad_norm, s->lr,
            s->tokens_per_s, left, terminal ? "\x1b[K" : "\n");
    fflush(r->tool->log);
}

static int close_run(struct trainer *r, bool evaluated, struct err *err)
{
    bool stopped = !finished(r);
    int rc = 0;
    if (!stopped && !evaluated) rc = parallel_agree(&r->parallel, evaluate(r, err), err);
    if (!rc && !r->exported && parallel_writes(&r->parallel)) rc = export_model(r, err);
    if (!rc) rc = save(r, err);
    rc = parallel_agree(&r->parallel, rc, err);
    if (!rc && stopped)
        fprintf(r->tool->log, "\nstopped by a signal at step %llu; saved, --resume goes on\n",
                (unsigned long long)r->state.step);
    return rc;
}

/* Whether to take another step: all processes do or none does, whoever had the signal and whatever
 * their clocks say. */
static bool goes_on(struct trainer *r)
{
    double said[2] = {tool_stopped(r->tool), parallel_writes(&r->parallel) ? r->state.seconds : 0};
    parallel_sum(&r->parallel, said, 2);
    r->state.seconds = said[1];
    return said[0] <= 0 && !finished(r);
}

/* The step's place in the log and on the screen. */
static int tell(struct trainer *r, const struct runlog_step *s, bool terminal, uint64_t *printed,
                struct err *err)
{
    if (!parallel_writes(&r->parallel)) return 0;
    if (terminal || clock_ns() - *printed > LINE_NS) {
        print_line(r, s, terminal);
        *printed = clock_ns();
    }
    return runlog_step(&r->log, s, err);
}

int trainer_run(struct trainer *r, struct err *err)
{
    bool terminal = isatty(fileno(r->tool->log)), evaluated = false;
    uint64_t printed = 0;
    int rc = 0;
    if (r->a.resume && finished(r)) return 0; /* saved at its end, not before the last validation */
    while (!rc && goes_on(r)) {
        struct runlog_step s = {0};
        uint64_t start = clock_ns();
        rc = take_step(r, &s, err);
        if (rc) break; /* the same everywhere */
        double seconds = (double)(clock_ns() - start) / (double)CLOCK_NS_PER_S;
        r->state.seconds += seconds;
        s.tokens_per_s = (double)s.tokens / seconds;
        s.tokens = r->state.tokens;
        rc = parallel_agree(&r->parallel, tell(r, &s, terminal, &printed, err), err);
        evaluated = r->state.step % (uint64_t)r->a.eval_every == 0;
        if (!rc && evaluated) rc = evaluate(r, err);
        bool due = r->state.step % (uint64_t)r->a.save_every == 0 && !finished(r);
        if (!rc && due) rc = save(r, err);
        rc = parallel_agree(&r->parallel, rc, err);
    }
    if (terminal) fputs("\r\x1b[K", r->tool->log);
    return rc ? rc : close_run(r, evaluated, err);
}
