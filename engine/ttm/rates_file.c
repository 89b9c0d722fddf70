/* Text, because an operator may want to look at it, and so little of it that each line is read by
 * hand. The file is replaced in one step, so that two daemons that start together do not harm it. */
#include "engine/ttm/rates_file.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/paths.h"

#define HEADER "ttmd rates 3\n"
#define MAX_BYTES 4096
#define MAX_CACHE 0x1p40

static const struct {
    const char *name;
    size_t offset;
} fields[] = {
    {"flops_few", offsetof(struct ttm_rates, flops_few)},
    {"flops_many", offsetof(struct ttm_rates, flops_many)},
    {"flops_f32", offsetof(struct ttm_rates, flops_f32)},
    {"dram", offsetof(struct ttm_rates, dram)},
    {"cache", offsetof(struct ttm_rates, cache)},
    {"overhead_s", offsetof(struct ttm_rates, overhead_s)},
};
enum { N_FIELDS = sizeof fields / sizeof *fields };

void ttm_rates_format(const struct ttm_rates *r, const char *machine, struct buf *out)
{
    buf_printf(out, HEADER "machine %s\n", machine);
    for (int i = 0; i < N_FIELDS; i++) {
        double v;
        memcpy(&v, (const char *)r + fields[i].offset, sizeof v);
        buf_printf(out, "%s %.17g\n", fields[i].name, v);
    }
    buf_printf(out, "cache_bytes %zu\n", r->cache_bytes);
}

/* The line "NAME VALUE\n" at *at; *at moves behind it. */
static bool read_value(const char **at, const char *name, double most, double *value)
{
    size_t n = strlen(name);
    if (strncmp(*at, name, n) != 0 || (*at)[n] != ' ') return false;
    char *end;
    double v = strtod(*at + n + 1, &end);
    if (end == *at + n + 1 || *end != '\n' || !(v > 0) || !(v <= most)) return false;
    *value = v;
    *at = end + 1;
    return true;
}

int ttm_rates_parse(struct ttm_rates *out, const char *text, size_t len, const char *machine,
                    struct err *err)
{
    struct ttm_rates r = {.lanes = PACK_N};
    struct buf copy = {0}, head = {0}; /* a copy ends with NUL */
    double bytes = 0;
    buf_append(&copy, text, len);
    buf_printf(&head, HEADER "machine %s\n", machine);
    const char *at = copy.data;
    bool ok = len <= MAX_BYTES && len >= head.len && memcmp(at, head.data, head.len) == 0;
    at += ok ? head.len : 0;
    for (int i = 0; ok && i < N_FIELDS; i++) {
        double v;
        ok = read_value(&at, fields[i].name, INFINITY, &v) && isfinite(v);
        if (ok) memcpy((char *)&r + fields[i].offset, &v, sizeof v);
    }
    ok = ok && read_value(&at, "cache_bytes", MAX_CACHE, &bytes) && at == copy.data + len;
    r.cache_bytes = (size_t)bytes;
    buf_release(&copy);
    buf_release(&head);
    if (!ok) return err_set(err, ERR_INVALID, "not the rates of \"%s\"", machine);
    *out = r;
    return 0;
}

static bool load(struct ttm_rates *out, const char *path, const char *machine)
{
    char text[MAX_BYTES + 1];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return false;
    ssize_t n = read(fd, text, sizeof text);
    close(fd);
    return n > 0 && ttm_rates_parse(out, text, (size_t)n, machine, NULL) == 0;
}

static void store(const struct ttm_rates *r, const char *path, const char *machine)
{
    struct buf text = {0}, tmp = {0};
    ttm_rates_format(r, machine, &text);
    buf_printf(&tmp, "%s.%ld", path, (long)getpid());
    if (paths_make_parents(path)) {
        int fd = open(tmp.data, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        bool ok = fd >= 0 && write(fd, text.data, text.len) == (ssize_t)text.len;
        if (fd >= 0) ok = close(fd) == 0 && ok;
        if (fd >= 0 && (!ok || rename(tmp.data, path) != 0)) unlink(tmp.data);
    }
    buf_release(&tmp);
    buf_release(&text);
}

/* Processors of one name and one set of kernels may differ in their products of 8-bit numbers. */
static void kernel_names(char *out, size_t n, const struct compute *c, enum dtype t)
{
    bool both = t == DTYPE_I8;
    snprintf(out, n, "%s%s%s", c->k->name, both ? "+" : "", both ? c->k->int8->name : "");
}

void ttm_rates_machine(struct buf *out, const struct cpu *cpu, const struct compute *c,
                       enum dtype t)
{
    char names[32];
    kernel_names(names, sizeof names, c, t);
    for (const char *p = cpu->model; *p;
         p++) /* it comes from the system, but it is one line here */
        buf_putc(out, *p == '\n' ? ' ' : *p);
    buf_printf(out, ", %s, %d threads, %s", names, pool_threads(c->pool), dtype_name(t));
}

bool ttm_rates_path(struct buf *out, const struct compute *c, enum dtype t)
{
    char name[64], names[32];
    kernel_names(names, sizeof names, c, t);
    snprintf(name, sizeof name, "rates-%s-%d-%s", names, pool_threads(c->pool), dtype_name(t));
    return paths_cache(out, name);
}

int ttm_rates_get(struct ttm_rates *out, enum dtype t, const struct compute *c, const char *path,
                  const char *machine, bool *found, struct err *err)
{
    bool there = path && load(out, path, machine);
    if (found) *found = there;
    if (there) return 0;
    int rc = ttm_rates_measure(out, t, c, err);
    if (rc == 0 && path) store(out, path, machine);
    return rc;
}
