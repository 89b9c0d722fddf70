/* The tables of `ttm bench --ttm`: for every kind of layer all ways at all numbers of rows, measured
 * beside predicted, and how good the planner's choice was. */
#include "models/bench_ttm_report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool counts(const struct bench_ttm_kind *kind, int i, bool compressed)
{
    const struct bench_ttm_way *q = &kind->ways[i];
    return q->kind == BENCH_TTM_PLAN && (!compressed || q->bytes < kind->dense_bytes);
}

static int least(const struct bench_ttm_kind *kind, int r, bool compressed, bool measured)
{
    int best = -1;
    double t = INFINITY;
    for (int i = 0; i < kind->n_ways; i++) {
        double v = measured ? kind->ways[i].measured[r] : kind->ways[i].predicted[r];
        if (!counts(kind, i, compressed) || v >= t) continue;
        t = v;
        best = i;
    }
    return best;
}

int bench_ttm_chosen(const struct bench_ttm_kind *kind, int r, bool compressed)
{
    return least(kind, r, compressed, false);
}

int bench_ttm_best(const struct bench_ttm_kind *kind, int r, bool compressed)
{
    return least(kind, r, compressed, true);
}

static void way_text(const struct bench_ttm_way *q, char text[TTM_PLAN_TEXT])
{
    ttm_plan_format(&q->plan, text);
    if (q->kind == BENCH_TTM_DENSE) snprintf(text, TTM_PLAN_TEXT, "dense layer");
    if (q->kind == BENCH_TTM_CHAIN) snprintf(text, TTM_PLAN_TEXT, "stored cores, left to right");
    if (q->kind == BENCH_TTM_PLAN && q->plan.method == TTM_REBUILD)
        snprintf(text, TTM_PLAN_TEXT, "rebuild at %d", q->plan.split);
}

static void print_ways(const struct bench_ttm_report *r, const struct bench_ttm_kind *k, FILE *f)
{
    char text[TTM_PLAN_TEXT];
    fprintf(f, "  %-38s %6s", "measured/predicted us", "MB");
    for (int i = 0; i < BENCH_TTM_ROWS; i++)
        fprintf(f, " %8zu rows", r->rows[i]);
    fputc('\n', f);
    for (int w = 0; w < k->n_ways; w++) {
        way_text(&k->ways[w], text);
        fprintf(f, "  %-38s %6.2f", text, (double)k->ways[w].bytes * 1e-6);
        for (int i = 0; i < BENCH_TTM_ROWS; i++)
            fprintf(f, " %6.0f/%6.0f", k->ways[w].measured[i] * 1e6, k->ways[w].predicted[i] * 1e6);
        fputc('\n', f);
    }
}

static double ratio(const struct bench_ttm_kind *k, int i, bool compressed)
{
    int chosen = bench_ttm_chosen(k, i, compressed), best = bench_ttm_best(k, i, compressed);
    return chosen < 0 ? NAN : k->ways[chosen].measured[i] / k->ways[best].measured[i];
}

static void print_choices(const struct bench_ttm_report *r, const struct bench_ttm_kind *k,
                          bool compressed, FILE *f)
{
    char text[TTM_PLAN_TEXT];
    fprintf(f, "\n  chosen, %s\n", compressed ? "smaller than dense (the default)" : "any memory");
    for (int i = 0; i < BENCH_TTM_ROWS; i++) {
        int c = bench_ttm_chosen(k, i, compressed);
        if (c < 0) continue;
        way_text(&k->ways[c], text);
        fprintf(f, "  %4zu rows  %-38s %5.2f x the best measured, %5.2f x dense, %5.2f x chain\n",
                r->rows[i], text, ratio(k, i, compressed),
                k->ways[c].measured[i] / k->ways[0].measured[i],
                k->ways[c].measured[i] / k->ways[k->stored.d > 1].measured[i]);
    }
}

static void print_text(const struct bench_ttm_report *r, FILE *f)
{
    const struct ttm_rates *m = &r->rates;
    fprintf(f, "%s: %d threads, kernels %s; the best of %d interleaved rounds\n", r->dir,
            r->threads, r->kernels, r->rounds);
    fprintf(f,
            "rates: %.1f GFLOP/s at 1 row, %.1f at many; %.1f GB/s, %.1f from %.0f MB of cache; "
            "%.1f us a product\n",
            m->flops_few * 1e-9, m->flops_many * 1e-9, m->dram * 1e-9, m->cache * 1e-9,
            (double)m->cache_bytes * 1e-6, m->overhead_s * 1e6);
    for (int i = 0; i < r->n_kinds; i++) {
        const struct bench_ttm_kind *k = &r->kinds[i];
        char shape[TTM_SHAPE_TEXT], ranks[TTM_SHAPE_TEXT];
        ttm_shape_format(&k->stored, shape);
        ttm_shape_format_ranks(&k->rounded, ranks);
        fprintf(f, "\n%s: %d -> %d, cores %s, ranks %s\n", k->name, k->stored.in, k->stored.out,
                shape, ranks);
        print_ways(r, k, f);
        print_choices(r, k, true, f);
        print_choices(r, k, false, f);
    }
}

static void json_numbers(const char *name, const double *v, double scale, FILE *f)
{
    fprintf(f, ", \"%s\": [", name);
    for (int i = 0; i < BENCH_TTM_ROWS; i++)
        fprintf(f, "%s%.6g", i ? ", " : "", v[i] * scale);
    fputc(']', f);
}

static void json_choices(const struct bench_ttm_kind *k, bool compressed, FILE *f)
{
    fprintf(f, "    \"%s\": [", compressed ? "compressed" : "any_memory");
    for (int i = 0; i < BENCH_TTM_ROWS; i++) {
        int c = bench_ttm_chosen(k, i, compressed);
        if (c < 0) continue;
        fprintf(f, "%s{\"chosen\": %d, \"best\": %d, \"ratio\": %.4f}", i ? ", " : "", c,
                bench_ttm_best(k, i, compressed), ratio(k, i, compressed));
    }
    fputc(']', f);
}

static void print_json(const struct bench_ttm_report *r, FILE *f)
{
    const struct ttm_rates *m = &r->rates;
    fprintf(f, "{\"threads\": %d, \"kernels\": \"%s\", \"rounds\": %d, \"rows\": [", r->threads,
            r->kernels, r->rounds);
    for (int i = 0; i < BENCH_TTM_ROWS; i++)
        fprintf(f, "%s%zu", i ? ", " : "", r->rows[i]);
    fprintf(f,
            "],\n \"rates\": {\"flops_few\": %.6g, \"flops_many\": %.6g, \"dram\": %.6g, "
            "\"cache\": %.6g, \"cache_bytes\": %zu, \"overhead_s\": %.3g},\n \"kinds\": [",
            m->flops_few, m->flops_many, m->dram, m->cache, m->cache_bytes, m->overhead_s);
    for (int i = 0; i < r->n_kinds; i++) {
        const struct bench_ttm_kind *k = &r->kinds[i];
        char shape[TTM_SHAPE_TEXT], ranks[TTM_SHAPE_TEXT], text[TTM_PLAN_TEXT];
        ttm_shape_format(&k->stored, shape);
        ttm_shape_format_ranks(&k->rounded, ranks);
        fprintf(f, "%s\n  {\"name\": \"%s\", \"shape\": \"%s\", \"ranks\": [%s], \"ways\": [",
                i ? "," : "", k->name, shape, ranks);
        for (int w = 0; w < k->n_ways; w++) {
            way_text(&k->ways[w], text);
            fprintf(f, "%s\n    {\"way\": \"%s\", \"bytes\": %zu", w ? "," : "", text,
                    k->ways[w].bytes);
            json_numbers("measured_us", k->ways[w].measured, 1e6, f);
            json_numbers("predicted_us", k->ways[w].predicted, 1e6, f);
            fputc('}', f);
        }
        fprintf(f, "],\n");
        json_choices(k, true, f);
        fprintf(f, ",\n");
        json_choices(k, false, f);
        fputc('}', f);
    }
    fprintf(f, "]}\n");
}

void bench_ttm_print(const struct bench_ttm_report *r, bool json, FILE *f)
{
    (json ? print_json : print_text)(r, f);
}
