/* ttmd(1) and its bash completion, from the table of keys. */
#include <string.h>

#include "config/config_internal.h"
#include "engine/base/man.h"

static void put_key(const struct config_key *k, struct buf *out)
{
    struct buf flag = {0}, text = {0};
    config_key_flag(k, &flag);
    buf_puts(&text, k->help);
    if (*k->initial) buf_printf(&text, " Default: %s.", k->initial);
    man_item(out, flag.data, 0, k->type == CONFIG_BOOL ? NULL : config_key_placeholder(k),
             text.data);
    buf_release(&flag);
    buf_release(&text);
}

void config_man(struct buf *out)
{
    man_head(out, "ttmd", "serve a GPT-2 model over HTTP");
    man_section(out, "SYNOPSIS");
    man_paragraph(out, "ttmd --model DIR [--flag value | --flag=value]...");
    man_section(out, "DESCRIPTION");
    man_paragraph(
        out,
        "ttmd serves completions and exact scores of one GPT-2 model, dense or with "
        "Tensor-Train layers, from a directory in Hugging Face layout. Its routes are "
        "described at /openapi.json; / is a page for people; /metrics is for Prometheus.");
    man_section(out, "OPTIONS");
    for (const struct config_flag *f = config_flags; f < config_flags + config_n_flags; f++)
        if (!f->hidden) man_item(out, f->name, f->letter, f->value, f->help);
    for (size_t i = 0; i < config_n_keys; i++)
        put_key(&config_keys[i], out);
    man_paragraph(
        out,
        "Bytes take the suffixes KiB, MiB and GiB. A switch such as --strict is undone by "
        "--no-strict or --strict=false.");
    man_section(out, "ENVIRONMENT");
    man_paragraph(out,
                  "Flag --max-batch is also variable TTMD_MAX_BATCH and key max_batch of the file, "
                  "which TTMD_CONFIG names, too. Flags win over variables, these over the file, "
                  "that over the defaults. Unknown names are errors.");
    man_section(out, "SIGNALS");
    man_paragraph(
        out,
        "SIGTERM and SIGINT drain: /readyz turns to 503; after drain_delay_s new requests are "
        "answered 503, while the port stays open; running ones have drain_timeout_s to end, the "
        "rest is cancelled, and the port closes. A second signal skips the waiting. SIGHUP reads "
        "API keys, certificates and model again.");
    man_section(out, "EXIT STATUS");
    man_paragraph(out,
                  "0 after a signal, 1 when the model or the port cannot be opened, 2 for a wrong "
                  "configuration. With --healthcheck 0 when the daemon is ready, 1 in every other "
                  "case, a wrong configuration included.");
    man_section(out, "EXAMPLES");
    man_example(out, "ttmd --model gpt2 --port 8080 --max-batch 16");
    man_section(out, "SEE ALSO");
    man_paragraph(out, "ttm(1)");
}

void config_bash(struct buf *out)
{
    buf_puts(out,
             "# bash completion for ttmd, written by ttmd --help-bash\n"
             "_ttmd() {\n"
             "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
             "    COMPREPLY=()\n"
             "    case $prev in\n");
    for (const struct config_key *k = config_keys; k < config_keys + config_n_keys; k++) {
        if (!k->choices) continue;
        buf_puts(out, "    ");
        config_key_flag(k, out);
        buf_puts(out, ") COMPREPLY=($(compgen -W \"");
        for (const char *s = k->choices; *s; s++)
            buf_putc(out, *s == '|' ? ' ' : *s);
        buf_puts(out, "\" -- \"$cur\")); return ;;\n");
    }
    buf_puts(out, "    esac\n    [[ $cur == -* ]] || return\n    COMPREPLY=($(compgen -W \"");
    for (const struct config_flag *f = config_flags; f < config_flags + config_n_flags; f++)
        if (!f->hidden) buf_printf(out, "%s ", f->name);
    for (size_t i = 0; i < config_n_keys; i++) {
        config_key_flag(&config_keys[i], out);
        buf_putc(out, ' ');
        if (config_keys[i].type != CONFIG_BOOL || strcmp(config_keys[i].initial, "true")) continue;
        struct buf flag = {0};
        config_key_flag(&config_keys[i], &flag);
        buf_printf(out, "--no-%s ", flag.data + 2);
        buf_release(&flag);
    }
    buf_puts(out, "\" -- \"$cur\"))\n}\ncomplete -o default -F _ttmd ttmd\n");
}
