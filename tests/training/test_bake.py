"""Baking: harmonics that a network already is are found again, and the rest are the best there are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import assert_same_field

from vqrf.cameras import Camera
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene
from vqrf.fields.cells import active_voxels
from vqrf.fields.field import RadianceField
from vqrf.kernels.equation import view_harmonics
from vqrf.rendering.evaluate import evaluate, psnr
from vqrf.rendering.render import render
from vqrf.training import bake
from vqrf.training.bake import BAKE_DIRECTIONS, MAX_LOGIT, HarmonicsModel, bake_directions, bake_harmonics, grow
from vqrf.training.loop import optimize
from vqrf.training.stages import FINE_LOSSES

Y0, Y1 = 0.28209479177387814, 0.4886025119029199


def cameras_of(scene: Scene) -> list[Camera]:
    return [view.camera for view in scene.train]


def linear_field(ball: RadianceField, n_features: int = 2) -> RadianceField:
    """The ball with a network whose logits are linear in features and direction, as harmonics of degree 1 are."""
    random = np.random.default_rng(0)
    weight = random.normal(0, 0.4, (3, n_features + 3)).astype(np.float32)
    bias = random.normal(0, 0.4, 3).astype(np.float32)
    features = random.normal(size=(*ball.lattice.shape, n_features)).astype(np.float32)
    return replace(ball, features=features, color_mlp=((weight, bias),))


@pytest.mark.parametrize("n_channels", [12, 27])
def test_a_network_that_is_harmonics_is_found_again(ball_field: RadianceField, scene: Scene, n_channels: int) -> None:
    field = linear_field(ball_field)
    voxels = ball_field.density > 0
    baked = bake_harmonics(field, cameras_of(scene), voxels, n_channels=n_channels)
    assert (baked.equation.shading, baked.color_mlp, baked.n_channels) == ("sh", (), n_channels)
    (weight, bias), places = field.color_mlp[0], field.features[voxels]
    found = baked.features[voxels].reshape(len(places), 3, -1)
    np.testing.assert_allclose(found[..., 0] * Y0, places @ weight[:, :2].T + bias, atol=1e-3)
    x, y, z = weight[:, 2:].T
    np.testing.assert_allclose(found[..., 1:4] * Y1, np.tile(np.stack([-y, z, -x], -1), (len(places), 1, 1)), atol=2e-3)
    np.testing.assert_allclose(found[..., 4:], 0, atol=2e-3)
    assert not baked.features[~voxels].any()


def test_plain_colours_stay_what_they_are(ball_field: RadianceField, scene: Scene) -> None:
    baked = bake_harmonics(ball_field, cameras_of(scene), np.ones(ball_field.lattice.shape, bool))
    np.testing.assert_allclose(baked.features[..., ::4] * Y0, ball_field.features, atol=1e-4)
    np.testing.assert_allclose(np.delete(baked.features, [0, 4, 8], axis=-1), 0, atol=1e-4)


def test_no_other_harmonics_are_nearer_to_the_logits(trained: RadianceField, scene: Scene) -> None:
    """Least squares by its definition: what is left over is orthogonal to every harmonic."""
    voxels = np.zeros(trained.lattice.shape, bool)
    voxels[tuple(np.argwhere(trained.density == trained.density.max())[0])] = True
    baked = bake_harmonics(trained, cameras_of(scene), voxels)
    directions = bake_directions(cameras_of(scene))
    hidden = np.concatenate([np.tile(trained.features[voxels], (len(directions), 1)), encode(directions)], 1)
    for number, (weight, bias) in enumerate(trained.color_mlp):
        hidden = (np.maximum(hidden, 0) if number else hidden) @ weight.T + bias
    harmonics = view_harmonics(torch.from_numpy(directions).double(), 4).numpy()
    left_over = np.clip(hidden, -MAX_LOGIT, MAX_LOGIT) - harmonics @ baked.features[voxels].reshape(3, 4).T
    np.testing.assert_allclose(harmonics.T @ left_over, 0, atol=1e-3)
    assert np.abs(left_over).max() > 1e-3  # a network is no plane: this tests something


def encode(directions: np.ndarray) -> np.ndarray:
    angles = (directions[:, :, None] * 2.0 ** np.arange(4)).reshape(len(directions), -1)
    return np.concatenate([directions, np.sin(angles), np.cos(angles)], 1)


def test_colours_beyond_every_logit_are_baked_to_finite_harmonics(ball_field: RadianceField, scene: Scene) -> None:
    bright = replace(ball_field, features=np.where(ball_field.features > 0, 1e30, -1e30).astype(np.float32))
    baked = bake_harmonics(bright, cameras_of(scene), np.ones(ball_field.lattice.shape, bool))
    np.testing.assert_allclose(np.abs(baked.features[..., ::4]) * Y0, MAX_LOGIT, rtol=1e-3)


def test_a_baked_field_looks_like_the_one_it_was(trained: RadianceField, scene: Scene, importance: np.ndarray) -> None:
    baked = bake_harmonics(trained, cameras_of(scene), importance > 0)
    gray = replace(baked, features=np.zeros_like(baked.features))
    for view in scene.test:
        expected = render(trained, view.camera).rgb
        found, worst = (psnr(render(field, view.camera).rgb, expected) for field in (baked, gray))
        assert found > max(25, worst + 6)


def test_directions_are_those_that_cameras_look_in(scene: Scene) -> None:
    cameras = cameras_of(scene)
    directions = bake_directions(cameras)
    assert directions.shape == (12, 3)
    for direction, camera in zip(directions, cameras, strict=True):
        _, rays = camera.rays()
        middle = rays.reshape(camera.height, camera.width, 3)[camera.height // 2 - 1 : camera.height // 2 + 1]
        expected = middle[:, camera.width // 2 - 1 : camera.width // 2 + 1].mean((0, 1))
        np.testing.assert_allclose(direction, expected / np.linalg.norm(expected), atol=0.02)
    assert len(bake_directions(cameras * 9)) == BAKE_DIRECTIONS


# Growth


def test_a_field_that_grew_looks_as_it_did_and_has_so_many_more_voxels(trained: RadianceField, scene: Scene) -> None:
    grown = grow(trained)
    assert grown.lattice.n_voxels == pytest.approx(bake.GROWTH * trained.lattice.n_voxels, rel=0.15)
    assert (grown.lattice.lo, grown.lattice.hi) == (trained.lattice.lo, trained.lattice.hi)
    assert (grown.equation.step_world, grown.equation.interval) == (trained.equation.step_world, trained.equation.interval)
    for view in scene.test:
        assert psnr(render(grown, view.camera).rgb, render(trained, view.camera).rgb) > 27


def test_growth_interpolates_what_is_looked_at(ball_field: RadianceField) -> None:
    place = ball_field.lattice.world_from_index(np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), -1))
    plane = (place @ [1.0, -2.0, 0.5]).astype(np.float32)
    grown = grow(replace(ball_field, density=plane), growth=3.0)
    index = np.stack(np.meshgrid(*[np.arange(side) for side in grown.lattice.shape], indexing="ij"), -1)
    there = grown.lattice.world_from_index(index)
    np.testing.assert_allclose(grown.density, there @ [1.0, -2.0, 0.5], atol=1e-5)
    np.testing.assert_allclose(grown.features, 4 * there, atol=1e-5)


def test_what_was_never_looked_at_shows_nowhere_after_growth(ball_field: RadianceField, ball_camera: Camera) -> None:
    allowed = np.zeros((15, 15, 15), np.uint8)
    allowed[4:11, 4:11, 4:11] = 1
    field = replace(ball_field, allowed=allowed)
    filled = np.where(active_voxels(field), field.density, 30).astype(np.float32)
    for grown in (grow(field), grow(replace(field, density=filled))):
        np.testing.assert_array_equal(grown.density, grow(field).density)
        assert grown.allowed is not None
        cells = np.argwhere(grown.allowed)
        centres = grown.lattice.world_from_index(cells + 0.5)
        assert (field.allowed[tuple(np.floor(field.lattice.index_from_world(centres)).astype(int).T)] == 1).all()
        assert len(cells) * np.prod(grown.lattice.extent / (np.array(grown.lattice.shape) - 1)) == pytest.approx(
            (7 * 2 / 15) ** 3, rel=0.3
        )


def test_a_field_at_the_limit_does_not_grow(ball_field: RadianceField, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bake, "MAX_GROWN_VOXELS", 16**3)
    assert grow(ball_field) is ball_field
    monkeypatch.setattr(bake, "MAX_GROWN_VOXELS", 5000)
    assert ball_field.lattice.n_voxels < grow(ball_field).lattice.n_voxels <= 5000


# Tuning


def tuned(model: HarmonicsModel, scene: Scene, steps: int) -> RadianceField:
    for _ in optimize(model, RayPool(scene.train), steps=steps, rays_per_step=512, seed=(0,)):
        pass
    return model.field()


def test_tuning_wins_back_what_baking_lost(trained: RadianceField, scene: Scene, importance: np.ndarray) -> None:
    baked = bake_harmonics(trained, cameras_of(scene), importance > 0)
    after = tuned(HarmonicsModel(baked, FINE_LOSSES, 60), scene, 60)
    assert evaluate(after, scene.test).psnr > evaluate(baked, scene.test).psnr + 1
    assert (after.equation.shading, after.color_mlp) == ("sh", ())
    unseen = ~active_voxels(baked)
    np.testing.assert_array_equal(after.density[unseen], baked.density[unseen])


def test_a_model_that_was_restored_goes_on_as_the_other(trained: RadianceField, scene: Scene, importance: np.ndarray) -> None:
    baked = bake_harmonics(trained, cameras_of(scene), importance > 0)
    first, second = (HarmonicsModel(baked, FINE_LOSSES, 64) for _ in range(2))
    tuned(first, scene, 32)
    second.restore({name: values.clone() for name, values in first.state().items()}, 32)
    fields = []
    for model in (first, second):
        pool = RayPool(scene.train)
        model.prepare(32)
        batch = [torch.from_numpy(array) for array in pool.sample(256, seed=(7,)).arrays]
        model.kernels.render_gradients(model.volume, *batch, model.losses, model.gradients)
        model.update(32)
        fields.append(model.field())
    assert_same_field(*fields)
    assert (fields[0].features != baked.features).any()
