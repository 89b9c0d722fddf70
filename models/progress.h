#ifndef TTMD_MODELS_PROGRESS_H
#define TTMD_MODELS_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* A progress bar: one line that rewrites itself, on a terminal only; elsewhere it is silent. */
struct progress {
    FILE *f;          /* borrowed */
    const char *what; /* borrowed: "writing weights" */
    bool on;          /* f is a terminal */
    uint64_t start_ns, drawn_ns;
};

void progress_start(struct progress *p, FILE *f, const char *what);

/* progress_set -- show fraction 0..1 and `note` ("1234 tokens/s", may be NULL); draws at most ten
 * times a second. */
void progress_set(struct progress *p, double fraction, const char *note);

/* progress_end -- clear the line. */
void progress_end(struct progress *p);

#endif
