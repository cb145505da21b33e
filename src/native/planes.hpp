// Planes and lines: where the voxels throw a shadow, and a level of the pyramids over a few shadows. FORMAT.md section 12.
// Twin: vqrf/codec/planes.py.
#pragma once

#include "pyramid.hpp"

namespace vqrf {

inline constexpr std::uint32_t kMaxComponents = 256;  // of a plane, for density and for features each

// Where the voxels that are not PRUNED have any of their kind: planes on x and y, x and z, y and z; lines on z, y, x. Each is a
// lattice of its own.
struct Shadows {
    struct Shadow {
        Shape shape;
        std::vector<std::uint8_t> mask;
    };
    std::array<Shadow, 3> planes, lines;
};

inline Shadows find_shadows(Shape shape, std::span<const std::uint8_t> partition) {
    const auto make = [](std::uint32_t a, std::uint32_t b) {
        return Shadows::Shadow{{a, b, 1}, std::vector<std::uint8_t>(std::size_t{a} * b)};
    };
    Shadows found{{make(shape.x, shape.y), make(shape.x, shape.z), make(shape.y, shape.z)},
                  {make(shape.z, 1), make(shape.y, 1), make(shape.x, 1)}};
    const std::uint8_t *voxel = partition.data();
    for (std::size_t x = 0; x < shape.x; ++x)
        for (std::size_t y = 0; y < shape.y; ++y, voxel += shape.z) {
            std::uint8_t *xz = &found.planes[1].mask[x * shape.z], *yz = &found.planes[2].mask[y * shape.z];
            std::uint8_t any = 0;
            for (std::size_t z = 0; z < shape.z; ++z) {
                const std::uint8_t here = voxel[z] != kPruned;
                xz[z] |= here, yz[z] |= here, any |= here;
            }
            found.planes[0].mask[x * shape.y + y] = any;
            found.lines[1].mask[y] |= any, found.lines[2].mask[x] |= any;
        }
    for (std::size_t i = 0; i < found.planes[2].mask.size(); ++i) found.lines[0].mask[i % shape.z] |= found.planes[2].mask[i];
    return found;
}

// Pyramids over a few masks while their levels are coded, coarsest first.
class Stacks {
  public:
    Stacks(std::size_t n_levels, std::uint32_t width) : n_levels_(n_levels), width_(width) {}

    void add(Shape shape, std::span<const std::uint8_t> mask) {
        nodes_.push_back(levels_over({shape, mask, count_selected(mask)}, n_levels_));
        above_.emplace_back();
    }

    // Nodes of level `number`, counted from the coarsest, of all of them.
    std::uint64_t count_nodes(std::size_t number) const {
        std::uint64_t n = 0;
        for (const std::vector<Nodes> &of_mask : nodes_) n += of_mask[n_levels_ - 1 - number].n_nodes;
        return n;
    }

    // Code level `number` of one after the other; `levels` are those of the masks [N_l,width], and grow by this one if it is not there.
    template <class Coder>
    void code(Coder &coder, std::size_t number, std::span<Levels> levels) {
        const std::size_t l = n_levels_ - 1 - number, above = std::min(l + 1, n_levels_ - 1);
        for (std::size_t i = 0; i < nodes_.size(); ++i) {
            if (levels[i].size() == number) levels[i].emplace_back(nodes_[i][l].n_nodes * width_, std::int16_t{0});
            above_[i] = code_level(coder, nodes_[i][l], nodes_[i][above], above_[i], width_, levels[i][number]);
        }
    }

  private:
    std::size_t n_levels_;
    std::uint32_t width_;
    std::vector<std::vector<Nodes>> nodes_;         // of each mask, finest first
    std::vector<std::vector<std::int8_t>> above_;  // what was coded last, as `code_level` gives it
};

}  // namespace vqrf
