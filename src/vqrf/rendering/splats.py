"""A field as Gaussian splats, for programs that draw these: PLY as 3D Gaussian splatting has it, and SPZ.

A voxel that somebody sees becomes one Gaussian, as wide along all axes of places. The splats of a lattice, one a voxel, of
standard deviation s voxels and peak opacity o, have in the mean an optical depth on a way of one voxel of

    2 pi s^2 Li2(o),    Li2(o) = integral of -ln(1 - u) / u from 0 to o,

as a ray meets their profiles o exp(-r^2 / 2 s^2) evenly at all r, and -ln(1 - x) is the depth of an opacity x. So o follows
from the field's own depth.

In a space that is no box, a voxel is a skewed cell of the world. Its Gaussian goes through the slope J of the map from places
to the world: a covariance s^2 (J v) (J v)^T, v the edges of a voxel. What a linear map does to splats it does to rays, so that
depths stay as they are: a step of places is as opaque wherever it is. Two things are bounded: how deep a splat is, which nobody
sees from where the cameras were, and how far off it is.

Colours are spherical harmonics of degree 1, by least squares over directions, mostly those that see the voxel from outside. It
is an approximation, and what it loses is measured.

Source: 3D Gaussian splatting (arXiv 2308.04079), its files and its way to draw. Departs: nothing is trained.
"""

from __future__ import annotations

import gzip
import itertools
import struct
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vqrf.cameras import GOLDEN_ANGLE, Camera, Z
from vqrf.codec.about import NOTHING, About
from vqrf.data.rays import CameraTable
from vqrf.fields.field import RadianceField
from vqrf.geometry import Float32, Float64, Lattice, Vector
from vqrf.kernels import select
from vqrf.memory import expect_room
from vqrf.rendering.evaluate import psnr
from vqrf.rendering.render import OWN_TEST_TURN, OWN_TEST_VIEWS, own_cameras, render
from vqrf.rendering.surface import rotation_of, turn_up

SPREAD = 0.4
"""Standard deviation of a splat, in voxels. Below it one sees the single splats (docs/log/splats.md)."""

N_VIEWS, N_SCORED, SIDE = 24, 4, 200
"""Own cameras, by which a voxel is seen or not, others for the score, and their pixels."""

MOST = 2_000_000
"""Splats, unless somebody asks for another number: what programs draw that show them."""

DEEPEST = 0.25
"""Standard deviation of a splat of a place, along the line of sight, by its distance from the cameras."""
FAR = 64.0
"""What is farther from the middle of cameras amid a place than so many times the farthest of them is drawn in. Seen from there,
it moves by a hundredth of a radian at most."""

N_DIRECTIONS = 20
FROM_ASIDE = 0.05
"""Weight of a direction that does not see a voxel from outside, where straight from outside has 1."""
MOST_SIGHTS = 12_000_000
"""Colours that are looked at in a place. For more, which take minutes, only every other camera counts, or fewer."""
UNSEEN = 0.1
"""Weight of a camera that does not see a voxel of a place, where the one that sees it best has 1."""
EVEN = 0.005
"""Weight of a colour that is the same from everywhere, against what few directions of a place may tell of one that is not."""

OPAQUE = 1 - 1e-5
FAINTEST, DENSEST = 1 / 255, 0.99
"""Opacities: of less a splat is not drawn, and more it may not have."""

BLUR = 0.3
"""Pixels squared, which drawing adds to the variance of a splat."""
REACH = 3.0
"""Standard deviations at which a splat ends."""
NEAREST = 1.0
"""Standard deviations, along the axis of a camera, from which on a splat is before it."""
ASIDE = 1.3
"""How far aside, by half of a picture, a splat may be for its slope; farther off it has that of there."""
LEAST_LIGHT = 1e-4
"""With less of it left, a pixel is done."""

BYTES_OF_VOXEL, BYTES_OF_SEEN, BYTES_OF_SPLAT = 64, 400, 1300
VOXELS_PER_BATCH, PAIRS_PER_BATCH = 1 << 14, 1 << 20

HARMONIC_0, HARMONIC_1 = 0.28209479177387814, 0.4886025119029199
SIGNS = np.array([-1.0, -1.0, 1.0])
"""Of the harmonics of degree 1 that are proportional to x, y, z."""

SPZ_MAGIC, SPZ_VERSION, SPZ_BITS = 0x5053474E, 2, 22
SPZ_SIZES = -10.0, 5.9375
"""Logarithms of standard deviations."""
SPZ_COLOR_SCALE = 0.15


@dataclass(frozen=True, eq=False)
class Splats:
    """Gaussians.

    Attributes:
      positions: [N,3] float32, world units.
      axes: [N,3,3] float32, world units: their covariances are axes @ axes^T. In a box, the columns are its axes, as long as
        the standard deviations.
      opacities: [N] float32, of their middles, 0..1.
      harmonics: [N,4,3] float32: rgb is 0.5 plus their sum with the real spherical harmonics of degree 0 and 1 of the direction
        of view.
    """

    positions: Float32
    axes: Float32
    opacities: Float32
    harmonics: Float32


@dataclass(frozen=True)
class Kept:
    """What splats are of a field.

    Attributes:
      psnr: in dB, against the field on views that did not choose them.
      n_seen: how many voxels are seen, of which each is a splat, or is left out.
      share: of the importance of these, in the splats, 0..1.
    """

    psnr: float
    n_seen: int
    share: float


def splats_of(field: RadianceField, about: About = NOTHING, most: int = MOST) -> tuple[Splats, Kept]:
    """The splats of a field, one for each voxel that cameras see: around a box, or where they were in a place.

    Deterministic.

    Args:
      most: if more voxels are seen, those are taken that give most to pictures.

    Raises:
      ValueError: nothing of the field is seen, nobody knows where its cameras were, or `most` is below 1.
      OverBudget: it takes too much memory.
    """
    if most < 1:
        raise ValueError(f"expected at least 1 splat, got {most}")
    lattice = field.lattice
    expect_room(BYTES_OF_VOXEL * lattice.n_voxels, None, f"splats of {lattice.n_voxels} voxels")
    cameras = own_cameras(field, N_VIEWS, SIDE, about=about)
    eyes = np.stack([camera.pose[:3, 3] for camera in cameras])
    seen, given = _importance(field, cameras)
    index = np.stack(np.unravel_index(seen, lattice.shape), -1)
    opacities = _opacities(field, index, eyes)
    total = np.where(opacities >= FAINTEST, given.sum(1, dtype=np.float64), 0)
    if not total.any():
        raise ValueError("nothing of it is seen")
    kept = np.argsort(-total, kind="stable")[: min(most, n_seen := int(np.count_nonzero(total)))]
    kept.sort()
    expect_room(BYTES_OF_SPLAT * len(kept), None, f"{len(kept)} splats")
    index, given = index[kept], given[kept]
    positions, axes = _placed(lattice, index, eyes)
    harmonics = harmonics_of(field, index, None if lattice.space is None else (eyes, given))
    splats = Splats(positions.astype(np.float32), axes.astype(np.float32), opacities[kept].astype(np.float32), harmonics)
    return splats, Kept(_score(splats, field, about), n_seen, float(total[kept].sum() / total.sum()))


def _score(splats: Splats, field: RadianceField, about: About) -> float:
    volume, background = field.volume(), np.array(field.equation.background)
    cameras = own_cameras(field, OWN_TEST_VIEWS, SIDE, turn=OWN_TEST_TURN, about=about)[:N_SCORED]
    scores = [psnr(draw_splats(splats, camera, background), render(volume, camera).rgb) for camera in cameras]
    return float(np.mean(scores))


def _importance(field: RadianceField, cameras: tuple[Camera, ...]) -> tuple[NDArray[np.int64], Float32]:
    """Which voxels [N] are seen, by their numbers, ascending, and what each gives to the picture of each camera, [N,V]."""
    kernels, volume, found = select(), field.volume(), []
    importance = np.zeros(field.lattice.shape)
    flat = importance.reshape(-1)
    for camera in cameras:
        table = CameraTable([camera])
        kernels.accumulate_importance(volume, *table.rays(np.arange(table.n_pixels)), importance)
        numbers = np.flatnonzero(flat)
        found.append((numbers, flat[numbers]))
        flat[numbers] = 0
    seen = np.unique(np.concatenate([numbers for numbers, _ in found]))
    expect_room((BYTES_OF_SEEN + 4 * len(cameras)) * len(seen), None, f"{len(seen)} voxels that are seen")
    given = np.zeros((len(seen), len(cameras)), np.float32)
    for view, (numbers, values) in enumerate(found):
        given[np.searchsorted(seen, numbers), view] = values
    return seen, given


def _placed(lattice: Lattice, index: NDArray[np.int64], eyes: Float64) -> tuple[Float64, Float64]:
    """Where the splats of voxels [N,3] are, and their axes [N,3,3]; seen from amid `eyes` [V,3] they are as large as voxels."""
    positions, axes = lattice.world_from_index(index), SPREAD * lattice.edges_from_index(index)
    if lattice.space is None:
        return positions, axes
    middle = eyes.mean(0)
    away = positions - middle
    distance = np.linalg.norm(away, axis=-1, keepdims=True)
    sight = away / np.maximum(distance, np.finfo(np.float64).tiny)
    along = np.einsum("ni,nij->nj", sight, axes)
    depth = np.linalg.norm(along, axis=-1, keepdims=True)
    too_deep = np.maximum(1 - DEEPEST * distance / np.maximum(depth, np.finfo(np.float64).tiny), 0)
    axes = axes - sight[:, :, None] * (too_deep * along)[:, None, :]
    far = FAR * float(np.linalg.norm(eyes - middle, axis=-1).max())
    nearer = np.where(distance > far, far / distance * (2 - far / distance), 1.0)  # what is endlessly far is twice as far
    return middle + nearer * away, nearer[..., None] * axes


def _opacities(field: RadianceField, index: NDArray[np.int64], eyes: Float64) -> Float64:
    """Of the middles of splats [N] that are to absorb what voxels [N,3] do, on the way of a ray from amid `eyes` [V,3]."""
    equation, lattice = field.equation, field.lattice
    depth = equation.depth_of(field.density[tuple(index.T)])
    edges = lattice.extent / (np.array(lattice.shape) - 1)
    voxel: float | Float64 = float(edges.mean())
    if lattice.space is not None:
        sight = (lattice.world_from_index(index) - eyes.mean(0))[..., None]
        step = np.linalg.solve(lattice.edges_from_index(index), sight)[..., 0]  # of voxels, along the ray
        voxel = np.linalg.norm(step * edges, axis=-1) / np.linalg.norm(step, axis=-1)
    o = np.linspace(0, DENSEST, 4096)
    rising = np.concatenate([[1.0], -np.log1p(-o[1:]) / o[1:]])
    dilogarithm = np.concatenate([[0.0], np.cumsum((rising[1:] + rising[:-1]) / 2 * np.diff(o))])
    opacities: Float64 = np.interp(depth * (voxel / equation.step_world), 2 * np.pi * SPREAD**2 * dilogarithm, o)
    return opacities


def harmonics_of(field: RadianceField, index: NDArray[np.int64], sights: tuple[Float64, Float32] | None = None) -> Float32:
    """The colours of voxels [N,3] as harmonics of degree 0 and 1, by least squares over directions, [N,4,3]: see `Splats`.

    The colour of a voxel is what a ray sees that begins there, in a field that is opaque where it has one of these voxels. In a
    box, directions are all, and those count most that see the voxel from outside. In a place they are those of the cameras, by
    the root of how much they see of it, as others will see it from between them.

    Args:
      sights: of a place: where cameras are, [V,3], and what voxels give to their pictures, [N,V].
    """
    lattice, at = field.lattice, tuple(index.T)
    opaque = field.density.copy()
    opaque[at] = field.equation.density_of(OPAQUE)
    volume = replace(field, density=opaque, equation=replace(field.equation, near=0.0)).volume()
    found, ridge = np.empty((len(index), 4, 3), np.float32), np.zeros((4, 4))
    if sights is None:
        outwards = _outwards(field, index)
    else:
        ridge, (eyes, given) = EVEN * np.diag([0.0, 1.0, 1.0, 1.0]), sights
        every = -(-given.size // MOST_SIGHTS)
        eyes, given = eyes[::every], given[:, ::every]
    for start in range(0, len(index), VOXELS_PER_BATCH):
        batch = slice(start, start + VOXELS_PER_BATCH)
        positions = lattice.world_from_index(index[batch])
        if sights is None:
            directions = np.broadcast_to(_directions(N_DIRECTIONS), (len(positions), N_DIRECTIONS, 3))
            weights = np.maximum(-np.einsum("ni,ndi->nd", outwards[batch], directions), FROM_ASIDE)
        else:
            directions = positions[:, None] - eyes
            directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
            weights = np.sqrt(given[batch] / np.maximum(given[batch].max(1, keepdims=True), 1e-9)) + UNSEEN
        origins = np.repeat(positions.astype(np.float32), directions.shape[1], 0)
        rgb, _, _ = select().render_rays(volume, origins, directions.reshape(-1, 3).astype(np.float32))
        basis, weights = _basis(directions), weights / weights.sum(1, keepdims=True)
        normal = np.einsum("nd,ndk,ndl->nkl", weights, basis, basis) + ridge
        right = np.einsum("nd,ndk,ndc->nkc", weights, basis, rgb.reshape(*weights.shape, 3) - 0.5)
        found[batch] = np.linalg.solve(normal, right)
    return found


def _outwards(field: RadianceField, index: NDArray[np.int64]) -> Float64:
    """Unit vectors [N,3] to where the field of a box is thinner."""
    voxel, at = field.lattice.extent / (np.array(field.lattice.shape) - 1), tuple(index.T)
    gradient = np.stack([np.gradient(field.density, voxel[axis], axis=axis)[at] for axis in range(3)], -1)
    outwards: Float64 = -gradient / np.maximum(np.linalg.norm(gradient, axis=-1, keepdims=True), 1e-6)
    return outwards


def _directions(n: int) -> Float64:
    """Unit vectors [n,3], evenly over the sphere."""
    z = 1 - (2 * np.arange(n) + 1) / n
    angle, flat = np.arange(n) * GOLDEN_ANGLE, np.sqrt(1 - z**2)
    return np.stack([flat * np.cos(angle), flat * np.sin(angle), z], -1)


def _basis(directions: Float64) -> Float64:
    """The real spherical harmonics of degree 0 and 1, [...,4], in the order and with the signs of 3D Gaussian splatting."""
    x, y, z = np.moveaxis(directions, -1, 0)
    return np.stack([np.full_like(x, HARMONIC_0), -HARMONIC_1 * y, HARMONIC_1 * z, -HARMONIC_1 * x], -1)


@dataclass(frozen=True, eq=False)
class _Ellipses:
    """Splats that a camera sees, the nearest first.

    Attributes:
      middle: [N,2], pixels; conic: [N,2,2], 1 / pixels squared, the inverses of their covariances.
      first, last: [N,2], columns and rows of the pixels between which one is.
      opacity, color: [N], [N,3].
    """

    middle: Float64
    conic: Float64
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    opacity: Float64
    color: Float64

    @property
    def n_pixels(self) -> NDArray[np.int64]:
        """[N], of the boxes around them."""
        counts: NDArray[np.int64] = (self.last - self.first + 1).prod(-1)
        return counts

    def where(self, which: slice | NDArray[np.bool_]) -> _Ellipses:
        return _Ellipses(**{name: value[which] for name, value in vars(self).items()})


def draw_splats(splats: Splats, camera: Camera, background: Float64) -> Float32:
    """A picture [H,W,3] float32, 0..1, before a background [3], as 3D Gaussian splatting draws it: slow, and plain to read.

    Each splat is projected to an ellipse, by the first order of the projection at its middle; pixels add what ellipses give
    them, the nearest first. A splat in which the camera stands is not drawn. Memory is bounded, as splats are drawn in batches.

    Source: arXiv 2308.04079, sections 4 and 6. Departs: pixels are no tiles; a splat is too near by its own size.
    """
    ellipses = _ellipses(splats, camera)
    light, sums = np.ones(camera.width * camera.height), np.zeros((camera.width * camera.height, 3))
    ends = np.cumsum(ellipses.n_pixels)
    start = 0
    while start < len(ends) and (light > LEAST_LIGHT).any():
        drawn = int(ends[start - 1]) if start else 0
        end = max(int(np.searchsorted(ends, drawn + PAIRS_PER_BATCH, side="right")), start + 1)
        batch = ellipses.where(slice(start, end))
        batch = batch.where(_is_lit(batch, light.reshape(camera.height, camera.width) > LEAST_LIGHT))
        _add_batch(batch, camera.width, light, sums)
        start = end
    image = np.clip(sums + light[:, None] * background, 0, 1)
    return image.reshape(camera.height, camera.width, 3).astype(np.float32)


def _ellipses(splats: Splats, camera: Camera) -> _Ellipses:
    turn = (camera.pose[:3, :3] * (1, -1, -1)).T
    local = (splats.positions - camera.pose[:3, 3]) @ turn.T
    deep = np.linalg.norm(np.einsum("i,nij->nj", turn[2], splats.axes), axis=-1)
    order = np.argsort(local[:, 2], kind="stable")
    order = order[local[order, 2] > np.maximum(NEAREST * deep[order], 1e-6)]
    x, y, z = local[order].T
    focal, size = np.array([camera.fx, camera.fy]), np.array([camera.width, camera.height])
    middle = np.stack([x / z, y / z], -1) * focal + (camera.cx, camera.cy)
    aside = (np.clip(middle, (0.5 - ASIDE / 2) * size, (0.5 + ASIDE / 2) * size) - (camera.cx, camera.cy)) / focal
    jacobian = np.zeros((len(z), 2, 3))
    jacobian[:, 0, 0], jacobian[:, 1, 1] = focal[:, None] / z
    jacobian[:, :, 2] = -aside * focal / z[:, None]
    spread = jacobian @ (turn @ splats.axes[order])
    covariance = spread @ spread.transpose(0, 2, 1) + BLUR * np.eye(2)
    half = REACH * np.sqrt(np.stack([covariance[:, 0, 0], covariance[:, 1, 1]], -1))
    is_seen = ((middle + half > 0) & (middle - half < size)).all(-1)
    order, middle, half = order[is_seen], middle[is_seen], half[is_seen]
    first, last = (np.clip(np.floor(middle + sign * half), 0, size - 1).astype(np.int64) for sign in (-1, 1))
    directions = splats.positions[order] - camera.pose[:3, 3]
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    color = np.clip(0.5 + np.einsum("nk,nkc->nc", _basis(directions), splats.harmonics[order]), 0, None)
    opacity = splats.opacities[order].astype(np.float64)
    return _Ellipses(middle, np.linalg.inv(covariance[is_seen]), first, last, opacity, color)


def _is_lit(ellipses: _Ellipses, lit: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the ellipses have any of the lit pixels [H,W] in the boxes around them."""
    sums = np.pad(lit.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    (left, top), (right, bottom) = ellipses.first.T, ellipses.last.T + 1
    is_lit: NDArray[np.bool_] = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left] > 0
    return is_lit


def _add_batch(ellipses: _Ellipses, width: int, light: Float64, sums: Float64) -> None:
    """Add what ellipses give to pixels, and take the light that they take from these, both in place.

    Args:
      light: [H*W], what is left of it, 0..1; sums: [H*W,3].
    """
    counts = ellipses.n_pixels
    rank = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(rank)) - np.repeat(np.cumsum(counts) - counts, counts)
    row, column = np.divmod(number, (ellipses.last - ellipses.first + 1)[rank, 0])
    place = np.stack([column, row], -1) + ellipses.first[rank]
    away = place + 0.5 - ellipses.middle[rank]
    power = np.einsum("pi,pij,pj->p", away, ellipses.conic[rank], away)
    alpha = np.minimum(ellipses.opacity[rank] * np.exp(-power / 2), DENSEST)
    pixel = place[:, 1] * width + place[:, 0]
    there = np.flatnonzero((alpha >= FAINTEST) & (light[pixel] > LEAST_LIGHT))
    there = there[np.argsort(pixel[there], kind="stable")]
    rank, pixel, alpha = rank[there], pixel[there], alpha[there]
    depth = -np.log1p(-alpha)
    before = np.cumsum(depth) - depth
    weight = alpha * light[pixel] * np.exp(before[np.searchsorted(pixel, pixel)] - before)
    for c in range(3):
        sums[:, c] += np.bincount(pixel, weight * ellipses.color[rank, c], len(light))
    light *= np.exp(-np.bincount(pixel, depth, len(light)))


# ------------------------------------------------------------------------------------------------------------------- files


def turned(splats: Splats, turn: list[float]) -> Splats:
    """The same in a world that is turned by a quaternion x, y, z, w."""
    matrix = rotation_of(turn)
    vectors = splats.harmonics[:, [3, 1, 2]] * SIGNS[:, None]  # harmonics of degree 1 turn as vectors do
    vectors = np.einsum("ij,njc->nic", matrix, vectors) * SIGNS[:, None]
    harmonics = np.concatenate([splats.harmonics[:, :1], vectors[:, [1, 2, 0]]], 1).astype(np.float32)
    positions, axes = ((matrix @ part).astype(np.float32) for part in (splats.positions[..., None], splats.axes))
    return replace(splats, positions=positions[..., 0], axes=axes, harmonics=harmonics)


def turns_and_sizes(axes: Float32) -> tuple[Float64, Float64]:
    """Quaternions x, y, z, w and standard deviations along the axes that they turn, [N,4] and [N,3], of `Splats.axes`.

    Of the 24 turns that give one Gaussian, with its sizes in another order, it is the least: w is above 0.8.
    """
    matrix = axes.astype(np.float64)
    variances, vectors = np.linalg.eigh(matrix @ matrix.swapaxes(-1, -2))
    orders = np.array(list(itertools.permutations(range(3))))
    corners = vectors[:, np.arange(3), orders]  # [N,6,3], the diagonals of the vectors in each order
    signs = np.where(corners < 0, -1.0, 1.0)
    parity = np.linalg.det(np.eye(3)[orders]) * signs.prod(-1) * np.linalg.det(vectors)[:, None]
    least = np.eye(3)[np.abs(corners).argmin(-1)]  # a mirror becomes a turn by the sign that matters least
    signs = np.where((parity < 0)[..., None], signs * (1 - 2 * least), signs)
    best = (signs * corners).sum(-1).argmax(-1)
    order, each = orders[best], np.arange(len(best))
    turn = np.take_along_axis(vectors, order[:, None], -1) * signs[each, best][:, None]
    w = np.sqrt(1 + np.trace(turn, axis1=-2, axis2=-1)) / 2
    axis = np.stack([turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]], -1)
    sizes = np.sqrt(np.maximum(np.take_along_axis(variances, order, -1), np.finfo(np.float64).tiny))
    return np.concatenate([axis / (4 * w[:, None]), w[:, None]], -1), sizes


def splat_ply_of(splats: Splats, up: Vector = Z) -> bytes:
    """A binary PLY file with the properties that 3D Gaussian splatting has: opacities as logits, sizes as logarithms.

    It is turned so that `up` is -y, as programs take it that read such files.
    """
    splats, n = turned(splats, turn_up((-up[0], -up[1], -up[2]))), len(splats.positions)
    turns, sizes = turns_and_sizes(splats.axes)
    rest = splats.harmonics[:, 1:].transpose(0, 2, 1).reshape(n, -1)  # by colour, then by harmonic
    names = ["x", "y", "z", *(f"f_dc_{c}" for c in range(3)), *(f"f_rest_{i}" for i in range(rest.shape[1])), "opacity"]
    names += [f"scale_{axis}" for axis in range(3)] + [f"rot_{i}" for i in range(4)]
    logits = np.log(splats.opacities) - np.log1p(-splats.opacities)
    parts = (splats.positions, splats.harmonics[:, 0], rest, logits[:, None], np.log(sizes), turns[:, [3, 0, 1, 2]])
    table = np.concatenate(parts, 1)
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {n}", *(f"property float {name}" for name in names)]
    return "\n".join([*head, "end_header\n"]).encode() + table.astype("<f4").tobytes()


def spz_of(splats: Splats, up: Vector = Z) -> bytes:
    """An SPZ file of version 2, a sixth of the PLY's size; turned so that `up` is its y.

    Source: github.com/nianticlabs/spz. Positions are whole numbers of 24 bits, of which at most `SPZ_BITS` are behind the
    point, fewer for a larger scene; everything else has 8 bits. Deterministic.

    Raises:
      ValueError: the scene is too large or too small for it.
    """
    splats, n = turned(splats, turn_up(up)), len(splats.positions)
    turns, scales = turns_and_sizes(splats.axes)
    farthest, thinnest = float(np.abs(splats.positions).max()), float(scales.min())
    bits = min(SPZ_BITS, SPZ_BITS - int(np.ceil(np.log2(max(farthest, 1e-9)))))
    logs = np.log(scales)
    if bits < 0 or 2.0**-bits > thinnest / 4 or logs.min() < SPZ_SIZES[0] or logs.max() > SPZ_SIZES[1]:
        raise ValueError(f"reaches {farthest:.3g} from the origin by splats of {thinnest:.3g}, which SPZ cannot tell")
    fixed = np.ascontiguousarray(np.rint(splats.positions.astype(np.float64) * 2**bits).astype("<i4"))
    places = fixed.view(np.uint8).reshape(n, 3, 4)[..., :3]
    colors = _bytes(splats.harmonics[:, 0] * (SPZ_COLOR_SCALE * 255) + 127.5)
    sizes, angles = _bytes((logs + 10) * 16), _bytes(turns[:, :3] * 127.5 + 127.5)
    rest = _bytes(splats.harmonics[:, 1:] * 128 + 128)
    parts = (places, _bytes(splats.opacities * 255), colors, sizes, angles, rest)
    head = struct.pack("<IIIBBBB", SPZ_MAGIC, SPZ_VERSION, n, 1, bits, 0, 0)
    return gzip.compress(head + b"".join(np.ascontiguousarray(part).tobytes() for part in parts), mtime=0)


def _bytes(values: Float32 | Float64) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
