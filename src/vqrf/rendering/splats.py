"""A field as Gaussian splats, for programs that draw these: PLY as 3D Gaussian splatting has it, and SPZ.

A voxel that somebody sees becomes one Gaussian, as wide along all axes. The splats of a lattice, one a voxel, of standard
deviation s voxels and peak opacity o, have in the mean an optical depth on a way of one voxel of

    2 pi s^2 Li2(o),    Li2(o) = integral of -ln(1 - u) / u from 0 to o,

as a ray meets their profiles o exp(-r^2 / 2 s^2) evenly at all r, and -ln(1 - x) is the depth of an opacity x. So o follows
from the field's own depth. Colours are spherical harmonics of degree 1, by least squares over directions, mostly those that see
the voxel from outside. It is an approximation, and what it loses is measured.

Source: 3D Gaussian splatting (arXiv 2308.04079), its files and its way to draw. Departs: nothing is trained.
"""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vqrf.codec.about import NOTHING, About
from vqrf.data.rays import CameraTable
from vqrf.data.scene import View
from vqrf.fields.field import RadianceField
from vqrf.geometry import GOLDEN_ANGLE, Camera, Float32, Float64, Vector, Z
from vqrf.kernels import select
from vqrf.memory import expect_room
from vqrf.rendering.evaluate import psnr
from vqrf.rendering.render import own_scene
from vqrf.rendering.surface import turn_up

SPREAD = 0.6
"""Standard deviation of a splat, in voxels."""

N_VIEWS, N_SCORED, SIDE = 24, 4, 200
"""Own renders, by which a voxel is seen or not, others for the score, and their pixels."""

N_DIRECTIONS = 20
FROM_ASIDE = 0.05
"""Weight of a direction that does not see a voxel from outside, where straight from outside has 1."""

OPAQUE = 1 - 1e-5
FAINTEST, DENSEST = 1 / 255, 0.99
"""Opacities: of less a splat is not drawn, and more it may not have."""

BLUR = 0.3
"""Pixels squared, which drawing adds to the variance of a splat."""
REACH = 3.0
"""Standard deviations at which a splat ends."""

BYTES_OF_VOXEL, BYTES_OF_SPLAT, BYTES_OF_PAIR = 64, 400, 60
VOXELS_PER_BATCH = 1 << 14

HARMONIC_0, HARMONIC_1 = 0.28209479177387814, 0.4886025119029199
SIGNS = np.array([-1.0, -1.0, 1.0])
"""Of the harmonics of degree 1 that are proportional to x, y, z."""

SPZ_MAGIC, SPZ_VERSION, SPZ_BITS = 0x5053474E, 2, 22
SPZ_SIZES = -10.0, 5.9375
"""Logarithms of standard deviations."""
SPZ_COLOR_SCALE = 0.15


@dataclass(frozen=True, eq=False)
class Splats:
    """Gaussians that are as wide along each axis of the world as its voxel.

    Attributes:
      positions: [N,3] float32, world units.
      sigmas: [3] float32, their standard deviations, world units.
      opacities: [N] float32, of their middles, 0..1.
      harmonics: [N,4,3] float32: rgb is 0.5 plus their sum with the real spherical harmonics of degree 0 and 1 of the direction
        of view.
    """

    positions: Float32
    sigmas: Float32
    opacities: Float32
    harmonics: Float32


def splats_of(field: RadianceField, about: About = NOTHING) -> tuple[Splats, float]:
    """The splats of a field, and their PSNR in dB against it on views that did not choose them.

    Deterministic.

    Raises:
      ValueError: nothing of the field is seen, or it is in no box.
      OverBudget: it takes too much memory.
    """
    lattice = field.lattice
    if lattice.space is not None:
        raise ValueError(f"is in the space {lattice.space.name}, of which no splats are made")
    expect_room(BYTES_OF_VOXEL * lattice.n_voxels, None, f"splats of {lattice.n_voxels} voxels")
    scene = own_scene(field, N_VIEWS, SIDE, about=about)
    opacities = np.where(_seen_by(field, scene.train), _opacities(field), 0)
    chosen = opacities >= FAINTEST
    if not chosen.any():
        raise ValueError("nothing of it is seen")
    index = np.argwhere(chosen)
    expect_room(BYTES_OF_SPLAT * len(index), None, f"{len(index)} splats")
    positions = lattice.world_from_index(index)
    harmonics = _harmonics(field, chosen, positions)
    splats = Splats(
        positions.astype(np.float32),
        (SPREAD * lattice.extent / (np.array(lattice.shape) - 1)).astype(np.float32),
        opacities[chosen].astype(np.float32),
        harmonics,
    )
    background = np.array(field.equation.background)
    scores = [psnr(draw_splats(splats, view.camera, background), view.colors()) for view in scene.test[:N_SCORED]]
    return splats, float(np.mean(scores))


def _seen_by(field: RadianceField, views: tuple[View, ...]) -> NDArray[np.bool_]:
    """Voxels [X,Y,Z] that give anything to a picture."""
    kernels, volume, importance = select(), field.volume(), np.zeros(field.lattice.shape)
    for view in views:
        table = CameraTable([view.camera])
        kernels.accumulate_importance(volume, *table.rays(np.arange(table.n_pixels)), importance)
    return importance > 0


def _opacities(field: RadianceField) -> Float64:
    """Of the middles of splats [X,Y,Z] that are to absorb what voxels do."""
    equation, lattice = field.equation, field.lattice
    raw = field.density.astype(np.float64) + equation.density_bias
    depth = equation.interval * (np.maximum(raw, 0) if equation.activation == "relu" else np.logaddexp(raw, 0))
    voxel = float((lattice.extent / (np.array(lattice.shape) - 1)).mean())
    o = np.linspace(0, DENSEST, 4096)
    rising = np.concatenate([[1.0], -np.log1p(-o[1:]) / o[1:]])
    dilogarithm = np.concatenate([[0.0], np.cumsum((rising[1:] + rising[:-1]) / 2 * np.diff(o))])
    return np.interp(depth * (voxel / equation.step_world), 2 * np.pi * SPREAD**2 * dilogarithm, o)


def _harmonics(field: RadianceField, chosen: NDArray[np.bool_], positions: Float64) -> Float32:
    """Least squares of the colours of voxels over directions, [N,4,3].

    The colour of a voxel is what a ray sees that begins there, in a field that is opaque where it has voxels of a splat.
    """
    opaque = np.where(chosen, np.float32(field.equation.density_of(OPAQUE)), field.density)
    volume = replace(field, density=opaque, equation=replace(field.equation, near=0.0)).volume()
    voxel = field.lattice.extent / (np.array(field.lattice.shape) - 1)
    gradient = np.stack([np.gradient(field.density, voxel[axis], axis=axis)[chosen] for axis in range(3)], -1)
    outwards = -gradient / np.maximum(np.linalg.norm(gradient, axis=-1, keepdims=True), 1e-6)
    directions = _directions(N_DIRECTIONS)
    basis = _basis(directions)
    found = np.empty((len(positions), 4, 3), np.float32)
    for start in range(0, len(positions), VOXELS_PER_BATCH):
        batch = slice(start, start + VOXELS_PER_BATCH)
        n = len(positions[batch])
        origins = np.repeat(positions[batch].astype(np.float32), N_DIRECTIONS, 0)
        rgb, _, _ = select().render_rays(volume, origins, np.tile(directions.astype(np.float32), (n, 1)))
        weights = np.maximum(-outwards[batch] @ directions.T, FROM_ASIDE)
        normal = np.einsum("nd,dk,dl->nkl", weights, basis, basis)
        right = np.einsum("nd,dk,ndc->nkc", weights, basis, np.reshape(rgb, (n, N_DIRECTIONS, 3)) - 0.5)
        found[batch] = np.linalg.solve(normal, right)
    return found


def _directions(n: int) -> Float64:
    """Unit vectors [n,3], evenly over the sphere."""
    z = 1 - (2 * np.arange(n) + 1) / n
    angle, flat = np.arange(n) * GOLDEN_ANGLE, np.sqrt(1 - z**2)
    return np.stack([flat * np.cos(angle), flat * np.sin(angle), z], -1)


def _basis(directions: Float64) -> Float64:
    """The real spherical harmonics of degree 0 and 1, [...,4], in the order and with the signs of 3D Gaussian splatting."""
    x, y, z = np.moveaxis(directions, -1, 0)
    return np.stack([np.full_like(x, HARMONIC_0), -HARMONIC_1 * y, HARMONIC_1 * z, -HARMONIC_1 * x], -1)


def draw_splats(splats: Splats, camera: Camera, background: Float64) -> Float32:
    """A picture [H,W,3] float32, 0..1, before a background [3], as 3D Gaussian splatting draws it: slow, and plain to read.

    Each splat is projected to an ellipse, by the first order of the projection at its middle; pixels add what ellipses give
    them, the nearest first.

    Source: arXiv 2308.04079, sections 4 and 6. Departs: all pairs of splats and pixels are sorted at once.
    """
    local = (splats.positions - camera.pose[:3, 3]) @ camera.pose[:3, :3] * (1, -1, -1)
    order = np.argsort(local[:, 2], kind="stable")
    order = order[local[order, 2] > max(1e-6, float(splats.sigmas.max()))]
    x, y, z = local[order].T
    middle = np.stack([camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy], -1)
    zero = np.zeros_like(z)
    jacobian = np.stack([camera.fx / z, zero, -camera.fx * x / z**2, zero, camera.fy / z, -camera.fy * y / z**2], -1)
    turned = (camera.pose[:3, :3] * (1, -1, -1)).T
    spread = jacobian.reshape(-1, 2, 3) @ turned * splats.sigmas
    covariance = spread @ spread.transpose(0, 2, 1) + BLUR * np.eye(2)
    directions = splats.positions[order] - camera.pose[:3, 3]
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    colors = np.clip(0.5 + np.einsum("nk,nkc->nc", _basis(directions.astype(np.float64)), splats.harmonics[order]), 0, None)
    rank, pixel, alpha = _pairs(middle, covariance, splats.opacities[order], (camera.width, camera.height))
    nearest_first = np.argsort(pixel * len(order) + rank)
    rank, pixel, alpha = rank[nearest_first], pixel[nearest_first], alpha[nearest_first]
    depth = np.cumsum(-np.log1p(-alpha))
    before = depth + np.log1p(-alpha)
    starts = np.searchsorted(pixel, pixel)
    weight = alpha * np.exp(before[starts] - before)
    n_pixels = camera.width * camera.height
    light = 1 - np.bincount(pixel, weight, n_pixels)
    sums = np.stack([np.bincount(pixel, weight * colors[rank, c], n_pixels) for c in range(3)], -1)
    image = np.clip(sums + light[:, None] * background, 0, 1)
    return image.reshape(camera.height, camera.width, 3).astype(np.float32)


def _pairs(
    middle: Float64, covariance: Float64, opacities: Float32, size: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Float64]:
    """Which splat gives something to which pixel, and its opacity there: three arrays [P].

    Args:
      middle: [N,2], pixels; covariance: [N,2,2], pixels squared; size: width and height.
    """
    trace, determinant = covariance[:, 0, 0] + covariance[:, 1, 1], np.linalg.det(covariance)
    widest = trace / 2 + np.sqrt(np.maximum(trace**2 / 4 - determinant, 0))
    reach = np.minimum(np.ceil(REACH * np.sqrt(widest)), max(size)).astype(int)
    inside = ((middle > -reach[:, None]) & (middle < np.array(size) + reach[:, None])).all(-1)
    expect_room(BYTES_OF_PAIR * int(((2 * reach[inside] + 1) ** 2).sum()), None, f"a picture of {inside.sum()} splats")
    conic = np.linalg.inv(covariance)
    found = []
    for radius in np.unique(reach[inside]):
        rows = np.flatnonzero(inside & (reach == radius))
        offsets = np.stack(np.meshgrid(*[np.arange(-radius, radius + 1)] * 2), -1).reshape(-1, 2)
        pixels = np.floor(middle[rows]).astype(int)[:, None] + offsets
        away = pixels + 0.5 - middle[rows][:, None]
        power = np.einsum("npi,nij,npj->np", away, conic[rows], away)
        alpha = np.minimum(opacities[rows][:, None] * np.exp(-power / 2), DENSEST)
        is_there = (alpha >= FAINTEST) & (pixels >= 0).all(-1) & (pixels < size).all(-1)
        row, at = np.nonzero(is_there)
        found.append((rows[row], pixels[row, at, 1] * size[0] + pixels[row, at, 0], alpha[row, at]))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    ranks, numbers, alphas = zip(*found, strict=True)
    return np.concatenate(ranks), np.concatenate(numbers), np.concatenate(alphas)


# ------------------------------------------------------------------------------------------------------------------- files


def turned(splats: Splats, turn: list[float]) -> Splats:
    """The same in a world that is turned by a quaternion x, y, z, w; their widths are as before, along axes that turn too."""
    x, y, z, w = turn
    across = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = np.eye(3) + 2 * w * across + 2 * across @ across
    vectors = splats.harmonics[:, [3, 1, 2]] * SIGNS[:, None]  # harmonics of degree 1 turn as vectors do
    vectors = np.einsum("ij,njc->nic", matrix, vectors) * SIGNS[:, None]
    harmonics = np.concatenate([splats.harmonics[:, :1], vectors[:, [1, 2, 0]]], 1).astype(np.float32)
    return replace(splats, positions=(splats.positions @ matrix.T).astype(np.float32), harmonics=harmonics)


def splat_ply_of(splats: Splats, up: Vector = Z) -> bytes:
    """A binary PLY file with the properties that 3D Gaussian splatting has: opacities as logits, sizes as logarithms.

    It is turned so that `up` is -y, as programs take it that read such files.
    """
    turn = turn_up((-up[0], -up[1], -up[2]))
    splats, n = turned(splats, turn), len(splats.positions)
    rest = splats.harmonics[:, 1:].transpose(0, 2, 1).reshape(n, -1)  # by colour, then by harmonic
    names = ["x", "y", "z", *(f"f_dc_{c}" for c in range(3)), *(f"f_rest_{i}" for i in range(rest.shape[1])), "opacity"]
    names += [f"scale_{axis}" for axis in range(3)] + [f"rot_{i}" for i in range(4)]
    logits = np.log(splats.opacities) - np.log1p(-splats.opacities)
    parts = (splats.positions, splats.harmonics[:, 0], rest, logits[:, None])
    table = np.concatenate([*parts, np.tile(np.log(splats.sigmas), (n, 1)), np.tile([turn[3], *turn[:3]], (n, 1))], 1)
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {n}", *(f"property float {name}" for name in names)]
    return "\n".join([*head, "end_header\n"]).encode() + table.astype("<f4").tobytes()


def spz_of(splats: Splats, up: Vector = Z) -> bytes:
    """An SPZ file of version 2, a sixth of the PLY's size; turned so that `up` is its y.

    Source: github.com/nianticlabs/spz. Positions are whole numbers of 24 bits, of which at most `SPZ_BITS` are behind the
    point, fewer for a larger scene; everything else has 8 bits. Deterministic.

    Raises:
      ValueError: the scene is too large or too small for it.
    """
    turn = turn_up(up)
    splats, n = turned(splats, turn), len(splats.positions)
    farthest, thinnest = float(np.abs(splats.positions).max()), float(splats.sigmas.min())
    bits = min(SPZ_BITS, SPZ_BITS - int(np.ceil(np.log2(max(farthest, 1e-9)))))
    logs = np.log(splats.sigmas)
    if bits < 0 or 2.0**-bits > thinnest / 4 or logs.min() < SPZ_SIZES[0] or logs.max() > SPZ_SIZES[1]:
        raise ValueError(f"reaches {farthest:.3g} from the origin by splats of {thinnest:.3g}, which SPZ cannot tell")
    fixed = np.ascontiguousarray(np.rint(splats.positions.astype(np.float64) * 2**bits).astype("<i4"))
    places = fixed.view(np.uint8).reshape(n, 3, 4)[..., :3]
    colors = _bytes(splats.harmonics[:, 0] * (SPZ_COLOR_SCALE * 255) + 127.5)
    sizes = np.tile(_bytes((logs + 10) * 16), (n, 1))
    turns = np.tile(_bytes(np.array(turn[:3]) * 127.5 + 127.5), (n, 1))
    rest = _bytes(splats.harmonics[:, 1:] * 128 + 128)
    parts = (places, _bytes(splats.opacities * 255), colors, sizes, turns, rest)
    head = struct.pack("<IIIBBBB", SPZ_MAGIC, SPZ_VERSION, n, 1, bits, 0, 0)
    return gzip.compress(head + b"".join(np.ascontiguousarray(part).tobytes() for part in parts), mtime=0)


def _bytes(values: Float32 | Float64) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
