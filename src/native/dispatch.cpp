// Which of the compiled instruction sets is used.
#include <atomic>
#include <stdexcept>

#include "kernels.hpp"

#if defined(VQRF_WITH_AMX)
#include "tiles.hpp"
#endif

namespace vqrf {

std::vector<const Kernels *> instruction_sets() {
    std::vector<const Kernels *> found{&kernels_baseline};
#if defined(VQRF_X86_64)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&kernels_avx2);
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (wide) found.push_back(&kernels_avx512);
    const bool has_bf16 = wide && __builtin_cpu_supports("avx512bf16");
    if (has_bf16) found.push_back(&kernels_avx512bf16);
#if defined(VQRF_WITH_AMX)
    if (has_bf16 && may_use_tiles()) found.push_back(&kernels_amx);
#endif
#endif
    return found;
}

static std::atomic<const Kernels *> &current() {
    static std::atomic<const Kernels *> in_use = instruction_sets().back();
    return in_use;
}

const Kernels &kernels() { return *current(); }

void use_instruction_set(const std::string &name) {
    for (const Kernels *k : instruction_sets())
        if (name == k->name) {
            current() = k;
            return;
        }
    throw std::invalid_argument("this CPU or this build has no kernels for " + name);
}

}  // namespace vqrf
