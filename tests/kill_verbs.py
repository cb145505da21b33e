"""Commands that are killed, and started again: `python tests/kill_verbs.py N [SEED]`.

Four jobs in turn, train, compress, compress to a size and compress for the web, each with tiny settings. Every other kill is at
a moment of a random time of computing; the others are inside what `vqrf.files` does: before and after a file is opened,
half-written, flushed, renamed or removed. A command is killed once to three times, and then left alone: it must end with 0, in
the same bytes as one that was never disturbed, with nothing else in its folder. (One that is killed when all of that is so has
ended.) What does not is printed, with exit code 1.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent)]

from tiny import TINY, TINY_COMPRESS, TINY_RATE  # noqa: E402

import vqrf.compression.job  # noqa: E402 (imported before a process is forked, not by each)
import vqrf.training.run  # noqa: E402
import vqrf.training.verdict  # noqa: E402
from vqrf.cli.main import main as run_verb  # noqa: E402
from vqrf.cli.train import METRICS_FILE  # noqa: E402
from vqrf.compression.presets import PRESETS as COMPRESS_PRESETS  # noqa: E402
from vqrf.data.builtin import built_in_scene  # noqa: E402
from vqrf.data.scene import save_scene  # noqa: E402
from vqrf.training.checkpoint import Checkpoint  # noqa: E402
from vqrf.training.stages import PRESETS as TRAIN_PRESETS  # noqa: E402

JOBS = ("train", "compress", "search", "web")
MOST_KILLS = 3
"""Of one command, before it is left alone."""

Event = Callable[[], None]


def use_tiny_settings() -> None:
    """Trainings of a second, which save at every chance and of which little comes."""
    few = {"n_voxels": 12**3, "rays_per_step": 128}
    TRAIN_PRESETS["demo"] = replace(
        TINY,
        image_side=16,
        coarse=replace(TINY.coarse, steps=40, **few),
        fine=replace(TINY.fine, steps=70, grow_at=(20,), **few),
    )
    COMPRESS_PRESETS["demo"] = replace(TINY_COMPRESS, n_codes=8, steps=70, rays_per_step=128, bake_steps=40)
    COMPRESS_PRESETS["compact"] = replace(TINY_RATE, warm_steps=40, steps=40, rays_per_step=128)
    Checkpoint.__init__.__kwdefaults__["seconds"] = 0
    vqrf.training.verdict.judge = lambda *_: None


# ------------------------------------------------------------------------------------------------------ moments of a write


class TornFile(io.BufferedWriter):
    """A file that is flushed half-way through each write, with an event before, there and after."""

    event: Event

    def write(self, data: Any) -> int:
        half = len(data) // 2
        self.event()
        super().write(data[:half])
        super().flush()
        self.event()
        super().write(data[half:])
        super().flush()
        self.event()
        return len(data)


def with_events(event: Event) -> None:
    """Have `event` called around everything that changes a disk."""

    def around(name: str) -> None:
        before = getattr(os, name)

        def changed(*arguments: Any, **named: Any) -> Any:
            event()
            result = before(*arguments, **named)
            event()
            return result

        setattr(os, name, changed)

    for name in ("fsync", "replace", "unlink", "mkdir"):
        around(name)
    open_file = io.open

    def opened(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if mode not in ("xb", "wb"):
            return open_file(file, mode, *arguments, **named)
        event()
        torn = TornFile(io.FileIO(file, mode))
        torn.event = event
        return torn

    io.open = opened  # type: ignore[assignment]


# ---------------------------------------------------------------------------------------------------------------- processes


@dataclass(frozen=True)
class Kill:
    """When a process ends itself: at an event, or after seconds of its computing; both None: never."""

    event: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Ended:
    status: int
    n_events: int
    seconds: float
    said: str


def run_apart(words: list[str], log: Path, kill: Kill) -> Ended:
    """A verb in a process of its own."""
    count = log.with_suffix(".events")
    if (child := os.fork()) == 0:
        end = 1
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            n = 0

            def event() -> None:
                nonlocal n
                n += 1
                if n == kill.event:
                    os.kill(os.getpid(), signal.SIGKILL)

            with_events(event)
            if kill.seconds is not None:
                signal.setitimer(signal.ITIMER_PROF, kill.seconds)  # of which a process dies where nobody handles it
            run_verb(words)
            end = 0
            count.write_text(str(n))
        except SystemExit as error:
            end = int(error.code or 0)
        finally:
            os._exit(end)
    _, status, used = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    n_events = int(count.read_text()) if code == 0 else 0
    return Ended(code, n_events, used.ru_utime + used.ru_stime, log.read_text(errors="replace"))


def contents(folder: Path) -> dict[str, object]:
    """Every file's bytes; but for the seconds that its writing took."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.name == METRICS_FILE:
            found[path.name] = [(line["stage"], line["step"]) for line in map(json.loads, path.read_text().splitlines())]
        elif path.name.endswith(".search.json"):
            found[path.name] = re.sub(r'"seconds": ?[0-9.]+', "", path.read_text())
        elif path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


class Job:
    """A command with a folder for what it makes, and what it makes where nobody disturbs it."""

    def __init__(self, name: str, words: list[str], work: Path, out: str) -> None:
        self.name, self.words, self.work, self.out = name, words, work, out
        self.folder = work / name
        self.whole = self._run(Kill())
        assert self.whole.status == 0, (name, self.whole.said)
        self.result = contents(self.folder)
        self._again()
        self.events = self.whole.n_events

    def _run(self, kill: Kill) -> Ended:
        self.folder.mkdir(exist_ok=True)
        return run_apart([*self.words, "--out", str(self.folder / self.out)], self.work / f"{self.name}.log", kill)

    def _again(self) -> None:
        shutil.rmtree(self.folder)

    def disturb(self, rng: random.Random) -> tuple[int, str | None]:
        """Kills that hit, and what is wrong with how the command ended."""
        n_hit, kills = 0, []
        for _ in range(rng.randint(1, MOST_KILLS)):
            is_event = rng.random() < 0.5
            kill = Kill(event=rng.randint(1, self.events)) if is_event else Kill(seconds=rng.uniform(0.01, self.whole.seconds))
            kills.append(kill)
            if (ended := self._run(kill)).status >= 0:
                break
            n_hit += 1
            if contents(self.folder) == self.result:  # it had nothing left to do, and would say that this is there already
                self._again()
                return n_hit, None
        if ended.status < 0:
            ended = self._run(Kill())
        found, fault = contents(self.folder), None
        if ended.status != 0:
            fault = f"ended with {ended.status}: {ended.said.strip()[-300:]}"
        elif set(found) != set(self.result):
            fault = f"left {sorted(set(found) ^ set(self.result))}"
        elif found != self.result:
            fault = f"other bytes in {[name for name in found if found[name] != self.result[name]]}"
        self._again()
        return n_hit, None if fault is None else f"{self.name} after {kills}: {fault}"


def make_jobs(work: Path, names: tuple[str, ...] = JOBS) -> dict[str, Job]:
    """The jobs, and what they have in common: photos, and a field."""
    data, run = work / "data", work / "run"
    if (child := os.fork()) == 0:  # kernels start threads, which no fork has
        save_scene(built_in_scene(n_train=6, n_test=2, side=16), data)
        os._exit(0)
    os.waitpid(child, 0)
    alone = ["--threads", "1", "--quiet"]
    ended = run_apart(["train", str(data), "--out", str(run), "--preset", "demo", *alone], work / "run.log", Kill())
    assert ended.status == 0, ended.said
    compress = ["compress", str(run), "--data", str(data), *alone]
    words = {
        "train": ["train", str(data), "--preset", "demo", *alone],
        "compress": [*compress, "--preset", "demo"],
        "search": [*compress, "--preset", "demo", "--target-size", "0"],
        "web": [*compress, "--preset", "demo", "--profile", "web"],
    }
    jobs = {}
    for name in names:
        if name == "search":
            run_apart([*words["compress"], "--out", str(work / "least.vqrf")], work / "least.log", Kill())
            words[name][-1] = str(round(0.97 * (work / "least.vqrf").stat().st_size))
        jobs[name] = Job(name, words[name], work, "run" if name == "train" else "a.vqrf")
    return jobs


def tally(n: int, seed: int, names: tuple[str, ...] = JOBS) -> tuple[dict[str, int], list[str]]:
    """Kills that hit, by job, `n` or a few more of all together, and the faults."""
    use_tiny_settings()
    counts, faults = dict.fromkeys(names, 0), []
    with tempfile.TemporaryDirectory() as folder:
        jobs = make_jobs(Path(folder), names)
        for i in range(10 * n):
            job = jobs[names[i % len(names)]]
            n_hit, fault = job.disturb(random.Random(f"{seed} {i}"))
            counts[job.name] += n_hit
            faults += [] if fault is None else [f"seed {seed}, {i}: {fault}"]
            if fault is not None or i % 4 == 3:
                print(f"{i}: {counts} {fault or ''}", file=sys.stderr, flush=True)
            if sum(counts.values()) >= n:
                break
    return counts, faults


def main() -> None:
    n, seed = int(sys.argv[1]), int((sys.argv[2:] or ["0"])[0])
    counts, faults = tally(n, seed)
    seconds = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    print(f"{sum(counts.values())} kills, {counts}, in {seconds:.0f} s of computing, {len(faults)} faults")
    print(*faults, sep="\n", end="\n" if faults else "")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
