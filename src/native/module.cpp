// The compiled core: one extension, no libtorch. Arrays cross as buffers; nothing here owns Python state.
#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_codec(nb::module_ &m);

namespace vqrf {
void bind_rays(nb::module_ &m);
void bind_arrays(nb::module_ &m);
void bind_levels(nb::module_ &m);
}  // namespace vqrf

NB_MODULE(_native, m) {
    m.doc() = "Compiled core of vqrf: entropy coder, decoder and CPU kernels.";
    bind_codec(m);
    vqrf::bind_rays(m);
    vqrf::bind_arrays(m);
    vqrf::bind_levels(m);
}
