/* Bytes of safetensors files without any check. */
#include "tests/support/raw_st.h"

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
