/* ttm compress: what it writes is what it says. Errors are measured again here, budgets counted, exact
 * compression compared with the original, and nothing is left behind by a failure. */
#include <stdio.h>
#include <sys/stat.h>

#include "engine/ttm/shapes_front.h"
#include "tests/models/rewrite_testing.h"

static struct make_model small(void)
{
    return (struct make_model){.channels = 32, .positions = 32, .seed = 5};
}

/* The row of a layer in the table: what stands in its columns. */
struct row {
    char shape[TTM_SHAPE_TEXT], ranks[TTM_SHAPE_TEXT];
    size_t params;
    double relative, error, mults, before, after;
    int columns;
};

static struct row row_of(const char *text, const char *layer)
{
    struct row r = {0};
    const char *at = strstr(text, layer);
    ck_assert_msg(at != NULL, "%s is not in\n%s", layer, text);
    char line[512];
    snprintf(line, sizeof line, "%.*s", (int)strcspn(at, "\n"), at);
    r.columns = sscanf(line, "%*s %255s %255s %zu %lf %lf %lf %lf %lf", r.shape, r.ranks, &r.params,
                       &r.relative, &r.error, &r.mults, &r.before, &r.after);
    ck_assert_int_ge(r.columns, 6);
    return r;
}

/* Every chosen layer's row against the directory written. */
static void check_rows(const char *text, const char *from, const char *to)
{
    struct layers a, b;
    open_layers(&a, from);
    open_layers(&b, to);
    for (size_t i = 0; i < b.n; i++) {
        if (b.layer[i].weight) continue;
        const struct ttm_shape *s = &b.layer[i].ttm.shape;
        struct row r = row_of(text, b.layer[i].name);
        struct shapes_point p;
        char shape[TTM_SHAPE_TEXT], ranks[TTM_SHAPE_TEXT];
        ttm_shape_format(s, shape);
        ttm_shape_format_ranks(s, ranks);
        shapes_point_of(&p, s, NULL);
        ck_assert_str_eq(r.shape, shape);
        ck_assert_str_eq(r.ranks, ranks);
        ck_assert_uint_eq(r.params, p.params);
        assert_close(r.error, layer_distance(&b, &a, i), 1e-6, 0);
        assert_close(r.relative, (double)p.params / (double)ttm_shape_dense(s), 1e-4, 0);
        assert_close(r.mults, (double)p.mults / (double)ttm_shape_dense(s), 1e-3, 0);
    }
    same_others(&a, &b);
    layers_close(&a);
    layers_close(&b);
}

static const char *const exact[][2] = {{"--error", "0"}, {"--rank", "1000"}};
static const char *const prefixes[] = {"transformer.", "", "module."};

START_TEST(exact_compression_is_the_same_model)
{
    struct make_model m = small();
    m.prefix = prefixes[_i];
    const char *from = new_model("from", m), *d = temp_dir();
    const char *to = path_join(d, "to"), *back = path_join(d, "back");
    for (int k = 0; k < 2; k++) {
        char *text = RUN(cmd_compress, from, "-o", to, "--layers", "all", exact[k][0], exact[k][1],
                         "--force");
        check_rows(text, from, to);
        free(text);
        free(RUN(cmd_export, to, "-o", back, "--force"));
        struct layers a, b, c;
        open_layers(&a, from);
        open_layers(&b, back);
        open_layers(&c, to);
        for (size_t i = 0; i < a.n; i++) {
            char name[80];
            ck_assert(layer_distance(&b, &a, i) < 1e-5);
            snprintf(name, sizeof name, "%s%s.ttm.cores.1", prefixes[_i], a.layer[i].name);
            ck_assert_ptr_nonnull(st_find(c.set, name));
        }
        same_others(&a, &b);
        ck_assert_uint_eq(st_count(a.set), st_count(b.set));
        for (size_t i = 0; i < st_count(a.set); i++)
            ck_assert_str_eq(st_at(a.set, i)->name, st_at(b.set, i)->name);
        layers_close(&a);
        layers_close(&b);
        layers_close(&c);
    }
    ck_assert(same_file(from, to, "config.json") && same_file(from, back, "config.json"));
    ck_assert(same_file(from, to, "tokenizer.json") && same_file(from, back, "vocab.json"));
}
END_TEST

static const char *const ways[][8] = {
    {"--layers", "mlp", "--rank", "6"},
    {"--layers", "mlp", "--rank", "6", "--shape", "paper"},
    {"--layers", "h.*.mlp.*", "--rank", "5", "--shape", "(4,16)(8,8)"},
    {"--layers", "all", "--error", "0.4", "--threads", "3"},
    {"--layers", "h.0.mlp.c_fc", "--error", "0.4", "--shape", "(2,8)(4,4)(5,5)"},
    {"--layers", "mlp", "--params", "0.8"},
    {"--layers", "mlp", "--params", "0.8", "--shape", "(4,16)(8,8)"},
    {"--layers", "mlp", "--error", "0.3", "--dtype", "f16"},
    {"--layers", "mlp", "--error", "0.3", "--dtype", "bf16"},
};

START_TEST(reports_are_true)
{
    const char *from = new_model("from", small()), *to = path_join(temp_dir(), "to");
    const char *args[16] = {from, "-o", to};
    for (int i = 0; i < 8 && ways[_i][i]; i++)
        args[3 + i] = ways[_i][i];
    char *text = tool_ok(cmd_compress, args);
    struct layers a, b;
    size_t stored, dense, again;
    open_layers(&a, from);
    open_layers(&b, to);
    layers_params(&a, &stored, &dense);
    layers_params(&b, &stored, &again);
    ck_assert_uint_eq(dense, again);
    char total[96];
    snprintf(total, sizeof total, "model          %zu of %zu parameters", stored, dense);
    ck_assert_msg(strstr(text, total) != NULL, "%s is not in\n%s", total, text);
    bool narrow = !strcmp(ways[_i][4] ? ways[_i][4] : "", "--dtype");
    for (size_t i = 0; i < b.n; i++) {
        if (b.layer[i].weight) continue;
        double lost = layer_distance(&b, &a, i);
        if (!strcmp(ways[_i][2], "--error")) {
            double bound = strtod(ways[_i][3], NULL);
            ck_assert(lost <= bound + (narrow ? 5e-3 : 1e-6) && lost > bound / 2);
        }
        for (int k = 1; !strcmp(ways[_i][2], "--rank") && k < b.layer[i].ttm.shape.d; k++)
            ck_assert_int_le(b.layer[i].ttm.shape.r[k], (int)strtol(ways[_i][3], NULL, 10));
    }
    if (!strcmp(ways[_i][2], "--params")) {
        ck_assert(stored <= (size_t)(0.8 * (double)dense));
        ck_assert(stored > (size_t)(0.78 * (double)dense));
    }
    layers_close(&a);
    layers_close(&b);
    if (!narrow) check_rows(text, from, to);
    free(text);
}
END_TEST

/* Every weight fits into F16, the norm of a layer does not; and what does not fit is named. */
START_TEST(f16_holds_what_it_can)
{
    struct make_model m = small();
    m.std = 12000;
    m.dtype = DTYPE_F16;
    const char *from = new_model("from", m), *top = temp_dir(), *to = path_join(top, "to");
    struct layers a, b;
    free(RUN(cmd_compress, from, "-o", to, "--layers", "mlp", "--error", "0", "--shape",
             "(16,64)(2,2)"));
    open_layers(&a, from);
    open_layers(&b, to);
    for (size_t i = 2; i < 4; i++) {
        ck_assert_int_eq(layers_dtype(&b.layer[i]), DTYPE_F16);
        assert_close(layer_distance(&b, &a, i), 0, 2e-3, 0);
    }
    layers_close(&a);
    layers_close(&b);
    m.std = 1e12;
    m.dtype = DTYPE_F32;
    const char *large = new_model("large", m), *out = path_join(top, "out");
    static const char *const says[] = {"h.0.mlp.c_fc: core 0 has the value ",
                                       ", which is too large for F16"};
    for (int i = 0; i < 2; i++)
        REFUSED(cmd_compress, says[i], large, "-o", out, "--layers", "mlp", "--rank", "8",
                "--shape", "(4,16)(8,8)", "--dtype", "f16");
    ck_assert_int_eq(tool_entries(top), 1);
}
END_TEST

START_TEST(a_calibrated_model_is_better_on_its_text)
{
    const char *from = new_model("from", small()), *d = temp_dir();
    const char *to = path_join(d, "to"), *file = path_join(d, "text");
    struct buf words = {0};
    for (int i = 0; i < 40; i++)
        buf_printf(&words, "line %d of %d is %c and so on\n", i, i * i, 'a' + i % 26);
    write_file(file, words.data, words.len);
    buf_release(&words);
    char *text = RUN(cmd_compress, from, "-o", to, "--layers", "all", "--rank", "4", "--calibrate",
                     file, "--eval", file, "--threads", "2");
    struct layers l;
    open_layers(&l, to);
    for (size_t i = 0; i < l.n; i++) {
        struct row r = row_of(text, l.layer[i].name);
        ck_assert_int_eq(r.columns, 8);
        ck_assert(r.after < r.before && r.after > 0);
    }
    layers_close(&l);
    check_rows(text, from, to);
    double before, after;
    const char *line = strstr(text, "perplexity");
    ck_assert_ptr_nonnull(line);
    ck_assert_int_eq(sscanf(line, "perplexity %lf before, %lf after", &before, &after), 2);
    const char *dirs[] = {from, to};
    for (int i = 0; i < 2; i++) { /* as ttm eval says */
        char *out = RUN(cmd_eval, dirs[i], "--text", file), again[64];
        snprintf(again, sizeof again, "perplexity       %.4f\n", i ? after : before);
        ck_assert_msg(strstr(out, again) != NULL, "%s is not in\n%s", again, out);
        free(out);
    }
    free(text);
}
END_TEST

START_TEST(layers_that_are_ttm_stay)
{
    struct make_model m = small();
    m.ttm[2] = "(4,16)(8,8)";
    const char *from = new_model("from", m), *to = path_join(temp_dir(), "to");
    struct tool_result r;
    struct layers a, b;
    TOOL(&r, cmd_compress, from, "-o", to, "--layers", "mlp", "--rank", "4");
    ck_assert_msg(r.rc == 0, "%s", r.err.msg);
    ck_assert_str_eq(r.log, "2 of the layers chosen are Tensor-Train matrices and stay so\n");
    ck_assert_ptr_null(strstr(r.out, "c_fc"));
    tool_result_release(&r);
    open_layers(&a, from);
    open_layers(&b, to);
    for (int k = 0; k < 2; k++) {
        const struct st_tensor *x = a.layer[2].ttm.core[k], *y = b.layer[2].ttm.core[k];
        ck_assert_uint_eq(x->bytes, y->bytes);
        ck_assert_mem_eq(x->data, y->data, x->bytes);
    }
    ck_assert_ptr_null(b.layer[3].weight);
    layers_close(&a);
    layers_close(&b);
    REFUSED(cmd_compress, "all of these layers are Tensor-Train matrices already", to, "-o",
            path_join(temp_dir(), "x"), "--layers", "mlp", "--rank", "2");
}
END_TEST

START_TEST(bad_flags)
{
    const char *m = new_model("from", small()), *top = temp_dir(), *o = path_join(top, "to");
    const char *empty = path_join(temp_dir(), "empty");
    write_file(empty, "", 0);
#define BAD(says, ...) REFUSED(cmd_compress, says, m, "-o", o, __VA_ARGS__)
    REFUSED(cmd_compress, "--out is missing", m, "--layers", "mlp", "--rank", "4");
    BAD("--layers is missing", "--rank", "4");
    BAD("--rank, --error and --params is needed, 0 are given", "--layers", "mlp");
    BAD("2 are given", "--layers", "mlp", "--rank", "4", "--error", "0.1");
    BAD("--rank: 0 is outside", "--layers", "mlp", "--rank", "0");
    BAD("--error: -1 is outside 0..1", "--layers", "mlp", "--error", "-1");
    BAD("\"x.*\" matches none of the layers", "--layers", "x.*", "--rank", "4");
    BAD("paper needs --rank", "--layers", "mlp", "--error", "0.1", "--shape", "paper");
    BAD("auto stands alone", "--layers", "mlp", "--rank", "4", "--shape", "auto", "--shape",
        "(4,4)");
    BAD("malformed at character 8", "--layers", "mlp", "--rank", "4", "--shape", "(4,16),,(8,8)");
    BAD("\"(4,16)(8,9)\" is not of the size (32,96) of layer h.0.attn.c_attn", "--layers", "all",
        "--rank", "4", "--shape", "(4,16)(8,9)");
    BAD("--params: h.0.mlp.c_fc: 1 parameters are too few for a (32,128) layer", "--layers", "mlp",
        "--params", "0.5463");
    BAD("--params: 7 parameters are too few: ranks of 1", "--layers", "mlp", "--params", "0.5463",
        "--shape", "(4,16)(8,8)");
    BAD("what is not compressed has", "--layers", "mlp", "--params", "0.1");
    BAD("empty is empty", "--layers", "mlp", "--rank", "4", "--eval", empty);
    BAD("cannot open /nonexistent", "--layers", "mlp", "--rank", "4", "--calibrate",
        "/nonexistent");
    BAD("\"f64\" is not one of", "--layers", "mlp", "--rank", "4", "--dtype", "f64");
    ck_assert_int_eq(tool_entries(top), 0);
}
END_TEST

START_TEST(force_replaces_a_model)
{
    const char *from = new_model("from", small()), *to = path_join(temp_dir(), "to");
    free(RUN(cmd_compress, from, "-o", to, "--layers", "mlp", "--rank", "4"));
    REFUSED(cmd_compress, "exists and is not empty", from, "-o", to, "--layers", "mlp", "--rank",
            "2");
    free(RUN(cmd_compress, from, "-o", to, "--layers", "mlp", "--rank", "2", "--force"));
    struct layers l;
    open_layers(&l, to);
    ck_assert_int_eq(l.layer[2].ttm.shape.r[1], 2);
    layers_close(&l);
    free(RUN(cmd_compress, from, "-o", from, "--layers", "mlp", "--rank", "2", "--force"));
    ck_assert(same_file(from, to, "model.safetensors")); /* in place */
}
END_TEST

START_TEST(an_interrupt_leaves_nothing)
{
    const char *from = path_join(temp_dir(), "from"), *top = temp_dir();
    const char *out = path_join(top, "out");
    struct tool_result r;
    free(RUN(cmd_init, "--layers", "4", "--channels", "512", "-o", from));
    tool_process((const char *const[]){build_path("ttm"), "compress", from, "-o", out, "--layers",
                                       "all", "--error", "0.1", NULL},
                 top, &r);
    ck_assert_msg(r.rc == 130, "status %d: %s", r.rc, r.log);
    ck_assert_str_eq(r.out, "");
    ck_assert_int_eq(tool_entries(top), 0);
    tool_result_release(&r);
}
END_TEST

/* The same greedy text from a published model and its exact compression. */
START_TEST(tarot)
{
    const char *from = shared_path("models/tarot"), *to = path_join(temp_dir(), "to");
    char *dir = strdup(from);
    free(RUN(cmd_compress, dir, "-o", to, "--layers", "all", "--error", "0", "--shape", "auto"));
    char *a = RUN(cmd_generate, dir, "--prompt", "The Fool", "--temperature", "0", "--ids");
    char *b = RUN(cmd_generate, to, "--prompt", "The Fool", "--temperature", "0", "--ids");
    ck_assert_int_gt((int)strlen(a), 20);
    ck_assert_str_eq(a, b);
    free(a), free(b), free(dir);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("compress");
    TCase *t = tcase_create("compress");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, exact_compression_is_the_same_model, 0,
                        (int)(sizeof prefixes / sizeof *prefixes));
    tcase_add_loop_test(t, reports_are_true, 0, (int)(sizeof ways / sizeof *ways));
    tcase_add_test(t, f16_holds_what_it_can);
    tcase_add_test(t, a_calibrated_model_is_better_on_its_text);
    tcase_add_test(t, layers_that_are_ttm_stay);
    tcase_add_test(t, bad_flags);
    tcase_add_test(t, force_replaces_a_model);
    tcase_add_test(t, an_interrupt_leaves_nothing);
    if (shared_path("models/tarot"))
        tcase_add_test(t, tarot);
    else
        skip("exact compression of tarot", "../shared/models/tarot is not there");
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
