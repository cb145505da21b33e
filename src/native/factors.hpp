// Factored lattices: density and features as products of planes and lines, at voxels and at the samples of rays. Twin:
// src/vqrf/kernels/reference.py and equation.py; what the arrays are: `FactorArrays` in src/vqrf/kernels/__init__.py. Included by
// hot.cpp per instruction set. How gradients come back: scatter.hpp.
#pragma once

#include <cstring>
#include <type_traits>
#include <vector>

#include "isa.hpp"
#include "kernels.hpp"
#include "threads.hpp"

namespace vqrf::VQRF_ISA {

// The mix, packed for products: what leads from the products of planes and lines to channels, and back.
struct Mix {
    int rank, columns;           // components of the features on a plane, and channels, in whole vectors
    std::vector<float> forward;  // [3 rank][columns]
    std::vector<float> back;     // [3][channels][rank]

    explicit Mix(const FactorView &f) : rank(round_up(f.n_features, LANES)), columns(round_up(f.channels, LANES)) {
        forward.assign(static_cast<size_t>(3) * rank * columns, 0), back.assign(static_cast<size_t>(3) * f.channels * rank, 0);
        for (int p = 0; p < 3; ++p)
            for (int r = 0; r < f.n_features; ++r)
                for (int c = 0; c < f.channels; ++c) {
                    const float value = f.mix[(static_cast<int64_t>(p) * f.n_features + r) * f.channels + c];
                    forward[static_cast<size_t>(p * rank + r) * columns + c] = value;
                    back[static_cast<size_t>(p * f.channels + c) * rank + r] = value;
                }
    }
};

constexpr int BATCH_SPOTS = BATCH_ROWS;  // places whose products stay in the cache

// Write the features of n places: fill(i, p, to) writes the products of plane p at place i, and features(i) is where its channels
// go. `products` is scratch.
template <class Fill, class Features>
static void mix_products(const FactorView &f, const Mix &mix, int n, std::vector<float> &products, const Fill &fill,
                         const Features &features) {
    const int width = 3 * mix.rank;
    products.assign(static_cast<size_t>(BATCH_SPOTS) * width, 0);
    for (int begin = 0; begin < n; begin += BATCH_SPOTS) {
        const int rows = lesser(n - begin, BATCH_SPOTS);
        for (int i = 0; i < rows; ++i)
            for (int p = 0; p < 3; ++p) fill(begin + i, p, &products[static_cast<size_t>(i) * width + p * mix.rank]);
        product<TILE_ROWS>(
            products.data(), width, 1, mix.forward.data(), mix.columns, width, round_up(rows, TILE_ROWS), mix.columns,
            [](int, int) { return vf{}; },
            [&](int row, int column, vf z) {
                if (row >= rows) return;
                float *to = features(begin + row) + column;
                if (column + LANES <= f.channels) return store(to, z);
                for (int lane = 0; column + lane < f.channels; ++lane) to[lane] = z[lane];
            });
    }
}

// The sum over r of term(kind of `by_lanes`, r), always in the same order.
template <class Term>
static inline float sum_of_terms(int n, const Term &term) {
    vf sums{};
    float rest = 0;
    by_lanes(n, [&](auto of, int r) {
        if constexpr (std::is_same_v<decltype(of), Lanes>)
            sums += term(of, r);
        else
            rest += term(of, r);
    });
    return rest + sum_of_lanes(sums);
}

// ------------------------------------------------------------------------------------------------------- at voxels

// The components of a voxel, on plane p and on its line.
struct AtVoxel {
    const float *plane, *line;

    AtVoxel(const FactorView &f, int p, int64_t voxel) {
        const int64_t row = voxel / f.shape[2];
        const int64_t at[3] = {row / f.shape[1], row % f.shape[1], voxel % f.shape[2]};
        const int *axes = PLANE_AXES[p];
        plane = f.plane[p] + (at[axes[0]] * f.shape[axes[1]] + at[axes[1]]) * f.rank();
        line = f.line[p] + at[axes[2]] * f.rank();
    }
    template <class Of>
    auto product(Of of, int r) const {
        return of.get(plane + r) * of.get(line + r);
    }
};

static void expand_factors(const FactorView &f, const uint8_t *marks, float *density, float *features) {
    const int64_t n_plane = static_cast<int64_t>(f.shape[1]) * f.shape[2];
    const Mix mix(f);
    const ThreadPool::Turn turn;
    turn.parallel_for(f.shape[0], [&](int64_t x) {
        std::vector<int64_t> marked;
        std::vector<float> products;
        for (int64_t voxel = x * n_plane; voxel < (x + 1) * n_plane; ++voxel) {
            uint64_t eight;
            if (voxel + 8 <= (x + 1) * n_plane && (std::memcpy(&eight, marks + voxel, 8), eight == 0))
                voxel += 7;
            else if (marks[voxel])
                marked.push_back(voxel);
        }
        for (const int64_t voxel : marked) {
            float sum = 0;
            for (int p = 0; p < 3; ++p) {
                const AtVoxel at(f, p, voxel);
                sum += sum_of_terms(f.n_density, [&](auto of, int r) { return at.product(of, r); });
            }
            density[voxel] = sum;
        }
        if (!features) return;
        mix_products(
            f, mix, static_cast<int>(marked.size()), products,
            [&](int i, int p, float *to) {
                const AtVoxel at(f, p, marked[i]);
                by_lanes(f.n_features, [&](auto of, int r) { of.put(to + r, at.product(of, f.n_density + r)); });
            },
            [&](int i) { return features + marked[i] * f.channels; });
    });
}

// ------------------------------------------------------------------------------------------- at the samples of rays

// Where a sample lies on plane p and on its line: numbers of rows, and their shares. The corners are (a, b), (a, b + 1),
// (a + 1, b), (a + 1, b + 1).
struct Spot {
    int64_t corner[4], point[2];
    float share[4], along[2];

    Spot() = default;
    Spot(const FactorView &f, int p, const int *cell, const float *inside) {
        const int *axes = PLANE_AXES[p];
        const int64_t side = f.shape[axes[1]];
        const float a = inside[axes[0]], b = inside[axes[1]], c = inside[axes[2]];
        corner[0] = cell[axes[0]] * side + cell[axes[1]];
        corner[1] = corner[0] + 1, corner[2] = corner[0] + side, corner[3] = corner[2] + 1;
        share[0] = (1 - a) * (1 - b), share[1] = (1 - a) * b, share[2] = a * (1 - b), share[3] = a * b;
        point[0] = cell[axes[2]], point[1] = point[0] + 1;
        along[0] = 1 - c, along[1] = c;
    }
};

static inline void cell_of_voxel(const int *shape, int32_t voxel, int *cell) {
    const int32_t row = voxel / shape[2];
    cell[0] = row / shape[1], cell[1] = row % shape[1], cell[2] = voxel % shape[2];
}

// The components of a sample from `first` on, on plane p and on its line.
struct AtSample {
    const float *corner[4], *point[2];
    const Spot &spot;

    AtSample(const FactorView &f, int p, const Spot &spot, int first) : spot(spot) {
        const int64_t rank = f.rank();
        for (int i = 0; i < 4; ++i) corner[i] = f.plane[p] + spot.corner[i] * rank + first;
        for (int i = 0; i < 2; ++i) point[i] = f.line[p] + spot.point[i] * rank + first;
    }
    template <class Of>
    auto plane(Of of, int r) const {
        return spot.share[0] * of.get(corner[0] + r) + spot.share[1] * of.get(corner[1] + r) +
               spot.share[2] * of.get(corner[2] + r) + spot.share[3] * of.get(corner[3] + r);
    }
    template <class Of>
    auto line(Of of, int r) const {
        return spot.along[0] * of.get(point[0] + r) + spot.along[1] * of.get(point[1] + r);
    }
};

static inline float factor_density(const FactorView &f, int32_t voxel, const float *inside) {
    int cell[3];
    cell_of_voxel(f.shape, voxel, cell);
    float sum = 0;
    for (int p = 0; p < 3; ++p) {
        const Spot spot(f, p, cell, inside);
        const AtSample at(f, p, spot, 0);
        sum += sum_of_terms(f.n_density, [&](auto of, int r) { return at.plane(of, r) * at.line(of, r); });
    }
    return sum;
}

}  // namespace vqrf::VQRF_ISA
