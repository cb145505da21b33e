// Kernels of whole lattices that need no instruction set of their own. Twins: src/vqrf/kernels/reference.py, which says what
// they answer.
#include <algorithm>
#include <vector>

#include "kernels.hpp"
#include "threads.hpp"

namespace vqrf {

void find_cells(const float *density, const int64_t *shape, float floor, const uint8_t *allowed, uint8_t *cells) {
    const int64_t X = shape[0], Y = shape[1], Z = shape[2];
    const ThreadPool::Turn turn;
    turn.parallel_for(X - 1, [&](int64_t x) {
        std::vector<float> highest(Z);  // of the four voxels that share z
        float *__restrict top = highest.data();
        for (int64_t y = 0; y < Y - 1; ++y) {
            const float *a = density + (x * Y + y) * Z, *b = a + Z, *c = a + Y * Z, *e = c + Z;
            for (int64_t z = 0; z < Z; ++z) {
                const float near = a[z] > b[z] ? a[z] : b[z], far = c[z] > e[z] ? c[z] : e[z];
                top[z] = near > far ? near : far;
            }
            const int64_t row = (x * (Y - 1) + y) * (Z - 1);
            uint8_t *__restrict cell = cells + row;
            for (int64_t z = 0; z < Z - 1; ++z) cell[z] = (top[z] > top[z + 1] ? top[z] : top[z + 1]) > floor;
            if (allowed)
                for (int64_t z = 0; z < Z - 1; ++z) cells[row + z] &= allowed[row + z] != 0;
        }
    });
}

// One pass of the distance transform along an axis: out = min over the line of max(distance along it, in).
static void spread(std::vector<uint8_t> &values, int64_t length, int64_t stride, const std::vector<int64_t> &starts) {
    std::vector<uint8_t> line(length);
    for (const int64_t start : starts) {
        uint8_t *p = &values[start];
        for (int64_t i = 0; i < length; ++i) line[i] = p[i * stride];
        for (int64_t i = 0; i < length; ++i) {
            int best = line[i];
            for (int64_t step = 1; step < best && (i - step >= 0 || i + step < length); ++step) {
                const int left = i - step >= 0 ? line[i - step] : 255, right = i + step < length ? line[i + step] : 255;
                best = std::min<int>(best, std::max<int>(static_cast<int>(step), std::min(left, right)));
            }
            p[i * stride] = static_cast<uint8_t>(best);
        }
    }
}

void measure_skip(const uint8_t *cells, const int64_t *shape, uint8_t *skip) {
    int64_t b[3];
    for (int axis = 0; axis < 3; ++axis) b[axis] = count_blocks(shape[axis]);
    std::vector<uint8_t> values(static_cast<size_t>(b[0] * b[1] * b[2]), 255);
    for (int64_t x = 0; x < shape[0]; ++x)
        for (int64_t y = 0; y < shape[1]; ++y) {
            const uint8_t *row = cells + (x * shape[1] + y) * shape[2];
            uint8_t *block = &values[((x >> SKIP_BLOCK_LOG2) * b[1] + (y >> SKIP_BLOCK_LOG2)) * b[2]];
            for (int64_t z = 0; z < shape[2]; ++z)
                if (row[z]) block[z >> SKIP_BLOCK_LOG2] = 0;
        }
    const int64_t stride[3] = {b[1] * b[2], b[2], 1};
    for (int axis = 0; axis < 3; ++axis) {
        std::vector<int64_t> starts;
        for (int64_t i = 0; i < static_cast<int64_t>(values.size()); ++i)
            if (i / stride[axis] % b[axis] == 0) starts.push_back(i);
        spread(values, b[axis], stride[axis], starts);
    }
    std::copy(values.begin(), values.end(), skip);
}

void add_total_variation(const float *values, const int64_t *shape, int64_t channels, const uint8_t *touched, float weight,
                         float *gradient) {
    const int64_t X = shape[0], Y = shape[1], Z = shape[2], C = channels;
    const int64_t stride[3] = {Y * Z * C, Z * C, C};
    const ThreadPool::Turn turn;
    turn.parallel_for(X, [&](int64_t x) {
        for (int64_t y = 0; y < Y; ++y)
            for (int64_t z = 0; z < Z; ++z) {
                const int64_t voxel = (x * Y + y) * Z + z, at[3] = {x, y, z};
                if (touched && !touched[voxel]) continue;
                const float *here = values + voxel * C;
                const float *around[6];
                for (int axis = 0; axis < 3; ++axis) {  // beyond the lattice: the voxel itself, which differs by 0
                    around[2 * axis] = at[axis] > 0 ? here - stride[axis] : here;
                    around[2 * axis + 1] = at[axis] + 1 < shape[axis] ? here + stride[axis] : here;
                }
                for (int64_t c = 0; c < C; ++c) {
                    float sum = 0;
                    for (const float *there : around) {
                        const float apart = here[c] - there[c];
                        sum += apart < -1 ? -1.0f : apart > 1 ? 1.0f : apart;
                    }
                    gradient[voxel * C + c] += weight * sum;
                }
            }
    });
}

}  // namespace vqrf
