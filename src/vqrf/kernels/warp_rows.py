"""The kernels of arrays in NVIDIA Warp's language, one thread a number; `vqrf.kernels.warp_arrays` launches them.

`vqrf.kernels.reference` says what each makes; here it says what is not there. Arrays [X,Y,Z] are flat, and those [X,Y,Z,C] are
[V,C]. An empty array stands for one that is None.
"""

from __future__ import annotations

import warp as wp

from vqrf.kernels import BITS_UNIT, FIRST_STEP, MAX_STEPS, SKIP_BLOCK
from vqrf.kernels.warp_march import Factors
from vqrf.kernels.warp_rays import cell_of

wp.set_module_options({"enable_backward": False})

BLOCK = wp.constant(SKIP_BLOCK)
FARTHEST = wp.constant(wp.int32(255))
MOST_WHOLE = wp.constant(wp.float32(MAX_STEPS))
OF_BITS = wp.constant(wp.float32(BITS_UNIT))
FROM_ZERO = wp.constant(wp.float32(FIRST_STEP))


@wp.func
def is_marked(marks: wp.array(dtype=wp.uint8), row: int) -> wp.bool:
    """Whether a row is to be looked at; all are, if there are no marks."""
    if marks.shape[0] == 0:
        return True
    return marks[row] != wp.uint8(0)


# ------------------------------------------------------------------------------------------------------ rays of pixels


@wp.kernel
def pixel_rays(
    pixels: wp.array(dtype=wp.int64),
    starts: wp.array(dtype=wp.int64),
    widths: wp.array(dtype=wp.int64),
    pinholes: wp.array2d(dtype=wp.float64),
    poses: wp.array3d(dtype=wp.float64),
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
):
    """In float64; a number that no view has is taken for the nearest that one has."""
    i = wp.tid()
    n_views = widths.shape[0]
    number = wp.clamp(pixels[i], wp.int64(0), starts[n_views] - wp.int64(1))
    view = int(0)
    beyond = int(n_views)
    while beyond - view > 1:
        middle = (view + beyond) / 2
        if starts[middle] <= number:
            view = middle
        else:
            beyond = middle
    local = number - starts[view]
    half = wp.float64(0.5)
    x = (wp.float64(local % widths[view]) + half - pinholes[view, 2]) / pinholes[view, 0]
    y = (wp.float64(local / widths[view]) + half - pinholes[view, 3]) / pinholes[view, 1]
    direction = wp.vec3d()
    for axis in range(3):
        direction[axis] = poses[view, axis, 0] * x - poses[view, axis, 1] * y - poses[view, axis, 2]
    direction = direction / wp.length(direction)
    origins[i] = wp.vec3(wp.float32(poses[view, 0, 3]), wp.float32(poses[view, 1, 3]), wp.float32(poses[view, 2, 3]))
    directions[i] = wp.vec3(wp.float32(direction[0]), wp.float32(direction[1]), wp.float32(direction[2]))


# ------------------------------------------------------------------------------------------------ what may be skipped


@wp.kernel
def find_cells(
    shape: wp.vec3i,
    density: wp.array(dtype=wp.float32),
    floor: float,
    allowed: wp.array(dtype=wp.uint8),
    cells: wp.array(dtype=wp.uint8),
):
    """One thread a cell. A cell with a corner that is no number is not occupied."""
    number = wp.tid()
    cell = cell_of(shape - wp.vec3i(1, 1, 1), number)
    is_above = bool(False)
    is_number = bool(True)
    for corner in range(8):
        x = cell[0] + corner / 4
        y = cell[1] + corner / 2 % 2
        value = density[(x * shape[1] + y) * shape[2] + cell[2] + corner % 2]
        if value > floor:
            is_above = True
        if value != value:
            is_number = False
    cells[number] = wp.uint8(0)
    if is_above and is_number and is_marked(allowed, number):
        cells[number] = wp.uint8(1)


@wp.kernel
def find_blocks(shape: wp.vec3i, cells: wp.array(dtype=wp.uint8), blocks: wp.vec3i, distance: wp.array(dtype=wp.uint8)):
    """0 for a block with an occupied cell, else `FARTHEST`; one thread a block."""
    number = wp.tid()
    block = cell_of(blocks, number)
    found = int(FARTHEST)
    for x in range(block[0] * BLOCK, wp.min((block[0] + 1) * BLOCK, shape[0])):
        for y in range(block[1] * BLOCK, wp.min((block[1] + 1) * BLOCK, shape[1])):
            for z in range(block[2] * BLOCK, wp.min((block[2] + 1) * BLOCK, shape[2])):
                if cells[(x * shape[1] + y) * shape[2] + z] != wp.uint8(0):
                    found = 0
    distance[number] = wp.uint8(found)


@wp.kernel
def reach_along(blocks: wp.vec3i, axis: int, before: wp.array(dtype=wp.uint8), after: wp.array(dtype=wp.uint8)):
    """Take a further axis into the distances: the nearest of a block's line, by the farther of the two ways."""
    number = wp.tid()
    at = cell_of(blocks, number)[axis]
    stride = int(1)
    for further in range(axis + 1, 3):
        stride *= blocks[further]
    nearest = int(FARTHEST)
    for other in range(blocks[axis]):
        way = wp.abs(other - at)
        if way < nearest:
            nearest = wp.min(nearest, wp.max(way, int(before[number + (other - at) * stride])))
    after[number] = wp.uint8(nearest)


# ------------------------------------------------------------------------------------------------------- optimisation


@wp.struct
class Adam:
    """The constants of a step: `ADAM_BETAS`, `ADAM_EPSILON`, and what moments so young are to be multiplied with."""

    rate: wp.float32
    b1: wp.float32
    b2: wp.float32
    scale_first: wp.float32
    scale_second: wp.float32
    epsilon: wp.float32


@wp.kernel
def masked_adam(
    values: wp.array2d(dtype=wp.float32),
    gradient: wp.array2d(dtype=wp.float32),
    first: wp.array2d(dtype=wp.float32),
    second: wp.array2d(dtype=wp.float32),
    touched: wp.array(dtype=wp.uint8),
    rates: wp.array(dtype=wp.float32),
    adam: Adam,
):
    """One step, and the gradient is 0. No `touched`: of all rows. No `rates`: of all rows the same."""
    row, column = wp.tid()
    if touched.shape[0] > 0:
        if touched[row] == wp.uint8(0):
            return
    g = gradient[row, column]
    if g == 0.0:
        return
    m = adam.b1 * first[row, column] + (1.0 - adam.b1) * g
    v = adam.b2 * second[row, column] + (1.0 - adam.b2) * g * g
    first[row, column] = m
    second[row, column] = v
    speed = m * adam.scale_first / (wp.sqrt(v * adam.scale_second) + adam.epsilon)
    if rates.shape[0] > 0:
        speed = rates[row] * speed
    values[row, column] = values[row, column] - adam.rate * speed
    gradient[row, column] = 0.0


@wp.kernel
def add_total_variation(
    shape: wp.vec3i,
    values: wp.array2d(dtype=wp.float32),
    gradient: wp.array2d(dtype=wp.float32),
    touched: wp.array(dtype=wp.uint8),
    weight: float,
):
    voxel, channel = wp.tid()
    if not is_marked(touched, voxel):
        return
    cell = cell_of(shape, voxel)
    value = values[voxel, channel]
    slope = float(0.0)
    stride = shape[1] * shape[2]
    for axis in range(3):
        if cell[axis] > 0:
            slope += wp.clamp(value - values[voxel - stride, channel], -1.0, 1.0)
        if cell[axis] < shape[axis] - 1:
            slope -= wp.clamp(values[voxel + stride, channel] - value, -1.0, 1.0)
        stride = wp.where(axis == 0, shape[2], 1)
    gradient[voxel, channel] = gradient[voxel, channel] + weight * slope


@wp.kernel
def add_sparsity(
    values: wp.array2d(dtype=wp.float32),
    gradient: wp.array2d(dtype=wp.float32),
    touched: wp.array(dtype=wp.uint8),
    weight: float,
):
    """One thread a number of the first columns."""
    row, column = wp.tid()
    value = values[row, column]
    if value != 0.0 and is_marked(touched, row):
        gradient[row, column] = gradient[row, column] + wp.where(value > 0.0, weight, -weight)


# -------------------------------------------------------------------------------------------------------------- codes


@wp.kernel
def assign_codes(
    vectors: wp.array2d(dtype=wp.float32),
    codebook: wp.array2d(dtype=wp.float32),
    codes: wp.array(dtype=wp.int32),
    distances: wp.array(dtype=wp.float32),
):
    """One thread a vector."""
    i = wp.tid()
    nearest = int(0)
    least = float(wp.inf)
    for word in range(codebook.shape[0]):
        distance = float(0.0)
        for channel in range(codebook.shape[1]):
            off = vectors[i, channel] - codebook[word, channel]
            distance += off * off
        if distance < least:
            least = distance
            nearest = word
    codes[i] = nearest
    distances[i] = least


@wp.kernel
def sum_by_code(
    values: wp.array2d(dtype=wp.float64),
    weights: wp.array(dtype=wp.float64),
    codes: wp.array(dtype=wp.int32),
    sums: wp.array2d(dtype=wp.float64),
    totals: wp.array(dtype=wp.float64),
):
    i, channel = wp.tid()
    wp.atomic_add(sums, codes[i], channel, weights[i] * values[i, channel])
    if channel == 0:
        wp.atomic_add(totals, codes[i], weights[i])


@wp.kernel
def tie_gradients(
    gradient: wp.array2d(dtype=wp.float32),
    rows: wp.array(dtype=wp.int32),
    touched: wp.array(dtype=wp.uint8),
    table: wp.array2d(dtype=wp.float32),
):
    voxel, channel = wp.tid()
    row = rows[voxel]
    if row >= 0 and touched[voxel] != wp.uint8(0):
        wp.atomic_add(table, row, channel, gradient[voxel, channel])
        gradient[voxel, channel] = 0.0


# ------------------------------------------------------------------------------------------------------------ pyramids


@wp.kernel
def raise_level(fine: wp.array2d(dtype=wp.float32), coarse: wp.array2d(dtype=wp.float32), parents: wp.array2d(dtype=wp.int32)):
    node, channel = wp.tid()
    total = float(0.0)
    for k in range(8):
        total += coarse[parents[node, k], channel]
    fine[node, channel] = fine[node, channel] + total / 8.0


@wp.kernel
def lower_gradient(
    fine: wp.array2d(dtype=wp.float32),
    coarse: wp.array2d(dtype=wp.float32),
    first: wp.array(dtype=wp.int32),
    child: wp.array(dtype=wp.int32),
    share: wp.array(dtype=wp.float32),
):
    """One thread a number of a parent, which adds its children in order."""
    parent, channel = wp.tid()
    total = float(0.0)
    for k in range(first[parent], first[parent + 1]):
        total += share[k] * fine[child[k], channel]
    coarse[parent, channel] = coarse[parent, channel] + total


@wp.kernel
def move_gradients(
    gradient: wp.array2d(dtype=wp.float32),
    voxels: wp.array(dtype=wp.int64),
    touched: wp.array(dtype=wp.uint8),
    matrix: wp.array2d(dtype=wp.float32),
    rows: wp.array2d(dtype=wp.float32),
):
    """Without clearing, which `clear_rows` does when all have read."""
    i, channel = wp.tid()
    voxel = int(voxels[i])
    if touched[voxel] == wp.uint8(0):
        return
    total = float(0.0)
    if matrix.shape[0] > 0:
        for k in range(matrix.shape[0]):
            total += gradient[voxel, k] * matrix[k, channel]
    else:
        total = gradient[voxel, channel]
    rows[i, channel] = total


@wp.kernel
def clear_rows(gradient: wp.array2d(dtype=wp.float32), voxels: wp.array(dtype=wp.int64), touched: wp.array(dtype=wp.uint8)):
    i, channel = wp.tid()
    voxel = int(voxels[i])
    if touched[voxel] != wp.uint8(0):
        gradient[voxel, channel] = 0.0


@wp.kernel
def place_rows(
    values: wp.array2d(dtype=wp.float32),
    scales: wp.array(dtype=wp.float32),
    places: wp.array(dtype=wp.int64),
    table: wp.array2d(dtype=wp.float32),
):
    i, channel = wp.tid()
    table[int(places[i]), channel] = values[i, channel] * scales[channel]


@wp.kernel
def take_rows(
    table: wp.array2d(dtype=wp.float32),
    scales: wp.array(dtype=wp.float32),
    places: wp.array(dtype=wp.int64),
    values: wp.array2d(dtype=wp.float32),
):
    i, channel = wp.tid()
    place = int(places[i])
    values[i, channel] = table[place, channel] * scales[channel]
    table[place, channel] = 0.0


@wp.kernel
def round_to_steps(
    values: wp.array2d(dtype=wp.float32), steps: wp.array(dtype=wp.float32), edge: float, rounded: wp.array2d(dtype=wp.float32)
):
    """`edge` is 1/2 - dead_zone. To the reference's bits."""
    row, channel = wp.tid()
    value = values[row, channel]
    whole = wp.min(wp.floor(wp.abs(value) / steps[channel] + edge), MOST_WHOLE)
    found = whole * steps[channel]
    rounded[row, channel] = wp.where(value < 0.0, -found, found)


@wp.kernel
def add_rate_gradient(
    values: wp.array2d(dtype=wp.float32),
    steps: wp.array(dtype=wp.float32),
    first_bits: wp.array2d(dtype=wp.uint8),
    weight: float,
    gradient: wp.array2d(dtype=wp.float32),
):
    row, channel = wp.tid()
    value = values[row, channel]
    if value == 0.0:
        return
    size = wp.abs(value)
    step = steps[channel]
    share = size / (step * FROM_ZERO)
    squared = share * share
    factor = 1.0 + (wp.float32(first_bits[row, channel]) * OF_BITS - 1.0) / (1.0 + squared * squared)
    slope = weight / (step + size) * factor
    gradient[row, channel] = gradient[row, channel] + wp.where(value < 0.0, -slope, slope)


# ------------------------------------------------------------------------------------------------------------- factors


@wp.func
def product_at(factors: Factors, shape: wp.vec3i, voxel: int, plane: int, component: int) -> float:
    """A component of a plane times that of its line, at a voxel. Axes: `PLANE_AXES`."""
    cell = cell_of(shape, voxel)
    if plane == 0:
        return factors.plane_0[cell[0] * shape[1] + cell[1], component] * factors.line_0[cell[2], component]
    if plane == 1:
        return factors.plane_1[cell[0] * shape[2] + cell[2], component] * factors.line_1[cell[1], component]
    return factors.plane_2[cell[1] * shape[2] + cell[2], component] * factors.line_2[cell[0], component]


@wp.kernel
def expand_density(
    factors: Factors, shape: wp.vec3i, n_density: int, marks: wp.array(dtype=wp.uint8), density: wp.array(dtype=wp.float32)
):
    voxel = wp.tid()
    if marks[voxel] == wp.uint8(0):
        return
    total = float(0.0)
    for plane in range(3):
        for component in range(n_density):
            total += product_at(factors, shape, voxel, plane, component)
    density[voxel] = total


@wp.kernel
def expand_features(
    factors: Factors,
    shape: wp.vec3i,
    n_density: int,
    mix: wp.array3d(dtype=wp.float32),
    marks: wp.array(dtype=wp.uint8),
    features: wp.array2d(dtype=wp.float32),
):
    voxel, channel = wp.tid()
    if marks[voxel] == wp.uint8(0):
        return
    total = float(0.0)
    for plane in range(3):
        for component in range(mix.shape[1]):
            product = product_at(factors, shape, voxel, plane, n_density + component)
            total += product * mix[plane, component, channel]
    features[voxel, channel] = total
