"""The paper's tables: which lines they have, each job done once whatever kills the program, pages made of rows alone."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import TINY, TINY_COMPRESS, TINY_RATE, tiny_scene

from vqrf.bench import jobs, runners, tables
from vqrf.bench.jobs import Conditions
from vqrf.bench.runners import load_rows, save_rows
from vqrf.bench.tables import FIELDS_FILE, FILES_FILE, FieldRow, FileRow, Scope, rows_of_files, variants_of
from vqrf.cli.main import main
from vqrf.codec.bitstream import decode
from vqrf.compression import presets as compression
from vqrf.compression.paper import PaperPreset
from vqrf.data.scene import save_scene
from vqrf.training import stages

needs_plots = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib, which draws")
STEPS = 5


@pytest.fixture(scope="module", autouse=True)
def tiny_presets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(stages.PRESETS, "demo", TINY)
        patch.setitem(stages.PRESETS, "plenoxels-demo", TINY)
        patch.setitem(compression.PRESETS, "paper", replace(TINY_COMPRESS, name="paper"))
        patch.setitem(compression.PRESETS, "compact", replace(TINY_RATE, warm_steps=STEPS))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    save_scene(tiny_scene(), folder / "ball")
    return folder


def scope_of(data: Path, work: Path, **changes: Any) -> Scope:
    work.mkdir(exist_ok=True)
    scope = Scope(data, ("ball",), ("dvgo",), "demo", ("compact", "paper"), Conditions(work, STEPS))
    return replace(scope, **changes)


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, FileRow]]]:
    """A folder with the table `main` in it, and its rows."""
    work = tmp_path_factory.mktemp("tables")
    return work, rows_of_files(scope_of(data, work), "main")


def timeless(rows: list[tuple[str, FileRow]]) -> list[tuple[str, FileRow]]:
    return [(name, replace(row, seconds=0.0)) for name, row in rows]


def file_of(work: Path, row: FileRow) -> bytes:
    return (work / "files" / f"{'-'.join(row.key)}.vqrf").read_bytes()


# --------------------------------------------------------------------------------------------------------- which lines


def test_the_ablation_adds_one_thing_at_a_time() -> None:
    variants = variants_of("ablation", (), None)
    pruned, plain, weighted, kept, tuned, *_ = (preset for preset in variants.values() if isinstance(preset, PaperPreset))
    assert (pruned.keep, pruned.steps) == (pruned.prune, 0), "every voxel that stays is kept"
    assert replace(plain, is_weighted=True) == weighted == replace(kept, keep=0.0)
    assert replace(tuned, steps=0) == kept
    assert tuned == compression.PRESETS["paper"]


def test_sensitivity_turns_one_dial_at_a_time_through_the_published_point() -> None:
    published = PaperPreset()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(compression.PRESETS, "paper", published)
        variants = list(variants_of("sensitivity", (), None).values())
    own = [variant for variant in variants if variant == published]
    assert len(own) == 4, "it is one point of each of four dials"
    for variant in variants:
        changed = jobs_changes(variant)
        assert len(changed) <= 1, changed


def jobs_changes(preset: Any) -> set[str]:
    return {name for name, value in vars(PaperPreset()).items() if getattr(preset, name) != value}


def test_two_lines_of_one_file_are_one_job(made: tuple[Path, list[tuple[str, FileRow]]], data: Path) -> None:
    work, main_rows = made
    told: list[str] = []
    rows = rows_of_files(scope_of(data, work, tell=told.append), "ablation")
    assert dict(rows)["+ joint tuning"] == dict(main_rows)["paper"]
    assert len(told) == len(rows) - 1, "the field and the file of `paper` were there"
    by_name = dict(rows)
    assert by_name["pruning only"].n_bytes > by_name["+ codebook weighted by importance"].n_bytes
    assert json.loads(by_name["all, by plain clustering"].settings)["is_weighted"] is False


# ------------------------------------------------------------------------------------------------------------ once only


def test_every_job_is_done_once(
    made: tuple[Path, list[tuple[str, FileRow]]], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, rows = made
    for name in ("train_field", "make_file"):
        monkeypatch.setattr(tables, name, lambda job, conditions: pytest.fail("done twice"))
    assert rows_of_files(scope_of(data, work), "main") == rows
    assert len(load_rows(work / FIELDS_FILE, FieldRow)) == 1


class Killed(BaseException):
    """What ends the program at a moment of its choice."""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["a training", "a tuning", "a row"])
def test_killed_at_any_moment_it_ends_in_the_same_bytes_and_scores(
    made: tuple[Path, list[tuple[str, FileRow]]], data: Path, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, expected = made
    fit = tables.fit_model

    def die(*_: Any) -> None:
        raise Killed

    def report(stage: str, progress: Any) -> None:
        if (stage, progress.step) == ("fine", 40):
            die()

    def fit_and_die(*arguments: Any, **named: Any) -> Any:
        return fit(*arguments, **named, report=report)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if moment == "a training":
            patch.setattr(tables, "fit_model", fit_and_die)
        if moment == "a tuning":
            patch.setattr(jobs.FileJob, "compress", lambda job, preset, checkpoints: die())
        rows_of_files(scope_of(data, tmp_path, tell=die if moment == "a row" else lambda line: None), "main")
    rows = rows_of_files(scope_of(data, tmp_path), "main")
    assert timeless(rows) == timeless(expected)
    for (_, row), (_, other) in zip(rows, expected, strict=True):
        assert file_of(tmp_path, row) == file_of(whole, other)
        assert len(file_of(tmp_path, row)) == row.n_bytes


def test_a_row_is_of_the_photos_and_settings_that_it_was_made_with(
    made: tuple[Path, list[tuple[str, FileRow]]], data: Path, tmp_path: Path
) -> None:
    work, rows = made
    (job,) = tables.field_jobs(scope_of(data, work))
    other_seed = tables.field_jobs(scope_of(data, work, conditions=Conditions(work, STEPS, seed=1)))
    assert other_seed[0].id != job.id
    save_scene(replace(tiny_scene(), train=tiny_scene().train[1:]), tmp_path / "ball")
    assert tables.field_jobs(scope_of(tmp_path, work))[0].id != job.id
    assert decode(file_of(work, rows[0][1])).metadata["training"]["scene"] == "ball"


def test_what_there_is_no_preset_for_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no preset tensorf-large"):
        tables.field_jobs(scope_of(data, tmp_path, bases=("tensorf",), size="large"))


# --------------------------------------------------------------------------------------------------------------- pages


@needs_plots
def test_the_command_writes_a_page_of_the_rows_and_goes_on_from_them(
    made: tuple[Path, list[tuple[str, FileRow]]], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, rows = made
    old = [replace(row, version="0.0.9") if "paper" in row.settings else row for _, row in rows]
    save_rows(work / FILES_FILE, FileRow, old)
    words = ["--scenes", "ball", "--bases", "dvgo", "--size", "demo", "--data", str(data), "--out", str(work)]
    more = ["--steps", str(STEPS), "--runner", "turn"]
    main(["bench", "table", "main", *words, *more])
    page = (work / "main.md").read_text()
    for _, row in rows:
        assert re.search(rf"\| {row.psnr:.2f} \| {row.ssim:.4f} \| {row.n_bytes} \|", page)
    assert "paper (by 0.0.9)" in page and "compact (by" not in page
    assert (work / "main.png").read_bytes().startswith(b"\x89PNG")
    main(["bench", "table", "sections", *words, *more])
    total = next(line for line in (work / "sections.md").read_text().splitlines() if "| paper |" in line)
    *sizes, whole = (int(cell) for cell in total.split("|")[4:-1] if cell.strip())
    assert sum(sizes) == whole
    capsys.readouterr()
    main(["bench", "table", "base", *words, *more, "--json"])
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["base"] == "dvgo"


@pytest.mark.parametrize(
    ("words", "saying"),
    [
        (["table"], "expected a table of"),
        (["rd", "main"], "expected a table of"),
        (["rd"], "--runs"),
        (["table", "main", "--runs", "a"], "--runs"),
    ],
)
def test_words_that_do_not_go_together_are_refused(
    words: list[str], saying: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", *words, "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert saying in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------------- Ray


def test_a_job_says_what_memory_it_takes_and_an_address_goes_to_ray(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    asked: list[Any] = []

    class Task:
        def options(self, **demands: Any) -> Task:
            asked.append(demands)
            return self

        def remote(self, job: Any) -> Any:
            return job

    class Ray:
        nodes = staticmethod(lambda: [{"Alive": True, "Resources": {"memory": 1e12}}, {"Alive": True, "Resources": {}}])
        is_initialized = staticmethod(lambda: False)
        init = staticmethod(lambda address, **_: asked.append(address))
        remote = staticmethod(lambda work: Task())
        wait = staticmethod(lambda waiting: (waiting[:1], waiting[1:]))
        get = staticmethod(lambda ready: ready)
        shutdown = staticmethod(lambda: asked.append("shut down"))

    monkeypatch.setitem(__import__("sys").modules, "ray", Ray)
    (job,) = tables.field_jobs(scope_of(data, data))
    assert list(runners.run_on_ray([job], lambda job: job, "10.0.0.1:6379")) == [job]
    assert asked == ["10.0.0.1:6379", {"max_retries": runners.MAX_RETRIES, "memory": job.memory}, "shut down"]
