"""The reference kernels against scalar oracles, finite differences and invariants."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from changed import changed
from kernel_scenes import LOSSES, Rays, every_scene, make_rays, make_volume, random_targets, zero_gradients

from vqrf.cameras import Camera
from vqrf.codec.pyramid import children_of
from vqrf.fields.field import RadianceField
from vqrf.kernels import (
    ADAM_BETAS,
    ADAM_EPSILON,
    MAX_STEPS,
    SKIP_BLOCK,
    STOP_TRANSMITTANCE,
    Gradients,
    LossWeights,
    Roulette,
    Volume,
    reference,
    reference_rows,
)
from vqrf.kernels.equation import render, tensors, view_harmonics
from vqrf.kernels.reference import leaves_of


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """These arrays are so small that threads only wait for each other."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


# ----------------------------------------------------------------------------------------------- the oracle


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def march_by_hand(volume: Volume, o: np.ndarray, d: np.ndarray) -> Iterator[tuple[float, float, dict[Any, float]]]:
    """Yield (t, alpha, shares by voxel) of the samples of one ray in occupied cells, one scalar at a time."""
    enter, leave = volume.equation.near, math.inf
    for axis in range(3):
        near, far = volume.lo[axis] - o[axis], volume.hi[axis] - o[axis]
        if d[axis] == 0:
            if near > 0 or far < 0:
                return
        else:
            enter = max(enter, min(near / d[axis], far / d[axis]))
            leave = min(leave, max(near / d[axis], far / d[axis]))
    for i in itertools.count():
        t = enter + i * volume.equation.step_world
        if t > leave:
            return
        u, cell = [], []
        for axis, side in enumerate(volume.density.shape):
            extent = volume.hi[axis] - volume.lo[axis]
            u.append((o[axis] + t * d[axis] - volume.lo[axis]) / extent * (side - 1))
            cell.append(min(max(math.floor(u[axis]), 0), side - 2))
        if not volume.cells[tuple(cell)]:
            continue
        shares: dict[Any, float] = {}
        for corner in itertools.product((0, 1), repeat=3):
            share = 1.0
            for axis in range(3):
                fraction = u[axis] - cell[axis]
                share *= fraction if corner[axis] else 1 - fraction
            shares[tuple(c + b for c, b in zip(cell, corner, strict=True))] = share
        density = sum(share * volume.density[voxel] for voxel, share in shares.items())
        activate = softplus if volume.equation.activation == "softplus" else lambda x: max(x, 0)
        yield t, 1 - math.exp(-volume.equation.interval * activate(density + volume.equation.density_bias)), shares


def live_by_hand(volume: Volume, o: np.ndarray, d: np.ndarray) -> Iterator[tuple[float, float, dict[Any, float], float]]:
    """Yield (t, weight, shares by voxel, light left behind it) of the live samples of one ray."""
    left = 1.0
    for t, alpha, shares in march_by_hand(volume, o, d):
        if alpha > volume.equation.alpha_threshold:
            weight = left * alpha
            left *= 1 - alpha
            yield t, weight, shares, left
            if left < STOP_TRANSMITTANCE:
                return


def harmonics_by_hand(d: np.ndarray) -> np.ndarray:
    """The nine real spherical harmonics of FORMAT.md section 4, number by number."""
    x, y, z = d
    first = [0.28209479177387814, -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    return np.array(
        [
            *first,
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * z * z - x * x - y * y),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (x * x - y * y),
        ]
    )


def color_by_hand(volume: Volume, shares: dict[Any, float], d: np.ndarray) -> np.ndarray:
    hidden = np.zeros(volume.features.shape[-1])
    for voxel, share in shares.items():
        row = voxel if volume.rows is None else volume.rows[voxel]
        if volume.rows is None or row >= 0:
            hidden += share * volume.features[row]
    if volume.equation.shading != "mlp":
        total = hidden.reshape(3, -1) @ harmonics_by_hand(d)[: len(hidden) // 3]
        return 1 / (1 + np.exp(-total)) if volume.equation.shading == "sh" else np.maximum(0.5 + total, 0)
    if volume.layers:
        waves = [value * 2**k for value in hidden for k in range(volume.equation.feature_frequencies)]
        n_frequencies = (volume.layers[0][0].shape[1] - len(hidden) - 2 * len(waves) - 3) // 6
        angles = [d[axis] * 2**k for axis in range(3) for k in range(n_frequencies)]
        hidden = np.concatenate([hidden, d, np.sin(angles), np.cos(angles), np.sin(waves), np.cos(waves)])
    for number, (weight, bias) in enumerate(volume.layers):
        hidden = weight @ (np.maximum(hidden, 0) if number else hidden) + bias
    return 1 / (1 + np.exp(-hidden))


def render_by_hand(volume: Volume, o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, float, float]:
    """(rgb, background weight, depth) of one ray."""
    rgb, depth, left = np.zeros(3), 0.0, 1.0
    for t, weight, shares, behind in live_by_hand(volume, o, d):
        depth, left = depth + weight * t, behind
        if weight > volume.equation.alpha_threshold:
            rgb += weight * color_by_hand(volume, shares, d)
    return rgb + left * np.array(volume.equation.background), left, depth


# ------------------------------------------------------------------------------------------ rays: rendering


@every_scene
def test_rendering_agrees_with_a_scalar_marcher(kind: str, has_rows: bool) -> None:
    volume, (origins, directions) = make_volume(kind, has_rows), make_rays(80)
    expected = [render_by_hand(volume, o, d) for o, d in zip(origins, directions, strict=True)]
    for ours, theirs in zip(reference.render_rays(volume, origins, directions), zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(ours, np.array(theirs), rtol=1e-9, atol=1e-12)
    left = np.array([weight for _, weight, _ in expected])
    assert (left < STOP_TRANSMITTANCE).any() and ((left > 0.1) & (left < 1)).any() and (left == 1).any()


def test_importance_agrees_with_a_scalar_marcher_and_is_added() -> None:
    volume, (origins, directions) = make_volume("logits", False), make_rays(80)
    volume = changed(volume, alpha_threshold=0.02)
    expected = np.ones(volume.density.shape)
    for o, d in zip(origins, directions, strict=True):
        for _, weight, shares, _ in live_by_hand(volume, o, d):
            for voxel, share in shares.items():
                expected[voxel] += weight * share * (weight > volume.equation.alpha_threshold)
    importance = np.ones(volume.density.shape)
    reference.accumulate_importance(volume, origins, directions, importance)
    np.testing.assert_allclose(importance, expected, rtol=1e-9)


def test_a_voxel_all_of_whose_cells_count_has_its_whole_importance_and_one_none_of_whose_has_none() -> None:
    volume, rays = make_volume("logits", False), make_rays(80)
    counted = np.zeros(volume.density.shape, np.uint8)
    counted[1:4, 2:4, 1:3] = 1  # by the lowest voxels of cells
    whole, part, rest = (np.zeros(volume.density.shape) for _ in range(3))
    reference.accumulate_importance(volume, *rays, whole)
    reference.accumulate_importance(volume, *rays, part, counted=counted)
    reference.accumulate_importance(volume, *rays, rest, counted=1 - counted)
    inside = (slice(2, 4), slice(3, 4), slice(2, 3))
    assert part[inside].any()
    np.testing.assert_array_equal(part[inside], whole[inside])
    beside = np.ones_like(counted)
    beside[1:5, 2:5, 1:4] = 0
    assert not part[beside != 0].any() and whole[beside != 0].any()
    np.testing.assert_allclose(part + rest, whole, rtol=1e-12)


def test_a_ray_hits_if_a_sample_lies_in_an_occupied_cell() -> None:
    volume, (origins, directions) = make_volume("logits", False), make_rays(300)
    cells = np.zeros_like(volume.cells)
    cells[2:4, 3:5, 1:3] = 1
    volume = replace(volume, cells=cells, density=np.full_like(volume.density, -100))
    expected = [any(True for _ in march_by_hand(volume, o, d)) for o, d in zip(origins, directions, strict=True)]
    hit = reference.hit_rays(volume, origins, directions)
    assert hit.dtype == np.uint8
    np.testing.assert_array_equal(hit, expected)
    assert 0 < hit.mean() < 1


def test_spherical_harmonics_are_orthonormal_over_the_sphere() -> None:
    heights, shares = np.polynomial.legendre.leggauss(8)  # exact up to degree 15 in z, as 12 angles are around it
    height, angle = np.meshgrid(heights, np.arange(12) * math.tau / 12, indexing="ij")
    rim = np.sqrt(1 - height**2)
    directions = torch.tensor(np.stack([rim * np.cos(angle), rim * np.sin(angle), height], -1).reshape(-1, 3))
    harmonics = view_harmonics(directions, 9).numpy()
    area = np.repeat(shares * math.tau / 12, 12)
    np.testing.assert_allclose(harmonics.T @ (area[:, None] * harmonics), np.eye(9), atol=1e-12)
    np.testing.assert_array_equal(view_harmonics(directions, 4), harmonics[:, :4])


@every_scene
def test_no_light_is_lost_on_a_ray(kind: str, has_rows: bool) -> None:
    """The weights of a ray and its background weight sum to 1, where no sample is below the threshold."""
    volume, (origins, directions) = make_volume(kind, has_rows), make_rays(60)
    volume = changed(volume, alpha_threshold=1e-15)
    _, background_weight, _ = reference.render_rays(volume, origins, directions)
    importance = np.zeros(volume.density.shape)
    reference.accumulate_importance(volume, origins, directions, importance)
    np.testing.assert_allclose(importance.sum(), (1 - background_weight).sum(), rtol=1e-12)


@pytest.mark.parametrize(("kind", "alpha"), [("logits", 0.6), ("plenoxels", 0.6)])
def test_found_cells_hide_nothing(kind: str, alpha: float) -> None:
    """Rendering only the cells that `find_cells` finds is rendering all of them, to the last bit."""
    volume, (origins, directions) = make_volume(kind, False), make_rays(200)
    volume = changed(volume, alpha_threshold=alpha)
    found = reference.find_cells(volume.density, volume.equation.floor, None)
    assert 0.1 < found.mean() < 0.9
    some = reference.render_rays(replace(volume, cells=found), origins, directions)
    every = reference.render_rays(replace(volume, cells=np.ones_like(found)), origins, directions)
    for ours, theirs in zip(some, every, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_table_renders_as_the_voxels_that_look_it_up() -> None:
    volume, (origins, directions) = make_volume("paper", True), make_rays(60)
    features = np.where((volume.rows >= 0)[..., None], volume.features[volume.rows], 0)
    flat = replace(volume, features=features, rows=None)
    for ours, theirs in zip(
        reference.render_rays(volume, origins, directions),
        reference.render_rays(flat, origins, directions),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_density_beyond_every_exponential_is_a_wall() -> None:
    volume, (origins, directions) = make_volume("logits", False, np.float32), make_rays(60, np.float32)
    volume = replace(volume, density=np.full_like(volume.density, 3e38), cells=np.ones_like(volume.cells))
    gradients = zero_gradients(volume)
    terms = reference.render_gradients(volume, origins, directions, random_targets(60), LOSSES, gradients)
    assert all(np.isfinite(value) for value in terms.values())
    assert np.isfinite(gradients.density).all() and np.isfinite(gradients.features).all()
    hit = reference.hit_rays(volume, origins, directions)
    np.testing.assert_array_equal(reference.render_rays(volume, origins, directions)[1], 1.0 - hit)


def test_the_ball_is_seen_where_it_is(ball_field: RadianceField, ball_camera: Camera) -> None:
    origins, directions = ball_camera.rays()
    volume = ball_field.volume()
    rgb, background_weight, depth = reference.render_rays(volume, origins, directions)
    miss = np.linalg.norm(origins - directions * (origins * directions).sum(1, keepdims=True), axis=1)
    assert (background_weight[miss < 0.5] < 0.01).all() and (background_weight[miss > 0.9] > 0.99).all()
    middle = np.argmin(miss)
    assert depth[middle] == pytest.approx(3 - 0.6, abs=0.1)
    color = 1 / (1 + np.exp(-4 * (origins + depth[:, None] * directions)[middle]))
    np.testing.assert_allclose(rgb[middle], color, atol=0.05)


def test_the_size_of_a_chunk_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    volume, (origins, directions) = make_volume("small", True), make_rays(50)
    targets = random_targets(50)

    def everything() -> list[np.ndarray]:
        gradients, importance = zero_gradients(volume), np.zeros(volume.density.shape)
        terms = reference.render_gradients(volume, origins, directions, targets, LOSSES, gradients)
        reference.accumulate_importance(volume, origins, directions, importance)
        seen = reference.render_rays(volume, origins, directions)
        return [
            *seen,
            importance,
            gradients.density,
            gradients.features,
            gradients.touched,
            np.array(list(terms.values())),
        ]

    whole = everything()
    monkeypatch.setattr(reference, "CHUNK_SAMPLES", {"cpu": 100})
    for ours, theirs in zip(everything(), whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-14)


def test_no_rays_give_no_pixels_and_no_gradient() -> None:
    volume, none = make_volume("small", False), np.zeros((0, 3))
    rgb, background_weight, depth = reference.render_rays(volume, none, none)
    assert rgb.shape == (0, 3) and background_weight.shape == depth.shape == (0,)
    assert reference.hit_rays(volume, none, none).shape == (0,)
    gradients = zero_gradients(volume)
    terms = reference.render_gradients(volume, none, none, none, LOSSES, gradients)
    assert not any(terms.values()) and not gradients.touched.any()


def test_tensors_give_tensors_and_arrays_give_arrays_and_read_only_ones_will_do() -> None:
    volume, (origins, directions) = make_volume("logits", False), make_rays(20)
    origins.flags.writeable = False
    arrays = reference.render_rays(volume, origins, directions)
    tensors = reference.render_rays(volume, torch.tensor(origins), torch.tensor(directions))
    for array, tensor in zip(arrays, tensors, strict=True):
        assert isinstance(array, np.ndarray) and isinstance(tensor, torch.Tensor)
        np.testing.assert_array_equal(array, tensor.numpy())
    importance = np.zeros(volume.density.shape)
    importance.flags.writeable = False
    with pytest.raises(ValueError, match="written to"):
        reference.accumulate_importance(volume, origins, directions, importance)


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))],
)
def test_tensors_on_any_device_are_worked_on_in_place(device: str) -> None:
    volume, rays, targets = make_volume("small", True), make_rays(40), random_targets(40)

    def move(array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, device=device)

    def move_layers(layers: Any) -> Any:
        return tuple((move(weight), move(bias)) for weight, bias in layers)

    gradients = zero_gradients(volume)
    there = Gradients(
        move(gradients.density),
        move(gradients.features),
        move_layers(gradients.layers),
        move(gradients.touched),
    )
    terms = reference.render_gradients(volume, *rays, targets, LOSSES, gradients)
    moved = replace(
        volume,
        density=move(volume.density),
        features=move(volume.features),
        rows=move(volume.rows),
        layers=move_layers(volume.layers),
        cells=move(volume.cells),
        skip=move(volume.skip),
    )
    moved_terms = reference.render_gradients(moved, *map(move, rays), move(targets), LOSSES, there)
    assert moved_terms == pytest.approx(terms)
    np.testing.assert_allclose(there.density.cpu(), gradients.density, atol=1e-13)
    np.testing.assert_allclose(there.features.cpu(), gradients.features, atol=1e-13)
    np.testing.assert_allclose(there.layers[0][0].cpu(), gradients.layers[0][0], atol=1e-13)
    np.testing.assert_array_equal(there.touched.cpu(), gradients.touched)
    found = reference.find_cells(moved.density, 1.0, moved.cells)
    assert found.device.type == reference.measure_skip(found).device.type == device


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": np.ones((9, 11, 7), np.uint8)}, "cells: expected"),
        ({"features": np.ones((9, 11, 8, 4))}, "features or rows: expected"),
        ({"features": np.ones((9, 11, 7, 5))}, "layers: expected"),
        ({"layers": ()}, "features: without layers"),
        ({"shading": "sh"}, "features: spherical harmonics have no layers"),
        ({"shading": "sh", "layers": ()}, "features: spherical harmonics have 12 or 27"),
        ({"shading": "phong"}, "shading phong is not supported"),
        ({"activation": "exp"}, "activation exp is not supported"),
        ({"alpha_threshold": 0.0}, "alpha_threshold: expected"),
        ({"step_world": 0.0}, "step_world"),
    ],
)
def test_a_volume_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    volume, (origins, directions) = make_volume("small", False), make_rays(3)
    with pytest.raises(ValueError, match=message):
        reference.render_rays(changed(volume, **change), origins, directions)


# ------------------------------------------------------------------------------------------ rays: gradients


def total_loss(volume: Volume, rays: Rays, targets: np.ndarray, losses: LossWeights) -> float:
    terms = reference.render_gradients(volume, *rays, targets, losses, zero_gradients(volume))
    return terms["mse"] + sum(getattr(losses, name) * terms[name] for name in reference.LOSS_TERMS)


def test_the_distortion_is_that_of_all_pairs_of_samples() -> None:
    volume, rays = make_volume("small", False), make_rays(25)
    losses = LossWeights(0.0, 0.0, distortion=1.0)
    terms = reference.render_gradients(volume, *rays, random_targets(25), losses, zero_gradients(volume))
    spacing, expected, most = volume.equation.step_world / volume.lattice.longest_way, 0.0, 0
    for ray in range(25):
        origin, direction = (torch.tensor(array[ray : ray + 1]) for array in rays)
        seen = render(tensors(volume), origin, direction)
        # The box's places are the world's, so a sample is as far along its ray as it is from the camera.
        weight, at = seen.weight.numpy(), seen.samples.t.numpy() / volume.lattice.longest_way
        most = max(most, len(weight))
        expected += (weight[:, None] * weight * np.abs(at[:, None] - at)).sum() + spacing / 3 * (weight**2).sum()
    assert most > 5
    assert terms["distortion"] == pytest.approx(expected / 25, rel=1e-9)
    without = reference.render_gradients(volume, *rays, random_targets(25), LossWeights(0, 0), zero_gradients(volume))
    assert without["distortion"] == 0


def slope_by_differences(array: np.ndarray, entry: Any, loss: Callable[[], float]) -> float:
    """Central difference of the loss in one entry of an array that it reads."""
    step, kept = 1e-6, array[entry]
    array[entry] = kept + step
    above = loss()
    array[entry] = kept - step
    below = loss()
    array[entry] = kept
    return (above - below) / (2 * step)


@every_scene
def test_gradients_agree_with_finite_differences(kind: str, has_rows: bool) -> None:
    volume, rays, targets = make_volume(kind, has_rows), make_rays(40), random_targets(40)
    rng = np.random.default_rng(9)
    with_weights = replace(LOSSES, point_color=0)
    gradients, without_points = zero_gradients(volume), zero_gradients(volume)
    reference.render_gradients(volume, *rays, targets, LOSSES, gradients)
    reference.render_gradients(volume, *rays, targets, with_weights, without_points)
    np.testing.assert_array_equal(gradients.density, without_points.density)  # point_color holds weights constant

    def check(array: np.ndarray, gradient: np.ndarray, entries: list[Any], losses: LossWeights) -> None:
        scale = np.abs(gradient).max()
        assert scale > 0
        for entry in entries:
            slope = slope_by_differences(array, entry, lambda: total_loss(volume, rays, targets, losses))
            assert gradient[entry] == pytest.approx(slope, rel=1e-4, abs=1e-5 * scale)

    def some(touched: np.ndarray, n_entries: int = 6) -> list[Any]:
        return [tuple(entry) for entry in rng.permutation(np.argwhere(touched))[:n_entries]]

    check(volume.density, gradients.density, some(gradients.touched), with_weights)
    table = gradients.features
    if has_rows:
        table = np.zeros_like(volume.features)
        flat = gradients.features.reshape(-1, table.shape[1])
        reference.tie_gradients(flat, volume.rows.ravel(), gradients.touched.ravel(), table)
        assert not flat.any()
    check(volume.features, table, some(table != 0), LOSSES)
    for layer, gradient in zip(volume.layers, gradients.layers, strict=True):
        check(layer[0], gradient[0], some(gradient[0] != 0, 3), LOSSES)
        check(layer[1], gradient[1], some(gradient[1] != 0, 2), LOSSES)


@every_scene
def test_exactly_the_voxels_of_live_samples_are_touched_and_pruned_ones_never(kind: str, has_rows: bool) -> None:
    volume, rays = make_volume(kind, has_rows), make_rays(30)
    expected, n_live, n_shaded = np.zeros(volume.density.shape, np.uint8), 0, 0
    for o, d in zip(*rays, strict=True):
        for _, weight, shares, _ in live_by_hand(volume, o, d):
            n_live += 1
            n_shaded += weight > volume.equation.alpha_threshold
            for voxel in shares:
                expected[voxel] = volume.rows is None or volume.rows[voxel] >= 0
    gradients = zero_gradients(volume)
    gradients.touched[0, 0, 0] = expected[0, 0, 0] = 1  # never cleared
    terms = reference.render_gradients(volume, *rays, random_targets(30), LOSSES, gradients)
    np.testing.assert_array_equal(gradients.touched, expected)
    assert (terms["n_live"], terms["n_shaded"]) == (n_live, n_shaded)
    assert not gradients.density[gradients.touched == 0].any()
    assert not gradients.features[gradients.touched == 0].any()


def test_gradients_are_added_to_what_is_there() -> None:
    volume, rays, targets = make_volume("small", False), make_rays(20), random_targets(20)
    once, twice = zero_gradients(volume), zero_gradients(volume)
    reference.render_gradients(volume, *rays, targets, LOSSES, once)
    for _ in range(2):
        reference.render_gradients(volume, *rays, targets, LOSSES, twice)
    np.testing.assert_allclose(twice.density, 2 * once.density)
    np.testing.assert_allclose(twice.features, 2 * once.features)
    np.testing.assert_allclose(twice.layers[0][0], 2 * once.layers[0][0])


def test_rendering_is_differentiable_and_agrees_with_the_gradient_kernel() -> None:
    volume, rays, targets = make_volume("small", False), make_rays(40), random_targets(40)
    gradients = zero_gradients(volume)
    reference.render_gradients(volume, *rays, targets, LossWeights(0, 0), gradients)
    density = torch.tensor(volume.density, requires_grad=True)
    features = torch.tensor(volume.features, requires_grad=True)
    rgb, _, _ = reference.render_rays(
        replace(volume, density=density, features=features), *(torch.tensor(array) for array in rays)
    )
    (rgb - torch.tensor(targets[:, :3])).square().mean().backward()
    np.testing.assert_allclose(gradients.density, density.grad, atol=1e-14)
    np.testing.assert_allclose(gradients.features, features.grad, atol=1e-14)


@every_scene
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_of_a_loss_are_its_slopes_by_pixels_backpropagated(kind: str, has_rows: bool, weighted: bool) -> None:
    """`render_gradients` is the loss, then `backpropagate`; all but two terms, which are losses of samples."""
    volume, rays, targets = make_volume(kind, has_rows), make_rays(40), random_targets(40)
    losses = replace(LOSSES, point_color=0.0, distortion=0.0)
    weights = np.random.default_rng(6).random(40) if weighted else None
    fused, apart = zero_gradients(volume), zero_gradients(volume)
    terms = reference.render_gradients(volume, *rays, targets, losses, fused, weights=weights)

    leaves = [torch.tensor(array, requires_grad=True) for array in reference.render_rays(volume, *rays)[:2]]
    target, share = torch.tensor(targets), torch.tensor(np.ones(40) if weights is None else weights)
    p = leaves[1].clamp(1e-6, 1 - 1e-6)
    of_rays = (leaves[0] - target[:, :3]).square().mean(1) + losses.opacity * (1 - leaves[1] - target[:, 3]).square()
    of_rays = of_rays + losses.background_entropy * (-p * p.log() - (1 - p) * (1 - p).log())
    loss = (share * of_rays).mean()
    loss.backward()
    reference.backpropagate(volume, *rays, *(leaf.grad.numpy() for leaf in leaves), None, apart)

    of_terms = terms["mse"] + losses.opacity * terms["opacity"] + losses.background_entropy * terms["background_entropy"]
    assert of_terms == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_array_equal(fused.touched, apart.touched)
    pairs = [(fused.density, apart.density), (fused.features, apart.features)]
    pairs += [pair for layers in zip(fused.layers, apart.layers, strict=True) for pair in zip(*layers, strict=True)]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-14)


def test_backpropagation_agrees_with_finite_differences_of_colour_background_and_depth() -> None:
    volume, rays = make_volume("small", False), make_rays(40)
    rng = np.random.default_rng(7)
    slopes = rng.normal(size=(40, 3)), rng.normal(size=40), rng.normal(size=40)
    gradients = zero_gradients(volume)
    reference.backpropagate(volume, *rays, *slopes, gradients)

    def loss() -> float:
        return sum(float((s * seen).sum()) for s, seen in zip(slopes, reference.render_rays(volume, *rays), strict=True))

    for array, gradient in ((volume.density, gradients.density), (volume.features, gradients.features)):
        for entry in [tuple(entry) for entry in rng.permutation(np.argwhere(gradient))[:12]]:
            slope = slope_by_differences(array, entry, loss)
            assert gradient[entry] == pytest.approx(slope, rel=1e-4, abs=1e-5 * np.abs(gradient).max())


def test_a_ray_of_weight_0_is_not_looked_at_and_weights_of_1_are_none() -> None:
    volume, rays, targets = make_volume("small", False), make_rays(40), random_targets(40)
    plain, ones, halves = (zero_gradients(volume) for _ in range(3))
    terms = reference.render_gradients(volume, *rays, targets, LOSSES, plain)
    assert reference.render_gradients(volume, *rays, targets, LOSSES, ones, weights=np.ones(40)) == terms
    np.testing.assert_array_equal(ones.features, plain.features)

    looked_at = np.arange(40) % 2 == 0
    some = zero_gradients(volume)
    of_some = reference.render_gradients(volume, *(a[looked_at] for a in rays), targets[looked_at], LOSSES, some)
    targets[~looked_at] = np.nan
    of_half = reference.render_gradients(volume, *rays, targets, LOSSES, halves, weights=looked_at.astype(float))
    np.testing.assert_array_equal(halves.touched, some.touched)
    np.testing.assert_allclose(halves.density, some.density / 2, atol=1e-15)  # the mean is over all 40
    assert of_half["n_live"] == of_some["n_live"] and of_half["mse"] == pytest.approx(of_some["mse"] / 2)


@every_scene
def test_roulette_is_the_pixel_and_its_gradient_in_the_mean(kind: str, has_rows: bool) -> None:
    volume = leaves_of(tensors(make_volume(kind, has_rows)))
    origins, directions = (torch.tensor(array) for array in make_rays(30))
    targets, slopes = torch.tensor(random_targets(30)), torch.tensor(np.random.default_rng(9).normal(size=(30, 3)))
    leaves = [volume.density, volume.features, *(array for layer in volume.layers for array in layer)]

    def seen_by(roulette: Roulette[torch.Tensor] | None) -> tuple[list[torch.Tensor], int]:
        seen = render(volume, origins, directions, roulette)
        pixel = seen.looks(None, targets).pixel
        return [pixel.detach(), *torch.autograd.grad((pixel * slopes).sum(), leaves)], len(seen.color)

    everything, n_shaded = seen_by(None)
    n = 128  # spread evenly over 0..1, they take each sample p of the time, but for 1 / n
    chances = [seen_by(Roulette(0.05, torch.full((30,), (i + 0.5) / n, dtype=torch.float64))) for i in range(n)]
    assert 0.1 * n_shaded < np.mean([n_colors for _, n_colors in chances]) < 0.9 * n_shaded
    for exact, *each in zip(everything, *(results for results, _ in chances), strict=True):
        mean, spread = torch.stack(each).mean(0), torch.stack(each).std(0).norm()
        assert spread > 0 and (mean - exact).norm() <= 8 * spread / n


def test_roulette_that_passes_nothing_over_is_none() -> None:
    volume, rays, targets = make_volume("small", False), make_rays(40), random_targets(40)
    plain, played = zero_gradients(volume), zero_gradients(volume)
    terms = reference.render_gradients(volume, *rays, targets, LOSSES, plain)
    all_have_one = Roulette(volume.equation.alpha_threshold, np.random.default_rng(1).random(40))
    assert reference.render_gradients(volume, *rays, targets, replace(LOSSES, roulette=all_have_one), played) == terms
    np.testing.assert_array_equal(played.density, plain.density)
    np.testing.assert_array_equal(played.features, plain.features)


def test_a_ray_whose_opacity_is_unknown_counts_as_one_without_a_target_for_it() -> None:
    volume, rays, targets = make_volume("small", False), make_rays(40), random_targets(40)
    mixed, apart = zero_gradients(volume), zero_gradients(volume)
    is_known = np.arange(40) % 3 == 0
    of_known = reference.render_gradients(volume, *rays, targets, LOSSES, apart, weights=is_known.astype(float))
    reference.render_gradients(volume, *rays, targets[:, :3].copy(), LOSSES, apart, weights=(~is_known).astype(float))
    targets[~is_known, 3] = np.nan
    terms = reference.render_gradients(volume, *rays, targets, LOSSES, mixed)
    assert terms["opacity"] == pytest.approx(of_known["opacity"]) and terms["opacity"] > 0
    np.testing.assert_array_equal(mixed.touched, apart.touched)
    np.testing.assert_allclose(mixed.density, apart.density, atol=1e-15)
    np.testing.assert_allclose(mixed.features, apart.features, atol=1e-15)


def test_the_entropy_is_flat_where_a_ray_is_all_wall_or_all_background() -> None:
    volume, rays = make_volume("logits", False), make_rays(40)
    for raw in (200.0, -200.0):
        extreme = replace(volume, density=np.full_like(volume.density, raw), cells=np.ones_like(volume.cells))
        plain, entropic = zero_gradients(volume), zero_gradients(volume)
        terms = reference.render_gradients(extreme, *rays, random_targets(40), LossWeights(0, 0), plain)
        reference.render_gradients(extreme, *rays, random_targets(40), LossWeights(1, 0), entropic)
        np.testing.assert_array_equal(plain.density, entropic.density)
        margin = 1e-6
        entropy = -margin * math.log(margin) - (1 - margin) * math.log(1 - margin)
        assert terms["background_entropy"] == pytest.approx(entropy)


# ------------------------------------------------------------------------------ occupied cells and skipping


def test_a_cell_is_found_if_it_is_allowed_and_a_corner_is_above_the_floor() -> None:
    rng = np.random.default_rng(0)
    density, allowed = rng.normal(size=(5, 3, 4)), rng.integers(0, 2, (4, 2, 3)).astype(np.uint8) * 7
    free, bound = reference.find_cells(density, 1.2, None), reference.find_cells(density, 1.2, allowed)
    assert free.dtype == bound.dtype == np.uint8
    for cell in np.ndindex(4, 2, 3):
        highest = density[tuple(slice(c, c + 2) for c in cell)].max()
        assert free[cell] == (highest > 1.2)
        assert bound[cell] == (highest > 1.2 and allowed[cell] != 0)
    with pytest.raises(ValueError, match="allowed: expected"):
        reference.find_cells(density, 1.2, allowed[:1])


@pytest.mark.parametrize(("shape", "n_occupied"), [((21, 9, 14), 3), ((8, 30, 1), 1), ((4, 4, 4), 0), ((5, 6, 7), 40)])
def test_skip_is_the_distance_in_blocks_to_the_nearest_occupied_block(shape: tuple[int, ...], n_occupied: int) -> None:
    rng = np.random.default_rng(1)
    cells = np.zeros(shape, np.uint8)
    cells.reshape(-1)[rng.permutation(cells.size)[:n_occupied]] = 1
    skip = reference.measure_skip(cells)
    assert skip.shape == tuple(math.ceil(side / SKIP_BLOCK) for side in shape) and skip.dtype == np.uint8
    occupied = np.argwhere(cells) // SKIP_BLOCK
    for block in np.ndindex(skip.shape):
        assert skip[block] == (np.abs(occupied - block).max(1).min() if n_occupied else 255)


def test_skip_is_capped_at_255_blocks() -> None:
    cells = np.zeros((SKIP_BLOCK * 300, 1, 1), np.uint8)
    cells[0] = 1
    np.testing.assert_array_equal(reference.measure_skip(cells).ravel(), np.arange(300).clip(max=255))


# --------------------------------------------------------------------------------------------- optimisation


@pytest.mark.parametrize("channels", [(), (5,)])
def test_masked_adam_is_adam_where_everything_has_a_gradient(channels: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(30, *channels))
    theirs = torch.tensor(values, requires_grad=True)
    adam = torch.optim.Adam([theirs], lr=0.1, betas=ADAM_BETAS, eps=ADAM_EPSILON)
    first, second = np.zeros_like(values), np.zeros_like(values)
    for step in range(1, 6):
        gradient = rng.normal(size=values.shape)
        theirs.grad = torch.tensor(gradient)
        adam.step()
        touched = None if step % 2 else np.ones(30, np.uint8)
        reference.masked_adam(values, gradient, first, second, touched, rate=0.1, step=step)
        assert not gradient.any()
    np.testing.assert_allclose(values, theirs.detach(), rtol=1e-9)


def test_masked_adam_leaves_alone_what_is_untouched_or_without_gradient() -> None:
    rng = np.random.default_rng(3)
    before = rng.random((4, 50, 3))
    touched = rng.integers(0, 2, 50).astype(np.uint8)
    before[1][rng.random((50, 3)) < 0.3] = 0
    values, gradient, first, second = before.copy()
    rate = rng.random(50)
    reference.masked_adam(values, gradient, first, second, touched, rate=rate, step=3)
    moves = (touched[:, None] != 0) & (before[1] != 0)
    for ours, theirs in ((values, before[0]), (first, before[2]), (second, before[3])):
        np.testing.assert_array_equal(ours != theirs, moves)
    np.testing.assert_array_equal(gradient, np.where(touched[:, None] != 0, 0, before[1]))
    m, v = 0.9 * before[2] + 0.1 * before[1], 0.99 * before[3] + 0.01 * before[1] ** 2
    speed = m / (1 - 0.9**3) / (np.sqrt(v / (1 - 0.99**3)) + ADAM_EPSILON)
    np.testing.assert_allclose(values, np.where(moves, before[0] - rate[:, None] * speed, before[0]), rtol=1e-9)


def test_total_variation_is_the_slope_of_the_huber_distance_of_neighbours() -> None:
    rng = np.random.default_rng(4)
    values = 1.5 * rng.normal(size=(4, 3, 5, 2))

    def energy() -> float:
        rises = [np.abs(np.diff(values, axis=axis)) for axis in range(3)]
        return float(sum(np.where(rise < 1, rise**2 / 2, rise - 0.5).sum() for rise in rises))

    before = rng.normal(size=values.shape)
    everywhere, somewhere = before.copy(), before.copy()
    reference.add_total_variation(values, everywhere, None, weight=0.3)
    for entry in [tuple(entry) for entry in rng.permutation(list(np.ndindex(values.shape)))[:30]]:
        slope = slope_by_differences(values, entry, energy)
        assert (everywhere - before)[entry] == pytest.approx(0.3 * slope, rel=1e-6, abs=1e-8)
    touched = rng.integers(0, 2, values.shape[:3]).astype(np.uint8)
    reference.add_total_variation(values, somewhere, touched, weight=0.3)
    np.testing.assert_array_equal(somewhere, np.where(touched[..., None] != 0, everywhere, before))


# ---------------------------------------------------------------------------------------------------- codes


def test_the_code_of_a_vector_is_the_first_of_its_nearest_codewords(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    vectors, codebook = rng.normal(size=(200, 5)), rng.normal(size=(37, 5))
    codebook[20] = codebook[3]
    vectors[:5] = codebook[20]
    distance = ((vectors[:, None] - codebook) ** 2).sum(-1)
    for chunk in (reference_rows.CHUNK_DISTANCES, 400):
        monkeypatch.setattr(reference_rows, "CHUNK_DISTANCES", chunk)
        codes, squared_distance = reference.assign_codes(vectors, codebook)
        assert codes.dtype == np.int32 and squared_distance.dtype == np.float32
        np.testing.assert_array_equal(codes, distance.argmin(1))
        np.testing.assert_allclose(squared_distance, distance.min(1), rtol=1e-5)
    assert (codes[:5] == 3).all()
    with pytest.raises(ValueError, match="codebook: expected"):
        reference.assign_codes(vectors, codebook[:0])


def test_sums_by_code_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(7)
    values, weights = rng.normal(size=(80, 4)).astype(np.float32), rng.random(80)
    codes = rng.integers(0, 9, 80).astype(np.int32)
    sums, totals = reference.sum_by_code(values, weights, codes, 12)
    assert sums.dtype == totals.dtype == np.float64
    for code in range(12):
        own = codes == code
        np.testing.assert_allclose(sums[code], (weights[own, None] * values[own].astype(np.float64)).sum(0), atol=1e-12)
        np.testing.assert_allclose(totals[code], weights[own].sum(), atol=1e-12)


def test_tied_gradients_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(8)
    gradient, table = rng.normal(size=(60, 3)), rng.normal(size=(7, 3))
    rows, touched = rng.integers(-1, 7, 60).astype(np.int32), rng.integers(0, 2, 60).astype(np.uint8)
    expected_table, expected = table.copy(), gradient.copy()
    for voxel in range(60):
        if touched[voxel] and rows[voxel] >= 0:
            expected_table[rows[voxel]] += gradient[voxel]
            expected[voxel] = 0
    reference.tie_gradients(gradient, rows, touched, table)
    np.testing.assert_allclose(table, expected_table)
    np.testing.assert_array_equal(gradient, expected)


# -------------------------------------------------------------------------------------------------- pyramid


def test_raising_a_level_adds_the_mean_of_the_parents_and_lowering_is_its_adjoint() -> None:
    rng = np.random.default_rng(9)
    coarse, fine, gradient = rng.normal(size=(11, 3)), rng.normal(size=(40, 3)), rng.normal(size=(40, 3))
    parents = rng.integers(0, 11, (40, 8)).astype(np.int32)
    raised, lowered = fine.copy(), np.zeros_like(coarse)
    reference.raise_level(raised, coarse, parents)
    for node in range(40):
        np.testing.assert_allclose(raised[node], fine[node] + coarse[parents[node]].mean(0))
    reference.lower_gradient(gradient, lowered, children_of(parents, 11))
    assert ((raised - fine) * gradient).sum() == pytest.approx((coarse * lowered).sum(), rel=1e-12)


def test_placing_rows_leaves_the_others_and_taking_them_is_its_adjoint() -> None:
    rng = np.random.default_rng(13)
    values, table, gradient = rng.normal(size=(8, 3)), rng.normal(size=(20, 3)), rng.normal(size=(20, 3))
    places, scales, taken = rng.permutation(20)[:8], np.array([0.5, 2.0, -3.0]), np.full((8, 3), np.nan)
    placed, left = table.copy(), gradient.copy()
    reference.place_rows(values, scales, places, placed)
    reference.take_rows(left, scales, places, taken)
    others = np.setdiff1d(np.arange(20), places)
    np.testing.assert_array_equal(placed[others], table[others])
    np.testing.assert_array_equal(left[others], gradient[others])
    assert not left[places].any()
    assert (placed[places] * gradient[places]).sum() == pytest.approx((values * taken).sum(), rel=1e-12)
    np.testing.assert_allclose(placed[places], values * scales)


@pytest.mark.parametrize("has_matrix", [False, True])
def test_moving_is_the_sum_over_touched_voxels(has_matrix: bool) -> None:
    rng = np.random.default_rng(12)
    gradient, rows, touched = rng.normal(size=(50, 3)), rng.normal(size=(20, 3)), rng.integers(0, 2, 50).astype(np.uint8)
    voxels, matrix = rng.permutation(50)[:20], rng.normal(size=(3, 3)) if has_matrix else None
    expected_rows, expected = rows.copy(), gradient.copy()
    for row, voxel in enumerate(voxels):
        if touched[voxel]:
            expected_rows[row] = gradient[voxel] if matrix is None else matrix.T @ gradient[voxel]
            expected[voxel] = 0
    reference.move_gradients(gradient, voxels, touched, matrix, rows)
    np.testing.assert_allclose(rows, expected_rows)
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize("dead_zone", [0.0, 0.2, 0.5])
def test_rounding_goes_to_the_nearest_step_but_for_the_dead_zone(dead_zone: float) -> None:
    rng = np.random.default_rng(10)
    steps = np.array([0.25, 1.0, 3.0])
    values = 5 * rng.normal(size=(500, 3)) * steps
    rounded = np.empty_like(values)
    reference.round_to_steps(values, steps, dead_zone, rounded)
    whole = rounded / steps
    np.testing.assert_array_equal(whole, np.rint(whole))
    rest = np.abs(values / steps) - np.abs(whole)  # how far a value is beyond what it is rounded to
    assert rest.min() >= -(0.5 - dead_zone) - 1e-9 and rest.max() <= 0.5 + dead_zone + 1e-9
    assert (whole * values >= 0).all()
    again = np.empty_like(values)
    reference.round_to_steps(rounded, steps, min(dead_zone, 0.49), again)
    np.testing.assert_array_equal(again, rounded)


def test_no_value_is_rounded_to_more_steps_than_a_code_reaches() -> None:
    rounded = np.empty((2, 2))
    reference.round_to_steps(np.array([[1e9, -1e9], [16397.2, 16396.7]]), np.array([2.0, 1.0]), 0.0, rounded)
    np.testing.assert_array_equal(rounded, [[2 * MAX_STEPS, -MAX_STEPS], [2 * 8199, MAX_STEPS]])


def test_the_rate_gradient_is_the_slope_of_the_logarithms() -> None:
    rng = np.random.default_rng(11)
    values, steps = rng.normal(size=(30, 4)), np.array([0.1, 0.5, 1.0, 4.0])
    before = rng.normal(size=values.shape)
    gradient = before.copy()
    one_bit = np.full(values.shape, 16, np.uint8)
    reference.add_rate_gradient(values, steps, one_bit, 0.7, gradient)

    def bits() -> float:
        return float(0.7 * np.log1p(np.abs(values) / steps).sum())

    for entry in [tuple(entry) for entry in rng.permutation(list(np.ndindex(values.shape)))[:30]]:
        slope = slope_by_differences(values, entry, bits)
        assert (gradient - before)[entry] == pytest.approx(slope, rel=1e-5)
    unmoved = before.copy()
    reference.add_rate_gradient(np.zeros_like(values), steps, one_bit, 0.7, unmoved)
    np.testing.assert_array_equal(unmoved, before)


@pytest.mark.parametrize("bits", [0.5, 5.0])
def test_the_rate_gradient_near_0_is_what_the_first_step_costs_and_far_away_the_logarithms(bits: float) -> None:
    steps = np.array([0.1, 2.0])
    values = np.array([[1e-3], [0.2], [1.0], [2.0], [100.0]]) * steps * [1, -1]
    alone, gradient = np.zeros_like(values), np.zeros_like(values)
    reference.add_rate_gradient(values, steps, np.full(values.shape, 16, np.uint8), 0.7, alone)
    reference.add_rate_gradient(values, steps, np.full(values.shape, round(16 * bits), np.uint8), 0.7, gradient)
    share = (gradient / alone - 1) / (bits - 1)
    np.testing.assert_allclose(share[[0, -1]], [[1, 1], [0, 0]], atol=1e-6)
    assert (np.diff(share, axis=0) < 0).all()
    np.testing.assert_allclose(share[:, 0], share[:, 1])
