#ifndef TTMD_MODELS_COMPRESS_H
#define TTMD_MODELS_COMPRESS_H

#include "engine/ttm/decompose.h"
#include "engine/ttm/shapes_front.h"
#include "models/layers.h"
#include "models/options.h"
#include "models/tool.h"

/* The parts of `ttm compress`: shapes are chosen (compress_shape.c), layers decomposed
 * (compress_layer.c), the result reported (compress_report.c). */

/* How large the cores may be: exactly one of three. */
enum compress_goal { COMPRESS_RANK, COMPRESS_ERROR, COMPRESS_PARAMS };

enum { COMPRESS_CANDIDATES = 2 };

struct compress_layer {
    const struct layer *layer; /* borrowed */
    /* The shapes to choose from, by what they do to this layer: the first, or the better one. */
    struct ttm_shape candidate[COMPRESS_CANDIDATES];
    int n_candidates;
    struct ttm_spectrum spectrum; /* COMPRESS_PARAMS: of the candidate chosen; owned */
    struct ttm_shape shape;       /* COMPRESS_PARAMS: with the ranks that the budget gave */
    const double *moments;        /* (in, in) of the calibration, or NULL; borrowed */

    struct ttm cores;                   /* the result, as it will be read from the file; owned */
    double error;                       /* || W - W' || / || W || of it, measured */
    double output_before, output_after; /* || X (W - W') || / || X W || around the refinement */
    int rc;
    struct err err; /* of this layer's work */
};

struct compress {
    const struct tool *tool;
    const struct layers *from;
    enum compress_goal goal;
    int rank;
    double max_error;
    size_t budget;               /* COMPRESS_PARAMS: parameters of all chosen layers together */
    int dtype;                   /* of the cores written: an enum dtype; -1 = as the weight was */
    int threads;                 /* as cpu_threads() takes it */
    struct compress_layer *list; /* (n) the layers to compress; owned */
    int n;
};

/* compress_shapes -- fill the candidates of every layer.
 *
 *   shapes  the values of --shape: none or "auto"; "paper"; or shapes, of which each layer takes the
 *           first that fits, also with the roles of input and output exchanged
 *
 * Errors  ERR_INVALID naming the flag and the layer.
 */
int compress_shapes(struct compress *c, const struct option_list *shapes, struct err *err);

/* compress_decompose -- do the work: spread the budget, decompose, refine, measure; layers in parallel.
 * Errors  the first of any layer; ERR_SHUTDOWN after a signal. */
int compress_decompose(struct compress *c, struct err *err);

/* compress_report -- a table of the layers, and totals. */
void compress_report(const struct compress *c, FILE *f);

#endif
