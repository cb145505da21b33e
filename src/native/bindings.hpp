// What the bindings of the kernels share. A binding checks shapes and dtypes, releases the GIL, and calls a kernel, which takes
// its turn at the threads.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels.hpp"

namespace nb = nanobind;

namespace vqrf {

template <class T>
using Dense = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
template <class T>
using Row = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

inline void expect(bool condition, const std::string &message) {
    if (!condition) throw nb::value_error(message.c_str());
}

// The array of an attribute; -1 stands for any side.
template <class T>
Dense<T> array(nb::handle object, const char *name, const std::vector<int64_t> &shape) {
    Dense<T> a;
    if (!nb::try_cast<Dense<T>>(object, a))
        throw nb::type_error((std::string(name) + ": expected a contiguous CPU array of another dtype").c_str());
    expect(a.ndim() == shape.size(), std::string(name) + ": wrong number of dimensions");
    for (size_t i = 0; i < shape.size(); ++i)
        expect(shape[i] < 0 || a.shape(i) == static_cast<size_t>(shape[i]), std::string(name) + ": wrong shape");
    return a;
}

template <class T>
Rows<T> rows(const Matrix<T> &a) {
    return {a.data(), static_cast<int64_t>(a.shape(0)), static_cast<int64_t>(a.shape(1))};
}

template <class A, class B>
bool same_shape(const A &a, const B &b) {
    if (a.ndim() != b.ndim()) return false;
    for (size_t i = 0; i < a.ndim(); ++i)
        if (a.shape(i) != b.shape(i)) return false;
    return true;
}

template <class Body>
auto without_gil(Body &&body) {
    const nb::gil_scoped_release release;
    return body();
}

template <class T, class View>
void read_factors(nb::handle object, const FactorView &f, View &to) {
    for (int p = 0; p < 3; ++p) {
        const int64_t a = f.shape[PLANE_AXES[p][0]], b = f.shape[PLANE_AXES[p][1]], c = f.shape[PLANE_AXES[p][2]];
        const int64_t rank = f.n_density + f.n_features;
        to.plane[p] = array<T>(object.attr("planes")[p], "planes", {a, b, rank}).data();
        to.line[p] = array<T>(object.attr("lines")[p], "lines", {c, rank}).data();
    }
    to.mix = array<T>(object.attr("mix"), "mix", {3, f.n_features, f.channels}).data();
}

// The factors of a lattice of that shape; the arrays must outlive the view.
inline FactorView view_factors(nb::handle factors, const int *shape) {
    FactorView f{};
    std::copy_n(shape, 3, f.shape);
    const auto mix = array<const float>(factors.attr("mix"), "mix", {3, -1, -1});
    f.n_features = static_cast<int>(mix.shape(1)), f.channels = static_cast<int>(mix.shape(2));
    const auto line = array<const float>(factors.attr("lines")[0], "lines", {-1, -1});
    f.n_density = static_cast<int>(line.shape(1)) - f.n_features;
    expect(f.n_density >= 1 && f.n_features >= 1 && f.n_features <= MAX_RANK && f.channels >= 1 && f.channels <= MAX_CHANNELS,
           "factors: expected components of density, 1 to " + std::to_string(MAX_RANK) + " of features, and 1 to " +
               std::to_string(MAX_CHANNELS) + " channels");
    read_factors<const float>(factors, f, f);
    return f;
}

}  // namespace vqrf
