#ifndef TTMD_MODELS_PLOT_H
#define TTMD_MODELS_PLOT_H

#include <stdbool.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"

/* plot_table -- points from a table, a curve for each series of several, as an SVG. The table is text of
 * lines with fields between tabs: the first holds the name of the series (not shown) and the labels of the
 * two axes, every other one a point:
 *
 *     series <tab> parameters <tab> perplexity
 *     TTM    <tab> 1.75e6     <tab> 61.2         [<tab> label beside the point]
 *
 *   file          the table; "-" is standard input; borrowed
 *   title         anybody's text; borrowed
 *   log_x, log_y  logarithmic axes; values are then > 0
 *   out           appended to; caller owns
 *
 * Errors  ERR_IO (the file), ERR_INVALID (a line, named by its number, and what was expected); out is as it
 *         was.
 */
struct plot_table_options {
    const char *title;
    bool log_x, log_y;
};
int plot_table(const char *file, const struct plot_table_options *o, struct buf *out,
               struct err *err);

#endif
