"""The first view has all of a field in it, and its picture is small."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
from changed import changed
from test_bitstream import generate

from vqrf.codec.about import FirstView, poster_sides
from vqrf.codec.compressed import CODED, PRUNED
from vqrf.codec.pyramid import PyramidField
from vqrf.fields.field import RadianceField, expand
from vqrf.geometry import Vector, Z, upright
from vqrf.kernels import has_native, select
from vqrf.rendering import poster
from vqrf.rendering.poster import POSTER_BYTES, POSTER_SIDE, camera_of, first_view, is_drawn_soon, poster_of
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


def test_files_of_which_a_picture_takes_minutes_or_gigabytes_are_told_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is whole and may be drawn: by its samples, by its network, by its voxels it takes long; of nothing it does not."""

    def pyramid(share: int, step: float, widths: list[int]) -> PyramidField:
        partition = np.full((9, 9, 9), share, np.uint8)
        made = generate.make_pyramid(0, (9, 9, 9), n_levels=1, n_latents=3, partition=partition, widths=widths)
        return replace(made, equation=replace(made.equation, step_world=step))

    assert is_drawn_soon(pyramid(CODED, 0.1, [6, 128, 128, 3]))
    assert is_drawn_soon(pyramid(PRUNED, 1e-4, []))
    assert not is_drawn_soon(pyramid(CODED, 1e-4, []))
    assert not is_drawn_soon(pyramid(CODED, 0.002, [6, 128, 128, 3]))
    for widths, is_own in (([6, 256, 3], True), ([6, 300, 3], False), ([6, *[8] * 10, 3], False), ([6, 3], False)):
        volume = expand(pyramid(CODED, 0.1, widths)).volume()
        assert not has_native() or (select().fault(volume) is None) == is_own
    monkeypatch.setattr(poster, "MAX_FIELD_BYTES", 1000)
    assert not is_drawn_soon(pyramid(PRUNED, 0.1, []))
