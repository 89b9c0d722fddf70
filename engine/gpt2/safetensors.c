/* Reading safetensors. A file is 8 bytes of header length, a JSON header that names every tensor's
 * dtype, shape and byte range, and the data. Files come from strangers: everything that later code
 * relies on is established here, once, so that nobody else ever checks an offset again. Ranges must
 * tile the data section exactly; with that, overlap, holes and truncation are one comparison each
 * after sorting.
 *
 * The file is mapped, not read: packing reads each byte once, and a copy would double the memory. What somebody
 * writes into the file meanwhile is read, too, and where the file has become shorter zeros are (see fault.h): none
 * of it can be noticed while it is read, so st_verify() asks afterwards.
 *
 * Invariants after st_open(): tensors are sorted by file and offset, by_name by name without equals,
 * data + bytes lies inside the mapping of `file`. */
#include "engine/gpt2/safetensors.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/base/fault.h"
#include "engine/base/mem.h"
#include "engine/gpt2/dir_file.h"

#define ST_SINGLE "model.safetensors"
#define ST_INDEX "model.safetensors.index.json"
#define MAX_HEADER_BYTES 100000000u
#define MAX_HEADER_COMMAS (1u << 21) /* bounds what the JSON tree of a hostile header can take */

struct st_file {
    char *name;      /* owned */
    const char *map; /* owned when mapped, else borrowed */
    size_t len;
    bool mapped;
    /* when mapped: */
    struct fault_range *range;
    int fd;
    struct timespec written; /* when it was last, when it was opened */
};

struct st_set {
    struct st_file *files; /* (n_files) owned */
    size_t n_files;
    struct st_tensor *tensors; /* (n) owned */
    size_t n, cap;
    struct st_tensor **by_name; /* (n) owned */
};

/* ---- one file ---- */

static int parse_shape(struct st_tensor *t, const json_t *shape, const char *file, struct err *err)
{
    if (!json_is_array(shape))
        return err_set(err, ERR_INVALID, "%s: tensor %s has no \"shape\" array", file, t->name);
    size_t n = json_array_size(shape);
    if (n > ST_MAX_DIMS)
        return err_set(err, ERR_INVALID, "%s: tensor %s has %zu dimensions, expected at most %d",
                       file, t->name, n, ST_MAX_DIMS);
    t->n_dims = (int)n;
    t->elements = 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *d = json_array_get(shape, i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return err_set(err, ERR_INVALID, "%s: tensor %s: dimension %zu is not an integer >= 0",
                           file, t->name, i);
        t->shape[i] = (size_t)json_integer_value(d);
        if (!mem_mul(t->elements, t->shape[i], &t->elements))
            return err_set(err, ERR_INVALID, "%s: tensor %s: its shape has more than 2^64 elements",
                           file, t->name);
    }
    return 0;
}

static int parse_dtype(struct st_tensor *t, const json_t *v, const char *file, struct err *err)
{
    const char *s = json_string_value(v);
    if (!s) return err_set(err, ERR_INVALID, "%s: tensor %s has no \"dtype\"", file, t->name);
    int d = dtype_parse(s);
    if (d < 0)
        return err_set(err, ERR_INVALID, "%s: tensor %s has the unknown dtype \"%.40s\"", file,
                       t->name, s);
    t->dtype = (enum dtype)d;
    return 0;
}

/* Byte range [begin, end) within the data section of data_len bytes at `data`. */
static int parse_range(struct st_tensor *t, const json_t *v, const char *data, size_t data_len,
                       const char *file, struct err *err)
{
    const json_t *b = json_array_get(v, 0), *e = json_array_get(v, 1);
    if (json_array_size(v) != 2 || !json_is_integer(b) || !json_is_integer(e))
        return err_set(err, ERR_INVALID, "%s: tensor %s: \"data_offsets\" are not two integers",
                       file, t->name);
    long long begin = json_integer_value(b), end = json_integer_value(e);
    if (begin < 0 || end < begin || (unsigned long long)end > data_len)
        return err_set(err, ERR_INVALID,
                       "%s: tensor %s: data_offsets [%lld, %lld] are not within the file's %zu "
                       "bytes of data",
                       file, t->name, begin, end, data_len);
    size_t bytes, found = (size_t)(end - begin);
    if (!mem_mul(t->elements, dtype_size(t->dtype), &bytes) || bytes != found)
        return err_set(err, ERR_INVALID,
                       "%s: tensor %s: data_offsets [%lld, %lld] hold %zu bytes, but its shape has "
                       "%zu elements of %s",
                       file, t->name, begin, end, found, t->elements, dtype_name(t->dtype));
    t->data = data + begin;
    t->bytes = bytes;
    return 0;
}

static int parse_tensor(struct st_set *s, const struct st_file *f, const char *name,
                        const json_t *v, size_t data_at, struct err *err)
{
    if (!json_is_object(v))
        return err_set(err, ERR_INVALID, "%s: header entry \"%s\" is not an object", f->name, name);
    struct st_tensor t = {.name = name, .file = f->name, .mapped = f->mapped};
    int rc = parse_dtype(&t, json_object_get(v, "dtype"), f->name, err);
    if (!rc) rc = parse_shape(&t, json_object_get(v, "shape"), f->name, err);
    if (!rc)
        rc = parse_range(&t, json_object_get(v, "data_offsets"), f->map + data_at, f->len - data_at,
                         f->name, err);
    if (rc) return rc;
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 256;
        s->tensors = mem_realloc(s->tensors, s->cap * sizeof *s->tensors);
    }
    t.name = mem_strdup(name);
    s->tensors[s->n++] = t;
    return 0;
}

static int by_data(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    if (x->data != y->data) return (const char *)x->data < (const char *)y->data ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The file's tensors, in order of offset, tile its data section. */
static int check_tiling(const struct st_file *f, struct st_tensor *t, size_t n, size_t data_at,
                        struct err *err)
{
    if (n) qsort(t, n, sizeof *t, by_data);
    const char *data = f->map + data_at, *at = data, *end = f->map + f->len;
    for (size_t i = 0; i < n; i++) {
        const char *begin = t[i].data;
        if (begin < at)
            return err_set(err, ERR_INVALID, "%s: tensor %s overlaps tensor %s", f->name, t[i].name,
                           t[i - 1].name);
        if (begin > at)
            return err_set(err, ERR_INVALID, "%s: %zu bytes before tensor %s belong to no tensor",
                           f->name, (size_t)(begin - at), t[i].name);
        at = begin + t[i].bytes;
    }
    if (at != end)
        return err_set(err, ERR_INVALID, "%s: the last %zu of %zu bytes belong to no tensor",
                       f->name, (size_t)(end - at), f->len);
    return 0;
}

static int read_header(const struct st_file *f, json_t **out, size_t *data_at, struct err *err)
{
    if (f->len < 8)
        return err_set(err, ERR_INVALID,
                       "%s: %zu bytes, expected at least the 8 of a safetensors header length",
                       f->name, f->len);
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | (unsigned char)f->map[i];
    if (n > MAX_HEADER_BYTES || n > f->len - 8)
        return err_set(err, ERR_INVALID,
                       "%s: header length is %llu bytes, expected at most %u and what a file of "
                       "%zu bytes holds",
                       f->name, (unsigned long long)n, MAX_HEADER_BYTES, f->len);
    size_t commas = 0;
    for (size_t i = 0; i < n; i++)
        commas += f->map[8 + i] == ',';
    if (commas > MAX_HEADER_COMMAS)
        return err_set(err, ERR_INVALID, "%s: header has %zu commas, expected at most %u", f->name,
                       commas, MAX_HEADER_COMMAS);
    json_error_t je;
    json_t *o = json_loadb(f->map + 8, (size_t)n, JSON_REJECT_DUPLICATES, &je);
    if (!o)
        return err_set(err, ERR_INVALID, "%s: header is not valid JSON: byte %d: %s", f->name,
                       je.position, je.text);
    if (!json_is_object(o)) {
        json_decref(o);
        return err_set(err, ERR_INVALID, "%s: header is not a JSON object", f->name);
    }
    *out = o;
    *data_at = 8 + (size_t)n;
    return 0;
}

static int parse_file(struct st_set *s, const struct st_file *f, struct err *err)
{
    json_t *header = NULL;
    size_t data_at = 0, first = s->n;
    int rc = read_header(f, &header, &data_at, err);
    if (rc) return rc;
    const char *key;
    json_t *v;
    json_object_foreach(header, key, v)
    {
        if (strcmp(key, "__metadata__") == 0) {
            if (!json_is_object(v))
                rc = err_set(err, ERR_INVALID, "%s: \"__metadata__\" is not an object", f->name);
        } else {
            rc = parse_tensor(s, f, key, v, data_at, err);
        }
        if (rc) break;
    }
    json_decref(header);
    if (!rc && s->n > first) rc = check_tiling(f, s->tensors + first, s->n - first, data_at, err);
    if (!rc && s->n == first && f->len != data_at)
        rc = err_set(err, ERR_INVALID, "%s: %zu bytes belong to no tensor", f->name,
                     f->len - data_at);
    return rc;
}

static struct st_file *add_file(struct st_set *s, const char *name)
{
    s->files = mem_realloc(s->files, (s->n_files + 1) * sizeof *s->files);
    struct st_file *f = &s->files[s->n_files++];
    *f = (struct st_file){.name = mem_strdup(name)};
    return f;
}

/* Takes fd when it succeeds. */
static int map_bytes(struct st_file *f, int fd, size_t len, const char *dir, struct err *err)
{
    struct stat st;
    struct fault_range *range;
    if (fstat(fd, &st))
        return err_set(err, ERR_IO, "cannot stat %s/%s: %s", dir, f->name, strerror(errno));
    void *p = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        return err_set(err, ERR_IO, "cannot map %s/%s (%zu bytes): %s", dir, f->name, len,
                       strerror(errno));
    int rc = fault_watch(&range, p, len, err);
    if (rc) {
        munmap(p, len);
        return rc;
    }
    madvise(p, len, MADV_WILLNEED);
    *f = (struct st_file){.name = f->name,
                          .map = p,
                          .len = len,
                          .mapped = true,
                          .range = range,
                          .fd = fd,
                          .written = st.st_mtim};
    return 0;
}

static int map_file(struct st_set *s, const char *dir, const char *name, struct err *err)
{
    int fd;
    size_t len;
    int rc = dir_file_open(dir, name, &fd, &len, err);
    if (rc) return rc;
    struct st_file *f = add_file(s, name);
    if (len) rc = map_bytes(f, fd, len, dir, err);
    if (rc || !len) close(fd);
    return rc ? rc : parse_file(s, f, err);
}

static void unmap_file(struct st_file *f)
{
    if (!f->mapped) return;
    fault_release(f->range);
    munmap((void *)f->map, f->len);
    close(f->fd);
}

static bool has_changed(const struct st_file *f)
{
    struct stat st;
    if (!f->mapped) return false;
    return fault_broken(f->range) || fstat(f->fd, &st) || (size_t)st.st_size != f->len ||
           st.st_mtim.tv_sec != f->written.tv_sec || st.st_mtim.tv_nsec != f->written.tv_nsec;
}

int st_verify(const struct st_set *s, int rc, struct err *err)
{
    for (size_t i = 0; s && i < s->n_files; i++) {
        if (!has_changed(&s->files[i])) continue;
        if (err) *err = (struct err){0}; /* what came of it is no news */
        return err_set(err, ERR_INVALID,
                       "%s changed while it was read: expected a file that stays as it is (move "
                       "the new one into its place)",
                       s->files[i].name);
    }
    return rc;
}

/* ---- the set ---- */

static int by_name(const void *a, const void *b)
{
    const struct st_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int index_names(struct st_set *s, struct err *err)
{
    s->by_name = mem_alloc((s->n ? s->n : 1) * sizeof *s->by_name);
    for (size_t i = 0; i < s->n; i++)
        s->by_name[i] = &s->tensors[i];
    qsort(s->by_name, s->n, sizeof *s->by_name, by_name);
    for (size_t i = 1; i < s->n; i++) {
        const struct st_tensor *a = s->by_name[i - 1], *b = s->by_name[i];
        if (strcmp(a->name, b->name) == 0)
            return err_set(err, ERR_INVALID, "tensor %s is in both %s and %s", a->name, a->file,
                           b->file);
    }
    return 0;
}

static bool plain_name(const char *s)
{
    return *s && *s != '.' && !strchr(s, '/');
}

static int map_shards(struct st_set *s, const json_t *map, const char *dir, struct err *err)
{
    const char *tensor;
    json_t *v;
    json_object_foreach((json_t *)map, tensor, v)
    {
        const char *shard = json_string_value(v);
        if (!shard || !plain_name(shard))
            return err_set(err, ERR_INVALID,
                           "%s: weight_map gives tensor %s \"%.100s\", expected a plain file name",
                           ST_INDEX, tensor, shard ? shard : "(not a string)");
        size_t i = s->n_files;
        while (i && strcmp(s->files[i - 1].name, shard) != 0)
            i--;
        int rc = i ? 0 : map_file(s, dir, shard, err);
        if (rc) return rc;
    }
    return index_names(s, err);
}

/* Index and shards agree in both directions. */
static int check_map(const struct st_set *s, const json_t *map, struct err *err)
{
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)map, name, v)
    {
        const struct st_tensor *t = st_find(s, name);
        if (!t || strcmp(t->file, json_string_value(v)) != 0)
            return err_set(err, ERR_MISSING, "%s: tensor %s is not in %s", ST_INDEX, name,
                           json_string_value(v));
    }
    for (size_t i = 0; i < s->n; i++) {
        if (!json_object_get(map, s->tensors[i].name))
            return err_set(err, ERR_INVALID, "%s: tensor %s is not in the weight_map of %s",
                           s->tensors[i].file, s->tensors[i].name, ST_INDEX);
    }
    return 0;
}

static int open_shards(struct st_set *s, const char *dir, struct err *err)
{
    struct buf text = {0};
    json_t *o = NULL;
    json_error_t je;
    int rc = dir_file_text(&text, dir, ST_INDEX, MAX_HEADER_BYTES, err);
    if (rc) goto out;
    o = json_loadb(text.data ? text.data : "", text.len, JSON_REJECT_DUPLICATES, &je);
    const json_t *map = json_object_get(o, "weight_map");
    if (!o)
        rc = err_set(err, ERR_INVALID, "%s: not valid JSON: line %d: %s", ST_INDEX, je.line,
                     je.text);
    else if (!json_is_object(map))
        rc = err_set(err, ERR_INVALID, "%s: has no \"weight_map\" object", ST_INDEX);
    if (!rc) rc = map_shards(s, map, dir, err);
    if (!rc) rc = check_map(s, map, err);
out:
    json_decref(o);
    buf_release(&text);
    return rc;
}

static bool exists(const char *dir, const char *name)
{
    struct buf path = {0};
    buf_printf(&path, "%s/%s", dir, name);
    bool yes = access(path.data, F_OK) == 0;
    buf_release(&path);
    return yes;
}

int st_open(struct st_set **out, const char *dir, struct err *err)
{
    struct st_set *s = mem_calloc(1, sizeof *s);
    int rc;
    if (exists(dir, ST_SINGLE)) {
        rc = map_file(s, dir, ST_SINGLE, err);
        if (!rc) rc = index_names(s, err);
    } else if (exists(dir, ST_INDEX)) {
        rc = open_shards(s, dir, err);
    } else {
        rc = err_set(err, ERR_MISSING, "%s has neither %s nor %s%s", dir, ST_SINGLE, ST_INDEX,
                     exists(dir, "pytorch_model.bin")
                         ? ": its pytorch_model.bin must be converted to safetensors first"
                         : "");
    }
    rc = st_verify(s, rc, err);
    if (rc)
        st_close(s);
    else
        *out = s;
    return rc;
}

int st_parse(struct st_set **out, const void *data, size_t len, const char *name, struct err *err)
{
    struct st_set *s = mem_calloc(1, sizeof *s);
    struct st_file *f = add_file(s, name);
    f->map = data;
    f->len = len;
    int rc = parse_file(s, f, err);
    if (!rc) rc = index_names(s, err);
    if (rc)
        st_close(s);
    else
        *out = s;
    return rc;
}

void st_close(struct st_set *s)
{
    if (!s) return;
    for (size_t i = 0; i < s->n; i++)
        free((char *)s->tensors[i].name);
    for (size_t i = 0; i < s->n_files; i++) {
        unmap_file(&s->files[i]);
        free(s->files[i].name);
    }
    free(s->files);
    free(s->tensors);
    free(s->by_name);
    free(s);
}

size_t st_count(const struct st_set *s)
{
    return s->n;
}

const struct st_tensor *st_at(const struct st_set *s, size_t i)
{
    BUG_ON(i >= s->n);
    return &s->tensors[i];
}

const struct st_tensor *st_find(const struct st_set *s, const char *name)
{
    const struct st_tensor key = {.name = name}, *k = &key;
    struct st_tensor **t = bsearch(&k, s->by_name, s->n, sizeof *s->by_name, by_name);
    return t ? *t : NULL;
}

size_t st_file_bytes(const struct st_set *s)
{
    size_t sum = 0;
    for (size_t i = 0; i < s->n_files; i++)
        sum += s->files[i].len;
    return sum;
}

void st_drop(const struct st_tensor *t)
{
    if (!t->mapped) return;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = mem_round_up((uintptr_t)t->data, page);
    uintptr_t end = ((uintptr_t)t->data + t->bytes) / page * page;
    if (end > begin) madvise((void *)begin, end - begin, MADV_DONTNEED);
}
