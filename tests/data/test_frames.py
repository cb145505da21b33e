"""Frames of a film: the sharpest of each stretch, in order, upright."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from corner import cameras_along, draw_corner

from vqrf.data.frames import pick_frames, sharpness, thinned, upright
from vqrf.data.listing import SceneError

av = pytest.importorskip("av")

CAMERAS = cameras_along(12, 96)
SHARP = (1, 5, 6, 10)
"""Frames of the film that are not smeared."""


def smeared(image: np.ndarray, width: int = 9) -> np.ndarray:
    """As by a camera that moves sideways."""
    moved = [np.roll(image.astype(np.float32), shift, 1) for shift in range(width)]
    return np.mean(moved, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "walk.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        stream.options = {"qscale": "2"}
        for i, camera in enumerate(CAMERAS):
            image = draw_corner(camera)
            frame = av.VideoFrame.from_ndarray(image if i in SHARP else smeared(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_the_sharpest_frame_of_each_stretch_is_taken(film: Path, tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    files = pick_frames(film, 4, tmp_path, lambda done, total: said.append((done, total)))
    assert [file.name for file in files] == [f"frame_{i:05}.jpg" for i in range(4)]
    drawn = [draw_corner(camera).astype(float) for camera in CAMERAS]
    for file, expected in zip(files, SHARP, strict=True):
        image = np.asarray(PIL.Image.open(file), float)
        nearest = int(np.argmin([np.abs(image - other).mean() for other in drawn]))
        assert nearest == expected
    assert said[-1] == (12, 12)


def test_a_film_of_few_frames_gives_all_of_them(film: Path, tmp_path: Path) -> None:
    assert len(pick_frames(film, 100, tmp_path, lambda *_: None)) == 12


def test_what_is_no_film_is_refused(tmp_path: Path, film: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no film" * 100)
    (tmp_path / "cut.mp4").write_bytes(film.read_bytes()[:300])
    for name in ("empty", "text", "cut"):
        with pytest.raises(SceneError, match=rf"{name}\.mp4: cannot be read as a film"):
            pick_frames(tmp_path / f"{name}.mp4", 4, tmp_path, lambda *_: None)


def test_sharpness_falls_with_smear_and_does_not_mind_brightness() -> None:
    gray = draw_corner(CAMERAS[0])[..., 1] // 2
    assert sharpness(gray) == sharpness(gray + 100)
    smears = [sharpness(smeared(gray, width)) for width in (1, 2, 4, 8)]
    assert smears == sorted(smears, reverse=True) and smears[-1] < 0.3 * smears[0]
    assert sharpness(np.zeros((2, 5), np.uint8)) == 0


def test_thinning_averages_blocks() -> None:
    gray = np.arange(48, dtype=np.uint8).reshape(6, 8)
    np.testing.assert_array_equal(thinned(gray, 4), [[4, 6, 8, 10], [20, 22, 24, 26], [36, 38, 40, 42]])
    np.testing.assert_array_equal(thinned(gray, 8), gray)


@pytest.mark.parametrize(("degrees", "corner"), [(0, (0, 0)), (90, (1, 0)), (-90, (0, 2)), (180, (1, 2)), (-180, (1, 2))])
def test_a_frame_is_turned_counterclockwise(degrees: int, corner: tuple[int, int]) -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    image[corner] = 255
    turned = upright(image, degrees)
    assert turned.shape[:2] == ((2, 3) if degrees % 180 == 0 else (3, 2))
    assert np.argwhere(turned[..., 0]).tolist() == [[0, 0]] if degrees in (0, 180, -180) else True
