"""Photos on a card as a source of rays: they lie there as bytes, and a step's rays are made there.

Which pixels a step takes is drawn as on the CPU, by the same numbers, so that a step has the same rays on every device. These
numbers are all that crosses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqrf.data.rays import PIXELS_PER_CHUNK, Batch, RayPool, RaySource
from vqrf.kernels import Volume, has_warp, select
from vqrf.kernels.contract import B

MAX_PIXELS = 2**31 - 1
"""Pixels that are kept are numbered in 32 bits."""


class CardPool:
    """What a `RayPool` is, with its pixels on a device: a `RaySource` of tensors.

    Args:
      pool: of cameras without lenses, and no patches. It keeps what it knew: which pixels are kept.

    A step does not wait for the device. `keep_hits`, a few times in a training, does.
    """

    def __init__(self, pool: RayPool, device: str) -> None:
        self.pool, self.device, self.kernels = pool, device, select(device)
        self._tables = tuple(torch.from_numpy(table).to(device) for table in pool.cameras.tables)
        pixels, has_opacity = pool.pixels()
        self._pixels, self._lacks_opacity = torch.from_numpy(pixels).to(device), torch.from_numpy(~has_opacity).to(device)
        self._n_targets = 4 if has_opacity.any() else 3
        self._is_partly_opaque = bool(has_opacity.any() and not has_opacity.all())
        self._upload_kept()

    def _upload_kept(self) -> None:
        kept = self.pool.kept
        self._kept = None if kept is None else torch.from_numpy(kept.astype(np.int32)).to(self.device)

    def sample(self, n: int, *, seed: tuple[int, ...]) -> Batch[Tensor]:
        places = torch.from_numpy(self.pool.draw_places(n, seed=seed))
        if self.device != "cpu":
            places = places.pin_memory().to(self.device, non_blocking=True)
        pixels = places if self._kept is None else self._kept[places].long()
        values = self._pixels[pixels].float() / 255
        targets = values[:, : self._n_targets].contiguous()
        if self._is_partly_opaque:
            view = torch.searchsorted(self._tables[0], pixels, right=True) - 1
            targets[:, 3].masked_fill_(self._lacks_opacity[view], torch.nan)
        weights = values[:, self._n_targets].contiguous() if values.shape[1] > self._n_targets else None
        return Batch(*self._rays(pixels), targets, weights)

    def _rays(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        starts, widths, pinholes, poses = self._tables
        return self.kernels.pixel_rays(pixels, starts, widths, pinholes, poses)

    def _hits(self, volume: Volume[B]) -> Iterator[Tensor]:
        n_pixels = self.pool.cameras.n_pixels
        for start in range(0, n_pixels, PIXELS_PER_CHUNK):
            pixels = torch.arange(start, min(start + PIXELS_PER_CHUNK, n_pixels), device=self.device)
            yield self.kernels.hit_rays(volume, *self._rays(pixels))

    def keep_hits(self, volume: Volume[B]) -> None:
        self.pool.restrict(torch.cat(list(self._hits(volume))).cpu().numpy().astype(bool))
        self._upload_kept()

    def follow(self, volume: Volume[B], *, seed: tuple[int, ...]) -> None:
        self.pool.follow(volume, seed=seed)

    def state(self) -> dict[str, NDArray[Any]]:
        return self.pool.state()

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        self.pool.restore(state)
        self._upload_kept()


def source_on(source: RaySource, device: str) -> RaySource:
    """The source with its pixels on the device, where kernels for a card learn from photos; any other stays where it is.

    Photos of lenses, patches, photos whose exposure is learnt, and a field that teaches another make rays on the CPU.
    """
    if not has_warp(device) or type(source) is not RayPool or source.patch is not None:
        return source
    is_plain = not source.cameras.has_lenses and source.cameras.n_pixels <= MAX_PIXELS
    return CardPool(source, device) if is_plain else source
