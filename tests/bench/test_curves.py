"""Curves of rate and distortion: compared by a known answer, measured once and not again, drawn with what others published."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import data, refuses, run, scene, succeeds, vqrf  # noqa: F401 (fixtures)
from tiny import TINY, TINY_COMPRESS

from vqrf.bench import curves as bench
from vqrf.bench import jobs, runners
from vqrf.bench.curves import Curve, Job, Row, rate_difference
from vqrf.bench.published import anchors_of
from vqrf.bench.runners import load_rows, run_in_turn, run_jobs, save_rows
from vqrf.cli import bench as cli_bench
from vqrf.cli.terminal import Terminated
from vqrf.compression.presets import PRESETS as COMPRESS_PRESETS
from vqrf.data.scene import View
from vqrf.fields.field import RadianceField
from vqrf.rendering.evaluate import Evaluation, evaluate
from vqrf.training.stages import PRESETS as TRAIN_PRESETS

needs_scipy = pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="the extra `bench` is not installed")
needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="the extra `bench` is not installed"
)
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed")

SIZES = np.array([1e5, 2e5, 3.5e5, 6e5, 1.1e6, 1.5e6])
PSNRS = np.array([29.0, 31.2, 32.5, 33.6, 34.3, 34.5])
ANCHOR = Curve.of_points("anchor", zip(SIZES, PSNRS, strict=True))


def shifted(bytes_factor: float, decibels: float = 0.0) -> Curve:
    return Curve.of_points("shifted", zip(SIZES * bytes_factor, PSNRS + decibels, strict=True))


# Comparison


@needs_scipy
@pytest.mark.parametrize("method", ["pchip", "akima"])
@settings(deadline=None)
@given(percent=st.floats(-90, 400))
def test_a_curve_that_takes_x_per_cent_more_everywhere_takes_x_per_cent_more(method: str, percent: float) -> None:
    found = rate_difference(shifted(1 + percent / 100), ANCHOR, method=method)  # type: ignore[arg-type]
    assert found == pytest.approx(percent, abs=1e-6)


@needs_scipy
@pytest.mark.parametrize("method", ["pchip", "akima"])
def test_a_straight_curve_moved_up_takes_what_its_slope_says(method: str) -> None:
    """Where ln bytes grows by 0.1 for each dB, a curve that is 2 dB better takes exp(-0.2) of the bytes."""
    decibels = np.linspace(28, 36, 9)
    straight = Curve.of_points("a", zip(1e5 * np.exp(0.1 * decibels), decibels, strict=True))
    better = Curve.of_points("b", zip(1e5 * np.exp(0.1 * decibels), decibels + 2, strict=True))
    found = rate_difference(better, straight, method=method)  # type: ignore[arg-type]
    assert found == pytest.approx(100 * (np.exp(-0.2) - 1), abs=1e-9)


@needs_scipy
def test_a_curve_half_of_which_is_shifted_is_in_between() -> None:
    """ln bytes shifted by a ramp from 0 to ln 2 over the range: the mean is half of ln 2, whatever the points in between."""
    decibels = np.linspace(30, 34, 41)
    anchor = Curve.of_points("a", zip(1e5 * np.exp(0.3 * decibels), decibels, strict=True))
    ramp = np.log(2) * (decibels - 30) / 4
    other = Curve.of_points("b", zip(1e5 * np.exp(0.3 * decibels + ramp), decibels, strict=True))
    assert rate_difference(other, anchor) == pytest.approx(100 * (2**0.5 - 1), abs=1e-6)


@needs_scipy
@settings(deadline=None)
@given(st.floats(0.3, 3), st.floats(-2, 2))
def test_the_difference_the_other_way_round_is_the_inverse(factor: float, decibels: float) -> None:
    there, back = rate_difference(shifted(factor, decibels), ANCHOR), rate_difference(ANCHOR, shifted(factor, decibels))
    assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1, abs=1e-9)


@needs_scipy
def test_only_the_common_range_counts() -> None:
    longer = Curve.of_points("longer", [*zip(SIZES, PSNRS, strict=True), (9e6, 40.0), (9e7, 45.0)])
    assert abs(rate_difference(longer, ANCHOR)) < 0.5
    with pytest.raises(ValueError, match="shifted and anchor have no PSNR in common"):
        rate_difference(shifted(1, 10), ANCHOR)


@needs_scipy
def test_a_curve_of_three_points_is_not_compared() -> None:
    short = Curve.of_points("short", zip(SIZES[:3], PSNRS[:3], strict=True))
    with pytest.raises(ValueError, match="short: a curve to compare has at least 4 points, this one has 3"):
        rate_difference(ANCHOR, short)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1))
def test_a_curve_grows_and_leaves_out_only_what_is_beaten(points: list[tuple[int, int]]) -> None:
    curve = Curve.of_points("a", points)
    assert (np.diff(curve.n_bytes) > 0).all() and (np.diff(curve.psnr) > 0).all()
    on_it = set(zip(curve.n_bytes, curve.psnr, strict=True))
    for size, psnr in points:
        assert any(other[0] <= size and other[1] >= psnr for other in on_it)
    assert on_it <= set(points)


# Jobs


def row_of(job: Job) -> Row:
    return Row(*job.key, n_bytes=int(1000 * job.quality), psnr=30 + job.quality / 10, ssim=0.9, field_psnr=41.0, seconds=0.5)


def jobs_of(*qualities: float, preset: str = "paper") -> list[Job]:
    return [Job("run", "data", "lego", preset, quality, "00000000") for quality in qualities]


def test_a_run_that_was_killed_goes_on_with_the_jobs_that_are_missing(tmp_path: Path) -> None:
    path, asked = tmp_path / "rd.csv", []

    def work(job: Job) -> Row:
        asked.append(job.quality)
        if job.quality == 30 and asked.count(30) == 1:
            raise KeyboardInterrupt
        return row_of(job)

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs_of(10, 20, 30, 40), path, Row, work, run_in_turn)
    assert [row.quality for row in load_rows(path, Row)] == [10, 20]
    rows = run_jobs(jobs_of(10, 20, 30, 40), path, Row, work, run_in_turn)
    assert asked == [10, 20, 30, 30, 40]
    assert rows == [row_of(job) for job in jobs_of(10, 20, 30, 40)] == load_rows(path, Row)


def test_rows_come_in_the_order_of_the_jobs_whatever_the_runner_does(tmp_path: Path) -> None:
    def backwards(jobs: Sequence[Job], work: Callable[[Job], Row]) -> Iterable[Row]:
        return map(work, reversed(jobs))

    seen: list[Row] = []
    rows = run_jobs(jobs_of(10, 20, 30), tmp_path / "rd.csv", Row, row_of, backwards, on_row=seen.append)
    assert [row.quality for row in rows] == [10, 20, 30]
    assert [row.quality for row in seen] == [30, 20, 10]


def test_rows_of_other_jobs_and_settings_stay_and_are_not_taken_for_these(tmp_path: Path) -> None:
    path = tmp_path / "rd.csv"
    old = [row_of(job) for job in jobs_of(10, 20)]
    save_rows(path, Row, old)
    other = [replace(job, settings="11111111") for job in jobs_of(10)]
    (row,) = run_jobs(other, path, Row, lambda job: replace(row_of(job), psnr=12.5), run_in_turn)
    assert row.psnr == 12.5
    assert len(load_rows(path, Row)) == 3 and set(old) < set(load_rows(path, Row))


@settings(deadline=None)
@given(st.lists(st.builds(Row, st.text("abc,\"'\n ", min_size=1), st.just("paper"), st.floats(0, 100), st.just("00000000"),
                          st.integers(1, 10**9), *[st.floats(-1e6, 1e6)] * 4), unique_by=lambda row: row.key))  # fmt: skip
def test_rows_come_back_from_the_file(rows: list[Row]) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "rd.csv"
        save_rows(path, Row, rows)
        assert load_rows(path, Row) == sorted(rows, key=lambda row: row.key)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1 is not scene,"),
        ("a,b\n", "line 1 is not scene,"),
        ("HEAD\nlego,paper,1,0,x,1,1,1,1\n", "line 2 is no row: lego"),
        ("HEAD\nlego\n", "line 2 is no row"),
    ],
)
def test_a_table_that_is_none_of_ours_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "rd.csv"
    save_rows(path, Row, [])
    path.write_text(text.replace("HEAD\n", path.read_text()))
    with pytest.raises(ValueError, match=reason):
        load_rows(path, Row)


@needs_ray
def test_ray_does_the_same_jobs(tmp_path: Path) -> None:
    def do(psnr: float, job: Job) -> Row:  # local, so that it is sent as it is: a worker cannot import this module
        return bench.Row(*job.key, int(job.quality), psnr, 0.9, 41.0, 0.5)

    work = partial(do, 30.0)
    rows = run_jobs(jobs_of(10, 20, 30), tmp_path / "rd.csv", Row, work, runners.run_on_ray)
    assert rows == [work(job) for job in jobs_of(10, 20, 30)] == load_rows(tmp_path / "rd.csv", Row)


def test_ray_is_chosen_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, runner in ((None, run_in_turn), (object(), runners.run_on_ray)):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=found: found)
        assert runners.choose_runner() is runner


# The plot


def lego_rows() -> list[Row]:
    """Two curves of lego, the second of half the bytes."""
    return [
        Row("lego", preset, 10.0 * i, "00000000", int(size * factor), psnr, 0.95, 34.6, 1.0)
        for preset, factor in (("paper", 1.0), ("ours", 0.5))
        for i, (size, psnr) in enumerate(zip(SIZES, PSNRS, strict=True))
    ]


@needs_scipy
def test_every_two_curves_of_a_scene_are_compared_both_ways() -> None:
    one_more = replace(lego_rows()[0], scene="chair")
    found = {(d["scene"], d["curve"], d["anchor"]): d["rate_difference"] for d in bench.differences([*lego_rows(), one_more])}
    assert found == {
        ("lego", "paper", "ours"): pytest.approx(100, abs=0.01),
        ("lego", "ours", "paper"): pytest.approx(-50, abs=0.01),
    }
    few = bench.differences(lego_rows()[:8])
    assert {d["rate_difference"] for d in few} == {None}


@needs_matplotlib
def test_the_plot_holds_curves_anchors_and_what_they_are(tmp_path: Path) -> None:
    bench.draw(lego_rows(), tmp_path / "rd.svg")
    text = (tmp_path / "rd.svg").read_text()
    for word in ("lego", "paper", "ours", "HAC++ (splats)", "masked wavelets", "VQRF, run by others", "CNC, mean", "field"):
        assert f"<!-- {word} -->" in text, word
    bench.draw(lego_rows(), tmp_path / "rd.png")
    with PIL.Image.open(tmp_path / "rd.png") as image:
        assert image.size == (900, 660)


def test_published_points_are_those_of_the_scene() -> None:
    lego = {(anchor.name, anchor.megabytes, anchor.psnr) for anchor in anchors_of("lego") if not anchor.is_mean}
    assert lego == {
        ("masked wavelets", 0.83, 34.93),
        ("HAC++ (splats)", 0.84, 34.33),
        ("VQRF, run by others", 1.56, 34.28),
    }
    assert anchors_of("built-in scene") == []


def test_a_table_into_a_pipe_has_its_rows_on_lines_of_their_own_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [("lego " * 20, str(10**30)), ("chair", "1")]
    cli_bench.print_table(("scene", "bytes"), lines, n_words=1)
    heads, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert heads == ["scene", "bytes"]
    assert rows == [" ".join(line).split() for line in lines]


# The verb


@pytest.fixture(scope="module", autouse=True)
def tiny_presets() -> Iterator[None]:
    """In this module the preset `demo` takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TRAIN_PRESETS, "demo", TINY)
        patch.setitem(COMPRESS_PRESETS, "demo", replace(TINY_COMPRESS, steps=5))
        yield


@needs_scipy
@needs_matplotlib
def test_bench_measures_draws_and_goes_on(run: Path, data: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "bench"
    flags = ("bench", "rd", "--runs", run, "--data", data, "--out", out, "--presets", "demo", "--runner", "turn")
    printed = succeeds(*flags, "--qualities", 0, 100).out
    assert {path.name for path in out.iterdir()} == {"rd.csv", "rd.png"}
    assert "demo at 0:" in printed and "demo at 100:" in printed
    small, large = load_rows(out / "rd.csv", Row)
    assert small.n_bytes < large.n_bytes
    again = json.loads(succeeds(*flags, "--qualities", 0, 50, 100, "--json").out)
    assert [row["quality"] for row in again["rows"]] == [0, 50, 100]
    assert [again["rows"][i]["seconds"] for i in (0, 2)] == [small.seconds, large.seconds]  # not measured again
    assert again["differences"] == []
    added = json.loads(succeeds(*flags, "--qualities", 25, 75, "--json").out)
    assert [row["quality"] for row in added["rows"]] == [0, 25, 50, 75, 100]  # with what the folder holds already
    other = json.loads(succeeds(*flags, "--qualities", 0, "--every", 2, "--json").out)
    assert [row["quality"] for row in other["rows"]] == [0]  # scores of other views are no points of this curve


@needs_scipy
@needs_matplotlib
@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_a_bench_that_is_stopped_keeps_its_rows_and_says_how_to_go_on(
    run: Path,  # noqa: F811
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    code: int,
) -> None:
    out, measure, n_measured = tmp_path / "bench", jobs.measure, 0
    flags = ("bench", "rd", "--runs", run, "--data", data, "--out", out, "--presets", "demo", "--runner", "turn")

    def stopped_at_the_second(job: Job, *, conditions: jobs.Conditions) -> Row:
        nonlocal n_measured
        n_measured += 1
        if n_measured == 2:
            raise error
        return measure(job, conditions=conditions)

    monkeypatch.setattr(jobs, "measure", stopped_at_the_second)
    outcome = vqrf(*flags, "--qualities", 0, 100)
    assert outcome.code == code
    assert outcome.err.splitlines()[-1] == f"vqrf: stopped; the same command goes on with what {out} has no row of"
    succeeds(*flags, "--qualities", 0, 100)
    assert n_measured == 3


@needs_scipy
@needs_matplotlib
def test_the_field_of_several_jobs_is_scored_once(
    run: Path,  # noqa: F811
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []

    def count(field: RadianceField, views: Sequence[View]) -> Evaluation:
        calls.append(len(views))
        return evaluate(field, views)

    monkeypatch.setattr(jobs, "FIELD_SCORES", {})
    monkeypatch.setattr(jobs, "evaluate", count)
    flags = ("bench", "rd", "--runs", run, "--data", data, "--out", tmp_path / "bench", "--presets", "demo", "--runner", "turn")
    rows = json.loads(succeeds(*flags, "--qualities", 0, 100, "--json").out)["rows"]
    assert len(calls) == 3
    assert rows[0]["field_psnr"] == rows[1]["field_psnr"] != rows[0]["psnr"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_photo_that_changed_makes_rows_of_its_own(run: Path, data: Path, tmp_path: Path, split: str) -> None:  # noqa: F811
    conditions = jobs.Conditions(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    before = jobs.Source.of_run(run, data, conditions)
    same = jobs.Source.of_run(run, copy, conditions)
    photo = sorted((copy / split).glob("*.png"))[0]
    with PIL.Image.open(photo) as image:
        changed = np.array(image)
    changed[0, 0, :3] ^= 255
    changed[0, 0, 3:] = 255
    PIL.Image.fromarray(changed).save(photo)
    after = jobs.Source.of_run(run, copy, conditions)
    keys = [source.job("demo", 50, conditions).key for source in (before, same, after)]
    assert keys[0] == keys[1] != keys[2]
    contests = [source.contests(["demo"], conditions)[0] for source in (before, same, after)]
    assert contests[0].key == contests[1].key != contests[2].key
    is_learnt_from = split == "train"
    assert (contests[0].mark != contests[2].mark) == is_learnt_from  # what is only scored anew is not made anew


def test_bench_refuses_what_cannot_be(run: Path, data: Path, tmp_path: Path) -> None:  # noqa: F811
    flags = ("bench", "rd", "--runs", run, "--data", data, "--out", tmp_path / "out", "--presets", "demo", "--quiet")
    refuses(*flags, "--qualities", 101, saying=("quality: expected 0..100, got 101",))
    refuses(*flags, "--every", 0, saying=("expected --every at least 1",))
    refuses(*flags, "--qualities", 50, 50, saying=("come twice",))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "rd.csv").write_text("mine\n")
    refuses(*flags, "--runner", "turn", saying=(tmp_path / "out" / "rd.csv", "line 1"))
    assert (tmp_path / "out" / "rd.csv").read_text() == "mine\n"
