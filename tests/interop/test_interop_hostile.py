"""Checkpoints that were made to hurt: each is refused in a line, in no time and no room, or is read as what it is."""

from __future__ import annotations

import io
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign import saved, small_tree
from test_interop_svox2 import small_arrays, written
from test_interop_tensorf import small_tree as tensorf_tree

from vqrf.codec.compressed import CODED, CompressedField
from vqrf.interop import archives, load_checkpoint, outline_checkpoint, pickles, zip_of_vqrf
from vqrf.interop.archives import CheckpointError, bytes_of_npz, bytes_of_object_npz, bytes_of_zip
from vqrf.interop.parts import CHECKED_AT_ONCE, is_finite
from vqrf.interop.values import MAX_AXES, Refused

MEGABYTE = 10**6
SECONDS = 10.0
"""More than any refusal takes on a machine that does other things too; what hung, hung for hours."""


@contextmanager
def cheaply(megabytes: int = 200) -> Iterator[None]:
    """What happens inside takes no more memory than that, and ends."""
    start = time.monotonic()
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes * MEGABYTE
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start < 6 * SECONDS  # under tracemalloc everything is slow


def refuses(path: Path, *saying: str, **options: Any) -> None:
    for read in (load_checkpoint, outline_checkpoint):
        with cheaply(), pytest.raises(CheckpointError) as error:
            read(path, **options)
        assert str(error.value).startswith(str(path))
        for words in saying:
            assert words in str(error.value)


def zip_around(program: bytes, path: Path) -> Path:
    path.write_bytes(bytes_of_zip({"a/data.pkl": program, "a/byteorder": b"little"}, zipfile.ZIP_STORED))
    return path


def loads(program: bytes) -> Any:
    return pickles.load(io.BytesIO(program))


# ------------------------------------------------------------------------------------------------ what a pickle may not do


def test_a_dict_of_pairs_that_are_no_pairs_is_refused_before_anything_is_copied() -> None:
    """One list of 2^17, named by 2^17 pairs: 2^34 items if each were copied."""
    one = b"(" + b"K\x00" * (1 << 17) + b"lq\x00"
    many = b"(" + b"h\x00" * (1 << 17) + b"l"
    with cheaply(), pytest.raises(Refused, match="pairs"):
        loads(b"ccollections\nOrderedDict\n(" + b"(" + one + many + b"ttR.")
    with cheaply(), pytest.raises(Refused, match="pairs"):
        loads(b"(" + one + b"ccollections\nOrderedDict\n(" + many + b"tRt.")


def nested(depth: int, opening: bytes, closing: bytes) -> bytes:
    return opening * depth + b"N" + closing * depth


@pytest.mark.parametrize("closing", [b"\x85", b"l", b"t"], ids=["TUPLE1", "LIST", "TUPLE"])
def test_what_is_nested_deeply_is_refused(closing: bytes) -> None:
    opening = b"" if closing == b"\x85" else b"("
    assert loads(nested(20, opening, closing) + b".") is not None
    with cheaply(), pytest.raises(Refused, match="nested"):
        loads(nested(300_000, opening, closing) + b".")


def test_what_holds_itself_is_refused() -> None:
    ring: list[Any] = []
    ring.append([ring])
    with pytest.raises(Refused, match="holds itself"):
        loads(pickle.dumps(ring, 2))


@pytest.mark.parametrize("key", ["shadingMode", "fea2denseAct"])
@pytest.mark.parametrize("value", [[], {}, ("deep",) * 3, None, 1.5], ids=str)
def test_a_text_that_is_none_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    tree = tensorf_tree()
    tree["kwargs"][key] = value
    refuses(saved(tree, tmp_path / "a.th"), key)


@pytest.mark.parametrize("n_sides", [MAX_AXES + 1, 100_000])
def test_a_shape_of_many_great_sides_is_refused_before_they_are_multiplied(n_sides: int, tmp_path: Path) -> None:
    """By memo: a number of 127 bits that is named again and again."""
    number = b"\x8a\x10" + (1 << 126).to_bytes(16, "little") + b"q\x01"
    sides = b"(" + number + b"h\x01" * n_sides + b"tq\x020"
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00h\x02h\x02\x89Nt"
    refuses(zip_around(b"\x80\x02" + sides + tensor + b"R.", tmp_path / "a.tar"))
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    state = b"(K\x01h\x02cnumpy\ndtype\n(U\x02f4K\x00K\x01tRU\x00\x89tb"
    tree = b"\x80\x02" + sides + b"}(U\x0cmodel_kwargs}U\x10model_state_dict}U\x0cdensity.grid" + array + state + b"su."
    refuses(zip_around(tree, tmp_path / "b.tar"))


def test_many_pickles_in_a_pickle_have_the_steps_of_one() -> None:
    magic = pickle.dumps(pickles.LEGACY_MAGIC, 2) + pickle.dumps(pickles.LEGACY_PROTOCOL, 2)
    system = pickle.dumps({"little_endian": True}, 2)
    whole = magic + system + b"\x80\x02(" + b"N" * 20_000 + b"t." + pickle.dumps([], 2)
    put = b"\x80\x03(B" + struct.pack("<I", len(whole)) + whole + b"q\x00"
    with cheaply(), pytest.raises(Refused, match="steps"):
        loads(put + b"ctorch.storage\n_load_from_bytes\nh\x00\x85R" * 100 + b"t.")


def test_a_name_that_is_no_text_is_refused_before_it_is_written_out() -> None:
    doubled = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60))
    with cheaply(), pytest.raises(Refused, match="no text"):
        loads(b"\x80\x04" + doubled + b"\x8c\x01x\x93.")


# --------------------------------------------------------------------------------------------------- values that are not so


def changed(tree: dict[str, Any], part: str, key: str, value: Any) -> dict[str, Any]:
    return {**tree, part: {**tree[part], key: value}}


STATE = "model_state_dict"
BAD_VALUES: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "a shift without a value": (lambda t: changed(t, STATE, "act_shift", torch.zeros(0)), "act_shift"),
    "a mask without a side": (lambda t: changed(t, STATE, "mask_cache.mask", torch.zeros(0, 2, 2)), "mask_cache.mask"),
    "a scale beyond float32": (
        lambda t: changed(t, STATE, "mask_cache.xyz2ijk_scale", torch.full((3,), 1e300, dtype=torch.float64)),
        "mask_cache",
    ),
    "a state that is none": (lambda t: {**t, STATE: [1]}, STATE),
    "a box that is a place in float32": (
        lambda t: changed(
            changed(t, STATE, "xyz_min", torch.tensor([0.0, 0, 1], dtype=torch.float64)),
            STATE,
            "xyz_max",
            torch.tensor([1.0, 1, 1 + 1e-12], dtype=torch.float64),
        ),
        "one place in float32",
    ),
    "a box as wide as the universe": (
        lambda t: changed(t, STATE, "xyz_max", torch.full((3,), 1e30, dtype=torch.float64)),
        "bounds: expected coordinates within",
    ),
    "steps without end": (lambda t: changed(t, "model_kwargs", "num_voxels", 1e30), "step_world"),
    "a network that leads nowhere": (lambda t: changed(t, STATE, "rgbnet.3.weight", torch.zeros(2, 16)), "rgbnet.3"),
    "layers that do not fit": (lambda t: changed(t, STATE, "rgbnet.2.0.weight", torch.zeros(16, 15)), "does not fit"),
    "a layer without its bias": (
        lambda t: {**t, STATE: {key: value for key, value in t[STATE].items() if key != "rgbnet.0.bias"}},
        "rgbnet.0.bias: is missing",
    ),
    "a flag that is a list": (lambda t: changed(t, "model_kwargs", "use_vq", [1]), "use_vq"),
    "an alpha of nothing": (
        lambda t: changed(
            {**t, STATE: {k: v for k, v in t[STATE].items() if k != "act_shift"}}, "model_kwargs", "alpha_init", 1e-30
        ),
        "alpha_init",
    ),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_values_that_cannot_be_drawn_are_refused_by_name(case: str, tmp_path: Path) -> None:
    change, saying = BAD_VALUES[case]
    path = saved(change(small_tree()), tmp_path / "bad.tar")
    with pytest.raises(CheckpointError, match=saying):
        load_checkpoint(path)


@pytest.mark.parametrize("shape", [(), (0,), (3 * CHECKED_AT_ONCE + 5,), (2, CHECKED_AT_ONCE), (CHECKED_AT_ONCE + 1, 2)])
def test_a_value_that_is_no_number_is_found_wherever_it_is(shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, np.float32)
    assert is_finite(array) and is_finite(array.astype(np.uint8))
    for place in {0, array.size // 2, array.size - 1} if array.size else ():
        for value in (np.nan, -np.inf):
            array.reshape(-1)[place] = value
            assert not is_finite(array)
            array.reshape(-1)[place] = 0


@pytest.mark.parametrize("radius", [1e300, 0.0, 1e-300, np.inf])
def test_a_radius_that_is_none_is_refused(radius: float, tmp_path: Path) -> None:
    refuses(written({**small_arrays(), "radius": np.full(3, radius)}, tmp_path / "a.npz"), "radius")


# ------------------------------------------------------------------------------------------------------------------- bombs


def vqrf_bomb(small: CompressedField, path: Path, side: int) -> Path:
    """VQRF's output of a great world with nothing in it, whose masks deflate to nothing."""
    bits = np.zeros(-(-(side**3) // 8), np.uint8)
    with zipfile.ZipFile(io.BytesIO(zip_of_vqrf(small))) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    metadata = archives.load_npz(files["extreme_saving/metadata.npz"], "metadata")["metadata"]
    tensors = {key: value.array() for key, value in metadata["model_state_dict"].items()}
    metadata = {**metadata, "world_size": np.full(3, side), "model_state_dict": tensors}
    del metadata["vqrf"]
    empty = {
        "non_prune_mask": bits,
        "keep_mask": bits,
        "non_prune_density": np.zeros((0, 1), np.int8),
        "non_vq_grid": np.zeros((0, small.n_channels), np.int8),
        "vq_indexs": np.zeros(0, np.uint8),
    }
    files |= {f"extreme_saving/{name}.npz": bytes_of_npz({"arr_0": array}) for name, array in empty.items()}
    files["extreme_saving/metadata.npz"] = bytes_of_object_npz("metadata", metadata)
    path.write_bytes(bytes_of_zip(files, zipfile.ZIP_DEFLATED))
    return path


@pytest.fixture(scope="module")
def small(trained: Any, importance: np.ndarray) -> CompressedField:
    from vqrf.compression.paper import PaperPreset, tied_model

    return tied_model(trained, importance, PaperPreset(n_codes=64)).pack()


def test_a_great_world_with_nothing_in_it_is_told_of_without_a_grid_and_not_drawn(
    small: CompressedField, tmp_path: Path
) -> None:
    path = vqrf_bomb(small, tmp_path / "bomb.zip", 500)
    assert path.stat().st_size < 100_000
    with cheaply(100):
        outline = outline_checkpoint(path)
    assert outline.lattice.shape == (500, 500, 500) and outline.facts["voxels_pruned"] == 500**3
    with cheaply(), pytest.raises(CheckpointError, match="--max-memory"):
        load_checkpoint(path, max_bytes=100 * MEGABYTE)


def test_a_great_lattice_of_links_is_told_of_without_a_grid_and_not_drawn(tmp_path: Path) -> None:
    arrays = {**small_arrays(), "links": np.zeros((300, 300, 300), np.int32)}
    path = written(arrays, tmp_path / "bomb.npz", compress=True)
    assert path.stat().st_size < 200_000
    with cheaply(20):
        assert outline_checkpoint(path).lattice.shape == (302, 302, 302)
    with cheaply(), pytest.raises(CheckpointError, match="--max-memory"):
        load_checkpoint(path, max_bytes=1000 * MEGABYTE)


def factor_bomb(path: Path, side: int) -> Path:
    """TensoRF's lines that are short, and the lattice that they make, which is not."""
    tree = tensorf_tree("CP")
    state = tree["state_dict"]
    for key in [key for key in state if "_line" in key]:
        state[key] = torch.zeros(1, state[key].shape[1], side, 1)
    return saved(changed(tree, "kwargs", "gridSize", [side] * 3), path)


def test_lines_that_make_a_great_lattice_are_told_of_without_it_and_not_drawn(tmp_path: Path) -> None:
    path = factor_bomb(tmp_path / "bomb.th", 3000)
    with cheaply(20):
        assert outline_checkpoint(path).describe()["shape"] == [3000] * 3
    with cheaply(), pytest.raises(CheckpointError, match=r"a lattice of \[3000, 3000, 3000\] voxels takes"):
        load_checkpoint(path)


def test_planes_that_differ_in_their_components_are_not_padded_without_end(tmp_path: Path) -> None:
    tree = tensorf_tree("VM", (1, 1, 1), (1, 1, 900))
    path = saved(tree, tmp_path / "bomb.th")
    assert load_checkpoint(path).field.n_channels
    with pytest.raises(CheckpointError, match="as many components"):
        load_checkpoint(path, max_bytes=200_000)


def test_a_table_of_contents_of_a_million_members_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "many.tar"
    name = b"x" * 8
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 3, 20, 0, *(0,) * 4, 0, 0, 0, len(name), *(0,) * 4, 0, 0) + name
    table = entry * 40_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 40_000, 40_000, len(table), 0, 0)
    path.write_bytes(table + end)
    refuses(path, "table of contents")


def test_a_device_a_pipe_and_a_great_sparse_file_are_no_checkpoints(tmp_path: Path) -> None:
    great = tmp_path / "great.tar"
    great.write_bytes(b"\x80\x02\x8a\x0a")
    with great.open("r+b") as file:
        file.truncate(1 << 42)
    refuses(great, "is larger than")


def test_a_halved_lattice_is_bounded_too(tmp_path: Path) -> None:
    tree = small_tree()
    mask = torch.ones(8, 8, 8, dtype=torch.bool)
    mask[::2] = False
    tree = changed(tree, STATE, "mask_cache.mask", mask)
    tree = changed(tree, STATE, "density.grid", torch.full((1, 1, 8, 8, 8), 20.0))
    path = saved(tree, tmp_path / "a.tar")
    whole = load_checkpoint(path)
    assert whole.field.lattice.shape == (15, 15, 15)
    with pytest.raises(CheckpointError, match="at half the edge"):
        load_checkpoint(path, max_bytes=150_000)
    assert load_checkpoint(path, exact=False, max_bytes=150_000).field.lattice.shape == (8, 8, 8)


def test_the_outline_of_a_checkpoint_is_that_of_its_field(small: CompressedField, tmp_path: Path) -> None:
    (tmp_path / "small.zip").write_bytes(zip_of_vqrf(small))
    paths = {
        tmp_path / "small.zip": {},
        saved(small_tree(), tmp_path / "a.tar"): {"corners": "centred"},
        saved(small_tree(), tmp_path / "b.tar"): {},
        saved(tensorf_tree(), tmp_path / "a.th"): {},
        saved(tensorf_tree("CP"), tmp_path / "b.th"): {},
        written(small_arrays(), tmp_path / "a.npz"): {},
    }
    for path, options in paths.items():
        outline, field = outline_checkpoint(path, **options), load_checkpoint(path, **options).field
        assert (outline.lattice, outline.equation, outline.n_channels) == (field.lattice, field.equation, field.n_channels)
        assert outline.describe()["grid_bytes"] == field.grid_bytes
    assert outline_checkpoint(tmp_path / "small.zip").facts["voxels_pruned"] == int((small.partition < CODED).sum())
