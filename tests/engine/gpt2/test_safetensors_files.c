/* Directories: one file, shards with their index, what is missing or contradicts; and the writer, read
 * back by the reader. */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/gpt2/safetensors.h"
#include "tests/support/harness.h"
#include "tests/support/raw_st.h"

static void refused(const char *dir, int code, const char *says)
{
    struct st_set *s = NULL;
    struct err err = {0};
    ck_assert_int_eq(st_open(&s, dir, &err), code);
    ck_assert_ptr_null(s);
    ck_assert_msg(strstr(err.msg, says) != NULL, "\"%s\" has no \"%s\"", err.msg, says);
}

static void shard(const char *dir, const char *file, const char *tensor)
{
    struct raw_st r = {0};
    raw_tensor(&r, tensor, "U8", "[4]", tensor, 4);
    raw_write(&r, path_join(dir, file));
}

static void write_index(const char *dir, const char *map)
{
    struct buf b = {0};
    buf_printf(&b, "{\"metadata\": {\"total_size\": 8}, \"weight_map\": %s}", map);
    write_file(path_join(dir, "model.safetensors.index.json"), b.data, b.len);
    buf_release(&b);
}

static const char *two_shards(const char *map)
{
    const char *dir = temp_dir();
    shard(dir, "s1.safetensors", "aaaa");
    shard(dir, "s2.safetensors", "bbbb");
    write_index(dir, map);
    return dir;
}

#define MAP "{\"aaaa\": \"s1.safetensors\", \"bbbb\": \"s2.safetensors\"}"

START_TEST(shards)
{
    struct st_set *s = NULL;
    struct err err = {0};
    ck_assert_msg(st_open(&s, two_shards(MAP), &err) == 0, "%s", err.msg);
    ck_assert_uint_eq(st_count(s), 2);
    ck_assert_str_eq(st_find(s, "aaaa")->file, "s1.safetensors");
    ck_assert_str_eq(st_find(s, "bbbb")->file, "s2.safetensors");
    ck_assert_int_eq(memcmp(st_find(s, "bbbb")->data, "bbbb", 4), 0);
    st_close(s);
}
END_TEST

static const struct {
    const char *map, *says;
    int code;
} bad_maps[] = {
    {"[]", "no \"weight_map\" object", ERR_INVALID},
    {"{\"aaaa\": \"s1.safetensors\"", "not valid JSON", ERR_INVALID},
    {"{\"aaaa\": 7}", "a plain file name", ERR_INVALID},
    {"{\"aaaa\": \"../s1.safetensors\"}", "a plain file name", ERR_INVALID},
    {"{\"aaaa\": \"/etc/passwd\"}", "a plain file name", ERR_INVALID},
    {"{\"aaaa\": \"..\"}", "a plain file name", ERR_INVALID},
    {"{\"aaaa\": \"\"}", "a plain file name", ERR_INVALID},
    {"{\"aaaa\": \"s3.safetensors\"}", "s3.safetensors: No such file", ERR_MISSING},
    {"{\"aaaa\": \"s1.safetensors\", \"cccc\": \"s1.safetensors\"}",
     "tensor cccc is not in s1.safetensors", ERR_MISSING},
    {"{\"aaaa\": \"s2.safetensors\", \"bbbb\": \"s1.safetensors\"}", "tensor aaaa is not in s2",
     ERR_MISSING},
    {"{\"bbbb\": \"s2.safetensors\", \"cccc\": \"s1.safetensors\"}", "tensor cccc is not in",
     ERR_MISSING},
    {"{\"aaaa\": \"s1.safetensors\", \"aaaa\": \"s1.safetensors\"}", "duplicate", ERR_INVALID},
    {"{\"aaaa\": \"s1.safetensors\", \"bbbb\": \"model.safetensors.index.json\"}",
     "model.safetensors.index.json: header", ERR_INVALID},
};

START_TEST(bad_map)
{
    refused(two_shards(bad_maps[_i].map), bad_maps[_i].code, bad_maps[_i].says);
}
END_TEST

START_TEST(shards_that_contradict)
{
    const char *dir = two_shards(MAP);
    shard(dir, "s2.safetensors", "aaaa");
    refused(dir, ERR_INVALID, "tensor aaaa is in both s1.safetensors and s2.safetensors");
    dir = two_shards("{\"aaaa\": \"s1.safetensors\"}");
    struct raw_st r = {0};
    raw_tensor(&r, "aaaa", "U8", "[4]", "aaaa", 4);
    raw_tensor(&r, "more", "U8", "[4]", "more", 4);
    raw_write(&r, path_join(dir, "s1.safetensors"));
    refused(dir, ERR_INVALID, "tensor more is not in the weight_map");
    dir = two_shards(MAP);
    write_file(path_join(dir, "s2.safetensors"), "", 0);
    refused(dir, ERR_INVALID, "s2.safetensors: 0 bytes");
}
END_TEST

START_TEST(one_file_comes_first)
{
    struct st_set *s = NULL;
    const char *dir = two_shards("{}");
    shard(dir, "model.safetensors", "only");
    ck_assert_int_eq(st_open(&s, dir, NULL), 0);
    ck_assert_uint_eq(st_count(s), 1);
    st_drop(st_at(s, 0)); /* fewer bytes than a page: nothing to give back, nothing lost */
    ck_assert_int_eq(memcmp(st_at(s, 0)->data, "only", 4), 0);
    st_close(s);
    st_close(NULL);
}
END_TEST

START_TEST(dropped_pages_come_back)
{
    struct raw_st r = {0};
    struct st_set *s = NULL;
    const char *dir = temp_dir();
    size_t n = 1 << 20;
    unsigned char *bytes = malloc(n);
    for (size_t i = 0; i < n; i++)
        bytes[i] = (unsigned char)(i * 7 >> 3);
    raw_tensor(&r, "t", "U8", "[1048576]", bytes, n);
    raw_write(&r, path_join(dir, "model.safetensors"));
    ck_assert_int_eq(st_open(&s, dir, NULL), 0);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(memcmp(st_at(s, 0)->data, bytes, n), 0);
        st_drop(st_at(s, 0));
    }
    st_close(s);
    free(bytes);
}
END_TEST

/* Somebody copies another file over one that is mapped. */
START_TEST(a_file_that_changes_is_refused)
{
    static const char *const how[] = {"shorter", "written to", "longer", "kept"};
    struct raw_st r = {0};
    struct st_set *s = NULL;
    struct err err = {0};
    char bytes[3 << 16];
    const char *dir = temp_dir(), *path = path_join(dir, "model.safetensors");
    memset(bytes, 'x', sizeof bytes);
    raw_tensor(&r, "t", "U8", "[196608]", bytes, sizeof bytes);
    raw_write(&r, path);
    ck_assert_msg(st_open(&s, dir, &err) == 0, "%s", err.msg);
    ck_assert_int_eq(st_verify(s, 0, &err), 0);
    ck_assert_int_eq(st_verify(s, ERR_IO, &err), ERR_IO);
    usleep(20000); /* times of files are as fine as the kernel's clock ticks */
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    const char *t = st_at(s, 0)->data;
    if (_i == 0) {
        ck_assert_int_eq(ftruncate(fd, 200), 0);
        for (size_t i = 1 << 16; i < sizeof bytes; i += 1000) /* no end of the program */
            ck_assert_int_eq(t[i], 0);
        ck_assert_int_eq(ftruncate(fd, 3 << 16),
                         0); /* as long again: it was not while it was read */
    } else if (_i == 1) {
        ck_assert_int_eq(pwrite(fd, "y", 1, 1000), 1);
    } else if (_i == 2) {
        ck_assert_int_eq(lseek(fd, 0, SEEK_END) > 0 && write(fd, "y", 1) == 1, 1);
    } else { /* moved away, and another in its place: what is mapped is as it was */
        ck_assert_int_eq(rename(path, path_join(dir, "old")), 0);
        write_file(path, "{}", 2);
    }
    close(fd);
    err_set(&err, ERR_IO, "an echo");
    bool changed = _i < 3;
    ck_assert_msg(st_verify(s, 0, &err) == (changed ? ERR_INVALID : 0), "%s", how[_i]);
    ck_assert_str_eq(err.msg, changed ? "model.safetensors changed while it was read: expected a "
                                        "file that stays as it is (move the new one into its place)"
                                      : "an echo");
    ck_assert_int_eq(st_verify(NULL, 0, &err), 0);
    st_close(s);
}
END_TEST

START_TEST(not_there)
{
    const char *dir = temp_dir();
    refused(dir, ERR_MISSING, "neither model.safetensors nor model.safetensors.index.json");
    write_file(path_join(dir, "pytorch_model.bin"), "x", 1);
    refused(dir, ERR_MISSING, "pytorch_model.bin must be converted");
    ck_assert_int_eq(mkdir(path_join(dir, "model.safetensors"), 0755), 0);
    refused(dir, ERR_IO, "not a regular file");
    const char *pipe_dir = temp_dir();
    ck_assert_int_eq(mkfifo(path_join(pipe_dir, "model.safetensors"), 0644), 0);
    refused(pipe_dir, ERR_IO, "not a regular file");
}
END_TEST

/* ---- the writer ---- */

static const size_t shapes[4][2] = {{7, 3}, {5, 1}, {0, 9}, {20000, 1}};
static const enum dtype types[4] = {DTYPE_F32, DTYPE_F16, DTYPE_F32, DTYPE_BF16};
static const char *const names[4] = {"a", "quote \" \xc3\xa9", "empty", "long"};

static float value(size_t tensor, size_t i)
{
    return (float)(i % 200) / 8 - (float)tensor; /* exact in all three types */
}

static struct st_writer *declared(const char *path)
{
    struct st_writer *w = NULL;
    struct err err = {0};
    ck_assert_msg(st_writer_open(&w, path, &err) == 0, "%s", err.msg);
    for (size_t t = 0; t < 4; t++)
        st_writer_declare(w, names[t], types[t], shapes[t], t == 1 ? 1 : 2);
    ck_assert_int_eq(st_writer_begin(w, &err), 0);
    return w;
}

START_TEST(written_and_read_back)
{
    static const size_t pieces[] = {1, 3, 1000, 30000};
    static float all[21 + 5 + 20000];
    size_t n = 0;
    for (size_t t = 0; t < 4; t++)
        for (size_t i = 0; i < shapes[t][0] * shapes[t][1]; i++)
            all[n++] = value(t, i);
    const char *dir = temp_dir(), *path = path_join(dir, "model.safetensors");
    struct st_writer *w = declared(path);
    ck_assert_int_ne(access(path, F_OK), 0);
    for (size_t at = 0; at < n; at += pieces[_i])
        ck_assert_int_eq(
            st_writer_data(w, all + at, n - at < pieces[_i] ? n - at : pieces[_i], NULL), 0);
    ck_assert_int_eq(st_writer_finish(w, NULL), 0);
    ck_assert_int_ne(access(path_join(dir, "model.safetensors.partial"), F_OK), 0);
    struct st_set *s = NULL;
    struct err err = {0};
    ck_assert_msg(st_open(&s, dir, &err) == 0, "%s", err.msg);
    ck_assert_uint_eq(st_count(s), 4);
    for (size_t t = 0; t < 4; t++) {
        const struct st_tensor *x = st_find(s, names[t]);
        ck_assert_int_eq(x->dtype, types[t]);
        ck_assert_int_eq(x->n_dims, t == 1 ? 1 : 2);
        ck_assert_uint_eq(x->elements, shapes[t][0] * shapes[t][1]);
        for (size_t i = 0; i < x->elements; i++) {
            float got;
            dtype_to_f32(&got, (const char *)x->data + i * dtype_size(x->dtype), x->dtype, 1);
            ck_assert(got == value(t, i));
        }
    }
    ck_assert_uint_eq((uintptr_t)st_find(s, "a")->data % 8, 0);
    st_close(s);
}
END_TEST

START_TEST(writer_gives_up)
{
    struct st_writer *w = NULL;
    struct err err = {0}, full = {0};
    const char *dir = temp_dir(), *path = path_join(dir, "x.safetensors");
    ck_assert_int_eq(st_writer_open(&w, path_join(dir, "no/such/dir"), &err), ERR_IO);
    ck_assert_ptr_nonnull(strstr(err.msg, "no/such/dir.partial"));
    w = declared(path);
    st_writer_abort(w);
    st_writer_abort(NULL);
    ck_assert_int_ne(access(path, F_OK), 0);
    ck_assert_int_ne(access(path_join(dir, "x.safetensors.partial"), F_OK), 0);
    if (access("/dev/full", W_OK) != 0) return;
    ck_assert_int_eq(symlink("/dev/full", path_join(dir, "y.partial")), 0);
    ck_assert_int_eq(st_writer_open(&w, path_join(dir, "y"), NULL), 0);
    ck_assert_int_eq(st_writer_begin(w, &full), ERR_IO);
    ck_assert_ptr_nonnull(strstr(full.msg, "y.partial: No space left"));
    st_writer_abort(w);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("safetensors_files");
    TCase *t = tcase_create("safetensors_files");
    tcase_add_test(t, shards);
    tcase_add_loop_test(t, bad_map, 0, sizeof bad_maps / sizeof *bad_maps);
    tcase_add_test(t, shards_that_contradict);
    tcase_add_test(t, one_file_comes_first);
    tcase_add_test(t, dropped_pages_come_back);
    tcase_add_loop_test(t, a_file_that_changes_is_refused, 0, 4);
    tcase_add_test(t, not_there);
    tcase_add_loop_test(t, written_and_read_back, 0, 4);
    tcase_add_test(t, writer_gives_up);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
