"""What each voxel gave to the photos, and which voxels stay for it.

    importance   I(v) = sum over training rays and shaded samples of weight * trilinear share of voxel v
    partition    the fewest voxels that carry `prune` of the total importance stay; the fewest that carry `keep` of it keep
                 their features

Source: VQRF (arXiv 2211.16386), sec. 3.2. Departs: see each function.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vqrf.codec.compressed import CODED, KEPT, PRUNED
from vqrf.data.rays import RayPool
from vqrf.fields.field import RadianceField
from vqrf.kernels import select

EMPTY_MARGIN = 1.0
"""How far, in raw density, a PRUNED voxel lies below the density whose alpha is just sampled."""


def measure_importance(field: RadianceField, pool: RayPool) -> NDArray[np.float64]:
    """Sum, over every training ray, the weight each voxel gave to the pixel.

        I(v) = sum_rays sum_shaded  w_s * share(v, x_s)

    Returns:
      [X,Y,Z] float64 >= 0. Its sum is the total weight of all shaded samples.

    Source: VQRF sec. 3.2. Departs: none (the official code drops samples below its threshold too).
    """
    kernels = select()
    volume = field.volume()
    importance = np.zeros(field.lattice.shape)
    for rays in pool.chunks():
        kernels.accumulate_importance(volume, *rays, importance)
    return importance


def expect_seen(importance: NDArray[np.float64]) -> None:
    """Refuse a field of which no photo sees anything: whatever a file of it held, it would be a file of nothing.

    Raises:
      ValueError: the importance is 0 everywhere.
    """
    if not importance.any():
        raise ValueError("no photo sees anything of the field: it is empty, or the cameras look elsewhere")


def carrying(importance: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """The fewest voxels that carry at least `share` of the total importance, as a mask of the same shape.

    Voxels of no importance are never among them. Of equally important voxels the first in raster order is taken. Sums are
    rounded: a share that is met to 1e-12 is met. A share of 1 is every voxel that has any importance.
    """
    if share >= 1:
        return importance > 0
    flat = importance.ravel()
    order = np.argsort(-flat, kind="stable")
    carried = np.cumsum(flat[order])
    total = carried[-1] if len(carried) else 0.0
    n = int(np.searchsorted(carried, share * total * (1 - 1e-12))) + 1 if share > 0 and total > 0 else 0
    mask = np.zeros(flat.shape, bool)
    mask[order[:n]] = True
    return (mask & (flat > 0)).reshape(importance.shape)


def partition_voxels(importance: NDArray[np.float64], *, prune: float, keep: float) -> NDArray[np.uint8]:
    """PRUNED, CODED or KEPT for every voxel, uint8 of the importance's shape, by its cumulative share.

    Source: VQRF sec. 3.2. Departs: ties are broken by raster order instead of dropped.
    """
    partition = np.full(importance.shape, PRUNED, np.uint8)
    partition[carrying(importance, prune)] = CODED
    partition[carrying(importance, keep)] = KEPT
    return partition


def deal_out(importance: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The same values dealt out by chance among the voxels that have any: each voxel may be the most important.

    So a partition by them has as many voxels of every kind as one by the importance itself, and which is chance.
    """
    dealt = importance.copy()
    dealt[importance > 0] = np.random.default_rng(seed).permutation(importance[importance > 0])
    return dealt


def spread_out(importance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Importance shared with the neighbours, 1:2:1 along each axis: voxels are kept with their surroundings.

    The edge of what is kept is smooth then, and costs about half the bytes
    (docs/log/pyramid.md#does-spreading-the-importance-make-the-partition-cheaper).
    """
    for axis in range(3):
        along = np.moveaxis(importance, axis, 0)
        shared = along / 2
        shared[1:] += along[:-1] / 4
        shared[:-1] += along[1:] / 4
        importance = np.moveaxis(shared, 0, axis)
    return importance
