/* Finding and reading a tokenizer's files: tokenizer.json, which says everything, or the pair of
 * vocabulary and merges that GPT-2 was published with, under OpenAI's or Hugging Face's names. Files
 * are read whole: they are parsed once, at start, and are a few megabytes.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/gpt2/tokenizer_spec.h"

/* ---- struct tokenizer_spec ---- */

void tokenizer_spec_entry(struct tokenizer_spec *s, struct tokenizer_entry e)
{
    if (s->n_entries == s->cap_entries) {
        s->cap_entries = s->cap_entries ? 2 * s->cap_entries : 1024;
        s->entries = mem_realloc(s->entries, s->cap_entries * sizeof *s->entries);
    }
    s->entries[s->n_entries++] = e;
}

void tokenizer_spec_merge(struct tokenizer_spec *s, struct tokenizer_merge m)
{
    if (s->n_merges == s->cap_merges) {
        s->cap_merges = s->cap_merges ? 2 * s->cap_merges : 1024;
        s->merges = mem_realloc(s->merges, s->cap_merges * sizeof *s->merges);
    }
    s->merges[s->n_merges++] = m;
}

void tokenizer_spec_release(struct tokenizer_spec *s)
{
    free(s->entries);
    free(s->merges);
    *s = (struct tokenizer_spec){0};
}

bool tokenizer_spec_split(const char *line, size_t len, struct tokenizer_merge *out)
{
    const char *space = memchr(line, ' ', len);
    if (!space) return false;
    struct span left = {line, (size_t)(space - line)};
    struct span right = {space + 1, len - left.len - 1};
    if (left.len == 0 || right.len == 0 || memchr(right.p, ' ', right.len)) return false;
    *out = (struct tokenizer_merge){left, right};
    return true;
}

/* ---- vocabulary and merges ---- */

struct text_file {
    const char *name; /* for messages; NULL: the file is not there */
    const char *data;
    size_t len;
};

static int read_merge_lines(struct tokenizer_spec *s, const struct text_file *f, struct err *err)
{
    const char *p = f->data, *end = f->data + f->len;
    for (size_t line = 1; p < end; line++) {
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        size_t len = (size_t)((newline ? newline : end) - p);
        const char *text = p;
        p += len + (newline ? 1 : 0);
        if (len && text[len - 1] == '\r') len--;
        if (line == 1 && len >= 8 && memcmp(text, "#version", 8) == 0) continue;
        if (len == 0 && p == end) break; /* an empty last line */
        struct tokenizer_merge m;
        if (!tokenizer_spec_split(text, len, &m))
            return err_set(
                err, ERR_INVALID,
                "%s: line %zu is \"%.*s\", expected two tokens and one space between them", f->name,
                line, (int)(len < 48 ? len : 48), text);
        tokenizer_spec_merge(s, m);
    }
    return 0;
}

static json_t *load_json(const struct text_file *f, struct err *err)
{
    json_error_t je;
    json_t *root = json_loadb(f->data, f->len, JSON_REJECT_DUPLICATES, &je);
    if (!root)
        err_set(err, ERR_INVALID, "%s: line %d, column %d: %s", f->name, je.line, je.column,
                je.text);
    return root;
}

static int parse_files(struct tokenizer **out, const struct text_file *vocab,
                       const struct text_file *merges, const struct text_file *added,
                       struct err *err)
{
    struct tokenizer_spec s = {.name = vocab->name, .merges_name = merges->name};
    json_t *added_root = NULL, *root = load_json(vocab, err);
    int rc = ERR_INVALID;
    if (!root) goto out;
    if (added->name) {
        added_root = load_json(added, err);
        if (!added_root) goto out;
    }
    rc = tokenizer_spec_vocab(&s, root, vocab->name, "the file", false, err);
    if (rc == 0 && added_root)
        rc = tokenizer_spec_vocab(&s, added_root, added->name, "the file", true, err);
    if (rc == 0) rc = read_merge_lines(&s, merges, err);
    if (rc == 0) rc = tokenizer_build(out, &s, err);
out:
    tokenizer_spec_release(&s);
    json_decref(added_root);
    json_decref(root);
    return rc;
}

int tokenizer_parse_bpe(struct tokenizer **out, const char *vocab_json, size_t vocab_len,
                        const char *merges, size_t merges_len, struct err *err)
{
    struct text_file v = {"vocab.json", vocab_json, vocab_len},
                     m = {"merges.txt", merges, merges_len};
    struct text_file none = {0};
    return parse_files(out, &v, &m, &none, err);
}

/* ---- files ---- */

static int read_all(int fd, const char *path, size_t size, char *out, struct err *err)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = read(fd, out + at, size - at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
        if (n == 0)
            return err_set(err, ERR_IO, "%s: ends after %zu bytes, expected %zu", path, at, size);
        at += (size_t)n;
    }
    return 0;
}

/* Read a regular file of bounded size into *data (owned by the caller) and *len. Returns 1, with
 * nothing written, when there is no such file. */
static int read_path(const char *path, char **data, size_t *len, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not stop the start */
    if (fd < 0 && errno == ENOENT) return 1;
    if (fd < 0) return err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    struct stat st;
    int rc = 0;
    char *p = NULL;
    if (fstat(fd, &st) != 0) {
        rc = err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        rc = err_set(err, ERR_INVALID, "%s: is not a regular file", path);
    } else if ((uint64_t)st.st_size > TOKENIZER_MAX_FILE) {
        rc = err_set(err, ERR_INVALID, "%s: %lld bytes, expected at most %zu", path,
                     (long long)st.st_size, TOKENIZER_MAX_FILE);
    } else {
        p = mem_alloc((size_t)st.st_size + 1);
        rc = read_all(fd, path, (size_t)st.st_size, p, err);
    }
    close(fd);
    if (rc) {
        free(p);
        return rc;
    }
    *data = p;
    *len = (size_t)st.st_size;
    return 0;
}

struct open_file {
    struct buf path;
    char *data; /* owned; NULL: not there */
    size_t len;
};

static void release_file(struct open_file *f)
{
    buf_release(&f->path);
    free(f->data);
}

/* Read DIR/NAME; a file that is not there is no error and leaves f->data NULL. */
static int open_file(struct open_file *f, const char *dir, const char *name, struct err *err)
{
    buf_clear(&f->path);
    buf_printf(&f->path, "%s/%s", dir, name);
    int rc = read_path(f->path.data, &f->data, &f->len, err);
    return rc > 0 ? 0 : rc;
}

static int open_either(struct open_file *f, const char *dir, const char *name, const char *other,
                       struct err *err)
{
    int rc = open_file(f, dir, name, err);
    if (rc == 0 && !f->data) rc = open_file(f, dir, other, err);
    return rc;
}

static int open_pair(struct tokenizer **out, const char *dir, struct err *err)
{
    struct open_file vocab = {0}, merges = {0}, added = {0};
    int rc = open_either(&vocab, dir, "vocab.json", "encoder.json", err);
    if (rc == 0) rc = open_either(&merges, dir, "merges.txt", "vocab.bpe", err);
    if (rc == 0) rc = open_file(&added, dir, "added_tokens.json", err);
    if (rc == 0 && !vocab.data)
        rc = err_set(err, ERR_MISSING,
                     "%s: no tokenizer: expected tokenizer.json, or vocab.json with merges.txt",
                     dir);
    else if (rc == 0 && !merges.data)
        rc = err_set(err, ERR_MISSING, "%s: expected merges.txt (or vocab.bpe) beside %s", dir,
                     vocab.path.data);
    if (rc == 0) {
        struct text_file v = {vocab.path.data, vocab.data, vocab.len};
        struct text_file m = {merges.path.data, merges.data, merges.len};
        struct text_file a = {added.data ? added.path.data : NULL, added.data, added.len};
        rc = parse_files(out, &v, &m, &a, err);
    }
    release_file(&vocab);
    release_file(&merges);
    release_file(&added);
    return rc;
}

int tokenizer_open(struct tokenizer **out, const char *dir, struct err *err)
{
    struct open_file f = {0};
    int rc = open_file(&f, dir, "tokenizer.json", err);
    if (rc == 0 && f.data)
        rc = tokenizer_parse_json(out, f.data, f.len, f.path.data, err);
    else if (rc == 0)
        rc = open_pair(out, dir, err);
    release_file(&f);
    return rc;
}
