"""A scene as a page in a notebook, and what a field has to show itself.

How the page is made is the business of `vqrf.rendering.show`, which stands below everything that can be shown.
"""

from __future__ import annotations

import html
import importlib
from dataclasses import dataclass, field
from pathlib import Path

from vqrf.files import write_atomically


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


class Showable:
    """What can be shown in a notebook."""

    def show(self, *, height: int = 480) -> Shown:
        """Show it below the cell of a notebook, without a server: `vqrf.show` of it.

        Args:
          height: of the frame, in pixels.

        Raises:
          ValueError: it cannot be drawn, or the height is none.
        """
        shown: Shown = importlib.import_module("vqrf.rendering.show").show(self, height=height)
        return shown
