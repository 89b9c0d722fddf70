/* Writing safetensors. The header comes first and holds every shape, so tensors are declared before
 * any data; data then stream through a small buffer, because a converted copy of a model would
 * double the memory of the tool that writes it. Layout as Hugging Face writes it: "__metadata__"
 * with format "pt", tensors without gaps in the order of declaration, header padded with spaces so
 * that data start at a multiple of 8. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/base/mem.h"
#include "engine/gpt2/safetensors.h"

#define PIECE 8192 /* floats converted at a time */

struct st_part {
    enum dtype dtype;
    size_t elements;
};

struct st_writer {
    int fd;
    char *path, *partial;  /* owned */
    json_t *header;        /* owned */
    struct st_part *parts; /* (n) owned */
    size_t n;
    size_t data_bytes; /* declared so far */
    size_t part, done; /* position: elements of parts[part] that are written */
};

int st_writer_open(struct st_writer **out, const char *path, struct err *err)
{
    struct buf partial = {0};
    buf_printf(&partial, "%s.partial", path);
    int fd = open(partial.data, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        int rc = err_set(err, ERR_IO, "cannot create %s: %s", partial.data, strerror(errno));
        buf_release(&partial);
        return rc;
    }
    struct st_writer *w = mem_calloc(1, sizeof *w);
    w->fd = fd;
    w->path = mem_strdup(path);
    w->partial = buf_take(&partial);
    w->header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    BUG_ON(!w->header);
    *out = w;
    return 0;
}

void st_writer_declare(struct st_writer *w, const char *name, enum dtype t, const size_t *shape,
                       int n_dims)
{
    BUG_ON(n_dims < 0 || n_dims > ST_MAX_DIMS);
    json_t *dims = json_array();
    size_t elements = 1, bytes, end;
    for (int i = 0; i < n_dims; i++) {
        BUG_ON(!mem_mul(elements, shape[i], &elements));
        json_array_append_new(dims, json_integer((json_int_t)shape[i]));
    }
    BUG_ON(!mem_mul(elements, dtype_size(t), &bytes));
    BUG_ON(!mem_add(w->data_bytes, bytes, &end));
    json_t *entry = json_pack("{s:s, s:o, s:[I,I]}", "dtype", dtype_name(t), "shape", dims,
                              "data_offsets", (json_int_t)w->data_bytes, (json_int_t)end);
    BUG_ON(json_object_get(w->header, name));
    BUG_ON(json_object_set_new(w->header, name, entry) != 0);
    w->data_bytes = end;
    w->parts = mem_realloc(w->parts, (w->n + 1) * sizeof *w->parts);
    w->parts[w->n++] = (struct st_part){.dtype = t, .elements = elements};
}

static int put(struct st_writer *w, const void *data, size_t len, struct err *err)
{
    const char *p = data;
    while (len) {
        ssize_t n = write(w->fd, p, len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_set(err, ERR_IO, "cannot write %s: %s", w->partial, strerror(errno));
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int st_writer_begin(struct st_writer *w, struct err *err)
{
    struct buf b = {0};
    char *text = json_dumps(w->header, JSON_COMPACT);
    BUG_ON(!text);
    buf_append(&b, "\0\0\0\0\0\0\0\0", 8);
    buf_puts(&b, text);
    free(text);
    while (b.len % 8)
        buf_putc(&b, ' ');
    uint64_t n = b.len - 8;
    for (int i = 0; i < 8; i++)
        b.data[i] = (char)(n >> 8 * i & 0xff);
    int rc = put(w, b.data, b.len, err);
    buf_release(&b);
    return rc;
}

/* To the tensor whose turn it is. */
static void next_part(struct st_writer *w)
{
    while (w->part < w->n && w->done == w->parts[w->part].elements) {
        w->part++;
        w->done = 0;
    }
}

int st_writer_data(struct st_writer *w, const float *src, size_t n, struct err *err)
{
    float piece[PIECE];
    while (n) {
        next_part(w);
        BUG_ON(w->part == w->n);
        const struct st_part *p = &w->parts[w->part];
        BUG_ON(p->dtype != DTYPE_F32 && p->dtype != DTYPE_F16 && p->dtype != DTYPE_BF16);
        size_t m = p->elements - w->done;
        if (m > n) m = n;
        if (m > PIECE) m = PIECE;
        dtype_from_f32(piece, p->dtype, src, m);
        int rc = put(w, piece, m * dtype_size(p->dtype), err);
        if (rc) return rc;
        w->done += m;
        src += m;
        n -= m;
    }
    return 0;
}

int st_writer_bytes(struct st_writer *w, const void *src, size_t bytes, struct err *err)
{
    next_part(w);
    if (!bytes) return 0;
    BUG_ON(w->part == w->n || w->done);
    const struct st_part *p = &w->parts[w->part];
    BUG_ON(bytes != p->elements * dtype_size(p->dtype));
    w->done = p->elements;
    return put(w, src, bytes, err);
}

static void writer_free(struct st_writer *w)
{
    if (w->fd >= 0) close(w->fd);
    json_decref(w->header);
    free(w->parts);
    free(w->partial);
    free(w->path);
    free(w);
}

int st_writer_finish(struct st_writer *w, struct err *err)
{
    next_part(w);
    BUG_ON(w->part != w->n);
    int rc = 0, fd = w->fd;
    if (fsync(fd) != 0)
        rc = err_set(err, ERR_IO, "cannot write %s: %s", w->partial, strerror(errno));
    w->fd = -1;
    if (close(fd) != 0 && !rc)
        rc = err_set(err, ERR_IO, "cannot write %s: %s", w->partial, strerror(errno));
    if (!rc && rename(w->partial, w->path) != 0)
        rc = err_set(err, ERR_IO, "cannot rename %s to %s: %s", w->partial, w->path,
                     strerror(errno));
    if (rc)
        st_writer_abort(w);
    else
        writer_free(w);
    return rc;
}

void st_writer_abort(struct st_writer *w)
{
    if (!w) return;
    unlink(w->partial);
    writer_free(w);
}
