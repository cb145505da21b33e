"""The verb `compress`: one field into one file, at a preset's settings or at what the user asks for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vqrf import __version__
from vqrf.bars import progress_bar
from vqrf.cli.convert import AS_THEY_ARE, PHOTOS, ImportFlags, OwnFlags, load_to_compress
from vqrf.cli.progress import step_bars
from vqrf.cli.terminal import (
    Common,
    CommonFlags,
    UsageError,
    expect_writable,
    is_device,
    print_json,
    say,
)
from vqrf.codec.bitstream import encode
from vqrf.codec.compressed import Compressed
from vqrf.codec.container import sections
from vqrf.compression.goal import NO_GOAL, Goal, PresetName, Profile
from vqrf.data.scene import Scene, View
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.storage import checksum
from vqrf.files import write_atomically
from vqrf.rendering.evaluate import SSIM_WINDOW, Evaluation, ViewScore, evaluate
from vqrf.rendering.report import ReportRow, write_report
from vqrf.training.checkpoint import Checkpoint, fingerprint

if TYPE_CHECKING:
    from vqrf.compression.preset import Preset
    from vqrf.compression.tuning import Checkpoints

REPORT_VIEWS = 4
WIDEST_VIEWS = (ViewScore("", 88.88888, 0.888888, 0.0),)
"""Scores that are as long in a file as any: its size is known before they are."""
MEGABYTE = 10**6

Scored = tuple[Evaluation, dict[int, Any]]
"""Scores of a field, and some of its renders by the number of their view."""


@dataclass(frozen=True)
class Compress:
    """Compress a trained field into one .vqrf file, tuning it on the photos it was trained on, or on what it looks like."""

    field: tyro.conf.Positional[Path]
    """Run folder that `train` wrote, or a checkpoint of DirectVoxGO, svox2, TensoRF or official VQRF."""
    out: Path
    """The .vqrf file to write."""
    data: Path | None = None
    """Dataset folder. Without it the field's own renders, at cameras placed around it, take the place of photos."""
    preset: PresetName = "compact"
    """compact: the smallest file; paper: VQRF as published; demo: the same for small scenes."""
    profile: Profile = "exact"
    """exact: the field's own colours; web: no network's, but by spherical harmonics, which a browser shades fast."""
    prune: float | None = None
    """Share of the importance that the voxels which stay carry; if not given the preset's, and of compact more with a ReLU."""
    keep: float | None = None
    """Share of the importance whose voxels keep features of their own. Not of compact."""
    codes: int | None = None
    """Size of the codebook. Not of compact."""
    steps: int | None = None
    """Steps of joint tuning, in all."""
    report: Path | None = None
    """Where the report page goes; beside the file, with the ending .html, if not given."""
    goal: Annotated[Goal, tyro.conf.arg(name="")] = NO_GOAL
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Of a search, print the curve as JSON."""
    own: OwnFlags = PHOTOS
    options: ImportFlags = AS_THEY_ARE
    common: CommonFlags = Common()

    def run(self) -> None:
        try:
            self.goal.check()
            self.settings()
        except ValueError as error:
            raise UsageError(str(error)) from None
        expect_writable(self.out, self.common)
        report = self.report or self.out.with_suffix(".html")
        expect_writable(report, self.common)
        if report.resolve() == self.out.resolve():
            raise UsageError(f"{report}: cannot be both the file and its report; give --report")
        from vqrf.compression.web import is_fast

        field, notes, scene = load_to_compress(self.field, self.data, self.options, self.own, self.common.quiet or self.as_json)
        if not scene.test:
            raise UsageError(f"{self.data}: has no photos held out to score with")
        expect_scorable(scene.test)
        config = self.settings(is_baked=not is_fast(field))
        job = Job(self.out, report, field, notes, scene, self.preset, self.common)
        if self.goal.is_searched:
            search_into(job, config, self.goal, self.as_json)
        else:
            compress_into(job, config)

    def settings(self, *, is_baked: bool = True) -> Preset[Any]:
        """The preset's, with what the flags say instead.

        Args:
          is_baked: whether the field is one that the profile bakes.

        Raises:
          ValueError: a flag that is not of the preset, or a value that cannot be.
        """
        from vqrf.compression.presets import PRESETS

        flags = {"prune": ("prune", self.prune), "keep": ("keep", self.keep), "codes": ("n_codes", self.codes)}
        given: dict[str, Any] = {}
        for flag, (name, value) in flags.items():
            if value is not None and not hasattr(PRESETS[self.preset], name):
                raise ValueError(f"--{flag}: the preset {self.preset} has no such setting")
            given |= {} if value is None else {name: value}
        config = replace(PRESETS[self.preset].for_profile(self.profile, is_baked=is_baked), **given)
        config = config if self.steps is None else config.with_steps(self.steps)
        return config if self.goal.quality is None else config.at_quality(self.goal.quality)


def expect_scorable(views: Sequence[View]) -> None:
    """Refuse views, all of one size, that SSIM cannot score."""
    height, width = views[0].image.shape[:2]
    if min(height, width) < SSIM_WINDOW:
        raise UsageError(f"{views[0].name}: is {width}x{height}, scores need at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels")


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

    def settings(self, config: Preset[Any]) -> dict[str, Any]:
        return {"preset": self.preset, **config.depends_on("tune"), "seed": self.common.seed}

    def fingerprint(self, settings: Mapping[str, Any]) -> str:
        """Of everything that a result depends on: what goes in, and the settings."""
        density = checksum({"density": self.field.density}, "")
        return fingerprint(self.scene, {**settings, "training": self.notes, "density": density})

    def checkpoints(self, config: Preset[Any]) -> Checkpoints:
        """Where the tunings are saved beside the file; nowhere beside a device."""
        from vqrf.compression.tuning import Checkpoints

        if is_device(self.out):
            return Checkpoints()

        def beside(stage: str) -> Checkpoint:
            ending = "checkpoint" if stage == "tune" else stage
            settings = {**config.depends_on(stage), "preset": self.preset, "seed": self.common.seed}
            return Checkpoint(self.out.with_name(f"{self.out.name}.{ending}"), self.fingerprint(settings))

        return Checkpoints({stage: beside(stage) for stage in config.stages()})

    def tune(self, config: Preset[Any]) -> Compressed:
        """Compress; the checkpoints are to be removed when the result is safe."""
        from vqrf.compression.presets import compress

        with step_bars(config.stages(), None, self.common.quiet) as report:
            return compress(
                self.field,
                self.scene,
                config,
                seed=self.common.seed,
                device=self.common.device,
                report=report,
                checkpoints=self.checkpoints(config),
            )


def compress_into(job: Job, config: Preset[Any]) -> None:
    """Compress, write, read back, score the file that was read back, and write the report."""
    start = time.perf_counter()
    if job.common.overwrite:
        job.checkpoints(config).remove()
    before = score_with_images(job.field, job.scene, job.common.quiet)
    write_result(job, config, job.tune(config), before, start)
    job.checkpoints(config).remove()


def search_into(job: Job, base: Preset[Any], goal: Goal, as_json: bool) -> None:
    """Search for the settings that meet a target, say what was tried, and write what was found as `compress_into` does."""
    from vqrf.compression.search import FieldDial, Journal, Target, describe_curve, search

    start = time.perf_counter()
    quiet = job.common.quiet or as_json
    before = score_with_images(job.field, job.scene, quiet)
    job = replace(job, common=replace(job.common, quiet=quiet))
    is_size = goal.target_size is not None
    value = goal.n_bytes() if is_size else before[0].psnr - goal.max_drop if goal.max_drop is not None else goal.target_psnr

    def tune(config: Preset[Any]) -> Compressed:
        small = job.tune(config)
        if "tune" in (checkpoints := job.checkpoints(config)):  # the stages before it are what the next trial begins with
            checkpoints["tune"].remove()
        return small

    dial = FieldDial(
        base=base,
        tune=tune,
        score=lambda small: score(expand(small), job.scene.test, job.scene.background, quiet).psnr,
        metadata=describe_result(job, base, replace(before[0], views=WIDEST_VIEWS), before[0], base.WIDEST_DIALS),
    )
    journal = Journal(
        None if is_device(job.out) else job.out.with_name(f"{job.out.name}.search.json"), job.fingerprint(job.settings(base))
    )
    if job.common.overwrite:
        journal.clear()
        job.checkpoints(base).remove()
    try:
        found = search(
            dial,
            Target("size" if is_size else "psnr", float(value or 0)),
            journal,
            on_trial=lambda trial: say(quiet, f"tried quality {trial.quality:.2f}: {trial.n_bytes} bytes, {trial.psnr:.3f} dB"),
        )
    except ValueError as error:
        raise UsageError(f"{job.out}: {error}") from None
    write_result(job, base.at_quality(found.trial.quality), found.result, before, start)
    job.checkpoints(base).remove()
    if as_json:
        print_json(found.facts())
    else:
        say(quiet, describe_curve(found.trials, found.trial))
        if not found.is_met:
            say(quiet, "the target lies outside of what the dial reaches: this is the nearest")


def describe_result(
    job: Job, config: Preset[Any], after: Evaluation, before: Evaluation, widest: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The metadata of a file; no times, so that two runs write the same.

    With the profile `web` it says, in dB, what the fast colours cost against the field's own.
    """
    exact, fast = round(before.psnr, 4), round(after.psnr, 4)
    dials = {"profile": config.profile, **config.dials(job.field), **(widest or {})}
    web = {"fast": {"psnr": fast, "exact_psnr": exact, "loss": round(exact - fast, 4)}} if config.profile == "web" else {}
    return {
        "generator": f"vqrf {__version__}",
        "training": job.notes,
        "compression": {"preset": job.preset, **dials},
        "test": {"n_views": len(job.scene.test), "psnr": fast, "ssim": round(after.ssim, 5)},
        "field_test": {"psnr": exact, "ssim": round(before.ssim, 5)},
        **web,
    }


def write_result(job: Job, config: Preset[Any], small: Compressed, scored: Scored, start: float) -> None:
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
