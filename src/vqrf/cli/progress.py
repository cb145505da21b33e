"""A word on the way: bars, lines where there is no terminal, what was measured as JSON, and an end where one is asked for.

A run that is stopped by Ctrl-C or SIGTERM ends after the step that it is at, saves it, and says how to go on. One that goes on
says from where. Whatever happened to the runs before, the lines of JSON are those of one run that was never stopped.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from vqrf.bars import Step, bars_on_terminal, is_shown, stage_bars
from vqrf.cli.terminal import Terminated, tell
from vqrf.data.load import ReadReport
from vqrf.files import write_atomically
from vqrf.memory import text_of_bytes

if TYPE_CHECKING:
    from vqrf.training.loop import Progress as StepProgress
    from vqrf.training.loop import Report

METRICS_STEPS = 100
"""Between two lines of JSON."""

FIRST_LINE, NEXT_LINE = 5.0, 30.0
"""Seconds until the first line of text, where there is no terminal, and between two of them."""


def tell_plan(quiet: bool, what: str, stages: dict[str, int], seconds: float | None, n_bytes: int | None) -> None:
    """The line before long work: how many steps, and about how long they take and how much memory."""
    steps = ", ".join(f"{name} {n} steps" for name, n in stages.items() if n)
    costs = [] if seconds is None else [text_of_seconds(seconds)]
    costs += [] if n_bytes is None else [f"{text_of_bytes(n_bytes)} of memory"]
    tell(quiet, f"{what}: {steps}" + (f"; about {' and '.join(costs)}" if costs else ""))


def text_of_seconds(seconds: float) -> str:
    """A time for a person, of two figures at most.

    >>> text_of_seconds(0.2), text_of_seconds(41), text_of_seconds(100), text_of_seconds(3500), text_of_seconds(9000)
    ('1 s', '41 s', '2 min', '58 min', '2.5 h')
    """
    if seconds < 60:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


@contextmanager
def reading_bar(quiet: bool) -> Iterator[ReadReport]:
    """What to call after each photo that is read: a bar, or now and then a line where there is no terminal."""
    due = time.monotonic() + FIRST_LINE
    with bars_on_terminal(quiet) as bars:
        task = bars.add_task("photos", total=None, note="", visible=False)

        def report(n_read: int, n: int) -> None:
            nonlocal due
            bars.update(task, completed=n_read, total=n, visible=True)
            if bars.disable and n_read < n and time.monotonic() >= due:
                tell(quiet, f"read {n_read} of {n} photos")
                due = time.monotonic() + NEXT_LINE

        yield report


@contextmanager
def step_bars(
    stages: dict[str, int], metrics: Path | None, quiet: bool, what: str | None = None, seconds: float | None = None
) -> Iterator[Report]:
    """What to call after every step: a bar or a line of text for the user, a line of JSON for `metrics`, an end if asked for.

    Args:
      stages: their steps, in order.
      what: is done, for a plan with the first step, when nothing can be refused any more; None: no plan.
      seconds: that it takes, about, for the plan.

    Raises:
      KeyboardInterrupt, Terminated: Ctrl-C, SIGTERM; the message says how to go on.
    """
    with stage_bars(stages, quiet) as show, _Stop.held() as stop:
        watch = _Watch(show, stop, None if metrics is None else _Metrics(metrics, list(stages)), stages, quiet)

        def report(stage: str, progress: StepProgress) -> None:
            if what is not None and not watch.begun:
                tell_plan(quiet, what, stages, seconds, None)
            watch.report(stage, progress)

        with telling_way_on(lambda: "from the last save" if watch.is_saved else None):
            yield report


@contextmanager
def telling_way_on(way_on: Callable[[], str | None]) -> Iterator[None]:
    """Where Ctrl-C or SIGTERM end what is done inside, say how the same command goes on, unless that was said.

    Args:
      way_on: answers "from ..." or "with ..."; None: there is nothing to go on with.
    """
    try:
        yield
    except (KeyboardInterrupt, Terminated) as error:
        if error.args:
            raise
        way = way_on()
        raise type(error)("stopped" if way is None else f"stopped; the same command goes on {way}") from None


class _Watch:
    """What is done after a step."""

    def __init__(
        self, show: Callable[[str, Step], None], stop: _Stop, metrics: _Metrics | None, stages: dict[str, int], quiet: bool
    ) -> None:
        self.show, self.stop, self.metrics, self.stages, self.quiet = show, stop, metrics, list(stages), quiet
        self.is_in_words = not quiet and not is_shown(quiet)
        self.is_saved = False
        self.line_due = time.monotonic() + FIRST_LINE
        self.begun: dict[str, tuple[int, float]] = {}  # the first step of each stage here, and when it ended

    def report(self, stage: str, progress: StepProgress) -> None:
        if stage not in self.begun:
            self._begin(stage, progress)
        self.show(stage, progress)
        if self.metrics is not None and (progress.step % METRICS_STEPS == 0 or progress.step == progress.steps):
            self.metrics.add(stage, progress)
        if self.is_in_words and time.monotonic() >= self.line_due:
            self._tell(stage, progress)
        self.stop.holds = progress.save is not None and progress.step < progress.steps
        if self.stop.asked is not None:
            self._end(stage, progress, self.stop.asked)

    def _begin(self, stage: str, progress: StepProgress) -> None:
        is_first = not self.begun
        self.begun[stage] = progress.step, time.monotonic()
        self.is_saved |= progress.save is not None
        if is_first:
            if self.metrics is not None:
                self.metrics.go_on(stage, progress.step)
            if progress.step > 1:
                tell(self.quiet, f"going on after step {progress.step - 1} of {progress.steps} of the stage {stage}")
            elif self.metrics is not None and stage != self.stages[0]:
                tell(self.quiet, f"going on with the stage {stage}")

    def _tell(self, stage: str, progress: StepProgress) -> None:
        now, (first, begun) = time.monotonic(), self.begun[stage]
        rate = (progress.step - first) / max(now - begun, 1e-9)
        left = f", {text_of_seconds((progress.steps - progress.step) / rate)} left" if rate else ""
        tell(self.quiet, f"{stage} {progress.step}/{progress.steps}, {progress.psnr:.1f} dB, {rate:.1f} steps/s{left}")
        self.line_due = now + NEXT_LINE

    def _end(self, stage: str, progress: StepProgress, asked: BaseException) -> None:
        way_on = ""
        if progress.save is not None:
            progress.save()
            way_on = "; the same command goes on from there"
        raise type(asked)(f"stopped after step {progress.step} of {progress.steps} of the stage {stage}{way_on}")


class _Stop:
    """Ctrl-C and SIGTERM, held back while a step is made that can be saved then; a second one is not.

    Attributes:
      holds: whether to hold them back.
      asked: what was held back.
    """

    def __init__(self) -> None:
        self.holds = False
        self.asked: BaseException | None = None

    @classmethod
    @contextmanager
    def held(cls) -> Iterator[_Stop]:
        stop = cls()
        if threading.current_thread() is not threading.main_thread():
            yield stop
            return
        before = {number: signal.signal(number, stop._take) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        error = KeyboardInterrupt() if number == signal.SIGINT else Terminated()
        if not self.holds or self.asked is not None:
            raise error
        self.asked = error


class _Metrics:
    """Lines of JSON about the steps of a run, each step once and time going on, however often the run was stopped.

    Args:
      stages: in order.
    """

    def __init__(self, path: Path, stages: list[str]) -> None:
        self.path, self.stages = path, stages
        self.begun = time.monotonic()

    def go_on(self, stage: str, step: int) -> None:
        """This run's first step: what an earlier one said of it and of what follows is dropped, and time goes on."""
        here = self.stages.index(stage), step
        kept = [line for line in self._lines() if (self.stages.index(line["stage"]), line["step"]) < here]
        if self.path.exists():
            write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        if kept:
            self.begun -= kept[-1]["seconds"]

    def _lines(self) -> Iterator[dict[str, Any]]:
        """The lines that are whole and ours."""
        if not self.path.exists():
            return
        for text in self.path.read_text(errors="replace").splitlines():
            try:
                line = json.loads(text)
                is_ours = line["stage"] in self.stages and type(line["step"]) is int and line["seconds"] >= 0
            except (ValueError, KeyError, TypeError):
                continue
            if is_ours:
                yield line

    def add(self, stage: str, progress: StepProgress) -> None:
        line = {
            "stage": stage,
            "step": progress.step,
            "batch_psnr": round(progress.psnr, 3),
            "seconds": round(time.monotonic() - self.begun, 2),
        }
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
