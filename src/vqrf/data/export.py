"""A dataset of any layout written as two that most programs read: `transforms.json` and COLMAP's text, over the same photos."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vqrf.cameras import Camera
from vqrf.data.colmap import view_from_pose
from vqrf.data.images import bombs_refused, read_head
from vqrf.data.listing import Listing, Shot, color_name, expect_inside
from vqrf.files import write_atomically
from vqrf.lens import BROWN, Lens, names_of

FLAT_NAMES = {"k1": "k1", "k2": "k2", "p1": "p1", "p2": "p2", "k3": "k3", "d1": "k4", "d2": "k5", "d3": "k6"}
"""What `transforms.json` calls the terms of a lens that is flat."""

BOTH_FOCALS = {
    "SIMPLE_RADIAL": "OPENCV",
    "RADIAL": "OPENCV",
    "SIMPLE_FISHEYE": "FISHEYE",
    "SIMPLE_RADIAL_FISHEYE": "OPENCV_FISHEYE",
    "RADIAL_FISHEYE": "OPENCV_FISHEYE",
    "SIMPLE_DIVISION": "DIVISION",
}
"""The model with two focal lengths that is, with zeros for what is new, the same as one with a single one."""


def write_dataset(listing: Listing, folder: Path) -> tuple[str, ...]:
    """Write photos, masks, `transforms.json` and `sparse/0` into a folder, the lists last.

    Poses, world, lenses, splits, points, near and far stay what they are.

    Returns:
      What could not be written, for the user.

    Raises:
      SceneError: a photo is missing, or is none.
      OSError: a file cannot be written.
    """
    with bombs_refused():
        cameras = [_camera(listing, shot) for shot in listing.shots]
    names = _copied(listing, folder)
    _write_colmap(listing, cameras, names, folder / "sparse" / "0")
    for split in ("train", "test"):
        of_split = [name for name, shot in zip(names, listing.shots, strict=True) if shot.split == split]
        if of_split:
            write_atomically(folder / f"{split}.txt", "".join(f"{name}\n" for name in of_split).encode())
    strange = sorted({camera.lens.model for camera in cameras if camera.lens is not None and _lens_keys(camera.lens) is None})
    if strange:
        return (f"transforms.json has no word for {', '.join(strange)}, and was left out: sparse/0 says all",)
    tree = _tree(listing, cameras, names)
    write_atomically(folder / "transforms.json", json.dumps(tree, indent=1).encode())
    return ()


def _camera(listing: Listing, shot: Shot) -> Camera:
    """The shot's camera for the size that the dataset says, or the file's."""
    size = shot.optics.size or read_head(expect_inside(listing.folder, shot.file)).size
    return shot.optics.camera(shot.pose, size)


def _copied(listing: Listing, folder: Path) -> list[str]:
    """Copy photos and masks; returns the photos' names in `images`."""
    names: list[str] = []
    for shot in listing.shots:
        bare = shot.name.removeprefix("images/")
        name = next(
            other for i in range(len(names) + 1) if (other := f"{bare}{f'~{i}' if i else ''}{shot.file.suffix}") not in names
        )
        names.append(name)
        _copy(listing, shot.file, folder / "images" / name)
        if shot.mask is not None:
            _copy(listing, shot.mask, folder / "masks" / f"{name}{shot.mask.suffix}")
    return names


def _copy(listing: Listing, file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(expect_inside(listing.folder, file), to)


def _tree(listing: Listing, cameras: Sequence[Camera], names: Sequence[str]) -> dict[str, Any]:
    frames = []
    for shot, camera, name in zip(listing.shots, cameras, names, strict=True):
        pixels = {"fl_x": camera.fx, "fl_y": camera.fy, "cx": camera.cx, "cy": camera.cy, "w": camera.width, "h": camera.height}
        mask = {} if shot.mask is None else {"mask_path": f"masks/{name}{shot.mask.suffix}"}
        lens = {} if camera.lens is None else _lens_keys(camera.lens) or {}
        frames.append({"file_path": f"images/{name}", **mask, **pixels, **lens, "transform_matrix": camera.pose.tolist()})
    splits = {
        f"{split}_filenames": of_split
        for split in ("train", "test")
        if (of_split := [f"images/{name}" for name, shot in zip(names, listing.shots, strict=True) if shot.split == split])
    }
    bounds = {} if listing.near is None or listing.is_rough else {"near": listing.near, "far": listing.far}
    stands_on = None if listing.background is None else color_name(listing.background)  # null says nothing
    return {"camera_model": "OPENCV", **bounds, "background": stands_on, **splits, "frames": frames}


def _lens_keys(lens: Lens) -> dict[str, Any] | None:
    """A lens as `transforms.json` says it, None where it has no words for it."""
    if lens.model == "EQUIRECTANGULAR":
        return {"camera_model": lens.model}
    if lens.model not in BROWN:
        return None
    named = dict(zip(names_of(lens.model), lens.numbers, strict=True))
    if BROWN[lens.model][0] == "flat":
        return {"camera_model": "FULL_OPENCV", **{FLAT_NAMES[name]: value for name, value in named.items()}}
    if set(named) <= {"k1", "k2", "k3", "k4"}:
        return {"camera_model": "OPENCV_FISHEYE", **named}
    return None


def _write_colmap(listing: Listing, cameras: Sequence[Camera], names: Sequence[str], model: Path) -> None:
    model.mkdir(parents=True, exist_ok=True)
    rows = [_camera_row(camera) for camera in cameras]
    numbers = {row: i + 1 for i, row in enumerate(dict.fromkeys(rows))}
    write_atomically(model / "cameras.txt", "".join(f"{i} {row}\n" for row, i in numbers.items()).encode())
    photos = []
    for i, (camera, row, name) in enumerate(zip(cameras, rows, names, strict=True)):
        view = " ".join(repr(value) for value in view_from_pose(camera.pose))
        photos.append(f"{i + 1} {view} {numbers[row]} {name}\n\n")
    write_atomically(model / "images.txt", "".join(photos).encode())
    points = [] if listing.points is None else listing.points.tolist()
    lines = (f"{i + 1} {x!r} {y!r} {z!r} 128 128 128 0\n" for i, (x, y, z) in enumerate(points))
    write_atomically(model / "points3D.txt", "".join(lines).encode())


def _camera_row(camera: Camera) -> str:
    """A line of `cameras.txt` without its number."""
    size = f"{camera.width} {camera.height}"
    model, numbers = "PINHOLE", list[float]()
    if camera.lens is not None:
        model, numbers = BOTH_FOCALS.get(camera.lens.model, camera.lens.model), list(camera.lens.numbers)
        numbers += [0.0] * (len(names_of(model)) - len(numbers))
    if model == "EQUIRECTANGULAR":
        return f"{model} {size} {size}"
    return " ".join([model, size, *(repr(float(value)) for value in (camera.fx, camera.fy, camera.cx, camera.cy, *numbers))])
