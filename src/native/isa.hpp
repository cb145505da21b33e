// Vector primitives of one instruction set. Included once per instruction set, inside its own namespace, by hot.cpp.
// A `unit` is what one 32-bit lane of a matrix product consumes per step: one float, or two bfloat16.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

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
constexpr int TILE_ROWS = 6;

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
static inline vf load_act(const act *p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
    return reinterpret_cast<vf>(_mm512_slli_epi32(wide, 16));
}
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

// C[row][column] for rows [0, rows), columns [0, columns): init(row, column) plus the sum over k of A(row, k) * B(k, column),
// handed to store(row, column, vector). `rows` is a multiple of ROWS, `columns` of LANES.
// A unit (row, k) is a[row * a_row + k * a_k]; B unit (k, column) is b[k * ldb + column]. Unit: of the batch, or float.
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
    int column = 0;
    for (; column + TILE_VECTORS * LANES <= columns; column += TILE_VECTORS * LANES)
        for (int row = 0; row < rows; row += ROWS)
            product_tile<ROWS, TILE_VECTORS>(a, a_row, a_k, b, ldb, depth, row, column, init, save);
    for (; column < columns; column += LANES)
        for (int row = 0; row < rows; row += ROWS)
            product_tile<ROWS, 1>(a, a_row, a_k, b, ldb, depth, row, column, init, save);
}

}  // namespace vqrf::VQRF_ISA
