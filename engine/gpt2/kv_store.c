/* The memory behind keys and values. One mapping for all blocks, so that a block number alone finds
 * a tile; pages are committed by the first write, so that a store sized for full contexts costs what
 * is in use. Tiles start at multiples of 64 bytes whatever the head size. */
#include "engine/gpt2/kv_store.h"

#include <string.h>

#include "engine/base/mem.h"
#include "engine/kernels/kernels.h"

/* Sizes only; the configuration's bounds (2^24 each) keep all of these below 2^62. */
static struct kv_store layout(const struct gpt2_config *cfg, enum dtype t)
{
    struct kv_store s = {.dtype = t, .n_layer = cfg->n_layer, .n_head = cfg->n_head};
    s.d = cfg->n_embd / cfg->n_head;
    s.dp = (int)kv_dp((size_t)s.d);
    s.k_tile_bytes = kv_k_bytes((size_t)s.d, t);
    s.v_tile_bytes = kv_v_bytes((size_t)s.dp, t);
    s.layer_bytes = (size_t)s.n_head * (s.k_tile_bytes + s.v_tile_bytes);
    s.block_bytes = (size_t)s.n_layer * s.layer_bytes;
    return s;
}

/* Beside wider weights, whose reading and multiplying is what costs, keys and values in 8 bits are no
 * faster than halves; measured to 32 sequences. */
int kv_dtype_parse(const char *name, enum dtype weights)
{
    if (!name || strcmp(name, "auto") == 0) return weights == DTYPE_I8 ? DTYPE_I8 : DTYPE_F16;
    if (strcmp(name, "f32") == 0) return DTYPE_F32;
    if (strcmp(name, "f16") == 0) return DTYPE_F16;
    return strcmp(name, "int8") == 0 ? DTYPE_I8 : -1;
}

size_t kv_block_bytes(const struct gpt2_config *cfg, enum dtype t)
{
    return layout(cfg, t).block_bytes;
}

int kv_store_init(struct kv_store *s, const struct gpt2_config *cfg, enum dtype t, int n_blocks,
                  struct err *err)
{
    if (t != DTYPE_F32 && t != DTYPE_F16 && t != DTYPE_I8)
        return err_set(err, ERR_UNSUPPORTED, "KV cache of %s, expected F32, F16 or I8",
                       dtype_name(t));
    if (t == DTYPE_I8 && cfg->n_positions > INT8_MAX_POSITIONS)
        return err_set(err, ERR_UNSUPPORTED, "KV cache of I8 for %d positions, expected at most %d",
                       cfg->n_positions, INT8_MAX_POSITIONS);
    BUG_ON(n_blocks < 1);
    struct kv_store k = layout(cfg, t);
    k.n_blocks = n_blocks;
    size_t bytes;
    if (!mem_mul(k.block_bytes, (size_t)n_blocks, &bytes))
        return err_set(err, ERR_NOMEM, "KV cache: %d blocks of %zu bytes", n_blocks, k.block_bytes);
    int rc = mem_map(&k.base, bytes, "KV cache", err);
    if (!rc) *s = k;
    return rc;
}

void kv_store_release(struct kv_store *s)
{
    mem_unmap(s->base, s->block_bytes * (size_t)s->n_blocks);
    *s = (struct kv_store){0};
}
