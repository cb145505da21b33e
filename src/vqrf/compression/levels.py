"""What is learnt of a pyramid: coefficients on every level, seen through their rounding, and how values become them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqrf.codec.pyramid import MAX_MAGNITUDE, Nodes, children_of
from vqrf.kernels import Children
from vqrf.kernels.contract import Backend
from vqrf.training.parameters import Moments, Parameters


@dataclass
class Channels:
    """What is learnt of one kind of values, density or latents: a `Moments` [N_l,C] for each level, finest first.

    `first_bits` is what a first step away from 0 costs, for each level as its coefficients are, in units of `BITS_UNIT`.
    `shown` is where `show` leaves what each level comes to: memory that is new every step takes as long as the work on it.
    `steps` [C] are those of the stage, `whole_steps` those of `warm`.
    """

    parameters: Parameters
    whole_steps: Tensor
    steps: Tensor
    rate: float
    first_bits: list[Tensor]
    shown: list[Tensor]

    @property
    def levels(self) -> list[Moments]:
        """The parameters, finest first."""
        return list(self.parameters.values())

    @property
    def named_bits(self) -> dict[str, Tensor]:
        """`first_bits`, as a checkpoint calls them."""
        return {f"{name}.bits": bits for name, bits in zip(self.parameters, self.first_bits, strict=True)}

    def show(self, kernels: Backend, parents: list[Tensor], dead_zone: float) -> Tensor:
        """[N,C] at the voxels, every coefficient rounded; overwritten by the next call."""
        for number in reversed(range(len(self.levels))):
            kernels.round_to_steps(self.levels[number].values, self.steps, dead_zone, self.shown[number])
            if number + 1 < len(self.levels):
                kernels.raise_level(self.shown[number], self.shown[number + 1], parents[number])
        return self.shown[0]

    def lower(self, kernels: Backend, children: list[Children[Tensor]]) -> None:
        """Carry the gradient of the finest level up to all others."""
        for number in range(len(self.levels) - 1):
            kernels.lower_gradient(self.levels[number].gradient, self.levels[number + 1].gradient, children[number])

    def magnitudes(self, dead_zone: float) -> list[Tensor]:
        """Those of the levels' whole numbers, as float32, finest first."""
        shares = (moments.values.abs() / self.steps for moments in self.levels)
        return [(share + (0.5 - dead_zone)).floor().clamp(max=MAX_MAGNITUDE) for share in shares]

    def whole(self, dead_zone: float) -> list[NDArray[np.int16]]:
        """The levels as whole numbers, coarsest first."""
        pairs = zip(self.magnitudes(dead_zone), self.levels, strict=True)
        return [torch.copysign(m, moments.values).to(torch.int16).cpu().numpy() for m, moments in pairs][::-1]


def analyse(
    values: Tensor, parents: list[Tensor], children: list[Children[Tensor]], steps: Tensor, dead_zone: float, kernels: Backend
) -> list[Tensor]:
    """Coefficients of values [N,C], finest first: a coarse node is the mean of what hangs on it, as its own parents show it.

    What the rounding of one level loses, the next has in it, so that only the finest level's is lost in the end.
    """
    levels = [values]
    for below in children:
        sums, shares = (torch.zeros(len(below.first) - 1, values.shape[1], device=values.device) for _ in range(2))
        kernels.lower_gradient(levels[-1], sums, below)
        kernels.lower_gradient(torch.ones_like(levels[-1]), shares, below)
        levels.append(sums / shares)
    shown: Tensor | None = None
    for number, wanted in reversed(list(enumerate(levels))):
        expected = torch.zeros_like(wanted)
        if shown is not None:
            kernels.raise_level(expected, shown, parents[number])
        levels[number] = wanted - expected
        shown = torch.empty_like(wanted)
        kernels.round_to_steps(levels[number], steps, dead_zone, shown)
        shown += expected
    return levels


def link_children(below: Nodes, n_above: int, device: str) -> Children[Tensor]:
    links = children_of(below.parents, n_above)
    first, child, share = (torch.from_numpy(array).to(device) for array in (links.first, links.child, links.share))
    return Children(first, child, share)
