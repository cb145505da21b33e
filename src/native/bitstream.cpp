#include "bitstream.hpp"

#include <cmath>
#include <future>
#include <new>
#include <system_error>

#include "planes.hpp"
#include "sections.hpp"

namespace vqrf {
namespace {

constexpr std::uint64_t kHeadBytes = 116, kSpaceBytes = 132;
constexpr std::uint32_t kMinSide = 2, kMaxSide = 4096, kMaxChannels = 64, kMaxCodewords = 65536;
constexpr std::uint32_t kMaxLayers = 16, kMaxLayerSide = 4096;
constexpr std::uint64_t kMaxVoxels = std::uint64_t{1} << 31, kMaxMetadataBytes = std::uint64_t{1} << 20;
constexpr std::size_t kThreadedBytes = 64 << 10;  // below, starting a thread takes longer than the work
constexpr std::uint32_t kColumnTreeRows = 256;    // from so many rows on, a column pays for a tree of its own
constexpr const char *kInVain = "a block that is marked as occupied is empty";

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

Space read_space(Bytes data, const Section &section) {
    Reader in(data, section);
    if (section.stored != kSpaceBytes)
        in.fail("has " + to_string(section.stored) + " bytes, expected " + to_string(kSpaceBytes));
    const auto number = in.take<std::uint16_t>(), reserved = in.take<std::uint16_t>();
    if (number != kProjective && number != kUnbounded) in.fail("space " + to_string(number) + " is not supported");
    if (reserved != 0) in.fail("reserved bytes are not zero");
    Space space{number, {}};
    for (double &value : space.map) value = in.take<double>();
    for (const double value : space.map)
        if (!std::isfinite(value)) in.fail("a number of the space is not finite");
    const double *last = &space.map[12];
    const bool is_affine = last[0] == 0 && last[1] == 0 && last[2] == 0 && last[3] == 1;
    if (number == kUnbounded && !is_affine) in.fail("the map of the space is not affine");
    return space;
}

// Memory that grows with the lattice and is none of the arrays, above what is allowed for it: two planes of ranks for each of
// the three sections that are decoded side by side, and the flags of the blocks, twice. A pyramid's levels have magnitudes of half
// their size; above the first they are lattices of their own, and the second has its numbers. Shadows have
// all of that in 12 bytes of a place.
std::uint64_t working_bytes(Shape shape, const std::array<Section, kKnown> &known) {
    const std::uint64_t planes = 24 * (std::uint64_t{shape.y} + 2) * (std::uint64_t{shape.z} + 2);
    std::uint64_t all = planes + 2 * Blocks::shape_of(shape).n_voxels(), coefficients = 0;
    for (int k = kLEV8; k < kKnown; ++k) coefficients += known[k].raw;
    all += coefficients / 2;
    if (known[kPLAN].known >= 0)
        all += 12 * (std::uint64_t{shape.x} * shape.y + std::uint64_t{shape.x} * shape.z + std::uint64_t{shape.y} * shape.z);
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

// The levels, which the partition is read before.
void read_levels(Bytes data, const std::array<Section, kKnown> &known, CompressedField &field) {
    const auto width = static_cast<std::uint32_t>(field.steps.size());
    const int first = first_level(known, kLEV0);
    const std::vector<Nodes> nodes =
        levels_over({field.head.shape, field.partition, field.head.n_coded}, static_cast<std::size_t>(kLEV0 + 1 - first));
    const auto level_of = [&](int k) -> const Nodes & { return nodes[static_cast<std::size_t>(kLEV0 - k)]; };
    for (int k = first; k <= kLEV0; ++k) Reader(data, known[k]).expect_raw(2 * level_of(k).n_nodes * width);
    std::vector<std::int8_t> above;
    bool is_here = true;
    for (int k = first; k <= kLEV0; ++k) {
        const Nodes &coarser = level_of(std::max(k - 1, first));
        std::vector<std::int16_t> &values = field.levels.emplace_back(level_of(k).n_nodes * width, std::int16_t{0});
        is_here = is_here && known[k].is_here;
        if (!is_here) continue;
        Reader(data, known[k]).decode(level_contexts(width), [&](Decoder &d) {
            above = code_level(d, level_of(k), coarser, above, width, values);
        });
    }
}

void read_plan(Bytes data, const Section &section, CompressedField &field) {
    Reader in(data, section);
    const auto n_density = in.take<std::uint16_t>(), n_features = in.take<std::uint16_t>();
    if (n_density < 1 || n_density > kMaxComponents || n_features < 1 || n_features > kMaxComponents)
        in.fail(to_string(n_density) + " and " + to_string(n_features) + " components are outside 1..256");
    field.n_density_components = n_density;
    field.mix.rows = 3u * n_features;
    field.mix.columns = field.head.n_channels;
    const std::size_t n_steps = std::size_t{3} * field.n_components();
    if (in.rest().size() != 8 * n_steps)
        in.fail("has " + to_string(in.rest().size()) + " bytes of steps, expected " + to_string(8 * n_steps));
    bool is_fine = true;
    for (std::vector<float> *steps : {&field.plane_steps, &field.line_steps}) {
        steps->resize(n_steps);
        for (float &step : *steps) step = in.take<float>(), is_fine &= std::isfinite(step) && step > 0;
    }
    if (!is_fine) in.fail("a step is not finite and positive");
}

// The levels of three planes, or of three lines, down to section `finest`.
void read_stacks(Bytes data, const std::array<Section, kKnown> &known, int finest, const std::array<Shadows::Shadow, 3> &shadows,
                 std::uint32_t width, std::array<Levels, 3> &levels) {
    const int first = first_level(known, finest);
    Stacks stacks(static_cast<std::size_t>(finest + 1 - first), width);
    for (const Shadows::Shadow &shadow : shadows) stacks.add(shadow.shape, shadow.mask);
    const auto number_of = [&](int k) { return static_cast<std::size_t>(k - first); };
    for (int k = first; k <= finest; ++k) Reader(data, known[k]).expect_raw(2 * stacks.count_nodes(number_of(k)) * width);
    for (int k = first; k <= finest; ++k)
        Reader(data, known[k]).decode(level_contexts(width), [&](Decoder &d) { stacks.code(d, number_of(k), levels); });
}

void read_planes(Bytes data, const std::array<Section, kKnown> &known, CompressedField &field) {
    read_plan(data, known[kPLAN], field);
    Reader in(data, known[kMIXT]);
    read_quantizer(in, field.mix);
    read_items(in, std::span(&field.mix, 1), false);
    read_partition(data, known[kPART], field);
    const Shadows shadows = find_shadows(field.head.shape, field.partition);
    read_stacks(data, known, kPLN0, shadows.planes, field.n_components(), field.planes);
    read_stacks(data, known, kLIN0, shadows.lines, field.n_components(), field.lines);
}

void read_pyramid(Bytes data, const std::array<Section, kKnown> &known, CompressedField &field) {
    read_steps(data, known[kSTEP], field);
    Reader(data, known[kLEV0]).expect_raw(std::uint64_t{2} * field.head.n_coded * field.steps.size());
    read_partition(data, known[kPART], field);
    read_levels(data, known, field);
}

void read_codebook_and_values(Bytes data, const std::array<Section, kKnown> &known, CompressedField &field) {
    field.codebook = read_codebook(data, known[kBOOK], field.head);
    read_partition(data, known[kPART], field);
    read_values(data, known, field);
}

CompressedField decode_sections(Bytes data, std::uint64_t max_bytes, bool truncated) {
    std::uint64_t raw = 0;
    const std::array<Section, kKnown> known = select_known(read_table(data, truncated), max_bytes, raw);
    CompressedField field;
    field.head = read_head(data, known[kHEAD]);
    const Head &head = field.head;
    const bool has_codebook = head.codebook_size != 0, is_planes = major_of(data) == kPlanesMajor;
    check_kind(major_of(data), known, !has_codebook);
    const Reader in_head(data, known[kHEAD]);
    if (is_planes && has_codebook) in_head.fail("planes and lines have no codebook");
    if (working_bytes(head.shape, known) > max_bytes - raw)
        in_head.fail("decoding takes more than the limit of " + to_string(max_bytes) + " bytes");
    if (known[kSPAC].known >= 0) field.space = read_space(data, known[kSPAC]);
    Reader(data, known[kPART]).expect_raw(head.shape.n_voxels());
    if (has_codebook) {
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
    (is_planes ? read_planes : has_codebook ? read_codebook_and_values : read_pyramid)(data, known, field);
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
    const std::vector<Nodes> nodes = levels_over({shape, partition, count_selected(partition)}, levels.size());
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

std::vector<std::vector<std::uint8_t>> encode_stacks(std::span<const Shape> shapes, std::span<const Bytes> masks,
                                                     std::span<Levels> levels, std::uint32_t width) {
    const std::size_t n_levels = levels.front().size();
    Stacks stacks(n_levels, width);
    for (std::size_t i = 0; i < masks.size(); ++i) stacks.add(shapes[i], masks[i]);
    std::vector<std::vector<std::uint8_t>> streams;
    for (std::size_t number = 0; number < n_levels; ++number)
        streams.push_back(encode_with(level_contexts(width), [&](Encoder &e) { stacks.code(e, number, levels); }));
    return streams;
}

std::vector<std::uint8_t> encode_tables(std::span<const Table> tables, bool by_column) {
    std::vector<Table> values(tables.begin(), tables.end());
    return encode_with(table_contexts(tables, by_column), [&](Encoder &e) { code_tables(e, std::span(values), by_column); });
}

}  // namespace vqrf
