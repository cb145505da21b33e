"""The verb `compress`: one field into one file, at a preset's settings or at what the user asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vqrf.bars import progress_bar
from vqrf.cli.convert import AS_THEY_ARE, PHOTOS, ImportFlags, OwnFlags, has_planes, load_to_compress, with_factors
from vqrf.cli.meta import SHOWN, PresentingFlags, presented
from vqrf.cli.progress import step_bars
from vqrf.cli.terminal import Common, CommonFlags, UsageError, expect_writable, named, print_json, say
from vqrf.codec.about import NOTHING
from vqrf.compression.goal import NO_GOAL, Goal, PresetName, Profile, TunedFor, is_unfinished
from vqrf.data.scene import View
from vqrf.fields.field import RadianceField
from vqrf.fields.run import about_of_notes, up_of
from vqrf.geometry import Front
from vqrf.kernels.similarity import SSIM_WINDOW
from vqrf.rendering.evaluate import NO_METRICS, Evaluation, Metric, MetricName, evaluate

if TYPE_CHECKING:
    from vqrf.compression.job import Job, Made
    from vqrf.compression.preset import Preset
    from vqrf.compression.search import Trial
    from vqrf.training.loop import Report

MEGABYTE = 10**6


@dataclass(frozen=True)
class Shares:
    """What carries how much."""

    prune: float | None = None
    """Voxels that add little to the photos are removed. The others carry this share of all that voxels add.
    Without it, the preset decides; compact keeps a larger share if the field's density has a ReLU."""
    keep: float | None = None
    """The voxels that add most, up to this share, keep their own features; the others share a codebook. Not for compact."""
    codes: int | None = None
    """Number of entries of the codebook. Not for compact."""


AS_USUAL = Shares()


@dataclass(frozen=True)
class Compress:
    """Compress a trained field into one .vqrf file, and tune it on the training photos, or on renders of the field."""

    field: tyro.conf.Positional[Path]
    """Run folder that `train` wrote, or a checkpoint of DirectVoxGO, svox2, TensoRF or official VQRF."""
    out: Path
    """The .vqrf file to write."""
    data: Path | None = None
    """Dataset folder, on which the field was trained. Without it, the file is tuned on renders of the field."""
    preset: PresetName | None = None
    """How to compress. Without it: planes where the field has planes, else compact.
    compact: the smallest file, lego 34.05 dB in 0.5 MB after 51 minutes on one thread.
    paper: VQRF as published, 34.00 dB in 1.1 MB after 17 minutes.
    demo: as paper, for small scenes, in half a minute.
    planes: planes and lines, for runs of train --base tensorf; a fifth smaller than compact."""
    profile: Profile = "exact"
    """exact: keep the field's own colours.
    web: replace its colour network by spherical harmonics, which a browser draws faster."""
    tune_for: TunedFor = "psnr"
    """psnr: colours of single pixels.
    perceptual: an experiment: what eyes see too, by LPIPS with VGG. It costs PSNR, and time. Not for paper and demo."""
    shares: Annotated[Shares, tyro.conf.arg(name="voxels"), tyro.conf.OmitArgPrefixes] = AS_USUAL
    steps: int | None = None
    """Number of tuning steps, in all. Without it, the preset's."""
    goal: Annotated[Goal, tyro.conf.arg(name="goal"), tyro.conf.OmitArgPrefixes] = NO_GOAL
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print what was made as JSON: bytes, scores before and after, seconds; for a search, its trials too."""
    shown: PresentingFlags = SHOWN
    own: OwnFlags = PHOTOS
    options: ImportFlags = AS_THEY_ARE
    common: CommonFlags = Common()

    def run(self, kept: Path | None = None) -> None:
        """Compress. `kept`: a folder for what files of other goals begin with, such as that of `make`."""
        name = self.preset or usual_preset(self.field, self.profile, is_front=self.options.space == "front")
        try:
            self.goal.check()
            self.settings(name).check(())
            self.shown.about()
        except ValueError as error:
            raise UsageError(str(error)) from None
        if self.out.suffix not in (".vqrf", ""):
            raise UsageError(f"{self.out}: expected a name that ends in .vqrf")
        page = self.shown.report or self.out.with_suffix(".report.html")
        if page.resolve() == self.out.resolve():
            raise UsageError(f"{page}: cannot be both the file and its report")
        if not is_unfinished(self.out):  # a job that was killed at its end may have written both
            expect_writable(self.out, self.common)
            expect_writable(page, self.common)
        from vqrf.compression.job import Job
        from vqrf.compression.web import is_fast

        field, notes, scene = load_to_compress(self.field, self.data, self.options, self.own, self.common.quiet or self.as_json)
        field = with_factors(field, self.field) if name == "planes" else field
        expect_scorable(scene.test or scene.train)
        if not scene.test:
            say(self.common.quiet or self.as_json, f"{self.data}: holds no photos out, so the file will have no score")
        preset = self.settings(name, is_baked=not is_fast(field))
        about, notes = self.shown.about(about_of_notes(notes)), NOTHING.added_to(notes)
        if self.shown.poster:
            with named(self.field):
                shows_place = scene.contrast and not isinstance(field.lattice.space, Front)
                amid = [view.camera for view in scene.train] if shows_place else []
                about = presented(about, field.with_background(scene.background), up_of(about, notes), amid)
        job = Job(field, scene, preset, self.goal, notes, self.common.seed, self.common.device, about)
        compress_into(job, self.out, page, self.common, self.as_json, kept)

    def settings(self, name: PresetName, *, is_baked: bool = True) -> Preset[Any]:
        """The preset's, with what the flags say instead.

        Args:
          name: of the preset.
          is_baked: whether the field is one that the profile bakes.

        Raises:
          ValueError: a flag that is not of the preset, or a value that cannot be.
        """
        from vqrf.compression.presets import PRESETS
        from vqrf.training.patches import Eyes

        eyes = None if self.tune_for == "psnr" else Eyes()
        of_voxels = {"prune": ("prune", self.shares.prune), "keep": ("keep", self.shares.keep)}
        flags = {**of_voxels, "codes": ("n_codes", self.shares.codes), "tune-for": ("eyes", eyes)}
        given: dict[str, Any] = {}
        for flag, (setting, value) in flags.items():
            if value is not None and not hasattr(PRESETS[name], setting):
                raise ValueError(f"--{flag}: the preset {name} has no such setting")
            given |= {} if value is None else {setting: value}
        whole = PRESETS[name].for_profile(self.profile, is_baked=is_baked)
        try:
            config = replace(whole, **given)
        except ValueError as error:
            what, colon, reason = str(error).partition(":")
            named_so = {setting: f"--{flag}" for flag, (setting, _) in flags.items()}
            raise ValueError(f"{named_so.get(what, what)}{colon}{reason}") from None
        config = config if self.steps is None else config.with_steps(self.steps)
        return config if self.goal.quality is None else config.at_quality(self.goal.quality)


def usual_preset(path: Path, profile: Profile, *, is_front: bool = False) -> PresetName:
    """The one that is best for a field by measurement (docs/log/planes.md), as far as can be told before it is read.

    Args:
      is_front: whether it is a checkpoint of a forward-facing scene, whose planes are not coded.
    """
    return "planes" if profile == "exact" and not is_front and has_planes(path) else "compact"


def expect_scorable(views: Sequence[View]) -> None:
    """Refuse views, all of one size, that SSIM cannot score."""
    height, width = views[0].image.shape[:2]
    if min(height, width) < SSIM_WINDOW:
        raise UsageError(f"{views[0].name}: is {width}x{height}, scores need at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels")


class Bars:
    """Bars and words of a job on the terminal; a `vqrf.compression.job.Watch`.

    Args:
      quiet: nothing is shown or said.
      seconds: of all tuning, about; None where that is not known.
    """

    def __init__(self, quiet: bool, seconds: float | None = None) -> None:
        self.quiet, self.seconds, self.is_begun = quiet, seconds, False

    def stages(self, steps: Mapping[str, int]) -> AbstractContextManager[Report]:
        what, self.is_begun = None if self.is_begun else "tuning", True  # the trials of a search are many
        return step_bars(dict(steps), None, self.quiet, what, self.seconds)

    @contextmanager
    def views(self, n_views: int) -> Iterator[Callable[[], None]]:
        with progress_bar("eval", n_views, self.quiet) as advance:
            yield lambda: advance(1, "")

    def trial(self, trial: Trial) -> None:
        say(self.quiet, f"tried quality {trial.quality:.2f}: {trial.n_bytes} bytes, {trial.psnr:.3f} dB")


def compress_into(job: Job, out: Path, page: Path, common: Common, as_json: bool = False, kept: Path | None = None) -> None:
    """Do a job, and say what came of it. `kept`: see `Job.write`."""
    from vqrf.compression.job import JobError
    from vqrf.compression.search import describe_curve, trials_of

    quiet = common.quiet or as_json
    try:
        made = job.write(out, page, overwrite=common.overwrite, watch=Bars(quiet, tuning_seconds(job, common)), kept=kept)
    except JobError as error:
        raise UsageError(str(error)) from None
    change, n_bytes = made.after.psnr - made.before.psnr, made.n_bytes
    scores = f"PSNR {made.before.psnr:.2f} -> {made.after.psnr:.2f} dB ({change:+.2f})"
    if not job.scene.test:
        scores = f"no score, {change:+.2f} dB on photos that it learnt from"
    say(
        quiet,
        f"{out}: {n_bytes} bytes ({n_bytes / MEGABYTE:.3f} MB), 1/{job.field.grid_bytes / n_bytes:.0f} of the grids; "
        f"{scores}; {made.seconds:.0f} s; report {page}",
    )
    if made.preset.profile == "web":
        say(quiet, f"fast colours: {change:+.2f} dB against the field's own")
    if as_json:
        print_json(facts_of(made, job, out, page))
    if made.facts is None:
        return
    say(quiet, describe_curve(*trials_of(made.facts)))
    if not made.facts["is_met"]:
        say(quiet, "the target lies outside of what the dial reaches: this is the nearest")


def facts_of(made: Made, job: Job, out: Path, page: Path) -> dict[str, Any]:
    """What came of a job, and of its search if it was one, of JSON types."""
    return {
        "file": str(out),
        "report": str(page),
        "bytes": made.n_bytes,
        "grid_bytes": job.field.grid_bytes,
        "psnr_before": made.before.psnr,
        "psnr": made.after.psnr,
        "is_held_out": bool(job.scene.test),
        "seconds": made.seconds,
        **(made.facts or {}),
    }


def tuning_seconds(job: Job, common: Common) -> float | None:
    """About, for all of the job's tuning; None on a card, for which there is no measure. A search tunes about four times."""
    if common.device != "cpu":
        return None
    from vqrf.training.cost import fogginess
    from vqrf.training.pace import pace

    stages, n_threads = job.preset.stages(), common.threads or os.cpu_count() or 1
    n_last = stages["tune"] * (4 if job.goal.is_searched else 1)
    n_rays = (sum(stages.values()) - stages["tune"] + n_last) * job.preset.rays_per_step
    beside = n_last * job.preset.beside_seconds([view.camera for view in job.scene.train])
    return pace() * (fogginess(job.scene) * n_rays * job.preset.RAY_SECONDS / n_threads + beside)


def score(
    field: RadianceField,
    views: Sequence[View],
    background: tuple[float, float, float],
    quiet: bool,
    metrics: Mapping[MetricName, Metric] = NO_METRICS,
) -> Evaluation:
    with progress_bar("eval", len(views), quiet) as advance:
        standing = field.with_background(background)
        return evaluate(standing, views, metrics=metrics, on_view=lambda *_: advance(1, ""))
