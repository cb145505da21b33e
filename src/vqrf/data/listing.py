"""What a dataset says before a pixel of it is read: photos with their cameras, and where things are.

A layout is a file of this wing with one function, `list_shots(folder) -> Listing | None`: None where the folder has another
layout. Nothing of what is listed is believed: names stay inside of the folder, links that lead out are refused, numbers are
checked by `Camera`, and there are no more than `MAX_SHOTS` photos.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vqrf.cameras import Camera
from vqrf.geometry import Float64
from vqrf.lens import Lens

Split = Literal["train", "test"]
Color = tuple[float, float, float]
Box = tuple[Float64, Float64]
"""The lowest and the highest corner, [3] float64 each, world units."""

MAX_SHOTS = 20_000
"""Most photos of a dataset: a hundred times what a thing is photographed with. Each takes some milliseconds at least."""

PHOTO_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".avif", ".heic", ".heif")
"""What `vqrf.data.images` reads, in the order in which an ending is tried that a listing leaves out."""

MAX_SIDE = 1 << 20
"""Pixels of an image's side that a dataset may speak of."""

MAX_DISTANCE = 1e12
"""World units between near and far, or from the origin, at most: beyond it float32 overflows on the way."""

SAME_ASPECT = 1.02
"""How far the aspect of a file may be from that of its camera: small copies of photos are rounded to whole pixels."""

SAME_FOCAL = 1.02
"""How far a focal length may be from that of an angle that is said too: angles are written with four digits."""

MIN_ANGLE = 1e-6
"""Radians that the narrowest lens sees: a telescope's."""

OTHER_FOLDERS = ("rgb", "input", "image", "imgs", "img", "photos", "frames")
"""Names of a folder of photos besides `images`."""

COLORS: dict[str, Color] = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}

NOT_IN_NAMES = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, halves of characters and line breaks. Blanks of any width are in names, and signs
that are newer than this Python."""

WORDS_SHOWN = 80
"""Characters of a name that an error message shows."""


class SceneError(ValueError):
    """A dataset that cannot be used: which file, and why, in one line."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason


@dataclass(frozen=True)
class Optics:
    """What a dataset says of how a camera sees, with or without the size of its image.

    Attributes:
      fx, fy: focal lengths in pixels, None where only an angle is said, or one of them stands for both.
      angle_x, angle_y: that the width and the height of the image span, radians; None where none is said.
      cx, cy: principal point in pixels, None for the centre.
      size: width and height of the image that the pixels are of; None: of whatever size the file has.
      lens: how it bends, None where it does not.

    Raises:
      ValueError: no focal length is said, or one that cannot be.
    """

    fx: float | None = None
    fy: float | None = None
    angle_x: float | None = None
    angle_y: float | None = None
    cx: float | None = None
    cy: float | None = None
    size: tuple[int, int] | None = None
    lens: Lens | None = None

    def __post_init__(self) -> None:
        for name, angle in (("camera_angle_x", self.angle_x), ("camera_angle_y", self.angle_y)):
            if angle is not None and not MIN_ANGLE < angle < math.pi:
                raise ValueError(f"{name}: expected an angle between 0 and pi, got {angle}")
        if self.size is not None and not all(1 <= side <= MAX_SIDE for side in self.size):
            raise ValueError(f"image size: expected 1 to {MAX_SIDE} pixels, got {self.size[0]}x{self.size[1]}")
        is_all_around = self.lens is not None and self.lens.model == "EQUIRECTANGULAR"
        if not is_all_around and all(value is None for value in (self.fx, self.fy, self.angle_x, self.angle_y)):
            raise ValueError("there is no 'camera_angle_x' and no 'fl_x'")
        self.camera(np.eye(4), self.size or (1, 1))

    def camera(self, pose: Float64, size: tuple[int, int]) -> Camera:
        """The camera of an image file of this width and height. Raises ValueError where the numbers make none."""
        said = self.size or size
        if not 1 / SAME_ASPECT < (said[0] * size[1]) / (said[1] * size[0]) < SAME_ASPECT:
            raise ValueError(f"is {size[0]}x{size[1]}, and its camera is for {said[0]}x{said[1]}")
        if self.lens is not None and self.lens.model == "EQUIRECTANGULAR":  # all around, whatever else is said
            return Camera(pose, size[0] / math.tau, size[1] / math.pi, size[0] / 2, size[1] / 2, *size, self.lens)
        fx, fy = _focal(self.fx, self.angle_x, said[0]), _focal(self.fy, self.angle_y, said[1])
        cx, cy = (side / 2 if at is None else at for at, side in zip((self.cx, self.cy), said, strict=True))
        camera = Camera(pose, _either(fx, fy), _either(fy, fx), cx, cy, *said, self.lens)
        return camera if said == size else camera.resized(*size)

    def doubts(self, size: tuple[int, int]) -> tuple[str, ...]:
        """What does not go together in the camera of an image file of this width and height, for the user."""
        said = self.size or size
        if self.lens is not None:
            return ()
        found = []
        pairs = ((self.fx, self.angle_x, said[0]), (self.fy, self.angle_y, said[1]))
        if any(
            focal is not None and angle is not None and not 1 / SAME_FOCAL < _focal_of(angle, side) / focal < SAME_FOCAL
            for focal, angle, side in pairs
        ):
            found.append("have a focal length in pixels and an angle of view that differ: the pixels are taken")
        centre = (self.cx, said[0]), (self.cy, said[1])
        if any(at is not None and not 0 <= at <= side for at, side in centre):
            found.append("have their principal point outside of the image: it may be of photos of another size")
        return tuple(found)


def _focal(pixels: float | None, angle: float | None, side: int) -> float | None:
    if pixels is not None or angle is None:
        return pixels
    return _focal_of(angle, side)


def _focal_of(angle: float, side: int) -> float:
    return side / 2 / math.tan(angle / 2)


def _either(focal: float | None, other: float | None) -> float:
    """A focal length, or that of the other axis where it is not said; a 0 that is said is one."""
    said = other if focal is None else focal
    return 0.0 if said is None else said


@dataclass(frozen=True, eq=False)
class Shot:
    """A photo with its camera, before a pixel is read.

    Attributes:
      file: the photo, inside of the dataset's folder.
      name: its path in the dataset without the ending, `train/r_0`.
      pose: [4,4] float64, as that of `Camera`.
      optics: how the camera sees.
      split: what the dataset uses the photo for, None where it does not say.
      smaller: the same photo again, averaged down by others; the largest first.
      mask: an image of what belongs to the thing, white where it does; None where the dataset has none for the photo.
    """

    file: Path
    name: str
    pose: Float64
    optics: Optics
    split: Split | None = None
    smaller: tuple[Path, ...] = ()
    mask: Path | None = None


@dataclass(frozen=True, eq=False)
class Listing:
    """What a layout's reader found.

    Attributes:
      folder: of the dataset.
      layout: its name for people.
      shots: at least one, in the order in which views are numbered.
      near, far: world distances along a ray between which everything lies, None where the dataset does not say.
      is_rough: whether these are the depths of a few points, and not what the dataset's makers meant.
      box: that holds everything, None where the dataset does not say.
      points: [N,3] float64 places on surfaces, world units; None where the dataset has none.
      background: rgb that the photos stand on already, 0..1; None where they do not say.
      remarks: what was passed over, for the user to read.
    """

    folder: Path
    layout: str
    shots: tuple[Shot, ...]
    near: float | None = None
    far: float | None = None
    is_rough: bool = False
    box: Box | None = None
    points: Float64 | None = None
    background: Color | None = None
    remarks: tuple[str, ...] = ()


def path_inside(folder: Path, name: str, what: str = "file_path") -> Path:
    """Where `name` lies, without looking whether it is there. Backslashes are taken as slashes.

    Args:
      what: the name is, for the message.

    Raises:
      ValueError: it is no name of a file, or not inside of `folder`.

    Safe for untrusted input.
    """
    if not name or any(unicodedata.category(character) in NOT_IN_NAMES for character in name):
        raise ValueError(f"{what} {name[:WORDS_SHOWN]!a} is no name of a file")
    inside = Path(os.path.normpath(name.replace("\\", "/")))
    if inside.is_absolute() or os.pardir in inside.parts or inside.drive or name[1:2] == ":":
        raise ValueError(f"{what} {name[:WORDS_SHOWN]!r} leads out of the dataset's folder")
    return folder / inside


def expect_inside(folder: Path, file: Path) -> Path:
    """The file, unless it is a link that leads out of the folder. Raises SceneError then."""
    try:
        is_inside = file.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a link to itself
        is_inside = False
    if not is_inside:
        raise SceneError(file, "is a link that leads out of the dataset's folder: put a copy there")
    return file


def find_photo(file: Path) -> Path | None:
    """The photo that a listing means by a path whose ending may be missing, or another one than the file's.

    Accents may be written otherwise than in the listing, too: as signs of their own, as macOS and its archives have them.
    """
    bare = file.stem if file.suffix.lower() in PHOTO_ENDINGS else file.name
    endings = (spelling for ending in PHOTO_ENDINGS for spelling in (ending, ending.upper()))
    for name in (file.name, *(bare + ending for ending in endings)):
        for spelt in dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))):
            if (other := file.with_name(spelt)).is_file():
                return other
    return None


def find_mask(masks: Path, name: str) -> Path | None:
    """The mask of the photo `name` in a folder of masks: `NAME.png` as COLMAP has it, or of its own name and any ending."""
    for listed in (f"{name}.png", name):
        if (mask := find_photo(path_inside(masks, listed, "mask"))) is not None:
            return mask
    return None


def photo_folders(*bases: Path) -> list[Path]:
    """The folders of a model's photos, in the first of some places that has such: `images` and `images_2`, `images_4`, ... with
    the same averaged down, or one of another name. The first of `bases` itself where none has."""
    for base in bases:
        scaled = [place for place in base.glob("images_*") if place.name[7:].isdecimal() and len(place.name) < 12]
        found = [base / "images", *sorted(scaled, key=lambda place: int(place.name[7:]))]
        for places in (found, *([base / name] for name in OTHER_FOLDERS)):
            if there := [place for place in places if place.is_dir()]:
                return there
    return [bases[0]]


def name_of(folder: Path, file: Path) -> str:
    """The view's name: its path in the dataset without the ending."""
    inside = file.relative_to(folder)
    return (inside.with_suffix("") if inside.suffix.lower() in PHOTO_ENDINGS else inside).as_posix()


def remark_of_lists(train: Iterable[str], held_out: Iterable[str]) -> tuple[str, ...]:
    """What to say of names that are in the list of what to train on, and in that of what to hold out."""
    both = sorted(set(train) & set(held_out))
    return (f"{len(both)} photos are in the lists of both splits, and held out: {some_names(both)}",) if both else ()


def expect_few(path: Path, n_shots: int) -> None:
    """Refuse a listing of too many photos, before anything is made of them. Raises SceneError."""
    if n_shots > MAX_SHOTS:
        raise SceneError(path, f"lists {n_shots} photos, the limit is {MAX_SHOTS}")


def color_of(name: str) -> Color:
    """The colour of a name of `COLORS`, or of #rrggbb. Raises ValueError where it is neither.

    >>> color_of("#ff8000")
    (1.0, 0.5019607843137255, 0.0)
    """
    if name in COLORS:
        return COLORS[name]
    if not is_color(name):
        raise ValueError(f"background: expected white, black or #rrggbb, got {name[:WORDS_SHOWN]!a}")
    red, green, blue = (int(name[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def color_name(color: Color) -> str:
    """The name from which `color_of` makes a colour, to 1/255.

    >>> color_name((1.0, 1.0, 1.0)), color_name((1.0, 0.502, 0.0))
    ('white', '#ff8000')
    """
    return next((known for known, rgb in COLORS.items() if rgb == color), hex_of(color))


def hex_of(color: Color) -> str:
    """A colour as #rrggbb, to 1/255."""
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in color)


def is_color(name: str) -> bool:
    return name in COLORS or re.fullmatch("#[0-9a-fA-F]{6}", name) is not None


def some_names(names: Iterable[str]) -> str:
    """A few names for a message: `a, b, c and 14 more`."""
    listed = [name[:WORDS_SHOWN] for name in names]
    more = len(listed) - 3
    return ", ".join(listed[:3]) + (f" and {more} more" if more > 0 else "")
