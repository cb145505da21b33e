"""Where forward-facing checkpoints lie: in normalised device coordinates, of cameras that are in no checkpoint.

DirectVoxGO, TensoRF and svox2 take LLFF's scenes alike. With R and c the axes and the position of the mean camera, s three
quarters of the nearest bound, and f, W, H of the first camera, a world point p is at

    x = R^T (p - c) / s,     place = (2 f/W x_0 / -x_2,  2 f/H x_1 / -x_2,  1 - 2 / -x_2)

so that places -1 and 1 on the last axis are one unit away and infinitely far. svox2 turns the second axis around.

Source: NeRF (arXiv 2003.08934), appendix C, and the official loaders.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from vqrf.data.listing import SceneError
from vqrf.data.llff import FILE, read_rows
from vqrf.geometry import Float64, Front, Lattice

BOUND_SHARE = 0.75
"""Of the nearest bound, what is one unit of the official loaders' world (`bd_factor`)."""

LAST_PLACE = 1 - 2.0**-17
"""The last place on the third axis, 2^18 units away. What is at 1 is infinitely far, and no point of the world."""

MIDDLE = (0.0, 0.0, 1.0)
"""The direction, in these coordinates, of all rays of the mean camera."""


@dataclass(frozen=True, eq=False)
class Ndc:
    """The normalised device coordinates of one set of photos.

    Attributes:
      turn: [3,3] rotation of the world's directions into those of the mean camera.
      middle: [3] the mean camera's position.
      unit: world units of one of theirs, > 0.
      slopes: 2 f/W and 2 f/H.
    """

    turn: Float64
    middle: Float64
    unit: float
    slopes: tuple[float, float]

    def front(self, sizes: ArrayLike = (1, 1, 1)) -> Front:
        """The space whose places are these coordinates times `sizes` [3]."""
        x = np.concatenate([self.turn, -self.turn @ self.middle[:, None]], 1) / self.unit
        depth = -x[2]
        q = np.stack([self.slopes[0] * x[0], self.slopes[1] * x[1], depth - [0, 0, 0, 2.0]]) * np.reshape(sizes, (3, 1))
        a, b, c, d = ((row[0], row[1], row[2], row[3]) for row in [*q.tolist(), depth.tolist()])
        return Front((a, b, c, d))

    def lattice(self, low: ArrayLike, high: ArrayLike, shape: tuple[int, ...], sizes: ArrayLike = (1, 1, 1)) -> Lattice:
        """The lattice between two places, of which the last may not be infinitely far."""
        (x0, y0, z0), (x1, y1, z1) = (np.asarray(corner, np.float64).tolist() for corner in (low, high))
        x, y, z = shape
        return Lattice((x0, y0, z0), (x1, y1, min(z1, LAST_PLACE)), (x, y, z), self.front(sizes))


NOWHERE = Ndc(np.eye(3), np.zeros(3), 1.0, (1.0, 1.0))
"""Those of one camera at the origin: what a field is like can be said of it there, but not where it lies."""


def ndc_of_llff(folder: Path) -> Ndc:
    """Those of a folder of photos in LLFF's layout.

    Raises:
      SceneError: it has no `poses_bounds.npy`, or one that cannot be used.
    """
    rows = read_rows(folder)
    cameras, path = rows[:, :15].reshape(-1, 3, 5), folder / FILE
    down, back, positions = cameras[..., 0], cameras[..., 2], cameras[..., 3]
    height, width, focal = cameras[0, :, 4]
    with np.errstate(all="ignore"):
        z = _unit(back.sum(0))
        x = _unit(np.cross(-down.sum(0), z))
        turn, nearest = np.stack([x, _unit(np.cross(z, x)), z]), float(rows[:, 15].min())
    if not np.isfinite(turn).all() or not nearest > 0 or not (cameras[0, :, 4] > 0).all():
        raise SceneError(path, "has no mean camera, or no bounds in front of it")
    return Ndc(turn, positions.mean(0), BOUND_SHARE * nearest, (float(2 * focal / width), float(2 * focal / height)))


def _unit(vector: Float64) -> Float64:
    made: Float64 = vector / np.linalg.norm(vector)
    return made
