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

#define PATH_BYTES 4096

/* First line of root/group/file; false if it cannot be read. */
static bool read_line(const char *dir, const char *group, const char *file, char *line, int size)
{
    char path[PATH_BYTES];
    int n = snprintf(path, sizeof path, "%s%s/%s", dir, group, file);
    if (n < 0 || n >= (int)sizeof path) return false;
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

/* The smallest positive limit from group up to the root of dir; `group` is consumed. */
static double walk_up(const char *dir, char *group, double (*limit)(const char *, const char *))
{
    double least = 0;
    for (;;) {
        size_t n = strlen(group);
        while (n && group[n - 1] == '/')
            group[--n] = 0;
        double v = limit(dir, group);
        if (v > 0 && (least == 0 || v < least)) least = v;
        if (!n) return least;
        char *slash = strrchr(group, '/');
        if (!slash) return least;
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

static double smaller(double a, double b)
{
    return a == 0 ? b : b == 0 ? a : a < b ? a : b;
}

/* One line of /proc/self/cgroup: "id:controllers:/path". Version 1 trees are mounted at
 * root/controllers and root/name (one a link to the other). */
static double line_limit(const char *root, char *line, const char *name,
                         double (*v2)(const char *, const char *),
                         double (*v1)(const char *, const char *))
{
    line[strcspn(line, "\n")] = 0;
    char *controllers = strchr(line, ':');
    char *path = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!path) return 0;
    controllers++;
    *path++ = 0;
    char dir[PATH_BYTES];
    if (!*controllers) {
        char hybrid[PATH_BYTES];
        snprintf(hybrid, sizeof hybrid, "%s", path);
        snprintf(dir, sizeof dir, "%s/unified", root);
        double a = walk_up(dir, hybrid, v2);
        return smaller(a, walk_up(root, path, v2));
    }
    if (!lists(controllers, name)) return 0;
    char copy[PATH_BYTES];
    snprintf(copy, sizeof copy, "%s", path);
    snprintf(dir, sizeof dir, "%s/%s", root, controllers);
    double a = walk_up(dir, copy, v1);
    snprintf(dir, sizeof dir, "%s/%s", root, name);
    return smaller(a, walk_up(dir, path, v1));
}

static double find_limit(const char *root, const char *proc_self_cgroup, const char *name,
                         double (*v2)(const char *, const char *),
                         double (*v1)(const char *, const char *))
{
    FILE *f = fopen(proc_self_cgroup, "re");
    if (!f) return 0;
    double least = 0;
    char line[PATH_BYTES];
    while (fgets(line, sizeof line, f))
        least = smaller(least, line_limit(root, line, name, v2, v1));
    fclose(f);
    return least;
}

double cpu_cgroup_quota(const char *root, const char *proc_self_cgroup)
{
    return find_limit(root, proc_self_cgroup, "cpu", v2_quota, v1_quota);
}

size_t cpu_cgroup_memory(const char *root, const char *proc_self_cgroup)
{
    return (size_t)find_limit(root, proc_self_cgroup, "memory", v2_memory, v1_memory);
}
