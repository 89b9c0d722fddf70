/* The file of API keys from arbitrary bytes: taken or refused by name, and read again over itself. */
#include <stdint.h>
#include <stdlib.h>

#include "server/keys.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct keys *k = NULL, *again = NULL;
    struct key_grant g;
    struct err err = {0};
    if (keys_parse(&k, NULL, (const char *)data, size, "fuzz", &err) != 0) return 0;
    if (keys_parse(&again, k, (const char *)data, size, "fuzz", &err) != 0) abort();
    if (keys_count(k) != keys_count(again)) abort();
    if (keys_find(k, "no such key", &g)) abort();
    keys_free(k);
    keys_free(again);
    return 0;
}
