#ifndef TTMD_SERVER_ASSETS_H
#define TTMD_SERVER_ASSETS_H

#include <stddef.h>

/* A committed file inside the binary. */
struct asset {
    const char *data; /* (len) and a NUL */
    size_t len;
};

struct asset asset_page(void);    /* server/page.html */
struct asset asset_openapi(void); /* server/openapi.json */

#endif
