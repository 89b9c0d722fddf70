/* The whole engine on a real small model. */
#include "engine/run/engine.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/gpt2/tokenizer.h"
#include "tests/support/harness.h"

static struct engine *open_tarot(void)
{
    struct engine_options o;
    engine_options_default(&o);
    o.dir = shared_path("models/tarot");
    struct engine *e;
    struct err err = {0};
    ck_assert_msg(engine_open(&e, &o, &err) == 0, "%s", err.msg);
    return e;
}

static void wait_done(const struct job *j, struct job_view *v)
{
    for (;;) {
        job_view(j, v);
        if (v->done) return;
        usleep(500);
    }
}

START_TEST(greedy_is_golden)
{
    struct engine *e = open_tarot();
    json_t *g = json_load_file(shared_path("models/tarot/golden.json"), 0, NULL);
    const char *prompt = json_string_value(json_object_get(g, "prompt"));
    const json_t *ids = json_object_get(g, "ids_greedy_64");
    struct tokens t = {0};
    tokenizer_encode(engine_tokenizer(e), prompt, strlen(prompt), true, &t);
    struct job_spec s;
    job_spec_default(&s);
    s.tokens = t.ids;
    s.n_tokens = t.n;
    s.max_tokens = 64 - (int)t.n;
    s.sampling.temperature = 0;
    struct job *j;
    struct err err = {0};
    ck_assert_int_eq(engine_submit(e, &s, &j, &err), 0);
    struct job_view v;
    wait_done(j, &v);
    ck_assert_int_eq(v.finish, FINISH_LENGTH);
    ck_assert_uint_eq(v.n_tokens, 64 - t.n);
    for (size_t i = 0; i < v.n_tokens; i++)
        ck_assert_int_eq(job_tokens(j)[i].id, json_integer_value(json_array_get(ids, t.n + i)));
    const char *text = json_string_value(json_object_get(g, "text")) + strlen(prompt);
    ck_assert_uint_eq(v.text_len, strlen(text));
    ck_assert(!memcmp(v.text, text, v.text_len));
    job_unref(j);
    tokens_release(&t);
    json_decref(g);
    engine_close(e);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("engine");
    TCase *t = tcase_create("engine");
    if (shared_path("models/tarot"))
        tcase_add_test(t, greedy_is_golden);
    else
        skip("engine", "../shared/models/tarot is not there");
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
