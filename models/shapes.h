#ifndef TTMD_MODELS_SHAPES_H
#define TTMD_MODELS_SHAPES_H

#include "engine/base/buf.h"
#include "engine/ttm/shapes_front.h"

/* What `ttm shapes` found for a layer: at each rank the front, and two shapes to compare it with. */
enum { SHAPES_MAX_RANKS = 24 };

struct shapes_rank {
    int rank;
    struct shapes_front front; /* owned; may be empty */
    struct shapes_point low_rank, paper;
    bool has_low_rank, has_paper; /* within the limit */
};

struct shapes_result {
    int in, out;
    size_t limit; /* of parameters */
    struct shapes_rank rank[SHAPES_MAX_RANKS];
    int n;
};

/* shapes_plot -- parameters against multiplications, both relative to dense and on logarithmic axes, as
 * an SVG for light and dark pages, appended to *out. */
void shapes_plot(const struct shapes_result *r, struct buf *out);

#endif
