/* The whole engine on real models: a small random one that the test makes, and a trained one. */
#include "engine/run/engine.h"

#include <jansson.h>
#include <math.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "engine/base/rng.h"
#include "engine/gpt2/tokenizer.h"
#include "engine/gpt2/tokenizer_write.h"
#include "tests/engine/run/count_alloc.h"
#include "tests/support/harness.h"
#include "tests/support/make_model.h"
#include "tests/support/naive_gpt2.h"

#define CROWD 32
#define VOCAB 300
#define CTX 80

static char dir[256];

static void make_tiny(void)
{
    snprintf(dir, sizeof dir, "%s", temp_dir());
    make_model(dir, &(struct make_model){.positions = CTX, .vocab = VOCAB});
    ck_assert_int_eq(tokenizer_write_bytes(dir, VOCAB, NULL), 0);
}

static struct engine_options options(const char *model)
{
    struct engine_options o;
    engine_options_default(&o);
    o.dir = model;
    o.threads = 2;
    return o;
}

static struct engine *open_engine(const struct engine_options *o)
{
    struct engine *e = NULL;
    struct err err = {0};
    ck_assert_msg(engine_open(&e, o, &err) == 0, "%s", err.msg);
    return e;
}

static struct job *submit(struct engine *e, const struct job_spec *s)
{
    struct job *j = NULL;
    struct err err = {0};
    ck_assert_msg(engine_submit(e, s, &j, &err) == 0, "%s", err.msg);
    return j;
}

static struct job_view wait_done(const struct job *j)
{
    struct job_view v;
    for (job_view(j, &v); !v.done; job_view(j, &v))
        usleep(300);
    return v;
}

/* ---- alone or among others ---- */

static int32_t ids[CROWD][CTX];

static struct job_spec member(uint64_t c)
{
    struct job_spec s;
    job_spec_default(&s);
    s.n_tokens = 1 + (size_t)(rng_uniform(c, 1, 0) * 50);
    for (size_t i = 0; i < s.n_tokens; i++) { /* four begin alike */
        uint64_t of = i < 24 ? c / 4 : c;
        ids[c][i] = (int32_t)(rng_uniform(of, 1, 1 + i) * VOCAB);
    }
    s.tokens = ids[c];
    s.max_tokens = (int)(rng_uniform(c, 2, 0) * 30);
    s.score_from = c % 3 == 0 ? 0 : SIZE_MAX;
    s.top_logprobs = (int)(c % 4);
    s.sampling.temperature = c % 2 ? 0.9 : 0;
    s.sampling.top_p = c % 4 == 1 ? 0.9 : 1;
    s.sampling.top_k = c % 8 == 3 ? 40 : 0;
    s.sampling.repetition_penalty = c % 5 == 4 ? 1.2 : 1;
    s.sampling.seed = c;
    s.ignore_eos = c % 3 == 1;
    return s;
}

static bool same_token(const struct job_token *a, const struct job_token *b)
{
    bool lp = memcmp(&a->logprob, &b->logprob, sizeof(float)) == 0;
    return a->id == b->id && lp && a->greedy == b->greedy && a->text_begin == b->text_begin;
}

static void check_same(const struct job_spec *s, const struct job *a, const struct job *b)
{
    struct job_view va, vb;
    job_view(a, &va);
    job_view(b, &vb);
    ck_assert_int_eq(va.finish, vb.finish);
    ck_assert_uint_eq(va.n_tokens, vb.n_tokens);
    ck_assert_uint_eq(va.text_len, vb.text_len);
    ck_assert(!memcmp(va.text, vb.text, va.text_len));
    size_t top = (size_t)s->top_logprobs * sizeof(struct token_logprob);
    for (size_t i = 0; i < va.n_tokens; i++) {
        ck_assert(same_token(&job_tokens(a)[i], &job_tokens(b)[i]));
        ck_assert(!top || !memcmp(job_token_top(a, i), job_token_top(b, i), top));
    }
    ck_assert_uint_eq(va.n_scored, vb.n_scored);
    for (size_t i = 1; i < va.n_scored; i++) {
        ck_assert(same_token(&job_prompt(a)[i], &job_prompt(b)[i]));
        ck_assert(!top || !memcmp(job_prompt_top(a, i), job_prompt_top(b, i), top));
    }
}

/* The whole crowd at once, twice: the second time with what the first left in the prefix cache. */
static void compare_crowd(const struct engine_options *o, struct job **alone, uint64_t fingerprint)
{
    struct job *crowd[CROWD];
    struct engine *e = open_engine(o);
    ck_assert_uint_eq(engine_info(e)->fingerprint, fingerprint); /* the same plans, too */
    for (int round = 0; round < 2; round++) {
        for (uint64_t c = 0; c < CROWD; c++) {
            struct job_spec s = member(CROWD - 1 - c);
            crowd[CROWD - 1 - c] = submit(e, &s);
        }
        for (uint64_t c = 0; c < CROWD; c++) {
            struct job_spec s = member(c);
            wait_done(crowd[c]);
            check_same(&s, alone[c], crowd[c]);
            job_unref(crowd[c]);
        }
    }
    struct engine_stats st;
    engine_stats(e, &st);
    ck_assert((st.prompt_tokens_cached > 0) == (o->prefix_cache_bytes > 0));
    ck_assert((st.accepted_tokens > 0) == (o->speculative_tokens > 0));
    ck_assert(st.drafted_tokens > st.accepted_tokens || o->speculative_tokens == 0);
    engine_close(e);
}

/* TTM layers are planned for the batch when that is below eight, and by measured rates: there
 * `least_batch` is eight, one job at a time is alone all the same; the rates, of two threads, are in a file. */
static void compare_crowds(const char *kernels, const char *weights, const char *kv,
                           int least_batch)
{
    struct engine_options o = options(dir);
    o.kernels = kernels;
    o.dtype = weights;
    o.kv_dtype = kv;
    o.row_price = 0.05; /* measured ones depend on the machine's mood */
    o.max_batch = least_batch;
    o.threads = least_batch > 1 ? 2 : 1;
    o.rates_file = path_join(temp_dir(), "rates");
    struct engine *e = open_engine(&o);
    uint64_t fingerprint = engine_info(e)->fingerprint;
    struct job *alone[CROWD];
    for (uint64_t c = 0; c < CROWD; c++) {
        struct job_spec s = member(c);
        alone[c] = submit(e, &s);
        wait_done(alone[c]);
    }
    engine_close(e);
    const struct {
        int chunk, batch, draft;
        size_t prefix;
    } v[] = {{1, CROWD, 0, SIZE_MAX}, {13, least_batch + 6, 4, SIZE_MAX}, {512, CROWD, 16, 0}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        o.max_batch = v[i].batch;
        o.threads = 2;
        o.prefill_chunk_tokens = v[i].chunk;
        o.speculative_tokens = v[i].draft;
        o.prefix_cache_bytes = v[i].prefix;
        compare_crowd(&o, alone, fingerprint);
    }
    for (int c = 0; c < CROWD; c++)
        job_unref(alone[c]);
}

START_TEST(thirty_two_at_once_get_what_each_gets_alone)
{
    make_tiny();
    compare_crowds(NULL, "auto", "f32", 1);
    compare_crowds(NULL, "auto", "f16", 1);
    compare_crowds(NULL, "auto", "int8", 1);
    compare_crowds(NULL, "int8", "auto", 1);
    if (!harness_sanitized()) compare_crowds(NULL, "bf16", "auto", 1);
    compare_crowds("scalar", "auto", "f32", 1);
}
END_TEST

/* Decode and prompt rows of a TTM layer may take different ways, with different bits: what is reused and
 * what is guessed must keep to its role. */
START_TEST(so_they_do_with_ttm_layers)
{
    make_tiny();
    make_model(dir, &(struct make_model){.positions = CTX,
                                         .vocab = VOCAB,
                                         .ttm = {NULL, NULL, "(4,8)(4,4)(2,4)", "(8,4)(4,4)(4,2)"},
                                         .ttm_rank = 6});
    compare_crowds(NULL, "auto", "f32", 8);
    compare_crowds(NULL, "int8", "auto", 8);
    if (!harness_sanitized()) compare_crowds(NULL, "bf16", "auto", 8);
}
END_TEST

/* ---- scores ---- */

static double naive_logprob(const float *row, int32_t id)
{
    double sum = 0;
    for (int i = 0; i < VOCAB; i++)
        sum += exp((double)row[i]);
    return (double)row[id] - log(sum);
}

START_TEST(scores_are_the_log_softmax_of_the_naive_model)
{
    make_tiny();
    struct engine_options o = options(dir);
    o.kv_dtype = "f32";
    struct engine *e = open_engine(&o);
    struct naive_gpt2 *naive = naive_open(dir);
    static float logits[CTX * VOCAB];
    int32_t text[CTX + 1];
    for (int i = 0; i <= CTX; i++)
        text[i] = (int32_t)(rng_uniform(3, 3, (uint64_t)i) * VOCAB);
    naive_logits(naive, text, CTX, logits, NULL, NULL);
    struct job_spec s;
    job_spec_default(&s);
    s.tokens = text;
    s.n_tokens = CTX + 1; /* the whole context, and the token that it predicts */
    s.max_tokens = 0;
    s.score_from = 0;
    s.top_logprobs = 3;
    struct job *j = submit(e, &s);
    struct job_view v = wait_done(j);
    ck_assert_uint_eq(v.n_scored, CTX + 1);
    ck_assert(isnan(job_prompt(j)[0].logprob));
    for (size_t p = 1; p <= CTX; p++) {
        const float *row = logits + (p - 1) * VOCAB;
        assert_close(job_prompt(j)[p].logprob, naive_logprob(row, text[p]), 2e-4, 0);
        for (int r = 0; r < 3; r++) {
            struct token_logprob t = job_prompt_top(j, p)[r];
            assert_close(t.logprob, naive_logprob(row, t.id), 2e-4, 0);
        }
        ck_assert(job_prompt(j)[p].greedy == (job_prompt_top(j, p)[0].id == text[p]));
    }
    struct engine_stats st;
    engine_stats(e, &st);
    ck_assert_uint_eq(st.scored_tokens, CTX);
    ck_assert_uint_eq(st.prompt_tokens_computed, CTX);
    ck_assert_uint_eq(st.generated_tokens, 0);
    job_unref(j);
    naive_free(naive);
    engine_close(e);
}
END_TEST

/* ---- costs ---- */

static atomic_long at_first_step, at_last_step;

static void count_at_step(void *arg, const struct engine_step_info *i)
{
    (void)arg, (void)i;
    if (atomic_load(&at_first_step) < 0) atomic_store(&at_first_step, allocations());
    atomic_store(&at_last_step, allocations());
}

START_TEST(steps_do_not_allocate)
{
    make_tiny();
    struct engine_options o = options(dir);
    o.speculative_tokens = 4;
    o.prefix_cache_bytes = SIZE_MAX;
    struct engine *e = open_engine(&o);
    atomic_store(&at_first_step, -1);
    engine_set_on_step(e, count_at_step, NULL);
    struct job_spec s = member(3);
    s.n_tokens = 40;
    s.max_tokens = 40;
    s.score_from = 0;
    s.ignore_eos = true;
    struct job *j = NULL; /* an assertion that it is there would allocate beside the first steps */
    int rc = engine_submit(e, &s, &j, NULL);
    if (rc == 0) wait_done(j);
    engine_close(e);
    ck_assert_int_eq(rc, 0);
    ck_assert_int_ge(atomic_load(&at_first_step), 0);
    ck_assert_int_eq(atomic_load(&at_first_step), atomic_load(&at_last_step));
    job_unref(j);
}
END_TEST

static double cpu_seconds(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
           1e-6 * (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

START_TEST(idle_costs_nothing)
{
    make_tiny();
    struct engine_options o = options(dir);
    struct engine *e = open_engine(&o);
    struct job_spec s = member(1);
    struct job *j = submit(e, &s);
    wait_done(j);
    job_unref(j);
    usleep(50000);
    double before = cpu_seconds();
    usleep(300000);
    ck_assert_double_lt(cpu_seconds() - before, 0.02);
    engine_close(e);
}
END_TEST

/* ---- opening ---- */

START_TEST(facts)
{
    make_tiny();
    struct engine_options o = options(dir);
    o.max_batch = 3;
    struct engine *e = open_engine(&o);
    const struct engine_info *i = engine_info(e);
    ck_assert(i->n_layer == 2 && i->n_embd == 32 && i->n_head == 4 && i->n_inner == 128);
    ck_assert(i->n_ctx == CTX && i->vocab_size == VOCAB && i->eos_id == VOCAB - 1);
    ck_assert(i->kv_blocks == 3 * CTX / i->kv_block_tokens && i->kv_bytes > 0);
    ck_assert(i->threads >= 1 && i->threads <= 2 && i->max_batch == 3);
    ck_assert_str_eq(i->dtype, "F32");
    ck_assert_str_eq(i->kv_dtype, "F16");
    ck_assert(i->n_params > 0 && i->weight_bytes > 0 && i->file_bytes > 4 * i->n_params);
    uint64_t print = i->fingerprint;
    engine_close(e);
    o.kv_cache_bytes = 1; /* never less than one full context */
    e = open_engine(&o);
    ck_assert_int_eq(engine_info(e)->kv_blocks, CTX / engine_info(e)->kv_block_tokens);
    ck_assert_uint_eq(engine_info(e)->fingerprint, print);
    engine_close(e);
    static const char *const kv[][2] = {{"f32", "F32"}, {"int8", "I8"}};
    for (size_t k = 0; k < 2; k++) { /* other numbers, other fingerprint */
        o.kv_dtype = kv[k][0];
        e = open_engine(&o);
        ck_assert_str_eq(engine_info(e)->kv_dtype, kv[k][1]);
        ck_assert_uint_ne(engine_info(e)->fingerprint, print);
        engine_close(e);
    }
    o.kv_dtype = "auto";
    o.dtype = "int8";
    e = open_engine(&o);
    ck_assert_str_eq(engine_info(e)->kv_dtype, "I8");
    engine_close(e);
    o.dtype = NULL;
    make_model(dir, &(struct make_model){.positions = CTX, .vocab = VOCAB, .seed = 5});
    e = open_engine(&o); /* other weights, other fingerprint */
    ck_assert_uint_ne(engine_info(e)->fingerprint, print);
    engine_close(e);
}
END_TEST

static void refused(const struct engine_options *o, int code, const char *word)
{
    struct engine *e = NULL;
    struct err err = {0};
    ck_assert_int_eq(engine_open(&e, o, &err), code);
    ck_assert_ptr_null(e);
    ck_assert_msg(strstr(err.msg, word) != NULL, "\"%s\" does not name %s", err.msg, word);
}

START_TEST(bad_options_and_directories_are_refused)
{
    make_tiny();
    struct engine_options o = options(dir);
    o.kernels = "z80";
    refused(&o, ERR_INVALID, "z80");
    o = options(dir);
    o.threads = -1;
    refused(&o, ERR_INVALID, "threads");
    o = options(dir);
    o.max_batch = 0;
    refused(&o, ERR_INVALID, "max_batch");
    o = options(dir);
    o.prefill_chunk_tokens = 0;
    refused(&o, ERR_INVALID, "prefill_chunk_tokens");
    o = options(dir);
    o.max_jobs = 0;
    refused(&o, ERR_INVALID, "max_jobs");
    o = options("/nowhere/at/all");
    refused(&o, ERR_MISSING, "directory /nowhere/at/all: No such file");
    o = options(path_join(dir, "config.json"));
    refused(&o, ERR_INVALID, "not a directory");
    o = options(dir);
    o.kv_cache_bytes = (size_t)1 << 50;
    refused(&o, ERR_NOMEM, "memory");
    ck_assert_int_eq(tokenizer_write_bytes(dir, VOCAB + 1, NULL), 0);
    o = options(dir);
    refused(&o, ERR_INVALID, "300");
    engine_close(NULL);
}
END_TEST

/* ---- a trained model ---- */

START_TEST(greedy_is_golden)
{
    struct engine_options o = options(shared_path("models/tarot"));
    struct engine *e = open_engine(&o);
    json_t *g = json_load_file(shared_path("models/tarot/golden.json"), 0, NULL);
    const char *prompt = json_string_value(json_object_get(g, "prompt"));
    const json_t *golden = json_object_get(g, "ids_greedy_64");
    struct tokens t = {0};
    tokenizer_encode(engine_tokenizer(e), prompt, strlen(prompt), true, &t);
    struct job_spec s;
    job_spec_default(&s);
    s.tokens = t.ids;
    s.n_tokens = t.n;
    s.max_tokens = 64 - (int)t.n;
    s.sampling.temperature = 0;
    struct job *j = submit(e, &s);
    struct job_view v = wait_done(j);
    ck_assert_int_eq(v.finish, FINISH_LENGTH);
    ck_assert_uint_eq(v.n_tokens, 64 - t.n);
    for (size_t i = 0; i < v.n_tokens; i++)
        ck_assert_int_eq(job_tokens(j)[i].id, json_integer_value(json_array_get(golden, t.n + i)));
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
    tcase_set_timeout(t, 60);
    tcase_add_test(t, thirty_two_at_once_get_what_each_gets_alone);
    tcase_add_test(t, so_they_do_with_ttm_layers);
    tcase_add_test(t, scores_are_the_log_softmax_of_the_naive_model);
    tcase_add_test(t, steps_do_not_allocate);
    tcase_add_test(t, idle_costs_nothing);
    tcase_add_test(t, facts);
    tcase_add_test(t, bad_options_and_directories_are_refused);
    if (shared_path("models/tarot"))
        tcase_add_test(t, greedy_is_golden);
    else
        skip("greedy text of a trained model", "../shared/models/tarot is not there");
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
