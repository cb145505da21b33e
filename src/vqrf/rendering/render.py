"""What does this camera see: a radiance field -> an image.

The rendering equation is in `vqrf.kernels`; here a camera becomes rays, and rays become an image again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vqrf.cameras import Camera, Z, cameras_around, cameras_beside, cameras_within, yaw_of
from vqrf.codec.about import NOTHING, About
from vqrf.data.images import bytes_from_colors, png_from_image
from vqrf.data.rays import CameraTable
from vqrf.data.scene import Scene, View
from vqrf.fields.field import RadianceField
from vqrf.files import write_atomically
from vqrf.geometry import Float32, Float64, Front
from vqrf.kernels import Volume, select

OWN_TEST_VIEWS = 8
OWN_TEST_TURN = 1.0
"""Radians by which they are turned against the others."""


@dataclass(frozen=True, eq=False, repr=False)
class Image:
    """What a camera sees.

    Attributes:
      rgb: [H,W,3] float32 in 0..1, background included.
      depth: [H,W] float32, sum of weight * distance in world units: how far it is to what is there where
        `opacity` is 1, and 0 where there is nothing.
      opacity: [H,W] float32 in 0..1, what is not background.
    """

    rgb: Float32
    depth: Float32
    opacity: Float32

    def __repr__(self) -> str:
        return f"Image({self.rgb.shape[1]}x{self.rgb.shape[0]}, rgb, depth, opacity)"


def render(field: RadianceField | Volume, camera: Camera, *, rays_per_batch: int = 1 << 17) -> Image:
    """Render what `camera` sees of a field, on the CPU.

    Args:
      field: for many views of one field pass its `volume()`, so that its cells are searched once.
      rays_per_batch: bounds memory; the image does not depend on it.

    Deterministic. Not differentiable.

    Raises:
      ValueError: `rays_per_batch` is below 1.
    """
    if rays_per_batch < 1:
        raise ValueError(f"rays_per_batch: expected at least 1, got {rays_per_batch}")
    volume = field if isinstance(field, Volume) else field.volume()
    if (offset := volume.lattice.far_offset()).any():  # what is far from the origin is drawn at it, for float32's sake
        camera, volume = camera.moved(offset), volume.moved(offset)
    kernels = select()
    n_rays = camera.width * camera.height
    rgb = np.empty((n_rays, 3), np.float32)
    background_weight, depth = np.empty((2, n_rays), np.float32)
    for batch, rays in CameraTable([camera]).chunks(rays_per_batch):
        rgb[batch], background_weight[batch], depth[batch] = kernels.render_rays(volume, *rays)
    size = (camera.height, camera.width)
    np.minimum(rgb, 1, out=rgb)  # harmonics with a ReLU may be brighter than what an image holds
    return Image(rgb.reshape(*size, 3), depth.reshape(size), (1 - background_weight).reshape(size))


def own_scene(field: RadianceField, n_train: int, side: int, below: float = 0.5, about: About = NOTHING) -> Scene:
    """A scene without photos: what a field looks like from `own_cameras`.

    Its test views are `OWN_TEST_VIEWS` others. Deterministic. Arguments and errors are those of `own_cameras`.
    """
    volume = field.volume()

    def views(split: str, cameras: tuple[Camera, ...]) -> tuple[View, ...]:
        images = [(camera, render(volume, camera)) for camera in cameras]
        return tuple(
            View(camera, bytes_from_colors(image.rgb), f"{split}/{i}", np.rint(image.opacity * 255).astype(np.uint8))
            for i, (camera, image) in enumerate(images)
        )

    train, test = (
        views(split, own_cameras(field, n, side, turn=turn, below=below, about=about))
        for split, n, turn in (("train", n_train, 0.0), ("test", OWN_TEST_VIEWS, OWN_TEST_TURN))
    )
    middle, radius = _ball_around(field)
    return Scene(
        train=train,
        test=test,
        background=field.equation.background,
        near=field.equation.near,
        far=radius + max(float(np.linalg.norm(view.camera.pose[:3, 3] - middle)) for view in (*train, *test)),
        name="own renders",
    )


def own_cameras(
    field: RadianceField, n: int, side: int, *, turn: float = 0.0, below: float = 0.5, about: About = NOTHING
) -> tuple[Camera, ...]:
    """Cameras around what is in a field, or where people may go. Deterministic. Other arguments as of `cameras_around`.

    Args:
      about: what the field says of itself. With a first view and limits of both kinds, the cameras look at what it does, within
        these limits, as what lies beyond was seen by nobody; `below` does not count then. In front of what was seen from one
        side they stand around where that was seen from in any case.

    Raises:
      ValueError: there is nothing in the field, or nobody knows where its cameras were.
    """
    middle, radius = _ball_around(field)
    if isinstance(field.lattice.space, Front):
        return cameras_beside(field.lattice, n, side, turn=turn)
    if about.view is None or about.distance is None or about.pitch is None:
        if field.lattice.space is not None:
            needed = "expected photos, or a view, distance and pitch as vqrf meta sets them"
            raise ValueError(f"a field in the space {field.lattice.space.name} does not say where its cameras were: {needed}")
        return cameras_around(middle, radius, n, side, turn=turn, below=below)
    up = np.array(about.up or Z)
    up = up / np.linalg.norm(up)
    yaws = None
    if about.yaw is not None:
        first = float(yaw_of(np.subtract(about.view.position, about.view.target), up))
        yaws = (first + math.radians(about.yaw[0]), first + math.radians(about.yaw[1]))
    return cameras_within(about.view.target, about.distance, about.pitch, n, side, up=up, turn=turn, yaws=yaws)


def _ball_around(field: RadianceField) -> tuple[Float64, float]:
    """The middle [3] and the radius of a ball, in the world, that has all in it that is in a field.

    Raises:
      ValueError: there is nothing in it.
    """
    lattice = field.lattice
    occupied = np.argwhere(field.volume().cells)
    if not len(occupied):
        raise ValueError("there is nothing in the field")
    places = lattice.world_from_index(occupied + 0.5)
    middle = (places.min(0) + places.max(0)) / 2
    cell = float(np.linalg.norm(lattice.extent / (np.array(lattice.shape) - 1)))
    return middle, float(np.linalg.norm(places - middle, axis=-1).max()) + cell / 2


def save_image(colors: Float32, path: str | Path) -> None:
    """Write [H,W,3] or [H,W] floats as an 8-bit PNG, what is outside of 0..1 clipped: the whole file or none.

    Raises:
      OSError: the file cannot be written.
    """
    write_atomically(path, png_from_image(bytes_from_colors(colors)))
