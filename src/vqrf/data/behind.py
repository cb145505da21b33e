"""What stands behind the photos of a dataset: what they say, or what is least wrong to show there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vqrf.data.listing import COLORS, Color
from vqrf.data.scene import View

PLAIN_LEVELS, PLAIN_SHARE = 12, 0.9
"""How far colours of 0 to 255 may be from white or black, and for which share of the borders' pixels, on a plain background."""

CONTRAST_PIXELS, CONTRAST_SHARE = 1000, 0.02
"""Of each photo, about so many pixels are asked what colour they are far from; this share of all of them may be nearer."""


@dataclass(frozen=True)
class Behind:
    """What stands behind photos.

    Attributes:
      background: rgb that is shown there, 0..1.
      contrast: rgb that is there while a field learns from photos that show something at every pixel; None: the same.
      is_plain: whether they show a thing alone.
    """

    background: Color
    contrast: Color | None
    is_plain: bool


def behind_photos(views: Mapping[str, Sequence[View]], behind: Color, *, stands_on: Color | None, is_said: bool) -> Behind:
    """What stands behind the views of each split.

    Args:
      behind: what was put behind transparent pixels.
      stands_on: what the dataset says that its photos stand on.
      is_said: whether the user said `behind`.
    """
    plain = _plain_color([view for of_split in views.values() for view in of_split], behind)
    learnt = views["train"] if "train" in views else views["test"]
    if not is_said and stands_on is None:
        behind = plain or _mean_color(learnt)
    return Behind(behind, _contrast(learnt) if plain is None and stands_on is None else None, plain is not None)


def _plain_color(views: Sequence[View], behind: Color) -> Color | None:
    """What is behind photos that show a thing alone, as they have opacities, or borders of one colour, white or black."""
    if any(view.opacity is not None for view in views):
        return behind
    borders = [np.concatenate([view.image[0], view.image[-1], view.image[:, 0], view.image[:, -1]]) for view in views]
    pixels = np.concatenate(borders)
    for color in COLORS.values():
        is_near = (np.abs(pixels.astype(int) - np.multiply(255, color)) <= PLAIN_LEVELS).all(-1)
        if float(is_near.mean()) > PLAIN_SHARE:
            return color
    return None


def _mean_color(views: Sequence[View]) -> Color:
    """Of the pixels that count, to 1/255.

    Where opaque photos show a place, a ray that meets nothing looks at what too few of them saw. Their mean colour is what is
    least wrong there (docs/log/training.md#what-is-behind-opaque-photos).
    """
    total, n = np.zeros(3), 0.0
    for view in views:
        weight = np.ones(view.image.shape[:2]) if view.weight is None else view.weight / 255
        total, n = total + np.tensordot(weight, view.image.astype(np.float64), 2), n + float(weight.sum())
    red, green, blue = np.round(total / max(n, 1.0)) / 255
    return float(red), float(green), float(blue)


def _contrast(views: Sequence[View]) -> Color:
    """The corner of the cube of colours from which nearly all pixels are farthest."""
    pixels = np.concatenate([view.image.reshape(-1, 3)[:: max(view.image.size // 3 // CONTRAST_PIXELS, 1)] for view in views])
    corners = np.stack(np.meshgrid(*[[0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    least = [np.quantile(np.linalg.norm(pixels - 255.0 * corner, axis=1), CONTRAST_SHARE) for corner in corners]
    red, green, blue = corners[int(np.argmax(least))].tolist()
    return float(red), float(green), float(blue)
