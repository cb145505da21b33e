"""What the readers of DirectVoxGO's models share: arguments, colour networks, and the mask of cells that may hold anything."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vqrf.fields.field import Layers, RadianceField, dense_bytes
from vqrf.geometry import Float32, Float64, Lattice
from vqrf.interop.parts import Parts, Sampling, highest, lattice_of
from vqrf.interop.values import Refused
from vqrf.kernels.constants import Equation
from vqrf.memory import expect_room

LAYER_KEY = re.compile(r"rgbnet\.(\d{1,3})(?:\.0)?\.weight")
SMALLEST_THRESHOLD = 1e-7
"""Threshold in place of 0, which some files have: ours is above 0."""

MASK, MAX_MASK_SIDE = "mask_cache.mask", 8192
QUARTERS = np.stack(np.meshgrid(*[(0.25, 0.75)] * 3, indexing="ij"), -1).reshape(-1, 3)
"""Points of a cell, one in each of the 8 parts that belong to its voxels."""


class DvgoParts(Parts):
    """The arguments and the state of a model of DirectVoxGO, and what neither says."""

    space: ClassVar[str] = "box"
    mask_sizes: ClassVar[tuple[float, float, float]] = (1.0, 1.0, 1.0)
    """Places for one unit of what the mask is measured in."""

    def __init__(self, arguments: Any, state: Any, sampling: Sampling) -> None:
        super().__init__(arguments, state)
        self.sampling = sampling
        sampling.expect_said_by_file(self.space)
        if sampling.norm is not None and self.space != "unbounded":
            raise Refused("--contraction: is for unbounded scenes, and this is none")

    def box(self) -> tuple[Float64, Float64]:
        low, high = (self.array(key, 1).astype(np.float64) for key in ("xyz_min", "xyz_max"))
        if low.shape != (3,) or high.shape != (3,) or not (low < high).all():
            raise Refused("xyz_min, xyz_max: expected the corners of a box")
        return low, high

    def lattice(self, shape: tuple[int, ...]) -> Lattice:
        """The lattice of the grids as they are stored."""
        low, high = self.box()
        return lattice_of(low, high, shape)

    def placed_lattice(self, lattice: Lattice) -> Lattice:
        """The lattice of the field that is made of one on the lattice of the grids."""
        return lattice

    def placed(self, field: RadianceField, max_bytes: int | None) -> RadianceField:
        """The field that is made of one on the lattice of the grids."""
        return field

    def density(self, key: str) -> Float32:
        """[X,Y,Z] raw, before the bias."""
        density: Float32 = self.floats(key, 5)[0, 0]
        return density

    def density_bias(self) -> float:
        if "act_shift" in self.state:
            if self.shape("act_shift", 1) != (1,):
                raise Refused("act_shift: expected one value")
            return float(self.array("act_shift", 1)[0])
        if "act_shift" in self.arguments:
            return self.number("act_shift")
        alpha = self.number("alpha_init")
        if not 0 < alpha < 1 or 1 / (1 - alpha) <= 1:
            raise Refused(f"model_kwargs alpha_init: expected a value between 0 and 1, got {alpha}")
        return math.log(1 / (1 - alpha) - 1)

    def edge(self) -> float:
        """World size of the voxels that `num_voxels` asks for."""
        low, high = self.box()
        n_voxels = self.number("num_voxels")
        if n_voxels < 1:
            raise Refused(f"model_kwargs num_voxels: expected at least 1, got {n_voxels}")
        return math.pow(float(np.prod(high - low)) / n_voxels, 1 / 3)

    def equation(self) -> Equation:
        step = self.sampling.step()
        return Equation(
            density_bias=self.density_bias(),
            interval=step * self.number("voxel_size_ratio", 1.0),
            step_world=step * self.edge(),
            near=self.sampling.near,
            alpha_threshold=max(self.number("fast_color_thres", 1e-4), SMALLEST_THRESHOLD),
            background=(1.0, 1.0, 1.0),
        )

    def layers(self) -> Layers:
        """The colour MLP as ours: features first, then the view; what it adds to the first three features passes through."""
        found = sorted((int(match[1]), key) for key in self.state if (match := LAYER_KEY.fullmatch(key)))
        layers = self.layers_of([key for _, key in found])
        if not layers:
            return ()
        if self.flag("rgbnet_full_implicit") or self.number("posbase_pe", 0) or "posfreq" in self.state:
            raise Refused("rgbnet: its colours depend on the position, not on features and direction alone")
        if "viewfreq" in self.state:
            powers = self.array("viewfreq", 1)
            if not np.array_equal(powers, 2.0 ** np.arange(len(powers))):
                raise Refused(f"viewfreq: expected powers of two, got {powers[:10].tolist()}")
        return layers if self.flag("rgbnet_direct", default=True) else _with_residual(layers)


def _with_residual(layers: Layers) -> Layers:
    """Layers that read all features and add the first three to the result, of layers that read all but the first three.

    A value passes a ReLU as the difference of its two halves, max(x, 0) - max(-x, 0).
    """
    halves = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
    made = []
    for i, (weight, bias) in enumerate(layers):
        n_out, n_in = weight.shape
        is_first, is_last = i == 0, i == len(layers) - 1
        before, extra = (3 if is_first else 6), (0 if is_last else 6)
        wide = np.zeros((n_out + extra, n_in + before), np.float32)
        carried = slice(0, 3) if is_first else slice(n_in, n_in + 6)
        wide[:n_out, 3:] = weight if is_first else 0
        if not is_first:
            wide[:n_out, :n_in] = weight
        passed = halves if is_first else np.eye(6, dtype=np.float32)
        if is_last:
            wide[:, carried] = np.eye(3) if is_first else halves.T
        else:
            wide[n_out:, carried] = passed
        made.append((wide, np.concatenate([bias, np.zeros(extra, np.float32)])))
    return tuple(made)


def masked(field: RadianceField, parts: DvgoParts, exact: bool, max_bytes: int | None) -> tuple[RadianceField, int]:
    """The field with the cells that the mask allows; and how many cells with something in them the mask cuts."""
    if MASK not in parts.state:
        return field, 0
    mask = parts.array(MASK, 3) != 0
    scale, shift = (parts.floats(f"mask_cache.xyz2ijk_{name}", 1) for name in ("scale", "shift"))
    if scale.shape != (3,) or shift.shape != (3,) or not np.isfinite([scale, shift]).all():
        raise Refused("mask_cache: expected 3 scales and shifts")
    scale = scale / parts.mask_sizes
    share = _share_of_cells(field.lattice, mask, scale, shift)
    floor = np.float64(field.equation.floor)  # which may be beyond float32
    n_cut = int(np.count_nonzero((share > 0) & (share < 8) & (highest(field.density) > floor)))
    if exact and n_cut:
        field = _halved(field, max_bytes)
        share, n_cut = _share_of_cells(field.lattice, mask, scale, shift), 0
    allowed = (share > 4).astype(np.uint8)
    return replace(field, allowed=None if allowed.all() else allowed), n_cut


def _share_of_cells(lattice: Lattice, mask: NDArray[np.bool_], scale: NDArray[Any], shift: NDArray[Any]) -> NDArray[np.int8]:
    """How many eighths [X-1,Y-1,Z-1] of every cell the mask allows, which is read at its nearest entry."""
    share = np.zeros([side - 1 for side in lattice.shape], np.int8)
    for quarter in QUARTERS:
        entries, inside = [], []
        for axis in range(3):
            index = np.zeros((share.shape[axis], 3))
            index[:, axis] = np.arange(share.shape[axis]) + quarter[axis]
            entry = np.rint(lattice.place_from_index(index)[:, axis] * float(scale[axis]) + float(shift[axis]))
            inside.append((entry >= 0) & (entry < mask.shape[axis]))
            entries.append(np.clip(entry, 0, mask.shape[axis] - 1).astype(np.int64))
        share += mask[np.ix_(*entries)] & inside[0][:, None, None] & inside[1][:, None] & inside[2]
    return share


def _halved(field: RadianceField, max_bytes: int | None) -> RadianceField:
    """The same function of space on a lattice of half the edge: each value between two voxels is their mean."""
    shape = tuple(2 * side - 1 for side in field.lattice.shape)
    what = f"a lattice of {list(shape)} voxels, at half the edge (without --exact there is none),"
    expect_room(2 * dense_bytes(shape, field.n_channels), max_bytes, what)
    density, features = _between(field.density), _between(field.features)
    lattice = replace(field.lattice, shape=(shape[0], shape[1], shape[2]))
    return replace(field, lattice=lattice, density=density, features=features, allowed=None)


def _between(values: Float32) -> Float32:
    for axis in range(3):
        values = np.moveaxis(values, axis, 0)
        finer = np.empty((2 * len(values) - 1, *values.shape[1:]), np.float32)
        finer[::2] = values
        finer[1::2] = (values[:-1] + values[1:]) / 2
        values = np.moveaxis(finer, 0, axis)
    return np.ascontiguousarray(values)
