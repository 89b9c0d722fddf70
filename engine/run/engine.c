/* The facade: assembles CPU, kernels, pool, model, tokenizer, KV store and scheduler, and hands the
 * scheduler the model as three calls. Everything a step needs is allocated here, once: a server that
 * has started does not run out of memory in the middle of a request.
 *
 * The opening thread owns the pool while it loads; from the moment the scheduler's thread starts,
 * that one does. The facts of engine_info() are constant, so that they need no lock. */
#include "engine/run/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/gpt2/safetensors.h"
#include "engine/gpt2/tokenizer.h"
#include "engine/run/engine_facts.h"
#include "engine/run/scheduler.h"

struct engine {
    struct cpu cpu;
    struct pool *pool; /* owned */
    struct compute compute;
    struct gpt2 *model;    /* owned */
    struct tokenizer *tok; /* owned */
    struct kv_store kv;
    float *scratch; /* owned; of gpt2_forward() and gpt2_logits() */
    size_t scratch_bytes;
    struct scheduler *sched; /* owned */
    struct ttm_info *ttm;    /* (info.n_ttm) owned */
    struct engine_info info;
};

void engine_options_default(struct engine_options *o)
{
    *o = (struct engine_options){.max_batch = 32, .max_jobs = 256, .prefill_chunk_tokens = 512};
}

/* ---- the model as the scheduler sees it; engine thread ---- */

static void forward(void *ctx, const struct gpt2_step *step, float *hidden)
{
    struct engine *e = ctx;
    gpt2_forward(e->model, &e->compute, &e->kv, step, hidden, e->scratch);
}

static void logits(void *ctx, const float *hidden, const int32_t *rows, int n, float *out)
{
    struct engine *e = ctx;
    gpt2_logits(e->model, &e->compute, hidden, rows, n, out, e->scratch);
}

static const char *token_text(void *ctx, int32_t id, size_t *len)
{
    struct engine *e = ctx;
    *len = 0;
    return tokenizer_is_special(e->tok, id) ? "" : tokenizer_bytes(e->tok, id, len);
}

/* ---- opening, in order ---- */

/* The table of that name, or the fastest for NULL. */
static int find_kernels(const struct kernels **out, const struct cpu *cpu, const char *name,
                        struct err *err)
{
    *out = kernels_choose(cpu, name);
    if (*out) return 0;
    return err_set_param(err, ERR_INVALID, "kernels",
                         "kernels \"%s\" are unknown or cannot run on this processor", name);
}

int engine_check_kernels(const struct cpu *cpu, const char *name, struct err *err)
{
    const struct kernels *k;
    return find_kernels(&k, cpu, name, err);
}

static int open_cpu(struct engine *e, const struct engine_options *o, struct err *err)
{
    if (o->threads < 0)
        return err_set_param(err, ERR_INVALID, "threads", "threads is %d, expected 0 or more",
                             o->threads);
    cpu_detect(&e->cpu);
    int rc = find_kernels(&e->compute.k, &e->cpu, o->kernels, err);
    if (!rc) rc = pool_new(&e->pool, cpu_threads(&e->cpu, o->threads), err);
    e->compute.pool = e->pool;
    return rc;
}

static const unsigned ttm_methods[] = {[ENGINE_TTM_AUTO] = 0,
                                       [ENGINE_TTM_CONTRACT] = 1u << TTM_CONTRACT,
                                       [ENGINE_TTM_REBUILD] = 1u << TTM_REBUILD,
                                       [ENGINE_TTM_RESIDENT] = 1u << TTM_RESIDENT};

/* Before its files: "no such directory" says more than "no tokenizer". */
static int check_dir(const char *dir, struct err *err)
{
    struct stat st;
    if (stat(dir, &st))
        return err_set(err, errno == ENOENT ? ERR_MISSING : ERR_IO, "model directory %s: %s", dir,
                       strerror(errno));
    if (S_ISDIR(st.st_mode)) return 0;
    return err_set(err, ERR_INVALID, "model directory %s: not a directory", dir);
}

static int open_model(struct engine *e, const struct engine_options *o, struct err *err)
{
    int dtype = gpt2_dtype_parse(o->dtype);
    if (dtype < 0)
        return err_set_param(err, ERR_INVALID, "dtype",
                             "dtype \"%.40s\" is not one of auto, f32, bf16 and int8", o->dtype);
    const struct gpt2_options g = {.dtype = (enum gpt2_dtype)dtype,
                                   .ttm_methods = ttm_methods[o->ttm_execution],
                                   .memory_budget_bytes = o->memory_budget_bytes,
                                   .decode_rows = o->max_batch < 8 ? o->max_batch : 0,
                                   .rates_file = o->rates_file,
                                   .cpu = &e->cpu,
                                   .progress = o->progress,
                                   .progress_arg = o->progress_arg};
    int rc = check_dir(o->dir, err);
    if (!rc) rc = tokenizer_open(&e->tok, o->dir, err); /* first: it is quick, and refuses early */
    if (!rc) rc = gpt2_open_with(&e->model, o->dir, &e->compute, &g, err);
    if (rc) return rc;
    int32_t most = e->model->cfg.vocab_size;
    if (tokenizer_vocab(e->tok) > most)
        return err_set(err, ERR_INVALID,
                       "%s: the tokenizer has ids up to %d, the model's vocabulary ends at %d",
                       o->dir, (int)tokenizer_vocab(e->tok) - 1, (int)most - 1);
    return 0;
}

/* Blocks for the bytes asked for, or for max_batch full contexts in a quarter of the memory; never
 * fewer than one full context, so that every valid request fits. */
static int count_blocks(const struct engine *e, const struct engine_options *o, size_t block_bytes)
{
    size_t context = (size_t)kv_blocks_for(e->model->cfg.n_positions);
    size_t blocks;
    if (o->kv_cache_bytes > 0) {
        blocks = o->kv_cache_bytes / block_bytes;
    } else {
        size_t most = e->cpu.memory_bytes / 4 / block_bytes;
        blocks = context * (size_t)o->max_batch;
        if (most > 0 && blocks > most) blocks = most;
    }
    if (blocks < context) blocks = context;
    return blocks < INT32_MAX ? (int)blocks : INT32_MAX;
}

static int open_kv(struct engine *e, const struct engine_options *o, struct err *err)
{
    int dtype = kv_dtype_parse(o->kv_dtype, e->model->dtype);
    if (dtype < 0)
        return err_set_param(err, ERR_INVALID, "kv_dtype",
                             "kv_dtype \"%.40s\" is not one of auto, f32, f16 and int8",
                             o->kv_dtype);
    enum dtype t = (enum dtype)dtype;
    size_t block_bytes = kv_block_bytes(&e->model->cfg, t);
    int blocks = count_blocks(e, o, block_bytes);
    size_t bytes = (size_t)blocks * block_bytes, most = e->cpu.memory_bytes;
    /* The kernel would promise it, and kill us when it is used. */
    if (most > 0 && bytes > most)
        return err_set_param(err, ERR_NOMEM, "kv_cache_bytes",
                             "a KV cache of %zu bytes does not fit in %zu bytes of memory", bytes,
                             most);
    return kv_store_init(&e->kv, &e->model->cfg, t, blocks, err);
}

static int open_scratch(struct engine *e, const struct engine_options *o, struct err *err)
{
    if (o->max_batch < 1 || o->prefill_chunk_tokens < 1 || o->max_batch > 1 << 20 ||
        o->prefill_chunk_tokens > 1 << 20)
        return err_set(err, ERR_INVALID,
                       "max_batch %d and prefill_chunk_tokens %d, expected 1 to 1048576",
                       o->max_batch, o->prefill_chunk_tokens);
    int rows = scheduler_rows(o->max_batch, o->prefill_chunk_tokens, o->speculative_tokens);
    size_t floats = gpt2_scratch_floats(e->model, rows, pool_threads(e->pool));
    size_t logits = gpt2_logits_floats(e->model, SCHEDULER_LOGIT_ROWS);
    if (floats < logits) floats = logits;
    void *p;
    if (!mem_mul(floats, sizeof(float), &e->scratch_bytes))
        return err_set(err, ERR_NOMEM, "scratch of %zu floats is too large", floats);
    int rc = mem_map(&p, e->scratch_bytes, "scratch of a step", err);
    if (!rc) e->scratch = p;
    return rc;
}

/* Decode rows have the bits of prompt rows unless a TTM layer is planned differently for them. */
static bool one_role(const struct engine *e)
{
    for (int i = 0; i < e->info.n_ttm; i++)
        if (strcmp(e->ttm[i].plan[0], e->ttm[i].plan[1]) != 0) return false;
    return true;
}

/* Rebuilding W costs as much as so many rows of a dense layer, whatever the step's rows: pieces of prompts
 * much smaller than that would do little else. */
static int least_rows(const struct engine *e)
{
    double most = 0;
    for (int i = 0; i < e->info.n_ttm; i++) {
        const struct ttm_info *t = &e->ttm[i];
        double rows = (t->mults[1] - 1) * t->plan_rows[1];
        if (strncmp(t->plan[1], "rebuild", 7) == 0 && rows > most) most = rows;
    }
    return (int)most;
}

static int prefix_blocks(const struct engine *e, const struct engine_options *o)
{
    size_t blocks = o->prefix_cache_bytes / e->kv.block_bytes;
    return blocks < (size_t)e->kv.n_blocks ? (int)blocks : e->kv.n_blocks;
}

static int32_t valid_id(const struct engine *e, int32_t id)
{
    return id >= 0 && id < e->model->cfg.vocab_size ? id : -1;
}

static int open_scheduler(struct engine *e, const struct engine_options *o, struct err *err)
{
    const struct gpt2_config *c = &e->model->cfg;
    struct scheduler_model m = {
        .ctx = e,
        .forward = forward,
        .logits = logits,
        .token_text = token_text,
        .n_embd = c->n_embd,
        .n_positions = c->n_positions,
        .vocab = c->vocab_size,
        .eos = e->info.eos_id,
        .max_token_bytes = tokenizer_max_token_bytes(e->tok),
        .least_rows = least_rows(e),
        .one_role = one_role(e),
    };
    struct scheduler_options so = {
        .max_batch = o->max_batch,
        .max_jobs = o->max_jobs,
        .prefill_chunk_tokens = o->prefill_chunk_tokens,
        .kv_blocks = e->kv.n_blocks,
        .prefix_blocks = prefix_blocks(e, o),
        .speculative_tokens = o->speculative_tokens,
        .row_price = o->row_price,
        .pool = e->pool,
        .kernels = e->compute.k,
    };
    return scheduler_open(&e->sched, &m, &so, err);
}

static void describe_ttm(struct engine *e)
{
    e->ttm = mem_calloc((size_t)e->model->n_ttm + 1, sizeof *e->ttm);
    for (int i = 0; i < e->model->n_ttm; i++)
        ttm_info_get(e->model, i, &e->ttm[i]);
}

static bool same_plan(const struct ttm_info *a, const struct ttm_info *b)
{
    return !strcmp(a->shape, b->shape) && !strcmp(a->ranks, b->ranks) &&
           !strcmp(a->plan[0], b->plan[0]) && !strcmp(a->plan[1], b->plan[1]);
}

/* A line for every kind of TTM layer, with the number of its layers. */
static void log_plans(const struct engine *e, struct log *l)
{
    for (int i = 0; i < e->info.n_ttm; i++) {
        const struct ttm_info *t = &e->ttm[i];
        int first = 0, n = 0;
        while (!same_plan(&e->ttm[first], t))
            first++;
        if (first < i) continue;
        for (int k = i; k < e->info.n_ttm; k++)
            n += same_plan(&e->ttm[k], t);
        log_at(l, LOG_INFO, "TTM plan", LOG_S("layer", t->name), LOG_I("layers", n),
               LOG_S("shape", t->shape), LOG_S("ranks", t->ranks), LOG_S("decode", t->plan[0]),
               LOG_S("prefill", t->plan[1]), LOG_I("bytes", t->bytes),
               LOG_N("decode_us", t->seconds[0] * 1e6), LOG_N("prefill_us", t->seconds[1] * 1e6));
    }
}

static uint64_t fingerprint(const struct engine *e, uint64_t f)
{
    f = engine_facts_mix(f, e->info.dtype);
    f = engine_facts_mix(f, e->info.kv_dtype);
    for (int i = 0; i < e->info.n_ttm; i++)
        for (int r = 0; r < 2; r++)
            f = engine_facts_mix(f, e->ttm[i].plan[r]);
    return f;
}

static void fill_info(struct engine *e, const struct engine_options *o)
{
    const struct gpt2_config *c = &e->model->cfg;
    int32_t eos = valid_id(e, c->eos_token_id), bos = valid_id(e, c->bos_token_id);
    e->info = (struct engine_info){
        .n_layer = c->n_layer,
        .n_head = c->n_head,
        .n_embd = c->n_embd,
        .n_ctx = c->n_positions,
        .n_inner = c->n_inner,
        .vocab_size = c->vocab_size,
        .eos_id = eos >= 0 ? eos : valid_id(e, tokenizer_eos(e->tok)),
        .bos_id = bos >= 0 ? bos : valid_id(e, tokenizer_eos(e->tok)),
        .n_params = e->model->n_params,
        .n_params_rounded = e->model->n_params_rounded,
        .n_params_dense = e->model->n_params_dense,
        .n_ttm = e->model->n_ttm,
        .ttm = e->ttm,
        .weight_bytes = e->model->weight_bytes,
        .kv_bytes = (size_t)e->kv.n_blocks * e->kv.block_bytes,
        .kv_blocks = e->kv.n_blocks,
        .kv_block_tokens = KV_BLOCK,
        .kv_block_bytes = e->kv.block_bytes,
        .prefix_cache_bytes = (size_t)prefix_blocks(e, o) * e->kv.block_bytes,
        .speculative_tokens = o->speculative_tokens,
        .threads = pool_threads(e->pool),
        .max_batch = o->max_batch,
        .dtype = dtype_name(e->model->dtype),
        .kv_dtype = dtype_name(e->kv.dtype),
        .kernels = e->compute.k->name,
        .blas_core = cpu_blas_core(),
    };
}

int engine_open(struct engine **out, const struct engine_options *o, struct err *err)
{
    uint64_t t0 = clock_ns();
    struct engine *e = mem_calloc(1, sizeof *e);
    struct engine_facts facts = {0};
    int rc = open_cpu(e, o, err);
    if (!rc) rc = open_model(e, o, err);
    if (!rc) rc = engine_facts(&facts, o->dir, err);
    if (!rc) rc = open_kv(e, o, err);
    if (!rc) rc = open_scratch(e, o, err);
    if (!rc) {
        describe_ttm(e);
        fill_info(e, o);
        e->info.file_bytes = facts.file_bytes;
        e->info.fingerprint = fingerprint(e, facts.fingerprint);
        rc = open_scheduler(e, o, err);
    }
    if (rc) {
        engine_close(e);
        return rc;
    }
    e->info.load_seconds = (double)(clock_ns() - t0) / (double)CLOCK_NS_PER_S;
    log_at(o->log, LOG_INFO, "model loaded", LOG_S("dir", o->dir),
           LOG_I("parameters", e->info.n_params), LOG_I("weight_bytes", e->info.weight_bytes),
           LOG_S("dtype", e->info.dtype), LOG_S("kernels", e->info.kernels),
           LOG_I("threads", e->info.threads), LOG_I("kv_bytes", e->info.kv_bytes),
           LOG_N("seconds", e->info.load_seconds));
    log_plans(e, o->log);
    *out = e;
    return 0;
}

void engine_close(struct engine *e)
{
    if (!e) return;
    scheduler_close(e->sched);
    mem_unmap(e->scratch, e->scratch_bytes);
    kv_store_release(&e->kv);
    gpt2_close(e->model);
    tokenizer_close(e->tok);
    pool_free(e->pool);
    free(e->ttm);
    free(e);
}

/* ---- what the facade passes on ---- */

const struct engine_info *engine_info(const struct engine *e)
{
    return &e->info;
}

const struct tokenizer *engine_tokenizer(const struct engine *e)
{
    return e->tok;
}

int engine_submit(struct engine *e, const struct job_spec *s, struct job **out, struct err *err)
{
    return scheduler_submit(e->sched, s, out, err);
}

void engine_stats(const struct engine *e, struct engine_stats *s)
{
    scheduler_stats(e->sched, s);
}

void engine_set_on_step(struct engine *e, engine_on_step *fn, void *arg)
{
    scheduler_set_on_step(e->sched, fn, arg);
}

void engine_drop_prefixes(struct engine *e)
{
    scheduler_drop_prefixes(e->sched);
}
