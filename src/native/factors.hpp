// Factored lattices: density and features as products of planes and lines. Twin: src/vqrf/kernels/reference.py; what the arrays
// are: `FactorArrays` in src/vqrf/kernels/__init__.py. Included by hot.cpp per instruction set.
//
// Determinism: the adjoint is cut into a fixed number of slabs of x; what several slabs add to is summed per slab, then in order.
#pragma once

#include <vector>

#include "isa.hpp"
#include "kernels.hpp"
#include "threads.hpp"

namespace vqrf::VQRF_ISA {

constexpr int N_SLABS = 8;
// Floats of plane p and of its line.
static inline int64_t plane_size(const FactorView &f, int p) {
    return static_cast<int64_t>(f.shape[PLANE_AXES[p][0]]) * f.shape[PLANE_AXES[p][1]] * (f.n_density + f.n_features);
}
static inline int64_t line_size(const FactorView &f, int p) {
    return static_cast<int64_t>(f.shape[PLANE_AXES[p][2]]) * (f.n_density + f.n_features);
}

// Where the components of a voxel begin, in plane p and in its line.
struct Place {
    int64_t plane, line;

    Place(const FactorView &f, int p, const int *at) {
        const int rank = f.n_density + f.n_features;
        plane = (static_cast<int64_t>(at[PLANE_AXES[p][0]]) * f.shape[PLANE_AXES[p][1]] + at[PLANE_AXES[p][1]]) * rank;
        line = static_cast<int64_t>(at[PLANE_AXES[p][2]]) * rank;
    }
};

// Call visit(voxel, its place in the lattice) for every marked voxel of planes x0..x1-1, in order.
template <class Visit>
static inline void for_marked(const FactorView &f, const uint8_t *marks, int x0, int x1, const Visit &visit) {
    const int64_t plane = static_cast<int64_t>(f.shape[1]) * f.shape[2];
    for (int x = x0; x < x1; ++x)
        for (int64_t i = 0; i < plane; ++i) {
            const int64_t voxel = x * plane + i;
            uint64_t eight;
            if (i + 8 <= plane && (std::memcpy(&eight, marks + voxel, 8), eight == 0)) {
                i += 7;
                continue;
            }
            if (!marks[voxel]) continue;
            const int at[3] = {x, static_cast<int>(i / f.shape[2]), static_cast<int>(i % f.shape[2])};
            visit(voxel, at);
        }
}

// RD, RF, C: components of density and features and channels; 0 where they are only known at run time.
template <int RD, int RF, int C>
static void expand_slab(const FactorView &f, const uint8_t *marks, int x0, int x1, float *density, float *features) {
    const int n_density = RD ? RD : f.n_density, n_features = RF ? RF : f.n_features, channels = C ? C : f.channels;
    for_marked(f, marks, x0, x1, [&](int64_t voxel, const int *at) {
        float sum = 0, color[MAX_CHANNELS] = {};
        for (int p = 0; p < 3; ++p) {
            const Place place(f, p, at);
            const float *a = f.plane[p] + place.plane, *b = f.line[p] + place.line;
            for (int r = 0; r < n_density; ++r) sum += a[r] * b[r];
            if (!features) continue;
            const float *mix = f.mix + static_cast<int64_t>(p) * n_features * channels;
            for (int r = 0; r < n_features; ++r) {
                const float x = a[n_density + r] * b[n_density + r];
                for (int c = 0; c < channels; ++c) color[c] += x * mix[r * channels + c];
            }
        }
        density[voxel] = sum;
        if (features)
            for (int c = 0; c < channels; ++c) features[voxel * channels + c] = color[c];
    });
}

// What slabs share: plane YZ, the lines of y and z, and the mix.
struct SharedGradients {
    std::vector<float> plane, line_y, line_z, mix;

    void clear(const FactorView &f) {
        plane.assign(plane_size(f, 2), 0), line_z.assign(line_size(f, 0), 0), line_y.assign(line_size(f, 1), 0);
        mix.assign(static_cast<size_t>(3) * f.n_features * f.channels, 0);
    }
};

static std::vector<SharedGradients> &shared_gradients() {
    static std::vector<SharedGradients> all(N_SLABS);
    return all;
}

template <int RD, int RF, int C>
static void gather_slab(const FactorView &f, const uint8_t *marks, int x0, int x1, float *density, float *features,
                        const FactorGradientView &to, SharedGradients &shared) {
    const int n_density = RD ? RD : f.n_density, n_features = RF ? RF : f.n_features, channels = C ? C : f.channels;
    float *plane_to[3] = {to.plane[0], to.plane[1], shared.plane.data()};
    float *line_to[3] = {shared.line_z.data(), shared.line_y.data(), to.line[2]};
    for_marked(f, marks, x0, x1, [&](int64_t voxel, const int *at) {
        const float by_density = density[voxel];
        float by_color[MAX_CHANNELS];
        for (int c = 0; c < channels; ++c) by_color[c] = features[voxel * channels + c];
        density[voxel] = 0;
        for (int c = 0; c < channels; ++c) features[voxel * channels + c] = 0;
        for (int p = 0; p < 3; ++p) {
            const Place place(f, p, at);
            const float *a = f.plane[p] + place.plane, *b = f.line[p] + place.line;
            float *__restrict a_to = plane_to[p] + place.plane, *__restrict b_to = line_to[p] + place.line;
            for (int r = 0; r < n_density; ++r) a_to[r] += by_density * b[r], b_to[r] += by_density * a[r];
            const float *mix = f.mix + static_cast<int64_t>(p) * n_features * channels;
            float *__restrict mix_to = shared.mix.data() + static_cast<int64_t>(p) * n_features * channels;
            float by_product[MAX_RANK];
            for (int r = 0; r < n_features; ++r) {
                float sum = 0;
                for (int c = 0; c < channels; ++c) sum += by_color[c] * mix[r * channels + c];
                by_product[r] = sum;
            }
            for (int r = 0; r < n_features; ++r) {
                const float x = a[n_density + r], y = b[n_density + r], product = x * y;
                a_to[n_density + r] += by_product[r] * y, b_to[n_density + r] += by_product[r] * x;
                for (int c = 0; c < channels; ++c) mix_to[r * channels + c] += by_color[c] * product;
            }
        }
    });
}

static int slab_start(const FactorView &f, int slab) { return f.shape[0] * slab / N_SLABS; }

static bool is(const FactorView &f, int n_density, int n_features, int channels) {
    return f.n_density == n_density && f.n_features == n_features && f.channels == channels;
}

template <int RD, int RF, int C>
static void expand_all(const FactorView &f, const uint8_t *marks, float *density, float *features) {
    const ThreadPool::Turn turn;
    turn.parallel_for(f.shape[0], [&](int64_t x) {
        expand_slab<RD, RF, C>(f, marks, static_cast<int>(x), static_cast<int>(x) + 1, density, features);
    });
}

static void expand_factors(const FactorView &f, const uint8_t *marks, float *density, float *features) {
    const auto expand = is(f, 16, 32, 12) ? expand_all<16, 32, 12> : is(f, 16, 48, 12) ? expand_all<16, 48, 12> : expand_all<0, 0, 0>;
    expand(f, marks, density, features);
}

template <int RD, int RF, int C>
static void gather_all(const FactorView &f, const uint8_t *marks, float *density, float *features, const FactorGradientView &to) {
    const ThreadPool::Turn turn;
    turn.parallel_for(N_SLABS, [&](int64_t slab) {
        SharedGradients &shared = shared_gradients()[slab];
        shared.clear(f);
        const int s = static_cast<int>(slab);
        gather_slab<RD, RF, C>(f, marks, slab_start(f, s), slab_start(f, s + 1), density, features, to, shared);
    });
    const auto add = [](float *sum, const std::vector<float> &part) {
        for (size_t i = 0; i < part.size(); ++i) sum[i] += part[i];
    };
    turn.parallel_for(4, [&](int64_t which) {
        for (const SharedGradients &shared : shared_gradients()) {
            if (which == 0) add(to.plane[2], shared.plane);
            if (which == 1) add(to.line[0], shared.line_z);
            if (which == 2) add(to.line[1], shared.line_y);
            if (which == 3) add(to.mix, shared.mix);
        }
    });
}

static void gather_factors(const FactorView &f, const uint8_t *marks, float *density, float *features,
                           const FactorGradientView &to) {
    const auto gather = is(f, 16, 32, 12) ? gather_all<16, 32, 12> : is(f, 16, 48, 12) ? gather_all<16, 48, 12> : gather_all<0, 0, 0>;
    gather(f, marks, density, features, to);
}

}  // namespace vqrf::VQRF_ISA
