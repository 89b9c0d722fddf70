#ifndef TTMD_TESTS_SERVER_FIXTURE_H
#define TTMD_TESTS_SERVER_FIXTURE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/daemon.h"
#include "tests/support/harness.h"
#include "tests/support/httpc.h"

/* One daemon on the tiny model for all tests of a program: an unchecked fixture. */
static struct daemon srv;

static inline void server_up(void)
{
    daemon_start(&srv, daemon_tiny_model(), NULL);
}

static inline void server_down(void)
{
    daemon_stop(&srv);
}

static inline TCase *server_case(Suite *s, const char *name)
{
    TCase *t = tcase_create(name);
    tcase_add_unchecked_fixture(t, server_up, server_down);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    return t;
}

/* "[1,2,3]" of n ids that repeat none of their neighbours; freed by the caller. */
static inline char *ids_json(size_t n, unsigned salt)
{
    struct buf b = {0};
    buf_putc(&b, '[');
    for (size_t i = 0; i < n; i++)
        buf_printf(&b, i ? ",%u" : "%u", (unsigned)((i * 37 + 11 * salt + 5) % 500));
    buf_putc(&b, ']');
    return buf_take(&b);
}

#endif
