"""What is odd about a dataset is found, and nothing where nothing is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from corner import cameras_along, draw_corner

from vqrf.cameras import Camera, cameras_around
from vqrf.data.check import FEW_VIEWS, check_scene, reprojection_errors, stand_of
from vqrf.data.colmap import Observations
from vqrf.data.listing import Listing, Optics, Shot
from vqrf.data.scene import Scene, View

UP = (0.0, 0.0, 1.0)
AROUND = cameras_around((0.5, -1.0, 2.0), 1.0, 40, 64)


def spotted(camera: Camera) -> np.ndarray:
    """A photo of spots, other ones for every camera, all as sharp and as bright."""
    random = np.random.default_rng(int(1e6 * abs(camera.pose[:3, 3]).sum()))
    return random.integers(40, 200, (camera.height, camera.width, 3)).astype(np.uint8)


def scene_of(cameras: Sequence[Camera], n_test: int = 4) -> Scene:
    views = tuple(View(camera, spotted(camera), f"photo_{i}") for i, camera in enumerate(cameras))
    return Scene(views[n_test:], views[:n_test], (1.0, 1.0, 1.0), 1.0, 5.0, "spots")


def changed(scene: Scene, n: int, **parts: object) -> Scene:
    """The scene with something else about its n-th training view."""
    train = list(scene.train)
    train[n] = replace(train[n], **parts)
    return replace(scene, train=tuple(train))


def test_nothing_is_odd_about_good_photos_from_all_around() -> None:
    check = check_scene(scene_of(AROUND), {})
    assert check.warnings == () and not any(photo.doubts for photo in check.photos)
    assert [photo.split for photo in check.photos] == ["train"] * 36 + ["test"] * 4


@pytest.mark.parametrize(
    ("change", "doubt", "warning"),
    [
        (lambda image: np.repeat(np.repeat(image[::4, ::4], 4, 0), 4, 1) // 8 + 105, "blurred", "leave them out"),
        (lambda image: np.where(np.arange(64)[:, None] < 24, 255, image), "overexposed", "overexposed"),
        (lambda image: image // 2, "-1.0 stops of light", "another brightness"),
        (lambda image: image // 64, "black", "black"),
    ],
)
def test_a_photo_unlike_those_around_it_is_named(change: object, doubt: str, warning: str) -> None:
    scene = scene_of(AROUND)
    image = change(scene.train[7].image).astype(np.uint8)  # type: ignore[operator]
    check = check_scene(changed(scene, 7, image=image), {})
    assert {photo.name: photo.doubts for photo in check.photos if photo.doubts}.keys() == {"photo_11"}
    assert doubt in check.photos[7].doubts
    assert any(warning in line and "photo_11" in line for line in check.warnings)


def test_a_photo_that_is_masked_altogether_is_named_and_one_that_is_in_part_is_not() -> None:
    scene = scene_of(AROUND)
    nothing, half = np.zeros((64, 64), np.uint8), np.full((64, 64), 255, np.uint8)
    half[:32] = 0
    check = check_scene(changed(changed(scene, 3, weight=nothing), 5, opacity=half), {})
    assert check.photos[3].doubts == ("all masked",) and check.photos[3].looked_at == 0
    assert check.photos[5].doubts == () and check.photos[5].looked_at == 0.5


def test_the_stand_of_cameras_around_a_ball_is_told() -> None:
    stand = stand_of(AROUND, UP)
    np.testing.assert_allclose(stand.middle, (0.5, -1.0, 2.0), atol=1e-9)
    assert stand.distance == pytest.approx(3.0)
    assert stand.spread > math.radians(170) and stand.gap < math.radians(30)
    assert -math.pi / 2 < stand.lowest < -1 and 1 < stand.highest < math.pi / 2


def test_the_stand_does_not_depend_on_where_the_world_begins_and_on_its_unit() -> None:
    moved = []
    for camera in AROUND:
        pose = camera.pose.copy()
        pose[:3, 3] = 50 * pose[:3, 3] + (7, 8, 9)
        moved.append(replace(camera, pose=pose))
    before, after = stand_of(AROUND, UP), stand_of(moved, UP)
    assert after.distance == pytest.approx(50 * before.distance)
    assert (after.spread, after.gap, after.lowest) == pytest.approx((before.spread, before.gap, before.lowest))


def test_cameras_that_look_the_same_way_meet_nowhere_and_stand_on_one_side() -> None:
    cameras = []
    for x in np.linspace(-1, 1, 24):
        pose = np.eye(4)
        pose[0, 3] = x
        cameras.append(Camera(pose, 60.0, 60.0, 32.0, 32.0, 64, 64))
    stand = stand_of(cameras, UP)
    assert stand.middle[2] < 0, "before them"
    assert any("one side" in warning for warning in check_scene(scene_of(cameras), {}).warnings)


def test_what_is_odd_about_cameras_is_said() -> None:
    def warnings(cameras: Sequence[Camera], n_test: int = 4) -> str:
        return " | ".join(check_scene(scene_of(cameras, n_test), {}).warnings)

    far, turned = AROUND[9].pose.copy(), AROUND[9].pose.copy()
    far[:3, 3] *= 40
    turned[:3, :3] = turned[:3, :3] @ np.diag([-1.0, 1.0, -1.0])
    others = [*AROUND[:9], *AROUND[10:]]
    assert "photo_39 stand far off" in warnings([*others, replace(AROUND[9], pose=far)])
    assert "photo_39 do not see" in warnings([*others, replace(AROUND[9], pose=turned)])
    assert "few photos" in warnings(AROUND[: FEW_VIEWS + 3]) and "few photos" not in warnings(AROUND)
    assert "no photos are held out" in warnings(AROUND, 0)
    assert "focal length" in warnings([replace(camera, fx=3.0, fy=3.0) for camera in AROUND])
    half = [camera for camera in AROUND if camera.pose[0, 3] > 0.5 or camera.pose[2, 3] > 4.5]
    assert "of the circle" in warnings(half)


def corner_listing(poses: Sequence[np.ndarray]) -> Listing:
    optics = Optics(fx=220.0, fy=220.0, size=(200, 200))
    shots = [Shot(Path(f"{i}.png"), str(i), pose, optics) for i, pose in enumerate(poses)]
    return Listing(Path(), "test", tuple(shots))


def test_points_are_off_by_as_much_as_they_were_moved() -> None:
    cameras = cameras_along(6, 200)
    points = np.random.default_rng(0).uniform(-1, 0.5, (50, 3))
    listing = corner_listing([camera.pose for camera in cameras])
    observations = []
    for i, camera in enumerate(cameras[:5]):
        places = np.stack(camera.project(camera.local(points)), -1)
        observations.append(Observations(Path(f"{i}.png"), places + np.array([3.0, 4.0]) * i, points))
    errors = reprojection_errors(listing, observations)
    assert errors == pytest.approx({str(i): 5.0 * i for i in range(5)}, abs=1e-9)
    behind = replace(observations[0], points=2 * cameras[0].pose[:3, 3] - points)
    assert reprojection_errors(listing, [behind]) == {"0": math.inf}


def test_a_model_that_misses_its_photos_and_a_photo_that_misses_its_points_are_named() -> None:
    cameras = cameras_along(24, 64)
    views = tuple(View(camera, draw_corner(camera), str(i)) for i, camera in enumerate(cameras))
    scene = Scene(views, (), (1.0, 1.0, 1.0), 1.0, 5.0, "corner")
    good = {str(i): 0.5 for i in range(24)}
    assert not any("points" in warning for warning in check_scene(scene, good).warnings)
    one = check_scene(scene, {**good, "7": 20.0})
    assert [photo.name for photo in one.photos if photo.doubts] == ["7"] and "off its points" in one.photos[7].doubts
    wrong = check_scene(scene, dict.fromkeys(good, 9.0))
    assert any("miss their photos by 9.0 pixels" in warning for warning in wrong.warnings)
