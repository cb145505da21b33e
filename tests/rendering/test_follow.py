"""A picture of a training in a notebook: drawn when it is due, of what the field is, in one place."""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import pytest
from tiny import TINY, assert_same_field, emptied

import vqrf
from vqrf.cameras import Camera
from vqrf.data.images import bytes_from_colors
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField
from vqrf.rendering import follow
from vqrf.rendering.poster import camera_of, first_view
from vqrf.rendering.render import render


class Notebook:
    """What IPython does with what is displayed: one output, which is replaced."""

    def __init__(self) -> None:
        self.outputs: list[bytes | None] = []
        self.n_updates = 0

    def display(self, shown: Any, *, display_id: bool) -> Notebook:
        assert display_id
        self.outputs.append(shown._repr_png_())
        return self

    def update(self, shown: Any) -> None:
        self.n_updates += 1
        self.outputs[-1] = shown._repr_png_()


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    made = Notebook()
    shell, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    shell.get_ipython = lambda: made  # type: ignore[attr-defined]
    display.display = made.display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    yield made


def pixels_of(png: bytes | None) -> np.ndarray:
    assert png is not None
    with PIL.Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def test_a_picture_is_what_the_renderer_draws_of_the_field(ball_field: RadianceField, ball_camera: Camera) -> None:
    through_camera, of_itself = vqrf.Viewer(camera=ball_camera), vqrf.Viewer(side=40)
    assert through_camera.image is None and through_camera._repr_png_() is None
    for viewer, camera in ((through_camera, ball_camera), (of_itself, camera_of(first_view(ball_field), (40, 40)))):
        viewer.watch(lambda: ball_field)
        expected = render(ball_field, camera).rgb
        assert viewer.image is not None and expected.std() > 0.1
        np.testing.assert_array_equal(viewer.image.rgb, expected)
        np.testing.assert_array_equal(pixels_of(viewer._repr_png_()), bytes_from_colors(expected))


def test_pictures_wait_for_each_other_and_longer_where_they_take_long(
    ball_field: RadianceField, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, took = [100.0], [0.1]

    def drawn(field: RadianceField, camera: Camera) -> Any:
        now[0] += took[0]
        return render(field, camera)

    monkeypatch.setattr(follow.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(follow, "render", drawn)
    viewer, asked = vqrf.Viewer(side=8, seconds=5), []

    def field_now() -> RadianceField:
        asked.append(now[0])
        return ball_field

    for _ in range(400):  # 200 seconds
        viewer.watch(field_now)
        now[0] += 0.5
    assert len(asked) == viewer.n_images == pytest.approx(40, abs=4)
    took[0], before = 10.0, viewer.n_images
    for _ in range(400):
        viewer.watch(field_now)
        now[0] += 0.5
    assert viewer.n_images - before <= 4


def test_a_notebook_has_one_picture_that_changes(notebook: Notebook, ball_field: RadianceField, ball_camera: Camera) -> None:
    viewer = vqrf.Viewer(camera=ball_camera, seconds=0)
    monotonic = iter(range(0, 1000, 100))
    follow_time = types.SimpleNamespace(monotonic=lambda: float(next(monotonic)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow, "REST", 0.0)
        patch.setattr(follow, "time", follow_time)
        for field in (ball_field, emptied(ball_field)):
            viewer.watch(lambda field=field: field)  # type: ignore[misc]
    assert len(notebook.outputs) == 1 and notebook.n_updates == 1
    assert (pixels_of(notebook.outputs[0]) == 255).all()  # nothing is there any more


def test_a_training_that_is_watched_ends_in_the_same_field(scene: Scene, trained: RadianceField) -> None:
    viewer = vqrf.Viewer(side=24, seconds=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow, "REST", 0.0)
        field = vqrf.fit(scene, TINY, watch=viewer.watch, quiet=True)
    assert viewer.n_images == (TINY.coarse.steps + TINY.fine.steps) // 32
    assert viewer.image is not None and viewer.image.rgb.shape == (24, 24, 3)
    assert_same_field(field, trained)


def test_a_view_of_a_field_of_nothing_is_its_background(ball_field: RadianceField) -> None:
    viewer = vqrf.Viewer(side=8)
    nothing = replace(emptied(ball_field), equation=replace(ball_field.equation, background=(0.25, 0.5, 0.75)))
    viewer.watch(lambda: nothing)
    assert viewer.image is not None
    np.testing.assert_allclose(viewer.image.rgb, np.broadcast_to((0.25, 0.5, 0.75), (8, 8, 3)), atol=1e-6)


@pytest.mark.parametrize("wrong", [{"side": 0}, {"side": 5000}, {"seconds": -1.0}, {"seconds": float("nan")}], ids=str)
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        vqrf.Viewer(**wrong)
