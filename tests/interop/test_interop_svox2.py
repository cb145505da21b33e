"""svox2's checkpoints: they look as the official code draws them, come back as they went, and are refused where they lie."""

from __future__ import annotations

import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changed import changed
from foreign import FIXTURES, Malice, decibels, needs_fixtures, object_npy, official_view
from oracles import harmonics, trilinear
from tiny import assert_same_field

from vqrf.cameras import Camera
from vqrf.data.images import bytes_from_colors
from vqrf.data.scene import View
from vqrf.fields.field import RadianceField
from vqrf.interop import CheckpointError, Sampling, archives, bytes_of_svox2, guess_scale, is_checkpoint, load_checkpoint, svox2
from vqrf.rendering.render import render

SVOX2 = FIXTURES / "svox2"
ENOUGH = 50.0
"""dB between an official image and ours."""

SIDES = (5, 6, 7)
Arrays = dict[str, Any]


def small_arrays(seed: int = 0, n_channels: int = 27) -> Arrays:
    """A checkpoint as svox2 saves it, over 5x6x7 voxels, a third of them empty in several ways, the others in no order."""
    rng = np.random.default_rng(seed)
    links = -rng.integers(1, 6, SIDES).astype(np.int32)
    full = rng.random(SIDES) < 0.67
    n = int(full.sum())
    links[full] = rng.permutation(n)
    return {
        "radius": np.array([1.0, 1.25, 0.75], np.float32),
        "center": np.array([0.1, 0.0, -0.2], np.float32),
        "links": links,
        "density_data": (30 * rng.normal(size=(n, 1))).astype(np.float32),
        "sh_data": rng.normal(size=(n, n_channels)).astype(np.float16),
        "basis_type": np.array(1),
    }


def written(arrays: Arrays, path: Path, *, compress: bool = False) -> Path:
    (np.savez_compressed if compress else np.savez)(path, **arrays)
    return path


def again(field: RadianceField, path: Path, **options: Any) -> RadianceField:
    path.write_bytes(bytes_of_svox2(field))
    return load_checkpoint(path, **options).field


# ------------------------------------------------------------------------------------------------ the official files


@needs_fixtures
@pytest.mark.parametrize(
    ("name", "view"),
    [
        *(("ckpt.npz", "view0"), ("ckpt.npz", "view1"), ("ckpt_accel_links.npz", "view0")),
        ("ckpt_aniso.npz", "aniso_view0"),
    ],
)
def test_a_checkpoint_of_svox2_looks_as_the_official_code_draws_it(name: str, view: str) -> None:
    assert is_checkpoint(SVOX2 / name)
    assert decibels(load_checkpoint(SVOX2 / name).field, *official_view(SVOX2, view)) > ENOUGH


@needs_fixtures
def test_density_and_colour_at_points_are_the_official_ones() -> None:
    """Interpolation, clamping beyond the outer voxels, and the order and signs of the harmonics."""
    field = load_checkpoint(SVOX2 / "ckpt.npz").field
    probe = np.load(SVOX2 / "probe_points.npz")
    at = field.lattice.index_from_world(probe["xyz_world"].astype(np.float64))
    density = trilinear(field.density, at) * field.equation.interval / field.equation.step_world
    np.testing.assert_allclose(density, probe["density"][:, 0], atol=2e-3)
    features = trilinear(field.features, at)
    np.testing.assert_allclose(features, probe["sh"], atol=1e-5)
    basis = harmonics(probe["viewdirs"].astype(np.float64), 2)
    np.testing.assert_allclose(basis, probe["sh_basis"], atol=1e-6)
    total = np.einsum("nk,nck->nc", basis, features.reshape(-1, 3, 9))
    np.testing.assert_allclose(np.maximum(0.5 + total, 0), probe["rgb"], atol=1e-5)


@needs_fixtures
@pytest.mark.parametrize("name", ["ckpt.npz", "ckpt_accel_links.npz", "ckpt_aniso.npz"])
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_an_official_checkpoint_comes_back_from_our_export_to_the_bit(name: str, scale: float, tmp_path: Path) -> None:
    """As a field, and as the official arrays: what they say of every voxel, whatever its row was."""
    first = load_checkpoint(SVOX2 / name, sampling=Sampling(scale=scale)).field
    assert_same_field(again(first, tmp_path / "again.npz"), first)
    theirs, ours = np.load(SVOX2 / name), np.load(tmp_path / "again.npz")
    for key in ("density_data", "sh_data"):
        (a, a_links), (b, b_links) = ((arrays[key], arrays["links"]) for arrays in (theirs, ours))
        assert a.dtype == b.dtype
        zero = np.zeros((), a.dtype)  # what no row says; some official rows say it too, and are left out
        np.testing.assert_array_equal(
            *(np.where(links[..., None] >= 0, rows[links.clip(0)], zero) for rows, links in ((a, a_links), (b, b_links)))
        )
    np.testing.assert_allclose(ours["radius"], theirs["radius"], rtol=1e-6)


@needs_fixtures
def test_a_photo_tells_the_scale_of_the_world() -> None:
    pose = np.eye(4)
    pose[2, 3] = 4.0
    camera = Camera(pose, 60.0, 60.0, 16.0, 16.0, 32, 32)

    def load(scale: float) -> RadianceField:
        return load_checkpoint(SVOX2 / "ckpt.npz", sampling=Sampling(scale=scale)).field

    view = View(camera, bytes_from_colors(render(load(1.5), camera).rgb), "view")
    assert next(iter(guess_scale(load, [view]))) == 1.5
    view = replace(view, image=bytes_from_colors(render(load(1.0), camera).rgb))
    assert next(iter(guess_scale(load, [view]))) == 1.0


# --------------------------------------------------------------------------------------------------------- our reading


def test_a_larger_world_holds_the_same_image_farther_away(tmp_path: Path) -> None:
    path = written(small_arrays(), tmp_path / "ckpt.npz")
    near, far = (load_checkpoint(path, sampling=Sampling(scale=scale)).field for scale in (1.0, 1.5))
    pose = np.eye(4)
    pose[2, 3] = 3.0
    camera = Camera(pose, 20.0, 20.0, 8.0, 8.0, 16, 16)
    pose = pose.copy()
    pose[2, 3] *= 1.5
    distant = replace(camera, pose=pose)
    assert render(near, camera).rgb.std() > 0.05
    np.testing.assert_allclose(render(far, distant).rgb, render(near, camera).rgb, atol=2e-4)


@pytest.mark.parametrize("n_channels", [12, 27])
def test_every_way_of_saving_makes_the_same_field(n_channels: int, tmp_path: Path) -> None:
    arrays = small_arrays(n_channels=n_channels)
    first = load_checkpoint(written(arrays, tmp_path / "stored.npz")).field
    assert_same_field(load_checkpoint(written(arrays, tmp_path / "deflated.npz", compress=True)).field, first)
    both = np.concatenate([arrays["density_data"], arrays["sh_data"].astype(np.float32)], 1)
    old = {key: arrays[key] for key in ("radius", "center", "links")} | {"data": both}
    assert_same_field(load_checkpoint(written(old, tmp_path / "old.npz")).field, first)
    usual = {**arrays, "radius": np.ones(3, np.float32), "center": np.zeros(3, np.float32)}
    without = {key: array for key, array in arrays.items() if key not in ("radius", "center", "basis_type")}
    paths = [written(arrays, tmp_path / f"{name}.npz") for name, arrays in (("usual", usual), ("without", without))]
    assert_same_field(*(load_checkpoint(path).field for path in paths))


def test_a_field_of_ours_comes_back_to_the_bit_with_its_cells(ball_field: RadianceField, tmp_path: Path) -> None:
    """One that was trained here: odd units, float32 coefficients, cells that are not allowed, values up to its border."""
    rng = np.random.default_rng(4)
    field = changed(
        ball_field,
        features=rng.normal(size=(*ball_field.lattice.shape, 27)).astype(np.float32),
        density_bias=0.0,
        interval=0.4321,
        background=(0.0, 0.5, 1.0),
        shading="sh_relu",
        activation="relu",
        allowed=(rng.random([side - 1 for side in ball_field.lattice.shape]) < 0.2).astype(np.uint8),
    )
    assert_same_field(again(field, tmp_path / "ours.npz"), field)
    assert np.load(tmp_path / "ours.npz")["sh_data"].dtype == np.float32


def test_what_svox2_cannot_hold_is_not_written(ball_field: RadianceField) -> None:
    with pytest.raises(ValueError, match="svox2 has"):
        bytes_of_svox2(ball_field)


# ------------------------------------------------------------------------------------------------------------ refusals


def refuses(path: Path, *saying: str) -> None:
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    text = str(error.value)
    assert text.startswith(str(path)) and "\n" not in text
    for words in saying:
        assert words in text


def with_value(key: str, entry: Any, value: float) -> Arrays:
    arrays = small_arrays()
    arrays[key][entry] = value
    return arrays


BAD: dict[str, tuple[Arrays, tuple[str, ...]]] = {
    "a link beyond the rows": (with_value("links", (1, 2, 3), 10**6), ("links", "[1, 2, 3]", "row 1000000 of")),
    "a density that is not a number": (with_value("density_data", 3, np.nan), ("density_data", "not finite")),
    "an infinite coefficient": (with_value("sh_data", (3, 4), np.inf), ("sh_data", "not finite")),
    "a box turned inside out": (with_value("radius", 1, -1.0), ("radius", "box")),
    "a learned basis": ({**small_arrays(), "basis_type": np.array(4)}, ("basis_type", "got 4")),
    "basis data": ({**small_arrays(), "basis_data": np.zeros(3, np.float32)}, ("basis_data", "not read")),
    "a background": ({**small_arrays(), "background_links": np.zeros((4, 2), np.int32)}, ("background_links", "not read")),
    "links of two axes": ({**small_arrays(), "links": np.zeros((4, 4), np.int32)}, ("links", "[4, 4]")),
    "links that are no integers": ({**small_arrays(), "links": np.zeros((4, 4, 4))}, ("links", "float64")),
    "one layer of voxels": ({**small_arrays(), "links": -np.ones((1, 4, 4), np.int32)}, ("links", "2 voxels")),
    "more densities than coefficients": ({**small_arrays(), "density_data": np.zeros((3, 1), np.float32)}, ("as many rows",)),
    "a degree that is not read": ({**small_arrays(), "sh_data": np.zeros((3, 48), np.float16)}, ("12 or 27",)),
    "no coefficients": ({k: a for k, a in small_arrays().items() if k != "sh_data"}, ("sh_data", "missing")),
    "an object": ({**small_arrays(), "radius": np.array([1, None, 2], object)}, ("radius",)),
    "numbers of ours that are none": ({**small_arrays(), "vqrf": np.zeros(3)}, ("vqrf", "[3]")),
    "a lattice of ours upside down": ({**small_arrays(), "vqrf": np.zeros(14)}, ("lo",)),
}


@pytest.mark.parametrize("case", BAD)
def test_a_checkpoint_that_cannot_be_ours_is_refused_by_name(case: str, tmp_path: Path) -> None:
    arrays, saying = BAD[case]
    refuses(written(arrays, tmp_path / "bad.npz"), *saying)


def test_a_lattice_that_is_too_large_is_refused_before_there_is_room_for_it(tmp_path: Path) -> None:
    links = np.full((1024, 640, 120), -1, np.int32)
    links[0, 0, 0] = links[-1, -1, -1] = 0
    path = written({**small_arrays(), "links": links}, tmp_path / "large.npz", compress=True)
    assert path.stat().st_size < 1 << 21
    refuses(path, "links", "[1024, 640, 120]", "too large")


def test_of_a_lattice_that_is_too_large_the_empty_outside_is_left_out(tmp_path: Path, monkeypatch: Any) -> None:
    arrays = small_arrays()
    around = [(4, 9), (0, 12), (10, 3)]
    wide = {**arrays, "links": np.pad(arrays["links"], around, constant_values=-3)}
    whole = load_checkpoint(written(wide, tmp_path / "wide.npz")).field
    monkeypatch.setattr(svox2, "MAX_FIELD_BYTES", 4 * 28 * 11 * 11 * 11)
    part = load_checkpoint(tmp_path / "wide.npz").field
    assert part.lattice.n_voxels < whole.lattice.n_voxels / 5
    points = whole.lattice.world_from_index(np.random.default_rng(0).uniform(3, 15, (400, 3)))
    at = part.lattice.index_from_world(points)
    inside = ((at >= 0) & (at <= np.array(part.lattice.shape) - 1)).all(-1)
    features = trilinear(whole.features, whole.lattice.index_from_world(points))
    assert 0 < inside.mean() < 1 and not features[~inside].any()
    np.testing.assert_allclose(trilinear(part.features, at[inside]), features[inside], atol=1e-5)
    assert (part.equation.interval, part.equation.step_world) == (whole.equation.interval, whole.equation.step_world)


def test_arrays_that_inflate_without_end_are_refused_by_what_they_say(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(svox2, "MAX_INFLATED_BYTES", 1 << 16)
    path = written({**small_arrays(), "links": np.full((32, 32, 32), -1, np.int32)}, tmp_path / "bomb.npz", compress=True)
    refuses(path, "inflates to")


def test_an_array_that_lies_about_its_shape_is_refused(tmp_path: Path) -> None:
    path = written(small_arrays(), tmp_path / "lie.npz")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["links.npy"] = members["links.npy"].replace(b"(5, 6, 7)", b"(5, 6, 9)")
    path.write_bytes(archives.bytes_of_zip(members, zipfile.ZIP_STORED))
    refuses(path, "links.npy", "(5, 6, 9)")


def test_a_checkpoint_that_is_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    whole = written(small_arrays(), tmp_path / "whole.npz").read_bytes()
    path = tmp_path / "cut.npz"
    for length in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:length])
        refuses(path)


def test_what_hides_in_an_object_array_is_not_run(tmp_path: Path) -> None:
    sign, path = tmp_path / "ran", tmp_path / "malice.npz"
    members = {"links.npy": object_npy(Malice(sign)), "density_data.npy": object_npy(1)}
    path.write_bytes(archives.bytes_of_zip(members, zipfile.ZIP_STORED))
    refuses(path, "links.npy", "posix.system", "not run")
    assert not sign.exists()
    np.load(path, allow_pickle=True)["links"]
    assert sign.exists()


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = written(small_arrays(), tmp_path / "changed.npz")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("sh_data.npy")
    name_length = struct.unpack_from("<H", data, info.header_offset + 26)[0]
    data[info.header_offset + 30 + name_length + info.file_size // 2] ^= 1
    path.write_bytes(data)
    refuses(path, "sh_data.npy", "CRC")
