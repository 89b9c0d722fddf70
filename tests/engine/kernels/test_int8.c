/* 8-bit numbers: the sums of every instruction set are those of a loop in 64 bits, also at the ends of
 * the range; quantising and panels are the scalar table's bit for bit; a row is a function of itself. */
#include "tests/engine/kernels/tables.h"

static uint8_t *inputs(size_t rows, size_t ld, uint64_t stream)
{
    uint8_t *q = mem_alloc(rows * ld + 1);
    for (size_t i = 0; i < rows * ld; i++)
        q[i] = (uint8_t)(1 + (int)(rng_uniform(3, stream, i) * 255));
    return q;
}

static int8_t *weights(size_t n, uint64_t stream)
{
    int8_t *w = mem_alloc(n + 1);
    for (size_t i = 0; i < n; i++)
        w[i] = (int8_t)((int)(rng_uniform(4, stream, i) * 256) - 128);
    return w;
}

static void set_shift(int32_t shift[PACK_N], const int8_t *w, size_t quads)
{
    memset(shift, 0, PACK_N * sizeof *shift);
    for (size_t i = 0; i < quads * PACK_N * INT8_QUAD; i++)
        shift[i / INT8_QUAD % PACK_N] -= INT8_ZERO * w[i];
}

static int64_t naive(const uint8_t *q, const int8_t *w, size_t quads, size_t j)
{
    int64_t s = 0;
    for (size_t i = 0; i < quads; i++)
        for (size_t k = 0; k < INT8_QUAD; k++)
            s += ((int64_t)q[i * INT8_QUAD + k] - INT8_ZERO) * w[(i * PACK_N + j) * INT8_QUAD + k];
    return s;
}

static void check_sums(const uint8_t *q, size_t ld, size_t rows, const int8_t *w, size_t quads)
{
    const struct int8_kernels *all[TABLES_MAX];
    int n = int8_tables(all);
    int32_t shift[PACK_N], *out = mem_alloc(rows * PACK_N * sizeof *out);
    set_shift(shift, w, quads);
    const struct int8_rows x = {.q = q, .ld = ld};
    const struct int8_panel p = {.w = w, .quads = quads, .shift = shift};
    for (int t = 0; t < n; t++) {
        memset(out, 0x55, rows * PACK_N * sizeof *out);
        all[t]->sums(&x, rows, &p, out);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < PACK_N; j++)
                ck_assert_msg(out[r * PACK_N + j] == naive(q + r * ld, w, quads, j),
                              "%s: %zu rows, %zu quads, row %zu column %zu", all[t]->name, rows,
                              quads, r, j);
    }
    free(out);
}

START_TEST(sums_are_exact)
{
    static const size_t quads[] = {1, 2, 5, 12, 31, 64, 100, 192, 207};
    size_t k = quads[_i] * INT8_QUAD, ld = k + 3;
    int8_t *w = weights(k * PACK_N, 1);
    for (size_t rows = 1; rows <= 75; rows += rows < 19 ? 1 : 7) {
        uint8_t *q = inputs(rows, ld, 2);
        check_sums(q, ld, rows, w, quads[_i]);
        free(q);
    }
    free(w);
}
END_TEST

/* Nothing saturates, whatever the signs: all pairs of the extremes. */
START_TEST(extremes_are_exact)
{
    static const uint8_t ends_q[] = {1, 255};
    static const int8_t ends_w[] = {-128, 127};
    enum { QUADS = 131, ROWS = 13 };
    uint8_t q[ROWS * QUADS * INT8_QUAD];
    int8_t w[QUADS * PACK_N * INT8_QUAD];
    for (int same = 0; same < 2; same++) {
        for (size_t i = 0; i < sizeof q; i++)
            q[i] = ends_q[same ? _i % 2 : (int)(i * 7 / 3 % 2)];
        for (size_t i = 0; i < sizeof w; i++)
            w[i] = ends_w[same ? _i / 2 : (int)(i * 5 / 2 % 2)];
        check_sums(q, QUADS * INT8_QUAD, ROWS, w, QUADS);
        check_sums(q, QUADS * INT8_QUAD, ROWS / 2, w, QUADS);
    }
}
END_TEST

/* A tile of keys that lies where the sanitizer watches its end. */
static void *key_tile(size_t quads, uint64_t stream)
{
    size_t n = quads * KV_BLOCK * INT8_QUAD;
    int8_t *w = weights(n, stream), *tile = mem_alloc(n + KV_BLOCK * sizeof(int32_t));
    int32_t shift[KV_BLOCK] = {0};
    w[stream % n] = -128;
    for (size_t i = 0; i < n; i++)
        shift[i / INT8_QUAD % KV_BLOCK] -= INT8_ZERO * w[i];
    memcpy(tile, w, n);
    memcpy(tile + n, shift, sizeof shift);
    free(w);
    return tile;
}

static int32_t key_sum(const uint8_t *q, const int8_t *tile, size_t quads, size_t p)
{
    int32_t s = 0;
    for (size_t i = 0; i < quads; i++)
        for (size_t k = 0; k < INT8_QUAD; k++)
            s += (q[i * INT8_QUAD + k] - INT8_ZERO) * tile[(i * KV_BLOCK + p) * INT8_QUAD + k];
    return s;
}

/* Any number of queries with any number of tiles; nothing beyond the output's columns is touched. */
START_TEST(keys_are_exact)
{
    enum { TILES = 11, QUERIES = 8, LDO = TILES * KV_BLOCK + 3 };
    static const size_t sizes[] = {1, 2, 5, 16, 20};
    const struct int8_kernels *all[TABLES_MAX];
    int n_tables = int8_tables(all);
    size_t quads = sizes[_i], ld = quads * INT8_QUAD + 5;
    uint8_t *q = inputs(QUERIES, ld, 3);
    void *tile[TILES];
    int32_t *out = mem_alloc(QUERIES * LDO * sizeof *out);
    for (uint64_t j = 0; j < TILES; j++)
        tile[j] = key_tile(quads, 10 + j);
    q[0] = 255;
    q[ld] = 1;
    for (int t = 0; t < n_tables; t++)
        for (size_t rows = 1; rows <= QUERIES; rows++)
            for (size_t n = 1; n <= TILES; n++) {
                const struct int8_keys k = {(const void *const *)tile, n, quads, 64};
                memset(out, 0x55, QUERIES * LDO * sizeof *out);
                all[t]->keys(q, ld, rows, &k, out, LDO);
                for (size_t i = 0; i < QUERIES * LDO; i++) {
                    size_t r = i / LDO, j = i % LDO;
                    int32_t want = 0x55555555;
                    if (r < rows && j < n * KV_BLOCK)
                        want = key_sum(q + r * ld, tile[j / KV_BLOCK], quads, j % KV_BLOCK);
                    ck_assert_msg(out[i] == want, "%s: %zu queries, %zu tiles, %zu quads",
                                  all[t]->name, rows, n, quads);
                }
            }
    for (size_t j = 0; j < TILES; j++)
        free(tile[j]);
    free(q);
    free(out);
}
END_TEST

static int32_t value_sum(const struct int8_values *v, const uint8_t *digits, size_t s, size_t c)
{
    int32_t sum = 0;
    for (size_t p = 0; p < v->n * KV_BLOCK; p++) {
        size_t j = p / KV_BLOCK, at = p % KV_BLOCK;
        const char *tile = v->base + (size_t)v->blocks[j] * v->block_bytes;
        sum +=
            digits[(2 * j + s) * KV_BLOCK + at] *
            ((const int8_t *)tile)[(at / INT8_QUAD * v->channels + c) * INT8_QUAD + at % INT8_QUAD];
    }
    return sum;
}

/* Any number of rows, tiles and channels, the extremes among them; nothing else is touched. */
START_TEST(values_are_exact)
{
    enum {
        TILES = 5,
        ROWS = 8,
        CHANNELS = 80,
        BYTES = KV_BLOCK * CHANNELS,
        LD = 2 * TILES * KV_BLOCK + 3
    };
    static const int32_t blocks[TILES] = {3, 0, 4, 1, 2};
    const struct int8_kernels *all[TABLES_MAX];
    int n_tables = int8_tables(all);
    struct int8_values v = {.blocks = blocks, .channels = 16 * (size_t)(_i + 1)};
    v.block_bytes = KV_BLOCK * v.channels;
    int8_t *tiles = weights(TILES * v.block_bytes, 4);
    uint8_t *digits = inputs(ROWS, LD, 5);
    int32_t *out = mem_alloc((2 * ROWS * CHANNELS + 1) * sizeof *out);
    v.base = (const char *)tiles;
    for (size_t i = 0; i < ROWS * LD; i++)
        digits[i] = i % 5 == 0 ? INT8_DIGIT - 1 : digits[i] % INT8_DIGIT;
    for (size_t i = 0; i < v.block_bytes; i += 3)
        tiles[i] = i % 2 ? -128 : 127;
    for (int t = 0; t < n_tables; t++)
        for (size_t rows = 1; rows <= ROWS; rows++)
            for (v.n = 1; v.n <= TILES; v.n++) {
                size_t sums = 2 * rows * v.channels;
                out[sums] = 77;
                all[t]->values(&v, digits, LD, rows, out);
                for (size_t i = 0; i < sums; i++) {
                    size_t row = i / v.channels;
                    ck_assert_msg(out[i] ==
                                      value_sum(&v, digits + row / 2 * LD, row % 2, i % v.channels),
                                  "%s: %zu rows, %zu tiles, %zu channels", all[t]->name, rows, v.n,
                                  v.channels);
                }
                ck_assert_int_eq(out[sums], 77);
            }
    free(tiles);
    free(digits);
    free(out);
}
END_TEST

START_TEST(quantising_agrees)
{
    static const size_t sizes[] = {1, 3, 15, 16, 31, 48, 127, 768};
    const struct kernels *all[TABLES_MAX];
    int n = tables(all);
    size_t k = sizes[_i], padded = int8_quads(k) * INT8_QUAD;
    float *x = floats(k, 5), scale[2];
    uint8_t q[2][772];
    for (int kind = 0; kind < 5; kind++) {
        if (kind == 1) memset(x, 0, k * sizeof *x);
        if (kind == 2) x[k / 2] = -1e-35F; /* below INT8_LEAST: zero */
        if (kind == 3) x[k - 1] = INFINITY;
        if (kind == 4) x[k - 1] = NAN;
        for (int t = 0; t < n; t++) {
            int at = t > 0;
            memset(q[at], 0x77, sizeof q[at]);
            all[t]->quantise(q[at], padded, &scale[at], x, k);
            ck_assert_mem_eq(q[at], q[0], sizeof q[0]);
            if (kind < 3) assert_same(&scale[at], &scale[0], 1, all[t]->name);
            ck_assert((kind < 3) == (isfinite(scale[at]) != 0));
        }
        for (size_t i = 0; i < k; i++) {
            float back = scale[0] * (float)(q[0][i] - INT8_ZERO);
            if (kind < 3) ck_assert(fabsf(back - x[i]) <= 0.5001F * scale[0] + 2e-31F);
        }
        for (size_t i = k; i < padded; i++)
            ck_assert_uint_eq(q[0][i], INT8_ZERO);
    }
    free(x);
}
END_TEST

struct panel_case {
    size_t k, rows, cols, ldx, ldy;
    uint8_t *q;
    int8_t *w;
    float *scales, *w_scale, *bias, *residual, *start;
    int32_t shift[PACK_N];
    struct epilogue e;
};

static void make_case(struct panel_case *c, size_t k, size_t rows, size_t cols)
{
    *c = (struct panel_case){.k = k, .rows = rows, .cols = cols, .ldx = k + 5, .ldy = cols + 3};
    c->q = inputs(rows, c->ldx, 6);
    c->w = weights(k * PACK_N, 7);
    c->scales = floats(rows, 8);
    c->w_scale = floats(PACK_N, 9);
    c->bias = floats(cols, 10);
    c->residual = floats(rows * c->ldy, 11);
    c->start = floats(rows * c->ldy, 12);
    set_shift(c->shift, c->w, k / INT8_QUAD);
}

static void free_case(struct panel_case *c)
{
    void *all[] = {c->q, c->w, c->scales, c->w_scale, c->bias, c->residual, c->start};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static void run_case(const struct panel_case *c, const struct kernels *k, size_t row, size_t rows,
                     float *y)
{
    const struct int8_rows x = {c->q + row * c->ldx, c->ldx, c->scales + row};
    const struct int8_panel p = {
        .w = c->w, .quads = c->k / INT8_QUAD, .scale = c->w_scale, .shift = c->shift};
    struct epilogue e = c->e;
    if (e.residual) e.residual += row * c->ldy;
    if (e.start) e.start += row * c->ldy;
    k->panel_int8(k->int8, &x, rows, &p, y, c->ldy, c->cols, &e);
}

static double expected(const struct panel_case *c, size_t r, size_t j)
{
    double s = (double)naive(c->q + r * c->ldx, c->w, c->k / INT8_QUAD, j);
    s *= (double)c->scales[r] * (double)c->w_scale[j];
    if (c->e.start) s += (double)c->start[r * c->ldy + j];
    if (c->e.bias) s += (double)c->bias[j];
    if (c->e.act == ACT_RELU && s < 0) s = 0;
    return c->e.residual ? s + (double)c->residual[r * c->ldy + j] : s;
}

START_TEST(panels_agree)
{
    static const size_t cols[] = {1, 8, 17, 31, 32};
    const struct kernels *all[TABLES_MAX];
    int n = tables(all);
    for (unsigned m = 0; m < 8; m++) {
        struct panel_case c;
        make_case(&c, 52, m == 7 ? 99 : 5 + m, cols[_i]);
        c.e = (struct epilogue){.act = ACT_RELU, .ldr = c.ldy, .lds = c.ldy};
        if (m & 1) c.e.bias = c.bias;
        if (m & 2) c.e.residual = c.residual;
        if (m & 4) c.e.start = c.start;
        float *want = floats(c.rows * c.ldy, 13), *y = floats(c.rows * c.ldy, 13), alone[PACK_N];
        run_case(&c, all[0], 0, c.rows, want);
        for (size_t r = 0; r < c.rows; r++)
            for (size_t j = 0; j < c.cols; j++) {
                double e = expected(&c, r, j);
                ck_assert(fabs((double)want[r * c.ldy + j] - e) <= 1e-6 * (fabs(e) + 1e5));
            }
        for (int t = 1; t < n; t++) {
            run_case(&c, all[t], 0, c.rows, y);
            assert_same(y, want, c.rows * c.ldy, all[t]->name);
            for (size_t r = 0; r < c.rows; r++) {
                run_case(&c, all[t], r, 1, alone);
                assert_same(alone, want + r * c.ldy, c.cols, all[t]->name);
            }
        }
        free(want);
        free(y);
        free_case(&c);
    }
}
END_TEST

START_TEST(a_bad_scale_stays_in_its_row)
{
    const struct kernels *all[TABLES_MAX];
    int n = tables(all);
    struct panel_case c;
    make_case(&c, 16, 14, 32);
    c.scales[5] = NAN;
    float *y = floats(c.rows * c.ldy, 1);
    for (int t = 0; t < n; t++) {
        run_case(&c, all[t], 0, c.rows, y);
        for (size_t r = 0; r < c.rows; r++)
            for (size_t j = 0; j < c.cols; j++)
                ck_assert((isnan(y[r * c.ldy + j]) != 0) == (r == 5));
    }
    free(y);
    free_case(&c);
}
END_TEST

/* What the machine's limit is measured with does as much as it says. */
START_TEST(spinning_ends)
{
    const struct int8_kernels *all[TABLES_MAX];
    int n = int8_tables(all);
    for (int t = 0; t < n; t++) {
        ck_assert_uint_gt(all[t]->turn_ops, 0);
        ck_assert_int_eq(all[t]->spin(3), all[t]->spin(3));
    }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("int8");
    TCase *t = tcase_create("int8");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, sums_are_exact, 0, 9);
    tcase_add_loop_test(t, extremes_are_exact, 0, 4);
    tcase_add_loop_test(t, keys_are_exact, 0, 5);
    tcase_add_loop_test(t, values_are_exact, 0, 5);
    tcase_add_loop_test(t, quantising_agrees, 0, 8);
    tcase_add_loop_test(t, panels_agree, 0, 5);
    tcase_add_test(t, a_bad_scale_stays_in_its_row);
    tcase_add_test(t, spinning_ends);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
