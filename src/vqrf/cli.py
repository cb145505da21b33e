"""Words -> calls. Every verb is a dataclass of its flags and a `run`; what it does is in the other rooms.

Errors that a user can cause end in one line on the error stream and exit code 2; nothing half-written is left.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from vqrf import __version__, cli_view
from vqrf.bitstream import encode, sections, verify
from vqrf.builtin import built_in_scene
from vqrf.cli_bench import Bench
from vqrf.cli_convert import (
    AS_THEY_ARE,
    PHOTOS,
    Convert,
    ImportFlags,
    OwnFlags,
    facts_of_checkpoint,
    load_field_of,
    load_to_compress,
)
from vqrf.cli_view import Export, Render, showing
from vqrf.compressed import CODED, KEPT, PRUNED, CompressedField
from vqrf.evaluate import SSIM_WINDOW, Evaluation, ViewScore, evaluate
from vqrf.field import RadianceField, expand
from vqrf.files import write_atomically
from vqrf.interop import is_checkpoint
from vqrf.kernels import has_native
from vqrf.lint import inspect, refusals
from vqrf.report import ReportRow, write_report
from vqrf.scene import Background, Scene, SceneError, View, load_scene, save_scene
from vqrf.storage import Checkpoint, StorageError, checksum, fingerprint, save_field
from vqrf.terminal import (
    FIELD_FILE,
    Common,
    CommonFlags,
    UsageError,
    bars_on_terminal,
    expect_writable,
    is_device,
    load_compressed,
    load_like,
    load_run,
    named,
    progress_bar,
    read_bytes,
    say,
)

if TYPE_CHECKING:
    from vqrf.compress import CompressConfig
    from vqrf.train import Progress as TrainProgress
    from vqrf.train import Watch

EXIT_BAD_INPUT = 2
CONFIG_FILE, METRICS_FILE = "config.json", "metrics.jsonl"
METRICS_STEPS = 100
REPORT_VIEWS = 4
WIDEST, WIDEST_VIEWS = 0.888888, (ViewScore("", 88.88888, 0.888888, 0.0),)
"""A share and scores that are as long in a file as any: its size is known before they are."""
MEGABYTE = 10**6
MAX_SEED = (1 << 63) - 1
"""The largest that PyTorch's generator takes."""

EXTRAS = {
    "torch": "this needs PyTorch: pip install 'vqrf[train]'",
    "av": "this needs PyAV: pip install 'vqrf[video]'",
    "matplotlib": "this needs matplotlib: pip install 'vqrf[bench]'",
    "scipy": "this needs SciPy: pip install 'vqrf[bench]'",
    "ray": "this needs Ray: pip install 'vqrf[ray]'",
}
"""What to say where an optional package is missing."""

NO_CORE = "vqrf: the compiled core is missing: using the slow reference kernels"


@dataclass(frozen=True)
class Train:
    """Train a field on the photos of a dataset folder; the same command goes on after it was killed."""

    data: tyro.conf.Positional[Path]
    """Dataset folder (Blender transforms_*.json)."""
    out: Path
    """Run folder to write."""
    preset: Literal["demo", "quick", "standard", "large"] = "standard"
    """Size of the images and the grid: 200/112^3, 400/128^3, 800/160^3, 800/256^3."""
    base: Literal["dvgo", "plenoxels"] = "dvgo"
    """Kind of field. plenoxels: harmonics and no network; quick is 400/128^3, standard 800/256^3, and there are no others."""
    downscale: int = 0
    """Average n x n pixels to one; 0: what the preset's image size asks for."""
    background: Background = "white"
    """What stands behind transparent pixels."""
    view: bool = False
    """Show the field in the browser while it is trained."""
    common: CommonFlags = Common()

    def run(self) -> None:
        preset = self.preset if self.base == "dvgo" else f"{self.base}-{self.preset}"
        scene, downscale = load_sized(self.data, preset, self.downscale, self.background)
        images = {"downscale": downscale, "background": self.background}
        with showing(scene.name) if self.view else nullcontext() as watch:
            train_into(self.out, scene, preset, images, self.common, watch)


@dataclass(frozen=True)
class Goal:
    """Flags that name a quality or a size instead of settings; at most one of them.

    Attributes:
      quality: 0..100 on the preset's dial; its own settings are at 60.
      target_size: bytes of the file, such as 1MB or 500kB: 95 to 100 % of them are used.
      max_drop: dB below the trained field that the file may be.
      target_psnr: dB that the file reaches.
    """

    quality: float | None = None
    target_size: str | None = None
    max_drop: float | None = None
    target_psnr: float | None = None

    @property
    def is_searched(self) -> bool:
        return any(value is not None for value in (self.target_size, self.max_drop, self.target_psnr))

    def n_bytes(self) -> int:
        """The target size.

        Raises:
          ValueError: it is no size.
        """
        from vqrf.search import parse_bytes

        return parse_bytes(self.target_size or "")

    def settle(self, base: CompressConfig) -> CompressConfig:
        """The settings at the quality, if one is given; checks the other flags too.

        Raises:
          ValueError: two goals, or one that cannot be.
        """
        from vqrf.search import config_at

        given = [name for name, value in asdict(self).items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"expected one of --{' and --'.join(given).replace('_', '-')}, not both")
        if self.target_size is not None:
            self.n_bytes()
        if (
            not all(math.isfinite(value) for value in (self.max_drop or 0, self.target_psnr or 1))
            or (self.target_psnr or 1) <= 0
        ):
            raise ValueError("--max-drop and --target-psnr: expected dB")
        return base if self.quality is None else config_at(base, self.quality)


@dataclass(frozen=True)
class Compress:
    """Compress a trained field into one .vqrf file, tuning it on the photos it was trained on, or on what it looks like."""

    field: tyro.conf.Positional[Path]
    """Run folder that `train` wrote, or a checkpoint of DirectVoxGO, svox2, TensoRF or official VQRF."""
    out: Path
    """The .vqrf file to write."""
    data: Path | None = None
    """Dataset folder. Without it the field's own renders, at cameras placed around it, take the place of photos."""
    preset: Literal["paper", "demo"] = "paper"
    """paper: VQRF as published; demo: a codebook and a tuning for small scenes."""
    profile: Literal["exact", "web"] = "exact"
    """exact: colours by the field's own network; web: by spherical harmonics, which a browser shades fast."""
    prune: float | None = None
    """Share of the importance that the voxels which stay carry."""
    keep: float | None = None
    """Share of the importance whose voxels keep features of their own."""
    codes: int | None = None
    """Size of the codebook."""
    steps: int | None = None
    """Steps of joint tuning."""
    report: Path | None = None
    """Where the report page goes; beside the file, with the ending .html, if not given."""
    goal: Annotated[Goal, tyro.conf.arg(name="")] = Goal()
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Of a search, print the curve as JSON."""
    own: OwnFlags = PHOTOS
    options: ImportFlags = AS_THEY_ARE
    common: CommonFlags = Common()

    def run(self) -> None:
        from vqrf.compress import PRESETS

        dials: dict[str, Any] = {
            "prune": self.prune,
            "keep": self.keep,
            "n_codes": self.codes,
            "steps": self.steps,
            "profile": self.profile,
        }
        try:
            config = replace(PRESETS[self.preset], **{k: v for k, v in dials.items() if v is not None})
            config = self.goal.settle(config)
        except ValueError as error:
            raise UsageError(str(error)) from None
        expect_writable(self.out, self.common)
        report = self.report or self.out.with_suffix(".html")
        expect_writable(report, self.common)
        if report.resolve() == self.out.resolve():
            raise UsageError(f"{report}: cannot be both the file and its report; give --report")
        field, notes, scene = load_to_compress(self.field, self.data, self.options, self.own, self.common.quiet or self.as_json)
        expect_scorable(scene.test)
        job = Job(self.out, report, field, notes, scene, self.preset, self.common)
        if self.goal.is_searched:
            search_into(job, config, self.goal, self.as_json)
        else:
            compress_into(job, config)


@dataclass(frozen=True)
class Eval:
    """Score a .vqrf file or a run folder on a dataset's views: PSNR, SSIM, bytes."""

    scene: tyro.conf.Positional[Path]
    """A .vqrf file, a run folder, or a checkpoint of DirectVoxGO, svox2, TensoRF or official VQRF."""
    data: Path
    """Dataset folder."""
    split: Literal["train", "test"] = "test"
    every: int = 1
    """Of the test split, take every n-th view."""
    downscale: int = 0
    """0: as trained."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""
    options: ImportFlags = AS_THEY_ARE
    common: CommonFlags = Common()

    def run(self) -> None:
        field, notes, sizes = load_field_of(self.scene, self.options, self.data, self.split, quiet=self.common.quiet)
        scene = load_like(notes, self.data, (self.split,), self.downscale, self.every)
        views = getattr(scene, self.split)
        expect_scorable(views)
        result = score(field, views, scene.background, self.common.quiet or self.as_json)
        if sizes is not None:
            result = replace(result, file_bytes=sum(sizes.values()), sections=sizes)
        print(result.to_json() if self.as_json else result.to_text(views[0].image.shape))


@dataclass(frozen=True)
class Info:
    """Say what is in a .vqrf file or a run folder."""

    scene: tyro.conf.Positional[Path]
    """A .vqrf file, a run folder, or a checkpoint of DirectVoxGO, svox2, TensoRF or official VQRF."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""
    options: ImportFlags = AS_THEY_ARE

    def run(self) -> None:
        facts = facts_of_checkpoint(self.scene, self.options) if is_checkpoint(self.scene) else facts_of(self.scene)
        if self.as_json:
            print(json.dumps(facts, indent=2))
            return
        table = Table(show_header=False, box=None)
        for name, value in facts.items():
            if name == "sections":
                value = ", ".join(f"{section} {size}" for section, size in value.items())
            table.add_row(name.replace("_", " "), str(value))
        Console().print(table)


@dataclass(frozen=True)
class Verify:
    """Check a .vqrf file: structure, checksums, that it decodes, and that it encodes again to the same bytes."""

    scene: tyro.conf.Positional[Path]
    """A .vqrf file."""
    strict: bool = False
    """Find too what the format allows and no encoder of ours writes."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON: findings, each with section, offset and reason."""

    def run(self) -> None:
        data = read_bytes(self.scene)
        if self.strict or self.as_json:
            report_findings(self.scene, data, self.strict, self.as_json)
            return
        with named(self.scene):
            verify(data)
        print(f"{self.scene}: {len(data)} bytes, every section is whole and encodes again to the same bytes")


@dataclass(frozen=True)
class Demo:
    """Make the built-in scene, train, compress, verify and score it, and write a report: the whole job in minutes."""

    out: Path = Path("demo")
    """Folder for everything."""
    common: CommonFlags = Common()

    def run(self) -> None:
        from vqrf.compress import PRESETS

        start = time.perf_counter()
        data, run, out, report = (self.out / name for name in ("data", "run", "scene.vqrf", "report.html"))
        self.out.mkdir(parents=True, exist_ok=True)
        expect_writable(out, self.common)
        is_trained = (run / FIELD_FILE).exists() and not self.common.overwrite
        if is_trained and load_run(run)[1].get("seed") != self.common.seed:
            raise UsageError(f"{run}: was trained with another seed; give --overwrite")
        say(self.common.quiet, "drawing the built-in scene")
        save_scene(built_in_scene(self.common.seed), data)
        scene = replace(load_scene(data), name="built-in scene")
        if not is_trained:
            train_into(run, scene, "demo", {"downscale": 1, "background": "white"}, self.common)
        field, notes = load_run(run)
        compress_into(Job(out, report, field, notes, scene, "demo", self.common), PRESETS["demo"])
        with named(out):
            verify(read_bytes(out))
        say(self.common.quiet, f"done in {time.perf_counter() - start:.0f} s; open {report}")


def load_sized(data: Path, preset: str, downscale: int, background: Background) -> tuple[Scene, int]:
    """The training views at the preset's size, and by how much they were averaged down."""
    from vqrf.train import PRESETS

    if downscale < 0 or preset not in PRESETS:
        raise UsageError(f"expected --downscale 0 or more and a preset of {', '.join(PRESETS)}, got {downscale} and {preset}")
    scene = load_scene(data, splits=("train",), downscale=max(downscale, 1), background=background)
    width = scene.train[0].camera.width
    if downscale == 0 and width > PRESETS[preset].image_side:
        downscale = max(1, width // PRESETS[preset].image_side)
        scene = load_scene(data, splits=("train",), downscale=downscale, background=background)
    return scene, max(downscale, 1)


def expect_scorable(views: Sequence[View]) -> None:
    """Refuse views, all of one size, that SSIM cannot score."""
    height, width = views[0].image.shape[:2]
    if min(height, width) < SSIM_WINDOW:
        raise UsageError(f"{views[0].name}: is {width}x{height}, scores need at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels")


def train_into(
    run: Path, scene: Scene, preset: str, images: dict[str, Any], common: Common, watch: Watch | None = None
) -> None:
    """Train into a run folder, or go on with what is in it."""
    from vqrf.train import PRESETS, clear_run, fit

    if common.overwrite:
        for name in (FIELD_FILE, METRICS_FILE):
            (run / name).unlink(missing_ok=True)
        clear_run(run)
    elif (run / FIELD_FILE).exists():
        raise UsageError(f"{run}: holds a trained field already; give --overwrite to train it anew")
    run.mkdir(parents=True, exist_ok=True)
    config = PRESETS[preset]
    notes = {
        **images,
        "preset": preset,
        "seed": common.seed,
        "scene": scene.name,
        "n_train": len(scene.train),
    }
    write_atomically(run / CONFIG_FILE, json.dumps({**notes, "config": asdict(config)}, indent=2).encode())
    start = time.perf_counter()
    stages = {"coarse": config.coarse.steps, "fine": config.fine.steps}
    with step_bars(stages, run / METRICS_FILE, common.quiet) as report:
        field = fit(scene, config, seed=common.seed, device=common.device, report=report, run=run, watch=watch)
    seconds = time.perf_counter() - start
    save_field(run / FIELD_FILE, field, notes=notes)
    clear_run(run)
    say(common.quiet, f"trained in {seconds:.0f} s; wrote {run / FIELD_FILE}")


@dataclass(frozen=True)
class Job:
    """One compression: what goes in, and where the file and its report go."""

    out: Path
    report: Path
    field: RadianceField
    notes: dict[str, Any]
    scene: Scene
    preset: str
    common: Common

    def settings(self, config: CompressConfig) -> dict[str, Any]:
        return {"preset": self.preset, **asdict(config), "seed": self.common.seed}

    def fingerprint(self, config: CompressConfig) -> str:
        """Of everything that the result depends on."""
        density = checksum({"density": self.field.density}, "")
        return fingerprint(self.scene, {**self.settings(config), "training": self.notes, "density": density})

    def tune(self, config: CompressConfig) -> tuple[CompressedField, Checkpoint | None]:
        """Compress; the checkpoint is to be removed when the result is safe."""
        from vqrf.compress import compress

        checkpoint, common = None, self.common
        if not is_device(self.out):
            checkpoint = Checkpoint(self.out.with_name(f"{self.out.name}.checkpoint"), self.fingerprint(config))
            if common.overwrite:
                checkpoint.remove()
        stages = {"bake": config.bake_steps} if config.profile == "web" else {}
        with step_bars({**stages, "tune": config.steps}, None, common.quiet) as report:
            small = compress(
                self.field,
                self.scene,
                config,
                seed=common.seed,
                device=common.device,
                report=report,
                checkpoint=checkpoint,
            )
        return small, checkpoint


def compress_into(job: Job, config: CompressConfig) -> None:
    """Compress, write, read back, score the file that was read back, and write the report."""
    start = time.perf_counter()
    before = score_with_images(job.field, job.scene, job.common.quiet)
    small, checkpoint = job.tune(config)
    write_result(job, config, small, before, start)
    if checkpoint is not None:
        checkpoint.remove()


def search_into(job: Job, base: CompressConfig, goal: Goal, as_json: bool) -> None:
    """Search for the settings that meet a target, say what was tried, and write what was found as `compress_into` does."""
    from vqrf.search import FieldDial, Journal, Target, config_at, describe_curve, search

    start = time.perf_counter()
    quiet = job.common.quiet or as_json
    before = score_with_images(job.field, job.scene, quiet)
    job = replace(job, common=replace(job.common, quiet=quiet))
    is_size = goal.target_size is not None
    value = goal.n_bytes() if is_size else before[0].psnr - goal.max_drop if goal.max_drop is not None else goal.target_psnr

    def tune(config: CompressConfig) -> CompressedField:
        small, checkpoint = job.tune(config)
        if checkpoint is not None:
            checkpoint.remove()
        return small

    dial = FieldDial(
        path=lambda quality: config_at(base, quality),
        tune=tune,
        score=lambda small: score(expand(small), job.scene.test, job.scene.background, quiet).psnr,
        metadata=describe_result(
            job, replace(base, prune=WIDEST, keep=WIDEST), replace(before[0], views=WIDEST_VIEWS), before[0]
        ),
    )
    journal = Journal(None if is_device(job.out) else job.out.with_name(f"{job.out.name}.search.json"), job.fingerprint(base))
    if job.common.overwrite:
        journal.clear()
    try:
        found = search(
            dial,
            Target("size" if is_size else "psnr", float(value or 0)),
            journal,
            on_trial=lambda trial: say(quiet, f"tried quality {trial.quality:.2f}: {trial.n_bytes} bytes, {trial.psnr:.3f} dB"),
        )
    except ValueError as error:
        raise UsageError(f"{job.out}: {error}") from None
    write_result(job, config_at(base, found.trial.quality), found.result, before, start)
    if as_json:
        print(json.dumps(found.facts(), indent=2))
    else:
        say(quiet, describe_curve(found.trials, found.trial))
        if not found.is_met:
            say(quiet, "the target lies outside of what the dial reaches: this is the nearest")


def describe_result(job: Job, config: CompressConfig, after: Evaluation, before: Evaluation) -> dict[str, Any]:
    """The metadata of a file; no times, so that two runs write the same.

    With the profile `web` it says, in dB, what the fast colours cost against the field's own.
    """
    exact, fast = round(before.psnr, 4), round(after.psnr, 4)
    dials = {"profile": config.profile, "prune": round(config.prune, 6), "keep": round(config.keep, 6)}
    web = {"fast": {"psnr": fast, "exact_psnr": exact, "loss": round(exact - fast, 4)}} if config.profile == "web" else {}
    return {
        "generator": f"vqrf {__version__}",
        "training": job.notes,
        "compression": {"preset": job.preset, **dials},
        "test": {"n_views": len(job.scene.test), "psnr": fast, "ssim": round(after.ssim, 5)},
        "field_test": {"psnr": exact, "ssim": round(before.ssim, 5)},
        **web,
    }


def write_result(
    job: Job, config: CompressConfig, small: CompressedField, scored: tuple[Evaluation, dict[int, Any]], start: float
) -> None:
    """Write the file and, from what it decodes to, the report.

    Args:
      scored: what `score_with_images` says of the field.
      start: of the work, on the clock of `time.perf_counter`.
    """
    before, field_images = scored
    after, images = score_with_images(expand(small), job.scene, job.common.quiet)
    seconds = round(time.perf_counter() - start, 1)
    data = encode(replace(small, metadata=describe_result(job, config, after, before)))
    write_atomically(job.out, data)
    sizes = {name: size for name, _, size in sections(data)}
    after = replace(after, file_bytes=len(data), sections=sizes)
    chosen, views = spread(len(job.scene.test), REPORT_VIEWS), enumerate(job.scene.test)
    rows = [ReportRow(v.name, v.colors(), field_images[i], images[i]) for i, v in views if i in chosen]
    grid_bytes = job.field.grid_bytes
    write_report(
        job.report,
        title=f"{job.scene.name}: {len(data) / MEGABYTE:.2f} MB",
        rows=rows,
        before=before,
        after=after,
        grid_bytes=grid_bytes,
        settings={**job.settings(config), **{f"training: {k}": v for k, v in job.notes.items()}},
    )
    say(
        job.common.quiet,
        f"{job.out}: {len(data)} bytes ({len(data) / MEGABYTE:.3f} MB), 1/{grid_bytes / len(data):.0f} of the grids; "
        f"PSNR {before.psnr:.2f} -> {after.psnr:.2f} dB ({after.psnr - before.psnr:+.2f}); {seconds:.0f} s; "
        f"report {job.report}",
    )
    if config.profile == "web":
        say(job.common.quiet, f"fast colours: {after.psnr - before.psnr:+.2f} dB against the field's own")


def report_findings(path: Path, data: bytes, strict: bool, as_json: bool) -> None:
    """Print what is odd about a file, and end in an error if anything is."""
    findings = inspect(data) if strict else refusals(data)
    if as_json:
        print(json.dumps({"bytes": len(data), "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        for finding in findings:
            print(f"{finding.section} at byte {finding.offset}: {finding.reason}")
    if findings:
        raise UsageError(f"{path}: {len(findings)} finding{'s' if len(findings) > 1 else ''}, first in {findings[0].section}")
    if not as_json:
        print(f"{path}: {len(data)} bytes, every section is as an encoder writes it")


def spread(n: int, most: int) -> set[int]:
    """At most `most` of the numbers 0..n-1, evenly spread."""
    chosen = min(n, most)
    return {round(i * (n - 1) / max(chosen - 1, 1)) for i in range(chosen)}


def score(field: RadianceField, views: Sequence[View], background: tuple[float, float, float], quiet: bool) -> Evaluation:
    with progress_bar("eval", len(views), quiet) as advance:
        return evaluate(field.with_background(background), views, on_view=lambda *_: advance(1, ""))


def score_with_images(field: RadianceField, scene: Scene, quiet: bool) -> tuple[Evaluation, dict[int, Any]]:
    """Scores on the test views, and the rendered images that a report shows."""
    chosen, images, count = spread(len(scene.test), REPORT_VIEWS), {}, iter(range(len(scene.test)))
    with progress_bar("eval", len(scene.test), quiet) as advance:

        def on_view(view: Any, image: Any, _: Any) -> None:
            number = next(count)
            if number in chosen:
                images[number] = image.rgb
            advance(1, "")

        result = evaluate(field.with_background(scene.background), scene.test, on_view=on_view)
    return result, images


def facts_of(path: Path) -> dict[str, Any]:
    """What `info` prints."""
    if path.is_dir():
        field, notes = load_run(path)
        return {
            "kind": "trained field",
            "shape": list(field.lattice.shape),
            "channels": field.n_channels,
            "shading": field.shading,
            "activation": field.activation,
            "grid_bytes": field.grid_bytes,
            **notes,
        }
    small, sizes = load_compressed(path)
    counts = [int((small.partition == kind).sum()) for kind in (PRUNED, CODED, KEPT)]
    facts = {
        "kind": "vqrf file",
        "bytes": sum(sizes.values()),
        "megabytes": sum(sizes.values()) / MEGABYTE,
        "shape": list(small.lattice.shape),
        "lo": list(small.lattice.lo),
        "hi": list(small.lattice.hi),
        "channels": small.n_channels,
        "voxels_pruned_coded_kept": counts,
        "codewords": small.n_codewords,
        "shading": small.shading,
        "activation": small.activation,
        "layers": [list(weight.shape if hasattr(weight, "shape") else weight.levels.shape) for weight, _ in small.color_mlp],
        "sections": sizes,
    }
    return {**facts, **small.metadata, **facts}  # what a file says of itself comes after, and replaces nothing


def set_up(verb: Train | Compress | Render | Eval | Bench | Demo) -> None:
    """Refuse common flags that cannot be, before anything is read or written; use as many threads as they say."""
    common = verb.common
    if common.threads < 0:
        raise UsageError(f"--threads: expected 0 or more, got {common.threads}")
    if not 0 <= common.seed <= MAX_SEED:
        raise UsageError(f"--seed: expected 0..{MAX_SEED}, got {common.seed}")
    if not has_native() and not common.quiet:
        print(NO_CORE, file=sys.stderr)
    if has_native() and common.threads:
        from vqrf.kernels.native import set_threads

        set_threads(common.threads)
    if not isinstance(verb, Render | Eval):
        import torch

        if common.threads:
            torch.set_num_threads(common.threads)
        try:
            torch.empty(0, device=common.device)
        except (RuntimeError, AssertionError) as error:  # torch raises one for a strange name, the other for a lack of CUDA
            raise UsageError(f"--device {common.device}: {str(error).splitlines()[0]}") from None


@contextmanager
def step_bars(stages: dict[str, int], metrics: Path | None, quiet: bool) -> Iterator[Callable[[str, TrainProgress], None]]:
    """A bar for each stage, and a line of JSON every `METRICS_STEPS` steps; a line of text where there is no terminal."""
    start = time.perf_counter()
    printed: dict[str, tuple[int, float]] = {}  # step and time of each stage's last line of text
    with bars_on_terminal(quiet) as bars:
        tasks = {name: bars.add_task(name, total=total, note="", start=False) for name, total in stages.items()}

        def report(stage: str, progress: TrainProgress) -> None:
            if not bars.tasks[tasks[stage]].started:
                bars.start_task(tasks[stage])
            now = time.perf_counter()
            last_step, last_time = printed.setdefault(stage, (progress.step, now))
            bars.update(tasks[stage], completed=progress.step, note=f"{progress.psnr:.1f} dB")
            if progress.step % METRICS_STEPS and progress.step != progress.steps:
                return
            line = {
                "stage": stage,
                "step": progress.step,
                "batch_psnr": round(progress.psnr, 3),
                "seconds": round(now - start, 2),
            }
            if metrics is not None:
                with metrics.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            if bars.disable and not quiet and progress.step % (10 * METRICS_STEPS) == 0:
                rate = (progress.step - last_step) / max(now - last_time, 1e-9)
                left = (progress.steps - progress.step) / max(rate, 1e-9)
                done = f"{stage} {progress.step}/{progress.steps} {progress.psnr:.1f} dB"
                print(f"{done} {rate:.1f}/s, {left:.0f} s left", file=sys.stderr, flush=True)
                printed[stage] = (progress.step, now)

        yield report


Verb = Train | Compress | Render | Eval | cli_view.View | Export | Info | Verify | Convert | Bench | Demo


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb, of the command line unless `arguments` are given; exit with 2 and one line where the input is bad."""
    description = "Volumetric radiance fields small enough to send, embed and keep."
    verb = tyro.cli(Verb, prog="vqrf", description=description, args=arguments)
    try:
        if not isinstance(verb, cli_view.View | Export | Info | Verify | Convert):
            set_up(verb)
        verb.run()
        return
    except (SceneError, StorageError, UsageError) as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        reason = EXTRAS[error.name]
    print(f"vqrf: {' '.join(reason.splitlines())}", file=sys.stderr)
    sys.exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
