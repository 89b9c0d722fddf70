#ifndef TTMD_SERVER_ENV_H
#define TTMD_SERVER_ENV_H

#include "server/params.h"
#include "server/request.h"

/* env_of -- what request bodies are checked against now; the model is loaded. */
struct param_env env_of(const struct request *r);

/* env_deadlines -- set the request's deadlines from the configuration and its own timeout_s (0: none);
 * the shorter counts. Before jobs are fed. */
void env_deadlines(struct request *r, double timeout_s);

/* env_fits -- 0, or -1 with API_CONTEXT_LENGTH when n_prompt + max_tokens exceeds the context. */
int env_fits(const struct param_env *env, const char *param, size_t n_prompt, int64_t max_tokens,
             struct api_error *e);

#endif
