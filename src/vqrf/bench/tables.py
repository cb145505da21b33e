"""The tables of the paper, ours: which fields and files each is about, how they are made, and the page that shows them.

A table needs fields, which are trained, and then files of these. Both are jobs: each has an id from all that its result depends
on, and a row in `fields.csv` or `files.csv`, which are the truth; the page and the plot are made of them. So tables share what
they have in common, and a run that was killed goes on: with the rows that are missing, a training or a tuning from where it
last saved.

Departs from the paper's tables: values of 8 bits and the entropy coder are in every file, as files of ours have no other form;
so the steps of the ablation are those before them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from vqrf import __version__
from vqrf.bench import runners
from vqrf.bench.curves import Row
from vqrf.bench.jobs import Case, Conditions, Source, base_of, mark_of
from vqrf.codec.bitstream import decode
from vqrf.codec.container import sections
from vqrf.compression.paper import PaperPreset
from vqrf.compression.preset import Preset
from vqrf.data.listing import color_name
from vqrf.data.load import load_scene
from vqrf.data.scene import Scene
from vqrf.fields.field import expand
from vqrf.fields.run import FIELD_FILE
from vqrf.files import write_atomically
from vqrf.training.cost import estimate_bytes
from vqrf.training.run import Run, clear_run, save_run
from vqrf.training.stages import PRESETS, TrainConfig
from vqrf.training.train import fit_model

TableName = Literal["main", "ablation", "sensitivity", "sections", "alternatives", "base"]
FIELDS_FILE, FILES_FILE = "fields.csv", "files.csv"

TableKey = tuple[str, str, str, str]
"""Scene, base, size and id."""

PRUNES, KEEPS, CODES, STEP_SHARES = (0.99, 0.999, 0.9999), (0.0, 0.3, 0.6, 0.8), (256, 1024, 4096, 16384), (0.0, 0.25, 0.5, 1.0)
"""What a table of sensitivity turns, one at a time: the published settings are among each."""


@dataclass(frozen=True)
class FieldJob:
    """A field that is to be trained.

    Attributes:
      data: the dataset's folder.
      base, size: of the preset of `train`, such as "tensorf" and "quick".
      id: a fingerprint of the training photos, the settings and the seed.
      memory: bytes that it takes at the most.
    """

    data: str
    scene: str
    base: str
    size: str
    id: str
    memory: int

    @property
    def key(self) -> TableKey:
        return self.scene, self.base, self.size, self.id

    @property
    def config(self) -> TrainConfig:
        return PRESETS[train_preset(self.base, self.size)]

    def folder(self, work: Path) -> Path:
        return work / "runs" / "-".join(self.key)


@dataclass(frozen=True)
class FieldRow:
    """A trained field.

    Attributes:
      psnr, ssim: means over the test views.
      grid_bytes: of density and features as float32.
      seconds: wall time of the training since it was last begun or gone on with.
      version: of the program that trained it.
    """

    scene: str
    base: str
    size: str
    id: str
    version: str
    psnr: float
    ssim: float
    grid_bytes: int
    seconds: float

    @property
    def key(self) -> TableKey:
        return self.scene, self.base, self.size, self.id


@dataclass(frozen=True)
class FileJob:
    """A file that is to be made.

    Attributes:
      run, data: folders of the field and of the photos.
      preset: all of its settings.
      id: a fingerprint of the field, its notes, the photos and the settings.
      field: the field's row.
    """

    run: str
    data: str
    preset: Preset[Any]
    id: str
    field: FieldRow
    memory: int

    @property
    def key(self) -> TableKey:
        return self.field.scene, self.field.base, self.field.size, self.id


@dataclass(frozen=True)
class FileRow:
    """A file.

    Attributes:
      settings: of the preset, by JSON, where they are not its own.
      psnr, ssim: means over the test views, of what the file decodes to.
      field_psnr, grid_bytes: of the field.
      seconds: wall time of compression and tuning since it was last begun or gone on with.
      sections: bytes by name, as JSON.
      version: of the program that made it.
    """

    scene: str
    base: str
    size: str
    id: str
    version: str
    settings: str
    n_bytes: int
    psnr: float
    ssim: float
    field_psnr: float
    grid_bytes: int
    seconds: float
    sections: str

    @property
    def key(self) -> TableKey:
        return self.scene, self.base, self.size, self.id


@dataclass(frozen=True)
class Scope:
    """What a table is about.

    Attributes:
      data: the folder of datasets.
      scenes: folders in it.
      bases, size: as of a `FieldJob`.
      presets: of compression, by name.
      conditions: what all jobs have in common; `work` is the folder of everything.
      runner: who does the jobs.
      tell: called with a line about every row that is new.
    """

    data: Path
    scenes: tuple[str, ...]
    bases: tuple[str, ...]
    size: str
    presets: tuple[str, ...]
    conditions: Conditions
    runner: runners.Runner = runners.run_in_turn
    tell: Callable[[str], None] = lambda line: None


Variants = dict[str, Preset[Any]]
"""What a table makes of every field: settings, by the names that its lines have."""


def train_preset(base: str, size: str) -> str:
    """The name of a preset of `train`."""
    return size if base == "dvgo" else f"{base}-{size}"


def variants_of(table: TableName, presets: Sequence[str], steps: int | None) -> Variants:
    """What a table makes of every field.

    Args:
      steps: of joint tuning, if not the preset's.
    """
    if table in ("main", "sections"):
        return {name: base_of(name, steps) for name in presets}
    paper = base_of("paper", steps)
    assert isinstance(paper, PaperPreset)
    if table == "ablation":
        untuned = replace(paper, steps=0)
        return {
            "pruning only": replace(untuned, keep=paper.prune),
            "+ codebook by plain clustering": replace(untuned, keep=0.0, is_weighted=False),
            "+ codebook weighted by importance": replace(untuned, keep=0.0),
            "+ kept voxels": untuned,
            "+ joint tuning": paper,
            "all, by plain clustering": replace(paper, is_weighted=False),
            "all, nothing kept": replace(paper, keep=0.0),
        }
    if table == "sensitivity":
        return {
            **{f"prune {value}": replace(paper, prune=value) for value in PRUNES},
            **{f"keep {value}": replace(paper, keep=value) for value in KEEPS},
            **{f"{value} codewords": replace(paper, n_codes=value) for value in CODES},
            **{
                f"{round(share * paper.steps)} steps": replace(paper, steps=round(share * paper.steps)) for share in STEP_SHARES
            },
        }
    return {}


# -------------------------------------------------------------------------------------------------------------- fields


def field_jobs(scope: Scope) -> list[FieldJob]:
    """The fields that a table needs.

    Raises:
      SceneError: a dataset cannot be used.
      ValueError: there is no preset of that name.
    """
    found = []
    for scene_name in scope.scenes:
        for base in scope.bases:
            if train_preset(base, scope.size) not in PRESETS:
                raise ValueError(f"there is no preset {train_preset(base, scope.size)} of train")
            folder, config = (scope.data / scene_name).resolve(), PRESETS[train_preset(base, scope.size)]
            scene = _photos(folder, config)
            mark = mark_of(Run.of(folder, scene, config, scope.conditions.seed).fingerprint)
            found.append(FieldJob(str(folder), scene_name, base, scope.size, mark, estimate_bytes(config, scene)))
    return found


def _photos(folder: Path, config: TrainConfig) -> Scene:
    return load_scene(folder, splits=("train",), side=config.image_side)


def train_field(job: FieldJob, *, conditions: Conditions) -> FieldRow:
    """Train a field into its run folder, or take the one that is there, and score it. Runs in any process."""
    run, start = job.folder(conditions.work), time.perf_counter()
    if not (run / FIELD_FILE).exists():
        scene = _photos(Path(job.data), job.config)
        model = fit_model(scene, job.config, seed=conditions.seed, device=conditions.device, run=run)
        notes: dict[str, Any] = {
            "downscale": scene.downscale,
            "background": color_name(scene.background),
            "hold_out": scene.hold_out,
        }
        notes |= {"preset": train_preset(job.base, job.size), "seed": conditions.seed, "scene": job.scene}
        save_run(run, scene, model.field(), model.grid.factors(), {**notes, "n_train": len(scene.train)})
    clear_run(run)
    seconds = round(time.perf_counter() - start, 1)
    case = Case.read(run, Path(job.data), conditions)
    psnr, ssim = case.score_field()
    return FieldRow(*job.key, __version__, psnr, ssim, case.field.grid_bytes, seconds)


def rows_of_fields(scope: Scope) -> list[tuple[FieldJob, FieldRow]]:
    """The fields of a table, those that are missing trained before."""
    jobs = field_jobs(scope)
    work = partial(train_field, conditions=scope.conditions)

    def tell(row: FieldRow) -> None:
        scope.tell(f"{row.scene}, {row.base} {row.size}: {row.psnr:.2f} dB, {row.seconds:.0f} s")

    rows = runners.run_jobs(jobs, scope.conditions.work / FIELDS_FILE, FieldRow, work, scope.runner, on_row=tell)
    return list(zip(jobs, rows, strict=True))


# --------------------------------------------------------------------------------------------------------------- files


def make_file(job: FileJob, *, conditions: Conditions) -> FileRow:
    """Compress, encode, decode, score. Runs in any process."""
    case, start = Case.read(Path(job.run), Path(job.data), conditions), time.perf_counter()
    small = case.compress(job.preset)
    seconds = round(time.perf_counter() - start, 1)
    data = case.encode(small)
    write_atomically(conditions.work / "files" / f"{'-'.join(job.key)}.vqrf", data)
    psnr, ssim = case.score(expand(decode(data)))
    sizes = json.dumps({name: size for name, _, size in sections(data)})
    field = job.field
    told = json.dumps(changes_of(job.preset))
    return FileRow(*job.key, __version__, told, len(data), psnr, ssim, field.psnr, field.grid_bytes, seconds, sizes)


def changes_of(preset: Preset[Any]) -> dict[str, Any]:
    """The settings that are not the preset's own, and its name."""
    own = asdict(base_of(preset.name, None))
    return {"preset": preset.name, **{name: value for name, value in asdict(preset).items() if own[name] != value}}


def rows_of_files(scope: Scope, table: TableName) -> list[tuple[str, FileRow]]:
    """The files of a table, by the names of its lines, those that are missing made before, and the fields before them."""
    conditions, variants = scope.conditions, variants_of(table, scope.presets, scope.conditions.steps)
    asked: list[tuple[str, FileJob]] = []
    for job, row in rows_of_fields(scope):
        run = job.folder(conditions.work)
        source = Source.of_run(run, Path(job.data), conditions)
        for name, preset in variants.items():
            mark = mark_of(preset.name, asdict(preset), conditions.seed, conditions.every, source.mark)
            asked.append((name, FileJob(str(run), job.data, preset, mark, row, job.memory)))

    def tell(row: FileRow) -> None:
        scope.tell(f"{row.scene}, {row.base}, {row.settings}: {row.n_bytes} bytes, {row.psnr:.2f} dB, {row.seconds:.0f} s")

    once = list({job.key: job for _, job in asked}.values())  # a line of two tables, or two of one, may be of one file
    (conditions.work / "files").mkdir(parents=True, exist_ok=True)
    work = partial(make_file, conditions=conditions)
    rows = runners.run_jobs(once, conditions.work / FILES_FILE, FileRow, work, scope.runner, on_row=tell)
    by_key = {row.key: row for row in rows}
    return [(name, by_key[job.key]) for name, job in asked]


def runs_of(scope: Scope) -> list[Path]:
    """The run folders of a table, those that are missing trained before."""
    return [job.folder(scope.conditions.work) for job, _ in rows_of_fields(scope)]


# --------------------------------------------------------------------------------------------------------------- pages


def lines_of(table: TableName, rows: Sequence[tuple[str, FileRow]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and lines of a table of files, as texts."""
    lines: list[tuple[str, ...]] = []
    if table == "sections":
        names = list(dict.fromkeys(name for _, row in rows for name in json.loads(row.sections)))
        for label, row in rows:
            sizes = json.loads(row.sections)
            lines.append((row.scene, row.base, label, *(str(sizes.get(name, "")) for name in names), str(row.n_bytes)))
        return ("scene", "base", "file", *names, "all"), lines
    heads = ("scene", "base", "file", "field PSNR", "PSNR", "SSIM", "bytes", "ratio", "seconds")
    for label, row in rows:
        scores = f"{row.field_psnr:.2f}", f"{row.psnr:.2f}", f"{row.ssim:.4f}"
        ratio = f"{row.grid_bytes / row.n_bytes:.0f}"
        lines.append((row.scene, row.base, label + _age(row.version), *scores, str(row.n_bytes), ratio, f"{row.seconds:.0f}"))
    return heads, lines


def lines_of_fields(rows: Sequence[FieldRow]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and lines of a table of fields, as texts."""
    heads = ("scene", "base", "trained as", "PSNR", "SSIM", "bytes of float32", "seconds")
    lines: list[tuple[str, ...]] = []
    for row in rows:
        scores = f"{row.psnr:.2f}", f"{row.ssim:.4f}", str(row.grid_bytes), f"{row.seconds:.0f}"
        lines.append((row.scene, row.base, row.size + _age(row.version), *scores))
    return heads, lines


def _age(version: str) -> str:
    return "" if version == __version__ else f" (by {version})"


def page_of(table: str, facts: Sequence[str], heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table as Markdown.

    Args:
      facts: lines above it.
    """
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join([f"# {table}", "", *facts, "", *(f"| {' | '.join(row)} |" for row in rows), ""])


def points_of(rows: Sequence[tuple[str, FileRow]]) -> list[Row]:
    """Files as points of curves, one for each base and kind of file, to be drawn."""
    return [
        Row(row.scene, f"{row.base} {label}", 0.0, row.id, row.n_bytes, row.psnr, row.ssim, row.field_psnr, row.seconds)
        for label, row in rows
    ]
