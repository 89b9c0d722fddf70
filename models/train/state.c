/* A header of numbers and three arrays, as they lie in memory: a run goes on where it was, on the same
 * kind of machine. The header carries a fingerprint of the layout, so that a state is never read
 * into another model. */
#include "models/train/state.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "models/atomic_file.h"

struct header {
    char magic[8];
    uint64_t layout, floats;
    struct train_state s;
};
static const char magic[8] = "ttmrun1";

static uint64_t mix(uint64_t h, uint64_t v)
{
    return (h ^ v) * 0x100000001b3u;
}

/* Names and shapes, and of the configuration what no shape shows but flags can change. */
static uint64_t layout(const struct net *net)
{
    const struct gpt2_config *c = &net->cfg;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < net->n_tensors; i++) {
        const struct net_tensor *t = &net->tensors[i];
        for (const char *p = t->name; *p; p++)
            h = mix(h, (unsigned char)*p);
        for (int k = 0; k < t->n_dims; k++)
            h = mix(h, t->shape[k]);
    }
    return mix(mix(h, (uint64_t)c->n_head), (uint64_t)c->activation);
}

int state_save(const char *path, const struct net *net, const struct train_state *s, const float *w,
               const float *m, const float *v, struct err *err)
{
    struct header h;
    struct atomic_file f;
    size_t bytes = s->step ? net->floats * sizeof *w : 0;
    memset(&h, 0, sizeof h); /* no byte of padding is left to chance */
    memcpy(h.magic, magic, sizeof magic);
    h.layout = layout(net);
    h.floats = net->floats;
    h.s = *s;
    int rc = atomic_file_open(&f, path, err);
    if (!rc) rc = atomic_file_write(&f, &h, sizeof h, err);
    if (!rc) rc = atomic_file_write(&f, w, bytes, err);
    if (!rc) rc = atomic_file_write(&f, m, bytes, err);
    if (!rc) rc = atomic_file_write(&f, v, bytes, err);
    if (!rc) rc = atomic_file_commit(&f, err);
    atomic_file_abort(&f);
    return rc;
}

static int get(int fd, void *out, size_t n, const char *path, struct err *err)
{
    char *p = out;
    while (n) {
        ssize_t got = read(fd, p, n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return err_set(err, ERR_IO, "cannot read %s: %s", path, strerror(errno));
        if (got == 0) return err_set(err, ERR_INVALID, "%s is cut short", path);
        p += got;
        n -= (size_t)got;
    }
    return 0;
}

static int check(const struct header *h, const struct net *net, const struct train_state *now,
                 const char *path, struct err *err)
{
    const struct {
        const char *what;
        uint64_t was, is;
    } same[] = {{"--seed", h->s.seed, now->seed},
                {"--batch", h->s.batch, now->batch},
                {"--block", h->s.block, now->block},
                {"--accumulate", h->s.accumulate, now->accumulate},
                {"the text's number of tokens", h->s.corpus_tokens, now->corpus_tokens}};
    if (memcmp(h->magic, magic, sizeof magic) != 0)
        return err_set(err, ERR_INVALID, "%s is no state of a training run", path);
    if (h->layout != layout(net) || h->floats != net->floats)
        return err_set(err, ERR_INVALID,
                       "%s is the state of another model: shapes, heads or activation "
                       "differ",
                       path);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (same[i].was != same[i].is)
            return err_set(err, ERR_INVALID, "%s: %s was %llu, now it is %llu", path, same[i].what,
                           (unsigned long long)same[i].was, (unsigned long long)same[i].is);
    return 0;
}

int state_load(const char *path, const struct net *net, struct train_state *s, float *w, float *m,
               float *v, struct err *err)
{
    struct header h;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, errno == ENOENT ? ERR_MISSING : ERR_IO, "cannot open %s: %s", path,
                       strerror(errno));
    int rc = get(fd, &h, sizeof h, path, err);
    if (!rc) rc = check(&h, net, s, path, err);
    size_t bytes = !rc && h.s.step ? net->floats * sizeof *w : 0;
    if (!rc) rc = get(fd, w, bytes, path, err);
    if (!rc) rc = get(fd, m, bytes, path, err);
    if (!rc) rc = get(fd, v, bytes, path, err);
    if (!rc) *s = h.s;
    close(fd);
    return rc;
}

bool state_begun(const char *path)
{
    struct header h;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno != ENOENT;
    bool whole = get(fd, &h, sizeof h, path, NULL) == 0;
    close(fd);
    return !whole || memcmp(h.magic, magic, sizeof magic) != 0 || h.s.step > 0;
}
