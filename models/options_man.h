#ifndef TTMD_MODELS_OPTIONS_MAN_H
#define TTMD_MODELS_OPTIONS_MAN_H

#include "models/options.h"

/* A command's part of ttm(1) and of the bash completion, from its table of options. They are asked for as
 * --help is: a command that is called with the word alone, or behind the flag of one of its modes, prints
 * it and does nothing else. */
#define OPTIONS_MAN_WORD "--help-man"
#define OPTIONS_BASH_WORD "--help-bash"
void options_man(const struct options *o, FILE *f);
void options_bash(const struct options *o, FILE *f);

struct command_name {
    const char *name, *about;
};
/* The frames around them, head and tail. */
void options_man_head(const struct command_name *list, int n, FILE *f);
void options_man_tail(FILE *f);
void options_bash_head(const struct command_name *list, int n, FILE *f);
void options_bash_tail(FILE *f);

#endif
