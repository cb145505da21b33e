"""Scenes far from the origin, as surveyors have them, are learnt, drawn and compressed as well as at the origin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tiny import TINY

from vqrf.cameras import Camera
from vqrf.codec.bitstream import decode, encode
from vqrf.compression.paper import PaperPreset
from vqrf.compression.presets import compress
from vqrf.data.scene import Scene, moved_scene
from vqrf.fields.field import RadianceField, expand
from vqrf.rendering.evaluate import evaluate
from vqrf.rendering.render import render
from vqrf.training.train import fit

AWAY = np.array([500_000.0, 4_649_776.0, 320.0])
"""Metres, of the kind that maps have: float32 tells places half a metre apart there."""


def test_a_field_far_away_looks_as_at_the_origin(ball_field: RadianceField, ball_camera: Camera) -> None:
    moved = replace(ball_field, lattice=ball_field.lattice.moved(AWAY))
    near, far = render(ball_field, ball_camera), render(moved, ball_camera.moved(AWAY))
    np.testing.assert_allclose(far.rgb, near.rgb, atol=1e-3)
    np.testing.assert_allclose(far.depth, near.depth, atol=1e-3)


def test_a_scene_far_away_is_learnt_and_compressed_as_at_the_origin(scene: Scene, trained: RadianceField) -> None:
    away = moved_scene(scene, AWAY)
    learnt = fit(away, TINY)
    assert np.abs(np.subtract(learnt.lattice.lo, AWAY)).max() < 10
    near = evaluate(trained, scene.test).psnr
    assert abs(evaluate(learnt, away.test).psnr - near) < 0.5
    preset = PaperPreset(steps=4, rays_per_step=256, n_codes=16)
    small, there = compress(trained, scene, preset), compress(learnt, away, preset)
    assert np.abs(np.subtract(there.lattice.lo, AWAY)).max() < 10
    again = expand(decode(encode(there)))
    loss = evaluate(expand(small), scene.test).psnr - evaluate(again, away.test).psnr
    assert abs(loss) < 0.7


def test_a_scene_near_the_origin_is_not_moved(scene: Scene) -> None:
    assert moved_scene(scene, np.zeros(3)) is scene
