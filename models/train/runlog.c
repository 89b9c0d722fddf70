/* Lines are flushed one by one: the log is what is watched while a run goes on. A run that was killed
 * has logged steps that its last checkpoint does not know; they are taken again after --resume, so
 * their lines are dropped first. Losses are printed with the nine digits that tell any two floats apart, so
 * that runs can be compared by their logs. */
#include "models/train/runlog.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/base/mem.h"
#include "models/atomic_file.h"
#include "models/input.h"

static int fail(const struct runlog *l, struct err *err)
{
    return err_set(err, ERR_IO, "cannot write %s: %s", l->path, strerror(errno));
}

/* The length of the lines up to step `keep`; a line that is no step's, or cut short, ends it. */
static size_t kept(const struct buf *b, uint64_t keep)
{
    size_t at = 0;
    while (at < b->len) {
        const char *line = b->data + at, *end = memchr(line, '\n', b->len - at);
        char *stop;
        if (!end || strncmp(line, "{\"step\": ", 9) != 0) break;
        if (strtoull(line + 9, &stop, 10) > keep) break;
        at = (size_t)(end - b->data) + 1;
    }
    return at;
}

int runlog_open(struct runlog *l, const char *path, uint64_t keep, struct err *err)
{
    struct buf b = {0};
    *l = (struct runlog){.path = mem_strdup(path)};
    int rc = 0;
    if (keep && access(path, F_OK) == 0) rc = input_read(path, &b, err);
    if (!rc) rc = atomic_file_put(path, b.data ? b.data : "", kept(&b, keep), err);
    buf_release(&b);
    if (rc) return rc;
    l->f = fopen(path, "ae");
    return l->f ? 0 : fail(l, err);
}

static int end_line(struct runlog *l, struct err *err)
{
    return fflush(l->f) == 0 && !ferror(l->f) ? 0 : fail(l, err);
}

int runlog_step(struct runlog *l, const struct runlog_step *s, struct err *err)
{
    fprintf(l->f, "{\"step\": %llu, \"loss\": %.9g, ", (unsigned long long)s->step, s->loss);
    if (s->distil >= 0) fprintf(l->f, "\"distil\": %.9g, ", s->distil);
    fprintf(l->f, "\"lr\": %.6g, \"grad_norm\": %.9g, \"tokens\": %llu, \"tokens_per_s\": %.0f}\n",
            s->lr, s->grad_norm, (unsigned long long)s->tokens, s->tokens_per_s);
    return end_line(l, err);
}

int runlog_valid(struct runlog *l, uint64_t step, double loss, double accuracy, struct err *err)
{
    fprintf(l->f, "{\"step\": %llu, \"valid_loss\": %.9g", (unsigned long long)step, loss);
    if (accuracy >= 0) fprintf(l->f, ", \"accuracy\": %.9g", accuracy);
    fputs("}\n", l->f);
    return end_line(l, err);
}

int runlog_sync(struct runlog *l, struct err *err)
{
    return fsync(fileno(l->f)) == 0 ? 0 : fail(l, err);
}

void runlog_close(struct runlog *l)
{
    if (l->f) fclose(l->f);
    free(l->path);
    *l = (struct runlog){0};
}
