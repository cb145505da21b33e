"""`train` and its run folder: stopped at any moment it goes on to the same bytes, and a training of nothing says so."""

# ruff: noqa: F811 (fixtures of test_cli are parameters here)

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_cli import data, files_in, refuses, run, scene, succeeds, tiny_presets, unchanged, vqrf  # noqa: F401 (fixtures)
from test_cli_killed import KILLED, killed

from vqrf.cli.dataset import Photos
from vqrf.cli.train import CONFIG_FILE, METRICS_FILE, load_sized
from vqrf.codec.about import about_of
from vqrf.data import exposure
from vqrf.data.scene import Scene, save_scene
from vqrf.fields.run import FIELD_FILE, load_like, load_run
from vqrf.files import TEMPORARY
from vqrf.kernels import has_native
from vqrf.rendering.poster import view_amid
from vqrf.training import loop
from vqrf.training import run as run_module
from vqrf.training.run import COARSE_FILE

ITS_FILES = {FIELD_FILE, CONFIG_FILE, METRICS_FILE}
needs_native = pytest.mark.skipif(not has_native(), reason="needs the compiled core")


def stopped(stage: str, step: int, number: signal.Signals, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that gets a signal after a step."""
    words = [sys.executable, "-c", KILLED.replace("SIGKILL", number.name), stage, str(step), *map(str, arguments)]
    roots = [str(Path(__file__).parents[1]), *(path for path in sys.path if path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


@needs_native
@pytest.mark.parametrize(
    ("stage", "step", "number", "code"),
    [("coarse", 12, signal.SIGINT, 130), ("fine", 40, signal.SIGTERM, 143)],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_training_that_is_stopped_saves_its_step_says_how_to_go_on_and_goes_on_there_to_the_same_bytes(
    data: Path, run: Path, tmp_path: Path, stage: str, step: int, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "run"
    command = ("train", data, "--out", out, "--preset", "demo")
    ended = stopped(stage, step, number, *command)
    assert ended.returncode == code, ended
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"vqrf: stopped after step {step + 1} of ")
    assert last.endswith("; the same command goes on from there")
    again = succeeds(*command)
    assert f"going on after step {step + 1} of " in again.err
    assert {path.name for path in out.iterdir()} == ITS_FILES
    for name in (FIELD_FILE, CONFIG_FILE):
        assert (out / name).read_bytes() == (run / name).read_bytes()


@needs_native
def test_equal_trainings_write_equal_bytes_and_lines_of_one_run_however_often_they_were_killed(
    data: Path, run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ("train", data, "--out", out, "--preset", "demo")
    for place in (("coarse", 50), ("fine", 33), ("fine", 96)):
        killed(*place, *command)
    succeeds(*command)
    assert (out / FIELD_FILE).read_bytes() == (run / FIELD_FILE).read_bytes()
    lines, whole = ([json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()] for folder in (out, run))
    places = [[(line["stage"], line["step"]) for line in some] for some in (lines, whole)]
    assert places[0] == places[1]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def test_exposures_that_were_learnt_are_undone_for_whoever_reads_the_photos_of_a_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exposure, "EXPLAINED", -np.inf)
    monkeypatch.setattr(loop, "FOLLOW_STEPS", 8)
    succeeds("train", data, "--out", tmp_path / "run", "--preset", "demo", "--exposure")
    notes = load_run(tmp_path / "run")[1]
    undone, plain = (load_like(said, data, ("train",)).train for said in (notes, {**notes, "exposures": None}))
    assert set(notes["exposures"]) == {view.name for view in plain}
    off = [np.abs(a.image.astype(int) - b.image).mean() for a, b in zip(undone, plain, strict=True)]
    assert 0 < max(off) < 60


def test_a_training_says_first_what_it_will_do(data: Path, tmp_path: Path) -> None:
    outcome = succeeds("train", data, "--out", tmp_path / "run", "--preset", "demo")
    first = outcome.err.splitlines()[0]
    assert first.startswith("vqrf: training data on 12 photos: coarse 64 steps, fine 96 steps; about ")
    assert first.endswith(" of memory")


def test_a_training_that_takes_more_memory_than_it_may_is_refused_before_it_changes_anything(
    data: Path, tmp_path: Path
) -> None:
    words = ("train", data, "--preset", "standard", "--out")
    refuses(*words, tmp_path / "run", "--max-memory", "500MB", saying=("training data takes", "the limit is 500.0 MB"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_a_refused_training_changes_no_file(data: Path, tmp_path: Path, stage: str) -> None:
    out = tmp_path / "run"
    killed(stage, 40, "train", data, "--out", out, "--preset", "demo")
    with unchanged(out):
        refuses("train", data, "--out", out, "--preset", "demo", "--seed", 1, saying=(out, "--overwrite"))
        refuses("train", data, "--out", out, "--preset", "quick", saying=(out, "--overwrite"))


def test_a_training_that_was_killed_when_its_field_was_safe_is_finished_by_the_same_command(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    command = ("train", data, "--out", out, "--preset", "demo")
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "clear_run", lambda _: os._exit)  # as if it was killed there
        succeeds(*command)
    assert (out / COARSE_FILE).exists() and (out / FIELD_FILE).exists()
    (out / TEMPORARY.format("0" * 16)).write_bytes(b"half")
    field = (out / FIELD_FILE).read_bytes()
    with unchanged(out):
        refuses(*command, "--seed", 1, saying=(out, "--overwrite"))
    assert "was trained" in succeeds(*command).out
    assert {path.name for path in out.iterdir()} == ITS_FILES
    assert (out / FIELD_FILE).read_bytes() == field
    refuses(*command, saying=(out, "holds a trained field already"))


def test_what_a_write_left_that_was_killed_is_gone_when_a_training_ends(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ("train", data, "--out", out, "--preset", "demo")
    killed("fine", 40, *command)
    (out / TEMPORARY.format("0" * 16)).write_bytes(b"half of a checkpoint")
    succeeds(*command)
    assert {path.name for path in out.iterdir()} == ITS_FILES


@needs_native
def test_a_tuning_that_is_stopped_says_how_to_go_on_and_ends_in_the_same_bytes_and_leaves_nothing(
    data: Path, run: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "small" / "scene.vqrf", tmp_path / "whole" / "scene.vqrf"
    for path in (out, whole):
        path.parent.mkdir()
    command = ("compress", run, "--data", data, "--preset", "demo", "--out")
    ended = stopped("tune", 37, signal.SIGINT, *command, out)
    assert ended.returncode == 130, ended
    assert ended.stderr.splitlines()[0] == "vqrf: tuning: tune 80 steps; about 1 s"
    assert "stopped after step 38 of 80 of the stage tune; the same command goes on" in ended.stderr.splitlines()[-1]
    (out.parent / TEMPORARY.format("0" * 16)).write_bytes(b"half of a checkpoint")
    assert "going on after step 38 of 80" in succeeds(*command, out).err
    succeeds(*command, whole)
    assert out.read_bytes() == whole.read_bytes()
    assert {path.name for path in out.parent.iterdir()} == {"scene.vqrf", "scene.report.html"}


def test_a_training_of_nothing_ends_after_the_coarse_stage_in_a_line_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    outcome = vqrf("train", data, "--out", out, "--preset", "demo", "--near", 60, "--far", 90)
    assert outcome.code == 2
    last = outcome.err.splitlines()[-1]
    assert last.startswith(f"vqrf: {out}: after the coarse stage ") and last.endswith("; nothing is kept")
    assert "from where they look, and near..far is 60..90 (--near and --far set it)" in last
    assert not any(out.iterdir())


def test_a_training_whose_end_is_no_better_than_a_blank_picture_keeps_its_field_and_does_not_end_well(
    scene: Scene, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0)
    views = tuple(replace(v, image=noise.integers(0, 256, v.image.shape, np.uint8), opacity=None) for v in scene.train)
    save_scene(replace(scene, train=views), tmp_path / "noise")
    out = tmp_path / "run"
    command = ("train", tmp_path / "noise", "--out", out, "--preset", "demo")
    outcome = vqrf(*command)
    assert outcome.code == 2
    last = outcome.err.splitlines()[-1]
    assert last.startswith(f"vqrf: {out / FIELD_FILE}: the field is no better on its own photos than a blank picture")
    assert {path.name for path in out.iterdir()} == ITS_FILES
    assert "no better" in json.loads(succeeds("info", out, "--json").out)["fault"]


@pytest.mark.parametrize("n_views", [1, 2])
def test_one_photo_or_two_are_trained_on_with_a_warning(scene: Scene, tmp_path: Path, n_views: int) -> None:
    save_scene(replace(scene, train=scene.train[:n_views]), tmp_path / "few")
    outcome = succeeds("train", tmp_path / "few", "--out", tmp_path / "run", "--preset", "demo")
    assert f"only {n_views} training photo" in outcome.out


def test_photos_of_nothing_are_an_empty_field_and_that_is_right(scene: Scene, tmp_path: Path) -> None:
    views = tuple(replace(view, image=np.full_like(view.image, 255), opacity=None) for view in scene.train)
    save_scene(replace(scene, train=views), tmp_path / "white")
    succeeds("train", tmp_path / "white", "--out", tmp_path / "run", "--preset", "demo")
    assert files_in(tmp_path / "run")


def test_a_run_on_photos_of_a_place_notes_where_they_were_taken(scene: Scene, data: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*scene.train[0].image.shape[:2], 3), np.uint8)
    views = [replace(view, image=noise, opacity=None) for view in scene.train]
    save_scene(replace(scene, train=tuple(views), test=(), contrast=(0.0, 0.0, 1.0)), tmp_path / "place")
    found, notes = load_sized(tmp_path / "place", "demo", 0, None, Photos())
    amid = view_amid([view.camera for view in found.train])
    assert amid is not None and about_of(notes) == amid
    assert json.loads(json.dumps(notes)) == notes
    assert "about" not in load_sized(data, "demo", 0, None, Photos())[1], "a thing alone is looked at from anywhere"
