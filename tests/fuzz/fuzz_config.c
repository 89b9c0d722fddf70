/* Any bytes as a configuration file: an error with a message or a configuration within its ranges,
 * which printed and read again is the same. */
#include "config/config.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_round_trip(const struct config *c)
{
    struct buf a = {0}, b = {0};
    struct config again;
    struct err e = {0};
    config_print(c, &a);
    config_defaults(&again);
    if (config_parse_file(&again, a.data, a.len, "printed", &e)) BUG("%s", e.msg);
    config_print(&again, &b);
    if (strcmp(a.data, b.data)) BUG("printed form changed");
    config_release(&again);
    buf_release(&a);
    buf_release(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config c;
    struct err e = {0};
    config_defaults(&c);
    int rc = config_parse_file(&c, (const char *)data, size, "fuzz", &e);
    if (rc != e.code || (rc && !*e.msg)) BUG("code %d, error %d \"%s\"", rc, e.code, e.msg);
    if (c.port < 0 || c.port > 65535 || c.max_batch < 1) BUG("out of range");
    if (!rc) check_round_trip(&c);
    config_release(&c);
    return 0;
}
