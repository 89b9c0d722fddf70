#ifndef TTMD_MODELS_TRAIN_ORDER_H
#define TTMD_MODELS_TRAIN_ORDER_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

/* The numbers 0..n-1 over and over, each epoch in another order: place i of the endless sequence is a
 * function of (seed, i) alone. */
struct order {
    uint64_t seed;
    size_t n;
    uint64_t epoch; /* whose order is in `list` */
    uint32_t *list; /* (n) owned */
};

/* order_open -- Errors  ERR_INVALID when there are more than 2^32 - 1. */
int order_open(struct order *o, size_t n, uint64_t seed, struct err *err);
void order_close(struct order *o);

/* order_at -- the number at place i. Cost  n when i begins another epoch than the last call's. */
size_t order_at(struct order *o, uint64_t i);

/* order_below -- a number below n, a function of all arguments. */
uint64_t order_below(uint64_t seed, uint64_t stream, uint64_t counter, uint64_t n);

#endif
