"""One scene written in every layout, by writers that know nothing of the readers: numbers and files, as their formats say."""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Photo:
    """A photo of a scene in Blender's layout: its file, its split and its pose [4,4] with OpenGL's axes."""

    file: Path
    split: str
    pose: np.ndarray


@dataclass(frozen=True)
class Original:
    """Photos of one pinhole with its principal point in the centre."""

    photos: tuple[Photo, ...]
    focal: float
    width: int
    height: int
    near: float = 2.0
    far: float = 6.0

    @property
    def centre(self) -> tuple[float, float]:
        return self.width / 2, self.height / 2


def original_of(folder: Path, width: int, height: int, every: dict[str, int]) -> Original:
    """Every n-th photo of each split of a scene in Blender's layout."""
    photos, angle = [], 0.0
    for split, n in every.items():
        tree = json.loads((folder / f"transforms_{split}.json").read_text())
        angle = tree["camera_angle_x"]
        for frame in tree["frames"][::n]:
            photos.append(Photo(folder / f"{frame['file_path']}.png", split, np.array(frame["transform_matrix"])))
    return Original(tuple(photos), width / 2 / math.tan(angle / 2), width, height)


def in_opencv(pose: np.ndarray) -> np.ndarray:
    """Camera to world with y down and z forward."""
    return pose @ np.diag([1.0, -1.0, -1.0, 1.0])


def write_blender(original: Original, out: Path) -> None:
    for split in ("train", "test"):
        frames = []
        for i, photo in enumerate(p for p in original.photos if p.split == split):
            _copy(photo.file, out / split / f"r_{i:03}.png")
            frames.append({"file_path": f"./{split}/r_{i:03}", "rotation": 0.01, "transform_matrix": photo.pose.tolist()})
        tree = {"camera_angle_x": 2 * math.atan(original.width / 2 / original.focal), "frames": frames}
        (out / f"transforms_{split}.json").write_text(json.dumps(tree))


def write_transforms(original: Original, out: Path) -> None:
    """As nerfstudio does: pixels, a camera model, and the split as lists of names."""
    names = _numbered(original, out / "images", "{:03}.png")
    frames = [
        {"file_path": f"images/{name}", "transform_matrix": photo.pose.tolist(), "colmap_im_id": i}
        for i, (name, photo) in enumerate(zip(names, original.photos, strict=True))
    ]
    lists = {
        f"{split}_filenames": [f"images/{name}" for name, p in zip(names, original.photos, strict=True) if p.split == split]
        for split in ("train", "test")
    }
    cx, cy = original.centre
    pixels = {"fl_x": original.focal, "fl_y": original.focal, "cx": cx, "cy": cy, "w": original.width, "h": original.height}
    bends = {"camera_model": "OPENCV", "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0}
    tree = {**pixels, **bends, **lists, "applied_transform": np.eye(4)[:3].tolist(), "frames": frames}
    (out / "transforms.json").write_text(json.dumps(tree))


def write_colmap_text(original: Original, out: Path) -> None:
    names = _numbered(original, out / "images", "{:03}.png")
    model = _made(out / "sparse" / "0")
    cx, cy = original.centre
    (model / "cameras.txt").write_text(
        f"# Camera list\n7 PINHOLE {original.width} {original.height} {original.focal!r} {original.focal!r} {cx} {cy}\n"
    )
    lines = ["# Image list with two lines of data per image:"]
    for i, (name, photo) in enumerate(zip(names, original.photos, strict=True)):
        numbers = " ".join(repr(float(number)) for number in view_of(photo.pose))
        lines += [f"{100 - i} {numbers} 7 {name}", "1.5 2.5 -1 3.5 4.5 12" if i % 2 else ""]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    (model / "points3D.txt").write_text("# none\n")
    _write_lists(original, names, out)


def write_colmap_binary(original: Original, out: Path) -> None:
    names = _numbered(original, out / "images", "deep/er/{:03}.png")
    model = _made(out / "sparse" / "1")
    focal, size = original.focal, (original.width, original.height)
    (model / "cameras.bin").write_bytes(struct.pack("<QIiQQ4d", 1, 7, 1, *size, focal, focal, *original.centre))
    rows = [struct.pack("<Q", len(names))]
    for i, (name, photo) in reversed(list(enumerate(zip(names, original.photos, strict=True)))):
        rows.append(struct.pack("<I7dI", i, *view_of(photo.pose), 7) + name.encode() + b"\0")
        rows.append(struct.pack("<Q", i % 3) + struct.pack("<ddq", 1.0, 2.0, -1) * (i % 3))
    (model / "images.bin").write_bytes(b"".join(rows))
    (model / "points3D.bin").write_bytes(struct.pack("<Q", 0))
    _write_lists(original, names, out)


def write_llff(original: Original, out: Path) -> None:
    photos = original.photos
    _numbered(original, out / "images", "{:03}.png")
    rows = []
    for photo in photos:
        right, up, back, position = photo.pose[:3].T
        hwf = np.array([original.height, original.width, original.focal])
        rows.append([*np.stack([-up, right, back, position, hwf], 1).ravel(), original.near / 0.9, original.far / 1.1])
    np.save(out / "poses_bounds.npy", np.array(rows))
    (out / "test_img_id.txt").write_text(" ".join(str(i) for i, photo in enumerate(photos) if photo.split == "test") + "\n")


def write_nsvf(original: Original, out: Path) -> None:
    cx, cy = original.centre
    size = f"{original.height} {original.width}"
    _nsvf_photos(original, out, {"train": "0", "test": "2"})
    (out / "intrinsics.txt").write_text(f"{original.focal!r} {cx} {cy} 0.\n0. 0. 0.\n0.\n1.\n{size}\n")
    (out / "near_and_far.txt").write_text(f"{original.near} {original.far}\n")


def write_tanks_and_temples(original: Original, out: Path) -> None:
    """A matrix for intrinsics, and 1_ for the test."""
    cx, cy = original.centre
    _nsvf_photos(original, out, {"train": "0", "test": "1"})
    matrix = np.array([[original.focal, 0, cx, 0], [0, original.focal, cy, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.savetxt(out / "intrinsics.txt", matrix, fmt="%.17g")
    (out / "bbox.txt").write_text("-1.5 -1.5 -1.5 1.5 1.5 1.5 0.4\n")


WRITERS: dict[str, Callable[[Original, Path], None]] = {
    "blender": write_blender,
    "transforms": write_transforms,
    "colmap text": write_colmap_text,
    "colmap binary": write_colmap_binary,
    "llff": write_llff,
    "nsvf": write_nsvf,
    "tanks and temples": write_tanks_and_temples,
}


def view_of(pose: np.ndarray) -> np.ndarray:
    """World to camera as COLMAP writes it: a quaternion w, x, y, z and a translation."""
    rotation = in_opencv(pose)[:3, :3].T
    trace = np.trace(rotation)
    # Bar-Itzhack: the quaternion is the eigenvector of the largest eigenvalue, which has no singular case.
    a = rotation
    k = np.array(
        [
            [trace, a[2, 1] - a[1, 2], a[0, 2] - a[2, 0], a[1, 0] - a[0, 1]],
            [0, a[0, 0] - a[1, 1] - a[2, 2], a[0, 1] + a[1, 0], a[0, 2] + a[2, 0]],
            [0, 0, a[1, 1] - a[0, 0] - a[2, 2], a[1, 2] + a[2, 1]],
            [0, 0, 0, a[2, 2] - a[0, 0] - a[1, 1]],
        ]
    )
    quaternion = np.linalg.eigh(k + np.triu(k, 1).T)[1][:, -1]
    return np.concatenate([quaternion, -rotation @ pose[:3, 3]])


def _nsvf_photos(original: Original, out: Path, prefixes: dict[str, str]) -> None:
    _made(out / "pose")
    for i, photo in enumerate(original.photos):
        name = f"{prefixes[photo.split]}_{i:04}"
        _copy(photo.file, out / "rgb" / f"{name}.png")
        np.savetxt(out / "pose" / f"{name}.txt", in_opencv(photo.pose), fmt="%.17g")


def _write_lists(original: Original, names: Sequence[str], out: Path) -> None:
    for split in ("train", "test"):
        of_split = [name for name, photo in zip(names, original.photos, strict=True) if photo.split == split]
        (out / f"{split}.txt").write_text("\n".join(of_split) + "\n")


def _numbered(original: Original, folder: Path, pattern: str) -> list[str]:
    names = [pattern.format(i) for i in range(len(original.photos))]
    for name, photo in zip(names, original.photos, strict=True):
        _copy(photo.file, folder / name)
    return names


def _copy(file: Path, to: Path) -> None:
    _made(to.parent)
    shutil.copy(file, to)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
