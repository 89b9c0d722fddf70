/* Progress is for people at a terminal: in a pipe or a log file a line that rewrites itself is
 * noise, so it is silent there. The line is cleared at the end, so that results stand alone. */
#include "models/progress.h"

#include <unistd.h>

#include "engine/base/clock.h"

enum { BAR_CELLS = 30 };

void progress_start(struct progress *p, FILE *f, const char *what)
{
    int fd = fileno(f); /* -1 for a stream in memory */
    *p = (struct progress){
        .f = f, .what = what, .on = fd >= 0 && isatty(fd), .start_ns = clock_ns()};
}

void progress_set(struct progress *p, double fraction, const char *note)
{
    if (!p->on) return;
    uint64_t now = clock_ns();
    if (p->drawn_ns && now - p->drawn_ns < 100 * CLOCK_NS_PER_MS) return;
    p->drawn_ns = now;
    fraction = fraction < 0 ? 0 : fraction > 1 ? 1 : fraction;
    char bar[BAR_CELLS + 1];
    for (int i = 0; i < BAR_CELLS; i++)
        bar[i] = i < (int)(fraction * BAR_CELLS) ? '#' : '.';
    bar[BAR_CELLS] = 0;
    double spent = (double)(now - p->start_ns) / (double)CLOCK_NS_PER_S;
    fprintf(p->f, "\r%s [%s] %3.0f%%", p->what, bar, 100 * fraction);
    if (fraction > 0.01 && spent > 1) fprintf(p->f, " %.0f s left", spent / fraction - spent);
    fprintf(p->f, " %s\x1b[K", note ? note : "");
    fflush(p->f);
}

void progress_end(struct progress *p)
{
    if (p->on && p->drawn_ns) {
        fputs("\r\x1b[K", p->f);
        fflush(p->f);
    }
    p->on = false;
}
