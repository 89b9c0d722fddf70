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

/* Of a text the block is a choice; of a task its longest item. */
static int check_block(struct trainer *r, struct err *err)
{
    int positions = r->net.cfg.n_positions;
    if (r->a.block > positions)
        return err_set_param(err, ERR_INVALID, "block",
                             "--block: %lld tokens exceed the model's %d positions",
                             (long long)r->a.block, positions);
    if (!r->a.block && !r->a.task) r->a.block = positions < 256 ? positions : 256;
    return 0;
}

static int open_items(struct trainer *r, struct err *err)
{
    const struct train_args *a = &r->a;
    size_t most = (size_t)(a->block ? a->block : r->net.cfg.n_positions);
    if (!a->task) return 0;
    int rc = source_items(&r->source, a->task, a->data, a->valid, r->first, r->tok, most,
                          (uint64_t)a->seed, err);
    r->a.block = (int64_t)r->source.length;
    return rc;
}

static int open_text(struct trainer *r, struct err *err)
{
    const struct train_args *a = &r->a;
    struct source_text t = {.tool = r->tool,
                            .data = a->data,
                            .valid = a->valid,
                            .out = a->out,
                            .tok = r->tok,
                            .pool = r->c.pool,
                            .length = (size_t)a->block,
                            .valid_tokens = (size_t)a->valid_tokens,
                            .seed = (uint64_t)a->seed};
    return a->task ? 0 : source_text(&r->source, &t, err);
}

enum dtype trainer_dtype(const struct trainer *r)
{
    if (!strcmp(r->a.dtype, "bf16")) return DTYPE_BF16;
    return !strcmp(r->a.dtype, "f16") ? DTYPE_F16 : DTYPE_F32;
}

int trainer_describe(const struct trainer *r, struct err *err)
{
    struct buf b = {0};
    char *path = outdir_join(r->a.out, "config.json");
    if (r->a.task) {
        const struct eval_classes *c = eval_classes_of(r->a.task);
        const char *const rows[] = {c->names[r->first], c->names[!r->first]};
        checkpoint_classifier_json(&r->net.cfg, trainer_dtype(r), rows, ITEMS_CLASSES, &b);
    } else {
        checkpoint_config_json(&r->net.cfg, trainer_dtype(r), &b);
    }
    int rc = atomic_file_put(path, b.data, b.len, err);
    if (!rc) rc = tokenizer_copy_files(r->a.tokenizer ? r->a.tokenizer : r->a.from, r->a.out, err);
    buf_release(&b);
    free(path);
    return rc;
}

/* A run begins with a state of step 0: from here on --resume goes on with it. A model that was there stays
 * until there is a better one, with its configuration and its tokenizer. */
static int begin_run(struct trainer *r, const char *state, struct err *err)
{
    if (unlink(state) != 0 && errno != ENOENT)
        return err_set(err, ERR_IO, "cannot remove %s: %s", state, strerror(errno));
    return state_save(state, &r->net, &r->state, r->w, r->optim.m, r->optim.v, err);
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
                                    .corpus_tokens = source_tokens(&r->source)};
    int rc = a->resume ? state_load(path, &r->net, &r->state, r->w, r->optim.m, r->optim.v, err)
                       : begin_run(r, path, err);
    if (!rc) rc = runlog_open(&r->log, log, r->state.step, err);
    r->exported = isfinite(r->state.best) && run_dir_has(a->out, "model.safetensors");
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
        r->total_steps = (uint64_t)ceil(a->epochs * (double)r->source.epoch / per_step);
}

/* One of several processes is quiet. */
static int join(struct trainer *r, const struct tool *t, struct err *err)
{
    r->tool = t;
    int rc = parallel_begin(&r->parallel, err);
    if (rc || parallel_writes(&r->parallel)) return rc;
    r->quiet = *t;
    r->quiet.log = fopen("/dev/null", "we");
    r->tool = &r->quiet;
    return r->quiet.log ? 0 : err_set(err, ERR_IO, "cannot open /dev/null: %s", strerror(errno));
}

static int open_steps(struct trainer *r, struct err *err)
{
    const struct train_args *a = &r->a;
    r->share = ((size_t)a->batch + (size_t)r->parallel.size - 1) / (size_t)r->parallel.size;
    if (a->batch < r->parallel.size)
        return err_set_param(err, ERR_INVALID, "batch",
                             "--batch: %lld sequences are too few for %d processes",
                             (long long)a->batch, r->parallel.size);
    struct backprop_options o = {.sequences = r->share,
                                 .length = (size_t)a->block,
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
    r->tokens = mem_alloc(r->share * o.length * sizeof *r->tokens);
    r->targets = mem_alloc(r->share * o.length * sizeof *r->targets);
    int rc = backprop_new(&r->backprop, &r->net, &o, &r->c, err);
    return rc ? rc : optim_init(&r->optim, &r->net, &oo, err);
}

/* What every process can do by itself. */
static int prepare(struct trainer *r, struct err *err)
{
    int rc = open_compute(r, err);
    if (!rc) rc = trainer_model(r, err);
    if (!rc) rc = check_block(r, err);
    if (!rc) rc = open_items(r, err);
    if (!rc) rc = trainer_teacher(r, err);
    return rc ? rc : open_steps(r, err);
}

/* The first process claims the directory and makes the ids; the others find them there, or make their
 * own where they do not share its disk. */
static int open_material(struct trainer *r, struct err *err)
{
    bool first = parallel_writes(&r->parallel);
    int rc = 0;
    if (first) rc = run_dir_claim(&r->dir, r->a.out, &r->a.resume, r->a.force, err);
    if (!rc && first) rc = open_text(r, err);
    rc = parallel_agree(&r->parallel, rc, err);
    if (rc) return rc;
    if (!first && !r->a.task && mkdir(r->a.out, 0777) != 0 && errno != EEXIST)
        rc = err_set(err, ERR_IO, "cannot make directory %s: %s", r->a.out, strerror(errno));
    if (!rc && !first) rc = open_text(r, err);
    size_t mine = rc ? 0 : source_tokens(&r->source), theirs = mine;
    parallel_copy(&r->parallel, &theirs, sizeof theirs);
    if (!rc && mine != theirs)
        rc = err_set(err, ERR_INVALID, "%s has %zu tokens here, %zu where the run is written",
                     r->a.data, mine, theirs);
    return parallel_agree(&r->parallel, rc, err);
}

/* All begin with what the first one has: new weights, or those of a state that only it may have. */
static int share_state(struct trainer *r, struct err *err)
{
    int rc = parallel_writes(&r->parallel) ? open_state(r, err) : 0;
    rc = parallel_agree(&r->parallel, rc, err);
    if (rc) return rc;
    size_t bytes = r->net.floats * sizeof *r->w;
    parallel_copy(&r->parallel, &r->a.resume, sizeof r->a.resume);
    parallel_copy(&r->parallel, &r->state, sizeof r->state);
    parallel_copy(&r->parallel, r->w, bytes);
    parallel_copy(&r->parallel, r->optim.m, bytes);
    parallel_copy(&r->parallel, r->optim.v, bytes);
    return 0;
}

int trainer_open(struct trainer *r, const struct tool *t, const struct train_args *a,
                 struct err *err)
{
    *r = (struct trainer){.a = *a, .dir = {.lock = -1}};
    int rc = join(r, t, err);
    if (!rc) rc = parallel_agree(&r->parallel, prepare(r, err), err);
    if (!rc) rc = open_material(r, err);
    if (!rc) rc = share_state(r, err);
    if (!rc) plan_steps(r);
    return rc;
}

void trainer_close(struct trainer *r)
{
    runlog_close(&r->log);
    backprop_free(r->teacher.model);
    mem_unmap(r->teacher_w, r->teacher_net.floats * sizeof *r->teacher_w);
    net_release(&r->teacher_net);
    source_close(&r->source);
    backprop_free(r->backprop);
    optim_release(&r->optim);
    mem_unmap(r->w, r->net.floats * sizeof *r->w);
    mem_unmap(r->grad, r->net.floats * sizeof *r->grad);
    net_release(&r->net);
    free(r->tokens);
    free(r->targets);
    tokenizer_close(r->tok);
    pool_free(r->c.pool);
    run_dir_release(&r->dir);
    if (r->quiet.log) fclose(r->quiet.log);
}
