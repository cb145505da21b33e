"""NSVF's layout, of Synthetic-NSVF, Tanks and Temples and BlendedMVS: `intrinsics.txt`, `pose/`, `rgb/`, `bbox.txt`.

Poses are camera to world with OpenCV's axes, 4x4 numbers in a text for each photo. The names of photos and poses begin with 0_
for training, 1_ for validation and 2_ for test; where nothing begins with 2_, what begins with 1_ is the test. `intrinsics.txt`
is a matrix, or a line of focal length and principal point with the image's height and width at the end. `bbox.txt` has the
lowest and the highest corner of a box around everything, and maybe the edge of a voxel; `near_and_far.txt` two distances.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from vqrf.cameras import Camera
from vqrf.data.listing import (
    MAX_DISTANCE,
    MAX_SHOTS,
    Box,
    Listing,
    Optics,
    SceneError,
    Shot,
    Split,
    expect_few,
    expect_inside,
    find_photo,
    name_of,
    some_names,
)
from vqrf.files import read_file
from vqrf.geometry import Float64

POSES, PHOTOS, INTRINSICS, BOX, BOUNDS = "pose", "rgb", "intrinsics.txt", "bbox.txt", "near_and_far.txt"
MAX_TEXT_BYTES = 1 << 20


def list_shots(folder: Path) -> Listing | None:
    """Photos and cameras of a folder in this layout.

    Raises:
      SceneError: a text cannot be used, or no photo has a pose.

    Safe for untrusted input.
    """
    if not (folder / POSES).is_dir() or not (folder / INTRINSICS).is_file():
        return None
    optics = _read_optics(folder, folder / INTRINSICS)
    texts = sorted(islice((folder / POSES).glob("*.txt"), MAX_SHOTS + 1), key=lambda file: file.name)
    expect_few(folder / POSES, len(texts))
    photos = {text: find_photo(folder / PHOTOS / text.stem) for text in texts}
    missing = [text.stem for text, photo in photos.items() if photo is None]
    prefixes = {text.name[0] for text, photo in photos.items() if photo is not None and text.name[1:2] == "_"}
    splits = _splits(prefixes)
    shots = []
    for text, photo in photos.items():
        split = splits.get(text.name[0])
        if photo is not None and (split or not splits):
            shots.append(Shot(photo, name_of(folder, photo), _read_pose(folder, text), optics, split))
    if not shots:
        raise SceneError(folder / POSES, f"no pose has a photo in {PHOTOS}: {some_names(missing)}")
    near, far = _read_bounds(folder)
    remarks = (f"{len(missing)} poses have no photo: {some_names(missing)}",) if missing else ()
    return Listing(folder, "NSVF", tuple(shots), near=near, far=far, box=_read_box(folder), remarks=remarks)


def _splits(prefixes: set[str]) -> dict[str, Split]:
    """What each first digit stands for; nothing where names have none."""
    if "0" not in prefixes:
        return {}
    return {"0": "train", ("2" if "2" in prefixes else "1"): "test"}


def _read_numbers(folder: Path, path: Path) -> list[list[float]]:
    """The numbers of a text by line. Raises SceneError."""
    try:
        text = read_file(expect_inside(folder, path), MAX_TEXT_BYTES).decode("utf-8-sig", "replace")
        lines = [[float(word) for word in line.split()] for line in text.splitlines()]
    except OSError as error:
        raise SceneError(path, error.strerror or str(error)) from error
    except SceneError:
        raise
    except ValueError as error:
        raise SceneError(path, f"expected numbers: {str(error)[:80]}") from None
    if not all(abs(value) < MAX_DISTANCE for line in lines for value in line):
        raise SceneError(path, "has a number that is not finite, or too large")
    return [line for line in lines if line]


def _read_matrix(folder: Path, path: Path, widths: tuple[int, ...] = (3, 4)) -> Float64 | None:
    """[4,4] float64 of a text of 3 or 4 rows of as many numbers as one of `widths`, None where it has another shape."""
    lines = _read_numbers(folder, path)
    if len(lines) not in (3, 4) or {len(line) for line in lines} not in [{width} for width in widths]:
        return None
    matrix = np.eye(4)
    matrix[: len(lines), : len(lines[0])] = lines
    return matrix


def _read_pose(folder: Path, path: Path) -> Float64:
    matrix = _read_matrix(folder, path, widths=(4,))
    if matrix is None:
        raise SceneError(path, "expected 4 rows of 4 numbers")
    try:
        return Camera(matrix * [1, -1, -1, 1], 1.0, 1.0, 0.0, 0.0, 1, 1).pose
    except ValueError as error:
        raise SceneError(path, str(error)) from None


def _read_optics(folder: Path, path: Path) -> Optics:
    try:
        matrix = _read_matrix(folder, path)
        if matrix is not None:
            if abs(matrix[0, 1]) > 1e-6 * abs(matrix[0, 0]):
                raise ValueError(f"skewed pixels are not read, got {matrix[0, 1]:g}")
            return Optics(fx=matrix[0, 0], fy=matrix[1, 1], cx=matrix[0, 2], cy=matrix[1, 2])
        lines = _read_numbers(folder, path)
        if not lines or len(lines[0]) < 3:
            raise ValueError("expected a matrix, or a focal length and a principal point")
        height, width = lines[-1] if len(lines) > 1 and len(lines[-1]) == 2 else (0.0, 0.0)
        size = (round(width), round(height)) if min(width, height) >= 1 else None
        return Optics(fx=lines[0][0], cx=lines[0][1], cy=lines[0][2], size=size)
    except SceneError:
        raise
    except ValueError as error:
        raise SceneError(path, str(error)) from None


def _read_box(folder: Path) -> Box | None:
    path = folder / BOX
    if not path.is_file():
        return None
    numbers = np.array([value for line in _read_numbers(folder, path) for value in line])
    if len(numbers) not in (6, 7) or not (numbers[:3] < numbers[3:6]).all():
        raise SceneError(path, "expected the lowest and the highest corner of a box")
    return numbers[:3], numbers[3:6]


def _read_bounds(folder: Path) -> tuple[float | None, float | None]:
    path = folder / BOUNDS
    if not path.is_file():
        return None, None
    numbers = [value for line in _read_numbers(folder, path) for value in line]
    if len(numbers) != 2 or not 0 <= numbers[0] < numbers[1]:
        raise SceneError(path, "expected two distances, the smaller one first")
    return numbers[0], numbers[1]
