/* Plain data for those who report and must not compute: behind engine.h nobody knows shapes or plans. */
#include "engine/gpt2/ttm_info.h"

#include <string.h>

#include "engine/gpt2/model.h"

void ttm_info_get(const struct gpt2 *m, int i, struct ttm_info *out)
{
    BUG_ON(i < 0 || i >= m->n_ttm);
    const struct gpt2_ttm *t = &m->ttm[i];
    const struct ttm_shape *s = ttm_linear_shape(t->linear->ttm);
    *out = (struct ttm_info){.in = s->in,
                             .out = s->out,
                             .params = ttm_shape_params(s),
                             .stored_params = ttm_shape_params(&t->stored),
                             .dense_params = ttm_shape_dense(s),
                             .bytes = ttm_linear_bytes(t->linear->ttm)};
    memcpy(out->name, t->name, sizeof out->name);
    ttm_shape_format(s, out->shape);
    ttm_shape_format_ranks(s, out->ranks);
    ttm_shape_format_ranks(&t->stored, out->stored_ranks);
    for (int r = 0; r < TTM_ROLES; r++) {
        const struct ttm_plan *p = ttm_linear_plan(t->linear->ttm, (enum ttm_role)r);
        size_t rows = (size_t)m->ttm_rows[r];
        ttm_plan_format(p, out->plan[r]);
        out->plan_rows[r] = m->ttm_rows[r];
        out->mults[r] =
            (double)ttm_plan_mults(p, rows) / ((double)rows * (double)out->dense_params);
        out->seconds[r] = t->seconds[r];
    }
}
