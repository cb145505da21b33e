"""Ways for a camera to go past a scene, and films of what it sees.

Notation. The camera circles the point that the first view looks at, from there, and keeps to the limits that a field says of
itself, as the viewer does. Where nothing is said, it circles the middle of the lattice at a distance from which the whole of it
is in view, and world +Z is up.
A path in a file is one of two kinds of JSON: nerfstudio's (`camera_path`, each with `camera_to_world` and `fov`, the vertical
angle in degrees) or a dataset's `transforms.json`, whose cameras are read as the dataset's own (`vqrf.data.camera_json`).
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrf.cameras import SWAY, Camera, Z, pose_beside, upright
from vqrf.codec.about import NOTHING, About
from vqrf.data.camera_json import expect_known, number, optics_of, pose_of, read_json
from vqrf.data.listing import SceneError
from vqrf.data.transforms import TREE_KEYS
from vqrf.files import expect_file, making
from vqrf.geometry import Float32, Float64, Front, Lattice, Unbounded, Vector
from vqrf.rendering.poster import AMID, FOV

MAX_PATH_BYTES = 1 << 26
"""Most bytes of a camera path; a frame takes some hundreds."""

PITCH = math.radians(25)
"""How far above the horizon an orbit runs."""

SPIRAL_ZOOM = 1.1, 0.75
"""Before what cameras saw from one side, how far the ends of a spiral are from the middle of it, in their distance."""

SPIRAL_PITCHES = math.radians(-5), math.radians(60)
SPIRAL_TURNS = 2

Size = tuple[int, int]
"""Width and height in pixels."""


class PathError(ValueError):
    """There is no camera path; the message says why."""


def orbit(lattice: Lattice, n_views: int, size: Size, up: Vector = Z, about: About = NOTHING) -> list[Camera]:
    """Once around, at one height; the last view is one step before the first, so that a film of it has no seam.

    Before what cameras saw from one side, once around the place that they looked from; in a place without bounds, within the
    cube that held them. Where a limit keeps it from going around, to one end of it, to the other, and back.

    Args:
      about: the first view and the limits.

    >>> cameras = orbit(Lattice((-1, -1, -1), (1, 1, 1), (2, 2, 2)), 4, (16, 16))
    >>> [bool(np.allclose(camera.pose[:3, 3] @ cameras[0].pose[:3, 3], 0)) for camera in cameras]
    [False, False, False, False]
    """
    angles = [2 * math.pi * i / n_views for i in range(n_views)]
    if isinstance(lattice.space, Front):
        return [_sway(lattice, angle, 1.0, size) for angle in angles]
    start = _start(lattice, up, about)
    return [_look(replace(start, yaw=_turned(start.yaw, angle, about)), size, up) for angle in angles]


def spiral(lattice: Lattice, n_views: int, size: Size, up: Vector = Z, about: About = NOTHING) -> list[Camera]:
    """Twice around, rising from a little below the horizon to a view from above, as far as limits allow; or, in front, coming
    nearer."""
    shares = [i / max(n_views - 1, 1) for i in range(n_views)]
    turn = 2 * math.pi * SPIRAL_TURNS
    if isinstance(lattice.space, Front):
        far, near = SPIRAL_ZOOM
        return [_sway(lattice, turn * s, far + s * (near - far), size) for s in shares]
    start, (low, high) = _start(lattice, up, about), (_within(pitch, _pitches(about)) for pitch in SPIRAL_PITCHES)
    yaws = [_turned(start.yaw, turn * s, about) for s in shares]
    return [_look(replace(start, yaw=yaw, pitch=low + s * (high - low)), size, up) for yaw, s in zip(yaws, shares, strict=True)]


@dataclass(frozen=True, eq=False)
class _Stand:
    """Where a camera stands: seen from the point [3] that it looks at, in world units and radians."""

    target: Float64
    distance: float
    yaw: float
    pitch: float


def _start(lattice: Lattice, up: Vector, about: About) -> _Stand:
    """Where a path begins."""
    yaw, pitch = 0.0, PITCH
    if about.view is None and isinstance(lattice.space, Unbounded):
        target, distance = np.array(lattice.space.centre), AMID * lattice.space.half
    elif about.view is None:
        target, distance = np.add(lattice.lo, lattice.hi) / 2, 0.45 * float(np.linalg.norm(lattice.extent)) / math.sin(FOV / 2)
    else:
        target = np.array(about.view.target)
        away = about.view.position - target
        distance = float(np.linalg.norm(away))
        x, y, z = away / distance @ upright(_unit(up))
        yaw, pitch = math.atan2(y, x), math.asin(min(max(z, -1.0), 1.0))
    return _Stand(target, _within(distance, about.distance or (0.0, math.inf)), yaw, _within(pitch, _pitches(about)))


def _turned(yaw: float, angle: float, about: About) -> float:
    """The angle after a turn, all in radians; between limits it comes and goes, and begins as it would without them."""
    if about.yaw is None or about.yaw[1] - about.yaw[0] >= 360:
        return yaw + angle
    right, left = map(math.radians, about.yaw)
    share = math.sin(angle)
    return yaw + share * (left if share > 0 else -right)


def _pitches(about: About) -> tuple[float, float]:
    """How low and how high a camera may stand, in radians."""
    low, high = about.pitch or (-90.0, 90.0)
    return math.radians(low), math.radians(high)


def _within(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])


def _unit(up: Vector) -> Float64:
    unit: Float64 = np.array(up) / np.linalg.norm(up)
    return unit


def _look(stand: _Stand, size: Size, up: Vector) -> Camera:
    yaw, pitch, turn = stand.yaw, stand.pitch, upright(_unit(up))
    back = turn @ np.array([math.cos(pitch) * math.cos(yaw), math.cos(pitch) * math.sin(yaw), math.sin(pitch)])
    right = turn @ np.array([-math.sin(yaw), math.cos(yaw), 0.0])
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, stand.target + stand.distance * back], 1)
    return _camera(pose, min(size) / 2 / math.tan(FOV / 2), size)


def _sway(lattice: Lattice, angle: float, zoom: float, size: Size) -> Camera:
    try:
        pose = pose_beside(lattice, angle, SWAY, zoom)
    except ValueError as error:
        raise PathError(f"{error}: give a path in a file") from None
    return _camera(pose, min(size) / 2 / math.tan(FOV / 2), size)


def _camera(pose: Float64, focal: float, size: Size) -> Camera:
    return Camera(pose, focal, focal, size[0] / 2, size[1] / 2, *size)


FILM_KEYS = ("camera_type", "render_height", "render_width", "fps", "seconds", "duration", "is_cycle")
EASE_KEYS = ("keyframes", "smoothness_value", "tension", "default_fov", "default_transition_sec")
PATH_KEYS = ("camera_path", *FILM_KEYS, *EASE_KEYS, *TREE_KEYS)
VIEW_KEYS = (
    "camera_to_world",
    "fov",
    "aspect",
    "transform_matrix",
    "file_path",
    "mask_path",
    "keyframe",
    "override_transition_sec",
)
"""Keys of a path and of a view in it that are honoured or harmless; beside those of every dataset."""


def load_path(path: str | Path, size: Size) -> list[Camera]:
    """Read a camera path; the pictures have `size` whatever size the file speaks of.

    Safe for untrusted input.

    Raises:
      PathError: the file is no JSON, has no cameras, or one of them is none or of a kind that is not drawn.
      OSError: the file cannot be read.
    """
    expect_file(path)
    try:
        tree = read_json(Path(path))
    except SceneError as error:
        raise PathError(str(error)) from None
    views = tree.get("camera_path", tree.get("frames"))
    if not isinstance(views, list) or not views:
        raise PathError(f"{path}: has no camera_path and no frames{_other_kind(tree)}")
    cameras = []
    try:
        expect_known(tree, PATH_KEYS)
        if (kind := tree.get("camera_type", "perspective")) != "perspective":
            raise ValueError(f"camera_type {str(kind)[:40]!a} is not drawn: only perspective is")
    except ValueError as error:
        raise PathError(f"{path}: {error}") from None
    for i, view in enumerate(views):
        try:
            if not isinstance(view, dict):
                raise ValueError("expected an object")
            expect_known(view, VIEW_KEYS)
            cameras.append(_read_view(tree, view, size))
        except ValueError as error:
            raise PathError(f"{path}: camera {i}: {error}") from None
    return cameras


def _other_kind(tree: dict[str, Any]) -> str:
    """What a file that holds no path seems to be."""
    if isinstance(tree.get("keyframes"), list):
        return ": only keyframes, between which no path was made yet"
    return ": instant-ngp's own paths are not read" if isinstance(tree.get("path"), list) else ""


def _read_view(tree: dict[str, Any], view: dict[str, Any], size: Size) -> Camera:
    """Raises ValueError."""
    if "camera_path" in tree:
        pose = pose_of(_rows(view.get("camera_to_world")), "camera_to_world")
        fov = number(view, "fov")
        if fov is None or not 0 < fov < 180:
            raise ValueError(f"fov: expected degrees between 0 and 180, got {fov}")
        return _camera(pose, size[1] / 2 / math.tan(math.radians(fov) / 2), size)
    pose, optics = pose_of(view.get("transform_matrix"), "transform_matrix"), optics_of(tree, view)
    if optics.size is None and (width := number(view if "w" in view else tree, "w")) is not None:
        optics = replace(optics, size=(int(width), max(round(width * size[1] / size[0]), 1)))
    return _fitted(optics.camera(pose, optics.size or size), size)


def _fitted(camera: Camera, size: Size) -> Camera:
    """The camera for a picture of another size, as wide in angle; where that has another aspect, more or less of the height."""
    scale = size[0] / camera.width
    cy = size[1] / 2 + (camera.cy - camera.height / 2) * scale
    return replace(
        camera, fx=camera.fx * scale, fy=camera.fy * scale, cx=camera.cx * scale, cy=cy, width=size[0], height=size[1]
    )


def _rows(values: object) -> object:
    """A flat list of 12 or 16 numbers as rows of 4; anything else as it is."""
    if isinstance(values, list) and len(values) in (12, 16):
        return [values[i : i + 4] for i in range(0, len(values), 4)]
    return values


class ClipWriter:
    """Takes pictures one by one; see `writing_clip`."""

    def __init__(self, container: Any, stream: Any) -> None:
        self._container, self._stream = container, stream

    def add(self, rgb: Float32) -> None:
        """Append a picture [H,W,3] in 0..1."""
        import av

        pixels: NDArray[np.uint8] = np.clip(rgb * 255 + 0.5, 0, 255).astype(np.uint8)
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
            self._container.mux(packet)


@contextmanager
def writing_clip(path: str | Path, size: Size, frames_per_second: int) -> Iterator[ClipWriter]:
    """A film in H.264 that every browser plays, whole when the block ends well, and not there when it does not.

    Args:
      size: even numbers, which the coding of colour needs.

    Raises:
      ModuleNotFoundError: PyAV (`pip install av`) is missing.
      OSError: the file cannot be written.
    """
    import av

    options = {"movflags": "+faststart"}
    try:
        with making(path) as temporary, av.open(str(temporary), "w", format="mp4", options=options) as container:
            stream = container.add_stream("libx264", rate=frames_per_second, options={"crf": "18"})
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            yield ClipWriter(container, stream)
            for packet in stream.encode(None):
                container.mux(packet)
    except av.FFmpegError as error:
        raise OSError(errno.EIO, f"cannot be written as a film: {error.strerror}", str(path)) from error


def even(size: Sequence[int]) -> bool:
    return all(side % 2 == 0 for side in size)
