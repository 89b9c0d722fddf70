/* The table of keys: everything that file, environment, flags, --help, --print-config, the sample
 * file and the README know about configuration comes from here, so that they cannot disagree. */
#include "config/config_internal.h"

#include <ctype.h>
#include <string.h>

#define DAY_S 86400
#define AT(field) offsetof(struct config, field)
#define STRING(f, initial, choices, help)                          \
    {                                                              \
#f, CONFIG_STRING, AT(f), "", initial, 0, 0, choices, help \
    }
#define INT(f, unit, initial, min, max, help)                      \
    {                                                              \
#f, CONFIG_INT, AT(f), unit, initial, min, max, NULL, help \
    }
#define SECONDS(f, initial, min, max, help)                          \
    {                                                                \
#f, CONFIG_NUMBER, AT(f), "s", initial, min, max, NULL, help \
    }
#define BOOL(f, initial, help)                                \
    {                                                         \
#f, CONFIG_BOOL, AT(f), "", initial, 0, 0, NULL, help \
    }

const struct config_key config_keys[] = {
    STRING(model, "", NULL, "Directory of the model in Hugging Face layout; required."),
    STRING(model_id, "", NULL,
           "The model's name in the API; empty means the last component of its directory."),
    STRING(host, "127.0.0.1", NULL,
           "Address to listen on; empty or * means all addresses, IPv6 and IPv4."),
    INT(port, "", "8080", 0, 65535, "TCP port; 0 takes any free one and logs it."),
    INT(threads, "", "0", 0, 1024,
        "Compute threads; 0 means as many as CPU affinity and container quota allow."),
    INT(max_batch, "sequences", "32", 1, 1024, "Sequences computed together."),
    INT(max_queue, "requests", "128", 0, 1000000,
        "Requests that may wait beyond max_batch in work; more are refused with status 429."),
    SECONDS(
        queue_timeout_s, "60", 0, DAY_S,
        "Longest wait in the queue before a request is refused with status 503; 0 means no limit."),
    SECONDS(request_timeout_s, "600", 0, 7 * DAY_S, "Longest life of a request; 0 means no limit."),
    SECONDS(drain_timeout_s, "30", 0, DAY_S,
            "At SIGTERM, time for running requests to finish before they are cancelled."),
    SECONDS(drain_delay_s, "0", 0, DAY_S,
            "At SIGTERM, time between reporting not ready and refusing requests."),
    SECONDS(upload_timeout_s, "30", 0.1, DAY_S, "Longest time for a request's body to arrive."),
    SECONDS(idle_timeout_s, "75", 1, DAY_S,
            "Time after which a connection is closed on which no whole request header has come."),
    SECONDS(write_timeout_s, "60", 0.1, DAY_S,
            "Time without progress after which a client that does not read is disconnected."),
    SECONDS(
        ping_interval_s, "10", 0, DAY_S,
        "Silence after which a stream gets a comment line, so that proxies keep it; 0 means none."),
    INT(max_body_bytes, "bytes", "4194304", 1024, 1073741824, "Largest request body."),
    INT(max_buffered_bytes, "bytes", "67108864", 0, 0x1p50,
        "Bodies of all requests in flight together, the first 16 KiB of each not counted; more are "
        "refused with status 429; one of max_body_bytes always fits."),
    INT(max_prompts, "", "512", 1, 65536, "Prompts in one request."),
    INT(max_total_n, "sequences", "512", 1, 65536,
        "Sequences that one request may ask for: prompts times best_of."),
    INT(logprobs_max, "", "20", 10, 100, "Largest value of logprobs in a request."),
    INT(max_connections, "", "4096", 1, 1000000,
        "Open connections; above nine tenths of them those without a request are closed, the "
        "oldest "
        "first."),
    INT(max_connections_per_address, "", "0", 0, 1000000,
        "Open connections from one address, more are closed; 0 means no limit."),
    STRING(api_keys_file, "", NULL,
           "File of API keys, read again at SIGHUP; empty asks for none. See --new-api-key."),
    BOOL(metrics_open, "false", "Answer /metrics without a key where keys are asked for."),
    STRING(
        cors_origins, "", NULL,
        "Web pages that may read answers, as origins with commas between them, or *; empty means "
        "none but our own."),
    STRING(
        tls_certificate_file, "", NULL,
        "PEM file of the certificate and its chain, read again at SIGHUP; empty means plain HTTP."),
    STRING(tls_key_file, "", NULL, "PEM file of the certificate's key."),
    STRING(tls_client_ca_file, "", NULL,
           "PEM file of the authorities whose certificates clients must have, read again at "
           "SIGHUP; empty asks for none."),
    STRING(dtype, "auto", "auto|f32|bf16|int8",
           "Number format of the weights; auto keeps what the model's file has."),
    STRING(kv_dtype, "auto", "auto|f32|f16|int8",
           "Number format of the KV cache; auto: int8 with int8 weights, else f16."),
    INT(kv_cache_bytes, "bytes", "0", 0, 0x1p50,
        "Size of the KV cache; 0 means enough for max_batch full contexts, at most a quarter of "
        "memory."),
    INT(prefix_cache_bytes, "bytes", "536870912", 0, 0x1p50,
        "What the prefix cache may keep of prompts that nobody is using, within kv_cache_bytes; 0 "
        "turns it off."),
    INT(speculative_tokens, "tokens", "0", 0, 16,
        "Most tokens guessed ahead from the text so far and checked in one step; 0 guesses none. "
        "Answers are the same."),
    INT(prefill_chunk_tokens, "tokens", "256", 1, 65536,
        "Most prompt tokens computed in one step between decode steps."),
    STRING(
        kernels, "auto", "auto|avx512|avx512+avx512vnni|avx2|neon|scalar",
        "Arithmetic kernels; auto takes the fastest that this CPU runs; avx512+avx512vnni leaves "
        "AMX aside."),
    STRING(ttm_execution, "auto", "auto|contract|rebuild|resident",
           "How Tensor-Train layers are applied; auto takes the fastest way for decoding and for "
           "prompts that memory_budget_bytes allows."),
    INT(memory_budget_bytes, "bytes", "0", 0, 0x1p50,
        "Memory for all weights; what is left of it makes Tensor-Train layers faster; 0 keeps them "
        "smaller than dense ones."),
    STRING(calibration_file, "auto", NULL,
           "File that keeps this machine's measured rates, by which Tensor-Train layers are "
           "planned; auto is one in the user's cache, empty measures at every start."),
    BOOL(ui, "true", "Serve the page for people at /."),
    BOOL(strict, "false", "Refuse unknown fields in requests instead of ignoring them."),
    BOOL(log_prompts, "false", "Log the text of prompts."),
    STRING(log_level, "info", "debug|info|warn|error|off", "Least severe events that are logged."),
    STRING(log_format, "text", "text|json", "Form of log lines."),
};
const size_t config_n_keys = sizeof config_keys / sizeof *config_keys;

const struct config_flag config_flags[] = {
    {"--config", 0, "FILE", CONFIG_RUN, false, "JSON file of keys, such as {\"max_batch\": 16}."},
    {"--check-config", 0, NULL, CONFIG_CHECK, false,
     "Check file, environment and flags, then exit."},
    {"--print-config", 0, NULL, CONFIG_PRINT, false,
     "Print the configuration in force, then exit."},
    {"--healthcheck", 0, NULL, CONFIG_HEALTHCHECK, false,
     "Ask the running daemon if it is ready: exit status 0 or 1."},
    {"--new-api-key", 0, "LABEL", CONFIG_RUN, false,
     "Print a line for the file of API keys and, to standard error, the key; then exit. No other "
     "flag goes with it."},
    {"--version", 0, NULL, CONFIG_VERSION, false, "Print the version, then exit."},
    {"--help", 'h', NULL, CONFIG_HELP, false, "Print the flags, then exit."},
    {"--help-markdown", 0, NULL, CONFIG_MARKDOWN, true,
     "Print the table of keys for the README, then exit."},
    {"--help-man", 0, NULL, CONFIG_MAN, true, "Print the manual page, then exit."},
    {"--help-bash", 0, NULL, CONFIG_BASH, true, "Print the completion for bash, then exit."},
};
const size_t config_n_flags = sizeof config_flags / sizeof *config_flags;

static char folded(char c)
{
    return c == '-' ? '_' : (char)tolower((unsigned char)c);
}

const struct config_key *config_key_find(const char *name, size_t len, bool fold)
{
    for (const struct config_key *k = config_keys; k < config_keys + config_n_keys; k++) {
        if (strlen(k->name) != len) continue;
        size_t i = 0;
        while (i < len && (fold ? folded(name[i]) : name[i]) == k->name[i])
            i++;
        if (i == len) return k;
    }
    return NULL;
}

#define NAME_MAX_BYTES 40

/* Edit distance (insert, delete, replace), one row of the table at a time. */
static size_t distance(const char *a, size_t n, const char *b)
{
    size_t m = strlen(b), row[NAME_MAX_BYTES + 1];
    for (size_t j = 0; j <= m; j++)
        row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t above = row[j], best = diagonal + (folded(a[i - 1]) != b[j - 1]);
            if (above + 1 < best) best = above + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
            diagonal = above;
        }
    }
    return row[m];
}

const struct config_key *config_key_nearest(const char *name, size_t len)
{
    const struct config_key *nearest = NULL;
    size_t least = len / 3 + 1; /* more changes than this are another word */
    if (len > NAME_MAX_BYTES) return NULL;
    for (const struct config_key *k = config_keys; k < config_keys + config_n_keys; k++) {
        BUG_ON(strlen(k->name) > NAME_MAX_BYTES);
        size_t d = distance(name, len, k->name);
        if (d > least || (nearest && d == least)) continue;
        least = d;
        nearest = k;
    }
    return nearest;
}

void config_key_flag(const struct config_key *k, struct buf *out)
{
    buf_puts(out, "--");
    for (const char *s = k->name; *s; s++)
        buf_putc(out, *s == '_' ? '-' : *s);
}

void config_key_variable(const struct config_key *k, struct buf *out)
{
    buf_puts(out, "TTMD_");
    for (const char *s = k->name; *s; s++)
        buf_putc(out, (char)toupper((unsigned char)*s));
}

static void expects_choices(const char *choices, struct buf *out)
{
    for (const char *s = choices; *s; s++) {
        if (*s != '|')
            buf_putc(out, *s);
        else
            buf_puts(out, strchr(s + 1, '|') ? ", " : " or ");
    }
}

void config_key_expects(const struct config_key *k, struct buf *out)
{
    switch (k->type) {
    case CONFIG_STRING:
        if (k->choices)
            expects_choices(k->choices, out);
        else
            buf_puts(out, "a text in UTF-8");
        return;
    case CONFIG_BOOL:
        buf_puts(out, "true or false");
        return;
    case CONFIG_INT:
        buf_printf(out, "an integer from %.0f to %.0f", k->min, k->max);
        return;
    case CONFIG_NUMBER:
        buf_printf(out, "a number from %g to %g", k->min, k->max);
        return;
    }
}
