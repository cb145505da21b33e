"""A few damaged datasets of every layout; `tests/fuzz_data.py N` makes more."""

from __future__ import annotations

from fuzz_data import fuzz


def test_damaged_datasets_of_every_layout_are_read_or_refused_in_one_line() -> None:
    assert all(counts["read"] + counts["refused"] == 60 for counts in fuzz(60, seed=1).values())
