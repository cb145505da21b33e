// The fuzz target and the mutator without a fuzzer, for any C++ compiler:
//   replay check N FILE...   try every file and N mutants of it
//   replay write N FILE...   write N mutants of every file to the standard output, each after its length in four bytes
// The same arguments make the same mutants.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string_view>

#include "container.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size);
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t *data, std::size_t size, std::size_t max_size, unsigned seed);

namespace {

constexpr std::size_t kMaxBytes = 1 << 16;
std::minstd_rand random_bits;

}  // namespace

// Change, insert or remove a few bytes.
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t *data, std::size_t size, std::size_t max_size) {
    std::vector<std::uint8_t> bytes(data, data + size);
    for (unsigned n = 1 + random_bits() % 3; n > 0; --n) {
        const std::size_t at = random_bits() % (bytes.size() + 1);
        const auto byte = static_cast<std::uint8_t>(random_bits() >> 8);
        const unsigned kind = random_bits() % 8;
        if (kind == 0 || bytes.empty()) bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at), byte);
        else if (kind == 1) bytes.erase(bytes.begin() + static_cast<std::ptrdiff_t>(at % bytes.size()));
        else bytes[at % bytes.size()] = byte;
    }
    if (bytes.size() > max_size) bytes.resize(max_size);
    std::copy(bytes.begin(), bytes.end(), data);
    return bytes.size();
}

int main(int argc, char **argv) {
    if (argc < 4) {
        std::fprintf(stderr, "usage: replay check|write N FILE...\n");
        return 2;
    }
    const bool is_check = std::string_view(argv[1]) == "check";
    const int n_mutants = std::atoi(argv[2]);
    for (int a = 3; a < argc; ++a) {
        std::ifstream in(argv[a], std::ios::binary);
        const std::vector<std::uint8_t> file{std::istreambuf_iterator<char>(in), {}};
        if (is_check) LLVMFuzzerTestOneInput(file.data(), file.size());
        for (int i = 0; i < n_mutants; ++i) {
            std::vector<std::uint8_t> mutant = file;
            mutant.resize(kMaxBytes);
            random_bits.seed(static_cast<unsigned>(1 + i));
            const auto size = LLVMFuzzerCustomMutator(mutant.data(), file.size(), kMaxBytes, static_cast<unsigned>(i));
            if (is_check) {
                LLVMFuzzerTestOneInput(mutant.data(), size);
                continue;
            }
            std::uint8_t length[4];
            vqrf::fuzz::put(length, static_cast<std::uint32_t>(size));
            std::fwrite(length, 1, sizeof length, stdout);
            std::fwrite(mutant.data(), 1, size, stdout);
        }
    }
    return 0;
}
