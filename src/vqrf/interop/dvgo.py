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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vqrf.fields.field import Layers, RadianceField, dense_bytes
from vqrf.geometry import Float32, Float64, Lattice
from vqrf.interop.archives import bytes_of_torch, load_torch
from vqrf.interop.dvgo_parts import MASK, MAX_MASK_SIDE, DvgoParts, masked
from vqrf.interop.dvgo_places import ContractedParts, FrontParts
from vqrf.interop.parts import (
    OWN_KEY,
    USUAL,
    Corners,
    Imported,
    Outline,
    Sampling,
    expect_box,
    floats,
    lattice_of,
    listed,
    own_numbers,
    reading,
    without_prefixes,
)
from vqrf.interop.values import Refused
from vqrf.kernels.constants import N_NUMBERS
from vqrf.memory import expect_room

GRIDS = (("density.grid", "k0.grid"), ("density", "k0"))
OTHERS = {
    "density.xy_plane": "a field of planes (TensoRFGrid)",
    "mask_cache.density": "a first-era field with a mask, whose threshold is in another file",
}
"""Keys of what is not read, and what it is."""

MODELS: dict[str, type[DvgoParts]] = {"act_shift.grid": FrontParts, "scene_center": ContractedParts}
"""Keys of models of places, and what reads them."""

OTHER_PROGRAMS = {
    "pipeline": "nerfstudio",
    "network_fn_state_dict": "nerf-pytorch",
    "gaussians": "Gaussian splatting",
    "splats": "gsplat",
}
"""Keys of checkpoints of programs that are not read, and the programs."""

SMALLEST_ALPHA = 1e-9
LOWEST_EXPONENT = -700.0
"""Least exponent whose exponential is above 0 in float64, nearly."""

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
      stored: of the field on the lattice of the grids.
    """

    parts: DvgoParts
    keys: tuple[str, str]
    is_centred: bool
    stored: Outline

    @property
    def outline(self) -> Outline:
        return replace(self.stored, lattice=self.parts.placed_lattice(self.stored.lattice))

    def imported(self, exact: bool, max_bytes: int | None) -> Imported:
        outline = self.stored
        n_bytes = dense_bytes(outline.lattice.shape, outline.n_channels) + 8 * outline.lattice.n_voxels * outline.n_channels
        expect_room(n_bytes, max_bytes, f"{self.keys[1]}: a lattice of {list(outline.lattice.shape)} voxels")
        density = self.parts.density(self.keys[0])
        features = np.ascontiguousarray(self.parts.floats(self.keys[1], 5)[0].transpose(1, 2, 3, 0))
        if self.is_centred:
            density, features = np.pad(density, 1), np.pad(features, [(1, 1)] * 3 + [(0, 0)])
        field = RadianceField(outline.lattice, density, features, outline.color_mlp, outline.equation)
        field, n_cut = masked(field, self.parts, exact, max_bytes)
        return Imported(self.parts.placed(field, max_bytes), outline.facts, n_cut)


def _open(tree: Any, corners: Corners | None, sampling: Sampling) -> _Opened:
    parts = _parts_of(tree, sampling)
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
    if corners == "centred" and parts.space != "box":
        raise Refused("corners: the grids of a place are aligned")
    corners = corners or ("centred" if parts.flag("use_vq") and parts.space == "box" else "aligned")
    is_centred = corners == "centred"
    lattice = padded_lattice(*parts.box(), density[2:]) if is_centred else parts.lattice(density[2:])
    equation = parts.equation()
    if OWN_KEY in tree:
        own = tree[OWN_KEY]
        lattice = lattice_of(own_numbers(own, "lo", 3), own_numbers(own, "hi", 3), lattice.shape)
        equation = equation.with_numbers(own_numbers(own, "constants", N_NUMBERS))
    facts = {
        "kind": "DirectVoxGO checkpoint",
        "corners": corners,
        "keys": "2022-03-30 and on" if era == 0 else "before 2022-03-30",
        "space": parts.space,
    }
    return _Opened(parts, keys, is_centred, Outline(lattice, features[1], parts.layers(), equation, facts))


def _parts_of(tree: Any, sampling: Sampling) -> DvgoParts:
    """The arguments and the state; where there are none, whose checkpoint it may be."""
    if not isinstance(tree, dict):
        raise Refused(f"holds a {type(tree).__name__} and no dict: it is no checkpoint of DirectVoxGO or TensoRF")
    if isinstance(tree.get("model_kwargs"), dict) and isinstance(tree.get("model_state_dict"), dict):
        state = without_prefixes(tree["model_state_dict"])
        made = next((parts for key, parts in MODELS.items() if key in state), DvgoParts)
        return made(tree["model_kwargs"], state, sampling)
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
