/* Head and loss in one, a chunk of rows at a time: the logits of all rows would be the largest
 * array of the whole step. A chunk's logits become their own gradient in place, go into the two
 * products of the backward pass, and are gone. */
#include <math.h>
#include <string.h>

#include "models/train/parts.h"

struct chunk {
    const struct pass *p;
    size_t row0, rows;
    const struct backprop_teacher *teacher;
};

/* The gradient of a row's loss with respect to its logits, in place, scaled; and the loss. */
static void hard_row(const struct chunk *c, size_t r)
{
    const struct backprop *b = c->p->b;
    float *x = b->logits + r * b->outputs;
    int32_t target = c->p->batch->targets[c->row0 + r];
    b->row_distil[c->row0 + r] = b->row_loss[c->row0 + r] = 0;
    if (target < 0) {
        memset(x, 0, b->outputs * sizeof *x);
        return;
    }
    float top = b->k->max(x, b->outputs);
    double lse = (double)top + log(b->k->sum_exp(x, b->outputs, top));
    b->row_loss[c->row0 + r] = lse - (double)x[target];
    if (!c->p->grad) return;
    float scale = c->p->scale * (c->teacher ? 1 - c->teacher->weight : 1);
    b->k->exp_to(x, x, b->outputs, (float)lse, 1);
    b->g->scale(x, scale, b->outputs);
    x[target] -= scale;
}

/* Soft targets: x = student's logits, y = teacher's; y becomes the gradient of t^2 KL(y || x), and
 * t is a row of scratch. KL = E_t[(y - x) / temperature] - log sum e^y + log sum e^x. */
static void soft_row(const struct chunk *c, size_t r, float *t)
{
    const struct backprop *b = c->p->b;
    const struct backprop_teacher *th = c->teacher;
    float *x = b->logits + r * b->outputs, *y = b->teacher_logits + r * b->outputs;
    if (c->p->batch->targets[c->row0 + r] < 0) return;
    float hot = 1 / th->temperature, top_x = b->k->max(x, b->outputs),
          top_y = b->k->max(y, b->outputs);
    double sum_y = b->k->exp_to(t, y, b->outputs, top_y, hot);
    double mean_y = (double)b->k->dot(t, y, b->outputs) / sum_y - (double)top_y;
    double mean_x = (double)b->k->dot(t, x, b->outputs) / sum_y - (double)top_x;
    double sum_x = b->k->exp_to(y, x, b->outputs, top_x, hot);
    double kl = (mean_y - mean_x) * (double)hot + log(sum_x) - log(sum_y);
    b->row_distil[c->row0 + r] = kl * (double)th->temperature * (double)th->temperature;
    if (!c->p->grad) return;
    double by = (double)(c->p->scale * th->weight * th->temperature);
    b->g->scale(y, (float)(by / sum_x), b->outputs);
    b->g->add_scaled(y, (float)(-by / sum_y), t, b->outputs);
}

static void loss_rows(void *arg, size_t begin, size_t end, int worker)
{
    const struct chunk *c = arg;
    const struct backprop *b = c->p->b;
    for (size_t r = begin; r < end; r++) {
        bool learn = c->p->batch->targets[c->row0 + r] >= 0;
        if (c->teacher) soft_row(c, r, b->soft + (size_t)worker * b->outputs);
        double distil = b->row_distil[c->row0 + r];
        hard_row(c, r);
        if (c->teacher && learn) {
            b->row_distil[c->row0 + r] = distil;
            if (c->p->grad)
                b->g->add(b->logits + r * b->outputs, b->teacher_logits + r * b->outputs,
                          b->outputs);
        }
    }
}

static void head_logits(const struct backprop *b, const struct net *net, const float *w,
                        const float *hidden, size_t rows, float *logits)
{
    size_t c = (size_t)net->cfg.n_embd;
    gemm_product(&b->compute, false, true, rows, b->outputs, c, hidden, w + net->head, 0, logits);
}

static void head_backward(const struct chunk *c)
{
    const struct backprop *b = c->p->b;
    size_t at = c->row0 * b->c;
    gemm_product(&b->compute, true, false, b->outputs, b->c, c->rows, b->logits, b->hidden + at, 1,
                 c->p->grad + b->net->head);
    gemm_product(&b->compute, false, false, c->rows, b->c, b->outputs, b->logits,
                 c->p->w + b->net->head, 0, b->narrow + at);
}

void head_loss(const struct pass *p, struct backprop_loss *out)
{
    const struct backprop *b = p->b;
    const struct backprop_teacher *teacher = p->batch->teacher;
    const float *taught = teacher ? backprop_hidden(teacher->model, teacher->w, p->batch) : NULL;
    *out = (struct backprop_loss){0};
    for (size_t row = 0; row < p->rows; row += b->chunk) {
        size_t left = p->rows - row;
        struct chunk c = {.p = p, .row0 = row, .teacher = teacher};
        c.rows = left < b->chunk ? left : b->chunk;
        head_logits(b, b->net, p->w, b->hidden + row * b->c, c.rows, b->logits);
        if (teacher)
            head_logits(b, teacher->model->net, teacher->w, taught + row * teacher->model->c,
                        c.rows, b->teacher_logits);
        pool_for(b->pool, c.rows, 8, loss_rows, &c);
        if (p->grad) head_backward(&c);
    }
    for (size_t r = 0; r < p->rows; r++) {
        out->sum += b->row_loss[r];
        out->distil += b->row_distil[r];
        out->tokens += p->batch->targets[r] >= 0;
    }
}
