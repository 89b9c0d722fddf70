/* Configuration: precedence of the sources, every form of flag, messages that name source, key, value and
 * expectation, and that sample file, printed form and table agree. */
#include "config/config.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kernels/kernels.h"
#include "tests/support/harness.h"

static struct config c;
static struct err e;
static enum config_action action;

static void setup(void)
{
    memset(&c, 0, sizeof c);
    memset(&e, 0, sizeof e);
    action = CONFIG_RUN;
}

static void teardown(void)
{
    config_release(&c);
}

#define ARGS(...) ((char *[]){"ttmd", __VA_ARGS__, NULL})
#define ENV(...) ((char *[]){"PATH=/bin", __VA_ARGS__, NULL})

static int load(char **argv, char **env)
{
    int argc = 0;
    while (argv[argc])
        argc++;
    config_release(&c);
    memset(&e, 0, sizeof e);
    return config_load(&c, argc, argv, env, &action, &e);
}

static int parse(const char *json)
{
    config_release(&c);
    config_defaults(&c);
    memset(&e, 0, sizeof e);
    return config_parse_file(&c, json, strlen(json), "f.json", &e);
}

static char *config_file(const char *json)
{
    const char *path = path_join(temp_dir(), "c.json");
    write_file(path, json, strlen(json));
    return (char *)(uintptr_t)path;
}

/* The load fails with that code and all of these texts in its message; out is zeroed. */
static void fails(char **argv, char **env, int code, const char *a, const char *b)
{
    static const struct config zero;
    ck_assert_int_eq(load(argv, env), code);
    ck_assert_int_eq(e.code, code);
    ck_assert_msg(strstr(e.msg, a) && strstr(e.msg, b), "\"%s\" lacks \"%s\" or \"%s\"", e.msg, a,
                  b);
    ck_assert_mem_eq(&c, &zero, sizeof c);
}

START_TEST(defaults)
{
    config_defaults(&c);
    ck_assert_str_eq(c.model, "");
    ck_assert_str_eq(c.host, "127.0.0.1");
    ck_assert_int_eq(c.port, 8080);
    ck_assert_int_eq(c.max_batch, 32);
    ck_assert_int_eq(c.max_queue, 128);
    ck_assert(c.queue_timeout_s == 60 && c.request_timeout_s == 600 && c.drain_timeout_s == 30);
    ck_assert(c.drain_delay_s == 0 && c.upload_timeout_s == 30 && c.idle_timeout_s == 75);
    ck_assert(c.write_timeout_s == 60 && c.ping_interval_s == 10);
    ck_assert_int_eq(c.max_body_bytes, 4 << 20);
    ck_assert(c.max_prompts == 512 && c.max_total_n == 512 && c.logprobs_max == 20);
    ck_assert(c.max_connections == 4096 && c.kv_cache_bytes == 0 && c.prefill_chunk_tokens == 256);
    ck_assert_str_eq(c.kv_dtype, "auto");
    ck_assert_str_eq(c.kernels, "auto");
    ck_assert(!c.strict && !c.log_prompts);
    ck_assert_str_eq(c.log_level, "info");
    ck_assert_str_eq(c.log_format, "text");
}
END_TEST

START_TEST(precedence)
{
    char *file = config_file("{\"model\":\"file\",\"port\":1,\"max_batch\":1,\"max_queue\":1}");
    char env_file[1100];
    snprintf(env_file, sizeof env_file, "TTMD_CONFIG=%s", file);
    char **env = ENV("TTMD_MAX_BATCH=2", "TTMD_MAX_QUEUE=2");
    ck_assert_int_eq(load(ARGS("--max-queue", "3", "--config", file), env), 0);
    ck_assert_str_eq(c.model, "file");
    ck_assert(c.port == 1 && c.max_batch == 2 && c.max_queue == 3);
    ck_assert_int_eq(load(ARGS("--port=7"), ENV(env_file)), 0);
    ck_assert(c.port == 7 && c.max_batch == 1);
    ck_assert_int_eq(load(ARGS("--config", config_file("{\"model\":\"other\"}")), ENV(env_file)),
                     0);
    ck_assert_str_eq(c.model, "other");
    ck_assert_int_eq(c.port, 8080);
    ck_assert_int_eq(load(ARGS("--model", "a", "--model=b"), NULL), 0);
    ck_assert_str_eq(c.model, "b");
}
END_TEST

START_TEST(forms_of_flags)
{
    ck_assert_int_eq(load(ARGS("--model=a=b", "--strict", "--kv-cache-bytes", "3GiB",
                               "--host=", "--queue-timeout-s", "0.25", "--max-body-bytes=64KiB"),
                          NULL),
                     0);
    ck_assert_str_eq(c.model, "a=b");
    ck_assert_str_eq(c.host, "");
    ck_assert(c.strict && c.kv_cache_bytes == 3ll << 30 && c.max_body_bytes == 65536);
    ck_assert(c.queue_timeout_s == 0.25);
    ck_assert_int_eq(load(ARGS("--model", "-x", "--strict", "--no-strict"), NULL), 0);
    ck_assert_str_eq(c.model, "-x");
    ck_assert(!c.strict);
    ck_assert_int_eq(load(ARGS("--model", "m", "--log-prompts=yes", "--strict=off"), NULL), 0);
    ck_assert(c.log_prompts && !c.strict);
}
END_TEST

START_TEST(bad_flags)
{
    fails(ARGS("--max-bacth", "3"), NULL, ERR_INVALID, "unknown flag --max-bacth",
          "did you mean --max-batch?");
    fails(ARGS("--wholly-different", "3"), NULL, ERR_INVALID, "unknown flag --wholly-different",
          "");
    ck_assert_ptr_null(strstr(e.msg, "did you mean"));
    fails(ARGS("--max_batch", "3"), NULL, ERR_INVALID, "--max_batch", "--max-batch?");
    fails(ARGS("--PORT", "3"), NULL, ERR_INVALID, "--PORT", "--port?");
    fails(ARGS("--no-port"), NULL, ERR_INVALID, "--no-port", "");
    fails(ARGS("dir"), NULL, ERR_INVALID, "unexpected argument", "\"dir\"");
    fails(ARGS("--"), NULL, ERR_INVALID, "unexpected argument", "--");
    fails(ARGS(""), NULL, ERR_INVALID, "unexpected argument", "");
    fails(ARGS("--strict", "false"), NULL, ERR_INVALID, "unexpected argument", "\"false\"");
    fails(ARGS("--model"), NULL, ERR_INVALID, "--model", "needs a value");
    fails(ARGS("--config"), NULL, ERR_INVALID, "--config", "a file");
    fails(ARGS("--model", "--port", "3"), NULL, ERR_INVALID, "--model", "needs a value");
    fails(ARGS("--help=yes"), NULL, ERR_INVALID, "--help", "takes no value");
    fails(ARGS("--strict=maybe"), NULL, ERR_INVALID, "--strict: \"maybe\"", "true or false");
    ck_assert_str_eq(e.param, "strict");
}
END_TEST

/* What may be asked for is what the engine has, by its names. */
START_TEST(kernels_by_their_names)
{
#if defined(__x86_64__)
    static char *const names[] = {"avx512", "avx512+avx512vnni", "avx2", "scalar"};
    const struct cpu cpu = {.avx2 = true,
                            .fma = true,
                            .f16c = true,
                            .avx512 = true,
                            .avx512_vnni = true,
                            .avx_vnni = true,
                            .amx_int8 = true};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        ck_assert_int_eq(load(ARGS("--model", "m", "--kernels", names[i]), NULL), 0);
        ck_assert_msg(kernels_choose(&cpu, c.kernels) != NULL, "%s", names[i]);
    }
    ck_assert_str_eq(kernels_choose(&cpu, "avx512")->int8->name, "amx");
    ck_assert_str_eq(kernels_choose(&cpu, names[1])->int8->name, "avx512vnni");
#endif
    fails(ARGS("--model", "m", "--kernels", "avx512+"), NULL, ERR_INVALID, "\"avx512+\"",
          "avx512+avx512vnni");
}
END_TEST

START_TEST(bad_values)
{
    static char *const bad[][2] = {
        {"--port", "65536"},
        {"--port", "-1"},
        {"--port", "8o"},
        {"--port", ""},
        {"--port", " 80"},
        {"--port", "80 "},
        {"--port", "0x50"},
        {"--port", "8e1"},
        {"--port", "80KiB"},
        {"--max-batch", "0"},
        {"--logprobs-max", "9"},
        {"--logprobs-max", "101"},
        {"--kv-cache-bytes", "9999999999999GiB"},
        {"--kv-cache-bytes", "1TB"},
        {"--threads", "99999999999999999999"},
        {"--drain-timeout-s", "nan"},
        {"--drain-timeout-s", "inf"},
        {"--drain-timeout-s", "1s"},
        {"--drain-timeout-s", "-0.1"},
        {"--drain-timeout-s", "0x1p3"},
        {"--drain-timeout-s", "1e999"},
        {"--drain-timeout-s", "."},
        {"--kv-dtype", "f64"},
        {"--kv-dtype", "f"},
        {"--kv-dtype", "f32|f16"},
        {"--kv-dtype", ""},
        {"--log-level", "INFO"},
        {"--model", "\xff"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fails(ARGS("--model", "m", bad[i][0], bad[i][1]), NULL, ERR_INVALID, bad[i][0], " is not ");
        ck_assert_str_ne(e.param, "");
    }
    fails(ARGS("--port=70000"), NULL, ERR_INVALID, "70000", "an integer from 0 to 65535");
    fails(ARGS("--log-format=xml"), NULL, ERR_INVALID, "\"xml\"", "text or json");
}
END_TEST

START_TEST(environment)
{
    ck_assert_int_eq(load(ARGS("--model=m"), ENV("TTMD_STRICT=1", "TTMD_BLAS_REEXEC=1",
                                                 "TTMD_BUILD=b", "TTMD_TEST_X=1", "TTMD_CONFIG=",
                                                 "TTMDX=1", "ttmd_port=1", "TTMD_HOST=")),
                     0);
    ck_assert(c.strict);
    ck_assert_str_eq(c.host, "");
    char **m = ARGS("--model=m");
    fails(m, ENV("TTMD_MAX_BACTH=1"), ERR_INVALID, "unknown variable TTMD_MAX_BACTH",
          "TTMD_MAX_BATCH?");
    fails(m, ENV("TTMD_max_batch=1"), ERR_INVALID, "unknown variable TTMD_max_batch", "");
    fails(m, ENV("TTMD_=1"), ERR_INVALID, "unknown variable TTMD_", "");
    fails(m, ENV("TTMD_MAX-BATCH=1"), ERR_INVALID, "unknown variable", "");
    fails(m, ENV("TTMD_PORT="), ERR_INVALID, "variable TTMD_PORT", "an integer");
    fails(m, ENV("TTMD_PORT=tcp://10.0.0.1:80"), ERR_INVALID, "TTMD_PORT", "enableServiceLinks");
    fails(m, ENV("TTMD_SERVICE_HOST=10.0.0.1"), ERR_INVALID, "TTMD_SERVICE_HOST",
          "enableServiceLinks");
}
END_TEST

START_TEST(actions)
{
    static const struct {
        char *flag;
        enum config_action action;
    } all[] = {{"--help", CONFIG_HELP},
               {"-h", CONFIG_HELP},
               {"--version", CONFIG_VERSION},
               {"--print-config", CONFIG_PRINT},
               {"--check-config", CONFIG_CHECK},
               {"--help-markdown", CONFIG_MARKDOWN},
               {"--healthcheck", CONFIG_HEALTHCHECK},
               {"--help-man", CONFIG_MAN},
               {"--help-bash", CONFIG_BASH}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        ck_assert_int_eq(load(ARGS("--model", "m", all[i].flag, "--port", "1"), NULL), 0);
        ck_assert_int_eq(action, all[i].action);
    }
    ck_assert_int_eq(load(ARGS("--help"), ENV("TTMD_PORT=broken", "TTMD_CONFIG=/nonexistent")), 0);
    ck_assert_int_eq(load(ARGS("--print-config"), NULL), 0);
    ck_assert_int_eq(load(ARGS("--healthcheck"), NULL), 0);
    fails(ARGS("--check-config", "--port", "x"), NULL, ERR_INVALID, "--port", "\"x\"");
    fails(ARGS("--check-config"), NULL, ERR_MISSING, "--model", "TTMD_MODEL");
    fails(ARGS("--port=1"), NULL, ERR_MISSING, "--model", "TTMD_MODEL");
}
END_TEST

START_TEST(file_values)
{
    ck_assert_int_eq(
        parse("{\"_\": [1, {}], \"_port\": null, \"port\": 0, \"strict\": true,"
              "\"drain_delay_s\": 2, \"idle_timeout_s\": 1.5, \"model\": \"gr\\u00fc\\u00df\"}"),
        0);
    ck_assert(c.port == 0 && c.strict && c.drain_delay_s == 2 && c.idle_timeout_s == 1.5);
    ck_assert_str_eq(c.model, "gr\xc3\xbc\xc3\x9f");
}
END_TEST

START_TEST(bad_files)
{
    static const struct {
        const char *json;
        int code;
        const char *a, *b;
    } bad[] = {
        {"", ERR_INVALID, "f.json:", ""},
        {"{\n \"port\": }", ERR_INVALID, "f.json:2:", ""},
        {"[]", ERR_TYPE, "f.json", "JSON object"},
        {"{\"port\":1,\"port\":2}", ERR_INVALID, "f.json:1", "port"},
        {"{\"prot\":1}", ERR_INVALID, "unknown key \"prot\" in f.json", "did you mean port?"},
        {"{\"max-batch\":1}", ERR_INVALID, "unknown key \"max-batch\"", "max_batch?"},
        {"{\"Port\":1}", ERR_INVALID, "unknown key \"Port\"", "port?"},
        {"{\"\":1}", ERR_INVALID, "unknown key \"\"", ""},
        {"{\"port\":\"80\"}", ERR_TYPE, "f.json: key port: \"80\"", "an integer from 0 to 65535"},
        {"{\"port\":80.0}", ERR_TYPE, "key port: 80.0", "an integer"},
        {"{\"port\":65536}", ERR_INVALID, "key port: 65536", "an integer"},
        {"{\"port\":99999999999999999999}", ERR_INVALID, "f.json:1", ""},
        {"{\"strict\":1}", ERR_TYPE, "key strict: 1", "true or false"},
        {"{\"model\":null}", ERR_TYPE, "key model: null", ""},
        {"{\"model\":{\"a\":[1]}}", ERR_TYPE, "key model: {\"a\":[1]}", ""},
        {"{\"idle_timeout_s\":true}", ERR_TYPE, "idle_timeout_s", "a number from 1"},
        {"{\"idle_timeout_s\":1e999}", ERR_INVALID, "f.json:1", ""},
        {"{\"kv_dtype\":\"f8\"}", ERR_INVALID, "key kv_dtype: \"f8\"", "auto, f32, f16 or int8"},
        {"{\"model\":\"a\\u0000b\"}", ERR_INVALID, "f.json:1", ""},
        {"{\"model\":\"\xff\"}", ERR_INVALID, "f.json:1", ""},
        {"{} x", ERR_INVALID, "f.json:1", ""},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ck_assert_int_eq(parse(bad[i].json), bad[i].code);
        ck_assert_msg(strstr(e.msg, bad[i].a) && strstr(e.msg, bad[i].b), "%s: \"%s\"", bad[i].json,
                      e.msg);
    }
}
END_TEST

START_TEST(unreadable_files)
{
    fails(ARGS("--config", "/nonexistent/x"), NULL, ERR_IO, "/nonexistent/x", "No such file");
    fails(ARGS("--config", "/"), NULL, ERR_IO, "/", "directory");
    fails(ARGS("--config", ""), ENV("TTMD_CONFIG=/nonexistent/y"), ERR_MISSING, "", "");
    size_t n = (1 << 20) + 1;
    char *spaces = malloc(n);
    memset(spaces, ' ', n);
    const char *path = path_join(temp_dir(), "big.json");
    write_file(path, spaces, n);
    free(spaces);
    fails(ARGS("--config", (char *)(uintptr_t)path), NULL, ERR_INVALID, path, "longer than");
}
END_TEST

static char *printed(const struct config *what)
{
    struct buf b = {0};
    config_print(what, &b);
    return buf_take(&b);
}

START_TEST(print_round_trips)
{
    ck_assert_int_eq(
        load(ARGS("--model", "a \"q\" \\ \n\x01 \xf0\x9f\x98\x80", "--strict", "--port=1",
                  "--queue-timeout-s=0.1", "--drain-timeout-s=33.333333333333336",
                  "--kv-cache-bytes=1048576GiB", "--log-format=json"),
             NULL),
        0);
    char *first = printed(&c);
    struct config again;
    config_defaults(&again);
    ck_assert_int_eq(config_parse_file(&again, first, strlen(first), "printed", &e), 0);
    ck_assert_str_eq(again.model, c.model);
    ck_assert(again.queue_timeout_s == 0.1 && again.drain_timeout_s == 33.333333333333336);
    ck_assert(again.kv_cache_bytes == 1ll << 50 && again.strict && again.port == 1);
    char *second = printed(&again);
    ck_assert_str_eq(first, second);
    ck_assert_ptr_nonnull(strstr(first, "\"queue_timeout_s\": 0.1,"));
    free(first);
    free(second);
    config_release(&again);
}
END_TEST

START_TEST(sample_file_has_every_key_with_its_default)
{
    size_t len;
    char *text = read_file("config/ttmd.json", &len), *before, *after;
    json_t *o = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
    ck_assert_ptr_nonnull(o);
    for (size_t i = 0; i < config_n_keys; i++) {
        char comment[64];
        snprintf(comment, sizeof comment, "_%s", config_keys[i].name);
        const char *help = json_string_value(json_object_get(o, comment));
        ck_assert_msg(help && strstr(help, config_keys[i].help), "%s", comment);
        if (config_keys[i].choices) ck_assert_ptr_nonnull(strstr(help, config_keys[i].choices));
        ck_assert_msg(json_object_get(o, config_keys[i].name) != NULL, "%s", config_keys[i].name);
    }
    ck_assert_uint_eq(json_object_size(o), 2 * config_n_keys + 1);
    json_decref(o);
    config_defaults(&c);
    before = printed(&c);
    ck_assert_int_eq(config_parse_file(&c, text, len, "config/ttmd.json", &e), 0);
    after = printed(&c);
    ck_assert_str_eq(before, after);
    free(text);
    free(before);
    free(after);
}
END_TEST

START_TEST(help_and_table_name_every_key)
{
    struct buf help = {0}, table = {0}, man = {0}, bash = {0};
    config_help(&help);
    config_man(&man);
    config_bash(&bash);
    config_markdown(&table);
    size_t rows = 0;
    for (char *s = table.data; (s = strchr(s, '\n')); s++)
        rows++;
    ck_assert_uint_eq(rows, config_n_keys + 2);
    for (size_t i = 0; i < config_n_keys; i++) {
        char flag[64], cell[64];
        snprintf(flag, sizeof flag, "  --%s", config_keys[i].name);
        for (char *s = flag; *s; s++)
            if (*s == '_') *s = '-';
        snprintf(cell, sizeof cell, "\n| `%s` |", config_keys[i].name);
        ck_assert_msg(strstr(help.data, flag) != NULL, "%s", flag);
        ck_assert_msg(strstr(bash.data, flag + 2) != NULL, "%s", flag);
        struct buf roff = {0};
        for (const char *s = flag + 2; *s; s++)
            buf_puts(&roff, *s == '-' ? "\\-" : (char[]){*s, 0});
        ck_assert_msg(strstr(man.data, roff.data) != NULL, "%s", roff.data);
        buf_release(&roff);
        ck_assert_msg(strstr(table.data, cell) != NULL, "%s", cell);
    }
    /* what tests/server hold of a drain and of a probe */
    ck_assert_ptr_nonnull(strstr(man.data, "answered 503, while the port stays open"));
    ck_assert_ptr_nonnull(strstr(man.data, "healthcheck 0 when the daemon is ready, 1 in every"));
    for (char *s = help.data, *end; (end = strchr(s, '\n')); s = end + 1)
        ck_assert_int_le(end - s, 100);
    buf_release(&help);
    buf_release(&table);
    buf_release(&man);
    buf_release(&bash);
}
END_TEST

/* The README's table is config_markdown(), word for word: `make readme` writes it. */
START_TEST(readme_has_the_table)
{
    static const char begin[] = "<!-- config table: written by `make readme` -->\n\n",
                      end[] = "\n<!-- end of config table -->\n";
    struct buf table = {0};
    char *readme = read_file("README.md", NULL), *from = strstr(readme, begin);
    ck_assert_ptr_nonnull(from);
    from += sizeof begin - 1;
    char *to = strstr(from, end);
    ck_assert_ptr_nonnull(to);
    *to = 0;
    config_markdown(&table);
    ck_assert_str_eq(from, table.data);
    buf_release(&table);
    free(readme);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("config");
    TCase *t = tcase_create("config");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, defaults);
    tcase_add_test(t, precedence);
    tcase_add_test(t, forms_of_flags);
    tcase_add_test(t, bad_flags);
    tcase_add_test(t, kernels_by_their_names);
    tcase_add_test(t, bad_values);
    tcase_add_test(t, environment);
    tcase_add_test(t, actions);
    tcase_add_test(t, file_values);
    tcase_add_test(t, bad_files);
    tcase_add_test(t, unreadable_files);
    tcase_add_test(t, print_round_trips);
    tcase_add_test(t, sample_file_has_every_key_with_its_default);
    tcase_add_test(t, help_and_table_name_every_key);
    tcase_add_test(t, readme_has_the_table);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
