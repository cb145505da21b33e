"""The kernels of rays in NVIDIA Warp's language, one thread a ray, a sample or a channel; `vqrf.kernels.warp` launches them.

Warp compiles these functions when they are first launched: for a graphics card, or for the CPU, where one thread does all.
A march is done twice: `count_samples` says how many live and shaded samples each ray has, and `write_samples` writes them
where the sums of these counts say, ray by ray and front to back. Notation: `vqrf.kernels`, and N rays, M live samples, S
shaded ones, V voxels, C channels. Whoever adds to one number from many threads does it by atomics, in no order.
"""

from __future__ import annotations

import warp as wp

from vqrf.kernels import STOP_TRANSMITTANCE
from vqrf.kernels.warp_march import NO_SIDE, Factors, Grid, Path, Place, distance_at, next_occupied, next_path, way_of

# No adjoints of Warp's: gradients are written out below.
wp.set_module_options({"enable_backward": False})

STOP = wp.constant(wp.float32(STOP_TRANSMITTANCE))
LARGEST_EXPONENT = wp.constant(wp.float32(80.0))  # exp stays finite; alpha is 1 long before
NOT_SHADED = wp.constant(wp.int32(-1))
PASSED_OVER = wp.constant(wp.int32(-2))


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
      spacing: of samples on a ray, by the longest way through the lattice.
      starts, counts: [2,N] where those of a ray start, and how many there are; the live and the shaded.
      voxel, share: [M] of the cell, and where in it.
      t, way, weight, left, slope: [M] distance, number among the samples that its ray could have, weight, transmittance behind
        the sample, slope of the optical depth.
      shaded: [M] number of the shaded sample that has a colour, or NOT_SHADED, or PASSED_OVER.
      live, ray, factor: [S] number of the live sample, and of the ray; what its weight counts times.
      owed_color: [N] what samples have that are passed over, or empty where none are.
    """

    spacing: wp.float32
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
    factor: wp.array(dtype=wp.float32)
    owed_color: wp.array(dtype=wp.vec3)


@wp.struct
class Roulette:
    """`vqrf.kernels.Roulette`; without chances every shaded sample has a colour."""

    weight: wp.float32
    chances: wp.array(dtype=wp.float32)


# ------------------------------------------------------------------------------------------------- samples of a ray


@wp.func
def is_looked_at(weights: wp.array(dtype=wp.float32), ray: int) -> wp.bool:
    """A ray of weight 0 is not; without weights all are."""
    if weights.shape[0] == 0:
        return True
    return weights[ray] != 0.0


@wp.func
def chance_of(roulette: Roulette, ray: int) -> float:
    """From which number on the shares of a ray's samples are added up."""
    if roulette.chances.shape[0] == 0:
        return 0.0
    return roulette.chances[ray]


@wp.func
def play(roulette: Roulette, weight: float, added_up: float):
    """What the weight of the next shaded sample counts times, 0 where it has no colour, and what is added up then."""
    factor = float(1.0)
    if roulette.chances.shape[0] != 0 and weight < roulette.weight:
        added_up += weight / roulette.weight
        factor = wp.where(added_up >= 1.0, roulette.weight / weight, 0.0)
        added_up = wp.where(added_up >= 1.0, added_up - 1.0, added_up)
    return factor, added_up


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
    roulette: Roulette,
    counts: wp.array2d(dtype=wp.int32),
    sums: wp.array2d(dtype=wp.float32),
):
    """Count each ray's live samples, and those with a colour [2,N], and say what else is known without one.

    `sums` [3,N] are the background weight, the depth, and what the target's colour counts.
    """
    ray = wp.tid()
    way = way_of(grid, origins[ray], directions[ray])
    way.side = wp.where(is_looked_at(weights, ray), way.side, NO_SIDE)
    light = float(1.0)
    distance = float(0.0)
    n_live = int(0)
    n_shaded = int(0)
    added_up = chance_of(roulette, ray)
    debt = float(0.0)
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
                    factor, sum = play(roulette, weight, added_up)
                    added_up = sum
                    debt += weight * (1.0 - factor)
                    if factor != 0.0:
                        n_shaded += 1
                distance += weight * distance_at(path, found.place.i)
                light = light * (1.0 - found.alpha)
    counts[0, ray] = n_live
    counts[1, ray] = n_shaded
    sums[0, ray] = light
    sums[1, ray] = distance
    sums[2, ray] = debt


@wp.kernel
def write_samples(
    grid: Grid,
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    weights: wp.array(dtype=wp.float32),
    roulette: Roulette,
    into: Samples,
):
    """March again, and write all but `starts` and `counts`, which are known."""
    ray = wp.tid()
    way = way_of(grid, origins[ray], directions[ray])
    way.side = wp.where(is_looked_at(weights, ray), way.side, NO_SIDE)
    light = float(1.0)
    added_up = chance_of(roulette, ray)
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
                    factor, sum = play(roulette, weight, added_up)
                    added_up = sum
                    if factor == 0.0:
                        into.shaded[live] = PASSED_OVER
                    else:
                        into.shaded[live] = shaded
                        into.live[shaded] = live
                        into.ray[shaded] = wp.int64(ray)
                        into.factor[shaded] = factor
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
        total += samples.weight[samples.live[shaded]] * samples.factor[shaded] * color[shaded]
    pixel[ray] = total


@wp.kernel
def measure_distortion(samples: Samples, distortion: wp.array(dtype=wp.float32)):
    """How far the weights of a ray's samples are apart, [N]; see `LossWeights`."""
    ray = wp.tid()
    weight = wp.float64(0.0)
    moment = wp.float64(0.0)
    total = wp.float64(0.0)
    for k in range(samples.counts[0, ray]):
        w, at = weight_and_way(samples, samples.starts[0, ray] + k)
        total += w * (wp.float64(2.0) * (at * weight - moment) + wp.float64(samples.spacing) / wp.float64(3.0) * w)
        weight += w
        moment += w * at
    distortion[ray] = wp.float32(total)


@wp.func
def weight_and_way(samples: Samples, i: int):
    return wp.float64(samples.weight[i]), wp.float64(samples.way[i]) * wp.float64(samples.spacing)


@wp.kernel
def differentiate_weights(
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
            w, at = weight_and_way(samples, samples.starts[0, ray] + k)
            weight_before += w
            moment_before += w * at
    weight_behind = wp.float64(0.0)
    moment_behind = wp.float64(0.0)
    for k in range(n):
        i = samples.starts[0, ray] + n - 1 - k
        d_weight = d_depth[ray] * samples.t[i]
        if d_distortion[ray] != 0.0:
            w, at = weight_and_way(samples, i)
            weight_before -= w
            moment_before -= w * at
            away = at * weight_before - moment_before + moment_behind - at * weight_behind
            d_weight += d_distortion[ray] * wp.float32(
                wp.float64(2.0) * (away + wp.float64(samples.spacing) / wp.float64(3.0) * w)
            )
            weight_behind += w
            moment_behind += w * at
        shaded = samples.shaded[i]
        if shaded >= 0:
            seen = color[shaded]
            if samples.owed_color.shape[0] != 0:
                seen = samples.factor[shaded] * (seen - samples.owed_color[ray]) + samples.owed_color[ray]
            d_weight += wp.dot(d_pixel[ray], seen)
            d_color[shaded] = d_color[shaded] + samples.weight[i] * samples.factor[shaded] * d_pixel[ray]
        elif shaded == PASSED_OVER:
            d_weight += wp.dot(d_pixel[ray], samples.owed_color[ray])
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
