#ifndef TTMD_SERVER_PAGE_H
#define TTMD_SERVER_PAGE_H

#include <stddef.h>

struct header {
    const char *name, *value;
};

/* Headers of the page for people and of the API's description, made once from what is embedded. */
struct page {
    char policy[512]; /* Content-Security-Policy: the page's own script and style by their hashes */
    char page_etag[24], openapi_etag[24];
    struct header page_headers[8], openapi_headers[4];
    size_t n_page_headers, n_openapi_headers;
};
void page_init(struct page *p);

#endif
