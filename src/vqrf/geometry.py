"""Where things are: cameras, rays, spaces, and the only world <-> voxel map.

Notation. World points `x` are in world units. A space takes each to a place: in a box that is the point itself, and `Front`
and `Unbounded` are the other ones. Voxel `(i, j, k)` of a lattice of `shape = (X, Y, Z)` has its place at
`lo + (i, j, k) / (shape - 1) * (hi - lo)`: corner-aligned, `lo` is the first voxel and `hi` the last. Axes are in memory
order, Z fastest. Cameras follow the OpenGL / Blender convention (x right, y up, looking along -z), poses map camera to
world, and the centre of pixel `(column, row)` is at `(column + 0.5, row + 0.5)`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vqrf.lens import Lens

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Floats = NDArray[np.floating]

MAX_ROTATION_ERROR = 1e-3
"""How far `R R^T` may be from the identity before a pose is refused: text files carry 4 to 6 digits."""

MAX_COORDINATE = 2.0**45
"""Largest coordinate of a camera, in world units: far beyond it, squares overflow float32 on the way to a picture. One that
sees all of the largest box that is drawn (`vqrf.kernels.constants`) stands a quarter as far."""

MAX_PIXELS = 1e12
"""Largest focal length and place in an image; its inverse is the smallest focal length, so that no direction overflows."""

FAR_EXTENTS = 100.0
"""How many times its size a scene may be from the origin before it is reckoned elsewhere: float32 tells 2^24 places apart, and
a voxel is a hundredth of a scene."""

Vector = tuple[float, float, float]
Z: Vector = (0.0, 0.0, 1.0)
"""What is up, where nobody says what else is."""

VIEWING_DISTANCE = 3.0
"""Distance of cameras placed around a ball, in its radii: about that of the photos of Blender's scenes."""

WITHIN_FOV = np.radians(60)
"""The angle that the pictures of cameras among a scene see: about that of a wide window whose shorter side sees 40 degrees."""

SWAY = np.radians(6)
"""Before what cameras saw from one side: how far others go from the place that those looked from, seen from the middle of what
they saw."""

GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))


@dataclass(frozen=True, eq=False, repr=False)
class Camera:
    """A camera: a pinhole, or a lens that bends.

    Args:
      pose: [4,4] float64, camera to world, rigid: rotation columns orthonormal, determinant +1, last row 0 0 0 1.
      fx, fy: focal lengths in pixels, > 0.
      cx, cy: principal point in pixels.
      width, height: image size in pixels, >= 1.
      lens: how it bends; None where it does not. Its focal lengths and principal point are the camera's.

    Raises:
      ValueError: a value is not finite, the pose is not rigid, a size or a focal length is not positive.
    """

    pose: Float64
    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    lens: Lens | None = None

    def __post_init__(self) -> None:
        pose = np.asarray(self.pose, np.float64)
        object.__setattr__(self, "pose", pose)
        if pose.shape != (4, 4):
            raise ValueError(f"pose: expected [4,4], got {list(pose.shape)}")
        if not np.isfinite(pose).all():
            raise ValueError("pose has a value that is not finite")
        if np.abs(pose).max() > MAX_COORDINATE:
            raise ValueError(f"pose: {np.abs(pose).max():.3g} is beyond the limit of {MAX_COORDINATE:g}")
        if not np.allclose(pose[3], (0, 0, 0, 1), atol=MAX_ROTATION_ERROR):
            raise ValueError(f"pose: expected last row 0 0 0 1, got {pose[3].tolist()}")
        rotation = pose[:3, :3]
        error = np.abs(rotation @ rotation.T - np.eye(3)).max()
        if error > MAX_ROTATION_ERROR:
            raise ValueError(f"pose is not rigid: its 3x3 part is no rotation (off by {error:.3g})")
        if np.linalg.det(rotation) < 0:
            raise ValueError("pose is mirrored: the determinant of its 3x3 part is -1 (axes of a left-handed program?)")
        if not all(1 / MAX_PIXELS <= focal < MAX_PIXELS for focal in (self.fx, self.fy)):
            limits = f"finite values and positive focal lengths, {1 / MAX_PIXELS:g} to {MAX_PIXELS:g} pixels"
            raise ValueError(f"intrinsics: expected {limits}, got {self.fx}, {self.fy}")
        if not all(abs(at) < MAX_PIXELS for at in (self.cx, self.cy)):
            raise ValueError(f"intrinsics: expected finite values, got a principal point of {self.cx}, {self.cy}")
        if min(self.width, self.height) < 1:
            raise ValueError(f"image size: expected at least 1x1, got {self.width}x{self.height}")

    def __repr__(self) -> str:
        at = ", ".join(f"{coordinate:.3g}" for coordinate in self.pose[:3, 3])
        lens = "" if self.lens is None else f", {self.lens.model}"
        return f"Camera({self.width}x{self.height}, focal length {self.fx:.1f}, at ({at}){lens})"

    def resized(self, width: int, height: int) -> Camera:
        """The same camera for its image at another size."""
        x, y = width / self.width, height / self.height
        return replace(self, fx=self.fx * x, fy=self.fy * y, cx=self.cx * x, cy=self.cy * y, width=width, height=height)

    def averaged(self, n: int) -> Camera:
        """The same camera for its image with blocks of n x n pixels averaged to one, and what is left over dropped."""
        sides = self.width // n, self.height // n
        return replace(self, fx=self.fx / n, fy=self.fy / n, cx=self.cx / n, cy=self.cy / n, width=sides[0], height=sides[1])

    def moved(self, offset: Float64) -> Camera:
        """The same camera in a world that is moved by `offset` [3]."""
        pose = self.pose.copy()
        pose[:3, 3] += offset
        return replace(self, pose=pose)

    def rays(self, pixels: NDArray[np.int64] | None = None) -> tuple[Float32, Float32]:
        """Origins [N,3] and unit directions [N,3], both float32, of the given pixels.

        Args:
          pixels: [N] int64, row-major pixel numbers `row * width + column`; all pixels when None.
        """
        if pixels is None:
            pixels = np.arange(self.width * self.height)
        x, y = self._places(pixels)
        if self.lens is None:
            local = np.stack([x, -y, -np.ones_like(x)], -1)
        else:
            local = seen_directions(self.lens.directions(x, y), x, y)
        directions = local @ self.pose[:3, :3].T
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        origins = np.broadcast_to(self.pose[:3, 3], directions.shape)
        return np.ascontiguousarray(origins, np.float32), directions.astype(np.float32)

    def blind_pixels(self) -> NDArray[np.int64]:
        """The numbers of pixels through which the lens sees no direction, as in the corners of a fisheye's image."""
        if self.lens is None:
            return np.zeros(0, np.int64)
        return np.flatnonzero(np.isnan(self.lens.directions(*self._places(np.arange(self.width * self.height)))[:, 2]))

    def _places(self, pixels: NDArray[np.int64]) -> tuple[Float64, Float64]:
        """The middles of pixels in focal lengths from the principal point."""
        row, column = (at.astype(np.float64) for at in np.divmod(pixels, self.width))
        return (column + 0.5 - self.cx) / self.fx, (row + 0.5 - self.cy) / self.fy

    def local(self, points: Floats) -> Floats:
        """World points [N,3] from the camera: x right, y down, z forward. In the precision of the points."""
        pose = self.pose.astype(points.dtype)
        local: Floats = (points - pose[:3, 3]) @ (pose[:3, :3] * np.array([1, -1, -1], points.dtype))
        return local

    def project(self, local: Floats) -> tuple[Floats, Floats]:
        """Columns and rows [N] in pixels of points [N,3] that `local` gave, nan where the camera does not see one."""
        if self.lens is None:
            x, y, depth = local[:, 0], local[:, 1], np.where(local[:, 2] > 0, local[:, 2], np.nan)
            return self.fx * x / depth + self.cx, self.fy * y / depth + self.cy
        x, y = self.lens.places(local.astype(np.float64))
        return self.fx * x + self.cx, self.fy * y + self.cy


def seen_directions(found: Float64, x: Float64, y: Float64) -> Float64:
    """Directions [N,3] of a lens, in the axes of `Camera`; where it sees none, those of a pinhole take their place.

    Args:
      found: [N,3] as `Lens.directions` gives them, for the image places x, y [N].
    """
    straight = np.stack([x, y, np.ones_like(x)], -1)
    local: Float64 = np.where(np.isnan(found[:, 2:]), straight, found) * [1, -1, -1]
    return local


def upright(up: ArrayLike) -> Float64:
    """A rotation [3,3] that takes z to the unit vector `up` by the shortest way.

    >>> upright((0, 0, 1))
    array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 1.]])
    """
    x, y, z = np.asarray(up, np.float64)
    if z < -1 + 1e-9:  # half a turn, about x
        return np.diag([1.0, -1.0, -1.0])
    return np.array([[1 - x * x / (1 + z), -x * y / (1 + z), x], [-x * y / (1 + z), 1 - y * y / (1 + z), y], [-x, -y, z]]) + 0.0


def far_origin(lo: ArrayLike, hi: ArrayLike) -> Float64:
    """By how much to move the world [3] so that a box is at its origin, if it is so far off that float32 is too coarse for it.

    0 if it is not, which is so for all but surveyors' coordinates.

    >>> far_origin((-1, -1, -1), (1, 1, 1)).tolist(), far_origin((500_000, 0, 0), (500_002, 2, 2)).tolist()
    ([0.0, 0.0, 0.0], [-500001.0, -1.0, -1.0])
    """
    low, high = np.asarray(lo, np.float64), np.asarray(hi, np.float64)
    centre = (low + high) / 2
    is_far = np.abs(centre).max() > FAR_EXTENTS * (high - low).max()
    return -centre if is_far else np.zeros(3)


def cameras_around(
    middle: ArrayLike, radius: float, n: int, side: int, *, turn: float = 0.0, below: float = 0.5
) -> tuple[Camera, ...]:
    """`n` square cameras evenly spread around a ball, each of which sees just all of it.

    They stand `VIEWING_DISTANCE` radii away from its middle and look there, with +z up; a golden spiral places them from the
    top to the bottom, as densely everywhere above the horizon, and everywhere below it.

    Args:
      side: of the images, pixels.
      turn: by how much the spiral is turned about z, radians: another turn, other cameras.
      below: share of the cameras below the horizon, 0..1.

    Raises:
      ValueError: `n` or `side` is below 1, the ball is empty, or the share is out of range.
    """
    if n < 1 or side < 1 or not radius > 0 or not 0 <= below <= 1:
        raise ValueError(f"expected cameras, pixels, a radius and a share, got {n} of {side}, {radius} and {below}")
    focal = side / 2 * np.sqrt(VIEWING_DISTANCE**2 - 1)  # the ball touches the image's borders
    height = np.interp((np.arange(n) + 0.5) / n, [0, 1 - below, 1], [1, 0, -1])  # even in height is even on a sphere
    angle = np.arange(n) * GOLDEN_ANGLE + turn
    right, away = _circled(angle, height)
    positions = np.asarray(middle) + away * radius * VIEWING_DISTANCE
    return tuple(_square_camera(*axes, focal, side) for axes in zip(right, away, positions, strict=True))


def cameras_within(
    target: ArrayLike,
    distances: tuple[float, float],
    pitches: tuple[float, float],
    n: int,
    side: int,
    *,
    up: ArrayLike = Z,
    turn: float = 0.0,
    yaws: tuple[float, float] | None = None,
) -> tuple[Camera, ...]:
    """`n` square cameras that look at a point, evenly spread over how near, how high and on which sides they may stand.

    They stand upright, and see `WITHIN_FOV`.

    Args:
      distances: the least and the most, world units.
      pitches: the lowest and the highest above the horizon, degrees, -90..90.
      side: of the images, pixels.
      up: unit vector.
      turn: by how much they are turned about `up`, radians.
      yaws: the least and the most angle about `up`, radians, as `yaw_of` has it. Without it, they stand all around.

    Raises:
      ValueError: `n` or `side` is below 1, or the limits are none.
    """
    (near, far), (low, high) = distances, pitches
    if n < 1 or side < 1 or not 0 < near <= far < np.inf or not -90 <= low <= high <= 90:
        raise ValueError(f"expected cameras, pixels and limits, got {n} of {side}, {distances} and {pitches}")
    count = np.arange(n)
    height = np.interp((count + 0.5) / n, [0, 1], np.sin(np.radians([high, low])))  # as of cameras around a ball
    angle = count * GOLDEN_ANGLE + turn
    if yaws is not None:
        angle = yaws[0] + (yaws[1] - yaws[0]) * (angle / (2 * np.pi) % 1)
    right, away = (axes @ upright(up).T for axes in _circled(angle, height))
    distance = near + (far - near) * ((count + 0.5) * np.sqrt(2) % 1)  # golden too, a camera's distance would tell its angle
    focal, positions = side / 2 / np.tan(WITHIN_FOV / 2), np.asarray(target) + distance[:, None] * away
    return tuple(_square_camera(*axes, focal, side) for axes in zip(right, away, positions, strict=True))


def yaw_of(directions: ArrayLike, up: ArrayLike) -> Float64:
    """The angle about `up`, a unit vector, of directions [...,3], in radians: 0 where `upright` takes the x axis."""
    x, y, _ = np.moveaxis(np.asarray(directions) @ upright(up), -1, 0)
    angle: Float64 = np.arctan2(y, x)
    return angle


def _circled(angle: Float64, height: Float64) -> tuple[Float64, Float64]:
    """The x axes and the z axes [N,3] of cameras that look at the origin from these angles and heights on the unit sphere."""
    flat = np.sqrt(1 - height**2)
    away = np.stack([flat * np.cos(angle), flat * np.sin(angle), height], -1)
    return np.stack([-np.sin(angle), np.cos(angle), np.zeros(len(angle))], -1), away


def _square_camera(right: Float64, back: Float64, position: Float64, focal: float, side: int) -> Camera:
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, position], -1)
    return Camera(pose, focal, focal, side / 2, side / 2, side, side)


Row = tuple[float, float, float, float]


@dataclass(frozen=True)
class Space(ABC):
    """How the world lies in a lattice that is no box: a map that takes points to places, in pieces of which each is projective.

    What is straight in the world is straight in each piece, so that a ray is walked by a constant step of places.

    Args:
      matrix: [4,4], of the map.

    Raises:
      ValueError: a value is not finite.
    """

    name: ClassVar[str]
    stretch: ClassVar[int]
    """How many diagonals of a lattice a ray may run through places there."""

    matrix: tuple[Row, Row, Row, Row]

    def __post_init__(self) -> None:
        if np.shape(self.matrix) != (4, 4) or not np.isfinite(self.matrix).all():
            raise ValueError("space: expected 4x4 finite numbers")

    @abstractmethod
    def place_of_world(self, x: ArrayLike) -> Float64:
        """Places [...,3] of world points [...,3]; nan of what has none."""

    @abstractmethod
    def world_of_place(self, place: ArrayLike) -> Float64:
        """World points [...,3] of places [...,3]; the inverse of `place_of_world`."""

    @abstractmethod
    def jacobian_of_place(self, place: ArrayLike) -> Float64:
        """How the world changes with places [...,3]: [...,3,3], its column j the slope of `world_of_place` along axis j."""

    @abstractmethod
    def fault(self, corners: Float64) -> str | None:
        """Why nothing can be drawn between these places [8,3]; None if it can. FORMAT.md section 2 has these limits."""

    def moved(self, offset: ArrayLike) -> Self:
        """The same space in a world that is moved by `offset` [3]."""
        matrix = np.array(self.matrix)
        matrix[:, 3] -= matrix[:, :3] @ np.asarray(offset, np.float64)
        return type(self)(_rows(matrix))

    def _matrix_fault(self) -> str | None:
        matrix = np.array(self.matrix)
        if not np.abs(matrix).max() <= MAX_ENTRY:
            return f"space: expected numbers within {MAX_ENTRY:g}"
        if np.linalg.matrix_rank(matrix / np.abs(matrix).max(1, keepdims=True).clip(1e-300), tol=1e-12) < 4:
            return "space: it takes different points to one place"
        return None

    def _reach_fault(self, corners: Float64) -> str | None:
        if not np.abs(self.world_of_place(corners)).max() <= MAX_ENTRY:
            return f"space: a corner of the lattice is beyond {MAX_ENTRY:g}"
        return None


@dataclass(frozen=True)
class Front(Space):
    """The space of cameras that look one way: a projective map, so that what is straight in the world is straight in it.

        (q, w) = matrix @ (x, 1),   place of x = q / w,   w > 0 the depth of x

    Made by `looking`, the third coordinate of a place grows with disparity and not with depth: a voxel is the larger the
    farther it is, as what a pixel shows is.

    Args:
      matrix: [4,4], its last row unitless: depths are in world units where that is a unit vector and an offset.

    Source: normalised device coordinates, NeRF (arXiv 2003.08934), appendix C. Departs: any frame and scale, and depth ends.
    """

    name = "front"
    stretch = 1

    @classmethod
    def looking(cls, pose: Float64, near: float, depth: float) -> Front:
        """The space in front of a camera.

            place = (x / w, y / w, depth * (1 - near / w)) of camera coordinates x right, y up, w forward

        Args:
          pose: [4,4], of `Camera`'s kind.
          near: the depth of places 0 on the third axis, > 0.
          depth: the third coordinate of what is infinitely far, > 0.
        """
        right, up, back = pose[:3, :3].T
        rows = np.stack([right, up, -depth * back, -back])
        offsets = -rows @ pose[:3, 3]
        offsets[2] -= depth * near
        return cls(_rows(np.concatenate([rows, offsets[:, None]], 1)))

    def place_of_world(self, x: ArrayLike) -> Float64:
        matrix = np.array(self.matrix)
        q = np.asarray(x, np.float64) @ matrix[:, :3].T + matrix[:, 3]
        place: Float64 = q[..., :3] / np.where(q[..., 3:] > 0, q[..., 3:], np.nan)
        return place

    def world_of_place(self, place: ArrayLike) -> Float64:
        inverse = np.linalg.inv(np.array(self.matrix))
        x = np.asarray(place, np.float64) @ inverse[:, :3].T + inverse[:, 3]
        world: Float64 = x[..., :3] / x[..., 3:]
        return world

    def jacobian_of_place(self, place: ArrayLike) -> Float64:
        inverse = np.linalg.inv(np.array(self.matrix))
        nearness = np.asarray(place, np.float64) @ inverse[3, :3] + inverse[3, 3]
        moved = self.world_of_place(place)[..., None] * inverse[3, :3]
        jacobian: Float64 = (inverse[:3, :3] - moved) / nearness[..., None, None]
        return jacobian

    @property
    def eye(self) -> Float64:
        """[3] the world point that all lines along the third axis of places come from: where `looking` looks from.

        nan where they are parallel.
        """
        inverse = np.linalg.inv(np.array(self.matrix))
        point: Float64 = inverse[:3, 2] / (inverse[3, 2] or np.nan)
        return point

    def fault(self, corners: Float64) -> str | None:
        if fault := self._matrix_fault():
            return fault
        inverse = np.linalg.inv(np.array(self.matrix))
        nearness = corners @ inverse[3, :3] + inverse[3, 3]
        if not ((nearness >= 1 / MAX_ENTRY) & (nearness <= MAX_ENTRY)).all():
            return "space: a corner of the lattice is not in front, or too far"
        return self._reach_fault(corners)


@dataclass(frozen=True)
class Unbounded(Space):
    """The space of cameras amid a place that ends nowhere: a cube as it is, and all that is around it, the coarser the farther.

        y = matrix @ (x, 1),   place of x = y / max(1, (1 + |y|) / 2),   |y| the largest of the magnitudes of its coordinates

    The cube |y| <= 1 stays as it is, and the rest fills that of |place| < 2. In the cube, and in each of the six pyramids that
    continue its faces away from its middle, the map is projective. So a ray has seven straight pieces at most, and these join.

    Args:
      matrix: [4,4], affine: its last row is 0 0 0 1.

    Raises:
      ValueError: it is not affine.

    Source: the piecewise projective contraction of MERF (arXiv 2302.12249), sec. 4.1. Departs: MERF divides the largest
    coordinate otherwise than the two others, which tears the world where another one becomes the largest, and leaves half of
    the lattice without a point of the world; here all three are divided alike.
    """

    name = "unbounded"
    stretch = 4  # a ray bends towards the middle alone, and around a convex figure it is no more than pi diameters
    n_pieces: ClassVar[int] = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        if tuple(self.matrix[3]) != (0, 0, 0, 1):
            raise ValueError("space: expected an affine map, whose last row is 0 0 0 1")

    @classmethod
    def around(cls, centre: ArrayLike, half: float) -> Unbounded:
        """The space whose cube is around `centre` [3] and has sides of twice `half`, > 0, world units."""
        offset = -np.asarray(centre, np.float64) / half
        return cls(_rows(np.concatenate([np.concatenate([np.eye(3) / half, offset[:, None]], 1), [[0, 0, 0, 1]]])))

    def place_of_world(self, x: ArrayLike) -> Float64:
        matrix = np.array(self.matrix)
        y = np.asarray(x, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        place: Float64 = y / np.maximum(1, (1 + np.abs(y).max(-1, keepdims=True)) / 2)
        return place

    def world_of_place(self, place: ArrayLike) -> Float64:
        """World points [...,3] of places [...,3] within the cube of 2; nan of others."""
        at, inverse = np.asarray(place, np.float64), np.linalg.inv(np.array(self.matrix))
        left = 2 - np.abs(at).max(-1, keepdims=True)
        y = at / np.where(left > 0, np.minimum(left, 1), np.nan)
        world: Float64 = y @ inverse[:3, :3].T + inverse[:3, 3]
        return world

    def jacobian_of_place(self, place: ArrayLike) -> Float64:
        """As of any space; nan of places outside of the cube of 2, and where two pieces meet the slope of one of them."""
        at, inverse = np.asarray(place, np.float64), np.linalg.inv(np.array(self.matrix))
        largest = np.abs(at).max(-1)
        left = np.where(largest < 2, np.minimum(2 - largest, 1), np.nan)[..., None, None]
        rises = np.sign(at) * (np.arange(3) == np.abs(at).argmax(-1)[..., None]) * (largest > 1)[..., None]
        jacobian: Float64 = inverse[:3, :3] @ (np.eye(3) / left + at[..., :, None] * rises[..., None, :] / left**2)
        return jacobian

    @property
    def centre(self) -> Float64:
        """[3] the world point in the middle of the cube."""
        return self.world_of_place(np.zeros(3))

    @property
    def half(self) -> float:
        """Half of a side of the cube, world units; in the mean where it is none."""
        return float(1 / np.cbrt(abs(np.linalg.det(np.array(self.matrix)[:3, :3]))))

    def fault(self, corners: Float64) -> str | None:
        if fault := self._matrix_fault():
            return fault
        if not np.abs(corners).max() <= FARTHEST:
            return f"space: expected a lattice within {FARTHEST:.7g}"
        return self._reach_fault(corners)


MAX_ENTRY = 2.0**40
"""Of the numbers of a space and of the depths of places: what drawing takes, as of the coordinates of a box."""

FARTHEST = 2 - 2.0**-12
"""The largest coordinate of a place in `Unbounded` where anything is: 8191 times as far as the cube reaches. Farther off,
float32 has no digits for distances."""


def _rows(matrix: Float64) -> tuple[Row, Row, Row, Row]:
    a, b, c, d = ((row[0], row[1], row[2], row[3]) for row in matrix.tolist())
    return a, b, c, d


def longest_way(lo: Vector, hi: Vector, space: Space | None) -> float:
    """How far a ray may run through the places between two corners."""
    return math.dist(lo, hi) * (1 if space is None else space.stretch)


@dataclass(frozen=True)
class Lattice:
    """The regular arrangement of voxels and its place in the world: corner-aligned, axis-aligned in its space.

    Args:
      lo, hi: places of the first and the last voxel, `lo < hi` on every axis.
      shape: number of voxels on each axis, each >= 2 (corner alignment divides by `shape - 1`).
      space: None for a box, whose places are world coordinates.

    Raises:
      ValueError: a coordinate is not finite, `lo >= hi`, or a side is below 2.
    """

    lo: tuple[float, float, float]
    hi: tuple[float, float, float]
    shape: tuple[int, int, int]
    space: Space | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not np.isfinite([*self.lo, *self.hi]).all():
            raise ValueError(f"lattice: bounds are not finite: {self.lo}, {self.hi}")
        if any(a >= b for a, b in zip(self.lo, self.hi, strict=True)):
            raise ValueError(f"lattice: expected lo < hi on every axis, got {self.lo}, {self.hi}")
        if any(side < 2 for side in self.shape):
            raise ValueError(f"lattice: expected at least 2 voxels on every axis, got {self.shape}")

    @classmethod
    def with_voxels(cls, lo: ArrayLike, hi: ArrayLike, n_voxels: int, space: Space | None = None) -> Lattice:
        """The lattice over the places `lo..hi` with about `n_voxels` voxels of equal edge.

        The edge is `(volume / n_voxels)^(1/3)` and each side holds as many whole edges as fit (DVGO's rule).
        """
        low, high = np.asarray(lo, np.float64), np.asarray(hi, np.float64)
        extent = high - low
        edge = float(np.prod(extent) / n_voxels) ** (1 / 3)
        side = np.maximum((extent / edge).astype(int), 2)
        return cls(tuple(low.tolist()), tuple(high.tolist()), tuple(side.tolist()), space)

    def moved(self, offset: ArrayLike) -> Lattice:
        """The same lattice in a world that is moved by `offset` [3]."""
        if self.space is not None:
            return replace(self, space=self.space.moved(offset))
        lo, hi = (np.add(corner, offset).tolist() for corner in (self.lo, self.hi))
        return Lattice(tuple(lo), tuple(hi), self.shape)

    def far_offset(self) -> Float64:
        """By how much to move the world [3] so that the lattice is at its origin: see `far_origin`."""
        if self.space is None:
            return far_origin(self.lo, self.hi)
        places = self.corners()
        if isinstance(self.space, Unbounded):  # around its cube: the rest is as far as one likes
            places = np.clip(places, -1, 1)
        corners = self.space.world_of_place(places)
        return far_origin(corners.min(0), corners.max(0))

    def corners(self) -> Float64:
        """Places [8,3] of the outermost voxels."""
        return np.stack(np.meshgrid(*zip(self.lo, self.hi, strict=True), indexing="ij"), -1).reshape(8, 3)

    @property
    def n_voxels(self) -> int:
        return int(np.prod(self.shape))

    @property
    def longest_way(self) -> float:
        """How far a ray may run through the places of the lattice."""
        return longest_way(self.lo, self.hi, self.space)

    @property
    def extent(self) -> Float64:
        """[3] float64 size from first to last voxel, in places: in a box world size."""
        return np.subtract(self.hi, self.lo)

    def index_from_place(self, place: ArrayLike) -> Float64:
        """Continuous voxel coordinates [...,3] of places [...,3]; whole numbers are voxels."""
        index: Float64 = (np.asarray(place, np.float64) - self.lo) / self.extent * (np.array(self.shape) - 1)
        return index

    def place_from_index(self, index: ArrayLike) -> Float64:
        """Places [...,3] of continuous voxel coordinates [...,3]; the inverse of `index_from_place`."""
        place: Float64 = np.asarray(index, np.float64) / (np.array(self.shape) - 1) * self.extent + self.lo
        return place

    def index_from_world(self, x: ArrayLike) -> Float64:
        """Continuous voxel coordinates [...,3] of world points [...,3]; nan of what has no place."""
        return self.index_from_place(x if self.space is None else self.space.place_of_world(x))

    def world_from_index(self, index: ArrayLike) -> Float64:
        """World points [...,3] of continuous voxel coordinates [...,3]; the inverse of `index_from_world`."""
        place = self.place_from_index(index)
        return place if self.space is None else self.space.world_of_place(place)

    def edges_from_index(self, index: ArrayLike) -> Float64:
        """The edges of a voxel in the world, by the slope there: [...,3,3] of voxel coordinates [...,3], an edge a column."""
        at, edges = np.asarray(index, np.float64), self.extent / (np.array(self.shape) - 1)
        if self.space is None:
            return np.broadcast_to(np.diag(edges), (*at.shape, 3))
        slopes: Float64 = self.space.jacobian_of_place(self.place_from_index(at)) * edges
        return slopes


def pose_beside(lattice: Lattice, angle: float, tilt: float, zoom: float = 1.0) -> Float64:
    """The pose [4,4] of a camera near where a space in front looks from: at the middle of the lattice, up its second axis.

    Args:
      angle: to which side it stands, radians; `tilt`: how far aside, radians seen from that middle; `zoom`: how far from
        there, in the distance of where the space looks from.

    Raises:
      ValueError: the space is no `Front`, or one that looks from nowhere.
    """
    if not isinstance(lattice.space, Front):
        raise ValueError("expected a space in front")
    middle, eye = lattice.space.world_of_place(lattice.corners().mean(0)), lattice.space.eye
    if not np.isfinite([middle, eye]).all():
        raise ValueError("there is no place that its cameras looked from")
    distance = float(np.linalg.norm(eye - middle))
    back = (eye - middle) / distance
    up = np.array(lattice.space.matrix)[1, :3]
    right = np.cross(up, back)
    right = right / np.linalg.norm(right)
    back = back + math.tan(tilt) * (math.cos(angle) * right + math.sin(angle) * np.cross(back, right))
    back = back / np.linalg.norm(back)
    right = np.cross(up, back)
    right = right / np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, middle + zoom * distance * back], -1)
    return pose


def cameras_beside(lattice: Lattice, n: int, side: int, *, turn: float = 0.0) -> tuple[Camera, ...]:
    """`n` square cameras evenly spread around where a space in front looks from, as far aside as `SWAY`.

    They look at the middle of the lattice, and from where the space looks from one would see just all of it.

    Args:
      side: of the images, pixels.
      turn: by how much they are turned around their middle, radians.

    Raises:
      ValueError: `n` or `side` is below 1, or the space is none of `pose_beside`.
    """
    if n < 1 or side < 1:
        raise ValueError(f"expected cameras and pixels, got {n} of {side}")
    pose = pose_beside(lattice, 0.0, 0.0)
    x, y, z = ((lattice.space.world_of_place(lattice.corners()) - pose[:3, 3]) @ pose[:3, :3]).T  # type: ignore[union-attr]
    focal = side / 2 / float(np.abs([x / z, y / z]).max())
    count = np.arange(n)
    tilts = np.arctan(np.tan(SWAY) * np.sqrt((count + 0.5) / n))
    poses = (pose_beside(lattice, *axes) for axes in zip(count * GOLDEN_ANGLE + turn, tilts, strict=True))
    return tuple(Camera(pose, focal, focal, side / 2, side / 2, side, side) for pose in poses)


def grown(voxels: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """The voxels [X,Y,Z] and all that are at most `by` away from one along each axis; with 1, those that share a cell."""
    for axis in range(3):
        before, after = ([slice(None)] * axis + [part] for part in (slice(None, -1), slice(1, None)))
        for _ in range(by):
            wider = voxels.copy()
            wider[tuple(after)] |= voxels[tuple(before)]
            wider[tuple(before)] |= voxels[tuple(after)]
            voxels = wider
    return voxels
