#include "bitstream.hpp"

#include <bit>
#include <cmath>
#include <future>
#include <new>
#include <system_error>
#include <type_traits>
#include <utility>

namespace vqrf {
namespace {

constexpr std::array<std::uint8_t, 8> kSignature{0x89, 'V', 'Q', 'R', '\r', '\n', 0x1A, '\n'};
constexpr std::uint64_t kHeaderBytes = 32, kEntryBytes = 32, kHeadBytes = 116, kSpaceBytes = 132;
constexpr std::uint32_t kMaxSections = 64, kMinSide = 2, kMaxSide = 4096, kMaxChannels = 64, kMaxCodewords = 65536;
constexpr std::uint32_t kMaxLayers = 16, kMaxLayerSide = 4096;
constexpr std::uint64_t kMaxVoxels = std::uint64_t{1} << 31, kMaxMetadataBytes = std::uint64_t{1} << 20;
constexpr int kMaxRatioBits = 19;  // a coded byte describes fewer than 2^19 bytes: no context is surer than 39/32768
constexpr std::size_t kThreadedBytes = 64 << 10;  // below, starting a thread takes longer than the work
constexpr std::uint32_t kColumnTreeRows = 256;  // from so many rows on, a column pays for a tree of its own

enum Known { kHEAD, kSPAC, kMETA, kCOLR, kBOOK, kSTEP, kPART, kDENS, kCODE, kKEPT, kLEV8, kLEV0 = kLEV8 + kMaxLevels, kKnown };
constexpr std::array<const char *, kKnown> kNames{"HEAD", "SPAC", "META", "COLR", "BOOK", "STEP", "PART", "DENS", "CODE", "KEPT",
                                                  "LEV8", "LEV7", "LEV6", "LEV5", "LEV4", "LEV3", "LEV2", "LEV1", "LEV0"};
constexpr bool is_critical(int known) { return known != kMETA; }
constexpr std::uint16_t method_of(int known) {
    return known == kHEAD || known == kSPAC || known == kMETA || known == kSTEP ? 0 : 1;
}

constexpr const char *kDamaged = "coded bytes are damaged", *kInVain = "a block that is marked as occupied is empty";

using std::to_string;

template <class T>
T load(const std::uint8_t *p) {
    static_assert(sizeof(T) <= 8);
    std::uint64_t bits = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) bits |= std::uint64_t{p[i]} << (8 * i);
    if constexpr (std::is_same_v<T, float>)
        return std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    else if constexpr (std::is_same_v<T, double>)
        return std::bit_cast<double>(bits);
    else
        return static_cast<T>(bits);
}

std::uint32_t crc32(Bytes bytes, std::uint32_t start = 0) {
    static constexpr auto table = [] {
        std::array<std::uint32_t, 256> t{};
        for (std::uint32_t i = 0; i < 256; ++i) {
            std::uint32_t c = i;
            for (int k = 0; k < 8; ++k) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
            t[i] = c;
        }
        return t;
    }();
    std::uint32_t c = ~start;
    for (const std::uint8_t b : bytes) c = table[(c ^ b) & 255] ^ (c >> 8);
    return ~c;
}

struct Section {
    std::string name;
    std::uint64_t offset = 0, stored = 0, raw = 0;
    std::uint32_t crc = 0;
    std::uint64_t entry = 0;  // where its row of the table is
    int known = -1;
    bool is_here = true;  // false for a level that a truncated file lacks
};

// Unwinds to decode_file, where it becomes the caller's `error`.
[[noreturn]] void refuse(std::string section, std::uint64_t offset, std::string reason) {
    throw BitstreamError{std::move(section), offset, std::move(reason)};
}

void check_header(Bytes data) {
    const std::size_t n = data.size();
    if (!std::equal(kSignature.begin(), kSignature.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(n, 8)),
                    data.begin()))
        refuse("header", 0, "not a .vqrf file");
    if (n < kHeaderBytes)
        refuse("header", n, "truncated: the header has 32 bytes, the file " + to_string(n));
    const auto major = load<std::uint16_t>(&data[8]), minor = load<std::uint16_t>(&data[10]);
    if (major != kMajor && major != kSpaceMajor)
        refuse("header", 8, "version " + to_string(major) + "." + to_string(minor) +
                                " is not supported: this reader knows 1.x and 2.x");
    const auto count = load<std::uint32_t>(&data[12]);
    if (count < 1 || count > kMaxSections) refuse("header", 12, "section count " + to_string(count) + " is outside 1..64");
    const std::uint64_t table_end = kHeaderBytes + kEntryBytes * count;
    if (n < table_end)
        refuse("header", n,
               "truncated: header and section table have " + to_string(table_end) + " bytes, the file " + to_string(n));
    const std::uint32_t crc = crc32(data.subspan(kHeaderBytes, kEntryBytes * count), crc32(data.first(28)));
    if (crc != load<std::uint32_t>(&data[28])) refuse("header", 28, "checksum mismatch");
    if (load<std::uint32_t>(&data[24]) != 0) refuse("header", 24, "reserved bytes are not zero");
}

// SPAC is a section of version 2.
bool has_space(Bytes data) { return load<std::uint16_t>(&data[8]) == kSpaceMajor; }

Section read_entry(Bytes data, std::uint64_t entry) {
    const std::uint8_t *p = &data[entry];
    Section s;
    s.entry = entry;
    for (int i = 0; i < 4; ++i)
        if (!((p[i] >= 'A' && p[i] <= 'Z') || (p[i] >= '0' && p[i] <= '9')))
            refuse("header", entry, "section name is not four capital letters or digits");
    s.name.assign(reinterpret_cast<const char *>(p), 4);
    for (int k = 0; k < kKnown; ++k)
        if (s.name == kNames[k] && (k != kSPAC || has_space(data))) s.known = k;
    const auto flags = load<std::uint16_t>(p + 4), method = load<std::uint16_t>(p + 6);
    s.stored = load<std::uint64_t>(p + 8);
    s.raw = load<std::uint64_t>(p + 16);
    s.crc = load<std::uint32_t>(p + 24);
    if (s.known < 0) {
        if (flags & 1) refuse(s.name, entry, "unknown critical section");
        return s;
    }
    if (flags != is_critical(s.known)) refuse(s.name, entry + 4, "flags are " + to_string(flags) + ", not the section's");
    if (method != method_of(s.known))
        refuse(s.name, entry + 6, "coding method " + to_string(method) + " is not supported");
    if (load<std::uint32_t>(p + 28) != 0) refuse(s.name, entry + 28, "reserved bytes are not zero");
    return s;
}

// The section table, checked to tile the file exactly, with every checksum right. With `truncated`, levels after the coarsest and
// what follows them may be missing.
std::vector<Section> read_table(Bytes data, bool truncated) {
    check_header(data);
    const auto count = load<std::uint32_t>(&data[12]);
    const auto total = load<std::uint64_t>(&data[16]);
    std::vector<Section> sections;
    std::uint64_t end = kHeaderBytes + kEntryBytes * count;
    int last_known = -1;
    for (std::uint32_t i = 0; i < count; ++i) {
        Section s = read_entry(data, kHeaderBytes + kEntryBytes * i);
        if (s.known >= 0 && s.known <= last_known) refuse(s.name, s.entry, "appears twice or out of order");
        if (s.known >= 0) last_known = s.known;
        if (end > total || s.stored > total - end)
            refuse("header", 16, "file length " + to_string(total) + " is not the sum of its parts");
        s.offset = end;
        end += s.stored;
        sections.push_back(std::move(s));
    }
    if (end != total) refuse("header", 16, "file length " + to_string(total) + " is not the sum of its parts");
    bool optional = false;
    for (Section &s : sections) {
        s.is_here = s.offset + s.stored <= data.size();
        if (!s.is_here && !(truncated && optional))
            refuse(s.name, data.size(),
                   "truncated: ends at byte " + to_string(s.offset + s.stored) + ", the file has " +
                       to_string(data.size()));
        optional = optional || s.known >= kLEV8;
    }
    if (data.size() > total) refuse("end", total, to_string(data.size() - total) + " trailing bytes");
    for (const Section &s : sections)
        if (s.is_here && crc32(data.subspan(s.offset, s.stored)) != s.crc) refuse(s.name, s.offset, "checksum mismatch");
    return sections;
}

// The known sections, and in `raw` the sum of their raw lengths.
std::array<Section, kKnown> select_known(const std::vector<Section> &sections, std::uint64_t max_bytes, std::uint64_t &raw) {
    std::array<Section, kKnown> known;
    raw = 0;
    for (const Section &s : sections) {
        if (s.known < 0) continue;
        known[s.known] = s;
        if (method_of(s.known) == 0 && s.raw != s.stored)
            refuse(s.name, s.entry + 16, "raw length " + to_string(s.raw) + " is not the stored length");
        if (method_of(s.known) == 1 && s.known != kCODE && s.raw >> kMaxRatioBits > s.stored)
            refuse(s.name, s.entry + 16,
                   "raw length " + to_string(s.raw) + " is too great for " + to_string(s.stored) + " stored bytes");
        if (s.raw > max_bytes - raw)
            refuse(s.name, s.entry + 16, "decoded sections take more than the limit of " + to_string(max_bytes) + " bytes");
        raw += s.raw;
    }
    if (known[kHEAD].known < 0) refuse(kNames[kHEAD], kHeaderBytes, "section is missing");
    return known;
}

// Check that the sections are those of the file's kind, none too few and none too many. Gives the first of its levels.
int check_kind(Bytes data, const std::array<Section, kKnown> &known, bool is_pyramid) {
    int n_levels = 0;
    for (int k = kLEV8; k < kKnown; ++k) n_levels += known[k].known >= 0;
    const int first = kKnown - std::max(1, n_levels);
    for (int k = 0; k < kKnown; ++k) {
        const bool of_codebook = k == kBOOK || k == kDENS || k == kCODE || k == kKEPT, common = (k <= kCOLR && (k != kSPAC || has_space(data))) || k == kPART;
        const bool belongs = common || (is_pyramid ? k == kSTEP || k >= first : of_codebook);
        if (belongs && is_critical(k) && known[k].known < 0) refuse(kNames[k], kHeaderBytes, "section is missing");
        if (!belongs && known[k].known >= 0) refuse(kNames[k], known[k].entry, "does not belong to a file of this kind");
    }
    return first;
}

// A section's bytes, read from the front.
class Reader {
  public:
    Reader(Bytes data, const Section &section)
        : section_(section), bytes_(section.is_here ? data.subspan(section.offset, section.stored) : Bytes()) {}

    template <class T>
    T take() {
        if (bytes_.size() < sizeof(T)) fail("ends inside its own header");
        const T value = load<T>(bytes_.data());
        bytes_ = bytes_.subspan(sizeof(T));
        return value;
    }
    Bytes rest() const { return bytes_; }
    void expect_raw(std::uint64_t expected) const {
        if (section_.raw != expected)
            refuse(section_.name, section_.entry + 16,
                   "raw length is " + to_string(section_.raw) + ", expected " + to_string(expected));
    }
    [[noreturn]] void fail(std::string reason) const { refuse(section_.name, section_.offset, std::move(reason)); }

    // Decode the rest of the section with `walk(decoder)`; it must use up every byte.
    template <class Walk>
    void decode(std::size_t n_contexts, Walk walk) const {
        Decoder decoder(n_contexts, bytes_);
        walk(decoder);
        if (!decoder.is_complete()) fail(kDamaged);
    }

  private:
    const Section &section_;
    Bytes bytes_;
};

Head read_head(Bytes data, const Section &section) {
    Reader in(data, section);
    if (section.stored != kHeadBytes)
        in.fail("has " + to_string(section.stored) + " bytes, expected " + to_string(kHeadBytes));
    Head head;
    bool bounds_are_fine = true;
    for (double &v : head.lo) v = in.take<double>();
    for (double &v : head.hi) v = in.take<double>();
    for (int a = 0; a < 3; ++a)
        bounds_are_fine &= std::isfinite(head.lo[a]) && std::isfinite(head.hi[a]) && head.lo[a] < head.hi[a];
    for (std::uint32_t *side : {&head.shape.x, &head.shape.y, &head.shape.z}) *side = in.take<std::uint32_t>();
    for (std::uint32_t *n : {&head.n_channels, &head.codebook_size, &head.n_coded, &head.n_kept})
        *n = in.take<std::uint32_t>();
    for (float &v : head.constants) v = in.take<float>();
    const auto activation = in.take<std::uint32_t>();
    for (const std::uint32_t side : {head.shape.x, head.shape.y, head.shape.z})
        if (side < kMinSide || side > kMaxSide) in.fail("side " + to_string(side) + " is outside 2..4096");
    const std::uint64_t n_voxels = head.shape.n_voxels();
    if (n_voxels > kMaxVoxels) in.fail(to_string(n_voxels) + " voxels, the limit is " + to_string(kMaxVoxels));
    if (head.n_channels < 1 || head.n_channels > kMaxChannels)
        in.fail("channel count " + to_string(head.n_channels) + " is outside 1..64");
    if (head.codebook_size > kMaxCodewords)
        in.fail("codebook size " + to_string(head.codebook_size) + " is outside 1..65536");
    if (head.codebook_size == 0 && head.n_kept) in.fail("a pyramid keeps no voxels");
    if (std::uint64_t{head.n_coded} + head.n_kept > n_voxels) in.fail("more voxels hold values than there are");
    if (!bounds_are_fine) in.fail("bounds are not finite with lo < hi");
    for (const float v : head.constants)
        if (!std::isfinite(v)) in.fail("a constant is not finite");
    if (head.constants[2] <= 0 || head.constants[3] <= 0) in.fail("interval or step_world is not positive");
    if (activation > 1) in.fail("activation " + to_string(activation) + " is not supported");
    head.activation = static_cast<Activation>(activation);
    return head;
}

std::vector<double> read_space(Bytes data, const Section &section) {
    Reader in(data, section);
    if (section.stored != kSpaceBytes)
        in.fail("has " + to_string(section.stored) + " bytes, expected " + to_string(kSpaceBytes));
    const auto number = in.take<std::uint16_t>(), reserved = in.take<std::uint16_t>();
    if (number != 1) in.fail("space " + to_string(number) + " is not supported");
    if (reserved != 0) in.fail("reserved bytes are not zero");
    std::vector<double> space(16);
    for (double &value : space) value = in.take<double>();
    for (const double value : space)
        if (!std::isfinite(value)) in.fail("a number of the space is not finite");
    return space;
}

// Memory that grows with the lattice and is none of the arrays, above what is allowed for it: two planes of ranks for each of
// the three sections that are decoded side by side, and the flags of the blocks, twice. A pyramid's levels have magnitudes of half
// their size; above the first they are lattices of their own, and the second has its numbers.
std::uint64_t working_bytes(Shape shape, const std::array<Section, kKnown> &known) {
    const std::uint64_t planes = 24 * (std::uint64_t{shape.y} + 2) * (std::uint64_t{shape.z} + 2);
    std::uint64_t all = planes + 2 * Blocks::shape_of(shape).n_voxels(), coefficients = 0;
    for (int k = kLEV8; k < kKnown; ++k) coefficients += known[k].raw;
    all += coefficients / 2;
    for (int k = kLEV0 - 1; k >= kLEV8 && known[k].known >= 0; --k) {
        shape = coarser_shape(shape);
        all += shape.n_voxels() * (k == kLEV0 - 1 ? 5 : 1);
    }
    return all > kAllowance / 2 ? all - kAllowance / 2 : 0;
}

// The record before a table's items: its type, and scale and offset when it holds levels.
void read_quantizer(Reader &in, Table &table) {
    const auto type = in.take<std::uint8_t>(), mode = in.take<std::uint8_t>();
    if (in.take<std::uint16_t>() != 0) in.fail("reserved bytes are not zero");
    if (type > 2) in.fail("table type " + to_string(type) + " is not supported");
    table.type = static_cast<TableType>(type);
    const bool is_float = table.type == TableType::kFloat16;
    if (mode > 2 || (mode == 0) != is_float || (mode == 2 && table.columns == 1))
        in.fail("quantiser mode " + to_string(mode) + " does not fit the table");
    const std::uint32_t n = mode == 0 ? 0 : mode == 1 ? 1 : table.columns;
    if (in.rest().size() < std::size_t{8} * n) in.fail("ends inside its own header");
    for (std::vector<float> *values : {&table.scale, &table.offset}) {
        values->resize(n);
        for (float &value : *values) {
            value = in.take<float>();
            if (!std::isfinite(value)) in.fail("scale or offset is not finite");
        }
    }
}

int item_bytes(TableType type) { return type == TableType::kUint8 ? 1 : 2; }

std::uint32_t trees_of(const Table &table, bool by_column) {
    return by_column && table.rows >= kColumnTreeRows ? table.columns : 1;
}

template <class Coder>
void code_tables(Coder &coder, std::span<Table> tables, bool by_column) {
    std::size_t base = 0;
    for (Table &t : tables) {
        const std::uint32_t n_trees = trees_of(t, by_column);
        if (t.type == TableType::kUint8)
            code_table(coder, base, n_trees, std::span(t.bytes));
        else
            code_table(coder, base, n_trees, std::span(t.items));
        base += std::size_t{256} * n_trees;
    }
}

std::size_t table_contexts(std::span<const Table> tables, bool by_column) {
    std::size_t n = 0;
    for (const Table &t : tables) n += std::size_t{256} * trees_of(t, by_column);
    return n;
}

// The items of tables whose shapes and quantisers are known.
void read_items(Reader &in, std::span<Table> tables, bool by_column) {
    std::uint64_t raw = 0;
    for (const Table &t : tables) raw += std::uint64_t{t.rows} * t.columns * item_bytes(t.type);
    in.expect_raw(raw);
    for (Table &t : tables) t.resize();
    in.decode(table_contexts(tables, by_column), [&](Decoder &d) { code_tables(d, tables, by_column); });
    for (const Table &t : tables)
        if (t.type == TableType::kFloat16)
            for (const std::uint16_t bits : t.items)
                if ((bits & 0x7C00) == 0x7C00) in.fail("a value is not finite");
}

void read_color_mlp(Bytes data, const Section &section, CompressedField &field) {
    Reader in(data, section);
    const std::uint32_t n_channels = field.head.n_channels;
    const auto n_layers = in.take<std::uint16_t>(), shading = in.take<std::uint16_t>();
    if (n_layers > kMaxLayers) in.fail(to_string(n_layers) + " layers, the limit is 16");
    if (shading > 3) in.fail("shading " + to_string(shading) + " is not supported");
    field.shading = static_cast<Shading>(shading);
    std::uint32_t n_frequencies = 0;
    if (field.shading == Shading::kEncodedMlp) {
        n_frequencies = field.feature_frequencies = in.take<std::uint16_t>();
        if (in.take<std::uint16_t>() || !n_frequencies)
            in.fail("feature frequencies without one, or reserved bytes that are not zero");
        if (n_frequencies > kMaxFeatureFrequencies)
            in.fail(to_string(n_frequencies) + " feature frequencies are outside 0..10");
        if (n_layers == 0) in.fail("feature frequencies without layers");
    }
    if (is_harmonic(field.shading)) {
        if (n_layers) in.fail("spherical harmonics have no layers");
        if (n_channels != 12 && n_channels != 27) in.fail("spherical harmonics have 12 or 27 channels");
    } else if (n_layers == 0 && n_channels != 3) {
        in.fail("without layers there must be 3 channels");
    }
    const std::uint32_t n_features = n_channels * (1 + 2 * n_frequencies);
    std::vector<Table> &tables = field.color_mlp;
    for (std::uint32_t i = 0; i < n_layers; ++i) {
        Table weight, bias;
        weight.rows = in.take<std::uint32_t>();
        weight.columns = in.take<std::uint32_t>();
        for (const std::uint32_t side : {weight.rows, weight.columns})
            if (side < 1 || side > kMaxLayerSide) in.fail("layer side " + to_string(side) + " is outside 1..4096");
        const std::uint32_t width = weight.columns;
        const bool fits = i ? width == tables[2 * i - 2].rows
                            : width >= n_features + 3 && (width - n_features - 3) % 6 == 0;
        if (!fits || (i + 1u == n_layers && weight.rows != 3)) in.fail("layers do not lead from the features to rgb");
        bias.columns = weight.rows;
        read_quantizer(in, weight);
        read_quantizer(in, bias);
        tables.push_back(std::move(weight));
        tables.push_back(std::move(bias));
    }
    read_items(in, tables, false);
}

Table read_codebook(Bytes data, const Section &section, const Head &head) {
    Reader in(data, section);
    Table table;
    table.rows = head.codebook_size;
    table.columns = head.n_channels;
    read_quantizer(in, table);
    read_items(in, std::span(&table, 1), true);
    return table;
}

// What a partition holds, by the blocks that are marked as occupied.
struct Held {
    std::uint64_t n_coded = 0, n_kept = 0;
    bool in_vain = false;  // one of these blocks is empty
};

Held count_held(Shape shape, const Blocks &blocks, Bytes partition) {
    Held held;
    std::vector<std::uint8_t> empty = blocks.occupied;
    for_each_run(shape, blocks, [&](std::size_t block, std::size_t begin, std::size_t end) {
        if (!blocks.occupied[block]) return;
        for (std::size_t i = begin; i < end; ++i) {
            if (partition[i] == kPruned) continue;
            empty[block] = 0;
            (partition[i] == kCoded ? held.n_coded : held.n_kept) += 1;
        }
    });
    held.in_vain = std::any_of(empty.begin(), empty.end(), [](std::uint8_t flag) { return flag != 0; });
    return held;
}

void read_partition(Bytes data, const Section &section, CompressedField &field) {
    const Reader in(data, section);
    const Shape shape = field.head.shape;
    Blocks blocks(shape);
    field.partition.assign(shape.n_voxels(), kPruned);
    in.decode(kPartitionContexts, [&](Decoder &d) { code_partition(d, shape, blocks, std::span(field.partition)); });
    const Held held = count_held(shape, blocks, field.partition);
    if (held.in_vain) in.fail(kInVain);
    if (held.n_coded != field.head.n_coded || held.n_kept != field.head.n_kept)
        in.fail("holds " + to_string(held.n_coded) + " coded and " + to_string(held.n_kept) + " kept voxels, the head says " +
                to_string(field.head.n_coded) + " and " + to_string(field.head.n_kept));
}

// The quantiser of per-voxel levels, which are always bytes.
void read_level_quantizer(Reader &in, std::uint32_t columns, std::vector<float> &scale, std::vector<float> &offset) {
    Table table;
    table.columns = columns;
    read_quantizer(in, table);
    if (table.type != TableType::kUint8) in.fail("levels of voxels are not bytes");
    scale = std::move(table.scale);
    offset = std::move(table.offset);
}

void read_density(Bytes data, const Section &section, CompressedField &field) {
    const Head &head = field.head;
    Reader in(data, section);
    read_level_quantizer(in, 1, field.density_scale, field.density_offset);
    field.density.assign(std::size_t{head.n_coded} + head.n_kept, 0);
    in.decode(kDensityContexts, [&](Decoder &d) { code_density(d, head.shape, field.partition, field.density); });
}

void read_codes(Bytes data, const Section &section, CompressedField &field) {
    const Head &head = field.head;
    const Reader in(data, section);
    field.codes.assign(head.n_coded, 0);
    in.decode(code_contexts(head.codebook_size),
              [&](Decoder &d) { code_codes(d, head.shape, field.partition, head.codebook_size, field.codes); });
    for (const std::int32_t code : field.codes)
        if (static_cast<std::uint32_t>(code) >= head.codebook_size) in.fail("a code is not below the codebook size");
}

void read_kept(Bytes data, const Section &section, CompressedField &field) {
    const Head &head = field.head;
    Reader in(data, section);
    read_level_quantizer(in, head.n_channels, field.kept_scale, field.kept_offset);
    field.kept.assign(std::size_t{head.n_kept} * head.n_channels, 0);
    in.decode(kKeptContexts, [&](Decoder &d) { code_kept(d, head.shape, field.partition, head.n_channels, field.kept); });
}

// The sections that need the partition and not each other, side by side in a large file. The first that is wrong, in the
// order of the file, is the one that is refused.
void read_values(Bytes data, const std::array<Section, kKnown> &known, CompressedField &field) {
    const auto policy = data.size() < kThreadedBytes ? std::launch::deferred : std::launch::async;
    auto density = std::async(policy, [&] { read_density(data, known[kDENS], field); });
    auto codes = std::async(policy, [&] { read_codes(data, known[kCODE], field); });
    auto kept = std::async(policy, [&] { read_kept(data, known[kKEPT], field); });
    density.get();
    codes.get();
    kept.get();
}

void read_steps(Bytes data, const Section &section, CompressedField &field) {
    Reader in(data, section);
    const auto n_latents = in.take<std::uint16_t>(), has_basis = in.take<std::uint16_t>();
    const std::uint32_t n_channels = field.head.n_channels;
    if (n_latents < 1 || n_latents > kMaxChannels) in.fail("latent count " + to_string(n_latents) + " is outside 1..64");
    if (has_basis > 1 || (!has_basis && n_latents != n_channels)) in.fail("latents do not lead to the features");
    const std::size_t n_steps = 1u + n_latents, n_basis = has_basis * std::size_t{n_latents} * n_channels;
    if (in.rest().size() != 4 * (n_steps + n_basis))
        in.fail("has " + to_string(in.rest().size()) + " bytes of steps and basis, expected " + to_string(4 * (n_steps + n_basis)));
    bool is_fine = true;
    field.steps.resize(n_steps), field.basis.resize(n_basis);
    for (float &step : field.steps) step = in.take<float>(), is_fine &= std::isfinite(step) && step > 0;
    for (float &value : field.basis) value = in.take<float>(), is_fine &= std::isfinite(value);
    if (!is_fine) in.fail("a step is not positive, or a value not finite");
}

// The levels from section `first` on, which the partition is read before.
void read_levels(Bytes data, const std::array<Section, kKnown> &known, int first, CompressedField &field) {
    const auto width = static_cast<std::uint32_t>(field.steps.size());
    std::vector<Nodes> nodes(static_cast<std::size_t>(kKnown - first));
    nodes[0] = {field.head.shape, field.partition, field.head.n_coded};
    for (std::size_t l = 1; l < nodes.size(); ++l) nodes[l] = coarser_nodes(nodes[l - 1]);
    const auto level_of = [&](int k) -> Nodes & { return nodes[static_cast<std::size_t>(kLEV0 - k)]; };
    for (int k = first; k < kKnown; ++k) Reader(data, known[k]).expect_raw(2 * level_of(k).n_nodes * width);
    std::vector<std::int8_t> above;
    bool is_here = true;
    for (int k = first; k < kKnown; ++k) {
        const Nodes &coarser = level_of(std::max(k - 1, first));
        std::vector<std::int16_t> &values = field.levels.emplace_back(level_of(k).n_nodes * width, 0);
        is_here = is_here && known[k].is_here;
        if (!is_here) continue;
        Reader(data, known[k]).decode(level_contexts(width), [&](Decoder &d) {
            above = code_level(d, level_of(k), coarser, above, width, values);
        });
    }
}

CompressedField decode_sections(Bytes data, std::uint64_t max_bytes, bool truncated) {
    std::uint64_t raw = 0;
    const std::array<Section, kKnown> known = select_known(read_table(data, truncated), max_bytes, raw);
    CompressedField field;
    field.head = read_head(data, known[kHEAD]);
    const Head &head = field.head;
    const bool is_pyramid = head.codebook_size == 0;
    const int first = check_kind(data, known, is_pyramid);
    if (working_bytes(head.shape, known) > max_bytes - raw)
        refuse(kNames[kHEAD], known[kHEAD].offset,
               "decoding takes more than the limit of " + to_string(max_bytes) + " bytes");
    if (known[kSPAC].known >= 0) field.space = read_space(data, known[kSPAC]);
    Reader(data, known[kPART]).expect_raw(head.shape.n_voxels());
    if (!is_pyramid) {
        Reader(data, known[kDENS]).expect_raw(std::uint64_t{head.n_coded} + head.n_kept);
        Reader(data, known[kCODE]).expect_raw(std::uint64_t{4} * head.n_coded);
        Reader(data, known[kKEPT]).expect_raw(std::uint64_t{head.n_kept} * head.n_channels);
    }
    if (const Section &meta = known[kMETA]; meta.known >= 0) {
        const Reader in(data, meta);
        if (meta.stored > kMaxMetadataBytes)
            in.fail("metadata has " + to_string(meta.stored) + " bytes, the limit is " + to_string(kMaxMetadataBytes));
        field.metadata.assign(in.rest().begin(), in.rest().end());
    }
    read_color_mlp(data, known[kCOLR], field);
    if (is_pyramid) {
        read_steps(data, known[kSTEP], field);
        Reader(data, known[kLEV0]).expect_raw(std::uint64_t{2} * head.n_coded * field.steps.size());
        read_partition(data, known[kPART], field);
        read_levels(data, known, first, field);
        return field;
    }
    field.codebook = read_codebook(data, known[kBOOK], head);
    read_partition(data, known[kPART], field);
    read_values(data, known, field);
    return field;
}

template <class Walk>
std::vector<std::uint8_t> encode_with(std::size_t n_contexts, Walk walk) {
    Encoder encoder(n_contexts);
    walk(encoder);
    return encoder.finish();
}

}  // namespace

std::optional<CompressedField> decode_file(Bytes data, std::uint64_t max_bytes, bool truncated, BitstreamError &error) {
    try {
        return decode_sections(data, max_bytes, truncated);
    } catch (BitstreamError &e) {
        error = std::move(e);
    } catch (const std::system_error &) {
        error = {"header", 0, "not enough threads to decode"};
    } catch (const std::bad_alloc &) {
        error = {"header", 0, "not enough memory to decode"};
    }
    return std::nullopt;
}

std::vector<std::uint8_t> encode_partition(Shape shape, Bytes partition) {
    Blocks blocks(shape);
    for_each_run(shape, blocks, [&](std::size_t block, std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) blocks.occupied[block] |= partition[i] != kPruned;
    });
    return encode_with(kPartitionContexts, [&](Encoder &e) { code_partition(e, shape, blocks, partition); });
}

std::vector<std::uint8_t> encode_density(Shape shape, Bytes partition, Bytes levels) {
    std::vector<std::uint8_t> values(levels.begin(), levels.end());
    return encode_with(kDensityContexts, [&](Encoder &e) { code_density(e, shape, partition, values); });
}

std::vector<std::uint8_t> encode_codes(Shape shape, Bytes partition, std::uint32_t codebook_size,
                                       std::span<const std::int32_t> codes) {
    std::vector<std::int32_t> values(codes.begin(), codes.end());
    return encode_with(code_contexts(codebook_size),
                       [&](Encoder &e) { code_codes(e, shape, partition, codebook_size, values); });
}

std::vector<std::uint8_t> encode_kept(Shape shape, Bytes partition, std::uint32_t n_channels, Bytes levels) {
    std::vector<std::uint8_t> values(levels.begin(), levels.end());
    return encode_with(kKeptContexts, [&](Encoder &e) { code_kept(e, shape, partition, n_channels, values); });
}

std::vector<std::vector<std::uint8_t>> encode_levels(Shape shape, Bytes partition, std::uint32_t width,
                                                     std::span<const std::span<const std::int16_t>> levels) {
    std::vector<Nodes> nodes(levels.size());
    nodes[0] = {shape, partition, 0};
    for (const std::uint8_t s : partition) nodes[0].n_nodes += s != kPruned;
    for (std::size_t l = 1; l < nodes.size(); ++l) nodes[l] = coarser_nodes(nodes[l - 1]);
    std::vector<std::vector<std::uint8_t>> streams;
    std::vector<std::int8_t> above;
    for (std::size_t l = nodes.size(); l-- > 0;) {
        const std::span<const std::int16_t> level = levels[nodes.size() - 1 - l];
        std::vector<std::int16_t> values(level.begin(), level.end());
        const Nodes &coarser = nodes[std::min(l + 1, nodes.size() - 1)];
        streams.push_back(encode_with(level_contexts(width), [&](Encoder &e) { above = code_level(e, nodes[l], coarser, above, width, values); }));
    }
    return streams;
}

namespace {

// Code every level of the stacks, coarsest first: `code(number, walk)` is given what walks through the level of all of them.
template <class Code>
void code_stacks(std::span<Stack> stacks, std::uint32_t width, std::size_t n_levels, Code code) {
    std::vector<std::vector<Nodes>> nodes(stacks.size());
    std::vector<std::vector<std::int8_t>> above(stacks.size());
    for (std::size_t i = 0; i < stacks.size(); ++i) {
        nodes[i].resize(n_levels);
        nodes[i][0] = {stacks[i].shape, stacks[i].mask, 0};
        for (const std::uint8_t s : stacks[i].mask) nodes[i][0].n_nodes += s != 0;
        for (std::size_t l = 1; l < n_levels; ++l) nodes[i][l] = coarser_nodes(nodes[i][l - 1]);
        stacks[i].levels.resize(n_levels);
    }
    for (std::size_t number = 0; number < n_levels; ++number) {
        const std::size_t l = n_levels - 1 - number;
        const bool goes_on = code(number, [&](auto &coder) {
            for (std::size_t i = 0; i < stacks.size(); ++i) {
                std::vector<std::int16_t> &values = stacks[i].levels[number];
                values.resize(nodes[i][l].n_nodes * width);
                above[i] = code_level(coder, nodes[i][l], nodes[i][std::min(l + 1, n_levels - 1)], above[i], width, values);
            }
        });
        if (!goes_on) return;
    }
}

}  // namespace

std::vector<std::vector<std::uint8_t>> encode_stacks(std::span<Stack> stacks, std::uint32_t width) {
    std::vector<std::vector<std::uint8_t>> streams;
    code_stacks(stacks, width, stacks.front().levels.size(), [&](std::size_t, auto walk) {
        streams.push_back(encode_with(level_contexts(width), walk));
        return true;
    });
    return streams;
}

std::string decode_partition(Shape shape, Bytes stream, std::span<std::uint8_t> partition) {
    Blocks blocks(shape);
    Decoder decoder(kPartitionContexts, stream);
    code_partition(decoder, shape, blocks, partition);
    if (!decoder.is_complete()) return kDamaged;
    return count_held(shape, blocks, partition).in_vain ? kInVain : "";
}

int decode_stacks(std::span<Stack> stacks, std::uint32_t width, std::span<const Bytes> streams) {
    int damaged = -1;
    code_stacks(stacks, width, streams.size(), [&](std::size_t number, auto walk) {
        Decoder decoder(level_contexts(width), streams[number]);
        walk(decoder);
        if (!decoder.is_complete()) damaged = static_cast<int>(number);
        return damaged < 0;
    });
    return damaged;
}

std::vector<std::uint8_t> encode_tables(std::span<const Table> tables, bool by_column) {
    std::vector<Table> values(tables.begin(), tables.end());
    return encode_with(table_contexts(tables, by_column), [&](Encoder &e) { code_tables(e, std::span(values), by_column); });
}

}  // namespace vqrf
