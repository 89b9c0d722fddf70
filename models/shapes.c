/* ttm shapes: what a Tensor-Train layer of given sizes can be. For each rank the shapes that nothing beats
 * in both parameters and multiplications; beside them plain low rank of the same rank, and the shape
 * that the TTM paper's rule gives, rounded. */
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "models/atomic_file.h"
#include "models/options.h"
#include "models/shapes.h"
#include "models/tool.h"

struct shapes_args {
    int64_t rank;  /* 0 = powers of two */
    double params; /* 0 = no more than dense */
    const char *svg;
    bool json;
};

#define FIELD(f) offsetof(struct shapes_args, f)
static const struct option table[] = {
    {"params", 0, OPTION_NUMBER, FIELD(params), "FRACTION", 1e-9, 1, NULL,
     "at most so much of the dense parameters (default 1)"},
    {"rank", 0, OPTION_INT, FIELD(rank), "R", 1, TTM_MAX_RANK, NULL,
     "of every bond (default 4, 8, 16, .. while there are shapes)"},
    {"svg", 0, OPTION_STRING, FIELD(svg), "FILE", 0, 0, NULL, "write a plot"},
    {"json", 0, OPTION_BOOL, FIELD(json), NULL, 0, 0, NULL, "one JSON object"},
};
static const struct options options = {
    .command = "shapes",
    .arguments = "C_IN C_OUT",
    .n_arguments = 2,
    .about =
        "Searches all factorisations of a C_IN x C_OUT layer into 2 to 4 cores whose matrix can\n"
        "have full rank, and shows those that no other of the same rank beats in both parameters\n"
        "and multiplications per token (of the best contraction), relative to dense. The one that\n"
        "`ttm compress --shape auto` takes for a rank is marked *.",
    .table = table,
    .n = sizeof table / sizeof *table,
};

static int size_argument(int *out, const char *name, const char *text, struct err *err)
{
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (end == text || *end || errno || v < 1 || v > SHAPES_MAX_SIZE)
        return err_set_param(err, ERR_INVALID, name, "%s: \"%.80s\" is not a size of 1..%d", name,
                             text, SHAPES_MAX_SIZE);
    *out = (int)v;
    return 0;
}

static int search_rank(struct shapes_result *r, int rank, struct err *err)
{
    struct shapes_rank *x = &r->rank[r->n];
    struct shapes_query q = {.in = r->in, .out = r->out, .rank = rank, .params = r->limit};
    struct ttm_shape paper;
    *x = (struct shapes_rank){.rank = rank};
    int rc = shapes_front_search(&x->front, &q, err);
    if (rc) return rc;
    r->n++;
    shapes_front_low_rank(&x->low_rank, r->in, r->out, rank);
    x->has_low_rank = x->low_rank.params <= r->limit && x->low_rank.shape.r[1] == rank;
    if (ttm_shape_paper(&paper, r->in, r->out, rank, "paper", NULL) == 0) {
        ttm_shape_cap_exact(&paper);
        shapes_point_of(&x->paper, &paper, NULL);
        x->has_paper = x->paper.params <= r->limit;
    }
    return 0;
}

static int search(struct shapes_result *r, const struct tool *t, const struct shapes_args *a,
                  struct err *err)
{
    double limit = a->params * (double)r->in * (double)r->out;
    r->limit = limit < 1 ? 1 : (size_t)limit;
    int most = r->in < r->out ? r->in : r->out, rc = 0;
    if (most > TTM_MAX_RANK) most = TTM_MAX_RANK;
    if (a->rank) rc = search_rank(r, (int)a->rank, err);
    for (int rank = 4; !a->rank && !rc && rank <= most && r->n < SHAPES_MAX_RANKS; rank *= 2) {
        if (tool_stopped(t)) break;
        rc = search_rank(r, rank, err);
        const struct shapes_rank *x = &r->rank[r->n - 1];
        if (!rc && !x->front.n && !x->has_low_rank && !x->has_paper) r->n--;
    }
    return !rc && tool_stopped(t) ? tool_interrupted(err) : rc;
}

/* ---- text ---- */

static void print_point(const struct shapes_point *given, const char *kind, FILE *f)
{
    char shape[TTM_SHAPE_TEXT], ranks[TTM_SHAPE_TEXT], how[TTM_PLAN_TEXT];
    struct ttm_plan plan;
    struct shapes_point p;
    shapes_point_of(&p, &given->shape, &plan);
    ttm_shape_format(&p.shape, shape);
    ttm_shape_format_ranks(&p.shape, ranks);
    ttm_plan_format(&plan, how);
    double dense = (double)ttm_shape_dense(&p.shape);
    fprintf(f, "%-9s %-34s %-20s %10zu %8.4f %8.4f %6d  %s\n", kind, shape, ranks, p.params,
            (double)p.params / dense, (double)p.mults / dense, p.matrix_rank, how);
}

static void print_text(const struct shapes_result *r, FILE *f)
{
    fprintf(f, "%d x %d: dense has %zu parameters and as many multiplications per token\n", r->in,
            r->out, (size_t)r->in * (size_t)r->out);
    for (int i = 0; i < r->n; i++) {
        const struct shapes_rank *x = &r->rank[i];
        const struct shapes_point *pick = shapes_front_pick(&x->front);
        fprintf(f, "\nrank %-4d %-34s %-20s %10s %8s %8s %6s  %s\n", x->rank, "shape", "ranks",
                "parameters", "/dense", "mults", "of W", "contraction");
        for (size_t k = 0; k < x->front.n; k++)
            print_point(&x->front.point[k], &x->front.point[k] == pick ? "*" : "", f);
        if (x->has_low_rank) print_point(&x->low_rank, "low rank", f);
        if (x->has_paper) print_point(&x->paper, "paper", f);
    }
    if (!r->n || (r->n == 1 && !r->rank[0].front.n))
        fprintf(f, "\nno shape of 2 to 4 cores has %zu parameters or fewer\n", r->limit);
}

/* ---- JSON ---- */

static json_t *point_json(const struct shapes_point *given, bool pick)
{
    char how[TTM_PLAN_TEXT];
    struct ttm_plan plan;
    struct shapes_point p;
    shapes_point_of(&p, &given->shape, &plan);
    ttm_plan_format(&plan, how);
    json_t *cores = json_array(), *ranks = json_array();
    for (int k = 0; k < p.shape.d; k++)
        json_array_append_new(cores, json_pack("[i,i]", p.shape.m[k], p.shape.n[k]));
    for (int k = 0; k <= p.shape.d; k++)
        json_array_append_new(ranks, json_integer(p.shape.r[k]));
    double dense = (double)ttm_shape_dense(&p.shape);
    return json_pack("{s:o, s:o, s:I, s:I, s:f, s:f, s:i, s:s, s:b}", "cores", cores, "ranks",
                     ranks, "params", (json_int_t)p.params, "mults", (json_int_t)p.mults,
                     "params_relative", (double)p.params / dense, "mults_relative",
                     (double)p.mults / dense, "matrix_rank", p.matrix_rank, "plan", how, "auto",
                     pick);
}

static int print_json(const struct shapes_result *r, FILE *f, struct err *err)
{
    json_t *ranks = json_array();
    for (int i = 0; i < r->n; i++) {
        const struct shapes_rank *x = &r->rank[i];
        const struct shapes_point *pick = shapes_front_pick(&x->front);
        json_t *front = json_array();
        for (size_t k = 0; k < x->front.n; k++)
            json_array_append_new(front,
                                  point_json(&x->front.point[k], &x->front.point[k] == pick));
        json_array_append_new(
            ranks, json_pack("{s:i, s:o, s:o, s:o}", "rank", x->rank, "front", front, "low_rank",
                             x->has_low_rank ? point_json(&x->low_rank, false) : json_null(),
                             "paper", x->has_paper ? point_json(&x->paper, false) : json_null()));
    }
    json_t *root = json_pack("{s:i, s:i, s:I, s:o}", "in", r->in, "out", r->out, "max_params",
                             (json_int_t)r->limit, "ranks", ranks);
    int rc = json_dumpf(root, f, JSON_INDENT(2));
    fputc('\n', f);
    json_decref(root);
    return rc ? err_set(err, ERR_IO, "cannot write the answer") : 0;
}

static int write_svg(const struct shapes_result *r, const char *path, struct err *err)
{
    struct buf b = {0};
    struct err why = {0};
    shapes_plot(r, &b);
    int rc = atomic_file_put(path, b.data, b.len, &why);
    buf_release(&b);
    return rc ? err_set_param(err, rc, "svg", "--svg: %s", why.msg) : 0;
}

int cmd_shapes(const struct tool *t, int argc, char **argv, struct err *err)
{
    struct shapes_args a = {.params = 1};
    struct shapes_result r = {0};
    const char *size[2];
    int rc = options_parse(&options, &a, size, argc, argv, t->out, err);
    if (rc) return rc == OPTIONS_HELP ? 0 : rc;
    rc = size_argument(&r.in, "C_IN", size[0], err);
    if (!rc) rc = size_argument(&r.out, "C_OUT", size[1], err);
    if (!rc) rc = search(&r, t, &a, err);
    if (!rc && a.svg) rc = write_svg(&r, a.svg, err);
    if (!rc && a.json) rc = print_json(&r, t->out, err);
    if (!rc && !a.json) print_text(&r, t->out);
    for (int i = 0; i < r.n; i++)
        shapes_front_release(&r.rank[i].front);
    return rc;
}
