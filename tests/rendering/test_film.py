"""Camera paths and films: where the cameras are, what they look at, and that a film has its pictures in it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vqrf.cameras import Camera, cameras_within, yaw_of
from vqrf.codec.about import About, FirstView
from vqrf.geometry import Lattice
from vqrf.rendering.film import FOV, PathError, load_path, orbit, spiral, writing_clip
from vqrf.rendering.poster import camera_of, view_amid

LATTICE = Lattice((-1.0, -2.0, 0.0), (3.0, 2.0, 1.0), (4, 4, 4))
MIDDLE = np.array([1.0, 0.0, 0.5])


def projected(camera: Camera, points: np.ndarray) -> np.ndarray:
    """[N,2] pixels and [N] depths of world points."""
    local = (points - camera.pose[:3, 3]) @ camera.pose[:3, :3]
    depth = -local[:, 2]
    x = camera.cx + camera.fx * local[:, 0] / depth
    y = camera.cy - camera.fy * local[:, 1] / depth
    return np.stack([x, y, depth], -1)


@pytest.mark.parametrize("path", [orbit, spiral])
def test_every_camera_looks_at_the_middle_and_sees_a_ball_that_almost_fills_the_box(path: Any) -> None:
    radius = np.linalg.norm(LATTICE.extent) / 2
    for camera in path(LATTICE, 7, (120, 80)):
        ((x, y, depth),) = projected(camera, MIDDLE[None])
        np.testing.assert_allclose([x, y], [60, 40])
        assert math.isclose(math.sin(FOV / 2) * depth, 0.9 * radius)
        assert math.isclose(40 / camera.fx, math.tan(FOV / 2))
        assert camera.pose[2, 1] > 0  # world +Z is up


def test_an_orbit_is_even_and_closes() -> None:
    places = np.array([camera.pose[:3, 3] for camera in orbit(LATTICE, 6, (8, 8))])
    steps = np.linalg.norm(places - np.roll(places, 1, 0), axis=1)
    np.testing.assert_allclose(steps, steps[0])
    assert np.ptp(places[:, 2]) < 1e-12


@pytest.mark.parametrize("up", [(0.0, -1.0, 0.0), (0.0, 0.0, -1.0), (0.6, 0.0, 0.8), (-0.48, 0.6, -0.64)])
def test_an_orbit_goes_around_what_is_up_and_stays_upright(up: tuple[float, float, float]) -> None:
    cameras = orbit(LATTICE, 6, (8, 8), up)
    middle = np.add(LATTICE.lo, LATTICE.hi) / 2
    heights = [(camera.pose[:3, 3] - middle) @ up for camera in cameras]
    np.testing.assert_allclose(heights, heights[0])
    assert heights[0] > 0
    for camera in cameras:
        assert abs(camera.pose[:3, 0] @ up) < 1e-12 and camera.pose[:3, 1] @ up > 0.5


def test_a_spiral_rises() -> None:
    heights = [camera.pose[2, 3] for camera in spiral(LATTICE, 9, (8, 8))]
    assert (np.diff(heights) > 0).all()


@pytest.mark.parametrize("path", [orbit, spiral])
@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, -3.0, 0.0), (0.6, 0.0, 0.8)])
@pytest.mark.parametrize("yaws", [None, (0.3, 2.0)])
def test_a_path_among_photos_stays_where_they_were_taken(
    path: Any, up: tuple[float, float, float], yaws: tuple[float, float] | None
) -> None:
    """The oracle is the metadata's own words: how near, how far, how low, how high, and what is looked at."""
    unit = np.array(up) / np.linalg.norm(up)
    around = cameras_within((3.0, 1.0, -2.0), (1.5, 2.0), (10.0, 40.0), 24, 16, up=unit, yaws=yaws)
    amid = view_amid(around, up)
    assert amid is not None and amid.view is not None and amid.distance is not None and amid.pitch is not None
    cameras = path(LATTICE, 9, (32, 24), up, amid)
    angles = [float(yaw_of(camera.pose[:3, 2], unit)) for camera in cameras]
    if yaws is not None:
        margin = math.radians(10.1)  # the first view is rounded
        assert all(yaws[0] - margin <= angle <= yaws[1] + margin for angle in angles)
    assert np.ptp(angles) > 1.5
    for camera in cameras:
        away = camera.pose[:3, 3] - amid.view.target
        distance = np.linalg.norm(away)
        assert amid.distance[0] <= distance <= amid.distance[1]
        assert amid.pitch[0] - 1e-9 <= math.degrees(math.asin(away @ unit / distance)) <= amid.pitch[1] + 1e-9
        np.testing.assert_allclose(camera.pose[:3, 2], away / distance, atol=1e-12)
        assert abs(camera.pose[:3, 0] @ unit) < 1e-12 and camera.pose[:3, 1] @ unit > 0
    if path is orbit:
        np.testing.assert_allclose(cameras[0].pose, camera_of(amid.view, (32, 24), up).pose, atol=1e-9)


def test_an_orbit_obeys_limits_without_a_first_view_and_a_first_view_without_limits() -> None:
    free = orbit(LATTICE, 4, (8, 8))
    for camera in orbit(LATTICE, 4, (8, 8), about=About(distance=(1.0, 2.5), pitch=(-10.0, 5.0))):
        away = camera.pose[:3, 3] - MIDDLE
        assert np.linalg.norm(away) == pytest.approx(2.5) and away[2] == pytest.approx(2.5 * math.sin(math.radians(5)))
    view = FirstView((1.0, 2.0, 5.0), (1.0, -2.0, 2.0))
    first, opposite = orbit(LATTICE, 2, (8, 8), about=About(view=view))
    np.testing.assert_allclose([first.pose[:3, 3], opposite.pose[:3, 3]], [view.position, (1.0, -6.0, 5.0)], atol=1e-12)
    assert np.linalg.norm(free[0].pose[:3, 3] - MIDDLE) > 2.5


POSE = np.array([[0, 0, 1, 4], [1, 0, 0, 5], [0, 1, 0, 6], [0, 0, 0, 1]], float)


VIEW = {"camera_to_world": POSE.tolist(), "fov": 50}


def written(folder: Path, tree: object) -> Path:
    path = folder / "path.json"
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return path


def test_the_path_of_nerfstudio_is_read(tmp_path: Path) -> None:
    view = {"camera_to_world": POSE.ravel().tolist(), "fov": 60, "aspect": 1}
    (camera,) = load_path(
        written(tmp_path, {"camera_path": [view], "fps": 24, "crop": None, "camera_type": "perspective"}), (64, 32)
    )
    np.testing.assert_array_equal(camera.pose, POSE)
    assert math.isclose(camera.fy, 16 / math.tan(math.radians(30))) and (camera.width, camera.height) == (64, 32)


def test_every_view_of_a_path_has_its_own_lens(tmp_path: Path) -> None:
    frame = {"transform_matrix": POSE.tolist()[:3]}
    own = {"fl_x": 400, "fl_y": 300, "cx": 150, "cy": 280, "w": 400, "h": 600}
    tree = {"fl_x": 800, "w": 400, "h": 600, "frames": [frame, frame | own]}
    first, second = load_path(written(tmp_path, tree), (40, 60))
    assert (first.fx, first.fy, first.cx, first.cy) == pytest.approx((80, 80, 20, 30))
    assert (second.fx, second.fy, second.cx, second.cy) == pytest.approx((40, 30, 15, 28))


def test_a_picture_of_another_aspect_is_as_wide(tmp_path: Path) -> None:
    tree = {"fl_x": 400, "cx": 150, "cy": 280, "w": 400, "h": 600, "frames": [{"transform_matrix": POSE.tolist()}]}
    (camera,) = load_path(written(tmp_path, tree), (40, 40))
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == pytest.approx((40, 40, 15, 18))


@pytest.mark.parametrize("angle", [{"camera_angle_x": 2 * math.atan(0.5)}, {"fl_x": 800, "w": 800}])
def test_the_frames_of_a_transforms_file_are_read(tmp_path: Path, angle: dict[str, float]) -> None:
    tree = {**angle, "frames": [{"transform_matrix": POSE.tolist()}] * 2}
    cameras = load_path(written(tmp_path, tree), (64, 32))
    assert [math.isclose(camera.fx, 64) for camera in cameras] == [True, True]
    np.testing.assert_array_equal(cameras[1].pose, POSE)


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ("{", "is not JSON"),
        ([], "expected a JSON object"),
        ({"frames": []}, "has no camera_path"),
        ({"keyframes": [{}]}, "only keyframes"),
        ({"path": [{"R": [0, 0, 0, 1]}]}, "instant-ngp's own paths are not read"),
        ({"frames": [{}], "camera_angle_x": 1}, "camera 0: transform_matrix: expected 4 rows"),
        ({"frames": [{"transform_matrix": POSE.tolist()}]}, "camera 0: there is no 'camera_angle_x' and no 'fl_x'"),
        ({"frames": [{"transform_matrix": POSE.tolist()[:2]}], "camera_angle_x": 1}, "camera 0: transform_matrix"),
        ({"camera_path": [{"camera_to_world": [[2, 0, 0, 0]] * 4, "fov": 50}]}, "camera 0: pose"),
        ({"camera_path": [{"camera_to_world": str(POSE.tolist()), "fov": 50}]}, "camera 0: camera_to_world: expected 4 rows"),
        ({"camera_path": [{"camera_to_world": POSE.tolist(), "fov": "wide"}]}, "camera 0: fov"),
        ({"camera_path": [{"camera_to_world": POSE.tolist(), "fov": 0}]}, "camera 0: fov"),
        ({"camera_path": [7]}, "camera 0: "),
        ({"camera_path": [VIEW], "camera_type": "equirectangular"}, "camera_type 'equirectangular' is not drawn"),
        ({"camera_path": [VIEW], "crop": {"crop_min": [0, 0, 0]}}, "key 'crop'"),
        ({"camera_path": [{**VIEW, "render_time": 0.5}]}, "camera 0: key 'render_time'"),
    ],
)
def test_what_is_no_path_is_refused_with_its_place(tmp_path: Path, tree: object, reason: str) -> None:
    path = written(tmp_path, tree)
    with pytest.raises(PathError) as caught:
        load_path(path, (8, 8))
    assert str(caught.value).startswith(f"{path}: ") and reason in str(caught.value)


def test_a_film_holds_its_pictures(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed")
    colors = np.array([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.2, 0.2, 0.9]], np.float32)
    path = tmp_path / "clip.mp4"
    with writing_clip(path, (64, 48), 25) as clip:
        for color in colors:
            clip.add(np.broadcast_to(color, (48, 64, 3)))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (64, 48, 25)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    np.testing.assert_allclose([frame.mean((0, 1)) / 255 for frame in frames], colors, atol=0.03)
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_film_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    (tmp_path / "clip.mp4").write_text("before")
    with pytest.raises(RuntimeError, match="enough"), writing_clip(tmp_path / "clip.mp4", (64, 48), 25):
        raise RuntimeError("enough")
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["before"]
