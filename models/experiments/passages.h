#ifndef TTMD_MODELS_EXPERIMENTS_PASSAGES_H
#define TTMD_MODELS_EXPERIMENTS_PASSAGES_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

enum { PASSAGE_SEED = 8 }; /* shorter passages are not looked for */

/* The longest passage of a sample that is in the text, too. */
struct passage {
    size_t length; /* tokens; 0 when there is none of PASSAGE_SEED tokens */
    size_t sample_at, text_at;
};

/* passages_find -- of every sample the longest passage that it shares with a text.
 *
 *   text     (n_text) token ids; borrowed
 *   samples  (start[n_samples]) token ids, sample i in [start[i], start[i + 1]); borrowed
 *   stop     looked at now and then: when it becomes 1, what has been found so far is all; may be NULL
 *   out      (n_samples); sample_at counts from the sample's beginning
 *
 * Cost  O(n_text) and what the passages found are long; memory of the size of the samples.
 */
void passages_find(const int32_t *text, size_t n_text, const int32_t *samples, const size_t *start,
                   size_t n_samples, const volatile sig_atomic_t *stop, struct passage *out);

#endif
