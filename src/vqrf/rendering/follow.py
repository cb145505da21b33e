"""What a training looks like while it goes on: one picture below the cell of a notebook, which changes."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

from vqrf.cameras import Camera, Z
from vqrf.data.images import bytes_from_colors, png_from_image
from vqrf.fields.field import RadianceField
from vqrf.geometry import Vector
from vqrf.rendering.poster import camera_of, first_view
from vqrf.rendering.render import Image, render

MAX_SIDE = 4096
"""Pixels of a side."""

REST = 9.0
"""Times as long as a picture took, no other follows it: at most a tenth of a training's time goes into them."""


class Viewer:
    """Follows a training in a notebook: shows what the field is by now, in a picture that changes below the cell.

        viewer = vqrf.Viewer()
        field = vqrf.fit(scene, watch=viewer.watch)

    Where there is no notebook nothing is shown, and `image` is there all the same.

    Args:
      camera: what to look from; None: a first view, which has all of the field in it as it is at each picture.
      side: of the picture in pixels, where there is no camera.
      seconds: between two pictures, or more where they take long.
      up: the direction that is up in the world, for a first view.

    Attributes:
      image: the newest picture; None before the first.
      n_images: how many there were.

    Raises:
      ValueError: `side` or `seconds` is out of its range.
    """

    def __init__(self, *, camera: Camera | None = None, side: int = 400, seconds: float = 5.0, up: Vector = Z) -> None:
        if not 1 <= side <= MAX_SIDE:
            raise ValueError(f"side: expected 1..{MAX_SIDE} pixels, got {side}")
        if not seconds >= 0:
            raise ValueError(f"seconds: expected 0 or more, got {seconds:g}")
        self.image: Image | None = None
        self.n_images = 0
        self._camera, self._side, self._seconds, self._up = camera, side, seconds, up
        self._due = -float("inf")
        self._handle: Any = None

    def watch(self, field_now: Callable[[], RadianceField]) -> None:
        """Draw the field, if it is time to; what `vqrf.fit` takes as its `watch`.

        Args:
          field_now: gives the field as it is. It is asked for only where a picture is drawn.
        """
        start = time.monotonic()
        if start < self._due:
            return
        field = field_now()
        camera = self._camera or camera_of(first_view(field, self._up), (self._side, self._side), self._up)
        self.image = render(field, camera)
        self.n_images += 1
        self._show()
        end = time.monotonic()
        self._due = end + max(self._seconds, REST * (end - start))

    def _show(self) -> None:
        """Put the picture below the cell, or in the place of the one that is there."""
        shell = sys.modules.get("IPython")
        if self._handle is not None:
            self._handle.update(self)
        elif shell is not None and shell.get_ipython() is not None:
            self._handle = importlib.import_module("IPython.display").display(self, display_id=True)

    def _repr_png_(self) -> bytes | None:
        """The newest picture, for a notebook."""
        return None if self.image is None else png_from_image(bytes_from_colors(self.image.rgb))

    def __repr__(self) -> str:
        return f"Viewer({self.n_images} pictures)"
