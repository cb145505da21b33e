"""The levels of a pyramid against their definition, node by node, and what a field of them is worth."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from changed import changed
from hypothesis import given, settings
from hypothesis import strategies as st
from test_entropy import generate

from vqrf.codec.compressed import CODED, KEPT, PRUNED
from vqrf.codec.pyramid import MAX_LEVELS, MAX_MAGNITUDE, Nodes, PyramidField, build_nodes, coarser_shape
from vqrf.fields.field import expand

Place = tuple[int, int, int]


def parents_of(place: Place) -> list[Place]:
    """The eight parents of a node as FORMAT.md section 4 numbers them."""
    return [tuple((i + (p >> bit & 1)) // 2 for i, bit in zip(place, (2, 1, 0), strict=True)) for p in range(8)]  # type: ignore[misc]


def places_of(nodes: Nodes) -> list[Place]:
    return [(int(x), int(y), int(z)) for x, y, z in np.argwhere(nodes.selected)]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(2, 9)] * 3),
    share=st.floats(0, 1),
    n_levels=st.integers(0, MAX_LEVELS),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_level_is_the_parents_of_the_one_below_in_raster_order(shape: Place, share: float, n_levels: int, seed: int) -> None:
    occupied = np.random.default_rng(seed).random(shape) < share
    levels = build_nodes(occupied, n_levels)
    assert len(levels) == n_levels + 1
    np.testing.assert_array_equal(levels[0].selected, occupied)
    for finer, coarser in itertools.pairwise(levels):
        assert coarser.selected.shape == coarser_shape(finer.selected.shape)
        fine, coarse = places_of(finer), places_of(coarser)
        assert set(coarse) == {parent for place in fine for parent in parents_of(place)}
        assert [[coarse[number] for number in row] for row in finer.parents] == [parents_of(place) for place in fine]
        assert finer.n_nodes == len(fine) and finer.parents.dtype == np.int32
    assert levels[-1].parents.shape == (np.count_nonzero(levels[-1].selected), 0)


@pytest.mark.parametrize("basis_of", [None, 12])
@pytest.mark.parametrize("n_levels", [0, 1, 3, 8])
def test_the_values_of_voxels_are_those_of_the_conformance_script(n_levels: int, basis_of: int | None) -> None:
    field = generate.make_pyramid(3, (7, 9, 6), n_levels=n_levels, n_latents=12, basis_of=basis_of, widths=[], shading="sh")
    density, features = field.voxel_values()
    expected = generate.values_of(field)
    assert density.dtype == features.dtype == np.float32
    np.testing.assert_allclose(density, expected["density"], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(features, expected["features"], rtol=1e-5, atol=1e-2)
    here = field.partition != PRUNED
    expanded = expand(field)
    np.testing.assert_array_equal(expanded.density[here], density)
    np.testing.assert_array_equal(expanded.features[here], features)
    assert (expanded.density[~here] == np.float32(field.empty_density)).all() and not expanded.features[~here].any()


@pytest.mark.parametrize("n_levels", [1, 2, 4])
@pytest.mark.parametrize("slope", [(0, 0, 0), (3, -2, 1)])
def test_what_is_linear_is_said_by_the_coarsest_level_alone(slope: Place, n_levels: int) -> None:
    """Node i of level l is at voxel 2^l i, and the mean of the parents is linear interpolation between them."""
    field = generate.make_pyramid(4, (11, 8, 13), n_levels=n_levels, n_latents=3, widths=[])
    coarsest = np.argwhere(field.nodes()[-1].selected) * 2**n_levels
    levels = [np.zeros_like(level) for level in field.coefficients]
    levels[0][:] = (coarsest @ slope + 7)[:, None]
    density, features = generate.replace(field, coefficients=tuple(levels)).voxel_values()
    expected = np.argwhere(field.partition != PRUNED) @ slope + 7
    np.testing.assert_allclose(density / field.steps[0], expected, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(features / field.steps[1:], np.stack([expected] * 3, -1), rtol=1e-6, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0, 1), n_levels=st.integers(0, 4), seed=st.integers(0, 2**32 - 1))
def test_voxels_keep_their_values_when_others_are_dropped(share: float, n_levels: int, seed: int) -> None:
    field = generate.make_pyramid(5, (7, 9, 6), n_levels=n_levels)
    wanted = np.random.default_rng(seed).random((7, 9, 6)) < share
    fewer, here = field.restrict(wanted), field.partition != PRUNED
    np.testing.assert_array_equal(fewer.partition != PRUNED, here & wanted)
    for ours, theirs in zip(fewer.voxel_values(), field.voxel_values(), strict=True):
        np.testing.assert_array_equal(ours, theirs[wanted[here]])


TINY = (2, 3, 5)


def small_pyramid(**options: Any) -> PyramidField:
    options = {"n_levels": 1, "n_latents": 3, "widths": [], "partition": np.full(TINY, CODED, np.uint8)} | options
    return generate.make_pyramid(1, TINY, **options)


STEPS = np.ones(4, np.float32)
FLAT = [np.zeros((12, 4), np.int16), np.zeros((30, 4), np.int16)]
BAD_PYRAMIDS: dict[str, dict[str, Any]] = {
    "partition: a value": {"partition": np.full(TINY, KEPT, np.uint8)},
    "partition: expected uint8": {"partition": np.zeros((2, 3, 4), np.uint8)},
    "coefficients: expected 1..9 levels, got 0": {"coefficients": ()},
    "coefficients: expected 1..9 levels, got 10": {"coefficients": (FLAT[1],) * 10},
    r"coefficients: expected int16 \[12, 4\], got int16 \[30, 4\]": {"coefficients": tuple(FLAT[::-1])},
    r"coefficients: expected int16 \[30, 4\], got int16 \[30, 3\]": {"coefficients": (FLAT[0], FLAT[1][:, :3])},
    r"coefficients: expected int16 \[12, 4\], got int32": {"coefficients": (FLAT[0].astype(np.int32), FLAT[1])},
    f"coefficients: a magnitude is above {MAX_MAGNITUDE}": {"coefficients": (FLAT[0] - MAX_MAGNITUDE - 1, FLAT[1])},
    "steps: expected float32": {"steps": np.ones(4)},
    r"steps: expected float32 \[2..65\]": {"steps": np.ones(1, np.float32)},
    "steps: expected finite positive values": {"steps": STEPS * 0},
    "steps: expected finite": {"steps": STEPS * np.inf},
    r"basis: expected float32 \[3,C\]": {"basis": np.ones((4, 3), np.float32)},
    "basis: expected 1..64 columns": {"basis": np.ones((3, 65), np.float32)},
    "basis: expected 1..64 columns of finite": {"basis": np.full((3, 3), np.nan, np.float32)},
    "color_mlp: without layers": {"basis": np.ones((3, 4), np.float32)},
    "color_mlp: spherical harmonics have 12 or 27": {"shading": "sh"},
    "color_mlp: layer 0 cannot": {"color_mlp": generate.make_layers(np.random.default_rng(0), [7, 3])},
    "activation exp": {"activation": "exp"},
    "metadata: expected a dict": {"metadata": [1]},
}  # fmt: skip


@pytest.mark.parametrize("reason", BAD_PYRAMIDS)
def test_a_pyramid_that_no_file_could_hold_is_refused_when_it_is_made(reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        changed(small_pyramid(), **BAD_PYRAMIDS[reason])


def test_pyramids_differ_when_any_part_of_them_does() -> None:
    field = small_pyramid()
    levels = [level.copy() for level in field.coefficients]
    levels[1][29, 3] += 1
    partition = np.full(TINY, CODED, np.uint8)
    partition[1, 2, 4] = PRUNED
    others = [
        generate.replace(field, coefficients=tuple(levels)),
        generate.replace(field, steps=2 * field.steps),
        generate.replace(field, basis=np.eye(3, dtype=np.float32)),
        generate.replace(field, metadata={}),
        changed(field, activation="relu"),
        generate.replace(field, color_mlp=generate.make_layers(np.random.default_rng(0), [6, 3])),
        small_pyramid(n_levels=2),
        small_pyramid(partition=partition),
    ]
    assert field == generate.replace(field)
    assert all(field != other for other in others)
    assert field != "field"
