"""Volumes of factors: the reference against the voxels that they stand for and finite differences, the core against both."""

from __future__ import annotations

import os
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from kernel_scenes import LOSSES, arrays_of, dense, expanded, factored, make_rays, make_volume, random_targets, zero_gradients
from test_kernels_native import (
    INSTRUCTION_SETS,
    NATIVE,
    NO_NATIVE,
    assert_twins,
    native,
    run_backpropagation,
    run_gradients,
    run_hits,
    run_importance,
    run_rendering,
    run_roulette,
    run_weighted,
)

from vqrf.kernels import FactorArrays, Volume, reference

KINDS = ("logits", "harmonics2", "plenoxels", "small", "frequencies")
SIZES = {"logits": (2, 3), "harmonics2": (17, 5), "plenoxels": (1, 33), "small": (16, 48), "frequencies": (5, 19)}
"""Components of density and of features: fewer than the lanes of a vector, as many, and more."""

OF_RAYS = (run_hits, run_rendering, run_gradients, run_weighted, run_roulette, run_backpropagation, run_importance)
every_kind = pytest.mark.parametrize("kind", KINDS)

__all__ = ["native"]


def make(kind: str, dtype: type = np.float64, shape: tuple[int, int, int] = (9, 11, 7)) -> Volume:
    return factored(make_volume(kind, False, dtype, shape), SIZES[kind])


@every_kind
def test_factors_look_like_the_voxels_that_they_stand_for(kind: str) -> None:
    """A plane between its samples times a line between its samples is trilinear: no more than rounding is between the two."""
    volume, rays = make(kind), make_rays(200)
    for ours, theirs in zip(reference.render_rays(volume, *rays), reference.render_rays(expanded(volume), *rays), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10)
    importance = [np.zeros(volume.density.shape) for _ in range(2)]
    reference.accumulate_importance(volume, *rays, importance[0])
    reference.accumulate_importance(expanded(volume), *rays, importance[1])
    assert importance[0].sum() > 1
    np.testing.assert_allclose(*importance, atol=1e-10)


@every_kind
def test_gradients_of_factors_are_those_of_their_voxels_carried_on(kind: str) -> None:
    volume, rays, targets = make(kind), make_rays(150), random_targets(150)
    ours, of_voxels = zero_gradients(volume), zero_gradients(expanded(volume))
    terms = reference.render_gradients(volume, *rays, targets, LOSSES, ours)
    assert terms == pytest.approx(reference.render_gradients(expanded(volume), *rays, targets, LOSSES, of_voxels))
    assert volume.factors is not None
    leaves = [torch.from_numpy(array).requires_grad_() for array in arrays_of(volume.factors)]
    made = dense(FactorArrays(tuple(leaves[:3]), tuple(leaves[3:6]), leaves[6]))
    given = torch.from_numpy(of_voxels.density), torch.from_numpy(of_voxels.features)
    carried = torch.autograd.grad(sum((a * b).sum() for a, b in zip(made, given, strict=True)), leaves)
    assert ours.factors is not None
    for gradient, expected in zip(arrays_of(ours.factors), carried, strict=True):
        np.testing.assert_allclose(gradient, expected, atol=1e-10 * float(expected.abs().max()) + 1e-14)
    for (weight, bias), (its_weight, its_bias) in zip(ours.layers, of_voxels.layers, strict=True):
        np.testing.assert_allclose(weight, its_weight, atol=1e-10)
        np.testing.assert_allclose(bias, its_bias, atol=1e-10)


@every_kind
def test_gradients_of_factors_agree_with_finite_differences(kind: str) -> None:
    volume, rays, targets = make(kind), make_rays(40), random_targets(40)
    gradients, rng = zero_gradients(volume), np.random.default_rng(6)
    reference.render_gradients(volume, *rays, targets, replace(LOSSES, point_color=0.0), gradients)
    assert volume.factors is not None
    assert gradients.factors is not None
    checked = 0
    for array, gradient in zip(arrays_of(volume.factors), arrays_of(gradients.factors), strict=True):
        flat, slopes, reach = array.reshape(-1), gradient.reshape(-1), 1e-6
        reached = np.flatnonzero(slopes)
        for at in rng.choice(reached, min(8, len(reached)), replace=False):
            before, sides = flat[at], []
            for sign in (1, -1):
                flat[at] = before + sign * reach
                terms = reference.render_gradients(volume, *rays, targets, LOSSES, zero_gradients(volume))
                weighted = [getattr(LOSSES, name) * terms[name] for name in reference.LOSS_TERMS if name != "point_color"]
                sides.append(terms["mse"] + sum(weighted))
            flat[at] = before
            checked += 1
            assert (sides[0] - sides[1]) / (2 * reach) == pytest.approx(slopes[at], rel=1e-3, abs=1e-7)
    assert checked > 40


@every_kind
def test_exactly_the_rows_around_live_samples_are_touched(kind: str) -> None:
    """Of a voxel that is touched each plane has a row; and the other way round."""
    volume, rays, targets = make(kind), make_rays(12), random_targets(12)
    ours, of_voxels = zero_gradients(volume), zero_gradients(expanded(volume))
    reference.render_gradients(volume, *rays, targets, LOSSES, ours)
    reference.render_gradients(expanded(volume), *rays, targets, LOSSES, of_voxels)
    shadows = [of_voxels.touched.max(axis).reshape(-1) for axis in (2, 1, 0)]
    assert 0.1 < ours.touched.mean() < 1
    np.testing.assert_array_equal(ours.touched, np.concatenate(shadows))


@pytest.mark.parametrize("run", OF_RAYS)
@every_kind
def test_compiled_kernels_of_factors_agree_with_the_reference(native: ModuleType, run: object, kind: str) -> None:
    volume, rays = make(kind, np.float32), make_rays(300, np.float32)
    assert_twins(native, run(native, volume, rays), run(reference, volume, rays))  # type: ignore[operator]


@pytest.mark.skipif(NATIVE is None, reason="the compiled core is not built")
@every_kind
def test_gradients_in_float32_are_those_in_float64(kind: str) -> None:
    """With the instruction sets that multiply in float32; thresholds are so low that rounding moves no sample over them."""
    assert NATIVE is not None
    rays, targets = make_rays(200), random_targets(200)
    exact = zero_gradients(make(kind))
    reference.render_gradients(make(kind), *rays, targets, LOSSES, exact)
    assert exact.factors is not None
    single = tuple(array.astype(np.float32) for array in rays)
    for name in INSTRUCTION_SETS:
        NATIVE.use_instruction_set(name)
        if NATIVE.COLOR_TOLERANCE > 1e-5:
            continue
        ours = zero_gradients(make(kind, np.float32))
        NATIVE.render_gradients(make(kind, np.float32), *single, targets.astype(np.float32), LOSSES, ours)
        assert ours.factors is not None
        for gradient, expected in zip(arrays_of(ours.factors), arrays_of(exact.factors), strict=True):
            assert np.linalg.norm(gradient - expected) <= 1e-4 * np.linalg.norm(expected)
    NATIVE.use_instruction_set(INSTRUCTION_SETS[-1])


@pytest.mark.parametrize("run", OF_RAYS)
def test_kernels_of_factors_do_not_depend_on_the_number_of_threads(native: ModuleType, run: object) -> None:
    volume, rays = make("small", np.float32, (37, 29, 41)), make_rays(2500, np.float32)
    results = []
    for n_threads in (1, 2, 3):
        native.set_threads(n_threads)
        results.append(run(native, volume, rays))  # type: ignore[operator]
    native.set_threads(os.cpu_count() or 1)
    for name, ours in results[0].items():
        for others in results[1:]:
            np.testing.assert_array_equal(ours, others[name], err_msg=name)


@pytest.mark.parametrize("wrong", ["planes", "lines", "features", "rows"])
@pytest.mark.parametrize("kernels", [reference, NATIVE or NO_NATIVE], ids=["reference", "native"])
def test_factors_of_another_lattice_are_refused(kernels: ModuleType, wrong: str) -> None:
    volume, (origins, directions) = make("small", np.float32), make_rays(3, np.float32)
    factors = volume.factors
    assert factors is not None
    if wrong == "planes":
        factors = replace(factors, planes=(factors.planes[1], *factors.planes[1:]))
    elif wrong == "lines":
        factors = replace(factors, lines=(factors.lines[0][1:].copy(), *factors.lines[1:]))
    features = np.zeros((1 if wrong == "features" else 0, 4), np.float32)
    rows = np.zeros(volume.density.shape, np.int32) if wrong == "rows" else None
    with pytest.raises(ValueError, match=r"planes|lines|factors|features|rows"):
        kernels.render_rays(replace(volume, factors=factors, features=features, rows=rows), origins, directions)


def test_sparsity_is_the_slope_of_the_magnitudes() -> None:
    rng = np.random.default_rng(8)
    values, gradient = rng.normal(size=(2, 30, 5))
    values[3] = 0
    touched, expected = rng.integers(0, 2, 30).astype(np.uint8), gradient.copy()
    for row in np.flatnonzero(touched):
        expected[row, :3] += 0.2 * np.sign(values[row, :3])
    everywhere = gradient + 0.1 * np.sign(values)
    ours = gradient.copy(), gradient.copy()
    reference.add_sparsity(values, ours[0], touched, n_columns=3, weight=0.2)
    reference.add_sparsity(values, ours[1], None, n_columns=5, weight=0.1)
    np.testing.assert_allclose(ours[0], expected)
    np.testing.assert_allclose(ours[1], everywhere)
