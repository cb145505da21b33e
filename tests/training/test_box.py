"""What views need: an object is, what stands behind it, a speck that one view sees and fog that none does are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vqrf.cameras import cameras_around
from vqrf.data.rays import CameraTable
from vqrf.data.scene import Scene, View
from vqrf.fields.cells import voxels_of_cells
from vqrf.fields.field import RadianceField
from vqrf.geometry import Front, Lattice, Unbounded
from vqrf.kernels import select
from vqrf.training import box
from vqrf.training.box import (
    FINE_NEEDED_WEIGHT,
    MIN_VIEWS,
    NEEDED_WEIGHT,
    RAYS_ACROSS,
    count_needing,
    needed_cells,
    needed_part,
    scene_box,
)

CAMERAS = cameras_around((0.0, 0.0, 0.0), 1.0, 20, 48)


def scene_of(n: int) -> Scene:
    blank = np.full((48, 48, 3), 255, np.uint8)
    views = tuple(View(camera, blank, str(i)) for i, camera in enumerate(CAMERAS[:n]))
    return Scene(views, (), (1.0, 1.0, 1.0), 0.5, 6.0, "ball")


def test_the_surface_of_an_object_is_needed_and_its_inside_is_not(ball_field: RadianceField) -> None:
    needing = count_needing(ball_field, scene_of(20), NEEDED_WEIGHT)
    place = ball_field.lattice.world_from_index(np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), -1))
    radius = np.linalg.norm(place, axis=-1)
    assert (needing[np.abs(radius - 0.55) < 0.03] >= MIN_VIEWS).all()
    assert not needing[radius < 0.2].any() and not needing[radius > 0.85].any()
    assert needing.max() <= 20


def counted_plainly(field: RadianceField, scene: Scene, least: float) -> np.ndarray:
    """The definition: all voxels, all views, all rays at once."""
    volume, lattice = field.volume(), field.lattice
    index = np.argwhere(voxels_of_cells(volume.cells))
    needing = np.zeros(lattice.shape, np.int32)
    if lattice.space is None:
        edge = np.full(len(index), np.cbrt(np.prod(lattice.extent / (np.array(lattice.shape) - 1))))
    else:
        ends = [np.clip([index - half, index + half], 0, np.array(lattice.shape) - 1) for half in np.eye(3) / 2]
        sides = np.sort([np.linalg.norm(np.diff(lattice.world_from_index(two), axis=0)[0], axis=-1) for two in ends], axis=0)
        edge = np.sqrt(sides[0] * sides[1])
    for camera in (view.camera for view in scene.train):
        distance = np.linalg.norm(lattice.world_from_index(index) - camera.pose[:3, 3], axis=-1)
        across = edge * np.sqrt(camera.fx * camera.fy) / np.maximum(distance, edge)
        every = max(round(float(np.median(across)) / RAYS_ACROSS), 1)
        rows, columns = np.arange(every // 2, camera.height, every), np.arange(every // 2, camera.width, every)
        importance = np.zeros(lattice.shape)
        rays = CameraTable([camera]).rays((rows[:, None] * camera.width + columns).ravel())
        select().accumulate_importance(volume, *rays, importance)
        needing[tuple(index.T)] += importance[tuple(index.T)] >= least * (across / every) ** 2
    return needing


def foggy(field: RadianceField, seed: int) -> RadianceField:
    """The field in a fog that is faint here and thick there."""
    thin, thick = (field.equation.density_of(alpha) for alpha in (1e-4, 0.1))
    fog = np.random.default_rng(seed).uniform(thin, thick, field.density.shape).astype(np.float32)
    return replace(field, density=np.maximum(field.density, fog))


@pytest.mark.parametrize("least", [NEEDED_WEIGHT, FINE_NEEDED_WEIGHT])
@pytest.mark.parametrize("at_once", [100, 8192])
def test_what_is_counted_plane_by_plane_and_no_further_than_enough_is_what_its_definition_counts(
    ball_field: RadianceField, least: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box, "RAYS_AT_ONCE", at_once)
    before = Lattice((-0.4, -0.4, 0.1), (0.4, 0.4, 1.2), (12, 13, 14), Front.looking(CAMERAS[3].pose, 1.5, 2.0))
    around = Lattice((-1.7, -1.7, -1.7), (1.7, 1.7, 1.7), (12, 13, 14), Unbounded.around((0.0, 0.0, 0.0), 1.0))
    density, features = (array[:12, :13, :14].copy() for array in (ball_field.density, ball_field.features))
    of_spaces = [
        replace(ball_field, lattice=lattice, density=density, features=features, allowed=None) for lattice in (before, around)
    ]
    near = tuple(replace(view, camera=replace(view.camera, fx=500.0, fy=400.0)) for view in scene_of(7).train)
    for field in (ball_field, foggy(ball_field, 0), *(foggy(field, 1) for field in of_spaces)):
        for scene in (scene_of(20), replace(scene_of(7), train=near)):
            expected = counted_plainly(field, scene, least)
            assert expected.any()
            np.testing.assert_array_equal(count_needing(field, scene, least), expected)
            for enough in (1, MIN_VIEWS):
                np.testing.assert_array_equal(count_needing(field, scene, least, enough), np.minimum(expected, enough))


def test_faint_specks_widen_no_box_and_solid_ones_do(ball_field: RadianceField) -> None:
    base = scene_box(ball_field)
    faint = replace(ball_field.equation, interval=1.0).density_of(0.004)
    for value, is_in in ((40.0, True), (faint, False)):
        density = ball_field.density.copy()
        density[[0, 15, 8, 8, 8, 8], [8, 8, 0, 15, 8, 8], [8, 8, 8, 8, 0, 15]] = value
        field = replace(ball_field, density=density)
        before, after = (scene_box(part) for part in (field, needed_part(field, scene_of(20))))
        assert (before[0] < base[0] - 0.1).all(), "both are alive"
        assert (after[0] < base[0] - 0.1).all() == is_in


def test_a_field_whose_box_is_tight_is_left_as_it_is(ball_field: RadianceField) -> None:
    assert needed_part(ball_field, scene_of(20)) is ball_field


def test_where_nothing_is_needed_all_stays(ball_field: RadianceField) -> None:
    empty = replace(ball_field, density=np.full_like(ball_field.density, -100))
    assert needed_part(empty, scene_of(20)) is empty


def test_cells_are_needed_at_a_surface_and_neither_behind_it_nor_where_fog_hides(ball_field: RadianceField) -> None:
    """Fog inside of the ball would be seen by a camera there, and by none of those that there are."""
    needed = needed_cells(ball_field, scene_of(20))
    centres = np.stack(np.meshgrid(*[np.arange(15) + 0.5] * 3, indexing="ij"), -1)
    radius = np.linalg.norm(ball_field.lattice.world_from_index(centres), axis=-1)
    assert needed.dtype == np.uint8 and needed.shape == (15, 15, 15)
    assert needed[np.abs(radius - 0.55) < 0.03].all()
    assert not needed[radius < 0.1].any() and not needed[radius > 1.0].any()
