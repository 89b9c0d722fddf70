#ifndef TTMD_TESTS_TRAIN_TESTING_H
#define TTMD_TESTS_TRAIN_TESTING_H

/* What the tests of `ttm train` share: texts, a tokenizer, the smallest model's flags, and a log without
 * what the clock put in. */

#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/rng.h"
#include "engine/gpt2/tokenizer_write.h"
#include "tests/models/rewrite_testing.h"

struct train_files {
    const char *data, *valid, *tokenizer;
};

/* Words of a small language, in sentences that can be learnt. */
static inline const char *train_text(uint64_t seed, int sentences)
{
    static const char *const words[3][4] = {{"the cat", "a dog", "the owl", "one hen"},
                                            {"sees", "likes", "hears", "meets"},
                                            {"the moon", "a tree", "the sea", "a hill"}};
    struct buf b = {0};
    for (int i = 0; i < sentences; i++) {
        uint32_t r[4];
        rng_bits(seed, 0, (uint64_t)i, r);
        buf_printf(&b, "%s %s %s.\n%s", words[0][r[0] % 4], words[1][r[1] % 4], words[2][r[2] % 4],
                   i % 8 == 7 ? "<|endoftext|>\n" : "");
    }
    const char *path = path_join(temp_dir(), "text");
    write_file(path, b.data, b.len);
    buf_release(&b);
    return path;
}

static inline struct train_files train_files(void)
{
    static char names[3][1024]; /* path_join's own are few */
    const char *tokenizer = temp_dir();
    ck_assert_int_eq(tokenizer_write_bytes(tokenizer, 300, NULL), 0);
    snprintf(names[0], sizeof names[0], "%s", train_text(1, 60));
    snprintf(names[1], sizeof names[1], "%s", train_text(2, 12));
    snprintf(names[2], sizeof names[2], "%s", tokenizer);
    return (struct train_files){.data = names[0], .valid = names[1], .tokenizer = names[2]};
}

#define TRAIN_TINY                                                                            \
    "--layers", "1", "--channels", "16", "--heads", "2", "--positions", "32", "--batch", "2", \
        "--block", "16", "--threads", "2", "--warmup", "0", "--valid-tokens", "64"

/* log.jsonl of a run, without the rates; the caller's to free(). */
static inline char *train_log(const char *dir)
{
    char *log = read_file(path_join(dir, "log.jsonl"), NULL), *to = log;
    for (const char *from = log; *from;) {
        static const char rate[] = ", \"tokens_per_s\": ";
        if (strncmp(from, rate, sizeof rate - 1) == 0) {
            from += sizeof rate - 1;
            from += strspn(from, "0123456789");
        } else {
            *to++ = *from++;
        }
    }
    *to = 0;
    return log;
}

/* The value of `key` in the k-th line that has it (from 0). */
static inline double train_logged(const char *log, const char *key, int k)
{
    char name[64];
    snprintf(name, sizeof name, "\"%s\": ", key);
    const char *at = log;
    for (int i = 0; i <= k; i++) {
        at = strstr(i ? at + 1 : at, name);
        ck_assert_msg(at != NULL, "%s %d is not in the log:\n%s", key, k, log);
    }
    return strtod(at + strlen(name), NULL);
}

#endif
