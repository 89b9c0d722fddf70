/* A table of points as a picture: what experiments and benchmarks report, one curve for each series.
 *
 * The table is what a script can write with printf and a person can read: lines, tabs. Fields are cut in
 * place in a copy of the file, series are found by their names in the order in which they first come (there
 * are a handful; a search from the front will do), and the axes span the points and a margin. A linear axis
 * begins at zero when that costs less than half of it: ratios are then seen as what they are. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "models/input.h"
#include "models/plot.h"
#include "models/svg.h"

enum { SERIES_MAX = 16, FIELDS = 4 };

struct table_point {
    double x, y;
    const char *label; /* borrowed from the text; NULL = none */
    int series;
};
struct table_plot {
    struct table_point *point; /* owned */
    size_t n, cap;
    const char *series[SERIES_MAX]; /* borrowed from the text */
    int n_series;
    struct svg_plot svg;
};

/* Cuts `line` at its tabs; how many fields it has, FIELDS + 1 if more than that. */
static int cut(char *line, char *field[FIELDS])
{
    int n = 0;
    for (char *at = line, *tab;; at = tab + 1) {
        if (n == FIELDS) return FIELDS + 1;
        field[n++] = at;
        tab = strchr(at, '\t');
        if (!tab) return n;
        *tab = 0;
    }
}

static bool number(const char *text, bool log, double *out)
{
    char *end;
    *out = strtod(text, &end);
    return end != text && !*end && isfinite(*out) && (!log || *out > 0);
}

static int series_of(struct table_plot *p, const char *name)
{
    for (int i = 0; i < p->n_series; i++)
        if (!strcmp(p->series[i], name)) return i;
    if (p->n_series == SERIES_MAX) return -1;
    p->series[p->n_series] = name;
    return p->n_series++;
}

static int take_point(struct table_plot *p, char *line, const char *file, size_t at,
                      struct err *err)
{
    char *field[FIELDS];
    struct table_point q = {0};
    int n = cut(line, field);
    if (n < 3 || n > FIELDS || !number(field[1], p->svg.x.log, &q.x) ||
        !number(field[2], p->svg.y.log, &q.y))
        return err_set(err, ERR_INVALID,
                       "%s: line %zu is none of a table: series, x, y and perhaps a label were "
                       "expected, between tabs; numbers, above 0 on a logarithmic axis",
                       file, at);
    q.series = series_of(p, field[0]);
    if (q.series < 0)
        return err_set(err, ERR_INVALID, "%s: line %zu begins series %d, at most %d can be shown",
                       file, at, SERIES_MAX + 1, SERIES_MAX);
    q.label = n == FIELDS ? field[3] : NULL;
    if (p->n == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 32;
        p->point = mem_realloc(p->point, p->cap * sizeof *p->point);
    }
    p->point[p->n++] = q;
    return 0;
}

static int read_table(struct table_plot *p, const char *file, char *text, struct err *err)
{
    size_t at = 1;
    for (char *line = text, *next; *line; line = next, at++) {
        char *end = line + strcspn(line, "\n"), *field[FIELDS];
        next = end + (*end != 0);
        *end = 0;
        if (at > 1) {
            int rc = take_point(p, line, file, at, err);
            if (rc) return rc;
        } else if (cut(line, field) == 3) {
            p->svg.x.label = field[1];
            p->svg.y.label = field[2];
        } else {
            return err_set(err, ERR_INVALID,
                           "%s: line 1 has no three fields: \"series\" and the labels of the two "
                           "axes were expected, between tabs",
                           file);
        }
    }
    return p->n ? 0 : err_set(err, ERR_INVALID, "%s has no points", file);
}

static void span(struct svg_axis *a, double lo, double hi)
{
    if (a->log) {
        a->lo = lo / 1.15;
        a->hi = hi * 1.15;
        return;
    }
    double margin = hi > lo ? 0.06 * (hi - lo) : 0.5 * fmax(fabs(hi), 1);
    a->lo = lo >= 0 && lo <= hi - lo ? 0 : lo - margin;
    a->hi = hi + margin;
}

static void set_axes(struct table_plot *p)
{
    double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
    for (size_t i = 0; i < p->n; i++) {
        x0 = fmin(x0, p->point[i].x);
        x1 = fmax(x1, p->point[i].x);
        y0 = fmin(y0, p->point[i].y);
        y1 = fmax(y1, p->point[i].y);
    }
    span(&p->svg.x, x0, x1);
    span(&p->svg.y, y0, y1);
}

static void put_words(struct buf *b, double x, double y, const char *words)
{
    struct buf safe = {0};
    svg_escape(&safe, words);
    svg_text(b, x, y, "start", "", safe.data);
    buf_release(&safe);
}

static void draw_series(struct table_plot *p, int series)
{
    struct buf *b = p->svg.out;
    const char *colour = svg_colour(series);
    double x = SVG_WIDTH - SVG_RIGHT + 22, y = SVG_TOP + 12 + 20 * series;
    buf_printf(b, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" points=\"", colour);
    for (size_t i = 0; i < p->n; i++)
        if (p->point[i].series == series)
            buf_printf(b, "%.1f,%.1f ", svg_at(&p->svg.x, p->point[i].x),
                       svg_at(&p->svg.y, p->point[i].y));
    buf_puts(b, "\"/>\n");
    for (size_t i = 0; i < p->n; i++) {
        const struct table_point *q = &p->point[i];
        double px = svg_at(&p->svg.x, q->x), py = svg_at(&p->svg.y, q->y);
        if (q->series != series) continue;
        buf_printf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>\n", px, py, colour);
        if (q->label) put_words(b, px + 7, py - 5, q->label);
    }
    buf_printf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" fill=\"%s\"/>\n", x, y - 4, colour);
    put_words(b, x + 14, y, p->series[series]);
}

static void draw(struct table_plot *p, const char *title, struct buf *out)
{
    struct buf words[3] = {{0}, {0}, {0}};
    svg_escape(&words[0], title);
    svg_escape(&words[1], p->svg.x.label);
    svg_escape(&words[2], p->svg.y.label);
    p->svg.x.label = words[1].data;
    p->svg.y.label = words[2].data;
    p->svg.out = out;
    set_axes(p);
    svg_begin(&p->svg, words[0].data);
    for (int i = 0; i < p->n_series; i++)
        draw_series(p, i);
    svg_end(&p->svg);
    for (int i = 0; i < 3; i++)
        buf_release(&words[i]);
}

int plot_table(const char *file, const struct plot_table_options *o, struct buf *out,
               struct err *err)
{
    struct table_plot p = {.svg = {.x = {.log = o->log_x}, .y = {.log = o->log_y}}};
    struct buf text = {0};
    int rc = input_read(file, &text, err);
    if (!rc) rc = input_check_utf8(file, &text, err);
    if (!rc && memchr(text.data ? text.data : "", 0, text.len))
        rc = err_set(err, ERR_INVALID, "%s holds a NUL byte, text was expected", file);
    if (!rc) {
        buf_putc(&text, 0);
        rc = read_table(&p, file, text.data, err);
    }
    if (!rc) draw(&p, o->title ? o->title : file, out);
    free(p.point);
    buf_release(&text);
    return rc;
}
