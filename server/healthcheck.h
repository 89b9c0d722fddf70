#ifndef TTMD_SERVER_HEALTHCHECK_H
#define TTMD_SERVER_HEALTHCHECK_H

#include "config/config.h"
#include "engine/base/buf.h"

/* healthcheck_run -- ask the daemon of this configuration whether it is ready (`ttmd --healthcheck`).
 *
 *   out  one line that says what was found, appended
 *
 * Cost    at most HEALTHCHECK_TIMEOUT_S seconds.
 * Errors  the result is an exit status: 0 ready, 1 not ready, no answer, or nobody listens.
 */
#define HEALTHCHECK_TIMEOUT_S 2
int healthcheck_run(const struct config *cfg, struct buf *out);

#endif
