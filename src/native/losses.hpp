// Losses of rays: how they change with what each ray of a group sees. Included by hot.cpp per instruction set.
#pragma once

#include <cmath>

#include "group.hpp"

namespace vqrf::VQRF_ISA {

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

// What samples that are passed over would have had, less what others have in their place: it has the colour of the target.
static float owed_weight(const Group &g, int r) {
    float owed = 0;
    for (int i = g.first[r]; i < g.first[r + 1]; ++i)
        if (g.shaded[i] != UNSHADED) owed += weight_of(g.samples[i]) * (g.shaded[i] < 0 ? 1 : 1 - g.factors[g.shaded[i]]);
    return owed;
}

// The loss against targets. One of its terms looks at the samples themselves, and none at the depth.
struct TargetLoss {
    static constexpr bool IS_OF_PIXELS = false;
    const LossView &loss;
    int64_t n_rays;

    bool counts(int64_t ray) const { return !loss.weights || loss.weights[ray] != 0; }
    bool is_by_chance() const { return loss.chances != nullptr; }
    Chance chance(int64_t ray) const { return loss.chances ? Chance{loss.surely, loss.chances[ray]} : Chance{}; }
    double spacing() const { return loss.spacing; }
    double by_apart(const PixelSlope &slope) const { return slope.weight * loss.distortion / static_cast<double>(n_rays); }

    PixelSlope operator()(const VolumeView &v, const Group &g, int r, BatchStats &stats) const {
        const float *target = loss.targets + loss.target_channels * g.rays[r];
        const float last = g.background[r], weight = loss.weights ? loss.weights[g.rays[r]] : 1.0f;
        float pixel[3];
        PixelSlope slope{{}, 0, 0, weight * loss.point_color, weight, target};
        composite(v, g, r, pixel, nullptr);
        const float owed = is_by_chance() ? owed_weight(g, r) : 0.0f;
        for (int c = 0; c < 3; ++c) {
            pixel[c] += owed * target[c];
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
    bool is_by_chance() const { return false; }
    Chance chance(int64_t) const { return {}; }
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

}  // namespace vqrf::VQRF_ISA
