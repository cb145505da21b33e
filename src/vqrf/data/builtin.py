"""The built-in scene: an armillary sphere, ray traced, so that everything can be tried without a dataset.

It has what is hard for a radiance field and its compression: thin bands and rods in front of other things,
texture (a globe, a tiled floor), soft shadows, and highlights that move with the eye. Two shapes make all of
it, `Sphere` and `Tube`; their surfaces are closed formulas, so that tracing is a few NumPy expressions per
shape. Vectors are columns: [3,N]. z is up. Colours are computed as they are shown, without a gamma curve.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from vqrf.cameras import Camera
from vqrf.data.listing import COLORS
from vqrf.data.scene import Scene, View
from vqrf.geometry import Float64

CAMERA_ANGLE_X = 0.6911112070083618
CAMERA_DISTANCE = 4.0
NEAR, FAR = 2.0, 6.0
"""Cameras as in the Synthetic-NeRF scenes, so that every default made for those fits."""

SAMPLES_PER_SIDE = 3
"""3x3 rays per pixel, each to its own point of the lamp: smooth edges and soft shadows from the same rays. At
200x200 that is 41 dB from 9x9 rays; 2x2 is 36 dB, and what is wrong with it no field can learn."""

LAMP = np.array([0.45, -0.35, 0.82])
LAMP_RADIUS = 0.03
"""Direction to the lamp, and its radius seen from the scene (as a tangent)."""

MAX_THREADS = 8
"""Views traced at a time, at most: each takes 120 MB at 200x200."""

GROUND_RADIUS = 2.6
"""World radius of the ground: most of what the cameras see past the sphere, and well inside of `FAR`."""

PEBBLES = ((0.05, 0.5), (0.17, 0.3), (0.6, 0.2))
"""World size of the ground's spots, and their share of its brightness: from any distance there is something to find again."""

HALL_RADIUS, HALL_FLOOR, HALL_CEILING = 20.0, -0.86, 12.0
"""World lengths of the round hall: twenty times the armillary sphere across."""

HALL_NEAR = 0.8
"""`NEAR` in the hall: cameras stand lower above its floor than `NEAR`."""

PLASTER = ((0.6, 0.3), (2.0, 0.4), (6.0, 0.3))
"""As `PEBBLES`, of the hall: a pixel of a photo of 200x200 sees 0.1 of its wall."""

SURFACE_EPSILON = 1e-4
"""World units that a shadow ray starts above its surface, lest it meets it again: rays come as float32."""

Texture = Callable[[Float64], Float64]
"""World points [3,N] -> rgb [3,N]."""


@dataclass(frozen=True)
class Material:
    """How a surface answers light: `gloss` of 0 is matt, `sharpness` is the exponent of the highlight."""

    texture: Texture
    gloss: float = 0.0
    sharpness: float = 40.0


@dataclass(frozen=True)
class Sphere:
    center: Float64
    radius: float
    material: Material

    @property
    def reach(self) -> float:
        """Radius of a ball around `center` that holds the shape."""
        return self.radius

    @property
    def distance(self) -> float:
        """How far its farthest point is from the origin: rays that pass all of this by see white."""
        return float(np.linalg.norm(self.center)) + self.radius

    def distances(self, origins: Float64, directions: Float64) -> Float64:
        """[N] distance along each ray to the first surface point in front of its origin, inf: none."""
        offset = origins - self.center[:, None]
        b, c = _dot(offset, directions), _dot(offset, offset) - self.radius**2
        root = np.sqrt(np.where(b * b > c, b * b - c, np.nan))
        return _first(np.stack([-b - root, -b + root]))

    def normals(self, points: Float64) -> Float64:
        """[3,N] outward unit normals at surface points [3,N]."""
        return (points - self.center[:, None]) / self.radius


@dataclass(frozen=True)
class Tube:
    """A cylinder, with `inner_radius` a pipe: a rod if long, a disc if flat, a ring if flat and hollow."""

    center: Float64
    axis: Float64
    half_length: float
    radius: float
    material: Material
    inner_radius: float = 0.0

    @property
    def reach(self) -> float:
        return math.hypot(self.half_length, self.radius)

    @property
    def distance(self) -> float:
        along = float(self.axis @ self.center)
        across = float(np.linalg.norm(self.center - along * self.axis))
        return math.hypot(abs(along) + self.half_length, across + self.radius)

    def distances(self, origins: Float64, directions: Float64) -> Float64:
        offset = origins - self.center[:, None]
        height, climb = _dot(offset, self.axis), _dot(directions, self.axis)
        a = 1 - climb**2
        b = _dot(offset, directions) - height * climb
        c = _dot(offset, offset) - height**2
        distances = np.full(a.shape, np.inf)
        near = np.flatnonzero(b * b >= a * (c - self.radius**2))  # few, for a rod: the others pass it by
        distances[near] = self._distances(height[near], climb[near], a[near], b[near], c[near])
        return distances

    def _distances(self, height: Float64, climb: Float64, a: Float64, b: Float64, c: Float64) -> Float64:
        """With the square of the distance from the axis, at t along the ray, as a t^2 + 2 b t + c."""
        hits = []
        with np.errstate(divide="ignore", invalid="ignore"):  # along or across the axis: nan, a miss
            for radius in (self.radius, self.inner_radius)[: 2 if self.inner_radius else 1]:
                root = np.sqrt(b * b - a * (c - radius**2))
                for t in ((-b - root) / a, (-b + root) / a):
                    hits.append(np.where(np.abs(height + t * climb) <= self.half_length, t, np.nan))
            for end in (-self.half_length, self.half_length):
                t = (end - height) / climb
                square = c + t * (2 * b + t * a)
                is_on_end = (square >= self.inner_radius**2) & (square <= self.radius**2)
                hits.append(np.where(is_on_end, t, np.nan))
        return _first(np.stack(hits))

    def normals(self, points: Float64) -> Float64:
        axis = self.axis[:, None]
        offset = points - self.center[:, None]
        height = _dot(offset, axis)
        outward = offset - height * axis
        radius = np.sqrt(_dot(outward, outward))
        outward /= np.maximum(radius, 1e-12)
        # A point is on the surface that it is the least inside of: the mantle, an end, the bore.
        depths = np.abs([self.radius - radius, self.half_length - np.abs(height), radius - self.inner_radius])
        surface = np.argmin(depths[: 3 if self.inner_radius else 2], axis=0)
        return np.where(surface == 1, np.sign(height) * axis, np.where(surface == 0, outward, -outward))


Shape = Sphere | Tube


Backdrop = Literal["white", "ground", "hall"]


def built_in_scene(
    seed: int = 0, n_train: int = 50, n_test: int = 10, side: int = 200, *, backdrop: Backdrop = "white"
) -> Scene:
    """Render the built-in scene: a globe in the rings of an armillary sphere on a tiled floor.

    Args:
      seed: of the globe's continents and of where the training cameras stand.
      n_train: cameras spread evenly over the upper hemisphere; in the hall over its lower third, where they see the wall.
      n_test: cameras on a wavy circle between 13 and 47 degrees above the floor, in the hall between 6 and 20.
      side: pixels of the square images; the thinnest rod is 0.016 * side pixels wide.
      backdrop: "ground": it stands on a disc of pebbles, which photos without poses are matched by; "hall": in the middle of a
        round hall, which casts no shadow and shines by itself; the `space` of the scene is "unbounded" then.

    Deterministic. Takes about 0.2 s per view of 200x200 on one core.
    """
    random = np.random.default_rng(seed)
    shapes, is_in_hall = _armillary_sphere(random), backdrop == "hall"
    if backdrop == "ground":
        shapes.append(_ground(np.random.default_rng((seed, 1))))
    hall = _hall(np.random.default_rng((seed, 2))) if is_in_hall else []
    turn = random.uniform(0, 2 * np.pi)
    golden = np.pi * (3 - np.sqrt(5))
    cameras = {}
    for i in range(n_train):  # a Fibonacci spiral: even steps of sin(elevation) are even steps of area
        elevation = np.arcsin(0.06 + (0.30 if is_in_hall else 0.92) * (i + random.uniform(0.2, 0.8)) / n_train)
        cameras[f"train/r_{i}"] = _camera(turn + i * golden, elevation, side)
    for i in range(n_test):
        azimuth = 2 * np.pi * i / n_test
        elevation = 13 + 7 * np.sin(2 * azimuth) if is_in_hall else 30 + 17 * np.sin(2 * azimuth)
        cameras[f"test/r_{i}"] = _camera(azimuth, np.radians(elevation), side)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS)) as pool:
        views = tuple(pool.map(lambda item: _view(item[0], shapes, hall, item[1]), cameras.items()))
    scene = Scene(views[:n_train], views[n_train:], COLORS["white"], NEAR, FAR, "built-in")
    if not is_in_hall:
        return scene
    return replace(scene, near=HALL_NEAR, far=HALL_RADIUS, space="unbounded", contrast=(1.0, 0.0, 1.0))


def depths_in_hall(camera: Camera, seed: int = 0) -> Float64:
    """How far from the eye the surface lies that each pixel's ray meets in the hall, [H,W]."""
    shapes = [*_armillary_sphere(np.random.default_rng(seed)), *_hall(np.random.default_rng((seed, 2)))]
    origins, directions = (np.ascontiguousarray(a.T, np.float64) for a in camera.rays())
    return _nearest(shapes, origins, directions)[0].reshape(camera.height, camera.width)


def _camera(azimuth: float, elevation: float, side: int) -> Camera:
    """At `CAMERA_DISTANCE` from the origin and looking at it, upright. Angles in radians."""
    back = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(back, right), back], axis=1)
    pose[:3, 3] = CAMERA_DISTANCE * back
    focal = side / 2 / math.tan(CAMERA_ANGLE_X / 2)
    return Camera(pose, focal, focal, side / 2, side / 2, side, side)


def _view(name: str, shapes: Sequence[Shape], hall: Sequence[Shape], camera: Camera) -> View:
    """Average `SAMPLES_PER_SIDE`^2 rays per pixel, on a hall that shines by itself, or on white."""
    n = SAMPLES_PER_SIDE
    fine = replace(
        camera,
        fx=camera.fx * n,
        fy=camera.fy * n,
        cx=camera.cx * n,
        cy=camera.cy * n,
        width=camera.width * n,
        height=camera.height * n,
    )
    origins, directions = (np.ascontiguousarray(a.T, np.float64) for a in fine.rays())
    lamps = np.tile(_lamp_points(n)[:, None, :, None, :], (1, camera.height, 1, camera.width, 1))
    colors = _trace(shapes, hall, origins, directions, lamps.reshape(3, -1))
    image = colors.reshape(3, camera.height, n, camera.width, n).mean((2, 4)).transpose(1, 2, 0)
    return View(camera, np.rint(image * 255).astype(np.uint8), name)


def _lamp_points(n: int) -> Float64:
    """[3,n,n] unit directions to points of the lamp, one for each ray of a pixel."""
    lamp = _unit(LAMP)
    across = _unit(np.cross(lamp, [0.0, 0.0, 1.0]))
    up = np.cross(across, lamp)
    down, right = np.mgrid[:n, :n][:, None] * (2 / n) + (1 / n - 1)
    offsets = right * across[:, None, None] - down * up[:, None, None]
    return _unit(lamp[:, None, None] + LAMP_RADIUS * offsets)


def _trace(shapes: Sequence[Shape], hall: Sequence[Shape], origins: Float64, directions: Float64, lamps: Float64) -> Float64:
    """[3,N] rgb of rays, white where they meet nothing."""
    colors = np.ones_like(directions)
    distances, shape_ids = _nearest(hall, origins, directions)
    for shape_id, shape in enumerate(hall):
        rays = np.flatnonzero(shape_ids == shape_id)
        colors[:, rays] = shape.material.texture(origins[:, rays] + distances[rays] * directions[:, rays])
    reach = max(shape.distance for shape in shapes)
    inside = np.flatnonzero(_dot(origins, origins) - _dot(origins, directions) ** 2 < reach**2)
    origins, directions, lamps = origins[:, inside], directions[:, inside], lamps[:, inside]
    distances, shape_ids = _nearest(shapes, origins, directions)
    for shape_id, shape in enumerate(shapes):
        rays = np.flatnonzero(shape_ids == shape_id)
        points = origins[:, rays] + distances[rays] * directions[:, rays]
        colors[:, inside[rays]] = _shade(shapes, shape, points, directions[:, rays], lamps[:, rays])
    return colors


def _nearest(shapes: Sequence[Shape], origins: Float64, directions: Float64) -> tuple[Float64, Float64]:
    """What each ray meets first: [N] its distance, [N] its number among the shapes; inf and -1: nothing."""
    distances, shape_ids = np.full(origins.shape[1], np.inf), np.full(origins.shape[1], -1)
    square, along = _dot(origins, origins), _dot(origins, directions)
    for shape_id, shape in enumerate(shapes):
        # |c - o|^2 - ((c - o) d)^2, expanded so that what does not depend on the shape is computed once
        to_center = _dot(directions, shape.center) - along
        miss = square - 2 * _dot(origins, shape.center) + _dot(shape.center, shape.center) - to_center**2
        near = np.flatnonzero(miss < shape.reach**2)
        found = shape.distances(origins[:, near], directions[:, near])
        closer = found < distances[near]
        distances[near[closer]], shape_ids[near[closer]] = found[closer], shape_id
    return distances, shape_ids


def _shade(shapes: Sequence[Shape], shape: Shape, points: Float64, directions: Float64, lamps: Float64) -> Float64:
    """[3,N] rgb of surface points: the sky, the lamp with its shadows, and Blinn and Phong's highlight."""
    normals = shape.normals(points)
    lit = np.maximum(_dot(normals, lamps), 0)
    facing = np.flatnonzero(lit > 0)
    above = points[:, facing] + SURFACE_EPSILON * normals[:, facing]
    lit[facing[np.isfinite(_nearest(shapes, above, lamps[:, facing])[0])]] = 0
    material = shape.material
    highlight = np.maximum(_dot(normals, _unit(lamps - directions)), 0) ** material.sharpness * (lit > 0)
    sky = 0.50 + 0.14 * normals[2]
    colors: Float64 = material.texture(points) * (sky + 0.52 * lit) + material.gloss * highlight
    return np.clip(colors, 0, 1)


def _armillary_sphere(random: np.random.Generator) -> list[Shape]:
    brass = Material(_plain(0.88, 0.64, 0.25), gloss=0.45, sharpness=24)
    steel = Material(_plain(0.42, 0.47, 0.55), gloss=0.3, sharpness=24)
    red = Material(_plain(0.80, 0.20, 0.16), gloss=0.3, sharpness=24)
    floor, rim = Material(_tiles), Material(_plain(0.36, 0.22, 0.15), gloss=0.2, sharpness=24)
    globe = Material(_continents(random), gloss=0.65, sharpness=48)
    middle, up = np.array([0.0, 0.0, 0.16]), np.array([0.0, 0.0, 1.0])
    pole = _unit([np.sin(np.radians(23.4)), 0, np.cos(np.radians(23.4))])  # the Earth leans by so much
    shapes: list[Shape] = [
        Sphere(middle, 0.36, globe),
        Tube(middle, pole, 0.90, 0.022, steel),
        Sphere(middle + 0.90 * pole, 0.05, brass),
        Sphere(middle - 0.90 * pole, 0.05, brass),
        _ring(middle, up, 0.92, 0.05, brass),
        _ring(middle, [0, 1, 0], 0.80, 0.035, brass),
        _ring(middle, pole, 0.70, 0.035, red),
        _ring(middle, [-0.25, 0.45, 0.86], 0.57, 0.03, steel),
        Tube(np.array([0, 0, -0.78]), up, 0.05, 0.96, rim),
        Tube(np.array([0, 0, -0.72]), up, 0.012, 0.90, floor),
    ]
    for quarter in range(4):
        angle = np.pi / 4 + quarter * np.pi / 2
        foot = 0.89 * np.array([np.cos(angle), np.sin(angle), 0])
        shapes.append(Tube(foot - 0.30 * up, up, 0.42, 0.028, steel))
    return shapes


def _ground(random: np.random.Generator) -> Shape:
    pebbles = Material(_spots(random, PEBBLES, _from_above, _rgb(0.20, 0.17, 0.15)))
    return Tube(np.array([0.0, 0.0, -0.86]), np.array([0.0, 0.0, 1.0]), 0.03, GROUND_RADIUS, pebbles)


def _hall(random: np.random.Generator) -> list[Shape]:
    """Wall, floor and ceiling of a round hall."""
    up, thickness = np.array([0.0, 0.0, 1.0]), 0.5
    height, middle = HALL_CEILING - HALL_FLOOR, (HALL_CEILING + HALL_FLOOR) / 2
    outer = HALL_RADIUS + thickness
    wall = Material(_spots(random, PLASTER, _along_wall, _rgb(0.12, 0.20, 0.30)))
    floor = Material(_spots(random, PLASTER, _from_above, _rgb(0.20, 0.12, 0.08)))
    ceiling = Material(_spots(random, PLASTER, _from_above, _rgb(0.30, 0.30, 0.34)))
    return [
        Tube(middle * up, up, height / 2, outer, wall, inner_radius=HALL_RADIUS),
        Tube((HALL_FLOOR - thickness) * up, up, thickness, outer, floor),
        Tube((HALL_CEILING + thickness) * up, up, thickness, outer, ceiling),
    ]


def _ring(center: Float64, axis: ArrayLike, radius: float, half_width: float, material: Material) -> Tube:
    return Tube(center, _unit(axis), half_width, radius, material, inner_radius=radius - 0.04)


def _plain(red: float, green: float, blue: float) -> Texture:
    color = _rgb(red, green, blue)
    return lambda points: np.broadcast_to(color, points.shape)


def _tiles(points: Float64) -> Float64:
    """Square tiles in two tones, 0.23 world units wide."""
    odd = np.floor(points[:2] / 0.23 + 0.5).sum(0) % 2
    return np.where(odd == 1, _rgb(0.86, 0.80, 0.68), _rgb(0.30, 0.45, 0.47))


def _spots(random: np.random.Generator, spots: Sequence[tuple[float, float]], unroll: Texture, dark: Float64) -> Texture:
    """Lighter and darker spots in several sizes, blended between neighbours: no two places look alike.

    Args:
      spots: as `PEBBLES`.
      unroll: world points [3,N] -> places on the surface [2,N], world lengths.
      dark: rgb [3,1] of the darkest.
    """
    n = 256
    tables = [random.random((n, n)) for _ in spots]
    light = _rgb(0.95, 0.90, 0.80)

    def texture(points: Float64) -> Float64:
        unrolled = unroll(points)
        shade = np.zeros(points.shape[1])
        for (size, share), table in zip(spots, tables, strict=True):
            place = unrolled / size
            first = np.floor(place).astype(int)
            x, y = place - first
            for right, down in np.ndindex(2, 2):
                spot = table[(first[0] + right) % n, (first[1] + down) % n]
                shade += share * spot * (x if right else 1 - x) * (y if down else 1 - y)
        return dark + np.clip(2 * shade - 0.5, 0, 1) * (light - dark)

    return texture


def _from_above(points: Float64) -> Float64:
    """Places [2,N] of points [3,N] on something flat."""
    return points[:2]


def _along_wall(points: Float64) -> Float64:
    """Places [2,N] of points [3,N] on the hall's wall, unrolled."""
    return np.stack([HALL_RADIUS * np.arctan2(points[1], points[0]), points[2]])


def _continents(random: np.random.Generator) -> Texture:
    """Land and sea for a globe: a sum of plane waves, cut at the coast."""
    waves = _unit(random.normal(size=(3, 24))) * random.uniform(5, 21, 24)
    phases = random.uniform(0, 2 * np.pi, 24)
    sea, plain, mountain = _rgb(0.16, 0.36, 0.62), _rgb(0.33, 0.58, 0.24), _rgb(0.78, 0.62, 0.38)

    def texture(points: Float64) -> Float64:
        height = np.zeros(points.shape[1])
        for wave, phase in zip(waves.T, phases, strict=True):  # longer waves are higher
            height += np.sin(_dot(points, wave) + phase) / np.linalg.norm(wave)
        land = plain + np.clip(height / 0.5, 0, 1) * (mountain - plain)
        return sea + np.clip(height / 0.03, 0, 1) * (land - sea)

    return texture


def _rgb(red: float, green: float, blue: float) -> Float64:
    return np.array([[red], [green], [blue]])


def _unit(vectors: ArrayLike) -> Float64:
    """Vectors [3,...] at unit length."""
    v = np.asarray(vectors, np.float64)
    unit: Float64 = v / np.sqrt(_dot(v, v))
    return unit


def _dot(a: Float64, b: Float64) -> Float64:
    """Scalar products [...] of vectors [3,...]. Three products in a row outrun einsum and BLAS here."""
    product: Float64 = a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
    return product


def _first(distances: Float64) -> Float64:
    """[N] the smallest positive of [K,N] distances, inf where there is none; nan stands for a miss."""
    first: Float64 = np.where(distances > 0, distances, np.inf).min(axis=0)
    return first
