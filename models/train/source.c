/* Two kinds of material behind one interface, so that the trainer's loop does not ask which it is. Items
 * differ in length: a batch is as long as its longest item, which every process can tell, since each
 * has all of them. */
#include "models/train/source.h"

#include <stdlib.h>

#include "models/outdir.h"

void source_close(struct source *s)
{
    batches_close(&s->batches);
    order_close(&s->order);
    items_close(&s->items);
    items_close(&s->valid_items);
    corpus_close(&s->text);
    corpus_close(&s->valid_text);
    *s = (struct source){0};
}

int source_items(struct source *s, const char *task, const char *data, const char *valid, int first,
                 const struct tokenizer *tok, size_t most, uint64_t seed, struct err *err)
{
    s->task = true;
    int rc = items_open(&s->items, task, data, first, tok, most, 0, err);
    if (!rc && valid) rc = items_open(&s->valid_items, task, valid, first, tok, most, 0, err);
    if (!rc) rc = order_open(&s->order, s->items.n, seed, err);
    if (rc) return rc;
    s->epoch = s->items.n;
    s->valid = s->valid_items.n;
    s->length = s->items.longest;
    if (s->valid_items.longest > s->length) s->length = s->valid_items.longest;
    return 0;
}

int source_text(struct source *s, const struct source_text *t, struct err *err)
{
    char *train = outdir_join(t->out, "train.tokens"), *valid = outdir_join(t->out, "valid.tokens");
    s->length = t->length;
    int rc = corpus_open(&s->text, t->tool, t->data, train, t->tok, t->pool, err);
    if (!rc && t->valid)
        rc = corpus_open(&s->valid_text, t->tool, t->valid, valid, t->tok, t->pool, err);
    if (!rc && t->valid && s->valid_text.n < t->length + 1)
        rc = err_set(err, ERR_INVALID, "%s has %zu tokens, a block of %zu needs one more than that",
                     t->valid, s->valid_text.n, t->length);
    if (!rc) rc = batches_open(&s->batches, &s->text, t->length, t->seed, err);
    if (!rc && t->valid) {
        size_t all = (s->valid_text.n - 1) / t->length;
        s->valid = t->valid_tokens / t->length;
        if (s->valid < 1) s->valid = 1;
        if (s->valid > all) s->valid = all;
    }
    s->epoch = s->batches.blocks;
    free(train);
    free(valid);
    return rc;
}

size_t source_tokens(const struct source *s)
{
    return s->task ? s->items.start[s->items.n] : s->text.n;
}

size_t source_train(struct source *s, const struct source_batch *b, int32_t *tokens,
                    int32_t *targets, struct backprop_batch *out)
{
    size_t length = s->task ? 0 : s->length, sum = 0;
    for (size_t k = 0; s->task && k < b->total; k++) {
        size_t n = items_length(&s->items, order_at(&s->order, b->first + k));
        length = n > length ? n : length;
        sum += n;
    }
    for (size_t k = 0; k < b->n; k++) {
        uint64_t i = b->first + b->from + k;
        if (s->task)
            items_put(&s->items, order_at(&s->order, i), length, tokens + k * length,
                      targets + k * length);
        else
            batches_get(&s->batches, i, tokens + k * length, targets + k * length);
    }
    *out = (struct backprop_batch){.tokens = tokens,
                                   .targets = targets,
                                   .sequences = b->n,
                                   .length = length,
                                   .first = b->from};
    return s->task ? sum : b->total * length;
}

void source_valid(const struct source *s, const struct source_batch *b, int32_t *tokens,
                  int32_t *targets, struct backprop_batch *out)
{
    size_t length = s->length, all = (s->valid_text.n - 1) / length;
    for (size_t k = 0; k < b->n; k++) {
        size_t at = (b->first + b->from + k) * all / s->valid * length;
        corpus_read(&s->valid_text, at, length, tokens + k * length);
        corpus_read(&s->valid_text, at + 1, length, targets + k * length);
    }
    *out = (struct backprop_batch){
        .tokens = tokens, .targets = targets, .sequences = b->n, .length = length};
}
