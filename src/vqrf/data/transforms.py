"""The layout of instant-ngp, nerfstudio, Polycam and Record3D: one `transforms.json` with all photos.

Photos that are listed and not there are skipped with a remark, as instant-ngp does (its own sample lists 17 such). Lists named
`train_filenames`, `val_filenames` and `test_filenames` are the split. What `applied_transform` says was done to the poses
already; the world is the one that they are in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vqrf.data.camera_json import (
    Tree,
    expect_known,
    expect_whole_size,
    number,
    optics_of,
    pose_of,
    read_json,
    remark_of_keys,
)
from vqrf.data.listing import (
    MAX_DISTANCE,
    WORDS_SHOWN,
    Color,
    Listing,
    SceneError,
    Shot,
    Split,
    color_of,
    expect_few,
    expect_inside,
    find_photo,
    name_of,
    path_inside,
    remark_of_lists,
    some_names,
)

FILE = "transforms.json"
TREE_KEYS = ("frames", "near", "far", "background", "train_filenames", "val_filenames", "test_filenames")
FRAME_KEYS = ("file_path", "mask_path", "transform_matrix", "time")


def list_shots(folder: Path) -> Listing | None:
    """Photos and cameras of a folder in this layout.

    Raises:
      SceneError: its JSON cannot be used.

    Safe for untrusted input.
    """
    path = folder / FILE
    if not path.exists():
        return None
    tree = read_json(expect_inside(folder, path))
    unknown: list[str] = []
    splits, lists_train, remark = _splits_of(path, tree)
    shots, missing, n_unused = [], [], 0
    for i, frame in enumerate(frames_of(path, tree, unknown)):
        try:
            file = find_photo(path_inside(folder, frame["file_path"]))
            split = splits.get(_plain(frame["file_path"]))
            if lists_train and split is None:
                n_unused += 1
            elif file is None:
                missing.append(frame["file_path"])
            else:
                shots.append(shot_of(folder, tree, frame, file, split))
        except ValueError as error:
            raise at_frame(path, i, error) from None
    if not shots and not missing:
        first = next(iter(splits))[:WORDS_SHOWN]
        raise SceneError(path, f"no frame has a name of train_filenames, which begins with {first!a}")
    if not shots:
        raise SceneError(path, f"none of the photos that it lists is there: {some_names(missing)}")
    remarks = (*remark_of_keys(unknown), *remark)
    if n_unused:
        remarks = (*remarks, f"{n_unused} photos are in no list of a split, and not used")
    if missing:
        remarks = (*remarks, f"{len(missing)} photos that are listed are not there: {some_names(missing)}")
    near, far = bounds_of(path, tree)
    return Listing(
        folder, "transforms.json", tuple(shots), near=near, far=far, background=background_of(path, tree), remarks=remarks
    )


def frames_of(path: Path, tree: Tree, unknown: list[str]) -> Iterator[Tree]:
    """The frames of a tree, checked so far that each is an object with a `file_path` and with no key that is not known.

    Args:
      unknown: takes the names of keys that are passed over.

    Raises:
      SceneError: the first that is none.
    """
    frames = tree.get("frames")
    if not isinstance(frames, list):
        raise SceneError(path, "there is no list 'frames'")
    if not frames:
        raise SceneError(path, "there are no frames")
    expect_few(path, len(frames))
    try:
        unknown += expect_known(tree, TREE_KEYS)
    except ValueError as error:
        raise SceneError(path, str(error)) from None
    expect_still(path, frames)
    for i, frame in enumerate(frames):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise SceneError(path, f"frame {i}: there is no 'file_path'")
        try:
            unknown += expect_known(frame, FRAME_KEYS)
        except ValueError as error:
            raise at_frame(path, i, error) from None
        yield frame


def expect_still(path: Path, frames: list[object]) -> None:
    """Refuse D-NeRF's layout, in which every frame has another time. Raises SceneError."""
    times = {str(frame.get("time"))[:40] for frame in frames[:100] if isinstance(frame, dict)}
    if len(times) > 1:
        raise SceneError(path, "is of D-NeRF's layout: its frames have a 'time' each, and scenes that move are not read")


def at_frame(path: Path, i: int, error: ValueError) -> SceneError:
    """What is wrong with a frame; an error that names a file already stays as it is."""
    return error if isinstance(error, SceneError) else SceneError(path, f"frame {i}: {error}")


def shot_of(folder: Path, tree: Tree, frame: Tree, file: Path, split: Split | None) -> Shot:
    """The shot of a frame. Raises ValueError."""
    expect_whole_size(tree, frame)
    pose, optics = pose_of(frame.get("transform_matrix")), optics_of(tree, frame)
    return Shot(file, name_of(folder, file), pose, optics, split, mask=_mask_of(folder, frame))


def _mask_of(folder: Path, frame: Tree) -> Path | None:
    """The mask of a frame, which has to be there where it is named. Raises ValueError."""
    name = frame.get("mask_path")
    if name is None:
        return None
    if not isinstance(name, str):
        raise ValueError(f"mask_path: expected a name, got {str(name)[:40]!a}")
    listed = path_inside(folder, name, "mask_path")
    mask = find_photo(listed)
    if mask is None:
        raise SceneError(listed, "there is no such mask")
    return mask


def bounds_of(path: Path, tree: Tree) -> tuple[float | None, float | None]:
    """Near and far, both or neither. Raises SceneError."""
    try:
        near, far = number(tree, "near"), number(tree, "far")
    except ValueError as error:
        raise SceneError(path, str(error)) from None
    if near is None and far is None:
        return None, None
    if near is None or far is None or not 0 <= near < far < MAX_DISTANCE:
        raise SceneError(path, f"near and far: expected 0 <= near < far, got {near} and {far}")
    return near, far


def background_of(path: Path, tree: Tree) -> Color | None:
    """The colour that the photos stand on, where the tree says one. Raises SceneError."""
    name = tree.get("background")
    if name is None:
        return None
    try:
        return color_of(str(name))
    except ValueError as error:
        raise SceneError(path, str(error)) from None


def _plain(name: str) -> str:
    """A `file_path` as lists of names may have it otherwise: without `./`, with slashes."""
    return os.path.normpath(name.replace("\\", "/"))


def _splits_of(path: Path, tree: Tree) -> tuple[dict[str, Split], bool, tuple[str, ...]]:
    """The split of each plain `file_path` that a list of names mentions; val is taken for test where there is no test.

    Returns:
      The splits, whether there is a list of what to train on, and what to say of the lists.
    """
    lists: dict[str, list[str]] = {}
    for split in ("train", "val", "test"):
        names = tree.get(f"{split}_filenames")
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise SceneError(path, f"{split}_filenames: expected a list of names")
        lists[split] = [_plain(name) for name in names or []]
    held_out = lists["test"] or lists["val"]
    splits: dict[str, Split] = {**dict.fromkeys(lists["train"], "train"), **dict.fromkeys(held_out, "test")}
    return splits, bool(lists["train"]), remark_of_lists(lists["train"], held_out)
