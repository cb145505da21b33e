"""Cameras: the rays of their pixels, and where to place them.

Notation. Cameras follow the OpenGL / Blender convention (x right, y up, looking along -z), poses map camera to world, and the
centre of pixel `(column, row)` is at `(column + 0.5, row + 0.5)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vqrf.geometry import Float32, Float64, Front, Lattice, Vector
from vqrf.lens import Lens

Floats = NDArray[np.floating]

MAX_ROTATION_ERROR = 1e-3
"""How far `R R^T` may be from the identity before a pose is refused: text files carry 4 to 6 digits."""

MAX_COORDINATE = 2.0**45
"""Largest coordinate of a camera, in world units: far beyond it, squares overflow float32 on the way to a picture. One that
sees all of the largest box that is drawn (`vqrf.kernels.constants`) stands a quarter as far."""

MAX_PIXELS = 1e12
"""Largest focal length and place in an image; its inverse is the smallest focal length, so that no direction overflows."""

PIXELS_AT_ONCE = 1 << 18
"""Pixels that a lens is asked for at a time where it is asked for all: some 60 MB."""

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
        n_pixels = self.width * self.height
        parts = (np.arange(first, min(first + PIXELS_AT_ONCE, n_pixels)) for first in range(0, n_pixels, PIXELS_AT_ONCE))
        return np.concatenate([part[np.isnan(self.lens.directions(*self._places(part))[:, 2])] for part in parts])

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


def _circled(angle: Float64, height: Float64) -> tuple[Float64, Float64]:
    """The x axes and the z axes [N,3] of cameras that look at the origin from these angles and heights on the unit sphere."""
    flat = np.sqrt(1 - height**2)
    away = np.stack([flat * np.cos(angle), flat * np.sin(angle), height], -1)
    return np.stack([-np.sin(angle), np.cos(angle), np.zeros(len(angle))], -1), away


def _square_camera(right: Float64, back: Float64, position: Float64, focal: float, side: int) -> Camera:
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, position], -1)
    return Camera(pose, focal, focal, side / 2, side / 2, side, side)
