"""The built-in scene: its ray tracer against brute force, and what the demo relies on."""

from __future__ import annotations

import numpy as np
import pytest

from vqrf.data.builtin import (
    HALL_CEILING,
    HALL_FLOOR,
    HALL_RADIUS,
    LAMP,
    Material,
    Shape,
    Sphere,
    Tube,
    _armillary_sphere,
    _camera,
    _nearest,
    _plain,
    _shade,
    _view,
    built_in_scene,
    depths_in_hall,
)
from vqrf.data.scene import Scene
from vqrf.geometry import Float64

MATERIAL = Material(_plain(1, 0, 0))
SHAPES: dict[str, Shape] = {
    "sphere": Sphere(np.array([0.2, -0.1, 0.3]), 0.7, MATERIAL),
    "rod": Tube(np.array([0.1, 0.2, -0.2]), np.array([0.48, 0.6, 0.64]), 0.9, 0.15, MATERIAL),
    "disc": Tube(np.array([0.0, 0.0, -0.3]), np.array([0.0, 0.0, 1.0]), 0.1, 0.9, MATERIAL),
    "ring": Tube(np.array([0.0, 0.1, 0.0]), np.array([0.6, 0.0, 0.8]), 0.2, 0.8, MATERIAL, inner_radius=0.6),
}


@pytest.fixture(scope="module")
def small_scene() -> Scene:
    return built_in_scene(n_train=6, n_test=3, side=24)


def is_inside(shape: Shape, points: Float64) -> np.ndarray:
    """The definition of the solids, for points [...,3]."""
    offset = points - shape.center
    if isinstance(shape, Sphere):
        return np.linalg.norm(offset, axis=-1) <= shape.radius
    height = offset @ shape.axis
    radius = np.linalg.norm(offset - height[..., None] * shape.axis, axis=-1)
    return (np.abs(height) <= shape.half_length) & (radius <= shape.radius) & (radius >= shape.inner_radius)


def rays(n_rays: int) -> tuple[Float64, Float64]:
    """From a sphere of radius 2 towards points near the origin; [3,N] each. Some run along an axis."""
    random = np.random.default_rng(0)
    origins = random.normal(size=(3, n_rays))
    origins *= 2 / np.linalg.norm(origins, axis=0)
    directions = random.uniform(-0.6, 0.6, (3, n_rays)) - origins
    origins[:, ::10] = np.array([[0.0], [0.7], [2.0]])
    directions[:, ::10] = np.array([[0.0], [0.0], [-1.0]])
    return origins, directions / np.linalg.norm(directions, axis=0)


@pytest.mark.parametrize("name", SHAPES)
def test_a_ray_meets_a_shape_where_marching_enters_the_solid(name: str) -> None:
    shape, step = SHAPES[name], 2e-3
    origins, directions = rays(500)
    found = shape.distances(origins, directions)
    steps = np.arange(0, 4, step)
    for origin, direction, distance in zip(origins.T, directions.T, found, strict=True):
        inside = is_inside(shape, origin + steps[:, None] * direction)
        if inside.any():
            assert distance == pytest.approx(steps[inside.argmax()], abs=1.001 * step)
        elif np.isfinite(distance):  # marching may step over a corner, but then it is thin there
            assert not is_inside(shape, origin + (distance + step) * direction)
    assert 50 < np.isfinite(found).sum() < 500, "rays should hit and miss"


@pytest.mark.parametrize("name", SHAPES)
def test_normals_point_out_of_the_solid_at_right_angles(name: str) -> None:
    shape = SHAPES[name]
    origins, directions = rays(500)
    found = shape.distances(origins, directions)
    hit = np.isfinite(found)
    points = (origins + np.where(hit, found, 0) * directions)[:, hit]
    normals = shape.normals(points)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=0), 1, atol=1e-9)
    assert (np.sum(normals * directions[:, hit], axis=0) < 1e-9).all(), "a surface that is seen faces the ray"
    assert not is_inside(shape, (points + 1e-6 * normals).T).any()
    assert is_inside(shape, (points - 1e-6 * normals).T).all()


def test_the_nearest_of_all_shapes_is_the_first_that_any_ray_meets() -> None:
    shapes = list(SHAPES.values())
    origins, directions = rays(500)
    distances, shape_ids = _nearest(shapes, origins, directions)
    each = np.stack([shape.distances(origins, directions) for shape in shapes])
    np.testing.assert_array_equal(distances, each.min(axis=0))
    hit = np.isfinite(distances)
    np.testing.assert_array_equal(shape_ids[hit], each.argmin(axis=0)[hit])
    assert (shape_ids[~hit] == -1).all()


def test_the_scene_stays_inside_the_ball_outside_of_which_nothing_is_traced() -> None:
    shapes = _armillary_sphere(np.random.default_rng(0))
    random = np.random.default_rng(1)
    points = random.uniform(-2, 2, (200_000, 3))
    for shape in shapes:
        around = shape.center + shape.reach * random.uniform(-1, 1, (20_000, 3))
        inside = np.concatenate([points, around])[is_inside(shape, np.concatenate([points, around]))]
        assert len(inside) and np.linalg.norm(inside, axis=1).max() <= shape.distance
        assert np.abs(inside).max() < 1.1


def test_equal_seeds_give_equal_scenes_and_others_give_others(small_scene: Scene) -> None:
    again, other = (built_in_scene(seed, n_train=6, n_test=3, side=24) for seed in (0, 1))
    for a, b, c in zip(small_scene.train, again.train, other.train, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        assert (a.image != c.image).any()


def test_cameras_stand_above_the_floor_and_look_at_the_middle(small_scene: Scene) -> None:
    assert (len(small_scene.train), len(small_scene.test)) == (6, 3)
    reach = max(shape.distance for shape in _armillary_sphere(np.random.default_rng(0)))
    for view in small_scene.train + small_scene.test:
        position, back = view.camera.pose[:3, 3], view.camera.pose[:3, 2]
        np.testing.assert_allclose(position, 4 * back, atol=1e-12)
        assert position[2] > 0 and view.camera.pose[2, 1] >= 0, "upright"
        assert small_scene.near <= 4 - reach and small_scene.far >= 4 + reach


def test_no_held_out_camera_stands_where_a_training_camera_does() -> None:
    scene = built_in_scene(n_train=50, n_test=10, side=2)
    seen = np.array([view.camera.pose[:3, 3] for view in scene.train])
    for view in scene.test:
        assert np.linalg.norm(seen - view.camera.pose[:3, 3], axis=1).min() > 0.05


def test_the_object_fills_the_picture_without_leaving_it() -> None:
    for azimuth, elevation in [(0.0, 0.06), (0.8, 0.5), (4.0, 1.3)]:
        image = _view("v", _armillary_sphere(np.random.default_rng(0)), [], _camera(azimuth, elevation, 48)).image
        border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
        assert (border == 255).all(), "nothing is cut off"
        assert 0.2 < (image < 255).any(-1).mean() < 0.8


def test_a_glossy_point_changes_with_the_eye_and_a_matt_one_does_not() -> None:
    lamp = LAMP / np.linalg.norm(LAMP)
    point, lamps = 0.5 * np.stack([lamp, lamp], axis=1), np.stack([lamp, lamp], axis=1)
    aside = np.cross(lamp, [0.0, 0.0, 1.0])
    eyes = np.stack([lamp, lamp + aside], axis=1) / [1, np.sqrt(1 + aside @ aside)]
    for gloss, changes in ((0.0, False), (0.5, True)):
        ball = Sphere(np.zeros(3), 0.5, Material(_plain(0.2, 0.2, 0.2), gloss))
        colors = _shade([ball], ball, point, -eyes, lamps)
        assert (colors[:, 0] > colors[:, 1] + 0.1).all() == changes
        assert changes or (colors[:, 0] == colors[:, 1]).all()


def test_what_stands_before_the_lamp_casts_a_shadow() -> None:
    lamp = LAMP / np.linalg.norm(LAMP)
    ball, shade = (Sphere(center, 0.5, MATERIAL) for center in (np.zeros(3), 2 * lamp))
    point, lamps, eye = (a[:, None] for a in (0.5 * lamp, lamp, np.array([1.0, 0.0, 0.0])))
    lit, dark = (_shade(shapes, ball, point, -eye, lamps) for shapes in ([ball], [ball, shade]))
    assert dark[0] < 0.7 * lit[0]


def test_a_ground_takes_the_place_of_white_and_of_nothing_else(small_scene: Scene) -> None:
    grounded = built_in_scene(n_train=6, n_test=3, side=24, backdrop="ground")
    for bare, other in zip(small_scene.train, grounded.train, strict=True):
        is_white = (bare.image == 255).all(-1)
        changed = (bare.image != other.image).any(-1)
        assert changed[is_white].mean() > 0.1
        assert (other.image <= bare.image).all(), "what is white in part becomes darker, and nothing else changes"
    ground = grounded.train[-1].image[(small_scene.train[-1].image == 255).all(-1)]
    assert ground.std() > 10, "its spots differ"


def test_the_hall_stands_behind_the_thing_and_its_depths_are_where_rays_end() -> None:
    hall = built_in_scene(n_train=6, n_test=3, side=24, backdrop="hall")
    assert hall.space == "unbounded" and hall.contrast is not None
    for view in hall.train + hall.test:
        origins, directions = view.camera.rays()
        depth = depths_in_hall(view.camera)
        ends = origins + depth.reshape(-1, 1) * directions
        across, height = np.linalg.norm(ends[:, :2], axis=1), ends[:, 2]
        assert (across <= HALL_RADIUS + 1e-3).all() and (height >= HALL_FLOOR - 1e-3).all()
        is_thing = _nearest(_armillary_sphere(np.random.default_rng(0)), origins.T, directions.T)[1] >= 0
        is_hall = (np.abs(across - HALL_RADIUS) < 1e-3) | (np.abs(height - HALL_FLOOR) < 1e-3) | (height > HALL_CEILING - 1e-3)
        np.testing.assert_array_equal(is_hall, ~is_thing)
        assert depth.min() > hall.near
        assert view.image.reshape(-1, 3)[is_hall].std() > 10, "its spots differ"
