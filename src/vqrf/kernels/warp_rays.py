"""The kernels of rays in NVIDIA Warp's language, one thread a ray, a sample or a channel; `vqrf.kernels.warp` launches them.

Warp compiles these functions when they are first launched: for a graphics card, or for the CPU, where one thread does all.
A march is done twice: `count_samples` says how many live and shaded samples each ray has, and `write_samples` writes them
where the sums of these counts say, ray by ray and front to back. Notation: `vqrf.kernels`, and N rays, M live samples, S
shaded ones, V voxels, C channels. Whoever adds to one number from many threads does it by atomics, in no order.
"""

from __future__ import annotations

import warp as wp

from vqrf.geometry import Space, Unbounded
from vqrf.kernels import SKIP_BLOCK, STOP_TRANSMITTANCE
from vqrf.kernels.constants import MAX_SAMPLES

# No adjoints of Warp's: gradients are written out below.
wp.set_module_options({"enable_backward": False})

BLOCK = wp.constant(SKIP_BLOCK)
STOP = wp.constant(wp.float32(STOP_TRANSMITTANCE))
LAST_STEP = wp.constant(wp.float64(MAX_SAMPLES - 1))
NO_END = wp.constant(wp.float64(1e30))
MOST_STEPS = wp.constant(wp.float32(1e9))
LARGEST_EXPONENT = wp.constant(wp.float32(80.0))  # exp stays finite; alpha is 1 long before
NO_PLACE = wp.constant(wp.float32(1e9))
NO_WAY = wp.constant(wp.float64(1e30))
NOT_SHADED = wp.constant(wp.int32(-1))
BOX, UNBOUNDED = wp.constant(wp.int32(0)), wp.constant(wp.int32(2))  # the front has 1
NO_SIDE = wp.constant(wp.int32(-1))
N_SIDES = wp.constant(wp.int32(7))


@wp.struct
class Factors:
    """Planes [rows,R] and lines [entries,R], or their gradients; see `FactorArrays`."""

    plane_0: wp.array2d(dtype=wp.float32)
    plane_1: wp.array2d(dtype=wp.float32)
    plane_2: wp.array2d(dtype=wp.float32)
    line_0: wp.array2d(dtype=wp.float32)
    line_1: wp.array2d(dtype=wp.float32)
    line_2: wp.array2d(dtype=wp.float32)


@wp.struct
class Grid:
    """A volume's density, what may be skipped of it, and the equation's constants; arrays flat, in memory order.

    With factors the density is that of their first `n_density` components. In a space that is no box, `space` makes places of
    the world.
    """

    shape: wp.vec3i
    blocks: wp.vec3i
    lo: wp.vec3d
    hi: wp.vec3d
    step: wp.float64
    near: wp.float64
    bias: wp.float32
    interval: wp.float32
    threshold: wp.float32
    is_relu: wp.bool
    space_kind: wp.int32
    space: wp.mat44d
    is_factored: wp.bool
    n_density: wp.int32
    density: wp.array(dtype=wp.float32)
    cells: wp.array(dtype=wp.uint8)
    skip: wp.array(dtype=wp.uint8)
    factors: Factors


@wp.struct
class Way:
    """What is left of a ray: a + t b, homogeneous places, from t = `first` on.

    Attributes:
      side: by which of its sides the places of a space without bounds are divided next; NO_SIDE where nothing is left.
      rest: how far behind the last piece the next sample is.
      n_before: how many samples the ray could have had before.
    """

    a: wp.vec4d
    b: wp.vec4d
    first: wp.float64
    side: wp.int32
    rest: wp.float64
    n_before: wp.int32


@wp.struct
class Path:
    """A straight piece of a ray in the lattice: its number of samples, and voxel coordinates of the first with those of a step.

    Sample i is at the world's distance start + i * rate / (1 - i * bend).
    """

    n: wp.int32
    start: wp.float32
    rate: wp.float32
    bend: wp.float32
    u: wp.vec3
    du: wp.vec3


@wp.struct
class Place:
    """Sample number `i` of a path, in the cell whose lowest voxel is `voxel`; none where `i` is not below the path's `n`."""

    i: wp.int32
    voxel: wp.int32
    share: wp.vec3


@wp.struct
class Live:
    """A live sample: its place, alpha, and the slope of its optical depth by raw density."""

    place: Place
    alpha: wp.float32
    slope: wp.float32


@wp.struct
class Samples:
    """The live samples [M] and the shaded ones [S] of N rays.

    Attributes:
      starts, counts: [2,N] where those of a ray start, and how many there are; the live and the shaded.
      voxel, share: [M] of the cell, and where in it.
      t, way, weight, left, slope: [M] distance, number among the samples that its ray could have, weight, transmittance behind
        the sample, slope of the optical depth.
      shaded: [M] number of the shaded sample, or NOT_SHADED.
      live, ray: [S] number of the live sample, and of the ray.
    """

    starts: wp.array2d(dtype=wp.int32)
    counts: wp.array2d(dtype=wp.int32)
    voxel: wp.array(dtype=wp.int32)
    share: wp.array(dtype=wp.vec3)
    t: wp.array(dtype=wp.float32)
    way: wp.array(dtype=wp.float32)
    weight: wp.array(dtype=wp.float32)
    left: wp.array(dtype=wp.float32)
    slope: wp.array(dtype=wp.float32)
    shaded: wp.array(dtype=wp.int32)
    live: wp.array(dtype=wp.int32)
    ray: wp.array(dtype=wp.int64)


def kind_of(space: Space | None) -> int:
    """As `Grid` has it."""
    return 0 if space is None else 2 if isinstance(space, Unbounded) else 1


# ----------------------------------------------------------------------------------------------------- along a ray


@wp.func
def is_looked_at(weights: wp.array(dtype=wp.float32), ray: int) -> wp.bool:
    """A ray of weight 0 is not; without weights all are."""
    if weights.shape[0] == 0:
        return True
    return weights[ray] != 0.0


@wp.func
def way_of(grid: Grid, origin: wp.vec3, direction: wp.vec3) -> Way:
    """All of a ray."""
    way = Way()
    way.a = wp.vec4d(wp.float64(origin[0]), wp.float64(origin[1]), wp.float64(origin[2]), wp.float64(1.0))
    way.b = wp.vec4d(wp.float64(direction[0]), wp.float64(direction[1]), wp.float64(direction[2]), wp.float64(0.0))
    way.first = grid.near
    if grid.space_kind != BOX:
        way.a = grid.space * way.a
        way.b = grid.space * way.b
    if grid.space_kind == UNBOUNDED:
        for side in range(1, N_SIDES):
            ahead = side_of_place(way.a, side) + grid.near * side_of_direction(way.b, side)
            if ahead > side_of_place(way.a, way.side) + grid.near * side_of_direction(way.b, way.side):
                way.side = side
    return way


@wp.func
def side_of_place(a: wp.vec4d, side: int) -> wp.float64:
    """What places are divided by is the largest of these: 1 and (1 +- each coordinate) / 2."""
    half = wp.float64(0.5)
    value = wp.float64(1.0)
    if side > 3:
        value = half - half * a[side - 4]
    elif side > 0:
        value = half + half * a[side - 1]
    return value


@wp.func
def side_of_direction(b: wp.vec4d, side: int) -> wp.float64:
    """How these grow along a ray."""
    slope = wp.float64(0.0)
    if side > 3:
        slope = -wp.float64(0.5) * b[side - 4]
    elif side > 0:
        slope = wp.float64(0.5) * b[side - 1]
    return slope


@wp.func
def next_path(grid: Grid, way: Way):
    """The next piece of a ray, and what is left of it then; see `pieces_of` of the twin."""
    path = Path()
    left = way
    left.side = NO_SIDE
    if grid.space_kind == BOX:
        path = enter_box(grid, way.a, way.b)
    else:
        last = NO_END
        if grid.space_kind == UNBOUNDED:
            value = side_of_place(way.a, way.side)
            slope = side_of_direction(way.b, way.side)
            left.a[3] = value
            left.b[3] = slope
            for side in range(N_SIDES):
                faster = side_of_direction(way.b, side) - slope
                if faster > wp.float64(0.0):
                    reaches = (value - side_of_place(way.a, side)) / faster
                    if reaches < last:
                        last = reaches
                        left.side = side
            last = wp.max(last, way.first)
        path, rest = cross(grid, left, last)
        left.rest = rest
        left.first = last
    return path, left


@wp.func
def distance_at(path: Path, i: int) -> float:
    return path.start + float(i) * path.rate / (1.0 - float(i) * path.bend)


@wp.func
def cross(grid: Grid, way: Way, end: wp.float64):
    """The piece of a projective part of a ray that is in the lattice, and the next `rest`; see `_projective_piece`."""
    path = Path()
    a = way.a
    b = way.b
    first = way.first
    last = end
    rest = way.rest
    is_outside = bool(False)
    for face in range(6):
        axis = face / 2
        at = grid.lo[axis]
        sign = wp.float64(1.0)
        if face % 2 == 1:
            at = grid.hi[axis]
            sign = wp.float64(-1.0)
        above = sign * (a[axis] - at * a[3])
        rise = sign * (b[axis] - at * b[3])
        if rise > wp.float64(0.0):
            first = wp.max(first, -above / rise)
        if rise < wp.float64(0.0):
            last = wp.min(last, -above / rise)
        if rise == wp.float64(0.0) and above < wp.float64(0.0):
            is_outside = True
    depth = a[3] + first * b[3]
    depth_at_end = a[3] + last * b[3]
    turn = wp.vec3d(a[3] * b[0] - b[3] * a[0], a[3] * b[1] - b[3] * a[1], a[3] * b[2] - b[3] * a[2])
    length = wp.length(turn)
    length_inside = (last - first) * length / (depth * depth_at_end)
    is_inside = not is_outside and first <= last and depth > wp.float64(0.0) and depth_at_end > wp.float64(0.0)
    if is_inside and length > wp.float64(0.0) and length_inside < NO_WAY:  # what is no number is a miss
        after_rest = length_inside - rest
        if after_rest < wp.float64(0.0):
            rest = -after_rest
        else:
            if rest > wp.float64(0.0):
                first += rest * depth * depth / (length - rest * depth * b[3])
                depth = a[3] + first * b[3]
            path.n = int(wp.min(after_rest / grid.step, LAST_STEP)) + 1
            path.start = wp.float32(first)
            path.rate = wp.float32(grid.step * depth * depth / length)
            path.bend = wp.float32(grid.step * depth * b[3] / length)
            is_anywhere = bool(True)
            for axis in range(3):
                scale = wp.float64(grid.shape[axis] - 1) / (grid.hi[axis] - grid.lo[axis])
                path.u[axis] = wp.float32(((a[axis] + first * b[axis]) / depth - grid.lo[axis]) * scale)
                path.du[axis] = wp.float32(grid.step * turn[axis] / length * scale)
                if not (wp.abs(path.u[axis]) < NO_PLACE and wp.abs(path.du[axis]) < NO_PLACE):
                    is_anywhere = False
            if is_anywhere:
                rest = wp.float64(path.n) * grid.step - after_rest
            else:
                path.n = 0
    return path, rest


@wp.func
def enter_box(grid: Grid, origin: wp.vec4d, direction: wp.vec4d) -> Path:
    path = Path()
    first = grid.near
    last = NO_END
    is_outside = bool(False)
    for axis in range(3):
        o = origin[axis]
        d = direction[axis]
        if d == wp.float64(0.0):
            if o < grid.lo[axis] or o > grid.hi[axis]:
                is_outside = True
        else:
            a = (grid.lo[axis] - o) / d
            b = (grid.hi[axis] - o) / d
            first = wp.max(first, wp.min(a, b))
            last = wp.min(last, wp.max(a, b))
    path.n = 0
    if not is_outside and first <= last:
        path.n = int(wp.min((last - first) / grid.step, LAST_STEP)) + 1
        path.start = wp.float32(first)
        path.rate = wp.float32(grid.step)
        for axis in range(3):
            scale = wp.float64(grid.shape[axis] - 1) / (grid.hi[axis] - grid.lo[axis])
            path.u[axis] = wp.float32((origin[axis] + first * direction[axis] - grid.lo[axis]) * scale)
            path.du[axis] = wp.float32(grid.step * direction[axis] * scale)
    return path


@wp.func
def steps_to_leave(path: Path, u: wp.vec3, cell: wp.vec3i, distance: int) -> int:
    """How many steps surely stay inside the empty cube of `distance - 1` blocks around the block of `cell`; at least 1."""
    steps = MOST_STEPS
    for axis in range(3):
        block = cell[axis] / BLOCK
        if path.du[axis] > 0.0:
            steps = wp.min(steps, (float((block + distance) * BLOCK) - u[axis]) / path.du[axis])
        if path.du[axis] < 0.0:
            steps = wp.min(steps, (float((block - distance + 1) * BLOCK) - u[axis]) / path.du[axis])
    return wp.max(int(steps), 1)


@wp.func
def next_occupied(grid: Grid, path: Path, start: int) -> Place:
    """The first sample from number `start` on that lies in an occupied cell."""
    place = Place()
    place.i = start
    while place.i < path.n:
        u = path.u + float(place.i) * path.du
        u = wp.vec3(
            wp.clamp(u[0], 0.0, float(grid.shape[0] - 1)),
            wp.clamp(u[1], 0.0, float(grid.shape[1] - 1)),
            wp.clamp(u[2], 0.0, float(grid.shape[2] - 1)),
        )
        cell = wp.vec3i(
            wp.min(int(u[0]), grid.shape[0] - 2), wp.min(int(u[1]), grid.shape[1] - 2), wp.min(int(u[2]), grid.shape[2] - 2)
        )
        block = (cell[0] / BLOCK * grid.blocks[1] + cell[1] / BLOCK) * grid.blocks[2] + cell[2] / BLOCK
        distance = int(grid.skip[block])
        if distance > 0:
            place.i += steps_to_leave(path, u, cell, distance)
        else:
            number = (cell[0] * (grid.shape[1] - 1) + cell[1]) * (grid.shape[2] - 1) + cell[2]
            if grid.cells[number] != wp.uint8(0):
                place.voxel = (cell[0] * grid.shape[1] + cell[1]) * grid.shape[2] + cell[2]
                place.share = wp.vec3(u[0] - float(cell[0]), u[1] - float(cell[1]), u[2] - float(cell[2]))
                return place
            place.i += 1
    return place


@wp.func
def next_live(grid: Grid, path: Path, start: int) -> Live:
    """The first live sample from number `start` on, were there light."""
    found = Live()
    i = int(start)
    while i < path.n:
        place = next_occupied(grid, path, i)
        found.place = place
        i = place.i + 1
        if place.i < path.n:
            density = density_of_voxels(grid, place)
            if grid.is_factored:
                density = density_of_factors(grid, place)
            found.slope = slope_of(grid, density)
            found.alpha = alpha_of(grid, density)
            if found.alpha > grid.threshold:
                return found
    found.place.i = path.n
    return found


@wp.func
def density_of_factors(grid: Grid, place: Place) -> float:
    density = float(0.0)
    for plane in range(3):
        for component in range(grid.n_density):
            density += on_plane(grid, place, plane, component) * on_line(grid, place, plane, component)
    return density


@wp.func
def on_plane(grid: Grid, place: Place, plane: int, component: int) -> float:
    """A component of a plane, bilinear at the place."""
    total = float(0.0)
    for corner in range(4):
        row, share = plane_corner(grid.shape, place, plane, corner)
        if plane == 0:
            total += share * grid.factors.plane_0[row, component]
        elif plane == 1:
            total += share * grid.factors.plane_1[row, component]
        else:
            total += share * grid.factors.plane_2[row, component]
    return total


@wp.func
def on_line(grid: Grid, place: Place, plane: int, component: int) -> float:
    """The same of its line."""
    total = float(0.0)
    for end in range(2):
        entry, share = line_end(grid.shape, place, plane, end)
        if plane == 0:
            total += share * grid.factors.line_0[entry, component]
        elif plane == 1:
            total += share * grid.factors.line_1[entry, component]
        else:
            total += share * grid.factors.line_2[entry, component]
    return total


@wp.func
def cell_of(shape: wp.vec3i, voxel: int) -> wp.vec3i:
    return wp.vec3i(voxel / (shape[1] * shape[2]), voxel / shape[2] % shape[1], voxel % shape[2])


@wp.func
def plane_corner(shape: wp.vec3i, place: Place, plane: int, corner: int):
    """Row of a plane at one of the 4 corners around a place, and its share. Axes: `PLANE_AXES`."""
    first = plane / 2
    second = 1 + wp.min(plane, 1)
    cell = cell_of(shape, place.voxel)
    row = (cell[first] + corner / 2) * shape[second] + cell[second] + corner % 2
    one = wp.where(corner / 2 == 1, place.share[first], 1.0 - place.share[first])
    other = wp.where(corner % 2 == 1, place.share[second], 1.0 - place.share[second])
    return row, one * other


@wp.func
def line_end(shape: wp.vec3i, place: Place, plane: int, end: int):
    """Entry of a plane's line before and behind a place, and its share."""
    axis = 2 - plane
    share = wp.where(end == 1, place.share[axis], 1.0 - place.share[axis])
    return cell_of(shape, place.voxel)[axis] + end, share


@wp.func
def density_of_voxels(grid: Grid, place: Place) -> float:
    density = float(0.0)
    if not grid.is_factored:
        z = place.share[2]
        rows = wp.vec4()
        for row in range(4):
            at = place.voxel + (row / 2 * grid.shape[1] + row % 2) * grid.shape[2]
            rows[row] = grid.density[at] + z * (grid.density[at + 1] - grid.density[at])
        near = rows[0] + place.share[1] * (rows[1] - rows[0])
        far = rows[2] + place.share[1] * (rows[3] - rows[2])
        density = near + place.share[0] * (far - near)
    return density


@wp.func
def alpha_of(grid: Grid, density: float) -> float:
    """1 - exp(-optical depth), to the last digits of a thin step too."""
    x = density + grid.bias
    if grid.is_relu:
        return one_minus_exp(grid.interval * wp.max(x, 0.0))
    e = wp.exp(wp.min(x, LARGEST_EXPONENT))
    if grid.interval == 0.5:
        root = wp.sqrt(1.0 + e)
        return e / (root * (root + 1.0))
    one_more = 1.0 + e
    log_of_it = e
    if one_more != 1.0:  # log(1 + e) without the rounding of 1 + e
        log_of_it = wp.log(one_more) * (e / (one_more - 1.0))
    return one_minus_exp(grid.interval * log_of_it)


@wp.func
def slope_of(grid: Grid, density: float) -> float:
    if grid.is_relu:
        return grid.interval  # of a live sample, whose alpha is above 0
    e = wp.exp(wp.min(density + grid.bias, LARGEST_EXPONENT))
    return grid.interval * (e / (1.0 + e))


@wp.func
def one_minus_exp(depth: float) -> float:
    left = wp.exp(-depth)
    if left == 1.0:
        return depth
    if left == 0.0:
        return 1.0
    return (1.0 - left) * (depth / -wp.log(left))  # where 1 - left is rounded, so is the logarithm


@wp.kernel
def find_hits(grid: Grid, origins: wp.array(dtype=wp.vec3), directions: wp.array(dtype=wp.vec3), hit: wp.array(dtype=wp.uint8)):
    ray = wp.tid()
    way = way_of(grid, origins[ray], directions[ray])
    hit[ray] = wp.uint8(0)
    while way.side != NO_SIDE:
        path, left = next_path(grid, way)
        way = left
        place = next_occupied(grid, path, 0)
        if place.i < path.n:
            hit[ray] = wp.uint8(1)
            way.side = NO_SIDE


@wp.kernel
def count_samples(
    grid: Grid,
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    weights: wp.array(dtype=wp.float32),
    counts: wp.array2d(dtype=wp.int32),
    background_weight: wp.array(dtype=wp.float32),
    depth: wp.array(dtype=wp.float32),
):
    """Count each ray's live and shaded samples [2,N], and say what else is known without a colour."""
    ray = wp.tid()
    way = way_of(grid, origins[ray], directions[ray])
    way.side = wp.where(is_looked_at(weights, ray), way.side, NO_SIDE)
    light = float(1.0)
    distance = float(0.0)
    n_live = int(0)
    n_shaded = int(0)
    while way.side != NO_SIDE and light >= STOP:
        path, left = next_path(grid, way)
        way = left
        i = int(0)
        while i < path.n and light >= STOP:
            found = next_live(grid, path, i)
            i = found.place.i + 1
            if found.place.i < path.n:
                n_live += 1
                weight = light * found.alpha
                if weight > grid.threshold:
                    n_shaded += 1
                distance += weight * distance_at(path, found.place.i)
                light = light * (1.0 - found.alpha)
    counts[0, ray] = n_live
    counts[1, ray] = n_shaded
    background_weight[ray] = light
    depth[ray] = distance


@wp.kernel
def write_samples(
    grid: Grid,
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    weights: wp.array(dtype=wp.float32),
    into: Samples,
):
    """March again, and write all but `starts` and `counts`, which are known."""
    ray = wp.tid()
    way = way_of(grid, origins[ray], directions[ray])
    way.side = wp.where(is_looked_at(weights, ray), way.side, NO_SIDE)
    light = float(1.0)
    live = int(into.starts[0, ray])
    shaded = int(into.starts[1, ray])
    while way.side != NO_SIDE and light >= STOP:
        path, left = next_path(grid, way)
        way = left
        i = int(0)
        while i < path.n and light >= STOP:
            found = next_live(grid, path, i)
            i = found.place.i + 1
            if found.place.i < path.n:
                weight = light * found.alpha
                light = light * (1.0 - found.alpha)
                into.voxel[live] = found.place.voxel
                into.share[live] = found.place.share
                into.t[live] = distance_at(path, found.place.i)
                into.way[live] = float(way.n_before + found.place.i)
                into.weight[live] = weight
                into.left[live] = light
                into.slope[live] = found.slope
                into.shaded[live] = NOT_SHADED
                if weight > grid.threshold:
                    into.shaded[live] = shaded
                    into.live[shaded] = live
                    into.ray[shaded] = wp.int64(ray)
                    shaded += 1
                live += 1
        way.n_before += path.n


# ------------------------------------------------------------------------------------------------------ compositing


@wp.kernel
def add_colors(
    samples: Samples,
    color: wp.array(dtype=wp.vec3),
    background: wp.vec3,
    background_weight: wp.array(dtype=wp.float32),
    pixel: wp.array(dtype=wp.vec3),
):
    ray = wp.tid()
    total = background_weight[ray] * background
    for k in range(samples.counts[1, ray]):
        shaded = samples.starts[1, ray] + k
        total += samples.weight[samples.live[shaded]] * color[shaded]
    pixel[ray] = total


@wp.kernel
def measure_distortion(step: float, samples: Samples, distortion: wp.array(dtype=wp.float32)):
    """How far the weights of a ray's samples are apart, [N]; see `LossWeights`."""
    ray = wp.tid()
    weight = wp.float64(0.0)
    moment = wp.float64(0.0)
    total = wp.float64(0.0)
    for k in range(samples.counts[0, ray]):
        w, at = weight_and_way(samples, samples.starts[0, ray] + k, step)
        total += w * (wp.float64(2.0) * (at * weight - moment) + wp.float64(step) / wp.float64(3.0) * w)
        weight += w
        moment += w * at
    distortion[ray] = wp.float32(total)


@wp.func
def weight_and_way(samples: Samples, i: int, step: float):
    return wp.float64(samples.weight[i]), wp.float64(samples.way[i]) * wp.float64(step)


@wp.kernel
def differentiate_weights(
    step: float,
    samples: Samples,
    color: wp.array(dtype=wp.vec3),
    d_pixel: wp.array(dtype=wp.vec3),
    d_light: wp.array(dtype=wp.float32),
    d_depth: wp.array(dtype=wp.float32),
    d_distortion: wp.array(dtype=wp.float32),
    d_color: wp.array(dtype=wp.vec3),
    d_density: wp.array(dtype=wp.float32),
):
    """From how a loss changes with pixels to how it changes with colours [S,3], added, and with densities [M], both of samples.

    A sample dims what is behind it, so the ray is walked back to front; `behind` is what that brings.
    `d_light` [N] is by the background weight, the background's colour included.

        d loss / d depth_i = slope of w_i * left_i - sum over j > i of slope of w_j * w_j - d_light * background_weight
    """
    ray = wp.tid()
    n = samples.counts[0, ray]
    if n == 0:
        return
    behind = d_light[ray] * samples.left[samples.starts[0, ray] + n - 1]
    weight_before = wp.float64(0.0)
    moment_before = wp.float64(0.0)
    if d_distortion[ray] != 0.0:
        for k in range(n):
            w, at = weight_and_way(samples, samples.starts[0, ray] + k, step)
            weight_before += w
            moment_before += w * at
    weight_behind = wp.float64(0.0)
    moment_behind = wp.float64(0.0)
    for k in range(n):
        i = samples.starts[0, ray] + n - 1 - k
        d_weight = d_depth[ray] * samples.t[i]
        if d_distortion[ray] != 0.0:
            w, at = weight_and_way(samples, i, step)
            weight_before -= w
            moment_before -= w * at
            away = at * weight_before - moment_before + moment_behind - at * weight_behind
            d_weight += d_distortion[ray] * wp.float32(wp.float64(2.0) * (away + wp.float64(step) / wp.float64(3.0) * w))
            weight_behind += w
            moment_behind += w * at
        shaded = samples.shaded[i]
        if shaded != NOT_SHADED:
            d_weight += wp.dot(d_pixel[ray], color[shaded])
            d_color[shaded] = d_color[shaded] + samples.weight[i] * d_pixel[ray]
        d_density[i] = samples.slope[i] * (d_weight * samples.left[i] - behind)
        behind += d_weight * samples.weight[i]


# ------------------------------------------------------------------------------------------------- voxels by sample


@wp.func
def corner_share(share: wp.vec3, corner: int) -> float:
    """The trilinear share of corner 4x + 2y + z."""
    x = wp.where(corner / 4 == 1, share[0], 1.0 - share[0])
    y = wp.where(corner / 2 % 2 == 1, share[1], 1.0 - share[1])
    z = wp.where(corner % 2 == 1, share[2], 1.0 - share[2])
    return x * y * z


@wp.func
def corner_voxel(shape: wp.vec3i, voxel: int, corner: int) -> int:
    return voxel + (corner / 4 * shape[1] + corner / 2 % 2) * shape[2] + corner % 2


@wp.kernel
def gather_features(
    shape: wp.vec3i,
    samples: Samples,
    table: wp.array2d(dtype=wp.float32),
    rows: wp.array(dtype=wp.int32),
    features: wp.array2d(dtype=wp.float32),
):
    """Features [S,C] at the shaded samples. `rows` is empty where every voxel has its own."""
    shaded, channel = wp.tid()
    live = samples.live[shaded]
    total = float(0.0)
    for corner in range(8):
        row = corner_voxel(shape, samples.voxel[live], corner)
        if rows.shape[0] > 0:
            row = rows[row]
        if row >= 0:
            total += corner_share(samples.share[live], corner) * table[row, channel]
    features[shaded, channel] = total


@wp.kernel
def scatter_density(
    shape: wp.vec3i,
    samples: Samples,
    d_density: wp.array(dtype=wp.float32),
    rows: wp.array(dtype=wp.int32),
    gradient: wp.array(dtype=wp.float32),
    touched: wp.array(dtype=wp.uint8),
):
    live = wp.tid()
    for corner in range(8):
        voxel = corner_voxel(shape, samples.voxel[live], corner)
        is_kept = bool(True)
        if rows.shape[0] > 0:
            is_kept = rows[voxel] >= 0
        if is_kept:
            touched[voxel] = wp.uint8(1)
            wp.atomic_add(gradient, voxel, corner_share(samples.share[live], corner) * d_density[live])


@wp.kernel
def scatter_features(
    shape: wp.vec3i,
    samples: Samples,
    d_features: wp.array2d(dtype=wp.float32),
    rows: wp.array(dtype=wp.int32),
    gradient: wp.array2d(dtype=wp.float32),
):
    """Add the slopes [S,C] to the voxels around the shaded samples [V,C], also where these share rows."""
    shaded, channel = wp.tid()
    live = samples.live[shaded]
    for corner in range(8):
        voxel = corner_voxel(shape, samples.voxel[live], corner)
        is_kept = bool(True)
        if rows.shape[0] > 0:
            is_kept = rows[voxel] >= 0
        if is_kept:
            share = corner_share(samples.share[live], corner)
            wp.atomic_add(gradient, voxel, channel, share * d_features[shaded, channel])


@wp.kernel
def scatter_weights(
    shape: wp.vec3i, samples: Samples, counted: wp.array(dtype=wp.uint8), importance: wp.array(dtype=wp.float64)
):
    shaded = wp.tid()
    live = samples.live[shaded]
    if counted[samples.voxel[live]] == wp.uint8(0):
        return
    for corner in range(8):
        share = wp.float64(corner_share(samples.share[live], corner))
        wp.atomic_add(importance, corner_voxel(shape, samples.voxel[live], corner), wp.float64(samples.weight[live]) * share)


# ------------------------------------------------------------------------------------------------ factors by sample


@wp.func
def place_of(samples: Samples, live: int) -> Place:
    place = Place()
    place.voxel = samples.voxel[live]
    place.share = samples.share[live]
    return place


@wp.kernel
def gather_components(grid: Grid, samples: Samples, components: wp.array3d(dtype=wp.float32)):
    """Components of the features [S,3,R_f], of each plane times its line, at the shaded samples."""
    shaded, plane, component = wp.tid()
    place = place_of(samples, samples.live[shaded])
    number = grid.n_density + component
    components[shaded, plane, component] = on_plane(grid, place, plane, number) * on_line(grid, place, plane, number)


@wp.kernel
def scatter_components(
    grid: Grid,
    samples: Samples,
    live: wp.array(dtype=wp.int32),
    slopes: wp.array3d(dtype=wp.float32),
    first: int,
    gradient: Factors,
):
    """Add the slopes [K,3,n] by components `first` to `first + n - 1` at the samples `live` [K] to planes and lines."""
    k, plane, component = wp.tid()
    place = place_of(samples, live[k])
    number = first + component
    slope = slopes[k, plane, component]
    by_plane = slope * on_line(grid, place, plane, number)
    by_line = slope * on_plane(grid, place, plane, number)
    for corner in range(4):
        row, share = plane_corner(grid.shape, place, plane, corner)
        if plane == 0:
            wp.atomic_add(gradient.plane_0, row, number, share * by_plane)
        elif plane == 1:
            wp.atomic_add(gradient.plane_1, row, number, share * by_plane)
        else:
            wp.atomic_add(gradient.plane_2, row, number, share * by_plane)
    for end in range(2):
        entry, share = line_end(grid.shape, place, plane, end)
        if plane == 0:
            wp.atomic_add(gradient.line_0, entry, number, share * by_line)
        elif plane == 1:
            wp.atomic_add(gradient.line_1, entry, number, share * by_line)
        else:
            wp.atomic_add(gradient.line_2, entry, number, share * by_line)


@wp.kernel
def mark_rows(shape: wp.vec3i, samples: Samples, touched: wp.array(dtype=wp.uint8)):
    """Mark the rows of the three planes, one plane after the other, around every live sample."""
    live = wp.tid()
    place = place_of(samples, live)
    before = int(0)
    for plane in range(3):
        for corner in range(4):
            row, _share = plane_corner(shape, place, plane, corner)
            touched[before + row] = wp.uint8(1)
        before += shape[plane / 2] * shape[1 + wp.min(plane, 1)]
