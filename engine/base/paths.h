#ifndef TTMD_BASE_PATHS_H
#define TTMD_BASE_PATHS_H

#include <stdbool.h>

#include "engine/base/buf.h"

/* paths_cache -- append the path of a file in this user's cache: $XDG_CACHE_HOME/ttmd/NAME, else
 * $HOME/.cache/ttmd/NAME. Nothing is created. false when neither variable holds an absolute path;
 * *out is then untouched.
 * Source  XDG Base Directory Specification 0.8. */
bool paths_cache(struct buf *out, const char *name);

/* paths_make_parents -- create the directories above `path` that are missing, mode 0700.
 * false when one cannot be made. */
bool paths_make_parents(const char *path);

#endif
