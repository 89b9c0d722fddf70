#ifndef TTMD_GPT2_KV_STORE_H
#define TTMD_GPT2_KV_STORE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/gpt2/gpt2_config.h"

/* Storage of keys and values: n_blocks blocks of KV_BLOCK positions, each with all layers and heads.
 *
 *     block b:  layer 0: head 0: K (D, 16) V (16, Dp) | head 1: K V | ...   layer 1: ...
 *
 * K is stored with positions innermost and V with channels innermost, so that both products of
 * attention run along vectors without horizontal sums; see kernels.h for int8. Who owns which block is
 * run/kv.h's business. The memory is mapped lazily: blocks never used cost nothing. */
struct kv_store {
    enum dtype dtype; /* F32, F16 or I8: int8 with an F32 scale for each position and head */
    int n_blocks, n_layer, n_head, d, dp;
    size_t k_tile_bytes, v_tile_bytes; /* of one head in one layer */
    size_t layer_bytes;                /* n_head * (k_tile + v_tile) */
    size_t block_bytes;                /* n_layer * layer_bytes */
    void *base;                        /* owned */
};

/* kv_dtype_parse -- "f32", "f16", "int8" -> enum dtype; "auto" or NULL -> the fastest beside weights of
 * this type that costs next to nothing: I8 with I8, else F16. -1 for another text. */
int kv_dtype_parse(const char *name, enum dtype weights);

/* kv_block_bytes -- bytes of one block for this model and element type. */
size_t kv_block_bytes(const struct gpt2_config *cfg, enum dtype t);

/* kv_store_init -- Errors: ERR_NOMEM with the bytes asked for; ERR_UNSUPPORTED dtype, or I8 with more than
 * INT8_MAX_POSITIONS. */
int kv_store_init(struct kv_store *s, const struct gpt2_config *cfg, enum dtype t, int n_blocks,
                  struct err *err);
void kv_store_release(struct kv_store *s);

#endif
