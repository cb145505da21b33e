"""Bars on the terminal for what takes its time; nothing where the error stream is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

Advance = Callable[[int, str], None]
"""How much more is done, and a note beside the bar."""


class Step(Protocol):
    """What a bar shows of a step of a loop."""

    @property
    def step(self) -> int: ...

    @property
    def psnr(self) -> float: ...


BETWEEN_MOVES = 0.1
"""Seconds between two moves of a bar."""


class _Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f}/s", style="cyan")


def is_shown(quiet: bool) -> bool:
    """Whether bars are drawn: they are not wanted, or nobody sees them, where the error stream is no terminal."""
    return not quiet and Console(stderr=True).is_terminal


def bars_on_terminal(quiet: bool) -> Progress:
    """Bars with a rate and an ETA on a terminal; nothing where the error stream is none, or when quiet."""
    return Progress(
        TextColumn("{task.description:>7}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        disable=not is_shown(quiet),
    )


@contextmanager
def progress_bar(name: str, total: int, quiet: bool) -> Iterator[Advance]:
    """One bar, moved by what is yielded."""
    with bars_on_terminal(quiet) as bars:
        task = bars.add_task(name, total=total, note="")
        yield lambda completed, note: bars.update(task, advance=completed, note=note)


@contextmanager
def stage_bars(stages: Mapping[str, int], quiet: bool) -> Iterator[Callable[[str, Step], None]]:
    """A bar for each stage, of so many steps; a step of one moves it, if it is the last or some time has gone by.

    What a step measured is asked for then alone: on a card that is to wait for it.
    """
    due = 0.0
    with bars_on_terminal(quiet) as bars:
        tasks = {name: bars.add_task(name, total=total, note="", start=False) for name, total in stages.items()}

        def show(stage: str, progress: Step) -> None:
            nonlocal due
            if bars.disable or (time.monotonic() < due and progress.step != stages[stage]):
                return
            due = time.monotonic() + BETWEEN_MOVES
            if not bars.tasks[tasks[stage]].started:
                bars.start_task(tasks[stage])
            bars.update(tasks[stage], completed=progress.step, note=f"{progress.psnr:.1f} dB")

        yield show
