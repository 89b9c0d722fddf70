/* Where a user's files lie. Only what can be made again at any time goes there, so that failing to
 * find or to write a place is never an error. */
#include "engine/base/paths.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/mem.h"

static const char *absolute(const char *variable)
{
    const char *v = getenv(variable);
    return v && *v == '/' ? v : NULL;
}

bool paths_cache(struct buf *out, const char *name)
{
    const char *cache = absolute("XDG_CACHE_HOME"), *home = absolute("HOME");
    if (!cache && !home) return false;
    if (cache)
        buf_printf(out, "%s/ttmd/%s", cache, name);
    else
        buf_printf(out, "%s/.cache/ttmd/%s", home, name);
    return true;
}

bool paths_make_parents(const char *path)
{
    char *p = mem_strdup(path);
    bool ok = true;
    for (char *slash = strchr(p + 1, '/'); ok && slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        ok = mkdir(p, 0700) == 0 || errno == EEXIST;
        *slash = '/';
    }
    free(p);
    return ok;
}
