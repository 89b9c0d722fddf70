/* ttm generate: continue a text on the terminal. A client of the engine like the daemon, with the same
 * sampling code, so that a prompt and a seed give here what they give there. Choices are computed
 * together and printed one after another, the first of them while it grows. */
#include "models/generate.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "engine/gpt2/tokenizer.h"
#include "models/input.h"
#include "models/options.h"

enum { MAX_CHOICES = 128, DEFAULT_TOKENS = 128 };

#define FIELD(f) offsetof(struct generate_args, f)
static const struct option table[] = {
    {"prompt", 'p', OPTION_STRING, FIELD(prompt), "TEXT", 0, 0, NULL,
     "text to continue (default: end-of-text)"},
    {"prompt-file", 'f', OPTION_STRING, FIELD(prompt_file), "FILE", 0, 0, NULL,
     "the same from a file; - = standard input"},
    {"max-tokens", 0, OPTION_INT, FIELD(max_tokens), "N", 0, 1 << 24, NULL,
     "most tokens to generate (default 128 or what fits)"},
    {"min-tokens", 0, OPTION_INT, FIELD(min_tokens), "N", 0, 1 << 24, NULL,
     "no end before so many (default 0)"},
    {"n", 0, OPTION_INT, FIELD(n), "N", 1, MAX_CHOICES, NULL, "continuations (default 1)"},
    {"temperature", 0, OPTION_NUMBER, FIELD(temperature), "X", 0, 2, NULL,
     "0 = greedy (default 1)"},
    {"top-k", 0, OPTION_INT, FIELD(top_k), "N", 0, 1 << 24, NULL,
     "draw from the k best; 0 = all (default)"},
    {"top-p", 0, OPTION_NUMBER, FIELD(top_p), "X", 0, 1, NULL, "nucleus (default 1)"},
    {"min-p", 0, OPTION_NUMBER, FIELD(min_p), "X", 0, 1, NULL,
     "least share of the best one's probability (default 0)"},
    {"typical-p", 0, OPTION_NUMBER, FIELD(typical_p), "X", 0.000001, 1, NULL,
     "locally typical (default 1)"},
    {"repetition-penalty", 0, OPTION_NUMBER, FIELD(repetition), "X", 0.000001, 100, NULL,
     "divides logits of seen tokens (default 1)"},
    {"presence-penalty", 0, OPTION_NUMBER, FIELD(presence), "X", -2, 2, NULL,
     "subtracted once for a generated token (default 0)"},
    {"frequency-penalty", 0, OPTION_NUMBER, FIELD(frequency), "X", -2, 2, NULL,
     "subtracted for each time (default 0)"},
    {"seed", 0, OPTION_INT, FIELD(seed), "N", 0, 9.2e18, NULL, "of the draws (default: random)"},
    {"stop", 0, OPTION_LIST, FIELD(stop), "S", 0, 0, NULL,
     "end before this text; may be given several times"},
    {"ignore-eos", 0, OPTION_BOOL, FIELD(ignore_eos), NULL, 0, 0, NULL,
     "end-of-text does not end it"},
    {"echo", 0, OPTION_BOOL, FIELD(echo), NULL, 0, 0, NULL, "print the prompt first"},
    {"interactive", 'i', OPTION_BOOL, FIELD(interactive), NULL, 0, 0, NULL,
     "a line is a prompt, an empty one goes on; the default on a terminal without a prompt"},
    {"ids", 0, OPTION_BOOL, FIELD(ids), NULL, 0, 0, NULL, "print token ids instead of text"},
    SESSION_OPTIONS(FIELD(session)),
};
static const struct options options = {
    .command = "generate",
    .arguments = "DIR",
    .n_arguments = 1,
    .about =
        "Continues a text with the model in DIR. The text goes to standard output, a line of\n"
        "figures to standard error. Without a prompt, on a terminal, it asks for one after the\n"
        "other: Ctrl-C stops a text, Ctrl-D leaves.",
    .table = table,
    .n = sizeof table / sizeof *table,
};

static int read_prompt(const struct generate_args *a, struct buf *text, struct err *err)
{
    if (a->prompt && a->prompt_file)
        return err_set(err, ERR_INVALID, "--prompt and --prompt-file are given: one is enough");
    if (a->prompt) buf_puts(text, a->prompt);
    return a->prompt_file ? input_read(a->prompt_file, text, err) : 0;
}

static int encode_prompt(struct session *s, const struct buf *text, struct tokens *tokens,
                         struct err *err)
{
    tokenizer_encode(engine_tokenizer(s->engine), text->data ? text->data : "", text->len, true,
                     tokens);
    if (tokens->n) return 0;
    int32_t eos = engine_info(s->engine)->eos_id;
    if (eos < 0)
        return err_set(err, ERR_INVALID,
                       "the prompt is empty and the model has no end-of-text token");
    tokens_push(tokens, eos);
    return 0;
}

/* A conversation may outgrow the context: its beginning is left out. */
static void keep_end(const struct generate_args *a, struct session *s, struct tokens *prompt)
{
    size_t n_ctx = (size_t)engine_info(s->engine)->n_ctx;
    size_t want = a->max_tokens >= 0 ? (size_t)a->max_tokens : DEFAULT_TOKENS;
    size_t keep = want < n_ctx / 2 ? n_ctx - want : n_ctx - n_ctx / 2;
    if (prompt->n <= keep) return;
    memmove(prompt->ids, prompt->ids + (prompt->n - keep), keep * sizeof *prompt->ids);
    prompt->n = keep;
}

static void fill_spec(const struct generate_args *a, struct session *s, const struct tokens *prompt,
                      size_t *stop_len, struct job_spec *spec)
{
    job_spec_default(spec);
    spec->tokens = prompt->ids;
    spec->n_tokens = prompt->n;
    size_t n_ctx = (size_t)engine_info(s->engine)->n_ctx;
    size_t room = prompt->n < n_ctx ? n_ctx - prompt->n : 0;
    spec->max_tokens = a->max_tokens >= 0      ? (int)a->max_tokens
                       : room < DEFAULT_TOKENS ? (int)room
                                               : DEFAULT_TOKENS;
    spec->min_tokens = (int)a->min_tokens;
    spec->ignore_eos = a->ignore_eos;
    sampling_default(&spec->sampling);
    spec->sampling.temperature = a->temperature;
    spec->sampling.top_k = (int32_t)a->top_k;
    spec->sampling.top_p = a->top_p;
    spec->sampling.min_p = a->min_p;
    spec->sampling.typical_p = a->typical_p;
    spec->sampling.repetition_penalty = a->repetition;
    spec->sampling.presence_penalty = a->presence;
    spec->sampling.frequency_penalty = a->frequency;
    spec->sampling.seed = (uint64_t)a->seed;
    for (size_t i = 0; i < a->stop.n; i++)
        stop_len[i] = strlen(a->stop.items[i]);
    spec->stop = a->stop.items;
    spec->stop_len = stop_len;
    spec->n_stop = a->stop.n;
    spec->notify = session_notify;
    spec->notify_arg = s;
}

/* Prints what is new of one choice until it is done. */
static int follow(const struct tool *t, struct session *s, const struct job *j, bool ids,
                  struct err *err)
{
    size_t shown = 0;
    struct job_view v;
    for (;;) {
        uint64_t seen = session_news(s);
        job_view(j, &v);
        if (ids)
            for (; shown < v.n_tokens; shown++)
                fprintf(t->out, "%s%d", shown ? " " : "", (int)job_tokens(j)[shown].id);
        else if (v.text_len > shown) {
            fwrite(v.text + shown, 1, v.text_len - shown, t->out);
            shown = v.text_len;
        }
        fflush(t->out);
        if (v.done) break;
        if (tool_stopped(t)) break;
        session_wait(s, seen);
    }
    fputc('\n', t->out);
    if (ferror(t->out)) return err_set(err, ERR_IO, "cannot write to standard output");
    return tool_stopped(t) ? tool_interrupted(err) : 0;
}

static const char *finish_name(enum finish f)
{
    return f == FINISH_STOP ? "stop" : f == FINISH_LENGTH ? "length" : "cancelled";
}

static void print_stats(const struct tool *t, struct job *const *jobs, int n, size_t prompt_tokens,
                        int64_t seed)
{
    size_t tokens = 0;
    uint64_t first = 0, admitted = 0, last = 0;
    struct job_view v = {0};
    for (int i = n - 1; i >= 0; i--) { /* ends with the first: its finish is the one shown */
        job_view(jobs[i], &v);
        tokens += v.completion_tokens;
        if (v.done_ns > last) last = v.done_ns;
        if (v.first_token_ns && (!first || v.first_token_ns < first)) first = v.first_token_ns;
        if (v.admitted_ns && (!admitted || v.admitted_ns < admitted)) admitted = v.admitted_ns;
    }
    double prefill = first > admitted ? (double)(first - admitted) / (double)CLOCK_NS_PER_S : 0;
    double decode = first && last > first ? (double)(last - first) / (double)CLOCK_NS_PER_S : 0;
    double after_first = tokens > (size_t)n ? (double)(tokens - (size_t)n) : 0;
    fprintf(t->log, "prompt %zu tokens, %.3f s to the first token; generated %zu tokens",
            prompt_tokens, prefill, tokens);
    if (decode > 0) fprintf(t->log, ", %.1f tokens/s", after_first / decode);
    fprintf(t->log, "; finish %s; seed %lld\n", finish_name(v.finish), (long long)seed);
}

/* Submit all choices and print one after the other. */
static int run(const struct tool *t, struct session *s, const struct generate_args *a,
               const struct buf *text, const struct tokens *prompt, struct buf *said,
               struct err *err)
{
    struct job_spec spec;
    struct job *jobs[MAX_CHOICES];
    struct job_view v;
    size_t stop_len[OPTION_LIST_MAX];
    int n = 0, rc = 0;
    fill_spec(a, s, prompt, stop_len, &spec);
    for (; !rc && n < (int)a->n; n += rc == 0) {
        spec.sampling.stream = (uint64_t)n;
        rc = engine_submit(s->engine, &spec, &jobs[n], err);
    }
    for (int i = 0; !rc && i < n; i++) {
        if (n > 1) fprintf(t->out, "=== %d\n", i);
        if (a->echo && text->len && !a->ids) fwrite(text->data, 1, text->len, t->out);
        rc = follow(t, s, jobs[i], a->ids, err);
    }
    if (rc == 0) print_stats(t, jobs, n, prompt->n, a->seed);
    if (said && n) {
        job_view(jobs[0], &v);
        if (v.text_len) buf_append(said, v.text, v.text_len);
    }
    for (int i = 0; i < n; i++) {
        job_cancel(jobs[i]);
        job_unref(jobs[i]);
    }
    return rc;
}

int generate_once(const struct tool *t, struct session *s, const struct generate_args *given,
                  const struct buf *text, struct buf *said, struct err *err)
{
    struct generate_args a = *given;
    struct tokens prompt = {0};
    if (a.seed < 0) a.seed = (int64_t)(rng_entropy() >> 2);
    int rc = encode_prompt(s, text, &prompt, err);
    if (rc == 0 && a.interactive) keep_end(&a, s, &prompt);
    if (rc == 0) rc = run(t, s, &a, text, &prompt, said, err);
    tokens_release(&prompt);
    return rc;
}

int cmd_generate(const struct tool *t, int argc, char **argv, struct err *err)
{
    struct generate_args a = {.max_tokens = -1,
                              .seed = -1,
                              .n = 1,
                              .temperature = 1,
                              .top_p = 1,
                              .typical_p = 1,
                              .repetition = 1,
                              .session = SESSION_FLAGS_DEFAULT};
    const char *dir;
    int rc = options_parse(&options, &a, &dir, argc, argv, t->out, err);
    if (rc) return rc == OPTIONS_HELP ? 0 : rc;
    bool prompted = a.prompt || a.prompt_file;
    if (prompted && a.interactive)
        return err_set_param(err, ERR_INVALID, "interactive",
                             "--interactive asks for prompts: no --prompt or --prompt-file");
    a.interactive = a.interactive || (!prompted && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO));
    if (a.n > a.session.max_batch) a.session.max_batch = a.n < 32 ? a.n : 32;
    struct session s;
    struct buf text = {0};
    rc = read_prompt(&a, &text, err);
    if (rc) goto out;
    rc = session_open(&s, t, &a.session, dir, err);
    if (rc == 0 && a.interactive)
        rc = generate_loop(t, &s, &a, err);
    else if (rc == 0)
        rc = generate_once(t, &s, &a, &text, NULL, err);
    session_close(&s);
out:
    buf_release(&text);
    return rc;
}
