#ifndef TTMD_RUN_GATE_H
#define TTMD_RUN_GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The output gate: token bytes in, releasable text out. It never lets half a UTF-8 character pass
 * (ill-formed bytes become U+FFFD, as Python's decode(errors="replace") does), never lets any part of
 * a stop string pass, and holds back no more than the longest tail that is a proper prefix of some
 * stop string. One gate serves streamed and whole answers. Storage is sized once: gate_push()
 * allocates nothing. Which stop string ends the text does not depend on how the bytes were split
 * into tokens: the one whose end comes first, the longest of those that end together. */
struct gate {
    char *text;         /* owned; well-formed UTF-8, [0, len) */
    size_t len, cap;    /* bytes */
    size_t released;    /* text[0, released) may be shown; always at a character boundary */
    size_t chars;       /* characters in text[0, len) */
    size_t begin;       /* of the last push: offset of the character that holds its first byte */
    size_t begin_chars; /* the same in characters */
    char tail[4];       /* bytes of an incomplete character */
    size_t tail_len;
    const char *const *stop; /* borrowed until gate_release() */
    const size_t *stop_len;
    size_t n_stop;
    struct gate_match
        *match; /* (n_stop) owned; how far each stop string matches at the end of text */
    bool include_stop;
    bool watch;     /* look for stop strings; text pushed while false is never part of one */
    bool stopped;   /* a stop string was found; len is where the text ends */
    int stop_index; /* which one, -1 none */
};

/* gate_init -- cap_bytes: room for the raw bytes to come; U+FFFD may triple them, the gate accounts
 * for that itself. stop strings are non-empty. watch is set. */
void gate_init(struct gate *g, size_t cap_bytes, const char *const *stop, const size_t *stop_len,
               size_t n_stop, bool include_stop);
void gate_release(struct gate *g);

/* gate_push -- add a token's bytes. Returns true when a stop string is complete: text is cut before it
 * (after it when include_stop) and everything left is released. Nothing may be pushed after that. */
bool gate_push(struct gate *g, const char *bytes, size_t len);

/* gate_finish -- the end came without a stop string: an incomplete character becomes U+FFFD and all
 * that was held back is released. (That U+FFFD may itself complete a stop string: then as above.)
 * Does nothing once stopped. */
void gate_finish(struct gate *g);

#endif
