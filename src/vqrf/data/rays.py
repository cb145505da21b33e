"""Training rays: every pixel of every view, sampled by number, so that images stay bytes and nothing is precomputed.

A pixel's number counts through the views in order, row by row. A step's batch depends on the seed and the step alone, which
is what lets a killed run go on exactly where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vqrf.data.scene import View
from vqrf.geometry import Camera, Float32
from vqrf.kernels import Volume, select

PIXELS_PER_CHUNK = 1 << 19
"""Pixels whose rays exist at once when all of them are walked through: 12 MB of rays."""


class CameraTable:
    """Cameras as the tables that the ray kernel reads; their pixels are numbered through.

    Args:
      cameras: at least one.
    """

    def __init__(self, cameras: Sequence[Camera]) -> None:
        sizes = [camera.width * camera.height for camera in cameras]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._widths = np.array([camera.width for camera in cameras], np.int64)
        self._pinholes = np.array([(c.fx, c.fy, c.cx, c.cy) for c in cameras], np.float64)
        self._poses = np.stack([camera.pose[:3] for camera in cameras]).astype(np.float64)

    @property
    def n_pixels(self) -> int:
        return int(self._starts[-1])

    def rays(self, pixels: NDArray[np.integer]) -> tuple[Float32, Float32]:
        """Origins and unit directions, [N,3] float32 each, of pixels given by number [N]. Oracle: `Camera.rays`."""
        numbers = np.ascontiguousarray(pixels, np.int64)
        origins, directions = select().pixel_rays(numbers, self._starts, self._widths, self._pinholes, self._poses)
        return origins, directions

    def chunks(self, size: int) -> Iterator[tuple[slice, tuple[Float32, Float32]]]:
        """The rays of all pixels in order, `size` at a time, with the slice that they are of."""
        for start in range(0, self.n_pixels, size):
            part = slice(start, min(start + size, self.n_pixels))
            yield part, self.rays(np.arange(part.start, part.stop))


def _targets_of(view: View) -> NDArray[np.uint8]:
    """The view's pixels [P,3], with their opacity [P,4] where it is known."""
    parts = [view.image] if view.opacity is None else [view.image, view.opacity[..., None]]
    return np.concatenate(parts, -1).reshape(-1, 2 + len(parts))


class RayPool:
    """The pixels of some views, or those of them that are worth a ray.

    Args:
      views: non-empty, all with opacity or all without; held as they are (bytes).

    Raises:
      ValueError: no views, or only some have an opacity.
    """

    def __init__(self, views: Sequence[View]) -> None:
        if not views:
            raise ValueError("expected at least one view to take rays from")
        if len({view.opacity is None for view in views}) > 1:
            raise ValueError("expected views that all have an opacity, or none")
        self.cameras = CameraTable([view.camera for view in views])
        self._targets = np.concatenate([_targets_of(view) for view in views])
        self._kept: NDArray[np.uint32] | None = None

    @property
    def n_kept(self) -> int:
        return self.cameras.n_pixels if self._kept is None else len(self._kept)

    def sample(self, n: int, *, seed: tuple[int, ...]) -> tuple[Float32, Float32, Float32]:
        """Origins and unit directions [n,3], and colours [n,3] or colours and opacities [n,4], all float32, of random kept
        pixels (with replacement)."""
        pixels = np.random.default_rng(seed).integers(0, self.n_kept, n)
        if self._kept is not None:
            pixels = self._kept[pixels].astype(np.int64)
        origins, directions = self.cameras.rays(pixels)
        return origins, directions, self._targets[pixels].astype(np.float32) / np.float32(255)

    def chunks(self) -> Iterator[tuple[Float32, Float32]]:
        """The rays of all pixels, in order, kept or not."""
        for _, rays in self.cameras.chunks(PIXELS_PER_CHUNK):
            yield rays

    def keep_hits(self, volume: Volume) -> None:
        """From now on sample only pixels whose ray meets an occupied cell of `volume` (all pixels, if none does).

        A ray that meets nothing teaches nothing: its pixel is the background whatever the field.
        """
        kernels = select(str(getattr(volume.density, "device", "cpu")))
        hits = np.concatenate([kernels.hit_rays(volume, *rays) for rays in self.chunks()])
        self._restrict(hits.astype(bool))

    def kept_bits(self) -> NDArray[np.uint8]:
        """Which pixels are kept, packed, for a checkpoint; empty when all are."""
        if self._kept is None:
            return np.zeros(0, np.uint8)
        kept = np.zeros(self.cameras.n_pixels, bool)
        kept[self._kept] = True
        return np.packbits(kept)

    def restore(self, bits: NDArray[np.uint8]) -> None:
        """Keep what `kept_bits` said."""
        n_pixels = self.cameras.n_pixels
        self._restrict(np.unpackbits(bits, count=n_pixels).astype(bool) if len(bits) else np.ones(n_pixels, bool))

    def _restrict(self, kept: NDArray[np.bool_]) -> None:
        self._kept = np.flatnonzero(kept).astype(np.uint32) if kept.any() else None
