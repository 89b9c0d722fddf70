/* The loop. A step is a function of the state, the seed and the texts; the clock decides nothing but
 * when to stop, and the schedule if --minutes alone says how long. Checkpoints go model first, then
 * state: a process that dies in between takes the same steps again and writes the same model. */
#include "models/train/trainer.h"

#include <math.h>
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
    size_t block = (size_t)a->block, batch = (size_t)a->batch;
    float scale = 1.0F / (float)(batch * block * (size_t)a->accumulate);
    double loss = 0, distil = 0;
    uint64_t draw = r->state.step * (uint64_t)a->accumulate;
    pool_for(r->c.pool, r->net.floats, (size_t)1 << 18, zero, r->grad);
    for (int64_t i = 0; i < a->accumulate; i++) {
        struct backprop_loss l;
        for (size_t k = 0; k < batch; k++)
            batches_get(&r->batches, (draw + (uint64_t)i) * batch + k, r->tokens + k * block,
                        r->targets + k * block);
        struct backprop_batch b = {.tokens = r->tokens,
                                   .targets = r->targets,
                                   .sequences = batch,
                                   .length = block,
                                   .draw = draw + (uint64_t)i,
                                   .teacher = r->teacher.model ? &r->teacher : NULL};
        backprop_step(r->backprop, r->w, &b, scale, r->grad, &l);
        loss += l.sum * (double)scale;
        distil += l.distil * (double)scale;
    }
    out->lr = rate_of(r);
    out->grad_norm = optim_step(&r->optim, &r->c, r->w, r->grad, (float)out->lr, r->state.step + 1);
    if (!isfinite(loss) || !isfinite(out->grad_norm))
        return err_set(err, ERR_INTERNAL,
                       "step %llu: the loss is %g, the gradient's norm %g; a lower --lr may help",
                       (unsigned long long)r->state.step + 1, loss, out->grad_norm);
    r->state.step++;
    r->state.tokens += batch * block * (uint64_t)a->accumulate;
    out->step = r->state.step;
    out->tokens = r->state.tokens;
    out->loss = loss;
    out->distil = r->teacher.model ? distil : -1;
    return 0;
}

double trainer_validate(struct trainer *r)
{
    size_t block = (size_t)r->a.block, batch = (size_t)r->a.batch, count = 0;
    size_t all = (r->valid.n - 1) / block, want = (size_t)r->a.valid_tokens / block;
    if (want < 1) want = 1;
    if (want > all) want = all;
    double sum = 0;
    for (size_t i = 0; i < want; i += batch) {
        struct backprop_loss l;
        size_t n = want - i < batch ? want - i : batch;
        for (size_t k = 0; k < n; k++) {
            size_t at = (i + k) * all / want * block; /* evenly spaced, the same every time */
            corpus_read(&r->valid, at, block, r->tokens + k * block);
            corpus_read(&r->valid, at + 1, block, r->targets + k * block);
        }
        struct backprop_batch b = {.tokens = r->tokens, .targets = r->targets, .sequences = n};
        b.length = block;
        backprop_loss(r->backprop, r->w, &b, &l);
        sum += l.sum;
        count += l.tokens;
    }
    return sum / (double)count;
}

static int export_model(struct trainer *r, struct err *err)
{
    enum dtype t = !strcmp(r->a.dtype, "bf16")  ? DTYPE_BF16
                   : !strcmp(r->a.dtype, "f16") ? DTYPE_F16
                                                : DTYPE_F32;
    char *path = outdir_join(r->a.out, "model.safetensors");
    int rc = net_save(&r->net, r->w, t, path, err);
    if (!rc) rc = atomic_file_sync_dir(path, err);
    free(path);
    if (!rc) r->exported = true;
    return rc;
}

/* Validate; keep the model when it is the best so far. Without a validation text the last one is. */
static int evaluate(struct trainer *r, struct err *err)
{
    if (!r->valid.n) return export_model(r, err);
    double loss = trainer_validate(r);
    int rc = runlog_valid(&r->log, r->state.step, loss, err);
    bool best = loss < r->state.best;
    fprintf(r->tool->log, "%sstep %llu: validation loss %.4f, perplexity %.2f%s\n",
            isatty(fileno(r->tool->log)) ? "\r\x1b[K" : "", (unsigned long long)r->state.step, loss,
            exp(loss), best ? ", the best so far" : "");
    if (rc || !best) return rc;
    r->state.best = loss;
    r->state.best_step = r->state.step;
    return export_model(r, err);
}

static int save(struct trainer *r, struct err *err)
{
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
    if (!stopped && !evaluated) rc = evaluate(r, err);
    if (!rc && !r->exported) rc = export_model(r, err);
    if (!rc) rc = save(r, err);
    if (!rc && stopped)
        fprintf(r->tool->log, "\nstopped by a signal at step %llu; saved, --resume goes on\n",
                (unsigned long long)r->state.step);
    return rc;
}

int trainer_run(struct trainer *r, struct err *err)
{
    bool terminal = isatty(fileno(r->tool->log)), evaluated = false;
    uint64_t printed = 0;
    int rc = 0;
    if (r->a.resume && finished(r)) return 0; /* saved at its end, not before the last validation */
    while (!rc && !finished(r) && !tool_stopped(r->tool)) {
        struct runlog_step s = {0};
        uint64_t start = clock_ns();
        rc = take_step(r, &s, err);
        if (rc) break;
        double seconds = (double)(clock_ns() - start) / (double)CLOCK_NS_PER_S;
        r->state.seconds += seconds;
        s.tokens_per_s = (double)(r->a.batch * r->a.block * r->a.accumulate) / seconds;
        rc = runlog_step(&r->log, &s, err);
        if (terminal || clock_ns() - printed > LINE_NS) {
            print_line(r, &s, terminal);
            printed = clock_ns();
        }
        evaluated = r->state.step % (uint64_t)r->a.eval_every == 0;
        if (!rc && evaluated) rc = evaluate(r, err);
        bool due = r->state.step % (uint64_t)r->a.save_every == 0 && !finished(r);
        if (!rc && due) rc = save(r, err);
    }
    if (terminal) fputs("\r\x1b[K", r->tool->log);
    return rc ? rc : close_run(r, evaluated, err);
}
