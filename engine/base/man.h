#ifndef TTMD_BASE_MAN_H
#define TTMD_BASE_MAN_H

#include "engine/base/buf.h"

/* Pieces of a manual page in roff's man macros, appended to b. Texts are plain: what roff would take for a
 * command or an escape is guarded. */
void man_head(struct buf *b, const char *name, const char *about); /* .TH, NAME; section 1 */
void man_section(struct buf *b, const char *title);
void man_subsection(struct buf *b, const char *title);
void man_paragraph(struct buf *b, const char *text);
void man_example(struct buf *b, const char *line);

/* man_item -- a flag and what it does. letter 0, value NULL or "": none. */
void man_item(struct buf *b, const char *flag, char letter, const char *value, const char *text);

#endif
