"""DirectVoxGO's checkpoints: `coarse_last.tar`, `fine_last.tar` and VQRF's `vq_last.tar`, in and out.

Theirs and ours: `k0` is features, `act_shift` the density bias, `rgbnet` the colour MLP, `voxel_size_ratio` the interval in
steps, `fast_color_thres` the alpha threshold, `mask_cache` the allowed cells. Three eras of keys:

    2021-12            `density`, `k0`; the bias follows from `alpha_init`; colours may depend on the position too
    2022-01 .. 03      the same grids; `act_shift` among the arguments; `mask_cache.mask`
    2022-03-30 and on  `density.grid`, `k0.grid`, `act_shift`

DirectVoxGO's grids are corner-aligned, as ours are. VQRF's copy of it takes the same numbers for the centres of as many boxes
and zeros beyond: a *centred* grid. No file says which. A centred grid is ours with one voxel of zeros on every side; rays
then begin half a voxel earlier, which moves their samples (60 dB on the official renders that the tests hold it against).

DirectVoxGO masks by the nearest voxel, ours by cell. A cell that the mask cuts is
allowed if more than half of it is, unless `exact` asks for voxels of half the edge, of whose cells the mask cuts none.

What no checkpoint says, the step and the nearest distance, is in `Sampling`. A file that we write says it, with all that a
float32 would round, under the key `vqrf`, which the official loaders do not look at.

Papers: DirectVoxGO (arXiv 2111.11215), VQRF (arXiv 2211.16386).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrf.fields.field import Layers, RadianceField, dense_bytes
from vqrf.geometry import Float32, Float64, Lattice
from vqrf.interop.archives import bytes_of_torch, load_torch
from vqrf.interop.parts import (
    OWN_KEY,
    USUAL,
    Corners,
    Imported,
    Outline,
    Parts,
    Sampling,
    expect_box,
    floats,
    highest,
    lattice_of,
    listed,
    own_numbers,
    reading,
)
from vqrf.interop.values import Refused
from vqrf.kernels.constants import N_NUMBERS, Equation
from vqrf.memory import expect_room

GRIDS = (("density.grid", "k0.grid"), ("density", "k0"))
OTHERS = {
    "act_shift.grid": "a forward-facing scene (DirectMPIGO)",
    "scene_center": "an unbounded scene (DirectContractedVoxGO)",
    "density.xy_plane": "a field of planes (TensoRFGrid)",
    "mask_cache.density": "a first-era field with a mask, whose threshold is in another file",
}
"""Keys of what is not read, and what it is."""

OTHER_PROGRAMS = {
    "pipeline": "nerfstudio",
    "network_fn_state_dict": "nerf-pytorch",
    "gaussians": "Gaussian splatting",
    "splats": "gsplat",
}
"""Keys of checkpoints of programs that are not read, and the programs."""

LAYER_KEY = re.compile(r"rgbnet\.(\d{1,3})(?:\.0)?\.weight")
SMALLEST_THRESHOLD = 1e-7
"""Threshold in place of 0, which some files have: ours is above 0."""

SMALLEST_ALPHA = 1e-9
LOWEST_EXPONENT = -700.0
"""Least exponent whose exponential is above 0 in float64, nearly."""

MASK, MAX_MASK_SIDE = "mask_cache.mask", 8192
QUARTERS = np.stack(np.meshgrid(*[(0.25, 0.75)] * 3, indexing="ij"), -1).reshape(-1, 3)
"""Points of a cell, one in each of the 8 parts that belong to its voxels."""


class DvgoParts(Parts):
    """The arguments and the state of a model of DirectVoxGO."""

    def box(self) -> tuple[Float64, Float64]:
        low, high = (self.array(key, 1).astype(np.float64) for key in ("xyz_min", "xyz_max"))
        if low.shape != (3,) or high.shape != (3,) or not (low < high).all():
            raise Refused("xyz_min, xyz_max: expected the corners of a box")
        return low, high

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

    def equation(self, sampling: Sampling) -> Equation:
        return Equation(
            density_bias=self.density_bias(),
            interval=sampling.step_voxels * self.number("voxel_size_ratio", 1.0),
            step_world=sampling.step_voxels * self.edge(),
            near=sampling.near,
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


# ------------------------------------------------------------------------------------------------------------- in


def load_dvgo(
    path: Path,
    *,
    corners: Corners | None = None,
    sampling: Sampling = USUAL,
    exact: bool = True,
    max_bytes: int | None = None,
) -> Imported:
    """Read a DirectVoxGO checkpoint.

    Args:
      corners: how its grids lie; None: centred if VQRF's copy wrote it (`use_vq`), else aligned.
      exact: halve the edge of the voxels where the mask cuts cells with something in them.
      max_bytes: the budget of memory.

    Raises:
      CheckpointError: the file is damaged, holds anything but numbers, is a field that cannot be ours, or takes more memory.

    Safe for untrusted input.
    """
    tree = load_torch(path, max_bytes)
    with reading(path):
        opened = _open(tree, corners, sampling)
        return opened.imported(exact, max_bytes)


def outline_dvgo(
    path: Path, *, corners: Corners | None = None, sampling: Sampling = USUAL, max_bytes: int | None = None
) -> Outline:
    """What a DirectVoxGO checkpoint says of its field; arguments and errors as of `load_dvgo`."""
    tree = load_torch(path, max_bytes)
    with reading(path):
        return _open(tree, corners, sampling).outline


@dataclass(frozen=True, eq=False)
class _Opened:
    """A checkpoint whose grids are not read yet.

    Attributes:
      keys: of the grids of density and of features.
      is_centred: whether a voxel of zeros goes around them.
    """

    parts: DvgoParts
    keys: tuple[str, str]
    is_centred: bool
    outline: Outline

    def imported(self, exact: bool, max_bytes: int | None) -> Imported:
        outline = self.outline
        n_bytes = dense_bytes(outline.lattice.shape, outline.n_channels) + 8 * outline.lattice.n_voxels * outline.n_channels
        expect_room(n_bytes, max_bytes, f"{self.keys[1]}: a lattice of {list(outline.lattice.shape)} voxels")
        density = self.parts.floats(self.keys[0], 5)[0, 0]
        features = np.ascontiguousarray(self.parts.floats(self.keys[1], 5)[0].transpose(1, 2, 3, 0))
        if self.is_centred:
            density, features = np.pad(density, 1), np.pad(features, [(1, 1)] * 3 + [(0, 0)])
        field = RadianceField(outline.lattice, density, features, outline.color_mlp, outline.equation)
        field, n_cut = _masked(field, self.parts, exact, max_bytes)
        return Imported(field, outline.facts, n_cut)


def _open(tree: Any, corners: Corners | None, sampling: Sampling) -> _Opened:
    parts = _parts_of(tree)
    for key, meaning in OTHERS.items():
        if key in parts.state:
            raise Refused(f"{key}: is of {meaning}, which is not read")
    for flag in ("nearest", "pre_act_density", "in_act_density"):
        if parts.flag(flag):
            raise Refused(f"model_kwargs {flag}: a way of sampling that is not read")
    era, keys = next(((i, keys) for i, keys in enumerate(GRIDS) if keys[0] in parts.state), (0, GRIDS[0]))
    density, features = (parts.shape(key, 5) for key in keys)
    if density[:2] != (1, 1) or features[0] != 1 or features[2:] != density[2:]:
        raise Refused(f"{keys[0]}, {keys[1]}: shapes {list(density)} and {list(features)} do not fit")
    if MASK in parts.state and not all(1 <= side <= MAX_MASK_SIDE for side in parts.shape(MASK, 3)):
        raise Refused(f"{MASK}: expected sides of 1..{MAX_MASK_SIDE}")
    corners = corners or ("centred" if parts.flag("use_vq") else "aligned")
    low, high = parts.box()
    is_centred = corners == "centred"
    lattice = padded_lattice(low, high, density[2:]) if is_centred else lattice_of(low, high, density[2:])
    equation = parts.equation(sampling)
    if OWN_KEY in tree:
        own = tree[OWN_KEY]
        lattice = lattice_of(own_numbers(own, "lo", 3), own_numbers(own, "hi", 3), lattice.shape)
        equation = equation.with_numbers(own_numbers(own, "constants", N_NUMBERS))
    facts = {
        "kind": "DirectVoxGO checkpoint",
        "corners": corners,
        "keys": "2022-03-30 and on" if era == 0 else "before 2022-03-30",
    }
    return _Opened(parts, keys, is_centred, Outline(lattice, features[1], parts.layers(), equation, facts))


def _parts_of(tree: Any) -> DvgoParts:
    """The arguments and the state; where there are none, whose checkpoint it may be."""
    if not isinstance(tree, dict):
        raise Refused(f"holds a {type(tree).__name__} and no dict: it is no checkpoint of DirectVoxGO or TensoRF")
    if isinstance(tree.get("model_kwargs"), dict) and isinstance(tree.get("model_state_dict"), dict):
        return DvgoParts(tree["model_kwargs"], tree["model_state_dict"])
    there = f"it has {listed(tree)}"
    if whose := next((program for key, program in OTHER_PROGRAMS.items() if key in tree), None):
        raise Refused(f"is a checkpoint of {whose}, which is not read ({there})")
    if any("density" in key or "k0" in key for key in tree if isinstance(key, str)):
        raise Refused(
            f"is the state of a model alone; DirectVoxGO's checkpoints have model_kwargs and model_state_dict ({there})"
        )
    raise Refused(f"holds no model_kwargs and model_state_dict: it is no checkpoint of DirectVoxGO or TensoRF ({there})")


def padded_lattice(low: Float64, high: Float64, shape: tuple[int, ...]) -> Lattice:
    """The lattice of a centred grid over a box with one more voxel on every side."""
    half = (high - low) / shape / 2
    return lattice_of(low - half, high + half, tuple(side + 2 for side in shape))


def _masked(field: RadianceField, parts: DvgoParts, exact: bool, max_bytes: int | None) -> tuple[RadianceField, int]:
    """The field with the cells that the mask allows; and how many cells with something in them the mask cuts."""
    if MASK not in parts.state:
        return field, 0
    mask = parts.array(MASK, 3) != 0
    scale, shift = (parts.floats(f"mask_cache.xyz2ijk_{name}", 1) for name in ("scale", "shift"))
    if scale.shape != (3,) or shift.shape != (3,) or not np.isfinite([scale, shift]).all():
        raise Refused("mask_cache: expected 3 scales and shifts")
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
            entry = np.rint(lattice.world_from_index(index)[:, axis] * float(scale[axis]) + float(shift[axis]))
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
    lattice = Lattice(field.lattice.lo, field.lattice.hi, (shape[0], shape[1], shape[2]))
    return replace(field, lattice=lattice, density=density, features=features, allowed=None)


def _between(values: Float32) -> Float32:
    for axis in range(3):
        values = np.moveaxis(values, axis, 0)
        finer = np.empty((2 * len(values) - 1, *values.shape[1:]), np.float32)
        finer[::2] = values
        finer[1::2] = (values[:-1] + values[1:]) / 2
        values = np.moveaxis(finer, 0, axis)
    return np.ascontiguousarray(values)


# ------------------------------------------------------------------------------------------------------------ out


def bytes_of_dvgo(field: RadianceField, name: str) -> bytes:
    """A `fine_last.tar` of the last era, which `load_dvgo` reads back to the very same arrays; `name` is its folder inside.

    Raises:
      ValueError: DirectVoxGO has no grid or no colour MLP of this shape, or the field is in no box.
    """
    if field.equation.feature_frequencies:
        raise ValueError("DirectVoxGO's colour MLP takes no frequencies of the features")
    lattice = field.lattice
    expect_box(lattice)
    low, high = (np.array(corner, np.float32) for corner in (lattice.lo, lattice.hi))
    state: dict[str, Any] = {
        "xyz_min": low,
        "xyz_max": high,
        "act_shift": np.array([field.equation.density_bias], np.float32),
        **viewfreq_of(field.color_mlp, field.n_channels),
        "density.grid": field.density[None, None],
        "density.xyz_min": low,
        "density.xyz_max": high,
        "k0.grid": field.features.transpose(3, 0, 1, 2)[None],
        "k0.xyz_min": low,
        "k0.xyz_max": high,
        **{f"rgbnet.{key}": array for key, array in named_layers(field.color_mlp).items()},
    }
    mask = np.ones([side - 1 for side in lattice.shape], bool) if field.allowed is None else field.allowed != 0
    scale = (np.array(lattice.shape) - 1) / lattice.extent  # a mask of cells: its entry i is nearest from i to i + 1
    state |= {
        "mask_cache.mask": mask,
        "mask_cache.xyz2ijk_scale": scale.astype(np.float32),
        "mask_cache.xyz2ijk_shift": (-scale * lattice.lo - 0.5).astype(np.float32),
    }
    arguments = arguments_of(field, lattice.extent)
    arguments |= {"xyz_min": list(lattice.lo), "xyz_max": list(lattice.hi), "mask_cache_world_size": list(mask.shape)}
    own = {"lo": floats(lattice.lo), "hi": floats(lattice.hi), "constants": floats(field.equation.numbers())}
    tree = {"global_step": 0, "model_kwargs": arguments, "model_state_dict": state, OWN_KEY: own}
    return bytes_of_torch(tree, name)


def arguments_of(field: RadianceField, extent: Float64) -> dict[str, Any]:
    """The official arguments that make a model of the field's shape over a box of the given extent."""
    equation = field.equation
    edge = edge_for(extent, field.lattice.shape, 2 * equation.step_world)
    ratio = equation.interval * edge / equation.step_world
    n_voxels = float(np.prod(extent)) / edge**3
    depth = len(field.color_mlp)
    return {
        "num_voxels": n_voxels,
        "num_voxels_base": n_voxels * ratio**3,
        "alpha_init": max(_share_of_bias(equation.density_bias), SMALLEST_ALPHA),
        "voxel_size_ratio": ratio,
        "mask_cache_path": None,
        "mask_cache_thres": 1e-3,
        "fast_color_thres": equation.alpha_threshold,
        "density_type": "DenseGrid",
        "k0_type": "DenseGrid",
        "density_config": {},
        "k0_config": {},
        "rgbnet_dim": field.n_channels if depth else 0,
        "rgbnet_direct": True,
        "rgbnet_full_implicit": False,
        "rgbnet_depth": max(depth, 2),
        "rgbnet_width": len(field.color_mlp[0][1]) if depth else 128,
        "viewbase_pe": n_frequencies(field.color_mlp, field.n_channels),
    }


def _share_of_bias(bias: float) -> float:
    """The alpha of a step of one voxel in which the raw density is 0."""
    return 1 / (1 + math.exp(-bias)) if bias > LOWEST_EXPONENT else 0.0


def edge_for(extent: Float64, shape: tuple[int, ...], wanted: float) -> float:
    """The edge of cubic voxels of which `shape` whole ones fit into the box: the one that is wanted, if it does.

    Raises:
      ValueError: there is none.
    """
    above, most = float(np.max(extent / (np.array(shape) + 1))), float(np.min(extent / shape))
    if above < wanted * (1 - 1e-6) and wanted * (1 + 1e-6) <= most:
        return wanted
    if above >= most * (1 - 1e-5):
        raise ValueError(f"DirectVoxGO has no grid of {list(shape)} voxels over {extent.tolist()}: its voxels are cubes")
    return (above + most) / 2


def n_frequencies(layers: Layers, n_channels: int) -> int:
    return (layers[0][0].shape[1] - n_channels - 3) // 6 if layers else 0


def viewfreq_of(layers: Layers, n_channels: int) -> dict[str, Float32]:
    if not layers:
        return {}
    return {"viewfreq": (2.0 ** np.arange(n_frequencies(layers, n_channels))).astype(np.float32)}


def named_layers(layers: Layers) -> dict[str, Float32]:
    """The layers by the names that torch gives them in DirectVoxGO: 0, then 2.0, 3.0, ..., and the last without the .0.

    Raises:
      ValueError: there is only one layer, or the hidden ones are of several widths.
    """
    if len(layers) == 1 or len({len(bias) for _, bias in layers[:-1]}) > 1:
        raise ValueError("DirectVoxGO's colour MLP has at least 2 layers, its hidden ones all of one width")
    names = ["0", *(f"{i}.0" for i in range(2, len(layers))), str(len(layers))]
    return {
        f"{name}.{part}": array
        for name, layer in zip(names, layers, strict=False)
        for part, array in zip(("weight", "bias"), layer, strict=True)
    }
