/* Shapes: the paper's factorisation and padding, rank caps, the parameter counts of the paper's
 * models as integers, text in both directions, and what malformed shapes are told. */
#include "engine/ttm/shape.h"

#include <limits.h>
#include <string.h>

#include "engine/base/rng.h"
#include "tests/support/harness.h"

/* One row of the paper's models: GPT-2's parameters without and with the two MLP biases, and what
 * each layer and the whole model store as published and after lossless rounding. */
static const struct {
    const char *name;
    int in, out, rank, layers;
    long base; /* parameters of everything but the two TTM weights per block */
    const char *cores;
    const char *stored_ranks, *exact_ranks;
    size_t stored, rounded;
    long total, total_rounded;
} paper[] = {
    {"small 16", 768, 3072, 16, 12, 67770624, "(4,4)(4,4)(4,4)(4,4)(3,12)", "1,16,16,16,16,1",
     "1,16,16,16,16,1", 13120, 13120, 68085504, 68085504},
    {"small 32", 768, 3072, 32, 12, 67770624, "(8,8)(8,8)(12,8)(1,6)", "1,32,32,32,1",
     "1,32,32,6,1", 166080, 86052, 71756544, 69835872},
    {"small 64", 768, 3072, 64, 12, 67770624, "(8,8)(8,8)(12,8)(1,6)", "1,64,64,64,1",
     "1,64,64,6,1", 659840, 303140, 83606784, 75045984},
    {"small 72", 768, 3072, 72, 12, 67816704, "(16,16)(16,16)(3,12)", "1,72,72,1", "1,72,36,1",
     1348128, 683280, 67816704 + 24 * 1348128, 67816704 + 24 * 683280},
    {"small 80", 768, 3072, 80, 12, 67816704, "(16,16)(16,16)(3,12)", "1,80,80,1", "1,80,36,1",
     1661760, 759056, 107698944, 86034048},
    {"medium 72", 1024, 4096, 72, 24, 153496576, "(16,16)(16,16)(4,16)", "1,72,72,1", "1,72,64,1",
     1350144, 1202176, 218303488, 211201024},
};

/* The parameters of a GPT-2 of C channels, L layers; the two MLP weights per block left out. */
static long gpt2_params(long c, long layers, bool mlp_bias)
{
    long attention = c * 3 * c + 3 * c + c * c + c, norms = 4 * c, bias = mlp_bias ? 5 * c : 0;
    return 50257 * c + 1024 * c + layers * (attention + norms + bias) + 2 * c;
}

START_TEST(paper_models)
{
    struct ttm_shape s;
    char text[TTM_SHAPE_TEXT];
    ck_assert_int_eq(ttm_shape_paper(&s, paper[_i].in, paper[_i].out, paper[_i].rank, "x", NULL),
                     0);
    ttm_shape_format(&s, text);
    ck_assert_str_eq(text, paper[_i].cores);
    ttm_shape_format_ranks(&s, text);
    ck_assert_str_eq(text, paper[_i].stored_ranks);
    ck_assert_uint_eq(ttm_shape_params(&s), paper[_i].stored);
    ttm_shape_cap_exact(&s);
    ttm_shape_format_ranks(&s, text);
    ck_assert_str_eq(text, paper[_i].exact_ranks);
    ck_assert_uint_eq(ttm_shape_params(&s), paper[_i].rounded);
    bool bias = paper[_i].rank >= 72;
    ck_assert_int_eq(gpt2_params(paper[_i].in, paper[_i].layers, bias), paper[_i].base);
}
END_TEST

START_TEST(paper_totals)
{
    long stored = 0, rounded = 0;
    for (int mirror = 0; mirror < 2; mirror++) { /* c_fc and c_proj, every block */
        struct ttm_shape s;
        int in = mirror ? paper[_i].out : paper[_i].in, out = mirror ? paper[_i].in : paper[_i].out;
        ck_assert_int_eq(ttm_shape_paper(&s, in, out, paper[_i].rank, "x", NULL), 0);
        stored += paper[_i].layers * (long)ttm_shape_params(&s);
        ttm_shape_cap_exact(&s);
        rounded += paper[_i].layers * (long)ttm_shape_params(&s);
    }
    ck_assert_int_eq(paper[_i].base + stored, paper[_i].total);
    ck_assert_int_eq(paper[_i].base + rounded, paper[_i].total_rounded);
}
END_TEST

START_TEST(paper_padding)
{
    static const int pads[][2] = {{1280, 1296}, {1600, 1728}, {5120, 5184}, {6400, 6561},
                                  {768, 768},   {1024, 1024}, {3072, 3072}, {4096, 4096},
                                  {1, 1},       {5, 6},       {7, 8},       {50257, 52488}};
    for (size_t i = 0; i < sizeof pads / sizeof *pads; i++)
        ck_assert_int_eq(ttm_pad(pads[i][0]), pads[i][1]);
    ck_assert_int_eq(ttm_pad(INT_MAX), 0);
    struct ttm_shape s;
    ck_assert_int_eq(ttm_shape_paper(&s, 1600, 6400, 64, "x", NULL), 0);
    ck_assert_int_eq(s.in, 1600);
    ck_assert_int_eq(s.out, 6400);
    ck_assert_uint_eq(ttm_shape_rows(&s), 1728);
    ck_assert_uint_eq(ttm_shape_cols(&s), 6561);
}
END_TEST

START_TEST(paper_rule_for_many_dimensions)
{
    for (uint64_t i = 0; i < 500; i++) {
        int in = 1 + (int)(rng_uniform(1, 0, i) * 5000),
            out = 1 + (int)(rng_uniform(1, 1, i) * 5000);
        int rank = 1 + (int)(rng_uniform(1, 2, i) * 100);
        struct ttm_shape s;
        struct err e = {0};
        if (ttm_shape_paper(&s, in, out, rank, "h.0.mlp.c_fc", &e)) {
            ck_assert_ptr_nonnull(strstr(e.msg, "more than 8 cores"));
            continue;
        }
        ck_assert_int_eq(ttm_shape_check(&s, "x", NULL), 0);
        ck_assert_uint_eq(ttm_shape_rows(&s), (size_t)ttm_pad(in));
        ck_assert_uint_eq(ttm_shape_cols(&s), (size_t)ttm_pad(out));
        for (int k = 0; k + 1 < s.d; k++)
            ck_assert_int_ge(s.m[k] * s.n[k], rank);
    }
}
END_TEST

START_TEST(exact_cap_is_a_fixed_point)
{
    for (uint64_t i = 0; i < 300; i++) {
        struct ttm_shape s = {.d = 1 + (int)(rng_uniform(2, 0, i) * 8)};
        for (int k = 0; k < s.d; k++) {
            s.m[k] = 1 + (int)(rng_uniform(2, 1, i * 8 + (uint64_t)k) * 4);
            s.n[k] = 1 + (int)(rng_uniform(2, 2, i * 8 + (uint64_t)k) * 4);
            s.r[k + 1] = 1 + (int)(rng_uniform(2, 3, i * 8 + (uint64_t)k) * 90);
        }
        s.r[0] = s.r[s.d] = 1;
        s.in = (int)ttm_shape_rows(&s);
        s.out = (int)ttm_shape_cols(&s);
        ck_assert_int_eq(ttm_shape_check(&s, "x", NULL), 0);
        struct ttm_shape c = s;
        ttm_shape_cap_exact(&c);
        for (int k = 0; k < s.d; k++) {
            ck_assert_int_le(c.r[k], s.r[k]);
            ck_assert_int_le(c.r[k + 1], c.r[k] * c.m[k] * c.n[k]);
            ck_assert_int_le(c.r[k], c.r[k + 1] * c.m[k] * c.n[k]);
        }
        struct ttm_shape again = c;
        ttm_shape_cap_exact(&again);
        ck_assert_mem_eq(&again, &c, sizeof c);
    }
}
END_TEST

START_TEST(text_round_trip)
{
    static const char *const spellings[] = {"(4,512)(192,6)", " ( 4 , 512 ) , ( 192 , 6 ) ",
                                            "(4,512)x(192,6)", "(4,512) (192,6)"};
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) {
        struct ttm_shape s;
        struct err e = {0};
        ck_assert_msg(!ttm_shape_parse(&s, spellings[i], "--shape", &e), "%s", e.msg);
        char text[TTM_SHAPE_TEXT];
        ttm_shape_format(&s, text);
        ck_assert_str_eq(text, "(4,512)(192,6)");
        ck_assert_int_eq(s.in, 768);
        ck_assert_int_eq(s.out, 3072);
    }
    struct ttm_shape s; /* the longest text there is fits */
    ck_assert_int_eq(
        ttm_shape_parse(&s, "(1,1)(1,1)(1,1)(1,1)(1,1)(1,1)(1,1)(1048576,1048576)", "x", NULL), 0);
}
END_TEST

START_TEST(malformed_text)
{
    static const char *const bad[] = {"",
                                      "(",
                                      "(4",
                                      "(4,",
                                      "(4,5",
                                      "(4,5)(",
                                      "4,5",
                                      "(0,5)",
                                      "(4,-5)",
                                      "(4,5)q",
                                      "(99999999999,1)",
                                      "(4,5),",
                                      "(4,5,6)",
                                      "(4 5)",
                                      "(,)",
                                      "(1,1)(1,1)(1,1)(1,1)(1,1)(1,1)(1,1)(1,1)(1,1)",
                                      "(65536,1)(65536,1)",
                                      "(1,65536)(1,65536)"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct ttm_shape s;
        struct err e = {0};
        memset(&s, 7, sizeof s);
        struct ttm_shape before = s;
        ck_assert_int_eq(ttm_shape_parse(&s, bad[i], "--shape", &e), ERR_INVALID);
        ck_assert_mem_eq(&s, &before, sizeof s);
        ck_assert_ptr_nonnull(strstr(e.msg, "--shape: "));
    }
}
END_TEST

static const struct ttm_shape good = {
    .d = 2, .m = {4, 192}, .n = {512, 6}, .r = {1, 128, 1}, .in = 768, .out = 3072};

START_TEST(malformed_shapes)
{
    struct ttm_shape s[10];
    static const char *const expect[10] = {
        "0 cores, expected 1..8",          "9 cores, expected 1..8",
        "core 1 has m = 0, expected >= 1", "core 0 has n = -3, expected >= 1",
        "rank r[1] = 0, expected",         "left rank is 2, expected 1",
        "right rank is 3, expected 1",     "multiply to 768, expected at least the layer's 769",
        "output factors multiply to 3072", "input factors exceeds"};
    for (int i = 0; i < 10; i++)
        s[i] = good;
    s[0].d = 0;
    s[1].d = 9;
    s[2].m[1] = 0;
    s[3].n[0] = -3;
    s[4].r[1] = 0;
    s[5].r[0] = 2;
    s[6].r[2] = 3;
    s[7].in = 769;
    s[8].out = 3073;
    s[9].m[0] = s[9].m[1] = 1 << 16;
    for (int i = 0; i < 10; i++) {
        struct err e = {0};
        ck_assert_int_eq(ttm_shape_check(&s[i], "h.3.mlp.c_fc", &e), ERR_INVALID);
        ck_assert_msg(strstr(e.msg, expect[i]) && strstr(e.msg, "h.3.mlp.c_fc"), "%d: %s", i,
                      e.msg);
    }
    struct ttm_shape big = good;
    big.r[1] = TTM_MAX_RANK + 1;
    struct err e = {0};
    ck_assert_int_eq(ttm_shape_check(&big, "x", &e), ERR_INVALID);
    big.m[0] = big.n[0] = 30000;
    big.r[1] = TTM_MAX_RANK;
    struct err f = {0};
    ck_assert_int_eq(ttm_shape_check(&big, "x", &f), ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(f.msg, "too large"));
    ck_assert_int_eq(ttm_shape_check(&good, "x", NULL), 0);
    ck_assert_int_eq(ttm_shape_paper(&s[0], 0, 4, 4, "x", NULL), ERR_INVALID);
    ck_assert_int_eq(ttm_shape_paper(&s[0], 4, 4, 0, "x", NULL), ERR_INVALID);
    ck_assert_int_eq(ttm_shape_paper(&s[0], 1024, 1024, 2, "x", NULL), ERR_INVALID);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("ttm/shape");
    TCase *c = tcase_create("shape");
    tcase_add_loop_test(c, paper_models, 0, (int)(sizeof paper / sizeof *paper));
    tcase_add_loop_test(c, paper_totals, 0, (int)(sizeof paper / sizeof *paper));
    tcase_add_test(c, paper_padding);
    tcase_add_test(c, paper_rule_for_many_dimensions);
    tcase_add_test(c, exact_cap_is_a_fixed_point);
    tcase_add_test(c, text_round_trip);
    tcase_add_test(c, malformed_text);
    tcase_add_test(c, malformed_shapes);
    suite_add_tcase(s, c);
    return s;
}
TEST_MAIN(suite)
