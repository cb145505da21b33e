// Rays through the lattice: sample positions, empty-space skipping, live samples. Included by hot.cpp per instruction set.
#pragma once

#include "factors.hpp"
#include "isa.hpp"
#include "kernels.hpp"

namespace vqrf::VQRF_ISA {

struct Sample {
    int32_t voxel;          // lowest voxel of the cell
    float share[3];         // position inside the cell, 0..1
    float alpha;
    float transmittance;    // before this sample
    float slope;            // of the activation, times interval: d alpha / d density = slope * (1 - alpha)
    float distance;
    float way;              // which of the samples it is that the ray could have, from 0
};

static inline float weight_of(const Sample &s) { return s.transmittance * s.alpha; }

struct Path {           // a straight piece of a ray in the lattice
    int n;              // samples inside the lattice, at most MAX_SAMPLES
    float t0;
    float u[3], du[3];  // voxel coordinates of the first sample, and the step
    float rate, bend;   // by step, of the world's distances where it is no box: see `distance_at`
};

// The part of a ray that one projective map takes to places: of a + t b, homogeneous, for t from `first` to `last`.
struct Part {
    double a[4], b[4], first, last;
};

// The piece of a part that is in the lattice; see `_projective_piece` of the twin. `rest` is how far the first sample is from its
// beginning, and then how far behind its end the next one is.
static inline bool cross(const VolumeView &v, const Part &part, double &rest, Path &path) {
    const double *a = part.a, *b = part.b;
    double t0 = part.first, t1 = part.last;
    for (int face = 0; face < 6; ++face) {
        const int axis = face >> 1;
        const double at = face & 1 ? v.hi[axis] : v.lo[axis], sign = face & 1 ? -1 : 1;
        const double above = sign * (a[axis] - at * a[3]), rise = sign * (b[axis] - at * b[3]);
        if (rise > 0) t0 = greater(t0, -above / rise);
        if (rise < 0) t1 = lesser(t1, -above / rise);
        if (rise == 0 && above < 0) return false;
    }
    double depth = a[3] + t0 * b[3];
    const double last = a[3] + t1 * b[3];
    double turn[3], square = 0;
    for (int axis = 0; axis < 3; ++axis) {
        turn[axis] = a[3] * b[axis] - b[3] * a[axis];
        square += turn[axis] * turn[axis];
    }
    const double length = std::sqrt(square);
    double way = (t1 - t0) * length / (depth * last);
    // Written so that what is no number is a miss.
    if (!(t0 <= t1 && depth > 0 && last > 0 && length > 0 && way < 1e30)) return false;
    way -= rest;
    if (way < 0) {
        rest = -way;
        return false;
    }
    if (rest > 0) {
        t0 += rest * depth * depth / (length - rest * depth * b[3]);
        depth = a[3] + t0 * b[3];
    }
    path.t0 = static_cast<float>(t0);
    path.n = static_cast<int>(lesser(way / v.step, MAX_SAMPLES - 1.0)) + 1;
    path.rate = static_cast<float>(v.step * depth * depth / length);
    path.bend = static_cast<float>(v.step * depth * b[3] / length);
    for (int axis = 0; axis < 3; ++axis) {
        const double scale = (v.shape[axis] - 1) / (static_cast<double>(v.hi[axis]) - v.lo[axis]);
        path.u[axis] = static_cast<float>(((a[axis] + t0 * b[axis]) / depth - v.lo[axis]) * scale);
        path.du[axis] = static_cast<float>(v.step * turn[axis] / length * scale);
        if (!(std::fabs(path.u[axis]) < 1e9f && std::fabs(path.du[axis]) < 1e9f)) return false;
    }
    rest = path.n * static_cast<double>(v.step) - way;
    return true;
}

static inline float distance_at(const VolumeView &v, const Path &path, int i) {
    if (v.space_kind == SpaceKind::BOX) return path.t0 + static_cast<float>(i) * v.step;
    return path.t0 + static_cast<float>(i) * path.rate / (1 - static_cast<float>(i) * path.bend);
}

static inline bool enter(const VolumeView &v, const float *origin, const float *direction, Path &path) {
    double t0 = v.near, t1 = 1e30;
    for (int axis = 0; axis < 3; ++axis) {
        const double o = origin[axis], d = direction[axis];
        if (d == 0) {
            if (o < v.lo[axis] || o > v.hi[axis]) return false;
            continue;
        }
        const double a = (v.lo[axis] - o) / d, b = (v.hi[axis] - o) / d;
        t0 = greater(t0, lesser(a, b));
        t1 = lesser(t1, greater(a, b));
    }
    if (!(t0 <= t1)) return false;
    path.t0 = static_cast<float>(t0);
    path.n = static_cast<int>(lesser((t1 - t0) / v.step, MAX_SAMPLES - 1.0)) + 1;
    for (int axis = 0; axis < 3; ++axis) {
        const double scale = (v.shape[axis] - 1) / (static_cast<double>(v.hi[axis]) - v.lo[axis]);
        path.u[axis] = static_cast<float>((origin[axis] + t0 * direction[axis] - v.lo[axis]) * scale);
        path.du[axis] = static_cast<float>(v.step * direction[axis] * scale);
    }
    return true;
}

// The parts of a ray that projective maps take to places, one after the other; see `pieces_of` of the twin.
class Parts {
  public:
    Parts(const VolumeView &v, const float *origin, const float *direction) : is_unbounded(v.space_kind == SpaceKind::UNBOUNDED) {
        for (int row = 0; row < 4; ++row) {
            const double *m = v.space[row];
            part.a[row] = m[0] * origin[0] + m[1] * origin[1] + m[2] * origin[2] + m[3];
            part.b[row] = m[0] * direction[0] + m[1] * direction[1] + m[2] * direction[2];
        }
        part.last = v.near;
        if (!is_unbounded) return;
        values[0] = 1, slopes[0] = 0;
        for (int axis = 0; axis < 3; ++axis) {
            values[1 + axis] = (1 + part.a[axis]) / 2, slopes[1 + axis] = part.b[axis] / 2;
            values[4 + axis] = (1 - part.a[axis]) / 2, slopes[4 + axis] = -part.b[axis] / 2;
        }
        for (int k = 1; k < N_SIDES; ++k)
            if (values[k] + v.near * slopes[k] > values[next] + v.near * slopes[next]) next = k;
    }

    // The next one, or null.
    const Part *follow() {
        if (next < 0) return nullptr;
        part.first = part.last, part.last = 1e30;
        if (!is_unbounded) {
            next = -1;
            return &part;
        }
        const double value = values[next], slope = slopes[next];
        part.a[3] = value, part.b[3] = slope;
        next = -1;
        for (int k = 0; k < N_SIDES; ++k) {
            if (!(slopes[k] > slope)) continue;
            const double reaches = (value - values[k]) / (slopes[k] - slope);
            if (reaches < part.last) part.last = reaches, next = k;
        }
        part.last = greater(part.last, part.first);
        return &part;
    }

  private:
    static constexpr int N_SIDES = 7;  // what places are divided by is the largest of 1 and (1 +- each coordinate) / 2
    const bool is_unbounded;
    Part part;
    double values[N_SIDES], slopes[N_SIDES];
    int next = 0;
};

// Call visit(path) for each straight piece of a ray in the lattice, front to back, until it returns false.
template <class Visit>
static inline void follow(const VolumeView &v, const float *origin, const float *direction, const Visit &visit) {
    Path path;
    if (v.space_kind == SpaceKind::BOX) {
        if (enter(v, origin, direction, path)) visit(path);
        return;
    }
    Parts parts(v, origin, direction);
    double rest = 0;
    while (const Part *part = parts.follow())
        if (cross(v, *part, rest, path) && !visit(path)) return;
}

// How many steps surely stay inside the empty cube of `distance - 1` blocks around the block of `cell`; at least 1.
static inline int steps_to_leave(const Path &path, const float *u, const int *cell, int distance) {
    float steps = 1e9f;
    for (int axis = 0; axis < 3; ++axis) {
        const int block = cell[axis] >> SKIP_BLOCK_LOG2;
        const float du = path.du[axis];
        const int edge = (du > 0 ? block + distance : block - distance + 1) << SKIP_BLOCK_LOG2;
        if (du != 0) steps = lesser(steps, (static_cast<float>(edge) - u[axis]) / du);
    }
    // Rounded down: the sample after it may still be inside the cube, which costs a look and changes nothing.
    return steps > 1 ? static_cast<int>(steps) : 1;
}

// Call visit(cell voxel, shares, i) for every sample in an occupied cell, front to back, until it returns false; whether it did.
template <class Visit>
static inline bool walk(const VolumeView &v, const Path &path, const Visit &visit) {
    const int64_t cy = v.shape[1] - 1, cz = v.shape[2] - 1;
    for (int i = 0; i < path.n;) {
        float u[3];
        int cell[3];
        for (int axis = 0; axis < 3; ++axis) {
            u[axis] = path.u[axis] + static_cast<float>(i) * path.du[axis];
            u[axis] = lesser(greater(u[axis], 0.0f), static_cast<float>(v.shape[axis] - 1));
            cell[axis] = static_cast<int>(u[axis]);
            if (cell[axis] > v.shape[axis] - 2) cell[axis] = v.shape[axis] - 2;
        }
        const int distance = v.skip[((cell[0] >> SKIP_BLOCK_LOG2) * v.blocks[1] + (cell[1] >> SKIP_BLOCK_LOG2)) * v.blocks[2] +
                                    (cell[2] >> SKIP_BLOCK_LOG2)];
        if (distance != 0) {
            i += steps_to_leave(path, u, cell, distance);
            continue;
        }
        if (v.cells[(cell[0] * cy + cell[1]) * cz + cell[2]]) {
            const int32_t voxel = (cell[0] * v.shape[1] + cell[1]) * v.shape[2] + cell[2];
            const float share[3] = {u[0] - cell[0], u[1] - cell[1], u[2] - cell[2]};
            if (!visit(voxel, share, i)) return true;
        }
        ++i;
    }
    return false;
}

static inline float density_at(const VolumeView &v, int32_t voxel, const float *share) {
    const int64_t sx = static_cast<int64_t>(v.shape[1]) * v.shape[2], sy = v.shape[2];
    const float *p = v.density + voxel;
    const float x = share[0], y = share[1], z = share[2];
    const float d00 = p[0] + z * (p[1] - p[0]);
    const float d01 = p[sy] + z * (p[sy + 1] - p[sy]);
    const float d10 = p[sx] + z * (p[sx + 1] - p[sx]);
    const float d11 = p[sx + sy] + z * (p[sx + sy + 1] - p[sx + sy]);
    const float d0 = d00 + y * (d01 - d00), d1 = d10 + y * (d11 - d10);
    return d0 + x * (d1 - d0);
}

// alpha and slope of a raw density; exact forms that do not cancel for small alpha.
static inline void activate(const VolumeView &v, float density, float &alpha, float &slope) {
    if (v.relu_density) {
        const float x = density + v.density_bias;
        alpha = x > 0 ? -std::expm1(-v.interval * x) : 0.0f;
        slope = v.interval;  // of a live sample, whose alpha is above 0
        return;
    }
    const float x = lesser(density + v.density_bias, 80.0f);  // exp stays finite; alpha is 1 long before
    const float e = std::exp(x);
    slope = v.interval * (e / (1 + e));
    if (v.interval == 0.5f) {
        const float root = std::sqrt(1 + e);
        alpha = e / (root * (root + 1));
    } else {
        alpha = -std::expm1(-v.interval * std::log1p(e));
    }
}

// Call live(sample) for every live sample; returns the background weight.
template <class Live>
static inline float march(const VolumeView &v, const float *origin, const float *direction, const Live &live) {
    float transmittance = 1, before = 0;
    follow(v, origin, direction, [&](const Path &path) {
        const bool is_done = walk(v, path, [&](int32_t voxel, const float *share, int i) {
            const float density = v.is_factored() ? factor_density(v.factors, voxel, share) : density_at(v, voxel, share);
            if (density <= v.density_floor) return true;
            Sample s;
            activate(v, density, s.alpha, s.slope);
            if (!(s.alpha > v.alpha_threshold)) return true;
            s.voxel = voxel;
            for (int axis = 0; axis < 3; ++axis) s.share[axis] = share[axis];
            s.transmittance = transmittance;
            s.distance = distance_at(v, path, i);
            s.way = before + static_cast<float>(i);
            live(s);
            transmittance *= 1 - s.alpha;
            return transmittance >= STOP_TRANSMITTANCE;
        });
        before += static_cast<float>(path.n);
        return !is_done;
    });
    return transmittance;
}

// The 8 trilinear shares, corner number 4x + 2y + z.
static inline void corner_shares(const float *share, float *w) {
    const float x = share[0], y = share[1], z = share[2];
    const float x0 = 1 - x, y0 = 1 - y, z0 = 1 - z;
    w[0] = x0 * y0 * z0, w[1] = x0 * y0 * z, w[2] = x0 * y * z0, w[3] = x0 * y * z;
    w[4] = x * y0 * z0, w[5] = x * y0 * z, w[6] = x * y * z0, w[7] = x * y * z;
}

static inline void corner_voxels(const VolumeView &v, int32_t voxel, int32_t *corners) {
    const int32_t sx = v.shape[1] * v.shape[2], sy = v.shape[2];
    const int32_t base[4] = {voxel, voxel + sy, voxel + sx, voxel + sx + sy};
    for (int i = 0; i < 4; ++i) corners[2 * i] = base[i], corners[2 * i + 1] = base[i] + 1;
}

}  // namespace vqrf::VQRF_ISA
