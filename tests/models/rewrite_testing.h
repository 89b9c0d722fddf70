#ifndef TTMD_TESTS_REWRITE_TESTING_H
#define TTMD_TESTS_REWRITE_TESTING_H

/* What the tests of commands that rewrite a model share: comparing directories. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gpt2/tokenizer_write.h"
#include "models/layers.h"
#include "tests/support/harness.h"
#include "tests/support/make_model.h"
#include "tests/support/tool_call.h"

static inline void open_layers(struct layers *l, const char *dir)
{
    struct err err = {0};
    ck_assert_msg(layers_open(l, dir, &err) == 0, "%s", err.msg);
}

static inline float *dense_weight(const struct layer *x)
{
    struct err err = {0};
    float *w = NULL;
    ck_assert_msg(layers_dense(&w, x, &err) == 0, "%s", err.msg);
    return w;
}

/* || a - b || / || b || of layer i in two models. */
static inline double layer_distance(const struct layers *a, const struct layers *b, size_t i)
{
    float *x = dense_weight(&a->layer[i]), *y = dense_weight(&b->layer[i]);
    double lost = 0, norm = 0;
    for (size_t k = 0; k < (size_t)b->layer[i].in * (size_t)b->layer[i].out; k++) {
        lost += ((double)x[k] - (double)y[k]) * ((double)x[k] - (double)y[k]);
        norm += (double)y[k] * (double)y[k];
    }
    free(x);
    free(y);
    return sqrt(lost / norm);
}

/* Every tensor that is no layer's weight is in both, byte for byte. */
static inline void same_others(const struct layers *a, const struct layers *b)
{
    for (size_t i = 0; i < st_count(a->set); i++) {
        const struct st_tensor *t = st_at(a->set, i), *u = st_find(b->set, t->name);
        if (a->of[i]) continue;
        ck_assert_msg(u != NULL, "%s is missing", t->name);
        ck_assert_int_eq(t->dtype, u->dtype);
        ck_assert_int_eq(t->n_dims, u->n_dims);
        ck_assert_uint_eq(t->bytes, u->bytes);
        ck_assert_msg(memcmp(t->data, u->data, t->bytes) == 0, "%s differs", t->name);
    }
}

static inline bool same_file(const char *a, const char *b, const char *name)
{
    size_t na, nb;
    char *x = read_file(path_join(a, name), &na), *y = read_file(path_join(b, name), &nb);
    bool same = na == nb && memcmp(x, y, na) == 0;
    free(x);
    free(y);
    return same;
}

/* A command that finds the stop flag set says so and prints nothing. */
static inline void gives_up(tool_command *command, const char *const *args)
{
    static const volatile sig_atomic_t stop = 1;
    char *out, *argv[16];
    size_t len;
    int argc = 0;
    struct err err = {0};
    struct tool t = {.out = open_memstream(&out, &len), .log = stderr, .stop = &stop};
    cpu_detect(&t.cpu);
    for (; args[argc]; argc++)
        argv[argc] = strdup(args[argc]);
    ck_assert_int_eq(command(&t, argc, argv, &err), ERR_SHUTDOWN);
    ck_assert_str_eq(err.msg, "interrupted");
    fclose(t.out);
    ck_assert_str_eq(out, "");
    free(out);
    while (argc)
        free(argv[--argc]);
}

/* A model with a tokenizer of bytes, in DIR/name. */
static inline const char *new_model(const char *name, struct make_model m)
{
    const char *dir = path_join(temp_dir(), name);
    struct err err = {0};
    char command[2048];
    snprintf(command, sizeof command, "mkdir -p %s", dir);
    ck_assert_int_eq(system(command), 0);
    if (!m.vocab) m.vocab = 300;
    make_model(dir, &m);
    ck_assert_msg(tokenizer_write_bytes(dir, m.vocab, &err) == 0, "%s", err.msg);
    return dir;
}

#endif
