"""The verb `make`: photos to a file and a page that shows it, in one go."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vqrf.cli.compress import Compress
from vqrf.cli.convert import has_planes
from vqrf.cli.dataset import PhotoFlags, Photos
from vqrf.cli.meta import UNSAID, Presenting, SayingFlags
from vqrf.cli.process import Process
from vqrf.cli.terminal import Common, CommonFlags, Seeded, UsageError, expect_writable, read_bytes, say
from vqrf.cli.train import Train, finish_run
from vqrf.codec.about import about_of
from vqrf.codec.contents import metadata_of
from vqrf.compression.goal import NO_GOAL, Goal, is_unfinished
from vqrf.data.load import is_dataset
from vqrf.data.placement import SpaceName
from vqrf.data.scene import Scene
from vqrf.data.sfm import MODEL_FOLDER
from vqrf.fields.run import FIELD_FILE
from vqrf.fields.storage import describe_field
from vqrf.files import read_file, remove_stale, write_atomically
from vqrf.rendering.page import page_with_scene

ASKED_FILE = "make.json"
"""In the folder of work: what was asked for, so that a later call goes on only with work of its own."""

Base = Literal["dvgo", "plenoxels", "tensorf", "tensorf-cp"]
Size = Literal["quick", "standard", "large"]


PLANES_TRAINING, PLANES_TUNING = 8000, 3200
"""Fine steps of planes, and steps of their tuning, which learns from the photos too, at little more a ray: so planes are not
trained to their end first (docs/log/planes.md#how-should-time-go-between-training-and-tuning)."""


PLACE_TUNING = 2000
"""Steps of tuning of a field in a space that is no box, where they take four times as long
(docs/log/speed.md#how-much-longer-does-a-place-take). After 800, fern had lost 0.19 dB."""


def usual_base(size: Size, scene: Scene) -> Base:
    """The kind of field that gives the best file.

    Planes are the best for a thing (docs/log/planes.md#what-do-planes-bring-at-full-size), and are coded of a box alone. Voxels
    are learnt in less time, so a draft is of these.
    """
    return "tensorf" if size != "quick" and scene.space == "box" and scene.contrast is None else "dvgo"


def training_of(size: Size, base: Base, space: SpaceName) -> tuple[Size | None, int | None]:
    """The size for `train`, None for standard with fewer steps of few photos; and fine steps, None for that many."""
    if size == "standard":
        return (size, PLANES_TRAINING) if base == "tensorf" and space == "box" else (None, None)
    return (size, None) if size == "quick" or base == "dvgo" else ("standard", None)


def tuning_of(size: Size, *, has_planes: bool, is_place: bool) -> int | None:
    """Steps of tuning; None for the preset's own. A draft has few, as its field is the smaller loss."""
    if size != "standard":
        return 1500 if size == "quick" else None
    return PLANES_TUNING if has_planes else PLACE_TUNING if is_place else None


@dataclass(frozen=True)
class Make:
    """Make a .vqrf file from photos, and a page that shows it: find the cameras if needed, train, compress.

    If it is stopped, the same command continues. For --out NAME.vqrf, the dataset and the field stay in NAME.work. A file of
    another size takes less time from there: give --work NAME.work, another --out and another --target-size.
    """

    photos: tyro.conf.Positional[Path]
    """Folder of photos, a film, or a dataset folder that has cameras already."""
    out: Path
    """The file NAME.vqrf to write. Beside it come the page NAME.html, which opens by a double click, and NAME.report.html."""
    work: Path | None = None
    """Folder of work, such as that of another file of the same photos. Without it, NAME.work beside NAME.vqrf."""
    preset: Size = "standard"
    """quick: a draft. standard: up to an hour on two CPU cores. large: the best quality; hours. A place takes 8 GB."""
    base: Base | None = None
    """Kind of field, as for `train`. Without it: tensorf for a thing on a plain background, dvgo for a place or with quick."""
    exposure: bool = False
    """Learn how the photos differ in exposure and white balance, and correct it."""
    goal: Annotated[Goal, tyro.conf.arg(name="goal"), tyro.conf.OmitArgPrefixes] = NO_GOAL
    said: SayingFlags = UNSAID
    dataset: PhotoFlags = Photos()
    common: CommonFlags = Common()

    def run(self) -> None:
        start = time.perf_counter()
        try:
            self.goal.check()
        except ValueError as error:
            raise UsageError(str(error)) from None
        if not self.photos.exists():
            raise UsageError(f"{self.photos}: there is no such folder or film")
        stem = self.out.with_suffix("")
        page, report = (stem.with_name(stem.name + ending) for ending in (".html", ".report.html"))
        work = self.work or stem.with_name(f"{stem.name}.work")
        if self.out.suffix != ".vqrf" or self.out.resolve().is_relative_to(self.photos.resolve()):
            raise UsageError(f"{self.out}: expected a name that ends in .vqrf, outside of {self.photos}")
        if work.resolve().is_relative_to(self.photos.resolve()):
            raise UsageError(f"{work}: expected a folder outside of {self.photos}")
        is_going_on = self._claim(work, (self.out, page, report))
        data = self.photos if is_dataset(self.photos) else self._find_cameras(work / "data")
        self._train(data, work / "run")
        if not is_going_on or not self.out.is_file() or is_unfinished(self.out):
            is_place = "space" in describe_field(work / "run" / FIELD_FILE)
            steps = tuning_of(self.preset, has_planes=has_planes(work / "run"), is_place=is_place)
            shown = Presenting(**asdict(self.said), report=report)
            Compress(work / "run", self.out, data, steps=steps, shown=shown, goal=self.goal, common=self.common).run(work)
        made = read_bytes(self.out)
        write_atomically(page, page_with_scene(made, self.out.name, about_of(metadata_of(made))))
        self._record(work, is_done=True)
        minutes = (time.perf_counter() - start) / 60
        say(
            self.common.quiet,
            f"made in {minutes:.0f} min; open {page}, which turns; {work} holds the field, and may be deleted",
        )

    def _claim(self, work: Path, outputs: tuple[Path, ...]) -> bool:
        """Make the folder of work this command's own; whether an earlier call of the same command was stopped in it.

        With --overwrite, what is of other photos or settings is removed; a field of these is used again.

        Raises:
          UsageError: the folder or an output holds what is to stay.
        """
        record = self._record_in(work)
        if not record and work.exists() and any(work.iterdir()):
            raise UsageError(f"{work}: holds what this command did not make; expected no such folder")
        is_same = record.get("asked") == self._asked()
        if record and not is_same and not self.common.overwrite:
            raise UsageError(f"{work}: is of other photos or settings; give --overwrite to start afresh")
        is_going_on = is_same and record.get("out") == self.out.name and not record.get("is_done") and not self.common.overwrite
        for path in () if is_going_on else outputs:
            expect_writable(path, self.common)
        if record and not is_same:
            shutil.rmtree(work)
        work.mkdir(parents=True, exist_ok=True)
        remove_stale(work)
        self._record(work, is_done=False)
        return is_going_on

    def _record_in(self, work: Path) -> dict[str, Any]:
        """What an earlier call was asked for; nothing where there was none."""
        path = work / ASKED_FILE
        if not path.is_file():
            return {}
        try:
            record = json.loads(read_file(path))
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not record:
            raise UsageError(f"{path}: is damaged; remove {work} to start afresh")
        return record

    def _record(self, work: Path, *, is_done: bool) -> None:
        record = {"asked": self._asked(), "out": self.out.name, "is_done": is_done}
        write_atomically(work / ASKED_FILE, json.dumps(record, indent=2).encode())

    def _asked(self) -> dict[str, Any]:
        """What the field depends on: flags, and which files there are of which sizes."""
        flags = {"preset": self.preset, "base": self.base, "exposure": self.exposure, "seed": self.common.seed}
        chosen = {name: str(value) for name, value in asdict(self.dataset).items() if value is not None}
        return {**flags, "photos": self.photos.resolve().name, "files": _digest(self.photos), **chosen}

    def _find_cameras(self, data: Path) -> Path:
        if not (data / MODEL_FOLDER).exists():
            common = Seeded(self.common.threads, self.common.quiet, self.common.max_memory, seed=self.common.seed)
            say(self.common.quiet, f"{self.photos}: has no cameras; finding them, then training, then compressing")
            Process(self.photos, data, common=common).run()
        return data

    def _train(self, data: Path, run: Path) -> None:
        if (run / FIELD_FILE).exists():
            finish_run(run, replace(self.common, quiet=True))
            return
        common = replace(self.common, overwrite=False)
        wished = self.dataset.space or ("box" if self.base == "tensorf" else None)
        train = Train(data, run, self.preset, exposure=self.exposure, photos=replace(self.dataset, space=wished), common=common)
        scene, images = train.load()
        base = self.base or usual_base(self.preset, scene)
        size, steps = training_of(self.preset, base, scene.space)
        replace(train, preset=size, base=base, steps=steps).train(scene, images)


def _digest(source: Path) -> str:
    """Of the names and sizes of the files of a folder, or of a film's."""
    digest = hashlib.sha256()
    if source.is_file():
        digest.update(str(source.stat().st_size).encode())
    for folder, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            size = path.stat().st_size if path.is_file() else 0
            digest.update(os.fsencode(f"{path.relative_to(source)}\0{size}\0"))
    return digest.hexdigest()
