"""The contact sheet: all of it is in one file, what is drawn is where it is, and what is masked is tinted."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_report import NASTY, Page, image_of

from vqrf.data.builtin import built_in_scene
from vqrf.data.check import Check, check_scene
from vqrf.data.scene import Scene, camera_bounds
from vqrf.rendering import contact
from vqrf.rendering.contact import SIDE, Surroundings, frame_of, thumbnail_of, write_contact_sheet


@pytest.fixture(scope="module")
def scene() -> Scene:
    return built_in_scene(n_train=12, n_test=3, side=48)


def page_of(path: Path, scene: Scene, check: Check | None = None, surroundings: Surroundings | None = None) -> Page:
    box, points = camera_bounds(scene), np.random.default_rng(0).uniform(-1, 1, (40, 3))
    check = check or check_scene(scene, {})
    write_contact_sheet(path, scene, check, surroundings or Surroundings(box, points), {"layout": NASTY})
    return Page(path.read_text(encoding="utf-8"))


def strokes(page: Page, kind: str) -> list[np.ndarray]:
    """The places of each stroke of a kind, [N,2]."""
    found = [given["points"] for given in page.all("polyline") if given["class"] == kind]
    return [np.array([pair.split(",") for pair in str(points).split()], float) for points in found]


def test_a_page_shows_every_camera_from_three_sides_and_every_photo(scene: Scene, tmp_path: Path) -> None:
    page = page_of(tmp_path / "page.html", scene)
    assert (len(strokes(page, "train")), len(strokes(page, "test")), len(strokes(page, "box"))) == (36, 9, 36)
    assert len(page.all("svg")) == 3 and len(page.all("path")) == 3
    images = page.all("img")
    assert [image["alt"] for image in images] == [view.name for view in (*scene.train, *scene.test)]
    for image, view in zip(images, (*scene.train, *scene.test), strict=True):
        np.testing.assert_array_equal(image_of(image), view.image)
    assert "layout" + NASTY in "".join(page.text)


def test_a_page_loads_nothing(scene: Scene, tmp_path: Path) -> None:
    page_of(tmp_path / "page.html", scene)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text and "<script" not in text and "http" not in text.replace("http-equiv", "")
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', text))


def test_a_drawing_from_above_has_the_cameras_where_they_are(scene: Scene, tmp_path: Path) -> None:
    drawn = np.array([stroke[0] for stroke in strokes(page_of(tmp_path / "page.html", scene), "train")[:12]])
    places = np.array([view.camera.pose[:2, 3] for view in scene.train]) * [1, -1]  # y up is down on a page
    assert ((drawn > 0) & (drawn < SIDE)).all()
    drawn, places = drawn - drawn.mean(0), places - places.mean(0)
    scale = (drawn * places).sum() / (places**2).sum()
    np.testing.assert_allclose(drawn, scale * places, atol=0.2)
    assert scale > 0


def test_up_is_up_whatever_axis_it_is() -> None:
    for up in ((0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.5, -0.5, 0.5**0.5)):
        frame = frame_of(up)
        np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(frame) == pytest.approx(1)
        np.testing.assert_allclose(frame @ np.array(up), (0, 0, 1), atol=1e-12)
    np.testing.assert_array_equal(frame_of((0.0, 0.0, 1.0)), np.eye(3))


def test_what_is_odd_is_named_and_drawn_as_such(scene: Scene, tmp_path: Path) -> None:
    dark = replace(scene.train[4], image=scene.train[4].image // 100)
    odd = replace(scene, train=(*scene.train[:4], dark, *scene.train[5:]))
    page = page_of(tmp_path / "page.html", odd)
    assert len(strokes(page, "doubt")) == 3
    assert sum("black" in text for text in page.text) == 2, "among the warnings, and below the photo"


def test_many_photos_are_an_even_choice_of_them_with_every_odd_one(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact, "MAX_THUMBNAILS", 5)
    check = check_scene(scene, {})
    photos = tuple(replace(photo, doubts=("blurred",) if i == 7 else ()) for i, photo in enumerate(check.photos))
    page = page_of(tmp_path / "page.html", scene, replace(check, photos=photos))
    assert [image["alt"] for image in page.all("img")] == [photos[i].name for i in (0, 3, 7, 8, 11)]
    assert "10 more are not shown." in page.text


def test_what_is_masked_is_tinted(scene: Scene) -> None:
    view, half = scene.train[0], np.full((48, 48), 255, np.uint8)
    half[24:] = 0
    for part in ("weight", "opacity"):
        tinted = thumbnail_of(replace(view, **{part: half}))
        np.testing.assert_array_equal(tinted[:24], view.image[:24])
        expected = 0.25 * view.image[24:] + 0.75 * contact.HIDDEN
        np.testing.assert_allclose(tinted[24:], expected, atol=0.6)
