// Colours without a network: rgb logits, or real spherical harmonics of the ray's direction, forward and backward. Included by
// hot.cpp per instruction set. N harmonics: 1 for plain logits, 4 for degree 1, 9 for degree 2; a sample has 3 N features,
// colour after colour.
//
//   rgb_c = sigmoid(sum over k of Y_k(direction) * feature[c N + k]), or max(0.5 + that sum, 0) where `is_relu`
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace vqrf::VQRF_ISA {

static inline void view_harmonics(const float *direction, int n, float *out) {
    if (n == 1) {
        out[0] = 1;
        return;
    }
    const float x = direction[0], y = direction[1], z = direction[2];
    constexpr float one = 0.4886025119029199f, two = 1.0925484305920792f;
    out[0] = 0.28209479177387814f;
    out[1] = -one * y, out[2] = one * z, out[3] = -one * x;
    if (n == 4) return;
    out[4] = two * x * y, out[5] = -two * y * z;
    out[6] = 0.31539156525252005f * (2 * z * z - x * x - y * y);
    out[7] = -two * x * z, out[8] = two / 2 * (x * x - y * y);
}

// features [n][3 N], view_of [n] index into harmonics [.][N]; fills rgb [n][3].
template <int N>
static void harmonics_forward(const float *features, const int32_t *view_of, const float *harmonics, int n, bool is_relu, float *rgb) {
    for (int i = 0; i < n; ++i) {
        const float *y = harmonics + static_cast<size_t>(view_of[i]) * N;
        for (int c = 0; c < 3; ++c) {
            const size_t at = 3 * static_cast<size_t>(i) + c;
            float sum = 0;
            for (int k = 0; k < N; ++k) sum += y[k] * features[at * N + k];
            rgb[at] = !is_relu ? 1 / (1 + std::exp(-sum)) : sum > -0.5f ? 0.5f + sum : 0;
        }
    }
}

// rgb_gradient [n][3] with respect to the colours; writes feature_gradient [n][3 N].
template <int N>
static void harmonics_backward(const int32_t *view_of, const float *harmonics, const float *rgb, const float *rgb_gradient, int n,
                               bool is_relu, float *feature_gradient) {
    for (int i = 0; i < n; ++i) {
        const float *y = harmonics + static_cast<size_t>(view_of[i]) * N;
        for (int c = 0; c < 3; ++c) {
            const size_t at = 3 * static_cast<size_t>(i) + c;
            const float slope = rgb_gradient[at] * (!is_relu ? rgb[at] * (1 - rgb[at]) : rgb[at] > 0 ? 1.0f : 0.0f);
            for (int k = 0; k < N; ++k) feature_gradient[at * N + k] = slope * y[k];
        }
    }
}

}  // namespace vqrf::VQRF_ISA
