/* What compress did, as a table for people. Multiplications are those of the best contraction, which is
 * what a step of few tokens costs; how a layer is in fact applied is planned where it is served. */

#include "models/compress.h"

static void print_row(const struct compress_layer *x, FILE *f)
{
    char shape[TTM_SHAPE_TEXT], ranks[TTM_SHAPE_TEXT];
    struct shapes_point p;
    shapes_point_of(&p, &x->cores.shape, NULL);
    ttm_shape_format(&x->cores.shape, shape);
    ttm_shape_format_ranks(&x->cores.shape, ranks);
    double dense = (double)ttm_shape_dense(&x->cores.shape);
    fprintf(f, "%-17s %-28s %-17s %10zu %7.4f %9.6f %7.3f", x->layer->name, shape, ranks, p.params,
            (double)p.params / dense, x->error, (double)p.mults / dense);
    if (x->moments) fprintf(f, "  %9.6f %9.6f", x->output_before, x->output_after);
    fputc('\n', f);
}

void compress_report(const struct compress *c, FILE *f)
{
    size_t params = 0, dense = 0, stored, all;
    double mults = 0;
    bool refined = c->n > 0 && c->list[0].moments;
    fprintf(f, "%-17s %-28s %-17s %10s %7s %9s %7s%s\n", "layer", "shape", "ranks", "parameters",
            "/dense", "error", "mults", refined ? "  output error, refined" : "");
    for (int i = 0; i < c->n; i++) {
        struct shapes_point p;
        print_row(&c->list[i], f);
        shapes_point_of(&p, &c->list[i].cores.shape, NULL);
        params += p.params;
        mults += (double)p.mults;
        dense += ttm_shape_dense(&p.shape);
    }
    layers_params(c->from, &stored, &all);
    for (int i = 0; i < c->n; i++)
        stored -= layers_stored(c->list[i].layer);
    stored += params;
    fprintf(f, "\n%d layers      %zu of %zu parameters (%.4f), %.3f of the multiplications\n", c->n,
            params, dense, (double)params / (double)dense, mults / (double)dense);
    fprintf(f, "model          %zu of %zu parameters (%.4f)\n", stored, all,
            (double)stored / (double)all);
}
