"""A field as a .vqrf without any choosing: it looks like the field."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from changed import changed
from tiny import emptied

from vqrf.cameras import Camera
from vqrf.codec.bitstream import decode, encode
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.preview import preview
from vqrf.rendering.evaluate import psnr
from vqrf.rendering.render import render


def test_a_preview_looks_like_its_field(ball_field: RadianceField, ball_camera: Camera) -> None:
    again = expand(decode(encode(preview(ball_field))))
    before, after = render(ball_field, ball_camera), render(again, ball_camera)
    assert psnr(after.rgb, before.rgb) > 40
    assert before.opacity.max() > 0.9


def test_a_preview_of_a_trained_field_looks_like_it(trained: RadianceField, scene: Scene) -> None:
    again = expand(decode(encode(preview(trained))))
    for view in scene.test:
        assert psnr(render(again, view.camera).rgb, render(trained, view.camera).rgb) > 35


@pytest.mark.parametrize("n_channels", [12, 27])
def test_a_preview_of_harmonics_is_of_harmonics(ball_field: RadianceField, ball_camera: Camera, n_channels: int) -> None:
    features = np.random.default_rng(0).normal(size=(16, 16, 16, n_channels)).astype(np.float32)
    field = changed(ball_field, features=features, shading="sh")
    again = expand(decode(encode(preview(field))))
    assert again.equation.shading == "sh"
    assert psnr(render(again, ball_camera).rgb, render(field, ball_camera).rgb) > 35


def test_a_preview_keeps_only_what_can_be_seen(ball_field: RadianceField) -> None:
    kept = preview(ball_field).n_kept
    assert 0 < kept < ball_field.lattice.n_voxels / 2


@pytest.mark.parametrize("value", [-100.0, 1e6])
def test_a_field_with_nothing_or_everything_in_it_has_a_preview(
    ball_field: RadianceField, ball_camera: Camera, value: float
) -> None:
    field = emptied(ball_field) if value < 0 else replace(ball_field, density=np.full_like(ball_field.density, value))
    again = expand(decode(encode(preview(field))))
    assert psnr(render(again, ball_camera).rgb, render(field, ball_camera).rgb) > 40
