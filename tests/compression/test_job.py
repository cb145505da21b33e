"""Jobs: one call from Python does what the command line does, goes on after it was killed, and takes nobody else's work."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY_COMPRESS, TINY_RATE, Interrupted, Recorder, emptied

from vqrf.codec.bitstream import decode
from vqrf.compression import job as room
from vqrf.compression.goal import Goal
from vqrf.compression.job import Job, JobError, Silent, compress_file
from vqrf.compression.search import Trial
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.storage import StorageError, field_checksum
from vqrf.rendering.evaluate import evaluate
from vqrf.training.checkpoint import Checkpoint
from vqrf.training.loop import Progress

SHORT = replace(TINY_COMPRESS, steps=33)


class Watching(Silent):
    """Remembers what it hears, and interrupts a tuning at a step."""

    def __init__(self, at: tuple[str, int] | None = None) -> None:
        self.recorder, self.trials = Recorder(at), list[Trial]()

    def stages(self, steps: object) -> AbstractContextManager[Callable[[str, Progress], None]]:
        return nullcontext(self.recorder)

    def trial(self, trial: Trial) -> None:
        self.trials.append(trial)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_one_call_writes_a_file_that_says_what_was_measured_of_it(trained: RadianceField, scene: Scene, tmp_path: Path) -> None:
    halved = replace(scene, downscale=2)
    made = compress_file(trained, halved, tmp_path / "a.vqrf", SHORT, page=tmp_path / "a.html", notes={"seed": 3})
    assert names(tmp_path) == {"a.vqrf", "a.html"}
    assert (tmp_path / "a.vqrf").read_bytes() == made.data
    small = decode(made.data)
    assert small.metadata["test"]["psnr"] == pytest.approx(evaluate(expand(small), scene.test).psnr, abs=1e-4)
    told = {"scene": scene.name, "downscale": 2, "hold_out": "own", "background": "#ffffff", "seed": 3}
    assert small.metadata["training"] == told
    assert small.metadata["compression"]["preset"] == "demo"
    assert made.after.file_bytes == made.n_bytes and made.facts is None
    with pytest.raises(JobError, match="is there already"):
        compress_file(trained, scene, tmp_path / "a.vqrf", SHORT)


def test_without_photos_held_out_a_file_is_made_that_claims_no_score(
    trained: RadianceField, scene: Scene, tmp_path: Path
) -> None:
    alone = replace(scene, test=())
    made = compress_file(trained, alone, tmp_path / "a.vqrf", TINY_COMPRESS, page=tmp_path / "a.html")
    assert not {"test", "field_test", "fast"} & set(decode(made.data).metadata)
    assert {view.name for view in made.after.views} <= {view.name for view in scene.train}
    assert "none are held out" in (tmp_path / "a.html").read_text()
    with pytest.raises(JobError, match="no photos held out, and so no PSNR to aim at"):
        compress_file(trained, alone, tmp_path / "b.vqrf", TINY_RATE, Goal(max_drop=0.1))


def test_one_call_meets_a_size_and_keeps_its_trials(trained: RadianceField, scene: Scene, tmp_path: Path) -> None:
    made = compress_file(trained, scene, tmp_path / "a.vqrf", replace(SHORT, steps=4), Goal(target_size="14kB"))
    assert 0.95 * 14000 <= made.n_bytes <= 14000
    assert made.facts is not None and made.facts["is_met"]
    assert names(tmp_path) == {"a.vqrf", "a.vqrf.search.json"}


@pytest.mark.parametrize("preset", [SHORT, TINY_RATE, TINY_RATE.for_profile("web")], ids=["paper", "compact", "web"])
def test_a_size_that_no_file_has_is_refused_before_anything_is_tuned(
    preset: object, trained: RadianceField, scene: Scene, tmp_path: Path
) -> None:
    watch = Watching()
    job = Job(trained, scene, preset, Goal(target_size="300"))  # type: ignore[arg-type]
    with pytest.raises(JobError, match=r"cannot be met: a file with next to nothing of the field in it has \d+ bytes"):
        job.write(tmp_path / "a.vqrf", watch=watch)
    assert watch.recorder.steps == {} and names(tmp_path) == set()


def test_a_field_of_nothing_makes_no_file(trained: RadianceField, scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no photo sees anything of the field"):
        compress_file(emptied(trained), scene, tmp_path / "a.vqrf", SHORT)
    assert names(tmp_path) == set()


def with_other_network(field: RadianceField) -> RadianceField:
    (weight, bias), *others = field.color_mlp
    return replace(field, color_mlp=((weight * np.float32(0.5), bias), *others))


OTHER_FIELDS = {
    "density": lambda field: replace(field, density=field.density + np.float32(0.1)),
    "features": lambda field: replace(field, features=field.features * np.float32(0.5)),
    "network": with_other_network,
    "constants": lambda field: replace(field, equation=replace(field.equation, near=field.equation.near + 0.1)),
    "cells": lambda field: replace(field, allowed=np.ones_like(field.allowed)),
}


@pytest.mark.parametrize("change", OTHER_FIELDS)
def test_a_job_does_not_go_on_with_the_work_of_another_field(
    change: str, trained: RadianceField, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = OTHER_FIELDS[change](trained)
    assert field_checksum(other) != field_checksum(trained) == field_checksum(replace(trained))
    if change != "features":
        return
    monkeypatch.setitem(Checkpoint.__init__.__kwdefaults__, "seconds", 0.0)
    with pytest.raises(Interrupted):
        Job(trained, scene, SHORT).write(tmp_path / "a.vqrf", watch=Watching(("tune", 33)))
    with pytest.raises(StorageError, match="belongs to other images or settings"):
        Job(other, scene, SHORT).write(tmp_path / "a.vqrf")


def test_a_tuning_that_was_saved_in_another_layout_is_refused_in_one_line(
    trained: RadianceField, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Checkpoint.__init__.__kwdefaults__, "seconds", 0.0)
    job, out = Job(trained, scene, SHORT), tmp_path / "a.vqrf"
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(room, "SAVED_LAYOUT", room.SAVED_LAYOUT - 1)
        job.write(out, watch=Watching(("tune", 33)))
    with pytest.raises(StorageError, match=r"^[^\n]*a\.vqrf\.checkpoint: [^\n]*give --overwrite[^\n]*$"):
        job.write(out)
    assert not out.exists()


@pytest.mark.parametrize("goal", [Goal(), Goal(target_size="14kB")], ids=["settings", "search"])
@pytest.mark.parametrize("place", ["page", "clear"])
def test_a_job_killed_after_its_file_was_written_writes_the_page_and_clears_the_rest(
    goal: Goal, place: str, trained: RadianceField, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise Interrupted

    job, out, page = Job(trained, scene, replace(SHORT, steps=4), goal), tmp_path / "a.vqrf", tmp_path / "a.html"
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(room, "write_report", die) if place == "page" else patch.setattr(room.Desk, "clear", die)
        job.write(out, page)
    data = out.read_bytes()
    assert (tmp_path / "a.vqrf.unfinished").exists()

    other = replace(job, seed=1)
    with pytest.raises(JobError, match="is there already"):
        other.write(out, page)
    watch = Watching()
    made = job.write(out, page, watch=watch)
    assert watch.recorder.steps == {} and made.data == out.read_bytes() == data
    assert page.exists() and names(tmp_path) - {"a.vqrf.search.json"} == {"a.vqrf", "a.html"}
    assert (made.facts is None) == (goal == Goal())
    with pytest.raises(JobError, match="is there already"):
        job.write(out, page)


def test_a_file_that_somebody_else_put_there_is_no_job_s(trained: RadianceField, scene: Scene, tmp_path: Path) -> None:
    job, out = Job(trained, scene, replace(SHORT, steps=1)), tmp_path / "a.vqrf"
    mark = {"fingerprint": room.Desk(job, out).goal_mark(), "crc32": 0, "facts": None, "seconds": 1.0}
    (tmp_path / "a.vqrf.unfinished").write_text(json.dumps(mark))
    out.write_bytes(b"mine")
    with pytest.raises(JobError, match="is there already"):
        job.write(out)
    assert out.read_bytes() == b"mine"
