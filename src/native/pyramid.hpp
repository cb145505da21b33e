// How a level of a pyramid is coded, and which nodes it has: FORMAT.md sections 4 and 6. Twins: vqrf/pyramid.py, vqrf/entropy.py.
#pragma once

#include <memory>
#include <utility>

#include "walks.hpp"

namespace vqrf {

inline constexpr int kMaxLevels = 8;  // above the lattice's own
inline constexpr int kParents = 8;

// A level's nodes: where they are, and how many. The lattice's own are read where the partition lies, which may be a gigabyte.
struct Nodes {
    Shape shape;
    std::span<const std::uint8_t> selected;  // one for each place, 0 where there is no node
    std::uint64_t n_nodes = 0;
    std::unique_ptr<std::uint8_t[]> own{};  // what `selected` shows, unless it belongs to somebody else
};

inline Shape coarser_shape(Shape s) { return {s.x / 2 + 1, s.y / 2 + 1, s.z / 2 + 1}; }

// Visit the nodes in raster order: visit(x, y, z).
template <class Visit>
void for_each_node(const Nodes &nodes, Visit visit) {
    const std::uint8_t *selected = nodes.selected.data();
    for (std::uint32_t x = 0; x < nodes.shape.x; ++x)
        for (std::uint32_t y = 0; y < nodes.shape.y; ++y)
            for (std::uint32_t z = 0; z < nodes.shape.z; ++z)
                if (*selected++) visit(x, y, z);
}

// Where node (x, y, z) of a level hangs: parent k is at floor or ceil of half of x, y, z by the bits 4, 2, 1 of k.
inline std::size_t parent_at(Shape coarser, int k, std::uint32_t x, std::uint32_t y, std::uint32_t z) {
    const auto half = [k](std::uint32_t i, int bit) { return (i + (k & bit ? 1 : 0)) / 2; };
    return (std::size_t{half(x, 4)} * coarser.y + half(y, 2)) * coarser.z + half(z, 1);
}

inline std::uint64_t count_selected(std::span<const std::uint8_t> selected) {
    std::uint64_t n = 0;
    for (const std::uint8_t s : selected) n += s != 0;
    return n;
}

// The level that `finer` hangs on.
inline Nodes coarser_nodes(const Nodes &finer) {
    const Shape shape = coarser_shape(finer.shape);
    Nodes nodes{shape, {}, 0, std::make_unique<std::uint8_t[]>(shape.n_voxels())};
    nodes.selected = {nodes.own.get(), shape.n_voxels()};
    for_each_node(finer, [&](std::uint32_t x, std::uint32_t y, std::uint32_t z) {
        for (int k = 0; k < kParents; ++k) nodes.own[parent_at(shape, k, x, y, z)] = 1;
    });
    nodes.n_nodes = count_selected(nodes.selected);
    return nodes;
}

// A level and those above it: `n_levels` of them, finest first.
inline std::vector<Nodes> levels_over(Nodes finest, std::size_t n_levels) {
    std::vector<Nodes> nodes(n_levels);
    nodes[0] = std::move(finest);
    for (std::size_t l = 1; l < n_levels; ++l) nodes[l] = coarser_nodes(nodes[l - 1]);
    return nodes;
}

// The coefficients of a pyramid's levels, coarsest first.
using Levels = std::vector<std::vector<std::int16_t>>;

inline constexpr int kCut = 15;  // contexts do not tell coefficients of greater magnitude apart
inline constexpr int kNearClasses = 14, kBeforeClasses = 5;
inline constexpr int kUnary = 14;  // a magnitude up to this is counted up, what is beyond it has an Elias gamma code
inline constexpr int kGammaBits = 13;  // at most so many after its first: no magnitude is above 14 + 2^14 - 1

inline int near_class(int sum) {
    constexpr std::array<int, kNearClasses - 1> limits{1, 4, 8, 12, 16, 24, 32, 44, 60, 84, 120, 170, 250};
    int found = 0;
    for (const int limit : limits) found += sum >= limit;
    return found;
}

// Contexts of one channel: its zeros, its ones, then the counting up to kUnary, then the signs, then two for each length of a gamma
// code: whether it ends here, and its highest bit but the first.
inline constexpr std::size_t kZeroContexts = std::size_t{kNearClasses} * kBeforeClasses;
inline constexpr std::size_t kUnsignedContexts = kZeroContexts + kNearClasses + std::size_t{kUnary};
inline constexpr std::size_t kSignContexts = std::size_t{4 * 4 * 3};
inline constexpr std::size_t kChannelContexts = kUnsignedContexts + kSignContexts + std::size_t{2 * kGammaBits};
inline std::size_t level_contexts(std::uint32_t width) { return kNearClasses + width * kChannelContexts; }

// A positive number: as many zeros as its bits after the first, then the number, of which the lower bits have no model.
template <class Coder>
std::uint32_t code_gamma(Coder &coder, std::size_t base, std::uint32_t value) {
    int n_bits = 0;
    while (n_bits < kGammaBits && !coder.bit(base + static_cast<std::size_t>(n_bits), value >> n_bits <= 1)) ++n_bits;
    if (n_bits == 0) return 1;
    const int n_lower = n_bits - 1;
    const std::uint32_t upper = 2 | std::uint32_t{coder.bit(base + static_cast<std::size_t>(kGammaBits + n_lower), value >> n_lower & 1)};
    return upper << n_lower | coder.direct(n_lower, value & ((1u << n_lower) - 1));
}

// Rows of coefficients are read in runs of so many, whatever their width: what holds them has as many bytes more at its end.
inline constexpr std::size_t kRun = 16;

// Sums of the magnitudes of up to kRun coefficients in a few rows. No more than 8 * kCut, so bytes hold them.
template <std::size_t N>
std::array<std::uint8_t, kRun> sum_run(const std::array<const std::int8_t *, N> &rows, std::size_t first) {
    static_assert(N * kCut <= 255);
    std::array<std::uint8_t, kRun> sums{};
    for (const std::int8_t *row : rows)
        for (std::size_t i = 0; i < kRun; ++i) {
            const std::int8_t value = row[first + i];
            sums[i] = static_cast<std::uint8_t>(sums[i] + static_cast<std::uint8_t>(value < 0 ? -value : value));
        }
    return sums;
}

// What is around a node in one level and above it: for each neighbour and parent a row of coefficients, cut to kCut.
struct Around {
    std::array<const std::int8_t *, std::size(kFaces)> faces;
    std::array<const std::int8_t *, std::size(kEdges)> edges;
    std::array<const std::int8_t *, kParents> parents;

    // Contexts of a sign in channel c: how many faces are positive, how many negative, and the sign of the parents' sum.
    std::size_t sign_context(std::size_t c) const {
        int positive = 0, negative = 0, sum = 0;
        for (const std::int8_t *face : faces) positive += face[c] > 0, negative += face[c] < 0;
        for (const std::int8_t *parent : parents) sum += parent[c];
        return static_cast<std::size_t>((4 * positive + negative) * 3 + (sum > 0) - (sum < 0) + 1);
    }

    // Weighted sums of magnitudes, [width] rounded up to runs.
    void sum_magnitudes(std::vector<int> &near) const {
        for (std::size_t first = 0; first < near.size(); first += kRun) {
            const auto of_faces = sum_run(faces, first), of_edges = sum_run(edges, first), of_parents = sum_run(parents, first);
            for (std::size_t i = 0; i < kRun; ++i) near[first + i] = 8 * of_faces[i] + 3 * of_edges[i] + of_parents[i];
        }
    }
};

// A coefficient in channel c: whether it is 0, its sign, its magnitude.
template <class Coder>
std::int32_t code_coefficient(Coder &coder, std::size_t c, const Around &around, int near, int before, std::int32_t value) {
    const std::int32_t magnitude = std::abs(value);
    const std::size_t base = kNearClasses + c * kChannelContexts;
    if (!coder.bit(base + static_cast<std::size_t>(near * kBeforeClasses + before), magnitude != 0)) return 0;
    const bool negative = coder.bit(base + kUnsignedContexts + around.sign_context(c), value < 0) != 0;
    std::int32_t counted = 1;
    std::size_t context = base + kZeroContexts + static_cast<std::size_t>(near);
    while (counted <= kUnary && coder.bit(context, magnitude > counted)) {
        context = base + kZeroContexts + kNearClasses + static_cast<std::size_t>(counted - 1);
        ++counted;
    }
    if (counted > kUnary) {
        const auto beyond = static_cast<std::uint32_t>(std::max(1, magnitude - kUnary));
        counted = kUnary + static_cast<std::int32_t>(code_gamma(coder, base + kUnsignedContexts + kSignContexts, beyond));
    }
    return negative ? -counted : counted;
}

// Code the coefficients [N,width] of a level. `above` is what this gave for the level that it hangs on, which is `coarser`, empty for
// none. Gives the level's own coefficients, cut, [N+1,width], the last row of zeros, and kRun bytes, for the next.
template <class Coder>
std::vector<std::int8_t> code_level(Coder &coder, const Nodes &nodes, const Nodes &coarser, const std::vector<std::int8_t> &above,
                                    std::uint32_t width, std::span<std::int16_t> values) {
    std::vector<std::int8_t> seen((nodes.n_nodes + 1) * width + kRun, 0);
    const std::int8_t *none = &seen[nodes.n_nodes * width];
    std::vector<std::int32_t> numbers(above.empty() ? 0 : coarser.shape.n_voxels());
    for (std::size_t i = 0, n = 0; i < numbers.size(); ++i) numbers[i] = coarser.selected[i] ? static_cast<std::int32_t>(n++) : -1;
    Planes<std::int32_t> ranks(nodes.shape.y, nodes.shape.z, -1);
    std::vector<int> near((width + kRun - 1) / kRun * kRun);
    Around around;
    around.parents.fill(none);
    std::int32_t rank = 0;
    std::uint32_t plane = 0;
    for_each_node(nodes, [&](std::uint32_t x, std::uint32_t y, std::uint32_t z) {
        if (coder.failed()) return;
        for (; plane < x; ++plane) ranks.next_plane();
        const std::size_t at = ranks.at(y, z);
        const auto known = ranks.neighbours(at);
        const auto row = [&](int i) { return known[i] < 0 ? none : &seen[static_cast<std::size_t>(known[i]) * width]; };
        std::ranges::transform(kFaces, around.faces.begin(), row);
        std::ranges::transform(kEdges, around.edges.begin(), row);
        if (!above.empty())
            for (int k = 0; k < kParents; ++k)
                around.parents[k] = &above[static_cast<std::size_t>(numbers[parent_at(coarser.shape, k, x, y, z)]) * width];
        around.sum_magnitudes(near);
        std::int16_t *value = &values[static_cast<std::size_t>(rank) * width];
        std::int8_t *own = &seen[static_cast<std::size_t>(rank) * width];
        const auto code = [&](std::uint32_t c, int before) {
            const std::int32_t coded = code_coefficient(coder, c, around, near_class(near[c]), before, value[c]);
            value[c] = static_cast<std::int16_t>(coded);
            own[c] = static_cast<std::int8_t>(std::clamp(coded, -kCut, kCut));
        };
        const auto size_of = [&](std::uint32_t c) { return std::min(2, std::abs(own[c])); };
        code(0, 0);
        int sum = 0;
        bool any = false;
        for (std::uint32_t c = 1; c < width; ++c) sum += near[c], any = any || value[c] != 0;
        any = coder.bit(static_cast<std::size_t>(near_class(sum)), any);
        for (std::uint32_t c = 1; any && c < width; ++c) code(c, size_of(c - 1) + (c > 1 ? size_of(c - 2) : 0));
        // There is a shorter way to say that all are 0, and a field has one stream.
        if (any && std::all_of(own + 1, own + width, [](std::int8_t cut) { return cut == 0; })) coder.refuse();
        ranks[at] = rank++;
    });
    return seen;
}

}  // namespace vqrf
