"""Sums in a fixed order, in the place of atomics, in NVIDIA Warp's language: slower, and the same to the bit in every run.

What is added where is listed first: for each sample of `live` [K] its n targets [K,n], -1 for none, and its share in each. The
list is sorted by target, equal ones by their place in it, and one thread adds all that goes to one number.
`vqrf.kernels.warp_arrays.add_in_order` does that; `vqrf.kernels.warp_rays` says what samples and factors are.
"""

from __future__ import annotations

from typing import Any

import warp as wp

from vqrf.kernels.warp_march import Grid
from vqrf.kernels.warp_rays import (
    Samples,
    corner_share,
    corner_voxel,
    line_end,
    on_line,
    on_plane,
    place_of,
    plane_corner,
)

wp.set_module_options({"enable_backward": False})

NO_TARGET = wp.constant(wp.int32(-1))


@wp.kernel
def list_corners(
    shape: wp.vec3i,
    samples: Samples,
    live: wp.array(dtype=wp.int32),
    rows: wp.array(dtype=wp.int32),
    targets: wp.array2d(dtype=wp.int32),
    shares: wp.array2d(dtype=wp.float32),
):
    """The 8 voxels around each sample; a pruned one is no target."""
    k = wp.tid()
    sample = live[k]
    for corner in range(8):
        voxel = corner_voxel(shape, samples.voxel[sample], corner)
        targets[k, corner] = voxel
        if rows.shape[0] > 0:
            if rows[voxel] < 0:
                targets[k, corner] = NO_TARGET
        shares[k, corner] = corner_share(samples.share[sample], corner)


@wp.kernel
def list_rows(
    shape: wp.vec3i,
    samples: Samples,
    live: wp.array(dtype=wp.int32),
    plane: int,
    targets: wp.array2d(dtype=wp.int32),
    shares: wp.array2d(dtype=wp.float32),
):
    """The 4 rows of a plane around each sample."""
    k = wp.tid()
    place = place_of(samples, live[k])
    for corner in range(4):
        row, share = plane_corner(shape, place, plane, corner)
        targets[k, corner] = row
        shares[k, corner] = share


@wp.kernel
def list_entries(
    shape: wp.vec3i,
    samples: Samples,
    live: wp.array(dtype=wp.int32),
    plane: int,
    targets: wp.array2d(dtype=wp.int32),
    shares: wp.array2d(dtype=wp.float32),
):
    """The 2 entries of a plane's line."""
    k = wp.tid()
    place = place_of(samples, live[k])
    for end in range(2):
        entry, share = line_end(shape, place, plane, end)
        targets[k, end] = entry
        shares[k, end] = share


@wp.kernel
def differentiate_factors(
    grid: Grid,
    samples: Samples,
    live: wp.array(dtype=wp.int32),
    slopes: wp.array3d(dtype=wp.float32),
    first: int,
    by_plane: wp.array3d(dtype=wp.float32),
    by_line: wp.array3d(dtype=wp.float32),
):
    """From the slopes [K,3,n] by products of components `first` to `first + n - 1` to those by planes and by lines [3,K,n]."""
    k, plane, component = wp.tid()
    place = place_of(samples, live[k])
    slope = slopes[k, plane, component]
    by_plane[plane, k, component] = slope * on_line(grid, place, plane, first + component)
    by_line[plane, k, component] = slope * on_plane(grid, place, plane, first + component)


@wp.kernel
def mark(targets: wp.array(dtype=wp.int32), touched: wp.array(dtype=wp.uint8)):
    target = targets[wp.tid()]
    if target != NO_TARGET:
        touched[target] = wp.uint8(1)


@wp.kernel
def add_in_order(
    targets: wp.array(dtype=wp.int32),
    order: wp.array(dtype=wp.int64),
    shares: wp.array(dtype=Any),
    values: wp.array2d(dtype=Any),
    per_value: int,
    first: int,
    into: wp.array2d(dtype=Any),
):
    """Add to the columns `first` and on of row t of `into` all shares[i] * values[i / per_value] that have the target t.

    Args:
      targets: [T], sorted; order: [T] where they were before, as the shares [T] still are.
      values: [T / per_value, C].
    """
    at, column = wp.tid()
    target = targets[at]
    if target == NO_TARGET:
        return
    if at > 0:
        if targets[at - 1] == target:
            return
    number = int(order[at])
    total = shares[number] * values[number / per_value, column]
    following = int(at + 1)
    while following < targets.shape[0]:
        if targets[following] != target:
            break
        number = int(order[following])
        total += shares[number] * values[number / per_value, column]
        following += 1
    into[target, first + column] = into[target, first + column] + total


for kind in (wp.float32, wp.float64):
    wp.overload(
        add_in_order, {"shares": wp.array(dtype=kind), "values": wp.array2d(dtype=kind), "into": wp.array2d(dtype=kind)}
    )
