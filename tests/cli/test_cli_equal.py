"""A held-out photo that is equal to its rendering, as one with nothing on it: its PSNR is infinite, and no verb trips."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_cli import data, run, scene, succeeds, tiny_presets  # noqa: F401 (fixtures)

from vqrf.codec.bitstream import decode
from vqrf.data.scene import Scene, View, save_scene


@pytest.fixture(scope="module")
def with_empty(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The tiny scene, and one held-out view more: of a camera that is turned away."""
    first = scene.test[0]
    pose = first.camera.pose.copy()
    pose[:3, 0] *= -1
    pose[:3, 2] *= -1
    empty = View(replace(first.camera, pose=pose), np.full_like(first.image, 255), "test/r_empty")
    folder = tmp_path_factory.mktemp("empty") / "data"
    save_scene(replace(scene, test=(*scene.test, empty)), folder)
    return folder


def scores(path: Path, folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(succeeds("eval", path, "--data", folder, "--json").out, parse_constant=pytest.fail)
    return found


def test_an_empty_photo_changes_no_mean_of_psnr_and_is_counted(run: Path, data: Path, with_empty: Path) -> None:  # noqa: F811
    with_it, without = scores(run, with_empty), scores(run, data)
    assert (with_it["psnr"], with_it["n_equal"], without["n_equal"]) == (pytest.approx(without["psnr"]), 1, 0)
    assert "1 of them equal" in succeeds("eval", run, "--data", with_empty).out


@pytest.mark.parametrize("goal", [("--preset", "demo"), (), ("--max-drop", "3"), ("--target-size", "100kB")], ids=str)
def test_a_file_is_made_and_scored_where_a_held_out_photo_is_empty(
    goal: tuple[str, ...],
    run: Path,  # noqa: F811
    with_empty: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "a.vqrf"
    succeeds("compress", run, "--data", with_empty, "--out", out, *goal)
    assert 10 < decode(out.read_bytes()).metadata["test"]["psnr"] < 60


def test_a_dataset_of_empty_photos_alone_is_scored(run: Path, with_empty: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "data"
    shutil.copytree(with_empty, folder)
    listing = json.loads((folder / "transforms_test.json").read_text())
    listing["frames"] = listing["frames"][-1:]
    (folder / "transforms_test.json").write_text(json.dumps(listing))
    assert scores(run, folder)["psnr"] == 100
