// The order in which each section's symbols are coded and the contexts they are coded in: FORMAT.md section 6.
// One walk serves Encoder and Decoder. Twin: vqrf/entropy.py.
#pragma once

#include <bit>
#include <cstdlib>
#include <type_traits>

#include "entropy.hpp"

namespace vqrf {

enum Partition : std::uint8_t { kPruned = 0, kCoded = 1, kKept = 2 };

struct Shape {
    std::uint32_t x, y, z;
    std::uint64_t n_voxels() const { return std::uint64_t{x} * y * z; }
};

// The 13 neighbours of a voxel that come before it in raster order, themselves in raster order:
//   0 1 2 / 3 4 5 / 6 7 8   at x-1: rows y-1, y, y+1, each z-1, z, z+1
//   9 10 11 / 12            at x: row y-1, then z-1
inline constexpr int kNeighbours = 13;
inline constexpr std::array<int, 3> kFaces{4, 10, 12};
inline constexpr std::array<int, 6> kEdges{1, 3, 5, 7, 9, 11};
inline constexpr std::array<int, 4> kCorners{0, 2, 6, 8};

// Two x-planes of a lattice with a border of one voxel, of which every causal neighbourhood is a part.
template <class T>
class Planes {
  public:
    Planes(std::uint32_t y, std::uint32_t z, T outside)
        : stride_(z + 2), outside_(outside), previous_((std::size_t{y} + 2) * stride_, outside), current_(previous_) {}

    void next_plane() {
        std::swap(previous_, current_);
        std::fill(current_.begin(), current_.end(), outside_);
    }
    std::size_t at(std::uint32_t y, std::uint32_t z) const { return (std::size_t{y} + 1) * stride_ + z + 1; }
    T &operator[](std::size_t i) { return current_[i]; }

    std::array<T, kNeighbours> neighbours(std::size_t i) const {
        const T *p = &previous_[i], *c = &current_[i];
        const auto s = static_cast<std::ptrdiff_t>(stride_);
        return {p[-s - 1], p[-s], p[-s + 1], p[-1], p[0],   p[1], p[s - 1],
                p[s],      p[s + 1], c[-s - 1], c[-s], c[-s + 1], c[-1]};
    }

  private:
    std::size_t stride_;
    T outside_;
    std::vector<T> previous_, current_;
};

// ---------------------------------------------------------------------------------------------------------- partition

inline constexpr std::uint32_t kBlockSide = 4;
inline constexpr std::size_t kBlockContexts = std::size_t{1} << kNeighbours;
inline constexpr std::size_t kPartitionContexts = 2 * kBlockContexts + 729;  // 729 = 3^6 neighbourhoods of a split

inline std::uint32_t n_blocks(std::uint32_t side) { return (side + kBlockSide - 1) / kBlockSide; }

inline std::size_t occupancy_context(const std::array<std::uint8_t, kNeighbours> &around) {
    std::size_t context = 0;
    for (const std::uint8_t value : around) context = 2 * context + (value != 0);
    return context;
}

inline std::size_t split_context(const std::array<std::uint8_t, kNeighbours> &around) {
    std::size_t context = 0;
    for (const int i : {4, 10, 12, 1, 3, 9}) context = 3 * context + around[i];
    return context;
}

// The blocks of a lattice and which of them hold anything.
struct Blocks {
    explicit Blocks(Shape lattice) : shape(shape_of(lattice)), occupied(shape.n_voxels()) {}

    static Shape shape_of(Shape lattice) { return {n_blocks(lattice.x), n_blocks(lattice.y), n_blocks(lattice.z)}; }

    std::size_t row(std::uint32_t x, std::uint32_t y) const {
        return (std::size_t{x / kBlockSide} * shape.y + y / kBlockSide) * shape.z;
    }

    Shape shape;
    std::vector<std::uint8_t> occupied;
};

// Visit every run of voxels along z inside one block: `visit(block, first voxel, end)`.
template <class Visit>
void for_each_run(Shape shape, const Blocks &blocks, Visit visit) {
    std::size_t begin = 0;
    for (std::uint32_t x = 0; x < shape.x; ++x)
        for (std::uint32_t y = 0; y < shape.y; ++y) {
            const std::size_t row = blocks.row(x, y), end = begin + shape.z;
            for (std::uint32_t z = 0; z < blocks.shape.z; ++z, begin += kBlockSide)
                visit(row + z, begin, std::min(begin + kBlockSide, end));
            begin = end;
        }
}

// Code which blocks hold anything.
template <class Coder>
void code_blocks(Coder &coder, Blocks &blocks) {
    Planes<std::uint8_t> planes(blocks.shape.y, blocks.shape.z, 0);
    std::uint8_t *flag = blocks.occupied.data();
    for (std::uint32_t x = 0; x < blocks.shape.x && !coder.failed(); ++x, planes.next_plane())
        for (std::uint32_t y = 0; y < blocks.shape.y; ++y)
            for (std::uint32_t z = 0; z < blocks.shape.z; ++z, ++flag) {
                const std::size_t at = planes.at(y, z);
                *flag = static_cast<std::uint8_t>(coder.bit(occupancy_context(planes.neighbours(at)), *flag));
                planes[at] = *flag;
            }
}

// Code PRUNED / CODED / KEPT of every voxel, skipping empty blocks. On decoding `partition` arrives as zeros; what is
// encoded is only read, as a copy of a great lattice would take as much again.
template <class Coder, class Value>
void code_partition(Coder &coder, Shape shape, Blocks &blocks, std::span<Value> partition) {
    code_blocks(coder, blocks);
    Planes<std::uint8_t> planes(shape.y, shape.z, kPruned);
    for (std::uint32_t x = 0; x < shape.x && !coder.failed(); ++x, planes.next_plane())
        for (std::uint32_t y = 0; y < shape.y; ++y) {
            const std::size_t row = (std::size_t{x} * shape.y + y) * shape.z;
            const std::uint8_t *occupied = &blocks.occupied[blocks.row(x, y)];
            for (std::uint32_t z = 0; z < shape.z; ++z) {
                if (!occupied[z / kBlockSide]) {
                    z += kBlockSide - 1;
                    continue;
                }
                const std::size_t at = planes.at(y, z);
                const auto around = planes.neighbours(at);
                std::uint8_t value = partition[row + z];
                if (coder.bit(kBlockContexts + occupancy_context(around), value != kPruned))
                    value = coder.bit(2 * kBlockContexts + split_context(around), value == kKept) ? kKept : kCoded;
                else
                    value = kPruned;
                planes[at] = value;
                if constexpr (!std::is_const_v<Value>) partition[row + z] = value;
            }
        }
}

// ------------------------------------------------------------------------------------------------ values of the voxels

// Visit the voxels that `selected` accepts in raster order; `visit(rank, neighbour_ranks)` where a neighbour that is not
// selected has rank -1. Stops when the coder has failed.
template <class Coder, class Selected, class Visit>
void for_each_voxel(const Coder &coder, Shape shape, std::span<const std::uint8_t> partition, Selected selected,
                    Visit visit) {
    Planes<std::int32_t> ranks(shape.y, shape.z, -1);
    std::int32_t rank = 0;
    std::size_t i = 0;
    for (std::uint32_t x = 0; x < shape.x && !coder.failed(); ++x, ranks.next_plane())
        for (std::uint32_t y = 0; y < shape.y && !coder.failed(); ++y)
            for (std::uint32_t z = 0; z < shape.z; ++z, ++i) {
                if (!selected(partition[i])) continue;
                const std::size_t at = ranks.at(y, z);
                visit(rank, ranks.neighbours(at));
                ranks[at] = rank++;
            }
}

inline constexpr int kSpreadClasses = 9;  // 8 by how far the neighbours differ, the last for no neighbour at all
inline constexpr int kNoNeighbour = kSpreadClasses - 1;

inline int spread_class(int spread) {
    return spread < 2 ? 0 : spread < 4 ? 1 : spread < 7 ? 2 : spread < 12 ? 3 : spread < 18 ? 4 : spread < 26 ? 5 : spread < 40 ? 6 : 7;
}

// The ranks of a voxel's neighbours that are selected: faces first, then edges, then corners.
struct Known {
    std::array<std::int32_t, kNeighbours> ranks;
    int n_faces = 0, n_edges = 0, n_corners = 0;

    explicit Known(const std::array<std::int32_t, kNeighbours> &all) {
        int n = 0;
        const auto add = [&](int i) {
            ranks[n] = all[i];
            n += all[i] >= 0;
        };
        for (const int i : kFaces) add(i);
        n_faces = n;
        for (const int i : kEdges) add(i);
        n_edges = n - n_faces;
        for (const int i : kCorners) add(i);
        n_corners = n - n_faces - n_edges;
    }
    int size() const { return n_faces + n_edges + n_corners; }
};

// What the known neighbours say of a level. `levels` has `stride` values for each rank, of which the first is meant.
struct Surroundings {
    int sum_faces = 0, sum_edges = 0, sum_corners = 0;
    int spread = kNoNeighbour;

    Surroundings(const Known &known, const std::uint8_t *levels, std::size_t stride) {
        int lowest = 255, highest = 0, i = 0;
        const auto add = [&](int end, int &sum) {
            for (; i < end; ++i) {
                const int level = levels[static_cast<std::size_t>(known.ranks[i]) * stride];
                sum += level;
                lowest = std::min(lowest, level);
                highest = std::max(highest, level);
            }
        };
        add(known.n_faces, sum_faces);
        add(known.n_faces + known.n_edges, sum_edges);
        add(known.size(), sum_corners);
        if (i > 0) spread = spread_class(highest - lowest);
    }
};

inline int rounded(int sum, int n) { return (2 * sum + n) / (2 * n); }

// Code `level` as its difference, modulo 256, to `prediction`.
template <class Coder>
std::uint8_t code_level(Coder &coder, std::size_t context, int prediction, std::uint8_t level) {
    const std::uint32_t residual = static_cast<std::uint32_t>(level - prediction + 128) & 255;
    const std::uint32_t coded = coder.tree(256 * context, 8, residual);
    return static_cast<std::uint8_t>(static_cast<int>(coded) + prediction - 128);
}

inline constexpr std::size_t kDensityContexts = 256 * 4 * kSpreadClasses;
inline constexpr int kMeanShift = 6;  // a running mean forgets over 64 values

template <class Coder>
void code_density(Coder &coder, Shape shape, std::span<const std::uint8_t> partition, std::span<std::uint8_t> levels) {
    int mean = 128 << kMeanShift;
    for_each_voxel(
        coder, shape, partition, [](std::uint8_t p) { return p != kPruned; },
        [&](std::int32_t rank, const std::array<std::int32_t, kNeighbours> &ranks) {
            const Known known(ranks);
            const Surroundings near(known, levels.data(), 1);
            int prediction = mean >> kMeanShift;
            if (known.n_faces)
                prediction = rounded(near.sum_faces, known.n_faces);
            else if (known.n_edges)
                prediction = rounded(near.sum_edges, known.n_edges);
            const auto context = static_cast<std::size_t>(4 * near.spread + known.n_faces);
            levels[rank] = code_level(coder, context, prediction, levels[rank]);
            mean += levels[rank] - (mean >> kMeanShift);
        });
}

inline constexpr std::size_t kKeptContexts = 256 * kSpreadClasses;

template <class Coder>
void code_kept(Coder &coder, Shape shape, std::span<const std::uint8_t> partition, std::uint32_t n_channels,
               std::span<std::uint8_t> levels) {
    std::vector<int> means(n_channels, 128 << kMeanShift);
    for_each_voxel(
        coder, shape, partition, [](std::uint8_t p) { return p == kKept; },
        [&](std::int32_t rank, const std::array<std::int32_t, kNeighbours> &ranks) {
            const Known known(ranks);
            const int weight = 1 + 4 * known.n_faces + 2 * known.n_edges + known.n_corners;
            for (std::uint32_t c = 0; c < n_channels; ++c) {
                const Surroundings near(known, levels.data() + c, n_channels);
                const int mean = means[c] >> kMeanShift;
                const int sum = mean + 4 * near.sum_faces + 2 * near.sum_edges + near.sum_corners;
                std::uint8_t &level = levels[static_cast<std::size_t>(rank) * n_channels + c];
                level = code_level(coder, static_cast<std::size_t>(near.spread), rounded(sum, weight), level);
                means[c] += level - mean;
            }
        });
}

// -------------------------------------------------------------------------------------------------------------- codes

inline int bits_of_code(std::uint32_t codebook_size) { return std::bit_width(codebook_size - 1); }

// 16 depths x (0..5 neighbours say 1) x (0..5 say 0) x (0..3 faces say 1) x (0..3 faces say 0)
inline constexpr std::size_t kAgreementContexts = 16 * 6 * 6 * 4 * 4;

inline std::size_t code_contexts(std::uint32_t codebook_size) {
    return (std::size_t{1} << bits_of_code(codebook_size)) + kAgreementContexts;
}

// The bits of a code, most significant first. While causal neighbours have the same bits so far, the context is how many
// of them go on with 1 and with 0; after that it is the node of the code tree.
template <class Coder>
std::uint32_t code_one(Coder &coder, int n_bits, std::uint32_t code, std::array<std::uint32_t, kNeighbours> &alike,
                       int n_faces, int n_alike) {
    const std::size_t agreement = std::size_t{1} << n_bits;
    std::uint32_t node = 1;
    int i = n_bits;
    while (n_alike && i > 0) {
        --i;
        int faces1 = 0, all1 = 0;
        for (int k = 0; k < n_alike; ++k) {
            const int says = static_cast<int>(alike[k] >> i & 1);
            all1 += says;
            faces1 += k < n_faces ? says : 0;
        }
        const int all0 = n_alike - all1, faces0 = n_faces - faces1;
        const std::size_t context =
            agreement + (((std::size_t(i) * 6 + std::min(all1, 5)) * 6 + std::min(all0, 5)) * 4 + faces1) * 4 + faces0;
        const std::uint32_t bit = coder.bit(context, code >> i & 1);
        node = 2 * node + bit;
        if (const int n_same = bit ? all1 : all0; n_same < n_alike) {
            int n = 0;
            for (int k = 0; n < n_same; ++k)
                if ((alike[k] >> i & 1) == bit) alike[n++] = alike[k];
            n_faces = bit ? faces1 : faces0;
            n_alike = n_same;
        }
    }
    while (i-- > 0) node = 2 * node + coder.bit(node, code >> i & 1);
    return node - (1u << n_bits);
}

template <class Coder>
void code_codes(Coder &coder, Shape shape, std::span<const std::uint8_t> partition, std::uint32_t codebook_size,
                std::span<std::int32_t> codes) {
    const int n_bits = bits_of_code(codebook_size);
    for_each_voxel(
        coder, shape, partition, [](std::uint8_t p) { return p == kCoded; },
        [&](std::int32_t rank, const std::array<std::int32_t, kNeighbours> &ranks) {
            const Known known(ranks);
            std::array<std::uint32_t, kNeighbours> alike;
            for (int k = 0; k < known.size(); ++k) alike[k] = static_cast<std::uint32_t>(codes[known.ranks[k]]);
            codes[rank] = static_cast<std::int32_t>(code_one(coder, n_bits, static_cast<std::uint32_t>(codes[rank]), alike,
                                                             known.n_faces, known.size()));
        });
}

// ------------------------------------------------------------------------------------------------------------- tables

// Code a table of 1- or 2-byte numbers in raster order: the high byte in a tree of its column (`n_trees` = columns) or of
// the table (`n_trees` = 1), the low byte of 2-byte numbers without a model. Contexts: 256 * n_trees from `base`.
template <class Coder, class Item>
void code_table(Coder &coder, std::size_t base, std::uint32_t n_trees, std::span<Item> items) {
    for (std::size_t i = 0; i < items.size() && !coder.failed(); ++i) {
        const std::size_t tree = base + 256 * (i % n_trees);
        if constexpr (sizeof(Item) == 1) {
            items[i] = static_cast<Item>(coder.tree(tree, 8, items[i]));
        } else {
            const std::uint32_t high = coder.tree(tree, 8, items[i] >> 8);
            items[i] = static_cast<Item>(high << 8 | coder.direct(8, items[i] & 255u));
        }
    }
}

}  // namespace vqrf
