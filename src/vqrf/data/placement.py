"""Where things are: near, far, a box and what is up, from what a dataset says and from where its cameras stand and look.

In the order of trust: what the user says; what the dataset says of itself; the cameras of the Synthetic-NeRF scenes, for which
near is 2 and far 6 by custom; a thing on a plain background, which lies where nearly all cameras look; the points of a model;
the place around which the cameras stand. Every rule scales and moves with the world, but for the custom.

A thing on a plain background lies in a box. So does what user or dataset say an end of. What other photos show has no end: a
room, a landscape (docs/log/unbounded.md#which-space-do-photos-get-that-say-nothing-of-it). It lies in front of cameras that
stand side by side and look one way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vqrf.cameras import Camera
from vqrf.data.listing import MAX_DISTANCE, Box, Listing
from vqrf.geometry import Float64

Axes = Literal["opengl", "opencv"]
SpaceName = Literal["box", "front", "unbounded"]
Vector = tuple[float, float, float]

USUAL_NEAR, USUAL_FAR = 2.0, 6.0
"""World distances between which the objects of the Synthetic-NeRF scenes lie, seen from their cameras."""

USUAL_DISTANCES, USUAL_OFFSET = (3.4, 4.8), 0.3
"""How far the cameras of such scenes stand from the point that they look at, and how far that is from the origin."""

MIN_CAMERAS = 3
"""With fewer, where they look says nothing."""

MIN_SPREAD = 0.02
"""Of viewing axes: the mean square of the sine between them and the line that they are nearest to. Below, all look alike."""

MAX_MISS = 0.3
"""How far the axes of cameras that look at one thing pass it by, in their distances."""

THING_NEAR, THING_FAR = 0.5, 1.5
ROOM_NEAR, ROOM_FAR = 0.25, 3.0
"""Of the distance to where the cameras look: between these a thing lies, and what is around it. What is farther off would take
all of the voxels."""

SEEN_SHARE, HULL_SIDE, HULL_CAMERAS = 0.95, 40, 100
"""A place that so many cameras have in their image may hold a thing on a plain background; cells of the search for such places
on a side; cameras that are asked."""

POINT_QUANTILES, POINT_MARGIN = (0.005, 0.995), 0.1
"""Of a model's points, those that are left out at either end, and how much the box is wider."""

FRONT_CORNER = np.cos(np.radians(75))
"""Cosine of how far the ray of a pixel may be from the mean of the viewing axes where cameras look one way."""

SIDE_BY_SIDE = 0.5
"""Cameras stand side by side if they are no farther apart along the way that they look, by how near things are: then all stand
before the space in front. Fern has 0.08, and photos of a toy car from one side, nearer and farther, have 3.5: voxels that grow
with depth suit the first alone (docs/log/front.md#which-photos-get-the-space-in-front)."""

UPRIGHT = np.cos(np.radians(20))
"""Where cameras say that up is within 20 degrees of an axis of the world, it is that axis."""


class PlacementError(ValueError):
    """The cameras cannot be: what is likely wrong with them."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Where things are.

    Attributes:
      near, far: world distances along a ray between which everything lies.
      box: that holds everything; None: what the cameras see between near and far.
      up: unit vector.
      centre: the point that the cameras look at, None where they look at none.
      source: of near, far and box, for people.
      space: how the world is to lie in the voxels: as wished, or as what photos and cameras show needs it.
    """

    near: float
    far: float
    box: Box | None
    up: Vector
    centre: Vector | None
    source: str
    space: SpaceName


@dataclass(frozen=True)
class Wishes:
    """What the user says of the place; None: to be worked out."""

    near: float | None = None
    far: float | None = None
    box: tuple[float, ...] | None = None
    up: Vector | None = None
    space: SpaceName | None = None

    def __post_init__(self) -> None:
        near, far = self.near or 0.0, MAX_DISTANCE if self.far is None else self.far
        if not 0 <= near < far <= MAX_DISTANCE or far < 1 / MAX_DISTANCE:
            limit = f"0 <= near < far <= {MAX_DISTANCE:g}, and far above {1 / MAX_DISTANCE:g}"
            raise ValueError(f"near and far: expected {limit}, got {self.near} and {self.far}")
        if self.box is not None and (
            len(self.box) != 6
            or not all(b - a > 1 / MAX_DISTANCE for a, b in zip(self.box[:3], self.box[3:], strict=True))
            or not max(map(abs, self.box)) <= MAX_DISTANCE
        ):
            limit = f"expected the lowest and the highest corner, within {MAX_DISTANCE:g} of 0"
            raise ValueError(f"box: {limit}, got {' '.join(map(str, self.box))}")
        if self.up is not None and not 1e-6 < float(np.linalg.norm(self.up)) < np.inf:
            raise ValueError(f"up: expected a direction, got {self.up}")


@dataclass(frozen=True, eq=False)
class Looks:
    """Where cameras look.

    Attributes:
      centre: [3] the point that is nearest to all viewing axes.
      distances: [N] of the point along each axis, negative where a camera looks away.
      miss: how far the axes pass it by, in their distances; the median.
      is_at_one: whether the axes are spread and meet there.
    """

    centre: Float64
    distances: Float64
    miss: float
    is_at_one: bool


def place(cameras: Sequence[Camera], listing: Listing, wishes: Wishes, *, is_plain: bool) -> Placement:
    """Work out where things are.

    Args:
      cameras: all of the dataset's.
      is_plain: whether photos show a thing on a plain or transparent background.
    """
    looks = look_of(np.stack([camera.pose for camera in cameras]))
    up = up_of(np.stack([camera.pose for camera in cameras])) if wishes.up is None else _unit(np.array(wishes.up))
    centre = _vector(looks.centre) if looks.is_at_one else None
    box = None if wishes.box is None else (np.array(wishes.box[:3]), np.array(wishes.box[3:]))
    source = "" if box is None else "the user"
    near, far = listing.near, listing.far
    if box is None and near is not None and far is not None and not listing.is_rough:
        source = "the dataset"
    elif box is None:
        near, far, box, source = _derived(cameras, listing, looks, is_plain)
    else:
        near = far = None
    if box is not None and (near is None or far is None):
        near, far = bounds_of_box(cameras, box)
    assert near is not None and far is not None
    if wishes.near is not None or wishes.far is not None:
        source = "the user" if wishes.near is not None and wishes.far is not None else f"the user, and {source}"
        near, far = near if wishes.near is None else wishes.near, far if wishes.far is None else wishes.far
        if not near < far:
            raise PlacementError(f"near and far: expected near below far, got {near:g} and {far:g}: give both")
    if wishes.space == "front" and (fault := front_fault(cameras)):
        raise PlacementError(f"space: {fault}")
    has_end = is_plain or _is_bounded(listing, wishes) or _is_usual(listing, looks, is_plain)
    is_endless = not has_end and len(cameras) >= MIN_CAMERAS
    space: SpaceName = _endless_space(cameras, near) if is_endless else "box"
    return Placement(near, far, box, up, centre, source, wishes.space or space)


def _endless_space(cameras: Sequence[Camera], near: float) -> SpaceName:
    """That suits photos of what has no end and begins at `near`."""
    if front_fault(cameras) is not None:
        return "unbounded"
    return "front" if are_side_by_side(np.stack([camera.pose for camera in cameras]), near) else "box"


Found = tuple[float | None, float | None, Box | None, str]


def _derived(cameras: Sequence[Camera], listing: Listing, looks: Looks, is_plain: bool) -> Found:
    """Near, far, a box and where they come from, where neither user nor dataset says near and far for sure."""
    if listing.box is not None:
        return None, None, listing.box, "the dataset's box"
    if len(cameras) < MIN_CAMERAS and listing.near is None:
        return USUAL_NEAR, USUAL_FAR, None, "custom, as there are few cameras"
    if _is_usual(listing, looks, is_plain):
        return USUAL_NEAR, USUAL_FAR, None, "custom, as the cameras are Blender's"
    if is_plain and looks.is_at_one:
        box = _hull(cameras, looks)
        near, far = bounds_of_box(cameras, box)
        near = max(near, THING_NEAR * float(looks.distances.min()), listing.near or 0.0)
        return near, max(far, 2 * near), box, "where all cameras look, as the background is plain"
    if listing.points is not None:
        return *_bounds_of_points(cameras, listing.points), _box_of_points(listing.points), "the model's points"
    nearest, farthest = looks.distances.min(), looks.distances.max()
    if looks.is_at_one:
        near, far = ROOM_NEAR * nearest, ROOM_FAR * farthest
        if listing.near is not None and listing.far is not None:
            return max(near, listing.near), min(far, listing.far), None, "the dataset's depths, and where the cameras look"
        return near, far, None, "where the cameras look"
    if listing.near is not None and listing.far is not None:
        return listing.near, listing.far, None, "the dataset's depths"
    reach = float(np.ptp([camera.pose[:3, 3] for camera in cameras], axis=0).max()) or 1.0
    return ROOM_NEAR * reach, 2 * ROOM_FAR * reach, None, "how far the cameras are spread: give --near and --far"


def _is_usual(listing: Listing, looks: Looks, is_plain: bool) -> bool:
    """Whether cameras stand as those of the Synthetic-NeRF scenes do."""
    low, high = USUAL_DISTANCES
    is_around = looks.is_at_one and low < looks.distances.min() and looks.distances.max() < high
    is_there = float(np.linalg.norm(looks.centre)) < USUAL_OFFSET
    return bool(is_around and is_there and (is_plain or listing.layout == "Blender") and listing.points is None)


def _is_bounded(listing: Listing, wishes: Wishes) -> bool:
    """Whether user or dataset say where everything ends, or that photos stand on a colour."""
    is_said = any(value is not None for value in (wishes.far, wishes.box, listing.box, listing.background))
    return is_said or (listing.far is not None and not listing.is_rough)


def look_of(poses: Float64) -> Looks:
    """Where cameras of these poses [N,4,4] look."""
    origins, axes = poses[:, :3, 3], -poses[:, :3, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    middle = origins.mean(0)
    spread, offset = across.mean(0), np.einsum("nij,nj->i", across, origins - middle) / len(poses)
    centre = middle + np.linalg.lstsq(spread, offset, rcond=1e-9)[0]
    distances = ((centre - origins) * axes).sum(-1)
    passed = np.linalg.norm(centre - origins - distances[:, None] * axes, axis=-1)
    miss = float(np.median(passed) / max(float(np.median(np.abs(distances))), 1e-30))
    is_spread = len(poses) >= MIN_CAMERAS and float(np.linalg.eigvalsh(spread)[0]) > MIN_SPREAD
    is_at_one = is_spread and miss < MAX_MISS and float((distances > 0).mean()) >= 0.9
    if is_at_one:  # those that look past the rest say nothing about how far it is
        distances = np.maximum(distances, np.quantile(distances, 0.02))
    return Looks(centre, distances, miss, bool(is_at_one))


def front_fault(cameras: Sequence[Camera]) -> str | None:
    """Why there is no one side that all cameras look to; None if there is."""
    axis = mean_axis(np.stack([camera.pose for camera in cameras]))
    least = min(float((camera.rays(border_pixels(camera))[1] @ axis).min()) for camera in cameras)
    return None if least >= FRONT_CORNER else "front is for cameras that look one way, and these do not"


def are_side_by_side(poses: Float64, near: float) -> bool:
    """Whether cameras of these poses [N,4,4] stand as in a wall that looks one way, for things that are `near` and farther."""
    return bool(np.ptp(poses[:, :3, 3] @ mean_axis(poses)) <= SIDE_BY_SIDE * near)


def mean_axis(poses: Float64) -> Float64:
    """[3] the unit direction that cameras of these poses [N,4,4] look in, in the mean; 0 where there is none."""
    mean = -poses[:, :3, 2].mean(0)
    axis: Float64 = mean / max(float(np.linalg.norm(mean)), 1e-9)
    return axis


def border_pixels(camera: Camera) -> NDArray[np.int64]:
    """The numbers of the pixels in the corners and in the middles of the sides."""
    rows, columns = (np.array([0, side // 2, side - 1]) for side in (camera.height, camera.width))
    pixels: NDArray[np.int64] = (rows[:, None] * camera.width + columns).ravel()
    return pixels


def fault_of(cameras: Sequence[Camera]) -> str | None:
    """What is wrong with the axes of the poses, where the cameras cannot be meant so; None where they may be right.

    Cameras around a thing look at it: their axes meet in front of them. Where they do so only when the poses are taken
    otherwise, they are otherwise.
    """
    poses = np.stack([camera.pose for camera in cameras])
    if len(poses) < 2 * MIN_CAMERAS or look_of(poses).is_at_one:
        return None
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    if look_of(poses @ flip).is_at_one:
        return (
            "the cameras look away from the point that they stand around: the poses seem to have OpenCV's axes "
            "(y down, z forward; --axes opencv takes them so), or to be world to camera"
        )
    inverse = np.linalg.inv(poses).astype(np.float64)
    reach = float(np.ptp(poses[:, :3, 3], axis=0).max())
    if not np.ptp(poses, axis=0).any():
        return "all cameras have one and the same pose, from which nothing can be told of what is where"
    if reach < 1e-3 * float(np.abs(poses[:, :3, 3]).max()) or any(
        look_of(turned).is_at_one and look_of(turned).miss < MAX_MISS / 2 for turned in (inverse, inverse @ flip)
    ):
        return "the cameras look at one thing only if the poses are world to camera: they seem to be inverted"
    return None


def up_of(poses: Float64) -> Vector:
    """What is up for poses [N,4,4] of cameras held level: across their horizons. An axis of the world, if one is near."""
    rights, ups = poses[:, :3, 0], poses[:, :3, 1]
    mean = ups.mean(0)
    values, vectors = np.linalg.eigh(rights.T @ rights / len(poses))
    across = vectors[:, 0] * np.sign(vectors[:, 0] @ mean or 1.0)
    length = float(np.linalg.norm(mean))
    is_clear = values[1] > MIN_SPREAD and across @ mean > length / 2
    up = across if is_clear else mean / length if length > 1e-6 else np.array([0.0, 0.0, 1.0])
    axis = int(np.abs(up).argmax())
    if abs(up[axis]) > UPRIGHT:
        up = np.sign(up[axis]) * np.eye(3)[axis]
    return _vector(up)


def bounds_of_box(cameras: Sequence[Camera], box: Box) -> tuple[float, float]:
    """Near and far of cameras so that all of a box lies between."""
    origins = np.stack([camera.pose[:3, 3] for camera in cameras])
    lo, hi = box
    nearest = np.linalg.norm(np.maximum(np.maximum(lo - origins, origins - hi), 0), axis=-1).min()
    farthest = np.linalg.norm(np.maximum(np.abs(origins - lo), np.abs(origins - hi)), axis=-1).max()
    return max(float(nearest), 0.01 * float(farthest)), float(farthest)


def _hull(cameras: Sequence[Camera], looks: Looks) -> Box:
    """A box around the places that nearly all cameras have in their image, no farther off than a thing lies."""
    reach = (THING_FAR - 1) * float(looks.distances.max())
    ticks = (np.arange(HULL_SIDE) + 0.5) / HULL_SIDE * 2 - 1
    offsets = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), -1).reshape(-1, 3) * reach
    points = looks.centre + offsets[np.linalg.norm(offsets, axis=-1) < reach]
    some = cameras[:: -(-len(cameras) // HULL_CAMERAS)]
    seen = np.zeros(len(points))
    for camera in some:
        x, y = camera.project(camera.local(points))
        seen += (x >= 0) & (x <= camera.width) & (y >= 0) & (y <= camera.height)
    inside = points[seen >= SEEN_SHARE * len(some)]
    if not len(inside):
        inside = points
    cell = 2 * reach / HULL_SIDE
    return inside.min(0) - cell, inside.max(0) + cell


def _bounds_of_points(cameras: Sequence[Camera], points: Float64) -> tuple[float, float]:
    """Near and far of the points that each camera has in its image, but for a few at either end."""
    nearest, farthest = [], []
    for camera in cameras:
        local = camera.local(points)
        x, y = camera.project(local)
        seen = (x >= 0) & (x <= camera.width) & (y >= 0) & (y <= camera.height)
        if seen.any():
            low, high = np.quantile(np.linalg.norm(local[seen], axis=-1), POINT_QUANTILES)
            nearest.append(low)
            farthest.append(high)
    if not nearest:
        return bounds_of_box(cameras, _box_of_points(points))
    near, far = np.quantile(nearest, POINT_MARGIN), max(farthest)  # a stray point before a single camera is none
    return (1 - 2 * POINT_MARGIN) * float(near), (1 + POINT_MARGIN) * float(far)


def _box_of_points(points: Float64) -> Box:
    lo, hi = np.quantile(points, POINT_QUANTILES, axis=0)
    margin = np.maximum(POINT_MARGIN * (hi - lo), 1e-3 * float((hi - lo).max()) or 1e-3)
    return lo - margin, hi + margin


def _unit(vector: Float64) -> Vector:
    return _vector(vector / np.linalg.norm(vector))


def _vector(array: Float64) -> Vector:
    x, y, z = (float(value) + 0.0 for value in array)
    return x, y, z
