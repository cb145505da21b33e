"""The budget is what is free, and says in one line what does not fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vqrf import memory
from vqrf.memory import LEAST_BUDGET, MAX_SIZE, USUAL_SHARE, OverBudget, expect_room, parse_bytes, usual_budget


def test_the_usual_budget_is_a_share_of_the_least_that_machine_and_container_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, limit, use = tmp_path / "meminfo", tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(memory, "MEMINFO", info)
    monkeypatch.setattr(memory, "CGROUPS", ((limit, use),))
    info.write_text("MemTotal: 1 kB\nMemAvailable:  8388608 kB\n")
    assert usual_budget() == USUAL_SHARE * (8 << 30)
    limit.write_text("max\n")
    use.write_text("1000\n")
    assert usual_budget() == USUAL_SHARE * (8 << 30)
    limit.write_text(f"{3 << 30}\n")
    use.write_text(f"{1 << 30}\n")
    assert usual_budget() == USUAL_SHARE * (2 << 30)
    use.write_text(f"{4 << 30}\n")
    assert usual_budget() == LEAST_BUDGET


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for the process's own size")
def test_a_limit_of_the_shell_is_a_limit_of_the_budget() -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2 << 30,) * 2)"
    words = [sys.executable, "-c", f"{limit}; from vqrf.memory import usual_budget; print(usual_budget())"]
    out = subprocess.run(words, capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}).stdout
    assert LEAST_BUDGET <= int(out) <= 1 << 30


def test_what_does_not_fit_is_refused_with_what_it_is_how_much_and_the_flag() -> None:
    expect_room(1 << 20, None, "a field")
    with pytest.raises(OverBudget, match=r"^a field takes 4\.0 GB of memory, the limit is 2\.0 GB .*--max-memory"):
        expect_room(4 * 10**9, 2 * 10**9, "a field")
    with pytest.raises(OverBudget):
        expect_room(1 << 62, None, "a field")


@pytest.mark.parametrize("text", ["", "MB", "1 XB", "-1MB", "0", "1e6", "1MB 2", "9" * 400])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size such as"):
        parse_bytes(text)


def test_a_size_beyond_every_machine_is_the_largest() -> None:
    assert parse_bytes("99999999999GB") == MAX_SIZE
