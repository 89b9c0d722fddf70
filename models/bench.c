/* ttm bench: the model's own speed, below the scheduler: gpt2_forward() and gpt2_logits() on prepared
 * sequences, without sampling. Other programs share the machine, so every rate is measured once a
 * round, limits and model in turn, and medians are compared: a neighbour's burst hits both.
 *
 * A decode step attends to the same number of positions every time (it rewrites the last one), so
 * that steps can be repeated. The sequences hold real keys and values: pages never written would all
 * be one zero page and never leave the cache. */
#include "models/bench.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/kernels/machine.h"
#include "models/bench_train.h"
#include "models/bench_ttm.h"
#include "models/options.h"
#include "models/progress.h"
#include "models/tool.h"

enum { CONTEXT = 128, MAX_BATCH = 32, OWN_N = MACHINE_SGEMM_N };

struct bench_args {
    bool json, quick, ttm, train;
    int64_t threads, rounds; /* rounds: 0 = not given */
    int64_t decode_rows, memory_budget;
    const char *kv_dtype, *kernels, *dtype;
};
#define FIELD(f) offsetof(struct bench_args, f)
static const struct option table[] = {
    {"json", 0, OPTION_BOOL, FIELD(json), NULL, 0, 0, NULL, "one JSON object"},
    {"quick", 0, OPTION_BOOL, FIELD(quick), NULL, 0, 0, NULL, "3 rounds instead of 7"},
    {"rounds", 0, OPTION_INT, FIELD(rounds), "N", 1, BENCH_MAX_ROUNDS, NULL, "so many rounds"},
    {"ttm", 0, OPTION_BOOL, FIELD(ttm), NULL, 0, 0, NULL,
     "the ways to apply the model's Tensor-Train layers instead, each beside its prediction"},
    {"train", 0, OPTION_BOOL, FIELD(train), NULL, 0, 0, NULL,
     "steps of training instead, without DIR; see ttm bench --train --help"},
    {"threads", 0, OPTION_INT, FIELD(threads), "N", 0, 1024, NULL,
     "compute threads; 0 = all that may be used"},
    DTYPE_OPTION(FIELD(dtype)),
    {"decode-rows", 0, OPTION_INT, FIELD(decode_rows), "N", 0, 1024, NULL,
     "sequences that decoding is planned for in Tensor-Train layers; 0 = as the daemon does"},
    {"memory-budget", 0, OPTION_INT, FIELD(memory_budget), "BYTES", 0, 0x1p50, NULL,
     "for all weights; 0 = Tensor-Train layers stay smaller than dense ones"},
    {"kv-dtype", 0, OPTION_STRING, FIELD(kv_dtype), "T", 0, 0, "auto|f32|f16|int8",
     "element type of the KV cache (default auto: int8 with int8 weights, else f16)"},
    {"kernels", 0, OPTION_STRING, FIELD(kernels), "NAME", 0, 0, NULL,
     "instruction set: scalar, avx2, avx512, neon; avx512+avx512vnni: 8 bits without AMX (default: "
     "the fastest)"},
};
static const struct options options = {
    .command = "bench",
    .arguments = "DIR",
    .n_arguments = 1,
    .about =
        "Prefill and decode rates of the model in DIR, beside the machine's limits measured in\n"
        "the same run.",
    .table = table,
    .n = sizeof table / sizeof *table,
};

struct bench {
    const struct tool *tool;
    struct bench_result result;
    struct compute compute;
    struct gpt2 *model;
    struct machine *machine;
    struct kv_store kv;
    int32_t *blocks; /* of all decode sequences, then of the prefill */
    int blocks_per_seq, max_prefill;
    int32_t *tokens;                  /* (max_prefill) */
    float *hidden, *logits, *scratch; /* parts of one mapping */
    void *memory;
    size_t memory_bytes;
    struct packed own; /* (OWN_N, OWN_N) for our own product */
    float *own_x, *own_y;
};

static int blocks_for(int positions)
{
    return (positions + KV_BLOCK - 1) / KV_BLOCK;
}

static double seconds_since(uint64_t start)
{
    return (double)(clock_ns() - start) / (double)CLOCK_NS_PER_S;
}

/* ---- one sample of each kind: a rate ---- */

static void prefill(struct bench *b, int n, const int32_t *blocks)
{
    struct gpt2_seq seq = {.tokens = b->tokens, .n = n, .blocks = blocks};
    struct gpt2_step step = {.seqs = &seq, .n_seqs = 1};
    int32_t last = n - 1;
    gpt2_forward(b->model, &b->compute, &b->kv, &step, b->hidden, b->scratch);
    gpt2_logits(b->model, &b->compute, b->hidden, &last, 1, b->logits, b->scratch);
}

static double sample_prefill(struct bench *b, int n)
{
    uint64_t start = clock_ns();
    prefill(b, n, b->blocks + MAX_BATCH * b->blocks_per_seq);
    return n / seconds_since(start);
}

static void decode(struct bench *b, int batch)
{
    struct gpt2_seq seqs[MAX_BATCH];
    struct gpt2_step step = {.seqs = seqs, .n_seqs = batch, .n_decode = batch};
    for (int i = 0; i < batch; i++)
        seqs[i] = (struct gpt2_seq){.tokens = b->tokens + i % b->max_prefill,
                                    .n = 1,
                                    .pos0 = b->result.context - 1,
                                    .blocks = b->blocks + i * b->blocks_per_seq};
    gpt2_forward(b->model, &b->compute, &b->kv, &step, b->hidden, b->scratch);
    gpt2_logits(b->model, &b->compute, b->hidden, NULL, batch, b->logits, b->scratch);
}

static double sample_decode(struct bench *b, int batch)
{
    const int steps = batch <= 4 ? 8 : 4;
    uint64_t start = clock_ns();
    for (int i = 0; i < steps; i++)
        decode(b, batch);
    return batch * steps / seconds_since(start);
}

/* One step after the other has read all of the large buffer: where the last-level cache holds the weights, a
 * daemon that was busy with nothing else still finds them there, so that steps in a row say little about memory. */
static double sample_cold(struct bench *b)
{
    const int steps = 2;
    double seconds = 0;
    for (int i = 0; i < steps; i++) {
        machine_read_bandwidth(b->machine, b->compute.k);
        uint64_t start = clock_ns();
        decode(b, 1);
        seconds += seconds_since(start);
    }
    return steps / seconds;
}

static double sample_own(struct bench *b)
{
    uint64_t start = clock_ns();
    matmul(&b->compute, b->own_x, OWN_N, OWN_N, &b->own, b->own_y, OWN_N, NULL);
    return 2.0 * OWN_N * OWN_N * OWN_N / seconds_since(start);
}

static double sample(struct bench *b, const struct bench_point *p)
{
    switch (p->kind) {
    case BENCH_BLAS:
        return machine_sgemm_peak(b->machine);
    case BENCH_OWN:
        return sample_own(b);
    case BENCH_INT8:
        return machine_int8_peak(b->machine, b->compute.k->int8);
    case BENCH_READ:
        return machine_read_bandwidth(b->machine, b->compute.k);
    case BENCH_PREFILL:
        return sample_prefill(b, p->size);
    case BENCH_COLD:
        return sample_cold(b);
    case BENCH_DECODE:
        return sample_decode(b, p->size);
    }
    BUG("point of kind %d", (int)p->kind);
}

/* ---- preparation ---- */

static void add_point(struct bench_result *r, enum bench_kind kind, int size)
{
    BUG_ON(r->n_points == BENCH_MAX_POINTS);
    r->points[r->n_points++] = (struct bench_point){.kind = kind, .size = size};
}

/* What is to be compared stands side by side. */
static void add_points(struct bench *b)
{
    struct bench_result *r = &b->result;
    int positions = b->model->cfg.n_positions;
    int shorter = positions < 128 ? positions : 128;
    b->max_prefill = positions < 512 ? positions : 512;
    r->context = positions < CONTEXT ? positions : CONTEXT;
    add_point(r, BENCH_OWN, 0);
    add_point(r, BENCH_BLAS, 0);
    add_point(r, BENCH_INT8, 0);
    add_point(r, BENCH_PREFILL, b->max_prefill);
    if (shorter < b->max_prefill) add_point(r, BENCH_PREFILL, shorter);
    add_point(r, BENCH_READ, 0);
    add_point(r, BENCH_COLD, 1);
    add_point(r, BENCH_DECODE, 1);
    for (int batch = 2; batch <= MAX_BATCH; batch *= 2)
        add_point(r, BENCH_DECODE, batch);
}

static int map_memory(struct bench *b, struct err *err)
{
    const struct gpt2_config *c = &b->model->cfg;
    size_t rows = (size_t)(b->max_prefill > MAX_BATCH ? b->max_prefill : MAX_BATCH);
    size_t channels = (size_t)c->n_embd, align = 16;
    size_t hidden = mem_round_up(rows * channels, align);
    size_t logits = mem_round_up(MAX_BATCH * (size_t)c->vocab_size, align);
    size_t scratch = gpt2_scratch_floats(b->model, (int)rows, b->result.threads);
    if (scratch < gpt2_logits_floats(b->model, MAX_BATCH))
        scratch = gpt2_logits_floats(b->model, MAX_BATCH);
    if (scratch < MAX_BATCH * channels) scratch = MAX_BATCH * channels;
    scratch = mem_round_up(scratch, align);
    size_t own = (size_t)OWN_N * OWN_N;
    b->memory_bytes = (hidden + logits + scratch + 2 * own) * sizeof(float);
    int rc = mem_map(&b->memory, b->memory_bytes, "rows and logits", err);
    if (rc) return rc;
    b->hidden = b->memory;
    b->logits = b->hidden + hidden;
    b->scratch = b->logits + logits;
    b->own_x = b->scratch + scratch;
    b->own_y = b->own_x + own;
    for (size_t i = 0; i < 2 * own; i++)
        b->own_x[i] = (float)(i % 17) / 17;
    rc = packed_init(&b->own, DTYPE_F32, OWN_N, OWN_N, "a matrix to measure with", err);
    const struct pack_source src = {.data = b->own_x, .dtype = DTYPE_F32};
    if (rc == 0) packed_fill(&b->own, &src, 0, packed_panels(OWN_N));
    return rc;
}

/* Sequences of random tokens: one is computed, the others get copies of its keys and values. */
static int make_sequences(struct bench *b, enum dtype kv_dtype, struct err *err)
{
    b->blocks_per_seq = blocks_for(b->result.context);
    int n_blocks = MAX_BATCH * b->blocks_per_seq + blocks_for(b->max_prefill);
    int rc = kv_store_init(&b->kv, &b->model->cfg, kv_dtype, n_blocks, err);
    if (rc) return rc;
    b->blocks = mem_calloc((size_t)n_blocks, sizeof *b->blocks);
    for (int i = 0; i < n_blocks; i++)
        b->blocks[i] = i;
    b->tokens = mem_calloc((size_t)b->max_prefill, sizeof *b->tokens);
    for (int i = 0; i < b->max_prefill; i++) {
        uint32_t bits[4];
        rng_bits(1, 0, (uint64_t)i, bits);
        b->tokens[i] = (int32_t)(bits[0] % (uint32_t)b->model->cfg.vocab_size);
    }
    prefill(b, b->result.context, b->blocks);
    size_t bytes = (size_t)b->blocks_per_seq * b->kv.block_bytes;
    for (size_t i = 1; i < MAX_BATCH; i++)
        memcpy((char *)b->kv.base + i * bytes, b->kv.base, bytes);
    return 0;
}

static void on_progress(void *arg, double fraction)
{
    progress_set(arg, fraction, NULL);
}

static int prepare(struct bench *b, const struct bench_args *a, struct err *err)
{
    struct bench_result *r = &b->result;
    r->rounds = a->rounds ? (int)a->rounds : a->quick ? 3 : 7;
    r->blas_core = cpu_blas_core();
    b->compute.k = kernels_choose(&b->tool->cpu, a->kernels);
    if (!b->compute.k)
        return err_set_param(err, ERR_INVALID, "kernels",
                             "--kernels: \"%.40s\" is unknown or cannot run on this CPU",
                             a->kernels);
    r->kernels = b->compute.k->name;
    r->int8 = b->compute.k->int8->name;
    int rc = pool_new(&b->compute.pool, cpu_threads(&b->tool->cpu, (int)a->threads), err);
    if (rc) return rc;
    r->threads = pool_threads(b->compute.pool);
    struct progress bar;
    progress_start(&bar, b->tool->log, "loading");
    const struct gpt2_options how = {.dtype = (enum gpt2_dtype)gpt2_dtype_parse(a->dtype),
                                     .decode_rows = (int)a->decode_rows,
                                     .memory_budget_bytes = (size_t)a->memory_budget,
                                     .cpu = &b->tool->cpu,
                                     .rates_file = "auto",
                                     .progress = on_progress,
                                     .progress_arg = &bar};
    rc = gpt2_open_with(&b->model, r->dir, &b->compute, &how, err);
    progress_end(&bar);
    if (rc) return rc;
    r->model = b->model;
    r->kv_dtype =
        (enum dtype)kv_dtype_parse(a->kv_dtype, b->model->dtype); /* the flag is checked */
    add_points(b);
    rc = map_memory(b, err);
    if (rc == 0) rc = make_sequences(b, r->kv_dtype, err);
    if (rc == 0) rc = machine_open(&b->machine, b->compute.pool, &b->tool->cpu, err);
    if (rc == 0) r->read_bytes = machine_read_bytes(b->machine);
    return rc;
}

static void release(struct bench *b)
{
    machine_close(b->machine);
    kv_store_release(&b->kv);
    packed_release(&b->own);
    mem_unmap(b->memory, b->memory_bytes);
    gpt2_close(b->model);
    pool_free(b->compute.pool);
    free(b->blocks);
    free(b->tokens);
}

static int measure(struct bench *b, struct err *err)
{
    struct bench_result *r = &b->result;
    struct progress bar;
    progress_start(&bar, b->tool->log, "measuring");
    int rc = 0;
    for (int i = -1; !rc && i < r->rounds; i++) { /* round -1 warms up */
        for (int k = 0; !rc && k < r->n_points; k++) {
            double rate = sample(b, &r->points[k]);
            if (i >= 0) r->points[k].rate[i] = rate;
            if (tool_stopped(b->tool)) rc = tool_interrupted(err);
            double done = (double)((i + 1) * r->n_points + k + 1);
            progress_set(&bar, done / (double)((r->rounds + 1) * r->n_points), NULL);
        }
    }
    progress_end(&bar);
    return rc;
}

int cmd_bench(const struct tool *t, int argc, char **argv, struct err *err)
{
    struct bench_args a = {.kv_dtype = "auto", .dtype = "auto"};
    struct bench b = {.tool = t};
    for (int i = 0; i < argc; i++)
        if (!strcmp(argv[i], "--train")) return bench_train(t, argc, argv, err);
    int rc = options_parse(&options, &a, &b.result.dir, argc, argv, t->out, err);
    if (rc) return rc == OPTIONS_HELP ? 0 : rc;
    if (a.ttm) {
        const struct bench_ttm_args q = {.dir = b.result.dir,
                                         .kernels = a.kernels,
                                         .threads = (int)a.threads,
                                         .rounds = a.rounds  ? (int)a.rounds
                                                   : a.quick ? 3
                                                             : 0,
                                         .dtype = !strcmp(a.dtype, "int8")   ? DTYPE_I8
                                                  : !strcmp(a.dtype, "bf16") ? DTYPE_BF16
                                                                             : DTYPE_F32,
                                         .json = a.json};
        return bench_ttm(t, &q, err);
    }
    rc = prepare(&b, &a, err);
    if (rc == 0) rc = measure(&b, err);
    if (rc == 0) bench_print(&b.result, a.json, t->out);
    release(&b);
    return rc;
}
