// What the bindings of the kernels share. A binding checks shapes and dtypes, releases the GIL, and calls a kernel, which takes
// its turn at the threads.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

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

}  // namespace vqrf
