"""The rendering equation's parts once more, for whatever is held against them."""

from __future__ import annotations

import numpy as np


def harmonics(d: np.ndarray, degree: int) -> np.ndarray:
    """[N,(degree+1)^2] real spherical harmonics of unit directions [N,3], as FORMAT.md lists them."""
    x, y, z = d.T
    basis = [0.28209479177387814 * np.ones_like(x), -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree == 2:
        basis += [1.0925484305920792 * x * y, -1.0925484305920792 * y * z, 0.31539156525252005 * (2 * z * z - x * x - y * y)]
        basis += [-1.0925484305920792 * x * z, 0.5462742152960396 * (x * x - y * y)]
    return np.stack(basis, -1)


def trilinear(grid: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values [N,...] of [X,Y,Z,...] at voxel coordinates [N,3]."""
    cell = np.minimum(at.astype(int), np.array(grid.shape[:3]) - 2)
    share = at - cell
    total = 0
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, share, 1 - share), -1)
        total = total + weight.reshape(-1, *[1] * (grid.ndim - 3)) * grid[tuple((cell + corner).T)]
    return total
