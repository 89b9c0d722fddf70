/* The figures of `ttm bench`, and the ratios that can be compared between machines: of what the memory
 * and the multipliers could do, how much is used. Absolute rates on a shared machine say little. */
#include "models/bench.h"

#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double bench_median(const struct bench_result *r, const struct bench_point *p,
                    const struct bench_point *over)
{
    double v[BENCH_MAX_ROUNDS] = {0};
    size_t n = (size_t)r->rounds;
    BUG_ON(n == 0 || n > BENCH_MAX_ROUNDS);
    for (size_t i = 0; i < n; i++)
        v[i] = over ? p->rate[i] / over->rate[i] : p->rate[i];
    qsort(v, n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static const struct bench_point *point(const struct bench_result *r, enum bench_kind kind, int size)
{
    for (int i = 0; i < r->n_points; i++)
        if (r->points[i].kind == kind && r->points[i].size == size) return &r->points[i];
    BUG("no point %d of size %d", (int)kind, size);
}

double bench_step_bytes(const struct bench_result *r, int batch)
{
    const struct gpt2 *m = r->model;
    const struct gpt2_config *c = &m->cfg;
    size_t unused = (size_t)c->n_positions * (size_t)c->n_embd * sizeof(float) + m->wte.bytes;
    for (int i = 0; i < m->n_ttm; i++) { /* what only the prefill plan reads */
        const struct ttm_linear *l = m->ttm[i].linear->ttm;
        unused +=
            ttm_linear_bytes(l) - ttm_plan_bytes(ttm_linear_plan(l, TTM_DECODE), m->ttm_dtype);
    }
    size_t kv = (size_t)r->context * kv_block_bytes(c, r->kv_dtype) / KV_BLOCK;
    return (double)(m->weight_bytes - unused) + (double)batch * (double)kv;
}

double bench_token_flops(const struct gpt2 *m)
{
    double sum = 0;
    for (int i = 0; i < m->cfg.n_layer; i++) {
        const struct gpt2_layer *l = &m->layers[i];
        const struct linear *maps[] = {&l->c_attn, &l->attn_proj, &l->c_fc, &l->mlp_proj};
        for (size_t k = 0; k < sizeof maps / sizeof *maps; k++)
            sum += 2.0 * (double)maps[k]->in * (double)maps[k]->out;
    }
    return sum;
}

struct ratios {
    double blas, own, int8, read; /* FLOP/s, FLOP/s, 8-bit operations/s, bytes/s */
    double bandwidth;             /* decode at batch 1: bytes/s over read */
    double cold;                  /* the same with nothing in a cache */
    double batching;              /* batch 32 over batch 1 */
    double batching_8;            /* batch 8 over batch 1 */
    double prefill;               /* longest prefill: FLOP/s over blas */
    double prefill_int8;          /* the same over int8 */
    double kernel;                /* own over blas */
    int prefill_size;
};

static void get_ratios(const struct bench_result *r, struct ratios *x)
{
    const struct bench_point *blas = point(r, BENCH_BLAS, 0), *own = point(r, BENCH_OWN, 0),
                             *int8 = point(r, BENCH_INT8, 0), *read = point(r, BENCH_READ, 0),
                             *one = point(r, BENCH_DECODE, 1), *cold = point(r, BENCH_COLD, 1);
    *x = (struct ratios){.blas = bench_median(r, blas, NULL),
                         .own = bench_median(r, own, NULL),
                         .int8 = bench_median(r, int8, NULL),
                         .read = bench_median(r, read, NULL)};
    for (int i = 0; i < r->n_points; i++)
        if (r->points[i].kind == BENCH_PREFILL && r->points[i].size > x->prefill_size)
            x->prefill_size = r->points[i].size;
    x->bandwidth = bench_median(r, one, read) * bench_step_bytes(r, 1);
    x->cold = bench_median(r, cold, read) * bench_step_bytes(r, 1);
    x->batching = bench_median(r, point(r, BENCH_DECODE, 32), one);
    x->batching_8 = bench_median(r, point(r, BENCH_DECODE, 8), one);
    const struct bench_point *longest = point(r, BENCH_PREFILL, x->prefill_size);
    x->prefill = bench_median(r, longest, blas) * bench_token_flops(r->model);
    x->prefill_int8 = bench_median(r, longest, int8) * bench_token_flops(r->model);
    x->kernel = bench_median(r, own, blas);
}

static const char *const kind_names[] = {"sgemm_openblas", "sgemm_own",   "int8_dot", "memory_read",
                                         "prefill",        "decode_cold", "decode"};

static void print_json(const struct bench_result *r, const struct ratios *x, FILE *f)
{
    const struct gpt2 *m = r->model;
    fprintf(f, "{\"params\": %zu, \"dtype\": \"%s\", \"kv_dtype\": \"%s\", \"threads\": %d,\n",
            m->n_params, dtype_name(m->dtype), dtype_name(r->kv_dtype), r->threads);
    fprintf(f, " \"kernels\": \"%s\", \"blas_core\": \"%s\", \"rounds\": %d, \"context\": %d,\n",
            r->kernels, r->blas_core, r->rounds, r->context);
    fprintf(f, " \"read_buffer_bytes\": %zu, \"decode_step_bytes\": %.0f, \"token_flops\": %.0f,\n",
            r->read_bytes, bench_step_bytes(r, 1), bench_token_flops(m));
    fprintf(f, " \"limits\": {\"sgemm_openblas_flops\": %.6g, \"sgemm_own_flops\": %.6g, ", x->blas,
            x->own);
    fprintf(f, "\"int8_ops\": %.6g, ", x->int8);
    fprintf(f, "\"memory_read_bytes_per_s\": %.6g},\n \"rates\": [", x->read);
    for (int i = 0, n = 0; i < r->n_points; i++) {
        const struct bench_point *p = &r->points[i];
        if (p->kind < BENCH_PREFILL) continue;
        fprintf(f, "%s\n  {\"kind\": \"%s\", \"size\": %d, \"tokens_per_s\": %.6g}", n++ ? "," : "",
                kind_names[p->kind], p->size, bench_median(r, p, NULL));
    }
    fprintf(f, "],\n \"ratios\": {\"decode_1_of_memory_read\": %.4f, \"decode_32_over_1\": %.4f, ",
            x->bandwidth, x->batching);
    fprintf(f, "\"decode_8_over_1\": %.4f, \"decode_cold_of_memory_read\": %.4f, ", x->batching_8,
            x->cold);
    fprintf(f, "\"prefill_of_int8_dot\": %.4f, ", x->prefill_int8);
    fprintf(f, "\"prefill_of_sgemm_openblas\": %.4f, \"sgemm_own_over_openblas\": %.4f}}\n",
            x->prefill, x->kernel);
}

static void print_text(const struct bench_result *r, const struct ratios *x, FILE *f)
{
    const struct gpt2 *m = r->model;
    fprintf(f, "%s: %zu parameters, weights %s, KV cache %s\n", r->dir, m->n_params,
            dtype_name(m->dtype), dtype_name(r->kv_dtype));
    fprintf(f, "%d threads, kernels %s, OpenBLAS %s; medians of %d interleaved rounds\n\n",
            r->threads, r->kernels, r->blas_core, r->rounds);
    fprintf(f, "limits of this machine, now\n");
    fprintf(f, "  SGEMM, OpenBLAS       %8.1f GFLOP/s\n", x->blas / 1e9);
    fprintf(f, "  SGEMM, our kernel     %8.1f GFLOP/s\n", x->own / 1e9);
    fprintf(f, "  8-bit dot products    %8.1f Gop/s (in registers, %s)\n", x->int8 / 1e9, r->int8);
    fprintf(f, "  memory read           %8.1f GB/s (%.2f GB)\n", x->read / 1e9,
            (double)r->read_bytes / 1e9);
    fprintf(f, "\nmodel\n");
    for (int i = 0; i < r->n_points; i++) {
        const struct bench_point *p = &r->points[i];
        double rate = bench_median(r, p, NULL);
        if (p->kind == BENCH_PREFILL)
            fprintf(f, "  prefill %4d tokens   %8.1f tokens/s   %6.1f GFLOP/s\n", p->size, rate,
                    rate * bench_token_flops(m) / 1e9);
        double read = rate / p->size * bench_step_bytes(r, p->size) / 1e9;
        if (p->kind == BENCH_COLD)
            fprintf(f, "  decode, cold caches   %8.1f tokens/s   %6.1f GB/s\n", rate, read);
        if (p->kind == BENCH_DECODE)
            fprintf(f, "  decode, batch %-3d     %8.1f tokens/s   %6.1f GB/s\n", p->size, rate,
                    read);
    }
    fprintf(f, "\nratios\n");
    fprintf(f, "  decode at batch 1 reads     %.2f of the memory bandwidth\n", x->bandwidth);
    fprintf(f, "  ... with cold caches        %.2f\n", x->cold);
    fprintf(f, "  decode at batch 8 gives     %.2f times the tokens of batch 1\n", x->batching_8);
    fprintf(f, "  decode at batch 32 gives    %.2f times the tokens of batch 1\n", x->batching);
    fprintf(f, "  prefill of %d computes     %.2f of OpenBLAS's SGEMM\n", x->prefill_size,
            x->prefill);
    fprintf(f, "  prefill of %d computes     %.2f of the 8-bit dot products\n", x->prefill_size,
            x->prefill_int8);
    fprintf(f,
            "\ncounted: a decode step reads %.1f MB of weights (LM head included, embedding\n"
            "tables not) and %d positions of keys and values a sequence; a prefill token takes\n"
            "%.1f MFLOP, 2 x in x out of the layers' linear maps, dense or not (attention's\n"
            "products, embeddings and the LM head's last row are computed but not counted).\n",
            (bench_step_bytes(r, 0)) / 1e6, r->context, bench_token_flops(m) / 1e6);
}

void bench_print(const struct bench_result *r, bool json, FILE *f)
{
    struct ratios x;
    get_ratios(r, &x);
    (json ? print_json : print_text)(r, &x, f);
}
