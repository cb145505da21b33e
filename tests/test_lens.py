"""Lenses: what a lens sees at a place is laid at that place, and every model is COLMAP's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqrf.cameras import Camera
from vqrf.data.rays import CameraTable
from vqrf.lens import BROWN, CLOSED, Lens, names_of

WIDTH, HEIGHT = 640, 480
NUMBERS = {
    "SIMPLE_RADIAL": (-0.07,),
    "RADIAL": (-0.2, 0.05),
    "OPENCV": (-0.25, 0.07, 1e-3, -2e-3),
    "FULL_OPENCV": (0.3, -0.1, 1e-3, -2e-3, 0.02, 0.1, 0.05, 0.01),
    "SIMPLE_FISHEYE": (),
    "FISHEYE": (),
    "SIMPLE_RADIAL_FISHEYE": (0.03,),
    "RADIAL_FISHEYE": (0.03, -0.01),
    "OPENCV_FISHEYE": (0.03, -0.01, 0.002, -0.0005),
    "THIN_PRISM_FISHEYE": (0.03, -0.01, 1e-3, -2e-3, 0.002, -0.0005, 1e-3, 2e-3),
    "RAD_TAN_THIN_PRISM_FISHEYE": (0.03, -0.01, 0.002, -5e-4, 1e-4, -1e-5, 1e-3, -2e-3, 1e-3, 2e-3, -1e-3, 5e-4),
    "FOV": (0.9,),
    "SIMPLE_DIVISION": (-0.2,),
    "DIVISION": (-0.2,),
    "EUCM": (0.6, 1.1),
    "EQUIRECTANGULAR": (),
}
each_model = pytest.mark.parametrize("model", NUMBERS)


def camera_of(model: str, numbers: tuple[float, ...] | None = None) -> Camera:
    """640x480 pixels that see about 100 degrees, and all around if equirectangular."""
    lens = Lens(model, NUMBERS[model] if numbers is None else numbers)
    if model == "EQUIRECTANGULAR":
        return Camera(np.eye(4), WIDTH / 2 / np.pi, HEIGHT / np.pi, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT, lens)
    fy = 300.0 if model.startswith("SIMPLE") or "RADIAL" in model else 310.0
    return Camera(np.eye(4), 300.0, fy, 321.0, 237.0, WIDTH, HEIGHT, lens)


def places_of(camera: Camera, n: int = 2000) -> np.ndarray:
    """[n,2] places in the image, pixels."""
    return np.random.default_rng(0).uniform([0, 0], [camera.width, camera.height], (n, 2))


def directions_at(camera: Camera, places: np.ndarray) -> np.ndarray:
    assert camera.lens is not None
    return camera.lens.directions((places[:, 0] - camera.cx) / camera.fx, (places[:, 1] - camera.cy) / camera.fy)


def test_every_model_is_tried() -> None:
    assert set(NUMBERS) == {*BROWN, *CLOSED}


@each_model
def test_what_is_seen_at_a_place_is_laid_at_that_place(model: str) -> None:
    camera = camera_of(model)
    places = places_of(camera)
    columns, rows = camera.project(directions_at(camera, places))
    assert np.abs(np.stack([columns, rows], -1) - places).max() < 1e-9


@each_model
def test_every_model_is_that_of_colmap(model: str) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    camera = camera_of(model)
    one_focal = model.startswith("SIMPLE") or model in ("RADIAL", "RADIAL_FISHEYE")
    pinhole = [camera.fx, camera.cx, camera.cy] if one_focal else [camera.fx, camera.fy, camera.cx, camera.cy]
    params = [WIDTH, HEIGHT] if model == "EQUIRECTANGULAR" else [*pinhole, *NUMBERS[model]]
    theirs = pycolmap.Camera(model=model, width=WIDTH, height=HEIGHT, params=params)
    for place, direction in zip(places_of(camera, 200), directions_at(camera, places_of(camera, 200)), strict=True):
        assert math.hypot(*(theirs.img_from_cam(direction) - place)) < 1e-6
        ray = theirs.cam_ray_from_img(place)
        assert np.linalg.norm(direction / np.linalg.norm(direction) - ray / np.linalg.norm(ray)) < 1e-9


def opencv(x: float, y: float, k1: float, k2: float, p1: float, p2: float) -> tuple[float, float]:
    """The formula in OpenCV's documentation."""
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2
    return x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y


def opencv_fisheye(x: float, y: float, k1: float, k2: float, k3: float, k4: float) -> tuple[float, float]:
    r = math.hypot(x, y)
    angle = math.atan(r)
    bent = angle * (1 + k1 * angle**2 + k2 * angle**4 + k3 * angle**6 + k4 * angle**8)
    return x * bent / r, y * bent / r


@pytest.mark.parametrize(("model", "formula"), [("OPENCV", opencv), ("OPENCV_FISHEYE", opencv_fisheye)])
def test_the_inverse_of_opencvs_formulas_is_exact_to_1e_4_pixels(model: str, formula: object) -> None:
    camera = camera_of(model)
    for place, (x, y, z) in zip(places_of(camera, 500), directions_at(camera, places_of(camera, 500)), strict=True):
        bent = formula(x / z, y / z, *NUMBERS[model])  # type: ignore[operator]
        back = bent[0] * camera.fx + camera.cx, bent[1] * camera.fy + camera.cy
        assert back == pytest.approx(tuple(place), abs=1e-4)


@given(st.sampled_from(sorted(BROWN)), st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_the_numbers_a_place_has_the_direction_that_is_laid_there_or_none(model: str, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.floats(-3, 3), min_size=len(names_of(model)), max_size=len(names_of(model))))
    camera = camera_of(model, tuple(numbers))
    places = places_of(camera, 50)
    directions = directions_at(camera, places)
    seen = ~np.isnan(directions[:, 2])
    assert np.isnan(directions[~seen]).all()
    columns, rows = camera.project(directions[seen])
    laid = ~np.isnan(columns)  # a place beyond the fold may have a direction of its own, which the lens is said not to see
    assert np.abs(np.stack([columns, rows], -1)[laid] - places[seen][laid]).max(initial=0.0) < 1e-4


def test_places_beyond_the_fold_of_a_lens_are_blind() -> None:
    camera = camera_of("SIMPLE_RADIAL", (-0.4,))
    blind = np.zeros(WIDTH * HEIGHT, bool)
    blind[camera.blind_pixels()] = True
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    radius = np.hypot((columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy)
    most = math.sqrt(1 / 1.2) * 2 / 3  # where r (1 - 0.4 r^2) is at its highest
    away = np.abs(radius - most) > 1e-3
    np.testing.assert_array_equal(blind.reshape(HEIGHT, WIDTH)[away], (radius > most)[away])
    origins, directions = camera.rays()
    assert np.isfinite(directions).all() and np.isfinite(origins).all()


def test_a_lens_that_bends_nothing_is_a_pinhole() -> None:
    assert all(Lens(model, (0.0,) * len(names_of(model))).is_straight == (BROWN[model][0] == "flat") for model in BROWN)
    bent, straight = camera_of("OPENCV", (0.0,) * 4), Camera(np.eye(4), 300, 310, 321, 237, WIDTH, HEIGHT)
    np.testing.assert_allclose(bent.rays()[1], straight.rays()[1], atol=1e-7)


def test_a_point_behind_a_camera_is_not_in_its_image_unless_it_looks_there() -> None:
    behind = np.array([[0.1, 0.2, -1.0]])
    for model in NUMBERS:
        sees = model in ("EQUIRECTANGULAR", "SIMPLE_FISHEYE", "FISHEYE", "SIMPLE_RADIAL_FISHEYE")
        assert np.isnan(camera_of(model).project(behind)[0][0]) != sees, model
    assert np.isnan(Camera(np.eye(4), 300, 310, 321, 237, WIDTH, HEIGHT).project(behind)[0][0])


def test_the_rays_of_a_table_are_those_of_its_cameras_whatever_their_lenses() -> None:
    random = np.random.default_rng(0)
    cameras = [Camera(np.eye(4), 300, 310, 321, 237, WIDTH, HEIGHT)]
    for i, model in enumerate([*NUMBERS, "OPENCV", "SIMPLE_RADIAL"]):
        numbers = tuple(number * (1 + 0.1 * i) for number in NUMBERS[model]) if model in BROWN else NUMBERS[model]
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = np.linalg.qr(random.normal(size=(3, 3)))[0], random.normal(size=3)
        pose[:3, 0] *= np.linalg.det(pose[:3, :3])
        camera = camera_of(model, numbers).averaged(16)
        cameras.append(Camera(pose, camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height, camera.lens))
    table = CameraTable(cameras)
    some = random.integers(0, table.n_pixels, 3000)
    expected = [np.concatenate(arrays)[some] for arrays in zip(*(camera.rays() for camera in cameras), strict=True)]
    for got, right in zip(table.rays(some), expected, strict=True):
        np.testing.assert_allclose(got, right, atol=2e-7)


@pytest.mark.parametrize(
    ("model", "numbers", "reason"),
    [
        ("OPENCV", (0.1,), "expected 4 numbers, got 1"),
        ("OPENCV", (0.1, math.nan, 0, 0), "expected numbers that can be"),
        ("FISHEYE624", (), "is not known"),
        ("EUCM", (1.5, 1.0), "alpha in 0..1"),
        ("FOV", (0.0,), "omega between 0 and pi"),
    ],
)
def test_a_lens_that_cannot_be_is_refused(model: str, numbers: tuple[float, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Lens(model, numbers)
