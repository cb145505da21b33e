"""What the verbs that take a dataset have in common: flags that say how to take it, and what was worked out of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vqrf.cli.terminal import UsageError
from vqrf.data.export import write_dataset
from vqrf.data.listing import SceneError
from vqrf.data.load import ReadReport, SceneOptions, list_photos
from vqrf.data.photos import Masks as MaskOptions
from vqrf.data.placement import Axes, SpaceName, Wishes
from vqrf.data.scene import Scene


@dataclass(frozen=True)
class Photos:
    """How to read a dataset. vqrf works out what you do not give, and prints it."""

    near: float | None = None
    """Distance from a camera, in world units, before which there is nothing."""
    far: float | None = None
    """Distance from a camera, in world units, beyond which there is nothing."""
    box: tuple[float, float, float, float, float, float] | None = None
    """Lowest and highest corner of a box that holds the scene, in the coordinates of the cameras."""
    up: tuple[float, float, float] | None = None
    """Direction that is up, in the coordinates of the cameras."""
    space: SpaceName | None = None
    """How the world lies in the voxels.
    box: as it is.
    front: voxels grow with depth, for photos that all look one way.
    unbounded: voxels grow with the distance from the cameras, for a place with all that is around it.
    Without it: box, if the photos have a plain background, or something says where the scene ends. Otherwise front, if they
    look one way from side by side; unbounded, if they look more ways; box, if they look one way from near and far."""
    hold_out: str = ""
    """Photos to keep out of training, for scoring:
    own (the dataset's test split), 8 (every 8th), sector (an eighth of the cameras, side by side) or 0 (none).
    Without it: own, or 8 if the dataset has no test split."""
    axes: Axes | None = None
    """How the poses of the cameras are written.
    opencv: y down, z forward.
    opengl: take the poses as they are, even if that looks wrong."""

    masks: Path | None = None
    """Folder of masks, with the names of the photos; white marks what to keep.
    Without it, vqrf uses the masks that the dataset names."""
    masked: Literal["background", "ignored"] | None = None
    """What a masked pixel is: background (there is nothing) or ignored (it is not used).
    Without it, vqrf decides by the borders of the masks."""
    masks_inverted: bool = False
    """The masks are black, not white, where the object is."""

    def options(self, report: ReadReport | None = None) -> SceneOptions:
        place = Wishes(self.near, self.far, self.box, self.up, self.space)
        masks = MaskOptions(self.masks, self.masked, self.masks_inverted)
        return SceneOptions(hold_out=self.hold_out, place=place, axes=self.axes, masks=masks, report=report)


PhotoFlags = Annotated[Photos, tyro.conf.arg(name="photo"), tyro.conf.OmitArgPrefixes]


@contextmanager
def flags_named() -> Iterator[None]:
    """Say of which flag it is that a value cannot be."""
    try:
        yield
    except SceneError:
        raise
    except ValueError as error:
        name, colon, reason = str(error).partition(":")
        raise UsageError(f"--{name.replace('_', '-')}{colon}{reason}") from None


def convert_dataset(data: Path, out: Path, *, overwrite: bool) -> Iterator[str]:
    """Write a dataset as transforms.json and COLMAP's text; yields what to say.

    Raises:
      UsageError: the folder to write is not empty, or is the dataset's own.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not overwrite)):
        raise UsageError(f"{out}: is there already; give --overwrite")
    if out.resolve() == data.resolve():
        raise UsageError(f"{out}: is the dataset itself")
    if not out.resolve().parent.is_dir():
        raise UsageError(f"{out}: there is no folder {out.resolve().parent}")
    listing = list_photos(data)
    yield from listing.remarks
    yield from write_dataset(listing, out)
    yield f"wrote {len(listing.shots)} photos of {listing.layout} to {out}, with transforms.json and sparse/0"


def lines_of(scene: Scene) -> Iterator[str]:
    """What was taken and worked out, for the user."""
    sizes = {(view.camera.width, view.camera.height) for view in scene.train}
    width, height = max(sizes)
    size = f"{width}x{height}" if len(sizes) == 1 else f"{len(sizes)} sizes, up to {width}x{height}"
    averaged = f", {scene.downscale}x{scene.downscale} pixels averaged" if scene.downscale > 1 else ""
    held_out = {"own": "the dataset's own split", "0": "none held out", "sector": "a sector held out"}.get(
        scene.hold_out, f"every {scene.hold_out}th held out"
    )
    yield f"{scene.name}: {len(scene.train)} photos to train on, {size}{averaged}; {held_out}"
    space = "" if scene.space == "box" else f", space {scene.space}"
    box = "" if scene.box is None else f", box {_numbers(scene.box[0])} to {_numbers(scene.box[1])}"
    yield f"near {scene.near:.4g}, far {scene.far:.4g}{box} (from {scene.source}); up {_numbers(scene.up)}{space}"
    yield from scene.remarks


def _numbers(values: Iterable[float]) -> str:
    """Seven digits, which tell a millimetre at a kilometre."""
    return " ".join(f"{value:.7g}" for value in values)
