/* What the container grants: processor time and memory of the control group. Without them, a daemon
 * in a container of two cores on a machine of 64 starts 64 threads, and the kernel throttles all of
 * them for most of each period. A limit may sit on any ancestor, so every level from the process's
 * own group up to the root counts and the smallest wins. Version 2 has one tree (line "0::/path"),
 * version 1 one per controller; a machine may mount both. Inside a container the path may name a
 * group that is not visible below the mounted root: then the walk simply finds the levels that are.
 */
#include "engine/base/cpu.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_BYTES 4096

static bool join(char out[PATH_BYTES], const char *dir, const char *group, const char *file)
{
    int n = snprintf(out, PATH_BYTES, "%s%s/%s", dir, group, file);
    return n > 0 && n < PATH_BYTES;
}

/* First line of dir/group/file; false if it cannot be read. */
static bool read_line(const char *dir, const char *group, const char *file, char *line, int size)
{
    char path[PATH_BYTES];
    if (!join(path, dir, group, file)) return false;
    FILE *f = fopen(path, "re");
    if (!f) return false;
    bool ok = fgets(line, size, f) != NULL;
    fclose(f);
    return ok;
}

/* "cpu.max": "max 100000" or "150000 100000". */
static double v2_quota(const char *dir, const char *group)
{
    char line[128], *end;
    if (!read_line(dir, group, "cpu.max", line, sizeof line)) return 0;
    double quota = strtod(line, &end);
    if (end == line) return 0;
    double period = strtod(end, NULL);
    return quota > 0 && period > 0 ? quota / period : 0;
}

static double v1_quota(const char *dir, const char *group)
{
    char quota[64], period[64];
    if (!read_line(dir, group, "cpu.cfs_quota_us", quota, sizeof quota)) return 0;
    if (!read_line(dir, group, "cpu.cfs_period_us", period, sizeof period)) return 0;
    double q = strtod(quota, NULL), p = strtod(period, NULL); /* quota -1: none */
    return q > 0 && p > 0 ? q / p : 0;
}

/* A memory limit; "max" and version 1's "no limit" (2^63 rounded down to a page) are 0. */
static double memory_limit(const char *dir, const char *group, const char *file)
{
    char line[64], *end;
    if (!read_line(dir, group, file, line, sizeof line)) return 0;
    double v = strtod(line, &end);
    return end != line && v > 0 && v < 0x1p62 ? v : 0;
}

static double v2_memory(const char *dir, const char *group)
{
    return memory_limit(dir, group, "memory.max");
}

static double v1_memory(const char *dir, const char *group)
{
    return memory_limit(dir, group, "memory.limit_in_bytes");
}

/* What one level says, how two levels combine, for the two versions. */
struct reading {
    const char *controller; /* version 1's name of it */
    double (*v2)(const char *dir, const char *group);
    double (*v1)(const char *dir, const char *group);
    double (*combine)(double a, double b);
};

static double smaller(double a, double b)
{
    return a <= 0 ? b : b <= 0 ? a : a < b ? a : b;
}

static double sum(double a, double b)
{
    return a + b;
}

/* "cpu.stat": a line "key value". */
static double stat_value(const char *dir, const char *group, const char *key)
{
    char path[PATH_BYTES], line[128];
    if (!join(path, dir, group, "cpu.stat")) return 0;
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    double v = 0;
    size_t n = strlen(key);
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, key, n) && line[n] == ' ') v = strtod(line + n, NULL);
    fclose(f);
    return v > 0 ? v : 0;
}

static double v2_throttled(const char *dir, const char *group)
{
    return stat_value(dir, group, "throttled_usec") * 1e-6;
}

static double v1_throttled(const char *dir, const char *group)
{
    return stat_value(dir, group, "throttled_time") * 1e-9;
}

/* Combine all levels from group up to the root of dir. A path that leaves the visible tree
 * ("/../other", seen from another cgroup namespace) leaves the root alone. */
static double walk_up(const char *dir, const char *group, const struct reading *r, bool v2)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s", strstr(group, "/..") ? "" : group);
    double v = 0;
    for (;;) {
        size_t n = strlen(path);
        while (n && path[n - 1] == '/')
            path[--n] = 0;
        v = r->combine(v, (v2 ? r->v2 : r->v1)(dir, path));
        char *slash = strrchr(path, '/');
        if (!slash) return v;
        *slash = 0;
    }
}

static bool lists(const char *controllers, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = controllers; p; p = strchr(p, ',')) {
        if (*p == ',') p++;
        if (!strncmp(p, name, n) && (p[n] == 0 || p[n] == ',')) return true;
    }
    return false;
}

/* root/preferred where there is such a directory, else root/other. */
static void choose_dir(char out[PATH_BYTES], const char *root, const char *preferred,
                       const char *other)
{
    snprintf(out, PATH_BYTES, "%s/%s", root, preferred);
    if (access(out, X_OK)) snprintf(out, PATH_BYTES, "%s%s", root, other);
}

/* One line of /proc/self/cgroup: "id:controllers:/path". Version 1 trees are mounted at
 * root/controllers or root/name; version 2 at root, or at root/unified beside version 1. */
static double read_line_of(const char *root, char *line, const struct reading *r)
{
    line[strcspn(line, "\n")] = 0;
    char *controllers = strchr(line, ':');
    char *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) return 0;
    controllers++;
    *group++ = 0;
    char dir[PATH_BYTES], name[32];
    if (!*controllers) {
        choose_dir(dir, root, "unified", "");
        return walk_up(dir, group, r, true);
    }
    if (!lists(controllers, r->controller)) return 0;
    snprintf(name, sizeof name, "/%s", r->controller);
    choose_dir(dir, root, controllers, name);
    return walk_up(dir, group, r, false);
}

static double read_tree(const char *root, const char *proc_self_cgroup, const struct reading *r)
{
    FILE *f = fopen(proc_self_cgroup, "re");
    if (!f) return 0;
    double v = 0;
    char line[PATH_BYTES];
    while (fgets(line, sizeof line, f))
        v = r->combine(v, read_line_of(root, line, r));
    fclose(f);
    return v;
}

double cpu_cgroup_quota(const char *root, const char *proc_self_cgroup)
{
    return read_tree(root, proc_self_cgroup, &(struct reading){"cpu", v2_quota, v1_quota, smaller});
}

size_t cpu_cgroup_memory(const char *root, const char *proc_self_cgroup)
{
    return (size_t)read_tree(root, proc_self_cgroup,
                             &(struct reading){"memory", v2_memory, v1_memory, smaller});
}

double cpu_cgroup_throttled(const char *root, const char *proc_self_cgroup)
{
    return read_tree(root, proc_self_cgroup,
                     &(struct reading){"cpu", v2_throttled, v1_throttled, sum});
}
