"""DirectVoxGO's models of places: DirectMPIGO, which is forward-facing, and DirectContractedVoxGO, which is unbounded.

DirectMPIGO samples a ray where it crosses planes of equal distance in normalised device coordinates, however steeply, and each
sample is as opaque. Ours are of equal distance along the ray. So ours is in a space whose first two axes are made so short
that a ray's way through it is its way along the third: the samples are the same. Its bias is a plane's own, and is added to
the density. Directions are those of its mean camera; the turn of the world into them goes into the first layer.

DirectContractedVoxGO takes what is beyond its cube, or its ball, to a shell of the thickness `bg_len`, with a contraction
that ours is not. So its grid is sampled at the voxels of a lattice of ours, whose edge within the cube is the same. Its
density is per way in its own coordinates; ours is it times the ratio of the two ways of a ray from among the cameras.

Paper: DirectVoxGO v2 (arXiv 2206.05085).
"""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from vqrf.fields.field import Layers, RadianceField, dense_bytes
from vqrf.geometry import Float32, Float64, Lattice, Unbounded
from vqrf.interop.dvgo_parts import SMALLEST_THRESHOLD, DvgoParts
from vqrf.interop.parts import Norm, lattice_of
from vqrf.interop.values import Refused
from vqrf.kernels.constants import Equation
from vqrf.memory import expect_room

FLAT = 2.0**-10, 2.0**-10, 1.0
"""Sizes of the axes of a forward-facing field: a way in it is that along the third axis, to one in a million."""

WITHIN_PLANES = 1 - 2.0**-16
"""Share of a step that is taken, so that the last sample is before the last plane and not behind it."""

SAME_TURN = 1e-6
"""How far a turn may be from none where waves of directions do not allow one."""

FARTHEST_PLACE = 2 - 1 / 128
"""Where the lattice of an unbounded field ends: 255 times as far as its cube, where the official samples end."""

ASIDE = 1 / 3
"""Mean square of the sine between a line from the middle and a ray that comes from 0.7 halves of the cube away from it."""

MAX_BG_LEN = 16.0
LEAST_DEPTH = 1e-30
"""Of an optical depth whose density is asked for: below it nothing is seen."""


class FrontParts(DvgoParts):
    """The arguments and the state of a DirectMPIGO."""

    space = "front"
    mask_sizes = FLAT

    def lattice(self, shape: tuple[int, ...]) -> Lattice:
        low, high = self.box()
        return self.sampling.expect_ndc("act_shift.grid").lattice(low * FLAT, high * FLAT, shape, FLAT)

    def density(self, key: str) -> Float32:
        density = super().density(key)
        n_planes = density.shape[2]
        if self.shape("act_shift.grid", 5) != (1, 1, 1, 1, n_planes):
            raise Refused(f"act_shift.grid: expected one value for each of {n_planes} planes")
        shifted: Float32 = density + self.floats("act_shift.grid", 5)[0, 0]
        return shifted

    def equation(self) -> Equation:
        n_planes = self.shape("density.grid", 5)[4]
        step = self.sampling.step(1.0)
        n_steps = int((n_planes - 1) / step)
        if n_steps < 1:
            raise Refused(f"density.grid: {n_planes} planes have no two samples {step:g} apart")
        return Equation(
            density_bias=0.0,
            interval=step * self.number("voxel_size_ratio", 256 / n_planes),
            step_world=2 / n_steps * WITHIN_PLANES,
            near=self.sampling.near,
            alpha_threshold=max(self.number("fast_color_thres", 1e-4), SMALLEST_THRESHOLD),
            background=(1.0, 1.0, 1.0),
        )

    def layers(self) -> Layers:
        layers = super().layers()
        if not layers:
            return ()
        turn, n_channels = self.sampling.expect_ndc("act_shift.grid").turn, self.shape("k0.grid", 5)[1]
        weight, bias = layers[0]
        if weight.shape[1] != n_channels + 3 and np.abs(turn - np.eye(3)).max() > SAME_TURN:
            raise Refused("viewfreq: waves of directions in axes that are not the world's cannot be ours")
        turned = weight.copy()
        view = slice(n_channels, n_channels + 3)
        turned[:, view] = weight[:, view].astype(np.float64) @ turn
        return ((turned, bias), *layers[1:])


class ContractedParts(DvgoParts):
    """The arguments and the state of a DirectContractedVoxGO."""

    space = "unbounded"

    def norm(self) -> Norm:
        """Of the contraction: what the file says, or the caller."""
        said = self.arguments.get("contracted_norm", self.sampling.norm)
        if said is None:
            raise Refused("scene_center: is of an unbounded scene, contracted by either norm: give --contraction inf or l2")
        if said not in get_args(Norm):
            raise Refused(f"model_kwargs contracted_norm: expected inf or l2, got {str(said)[:20]!r}")
        return said  # type: ignore[no-any-return]

    def bg_len(self) -> float:
        """The thickness of the shell, in halves of the cube."""
        low, high = self.box()
        length = float(high[0]) - 1
        if not np.allclose([*-low, *high], 1 + length, atol=1e-5) or not 0 < length <= MAX_BG_LEN:
            raise Refused(f"xyz_min, xyz_max: expected a cube with a shell around it, got {low.tolist()}, {high.tolist()}")
        return length

    def placed_lattice(self, lattice: Lattice) -> Lattice:
        center, radius = (self.array(key, 1).astype(np.float64) for key in ("scene_center", "scene_radius"))
        if center.shape != (3,) or radius.shape != (3,) or not (radius > 0).all() or np.ptp(radius) > 1e-4 * radius.max():
            raise Refused(f"scene_center, scene_radius: expected those of a cube, got {radius[:3].tolist()}")
        sides = np.rint(2 * FARTHEST_PLACE / (lattice.extent / (np.array(lattice.shape) - 1))).astype(int) + 1
        box = lattice_of([-FARTHEST_PLACE] * 3, [FARTHEST_PLACE] * 3, tuple(sides))
        return replace(box, space=Unbounded.around(center, float(radius.mean())))

    def placed(self, field: RadianceField, max_bytes: int | None) -> RadianceField:
        lattice = self.placed_lattice(field.lattice)
        shape, norm, length = lattice.shape, self.norm(), self.bg_len()
        expect_room(dense_bytes(shape, field.n_channels), max_bytes, f"a lattice of {list(shape)} voxels")
        density, features = np.empty(shape, np.float32), np.empty((*shape, field.n_channels), np.float32)
        allowed = np.zeros([side - 1 for side in shape], np.uint8)
        axes = [np.linspace(lo, hi, side) for lo, hi, side in zip(lattice.lo, lattice.hi, shape, strict=True)]
        middles = [(axis[1:] + axis[:-1]) / 2 for axis in axes]
        for x in range(shape[0]):
            contracted, ratio = _contracted(_grid(axes[0][x], *axes[1:]), norm, length)
            raw, features[x] = _sampled(field, contracted)
            density[x] = _times(raw.astype(np.float64), ratio, field.equation.density_bias)
            if x < len(middles[0]):
                allowed[x] = _allowed_at(field, _contracted(_grid(middles[0][x], *middles[1:]), norm, length)[0])
        return RadianceField(lattice, density, features, field.color_mlp, field.equation, None if allowed.all() else allowed)


def _grid(x: float, ys: Float64, zs: Float64) -> Float64:
    """Places [Y,Z,3] of a slab."""
    y, z = np.meshgrid(ys, zs, indexing="ij")
    return np.stack([np.full_like(y, x), y, z], -1)


def _contracted(places: Float64, norm: Norm, length: float) -> tuple[Float64, Float64]:
    """Where the official contraction has these places [...,3] of ours, and the way [...] of a ray there for one of ours.

    Along a line from the middle, what is at y, of the size r by the norm of the contraction, is at y as long as r is at most 1,
    and beyond it at (1 + length - length / r) y / r; ours is at 2 y / (1 + r) with the largest coordinate for r. The square
    of the sine between such a line and a ray from among the cameras is `ASIDE` / r^2 in the mean.
    """
    largest = np.abs(places).max(-1)
    y = places / np.minimum(2 - largest, 1)[..., None]
    theirs, ours = (np.maximum(size, 1) for size in (_sizes(y, norm), _sizes(y, "inf")))
    shrunk = (1 + length - length / theirs) / theirs
    along = np.where(theirs <= 1, 1, length / theirs**2), np.where(ours <= 1, 1, 2 / (1 + ours) ** 2)
    across = shrunk, 2 / (1 + ours)
    share = ASIDE / ours**2
    way, own = (np.sqrt((1 - share) * a**2 + share * b**2) for a, b in zip(along, across, strict=True))
    return y * shrunk[..., None], way / own


def _sizes(y: Float64, norm: Norm) -> Float64:
    sizes: Float64 = np.abs(y).max(-1) if norm == "inf" else np.linalg.norm(y, axis=-1)
    return sizes


def _sampled(field: RadianceField, places: Float64) -> tuple[Float32, Float32]:
    """Raw density [...] and features [...,C] at places [...,3] of a field, trilinear; outside of it as at its border."""
    most = np.array(field.lattice.shape) - 1
    index = np.clip(field.lattice.index_from_place(places), 0, most)
    low = np.minimum(index.astype(np.int64), most - 1)
    share = (index - low).astype(np.float32)
    density = np.zeros(places.shape[:-1], np.float32)
    features = np.zeros((*places.shape[:-1], field.n_channels), np.float32)
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, share, 1 - share), -1)
        at = tuple(np.moveaxis(low + corner, -1, 0))
        density += weight * field.density[at]
        features += weight[..., None] * field.features[at]
    return density, features


def _times(raw: Float64, ratio: Float64, bias: float) -> Float64:
    """The raw density whose softplus is `ratio` times that of another: log(exp(ratio softplus(raw + bias)) - 1) - bias."""
    depth = np.maximum(ratio * np.logaddexp(0, raw + bias), LEAST_DEPTH)
    made: Float64 = depth + np.log(-np.expm1(-depth)) - bias
    return made


def _allowed_at(field: RadianceField, places: Float64) -> NDArray[np.uint8] | int:
    """Whether the cells at these places of the field's lattice may hold anything."""
    if field.allowed is None:
        return 1
    most = np.array(field.allowed.shape) - 1
    cells = np.clip(field.lattice.index_from_place(places).astype(np.int64), 0, most)
    allowed: NDArray[np.uint8] = field.allowed[tuple(np.moveaxis(cells, -1, 0))]
    return allowed
