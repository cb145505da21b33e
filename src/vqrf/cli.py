"""Words -> calls. Every verb is a dataclass of its flags and a `run`; what it does is in the other rooms.

Errors that a user can cause end in one line on the error stream and exit code 2; nothing half-written is left.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vqrf import __version__
from vqrf.bitstream import decode, encode, sections, verify
from vqrf.builtin import built_in_scene
from vqrf.compressed import CODED, KEPT, PRUNED, CompressedField
from vqrf.evaluate import SSIM_WINDOW, Evaluation, evaluate
from vqrf.field import RadianceField, expand
from vqrf.files import write_atomically
from vqrf.kernels import has_native
from vqrf.render import save_image
from vqrf.report import ReportRow, write_report
from vqrf.scene import Background, Scene, SceneError, View, load_scene, save_scene
from vqrf.storage import Checkpoint, StorageError, checksum, fingerprint, load_field, save_field

if TYPE_CHECKING:
    from vqrf.compress import CompressConfig
    from vqrf.train import Progress as TrainProgress

EXIT_BAD_INPUT = 2
FIELD_FILE, CONFIG_FILE, METRICS_FILE = "field.safetensors", "config.json", "metrics.jsonl"
METRICS_STEPS = 100
REPORT_VIEWS = 4
MEGABYTE = 10**6
MAX_SEED = (1 << 63) - 1
"""The largest that PyTorch's generator takes."""

NO_CORE = "vqrf: the compiled core is missing: using the slow reference kernels"


class UsageError(ValueError):
    """What was asked for cannot be done; the message says why."""


@dataclass(frozen=True)
class Common:
    """Flags of the verbs that work for a while.

    Attributes:
      seed: of everything random.
      threads: of the CPU kernels; all CPUs if 0. Results do not depend on it.
      device: where to train: cpu, or a torch device such as cuda.
      quiet: print nothing but results.
      overwrite: replace what is there.
    """

    seed: int = 0
    threads: int = 0
    device: str = "cpu"
    quiet: bool = False
    overwrite: bool = False


CommonFlags = Annotated[Common, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Train:
    """Train a field on the photos of a dataset folder; the same command goes on after it was killed."""

    data: tyro.conf.Positional[Path]
    """Dataset folder (Blender transforms_*.json)."""
    out: Path
    """Run folder to write."""
    preset: Literal["demo", "quick", "standard", "large"] = "standard"
    """Size of the images and the grid: 200/112^3, 400/128^3, 800/160^3, 800/256^3."""
    downscale: int = 0
    """Average n x n pixels to one; 0: what the preset's image size asks for."""
    background: Background = "white"
    """What stands behind transparent pixels."""
    common: CommonFlags = Common()

    def run(self) -> None:
        scene, downscale = load_sized(self.data, self.preset, self.downscale, self.background)
        train_into(self.out, scene, self.preset, {"downscale": downscale, "background": self.background}, self.common)


@dataclass(frozen=True)
class Compress:
    """Compress a trained field into one .vqrf file, tuning it on the photos it was trained on."""

    field: tyro.conf.Positional[Path]
    """Run folder that `train` wrote."""
    data: Path
    """Dataset folder."""
    out: Path
    """The .vqrf file to write."""
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
        except ValueError as error:
            raise UsageError(str(error)) from None
        expect_writable(self.out, self.common)
        report = self.report or self.out.with_suffix(".html")
        expect_writable(report, self.common)
        if report.resolve() == self.out.resolve():
            raise UsageError(f"{report}: cannot be both the file and its report; give --report")
        field, notes = load_run(self.field)
        scene = load_like(notes, self.data, ("train", "test"))
        expect_scorable(scene.test)
        compress_into(self.out, report, field, notes, scene, self.preset, config, self.common)


@dataclass(frozen=True)
class Render:
    """Render the views of a dataset's split from a .vqrf file or a run folder into PNG files."""

    scene: tyro.conf.Positional[Path]
    """A .vqrf file or a run folder."""
    data: Path
    """Dataset folder, for its cameras."""
    out: Path
    """Folder for the images."""
    split: Literal["train", "test"] = "test"
    every: int = 1
    """Of the test split, take every n-th view."""
    downscale: int = 0
    """0: as trained."""
    common: CommonFlags = Common()

    def run(self) -> None:
        from vqrf.render import render

        field, notes, _ = load_any(self.scene)
        scene = load_like(notes, self.data, (self.split,), self.downscale, self.every)
        if self.out.exists() and any(self.out.iterdir()) and not self.common.overwrite:
            raise UsageError(f"{self.out}: is not empty; give --overwrite")
        volume = field.with_background(scene.background).volume()
        views = getattr(scene, self.split)
        self.out.mkdir(parents=True, exist_ok=True)
        with progress_bar("render", len(views), self.common.quiet) as advance:
            for view in views:
                save_image(render(volume, view.camera).rgb, self.out / f"{Path(view.name).name}.png")
                advance(1, "")
        say(self.common.quiet, f"wrote {len(views)} images to {self.out}")


@dataclass(frozen=True)
class Eval:
    """Score a .vqrf file or a run folder on a dataset's views: PSNR, SSIM, bytes."""

    scene: tyro.conf.Positional[Path]
    """A .vqrf file or a run folder."""
    data: Path
    """Dataset folder."""
    split: Literal["train", "test"] = "test"
    every: int = 1
    """Of the test split, take every n-th view."""
    downscale: int = 0
    """0: as trained."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""
    common: CommonFlags = Common()

    def run(self) -> None:
        field, notes, sizes = load_any(self.scene)
        scene = load_like(notes, self.data, (self.split,), self.downscale, self.every)
        views = getattr(scene, self.split)
        expect_scorable(views)
        result = score(field, views, scene.background, self.common.quiet or self.as_json)
        if sizes is not None:
            result = replace(result, file_bytes=sum(sizes.values()), sections=sizes)
        print(result.to_json() if self.as_json else describe(result, views[0].image.shape))


@dataclass(frozen=True)
class Info:
    """Say what is in a .vqrf file or a run folder."""

    scene: tyro.conf.Positional[Path]
    """A .vqrf file or a run folder."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""

    def run(self) -> None:
        facts = facts_of(self.scene)
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

    def run(self) -> None:
        data = read_bytes(self.scene)
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
        compress_into(out, report, field, notes, scene, "demo", PRESETS["demo"], self.common)
        with named(out):
            verify(read_bytes(out))
        say(self.common.quiet, f"done in {time.perf_counter() - start:.0f} s; open {report}")


def load_sized(data: Path, preset: str, downscale: int, background: Background) -> tuple[Scene, int]:
    """The training views at the preset's size, and by how much they were averaged down."""
    from vqrf.train import PRESETS

    if downscale < 0:
        raise UsageError(f"--downscale: expected 0 or more, got {downscale}")
    scene = load_scene(data, splits=("train",), downscale=max(downscale, 1), background=background)
    width = scene.train[0].camera.width
    if downscale == 0 and width > PRESETS[preset].image_side:
        downscale = max(1, width // PRESETS[preset].image_side)
        scene = load_scene(data, splits=("train",), downscale=downscale, background=background)
    return scene, max(downscale, 1)


def load_like(notes: dict[str, Any], data: Path, splits: tuple[str, ...], downscale: int = 0, every: int = 1) -> Scene:
    """The dataset as the field was trained on it: same downscale (unless given), same background.

    Notes may come from any file, so they are asked for and not believed.
    """
    background: Background = "black" if notes.get("background") == "black" else "white"
    if every < 1 or downscale < 0:
        raise UsageError(f"expected --every at least 1 and --downscale at least 0, got {every} and {downscale}")
    trained = notes.get("downscale")
    size = downscale or (trained if isinstance(trained, int) and trained > 0 else 1)
    return load_scene(data, splits=splits, downscale=size, background=background, every=every)


def expect_scorable(views: Sequence[View]) -> None:
    """Refuse views, all of one size, that SSIM cannot score."""
    height, width = views[0].image.shape[:2]
    if min(height, width) < SSIM_WINDOW:
        raise UsageError(f"{views[0].name}: is {width}x{height}, scores need at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels")


def expect_writable(path: Path, common: Common) -> None:
    """Refuse, before long work, a file that cannot be written or is to stay."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, expected a file to write")
    if path.is_file() and not common.overwrite:
        raise UsageError(f"{path}: is there already; give --overwrite")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise UsageError(f"{path}: there is no folder {folder}")
    if not os.access(path if is_device(path) else folder, os.W_OK):
        raise UsageError(f"{path}: cannot be written")


def is_device(path: Path) -> bool:
    """Whether something is there that is written to and not replaced: a device, a pipe."""
    return path.exists() and not path.is_file()


def train_into(run: Path, scene: Scene, preset: str, images: dict[str, Any], common: Common) -> None:
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
        field = fit(scene, config, seed=common.seed, device=common.device, report=report, run=run)
    seconds = time.perf_counter() - start
    save_field(run / FIELD_FILE, field, notes=notes)
    clear_run(run)
    say(common.quiet, f"trained in {seconds:.0f} s; wrote {run / FIELD_FILE}")


def compress_into(
    out: Path,
    report_path: Path,
    field: RadianceField,
    notes: dict[str, Any],
    scene: Scene,
    preset: str,
    config: CompressConfig,
    common: Common,
) -> None:
    """Compress, write, read back, score the file that was read back, and write the report."""
    from vqrf.compress import compress

    start = time.perf_counter()
    settings = {"preset": preset, **asdict(config), "seed": common.seed}
    checkpoint = None
    if not is_device(out):
        begun_with = fingerprint(scene, {**settings, **notes, "density": checksum({"density": field.density}, "")})
        checkpoint = Checkpoint(out.with_name(f"{out.name}.checkpoint"), begun_with)
        if common.overwrite:
            checkpoint.remove()
    before, field_images = score_with_images(field, scene, common.quiet)
    stages = {"bake": config.bake_steps} if config.profile == "web" else {}
    with step_bars({**stages, "tune": config.steps}, None, common.quiet) as report:
        small = compress(field, scene, config, seed=common.seed, device=common.device, report=report, checkpoint=checkpoint)
    after, images = score_with_images(expand(small), scene, common.quiet)
    seconds = round(time.perf_counter() - start, 1)
    dials = {"preset": preset, "profile": config.profile, "prune": config.prune, "keep": config.keep}
    data = encode(replace(small, metadata=metadata_of(notes, dials, before, after)))
    write_atomically(out, data)
    if checkpoint is not None:
        checkpoint.remove()
    sizes = {name: size for name, _, size in sections(data)}
    after = replace(after, file_bytes=len(data), sections=sizes)
    chosen = spread(len(scene.test), REPORT_VIEWS)
    rows = [ReportRow(v.name, v.colors(), field_images[i], images[i]) for i, v in enumerate(scene.test) if i in chosen]
    write_report(
        report_path,
        title=f"{scene.name}: {len(data) / MEGABYTE:.2f} MB",
        rows=rows,
        before=before,
        after=after,
        grid_bytes=field.grid_bytes,
        settings={**settings, **{f"training: {k}": v for k, v in notes.items()}},
    )
    say(
        common.quiet,
        f"{out}: {len(data)} bytes ({len(data) / MEGABYTE:.3f} MB), 1/{field.grid_bytes / len(data):.0f} of the grids; "
        f"PSNR {before.psnr:.2f} -> {after.psnr:.2f} dB ({after.psnr - before.psnr:+.2f}); {seconds:.0f} s; "
        f"report {report_path}",
    )
    if config.profile == "web":
        say(common.quiet, f"fast colours cost {before.psnr - after.psnr:.2f} dB against the exact ones of the field")


def metadata_of(notes: dict[str, Any], dials: dict[str, Any], before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """What a file says of itself; no times, so that two runs write the same file.

    A file of the profile `web` also says what its fast colours cost against the exact ones of the field, in dB.
    """
    metadata = {
        "generator": f"vqrf {__version__}",
        "training": notes,
        "compression": dials,
        "test": {"n_views": len(after.views), "psnr": round(after.psnr, 4), "ssim": round(after.ssim, 5)},
        "field_test": {"psnr": round(before.psnr, 4), "ssim": round(before.ssim, 5)},
    }
    if dials["profile"] == "web":
        exact, fast = round(before.psnr, 4), round(after.psnr, 4)
        metadata["fast"] = {"psnr": fast, "exact_psnr": exact, "loss": round(exact - fast, 4)}
    return metadata


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


def describe(result: Evaluation, shape: tuple[int, ...]) -> str:
    """Scores as a short text."""
    lines = [
        f"{len(result.views)} views of {shape[1]}x{shape[0]}",
        f"PSNR {result.psnr:.3f} dB",
        f"SSIM {result.ssim:.4f}",
        f"{result.seconds_per_view:.2f} s per view",
    ]
    if result.file_bytes is not None and result.sections is not None:
        lines.append(f"{result.file_bytes} bytes, {result.file_bytes / MEGABYTE:.3f} MB")
        lines += [f"  {name:6} {size:9}" for name, size in result.sections.items()]
    return "\n".join(lines)


def facts_of(path: Path) -> dict[str, Any]:
    """What `info` prints."""
    if path.is_dir():
        field, notes = load_run(path)
        return {
            "kind": "trained field",
            "shape": list(field.lattice.shape),
            "channels": field.n_channels,
            "shading": field.shading,
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
        "layers": [list(weight.shape if hasattr(weight, "shape") else weight.levels.shape) for weight, _ in small.color_mlp],
        "sections": sizes,
    }
    return {**facts, **small.metadata, **facts}  # what a file says of itself comes after, and replaces nothing


def read_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, expected a .vqrf file")
    return path.read_bytes()


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Put the file's name before what is said to be wrong with its bytes."""
    try:
        yield
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


def load_compressed(path: Path) -> tuple[CompressedField, dict[str, int]]:
    data = read_bytes(path)
    with named(path):
        return decode(data), {name: size for name, _, size in sections(data)}


def load_run(path: Path) -> tuple[RadianceField, dict[str, Any]]:
    if not path.is_dir():
        raise UsageError(f"{path}: is no run folder")
    if not (path / FIELD_FILE).exists():
        raise UsageError(f"{path}: holds no {FIELD_FILE}; is it a run folder, and has its training ended?")
    return load_field(path / FIELD_FILE)


def load_any(path: Path) -> tuple[RadianceField, dict[str, Any], dict[str, int] | None]:
    """A field, how its images were prepared, and the bytes by section where it came from a .vqrf file."""
    if path.is_dir():
        return *load_run(path), None
    small, sizes = load_compressed(path)
    with named(path):
        field = expand(small)
    notes = small.metadata.get("training")
    return field, notes if isinstance(notes, dict) else {}, sizes


def set_up(verb: Train | Compress | Render | Eval | Demo) -> None:
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


def say(quiet: bool, text: str) -> None:
    if not quiet:
        print(text, flush=True)


class RateColumn(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f}/s", style="cyan")


Advance = Callable[[int, str], None]


def bars_on_terminal(quiet: bool) -> Progress:
    """Bars with a rate and an ETA on a terminal; nothing where the error stream is none, or when quiet."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description:>7}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        RateColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=quiet or not console.is_terminal,
    )


@contextmanager
def progress_bar(name: str, total: int, quiet: bool) -> Iterator[Advance]:
    with bars_on_terminal(quiet) as bars:
        task = bars.add_task(name, total=total, note="")
        yield lambda completed, note: bars.update(task, advance=completed, note=note)


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


Verb = Train | Compress | Render | Eval | Info | Verify | Demo


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb, of the command line unless `arguments` are given; exit with 2 and one line where the input is bad."""
    description = "Volumetric radiance fields small enough to send, embed and keep."
    verb = tyro.cli(Verb, prog="vqrf", description=description, args=arguments)
    try:
        if not isinstance(verb, Info | Verify):
            set_up(verb)
        verb.run()
        return
    except (SceneError, StorageError, UsageError) as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        reason = "this needs PyTorch: pip install 'vqrf[train]'"
    print(f"vqrf: {' '.join(reason.splitlines())}", file=sys.stderr)
    sys.exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
