"""A compressed field as a sparse pyramid: what the default preset writes. NumPy only.

    level 0      the voxels of the lattice that are not PRUNED
    level l + 1  every second node along each axis of those that level l hangs on, and the ones beside them
    parents      node (i,j,k) of level l hangs on the eight nodes (floor or ceil of i/2, of j/2, of k/2) of level l + 1
    value        V_L = Q_L,  V_l = Q_l + mean of the parents' V_(l+1);  density and latents are V_0

with Q_l the node's whole numbers times the steps of their channels. The mean of the parents is trilinear interpolation, so
that a smooth stretch of surface is said once, coarsely, and only what differs from it is said again. Cutting the finer
levels off leaves a smoother scene. FORMAT.md section 4 specifies it.

Source: the Laplacian pyramid (Burt and Adelson 1983) on the nodes that an octree would have.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from vqrf.codec.compressed import CODED, MAX_CHANNELS, PRUNED, Compressed, Int32
from vqrf.geometry import Float32
from vqrf.kernels import MAX_STEPS, Children

Int16 = NDArray[np.int16]

MAX_MAGNITUDE = MAX_STEPS
"""Largest magnitude of a coefficient."""
BYTES_OF_LINKS = 64
"""Bytes of a node, while its parents are found; and of the eight of them."""
MAX_LEVELS = 8
"""Levels above the lattice's own: 2^8 is a side of 4096 brought to 16."""


@dataclass(frozen=True, eq=False)
class Nodes:
    """One level of a pyramid.

    Attributes:
      selected: [x,y,z] bool, where there is a node; nodes are numbered in raster order.
      parents: [N,8] int32, the numbers of each node's parents in the next coarser level; empty [N,0] in the coarsest.
    """

    selected: NDArray[np.bool_]
    parents: Int32

    @property
    def n_nodes(self) -> int:
        return len(self.parents)


def coarser_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the level above: node i hangs on floor(i/2) and ceil(i/2).

    >>> coarser_shape((2, 5, 6))
    (2, 3, 4)
    """
    return tuple(side // 2 + 1 for side in shape)


def select_levels(occupied: NDArray[np.bool_], n_levels: int) -> list[NDArray[np.bool_]]:
    """Where the levels over the occupied voxels [X,Y,Z] have nodes, finest first: `n_levels` + 1 of them."""
    levels = [occupied]
    for _ in range(n_levels):
        levels.append(_halve(levels[-1]))
    return levels


def _halve(selected: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What the nodes hang on: along each axis an even one on i/2, an odd one on the two beside that.

    All axes at once: the lattice halved along one is half of what a great file has a budget for.
    """
    above = np.zeros(coarser_shape(selected.shape), bool)
    for odd in product((0, 1), repeat=3):
        nodes = selected[tuple(slice(one, None, 2) for one in odd)]
        for shift in product(*((0, 1)[: one + 1] for one in odd)):
            above[tuple(slice(by, by + side) for by, side in zip(shift, nodes.shape, strict=True))] |= nodes
    return above


def build_nodes(occupied: NDArray[np.bool_], n_levels: int) -> list[Nodes]:
    """The levels over the occupied voxels [X,Y,Z], finest first: `n_levels` + 1 of them."""
    masks = [np.ascontiguousarray(mask) for mask in select_levels(occupied, n_levels)]
    levels = []
    for selected, coarser in pairwise(masks):
        numbers = _number(coarser).ravel()
        strides = coarser.shape[1] * coarser.shape[2], coarser.shape[2], 1
        places = np.nonzero(selected)
        near = sum((place >> 1) * stride for place, stride in zip(places, strides, strict=True))
        beyond = [(place & 1) * stride for place, stride in zip(places, strides, strict=True)]
        parents = np.empty((len(places[0]), 8), np.int32)
        for k in range(8):
            parents[:, k] = numbers[near + sum(beyond[axis] for axis in range(3) if k >> (2 - axis) & 1)]
        levels.append(Nodes(selected, parents))
    return [*levels, Nodes(masks[-1], np.zeros((np.count_nonzero(masks[-1]), 0), np.int32))]


def _number(selected: NDArray[np.bool_]) -> Int32:
    """How many nodes stand before each place of [X,Y,Z] in raster order: its number. By slices: NumPy would copy all."""
    numbers = np.empty(selected.shape, np.int32)
    n_before = 0
    for nodes, here in zip(selected, numbers, strict=True):
        np.cumsum(nodes, dtype=np.int32, out=here.reshape(-1))
        last = int(here[-1, -1])
        here += np.int32(n_before - 1)  # numbers begin at 0; what stands where no node is has no meaning
        n_before += last
    return numbers


def children_of(parents: Int32, n_above: int) -> Children:
    """The links of a level, [N,8] of numbers below `n_above`, as its `n_above` parents see them."""
    n = len(parents)
    links, counts = np.unique(parents.astype(np.int64) * n + np.arange(n)[:, None], return_counts=True)
    parent, child = np.divmod(links, max(n, 1))
    first = np.searchsorted(parent, np.arange(n_above + 1))
    return Children(first.astype(np.int32), child.astype(np.int32), np.float32(counts / 8))


@dataclass(frozen=True, eq=False, repr=False)
class PyramidField(Compressed):
    """A compressed field whose voxels are a pyramid of whole numbers, all of them CODED or PRUNED.

    Args:
      coefficients: int16 [N_l, 1 + V] for each level, coarsest first; density is column 0, then come the latents; nodes are
        those of `build_nodes`. No magnitude is above `MAX_MAGNITUDE`.
      steps: [1 + V] float32, finite and positive.
      basis: [V,C] float32, features = latents @ basis; None where the latents are the features.
      lattice, partition, color_mlp, equation, empty_density, metadata: see `vqrf.codec.compressed.Compressed`.

    Raises:
      ValueError: a shape, a dtype or a value is not as said.
    """

    coefficients: tuple[Int16, ...]
    steps: Float32
    basis: Float32 | None

    def _check(self) -> None:
        if self.partition.max() > CODED:
            raise ValueError("partition: a value is none of PRUNED, CODED")
        if not 1 <= len(self.coefficients) <= MAX_LEVELS + 1:
            raise ValueError(f"coefficients: expected 1..9 levels, got {len(self.coefficients)}")
        if self.steps.dtype != np.float32 or self.steps.ndim != 1 or not 2 <= len(self.steps) <= MAX_CHANNELS + 1:
            raise ValueError(f"steps: expected float32 [2..65], got {self.steps.dtype} {list(self.steps.shape)}")
        if not (np.isfinite(self.steps).all() and (self.steps > 0).all()):
            raise ValueError("steps: expected finite positive values")
        self._check_basis()
        levels = select_levels(self.partition.view(np.bool_), self.n_levels)[::-1]  # no copy: it is 0 and 1
        for selected, level in zip(levels, self.coefficients, strict=True):
            expected = (int(np.count_nonzero(selected)), len(self.steps))
            if level.dtype != np.int16 or level.shape != expected:
                raise ValueError(f"coefficients: expected int16 {list(expected)}, got {level.dtype} {list(level.shape)}")
            if level.size and max(int(level.max()), -int(level.min())) > MAX_MAGNITUDE:
                raise ValueError(f"coefficients: a magnitude is above {MAX_MAGNITUDE}")

    def _check_basis(self) -> None:
        if self.basis is None:
            return
        n_latents = len(self.steps) - 1
        if self.basis.dtype != np.float32 or self.basis.ndim != 2 or len(self.basis) != n_latents:
            raise ValueError(f"basis: expected float32 [{n_latents},C], got {self.basis.dtype} {list(self.basis.shape)}")
        if not 1 <= self.basis.shape[1] <= MAX_CHANNELS or not np.isfinite(self.basis).all():
            raise ValueError("basis: expected 1..64 columns of finite values")

    @property
    def n_channels(self) -> int:
        return len(self.steps) - 1 if self.basis is None else int(self.basis.shape[1])

    @property
    def n_levels(self) -> int:
        """Levels above the lattice's own."""
        return len(self.coefficients) - 1

    def nodes(self) -> list[Nodes]:
        """The levels, finest first."""
        return build_nodes(self.partition.view(np.bool_), self.n_levels)

    def values_bytes(self) -> int:
        n_nodes = sum(map(len, self.coefficients))
        per_voxel = BYTES_OF_LINKS + 16 * len(self.steps) + 4 * self.n_channels
        return 2 * self.partition.size + n_nodes * BYTES_OF_LINKS + len(self.coefficients[-1]) * per_voxel

    def voxel_values(self) -> tuple[Float32, Float32]:
        """Density [N] and features [N,C] of the voxels that are not PRUNED, in raster order."""
        nodes = self.nodes()
        values = self.steps * self.coefficients[0].astype(np.float32)
        for finer, level in zip(nodes[-2::-1], self.coefficients[1:], strict=True):
            above = sum(values[finer.parents[:, k]] for k in range(8))
            values = self.steps * level.astype(np.float32) + np.float32(0.125) * above
        latents = values[:, 1:]
        return values[:, 0], latents if self.basis is None else latents @ self.basis

    def restrict(self, wanted: NDArray[np.bool_]) -> PyramidField:
        """The same without the voxels that are not among [X,Y,Z]; the values of the others stay."""
        partition = np.where(wanted, self.partition, np.uint8(PRUNED))
        before, after = (select_levels(here != PRUNED, self.n_levels)[::-1] for here in (self.partition, partition))
        levels = zip(before, after, self.coefficients, strict=True)
        coefficients = tuple(level[stays[there]] for there, stays, level in levels)
        return replace(self, partition=partition, coefficients=coefficients)

    def sizes(self) -> dict[str, int]:
        return {"levels": self.n_levels + 1}
