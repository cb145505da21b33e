// Kernels of rays, as Python sees them: reads the attributes of a `Volume` and checks shapes.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "bindings.hpp"

namespace vqrf {
namespace {

// Keeps the arrays alive while `view` points into them.
struct Volume {
    VolumeView view{};
    std::vector<nb::object> owners;
};

template <class T>
T *keep(Volume &volume, nb::object object, const char *name, const std::vector<int64_t> &shape) {
    auto a = array<T>(object, name, shape);
    volume.owners.push_back(std::move(object));
    volume.owners.push_back(nb::cast(a));
    return a.data();
}

void read_layers(Volume &volume, nb::object object, nb::object equation) {
    VolumeView &v = volume.view;
    nb::object layers = object.attr("layers");
    v.n_layers = static_cast<int>(nb::len(layers));
    expect(v.n_layers == 0 || (v.n_layers >= 2 && v.n_layers <= MAX_LAYERS),
           "layers: expected none, or 2 to " + std::to_string(MAX_LAYERS));
    v.feature_frequencies = nb::cast<int>(equation.attr("feature_frequencies"));
    expect(v.feature_frequencies >= 0 && v.feature_frequencies <= MAX_FEATURE_FREQUENCIES &&
               (v.n_layers > 0 || v.feature_frequencies == 0),
           "feature_frequencies: expected 0 to 10, and 0 without layers");
    for (int i = 0, in = -1; i < v.n_layers; ++i, in = v.sides[i - 1]) {
        nb::object pair = layers[i];
        const auto weight = array<const float>(pair[0], "weight", {i + 1 == v.n_layers ? 3 : -1, in});
        v.sides[i] = static_cast<int>(weight.shape(0));
        if (i == 0) {
            v.n_view = static_cast<int>(weight.shape(1)) - v.n_inputs();
            expect(v.n_view >= 3 && v.n_view <= 3 + 6 * MAX_VIEW_FREQUENCIES && (v.n_view - 3) % 6 == 0,
                   "layers: the first takes features, their frequencies, and a view encoding of 3 + 6 n");
        }
        if (i + 1 < v.n_layers) {
            expect(v.sides[i] >= 1 && v.sides[i] <= MAX_WIDTH, "layers: hidden width must be at most " + std::to_string(MAX_WIDTH));
            v.width = std::max(v.width, (v.sides[i] + WIDTH_UNIT - 1) / WIDTH_UNIT * WIDTH_UNIT);
        }
        v.weight[i] = keep<const float>(volume, pair[0], "weight", {-1, -1});
        v.bias[i] = keep<const float>(volume, pair[1], "bias", {v.sides[i]});
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
        v.blocks[axis] = static_cast<int>(count_blocks(v.shape[axis] - 1));
    }
    nb::object space = object.attr("space");
    if (!space.is_none()) {
        const auto name = nb::cast<std::string>(space.attr("name"));
        expect(name == "front" || name == "unbounded", "space: " + name + " is not supported");
        v.space_kind = name == "front" ? SpaceKind::FRONT : SpaceKind::UNBOUNDED;
        for (int row = 0; row < 4; ++row)
            for (int column = 0; column < 4; ++column)
                v.space[row][column] = nb::cast<double>(space.attr("matrix")[row][column]);
    }
    expect(static_cast<int64_t>(v.shape[0]) * v.shape[1] * v.shape[2] <= MAX_VOXELS, "density: too many voxels");
    v.density = keep<const float>(volume, object.attr("density"), "density", {-1, -1, -1});
    nb::object features = object.attr("features"), rows = object.attr("rows"), factors = object.attr("factors");
    const int64_t X = v.shape[0], Y = v.shape[1], Z = v.shape[2];
    if (!factors.is_none()) {
        expect(rows.is_none(), "rows: expected none beside factors");
        v.factors = view_factors(factors, v.shape);
        v.channels = v.factors.channels;
        v.features = keep<const float>(volume, features, "features", {0, v.channels});
        volume.owners.push_back(factors);
    } else if (rows.is_none()) {
        v.features = keep<const float>(volume, features, "features", {X, Y, Z, -1});
        v.channels = static_cast<int>(array<const float>(features, "features", {X, Y, Z, -1}).shape(3));
    } else {
        v.features = keep<const float>(volume, features, "features", {-1, -1});
        const auto table = array<const float>(features, "features", {-1, -1});
        v.channels = static_cast<int>(table.shape(1));
        v.n_rows = static_cast<int64_t>(table.shape(0));
        v.rows = keep<const int32_t>(volume, rows, "rows", {X, Y, Z});
    }
    expect(v.channels >= 1 && v.channels <= MAX_CHANNELS,
           "features: expected 1 to " + std::to_string(MAX_CHANNELS) + " channels");
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

void render_rays(nb::object object, Dense<const float> origins, Dense<const float> directions, Dense<float> rgb,
                 Dense<float> background_weight, Dense<float> depth) {
    const Volume volume = read_volume(object);
    const RayView rays = read_rays(origins, directions);
    expect(rgb.size() == 3 * static_cast<size_t>(rays.n) && background_weight.size() == static_cast<size_t>(rays.n) &&
               depth.size() == static_cast<size_t>(rays.n),
           "outputs: wrong size");
    without_gil([&] { kernels().render(volume.view, rays, rgb.data(), background_weight.data(), depth.data()); });
}

GradientView read_gradients(Volume &volume, nb::object gradients) {
    const VolumeView &v = volume.view;
    const int64_t X = v.shape[0], Y = v.shape[1], Z = v.shape[2];
    GradientView to{};
    if (v.is_factored()) {
        nb::object factors = gradients.attr("factors");
        expect(!factors.is_none(), "gradients.factors: expected those of the volume's factors");
        read_factors<float>(factors, v.factors, to.factors);
        volume.owners.push_back(factors);
        const int64_t n_rows = v.factors.n_rows(0) + v.factors.n_rows(1) + v.factors.n_rows(2);
        to.touched = keep<uint8_t>(volume, gradients.attr("touched"), "gradients.touched", {n_rows});
    } else {
        to.density = keep<float>(volume, gradients.attr("density"), "gradients.density", {X, Y, Z});
        to.features = keep<float>(volume, gradients.attr("features"), "gradients.features", {X, Y, Z, v.channels});
        to.touched = keep<uint8_t>(volume, gradients.attr("touched"), "gradients.touched", {X, Y, Z});
    }
    nb::object layers = gradients.attr("layers");
    expect(static_cast<int>(nb::len(layers)) == v.n_layers, "gradients.layers: wrong number");
    for (int i = 0; i < v.n_layers; ++i) {
        const int in = i == 0 ? v.n_inputs() + v.n_view : v.sides[i - 1];
        to.weight[i] = keep<float>(volume, layers[i][0], "gradients.layers weight", {v.sides[i], in});
        to.bias[i] = keep<float>(volume, layers[i][1], "gradients.layers bias", {v.sides[i]});
    }
    return to;
}

nb::dict render_gradients(nb::object object, Dense<const float> origins, Dense<const float> directions,
                          Dense<const float> targets, nb::object losses, nb::object gradients,
                          std::optional<Row<const float>> weights) {
    Volume volume = read_volume(object);
    const RayView rays = read_rays(origins, directions);
    expect(targets.ndim() == 2 && targets.shape(0) == origins.shape(0) && (targets.shape(1) == 3 || targets.shape(1) == 4),
           "targets: expected [N,3] or [N,4]");
    expect(!weights || weights->shape(0) == origins.shape(0), "weights: expected one per ray");
    float surely = 0;
    const float *chances = nullptr;
    nb::object roulette = losses.attr("roulette");
    if (!roulette.is_none()) {
        surely = nb::cast<float>(roulette.attr("weight"));
        chances = keep<const float>(volume, roulette.attr("chances"), "roulette.chances", {rays.n});
    }
    const LossView loss{targets.data(),
                        static_cast<int>(targets.shape(1)),
                        nb::cast<float>(losses.attr("background_entropy")),
                        nb::cast<float>(losses.attr("point_color")),
                        nb::cast<float>(losses.attr("opacity")),
                        nb::cast<float>(losses.attr("distortion")),
                        volume.view.step / nb::cast<double>(object.attr("lattice").attr("longest_way")),
                        weights ? weights->data() : nullptr,
                        surely,
                        chances};
    const GradientView to = read_gradients(volume, gradients);
    const BatchStats stats = without_gil([&] { return kernels().gradients(volume.view, rays, loss, to); });
    const double n = static_cast<double>(std::max<int64_t>(rays.n, 1));
    nb::dict answer;
    answer["mse"] = stats.squared_error / (3 * n);
    answer["background_entropy"] = stats.background_entropy / n;
    answer["point_color"] = stats.point_color / n;
    answer["opacity"] = stats.opacity / n;
    answer["distortion"] = stats.distortion / n;
    answer["n_live"] = static_cast<double>(stats.live);
    answer["n_shaded"] = static_cast<double>(stats.shaded);
    return answer;
}

void backpropagate(nb::object object, Dense<const float> origins, Dense<const float> directions, Matrix<const float> d_rgb,
                   std::optional<Row<const float>> d_background_weight, std::optional<Row<const float>> d_depth,
                   nb::object gradients) {
    Volume volume = read_volume(object);
    const RayView rays = read_rays(origins, directions);
    expect(d_rgb.shape(0) == origins.shape(0) && d_rgb.shape(1) == 3, "d_rgb: expected [N,3]");
    expect(!d_background_weight || d_background_weight->shape(0) == origins.shape(0), "d_background_weight: expected [N]");
    expect(!d_depth || d_depth->shape(0) == origins.shape(0), "d_depth: expected [N]");
    const PixelSlopeView slopes{d_rgb.data(), d_background_weight ? d_background_weight->data() : nullptr,
                                d_depth ? d_depth->data() : nullptr};
    const GradientView to = read_gradients(volume, gradients);
    without_gil([&] { kernels().backpropagate(volume.view, rays, slopes, to); });
}

void accumulate_importance(nb::object object, Dense<const float> origins, Dense<const float> directions,
                           Dense<double> importance, std::optional<Dense<const uint8_t>> counted) {
    const Volume volume = read_volume(object);
    const RayView rays = read_rays(origins, directions);
    const int *shape = volume.view.shape;
    const size_t n_voxels = static_cast<size_t>(shape[0]) * shape[1] * shape[2];
    expect(importance.ndim() == 3 && importance.size() == n_voxels, "importance: expected [X,Y,Z]");
    expect(!counted || (counted->ndim() == 3 && counted->size() == n_voxels), "counted: expected [X,Y,Z]");
    without_gil([&] { kernels().importance(volume.view, rays, counted ? counted->data() : nullptr, importance.data()); });
}

void hit_rays(nb::object object, Dense<const float> origins, Dense<const float> directions, Dense<uint8_t> hit) {
    const Volume volume = read_volume(object);
    const RayView rays = read_rays(origins, directions);
    expect(hit.size() == static_cast<size_t>(rays.n), "hit: wrong size");
    without_gil([&] { kernels().hits(volume.view, rays, hit.data()); });
}

void bind_pixel_rays(Dense<const int64_t> pixels, Dense<const int64_t> starts, Dense<const int64_t> widths,
                     Dense<const double> pinholes, Dense<const double> poses, Dense<float> origins, Dense<float> directions) {
    const size_t n_views = widths.size();
    expect(starts.size() == n_views + 1 && pinholes.size() == 4 * n_views && poses.size() == 12 * n_views,
           "starts [V+1], pinholes [V,4], poses [V,3,4]: expected the same V");
    expect(origins.size() == 3 * pixels.size() && directions.size() == 3 * pixels.size(), "outputs: wrong size");
    const PixelView view{pixels.data(), static_cast<int64_t>(pixels.size()), static_cast<int64_t>(n_views), starts.data(),
                         widths.data(), pinholes.data(), poses.data()};
    without_gil([&] { pixel_rays(view, origins.data(), directions.data()); });
}

}  // namespace

void bind_rays(nb::module_ &m) {
    m.def("render_rays", &render_rays);
    m.def("render_gradients", &render_gradients, nb::arg("volume"), nb::arg("origins"), nb::arg("directions"),
          nb::arg("targets"), nb::arg("losses"), nb::arg("gradients"), nb::arg("weights").none());
    m.def("backpropagate", &backpropagate, nb::arg("volume"), nb::arg("origins"), nb::arg("directions"), nb::arg("d_rgb"),
          nb::arg("d_background_weight").none(), nb::arg("d_depth").none(), nb::arg("gradients"));
    m.def("accumulate_importance", &accumulate_importance, nb::arg("volume"), nb::arg("origins"), nb::arg("directions"),
          nb::arg("importance"), nb::arg("counted").none() = nb::none());
    m.def("hit_rays", &hit_rays);
    m.def("pixel_rays", &bind_pixel_rays);
}

}  // namespace vqrf
