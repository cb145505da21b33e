"""Checkpoints as other people's programs write them: wrapped, half as wide, with objects in them that no field needs."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from foreign import Malice, saved, small_tree
from test_interop_tensorf import small_tree as tensorf_tree
from tiny import assert_same_field

from vqrf.fields.field import RadianceField
from vqrf.interop import CheckpointError, load_checkpoint

Change = Callable[[dict[str, Any]], dict[str, Any]]
STATE = "model_state_dict"


def of_state(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    return lambda tree: {**tree, STATE: change(tree[STATE])}


def with_arguments(**more: Any) -> Change:
    return lambda tree: {**tree, "model_kwargs": {**tree["model_kwargs"], **more}}


SAME: dict[str, Change] = {
    "wrapped by DataParallel": of_state(lambda state: {f"module.{key}": value for key, value in state.items()}),
    "wrapped and compiled": of_state(lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()}),
    "a device": with_arguments(device=torch.device("cuda:0")),
    "a kind of number": with_arguments(dtype=torch.float32, other=torch.bfloat16, third=np.float32),
    "a path": with_arguments(mask_cache_path=pathlib.PurePosixPath("logs/x.tar"), other=Path("a") / "b"),
    "a namespace": lambda tree: {**tree, "args": argparse.Namespace(config="x", seed=777)},
    "a simple namespace": lambda tree: {**tree, "args": SimpleNamespace(a=1)},
    "a set, a complex, a range": lambda tree: {**tree, "tags": {"a", "b"}, "c": 1 + 2j, "r": range(3), "f": frozenset("a")},
    "keys of two parts": lambda tree: {**tree, "extra": {("a", 1): 2, 1.5: 3, None: 4, b"b": 5}},
    "counters and defaults": lambda tree: {**tree, "n": Counter("aab"), "d": defaultdict(list, a=[1])},
    "a time": lambda tree: {**tree, "took": timedelta(seconds=3)},
    "an optimizer's state": lambda tree: {
        **tree,
        "optimizer_state_dict": {"state": {0: {"step": 3, "exp_avg": torch.zeros(4)}}, "param_groups": [{"params": [0, 1]}]},
    },
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("case", SAME)
def test_what_no_field_needs_changes_nothing(case: str, protocol: int, tmp_path: Path) -> None:
    plain = load_checkpoint(saved(small_tree(), tmp_path / "plain.tar")).field
    path = tmp_path / "other.tar"
    torch.save(SAME[case](small_tree()), path, pickle_protocol=protocol)
    assert_same_field(load_checkpoint(path).field, plain)


def grids(tree: dict[str, Any], change: Callable[[torch.Tensor], Any]) -> dict[str, Any]:
    state = tree[STATE]
    return {**tree, STATE: {**state, **{key: change(state[key]) for key in ("density.grid", "k0.grid")}}}


@pytest.mark.parametrize("legacy", [False, True])
def test_bfloat16_is_widened_exactly(legacy: bool, tmp_path: Path) -> None:
    narrow = saved(grids(small_tree(), torch.Tensor.bfloat16), tmp_path / "narrow.tar", legacy=legacy)
    wide = saved(grids(small_tree(), lambda grid: grid.bfloat16().float()), tmp_path / "wide.tar")
    assert_same_field(load_checkpoint(narrow).field, load_checkpoint(wide).field)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_numpy_are_read_from_every_protocol(protocol: int, order: Any, tmp_path: Path) -> None:
    """From protocol 5 on they are buffers."""
    path = tmp_path / "numpy.tar"
    tree = grids(small_tree(), lambda grid: np.array(grid.numpy(), order=order))
    tree["model_kwargs"] |= {"xyz_min": tree[STATE]["xyz_min"].numpy(), "n": np.int64(3), "yes": np.bool_(True)}
    torch.save(tree, path, pickle_protocol=protocol)
    assert_same_field(load_checkpoint(path).field, load_checkpoint(saved(small_tree(), tmp_path / "plain.tar")).field)


def test_a_wrapped_checkpoint_of_tensorf_is_read(tmp_path: Path) -> None:
    plain, tree = tensorf_tree(), tensorf_tree()
    wrapped = {f"module.{key}": value for key, value in tree["state_dict"].items()}
    tree = {**tree, "state_dict": wrapped, "kwargs": {**tree["kwargs"], "device": torch.device("cuda")}}
    fields = [load_checkpoint(saved(each, tmp_path / f"{i}.th")).field for i, each in enumerate((plain, tree))]
    assert_same_field(*fields)


@pytest.mark.parametrize(
    "name", ["mmcv.utils.config.ConfigDict", "addict.addict.Dict", "easydict.EasyDict", "mmengine.config.config.ConfigDict"]
)
def test_dicts_of_settings_by_other_names_are_dicts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, word = name.rpartition(".")
    kind = type(word, (dict,), {"__module__": module})
    for depth in range(1, len(module.split(".")) + 1):
        part = ".".join(module.split(".")[:depth])
        monkeypatch.setitem(sys.modules, part, type(sys)(part))
    setattr(sys.modules[module], word, kind)
    tree = small_tree()
    path = saved({**tree, "model_kwargs": kind(tree["model_kwargs"])}, tmp_path / "a.tar")
    assert_same_field(load_checkpoint(path).field, load_checkpoint(saved(small_tree(), tmp_path / "b.tar")).field)


OTHERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "nerfstudio": ({"step": 1, "pipeline": {}, "optimizers": {}}, ("nerfstudio", "not read", "pipeline")),
    "nerf-pytorch": ({"global_step": 1, "network_fn_state_dict": {}}, ("nerf-pytorch",)),
    "a state alone": (small_tree()[STATE], ("state of a model alone", "model_kwargs", "density.grid")),
    "a state without a grid": (
        {**small_tree(), STATE: {"module.else": torch.zeros(3), "other": torch.zeros(1)}},
        ("density.grid: is missing", "there are else, other"),
    ),
    "a list": ([1, 2], ("no checkpoint", "list")),
    "an ordered dict": (OrderedDict(a=1), ("no checkpoint", "it has a")),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_another_program_s_is_refused_with_what_was_found(case: str, tmp_path: Path) -> None:
    tree, saying = OTHERS[case]
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(saved(tree, tmp_path / "other.tar"))
    for words in saying:
        assert words in str(error.value)


def test_harmless_names_are_never_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device would be made by torch's own code: here it is not."""
    path = saved({**small_tree(), "device": torch.device("cpu"), "path": Path("x")}, tmp_path / "a.tar")

    def fail(*_: Any) -> Any:
        raise AssertionError("something was imported")

    monkeypatch.setattr("importlib.import_module", fail)
    field: RadianceField = load_checkpoint(path).field
    assert field.n_channels


def test_beside_harmless_objects_a_harmful_one_is_refused(tmp_path: Path) -> None:
    sign = tmp_path / "ran"
    tree = {**small_tree(), "args": argparse.Namespace(a=torch.device("cpu"), b={"x": Malice(sign)})}
    with pytest.raises(CheckpointError, match="not run"):
        load_checkpoint(saved(tree, tmp_path / "a.tar"))
    assert not sign.exists()
