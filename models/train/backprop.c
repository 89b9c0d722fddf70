/* The arena and the order of a step. All arrays are listed once, in carve(), which runs twice: to
 * count, and to hand out the places of the one allocation. */
#include "models/train/backprop.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "models/train/parts.h"

#define ALIGN_BYTES 64
#define CHUNK_FLOATS ((size_t)4 << 20) /* logits at a time, */
#define CHUNK_MIN_ROWS 256             /* but at least so many rows */

struct carver {
    char *base; /* NULL: count only */
    size_t used;
};

static void *take(struct carver *c, size_t n, size_t size)
{
    void *p = c->base ? c->base + c->used : NULL;
    size_t bytes;
    BUG_ON(!mem_mul(n, size, &bytes)); /* sizes are at most 2^24 each */
    c->used += mem_round_up(bytes, ALIGN_BYTES);
    return p;
}

static float *floats(struct carver *c, size_t n)
{
    return take(c, n, sizeof(float));
}

static void carve_layer(struct backprop *b, struct carver *v, int i)
{
    struct layer_acts *a = &b->layers[i];
    float *x = NULL;
    if (i == 0 || b->o.backward) x = floats(v, b->rows * b->c);
    if (i > 0 && (b->o.recompute || !b->o.backward)) {
        *a = b->layers[0];
        if (x) a->x = x;
        return;
    }
    a->x = x;
    a->ln_1 = floats(v, b->rows * b->c);
    a->qkv = floats(v, b->rows * 3 * b->c);
    a->shift = floats(v, b->rows * b->heads);
    a->att = floats(v, b->rows * b->c);
    a->mid = floats(v, b->rows * b->c);
    a->ln_2 = floats(v, b->rows * b->c);
    a->pre = floats(v, b->rows * b->inner);
    a->act = floats(v, b->rows * b->inner);
}

static void carve(struct backprop *b, struct carver *v)
{
    size_t wide = 3 * b->c > b->inner ? 3 * b->c : b->inner, ttm = 0;
    size_t blocks = (b->rows + ROW_BLOCK - 1) / ROW_BLOCK;
    for (int i = 0; i < b->net->cfg.n_layer; i++)
        carve_layer(b, v, i);
    b->x_out = b->o.backward ? floats(v, b->rows * b->c) : b->layers[0].x;
    b->hidden = floats(v, b->rows * b->c);
    if (b->o.backward) {
        b->dx = floats(v, b->rows * b->c);
        b->narrow = floats(v, b->rows * b->c);
        b->masked = b->o.dropout > 0 ? floats(v, b->rows * b->c) : NULL;
        b->wide = floats(v, b->rows * wide);
        b->partial = floats(v, blocks * wide);
    }
    b->attention_floats = attention_scratch_floats(b->net, b->o.length);
    b->attention = floats(v, (size_t)pool_threads(b->pool) * b->attention_floats);
    b->logits = floats(v, b->chunk * b->outputs);
    b->teacher_logits = b->o.teacher ? floats(v, b->chunk * b->outputs) : NULL;
    b->soft = b->o.teacher ? floats(v, (size_t)pool_threads(b->pool) * b->outputs) : NULL;
    b->row_loss = take(v, b->rows, sizeof(double));
    b->row_distil = take(v, b->rows, sizeof(double));
    for (int i = 0; i < b->net->cfg.n_layer; i++)
        for (int j = 0; j < NET_LINEARS; j++)
            if (b->net->layers[i].linear[j].ttm && b->plans[i][j].scratch_floats > ttm)
                ttm = b->plans[i][j].scratch_floats;
    b->ttm = floats(v, ttm);
}

static struct backprop *describe(const struct net *net, const struct backprop_options *o,
                                 const struct compute *c)
{
    struct backprop *b = mem_calloc(1, sizeof *b);
    b->net = net;
    b->o = *o;
    b->compute = *c;
    b->k = c->k;
    b->g = grad_kernels(c->k);
    b->pool = c->pool;
    b->rows = o->sequences * o->length;
    b->c = (size_t)net->cfg.n_embd;
    b->inner = (size_t)net->cfg.n_inner;
    b->heads = (size_t)net->cfg.n_head;
    b->d = b->c / b->heads;
    b->vocab = (size_t)net->cfg.vocab_size;
    b->outputs = net->outputs;
    b->chunk = CHUNK_FLOATS / b->outputs;
    if (b->chunk < CHUNK_MIN_ROWS) b->chunk = CHUNK_MIN_ROWS;
    if (b->chunk > b->rows) b->chunk = b->rows;
    b->layers = mem_calloc((size_t)net->cfg.n_layer, sizeof *b->layers);
    b->plans = mem_calloc((size_t)net->cfg.n_layer, sizeof *b->plans);
    for (int i = 0; i < net->cfg.n_layer; i++)
        for (int j = 0; j < NET_LINEARS; j++)
            if (net->layers[i].linear[j].ttm)
                ttm_grad_plan(&b->plans[i][j], &net->layers[i].linear[j].shape, b->rows, o->route,
                              pool_threads(c->pool));
    return b;
}

int backprop_new(struct backprop **out, const struct net *net, const struct backprop_options *o,
                 const struct compute *c, struct err *err)
{
    if (!o->sequences || !o->length || o->length > (size_t)net->cfg.n_positions)
        return err_set(err, ERR_INVALID, "sequences of %zu tokens: the model has %d positions",
                       o->length, net->cfg.n_positions);
    struct backprop *b = describe(net, o, c);
    struct carver count = {0};
    carve(b, &count);
    b->bytes = count.used;
    int rc = mem_map(&b->arena, b->bytes, "activations", err);
    if (rc) {
        b->arena = NULL;
        backprop_free(b);
        return rc;
    }
    carve(b, &(struct carver){.base = b->arena});
    *out = b;
    return 0;
}

void backprop_free(struct backprop *b)
{
    if (!b) return;
    mem_unmap(b->arena, b->bytes);
    free(b->layers);
    free(b->plans);
    free(b);
}

size_t backprop_bytes(const struct backprop *b)
{
    return b->bytes;
}

const struct ttm_grad_plan *backprop_route(const struct backprop *b, int layer, int which)
{
    return &b->plans[layer][which];
}

static struct pass begin(struct backprop *b, const float *w, const struct backprop_batch *batch)
{
    struct pass p = {.b = b, .w = w, .batch = batch, .rows = batch->sequences * batch->length};
    BUG_ON(p.rows > b->rows || batch->length > b->o.length);
    for (size_t r = 0; r < p.rows; r++) {
        BUG_ON(batch->tokens[r] < 0 || (size_t)batch->tokens[r] >= b->vocab);
        BUG_ON(batch->targets && batch->targets[r] >= (int32_t)b->outputs);
    }
    return p;
}

static float *block_output(const struct backprop *b, int layer)
{
    return layer + 1 < b->net->cfg.n_layer ? b->layers[layer + 1].x : b->x_out;
}

static void forward(const struct pass *p)
{
    const struct backprop *b = p->b;
    embed_forward(p);
    for (int i = 0; i < b->net->cfg.n_layer; i++)
        block_forward(p, i, block_output(b, i));
    norm_forward(p, b->hidden, b->x_out, b->net->ln_f_weight, b->net->ln_f_bias);
}

const float *backprop_hidden(struct backprop *b, const float *w, const struct backprop_batch *batch)
{
    struct pass p = begin(b, w, batch);
    forward(&p);
    return b->hidden;
}

void backprop_loss(struct backprop *b, const float *w, const struct backprop_batch *batch,
                   struct backprop_loss *out)
{
    struct pass p = begin(b, w, batch);
    BUG_ON(batch->teacher && !b->o.teacher);
    forward(&p);
    head_loss(&p, out);
}

void backprop_step(struct backprop *b, const float *w, const struct backprop_batch *batch,
                   float scale, float *grad, struct backprop_loss *out)
{
    BUG_ON(!b->o.backward || (batch->teacher && !b->o.teacher));
    struct pass p = begin(b, w, batch);
    p.dropout = b->o.dropout;
    p.scale = scale;
    p.grad = grad;
    forward(&p);
    head_loss(&p, out);
    memset(b->dx, 0, p.rows * b->c * sizeof *b->dx);
    norm_backward(&p, b->dx, b->narrow, b->x_out, b->net->ln_f_weight, b->net->ln_f_bias);
    for (int i = b->net->cfg.n_layer - 1; i >= 0; i--) {
        if (b->o.recompute && i + 1 < b->net->cfg.n_layer) block_forward(&p, i, NULL);
        block_backward(&p, i);
    }
    embed_backward(&p);
}
