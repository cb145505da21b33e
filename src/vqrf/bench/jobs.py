"""The jobs of a bench: which ones there are, how each is done, and what they have in common.

A job reads all that it names itself, so that it can run in any process, and its row says what it depends on: a row is taken for
another's neither where the field, its notes or the settings are others, nor where a pixel of the photos is.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from vqrf.bench import alternatives, runners
from vqrf.bench.curves import Contest, ContestRow, Job, Row
from vqrf.bench.store import Store, store_of
from vqrf.codec.bitstream import decode, encode
from vqrf.codec.compressed import Compressed
from vqrf.compression.goal import PresetName
from vqrf.compression.importance import expect_seen, measure_importance
from vqrf.compression.job import Job as FileJob
from vqrf.compression.job import fingerprint_of
from vqrf.compression.paper import PaperPreset, UnroundedModel, partition_and_cluster
from vqrf.compression.preset import OWN_QUALITY, Preset
from vqrf.compression.presets import PRESETS
from vqrf.compression.search import FieldDial, Journal, Target, Trial, search
from vqrf.compression.tuning import SAVED_LAYOUT, Checkpoints, Tuning
from vqrf.data.rays import RayPool
from vqrf.data.scene import SPLITS, Scene
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.run import FACTORS_FILE, load_like, load_run
from vqrf.files import write_atomically
from vqrf.interop import TensorfField, import_tensorf, load_tensorf
from vqrf.kernels import has_native
from vqrf.rendering.evaluate import evaluate
from vqrf.training.checkpoint import Checkpoint, fingerprint

FIELD_SCORES: dict[str, tuple[float, float]] = {}
"""By the mark of a case: PSNR and SSIM of its field, as a hundred large views take longer than some jobs do."""


@dataclass(frozen=True)
class Conditions:
    """What all jobs of a bench have in common.

    Attributes:
      work: a folder for what jobs of a scene share, and for the files of alternatives.
      steps: of joint tuning, if not the preset's; all rounds of an alternative together have as many.
      every: of the test views, score every n-th.
      seed: of everything random.
      device: where to tune.
      threads: of the CPU kernels; all CPUs if 0. Results do not depend on it.
      url: where `work` is shared; see `vqrf.bench.store`. Empty: nowhere.
    """

    work: Path
    steps: int | None = None
    every: int = 1
    seed: int = 0
    device: str = "cpu"
    threads: int = 0
    url: str = ""

    @property
    def store(self) -> Store:
        return Store(self.work, self.url)

    def here(self) -> Conditions:
        """The same on the machine that asks, whose folder may be another where it is shared by a URL."""
        return replace(self, work=store_of(self.url).folder) if self.url else self


def mark_of(*facts: Any) -> str:
    """A short name of facts of JSON types."""
    return f"{zlib.crc32(json.dumps(facts, sort_keys=True).encode()):08x}"


def settings_of(preset: str, quality: float, steps: int | None) -> Preset[Any]:
    """The settings of a preset at a quality."""
    return base_of(preset, steps).at_quality(quality)


def base_of(preset: str, steps: int | None) -> Preset[Any]:
    """The settings of a preset, with so many steps of tuning if they are given."""
    return PRESETS[preset] if steps is None else PRESETS[preset].with_steps(steps)


# ------------------------------------------------------------------------------------------------- what jobs are about


@dataclass(frozen=True, eq=False)
class Case:
    """What a job is about.

    Attributes:
      field_mark: a fingerprint of the field, its notes and the training photos.
      mark: the same, and of the photos that score.
    """

    field: RadianceField
    notes: dict[str, Any]
    scene: Scene
    conditions: Conditions
    field_mark: str
    mark: str

    @classmethod
    def read(cls, run: Path, data: Path, conditions: Conditions) -> Case:
        """Read what a job names, in whichever process it runs, and take the threads that it may.

        Raises:
          StorageError: the run folder cannot be used.
          SceneError: the dataset cannot be used.
        """
        if conditions.threads and has_native():
            from vqrf.kernels.native import set_threads

            set_threads(conditions.threads)
        field, notes = load_run(run)
        if (run / FACTORS_FILE).exists():
            field = replace(field, factors=load_tensorf(run / FACTORS_FILE).as_planes())
        scene = load_like(notes, data, SPLITS, every=conditions.every)
        field_mark = fingerprint_of(field, scene, notes, {})
        mark = mark_of(field_mark, fingerprint(replace(scene, train=scene.test), {}))
        return cls(field, notes, scene, conditions, field_mark, mark)

    @property
    def metadata(self) -> dict[str, Any]:
        return {"training": self.notes}

    def compress(self, config: Preset[Any]) -> Compressed:
        conditions = self.conditions
        job = FileJob(self.field, self.scene, config, notes=self.notes, seed=conditions.seed, device=conditions.device)
        checkpoints = Checkpoints()
        for stage in config.stages():
            mark = job.fingerprint_of_tuning(config, stage)
            checkpoints[stage] = Checkpoint(conditions.work / f"{mark}.{stage}", mark)
        small = job.compress(config, checkpoints)
        checkpoints["tune"].remove()  # those before it are what files at any quality have in common
        return small

    def tune_unrounded(self, config: PaperPreset) -> UnroundedModel:
        """The model of the paper's tuning without its quantisers; as `compress` it goes on from where it last saved.

        Departs from `compress`: a field far from the origin is tuned where it lies.
        """
        conditions, pool = self.conditions, RayPool(self.scene.train)
        settings = {**asdict(config), "seed": conditions.seed, "layout": SAVED_LAYOUT, "form": "float32"}
        mark = fingerprint_of(self.field, self.scene, self.notes, settings)
        checkpoints = Checkpoints({"tune": Checkpoint(conditions.work / f"{mark}.tune", mark)})
        importance = measure_importance(self.field, pool)
        expect_seen(importance)
        rows = partition_and_cluster(self.field, importance, config, conditions.seed)
        model = UnroundedModel(self.field, *rows, config, device=conditions.device)
        tuning = Tuning(pool, config.rays_per_step, conditions.seed, conditions.device, checkpoints=checkpoints)
        tuning.run("tune", model, config.steps)
        checkpoints.remove()
        return model

    def encode(self, small: Compressed) -> bytes:
        return encode(replace(small, metadata=self.metadata))

    def score(self, field: RadianceField) -> tuple[float, float]:
        """PSNR and SSIM on the test views."""
        found = evaluate(field.with_background(self.scene.background), self.scene.test)
        return round(found.psnr, 4), round(found.ssim, 5)

    def psnr(self, field: RadianceField) -> float:
        """PSNR on the test views, which is all that a search looks at."""
        found = evaluate(field.with_background(self.scene.background), self.scene.test, with_ssim=False)
        return round(found.psnr, 4)

    def score_field(self) -> tuple[float, float]:
        """`score` of the field before compression, which a process measures once for all jobs."""
        if self.mark not in FIELD_SCORES:
            FIELD_SCORES[self.mark] = self.score(self.field)
        return FIELD_SCORES[self.mark]


@dataclass(frozen=True)
class Source:
    """What the jobs of a run have in common, without its field and its photos.

    Attributes:
      run, data, scene: as of a `Job`.
      field_mark, mark: as of a `Case`.
    """

    run: str
    data: str
    scene: str
    field_mark: str
    mark: str

    @classmethod
    def of_run(cls, run: Path, data: Path, conditions: Conditions) -> Source:
        """Read a run and its photos; errors as of `Case.read`.

        Args:
          data: the dataset folder, or the folder of datasets that are named as the runs' scenes are.
        """
        scene = Path(str(load_run(run)[1].get("scene", run.name))).name
        folder = (data / scene if (data / scene).is_dir() else data).resolve()
        case = Case.read(run, folder, conditions)
        return cls(str(run.resolve()), str(folder), scene, case.field_mark, case.mark)

    def settings(self, preset: str, quality: float, conditions: Conditions) -> str:
        """A fingerprint of everything that our file at this quality, and its scores, depend on."""
        chosen = asdict(settings_of(preset, quality, conditions.steps))
        return mark_of(chosen, conditions.seed, conditions.every, self.mark)

    def job(self, preset: str, quality: float, conditions: Conditions) -> Job:
        settings = self.settings(preset, quality, conditions)
        return Job(self.run, self.data, self.scene, preset, float(quality), settings)

    def contests(self, presets: Iterable[str], conditions: Conditions) -> list[Contest]:
        """What can be done to the run, in order: truncations where it holds factors, and else rounds of pruning."""
        factors = Path(self.run) / FACTORS_FILE
        if factors.exists():
            method, points = "truncate", truncations(load_tensorf(factors))
            mark = mark_of(alternatives.FACTOR_STEPS, conditions.seed, self.field_mark)
        else:
            method, points = "prune", [str(number + 1) for number in range(alternatives.ROUNDS)]
            mark = mark_of(asdict(prune_config(conditions.steps)), conditions.seed, self.field_mark)
        found = []
        for preset in presets:
            settings = self.settings(preset, OWN_QUALITY, conditions)
            found += [Contest(self.run, self.data, self.scene, method, point, preset, mark, settings) for point in points]
        return found


# -------------------------------------------------------------------------------------------------------------- curves


def run_curves(
    jobs: Sequence[Job],
    rows_file: Path,
    conditions: Conditions,
    runner: runners.Runner,
    on_row: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """The rows of all jobs; see `vqrf.bench.runners.run_jobs`.

    Args:
      on_row: called with every row that is new.
    """
    if not conditions.threads and runner is not runners.run_in_turn:
        conditions = replace(conditions, threads=1)  # what a task of Ray takes; in turn, a job has the whole machine
    return runners.run_jobs(jobs, rows_file, Row, partial(measure, conditions=conditions), runner, on_row=on_row)


def list_points(sources: Sequence[Source], rows: Sequence[Row], conditions: Conditions) -> list[Row]:
    """Those of the rows that are points of these runs, at whatever preset and quality they were asked for."""
    found = []
    for source in sources:
        of_scene = [row for row in rows if row.scene == source.scene and row.preset in get_args(PresetName)]
        found += [row for row in of_scene if row.key == source.job(row.preset, row.quality, conditions).key]
    return found


def measure(job: Job, *, conditions: Conditions) -> Row:
    """Do a job: compress, encode, decode, score. Runs in any process."""
    case = Case.read(Path(job.run), Path(job.data), conditions)
    start = time.perf_counter()
    small = case.compress(settings_of(job.preset, job.quality, conditions.steps))
    seconds = round(time.perf_counter() - start, 1)
    data = case.encode(small)
    (before, _), (psnr, ssim) = case.score_field(), case.score(expand(decode(data)))
    return Row(*job.key, len(data), psnr, ssim, before, seconds)


# -------------------------------------------------------------------------------------------------------- alternatives


def run_contests(
    jobs: Sequence[Contest], rows_file: Path, conditions: Conditions, on_row: Callable[[ContestRow], None] = lambda row: None
) -> list[ContestRow]:
    """The rows of all contests, which take turns; see `vqrf.bench.runners.run_jobs`.

    Args:
      on_row: called with every row that is new.
    """
    work = partial(compete, conditions=conditions)
    return runners.run_jobs(jobs, rows_file, ContestRow, work, runners.run_in_turn, on_row=on_row)


def compete(job: Contest, *, conditions: Conditions) -> ContestRow:
    """Do a contest: the alternative's file, what it decodes to, and the best of ours that is no larger."""
    case = Case.read(Path(job.run), Path(job.data), conditions)
    start = time.perf_counter()
    theirs = expand(decode(write_round(job, case))) if job.method == "prune" else write_truncated(job, case)
    n_bytes = file_of(job, conditions.work).stat().st_size
    (psnr, _), (before, _) = case.score(theirs), case.score_field()
    ours = search_ours(n_bytes, job, case)
    seconds = round(time.perf_counter() - start, 1)
    ours_psnr = round(ours.psnr, 4)
    return ContestRow(*job.key, n_bytes, psnr, ours.n_bytes, ours_psnr, round(ours_psnr - psnr, 4), before, seconds)


def prune_config(steps: int | None) -> alternatives.PruneConfig:
    """The settings of a round, where all of them have so many steps."""
    config = alternatives.PruneConfig()
    return config if steps is None else replace(config, tuning=replace(config.tuning, steps=steps // alternatives.ROUNDS))


def truncations(made: TensorfField) -> list[str]:
    """The components that are left, of density and of features, from most to fewest."""
    counts = [alternatives.components_at(made.factors, share) for share in alternatives.SHARES]
    return list(dict.fromkeys(f"{n_density}+{n_features}" for n_density, n_features in counts))


def file_of(job: Contest, work: Path) -> Path:
    """The alternative's file: a .vqrf, or factors in an .xz."""
    suffix = "vqrf" if job.method == "prune" else "xz"
    return work / f"{job.scene}-{job.method}-{job.point}-{job.mark}.{suffix}"


def journal_of(job: Contest, work: Path) -> Path:
    """Where the search for our files is kept."""
    return work / f"{job.scene}-{job.preset}-{job.settings}.search.json"


def write_round(job: Contest, case: Case) -> bytes:
    """The file of a round, made if it is not there, and those of the rounds before it."""
    conditions, number = case.conditions, int(job.point)
    path = file_of(job, conditions.work)
    if not path.exists():
        before = decode(write_round(replace(job, point=str(number - 1)), case)) if number > 1 else None
        seed, config = conditions.seed + number, prune_config(conditions.steps)  # so that rounds do not see the same rays
        small = alternatives.prune_round(case.field, case.scene, before, config, seed=seed, device=conditions.device)
        write_atomically(path, case.encode(small))
    return path.read_bytes()


def write_truncated(job: Contest, case: Case) -> RadianceField:
    """The field that the file of a truncation decodes to, written if it is not there."""
    path = file_of(job, case.conditions.work)
    if not path.exists():
        made = load_tensorf(Path(job.run) / FACTORS_FILE)
        n_density, n_features = map(int, job.point.split("+"))
        small = replace(made, factors=alternatives.truncated(made.factors, n_density, n_features))
        write_atomically(path, alternatives.encode_factors(small, import_tensorf(made).field.allowed))
    return alternatives.decode_factors(path.read_bytes(), path)


def search_ours(n_bytes: int, job: Contest, case: Case) -> Trial:
    """The best of our files that has at most so many bytes; the smallest where none has."""
    dial = FieldDial(
        base=base_of(job.preset, case.conditions.steps),
        tune=case.compress,
        score=lambda small: case.psnr(expand(small)),
        metadata=case.metadata,
    )
    journal = Journal(journal_of(job, case.conditions.work), job.settings)
    try:
        return search(dial, Target("size", float(n_bytes)), journal).trial
    except ValueError:
        if not journal.trials or min(trial.n_bytes for trial in journal.trials) <= n_bytes:
            raise
        return min(journal.trials, key=lambda trial: trial.n_bytes)
