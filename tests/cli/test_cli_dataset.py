"""The command line and datasets: flags that say how to take one, and `convert` of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli import refuses, succeeds, vqrf

from vqrf.data.builtin import built_in_scene
from vqrf.data.load import load_scene
from vqrf.data.scene import save_scene


@pytest.fixture
def data(tmp_path: Path) -> Path:
    save_scene(built_in_scene(n_train=4, n_test=2, side=16), tmp_path / "data")
    return tmp_path / "data"


def test_a_dataset_is_converted_to_transforms_json_and_colmaps_text(data: Path, tmp_path: Path) -> None:
    outcome = vqrf("convert", data, tmp_path / "out")
    assert (outcome.code, outcome.err) == (0, "")
    assert "wrote 6 photos of Blender" in outcome.out
    assert len(json.loads((tmp_path / "out/transforms.json").read_text())["frames"]) == 6
    assert (tmp_path / "out/sparse/0/images.txt").exists()
    scene, again = load_scene(data), load_scene(tmp_path / "out")
    assert (len(again.train), len(again.test), again.near, again.far) == (4, 2, scene.near, scene.far)


def test_a_dataset_is_not_written_over_something(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    refuses("convert", data, tmp_path / "out", saying=("out", "--overwrite"))
    refuses("convert", data, data, "--overwrite", saying=("is the dataset itself",))
    refuses("convert", data, tmp_path / "no/where", saying=("there is no folder",))
    for name in ("a.vqrf", "a.zip", "a.tar"):
        refuses("convert", data, tmp_path / name, saying=("a dataset becomes a folder",))
    assert vqrf("convert", data, tmp_path / "out", "--overwrite").code == 0


def test_names_in_a_listing_are_shown_as_they_are_written(data: Path) -> None:
    """Rich would obey what stands in brackets, and fail at a bracket that closes nothing."""
    path = data / "transforms_train.json"
    tree = json.loads(path.read_text())
    tree["[/b]x[red]"] = 1
    path.write_text(json.dumps(tree))
    assert "'[/b]x[red]'" in succeeds("check", data).out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--hold-out", "1"), ("--hold-out", "expected own")),
        (("--near", "5", "--far", "2"), ("--near", "expected 0 <= near < far")),
        (("--box", "0", "0", "0", "1", "1", "-1"), ("--box", "lowest and the highest corner")),
        (("--up", "0", "0", "0"), ("--up", "expected a direction")),
        (("--far", "inf"), ("--near", "far <= 1e+12")),
        (("--near", "0", "--far", "1e400"), ("--near", "far <= 1e+12")),
        (("--near", "1e-300", "--far", "1e-299"), ("--near", "far above 1e-12")),
        (("--box", "-inf", "-1", "-1", "inf", "1", "1"), ("--box", "within 1e+12 of 0")),
        (("--box", "0", "0", "0", "1e-300", "1", "1"), ("--box", "lowest and the highest corner")),
        (("--background", "pink"), ("--background", "expected white, black or #rrggbb")),
        (("--masks", "nowhere"), ("nowhere", "has no mask of any photo")),
    ],
)
def test_flags_of_a_dataset_that_cannot_be_are_refused_by_name(
    data: Path, tmp_path: Path, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refuses("train", data, "--out", tmp_path / "run", "--preset", "demo", *flags, saying=words)
    assert not (tmp_path / "run").exists()
