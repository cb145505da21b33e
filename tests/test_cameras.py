"""Cameras: rays against projections, where cameras stand, and what they refuse."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_geometry import point

from vqrf.cameras import VIEWING_DISTANCE, Camera, cameras_around, cameras_within, upright, yaw_of
from vqrf.geometry import Float64


@st.composite
def poses(draw: st.DrawFn) -> Float64:
    """Any rotation (from a quaternion) and any position."""
    q = np.array([draw(st.floats(-1, 1)) for _ in range(4)])
    norm = np.linalg.norm(q)
    w, x, y, z = q / norm if norm > 0.1 else np.array([1.0, 0, 0, 0])
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = draw(point)
    return pose


@st.composite
def cameras(draw: st.DrawFn) -> Camera:
    width, height = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    fx, fy = draw(st.floats(5, 100)), draw(st.floats(5, 100))
    cx, cy = draw(st.floats(0, 30)), draw(st.floats(0, 30))
    return Camera(draw(poses()), fx, fy, cx, cy, width, height)


@given(cameras())
def test_a_point_on_a_ray_projects_back_to_the_centre_of_its_pixel(camera: Camera) -> None:
    origins, directions = camera.rays()
    points = origins.astype(np.float64) + 3.0 * directions
    x, y, z = ((points - camera.pose[:3, 3]) @ camera.pose[:3, :3]).T
    numbers = np.arange(camera.width * camera.height)
    assert (z < 0).all(), "a camera looks along its -z axis"
    np.testing.assert_allclose(camera.cx + camera.fx * x / -z, numbers % camera.width + 0.5, atol=5e-3)
    np.testing.assert_allclose(camera.cy - camera.fy * y / -z, numbers // camera.width + 0.5, atol=5e-3)


@given(cameras())
def test_rays_have_unit_length_and_start_at_the_camera(camera: Camera) -> None:
    origins, directions = camera.rays()
    assert origins.dtype == directions.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(origins, np.tile(camera.pose[:3, 3], (len(origins), 1)), rtol=1e-6, atol=1e-30)


@given(cameras(), st.data())
def test_the_rays_of_some_pixels_are_those_of_all_pixels_taken_there(camera: Camera, data: st.DataObject) -> None:
    number = st.integers(0, camera.width * camera.height - 1)
    pixels = np.array(data.draw(st.lists(number, min_size=1, max_size=9)), np.int64)
    for some, every in zip(camera.rays(pixels), camera.rays(), strict=True):
        np.testing.assert_array_equal(some, every[pixels])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pose": np.eye(3)}, r"expected \[4,4\]"),
        ({"pose": np.full((4, 4), np.nan)}, "not finite"),
        ({"pose": np.diag([2.0, 2, 2, 1])}, "not rigid"),
        ({"pose": np.diag([1.0, 1, -1, 1])}, "mirrored"),
        ({"pose": np.eye(4) + 1e14 * np.eye(4, k=3)}, "beyond the limit"),
        ({"cx": 1e13}, "principal point"),
        ({"pose": np.eye(4) + np.eye(4)[[3, 1, 2, 0]] * [1, 0, 0, 0]}, "last row"),
        ({"fx": 0.0}, "focal"),
        ({"fy": np.inf}, "finite"),
        ({"height": 0}, "at least 1x1"),
    ],
)
def test_a_camera_that_cannot_be_is_refused(change: dict[str, object], reason: str) -> None:
    camera = Camera(np.eye(4), 10, 10, 5, 5, 10, 10)
    with pytest.raises(ValueError, match=reason):
        dataclasses.replace(camera, **change)


def test_cameras_around_a_ball_see_all_of_it_and_no_more() -> None:
    """The oracle: points of the ball's surface, projected; none leaves the image, and some come to its borders."""
    middle, radius, side = np.array([-1.0, 2.0, 0.5]), 1.7, 100
    surface = np.random.default_rng(0).normal(size=(2000, 3))
    surface = middle + radius * surface / np.linalg.norm(surface, axis=-1, keepdims=True)
    for camera in cameras_around(middle, radius, 20, side):
        local = (surface - camera.pose[:3, 3]) @ camera.pose[:3, :3]
        pixels = np.stack([local[:, 0] / -local[:, 2], local[:, 1] / local[:, 2]], -1) * camera.fx + side / 2
        assert (local[:, 2] < 0).all() and (pixels >= 0).all() and (pixels <= side).all()
        assert pixels.min() < 0.01 * side and pixels.max() > 0.99 * side
        assert np.linalg.norm(camera.pose[:3, 3] - middle) == pytest.approx(VIEWING_DISTANCE * radius)


def test_cameras_around_a_ball_stand_evenly_on_all_sides() -> None:
    places = np.stack([camera.pose[:3, 2] for camera in cameras_around((0, 0, 0), 1.0, 100, 8)])
    np.testing.assert_allclose(places.mean(0), 0, atol=0.02)
    apart = np.arccos(np.clip(places @ places.T - 2 * np.eye(100), -1, 1)).min(1)
    assert apart.min() > 0.6 * apart.max()
    turned = np.stack([camera.pose[:3, 2] for camera in cameras_around((0, 0, 0), 1.0, 100, 8, turn=1.0)])
    np.testing.assert_allclose(turned[:, 2], places[:, 2])
    np.testing.assert_allclose((turned[:, :2] * places[:, :2]).sum(-1), np.cos(1) * (1 - places[:, 2] ** 2), atol=1e-9)


@pytest.mark.parametrize("below", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_cameras_around_a_ball_are_below_it_as_often_as_asked(below: float) -> None:
    """Even in height is even on a hemisphere (Archimedes' hat box), and so the mean height is a half."""
    height = np.stack([camera.pose[2, 2] for camera in cameras_around((0, 0, 0), 1.0, 1000, 8, below=below)])
    assert (height < 0).sum() == round(1000 * below)
    for side in (height[height > 0], -height[height < 0]):
        if len(side):
            assert side.mean() == pytest.approx(0.5) and side.std() == pytest.approx(12**-0.5, rel=1e-3)


def test_cameras_within_limits_are_everywhere_there_and_nowhere_else() -> None:
    target, up = np.array([3.0, -1.0, 2.0]), np.array([0.0, 0.6, 0.8])
    cameras = cameras_within(target, (2.0, 5.0), (-20.0, 50.0), 400, 8, up=up)
    away = np.stack([camera.pose[:3, 3] for camera in cameras]) - target
    distance = np.linalg.norm(away, axis=-1)
    back = away / distance[:, None]
    pitch = np.degrees(np.arcsin(back @ up))
    across = back - (back @ up)[:, None] * up
    np.testing.assert_allclose(np.stack([camera.pose[:3, 2] for camera in cameras]), back, atol=1e-12)
    np.testing.assert_allclose(np.stack([camera.pose[:3, 0] for camera in cameras]) @ up, 0, atol=1e-12)
    for values, low, high in ((distance, 2.0, 5.0), (pitch, -20.0, 50.0)):
        assert low <= values.min() < low + 0.02 * (high - low) and high - 0.02 * (high - low) < values.max() <= high
    np.testing.assert_allclose(across.mean(0), 0, atol=0.02)
    near, low = distance < 3.5, back @ up < np.median(back @ up)
    for a, b in ((near, low), (near, across[:, 0] > 0), (low, across[:, 0] > 0)):  # how near, how high, from where: all mixed
        assert 80 < (a & b).sum() < 120
    assert not np.allclose(cameras_within(target, (2.0, 5.0), (-20.0, 50.0), 400, 8, up=up, turn=1.0)[7].pose, cameras[7].pose)


def test_cameras_within_limits_of_their_sides_are_on_all_of_these_and_on_no_other() -> None:
    up = np.array([0.0, 0.6, 0.8])
    cameras = cameras_within((3, -1, 2), (2.0, 5.0), (-20.0, 50.0), 400, 8, up=up, yaws=(-0.5, 1.5))
    back = np.stack([camera.pose[:3, 2] for camera in cameras])
    yaw = yaw_of(back, up)
    assert -0.5 <= yaw.min() < -0.49 and 1.49 < yaw.max() <= 1.5
    assert 80 < ((yaw < 0.5) & (back @ up < np.median(back @ up))).sum() < 120, "how high and from where are mixed"
    np.testing.assert_allclose(yaw_of(upright(up) @ (np.cos(0.7), np.sin(0.7), 3.0), up), 0.7)


@pytest.mark.parametrize(
    ("distances", "pitches", "n"),
    [((0.0, 1.0), (0.0, 9.0), 4), ((2.0, 1.0), (0.0, 9.0), 4), ((1.0, 2.0), (9.0, 0.0), 4), ((1.0, 2.0), (0.0, 9.0), 0)],
)
def test_cameras_within_no_limits_are_refused(distances: tuple[float, float], pitches: tuple[float, float], n: int) -> None:
    with pytest.raises(ValueError, match="expected cameras"):
        cameras_within((0, 0, 0), distances, pitches, n, 8)


@pytest.mark.parametrize(
    ("radius", "n", "side", "below"),
    [(0.0, 4, 8, 0.5), (1.0, 0, 8, 0.5), (1.0, 4, 0, 0.5), (1.0, 4, 8, -0.1), (1.0, 4, 8, 1.1)],
)
def test_cameras_around_nothing_are_refused(radius: float, n: int, side: int, below: float) -> None:
    with pytest.raises(ValueError, match="expected cameras"):
        cameras_around((0, 0, 0), radius, n, side, below=below)
