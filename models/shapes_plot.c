/* The picture of `ttm shapes`. Both axes are logarithmic, since what matters is "half of" and "ten times":
 * the line of plain low rank, whose multiplications are its parameters, is then a diagonal, and below it
 * nothing can be.
 *
 *     multiplications
 *      |     x paper            one line per rank: its front, smallest parameters left
 *      |  o--o--o
 *      |       ./ low rank
 *      +------------- parameters
 */
#include <math.h>
#include <stdio.h>

#include "models/shapes.h"
#include "models/svg.h"

enum { BUFFER = 16 };

struct plot {
    const struct shapes_result *r;
    struct svg_plot svg;
};

static double params_of(const struct shapes_point *p)
{
    return (double)p->params / (double)ttm_shape_dense(&p->shape);
}

static double mults_of(const struct shapes_point *p)
{
    return (double)p->mults / (double)ttm_shape_dense(&p->shape);
}

static void widen(struct plot *p, const struct shapes_point *q)
{
    p->svg.x.lo = fmin(p->svg.x.lo, params_of(q) / 1.3);
    p->svg.y.lo = fmin(p->svg.y.lo, mults_of(q) / 1.3);
    p->svg.y.hi = fmax(p->svg.y.hi, mults_of(q) * 1.3);
}

static void set_axes(struct plot *p)
{
    p->svg.x = (struct svg_axis){.lo = 0.5, .hi = 1.3, .log = true, .label = "parameters / dense"};
    p->svg.y = (struct svg_axis){
        .lo = 0.5, .hi = 1.5, .log = true, .label = "multiplications per token / dense"};
    for (int i = 0; i < p->r->n; i++) {
        const struct shapes_rank *x = &p->r->rank[i];
        for (size_t k = 0; k < x->front.n; k++)
            widen(p, &x->front.point[k]);
        if (x->has_low_rank) widen(p, &x->low_rank);
        if (x->has_paper) widen(p, &x->paper);
    }
}

/* The diagonal of low rank, and where dense is. */
static void references(struct plot *p)
{
    double lo = fmax(p->svg.x.lo, p->svg.y.lo), hi = fmin(p->svg.x.hi, p->svg.y.hi);
    svg_line(p->svg.out, svg_at(&p->svg.x, lo), svg_at(&p->svg.y, lo), svg_at(&p->svg.x, hi),
             svg_at(&p->svg.y, hi), "stroke=\"" SVG_GREY "\" stroke-dasharray=\"6 5\"");
    svg_line(p->svg.out, p->svg.x.from, svg_at(&p->svg.y, 1), p->svg.x.to, svg_at(&p->svg.y, 1),
             "stroke=\"" SVG_GREY "\" stroke-dasharray=\"2 3\"");
    buf_printf(p->svg.out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"9\" height=\"9\"/>\n",
               svg_at(&p->svg.x, 1) - 4.5, svg_at(&p->svg.y, 1) - 4.5);
}

static void dot(struct plot *p, const struct shapes_point *q, const char *colour, double radius)
{
    char shape[TTM_SHAPE_TEXT];
    ttm_shape_format(&q->shape, shape);
    buf_printf(p->svg.out,
               "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" fill=\"%s\"><title>%s</title>"
               "</circle>\n",
               svg_at(&p->svg.x, params_of(q)), svg_at(&p->svg.y, mults_of(q)), radius, colour,
               shape);
}

static void series(struct plot *p, const struct shapes_rank *x, const char *colour)
{
    const struct shapes_point *pick = shapes_front_pick(&x->front);
    if (x->front.n > 1) {
        buf_printf(p->svg.out,
                   "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" points=\"", colour);
        for (size_t k = 0; k < x->front.n; k++)
            buf_printf(p->svg.out, "%.1f,%.1f ", svg_at(&p->svg.x, params_of(&x->front.point[k])),
                       svg_at(&p->svg.y, mults_of(&x->front.point[k])));
        buf_puts(p->svg.out, "\"/>\n");
    }
    for (size_t k = 0; k < x->front.n; k++)
        dot(p, &x->front.point[k], colour, &x->front.point[k] == pick ? 5.5 : 3.5);
    if (x->has_low_rank) {
        double px = svg_at(&p->svg.x, params_of(&x->low_rank)),
               py = svg_at(&p->svg.y, mults_of(&x->low_rank));
        buf_printf(p->svg.out,
                   "<rect x=\"%.1f\" y=\"%.1f\" width=\"8\" height=\"8\" fill=\"none\" "
                   "stroke=\"%s\" stroke-width=\"1.5\"/>\n",
                   px - 4, py - 4, colour);
    }
    if (x->has_paper) {
        double px = svg_at(&p->svg.x, params_of(&x->paper)),
               py = svg_at(&p->svg.y, mults_of(&x->paper));
        buf_printf(p->svg.out,
                   "<path d=\"M%.1f %.1fl10 10m0 -10l-10 10\" stroke=\"%s\" stroke-width=\"2\" "
                   "fill=\"none\"/>\n",
                   px - 5, py - 5, colour);
    }
}

static void legend(struct plot *p)
{
    double x = SVG_WIDTH - SVG_RIGHT + 22, y = SVG_TOP + 12;
    for (int i = 0; i < p->r->n; i++, y += 20) {
        char words[BUFFER];
        snprintf(words, sizeof words, "rank %d", p->r->rank[i].rank);
        buf_printf(p->svg.out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" fill=\"%s\"/>\n", x,
                   y - 4, svg_colour(i));
        svg_text(p->svg.out, x + 14, y, "start", "", words);
    }
    y += 14;
    for (int i = 0; i < 2; i++, y += 20) {
        buf_printf(p->svg.out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%s\"/>\n", x, y - 4,
                   i ? "5.5" : "3.5");
        svg_text(p->svg.out, x + 14, y, "start", "", i ? "taken by auto" : "front, full rank");
    }
    buf_printf(p->svg.out,
               "<rect x=\"%.1f\" y=\"%.1f\" width=\"8\" height=\"8\" fill=\"none\" "
               "stroke=\"" SVG_GREY "\" stroke-width=\"1.5\"/>\n",
               x - 4, y - 8);
    svg_text(p->svg.out, x + 14, y, "start", "", "low rank");
    y += 20;
    buf_printf(p->svg.out,
               "<path d=\"M%.1f %.1fl10 10m0 -10l-10 10\" stroke=\"" SVG_GREY
               "\" stroke-width=\"2\" fill=\"none\"/>\n",
               x - 5, y - 9);
    svg_text(p->svg.out, x + 14, y, "start", "", "the paper, rounded");
    y += 20;
    buf_printf(p->svg.out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"9\" height=\"9\"/>\n", x - 4.5,
               y - 8.5);
    svg_text(p->svg.out, x + 14, y, "start", "", "dense");
}

void shapes_plot(const struct shapes_result *r, struct buf *out)
{
    struct plot p = {.r = r, .svg = {.out = out}};
    char title[120];
    set_axes(&p);
    snprintf(title, sizeof title, "Tensor-Train shapes of a %d × %d layer, relative to dense",
             r->in, r->out);
    svg_begin(&p.svg, title);
    references(&p);
    for (int i = 0; i < r->n; i++)
        series(&p, &r->rank[i], svg_colour(i));
    legend(&p);
    svg_end(&p.svg);
}
