/* A fingerprint that tells models apart without reading hundreds of megabytes: FNV-1a over
 * config.json, over name, type and shape of every tensor, and over the first bytes of each, because
 * two fine-tunings of one model differ in nothing else. */
#include "engine/run/engine_facts.h"

#include <string.h>

#include "engine/gpt2/dir_file.h"
#include "engine/gpt2/safetensors.h"

#define CONFIG_MAX_BYTES ((size_t)1 << 20)
#define SAMPLE_BYTES 256

static uint64_t fnv1a(uint64_t h, const void *data, size_t len)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * 0x100000001b3ull;
    return h;
}

static uint64_t hash_tensor(uint64_t h, const struct st_tensor *t)
{
    h = fnv1a(h, t->name, strlen(t->name) + 1);
    h = fnv1a(h, dtype_name(t->dtype), strlen(dtype_name(t->dtype)));
    for (int i = 0; i < t->n_dims; i++) {
        uint64_t dim = t->shape[i];
        h = fnv1a(h, &dim, sizeof dim);
    }
    return fnv1a(h, t->data, t->bytes < SAMPLE_BYTES ? t->bytes : SAMPLE_BYTES);
}

int engine_facts(struct engine_facts *out, const char *dir, struct err *err)
{
    struct buf config = {0};
    struct st_set *st = NULL;
    int rc = dir_file_text(&config, dir, "config.json", CONFIG_MAX_BYTES, err);
    if (!rc) rc = st_open(&st, dir, err);
    if (!rc) {
        uint64_t h = fnv1a(0xcbf29ce484222325ull, config.data, config.len);
        for (size_t i = 0; i < st_count(st); i++)
            h = hash_tensor(h, st_at(st, i));
        rc = st_verify(st, 0, err);
        if (!rc) *out = (struct engine_facts){.file_bytes = st_file_bytes(st), .fingerprint = h};
    }
    st_close(st);
    buf_release(&config);
    return rc;
}

uint64_t engine_facts_mix(uint64_t fingerprint, const char *text)
{
    return fnv1a(fingerprint, text, strlen(text) + 1);
}
