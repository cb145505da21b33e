"""A little of `tests/fuzz_verbs.py` each time; the long way is `python tests/fuzz_verbs.py KIND N`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))

from fuzz_verbs import tally


@pytest.fixture(autouse=True)
def own_alarm() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGPROF)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("kind", "n"), [("files", 15), ("planes", 6), ("checkpoints", 120), ("headers", 60), ("server", 300)])
def test_whatever_is_handed_in_ends_in_0_or_in_2_and_one_line(kind: str, n: int) -> None:
    counts, faults = tally(kind, range(n), seed=7)
    assert faults == []
    assert sum(count for name, count in counts.items() if name.endswith(": ok")) >= n / 10
