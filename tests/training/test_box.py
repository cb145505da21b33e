"""What views need: an object is, what stands behind it, a speck that one view sees and fog that none does are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vqrf.data.scene import Scene, View
from vqrf.fields.field import RadianceField
from vqrf.geometry import cameras_around
from vqrf.training.box import MIN_VIEWS, NEEDED_WEIGHT, count_needing, needed_cells, needed_part, scene_box

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
