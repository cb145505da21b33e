"""A job: one field into one file, with all that belongs to it. The command line, `bench` and Python do the same ones.

A job scores the field, compresses it at the settings that its goal leads to, reads the file back, scores that, and says in the
file what was measured. Beside the file OUT it keeps, until the end:

    OUT.bake, OUT.warm, OUT.checkpoint   tunings, from which the same job goes on
    OUT.search.json                      the trials of a search; stays, for the next target
    OUT.unfinished                       that OUT is written and what follows is not: the same job writes the page and clears up

Where files of other goals may follow, a folder is named for what all of them begin with. There the tunings `bake` and `warm`,
the trials and the scores of the field stay, each under the fingerprint of what it depends on.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from dataclasses import field as attribute
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vqrf import __version__
from vqrf.bars import progress_bar, stage_bars
from vqrf.codec.about import NOTHING, About, about_of
from vqrf.codec.bitstream import decode, encode
from vqrf.codec.compressed import Compressed
from vqrf.codec.container import sections
from vqrf.compression.goal import NO_GOAL, Goal
from vqrf.compression.preset import Preset
from vqrf.compression.presets import compress, preset_of
from vqrf.compression.search import FieldDial, Found, Journal, Target, Trial, search
from vqrf.compression.tuning import SAVED_LAYOUT, Checkpoints, Tuning
from vqrf.compression.web import is_fast
from vqrf.data.listing import hex_of
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene, View
from vqrf.fields.field import RadianceField, drawing_fault_of, expand
from vqrf.fields.storage import field_checksum
from vqrf.files import remove_stale, write_atomically
from vqrf.geometry import Float32
from vqrf.kernels.similarity import SSIM_WINDOW
from vqrf.rendering.evaluate import Evaluation, ViewScore, evaluate
from vqrf.rendering.page import Exhibit, exhibit
from vqrf.rendering.render import render
from vqrf.rendering.report import ReportRow, write_report
from vqrf.training.bake import BAKE_CHANNELS
from vqrf.training.checkpoint import Checkpoint, fingerprint
from vqrf.training.loop import Report

PAGE_VIEWS = 4
WIDEST_VIEWS = (ViewScore("", 88.88888, 0.888888, 0.0),)
"""Scores that are as long in a file as any: its size is known before they are."""
MEGABYTE = 10**6

SEEN_VIEWS = 8
"""Of the training views, so many are compared where none are held out."""

NO_SCORE = ", compared on photos that it learnt from, as none are held out"

SURE_SHARE = 0.8
"""A target below this share of a file with next to no voxel in it is out of reach: tuning moves a network's bytes by less."""


class JobError(ValueError):
    """What was asked of a job cannot be done; the message says why."""


class Watch(Protocol):
    """Who hears of a job."""

    def stages(self, steps: Mapping[str, int]) -> AbstractContextManager[Report]:
        """Around the tunings of one compression, given their steps; what it yields is called after each of them."""

    def views(self, n_views: int) -> AbstractContextManager[Callable[[], None]]:
        """Around the scoring of so many views; what it yields is called after each."""

    def trial(self, trial: Trial) -> None:
        """A search has measured a point."""


class Silent:
    """A `Watch` that keeps silent."""

    def stages(self, steps: Mapping[str, int]) -> AbstractContextManager[Report]:
        return nullcontext(lambda stage, progress: None)

    def views(self, n_views: int) -> AbstractContextManager[Callable[[], None]]:
        return nullcontext(lambda: None)

    def trial(self, trial: Trial) -> None: ...


SILENT = Silent()


class Shown(Silent):
    """A `Watch` that draws bars on the terminal; where there is none it keeps silent."""

    def stages(self, steps: Mapping[str, int]) -> AbstractContextManager[Report]:
        return stage_bars(dict(steps), False)

    @contextmanager
    def views(self, n_views: int) -> Iterator[Callable[[], None]]:
        with progress_bar("eval", n_views, False) as advance:
            yield lambda: advance(1, "")


@dataclass(frozen=True, eq=False)
class Made:
    """What a job made.

    Attributes:
      data: the bytes of the file.
      preset: the settings that they were made with.
      before, after: scores of the field, and of what the file decodes to, with its bytes by section.
      facts: of a search, the curve and the chosen point, of JSON types; None where none was needed.
      seconds: wall time of the job.
    """

    data: bytes = attribute(repr=False)
    preset: Preset[Any]
    before: Evaluation = attribute(repr=False)
    after: Evaluation = attribute(repr=False)
    facts: Mapping[str, Any] | None = attribute(repr=False)
    seconds: float

    @property
    def n_bytes(self) -> int:
        return len(self.data)


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of a field, and the renders that a page shows, by the number of their view."""

    evaluation: Evaluation
    images: dict[int, Float32]


@dataclass(frozen=True, eq=False)
class Job:
    """One field into one file.

    Attributes:
      scene: its training views are learnt from, its test views score. Without these there is no score: some of the training
        views are compared in their place, and the file says nothing of it.
      preset: settings, from which the goal's dial starts.
      notes: of JSON types, how the field was trained: what a file says of it, such as "downscale" and "background".
      about: what the file says of itself to people.
    """

    field: RadianceField
    scene: Scene
    preset: Preset[Any]
    goal: Goal = NO_GOAL
    notes: Mapping[str, Any] = attribute(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    about: About = NOTHING

    @property
    def compared(self) -> tuple[View, ...]:
        """The views on which field and file are compared: those held out, or some that are learnt from where there are none."""
        train = self.scene.train
        return self.scene.test or tuple(train[i] for i in sorted(spread(len(train), SEEN_VIEWS)))

    def settings(self, preset: Preset[Any], stage: str = "tune") -> dict[str, Any]:
        """What a stage's end depends on besides the field, the photos and the notes."""
        return {"preset": preset.name, **preset.depends_on(stage), "seed": self.seed}

    def fingerprint(self, settings: Mapping[str, Any]) -> str:
        """Of everything that a result depends on: the whole field, the photos, the notes, and the settings."""
        return fingerprint_of(self.field, self.scene, self.notes, settings)

    def fingerprint_of_tuning(self, preset: Preset[Any], stage: str) -> str:
        """Of everything that a tuning's checkpoint depends on: the job up to there, and how checkpoints are laid out."""
        return self.fingerprint({**self.settings(preset, stage), "layout": SAVED_LAYOUT})

    def compress(self, preset: Preset[Any], checkpoints: Checkpoints, watch: Watch = SILENT) -> Compressed:
        """Compress, at settings of any quality."""
        with watch.stages(preset.stages()) as report:
            return compress(
                self.field, self.scene, preset, seed=self.seed, device=self.device, report=report, checkpoints=checkpoints
            )

    def score(self, small: RadianceField, watch: Watch = SILENT, *, with_ssim: bool = True) -> Scored:
        """On the views that are compared."""
        views = self.compared
        chosen, images = spread(len(views), PAGE_VIEWS), {}
        count = iter(range(len(views)))
        with watch.views(len(views)) as advance:

            def on_view(view: View, image: Any, _: ViewScore) -> None:
                number = next(count)
                if number in chosen:
                    images[number] = image.rgb
                advance()

            field = small.with_background(self.scene.background)
            scores = evaluate(field, views, with_ssim=with_ssim, on_view=on_view)
        return Scored(scores, images)

    def describe(self, preset: Preset[Any], after: Evaluation, before: Evaluation) -> dict[str, Any]:
        """The metadata of a file; no times, so that two runs write the same.

        With the profile `web` it says, in dB, what the fast colours cost against the field's own.
        """
        exact, fast = round(before.psnr, 4), round(after.psnr, 4)
        dials = {"profile": preset.profile, **preset.dials(self.field)}
        if after.views == WIDEST_VIEWS:
            dials |= preset.WIDEST_DIALS
        web = {"fast": {"psnr": fast, "exact_psnr": exact, "loss": round(exact - fast, 4)}}
        scores = {
            "test": {"n_views": len(self.scene.test), "psnr": fast, "ssim": round(after.ssim, 5)},
            "field_test": {"psnr": exact, "ssim": round(before.ssim, 5)},
            **(web if preset.profile == "web" else {}),
        }
        metadata = {
            "generator": f"vqrf {__version__}",
            "training": dict(self.notes),
            "compression": {"preset": preset.name, **dials},
            **(scores if self.scene.test else {}),
        }
        return self.about.added_to(metadata)

    def pictures(self, small: RadianceField) -> dict[int, Float32]:
        """The renders that a page shows, by the number of their view."""
        views, field = self.compared, small.with_background(self.scene.background)
        return {number: render(field, views[number].camera).rgb for number in sorted(spread(len(views), PAGE_VIEWS))}

    def check(self) -> None:
        """Refuse what cannot be, before any work.

        Raises:
          JobError: the goal, or the views that should score.
        """
        try:
            self.goal.check()
            self.preset.check([view.camera for view in self.scene.train])
        except ValueError as error:
            raise JobError(str(error)) from None
        if not self.scene.test and (self.goal.max_drop is not None or self.goal.target_psnr is not None):
            raise JobError(f"{self.scene.name}: has no photos held out, and so no PSNR to aim at; name a size or a quality")
        for view in self.compared:
            height, width = view.image.shape[:2]
            if min(height, width) < SSIM_WINDOW:
                reason = f"is {width}x{height}, scores need at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels"
                raise JobError(f"{view.name}: {reason}")

    def write(
        self,
        out: str | Path,
        page: str | Path | None = None,
        *,
        overwrite: bool = False,
        watch: Watch = SILENT,
        kept: Path | None = None,
    ) -> Made:
        """Do the job: write the file and, if it is named, the page that shows what compression cost.

        The same call goes on after it was killed, and ends in the same bytes.

        Args:
          overwrite: replace what is there, and forget what was tried beside it.
          kept: a folder for what files of other goals begin with; see at the head of this module.

        Raises:
          JobError: the file is there already, the goal cannot be met, or the field holds nothing that a photo sees.
          StorageError: what is kept beside the file belongs to another field, other photos or other settings.
        """
        self.check()
        desk = Desk(self, Path(out), kept)
        if overwrite:
            desk.clear(is_anew=True)
        mark = desk.mark()
        if mark is None and desk.out.is_file() and not overwrite:
            raise JobError(f"{out}: is there already; give --overwrite")
        start = time.perf_counter()
        before = desk.score_field(watch)
        if mark is not None:
            made, after = desk.finished(mark, before.evaluation, watch)
        else:
            made, after = desk.made(before.evaluation, start, watch)
        if page is not None:
            self._write_page(Path(page), desk.out.name, made, before, after)
        desk.clear()
        return made

    def least_bytes(self, before: Evaluation) -> int:
        """Of a file of this field with next to no voxel in it: header, metadata, tables and the network as it begins."""
        start = self.field
        if self.preset.profile == "web" and not is_fast(start):
            features = np.zeros((*start.lattice.shape, BAKE_CHANNELS), np.float32)
            equation = replace(start.equation, shading="sh", feature_frequencies=0)
            start = replace(start, features=features, color_mlp=(), equation=equation)
        spike = np.zeros(start.lattice.shape)
        spike[np.unravel_index(np.argmax(start.density), spike.shape)] = 1.0
        cheapest = self.preset.at_quality(0).with_steps(0)
        small = cheapest.tune(
            start, spike, Tuning(RayPool(self.scene.train[:1]), cheapest.rays_per_step, self.seed, self.device)
        )
        metadata = self.describe(self.preset, replace(before, views=WIDEST_VIEWS), before)
        return len(encode(replace(small, metadata=metadata)))

    def _write_page(self, page: Path, name: str, made: Made, before: Scored, after: Scored) -> None:
        views = enumerate(self.compared)
        rows = [ReportRow(v.name, v.colors(), before.images[i], after.images[i]) for i, v in views if i in after.images]
        write_report(
            page,
            title=f"{self.scene.name}: {made.n_bytes / MEGABYTE:.2f} MB" + ("" if self.scene.test else NO_SCORE),
            rows=rows,
            before=before.evaluation,
            after=made.after,
            grid_bytes=self.field.grid_bytes,
            settings={**self.settings(made.preset), **made.preset.dials(self.field), "training": self.notes},
            scene=self._scene_of(made.data, name),
        )

    def _scene_of(self, data: bytes, name: str) -> Exhibit | None:
        """None of what nothing can draw, which the file's own `info` says."""
        small = decode(data)
        return None if drawing_fault_of(small) else exhibit(data, name, about_of(small.metadata))


@dataclass(frozen=True, eq=False)
class Desk:
    """The file of a job, and what lies beside it while the job goes on. Beside a device nothing does."""

    job: Job
    out: Path
    kept: Path | None = None

    @property
    def is_device(self) -> bool:
        """Whether the file is something that is written to and not replaced: a device, a pipe."""
        return self.out.exists() and not self.out.is_file()

    def beside(self, ending: str) -> Path:
        return self.out.with_name(f"{self.out.name}.{ending}")

    def lasting(self, ending: str, fingerprint: str) -> Path:
        """For what files of other goals begin with."""
        return self.beside(ending) if self.kept is None else self.kept / f"{fingerprint}.{ending}"

    def checkpoints(self, preset: Preset[Any]) -> Checkpoints:
        """Where the tunings are saved."""
        if self.is_device:
            return Checkpoints()
        found = Checkpoints()
        for stage in preset.stages():
            mark = self.job.fingerprint_of_tuning(preset, stage)
            found[stage] = Checkpoint(self.beside("checkpoint") if stage == "tune" else self.lasting(stage, mark), mark)
        return found

    def journal(self) -> Journal:
        """What a search has tried."""
        mark = self.job.fingerprint(self.job.settings(self.job.preset))
        return Journal(None if self.is_device else self.lasting("search.json", mark), mark)

    def score_field(self, watch: Watch) -> Scored:
        """The field's own scores, as they were kept if they were."""
        job = self.job
        if self.kept is None:
            return job.score(job.field, watch)
        path = self.lasting("scores.json", fingerprint_of(job.field, replace(job.scene, train=job.compared), job.notes, {}))
        try:
            return Scored(Evaluation.of_facts(json.loads(path.read_bytes())), job.pictures(job.field))
        except (OSError, ValueError, KeyError, TypeError):
            scored = job.score(job.field, watch)
            write_atomically(path, json.dumps(scored.evaluation.facts()).encode())
            return scored

    def goal_mark(self) -> str:
        """Of the whole job, its goal included."""
        return self.job.fingerprint(
            {**self.job.settings(self.job.preset), "goal": asdict(self.job.goal), "about": self.job.about.entry()}
        )

    def mark(self) -> dict[str, Any] | None:
        """What was noted when this very job wrote the file that lies there; None where it did not."""
        path = self.beside("unfinished")
        try:
            tree = json.loads(path.read_bytes())
            is_mine = tree["fingerprint"] == self.goal_mark() and tree["crc32"] == zlib.crc32(self.out.read_bytes())
            return dict(tree) if is_mine else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def clear(self, *, is_anew: bool = False) -> None:
        """Remove what the job needs no more; what a search has tried only where it begins anew. Nothing that is kept."""
        for stage, checkpoint in self.checkpoints(self.job.preset).items():
            if self.kept is None or stage == "tune":
                checkpoint.remove()
        if is_anew and self.kept is None:
            self.journal().clear()
        if not self.is_device:
            remove_stale(self.out.resolve().parent)
            self.beside("unfinished").unlink(missing_ok=True)  # last: without it the job has ended

    def finished(self, mark: Mapping[str, Any], before: Evaluation, watch: Watch) -> tuple[Made, Scored]:
        """What was written before the job was killed."""
        data = self.out.read_bytes()
        after, facts = self.job.score(expand(decode(data)), watch), mark["facts"]
        preset = self.job.preset if facts is None else self.job.preset.at_quality(facts["chosen"]["quality"])
        return self._told(data, preset, before, after, facts, float(mark["seconds"]))

    def made(self, before: Evaluation, start: float, watch: Watch) -> tuple[Made, Scored]:
        """Compress, and write the file with what is measured of it."""
        job, facts = self.job, None
        try:
            if job.goal.is_searched:
                found = self._search(before, watch)
                preset, small, facts = job.preset.at_quality(found.trial.quality), found.result, found.facts()
            else:
                preset = job.preset
                small = job.compress(preset, self.checkpoints(preset), watch)
        except ValueError as error:
            raise JobError(f"{self.out}: {error}") if type(error) is ValueError else error from None
        after = job.score(expand(small), watch)
        data = encode(replace(small, metadata=job.describe(preset, after.evaluation, before)))
        seconds = round(time.perf_counter() - start, 1)
        if not self.is_device:
            mark = {"fingerprint": self.goal_mark(), "crc32": zlib.crc32(data), "facts": facts, "seconds": seconds}
            write_atomically(self.beside("unfinished"), json.dumps(mark).encode())
        write_atomically(self.out, data)
        return self._told(data, preset, before, after, facts, seconds)

    def _told(
        self,
        data: bytes,
        preset: Preset[Any],
        before: Evaluation,
        after: Scored,
        facts: Mapping[str, Any] | None,
        seconds: float,
    ) -> tuple[Made, Scored]:
        sizes = {name: size for name, _, size in sections(data)}
        told = replace(after.evaluation, file_bytes=len(data), sections=sizes)
        return Made(data, preset, before, told, facts, seconds), after

    def _search(self, before: Evaluation, watch: Watch) -> Found[Compressed]:
        """Turn the preset's dial until the goal is met."""
        job, goal = self.job, self.job.goal
        target = target_of(goal, before)
        if target.kind == "size" and target.value < SURE_SHARE * (least := job.least_bytes(before)):
            raise ValueError(f"cannot be met: a file with next to nothing of the field in it has {least} bytes")

        def tune(preset: Preset[Any]) -> Compressed:
            checkpoints = self.checkpoints(preset)
            small = job.compress(preset, checkpoints, watch)
            if "tune" in checkpoints:  # the stages before it are what the next trial begins with
                checkpoints["tune"].remove()
            return small

        dial = FieldDial(
            base=job.preset,
            tune=tune,
            score=lambda small: job.score(expand(small), watch, with_ssim=False).evaluation.psnr,
            metadata=job.describe(job.preset, replace(before, views=WIDEST_VIEWS), before),
        )
        return search(dial, target, self.journal(), on_trial=watch.trial)


def fingerprint_of(field: RadianceField, scene: Scene, notes: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """A short name of a whole field, of the photos that it learns from, of its notes, and of settings of JSON types."""
    return fingerprint(scene, {**settings, "training": dict(notes), "field": field_checksum(field)})


def target_of(goal: Goal, before: Evaluation) -> Target:
    """What a search is for, where the field's own scores are known."""
    if goal.target_size is not None:
        return Target("size", float(goal.n_bytes()))
    value = before.psnr - goal.max_drop if goal.max_drop is not None else goal.target_psnr
    return Target("psnr", float(value or 0))


def spread(n: int, most: int) -> set[int]:
    """At most `most` of the numbers 0..n-1, evenly spread."""
    chosen = min(n, most)
    return {round(i * (n - 1) / max(chosen - 1, 1)) for i in range(chosen)}


def compress_file(
    field: RadianceField,
    scene: Scene,
    out: str | Path,
    preset: str | Preset[Any] = "compact",
    goal: Goal = NO_GOAL,
    *,
    page: str | Path | None = None,
    notes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Made:
    """Compress a field into a .vqrf file: all that `vqrf compress` does, in one call.

    The same call goes on after it was killed, and draws bars where there is a terminal. A seed, a device, or somebody else to
    hear of its progress: see `Job`.

    Args:
      preset: "compact", "paper", "demo", or settings such as `CompactPreset(bit_price=1e-9)`.
      goal: such as `Goal(target_size="500kB")`; a search tunes several times.
      page: where an HTML page goes that shows what compression cost.
      notes: how the field was trained, for the file, besides what the scene says of itself; `vqrf eval` reads the photos by it.
      overwrite: replace what is there.

    Raises:
      ValueError: the file is there already, the goal cannot be met, or no photo sees anything of the field.
    """
    chosen = preset_of(preset)
    goal.check()
    at_goal = chosen if goal.quality is None else chosen.at_quality(goal.quality)
    said = {**notes_of_scene(scene), **(notes or {})}
    return Job(field, scene, at_goal, goal, said).write(out, page, overwrite=overwrite, watch=Shown())


def notes_of_scene(scene: Scene) -> dict[str, Any]:
    """What a file says of the photos, with which they are read again as they were."""
    background = hex_of(scene.background)
    return {"scene": scene.name, "downscale": scene.downscale, "hold_out": scene.hold_out, "background": background}
