"""Photos with cameras: files on disk -> `Scene`. The only code that opens images.

Images are bytes: rgb already composited on the background, because a hundred views of 800x800 as floats are
0.8 GB. What a file holds opaque is held exactly; a pixel that was half transparent or averaged is rounded to
1/255, an error of variance (1/255)^2 / 12, which moves a PSNR of 35 dB by less than 0.02 dB.
"""

from __future__ import annotations

import io
import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vqrf.files import write_atomically
from vqrf.geometry import Camera, Float32, Float64

Bytes = NDArray[np.uint8]
Background = Literal["white", "black"]
Color = tuple[float, float, float]

BACKGROUNDS: dict[Background, Color] = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}
SPLITS = ("train", "test")

BLENDER_NEAR, BLENDER_FAR = 2.0, 6.0
"""World distances between which the objects of the Synthetic-NeRF scenes lie, seen from their cameras."""

MAX_JSON_BYTES = 64 << 20
"""100 frames are 70 kB; what is a thousand times that is not a list of cameras."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
IMAGE_MODES = ("RGB", "RGBA", "L", "LA", "P")
"""8-bit modes; the wider ones would have to be cut to 8 bits, and Pillow clips them without a word."""

READ_THREADS = 4
"""Images read at a time; at 800x800 each takes 30 MB while it is composited."""

BOUND_RAYS = 65
"""Rays per image side in `camera_bounds`: between them a frustum bulges by less than 1e-4 of `far`."""


class SceneError(ValueError):
    """A dataset that cannot be used: which file, and why, in one line."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason


@dataclass(frozen=True, eq=False)
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

    def colors(self) -> Float32:
        """The image as [H,W,3] float32 in 0..1."""
        return self.image.astype(np.float32) / np.float32(255)


@dataclass(frozen=True, eq=False)
class Scene:
    """What the laboratory starts from.

    Attributes:
      train, test: views to learn from and views held out; a split that was not asked for is empty.
      background: rgb behind everything, 0..1.
      near, far: world distances along a ray between which everything lies.
      name: what to call it in reports.
    """

    train: tuple[View, ...]
    test: tuple[View, ...]
    background: Color
    near: float
    far: float
    name: str


def load_scene(
    path: str | Path,
    *,
    splits: Sequence[str] = SPLITS,
    downscale: int = 1,
    background: Background = "white",
    every: int = 1,
) -> Scene:
    """Read a dataset in Blender's layout: `transforms_train.json`, `transforms_test.json` and their images.

    Args:
      path: the dataset's folder. Nothing outside it is opened.
      splits: which of `train` and `test` to read; the others' files are not touched.
      downscale: average n x n pixels to one, in premultiplied alpha; has to divide both sides of the images.
      background: what shows through where images are transparent; without alpha they are taken as opaque. A split
        none of whose pixels is transparent has no opacities: its backgrounds are in its photos.
      every: of the test split, take frames 0, n, 2n, ...

    Raises:
      SceneError: a file is missing, broken, or says what cannot be. All poses are checked before an image is
        opened.
      ValueError: an argument is out of its range.

    Safe for untrusted input: JSON is bounded by `MAX_JSON_BYTES` and images by Pillow's limit of pixels.
    """
    if downscale < 1 or every < 1:
        raise ValueError(f"downscale and every: expected at least 1, got {downscale} and {every}")
    if not splits or not set(splits) <= set(SPLITS):
        raise ValueError(f"splits: expected one or both of {SPLITS}, got {tuple(splits)}")
    folder = Path(path)
    if not folder.is_dir():
        raise SceneError(folder, "is no folder" if folder.exists() else "there is no such folder")
    if not any((folder / f"transforms_{split}.json").exists() for split in SPLITS):
        raise SceneError(folder, "is no dataset: it has no transforms_train.json and no transforms_test.json")
    listings = {split: _read_listing(folder, split, background) for split in splits}
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        views = {
            split: _read_views(folder, listing, downscale, background, every if split == "test" else 1)
            for split, listing in listings.items()
        }
    first = listings[splits[0]]
    return Scene(
        train=views.get("train", ()),
        test=views.get("test", ()),
        background=BACKGROUNDS[background],
        near=first.near,
        far=first.far,
        name=folder.resolve().name,
    )


def save_scene(scene: Scene, path: str | Path) -> None:
    """Write a scene as a dataset that `load_scene` reads back to the same images.

    Beside Blender's keys the JSON gets `near`, `far` and `background`: the images are opaque, so a reader has
    to be told what they stand on. Each file is written atomically, the JSON of a split after its images.

    Raises:
      ValueError: the background is not white or black, two views share a name, or cameras of a split differ
        in more than their pose, which this format cannot say.
      OSError: a file cannot be written.
    """
    background = next((name for name, rgb in BACKGROUNDS.items() if rgb == scene.background), None)
    if background is None:
        raise ValueError(f"background: expected white or black, got {scene.background}")
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
            "background": background,
            "frames": [{"file_path": f"./{view.name}", "transform_matrix": view.camera.pose.tolist()} for view in of_split],
        }
        for view in of_split:
            file = _image_path(folder, view.name)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, png_from_image(view.image))
        write_atomically(folder / f"transforms_{split}.json", json.dumps(listing, indent=1).encode())


def png_from_image(image: Bytes) -> bytes:
    """The PNG file of an image [H,W,3] or [H,W] uint8."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def bytes_from_colors(colors: Float32) -> Bytes:
    """The nearest uint8 of values in 0..1; what lies outside is clipped."""
    image: Bytes = np.rint(np.clip(colors, 0, 1) * 255).astype(np.uint8)
    return image


def camera_bounds(scene: Scene) -> tuple[Float64, Float64]:
    """The box [3], [3] float64 around what the training cameras see between `near` and `far`.

    Rays of unit length end on a sphere, so a frustum bulges between its corners: `BOUND_RAYS` per side are
    asked.

    Raises:
      ValueError: the scene has no training views.

    Source: DirectVoxGO (arXiv 2111.11215), the box of the coarse stage. Departs: DVGO asks every pixel.
    """
    if not scene.train:
        raise ValueError("camera_bounds: the scene has no training views")
    lo, hi = np.full(3, np.inf), np.full(3, -np.inf)
    for view in scene.train:
        camera = view.camera
        rows = np.unique(np.linspace(0, camera.height - 1, BOUND_RAYS).astype(np.int64))
        columns = np.unique(np.linspace(0, camera.width - 1, BOUND_RAYS).astype(np.int64))
        origins, directions = camera.rays((rows[:, None] * camera.width + columns).ravel())
        for distance in (scene.near, scene.far):
            points = origins.astype(np.float64) + distance * directions
            lo, hi = np.minimum(lo, points.min(0)), np.maximum(hi, points.max(0))
    return lo, hi


@dataclass(frozen=True)
class _Listing:
    """What a `transforms_*.json` says, checked: image files beside their poses."""

    path: Path
    angle: float
    files: tuple[Path, ...]
    poses: tuple[Float64, ...]
    near: float
    far: float


def _read_listing(folder: Path, split: str, background: Background) -> _Listing:
    path = folder / f"transforms_{split}.json"
    tree = _read_json(path)
    angle = _number(path, tree, "camera_angle_x", None)
    if not 0 < angle < math.pi:
        raise SceneError(path, f"camera_angle_x: expected an angle between 0 and pi, got {angle}")
    near, far = _number(path, tree, "near", BLENDER_NEAR), _number(path, tree, "far", BLENDER_FAR)
    if not 0 <= near < far < math.inf:
        raise SceneError(path, f"near and far: expected 0 <= near < far, got {near} and {far}")
    if tree.get("background", background) != background:
        raise SceneError(path, f"its images stand on {tree['background']!r}, not on {background!r}")
    frames = tree.get("frames")
    if not isinstance(frames, list):
        raise SceneError(path, "there is no list 'frames'")
    if not frames:
        raise SceneError(path, f"there are no frames: the {split} split is empty")
    files, poses = [], []
    for number, frame in enumerate(frames):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise SceneError(path, f"frame {number}: there is no 'file_path'")
        try:
            files.append(_image_path(folder, frame["file_path"]))
            poses.append(_pose(frame.get("transform_matrix")))
        except ValueError as error:
            raise SceneError(path, f"frame {number}: {error}") from None
    return _Listing(path, angle, tuple(files), tuple(poses), near, far)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SceneError(path, "there is no such file")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise SceneError(path, error.strerror or str(error)) from error
    if len(data) > MAX_JSON_BYTES:
        raise SceneError(path, f"is larger than {MAX_JSON_BYTES} bytes")
    try:
        tree = json.loads(data)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise SceneError(path, f"is not JSON: {error.msg}, {where}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of 5000 digits, endless nesting
        raise SceneError(path, f"is not JSON: {type(error).__name__}") from None
    if not isinstance(tree, dict):
        raise SceneError(path, f"expected a JSON object, got {type(tree).__name__}")
    return tree


def _number(path: Path, tree: dict[str, Any], key: str, default: float | None) -> float:
    value = tree.get(key, default)
    if value is None:
        raise SceneError(path, f"there is no {key!r}")
    if not _is_number(value):
        raise SceneError(path, f"{key}: expected a number, got {str(value)[:40]!r}")
    return float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < 1 << 53)


def _pose(rows: object) -> Float64:
    """The matrix as [4,4] float64. Raises ValueError where it is none, or none that a camera can have."""
    if not isinstance(rows, list) or [len(row) for row in rows if isinstance(row, list)] != [4, 4, 4, 4]:
        raise ValueError("transform_matrix: expected 4 rows of 4 numbers")
    if not all(_is_number(value) for row in rows for value in row):
        raise ValueError("transform_matrix: expected numbers")
    return Camera(np.array(rows, np.float64), 1.0, 1.0, 0.0, 0.0, 1, 1).pose


def _image_path(folder: Path, name: str) -> Path:
    """Where the image `name` lies; `.png` may be left out. Raises ValueError if not inside of `folder`."""
    if not name.isprintable():  # a zero byte, half a surrogate, a line break in the error message
        raise ValueError(f"file_path {name[:80]!a} is no name of a file")
    inside = Path(os.path.normpath(name))
    if inside.is_absolute() or os.pardir in inside.parts:
        raise ValueError(f"file_path {name[:80]!r} leads out of the dataset's folder")
    return folder / (inside if inside.suffix.lower() in IMAGE_SUFFIXES else f"{inside}.png")


def _read_views(folder: Path, listing: _Listing, downscale: int, background: Background, every: int) -> tuple[View, ...]:
    files, poses = listing.files[::every], listing.poses[::every]
    size = _read_size(files[0])
    if size[0] % downscale or size[1] % downscale:
        raise SceneError(files[0], f"is {size[0]}x{size[1]}, which cannot be downscaled by {downscale}")

    def read(file: Path) -> tuple[Bytes, Bytes]:
        return _composite(_read_rgba(file, size), downscale, BACKGROUNDS[background])

    with ThreadPoolExecutor(READ_THREADS) as pool:
        images = list(pool.map(read, files))
    has_opacity = any(opacity.min() < 255 for _, opacity in images)
    height, width = images[0][1].shape
    focal = width / 2 / math.tan(listing.angle / 2)
    return tuple(
        View(
            Camera(pose, focal, focal, width / 2, height / 2, width, height),
            image,
            file.relative_to(folder).with_suffix("").as_posix(),
            opacity if has_opacity else None,
        )
        for file, pose, (image, opacity) in zip(files, poses, images, strict=True)
    )


def _read_size(path: Path) -> tuple[int, int]:
    """Width and height, from the head of the file."""
    with _opened(path) as image:
        return image.size


def _read_rgba(path: Path, size: tuple[int, int]) -> Bytes:
    """[H,W,4] uint8, alpha not premultiplied."""
    with _opened(path) as image:
        if image.size != size:
            got, expected = "x".join(map(str, image.size)), "x".join(map(str, size))
            raise SceneError(path, f"is {got}, the first view of its split is {expected}")
        if image.mode not in IMAGE_MODES:
            raise SceneError(path, f"expected 8 bits per channel, rgb or gray, got mode {image.mode}")
        return np.asarray(image.convert("RGBA"), np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image file, its pixels not yet read. What goes wrong while it is open becomes a SceneError."""
    if not path.is_file():
        raise SceneError(path, "there is no such image")
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise SceneError(path, "has more pixels than an image may have") from None
    except UnidentifiedImageError:
        raise SceneError(path, f"is no image, or not one of {', '.join(IMAGE_FORMATS)}") from None
    except SceneError:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise on a broken file
        raise SceneError(path, f"cannot be read: {error}") from None


def _composite(rgba: Bytes, downscale: int, background: Color) -> tuple[Bytes, Bytes]:
    """[H/n,W/n,3] and [H/n,W/n] uint8: block averages of premultiplied colour laid on the background, and of alpha."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    colors = rgba[..., :3] * (alpha / 255) + (1 - alpha) * np.array(background, np.float32)
    height, width = rgba.shape[0] // downscale, rgba.shape[1] // downscale
    shape = (height, downscale, width, downscale, -1)
    blocks, opacity = (a.reshape(shape).mean((1, 3), dtype=np.float32) for a in (colors, alpha))
    return bytes_from_colors(blocks), bytes_from_colors(opacity[..., 0])


def _shared_angle(views: tuple[View, ...]) -> float:
    """`camera_angle_x` of cameras that differ in nothing but their pose."""
    first = views[0].camera
    centred = (first.fx, first.fx, first.width / 2, first.height / 2, first.width, first.height)
    for view in views:
        c = view.camera
        if not np.allclose((c.fx, c.fy, c.cx, c.cy, c.width, c.height), centred, rtol=1e-9):
            raise ValueError(f"camera of view {view.name}: all of a split share one focal length, centred")
    return 2 * math.atan(first.width / 2 / first.fx)
