"""The first view has all of a field in it, and its picture is small."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import pytest
from changed import changed
from test_bitstream import generate

from vqrf.cameras import Z, cameras_around, cameras_within, upright, yaw_of
from vqrf.cli.meta import presented
from vqrf.codec.about import About, FirstView, poster_sides
from vqrf.codec.compressed import CODED, PRUNED
from vqrf.codec.pyramid import PyramidField
from vqrf.fields.field import RadianceField, expand
from vqrf.geometry import Vector
from vqrf.kernels import has_native, select
from vqrf.rendering import poster
from vqrf.rendering.poster import (
    POSTER_BYTES,
    POSTER_SIDE,
    TILT,
    camera_of,
    first_view,
    is_drawn_soon,
    is_expanded_soon,
    poster_of,
    view_amid,
)
from vqrf.rendering.render import render

UPS: tuple[Vector, ...] = (Z, (0.0, 1.0, 0.0), (0.0, 0.0, -2.0), (0.3, -0.5, 0.8))


def turned(view: FirstView, up: Vector, angle: float) -> FirstView:
    """The view after a turn about what is up."""
    turn = upright(np.array(up) / np.linalg.norm(up))
    c, s = math.cos(angle), math.sin(angle)
    around = turn @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ turn.T
    x, y, z = view.target + around @ np.subtract(view.position, view.target)
    return FirstView((float(x), float(y), float(z)), view.target)


@pytest.mark.parametrize("up", UPS)
def test_the_first_view_has_the_whole_field_in_it_from_every_side(ball_field: RadianceField, up: Vector) -> None:
    volume, view = ball_field.volume(), first_view(ball_field, up)
    for angle in np.linspace(0, 2 * np.pi, 5)[:-1]:
        opacity = render(volume, camera_of(turned(view, up, angle), (40, 40), up)).opacity
        edge = np.concatenate([opacity[0], opacity[-1], opacity[:, 0], opacity[:, -1]])
        assert edge.max() < 0.01 and opacity.max() > 0.9 and (opacity > 0.5).mean() > 0.1


@pytest.mark.parametrize("up", UPS)
def test_what_is_up_points_up_in_the_picture(ball_field: RadianceField, up: Vector) -> None:
    camera = camera_of(first_view(ball_field, up), (8, 8), up)
    right, above, back = camera.pose[:3, :3].T
    assert abs(right @ up) < 1e-6 and above @ up > 0 and back @ up > 0
    np.testing.assert_allclose(np.linalg.det(camera.pose[:3, :3]), 1)


@pytest.mark.parametrize("position", [(0.0, 0.0, 3.0), (0.0, 0.0, -3.0)])
def test_a_view_from_above_or_below_is_a_camera_too(position: Vector) -> None:
    pose = camera_of(FirstView(position, (0.0, 0.0, 0.0)), (8, 8)).pose
    np.testing.assert_allclose(pose[:3, :3].T @ pose[:3, :3], np.eye(3), atol=1e-12)
    assert pose[:3, 3].tolist() == list(position)


def test_a_poster_shows_the_first_view_in_few_bytes(ball_field: RadianceField) -> None:
    view = first_view(ball_field)
    poster = poster_of(ball_field, view)
    assert len(poster) <= POSTER_BYTES and poster_sides(poster) == (POSTER_SIDE, POSTER_SIDE)
    found = np.asarray(PIL.Image.open(io.BytesIO(poster)).convert("RGB")) / 255
    expected = render(ball_field, camera_of(view, (POSTER_SIDE, POSTER_SIDE))).rgb
    assert np.abs(found - expected).mean() < 0.03


def test_an_empty_field_has_a_first_view_of_its_box(ball_field: RadianceField) -> None:
    empty = changed(ball_field, density=np.full_like(ball_field.density, -20))
    view = first_view(empty)
    np.testing.assert_allclose(view.target, np.add(empty.lattice.lo, empty.lattice.hi) / 2, atol=1e-5)
    poster_of(empty, view)


def test_fields_of_which_a_picture_takes_minutes_or_gigabytes_are_told_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is whole and may be drawn: by its samples, by its network, by its layers, by its voxels it takes long."""

    def pyramid(share: int, step: float, widths: list[int], bias: float = 0.0) -> PyramidField:
        partition = np.full((9, 9, 9), share, np.uint8)
        made = generate.make_pyramid(0, (9, 9, 9), n_levels=1, n_latents=3, partition=partition, widths=widths)
        return replace(made, equation=replace(made.equation, step_world=step, density_bias=bias, alpha_threshold=1e-9))

    def is_soon(*arguments: Any) -> bool:
        return is_drawn_soon(expand(pyramid(*arguments)))

    assert is_soon(CODED, 0.1, [6, 128, 128, 3])
    assert is_soon(PRUNED, 1e-4, [], -30.0)
    assert not is_soon(PRUNED, 1e-4, []), "what is pruned is seen where the density of nothing is"
    assert not is_soon(CODED, 1e-4, [])
    assert not is_soon(CODED, 0.002, [6, 128, 128, 3])
    assert is_soon(CODED, 0.005, [6, 8, 3]) and not is_soon(CODED, 0.005, [6, *[8] * 11, 3])
    assert is_soon(CODED, 0.01, [6, *[16] * 5, 3]) and not is_soon(CODED, 0.01, [6, *[17] * 5, 3]), (
        "17 units take as long as 32"
    )
    assert is_soon(CODED, 0.01, [6, 100, 3]) and not is_soon(CODED, 0.01, [6, 100, *[8] * 4, 3]), "the widest is all's"
    for widths, is_own in (([6, 256, 3], True), ([6, 300, 3], False), ([6, *[8] * 10, 3], False), ([6, 3], False)):
        volume = expand(pyramid(CODED, 0.1, widths)).volume()
        assert not has_native() or (select().fault(volume) is None) == is_own
    assert is_expanded_soon(pyramid(PRUNED, 0.1, []))
    monkeypatch.setattr(poster, "MAX_FIELD_BYTES", 1000)
    assert not is_expanded_soon(pyramid(PRUNED, 0.1, []))


@pytest.mark.parametrize("away", [0.0, 1e3, 4e6])
def test_a_first_view_far_from_the_origin_is_as_true_as_one_near_it(ball_field: RadianceField, away: float) -> None:
    """Captures in the metres of a map lie millions of metres from their origin."""
    near, lattice = first_view(ball_field), ball_field.lattice
    there = replace(lattice, lo=tuple(x + away for x in lattice.lo), hi=tuple(x + away for x in lattice.hi))  # type: ignore[arg-type]
    view = first_view(changed(ball_field, lattice=there))
    for place, expected in ((view.position, near.position), (view.target, near.target)):
        np.testing.assert_allclose(np.subtract(place, away), expected, atol=2e-5)


def test_a_field_too_large_for_a_camera_before_it_has_no_first_view(ball_field: RadianceField) -> None:
    world = replace(ball_field.lattice, lo=(-1e12,) * 3, hi=(1e12,) * 3)
    step = replace(ball_field.equation, step_world=1e11)
    with pytest.raises(ValueError, match="view: "):
        first_view(changed(ball_field, lattice=world, equation=step))


@pytest.mark.parametrize("up", [Z, (0.0, -1.0, 0.0)])
def test_amid_cameras_people_begin_where_a_photo_was_taken_and_stay_near_all_of_them(up: Vector) -> None:
    around = cameras_around((3.0, 1.0, -2.0), 2.0, 24, 16)
    cameras = [camera for camera in around if camera.pose[0, 3] > 3]  # on one side, as people walk
    amid = view_amid(cameras, up)
    assert amid is not None and amid.view is not None and amid.distance is not None and amid.pitch is not None
    np.testing.assert_allclose(amid.view.target, (3, 1, -2), atol=1e-4)
    spots = np.stack([camera.pose[:3, 3] for camera in cameras])
    away = spots - (3.0, 1.0, -2.0)
    nearest = np.linalg.norm(spots - amid.view.position, axis=1).argmin()
    np.testing.assert_allclose(spots[nearest], amid.view.position, atol=1e-4)
    assert nearest == (away @ away.mean(0)).argmax()
    pitches = np.degrees(np.arcsin(away @ np.array(up) / np.linalg.norm(away, axis=1)))
    assert (amid.pitch[0] < pitches).all() and (pitches < amid.pitch[1]).all()
    distances = np.linalg.norm(away, axis=1)
    assert amid.distance == pytest.approx((distances.min() / 2, 1.25 * distances.max()), rel=1e-5)


@pytest.mark.parametrize("up", [Z, (0.0, -2.0, 0.0), (0.48, 0.6, 0.64)])
@pytest.mark.parametrize(
    ("yaws", "expected"),
    [((-30.0, 50.0), (-50.0, 50.0)), ((100.0, 260.0), (-90.0, 90.0)), ((0.0, 280.0), None), ((0.0, 360.0), None)],
)
def test_where_photos_leave_a_side_out_an_orbit_does_so_too(
    up: Vector, yaws: tuple[float, float], expected: tuple[float, float] | None
) -> None:
    unit = np.array(up) / np.linalg.norm(up)
    limits = (math.radians(yaws[0]), math.radians(yaws[1]))
    amid = view_amid(cameras_within((3.0, 1.0, -2.0), (2.0, 2.1), (20.0, 30.0), 200, 16, up=unit, yaws=limits), up)
    assert amid is not None
    if expected is None:
        assert amid.yaw is None
        return
    assert amid.yaw is not None and amid.view is not None
    first = math.degrees(yaw_of(np.subtract(amid.view.position, amid.view.target), unit))
    for end, limit, beyond in zip(yaws, amid.yaw, (-TILT, TILT), strict=True):
        assert abs((first + limit - beyond - end + 180) % 360 - 180) < 1
    np.testing.assert_allclose(amid.yaw, expected, atol=6)


def test_steep_photos_are_on_no_side_and_an_orbit_begins_amid_its_limits() -> None:
    around = cameras_within((0.0, 0.0, 0.0), (2.0, 2.1), (20.0, 30.0), 60, 16, yaws=(-0.8, 0.8))
    above = cameras_within((0.0, 0.0, 0.0), (2.0, 2.1), (80.0, 89.0), 8, 16)
    plain, both = view_amid(around), view_amid([*around, *above])
    assert plain is not None and both is not None and plain.yaw is not None and both.yaw is not None
    np.testing.assert_allclose(both.yaw, plain.yaw, atol=6)
    many = cameras_within((0.0, 0.0, 0.0), (2.0, 2.1), (20.0, 30.0), 200, 16, yaws=(0.0, 0.3))
    few = cameras_within((0.0, 0.0, 0.0), (2.0, 2.1), (20.0, 30.0), 40, 16, yaws=(0.3, 4.36))
    amid = view_amid([*many, *few])
    assert amid is not None and amid.yaw is not None
    assert max(-amid.yaw[0], amid.yaw[1]) < 150 and amid.yaw[1] - amid.yaw[0] == pytest.approx(270, abs=8)


def test_amid_cameras_that_look_at_no_one_place_there_is_no_view() -> None:
    camera = cameras_around((0.0, 0.0, 0.0), 2.0, 1, 16)[0]
    row = [replace(camera, pose=camera.pose + np.eye(4, k=3) * x) for x in np.linspace(-1, 1, 9)]
    assert view_amid(row) is None


def test_the_first_view_and_the_limits_are_the_cameras_unless_the_user_says_them(ball_field: RadianceField) -> None:
    cameras = cameras_around((0.0, 0.0, 0.0), 2.0, 12, 16)
    amid = view_amid(cameras)
    assert amid is not None
    found = presented(About(pitch=(-5.0, 5.0)), ball_field, cameras=cameras)
    assert (found.view, found.distance, found.pitch) == (amid.view, amid.distance, (-5.0, 5.0))
    said = FirstView((0.0, -3.0, 0.0), (0.0, 0.0, 0.0))
    assert presented(About(view=said), ball_field, cameras=cameras).view == said
    alone = presented(About(), ball_field)
    assert (alone.view, alone.distance) == (first_view(ball_field), None)
