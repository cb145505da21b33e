"""The tables of the paper, ours: which fields and files each is about, how they are made, and the page that shows them.

A table needs fields, which are trained, and then files of these. Both are jobs: each has an id from all that its result depends
on, and a row in `fields.csv` or `files.csv`, which are the truth; the page and the plot are made of them. So tables share what
they have in common, and a run that was killed goes on: with the rows that are missing, a training or a tuning from where it
last saved.

Departs from the paper's tables: values of 8 bits and the entropy coder are in every file, as files of ours have no other form.
So the ablation has these two steps last, by sizes that are computed (`vqrf.bench.uncoded`) and say so: first those of the same
tuning without quantisers, whose PSNR is that of its float32 values, and then those of the file before the coder. The paper
rounds after the tuning; ours sees the rounded values. Uniform pruning is by chance, among the voxels that any photo sees: if a
fixed share of one field's voxels were pruned by their importance, they would be the very ones that the cumulative importance
prunes.
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
from vqrf.bench.uncoded import Form, uncoded_sections
from vqrf.codec.bitstream import decode
from vqrf.codec.container import sections
from vqrf.compression.paper import PaperPreset
from vqrf.compression.preset import Preset
from vqrf.data.listing import color_name
from vqrf.data.load import SceneOptions, load_scene
from vqrf.data.scene import Scene
from vqrf.data.splits import SECTOR
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
      hold_out: which photos it does not see; see `vqrf.data.splits.split_shots`.
    """

    data: str
    scene: str
    base: str
    size: str
    id: str
    memory: int
    hold_out: str = ""

    @property
    def key(self) -> TableKey:
        return self.scene, self.base, self.size, self.id

    @property
    def config(self) -> TrainConfig:
        return PRESETS[train_preset(self.base, self.size)]

    def folder(self, work: Path) -> Path:
        return run_of(self.key, work)


def run_of(key: TableKey, work: Path) -> Path:
    """The run folder of a field."""
    return work / "runs" / "-".join(key)


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
      data: folder of the photos.
      preset: all of its settings.
      file_id: a fingerprint of the field, its notes, the photos and the settings.
      field: the field's row.
      form: in which its size is computed; None of the file as it is.
    """

    data: str
    preset: Preset[Any]
    file_id: str
    field: FieldRow
    memory: int
    form: Form | None = None

    @property
    def id(self) -> str:
        return self.file_id if self.form is None else mark_of(self.file_id, self.form)

    @property
    def file_key(self) -> TableKey:
        """Of the file that a size is computed of."""
        return self.field.scene, self.field.base, self.field.size, self.file_id

    @property
    def key(self) -> TableKey:
        return self.field.scene, self.field.base, self.field.size, self.id


@dataclass(frozen=True)
class FileRow:
    """A file.

    Attributes:
      settings: of the preset, by JSON, where they are not its own; and the form, where the bytes are computed.
      psnr, ssim: means over the test views, of what the file decodes to; with the form float32, of what was tuned.
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
      hold_out: as of a `FieldJob`.
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
    hold_out: str = ""

    @property
    def without_sector(self) -> Scope:
        """The same of fields that see nothing of a sector of the cameras, whose photos score."""
        return replace(self, hold_out=SECTOR, tell=lambda line: self.tell(f"{line}, sector held out"))


@dataclass(frozen=True)
class Variant:
    """What a table makes of every field.

    Attributes:
      form: as of a `FileJob`.
    """

    preset: Preset[Any]
    form: Form | None = None


Variants = dict[str, Variant]
"""By the names that lines have."""

ALL, ONLY_PRUNED, BY_CHANCE = "+ joint tuning", "pruning only", "as many voxels, by chance"
PLAIN, WEIGHTED, UNEXPIRED = "+ codebook by plain clustering", "+ codebook weighted by importance", "weighted, without expiry"
KEEPING, ALL_PLAIN, ALL_UNKEPT = "+ kept voxels", "all, by plain clustering", "all, nothing kept"
IN_FLOAT32, QUANTIZED, ENTROPY_CODED = "all, in float32 (size computed)", "+ quantisation (size computed)", "+ entropy coding"

BETTER = (
    *((ONLY_PRUNED, BY_CHANCE), (WEIGHTED, PLAIN), (WEIGHTED, UNEXPIRED), (KEEPING, WEIGHTED)),
    *((ALL, KEEPING), (ALL, ALL_PLAIN), (ALL, ALL_UNKEPT)),
)
"""Lines of the ablation of which the first has the better PSNR in the paper."""
SMALLER = ((WEIGHTED, ONLY_PRUNED), (QUANTIZED, IN_FLOAT32), (ENTROPY_CODED, QUANTIZED))
"""Those of which the first has fewer bytes."""


def train_preset(base: str, size: str) -> str:
    """The name of a preset of `train`."""
    return size if base == "dvgo" else f"{base}-{size}"


def variants_of(table: TableName, presets: Sequence[str], steps: int | None) -> Variants:
    """What a table makes of every field.

    Args:
      steps: of joint tuning, if not the preset's.
    """
    if table in ("main", "sections"):
        return {name: Variant(base_of(name, steps)) for name in presets}
    paper = base_of("paper", steps)
    assert isinstance(paper, PaperPreset)
    if table == "ablation":
        return ablation_of(paper)
    if table == "sensitivity":
        dials = {
            **{f"prune {value}": replace(paper, prune=value) for value in PRUNES},
            **{f"keep {value}": replace(paper, keep=value) for value in KEEPS},
            **{f"{value} codewords": replace(paper, n_codes=value) for value in CODES},
            **{
                f"{round(share * paper.steps)} steps": replace(paper, steps=round(share * paper.steps)) for share in STEP_SHARES
            },
        }
        return {name: Variant(preset) for name, preset in dials.items()}
    return {}


def ablation_of(paper: PaperPreset) -> Variants:
    """The paper, one thing more at a time, and all of it but one."""
    untuned = replace(paper, steps=0)
    return {
        ONLY_PRUNED: Variant(replace(untuned, keep=paper.prune)),
        BY_CHANCE: Variant(replace(untuned, keep=paper.prune, is_uniform=True)),
        PLAIN: Variant(replace(untuned, keep=0.0, is_weighted=False)),
        WEIGHTED: Variant(replace(untuned, keep=0.0)),
        UNEXPIRED: Variant(replace(untuned, keep=0.0, has_expiry=False)),
        KEEPING: Variant(untuned),
        ALL: Variant(paper),
        ALL_PLAIN: Variant(replace(paper, is_weighted=False)),
        ALL_UNKEPT: Variant(replace(paper, keep=0.0)),
        IN_FLOAT32: Variant(paper, "float32"),
        QUANTIZED: Variant(paper, "levels"),
        ENTROPY_CODED: Variant(paper),
    }


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
            scene = _photos(folder, config, scope.hold_out)
            facts = [Run.of(folder, scene, config, scope.conditions.seed).fingerprint, *filter(None, [scope.hold_out])]
            memory = estimate_bytes(config, scene)
            found.append(FieldJob(str(folder), scene_name, base, scope.size, mark_of(*facts), memory, scope.hold_out))
    return found


def _photos(folder: Path, config: TrainConfig, hold_out: str) -> Scene:
    return load_scene(folder, splits=("train",), side=config.image_side, options=SceneOptions(hold_out=hold_out))


def train_field(job: FieldJob, *, conditions: Conditions) -> FieldRow:
    """Train a field into its run folder, or take the one that is there, and score it. Runs in any process."""
    conditions, start = conditions.here(), time.perf_counter()
    run = job.folder(conditions.work)
    conditions.store.fetch(run)
    if not (run / FIELD_FILE).exists():
        scene = _photos(Path(job.data), job.config, job.hold_out)
        model = fit_model(scene, job.config, seed=conditions.seed, device=conditions.device, run=run)
        notes: dict[str, Any] = {
            "downscale": scene.downscale,
            "background": color_name(scene.background),
            "hold_out": scene.hold_out,
        }
        notes |= {"preset": train_preset(job.base, job.size), "seed": conditions.seed, "scene": job.scene}
        save_run(run, scene, model.field(), model.grid.factors(), {**notes, "n_train": len(scene.train)})
    clear_run(run)
    conditions.store.send(run)
    seconds = round(time.perf_counter() - start, 1)
    case = Case.read(run, Path(job.data), conditions)
    psnr, ssim = case.score_field()
    return FieldRow(*job.key, __version__, psnr, ssim, case.field.grid_bytes, seconds)


def rows_of_fields(scope: Scope) -> list[tuple[FieldJob, FieldRow]]:
    """The fields of a table, those that are missing trained before."""
    jobs = field_jobs(scope)
    work, path = partial(train_field, conditions=scope.conditions), scope.conditions.work / FIELDS_FILE

    def tell(row: FieldRow) -> None:
        scope.conditions.store.send(path)
        scope.tell(f"{row.scene}, {row.base} {row.size}: {row.psnr:.2f} dB, {row.seconds:.0f} s")

    rows = runners.run_jobs(jobs, path, FieldRow, work, scope.runner, on_row=tell)
    return list(zip(jobs, rows, strict=True))


# --------------------------------------------------------------------------------------------------------------- files


def make_file(job: FileJob, *, conditions: Conditions) -> FileRow:
    """Compress, encode, decode, score. Runs in any process."""
    conditions = conditions.here()
    run, path = run_of(job.field.key, conditions.work), path_of(job.file_key, conditions)
    conditions.store.fetch(run)
    case, start = Case.read(run, Path(job.data), conditions), time.perf_counter()
    if job.form == "float32":
        return measure_unrounded(job, case)
    small = case.compress(job.preset)
    seconds = round(time.perf_counter() - start, 1)
    data = case.encode(small)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
    conditions.store.send(path)
    scores = case.score(expand(decode(data)))
    return row_of(job, {name: size for name, _, size in sections(data)}, scores, seconds)


def measure_unrounded(job: FileJob, case: Case) -> FileRow:
    """What `make_file` makes without quantisers, and what it would take."""
    assert isinstance(job.preset, PaperPreset)
    start = time.perf_counter()
    model = case.tune_unrounded(job.preset)
    seconds = round(time.perf_counter() - start, 1)
    return row_of(job, uncoded_sections(case.encode(model.pack()), "float32"), case.score(model.shown()), seconds)


def measure_levels(job: FileJob, made: FileRow, conditions: Conditions) -> FileRow:
    """What a file that was made would take if it were not entropy-coded; what it shows is the same."""
    path = path_of(job.file_key, conditions)
    conditions.store.fetch(path)
    if not path.exists():
        made = make_file(replace(job, form=None), conditions=conditions)
    sizes = uncoded_sections(path.read_bytes(), "levels")
    return replace(row_of(job, sizes, (made.psnr, made.ssim), 0.0), version=made.version)


def path_of(key: TableKey, conditions: Conditions) -> Path:
    """Where a file lies."""
    return conditions.work / "files" / f"{'-'.join(key)}.vqrf"


def row_of(job: FileJob, sizes: dict[str, int], scores: tuple[float, float], seconds: float) -> FileRow:
    """The row of a job.

    Args:
      sizes: bytes by section.
      scores: PSNR and SSIM.
    """
    field, form = job.field, {} if job.form is None else {"form": job.form}
    told = json.dumps({**changes_of(job.preset), **form})
    n_bytes, by_section = sum(sizes.values()), json.dumps(sizes)
    return FileRow(*job.key, __version__, told, n_bytes, *scores, field.psnr, field.grid_bytes, seconds, by_section)


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
        conditions.store.fetch(run)
        source = Source.of_run(run, Path(job.data), conditions)
        for name, variant in variants.items():
            preset = variant.preset
            mark = mark_of(preset.name, asdict(preset), conditions.seed, conditions.every, source.mark)
            asked.append((name, FileJob(job.data, preset, mark, row, job.memory, variant.form)))

    def tell(row: FileRow) -> None:
        conditions.store.send(path)
        scope.tell(f"{row.scene}, {row.base}, {row.settings}: {row.n_bytes} bytes, {row.psnr:.2f} dB, {row.seconds:.0f} s")

    once = list({job.key: job for _, job in asked}.values())  # a line of two tables, or two of one, may be of one file
    work, path = partial(make_file, conditions=conditions), conditions.work / FILES_FILE
    made = [job for job in once if job.form != "levels"]
    by_key = {row.key: row for row in runners.run_jobs(made, path, FileRow, work, scope.runner, on_row=tell)}

    def measure(job: FileJob) -> FileRow:
        return measure_levels(job, by_key[job.file_key], conditions)

    computed = [job for job in once if job.form == "levels"]  # of files that are there by now
    rows = runners.run_jobs(computed, path, FileRow, measure, runners.run_in_turn, on_row=tell)
    by_key |= {row.key: row for row in rows}
    return [(name, by_key[job.key]) for name, job in asked]


def runs_of(scope: Scope) -> list[Path]:
    """The run folders of a table, those that are missing trained before."""
    runs = [job.folder(scope.conditions.work) for job, _ in rows_of_fields(scope)]
    scope.conditions.store.fetch(*runs)
    return runs


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


def remarks_of(table: TableName, rows: Sequence[tuple[str, FileRow]]) -> list[str]:
    """What the lines of an ablation say about the paper: those that are not in its order, or that all are.

    Figures are compared as they are shown; equal ones are in order.
    """
    if table != "ablation":
        return []
    of_field: dict[tuple[str, str], dict[str, FileRow]] = {}
    for label, row in rows:
        of_field.setdefault((row.scene, row.base), {})[label] = row
    found = []
    for (scene, base), lines in of_field.items():
        for better, worse in BETTER:
            if (ours := round(lines[better].psnr, 2)) < (other := round(lines[worse].psnr, 2)):
                found.append(f'{scene}, {base}: "{better}" has {ours:.2f} dB and "{worse}" {other:.2f} dB')
        for smaller, larger in SMALLER:
            if (n_bytes := lines[smaller].n_bytes) > (other_bytes := lines[larger].n_bytes):
                found.append(f'{scene}, {base}: "{smaller}" has {n_bytes} bytes and "{larger}" {other_bytes}')
    if not found:
        return ["All lines are in the paper's order: what it adds costs no PSNR, and its last steps save bytes."]
    return [f"Not in the paper's order: {line}." for line in found]


def with_sector(
    heads: tuple[str, ...], lines: Sequence[tuple[str, ...]], scope: Scope, table: TableName
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The table with one more column: the PSNR of `Scope.without_sector`, what is missing for it made before."""
    held_out = scope.without_sector
    psnrs = [row.psnr for _, row in (rows_of_fields(held_out) if table == "base" else rows_of_files(held_out, table))]
    longer = [(*line, f"{psnr:.2f}") for line, psnr in zip(lines, psnrs, strict=True)]
    return (*heads, "PSNR, sector held out"), longer


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
