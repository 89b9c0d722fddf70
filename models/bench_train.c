/* ttm bench --train. Memory is the kernel's figure, not a sum of what the program believes to have
 * allocated: the peak of the resident set while one layer goes forward and backward, less what was there
 * before. It comes first, since a peak cannot be taken back. Speed is measured as in ttm bench: limits
 * and models in turn, round by round, and ratios within a round are what counts on a shared machine.
 *
 * A step is everything that a step of ttm train is but reading the text: gradients set to zero, loss and
 * gradients, AdamW. Operations are counted as everybody does, 6 for each parameter in a matrix product
 * and token, TTM layers as the dense ones that they stand for. */
#include "models/bench_train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/kernels/machine.h"
#include "engine/ttm/ttm.h"
#include "models/bench.h"
#include "models/progress.h"
#include "models/train/optim.h"
#include "models/train/trainer.h"

struct args {
    bool train, json, quick;
    int64_t threads, rounds, tokens, batch;
    const char *kernels, *layer;
    int64_t layer_rank;
    struct sizes sizes;
    struct train_args ttm; /* its ttm_ fields */
};
#define FIELD(f) offsetof(struct args, f)
#define COUNT(name, f, max, help)                              \
    {                                                          \
        name, 0, OPTION_INT, FIELD(f), "N", 1, max, NULL, help \
    }
static const struct option table[] = {
    {"train", 0, OPTION_BOOL, FIELD(train), NULL, 0, 0, NULL, "this"},
    {"json", 0, OPTION_BOOL, FIELD(json), NULL, 0, 0, NULL, "one JSON object"},
    {"quick", 0, OPTION_BOOL, FIELD(quick), NULL, 0, 0, NULL, "3 rounds instead of 7"},
    COUNT("rounds", rounds, BENCH_MAX_ROUNDS, "so many rounds"),
    {"threads", 0, OPTION_INT, FIELD(threads), "N", 0, 1024, NULL,
     "compute threads; 0 = all that may be used"},
    {"kernels", 0, OPTION_STRING, FIELD(kernels), "NAME", 0, 0, NULL,
     "instruction set: scalar, avx2, avx512, neon (default: the fastest)"},
    COUNT("layers", sizes.layers, SIZES_MAX_LAYERS, "of the model (default 6)"),
    COUNT("channels", sizes.channels, SIZES_MAX, "its width (default 384)"),
    COUNT("heads", sizes.heads, SIZES_MAX, "attention heads (default 6)"),
    COUNT("block", sizes.positions, SIZES_MAX, "tokens of a sequence (default 256)"),
    COUNT("vocab", sizes.vocab, SIZES_MAX, "token ids (default 8192)"),
    COUNT("batch", batch, 65536, "sequences of a step (default 8)"),
    COUNT("ttm-rank", ttm.ttm_rank, 1 << 20, "of the TTM model's MLPs (default 32)"),
    {"ttm-shape", 0, OPTION_STRING, FIELD(ttm.ttm_shape), "S", 0, 0, NULL,
     "of its c_fc, c_proj mirrors it (default: the paper's)"},
    {"layer", 0, OPTION_STRING, FIELD(layer), "S", 0, 0, NULL,
     "shape of the layer whose memory is measured (default \"(8,8)(8,8)(12,12)(1,3)\")"},
    COUNT("layer-rank", layer_rank, 1 << 20, "its rank (default 16)"),
    COUNT("tokens", tokens, 1 << 24, "its rows (default 16384)"),
};
static const struct options options = {
    .command = "bench --train",
    .arguments = "",
    .about =
        "Memory of one TTM layer forward and backward, and steps of training, dense and with TTM\n"
        "MLPs, beside the machine's SGEMM measured in the same rounds.",
    .table = table,
    .n = sizeof table / sizeof *table,
};

/* A model in training, without texts. */
struct twin {
    struct net net;
    float *w, *grad;
    struct backprop *backprop;
    struct optim optim;
    uint64_t step;
};

struct bench {
    const struct tool *tool;
    const struct args *a;
    struct compute compute;
    struct machine *machine;
    /* memory */
    struct ttm_grad_plan plan;
    size_t io_bytes, scratch_bytes, peak_bytes;
    double layer_s; /* forward and backward */
    /* speed */
    struct twin dense, ttm;
    struct backprop_batch batch;
    int32_t *tokens, *targets;
    struct bench_result result; /* for its medians */
    struct bench_point peak, dense_rate, ttm_rate;
};

/* ---- memory ---- */

/* A line of /proc/self/status, in bytes; 0 when it is not there. */
static size_t status_bytes(const char *key)
{
    char line[128];
    size_t kib = 0;
    FILE *f = fopen("/proc/self/status", "re");
    if (!f) return 0;
    while (!kib && fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0) kib = strtoull(line + strlen(key), NULL, 10);
    fclose(f);
    return kib << 10;
}

static int layer_shape(struct ttm_shape *s, const struct args *a, struct err *err)
{
    int rc = ttm_shape_parse(s, a->layer, "--layer", err);
    if (rc) return rc;
    ttm_shape_cap_left(s, (int)a->layer_rank);
    return ttm_shape_check(s, "--layer", err);
}

/* Allocated, touched, computed and freed between two looks at the resident set. */
static int run_layer(struct bench *b, struct ttm *w, struct ttm *d, struct err *err)
{
    const struct ttm_shape *s = &b->plan.shape;
    size_t t = b->plan.tokens, in = (size_t)s->in, out = (size_t)s->out;
    size_t sizes[5] = {t * in, t * out, t * in, t * out, b->plan.scratch_floats};
    void *p[5] = {0};
    int rc = 0;
    for (int i = 0; !rc && i < 5; i++)
        rc = mem_map(&p[i], sizes[i] * sizeof(float), "rows of a layer", err);
    if (!rc) {
        float *x = p[0], *y = p[1], *dx = p[2], *dy = p[3], *cores[TTM_MAX_CORES];
        const float *const *fixed = (const float *const *)w->core;
        for (int k = 0; k < s->d; k++)
            cores[k] = d->core[k];
        rng_normal_fill(x, t * in, 1, 1, 1);
        rng_normal_fill(dy, t * out, 1, 1, 2);
        uint64_t start = clock_ns();
        ttm_grad_forward(&b->plan, &b->compute, fixed, x, t, y, p[4]);
        ttm_grad_backward(&b->plan, &b->compute, fixed, x, dy, t, dx, cores, p[4]);
        b->layer_s = (double)(clock_ns() - start) / (double)CLOCK_NS_PER_S;
    }
    for (int i = 0; i < 5; i++)
        mem_unmap(p[i], sizes[i] * sizeof(float));
    return rc;
}

static int measure_layer(struct bench *b, struct err *err)
{
    struct ttm_shape s;
    struct ttm w = {0}, d = {0};
    size_t before = status_bytes("VmRSS:");
    int rc = layer_shape(&s, b->a, err);
    if (rc) return rc;
    ttm_grad_plan(&b->plan, &s, (size_t)b->a->tokens, TTM_ROUTE_AUTO, b->result.threads);
    b->io_bytes = 2 * b->plan.tokens * ((size_t)s.in + (size_t)s.out) * sizeof(float);
    b->scratch_bytes = b->plan.scratch_floats * sizeof(float);
    rc = ttm_init(&w, &s, "a layer", err);
    if (!rc) rc = ttm_init(&d, &s, "its gradients", err);
    if (!rc) rc = ttm_random(&w, 0.02, 1, 1, "--layer", err);
    if (!rc) rc = run_layer(b, &w, &d, err);
    ttm_release(&w);
    ttm_release(&d);
    size_t peak = status_bytes("VmHWM:");
    b->peak_bytes = peak > before ? peak - before : 0;
    return rc;
}

/* ---- speed ---- */

static int twin_open(struct twin *m, struct bench *b, const struct gpt2_config *cfg,
                     const net_shapes *shapes, struct err *err)
{
    const struct backprop_options o = {.sequences = b->batch.sequences,
                                       .length = b->batch.length,
                                       .backward = true,
                                       .route = TTM_ROUTE_AUTO};
    const struct optim_options oo = {
        .beta1 = 0.9F, .beta2 = 0.95F, .eps = 1e-8F, .decay = 0.1F, .clip = 1};
    void *w = NULL, *grad = NULL;
    int rc = net_init(&m->net, cfg, false, shapes, err);
    if (!rc) rc = mem_map(&w, m->net.floats * sizeof(float), "parameters", err);
    m->w = w;
    if (!rc) rc = mem_map(&grad, m->net.floats * sizeof(float), "gradients", err);
    m->grad = grad;
    if (!rc) rc = net_random(&m->net, m->w, 1, err);
    if (!rc) rc = backprop_new(&m->backprop, &m->net, &o, &b->compute, err);
    if (!rc) rc = optim_init(&m->optim, &m->net, &oo, err);
    return rc;
}

static void twin_close(struct twin *m)
{
    backprop_free(m->backprop);
    optim_release(&m->optim);
    mem_unmap(m->w, m->net.floats * sizeof(float));
    mem_unmap(m->grad, m->net.floats * sizeof(float));
    net_release(&m->net);
}

static double sample(struct twin *m, const struct bench *b)
{
    struct backprop_loss loss;
    size_t n = b->batch.sequences * b->batch.length;
    uint64_t start = clock_ns();
    memset(m->grad, 0, m->net.floats * sizeof(float));
    backprop_step(m->backprop, m->w, &b->batch, 1.0F / (float)n, m->grad, &loss);
    optim_step(&m->optim, &b->compute, m->w, m->grad, 1e-4F, ++m->step);
    return (double)n * (double)CLOCK_NS_PER_S / (double)(clock_ns() - start);
}

static int prepare(struct bench *b, struct err *err)
{
    struct gpt2_config cfg;
    int rc = sizes_resolve(&b->a->sizes, &cfg, err);
    if (rc) return rc;
    cfg.activation = ACT_GELU_NEW;
    cfg.tie_word_embeddings = true;
    size_t n = (size_t)b->a->batch * (size_t)cfg.n_positions;
    b->tokens = mem_alloc(n * sizeof *b->tokens);
    b->targets = mem_alloc(n * sizeof *b->targets);
    for (size_t i = 0; i < n; i++) {
        uint32_t r[4];
        rng_bits(1, 0, i, r);
        b->tokens[i] = (int32_t)(r[0] % (uint32_t)cfg.vocab_size);
        b->targets[i] = (int32_t)(r[1] % (uint32_t)cfg.vocab_size);
    }
    b->batch = (struct backprop_batch){.tokens = b->tokens,
                                       .targets = b->targets,
                                       .sequences = (size_t)b->a->batch,
                                       .length = (size_t)cfg.n_positions};
    net_shapes *shapes = mem_alloc((size_t)cfg.n_layer * sizeof *shapes);
    rc = trainer_shapes(&b->a->ttm, &cfg, shapes, err);
    if (!rc) rc = twin_open(&b->dense, b, &cfg, NULL, err);
    if (!rc) rc = twin_open(&b->ttm, b, &cfg, shapes, err);
    free(shapes);
    return rc ? rc : machine_open(&b->machine, b->compute.pool, &b->tool->cpu, err);
}

static int measure(struct bench *b, struct err *err)
{
    struct progress bar;
    int rc = 0;
    progress_start(&bar, b->tool->log, "measuring");
    sample(&b->dense, b); /* warms up: pages are touched */
    sample(&b->ttm, b);
    for (int i = 0; !rc && i < b->result.rounds; i++) {
        b->peak.rate[i] = machine_sgemm_peak(b->machine);
        b->dense_rate.rate[i] = sample(&b->dense, b);
        b->ttm_rate.rate[i] = sample(&b->ttm, b);
        if (tool_stopped(b->tool)) rc = tool_interrupted(err);
        progress_set(&bar, (double)(i + 1) / (double)b->result.rounds, NULL);
    }
    progress_end(&bar);
    return rc;
}

/* ---- report ---- */

struct figures {
    double peak, dense, ttm, of_peak, ratio, memory, flops;
    size_t dense_mlps, ttm_mlps;
};

static size_t mlp_params(const struct net *net)
{
    size_t n = 0;
    for (int i = 0; i < net->cfg.n_layer; i++)
        for (int j = NET_FC; j <= NET_MLP_PROJ; j++) {
            const struct net_linear *l = &net->layers[i].linear[j];
            n += l->ttm ? ttm_shape_params(&l->shape) : l->in * l->out;
        }
    return n;
}

static void get_figures(const struct bench *b, struct figures *x)
{
    *x = (struct figures){.peak = bench_median(&b->result, &b->peak, NULL),
                          .dense = bench_median(&b->result, &b->dense_rate, NULL),
                          .ttm = bench_median(&b->result, &b->ttm_rate, NULL),
                          .flops = 6.0 * (double)net_matmul_params(&b->dense.net),
                          .memory = (double)b->peak_bytes / (double)b->io_bytes,
                          .dense_mlps = mlp_params(&b->dense.net),
                          .ttm_mlps = mlp_params(&b->ttm.net)};
    x->of_peak = bench_median(&b->result, &b->dense_rate, &b->peak) * x->flops;
    x->ratio = bench_median(&b->result, &b->ttm_rate, &b->dense_rate);
}

static const char *route_name(const struct ttm_grad_plan *p)
{
    return p->route == TTM_ROUTE_DENSE ? "dense gradient" : "per core";
}

static void print_json(const struct bench *b, const struct figures *x, FILE *f)
{
    fprintf(f, "{\"threads\": %d, \"kernels\": \"%s\", \"blas_core\": \"%s\", \"rounds\": %d,\n",
            b->result.threads, b->compute.k->name, b->result.blas_core, b->result.rounds);
    fprintf(f, " \"layer\": {\"tokens\": %zu, \"in\": %d, \"out\": %d, \"route\": \"%s\", ",
            b->plan.tokens, b->plan.shape.in, b->plan.shape.out, route_name(&b->plan));
    fprintf(f, "\"rows_bytes\": %zu, \"scratch_bytes\": %zu, \"peak_bytes\": %zu, ", b->io_bytes,
            b->scratch_bytes, b->peak_bytes);
    fprintf(f, "\"peak_over_rows\": %.4f, \"seconds\": %.4g},\n", x->memory, b->layer_s);
    fprintf(f, " \"dense\": {\"params\": %zu, \"mlp_params\": %zu, \"tokens_per_s\": %.6g},\n",
            b->dense.net.params, x->dense_mlps, x->dense);
    fprintf(f, " \"ttm\": {\"params\": %zu, \"mlp_params\": %zu, \"tokens_per_s\": %.6g},\n",
            b->ttm.net.params, x->ttm_mlps, x->ttm);
    fprintf(f, " \"token_flops\": %.0f, \"sgemm_openblas_flops\": %.6g,\n", x->flops, x->peak);
    fprintf(f, " \"ratios\": {\"dense_of_sgemm\": %.4f, \"ttm_over_dense\": %.4f}}\n", x->of_peak,
            x->ratio);
}

static void print_text(const struct bench *b, const struct figures *x, FILE *f)
{
    char shape[TTM_SHAPE_TEXT], fc[TTM_SHAPE_TEXT], ranks[TTM_SHAPE_TEXT];
    const struct ttm_grad_plan *route = backprop_route(b->ttm.backprop, 0, NET_FC);
    const double mib = 1 << 20;
    ttm_shape_format(&b->plan.shape, shape);
    ttm_shape_format(&route->shape, fc);
    ttm_shape_format_ranks(&route->shape, ranks);
    fprintf(f, "%d threads, kernels %s, OpenBLAS %s; medians of %d interleaved rounds\n\n",
            b->result.threads, b->compute.k->name, b->result.blas_core, b->result.rounds);
    fprintf(f, "one TTM layer %s, rank %d, %zu tokens, forward and backward\n", shape,
            (int)b->a->layer_rank, b->plan.tokens);
    fprintf(f, "  x, y and their gradients %8.1f MiB\n", (double)b->io_bytes / mib);
    fprintf(f, "  peak of resident memory  %8.1f MiB  %.3f of it (scratch %.1f MiB, route: %s)\n",
            (double)b->peak_bytes / mib, x->memory, (double)b->scratch_bytes / mib,
            route_name(&b->plan));
    fprintf(f, "\noptimiser steps of %zu x %zu tokens\n", b->batch.sequences, b->batch.length);
    fprintf(f, "  SGEMM, OpenBLAS   %8.1f GFLOP/s\n", x->peak / 1e9);
    fprintf(f, "  dense, %5.1f M    %8.1f tokens/s   %6.1f GFLOP/s, %.2f of SGEMM\n",
            (double)b->dense.net.params / 1e6, x->dense, x->dense * x->flops / 1e9, x->of_peak);
    fprintf(f, "  TTM,   %5.1f M    %8.1f tokens/s   %.2f of dense\n",
            (double)b->ttm.net.params / 1e6, x->ttm, x->ratio);
    fprintf(f,
            "\nTTM: c_fc is %s, ranks %s, route: %s; MLPs have %.2f of their dense parameters.\n"
            "Counted: 6 operations for each of %.1f M parameters in matrix products and token.\n",
            fc, ranks, route_name(route), (double)x->ttm_mlps / (double)x->dense_mlps,
            x->flops / 6e6);
}

int bench_train(const struct tool *t, int argc, char **argv, struct err *err)
{
    struct args a = {.tokens = 16384,
                     .batch = 8,
                     .layer = "(8,8)(8,8)(12,12)(1,3)",
                     .layer_rank = 16,
                     .sizes = {.preset = "tiny",
                               .layers = 6,
                               .channels = 384,
                               .heads = 6,
                               .positions = 256,
                               .vocab = 8192},
                     .ttm = {.ttm_rank = 32, .ttm_layers = "mlp"}};
    struct bench b = {.tool = t, .a = &a};
    int rc = options_parse(&options, &a, NULL, argc, argv, t->out, err);
    if (rc) return rc == OPTIONS_HELP ? 0 : rc;
    b.result.rounds = a.rounds ? (int)a.rounds : a.quick ? 3 : 7;
    b.result.blas_core = cpu_blas_core();
    b.compute.k = kernels_choose(&t->cpu, a.kernels);
    if (!b.compute.k)
        return err_set_param(err, ERR_INVALID, "kernels",
                             "--kernels: \"%.40s\" is unknown or cannot run here", a.kernels);
    rc = pool_new(&b.compute.pool, cpu_threads(&t->cpu, (int)a.threads), err);
    if (!rc) b.result.threads = pool_threads(b.compute.pool);
    if (!rc) rc = measure_layer(&b, err);
    if (!rc) rc = prepare(&b, err);
    if (!rc) rc = measure(&b, err);
    if (!rc) {
        struct figures x;
        get_figures(&b, &x);
        (a.json ? print_json : print_text)(&b, &x, t->out);
    }
    machine_close(b.machine);
    twin_close(&b.dense);
    twin_close(&b.ttm);
    free(b.tokens);
    free(b.targets);
    pool_free(b.compute.pool);
    return rc;
}
