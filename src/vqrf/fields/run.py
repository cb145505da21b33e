"""Run folders: where a trained field lies, and the photos as it was trained on them.

A run folder holds `field.safetensors` (the trained field), `config.json` (what it was trained with), `metrics.jsonl` (one
line per report) and, while training goes on, checkpoints. Nothing in it names another path: it can be moved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vqrf.cameras import Z
from vqrf.codec.about import About, about_of
from vqrf.data.exposure import without_exposures
from vqrf.data.listing import MAX_SIDE, SceneError, is_color
from vqrf.data.load import ReadReport, SceneOptions, load_scene
from vqrf.data.photos import Masks
from vqrf.data.scene import Scene
from vqrf.data.splits import OWN
from vqrf.fields.field import RadianceField
from vqrf.fields.storage import StorageError, load_field
from vqrf.geometry import Vector

FIELD_FILE = "field.safetensors"
FACTORS_FILE = "tensorf.th"
"""Beside it, where the voxels were learnt as factors: a checkpoint of TensoRF."""


def expect_run(path: Path) -> None:
    """Refuse what is no run folder, or holds no field yet, by a StorageError."""
    if not path.is_dir():
        raise StorageError(path, "is no run folder")
    if not (path / FIELD_FILE).exists():
        raise StorageError(path, f"holds no {FIELD_FILE}; is it a run folder, and has its training ended?")


def load_run(path: Path) -> tuple[RadianceField, dict[str, Any]]:
    """The field of a run folder, and its notes: how it was trained.

    Raises:
      StorageError: it is no run folder, holds no field, or one that cannot be used.
    """
    expect_run(path)
    return load_field(path / FIELD_FILE)


def load_like(
    notes: Mapping[str, Any],
    data: Path,
    splits: tuple[str, ...],
    downscale: int = 0,
    every: int = 1,
    report: ReadReport | None = None,
) -> Scene:
    """The dataset as the field was trained on it: same downscale, background, masks, exposures and photos held out.

    Args:
      notes: of the field. They may come from any file, so they are asked for and not believed.
      splits: see `load_scene`.
      downscale: in the place of the one that the notes say; 0: theirs.
      every: of the test split, take frames 0, n, 2n, ...
      report: see `vqrf.data.load.SceneOptions`.

    Raises:
      SceneError: the dataset cannot be used.
      StorageError: the notes say what cannot be.
      ValueError: `downscale` or `every` is out of its range.
    """
    if every < 1 or downscale < 0:
        raise ValueError(f"expected every at least 1 and downscale at least 0, got {every} and {downscale}")
    background = notes.get("background")
    if not isinstance(background, str) or not is_color(background):
        background = "white"
    trained, side, hold_out, axes = (notes.get(name) for name in ("downscale", "side", "hold_out", "axes"))
    if not isinstance(hold_out, str):  # a run that does not say was trained on the dataset's own split
        hold_out = OWN if "downscale" in notes else ""
    is_sized = not downscale and type(side) is int and 0 < side < MAX_SIDE
    size = downscale or (trained if type(trained) is int and 0 < trained < MAX_SIDE else 1)
    try:
        scene = load_scene(
            data,
            splits=splits,
            downscale=None if is_sized else size,
            side=side,
            background=background,
            every=every,
            options=SceneOptions(
                hold_out=hold_out,
                axes=axes if axes in ("opengl", "opencv") else None,
                masks=masks_of_notes(notes.get("masks")),
                report=report,
            ),
        )
    except SceneError:
        raise
    except ValueError as error:
        raise StorageError("the notes beside the field", str(error)) from None
    return without_exposures(scene, notes.get("exposures"))


def masks_of_notes(said: object) -> Masks:
    """The masks that a field was trained with."""
    if not isinstance(said, dict):
        return Masks()
    folder, mean = said.get("folder"), said.get("mean")
    return Masks(
        folder=Path(folder) if isinstance(folder, str) and Path(folder).is_dir() else None,
        mean=mean if mean in ("background", "ignored") else None,
        is_inverted=said.get("is_inverted") is True,
    )


def up_of_notes(notes: Mapping[str, Any]) -> Vector:
    """What is up in the world of a field's cameras; z where the notes do not say, or something else."""
    said = notes.get("up")
    if not isinstance(said, list) or len(said) != 3 or not all(type(value) is float and abs(value) <= 1 for value in said):
        return Z
    length = math.hypot(*said)
    return (said[0] / length, said[1] / length, said[2] / length) if length > 0.5 else Z


def up_of(about: About, notes: Mapping[str, Any]) -> Vector:
    """What is up: as the field says for people, else as its training does, else z."""
    return about.up or up_of_notes(notes)


def about_of_notes(notes: Mapping[str, Any]) -> About:
    """What a field says of itself to people, and what is up where its training alone knows."""
    about, up = about_of(notes), up_of_notes(notes)
    return about if about.up or up == Z else replace(about, up=up)
