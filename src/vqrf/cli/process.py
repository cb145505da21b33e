"""The verb `process`: plain photos or a film to a dataset, with poses found by structure from motion."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from vqrf.bars import bars_on_terminal
from vqrf.cli.terminal import Seeded, SeededFlags, UsageError, print_json, say, tell
from vqrf.data.frames import FILM_ENDINGS, MAX_FRAMES, pick_frames
from vqrf.data.images import bombs_refused, upright_photo
from vqrf.data.listing import MAX_SHOTS, PHOTO_ENDINGS, some_names
from vqrf.data.sfm import (
    FEWEST_PHOTOS,
    IMAGES_FOLDER,
    MODEL_FOLDER,
    STAGES,
    WORK_FOLDER,
    Lens,
    Registration,
    SfmConfig,
    find_poses,
)
from vqrf.files import read_file, write_atomically

SOURCE_FILE = "source.json"
"""In the dataset: which photos were taken over, once all of them were."""

NAMES_SHOWN = 12
SECONDS_PER_LINE = 10.0


@dataclass(frozen=True)
class Process:
    """Find the cameras of plain photos, or of the frames of a film. If it is stopped, the same command continues.

    It writes a dataset for `train`: the photos, and a COLMAP model with their cameras. It runs on the CPU.
    """

    photos: tyro.conf.Positional[Path]
    """Folder of photos, or a film."""
    out: Path
    """Dataset folder to write."""
    frames: int = 150
    """For a film: how many frames to take; these are its sharpest."""
    lens: Lens = "simple-radial"
    """Camera model. opencv has more parameters, for lenses with more distortion; fisheye is for action cameras."""
    matching: int = SfmConfig.n_exhaustive
    """Up to this many photos, compare each with every other.
    With more, compare each with the next ones by name, and some from all over with each other."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""
    common: SeededFlags = Seeded()

    def run(self) -> None:
        if not 2 <= self.frames <= MAX_FRAMES:
            raise UsageError(f"--frames: expected 2..{MAX_FRAMES}, got {self.frames}")
        if self.matching < 0:
            raise UsageError(f"--matching: expected 0 or more, got {self.matching}")
        quiet = self.common.quiet or self.as_json
        _make_room(self.photos, self.out, self.common.overwrite)
        config = SfmConfig(self.lens, n_exhaustive=self.matching, seed=self.common.seed, threads=self.common.threads)
        with stage_bars(("photos", *STAGES), quiet) as report, bombs_refused():
            take_over(self.photos, self.out, self.frames, report)
            found = find_poses(self.out, config, report)
        if self.as_json:
            print_json({"out": str(self.out), **asdict(found)})
        else:
            for line in lines_about(found):
                say(False, line)
            say(quiet, f"wrote {self.out}; next: vqrf check {self.out}, vqrf train {self.out} --out RUN")


def _make_room(source: Path, out: Path, overwrite: bool) -> None:
    """Refuse, before long work, a folder that holds anything but what an earlier call made; the photos are never touched."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file, expected a folder")
    if source.resolve().is_relative_to(out.resolve()) or out.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{out}: one of it and {source} is inside of the other; expected a folder beside the photos")
    held = {path.name for path in out.iterdir()} if out.is_dir() else set()
    is_ours = WORK_FOLDER in held or SOURCE_FILE in held
    foreign = sorted(held - {IMAGES_FOLDER, WORK_FOLDER, SOURCE_FILE, Path(MODEL_FOLDER).parts[0]} if is_ours else held)
    if foreign:
        raise UsageError(f"{out}: holds {some_names(foreign)}; expected a folder that is empty or not there")
    if overwrite:
        for name in (IMAGES_FOLDER, WORK_FOLDER, MODEL_FOLDER):
            shutil.rmtree(out / name, ignore_errors=True)
        (out / SOURCE_FILE).unlink(missing_ok=True)
    elif (out / MODEL_FOLDER).exists():
        raise UsageError(f"{out}: holds a model already; give --overwrite to make it anew")


@contextmanager
def stage_bars(stages: Sequence[str], quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each stage, or now and then a line of text where there is no terminal."""
    told, last = time.monotonic(), ""
    with bars_on_terminal(quiet) as bars:
        tasks = {name: bars.add_task(name, total=1, note="", start=False) for name in stages}

        def report(stage: str, done: int, total: int) -> None:
            nonlocal told, last
            if not bars.tasks[tasks[stage]].started:
                bars.start_task(tasks[stage])
            bars.update(tasks[stage], completed=done, total=total)
            now = time.monotonic()
            if bars.disable and (now - told > SECONDS_PER_LINE or (done == total and stage != last)):
                tell(quiet, f"{stage} {done}/{total}")
                told, last = now, stage if done == total else ""

        yield report


def take_over(source: Path, out: Path, n_frames: int, report: Callable[[str, int, int], None]) -> None:
    """Put the photos of a folder, or frames of a film, into the dataset, each upright; nothing where all are there.

    Raises:
      UsageError: there are none, or others were taken over before.
      SceneError: one of them cannot be read.
    """
    is_film = source.is_file() and source.suffix.lower() in FILM_ENDINGS
    if not source.is_dir() and not is_film:
        what = (
            "there is no such folder or film"
            if not source.exists()
            else f"is no folder, and no film ({' '.join(FILM_ENDINGS)})"
        )
        raise UsageError(f"{source}: {what}")
    photos = [] if is_film else photos_in(source)
    said: dict[str, Any] = {"source": source.resolve().name, "n_frames": n_frames if is_film else 0}
    said["photos"] = [path.relative_to(source).as_posix() for path in photos]
    text, record, images = json.dumps(said, indent=2), out / SOURCE_FILE, out / IMAGES_FOLDER
    if record.exists():
        if read_file(record) != text.encode():
            raise UsageError(f"{out}: is of other photos; give --overwrite to start afresh")
        return
    (out / WORK_FOLDER).mkdir(parents=True, exist_ok=True)  # says whose the folder is
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir()
    if is_film:
        pick_frames(source, n_frames, images, lambda done, total: report("photos", done, total))
    for number, path in enumerate(photos):
        data, ending = upright_photo(path)
        target = images / path.relative_to(source).with_suffix(ending)
        if target.exists():
            target = target.with_name(f"{path.name}{ending}")  # a.jpg beside a.png
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, data)
        report("photos", number + 1, len(photos))
    write_atomically(record, text.encode())


def photos_in(folder: Path) -> list[Path]:
    """The photos in a folder and its subfolders, by name; hidden ones are passed over, as links that lead out are."""
    root = folder.resolve()
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in PHOTO_ENDINGS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
        and path.resolve().is_relative_to(root)
    ]
    if not found:
        raise UsageError(f"{folder}: holds no photos ({' '.join(PHOTO_ENDINGS)})")
    if len(found) < FEWEST_PHOTOS:
        raise UsageError(f"{folder}: holds {len(found)} photos; from fewer than {FEWEST_PHOTOS} no poses can be found")
    if len(found) > MAX_SHOTS:
        raise UsageError(f"{folder}: holds {len(found)} photos, the limit is {MAX_SHOTS}")
    return found


def lines_about(found: Registration) -> list[str]:
    """What came of it, for people, and what to do where it is not enough."""
    n = len(found.registered) + len(found.lost)
    lines = [f"{len(found.registered)} of {n} photos have a camera; {found.n_points} points, off by {found.error:.2f} pixels"]
    lines += [f"camera: {camera}" for camera in found.cameras]
    if found.lost:
        shown = ", ".join(found.lost[:NAMES_SHOWN]) + (" ..." if len(found.lost) > NAMES_SHOWN else "")
        lines.append(f"without a camera: {shown}; they show too little that another photo shows too")
    if found.others:
        parts = " and ".join(map(str, found.others))
        lines.append(f"{parts} more photos hang together among themselves: take some between them and the others")
    return lines
