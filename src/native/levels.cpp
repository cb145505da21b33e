// Kernels of the sparse pyramid's levels. Twins: src/vqrf/kernels/reference_rows.py, which says what they answer.
//
// Determinism: rows are cut into fixed pieces, and an adjoint sums rows in their order.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "kernels.hpp"
#include "pieces.hpp"

namespace vqrf {

static bool all_below(const int32_t *begin, const int32_t *end, int64_t n) {
    bool in_range = true;
    for (; begin < end; ++begin) in_range &= static_cast<uint32_t>(*begin) < static_cast<uint64_t>(n);
    return in_range;
}

void raise_level(Rows<float> fine, Rows<const float> coarse, const int32_t *parents) {
    std::atomic<bool> in_range{true};
    const ThreadPool::Turn turn;
    with_columns(fine.columns, [&](auto width) {
        for_pieces(turn, fine.n, [&](int64_t begin, int64_t end) {
            if (!all_below(parents + N_PARENTS * begin, parents + N_PARENTS * end, coarse.n)) {
                in_range = false;
                return;
            }
            for (int64_t i = begin; i < end; ++i) {
                const float *row[N_PARENTS];
                for (int k = 0; k < N_PARENTS; ++k) row[k] = coarse.data + parents[N_PARENTS * i + k] * width;
                float *__restrict to = fine.data + i * width;
                for (int64_t c = 0; c < width; ++c)
                    to[c] += 0.125f * (((row[0][c] + row[1][c]) + (row[2][c] + row[3][c])) +
                                       ((row[4][c] + row[5][c]) + (row[6][c] + row[7][c])));
            }
        });
    });
    if (!in_range) throw std::invalid_argument("parents: out of range");
}

// Each parent gathers from its children, so that rows can be shared out and no two tasks write to one.
void lower_gradient(Rows<const float> fine, Rows<float> coarse, const ChildView &children) {
    const int32_t *first = children.first;
    std::atomic<bool> in_range{true};
    const ThreadPool::Turn turn;
    with_columns(fine.columns, [&](auto width) {
        for_pieces(turn, coarse.n, [&](int64_t begin, int64_t end) {
            bool ascend = first[begin] >= 0 && first[end] <= children.n;
            for (int64_t i = begin; i < end; ++i) ascend &= first[i] <= first[i + 1];
            if (!ascend || !all_below(children.child + first[begin], children.child + first[end], fine.n)) {
                in_range = false;
                return;
            }
            for (int64_t i = begin; i < end; ++i) {
                float *__restrict to = coarse.data + i * width;
                for (int64_t k = first[i]; k < first[i + 1]; ++k) {
                    const float *__restrict from = fine.data + children.child[k] * width;
                    const float part = children.share[k];
                    for (int64_t c = 0; c < width; ++c) to[c] += part * from[c];
                }
            }
        });
    });
    if (!in_range) throw std::invalid_argument("children: out of range");
}

constexpr int64_t RUN = 48;  // rows; PIECE is no multiple, and need not be

// The steps of columns, repeated: loops run over runs of many rows, whose length no instruction set has to care about.
static std::vector<float> repeated(const float *steps, int64_t columns) {
    std::vector<float> run;
    for (int64_t i = 0; i < RUN; ++i) run.insert(run.end(), steps, steps + columns);
    return run;
}

// Call body(first value, number of values), at most RUN rows at a time.
template <class Body>
static void for_runs(const Rows<const float> &values, const Body &body) {
    const ThreadPool::Turn turn;
    for_pieces(turn, values.n, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i += RUN) body(i * values.columns, (std::min(i + RUN, end) - i) * values.columns);
    });
}

void round_to_steps(Rows<const float> values, const float *steps, double dead_zone, float *rounded) {
    const float shift = static_cast<float>(0.5 - dead_zone);
    const std::vector<float> run = repeated(steps, values.columns);
    for_runs(values, [&](int64_t at, int64_t n) {
        const float *__restrict from = values.data + at, *__restrict step = run.data();
        float *__restrict to = rounded + at;
        for (int64_t k = 0; k < n; ++k) {
            const float level =
                static_cast<float>(static_cast<int32_t>(std::min(std::fabs(from[k]) / step[k] + shift, MAX_STEPS)));
            to[k] = std::copysign(level * step[k], from[k]);
        }
    });
}

void add_rate_gradient(Rows<const float> values, const float *steps, const uint8_t *first_bits, float weight, float *gradient) {
    const std::vector<float> run = repeated(steps, values.columns);
    for_runs(values, [&](int64_t at, int64_t n) {
        const float *__restrict from = values.data + at, *__restrict step = run.data();
        const uint8_t *__restrict bits = first_bits + at;
        float *__restrict to = gradient + at;
        for (int64_t k = 0; k < n; ++k) {
            const float first = BITS_UNIT * static_cast<float>(bits[k]), magnitude = std::fabs(from[k]);
            const float share = magnitude / (FIRST_STEP * step[k]), square = (share * share) * (share * share);
            const float factor = 1.0f + (first - 1.0f) / (1.0f + square);
            const float slope = std::copysign(weight * factor / (step[k] + magnitude), from[k]);
            to[k] += from[k] != 0 ? slope : 0.0f;
        }
    });
}

}  // namespace vqrf
