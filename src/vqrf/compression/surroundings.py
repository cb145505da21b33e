"""What surrounds the coefficients of a pyramid, and what it says of them: the bits that leaving 0 costs.

    ln(p / (1 - p)) = b_c + sum_k w_k ln(1 + s_k),      p: how likely a coefficient of channel c is not 0
    s_k    sums of magnitudes around it: over the six faces, the twelve edges, the parents, the children, the other channels of
           its node, and the other channels of faces and edges
    bits   log2((1 - p) / p) + FIRST_BITS

The coder's contexts (FORMAT.md section 6) see only what comes before a coefficient. But one that leaves 0 also changes the
contexts of what comes after it, and in a random field both together are the odds given everything around (Besag 1974, sec. 3).
A first step costs more than 8 bits on average and about 2 where there are others, so a price that is the same everywhere is
wrong nearly everywhere. The weights are fitted anew to each level, by Newton's method on a sample of its nodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqrf.codec.compressed import Int32
from vqrf.codec.pyramid import Nodes
from vqrf.kernels import BITS_UNIT, Children
from vqrf.kernels.contract import Backend

FIRST_BITS = 1.4
"""Of the sign, and of saying that the magnitude ends at 1."""
FEWEST, MOST = 0.5, 12.0
"""Bits are held within."""

SEEN_MAX = 15
"""Magnitudes are cut off here, as in the coder's contexts, and in the node itself at `SEEN_BESIDE`."""
SEEN_BESIDE = 2

SAMPLE = 10000
"""Nodes of a level that its weights are fitted to."""
PASSES = 8
RIDGE = 1.0
"""Of the weights' squares, against the log likelihood of the whole sample."""


class Surroundings:
    """Who is near whom in a pyramid.

    Args:
      nodes: the levels, finest first.
      parents: [N_l,8] int32 of each level but the coarsest.
      children: of each level but the finest.
    """

    def __init__(
        self,
        nodes: Sequence[Nodes],
        parents: Sequence[Tensor],
        children: Sequence[Children[Tensor]],
        kernels: Backend,
        device: str,
    ) -> None:
        self.parents, self.children, self.kernels = parents, children, kernels
        self.near = [[torch.from_numpy(rows).to(device) for rows in neighbours_of(level.selected)] for level in nodes]

    def first_bits(self, magnitudes: Sequence[Tensor]) -> list[Tensor]:
        """Bits of each coefficient's first step away from 0, as uint8 [N_l,C] in units of `BITS_UNIT`.

        Args:
          magnitudes: float32 [N_l,C], whole numbers, of all channels, finest first.

        Deterministic, with one thread of PyTorch.
        """
        seen = [level.clamp(max=SEEN_MAX) for level in magnitudes]
        result = []
        for number, level in enumerate(seen):
            inputs = self._inputs(seen, number)
            weights, biases = fit_odds(inputs, level > 0)
            odds = biases + sum(weight * values for weight, values in zip(weights, inputs, strict=True))
            bits = (FIRST_BITS - odds / math.log(2)).clamp(FEWEST, MOST)
            result.append((bits / BITS_UNIT).round().to(torch.uint8))
        return result

    def _inputs(self, seen: Sequence[Tensor], number: int) -> list[Tensor]:
        """ln(1 + s_k) for each k, [N,C]."""
        level = seen[number]
        faces, edges = (_sum_rows(level, rows) for rows in self.near[number])
        around, beside = faces + edges, level.clamp(max=SEEN_BESIDE)
        sums = [faces, edges, _of_others(around), _of_others(beside)]
        if number + 1 < len(seen):
            sums.append(_sum_rows(seen[number + 1], self.parents[number]))
        if number > 0:
            below = torch.zeros_like(level)
            self.kernels.lower_gradient(seen[number - 1], below, self.children[number - 1])
            sums.append(below)
        return [torch.log1p(values) for values in sums]


def neighbours_of(selected: NDArray[np.bool_]) -> tuple[Int32, Int32]:
    """[N,6] and [N,12]: the numbers of the nodes across each node's faces and edges; N where there is none."""
    places = np.argwhere(selected) + 1
    numbers = np.full(tuple(side + 2 for side in selected.shape), len(places), np.int32)
    numbers[tuple(places.T)] = np.arange(len(places))
    ways = [np.array(way) for way in product((-1, 0, 1), repeat=3)]
    by_distance = ([way for way in ways if np.abs(way).sum() == distance] for distance in (1, 2))
    faces, edges = (np.stack([numbers[tuple((places + way).T)] for way in group], -1) for group in by_distance)
    return faces, edges


def _sum_rows(values: Tensor, rows: Tensor) -> Tensor:
    """[N,C]: for each row of numbers [N,K], the sum of these rows of values; beyond their end, 0."""
    padded = torch.cat([values, values.new_zeros(1, values.shape[1])])
    total = padded.new_zeros(len(rows), values.shape[1])
    for column in rows.T:
        total += padded.index_select(0, column)
    return total


def _of_others(values: Tensor) -> Tensor:
    """What the other channels of each row add up to."""
    return values.sum(1, keepdim=True) - values


def fit_odds(inputs: Sequence[Tensor], outcomes: Tensor) -> tuple[list[float], Tensor]:
    """Weights of the inputs [N,C] and biases [C] float32 of the channels under which the outcomes [N,C] are likeliest.

    The curvature of the likelihood has a corner of the weights, a row for each of these, and is diagonal in the biases, as each
    coefficient has but its own channel's: the biases are eliminated (Schur complement).
    """
    stride = max(len(outcomes) // SAMPLE, 1)
    design = torch.stack([values[::stride] for values in inputs], 0).double()
    wanted = outcomes[::stride].double()
    ridge = RIDGE * torch.eye(len(inputs), dtype=torch.float64, device=design.device)
    weights, biases = design.new_zeros(len(inputs)), design.new_zeros(outcomes.shape[1])
    for _ in range(PASSES):
        likely = torch.sigmoid(torch.einsum("k,knc->nc", weights, design) + biases)
        missing, sharpness = wanted - likely, likely * (1 - likely)
        weighted = design * sharpness
        corner = weighted.flatten(1) @ design.flatten(1).T + ridge
        border, diagonal = weighted.sum(1), sharpness.sum(0) + RIDGE
        of_weights = (design * missing).sum((1, 2)) - RIDGE * weights
        of_biases = missing.sum(0) - RIDGE * biases
        schur = corner - (border / diagonal) @ border.T
        change = torch.linalg.solve(schur, of_weights - border @ (of_biases / diagonal))
        weights = weights + change
        biases = biases + (of_biases - border.T @ change) / diagonal
    return weights.tolist(), biases.float()
