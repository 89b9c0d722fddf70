/* Setting up a run. Order matters: what can be refused comes before what takes time, and nothing is
 * written before everything that the command line says has been understood. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/gpt2/tokenizer_write.h"
#include "models/atomic_file.h"
#include "models/outdir.h"
#include "models/train/trainer.h"

static bool has_file(const char *dir, const char *name)
{
    char *path = outdir_join(dir, name);
    bool there = access(path, F_OK) == 0;
    free(path);
    return there;
}

/* A new run may begin in a new or empty directory, or in one without a model. */
static int claim_directory(const struct train_args *a, struct err *err)
{
    struct stat st;
    if (stat(a->out, &st) != 0) {
        if (a->resume)
            return err_set_param(err, ERR_MISSING, "resume", "--resume: there is no run in %s",
                                 a->out);
        if (errno == ENOENT && mkdir(a->out, 0777) == 0) return 0;
        return err_set(err, ERR_IO, "cannot make directory %s: %s", a->out, strerror(errno));
    }
    if (!S_ISDIR(st.st_mode)) return err_set(err, ERR_INVALID, "%s is not a directory", a->out);
    bool run = has_file(a->out, "train.state");
    if (a->resume && !run)
        return err_set_param(err, ERR_MISSING, "resume", "--resume: there is no train.state in %s",
                             a->out);
    if (!a->resume && !a->force && (run || has_file(a->out, "model.safetensors")))
        return err_set(err, ERR_INVALID,
                       "%s has a %s; --resume goes on with a run, --force "
                       "starts over",
                       a->out, run ? "run" : "model");
    return 0;
}

static int check_block(struct trainer *r, struct err *err)
{
    int positions = r->net.cfg.n_positions;
    if (!r->a.block) r->a.block = positions < 256 ? positions : 256;
    if (r->a.block > positions)
        return err_set_param(err, ERR_INVALID, "block",
                             "--block: %lld tokens exceed the model's %d positions",
                             (long long)r->a.block, positions);
    return 0;
}

static int open_corpora(struct trainer *r, struct err *err)
{
    const struct train_args *a = &r->a;
    char *train = outdir_join(a->out, "train.tokens"), *valid = outdir_join(a->out, "valid.tokens");
    int rc = corpus_open(&r->train, r->tool, a->data, train, r->tok, r->c.pool, err);
    if (!rc && a->valid)
        rc = corpus_open(&r->valid, r->tool, a->valid, valid, r->tok, r->c.pool, err);
    if (!rc && a->valid && r->valid.n < (size_t)a->block + 1)
        rc =
            err_set(err, ERR_INVALID, "%s has %zu tokens, a block of %lld needs one more than that",
                    a->valid, r->valid.n, (long long)a->block);
    if (!rc) rc = batches_open(&r->batches, &r->train, (size_t)a->block, (uint64_t)a->seed, err);
    free(train);
    free(valid);
    return rc;
}

static int write_directory(const struct trainer *r, struct err *err)
{
    struct buf b = {0};
    enum dtype t = !strcmp(r->a.dtype, "bf16")  ? DTYPE_BF16
                   : !strcmp(r->a.dtype, "f16") ? DTYPE_F16
                                                : DTYPE_F32;
    char *path = outdir_join(r->a.out, "config.json");
    checkpoint_config_json(&r->net.cfg, t, &b);
    int rc = atomic_file_put(path, b.data, b.len, err);
    if (!rc) rc = tokenizer_copy_files(r->a.tokenizer ? r->a.tokenizer : r->a.from, r->a.out, err);
    buf_release(&b);
    free(path);
    return rc;
}

static int open_state(struct trainer *r, struct err *err)
{
    const struct train_args *a = &r->a;
    char *path = outdir_join(a->out, "train.state"), *log = outdir_join(a->out, "log.jsonl");
    r->state = (struct train_state){.best = INFINITY,
                                    .seed = (uint64_t)a->seed,
                                    .batch = (uint64_t)a->batch,
                                    .block = (uint64_t)a->block,
                                    .accumulate = (uint64_t)a->accumulate,
                                    .corpus_tokens = r->train.n};
    int rc = 0;
    if (a->resume)
        rc = state_load(path, &r->net, &r->state, r->w, r->optim.m, r->optim.v, err);
    else if (unlink(path) != 0 && errno != ENOENT)
        rc = err_set(err, ERR_IO, "cannot remove %s: %s", path, strerror(errno));
    if (!rc && !a->resume) rc = write_directory(r, err);
    if (!rc) rc = runlog_open(&r->log, log, r->state.step, err);
    r->exported = a->resume && has_file(a->out, "model.safetensors");
    free(path);
    free(log);
    return rc;
}

static int open_compute(struct trainer *r, struct err *err)
{
    r->c.k = kernels_choose(&r->tool->cpu, r->a.kernels);
    if (!r->c.k)
        return err_set_param(err, ERR_INVALID, "kernels",
                             "--kernels: \"%.40s\" is unknown or cannot run here", r->a.kernels);
    return pool_new(&r->c.pool, cpu_threads(&r->tool->cpu, (int)r->a.threads), err);
}

static void plan_steps(struct trainer *r)
{
    const struct train_args *a = &r->a;
    double per_step = (double)a->batch * (double)a->accumulate;
    r->total_steps = (uint64_t)a->steps;
    if (a->epochs > 0)
        r->total_steps = (uint64_t)ceil(a->epochs * (double)r->batches.blocks / per_step);
}

int trainer_open(struct trainer *r, const struct tool *t, const struct train_args *a,
                 struct err *err)
{
    *r = (struct trainer){.tool = t, .a = *a};
    int rc = open_compute(r, err);
    if (!rc) rc = trainer_model(r, err);
    if (!rc) rc = check_block(r, err);
    if (!rc) rc = trainer_teacher(r, err);
    if (rc) return rc;
    size_t n = (size_t)r->a.batch * (size_t)r->a.block;
    struct backprop_options o = {.sequences = (size_t)r->a.batch,
                                 .length = (size_t)r->a.block,
                                 .backward = true,
                                 .recompute = a->recompute,
                                 .teacher = a->teacher != NULL,
                                 .dropout = (float)a->dropout,
                                 .seed = (uint64_t)a->seed};
    o.route = !strcmp(a->ttm_route, "dense")   ? TTM_ROUTE_DENSE
              : !strcmp(a->ttm_route, "cores") ? TTM_ROUTE_CORES
                                               : TTM_ROUTE_AUTO;
    struct optim_options oo = {.beta1 = (float)a->beta1,
                               .beta2 = (float)a->beta2,
                               .eps = (float)a->eps,
                               .decay = (float)a->decay,
                               .clip = (float)a->clip,
                               .one_rate = a->plain_rates};
    r->tokens = mem_alloc(n * sizeof *r->tokens);
    r->targets = mem_alloc(n * sizeof *r->targets);
    rc = backprop_new(&r->backprop, &r->net, &o, &r->c, err);
    if (!rc) rc = optim_init(&r->optim, &r->net, &oo, err);
    if (!rc) rc = claim_directory(&r->a, err);
    if (!rc) rc = open_corpora(r, err);
    if (!rc) rc = open_state(r, err);
    if (!rc) plan_steps(r);
    return rc;
}

void trainer_close(struct trainer *r)
{
    runlog_close(&r->log);
    backprop_free(r->teacher.model);
    mem_unmap(r->teacher_w, r->teacher_net.floats * sizeof *r->teacher_w);
    net_release(&r->teacher_net);
    batches_close(&r->batches);
    corpus_close(&r->train);
    corpus_close(&r->valid);
    backprop_free(r->backprop);
    optim_release(&r->optim);
    mem_unmap(r->w, r->net.floats * sizeof *r->w);
    mem_unmap(r->grad, r->net.floats * sizeof *r->grad);
    net_release(&r->net);
    free(r->tokens);
    free(r->targets);
    tokenizer_close(r->tok);
    pool_free(r->c.pool);
}
