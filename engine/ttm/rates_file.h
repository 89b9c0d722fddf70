#ifndef TTMD_TTM_RATES_FILE_H
#define TTMD_TTM_RATES_FILE_H

#include "engine/base/cpu.h"
#include "engine/ttm/ttm_linear.h"

/* The machine's rates, kept in a small text file from one start to the next: a start takes no time
 * for measuring, and plans, hence the last bits of answers, stay what they were.
 *
 *     ttmd rates 3
 *     machine AMD EPYC, avx512, 2 threads, F32
 *     flops_few 4.2e+10
 *     ...
 */

/* ttm_rates_get -- read the file, or measure and write it.
 *
 *   path     NULL = measure and keep nothing
 *   t        of the weights
 *   machine  what the rates belong to, one line: a file of another machine is measured anew
 *   found    set to whether the file had them; may be NULL
 *
 * A file that cannot be read, is damaged or cannot be written is no error: it is measured anew, and
 * written if that is possible.
 * Errors  those of ttm_rates_measure().
 */
int ttm_rates_get(struct ttm_rates *out, enum dtype t, const struct compute *c, const char *path,
                  const char *machine, bool *found, struct err *err);

/* ttm_rates_machine -- append what rates of weights of type t belong to: "AMD EPYC, avx512, 2 threads, F32",
 * or "..., avx512+amx, 2 threads, I8".
 * ttm_rates_path -- append where they are kept by default: rates-avx512-2-F32 in the user's cache; false
 * when there is no such place (paths.h). */
void ttm_rates_machine(struct buf *out, const struct cpu *cpu, const struct compute *c,
                       enum dtype t);
bool ttm_rates_path(struct buf *out, const struct compute *c, enum dtype t);

/* ttm_rates_parse -- the contents of such a file; for ttm_rates_get(), tests and the fuzzer.
 * Errors  ERR_INVALID: another machine, a missing, unknown or impossible value. *out untouched. */
int ttm_rates_parse(struct ttm_rates *out, const char *text, size_t len, const char *machine,
                    struct err *err);
void ttm_rates_format(const struct ttm_rates *r, const char *machine, struct buf *out);

#endif
