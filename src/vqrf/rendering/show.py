"""A scene in a notebook: the page that holds it, inline, without a server."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path

from vqrf.codec.about import about_of
from vqrf.codec.bitstream import decode, encode
from vqrf.codec.compressed import Compressed
from vqrf.fields.field import RadianceField, drawing_fault_of
from vqrf.fields.preview import preview
from vqrf.files import read_file, write_atomically
from vqrf.memory import decoding_budget
from vqrf.rendering.page import page_with_scene

MAX_SIDE = 10_000
"""Pixels of a frame."""


@dataclass(frozen=True)
class Shown:
    """A scene as a page. The last value of a notebook's cell is shown by itself; elsewhere `save` writes the page.

    Attributes:
      page: the HTML, which needs nothing else.
      height: of the frame in the notebook, in pixels.
    """

    page: bytes = field(repr=False)
    height: int

    def _repr_html_(self) -> str:
        """A frame of its own, from which nothing reaches the notebook."""
        page = html.escape(self.page.decode())
        style = f"width:100%;height:{self.height}px;border:0"
        return (
            f'<iframe srcdoc="{page}" sandbox="allow-scripts" allow="fullscreen" style="{style}" title="A 3-D scene"></iframe>'
        )

    def save(self, path: str | Path) -> None:
        """Write the page: the whole file or none.

        Raises:
          OSError: the file cannot be written.
        """
        write_atomically(path, self.page)


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
