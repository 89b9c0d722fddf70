#ifndef TTMD_RUN_DRAFT_H
#define TTMD_RUN_DRAFT_H

#include <stddef.h>
#include <stdint.h>

/* Guesses at how a text goes on, from the text itself: where its last words occurred before, the same
 * is likely to follow (prompt-lookup decoding). The scheduler has several guesses checked in one step;
 * a wrong one costs a row of that step, never a token. */
struct draft; /* owned by the sequence; sized at creation, allocates nothing later */

/* draft_new -- a text of n tokens (copied) that may grow by max_new. */
struct draft *draft_new(const int32_t *tokens, size_t n, size_t max_new);
void draft_free(struct draft *d); /* d may be NULL */

/* draft_add -- the text has one token more. */
void draft_add(struct draft *d, int32_t id);

/* draft_propose -- out[0..most) = the tokens that followed the latest earlier occurrence of the last
 * three tokens, or else of the last two; 0 when there is none, otherwise `most`: where the copied
 * place runs into the end of the text, it goes on with the guesses themselves.
 * Cost  constant, and `most` copies. */
int draft_propose(const struct draft *d, int32_t *out, int most);

#endif
