"""The verb `train`: photos to a run folder."""

from __future__ import annotations

import json
import os
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from vqrf.cli.dataset import PhotoFlags, Photos, flags_named, lines_of
from vqrf.cli.progress import reading_bar, step_bars, tell_plan
from vqrf.cli.terminal import Common, CommonFlags, UsageError, say
from vqrf.cli.view import showing
from vqrf.codec.about import NOTHING
from vqrf.data.listing import color_name
from vqrf.data.load import ReadReport, load_scene
from vqrf.data.scene import Scene
from vqrf.data.splits import OWN
from vqrf.fields.field import RadianceField
from vqrf.fields.run import FACTORS_FILE, FIELD_FILE, about_of_notes, load_run
from vqrf.files import remove_stale, write_atomically
from vqrf.memory import expect_room, training_budget
from vqrf.rendering.poster import view_amid

if TYPE_CHECKING:
    from vqrf.training.run import Run
    from vqrf.training.stages import TrainConfig
    from vqrf.training.train import FieldModel, Watch

CONFIG_FILE, METRICS_FILE = "config.json", "metrics.jsonl"


@dataclass(frozen=True)
class Train:
    """Train a radiance field on a dataset, and write a run folder. If it is stopped, the same command continues."""

    data: tyro.conf.Positional[Path]
    """Dataset folder: photos with their cameras, in the layout of Blender, instant-ngp, nerfstudio, COLMAP, LLFF or NSVF."""
    out: Path
    """Run folder to write; it will hold the trained field."""
    preset: Literal["demo", "quick", "standard", "large"] | None = None
    """Size of photos and grid, and what they take on two CPU cores.
    demo: 200x200 pixels, 112^3 voxels, 2 minutes.
    quick: 400x400, 128^3, 6 minutes, 1.3 GB of memory.
    standard: 800x800, 160^3, 9 to 15 minutes, 2.2 GB, lego 34.4 dB.
    large: 800x800, 256^3, 21 minutes, 6.3 GB, lego 35.5 dB.
    Without it: standard, with fewer steps for few photos of a thing."""
    base: Literal["dvgo", "plenoxels", "tensorf", "tensorf-cp"] = "dvgo"
    """Kind of field.
    dvgo: voxels and a colour network.
    plenoxels: voxels with spherical harmonics, no network; quick (128^3) or standard (256^3) alone.
    tensorf: planes times lines; quick (128^3) or standard (300^3, 50 minutes) alone.
    tensorf-cp: lines alone; quick (128^3) or standard (200^3) alone.
    The last two also write a checkpoint of TensoRF."""
    steps: int | None = None
    """Number of steps of the second, longer stage. Without it, the preset's. Its grid grows at the same shares of them."""
    downscale: int = 0
    """Average n x n pixels into one. 0: as the preset's size of photos needs."""
    background: str | None = None
    """Colour behind everything: white, black, or #rrggbb.
    Without it: white behind transparent photos; of others their plain border, white or black, or their mean colour."""
    exposure: bool = False
    """Learn how the photos differ in exposure and white balance, and correct it. Costs some sharpness if they do not differ."""
    view: bool = False
    """Show the field in the browser during training."""
    photos: PhotoFlags = Photos()
    common: CommonFlags = Common()

    def run(self) -> None:
        from vqrf.training.stages import FEWEST_STEPS, MOST_STEPS

        if self.steps is not None and not FEWEST_STEPS <= self.steps <= MOST_STEPS:
            raise UsageError(f"--steps: expected {FEWEST_STEPS} to {MOST_STEPS}, got {self.steps}")
        self.train(*self.load())

    @property
    def name(self) -> str:
        """Of the settings, among the presets of `vqrf.training`."""
        size = self.preset or "standard"
        return size if self.base == "dvgo" else f"{self.base}-{size}"

    def load(self) -> tuple[Scene, dict[str, Any]]:
        """The photos, and notes of how they were prepared."""
        with reading_bar(self.common.quiet) as report:
            return load_sized(self.data, self.name, self.downscale, self.background, self.photos, report)

    def train(self, scene: Scene, images: dict[str, Any]) -> None:
        """Train on photos that are loaded."""
        from vqrf.training.stages import PRESETS, suited_to
        from vqrf.training.workers import is_first, joined

        config = replace(PRESETS[self.name], learns_exposure=self.exposure).in_space(scene.space)
        if self.steps is not None:
            config = replace(config, fine=config.fine.with_steps(self.steps))
        elif self.preset is None:
            config = suited_to(config, sum(view.camera.width * view.camera.height for view in scene.train))
        shows = self.view and is_first()
        with joined(self.common.device), showing(scene.name, about_of_notes(images)) if shows else nullcontext() as watch:
            train_into(self.out, scene, self.name, config, images, self.common, watch)


def load_sized(
    data: Path,
    preset: str,
    downscale: int,
    background: str | None,
    photos: Photos,
    report: ReadReport | None = None,
) -> tuple[Scene, dict[str, Any]]:
    """The training views at the preset's size, and notes: how to prepare photos of the same dataset alike and, of photos of a
    place, near where people are to stay. `report` is that of `SceneOptions`."""
    from vqrf.training.stages import PRESETS

    if downscale < 0 or preset not in PRESETS:
        raise UsageError(f"expected --downscale 0 or more and a preset of {', '.join(PRESETS)}, got {downscale} and {preset}")
    side = PRESETS[preset].image_side
    with flags_named():
        scene = load_scene(
            data,
            splits=("train",),
            downscale=downscale or None,
            side=side,
            background=background,
            options=photos.options(report),
        )
    images: dict[str, Any] = {"downscale": scene.downscale, "background": color_name(scene.background)}
    if len({(view.camera.width, view.camera.height) for view in scene.train}) > 1 and not downscale:
        images["side"] = side  # each photo is averaged as far as its own size asks for
    if scene.hold_out != OWN:
        images["hold_out"] = scene.hold_out
    if photos.axes is not None:
        images["axes"] = photos.axes
    if scene.up != (0.0, 0.0, 1.0):
        images["up"] = list(scene.up)
    if scene.masked:
        images["masks"] = {"mean": scene.masked, "is_inverted": photos.masks_inverted}
        images["masks"]["folder"] = None if photos.masks is None else str(photos.masks)
    shows_place = scene.contrast and scene.space != "front"
    amid = view_amid([view.camera for view in scene.train], scene.up) if shows_place else None
    return scene, (amid or NOTHING).added_to(images)


def train_into(
    run: Path,
    scene: Scene,
    preset: str,
    config: TrainConfig,
    images: dict[str, Any],
    common: Common,
    watch: Watch | None = None,
) -> None:
    """Train into a run folder, or go on with what is in it.

    Args:
      preset: the name that the field's notes have; config: its settings, or what became of them.

    Raises:
      OverBudget: the training takes more memory than it may.
      UsageError: there is a field already, or nothing came of the training: where that is clear after the coarse stage nothing
        is kept of it, and otherwise the field is, to look at.
    """
    from vqrf.training.cost import estimate_bytes
    from vqrf.training.run import Run, save_run
    from vqrf.training.verdict import judge, remarks_on
    from vqrf.training.workers import decided, is_first

    kept = Run.of(run, scene, config, common.seed)
    notes = {**images, "preset": preset, "seed": common.seed, "scene": scene.name, "n_train": len(scene.train)}
    n_bytes = estimate_bytes(config, scene) if common.device == "cpu" else None
    if not decided(lambda: _claim(run, kept, {**notes, "config": asdict(config)}, common, n_bytes)):
        return
    for line in (*lines_of(scene), *remarks_on(scene)):
        say(common.quiet, line)
    start = time.perf_counter()
    model = _trained(run, scene, config, common, n_bytes, watch)
    if not is_first():
        return
    field, factors = model.field(), model.grid.factors()
    if model.exposures is not None:
        notes["exposures"] = model.exposures
    fault = judge(field, scene, "fine")
    save_run(run, scene, field, factors, notes if fault is None else {**notes, "fault": fault})
    if factors is not None and field.lattice.space is None:
        say(common.quiet, f"wrote {run / FACTORS_FILE}")
    say(common.quiet, f"trained in {time.perf_counter() - start:.0f} s; wrote {run / FIELD_FILE}")
    if fault is not None:
        raise UsageError(f"{run / FIELD_FILE}: {fault}")


def _claim(run: Path, kept: Run, record: dict[str, Any], common: Common, n_bytes: int | None) -> bool:
    """Make the run folder this training's own, with a record of its settings; False where nothing is left to train."""
    from vqrf.training.run import clear_run

    if not common.overwrite:
        is_begun = kept.is_begun()
        if is_begun and (run / FIELD_FILE).exists():
            finish_run(run, common)
            return False
        if (run / FIELD_FILE).exists():
            raise UsageError(f"{run}: holds a trained field already; give --overwrite to train it anew")
    if n_bytes is not None:
        expect_room(n_bytes, training_budget(), f"training {record['scene']}")
    if common.overwrite:
        for name in (FIELD_FILE, FACTORS_FILE, METRICS_FILE):
            (run / name).unlink(missing_ok=True)
        clear_run(run)
    run.mkdir(parents=True, exist_ok=True)
    remove_stale(run)
    write_atomically(run / CONFIG_FILE, json.dumps(record, indent=2).encode())
    return True


def _trained(
    run: Path, scene: Scene, config: TrainConfig, common: Common, n_bytes: int | None, watch: Watch | None
) -> FieldModel:
    """The model at the end of a training that tells of itself on the way."""
    from vqrf.training.cost import estimate_seconds
    from vqrf.training.run import clear_run
    from vqrf.training.train import fit_model
    from vqrf.training.verdict import judge
    from vqrf.training.workers import is_first

    def end_if_nothing(stage: str, field: RadianceField) -> None:
        fault = judge(field, scene, stage)
        if fault is not None:
            clear_run(run)
            for name in (CONFIG_FILE, METRICS_FILE):
                (run / name).unlink(missing_ok=True)
            raise UsageError(f"{run}: {fault}; nothing is kept")

    stages = config.steps()
    is_cpu = common.device == "cpu"
    seconds = estimate_seconds(config, scene, common.threads or os.cpu_count() or 1) if is_cpu else None
    what = f"training {scene.name} on {len(scene.train)} photos"
    tell_plan(common.quiet, what, stages, seconds, n_bytes)
    with step_bars(stages, run / METRICS_FILE if is_first() else None, common.quiet) as report:
        return fit_model(
            scene,
            config,
            seed=common.seed,
            device=common.device,
            report=report,
            run=run,
            watch=watch,
            judge=end_if_nothing,
        )


def finish_run(run: Path, common: Common) -> None:
    """Do what is left where a training was stopped after its field was safe."""
    from vqrf.training.run import clear_run

    notes = load_run(run)[1]
    clear_run(run)
    remove_stale(run)
    say(common.quiet, f"{run / FIELD_FILE}: was trained; what the training kept of itself is removed")
    if isinstance(notes.get("fault"), str):
        raise UsageError(f"{run / FIELD_FILE}: {notes['fault']}")
