#ifndef TTMD_MODELS_SVG_H
#define TTMD_MODELS_SVG_H

#include <stdbool.h>

#include "engine/base/buf.h"

/* Plots as SVG files for light and dark pages: a frame with two axes, a title and room for a legend at the
 * right, and the few marks that plots here are made of. Colours and greys are of middle lightness and
 * there is no background, so that the same file reads well on either. Everything is appended to a buf. */
enum {
    SVG_WIDTH = 860,
    SVG_HEIGHT = 560,
    SVG_LEFT = 84,
    SVG_RIGHT = 190, /* the legend's */
    SVG_TOP = 48,
    SVG_BOTTOM = 64
};
#define SVG_GREY "#7f7f7f"

/* Data lo..hi onto pixels from..to. */
struct svg_axis {
    double lo, hi, from, to;
    bool log;          /* logarithmic: 0 < lo */
    const char *label; /* borrowed */
};

struct svg_plot {
    struct buf *out;      /* borrowed */
    struct svg_axis x, y; /* lo, hi, log and label are the caller's; the pixels svg_begin()'s */
};

/* svg_begin -- head, title, axes with ticks and labels. svg_end -- the end of the file. */
void svg_begin(struct svg_plot *p, const char *title);
void svg_end(struct svg_plot *p);

double svg_at(const struct svg_axis *a, double v); /* the pixel of a value */
const char *svg_colour(int i);                     /* of series i; they repeat */

/* Marks, in pixels. `style` is attributes; `words` is text without <, > and &. */
void svg_text(struct buf *b, double x, double y, const char *anchor, const char *style,
              const char *words);
void svg_line(struct buf *b, double x0, double y0, double x1, double y1, const char *style);

/* svg_escape -- anybody's text as text of an SVG: <, > and & written as entities, control characters as
 * spaces; NUL-terminated. */
void svg_escape(struct buf *out, const char *text);

/* svg_number -- "250", "2.5k", "40M", the label of a linear axis. */
void svg_number(char out[24], double v);

#endif
