// Kernels that gather rows, by their code or into rows of their own. Twins: src/vqrf/kernels/reference_rows.py, and of
// `add_sparsity` src/vqrf/kernels/reference.py.
//
// Determinism: whoever owns a row or a column sums it in the order of what comes in.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>

#include "kernels.hpp"
#include "pieces.hpp"

namespace vqrf {

void sum_by_code(Rows<const float> values, const double *weights, const int32_t *codes, Rows<double> sums, double *totals) {
    const int64_t C = values.columns;
    bool in_range = true;
    for (int64_t i = 0; i < values.n; ++i) in_range = in_range && codes[i] >= 0 && codes[i] < sums.n;
    if (!in_range) throw std::invalid_argument("codes: out of range");
    for (int64_t i = 0; i < values.n; ++i) {
        const double w = weights[i];
        double *to = sums.row(codes[i]);
        const float *from = values.row(i);
        for (int64_t c = 0; c < C; ++c) to[c] += w * from[c];
        totals[codes[i]] += w;
    }
}

// Two tasks own the two halves of the channels, so that every sum keeps the voxels' order.
void tie_gradients(Rows<float> gradient, const int32_t *rows, const uint8_t *touched, Rows<float> table_gradient) {
    const int64_t n = gradient.n, C = gradient.columns;
    const ThreadPool::Turn turn;
    turn.parallel_for(2, [&](int64_t half) {
        const int64_t begin = half ? C / 2 : 0, end = half ? C : C / 2;
        for (int64_t v = 0; v < n; ++v) {
            uint64_t eight;
            if (v + 8 <= n && (std::memcpy(&eight, touched + v, 8), eight == 0)) {
                v += 7;
                continue;
            }
            if (!touched[v] || rows[v] < 0 || rows[v] >= table_gradient.n) continue;
            float *from = gradient.row(v), *to = table_gradient.row(rows[v]);
            for (int64_t c = begin; c < end; ++c) to[c] += from[c], from[c] = 0;
        }
    });
}

void add_sparsity(Rows<const float> values, int64_t n_columns, const uint8_t *touched, float weight, float *gradient) {
    const ThreadPool::Turn turn;
    for_pieces(turn, values.n, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            if (touched && !touched[i]) continue;
            const float *from = values.row(i);
            float *to = gradient + i * values.columns;
            for (int64_t c = 0; c < n_columns; ++c) to[c] += from[c] > 0 ? weight : from[c] < 0 ? -weight : 0;
        }
    });
}

// No two voxels share a row, so that rows can be shared out.
void move_gradients(Rows<float> gradient, const int64_t *voxels, const uint8_t *touched, const float *matrix,
                    Rows<float> row_gradient) {
    std::atomic<bool> in_range{true};
    const ThreadPool::Turn turn;
    with_columns(gradient.columns, [&](auto width) {
        for_pieces(turn, row_gradient.n, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const int64_t voxel = voxels[i];
                if (voxel < 0 || voxel >= gradient.n) {
                    in_range = false;
                    return;
                }
                if (!touched[voxel]) continue;
                float *__restrict from = gradient.data + voxel * width, *__restrict to = row_gradient.data + i * width;
                if (matrix) {
                    std::fill_n(to, width, 0.0f);
                    for (int64_t k = 0; k < width; ++k) {
                        const float *__restrict row = matrix + k * width;
                        const float amount = from[k];
                        for (int64_t c = 0; c < width; ++c) to[c] += amount * row[c];
                    }
                } else {
                    std::copy_n(from, width, to);
                }
                std::fill_n(from, width, 0.0f);
            }
        });
    });
    if (!in_range) throw std::invalid_argument("voxels: out of range");
}

// Call body(row, its place) for rows that are shared out, as no two have one place.
template <class Body>
static void for_places(const int64_t *places, int64_t n, int64_t n_places, const Body &body) {
    std::atomic<bool> in_range{true};
    const ThreadPool::Turn turn;
    for_pieces(turn, n, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            if (places[i] < 0 || places[i] >= n_places) {
                in_range = false;
                return;
            }
            body(i, places[i]);
        }
    });
    if (!in_range) throw std::invalid_argument("places: out of range");
}

void place_rows(Rows<const float> values, const float *scales, const int64_t *places, Rows<float> table) {
    for_places(places, values.n, table.n, [&](int64_t i, int64_t place) {
        const float *__restrict from = values.row(i);
        float *__restrict to = table.row(place);
        for (int64_t c = 0; c < table.columns; ++c) to[c] = from[c] * scales[c];
    });
}

void take_rows(Rows<float> table, const float *scales, const int64_t *places, Rows<float> values) {
    for_places(places, values.n, table.n, [&](int64_t i, int64_t place) {
        float *__restrict from = table.row(place), *__restrict to = values.row(i);
        for (int64_t c = 0; c < table.columns; ++c) to[c] = from[c] * scales[c], from[c] = 0;
    });
}

}  // namespace vqrf
