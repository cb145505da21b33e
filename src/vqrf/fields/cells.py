"""Voxels of cells: which samples of a lattice anything ever looks at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vqrf.fields.field import RadianceField
from vqrf.geometry import grown


def active_voxels(field: RadianceField) -> NDArray[np.bool_]:
    """Voxels [X,Y,Z] bool that belong to an allowed cell: nothing looks at the others."""
    if field.allowed is None:
        return np.ones(field.lattice.shape, bool)
    return voxels_of_cells(field.allowed)


def voxels_of_cells(cells: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Voxels [X,Y,Z] bool at a corner of one of the given cells [X-1,Y-1,Z-1]."""
    voxels = np.zeros(tuple(side + 1 for side in cells.shape), bool)
    for corner in np.ndindex(2, 2, 2):
        view = tuple(slice(offset, offset + side) for offset, side in zip(corner, cells.shape, strict=True))
        voxels[view] |= cells != 0
    return voxels


def cells_of_voxels(voxels: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Cells [X-1,Y-1,Z-1] uint8 with a corner among the given voxels [X,Y,Z]."""
    sides = tuple(side - 1 for side in voxels.shape)
    cells = np.zeros(sides, bool)
    for corner in np.ndindex(2, 2, 2):
        cells |= voxels[tuple(slice(offset, offset + side) for offset, side in zip(corner, sides, strict=True))]
    return cells.astype(np.uint8)


def closed(voxels: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """The voxels [X,Y,Z] and the gaps between them that are at most 2 `by` wide: the closing of mathematical morphology.

    What is beyond the lattice counts as one of them where a gap ends there.
    """
    return ~grown(~grown(voxels, by), by)
