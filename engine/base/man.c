/* Manual pages are written by the programs themselves, from the tables that parse their flags, because a
 * page kept by hand is wrong after the next change. */
#include "engine/base/man.h"

#include <ctype.h>
#include <stdbool.h>

#include "engine/base/version.h"

/* Plain text: a dash that stays a dash, no escapes, no line that begins with a command. */
static void put(struct buf *b, const char *s)
{
    bool first = true;
    for (; *s; s++) {
        if (first && (*s == '.' || *s == '\'')) buf_puts(b, "\\&");
        first = *s == '\n';
        if (*s == '\\')
            buf_puts(b, "\\e");
        else if (*s == '-')
            buf_puts(b, "\\-");
        else if (*s == '~' || *s == '^')
            buf_printf(b, "\\(%s", *s == '~' ? "ti" : "ha");
        else
            buf_putc(b, *s);
    }
}

void man_head(struct buf *b, const char *name, const char *about)
{
    buf_puts(b, ".TH ");
    for (const char *s = name; *s; s++)
        buf_putc(b, (char)toupper((unsigned char)*s));
    buf_printf(b, " 1 \"\" \"ttmd %s\" \"User commands\"\n.nh\n.SH NAME\n%s \\- ", TTMD_VERSION,
               name);
    put(b, about);
    buf_putc(b, '\n');
}

void man_section(struct buf *b, const char *title)
{
    buf_puts(b, ".SH ");
    put(b, title);
    buf_putc(b, '\n');
}

void man_subsection(struct buf *b, const char *title)
{
    buf_puts(b, ".SS ");
    put(b, title);
    buf_putc(b, '\n');
}

void man_paragraph(struct buf *b, const char *text)
{
    buf_puts(b, ".PP\n");
    put(b, text);
    buf_putc(b, '\n');
}

void man_example(struct buf *b, const char *line)
{
    buf_puts(b, ".PP\n.RS 4\n.nf\n");
    put(b, line);
    buf_puts(b, "\n.fi\n.RE\n");
}

void man_item(struct buf *b, const char *flag, char letter, const char *value, const char *text)
{
    buf_puts(b, ".TP\n\\fB");
    put(b, flag);
    if (letter) buf_printf(b, "\\fR, \\fB\\-%c", letter);
    buf_puts(b, "\\fR");
    if (value && *value) {
        buf_puts(b, " \\fI");
        put(b, value);
        buf_puts(b, "\\fR");
    }
    buf_putc(b, '\n');
    put(b, text);
    buf_putc(b, '\n');
}
