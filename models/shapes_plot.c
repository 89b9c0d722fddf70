/* The picture of `ttm shapes`. Both axes are logarithmic, since what matters is "half of" and "ten times":
 * the line of plain low rank, whose multiplications are its parameters, is then a diagonal, and below it
 * nothing can be. Colours and greys are of middle lightness and the background is left out, so that the
 * same file reads well on a light and on a dark page.
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

enum { WIDTH = 860, HEIGHT = 560, LEFT = 84, RIGHT = 190, TOP = 48, BOTTOM = 64, BUFFER = 16 };
#define GREY "#7f7f7f"

static const char *const colours[] = {"#4e79a7", "#f28e2b", "#59a14f", "#e15759",
                                      "#b07aa1", "#2a9d8f", "#b5892e", "#d37295"};
enum { N_COLOURS = sizeof colours / sizeof *colours };

/* A logarithmic axis: data lo..hi onto pixels from..to. */
struct axis {
    double lo, hi, from, to;
};

static double at(const struct axis *a, double v)
{
    return a->from + (log(v) - log(a->lo)) / (log(a->hi) - log(a->lo)) * (a->to - a->from);
}

struct plot {
    const struct shapes_result *r;
    struct buf *out;
    struct axis x, y;
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
    p->x.lo = fmin(p->x.lo, params_of(q) / 1.3);
    p->y.lo = fmin(p->y.lo, mults_of(q) / 1.3);
    p->y.hi = fmax(p->y.hi, mults_of(q) * 1.3);
}

static void set_axes(struct plot *p)
{
    p->x = (struct axis){.lo = 0.5, .hi = 1.3, .from = LEFT, .to = WIDTH - RIGHT};
    p->y = (struct axis){.lo = 0.5, .hi = 1.5, .from = HEIGHT - BOTTOM, .to = TOP};
    for (int i = 0; i < p->r->n; i++) {
        const struct shapes_rank *x = &p->r->rank[i];
        for (size_t k = 0; k < x->front.n; k++)
            widen(p, &x->front.point[k]);
        if (x->has_low_rank) widen(p, &x->low_rank);
        if (x->has_paper) widen(p, &x->paper);
    }
}

static void text(struct buf *b, double x, double y, const char *anchor, const char *more,
                 const char *words)
{
    buf_printf(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>%s</text>\n", x, y, anchor,
               more, words);
}

static void line(struct buf *b, double x0, double y0, double x1, double y1, const char *style)
{
    buf_printf(b, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" %s/>\n", x0, y0, x1, y1,
               style);
}

/* Ticks at 1, 2 and 5 of every power of ten; labels at all of them while there is room. */
static void ticks(struct plot *p, const struct axis *a, bool horizontal)
{
    static const int steps[] = {1, 2, 5};
    bool crowded = a->hi / a->lo > 2e3;
    for (int e = (int)floor(log10(a->lo)); e <= (int)ceil(log10(a->hi)); e++)
        for (int i = 0; i < 3; i++) {
            double v = steps[i] * pow(10, e);
            if (v < a->lo || v > a->hi) continue;
            double q = at(a, v);
            char label[BUFFER];
            snprintf(label, sizeof label, "%g", v);
            const char *style = "stroke=\"" GREY "\" stroke-opacity=\"0.25\"";
            if (horizontal)
                line(p->out, q, p->y.from, q, p->y.to, style);
            else
                line(p->out, p->x.from, q, p->x.to, q, style);
            if (crowded && i > 0) continue;
            if (horizontal)
                text(p->out, q, p->y.from + 20, "middle", "", label);
            else
                text(p->out, p->x.from - 8, q + 4, "end", "", label);
        }
}

static void frame(struct plot *p)
{
    struct buf *b = p->out;
    buf_printf(b,
               "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
               "height=\"%d\" font-family=\"sans-serif\" font-size=\"13\" fill=\"" GREY "\">\n",
               WIDTH, HEIGHT, WIDTH, HEIGHT);
    char title[120];
    snprintf(title, sizeof title, "Tensor-Train shapes of a %d × %d layer, relative to dense",
             p->r->in, p->r->out);
    text(b, LEFT, TOP - 20, "start", " font-size=\"16\"", title);
    ticks(p, &p->x, true);
    ticks(p, &p->y, false);
    buf_printf(b,
               "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"none\" "
               "stroke=\"" GREY "\"/>\n",
               p->x.from, p->y.to, p->x.to - p->x.from, p->y.from - p->y.to);
    text(b, (p->x.from + p->x.to) / 2, HEIGHT - 18, "middle", "", "parameters / dense");
    char turn[80];
    double mid = (p->y.from + p->y.to) / 2;
    snprintf(turn, sizeof turn, " transform=\"rotate(-90 24 %.1f)\"", mid);
    text(b, 24, mid, "middle", turn, "multiplications per token / dense");
}

/* The diagonal of low rank, and where dense is. */
static void references(struct plot *p)
{
    double lo = fmax(p->x.lo, p->y.lo), hi = fmin(p->x.hi, p->y.hi);
    line(p->out, at(&p->x, lo), at(&p->y, lo), at(&p->x, hi), at(&p->y, hi),
         "stroke=\"" GREY "\" stroke-dasharray=\"6 5\"");
    line(p->out, p->x.from, at(&p->y, 1), p->x.to, at(&p->y, 1),
         "stroke=\"" GREY "\" stroke-dasharray=\"2 3\"");
    buf_printf(p->out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"9\" height=\"9\"/>\n",
               at(&p->x, 1) - 4.5, at(&p->y, 1) - 4.5);
}

static void dot(struct plot *p, const struct shapes_point *q, const char *colour, double radius)
{
    char shape[TTM_SHAPE_TEXT];
    ttm_shape_format(&q->shape, shape);
    buf_printf(p->out,
               "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" fill=\"%s\"><title>%s</title>"
               "</circle>\n",
               at(&p->x, params_of(q)), at(&p->y, mults_of(q)), radius, colour, shape);
}

static void series(struct plot *p, const struct shapes_rank *x, const char *colour)
{
    const struct shapes_point *pick = shapes_front_pick(&x->front);
    if (x->front.n > 1) {
        buf_printf(p->out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" points=\"",
                   colour);
        for (size_t k = 0; k < x->front.n; k++)
            buf_printf(p->out, "%.1f,%.1f ", at(&p->x, params_of(&x->front.point[k])),
                       at(&p->y, mults_of(&x->front.point[k])));
        buf_puts(p->out, "\"/>\n");
    }
    for (size_t k = 0; k < x->front.n; k++)
        dot(p, &x->front.point[k], colour, &x->front.point[k] == pick ? 5.5 : 3.5);
    if (x->has_low_rank) {
        double px = at(&p->x, params_of(&x->low_rank)), py = at(&p->y, mults_of(&x->low_rank));
        buf_printf(p->out,
                   "<rect x=\"%.1f\" y=\"%.1f\" width=\"8\" height=\"8\" fill=\"none\" "
                   "stroke=\"%s\" stroke-width=\"1.5\"/>\n",
                   px - 4, py - 4, colour);
    }
    if (x->has_paper) {
        double px = at(&p->x, params_of(&x->paper)), py = at(&p->y, mults_of(&x->paper));
        buf_printf(p->out,
                   "<path d=\"M%.1f %.1fl10 10m0 -10l-10 10\" stroke=\"%s\" stroke-width=\"2\" "
                   "fill=\"none\"/>\n",
                   px - 5, py - 5, colour);
    }
}

static void legend(struct plot *p)
{
    double x = WIDTH - RIGHT + 22, y = TOP + 12;
    for (int i = 0; i < p->r->n; i++, y += 20) {
        char words[BUFFER];
        snprintf(words, sizeof words, "rank %d", p->r->rank[i].rank);
        buf_printf(p->out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" fill=\"%s\"/>\n", x, y - 4,
                   colours[i % N_COLOURS]);
        text(p->out, x + 14, y, "start", "", words);
    }
    y += 14;
    for (int i = 0; i < 2; i++, y += 20) {
        buf_printf(p->out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%s\"/>\n", x, y - 4,
                   i ? "5.5" : "3.5");
        text(p->out, x + 14, y, "start", "", i ? "taken by auto" : "front, full rank");
    }
    buf_printf(p->out,
               "<rect x=\"%.1f\" y=\"%.1f\" width=\"8\" height=\"8\" fill=\"none\" "
               "stroke=\"" GREY "\" stroke-width=\"1.5\"/>\n",
               x - 4, y - 8);
    text(p->out, x + 14, y, "start", "", "low rank");
    y += 20;
    buf_printf(p->out,
               "<path d=\"M%.1f %.1fl10 10m0 -10l-10 10\" stroke=\"" GREY
               "\" stroke-width=\"2\" fill=\"none\"/>\n",
               x - 5, y - 9);
    text(p->out, x + 14, y, "start", "", "the paper, rounded");
    y += 20;
    buf_printf(p->out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"9\" height=\"9\"/>\n", x - 4.5,
               y - 8.5);
    text(p->out, x + 14, y, "start", "", "dense");
}

void shapes_plot(const struct shapes_result *r, struct buf *out)
{
    struct plot p = {.r = r, .out = out};
    set_axes(&p);
    frame(&p);
    references(&p);
    for (int i = 0; i < r->n; i++)
        series(&p, &r->rank[i], colours[i % N_COLOURS]);
    legend(&p);
    buf_puts(out, "</svg>\n");
}
