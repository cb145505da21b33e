"""Where voxels are: spaces, lattices, and the only map between the world and voxels.

Notation. World points `x` are in world units. A space takes each to a place: in a box that is the point itself, and `Front`
and `Unbounded` are the other ones. Voxel `(i, j, k)` of a lattice of `shape = (X, Y, Z)` has its place at
`lo + (i, j, k) / (shape - 1) * (hi - lo)`: corner-aligned, `lo` is the first voxel and `hi` the last. Axes are in memory
order, Z fastest.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Vector = tuple[float, float, float]
Row = tuple[float, float, float, float]

FAR_EXTENTS = 100.0
"""How many times its size a scene may be from the origin before it is reckoned elsewhere: float32 tells 2^24 places apart, and
a voxel is a hundredth of a scene."""


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
          pose: [4,4], of `vqrf.cameras.Camera`'s kind.
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
