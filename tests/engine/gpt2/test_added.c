/* Finding added tokens against trying every token at every place. */
#include "engine/gpt2/added.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "tests/support/harness.h"

static uint32_t draw(uint64_t stream, uint64_t counter, uint32_t below)
{
    uint32_t r[4];
    rng_bits(11, stream, counter, r);
    return r[0] % below;
}

static int32_t longest_at(const struct span *tokens, size_t n, const char *text, size_t len)
{
    int32_t best = -1;
    for (size_t i = 0; i < n; i++)
        if (tokens[i].len && tokens[i].len <= len &&
            memcmp(tokens[i].p, text, tokens[i].len) == 0 &&
            (best < 0 || tokens[i].len > tokens[best].len))
            best = (int32_t)i;
    return best;
}

START_TEST(every_place_and_the_longest)
{
    for (uint64_t round = 0; round < 3000; round++) {
        char pool[16][8], text[60];
        struct span tokens[16];
        int32_t ids[16];
        size_t n = 1 + draw(round, 0, 8), len = draw(round, 1, sizeof text + 1);
        for (size_t i = 0; i < n; i++) { /* a text that is there already becomes an empty one */
            tokens[i] = (struct span){pool[i], draw(round, 10 + i, 7)};
            for (size_t k = 0; k < tokens[i].len; k++)
                pool[i][k] = (char)('a' + draw(round, 100 + 10 * i + k, 2));
            ids[i] = (int32_t)i;
            for (size_t k = 0; k < i; k++)
                if (tokens[k].len == tokens[i].len && memcmp(pool[k], pool[i], tokens[i].len) == 0)
                    tokens[i].len = 0;
        }
        for (size_t i = 0; i < len; i++)
            text[i] = (char)('a' + draw(round, 1000 + i, 2 + round % 2));
        struct added a;
        struct added_matches m = {0};
        added_init(&a, ids, n, tokens);
        added_find(&a, text, len, &m);
        for (size_t i = 0; i < len; i++) {
            int32_t want = longest_at(tokens, n, text + i, len - i);
            if (want < 0) continue;
            ck_assert_uint_gt(m.n, 0);
            m.n--;
            ck_assert_uint_eq(m.list[m.n].at, i);
            ck_assert_int_eq(m.list[m.n].id, want);
        }
        ck_assert_uint_eq(m.n, 0);
        free(m.list);
        added_release(&a);
    }
}
END_TEST

START_TEST(none)
{
    struct added a;
    struct added_matches m = {0};
    added_init(&a, NULL, 0, NULL);
    added_find(&a, "text", 4, &m);
    ck_assert_uint_eq(m.n, 0);
    added_release(&a);
}
END_TEST

static double find_time(const struct added *a, const char *text, size_t len)
{
    double best = 1e30;
    for (int i = 0; i < 3; i++) {
        struct added_matches m = {0};
        uint64_t start = harness_cpu_ns();
        added_find(a, text, len, &m);
        double t = (double)(harness_cpu_ns() - start);
        if (t < best) best = t;
        free(m.list);
    }
    return best;
}

/* Long tokens of one letter, in a text of it: trying them all would read thousands of bytes at every
 * place, in a text where they break off at once one or two. */
START_TEST(hostile_tokens_take_linear_time)
{
    enum { TOKEN = 8192, TEXT = 1 << 18 };
    char *hostile = malloc(TEXT), *harmless = malloc(TEXT), *token = malloc(TOKEN);
    ck_assert(hostile && harmless && token);
    memset(hostile, 'a', TEXT);
    memset(token, 'a', TOKEN);
    token[0] = 'b';
    for (size_t i = 0; i < TEXT; i++)
        harmless[i] = i % 2 ? 'a' : 'c';
    struct span spans[2] = {{token, TOKEN}, {token + 1, TOKEN - 1}};
    int32_t ids[2] = {0, 1};
    struct added a;
    added_init(&a, ids, 2, spans);
    double fast = find_time(&a, harmless, TEXT), slow = find_time(&a, hostile, TEXT);
    ck_assert_msg(slow < 200 * fast, "%.0f ns for a harmless text, %.0f ns for a hostile one", fast,
                  slow);
    added_release(&a);
    free(hostile);
    free(harmless);
    free(token);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("added");
    TCase *t = tcase_create("added");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, every_place_and_the_longest);
    tcase_add_test(t, none);
    tcase_add_test(t, hostile_tokens_take_linear_time);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
