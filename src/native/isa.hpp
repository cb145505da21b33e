// Vector primitives of one instruction set. Included once per instruction set, inside its own namespace, by hot.cpp.
// A `unit` is what one 32-bit lane of a matrix product consumes per step: one float, or two bfloat16.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(VQRF_BF16)
#include <immintrin.h>
#endif

namespace vqrf::VQRF_ISA {

#if defined(VQRF_BF16) || defined(__AVX512F__)
constexpr int LANES = 16, TILE_VECTORS = 4;
#elif defined(__AVX__)
constexpr int LANES = 8, TILE_VECTORS = 2;
#elif defined(__aarch64__)
constexpr int LANES = 4, TILE_VECTORS = 4;
#else
constexpr int LANES = 4, TILE_VECTORS = 2;
#endif

// Rows that `product` takes at once, and of a batch whose activations stay in the first- or second-level cache. Both are even, so
// that samples pair up.
#if defined(VQRF_AMX)
constexpr int TILE_ROWS = 32, BATCH_ROWS = 128;
#else
constexpr int TILE_ROWS = 6, BATCH_ROWS = 48;
#endif

typedef float vf __attribute__((vector_size(LANES * 4)));
typedef float vf_mem __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef float v4 __attribute__((vector_size(16)));
typedef float v4_mem __attribute__((vector_size(16), aligned(4), may_alias));

// One instruction each, unlike std::fmin and std::fmax, which have to mind NaN.
template <class T>
static inline T lesser(T a, T b) { return a < b ? a : b; }
template <class T>
static inline T greater(T a, T b) { return a > b ? a : b; }

static inline int round_up(int64_t n, int to) { return static_cast<int>((n + to - 1) / to * to); }

static inline vf load(const float *p) { return *reinterpret_cast<const vf_mem *>(p); }
static inline void store(float *p, vf v) { *reinterpret_cast<vf_mem *>(p) = v; }
static inline v4 load4(const float *p) { return *reinterpret_cast<const v4_mem *>(p); }
static inline void store4(float *p, v4 v) { *reinterpret_cast<v4_mem *>(p) = v; }
static inline vf splat(float x) { return x - vf{}; }
static inline vf relu(vf v) { return v > 0.0f ? v : vf{}; }

#if defined(VQRF_BF16)

constexpr int PAIR = 2;
constexpr float COLOR_TOLERANCE = 4e-3f;
typedef uint16_t act;
typedef uint32_t unit;
typedef uint32_t vu __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu_mem __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint16_t va_mem __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

static inline vu load_units(const unit *p) { return *reinterpret_cast<const vu_mem *>(p); }
static inline vu splat_unit(unit x) { return x - vu{}; }
static inline vf dot(vf sum, vu a, vu b) {
    return reinterpret_cast<vf>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(a),
                                                 reinterpret_cast<__m512bh>(b)));
}
static inline void store_act(act *p, vf v) {
    const __m256bh rounded = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(v));
    std::memcpy(p, &rounded, sizeof rounded);
}
static inline __m512i widened(const act *p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}
static inline vf load_act(const act *p) { return reinterpret_cast<vf>(_mm512_slli_epi32(widened(p), 16)); }
static inline act to_act(float x) {  // round to nearest even; values here are finite
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return static_cast<act>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
// Products of floats, where a unit is something else.
static inline vf load_units(const float *p) { return load(p); }
static inline vf splat_unit(float x) { return splat(x); }
static inline vf dot(vf sum, vf a, vf b) { return sum + a * b; }

#else

constexpr int PAIR = 1;
constexpr float COLOR_TOLERANCE = 1e-5f;
typedef float act;
typedef float unit;
typedef vf vu;

static inline vu load_units(const unit *p) { return load(p); }
static inline vu splat_unit(unit x) { return splat(x); }
static inline vf dot(vf sum, vu a, vu b) { return sum + a * b; }
static inline void store_act(act *p, vf v) { store(p, v); }
static inline vf load_act(const act *p) { return load(p); }
static inline act to_act(float x) { return x; }

#endif

// Call body(Lanes or One, i) for the numbers 0..n-1: as many at once as a vector has lanes, and what is left one by one.
struct Lanes {
    static vf get(const float *p) { return load(p); }
    static void put(float *p, vf v) { store(p, v); }
};
struct One {
    static float get(const float *p) { return *p; }
    static void put(float *p, float v) { *p = v; }
};
template <class Body>
static inline void by_lanes(int n, const Body &body) {
    int i = 0;
    for (; i + LANES <= n; i += LANES) body(Lanes{}, i);
    for (; i < n; ++i) body(One{}, i);
}

static inline float sum_of_lanes(vf v) {
    float lane[LANES];
    store(lane, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
    return lane[0];
}

#if defined(VQRF_AMX)

constexpr int TILE_SIDE = 16;  // of a tile register: rows of 16 units

// To g++ an instruction that loads a tile reads no memory: what is written before it has to be in memory.
static inline void all_is_written() { __asm__ volatile("" ::: "memory"); }

// While it lives, this thread's eight tile registers have 16 rows of 64 bytes. Nothing else of this core sets them.
class Tiles {
  public:
    Tiles() {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {};
            uint8_t rows[16] = {};
        } shape;
        for (int i = 0; i < 8; ++i) shape.row_bytes[i] = 64, shape.rows[i] = TILE_SIDE;
        all_is_written();
        _tile_loadconfig(&shape);
    }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles &) = delete;
    Tiles &operator=(const Tiles &) = delete;
};

// As `product_tile`, of 32 rows and one or two tiles of columns; `a` has its units along k side by side.
template <int TILES, class Init, class Store>
static inline void amx_product(const unit *a, int64_t a_row, const unit *b, int64_t ldb, int depth, int row, int column,
                               const Init &init, const Store &save) {
    constexpr int WIDTH = TILES * TILE_SIDE, BYTES = 4 * WIDTH;
    alignas(64) float sums[TILE_ROWS * WIDTH];
    const unit *high = a + row * a_row, *low = high + TILE_SIDE * a_row;
    const size_t a_bytes = 4 * static_cast<size_t>(a_row), b_bytes = 4 * static_cast<size_t>(ldb);
    all_is_written();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < depth; k += TILE_SIDE) {
        const unit *right = b + k * ldb + column;
        _tile_loadd(4, high + k, a_bytes);
        _tile_loadd(5, low + k, a_bytes);
        _tile_loadd(6, right, b_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (TILES == 2) {
            _tile_loadd(7, right + TILE_SIDE, b_bytes);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, sums, BYTES);
    _tile_stored(2, sums + TILE_SIDE * WIDTH, BYTES);
    if constexpr (TILES == 2) {
        _tile_stored(1, sums + TILE_SIDE, BYTES);
        _tile_stored(3, sums + TILE_SIDE * WIDTH + TILE_SIDE, BYTES);
    }
    for (int r = 0; r < TILE_ROWS; ++r)
        for (int c = 0; c < WIDTH; c += LANES)
            save(row + r, column + c, init(row + r, column + c) + load(sums + r * WIDTH + c));
}

// Turn 16 rows of 16 units, r[row], into r[column].
static inline void transpose(__m512i *r) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2)
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    for (int i = 0; i < 16; i += 4)
        for (int half = 0; half < 2; ++half) {
            r[i + 2 * half] = _mm512_unpacklo_epi64(t[i + half], t[i + 2 + half]);
            r[i + 2 * half + 1] = _mm512_unpackhi_epi64(t[i + half], t[i + 2 + half]);
        }
    for (int j = 0; j < 4; ++j)  // r[4 i + j] has column 4 k + j of four rows in its k-th quarter
        for (int i = 0; i < 16; i += 8) {
            t[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + 4 + j], 0x88);
            t[i + 4 + j] = _mm512_shuffle_i32x4(r[i + j], r[i + 4 + j], 0xdd);
        }
    for (int j = 0; j < 8; ++j) {
        r[j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0x88);
        r[8 + j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0xdd);
    }
}

#else

struct Tiles {};

#endif

// C[row][column] for rows [0, rows), columns [0, columns): init(row, column) plus the sum over k of A(row, k) * B(k, column),
// handed to store(row, column, vector). `rows` is a multiple of ROWS, `columns` of LANES.
// A unit (row, k) is a[row * a_row + k * a_k]; B unit (k, column) is b[k * ldb + column]. Unit: of the batch, or float. Whoever
// multiplies units has `Tiles` alive.
template <int ROWS, int VECTORS, class Unit, class Init, class Store>
static inline void product_tile(const Unit *a, int64_t a_row, int64_t a_k, const Unit *b, int64_t ldb, int depth, int row,
                                int column, const Init &init, const Store &save) {
    vf sum[ROWS][VECTORS];
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = init(row + r, column + v * LANES);
    const Unit *a0 = a + row * a_row;
    const Unit *b0 = b + column;
    for (int k = 0; k < depth; ++k) {
        decltype(load_units(b0)) right[VECTORS];
        for (int v = 0; v < VECTORS; ++v) right[v] = load_units(b0 + k * ldb + v * LANES);
        for (int r = 0; r < ROWS; ++r) {
            const auto left = splat_unit(a0[r * a_row + k * a_k]);
            for (int v = 0; v < VECTORS; ++v) sum[r][v] = dot(sum[r][v], left, right[v]);
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) save(row + r, column + v * LANES, sum[r][v]);
}

template <int ROWS, class Unit, class Init, class Store>
static inline void product(const Unit *a, int64_t a_row, int64_t a_k, const Unit *b, int64_t ldb, int depth, int rows,
                           int columns, const Init &init, const Store &save) {
    constexpr int AT_ONCE = ROWS > 6 ? 4 : ROWS;  // what the vector registers hold the sums of
    int column = 0;
#if defined(VQRF_AMX)
    if constexpr (std::is_same_v<Unit, unit>)
        if (a_k == 1 && depth % TILE_SIDE == 0 && rows % TILE_ROWS == 0) {
            for (; column + 2 * TILE_SIDE <= columns; column += 2 * TILE_SIDE)
                for (int row = 0; row < rows; row += TILE_ROWS) amx_product<2>(a, a_row, b, ldb, depth, row, column, init, save);
            for (; column < columns; column += TILE_SIDE)
                for (int row = 0; row < rows; row += TILE_ROWS) amx_product<1>(a, a_row, b, ldb, depth, row, column, init, save);
            return;
        }
#endif
    for (; column + TILE_VECTORS * LANES <= columns; column += TILE_VECTORS * LANES)
        for (int row = 0; row < rows; row += AT_ONCE)
            product_tile<AT_ONCE, TILE_VECTORS>(a, a_row, a_k, b, ldb, depth, row, column, init, save);
    for (; column < columns; column += LANES)
        for (int row = 0; row < rows; row += AT_ONCE)
            product_tile<AT_ONCE, 1>(a, a_row, a_k, b, ldb, depth, row, column, init, save);
}

}  // namespace vqrf::VQRF_ISA
