"""Images: the same as the kernels' rays, whatever the batches; files: whole or not there."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from changed import changed
from tiny import emptied

from vqrf.cameras import Camera, Z, yaw_of
from vqrf.codec.about import About, FirstView
from vqrf.fields.field import RadianceField
from vqrf.kernels import select
from vqrf.rendering.render import OWN_TEST_VIEWS, own_scene, render, save_image


def march(field: RadianceField, origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, float, float]:
    """The rendering equation of `vqrf.kernels`, one ray, in plain Python: rgb, background weight, depth."""
    lo, hi = np.array(field.lattice.lo), np.array(field.lattice.hi)
    with np.errstate(divide="ignore"):
        ends = np.sort([(lo - origin) / direction, (hi - origin) / direction], axis=0)
    t, end = max(ends[0].max(), field.equation.near), ends[1].min()
    rgb, left, depth = np.zeros(3), 1.0, 0.0
    while t <= end and left >= 1e-3:
        u = field.lattice.index_from_world(origin + t * direction)
        cell = np.clip(np.floor(u).astype(int), 0, np.array(field.lattice.shape) - 2)
        f = u - cell
        corners = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
        shares = [np.prod([f[a] if c[a] else 1 - f[a] for a in range(3)]) for c in corners]
        at = [tuple(cell + c) for c in corners]
        density = sum(s * field.density[v] for s, v in zip(shares, at, strict=True))
        alpha = 1 - (1 + np.exp(density + field.equation.density_bias)) ** -field.equation.interval
        if alpha > field.equation.alpha_threshold:
            weight = left * alpha
            if weight > field.equation.alpha_threshold:
                features = sum(s * field.features[v] for s, v in zip(shares, at, strict=True))
                rgb += weight / (1 + np.exp(-features))
            depth += weight * t
            left *= 1 - alpha
        t += field.equation.step_world
    return rgb + left * np.array(field.equation.background), left, depth


def test_an_image_is_the_rendering_equation_at_every_pixel(ball_field: RadianceField, ball_camera: Camera) -> None:
    image = render(ball_field, ball_camera)
    assert image.rgb.shape == (20, 24, 3) and image.depth.shape == image.opacity.shape == (20, 24)
    assert image.rgb.dtype == image.depth.dtype == image.opacity.dtype == np.float32
    origins, directions = (a.astype(np.float64) for a in ball_camera.rays())
    for row, column in [(10, 12), (9, 14), (6, 10), (13, 13), (4, 12), (0, 0), (19, 23)]:
        ray = row * 24 + column
        rgb, left, depth = march(ball_field, origins[ray], directions[ray])
        np.testing.assert_allclose(image.rgb[row, column], rgb, atol=2e-4)
        assert image.opacity[row, column] == pytest.approx(1 - left, abs=2e-4)
        assert image.depth[row, column] == pytest.approx(depth, abs=1e-3)


def test_the_ball_is_where_it_is_and_the_corner_is_background(ball_field: RadianceField, ball_camera: Camera) -> None:
    image = render(ball_field.with_background((0.0, 0.5, 1.0)), ball_camera)
    assert image.opacity[10, 12] > 0.99
    assert 3 - 0.75 < image.depth[10, 12] < 3 - 0.3, "its surface is 0.6 before its centre, 3 away"
    assert image.opacity[0, 0] == image.depth[0, 0] == 0
    np.testing.assert_array_equal(image.rgb[0, 0], np.float32([0.0, 0.5, 1.0]))
    assert image.rgb[10, 15, 0] > image.rgb[10, 8, 0], "red grows with x, to the right"
    assert image.rgb[7, 12, 1] > image.rgb[12, 12, 1], "green grows with y, upwards"


def test_what_is_brighter_than_an_image_holds_is_cut_off_in_it_and_not_before(
    ball_field: RadianceField, ball_camera: Camera
) -> None:
    """Harmonics of degree 0 alone: one colour everywhere, half as bright again as white where the ball is."""
    features = np.zeros((*ball_field.lattice.shape, 27), np.float32)
    features[..., ::9] = 1 / 0.28209479177387814
    bright = changed(ball_field, features=features, shading="sh_relu", background=(0.0, 0.0, 0.0))
    image = render(bright, ball_camera)
    np.testing.assert_allclose(image.rgb, np.minimum(1.5 * image.opacity[..., None].repeat(3, -1), 1), atol=1e-3)
    assert (image.rgb == 1).any() and ((image.rgb > 0.1) & (image.rgb < 0.9)).any()


@pytest.mark.parametrize("rays_per_batch", [1, 7, 480, 10_000])
def test_the_image_does_not_depend_on_the_batches(ball_field: RadianceField, ball_camera: Camera, rays_per_batch: int) -> None:
    if rays_per_batch == 1:
        ball_camera = Camera(ball_camera.pose, 8.0, 8.0, 3.0, 2.5, 6, 5)
    volume = ball_field.volume()
    rgb, background_weight, depth = select().render_rays(volume, *ball_camera.rays())
    image = render(volume, ball_camera, rays_per_batch=rays_per_batch)
    np.testing.assert_allclose(image.rgb.reshape(-1, 3), rgb, atol=1e-6)
    np.testing.assert_allclose(image.opacity.ravel(), 1 - background_weight, atol=1e-6)
    np.testing.assert_allclose(image.depth.ravel(), depth, atol=1e-5)


def test_rooms_that_look_and_measure_do_not_import_torch() -> None:
    rooms = ", ".join(
        f"vqrf.{room}" for room in ("data.scene", "data.builtin", "rendering.render", "rendering.evaluate", "rendering.report")
    )
    code = f"import sys, {rooms}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_batch_of_no_rays_is_refused(ball_field: RadianceField, ball_camera: Camera) -> None:
    with pytest.raises(ValueError, match="rays_per_batch"):
        render(ball_field, ball_camera, rays_per_batch=0)


def test_a_saved_image_reads_back_as_the_nearest_bytes(tmp_path: Path) -> None:
    colors = np.random.default_rng(0).uniform(-0.2, 1.2, (5, 7, 3)).astype(np.float32)
    for array in (colors, colors[..., 0]):
        save_image(array, tmp_path / "image.png")
        with PIL.Image.open(tmp_path / "image.png") as image:
            assert np.abs(np.asarray(image) - 255 * np.clip(array, 0, 1)).max() <= 0.5 + 1e-4


def test_a_field_is_its_own_scene(ball_field: RadianceField) -> None:
    """The ball fills its own views; they are its renders, and no test view is a training view."""
    scene = own_scene(ball_field, 6, 32)
    assert (len(scene.train), len(scene.test)) == (6, OWN_TEST_VIEWS)
    assert scene.background == ball_field.equation.background
    for view in scene.train + scene.test:
        assert view.opacity is not None
        assert 0.2 < (view.opacity > 128).mean() < 0.6  # the ball is opaque some way inside of its last occupied cell
        assert not view.opacity[0].any() and not view.opacity[:, -1].any()
    view = scene.train[2]
    np.testing.assert_allclose(view.colors(), render(ball_field, view.camera).rgb, atol=0.5 / 255 + 1e-6)
    poses = [view.camera.pose.tobytes() for view in scene.train + scene.test]
    assert len(set(poses)) == len(poses)


def test_a_field_that_says_where_people_may_go_is_its_own_scene_from_there(ball_field: RadianceField) -> None:
    view = FirstView((0.0, -2.0, 0.5), (0.1, 0.0, 0.0))
    about = About(view=view, distance=(1.5, 3.0), pitch=(0.0, 45.0), up=(0.0, 0.0, 2.0))
    scene = own_scene(ball_field, 6, 32, about=about)
    away = np.stack([v.camera.pose[:3, 3] for v in (*scene.train, *scene.test)]) - view.target
    distance = np.linalg.norm(away, axis=1)
    assert ((distance >= 1.5) & (distance <= 3.0) & (away[:, 2] > 0)).all()
    assert (away[:, 2] < distance / math.sqrt(2)).all() and np.ptp(distance) > 0.5
    reach = max(np.linalg.norm(np.subtract(corner, view.target)) for corner in (ball_field.lattice.lo, ball_field.lattice.hi))
    assert distance.max() < scene.far < distance.max() + 2 * reach
    aside = own_scene(ball_field, 6, 32, about=replace(about, yaw=(-20.0, 30.0)))
    directions = np.stack([v.camera.pose[:3, 2] for v in (*aside.train, *aside.test)])
    turned = np.degrees(yaw_of(directions, Z) - yaw_of(np.subtract(view.position, view.target), Z))
    assert (turned > -20.001).all() and (turned < 30.001).all() and np.ptp(turned) > 30
    around = own_scene(ball_field, 6, 32, about=replace(about, pitch=None))
    assert {v.camera.fx for v in around.train} != {v.camera.fx for v in scene.train}, "a first view alone is no limit"


def test_an_empty_field_is_no_scene(ball_field: RadianceField) -> None:
    with pytest.raises(ValueError, match="nothing in the field"):
        own_scene(emptied(ball_field), 6, 32)
