"""Borders of photos that show nothing are found by what all photos have in common, and left out of training and scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from foreign_places import HEIGHT, N_CAMERAS, WIDTH, save_cameras
from PIL import Image

from vqrf.cameras import Camera
from vqrf.data.borders import border_widths, without_borders
from vqrf.data.load import load_scene
from vqrf.data.scene import View


def photos(n: int = 10, size: tuple[int, int] = (60, 45), seed: int = 0, floor: int = 255) -> list[View]:
    """Photos of blotches, other ones in each, on the lower half of which nothing is brighter than `floor`."""
    width, height = size
    rng = np.random.default_rng(seed)
    views = []
    for i in range(n):
        blotches = rng.integers(0, 255, (9, 12, 3), np.uint8)
        image = np.array(Image.fromarray(blotches).resize(size, Image.Resampling.BICUBIC))
        image[height // 2 :] = image[height // 2 :].astype(int) * floor // 255
        views.append(View(Camera(np.eye(4), 50.0, 50.0, width / 2, height / 2, width, height), image, f"photo{i}"))
    return views


def framed(views: list[View], level: float, **widths: int) -> list[View]:
    """The same, with lines at the sides that have `level` of 255, all of them."""
    made = []
    for view in views:
        image = view.image.copy()
        for side, n in widths.items():
            lines = {"top": image[:n], "bottom": image[-n:], "left": image[:, :n], "right": image[:, -n:]}[side]
            lines[...] = level
        made.append(replace(view, image=image))
    return made


@pytest.mark.parametrize("level", [0, 20, 255])
def test_lines_that_show_nothing_are_found_on_each_side(level: int) -> None:
    assert border_widths(photos()) == (0, 0, 0, 0)
    for i, side in enumerate(("top", "bottom", "left", "right")):
        for n in (1, 2):
            widths = [0, 0, 0, 0]
            widths[i] = n
            assert border_widths(framed(photos(), level, **{side: n})) == tuple(widths)
    assert border_widths(framed(photos(size=(400, 300)), level, top=5, left=8)) == (5, 0, 8, 0)


def test_what_photos_show_is_no_border_however_dark() -> None:
    assert border_widths(photos(floor=40)) == (0, 0, 0, 0)
    some = photos()
    assert border_widths(framed(some[:8], 0, bottom=1) + some[8:]) == (0, 0, 0, 0)  # not in all of them
    assert border_widths(framed(some[:2], 0, bottom=1)) == (0, 0, 0, 0)  # too few to tell
    assert border_widths(framed(some, 0, bottom=20)) == (0, 0, 0, 0)  # wider than any border


def test_photos_of_each_size_have_their_own_and_masks_stay() -> None:
    upright = photos(size=(45, 60), seed=1)
    mask = np.full((60, 45), 255, np.uint8)
    mask[10:20] = 7
    upright[0] = replace(upright[0], weight=mask)
    views, remarks = without_borders([*framed(photos(), 0, bottom=1), *framed(upright, 255, left=1)])
    assert len(remarks) == 2 and "1 at the left" in remarks[0] and "1 at the bottom" in remarks[1]
    for view in views[:10]:
        assert view.weight is not None and not view.weight[-1].any() and (view.weight[:-1] == 255).all()
    kept = views[10].weight
    assert kept is not None and not kept[:, 0].any() and (kept[10:20, 1:] == 7).all() and (kept[:10, 1:] == 255).all()
    same, remarks = without_borders(photos())
    assert not remarks and all(view.weight is None for view in same)


def test_a_dataset_with_black_lines_is_read_without_them(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    save_cameras(tmp_path)
    for i, view in enumerate(framed(photos(N_CAMERAS, (WIDTH, HEIGHT)), 0, bottom=1)):
        Image.fromarray(view.image).save(tmp_path / "images" / f"{i}.png")
    scene = load_scene(tmp_path)
    assert any("1 at the bottom" in remark for remark in scene.remarks)
    for view in (*scene.train, *scene.test):
        assert view.weight is not None and not view.weight[-1].any() and view.weight[:-1].all()
