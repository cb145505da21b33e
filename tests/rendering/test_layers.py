"""Depth and alpha of pictures: what they say of a ball, and that another program reads the files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from vqrf.cameras import Camera
from vqrf.fields.field import RadianceField
from vqrf.rendering.layers import distances_of, exr_of, layer_files
from vqrf.rendering.render import Image, render


@pytest.fixture(scope="module")
def image(ball_field: RadianceField, ball_camera: Camera) -> Image:
    return render(ball_field, ball_camera)


def test_what_is_there_is_as_far_as_the_ball(image: Image) -> None:
    """The camera is 3 away from the middle of a ball of 0.6."""
    distances = distances_of(image)
    assert distances[10, 12] == pytest.approx(2.4, abs=0.1)
    assert np.isinf(distances[0, 0]) and distances.min() > 2.3


def test_distances_do_not_depend_on_how_opaque_a_thing_is() -> None:
    opacity = np.float32([[1.0, 0.6, 0.1]])
    image = Image(np.zeros((1, 3, 3), np.float32), 2 * opacity, opacity)
    np.testing.assert_allclose(distances_of(image), [[2, 2, np.inf]])


def test_layers_are_pngs_in_known_units(image: Image) -> None:
    files = layer_files(image, ("alpha", "depth"), is_exr=False)
    alpha, depth = (np.asarray(PIL.Image.open(io.BytesIO(files[ending]))) for ending in (".alpha.png", ".depth.png"))
    np.testing.assert_array_equal(alpha, np.rint(image.opacity * 255))
    distances = distances_of(image)
    here = np.isfinite(distances)
    np.testing.assert_allclose(depth[here] * 1e-3, distances[here], atol=6e-4)
    assert (depth[~here] == 0).all() and depth.max() > 255
    far = Image(image.rgb, np.full_like(image.depth, 100.0), np.ones_like(image.opacity))
    assert (np.asarray(PIL.Image.open(io.BytesIO(layer_files(far, ("depth",), is_exr=False)[".depth.png"]))) == 65535).all()


def test_openexr_reads_the_layers_to_the_bit(image: Image, tmp_path: Path) -> None:
    openexr = pytest.importorskip("OpenEXR", reason="needs OpenEXR, the other program")
    (data,) = layer_files(image, ("depth", "alpha"), is_exr=True).values()
    (tmp_path / "a.exr").write_bytes(data)
    channels = openexr.File(str(tmp_path / "a.exr"), separate_channels=True).channels()
    assert set(channels) == {"A", "Z"}
    np.testing.assert_array_equal(channels["A"].pixels, image.opacity)
    np.testing.assert_array_equal(channels["Z"].pixels, distances_of(image))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2), (7, 33)])
def test_openexr_reads_any_size_and_channels(tmp_path: Path, height: int, width: int) -> None:
    openexr = pytest.importorskip("OpenEXR", reason="needs OpenEXR, the other program")
    channels = {name: np.random.default_rng(ord(name)).normal(size=(height, width)).astype(np.float32) for name in "ZBA"}
    (tmp_path / "a.exr").write_bytes(exr_of(channels))
    found = openexr.File(str(tmp_path / "a.exr"), separate_channels=True).channels()
    for name, values in channels.items():
        np.testing.assert_array_equal(found[name].pixels, values)
