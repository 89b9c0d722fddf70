/* ttm, the tool that makes, measures and inspects models. Main only finds the subcommand, turns
 * signals into a flag that the commands look at, and results into an exit status: 0, 2 with one line
 * on stderr, or 128 + the signal. A flag, rather than a handler that cleans up, because files may be
 * removed and engines closed only outside a handler; a second signal ends the program at once. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/cpu.h"
#include "engine/base/version.h"
#include "models/options_man.h"
#include "models/tool.h"

enum { STATUS_OK = 0, STATUS_ERROR = 2, STATUS_SIGNAL = 128 };

static volatile sig_atomic_t stop;
static volatile sig_atomic_t stop_signal;

static const struct {
    const char *name;
    tool_command *run;
    const char *about;
} commands[] = {
    {"init", cmd_init, "make a model directory with random weights"},
    {"generate", cmd_generate, "continue a text"},
    {"eval", cmd_eval, "perplexity of a text"},
    {"inspect", cmd_inspect, "what a model directory holds"},
    {"tokenizer", cmd_tokenizer, "train a tokenizer on a text"},
    {"compress", cmd_compress, "turn layers into Tensor-Train matrices"},
    {"round", cmd_round, "bring the ranks of Tensor-Train layers down"},
    {"quantize", cmd_quantize, "write a model with 8-bit weights"},
    {"export", cmd_export, "write a dense model"},
    {"shapes", cmd_shapes, "which shapes a Tensor-Train layer can have"},
    {"train", cmd_train, "train a model, dense or TTM, on a text"},
    {"plot", cmd_plot, "draw the losses of a training run, or a table"},
    {"baseline", cmd_baseline, "bits per byte of an n-gram model"},
    {"overlap", cmd_overlap, "passages that samples of a model share with a text"},
    {"bench", cmd_bench, "speed of a model beside the machine's limits"},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void on_signal(int sig)
{
    stop_signal = sig;
    stop = 1;
}

static void catch_signals(void)
{
    struct sigaction a = {0};
    a.sa_handler = on_signal;
    a.sa_flags = (int)SA_RESETHAND;
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    signal(SIGPIPE,
           SIG_IGN); /* a closed pipe is a write error, not a death with files half made; */
    signal(SIGXFSZ, SIG_IGN); /* and so is a limit on the size of files */
}

/* For commands that an interrupt does not end, only what they are doing. */
static bool resume(void)
{
    if (stop_signal != SIGINT) return false;
    stop = 0;
    stop_signal = 0;
    catch_signals();
    return true;
}

static void print_help(FILE *f)
{
    fputs("usage: ttm COMMAND [flags]\n\ncommands:\n", f);
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(f, "  %-10s %s\n", commands[i].name, commands[i].about);
    fputs("\n`ttm COMMAND --help` lists a command's flags; `ttm --version` prints the version.\n",
          f);
}

/* One part of the manual or the completion: of a command, or of a mode of it. */
static void print_part(const struct tool *t, tool_command *run, const char *mode, const char *word)
{
    struct err err = {0};
    char words[2][32];
    char *argv[3] = {words[0], words[1], NULL};
    snprintf(words[0], sizeof words[0], "%s", mode ? mode : word);
    snprintf(words[1], sizeof words[1], "%s", word);
    if (!mode) argv[1] = NULL;
    run(t, mode ? 2 : 1, argv, &err);
}

static void print_parts(const struct tool *t, bool man)
{
    struct command_name list[N_COMMANDS];
    const char *word = man ? OPTIONS_MAN_WORD : OPTIONS_BASH_WORD;
    for (int i = 0; i < N_COMMANDS; i++)
        list[i] = (struct command_name){commands[i].name, commands[i].about};
    (man ? options_man_head : options_bash_head)(list, N_COMMANDS, t->out);
    for (int i = 0; i < N_COMMANDS; i++)
        print_part(t, commands[i].run, NULL, word);
    print_part(t, cmd_bench, "--train", word); /* a mode with flags of its own */
    (man ? options_man_tail : options_bash_tail)(t->out);
}

/* err may be NULL when rc is 0. */
static int finish(const struct tool *t, const char *name, int rc, const struct err *err)
{
    if (rc == 0 && (fflush(t->out) || ferror(t->out))) {
        fprintf(stderr, "ttm %s: cannot write to standard output: %s\n", name, strerror(errno));
        return STATUS_ERROR;
    }
    if (rc == 0) return STATUS_OK;
    if (rc == TOOL_SAID) return STATUS_ERROR;
    fprintf(stderr, "ttm %s: %s\n", name, err->code ? err->msg : err_code_name(rc));
    return stop ? STATUS_SIGNAL + stop_signal : STATUS_ERROR;
}

int main(int argc, char **argv)
{
    struct tool t = {.out = stdout, .log = stderr, .stop = &stop, .resume = resume};
    cpu_detect(&t.cpu);
    cpu_blas_fix(&t.cpu, argv);
    const char *name = argc > 1 ? argv[1] : "";
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
        const char *form = argc == 3 && !strcmp(name, "help") ? argv[2] : "";
        bool man = !strcmp(form, "--man"), bash = !strcmp(form, "--bash");
        if (man || bash)
            print_parts(&t, man);
        else
            print_help(stdout);
        return finish(&t, name, 0, NULL);
    }
    if (!strcmp(name, "--version")) {
        printf("ttm %s %s\n", TTMD_VERSION, TTMD_GIT);
        return finish(&t, name, 0, NULL);
    }
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(name, commands[i].name) != 0) continue;
        struct err err = {0};
        catch_signals();
        int rc = commands[i].run(&t, argc - 2, argv + 2, &err);
        return finish(&t, name, rc, &err);
    }
    if (!*name)
        fputs("ttm: no command given; see ttm --help\n", stderr);
    else
        fprintf(stderr, "ttm: unknown command \"%.64s\"; see ttm --help\n", name);
    return STATUS_ERROR;
}
