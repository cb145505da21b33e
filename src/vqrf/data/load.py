"""A dataset's folder as a `Scene`: asks the layouts in turn, then reads the photos."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path

from vqrf.data import blender, colmap, llff, nsvf, transforms
from vqrf.data.behind import behind_photos
from vqrf.data.borders import without_borders
from vqrf.data.images import bombs_refused
from vqrf.data.listing import COLORS, Color, Listing, SceneError, Shot, color_name, color_of, some_names
from vqrf.data.photos import Masks, Task, expect_room_for, read_views, remarks_of, tasks_of, with_masks
from vqrf.data.placement import Axes, Placement, PlacementError, Wishes, fault_of, place
from vqrf.data.scene import SPLITS, Scene, View
from vqrf.data.splits import split_shots

LAYOUTS = (blender, transforms, colmap, llff, nsvf)
"""In the order in which they are asked: a folder with several has that first which says most."""

READ_AS = (
    "Blender (transforms_train.json), instant-ngp and nerfstudio (transforms.json), COLMAP (sparse/0), LLFF (poses_bounds.npy)"
    " and NSVF (intrinsics.txt, pose, rgb); vqrf process makes one of photos"
)


ReadReport = Callable[[int, int], None]
"""How many photos are read, and how many there are."""


@dataclass(frozen=True)
class SceneOptions:
    """How to take a dataset; what is not given is worked out.

    Attributes:
      hold_out: see `vqrf.data.splits.split_shots`.
      place: near, far, box and up.
      axes: of the poses: "opencv" has y down and z forward; "opengl" takes them as they are, even where the cameras look away
        from what they stand around; None does so too, but refuses such.
      masks: where masks are, and what they mean.
      report: called after each photo with how many are read, and how many there are.
    """

    hold_out: str = ""
    place: Wishes = Wishes()
    axes: Axes | None = None
    masks: Masks = Masks()  # noqa: RUF009 (frozen)
    report: ReadReport | None = None


def load_scene(
    path: str | Path,
    *,
    splits: Sequence[str] = SPLITS,
    downscale: int | None = None,
    side: int | None = None,
    background: str | None = None,
    every: int = 1,
    options: SceneOptions = SceneOptions(),
    max_bytes: int | None = None,
) -> Scene:
    """Read a dataset: photos with their cameras, in any layout of `LAYOUTS`.

    Args:
      path: the dataset's folder. Nothing outside it is opened.
      splits: which of `train` and `test` to read; the others' photos are not touched. `test` may be empty where `train` is
        asked for too.
      downscale: average n x n pixels to one, in premultiplied alpha, and drop what is left over; None: as `side` says,
        or not at all.
      side: the longer side of the images, about: each is averaged down as far as it stays no shorter.
      background: white, black or #rrggbb: what shows through where images are transparent; without alpha they are taken as
        opaque. A split none of whose pixels is transparent has no opacities: its backgrounds are in its photos. None: as the
        dataset says; else white behind images that are transparent somewhere; of others the colour of a plain border, white or
        black, or the mean colour of what was read, of `train` if that was.
      every: of the test split, take frames 0, n, 2n, ...
      max_bytes: that the images may take together; None for the usual budget of memory.

    Raises:
      SceneError: a file is missing, broken, or says what cannot be. All poses and all sizes are checked before the pixels of an
        image are read.
      ValueError: an argument is out of its range.

    Safe for untrusted input: JSON is bounded by `MAX_JSON_BYTES`, an image by Pillow's limit of pixels, all of them together by
    `max_bytes`.
    """
    _expect_in_range(splits, downscale, every)
    listing = _turned(list_photos(Path(path)), options.axes)
    transparent = _behind_transparent(listing, background)
    named, twice = _named_apart(listing.shots)
    shots, hold_out = split_shots(named, options.hold_out)
    with bombs_refused():
        wanted = {
            split: [shot for shot in shots if shot.split == split][:: every if split == "test" else 1] for split in splits
        }
        for split, what in (("train", "to train on"), ("test", "held out")):
            if not wanted.get(split, [None]) and (split == "train" or len(wanted) == 1):
                raise SceneError(listing.folder, f"has no photos {what}")
        tasks = {split: tasks_of(listing, wanted[split], downscale, side) for split in splits}
        every_task = [task for of_split in tasks.values() for task in of_split]
        n_at_once = expect_room_for(listing, every_task, max_bytes)
        tasks, remarks = with_masks(listing, tasks, options.masks)
        report = _counting(len(every_task), options.report)
        views = {split: read_views(tasks[split], transparent, n_at_once, report) for split in splits}
    behind = behind_photos(views, transparent, stands_on=listing.background, is_said=background is not None)
    views, of_borders = _without_borders(views, is_plain=behind.is_plain)
    found = _place(listing, tasks, options, is_plain=behind.is_plain)
    return Scene(
        train=views.get("train", ()),
        test=views.get("test", ()),
        background=behind.background,
        near=found.near,
        far=found.far,
        name=listing.folder.resolve().name,
        box=found.box,
        up=found.up,
        downscale=next((task.downscale for of_split in tasks.values() for task in of_split), 1),
        hold_out=hold_out,
        source=found.source,
        space=found.space,
        masked=next((task.mask_mean for of_split in tasks.values() for task in of_split if task.mask_mean), ""),
        remarks=(*listing.remarks, *twice, *remarks_of(every_task), *remarks, *of_borders),
        contrast=behind.contrast,
    )


def _expect_in_range(splits: Sequence[str], downscale: int | None, every: int) -> None:
    """Raises ValueError where what a caller asks for cannot be."""
    if (downscale is not None and downscale < 1) or every < 1:
        raise ValueError(f"downscale and every: expected at least 1, got {downscale} and {every}")
    if not splits or not set(splits) <= set(SPLITS):
        raise ValueError(f"splits: expected one or both of {SPLITS}, got {tuple(splits)}")


def _counting(total: int, report: ReadReport | None) -> Callable[[], None]:
    """What to call after each of `total` photos."""
    numbers = count(1)
    return lambda: None if report is None else report(next(numbers), total)


def _without_borders(
    views: dict[str, tuple[View, ...]], *, is_plain: bool
) -> tuple[dict[str, tuple[View, ...]], tuple[str, ...]]:
    """All splits looked at together: what shows nothing in one does so in the others. Before a plain background all is well."""
    if is_plain:
        return views, ()
    made, remarks = without_borders([view for of_split in views.values() for view in of_split])
    left = iter(made)
    return {split: tuple(islice(left, len(of_split))) for split, of_split in views.items()}, remarks


def _behind_transparent(listing: Listing, background: str | None) -> Color:
    """What shows through where photos are transparent: as the user says, or else the dataset. Raises SceneError."""
    color = color_of(background or color_name(listing.background or COLORS["white"]))
    if listing.background not in (None, color):
        raise SceneError(listing.folder, f"its images stand on {color_name(listing.background)!r}, not on {background!r}")
    return color


def _turned(listing: Listing, axes: Axes | None) -> Listing:
    """The listing with the axes that the user says that its poses have."""
    if axes != "opencv":
        return listing
    return replace(listing, shots=tuple(replace(shot, pose=shot.pose * [1, -1, -1, 1]) for shot in listing.shots))


def _place(listing: Listing, tasks: dict[str, list[Task]], options: SceneOptions, *, is_plain: bool) -> Placement:
    """Where things are, from the cameras of all photos, read or not. Raises SceneError where they cannot be."""
    size = next(task.size for of_split in tasks.values() for task in of_split)
    try:
        cameras = [shot.optics.camera(shot.pose, shot.optics.size or size) for shot in listing.shots]
        if options.axes is None and (fault := fault_of(cameras)):
            raise PlacementError(fault)
        return place(cameras, listing, options.place, is_plain=is_plain)
    except PlacementError as error:
        raise SceneError(listing.folder, str(error)) from None


def list_photos(folder: Path) -> Listing:
    """What the dataset says before a pixel is read.

    Raises:
      SceneError: the folder is none, has none of the layouts, or cannot be used.

    Safe for untrusted input.
    """
    if not folder.is_dir():
        raise SceneError(folder, "is no folder" if folder.exists() else "there is no such folder")
    for layout in LAYOUTS:
        listing: Listing | None = layout.list_shots(folder)
        if listing is not None:
            return listing
    raise SceneError(folder, f"is no dataset: it holds {_contents(folder)}; read is {READ_AS}")


def is_dataset(folder: Path) -> bool:
    """Whether a folder has one of the layouts, be it usable or not."""
    try:
        return folder.is_dir() and any(layout.list_shots(folder) is not None for layout in LAYOUTS)
    except SceneError:
        return True


def _contents(folder: Path) -> str:
    """What a folder holds, in a few words."""
    with os.scandir(folder) as entries:
        found = [(ascii(entry.name)[1:-1], entry) for entry, _ in zip(entries, range(1000), strict=False)]
        names = sorted(name + "/" * entry.is_dir(follow_symlinks=False) for name, entry in found)  # a link may be to itself
    return some_names(names) if names else "nothing"


def _named_apart(shots: Sequence[Shot]) -> tuple[tuple[Shot, ...], tuple[str, ...]]:
    """The shots with names of their own: one that is listed twice, or twice with different endings, gets a number.

    Returns:
      The shots, and what to say of files that are listed with several poses.
    """
    seen: dict[str, int] = {}
    apart = []
    for shot in shots:
        seen[shot.name] = n = seen.get(shot.name, 0) + 1
        apart.append(shot if n == 1 else replace(shot, name=f"{shot.name}~{n}"))
    poses: dict[Path, set[bytes]] = {}
    for shot in shots:
        poses.setdefault(shot.file, set()).add(shot.pose.tobytes())
    moved = [shot.name for shot in {shot.file: shot for shot in shots}.values() if len(poses[shot.file]) > 1]
    return tuple(apart), (f"{len(moved)} photos are listed with several poses: {some_names(moved)}",) if moved else ()
