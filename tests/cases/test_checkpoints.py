"""Checkpoints as other people's programs write them, and as attackers do, each through the verb that it is handed to.

All are made here, but for the zips of VQRF's own output. What the readers make of each is proven in `tests/interop`.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from apart import Apart
from foreign import FIXTURES, needs_fixtures, saved, small_tree
from PIL import Image
from test_interop_hostile import zip_around
from test_interop_svox2 import small_arrays, written
from test_interop_tensorf import small_tree as tensorf_tree
from test_interop_variants import SAME, STATE, grids
from test_users import refuses, succeeds
from tiny import assert_same_field

from vqrf.fields.run import FIELD_FILE
from vqrf.fields.storage import load_field

Tree = dict[str, Any]
ORBIT = ("--path", "orbit", "--frames", 2, "--width", 12, "--height", 12)

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="bounds memory as Linux does"),
    pytest.mark.slow,
]


def converted(apart: Apart, path: Path, out: Path) -> Any:
    succeeds(apart.run("convert", path, out))
    return load_field(out / FIELD_FILE)[0]


def pictures(apart: Apart, path: Path, out: Path) -> np.ndarray:
    """[2,12,12,3] as numbers that may be subtracted."""
    succeeds(apart.run("render", path, *ORBIT, "--out", out))
    found = np.stack([np.asarray(Image.open(file)) for file in sorted(out.iterdir())]).astype(int)
    assert found.std() > 5  # something is there
    return found


# ------------------------------------------------------------------------------------------------- the same by other programs

PROTOCOL: dict[str, Callable[[Tree, Path], object]] = {
    **{f"protocol {n}": lambda tree, path, n=n: torch.save(tree, path, pickle_protocol=n) for n in (3, 4, 5)},
    "before torch 1.6": lambda tree, path: saved(tree, path, legacy=True),
    "arrays of protocol 5": lambda tree, path: torch.save(
        grids(tree, lambda grid: np.array(grid.numpy())), path, pickle_protocol=5
    ),
    **{case: lambda tree, path, case=case: saved(SAME[case](tree), path) for case in SAME},
}


@pytest.mark.parametrize("case", PROTOCOL)
def test_a12_a_checkpoint_by_another_program_is_the_same_field(case: str, apart: Apart, tmp_path: Path) -> None:
    PROTOCOL[case](small_tree(), tmp_path / "other.tar")
    plain = converted(apart, saved(small_tree(), tmp_path / "plain.tar"), tmp_path / "plain")
    assert_same_field(converted(apart, tmp_path / "other.tar", tmp_path / "other"), plain)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a12_numbers_of_another_width_are_the_numbers_that_they_are(kind: Any, apart: Apart, tmp_path: Path) -> None:
    narrow = saved(grids(small_tree(), lambda grid: grid.to(kind)), tmp_path / "narrow.tar")
    wide = saved(grids(small_tree(), lambda grid: grid.to(kind).float()), tmp_path / "wide.tar")
    assert_same_field(*(converted(apart, path, tmp_path / path.stem) for path in (narrow, wide)))


def test_a12_an_octree_and_a_checkpoint_of_another_program_are_named(apart: Apart, tmp_path: Path) -> None:
    octree = {"data_dim": np.int64(49), "data_format": np.array("SH16"), "child": np.zeros((8, 2, 2, 2), np.int32)}
    refuses(apart.run("info", written(octree, tmp_path / "octree.npz")), "octree.npz", "is no checkpoint that is read", "svox2")
    other = {"step": 29999, "pipeline": {"_model.field.aabb": torch.zeros(2, 3)}, "optimizers": {}}
    refuses(apart.run("info", saved(other, tmp_path / "step.ckpt")), "nerfstudio", "not read")
    state = small_tree()[STATE]
    refuses(apart.run("info", saved(state, tmp_path / "state.tar")), "state of a model alone", "model_kwargs")
    whole = saved(small_tree(), tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    refuses(apart.run("info", tmp_path / "cut.tar"), "cut.tar")


@pytest.mark.parametrize("name", ["density.grid", "k0.grid"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_b_numbers_that_are_none_are_refused(name: str, value: float, apart: Apart, tmp_path: Path) -> None:
    tree = small_tree()
    tree[STATE][name].view(-1)[5] = value
    refuses(apart.run("convert", saved(tree, tmp_path / "a.tar"), tmp_path / "run"), name)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------- networks of any width


def gentle(state: Tree, keys: tuple[str, ...]) -> Tree:
    """With smaller weights: the core draws up to 256 units in fewer bits than the reference, which draws wider layers."""
    return {key: value * 0.3 if key.rpartition(".")[0] in keys else value for key, value in state.items()}


def widened(state: Tree, keys: tuple[str, ...], width: int) -> Tree:
    """The network with more hidden units, of which nothing is made: its pictures stay as they are."""
    state = gentle(state, keys)
    for i, key in enumerate(keys):
        weight, bias = state[f"{key}.weight"], state[f"{key}.bias"]
        n_out = weight.shape[0] if i == len(keys) - 1 else width
        wide = torch.zeros(n_out, weight.shape[1] if i == 0 else width)
        wide[: weight.shape[0], : weight.shape[1]] = weight
        state[f"{key}.weight"], state[f"{key}.bias"] = wide, torch.nn.functional.pad(bias, (0, n_out - len(bias)))
    return state


@pytest.mark.parametrize("width", [17, 64, 100, 130, 134, 256, 272, 512])
def test_a2_a_network_of_any_width_draws_what_it_draws_without_its_idle_units(width: int, apart: Apart, tmp_path: Path) -> None:
    tree = small_tree()
    arguments = {**tree["model_kwargs"], "rgbnet_width": width}
    keys = ("rgbnet.0", "rgbnet.2.0", "rgbnet.3")
    state = widened(tree[STATE], keys, width)
    wide = saved({**tree, "model_kwargs": arguments, STATE: state}, tmp_path / "wide.tar")
    plain = pictures(apart, saved({**tree, STATE: gentle(tree[STATE], keys)}, tmp_path / "plain.tar"), tmp_path / "plain")
    assert np.abs(pictures(apart, wide, tmp_path / "wide") - plain).max() <= 1


@pytest.mark.parametrize("width", [100, 512])
def test_a2_so_does_one_of_tensorf(width: int, apart: Apart, tmp_path: Path) -> None:
    tree = tensorf_tree()
    keys = tuple(f"renderModule.mlp.{i}" for i in (0, 2, 4))
    state = widened(tree["state_dict"], keys, width)
    wide = saved({**tree, "kwargs": {**tree["kwargs"], "featureC": width}, "state_dict": state}, tmp_path / "wide.th")
    narrow = saved({**tree, "state_dict": gentle(tree["state_dict"], keys)}, tmp_path / "plain.th")
    plain = pictures(apart, narrow, tmp_path / "plain")
    assert np.abs(pictures(apart, wide, tmp_path / "wide") - plain).max() <= 1


def test_a2_features_that_are_added_to_a_network_are_colours_where_it_adds_nothing(apart: Apart, tmp_path: Path) -> None:
    """`rgbnet_direct` False with a last layer of zeros is a field without a network, of those three features."""
    tree = small_tree()
    state, arguments = dict(tree[STATE]), {**tree["model_kwargs"], "rgbnet_direct": False}
    state["rgbnet.0.weight"] = state["rgbnet.0.weight"][:, 3:].contiguous()
    for part in ("weight", "bias"):
        state[f"rgbnet.3.{part}"] = torch.zeros_like(state[f"rgbnet.3.{part}"])
    added = saved({**tree, "model_kwargs": arguments, STATE: state}, tmp_path / "added.tar")
    bare = {key: value for key, value in tree[STATE].items() if not key.startswith("rgbnet")}
    bare["k0.grid"] = bare["k0.grid"][:, :3].contiguous()
    plain = pictures(apart, saved({**tree, STATE: bare}, tmp_path / "bare.tar"), tmp_path / "bare")
    assert np.abs(pictures(apart, added, tmp_path / "added") - plain).max() <= 1


# ----------------------------------------------------------------------------------------------------------- zips of VQRF

Files = dict[str, bytes]


def zipped(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            member = zipfile.ZipInfo("x")
            member.filename = name
            archive.writestr(member, data)
    return path


@pytest.fixture(scope="module")
def official() -> Files:
    with zipfile.ZipFile(FIXTURES / "vqrf_native" / "extreme_saving.zip") as archive:
        return {Path(name).name: archive.read(name) for name in archive.namelist() if name.endswith(".npz")}


@needs_fixtures
@pytest.mark.parametrize("kind", ["macOS", "logs"])
def test_a_zip_of_vqrf_with_other_files_around_it_is_the_same_field(
    kind: str, official: Files, apart: Apart, tmp_path: Path
) -> None:
    files = {f"extreme_saving/{name}": data for name, data in official.items()}
    rubbish = {f"__MACOSX/extreme_saving/._{name}": b"\0\5\x16\7" for name in official} | {"extreme_saving/.DS_Store": b"x"}
    other = {**files, **rubbish} if kind == "macOS" else {f"logs/lego/{name}": data for name, data in files.items()}
    other |= {} if kind == "macOS" else {"logs/lego/config.py": b"x=1"}
    facts = [
        succeeds(apart.run("info", zipped(tmp_path / folder / "a.zip", each), "--json")).out.replace(folder, "")
        for folder, each in (("first", files), ("other", other))
        if (tmp_path / folder).mkdir() is None
    ]
    assert facts[0] == facts[1]


@needs_fixtures
def test_a_zip_of_vqrf_that_another_numpy_saved_again_is_the_same_field(official: Files, apart: Apart, tmp_path: Path) -> None:
    """Arrays that hold tensors are pickles inside, and numpy 2 calls its own modules by other names than numpy 1."""

    def saved_again(data: bytes) -> bytes:
        with io.BytesIO() as out:
            try:
                np.savez_compressed(out, **dict(np.load(io.BytesIO(data), allow_pickle=True)))  # made by the fixtures' own hand
            except ModuleNotFoundError:  # settings, as a class of the program that wrote them
                return data
            return out.getvalue()

    again = {f"extreme_saving/{name}": saved_again(data) for name, data in official.items()}
    assert any(again[f"extreme_saving/{name}"] != data for name, data in official.items())
    first = zipped(tmp_path / "first.zip", {f"extreme_saving/{name}": data for name, data in official.items()})
    assert_same_field(
        converted(apart, zipped(tmp_path / "again.zip", again), tmp_path / "a"), converted(apart, first, tmp_path / "b")
    )


@needs_fixtures
def test_b_a_zip_of_vqrf_of_two_scenes_or_of_parts_is_refused(official: Files, apart: Apart, tmp_path: Path) -> None:
    two = {f"{scene}/extreme_saving/{name}": data for scene in ("lego", "chair") for name, data in official.items()}
    refuses(apart.run("info", zipped(tmp_path / "two.zip", two)), "two.zip")
    part = {f"extreme_saving/{name}": data for name, data in official.items() if name != "rgbnet.npz"}
    refuses(apart.run("info", zipped(tmp_path / "part.zip", part)), "part.zip", "rgbnet.npz")
    turned = {f"extreme_saving\\{name}": data for name, data in official.items()}
    refuses(apart.run("info", zipped(tmp_path / "windows.zip", turned)), "windows.zip")


# ------------------------------------------------------------------------------------------------------------- made to hurt


@pytest.mark.parametrize("n", [1 << 17, 1 << 19])
def test_a1_a_mapping_of_one_great_list_again_and_again_is_refused(n: int, apart: Apart, tmp_path: Path) -> None:
    """`OrderedDict([L, L, L, ...])`, a file of a few kilobytes that asks for 2^34 items and more if each `L` is copied."""
    one, many = b"(" + b"K\x00" * n + b"lq\x00", b"(" + b"h\x00" * n + b"l"
    path = tmp_path / "bomb.tar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02(" + one + b"ccollections\nOrderedDict\n(" + many + b"tRt.")
        archive.writestr("a/byteorder", b"little")
    assert path.stat().st_size < 10_000
    refuses(apart.run("info", path), "bomb.tar")
    refuses(apart.run("convert", path, tmp_path / "run"), "bomb.tar")


def test_a1_pairs_that_are_none_are_named(apart: Apart, tmp_path: Path) -> None:
    program = b"\x80\x02ccollections\nOrderedDict\n((K\x00K\x00K\x00lq\x00h\x00h\x00ltR."
    refuses(apart.run("info", zip_around(program, tmp_path / "a.tar")), "pairs")


def test_a5_a_great_lattice_of_links_is_refused_before_there_is_room_for_it(apart: Apart, tmp_path: Path) -> None:
    side = 512
    path = tmp_path / "bomb.npz"
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<i4", "fortran_order": False, "shape": (side,) * 3})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in small_arrays().items():
            if name != "links":
                data = io.BytesIO()
                np.save(data, array)
                archive.writestr(f"{name}.npy", data.getvalue())
        with archive.open("links.npy", "w") as member:
            member.write(head.getvalue())
            for _ in range(side):
                member.write(bytes(4 * side**2))
    assert path.stat().st_size < 3_000_000
    refuses(apart.run("info", path), "links", "too large")
    refuses(apart.run("render", path, *ORBIT, "--out", tmp_path / "o"), "links", "too large")
    refuses(apart.run("convert", path, tmp_path / "run"), "links", "too large")
    assert {file.name for file in tmp_path.iterdir()} == {"bomb.npz"}


@pytest.mark.parametrize("radius", [1e300, np.inf, np.nan, 0.0, -1.0])
def test_a9_a_world_of_no_size_is_refused(radius: float, apart: Apart, tmp_path: Path) -> None:
    path = written({**small_arrays(), "radius": np.full(3, radius)}, tmp_path / "a.npz")
    refuses(apart.run("info", path), "radius")
    refuses(apart.run("render", path, *ORBIT, "--out", tmp_path / "o"), "radius")
