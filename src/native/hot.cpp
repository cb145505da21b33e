// The kernels of one instruction set. Compiled several times with other flags and another VQRF_ISA; see CMakeLists.txt.
//
// Determinism: rays are cut into N_SLOTS ranges that depend on their number only, each range is worked through in order, and
// slots are combined in order. How gradients reach what was sampled is in scatter.hpp. Results are therefore the same for any
// number of threads, bit for bit.
#include <algorithm>
#include <optional>
#include <vector>

#include "factors.hpp"
#include "group.hpp"
#include "harmonics.hpp"
#include "losses.hpp"
#include "march.hpp"
#include "mlp.hpp"
#include "scatter.hpp"
#include "threads.hpp"
#include "waves.hpp"

namespace vqrf::VQRF_ISA {

constexpr int N_SLOTS = 32;

struct RayRange {
    int64_t begin, end;
};

static RayRange slot_range(int64_t n, int slot) { return {n * slot / N_SLOTS, n * (slot + 1) / N_SLOTS}; }

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
            const float factor = g.factors[g.shaded[i]], counted = w * factor;
            for (int c = 0; c < 3; ++c) {
                if constexpr (Loss::IS_OF_PIXELS) {
                    weight_gradient += slope.rgb[c] * color[c];
                    gradient[c] = w * slope.rgb[c];
                } else {
                    const float error = color[c] - slope.target[c];
                    weight_gradient += slope.rgb[c] * (loss.is_by_chance() ? factor * error + slope.target[c] : color[c]);
                    gradient[c] = counted * (slope.rgb[c] + slope.point_color * 2 * error / static_cast<float>(loss.n_rays));
                    slot.stats.point_color += slope.weight * (static_cast<double>(counted) * error * error);
                }
            }
            record.feature = static_cast<int64_t>(slot.feature_gradients.size()) + static_cast<int64_t>(g.shaded[i]) * v.channels;
        } else if (!Loss::IS_OF_PIXELS && g.shaded[i] == PASSED_OVER) {
            for (int c = 0; c < 3; ++c) weight_gradient += slope.rgb[c] * slope.target[c];
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
                if (loss.counts(ray)) march_into(v, rays, ray, g, loss.chance(ray));
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
