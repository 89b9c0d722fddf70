/* The prefix cache: what is found is that very text, whatever the hashes; least recently used goes
 * first, ends before beginnings; the pool's count of blocks always adds up. */
#include "engine/run/prefix.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "tests/support/harness.h"

static struct kv_pool pool;
static struct prefix_cache cache;

static void open_cache(int blocks, int max_idle)
{
    ck_assert_int_eq(kv_pool_init(&pool, blocks, NULL), 0);
    prefix_init(&cache, &pool, max_idle);
}

static void close_cache(void)
{
    prefix_release(&cache);
    kv_pool_release(&pool);
}

static const int32_t *tokens(int n)
{
    static int32_t t[4][KV_BLOCK];
    static int turn;
    int32_t *out = t[turn++ % 4];
    for (int i = 0; i < KV_BLOCK; i++)
        out[i] = n * 1000 + i;
    return out;
}

/* A block with these tokens after `parent`, in the cache and in use. */
static int32_t put(uint64_t parent, uint64_t hash, int n)
{
    int32_t b;
    ck_assert_int_eq(prefix_take(&cache, &b, 1), 0);
    return prefix_put(&cache, parent, hash, tokens(n), b);
}

START_TEST(found_with_a_reference)
{
    open_cache(4, 4);
    ck_assert_int_eq(prefix_find(&cache, 0, 7, tokens(1)), -1);
    int32_t b = put(0, 7, 1);
    ck_assert_int_eq(pool.refs[b], 2); /* the cache's and ours */
    prefix_unref(&cache, b);
    ck_assert_int_eq(cache.n_idle, 1);
    ck_assert_int_eq(prefix_available(&cache), 4);
    ck_assert_int_eq(prefix_find(&cache, 0, 7, tokens(1)), b);
    ck_assert_int_eq(prefix_find(&cache, 0, 7, tokens(1)), b);
    ck_assert_int_eq(pool.refs[b], 3);
    ck_assert_int_eq(prefix_available(&cache), 3);
    close_cache();
}
END_TEST

/* Every hash is the same: only tokens and the text before decide. */
START_TEST(collisions_are_told_apart)
{
    open_cache(16, 16);
    int32_t a = put(0, 5, 1), b = put(0, 5, 2);
    int32_t ax = put(prefix_id(&cache, a), 5, 3), bx = put(prefix_id(&cache, b), 5, 3);
    ck_assert(a != b && ax != bx);
    ck_assert_int_eq(prefix_find(&cache, 0, 5, tokens(1)), a);
    ck_assert_int_eq(prefix_find(&cache, 0, 5, tokens(2)), b);
    ck_assert_int_eq(prefix_find(&cache, 0, 5, tokens(3)), -1);
    ck_assert_int_eq(prefix_find(&cache, prefix_id(&cache, a), 5, tokens(3)), ax);
    ck_assert_int_eq(prefix_find(&cache, prefix_id(&cache, b), 5, tokens(3)), bx);
    ck_assert_int_eq(prefix_find(&cache, prefix_id(&cache, a), 5, tokens(1)), -1);
    ck_assert_int_eq(prefix_find(&cache, 0, 6, tokens(1)), -1); /* another hash: another salt */
    close_cache();
}
END_TEST

START_TEST(two_that_computed_the_same_go_on_with_one)
{
    open_cache(4, 4);
    int32_t a = put(0, 5, 1), b = put(0, 5, 1);
    ck_assert_int_eq(a, b);
    ck_assert_int_eq(pool.n_free, 3);
    ck_assert_int_eq(pool.refs[a], 3);
    close_cache();
}
END_TEST

START_TEST(least_recently_used_goes_first)
{
    open_cache(3, 3);
    int32_t b[3], taken;
    for (int i = 0; i < 3; i++)
        b[i] = put(0, (uint64_t)i, i);
    for (int i = 0; i < 3; i++)
        prefix_unref(&cache, b[i]);
    ck_assert_int_eq(prefix_find(&cache, 0, 0, tokens(0)), b[0]); /* used again */
    prefix_unref(&cache, b[0]);
    ck_assert_int_eq(prefix_take(&cache, &taken, 1), 0);
    ck_assert_int_eq(taken, b[1]);
    ck_assert_int_eq(prefix_find(&cache, 0, 1, tokens(1)), -1);
    ck_assert_int_eq(prefix_find(&cache, 0, 0, tokens(0)), b[0]);
    ck_assert_int_eq(prefix_take(&cache, &taken, 2), ERR_FULL); /* one is in use */
    ck_assert_int_eq(prefix_take(&cache, &taken, 1), 0);
    ck_assert_int_eq(taken, b[2]);
    close_cache();
}
END_TEST

START_TEST(the_limit_counts_unused_blocks)
{
    open_cache(8, 2);
    int32_t b[4];
    uint64_t parent = 0;
    for (int i = 0; i < 4; i++) {
        b[i] = put(parent, 9, i);
        parent = prefix_id(&cache, b[i]);
    }
    ck_assert_int_eq(cache.n_cached, 4);
    for (int i = 3; i >= 0; i--) /* the end of a text first */
        prefix_unref(&cache, b[i]);
    ck_assert(cache.n_cached == 2 && cache.n_idle == 2 && pool.n_free == 6);
    ck_assert_int_eq(prefix_find(&cache, 0, 9, tokens(0)), b[0]);
    ck_assert_int_eq(prefix_find(&cache, prefix_id(&cache, b[0]), 9, tokens(1)), b[1]);
    ck_assert_int_eq(prefix_find(&cache, prefix_id(&cache, b[1]), 9, tokens(2)), -1);
    close_cache();
}
END_TEST

START_TEST(dropping_keeps_what_is_in_use)
{
    open_cache(4, 4);
    int32_t a = put(0, 1, 1), b = put(0, 2, 2);
    prefix_unref(&cache, b);
    prefix_drop(&cache);
    ck_assert(cache.n_cached == 0 && cache.n_idle == 0 && pool.n_free == 3);
    ck_assert_int_eq(prefix_find(&cache, 0, 1, tokens(1)), -1);
    prefix_unref(&cache, a);
    ck_assert_int_eq(pool.n_free, 4);
    prefix_drop(&cache);
    close_cache();
}
END_TEST

/* Forgotten with the last user: of those who want it so, or where nothing unused may stay. */
START_TEST(what_nobody_uses_need_not_stay)
{
    for (int room = 0; room < 2; room++) {
        open_cache(4, room ? 4 : 0);
        void (*drop)(struct prefix_cache *, int32_t) = room ? prefix_discard : prefix_unref;
        int32_t a = put(0, 1, 1), b = put(prefix_id(&cache, a), 2, 2);
        ck_assert_int_eq(prefix_find(&cache, 0, 1, tokens(1)), a);
        drop(&cache, b);
        drop(&cache, a);
        ck_assert_int_eq(prefix_find(&cache, 0, 1, tokens(1)), a); /* still in use */
        drop(&cache, a);
        drop(&cache, a);
        ck_assert_int_eq(prefix_find(&cache, 0, 1, tokens(1)), -1);
        ck_assert_int_eq(cache.n_cached, 0);
        ck_assert_int_eq(cache.n_idle, 0);
        ck_assert_int_eq(pool.n_free, 4);
        close_cache();
    }
}
END_TEST

START_TEST(without_room_nothing_is_cached)
{
    open_cache(2, 0);
    int32_t b[2];
    ck_assert_int_eq(prefix_take(&cache, b, 3), ERR_FULL);
    ck_assert_int_eq(prefix_take(&cache, b, 2), 0);
    ck_assert_int_eq(prefix_find(&cache, 0, 1, tokens(1)), -1);
    prefix_unref(&cache, b[0]);
    ck_assert_int_eq(prefix_available(&cache), 1);
    prefix_drop(&cache);
    close_cache();
}
END_TEST

START_TEST(hashes_cover_salt_and_all_that_comes_before)
{
    int32_t t[KV_BLOCK] = {0};
    uint64_t plain = prefix_hash(prefix_salt(NULL), t);
    ck_assert(plain == prefix_hash(prefix_salt(""), t));
    ck_assert(plain != prefix_hash(prefix_salt("a"), t));
    ck_assert(prefix_salt("ab") != prefix_salt("ba"));
    ck_assert(prefix_family(1) != prefix_family(2));
    ck_assert(plain != prefix_hash(plain, t));
    for (int i = 0; i < KV_BLOCK; i++) {
        t[i] = 1;
        ck_assert(plain != prefix_hash(prefix_salt(""), t));
        t[i] = 0;
    }
}
END_TEST

/* ---- against a naive cache ---- */

enum { DEEP = 6, BLOCKS = 40 };

/* A text is a number in base 3, a block a digit; what a block of the pool holds is a whole text. */
struct naive {
    int text[BLOCKS], depth[BLOCKS]; /* of blocks in the pool, by number */
};

static int cut(int text, int depth)
{
    int base = 1;
    for (int i = 0; i < depth; i++)
        base *= 3;
    return text % base;
}

static int digit(int text, int d)
{
    for (int i = 0; i < d; i++)
        text /= 3;
    return text % 3;
}

/* Walk one text through the cache, as a sequence does; its blocks must hold that text. */
static int walk(struct naive *n, int text, int depth, int32_t *blocks, bool weak_hash)
{
    uint64_t parent = 0, hash = 0;
    int found = 0;
    for (int d = 0; d < depth; d++) {
        const int32_t *t = tokens(digit(text, d));
        hash = weak_hash ? (uint64_t)d % 2 : prefix_hash(hash, t);
        int32_t b = found == d ? prefix_find(&cache, parent, hash, t) : -1;
        if (b >= 0) {
            ck_assert(n->text[b] == cut(text, d + 1) && n->depth[b] == d);
            found++;
        } else {
            if (prefix_take(&cache, &b, 1)) {
                depth = d;
                break;
            }
            n->text[b] = cut(text, d + 1);
            n->depth[b] = d;
            b = prefix_put(&cache, parent, hash, t, b);
            ck_assert(n->text[b] == cut(text, d + 1) && n->depth[b] == d);
        }
        blocks[d] = b;
        parent = prefix_id(&cache, b);
    }
    return depth;
}

START_TEST(random_texts_never_get_a_wrong_block)
{
    static struct naive n;
    struct {
        int32_t blocks[DEEP];
        int depth;
    } held[8] = {0};
    open_cache(BLOCKS, 25);
    for (uint64_t i = 0; i < 20000; i++) {
        int h = (int)(rng_uniform(1, 1, i) * 8);
        while (held[h].depth > 0)
            prefix_unref(&cache, held[h].blocks[--held[h].depth]);
        int text = (int)(rng_uniform(1, 2, i) * 729),
            depth = 1 + (int)(rng_uniform(1, 3, i) * DEEP);
        held[h].depth = walk(&n, text, depth, held[h].blocks, i % 2);
        if (i % 997 == 0) prefix_drop(&cache);
        int used = 0;
        for (int b = 0; b < BLOCKS; b++)
            used += pool.refs[b] > 0;
        ck_assert_int_eq(used + pool.n_free, BLOCKS);
        ck_assert_int_le(cache.n_idle, 25);
    }
    for (int h = 0; h < 8; h++)
        while (held[h].depth > 0)
            prefix_unref(&cache, held[h].blocks[--held[h].depth]);
    ck_assert_int_eq(cache.n_idle, cache.n_cached);
    prefix_drop(&cache);
    ck_assert_int_eq(pool.n_free, BLOCKS);
    close_cache();
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("prefix");
    TCase *t = tcase_create("prefix");
    tcase_add_test(t, found_with_a_reference);
    tcase_add_test(t, collisions_are_told_apart);
    tcase_add_test(t, two_that_computed_the_same_go_on_with_one);
    tcase_add_test(t, least_recently_used_goes_first);
    tcase_add_test(t, the_limit_counts_unused_blocks);
    tcase_add_test(t, dropping_keeps_what_is_in_use);
    tcase_add_test(t, what_nobody_uses_need_not_stay);
    tcase_add_test(t, without_room_nothing_is_cached);
    tcase_add_test(t, hashes_cover_salt_and_all_that_comes_before);
    tcase_add_test(t, random_texts_never_get_a_wrong_block);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
