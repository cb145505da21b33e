"""LLFF's layout: `poses_bounds.npy` and a folder of photos, `images` or `images_4` and the like.

A row of the array is a photo's: 3x5 numbers (columns: down, right, backwards, position, and height, width, focal length), then
the nearest and the farthest distance of what it shows. Photos go with rows in the order of their names as strings. In
`test_img_id.txt` are the numbers of the rows that are held out, as in NeROIC's scenes.

The layout does not mean that a scene is forward-facing: many that are not were written so.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from vqrf.cameras import Camera
from vqrf.data.listing import (
    MAX_DISTANCE,
    PHOTO_ENDINGS,
    Listing,
    Optics,
    SceneError,
    Shot,
    expect_few,
    expect_inside,
    name_of,
    photo_folders,
)
from vqrf.files import read_file
from vqrf.geometry import Float64

FILE, TEST_FILE = "poses_bounds.npy", "test_img_id.txt"
COLUMNS = 17
MAX_BYTES = 64 << 20

NEAR_MARGIN, FAR_MARGIN = 0.9, 1.1
"""The bounds are those of COLMAP's points, beyond which surfaces go on a little."""


def is_llff(folder: Path) -> bool:
    """Whether a folder is in this layout, beside what else it may be in."""
    return (folder / FILE).is_file()


def list_shots(folder: Path) -> Listing | None:
    """Photos and cameras of a folder in this layout.

    Raises:
      SceneError: the array cannot be used, or there is another number of photos.

    Safe for untrusted input.
    """
    path = folder / FILE
    if not is_llff(folder):
        return None
    rows = read_rows(folder)
    folders = {place: _photos_in(place) for place in photo_folders(folder)}
    fitting = [photos for photos in folders.values() if len(photos) == len(rows)]
    if not fitting:
        found = ", ".join(f"{place.name}: {len(photos)}" for place, photos in folders.items())
        raise SceneError(path, f"has {len(rows)} rows, and there is another number of photos ({found})")
    held_out = _read_held_out(folder, len(rows))
    shots = []
    for i, (row, files) in enumerate(zip(rows, zip(*fitting, strict=True), strict=True)):
        try:
            split = None if held_out is None else "test" if i in held_out else "train"
            pose, optics = _camera(row)
        except ValueError as error:
            raise SceneError(path, f"row {i}: {error}") from None
        shots.append(Shot(files[0], name_of(folder, files[0]), pose, optics, split, smaller=tuple(files[1:])))  # type: ignore[arg-type]
    near, far = _bounds(path, rows)
    return Listing(folder, f"LLFF ({FILE})", tuple(shots), near=near, far=far, is_rough=True)


def read_rows(folder: Path) -> Float64:
    """The array [N,17] float64, N at least 1: a photo's pose, size and focal length, then its bounds.

    What the head of the file says is compared with its length before anything is made of it.

    Raises:
      SceneError: there is none, or it cannot be used.

    Safe for untrusted input.
    """
    path = folder / FILE
    try:
        data = read_file(expect_inside(folder, path), MAX_BYTES)
    except OSError as error:
        raise SceneError(path, error.strerror or str(error)) from error
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = reader(stream)
    except Exception as error:  # numpy evaluates the head as a literal, which fails in many ways
        raise SceneError(path, f"is no array of numpy: {str(error)[:80]!a}") from None
    if len(shape) != 2 or shape[1] != COLUMNS or dtype.kind != "f" or shape[0] < 1:
        raise SceneError(path, f"expected [N,{COLUMNS}] numbers, got {str(shape)[:40]} of {str(dtype)[:40]}")
    expect_few(path, shape[0])
    values = data[stream.tell() :]
    if len(values) != shape[0] * COLUMNS * dtype.itemsize:
        raise SceneError(path, f"is cut off: expected {shape[0]} rows, got {len(values)} bytes")
    rows = np.frombuffer(values, dtype).reshape(shape, order="F" if is_fortran else "C")
    return rows.astype(np.float64)


def _photos_in(place: Path) -> list[Path]:
    """The photos of a folder in the order of their names as strings."""
    photos = (file for file in place.iterdir() if file.suffix.lower() in PHOTO_ENDINGS and not file.name.startswith("."))
    return sorted(photos, key=lambda file: file.name)


def _camera(row: Float64) -> tuple[Float64, Optics]:
    if not np.isfinite(row).all():
        raise ValueError("a value is not finite")
    matrix = row[:15].reshape(3, 5)
    down, right, backwards, position, (height, width, focal) = matrix.T
    if not (1 <= height <= 1e6 and 1 <= width <= 1e6):
        raise ValueError(f"image size: got {width:g}x{height:g}")
    pose = np.eye(4)
    pose[:3] = np.stack([right, -down, backwards, position], -1)
    Camera(pose, 1.0, 1.0, 0.0, 0.0, 1, 1)
    return pose, Optics(fx=float(focal), size=(round(width), round(height)))


def _bounds(path: Path, rows: Float64) -> tuple[float, float]:
    near, far = float(rows[:, 15].min()), float(rows[:, 16].max())
    crossed = np.flatnonzero(~(rows[:, 15] < rows[:, 16]))
    if len(crossed) and near < far:
        row = rows[crossed[0]]
        raise SceneError(path, f"row {crossed[0]}: bounds: expected near < far, got {row[15]:g} and {row[16]:g}")
    if not 0 <= near < far < MAX_DISTANCE:
        raise SceneError(path, f"bounds: expected 0 <= near < far, got {near:g} and {far:g}")
    return NEAR_MARGIN * near, FAR_MARGIN * far


def _read_held_out(folder: Path, n_rows: int) -> set[int] | None:
    """The rows that a file names as held out; None where there is no such file."""
    path = folder / TEST_FILE
    if not path.is_file():
        return None
    try:
        words = read_file(expect_inside(folder, path), 1 << 20).split()
        numbers = {int(word) for word in words}
    except (OSError, ValueError):
        raise SceneError(path, "expected numbers of photos") from None
    if not numbers or not numbers <= set(range(n_rows)):
        raise SceneError(path, f"expected numbers of photos, 0 to {n_rows - 1}")
    return numbers
