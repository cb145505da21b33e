// From samples back to what they were read from: voxels, or planes and lines. Included by hot.cpp per instruction set.
//
// Determinism: samples are sorted by a coordinate of their cell, and in ray order where it is the same. Whoever owns a part of
// the lattice along that coordinate adds what comes there in this order; what several parts add to is summed per part, then in
// order. The parts depend on the samples alone.
#pragma once

#include <algorithm>
#include <vector>

#include "factors.hpp"
#include "march.hpp"
#include "threads.hpp"

namespace vqrf::VQRF_ISA {

// What one live sample adds to what it was read from.
struct Record {
    int32_t voxel;
    float share[3];
    float amount;          // to the density, or to the importance
    int64_t feature = -1;  // where its feature gradient starts, -1 for none
};

struct SortedRecord {
    Record record;
    const float *feature;
};

// Sorted records, and where those of each coordinate start; kept between calls.
struct Sorted {
    std::vector<SortedRecord> records;
    std::vector<int64_t> first, offset;
};

// All slots' records by the coordinate key(voxel) of their cell, 0..n_keys-1.
template <class Slots, class Key>
static void sort_records(const ThreadPool::Turn &turn, const Slots &slots, int n_keys, const Key &key, Sorted &sorted) {
    const int64_t n_slots = static_cast<int64_t>(slots.size());
    auto &[records, first, offset] = sorted;
    offset.assign(static_cast<size_t>(n_slots) * n_keys, 0);
    turn.parallel_for(n_slots, [&](int64_t s) {
        for (const Record &r : slots[s].records) ++offset[s * n_keys + key(r.voxel)];
    });
    first.assign(n_keys + 1, 0);
    int64_t total = 0;
    for (int k = 0; k < n_keys; ++k) {
        first[k] = total;
        for (int64_t s = 0; s < n_slots; ++s) {
            const int64_t n = offset[s * n_keys + k];
            offset[s * n_keys + k] = total;
            total += n;
        }
    }
    first[n_keys] = total;
    if (static_cast<int64_t>(records.size()) < total) records.resize(total + total / 4);
    turn.parallel_for(n_slots, [&](int64_t s) {
        for (const Record &r : slots[s].records)
            records[offset[s * n_keys + key(r.voxel)]++] = {r, r.feature < 0 ? nullptr : &slots[s].feature_gradients[r.feature]};
    });
}

// Where parts of a lattice begin along the coordinate that records are sorted by, and its end: at most so many, of about as many
// records each.
static std::vector<int> cut_evenly(const Sorted &sorted, int n_parts) {
    const int n_keys = static_cast<int>(sorted.first.size()) - 1;
    std::vector<int> cuts{0};
    for (int k = 1; k < n_keys; ++k)
        if (sorted.first[k] * n_parts >= sorted.first[n_keys] * static_cast<int64_t>(cuts.size())) cuts.push_back(k);
    cuts.push_back(n_keys + 1);
    return cuts;
}

// Hand every record to add(record, corner shares, corner voxels, first corner, last corner) so that each voxel is written by
// one task only, in an order that does not depend on the tasks: plane x gets the far corners of plane x - 1, then the near ones
// of x.
template <class Slots, class Add>
static void scatter_by_plane(const ThreadPool::Turn &turn, const VolumeView &v, const Slots &slots, const Add &add) {
    static Sorted sorted;
    const int planes = v.shape[0] - 1;
    const int64_t plane = static_cast<int64_t>(v.shape[1]) * v.shape[2];
    sort_records(turn, slots, planes, [&](int32_t voxel) { return voxel / plane; }, sorted);
    const auto &[records, first, offset] = sorted;
    const std::vector<int> cuts = cut_evenly(sorted, static_cast<int>(slots.size()));  // tasks own planes cuts[i]..cuts[i + 1] - 1
    turn.parallel_for(static_cast<int64_t>(cuts.size()) - 1, [&](int64_t task) {
        const int begin = cuts[task], end = cuts[task + 1];
        for (int x = std::max(begin - 1, 0); x < std::min(end, planes); ++x) {
            const int first_corner = x >= begin ? 0 : 4, last_corner = x + 1 < end ? 8 : 4;
            for (int64_t i = first[x]; i < first[x + 1]; ++i) {
                float w[8];
                int32_t corners[8];
                corner_shares(records[i].record.share, w);
                corner_voxels(v, records[i].record.voxel, corners);
                add(records[i], i + 6 < first[x + 1] ? &records[i + 6] : nullptr, w, corners, first_corner, last_corner);
            }
        }
    });
}

// ------------------------------------------------------------------------------------------- to planes and lines

// A part of the lattice along one axis, and the sums of what it shares with the others.
struct FactorPart {
    int axis, begin, end;  // of rows of planes whose first axis it is
    std::vector<float> line[3], mix[3];

    void clear(const FactorView &f, const Mix &m, int p) {
        line[p].assign(static_cast<size_t>(f.shape[PLANE_AXES[p][2]]) * f.rank(), 0);
        mix[p].assign(static_cast<size_t>(m.rank) * m.columns, 0);
    }
};

// Shaded samples on their way to a part: which rows of planes it owns of each, and the gradient of its features.
struct FactorBatch {
    struct Item {
        Spot spot[2];
        int first, last;  // of the corners that the part owns
    };
    std::vector<Item> items;
    std::vector<float> color, back, planes, lines, products;

    void clear(const Mix &mix) {
        items.clear();
        color.assign(static_cast<size_t>(BATCH_SPOTS) * mix.columns, 0);
        for (auto *rows : {&back, &planes, &lines, &products}) rows->resize(static_cast<size_t>(BATCH_SPOTS) * mix.rank);
    }
};

static inline bool is_owner(int first) { return first == 0; }

// What a batch adds to plane p, its line and the mix; `number` of p among the planes of the part's axis.
static void scatter_features(const FactorView &f, const Mix &mix, int p, int number, FactorBatch &batch, FactorPart &part,
                             const FactorGradientView &to) {
    const int n = static_cast<int>(batch.items.size()), R = mix.rank, n_density = f.n_density;
    const int64_t rank = f.rank();
    std::fill(batch.products.begin(), batch.products.end(), 0.0f);
    for (int i = 0; i < n; ++i) {
        const Spot &spot = batch.items[i].spot[number];
        const AtSample at(f, p, spot, n_density);
        const bool counts = is_owner(batch.items[i].first);
        by_lanes(f.n_features, [&](auto of, int r) {
            const auto plane = at.plane(of, r), line = at.line(of, r);
            of.put(&batch.planes[static_cast<size_t>(i) * R + r], plane), of.put(&batch.lines[static_cast<size_t>(i) * R + r], line);
            if (counts) of.put(&batch.products[static_cast<size_t>(i) * R + r], plane * line);
        });
    }
    product<TILE_ROWS>(
        batch.color.data(), mix.columns, 1, &mix.back[static_cast<size_t>(p) * f.channels * R], R, f.channels,
        round_up(n, TILE_ROWS), R, [](int, int) { return vf{}; },
        [&](int row, int column, vf z) { store(&batch.back[static_cast<size_t>(row) * R + column], z); });
    float *to_mix = part.mix[p].data();
    product<4>(
        batch.products.data(), 1, R, batch.color.data(), mix.columns, n, R, mix.columns,
        [&](int row, int column) { return load(to_mix + row * mix.columns + column); },
        [&](int row, int column, vf z) { store(to_mix + row * mix.columns + column, z); });
    for (int i = 0; i < n; ++i) {
        const auto &item = batch.items[i];
        const Spot &spot = item.spot[number];
        const float *back = &batch.back[static_cast<size_t>(i) * R], *plane = &batch.planes[static_cast<size_t>(i) * R];
        const float *line = &batch.lines[static_cast<size_t>(i) * R];
        by_lanes(f.n_features, [&](auto of, int r) {
            const auto by_plane = of.get(back + r) * of.get(line + r), by_line = of.get(back + r) * of.get(plane + r);
            for (int k = item.first; k < item.last; ++k) {
                float *at = to.plane[p] + spot.corner[k] * rank + n_density + r;
                of.put(at, of.get(at) + spot.share[k] * by_plane);
            }
            if (!is_owner(item.first)) return;
            for (int k = 0; k < 2; ++k) {
                float *at = &part.line[p][spot.point[k] * rank + n_density + r];
                of.put(at, of.get(at) + spot.along[k] * by_line);
            }
        });
    }
}

// The same of the density of one sample, with the marks of the rows that it reaches.
static inline void scatter_density(const FactorView &f, int p, const Spot &spot, int first, int last, float amount, FactorPart &part,
                                   const FactorGradientView &to, uint8_t *touched) {
    const int64_t rank = f.rank();
    const AtSample at(f, p, spot, 0);
    for (int k = first; k < last; ++k) touched[spot.corner[k]] = 1;
    by_lanes(f.n_density, [&](auto of, int r) {
        const auto by_plane = amount * at.line(of, r);
        for (int k = first; k < last; ++k) {
            float *row = to.plane[p] + spot.corner[k] * rank + r;
            of.put(row, of.get(row) + spot.share[k] * by_plane);
        }
        if (!is_owner(first)) return;
        const auto by_line = amount * at.plane(of, r);
        for (int k = 0; k < 2; ++k) {
            float *row = &part.line[p][spot.point[k] * rank + r];
            of.put(row, of.get(row) + spot.along[k] * by_line);
        }
    });
}

// All that one part gets. A record whose cell is the last before the part gives its far corners alone, one whose cell is its
// last the near ones.
static void scatter_part(const VolumeView &v, const Mix &mix, const Sorted &sorted, FactorPart &part, FactorBatch &batch,
                         const GradientView &to) {
    const FactorView &f = v.factors;
    int planes[2], n_planes = 0;
    for (int p = 0; p < 3; ++p)
        if (PLANE_AXES[p][0] == part.axis) planes[n_planes++] = p, part.clear(f, mix, p);
    batch.clear(mix);
    const auto flush = [&] {
        for (int number = 0; number < n_planes; ++number)
            scatter_features(f, mix, planes[number], number, batch, part, to.factors);
        batch.items.clear();
        std::fill(batch.color.begin(), batch.color.end(), 0.0f);
    };
    const int n_keys = f.shape[part.axis] - 1;
    for (int key = std::max(part.begin - 1, 0); key < std::min(part.end, n_keys); ++key) {
        const int first = key >= part.begin ? 0 : 2, last = key + 1 < part.end ? 4 : 2;
        for (int64_t i = sorted.first[key]; i < sorted.first[key + 1]; ++i) {
            const SortedRecord &s = sorted.records[i];
            int cell[3];
            cell_of_voxel(f.shape, s.record.voxel, cell);
            FactorBatch::Item item{{}, first, last};
            for (int number = 0; number < n_planes; ++number) {
                const int p = planes[number];
                item.spot[number] = Spot(f, p, cell, s.record.share);
                uint8_t *touched = to.touched;
                for (int before = 0; before < p; ++before) touched += f.n_rows(before);
                scatter_density(f, p, item.spot[number], first, last, s.record.amount, part, to.factors, touched);
            }
            if (!s.feature) continue;
            std::copy_n(s.feature, f.channels, &batch.color[batch.items.size() * mix.columns]);
            batch.items.push_back(item);
            if (static_cast<int>(batch.items.size()) == BATCH_SPOTS) flush();
        }
    }
    flush();
}

constexpr int N_PARTS = 16;  // of each of the two axes that planes have first: XY and XZ, and YZ

template <class Slots>
static void scatter_to_factors(const ThreadPool::Turn &turn, const VolumeView &v, const Slots &slots, const Mix &mix,
                               const GradientView &to) {
    static Sorted sorted[2];
    static std::vector<FactorPart> parts;
    static std::vector<FactorBatch> batches;
    const FactorView &f = v.factors;
    const int Y = f.shape[1], Z = f.shape[2];
    sort_records(turn, slots, f.shape[0] - 1, [&](int32_t voxel) { return voxel / Z / Y; }, sorted[0]);
    sort_records(turn, slots, Y - 1, [&](int32_t voxel) { return voxel / Z % Y; }, sorted[1]);
    if (sorted[0].first.back() == 0) return;
    size_t n = 0;
    for (int axis = 0; axis < 2; ++axis) {
        const std::vector<int> cuts = cut_evenly(sorted[axis], N_PARTS);
        parts.resize(std::max(parts.size(), n + cuts.size())), batches.resize(parts.size());
        for (size_t i = 0; i + 1 < cuts.size(); ++i, ++n)
            parts[n].axis = axis, parts[n].begin = cuts[i], parts[n].end = cuts[i + 1];
    }
    turn.parallel_for(static_cast<int64_t>(n), [&](int64_t i) { scatter_part(v, mix, sorted[parts[i].axis], parts[i], batches[i], to); });
    turn.parallel_for(3, [&](int64_t p) {
        float *to_line = to.factors.line[p], *to_mix = to.factors.mix + p * f.n_features * f.channels;
        for (size_t i = 0; i < n; ++i) {
            const FactorPart &part = parts[i];
            if (part.axis != PLANE_AXES[p][0]) continue;
            for (size_t k = 0; k < part.line[p].size(); ++k) to_line[k] += part.line[p][k];
            for (int r = 0; r < f.n_features; ++r)
                for (int c = 0; c < f.channels; ++c) to_mix[r * f.channels + c] += part.mix[p][r * mix.columns + c];
        }
    });
}

}  // namespace vqrf::VQRF_ISA

