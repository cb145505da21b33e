"""Checkpoints of DirectVoxGO and VQRF that are refused: each is told of by name and place, and nothing in it runs."""

# ruff: noqa: F811 (a fixture of test_interop is a parameter here)

from __future__ import annotations

import io
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign import SIDE, Malice, object_npy, saved, small_tree
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_interop import small  # noqa: F401 (fixture)

from vqrf.codec.compressed import CompressedField
from vqrf.interop import CheckpointError, archives, files_of_vqrf, load_checkpoint, load_dvgo, pickles
from vqrf.interop.values import Refused, Storage, Tensor

# -------------------------------------------------------------------------------------------------------- bad fields


def refuses(path: Path, *saying: str) -> None:
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    text = str(error.value)
    assert text.startswith(str(path)) and "\n" not in text
    for words in saying:
        assert words in text


def with_state(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree["model_state_dict"].__setitem__(key, value)


def with_argument(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree["model_kwargs"].__setitem__(key, value)


NOT_FINITE = torch.zeros(1, 1, SIDE, SIDE, SIDE)
NOT_FINITE[0, 0, 1, 2, 3] = torch.nan


@pytest.mark.parametrize(
    ("change", "saying"),
    [
        (with_state("density.grid", NOT_FINITE), ("density.grid", "not finite")),
        (with_state("rgbnet.3.bias", torch.tensor([0.0, torch.inf, 0.0])), ("rgbnet.3.bias", "not finite")),
        (with_state("k0.grid", torch.zeros(1, 6, 4, 4, 4)), ("k0.grid", "do not fit")),
        (with_state("xyz_max", torch.tensor([-2.0, 1.0, 1.0])), ("xyz_max", "box")),
        (with_state("viewfreq", torch.tensor([1.0, 3.0])), ("viewfreq", "powers of two")),
        (with_state("posfreq", torch.tensor([1.0, 2.0])), ("depend on the position",)),
        (with_state("act_shift.grid", torch.zeros(1)), ("act_shift.grid", "forward-facing")),
        (with_state("scene_center", torch.zeros(3)), ("scene_radius", "missing")),
        (with_state("density.xy_plane", torch.zeros(1)), ("TensoRFGrid",)),
        (with_state("mask_cache.density", torch.zeros(1)), ("mask_cache.density",)),
        (with_argument("pre_act_density", True), ("pre_act_density",)),
        (with_argument("num_voxels", 0), ("num_voxels",)),
        (with_argument("num_voxels", "many"), ("num_voxels", "expected numbers")),
        (with_argument("voxel_size_ratio", torch.tensor(torch.nan)), ("voxel_size_ratio", "finite")),
        (lambda tree: tree["model_state_dict"].pop("density.grid"), ("density.grid", "missing")),
        (lambda tree: tree["model_state_dict"].pop("rgbnet.3.bias"), ("rgbnet.3.bias", "missing")),
        (lambda tree: tree.pop("model_kwargs"), ("no checkpoint of DirectVoxGO",)),
    ],
)
def test_a_field_that_cannot_be_ours_is_refused_by_name(
    change: Callable[[dict[str, Any]], None], saying: tuple[str, ...], tmp_path: Path
) -> None:
    tree = small_tree()
    change(tree)
    refuses(saved(tree, tmp_path / "bad.tar"), *saying)


# ------------------------------------------------------------------------------------------------------------ malice


def test_what_hides_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    sign = tmp_path / "ran"
    hidden = {
        "beside": {**small_tree(), "extra": Malice(sign)},
        "in an argument": {**small_tree(), "model_kwargs": {"xyz_min": Malice(sign)}},
        "in a list": [[[Malice(sign)]]],
        "in an object array": {**small_tree(), "extra": np.array([Malice(sign)], object)},
        "as a key's value": OrderedDict(a=Malice(sign)),
    }
    for legacy in (False, True):
        for where, tree in hidden.items():
            path = saved(tree, tmp_path / f"{where} {legacy}.tar", legacy=legacy)
            refuses(path, "posix.system", "not run")
    assert not sign.exists()
    torch.load(path, weights_only=False)  # what was hidden works
    assert sign.exists()


@pytest.mark.parametrize("name", ["metadata", "rgbnet"])
def test_what_hides_in_an_object_array_of_a_vqrf_folder_is_not_run(name: str, small: CompressedField, tmp_path: Path) -> None:
    sign = tmp_path / "ran"
    npy = object_npy({"global_step": Malice(sign)})
    folder = tmp_path / "extreme_saving"
    folder.mkdir()
    for file, data in files_of_vqrf(small).items():
        (folder / file).write_bytes(data)
    (folder / f"{name}.npz").write_bytes(archives.bytes_of_zip({"arr_0.npy": npy}, zipfile.ZIP_DEFLATED))
    refuses(folder, f"{name}.npz", "posix.system", "not run")
    assert not sign.exists()
    np.load(folder / f"{name}.npz", allow_pickle=True)["arr_0"]
    assert sign.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch ran'\ntR.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09touch ran\x85R.",
        b"(S'touch ran'\nios\nsystem\n.",
        b"c__builtin__\neval\n(S'1'\ntR.",
        b"cnumpy\nndarray\n(K\x01tR.",  # a name that may be said, not built
        b"ctorch\nFloatStorage\n)\x81.",
        b"ccollections\nOrderedDict\n)R}S'__class__'\nS'x'\nsb(cos\nsystem\nt.",
        b"\x80\x02\x82\x01.",  # a registered extension
        b"\x80\x05\x97.",  # a buffer from outside
        b"Pabc\n.",
        b"K\x01Q.",
        b"}(K\x01\x85\x85K\x02u.",  # a tuple of tuples as a key
        b"\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20) + b".",  # a very long number
        b"\x8e" + struct.pack("<Q", 1 << 62) + b".",  # bytes that are not there
        b"0.",
        b"a.",
        b"t.",
        b"R.",
        b"h\x07.",
        b"K\x01",
        b"",
    ],
)
def test_a_pickle_that_does_more_than_hold_numbers_is_refused(program: bytes, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused):
        pickles.load(io.BytesIO(program))
    assert not list(tmp_path.iterdir())


def test_a_pickle_that_grows_when_it_is_looked_at_takes_no_time() -> None:
    """Lists of twice the list before, 60 deep: to print or compare it takes for ever."""
    program = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60))
    for ending in (b".", b"\x85Q.", b"K\x01\x85\x85\x85Q."):
        with pytest.raises(Refused):
            pickles.load(io.BytesIO(program + ending), lambda identity: Storage(*pickles.storage_parts(identity)))
    with pytest.raises(Refused):
        pickles.load(io.BytesIO(b"(" + program + b"h\x3ch\x3ctt}h\x3cK\x01s."))


def test_a_pickle_that_copies_one_text_again_and_again_is_stopped() -> None:
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\x000"
    once = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    with pytest.raises(Refused, match="copies"):
        pickles.load(io.BytesIO(text.replace(b"q\x000", b"q\x00") + once * 100 + b"."))


def rebuilt_zip(path: Path, change: Callable[[str, bytes], tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path) as archive:
        members = dict(change(name, archive.read(name)) for name in archive.namelist())
    path.write_bytes(archives.bytes_of_zip(members, compression))
    return path


def test_a_storage_that_lies_about_its_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = saved({"a": torch.arange(64.0)}, tmp_path / "lie.tar")
    rebuilt_zip(path, lambda name, data: (name, data.replace(b"K@", b"J\xff\xff\xff\x7f")))
    refuses(path, "data.pkl", "8589934588 bytes, it has 256")
    path = saved({"a": torch.arange(64.0)}, tmp_path / "short.tar")
    rebuilt_zip(path, lambda name, data: (name, data[:-4] if name.endswith("data/0") else data))
    refuses(path, "data.pkl", "it has 252")
    path = saved({"a": torch.arange(64.0)}, tmp_path / "legacy.tar", legacy=True)
    path.write_bytes(path.read_bytes()[:-4])
    refuses(path, "a storage of 256 bytes where 252 are left")


def test_a_tensor_that_reaches_beyond_its_storage_is_refused() -> None:
    storage = Storage("FloatStorage", 6, lambda: bytes(24))
    assert Tensor(storage, 0, (2, 3), (3, 1)).array().shape == (2, 3)
    for offset, shape, strides in [
        (1, (2, 3), (3, 1)),
        (0, (2, 3), (4, 1)),
        (0, (7,), (0,)),
        (-1, (2,), (1,)),
        (0, (1 << 40, 0), (1, 1)),
        (0, ([],), (1,)),
    ]:
        with pytest.raises(Refused):
            made = Tensor(storage, offset, shape, strides)
            if 0 in shape:
                assert made.array().size == 0
                raise Refused("empty")


def test_a_zip_that_is_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    whole = saved(small_tree(), tmp_path / "whole.tar").read_bytes()
    path = tmp_path / "cut.tar"
    for length in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:length])
        refuses(path)


def test_a_changed_byte_of_a_tensor_is_noticed(tmp_path: Path) -> None:
    path = saved(small_tree(), tmp_path / "changed.tar")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = max(archive.infolist(), key=lambda info: info.file_size)
    data[info.header_offset + 512] ^= 1
    path.write_bytes(data)
    refuses(path, "CRC")


def test_a_zip_bomb_is_refused_by_what_it_says_of_itself(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(archives, "MAX_INFLATED_BYTES", 1 << 20)
    path = tmp_path / "bomb.zip"
    path.write_bytes(archives.bytes_of_zip({"metadata.npz": bytes(1 << 21)}, zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 1 << 12
    refuses(path, "inflates to 2097152 bytes")


def test_a_zip_bomb_that_lies_about_its_size_is_stopped_there(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    data = bytearray(archives.bytes_of_zip({"x/data.pkl": bytes(1 << 21)}, zipfile.ZIP_DEFLATED))
    place = data.rindex(b"PK\x01\x02") + 24  # the size in the table of contents
    assert struct.unpack_from("<I", data, place) == (1 << 21,)
    struct.pack_into("<I", data, place, 100)
    path.write_bytes(data)
    refuses(path, "data.pkl")


@pytest.mark.parametrize("name", ["../../data.pkl", "/tmp/data.pkl", "a\\..\\data.pkl", "C:/data.pkl", "a/../data.pkl"])
def test_a_path_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "path.tar"
    path.write_bytes(archives.bytes_of_zip({name: b"."}, zipfile.ZIP_STORED))
    refuses(path, "leads elsewhere")
    assert [file.name for file in tmp_path.iterdir()] == ["path.tar"]


def test_an_array_that_lies_about_its_shape_is_refused(small: CompressedField, tmp_path: Path) -> None:
    folder = tmp_path / "extreme_saving"
    folder.mkdir()
    for name, data in files_of_vqrf(small).items():
        (folder / name).write_bytes(data)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (1 << 40,)})
    (folder / "keep_mask.npz").write_bytes(archives.bytes_of_zip({"arr_0.npy": head.getvalue() + b"abc"}, zipfile.ZIP_STORED))
    refuses(folder, "keep_mask.npz", "1099511627776", "3 bytes")


@pytest.mark.parametrize(
    ("name", "array", "saying"),
    [
        ("keep_mask", np.zeros(3, np.uint8), ("keep_mask.npz", "bits")),
        ("vq_indexs", np.zeros(3, np.uint8), ("vq_indexs.npz", "codes of 12 bits")),
        ("non_vq_grid", np.zeros((1, 2), np.int8), ("non_vq_grid.npz", "rows")),
        ("non_prune_density", np.zeros((1, 1), np.int8), ("density",)),
        ("codebook", np.full((1, 4096, 6), np.nan, np.float16), ("codebook", "not finite")),
        ("codebook", np.zeros((2, 6), np.float32), ("codebook.npz", "float16")),
    ],
)
def test_parts_of_a_vqrf_folder_that_deny_each_other_are_refused(
    name: str, array: np.ndarray, saying: tuple[str, ...], small: CompressedField, tmp_path: Path
) -> None:
    folder = tmp_path / "extreme_saving"
    folder.mkdir()
    for file, data in {**files_of_vqrf(small), f"{name}.npz": archives.bytes_of_npz({"arr_0": array})}.items():
        (folder / file).write_bytes(data)
    refuses(folder, *saying)


def test_a_vqrf_folder_that_lacks_a_file_is_refused(small: CompressedField, tmp_path: Path) -> None:
    folder = tmp_path / "extreme_saving"
    folder.mkdir()
    files = files_of_vqrf(small)
    for name in files:
        for other, data in files.items():
            (folder / other).write_bytes(data)
        if name == "metadata.npz":
            continue  # without it, it is no such folder
        (folder / name).unlink()
        refuses(folder, name)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32), n=st.integers(1, 8), legacy=st.booleans())
@example(seed=1208, n=6, legacy=False)  # an escape that Python does not know
def test_whatever_bytes_are_changed_a_pickle_is_read_or_refused(seed: int, n: int, legacy: bool, tmp_path: Path) -> None:
    """The pickle of a checkpoint, whose zip is made anew, so that no checksum tells."""
    path = saved({**small_tree(), "x": [np.float32(1), np.arange(3)]}, tmp_path / "fuzz.tar", legacy=legacy)
    random = np.random.default_rng(seed)

    def change(name: str, data: bytes) -> tuple[str, bytes]:
        if name.endswith("data.pkl") or legacy:
            changed = bytearray(data)
            for place in random.integers(0, min(len(data), 6000), n):
                changed[place] = random.integers(0, 256)
            data = bytes(changed)
        return name, data

    if legacy:
        path.write_bytes(change("", path.read_bytes())[1])
    else:
        rebuilt_zip(path, change)
    try:
        load_dvgo(path)
    except CheckpointError as error:
        assert str(error).startswith(str(path))
