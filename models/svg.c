/* What all plots share. Written by hand rather than by a plotting program: the files are small, the same
 * everywhere, and can be committed and compared. */
#include "models/svg.h"

#include <math.h>
#include <stdio.h>

enum { LINEAR_TICKS = 8 }; /* about so many */

static const char *const colours[] = {"#4e79a7", "#f28e2b", "#59a14f", "#e15759",
                                      "#b07aa1", "#2a9d8f", "#b5892e", "#d37295"};
enum { N_COLOURS = sizeof colours / sizeof *colours };

const char *svg_colour(int i)
{
    return colours[i % N_COLOURS];
}

double svg_at(const struct svg_axis *a, double v)
{
    double along =
        a->log ? (log(v) - log(a->lo)) / (log(a->hi) - log(a->lo)) : (v - a->lo) / (a->hi - a->lo);
    return a->from + along * (a->to - a->from);
}

void svg_text(struct buf *b, double x, double y, const char *anchor, const char *style,
              const char *words)
{
    buf_printf(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>%s</text>\n", x, y, anchor,
               style, words);
}

void svg_line(struct buf *b, double x0, double y0, double x1, double y1, const char *style)
{
    buf_printf(b, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" %s/>\n", x0, y0, x1, y1,
               style);
}

void svg_escape(struct buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '<')
            buf_puts(out, "&lt;");
        else if (*text == '>')
            buf_puts(out, "&gt;");
        else if (*text == '&')
            buf_puts(out, "&amp;");
        else
            buf_putc(out, (unsigned char)*text < ' ' ? ' ' : *text);
    }
    buf_putc(out, 0);
}

void svg_number(char out[24], double v)
{
    static const char *const units[] = {"", "k", "M", "G", "T"};
    int i = 0;
    for (; i < 4 && fabs(v) >= 1000; i++)
        v /= 1000;
    snprintf(out, 24, "%.6g%s", fabs(v) < 1e-9 ? 0 : v, units[i]);
}

static void tick(struct svg_plot *p, const struct svg_axis *a, double v, const char *label)
{
    const char *style = "stroke=\"" SVG_GREY "\" stroke-opacity=\"0.25\"";
    double q = svg_at(a, v);
    if (a == &p->x)
        svg_line(p->out, q, p->y.from, q, p->y.to, style);
    else
        svg_line(p->out, p->x.from, q, p->x.to, q, style);
    if (!label) return;
    if (a == &p->x)
        svg_text(p->out, q, p->y.from + 20, "middle", "", label);
    else
        svg_text(p->out, p->x.from - 8, q + 4, "end", "", label);
}

/* Ticks at 1, 2 and 5 of every power of ten; labels at all of them while there is room. */
static void log_ticks(struct svg_plot *p, const struct svg_axis *a)
{
    static const int steps[] = {1, 2, 5};
    bool crowded = a->hi / a->lo > 2e3;
    for (int e = (int)floor(log10(a->lo)); e <= (int)ceil(log10(a->hi)); e++)
        for (int i = 0; i < 3; i++) {
            double v = steps[i] * pow(10, e);
            char label[24];
            if (v < a->lo || v > a->hi) continue;
            snprintf(label, sizeof label, "%g", v);
            tick(p, a, v, crowded && i > 0 ? NULL : label);
        }
}

/* Ticks at multiples of 1, 2 or 5 times a power of ten. */
static void linear_ticks(struct svg_plot *p, const struct svg_axis *a)
{
    double want = (a->hi - a->lo) / LINEAR_TICKS, step = pow(10, floor(log10(want)));
    step *= want > 5 * step ? 10 : want > 2 * step ? 5 : want > step ? 2 : 1;
    for (double i = ceil(a->lo / step - 1e-6); i * step <= a->hi + 1e-6 * step; i++) {
        char label[24];
        svg_number(label, i * step);
        tick(p, a, i * step, label);
    }
}

void svg_begin(struct svg_plot *p, const char *title)
{
    struct buf *b = p->out;
    p->x.from = SVG_LEFT;
    p->x.to = SVG_WIDTH - SVG_RIGHT;
    p->y.from = SVG_HEIGHT - SVG_BOTTOM;
    p->y.to = SVG_TOP;
    buf_printf(b,
               "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
               "height=\"%d\" font-family=\"sans-serif\" font-size=\"13\" fill=\"" SVG_GREY "\">\n",
               SVG_WIDTH, SVG_HEIGHT, SVG_WIDTH, SVG_HEIGHT);
    svg_text(b, SVG_LEFT, SVG_TOP - 20, "start", " font-size=\"16\"", title);
    (p->x.log ? log_ticks : linear_ticks)(p, &p->x);
    (p->y.log ? log_ticks : linear_ticks)(p, &p->y);
    buf_printf(b,
               "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"none\" "
               "stroke=\"" SVG_GREY "\"/>\n",
               p->x.from, p->y.to, p->x.to - p->x.from, p->y.from - p->y.to);
    svg_text(b, (p->x.from + p->x.to) / 2, SVG_HEIGHT - 18, "middle", "", p->x.label);
    char turn[80];
    double mid = (p->y.from + p->y.to) / 2;
    snprintf(turn, sizeof turn, " transform=\"rotate(-90 24 %.1f)\"", mid);
    svg_text(b, 24, mid, "middle", turn, p->y.label);
}

void svg_end(struct svg_plot *p)
{
    buf_puts(p->out, "</svg>\n");
}
