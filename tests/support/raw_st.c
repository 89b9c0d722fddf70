/* Bytes of safetensors files without any check. */
#include "tests/support/raw_st.h"

#include <stdlib.h>

#include "tests/support/harness.h"

void raw_entry(struct raw_st *r, const char *text)
{
    if (r->header.len) buf_puts(&r->header, ",");
    buf_puts(&r->header, text);
}

void raw_tensor(struct raw_st *r, const char *name, const char *dtype, const char *shape,
                const void *data, size_t len)
{
    struct buf b = {0};
    buf_printf(&b, "\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}", name, dtype,
               shape, r->data.len, r->data.len + len);
    raw_entry(r, b.data);
    buf_append(&r->data, data, len);
    buf_release(&b);
}

void raw_copy(struct raw_st *r, const char *name, const struct st_tensor *t)
{
    struct buf shape = {0};
    for (int i = 0; i < t->n_dims; i++)
        buf_printf(&shape, "%s%zu", i ? "," : "[", t->shape[i]);
    buf_puts(&shape, t->n_dims ? "]" : "[]");
    raw_tensor(r, name, dtype_name(t->dtype), shape.data, t->data, t->bytes);
    buf_release(&shape);
}

void raw_image(struct raw_st *r, struct buf *out)
{
    size_t n = r->header.len + 2;
    for (int i = 0; i < 8; i++)
        buf_putc(out, (char)(n >> 8 * i & 0xff));
    buf_putc(out, '{');
    buf_append(out, r->header.data ? r->header.data : "", r->header.len);
    buf_putc(out, '}');
    buf_append(out, r->data.data ? r->data.data : "", r->data.len);
    buf_release(&r->header);
    buf_release(&r->data);
}

void raw_write(struct raw_st *r, const char *path)
{
    struct buf b = {0};
    raw_image(r, &b);
    write_file(path, b.data, b.len);
    buf_release(&b);
}

const char *raw_edited(const char *from, raw_edit *edit, const void *arg)
{
    const char *to = temp_dir();
    struct st_set *s = NULL;
    struct raw_st r = {0};
    size_t len;
    ck_assert_int_eq(st_open(&s, from, NULL), 0);
    for (size_t i = 0; i < st_count(s); i++)
        edit(&r, st_at(s, i), arg);
    st_close(s);
    raw_write(&r, path_join(to, "model.safetensors"));
    char *config = read_file(path_join(from, "config.json"), &len);
    write_file(path_join(to, "config.json"), config, len);
    free(config);
    return to;
}
