"""Losses as functions: they teach as the kernels' own loss does, weights count, and patches have neighbours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import TINY

from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField
from vqrf.kernels import LossWeights, select
from vqrf.rendering.evaluate import evaluate
from vqrf.training.loop import optimize
from vqrf.training.losses import Loss, Pixels, by_autograd, squared_error
from vqrf.training.train import coarse_model

CONFIG = replace(TINY, coarse=replace(TINY.coarse, losses=LossWeights(0, 0)))


def edges(pixels: Pixels) -> torch.Tensor:
    """Squared error of colours, and of their differences between neighbours in a patch."""
    assert pixels.patch is not None
    shape = (-1, pixels.patch, pixels.patch, 3)
    error = (pixels.rgb - pixels.targets[:, :3]).view(shape)
    return error.square().mean() + error.diff(dim=1).square().mean() + error.diff(dim=2).square().mean()


def learnt(scene: Scene, source: RayPool, loss: Loss | None, steps: int = 64) -> tuple[RadianceField, list[float]]:
    """What the coarse stage learns, and the error of each batch."""
    model = coarse_model(scene, CONFIG, seed=0, device="cpu")
    errors = [p.mse for p in optimize(model, source, steps=steps, rays_per_step=512, seed=(0,), loss=loss)]
    return model.field(), errors


def random_pixels(weighted: bool) -> Pixels:
    rng = torch.Generator().manual_seed(0)
    rgb, targets = (torch.rand(50, 3, generator=rng) for _ in range(2))
    return Pixels(rgb, torch.rand(50), torch.rand(50), targets, torch.rand(50, generator=rng) if weighted else None)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_slopes_of_the_squared_error_are_its_derivatives(weighted: bool) -> None:
    pixels = random_pixels(weighted)
    weights = torch.ones(50) if pixels.weights is None else pixels.weights
    found = squared_error(pixels)
    again = by_autograd(lambda p: (weights[:, None] * (p.rgb - p.targets).square()).mean())(pixels)
    assert found.value == pytest.approx(again.value)
    torch.testing.assert_close(found.d_rgb, again.d_rgb)
    assert again.d_background_weight is None and again.d_depth is None


def test_what_a_loss_does_not_depend_on_has_no_slope() -> None:
    found = by_autograd(lambda p: p.depth.sum())(random_pixels(weighted=False))
    assert not found.d_rgb.any() and found.d_background_weight is None
    assert found.d_depth is not None and (found.d_depth == 1).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_a_loss_as_a_function_teaches_as_the_fused_one_does(scene: Scene, weighted: bool) -> None:
    views = list(scene.train)
    if weighted:
        rng = np.random.default_rng(0)
        views = [replace(view, weight=rng.integers(0, 256, view.image.shape[:2], np.uint8)) for view in views]
    fused, as_function = (learnt(scene, RayPool(views), loss, 12) for loss in (None, squared_error))
    np.testing.assert_allclose(as_function[1], fused[1], rtol=1e-3)


def test_a_loss_of_patches_is_learnt_from(scene: Scene) -> None:
    pool = RayPool(scene.train, patch=4)
    some = pool.sample(400 * 16, seed=(9,))

    def loss_of(field: RadianceField) -> float:
        seen = (torch.from_numpy(array) for array in select().render_rays(field.volume(), some.origins, some.directions))
        return float(edges(Pixels(*seen, torch.from_numpy(some.targets), None, some.patch)))

    begun, ended = (learnt(scene, pool, by_autograd(edges), steps)[0] for steps in (1, 128))
    assert loss_of(ended) < 0.9 * loss_of(begun)
    assert evaluate(ended, scene.test).psnr > evaluate(begun, scene.test).psnr
