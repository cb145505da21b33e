// Kernels of lattices, rows, factors and images, as Python sees them, and the machine that they run on.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "bindings.hpp"
#include "threads.hpp"

namespace vqrf {
namespace {

void bind_find_cells(Dense<const float> density, float floor, std::optional<Dense<const uint8_t>> allowed,
                     Dense<uint8_t> cells) {
    expect(density.ndim() == 3 && density.shape(0) >= 2 && density.shape(1) >= 2 && density.shape(2) >= 2,
           "density: expected [X,Y,Z], each at least 2");
    const int64_t shape[3] = {static_cast<int64_t>(density.shape(0)), static_cast<int64_t>(density.shape(1)),
                              static_cast<int64_t>(density.shape(2))};
    expect(cells.size() == static_cast<size_t>((shape[0] - 1) * (shape[1] - 1) * (shape[2] - 1)), "cells: wrong size");
    expect(!allowed || allowed->size() == cells.size(), "allowed: wrong size");
    without_gil([&] { find_cells(density.data(), shape, floor, allowed ? allowed->data() : nullptr, cells.data()); });
}

void bind_measure_skip(Dense<const uint8_t> cells, Dense<uint8_t> skip) {
    expect(cells.ndim() == 3 && skip.ndim() == 3, "cells and skip: expected three dimensions");
    int64_t shape[3];
    for (int axis = 0; axis < 3; ++axis) {
        shape[axis] = static_cast<int64_t>(cells.shape(axis));
        expect(static_cast<int64_t>(skip.shape(axis)) == count_blocks(shape[axis]), "skip: wrong shape");
    }
    without_gil([&] { measure_skip(cells.data(), shape, skip.data()); });
}

void bind_masked_adam(Dense<float> values, Dense<float> gradient, Dense<float> first, Dense<float> second,
                      std::optional<Dense<const uint8_t>> touched, std::optional<Dense<const float>> rates, float rate,
                      int64_t step, float epsilon, std::pair<double, double> betas) {
    expect(values.ndim() >= 1 && gradient.size() == values.size() && first.size() == values.size() &&
               second.size() == values.size(),
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
    a.beta1 = static_cast<float>(betas.first), a.beta2 = static_cast<float>(betas.second);
    a.correction1 = static_cast<float>(1 - std::pow(betas.first, static_cast<double>(step)));
    a.correction2 = static_cast<float>(1 - std::pow(betas.second, static_cast<double>(step)));
    without_gil([&] { kernels().adam(a); });
}

void bind_add_total_variation(Dense<const float> values, Dense<float> gradient, std::optional<Dense<const uint8_t>> touched,
                              float weight) {
    expect(values.ndim() == 4 && gradient.size() == values.size(), "values and gradient: expected [X,Y,Z,C]");
    const int64_t shape[3] = {static_cast<int64_t>(values.shape(0)), static_cast<int64_t>(values.shape(1)),
                              static_cast<int64_t>(values.shape(2))};
    expect(!touched || static_cast<int64_t>(touched->size()) == shape[0] * shape[1] * shape[2], "touched: expected [X,Y,Z]");
    const int64_t channels = static_cast<int64_t>(values.shape(3));
    without_gil([&] {
        add_total_variation(values.data(), shape, channels, touched ? touched->data() : nullptr, weight, gradient.data());
    });
}

void assign_codes(Matrix<const float> vectors, Matrix<const float> codebook, Row<int32_t> codes, Row<float> distances) {
    expect(vectors.shape(1) == codebook.shape(1), "vectors [N,C] and codebook [K,C]: expected the same C");
    expect(codebook.shape(0) >= 1, "codebook: expected at least one codeword");
    expect(codes.size() == vectors.shape(0) && distances.size() == vectors.shape(0), "outputs: wrong size");
    without_gil([&] {
        kernels().assign(vectors.data(), static_cast<int64_t>(vectors.shape(0)), static_cast<int>(vectors.shape(1)),
                         codebook.data(), static_cast<int>(codebook.shape(0)), codes.data(), distances.data());
    });
}

void bind_sum_by_code(Matrix<const float> values, Row<const double> weights, Row<const int32_t> codes, Matrix<double> sums,
                      Row<double> totals) {
    expect(sums.shape(1) == values.shape(1), "values [N,C], sums [K,C]");
    expect(weights.size() == values.shape(0) && codes.size() == values.shape(0) && totals.size() == sums.shape(0),
           "weights, codes or totals: wrong size");
    without_gil([&] { sum_by_code(rows(values), weights.data(), codes.data(), rows(sums), totals.data()); });
}

void expand_factors(nb::object factors, Dense<const uint8_t> marks, Dense<float> density, std::optional<Dense<float>> features) {
    expect(density.ndim() == 3, "density: expected [X,Y,Z]");
    const int shape[3] = {static_cast<int>(density.shape(0)), static_cast<int>(density.shape(1)), static_cast<int>(density.shape(2))};
    const FactorView f = view_factors(factors, shape);
    expect(marks.size() == density.size(), "marks: expected [X,Y,Z]");
    expect(!features || features->size() == density.size() * f.channels, "features: expected [X,Y,Z,C]");
    without_gil([&] { kernels().expand_factors(f, marks.data(), density.data(), features ? features->data() : nullptr); });
}

void bind_add_sparsity(Matrix<const float> values, Matrix<float> gradient, std::optional<Row<const uint8_t>> touched,
                       int64_t n_columns, float weight) {
    expect(same_shape(values, gradient), "values and gradient: expected one shape [V,R]");
    expect(n_columns >= 0 && n_columns <= static_cast<int64_t>(values.shape(1)), "n_columns: expected no more than there are");
    expect(!touched || touched->shape(0) == values.shape(0), "touched: expected one per row");
    without_gil([&] { add_sparsity(rows(values), n_columns, touched ? touched->data() : nullptr, weight, gradient.data()); });
}

void bind_tie_gradients(Matrix<float> gradient, Row<const int32_t> row, Row<const uint8_t> touched,
                        Matrix<float> table_gradient) {
    expect(gradient.shape(1) == table_gradient.shape(1), "gradient [V,C], table_gradient [R,C]");
    expect(row.size() == gradient.shape(0) && touched.size() == gradient.shape(0), "rows, touched: expected one per voxel");
    without_gil([&] { tie_gradients(rows(gradient), row.data(), touched.data(), rows(table_gradient)); });
}

void bind_move_gradients(Matrix<float> gradient, Row<const int64_t> voxels, Row<const uint8_t> touched,
                         std::optional<Matrix<const float>> matrix, Matrix<float> row_gradient) {
    const size_t n_columns = gradient.shape(1);
    expect(row_gradient.shape(0) == voxels.shape(0) && row_gradient.shape(1) == n_columns,
           "row_gradient: expected a row for each of voxels, with the columns of gradient");
    expect(touched.shape(0) == gradient.shape(0), "touched: expected one per row of gradient");
    expect(!matrix || (matrix->shape(0) == n_columns && matrix->shape(1) == n_columns), "matrix: expected [C,C]");
    without_gil([&] {
        move_gradients(rows(gradient), voxels.data(), touched.data(), matrix ? matrix->data() : nullptr, rows(row_gradient));
    });
}

template <class Of, class Table>
void expect_places(const Of &values, const Row<const float> &scales, const Row<const int64_t> &places, const Table &table) {
    expect(values.shape(1) == table.shape(1) && scales.shape(0) == table.shape(1),
           "values, scales and table: expected the same columns");
    expect(places.shape(0) == values.shape(0), "places: expected one per row of values");
}

void bind_place_rows(Matrix<const float> values, Row<const float> scales, Row<const int64_t> places, Matrix<float> table) {
    expect_places(values, scales, places, table);
    without_gil([&] { place_rows(rows(values), scales.data(), places.data(), rows(table)); });
}

void bind_take_rows(Matrix<float> table, Row<const float> scales, Row<const int64_t> places, Matrix<float> values) {
    expect_places(values, scales, places, table);
    without_gil([&] { take_rows(rows(table), scales.data(), places.data(), rows(values)); });
}

template <class T>
double bind_measure_ssim(Dense<const T> image, Dense<const T> target) {
    expect(image.ndim() == 3 && same_shape(image, target), "image and target: expected one shape [H,W,C]");
    expect(std::min(image.shape(0), image.shape(1)) >= SSIM_WINDOW && image.shape(2) >= 1,
           "image: expected at least " + std::to_string(SSIM_WINDOW) + "x" + std::to_string(SSIM_WINDOW) + " pixels");
    const ImagePair<T> images{image.data(), target.data(), static_cast<int64_t>(image.shape(0)),
                              static_cast<int64_t>(image.shape(1)), static_cast<int64_t>(image.shape(2))};
    return without_gil([&] { return measure_ssim(images); });
}

// What the twins have to agree on, by the names of src/vqrf/kernels.
nb::dict constants() {
    nb::dict d;
    d["MAX_LAYERS"] = MAX_LAYERS, d["MAX_WIDTH"] = MAX_WIDTH, d["MAX_CHANNELS"] = MAX_CHANNELS, d["MAX_RANK"] = MAX_RANK;
    d["MAX_VIEW_FREQUENCIES"] = MAX_VIEW_FREQUENCIES, d["MAX_VOXELS"] = MAX_VOXELS;
    d["MAX_FEATURE_FREQUENCIES"] = MAX_FEATURE_FREQUENCIES, d["MAX_SAMPLES"] = MAX_SAMPLES;
    d["SKIP_BLOCK"] = 1 << SKIP_BLOCK_LOG2, d["STOP_TRANSMITTANCE"] = STOP_TRANSMITTANCE;
    d["SSIM_WINDOW"] = SSIM_WINDOW, d["SSIM_SIGMA"] = SSIM_SIGMA, d["SSIM_K1"] = SSIM_K1, d["SSIM_K2"] = SSIM_K2;
    d["MAX_STEPS"] = MAX_STEPS, d["BITS_UNIT"] = BITS_UNIT, d["FIRST_STEP"] = FIRST_STEP;
    return d;
}

}  // namespace

void bind_arrays(nb::module_ &m) {
    m.def("find_cells", &bind_find_cells, nb::arg("density"), nb::arg("floor"), nb::arg("allowed").none(), nb::arg("cells"));
    m.def("measure_skip", &bind_measure_skip);
    m.def("masked_adam", &bind_masked_adam, nb::arg("values"), nb::arg("gradient"), nb::arg("first"), nb::arg("second"),
          nb::arg("touched").none(), nb::arg("rates").none(), nb::arg("rate"), nb::arg("step"), nb::arg("epsilon"),
          nb::arg("betas"));
    m.def("add_total_variation", &bind_add_total_variation, nb::arg("values"), nb::arg("gradient"), nb::arg("touched").none(),
          nb::arg("weight"));
    m.def("assign_codes", &assign_codes);
    m.def("sum_by_code", &bind_sum_by_code);
    m.def("tie_gradients", &bind_tie_gradients);
    m.def("move_gradients", &bind_move_gradients, nb::arg("gradient"), nb::arg("voxels"), nb::arg("touched"),
          nb::arg("matrix").none(), nb::arg("row_gradient"));
    m.def("place_rows", &bind_place_rows);
    m.def("take_rows", &bind_take_rows);
    m.def("expand_factors", &expand_factors, nb::arg("factors"), nb::arg("marks"), nb::arg("density"),
          nb::arg("features").none());
    m.def("add_sparsity", &bind_add_sparsity, nb::arg("values"), nb::arg("gradient"), nb::arg("touched").none(),
          nb::arg("n_columns"), nb::arg("weight"));
    m.def("measure_ssim", &bind_measure_ssim<float>, nb::arg("image").noconvert(), nb::arg("target").noconvert());
    m.def("measure_ssim", &bind_measure_ssim<double>, nb::arg("image").noconvert(), nb::arg("target").noconvert());
    m.def("constants", &constants);
    m.def("set_threads", [](int n) { without_gil([&] { ThreadPool::Turn().set_threads(n); }); });
    m.def("n_threads", [] { return without_gil([] { return ThreadPool::Turn().n_threads(); }); });
    m.def("instruction_sets", [] {
        std::vector<std::string> names;
        for (const Kernels *k : instruction_sets()) names.emplace_back(k->name);
        return names;
    });
    m.def("instruction_set", [] { return std::string(kernels().name); });
    m.def("color_tolerance", [] { return kernels().color_tolerance; });
    m.def("use_instruction_set", &use_instruction_set);
}

}  // namespace vqrf
