// The structure-aware mutator: it knows sections, checksums and fields, so that most of what it makes gets past the header.
// A third of its mutants are other fields, encoded: files that a decoder must accept, or nearly.
#include <algorithm>
#include <cmath>
#include <random>

#include "container.hpp"

// What the fuzzer does to bytes of which it knows nothing; libFuzzer's own, or that of replay.cpp.
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t *data, std::size_t size, std::size_t max_size);

namespace vqrf::fuzz {
namespace {

constexpr std::uint64_t kBudget = std::uint64_t{1} << 20;
constexpr std::size_t kMaxGrowth = 64;  // bytes by which a section's body may grow at once

struct Random {
    std::minstd_rand engine;

    std::uint32_t below(std::uint64_t n) { return static_cast<std::uint32_t>(engine() % std::max<std::uint64_t>(n, 1)); }
    bool one_in(std::uint32_t n) { return below(n) == 0; }

    template <class T>
    T pick(std::initializer_list<T> values) {
        return values.begin()[below(values.size())];
    }
    // Counts and lengths that lie at an edge of something.
    std::uint32_t edge() {
        return pick<std::uint32_t>({0, 1, 2, 3, 4, 5, 7, 8, 12, 16, 63, 64, 65, 255, 256, 257, 1024, 4095, 4096, 4097, 65535,
                                    65536, 65537, 1u << 20, 1u << 30, 1u << 31, ~0u});
    }
    float real() {
        return pick<float>({0.0f, -0.0f, 1.0f, -1.0f, 0.05f, 1e-38f, 1e-45f, 3.4e38f, HUGE_VALF, -HUGE_VALF, NAN, 12.5f});
    }
};

// ---------------------------------------------------------------------------------------------------- bytes of the file

void mutate_body(Part &part, Random &) {
    File bytes = part.body;
    const std::size_t size = bytes.size();
    bytes.resize(size + kMaxGrowth);
    bytes.resize(LLVMFuzzerMutate(bytes.data(), size, bytes.size()));
    part.body = std::move(bytes);
}

Part *find(std::vector<Part> &parts, const char *name) {
    for (Part &part : parts)
        if (part.name() == name) return &part;
    return nullptr;
}

// Another shape or count, with the raw lengths that belong to it: the lie gets as far as the section that contradicts it.
void mutate_head(std::vector<Part> &parts, Random &random) {
    Part *part = find(parts, "HEAD");
    if (part == nullptr || part->body.size() < 116) return;
    std::uint8_t *head = part->body.data();
    if (random.one_in(3)) {
        const std::uint32_t at = random.below(9);
        put(head + 76 + 4 * at, random.real());
        return;
    }
    if (random.one_in(8)) {
        put(head + 112, random.one_in(2) ? random.below(3) : random.edge());
        return;
    }
    if (random.one_in(4)) {
        put(head + 8 * random.below(6), random.pick<double>({0.0, -1.0, 1.0, 1e300, -1e300, HUGE_VAL, NAN, 1e-300}));
        return;
    }
    const std::uint32_t field = random.below(7);
    const auto old = get<std::uint32_t>(head + 48 + 4 * field);
    put(head + 48 + 4 * field, random.one_in(2) ? random.edge() : old + random.below(9) - 4);
    if (random.one_in(4)) return;
    std::array<std::uint64_t, 7> v{};
    for (int i = 0; i < 7; ++i) v[i] = get<std::uint32_t>(head + 48 + 4 * i);
    const std::uint64_t n_voxels = v[0] * v[1] * v[2];
    if (Part *p = find(parts, "PART")) put(&p->row[16], n_voxels);
    if (Part *p = find(parts, "DENS")) put(&p->row[16], v[5] + v[6]);
    if (Part *p = find(parts, "CODE")) put(&p->row[16], 4 * v[5]);
    if (Part *p = find(parts, "KEPT")) put(&p->row[16], v[6] * v[3]);
    if (Part *p = find(parts, "BOOK"))
        put(&p->row[16], v[3] * v[4] * (!p->body.empty() && p->body[0] == 1 ? 1u : 2u));
    const Part *steps = find(parts, "STEP");
    if (Part *p = find(parts, "LEV0"); p != nullptr && steps != nullptr && steps->body.size() >= 2)
        put(&p->row[16], 2 * v[5] * (1 + get<std::uint16_t>(steps->body.data())));
    const Part *plan = find(parts, "PLAN");
    if (Part *p = find(parts, "MIXT"); p != nullptr && plan != nullptr && plan->body.size() >= 4)
        put(&p->row[16], 3 * v[3] * get<std::uint16_t>(&plan->body[2]) * (!p->body.empty() && p->body[0] == 1 ? 1u : 2u));
}

// Another number of the space, or a space where there was none.
void mutate_space(std::vector<Part> &parts, Random &random) {
    Part *part = find(parts, "SPAC");
    if (part == nullptr) {
        Space space{static_cast<std::uint16_t>(1 + random.below(2)), {}};
        for (int i = 0; i < 4; ++i) space.map[5 * i] = 1;
        if (parts.size() < kMaxParts) parts.insert(parts.begin() + 1, make_part("SPAC", 0, space_body(space)));
        return;
    }
    if (part->body.size() < 132) return;
    if (random.one_in(4))
        put<std::uint16_t>(&part->body[2 * random.below(2)], static_cast<std::uint16_t>(random.below(4)));
    else
        put(&part->body[4 + 8 * random.below(16)], random.pick<double>({0.0, -1.0, 1e300, HUGE_VAL, -HUGE_VAL, NAN}));
}

void mutate_row(Part &part, Random &random) {
    switch (random.below(5)) {
        case 0: part.row[random.below(4)] = static_cast<std::uint8_t>(random.pick<char>({'A', 'Z', '0', '9', 'a', ' ', 'X'})); break;
        case 1: put<std::uint16_t>(&part.row[4], static_cast<std::uint16_t>(random.below(4))); break;
        case 2: put<std::uint16_t>(&part.row[6], static_cast<std::uint16_t>(random.below(4))); break;
        case 3: put<std::uint64_t>(&part.row[16], random.one_in(2) ? random.edge() : std::uint64_t{random.edge()} << 32); break;
        default: put<std::uint32_t>(&part.row[28], random.below(3));
    }
}

void mutate_order(std::vector<Part> &parts, Random &random) {
    const std::size_t at = random.below(parts.size()), other = random.below(parts.size());
    switch (random.below(4)) {
        case 0: std::swap(parts[at], parts[other]); break;
        case 1: if (parts.size() > 1) parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at)); break;
        case 2: if (parts.size() < kMaxParts) parts.push_back(Part(parts[at])); break;
        default: {
            if (parts.size() >= kMaxParts) break;
            Part extra = make_part(random.pick<const char *>({"XTRA", "ABCD", "0000"}), random.edge(), File(random.below(9)));
            put<std::uint16_t>(&extra.row[4], random.one_in(4));
            parts.insert(parts.begin() + static_cast<std::ptrdiff_t>(at), std::move(extra));
        }
    }
}

// Damage to the header, under a right checksum more often than not.
void mutate_header(File &file, Random &random) {
    switch (random.below(4)) {
        case 0: put<std::uint16_t>(&file[8 + 2 * random.below(2)], static_cast<std::uint16_t>(random.below(5))); break;
        case 1: put<std::uint32_t>(&file[12], random.edge()); break;
        case 2: put<std::uint64_t>(&file[16], random.one_in(2) ? file.size() + random.below(5) - 2 : random.edge()); break;
        default: {
            const std::size_t n = get<std::uint32_t>(&file[12]), row = kHeader + kRow * random.below(n);
            put<std::uint64_t>(&file[row + 8], std::uint64_t{random.edge()} << 32 * random.below(2));
        }
    }
    if (!random.one_in(3)) seal_header(file);
}

// ------------------------------------------------------------------------------------------------------- another field

template <class T>
void scatter(std::vector<T> &values, std::uint32_t limit, Random &random) {
    if (values.empty()) return;
    const std::size_t start = random.below(values.size());
    const std::size_t n = std::min<std::size_t>(1 + random.below(random.pick<std::uint32_t>({1, 8, 64, 4096})), values.size() - start);
    const bool is_flat = random.one_in(3);
    std::uint32_t value = random.below(limit);
    for (std::size_t i = 0; i < n; ++i) {
        values[start + i] = static_cast<T>(value);
        if (!is_flat) value = random.below(limit);
    }
}

void set_quantizer(std::uint32_t columns, bool is_levels, std::vector<float> &scale, std::vector<float> &offset,
                   Random &random) {
    const std::uint32_t n = !is_levels ? 0 : columns > 1 && random.one_in(2) ? columns : 1;
    scale.assign(n, 0.125f);
    offset.assign(n, -16.0f);
    for (float &v : scale) v = std::min(random.real(), 1e30f);
    for (std::vector<float> *values : {&scale, &offset})
        for (float &v : *values)
            if (!std::isfinite(v)) v = 1.0f;
}

void reshape_table(Table &table, std::uint32_t rows, std::uint32_t columns, Random &random) {
    const bool was_levels = table.type != TableType::kFloat16;
    table.rows = rows;
    table.columns = columns;
    table.resize();
    set_quantizer(columns, was_levels, table.scale, table.offset, random);
}

void retype_table(Table &table, Random &random) {
    table.type = random.pick({TableType::kFloat16, TableType::kUint8, TableType::kUint16});
    table.resize();
    set_quantizer(table.columns, table.type != TableType::kFloat16, table.scale, table.offset, random);
    scatter(table.items, 0x7C00, random);
    scatter(table.bytes, 256, random);
}

// Make the levels over a mask as long as it asks for.
void resize_levels(Levels &levels, Shape shape, Bytes mask, std::size_t width) {
    const std::vector<Nodes> nodes = levels_over({shape, mask, count_selected(mask)}, levels.size());
    for (std::size_t l = 0; l < levels.size(); ++l) levels[l].resize(nodes[levels.size() - 1 - l].n_nodes * width);
}

// Make the partition one of a field without a codebook.
void resize_partition(CompressedField &field) {
    field.partition.resize(field.head.shape.n_voxels(), kCoded);
    for (std::uint8_t &kind : field.partition) kind = kind == kPruned ? kPruned : kCoded;
    field.head.n_coded = static_cast<std::uint32_t>(std::count(field.partition.begin(), field.partition.end(), kCoded));
    field.head.n_kept = 0;
}

// Make the levels of a pyramid, or of planes and lines, as long as the partition asks for.
void resize_coefficients(CompressedField &field) {
    resize_partition(field);
    if (!field.is_planes()) return resize_levels(field.levels, field.head.shape, field.partition, field.steps.size());
    const Shadows shadows = find_shadows(field.head.shape, field.partition);
    for (std::size_t i = 0; i < 3; ++i) {
        resize_levels(field.planes[i], shadows.planes[i].shape, shadows.planes[i].mask, field.n_components());
        resize_levels(field.lines[i], shadows.lines[i].shape, shadows.lines[i].mask, field.n_components());
    }
}

// Make everything per voxel as long as the partition asks for.
void resize_values(CompressedField &field) {
    Head &head = field.head;
    field.partition.resize(head.shape.n_voxels(), kCoded);
    head.n_coded = static_cast<std::uint32_t>(std::count(field.partition.begin(), field.partition.end(), kCoded));
    head.n_kept = static_cast<std::uint32_t>(std::count(field.partition.begin(), field.partition.end(), kKept));
    field.density.resize(std::size_t{head.n_coded} + head.n_kept, 128);
    field.kept.resize(std::size_t{head.n_kept} * head.n_channels, 100);
    field.codes.resize(head.n_coded, 0);
    for (std::int32_t &code : field.codes) code = std::min(code, static_cast<std::int32_t>(head.codebook_size - 1));
}

// Another side, or thin with wide planes, of which a decoder keeps two or more.
void reshape_lattice(CompressedField &field, Random &random) {
    Shape &shape = field.head.shape;
    if (random.one_in(16)) {
        shape = {2, 560 + random.below(160), 560 + random.below(160)};
        field.partition.assign(shape.n_voxels(), kPruned);
        field.partition[random.below(field.partition.size())] = kKept;
        return;
    }
    std::uint32_t *side = random.pick({&shape.x, &shape.y, &shape.z});
    *side = 1 + random.below(random.one_in(8) ? 200 : 12);
    if (shape.n_voxels() > kBudget / 2) *side = 2;
}

void resize_channels(CompressedField &field, std::uint32_t n_channels, Random &random) {
    Head &head = field.head;
    head.n_channels = n_channels;
    if (field.is_planes()) {
        reshape_table(field.mix, field.mix.rows, n_channels, random);
    } else if (head.codebook_size != 0) {
        reshape_table(field.codebook, head.codebook_size, n_channels, random);
        set_quantizer(n_channels, true, field.kept_scale, field.kept_offset, random);
    } else if (field.basis.empty()) {
        field.steps.resize(1 + n_channels, 0.5f);
    } else {
        field.basis.resize((field.steps.size() - 1) * n_channels, 0.25f);
    }
    if (is_harmonic(field.shading) && n_channels != 12 && n_channels != 27) field.shading = Shading::kMlp;
    if (field.color_mlp.empty() && n_channels != 3 && field.shading == Shading::kMlp) field.color_mlp.resize(2);
    if (field.color_mlp.empty()) return;
    Table &first = field.color_mlp[0], &last = field.color_mlp[field.color_mlp.size() - 2];
    const std::uint32_t rows = &first == &last ? 3 : first.rows;
    reshape_table(first, rows, n_channels * (1 + 2 * field.feature_frequencies) + 3 + 6 * random.below(4), random);
    reshape_table(field.color_mlp[1], 1, rows, random);
}

void add_layer(CompressedField &field, Random &random) {
    if (field.color_mlp.size() >= 32 || field.color_mlp.empty()) return;
    Table &last = field.color_mlp[field.color_mlp.size() - 2];
    const std::uint32_t width = 1 + random.below(20);
    reshape_table(last, width, last.columns, random);
    reshape_table(field.color_mlp.back(), 1, width, random);
    Table weight, bias;
    reshape_table(weight, 3, width, random);
    reshape_table(bias, 1, 3, random);
    field.color_mlp.push_back(std::move(weight));
    field.color_mlp.push_back(std::move(bias));
}

void shade_by_harmonics(CompressedField &field, Random &random) {
    field.shading = random.pick<Shading>({Shading::kHarmonics, Shading::kHarmonicsRelu});
    field.feature_frequencies = 0;
    field.color_mlp.clear();
    resize_channels(field, random.pick<std::uint32_t>({12, 27}), random);
}

void encode_features(CompressedField &field, Random &random) {
    if (field.color_mlp.empty()) return;
    field.shading = Shading::kEncodedMlp;
    field.feature_frequencies = static_cast<std::uint16_t>(1 + random.below(random.one_in(8) ? 12 : 3));
    resize_channels(field, field.head.n_channels, random);
}

// Coefficients of all sizes, mostly small and in runs.
void scatter_level(std::vector<std::int16_t> &level, Random &random) {
    scatter(level, random.pick<std::uint32_t>({1, 2, 3, 20, 300, 16398}), random);
    if (random.one_in(2))
        for (std::int16_t &value : level) value = static_cast<std::int16_t>(random.one_in(2) ? value : -value);
}

void mutate_pyramid(CompressedField &field, Random &random) {
    constexpr std::size_t kMostLatents = 64;
    switch (random.below(9)) {
        case 0: scatter(field.partition, 2, random); break;
        case 1: reshape_lattice(field, random); break;
        case 2: resize_channels(field, 1 + random.below(random.pick<std::uint32_t>({3, 16, 64})), random); break;
        case 3: shade_by_harmonics(field, random); break;
        case 4: add_layer(field, random); break;
        case 5: field.levels.resize(1 + random.below(1 + kMaxLevels)); break;
        case 6: {
            field.steps.resize(2 + random.below(random.one_in(4) ? kMostLatents : 8), 1.0f);
            const bool has_basis = field.steps.size() - 1 != field.head.n_channels || random.one_in(2);
            field.basis.resize(has_basis ? (field.steps.size() - 1) * field.head.n_channels : 0, -0.5f);
            break;
        }
        case 7: {
            std::vector<float> &values = field.basis.empty() || random.one_in(2) ? field.steps : field.basis;
            values[random.below(values.size())] = random.real();
            break;
        }
        default: scatter_level(field.levels[random.below(field.levels.size())], random);
    }
    resize_coefficients(field);
}

// Other components, more or fewer of them.
void resize_components(CompressedField &field, Random &random) {
    const auto draw = [&] { return 1 + random.below(random.one_in(8) ? kMaxComponents : 6); };
    field.n_density_components = draw();
    reshape_table(field.mix, 3 * draw(), field.head.n_channels, random);
    const std::size_t n_steps = std::size_t{3} * field.n_components();
    for (std::vector<float> *steps : {&field.plane_steps, &field.line_steps}) steps->resize(n_steps, 0.5f);
}

void mutate_planes(CompressedField &field, Random &random) {
    std::array<Levels, 3> &stacks = random.one_in(2) ? field.planes : field.lines;
    switch (random.below(9)) {
        case 0: scatter(field.partition, 2, random); break;
        case 1: reshape_lattice(field, random); break;
        case 2: resize_channels(field, 1 + random.below(random.pick<std::uint32_t>({3, 16, 64})), random); break;
        case 3: shade_by_harmonics(field, random); break;
        case 4: random.one_in(2) ? add_layer(field, random) : retype_table(field.mix, random); break;
        case 5: {
            const std::size_t n_levels = 1 + random.below(1 + kMaxLevels);
            for (Levels &levels : stacks) levels.resize(n_levels);
            break;
        }
        case 6: resize_components(field, random); break;
        case 7: {
            std::vector<float> &steps = random.one_in(2) ? field.plane_steps : field.line_steps;
            steps[random.below(steps.size())] = random.real();
            break;
        }
        default: {
            Levels &levels = stacks[random.below(3)];
            scatter_level(levels[random.below(levels.size())], random);
        }
    }
    resize_coefficients(field);
}

void mutate_field(CompressedField &field, Random &random) {
    Head &head = field.head;
    if (field.is_planes()) return mutate_planes(field, random);
    if (head.codebook_size == 0) return mutate_pyramid(field, random);
    switch (random.below(11)) {
        case 0: scatter(field.density, 256, random); break;
        case 1: scatter(field.kept, 256, random); break;
        case 2: scatter(field.codes, random.one_in(8) ? 1u << bits_of_code(head.codebook_size) : head.codebook_size, random); break;
        case 3: scatter(field.partition, 3, random); resize_values(field); break;
        case 4: {
            reshape_lattice(field, random);
            resize_values(field);
            break;
        }
        case 5: head.codebook_size = 1 + random.below(random.pick<std::uint32_t>({4, 300, 4096}));
            reshape_table(field.codebook, head.codebook_size, head.n_channels, random);
            resize_values(field);
            break;
        case 6: resize_channels(field, 1 + random.below(random.pick<std::uint32_t>({3, 16, 64})), random);
            resize_values(field);
            break;
        case 7: {
            const std::size_t n = random.below(field.color_mlp.size() + 1);
            retype_table(n ? field.color_mlp[n - 1] : field.codebook, random);
            break;
        }
        case 8: shade_by_harmonics(field, random); resize_values(field); break;
        case 9: encode_features(field, random); break;
        default: add_layer(field, random);
    }
}

// The partition, with a block marked as occupied that may be empty: no encoder writes that.
void mark_block(const CompressedField &field, Part &part, Random &random) {
    const Shape shape = field.head.shape;
    std::vector<std::uint8_t> values = field.partition;
    Blocks blocks(shape);
    for_each_run(shape, blocks, [&](std::size_t block, std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) blocks.occupied[block] |= values[i] != kPruned;
    });
    blocks.occupied[random.below(blocks.occupied.size())] = 1;
    Encoder encoder(kPartitionContexts);
    code_partition(encoder, shape, blocks, std::span(values));
    part.body = encoder.finish();
}

// Says of one node that it has latents which differ from 0, whether it has or not: no encoder writes that.
struct Insisting {
    Encoder encoder;
    std::size_t n_before;  // nodes

    std::uint32_t bit(std::size_t context, std::uint32_t value) {
        const bool is_of_latents = context < std::size_t{kNearClasses};
        return encoder.bit(context, is_of_latents && n_before-- == 0 ? 1 : value);
    }
    std::uint32_t direct(int n_bits, std::uint32_t value) { return encoder.direct(n_bits, value); }
    bool failed() const { return false; }
    void refuse() {}
};

// The coarsest level, with a node of which the latents may be announced in vain.
void announce_latents(const CompressedField &field, std::vector<Part> &made, Random &random) {
    Nodes nodes{field.head.shape, field.partition, field.head.n_coded};
    for (std::size_t l = 1; l < field.levels.size(); ++l) nodes = coarser_nodes(nodes);
    const auto width = static_cast<std::uint32_t>(field.steps.size());
    std::vector<std::int16_t> values = field.levels[0];
    Insisting coder{Encoder(level_contexts(width)), random.below(nodes.n_nodes)};
    code_level(coder, nodes, nodes, {}, width, values);
    find(made, ("LEV" + std::to_string(field.levels.size() - 1)).c_str())->body = coder.encoder.finish();
}

// The parts of another field, with the unknown sections of the file that it was made from.
bool mutate_symbols(Bytes file, std::vector<Part> &parts, Random &random) {
    BitstreamError error;
    std::optional<CompressedField> field = decode_file(file, kBudget, false, error);
    if (!field) return false;
    for (std::uint32_t n = 1 + random.below(3); n > 0; --n) mutate_field(*field, random);
    std::vector<Part> made = encode_parts(*field);
    if (random.one_in(16)) mark_block(*field, *find(made, "PART"), random);
    if (!field->levels.empty() && random.one_in(16)) announce_latents(*field, made, random);
    for (Part &part : parts)
        if (part.name() == "XTRA") made.insert(made.begin() + 1, std::move(part));
    parts = std::move(made);
    return true;
}

std::size_t give(const File &file, std::uint8_t *data, std::size_t size, std::size_t max_size) {
    if (file.size() > max_size) return size;
    std::copy(file.begin(), file.end(), data);
    return file.size();
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t *data, std::size_t size, std::size_t max_size, unsigned seed) {
    Random random{std::minstd_rand(seed)};
    const Bytes file(data, size);
    std::optional<std::vector<Part>> parts = split(file);
    if (!parts || random.one_in(32)) return LLVMFuzzerMutate(data, size, max_size);
    if (random.one_in(16)) return size - random.below(std::min<std::size_t>(size - kHeader, random.pick({16, 128, 16384})));  // cut off
    if (!random.one_in(3) || !mutate_symbols(file, *parts, random)) {
        switch (random.below(9)) {
            case 8: mutate_space(*parts, random); break;
            case 0: mutate_head(*parts, random); break;
            case 1: mutate_row((*parts)[random.below(parts->size())], random); break;
            case 2: mutate_order(*parts, random); break;
            case 3: {
                File whole = assemble(*parts);
                mutate_header(whole, random);
                return give(whole, data, size, max_size);
            }
            default: mutate_body((*parts)[random.below(parts->size())], random);
        }
    } else if (random.one_in(4)) {
        mutate_body((*parts)[random.below(parts->size())], random);
    }
    return give(assemble(*parts), data, size, max_size);
}

// Sections of one file in the place of another's.
extern "C" std::size_t LLVMFuzzerCustomCrossOver(const std::uint8_t *data, std::size_t size, const std::uint8_t *other,
                                                 std::size_t other_size, std::uint8_t *out, std::size_t max_size,
                                                 unsigned seed) {
    Random random{std::minstd_rand(seed)};
    std::optional<std::vector<Part>> parts = split(Bytes(data, size)), others = split(Bytes(other, other_size));
    if (!parts || !others) return 0;
    for (Part &part : *parts)
        if (Part *theirs = find(*others, part.name().c_str()); theirs != nullptr && random.one_in(3)) part = *theirs;
    return give(assemble(*parts), out, 0, max_size);
}

}  // namespace vqrf::fuzz
