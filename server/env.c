/* What the endpoints share between the table of a body and the jobs they make of it. */
#include "server/env.h"
#include "server/served.h"

struct param_env env_of(const struct request *r)
{
    struct server *s = r->srv;
    struct engine *e = r->model->engine;
    const struct engine_info *i = engine_info(e);
    return (struct param_env){
        .tokenizer = engine_tokenizer(e),
        .model_id = s->model_id,
        .n_ctx = (size_t)i->n_ctx,
        .vocab = i->vocab_size,
        .eos = i->eos_id,
        .max_prompts = s->cfg->max_prompts,
        .max_total_n = s->cfg->max_total_n,
        .logprobs_max = s->cfg->logprobs_max,
        .strict = s->cfg->strict || r->strict,
    };
}

static uint64_t after(uint64_t start, double seconds)
{
    return seconds > 0 ? start + (uint64_t)(seconds * 1e9) : 0;
}

void env_deadlines(struct request *r, double timeout_s)
{
    const struct config *c = r->srv->cfg;
    double limit = c->request_timeout_s;
    if (timeout_s > 0 && (limit <= 0 || timeout_s < limit)) limit = timeout_s;
    r->deadline_ns = after(r->start_ns, limit);
    r->queue_deadline_ns = after(r->start_ns, c->queue_timeout_s);
}

int env_fits(const struct param_env *env, const char *param, size_t n_prompt, int64_t max_tokens,
             struct api_error *e)
{
    size_t most = (size_t)max_tokens;
    if (n_prompt <= env->n_ctx && most <= env->n_ctx - n_prompt) return 0;
    if (e->code == API_OK) {
        e->n_prompt_tokens = n_prompt;
        e->n_ctx = env->n_ctx;
        e->max_tokens = most;
    }
    return api_fail(e, API_CONTEXT_LENGTH, param,
                    "the prompt has %zu tokens and max_tokens is %zu: together more than the "
                    "context of %zu tokens",
                    n_prompt, most, env->n_ctx);
}
