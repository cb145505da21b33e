"""Our files: what was saved is what is loaded, what is damaged is refused by name, and a failed write changes nothing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changed import changed
from safetensors import safe_open
from safetensors.numpy import save_file
from tiny import assert_same_field

from vqrf.cameras import Camera
from vqrf.data.scene import Scene
from vqrf.fields import storage
from vqrf.fields.cells import active_voxels, voxels_of_cells
from vqrf.fields.field import RadianceField
from vqrf.fields.storage import Made, StorageError, bytes_of_arrays, load_arrays, load_field, save_arrays, save_field
from vqrf.geometry import Lattice
from vqrf.kernels.constants import Equation
from vqrf.rendering.render import render

NOTES = {"preset": "quick", "downscale": 2, "nested": [1, None, "é"]}


@pytest.fixture
def small_field() -> RadianceField:
    """2x3x4 voxels without an MLP, one of its cells forbidden."""
    random = np.random.default_rng(0)
    allowed = np.ones((1, 2, 3), np.uint8)
    allowed[0, 0, 0] = 0
    return RadianceField(
        lattice=Lattice((-1.1, -1, -1), (1 / 3, 1, 1), (2, 3, 4)),
        density=random.normal(size=(2, 3, 4)).astype(np.float32),
        features=random.normal(size=(2, 3, 4, 3)).astype(np.float32),
        color_mlp=(),
        equation=Equation(-1 / 3, 0.1, 0.1, 0.1, 1e-4, (0.1, 0.2, 0.3)),
        allowed=allowed,
    )


def test_a_trained_field_renders_from_disk_as_it_did_in_memory(trained: RadianceField, scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "field.safetensors"
    save_field(path, trained, notes=NOTES)
    loaded, notes = load_field(path)
    assert notes == NOTES
    assert trained.allowed is not None
    assert 0 < trained.allowed.mean() < 1
    assert_same_field(trained, loaded)
    assert not loaded.density[~active_voxels(trained)].any()
    for view in scene.test:
        np.testing.assert_array_equal(render(trained, view.camera).rgb, render(loaded, view.camera).rgb)


def test_a_field_without_mlp_and_limits_comes_back_whole(
    ball_field: RadianceField, ball_camera: Camera, tmp_path: Path
) -> None:
    save_field(tmp_path / "field", ball_field, notes={})
    loaded = load_field(tmp_path / "field")[0]
    assert loaded.allowed is None
    np.testing.assert_array_equal(loaded.density, ball_field.density)
    np.testing.assert_array_equal(loaded.features, ball_field.features)
    np.testing.assert_array_equal(render(loaded, ball_camera).rgb, render(ball_field, ball_camera).rgb)


def test_a_field_of_harmonics_comes_back_as_one(small_field: RadianceField, tmp_path: Path) -> None:
    features = np.random.default_rng(1).normal(size=(2, 3, 4, 27)).astype(np.float32)
    for field in (
        changed(small_field, features=features, shading="sh"),
        changed(small_field, features=features, shading="sh_relu", activation="relu"),
    ):
        save_field(tmp_path / "field", field, notes={})
        assert_same_field(load_field(tmp_path / "field")[0], field)


def test_a_field_from_before_there_were_shadings_is_shaded_by_its_layers(small_field: RadianceField, tmp_path: Path) -> None:
    path = tmp_path / "field"
    save_field(path, small_field, notes={})
    arrays, header = load_arrays(path, storage.FIELD_FORMAT)
    assert (header.pop("shading"), header.pop("activation")) == ("mlp", "softplus")
    save_arrays(path, arrays, header)
    assert_same_field(load_field(path)[0], small_field)


def test_voxels_that_nothing_looks_at_take_no_bytes(ball_field: RadianceField, tmp_path: Path) -> None:
    save_field(tmp_path / "whole", ball_field, notes={})
    allowed = np.zeros([side - 1 for side in ball_field.lattice.shape], np.uint8)
    allowed[:3, :3, :3] = 1
    save_field(tmp_path / "corner", replace(ball_field, allowed=allowed), notes={})
    saved = (tmp_path / "whole").stat().st_size - (tmp_path / "corner").stat().st_size
    assert saved > 0.9 * 4 * 4 * (16**3 - 4**3)


def test_voxels_of_cells_are_their_corners() -> None:
    cells = (np.random.default_rng(0).random((4, 3, 5)) < 0.1).astype(np.uint8)
    expected = np.zeros((5, 4, 6), bool)
    for x, y, z in np.argwhere(cells):
        expected[x : x + 2, y : y + 2, z : z + 2] = True
    np.testing.assert_array_equal(voxels_of_cells(cells), expected)


def refusal(path: Path, load: Callable[[Path], object] = load_field) -> str:
    """The one line with which a file is refused; it begins with the file's name."""
    with pytest.raises(StorageError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert caught.value.path == path
    return message


def test_every_prefix_of_a_field_is_refused(small_field: RadianceField, tmp_path: Path) -> None:
    path = tmp_path / "field"
    save_field(path, small_field, notes={})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        refusal(path)


def test_every_changed_byte_of_a_field_is_refused_or_changes_nothing(small_field: RadianceField, tmp_path: Path) -> None:
    path = tmp_path / "field"
    save_field(path, small_field, notes={})
    data = path.read_bytes()
    random = np.random.default_rng(0)
    n_refused = 0
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= int(random.integers(1, 256))
        path.write_bytes(changed)
        try:
            assert_same_field(load_field(path)[0], small_field)  # white space of the header
        except StorageError:
            refusal(path)
            n_refused += 1
    assert n_refused > 0.98 * len(data)


def many_kinds() -> dict[str, np.ndarray]:
    """An array of each type, one without values, one of no axes, one that is not contiguous."""
    random = np.random.default_rng(0)
    kinds = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64")
    arrays = {f"of {kind}": (100 * random.random((3, 5))).astype(kind) for kind in kinds}
    return arrays | {"none": np.zeros((0, 4), np.uint8), "scalar": np.array(1.5), "é": np.arange(12.0).reshape(3, 4).T}


def test_equal_arrays_are_equal_bytes_in_any_process_and_order() -> None:
    code = """
import sys, zlib
from fields.test_storage import NOTES, many_kinds
from vqrf.fields.storage import bytes_of_arrays
arrays = many_kinds()
print(zlib.crc32(bytes_of_arrays(dict(sorted(arrays.items(), reverse=sys.argv[1] == "1")), NOTES)))
"""
    roots = os.pathsep.join([str(Path(__file__).parents[1]), *(path for path in sys.path if path)])
    said = {
        subprocess.run(
            [sys.executable, "-c", code, str(number % 2)],
            env={**os.environ, "PYTHONPATH": roots, "PYTHONHASHSEED": str(number)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in range(3)
    }
    assert len(said) == 1


def test_safetensors_reads_what_we_write_and_we_read_what_it_writes(tmp_path: Path) -> None:
    arrays, header = many_kinds(), {"format": "x", **NOTES}
    save_arrays(tmp_path / "ours", arrays, header)
    with safe_open(tmp_path / "ours", "np") as file:
        metadata = file.metadata()
        assert set(file.keys()) == set(arrays)
        for name, array in arrays.items():
            read = file.get_tensor(name)
            assert read.dtype == array.dtype and read.shape == array.shape
            np.testing.assert_array_equal(read, array)
    save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, tmp_path / "theirs", metadata)
    for name in ("ours", "theirs"):
        again, found = load_arrays(tmp_path / name, "x")
        assert found == header == storage.read_header(tmp_path / name, "x")
        for key, array in arrays.items():
            np.testing.assert_array_equal(again[key], array)


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, b"\x08" + bytes(7) + b"[1, 2, 3", b"\x02" + bytes(7) + b"{}"])
def test_a_header_that_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    assert "no file of this program" in refusal(path, lambda path: storage.read_header(path, "x"))
    assert "No such file" in refusal(tmp_path / "none", lambda path: storage.read_header(path, "x"))
    save_arrays(path, {}, {"format": "y"})
    assert "expected format x, got y" in refusal(path, lambda path: storage.read_header(path, "x"))


def without_density(path: Path) -> None:
    arrays, header = load_arrays(path, storage.FIELD_FORMAT)
    del arrays["density"]
    save_arrays(path, arrays, header)


def with_header(**change: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        arrays, header = load_arrays(path, storage.FIELD_FORMAT)
        save_arrays(path, arrays, header | change)

    return write


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "No such file"),
    "empty": (lambda path: path.write_bytes(b""), "no file of this program"),
    "text": (lambda path: path.write_text("hello " * 100), "no file of this program"),
    "another program's": (lambda path: save_file({"density": np.zeros(3)}, path), "no file of this program"),
    "another program's notes": (lambda path: save_file({"a": np.zeros(3)}, path, {"vqrf": "{}"}), "checksum"),
    "a checkpoint": (lambda path: save_arrays(path, {}, {"format": "vqrf-checkpoint-3"}), "expected format"),
    "a list": (lambda path: save_arrays(path, {}, [1]), "expected format"),  # type: ignore[arg-type]
    "without density": (without_density, "no usable field"),
    "with one layer too many": (with_header(n_layers=1), "no usable field"),
    "with a flat lattice": (with_header(shape=[2, 3, 1]), "no usable field"),
    "with another lattice": (with_header(shape=[2, 3, 3]), "no usable field"),
    "with bounds of two numbers": (with_header(lo=[0, 0]), "no usable field"),
    "with a shading that is none": (with_header(shading="phong"), "no usable field"),
    "with a shading for other channels": (with_header(shading="sh"), "no usable field"),
    "with no step": (with_header(step_world=0), "no usable field"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_no_field_is_refused_by_file_and_reason(small_field: RadianceField, tmp_path: Path, case: str) -> None:
    change, reason = FOREIGN[case]
    path = tmp_path / "field"
    save_field(path, small_field, notes={})
    change(path)
    assert reason in refusal(path)


def test_a_folder_and_a_file_that_is_too_large_are_refused(
    small_field: RadianceField, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "directory" in refusal(tmp_path)
    path = tmp_path / "field"
    save_field(path, small_field, notes={})
    monkeypatch.setattr(storage, "MAX_FIELD_BYTES", 100)
    assert "larger than 100 bytes" in refusal(path)


def test_a_failed_save_leaves_the_old_field_and_nothing_else(
    small_field: RadianceField, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "field"
    save_field(path, small_field, notes={"old": True})

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        save_field(path, changed(small_field, near=0.5), notes={})
    assert caught.value.filename == str(path)
    assert load_field(path)[1] == {"old": True}
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_made_when_it_is_asked_for_is_let_go_before_the_next(tmp_path: Path) -> None:
    """Rows of a large lattice are copies: a save holds one array of them at a time."""
    alive: set[int] = set()

    def maker(number: int) -> Callable[[], np.ndarray]:
        def make() -> np.ndarray:
            assert not alive
            array = np.full(1000, number, np.float32)
            alive.add(number)
            weakref.finalize(array, alive.remove, number)
            return array

        return make

    made = Made({f"a{number}": maker(number) for number in range(3)})
    save_arrays(tmp_path / "made.safetensors", made, {"format": "made"})
    plain = {f"a{number}": np.full(1000, number, np.float32) for number in range(3)}
    assert (tmp_path / "made.safetensors").read_bytes() == bytes_of_arrays(plain, {"format": "made"})
