"""A scene in a notebook: the page that holds it, inline, without a server."""

from __future__ import annotations

from pathlib import Path

from vqrf.codec.about import about_of
from vqrf.codec.bitstream import decode, encode
from vqrf.codec.compressed import Compressed
from vqrf.fields.field import RadianceField, drawing_fault_of
from vqrf.fields.preview import preview
from vqrf.files import read_file
from vqrf.memory import decoding_budget
from vqrf.rendering.page import page_with_scene
from vqrf.shown import Shown

MAX_SIDE = 10_000
"""Pixels of a frame."""


def show(scene: RadianceField | Compressed | bytes | str | Path, *, height: int = 480) -> Shown:
    """Show a field, a compressed field, the bytes of a .vqrf file, or such a file, in a notebook.

    A field that is not compressed is shown as `vqrf view` shows it: every voxel that can be seen, in bytes.

    Args:
      height: of the frame, in pixels.

    Raises:
      ValueError: it cannot be drawn, the bytes are no .vqrf file, or the height is none.
      OSError: the file cannot be read.
    """
    if not 1 <= height <= MAX_SIDE:
        raise ValueError(f"height: expected 1..{MAX_SIDE} pixels, got {height}")
    name = Path(scene).name if isinstance(scene, str | Path) else "scene.vqrf"
    if isinstance(scene, RadianceField):
        scene = preview(scene)
    if isinstance(scene, str | Path):
        scene = read_file(scene)
    data = scene if isinstance(scene, bytes) else encode(scene)
    small = decode(data, max_bytes=decoding_budget())
    if fault := drawing_fault_of(small):
        raise ValueError(f"cannot be drawn: {fault}")
    return Shown(page_with_scene(data, name, about_of(small.metadata)), height)
