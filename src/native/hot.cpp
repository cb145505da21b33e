// The kernels of one instruction set. Compiled several times with other flags and another VQRF_ISA; see CMakeLists.txt.
//
// Determinism: rays are cut into N_SLOTS ranges that depend on their number only, each range is worked through in order, and
// slots are combined in order. How gradients reach what was sampled is in scatter.hpp. Results are therefore the same for any
// number of threads, bit for bit.
#include <algorithm>
#include <optional>
#include <vector>

#include "factors.hpp"
#include "harmonics.hpp"
#include "march.hpp"
#include "mlp.hpp"
#include "scatter.hpp"
#include "threads.hpp"
#include "waves.hpp"

namespace vqrf::VQRF_ISA {

constexpr int N_SLOTS = 32;
constexpr int GROUP_RAYS = 64;       // rays whose view parts are held at once
constexpr int GROUP_SHADED = 1024;   // shaded samples whose activations are held at once: about 0.6 MB at width 128

struct RayRange {
    int64_t begin, end;
};

static RayRange slot_range(int64_t n, int slot) { return {n * slot / N_SLOTS, n * (slot + 1) / N_SLOTS}; }

struct Group {
    std::vector<Sample> samples;
    std::vector<int64_t> rays;
    std::vector<int32_t> first;   // first sample of each ray, and one past the last
    std::vector<int32_t> shaded;  // per sample: its number among the shaded ones, -1 for none
    std::vector<int32_t> colored; // per shaded one: its number among the samples; where the volume has factors
    std::vector<float> background;
    std::vector<int32_t> view_of;
    int n_shaded = 0;
    std::vector<float> features, rgb, rgb_gradient, input_gradient, harmonics, encodings, view_parts, view_gradients, products;
    Activations activations;
    BackwardScratch scratch;

    void clear() {
        samples.clear(), rays.clear(), first.clear(), shaded.clear(), background.clear(), view_of.clear();
        n_shaded = 0;
    }
    bool full() const { return rays.size() >= GROUP_RAYS || n_shaded >= GROUP_SHADED; }
};

struct Slot {
    Group group;
    MlpGradients mlp;
    std::vector<Record> records;
    std::vector<float> feature_gradients;
    BatchStats stats;
};

// Kept between calls so that no step pays for fresh pages; whoever uses them holds a turn of the thread pool.
static std::vector<Slot> &slots() {
    static std::vector<Slot> all(N_SLOTS);
    return all;
}

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

static void march_into(const VolumeView &v, const RayView &rays, int64_t ray, Group &g) {
    const int32_t number = static_cast<int32_t>(g.rays.size());
    g.rays.push_back(ray);
    g.first.push_back(static_cast<int32_t>(g.samples.size()));
    g.background.push_back(march(v, rays.origins + 3 * ray, rays.directions + 3 * ray, [&](const Sample &s) {
        const bool is_shaded = s.transmittance * s.alpha > v.alpha_threshold;
        g.samples.push_back(s);
        g.shaded.push_back(is_shaded ? g.n_shaded++ : -1);
        if (is_shaded) {
            g.view_of.push_back(number);
            prefetch_features(v, s.voxel);
        }
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

static inline float weight_of(const Sample &s) { return s.transmittance * s.alpha; }

static void composite(const VolumeView &v, const Group &g, int r, float *pixel, float *depth) {
    for (int c = 0; c < 3; ++c) pixel[c] = g.background[r] * v.background[c];
    float distance = 0;
    for (int i = g.first[r]; i < g.first[r + 1]; ++i) {
        const float w = weight_of(g.samples[i]);
        distance += w * g.samples[i].distance;
        if (g.shaded[i] < 0) continue;
        for (int c = 0; c < 3; ++c) pixel[c] += w * g.rgb[3 * static_cast<size_t>(g.shaded[i]) + c];
    }
    if (depth) *depth = distance;
}

static void render(const VolumeView &v, const RayView &rays, float *rgb, float *background_weight, float *depth) {
    const ThreadPool::Turn turn;
    const Prepared prepared(v);
    turn.parallel_for(N_SLOTS, [&](int64_t slot) {
        Group &g = slots()[slot].group;
        const RayRange range = slot_range(rays.n, static_cast<int>(slot));
        for (int64_t ray = range.begin; ray < range.end;) {
            g.clear();
            for (; ray < range.end && !g.full(); ++ray) march_into(v, rays, ray, g);
            shade(v, rays, prepared, g);
            for (size_t r = 0; r < g.rays.size(); ++r) {
                composite(v, g, static_cast<int>(r), rgb + 3 * g.rays[r], depth + g.rays[r]);
                background_weight[g.rays[r]] = g.background[r];
            }
        }
    });
}

// How a loss changes with what one ray sees.
struct PixelSlope {
    float rgb[3];
    float background;     // with the background weight, what that does to the colour included
    float depth;
    float point_color;    // the weight of that term of the loss
    float weight;         // of the ray
    const float *target;  // what the colours of samples are compared with
};

// Of `LossWeights.distortion`: how far the weights of a ray's samples are apart, for samples that are gone through from the last.
struct Apart {
    const double spacing;
    double weight = 0, moment = 0;                // of all samples, and then of those before
    double weight_behind = 0, moment_behind = 0;  // of those that are gone through
    double total = 0;

    Apart(double spacing, const Group &g, int r) : spacing(spacing) {
        for (int i = g.first[r]; i < g.first[r + 1]; ++i) {
            weight += weight_of(g.samples[i]);
            moment += weight_of(g.samples[i]) * (g.samples[i].way * spacing);
        }
    }

    // How it changes with the weight of the next sample.
    double slope(const Sample &s) {
        const double w = weight_of(s), at = s.way * spacing;
        weight -= w, moment -= w * at;
        const double away = at * weight - moment + moment_behind - at * weight_behind;  // sum over others of w_j |s_i - s_j|
        weight_behind += w, moment_behind += w * at;
        total += w * (away + spacing / 3 * w);
        return 2 * (away + spacing / 3 * w);
    }
};

// The loss against targets. One of its terms looks at the samples themselves, and none at the depth.
struct TargetLoss {
    static constexpr bool IS_OF_PIXELS = false;
    const LossView &loss;
    int64_t n_rays;

    bool counts(int64_t ray) const { return !loss.weights || loss.weights[ray] != 0; }
    double spacing() const { return loss.spacing; }
    double by_apart(const PixelSlope &slope) const { return slope.weight * loss.distortion / static_cast<double>(n_rays); }

    PixelSlope operator()(const VolumeView &v, const Group &g, int r, BatchStats &stats) const {
        const float *target = loss.targets + loss.target_channels * g.rays[r];
        const float last = g.background[r], weight = loss.weights ? loss.weights[g.rays[r]] : 1.0f;
        float pixel[3];
        PixelSlope slope{{}, 0, 0, weight * loss.point_color, weight, target};
        composite(v, g, r, pixel, nullptr);
        for (int c = 0; c < 3; ++c) {
            const float error = pixel[c] - target[c];
            stats.squared_error += weight * (static_cast<double>(error) * error);
            slope.rgb[c] = weight * (2 * error / (3 * static_cast<float>(n_rays)));
            slope.background += slope.rgb[c] * v.background[c];
        }
        const float p = lesser(greater(last, 1e-6f), 1 - 1e-6f);
        stats.background_entropy += weight * static_cast<double>(-(p * std::log(p) + (1 - p) * std::log(1 - p)));
        if (last > 1e-6f && last < 1 - 1e-6f)
            slope.background += weight * loss.background_entropy / static_cast<float>(n_rays) * (std::log(1 - p) - std::log(p));
        if (loss.target_channels == 4 && !std::isnan(target[3])) {  // one that nobody knows is no target
            const float error = last - (1 - target[3]);
            stats.opacity += weight * (static_cast<double>(error) * error);
            slope.background += weight * loss.opacity * 2 * error / static_cast<float>(n_rays);
        }
        return slope;
    }
};

// Any other loss, of which the slopes are known.
struct GivenSlopes {
    static constexpr bool IS_OF_PIXELS = true;
    const PixelSlopeView &given;
    int64_t n_rays;

    bool counts(int64_t) const { return true; }
    double spacing() const { return 0; }
    double by_apart(const PixelSlope &) const { return 0; }

    PixelSlope operator()(const VolumeView &v, const Group &g, int r, BatchStats &) const {
        const int64_t ray = g.rays[r];
        PixelSlope slope{{}, 0, given.depth ? given.depth[ray] : 0, 0, 1, nullptr};
        for (int c = 0; c < 3; ++c) {
            slope.rgb[c] = given.rgb[3 * ray + c];
            slope.background += slope.rgb[c] * v.background[c];
        }
        if (given.background_weight) slope.background += given.background_weight[ray];
        return slope;
    }
};

// The gradient of one ray with respect to colours (into g.rgb_gradient) and densities (into the records).
template <class Loss>
static void ray_backward(const VolumeView &v, const Loss &loss, int r, Slot &slot) {
    Group &g = slot.group;
    const PixelSlope slope = loss(v, g, r, slot.stats);
    const double by_apart = loss.by_apart(slope);
    std::optional<Apart> apart;
    if (by_apart != 0) apart.emplace(loss.spacing(), g, r);
    float behind = slope.background * g.background[r];  // sum over what is behind sample i of dL/dw_j * w_j, background included
    for (int i = g.first[r + 1] - 1; i >= g.first[r]; --i) {
        const Sample &s = g.samples[i];
        const float w = weight_of(s);
        float weight_gradient = Loss::IS_OF_PIXELS ? slope.depth * s.distance : 0;
        if (apart) weight_gradient += static_cast<float>(by_apart * apart->slope(s));
        Record record{s.voxel, {s.share[0], s.share[1], s.share[2]}, 0, -1};
        if (g.shaded[i] >= 0) {
            const float *color = &g.rgb[3 * static_cast<size_t>(g.shaded[i])];
            float *gradient = &g.rgb_gradient[3 * static_cast<size_t>(g.shaded[i])];
            for (int c = 0; c < 3; ++c) {
                weight_gradient += slope.rgb[c] * color[c];
                if constexpr (Loss::IS_OF_PIXELS) {
                    gradient[c] = w * slope.rgb[c];
                } else {
                    const float error = color[c] - slope.target[c];
                    gradient[c] = w * (slope.rgb[c] + slope.point_color * 2 * error / static_cast<float>(loss.n_rays));
                    slot.stats.point_color += slope.weight * (static_cast<double>(w) * error * error);
                }
            }
            record.feature = static_cast<int64_t>(slot.feature_gradients.size()) + static_cast<int64_t>(g.shaded[i]) * v.channels;
        }
        record.amount = s.slope * (weight_gradient * s.transmittance * (1 - s.alpha) - behind);
        behind += weight_gradient * w;
        slot.records.push_back(record);
    }
    if (apart) slot.stats.distortion += slope.weight * apart->total;
}

template <class Loss>
static void group_backward(const VolumeView &v, const Loss &loss, const Mlp &mlp, Slot &slot) {
    Group &g = slot.group;
    const size_t n = static_cast<size_t>(g.n_shaded), n_group = g.rays.size();
    g.rgb_gradient.resize(3 * n);
    for (size_t r = 0; r < n_group; ++r) ray_backward(v, loss, static_cast<int>(r), slot);
    slot.stats.live += static_cast<int64_t>(g.samples.size());
    slot.stats.shaded += g.n_shaded;
    const size_t base = slot.feature_gradients.size();
    slot.feature_gradients.resize(base + n * v.channels);
    float *feature_gradient = slot.feature_gradients.data() + base;
    if (v.n_layers == 0) {
        const auto backward = v.channels == 3    ? harmonics_backward<1>
                              : v.channels == 12 ? harmonics_backward<4>
                                                 : harmonics_backward<9>;
        return backward(g.view_of.data(), g.harmonics.data(), g.rgb.data(), g.rgb_gradient.data(), g.n_shaded, v.relu_color,
                        feature_gradient);
    }
    g.view_gradients.assign(n_group * v.width, 0);
    float *input_gradient = feature_gradient;  // the same where features have no frequencies
    if (v.feature_frequencies) {
        g.input_gradient.resize(n * v.n_inputs());
        input_gradient = g.input_gradient.data();
    }
    mlp_backward(mlp, g.activations, g.features.data(), g.view_of.data(), g.rgb.data(), g.rgb_gradient.data(), g.n_shaded,
                 g.scratch, slot.mlp, g.view_gradients.data(), input_gradient);
    if (v.feature_frequencies) encode_features_backward(v, g.n_shaded, g.features.data(), input_gradient, feature_gradient);
    for (size_t r = 0; r < n_group; ++r)
        view_backward(mlp, &g.view_gradients[r * v.width], &g.encodings[r * v.n_view], slot.mlp);
}

static void scatter_to_voxels(const ThreadPool::Turn &turn, const VolumeView &v, const GradientView &to) {
    const int C = v.channels;
    const int64_t sx = static_cast<int64_t>(v.shape[1]) * v.shape[2], sy = v.shape[2];
    scatter_by_plane(turn, v, slots(), [&](const SortedRecord &s, const SortedRecord *ahead, const float *w, const int32_t *corners, int begin, int end) {
        if (ahead && ahead->feature)
            for (int64_t base : {int64_t{0}, sy, sx, sx + sy}) {
                const float *p = to.features + (ahead->record.voxel + base) * C;
                __builtin_prefetch(p, 1);
                __builtin_prefetch(p + 16, 1);
            }
        for (int corner = begin; corner < end; ++corner) {
            const int64_t voxel = corners[corner];
            if (is_pruned(v, voxel)) continue;
            to.touched[voxel] = 1;
            to.density[voxel] += w[corner] * s.record.amount;
            if (!s.feature) continue;
            float *p = to.features + voxel * C;
            if (C == 12) {
                for (int c = 0; c < 12; c += 4) store4(p + c, load4(p + c) + w[corner] * load4(s.feature + c));
            } else if (C == 27) {
                for (int c = 0; c < 27; ++c) p[c] += w[corner] * s.feature[c];
            } else {
                for (int c = 0; c < C; ++c) p[c] += w[corner] * s.feature[c];
            }
        }
    });
}

template <class Loss>
static BatchStats differentiate(const VolumeView &v, const RayView &rays, const Loss &loss, const GradientView &to) {
    const ThreadPool::Turn turn;
    const Prepared prepared(v);
    const Mlp &mlp = prepared.mlp;
    turn.parallel_for(N_SLOTS, [&](int64_t number) {
        Slot &slot = slots()[number];
        Group &g = slot.group;
        slot.records.clear(), slot.feature_gradients.clear();
        slot.stats = BatchStats{};
        if (v.n_layers) slot.mlp.clear(mlp);
        const RayRange range = slot_range(rays.n, static_cast<int>(number));
        for (int64_t ray = range.begin; ray < range.end;) {
            g.clear();
            for (; ray < range.end && !g.full(); ++ray)
                if (loss.counts(ray)) march_into(v, rays, ray, g);
            shade(v, rays, prepared, g);
            group_backward(v, loss, mlp, slot);
        }
    });
    if (v.is_factored())
        scatter_to_factors(turn, v, slots(), *prepared.mix, to);
    else
        scatter_to_voxels(turn, v, to);
    BatchStats stats;
    for (const Slot &slot : slots()) {
        stats.squared_error += slot.stats.squared_error;
        stats.background_entropy += slot.stats.background_entropy;
        stats.point_color += slot.stats.point_color;
        stats.opacity += slot.stats.opacity;
        stats.distortion += slot.stats.distortion;
        stats.live += slot.stats.live;
        stats.shaded += slot.stats.shaded;
        if (v.n_layers) slot.mlp.add_to(mlp, v.sides, to);
    }
    return stats;
}

static BatchStats gradients(const VolumeView &v, const RayView &rays, const LossView &loss, const GradientView &to) {
    return differentiate(v, rays, TargetLoss{loss, rays.n}, to);
}

static void backpropagate(const VolumeView &v, const RayView &rays, const PixelSlopeView &slopes, const GradientView &to) {
    differentiate(v, rays, GivenSlopes{slopes, rays.n}, to);
}

// counted: by the lowest voxel of a cell, whether its samples count; null where all do.
static void importance(const VolumeView &v, const RayView &rays, const uint8_t *counted, double *to) {
    const ThreadPool::Turn turn;
    turn.parallel_for(N_SLOTS, [&](int64_t number) {
        Slot &slot = slots()[number];
        slot.records.clear();
        const RayRange range = slot_range(rays.n, static_cast<int>(number));
        for (int64_t ray = range.begin; ray < range.end; ++ray)
            march(v, rays.origins + 3 * ray, rays.directions + 3 * ray, [&](const Sample &s) {
                const float w = weight_of(s);
                if (w > v.alpha_threshold && (!counted || counted[s.voxel])) slot.records.push_back({s.voxel, {s.share[0], s.share[1], s.share[2]}, w, -1});
            });
    });
    scatter_by_plane(turn, v, slots(), [&](const SortedRecord &s, const SortedRecord *, const float *w, const int32_t *corners, int begin, int end) {
        for (int corner = begin; corner < end; ++corner)
            to[corners[corner]] += static_cast<double>(w[corner]) * s.record.amount;
    });
}

static void hits(const VolumeView &v, const RayView &rays, uint8_t *hit) {
    constexpr int64_t CHUNK = 4096;
    const ThreadPool::Turn turn;
    turn.parallel_for((rays.n + CHUNK - 1) / CHUNK, [&](int64_t chunk) {
        for (int64_t ray = chunk * CHUNK; ray < std::min(rays.n, (chunk + 1) * CHUNK); ++ray) {
            bool met = false;
            follow(v, rays.origins + 3 * ray, rays.directions + 3 * ray, [&](const Path &path) {
                met = walk(v, path, [](int32_t, const float *, int) { return false; });
                return !met;
            });
            hit[ray] = met;
        }
    });
}

constexpr int ADAM_CHUNK = 4096, ADAM_AHEAD = 6;

// CHANNELS is known where it is common, so that a voxel's row is a few vectors; 0 for any other.
template <int CHANNELS>
static void adam_rows(const AdamView &a, const int32_t *rows, int n_rows, int64_t begin) {
    const int channels = CHANNELS ? CHANNELS : a.channels;
    const float beta1 = a.beta1, beta2 = a.beta2, root2 = std::sqrt(a.correction2);
    for (int i = 0; i < n_rows; ++i) {
        if (i + ADAM_AHEAD < n_rows) {  // touched voxels are too far apart for the hardware to guess the next one
            const int64_t ahead = (begin + rows[i + ADAM_AHEAD]) * channels;
            for (const float *p : {a.values + ahead, a.gradient + ahead, a.first + ahead, a.second + ahead}) {
                __builtin_prefetch(p, 1);
                if (channels > 4) __builtin_prefetch(p + channels - 1, 1);
            }
        }
        const int64_t voxel = begin + rows[i], at = voxel * channels;
        const float step = (a.rates ? a.rates[voxel] * a.rate : a.rate) / a.correction1;
        float *__restrict values = a.values + at, *__restrict gradient = a.gradient + at;
        float *__restrict first = a.first + at, *__restrict second = a.second + at;
        for (int c = 0; c < channels; ++c) {
            const float g = gradient[c];
            const bool moves = g != 0;
            const float m = beta1 * first[c] + (1 - beta1) * g;
            const float s = beta2 * second[c] + (1 - beta2) * g * g;
            const float value = values[c] - step * m / (std::sqrt(s) / root2 + a.epsilon);
            first[c] = moves ? m : first[c];
            second[c] = moves ? s : second[c];
            values[c] = moves ? value : values[c];
            gradient[c] = 0;
        }
    }
}

static int list_touched(const AdamView &a, int64_t begin, int64_t end, int32_t *rows) {
    int n = 0;
    for (int64_t voxel = begin; voxel < end; ++voxel) {
        uint64_t eight;
        if (a.touched && voxel + 8 <= end && (std::memcpy(&eight, a.touched + voxel, 8), eight == 0)) {
            voxel += 7;
            continue;
        }
        if (!a.touched || a.touched[voxel]) rows[n++] = static_cast<int32_t>(voxel - begin);
    }
    return n;
}

static void adam(const AdamView &a) {
    const ThreadPool::Turn turn;
    turn.parallel_for((a.n_voxels + ADAM_CHUNK - 1) / ADAM_CHUNK, [&](int64_t chunk) {
        const int64_t begin = chunk * ADAM_CHUNK;
        int32_t rows[ADAM_CHUNK];
        const int n = list_touched(a, begin, lesser<int64_t>(a.n_voxels, begin + ADAM_CHUNK), rows);
        if (a.channels == 12) return adam_rows<12>(a, rows, n, begin);
        if (a.channels == 27) return adam_rows<27>(a, rows, n, begin);
        if (a.channels == 1) return adam_rows<1>(a, rows, n, begin);
        adam_rows<0>(a, rows, n, begin);
    });
}

// Nearest codeword by score |c|^2 / 2 - x.c; codes side by side in the lanes, ROWS vectors at a time.
static void assign(const float *vectors, int64_t n, int channels, const float *codebook, int n_codes, int32_t *codes,
                   float *distances) {
    constexpr int ROWS = 8;
    constexpr int64_t CHUNK = 1024;
    const int padded = round_up(n_codes, LANES);
    std::vector<float> columns(static_cast<size_t>(channels) * padded, 0.0f), half(padded, 3e38f);
    for (int k = 0; k < n_codes; ++k) {
        float sum = 0;
        for (int c = 0; c < channels; ++c) {
            const float x = codebook[static_cast<size_t>(k) * channels + c];
            columns[static_cast<size_t>(c) * padded + k] = x;
            sum += x * x;
        }
        half[k] = sum / 2;
    }
    const ThreadPool::Turn turn;
    turn.parallel_for((n + CHUNK - 1) / CHUNK, [&](int64_t chunk) {
        for (int64_t begin = chunk * CHUNK; begin < std::min(n, (chunk + 1) * CHUNK); begin += ROWS) {
            const int rows = static_cast<int>(std::min<int64_t>(ROWS, std::min(n, (chunk + 1) * CHUNK) - begin));
            vf best[ROWS];
            vi where[ROWS];
            const float *x[ROWS];
            for (int r = 0; r < ROWS; ++r) {
                best[r] = splat(3.4e38f), where[r] = vi{};
                x[r] = vectors + (begin + std::min(r, rows - 1)) * channels;
            }
            for (int k = 0; k < padded; k += LANES) {
                vf score[ROWS];
                for (int r = 0; r < ROWS; ++r) score[r] = load(&half[k]);
                for (int c = 0; c < channels; ++c) {
                    const vf column = load(&columns[static_cast<size_t>(c) * padded + k]);
                    for (int r = 0; r < ROWS; ++r) score[r] -= x[r][c] * column;
                }
                const vi block = vi{} + k;
                for (int r = 0; r < ROWS; ++r) {
                    const vi better = score[r] < best[r];
                    best[r] = better ? score[r] : best[r];
                    where[r] = better ? block : where[r];
                }
            }
            for (int r = 0; r < rows; ++r) {
                float lowest = best[r][0];
                int code = where[r][0];
                for (int lane = 1; lane < LANES; ++lane) {
                    const int candidate = where[r][lane] + lane;
                    if (best[r][lane] < lowest || (best[r][lane] == lowest && candidate < code))
                        lowest = best[r][lane], code = candidate;
                }
                float square = 0;
                for (int c = 0; c < channels; ++c) {
                    const float d = x[r][c] - codebook[static_cast<size_t>(code) * channels + c];
                    square += d * d;
                }
                codes[begin + r] = code, distances[begin + r] = square;
            }
        }
    });
}

}  // namespace vqrf::VQRF_ISA

namespace vqrf {

extern const Kernels VQRF_TABLE = {VQRF_NAME,
                                   VQRF_ISA::COLOR_TOLERANCE,
                                   VQRF_ISA::render,
                                   VQRF_ISA::gradients,
                                   VQRF_ISA::backpropagate,
                                   VQRF_ISA::importance,
                                   VQRF_ISA::hits,
                                   VQRF_ISA::adam,
                                   VQRF_ISA::assign,
                                   VQRF_ISA::expand_factors};

}  // namespace vqrf
