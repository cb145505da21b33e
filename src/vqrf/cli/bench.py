"""The verb `bench`: curves of rate and distortion, measured and drawn; other ways to compress, each against ours."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro
from rich.table import Table

from vqrf.cli.terminal import FACTORS_FILE, Common, CommonFlags, UsageError, load_like, load_run, print_json, print_whole, say
from vqrf.codec.bitstream import decode, encode
from vqrf.codec.compressed import Compressed
from vqrf.compression.goal import PresetName
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.storage import field_checksum
from vqrf.files import write_atomically
from vqrf.interop import TensorfField, import_tensorf, load_tensorf
from vqrf.kernels import has_native
from vqrf.rendering.evaluate import evaluate
from vqrf.training.checkpoint import Checkpoint

if TYPE_CHECKING:
    from vqrf.bench.alternatives import PruneConfig
    from vqrf.bench.curves import Contest, ContestRow, Job, Row
    from vqrf.compression.preset import Preset
    from vqrf.compression.search import Trial

ROWS_FILE, PLOT_FILE = "rd.csv", "rd.png"
CONTESTS_FILE = "alternatives.csv"
PRESETS_OF_KIND: dict[str, tuple[PresetName, ...]] = {"rd": ("compact", "paper"), "alternatives": ("compact",)}
FIELD_SCORES: dict[str, tuple[float, float]] = {}
"""By the mark of a case: PSNR and SSIM of its field, as a hundred large views take longer than some jobs do."""


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
        verb = replace(self, presets=self.presets or PRESETS_OF_KIND[self.kind])
        if self.kind == "rd":
            bench_curves(verb)
        else:
            bench_alternatives(verb)

    @property
    def is_quiet(self) -> bool:
        return self.common.quiet or self.as_json


def bench_curves(verb: Bench) -> None:
    """Measure the curves, and draw and compare them."""
    from vqrf.bench import curves, runners

    sources = [Source.of_run(*facts) for facts in fields_of(verb)]
    jobs = list_jobs(verb, sources)
    by_name: dict[str, runners.Runner] = {
        "auto": runners.choose_runner(),
        "ray": runners.run_on_ray,
        "turn": runners.run_in_turn,
    }
    runner = by_name[verb.runner]
    verb.out.mkdir(parents=True, exist_ok=True)
    rows_file, common = verb.out / ROWS_FILE, verb.common
    if common.overwrite:
        rows_file.unlink(missing_ok=True)
    if not common.threads and runner is runners.run_on_ray:
        common = replace(common, threads=1)  # what a task of Ray takes; in turn, a job has the whole machine
    work = partial(measure, steps=verb.steps, every=verb.every, common=common, work=verb.out.resolve())
    try:
        runners.run_jobs(jobs, rows_file, curves.Row, work, runner, on_row=lambda row: say(verb.is_quiet, describe(row)))
        rows = list_points(verb, sources, runners.load_rows(rows_file, curves.Row))
    except ValueError as error:
        raise UsageError(str(error)) from None
    curves.draw(rows, verb.out / PLOT_FILE)
    differences = curves.differences(rows)
    if verb.as_json:
        print_json({"rows": [asdict(row) for row in rows], "differences": differences})
    elif not verb.common.quiet:
        print_tables(rows, differences)
        say(False, f"wrote {rows_file} and {verb.out / PLOT_FILE}")


def fields_of(verb: Bench) -> Iterator[tuple[Path, RadianceField, str, str]]:
    """Of each run: its folder, its field, its dataset folder and the name of its scene."""
    for run in verb.runs:
        field, notes = load_run(run)
        scene = Path(str(notes.get("scene", run.name))).name
        folder = verb.data / scene if (verb.data / scene).is_dir() else verb.data
        yield run, field, str(folder.resolve()), scene


def mark_of(*facts: Any) -> str:
    """A short name of everything that a result depends on."""
    return f"{zlib.crc32(json.dumps(facts, sort_keys=True).encode()):08x}"


@dataclass(frozen=True)
class Source:
    """What the points of a run have in common."""

    run: str
    data: str
    scene: str
    field: str
    """The checksum of its field."""

    @classmethod
    def of_run(cls, run: Path, field: RadianceField, folder: str, scene: str) -> Source:
        return cls(str(run.resolve()), folder, scene, field_checksum(field))

    def job(self, verb: Bench, preset: str, quality: float) -> Job:
        from vqrf.bench.curves import Job

        settings = mark_of(asdict(settings_of(preset, quality, verb.steps)), verb.common.seed, verb.every, self.field)
        return Job(self.run, self.data, self.scene, preset, float(quality), settings)


def list_jobs(verb: Bench, sources: Sequence[Source]) -> list[Job]:
    """Every scene at every quality of every preset, refused before anything is measured if one cannot be."""
    try:
        jobs = [source.job(verb, *point) for source in sources for point in product(verb.presets, verb.qualities)]
    except ValueError as error:
        raise UsageError(str(error)) from None
    if len({job.key for job in jobs}) < len(jobs):
        raise UsageError("--runs, --presets, --qualities: the same scene, preset and quality come twice")
    return jobs


def list_points(verb: Bench, sources: Sequence[Source], rows: Sequence[Row]) -> list[Row]:
    """Those of the rows that are points of these runs, at whatever preset and quality they were asked for."""
    found = []
    for source in sources:
        of_scene = [row for row in rows if row.scene == source.scene and row.preset in get_args(PresetName)]
        found += [row for row in of_scene if row.key == source.job(verb, row.preset, row.quality).key]
    return found


def settings_of(preset: str, quality: float, steps: int | None) -> Preset[Any]:
    """The settings of a preset at a quality."""
    return base_of(preset, steps).at_quality(quality)


def base_of(preset: str, steps: int | None) -> Preset[Any]:
    """The settings of a preset, with so many steps of tuning if they are given."""
    from vqrf.compression.presets import PRESETS

    return PRESETS[preset] if steps is None else PRESETS[preset].with_steps(steps)


@dataclass(frozen=True)
class Case:
    """What a job is about.

    Attributes:
      work: a folder for what jobs of a scene have in common.
      mark: of the field and of the views that score it.
    """

    field: RadianceField
    notes: dict[str, Any]
    scene: Scene
    common: Common
    work: Path
    mark: str

    @classmethod
    def of_job(cls, job: Job | Contest, every: int, common: Common, work: Path) -> Case:
        """Read what the job names, in whichever process it runs, and take the threads that it may."""
        if common.threads and has_native():
            from vqrf.kernels.native import set_threads

            set_threads(common.threads)
        field, notes = load_run(Path(job.run))
        scene = load_like(notes, Path(job.data), ("train", "test"), every=every)
        mark = mark_of(job.data, every, field_checksum(field))
        return cls(field, notes, scene, common, work, mark)

    @property
    def metadata(self) -> dict[str, Any]:
        return {"training": self.notes}

    def compress(self, config: Preset[Any]) -> Compressed:
        from vqrf.compression.job import Job
        from vqrf.compression.tuning import Checkpoints

        job = Job(self.field, self.scene, config, notes=self.notes, seed=self.common.seed, device=self.common.device)
        checkpoints = Checkpoints()
        if "warm" in config.stages():  # what files at any quality have in common
            mark = job.fingerprint_of_tuning(config, "warm")
            checkpoints["warm"] = Checkpoint(self.work / f"{mark}.warm", mark)
        return job.compress(config, checkpoints)

    def encode(self, small: Compressed) -> bytes:
        return encode(replace(small, metadata=self.metadata))

    def score(self, field: RadianceField) -> tuple[float, float]:
        """PSNR and SSIM on the test views."""
        found = evaluate(field.with_background(self.scene.background), self.scene.test)
        return round(found.psnr, 4), round(found.ssim, 5)

    def score_field(self) -> tuple[float, float]:
        """`score` of the field before compression, which a process measures once for all jobs."""
        if self.mark not in FIELD_SCORES:
            FIELD_SCORES[self.mark] = self.score(self.field)
        return FIELD_SCORES[self.mark]


def measure(job: Job, *, steps: int | None, every: int, common: Common, work: Path) -> Row:
    """Do a job: compress, encode, decode, score. Runs in any process.

    What jobs of a scene have in common is kept in the folder `work`.
    """
    from vqrf.bench.curves import Row

    case = Case.of_job(job, every, common, work)
    start = time.perf_counter()
    small = case.compress(settings_of(job.preset, job.quality, steps))
    seconds = round(time.perf_counter() - start, 1)
    data = case.encode(small)
    (before, _), (psnr, ssim) = case.score_field(), case.score(expand(decode(data)))
    return Row(*job.key, len(data), psnr, ssim, before, seconds)


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


# ---------------------------------------------------------------------------------------------------------- alternatives


def bench_alternatives(verb: Bench) -> None:
    """Measure alternatives, and ours at the bytes that each takes."""
    from vqrf.bench import curves, runners

    try:
        jobs = list_contests(verb)
    except ValueError as error:
        raise UsageError(str(error)) from None
    verb.out.mkdir(parents=True, exist_ok=True)
    rows_file, out = verb.out / CONTESTS_FILE, verb.out.resolve()
    if verb.common.overwrite:
        for path in (rows_file, *(path for job in jobs for path in (file_of(job, out), journal_of(job, out)))):
            path.unlink(missing_ok=True)
    work = partial(compete, steps=verb.steps, every=verb.every, common=verb.common, work=out)
    try:
        rows = runners.run_jobs(
            jobs,
            rows_file,
            curves.ContestRow,
            work,
            runners.run_in_turn,
            on_row=lambda row: say(verb.is_quiet, describe_contest(row)),
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    if verb.as_json:
        print_json({"rows": [asdict(row) for row in rows]})
    elif not verb.common.quiet:
        print_contests(rows)
        say(False, f"wrote {rows_file}")


def list_contests(verb: Bench) -> list[Contest]:
    """Of every run what can be done to it, in order: truncations where it holds factors, and else rounds of pruning."""
    from vqrf.bench.alternatives import FACTOR_STEPS, ROUNDS
    from vqrf.bench.curves import Contest
    from vqrf.compression.preset import OWN_QUALITY

    contests = []
    for run, field, folder, scene in fields_of(verb):
        facts = verb.common.seed, field_checksum(field)
        if (run / FACTORS_FILE).exists():
            method, points = "truncate", truncations(load_tensorf(run / FACTORS_FILE))
            mark = mark_of(FACTOR_STEPS, *facts)
        else:
            method, points = "prune", [str(number + 1) for number in range(ROUNDS)]
            mark = mark_of(asdict(prune_config(verb.steps)), *facts)
        for preset in verb.presets:
            settings = mark_of(asdict(settings_of(preset, OWN_QUALITY, verb.steps)), verb.every, *facts)
            contests += [Contest(str(run.resolve()), folder, scene, method, point, preset, mark, settings) for point in points]
    if len({contest.key for contest in contests}) < len(contests):
        raise UsageError("--runs, --presets: the same field and preset come twice")
    return contests


def prune_config(steps: int | None) -> PruneConfig:
    """The settings of a round, where all of them have so many steps."""
    from vqrf.bench.alternatives import ROUNDS, PruneConfig

    config = PruneConfig()
    return config if steps is None else replace(config, tuning=replace(config.tuning, steps=steps // ROUNDS))


def truncations(made: TensorfField) -> list[str]:
    """The components that are left, of density and of features, from most to fewest."""
    from vqrf.bench.alternatives import SHARES, components_at

    counts = [components_at(made.factors, share) for share in SHARES]
    return list(dict.fromkeys(f"{n_density}+{n_features}" for n_density, n_features in counts))


def file_of(job: Contest, work: Path) -> Path:
    """The alternative's file: a .vqrf, or factors in an .xz."""
    suffix = "vqrf" if job.method == "prune" else "xz"
    return work / f"{job.scene}-{job.method}-{job.point}-{job.mark}.{suffix}"


def journal_of(job: Contest, work: Path) -> Path:
    """Where the search for our files is kept."""
    return work / f"{job.scene}-{job.preset}-{job.settings}.search.json"


def compete(job: Contest, *, steps: int | None, every: int, common: Common, work: Path) -> ContestRow:
    """Do a contest: the alternative's file, what it decodes to, and the best of ours that is no larger."""
    from vqrf.bench.curves import ContestRow

    case = Case.of_job(job, every, common, work)
    start = time.perf_counter()
    theirs = expand(decode(write_round(job, case, steps))) if job.method == "prune" else write_truncated(job, case)
    n_bytes = file_of(job, work).stat().st_size
    (psnr, _), (before, _) = case.score(theirs), case.score_field()
    ours = search_ours(n_bytes, job, case, steps)
    seconds = round(time.perf_counter() - start, 1)
    ours_psnr = round(ours.psnr, 4)
    return ContestRow(*job.key, n_bytes, psnr, ours.n_bytes, ours_psnr, round(ours_psnr - psnr, 4), before, seconds)


def write_round(job: Contest, case: Case, steps: int | None) -> bytes:
    """The file of a round, made if it is not there, and those of the rounds before it."""
    from vqrf.bench.alternatives import prune_round

    path, number = file_of(job, case.work), int(job.point)
    if not path.exists():
        before = decode(write_round(replace(job, point=str(number - 1)), case, steps)) if number > 1 else None
        seed, device = case.common.seed + number, case.common.device  # so that rounds do not see the same rays
        small = prune_round(case.field, case.scene, before, prune_config(steps), seed=seed, device=device)
        write_atomically(path, case.encode(small))
    return path.read_bytes()


def write_truncated(job: Contest, case: Case) -> RadianceField:
    """The field that the file of a truncation decodes to, written if it is not there."""
    from vqrf.bench.alternatives import decode_factors, encode_factors, truncated

    path = file_of(job, case.work)
    if not path.exists():
        made = load_tensorf(Path(job.run) / FACTORS_FILE)
        n_density, n_features = map(int, job.point.split("+"))
        small = truncated(made.factors, n_density, n_features)
        write_atomically(path, encode_factors(replace(made, factors=small), import_tensorf(made).field.allowed))
    return decode_factors(path.read_bytes(), path)


def search_ours(n_bytes: int, job: Contest, case: Case, steps: int | None) -> Trial:
    """The best of our files that has at most so many bytes; the smallest where none has."""
    from vqrf.compression.search import FieldDial, Journal, Target, search

    dial = FieldDial(
        base=base_of(job.preset, steps),
        tune=case.compress,
        score=lambda small: case.score(expand(small))[0],
        metadata=case.metadata,
    )
    journal = Journal(journal_of(job, case.work), job.settings)
    try:
        return search(dial, Target("size", float(n_bytes)), journal).trial
    except ValueError:
        if not journal.trials or min(trial.n_bytes for trial in journal.trials) <= n_bytes:
            raise
        return min(journal.trials, key=lambda trial: trial.n_bytes)


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
