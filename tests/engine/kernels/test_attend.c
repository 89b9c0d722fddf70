/* Attention over scattered blocks: against a plain double loop, the same bits however queries are
 * grouped, and blind to whatever lies after a query's position. */
#include "tests/engine/kernels/tables.h"

#define MAX_POS 128
#define MAX_D 80
#define BLOCKS (MAX_POS / KV_BLOCK)
#define TYPES 2 /* F32, F16 */

struct cache {
    int d;
    enum dtype t;
    size_t block_bytes, k_offset, v_offset;
    char *kv;
    int32_t blocks[BLOCKS];
    float *k, *v, *q; /* (MAX_POS, d); k and v rounded to t */
};

static float *rounded(size_t n, uint64_t stream, enum dtype t)
{
    float *x = floats(n, stream);
    free(as_dtype(x, n, t));
    return x;
}

/* Blocks in a scrambled order; every byte that kv_put does not write is NaN. */
static void make_cache(struct cache *c, int d, enum dtype t, const struct kernels *k)
{
    size_t dp = ((size_t)d + KV_LANES - 1) / KV_LANES * KV_LANES, es = dtype_size(t);
    size_t n = (size_t)(MAX_POS * d);

    *c = (struct cache){.d = d, .t = t, .k_offset = 64};
    c->v_offset = c->k_offset + (size_t)d * KV_BLOCK * es;
    c->block_bytes = (c->v_offset + KV_BLOCK * dp * es + 63) / 64 * 64;
    c->kv = mem_alloc(c->block_bytes * BLOCKS);
    memset(c->kv, 0xff, c->block_bytes * BLOCKS);
    c->k = rounded(n, 1, t);
    c->v = rounded(n, 2, t);
    c->q = floats(n, 3);
    for (int b = 0; b < BLOCKS; b++)
        c->blocks[b] = (b * 5 + 3) % BLOCKS;
    for (int p = 0; p < MAX_POS; p++) {
        char *block = c->kv + (size_t)c->blocks[p / KV_BLOCK] * c->block_bytes;
        k->kv_put[t](block + c->k_offset, block + c->v_offset, p % KV_BLOCK, d, c->k + p * d,
                     c->v + p * d);
    }
}

static void free_cache(struct cache *c)
{
    free(c->kv);
    free(c->k);
    free(c->v);
    free(c->q);
}

/* out (nq, d + 1), queries pos0.. */
static void run(const struct cache *c, const struct kernels *k, int pos0, int nq, float *out)
{
    size_t floats_needed = attend_scratch_floats(c->d, pos0 + nq);
    float *scratch = aligned_alloc(64, (floats_needed * sizeof *scratch + 63) / 64 * 64);
    struct attend a = {.q = c->q + pos0 * c->d,
                       .ldq = (size_t)c->d,
                       .out = out,
                       .ldo = (size_t)c->d + 1,
                       .nq = nq,
                       .pos0 = pos0,
                       .d = c->d,
                       .scale = 1.0F / sqrtf((float)c->d),
                       .kv = c->kv,
                       .blocks = c->blocks,
                       .block_bytes = c->block_bytes,
                       .k_offset = c->k_offset,
                       .v_offset = c->v_offset,
                       .scratch = scratch};
    memset(scratch, 0xff, floats_needed * sizeof *scratch);
    k->attend[c->t](&a);
    free(scratch);
}

static void naive(const struct cache *c, int pos, double *out)
{
    double s[MAX_POS], top = -1e300, sum = 0;

    for (int p = 0; p <= pos; p++) {
        s[p] = 0;
        for (int i = 0; i < c->d; i++)
            s[p] += (double)c->q[pos * c->d + i] * (double)c->k[p * c->d + i];
        s[p] /= sqrt(c->d);
        if (s[p] > top) top = s[p];
    }
    for (int i = 0; i < c->d; i++)
        out[i] = 0;
    for (int p = 0; p <= pos; p++) {
        double e = exp(s[p] - top);
        sum += e;
        for (int i = 0; i < c->d; i++)
            out[i] += e * (double)c->v[p * c->d + i];
    }
    for (int i = 0; i < c->d; i++)
        out[i] /= sum;
}

/* Positions after `last` hold NaN, as if never written or another's. */
static void poison_after(const struct cache *c, const struct kernels *k, int last)
{
    float nan[MAX_D];

    for (int i = 0; i < MAX_D; i++)
        nan[i] = NAN;
    for (int p = last + 1; p < MAX_POS; p++) {
        char *block = c->kv + (size_t)c->blocks[p / KV_BLOCK] * c->block_bytes;
        k->kv_put[c->t](block + c->k_offset, block + c->v_offset, p % KV_BLOCK, c->d, nan, nan);
    }
}

static const int sizes[] = {8, 16, 48, 64, 80};
#define CASES (5 * TYPES)

static void check_group(const struct cache *c, const struct kernels *k, int pos0, int nq)
{
    float out[ATTEND_MAX_Q * (MAX_D + 1)], one[MAX_D + 1];
    double want[MAX_D];

    for (int i = 0; i < ATTEND_MAX_Q * (MAX_D + 1); i++)
        out[i] = 77;
    run(c, k, pos0, nq, out);
    for (int i = 0; i < nq; i++) {
        const float *row = out + i * (c->d + 1);
        naive(c, pos0 + i, want);
        for (int j = 0; j < c->d; j++)
            ck_assert_msg(fabs((double)row[j] - want[j]) < 2e-6,
                          "%s d=%d pos %d+%d: %.9g, not %.9g", k->name, c->d, pos0, i,
                          (double)row[j], want[j]);
        ck_assert(row[c->d] == 77);
        run(c, k, pos0 + i, 1, one);
        assert_same(row, one, (size_t)c->d, k->name);
    }
}

START_TEST(groups_agree_with_the_naive_loop)
{
    const struct kernels *all[TABLES_MAX];
    int n = tables(all), d = sizes[_i / TYPES];
    struct cache c;

    for (int i = 0; i < n; i++) {
        make_cache(&c, d, (enum dtype)(_i % TYPES), all[i]);
        for (int pos0 = 0; pos0 <= 100; pos0 += pos0 < 18 ? 1 : 9)
            for (int nq = 1; nq <= ATTEND_MAX_Q; nq++)
                check_group(&c, all[i], pos0, nq);
        free_cache(&c);
    }
}
END_TEST

START_TEST(what_lies_after_a_query_is_not_seen)
{
    const struct kernels *all[TABLES_MAX];
    int n = tables(all), d = sizes[_i / TYPES];
    struct cache c;

    for (int i = 0; i < n; i++)
        for (int last = 7; last < 60; last += 13) {
            make_cache(&c, d, (enum dtype)(_i % TYPES), all[i]);
            float before[ATTEND_MAX_Q * (MAX_D + 1)], after[ATTEND_MAX_Q * (MAX_D + 1)];
            run(&c, all[i], last - 7, 8, before);
            poison_after(&c, all[i], last - 3);
            run(&c, all[i], last - 7, 8, after);
            for (int q = 0; q < 5; q++)
                assert_same(after + q * (d + 1), before + q * (d + 1), (size_t)d, all[i]->name);
            for (int q = 5; q < 8; q++)
                ck_assert(isnan(after[q * (d + 1)]));
            free_cache(&c);
        }
}
END_TEST

/* Scores of hundreds overflow exp() unless the maximum is taken off. */
START_TEST(large_scores_do_not_overflow)
{
    const struct kernels *all[TABLES_MAX];
    int n = tables(all);
    struct cache c;
    float out[MAX_D + 1];
    double want[MAX_D];

    for (int i = 0; i < n; i++) {
        make_cache(&c, 64, DTYPE_F32, all[i]);
        for (int j = 0; j < MAX_POS * 64; j++)
            c.q[j] *= 300;
        run(&c, all[i], 100, 1, out);
        naive(&c, 100, want);
        for (int j = 0; j < 64; j++)
            assert_close(out[j], want[j], 2e-3, 0);
        free_cache(&c);
    }
}
END_TEST

START_TEST(kv_put_fills_column_row_and_padding)
{
    const struct kernels *all[TABLES_MAX];
    int n = tables(all);
    float k[MAX_D], v[MAX_D], got;

    for (int i = 0; i < MAX_D; i++) {
        k[i] = (float)i + 1;
        v[i] = (float)-i - 1;
    }
    for (int i = 0; i < n; i++)
        for (int t = 0; t < TYPES; t++)
            for (int d = 5; d <= 80; d += 25) {
                size_t dp = ((size_t)d + 15) / 16 * 16, es = dtype_size((enum dtype)t);
                char *kt = mem_calloc((size_t)d * KV_BLOCK, es),
                     *vt = mem_alloc(KV_BLOCK * dp * es);
                memset(vt, 0xff, KV_BLOCK * dp * es);
                all[i]->kv_put[t](kt, vt, 11, d, k, v);
                for (size_t c = 0; c < dp; c++) {
                    dtype_to_f32(&got, vt + (11 * dp + c) * es, (enum dtype)t, 1);
                    ck_assert(got == (c < (size_t)d ? v[c] : 0));
                }
                for (size_t c = 0; c < (size_t)d * KV_BLOCK; c++) {
                    dtype_to_f32(&got, kt + c * es, (enum dtype)t, 1);
                    ck_assert(got == (c % KV_BLOCK == 11 ? k[c / KV_BLOCK] : 0));
                }
                free(kt);
                free(vt);
            }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("attend");
    TCase *t = tcase_create("attend");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, groups_agree_with_the_naive_loop, 0, CASES);
    tcase_add_loop_test(t, what_lies_after_a_query_is_not_seen, 0, CASES);
    tcase_add_test(t, large_scores_do_not_overflow);
    tcase_add_test(t, kv_put_fills_column_row_and_padding);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
