// Kernels of the sparse pyramid's levels, as Python sees them.
#include "bindings.hpp"

namespace vqrf {
namespace {

void bind_raise_level(Matrix<float> fine, Matrix<const float> coarse, Matrix<const int32_t> parents) {
    expect(fine.shape(1) == coarse.shape(1), "fine and coarse: expected the same columns");
    expect(parents.shape(0) == fine.shape(0) && parents.shape(1) == N_PARENTS, "parents: expected [N,8]");
    without_gil([&] { raise_level(rows(fine), rows(coarse), parents.data()); });
}

void bind_lower_gradient(Matrix<const float> fine, Matrix<float> coarse, Row<const int32_t> first, Row<const int32_t> child,
                         Row<const float> share) {
    expect(fine.shape(1) == coarse.shape(1), "fine and coarse: expected the same columns");
    expect(first.shape(0) == coarse.shape(0) + 1, "first: expected one per coarse node, and the end");
    expect(child.shape(0) == share.shape(0), "child and share: expected the same length");
    const ChildView children{first.data(), child.data(), share.data(), static_cast<int64_t>(child.shape(0))};
    without_gil([&] { lower_gradient(rows(fine), rows(coarse), children); });
}

void bind_round_to_steps(Matrix<const float> values, Row<const float> steps, double dead_zone, Matrix<float> rounded) {
    expect(same_shape(rounded, values), "rounded: expected the shape of values");
    expect(steps.shape(0) == values.shape(1), "steps: expected one per column");
    without_gil([&] { round_to_steps(rows(values), steps.data(), dead_zone, rounded.data()); });
}

void bind_add_rate_gradient(Matrix<const float> values, Row<const float> steps, Matrix<const uint8_t> first_bits, float weight,
                            Matrix<float> gradient) {
    expect(same_shape(first_bits, values), "first_bits: expected the shape of values");
    expect(same_shape(gradient, values), "gradient: expected the shape of values");
    expect(steps.shape(0) == values.shape(1), "steps: expected one per column");
    without_gil([&] { add_rate_gradient(rows(values), steps.data(), first_bits.data(), weight, gradient.data()); });
}

}  // namespace

void bind_levels(nb::module_ &m) {
    m.def("raise_level", &bind_raise_level);
    m.def("lower_gradient", &bind_lower_gradient);
    m.def("round_to_steps", &bind_round_to_steps);
    m.def("add_rate_gradient", &bind_add_rate_gradient);
}

}  // namespace vqrf
