/* Reading safetensors: well-formed files in one piece, and every way in which a file can lie about
 * itself. Images are parsed from exact allocations, so that a sanitizer sees the first byte beyond. */
#include "engine/gpt2/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "tests/support/harness.h"
#include "tests/support/raw_st.h"

static const float numbers[] = {1, -2, 3.5f, 0, 5, 6};

/* Parse a copy of exactly len bytes, touch all data, free. */
static int parse(const void *image, size_t len, struct err *err)
{
    struct st_set *s = NULL;
    char *exact = malloc(len ? len : 1);
    if (len) memcpy(exact, image, len);
    int rc = st_parse(&s, exact, len, "x.safetensors", err);
    volatile unsigned sum = 0;
    for (size_t i = 0; rc == 0 && i < st_count(s); i++)
        for (size_t j = 0; j < st_at(s, i)->bytes; j++)
            sum += ((const unsigned char *)st_at(s, i)->data)[j];
    (void)sum;
    if (rc == 0) st_close(s);
    free(exact);
    return rc;
}

static void refused(struct raw_st *r, const char *says)
{
    struct buf b = {0};
    struct err err = {0};
    raw_image(r, &b);
    ck_assert_int_eq(parse(b.data, b.len, &err), ERR_INVALID);
    ck_assert_msg(strncmp(err.msg, "x.safetensors: ", 15) == 0, "%s", err.msg);
    ck_assert_msg(strstr(err.msg, says) != NULL, "\"%s\" has no \"%s\"", err.msg, says);
    buf_release(&b);
}

static void well_formed(struct buf *out)
{
    struct raw_st r = {0};
    raw_entry(&r, "\"__metadata__\":{\"format\":\"pt\"}");
    raw_tensor(&r, "b", "F32", "[2,3]", numbers, 24);
    raw_tensor(&r, "scalar", "F32", "[]", numbers, 4);
    raw_tensor(&r, "empty", "BF16", "[4,0]", numbers, 0);
    raw_tensor(&r, "odd", "U8", "[3]", "abc", 3);
    raw_tensor(&r, "a \\u00e9 \\\" name", "F16", "[1,1,1,1,1,1,1,2]", numbers, 4);
    raw_image(&r, out);
}

START_TEST(reads_what_is_there)
{
    struct buf b = {0};
    struct st_set *s = NULL;
    struct err err = {0};
    well_formed(&b);
    ck_assert_msg(st_parse(&s, b.data, b.len, "x", &err) == 0, "%s", err.msg);
    ck_assert_uint_eq(st_count(s), 5);
    ck_assert_uint_eq(st_file_bytes(s), b.len);
    const struct st_tensor *t = st_find(s, "b");
    ck_assert_ptr_eq(t, st_at(s, 0));
    ck_assert_int_eq(t->dtype, DTYPE_F32);
    ck_assert_int_eq(t->n_dims, 2);
    ck_assert(t->shape[0] == 2 && t->shape[1] == 3 && t->elements == 6 && t->bytes == 24);
    ck_assert_int_eq(memcmp(t->data, numbers, 24), 0);
    ck_assert_str_eq(t->file, "x");
    ck_assert_uint_eq(st_find(s, "scalar")->elements, 1);
    ck_assert_uint_eq(st_find(s, "empty")->bytes, 0);
    ck_assert_int_eq(memcmp(st_find(s, "odd")->data, "abc", 3), 0);
    ck_assert_int_eq(st_find(s, "a \xc3\xa9 \" name")->n_dims, 8);
    ck_assert_ptr_null(st_find(s, "c"));
    ck_assert_ptr_null(st_find(s, ""));
    st_drop(t); /* borrowed bytes are never given to the kernel */
    ck_assert_int_eq(memcmp(t->data, numbers, 24), 0);
    st_close(s);
    buf_release(&b);
}
END_TEST

START_TEST(order_is_that_of_the_data)
{
    struct raw_st r = {0};
    struct buf b = {0};
    struct st_set *s = NULL;
    raw_entry(&r, "\"z\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}");
    raw_entry(&r, "\"y\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}");
    buf_puts(&r.data, "abc");
    raw_image(&r, &b);
    ck_assert_int_eq(st_parse(&s, b.data, b.len, "x", NULL), 0);
    ck_assert_str_eq(st_at(s, 0)->name, "y");
    ck_assert_str_eq(st_at(s, 1)->name, "z");
    st_close(s);
    buf_release(&b);
}
END_TEST

START_TEST(file_without_tensors)
{
    struct buf b = {0};
    struct st_set *s = NULL;
    raw_image(&(struct raw_st){0}, &b);
    ck_assert_int_eq(st_parse(&s, b.data, b.len, "x", NULL), 0);
    ck_assert_uint_eq(st_count(s), 0);
    ck_assert_ptr_null(st_find(s, "a"));
    st_close(s);
    buf_putc(&b, 'x');
    ck_assert_int_eq(parse(b.data, b.len, NULL), ERR_INVALID);
    buf_release(&b);
}
END_TEST

/* One entry with 24 bytes of data behind it. */
#define ENTRY(dtype, shape, offsets) \
    "\"t\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const struct {
    const char *entry, *says;
} bad_entries[] = {
    {ENTRY("\"F33\"", "[6]", "[0,24]"), "tensor t has the unknown dtype \"F33\""},
    {ENTRY("\"f32\"", "[6]", "[0,24]"), "unknown dtype \"f32\""},
    {ENTRY("\"\"", "[6]", "[0,24]"), "unknown dtype \"\""},
    {ENTRY("7", "[6]", "[0,24]"), "tensor t has no \"dtype\""},
    {ENTRY("\"F32\"", "6", "[0,24]"), "tensor t has no \"shape\" array"},
    {ENTRY("\"F32\"", "[-6]", "[0,24]"), "dimension 0 is not an integer >= 0"},
    {ENTRY("\"F32\"", "[2,3.0]", "[0,24]"), "dimension 1 is not an integer >= 0"},
    {ENTRY("\"F32\"", "[\"6\"]", "[0,24]"), "dimension 0 is not an integer"},
    {ENTRY("\"F32\"", "[1,1,1,1,1,1,1,1,6]", "[0,24]"), "9 dimensions, expected at most 8"},
    {ENTRY("\"F32\"", "[4294967296,4294967296]", "[0,24]"), "more than 2^64 elements"},
    {ENTRY("\"F32\"", "[4611686018427387904,4]", "[0,24]"), "more than 2^64 elements"},
    {ENTRY("\"F32\"", "[4611686018427387904]", "[0,24]"), "hold 24 bytes, but its shape"},
    {ENTRY("\"F32\"", "[9223372036854775807]", "[0,24]"), "hold 24 bytes, but its shape"},
    {ENTRY("\"F32\"", "[9223372036854775808]", "[0,24]"), "not valid JSON"},
    {ENTRY("\"F32\"", "[7]", "[0,24]"), "hold 24 bytes, but its shape has 7 elements of F32"},
    {ENTRY("\"F64\"", "[6]", "[0,24]"), "has 6 elements of F64"},
    {ENTRY("\"F32\"", "[0]", "[0,24]"), "has 0 elements"},
    {ENTRY("\"F32\"", "[6]", "[0,25]"), "not within the file's 24 bytes"},
    {ENTRY("\"F32\"", "[6]", "[-4,20]"), "[-4, 20] are not within"},
    {ENTRY("\"F32\"", "[6]", "[24,0]"), "[24, 0] are not within"},
    {ENTRY("\"F32\"", "[6]", "[9223372036854775800,9223372036854775807]"), "are not within"},
    {ENTRY("\"F32\"", "[6]", "[0]"), "not two integers"},
    {ENTRY("\"F32\"", "[6]", "[0,24,24]"), "not two integers"},
    {ENTRY("\"F32\"", "[6]", "[0.0,24]"), "not two integers"},
    {ENTRY("\"F32\"", "[6]", "{}"), "not two integers"},
    {ENTRY("\"F32\"", "[6]", "null"), "not two integers"},
    {ENTRY("\"F32\"", "[5]", "[0,20]"), "the last 4 of"},
    {ENTRY("\"F32\"", "[5]", "[4,24]"), "4 bytes before tensor t belong to no tensor"},
    {"\"t\":{}", "tensor t has no \"dtype\""},
    {"\"t\":[1]", "header entry \"t\" is not an object"},
    {"\"t\":null", "header entry \"t\" is not an object"},
    {"\"__metadata__\":7", "\"__metadata__\" is not an object"},
    {"\"__metadata__\":{\"format\":\"pt\"}", "24 bytes belong to no tensor"},
    {"\"t\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}", "not valid JSON"},
    {"\"\xff\":1", "not valid JSON"},
    {"\"t\\u0000\":1", "not valid JSON"},
    {"\"t\":1}x{", "not valid JSON"},
    {"t:1", "not valid JSON"},
};

START_TEST(bad_entry)
{
    struct raw_st r = {0};
    raw_entry(&r, bad_entries[_i].entry);
    buf_append(&r.data, numbers, 24);
    refused(&r, bad_entries[_i].says);
}
END_TEST

START_TEST(tensors_that_share_bytes)
{
    struct raw_st r = {0};
    raw_entry(&r, "\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}");
    raw_entry(&r, "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}");
    buf_puts(&r.data, "abcd");
    refused(&r, "tensor b overlaps tensor a");
    raw_entry(&r, "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}");
    raw_entry(&r, "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}");
    buf_puts(&r.data, "abcd");
    refused(&r, "overlaps");
    raw_entry(&r, "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}");
    raw_entry(&r, "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[3,4]}");
    buf_puts(&r.data, "abcd");
    refused(&r, "2 bytes before tensor b belong to no tensor");
}
END_TEST

START_TEST(duplicate_names)
{
    struct raw_st r = {0};
    raw_tensor(&r, "a", "F32", "[3]", numbers, 12);
    raw_tensor(&r, "a", "F32", "[3]", numbers, 12);
    refused(&r, "duplicate");
}
END_TEST

START_TEST(header_length_out_of_bounds)
{
    static const uint64_t lengths[] = {1,          1000,       100000000,      100000001,
                                       UINT32_MAX, UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct err err = {0};
        unsigned char image[10] = {0};
        for (int k = 0; k < 8; k++)
            image[k] = (unsigned char)(lengths[i] >> 8 * k & 0xff);
        memcpy(image + 8, "{}", 2);
        ck_assert_int_eq(parse(image, 10, &err), ERR_INVALID);
        ck_assert_msg(strstr(err.msg, i ? "header length" : "JSON") != NULL, "%s", err.msg);
    }
}
END_TEST

START_TEST(too_many_values)
{
    size_t n = 5u << 20;
    char *text = malloc(n + 8);
    struct err err = {0};
    memset(text, 0, 8);
    for (int i = 0; i < 8; i++)
        text[i] = (char)(n >> 8 * i & 0xff);
    text[8] = '[';
    for (size_t i = 1; i < n; i++)
        text[8 + i] = i % 2 ? '1' : ',';
    ck_assert_int_eq(parse(text, n + 8, &err), ERR_INVALID);
    ck_assert_msg(strstr(err.msg, "commas") != NULL, "%s", err.msg);
    free(text);
}
END_TEST

START_TEST(truncated_anywhere)
{
    struct buf b = {0};
    well_formed(&b);
    ck_assert_int_eq(parse(b.data, b.len, NULL), 0);
    for (size_t n = 0; n < b.len; n++)
        ck_assert_int_eq(parse(b.data, n, NULL), ERR_INVALID);
    buf_release(&b);
}
END_TEST

START_TEST(flipped_bits)
{
    struct buf b = {0};
    well_formed(&b);
    size_t header_end = b.len - 35;
    for (size_t bit = 0; bit < header_end * 8; bit++) {
        b.data[bit / 8] ^= (char)(1 << bit % 8);
        int rc = parse(b.data, b.len, NULL);
        ck_assert(rc == 0 || rc == ERR_INVALID);
        b.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    for (uint64_t round = 0; round < 20000; round++) { /* several bytes at once */
        char *copy = malloc(b.len);
        memcpy(copy, b.data, b.len);
        for (uint64_t k = 0; k < 3; k++) {
            uint32_t r[4];
            rng_bits(1, round, k, r);
            copy[r[0] % header_end] = (char)r[1];
        }
        int rc = parse(copy, b.len, NULL);
        ck_assert(rc == 0 || rc == ERR_INVALID);
        free(copy);
    }
    buf_release(&b);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("safetensors");
    TCase *t = tcase_create("safetensors");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, reads_what_is_there);
    tcase_add_test(t, order_is_that_of_the_data);
    tcase_add_test(t, file_without_tensors);
    tcase_add_loop_test(t, bad_entry, 0, sizeof bad_entries / sizeof *bad_entries);
    tcase_add_test(t, tensors_that_share_bytes);
    tcase_add_test(t, duplicate_names);
    tcase_add_test(t, header_length_out_of_bounds);
    tcase_add_test(t, too_many_values);
    tcase_add_test(t, truncated_anywhere);
    tcase_add_test(t, flipped_bits);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
