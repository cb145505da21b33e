"""The paper's tables: which lines they have, each job done once whatever kills the program, pages made of rows alone."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import TINY, TINY_COMPRESS, TINY_RATE, tiny_scene

from vqrf.bench import jobs, runners, tables
from vqrf.bench.jobs import Conditions
from vqrf.bench.runners import load_rows, save_rows
from vqrf.bench.tables import FIELDS_FILE, FILES_FILE, FieldRow, FileRow, Scope, rows_of_files, variants_of
from vqrf.bench.uncoded import uncoded_sections
from vqrf.cli.main import main
from vqrf.codec.bitstream import decode
from vqrf.codec.compressed import CompressedField
from vqrf.compression import presets as compression
from vqrf.compression.paper import PaperPreset, UnroundedModel
from vqrf.data.load import SceneOptions, load_scene
from vqrf.data.scene import save_scene
from vqrf.training import stages
from vqrf.training.checkpoint import Checkpoint

needs_plots = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib, which draws")
STEPS = 5
Ablation = tuple[list[tuple[str, FileRow]], list[str]]


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
    pruned, by_chance, plain, weighted, unexpired, kept, tuned, *_ = (variant.preset for variant in variants.values())
    assert (pruned.keep, pruned.steps) == (pruned.prune, 0), "every voxel that stays is kept"
    assert replace(by_chance, is_uniform=False) == pruned
    assert replace(plain, is_weighted=True) == weighted == replace(kept, keep=0.0) == replace(unexpired, has_expiry=True)
    assert replace(tuned, steps=0) == kept
    assert tuned == compression.PRESETS["paper"]
    assert [(v.preset, v.form) for v in list(variants.values())[-3:]] == [(tuned, "float32"), (tuned, "levels"), (tuned, None)]


def test_sensitivity_turns_one_dial_at_a_time_through_the_published_point() -> None:
    published = PaperPreset()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(compression.PRESETS, "paper", published)
        variants = [variant.preset for variant in variants_of("sensitivity", (), None).values()]
    own = [variant for variant in variants if variant == published]
    assert len(own) == 4, "it is one point of each of four dials"
    for variant in variants:
        changed = jobs_changes(variant)
        assert len(changed) <= 1, changed


def jobs_changes(preset: Any) -> set[str]:
    return {name for name, value in vars(PaperPreset()).items() if getattr(preset, name) != value}


@pytest.fixture(scope="module")
def ablation(made: tuple[Path, list[tuple[str, FileRow]]], data: Path) -> Ablation:
    """Rows of the ablation in the folder of `main`, and what was told of them."""
    told: list[str] = []
    return rows_of_files(scope_of(data, made[0], tell=told.append), "ablation"), told


def test_two_lines_of_one_file_are_one_job(made: tuple[Path, list[tuple[str, FileRow]]], ablation: Ablation) -> None:
    rows, told = ablation
    by_name = dict(rows)
    assert by_name["+ joint tuning"] == dict(made[1])["paper"] == by_name["+ entropy coding"]
    assert len(told) == len(rows) - 2, "the field and the file of `paper`, which two lines are of, were there"
    assert by_name["pruning only"].n_bytes > by_name["+ codebook weighted by importance"].n_bytes
    assert json.loads(by_name["all, by plain clustering"].settings)["is_weighted"] is False


def test_computed_sizes_are_those_of_what_is_in_the_file(
    made: tuple[Path, list[tuple[str, FileRow]]], ablation: Ablation
) -> None:
    by_name = dict(ablation[0])
    floats, levels, coded = (by_name[name] for name in (tables.IN_FLOAT32, tables.QUANTIZED, tables.ENTROPY_CODED))
    small = decode(file_of(made[0], coded))
    assert isinstance(small, CompressedField)
    n_values = small.density.levels.size + small.kept.levels.size
    n_halves = small.codebook.size + sum(array.size for layer in small.color_mlp for array in layer)
    n_bits = 2 * small.partition.size, len(f"{small.n_codewords - 1:b}") * small.n_coded
    stored = json.loads(coded.sections)
    rest = sum(stored[name] for name in ("header", "HEAD", "META")) + sum(math.ceil(n / 8) for n in n_bits)
    assert levels.n_bytes == n_values + 2 * n_halves + rest
    assert floats.n_bytes == 4 * (n_values + n_halves) + rest, "the same voxels and codes are tuned without quantisers"
    assert (levels.psnr, levels.ssim) == (coded.psnr, coded.ssim) and floats.psnr != coded.psnr
    for row in (floats, levels, coded):
        assert sum(json.loads(row.sections).values()) == row.n_bytes
    assert json.loads(floats.settings)["form"] == "float32"
    with pytest.raises(ValueError, match="expected a file with a codebook"):
        uncoded_sections(file_of(made[0], dict(made[1])["compact"]), "levels")


def test_a_tuning_without_quantisers_goes_on_where_it_was_saved(
    made: tuple[Path, list[tuple[str, FileRow]]], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = tables.field_jobs(scope_of(data, made[0]))
    case = jobs.Case.read(job.folder(made[0]), data / "ball", Conditions(tmp_path))
    whole = case.tune_unrounded(TINY_COMPRESS)
    steps: list[int] = []
    update = UnroundedModel.update

    def count(model: UnroundedModel, step: int) -> None:
        if step == 70 and not steps.count(70):
            steps.append(step)
            raise Killed
        steps.append(step)
        update(model, step)

    monkeypatch.setattr(UnroundedModel, "update", count)
    monkeypatch.setattr(Checkpoint, "save_if_due", lambda checkpoint, collect: checkpoint.save(*collect()))
    with pytest.raises(Killed):
        case.tune_unrounded(TINY_COMPRESS)
    n_before = len(steps)
    resumed = case.tune_unrounded(TINY_COMPRESS)
    assert 0 < steps[n_before] <= 70 and steps[-1] == TINY_COMPRESS.steps - 1
    mine, theirs = resumed.shown(), whole.shown()
    np.testing.assert_array_equal(mine.density, theirs.density)
    np.testing.assert_array_equal(mine.features, theirs.features)
    assert not list(tmp_path.iterdir()), "what was saved is removed at the end"


def test_a_size_is_computed_of_a_file_that_is_gone_once_it_is_made_again(
    made: tuple[Path, list[tuple[str, FileRow]]],
    ablation: Ablation,
    data: Path,
    tmp_path: Path,
) -> None:
    work, by_name = made[0], dict(ablation[0])
    shutil.copytree(work, tmp_path, dirs_exist_ok=True)
    levels, coded = by_name[tables.QUANTIZED], by_name[tables.ENTROPY_CODED]
    save_rows(tmp_path / FILES_FILE, FileRow, [row for row in load_rows(work / FILES_FILE, FileRow) if row != levels])
    (tmp_path / "files" / f"{'-'.join(coded.key)}.vqrf").unlink()
    assert rows_of_files(scope_of(data, tmp_path), "ablation") == ablation[0]
    assert file_of(tmp_path, coded) == file_of(work, coded)


def test_the_page_says_which_lines_are_not_in_the_order_of_the_paper(
    ablation: Ablation,
) -> None:
    rows = dict(ablation[0])
    for better, worse in tables.BETTER:
        rows |= {better: replace(rows[better], psnr=30.0), worse: replace(rows[worse], psnr=30.004)}
    assert tables.remarks_of("ablation", list(rows.items()))[0].startswith("All lines are in the paper's order")
    for better, worse in tables.BETTER:
        (line,) = {
            line
            for line in tables.remarks_of("ablation", list((rows | {worse: replace(rows[worse], psnr=30.01)}).items()))
            if f'"{better}" has 30.00 dB and "{worse}" 30.01 dB' in line
        }
        assert line.startswith("Not in the paper's order: ball, dvgo:")
    smaller, larger = tables.SMALLER[-1]
    wrong = rows | {smaller: replace(rows[smaller], n_bytes=rows[larger].n_bytes + 1)}
    assert tables.remarks_of("ablation", list(wrong.items())) == [
        f'Not in the paper\'s order: ball, dvgo: "{smaller}" has {rows[larger].n_bytes + 1} bytes and '
        f'"{larger}" {rows[larger].n_bytes}.'
    ]
    assert tables.remarks_of("sensitivity", list(rows.items())) == []


# ------------------------------------------------------------------------------------------------------------ shared by a URL


@needs_plots
def test_machines_that_share_a_url_do_each_job_once(
    made: tuple[Path, list[tuple[str, FileRow]]],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = pytest.importorskip("fsspec").filesystem("memory")
    words = ["--scenes", "ball", "--bases", "dvgo", "--size", "demo", "--data", str(data), "--out", "memory://store/tables"]
    words += ["--steps", str(STEPS), "--runner", "turn"]

    def call(machine: str, table: str, *, broken: str) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
            patch.setattr(tables, broken, lambda *_, **__: pytest.fail("is another machine's"))
            main(["bench", "table", table, *words])

    call("first", "base", broken="make_file")
    call("second", "main", broken="fit_model")
    pages = []
    for machine in ("first", "third"):
        call(machine, "main", broken="make_file")
        pages.append(store.cat_file("/store/tables/main.md"))
    assert pages[0] == pages[1]
    found = {name.removeprefix("/store/tables/") for name in store.find("/store/tables")}
    names = {f"files/{'-'.join(row.key)}.vqrf": file_of(made[0], row) for _, row in made[1]}
    (run,) = [f"runs/{'-'.join(job.key)}/field.safetensors" for job in tables.field_jobs(scope_of(data, tmp_path))]
    assert {*names, run, FIELDS_FILE, FILES_FILE, "base.md", "main.md", "main.png"} == found
    for name, content in names.items():
        assert store.cat_file(f"/store/tables/{name}") == content, "the same bytes as in a folder"
    assert "wrote memory://store/tables/main.md" in capsys.readouterr().out
    store.rm("/store", recursive=True)


# -------------------------------------------------------------------------------------------------------- a sector held out


def test_a_column_is_of_fields_that_saw_nothing_of_a_sector_which_scores(
    made: tuple[Path, list[tuple[str, FileRow]]], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, rows = shutil.copytree(made[0], tmp_path / "tables"), made[1]
    words = ["--scenes", "ball", "--bases", "dvgo", "--size", "demo", "--data", str(data), "--out", str(work)]
    main(["bench", "table", "base", *words, "--runner", "turn", "--hold-out", "sector"])
    assert ", sector held out" in capsys.readouterr().out
    (line,) = [line for line in (work / "base.md").read_text().splitlines() if line.startswith("| ball")]
    (job,) = tables.field_jobs(scope_of(data, work).without_sector)
    (row,) = [row for row in load_rows(work / FIELDS_FILE, FieldRow) if row.id == job.id]
    assert line.endswith(f"| {row.psnr:.2f} |") and f"| {rows[0][1].field_psnr:.2f} |" in line
    scene = load_scene(data / "ball", options=SceneOptions(hold_out="sector"))
    case = jobs.Case.read(job.folder(work), data / "ball", Conditions(work))
    assert [view.name for view in case.scene.test] == [view.name for view in scene.test]
    assert len(case.scene.train) + len(case.scene.test) == 15 and len(case.scene.test) == 15 // 8
    assert row.psnr == case.score_field()[0]


@pytest.mark.parametrize("words", [["table", "sections"], ["table", "alternatives"], ["rd", "--runs", "a"]])
def test_a_column_that_a_table_has_no_place_for_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bench", *words, "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--hold-out", "sector"])
    assert "--hold-out: adds a column to" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


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
