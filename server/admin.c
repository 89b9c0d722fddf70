/* POST /admin/reload: what SIGHUP does to the model, with an answer. Only where keys are asked for: on a daemon
 * without, whoever reaches the port could have it load any directory. */
#include "server/env.h"
#include "server/access.h"
#include "server/loader.h"

struct reload {
    const char *dir; /* in the body; NULL = the same again */
};

static int parse_dir(const struct param *p, const json_t *v, void *out, const struct param_env *env,
                     struct api_error *e)
{
    struct reload *x = out;
    (void)env;
    static const char expected[] = "the path of a model's directory";
    x->dir = param_text(p->name, v, expected, e);
    if (!x->dir) return -1;
    if (*x->dir) return 0;
    return api_fail(e, API_INVALID_VALUE, p->name, "'%s' is empty: expected %s", p->name, expected);
}

static const struct param table[] = {
    {.name = "model", .type = PARAM_CUSTOM, .parse = parse_dir},
};

int reload_start(struct request *r, const json_t *body, struct api_error *e)
{
    struct param_env env = env_of(r);
    struct reload x = {0};
    if (!r->grant.meter)
        return api_fail(e, API_SCOPE, NULL,
                        "a model is reloaded for keys with the scope admin only, and this server "
                        "asks for no keys");
    int rc = params_parse(body, table, sizeof table / sizeof *table, &x, &env, e);
    if (rc) return rc;
    if (loader_reload(r->srv->loader, x.dir, r)) return 0;
    return api_fail(e, API_RELOAD_BUSY, NULL, "a model is being loaded already");
}
