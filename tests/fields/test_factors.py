"""Factors: what they stand for, between the voxels too, and the derivative of that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernel_scenes import random_factors

from vqrf.fields.factors import Factors, expand, truncate
from vqrf.kernels import PLANE_AXES, reference

SHAPE = (5, 6, 4)


def factors_of(seed: int = 0, sizes: tuple[int, int, int] = (3, 5, 7)) -> Factors:
    return random_factors(np.random.default_rng(seed), SHAPE, *sizes)


def test_expanding_is_the_sum_of_products_written_out() -> None:
    factors = factors_of()
    density, features = expand(factors)
    for x, y, z in ((0, 0, 0), (4, 5, 3), (2, 1, 3)):
        expected_density, expected_features = 0.0, np.zeros(7)
        for p, (a, b, c) in enumerate([(x, y, z), (x, z, y), (y, z, x)]):
            product = factors.planes[p][a, b].astype(np.float64) * factors.lines[p][c]
            expected_density += product[:3].sum()
            expected_features += product[3:] @ factors.mix[p]
        assert density[x, y, z] == pytest.approx(expected_density, abs=1e-5)
        np.testing.assert_allclose(features[x, y, z], expected_features, atol=1e-4)


def test_the_reference_writes_marked_voxels_alone_and_the_same_numbers() -> None:
    factors, marks = factors_of(), (np.random.default_rng(1).random(SHAPE) < 0.5).astype(np.uint8)
    density, features = np.full(SHAPE, 9, np.float32), np.full((*SHAPE, 7), 9, np.float32)
    reference.expand_factors(factors, marks, density, features)
    for ours, theirs in zip(expand(factors, marks), (density, features), strict=True):
        np.testing.assert_allclose(ours[marks != 0], theirs[marks != 0], atol=1e-5)
        assert (ours[marks == 0] == 0).all() and (theirs[marks == 0] == 9).all()


def test_between_the_voxels_interpolated_factors_are_the_interpolated_lattice() -> None:
    factors, rng = factors_of(2), np.random.default_rng(3)
    density, _ = expand(factors)
    for _ in range(20):
        at = rng.random(3) * (np.array(SHAPE) - 1.001)
        low, share = np.floor(at).astype(int), at - np.floor(at)
        weights = [np.array([1 - s, s]) for s in share]
        cube = density[tuple(slice(i, i + 2) for i in low)].astype(np.float64)
        trilinear = np.einsum("xyz,x,y,z", cube, *weights)
        factored = 0.0
        for (a, b, c), plane, line in zip(PLANE_AXES, factors.planes, factors.lines, strict=True):
            square = plane[low[a] : low[a] + 2, low[b] : low[b] + 2].astype(np.float64)
            on_plane = np.einsum("abr,a,b->r", square, weights[a], weights[b])
            factored += (on_plane * (weights[c] @ line[low[c] : low[c] + 2]))[: factors.n_density].sum()
        assert factored == pytest.approx(trilinear, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: {"planes": f.planes[:2]}, "expected 3 of each"),
        (lambda f: {"planes": (f.planes[1], f.planes[1], f.planes[2])}, r"planes 0: expected \[5, 6, 8\], got \[5, 4, 8\]"),
        (lambda f: {"lines": (f.lines[0], f.lines[1], f.lines[2][:, :4])}, "lines 2"),
        (lambda f: {"lines": (f.lines[0][0], f.lines[1], f.lines[2])}, r"expected \[N,R\]"),
        (lambda f: {"mix": np.ones((3, 8, 7), np.float32)}, "R_f of 1 to 7"),
        (lambda f: {"mix": np.full((3, 5, 7), np.nan, np.float32)}, "not finite"),
    ],
)
def test_what_is_no_factors_is_refused(change: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(factors_of(), **change(factors_of()))  # type: ignore[operator]


def test_factors_know_their_sizes() -> None:
    factors = factors_of()
    assert factors.shape == SHAPE
    assert (factors.n_density, factors.n_features, factors.n_channels) == (3, 5, 7)
    assert factors.n_values == 8 * (30 + 20 + 24) + 8 * 15 + 105


def matrix_of(factors: Factors, p: int) -> np.ndarray:
    """What a plane and its line add to the density, as voxels of the one by voxels of the other."""
    n = factors.n_density
    plane = factors.planes[p][..., :n].astype(np.float64).reshape(-1, n)
    return np.asarray(plane @ factors.lines[p][:, :n].T)


def test_with_all_components_truncating_changes_nothing() -> None:
    factors = factors_of(6, (7, 5, 3))  # more than the lattice has voxels on an axis
    for ours, theirs in zip(expand(truncate(factors, 7, 5)), expand(factors), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_truncated_density_is_as_near_as_singular_values_allow(n: int) -> None:
    factors = factors_of(7, (4, 5, 3))
    short = truncate(factors, n, 5)
    assert (short.n_density, short.n_features) == (n, 5)
    for p in range(3):
        lost = np.linalg.svd(matrix_of(factors, p), compute_uv=False)[n:]
        off = np.linalg.norm(matrix_of(factors, p) - matrix_of(short, p))
        assert off == pytest.approx(np.sqrt((lost**2).sum()), rel=1e-5)


def test_of_the_features_those_components_stay_that_say_most() -> None:
    factors = factors_of(8)
    faint = [np.array([1, 1e-4, 1, 1, 1e-4]), np.array([1, 1, 1e-4, 1e-4, 1]), np.array([1e-4, 1, 1, 1e-4, 1])]
    mix = factors.mix * np.array(faint, np.float32)[:, :, None]
    factors = replace(factors, mix=mix)
    short = truncate(factors, 3, 3)
    for p, strength in enumerate(faint):
        np.testing.assert_array_equal(short.mix[p], mix[p][strength == 1])
    np.testing.assert_allclose(expand(short)[1], expand(factors)[1], atol=0.05)
    assert short.n_values < factors.n_values


@pytest.mark.parametrize(("n_density", "n_features"), [(0, 1), (4, 1), (1, 0), (1, 6)])
def test_more_components_than_there_are_or_none_are_refused(n_density: int, n_features: int) -> None:
    with pytest.raises(ValueError, match=r"expected 1\.\.3 and 1\.\.5"):
        truncate(factors_of(), n_density, n_features)
