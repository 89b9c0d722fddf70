/* Where does the next parameter buy most? A rank raised by one at a bond adds one singular value to
 * what is kept and costs a slice of the two cores beside the bond. Layers do not depend on each other,
 * bonds of one layer do, twice over: the price of a slice contains the neighbours' ranks, and a rank
 * cannot exceed what its neighbours span, so that around a core of size 1 two bonds can only rise
 * together. Therefore the moves are runs of neighbouring bonds, each raised by one; at most 28 per
 * layer. A layer's best move is remembered until that layer changes or the move no longer fits. */
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/ttm/decompose.h"

struct move {
    int first, last; /* bonds raised; first = 0: none */
    size_t cost;
    double value; /* relative squared error removed per parameter */
};

/* Raise the run by one; false when a rank would exceed its spectrum or its neighbours' span. */
static bool raise_run(struct ttm_shape *s, const struct ttm_spectrum *q, int first, int last)
{
    for (int k = first; k <= last; k++)
        if (++s->r[k] > q->shape.r[k]) return false;
    struct ttm_shape cap = *s;
    ttm_shape_cap_exact(&cap);
    for (int k = 1; k < s->d; k++)
        if (cap.r[k] < s->r[k]) return false;
    return true;
}

static struct move best_move(const struct ttm_shape *s, const struct ttm_spectrum *q, double weight,
                             size_t left)
{
    struct move best = {0};
    size_t now = ttm_shape_params(s);
    double scale = q->norm > 0 ? weight / (q->norm * q->norm) : 0;
    for (int first = 1; first < s->d; first++)
        for (int last = first; last < s->d; last++) {
            struct ttm_shape t = *s;
            if (!raise_run(&t, q, first, last)) continue;
            struct move m = {.first = first, .last = last, .cost = ttm_shape_params(&t) - now};
            double gain = 0;
            for (int k = first; k <= last; k++)
                gain += q->s[k][s->r[k]] * q->s[k][s->r[k]];
            m.value = gain * scale / (double)m.cost;
            if (m.cost <= left && m.value > best.value) best = m;
        }
    return best;
}

static void start(struct ttm_shape *s, const struct ttm_spectrum *q)
{
    *s = q->shape;
    for (int k = 1; k < s->d; k++)
        s->r[k] = 1;
}

int ttm_budget(struct ttm_shape *shape, const struct ttm_spectrum *spectrum, const double *weight,
               int n, size_t params, size_t *used, struct err *err)
{
    size_t spent = 0;
    for (int l = 0; l < n; l++) {
        start(&shape[l], &spectrum[l]);
        spent += ttm_shape_params(&shape[l]);
    }
    if (spent > params)
        return err_set(err, ERR_INVALID,
                       "%zu parameters are too few: ranks of 1 in %d layers already take %zu",
                       params, n, spent);
    struct move *move = mem_calloc((size_t)n, sizeof *move);
    for (int l = 0; l < n; l++)
        move[l] = best_move(&shape[l], &spectrum[l], weight ? weight[l] : 1, params - spent);
    for (;;) {
        int best = -1;
        for (int l = 0; l < n; l++) {
            if (move[l].first && move[l].cost > params - spent)
                move[l] =
                    best_move(&shape[l], &spectrum[l], weight ? weight[l] : 1, params - spent);
            if (move[l].first && (best < 0 || move[l].value > move[best].value)) best = l;
        }
        if (best < 0) break;
        for (int k = move[best].first; k <= move[best].last; k++)
            shape[best].r[k]++;
        spent += move[best].cost;
        move[best] =
            best_move(&shape[best], &spectrum[best], weight ? weight[best] : 1, params - spent);
    }
    free(move);
    if (used) *used = spent;
    return 0;
}
