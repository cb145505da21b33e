"""COLMAP's layout: a sparse model, binary or text, beside a folder of photos.

Read are `cameras`, `images` and `points3D` as every version since 3.0 writes them. Since 3.12 there are `rigs` and `frames`
too; `images` holds each photo's own pose all the same, so that they need not be read. The model lies in `sparse/0`, `sparse/1`,
... (the one with the most photos is taken), `sparse`, or where nerfstudio and the undistorter put it. Photos without a pose are
no part of the model. Files named `train.txt` and `test.txt` in the folder of the model, or of the dataset, are the split.

Source: COLMAP's `doc/format.rst`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vqrf.cameras import Camera
from vqrf.data.listing import (
    MAX_DISTANCE,
    Listing,
    Optics,
    SceneError,
    Shot,
    Split,
    expect_few,
    expect_inside,
    find_mask,
    find_photo,
    name_of,
    path_inside,
    photo_folders,
    remark_of_lists,
    some_names,
)
from vqrf.files import read_file
from vqrf.geometry import Float64
from vqrf.lens import Lens

MODEL_FOLDERS = ("sparse", "colmap/sparse", "dense/0/sparse", "dense/sparse", "undistorted/sparse", "sparse_txt", ".")
"""Where models lie, or folders of them with numbers for names."""

PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE")
LENSES = (
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "OPENCV_FISHEYE",
    "FULL_OPENCV",
    "FOV",
    "SIMPLE_RADIAL_FISHEYE",
    "RADIAL_FISHEYE",
)
NEWER_LENSES = ("THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE", "SIMPLE_DIVISION", "DIVISION", "SIMPLE_FISHEYE", "FISHEYE")
MODELS = (*PINHOLES, *LENSES, *NEWER_LENSES, "EUCM", "EQUIRECTANGULAR")
"""By number."""

ONE_FOCAL = (
    "SIMPLE_PINHOLE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "SIMPLE_RADIAL_FISHEYE",
    "RADIAL_FISHEYE",
    "SIMPLE_DIVISION",
    "SIMPLE_FISHEYE",
)
"""Models with f, cx, cy; the others have fx, fy, cx, cy; an equirectangular image has w, h."""

N_NUMBERS = dict(zip(MODELS, (3, 4, 4, 5, 8, 8, 12, 5, 4, 5, 12, 16, 4, 5, 3, 4, 6, 2), strict=True))

POINT_IN_PHOTO = np.dtype([("x", "<f8"), ("y", "<f8"), ("number", "<i8")])

MAX_MODELS = 100
MAX_POINTS = 1_000_000
"""Points that are read, at most: they say where things are, for which a thousand would do."""

SURE_VIEWS, SURE_ERROR, SURE_POINTS = 3, 2.0, 50
"""Photos that show a point and its error in pixels, of points that are sure; and how many of these are enough."""

MAX_MODEL_BYTES = 1 << 31

Lists = dict[Split, list[str]]
"""The names of photos by split, where a file lists them."""


@dataclass(frozen=True, eq=False)
class _Photo:
    """A row of `images`: `places` [N,2] in it are those of the points `numbers` [N], -1 for none."""

    name: str
    pose: Float64
    camera: int
    places: Float64
    numbers: NDArray[np.int64]


def list_shots(folder: Path) -> Listing | None:
    """Photos and cameras of a folder in this layout.

    Raises:
      SceneError: the model cannot be used, or none of its photos is there.

    Safe for untrusted input.
    """
    models = [model for model in _model_folders(folder) if _file(model, "cameras") and _file(model, "images")]
    if not models:
        return None
    remarks = []
    model, photos = max(((model, _read_photos(folder, model)) for model in models), key=lambda found: len(found[1]))
    if len(models) > 1:
        remarks.append(f"of {len(models)} models the one with the most photos is taken: {model.relative_to(folder)}")
    optics = _read_optics(folder, model)
    lists = _read_lists(folder, model)
    shots, missing = _shots(folder, model, photos, optics, lists)
    if not shots and not missing:
        raise SceneError(model, f"train.txt names none of its photos, which begin with {photos[0].name[:80]!a}")
    if not shots:
        raise SceneError(model, f"none of its photos is there: {some_names(missing)}")
    remarks += remark_of_lists(*(lists.get(split, ()) for split in ("train", "test")))
    if missing:
        remarks.append(f"{len(missing)} photos of the model are not there: {some_names(missing)}")
    points, remark = _read_points(folder, model)
    layout = f"COLMAP ({model.relative_to(folder).as_posix()})"
    remarks += [remark] if remark else []
    return Listing(folder, layout, tuple(shots), points=points, remarks=tuple(remarks))


def _model_folders(folder: Path) -> Iterator[Path]:
    """Folders that may hold a model: those that are named, and those in them with a number for a name."""
    for name in MODEL_FOLDERS:
        place = folder / name
        numbered = (
            sorted(islice((inner for inner in place.glob("[0-9]*") if inner.name.isdecimal()), MAX_MODELS))
            if name != "."
            else []
        )
        found = [inner for inner in (*numbered, place) if _file(inner, "cameras")]
        if found:
            yield from found
            return


def _file(model: Path, name: str) -> Path | None:
    """The file of a model, binary if there is one, as COLMAP prefers it."""
    return next((file for ending in ("bin", "txt") if (file := model / f"{name}.{ending}").is_file()), None)


def _shots(
    folder: Path, model: Path, photos: list[_Photo], optics: dict[int, Optics], lists: Lists
) -> tuple[list[Shot], list[str]]:
    """The shots in the order of their names, and the names of photos that are not there."""
    folders = photo_folders(_base(folder, model), folder)
    splits = {name: split for split, names in lists.items() for name in names}
    shots, missing = [], []
    photos = sorted(photos, key=lambda photo: photo.name)
    listed = [_files_of(model, folders, photo.name) for photo in photos]
    for photo, files in zip(photos, listed, strict=True):
        if photo.camera not in optics:
            raise SceneError(model, f"photo {photo.name[:80]!a}: there is no camera {photo.camera}")
        split = next((splits[name] for name in _spellings(photo.name) if name in splits), None)
        if not files:
            missing.append(photo.name)
        elif split or not lists.get("train"):
            name = name_of(model, path_inside(model, photo.name))
            mask = find_mask(_base(folder, model) / "masks", photo.name)
            shots.append(Shot(files[0], name, photo.pose, optics[photo.camera], split, tuple(files[1:]), mask))
    return shots, missing


@dataclass(frozen=True, eq=False)
class Observations:
    """Where a photo shows points of the model.

    Attributes:
      file: the photo.
      places: [N,2] float64 column and row, in pixels of the camera's own size.
      points: [N,3] float64, world units.
    """

    file: Path
    places: Float64
    points: Float64


def list_observations(folder: Path) -> list[Observations]:
    """Where the photos show the points of the model that `list_shots` takes; nothing where there is no model, or no points.

    Raises:
      SceneError: the model cannot be used.

    Safe for untrusted input.
    """
    models = [model for model in _model_folders(folder) if _file(model, "cameras") and _file(model, "images")]
    if not models:
        return []
    model, photos = max(((model, _read_photos(folder, model)) for model in models), key=lambda found: len(found[1]))
    points = _places_of_points(folder, model)
    folders = photo_folders(_base(folder, model), folder)
    found = []
    for photo in photos:
        files = _files_of(model, folders, photo.name)
        known = [i for i, number in enumerate(photo.numbers.tolist()) if number in points]
        if files and known:
            seen = np.array([points[number] for number in photo.numbers[known].tolist()])
            found.append(Observations(files[0], photo.places[known], seen))
    return found


def _places_of_points(folder: Path, model: Path) -> dict[int, tuple[float, ...]]:
    """World places by the points' numbers, of which there are no more than `MAX_POINTS`; those before a damage."""
    file, points = _file(model, "points3D"), {}
    if file is None:
        return {}
    rows = _point_rows(_read(folder, file)) if file.suffix == ".bin" else _point_lines(file)
    with suppress(ValueError, IndexError, OverflowError):
        for number, place, _, _ in islice(rows, MAX_POINTS):
            points[number] = place
    return points


def _base(folder: Path, model: Path) -> Path:
    """The folder beside whose photos a model lies: that which holds `sparse`."""
    outer = model.parent if model.name.isdecimal() else model
    return outer.parent if outer.name.startswith("sparse") else folder


def _files_of(model: Path, folders: list[Path], name: str) -> list[Path]:
    """The files of a photo, in each folder that has it. Raises SceneError where its name leads out."""
    try:
        return [file for folder in folders if (file := find_photo(path_inside(folder, name, "photo"))) is not None]
    except ValueError as error:
        raise SceneError(model, str(error)) from None


def _spellings(name: str) -> tuple[str, ...]:
    """What lists of names may call a photo."""
    return name, Path(name).stem, f"images/{name}", f"./images/{name}", f"./{name}"


def _read_lists(folder: Path, model: Path) -> Lists:
    """The names that each list mentions; a later split has what is in both."""
    lists: Lists = {}
    for split in ("train", "test"):
        for place in (model, folder):
            file = place / f"{split}.txt"
            if file.is_file():
                lists[split] = list(filter(None, map(str.strip, _lines(expect_inside(folder, file)))))
                break
    return lists


# ------------------------------------------------------------------------------------------------------- the three files


class _Cut(ValueError):
    """A binary ends in the middle of something."""


class _Reader:
    """Little-endian numbers of a binary, in order, of which there are no more than the file has."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, layout: str) -> tuple[float, ...]:
        try:
            values = struct.unpack_from(f"<{layout}", self.data, self.at)
        except struct.error:
            raise _Cut(f"is cut off after {len(self.data)} bytes") from None
        self.at += struct.calcsize(f"<{layout}")
        return values

    def count(self, n_least: int) -> int:
        """A number of things that take at least so many bytes each."""
        n = int(self.take("Q")[0])
        if n * n_least > len(self.data) - self.at:
            raise _Cut(f"is cut off: it says that {n} follow, and ends after {len(self.data)} bytes")
        return n

    def rows(self, kind: np.dtype[np.void]) -> NDArray[np.void]:
        """A number of rows, and the rows."""
        n = self.count(kind.itemsize)
        found: NDArray[np.void] = np.frombuffer(self.data, kind, n, self.at)
        self.at += n * kind.itemsize
        return found

    def name(self) -> str:
        end = self.data.find(b"\0", self.at, self.at + (1 << 12))
        if end < 0:
            raise _Cut("holds a name without an end")
        name = self.data[self.at : end].decode("utf-8", "replace")
        self.at = end + 1
        return name


def _read(folder: Path, file: Path) -> bytes:
    try:
        return read_file(expect_inside(folder, file), MAX_MODEL_BYTES)
    except OSError as error:
        raise SceneError(file, error.strerror or str(error)) from error


def _lines(file: Path) -> list[str]:
    """The lines of a text, without comments."""
    text = _read(file.parent, file).decode("utf-8-sig", "replace")
    return [line for line in text.splitlines() if not line.startswith("#")]


def _read_optics(folder: Path, model: Path) -> dict[int, Optics]:
    file = _file(model, "cameras")
    assert file is not None
    try:
        rows = _camera_rows(file, _read(folder, file)) if file.suffix == ".bin" else _camera_lines(file)
        found: dict[int, Optics] = {}
        for number, name, width, height, numbers in rows:
            if number in found:
                raise ValueError(f"camera {number:.0f} is there twice: which is meant is not clear")
            found[int(number)] = _optics(name, (int(width), int(height)), numbers)
        return found
    except SceneError:
        raise
    except (ValueError, IndexError, OverflowError) as error:
        raise SceneError(file, str(error)) from None


Row = tuple[float, str, float, float, tuple[float, ...]]


def _camera_rows(file: Path, data: bytes) -> Iterator[Row]:
    reader = _Reader(data)
    n = reader.count(24)
    expect_few(file, n)
    for _ in range(n):
        number, kind, width, height = reader.take("IiQQ")
        if not 0 <= kind < len(MODELS):
            raise ValueError(f"camera {number}: model {kind} is not known")
        name = MODELS[int(kind)]
        yield number, name, width, height, reader.take(f"{N_NUMBERS[name]}d")


def _camera_lines(file: Path) -> Iterator[Row]:
    lines = [line.split() for line in _lines(file) if line.strip()]
    expect_few(file, len(lines))
    for words in lines:
        if len(words) < 5:
            raise ValueError(f"camera {' '.join(words)[:40]!a}: expected a number, a model, a size and its numbers")
        yield int(words[0]), words[1], int(words[2]), int(words[3]), tuple(map(float, words[4:]))


def _optics(name: str, size: tuple[int, int], numbers: tuple[float, ...]) -> Optics:
    if name not in MODELS:
        raise ValueError(f"camera model {name[:40]!a} is not known")
    if len(numbers) != N_NUMBERS[name]:
        raise ValueError(f"{name}: expected {N_NUMBERS[name]} numbers, got {len(numbers)}")
    if name == "EQUIRECTANGULAR":
        return Optics(size=size, lens=Lens(name))
    fx, fy, cx, cy, *bends = (numbers[0], *numbers) if name in ONE_FOCAL else numbers
    lens = None if name in PINHOLES else Lens(name, tuple(bends))
    return Optics(fx=fx, fy=fy, cx=cx, cy=cy, size=size, lens=None if lens is None or lens.is_straight else lens)


def _read_photos(folder: Path, model: Path) -> list[_Photo]:
    file = _file(model, "images")
    assert file is not None
    try:
        photos = list(_photo_rows(file, _read(folder, file)) if file.suffix == ".bin" else _photo_lines(file))
    except SceneError:
        raise
    except (ValueError, IndexError, OverflowError) as error:
        raise SceneError(file, str(error)) from None
    if not photos:
        raise SceneError(file, "holds no photos")
    return photos


def _photo_rows(file: Path, data: bytes) -> Iterator[_Photo]:
    reader = _Reader(data)
    n = reader.count(73)
    expect_few(file, n)
    for i in range(n):
        _, *numbers, camera = reader.take("I7dI")
        name = reader.name()
        seen = reader.rows(POINT_IN_PHOTO)
        places = np.stack([seen["x"], seen["y"]], -1)
        yield _photo(name, tuple(numbers), int(camera), i, places, seen["number"].astype(np.int64))


def _photo_lines(file: Path) -> Iterator[_Photo]:
    """Every photo has two lines, of which the second, its points, may be empty.

    Where none has any, and no empty line either, as other programs write it, every line is a photo.
    """
    lines = _lines(file)
    while lines and not lines[-1].strip():
        lines.pop()
    if all(map(_is_photo, lines)):
        lines = [part for line in lines for part in (line, "")]
    expect_few(file, len(lines) // 2)
    for i, line in enumerate(lines[::2]):
        words = line.split(maxsplit=9)
        if not words and 2 * i + 2 >= len(lines):
            return
        if len(words) < 10:
            raise ValueError(f"photo {i}: expected a number, a quaternion, a translation, a camera and a name")
        below = lines[2 * i + 1] if 2 * i + 1 < len(lines) else ""
        if _is_photo(below):
            raise ValueError(f"photo {i}: expected a line of points below it, which may be empty, and there is another photo")
        seen = _seen(below)
        view, camera = tuple(map(float, words[1:8])), int(words[8])
        yield _photo(words[9].strip(), view, camera, i, seen[:, :2], seen[:, 2].astype(np.int64))


def _is_photo(line: str) -> bool:
    """Whether a line ends in a name, which no line of points does."""
    words = line.split(maxsplit=9)
    try:
        float(words[9].split()[0])
    except (ValueError, IndexError):
        return len(words) == 10
    return False


def _seen(line: str) -> Float64:
    """[N,3] column, row and number of each point of a photo; none of a line that is damaged: nothing depends on them."""
    words = line.split()
    try:
        seen = np.array(words[: len(words) // 3 * 3], np.float64).reshape(-1, 3)
    except ValueError:
        return np.zeros((0, 3))
    return seen if np.abs(seen).max(initial=0) < MAX_DISTANCE else np.zeros((0, 3))  # nan is not below


def _photo(name: str, view: tuple[float, ...], camera: int, i: int, places: Float64, numbers: NDArray[np.int64]) -> _Photo:
    try:
        return _Photo(name, pose_from_view(view), camera, places, numbers)
    except ValueError as error:
        raise ValueError(f"photo {i} ({name[:80]!a}): {error}") from None


def pose_from_view(view: Sequence[float]) -> Float64:
    """The pose of a camera from what COLMAP says: a quaternion w, x, y, z and a translation, from the world to the camera, [7].

    Raises:
      ValueError: the quaternion turns nothing, or the pose is none that a camera can have.
    """
    quaternion, translation = np.array(view[:4]), np.array(view[4:])
    if not np.abs(view).max() < MAX_DISTANCE:  # nor where it is nan
        raise ValueError("a value is not finite, or too large")
    length = float(np.linalg.norm(quaternion))
    if not 1e-6 < length < 1e6:
        raise ValueError("its quaternion is none")
    w, x, y, z = quaternion / length
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    pose = np.eye(4)
    pose[:3, :3] = rotation.T * [1, -1, -1]
    pose[:3, 3] = -rotation.T @ translation
    return Camera(pose, 1.0, 1.0, 0.0, 0.0, 1, 1).pose


def view_from_pose(pose: Float64) -> list[float]:
    """What COLMAP says of a camera at a pose [4,4]: a quaternion and a translation; the inverse of `pose_from_view`."""
    r = (pose[:3, :3] * [1, -1, -1]).T
    # A column is the quaternion times one of its parts: the longest is the surest.
    products = np.array(
        [
            [1 + r[0, 0] + r[1, 1] + r[2, 2], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], 1 + r[0, 0] - r[1, 1] - r[2, 2], r[1, 0] + r[0, 1], r[0, 2] + r[2, 0]],
            [r[0, 2] - r[2, 0], r[1, 0] + r[0, 1], 1 - r[0, 0] + r[1, 1] - r[2, 2], r[2, 1] + r[1, 2]],
            [r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[2, 1] + r[1, 2], 1 - r[0, 0] - r[1, 1] + r[2, 2]],
        ]
    )
    longest = products[:, int(np.argmax(np.diag(products)))]
    quaternion = longest / np.linalg.norm(longest)
    return [*map(float, quaternion), *map(float, -r @ pose[:3, 3])]


def _read_points(folder: Path, model: Path) -> tuple[Float64 | None, str]:
    """The model's points [N,3], None where it has none, and what to say of them. A file that is cut off has those before it.
    Points that few photos show, or that lie off, are left out where enough others are there."""
    file = _file(model, "points3D")
    if file is None:
        return None, ""
    rows = _point_rows(_read(folder, file)) if file.suffix == ".bin" else _point_lines(file)
    places, errors, n_views, remark = [], [], [], ""
    try:
        for _, place, error, n in islice(rows, MAX_POINTS):
            places.append(place)
            errors.append(error)
            n_views.append(n)
    except (ValueError, IndexError, OverflowError) as problem:
        remark = f"{file.relative_to(folder)} {problem}; the {len(places)} points before that are used"
    points, off = np.array(places, np.float64).reshape(-1, 3), np.array(errors, np.float64)
    good = (np.abs(points).max(-1, initial=0) < MAX_DISTANCE) & np.isfinite(off)  # nan is not below
    sure = good & (np.array(n_views, np.int64) >= SURE_VIEWS) & (off <= SURE_ERROR)
    points = points[sure if sure.sum() >= SURE_POINTS else good]
    return (points if len(points) else None), remark


def _point_rows(data: bytes) -> Iterator[tuple[int, tuple[float, ...], float, int]]:
    reader = _Reader(data)
    for _ in range(int(reader.take("Q")[0])):
        number, x, y, z, _, _, _, error = reader.take("Q3d3Bd")
        n = reader.count(8)
        reader.at += 8 * n
        yield int(number), (x, y, z), error, n


def _point_lines(file: Path) -> Iterator[tuple[int, tuple[float, ...], float, int]]:
    for line in _lines(file):
        words = line.split(maxsplit=8)
        if not words:
            continue
        if len(words) < 8:
            raise ValueError("is cut off")
        yield int(words[0]), tuple(map(float, words[1:4])), float(words[7]), len(words[8].split()) // 2 if len(words) > 8 else 0
