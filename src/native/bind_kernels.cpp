// Python to kernels: reads the attributes of a `Volume`, checks shapes once, picks the instruction set, releases the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace vqrf {
namespace {

template <class T>
using Dense = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

std::vector<const Kernels *> available() {
    std::vector<const Kernels *> found{&kernels_baseline};
#if defined(VQRF_X86_64)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&kernels_avx2);
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (wide) found.push_back(&kernels_avx512);
    if (wide && __builtin_cpu_supports("avx512bf16")) found.push_back(&kernels_avx512bf16);
#endif
    return found;
}

const Kernels *current = nullptr;
std::mutex kernel_lock;  // scratch memory is shared: one kernel at a time

const Kernels &kernels() {
    if (!current) current = available().back();
    return *current;
}

void expect(bool condition, const std::string &message) {
    if (!condition) throw nb::value_error(message.c_str());
}

template <class T>
Dense<T> array(nb::handle object, const char *name, std::vector<int64_t> shape) {
    Dense<T> a;
    if (!nb::try_cast<Dense<T>>(object, a))
        throw nb::type_error((std::string(name) + ": expected a contiguous CPU array of another dtype").c_str());
    expect(a.ndim() == shape.size(), std::string(name) + ": wrong number of dimensions");
    for (size_t i = 0; i < shape.size(); ++i)
        expect(shape[i] < 0 || a.shape(i) == static_cast<size_t>(shape[i]), std::string(name) + ": wrong shape");
    return a;
}

// Keeps the arrays alive while `view` points into them.
struct Volume {
    VolumeView view{};
    std::vector<nb::object> owners;
};

template <class T>
T *keep(Volume &volume, nb::object object, const char *name, std::vector<int64_t> shape) {
    auto a = array<T>(object, name, std::move(shape));
    volume.owners.push_back(std::move(object));
    volume.owners.push_back(nb::cast(a));
    return a.data();
}

void read_layers(Volume &volume, nb::object object, nb::object equation) {
    VolumeView &v = volume.view;
    nb::object layers = object.attr("layers");
    v.n_layers = static_cast<int>(nb::len(layers));
    expect(v.n_layers == 0 || (v.n_layers >= 2 && v.n_layers <= MAX_LAYERS), "layers: expected none, or 2 to 10");
    v.feature_frequencies = nb::cast<int>(equation.attr("feature_frequencies"));
    expect(v.feature_frequencies >= 0 && v.feature_frequencies <= MAX_FEATURE_FREQUENCIES &&
               (v.n_layers > 0 || v.feature_frequencies == 0),
           "feature_frequencies: expected 0 to 10, and 0 without layers");
    int in = 0;
    for (int i = 0; i < v.n_layers; ++i) {
        nb::object pair = layers[i];
        auto weight = array<const float>(pair[0], "weight", {-1, -1});
        const int out = static_cast<int>(weight.shape(0));
        if (i == 0) {
            in = static_cast<int>(weight.shape(1));
            v.width = out;
            v.n_view = in - v.n_inputs();
            expect(v.n_view >= 3 && v.n_view <= MAX_VIEW && (v.n_view - 3) % 6 == 0,
                   "layers: the first takes features, their frequencies, and a view encoding of 3 + 6 n");
            expect(v.width % 16 == 0 && v.width <= MAX_WIDTH, "layers: hidden width must be a multiple of 16, at most 256");
        }
        const int expected_out = i + 1 == v.n_layers ? 3 : v.width;
        v.weight[i] = keep<const float>(volume, pair[0], "weight", {expected_out, i == 0 ? in : v.width});
        v.bias[i] = keep<const float>(volume, pair[1], "bias", {expected_out});
    }
    const auto shading = nb::cast<std::string>(equation.attr("shading"));
    expect(shading == "mlp" || shading == "sh" || shading == "sh_relu", "shading: " + shading + " is not supported");
    v.relu_color = shading == "sh_relu";
    if (shading != "mlp")
        expect(v.n_layers == 0 && (v.channels == 12 || v.channels == 27),
               "features: spherical harmonics have no layers and 12 or 27 channels");
    else
        expect(v.n_layers > 0 || v.channels == 3, "features: expected 3 channels where there are no layers");
}

Volume read_volume(nb::object object) {
    Volume volume;
    VolumeView &v = volume.view;
    nb::object equation = object.attr("equation");
    auto density = array<const float>(object.attr("density"), "density", {-1, -1, -1});
    for (int axis = 0; axis < 3; ++axis) {
        v.shape[axis] = static_cast<int>(density.shape(axis));
        v.lo[axis] = nb::cast<float>(object.attr("lo")[axis]);
        v.hi[axis] = nb::cast<float>(object.attr("hi")[axis]);
        v.background[axis] = nb::cast<float>(equation.attr("background")[axis]);
        expect(v.shape[axis] >= 2, "density: expected at least 2 voxels on every axis");
        expect(v.lo[axis] < v.hi[axis], "expected lo < hi");
        v.blocks[axis] = (v.shape[axis] - 1 + (1 << SKIP_BLOCK_LOG2) - 1) >> SKIP_BLOCK_LOG2;
    }
    expect(static_cast<int64_t>(v.shape[0]) * v.shape[1] * v.shape[2] < INT32_MAX, "density: too many voxels");
    v.density = keep<const float>(volume, object.attr("density"), "density", {-1, -1, -1});
    nb::object features = object.attr("features"), rows = object.attr("rows");
    const int64_t X = v.shape[0], Y = v.shape[1], Z = v.shape[2];
    if (rows.is_none()) {
        v.features = keep<const float>(volume, features, "features", {X, Y, Z, -1});
        v.channels = static_cast<int>(array<const float>(features, "features", {X, Y, Z, -1}).shape(3));
    } else {
        v.features = keep<const float>(volume, features, "features", {-1, -1});
        const auto table = array<const float>(features, "features", {-1, -1});
        v.channels = static_cast<int>(table.shape(1));
        v.n_rows = static_cast<int64_t>(table.shape(0));
        v.rows = keep<const int32_t>(volume, rows, "rows", {X, Y, Z});
    }
    expect(v.channels >= 1 && v.channels <= MAX_CHANNELS, "features: expected 1 to 64 channels");
    v.cells = keep<const uint8_t>(volume, object.attr("cells"), "cells", {X - 1, Y - 1, Z - 1});
    v.skip = keep<const uint8_t>(volume, object.attr("skip"), "skip", {v.blocks[0], v.blocks[1], v.blocks[2]});
    v.density_bias = nb::cast<float>(equation.attr("density_bias"));
    v.interval = nb::cast<float>(equation.attr("interval"));
    v.step = nb::cast<float>(equation.attr("step_world"));
    v.near = nb::cast<float>(equation.attr("near"));
    v.alpha_threshold = nb::cast<float>(equation.attr("alpha_threshold"));
    expect(v.step > 0 && v.interval > 0, "expected step_world > 0 and interval > 0");
    expect(v.alpha_threshold > 0 && v.alpha_threshold < 1, "alpha_threshold: expected 0 < threshold < 1");
    const auto activation = nb::cast<std::string>(equation.attr("activation"));
    expect(activation == "softplus" || activation == "relu", "activation: " + activation + " is not supported");
    v.relu_density = activation == "relu";
    const double depth = -std::log1p(-static_cast<double>(v.alpha_threshold)) / v.interval;
    const double x = v.relu_density ? depth : std::log(std::expm1(depth));
    // A hair low, so that rounding here never hides a sample whose alpha passes the test itself.
    v.density_floor = static_cast<float>(x - v.density_bias) - 1e-4f;
    read_layers(volume, object, equation);
    return volume;
}

RayView read_rays(const Dense<const float> &origins, const Dense<const float> &directions) {
    expect(origins.ndim() == 2 && origins.shape(1) == 3, "origins: expected [N,3]");
    expect(directions.ndim() == 2 && directions.shape(1) == 3, "directions: expected [N,3]");
    expect(origins.shape(0) == directions.shape(0), "origins and directions differ in number");
    return {origins.data(), directions.data(), static_cast<int64_t>(origins.shape(0))};
}

template <class F>
auto run(F &&body) {
    nb::gil_scoped_release release;
    std::lock_guard lock(kernel_lock);
    return body();
}

void render_rays(nb::object object, Dense<const float> origins, Dense<const float> directions, Dense<float> rgb,
                 Dense<float> background_weight, Dense<float> depth) {
    const Volume volume = read_volume(object);
    const RayView rays = read_rays(origins, directions);
    expect(rgb.size() == 3 * static_cast<size_t>(rays.n) && background_weight.size() == static_cast<size_t>(rays.n) &&
               depth.size() == static_cast<size_t>(rays.n),
           "outputs: wrong size");
    run([&] { kernels().render(volume.view, rays, rgb.data(), background_weight.data(), depth.data()); });
}

nb::dict render_gradients(nb::object object, Dense<const float> origins, Dense<const float> directions,
                          Dense<const float> targets, nb::object losses, nb::object gradients) {
    Volume volume = read_volume(object);
    const VolumeView &v = volume.view;
    const RayView rays = read_rays(origins, directions);
    expect(targets.ndim() == 2 && targets.shape(0) == origins.shape(0) && (targets.shape(1) == 3 || targets.shape(1) == 4),
           "targets: expected [N,3] or [N,4]");
    const LossView loss{targets.data(),
                        static_cast<int>(targets.shape(1)),
                        nb::cast<float>(losses.attr("background_entropy")),
                        nb::cast<float>(losses.attr("point_color")),
                        nb::cast<float>(losses.attr("opacity"))};
    const int64_t X = v.shape[0], Y = v.shape[1], Z = v.shape[2];
    GradientView to{};
    to.density = keep<float>(volume, gradients.attr("density"), "gradients.density", {X, Y, Z});
    to.features = keep<float>(volume, gradients.attr("features"), "gradients.features", {X, Y, Z, v.channels});
    to.touched = keep<uint8_t>(volume, gradients.attr("touched"), "gradients.touched", {X, Y, Z});
    nb::object layers = gradients.attr("layers");
    expect(static_cast<int>(nb::len(layers)) == v.n_layers, "gradients.layers: wrong number");
    for (int i = 0; i < v.n_layers; ++i) {
        const int out = i + 1 == v.n_layers ? 3 : v.width, in = i == 0 ? v.n_inputs() + v.n_view : v.width;
        to.weight[i] = keep<float>(volume, layers[i][0], "gradients.layers weight", {out, in});
        to.bias[i] = keep<float>(volume, layers[i][1], "gradients.layers bias", {out});
    }
    const BatchStats stats = run([&] { return kernels().gradients(v, rays, loss, to); });
    const double n = static_cast<double>(std::max<int64_t>(rays.n, 1));
    nb::dict answer;
    answer["mse"] = stats.squared_error / (3 * n);
    answer["background_entropy"] = stats.background_entropy / n;
    answer["point_color"] = stats.point_color / n;
    answer["opacity"] = stats.opacity / n;
    answer["n_live"] = static_cast<double>(stats.live);
    answer["n_shaded"] = static_cast<double>(stats.shaded);
    return answer;
}

void accumulate_importance(nb::object object, Dense<const float> origins, Dense<const float> directions,
                           Dense<double> importance) {
    const Volume volume = read_volume(object);
    const RayView rays = read_rays(origins, directions);
    expect(importance.ndim() == 3 && importance.size() == static_cast<size_t>(volume.view.shape[0]) * volume.view.shape[1] *
                                                              volume.view.shape[2],
           "importance: expected [X,Y,Z]");
    run([&] { kernels().importance(volume.view, rays, importance.data()); });
}

void hit_rays(nb::object object, Dense<const float> origins, Dense<const float> directions, Dense<uint8_t> hit) {
    const Volume volume = read_volume(object);
    const RayView rays = read_rays(origins, directions);
    expect(hit.size() == static_cast<size_t>(rays.n), "hit: wrong size");
    run([&] { kernels().hits(volume.view, rays, hit.data()); });
}

// Rays of pixels given by number: view by binary search in `starts` [V+1], then the pinhole and the pose [3,4] of that view.
void pixel_rays(Dense<const int64_t> pixels, Dense<const int64_t> starts, Dense<const int64_t> widths,
                Dense<const double> pinholes, Dense<const double> poses, Dense<float> origins, Dense<float> directions) {
    const int64_t n = static_cast<int64_t>(pixels.size()), n_views = static_cast<int64_t>(widths.size());
    expect(starts.size() == static_cast<size_t>(n_views + 1) && pinholes.size() == static_cast<size_t>(4 * n_views) &&
               poses.size() == static_cast<size_t>(12 * n_views),
           "starts [V+1], pinholes [V,4], poses [V,3,4]: expected the same V");
    expect(origins.size() == static_cast<size_t>(3 * n) && directions.size() == static_cast<size_t>(3 * n), "outputs: wrong size");
    const int64_t *pixel = pixels.data(), *start = starts.data();
    bool in_range = true;
    for (int64_t i = 0; i < n; ++i) in_range = in_range && pixel[i] >= 0 && pixel[i] < start[n_views];
    expect(in_range, "pixels: out of range");
    run([&] {
        constexpr int64_t CHUNK = 4096;
        ThreadPool::instance().parallel_for((n + CHUNK - 1) / CHUNK, [&](int64_t chunk) {
            for (int64_t i = chunk * CHUNK; i < std::min(n, (chunk + 1) * CHUNK); ++i) {
                const int64_t view = std::upper_bound(start, start + n_views + 1, pixel[i]) - start - 1;
                const int64_t local = pixel[i] - start[view], width = widths.data()[view];
                const double *pinhole = pinholes.data() + 4 * view, *pose = poses.data() + 12 * view;
                const double x = (static_cast<double>(local % width) + 0.5 - pinhole[2]) / pinhole[0];
                const double y = (static_cast<double>(local / width) + 0.5 - pinhole[3]) / pinhole[1];
                double d[3], square = 0;
                for (int axis = 0; axis < 3; ++axis) {
                    d[axis] = pose[4 * axis] * x - pose[4 * axis + 1] * y - pose[4 * axis + 2];
                    square += d[axis] * d[axis];
                }
                const double scale = 1 / std::sqrt(square);
                for (int axis = 0; axis < 3; ++axis) {
                    origins.data()[3 * i + axis] = static_cast<float>(pose[4 * axis + 3]);
                    directions.data()[3 * i + axis] = static_cast<float>(d[axis] * scale);
                }
            }
        });
    });
}

void find_cells(Dense<const float> density, float floor, std::optional<Dense<const uint8_t>> allowed, Dense<uint8_t> cells) {
    expect(density.ndim() == 3 && density.shape(0) >= 2 && density.shape(1) >= 2 && density.shape(2) >= 2,
           "density: expected [X,Y,Z], each at least 2");
    const int64_t X = density.shape(0), Y = density.shape(1), Z = density.shape(2);
    expect(cells.size() == static_cast<size_t>((X - 1) * (Y - 1) * (Z - 1)), "cells: wrong size");
    expect(!allowed || allowed->size() == cells.size(), "allowed: wrong size");
    const float *d = density.data();
    const uint8_t *mask = allowed ? allowed->data() : nullptr;
    uint8_t *to = cells.data();
    run([&] {
        ThreadPool::instance().parallel_for(X - 1, [&](int64_t x) {
            std::vector<float> highest(Z);  // of the four voxels that share z
            float *__restrict top = highest.data();
            for (int64_t y = 0; y < Y - 1; ++y) {
                const float *a = d + (x * Y + y) * Z, *b = a + Z, *c = a + Y * Z, *e = c + Z;
                for (int64_t z = 0; z < Z; ++z) {
                    const float near = a[z] > b[z] ? a[z] : b[z], far = c[z] > e[z] ? c[z] : e[z];
                    top[z] = near > far ? near : far;
                }
                const int64_t row = (x * (Y - 1) + y) * (Z - 1);
                uint8_t *__restrict cell = to + row;
                for (int64_t z = 0; z < Z - 1; ++z) cell[z] = (top[z] > top[z + 1] ? top[z] : top[z + 1]) > floor;
                if (mask)
                    for (int64_t z = 0; z < Z - 1; ++z) to[row + z] &= mask[row + z] != 0;
            }
        });
    });
}

// One pass of the distance transform along an axis: out = min over the line of max(distance along it, in).
void spread(std::vector<uint8_t> &values, int64_t n_lines, int64_t length, int64_t stride, const std::vector<int64_t> &starts) {
    std::vector<uint8_t> line(length);
    for (int64_t l = 0; l < n_lines; ++l) {
        uint8_t *p = &values[starts[l]];
        for (int64_t i = 0; i < length; ++i) line[i] = p[i * stride];
        for (int64_t i = 0; i < length; ++i) {
            int best = line[i];
            for (int64_t step = 1; step < best && (i - step >= 0 || i + step < length); ++step) {
                const int left = i - step >= 0 ? line[i - step] : 255, right = i + step < length ? line[i + step] : 255;
                best = std::min<int>(best, std::max<int>(static_cast<int>(step), std::min(left, right)));
            }
            p[i * stride] = static_cast<uint8_t>(best);
        }
    }
}

void measure_skip(Dense<const uint8_t> cells, Dense<uint8_t> skip) {
    expect(cells.ndim() == 3 && skip.ndim() == 3, "cells and skip: expected three dimensions");
    const int64_t n[3] = {static_cast<int64_t>(cells.shape(0)), static_cast<int64_t>(cells.shape(1)),
                          static_cast<int64_t>(cells.shape(2))};
    const int64_t b[3] = {static_cast<int64_t>(skip.shape(0)), static_cast<int64_t>(skip.shape(1)),
                          static_cast<int64_t>(skip.shape(2))};
    for (int axis = 0; axis < 3; ++axis)
        expect(b[axis] == (n[axis] + (1 << SKIP_BLOCK_LOG2) - 1) >> SKIP_BLOCK_LOG2, "skip: wrong shape");
    const uint8_t *from = cells.data();
    uint8_t *to = skip.data();
    run([&] {
        std::vector<uint8_t> values(static_cast<size_t>(b[0] * b[1] * b[2]), 255);
        for (int64_t x = 0; x < n[0]; ++x)
            for (int64_t y = 0; y < n[1]; ++y) {
                const uint8_t *row = from + (x * n[1] + y) * n[2];
                uint8_t *block = &values[((x >> SKIP_BLOCK_LOG2) * b[1] + (y >> SKIP_BLOCK_LOG2)) * b[2]];
                for (int64_t z = 0; z < n[2]; ++z)
                    if (row[z]) block[z >> SKIP_BLOCK_LOG2] = 0;
            }
        const int64_t stride[3] = {b[1] * b[2], b[2], 1};
        for (int axis = 0; axis < 3; ++axis) {
            std::vector<int64_t> starts;
            for (int64_t i = 0; i < static_cast<int64_t>(values.size()); ++i)
                if (i / stride[axis] % b[axis] == 0) starts.push_back(i);
            spread(values, static_cast<int64_t>(starts.size()), b[axis], stride[axis], starts);
        }
        std::copy(values.begin(), values.end(), to);
    });
}

void masked_adam(Dense<float> values, Dense<float> gradient, Dense<float> first, Dense<float> second,
                 std::optional<Dense<const uint8_t>> touched, std::optional<Dense<const float>> rates, float rate, int64_t step,
                 float epsilon) {
    expect(values.ndim() >= 1 && gradient.size() == values.size() && first.size() == values.size() && second.size() == values.size(),
           "values, gradient, first and second: expected one shape");
    expect(step >= 1, "step: expected 1 or more");
    AdamView a{};
    a.values = values.data(), a.gradient = gradient.data(), a.first = first.data(), a.second = second.data();
    a.n_voxels = static_cast<int64_t>(values.shape(0));
    a.channels = a.n_voxels ? static_cast<int>(values.size() / values.shape(0)) : 1;
    expect(!touched || static_cast<int64_t>(touched->size()) == a.n_voxels, "touched: expected one per voxel");
    expect(!rates || static_cast<int64_t>(rates->size()) == a.n_voxels, "rate: expected one per voxel");
    a.touched = touched ? touched->data() : nullptr;
    a.rates = rates ? rates->data() : nullptr;
    a.rate = rate, a.epsilon = epsilon;
    a.correction1 = static_cast<float>(1 - std::pow(0.9, static_cast<double>(step)));
    a.correction2 = static_cast<float>(1 - std::pow(0.99, static_cast<double>(step)));
    run([&] { kernels().adam(a); });
}

void add_total_variation(Dense<const float> values, Dense<float> gradient, std::optional<Dense<const uint8_t>> touched,
                         float weight) {
    expect(values.ndim() == 4 && gradient.size() == values.size(), "values and gradient: expected [X,Y,Z,C]");
    const int64_t X = values.shape(0), Y = values.shape(1), Z = values.shape(2), C = values.shape(3);
    expect(!touched || static_cast<int64_t>(touched->size()) == X * Y * Z, "touched: expected [X,Y,Z]");
    const float *from = values.data();
    float *to = gradient.data();
    const uint8_t *mask = touched ? touched->data() : nullptr;
    const int64_t stride[3] = {Y * Z * C, Z * C, C};
    run([&] {
        ThreadPool::instance().parallel_for(X, [&](int64_t x) {
            for (int64_t y = 0; y < Y; ++y)
                for (int64_t z = 0; z < Z; ++z) {
                    const int64_t voxel = (x * Y + y) * Z + z, at[3] = {x, y, z}, side[3] = {X, Y, Z};
                    if (mask && !mask[voxel]) continue;
                    const float *here = from + voxel * C;
                    const float *around[6];
                    for (int axis = 0; axis < 3; ++axis) {  // beyond the lattice: the voxel itself, which differs by 0
                        around[2 * axis] = at[axis] > 0 ? here - stride[axis] : here;
                        around[2 * axis + 1] = at[axis] + 1 < side[axis] ? here + stride[axis] : here;
                    }
                    for (int64_t c = 0; c < C; ++c) {
                        float sum = 0;
                        for (const float *there : around) {
                            const float apart = here[c] - there[c];
                            sum += apart < -1 ? -1.0f : apart > 1 ? 1.0f : apart;
                        }
                        to[voxel * C + c] += weight * sum;
                    }
                }
        });
    });
}

void assign_codes(Dense<const float> vectors, Dense<const float> codebook, Dense<int32_t> codes, Dense<float> distances) {
    expect(vectors.ndim() == 2 && codebook.ndim() == 2 && vectors.shape(1) == codebook.shape(1),
           "vectors [N,C] and codebook [K,C]: expected the same C");
    expect(codebook.shape(0) >= 1, "codebook: expected at least one codeword");
    expect(codes.size() == vectors.shape(0) && distances.size() == vectors.shape(0), "outputs: wrong size");
    run([&] {
        kernels().assign(vectors.data(), static_cast<int64_t>(vectors.shape(0)), static_cast<int>(vectors.shape(1)),
                         codebook.data(), static_cast<int>(codebook.shape(0)), codes.data(), distances.data());
    });
}

void sum_by_code(Dense<const float> values, Dense<const double> weights, Dense<const int32_t> codes, Dense<double> sums,
                 Dense<double> totals) {
    expect(values.ndim() == 2 && sums.ndim() == 2 && sums.shape(1) == values.shape(1), "values [N,C], sums [K,C]");
    expect(weights.size() == values.shape(0) && codes.size() == values.shape(0) && totals.size() == sums.shape(0),
           "weights, codes or totals: wrong size");
    const int64_t n = static_cast<int64_t>(values.shape(0)), C = static_cast<int64_t>(values.shape(1));
    const int64_t n_codes = static_cast<int64_t>(sums.shape(0));
    const int32_t *code = codes.data();
    bool in_range = true;
    for (int64_t i = 0; i < n; ++i) in_range = in_range && code[i] >= 0 && code[i] < n_codes;
    expect(in_range, "codes: out of range");
    run([&] {
        for (int64_t i = 0; i < n; ++i) {
            const double w = weights.data()[i];
            double *to = sums.data() + code[i] * C;
            const float *from = values.data() + i * C;
            for (int64_t c = 0; c < C; ++c) to[c] += w * from[c];
            totals.data()[code[i]] += w;
        }
    });
}

template <class T, class View>
void read_factors(nb::object object, const FactorView &f, View &to) {
    for (int p = 0; p < 3; ++p) {
        const int64_t a = f.shape[PLANE_AXES[p][0]], b = f.shape[PLANE_AXES[p][1]], c = f.shape[PLANE_AXES[p][2]];
        const int64_t rank = f.n_density + f.n_features;
        to.plane[p] = array<T>(object.attr("planes")[p], "planes", {a, b, rank}).data();
        to.line[p] = array<T>(object.attr("lines")[p], "lines", {c, rank}).data();
    }
    to.mix = array<T>(object.attr("mix"), "mix", {3, f.n_features, f.channels}).data();
}

FactorView view_factors(nb::object factors, const Dense<float> &density) {
    FactorView f{};
    expect(density.ndim() == 3, "density: expected [X,Y,Z]");
    for (int axis = 0; axis < 3; ++axis) f.shape[axis] = static_cast<int>(density.shape(axis));
    const auto mix = array<const float>(factors.attr("mix"), "mix", {3, -1, -1});
    f.n_features = static_cast<int>(mix.shape(1)), f.channels = static_cast<int>(mix.shape(2));
    const auto line = array<const float>(factors.attr("lines")[0], "lines", {-1, -1});
    f.n_density = static_cast<int>(line.shape(1)) - f.n_features;
    expect(f.n_density >= 1 && f.n_features >= 1 && f.n_features <= MAX_RANK && f.channels >= 1 && f.channels <= MAX_CHANNELS,
           "factors: expected components of density, 1 to 128 of features, and 1 to 64 channels");
    read_factors<const float>(factors, f, f);
    return f;
}

void expand_factors(nb::object factors, Dense<const uint8_t> marks, Dense<float> density, std::optional<Dense<float>> features) {
    const FactorView f = view_factors(factors, density);
    expect(marks.size() == density.size(), "marks: expected [X,Y,Z]");
    expect(!features || features->size() == density.size() * f.channels, "features: expected [X,Y,Z,C]");
    run([&] { kernels().expand_factors(f, marks.data(), density.data(), features ? features->data() : nullptr); });
}

void gather_factors(nb::object factors, Dense<const uint8_t> marks, Dense<float> density, Dense<float> features,
                    nb::object gradients) {
    const FactorView f = view_factors(factors, density);
    expect(marks.size() == density.size(), "marks: expected [X,Y,Z]");
    expect(features.size() == density.size() * f.channels, "features: expected [X,Y,Z,C]");
    FactorGradientView to{};
    read_factors<float>(gradients, f, to);
    run([&] { kernels().gather_factors(f, marks.data(), density.data(), features.data(), to); });
}

// Two tasks own the two halves of the channels, so that every sum keeps the voxels' order.
void tie_gradients(Dense<float> gradient, Dense<const int32_t> rows, Dense<const uint8_t> touched, Dense<float> table_gradient) {
    expect(gradient.ndim() == 2 && table_gradient.ndim() == 2 && gradient.shape(1) == table_gradient.shape(1),
           "gradient [V,C], table_gradient [R,C]");
    expect(rows.size() == gradient.shape(0) && touched.size() == gradient.shape(0), "rows, touched: expected one per voxel");
    const int64_t n = static_cast<int64_t>(gradient.shape(0)), C = static_cast<int64_t>(gradient.shape(1));
    const int64_t n_rows = static_cast<int64_t>(table_gradient.shape(0));
    run([&] {
        ThreadPool::instance().parallel_for(2, [&](int64_t half) {
            const int64_t begin = half ? C / 2 : 0, end = half ? C : C / 2;
            const uint8_t *mask = touched.data();
            for (int64_t v = 0; v < n; ++v) {
                uint64_t eight;
                if (v + 8 <= n && (std::memcpy(&eight, mask + v, 8), eight == 0)) {
                    v += 7;
                    continue;
                }
                if (!mask[v] || rows.data()[v] < 0 || rows.data()[v] >= n_rows) continue;
                float *from = gradient.data() + v * C;
                float *to = table_gradient.data() + rows.data()[v] * C;
                for (int64_t c = begin; c < end; ++c) to[c] += from[c], from[c] = 0;
            }
        });
    });
}

}  // namespace
}  // namespace vqrf

void bind_kernels(nb::module_ &m) {
    using namespace vqrf;
    m.def("render_rays", &render_rays);
    m.def("render_gradients", &render_gradients);
    m.def("accumulate_importance", &accumulate_importance);
    m.def("hit_rays", &hit_rays);
    m.def("pixel_rays", &pixel_rays);
    m.def("find_cells", &find_cells, nb::arg("density"), nb::arg("floor"), nb::arg("allowed").none(), nb::arg("cells"));
    m.def("measure_skip", &measure_skip);
    m.def("masked_adam", &masked_adam, nb::arg("values"), nb::arg("gradient"), nb::arg("first"), nb::arg("second"),
          nb::arg("touched").none(), nb::arg("rates").none(), nb::arg("rate"), nb::arg("step"), nb::arg("epsilon"));
    m.def("add_total_variation", &add_total_variation, nb::arg("values"), nb::arg("gradient"), nb::arg("touched").none(),
          nb::arg("weight"));
    m.def("assign_codes", &assign_codes);
    m.def("sum_by_code", &sum_by_code);
    m.def("tie_gradients", &tie_gradients);
    m.def("expand_factors", &expand_factors, nb::arg("factors"), nb::arg("marks"), nb::arg("density"),
          nb::arg("features").none());
    m.def("gather_factors", &gather_factors);
    m.def("set_threads", [](int n) { run([&] { ThreadPool::instance().set_threads(n); }); });
    m.def("n_threads", [] { return ThreadPool::instance().n_threads(); });
    m.def("instruction_sets", [] {
        std::vector<std::string> names;
        for (const Kernels *k : available()) names.emplace_back(k->name);
        return names;
    });
    m.def("instruction_set", [] { return std::string(kernels().name); });
    m.def("color_tolerance", [] { return kernels().color_tolerance; });
    m.def("use_instruction_set", [](const std::string &name) {
        for (const Kernels *k : available())
            if (name == k->name) {
                current = k;
                return;
            }
        throw nb::value_error(("this CPU or this build has no kernels for " + name).c_str());
    });
}
