"""Blender's layout, of the Synthetic-NeRF scenes: `transforms_train.json`, `transforms_test.json` and their photos.

`transforms_val.json` is taken for the test split where there is no other. A `file_path` may leave out `.png`. What instant-ngp
and nerfstudio write into such files (`fl_x`, `cx`, a frame's own lens) is read as in their own layout.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vqrf.data.camera_json import read_json, remark_of_keys
from vqrf.data.listing import PHOTO_ENDINGS, Listing, Split, expect_inside, find_photo, path_inside
from vqrf.data.transforms import at_frame, background_of, bounds_of, frames_of, shot_of

FILES: dict[Split, tuple[str, ...]] = {
    "train": ("transforms_train.json",),
    "test": ("transforms_test.json", "transforms_val.json"),
}


def list_shots(folder: Path) -> Listing | None:
    """Photos and cameras of a folder in this layout; whether a photo is there is not looked at.

    Raises:
      SceneError: the JSON of a split cannot be used.

    Safe for untrusted input.
    """
    paths = {split: next((folder / name for name in names if (folder / name).exists()), None) for split, names in FILES.items()}
    listings = [_list_split(folder, split, path) for split, path in paths.items() if path is not None]
    if not listings:
        return None
    shots = tuple(shot for listing in listings for shot in listing.shots)
    remarks = tuple(dict.fromkeys(remark for listing in listings for remark in listing.remarks))
    return replace(listings[0], shots=shots, remarks=remarks)


def _list_split(folder: Path, split: Split, path: Path) -> Listing:
    tree = read_json(expect_inside(folder, path))
    unknown: list[str] = []
    shots = []
    for i, frame in enumerate(frames_of(path, tree, unknown)):
        try:
            listed = path_inside(folder, frame["file_path"])
            file = find_photo(listed) or _with_ending(listed)
            shots.append(shot_of(folder, tree, frame, file, split))
        except ValueError as error:
            raise at_frame(path, i, error) from None
    near, far = bounds_of(path, tree)
    background = background_of(path, tree)
    return Listing(folder, "Blender", tuple(shots), near, far, background=background, remarks=remark_of_keys(unknown))


def _with_ending(file: Path) -> Path:
    """The file that an error message names as missing."""
    return file if file.suffix.lower() in PHOTO_ENDINGS else file.with_name(f"{file.name}.png")
