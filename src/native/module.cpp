// The compiled core: one extension, no libtorch. Arrays cross as buffers; nothing here owns Python state.
#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_codec(nb::module_ &m);
void bind_kernels(nb::module_ &m);
void bind_pyramid(nb::module_ &m);

NB_MODULE(_native, m) {
    m.doc() = "Compiled core of vqrf: entropy coder, decoder and CPU kernels.";
    bind_codec(m);
    bind_kernels(m);
    bind_pyramid(m);
}
