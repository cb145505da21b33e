// Rays in groups: their samples, which of these have a colour, and what colours they have. Included by hot.cpp per instruction set.
#pragma once

#include <optional>
#include <vector>

#include "factors.hpp"
#include "harmonics.hpp"
#include "march.hpp"
#include "mlp.hpp"
#include "waves.hpp"

namespace vqrf::VQRF_ISA {

constexpr int GROUP_RAYS = 64;       // rays whose view parts are held at once
constexpr int GROUP_SHADED = 1024;   // shaded samples whose activations are held at once: about 0.6 MB at width 128

constexpr int32_t UNSHADED = -1, PASSED_OVER = -2;  // samples without a colour: too faint for one, or by chance

// Which shaded samples of a ray have a colour; see `Roulette` of the twin. Without a weight all have.
struct Chance {
    float surely = 0, sum = 0;

    // What the weight of the next one counts times, 0 for one that is passed over.
    float factor(float weight) {
        if (!(weight < surely)) return 1;
        sum += weight / surely;
        if (!(sum >= 1)) return 0;
        sum -= 1;
        return surely / weight;
    }
};

struct Group {
    std::vector<Sample> samples;
    std::vector<int64_t> rays;
    std::vector<int32_t> first;   // first sample of each ray, and one past the last
    std::vector<int32_t> shaded;  // per sample: its number among those with a colour, or UNSHADED or PASSED_OVER
    std::vector<float> factors;   // per one with a colour: see `Chance`
    std::vector<int32_t> colored; // per shaded one: its number among the samples; where the volume has factors
    std::vector<float> background;
    std::vector<int32_t> view_of;
    int n_shaded = 0;
    std::vector<float> features, rgb, rgb_gradient, input_gradient, harmonics, encodings, view_parts, view_gradients, products;
    Activations activations;
    BackwardScratch scratch;

    void clear() {
        samples.clear(), rays.clear(), first.clear(), shaded.clear(), factors.clear(), background.clear(), view_of.clear();
        n_shaded = 0;
    }
    bool full() const { return rays.size() >= GROUP_RAYS || n_shaded >= GROUP_SHADED; }
};

static void encode_view(const float *direction, int n_view, float *out) {
    const int n = (n_view - 3) / 6;
    for (int axis = 0; axis < 3; ++axis) {
        out[axis] = direction[axis];
        for (int k = 0; k < n; ++k) {
            const float angle = direction[axis] * static_cast<float>(1 << k);
            out[3 + axis * n + k] = std::sin(angle);
            out[3 + (3 + axis) * n + k] = std::cos(angle);
        }
    }
}

// A row out of range, above or below, counts as no row: nothing is read or written through it.
static inline bool is_pruned(const VolumeView &v, int64_t voxel) {
    return v.rows && static_cast<uint32_t>(v.rows[voxel]) >= static_cast<uint32_t>(v.n_rows);
}

template <int C4>
static inline void gather_quads(const VolumeView &v, const int32_t *corners, const float *w, float *out) {
    v4 sum[C4] = {};
    for (int corner = 0; corner < 8; ++corner) {
        const int64_t row = v.rows ? v.rows[corners[corner]] : corners[corner];
        if (is_pruned(v, corners[corner])) continue;
        const float *p = v.features + row * (4 * C4);
        for (int c = 0; c < C4; ++c) sum[c] += w[corner] * load4(p + 4 * c);
    }
    for (int c = 0; c < C4; ++c) store4(out + 4 * c, sum[c]);
}

// The same where the number of channels is known and no multiple of 4: the compiler unrolls it.
template <int C>
static inline void gather_row(const VolumeView &v, const int32_t *corners, const float *w, float *out) {
    float sum[C] = {};
    for (int corner = 0; corner < 8; ++corner) {
        const int64_t row = v.rows ? v.rows[corners[corner]] : corners[corner];
        if (is_pruned(v, corners[corner])) continue;
        const float *p = v.features + row * C;
        for (int c = 0; c < C; ++c) sum[c] += w[corner] * p[c];
    }
    for (int c = 0; c < C; ++c) out[c] = sum[c];
}

static inline void gather_features(const VolumeView &v, const Sample &s, float *out) {
    float w[8];
    int32_t corners[8];
    corner_shares(s.share, w);
    corner_voxels(v, s.voxel, corners);
    if (v.channels == 12) return gather_quads<3>(v, corners, w, out);
    if (v.channels == 27) return gather_row<27>(v, corners, w, out);
    for (int c = 0; c < v.channels; ++c) out[c] = 0;
    for (int corner = 0; corner < 8; ++corner) {
        const int64_t row = v.rows ? v.rows[corners[corner]] : corners[corner];
        if (is_pruned(v, corners[corner])) continue;
        const float *p = v.features + row * v.channels;
        for (int c = 0; c < v.channels; ++c) out[c] += w[corner] * p[c];
    }
}

static inline void prefetch_features(const VolumeView &v, int32_t voxel) {
    if (v.rows || v.is_factored()) return;
    const int64_t sx = static_cast<int64_t>(v.shape[1]) * v.shape[2], sy = v.shape[2];
    for (int64_t base : {int64_t{0}, sy, sx, sx + sy}) {
        const char *p = reinterpret_cast<const char *>(v.features + (voxel + base) * v.channels);
        __builtin_prefetch(p);
        __builtin_prefetch(p + 64);
    }
}

static void march_into(const VolumeView &v, const RayView &rays, int64_t ray, Group &g, Chance chance = {}) {
    const int32_t number = static_cast<int32_t>(g.rays.size());
    g.rays.push_back(ray);
    g.first.push_back(static_cast<int32_t>(g.samples.size()));
    g.background.push_back(march(v, rays.origins + 3 * ray, rays.directions + 3 * ray, [&](const Sample &s) {
        const float weight = weight_of(s);
        g.samples.push_back(s);
        if (!(weight > v.alpha_threshold)) return g.shaded.push_back(UNSHADED);
        const float factor = chance.factor(weight);
        if (factor == 0) return g.shaded.push_back(PASSED_OVER);
        g.shaded.push_back(g.n_shaded++);
        g.factors.push_back(factor);
        g.view_of.push_back(number);
        prefetch_features(v, s.voxel);
    }));
}

// Features of the group's shaded samples, as the first of what the network takes of each.
static void read_features(const VolumeView &v, const Mix *mix, Group &g) {
    const size_t stride = v.n_inputs();
    g.features.resize(round_up(g.n_shaded, TILE_ROWS) * stride);
    if (!v.is_factored()) {
        for (size_t i = 0; i < g.samples.size(); ++i)
            if (g.shaded[i] >= 0) gather_features(v, g.samples[i], &g.features[g.shaded[i] * stride]);
        return;
    }
    const FactorView &f = v.factors;
    g.colored.resize(g.n_shaded);
    for (size_t i = 0; i < g.samples.size(); ++i)
        if (g.shaded[i] >= 0) g.colored[g.shaded[i]] = static_cast<int32_t>(i);
    mix_products(
        f, *mix, g.n_shaded, g.products,
        [&](int i, int p, float *to) {
            const Sample &s = g.samples[g.colored[i]];
            int cell[3];
            cell_of_voxel(f.shape, s.voxel, cell);
            const Spot spot(f, p, cell, s.share);
            const AtSample at(f, p, spot, f.n_density);
            by_lanes(f.n_features, [&](auto of, int r) { of.put(to + r, at.plane(of, r) * at.line(of, r)); });
        },
        [&](int i) { return &g.features[i * stride]; });
}

// What the kernels of rays make of a volume once for all rays.
struct Prepared {
    Mlp mlp;
    std::optional<Mix> mix;

    explicit Prepared(const VolumeView &v) {
        if (v.n_layers) mlp.prepare(v);
        if (v.is_factored()) mix.emplace(v.factors);
    }
    const Mix *mix_or_null() const { return mix ? &*mix : nullptr; }
};

// Features and colours of the group's shaded samples.
static void shade(const VolumeView &v, const RayView &rays, const Prepared &prepared, Group &g) {
    g.first.push_back(static_cast<int32_t>(g.samples.size()));
    const int C = v.channels, n = g.n_shaded, n_rays = static_cast<int>(g.rays.size());
    g.rgb.resize(static_cast<size_t>(n) * 3);
    read_features(v, prepared.mix_or_null(), g);
    const Mlp &mlp = prepared.mlp;
    if (v.n_layers == 0) {
        const int n_harmonics = C / 3;
        g.harmonics.resize(static_cast<size_t>(n_rays) * n_harmonics);
        for (int r = 0; r < n_rays; ++r)
            view_harmonics(rays.directions + 3 * g.rays[r], n_harmonics, &g.harmonics[static_cast<size_t>(r) * n_harmonics]);
        const auto forward = C == 3 ? harmonics_forward<1> : C == 12 ? harmonics_forward<4> : harmonics_forward<9>;
        return forward(g.features.data(), g.view_of.data(), g.harmonics.data(), n, v.relu_color, g.rgb.data());
    }
    if (v.feature_frequencies) encode_features(v, n, g.features.data());
    g.encodings.resize(static_cast<size_t>(n_rays) * v.n_view);
    g.view_parts.resize(static_cast<size_t>(n_rays) * v.width);
    for (int r = 0; r < n_rays; ++r) {
        encode_view(rays.directions + 3 * g.rays[r], v.n_view, &g.encodings[static_cast<size_t>(r) * v.n_view]);
        mlp.view_part(&g.encodings[static_cast<size_t>(r) * v.n_view], &g.view_parts[static_cast<size_t>(r) * v.width]);
    }
    mlp_forward(mlp, g.features.data(), g.view_of.data(), g.view_parts.data(), n, g.activations, g.rgb.data());
}

static void composite(const VolumeView &v, const Group &g, int r, float *pixel, float *depth) {
    for (int c = 0; c < 3; ++c) pixel[c] = g.background[r] * v.background[c];
    float distance = 0;
    for (int i = g.first[r]; i < g.first[r + 1]; ++i) {
        const float w = weight_of(g.samples[i]);
        distance += w * g.samples[i].distance;
        if (g.shaded[i] < 0) continue;
        const float *color = &g.rgb[3 * static_cast<size_t>(g.shaded[i])];
        for (int c = 0; c < 3; ++c) pixel[c] += w * g.factors[g.shaded[i]] * color[c];
    }
    if (depth) *depth = distance;
}

}  // namespace vqrf::VQRF_ISA
