#ifndef TTMD_TESTS_DAEMON_H
#define TTMD_TESTS_DAEMON_H

#include <sys/types.h>

/* A running ttmd, for tests. It dies with the test program. */
struct daemon {
    pid_t pid;  /* 0 once it has ended */
    int status; /* of its end, as from waitpid() */
    int port;
    char log[256]; /* file of its standard error */
};

/* daemon_spawn -- start ttmd on a free port; flags are further arguments, ended by NULL. Waits for the
 * port, not for the model. */
void daemon_spawn(struct daemon *d, const char *model, const char *const *flags);
/* daemon_start -- the same, and wait until it is ready. */
void daemon_start(struct daemon *d, const char *model, const char *const *flags);
/* daemon_wait -- wait for its end; returns the exit status, -signal when it was killed, and fails the
 * test when it takes longer than timeout_ms. */
int daemon_wait(struct daemon *d, int timeout_ms);
/* daemon_stop -- SIGTERM, and expect exit status 0. */
void daemon_stop(struct daemon *d);
/* daemon_peak_bytes -- the most memory that it has had resident. */
double daemon_peak_bytes(const struct daemon *d);
/* daemon_log_has -- whether the log holds the text. */
int daemon_log_has(const struct daemon *d, const char *text);

/* Model directories with random weights and a synthetic tokenizer, made on the first call. The
 * tiny one (64 positions, 512 tokens) answers at once; the slow one (2048 positions) needs seconds for
 * a long text with DAEMON_SLOW flags. */
const char *daemon_tiny_model(void);
const char *daemon_slow_model(void);
/* The tiny one with TTM layers throughout; ranks 6 are more than what exact rounding leaves. */
const char *daemon_ttm_model(void);
#define DAEMON_SLOW "--kernels", "scalar", "--threads", "1", "--prefill-chunk-tokens", "8"

/* The id of "<|endoftext|>" in both. */
enum { DAEMON_VOCAB = 512, DAEMON_EOS = 511 };

#endif
