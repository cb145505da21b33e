// Pixels of photos as rays. Twin: src/vqrf/kernels/reference.py.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "kernels.hpp"
#include "threads.hpp"

namespace vqrf {

// The view by binary search in `starts`, then the pinhole and the pose of that view.
void pixel_rays(const PixelView &v, float *origins, float *directions) {
    bool in_range = true;
    for (int64_t i = 0; i < v.n; ++i) in_range = in_range && v.pixels[i] >= 0 && v.pixels[i] < v.starts[v.n_views];
    if (!in_range) throw std::invalid_argument("pixels: out of range");
    constexpr int64_t CHUNK = 4096;
    const ThreadPool::Turn turn;
    turn.parallel_for((v.n + CHUNK - 1) / CHUNK, [&](int64_t chunk) {
        for (int64_t i = chunk * CHUNK; i < std::min(v.n, (chunk + 1) * CHUNK); ++i) {
            const int64_t view = std::upper_bound(v.starts, v.starts + v.n_views + 1, v.pixels[i]) - v.starts - 1;
            const int64_t local = v.pixels[i] - v.starts[view], width = v.widths[view];
            const double *pinhole = v.pinholes + 4 * view, *pose = v.poses + 12 * view;
            const double x = (static_cast<double>(local % width) + 0.5 - pinhole[2]) / pinhole[0];
            const double y = (static_cast<double>(local / width) + 0.5 - pinhole[3]) / pinhole[1];
            double d[3], square = 0;
            for (int axis = 0; axis < 3; ++axis) {
                d[axis] = pose[4 * axis] * x - pose[4 * axis + 1] * y - pose[4 * axis + 2];
                square += d[axis] * d[axis];
            }
            const double scale = 1 / std::sqrt(square);
            for (int axis = 0; axis < 3; ++axis) {
                origins[3 * i + axis] = static_cast<float>(pose[4 * axis + 3]);
                directions[3 * i + axis] = static_cast<float>(d[axis] * scale);
            }
        }
    });
}

}  // namespace vqrf
