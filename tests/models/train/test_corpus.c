/* Texts as token ids: what documents are, when the cache is used and when it is not, and which block of
 * the text a step meets. */
#include "models/train/corpus.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/gpt2/tokenizer_write.h"
#include "tests/support/harness.h"
#include "tests/support/tool_call.h"

static volatile sig_atomic_t stop;
static struct tool tool;
static struct tokenizer *tok;

static struct tokenizer *tokenizer_of(int32_t vocab)
{
    struct tokenizer *t = NULL;
    const char *dir = temp_dir();
    ck_assert_int_eq(tokenizer_write_bytes(dir, vocab, NULL), 0);
    ck_assert_int_eq(tokenizer_open(&t, dir, NULL), 0);
    return t;
}

static void setup(void)
{
    stop = 0;
    tool = (struct tool){.out = stdout, .log = stderr, .stop = &stop};
    tok = tokenizer_of(300);
}

static void teardown(void)
{
    tokenizer_close(tok);
}

static const char text[] =
    "the cat\nthe hat\n"
    "<|endoftext|>\n"
    "one\n\n"
    "<|endoftext|>\r\n"
    "<|endoftext|>\n"
    " <|endoftext|>\nx<|endoftext|>\nlast";
static const char *const documents[] = {"the cat\nthe hat\n", "one\n\n",
                                        " <|endoftext|>\nx<|endoftext|>\nlast"};

static const char *text_file(const char *data, size_t len)
{
    const char *path = path_join(temp_dir(), "text");
    write_file(path, data, len);
    return path;
}

static int try_open(struct corpus *c, const char *path, const char *cache,
                    const struct tokenizer *t, int threads, struct err *err)
{
    struct pool *pool = NULL;
    ck_assert_int_eq(pool_new(&pool, threads, NULL), 0);
    int rc = corpus_open(c, &tool, path, cache, t, pool, err);
    pool_free(pool);
    return rc;
}

static void open_ok(struct corpus *c, const char *path, const char *cache,
                    const struct tokenizer *t)
{
    struct err err = {0};
    ck_assert_msg(try_open(c, path, cache, t, 2, &err) == 0, "%s", err.msg);
}

/* The documents one by one, each with its end. */
static void is_text(const struct corpus *c, const struct tokenizer *t)
{
    struct tokens want = {0};
    for (size_t i = 0; i < sizeof documents / sizeof *documents; i++) {
        tokenizer_encode(t, documents[i], strlen(documents[i]), false, &want);
        tokens_push(&want, tokenizer_eos(t));
    }
    int32_t *got = malloc(c->n * sizeof *got);
    ck_assert_uint_eq(c->n, want.n);
    ck_assert_uint_eq(c->bytes, sizeof text - 1);
    corpus_read(c, 0, c->n, got);
    ck_assert_mem_eq(got, want.ids, want.n * sizeof *got);
    corpus_read(c, c->n - 3, 3, got);
    ck_assert_mem_eq(got, want.ids + want.n - 3, 3 * sizeof *got);
    free(got);
    tokens_release(&want);
}

START_TEST(documents_end_with_their_token)
{
    const char *path = text_file(text, sizeof text - 1);
    for (int threads = 1; threads <= 3; threads++) {
        struct corpus c;
        const char *dir = temp_dir();
        ck_assert_int_eq(try_open(&c, path, path_join(dir, "ids"), tok, threads, NULL), 0);
        ck_assert_int_eq(c.width, 2);
        is_text(&c, tok);
        corpus_close(&c);
        ck_assert_ptr_null(c.map);
        ck_assert_int_eq(tool_entries(dir), 1);
    }
}
END_TEST

START_TEST(large_vocabularies_take_wide_ids)
{
    struct corpus c;
    struct tokenizer *large = tokenizer_of(65540);
    const char *path = text_file(text, sizeof text - 1), *cache = path_join(temp_dir(), "ids");
    open_ok(&c, path, cache, large);
    ck_assert_int_eq(c.width, 4);
    is_text(&c, large); /* its last id, the end of a document, needs more than 16 bits */
    corpus_close(&c);
    tokenizer_close(large);
}
END_TEST

static ino_t inode(const char *path)
{
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    return st.st_ino;
}

static void set_time(const char *path, time_t seconds)
{
    const struct timespec t[2] = {{.tv_sec = seconds}, {.tv_sec = seconds}};
    ck_assert_int_eq(utimensat(AT_FDCWD, path, t, 0), 0);
}

/* Replacing is seen by the inode: the old file is held open, so that its number stays taken. */
static bool remade(const char *path, const char *cache, const struct tokenizer *t)
{
    struct corpus c;
    FILE *hold = fopen(cache, "rb");
    ck_assert_ptr_nonnull(hold);
    ino_t before = inode(cache);
    open_ok(&c, path, cache, t);
    ino_t after = inode(cache);
    corpus_close(&c);
    fclose(hold);
    return before != after;
}

START_TEST(the_cache_serves_one_text_and_tokenizer)
{
    struct corpus c;
    struct tokenizer *other = tokenizer_of(301);
    const char *path = text_file(text, sizeof text - 1), *cache = path_join(temp_dir(), "ids");
    set_time(path, 1000);
    open_ok(&c, path, cache, tok);
    corpus_close(&c);
    ck_assert(!remade(path, cache, tok));
    ck_assert(remade(path, cache, other));
    ck_assert(!remade(path, cache, other));
    ck_assert(remade(path, cache, tok));
    set_time(path, 1001);
    ck_assert(remade(path, cache, tok));
    write_file(path, "other words", 11);
    set_time(path, 1001);
    ck_assert(remade(path, cache, tok));
    open_ok(&c, path, cache, tok);
    ck_assert_uint_eq(c.bytes, 11);
    corpus_close(&c);
    tokenizer_close(other);
}
END_TEST

START_TEST(broken_caches_are_made_anew)
{
    struct corpus c;
    const char *path = text_file(text, sizeof text - 1), *cache = path_join(temp_dir(), "ids");
    size_t len;
    open_ok(&c, path, cache, tok);
    corpus_close(&c);
    char *good = read_file(cache, &len);
    for (size_t cut = 0; cut < len; cut += 31) {
        write_file(cache, good, cut);
        open_ok(&c, path, cache, tok);
        is_text(&c, tok);
        corpus_close(&c);
    }
    for (size_t at = 3; at < len; at += at < 64 ? 4 : 34) { /* of ids their high bytes */
        char was = good[at];
        ck_assert(at < 64 || at % 2 == 1);
        good[at] = (char)0x7f;
        write_file(cache, good, len);
        open_ok(&c, path, cache, tok);
        is_text(&c, tok);
        corpus_close(&c);
        good[at] = was;
    }
    free(good);
}
END_TEST

START_TEST(refuses_by_name)
{
    struct corpus c;
    const char *dir = temp_dir(), *cache = path_join(dir, "ids");
    const struct {
        const char *path, *says;
        int code;
    } bad[] = {{"/nonexistent/text", "cannot open /nonexistent/text", ERR_IO},
               {text_file("", 0), "holds no text", ERR_INVALID},
               {text_file("<|endoftext|>\n<|endoftext|>", 27), "holds no text", ERR_INVALID},
               {dir, dir, ERR_IO}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err err = {0};
        ck_assert_int_eq(try_open(&c, bad[i].path, cache, tok, 1, &err), bad[i].code);
        ck_assert_msg(strstr(err.msg, bad[i].says) != NULL, "%s", err.msg);
        ck_assert(!c.map && !c.n);
    }
    struct err err = {0};
    ck_assert_int_eq(
        try_open(&c, text_file(text, sizeof text - 1), "/nonexistent/ids", tok, 1, &err), ERR_IO);
    ck_assert_ptr_nonnull(strstr(err.msg, "cannot write /nonexistent/ids"));
    ck_assert_int_eq(tool_entries(dir), 0);
}
END_TEST

START_TEST(a_signal_leaves_nothing)
{
    struct corpus c;
    struct err err = {0};
    const char *dir = temp_dir();
    stop = 1;
    ck_assert_int_eq(
        try_open(&c, text_file(text, sizeof text - 1), path_join(dir, "ids"), tok, 2, &err),
        ERR_SHUTDOWN);
    ck_assert_int_eq(tool_entries(dir), 0);
}
END_TEST

/* ---- batches ---- */

/* A corpus whose token i is i. */
static struct corpus counting(size_t n)
{
    static uint32_t ids[2000];
    ck_assert_uint_le(n, sizeof ids / sizeof *ids);
    for (uint32_t i = 0; i < n; i++)
        ids[i] = i;
    return (struct corpus){.ids = ids, .width = 4, .n = n};
}

/* Where block `index` begins; what follows its tokens are its targets. */
static int32_t begin_of(struct batches *b, uint64_t index)
{
    int32_t tokens[64], targets[64];
    ck_assert_uint_le(b->length, 64);
    batches_get(b, index, tokens, targets);
    for (size_t i = 0; i < b->length; i++) {
        ck_assert_int_eq(tokens[i], tokens[0] + (int32_t)i);
        ck_assert_int_eq(targets[i], tokens[i] + 1);
    }
    return tokens[0];
}

START_TEST(an_epoch_is_every_block_once)
{
    struct corpus c = counting(1000);
    struct batches b;
    int32_t offsets[3] = {0};
    ck_assert_int_eq(batches_open(&b, &c, 16, 5, NULL), 0);
    ck_assert_uint_eq(b.blocks, 61); /* of 62: one gives way to the offset */
    for (uint64_t epoch = 0; epoch < 3; epoch++) {
        bool seen[61] = {0};
        int32_t least = INT32_MAX, in_order = 0;
        for (size_t i = 0; i < b.blocks; i++) {
            int32_t at = begin_of(&b, epoch * b.blocks + i);
            if (at < least) least = at;
        }
        for (size_t i = 0; i < b.blocks; i++) {
            int32_t at = begin_of(&b, epoch * b.blocks + i) - least;
            ck_assert_int_eq(at % 16, 0);
            ck_assert(!seen[at / 16]);
            seen[at / 16] = true;
            in_order += at / 16 == (int32_t)i;
        }
        ck_assert_int_lt(in_order, 10);
        offsets[epoch] = least;
    }
    ck_assert(offsets[0] != offsets[1] || offsets[1] != offsets[2]);
    batches_close(&b);
}
END_TEST

START_TEST(a_block_is_a_function_of_seed_and_index)
{
    struct corpus c = counting(700);
    struct batches forth, back, other;
    int32_t want[200];
    int same = 0;
    ck_assert_int_eq(batches_open(&forth, &c, 16, 5, NULL), 0);
    ck_assert_int_eq(batches_open(&back, &c, 16, 5, NULL), 0);
    ck_assert_int_eq(batches_open(&other, &c, 16, 6, NULL), 0);
    for (uint64_t i = 0; i < 200; i++)
        want[i] = begin_of(&forth, i);
    for (uint64_t i = 200; i-- > 0;) {
        ck_assert_int_eq(begin_of(&back, i), want[i]);
        same += begin_of(&other, i) == want[i];
    }
    ck_assert_int_lt(same, 30);
    batches_close(&forth);
    batches_close(&back);
    batches_close(&other);
}
END_TEST

START_TEST(blocks_cross_borders_of_documents)
{
    struct corpus c;
    struct batches b;
    int32_t tokens[8], targets[8];
    int ends = 0, next = 0;
    open_ok(&c, text_file(text, sizeof text - 1), path_join(temp_dir(), "ids"), tok);
    ck_assert_int_eq(batches_open(&b, &c, 8, 1, NULL), 0);
    for (uint64_t i = 0; i < 4 * b.blocks; i++) {
        batches_get(&b, i, tokens, targets);
        for (int k = 0; k < 8; k++) {
            ends +=
                targets[k] == tokenizer_eos(tok); /* the end is learnt, and what begins after it */
            next += tokens[k] == tokenizer_eos(tok);
            if (k < 7) ck_assert_int_eq(targets[k], tokens[k + 1]);
        }
    }
    ck_assert_int_gt(ends, 0);
    ck_assert_int_gt(next, 0);
    batches_close(&b);
    corpus_close(&c);
}
END_TEST

START_TEST(the_smallest_texts)
{
    struct batches b;
    struct err err = {0};
    struct corpus c = counting(17);
    ck_assert_int_eq(batches_open(&b, &c, 16, 5, NULL), 0);
    for (uint64_t i = 0; i < 3; i++)
        ck_assert_int_eq(begin_of(&b, i), 0);
    batches_close(&b);
    c = counting(16);
    ck_assert_int_eq(batches_open(&b, &c, 16, 5, &err), ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(err.msg, "the text has 16 tokens, a block of 16 needs 17"));
    batches_close(&b);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("corpus");
    TCase *t = tcase_create("corpus");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, documents_end_with_their_token);
    tcase_add_test(t, large_vocabularies_take_wide_ids);
    tcase_add_test(t, the_cache_serves_one_text_and_tokenizer);
    tcase_add_test(t, broken_caches_are_made_anew);
    tcase_add_test(t, refuses_by_name);
    tcase_add_test(t, a_signal_leaves_nothing);
    tcase_add_test(t, an_epoch_is_every_block_once);
    tcase_add_test(t, a_block_is_a_function_of_seed_and_index);
    tcase_add_test(t, blocks_cross_borders_of_documents);
    tcase_add_test(t, the_smallest_texts);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
