// What the bindings and the kernels share: limits, plain views of arrays, and the kernels themselves. Nothing here, and none of the
// kernels, knows Python. They trust the shapes, which the bindings have checked, and check the numbers of rows that arrays hold;
// what is out of range is a std::invalid_argument.
// Semantics and notation: src/vqrf/kernels/__init__.py. Twin: src/vqrf/kernels/reference.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vqrf {

// What the compiled core can do; src/vqrf/kernels/native.py reads these from here.
constexpr int MAX_LAYERS = 10;
constexpr int MAX_CHANNELS = 64;
constexpr int MAX_RANK = 128;  // components of the features on a plane
constexpr int MAX_WIDTH = 256;
constexpr int MAX_VIEW_FREQUENCIES = 10;
constexpr int64_t MAX_VOXELS = INT32_MAX - 1;

// Of the contract: src/vqrf/kernels/__init__.py has the same, and a test holds them together.
constexpr int MAX_FEATURE_FREQUENCIES = 10;
constexpr int SKIP_BLOCK_LOG2 = 2;
constexpr float STOP_TRANSMITTANCE = 1e-3f;
constexpr int MAX_SAMPLES = 1 << 16;  // of a ray
constexpr int SSIM_WINDOW = 11;
constexpr double SSIM_SIGMA = 1.5, SSIM_K1 = 0.01, SSIM_K2 = 0.03;
constexpr float MAX_STEPS = 14 + (1 << 14) - 1, BITS_UNIT = 1.0f / 16, FIRST_STEP = 1.5f;

constexpr int MAX_VIEW = 3 + 6 * MAX_VIEW_FREQUENCIES + 1;  // entries of the view encoding, and one to make it even
constexpr int WIDTH_UNIT = 16;                              // hidden layers are padded to a multiple of it
constexpr int N_PARENTS = 8;

// Blocks along an axis of so many cells.
constexpr int64_t count_blocks(int64_t cells) { return (cells + (1 << SKIP_BLOCK_LOG2) - 1) >> SKIP_BLOCK_LOG2; }

// A contiguous matrix, row by row.
template <class T>
struct Rows {
    T *data;
    int64_t n, columns;

    T *row(int64_t i) const { return data + i * columns; }
};

// Planes XY, XZ, YZ against lines Z, Y, X: the axes of a plane, and that of its line.
constexpr int PLANE_AXES[3][3] = {{0, 1, 2}, {0, 2, 1}, {1, 2, 0}};

// A lattice as products of planes and lines, see factors.hpp.
struct FactorView {
    int shape[3];
    int n_density, n_features, channels;
    const float *plane[3], *line[3], *mix;  // [.,.,n_density + n_features], [., the same], [3,n_features,channels]

    int rank() const { return n_density + n_features; }
    int64_t n_rows(int p) const { return static_cast<int64_t>(shape[PLANE_AXES[p][0]]) * shape[PLANE_AXES[p][1]]; }
};

struct FactorGradientView {
    float *plane[3], *line[3], *mix;
};

// How places come of the world: as they are, by a projective map, or by `Unbounded` of src/vqrf/geometry.py.
enum class SpaceKind { BOX, FRONT, UNBOUNDED };

struct VolumeView {
    float lo[3], hi[3];
    int shape[3];
    const float *density;
    const float *features;
    const int32_t *rows;  // or null: voxel v has row v
    int64_t n_rows;       // rows of `features`, where there are `rows`
    FactorView factors;   // in the place of density and features where there is a `mix`
    int channels;
    const uint8_t *cells;
    const uint8_t *skip;
    int blocks[3];
    float density_bias, interval, step, near, alpha_threshold;
    bool relu_density;    // the density's activation is a ReLU, not a softplus
    bool relu_color;      // harmonics are coloured by a ReLU, not by a sigmoid
    float density_floor;  // raw density whose alpha is alpha_threshold
    float background[3];
    SpaceKind space_kind;
    double space[4][4];  // its map, where it is no box
    int n_layers;  // 0, or 2 and more; without any 3 channels are rgb logits, 12 or 27 coefficients of spherical harmonics
    const float *weight[MAX_LAYERS];
    const float *bias[MAX_LAYERS];
    int sides[MAX_LAYERS];    // what each layer puts out
    int width;                // of the widest hidden layer, padded to a multiple of WIDTH_UNIT; all are padded to it with zeros
    int n_view;               // entries of the view encoding
    int feature_frequencies;  // 0 without layers

    bool is_factored() const { return factors.mix != nullptr; }

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
    uint8_t *touched;            // voxels, or rows of the three planes one after the other
    FactorGradientView factors;  // in the place of density and features where the volume has factors
};

struct LossView {
    const float *targets;
    int target_channels;  // 3, or 4 with the opacity
    float background_entropy, point_color, opacity, distortion;
    double spacing;  // of samples, by the longest way through the lattice
    const float *weights;  // of rays, or null: all are 1; a ray of weight 0 is not looked at
    float surely;          // shaded samples of this weight and more have a colour, the others by chance; where there are
    const float *chances;  // of rays, in 0..1, or null: all have one
};

// How a loss changes with the pixels of rays, one after the other.
struct PixelSlopeView {
    const float *rgb;                // [n][3]
    const float *background_weight;  // [n], or null: not at all
    const float *depth;              // [n], or null: not at all
};

struct BatchStats {
    double squared_error = 0, background_entropy = 0, point_color = 0, opacity = 0, distortion = 0;
    int64_t live = 0, shaded = 0;
};

struct AdamView {
    float *values, *gradient, *first, *second;
    const uint8_t *touched;  // or null: all
    const float *rates;      // or null: `rate` for all
    int64_t n_voxels;
    int channels;
    float rate, epsilon;
    float beta1, beta2;
    float correction1, correction2;  // 1 - beta^step
};

// Pixels by number, and the cameras of the views that they count through.
struct PixelView {
    const int64_t *pixels;
    int64_t n, n_views;
    const int64_t *starts;   // [n_views + 1]
    const int64_t *widths;   // [n_views]
    const double *pinholes;  // [n_views][4]
    const double *poses;     // [n_views][3][4]
};

// Two images [height][width][channels], each at least SSIM_WINDOW pixels wide and high.
template <class T>
struct ImagePair {
    const T *a, *b;
    int64_t height, width, channels;
};

// The links between two levels of a pyramid, from above.
struct ChildView {
    const int32_t *first;  // [parents + 1]
    const int32_t *child;  // [n]
    const float *share;    // [n]
    int64_t n;
};

// The kernels that are compiled for each instruction set. Tasks are deterministic whatever thread runs them.
struct Kernels {
    const char *name;
    float color_tolerance;  // absolute error of a colour against float32 arithmetic
    void (*render)(const VolumeView &, const RayView &, float *rgb, float *background_weight, float *depth);
    BatchStats (*gradients)(const VolumeView &, const RayView &, const LossView &, const GradientView &);
    void (*backpropagate)(const VolumeView &, const RayView &, const PixelSlopeView &, const GradientView &);
    void (*importance)(const VolumeView &, const RayView &, const uint8_t *counted, double *importance);
    void (*hits)(const VolumeView &, const RayView &, uint8_t *hit);
    void (*adam)(const AdamView &);
    void (*assign)(const float *vectors, int64_t n, int channels, const float *codebook, int n_codes, int32_t *codes,
                   float *distances);
    void (*expand_factors)(const FactorView &, const uint8_t *marks, float *density, float *features);
};

extern const Kernels kernels_baseline;
#if defined(VQRF_X86_64)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512bf16;
extern const Kernels kernels_amx;
#endif

// dispatch.cpp: those of this CPU, slowest first, and the one in use, which is the best unless another was chosen.
std::vector<const Kernels *> instruction_sets();
const Kernels &kernels();
void use_instruction_set(const std::string &name);

// views.cpp
void pixel_rays(const PixelView &, float *origins, float *directions);

// images.cpp
template <class T>
double measure_ssim(const ImagePair<T> &);

// lattice.cpp; `shape` is [3], of voxels, and of cells in `measure_skip`. `allowed` and `touched` may be null.
void find_cells(const float *density, const int64_t *shape, float floor, const uint8_t *allowed, uint8_t *cells);
void measure_skip(const uint8_t *cells, const int64_t *shape, uint8_t *skip);
void add_total_variation(const float *values, const int64_t *shape, int64_t channels, const uint8_t *touched, float weight,
                         float *gradient);

// rows.cpp
void sum_by_code(Rows<const float> values, const double *weights, const int32_t *codes, Rows<double> sums, double *totals);
void tie_gradients(Rows<float> gradient, const int32_t *rows, const uint8_t *touched, Rows<float> table_gradient);
void add_sparsity(Rows<const float> values, int64_t n_columns, const uint8_t *touched, float weight, float *gradient);
void move_gradients(Rows<float> gradient, const int64_t *voxels, const uint8_t *touched, const float *matrix,
                    Rows<float> row_gradient);
void place_rows(Rows<const float> values, const float *scales, const int64_t *places, Rows<float> table);
void take_rows(Rows<float> table, const float *scales, const int64_t *places, Rows<float> values);

// levels.cpp
void raise_level(Rows<float> fine, Rows<const float> coarse, const int32_t *parents);
void lower_gradient(Rows<const float> fine, Rows<float> coarse, const ChildView &);
void round_to_steps(Rows<const float> values, const float *steps, double dead_zone, float *rounded);
void add_rate_gradient(Rows<const float> values, const float *steps, const uint8_t *first_bits, float weight, float *gradient);

}  // namespace vqrf
