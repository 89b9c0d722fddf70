/* AMX: 16 x 64 times 64 x 16 8-bit numbers in one instruction, eight times what AVX-512 VNNI does.
 *
 * A panel as packed, quads of k by 32 columns, is two columns of weight tiles as it lies. Up to 32 rows go
 * through a panel together as two halves, so that four tiles of sums hide the latency of each:
 *
 *                    W(6)  W(7)         16 quads of k each
 *     X(4) rows      S(0)  S(1)
 *     X(5) rows      S(2)  S(3)
 *
 * Sums begin as the shifts: a load with stride 0 puts them into every row. Tiles are shaped as seldom as
 * possible, since LDTILECFG waits for all products before it: whole halves share one shape, the last rows
 * and what K has beyond whole tiles have their own. They are released after each call: while they hold
 * something, every switch of threads saves 8 KiB more. Few rows are bound by memory, small products by
 * the shaping: those go the way of AVX-512 VNNI, the numbers are the same.
 */
#include <immintrin.h>
#include <stdalign.h>

#include "engine/kernels/int8.h"
#include "engine/kernels/pack.h"

#define TILE_ROWS 16
#define TILE_BYTES 64 /* of a row of a tile */
#define TILE_QUADS 16
#define GROUP_ROWS (2 * TILE_ROWS)
#define QUAD_BYTES (PACK_N * INT8_QUAD)
#define SUM_BYTES (PACK_N * sizeof(int32_t))
#define LINE 64
#define INLINE static inline __attribute__((always_inline))
#define L1_TILES 12 /* along k, that stay in L1 while groups of rows pass over them */
#define FEW 4       /* rows that memory cannot bring weights for fast enough */
#define WORTH \
    512 /* rows times quads for which shaping tiles pays; three times as many with a rest of k */

/* GCC's tile loads do not tell the compiler what they read. */
#define MEMORY() __asm__ volatile("" ::: "memory")

/* What LDTILECFG reads. */
struct config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
};

_Static_assert(sizeof(struct config) == 64, "what LDTILECFG reads");

/* Shapes of the tiles: `a` and `b` rows of inputs (b may be 0), `quads` of k. */
static void configure(size_t a, size_t b, size_t quads)
{
    alignas(64) struct config c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        bool second = i == 2 || i == 3 || i == 5, weights = i >= 6;
        size_t rows = weights ? quads : second ? b : a;
        bool inputs = i == 4 || i == 5;
        c.rows[i] = (uint8_t)rows;
        c.bytes[i] = (uint16_t)(rows == 0 ? 0 : inputs ? quads * INT8_QUAD : TILE_BYTES);
    }
    MEMORY();
    _tile_loadconfig(&c);
}

/* What comes from memory while the sums run: each group of rows brings its share of the panel behind. */
struct ahead {
    const char *at;
    size_t lines; /* for each tile of weights' rows */
};

INLINE const char *fetch(const char *at, size_t lines)
{
    for (; lines > 0; lines--, at += LINE)
        _mm_prefetch(at, _MM_HINT_T1);
    return at;
}

/* One or two halves of rows times `tiles` tiles of weights. */
struct product {
    const uint8_t *q, *q2; /* q2: of the second half, if there is one; out2 too */
    size_t ld;
    const int8_t *w;
    size_t tiles;
    const int32_t *start; /* what the sums begin with */
    size_t start_bytes;   /* from row to row of it: 0 for shifts */
    int32_t *out, *out2;
};

/* `second` is a constant. */
INLINE void tiles_of(const struct product *p, struct ahead *ahead, bool second)
{
    const uint8_t *q = p->q, *q2 = p->q2;
    const int8_t *w = p->w;
    const char *next = ahead->at;
    const size_t lines = ahead->lines;
    _tile_loadd(0, p->start, p->start_bytes);
    _tile_loadd(1, p->start + TILE_ROWS, p->start_bytes);
    if (second) {
        const int32_t *start2 = p->start_bytes ? p->out2 : p->start;
        _tile_loadd(2, start2, p->start_bytes);
        _tile_loadd(3, start2 + TILE_ROWS, p->start_bytes);
    }
    for (size_t i = 0; i < p->tiles; i++) {
        _tile_loadd(6, w, QUAD_BYTES);
        _tile_stream_loadd(4, q, p->ld);
        _tile_dpbusd(0, 4, 6);
        _tile_loadd(7, w + TILE_BYTES, QUAD_BYTES);
        _tile_dpbusd(1, 4, 7);
        if (second) {
            _tile_stream_loadd(5, q2, p->ld);
            _tile_dpbusd(2, 5, 6);
            _tile_dpbusd(3, 5, 7);
        }
        next = fetch(next, lines);
        w += TILE_QUADS * QUAD_BYTES;
        q += TILE_BYTES;
        q2 += TILE_BYTES;
    }
    ahead->at = next;
    _tile_stored(0, p->out, SUM_BYTES);
    _tile_stored(1, p->out + TILE_ROWS, SUM_BYTES);
    if (second) {
        _tile_stored(2, p->out2, SUM_BYTES);
        _tile_stored(3, p->out2 + TILE_ROWS, SUM_BYTES);
    }
}

/* Rows and quads of the tiles as they are. */
struct shape {
    size_t a, b, quads;
};

static void reshape(struct shape *s, size_t a, size_t b, size_t quads)
{
    if (s->a == a && (!b || s->b == b) && s->quads == quads) return;
    *s = (struct shape){a, b, quads};
    configure(a, b, quads);
}

/* A stretch of k: `tiles` tiles of `quads` quads, behind `first` whole tiles. */
struct stretch {
    size_t first, tiles, quads;
};

/* All rows times a stretch of the panel; its sums are added to those of the stretch before it. */
static void all_rows(const struct int8_rows *x, size_t rows, const struct int8_panel *panel,
                     const struct stretch *k, struct ahead *ahead, struct shape *shape,
                     int32_t *out)
{
    for (size_t r = 0, n; r < rows; r += n) {
        n = rows - r < GROUP_ROWS ? rows - r : GROUP_ROWS;
        size_t a = n < TILE_ROWS ? n : TILE_ROWS, b = n - a;
        struct product p = {.ld = x->ld, .tiles = k->tiles};
        p.q = x->q + r * x->ld + k->first * TILE_BYTES;
        p.q2 = p.q + a * x->ld;
        p.w = panel->w + k->first * TILE_QUADS * QUAD_BYTES;
        p.out = out + r * PACK_N;
        p.out2 = p.out + a * PACK_N;
        p.start = k->first ? p.out : panel->shift;
        p.start_bytes = k->first ? SUM_BYTES : 0;
        reshape(shape, a, b, k->quads);
        if (b)
            tiles_of(&p, ahead, true);
        else
            tiles_of(&p, ahead, false);
    }
}

static void sums(const struct int8_rows *x, size_t rows, const struct int8_panel *p, int32_t *out)
{
    size_t tiles = p->quads / TILE_QUADS, rest = p->quads % TILE_QUADS;
    if (rows <= FEW || rows * p->quads < (rest ? 3 * WORTH : WORTH)) {
        int8_avx512vnni.sums(x, rows, p, out);
        return;
    }
    size_t groups = (rows + GROUP_ROWS - 1) / GROUP_ROWS, most = groups > 1 ? L1_TILES : tiles;
    struct ahead ahead = {p->next ? p->next : (const char *)p->w + p->quads * QUAD_BYTES,
                          groups > 1 ? TILE_QUADS * QUAD_BYTES / LINE / groups : 0};
    struct shape shape = {0};
    struct stretch k = {.quads = TILE_QUADS};
    for (; k.first < tiles; k.first += k.tiles) {
        k.tiles = tiles - k.first < most ? tiles - k.first : most;
        all_rows(x, rows, p, &k, &ahead, &shape, out);
    }
    k = (struct stretch){tiles, 1, rest};
    if (rest) all_rows(x, rows, p, &k, &ahead, &shape, out);
    MEMORY();
    _tile_release();
}

static void keys(const uint8_t *q, size_t ld, size_t rows, const struct int8_keys *k, int32_t *out,
                 size_t ldo)
{
    int8_avx512vnni.keys(q, ld, rows, k, out, ldo);
}

static void values(const struct int8_values *v, const uint8_t *digits, size_t ld, size_t rows,
                   int32_t *out)
{
    int8_avx512vnni.values(v, digits, ld, rows, out);
}

static int32_t spin(size_t n)
{
    static const uint8_t ones[TILE_ROWS * TILE_BYTES] = {1};
    int32_t out[TILE_ROWS * TILE_ROWS];
    configure(TILE_ROWS, TILE_ROWS, TILE_QUADS);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, ones, TILE_BYTES);
    _tile_loadd(5, ones, TILE_BYTES);
    _tile_loadd(6, ones, TILE_BYTES);
    _tile_loadd(7, ones, TILE_BYTES);
    for (size_t i = 0; i < n; i++) {
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
    }
    int32_t all = 0;
    _tile_stored(0, out, TILE_BYTES);
    all += out[0];
    _tile_stored(3, out, TILE_BYTES);
    all += out[0];
    _tile_release();
    return all;
}

const struct int8_kernels int8_amx = {.name = "amx",
                                      .sums = sums,
                                      .keys = keys,
                                      .values = values,
                                      .turn_ops =
                                          (size_t)4 * 2 * TILE_ROWS * TILE_ROWS * TILE_BYTES,
                                      .spin = spin};
