"""The benchmark of a deferred network: the gradients that the kernels bring back are those of autograd."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from changed import changed

from vqrf.cameras import Camera
from vqrf.data.rays import CameraTable
from vqrf.fields.field import RadianceField
from vqrf.kernels import equation
from vqrf.rendering.render import render

Y0 = 0.28209479177387814


@pytest.fixture(scope="module")
def deferred() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "deferred.py"
    spec = importlib.util.spec_from_file_location("deferred", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules["deferred"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def baked(ball_field: RadianceField) -> RadianceField:
    """The ball in harmonics of degree 1: its own colours, and something that depends on the direction."""
    features = np.random.default_rng(0).normal(size=(*ball_field.lattice.shape, 12)).astype(np.float32)
    features[..., ::4] = ball_field.features / Y0
    return changed(ball_field, features=features, shading="sh")


def model_of(deferred: ModuleType, baked: RadianceField, n_features: int = 4) -> object:
    seen = np.ones(baked.lattice.shape, bool)
    return deferred.DeferredModel(baked, seen, n_features, 1e-3, 10, deferred.NO_LOSSES)


def test_a_deferred_network_begins_as_the_mean_colour(
    deferred: ModuleType, baked: RadianceField, ball_field: RadianceField, ball_camera: Camera
) -> None:
    found = model_of(deferred, baked).render(ball_camera)
    np.testing.assert_allclose(found, render(ball_field, ball_camera).rgb, atol=1e-5)


@pytest.mark.parametrize("n_features", [3, 4])
def test_the_gradients_of_a_deferred_network_are_those_of_autograd(
    deferred: ModuleType, baked: RadianceField, ball_camera: Camera, n_features: int
) -> None:
    model = model_of(deferred, baked, n_features)
    torch.nn.init.normal_(model.mlp[-1].weight, generator=torch.Generator().manual_seed(1))
    rays = CameraTable([ball_camera]).rays(np.arange(ball_camera.width * ball_camera.height))
    targets = np.random.default_rng(1).random((len(rays[0]), 3), np.float32)
    model.differentiate(*rays, targets)

    density = model.density.values[..., 0].clone().requires_grad_()
    features = [part.values.clone().requires_grad_() for part in model.parts]
    sums, hit = [], None
    for volume, part in zip(model.volumes, features, strict=True):
        volume = replace(equation.tensors(volume), density=density, features=part)
        seen = equation.render(volume, *(torch.from_numpy(array) for array in rays))
        sums.append(seen.pixel)
        hit = (seen.background_weight < 1)[:, None]
    error = (model.shade(sums, hit, rays[1]) - torch.from_numpy(targets)).square().mean()
    expected = torch.autograd.grad(error, [density, *features])
    found = [model.density.gradient[..., 0], *(part.gradient for part in model.parts)]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    assert all(theirs.abs().max() > 0 for theirs in expected)
