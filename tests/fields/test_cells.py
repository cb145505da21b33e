"""Sets of voxels: what is grown and what is closed, against the definitions, voxel by voxel."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vqrf.fields.cells import closed
from vqrf.geometry import grown


def near(place: tuple[int, ...], shape: tuple[int, ...], by: int) -> list[tuple[int, ...]]:
    """The places of the lattice that are at most `by` away along every axis."""
    ranges = [range(max(i - by, 0), min(i + by + 1, side)) for i, side in zip(place, shape, strict=True)]
    return list(product(*ranges))


@st.composite
def masks(draw: st.DrawFn) -> NDArray[np.bool_]:
    shape = tuple(draw(st.integers(2, 7)) for _ in range(3))
    return np.random.default_rng(draw(st.integers(0, 99))).random(shape) < draw(st.sampled_from([0.0, 0.03, 0.1, 0.4, 1.0]))


@given(masks(), st.integers(0, 3))
def test_a_voxel_is_in_what_is_grown_where_one_is_near(mask: NDArray[np.bool_], by: int) -> None:
    expected = [any(mask[other] for other in near(place, mask.shape, by)) for place in np.ndindex(mask.shape)]
    assert grown(mask, by).ravel().tolist() == expected


@given(masks(), st.integers(0, 2))
def test_a_voxel_is_in_what_is_closed_where_all_that_is_near_is_near_to_one(mask: NDArray[np.bool_], by: int) -> None:
    wider = grown(mask, by)
    expected = [all(wider[other] for other in near(place, mask.shape, by)) for place in np.ndindex(mask.shape)]
    found = closed(mask, by)
    assert found.ravel().tolist() == expected
    assert not (mask & ~found).any() and np.array_equal(closed(found, by), found)


@pytest.mark.parametrize("width", range(1, 7))
def test_a_gap_is_closed_up_to_twice_the_reach(width: int) -> None:
    mask = np.zeros((14, 14, 14), bool)
    mask[:4] = mask[4 + width :] = True
    assert closed(mask, 2).all() == (width <= 4)
