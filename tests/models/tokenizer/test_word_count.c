/* word_count() against splitting each document from end to end: cuts and threads change nothing. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/rng.h"
#include "engine/gpt2/pretokenizer.h"
#include "models/tokenizer/word_count.h"
#include "tests/support/harness.h"

struct piece {
    const char *p;
    size_t len;
};

static int by_bytes(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;
    int c = memcmp(x->p, y->p, x->len < y->len ? x->len : y->len);
    return c ? c : (x->len > y->len) - (x->len < y->len);
}

static int words_by_bytes(const void *a, const void *b)
{
    const struct word *x = a, *y = b;
    struct piece p = {x->bytes, x->len}, q = {y->bytes, y->len};
    return by_bytes(&p, &q);
}

struct pieces {
    struct piece *list;
    size_t n;
};

static void split(struct pieces *s, const char *text, size_t len)
{
    for (size_t at = 0; at < len;) {
        size_t n = pretokenize(text + at, len - at);
        s->list[s->n++] = (struct piece){text + at, n};
        at += n;
    }
}

/* The words of all documents, with repetitions, are exactly the table's. */
static void same(struct pieces *s, struct word_table *t)
{
    qsort(s->list, s->n, sizeof *s->list, by_bytes);
    if (t->n) qsort(t->words, t->n, sizeof *t->words, words_by_bytes);
    ck_assert_uint_eq(t->total, s->n);
    size_t at = 0;
    for (size_t i = 0; i < t->n; i++) {
        const struct word *w = &t->words[i];
        ck_assert_uint_gt(w->count, 0);
        for (uint64_t k = 0; k < w->count; k++, at++) {
            ck_assert_uint_lt(at, s->n);
            ck_assert_uint_eq(w->len, s->list[at].len);
            ck_assert(memcmp(w->bytes, s->list[at].p, w->len) == 0);
        }
    }
    ck_assert_uint_eq(at, s->n);
}

static const char *const bits_of_text[] = {
    "once",     " upon", " a",   " time",
    "\n",       "\n\n",  "  ",   " \xe2\x80\x83", /* em space */
    "\xc2\xa0",                                   /* no-break space */
    "'ll",      "'",     "1234", " \xc3\xa9t\xc3\xa9",
    "...",      "\t",    ", ",   "\xf0\x9f\x98\x80",
    " don't",   "\r\n",  "x",
};

/* A few megabytes, so that there are cuts, and several documents. */
static void make_text(struct buf *out, size_t bytes, uint64_t seed)
{
    for (uint64_t i = 0; out->len < bytes; i++) {
        uint32_t b[4];
        rng_bits(seed, 0, i, b);
        buf_puts(out, bits_of_text[b[0] % (sizeof bits_of_text / sizeof *bits_of_text)]);
    }
}

START_TEST(cuts_and_threads_change_nothing)
{
    struct buf text = {0};
    struct pieces s = {0};
    struct pool *pool = NULL;
    struct err err = {0};
    struct word_table t = {0};
    size_t size = harness_sanitized() ? 1500000 : 4000000, first;
    make_text(&text, size, 1);
    first = text.len;
    buf_puts(&text, "\n<|endoftext|>\n");
    size_t second = text.len;
    make_text(&text, text.len + 100000, 2);
    s.list = malloc(text.len * sizeof *s.list);
    split(&s, text.data, first + 1);
    split(&s, text.data + second, text.len - second);
    ck_assert_int_eq(pool_new(&pool, 1 + _i, &err), 0);
    word_count(&t, text.data, text.len, pool, NULL);
    same(&s, &t);
    pool_free(pool);
    word_table_release(&t);
    free(s.list);
    buf_release(&text);
}
END_TEST

static const struct {
    const char *text;
    const char *words[8]; /* sorted */
} documents[] = {
    {"a\n<|endoftext|>\nb\n", {"\n", "\n", "a", "b"}},
    {"a\n<|endoftext|>\n\nb", {"\n", "\n", "a", "b"}}, /* one newline goes, not two */
    {"a<|endoftext|>b", {"a", "b"}},
    {"a<|endoftext|>\nb", {"\n", "a", "b"}}, /* not a line of its own */
    {"<|endoftext|>\nb", {"b"}},
    {"b<|endoftext|>", {"b"}},
    {"<|endoftext|><|endoftext|>", {NULL}},
    {"<|endoftext", {"<|", "endoftext"}},
    {"", {NULL}},
};

START_TEST(documents_are_separate)
{
    struct piece list[8];
    struct pieces s = {.list = list};
    struct word_table t = {0};
    for (; s.n < 8 && documents[_i].words[s.n]; s.n++)
        list[s.n] = (struct piece){documents[_i].words[s.n], strlen(documents[_i].words[s.n])};
    word_count(&t, documents[_i].text, strlen(documents[_i].text), NULL, NULL);
    same(&s, &t);
    word_table_release(&t);
}
END_TEST

START_TEST(a_text_without_a_cut_is_one_word)
{
    size_t len = 3 << 20;
    char *text = malloc(len);
    struct word_table t = {0};
    memset(text, 'x', len);
    word_count(&t, text, len, NULL, NULL);
    ck_assert_uint_eq(t.n, 1);
    ck_assert_uint_eq(t.words[0].len, len);
    word_table_release(&t);
    memset(text, ' ', len);
    word_count(&t, text, len, NULL, NULL);
    ck_assert_uint_eq(t.n, 1);
    ck_assert_uint_eq(t.words[0].len, len);
    word_table_release(&t);
    free(text);
}
END_TEST

START_TEST(can_be_stopped)
{
    volatile sig_atomic_t stop = 1;
    struct word_table t = {0};
    word_count(&t, "some words", 10, NULL, &stop);
    ck_assert_uint_eq(t.n, 0);
    word_table_release(&t);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("word_count");
    TCase *t = tcase_create("word_count");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, cuts_and_threads_change_nothing, 0, 3);
    tcase_add_loop_test(t, documents_are_separate, 0, (int)(sizeof documents / sizeof *documents));
    tcase_add_test(t, a_text_without_a_cut_is_one_word);
    tcase_add_test(t, can_be_stopped);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
