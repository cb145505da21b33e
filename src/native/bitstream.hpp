// Decode a whole .vqrf file without Python, and encode the payloads of its sections. FORMAT.md is the specification.
// Safe for untrusted input: nothing is allocated before the number that asks for it is bounded.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pyramid.hpp"

namespace vqrf {

using Bytes = std::span<const std::uint8_t>;

// Major versions: of the format, of files with a space, of planes and lines. Any minor version is read.
inline constexpr std::uint16_t kMajor = 1, kSpaceMajor = 2, kPlanesMajor = 3;

// Why a file was refused. `section` is "header", "end" or a section's four letters; `offset` counts from the file's start.
struct BitstreamError {
    std::string section;
    std::uint64_t offset;
    std::string reason;
};

enum class TableType : std::uint8_t { kFloat16 = 0, kUint8 = 1, kUint16 = 2 };

// An array of numbers: float16 bits, or levels with scale and offset (both of 1 or `columns` values).
struct Table {
    TableType type = TableType::kFloat16;
    std::uint32_t rows = 1, columns = 1;
    std::vector<float> scale, offset;
    std::vector<std::uint8_t> bytes;   // the items of kUint8
    std::vector<std::uint16_t> items;  // those of the other types

    // As many items as type and shape ask for, zeros where there were none.
    void resize() {
        const std::size_t n = std::size_t{rows} * columns;
        bytes.resize(type == TableType::kUint8 ? n : 0);
        items.resize(type == TableType::kUint8 ? 0 : n);
    }
};

inline constexpr std::uint32_t kMaxFeatureFrequencies = 10;

// How features and a direction become a colour; the numbers are the file's.
enum class Shading : std::uint8_t { kMlp = 0, kHarmonics = 1, kHarmonicsRelu = 2, kEncodedMlp = 3 };

inline bool is_harmonic(Shading shading) { return shading == Shading::kHarmonics || shading == Shading::kHarmonicsRelu; }

// What makes raw density one that is not negative.
enum class Activation : std::uint8_t { kSoftplus = 0, kRelu = 1 };

struct Head {
    std::array<double, 3> lo, hi;
    Shape shape;
    std::uint32_t n_channels, codebook_size, n_coded, n_kept;
    std::array<float, 9> constants;  // empty_density, density_bias, interval, step_world, near, alpha_threshold, rgb
    Activation activation;
};

// How places come of the world: FORMAT.md section 4.
constexpr std::uint16_t kProjective = 1, kUnbounded = 2;

struct Space {
    std::uint16_t number;
    std::array<double, 16> map;  // row by row
};

struct CompressedField {
    Head head;
    std::optional<Space> space;          // none in a box
    std::vector<std::uint8_t> metadata;  // the JSON text as it stands: whoever reads it checks it
    Shading shading = Shading::kMlp;
    std::uint16_t feature_frequencies = 0;  // 1 and more with kEncodedMlp, else 0
    std::vector<Table> color_mlp;        // weight [out,in], bias [1,out], weight, ...
    Table codebook;
    std::vector<std::uint8_t> partition;
    std::vector<std::uint8_t> density, kept;
    std::vector<float> density_scale, density_offset, kept_scale, kept_offset;
    std::vector<std::int32_t> codes;
    // Of a pyramid (codebook_size 0), in place of what follows color_mlp but the partition.
    std::vector<float> steps, basis;  // [1 + latents]; [latents, n_channels] or empty
    Levels levels;                    // [N_l, 1 + latents]
    // Of planes and lines (codebook_size 0 as well), in the place of these; R = n_density_components + mix.rows / 3.
    std::uint32_t n_density_components = 0;
    Table mix;                                   // [3 R_f, n_channels]
    std::vector<float> plane_steps, line_steps;  // [3,R]
    std::array<Levels, 3> planes, lines;         // of each [N_l,R]

    bool is_planes() const { return n_density_components != 0; }
    std::uint32_t n_components() const { return n_density_components + mix.rows / 3; }
};

// What decoding may take beyond `max_bytes`: half of it working memory that grows with the lattice, where what is more counts
// against `max_bytes`; the other half entropy models and bookkeeping, which do not grow.
inline constexpr std::uint64_t kAllowance = std::uint64_t{2} << 20;

// The file's field, or nothing and the reason in `error`. All that is allocated at a time, the result and the working memory,
// takes at most `max_bytes`, the allowance, and once the size of the file (scales and offsets are copied from it).
// With `truncated`, levels of a pyramid that a file which was cut off lacks are zeros.
std::optional<CompressedField> decode_file(Bytes data, std::uint64_t max_bytes, bool truncated, BitstreamError &error);

std::vector<std::uint8_t> encode_partition(Shape shape, Bytes partition);
std::vector<std::uint8_t> encode_density(Shape shape, Bytes partition, Bytes levels);
std::vector<std::uint8_t> encode_codes(Shape shape, Bytes partition, std::uint32_t codebook_size,
                                       std::span<const std::int32_t> codes);
std::vector<std::uint8_t> encode_kept(Shape shape, Bytes partition, std::uint32_t n_channels, Bytes levels);

// The levels [N_l,width] of a pyramid, coarsest first, a stream for each.
std::vector<std::vector<std::uint8_t>> encode_levels(Shape shape, Bytes partition, std::uint32_t width,
                                                     std::span<const std::span<const std::int16_t>> levels);

// Pyramids over a few masks, each of its shape and with its levels [N_l,width]: a stream for each level, coarsest first, of all of them
// in turn.
std::vector<std::vector<std::uint8_t>> encode_stacks(std::span<const Shape> shapes, std::span<const Bytes> masks,
                                                     std::span<Levels> levels, std::uint32_t width);

// Tables one after the other in one stream; with `by_column` each column has its own tree.
std::vector<std::uint8_t> encode_tables(std::span<const Table> tables, bool by_column);

}  // namespace vqrf
