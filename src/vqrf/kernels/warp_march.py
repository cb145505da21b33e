"""A ray's way through a lattice, in NVIDIA Warp's language: its straight pieces, and the samples on them that are looked at.

What is drawn of these is in `vqrf.kernels.warp_rays`. Notation: `vqrf.kernels`.
"""

from __future__ import annotations

import warp as wp

from vqrf.geometry import Space, Unbounded
from vqrf.kernels import SKIP_BLOCK
from vqrf.kernels.constants import MAX_SAMPLES

wp.set_module_options({"enable_backward": False})

BLOCK = wp.constant(SKIP_BLOCK)
LAST_STEP = wp.constant(wp.float64(MAX_SAMPLES - 1))
NO_END = wp.constant(wp.float64(1e30))
MOST_STEPS = wp.constant(wp.float32(1e9))
NO_PLACE = wp.constant(wp.float32(1e9))
NO_WAY = wp.constant(wp.float64(1e30))
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


def kind_of(space: Space | None) -> int:
    """As `Grid` has it."""
    return 0 if space is None else 2 if isinstance(space, Unbounded) else 1


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
def within(grid: Grid, way: Way, end: wp.float64):
    """Between which t a part of a ray that ends at `end` is in the lattice; where it never is, the second is the lower."""
    first = way.first
    last = end
    for face in range(6):
        axis = face / 2
        at = grid.lo[axis]
        sign = wp.float64(1.0)
        if face % 2 == 1:
            at = grid.hi[axis]
            sign = wp.float64(-1.0)
        above = sign * (way.a[axis] - at * way.a[3])
        rise = sign * (way.b[axis] - at * way.b[3])
        if rise > wp.float64(0.0):
            first = wp.max(first, -above / rise)
        if rise < wp.float64(0.0):
            last = wp.min(last, -above / rise)
        if rise == wp.float64(0.0) and above < wp.float64(0.0):
            last = -NO_END
    return first, last


@wp.func
def cross(grid: Grid, way: Way, end: wp.float64):
    """The piece of a projective part of a ray that is in the lattice, and the next `rest`; see `_projective_piece`."""
    path = Path()
    a = way.a
    b = way.b
    first, last = within(grid, way, end)
    rest = way.rest
    depth = a[3] + first * b[3]
    depth_at_end = a[3] + last * b[3]
    turn = wp.vec3d(a[3] * b[0] - b[3] * a[0], a[3] * b[1] - b[3] * a[1], a[3] * b[2] - b[3] * a[2])
    length = wp.length(turn)
    length_inside = (last - first) * length / (depth * depth_at_end)
    is_inside = first <= last and depth > wp.float64(0.0) and depth_at_end > wp.float64(0.0)
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
