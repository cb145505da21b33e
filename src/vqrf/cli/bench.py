"""The verb `bench`: curves of rate and distortion, measured and drawn; other ways to compress, each against ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.table import Table

from vqrf.cli.progress import telling_way_on
from vqrf.cli.terminal import Common, CommonFlags, UsageError, expect_counts, print_json, print_whole, say
from vqrf.compression.goal import PresetName

if TYPE_CHECKING:
    from vqrf.bench.curves import Contest, ContestRow, Job, Row
    from vqrf.bench.jobs import Conditions

ROWS_FILE, PLOT_FILE = "rd.csv", "rd.png"
CONTESTS_FILE = "alternatives.csv"
PRESETS_OF_KIND: dict[str, tuple[PresetName, ...]] = {"rd": ("compact", "paper"), "alternatives": ("compact",)}


@dataclass(frozen=True)
class Bench:
    """Measure and draw how size and quality go together; the same command goes on after it was killed."""

    kind: tyro.conf.Positional[Literal["rd", "alternatives"]]
    """rd: rate against distortion. alternatives: Re:NeRF's pruning of voxels, or CCNeRF's truncation of a run that holds
    factors, each against ours at equal bytes."""
    runs: tuple[Path, ...]
    """Run folders that `train` wrote."""
    data: Path
    """Dataset folder, or the folder of datasets that are named as the runs' scenes are."""
    out: Path
    """Folder for rd.csv and rd.png; or for alternatives.csv and the files that it is about."""
    presets: tuple[PresetName, ...] = ()
    """Each is a curve, or what alternatives are measured against; compact and paper, or compact, if not given."""
    qualities: tuple[float, ...] = (10, 25, 40, 60, 80, 100)
    """0..100: each is a point of every curve, besides those of the same runs that the folder holds already. Of rd."""
    steps: int | None = None
    """Steps of joint tuning, if not the preset's; all rounds of an alternative together have as many."""
    every: int = 1
    """Of the test views, score every n-th."""
    runner: Literal["auto", "ray", "turn"] = "auto"
    """Where the jobs run: on Ray where it is installed, or one after the other. Alternatives take turns."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""
    common: CommonFlags = Common()

    def run(self) -> None:
        expect_counts(self.every)
        verb = replace(self, presets=self.presets or PRESETS_OF_KIND[self.kind])
        with telling_way_on(lambda: f"with what {self.out} has no row of"):
            if self.kind == "rd":
                bench_curves(verb)
            else:
                bench_alternatives(verb)

    @property
    def is_quiet(self) -> bool:
        return self.common.quiet or self.as_json

    @property
    def conditions(self) -> Conditions:
        from vqrf.bench.jobs import Conditions

        common = self.common
        return Conditions(self.out.resolve(), self.steps, self.every, common.seed, common.device, common.threads)


def bench_curves(verb: Bench) -> None:
    """Measure the curves, and draw and compare them."""
    from vqrf.bench import curves

    try:
        rows = rows_of_curves(verb)
    except ValueError as error:
        raise UsageError(str(error)) from None
    plot_file = verb.out / PLOT_FILE
    curves.draw(rows, plot_file)
    differences = curves.differences(rows)
    if verb.as_json:
        print_json({"rows": [asdict(row) for row in rows], "differences": differences})
    elif not verb.common.quiet:
        print_tables(rows, differences)
        say(False, f"wrote {verb.out / ROWS_FILE} and {plot_file}")


def rows_of_curves(verb: Bench) -> list[Row]:
    """What was asked for, measured where it was not yet, and the other points of these runs."""
    from vqrf.bench import curves, jobs, runners

    conditions, points = verb.conditions, list(product(verb.presets, verb.qualities))
    for point in points:
        jobs.settings_of(*point, verb.steps)  # refused before a run is read
    sources = [jobs.Source.of_run(run, verb.data, conditions) for run in verb.runs]
    asked = [source.job(*point, conditions) for source in sources for point in points]
    expect_apart(asked, "--runs, --presets, --qualities: the same scene, preset and quality come twice")
    by_name: dict[str, runners.Runner] = {
        "auto": runners.choose_runner(),
        "ray": runners.run_on_ray,
        "turn": runners.run_in_turn,
    }
    verb.out.mkdir(parents=True, exist_ok=True)
    rows_file = verb.out / ROWS_FILE
    if verb.common.overwrite:
        rows_file.unlink(missing_ok=True)
    jobs.run_curves(asked, rows_file, conditions, by_name[verb.runner], lambda row: say(verb.is_quiet, describe(row)))
    return jobs.list_points(sources, runners.load_rows(rows_file, curves.Row), conditions)


def bench_alternatives(verb: Bench) -> None:
    """Measure alternatives, and ours at the bytes that each takes."""
    try:
        rows = rows_of_contests(verb)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if verb.as_json:
        print_json({"rows": [asdict(row) for row in rows]})
    elif not verb.common.quiet:
        print_contests(rows)
        say(False, f"wrote {verb.out / CONTESTS_FILE}")


def rows_of_contests(verb: Bench) -> list[ContestRow]:
    """What was asked for, measured where it was not yet."""
    from vqrf.bench import jobs

    conditions = verb.conditions
    for preset in verb.presets:
        jobs.base_of(preset, verb.steps)  # refused before a run is read
    sources = [jobs.Source.of_run(run, verb.data, conditions) for run in verb.runs]
    asked = [contest for source in sources for contest in source.contests(verb.presets, conditions)]
    expect_apart(asked, "--runs, --presets: the same field and preset come twice")
    verb.out.mkdir(parents=True, exist_ok=True)
    rows_file = verb.out / CONTESTS_FILE
    if verb.common.overwrite:
        rows_file.unlink(missing_ok=True)
        for path in (find(job, conditions.work) for job in asked for find in (jobs.file_of, jobs.journal_of)):
            path.unlink(missing_ok=True)
    return jobs.run_contests(asked, rows_file, conditions, lambda row: say(verb.is_quiet, describe_contest(row)))


def expect_apart(asked: Sequence[Job | Contest], reason: str) -> None:
    """Refuse, before anything is measured, jobs of which two have the same row."""
    if len({job.key for job in asked}) < len(asked):
        raise UsageError(reason)


def describe(row: Row) -> str:
    return f"{row.scene}, {row.preset} at {row.quality:g}: {row.n_bytes} bytes, {row.psnr:.2f} dB, {row.seconds:.0f} s"


def print_tables(rows: list[Row], differences: list[dict[str, Any]]) -> None:
    """The points, and the rate difference of every two curves."""
    lines: list[tuple[str, ...]] = []
    for row in rows:
        scores = f"{row.psnr:.2f}", f"{row.ssim:.4f}", f"{row.psnr - row.field_psnr:+.2f}"
        lines.append((row.scene, row.preset, f"{row.quality:g}", *size_of(row.n_bytes), *scores))
    print_table(("scene", "preset", "quality", "bytes", "MB", "PSNR", "SSIM", "change"), lines, n_words=2)
    if differences:
        lines = []
        for pair in differences:
            percent = pair["rate_difference"]
            text = "none" if percent is None else f"{percent:+.1f} %"
            lines.append((pair["scene"], pair["curve"], pair["anchor"], text))
        print_table(("scene", "curve", "against", "rate difference"), lines, n_words=4)


def print_table(heads: Sequence[str], lines: Sequence[Sequence[str]], n_words: int) -> None:
    """Lines below their heads, all columns but the first `n_words` to the right. Nothing is cut off."""
    table = Table(*heads, box=None)
    for number, column in enumerate(table.columns):
        column.overflow = "fold"
        column.justify = "left" if number < n_words else "right"
    for line in lines:
        table.add_row(*line)
    print_whole(table)


def size_of(n_bytes: int) -> tuple[str, str]:
    return str(n_bytes), f"{n_bytes / 1e6:.3f}"


def describe_contest(row: ContestRow) -> str:
    theirs = f"{row.scene}, {row.method} {row.point}: {row.n_bytes} bytes, {row.psnr:.2f} dB"
    ours = f"{row.preset}: {row.ours_n_bytes} bytes, {row.ours_psnr:.2f} dB ({row.difference:+.2f})"
    return f"{theirs}; {ours}; {row.seconds:.0f} s"


def print_contests(rows: Sequence[ContestRow]) -> None:
    lines = []
    for row in rows:
        theirs = row.scene, row.method, row.point, *size_of(row.n_bytes), f"{row.psnr:.2f}"
        lines.append((*theirs, row.preset, *size_of(row.ours_n_bytes), f"{row.ours_psnr:.2f}", f"{row.difference:+.2f}"))
    heads = ("scene", "method", "point", "bytes", "MB", "PSNR", "ours", "bytes", "MB", "PSNR", "difference")
    print_table(heads, lines, n_words=3)
