/* ttm tokenizer train: a byte-level BPE tokenizer from a text. Three steps, each in a file of its own:
 * count the words (word_count.c), learn the merges (bpe_train.c), write the files
 * (engine/gpt2/tokenizer_write.c).
 *
 * Ids are as in GPT-2's own vocabulary: the 256 bytes, the products of the merges in their order, and
 * "<|endoftext|>" last. A text that does not yield as many tokens as were asked for is an error and not a
 * smaller vocabulary: the number is about to be written into a model's configuration. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/gpt2/tokenizer_write.h"
#include "models/input.h"
#include "models/options.h"
#include "models/outdir.h"
#include "models/progress.h"
#include "models/tokenizer/bpe_train.h"
#include "models/tokenizer/word_count.h"
#include "models/tool.h"

#define EOS "<|endoftext|>"
enum { N_BYTES = 256, MAX_VOCAB = 1 << 24 };

struct train_args {
    const char *data, *out;
    int64_t vocab, threads;
    bool force;
};
#define FIELD(f) offsetof(struct train_args, f)
static const struct option table[] = {
    {"data", 0, OPTION_STRING, FIELD(data), "FILE", 0, 0, NULL,
     "text, UTF-8, documents separated by a line " EOS "; - = standard input (required)"},
    {"vocab", 0, OPTION_INT, FIELD(vocab), "N", N_BYTES + 1, MAX_VOCAB, NULL,
     "tokens, with the 256 bytes and " EOS " (required)"},
    {"threads", 0, OPTION_INT, FIELD(threads), "N", 0, 1024, NULL, "0 = all that may be used"},
    {"force", 0, OPTION_BOOL, FIELD(force), NULL, 0, 0, NULL, "replace a tokenizer that is there"},
    {"out", 'o', OPTION_STRING, FIELD(out), "DIR", 0, 0, NULL, "where to write it (required)"},
};
static const struct options options = {
    .command = "tokenizer",
    .arguments = "train",
    .n_arguments = 1,
    .about =
        "Trains a byte-level BPE tokenizer, with GPT-2's splitting, on a text: tokenizer.json,\n"
        "vocab.json and merges.txt, as Hugging Face's libraries read them. The result does not\n"
        "depend on the number of threads.",
    .table = table,
    .n = sizeof table / sizeof *table,
};
static const char *const files[] = {"tokenizer.json", "vocab.json", "merges.txt", NULL};

struct train {
    const struct tool *tool;
    struct progress bar;
    int32_t n_tokens; /* to learn, without the special one */
};

static bool on_merge(void *arg, int32_t n_tokens)
{
    struct train *t = arg;
    progress_set(&t->bar, (double)n_tokens / (double)t->n_tokens, NULL);
    return !tool_stopped(t->tool);
}

static int learn(struct train *t, const struct train_args *a, const struct word_table *words,
                 struct bpe_vocab *v, struct err *err)
{
    progress_start(&t->bar, t->tool->log, "merging");
    bpe_train(v, words->words, words->n, t->n_tokens, on_merge, t);
    progress_end(&t->bar);
    if (tool_stopped(t->tool)) return tool_interrupted(err);
    if (v->n_tokens < t->n_tokens)
        return err_set_param(err, ERR_INVALID, "vocab",
                             "--vocab: %s has %zu different words, which give at most %d tokens, "
                             "not %lld",
                             a->data, words->n, (int)v->n_tokens + 1, (long long)a->vocab);
    return 0;
}

static int write_files(const struct bpe_vocab *v, const char *dir, struct err *err)
{
    int32_t n = v->n_tokens + 1;
    struct tokenizer_part_token *tokens = mem_calloc((size_t)n, sizeof *tokens);
    for (int32_t i = 0; i < v->n_tokens; i++)
        tokens[i] = (struct tokenizer_part_token){v->tokens[i].p, v->tokens[i].len, false};
    tokens[n - 1] = (struct tokenizer_part_token){EOS, sizeof EOS - 1, true};
    struct tokenizer_parts parts = {tokens, n, v->merges, v->n_merges};
    int rc = tokenizer_write(dir, &parts, err);
    free(tokens);
    return rc;
}

static int count(const struct tool *t, const struct train_args *a, const struct buf *text,
                 struct word_table *words, struct err *err)
{
    struct pool *pool = NULL;
    int rc = pool_new(&pool, cpu_threads(&t->cpu, (int)a->threads), err);
    if (rc) return rc;
    word_count(words, text->data, text->len, pool, t->stop);
    pool_free(pool);
    return tool_stopped(t) ? tool_interrupted(err) : 0;
}

static void report(const struct tool *t, const struct word_table *words, const struct bpe_vocab *v,
                   const char *path, size_t bytes, double seconds)
{
    fprintf(
        t->log,
        "%s: %d tokens, %zu merges, from %llu words, %zu different; %.3f bytes per token of %zu "
        "bytes; %.1f s\n",
        path, (int)v->n_tokens + 1, v->n_merges, (unsigned long long)words->total, words->n,
        v->encoded_tokens ? (double)bytes / (double)v->encoded_tokens : 0.0, bytes, seconds);
}

static int train(const struct tool *tool, const struct train_args *a, const struct buf *text,
                 const struct outdir *o, struct err *err)
{
    uint64_t start = clock_ns();
    struct train t = {.tool = tool, .n_tokens = (int32_t)a->vocab - 1};
    struct word_table words = {0};
    struct bpe_vocab v = {0};
    int rc = count(tool, a, text, &words, err);
    if (rc == 0) rc = learn(&t, a, &words, &v, err);
    if (rc == 0) rc = write_files(&v, o->tmp, err);
    if (rc == 0)
        report(tool, &words, &v, o->path, text->len,
               (double)(clock_ns() - start) / (double)CLOCK_NS_PER_S);
    bpe_vocab_release(&v);
    word_table_release(&words);
    return rc;
}

static int check_args(const struct train_args *a, const char *verb, struct err *err)
{
    if (strcmp(verb, "train") != 0)
        return err_set(err, ERR_INVALID, "\"%.80s\" is not a command of tokenizer: expected train",
                       verb);
    if (!a->data)
        return err_set_param(err, ERR_MISSING, "data", "--data is missing: the text to train on");
    if (!a->vocab)
        return err_set_param(err, ERR_MISSING, "vocab", "--vocab is missing: how many tokens");
    if (!a->out) return err_set_param(err, ERR_MISSING, "out", "--out is missing: where to write");
    return 0;
}

int cmd_tokenizer(const struct tool *t, int argc, char **argv, struct err *err)
{
    struct train_args a = {0};
    struct buf text = {0};
    struct outdir o;
    const char *verb;
    int rc = options_parse(&options, &a, &verb, argc, argv, t->out, err);
    if (rc) return rc == OPTIONS_HELP ? 0 : rc;
    rc = check_args(&a, verb, err);
    if (rc == 0) rc = outdir_begin_only(&o, a.out, files, a.force, err);
    if (rc) return rc;
    rc = input_read(a.data, &text, err);
    if (rc == 0 && text.len == 0) rc = err_set(err, ERR_INVALID, "%s is empty", a.data);
    if (rc == 0) rc = input_check_utf8(a.data, &text, err);
    if (rc == 0) rc = train(t, &a, &text, &o, err);
    if (rc == 0) rc = outdir_commit(&o, err);
    outdir_abort(&o);
    buf_release(&text);
    return rc;
}
