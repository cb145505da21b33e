"""What leaving 0 costs, by what is around: held against loops, and against chances that are known."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import torch

from vqrf.codec.pyramid import Nodes, build_nodes, children_of
from vqrf.compression.surroundings import FEWEST, FIRST_BITS, MOST, RIDGE, Surroundings, fit_odds, neighbours_of
from vqrf.kernels import BITS_UNIT, Children, reference


def surroundings_of(nodes: list[Nodes]) -> Surroundings:
    links = [children_of(below.parents, above.n_nodes) for below, above in pairwise(nodes)]
    children = [Children(*(torch.from_numpy(part) for part in (link.first, link.child, link.share))) for link in links]
    return Surroundings(nodes, [torch.from_numpy(level.parents) for level in nodes[:-1]], children, reference, "cpu")


def bits_of(nodes: list[Nodes], levels: list[np.ndarray]) -> list[np.ndarray]:
    found = surroundings_of(nodes).first_bits([torch.from_numpy(level.astype(np.float32)) for level in levels])
    assert [bits.dtype for bits in found] == [torch.uint8] * len(levels)
    return [bits.numpy() * BITS_UNIT for bits in found]


def test_neighbours_are_those_of_a_loop() -> None:
    selected = np.random.default_rng(0).random((5, 4, 6)) < 0.4
    places = [tuple(int(i) for i in place) for place in np.argwhere(selected)]
    number = {place: i for i, place in enumerate(places)}
    for rows, distance in zip(neighbours_of(selected), (1, 2), strict=True):
        for place, row in zip(places, rows, strict=True):
            ways = [way for way in product((-1, 0, 1), repeat=3) if sum(map(abs, way)) == distance]
            wanted = [number.get(tuple(a + b for a, b in zip(place, way, strict=True)), len(places)) for way in ways]
            assert row.tolist() == wanted


def test_where_nothing_depends_on_anything_a_first_step_costs_what_its_channel_makes_of_it() -> None:
    rng = np.random.default_rng(1)
    nodes = build_nodes(np.ones((24, 24, 24), bool), 1)
    likely = np.array([0.5, 0.1, 0.02])
    levels = [rng.random((level.n_nodes, 3)) < likely for level in nodes]
    expected = np.log2((1 - likely) / likely) + FIRST_BITS
    finest = bits_of(nodes, levels)[0]
    np.testing.assert_allclose(finest.mean(0), expected, atol=0.25)
    assert (finest.std(0) < 0.5).all()


def test_a_first_step_costs_less_among_others() -> None:
    """One side of the lattice is busy, the other nearly empty: the odds of each are found without being told."""
    rng = np.random.default_rng(2)
    nodes = build_nodes(np.ones((24, 24, 24), bool), 2)
    levels = []
    for level in nodes:
        is_busy = np.argwhere(level.selected)[:, :1] < level.selected.shape[0] / 2
        levels.append((rng.random((level.n_nodes, 4)) < np.where(is_busy, 0.5, 0.01)) * rng.integers(1, 30, (level.n_nodes, 4)))
    finest = bits_of(nodes, levels)[0]
    side = np.argwhere(nodes[0].selected)[:, 0]
    busy, quiet = finest[side < 10].mean(), finest[side > 14].mean()
    np.testing.assert_allclose([busy, quiet], [FIRST_BITS, np.log2(99) + FIRST_BITS], atol=1)


def test_bits_stay_within_their_bounds_where_all_are_0_or_none_is() -> None:
    nodes = build_nodes(np.ones((9, 9, 9), bool), 1)
    for value in (0, 7):
        for bits in bits_of(nodes, [np.full((level.n_nodes, 2), value) for level in nodes]):
            assert ((bits >= FEWEST) & (bits <= MOST)).all()
            assert (bits > FIRST_BITS).all() if value == 0 else (bits < FIRST_BITS).all()


def test_weights_and_biases_are_where_the_penalised_likelihood_is_highest() -> None:
    generator = torch.Generator().manual_seed(3)
    inputs = [torch.rand(400, 5, generator=generator) * reach for reach in (1.0, 3.0)]
    outcomes = torch.rand(400, 5, generator=generator) < torch.sigmoid(inputs[0] - inputs[1] + torch.linspace(-2, 2, 5))
    weights, biases = fit_odds(inputs, outcomes)
    at = torch.tensor([*weights, *biases.tolist()], dtype=torch.float64, requires_grad=True)
    odds = at[2:] + at[0] * inputs[0].double() + at[1] * inputs[1].double()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(odds, outcomes.double(), reduction="sum")
    (loss + RIDGE / 2 * at.square().sum()).backward()
    assert at.grad is not None
    torch.testing.assert_close(at.grad, torch.zeros_like(at), atol=1e-4, rtol=0)  # biases are rounded to float32
