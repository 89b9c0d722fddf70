/* ttm plot: the losses of a training run against the tokens it was trained on, as an SVG, or the points of a
 * table (plot_table.c). A run has many
 * more steps than a picture has columns, and a step's loss is noise around the curve: steps are gathered
 * in columns, drawn as their mean over the band of what was between.
 *
 * A loss begins at ln V and spends most of its fall in the first steps: with them in view the rest of the
 * curve would be a line along the bottom. The axis therefore ends at what the loss is after the first
 * fiftieth of the tokens; what is above is cut off. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/mem.h"
#include "models/atomic_file.h"
#include "models/input.h"
#include "models/options.h"
#include "models/outdir.h"
#include "models/plot.h"
#include "models/svg.h"
#include "models/tool.h"

enum { COLUMNS = 300, HEAD = 50 };

struct plot_args {
    const char *out, *title;
    bool log_x, log_y;
};
#define FIELD(f) offsetof(struct plot_args, f)
static const struct option table[] = {
    {"out", 'o', OPTION_STRING, FIELD(out), "FILE", 0, 0, NULL, "the picture (required)"},
    {"title", 0, OPTION_STRING, FIELD(title), "TEXT", 0, 0, NULL, "above it (default: DIR)"},
    {"log-x", 0, OPTION_BOOL, FIELD(log_x), NULL, 0, 0, NULL, "of a table: logarithmic x"},
    {"log-y", 0, OPTION_BOOL, FIELD(log_y), NULL, 0, 0, NULL, "of a table: logarithmic y"},
};
static const struct options options = {
    .command = "plot",
    .arguments = "DIR|TABLE",
    .n_arguments = 1,
    .about =
        "Draws training and validation loss of the run in DIR (its log.jsonl) against tokens, as\n"
        "an SVG for light and dark pages. A run that is still going on may be drawn.\n\n"
        "Of a file TABLE the points: lines of series, x, y and perhaps a label with tabs between\n"
        "them, after a first line that has the labels of the axes in place of x and y.",
    .table = table,
    .n = sizeof table / sizeof *table,
};

struct point {
    double tokens, loss;
};
struct series {
    struct point *p; /* owned */
    size_t n, cap;
};

struct column {
    double tokens, sum, least, most;
    size_t n;
};

struct loss_plot {
    struct series train, valid;
    struct column column[COLUMNS];
    struct svg_plot svg;
};

static void add(struct series *s, double tokens, double loss)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 256;
        s->p = mem_realloc(s->p, s->cap * sizeof *s->p);
    }
    s->p[s->n++] = (struct point){.tokens = tokens, .loss = loss};
}

static bool number(const json_t *line, const char *key, double *out)
{
    const json_t *v = json_object_get(line, key);
    *out = json_number_value(v);
    return json_is_number(v) && isfinite(*out) && *out >= 0;
}

/* A line is a step's or a validation's; a validation has the tokens of the step before it. */
static bool take_line(struct loss_plot *p, const json_t *line)
{
    double tokens = p->train.n ? p->train.p[p->train.n - 1].tokens : 0, loss;
    if (json_object_get(line, "valid_loss")) {
        if (!number(line, "valid_loss", &loss)) return false;
        add(&p->valid, tokens, loss);
        return true;
    }
    if (!number(line, "loss", &loss) || !number(line, "tokens", &tokens)) return false;
    add(&p->train, tokens, loss);
    return true;
}

static int read_log(struct loss_plot *p, const char *path, struct err *err)
{
    struct buf b = {0};
    int rc = input_read(path, &b, err), n = 1;
    for (size_t at = 0; !rc && at < b.len; n++) {
        const char *line = b.data + at, *end = memchr(line, '\n', b.len - at);
        if (!end) break; /* being written */
        json_t *j = json_loadb(line, (size_t)(end - line), 0, NULL);
        if (!j || !take_line(p, j))
            rc = err_set(err, ERR_INVALID,
                         "%s: line %d is none of a training log: an object with \"loss\" and "
                         "\"tokens\", or \"valid_loss\", was expected",
                         path, n);
        json_decref(j);
        at = (size_t)(end - b.data) + 1;
    }
    buf_release(&b);
    if (!rc && !p->train.n) rc = err_set(err, ERR_INVALID, "%s has no step yet", path);
    return rc;
}

static void gather(struct loss_plot *p)
{
    double last = p->train.p[p->train.n - 1].tokens;
    for (size_t i = 0; i < p->train.n; i++) {
        const struct point *q = &p->train.p[i];
        double at = last > 0 ? q->tokens / last * COLUMNS : 0;
        struct column *c = &p->column[at < COLUMNS ? (int)at : COLUMNS - 1];
        c->least = c->n ? fmin(c->least, q->loss) : q->loss;
        c->most = c->n ? fmax(c->most, q->loss) : q->loss;
        c->tokens += q->tokens;
        c->sum += q->loss;
        c->n++;
    }
    for (int i = 0; i < COLUMNS; i++)
        p->column[i].tokens /= p->column[i].n ? (double)p->column[i].n : 1;
}

static void set_axes(struct loss_plot *p)
{
    double last = p->train.p[p->train.n - 1].tokens, lo = INFINITY, hi = 0;
    for (int i = 0; i < COLUMNS; i++) {
        const struct column *c = &p->column[i];
        if (!c->n) continue;
        lo = fmin(lo, c->least);
        if (c->tokens >= last / HEAD) hi = fmax(hi, c->sum / (double)c->n);
    }
    for (size_t i = 0; i < p->valid.n; i++) {
        lo = fmin(lo, p->valid.p[i].loss);
        if (p->valid.p[i].tokens >= last / HEAD) hi = fmax(hi, p->valid.p[i].loss);
    }
    double margin = hi > lo ? 0.05 * (hi - lo) : 0.5;
    p->svg.x = (struct svg_axis){.lo = 0, .hi = last > 0 ? last : 1, .label = "tokens"};
    p->svg.y = (struct svg_axis){.lo = fmax(lo - margin, 0), .hi = fmax(hi, lo) + margin};
    p->svg.y.label = "loss, nats per token";
}

static void put_point(struct loss_plot *p, double tokens, double loss)
{
    buf_printf(p->svg.out, "%.1f,%.1f ", svg_at(&p->svg.x, tokens), svg_at(&p->svg.y, loss));
}

static void draw_train(struct loss_plot *p, const char *colour)
{
    struct buf *b = p->svg.out;
    buf_printf(b, "<polygon fill=\"%s\" fill-opacity=\"0.25\" points=\"", colour);
    for (int i = 0; i < COLUMNS; i++)
        if (p->column[i].n) put_point(p, p->column[i].tokens, p->column[i].most);
    for (int i = COLUMNS; i-- > 0;)
        if (p->column[i].n) put_point(p, p->column[i].tokens, p->column[i].least);
    buf_printf(b, "\"/>\n<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" points=\"",
               colour);
    for (int i = 0; i < COLUMNS; i++)
        if (p->column[i].n)
            put_point(p, p->column[i].tokens, p->column[i].sum / (double)p->column[i].n);
    buf_puts(b, "\"/>\n");
}

static const struct point *best(const struct series *s)
{
    const struct point *b = s->p;
    for (size_t i = 1; i < s->n; i++)
        if (s->p[i].loss < b->loss) b = &s->p[i];
    return b;
}

static void draw_valid(struct loss_plot *p, const char *colour)
{
    struct buf *b = p->svg.out;
    const struct point *least = best(&p->valid);
    if (!p->valid.n) return;
    buf_printf(b, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", colour);
    for (size_t i = 0; i < p->valid.n; i++)
        put_point(p, p->valid.p[i].tokens, p->valid.p[i].loss);
    buf_printf(b, "\"/>\n<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" fill=\"%s\"/>\n",
               svg_at(&p->svg.x, least->tokens), svg_at(&p->svg.y, least->loss), colour);
}

static void legend_line(struct loss_plot *p, double y, const char *colour, const char *words)
{
    char style[80];
    double x = SVG_WIDTH - SVG_RIGHT + 14;
    snprintf(style, sizeof style, "stroke=\"%s\" stroke-width=\"2\"", colour);
    svg_line(p->svg.out, x, y - 4, x + 16, y - 4, style);
    svg_text(p->svg.out, x + 22, y, "start", "", words);
}

static void legend(struct loss_plot *p, const char *train, const char *valid)
{
    char words[64], at[24];
    double x = SVG_WIDTH - SVG_RIGHT + 36, y = SVG_TOP + 12;
    legend_line(p, y, train, "training");
    if (!p->valid.n) return;
    const struct point *b = best(&p->valid);
    legend_line(p, y + 22, valid, "validation");
    snprintf(words, sizeof words, "best %.4f", b->loss);
    svg_text(p->svg.out, x, y + 44, "start", "", words);
    snprintf(words, sizeof words, "perplexity %.2f", exp(b->loss));
    svg_text(p->svg.out, x, y + 62, "start", "", words);
    svg_number(at, b->tokens < 1e4 ? b->tokens : round(b->tokens / 1e3) * 1e3);
    snprintf(words, sizeof words, "at %s tokens", at);
    svg_text(p->svg.out, x, y + 80, "start", "", words);
}

static void draw(struct loss_plot *p, const char *title, struct buf *out)
{
    struct buf safe = {0};
    const char *train = svg_colour(0), *valid = svg_colour(1);
    p->svg.out = out;
    gather(p);
    set_axes(p);
    svg_escape(&safe, title);
    svg_begin(&p->svg, safe.data);
    buf_printf(out,
               "<clipPath id=\"frame\"><rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" "
               "height=\"%.1f\"/></clipPath>\n<g clip-path=\"url(#frame)\">\n",
               p->svg.x.from, p->svg.y.to, p->svg.x.to - p->svg.x.from,
               p->svg.y.from - p->svg.y.to);
    draw_train(p, train);
    draw_valid(p, valid);
    buf_puts(out, "</g>\n");
    legend(p, train, valid);
    svg_end(&p->svg);
    buf_release(&safe);
}

static int plot_run(const char *dir, const char *title, struct buf *out, struct err *err)
{
    struct loss_plot *p = mem_calloc(1, sizeof *p);
    char *log = outdir_join(dir, "log.jsonl");
    int rc = read_log(p, log, err);
    if (!rc) draw(p, title ? title : dir, out);
    free(log);
    free(p->train.p);
    free(p->valid.p);
    free(p);
    return rc;
}

int cmd_plot(const struct tool *t, int argc, char **argv, struct err *err)
{
    struct plot_args a = {0};
    const char *from;
    struct buf b = {0};
    struct stat st;
    int rc = options_parse(&options, &a, &from, argc, argv, t->out, err);
    if (rc) return rc == OPTIONS_HELP ? 0 : rc;
    if (!a.out) return err_set_param(err, ERR_MISSING, "out", "--out is missing: the file to draw");
    struct plot_table_options how = {.title = a.title, .log_x = a.log_x, .log_y = a.log_y};
    bool is_table = !strcmp(from, "-") || (!stat(from, &st) && !S_ISDIR(st.st_mode));
    rc = is_table ? plot_table(from, &how, &b, err) : plot_run(from, a.title, &b, err);
    if (!rc) rc = atomic_file_put(a.out, b.data, b.len, err);
    buf_release(&b);
    return rc;
}
