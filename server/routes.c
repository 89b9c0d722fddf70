/* The map of the daemon: one line per endpoint. Everything that depends on the endpoint (methods, whether
 * it needs the model, its handlers, its name in metrics) is read from here. */
#include "server/routes.h"

#include <string.h>

const struct route routes[] = {
    {.path = "/v1/completions",
     .label = "completions",
     .post = true,
     .scope = SCOPE_COMPLETIONS,
     .needs_model = true,
     .start = completions_start,
     .spec = completions_spec,
     .progress = completions_progress,
     .pull = completions_pull,
     .release = completions_release},
    {.path = "/v1/perplexity",
     .label = "perplexity",
     .post = true,
     .scope = SCOPE_SCORING,
     .needs_model = true,
     .start = perplexity_start,
     .spec = perplexity_spec,
     .progress = perplexity_progress,
     .release = perplexity_release},
    {.path = "/v1/loglikelihood",
     .label = "loglikelihood",
     .post = true,
     .scope = SCOPE_SCORING,
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
    {.path = "/admin/reload",
     .label = "reload",
     .post = true,
     .scope = SCOPE_ADMIN,
     .needs_model = true,
     .start = reload_start},
    {.path = "/livez", .label = "livez", .open = true, .probe = true, .get = health_livez},
    {.path = "/readyz", .label = "readyz", .open = true, .probe = true, .get = health_readyz},
    {.path = "/startupz", .label = "startupz", .open = true, .probe = true, .get = health_startupz},
    {.path = "/health", .label = "health", .probe = true, .get = health_health},
    {.path = "/metrics", .label = "metrics", .probe = true, .get = health_metrics},
    {.path = "/version", .label = "version", .get = health_version},
    {.path = "/v2", .label = "kserve_server", .kserve = true, .get = kserve_server},
    {.path = "/v2/health/live",
     .label = "kserve_live",
     .probe = true,
     .kserve = true,
     .get = kserve_live},
    {.path = "/v2/health/ready",
     .label = "kserve_ready",
     .probe = true,
     .kserve = true,
     .get = kserve_ready},
    {.path = "/v2/models/*/generate",
     .label = "generate",
     .post = true,
     .scope = SCOPE_COMPLETIONS,
     .needs_model = true,
     .kserve = true,
     .start = generate_start,
     .spec = completions_spec,
     .progress = generate_progress,
     .release = completions_release},
    {.path = "/v2/models/*/generate_stream",
     .label = "generate_stream",
     .post = true,
     .scope = SCOPE_COMPLETIONS,
     .needs_model = true,
     .kserve = true,
     .start = generate_stream_start,
     .spec = completions_spec,
     .progress = generate_progress,
     .pull = generate_pull,
     .release = completions_release},
    {.path = "/v2/models/*/ready",
     .label = "kserve_model_ready",
     .probe = true,
     .kserve = true,
     .get = kserve_model_ready},
    {.path = "/v2/models/*", .label = "kserve_model", .kserve = true, .get = kserve_model},
    {.path = "/openapi.json", .label = "openapi", .get = page_openapi},
    {.path = "/", .label = "page", .open = true, .get = page_root},
};
const int n_routes = (int)(sizeof routes / sizeof *routes);

/* Does `pattern` match the whole path? */
static bool matches(const char *pattern, const char *path, const char **rest, size_t *len)
{
    size_t head = strcspn(pattern, "*"), n = strlen(path);
    *rest = path + n;
    *len = 0;
    if (!pattern[head]) return strcmp(pattern, path) == 0;
    const char *tail = pattern + head + 1;
    size_t tail_len = strlen(tail);
    if (n <= head + tail_len || strncmp(path, pattern, head) != 0 ||
        strcmp(path + n - tail_len, tail) != 0)
        return false;
    *rest = path + head;
    *len = n - head - tail_len;
    return true;
}

int route_find(const char *path, const char **rest, size_t *len)
{
    for (int i = 0; i < n_routes; i++)
        if (matches(routes[i].path, path, rest, len)) return i;
    return -1;
}
