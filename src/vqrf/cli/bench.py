"""The verb `bench`: curves of rate and distortion, measured and drawn; other ways to compress, each against ours."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro
from rich.table import Table

from vqrf import __version__
from vqrf.cli.progress import telling_way_on
from vqrf.cli.terminal import Common, CommonFlags, UsageError, expect_counts, print_json, print_whole, say
from vqrf.compression.goal import PresetName
from vqrf.files import write_atomically

if TYPE_CHECKING:
    from vqrf.bench import runners
    from vqrf.bench.curves import Contest, ContestRow, Job, Row
    from vqrf.bench.jobs import Conditions
    from vqrf.bench.store import Store
    from vqrf.bench.tables import Scope

ROWS_FILE, PLOT_FILE = "rd.csv", "rd.png"
CONTESTS_FILE = "alternatives.csv"
Base = Literal["dvgo", "plenoxels", "tensorf"]
Size = Literal["demo", "quick", "standard", "large"]
TableName = Literal["main", "ablation", "sensitivity", "sections", "alternatives", "base"]
BOTH: tuple[PresetName, ...] = ("compact", "paper")
PRESETS_OF_KIND: dict[str, tuple[PresetName, ...]] = {"rd": BOTH, "alternatives": ("compact",), "main": BOTH, "sections": BOTH}


@dataclass(frozen=True)
class Trained:
    """For table: which fields it shows.

    Attributes:
      scenes: names of the dataset folders inside --data.
      bases: kinds of field. Without it, the tables main, sections and base show all three, the others dvgo alone.
      size: preset of `train` for these fields.
      hold_out: add a column: the PSNR for fields that are trained without a sector of the cameras, on its photos. This trains
        and compresses everything a second time. For main, ablation, sensitivity and base.
    """

    scenes: tuple[str, ...] = ("lego",)
    bases: tuple[Base, ...] = ()
    size: Size = "quick"
    hold_out: Literal["sector"] | None = None


LIKE_THE_PAPER = Trained()
TrainedFlags = Annotated[Trained, tyro.conf.arg(name="of a table"), tyro.conf.OmitArgPrefixes]
SECTOR_FACT = (
    "PSNR, sector held out: of the same, made of fields that learnt from none of an eighth of the cameras, side by side, on "
    "the photos of these. Such a field learns from all other photos of the dataset, its own test photos included."
)
BASES: tuple[Base, ...] = ("dvgo", "plenoxels", "tensorf")


@dataclass(frozen=True)
class Bench:
    """Measure and plot size against quality, or make the tables of a paper. If it is stopped, the same command continues."""

    kind: tyro.conf.Positional[Literal["rd", "alternatives", "table"]]
    """rd: curves of size against PSNR (rate-distortion).
    alternatives: Re:NeRF's pruning, or, for a run of tensorf, CCNeRF's truncation, against vqrf at equal bytes.
    table: one table of a paper; this also trains its fields."""
    data: Path
    """Dataset folder, or a folder that holds a dataset for each scene, under its name."""
    out: str
    """Folder for the results: rd.csv and rd.png; or alternatives.csv and its files; or a table and all that it needs.
    For table, it may be a URL that fsspec knows, such as s3://bucket/tables."""
    table: tyro.conf.Positional[TableName | None] = None
    """Which table; only after the word table."""
    runs: tuple[Path, ...] = ()
    """Run folders that `train` wrote. For rd and alternatives."""
    presets: tuple[PresetName, ...] = ()
    """Presets of `compress`.
    rd draws a curve for each; without it, for compact and paper.
    alternatives compares with each; without it, with compact."""
    qualities: tuple[float, ...] = (10, 25, 40, 60, 80, 100)
    """For rd: which points of each curve to measure, 0 to 100. Points of these runs that the folder already holds stay."""
    steps: int | None = None
    """Number of tuning steps; without it, the preset's. An alternative takes as many, in all its rounds together."""
    every: int = 1
    """Score only every n-th test view."""
    runner: Literal["auto", "ray", "turn"] = "auto"
    """How jobs run: on Ray, or one after the other (turn). auto: on Ray if it is installed. Alternatives always take turns."""
    ray: str | None = None
    """Address of the Ray cluster that runs the jobs, such as 10.0.0.1:6379. All its machines must see the same folders, but for
    --out if it is a URL."""
    trained: TrainedFlags = LIKE_THE_PAPER
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""
    common: CommonFlags = Common()

    def run(self) -> None:
        expect_counts(self.every)
        self._expect_what_it_is_about()
        verb = replace(self, presets=self.presets or PRESETS_OF_KIND.get(self.table or self.kind, ()))
        with telling_way_on(lambda: f"with what {self.out} has no row of"):
            if self.kind == "rd":
                bench_curves(verb)
            elif self.kind == "table":
                bench_table(verb)
            else:
                bench_alternatives(verb)

    def _expect_what_it_is_about(self) -> None:
        if (self.kind == "table") != (self.table is not None):
            raise UsageError(f"expected a table of {', '.join(get_args(TableName))} after the word table, and else none")
        if self.kind == "table" and self.runs:
            raise UsageError("--runs: a table trains its own fields; give --scenes")
        if self.kind != "table" and not self.runs:
            raise UsageError("--runs: expected run folders that `vqrf train` wrote")
        if self.kind != "table" and self.store.url:
            raise UsageError(f"--out: expected a folder, got {self.out}; only tables are shared by a URL")
        if self.trained.hold_out and self.table not in (with_column := ("main", "ablation", "sensitivity", "base")):
            raise UsageError(f"--hold-out: adds a column to the tables {', '.join(with_column)}, and to no other")

    def choose_runner(self) -> runners.Runner:
        """Who does the jobs."""
        from vqrf.bench import runners

        if self.ray is not None:
            return partial(runners.run_on_ray, address=self.ray)
        return {"auto": runners.choose_runner(), "ray": runners.run_on_ray, "turn": runners.run_in_turn}[self.runner]

    @property
    def is_quiet(self) -> bool:
        return self.common.quiet or self.as_json

    @property
    def conditions(self) -> Conditions:
        from vqrf.bench.jobs import Conditions

        common = self.common
        work = self.store.folder
        return Conditions(work, self.steps, self.every, common.seed, common.device, common.threads, self.store.url)

    @property
    def store(self) -> Store:
        """Where results are, and where they are shared."""
        from vqrf.bench.store import store_of

        return store_of(self.out)

    @property
    def folder(self) -> Path:
        """The folder for the results, as it is told."""
        return self.store.folder if "://" in self.out else Path(self.out)


def bench_curves(verb: Bench) -> None:
    """Measure the curves, and draw and compare them."""
    from vqrf.bench import curves

    try:
        rows = rows_of_curves(verb)
    except ValueError as error:
        raise UsageError(str(error)) from None
    plot_file = verb.folder / PLOT_FILE
    curves.draw(rows, plot_file)
    differences = curves.differences(rows)
    if verb.as_json:
        print_json({"rows": [asdict(row) for row in rows], "differences": differences})
    elif not verb.common.quiet:
        print_tables(rows, differences)
        say(False, f"wrote {verb.folder / ROWS_FILE} and {plot_file}")


def rows_of_curves(verb: Bench) -> list[Row]:
    """What was asked for, measured where it was not yet, and the other points of these runs."""
    from vqrf.bench import curves, jobs, runners

    conditions, points = verb.conditions, list(product(verb.presets, verb.qualities))
    for point in points:
        jobs.settings_of(*point, verb.steps)  # refused before a run is read
    sources = [jobs.Source.of_run(run, verb.data, conditions) for run in verb.runs]
    asked = [source.job(*point, conditions) for source in sources for point in points]
    expect_apart(asked, "--runs, --presets, --qualities: the same scene, preset and quality come twice")
    verb.folder.mkdir(parents=True, exist_ok=True)
    rows_file = verb.folder / ROWS_FILE
    if verb.common.overwrite:
        rows_file.unlink(missing_ok=True)
    jobs.run_curves(asked, rows_file, conditions, verb.choose_runner(), lambda row: say(verb.is_quiet, describe(row)))
    return jobs.list_points(sources, runners.load_rows(rows_file, curves.Row), conditions)


def bench_table(verb: Bench) -> None:
    """Train what is missing, make what is missing, and write the page."""
    from vqrf.bench import runners, tables

    assert verb.table is not None
    verb.folder.mkdir(parents=True, exist_ok=True)
    store = verb.store
    store.expect_writable()
    rows_files = [verb.folder / name for name in (tables.FIELDS_FILE, tables.FILES_FILE, CONTESTS_FILE)]
    if verb.common.overwrite:
        store.remove(*rows_files)
    store.fetch(*rows_files)
    trained, has_all = verb.trained, verb.table in ("main", "sections", "base")
    runner, conditions = verb.choose_runner(), verb.conditions
    if not conditions.threads and runner is not runners.run_in_turn:
        conditions = replace(conditions, threads=1)  # what a task of Ray takes
    scope = tables.Scope(
        data=verb.data,
        scenes=trained.scenes,
        bases=trained.bases or (BASES if has_all else ("dvgo",)),
        size=trained.size,
        presets=verb.presets,
        conditions=conditions,
        runner=runner,
        tell=lambda line: say(verb.is_quiet, line),
    )
    try:
        heads, lines, remarks = lines_of_table(verb, scope)
    except ValueError as error:
        raise error if type(error) is not ValueError else UsageError(str(error)) from None
    page = verb.folder / f"{verb.table}.md"
    write_atomically(page, tables.page_of(verb.table, [*facts_of(verb), *remarks], heads, lines).encode())
    store.send(page, page.with_suffix(".png"))
    if verb.as_json:
        print_json({"rows": [dict(zip(heads, line, strict=True)) for line in lines], "remarks": remarks})
    elif not verb.common.quiet:
        print_table(heads, lines, n_words=3)
        for line in (*remarks, f"wrote {verb.out}/{page.name}" if store.url else f"wrote {page}"):
            say(False, line)


def lines_of_table(verb: Bench, scope: Scope) -> tuple[tuple[str, ...], list[tuple[str, ...]], list[str]]:
    """Heads and lines of a table, and remarks about them, what is missing done before; files are drawn too."""
    from vqrf.bench import curves, tables

    assert verb.table is not None
    if verb.table == "alternatives":
        return *lines_of_contests(rows_of_contests(replace(verb, runs=tuple(tables.runs_of(scope))))), []
    remarks: list[str] = []
    if verb.table == "base":
        heads, lines = tables.lines_of_fields([row for _, row in tables.rows_of_fields(scope)])
    else:
        rows = tables.rows_of_files(scope, verb.table)
        curves.draw(tables.points_of(rows), verb.folder / f"{verb.table}.png")
        heads, lines = tables.lines_of(verb.table, rows)
        remarks = tables.remarks_of(verb.table, rows)
    if verb.trained.hold_out is not None:
        heads, lines = tables.with_sector(heads, lines, scope, verb.table)
    return heads, lines, remarks


def facts_of(verb: Bench) -> list[str]:
    """What a page says above its table."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    steps = "" if verb.steps is None else f", {verb.steps} steps of tuning"
    return [
        f"Made by `vqrf bench table {verb.table}` of vqrf {__version__} on {date.today().isoformat()}, {machine}; "
        f"fields trained as {verb.trained.size}{steps}, seed {verb.common.seed}, every test view of {verb.every}.",
        "Bytes are those of one file that decodes alone, unless a line says that they are computed. PSNR (dB) and SSIM are "
        "means over test views. Ratio: bytes of the field as float32 by those of the file.",
        *([] if verb.trained.hold_out is None else [SECTOR_FACT]),
    ]


def bench_alternatives(verb: Bench) -> None:
    """Measure alternatives, and ours at the bytes that each takes."""
    try:
        rows = rows_of_contests(verb)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if verb.as_json:
        print_json({"rows": [asdict(row) for row in rows]})
    elif not verb.common.quiet:
        print_table(*lines_of_contests(rows), n_words=3)
        say(False, f"wrote {verb.folder / CONTESTS_FILE}")


def rows_of_contests(verb: Bench) -> list[ContestRow]:
    """What was asked for, measured where it was not yet."""
    from vqrf.bench import jobs

    conditions = verb.conditions
    for preset in verb.presets:
        jobs.base_of(preset, verb.steps)  # refused before a run is read
    sources = [jobs.Source.of_run(run, verb.data, conditions) for run in verb.runs]
    asked = [contest for source in sources for contest in source.contests(verb.presets, conditions)]
    expect_apart(asked, "--runs, --presets: the same field and preset come twice")
    verb.folder.mkdir(parents=True, exist_ok=True)
    rows_file, store = verb.folder / CONTESTS_FILE, verb.store
    made = {job.key: [find(job, conditions.work) for find in (jobs.file_of, jobs.journal_of)] for job in asked}
    every = [path for paths in made.values() for path in paths]
    if verb.common.overwrite:
        store.remove(rows_file, *every)
    store.fetch(rows_file, *(path for path in every if not path.exists()))

    def take(row: ContestRow) -> None:
        store.send(*made[row.key], rows_file)
        say(verb.is_quiet, describe_contest(row))

    return jobs.run_contests(asked, rows_file, conditions, take)


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


def lines_of_contests(rows: Sequence[ContestRow]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and lines of a table, as texts."""
    lines: list[tuple[str, ...]] = []
    for row in rows:
        theirs = row.scene, row.method, row.point, *size_of(row.n_bytes), f"{row.psnr:.2f}"
        lines.append((*theirs, row.preset, *size_of(row.ours_n_bytes), f"{row.ours_psnr:.2f}", f"{row.difference:+.2f}"))
    return ("scene", "method", "point", "bytes", "MB", "PSNR", "ours", "our bytes", "our MB", "our PSNR", "difference"), lines
