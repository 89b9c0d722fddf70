#ifndef TTMD_RUN_ENGINE_FACTS_H
#define TTMD_RUN_ENGINE_FACTS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

/* What identifies a model directory, without reading its weights. */
struct engine_facts {
    size_t file_bytes;    /* of all safetensors files */
    uint64_t fingerprint; /* of config.json and of names, types and shapes of all tensors */
};

/* engine_facts -- Errors: those of st_open(), ERR_IO; *out untouched. */
int engine_facts(struct engine_facts *out, const char *dir, struct err *err);

/* engine_facts_mix -- the fingerprint that also tells apart how the answers are computed: the same
 * weights under other plans differ in the last bits. */
uint64_t engine_facts_mix(uint64_t fingerprint, const char *text);

#endif
