"""Real values to levels of 8 bits, and back: what tuning sees is what a decoder will see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqrf.codec.compressed import Quantized

LEVELS = 256

WEIGHT_NOISE = 0.006
"""Error of a unit's sum in the colour MLP, by the rounding of its weights, as a share of the sum. 0.014 is as good at the
default price, and with few steps 0.04 dB worse (docs/log/pyramid.md#how-finely-must-the-networks-weights-be-rounded)."""


WEIGHT_LEVELS = 127
"""Half the levels of a quantised weight."""


WEIGHT_ROOM = 1.4
"""Weights may grow by so much in a stage before they are clipped."""


FEWEST_LEVELS = 8
"""At least so many are there up to the greatest weight of a column, however little comes in."""


@dataclass(frozen=True)
class Quantizer:
    """Real values to levels 0..255: value = offset + scale * level.

    Attributes:
      scale, offset: numbers, or both float32 [1] or one for each column.
    """

    scale: float | Tensor
    offset: float | Tensor

    @classmethod
    def around(cls, values: Tensor | NDArray[np.float32], steps: float) -> Quantizer:
        """`steps` levels per standard deviation, the 256 levels centred on the mean. Values are clipped to their range."""
        if len(values) == 0:
            return cls(1.0, 0.0)
        scale = float(np.float32(max(float(values.std()), 1e-6) / steps))
        return cls(scale, float(np.float32(float(values.mean()) - scale * (LEVELS // 2))))

    def levels(self, values: Tensor) -> Tensor:
        """Float levels, whole numbers 0..255."""
        return torch.clamp(torch.round((values - self.offset) / self.scale), 0, LEVELS - 1)

    def __call__(self, values: Tensor) -> Tensor:
        """The values that a decoder will see."""
        return self.offset + self.scale * self.levels(values)

    def pack(self, values: Tensor) -> Quantized:
        levels = self.levels(values).to(torch.uint8).cpu().numpy()
        parts = (torch.as_tensor(part, dtype=torch.float32) for part in (self.scale, self.offset))
        return Quantized(levels, *(part.cpu().reshape(-1).numpy() for part in parts))


def quantizer_of_weight(weight: Tensor, inputs: Tensor, sums: Tensor) -> Quantizer:
    """255 levels about zero for each column of a weight [out,in], the finer the more its input [M,in] varies.

    All columns' errors together are `WEIGHT_NOISE` of the sums [M,out], and every column's as much as another's: with bits that
    cost the same everywhere no other split is better. Columns with a weight too great for 127 such steps have wider ones.
    """
    share = WEIGHT_NOISE * _rms(sums.flatten()) * math.sqrt(12 / weight.shape[1])
    greatest = weight.abs().amax(0).clamp(min=1e-6)
    least = greatest * (WEIGHT_ROOM / WEIGHT_LEVELS)
    scale = torch.minimum(torch.maximum(share / _rms(inputs), least), greatest / FEWEST_LEVELS)
    return Quantizer(scale, -scale * (WEIGHT_LEVELS + 1))


def quantizer_of_bias(bias: Tensor) -> Quantizer:
    """255 levels about zero."""
    scale = bias.abs().max().clamp(min=1e-6).reshape(1) * (WEIGHT_ROOM / WEIGHT_LEVELS)
    return Quantizer(scale, -scale * (WEIGHT_LEVELS + 1))


def quantizers_of_layers(arrays: Sequence[Tensor], hidden: Tensor) -> list[Quantizer]:
    """Of weights and biases in turn, by what comes in: the first layer takes `hidden` [M,in]. With one thread of PyTorch."""
    quantizers: list[Quantizer] = []
    for weight, bias in zip(arrays[::2], arrays[1::2], strict=True):
        sums = torch.nn.functional.linear(hidden, weight, bias)
        quantizers += [quantizer_of_weight(weight, hidden, sums), quantizer_of_bias(bias)]
        hidden = sums.relu()
    return quantizers


def _rms(values: Tensor) -> Tensor:
    """Over the first axis."""
    return values.square().mean(0).sqrt()
