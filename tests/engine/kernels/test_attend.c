/* Attention over scattered blocks: against a plain double loop, the same bits however queries are
 * grouped, and blind to whatever lies after a query's position. */
#include "tests/engine/kernels/tables.h"

#define MAX_POS 128
#define MAX_D 80
#define BLOCKS (MAX_POS / KV_BLOCK)
static const enum dtype types[KV_DTYPES] = {DTYPE_F32, DTYPE_F16, DTYPE_I8};

struct cache {
    int d;
    enum dtype t;
    size_t block_bytes, k_offset, v_offset;
    char *kv;
    int32_t blocks[BLOCKS];
    float *k, *v, *q; /* (MAX_POS, d); k and v rounded to t */
};

/* A row of int8 has one scale, so that its largest element is 127 in magnitude; a row of zeros has none. */
static float row_scale(const float *x, int d)
{
    float top = 0;

    for (int i = 0; i < d; i++)
        top = fmaxf(top, fabsf(x[i]));
    return top / 127;
}

static void round_row(float *x, int d)
{
    float top = 127 * row_scale(x, d);

    for (int i = 0; i < d && top > 0; i++)
        x[i] = rintf(x[i] * (127 / top)) * (top / 127);
}

static float *rounded(int d, uint64_t stream, enum dtype t)
{
    size_t n = (size_t)(MAX_POS * d);
    float *x = floats(n, stream);

    for (int p = 0; p < MAX_POS; p++) /* rows of very different sizes, for scales to matter */
        for (int i = 0; i < d; i++)
            x[p * d + i] *= p % 9 == 4 ? 0 : 1 / (1 + (float)(p % 5));
    for (int p = 0; p < MAX_POS && t == DTYPE_I8; p++)
        round_row(x + p * d, d);
    if (t != DTYPE_I8) free(as_dtype(x, n, t));
    return x;
}

/* Blocks in a scrambled order; every byte that kv_put does not write is NaN. */
static void make_cache(struct cache *c, int d, enum dtype t, const struct kernels *k)
{
    size_t dp = ((size_t)d + KV_LANES - 1) / KV_LANES * KV_LANES;
    size_t n = (size_t)(MAX_POS * d);

    *c = (struct cache){.d = d, .t = t, .k_offset = 64};
    c->v_offset = c->k_offset + kv_k_bytes((size_t)d, t);
    c->block_bytes = c->v_offset + kv_v_bytes(dp, t);
    c->kv = mem_alloc(c->block_bytes * BLOCKS);
    memset(c->kv, 0xff, c->block_bytes * BLOCKS);
    c->k = rounded(d, 1, t);
    c->v = rounded(d, 2, t);
    c->q = floats(n, 3);
    for (int p = 0; p < MAX_POS && t == DTYPE_I8; p++)
        round_row(c->q + p * d, d);
    for (int b = 0; b < BLOCKS; b++)
        c->blocks[b] = (b * 5 + 3) % BLOCKS;
    for (int p = 0, run = 1; p < MAX_POS; p += run) { /* in runs of all lengths, from everywhere */
        char *block = c->kv + (size_t)c->blocks[p / KV_BLOCK] * c->block_bytes;
        int at = p % KV_BLOCK;
        run = run % 7 + 1 < KV_BLOCK - at ? run % 7 + 1 : KV_BLOCK - at;
        const struct kv_rows in = {
            .t = at, .n = run, .d = d, .k = c->k + p * d, .v = c->v + p * d, .ld = (size_t)d};
        k->kv_put[kv_slot(c->t)](block + c->k_offset, block + c->v_offset, &in);
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
                       .int8 = k->int8,
                       .scratch = scratch};
    memset(scratch, 0xff, floats_needed * sizeof *scratch);
    k->attend[kv_slot(c->t)](&a);
    free(scratch);
}

/* Attention, and how far off each channel may be because int8 rounds the weights of rows to INT8_WEIGHT steps:
 * half of a step times the row's numbers. A row's scale is a 127th of its largest element. */
static void naive(const struct cache *c, int pos, double *out, double *off)
{
    double s[MAX_POS], top = -1e300, sum = 0, heaviest = 0;

    for (int p = 0; p <= pos; p++) {
        s[p] = 0;
        for (int i = 0; i < c->d; i++)
            s[p] += (double)c->q[pos * c->d + i] * (double)c->k[p * c->d + i];
        s[p] /= sqrt(c->d);
        if (s[p] > top) top = s[p];
    }
    for (int i = 0; i < c->d; i++)
        out[i] = off[i] = 0;
    for (int p = 0; p <= pos; p++) {
        double e = exp(s[p] - top), scale = row_scale(c->v + p * c->d, c->d);
        sum += e;
        heaviest = fmax(heaviest, e * scale);
        for (int i = 0; i < c->d; i++) {
            out[i] += e * (double)c->v[p * c->d + i];
            if (scale > 0) off[i] += fabs((double)c->v[p * c->d + i]) / scale;
        }
    }
    for (int i = 0; i < c->d; i++) {
        out[i] /= sum;
        off[i] *= c->t == DTYPE_I8 ? heaviest / INT8_WEIGHT / 2 / sum : 0;
    }
}

/* Positions after `last` hold NaN, as if never written or another's. */
static void poison_after(const struct cache *c, const struct kernels *k, int last)
{
    float nan[MAX_D];

    for (int i = 0; i < MAX_D; i++)
        nan[i] = NAN;
    for (int p = last + 1; p < MAX_POS; p++) {
        char *block = c->kv + (size_t)c->blocks[p / KV_BLOCK] * c->block_bytes;
        const struct kv_rows in = {.t = p % KV_BLOCK, .n = 1, .d = c->d, .k = nan, .v = nan};
        k->kv_put[kv_slot(c->t)](block + c->k_offset, block + c->v_offset, &in);
    }
}

/* Those that models have, and those that fill no lane, quad or register. */
static const int sizes[] = {1, 3, 5, 8, 9, 16, 20, 33, 48, 64, 79, 80};
#define CASES ((int)(sizeof sizes / sizeof *sizes) * KV_DTYPES)

static void check_group(const struct cache *c, const struct kernels *k, int pos0, int nq)
{
    float out[ATTEND_MAX_Q * (MAX_D + 1)], one[MAX_D + 1];
    double want[MAX_D], off[MAX_D];

    for (int i = 0; i < ATTEND_MAX_Q * (MAX_D + 1); i++)
        out[i] = 77;
    run(c, k, pos0, nq, out);
    for (int i = 0; i < nq; i++) {
        const float *row = out + i * (c->d + 1);
        naive(c, pos0 + i, want, off);
        for (int j = 0; j < c->d; j++) /* an assertion that holds writes to a file all the same */
            if (!(fabs((double)row[j] - want[j]) < 2e-6 + off[j]))
                ck_abort_msg("%s d=%d pos %d+%d: %.9g, not %.9g", k->name, c->d, pos0, i,
                             (double)row[j], want[j]);
        if (row[c->d] != 77) ck_abort_msg("%s d=%d: wrote beyond its row", k->name, c->d);
        run(c, k, pos0 + i, 1, one);
        if (memcmp(row, one, (size_t)c->d * sizeof *row) != 0)
            assert_same(row, one, (size_t)c->d, k->name);
    }
}

START_TEST(groups_agree_with_the_naive_loop)
{
    const struct kernels *all[TABLES_MAX];
    int n = tables(all), d = sizes[_i / KV_DTYPES];
    struct cache c;

    for (int i = 0; i < n; i++) {
        make_cache(&c, d, types[_i % KV_DTYPES], all[i]);
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
    int n = tables(all), d = sizes[_i / KV_DTYPES];
    struct cache c;

    for (int i = 0; i < n; i++)
        for (int last = 7; last < 60; last += 13) {
            make_cache(&c, d, types[_i % KV_DTYPES], all[i]);
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
    double want[MAX_D], off[MAX_D];

    for (int i = 0; i < n; i++) {
        make_cache(&c, 64, DTYPE_F32, all[i]);
        for (int j = 0; j < MAX_POS * 64; j++)
            c.q[j] *= 300;
        run(&c, all[i], 100, 1, out);
        naive(&c, 100, want, off);
        for (int j = 0; j < 64; j++)
            assert_close(out[j], want[j], 2e-3, 0);
        free_cache(&c);
    }
}
END_TEST

/* Channel c of position p's row, as the tile has it. */
static float stored(const char *tile, bool key, size_t channels, size_t c, size_t p, enum dtype t)
{
    size_t at = key ? c * KV_BLOCK + p : p * channels + c;
    size_t bytes = key ? kv_k_bytes(channels, t) : kv_v_bytes(channels, t);
    float x, scale;

    if (t != DTYPE_I8) {
        dtype_to_f32(&x, tile + at * dtype_size(t), t, 1);
        return x;
    }
    at = (c / INT8_QUAD * KV_BLOCK + p) * INT8_QUAD + c % INT8_QUAD;
    if (!key) at = (p / INT8_QUAD * channels + c) * INT8_QUAD + p % INT8_QUAD;
    memcpy(&scale, tile + bytes - (KV_BLOCK - p) * sizeof scale, sizeof scale);
    return (float)((const int8_t *)tile)[at] * scale;
}

static void check_put(const struct kernels *table, enum dtype t, size_t d)
{
    size_t dp = (d + 15) / 16 * 16, k_bytes = kv_k_bytes(d, t), v_bytes = kv_v_bytes(dp, t);
    char *kt = mem_calloc(k_bytes, 1), *vt = mem_alloc(v_bytes);
    float k[MAX_D], v[MAX_D];

    for (size_t i = 0; i < d; i++) {
        k[i] = (float)i + 1;
        v[i] = -k[i];
    }
    memset(vt, 0xff, v_bytes);
    const struct kv_rows in = {.t = 11, .n = 1, .d = (int)d, .k = k, .v = v};
    table->kv_put[kv_slot(t)](kt, vt, &in);
    if (t == DTYPE_I8) {
        round_row(k, (int)d);
        round_row(v, (int)d);
    }
    for (size_t c = 0; c < dp; c++)
        ck_assert(stored(vt, false, dp, c, 11, t) == (c < d ? v[c] : 0));
    for (size_t c = 0; c < d; c++)
        for (size_t p = 0; p < KV_BLOCK; p++)
            ck_assert(stored(kt, true, d, c, p, t) == (p == 11 ? k[c] : 0));
    free(kt);
    free(vt);
}

START_TEST(kv_put_fills_column_row_and_padding)
{
    const struct kernels *all[TABLES_MAX];
    int n = tables(all);

    for (int i = 0; i < n; i++)
        for (int t = 0; t < KV_DTYPES; t++)
            for (size_t d = 5; d <= 80; d += 25)
                check_put(all[i], types[t], d);
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
