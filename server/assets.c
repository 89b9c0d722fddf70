/* The files that the daemon carries with it. The assembler's .incbin takes them as they are: the same with
 * gcc and clang and on every machine, no generated C, no tool but the compiler. The Makefile knows that
 * this object depends on them. */
#include "server/assets.h"

#include <stdint.h>

#define EMBED(symbol, file)                                                           \
    __asm__(                                                                          \
        ".pushsection .rodata\n"                                                      \
        ".global " #symbol "\n" #symbol                                               \
        ":\n"                                                                         \
        ".incbin \"" file                                                             \
        "\"\n"                                                                        \
        "." #symbol                                                                   \
        "_end:\n"                                                                     \
        ".byte 0\n"                                                                   \
        ".balign 8\n"                                                                 \
        ".global " #symbol "_len\n" #symbol "_len: .quad ." #symbol "_end - " #symbol \
        "\n"                                                                          \
        ".popsection\n");                                                             \
    extern const char symbol[];                                                       \
    extern const uint64_t symbol##_len

EMBED(ttmd_asset_page, "server/page.html");
EMBED(ttmd_asset_openapi, "server/openapi.json");

struct asset asset_page(void)
{
    return (struct asset){ttmd_asset_page, (size_t)ttmd_asset_page_len};
}

struct asset asset_openapi(void)
{
    return (struct asset){ttmd_asset_openapi, (size_t)ttmd_asset_openapi_len};
}
