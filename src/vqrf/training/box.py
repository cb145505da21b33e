"""Where the scene is: what cameras see, and the box and cells that a coarse field leaves for the fine one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import max_pool3d

from vqrf.cameras import Camera
from vqrf.data.rays import CameraTable
from vqrf.data.scene import Scene
from vqrf.fields.cells import active_voxels, cells_of_voxels, voxels_of_cells
from vqrf.fields.field import RadianceField
from vqrf.geometry import Lattice, Space
from vqrf.kernels import select
from vqrf.training.grids import UNSEEN_DENSITY

MIN_VIEWS = 3
"""A voxel that fewer views see is taken as empty (DVGO): one image alone can put anything anywhere."""

NEEDED_WEIGHT = 0.01
"""Mean weight that a coarse voxel gives to the pixels of a view that needs it. On ship at 400x400 the box is the same from 0.01
to 0.1; at 0.003 specks come in."""

FINE_NEEDED_WEIGHT = 1e-3
"""The same within the fine stage, whose voxels are an eighth as large and know the scene. On ship at 400x400 what is below it
adds nothing to the photos, and what it drops at 0.003 is missed (docs/log/box.md#how-does-the-fog-under-the-dish-go)."""

TIGHT = 0.6
"""Volume of the box of what views need, by that of all that is alive: from here on the latter is taken. Ship has 0.42."""

RAYS_ACROSS = 1.5
"""Rays to a voxel's edge when it is asked whether views need it."""

RAYS_AT_ONCE = 8192
"""Of which the samples are held at once: as many as a step of a training has."""

VIEWS_AT_ONCE = 8
"""Of which the voxels are counted before those are left out that need no more: looking for them goes through the lattice."""

ASKED_VOXELS = 1 << 17
"""Voxels at most of which a view's median footprint is taken: it only sets how many rays there are."""

BOX_MARGIN = 1.05
COARSE_ALPHA = 1e-3
"""Coarse voxels above it bound the fine box and, one voxel wider, the space where the fine field may be."""


def count_views(scene: Scene, lattice: Lattice) -> np.ndarray:
    """How many training views see each voxel, [X,Y,Z] int32; 0 where a voxel is within `near` of a camera.

    Source: DVGO's view-count learning rate. Departs: a voxel counts by projecting it, not by the rays that pass near it.
    """
    index = np.stack(np.meshgrid(*[np.arange(side) for side in lattice.shape], indexing="ij"), -1)
    points = lattice.world_from_index(index.reshape(-1, 3)).astype(np.float32)
    seen = np.zeros(len(points), np.int32)
    covered = np.zeros(len(points), bool)
    for camera in (view.camera for view in scene.train):
        local = camera.local(points)
        x, y = camera.project(local)
        seen += (x >= 0) & (x <= camera.width) & (y >= 0) & (y <= camera.height)  # nan is none of these
        covered |= _squared_length(local) < scene.near**2
    seen[covered] = 0
    return seen.reshape(lattice.shape)


def count_needing(field: RadianceField, scene: Scene, least: float, enough: int | None = None) -> np.ndarray:
    """How many training views need each voxel, [X,Y,Z] int32: it gives their pixels a mean weight of at least `least`.

        w(v, view) = sum over rays of weight * share(v), by the number of rays that the voxel's footprint in the view has

    What stands behind an opaque surface has no weight, and fog that explains an error of one view has weight in that view
    alone: both are what no other view would miss. There are about `RAYS_ACROSS` rays to a voxel's edge, or one a pixel.

    Args:
      least: above 0, up to 1.
      enough: voxels with so many need not be counted further; cells with no others are passed over, after every `VIEWS_AT_ONCE`
        views. None: count all.

    Source: VQRF (arXiv 2211.16386) sec. 3.2, the importance of a voxel. Departs: by view, and for each ray.
    """
    kernels, volume, footprints = select(), field.volume(), Footprints(field.lattice)
    is_active = voxels_of_cells(volume.cells)
    active = np.flatnonzero(is_active)
    some = active[:: -(-len(active) // ASKED_VOXELS) or 1]
    importance, needing = np.zeros(field.lattice.shape), np.zeros(field.lattice.shape, np.int32)
    for number, camera in enumerate(view.camera for view in scene.train):
        if number % VIEWS_AT_ONCE == 0:
            is_open = is_active if enough is None else is_active & (needing < enough)
            if not is_open.any():
                break
            counted = _lowest_beside(is_open)
        across = float(np.sqrt(np.median(footprints.of(camera, some))))
        every = max(round(across / RAYS_ACROSS), 1)
        rows, columns = np.arange(every // 2, camera.height, every), np.arange(every // 2, camera.width, every)
        pixels, table = (rows[:, None] * camera.width + columns).ravel(), CameraTable([camera])
        for first in range(0, len(pixels), RAYS_AT_ONCE):
            rays = table.rays(pixels[first : first + RAYS_AT_ONCE])
            kernels.accumulate_importance(volume, *rays, importance, counted=counted)
        seen = np.flatnonzero(importance)
        given = importance.ravel()[seen]
        is_needed = is_open.ravel()[seen] & (given >= least / every**2 * footprints.of(camera, seen))
        needing.ravel()[seen[is_needed]] += 1
        importance.ravel()[seen] = 0
    return needing if enough is None else np.minimum(needing, enough)


def least_views(space: Space | None) -> int:
    """How many views at least see what is there: `MIN_VIEWS` in a box, and one in the other spaces.

    There every ray ends somewhere, and at the edge or far off may be what one photo alone shows.
    """
    return MIN_VIEWS if space is None else 1


def _lowest_beside(voxels: np.ndarray) -> np.ndarray:
    """The lowest voxels, [X,Y,Z] uint8, of the cells that have one of these voxels [X,Y,Z] bool at a corner."""
    lowest = voxels.copy()
    lowest[:-1] |= lowest[1:]
    lowest[:, :-1] |= lowest[:, 1:]
    lowest[:, :, :-1] |= lowest[:, :, 1:]
    return lowest.view(np.uint8)


class Footprints:
    """How many pixels a voxel covers in a view."""

    def __init__(self, lattice: Lattice) -> None:
        if lattice.space is None:
            places = lattice.world_from_index(np.stack([np.arange(max(lattice.shape))] * 3, -1))
            lines = [places[:side, axis] for axis, side in enumerate(lattice.shape)]
            self._places: list[np.ndarray] = list(np.meshgrid(*lines, indexing="ij", copy=False))  # views of the lines
            edge = np.cbrt(np.prod(lattice.extent / (np.array(lattice.shape) - 1)))
            self._largest: np.ndarray = np.broadcast_to(edge**2, lattice.shape)
        else:
            self._places = [np.empty(lattice.shape, np.float32) for _ in range(3)]
            self._largest = np.empty(lattice.shape, np.float32)
            for plane in range(lattice.shape[0]):
                self._fill(lattice, plane)

    def _fill(self, lattice: Lattice, plane: int) -> None:
        """Where the voxels of a plane are, and the world area that they have across where they grow with depth."""
        index = np.stack(np.broadcast_arrays(plane, *np.indices(lattice.shape[1:])), -1)
        for axis, place in enumerate(self._places):
            place[plane] = lattice.world_from_index(index)[..., axis]
        ends = [np.clip([index - half, index + half], 0, np.array(lattice.shape) - 1) for half in np.eye(3) / 2]
        sides = np.sort([np.linalg.norm(np.diff(lattice.world_from_index(two), axis=0)[0], axis=-1) for two in ends], axis=0)
        self._largest[plane] = sides[0] * sides[1]  # the longest is along the depth

    def of(self, camera: Camera, voxels: np.ndarray) -> np.ndarray:
        """Pixels, a share of one where they are far, of voxels [N] numbered in raster order.

        One that is nearer than its edge covers what it would there.
        """
        at = np.unravel_index(voxels, self._largest.shape)
        squared = sum((place[at] - eye) ** 2 for place, eye in zip(self._places, camera.pose[:3, 3], strict=True))
        largest = self._largest[at]
        pixels: np.ndarray = largest * (camera.fx * camera.fy) / np.maximum(squared, largest)
        return pixels


def needed_voxels(field: RadianceField, scene: Scene, least: float) -> np.ndarray:
    """Voxels [X,Y,Z] bool that `MIN_VIEWS` training views need, or all of them where there are fewer; see `count_needing`."""
    enough = max(min(least_views(field.lattice.space), len(scene.train)), 1)
    return count_needing(field, scene, least, enough) >= enough


def needed_cells(fine: RadianceField, scene: Scene) -> np.ndarray:
    """Cells [X-1,Y-1,Z-1] uint8 of a half trained field with a corner that photos need."""
    return cells_of_voxels(needed_voxels(fine, scene, FINE_NEEDED_WEIGHT))


def needed_part(coarse: RadianceField, scene: Scene) -> RadianceField:
    """The coarse field with nothing where too few views need anything: fog and specks, which would widen the box of the fine
    stage. All of it where that box is tight already, or where nothing would be left."""
    needed = needed_voxels(coarse, scene, NEEDED_WEIGHT)
    part = replace(coarse, density=np.where(needed, coarse.density, np.float32(UNSEEN_DENSITY)))
    before, after = (np.prod(np.subtract(hi, lo)) for lo, hi in (scene_box(coarse), scene_box(part)))
    return part if needed.any() and after < TIGHT * before else coarse


def seen_part(unseen: RadianceField) -> RadianceField:
    """A coarse field that learns nothing: alive where the one at its start is not emptied, which is where a photo looks."""
    alive = replace(unseen.equation, interval=1.0).density_of(2 * COARSE_ALPHA)
    density = np.where(unseen.density > UNSEEN_DENSITY, np.float32(alive), np.float32(UNSEEN_DENSITY))
    return replace(unseen, density=density, allowed=None)


def coarse_alive(coarse: RadianceField) -> np.ndarray:
    """Coarse voxels [X,Y,Z] bool that are looked at and whose alpha over one voxel is above `COARSE_ALPHA`."""
    return (coarse.density > replace(coarse.equation, interval=1.0).density_of(COARSE_ALPHA)) & active_voxels(coarse)


def scene_box(coarse: RadianceField) -> tuple[np.ndarray, np.ndarray]:
    """The places of the fine stage's box: around the coarse voxels that are alive, a little wider; everything if none is."""
    alive = np.argwhere(coarse_alive(coarse))
    if len(alive) == 0:
        return np.array(coarse.lattice.lo), np.array(coarse.lattice.hi)
    lo, hi = (coarse.lattice.place_from_index(edge) for edge in (alive.min(0), alive.max(0)))
    half = np.maximum((hi - lo) / 2 * BOX_MARGIN, coarse.lattice.extent / np.array(coarse.lattice.shape))
    centre = (lo + hi) / 2
    if coarse.lattice.space is None:
        return centre - half, centre + half
    return np.maximum(centre - half, coarse.lattice.lo), np.minimum(centre + half, coarse.lattice.hi)  # no place is farther


def cells_near(coarse: RadianceField, lattice: Lattice) -> np.ndarray:
    """Cells [X-1,Y-1,Z-1] uint8 of `lattice` whose centre is within a voxel or so of an alive coarse voxel."""
    alive = torch.from_numpy(coarse_alive(coarse)).float()[None, None]
    wider = max_pool3d(alive, 3, stride=1, padding=1)[0, 0].numpy() > 0
    axes = []
    for axis in range(3):
        centres = np.zeros((lattice.shape[axis] - 1, 3))
        centres[:, axis] = np.arange(lattice.shape[axis] - 1) + 0.5
        index = coarse.lattice.index_from_place(lattice.place_from_index(centres))[:, axis]
        axes.append(np.clip(np.rint(index).astype(int), 0, coarse.lattice.shape[axis] - 1))
    return wider[np.ix_(*axes)].astype(np.uint8)


def cells_beside_cameras(scene: Scene, lattice: Lattice) -> np.ndarray:
    """Cells [X-1,Y-1,Z-1] bool whose middle is within `near` of a training camera: no ray of it looks there, and what is there
    would stand before the eyes of whoever comes by."""
    beside = np.zeros([side - 1 for side in lattice.shape], bool)
    eyes = [view.camera.pose[:3, 3] for view in scene.train]
    for plane in range(len(beside)):
        index = np.stack(np.broadcast_arrays(plane, *np.indices(beside.shape[1:])), -1) + 0.5
        middles = lattice.world_from_index(index)
        for eye in eyes:
            beside[plane] |= _squared_length(middles - eye) < scene.near**2
    return beside


def _squared_length(vectors: np.ndarray) -> np.ndarray:
    """Of vectors [...,3]. NumPy's sum over so short an axis takes five times as long, and gives the same bits."""
    x, y, z = (vectors[..., axis] for axis in range(3))
    squared: np.ndarray = x * x + y * y + z * z
    return squared


def cells_on(cells: np.ndarray, lattice: Lattice) -> np.ndarray:
    """The value, for each cell of another lattice over the same box, of the cell that its centre is in."""
    sides = [side - 1 for side in lattice.shape]
    index = [((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(sides, cells.shape, strict=True)]
    return np.ascontiguousarray(cells[np.ix_(*index)])
