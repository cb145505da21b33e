"""Where things are is worked out from where cameras stand and look, at any scale; and axes that cannot be are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vqrf.cameras import Camera, cameras_around
from vqrf.data.listing import Listing, SceneError
from vqrf.data.load import SceneOptions, load_scene
from vqrf.data.placement import Placement, PlacementError, Wishes, fault_of, place
from vqrf.data.scene import Scene, View, camera_bounds, save_scene

LISTING = Listing(Path("x"), "x", ())
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
RADIUS = 3.0
PLACES = [(1.0, 0.0), (10.0, 0.0), (0.1, 0.0), (3.0, 300_000.0), (1e-3, 5.0)]
each_place = pytest.mark.parametrize(("scale", "offset"), PLACES)


def around(n: int = 24, radius: float = RADIUS) -> list[Camera]:
    """Cameras three radii away from the middle of a ball."""
    return list(cameras_around((0.0, 0.0, 0.0), radius, n, 40, below=0.2))


def moved(cameras: list[Camera], scale: float, offset: float) -> list[Camera]:
    """The same cameras in a world that is scaled and moved."""
    found = []
    for camera in cameras:
        pose = camera.pose.copy()
        pose[:3, 3] = pose[:3, 3] * scale + offset
        found.append(replace(camera, pose=pose))
    return found


def placed(cameras: list[Camera], listing: Listing = LISTING, *, is_plain: bool = True, **wishes: object) -> Placement:
    return place(cameras, listing, Wishes(**wishes), is_plain=is_plain)  # type: ignore[arg-type]


@each_place
@pytest.mark.parametrize("is_plain", [False, True])
@pytest.mark.parametrize("has_points", [False, True])
def test_near_far_and_box_scale_and_move_with_the_world(scale: float, offset: float, is_plain: bool, has_points: bool) -> None:
    points = np.random.default_rng(0).normal(size=(500, 3)) if has_points else None
    base = placed(around(), replace(LISTING, points=points), is_plain=is_plain)
    there = replace(LISTING, points=None if points is None else points * scale + offset)
    found = placed(moved(around(), scale, offset), there, is_plain=is_plain)
    assert (found.near / scale, found.far / scale) == pytest.approx((base.near, base.far), rel=1e-6)
    assert (found.box is None) == (base.box is None)
    if base.box is not None and found.box is not None:
        np.testing.assert_allclose((np.array(found.box) - offset) / scale, base.box, rtol=1e-4, atol=1e-5)
    assert found.up == (0, 0, 1)


@each_place
def test_a_thing_on_a_plain_background_is_in_the_box_and_between_near_and_far(scale: float, offset: float) -> None:
    cameras = moved(around(), scale, offset)
    found = placed(cameras)
    assert found.box is not None
    ball = np.random.default_rng(0).normal(size=(2000, 3))
    ball *= RADIUS * scale / np.linalg.norm(ball, axis=-1, keepdims=True)
    lo, hi = (np.array(corner) - offset for corner in found.box)
    assert (lo <= ball.min(0)).all() and (ball.max(0) <= hi).all()
    assert np.prod(hi - lo) < 1.6 * (2 * RADIUS * scale) ** 3
    for camera in cameras:
        distances = np.linalg.norm(ball + offset - camera.pose[:3, 3], axis=-1)
        assert found.near <= distances.min() and distances.max() <= found.far


def test_the_usual_cameras_have_the_usual_bounds_and_no_box() -> None:
    found = placed(list(cameras_around((0, 0, 0), 4.03 / 3, 20, 40)))
    assert (found.near, found.far, found.box) == (2.0, 6.0, None)


@pytest.mark.parametrize("n", [1, 2])
def test_few_cameras_say_nothing_about_where_things_are(n: int) -> None:
    assert (placed(around(n)).near, placed(around(n)).far) == (2.0, 6.0)


def test_the_order_of_trust_is_user_dataset_custom() -> None:
    cameras = around()
    sure = replace(LISTING, near=1.0, far=9.0)
    assert (placed(cameras, sure).near, placed(cameras, sure).far) == (1.0, 9.0)
    assert (placed(cameras, sure, near=2.0).near, placed(cameras, sure, near=2.0).far) == (2.0, 9.0)
    found = placed(cameras, sure, box=(-1.0, -1.0, -1.0, 1.0, 1.0, 1.0))
    assert found.box is not None and found.source == "the user"
    assert found.near < 3 * RADIUS - 1 and found.far > 3 * RADIUS + 1
    box = np.full(3, -1.0), np.full(3, 1.0)
    assert placed(cameras, replace(LISTING, box=box)).box is box
    rough = replace(LISTING, near=2.5, far=90.0, is_rough=True)
    assert placed(cameras, rough, is_plain=False).far == pytest.approx(9 * RADIUS, rel=1e-6)
    assert placed(cameras, rough, is_plain=False).near == 2.5


def test_a_near_that_the_far_is_before_is_refused() -> None:
    with pytest.raises(PlacementError, match="give both"):
        placed(around(), near=1e6)
    for wrong in ({"near": 3.0, "far": 2.0}, {"near": -1.0}, {"box": (0.0,) * 6}, {"up": (0.0, 0.0, 0.0)}):
        with pytest.raises(ValueError, match="expected"):
            Wishes(**wrong)  # type: ignore[arg-type]


def test_a_box_holds_no_more_than_its_cameras_see() -> None:
    camera = around()[0]
    view = View(camera, np.zeros((40, 40, 3), np.uint8), "a")
    box = np.array([-0.5, -0.5, -1e9]), np.array([0.5, 0.5, 1e9])
    lo, hi = camera_bounds(Scene((view,), (), (1.0, 1.0, 1.0), 2.0, 6.0, "x", box=box))
    assert (lo[:2] == -0.5).all() and (hi[:2] == 0.5).all() and hi[2] - lo[2] < 20
    assert (lo < hi).all()


@pytest.mark.parametrize("turn", [(1, 0, 0), (0, 1, 0), (0, 0, -1), (0.3, -0.6, 0.74)])
def test_up_is_across_the_horizons_of_the_cameras(turn: tuple[float, ...]) -> None:
    z = np.array(turn) / np.linalg.norm(turn)
    x = np.linalg.qr(np.stack([z, *np.eye(3)[:2]], 1))[0][:, 1]
    rotation = np.eye(4)
    rotation[:3, :3] = np.stack([x, np.cross(z, x), z], 1)
    some = [replace(camera, pose=rotation @ camera.pose) for camera in around(40) if camera.pose[0, 3] > 0]
    np.testing.assert_allclose(placed(some).up, z, atol=1e-6)
    assert placed(some, up=(0.0, 3.0, 4.0)).up == pytest.approx((0, 0.6, 0.8))


@each_place
def test_poses_with_axes_of_opencv_and_inverted_ones_are_named(scale: float, offset: float) -> None:
    cameras = moved(around(), scale, offset)
    assert fault_of(cameras) is None
    flipped = fault_of([replace(camera, pose=camera.pose @ FLIP) for camera in cameras])
    assert flipped is not None and "OpenCV's axes" in flipped
    for turned in (camera.pose for camera in moved(around(), scale, 0.3 * scale)), (c.pose @ FLIP for c in around()):
        inverted = fault_of([replace(camera, pose=np.linalg.inv(pose)) for camera, pose in zip(cameras, turned, strict=True)])
        assert inverted is not None and "inverted" in inverted


def test_cameras_side_by_side_and_strewn_ones_are_no_fault() -> None:
    random = np.random.default_rng(0)
    beside, strewn = [], []
    for camera in around():
        pose = np.eye(4)
        pose[:2, 3] = random.normal(size=2)
        beside.append(replace(camera, pose=pose))
        pose = np.eye(4)
        pose[:3, :3] = np.linalg.qr(random.normal(size=(3, 3)))[0]
        pose[:3, 0] *= np.linalg.det(pose[:3, :3])
        pose[:3, 3] = 5 * random.normal(size=3)
        strewn.append(replace(camera, pose=pose))
    assert fault_of(beside) is None and fault_of(strewn) is None


def test_a_dataset_of_wrong_axes_is_refused_and_taken_where_the_user_says_how(tmp_path: Path) -> None:
    views = [View(camera, np.full((40, 40, 3), 255, np.uint8), f"train/r_{i}") for i, camera in enumerate(around())]
    flipped = tuple(replace(view, camera=replace(view.camera, pose=view.camera.pose @ FLIP)) for view in views)
    save_scene(Scene(flipped, (), (1.0, 1.0, 1.0), 2.0, 6.0, "x"), tmp_path)
    with pytest.raises(SceneError, match="OpenCV's axes"):
        load_scene(tmp_path)
    turned = load_scene(tmp_path, options=SceneOptions(axes="opencv", hold_out="0"))
    np.testing.assert_allclose(turned.train[3].camera.pose, views[3].camera.pose, atol=1e-12)
    kept = load_scene(tmp_path, options=SceneOptions(axes="opengl", hold_out="0"))
    np.testing.assert_allclose(kept.train[3].camera.pose, flipped[3].camera.pose, atol=1e-12)


def test_photos_of_a_place_without_an_end_get_a_space_without_one() -> None:
    cameras = around()
    points = np.random.default_rng(0).normal(size=(50, 3))
    rough = replace(LISTING, near=2.5, far=90.0, is_rough=True)
    for listing in (LISTING, replace(LISTING, points=points), rough):
        assert placed(cameras, listing, is_plain=False).space == "unbounded"
        assert placed(cameras, listing, is_plain=False, space="box").space == "box"
        assert placed(cameras, listing, is_plain=False, near=0.1).space == "unbounded"
    outwards = [replace(camera, pose=camera.pose @ FLIP) for camera in cameras]
    assert placed(outwards, is_plain=False).space == "unbounded"


def test_what_has_an_end_lies_in_a_box() -> None:
    cameras = around()
    box = np.full(3, -1.0), np.full(3, 1.0)
    ends = {"near": 1.0, "far": 9.0}, {"box": box}, {"background": (1.0, 1.0, 1.0)}
    assert {placed(cameras, replace(LISTING, **end), is_plain=False).space for end in ends} == {"box"}  # type: ignore[arg-type]
    assert placed(cameras).space == "box"
    assert placed(cameras, is_plain=False, far=20.0).space == "box"
    assert placed(cameras, is_plain=False, box=(-1.0, -1.0, -1.0, 1.0, 1.0, 1.0)).space == "box"
    assert placed(cameras[:2], is_plain=False).space == "box"
    usual = list(cameras_around((0, 0, 0), 4.03 / 3, 20, 40))
    assert placed(usual, replace(LISTING, layout="Blender"), is_plain=False).space == "box"


def test_photos_that_all_look_one_way_get_the_space_in_front_of_them() -> None:
    first = around()[0]
    narrow = [first.moved(0.1 * x * first.pose[:3, 0]) for x in range(8)]
    assert placed(narrow, is_plain=False).space == "front"
    assert placed(narrow[:1] * 5, is_plain=False).space == "front"  # a tripod
    there = -narrow[0].pose[:3, 2]
    nearer = [camera.moved(0.3 * x * there) for x, camera in enumerate(narrow)]
    assert placed(nearer, is_plain=False).space == "box"
    assert placed(narrow[:2], is_plain=False).space == "box"
    assert placed(narrow).space == "box"
    assert placed(narrow, is_plain=False, far=20.0).space == "box"
