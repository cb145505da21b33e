"""Pyramids of every kind of field: what is tuned is what the file holds, and turning features into latents costs no colour."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from changed import changed

from vqrf.cameras import Camera
from vqrf.codec.bitstream import decode, encode
from vqrf.compression.compact import CompactPreset, PyramidModel
from vqrf.compression.priced import Rounding
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField, expand
from vqrf.rendering.render import render
from vqrf.training.loop import optimize

ROUNDING = Rounding(density_step=4e-3, feature_step=0.01, dead_zone=0.0)
FINE = CompactPreset(n_levels=2, prune=1.0, rounding=ROUNDING, steps=4, rays_per_step=128)
"""Steps so fine that rounding can hardly be seen. (Finer latents would leave the first layer, of 8 bits, too few for them.)"""
N_CHANNELS = 5


def with_network(field: RadianceField, of_features: int) -> RadianceField:
    """The same shape, coloured by a small random network that takes so many frequencies of the features."""
    rng = np.random.default_rng(1)
    sides = [N_CHANNELS * (1 + 2 * of_features) + 3 + 6, 32, 32, 3]
    layers = tuple(
        (
            (rng.standard_normal((out, inputs)) * (1.6 / inputs) ** 0.5).astype(np.float32),
            (0.3 * rng.standard_normal(out)).astype(np.float32),
        )
        for inputs, out in pairwise(sides)
    )
    mixed = (field.features / 4 @ rng.standard_normal((3, N_CHANNELS))).astype(np.float32)
    return changed(field, features=mixed, color_mlp=layers, feature_frequencies=of_features)


def with_harmonics(field: RadianceField) -> RadianceField:
    """The same shape as Plenoxels has it."""
    mixed = (field.features / 8 @ np.random.default_rng(2).standard_normal((3, 27))).astype(np.float32)
    density = np.maximum(field.density + field.equation.density_bias, 0)
    return changed(field, density=density, density_bias=0.0, features=mixed, shading="sh_relu", activation="relu")


@pytest.fixture(params=["logits", "network", "frequencies", "plenoxels"])
def field(request: pytest.FixtureRequest, ball_field: RadianceField) -> RadianceField:
    return {
        "logits": lambda: ball_field,
        "network": lambda: with_network(ball_field, 0),
        "frequencies": lambda: with_network(ball_field, 2),
        "plenoxels": lambda: with_harmonics(ball_field),
    }[request.param]()


def model_of(field: RadianceField, config: CompactPreset) -> PyramidModel:
    return PyramidModel(field, np.ones(field.lattice.shape), config)


def assert_shows_what_the_file_holds(model: PyramidModel, field: RadianceField, camera: Camera) -> None:
    model.prepare(0)  # brings the volume to the parameters, as before a step
    packed = model.pack()
    read = decode(encode(packed))
    assert read == packed
    assert (read.equation.shading, read.equation.activation) == (field.equation.shading, field.equation.activation)
    assert read.equation.feature_frequencies == field.equation.feature_frequencies
    np.testing.assert_allclose(render(model.volume, camera).rgb, render(expand(read), camera).rgb, atol=1e-3)


def test_what_is_tuned_is_what_the_file_holds_before_and_after(field: RadianceField, ball_camera: Camera, scene: Scene) -> None:
    model = model_of(field, replace(FINE, rounding=replace(ROUNDING, density_step=0.5, feature_step=0.02)))
    assert_shows_what_the_file_holds(model, field, ball_camera)
    for _ in optimize(model, RayPool(scene.train), steps=4, rays_per_step=128, seed=(0,)):
        pass
    assert_shows_what_the_file_holds(model, field, ball_camera)


def test_latents_that_are_hardly_rounded_have_the_colours_of_the_features(field: RadianceField, ball_camera: Camera) -> None:
    """Whether the first layer takes them, or a basis makes features of them."""
    packed = model_of(field, FINE).pack()
    error = render(expand(packed), ball_camera).rgb - render(field, ball_camera).rgb
    assert np.sqrt(np.mean(error**2)) < 0.01


def test_a_network_of_frequencies_takes_features_and_others_take_latents(ball_field: RadianceField) -> None:
    """Waves are not linear in the features, so that no first layer could take latents in their place."""
    assert model_of(with_network(ball_field, 2), FINE).basis is not None
    assert model_of(with_network(ball_field, 0), FINE).basis is None
