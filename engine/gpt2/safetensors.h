#ifndef TTMD_GPT2_SAFETENSORS_H
#define TTMD_GPT2_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/dtype.h"
#include "engine/base/err.h"

/* Read-only view of a model directory's safetensors file(s), memory-mapped. */
#define ST_MAX_DIMS 8

struct st_tensor {
    const char *name; /* owned by the set */
    enum dtype dtype;
    int n_dims;
    size_t shape[ST_MAX_DIMS];
    size_t elements;  /* product of shape, 1 for a scalar */
    const void *data; /* inside the mapping, maybe unaligned; borrowed until st_close() */
    size_t bytes;
    const char *file; /* "model.safetensors" or the shard; owned by the set */
    int mapped;       /* data are pages of a file: st_drop() has something to give back */
};

struct st_set;

/* st_open -- map DIR/model.safetensors, or all shards that DIR/model.safetensors.index.json names
 * (shard names must be plain file names; each tensor of weight_map must be in the shard named).
 *
 * Everything is checked here: header length within the file and <= 100 MB, JSON shape, known
 * dtypes, dims >= 0 with a product that does not overflow, bytes = elements * size, offsets inside
 * the file, no overlap between tensors, no hole, no duplicate name.
 * Errors  ERR_IO, ERR_MISSING, ERR_INVALID, naming file and tensor; nothing stays mapped.
 */
int st_open(struct st_set **out, const char *dir, struct err *err);
void st_close(struct st_set *s); /* s may be NULL */

/* st_verify -- once the data have been read: were they the file's? rc, what came of the reading, is returned
 * again unless a file was written to since st_open(); then that is the error, also in place of one that err has.
 * Reading never ends the process: where a file has become shorter, its data are zeros. s may be NULL.
 *
 * Errors  ERR_INVALID, naming the file.
 */
int st_verify(const struct st_set *s, int rc, struct err *err);

size_t st_count(const struct st_set *s);
const struct st_tensor *st_at(const struct st_set *s, size_t i);           /* in file order */
const struct st_tensor *st_find(const struct st_set *s, const char *name); /* NULL if absent */
size_t st_file_bytes(const struct st_set *s);                              /* of all files */

/* st_drop -- tell the kernel that the tensor's pages are no longer needed (they were copied), so
 * that resident memory does not hold the model twice. The data stay readable. */
void st_drop(const struct st_tensor *t);

/* st_parse_header -- the checks of st_open() on bytes in memory: for tests and the fuzzer.
 * `data` is a whole file image; the set borrows it. */
int st_parse(struct st_set **out, const void *data, size_t len, const char *name, struct err *err);

/* Writing: open ; declare each tensor ; begin ; data ; finish. The header needs all shapes first, so
 * tensors are declared, then written in the order of declaration. The bytes go to PATH.partial, and
 * finish renames it: a reader never sees half a file. A failed call leaves the writer to be aborted. */
struct st_writer;
int st_writer_open(struct st_writer **out, const char *path, struct err *err);
void st_writer_declare(struct st_writer *w, const char *name, enum dtype t, const size_t *shape,
                       int n_dims);
int st_writer_begin(struct st_writer *w, struct err *err); /* header is written */
int st_writer_data(struct st_writer *w, const float *src, size_t n,
                   struct err *err); /* converts to the
                        declared dtype (F32, F16, BF16); a tensor may come in several pieces */
int st_writer_bytes(struct st_writer *w, const void *src, size_t bytes,
                    struct err *err); /* a whole tensor of any dtype, as it is */
int st_writer_finish(struct st_writer *w,
                     struct err *err);     /* checks completeness, fsync, rename, free;
                                                               frees on failure too (as abort does) */
void st_writer_abort(struct st_writer *w); /* close and unlink; w may be NULL */

#endif
