"""A scene: views (photos with their cameras), and where it lies. What is read from disk becomes one in `vqrf.data.load`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from vqrf.cameras import Camera
from vqrf.data.images import Bytes, png_from_image
from vqrf.data.listing import PHOTO_ENDINGS, Box, Color, color_name, color_of, path_inside
from vqrf.data.placement import SpaceName, look_of, mean_axis
from vqrf.files import write_atomically
from vqrf.geometry import FARTHEST, Float32, Float64, Front, Unbounded

SPLITS = ("train", "test")

BOUND_RAYS = 65
"""Rays per image side in `camera_bounds`: between them a frustum bulges by less than 1e-4 of `far`."""

DEPTH_SHARE = 0.5
"""How deep the space of cameras that look one way is, to infinity, by how wide; voxels are cubes there."""

BEYOND_FAR = 4.0
"""How many times as far as things were said to be that space goes."""

CUBE_LOOKED_AT = 0.7
"""Half of the cube that is as it is, of a space without bounds, by how far the farthest camera is from what they look at. A
thing gains more than a room loses (docs/log/unbounded.md#how-well-is-a-place-learnt-at-all-depths)."""

LEAST_NEAR = 1e-3
"""Where that space begins at the nearest, by `far`: at 0 the map would have no end."""


@dataclass(frozen=True, eq=False, repr=False)
class View:
    """One image and the camera that took it.

    Attributes:
      image: [H,W,3] uint8 rgb, on the background of its scene.
      name: its path in the dataset without the ending, `train/r_0`.
      opacity: [H,W] uint8 in 1/255, where the photo says how much of a pixel is the thing; None where it does not.
      weight: [H,W] uint8 in 1/255, how much a pixel counts, 0 where it is not to be looked at; None where all do.
    """

    camera: Camera
    image: Bytes
    name: str
    opacity: Bytes | None = None
    weight: Bytes | None = None

    def __post_init__(self) -> None:
        expected = (self.camera.height, self.camera.width, 3)
        if self.image.dtype != np.uint8 or self.image.shape != expected:
            got = f"{self.image.dtype} {list(self.image.shape)}"
            raise ValueError(f"image of view {self.name}: expected uint8 {list(expected)}, got {got}")
        for name, array in (("opacity", self.opacity), ("weight", self.weight)):
            if array is not None and (array.dtype != np.uint8 or array.shape != expected[:2]):
                got = f"{array.dtype} {list(array.shape)}"
                raise ValueError(f"{name} of view {self.name}: expected uint8 {list(expected[:2])}, got {got}")

    def __repr__(self) -> str:
        given = [name for name in ("opacity", "weight") if getattr(self, name) is not None]
        return f"View({', '.join([repr(self.name), f'{self.camera.width}x{self.camera.height}', *given])})"

    def colors(self) -> Float32:
        """The image as [H,W,3] float32 in 0..1."""
        return self.image.astype(np.float32) / np.float32(255)


@dataclass(frozen=True, eq=False, repr=False)
class Scene:
    """What the laboratory starts from.

    Attributes:
      train, test: views to learn from and views held out; a split that was not asked for is empty.
      background: rgb behind everything, 0..1.
      near, far: world distances along a ray between which everything lies.
      name: what to call it in reports.
      box: world corners that hold everything, where they are known; None: what the training cameras see.
      up: unit vector, what is up in the world.
      source: where near, far and box are from, for people.
      masked: what masks hide, "background" or "ignored"; "" where there are none.
      downscale: how many pixels of a photo, on a side, were averaged to one; of the first view where they differ.
      hold_out: what `vqrf.data.splits.split_shots` takes to hold out the same photos again.
      remarks: what was passed over when it was read, for the user.
      space: how the world is to lie in the voxels.
      contrast: rgb behind a field while it learns from photos that show something at every pixel: one that they do not show, so
        that no surface is taken for what is behind it. None: `background`.
    """

    train: tuple[View, ...]
    test: tuple[View, ...]
    background: Color
    near: float
    far: float
    name: str
    box: Box | None = None
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    source: str = ""
    masked: Literal["", "background", "ignored"] = ""
    downscale: int = 1
    hold_out: str = "own"
    remarks: tuple[str, ...] = ()
    space: SpaceName = "box"
    contrast: Color | None = None

    @property
    def learnt_on(self) -> Color:
        """What is behind a field while it learns."""
        return self.background if self.contrast is None else self.contrast

    def __repr__(self) -> str:
        sizes = sorted({(view.camera.width, view.camera.height) for view in self.train + self.test})
        size = "" if not sizes else ", {}x{}".format(*sizes[0]) if len(sizes) == 1 else f", {len(sizes)} sizes of photos"
        return f"Scene({self.name!r}, {len(self.train)} training views, {len(self.test)} held out{size})"


def moved_scene(scene: Scene, offset: Float64) -> Scene:
    """The same scene in a world that is moved by `offset` [3]."""
    if not offset.any():
        return scene
    train, test = (
        tuple(replace(view, camera=view.camera.moved(offset)) for view in views) for views in (scene.train, scene.test)
    )
    box = None if scene.box is None else (scene.box[0] + offset, scene.box[1] + offset)
    return replace(scene, train=train, test=test, box=box)


def save_scene(scene: Scene, path: str | Path) -> None:
    """Write a scene as a dataset that `load_scene` reads back to the same images.

    Beside Blender's keys the JSON gets `near`, `far` and `background`: the images are opaque, so a reader has
    to be told what they stand on, if they stand on anything. Each file is written atomically, the JSON of a split after its
    images.

    Raises:
      ValueError: the background is no colour of 8 bits, two views share a name, or cameras of a split differ
        in more than their pose, which this format cannot say.
      OSError: a file cannot be written.
    """
    background = color_name(scene.background)
    if color_of(background) != scene.background:
        raise ValueError(f"background: expected a colour of whole numbers in 0..255, got {scene.background} of 0..1")
    views = scene.train + scene.test
    if len({view.name for view in views}) < len(views):
        raise ValueError("two views of the scene have the same name")
    folder = Path(path)
    for split, of_split in (("train", scene.train), ("test", scene.test)):
        if not of_split:
            continue
        listing = {
            "camera_angle_x": _shared_angle(of_split),
            "near": scene.near,
            "far": scene.far,
            "background": background if scene.contrast is None else None,
            "frames": [{"file_path": f"./{view.name}", "transform_matrix": view.camera.pose.tolist()} for view in of_split],
        }
        for view in of_split:
            file = _photo_path(folder, view.name)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, png_from_image(view.image))
        write_atomically(folder / f"transforms_{split}.json", json.dumps(listing, indent=1).encode())


def opaque_scene(scene: Scene) -> Scene:
    """The scene with training photos that say that no light is left behind what they show, where that is so.

    It is so of photos that show something at every pixel, in a space that has room for all of it. A box has not, and there a
    ray may end in what is outside.
    """
    if scene.space == "box" or scene.contrast is None:
        return scene
    train = (
        view if view.opacity is not None else replace(view, opacity=np.full(view.image.shape[:2], 255, np.uint8))
        for view in scene.train
    )
    return replace(scene, train=tuple(train))


def camera_bounds(scene: Scene) -> tuple[Float64, Float64]:
    """The box [3], [3] float64 around what the training cameras see between `near` and `far`, within the scene's own box.

    Rays of unit length end on a sphere, so a frustum bulges between its corners: `BOUND_RAYS` per side are
    asked.

    Raises:
      ValueError: the scene has no training views.

    Source: DirectVoxGO (arXiv 2111.11215), the box of the coarse stage. Departs: DVGO asks every pixel.
    """
    if not scene.train:
        raise ValueError("camera_bounds: the scene has no training views")
    lo, hi = _bounds(scene, lambda points: points)
    if scene.box is None:
        return lo, hi
    within = np.maximum(lo, scene.box[0]), np.minimum(hi, scene.box[1])
    return within if (within[0] < within[1]).all() else scene.box


def front_bounds(scene: Scene) -> tuple[Front, Float64, Float64]:
    """The space in front of the training cameras, and the places [3], [3] float64 between which they see things in it.

    It looks the way that the cameras do in the mean, from where the rearmost stands. It goes on beyond `far`, to `BEYOND_FAR`
    times that depth, for what is farther than any point that was found, as a sky is; in disparity that is little.

    Raises:
      ValueError: the scene has no training views.
    """
    if not scene.train:
        raise ValueError("front_bounds: the scene has no training views")
    poses = np.stack([view.camera.pose for view in scene.train])
    axis, positions = mean_axis(poses), poses[:, :3, 3]
    right = np.cross(axis, poses[:, :3, 1].mean(0))
    if np.linalg.norm(right) < 1e-6:  # of cameras that are turned against each other
        right = np.cross(axis, np.eye(3)[np.abs(axis).argmin()])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(right, axis), -axis], 1)
    pose[:3, 3] = positions.mean(0) + ((positions - positions.mean(0)) @ axis).min() * axis

    def across_and_depth(points: Float64) -> Float64:
        seen = (points - pose[:3, 3]) @ (pose[:3, :3] * [1, 1, -1])
        return np.concatenate([seen[:, :2] / seen[:, 2:], seen[:, 2:]], 1)

    lo, hi = _bounds(replace(scene, near=max(scene.near, LEAST_NEAR * scene.far)), across_and_depth)
    near, far = lo[2], BEYOND_FAR * hi[2]
    depth = DEPTH_SHARE * float((hi - lo)[:2].max())
    lo[2], hi[2] = 0.0, depth * (1 - near / far)
    return Front.looking(pose, float(near), depth), lo, hi


def unbounded_bounds(scene: Scene) -> tuple[Unbounded, Float64, Float64]:
    """The space around the training cameras, and the places [3], [3] float64 between which it is used: nearly all of them.

    Its cube is around the middle of them and holds them all; where they look at one point, it is around that, and smaller.

    Raises:
      ValueError: the scene has no training views.
    """
    if not scene.train:
        raise ValueError("unbounded_bounds: the scene has no training views")
    poses = np.stack([view.camera.pose for view in scene.train])
    looks, positions = look_of(poses), poses[:, :3, 3]
    centre = looks.centre if looks.is_at_one else positions.mean(0)
    share = CUBE_LOOKED_AT if looks.is_at_one else 1.0
    half = max(share * float(np.abs(positions - centre).max()), scene.near)
    return Unbounded.around(centre, half), np.full(3, -FARTHEST), np.full(3, FARTHEST)


def _bounds(scene: Scene, coordinates: Callable[[Float64], Float64]) -> tuple[Float64, Float64]:
    """Lowest and highest coordinates of what the training cameras see between `near` and `far`."""
    lo, hi = np.full(3, np.inf), np.full(3, -np.inf)
    for view in scene.train:
        camera = view.camera
        rows = np.unique(np.linspace(0, camera.height - 1, BOUND_RAYS).astype(np.int64))
        columns = np.unique(np.linspace(0, camera.width - 1, BOUND_RAYS).astype(np.int64))
        origins, directions = camera.rays((rows[:, None] * camera.width + columns).ravel())
        for distance in (scene.near, scene.far):
            points = coordinates(origins.astype(np.float64) + distance * directions)
            lo, hi = np.minimum(lo, points.min(0)), np.maximum(hi, points.max(0))
    return lo, hi


def _photo_path(folder: Path, name: str) -> Path:
    """Where the photo of a view lies; `.png` may be left out. Raises ValueError if not inside of `folder`."""
    file = path_inside(folder, name)
    return file if file.suffix.lower() in PHOTO_ENDINGS else file.with_name(f"{file.name}.png")


def _shared_angle(views: tuple[View, ...]) -> float:
    """`camera_angle_x` of cameras that differ in nothing but their pose."""
    first = views[0].camera
    centred = (first.fx, first.fx, first.width / 2, first.height / 2, first.width, first.height)
    for view in views:
        c = view.camera
        if not np.allclose((c.fx, c.fy, c.cx, c.cy, c.width, c.height), centred, rtol=1e-9):
            raise ValueError(f"camera of view {view.name}: all of a split share one focal length, centred")
    return 2 * math.atan(first.width / 2 / first.fx)
