"""Borders of photos that show nothing: outermost rows and columns that undistortion, a film or a frame left black or white."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vqrf.data.scene import View
from vqrf.geometry import Float64

WIDEST_SHARE, LEAST_WIDEST = 0.02, 2
"""How wide a border may be, of the photo's side, and how wide in pixels at least."""

LEFT_SHARE = 0.6
"""Of what the lines inside of it have, of light or of darkness, what those of a border have left at most. A line that was
averaged of one that shows nothing and one that does is in between."""

INSIDE = 3
"""Lines just inside of a border that it is compared with."""

MOST_PHOTOS, LEAST_PHOTOS = 0.9, 3
"""In what share of the photos of one size a line has to show nothing, and of how many of them: what a photo shows moves when
the camera does, and a border does not."""

SIDES = "top", "bottom", "left", "right"


def without_borders(views: Sequence[View]) -> tuple[tuple[View, ...], tuple[str, ...]]:
    """The views, none of whose pixels count that are on a border which shows nothing; and what to say of it.

    A field that learnt a black line at the border of each photo would have something black before each camera.
    """
    made, remarks = list(views), []
    for size in sorted({(view.camera.width, view.camera.height) for view in views}):
        chosen = [i for i, view in enumerate(views) if (view.camera.width, view.camera.height) == size]
        widths = border_widths([views[i] for i in chosen])
        if not any(widths):
            continue
        shows = np.full((size[1], size[0]), 255, np.uint8)
        top, bottom, left, right = widths
        shows[:top], shows[size[1] - bottom :], shows[:, :left], shows[:, size[0] - right :] = 0, 0, 0, 0
        for i in chosen:
            weight = views[i].weight
            made[i] = replace(views[i], weight=shows if weight is None else np.minimum(weight, shows))
        where = " and ".join(f"{n} at the {side}" for n, side in zip(widths, SIDES, strict=True) if n)
        remarks.append(f"{len(chosen)} photos have outermost lines that show nothing, {where}: these are left out")
    return tuple(made), tuple(remarks)


def border_widths(views: Sequence[View]) -> tuple[int, int, int, int]:
    """How many lines show nothing at the top, the bottom, the left and the right of views of one size."""
    if len(views) < LEAST_PHOTOS:
        return 0, 0, 0, 0
    rows, columns = (np.stack([view.image.mean((axis, 2), dtype=np.float64) for view in views]) for axis in (1, 0))
    top, bottom, left, right = (_width(lines) for lines in (rows, rows[:, ::-1], columns, columns[:, ::-1]))
    return top, bottom, left, right


def _width(lines: Float64) -> int:
    """How many of the first lines [N,L] of N photos, of which these are the means 0..255, show nothing."""
    widest = max(round(WIDEST_SHARE * lines.shape[1]), LEAST_WIDEST)
    for width in range(min(widest, lines.shape[1] - INSIDE), 0, -1):
        for light in (lines, 255 - lines):
            inside = light[:, width : width + INSIDE].mean(1)
            shows_nothing = (light[:, :width] < LEFT_SHARE * inside[:, None]).all(1)
            if shows_nothing.mean() >= MOST_PHOTOS:
                return width
    return 0
