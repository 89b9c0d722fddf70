/* Tokenising takes longer than reading, so it is done once and by all threads: documents are
 * independent. The ids are mapped, not read: several runs on one machine share their pages. A cache is
 * good when its header names the text's size and time and a fingerprint of the tokenizer, its length is
 * what the header says, and its ids are ids; anything else is made anew. */
#include "models/train/corpus.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "models/atomic_file.h"
#include "models/input.h"
#include "models/progress.h"

#define SEPARATOR "<|endoftext|>"
#define BATCH_BYTES ((size_t)4 << 20) /* of text between two looks at the stop flag */

struct header {
    char magic[8];
    uint64_t width, tokens, text_bytes;
    int64_t mtime_s, mtime_ns;
    uint64_t tokenizer; /* fingerprint */
    uint64_t reserved;
};
static const char magic[8] = "ttmtok1";

static uint64_t fnv(uint64_t h, const void *data, size_t n)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

/* All tokens' bytes, and how a probe is split: merges that differ show there. */
static uint64_t fingerprint(const struct tokenizer *tok)
{
    static const char probe[] =
        "Once upon a time, there wasn't anything: 1234 caf\xc3\xa9s\n\n\t"
        "The quick brown fox's \xe2\x80\x9cjumps\xe2\x80\x9d over   it.";
    uint64_t h = 0xcbf29ce484222325u;
    for (int32_t i = 0; i < tokenizer_vocab(tok); i++) {
        size_t n;
        const char *bytes = tokenizer_bytes(tok, i, &n);
        h = fnv(fnv(h, &n, sizeof n), bytes, n);
    }
    struct tokens t = {0};
    tokenizer_encode(tok, probe, sizeof probe - 1, false, &t);
    h = fnv(h, t.ids, t.n * sizeof *t.ids);
    tokens_release(&t);
    return h;
}

struct document {
    const char *text;
    size_t len;
    struct tokens tokens;
};

struct documents {
    const struct tokenizer *tok;
    struct document *list; /* (n) owned */
    size_t n, cap;
};

static void add_document(struct documents *d, const char *text, size_t len)
{
    if (!len) return;
    if (d->n == d->cap) {
        d->cap = d->cap ? 2 * d->cap : 64;
        d->list = mem_realloc(d->list, d->cap * sizeof *d->list);
    }
    d->list[d->n++] = (struct document){.text = text, .len = len};
}

static void split(struct documents *d, const char *text, size_t len)
{
    const size_t sep = sizeof SEPARATOR - 1;
    size_t begin = 0;
    for (size_t line = 0; line < len;) {
        const char *end = memchr(text + line, '\n', len - line);
        size_t stop = end ? (size_t)(end - text) : len, n = stop - line;
        if (n && text[line + n - 1] == '\r') n--;
        if (n == sep && memcmp(text + line, SEPARATOR, sep) == 0) {
            add_document(d, text + begin, line - begin);
            begin = stop + 1 < len ? stop + 1 : len;
        }
        line = stop + 1;
    }
    if (begin < len) add_document(d, text + begin, len - begin);
}

static void encode(void *arg, size_t begin, size_t end, int worker)
{
    const struct documents *d = arg;
    int32_t eos = tokenizer_eos(d->tok);
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        struct document *doc = &d->list[i];
        tokenizer_encode(d->tok, doc->text, doc->len, false, &doc->tokens);
        if (eos >= 0) tokens_push(&doc->tokens, eos);
    }
}

static int put_ids(struct atomic_file *f, struct tokens *t, int width, struct err *err)
{
    if (width == 2) { /* in place: the narrow ids never overtake the wide ones */
        uint16_t *narrow = (uint16_t *)(void *)t->ids;
        for (size_t i = 0; i < t->n; i++) {
            uint16_t id = (uint16_t)t->ids[i];
            memcpy(narrow + i, &id, sizeof id);
        }
    }
    return atomic_file_write(f, t->ids, t->n * (size_t)width, err);
}

static int write_ids(struct atomic_file *f, struct documents *d, const struct tool *t,
                     struct pool *pool, size_t total, struct header *h, struct err *err)
{
    struct documents part = {.tok = d->tok};
    struct progress bar;
    size_t done = 0;
    int rc = 0;
    progress_start(&bar, t->log, "tokenising");
    for (size_t i = 0; !rc && i < d->n; i += part.n) {
        size_t bytes = 0;
        part.list = d->list + i;
        for (part.n = 0; i + part.n < d->n && bytes < BATCH_BYTES; part.n++)
            bytes += part.list[part.n].len;
        if (tool_stopped(t)) rc = tool_interrupted(err);
        if (!rc) pool_for(pool, part.n, 1, encode, &part);
        for (size_t k = 0; k < part.n; k++) {
            h->tokens += part.list[k].tokens.n;
            if (!rc) rc = put_ids(f, &part.list[k].tokens, (int)h->width, err);
            tokens_release(&part.list[k].tokens);
        }
        progress_set(&bar, (double)(done += bytes) / (double)total, NULL);
    }
    progress_end(&bar);
    return rc;
}

/* The header's number of tokens is known at the end only: it is written last, over the first bytes. */
static int make(const struct tool *t, const char *text, const char *cache, struct header *h,
                const struct tokenizer *tok, struct pool *pool, struct err *err)
{
    struct buf b = {0};
    struct atomic_file f = {.fd = -1};
    struct documents d = {.tok = tok};
    int rc = input_read(text, &b, err);
    if (rc) goto out;
    h->text_bytes = b.len;
    split(&d, b.data ? b.data : "", b.len);
    if (!d.n) {
        rc = err_set(err, ERR_INVALID, "%s holds no text", text);
        goto out;
    }
    rc = atomic_file_open(&f, cache, err);
    if (!rc) rc = atomic_file_write(&f, h, sizeof *h, err);
    if (!rc) rc = write_ids(&f, &d, t, pool, b.len, h, err);
    if (!rc && pwrite(f.fd, h, sizeof *h, 0) != (ssize_t)sizeof *h)
        rc = err_set(err, ERR_IO, "cannot write %s: %s", cache, strerror(errno));
    if (!rc) rc = atomic_file_commit(&f, err);
out:
    atomic_file_abort(&f);
    free(d.list);
    buf_release(&b);
    return rc;
}

/* The embedding is looked up by these. */
static bool ids_below(const struct header *h, int32_t vocab)
{
    const uint16_t *narrow = (const void *)(h + 1);
    const uint32_t *wide = (const void *)(h + 1);
    uint32_t most = 0;
    for (uint64_t i = 0; i < h->tokens; i++) {
        uint32_t id = h->width == 2 ? narrow[i] : wide[i];
        if (id > most) most = id;
    }
    return most < (uint32_t)vocab;
}

/* 0 when the cache is what `want` asks for; 1 when it has to be made. */
static int map_cache(struct corpus *c, const char *cache, const struct header *want, int32_t vocab)
{
    struct stat st;
    int fd = open(cache, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 1;
    void *map = MAP_FAILED;
    if (fstat(fd, &st) == 0 && st.st_size > (off_t)sizeof *want)
        map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return 1;
    const struct header *h = map;
    size_t left = (size_t)st.st_size - sizeof *h;
    bool same = memcmp(h->magic, magic, sizeof magic) == 0 && h->width == want->width &&
                h->text_bytes == want->text_bytes && h->mtime_s == want->mtime_s &&
                h->mtime_ns == want->mtime_ns && h->tokenizer == want->tokenizer &&
                h->tokens == left / h->width && left % h->width == 0 && ids_below(h, vocab);
    if (!same) {
        munmap(map, (size_t)st.st_size);
        return 1;
    }
    *c = (struct corpus){.map = map,
                         .map_bytes = (size_t)st.st_size,
                         .ids = h + 1,
                         .width = (int)h->width,
                         .n = h->tokens,
                         .bytes = h->text_bytes};
    return 0;
}

int corpus_open(struct corpus *c, const struct tool *t, const char *text, const char *cache,
                const struct tokenizer *tok, struct pool *pool, struct err *err)
{
    struct stat st;
    struct header want = {0};
    *c = (struct corpus){0};
    if (stat(text, &st) != 0)
        return err_set(err, ERR_IO, "cannot open %s: %s", text, strerror(errno));
    memcpy(want.magic, magic, sizeof magic);
    want.width = tokenizer_vocab(tok) <= 65536 ? 2 : 4;
    want.text_bytes = (uint64_t)st.st_size;
    want.mtime_s = st.st_mtim.tv_sec;
    want.mtime_ns = st.st_mtim.tv_nsec;
    want.tokenizer = fingerprint(tok);
    if (map_cache(c, cache, &want, tokenizer_vocab(tok)) == 0) return 0;
    int rc = make(t, text, cache, &want, tok, pool, err);
    if (!rc && map_cache(c, cache, &want, tokenizer_vocab(tok)) != 0)
        rc = err_set(err, ERR_IO, "cannot map %s, or it changed while it was made", cache);
    return rc;
}

void corpus_close(struct corpus *c)
{
    if (c->map) munmap(c->map, c->map_bytes);
    *c = (struct corpus){0};
}

void corpus_read(const struct corpus *c, size_t at, size_t n, int32_t *out)
{
    BUG_ON(at > c->n || n > c->n - at);
    const uint16_t *narrow = c->ids;
    const uint32_t *wide = c->ids;
    for (size_t i = 0; i < n; i++)
        out[i] = c->width == 2 ? narrow[at + i] : (int32_t)wide[at + i];
}
