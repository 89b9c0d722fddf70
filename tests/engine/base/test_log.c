/* Log lines: exact form, hostile strings, one write(2) per line, levels. A datagram socket is the
 * descriptor: each write becomes one message. */
#include "engine/base/log.h"

#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "tests/support/harness.h"

static int fds[2];

static void setup(void)
{
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds), 0);
}

static void teardown(void)
{
    close(fds[0]);
    close(fds[1]);
}

/* The next line without its newline, or "" if nothing was written. */
static const char *line(void)
{
    static char text[8192];
    ssize_t n = recv(fds[1], text, sizeof text - 1, MSG_DONTWAIT);
    if (n <= 0) return "";
    ck_assert_int_eq(text[n - 1], '\n');
    text[n - 1] = 0;
    ck_assert_ptr_null(strchr(text, '\n'));
    return text;
}

START_TEST(text_form)
{
    struct log l;
    log_init(&l, fds[0], LOG_DEBUG, LOG_TEXT);
    log_at(&l, LOG_INFO, "request done", LOG_S("id", "cmpl-1"), LOG_I("status", 200),
           LOG_N("ms", 12.5), LOG_S("gone", NULL), LOG_S("q", "a b"), LOG_S("e", ""),
           LOG_S("x", "k=v \"w\""));
    const char *s = line();
    int y, mo, d, h, mi, sec, ms, n = 0;
    ck_assert_int_eq(
        sscanf(s, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ%n", &y, &mo, &d, &h, &mi, &sec, &ms, &n), 7);
    ck_assert_int_eq(n, 24);
    ck_assert_int_ge(y, 2024);
    ck_assert_str_eq(s + n,
                     " INFO  request done id=cmpl-1 status=200 ms=12.5 q=\"a b\" e=\"\" "
                     "x=\"k=v \\\"w\\\"\"");
    log_at(&l, LOG_ERROR, "bad", LOG_N("a", NAN), LOG_N("b", -INFINITY));
    ck_assert_str_eq(line() + 24, " ERROR bad a=nan b=-inf");
    log_release(&l);
}
END_TEST

START_TEST(hostile_text_stays_on_its_line)
{
    struct log l;
    log_init(&l, fds[0], LOG_DEBUG, LOG_TEXT);
    log_at(&l, LOG_WARN, "bad\nname", LOG_S("v", "x\n2026 INFO forged\x1b[31m\x7f\xff\xc2\x85"));
    ck_assert_str_eq(line() + 24,
                     " WARN  bad\\nname v=\"x\\n2026 INFO forged\\u001b[31m\\u007f"
                     "\xef\xbf\xbd\\u0085\"");
    log_release(&l);
}
END_TEST

START_TEST(json_round_trip_of_hostile_strings)
{
    static const char *const values[][2] = {
        {"plain", "plain"},
        {"q\"b\\s/", "q\"b\\s/"},
        {"\x01\x02\b\f\n\r\t\x1f\x7f", "\x01\x02\b\f\n\r\t\x1f\x7f"},
        {"\xff\xfe", "\xef\xbf\xbd\xef\xbf\xbd"},
        {"cut \xf0\x9f\x98", "cut \xef\xbf\xbd"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xe2\x80\xa8gr\xc3\xbc\xc3\x9f\xf0\x9f\x98\x80",
         "\xe2\x80\xa8gr\xc3\xbc\xc3\x9f\xf0\x9f\x98\x80"},
        {"</script>", "</script>"},
    };
    struct log l;
    log_init(&l, fds[0], LOG_INFO, LOG_JSON);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        log_at(&l, LOG_WARN, values[i][0], LOG_S("v", values[i][0]), LOG_I("n", INT64_MIN),
               LOG_N("nan", NAN), LOG_N("pi", 3.25), LOG_S("gone", NULL));
        json_t *o = json_loads(line(), JSON_REJECT_DUPLICATES, NULL);
        ck_assert_ptr_nonnull(o);
        ck_assert_str_eq(json_string_value(json_object_get(o, "msg")), values[i][1]);
        ck_assert_str_eq(json_string_value(json_object_get(o, "v")), values[i][1]);
        ck_assert_str_eq(json_string_value(json_object_get(o, "level")), "warn");
        ck_assert_uint_eq(json_string_length(json_object_get(o, "time")), 24);
        ck_assert(json_integer_value(json_object_get(o, "n")) == INT64_MIN);
        ck_assert(json_is_null(json_object_get(o, "nan")));
        ck_assert(json_real_value(json_object_get(o, "pi")) == 3.25);
        ck_assert_ptr_null(json_object_get(o, "gone"));
        json_decref(o);
    }
    log_release(&l);
}
END_TEST

START_TEST(levels_filter)
{
    for (int least = LOG_DEBUG; least <= LOG_OFF; least++) {
        struct log l;
        log_init(&l, fds[0], (enum log_level)least, LOG_TEXT);
        for (int level = LOG_DEBUG; level <= LOG_OFF; level++) {
            log_at(&l, (enum log_level)level, "x", LOG_I("n", 1));
            ck_assert_int_eq(*line() != 0, level >= least && level < LOG_OFF);
        }
        log_release(&l);
    }
    log_at(NULL, LOG_ERROR, "silent", LOG_I("n", 1));
    log_event(NULL, LOG_ERROR, "silent", NULL, 0);
}
END_TEST

START_TEST(names)
{
    static const char *const levels[] = {"debug", "info", "warn", "error", "off"};
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(log_level_parse(levels[i]), i);
    ck_assert_int_eq(log_level_parse("INFO"), -1);
    ck_assert_int_eq(log_level_parse(""), -1);
    ck_assert_int_eq(log_format_parse("text"), LOG_TEXT);
    ck_assert_int_eq(log_format_parse("json"), LOG_JSON);
    ck_assert_int_eq(log_format_parse("xml"), -1);
}
END_TEST

static void *chatter(void *arg)
{
    for (int i = 0; i < 200; i++)
        log_at(arg, LOG_INFO, "a longer message of a thread", LOG_I("i", i), LOG_S("s", "a b c"));
    return NULL;
}

START_TEST(threads_do_not_interleave)
{
    const char *path = path_join(temp_dir(), "log");
    FILE *f = fopen(path, "w");
    struct log l;
    log_init(&l, fileno(f), LOG_INFO, LOG_JSON);
    pthread_t t[4];
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&t[i], NULL, chatter, &l), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    log_release(&l);
    fclose(f);
    char *text = read_file(path, NULL), *save = NULL;
    int lines = 0;
    for (char *s = strtok_r(text, "\n", &save); s; s = strtok_r(NULL, "\n", &save), lines++) {
        json_t *o = json_loads(s, 0, NULL);
        ck_assert_ptr_nonnull(o);
        json_decref(o);
    }
    ck_assert_int_eq(lines, 800);
    free(text);
}
END_TEST

/* What a pipe holds, appended to b. */
static void drain(int fd, struct buf *b)
{
    char piece[4096];
    int left;
    while (ioctl(fd, FIONREAD, &left) == 0 && left > 0) {
        ssize_t n = read(fd, piece, sizeof piece);
        ck_assert_int_gt(n, 0);
        buf_append(b, piece, (size_t)n);
    }
}

/* A reader that stands still holds up nobody: lines are dropped, whole ones follow, and the count is right. */
START_TEST(a_reader_that_stands_still)
{
    enum { EVENTS = 3000 };
    int pipe_fds[2], lines = 0, dropped = 0, notices = 0;
    struct buf text = {0}, filler = {0};
    struct log l;
    ck_assert_int_eq(pipe(pipe_fds), 0);
    log_init(&l, pipe_fds[1], LOG_INFO, LOG_JSON);
    for (int i = 0; i < 1000; i++)
        buf_puts(&filler, "abcdefghi ");
    for (int i = 0; i < EVENTS; i++) {
        if (i % 1000 == 999) drain(pipe_fds[0], &text);
        log_at(&l, LOG_INFO, "event", LOG_I("i", i), LOG_S("s", i % 7 ? "x" : filler.data));
    }
    drain(pipe_fds[0], &text);
    log_at(&l, LOG_INFO, "event", LOG_I("i", EVENTS));
    drain(pipe_fds[0], &text);
    char *save = NULL;
    for (char *s = strtok_r(text.data, "\n", &save); s; s = strtok_r(NULL, "\n", &save)) {
        json_t *o = json_loads(s, 0, NULL);
        const char *msg = o ? json_string_value(json_object_get(o, "msg")) : "cut off";
        bool notice = strcmp(msg, "log lines were dropped") == 0;
        if (notice) dropped += (int)json_integer_value(json_object_get(o, "lines"));
        notices += notice;
        lines += o && !notice;
        json_decref(o);
    }
    ck_assert_int_ge(notices, 2);
    ck_assert_int_gt(lines, 20);
    ck_assert_int_eq(lines + dropped, EVENTS + 1);
    log_release(&l);
    buf_release(&text);
    buf_release(&filler);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("log");
    TCase *t = tcase_create("log");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, text_form);
    tcase_add_test(t, hostile_text_stays_on_its_line);
    tcase_add_test(t, json_round_trip_of_hostile_strings);
    tcase_add_test(t, levels_filter);
    tcase_add_test(t, names);
    tcase_add_test(t, threads_do_not_interleave);
    tcase_add_test(t, a_reader_that_stands_still);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
