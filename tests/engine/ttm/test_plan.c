/* Plans: the figures of the paper's models, exact multiplications, the planner against brute force
 * over every grouping and order, memory budgets, and text. */
#include "engine/ttm/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kernels/int8.h"
#include "tests/engine/ttm/ttm_testing.h"

static struct ttm_shape paper_shape(int in, int out, int rank, bool exact)
{
    struct ttm_shape s;
    ck_assert_int_eq(ttm_shape_paper(&s, in, out, rank, "x", NULL), 0);
    if (exact) ttm_shape_cap_exact(&s);
    return s;
}

/* One row at a time on an ideal machine, less resident than dense. */
static struct ttm_workload one_row(const struct ttm_shape *s)
{
    return (struct ttm_workload){.rows = {1, 1},
                                 .share = {1, 1},
                                 .dtype = DTYPE_F32,
                                 .layers = 1,
                                 .budget_bytes = ttm_shape_dense(s) * sizeof(float) - 1};
}

static struct ttm_plan chain_plan(const struct ttm_shape *s, bool right_first)
{
    struct ttm_plan p = {.method = TTM_CONTRACT, .groups = s->d};
    for (int k = 0; k <= s->d; k++)
        p.first[k] = k;
    for (int k = 0; k < s->d; k++)
        p.order[k] = right_first ? s->d - 1 - k : k;
    ck_assert_int_eq(ttm_plan_finish(&p, s, "x", NULL), 0);
    return p;
}

/* Chain: the authors' order on their stored ranks. Merged: ours, after lossless rounding. */
static const struct {
    int in, out, rank;
    double chain, merged, resident;
    const char *fc, *proj;
} cost[] = {
    {768, 3072, 16, 1.0833, 0.5833, 0.0317, "contract [0 1 2][3 4] left first",
     "contract [0 1 2][3 4] right first"},
    {768, 3072, 32, 5.4583, 1.1667, 0.0634, "contract [0 1][2 3] left first",
     "contract [0 1][2 3] right first"},
    {768, 3072, 64, 21.583, 2.3333, 0.1267, "contract [0 1][2 3] left first",
     "contract [0 1][2 3] right first"},
    {768, 3072, 80, 34.063, 5.4167, 0.3212, "contract [0][1 2] left first",
     "contract [0][1 2] right first"},
    {1024, 4096, 72, 20.813, 4.7813, 0.2856, "contract [0][1 2] left first",
     "contract [0][1 2] right first"},
};

START_TEST(paper_costs)
{
    for (int mirror = 0; mirror < 2; mirror++) {
        int in = mirror ? cost[_i].out : cost[_i].in, out = mirror ? cost[_i].in : cost[_i].out;
        struct ttm_shape stored = paper_shape(in, out, cost[_i].rank, false), s = stored;
        double dense = (double)ttm_shape_dense(&s);
        struct ttm_plan chain = chain_plan(&stored, mirror);
        if (!mirror) assert_close((double)chain.mults_per_row / dense, cost[_i].chain, 0, 1e-3);
        ttm_shape_cap_exact(&s);
        struct ttm_plan p;
        struct ttm_workload w = one_row(&s);
        ck_assert_int_eq(ttm_plan_role(&p, &s, TTM_DECODE, &w, &ttm_rates_ideal, "x", NULL), 0);
        assert_close((double)p.mults_per_row / dense, cost[_i].merged, 0, 1e-3);
        assert_close((double)p.resident_floats / dense, cost[_i].resident, 0, 2e-3);
        char text[TTM_PLAN_TEXT];
        ttm_plan_format(&p, text);
        ck_assert_str_eq(text, mirror ? cost[_i].proj : cost[_i].fc);
    }
}
END_TEST

START_TEST(two_cores_are_cheaper)
{
    struct ttm_shape s;
    ck_assert_int_eq(ttm_shape_parse(&s, "(4,512)(192,6)", "x", NULL), 0);
    s.r[1] = 128;
    struct ttm_plan p;
    struct ttm_workload w = one_row(&s);
    ck_assert_int_eq(ttm_plan_role(&p, &s, TTM_DECODE, &w, &ttm_rates_ideal, "x", NULL), 0);
    ck_assert_uint_eq(ttm_shape_params(&s), 409600);
    assert_close((double)ttm_shape_params(&s) / 2359296, 0.17, 0.005, 0);
    ck_assert_uint_eq(p.mults_per_row, 2162688);
    assert_close((double)p.mults_per_row / 2359296, 0.92, 0.005, 0);
    char text[TTM_PLAN_TEXT];
    ttm_plan_format(&p, text);
    ck_assert_str_eq(text, "contract [0][1] right first");
    ck_assert_int_eq(ttm_shape_parse(&s, "(1,3072)(768,1)", "x", NULL), 0); /* plain low rank */
    s.r[1] = 100;
    ck_assert_int_eq(ttm_plan_role(&p, &s, TTM_DECODE, &w, &ttm_rates_ideal, "x", NULL), 0);
    ck_assert_uint_eq(p.mults_per_row, 100 * (768 + 3072));
    struct ttm_steps st;
    ttm_plan_steps(&st, &p, &s);
    ck_assert(st.step[0].in.identity && st.step[1].in.identity && st.out.identity);
}
END_TEST

/* Multiplications of contracting in an order, from first principles: every step multiplies each
 * element of the open tensor's other axes with a whole group. */
static uint64_t count_mults(const struct ttm_plan *p, const struct ttm_shape *s)
{
    uint64_t sum = 0;
    bool done[TTM_MAX_CORES] = {false};
    for (int i = 0; i < p->groups; i++) {
        int g = p->order[i];
        uint64_t size = 1;
        for (int o = 0; o < p->groups; o++)
            for (int k = p->first[o]; k < p->first[o + 1]; k++)
                size *= (uint64_t)(o == g ? s->m[k] * s->n[k] : done[o] ? s->n[k] : s->m[k]);
        size *= (uint64_t)s->r[p->first[g]] * (uint64_t)s->r[p->first[g + 1]];
        for (int o = 1; o < p->groups; o++)
            if (o != g && o != g + 1 && done[o] != done[o - 1]) size *= (uint64_t)s->r[p->first[o]];
        sum += size;
        done[g] = true;
    }
    return sum;
}

/* Can its groups be packed in 8 bits? */
static bool packable(const struct ttm_plan *p, const struct ttm_shape *s)
{
    struct ttm_steps st;
    if (p->method != TTM_CONTRACT) return true;
    ttm_plan_steps(&st, p, s);
    for (int i = 0; i < st.n; i++)
        if (st.step[i].k > INT8_MAX_K) return false;
    return true;
}

struct brute {
    const struct ttm_shape *s;
    const struct ttm_workload *w;
    const struct ttm_rates *m;
    size_t rows;
    double least;
};

/* Of a million plans: an assertion that holds writes to a file all the same. */
static void consider(struct brute *b, struct ttm_plan p)
{
    if (ttm_plan_finish(&p, b->s, "x", NULL)) ck_abort_msg("not a plan");
    if (p.method == TTM_CONTRACT && p.mults_per_row != count_mults(&p, b->s))
        ck_abort_msg("%llu multiplications, not %llu", (unsigned long long)p.mults_per_row,
                     (unsigned long long)count_mults(&p, b->s));
    if (b->w->dtype == DTYPE_I8 && !packable(&p, b->s)) return;
    if (b->w->budget_bytes && ttm_plan_bytes(&p, b->w->dtype) > b->w->budget_bytes) return;
    double t = ttm_plan_seconds(&p, b->s, b->rows, b->w, b->m);
    if (t < b->least) b->least = t;
}

static void permute(struct brute *b, struct ttm_plan *p, int at)
{
    if (at == p->groups) {
        consider(b, *p);
        return;
    }
    for (int i = at; i < p->groups; i++) {
        int t = p->order[at];
        p->order[at] = p->order[i];
        p->order[i] = t;
        permute(b, p, at + 1);
        p->order[i] = p->order[at];
        p->order[at] = t;
    }
}

static void try_everything(struct brute *b)
{
    b->least = INFINITY;
    int d = b->s->d, cheapest = d > 1;
    for (int k = 1; k < d; k++) {
        consider(b, (struct ttm_plan){.method = TTM_REBUILD, .split = k});
        if (b->s->r[k] < b->s->r[cheapest]) cheapest = k;
    }
    consider(b, (struct ttm_plan){.method = TTM_RESIDENT, .split = cheapest});
    for (unsigned cut = 1; cut < 1u << (d - 1); cut++) {
        struct ttm_plan p = {.method = TTM_CONTRACT, .groups = 1};
        for (int k = 1; k < d; k++)
            if (cut >> (k - 1) & 1) p.first[p.groups++] = k;
        p.first[p.groups] = d;
        for (int g = 0; g < p.groups; g++)
            p.order[g] = g;
        permute(b, &p, 0);
    }
}

static const struct ttm_rates machine = {.flops_few = 2e10,
                                         .flops_many = 2e11,
                                         .dram = 2e10,
                                         .cache = 1e11,
                                         .overhead_s = 2e-6,
                                         .cache_bytes = 32u << 20,
                                         .lanes = 32};

START_TEST(planner_is_brute_force)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_I8};
    struct draw d = {.seed = (uint64_t)_i + 1};
    for (int round = 0; round < 25; round++) {
        struct ttm_shape s = draw_shape(&d, 3000, 20);
        while (s.d > 6 && round % 8)
            s = draw_shape(&d, 3000, 20); /* 8! orders: not every time */
        if (s.d > 6 && harness_sanitized()) continue;
        struct ttm_workload w = {
            .rows = {(size_t)draw_int(&d, 1, 32), (size_t)draw_int(&d, 1, 600)},
            .dtype = types[draw_int(&d, 0, 2)],
            .layers = draw_int(&d, 1, 48)};
        if (draw_int(&d, 0, 1)) w.budget_bytes = ttm_shape_params(&s) * (size_t)draw_int(&d, 1, 20);
        for (int role = 0; role < TTM_ROLES; role++)
            for (int ideal = 0; ideal < 2; ideal++) {
                const struct ttm_rates *m = ideal ? &ttm_rates_ideal : &machine;
                struct brute b = {.s = &s, .w = &w, .m = m, .rows = w.rows[role]};
                try_everything(&b);
                struct ttm_plan p;
                struct err e = {0};
                int rc = ttm_plan_role(&p, &s, (enum ttm_role)role, &w, m, "h.0.mlp.c_fc", &e);
                ck_assert_int_eq(rc, b.least < INFINITY ? 0 : ERR_INVALID);
                if (rc) {
                    ck_assert_ptr_nonnull(strstr(e.msg, "h.0.mlp.c_fc: no plan for ("));
                    continue;
                }
                assert_close(ttm_plan_seconds(&p, &s, w.rows[role], &w, m), b.least, 0, 1e-12);
            }
    }
}
END_TEST

START_TEST(pairs_share_the_budget)
{
    struct ttm_shape s = paper_shape(768, 3072, 64, true);
    struct ttm_workload w = {.rows = {1, 512}, .share = {64, 1}, .dtype = DTYPE_F32, .layers = 24};
    struct ttm_plan free_pair[TTM_ROLES], pair[TTM_ROLES];
    ck_assert_int_eq(ttm_plan_layer(free_pair, &s, &w, &machine, "x", NULL), 0);
    double last = 0;
    for (size_t budget = 32u << 20; budget > ttm_shape_params(&s) * 4; budget /= 2) {
        w.budget_bytes = budget;
        struct err e = {0};
        if (ttm_plan_layer(pair, &s, &w, &machine, "h.3.mlp.c_fc", &e)) {
            ck_assert_int_eq(e.code, ERR_INVALID);
            ck_assert_ptr_nonnull(strstr(e.msg, "h.3.mlp.c_fc"));
            break;
        }
        ck_assert_uint_le(ttm_plan_pair_bytes(pair, w.dtype), budget);
        double t = 0;
        for (int r = 0; r < TTM_ROLES; r++)
            t += w.share[r] * ttm_plan_seconds(&pair[r], &s, w.rows[r], &w, &machine);
        ck_assert(t >= last);
        if (budget == 32u << 20) /* all there is room for: nothing is given up */
            for (int r = 0; r < TTM_ROLES; r++)
                ck_assert(ttm_plan_same(&pair[r], &free_pair[r]));
        last = t;
    }
    ck_assert(last > 0);
    struct ttm_plan same[TTM_ROLES] = {pair[0], pair[0]};
    ck_assert_uint_eq(ttm_plan_pair_bytes(same, DTYPE_F32), ttm_plan_bytes(&pair[0], DTYPE_F32));
}
END_TEST

/* All pairs of plans of two layers, each from its own list: what a budget can buy at best. */
static double best_of_two(const struct ttm_shape *s, const struct ttm_workload *w, size_t budget)
{
    double best = INFINITY;
    struct ttm_plan pair[2][TTM_ROLES];
    for (size_t a = 0; a <= budget; a += budget / 64) {
        double t = 0;
        for (int l = 0; l < 2; l++) {
            struct ttm_workload v = w[l];
            v.budget_bytes = l ? budget - a : a;
            if (v.budget_bytes == 0 || ttm_plan_layer(pair[l], &s[l], &v, &machine, "x", NULL))
                t = INFINITY;
            for (int r = 0; t < INFINITY && r < TTM_ROLES; r++)
                t += v.share[r] * ttm_plan_seconds(&pair[l][r], &s[l], v.rows[r], &v, &machine);
        }
        best = fmin(best, t);
    }
    return best;
}

START_TEST(a_budget_for_all_layers)
{
    struct ttm_shape s[2] = {paper_shape(768, 3072, 64, true), paper_shape(3072, 768, 64, true)};
    struct ttm_workload w[2];
    const char *names[] = {"h.0.mlp.c_fc", "h.0.mlp.c_proj"};
    for (int l = 0; l < 2; l++)
        w[l] = (struct ttm_workload){
            .rows = {16, 256}, .share = {16, 1}, .dtype = DTYPE_F32, .layers = 24};
    struct ttm_plan p[2][TTM_ROLES], alone[TTM_ROLES];
    ck_assert_int_eq(ttm_plan_model(p, s, 2, w, 0, NULL, &machine, names, NULL), 0);
    for (int l = 0; l < 2; l++) { /* without a limit each layer has what is best for it */
        ck_assert_int_eq(ttm_plan_layer(alone, &s[l], &w[l], &machine, names[l], NULL), 0);
        for (int r = 0; r < TTM_ROLES; r++)
            ck_assert(ttm_plan_same(&p[l][r], &alone[r]));
    }
    double last = 0;
    size_t least = 0;
    struct err e = {0};
    for (size_t budget = 24u << 20; !e.code; budget -= budget / 8) {
        if (ttm_plan_model(p, s, 2, w, budget, &least, &machine, names, &e)) break;
        double t = 0;
        size_t bytes = 0;
        for (int l = 0; l < 2; l++) {
            bytes += ttm_plan_pair_bytes(p[l], DTYPE_F32);
            for (int r = 0; r < TTM_ROLES; r++)
                t += w[l].share[r] *
                     ttm_plan_seconds(&p[l][r], &s[l], w[l].rows[r], &w[l], &machine);
        }
        ck_assert_uint_le(bytes, budget);
        ck_assert_msg(t <= 1.25 * best_of_two(s, w, budget), "%zu: %g against %g", budget, t,
                      best_of_two(s, w, budget));
        ck_assert_msg(t >= last * 0.999, "less memory made it faster");
        last = t;
    }
    ck_assert(last > 0);
    ck_assert_int_eq(e.code, ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(e.msg, "2 TTM layers take at least "));
    ck_assert_int_eq(ttm_plan_model(p, s, 2, w, least, NULL, &machine, names, NULL), 0);
}
END_TEST

START_TEST(methods_may_be_named)
{
    struct ttm_shape s = paper_shape(768, 3072, 64, true);
    struct ttm_workload w = {.rows = {32, 512}, .share = {1, 1}, .dtype = DTYPE_F32, .layers = 24};
    struct ttm_plan p[TTM_ROLES];
    for (int method = 0; method < TTM_METHODS; method++) {
        w.methods = 1u << method;
        ck_assert_int_eq(ttm_plan_layer(p, &s, &w, &machine, "x", NULL), 0);
        for (int r = 0; r < TTM_ROLES; r++)
            ck_assert_int_eq(p[r].method, method);
    }
    ck_assert_int_eq(s.r[3], 6); /* the smallest rank: a factor would be as large as W */
    ck_assert_int_eq(p[0].split, 2);
    struct ttm_shape one = {.d = 1, .m = {8}, .n = {8}, .r = {1, 1}, .in = 8, .out = 8};
    w.methods = 1u << TTM_CONTRACT;
    ck_assert_int_eq(ttm_plan_layer(p, &one, &w, &machine, "x", NULL), 0);
    ck_assert_int_eq(p[0].method, TTM_RESIDENT);
}
END_TEST

/* A group of GPT-2 XL's c_proj in this shape has 80 * 1024 inputs, which 8-bit weights cannot have: another way is
 * found for it, also where contracting is asked for. */
START_TEST(eight_bit_groups_can_be_packed)
{
    struct ttm_shape s;
    ck_assert_int_eq(ttm_shape_parse(&s, "(80,40)(80,40)", "x", NULL), 0);
    s.r[1] = 1024;
    struct ttm_workload w = {
        .rows = {8, 256}, .share = {16, 1}, .dtype = DTYPE_F32, .layers = 96, .below_dense = true};
    struct ttm_plan p[TTM_ROLES];
    ck_assert_int_eq(ttm_plan_layer(p, &s, &w, &machine, "x", NULL), 0);
    ck_assert_int_eq(p[0].method, TTM_CONTRACT);
    ck_assert(!packable(&p[0], &s));
    w.dtype = DTYPE_I8;
    for (unsigned methods = 0; methods < 1u << TTM_METHODS; methods++) {
        w.methods = methods;
        ck_assert_int_eq(ttm_plan_layer(p, &s, &w, &machine, "x", NULL), 0);
        for (int r = 0; r < TTM_ROLES; r++)
            ck_assert_int_ne(p[r].method, TTM_CONTRACT);
    }
    ck_assert_int_eq(ttm_shape_parse(&s, "(80,2)(4,2)(80,40)", "x", NULL), 0);
    s.r[1] = s.r[2] = 300;
    w.methods = 1u << TTM_CONTRACT; /* some groupings can: not [0 1][2] right first */
    ck_assert_int_eq(ttm_plan_layer(p, &s, &w, &machine, "x", NULL), 0);
    for (int r = 0; r < TTM_ROLES; r++)
        ck_assert(p[r].method == TTM_CONTRACT && packable(&p[r], &s));
    struct err e = {0};
    struct ttm_shape one = {.d = 1, .m = {65537}, .n = {8}, .r = {1, 1}, .in = 65537, .out = 8};
    ck_assert_int_eq(ttm_plan_layer(p, &one, &w, &machine, "h.0.c", &e), ERR_INVALID);
    ck_assert_str_eq(e.msg,
                     "h.0.c: no plan for (65537,8): 8-bit weights have at most 65536 inputs");
}
END_TEST

/* Compressed layers stay compressed, unless the cores are no smaller than the matrix. */
START_TEST(below_dense)
{
    struct ttm_shape s = paper_shape(768, 3072, 64, true);
    struct ttm_workload w = {
        .rows = {32, 512}, .share = {1, 1}, .dtype = DTYPE_F32, .layers = 24, .below_dense = true};
    struct ttm_plan p[TTM_ROLES];
    ck_assert_int_eq(ttm_plan_layer(p, &s, &w, &machine, "x", NULL), 0);
    ck_assert_uint_lt(ttm_plan_pair_bytes(p, DTYPE_F32), 768 * 3072 * 4);
    ck_assert_int_ne(p[0].method, TTM_RESIDENT);
    ck_assert_int_ne(p[1].method, TTM_RESIDENT);
    struct ttm_shape full;
    ck_assert_int_eq(ttm_shape_parse(&full, "(8,8)(8,8)", "x", NULL), 0);
    full.r[1] = 64;
    ck_assert_int_eq(ttm_plan_layer(p, &full, &w, &machine, "x", NULL), 0);
    ck_assert_int_eq(p[0].method, TTM_RESIDENT);
    ck_assert_int_eq(p[1].method, TTM_RESIDENT);
}
END_TEST

/* What the page on costs promises: contract for few rows, rebuild for many when W may not stay. */
START_TEST(roles_differ)
{
    struct ttm_shape s;
    ck_assert_int_eq(ttm_shape_parse(&s, "(4,512)(192,6)", "x", NULL), 0);
    s.r[1] = 128;
    struct ttm_workload w = {.rows = {1, 4096}, .dtype = DTYPE_F32, .layers = 24};
    w.budget_bytes = 4u << 20;
    struct ttm_plan p;
    ck_assert_int_eq(ttm_plan_role(&p, &s, TTM_DECODE, &w, &machine, "x", NULL), 0);
    ck_assert_int_eq(p.method, TTM_CONTRACT);
    struct ttm_shape paper64 = paper_shape(768, 3072, 64, true);
    ck_assert_int_eq(ttm_plan_role(&p, &paper64, TTM_PREFILL, &w, &machine, "x", NULL), 0);
    ck_assert_int_eq(p.method, TTM_REBUILD);
    w.budget_bytes = 0;
    w.rows[TTM_DECODE] = 64;
    ck_assert_int_eq(ttm_plan_role(&p, &paper64, TTM_DECODE, &w, &machine, "x", NULL), 0);
    ck_assert_int_eq(p.method, TTM_RESIDENT);
}
END_TEST

START_TEST(text)
{
    char t[TTM_PLAN_TEXT];
    struct ttm_plan p = {
        .method = TTM_CONTRACT, .groups = 3, .first = {0, 1, 3, 4}, .order = {1, 0, 2}};
    ttm_plan_format(&p, t);
    ck_assert_str_eq(t, "contract [0][1 2][3] order 1 0 2");
    p.method = TTM_REBUILD;
    ttm_plan_format(&p, t);
    ck_assert_str_eq(t, "rebuild");
    p.method = TTM_RESIDENT;
    ttm_plan_format(&p, t);
    ck_assert_str_eq(t, "resident");
    struct ttm_plan longest = {
        .method = TTM_CONTRACT, .groups = 8, .order = {0, 2, 1, 3, 4, 5, 6, 7}};
    for (int k = 0; k <= 8; k++)
        longest.first[k] = k;
    ttm_plan_format(&longest, t);
    ck_assert_str_eq(t, "contract [0][1][2][3][4][5][6][7] order 0 2 1 3 4 5 6 7");
}
END_TEST

START_TEST(impossible_plans)
{
    struct ttm_shape s;
    ck_assert_int_eq(ttm_shape_parse(&s, "(2,3)(3,2)(2,2)", "x", NULL), 0);
    const struct ttm_plan bad[] = {
        {.method = TTM_CONTRACT, .groups = 1, .first = {0, 3}},
        {.method = TTM_CONTRACT, .groups = 2, .first = {0, 1, 2}, .order = {0, 1}},
        {.method = TTM_CONTRACT, .groups = 2, .first = {0, 0, 3}, .order = {0, 1}},
        {.method = TTM_CONTRACT, .groups = 2, .first = {0, 1, 3}, .order = {1, 1}},
        {.method = TTM_CONTRACT, .groups = 2, .first = {0, 1, 3}, .order = {0, 2}},
        {.method = TTM_CONTRACT, .groups = 4, .first = {0, 1, 2, 3, 3}, .order = {0, 1, 2, 3}},
        {.method = TTM_REBUILD, .split = 0},
        {.method = TTM_REBUILD, .split = 3},
        {.method = TTM_RESIDENT, .split = 0},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct ttm_plan p = bad[i];
        struct err e = {0};
        ck_assert_int_eq(ttm_plan_finish(&p, &s, "h.1.attn.c_attn", &e), ERR_INVALID);
        ck_assert_ptr_nonnull(strstr(e.msg, "h.1.attn.c_attn: "));
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("ttm/plan");
    TCase *c = tcase_create("plan");
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, paper_costs, 0, (int)(sizeof cost / sizeof *cost));
    tcase_add_test(c, two_cores_are_cheaper);
    tcase_add_loop_test(c, planner_is_brute_force, 0, 4);
    tcase_add_test(c, pairs_share_the_budget);
    tcase_add_test(c, a_budget_for_all_layers);
    tcase_add_test(c, methods_may_be_named);
    tcase_add_test(c, eight_bit_groups_can_be_packed);
    tcase_add_test(c, below_dense);
    tcase_add_test(c, roles_differ);
    tcase_add_test(c, text);
    tcase_add_test(c, impossible_plans);
    suite_add_tcase(s, c);
    return s;
}
TEST_MAIN(suite)
