/* Fuzzer: st_parse() on arbitrary bytes; whatever it accepts must be readable from end to end. */
#include <stdlib.h>
#include <string.h>

#include "engine/gpt2/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_set *s = NULL;
    struct err err = {0};
    int rc = st_parse(&s, data, size, "fuzz", &err);
    if (rc) {
        if (rc != err.code || !err.msg[0]) abort();
        return 0;
    }
    volatile unsigned sum = 0;
    for (size_t i = 0; i < st_count(s); i++) {
        const struct st_tensor *t = st_at(s, i);
        const unsigned char *p = t->data;
        if (t->bytes) sum += (unsigned)p[0] + p[t->bytes - 1];
        if (t->bytes != t->elements * dtype_size(t->dtype)) abort();
        if (st_find(s, t->name) != t) abort();
    }
    (void)sum;
    st_close(s);
    return 0;
}
