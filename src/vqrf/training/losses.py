"""Losses as functions of pixels: what was rendered and what it is compared with go in, a value and its slopes come out.

`vqrf.kernels` has one loss of its own, `LossWeights`, which it differentiates as it renders. Any other is a function here, or
of a user: the loop renders, asks it, and lets `backpropagate` do the rest, which takes a second march through the volume.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pixels:
    """What N rays see, and what that is compared with, on one device.

    Attributes:
      rgb, background_weight, depth: [N,3], [N], [N], as `render_rays` answers.
      targets, weights, patch: as of `vqrf.data.rays.Batch`.
    """

    rgb: Tensor
    background_weight: Tensor
    depth: Tensor
    targets: Tensor
    weights: Tensor | None = None
    patch: int | None = None


@dataclass(frozen=True, eq=False)
class Slopes:
    """A loss, and its derivatives by pixels; None: it does not depend on that."""

    value: float
    d_rgb: Tensor
    d_background_weight: Tensor | None = None
    d_depth: Tensor | None = None


Loss = Callable[[Pixels], Slopes]


def by_autograd(value_of: Callable[[Pixels], Tensor]) -> Loss:
    """A loss whose slopes PyTorch finds.

    Args:
      value_of: gives the loss as a scalar, by operations of PyTorch on the three rendered arrays.
    """

    def loss(pixels: Pixels) -> Slopes:
        leaves = [a.detach().requires_grad_() for a in (pixels.rgb, pixels.background_weight, pixels.depth)]
        with torch.enable_grad():
            value = value_of(replace(pixels, rgb=leaves[0], background_weight=leaves[1], depth=leaves[2]))
            d_rgb, d_background, d_depth = torch.autograd.grad(value, leaves, allow_unused=True)
        return Slopes(float(value.detach()), torch.zeros_like(leaves[0]) if d_rgb is None else d_rgb, d_background, d_depth)

    return loss


def squared_error(pixels: Pixels) -> Slopes:
    """The weighted mean squared error of colours: `LossWeights(0, 0)` as a function."""
    error = pixels.rgb - pixels.targets[:, :3]
    of_ray = error if pixels.weights is None else error * pixels.weights[:, None]
    return Slopes(float((error * of_ray).sum() / error.numel()), 2 / error.numel() * of_ray)
