// Kernels of the sparse pyramid, as Python sees them. Twins: src/vqrf/kernels/reference.py, which says what they answer.
//
// Determinism: rows are cut into fixed pieces, and an adjoint sums rows in their order.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>
#include <type_traits>
#include <vector>

#include "threads.hpp"

namespace nb = nanobind;

namespace vqrf {
namespace {

template <class T>
using Rows = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Row = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr int64_t PIECE = 4096;  // rows of one task
constexpr int N_PARENTS = 8;
constexpr float MAX_STEPS = 14 + (1 << 14) - 1;  // vqrf.kernels.MAX_STEPS

void expect(bool condition, const char *message) {
    if (!condition) throw nb::value_error(message);
}

// Call body(first row, end) for fixed pieces of n rows.
template <class Body>
void for_pieces(int64_t n, const Body &body) {
    const nb::gil_scoped_release release;
    ThreadPool::instance().parallel_for((n + PIECE - 1) / PIECE,
                                        [&](int64_t piece) { body(piece * PIECE, std::min(n, (piece + 1) * PIECE)); });
}

// Call body(columns) with the number of columns as a constant where it is a usual one: density, and 12 or 27 features.
template <class Body>
void with_columns(size_t n, const Body &body) {
    switch (n) {
        case 1: return body(std::integral_constant<int64_t, 1>());
        case 12: return body(std::integral_constant<int64_t, 12>());
        case 27: return body(std::integral_constant<int64_t, 27>());
        default: return body(static_cast<int64_t>(n));
    }
}

bool all_below(const int32_t *begin, const int32_t *end, size_t n) {
    bool in_range = true;
    for (; begin < end; ++begin) in_range &= static_cast<uint32_t>(*begin) < n;
    return in_range;
}

void raise_level(Rows<float> fine, Rows<const float> coarse, Rows<const int32_t> parents) {
    expect(fine.shape(1) == coarse.shape(1), "fine and coarse: expected the same columns");
    expect(parents.shape(0) == fine.shape(0) && parents.shape(1) == N_PARENTS, "parents: expected [N,8]");
    std::atomic<bool> in_range{true};
    with_columns(fine.shape(1), [&](auto width) {
        for_pieces(static_cast<int64_t>(fine.shape(0)), [&](int64_t begin, int64_t end) {
            const int32_t *rows = parents.data();
            if (!all_below(rows + N_PARENTS * begin, rows + N_PARENTS * end, coarse.shape(0))) {
                in_range = false;
                return;
            }
            for (int64_t i = begin; i < end; ++i) {
                const float *row[N_PARENTS];
                for (int k = 0; k < N_PARENTS; ++k) row[k] = coarse.data() + rows[N_PARENTS * i + k] * width;
                float *__restrict to = fine.data() + i * width;
                for (int64_t c = 0; c < width; ++c)
                    to[c] += 0.125f * (((row[0][c] + row[1][c]) + (row[2][c] + row[3][c])) +
                                       ((row[4][c] + row[5][c]) + (row[6][c] + row[7][c])));
            }
        });
    });
    expect(in_range, "parents: out of range");
}

// Each parent gathers from its children, so that rows can be shared out and no two tasks write to one.
void lower_gradient(Rows<const float> fine, Rows<float> coarse, Row<const int32_t> first, Row<const int32_t> child,
                    Row<const float> share) {
    expect(fine.shape(1) == coarse.shape(1), "fine and coarse: expected the same columns");
    expect(first.shape(0) == coarse.shape(0) + 1, "first: expected one per coarse node, and the end");
    expect(child.shape(0) == share.shape(0), "child and share: expected the same length");
    std::atomic<bool> in_range{true};
    with_columns(fine.shape(1), [&](auto width) {
        for_pieces(static_cast<int64_t>(coarse.shape(0)), [&](int64_t begin, int64_t end) {
            bool ascend = first(begin) >= 0 && first(end) <= static_cast<int64_t>(child.shape(0));
            for (int64_t i = begin; i < end; ++i) ascend &= first(i) <= first(i + 1);
            if (!ascend || !all_below(child.data() + first(begin), child.data() + first(end), fine.shape(0))) {
                in_range = false;
                return;
            }
            for (int64_t i = begin; i < end; ++i) {
                float *__restrict to = coarse.data() + i * width;
                for (int64_t k = first(i); k < first(i + 1); ++k) {
                    const float *__restrict from = fine.data() + child(k) * width;
                    const float part = share(k);
                    for (int64_t c = 0; c < width; ++c) to[c] += part * from[c];
                }
            }
        });
    });
    expect(in_range, "children: out of range");
}

// No two voxels share a row, so that rows can be shared out.
void move_gradients(Rows<float> gradient, Row<const int64_t> voxels, Row<const uint8_t> touched,
                    std::optional<Rows<const float>> matrix, Rows<float> row_gradient) {
    const size_t n_columns = gradient.shape(1);
    expect(row_gradient.shape(0) == voxels.shape(0) && row_gradient.shape(1) == n_columns,
           "row_gradient: expected a row for each of voxels, with the columns of gradient");
    expect(touched.shape(0) == gradient.shape(0), "touched: expected one per row of gradient");
    expect(!matrix || (matrix->shape(0) == n_columns && matrix->shape(1) == n_columns), "matrix: expected [C,C]");
    std::atomic<bool> in_range{true};
    with_columns(n_columns, [&](auto width) {
        for_pieces(static_cast<int64_t>(voxels.shape(0)), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const int64_t voxel = voxels(i);
                if (voxel < 0 || voxel >= static_cast<int64_t>(touched.shape(0))) {
                    in_range = false;
                    return;
                }
                if (!touched(voxel)) continue;
                float *__restrict from = gradient.data() + voxel * width, *__restrict to = row_gradient.data() + i * width;
                if (matrix) {
                    std::fill_n(to, width, 0.0f);
                    for (int64_t k = 0; k < width; ++k) {
                        const float *__restrict row = matrix->data() + k * width;
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
    expect(in_range, "voxels: out of range");
}

// The steps of columns, repeated: loops run over runs of many rows, whose length no instruction set has to care about.
constexpr int64_t RUN = 48;  // rows; PIECE is no multiple, and need not be
std::vector<float> repeated(const Row<const float> &steps) {
    std::vector<float> run;
    for (int64_t i = 0; i < RUN; ++i) run.insert(run.end(), steps.data(), steps.data() + steps.shape(0));
    return run;
}

// Call body(first value, number of values), at most RUN rows at a time.
template <class Body>
void for_runs(const Rows<const float> &values, const Body &body) {
    const int64_t width = static_cast<int64_t>(values.shape(1));
    for_pieces(static_cast<int64_t>(values.shape(0)), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i += RUN) body(i * width, (std::min(i + RUN, end) - i) * width);
    });
}

void round_to_steps(Rows<const float> values, Row<const float> steps, double dead_zone, Rows<float> rounded) {
    expect(rounded.shape(0) == values.shape(0) && rounded.shape(1) == values.shape(1), "rounded: expected the shape of values");
    expect(steps.shape(0) == values.shape(1), "steps: expected one per column");
    const float shift = static_cast<float>(0.5 - dead_zone);
    const std::vector<float> run = repeated(steps);
    for_runs(values, [&](int64_t at, int64_t n) {
        const float *__restrict from = values.data() + at, *__restrict step = run.data();
        float *__restrict to = rounded.data() + at;
        for (int64_t k = 0; k < n; ++k) {
            const float level =
                static_cast<float>(static_cast<int32_t>(std::min(std::fabs(from[k]) / step[k] + shift, MAX_STEPS)));
            to[k] = std::copysign(level * step[k], from[k]);
        }
    });
}

constexpr float BITS_UNIT = 1.0f / 16, FIRST_STEP = 1.5f;

void add_rate_gradient(Rows<const float> values, Row<const float> steps, Rows<const uint8_t> first_bits, float weight,
                       Rows<float> gradient) {
    expect(first_bits.shape(0) == values.shape(0) && first_bits.shape(1) == values.shape(1),
           "first_bits: expected the shape of values");
    expect(gradient.shape(0) == values.shape(0) && gradient.shape(1) == values.shape(1), "gradient: expected the shape of values");
    expect(steps.shape(0) == values.shape(1), "steps: expected one per column");
    const std::vector<float> run = repeated(steps);
    for_runs(values, [&](int64_t at, int64_t n) {
        const float *__restrict from = values.data() + at, *__restrict step = run.data();
        const uint8_t *__restrict bits = first_bits.data() + at;
        float *__restrict to = gradient.data() + at;
        for (int64_t k = 0; k < n; ++k) {
            const float first = BITS_UNIT * static_cast<float>(bits[k]), magnitude = std::fabs(from[k]);
            const float share = magnitude / (FIRST_STEP * step[k]), square = (share * share) * (share * share);
            const float factor = 1.0f + (first - 1.0f) / (1.0f + square);
            const float slope = std::copysign(weight * factor / (step[k] + magnitude), from[k]);
            to[k] += from[k] != 0 ? slope : 0.0f;
        }
    });
}

}  // namespace
}  // namespace vqrf

void bind_pyramid(nb::module_ &m) {
    using namespace vqrf;
    m.def("raise_level", &raise_level);
    m.def("lower_gradient", &lower_gradient);
    m.def("move_gradients", &move_gradients, nb::arg("gradient"), nb::arg("voxels"), nb::arg("touched"),
          nb::arg("matrix").none(), nb::arg("row_gradient"));
    m.def("round_to_steps", &round_to_steps);
    m.def("add_rate_gradient", &add_rate_gradient);
}
