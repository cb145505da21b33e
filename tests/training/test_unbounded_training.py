"""A place with all that is around it, from its cameras to a field of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vqrf.cameras import Camera, cameras_around
from vqrf.codec.about import About, FirstView
from vqrf.codec.bitstream import decode, encode
from vqrf.data.images import bytes_from_colors
from vqrf.data.placement import look_of
from vqrf.data.scene import CUBE_LOOKED_AT, Scene, View, opaque_scene, unbounded_bounds
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.preview import preview
from vqrf.geometry import Lattice, Unbounded
from vqrf.interop import bytes_of_dvgo
from vqrf.kernels.constants import Equation
from vqrf.rendering.evaluate import evaluate
from vqrf.rendering.film import orbit, spiral
from vqrf.rendering.poster import first_view
from vqrf.rendering.render import own_scene
from vqrf.rendering.surface import surface_of
from vqrf.training.stages import PRESETS, StageConfig, TrainConfig
from vqrf.training.train import fit
from vqrf.training.verdict import judge

SIDE, GROUND, SKY = 40, -0.8, 30.0


def seen(origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """The colours [N,3] of a made place, by the quadratic formula: a ball on the ground, and a sky far off."""
    o, d = origins.astype(np.float64), directions.astype(np.float64)

    def distance(radius: float, sign: int) -> np.ndarray:
        half = (o * d).sum(1)
        square = half**2 - (o**2).sum(1) + radius**2
        return np.where(square > 0, -half + sign * np.sqrt(np.maximum(square, 0)), np.inf)

    ball, sky = distance(0.8, -1), distance(SKY, 1)
    ground = np.where(d[:, 2] < -1e-9, (GROUND - o[:, 2]) / np.minimum(d[:, 2], -1e-9), np.inf)
    first = np.minimum(np.minimum(ball, ground), sky)
    at = o + first[:, None] * d
    stripes = 0.5 + 0.4 * np.sin(4 * at)
    far = np.linalg.norm(at[:, :2], axis=1, keepdims=True)
    floor = 0.5 + 0.4 * np.sin(3 * at[:, [0, 1, 0]] / (1 + far / 4)) * [1, 1, 0]
    above = 0.5 + 0.4 * np.sin(5 * at / SKY + [0.0, 1.0, 2.0])
    return np.where((first == ball)[:, None], stripes, np.where((first == ground)[:, None], floor, above))


def view_of(camera: Camera, name: str) -> View:
    colors = seen(*camera.rays()).reshape(camera.height, camera.width, 3)
    return View(camera, bytes_from_colors(colors.astype(np.float32)), name)


@pytest.fixture(scope="module")
def scene() -> Scene:
    cameras = [replace(camera, fx=40.0, fy=40.0) for camera in cameras_around((0, 0, 0), 0.8, 48, SIDE, below=0.0)]
    views = tuple(view_of(camera, f"photo{i}") for i, camera in enumerate(cameras))
    held = tuple(views[i] for i in range(3, 48, 12))
    learnt = tuple(view for view in views if view not in held)
    return Scene(learnt, held, (0.5, 0.5, 0.5), 0.6, 8.0, "place", space="unbounded", contrast=(1.0, 0.0, 1.0))


def tiny(side: int = 32, steps: int = 400) -> TrainConfig:
    """Settings of a training that takes seconds."""

    def stage(of: StageConfig) -> StageConfig:
        return replace(of, steps=steps, n_voxels=side**3, rays_per_step=1024, grow_at=())

    demo = PRESETS["demo"]
    fine = replace(stage(demo.fine), appearance=replace(demo.fine.appearance, channels=3, depth=0))
    coarse = replace(demo.coarse, sampling=replace(demo.coarse.sampling, alpha_init=1e-3, faint_steps=0))
    return replace(demo, coarse=stage(coarse), fine=fine)


def test_the_cube_is_around_what_cameras_look_at_and_the_lattice_holds_all_that_they_see(scene: Scene) -> None:
    space, lo, hi = unbounded_bounds(scene)
    eyes = np.stack([view.camera.pose[:3, 3] for view in scene.train])
    looked_at = look_of(np.stack([view.camera.pose for view in scene.train])).centre
    np.testing.assert_allclose(space.centre, looked_at, atol=1e-6)
    assert space.half == pytest.approx(CUBE_LOOKED_AT * np.abs(eyes - looked_at).max())
    for view in scene.train:
        origins, directions = view.camera.rays()
        for distance in (0.0, scene.near, scene.far, 100 * scene.far):
            places = space.place_of_world(origins + distance * directions)
            assert ((places >= lo) & (places <= hi)).all()
    lattice = Lattice(tuple(lo), tuple(hi), (4, 4, 4), space)
    assert space.fault(lattice.corners()) is None


def test_the_cube_holds_all_cameras_that_look_at_no_one_point(scene: Scene) -> None:
    turned = []
    for view in scene.train:  # by half a turn about what is up: away from the middle
        pose = view.camera.pose.copy()
        pose[:3, [0, 2]] *= -1
        turned.append(replace(view, camera=replace(view.camera, pose=pose)))
    space, _, _ = unbounded_bounds(replace(scene, train=tuple(turned)))
    places = np.stack([space.place_of_world(view.camera.pose[:3, 3]) for view in turned])
    assert np.abs(places).max() == pytest.approx(1)


def test_no_light_is_left_behind_photos_of_a_place(scene: Scene) -> None:
    assert all((view.opacity == 255).all() for view in opaque_scene(scene).train if view.opacity is not None)
    assert all(view.opacity is not None for view in opaque_scene(scene).train)
    known = replace(scene, train=tuple(replace(view, opacity=np.zeros((SIDE, SIDE), np.uint8)) for view in scene.train))
    assert all(not view.opacity.any() for view in opaque_scene(known).train if view.opacity is not None)
    for other in (replace(scene, space="box"), replace(scene, contrast=None)):
        assert opaque_scene(other) is other


@pytest.mark.slow
def test_a_place_without_bounds_is_learnt_better_than_in_a_box(scene: Scene) -> None:
    fields = {space: fit(replace(scene, space=space), tiny(), quiet=True) for space in ("box", "unbounded")}  # type: ignore[arg-type]
    scores = {space: evaluate(field, scene.test).psnr for space, field in fields.items()}
    assert isinstance(fields["unbounded"].lattice.space, Unbounded)
    assert scores["unbounded"] > scores["box"] + 3
    data = encode(preview(fields["unbounded"]))
    assert data[8] == 2
    again = expand(decode(data))
    assert again.lattice == fields["unbounded"].lattice
    assert evaluate(again, scene.test).psnr == pytest.approx(scores["unbounded"], abs=0.3)


def test_nothing_stands_before_the_eyes_of_the_cameras(scene: Scene) -> None:
    field = fit(scene, tiny(steps=100), quiet=True)
    eyes = np.stack([view.camera.pose[:3, 3] for view in scene.train])
    middles = np.stack(np.meshgrid(*[np.arange(side - 1) + 0.5 for side in field.lattice.shape], indexing="ij"), -1)
    away = np.linalg.norm(field.lattice.world_from_index(middles)[..., None, :] - eyes, axis=-1).min(-1)
    assert field.allowed is not None
    assert not field.allowed[away < scene.near].any()
    assert field.allowed[away > scene.near].any()
    assert judge(field, scene, "fine") is None


def test_paths_stay_where_cameras_were(scene: Scene) -> None:
    space, lo, hi = unbounded_bounds(scene)
    lattice = Lattice(tuple(lo), tuple(hi), (6, 6, 6), space)
    equation = Equation(0.0, 0.5, 0.05, 0.1, 1e-3, (1.0, 1.0, 1.0))
    density, features = np.full(lattice.shape, 5, np.float32), np.zeros((*lattice.shape, 3), np.float32)
    empty = RadianceField(lattice, density, features, (), equation)
    places = [camera.pose[:3, 3] for path in (orbit, spiral) for camera in path(lattice, 7, (32, 24))]
    for position in [*places, np.array(first_view(empty).position)]:
        assert (np.abs(space.place_of_world(position)) < 1).all()
    with pytest.raises(ValueError, match="does not say where its cameras were"):
        own_scene(empty, 4, 16)
    about = About(up=(0.0, 0.0, 1.0), view=FirstView((0.5, 0.0, 0.2), (0.0, 0.0, 0.0)), distance=(0.3, 0.8), pitch=(5.0, 60.0))
    for view in own_scene(empty, 4, 16, about=about).train:
        assert 0.29 < np.linalg.norm(view.camera.pose[:3, 3]) < 0.81
    with pytest.raises(ValueError, match="no surface is made"):
        surface_of(empty)
    with pytest.raises(ValueError, match="not written for other programs"):
        bytes_of_dvgo(empty, "x")
