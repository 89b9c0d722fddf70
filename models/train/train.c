/* ttm train: the command. The run itself is trainer's. */
#include <math.h>

#include "models/train/trainer.h"

static void introduce(const struct trainer *r)
{
    FILE *f = r->tool->log;
    char total[48] = "";
    fprintf(f, "%zu parameters (%zu in matrix products), %zu MB of activations, %zu tokens of text",
            r->net.params, net_matmul_params(&r->net), backprop_bytes(r->backprop) >> 20,
            source_tokens(&r->source));
    if (r->source.task) fprintf(f, " in %zu items", r->source.items.n);
    if (r->source.items.cut) fprintf(f, ", %zu of them cut", r->source.items.cut);
    if (r->parallel.size > 1) fprintf(f, ", %d processes", r->parallel.size);
    if (r->total_steps)
        snprintf(total, sizeof total, " of %llu", (unsigned long long)r->total_steps);
    fprintf(f, "; from step %llu%s\n", (unsigned long long)r->state.step, total);
}

int cmd_train(const struct tool *t, int argc, char **argv, struct err *err)
{
    struct train_args a;
    struct trainer r;
    int rc = train_options_parse(&a, argc, argv, t->out, err);
    if (rc) return rc == OPTIONS_HELP ? 0 : rc;
    rc = trainer_open(&r, t, &a, err);
    if (!rc) {
        introduce(&r);
        rc = trainer_run(&r, err);
    }
    if (!rc && isfinite(r.state.best)) {
        fprintf(r.tool->log, "best validation loss %.4f, ", r.state.best);
        if (!r.source.task) fprintf(r.tool->log, "perplexity %.2f, ", exp(r.state.best));
        fprintf(r.tool->log, "at step %llu\n", (unsigned long long)r.state.best_step);
    }
    if (rc && !parallel_writes(&r.parallel)) rc = TOOL_SAID;
    trainer_close(&r);
    return rc;
}
