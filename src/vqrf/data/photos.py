"""Shots as views: what to read of each photo, how it is turned, averaged and masked, and the reading itself.

The heads of all files are looked at before the pixels of any are read, and each photo is averaged as it is read, so that memory
is that of the views and of the few photos that are in the making.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from vqrf.cameras import Camera
from vqrf.data.images import Bytes, Head, averaged_mask, read_head, read_mask, read_photo
from vqrf.data.listing import Color, Listing, SceneError, Shot, expect_inside, find_mask, some_names
from vqrf.data.scene import View
from vqrf.memory import OverBudget, expect_room, usual_budget

READ_THREADS = 4
HELD_BYTES = 5
"""Bytes that a pixel of a view takes: its colour, its opacity and its weight."""

DECODE_BYTES = 16
"""Bytes that a pixel of a photo takes while it is read: as Pillow has it, turned by EXIF, and as rows of bytes twice."""

DECODE_BUDGET = 1 << 30
"""Bytes of photos that are read at a time, if it is more than one: four of 16 megapixels."""

MASKS_LOOKED_AT = 8
"""Of all masks, how many are asked what they mean."""

KEPT_LEVEL = 128
"""From which on a pixel of a mask is white, of 255. Some programs write 1 for white."""


@dataclass(frozen=True)
class Masks:
    """Where masks are, and what they mean.

    Attributes:
      folder: of masks named as the photos are; None for those that the dataset names.
      mean: what is masked is "background", as if it were transparent, or "ignored": no ray is cast there. None: background,
        unless the masks keep most of the photos' borders, where a thing would end and a passer-by does not.
      is_inverted: whether they are black where the thing is.
    """

    folder: Path | None = None
    mean: Literal["background", "ignored"] | None = None
    is_inverted: bool = False


@dataclass(frozen=True, eq=False)
class Task:
    """A photo to read.

    Attributes:
      size: width and height, as it is turned.
      orientation: of EXIF, by which it is turned; 1: not at all.
      n: pixels on a side that are averaged to one.
      downscale: by how much it is smaller then than the largest copy of it.
      doubts: what the user should know of it.
      mask_mean: see `Masks`.
    """

    file: Path
    name: str
    size: tuple[int, int]
    orientation: int
    n: int
    downscale: int
    camera: Camera
    doubts: tuple[str, ...]
    mask: Path | None = None
    mask_mean: Literal["", "background", "ignored"] = ""
    is_inverted: bool = False

    @property
    def n_pixels(self) -> int:
        return math.prod(self.size)


def tasks_of(listing: Listing, shots: Sequence[Shot], downscale: int | None, side: int | None) -> list[Task]:
    """What to read of each shot. All of them take the copy that suits the first.

    Args:
      downscale, side: see `vqrf.data.load.load_scene`.

    Raises:
      SceneError: a photo is missing, or is none for its camera.
    """
    if not shots:
        return []
    sizes = [read_head(expect_inside(listing.folder, file)).turned_size for file in (shots[0].file, *shots[0].smaller)]
    shrunk = [max(round(max(sizes[0]) / max(size)), 1) for size in sizes]
    if downscale is not None or side is None:
        copy = max((i for i, n in enumerate(shrunk) if (downscale or 1) % n == 0), key=lambda i: shrunk[i])
    else:
        copy = max((i for i, size in enumerate(sizes) if i == 0 or max(size) >= side), key=lambda i: shrunk[i])
    return [_task(listing, shot, copy, shrunk[copy], downscale, side) for shot in shots]


def _task(listing: Listing, shot: Shot, copy: int, shrunk: int, downscale: int | None, side: int | None) -> Task:
    """`copy` is which of the shot's files to read, `shrunk` by how much it was averaged down already."""
    file = (shot.file, *shot.smaller)[copy]
    head = read_head(expect_inside(listing.folder, file))
    orientation, doubts = _turn(head, shot.optics.size)
    size = head.turned_size if orientation != 1 else head.size
    n = min(max(max(size) // side, 1), *size) if downscale is None and side is not None else (downscale or 1) // shrunk
    if min(size) < n:
        raise SceneError(file, f"is {size[0]}x{size[1]}, which cannot be downscaled by {n}")
    try:
        camera = shot.optics.camera(shot.pose, size).averaged(n)
    except ValueError as error:
        raise SceneError(file, str(error)) from None
    return Task(file, shot.name, size, orientation, n, n * shrunk, camera, (*doubts, *shot.optics.doubts(size)), shot.mask)


def _turn(head: Head, said: tuple[int, int] | None) -> tuple[int, tuple[str, ...]]:
    """By which orientation to turn a photo, and what is doubtful about it.

    The size that a dataset says tells whether its cameras are those of the photo as it is stored, or as viewers turn it. Where
    it does not tell, photos are taken as they are stored, as COLMAP, nerfstudio and instant-ngp take them.
    """
    if head.orientation == 1:
        return 1, ()
    stored, turned = head.size, head.turned_size
    if said is not None and stored != turned and (said[0] > said[1]) == (turned[0] > turned[1]) != (stored[0] > stored[1]):
        return head.orientation, ()
    if said is not None and stored[0] != stored[1] and stored != turned and said[0] != said[1]:
        return 1, ()
    return 1, (
        "say by EXIF that they are to be turned; taken as they are stored, as the dataset does not say whether its cameras are",
    )


def remarks_of(tasks: Iterable[Task]) -> tuple[str, ...]:
    """What the user should know of the photos."""
    doubtful: dict[str, list[str]] = {}
    for task in tasks:
        for doubt in task.doubts:
            doubtful.setdefault(doubt, []).append(task.name)
    return tuple(f"{len(names)} photos ({some_names(names)}) {doubt}" for doubt, names in doubtful.items())


def expect_room_for(listing: Listing, tasks: Sequence[Task], max_bytes: int | None) -> int:
    """How many photos may be read at a time. Raises SceneError where they take more memory together than they may."""
    held = HELD_BYTES * sum(task.camera.width * task.camera.height for task in tasks)
    one = DECODE_BYTES * max((task.n_pixels for task in tasks), default=1)
    try:
        expect_room(held + one, max_bytes, f"to hold {len(tasks)} photos")
    except OverBudget as error:
        raise SceneError(listing.folder, str(error)) from None
    left = (usual_budget() if max_bytes is None else max_bytes) - held
    return max(min(READ_THREADS, os.cpu_count() or 1, min(DECODE_BUDGET, left) // one), 1)


def with_masks(listing: Listing, tasks: dict[str, list[Task]], masks: Masks) -> tuple[dict[str, list[Task]], tuple[str, ...]]:
    """The tasks with their masks and what these mean, and what to say of it.

    Raises:
      SceneError: the folder of masks has none for any photo, or a mask cannot be read.
    """
    masked = {split: [_with_mask(listing, task, masks) for task in of_split] for split, of_split in tasks.items()}
    found = [task for of_split in masked.values() for task in of_split if task.mask is not None]
    n_tasks = sum(map(len, tasks.values()))
    if not found:
        if masks.folder is not None and n_tasks:
            raise SceneError(masks.folder, "has no mask of any photo: expected NAME.png, or the photo's own name")
        return tasks, ()
    some = [_read_mask(replace(task, is_inverted=masks.is_inverted)) for task in found[:: -(-len(found) // MASKS_LOOKED_AT)]]
    if (brightest := max(int(mask.max()) for mask in some)) < KEPT_LEVEL:
        said = f"keeps nothing: its brightest pixel is {brightest} of 255, as of others; white marks what to keep"
        raise SceneError(found[0].mask or listing.folder, f"{said} (--masks-inverted: black does)")
    mean, why = masks.mean, "as asked for"
    if mean is None:
        share = float(np.mean([_kept_border(mask) for mask in some]))
        mean = "ignored" if share > 0.5 else "background"
        why = f"as they keep {100 * share:.0f} % of the photos' borders"
    settled = {
        split: [
            task if task.mask is None else replace(task, mask_mean=mean, is_inverted=masks.is_inverted) for task in of_split
        ]
        for split, of_split in masked.items()
    }
    return settled, (f"masks of {len(found)} of {n_tasks} photos: what they hide is {mean}, {why} (--masked)",)


def _with_mask(listing: Listing, task: Task, masks: Masks) -> Task:
    if masks.folder is None:
        if task.mask is not None:
            expect_inside(listing.folder, task.mask)
        return task
    names = (str(task.file.relative_to(listing.folder)), task.file.name)
    found = next((mask for name in names if (mask := find_mask(masks.folder, name)) is not None), None)
    if found is not None and found.samefile(task.file):
        raise SceneError(found, "is the photo itself, and no mask of it")
    return replace(task, mask=found)


def _kept_border(mask: Bytes) -> float:
    """How much of the photo's border a mask keeps, 0..1."""
    return float(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean() / 255)


def _read_mask(task: Task) -> Bytes:
    """[H,W] in the photo's own size, 255 where it is kept."""
    assert task.mask is not None
    mask = read_mask(task.mask, task.size, orientation=task.orientation)
    return 255 - mask if task.is_inverted else mask


def read_views(tasks: Sequence[Task], background: Color, n_at_once: int, report: Callable[[], None]) -> tuple[View, ...]:
    """Read the photos, in order, `n_at_once` at a time. Raises SceneError where one cannot be read.

    Args:
      report: called after each.
    """

    def read(task: Task) -> tuple[Bytes, Bytes | None, Bytes | None]:
        mask = None if task.mask is None else _read_mask(task)
        on = mask if task.mask_mean == "background" else None
        image, opacity = read_photo(task.file, task.n, background, orientation=task.orientation, mask=on)
        return image, opacity, averaged_mask(mask, task.n) if mask is not None and on is None else None

    cameras, images = {_optics_of(task.camera): task.camera for task in tasks}, []
    with ThreadPoolExecutor(n_at_once) as pool:
        seen = dict(zip(cameras, pool.map(_seen_pixels, cameras.values()), strict=True))
        for image in pool.map(read, tasks):
            images.append(image)
            report()
    has_opacity = any(opacity is not None and opacity.min() < 255 for _, opacity, _ in images)
    return tuple(
        View(
            task.camera,
            image,
            task.name,
            _opaque_if_none(opacity, image) if has_opacity else None,
            _both(weight, seen[_optics_of(task.camera)]),
        )
        for task, (image, opacity, weight) in zip(tasks, images, strict=True)
    )


def _opaque_if_none(opacity: Bytes | None, image: Bytes) -> Bytes:
    return np.full(image.shape[:2], 255, np.uint8) if opacity is None else opacity


def _optics_of(camera: Camera) -> tuple[object, ...]:
    """What is alike of cameras through which the same pixels see: photos share one lens, for which this is asked once."""
    return camera.lens, camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height


def _seen_pixels(camera: Camera) -> Bytes | None:
    """[H,W] uint8, 0 for pixels that the lens sees nothing through, else 255; None where it sees through all."""
    blind = camera.blind_pixels()
    if not len(blind):
        return None
    seen = np.full(camera.width * camera.height, 255, np.uint8)
    seen[blind] = 0
    return seen.reshape(camera.height, camera.width)


def _both(weight: Bytes | None, seen: Bytes | None) -> Bytes | None:
    """The weight where the lens sees something, else 0."""
    return weight if seen is None else seen if weight is None else np.minimum(weight, seen)
