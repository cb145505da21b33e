"""Training rays: what a source of them is, and the pixels of views as one.

Pixels are sampled by number, so that images stay bytes, where the views have them, and nothing is precomputed.

A pixel's number counts through the views in order, row by row. A step's batch depends on the seed and the step alone, which
is what lets a killed run go on exactly where it was.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol

import numpy as np
from numpy.typing import NDArray

from vqrf.cameras import Camera, seen_directions
from vqrf.data.scene import View
from vqrf.geometry import Float32, Float64
from vqrf.kernels import A, Volume, select
from vqrf.kernels.contract import B
from vqrf.lens import directions_of

PIXELS_PER_CHUNK = 1 << 19
"""Pixels whose rays exist at once when all of them are walked through: 12 MB of rays."""


class CameraTable:
    """Cameras as the tables that the ray kernel reads; their pixels are numbered through.

    Args:
      cameras: at least one.

    Attributes:
      starts: the number of each one's first pixel, and of all pixels at the end, [V+1] int64.
      least_side: pixels, of the smallest image.
    """

    def __init__(self, cameras: Sequence[Camera]) -> None:
        sizes = [camera.width * camera.height for camera in cameras]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.least_side = min(min(camera.width, camera.height) for camera in cameras)
        self._widths = np.array([camera.width for camera in cameras], np.int64)
        self._pinholes = np.array([(c.fx, c.fy, c.cx, c.cy) for c in cameras], np.float64)
        self._poses = np.stack([camera.pose[:3] for camera in cameras]).astype(np.float64)
        self._lenses = list(dict.fromkeys(camera.lens for camera in cameras if camera.lens is not None))
        self._lens_of = np.array([-1 if c.lens is None else self._lenses.index(c.lens) for c in cameras], np.int64)

    @property
    def n_pixels(self) -> int:
        return int(self.starts[-1])

    @property
    def has_lenses(self) -> bool:
        return bool(self._lenses)

    @property
    def tables(self) -> tuple[NDArray[np.int64], NDArray[np.int64], Float64, Float64]:
        """What the ray kernel reads beside pixels: starts, widths, pinholes and poses."""
        return self.starts, self._widths, self._pinholes, self._poses

    def rays(self, pixels: NDArray[np.integer]) -> tuple[Float32, Float32]:
        """Origins and unit directions, [N,3] float32 each, of pixels given by number [N]. Oracle: `Camera.rays`."""
        numbers = np.ascontiguousarray(pixels, np.int64)
        origins, directions = select().pixel_rays(numbers, *self.tables)
        if self._lenses:
            self._bend(numbers, directions)
        return origins, directions

    def views_of(self, pixels: NDArray[np.integer]) -> NDArray[np.int64]:
        """The number of the camera [N] of each pixel [N]."""
        return np.searchsorted(self.starts, pixels, side="right") - 1

    def _bend(self, numbers: NDArray[np.int64], directions: Float32) -> None:
        """Change the directions [N,3] of pixels that a lens bends; exactly, for a few hundredths of a step."""
        view = self.views_of(numbers)
        bent = np.flatnonzero(self._lens_of[view] >= 0)
        view = view[bent]
        row, column = np.divmod(numbers[bent] - self.starts[view], self._widths[view])
        fx, fy, cx, cy = self._pinholes[view].T
        x, y = (column + 0.5 - cx) / fx, (row + 0.5 - cy) / fy
        local = seen_directions(directions_of(self._lenses, self._lens_of[view], x, y), x, y)
        world = np.einsum("nij,nj->ni", self._poses[view, :, :3], local)
        directions[bent] = world / np.linalg.norm(world, axis=-1, keepdims=True)

    def patches(self, pixels: NDArray[np.int64], side: int) -> NDArray[np.int64]:
        """The numbers of the pixels of square patches around the given ones, patch by patch and row by row [N * side * side].

        A patch that would lead out of its camera's image is moved inside; no image is smaller than one.
        """
        view = self.views_of(pixels)
        start, width = self.starts[view], self._widths[view]
        height = (self.starts[view + 1] - start) // width
        row, column = np.divmod(pixels - start, width)
        top, left = (np.clip(at - side // 2, 0, most - side) for at, most in ((row, height), (column, width)))
        within = np.arange(side)[:, None] * width[:, None, None] + np.arange(side)
        numbers: NDArray[np.int64] = ((start + top * width + left)[:, None, None] + within).ravel()
        return numbers

    def chunks(self, size: int) -> Iterator[tuple[slice, tuple[Float32, Float32]]]:
        """The rays of all pixels in order, `size` at a time, with the slice that they are of."""
        for start in range(0, self.n_pixels, size):
            part = slice(start, min(start + size, self.n_pixels))
            yield part, self.rays(np.arange(part.start, part.stop))


@dataclass(frozen=True, eq=False)
class Batch(Generic[A]):
    """Rays, and what their pixels are compared with; arrays of NumPy, or tensors of a device.

    Attributes:
      origins, directions: [N,3] float32; directions have unit length.
      targets: [N,3] float32 rgb, 0..1, or [N,4] with the opacity, 0..1, or NaN where it is unknown.
      weights: [N] float32 in 0..1, how much each ray counts; None where all count alike.
      patch: where the rays are square patches, one after the other and row by row, the side of one; None where they are
        no neighbours.
    """

    origins: A
    directions: A
    targets: A
    weights: A | None = None
    patch: int | None = None

    @property
    def arrays(self) -> tuple[A, A, A]:
        """Origins, directions and targets."""
        return self.origins, self.directions, self.targets


class RaySource(Protocol):
    """Where the loop takes its rays from: photos (`RayPool`), or another field."""

    def sample(self, n: int, *, seed: tuple[int, ...]) -> Batch[Any]:
        """A batch of `n` rays that depends on nothing but `seed` and what is kept."""

    def keep_hits(self, volume: Volume[B]) -> None:
        """From now on leave out rays that meet no occupied cell of `volume`: they teach nothing."""

    def follow(self, volume: Volume[B], *, seed: tuple[int, ...]) -> None:
        """Learn from what the field looks like now how batches have to be, if there is something to learn; often called."""

    def state(self) -> dict[str, NDArray[Any]]:
        """What `restore` needs to keep the same rays; names are a source's own."""

    def restore(self, state: dict[str, NDArray[Any]]) -> None: ...


class PixelSource(ABC):
    """A `RaySource` of the pixels of some cameras, or of those of them that are worth a ray.

    Args:
      cameras: at least one, of any sizes.
      patch: side of the square patches to sample; None for single pixels.

    Raises:
      ValueError: no camera, or an image is smaller than a patch.
    """

    def __init__(self, cameras: Sequence[Camera], *, patch: int | None = None) -> None:
        if not cameras:
            raise ValueError("expected at least one view to take rays from")
        self.cameras, self.patch = CameraTable(cameras), patch
        if patch is not None and self.cameras.least_side < patch:
            raise ValueError(f"expected views of at least {patch}x{patch} pixels, as patches are")
        self._kept: NDArray[np.uint32] | None = None

    @abstractmethod
    def look_up(self, pixels: NDArray[np.int64], origins: Float32, directions: Float32) -> tuple[Float32, Float32 | None]:
        """Targets and weights, as a `Batch` has them, of pixels given by number [N] and by their rays."""

    def counts(self) -> NDArray[np.bool_] | None:
        """Which pixels, by number, have a weight above 0; None where all have."""
        return None

    def follow(self, volume: Volume[B], *, seed: tuple[int, ...]) -> None:  # noqa: B027 (most sources are as they are)
        """Nothing: pixels are as they are."""

    @property
    def n_kept(self) -> int:
        return self.cameras.n_pixels if self._kept is None else len(self._kept)

    def sample(self, n: int, *, seed: tuple[int, ...]) -> Batch:
        """Random kept pixels (with replacement), or patches around some of them, moved to where their view has them whole.

        Raises:
          ValueError: `n` is no multiple of a patch's pixels.
        """
        if self.patch is None:
            return self._batch(self.draw(n, seed=seed))
        if n % self.patch**2:
            raise ValueError(f"expected a multiple of {self.patch**2} rays, got {n}")
        return self.sample_patches(n // self.patch**2, self.patch, seed=seed)

    def sample_patches(self, n: int, side: int, *, seed: tuple[int, ...]) -> Batch:
        """Square patches around `n` random kept pixels, whatever `patch` is; no view may be smaller than one."""
        return self._batch(self.cameras.patches(self.draw(n, seed=seed), side), side)

    def _batch(self, pixels: NDArray[np.int64], patch: int | None = None) -> Batch:
        origins, directions = self.cameras.rays(pixels)
        return Batch(origins, directions, *self.look_up(pixels, origins, directions), patch)

    @property
    def kept(self) -> NDArray[np.uint32] | None:
        """The numbers of the pixels to sample, ascending; None: of all."""
        return self._kept

    def draw_places(self, n: int, *, seed: tuple[int, ...]) -> NDArray[np.int64]:
        """Random places in `kept`, with replacement."""
        return np.random.default_rng(seed).integers(0, self.n_kept, n)

    def draw(self, n: int, *, seed: tuple[int, ...]) -> NDArray[np.int64]:
        """The numbers of `n` random kept pixels, with replacement."""
        pixels = self.draw_places(n, seed=seed)
        return pixels if self._kept is None else self._kept[pixels].astype(np.int64)

    def chunks(self) -> Iterator[tuple[Float32, Float32]]:
        """The rays of all pixels that count, in order, kept or not."""
        counts = self.counts()
        for part, (origins, directions) in self.cameras.chunks(PIXELS_PER_CHUNK):
            yield (origins, directions) if counts is None else (origins[counts[part]], directions[counts[part]])

    def keep_hits(self, volume: Volume[B]) -> None:
        """From now on sample only pixels whose ray meets an occupied cell of `volume` (all pixels, if none does).

        A ray that meets nothing teaches nothing: its pixel is the background whatever the field.
        """
        kernels = select(str(getattr(volume.density, "device", "cpu")))
        hits = np.concatenate([kernels.hit_rays(volume, *rays) for _, rays in self.cameras.chunks(PIXELS_PER_CHUNK)])
        self.restrict(hits.astype(bool))

    def state(self) -> dict[str, NDArray[Any]]:
        """Which pixels are kept, packed; empty when all are."""
        if self._kept is None:
            return {"kept_pixels": np.zeros(0, np.uint8)}
        kept = np.zeros(self.cameras.n_pixels, bool)
        kept[self._kept] = True
        return {"kept_pixels": np.packbits(kept)}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        bits, n_pixels = state["kept_pixels"], self.cameras.n_pixels
        self.restrict(np.unpackbits(bits, count=n_pixels).astype(bool) if len(bits) else np.ones(n_pixels, bool))

    def restrict(self, kept: NDArray[np.bool_]) -> None:
        """From now on sample only these of the pixels that count; where none of them does, all that count.

        Raises:
          ValueError: no pixel counts.
        """
        counts = self.counts()
        if counts is not None:
            if not counts.any():
                raise ValueError("expected a pixel that counts, got weights of 0 alone")
            kept = kept & counts if (kept & counts).any() else counts
        self._kept = _numbers_of(kept) if kept.any() else None


def _numbers_of(kept: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Where a mask [P] is set, as numbers of half the size that NumPy would give all of them at first."""
    numbers, end = np.empty(np.count_nonzero(kept), np.uint32), 0
    for first in range(0, len(kept), PIXELS_PER_CHUNK):
        found = np.flatnonzero(kept[first : first + PIXELS_PER_CHUNK])
        numbers[end : end + len(found)] = found + first
        end += len(found)
    return numbers


class RayPool(PixelSource):
    """Photos as a `RaySource`. Their pixels stay where the views have them.

    Args:
      views: non-empty, of any sizes. Where some have an opacity and some have none, that of the others' pixels is NaN. Pixels
        of weight 0 are never sampled.

    Raises:
      ValueError: as of `PixelSource`, or no pixel counts.
    """

    def __init__(self, views: Sequence[View], *, patch: int | None = None) -> None:
        super().__init__([view.camera for view in views], patch=patch)
        self._pixels = [_Pixels.of(view) for view in views]
        self._has_opacity = any(view.opacity is not None for view in views)
        self._has_weights = any(view.weight is not None for view in views)
        if self._has_weights:
            self.restrict(np.ones(self.cameras.n_pixels, bool))

    def look_up(self, pixels: NDArray[np.int64], origins: Float32, directions: Float32) -> tuple[Float32, Float32 | None]:
        order = np.argsort(pixels)
        ends = np.searchsorted(pixels[order], self.cameras.starts)
        found = np.full((len(pixels), 5), 255, np.uint8)
        for view, start, begin, end in zip(self._pixels, self.cameras.starts[:-1], ends[:-1], ends[1:], strict=True):
            if begin < end:
                view.put(found, order[begin:end], pixels[order[begin:end]] - start)
        values = found.astype(np.float32) / np.float32(255)
        for view, begin, end in zip(self._pixels, ends[:-1], ends[1:], strict=True):
            if view.opacity is None:
                values[order[begin:end], 3] = np.nan
        targets = np.ascontiguousarray(values[:, : 4 if self._has_opacity else 3])
        return targets, values[:, 4].copy() if self._has_weights else None

    def pixels(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """All pixels by number [P,3 to 5]: colours, the opacity and the weight if any view has it, 255 for a view without.

        Beside these, which views have an opacity, [V]. A copy.
        """
        n_columns = 3 + self._has_opacity + self._has_weights
        found = np.full((self.cameras.n_pixels, n_columns), 255, np.uint8)
        for view, start, stop in zip(self._pixels, self.cameras.starts[:-1], self.cameras.starts[1:], strict=True):
            found[start:stop, :3] = view.image
            if view.opacity is not None:
                found[start:stop, 3] = view.opacity
            if view.weight is not None:
                found[start:stop, -1] = view.weight
        return found, np.array([view.opacity is not None for view in self._pixels])

    def counts(self) -> NDArray[np.bool_] | None:
        return np.concatenate([view.counts() for view in self._pixels]) if self._has_weights else None


@dataclass(frozen=True, eq=False)
class _Pixels:
    """A view's pixels, row by row: [P,3] colours, and [P] opacity and weight where it has them. No copies of what it has."""

    image: NDArray[np.uint8]
    opacity: NDArray[np.uint8] | None
    weight: NDArray[np.uint8] | None

    @classmethod
    def of(cls, view: View) -> _Pixels:
        flat = (None if array is None else array.reshape(-1) for array in (view.opacity, view.weight))
        return cls(view.image.reshape(-1, 3), *flat)

    def put(self, found: NDArray[np.uint8], places: NDArray[np.int64], pixels: NDArray[np.int64]) -> None:
        """Colour, opacity and weight of some pixels into these places of `found` [N,5]."""
        found[places, :3] = self.image.take(pixels, 0)
        for column, values in ((3, self.opacity), (4, self.weight)):
            if values is not None:
                found[places, column] = values.take(pixels)

    def counts(self) -> NDArray[np.bool_]:
        return np.ones(len(self.image), bool) if self.weight is None else self.weight > 0
