"""A field that teaches another: its pixels are its renders, and the student comes to look like it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tiny import TINY

from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField
from vqrf.rendering.render import render
from vqrf.training.loop import optimize
from vqrf.training.teacher import Teacher
from vqrf.training.train import coarse_model


def test_the_targets_are_the_teachers_renders_without_rounding(scene: Scene, trained: RadianceField) -> None:
    cameras = [view.camera for view in scene.train[:3]]
    batch = Teacher(trained, cameras).sample(500, seed=(0,))
    images = [render(trained, camera) for camera in cameras]
    rendered = np.concatenate([np.concatenate([i.rgb, i.opacity[..., None]], -1).reshape(-1, 4) for i in images])
    pixels = np.random.default_rng((0,)).integers(0, len(rendered), 500)
    np.testing.assert_allclose(batch.targets, rendered[pixels], atol=1e-6)
    assert batch.weights is None
    assert np.abs(batch.targets * 255 - np.rint(batch.targets * 255)).mean() > 0.01


def test_a_teacher_asks_for_the_pixels_that_photos_of_the_same_cameras_have(scene: Scene, trained: RadianceField) -> None:
    teacher, photos = Teacher(trained, [view.camera for view in scene.train]), RayPool(scene.train)
    for source in (teacher, photos):
        source.keep_hits(trained.volume())
    np.testing.assert_array_equal(teacher.state()["kept_pixels"], photos.state()["kept_pixels"])
    for a, b in zip(teacher.sample(64, seed=(1, 2)).arrays[:2], photos.sample(64, seed=(1, 2)).arrays[:2], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_student_comes_to_look_like_its_teacher(scene: Scene, trained: RadianceField) -> None:
    teacher = Teacher(trained, [view.camera for view in scene.train])
    config = replace(TINY, coarse=replace(TINY.coarse, steps=128))
    model = coarse_model(scene, config, seed=0, device="cpu")

    def error() -> float:
        pairs = [(render(field, view.camera), view) for field in (model.field(), trained) for view in scene.test]
        n = len(scene.test)
        return float(np.mean([(a.rgb - b.rgb) ** 2 for (a, _), (b, _) in zip(pairs[:n], pairs[n:], strict=True)]))

    before = error()
    for _ in optimize(model, teacher, steps=128, rays_per_step=512, seed=(0,)):
        pass
    assert error() < before / 4
