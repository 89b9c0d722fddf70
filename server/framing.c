/* Where a request goes and where it ends must be beyond doubt, or what a proxy takes for one request is two to
 * us, and a path that it lets through is another here. libmicrohttpd takes much as it comes, and its own check
 * for Host answers twice; hence these checks, before anything is decided about a request. */
#include "server/framing.h"

#include <microhttpd.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

static int nibble(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

size_t framing_unescape(void *cls, struct MHD_Connection *conn, char *s)
{
    (void)cls, (void)conn;
    char *to = s;
    for (const char *from = s; *from;) {
        int high = *from == '%' ? nibble(from[1]) : -1;
        int low = high >= 0 ? nibble(from[2]) : -1;
        if (low >= 0 && (high | low)) {
            *to++ = (char)(high << 4 | low);
            from += 3;
        } else {
            *to++ = *from++;
        }
    }
    *to = 0;
    return (size_t)(to - s);
}

const char *framing_path(const char *target)
{
    bool http = strncasecmp(target, "http://", 7) == 0;
    if (!http && strncasecmp(target, "https://", 8) != 0) return target;
    const char *path = strchr(target + (http ? 7 : 8), '/');
    return path ? path : "/";
}

struct counts {
    int hosts, lengths, encodings;
    bool odd_name, odd_length, odd_encoding;
};

static enum MHD_Result count(void *cls, enum MHD_ValueKind kind, const char *name,
                             const char *value)
{
    struct counts *n = cls;
    (void)kind;
    if (!value) value = "";
    n->odd_name = n->odd_name || name[strcspn(name, " \t")];
    if (!strcasecmp(name, "Host")) {
        n->hosts++;
    } else if (!strcasecmp(name, "Content-Length")) {
        size_t digits = strspn(value, "0123456789");
        n->lengths++;
        n->odd_length = n->odd_length || !digits || value[digits] || digits > 18;
    } else if (!strcasecmp(name, "Transfer-Encoding")) {
        n->encodings++;
        n->odd_encoding = n->odd_encoding || strcasecmp(value, "chunked") != 0;
    }
    return MHD_YES;
}

const char *framing_fault(struct MHD_Connection *conn, const char *version, const char *path)
{
    struct counts n = {0};
    MHD_get_connection_values(conn, MHD_HEADER_KIND, count, &n);
    if (n.lengths + n.encodings > 1 || n.odd_length || n.odd_encoding)
        return "one Content-Length of digits, or one Transfer-Encoding: chunked, was expected";
    if (n.odd_name) return "a header's name holds white space: expected none before the colon";
    if (n.hosts > 1) return "there are several Host headers: expected one";
    if (!n.hosts && strcmp(version, "HTTP/1.0") != 0)
        return "there is no Host header: HTTP/1.1 expects one";
    if (strstr(path, "%00")) return "the path holds a NUL byte: expected text";
    return NULL;
}
