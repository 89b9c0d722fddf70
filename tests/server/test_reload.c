/* A model that takes over from another while requests run: none fails, each is answered whole by one of the
 * two, old ones are closed, and a directory that is no good leaves the old one serving. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "server/keys.h"
#include "tests/server/fixture.h"

static char admin[80], plain[80], file[1024];

static void make_keys(void)
{
    struct buf text = {0}, key = {0};
    struct err err = {0};
    snprintf(file, sizeof file, "%s", path_join(temp_dir(), "keys"));
    ck_assert_int_eq(keys_new("root", &key, &text, &err), 0);
    snprintf(admin, sizeof admin, "%s", key.data);
    text.len -= strlen("completions,scoring\n");
    buf_puts(&text, "completions,admin\n");
    buf_clear(&key);
    ck_assert_int_eq(keys_new("plain", &key, &text, &err), 0);
    snprintf(plain, sizeof plain, "%s", key.data);
    write_file(file, text.data, text.len);
    buf_release(&text);
    buf_release(&key);
}

static void up(void)
{
    make_keys();
    daemon_start(&srv, daemon_tiny_model(), (const char *[]){"--api-keys-file", file, NULL});
}

static void up_slow(void)
{
    make_keys();
    daemon_start(&srv, daemon_slow_model(),
                 (const char *[]){"--api-keys-file", file, DAEMON_SLOW, NULL});
}

static json_t *post(const char *key, const char *path, int status, const char *body)
{
    struct httpc c;
    char headers[160];
    snprintf(headers, sizeof headers, "Authorization: Bearer %s\r\n", key);
    httpc_open(&c, srv.port);
    httpc_send(&c, "POST", path, headers, body, strlen(body));
    int got = httpc_read(&c, 60000);
    ck_assert_msg(got == status, "%s %s: %d %s", path, body, got, c.body.len ? c.body.data : "");
    json_t *v = json_loads(c.body.data, 0, NULL);
    httpc_close(&c);
    return v;
}

#define COMPLETE "{\"prompt\":[1,2,3],\"max_tokens\":20,\"ignore_eos\":true,\"temperature\":0}"

static json_t *reload(const char *dir, int status)
{
    char body[1200];
    snprintf(body, sizeof body, "{\"model\":\"%s\"}", dir);
    return post(admin, "/admin/reload", status, dir ? body : "{}");
}

START_TEST(another_model_takes_over)
{
    json_t *a = post(admin, "/v1/completions", 200, COMPLETE);
    json_t *said = reload(daemon_ttm_model(), 200);
    json_t *b = post(admin, "/v1/completions", 200, COMPLETE);
    ck_assert_str_ne(json_str(a, "system_fingerprint"), json_str(b, "system_fingerprint"));
    ck_assert_str_eq(json_str(said, "system_fingerprint"), json_str(b, "system_fingerprint"));
    ck_assert_str_ne(json_str(a, "choices.0.text"), json_str(b, "choices.0.text"));
    ck_assert_str_eq(json_str(a, "model"), json_str(b, "model")); /* the name is the service's */
    json_decref(said);
    said = reload(daemon_tiny_model(), 200);
    json_t *c = post(admin, "/v1/completions", 200, COMPLETE);
    ck_assert_str_eq(json_str(a, "choices.0.text"), json_str(c, "choices.0.text"));
    ck_assert_str_eq(json_str(a, "system_fingerprint"), json_str(c, "system_fingerprint"));
    json_decref(said);
    json_decref(a);
    json_decref(b);
    json_decref(c);
}
END_TEST

START_TEST(bad_directories_are_refused)
{
    const char *empty = temp_dir();
    json_t *before = post(admin, "/v1/completions", 200, COMPLETE);
    json_t *e = reload("/nonexistent/model", 422);
    ck_assert_str_eq(json_str(e, "error.code"), "reload_failed");
    ck_assert_ptr_nonnull(strstr(json_str(e, "error.message"), "/nonexistent/model"));
    json_decref(e);
    json_decref(reload(empty, 422));
    e = post(plain, "/admin/reload", 403, "{}");
    ck_assert_str_eq(json_str(e, "error.code"), "insufficient_scope");
    json_decref(e);
    json_decref(post(admin, "/admin/reload", 400, "{\"model\":1}"));
    e = post(admin, "/admin/reload", 400, "{\"model\":\"\"}");
    ck_assert_str_eq(json_str(e, "error.message"),
                     "'model' is empty: expected the path of a model's directory");
    json_decref(e);
    /* the directory that serves is the one that is read again */
    json_decref(post(admin, "/admin/reload", 200, "{}"));
    json_t *after = post(admin, "/v1/completions", 200, COMPLETE);
    ck_assert_str_eq(json_str(before, "choices.0.text"), json_str(after, "choices.0.text"));
    json_decref(before);
    json_decref(after);
}
END_TEST

/* Copies a model over the one that is being read, in place, again and again. */
struct copier {
    atomic_bool stop;
    const char *path;
    char *bytes;
    size_t len;
};

static void *copy_over(void *arg)
{
    struct copier *x = arg;
    while (!atomic_load(&x->stop)) {
        write_file(x->path, x->bytes, x->len / 8);
        write_file(x->path, x->bytes, x->len);
        usleep(500);
    }
    return NULL;
}

/* Whichever moment it hits: the directory is read or refused, and the daemon serves on. */
START_TEST(files_change_while_they_are_read)
{
    struct copier x = {0};
    pthread_t thread;
    struct buf command = {0};
    const char *dir = temp_dir();
    int refused = 0;
    buf_printf(&command, "cp -r '%s/.' '%s'", daemon_tiny_model(), dir);
    ck_assert_int_eq(system(command.data), 0);
    buf_release(&command);
    x.path = path_join(dir, "model.safetensors");
    x.bytes = read_file(x.path, &x.len);
    json_t *before = post(admin, "/v1/completions", 200, COMPLETE);
    ck_assert_int_eq(pthread_create(&thread, NULL, copy_over, &x), 0);
    for (int i = 0; i < 60; i++) {
        struct httpc c;
        char body[1200], headers[160];
        snprintf(body, sizeof body, "{\"model\":\"%s\"}", dir);
        snprintf(headers, sizeof headers, "Authorization: Bearer %s\r\n", admin);
        httpc_open(&c, srv.port);
        httpc_send(&c, "POST", "/admin/reload", headers, body, strlen(body));
        int got = httpc_read(&c, 60000);
        ck_assert_msg(got == 200 || got == 422, "%d %s", got, c.body.len ? c.body.data : "");
        refused += got == 422;
        if (got == 422) ck_assert_ptr_nonnull(strstr(c.body.data, "the model stays as it was"));
        httpc_close(&c);
    }
    atomic_store(&x.stop, true);
    pthread_join(thread, NULL);
    ck_assert_int_gt(refused, 0);
    ck_assert(daemon_log_has(&srv, "changed while it was read"));
    json_decref(reload(dir, 200)); /* whole again */
    json_t *after = post(admin, "/v1/completions", 200, COMPLETE);
    ck_assert_str_eq(json_str(before, "choices.0.text"), json_str(after, "choices.0.text"));
    json_decref(reload(daemon_tiny_model(), 200));
    json_decref(before);
    json_decref(after);
    free(x.bytes);
}
END_TEST

/* Clients that never stop asking. */
struct load {
    atomic_bool stop;
    atomic_int answered;
};

static void *client(void *arg)
{
    struct load *l = arg;
    while (!atomic_load(&l->stop)) {
        json_decref(post(admin, "/v1/completions", 200,
                         "{\"prompt\":[5,6,7],\"max_tokens\":30,\"ignore_eos\":true,\"n\":2}"));
        atomic_fetch_add(&l->answered, 1);
    }
    return NULL;
}

static long resident_kib(void)
{
    char line[160];
    long kib = -1;
    snprintf(line, sizeof line, "/proc/%d/status", (int)srv.pid);
    FILE *f = fopen(line, "r");
    ck_assert_ptr_nonnull(f);
    while (kib < 0 && fgets(line, sizeof line, f))
        if (!strncmp(line, "VmRSS:", 6)) kib = strtol(line + 6, NULL, 10);
    fclose(f);
    ck_assert_int_gt(kib, 0);
    return kib;
}

START_TEST(fifty_times_under_load)
{
    struct load l = {0};
    pthread_t thread[3];
    long before = 0;
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(pthread_create(&thread[i], NULL, client, &l), 0);
    for (int i = 0; i < 50; i++) {
        json_decref(reload(i % 2 ? daemon_tiny_model() : daemon_ttm_model(), 200));
        if (i == 9) before = resident_kib();
    }
    atomic_store(&l.stop, true);
    for (int i = 0; i < 3; i++)
        pthread_join(thread[i], NULL);
    ck_assert_int_gt(atomic_load(&l.answered), 0);
    /* A model kept for each of the last forty would be more than this; allocators keep some. */
    long grown = resident_kib() - before;
    if (!harness_sanitized()) ck_assert_msg(grown < 8 * 1024, "%ld KiB more", grown);
    json_decref(post(admin, "/v1/completions", 200, COMPLETE));
}
END_TEST

/* What a chunk says of its choice's end; "" when it goes on. */
static char *chunk_end(struct httpc *c, const char *fingerprint)
{
    char *event = httpc_event(c, 60000), *end;
    ck_assert_ptr_nonnull(event);
    json_t *v = json_loads(event + strlen("data: "), 0, NULL);
    ck_assert_msg(v != NULL, "%s", event);
    ck_assert_str_eq(json_str(v, "system_fingerprint"), fingerprint);
    end = strdup(json_str(v, "choices.0.finish_reason"));
    json_decref(v);
    free(event);
    return end;
}

/* A stream that a swap finds under way ends on the model that it began on; who comes later has the new one. */
START_TEST(a_stream_across_a_swap)
{
    static const char body[] =
        "{\"prompt\":[1,2,3],\"max_tokens\":400,\"ignore_eos\":true,"
        "\"temperature\":0,\"stream\":true}";
    struct httpc c, m;
    char headers[160], old[40];
    snprintf(headers, sizeof headers, "Authorization: Bearer %s\r\n", admin);
    json_t *v = post(admin, "/v1/completions", 200, "{\"prompt\":[1],\"max_tokens\":1}");
    snprintf(old, sizeof old, "%s", json_str(v, "system_fingerprint"));
    json_decref(v);
    httpc_open(&c, srv.port);
    httpc_send(&c, "POST", "/v1/completions", headers, body, sizeof body - 1);
    ck_assert_int_eq(httpc_head(&c, 30000), 200);
    free(chunk_end(&c, old));
    json_decref(reload(daemon_tiny_model(), 200));
    for (int i = 0; i < 2; i++) {
        v = post(admin, "/v1/completions", 200, COMPLETE);
        ck_assert_str_ne(json_str(v, "system_fingerprint"), old);
        json_decref(v);
    }
    httpc_open(&m, srv.port);
    httpc_send(&m, "GET", "/metrics", headers, NULL, 0);
    ck_assert_int_eq(httpc_read(&m, 10000), 200);
    ck_assert_ptr_nonnull(strstr(m.body.data, "\nttmd_requests_in_flight 1\n")); /* the stream */
    httpc_close(&m);
    char *end = chunk_end(&c, old);
    while (!*end) {
        free(end);
        end = chunk_end(&c, old);
    }
    ck_assert_str_eq(end, "length");
    free(end);
    end = httpc_event(&c, 10000);
    ck_assert_str_eq(end, "data: [DONE]");
    free(end);
    httpc_close(&c);
}
END_TEST

/* SIGHUP reads the same directory again; the counters of /metrics go on. */
START_TEST(a_signal_reloads)
{
    struct httpc c;
    char headers[160];
    snprintf(headers, sizeof headers, "Authorization: Bearer %s\r\n", admin);
    double tokens[2];
    for (int i = 0; i < 2; i++) {
        json_decref(post(admin, "/v1/completions", 200, COMPLETE));
        httpc_open(&c, srv.port);
        httpc_send(&c, "GET", "/metrics", headers, NULL, 0);
        ck_assert_int_eq(httpc_read(&c, 10000), 200);
        char *at = strstr(c.body.data, "\nttmd_generated_tokens_total ");
        ck_assert_ptr_nonnull(at);
        tokens[i] = strtod(at + 29, NULL);
        httpc_close(&c);
        if (i) break;
        kill(srv.pid, SIGHUP);
        for (int k = 0; k < 3000 && !daemon_log_has(&srv, "model replaced"); k++)
            usleep(10000);
        ck_assert(daemon_log_has(&srv, "model replaced"));
    }
    ck_assert(tokens[1] >= tokens[0] + 20);
}
END_TEST

static void point(const char *link, const char *dir)
{
    char new[1100];
    snprintf(new, sizeof new, "%s.new", link);
    ck_assert_int_eq(symlink(dir, new), 0);
    ck_assert_int_eq(rename(new, link), 0);
}

static bool is_first(const struct daemon *d, const char *fingerprint)
{
    json_t *v = http_json(d->port, "/v1/completions", 200, "{\"prompt\":[1],\"max_tokens\":1}");
    bool same = !strcmp(json_str(v, "system_fingerprint"), fingerprint);
    json_decref(v);
    return same;
}

/* The directory changes while it is read again, and is told of: what was put there last is served. */
START_TEST(the_last_signal_counts)
{
    struct daemon d;
    char first[64];
    const char *link = path_join(temp_dir(), "model"),
               *dirs[] = {daemon_tiny_model(), daemon_ttm_model()};
    point(link, dirs[0]);
    daemon_start(&d, link, NULL);
    json_t *v = http_json(d.port, "/v1/completions", 200, "{\"prompt\":[1],\"max_tokens\":1}");
    snprintf(first, sizeof first, "%s", json_str(v, "system_fingerprint"));
    json_decref(v);
    for (int i = 1; i <= 12; i++) {
        kill(d.pid, SIGHUP);
        usleep((useconds_t)(i % 6) * 1000); /* a load takes some ten milliseconds */
        point(link, dirs[i % 2]);
        kill(d.pid, SIGHUP);
        int ms = 0;
        for (; ms < 20000 && is_first(&d, first) != (i % 2 == 0); ms += 5)
            usleep(5000);
        ck_assert_msg(ms < 20000, "round %d: the model before is still served", i);
    }
    daemon_stop(&d);
}
END_TEST

static void up_without_keys(void)
{
    server_up();
}

START_TEST(without_keys_nobody_may)
{
    json_t *e = http_json(srv.port, "/admin/reload", 403, "{}");
    ck_assert_str_eq(json_str(e, "error.code"), "insufficient_scope");
    json_decref(e);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("reload");
    TCase *t = tcase_create("keys"), *n = tcase_create("no keys");
    tcase_add_unchecked_fixture(t, up, server_down);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, a_signal_reloads);
    tcase_add_test(t, another_model_takes_over);
    tcase_add_test(t, bad_directories_are_refused);
    tcase_add_test(t, files_change_while_they_are_read);
    tcase_add_test(t, fifty_times_under_load);
    suite_add_tcase(s, t);
    tcase_add_unchecked_fixture(n, up_without_keys, server_down);
    tcase_add_test(n, without_keys_nobody_may);
    tcase_set_timeout(n, 120);
    tcase_add_test(n, the_last_signal_counts);
    suite_add_tcase(s, n);
    t = tcase_create("swap");
    tcase_add_unchecked_fixture(t, up_slow, server_down);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, a_stream_across_a_swap);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
