"""Lattices: the map and its inverse, closed formulas, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqrf.geometry import Lattice

coordinate = st.floats(-50, 50)
point = st.tuples(coordinate, coordinate, coordinate)


@st.composite
def lattices(draw: st.DrawFn) -> Lattice:
    lo = np.array(draw(point))
    extent = np.array([draw(st.floats(0.1, 20)) for _ in range(3)])
    side = st.integers(2, 40)
    return Lattice(tuple(lo), tuple(lo + extent), draw(st.tuples(side, side, side)))


@given(lattices(), st.lists(point, min_size=1, max_size=5))
def test_world_to_index_and_back_is_the_identity(lattice: Lattice, points: list[tuple[float, ...]]) -> None:
    x = np.array(points)
    scale = np.abs(x).max() + np.abs([lattice.lo, lattice.hi]).max() + 1
    np.testing.assert_allclose(lattice.world_from_index(lattice.index_from_world(x)), x, atol=1e-12 * scale)


@given(lattices())
def test_the_first_and_the_last_voxel_sit_on_the_corners(lattice: Lattice) -> None:
    last = np.array(lattice.shape) - 1
    np.testing.assert_array_equal(lattice.index_from_world([lattice.lo, lattice.hi]), [[0, 0, 0], last])
    np.testing.assert_array_equal(lattice.world_from_index([0, 0, 0]), lattice.lo)
    np.testing.assert_allclose(lattice.world_from_index(last), lattice.hi, rtol=1e-12, atol=1e-12)


@given(lattices(), st.lists(point, min_size=3, max_size=3), st.floats(0, 1))
def test_the_map_keeps_straight_lines_straight(lattice: Lattice, points: list[tuple[float, ...]], t: float) -> None:
    a, b = np.array(points[0]), np.array(points[1])
    between = lattice.index_from_world(a + t * (b - a))
    ends = lattice.index_from_world([a, b])
    np.testing.assert_allclose(between, ends[0] + t * (ends[1] - ends[0]), atol=1e-7)


@given(point, st.tuples(*[st.floats(0.5, 4)] * 3), st.integers(1000, 10**7))
@settings(max_examples=50)
def test_a_lattice_with_n_voxels_has_equal_edges_and_no_more_than_n(
    lo: tuple[float, ...], extent: tuple[float, ...], n_voxels: int
) -> None:
    lattice = Lattice.with_voxels(lo, np.add(lo, extent), n_voxels)
    edge = float(np.prod(extent) / n_voxels) ** (1 / 3)
    assert lattice.n_voxels <= n_voxels * (1 + 1e-9)
    # A side holds as many whole edges as fit: it falls short of the extent by less than one.
    short = np.array(extent) - np.array(lattice.shape) * edge
    assert (short > -1e-6).all() and (short < edge + 1e-6).all()


@pytest.mark.parametrize(
    ("lo", "hi", "shape"),
    [
        ((0, 0, 0), (1, 1, np.nan), (2, 2, 2)),
        ((0, 0, 0), (1, 0, 1), (2, 2, 2)),
        ((0, 0, 0), (1, 1, 1), (2, 1, 2)),
    ],
)
def test_a_lattice_that_cannot_be_is_refused(
    lo: tuple[float, float, float], hi: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    with pytest.raises(ValueError, match="lattice"):
        Lattice(lo, hi, shape)
