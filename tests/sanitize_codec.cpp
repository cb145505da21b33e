// Decode files and thousands of damaged copies of them under the sanitizers; tests/test_bitstream.py builds and runs it:
//   g++ -std=c++20 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -Isrc/native
//       tests/sanitize_codec.cpp src/native/bitstream.cpp -o sanitize && ./sanitize N_COPIES FILE...
// A damaged copy has the checksums made right again, so that the damage reaches the decoder. What is accepted is encoded.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>

#include "bitstream.hpp"

using namespace vqrf;

namespace {

constexpr std::uint64_t kBudget = std::uint64_t{16} << 20;

std::uint32_t crc32(const std::uint8_t *p, std::size_t n, std::uint32_t start = 0) {
    std::uint32_t c = ~start;
    for (std::size_t i = 0; i < n; ++i) {
        c ^= p[i];
        for (int k = 0; k < 8; ++k) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
    }
    return ~c;
}

std::uint64_t get(const std::uint8_t *p, int n) {
    std::uint64_t value = 0;
    for (int i = n - 1; i >= 0; --i) value = value << 8 | p[i];
    return value;
}

void put(std::uint8_t *p, std::uint32_t value) {
    for (int i = 0; i < 4; ++i) p[i] = static_cast<std::uint8_t>(value >> 8 * i);
}

// Correct every checksum of a file whose header is as it was.
void seal(std::vector<std::uint8_t> &file, std::uint32_t n_sections) {
    std::uint64_t at = 32 + 32 * std::uint64_t{n_sections};
    for (std::uint32_t i = 0; i < n_sections; ++i) {
        std::uint8_t *row = &file[32 + 32 * i];
        const std::uint64_t stored = get(row + 8, 8);
        if (stored > file.size() - at) return;
        put(row + 24, crc32(file.data() + at, stored));
        at += stored;
    }
    put(&file[28], crc32(&file[32], 32 * n_sections, crc32(&file[0], 28)));
}

bool try_file(const std::vector<std::uint8_t> &file) {
    BitstreamError error;
    const std::optional<CompressedField> field = decode_file(file, kBudget, error);
    if (!field) return false;
    const Head &head = field->head;
    encode_partition(head.shape, field->partition);
    encode_density(head.shape, field->partition, field->density);
    encode_codes(head.shape, field->partition, head.codebook_size, field->codes);
    encode_kept(head.shape, field->partition, head.n_channels, field->kept);
    encode_tables(field->color_mlp, false);
    encode_tables(std::span(&field->codebook, 1), true);
    return true;
}

}  // namespace

int main(int argc, char **argv) {
    std::mt19937 random(1);
    const int n_copies = std::atoi(argv[1]);
    long n_accepted = 0, n_tried = 0;
    for (int a = 2; a < argc; ++a) {
        std::ifstream in(argv[a], std::ios::binary);
        const std::vector<std::uint8_t> file{std::istreambuf_iterator<char>(in), {}};
        n_accepted += try_file(file);
        ++n_tried;
        if (file.size() < 64 || get(&file[12], 4) > 64) continue;
        const auto n_sections = static_cast<std::uint32_t>(get(&file[12], 4));
        if (file.size() < 32 + 32 * std::size_t{n_sections}) continue;
        for (int copy = 0; copy < n_copies; ++copy) {
            std::vector<std::uint8_t> bad = file;
            for (unsigned n = 1 + random() % 4; n > 0; --n) bad[32 + random() % (bad.size() - 32)] = random() & 255;
            seal(bad, n_sections);
            n_accepted += try_file(bad);
            ++n_tried;
        }
    }
    std::printf("%ld tried, %ld accepted\n", n_tried, n_accepted);
    return 0;
}
