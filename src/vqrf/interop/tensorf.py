"""TensoRF's checkpoints (`.th`), VM and CP, in and out.

Theirs and ours: planes and lines are `Factors`, of CP `LineFactors`; `basis_mat` is the mix, `density_shift` the density bias,
`distance_scale` times the step the interval, `rayMarch_weight_thres` the alpha threshold, `renderModule` the colour MLP, whose
inputs are theirs in another order. Their grid is corner-aligned, as ours is; they sample from where a ray enters the box, as we
do, and the file says how far apart. Which of the two a file is follows from its keys.

Departs: of a sample whose weight is too low for a colour they keep the weight, which then is black; we keep it if its alpha is
above the threshold. They go on where less than a thousandth of the light is left. Their `alphaMask` is a lattice of its own,
of whose cells those count that have a marked corner; ours is by the cells of the field: a cell that the mask cuts is allowed if
at least half of it is.

Paper: TensoRF (arXiv 2203.09517).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from vqrf.fields.factors import Factors, LineFactors, expand
from vqrf.fields.field import Layers, RadianceField, dense_bytes
from vqrf.geometry import Float32, Lattice
from vqrf.interop.archives import bytes_of_torch, load_torch
from vqrf.interop.ndc import MIDDLE
from vqrf.interop.parts import USUAL, Imported, Outline, Parts, Sampling, expect_box, highest, lattice_of, reading
from vqrf.interop.values import Refused
from vqrf.kernels.constants import Activation, Equation, count_view_frequencies
from vqrf.memory import expect_room

OTHERS = {"plane_coef": "a TensorVM of the first days, whose planes are not split"}
"""Keys of what is not read, and what it is."""

FREQUENCIES = {"MLP_Fea": True, "MLP": False}
"""Shadings that are read, and whether their network takes frequencies of the features."""

MAX_COMPONENTS = 1024
"""Most components of a plane. The official settings have 64, those of CP 384."""

PRODUCTS = 3
"""Products of planes and lines that there are at a time of one slab of the lattice."""

BYTES_OF_MARK = 4
"""Bytes of a mask's voxel, while it is turned and what it allows is found."""

MAX_MASK_SIDE = 4096
"""Longest side of an alpha mask. The official code makes it no larger than 256."""

LAYER_KEY = re.compile(r"renderModule\.mlp\.(\d+)\.weight")
POINTS = 4
"""Points of a cell on each axis at which the alpha mask is asked: their mean is the share of the cell that it allows."""


@dataclass(frozen=True, eq=False)
class AlphaMask:
    """Where there may be something: `marks` [X,Y,Z] bool at the voxels of a lattice of its own."""

    lattice: Lattice
    marks: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TensorfField:
    """A checkpoint of TensoRF, with our names and its numbers.

    Attributes:
      lattice: of the voxels that the factors make.
      factors: planes and lines (VM), or lines alone (CP).
      color_mlp: inputs in our order (see `vqrf.kernels`).
      feature_frequencies: of the features, 0 for none.
      density_shift, distance_scale: with sigma = softplus(density + density_shift), alpha is 1 - exp(-sigma * distance_scale *
        step). With the activation "relu" sigma is max(density, 0), and the shift is only passed on.
      step_voxels: distance of two samples, in means of the voxels' edges.
      near, far: world distances; before `near` nothing is sampled, `far` is only passed on.
      alpha_threshold: weight below which a sample has no colour.
      mask: None for everywhere.
    """

    lattice: Lattice
    factors: Factors | LineFactors
    color_mlp: Layers
    feature_frequencies: int
    density_shift: float
    distance_scale: float
    step_voxels: float
    near: float
    far: float
    alpha_threshold: float
    mask: AlphaMask | None = None
    activation: Activation = "softplus"

    @property
    def step_world(self) -> float:
        edges = self.lattice.extent / (np.array(self.lattice.shape) - 1)
        return float(np.mean(edges)) * self.step_voxels

    def facts(self) -> dict[str, Any]:
        """What there is to say of it, JSON-able."""
        return {
            "kind": "TensoRF checkpoint",
            "space": self.lattice.space.name if self.lattice.space else "box",
            "decomposition": "VM" if isinstance(self.factors, Factors) else "CP",
            "density_components": self.factors.n_density,
            "feature_components": self.factors.n_features,
            "factor_bytes": 4 * self.factors.n_values,
        }

    @property
    def sign_of_front(self) -> str | None:
        """What looks as the official settings of LLFF's scenes do; None where nothing does."""
        return "near_far: [0, 1] with relu" if (self.near, self.far, self.activation) == (0, 1, "relu") else None

    def placed(self, sampling: Sampling) -> TensorfField:
        """The field where it lies: as it is, or in the space of the cameras that it is of.

        There the official code samples as many times between the first place and the last on the third axis as a step fits
        into the box's diagonal, and shows its network the direction of a ray in normalised device coordinates, which is where
        it crosses the plane of the mean camera. Ours knows the world's directions alone: every ray is coloured as one of the
        mean camera's.

        Raises:
          Refused: nobody says what it is, or where it lies.
        """
        if not sampling.is_front(self.sign_of_front):
            return self
        ndc, box = sampling.expect_ndc("--space front"), self.lattice
        n_steps = int(np.linalg.norm(box.extent) / self.step_world)
        if n_steps < 1:
            raise Refused("kwargs step_ratio: a step is longer than the box")
        lattice = ndc.lattice(box.lo, box.hi, box.shape)
        edge = float(np.mean(lattice.extent / (np.array(box.shape) - 1)))
        n_view = count_view_frequencies(self.color_mlp[0][0].shape[1], self.factors.n_channels, self.feature_frequencies)
        (weight, bias), *rest = self.color_mlp
        view = slice(self.factors.n_channels, self.factors.n_channels + 3 + 6 * (n_view or 0))
        unseen = np.zeros((len(bias), 3), np.float32)
        first = np.concatenate([weight[:, : view.start], unseen, weight[:, view.stop :]], 1)
        bias = bias + weight[:, view] @ _waves(MIDDLE, n_view or 0)
        return replace(self, lattice=lattice, color_mlp=((first, bias), *rest), step_voxels=2 / n_steps / edge, near=0.0)

    def as_planes(self) -> Factors:
        """The factors as planes and lines, whichever they are."""
        return self.factors if isinstance(self.factors, Factors) else self.factors.with_planes()

    def equation(self) -> Equation:
        return Equation(
            density_bias=self.density_shift if self.activation == "softplus" else 0.0,
            interval=self.distance_scale * self.step_world,
            step_world=self.step_world,
            near=self.near,
            alpha_threshold=self.alpha_threshold,
            background=(1.0, 1.0, 1.0),
            activation=self.activation,
            feature_frequencies=self.feature_frequencies,
        )

    def field(self, max_bytes: int | None = None) -> RadianceField:
        """The dense field that the factors make, the mask aside.

        Raises:
          ValueError: it takes more memory, or is none (see `RadianceField`).
        """
        shape, factors = self.lattice.shape, self.factors
        rank = factors.n_density + factors.n_features
        x, y, z = shape
        n_planes = 0 if isinstance(factors, Factors) else 2 * (x * y + x * z + y * z) * (rank // 3 + 2)
        n_bytes = dense_bytes(shape, factors.n_channels) + 4 * (n_planes + PRODUCTS * y * z * rank)
        expect_room(n_bytes, max_bytes, f"a lattice of {list(shape)} voxels")
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is not finite, and RadianceField says so
            density, features = expand(self.as_planes())
        return RadianceField(self.lattice, density, features, self.color_mlp, self.equation())


class _Parts(Parts):
    """The arguments and the state of a checkpoint, asked for by name.

    Raises:
      Refused: a part is missing or is not what it has to be.
    """

    arguments_name = "kwargs"

    def __init__(self, tree: Any) -> None:
        if not is_tree(tree):
            raise Refused("holds no kwargs and state_dict: it is no checkpoint of TensoRF")
        super().__init__(tree["kwargs"], tree["state_dict"])
        self.tree = tree

    def positive(self, key: str, default: float | None = None) -> float:
        value = self.number(key, default)
        if value <= 0:
            raise Refused(f"kwargs {key}: expected a positive number, got {value}")
        return value

    def frequencies(self, key: str) -> int:
        value = self.number(key, 0)
        if not 0 <= value <= 10 or value != int(value):
            raise Refused(f"kwargs {key}: expected a whole number of 0 to 10, got {value}")
        return int(value)

    def numbers(self, holder: dict[str, Any], key: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """Finite numbers among the arguments, or beside them."""
        parts = Parts(self.arguments, holder)
        if (found := parts.shape(key, len(shape))) != shape:
            raise Refused(f"{key}: expected {list(shape)} numbers, got {list(found)}")
        return parts.array(key, len(shape))

    def lattice(self, holder: dict[str, Any], key: str, shape: tuple[int, int, int]) -> Lattice:
        low, high = self.numbers(holder, key, (2, 3)).astype(np.float64)
        return lattice_of(low, high, shape)

    def layers(self) -> Layers:
        found = sorted((int(match[1]), key) for key in self.state if (match := LAYER_KEY.fullmatch(key)))
        return self.layers_of([key for _, key in found])

    def mask(self, max_bytes: int | None) -> AlphaMask | None:
        if "alphaMask.aabb" not in self.tree:
            return None
        shape = self.numbers(self.tree, "alphaMask.shape", (5,))
        if (shape[:2] != 1).any() or (shape < 1).any() or (shape > MAX_MASK_SIDE).any() or (shape % 1 != 0).any():
            raise Refused(f"alphaMask.shape: expected 1, 1 and the sides of a grid, got {shape.tolist()}")
        z, y, x = (int(side) for side in shape[2:])
        expect_room(BYTES_OF_MARK * x * y * z, max_bytes, f"alphaMask.shape: a mask of {[x, y, z]}")
        bits = Parts({}, self.tree).array("alphaMask.mask", 1)
        if bits.dtype != np.uint8 or 8 * len(bits) < x * y * z:
            raise Refused(f"alphaMask.mask: expected {x * y * z} bits, got {len(bits)} of {bits.dtype}")
        marks = np.unpackbits(bits, count=x * y * z).astype(bool).reshape(z, y, x).transpose(2, 1, 0)
        return AlphaMask(self.lattice(self.tree, "alphaMask.aabb", (x, y, z)), np.ascontiguousarray(marks))


def is_tree(tree: Any) -> bool:
    """Whether this is what a checkpoint of TensoRF holds."""
    return isinstance(tree, dict) and all(isinstance(tree.get(key), dict) for key in ("kwargs", "state_dict"))


# ------------------------------------------------------------------------------------------------------------- in


def load_tensorf(path: Path, max_bytes: int | None = None) -> TensorfField:
    """Read a checkpoint of TensoRF.

    Args:
      max_bytes: the budget of memory.

    Raises:
      CheckpointError: the file is damaged, holds anything but numbers, is a field that cannot be ours, or takes more memory.

    Safe for untrusted input.
    """
    tree = load_torch(path, max_bytes)
    with reading(path):
        return _read(_Parts(tree), max_bytes)


def outline_tensorf(path: Path, sampling: Sampling = USUAL, max_bytes: int | None = None) -> Outline:
    """What a checkpoint of TensoRF says of its field; errors as of `load_tensorf`."""
    made = load_tensorf(path, max_bytes)
    with reading(path):
        made = made.placed(sampling)
        return Outline(made.lattice, made.factors.n_channels, made.color_mlp, made.equation(), made.facts())


def _read(said: _Parts, max_bytes: int | None) -> TensorfField:
    for key, meaning in OTHERS.items():
        if key in said.state:
            raise Refused(f"{key}: is of {meaning}, which is not read")
    shading, activation = said.text("shadingMode", "MLP_PE"), said.text("fea2denseAct", "softplus")
    if shading not in FREQUENCIES:
        raise Refused(f"kwargs shadingMode: colours by {shading[:20]!r} are not read, only {' and '.join(FREQUENCIES)}")
    if activation not in get_args(Activation):
        raise Refused(f"kwargs fea2denseAct: a density by {activation[:20]!r} is not read, only softplus and relu")
    factors = _factors(said, max_bytes)
    of_features = said.frequencies("fea_pe") if FREQUENCIES[shading] else 0
    sides = said.numbers(said.arguments, "gridSize", (3,)).tolist()
    if sides != list(factors.shape):
        raise Refused(f"kwargs gridSize: says {sides}, planes and lines have {list(factors.shape)}")
    layers = said.layers()
    if not layers:
        raise Refused("renderModule.mlp: is missing")
    of_view = said.frequencies("view_pe")
    n_inputs = factors.n_channels * (1 + 2 * of_features) + 3 + 6 * of_view
    (weight, bias), *rest = layers
    if weight.shape[1] != n_inputs:
        raise Refused(f"renderModule.mlp: expected {n_inputs} inputs, got {weight.shape[1]}")
    weight = np.ascontiguousarray(weight[:, _order(factors.n_channels, of_features, of_view)])
    near, far = said.numbers(said.arguments, "near_far", (2,)).tolist()
    return TensorfField(
        lattice=said.lattice(said.arguments, "aabb", factors.shape),
        factors=factors,
        color_mlp=((weight, bias), *rest),
        feature_frequencies=of_features,
        density_shift=said.number("density_shift", -10),
        distance_scale=said.positive("distance_scale", 25),
        step_voxels=said.positive("step_ratio", 2),
        near=max(near, 0.0),
        far=far,
        alpha_threshold=said.positive("rayMarch_weight_thres", 1e-4),
        mask=said.mask(max_bytes),
        activation=cast(Activation, activation),
    )


def _waves(direction: tuple[float, float, float], n_frequencies: int) -> Float32:
    """What a network sees of a direction: itself, the sines, the cosines; see `vqrf.kernels`."""
    angles = np.outer(direction, 2.0 ** np.arange(n_frequencies)).ravel()
    return np.concatenate([direction, np.sin(angles), np.cos(angles)]).astype(np.float32)


def _order(n_channels: int, of_features: int, of_view: int) -> NDArray[np.int64]:
    """The column of their first layer for each of ours: they have the waves of the features before those of the direction."""
    n_waves = 2 * n_channels * of_features
    start = n_channels + 3
    view = np.arange(start + n_waves, start + n_waves + 6 * of_view)
    return np.concatenate([np.arange(start), view, np.arange(start, start + n_waves)])


def _factors(said: _Parts, max_bytes: int | None) -> Factors | LineFactors:
    lines, (n_density, n_features) = _joined(said, "line")
    basis = said.floats("basis_mat.weight", 2).T
    has_planes = any(str(key).startswith(("density_plane.", "app_plane.")) for key in said.state)
    n_columns = sum(n_features) if has_planes else n_features[0]
    if basis.shape[0] != n_columns:
        raise Refused(f"basis_mat.weight: expected {n_columns} columns, got {basis.shape[0]}")
    if not has_planes:
        if len(set(n_density)) > 1 or len(set(n_features)) > 1:
            raise Refused(f"lines differ in their components: {n_density} of density, {n_features} of features")
        return LineFactors((lines[0], lines[1], lines[2]), np.ascontiguousarray(basis))
    planes, of_planes = _joined(said, "plane")
    if of_planes != (n_density, n_features):
        raise Refused("planes and lines differ in their components")
    n_padded = sum(math.prod(plane.shape[:2]) for plane in planes) * (max(n_density) + max(n_features))
    expect_room(4 * n_padded, max_bytes, "planes, with as many components as the one that has most,")
    padded = [
        [_padded(array, n_density[p], max(n_density), max(n_features)) for p, array in enumerate(arrays)]
        for arrays in (planes, lines)
    ]
    mix = np.zeros((3, max(n_features), basis.shape[1]), np.float32)
    for p, rows in enumerate(np.split(basis, np.cumsum(n_features)[:-1])):
        mix[p, : len(rows)] = rows
    return Factors(tuple(padded[0]), tuple(padded[1]), mix)  # type: ignore[arg-type]


def _joined(said: _Parts, kind: str) -> tuple[list[Float32], tuple[list[int], list[int]]]:
    """Each plane [A,B,R], stored as [1,R,B,A], or line [N,R], stored as [1,R,N,1], with its components of density before those
    of features; and how many of each there are."""
    joined: list[Float32] = []
    counts: tuple[list[int], list[int]] = ([], [])
    for p in range(3):
        keys = [f"{part}_{kind}.{p}" for part in ("density", "app")]
        parts = [said.floats(key, 4) for key in keys]
        for key, part, count in zip(keys, parts, counts, strict=True):
            if part.shape[0] != 1 or part.shape[2:] != parts[0].shape[2:] or (kind == "line" and part.shape[3] != 1):
                raise Refused(f"{key}: shape {list(part.shape)} does not fit")
            count.append(part.shape[1])
        both = np.concatenate(parts, axis=1)[0].transpose(2, 1, 0)
        if both.shape[-1] > MAX_COMPONENTS:
            raise Refused(f"{' and '.join(keys)}: {both.shape[-1]} components, the limit is {MAX_COMPONENTS}")
        joined.append(np.ascontiguousarray(both[0] if kind == "line" else both))
    return joined, counts


def _padded(array: Float32, n_density: int, all_density: int, all_features: int) -> Float32:
    """Components of 0 where another plane has more."""
    out = np.zeros((*array.shape[:-1], all_density + all_features), np.float32)
    out[..., :n_density] = array[..., :n_density]
    out[..., all_density : all_density + array.shape[-1] - n_density] = array[..., n_density:]
    return out


# ---------------------------------------------------------------------------------------------------- to a field


def import_tensorf(made: TensorfField, max_bytes: int | None = None) -> Imported:
    """The dense field of a checkpoint, with the cells that its mask allows.

    Raises:
      ValueError: it takes more memory, or is none (see `RadianceField`).
    """
    facts = made.facts()
    field = made.field(max_bytes)
    if made.mask is None:
        return Imported(field, facts, 0)
    share = _share_of_cells(field.lattice, made.mask)
    floor = np.float64(field.equation.floor)  # which may be beyond float32
    n_cut = int(np.count_nonzero((share > 0) & (share < POINTS**3) & (highest(field.density) > floor)))
    allowed = (2 * share >= POINTS**3).astype(np.uint8)
    return Imported(replace(field, allowed=None if allowed.all() else allowed), facts, n_cut)


def tensorf_of(field: RadianceField, factors: Factors | LineFactors, far: float) -> TensorfField:
    """A field that was learnt as factors, with them: `import_tensorf` of it is the field, up to rounding.

    The mask is twice as fine as the lattice, so that what it allows is whole cells.

    Raises:
      ValueError: the field is in no box.
    """
    expect_box(field.lattice)
    edge = float(np.mean(field.lattice.extent / (np.array(field.lattice.shape) - 1)))
    equation, mask = field.equation, None
    if field.allowed is not None:
        x, y, z = (2 * side - 1 for side in field.lattice.shape)
        marks = np.zeros((x, y, z), bool)
        marks[1::2, 1::2, 1::2] = field.allowed != 0
        mask = AlphaMask(replace(field.lattice, shape=(x, y, z)), marks)
    return TensorfField(
        lattice=field.lattice,
        factors=factors,
        color_mlp=field.color_mlp,
        feature_frequencies=equation.feature_frequencies,
        density_shift=equation.density_bias,
        distance_scale=equation.interval / equation.step_world,
        step_voxels=equation.step_world / edge,
        near=equation.near,
        far=far,
        alpha_threshold=equation.alpha_threshold,
        mask=mask,
        activation=equation.activation,
    )


def _share_of_cells(lattice: Lattice, mask: AlphaMask) -> NDArray[np.int16]:
    """At how many of POINTS^3 points of every cell [X-1,Y-1,Z-1] the mask, interpolated, is above 0."""
    marked = mask.marks
    for axis in range(3):
        n = marked.shape[axis]
        ends = [np.take(marked, np.clip(np.arange(-1, n) + step, 0, n - 1), axis) for step in (0, 1)]
        marked = ends[0] | ends[1]  # its cells, and beyond either end one more, where it fades away
    share = np.zeros([side - 1 for side in lattice.shape], np.int16)
    places = (np.arange(POINTS) + 0.5) / POINTS
    for point in np.stack(np.meshgrid(*[places] * 3, indexing="ij"), -1).reshape(-1, 3):
        cells, inside = [], []
        for axis in range(3):
            index = np.zeros((share.shape[axis], 3))
            index[:, axis] = np.arange(share.shape[axis]) + point[axis]
            place = mask.lattice.index_from_place(lattice.place_from_index(index))[:, axis]
            cell = np.floor(np.clip(place, -2, marked.shape[axis])).astype(np.int64) + 1
            inside.append((cell >= 0) & (cell < marked.shape[axis]))
            cells.append(np.clip(cell, 0, marked.shape[axis] - 1))
        share += marked[np.ix_(*cells)] & inside[0][:, None, None] & inside[1][:, None] & inside[2]
    return share


# ------------------------------------------------------------------------------------------------------------ out


def bytes_of_tensorf(made: TensorfField, name: str) -> bytes:
    """A `.th` that the official loader and `load_tensorf` read back to the very same arrays; `name` is its folder inside.

    Raises:
      ValueError: TensoRF has no colour MLP of this shape.
    """
    factors, layers = made.factors, made.color_mlp
    of_view = count_view_frequencies(layers[0][0].shape[1], factors.n_channels, made.feature_frequencies) if layers else None
    if of_view is None or made.lattice.shape != factors.shape:
        raise ValueError("TensoRF's fields have a colour MLP, and factors of their lattice")
    n_of_each = 3 if isinstance(factors, Factors) else 1
    arguments = {
        "aabb": np.array([made.lattice.lo, made.lattice.hi], np.float32),
        "gridSize": list(made.lattice.shape),
        "density_n_comp": [factors.n_density] * n_of_each,
        "appearance_n_comp": [factors.n_features] * n_of_each,
        "app_dim": factors.n_channels,
        "density_shift": made.density_shift,
        "alphaMask_thres": made.alpha_threshold,
        "distance_scale": made.distance_scale,
        "rayMarch_weight_thres": made.alpha_threshold,
        "fea2denseAct": made.activation,
        "near_far": [made.near, made.far],
        "step_ratio": made.step_voxels,
        "shadingMode": "MLP_Fea",
        "pos_pe": 6,
        "view_pe": of_view,
        "fea_pe": made.feature_frequencies,
        "featureC": len(layers[0][1]),
    }
    order = np.argsort(_order(factors.n_channels, made.feature_frequencies, of_view))
    state = _state_of_factors(factors)
    for i, (weight, bias) in enumerate(layers):
        state[f"renderModule.mlp.{2 * i}.weight"] = weight if i else np.ascontiguousarray(weight[:, order])
        state[f"renderModule.mlp.{2 * i}.bias"] = bias
    tree: dict[str, Any] = {"kwargs": arguments, "state_dict": state}
    if made.mask is not None:
        marks = made.mask.marks.transpose(2, 1, 0)
        tree["alphaMask.shape"] = (1, 1, *marks.shape)
        tree["alphaMask.mask"] = np.packbits(marks)
        tree["alphaMask.aabb"] = np.array([made.mask.lattice.lo, made.mask.lattice.hi], np.float32)
    return bytes_of_torch(tree, name)


def _state_of_factors(factors: Factors | LineFactors) -> dict[str, Float32]:
    state = {}
    for part, components in (("density", slice(0, factors.n_density)), ("app", slice(factors.n_density, None))):
        for p, line in enumerate(factors.lines):
            state[f"{part}_line.{p}"] = np.ascontiguousarray(line[:, components].T)[None, :, :, None]
        for p, plane in enumerate(factors.planes if isinstance(factors, Factors) else ()):
            state[f"{part}_plane.{p}"] = np.ascontiguousarray(plane[..., components].transpose(2, 1, 0))[None]
    return {**state, "basis_mat.weight": np.ascontiguousarray(factors.mix.reshape(-1, factors.n_channels).T)}
