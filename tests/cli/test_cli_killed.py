"""Commands that were killed, and started again."""

# ruff: noqa: F811 (fixtures of test_cli are parameters here)

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import compressed, data, psnr_of, refuses, run, scene, succeeds, tiny_presets, unchanged, vqrf  # noqa: F401 (fixtures)
from tiny import Interrupted, Recorder

from vqrf.cli import compress as cli_compress
from vqrf.cli import train as cli_train
from vqrf.cli.train import CONFIG_FILE, METRICS_FILE
from vqrf.fields.run import FIELD_FILE
from vqrf.fields.storage import load_field, save_field
from vqrf.kernels import has_native
from vqrf.training.checkpoint import Checkpoint

KILLED = """
import os, signal, sys
from contextlib import contextmanager
from tiny import TINY, TINY_COMPRESS, TINY_RATE
from vqrf.cli import main as cli
from vqrf.cli import compress as cli_compress
from vqrf.cli import train as cli_train
from vqrf.compression.presets import PRESETS as COMPRESS_PRESETS
from vqrf.training.checkpoint import Checkpoint
from vqrf.training.stages import PRESETS as TRAIN_PRESETS

COMPRESS_PRESETS["demo"], TRAIN_PRESETS["demo"] = TINY_COMPRESS, TINY
COMPRESS_PRESETS["compact"] = TINY_RATE
Checkpoint.__init__.__kwdefaults__["seconds"] = 0
bars = cli_train.step_bars

@contextmanager
def deadly(*arguments):
    with bars(*arguments) as report:
        def kill(stage, progress):
            report(stage, progress)
            if [stage, str(progress.step)] == sys.argv[1:3]:
                os.kill(os.getpid(), signal.SIGKILL)
        yield kill

cli_train.step_bars = cli_compress.step_bars = deadly
cli.main(sys.argv[3:])
"""
"""A command with tiny presets and frequent checkpoints that kills itself after a step of a stage."""


def killed(stage: str, step: int, *arguments: object) -> None:
    """Run a command in a process that dies with SIGKILL after a step."""
    words = [sys.executable, "-c", KILLED, stage, str(step), *map(str, arguments)]
    roots = [str(Path(__file__).parents[1]), *(path for path in sys.path if path)]
    ended = subprocess.run(words, env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)}, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.fixture
def first_steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The first step that each stage reports from now on."""
    seen: dict[str, int] = {}
    bars = cli_train.step_bars

    @contextmanager
    def watching(*arguments: Any) -> Iterator[Callable[..., None]]:
        with bars(*arguments) as report:

            def watch(stage: str, progress: Any) -> None:
                seen.setdefault(stage, progress.step)
                report(stage, progress)

            yield watch

    for room in (cli_train, cli_compress):
        monkeypatch.setattr(room, "step_bars", watching)
    return seen


def test_training_goes_on_after_kill_9_to_the_same_end(
    data: Path, run: Path, tmp_path: Path, first_steps: dict[str, int]
) -> None:
    out = tmp_path / "run"
    command = ("train", data, "--out", out, "--preset", "demo")
    killed("fine", 45, *command)
    assert not (out / FIELD_FILE).exists()
    with unchanged(out):
        refuses("eval", out, "--data", data, saying=(out, "has its training ended"))
    succeeds(*command)
    assert first_steps == {"fine": 33}
    assert {path.name for path in out.iterdir()} == {FIELD_FILE, CONFIG_FILE, METRICS_FILE}
    assert psnr_of(out, data) == pytest.approx(psnr_of(run, data), abs=0.1)
    if has_native():
        a, b = (load_field(folder / FIELD_FILE)[0] for folder in (out, run))
        np.testing.assert_array_equal(a.density, b.density)


def test_a_killed_training_does_not_go_on_with_other_settings_and_begins_afresh_if_told_to(
    data: Path, tmp_path: Path, first_steps: dict[str, int]
) -> None:
    out = tmp_path / "run"
    command = ("train", data, "--out", out, "--preset", "demo", "--seed", 1)
    killed("coarse", 40, *command[:-1], 0)
    refuses(*command, "--quiet", saying=(out, "--overwrite"))
    succeeds(*command, "--overwrite")
    assert first_steps == {"coarse": 1, "fine": 1}


def test_tuning_goes_on_after_kill_9_to_the_same_end(
    data: Path, run: Path, compressed: Path, tmp_path: Path, first_steps: dict[str, int]
) -> None:
    out = tmp_path / "scene.vqrf"
    command = ("compress", run, "--data", data, "--out", out, "--preset", "demo")
    killed("tune", 70, *command)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.vqrf.checkpoint"]
    succeeds(*command)
    assert first_steps == {"tune": 65}
    assert {path.name for path in tmp_path.iterdir()} == {"scene.vqrf", "scene.report.html"}
    assert psnr_of(out, data) == pytest.approx(psnr_of(compressed, data), abs=0.1)
    if has_native():
        assert out.read_bytes() == compressed.read_bytes()


@pytest.mark.parametrize(("stage", "step", "resumed"), [("warm", 68, {"warm": 65, "tune": 1}), ("tune", 36, {"tune": 33})])
def test_a_pyramid_goes_on_after_kill_9_in_either_stage(
    stage: str, step: int, resumed: dict[str, int], data: Path, run: Path, tmp_path: Path, first_steps: dict[str, int]
) -> None:
    out, whole = tmp_path / "scene.vqrf", tmp_path / "whole.vqrf"
    killed(stage, step, "compress", run, "--data", data, "--out", out)
    succeeds("compress", run, "--data", data, "--out", out)
    assert first_steps == resumed
    assert {path.name for path in tmp_path.iterdir()} == {"scene.vqrf", "scene.report.html"}
    succeeds("compress", run, "--data", data, "--out", whole)
    if has_native():
        assert out.read_bytes() == whole.read_bytes()


def test_a_size_is_met_by_a_pyramid_from_one_warm_stage(
    data: Path, run: Path, tmp_path: Path, first_steps: dict[str, int]
) -> None:
    out = tmp_path / "scene.vqrf"
    succeeds("compress", run, "--data", data, "--out", out)
    target = round(0.97 * out.stat().st_size)
    first_steps.clear()
    filled = tmp_path / "filled.vqrf"
    succeeds("compress", run, "--data", data, "--out", filled, "--target-size", str(target))
    assert 0.95 * target <= filled.stat().st_size <= target
    assert first_steps == {"warm": 1, "tune": 1}
    assert not (tmp_path / "filled.vqrf.warm").exists()


def test_a_tuning_that_ended_early_does_not_go_on_with_another_field(
    data: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Checkpoint.__init__.__kwdefaults__, "seconds", 0.0)
    other, out = Path(shutil.copytree(run, tmp_path / "run")), tmp_path / "scene.vqrf"
    command = ("compress", other, "--data", data, "--out", out, "--preset", "demo", "--quiet")
    with monkeypatch.context() as patch:
        patch.setattr(cli_compress, "step_bars", lambda *_: nullcontext(Recorder(("tune", 40))))
        with pytest.raises(Interrupted):
            vqrf(*command)
    field, notes = load_field(other / FIELD_FILE)
    save_field(other / FIELD_FILE, replace(field, density=field.density + np.float32(0.1)), notes=notes)
    refuses(*command, saying=(f"{out}.checkpoint", "--overwrite"))
    succeeds(*command, "--overwrite", "--steps", 1)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "scene.vqrf", "scene.report.html"}
