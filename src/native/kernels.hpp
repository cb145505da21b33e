// What the bindings and the kernels of each instruction set share: plain views of arrays, and a table of functions.
// Semantics and notation: src/vqrf/kernels/__init__.py. Twin: src/vqrf/kernels/reference.py.
#pragma once

#include <cstdint>

namespace vqrf {

constexpr int MAX_LAYERS = 10;
constexpr int MAX_CHANNELS = 64;
constexpr int MAX_RANK = 128;  // components of the features on a plane
constexpr int MAX_WIDTH = 256;
constexpr int MAX_FEATURE_FREQUENCIES = 10;
constexpr int MAX_VIEW = 64;  // view encoding, 3 + 6 n entries
constexpr int SKIP_BLOCK_LOG2 = 2;
constexpr float STOP_TRANSMITTANCE = 1e-3f;

struct VolumeView {
    float lo[3], hi[3];
    int shape[3];
    const float *density;
    const float *features;
    const int32_t *rows;  // or null: voxel v has row v
    int64_t n_rows;       // rows of `features`, where there are `rows`
    int channels;
    const uint8_t *cells;
    const uint8_t *skip;
    int blocks[3];
    float density_bias, interval, step, near, alpha_threshold;
    bool relu_density;    // the density's activation is a ReLU, not a softplus
    bool relu_color;      // harmonics are coloured by a ReLU, not by a sigmoid
    float density_floor;  // raw density whose alpha is alpha_threshold
    float background[3];
    int n_layers;  // 0, or 2 and more; without any 3 channels are rgb logits, 12 or 27 coefficients of spherical harmonics
    const float *weight[MAX_LAYERS];
    const float *bias[MAX_LAYERS];
    int width;    // of every hidden layer, a multiple of 16
    int n_view;   // entries of the view encoding
    int feature_frequencies;  // 0 without layers

    // What a layer takes of a sample's features: themselves and their sines and cosines.
    int n_inputs() const { return channels * (1 + 2 * feature_frequencies); }
};

struct RayView {
    const float *origins;
    const float *directions;
    int64_t n;
};

struct GradientView {
    float *density;
    float *features;
    float *weight[MAX_LAYERS];
    float *bias[MAX_LAYERS];
    uint8_t *touched;
};

struct LossView {
    const float *targets;
    int target_channels;  // 3, or 4 with the opacity
    float background_entropy, point_color, opacity;
};

struct BatchStats {
    double squared_error = 0, background_entropy = 0, point_color = 0, opacity = 0;
    int64_t live = 0, shaded = 0;
};

struct AdamView {
    float *values, *gradient, *first, *second;
    const uint8_t *touched;  // or null: all
    const float *rates;      // or null: `rate` for all
    int64_t n_voxels;
    int channels;
    float rate, epsilon;
    float correction1, correction2;  // 1 - beta^step
};

// Planes XY, XZ, YZ against lines Z, Y, X: the axes of a plane, and that of its line.
constexpr int PLANE_AXES[3][3] = {{0, 1, 2}, {0, 2, 1}, {1, 2, 0}};

// A lattice as products of planes and lines, see factors.hpp.
struct FactorView {
    int shape[3];
    int n_density, n_features, channels;
    const float *plane[3], *line[3], *mix;  // [.,.,n_density + n_features], [., the same], [3,n_features,channels]
};

struct FactorGradientView {
    float *plane[3], *line[3], *mix;
};

// One instruction set's kernels. Tasks are deterministic whatever thread runs them.
struct Kernels {
    const char *name;
    float color_tolerance;  // absolute error of a colour against float32 arithmetic
    void (*render)(const VolumeView &, const RayView &, float *rgb, float *background_weight, float *depth);
    BatchStats (*gradients)(const VolumeView &, const RayView &, const LossView &, const GradientView &);
    void (*importance)(const VolumeView &, const RayView &, double *importance);
    void (*hits)(const VolumeView &, const RayView &, uint8_t *hit);
    void (*adam)(const AdamView &);
    void (*assign)(const float *vectors, int64_t n, int channels, const float *codebook, int n_codes, int32_t *codes,
                   float *distances);
    void (*expand_factors)(const FactorView &, const uint8_t *marks, float *density, float *features);
    void (*gather_factors)(const FactorView &, const uint8_t *marks, float *density, float *features,
                           const FactorGradientView &);
};

extern const Kernels kernels_baseline;
#if defined(VQRF_X86_64)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512bf16;
#endif

}  // namespace vqrf
