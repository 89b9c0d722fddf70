/* The writer wants all names and shapes before any data, so that the list of tensors is walked twice by
 * the same code: once to declare, once to write. A layer appears where its first tensor stood. Data
 * stream through a small buffer, and expanded layers are made one at a time: the memory needed is that
 * of one layer, whatever the model's size. What does not change its type is copied byte for byte. */
#include "models/rewrite.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/gpt2/dir_file.h"
#include "engine/gpt2/tokenizer_write.h"
#include "engine/kernels/pack.h"
#include "models/progress.h"

enum { PIECE = 1 << 14, CONFIG_MAX_BYTES = 1 << 20 };
#define F16_MAX 65504.0f

struct pass {
    const struct tool *tool;
    const struct rewrite *r;
    struct st_writer *out;
    bool data; /* second walk */
    struct err *err;
};

static bool is_float(enum dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_F16 || t == DTYPE_BF16 || t == DTYPE_F64;
}

static enum dtype target(const struct rewrite *r, enum dtype t)
{
    return r->dtype >= 0 && is_float(t) ? (enum dtype)r->dtype : t;
}

/* Write numbers; what would become an infinity on the way is refused. */
static int put_floats(struct pass *p, const char *name, enum dtype to, const float *x, size_t n)
{
    if (to == DTYPE_F16)
        for (size_t i = 0; i < n; i++)
            if (fabsf(x[i]) > F16_MAX && !isinf(x[i]))
                return err_set(p->err, ERR_INVALID,
                               "tensor %s has the value %g; F16 holds numbers up to %g", name,
                               (double)x[i], (double)F16_MAX);
    return st_writer_data(p->out, x, n, p->err);
}

static int copy(struct pass *p, const struct st_tensor *t)
{
    enum dtype to = target(p->r, t->dtype);
    if (!p->data) {
        st_writer_declare(p->out, t->name, to, t->shape, t->n_dims);
        return 0;
    }
    int rc = 0;
    if (to == t->dtype) {
        rc = st_writer_bytes(p->out, t->data, t->bytes, p->err);
    } else {
        float piece[PIECE];
        for (size_t at = 0; !rc && at < t->elements; at += PIECE) {
            size_t n = t->elements - at < PIECE ? t->elements - at : PIECE;
            dtype_to_f32(piece, (const char *)t->data + at * dtype_size(t->dtype), t->dtype, n);
            rc = put_floats(p, t->name, to, piece, n);
        }
    }
    st_drop(t);
    return rc;
}

static int put_cores(struct pass *p, const struct layer *l, const struct ttm *w)
{
    const struct ttm_shape *s = &w->shape;
    enum dtype to = target(p->r, layers_dtype(l));
    int rc = 0;
    for (int k = 0; !rc && k < s->d; k++) {
        struct buf name = {0};
        buf_printf(&name, "%s.ttm.cores.%d", l->prefix, k);
        size_t shape[] = {(size_t)s->r[k], (size_t)s->m[k], (size_t)s->n[k], (size_t)s->r[k + 1]};
        if (p->data)
            rc = put_floats(p, name.data, to, w->core[k], ttm_shape_core(s, k));
        else
            st_writer_declare(p->out, name.data, to, shape, 4);
        buf_release(&name);
    }
    return rc;
}

static int put_dense(struct pass *p, const struct layer *l)
{
    enum dtype to = target(p->r, layers_dtype(l));
    struct buf name = {0};
    size_t shape[] = {(size_t)l->in, (size_t)l->out};
    float *w = NULL;
    int rc = 0;
    buf_printf(&name, "%s.weight", l->prefix);
    if (p->data) {
        rc = layers_dense(&w, l, p->err);
        if (!rc) rc = put_floats(p, name.data, to, w, shape[0] * shape[1]);
    } else {
        st_writer_declare(p->out, name.data, to, shape, 2);
    }
    if (!rc && !l->has_bias) {
        buf_clear(&name);
        buf_printf(&name, "%s.bias", l->prefix);
        float *zeros = mem_calloc(shape[1], sizeof *zeros);
        if (p->data)
            rc = put_floats(p, name.data, to, zeros, shape[1]);
        else
            st_writer_declare(p->out, name.data, to, shape + 1, 1);
        free(zeros);
    }
    free(w);
    buf_release(&name);
    return rc;
}

/* A matrix of 8-bit numbers and the scale of each output: its columns, of a transposed one its rows. */
static int put_int8(struct pass *p, const struct st_tensor *t, bool transposed)
{
    size_t k = t->shape[transposed], n = t->shape[!transposed];
    struct buf scale = {0};
    struct packed w = {0};
    int8_t *numbers = NULL;
    buf_printf(&scale, "%s_scale", t->name);
    int rc = 0;
    if (!p->data) {
        const struct st_tensor *taken = st_find(p->r->from->set, scale.data);
        if (taken) {
            rc = err_set(p->err, ERR_INVALID,
                         "%s: tensor %s has the name that the scales of %s would get; it is not "
                         "part of a GPT-2",
                         taken->file, taken->name, t->name);
            goto out;
        }
        st_writer_declare(p->out, t->name, DTYPE_I8, t->shape, 2);
        st_writer_declare(p->out, scale.data, DTYPE_F32, &n, 1);
        goto out;
    }
    rc = packed_init(&w, DTYPE_I8, k, n, t->name, p->err);
    if (rc) goto out;
    const struct pack_source from = {.data = t->data, .dtype = t->dtype, .transposed = transposed};
    if (!packed_fill(&w, &from, 0, packed_panels(n))) {
        rc = err_set(p->err, ERR_INVALID, "%s: tensor %s has a NaN or an infinity", t->file,
                     t->name);
        goto out;
    }
    numbers = mem_alloc(k * n);
    packed_get_int8(&w, numbers, transposed);
    rc = st_writer_bytes(p->out, numbers, k * n, p->err);
    if (!rc) rc = st_writer_data(p->out, w.scale, n, p->err);
out:
    free(numbers);
    if (w.data) packed_release(&w);
    buf_release(&scale);
    st_drop(t);
    return rc;
}

/* Is tensor i a matrix that becomes I8? Embeddings are stored with a row for each output. */
static bool becomes_int8(const struct rewrite *r, size_t i, bool *transposed)
{
    const struct st_tensor *t = st_at(r->from->set, i);
    const struct layer *l = r->from->of[i];
    const char *key = ttm_tensors_key(t->name);
    bool ends = !strcmp(key, "wte.weight") || !strcmp(key, "lm_head.weight");
    *transposed = ends;
    if (!r->int8 || t->n_dims != 2 || !t->elements || !is_float(t->dtype)) return false;
    if (l && l->weight == t) return r->int8[l - r->from->layer];
    return ends;
}

static int put_tensor(struct pass *p, size_t i)
{
    const struct layers *from = p->r->from;
    const struct layer *l = from->of[i];
    bool transposed;
    if (becomes_int8(p->r, i, &transposed)) return put_int8(p, st_at(from->set, i), transposed);
    const struct ttm *w = l && p->r->cores ? p->r->cores[l - from->layer] : NULL;
    bool expand = l && p->r->dense && (!l->weight || !l->has_bias);
    if (!w && !expand) return copy(p, st_at(from->set, i));
    if (i != l->first) return 0;
    return w ? put_cores(p, l, w) : put_dense(p, l);
}

static int walk(struct pass *p)
{
    size_t n = st_count(p->r->from->set);
    struct progress bar;
    int rc = 0;
    progress_start(&bar, p->tool->log, "writing weights");
    for (size_t i = 0; !rc && i < n; i++) {
        rc = tool_stopped(p->tool) ? tool_interrupted(p->err) : put_tensor(p, i);
        if (p->data) progress_set(&bar, (double)i / (double)n, NULL);
    }
    progress_end(&bar);
    return rc;
}

static int put_weights(const struct tool *t, const struct rewrite *r, const struct outdir *o,
                       struct err *err)
{
    char *path = outdir_join(o->tmp, "model.safetensors");
    struct pass p = {.tool = t, .r = r, .err = err};
    int rc = st_writer_open(&p.out, path, err);
    if (!rc) rc = walk(&p);
    if (!rc) rc = st_writer_begin(p.out, err);
    p.data = true;
    if (!rc) rc = walk(&p);
    rc = st_verify(r->from->set, rc, err);
    if (!rc) {
        rc = st_writer_finish(p.out, err);
        p.out = NULL;
    }
    st_writer_abort(p.out);
    free(path);
    return rc;
}

/* config.json as it is; of another element type, with the key that tells Hugging Face. */
static int put_config(const struct rewrite *r, const struct outdir *o, struct err *err)
{
    static const char *const names[] = {
        [DTYPE_F32] = "float32", [DTYPE_F16] = "float16", [DTYPE_BF16] = "bfloat16"};
    struct buf text = {0};
    int rc = dir_file_text(&text, r->from->dir, "config.json", CONFIG_MAX_BYTES, err);
    if (!rc && r->dtype >= 0) {
        json_t *j = json_loadb(text.data, text.len, 0, NULL);
        BUG_ON(!json_is_object(j)); /* gpt2_config_load() has read it */
        bool modern = json_object_get(j, "dtype") && !json_object_get(j, "torch_dtype");
        json_object_set_new(j, modern ? "dtype" : "torch_dtype", json_string(names[r->dtype]));
        char *s = json_dumps(j, JSON_INDENT(2));
        buf_clear(&text);
        buf_printf(&text, "%s\n", s);
        free(s);
        json_decref(j);
    }
    if (!rc) rc = outdir_write(o, "config.json", text.data, text.len, err);
    buf_release(&text);
    return rc;
}

static int put_generation_config(const struct rewrite *r, const struct outdir *o, struct err *err)
{
    static const char name[] = "generation_config.json";
    struct buf text = {0};
    struct err absent = {0};
    int rc = dir_file_text(&text, r->from->dir, name, CONFIG_MAX_BYTES, &absent);
    if (rc == 0)
        rc = outdir_write(o, name, text.data, text.len, err);
    else if (rc == ERR_MISSING)
        rc = 0;
    else
        err_set(err, rc, "%s", absent.msg);
    buf_release(&text);
    return rc;
}

int rewrite_model(const struct tool *t, const struct rewrite *r, const struct outdir *o,
                  struct err *err)
{
    int rc = put_config(r, o, err);
    if (!rc) rc = put_generation_config(r, o, err);
    if (!rc) rc = tokenizer_copy_files(r->from->dir, o->tmp, err);
    return rc ? rc : put_weights(t, r, o, err);
}

int rewrite_dtype(const char *name)
{
    if (!name) return -1;
    return !strcmp(name, "f16") ? DTYPE_F16 : !strcmp(name, "bf16") ? DTYPE_BF16 : DTYPE_F32;
}
