"""A word on the way: lines and metrics are those of one run however often it was stopped, and a stop waits for its step."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vqrf.cli import progress as progress_module
from vqrf.cli.progress import reading_bar, step_bars, tell_plan
from vqrf.cli.terminal import Terminated
from vqrf.training.loop import Progress

STAGES = {"coarse": 300, "fine": 500}


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module.time, "monotonic", clock)
    return clock


def run(
    metrics: Path | None,
    clock: Clock,
    *,
    begin: tuple[str, int] = ("coarse", 1),
    end: tuple[str, int] | None = None,
    save: Callable[[], None] | None = None,
    quiet: bool = True,
) -> None:
    """Report the steps of a run, a second each, from one to another."""
    begun = False
    with step_bars(STAGES, metrics, quiet) as report:
        for stage, steps in STAGES.items():
            for step in range(1, steps + 1):
                begun = begun or (stage, step) == begin
                if begun:
                    clock.now += 1
                    report(stage, Progress(step, steps, 0.01, 5.0, save))
                if (stage, step) == end:
                    return


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_have_a_line_for_every_hundred_steps_and_the_last(tmp_path: Path, clock: Clock) -> None:
    run(tmp_path / "metrics", clock)
    lines = lines_of(tmp_path / "metrics")
    assert [(line["stage"], line["step"]) for line in lines] == [
        *(("coarse", step) for step in (100, 200, 300)),
        *(("fine", step) for step in (100, 200, 300, 400, 500)),
    ]
    assert [line["seconds"] for line in lines] == [100, 200, 300, 400, 500, 600, 700, 800]
    assert {line["batch_psnr"] for line in lines} == {20.0}


@pytest.mark.parametrize(
    ("end", "begin"),
    [
        (("coarse", 130), ("coarse", 97)),
        (("fine", 320), ("fine", 193)),
        (("fine", 320), ("fine", 301)),
        (("fine", 90), ("fine", 1)),
        (("fine", 450), ("coarse", 1)),
    ],
)
def test_metrics_of_a_run_that_was_stopped_and_went_on_are_those_of_one_that_was_not(
    tmp_path: Path, clock: Clock, end: tuple[str, int], begin: tuple[str, int]
) -> None:
    run(tmp_path / "metrics", clock, end=end)
    with (tmp_path / "metrics").open("a") as file:
        file.write('{"stage": "fine", "st')  # as a process that is killed may leave it
    clock.now += 1000
    run(tmp_path / "metrics", clock, begin=begin)
    lines = lines_of(tmp_path / "metrics")
    run(tmp_path / "whole", clock)
    assert [(line["stage"], line["step"]) for line in lines] == [
        (line["stage"], line["step"]) for line in lines_of(tmp_path / "whole")
    ]
    seconds = [float(str(line["seconds"])) for line in lines]
    assert seconds == sorted(seconds)
    assert seconds[-1] <= 800 + 200


def test_lines_of_others_in_the_metrics_are_dropped(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "metrics"
    path.write_bytes(
        b'\xff\n[1]\n{"stage": "bake", "step": 1, "seconds": 1}\n{"stage": "coarse", "step": "1", "seconds": 1}\n3\n'
    )
    run(path, clock, end=("coarse", 100))
    assert [(line["stage"], line["step"]) for line in lines_of(path)] == [("coarse", 100)]


def test_where_there_is_no_terminal_lines_come_now_and_then(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    run(None, clock, quiet=False, end=("fine", 60))
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "vqrf: coarse 5/300, 20.0 dB, 1.0 steps/s, 5 min left"
    assert said[1] == "vqrf: coarse 35/300, 20.0 dB, 1.0 steps/s, 4 min left"
    assert len(said) == 12
    run(None, clock)
    assert capsys.readouterr().err == ""


def test_a_run_that_goes_on_says_from_where(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "metrics", clock, quiet=False, begin=("fine", 129), end=("fine", 129))
    assert capsys.readouterr().err == "vqrf: going on after step 128 of 500 of the stage fine\n"
    run(tmp_path / "metrics", clock, quiet=False, begin=("fine", 1), end=("fine", 1))
    assert capsys.readouterr().err == "vqrf: going on with the stage fine\n"
    run(tmp_path / "metrics", clock, quiet=False, end=("coarse", 1))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_stop_waits_for_its_step_saves_it_and_says_how_to_go_on(number: signal.Signals, error: type[BaseException]) -> None:
    before, saved = signal.getsignal(number), []
    with pytest.raises(error) as caught, step_bars(STAGES, None, quiet=True) as report:
        report("fine", Progress(7, 500, 0.01, 5.0, lambda: saved.append(7)))
        os.kill(os.getpid(), number)
        assert saved == []
        report("fine", Progress(8, 500, 0.01, 5.0, lambda: saved.append(8)))
    assert str(caught.value) == "stopped after step 8 of 500 of the stage fine; the same command goes on from there"
    assert saved == [8]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("step", [None, 500])
def test_between_stages_and_before_the_first_a_stop_does_not_wait(step: int | None) -> None:
    with pytest.raises(KeyboardInterrupt, match="stopped"), step_bars(STAGES, None, quiet=True) as report:
        if step is not None:
            report("fine", Progress(step, 500, 0.01, 5.0, lambda: None))
        signal.raise_signal(signal.SIGINT)


def test_what_cannot_be_saved_is_not_waited_for_and_neither_is_a_second_stop() -> None:
    with pytest.raises(KeyboardInterrupt) as first, step_bars(STAGES, None, quiet=True) as report:
        report("fine", Progress(7, 500, 0.01, 5.0))
        signal.raise_signal(signal.SIGINT)
    assert str(first.value) == "stopped"
    with pytest.raises(Terminated) as second, step_bars(STAGES, None, quiet=True) as report:
        report("fine", Progress(7, 500, 0.01, 5.0, lambda: None))
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert str(second.value) == "stopped; the same command goes on from the last save"


def test_another_thread_leaves_signals_alone() -> None:
    before, failed = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        try:
            with step_bars(STAGES, None, quiet=True) as report:
                report("fine", Progress(7, 500, 0.01, 5.0))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed and signal.getsignal(signal.SIGINT) is before


def test_a_plan_says_steps_time_and_memory_where_they_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    tell_plan(False, "training lego", STAGES, 5400.0, 3_100_000_000)
    tell_plan(False, "compressing", {"warm": 0, "tune": 80}, None, None)
    tell_plan(True, "training lego", STAGES, 5400.0, 3_100_000_000)
    assert capsys.readouterr().err == (
        "vqrf: training lego: coarse 300 steps, fine 500 steps; about 1.5 h and 3.1 GB of memory\n"
        "vqrf: compressing: tune 80 steps\n"
    )


def test_what_reads_photos_says_now_and_then_how_many_it_has_read(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    with reading_bar(quiet=False) as report:
        for number in range(1, 41):
            clock.now += 1
            report(number, 40)
    said = capfd.readouterr().err.splitlines()
    assert said == ["vqrf: read 5 of 40 photos", "vqrf: read 35 of 40 photos"]
