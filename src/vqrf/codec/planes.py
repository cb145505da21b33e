"""A compressed field as planes and lines: a factored field, coded as what it is. NumPy only.

Version 3 of the format.

    shadow       of the voxels that are not PRUNED, on the two axes of a plane, or on the axis of a line: what the plane, or the
                 line, is asked for
    levels       over each shadow a pyramid as over voxels (`vqrf.codec.pyramid`): a shadow is a lattice [A,B,1] or [N,1,1]
    value        of a plane or a line at a place, its components: the sum of the pyramid's whole numbers, times their steps
    voxel        density and features are sums of products of these, see `vqrf.kernels.FactorArrays`

FORMAT.md sections 4 and 6 specify it.

Source: TensoRF (arXiv 2203.09517) for planes and lines; Masked Wavelet Representation (arXiv 2212.09069) for coding them as
images. Departs from it: a pyramid in the place of a wavelet, contexts in the place of runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vqrf.codec.compressed import CODED, MAX_CHANNELS, Compressed, Table, Uint8, float_table, items_of
from vqrf.codec.pyramid import BYTES_OF_LINKS, MAX_LEVELS, MAX_MAGNITUDE, Int16, build_nodes, select_levels
from vqrf.geometry import Float32
from vqrf.kernels import PLANE_AXES, FactorArrays

MAX_COMPONENTS = 256
"""Of a plane, for density and for features each. TensoRF's own settings have 16 and 48."""

MAX_PRODUCTS = 1 << 35
"""Products of a field's planes and lines, and of these and its mix, that are summed up to draw it: half a minute."""

VOXELS_AT_ONCE = 1 << 14
"""Voxels whose products there are at a time."""

Stack = tuple[Int16, ...]
"""The coefficients [N_l,R] of one shadow, coarsest level first."""
Three = tuple[Float32, Float32, Float32]


def shadows(partition: Uint8) -> tuple[list[NDArray[np.bool_]], list[NDArray[np.bool_]]]:
    """Of the voxels that are not PRUNED: [A,B,1] of each plane and [N,1,1] of each line, as lattices.

    >>> planes, lines = shadows(np.eye(2, dtype=np.uint8)[:, :, None] * np.uint8([[[1, 0, 1]]]))
    >>> [shadow.shape for shadow in (*planes, *lines)]
    [(2, 2, 1), (2, 3, 1), (2, 3, 1), (3, 1, 1), (2, 1, 1), (2, 1, 1)]
    >>> lines[0].ravel().tolist()
    [True, False, True]
    """
    planes = [np.logical_or.reduce(partition, axis=c)[..., None] for _, _, c in PLANE_AXES]
    lines = [np.logical_or.reduce(planes[p], axis=other).reshape(-1, 1, 1) for p, other in ((1, 0), (0, 0), (0, 1))]
    return planes, lines


def products_fault(n_voxels: int, n_components: int, mix: tuple[int, ...]) -> str | None:
    """Why so many voxels are not drawn from so many components a plane and a mix [3 R_f,C]; None where they are."""
    n_products = n_voxels * (3 * n_components - mix[0] + math.prod(mix))
    if n_products <= MAX_PRODUCTS:
        return None
    return f"planes: {n_voxels} voxels take {n_products} products, more than can be summed up in time"


def count_nodes(masks: list[NDArray[np.bool_]], n_levels: int) -> list[list[int]]:
    """How many nodes there are over each mask, for each of `n_levels` + 1 levels, coarsest first."""
    return [[int(np.count_nonzero(level)) for level in select_levels(mask, n_levels)[::-1]] for mask in masks]


@dataclass(frozen=True, eq=False, repr=False)
class PlanesField(Compressed):
    """A compressed field whose voxels are products of planes and lines, all of them CODED or PRUNED.

    Args:
      planes, lines: of each of the three, int16 [N_l,R] for each level, coarsest first; components of density come before
        those of features; nodes are those of `build_nodes` over the `shadows`. No magnitude is above `MAX_MAGNITUDE`.
      plane_steps, line_steps: [3,R] float32, finite and positive.
      mix: [3 R_f, C], a table: what each component of features adds to the channels.
      lattice, partition, color_mlp, equation, empty_density, metadata: see `vqrf.codec.compressed.Compressed`.

    Raises:
      ValueError: a shape, a dtype or a value is not as said.
    """

    planes: tuple[Stack, ...]
    lines: tuple[Stack, ...]
    plane_steps: Float32
    line_steps: Float32
    mix: Table

    def _check(self) -> None:
        if self.lattice.space is not None:
            raise ValueError("planes: expected a field in a box")
        if self.partition.max() > CODED:
            raise ValueError("partition: a value is none of PRUNED, CODED")
        rows = items_of(self.mix).shape
        if len(rows) != 2 or rows[0] % 3 or not 1 <= rows[0] // 3 <= MAX_COMPONENTS or not 1 <= rows[1] <= MAX_CHANNELS:
            raise ValueError(f"mix: expected [3 R_f,C] with R_f of 1..{MAX_COMPONENTS} and C of 1..64, got {list(rows)}")
        rank = self.plane_steps.shape[-1]
        if not 1 <= rank - rows[0] // 3 <= MAX_COMPONENTS:
            raise ValueError(f"plane_steps: expected 1..{MAX_COMPONENTS} components of density, got {rank - rows[0] // 3}")
        for name, steps in (("plane_steps", self.plane_steps), ("line_steps", self.line_steps)):
            if steps.dtype != np.float32 or steps.shape != (3, rank):
                raise ValueError(f"{name}: expected float32 [3,{rank}], got {steps.dtype} {list(steps.shape)}")
            if not (np.isfinite(steps).all() and (steps > 0).all()):
                raise ValueError(f"{name}: expected finite positive values")
        for name, stacks, masks in zip(("planes", "lines"), (self.planes, self.lines), shadows(self.partition), strict=True):
            _check_stacks(name, stacks, masks, rank)

    @property
    def n_channels(self) -> int:
        return int(items_of(self.mix).shape[1])

    @property
    def n_components(self) -> int:
        """Of each plane, of density and features together."""
        return int(self.plane_steps.shape[1])

    def factors(self) -> FactorArrays:
        """Planes, lines and mix, 0 where nothing is asked for."""
        made: list[list[Float32]] = []
        for stacks, steps, masks in zip(
            (self.planes, self.lines), (self.plane_steps, self.line_steps), shadows(self.partition), strict=True
        ):
            made.append([_values(mask, stack) * step for mask, stack, step in zip(masks, stacks, steps, strict=True)])
        (xy, xz, yz), (z, y, x) = ([array[:, :, 0] for array in made[0]], [array[:, 0, 0] for array in made[1]])
        return FactorArrays((xy, xz, yz), (z, y, x), float_table(self.mix).reshape(3, -1, self.n_channels))

    def work_fault(self) -> str | None:
        return products_fault(self.n_coded, self.n_components, items_of(self.mix).shape)

    def values_bytes(self) -> int:
        x, y, z = self.lattice.shape
        n_places = x * y + x * z + y * z + x + y + z
        of_voxels = self.n_coded * (4 * (1 + self.n_channels) + 24)
        return 8 * self.n_components * (n_places + 2 * VOXELS_AT_ONCE) + BYTES_OF_LINKS * n_places + of_voxels

    def voxel_values(self) -> tuple[Float32, Float32]:
        """Density [N] and features [N,C] of the voxels that are not PRUNED, in raster order."""
        factors, places = self.factors(), np.argwhere(self.partition)
        n_density = self.n_components - factors.mix.shape[1]
        density, features = np.zeros(len(places), np.float32), np.zeros((len(places), self.n_channels), np.float32)
        for start in range(0, len(places), VOXELS_AT_ONCE):
            some = slice(start, start + VOXELS_AT_ONCE)
            here = places[some].T
            for (a, b, c), plane, line, by_channel in zip(PLANE_AXES, factors.planes, factors.lines, factors.mix, strict=True):
                products = plane[here[a], here[b]] * line[here[c]]
                density[some] += products[:, :n_density].sum(1)
                features[some] += products[:, n_density:] @ by_channel
        return density, features

    def sizes(self) -> dict[str, int]:
        return {"components a plane": self.n_components}


def _check_stacks(name: str, stacks: tuple[Stack, ...], masks: list[NDArray[np.bool_]], rank: int) -> None:
    """Raise ValueError unless coefficients are those of pyramids of equally many levels over the masks."""
    n_levels = {len(stack) for stack in stacks}
    if len(stacks) != 3 or len(n_levels) != 1 or not 1 <= (n := n_levels.pop()) <= MAX_LEVELS + 1:
        raise ValueError(f"{name}: expected three of 1..9 levels, got {[len(stack) for stack in stacks]}")
    for stack, counts in zip(stacks, count_nodes(masks, n - 1), strict=True):
        for level, count in zip(stack, counts, strict=True):
            if level.dtype != np.int16 or level.shape != (count, rank):
                raise ValueError(f"{name}: expected int16 {[count, rank]}, got {level.dtype} {list(level.shape)}")
            if level.size and max(int(level.max()), -int(level.min())) > MAX_MAGNITUDE:
                raise ValueError(f"{name}: a magnitude is above {MAX_MAGNITUDE}")


def _values(mask: NDArray[np.bool_], stack: Stack) -> Float32:
    """What the levels over a mask [x,y,z] add up to, [x,y,z,R] in steps; 0 elsewhere."""
    nodes = build_nodes(mask, len(stack) - 1)[::-1]
    values = stack[0].astype(np.float32)
    for (_, finer), level in zip(pairwise(nodes), stack[1:], strict=True):
        values = level.astype(np.float32) + np.float32(0.125) * sum(values[finer.parents[:, k]] for k in range(8))
    whole = np.zeros((*mask.shape, values.shape[1]), np.float32)
    whole[mask] = values
    return whole
