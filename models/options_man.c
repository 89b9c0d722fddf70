/* ttm(1) and its bash completion. Each command's table of options is its own, so the whole is put together
 * by calling the commands one after the other. */
#include "models/options_man.h"

#include <string.h>

#include "engine/base/man.h"

static void flush(struct buf *b, FILE *f)
{
    if (b->len) fwrite(b->data, 1, b->len, f);
    buf_release(b);
}

static const char *value_of(const struct option *op)
{
    return op->choices ? op->choices : op->value;
}

void options_man(const struct options *o, FILE *f)
{
    struct buf b = {0}, line = {0};
    buf_printf(&line, "ttm %s%s%s [flags]", o->command, *o->arguments ? " " : "", o->arguments);
    man_subsection(&b, line.data);
    man_paragraph(&b, o->about);
    for (size_t i = 0; i < o->n; i++) {
        const struct option *op = &o->table[i];
        buf_clear(&line);
        buf_printf(&line, "--%s", op->name);
        man_item(&b, line.data, op->letter, op->type == OPTION_BOOL ? NULL : value_of(op),
                 op->help);
    }
    buf_release(&line);
    flush(&b, f);
}

void options_man_head(const struct command_name *list, int n, FILE *f)
{
    struct buf b = {0};
    man_head(&b, "ttm", "make, measure and inspect GPT-2 models with Tensor-Train layers");
    man_section(&b, "SYNOPSIS");
    man_paragraph(&b, "ttm COMMAND [flags]");
    man_section(&b, "DESCRIPTION");
    man_paragraph(&b,
                  "Models are directories in Hugging Face layout: config.json, safetensors, the "
                  "tokenizer's files. Commands read them and write new ones, never in place.");
    for (int i = 0; i < n; i++)
        man_item(&b, list[i].name, 0, NULL, list[i].about);
    man_section(&b, "COMMANDS");
    flush(&b, f);
}

void options_man_tail(FILE *f)
{
    struct buf b = {0};
    man_section(&b, "EXIT STATUS");
    man_paragraph(
        &b,
        "0; 2 with one line on standard error for any failure; 128 and the signal's number "
        "after SIGINT or SIGTERM, when nothing half made is left behind.");
    man_section(&b, "SEE ALSO");
    man_paragraph(&b, "ttmd(1)");
    flush(&b, f);
}

/* ---- bash ---- */

void options_bash_head(const struct command_name *list, int n, FILE *f)
{
    fputs(
        "# bash completion for ttm, written by ttm help --bash\n"
        "_ttm() {\n"
        "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} flags=\n"
        "    COMPREPLY=()\n"
        "    if [ \"$COMP_CWORD\" = 1 ]; then\n"
        "        COMPREPLY=($(compgen -W \"",
        f);
    for (int i = 0; i < n; i++)
        fprintf(f, "%s ", list[i].name);
    fputs(
        "help --help --version\" -- \"$cur\"))\n        return\n    fi\n"
        "    case ${COMP_WORDS[1]} in\n",
        f);
}

void options_bash(const struct options *o, FILE *f)
{
    int n = (int)strcspn(o->command, " "); /* a mode's flags are its command's */
    fprintf(f, "    %.*s)\n        flags=\"$flags", n, o->command);
    for (size_t i = 0; i < o->n; i++)
        fprintf(f, " --%s", o->table[i].name);
    fputs(" --help\"\n        case $prev in\n", f);
    for (size_t i = 0; i < o->n; i++) {
        const struct option *op = &o->table[i];
        if (!op->choices) continue;
        fprintf(f, "        --%s) COMPREPLY=($(compgen -W \"", op->name);
        for (const char *s = op->choices; *s; s++)
            fputc(*s == '|' ? ' ' : *s, f);
        fputs("\" -- \"$cur\")); return ;;\n", f);
    }
    fputs("        esac ;;&\n", f);
}

void options_bash_tail(FILE *f)
{
    fputs(
        "    esac\n"
        "    [[ $cur == -* ]] && COMPREPLY=($(compgen -W \"$flags\" -- \"$cur\"))\n"
        "    return 0\n"
        "}\n"
        "complete -o default -F _ttm ttm\n",
        f);
}
