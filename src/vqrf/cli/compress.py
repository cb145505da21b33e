"""The verb `compress`: one field into one file, at a preset's settings or at what the user asks for."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from vqrf import __version__
from vqrf.bars import progress_bar
from vqrf.cli.convert import AS_THEY_ARE, PHOTOS, ImportFlags, OwnFlags, load_to_compress
from vqrf.cli.terminal import (
    Common,
    CommonFlags,
    UsageError,
    expect_writable,
    is_device,
    print_json,
    say,
    step_bars,
)
from vqrf.codec.bitstream import encode
from vqrf.codec.container import sections
from vqrf.data.scene import Scene, View
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.storage import checksum
from vqrf.files import write_atomically
from vqrf.memory import parse_bytes
from vqrf.rendering.evaluate import SSIM_WINDOW, Evaluation, ViewScore, evaluate
from vqrf.rendering.report import ReportRow, write_report
from vqrf.training.checkpoint import Checkpoint, fingerprint

if TYPE_CHECKING:
    from vqrf.compression.presets import Compressed, Config
    from vqrf.compression.tuning import Checkpoints

REPORT_VIEWS = 4
WIDEST, WIDEST_PRICE, WIDEST_VIEWS = 0.888888, 8.8888e-10, (ViewScore("", 88.88888, 0.888888, 0.0),)
"""A share, a price and scores that are as long in a file as any: its size is known before they are."""
MEGABYTE = 10**6


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
        return parse_bytes(self.target_size or "")

    def settle(self, base: Config) -> Config:
        """The settings at the quality, if one is given; checks the other flags too.

        Raises:
          ValueError: two goals, or one that cannot be.
        """
        from vqrf.compression.search import config_at

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
    preset: Literal["compact", "paper", "demo"] = "compact"
    """compact: the smallest file; paper: VQRF as published; demo: the same for small scenes."""
    profile: Literal["exact", "web"] = "exact"
    """exact: colours by the field's own network; web: by spherical harmonics, which a browser shades fast."""
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
    goal: Annotated[Goal, tyro.conf.arg(name="")] = Goal()
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Of a search, print the curve as JSON."""
    own: OwnFlags = PHOTOS
    options: ImportFlags = AS_THEY_ARE
    common: CommonFlags = Common()

    def run(self) -> None:
        try:
            config = self.goal.settle(self.settings())
        except ValueError as error:
            raise UsageError(str(error)) from None
        expect_writable(self.out, self.common)
        report = self.report or self.out.with_suffix(".html")
        expect_writable(report, self.common)
        if report.resolve() == self.out.resolve():
            raise UsageError(f"{report}: cannot be both the file and its report; give --report")
        field, notes, scene = load_to_compress(self.field, self.data, self.options, self.own, self.common.quiet or self.as_json)
        if not scene.test:
            raise UsageError(f"{self.data}: has no photos held out to score with")
        expect_scorable(scene.test)
        job = Job(self.out, report, field, notes, scene, self.preset, self.common)
        if self.goal.is_searched:
            search_into(job, config, self.goal, self.as_json)
        else:
            compress_into(job, config)

    def settings(self) -> Config:
        """The preset's, with what the flags say instead.

        Raises:
          ValueError: a flag that is not of the preset, or a value that cannot be.
        """
        from vqrf.compression.presets import PRESETS, for_profile, with_steps

        dials = {"prune": self.prune, "keep": self.keep, "n_codes": self.codes}
        given: dict[str, Any] = {name: value for name, value in dials.items() if value is not None}
        config = PRESETS[self.preset]
        if strange := [name for name in given if not hasattr(config, name)]:
            flag = {"n_codes": "codes"}.get(strange[0], strange[0])
            raise ValueError(f"--{flag}: the preset {self.preset} has no such setting")
        config = replace(for_profile(config, self.profile), **given)
        return config if self.steps is None else with_steps(config, self.steps)


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

    def settings(self, config: Config) -> dict[str, Any]:
        return {"preset": self.preset, **asdict(config), "seed": self.common.seed}

    def fingerprint(self, settings: Mapping[str, Any]) -> str:
        """Of everything that a result depends on: what goes in, and the settings."""
        density = checksum({"density": self.field.density}, "")
        return fingerprint(self.scene, {**settings, "training": self.notes, "density": density})

    def checkpoints(self, config: Config) -> Checkpoints:
        """Where the tunings are saved beside the file; nowhere beside a device."""
        from vqrf.compression.presets import bake_settings, warmed
        from vqrf.compression.tuning import NOWHERE, Checkpoints

        if is_device(self.out):
            return NOWHERE

        def beside(ending: str, settings: Mapping[str, Any]) -> Checkpoint:
            return Checkpoint(self.out.with_name(f"{self.out.name}.{ending}"), self.fingerprint(settings))

        return Checkpoints(
            bake=beside("bake", {**bake_settings(config), "seed": self.common.seed}),
            warm=beside("warm", self.settings(warmed(config))),
            tune=beside("checkpoint", self.settings(config)),
        )

    def tune(self, config: Config) -> Compressed:
        """Compress; the checkpoints are to be removed when the result is safe."""
        from vqrf.compression.presets import compress_with, stages_of

        with step_bars(stages_of(config), None, self.common.quiet) as report:
            return compress_with(
                config,
                self.field,
                self.scene,
                seed=self.common.seed,
                device=self.common.device,
                report=report,
                checkpoints=self.checkpoints(config),
            )


def compress_into(job: Job, config: Config) -> None:
    """Compress, write, read back, score the file that was read back, and write the report."""
    start = time.perf_counter()
    if job.common.overwrite:
        job.checkpoints(config).remove()
    before = score_with_images(job.field, job.scene, job.common.quiet)
    write_result(job, config, job.tune(config), before, start)
    job.checkpoints(config).remove()


def search_into(job: Job, base: Config, goal: Goal, as_json: bool) -> None:
    """Search for the settings that meet a target, say what was tried, and write what was found as `compress_into` does."""
    from vqrf.compression.search import FieldDial, Journal, Target, config_at, describe_curve, search

    start = time.perf_counter()
    quiet = job.common.quiet or as_json
    before = score_with_images(job.field, job.scene, quiet)
    job = replace(job, common=replace(job.common, quiet=quiet))
    is_size = goal.target_size is not None
    value = goal.n_bytes() if is_size else before[0].psnr - goal.max_drop if goal.max_drop is not None else goal.target_psnr

    def tune(config: Config) -> Compressed:
        small, tuning = job.tune(config), job.checkpoints(config).tune
        if tuning is not None:  # the stages before it are what the next trial begins with
            tuning.remove()
        return small

    dial = FieldDial(
        path=lambda quality: config_at(base, quality),
        tune=tune,
        score=lambda small: score(expand(small), job.scene.test, job.scene.background, quiet).psnr,
        metadata=describe_result(job, widest(base), replace(before[0], views=WIDEST_VIEWS), before[0]),
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
    write_result(job, config_at(base, found.trial.quality), found.result, before, start)
    job.checkpoints(base).remove()
    if as_json:
        print_json(found.facts())
    else:
        say(quiet, describe_curve(found.trials, found.trial))
        if not found.is_met:
            say(quiet, "the target lies outside of what the dial reaches: this is the nearest")


def widest(base: Config) -> Config:
    """The settings that take the most room in a file's metadata."""
    from vqrf.compression.compact import RateConfig

    if isinstance(base, RateConfig):
        return replace(base, prune=WIDEST, bit_price=WIDEST_PRICE)
    return replace(base, prune=WIDEST, keep=WIDEST)


def describe_result(job: Job, config: Config, after: Evaluation, before: Evaluation) -> dict[str, Any]:
    """The metadata of a file; no times, so that two runs write the same.

    With the profile `web` it says, in dB, what the fast colours cost against the field's own.
    """
    from vqrf.compression.paper import CompressConfig

    exact, fast = round(before.psnr, 4), round(after.psnr, 4)
    dials: dict[str, Any] = {"profile": config.profile}
    if isinstance(config, CompressConfig):
        dials |= {"prune": round(config.prune, 6), "keep": round(config.keep, 6)}
    else:
        dials |= {"prune": round(config.kept_share(job.field), 6), "bit_price": float(f"{config.bit_price:.4e}")}
    web = {"fast": {"psnr": fast, "exact_psnr": exact, "loss": round(exact - fast, 4)}} if config.profile == "web" else {}
    return {
        "generator": f"vqrf {__version__}",
        "training": job.notes,
        "compression": {"preset": job.preset, **dials},
        "test": {"n_views": len(job.scene.test), "psnr": fast, "ssim": round(after.ssim, 5)},
        "field_test": {"psnr": exact, "ssim": round(before.ssim, 5)},
        **web,
    }


def write_result(job: Job, config: Config, small: Compressed, scored: tuple[Evaluation, dict[int, Any]], start: float) -> None:
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
