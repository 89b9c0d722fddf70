/* Fuzzer: gpt2_config_parse() on arbitrary bytes; whatever it accepts must keep the promises that the
 * binder and the KV store rely on. */
#include <stdlib.h>
#include <string.h>

#include "engine/gpt2/gpt2_config.h"
#include "engine/gpt2/kv_store.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int in_range(int x)
{
    return x >= 1 && x <= 1 << 24;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gpt2_config c;
    struct err err = {0};
    int rc = gpt2_config_parse(&c, (const char *)data, size, "fuzz", &err);
    if (rc) {
        if (rc != err.code || !err.msg[0]) abort();
        return 0;
    }
    if (!in_range(c.n_layer) || !in_range(c.n_head) || !in_range(c.n_embd) ||
        !in_range(c.n_positions) || !in_range(c.vocab_size) || c.n_inner < 1)
        abort();
    if (c.n_embd % c.n_head || !(c.layer_norm_epsilon > 0)) abort();
    if (c.eos_token_id < -1 || c.eos_token_id >= c.vocab_size) abort();
    if (c.bos_token_id < -1 || c.bos_token_id >= c.vocab_size) abort();
    if (kv_block_bytes(&c, DTYPE_F16) > kv_block_bytes(&c, DTYPE_F32)) abort();
    if (kv_block_bytes(&c, DTYPE_I8) < kv_block_bytes(&c, DTYPE_F32) / 4) abort();
    return 0;
}
