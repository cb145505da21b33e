"""A scene seen from one side, from its cameras to a file that is drawn like the field that it was made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vqrf.cameras import Camera, cameras_around, cameras_beside
from vqrf.codec.bitstream import decode, encode
from vqrf.data.images import bytes_from_colors
from vqrf.data.listing import Listing
from vqrf.data.placement import PlacementError, Wishes, place
from vqrf.data.scene import Scene, View, front_bounds
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.preview import preview
from vqrf.geometry import Front, Lattice
from vqrf.interop import bytes_of_dvgo
from vqrf.kernels.constants import Equation
from vqrf.rendering.evaluate import evaluate
from vqrf.rendering.film import orbit, spiral
from vqrf.rendering.poster import first_view
from vqrf.rendering.render import own_scene, render
from vqrf.rendering.surface import surface_of
from vqrf.training.box import coarse_alive, count_views, seen_part
from vqrf.training.stages import FRONT_DRAWN, PRESETS, StageConfig, TrainConfig
from vqrf.training.train import coarse_model, fit

SIDE = 40


def cameras_before(n: int, spread: float) -> list[Camera]:
    """Cameras on a disk before the origin, 4 away, that look along -x."""
    rng = np.random.default_rng(n)
    made = []
    for _ in range(n):
        pose = np.eye(4)
        pose[:3, :3] = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
        pose[:3, 3] = [4.0 + 0.2 * rng.normal(), *(spread * rng.uniform(-1, 1, 2))]
        made.append(Camera(pose, 1.1 * SIDE, 1.1 * SIDE, SIDE / 2, SIDE / 2, SIDE, SIDE))
    return made


def balls() -> RadianceField:
    """A red ball before a far wall of stripes, in a box."""
    lattice = Lattice((-8.0, -6.0, -6.0), (1.5, 6.0, 6.0), (48, 60, 60))
    index = np.stack(np.meshgrid(*map(np.arange, lattice.shape), indexing="ij"), -1)
    x, y, z = np.moveaxis(lattice.world_from_index(index), -1, 0)
    ball = 0.9 - np.sqrt(x**2 + y**2 + z**2)
    density = np.clip(30 * np.maximum(ball, -7.2 - x), -20, 20).astype(np.float32)
    stripes = 4 * np.sin(2.0 * y)
    features = np.where((ball > -0.3)[..., None], [5.0, -5.0, -5.0], np.stack([stripes, stripes, 0 * y + 3], -1))
    equation = Equation(0.0, 0.5, 0.05, 0.1, 1e-3, (1.0, 1.0, 1.0))
    return RadianceField(lattice, density, features.astype(np.float32), (), equation)


@pytest.fixture(scope="module")
def scene() -> Scene:
    volume = balls().volume()
    views = [View(c, bytes_from_colors(render(volume, c).rgb), f"photo{i}") for i, c in enumerate(cameras_before(9, 0.6))]
    return Scene(tuple(views[:7]), tuple(views[7:]), (1.0, 1.0, 1.0), 2.0, 14.0, "balls", space="front")


def tiny() -> TrainConfig:
    """Settings of a training that takes a second."""

    def stage(of: StageConfig, steps: int) -> StageConfig:
        return replace(of, steps=steps, n_voxels=24**3, rays_per_step=256, grow_at=())

    demo = PRESETS["demo"]
    fine = replace(stage(demo.fine, 120), appearance=replace(demo.fine.appearance, channels=3, depth=0))
    coarse = replace(demo.coarse, sampling=replace(demo.coarse.sampling, alpha_init=1e-3, faint_steps=0))
    return replace(demo, coarse=stage(coarse, 120), fine=fine)


def test_places_hold_all_that_cameras_see(scene: Scene) -> None:
    space, lo, hi = front_bounds(scene)
    for view in scene.train:
        origins, directions = view.camera.rays()
        for distance in (scene.near, scene.far, 2 * scene.far):
            places = space.place_of_world(origins + distance * directions)
            assert (places >= lo - 1e-3).all()
            assert (places <= hi + 1e-3).all()
    assert (
        Lattice(tuple(lo), tuple(hi), (4, 4, 4), space).space.fault(Lattice(tuple(lo), tuple(hi), (4, 4, 4)).corners()) is None
    )  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_field_in_front_is_learnt_and_its_file_is_drawn_alike(scene: Scene) -> None:
    field = fit(scene, tiny(), quiet=True)
    assert field.lattice.space is not None
    edge = float(np.cbrt(np.prod(field.lattice.extent) / 24**3))
    drawn = (field.equation.step_world / edge, field.equation.interval)  # as opaque, by finer steps than it learnt with
    assert drawn == pytest.approx((FRONT_DRAWN, FRONT_DRAWN), rel=0.05)
    score = evaluate(field, scene.test).psnr
    blank = np.mean([np.mean((view.colors() - view.colors().mean((0, 1))) ** 2) for view in scene.test])
    assert score > -10 * np.log10(blank) + 5
    data = encode(preview(field))
    assert data[8] == 2
    again = expand(decode(data))
    assert again.lattice == field.lattice
    assert evaluate(again, scene.test).psnr == pytest.approx(score, abs=0.3)
    away = replace(field, lattice=field.lattice.moved((5e5, 0.0, 0.0)))  # surveyors' coordinates
    camera = scene.test[0].camera
    np.testing.assert_allclose(render(away, camera.moved(np.array([5e5, 0.0, 0.0]))).rgb, render(field, camera).rgb, atol=2e-3)


def test_a_space_in_front_is_for_cameras_that_look_one_way() -> None:
    listing = Listing(Path("x"), "x", (), near=2.0, far=14.0, is_rough=True)
    before, around = cameras_before(8, 0.6), list(cameras_around((0, 0, 0), 1.0, 12, 16))
    assert place(before, listing, Wishes(space="front"), is_plain=False).space == "front"
    assert place(before, listing, Wishes(), is_plain=False).space == "front"
    assert place(before, listing, Wishes(), is_plain=True).space == "box"
    with pytest.raises(PlacementError, match="space: front is for cameras that look one way"):
        place(around, listing, Wishes(space="front"), is_plain=False)


def test_paths_stay_where_photos_were_taken(scene: Scene) -> None:
    space, lo, hi = front_bounds(scene)
    lattice = Lattice(tuple(lo), tuple(hi), (20, 20, 20), space)
    middle = space.world_of_place(lattice.corners().mean(0))
    for path in (orbit, spiral):
        for camera in path(lattice, 7, (32, 24)):
            assert np.linalg.norm(camera.pose[:3, 3] - space.eye) < 0.3 * np.linalg.norm(middle - space.eye)
            x, y = camera.project(camera.local(middle[None]))
            assert (x[0], y[0]) == pytest.approx((16, 12), abs=1e-3)
            assert camera.pose[2, 1] > 0.9  # z is up
    field = ball_before(lattice)
    view = first_view(field)
    np.testing.assert_allclose(view.position, space.eye, atol=1e-3)
    own = own_scene(field, 5, 16)
    for view in (*own.train, *own.test):
        assert np.linalg.norm(view.camera.pose[:3, 3] - space.eye) < 0.3 * np.linalg.norm(middle - space.eye)
        x, y = view.camera.project(view.camera.local(middle[None]))
        assert (x[0], y[0]) == pytest.approx((8, 8), abs=1e-3)
    ends = cameras_beside(lattice, 1000, 16)[0].local(space.world_of_place(lattice.corners()))
    x, y = cameras_beside(lattice, 1000, 16)[0].project(ends)
    assert np.abs(np.subtract([x, y], 8)).max() == pytest.approx(8, rel=0.05)  # all that was seen, and no more
    with pytest.raises(ValueError, match="no surface is made"):
        surface_of(field)
    with pytest.raises(ValueError, match="not written for other programs"):
        bytes_of_dvgo(field, "x")


def ball_before(lattice: Lattice) -> RadianceField:
    features = np.zeros((*lattice.shape, 3), np.float32)
    return RadianceField(lattice, np.full(lattice.shape, 5, np.float32), features, (), balls().equation)


def test_a_space_without_an_eye_has_no_path() -> None:
    still = Front(((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)))
    lattice = Lattice((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (4, 4, 4), still)
    with pytest.raises(ValueError, match="give a path"):
        orbit(lattice, 3, (8, 8))


def test_only_a_box_has_a_coarse_stage_and_elsewhere_all_that_a_photo_sees_may_hold_something(scene: Scene) -> None:
    standard = PRESETS["standard"]
    assert standard.in_space("box") is standard
    for space in ("front", "unbounded"):
        there = standard.in_space(space)  # type: ignore[arg-type]
        assert there.steps() == {"fine": standard.fine.steps}
        assert there.fine.losses.distortion > 0
        assert there.in_space(space) == there  # type: ignore[arg-type]
    model = coarse_model(scene, tiny(), seed=0, device="cpu")
    seen = count_views(scene, model.lattice) > 0
    assert seen.any()
    assert not seen.all()
    np.testing.assert_array_equal(coarse_alive(seen_part(model.field())), seen)
