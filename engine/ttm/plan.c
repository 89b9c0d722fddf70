/* What a plan means, in exact numbers, and what it should cost.
 *
 * A contraction holds one tensor per row of x. Its axes are the modes, one per group (input index
 * until the group is applied, output index afterwards), and the bonds between an applied group and
 * one that is not. A step applies one group as a plain matrix product, for which the axes it sums
 * over must stand last, so that most steps begin with a reordering. The layout that a step leaves is
 * a function of (groups applied, last one) alone: bystanders by position, then the new mode, then the
 * new bonds. Bonds stand last on both sides because the next step sums over them, and then whole
 * runs of a bond are moved, not single numbers. */
#include "engine/ttm/plan.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/kernels/pack.h"
#include "engine/ttm/plan_chain.h"

/* The intermediates of a chunk should stay in a core's own cache, yet feed the kernels enough rows. */
#define CHUNK_FLOATS ((size_t)128 * 1024)
#define CHUNK_MIN_ROWS 24
#define CHUNK_MAX 64
#define PAIR_BLOCK_FLOATS ((size_t)48 * 1024)
#define PAIR_MOST_FLOATS ((size_t)128 * 1024)
#define PAIR_ROWS 32
#define PAIR_FEW_ROWS 4
#define PAIR_LARGE_FLOATS ((size_t)128 * 1024) /* weights that no core's own cache holds */
#define REBUILD_PANELS 4                       /* most panels in a block */
#define REBUILD_TILE_ROWS 24

void plan_chain(struct plan_chain *c, const struct ttm_shape *s, const int *first, int groups)
{
    c->g = groups;
    for (int g = 0; g < groups; g++) {
        c->m[g] = c->n[g] = 1;
        for (int k = first[g]; k < first[g + 1]; k++) {
            c->m[g] *= (size_t)s->m[k];
            c->n[g] *= (size_t)s->n[k];
        }
        c->r[g] = (size_t)s->r[first[g]];
    }
    c->r[groups] = 1;
}

size_t plan_chain_floats(const struct plan_chain *c)
{
    size_t sum = 0;
    for (int g = 0; g < c->g; g++)
        sum += c->r[g] * c->m[g] * c->n[g] * c->r[g + 1];
    return sum;
}

/* Axes are numbered by position: bond left of group g = 2g, mode of group g = 2g + 1. */
static size_t axis_dim(const struct plan_chain *c, unsigned applied, int axis)
{
    int g = axis / 2;
    if (axis % 2 == 0) return c->r[g];
    return applied >> g & 1 ? c->n[g] : c->m[g];
}

static bool bond_open(const struct plan_chain *c, unsigned applied, int g)
{
    return g > 0 && g < c->g && ((applied >> (g - 1) ^ applied >> g) & 1);
}

/* The axes present when `applied` are done, without those of group `but` (its mode and bonds). */
static int bystanders(const struct plan_chain *c, unsigned applied, int but, int *axes)
{
    int n = 0;
    for (int g = 0; g < c->g; g++) {
        if (g != but && g != but + 1 && bond_open(c, applied, g)) axes[n++] = 2 * g;
        if (g != but) axes[n++] = 2 * g + 1;
    }
    return n;
}

/* The layout after `applied`, whose last step was group `last` (-1: x itself). */
static int layout(const struct plan_chain *c, unsigned applied, int last, int *axes)
{
    int n = bystanders(c, applied, last < 0 ? -2 : last, axes);
    if (last < 0) return n;
    axes[n++] = 2 * last + 1;
    if (bond_open(c, applied, last)) axes[n++] = 2 * last;
    if (bond_open(c, applied, last + 1)) axes[n++] = 2 * last + 2;
    return n;
}

/* The permutation between two orders of the same axes; neighbours that stay together become one. */
static void permutation(struct ttm_permutation *p, const struct plan_chain *c, unsigned applied,
                        const int *from, int n, const int *to)
{
    size_t stride_of[TTM_MAX_AXES + 1] = {0}, stride = 1;
    for (int a = n - 1; a >= 0; a--) {
        stride_of[from[a]] = stride;
        stride *= axis_dim(c, applied, from[a]);
    }
    p->n = 0;
    for (int a = 0; a < n; a++) {
        size_t dim = axis_dim(c, applied, to[a]), st = stride_of[to[a]];
        if (dim == 1) continue;
        if (p->n && p->stride[p->n - 1] == dim * st) {
            p->dim[p->n - 1] *= dim;
            p->stride[p->n - 1] = st;
        } else {
            p->dim[p->n] = dim;
            p->stride[p->n++] = st;
        }
    }
    p->identity = p->n == 0 || (p->n == 1 && p->stride[0] == 1);
}

void plan_step(struct ttm_step *st, const struct plan_chain *c, unsigned applied, int last,
               int group)
{
    int from[TTM_MAX_AXES], to[TTM_MAX_AXES];
    int n = layout(c, applied, last, from), rest = bystanders(c, applied, group, to);
    *st = (struct ttm_step){.group = group, .rows = 1, .k = c->m[group], .n = c->n[group]};
    st->left_open = bond_open(c, applied, group);
    st->right_open = bond_open(c, applied, group + 1);
    for (int a = 0; a < rest; a++)
        st->rows *= axis_dim(c, applied, to[a]);
    to[rest++] = 2 * group + 1;
    if (st->left_open) to[rest++] = 2 * group;
    if (st->right_open) to[rest++] = 2 * group + 2;
    BUG_ON(rest != n);
    *(st->left_open ? &st->k : &st->n) *= c->r[group];
    *(st->right_open ? &st->k : &st->n) *= c->r[group + 1];
    permutation(&st->in, c, applied, from, n, to);
}

void plan_out(struct ttm_permutation *out, const struct plan_chain *c, int last)
{
    int from[TTM_MAX_AXES], to[TTM_MAX_AXES];
    unsigned all = (1u << c->g) - 1;
    int n = layout(c, all, last, from);
    for (int g = 0; g < c->g; g++)
        to[g] = 2 * g + 1;
    permutation(out, c, all, from, n, to);
}

void ttm_plan_steps(struct ttm_steps *out, const struct ttm_plan *p, const struct ttm_shape *s)
{
    struct plan_chain c;
    plan_chain(&c, s, p->first, p->groups);
    *out = (struct ttm_steps){.n = p->groups};
    unsigned applied = 0;
    int last = -1;
    for (int i = 0; i < p->groups; i++) {
        struct ttm_step *st = &out->step[i];
        plan_step(st, &c, applied, last, p->order[i]);
        if (st->rows * st->k > out->max_floats) out->max_floats = st->rows * st->k;
        if (st->rows * st->n > out->max_floats) out->max_floats = st->rows * st->n;
        last = p->order[i];
        applied |= 1u << last;
    }
    plan_out(&out->out, &c, last);
}

static int check_groups(const struct ttm_plan *p, const struct ttm_shape *s, const char *what,
                        struct err *err)
{
    bool ok = p->groups >= 2 && p->groups <= s->d && p->first[0] == 0;
    unsigned seen = 0;
    for (int g = 0; ok && g < p->groups; g++) {
        ok = p->first[g + 1] > p->first[g] && p->order[g] >= 0 && p->order[g] < p->groups;
        if (ok) seen |= 1u << p->order[g];
    }
    if (!ok || p->first[p->groups] != s->d || seen != (1u << p->groups) - 1)
        return err_set(err, ERR_INVALID,
                       "%s: not a grouping of %d cores with an order of contraction", what, s->d);
    return 0;
}

void plan_pair(struct plan_pair *out, const struct ttm_plan *p, const struct ttm_shape *s)
{
    struct plan_chain c;
    plan_chain(&c, s, p->first, 2);
    int first = p->order[0], second = 1 - first;
    *out = (struct plan_pair){.mf = c.m[first],
                              .nf = c.n[first],
                              .ms = c.m[second],
                              .ns = c.n[second],
                              .r = c.r[1],
                              .left = first == 0,
                              .j_step = 1,
                              .few_rows = 1};
    if (plan_chain_floats(&c) > PAIR_LARGE_FLOATS) out->few_rows = PAIR_FEW_ROWS;
    out->by_output = out->mf * out->nf >= out->ms * out->ns;
    while (out->j_step < PACK_N && out->j_step * out->r % PACK_N)
        out->j_step *= 2;
    if (out->j_step > out->nf) out->j_step = out->nf;
    size_t least = out->by_output ? out->ms * out->r * out->j_step : out->nf * out->r;
    out->rows = PAIR_MOST_FLOATS / least;
    if (out->rows > PAIR_ROWS) out->rows = PAIR_ROWS;
    if (out->rows < 1) out->rows = 1;
    out->block = out->rows * least > PAIR_BLOCK_FLOATS ? out->rows * least : PAIR_BLOCK_FLOATS;
}

void plan_pair_int8(struct plan_pair *out, const struct ttm_plan *p, const struct ttm_shape *s)
{
    plan_pair(out, p, s);
    size_t least = out->ms * out->r * out->j_step;
    out->by_output = true;
    out->rows = PAIR_MOST_FLOATS / least;
    if (out->rows > PAIR_ROWS) out->rows = PAIR_ROWS;
    if (out->rows < 1) out->rows = 1;
    out->block = out->rows * least > PAIR_BLOCK_FLOATS ? out->rows * least : PAIR_BLOCK_FLOATS;
}

/* Rows of x, their sums, t, a block of rows times a panel, and a row of the result. */
size_t plan_pair_worker_floats(const struct plan_pair *p)
{
    size_t row = p->mf * p->ms + p->nf * p->ns;
    size_t blocks = p->rows * row + p->block + PAIR_TILE_ROWS * PACK_N;
    size_t whole = p->by_output ? 0 : p->few_rows * (row + p->ms * p->nf * p->r);
    /* each part begins a line */
    return mem_lines((blocks > whole ? blocks : whole) + p->nf * p->ns) + 80;
}

static void finish_contract(struct ttm_plan *p, const struct ttm_shape *s)
{
    struct plan_chain c;
    struct ttm_steps st;
    plan_chain(&c, s, p->first, p->groups);
    ttm_plan_steps(&st, p, s);
    p->resident_floats = plan_chain_floats(&c);
    size_t fewest = SIZE_MAX;
    for (int i = 0; i < st.n; i++) {
        p->mults_per_row += (uint64_t)st.step[i].rows * st.step[i].k * st.step[i].n;
        p->packed_floats += st.step[i].k * mem_round_up(st.step[i].n, PACK_N);
        p->packed_columns += mem_round_up(st.step[i].n, PACK_N);
        if (st.step[i].rows < fewest) fewest = st.step[i].rows;
    }
    size_t chunk = CHUNK_FLOATS / st.max_floats, least = (CHUNK_MIN_ROWS + fewest - 1) / fewest;
    if (chunk < least) chunk = least;
    p->chunk_rows = chunk > CHUNK_MAX ? CHUNK_MAX : chunk;
    p->worker_floats = 2 * mem_lines(p->chunk_rows * st.max_floats);
    if (p->groups > 2) return;
    struct plan_pair pair;
    plan_pair(&pair, p, s);
    p->chunk_rows = pair.rows;
    p->worker_floats = plan_pair_worker_floats(&pair);
}

/* Left output indices that columns col0..col1-1 touch. */
static size_t touched(size_t col0, size_t col1, size_t n_right)
{
    return (col1 - 1) / n_right + 1 - col0 / n_right;
}

/* Of all left output indices that blocks of `cols` columns touch, summed over the blocks of W; *most =
 * the largest number in one. What two blocks share is computed twice. */
static size_t touched_by_all(size_t out, size_t cols, size_t n_right, size_t *most)
{
    size_t sum = 0;
    *most = 0;
    for (size_t col = 0; col < out; col += cols) {
        size_t n = touched(col, col + cols < out ? col + cols : out, n_right);
        sum += n;
        if (n > *most) *most = n;
    }
    return sum;
}

/* The smallest block for which little is computed twice. */
void plan_tiles(struct plan_tiles *t, const struct ttm_plan *p, const struct ttm_shape *s)
{
    int first[3] = {0, p->split, s->d};
    struct plan_chain c;
    plan_chain(&c, s, first, 2);
    size_t out = (size_t)s->out, least = SIZE_MAX, most;
    *t = (struct plan_tiles){.rank = c.r[1],
                             .m_right = c.m[1],
                             .n_right = c.n[1],
                             .n_left = c.n[0],
                             .width = c.m[1] * c.n[1],
                             .left = ((size_t)s->in + c.m[1] - 1) / c.m[1]};
    for (size_t panels = 1; panels <= REBUILD_PANELS; panels++) {
        size_t sum = touched_by_all(out, panels * PACK_N, c.n[1], &most);
        if (sum >= least - least / 20) continue;
        least = sum;
        t->cols = panels * PACK_N;
        t->tile_rows = most > REBUILD_TILE_ROWS ? most : REBUILD_TILE_ROWS;
    }
}

static void finish_dense(struct ttm_plan *p, const struct ttm_shape *s)
{
    p->mults_per_row = (uint64_t)ttm_shape_dense(s);
    p->resident_floats = ttm_shape_dense(s);
    p->packed_columns = packed_panels((size_t)s->out) * PACK_N;
    p->packed_floats = p->packed_columns * (size_t)s->in;
    if (p->method == TTM_RESIDENT) return;
    int first[3] = {0, p->split, s->d};
    struct plan_chain c;
    struct plan_tiles t;
    plan_chain(&c, s, first, 2);
    plan_tiles(&t, p, s);
    p->resident_floats = plan_chain_floats(&c);
    p->packed_floats = c.m[0] * c.n[0] * c.r[1] + c.r[1] * mem_round_up(t.width, PACK_N);
    size_t most, made = touched_by_all((size_t)s->out, t.cols, t.n_right, &most);
    p->mults_per_call = (uint64_t)t.left * made * t.rank * t.width;
    p->worker_floats = mem_lines(t.cols * (size_t)s->in + t.tile_rows * (t.rank + t.width));
}

int ttm_plan_finish(struct ttm_plan *p, const struct ttm_shape *s, const char *what,
                    struct err *err)
{
    p->mults_per_row = p->mults_per_call = 0;
    p->chunk_rows = p->worker_floats = p->packed_floats = p->packed_columns = 0;
    if (p->method == TTM_CONTRACT) {
        int rc = check_groups(p, s, what, err);
        if (!rc) finish_contract(p, s);
        return rc;
    }
    bool single = p->method == TTM_RESIDENT && s->d == 1 && p->split == 0;
    if (!single && (p->split < 1 || p->split >= s->d))
        return err_set(err, ERR_INVALID, "%s: cannot split %d cores at %d", what, s->d, p->split);
    finish_dense(p, s);
    return 0;
}

static void format_groups(const struct ttm_plan *p, char *text)
{
    size_t at = (size_t)snprintf(text, TTM_PLAN_TEXT, "contract ");
    bool up = true, down = true;
    for (int g = 0; g < p->groups; g++) {
        for (int k = p->first[g]; k < p->first[g + 1]; k++)
            at += (size_t)snprintf(text + at, TTM_PLAN_TEXT - at, "%s%d",
                                   k == p->first[g] ? "[" : " ", k);
        at += (size_t)snprintf(text + at, TTM_PLAN_TEXT - at, "]");
        up &= p->order[g] == g;
        down &= p->order[g] == p->groups - 1 - g;
    }
    if (up || down) {
        snprintf(text + at, TTM_PLAN_TEXT - at, " %s first", up ? "left" : "right");
        return;
    }
    at += (size_t)snprintf(text + at, TTM_PLAN_TEXT - at, " order");
    for (int g = 0; g < p->groups; g++)
        at += (size_t)snprintf(text + at, TTM_PLAN_TEXT - at, " %d", p->order[g]);
}

void ttm_plan_format(const struct ttm_plan *p, char text[TTM_PLAN_TEXT])
{
    if (p->method == TTM_CONTRACT)
        format_groups(p, text);
    else
        snprintf(text, TTM_PLAN_TEXT, p->method == TTM_REBUILD ? "rebuild" : "resident");
}

uint64_t ttm_plan_mults(const struct ttm_plan *p, size_t rows)
{
    return rows ? p->mults_per_call + rows * p->mults_per_row : 0;
}

size_t ttm_plan_scratch(const struct ttm_plan *p, int threads)
{
    return (size_t)threads * p->worker_floats;
}

bool ttm_plan_same(const struct ttm_plan *a, const struct ttm_plan *b)
{
    if (a->method != b->method) return false;
    if (a->method != TTM_CONTRACT) return a->split == b->split;
    return a->groups == b->groups &&
           !memcmp(a->first, b->first, (size_t)(a->groups + 1) * sizeof *a->first) &&
           !memcmp(a->order, b->order, (size_t)a->groups * sizeof *a->order);
}
