"""How much memory there is, and the budget that is asked before anything large is allocated.

A reader of files takes `max_bytes`, the budget of its caller. It reckons what a step will take from numbers that it has checked
already, and asks `expect_room` before the step. None means `usual_budget`.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USUAL_SHARE = 0.5
"""Share of the free memory that may be taken: the rest is for what the reckoning leaves out, and for other programs."""

LEAST_BUDGET = 1 << 28
"""Bytes. Below this nothing could be shown; where there is less, the system says so."""

DECODING_BYTES = 1 << 30
"""Bytes that the arrays of a file may have, unless a person allows more: those of the largest scenes are a tenth of it."""

UNKNOWN_BUDGET = 1 << 32
"""Bytes, where the system does not say how much memory it has."""

MEMINFO = Path("/proc/meminfo")
CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
"""Limit and use of a container, in the second and the first version of control groups."""

UNITS = {
    **{"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12},
    **{"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40},
}
MAX_SIZE = 1 << 62
"""Bytes: no file and no memory has more."""


class OverBudget(ValueError):
    """Something would take more memory than the caller allows; the message says what and how much."""


_limits: list[int] = []
"""Budgets that `limited` has set, the last of which holds."""


@contextmanager
def limited(n_bytes: int | None) -> Iterator[None]:
    """Inside, `n_bytes` are the usual budget of this process; None changes nothing."""
    if n_bytes is not None:
        _limits.append(n_bytes)
    try:
        yield
    finally:
        if n_bytes is not None:
            _limits.pop()


def decoding_budget() -> int:
    """Bytes for `vqrf.decode` where a person waits: what `limited` says, or a gigabyte if there is room for it."""
    return _limits[-1] if _limits else min(usual_budget(), DECODING_BYTES)


def training_budget() -> int:
    """Bytes for a training, of which is told the most that it may take: what `limited` says, or all that is free."""
    return _limits[-1] if _limits else int(usual_budget() / USUAL_SHARE)


def usual_budget() -> int:
    """Bytes that may be taken where nobody says: what `limited` says, or a share of what is free now on this machine, or in its
    container."""
    if _limits:
        return _limits[-1]
    free = [*_free_of_machine(), *_free_of_container(), *_free_of_process()]
    return max(int(min(free) * USUAL_SHARE), LEAST_BUDGET) if free else UNKNOWN_BUDGET


def expect_room(n_bytes: int, max_bytes: int | None, what: str) -> None:
    """Refuse a step that takes `n_bytes`.

    Args:
      max_bytes: the budget; None for the usual one.
      what: takes them, for the message.

    Raises:
      OverBudget: they are more than the budget.

    >>> expect_room(5, 5, "a field")
    >>> expect_room(3 * 10**9, 10**9, "a field")
    Traceback (most recent call last):
    vqrf.memory.OverBudget: a field takes 3.0 GB of memory, the limit is 1.0 GB (--max-memory says how much may be taken)
    """
    budget = usual_budget() if max_bytes is None else max_bytes
    if n_bytes > budget:
        limit = "(--max-memory says how much may be taken)"
        raise OverBudget(f"{what} takes {text_of_bytes(n_bytes)} of memory, the limit is {text_of_bytes(budget)} {limit}")


def parse_bytes(text: str) -> int:
    """A size as people write it: MB is 10^6 bytes, MiB 2^20.

    >>> parse_bytes("500kB"), parse_bytes("1.5 MB"), parse_bytes("1MiB"), parse_bytes("700000")
    (500000, 1500000, 1048576, 700000)

    Raises:
      ValueError: it is no size.
    """
    found = re.fullmatch(r"\s*(\d{1,20}(?:\.\d{1,20})?)\s*([A-Za-z]*)\s*", text)
    if found is None or found[2].lower() not in UNITS or float(found[1]) == 0:
        raise ValueError(f"expected a size such as 1MB or 500kB, got {text}")
    return min(round(float(found[1]) * UNITS[found[2].lower()]), MAX_SIZE)


def text_of_bytes(n: int) -> str:
    """A number of bytes for a person, in units of ten.

    >>> text_of_bytes(999), text_of_bytes(1500), text_of_bytes(82_000_000_000)
    ('999 bytes', '1.5 kB', '82.0 GB')
    """
    for unit in ("GB", "MB", "kB"):
        if n >= UNITS[unit.lower()]:
            return f"{n / UNITS[unit.lower()]:.1f} {unit}"
    return f"{n} bytes"


def _free_of_machine() -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) << 10
                return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_of_container() -> Iterator[int]:
    for limit, use in CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            yield max(int(limit.read_text()) - int(use.read_text()), 0)


def _free_of_process() -> Iterator[int]:
    """What `ulimit -v` leaves."""
    if sys.platform != "linux":
        return
    import resource

    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most == resource.RLIM_INFINITY:
        return
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        yield max(most - pages * os.sysconf("SC_PAGE_SIZE"), 0)
