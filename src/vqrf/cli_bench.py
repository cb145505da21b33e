"""The verb `bench`: curves of rate and distortion, measured and drawn."""

from __future__ import annotations

import json
import time
import zlib
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from vqrf.bitstream import decode, encode
from vqrf.evaluate import evaluate
from vqrf.field import expand
from vqrf.kernels import has_native
from vqrf.storage import Checkpoint, checksum, fingerprint
from vqrf.terminal import Common, CommonFlags, UsageError, load_like, load_run, say

if TYPE_CHECKING:
    from vqrf.bench import Job, Row
    from vqrf.presets import Config

ROWS_FILE, PLOT_FILE = "rd.csv", "rd.png"


@dataclass(frozen=True)
class Bench:
    """Measure and draw how size and quality go together; the same command goes on after it was killed."""

    kind: tyro.conf.Positional[Literal["rd"]]
    """rd: rate against distortion."""
    runs: tuple[Path, ...]
    """Run folders that `train` wrote."""
    data: Path
    """Dataset folder, or the folder of datasets that are named as the runs' scenes are."""
    out: Path
    """Folder for rd.csv and rd.png."""
    presets: tuple[Literal["compact", "paper", "demo"], ...] = ("compact", "paper")
    """Each is a curve."""
    qualities: tuple[float, ...] = (10, 25, 40, 60, 80, 100)
    """0..100: each is a point of every curve."""
    steps: int | None = None
    """Steps of joint tuning, if not the preset's."""
    every: int = 1
    """Of the test views, score every n-th."""
    runner: Literal["auto", "ray", "turn"] = "auto"
    """Where the jobs run: on Ray where it is installed, or one after the other."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""
    common: CommonFlags = Common()

    def run(self) -> None:
        from vqrf import bench

        jobs = list_jobs(self)
        runner = {"auto": bench.choose_runner(), "ray": bench.run_on_ray, "turn": bench.run_in_turn}[self.runner]
        self.out.mkdir(parents=True, exist_ok=True)
        rows_file, quiet = self.out / ROWS_FILE, self.common.quiet or self.as_json
        if self.common.overwrite:
            rows_file.unlink(missing_ok=True)
        common = self.common
        if not common.threads and runner is bench.run_on_ray:
            common = replace(common, threads=1)  # what a task of Ray takes; in turn, a job has the whole machine
        work = partial(measure, steps=self.steps, every=self.every, common=common, work=self.out.resolve())
        try:
            rows = bench.run_jobs(jobs, rows_file, work, runner, on_row=lambda row: say(quiet, f"{describe(row)}"))
        except ValueError as error:
            raise UsageError(str(error)) from None
        bench.draw(rows, self.out / PLOT_FILE)
        differences = bench.differences(rows)
        if self.as_json:
            print(json.dumps({"rows": [asdict(row) for row in rows], "differences": differences}, indent=2))
        elif not self.common.quiet:
            print_tables(rows, differences)
            print(f"wrote {rows_file} and {self.out / PLOT_FILE}")


def list_jobs(verb: Bench) -> list[Job]:
    """Every scene at every quality of every preset, refused before anything is measured if one cannot be."""
    from vqrf.bench import Job

    jobs = []
    for run in verb.runs:
        field, notes = load_run(run)
        scene = Path(str(notes.get("scene", run.name))).name
        folder = verb.data / scene if (verb.data / scene).is_dir() else verb.data
        density = checksum({"density": field.density}, "")
        for preset in verb.presets:
            for quality in verb.qualities:
                try:
                    config = settings_of(preset, quality, verb.steps)
                except ValueError as error:
                    raise UsageError(str(error)) from None
                facts = [asdict(config), verb.common.seed, verb.every, density]
                settings = f"{zlib.crc32(json.dumps(facts, sort_keys=True).encode()):08x}"
                jobs.append(Job(str(run.resolve()), str(folder.resolve()), scene, preset, float(quality), settings))
    if len({job.key for job in jobs}) < len(jobs):
        raise UsageError("--runs, --presets, --qualities: the same scene, preset and quality come twice")
    return jobs


def settings_of(preset: str, quality: float, steps: int | None) -> Config:
    """The settings of a preset at a quality."""
    from vqrf.presets import PRESETS, with_steps
    from vqrf.search import config_at

    base = PRESETS[preset] if steps is None else with_steps(PRESETS[preset], steps)
    return config_at(base, quality)


def measure(job: Job, *, steps: int | None, every: int, common: Common, work: Path) -> Row:
    """Do a job: compress, encode, decode, score. Runs in any process.

    What jobs of a scene have in common is kept in the folder `work`.
    """
    from vqrf.bench import Row
    from vqrf.presets import Checkpoints, compress_with, warmed

    if common.threads and has_native():
        from vqrf.kernels.native import set_threads

        set_threads(common.threads)
    field, notes = load_run(Path(job.run))
    scene = load_like(notes, Path(job.data), ("train", "test"), every=every)
    config = settings_of(job.preset, job.quality, steps)
    start = time.perf_counter()
    density = checksum({"density": field.density}, "")
    mark = fingerprint(scene, {**asdict(warmed(config)), "seed": common.seed, "density": density})
    checkpoints = Checkpoints(warm=Checkpoint(work / f"{mark}.warm", mark))
    small = compress_with(config, field, scene, seed=common.seed, device=common.device, checkpoints=checkpoints)
    seconds = round(time.perf_counter() - start, 1)
    metadata: dict[str, Any] = {"training": notes}
    data = encode(replace(small, metadata=metadata))
    before, after = (evaluate(one.with_background(scene.background), scene.test) for one in (field, expand(decode(data))))
    scores = round(after.psnr, 4), round(after.ssim, 5), round(before.psnr, 4)
    return Row(*job.key, len(data), *scores, seconds)


def describe(row: Row) -> str:
    return f"{row.scene}, {row.preset} at {row.quality:g}: {row.n_bytes} bytes, {row.psnr:.2f} dB, {row.seconds:.0f} s"


def print_tables(rows: list[Row], differences: list[dict[str, Any]]) -> None:
    """The points, and the rate difference of every two curves."""
    console = Console()
    table = Table("scene", "preset", *("quality", "bytes", "MB", "PSNR", "SSIM", "change"), box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        scores = f"{row.psnr:.2f}", f"{row.ssim:.4f}", f"{row.psnr - row.field_psnr:+.2f}"
        table.add_row(row.scene, row.preset, f"{row.quality:g}", str(row.n_bytes), f"{row.n_bytes / 1e6:.3f}", *scores)
    console.print(table)
    if differences:
        table = Table("scene", "curve", "against", "rate difference", box=None)
        for pair in differences:
            percent = pair["rate_difference"]
            text = "none" if percent is None else f"{percent:+.1f} %"
            table.add_row(pair["scene"], pair["curve"], pair["anchor"], text)
        console.print(table)
