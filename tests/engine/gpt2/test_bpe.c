/* Merging: both ways against the textbook's loop, on random merges in random order (also such whose
 * products are used before they are listed) and on texts of few letters, where pairs overlap. */
#include "engine/gpt2/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "tests/support/harness.h"

enum { MAX_MERGES = 200, LETTERS = 4 };

struct merge {
    int32_t left, right, id;
};
struct rules {
    struct merge list[MAX_MERGES];
    size_t n;
    struct bpe bpe;
};

static uint32_t draw(uint64_t stream, uint64_t counter, uint32_t below)
{
    uint32_t r[4];
    rng_bits(7, stream, counter, r);
    return r[0] % below;
}

static bool listed(const struct rules *r, int32_t left, int32_t right)
{
    for (size_t i = 0; i < r->n; i++)
        if (r->list[i].left == left && r->list[i].right == right) return true;
    return false;
}

/* Bytes 'a'.. are tokens 0..LETTERS-1; every merge makes a token of its own. */
static void make_rules(struct rules *r, uint64_t seed, size_t n, bool shuffled)
{
    *r = (struct rules){0};
    int32_t next = LETTERS;
    for (uint64_t c = 0; r->n < n; c += 2) {
        int32_t left = (int32_t)draw(seed, c, (uint32_t)next),
                right = (int32_t)draw(seed, c + 1, (uint32_t)next);
        if (!listed(r, left, right)) r->list[r->n++] = (struct merge){left, right, next++};
    }
    for (size_t i = n; shuffled && i > 1; i--) {
        size_t j = draw(seed + 1000000, i, (uint32_t)i);
        struct merge m = r->list[i - 1];
        r->list[i - 1] = r->list[j];
        r->list[j] = m;
    }
    pair_map_init(&r->bpe.merges, n);
    for (size_t i = 0; i < n; i++)
        pair_map_put(&r->bpe.merges, (uint32_t)r->list[i].left, (uint32_t)r->list[i].right,
                     (struct pair_value){(uint32_t)i, r->list[i].id});
    for (int i = 0; i < 256; i++)
        r->bpe.byte_id[i] = i >= 'a' && i < 'a' + LETTERS ? i - 'a' : -1;
}

/* The textbook: as long as any rule applies, apply the first one of the list at its first place. */
static size_t oracle(const struct rules *r, int32_t *ids, size_t n)
{
    for (size_t rule = 0; rule < r->n;) {
        const struct merge *m = &r->list[rule];
        size_t i = 0;
        while (i + 1 < n && !(ids[i] == m->left && ids[i + 1] == m->right))
            i++;
        if (i + 1 >= n) {
            rule++;
            continue;
        }
        ids[i] = m->id;
        memmove(ids + i + 1, ids + i + 2, (n - i - 2) * sizeof *ids);
        n--;
        rule = 0;
    }
    return n;
}

START_TEST(both_ways_are_the_textbook)
{
    struct bpe_scratch scratch = {0};
    int rounds = harness_sanitized() ? 20 : 100;
    for (int round = 0; round < rounds; round++) {
        struct rules r;
        make_rules(&r, (uint64_t)round, 1 + draw(99, (uint64_t)round, MAX_MERGES), round % 2);
        for (uint64_t text = 0; text < 20; text++) {
            int32_t a[BPE_SHORT], b[BPE_SHORT], c[BPE_SHORT];
            size_t n = 1 + draw(500 + text, (uint64_t)round, BPE_SHORT);
            uint32_t letters = 1 + draw(600 + text, (uint64_t)round, LETTERS);
            for (size_t i = 0; i < n; i++)
                a[i] = (int32_t)draw(700 + text, (uint64_t)round * 1000 + i, letters);
            memcpy(b, a, n * sizeof *a);
            memcpy(c, a, n * sizeof *a);
            size_t na = oracle(&r, a, n), nb = bpe_merge_short(&r.bpe, b, n);
            size_t nc = bpe_merge_long(&r.bpe, c, n, &scratch);
            ck_assert_uint_eq(nb, na);
            ck_assert_uint_eq(nc, na);
            ck_assert_mem_eq(b, a, na * sizeof *a);
            ck_assert_mem_eq(c, a, na * sizeof *a);
        }
        pair_map_release(&r.bpe.merges);
    }
    bpe_scratch_release(&scratch);
}
END_TEST

START_TEST(long_pieces_are_the_textbook)
{
    enum { N = 1500 };
    static int32_t a[N];
    struct rules r;
    make_rules(&r, 5000 + (uint64_t)_i, 60, _i % 2);
    char text[N];
    for (size_t i = 0; i < N; i++) {
        a[i] = _i < 2 ? 0 : (int32_t)draw(42, (uint64_t)_i * N + i, LETTERS);
        text[i] = (char)('a' + a[i]);
    }
    struct bpe_scratch scratch = {0};
    struct tokens out = {0};
    tokens_push(&out, -7); /* what is there stays */
    bpe_encode(&r.bpe, text, N, &scratch, &out);
    size_t n = oracle(&r, a, N);
    ck_assert_uint_eq(out.n, n + 1);
    ck_assert_int_eq(out.ids[0], -7);
    ck_assert_mem_eq(out.ids + 1, a, n * sizeof *a);
    tokens_release(&out);
    bpe_scratch_release(&scratch);
    pair_map_release(&r.bpe.merges);
}
END_TEST

START_TEST(edges)
{
    struct rules r;
    make_rules(&r, 1, 10, false);
    struct bpe_scratch scratch = {0};
    struct tokens out = {0};
    bpe_encode(&r.bpe, "", 0, &scratch, &out);
    ck_assert_uint_eq(out.n, 0);
    bpe_encode(&r.bpe, "d", 1, &scratch, &out);
    ck_assert_uint_eq(out.n, 1);
    ck_assert_int_eq(out.ids[0], 3);
    out.n = 0;
    bpe_encode(&r.bpe, "xyz", 3, &scratch, &out); /* bytes without a token are left out */
    ck_assert_uint_eq(out.n, 0);
    int32_t one[1] = {2};
    ck_assert_uint_eq(bpe_merge_long(&r.bpe, one, 1, &scratch), 1);
    ck_assert_uint_eq(bpe_merge_short(&r.bpe, one, 1), 1);
    ck_assert_uint_eq(bpe_merge_short(&r.bpe, one, 0), 0);
    tokens_release(&out);
    bpe_scratch_release(&scratch);
    pair_map_release(&r.bpe.merges);
}
END_TEST

static double encode_time(const struct bpe *b, const char *text, size_t len)
{
    double best = 1e30;
    for (int i = 0; i < 3; i++) {
        struct bpe_scratch scratch = {0};
        struct tokens out = {0};
        uint64_t start = harness_cpu_ns();
        bpe_encode(b, text, len, &scratch, &out);
        double t = (double)(harness_cpu_ns() - start);
        if (t < best) best = t;
        tokens_release(&out);
        bpe_scratch_release(&scratch);
    }
    return best;
}

/* Sixteen times the piece: n log n, and what caches add, not 256 times. */
START_TEST(a_megabyte_without_a_space)
{
    size_t len = (size_t)(harness_sanitized() ? 128 : 1024) << 10;
    char *text = malloc(len);
    ck_assert_ptr_nonnull(text);
    for (size_t i = 0; i < len; i++)
        text[i] = (char)(_i == 0 ? 'a' : 'a' + (int)draw(3, i, LETTERS));
    struct rules r = {
        .list = {{0, 0, 10}, {10, 10, 11}, {11, 11, 12}, {12, 12, 13}, {0, 1, 14}, {2, 3, 15}},
        .n = 6};
    pair_map_init(&r.bpe.merges, r.n);
    for (size_t i = 0; i < r.n; i++)
        pair_map_put(&r.bpe.merges, (uint32_t)r.list[i].left, (uint32_t)r.list[i].right,
                     (struct pair_value){(uint32_t)i, r.list[i].id});
    for (int i = 0; i < 256; i++)
        r.bpe.byte_id[i] = i - 'a';
    double small = encode_time(&r.bpe, text, len / 16), large = encode_time(&r.bpe, text, len);
    ck_assert_msg(large < 128 * small, "%.0f ns for a piece, %.0f ns for one 16 times as long",
                  small, large);
    pair_map_release(&r.bpe.merges);
    free(text);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("bpe");
    TCase *t = tcase_create("bpe");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, both_ways_are_the_textbook);
    tcase_add_loop_test(t, long_pieces_are_the_textbook, 0, 6);
    tcase_add_test(t, edges);
    tcase_add_loop_test(t, a_megabyte_without_a_space, 0, 2);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
