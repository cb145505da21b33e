// Kernels of the sparse pyramid, as Python sees them. Twins: src/vqrf/kernels/reference.py, which says what they answer.
//
// Determinism: rows are cut into fixed pieces, and an adjoint sums rows in their order, each task in columns of its own.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <array>
#include <cmath>

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

template <class Fine, class Coarse>
void check_levels(const Rows<Fine> &fine, const Rows<Coarse> &coarse, const Rows<const int32_t> &parents) {
    expect(fine.shape(1) == coarse.shape(1), "fine and coarse: expected the same columns");
    expect(parents.shape(0) == fine.shape(0) && parents.shape(1) == N_PARENTS, "parents: expected [N,8]");
    const int64_t n = static_cast<int64_t>(parents.size()), n_coarse = static_cast<int64_t>(coarse.shape(0));
    bool in_range = true;
    for (int64_t i = 0; i < n; ++i) in_range &= parents.data()[i] >= 0 && parents.data()[i] < n_coarse;
    expect(in_range, "parents: out of range");
}

void raise_level(Rows<float> fine, Rows<const float> coarse, Rows<const int32_t> parents) {
    check_levels(fine, coarse, parents);
    const int64_t width = static_cast<int64_t>(fine.shape(1));
    for_pieces(static_cast<int64_t>(fine.shape(0)), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int32_t *from = parents.data() + N_PARENTS * i;
            const float *row[N_PARENTS];
            for (int k = 0; k < N_PARENTS; ++k) row[k] = coarse.data() + from[k] * width;
            float *__restrict to = fine.data() + i * width;
            for (int64_t c = 0; c < width; ++c)
                to[c] += 0.125f * (((row[0][c] + row[1][c]) + (row[2][c] + row[3][c])) +
                                   ((row[4][c] + row[5][c]) + (row[6][c] + row[7][c])));
        }
    });
}

// The parents of one node: each once, with its share of the mean. On an even plane two of the eight are one.
struct Parents {
    std::array<int32_t, N_PARENTS> row;
    std::array<float, N_PARENTS> share;
    int n = 0;

    explicit Parents(const int32_t *rows) {
        for (int k = 0; k < N_PARENTS; ++k) {
            const auto *found = std::find(row.data(), row.data() + n, rows[k]);
            if (found == row.data() + n) row[n] = rows[k], share[n++] = 0;
            share[found - row.data()] += 1.0f / N_PARENTS;
        }
    }
};

void lower_gradient(Rows<const float> fine, Rows<float> coarse, Rows<const int32_t> parents) {
    check_levels(fine, coarse, parents);
    const int64_t n = static_cast<int64_t>(fine.shape(0)), width = static_cast<int64_t>(fine.shape(1));
    const nb::gil_scoped_release release;
    ThreadPool &pool = ThreadPool::instance();
    const int64_t n_tasks = pool.n_threads() > 1 && width > 1 ? 2 : 1;
    pool.parallel_for(n_tasks, [&](int64_t task) {
        const int64_t begin = width * task / n_tasks, end = width * (task + 1) / n_tasks;
        for (int64_t i = 0; i < n; ++i) {
            const float *from = fine.data() + i * width;
            const Parents above(parents.data() + N_PARENTS * i);
            for (int k = 0; k < above.n; ++k) {
                float *__restrict to = coarse.data() + above.row[k] * width;
                for (int64_t c = begin; c < end; ++c) to[c] += above.share[k] * from[c];
            }
        }
    });
}

void round_to_steps(Rows<const float> values, Row<const float> steps, double dead_zone, Rows<float> rounded) {
    expect(rounded.shape(0) == values.shape(0) && rounded.shape(1) == values.shape(1), "rounded: expected the shape of values");
    expect(steps.shape(0) == values.shape(1), "steps: expected one per column");
    const int64_t width = static_cast<int64_t>(values.shape(1));
    const float shift = static_cast<float>(0.5 - dead_zone);
    for_pieces(static_cast<int64_t>(values.shape(0)), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
            for (int64_t c = 0; c < width; ++c) {
                const float x = values.data()[i * width + c], step = steps.data()[c];
                const float level = static_cast<float>(static_cast<int32_t>(std::min(std::fabs(x) / step + shift, MAX_STEPS)));
                rounded.data()[i * width + c] = std::copysign(level * step, x);
            }
    });
}

void add_rate_gradient(Rows<const float> values, Row<const float> steps, float weight, Rows<float> gradient) {
    expect(gradient.shape(0) == values.shape(0) && gradient.shape(1) == values.shape(1), "gradient: expected the shape of values");
    expect(steps.shape(0) == values.shape(1), "steps: expected one per column");
    const int64_t width = static_cast<int64_t>(values.shape(1));
    for_pieces(static_cast<int64_t>(values.shape(0)), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
            for (int64_t c = 0; c < width; ++c) {
                const float x = values.data()[i * width + c];
                const float slope = weight / (steps.data()[c] + std::fabs(x));
                gradient.data()[i * width + c] += x > 0 ? slope : x < 0 ? -slope : 0.0f;
            }
    });
}

}  // namespace
}  // namespace vqrf

void bind_pyramid(nb::module_ &m) {
    using namespace vqrf;
    m.def("raise_level", &raise_level);
    m.def("lower_gradient", &lower_gradient);
    m.def("round_to_steps", &round_to_steps);
    m.def("add_rate_gradient", &add_rate_gradient);
}
