/* The map of the daemon: one line per endpoint. Everything that depends on the endpoint (methods, whether
 * it needs the model, its handlers, its name in metrics) is read from here. */
#include "server/routes.h"

#include <string.h>

const struct route routes[] = {
    {.path = "/v1/completions",
     .label = "completions",
     .post = true,
     .needs_model = true,
     .start = completions_start,
     .spec = completions_spec,
     .progress = completions_progress,
     .pull = completions_pull,
     .release = completions_release},
    {.path = "/v1/perplexity",
     .label = "perplexity",
     .post = true,
     .needs_model = true,
     .start = perplexity_start,
     .spec = perplexity_spec,
     .progress = perplexity_progress,
     .release = perplexity_release},
    {.path = "/v1/loglikelihood",
     .label = "loglikelihood",
     .post = true,
     .needs_model = true,
     .start = loglikelihood_start,
     .spec = loglikelihood_spec,
     .progress = loglikelihood_progress,
     .release = loglikelihood_release},
    {.path = "/tokenize",
     .label = "tokenize",
     .post = true,
     .needs_model = true,
     .start = tokenize_start},
    {.path = "/detokenize",
     .label = "detokenize",
     .post = true,
     .needs_model = true,
     .start = detokenize_start},
    {.path = "/tokenizer_info",
     .label = "tokenizer_info",
     .needs_model = true,
     .get = tokenizer_info},
    {.path = "/v1/models", .label = "models", .needs_model = true, .get = models_list},
    {.path = "/v1/models/*", .label = "model", .needs_model = true, .get = models_one},
    {.path = "/livez", .label = "livez", .probe = true, .get = health_livez},
    {.path = "/readyz", .label = "readyz", .probe = true, .get = health_readyz},
    {.path = "/startupz", .label = "startupz", .probe = true, .get = health_startupz},
    {.path = "/health", .label = "health", .probe = true, .get = health_health},
    {.path = "/metrics", .label = "metrics", .probe = true, .get = health_metrics},
    {.path = "/version", .label = "version", .get = health_version},
};
const int n_routes = (int)(sizeof routes / sizeof *routes);

int route_find(const char *path, const char **rest)
{
    *rest = "";
    for (int i = 0; i < n_routes; i++) {
        size_t n = strlen(routes[i].path);
        if (routes[i].path[n - 1] == '*') {
            if (strncmp(path, routes[i].path, n - 1) == 0 && path[n - 1]) {
                *rest = path + n - 1;
                return i;
            }
        } else if (strcmp(path, routes[i].path) == 0) {
            return i;
        }
    }
    return -1;
}
