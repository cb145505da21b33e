// Files of the format taken apart and put together again, for the fuzzers: with every length and checksum right, whatever is
// in the sections, so that what is wrong reaches the decoder behind them. FORMAT.md section 1 is the specification.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "bitstream.hpp"
#include "planes.hpp"

namespace vqrf::fuzz {

using File = std::vector<std::uint8_t>;

inline constexpr std::size_t kHeader = 32, kRow = 32;
inline constexpr std::size_t kMaxParts = 64;

// A section: its row of the table (lengths and checksum are filled in later) and its bytes.
struct Part {
    std::array<std::uint8_t, kRow> row{};
    File body;

    std::string name() const { return {reinterpret_cast<const char *>(row.data()), 4}; }
    bool is_coded() const { return row[6] != 0; }
};

template <class T>
T get(const std::uint8_t *p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
}

template <class T>
void put(std::uint8_t *p, T value) {
    std::memcpy(p, &value, sizeof value);
}

template <class T>
void append(File &file, T value) {
    file.resize(file.size() + sizeof value);
    put(&file[file.size() - sizeof value], value);
}

inline std::uint32_t crc32(Bytes bytes, std::uint32_t start = 0) {
    std::uint32_t c = ~start;
    for (const std::uint8_t byte : bytes) {
        c ^= byte;
        for (int k = 0; k < 8; ++k) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
    }
    return ~c;
}

// Make the header's checksum right.
inline void seal_header(File &file) {
    const std::size_t n = get<std::uint32_t>(&file[12]);
    if (n > kMaxParts || file.size() < kHeader + kRow * n) return;
    put(&file[28], crc32(Bytes(file).subspan(kHeader, kRow * n), crc32(Bytes(file).first(28))));
}

// The sections of a file whose table tiles it, checksums aside; nothing where it does not.
inline std::optional<std::vector<Part>> split(Bytes file) {
    if (file.size() < kHeader) return std::nullopt;
    const std::size_t n = get<std::uint32_t>(&file[12]);
    std::size_t at = kHeader + kRow * n;
    if (n < 1 || n > kMaxParts || file.size() < at) return std::nullopt;
    std::vector<Part> parts(n);
    for (std::size_t i = 0; i < n; ++i) {
        std::memcpy(parts[i].row.data(), &file[kHeader + kRow * i], kRow);
        const auto stored = get<std::uint64_t>(&parts[i].row[8]);
        if (stored > file.size() - at) return std::nullopt;
        parts[i].body.assign(file.begin() + static_cast<std::ptrdiff_t>(at),
                             file.begin() + static_cast<std::ptrdiff_t>(at + stored));
        at += stored;
    }
    return parts;
}

// The file of the sections. The raw lengths of coded sections stay as their rows say.
inline File assemble(const std::vector<Part> &parts) {
    File file{0x89, 'V', 'Q', 'R', '\r', '\n', 0x1A, '\n'};
    std::uint64_t total = kHeader + kRow * parts.size();
    for (const Part &part : parts) total += part.body.size();
    std::uint16_t major = kMajor;
    for (const Part &part : parts) {
        if (part.name() == "SPAC") major = kSpaceMajor;
        if (part.name() == "PLAN") major = kPlanesMajor;
    }
    append(file, major);
    append<std::uint16_t>(file, 0);  // the minor version
    append<std::uint32_t>(file, static_cast<std::uint32_t>(parts.size()));
    append<std::uint64_t>(file, total);
    append<std::uint64_t>(file, 0);
    for (const Part &part : parts) {
        std::array<std::uint8_t, kRow> row = part.row;
        put<std::uint64_t>(&row[8], part.body.size());
        if (!part.is_coded()) put<std::uint64_t>(&row[16], part.body.size());
        put(&row[24], crc32(part.body));
        file.insert(file.end(), row.begin(), row.end());
    }
    seal_header(file);
    for (const Part &part : parts) file.insert(file.end(), part.body.begin(), part.body.end());
    return file;
}

inline void append_quantizer(File &body, int type, const std::vector<float> &scale, const std::vector<float> &offset) {
    append<std::uint8_t>(body, static_cast<std::uint8_t>(type));
    append<std::uint8_t>(body, static_cast<std::uint8_t>(scale.size() > 1 ? 2 : scale.size()));
    append<std::uint16_t>(body, 0);
    for (const std::vector<float> *values : {&scale, &offset})
        for (const float value : *values) append(body, value);
}

inline void append_quantizer(File &body, const Table &table) {
    append_quantizer(body, static_cast<int>(table.type), table.scale, table.offset);
}

inline Part make_part(const char *name, std::uint64_t raw, File body, const File &stream = {}) {
    Part part;
    std::memcpy(part.row.data(), name, 4);
    const std::string of = part.name();
    put<std::uint16_t>(&part.row[4], of != "META");
    put<std::uint16_t>(&part.row[6], of != "META" && of != "HEAD" && of != "SPAC" && of != "STEP" && of != "PLAN");
    put(&part.row[16], raw);
    part.body = std::move(body);
    part.body.insert(part.body.end(), stream.begin(), stream.end());
    return part;
}

inline std::uint64_t raw_bytes(const Table &table) {
    return std::uint64_t{table.rows} * table.columns * (table.type == TableType::kUint8 ? 1 : 2);
}

// The sections that only a file with a codebook has, but PART.
inline void append_codebook(std::vector<Part> &parts, const CompressedField &field, Part partition) {
    const Head &head = field.head;
    File bytes;
    append_quantizer(bytes, field.codebook);
    parts.push_back(make_part("BOOK", raw_bytes(field.codebook), bytes, encode_tables(std::span(&field.codebook, 1), true)));
    parts.push_back(std::move(partition));
    bytes.clear();
    append_quantizer(bytes, 1, field.density_scale, field.density_offset);
    parts.push_back(
        make_part("DENS", field.density.size(), bytes, encode_density(head.shape, field.partition, field.density)));
    parts.push_back(make_part("CODE", 4 * std::uint64_t{head.n_coded},
                              encode_codes(head.shape, field.partition, head.codebook_size, field.codes)));
    bytes.clear();
    append_quantizer(bytes, 1, field.kept_scale, field.kept_offset);
    parts.push_back(
        make_part("KEPT", field.kept.size(), bytes, encode_kept(head.shape, field.partition, head.n_channels, field.kept)));
}

// The sections that only a pyramid has, but PART.
inline void append_pyramid(std::vector<Part> &parts, const CompressedField &field, Part partition) {
    File bytes;
    append<std::uint16_t>(bytes, static_cast<std::uint16_t>(field.steps.size() - 1));
    append<std::uint16_t>(bytes, !field.basis.empty());
    for (const std::vector<float> *values : {&field.steps, &field.basis})
        for (const float value : *values) append(bytes, value);
    parts.push_back(make_part("STEP", 0, bytes));
    parts.push_back(std::move(partition));
    const std::vector<std::span<const std::int16_t>> levels(field.levels.begin(), field.levels.end());
    const auto streams =
        encode_levels(field.head.shape, field.partition, static_cast<std::uint32_t>(field.steps.size()), levels);
    for (std::size_t i = 0; i < levels.size(); ++i) {
        const std::string name = "LEV" + std::to_string(levels.size() - 1 - i);
        parts.push_back(make_part(name.c_str(), 2 * levels[i].size(), {}, streams[i]));
    }
}

// The sections of the levels of three planes, or of three lines.
inline void append_stacks(std::vector<Part> &parts, const char *kind, const std::array<Shadows::Shadow, 3> &shadows,
                          std::array<Levels, 3> levels, std::uint32_t width) {
    std::array<Shape, 3> shapes;
    std::array<Bytes, 3> masks;
    for (std::size_t i = 0; i < 3; ++i) shapes[i] = shadows[i].shape, masks[i] = shadows[i].mask;
    const auto streams = encode_stacks(shapes, masks, levels, width);
    for (std::size_t l = 0; l < streams.size(); ++l) {
        const std::uint64_t n = levels[0][l].size() + levels[1][l].size() + levels[2][l].size();
        parts.push_back(make_part((kind + std::to_string(streams.size() - 1 - l)).c_str(), 2 * n, {}, streams[l]));
    }
}

// The sections that only a file of planes and lines has, but PART.
inline void append_planes(std::vector<Part> &parts, const CompressedField &field, Part partition) {
    File bytes;
    append<std::uint16_t>(bytes, static_cast<std::uint16_t>(field.n_density_components));
    append<std::uint16_t>(bytes, static_cast<std::uint16_t>(field.mix.rows / 3));
    for (const std::vector<float> *values : {&field.plane_steps, &field.line_steps})
        for (const float value : *values) append(bytes, value);
    parts.push_back(make_part("PLAN", 0, bytes));
    bytes.clear();
    append_quantizer(bytes, field.mix);
    parts.push_back(make_part("MIXT", raw_bytes(field.mix), bytes, encode_tables(std::span(&field.mix, 1), false)));
    parts.push_back(std::move(partition));
    const Shadows shadows = find_shadows(field.head.shape, field.partition);
    append_stacks(parts, "PLN", shadows.planes, field.planes, field.n_components());
    append_stacks(parts, "LIN", shadows.lines, field.lines, field.n_components());
}

inline File space_body(const Space &space) {
    File bytes;
    append<std::uint16_t>(bytes, space.number);
    append<std::uint16_t>(bytes, 0);
    for (const double value : space.map) append(bytes, value);
    return bytes;
}

// The sections that an encoder writes for a field.
inline std::vector<Part> encode_parts(const CompressedField &field) {
    const Head &head = field.head;
    File bytes;
    for (const double v : head.lo) append(bytes, v);
    for (const double v : head.hi) append(bytes, v);
    for (const std::uint32_t v : {head.shape.x, head.shape.y, head.shape.z, head.n_channels, head.codebook_size,
                                  head.n_coded, head.n_kept})
        append(bytes, v);
    for (const float v : head.constants) append(bytes, v);
    append(bytes, static_cast<std::uint32_t>(head.activation));
    std::vector<Part> parts{make_part("HEAD", 0, bytes)};
    if (field.space) parts.push_back(make_part("SPAC", 0, space_body(*field.space)));
    if (!field.metadata.empty()) parts.push_back(make_part("META", 0, field.metadata));

    bytes.clear();
    append<std::uint16_t>(bytes, static_cast<std::uint16_t>(field.color_mlp.size() / 2));
    append<std::uint16_t>(bytes, static_cast<std::uint16_t>(field.shading));
    if (field.shading == Shading::kEncodedMlp) {
        append(bytes, field.feature_frequencies);
        append<std::uint16_t>(bytes, 0);
    }
    std::uint64_t raw = 0;
    for (std::size_t i = 0; i < field.color_mlp.size(); ++i) {
        const Table &table = field.color_mlp[i];
        if (i % 2 == 0) {
            append(bytes, table.rows);
            append(bytes, table.columns);
        }
        append_quantizer(bytes, table);
        raw += raw_bytes(table);
    }
    parts.push_back(make_part("COLR", raw, bytes, encode_tables(field.color_mlp, false)));

    Part partition = make_part("PART", head.shape.n_voxels(), encode_partition(head.shape, field.partition));
    (field.is_planes() ? append_planes : head.codebook_size ? append_codebook : append_pyramid)(parts, field, std::move(partition));
    return parts;
}

}  // namespace vqrf::fuzz
