/* Carrying a tokenizer from one model directory to another, byte for byte: a compressed model keeps
 * its tokenizer, and files that this program does not read (tokenizer_config.json) matter to others.
 * Copied through a temporary name, so that a directory never holds half a file.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/gpt2/tokenizer_write.h"

static int copy_stream(FILE *in, FILE *out, const char *from, const char *to, struct err *err)
{
    char block[65536];
    size_t n;
    while ((n = fread(block, 1, sizeof block, in)) > 0)
        if (fwrite(block, 1, n, out) != n)
            return err_set(err, ERR_IO, "%s: %s", to, strerror(errno));
    if (ferror(in)) return err_set(err, ERR_IO, "%s: %s", from, strerror(errno));
    return 0;
}

/* Copy FROM to TO; *found false and no error when there is no such file. */
static int copy_path(const char *from, const char *to, bool *found, struct err *err)
{
    *found = false;
    FILE *in = fopen(from, "rbe"), *out = NULL;
    if (!in) return errno == ENOENT ? 0 : err_set(err, ERR_IO, "%s: %s", from, strerror(errno));
    *found = true;
    struct buf tmp = {0};
    buf_printf(&tmp, "%s.tmp%ld", to, (long)getpid());
    int rc = 0;
    out = fopen(tmp.data, "wbe");
    if (!out) {
        rc = err_set(err, ERR_IO, "%s: %s", tmp.data, strerror(errno));
        goto out;
    }
    rc = copy_stream(in, out, from, tmp.data, err);
    if (fclose(out) != 0 && rc == 0) rc = err_set(err, ERR_IO, "%s: %s", tmp.data, strerror(errno));
    if (rc == 0 && rename(tmp.data, to) != 0)
        rc = err_set(err, ERR_IO, "%s: %s", to, strerror(errno));
    if (rc) unlink(tmp.data);
out:
    fclose(in);
    buf_release(&tmp);
    return rc;
}

static int copy_name(const char *from_dir, const char *from, const char *to_dir, const char *to,
                     bool *found, struct err *err)
{
    struct buf a = {0}, b = {0};
    buf_printf(&a, "%s/%s", from_dir, from);
    buf_printf(&b, "%s/%s", to_dir, to);
    int rc = copy_path(a.data, b.data, found, err);
    buf_release(&a);
    buf_release(&b);
    return rc;
}

static bool same_directory(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

int tokenizer_copy_files(const char *from_dir, const char *to_dir, struct err *err)
{
    static const struct {
        const char *name, *openai;
    } files[] = {{"tokenizer.json", NULL},        {"vocab.json", "encoder.json"},
                 {"merges.txt", "vocab.bpe"},     {"added_tokens.json", NULL},
                 {"tokenizer_config.json", NULL}, {"special_tokens_map.json", NULL}};
    if (same_directory(from_dir, to_dir)) return 0;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        bool found;
        int rc = copy_name(from_dir, files[i].name, to_dir, files[i].name, &found, err);
        if (rc == 0 && !found && files[i].openai)
            rc = copy_name(from_dir, files[i].openai, to_dir, files[i].name, &found, err);
        if (rc) return rc;
    }
    return 0;
}
