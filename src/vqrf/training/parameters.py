"""What a model learns: named arrays with their Adam moments, their means, and what a checkpoint keeps of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from vqrf.fields.storage import Made
from vqrf.kernels.contract import Backend

AVERAGED = 0.1
"""Share of a stage's steps that the mean of its last parameters reaches back; it weighs them exponentially. Each batch pushes
the parameters about, and the mean has less of that (Polyak and Juditsky 1992)."""

MEAN = "mean"
"""How the means are called among the parts of a checkpoint."""


def decay(step: int, steps: int, last: float, first: float = 1.0) -> float:
    """Share of the learning rates at a step of a stage: it falls exponentially from `first` to `last`."""
    return float(first * (last / first) ** (step / max(steps, 1)))


def share_of_newest(every: int, steps: int) -> float:
    """Share of their mean, 0..1, that the newest parameters get every `every` steps of a stage of `steps`."""
    return min(every / (AVERAGED * steps), 1.0)


@dataclass
class Moments:
    """An optimised array, its Adam moments, and where its gradient is summed."""

    values: Tensor
    gradient: Tensor
    first: Tensor
    second: Tensor

    KEPT_PARTS: ClassVar = ("values", "first", "second")
    """What a checkpoint needs; the gradient is zero between steps."""

    @classmethod
    def of(cls, values: Tensor) -> Moments:
        return cls(values.contiguous(), *(torch.zeros_like(values) for _ in range(3)))

    def give_up(self) -> Tensor:
        """The values. Gradient and moments are let go, as values elsewhere are about to begin with theirs at 0."""
        self.gradient = self.first = self.second = self.values.new_empty(0)
        return self.values

    def update(self, kernels: Backend, touched: Tensor | None, rate: float | Tensor, step: int) -> None:
        """One Adam step on what has a gradient; `step` counts from 1. Clears the gradient."""
        n = len(self.values) if touched is None else touched.numel()
        x, g, m, v = (array.view(n, -1) for array in (self.values, self.gradient, self.first, self.second))
        touched = None if touched is None else touched.view(-1)
        kernels.masked_adam(x, g, m, v, touched, rate=rate, step=step)


class Parameters(Mapping[str, Moments]):
    """All that a model learns, by name.

    Args:
      moments: what is learnt.
      active: the flat numbers of those voxels that are ever looked at: of arrays [X,Y,Z,C] no others are averaged and kept.
        None where arrays are averaged and kept whole.

    Attributes:
      means: exponential means of the values, as `average` was told; empty where it was not.
    """

    def __init__(self, moments: Mapping[str, Moments], active: Tensor | None = None) -> None:
        self._moments = dict(moments)
        self._active = dict.fromkeys(moments, active)
        self.means: dict[str, Tensor] = {}

    @classmethod
    def of_layers(cls, arrays: Iterable[Tensor]) -> Parameters:
        """Those of an MLP, from its weights and biases in turn."""
        return cls({f"mlp{i}": Moments.of(array) for i, array in enumerate(arrays)})

    def __or__(self, other: Parameters) -> Parameters:
        """Both together, without means yet."""
        both = Parameters(self._moments | other._moments)
        both._active = self._active | other._active
        return both

    def __getitem__(self, name: str) -> Moments:
        return self._moments[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._moments)

    def __len__(self) -> int:
        return len(self._moments)

    def update(self, kernels: Backend, rate: float, step: int) -> None:
        """One Adam step on all of every array; `step` counts from 1. Clears the gradients."""
        for moments in self.values():
            moments.update(kernels, None, rate, step)

    def rest(self) -> None:
        """Forget the Adam moments, and start the means at the values: a new stage begins."""
        for moments in self.values():
            moments.first.zero_()
            moments.second.zero_()
        self.means = {}
        self.average(1.0)

    def average(self, share: float) -> None:
        """Give the newest values their share of the means, 0..1. The first ones are the mean."""
        for name in self:
            values = self._rows(name, "values")
            if name in self.means:
                self.means[name].lerp_(values, share)
            else:
                self.means[name] = values.clone()

    def settle(self) -> None:
        """Take the means for the values, where there are some. Doing so twice changes nothing."""
        for name, mean in self.means.items():
            self._put(name, "values", mean)

    def let_go(self) -> None:
        """Keep nothing but the values: nothing is learnt any more."""
        self.means = {}
        for moments in self.values():
            moments.give_up()

    def state(self) -> Made[Tensor]:
        """What `restore` needs: parts as `name.part`, as they are when one is asked for. Some are no copies."""
        parts = {f"{name}.{part}": partial(self._rows, name, part) for name in self for part in Moments.KEPT_PARTS}
        return Made(parts) | {f"{name}.{MEAN}": mean for name, mean in self.means.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave of these names; others are passed over."""
        for name in self:
            for part in Moments.KEPT_PARTS:
                self._put(name, part, state[f"{name}.{part}"])
        self.means = {name: state[f"{name}.{MEAN}"].clone() for name in self if f"{name}.{MEAN}" in state}

    def _rows(self, name: str, part: str) -> Tensor:
        array, active = getattr(self[name], part), self._active[name]
        rows: Tensor = array if active is None else array.view(-1, array.shape[-1])[active]
        return rows

    def _put(self, name: str, part: str, rows: Tensor) -> None:
        array, active = getattr(self[name], part), self._active[name]
        if active is None:
            array.copy_(rows)
        else:
            array.view(-1, array.shape[-1])[active] = rows
