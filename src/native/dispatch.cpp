// Which of the compiled instruction sets is used.
#include <atomic>
#include <stdexcept>

#include "kernels.hpp"

#if defined(VQRF_WITH_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace vqrf {

#if defined(VQRF_WITH_AMX)
// Linux gives tile registers to processes that ask for them; one that has them already may ask again.
static bool may_use_tiles() {
    constexpr unsigned AMX_BF16 = 1u << 22, AMX_TILE = 1u << 24;
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & AMX_BF16) || !(d & AMX_TILE)) return false;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

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
