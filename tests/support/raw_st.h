#ifndef TTMD_TESTS_RAW_ST_H
#define TTMD_TESTS_RAW_ST_H

#include "engine/base/buf.h"
#include "engine/gpt2/safetensors.h"

/* A safetensors file put together by hand, so that it can be wrong in every way. Zero-initialise. */
struct raw_st {
    struct buf header; /* entries so far, without the braces */
    struct buf data;
};

/* raw_entry -- append `text` as it is to the header's object. */
void raw_entry(struct raw_st *r, const char *text);

/* raw_tensor -- an entry with the next `len` bytes of data. shape is its text: "[2, 3]". */
void raw_tensor(struct raw_st *r, const char *name, const char *dtype, const char *shape,
                const void *data, size_t len);

/* raw_copy -- another set's tensor under a name. */
void raw_copy(struct raw_st *r, const char *name, const struct st_tensor *t);

/* raw_edit -- put a tensor of another model, changed or not, or nothing, or more, into r.
 * raw_edited -- a new directory: the model in `from` with each tensor in turn through an edit;
 * config.json as it is. */
typedef void raw_edit(struct raw_st *r, const struct st_tensor *t, const void *arg);
const char *raw_edited(const char *from, raw_edit *edit, const void *arg);

/* raw_image -- append the file to *out; r is as new afterwards. */
void raw_image(struct raw_st *r, struct buf *out);
void raw_write(struct raw_st *r, const char *path);

#endif
