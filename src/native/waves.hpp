// Sines and cosines of features, and their gradient. Included by hot.cpp per instruction set.
#pragma once

#include <cmath>

#include "isa.hpp"
#include "kernels.hpp"

namespace vqrf::VQRF_ISA {

constexpr float MAX_WAVE_ANGLE = 8192;  // beyond it the reduction below loses digits

// The sines and cosines of angles within +-MAX_WAVE_ANGLE, to 1e-7: reduced by quarter turns to +-pi/4, where a polynomial is as
// good as float32. Source: Cephes' sinf and cosf, whose constants these are (S. L. Moshier).
static inline void sines_cosines(vf angle, vf &sine, vf &cosine) {
    const vf turns = angle * 0.63661977236758134f;
    const vi quarter = __builtin_convertvector(turns + (turns < 0.0f ? splat(-0.5f) : splat(0.5f)), vi);
    const vf whole = __builtin_convertvector(quarter, vf);
    const vf r = ((angle - whole * 1.5703125f) - whole * 4.837512969970703125e-4f) - whole * 7.549789948768648e-8f;
    const vf z = r * r;
    const vf s = r + r * z * (-1.6666654611e-1f + z * (8.3321608736e-3f - z * 1.9515295891e-4f));
    const vf c = 1.0f - 0.5f * z + z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
    const vi is_odd = (quarter & 1) != 0;
    const vf from_sine = is_odd ? c : s, from_cosine = is_odd ? s : c;
    sine = (quarter & 2) != 0 ? -from_sine : from_sine;
    cosine = ((quarter + 1) & 2) != 0 ? -from_cosine : from_cosine;
}

// The first C of [n][n_inputs] are features; fills in their sines, then their cosines, all frequencies of one after the other.
static void encode_features(const VolumeView &v, int n, float *inputs) {
    const int C = v.channels, F = v.feature_frequencies;
    for (int i = 0; i < n; ++i, inputs += v.n_inputs()) {
        float *sines = inputs + C, *cosines = sines + C * F;
        for (int k = 0; k < F; ++k)
            for (int begin = 0; begin < C; begin += LANES) {
                const int lanes = lesser(C - begin, LANES);
                float angle[LANES] = {}, sine[LANES], cosine[LANES];
                bool is_small = true;
                for (int lane = 0; lane < lanes; ++lane) {
                    angle[lane] = inputs[begin + lane] * static_cast<float>(1 << k);
                    is_small = is_small && std::abs(angle[lane]) < MAX_WAVE_ANGLE;
                }
                if (is_small) {
                    vf s, c;
                    sines_cosines(load(angle), s, c);
                    store(sine, s), store(cosine, c);
                } else {
                    for (int lane = 0; lane < lanes; ++lane) sine[lane] = std::sin(angle[lane]), cosine[lane] = std::cos(angle[lane]);
                }
                for (int lane = 0; lane < lanes; ++lane)
                    sines[(begin + lane) * F + k] = sine[lane], cosines[(begin + lane) * F + k] = cosine[lane];
            }
    }
}

// The gradient [n][C] of features, of that of their inputs; `inputs` as `encode_features` left them.
static void encode_features_backward(const VolumeView &v, int n, const float *inputs, const float *input_gradient,
                                     float *feature_gradient) {
    const int C = v.channels, F = v.feature_frequencies;
    for (int i = 0; i < n; ++i, inputs += v.n_inputs(), input_gradient += v.n_inputs(), feature_gradient += C)
        for (int c = 0; c < C; ++c) {
            float sum = input_gradient[c];
            for (int k = 0; k < F; ++k) {
                const int sine = C + c * F + k, cosine = sine + C * F;
                sum += static_cast<float>(1 << k) * (inputs[cosine] * input_gradient[sine] - inputs[sine] * input_gradient[cosine]);
            }
            feature_gradient[c] = sum;
        }
}

}  // namespace vqrf::VQRF_ISA
