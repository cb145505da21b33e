"""Baking: harmonics that a network already is are found again, and the rest are the best there are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vqrf.bake import BAKE_DIRECTIONS, MAX_LOGIT, bake_directions, bake_harmonics
from vqrf.evaluate import evaluate
from vqrf.field import RadianceField
from vqrf.geometry import Camera
from vqrf.kernels.equation import view_harmonics
from vqrf.scene import Scene

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
    assert (baked.shading, baked.color_mlp, baked.n_channels) == ("sh", (), n_channels)
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
    black = replace(baked, features=np.zeros_like(baked.features))
    scores = [evaluate(field, scene.test).psnr for field in (trained, baked, black)]
    assert scores[0] > scores[1] > scores[0] - 4
    assert scores[1] > scores[2] + 3


def test_a_field_of_harmonics_needs_no_baking(ball_field: RadianceField, scene: Scene) -> None:
    field = replace(ball_field, features=np.zeros((16, 16, 16, 27), np.float32), shading="sh")
    assert bake_harmonics(field, cameras_of(scene), np.ones((16, 16, 16), bool)) is field


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
