"""The search lands where it was told to, on curves that nobody has seen before, and asks for few tunings on the way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY_COMPRESS

from vqrf.codec.bitstream import decode, encode
from vqrf.compression.preset import OWN_QUALITY
from vqrf.compression.presets import compress
from vqrf.compression.search import (
    MAX_TRIALS,
    PSNR_WINDOW,
    SIZE_WINDOW,
    USUAL,
    USUAL_VALUES,
    FieldDial,
    Journal,
    Target,
    Trial,
    describe_curve,
    search,
)
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField, expand
from vqrf.rendering.evaluate import evaluate


@dataclass
class Curve:
    """A dial whose size and PSNR are formulas, and which counts how often it was asked to tune.

    Attributes:
      log_size, decibels: over quality; both grow.
      trim_log: what a whole trim takes off the log of the size; 0 for a dial that cannot trim.
    """

    log_size: Callable[[float], float]
    decibels: Callable[[float], float]
    trim_log: float = 0.3
    asked: list[float] = field(default_factory=list)

    def setting(self, quality: float) -> float:
        assert 0 <= quality <= 100
        return quality

    def compress(self, setting: float) -> tuple[float, float]:
        self.asked.append(setting)
        return setting, 1.0

    def trim(self, result: tuple[float, float], share: float) -> tuple[float, float]:
        assert 0 <= share <= 1
        return result[0], share

    def n_bytes(self, result: tuple[float, float]) -> int:
        quality, share = result
        return round(math.exp(self.log_size(quality) - self.trim_log * (1 - share)))

    def psnr(self, result: tuple[float, float]) -> float:
        quality, share = result
        return self.decibels(quality) - 0.5 * (1 - share)


@st.composite
def growing(draw: st.DrawFn, low: float, span: float) -> Callable[[float], float]:
    """A growing function of 0..100, straight between up to eight places, from `low` up by `span`."""
    rises = draw(st.lists(st.floats(0.1, 10), min_size=1, max_size=8))
    gaps = draw(st.lists(st.floats(1, 10), min_size=len(rises), max_size=len(rises)))
    at = np.cumsum([0, *gaps]) / sum(gaps) * 100
    values = low + np.cumsum([0, *rises]) / sum(rises) * span
    return lambda quality: float(np.interp(quality, at, values))


@settings(max_examples=300, deadline=None)
@given(growing(11, 4), growing(25, 12), st.floats(0.0, 1.0), st.sampled_from([0.0, 0.3]))
def test_a_size_is_filled_and_never_exceeded(
    size: Callable[[float], float], psnr: Callable[[float], float], share: float, trim_log: float
) -> None:
    target = math.exp(11.06 + 3.93 * share)
    dial = Curve(size, psnr, trim_log)
    found = search(dial, Target("size", target), Journal(None, ""))
    assert found.is_met
    assert SIZE_WINDOW * target <= dial.n_bytes(found.result) == found.trial.n_bytes <= target
    assert len(dial.asked) == len(set(dial.asked)) <= MAX_TRIALS


@settings(max_examples=300, deadline=None)
@given(growing(11, 4), growing(25, 12), st.floats(0.0, 1.0))
def test_a_psnr_is_met_and_hardly_exceeded(
    size: Callable[[float], float], psnr: Callable[[float], float], share: float
) -> None:
    target = 25.01 + 11.9 * share
    dial = Curve(size, psnr)
    found = search(dial, Target("psnr", target), Journal(None, ""))
    assert found.is_met
    assert target <= dial.psnr(found.result) <= target + PSNR_WINDOW
    assert len(dial.asked) <= MAX_TRIALS


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(11.0, 15.0))
def test_a_size_is_never_exceeded_where_size_jumps_with_quality_or_even_falls(heights: list[float], log_target: float) -> None:
    dial = Curve(lambda q: 11 + 4 * heights[int(q / 100 * (len(heights) - 1))], lambda q: q, 0.0)
    try:
        found = search(dial, Target("size", math.exp(log_target)), Journal(None, ""))
    except ValueError as error:
        assert "the smallest file has" in str(error)
        assert all(dial.n_bytes((quality, 1.0)) > math.exp(log_target) for quality in dial.asked)
    else:
        assert found.trial.n_bytes <= math.exp(log_target)
    assert len(dial.asked) <= MAX_TRIALS


def straight() -> Curve:
    return Curve(lambda q: 11 + 0.04 * q, lambda q: 25 + 0.1 * q)


def test_a_trim_takes_the_place_of_a_tuning() -> None:
    with_trim, without = straight(), straight()
    without.trim_log = 0.0
    target = Target("size", math.exp(12.9))  # a little below the first trial
    assert search(with_trim, target, Journal(None, "")).trial.share < 1
    assert with_trim.asked == [50.0]
    assert len(search(without, target, Journal(None, "")).trials) > 1


@pytest.mark.parametrize("larger", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("kind", ["size", "psnr"])
def test_a_curve_of_the_usual_shape_is_met_by_the_second_tuning(kind: Literal["size", "psnr"], larger: float) -> None:
    def moved(of: str, by: float) -> Callable[[float], float]:
        return lambda quality: float(np.interp(quality, USUAL, USUAL_VALUES[of])) + by

    for quality in (5.0, 30.0, 60.0, 95.0):
        dial = Curve(moved("size", math.log(larger)), moved("psnr", -larger), 0.0)
        value = math.exp(dial.log_size(quality)) if kind == "size" else dial.decibels(quality)
        assert search(dial, Target(kind, value), Journal(None, "")).is_met
        assert len(dial.asked) == 2


@pytest.mark.parametrize(("below", "n_tuned"), [(0.05, 1), (0.15, 0)])
def test_what_is_nearer_from_below_is_not_passed_by_a_trim(below: float, n_tuned: int) -> None:
    """A trim of a tenth leaves less than a field that has a twentieth less than the target: it is tuned in between."""
    dial, target, journal = straight(), Target("size", math.exp(13)), Journal(None, "")
    for log_size in (13 - below, 13.1):
        journal.add(Trial((log_size - 11) / 0.04, 1.0, round(math.exp(log_size)), 30.0, 1.0))
    found = search(dial, target, journal)
    assert found.is_met and (found.trial.share == 1) == bool(n_tuned)
    assert len(journal.trials) == 2 + n_tuned


def test_a_target_out_of_reach_is_refused_and_one_that_nothing_fills_gets_the_most_there_is() -> None:
    with pytest.raises(ValueError, match="cannot be met: the smallest file has 59874 bytes"):
        search(straight(), Target("size", 40_000), Journal(None, ""))
    with pytest.raises(ValueError, match=r"cannot be met: the best has 35\.00 dB"):
        search(straight(), Target("psnr", 36), Journal(None, ""))
    most = search(straight(), Target("size", 10**8), Journal(None, ""))
    assert (most.trial.quality, most.is_met) == (100, False)
    least = search(straight(), Target("psnr", 20), Journal(None, ""))
    assert (least.trial.quality, least.is_met) == (0, False)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_a_target_is_above_zero(value: float) -> None:
    with pytest.raises(ValueError, match="target"):
        Target("size", value)


def test_an_interrupted_search_goes_on_and_ends_alike(tmp_path: Path) -> None:
    target, path = Target("psnr", 33.3), tmp_path / "journal.json"
    whole = straight()
    expected = search(whole, target, Journal(None, ""))
    assert len(whole.asked) > 1
    for n_done in range(len(whole.asked)):
        path.unlink(missing_ok=True)
        journal = Journal(path, "same")
        for trial in sorted(expected.trials, key=lambda t: whole.asked.index(t.quality))[:n_done]:
            if trial.share == 1:
                journal.add(trial)
        rest = straight()
        found = search(rest, target, Journal(path, "same"))
        assert (found.trial.quality, found.trial.share) == (expected.trial.quality, expected.trial.share)
        assert len(rest.asked) <= len(whole.asked)


def test_a_journal_helps_the_next_target_and_not_another_field(tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    first = straight()
    search(first, Target("psnr", 33.3), Journal(path, "same"))
    again = straight()
    found = search(again, Target("psnr", 33.4), Journal(path, "same"))
    assert len(again.asked) <= 1 < len(found.trials)
    assert Journal(path, "other").trials == []


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"fingerprint": "same", "trials": [{"quality": "x"}]}', "\x00"])
def test_a_journal_that_is_damaged_is_begun_anew(text: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    path.write_text(text)
    assert Journal(path, "same").trials == []


def test_the_curve_is_printed_with_the_chosen_point_marked() -> None:
    found = search(straight(), Target("psnr", 33.3), Journal(None, ""))
    lines = describe_curve(found.trials, found.trial).splitlines()
    assert len(lines) == 1 + len(found.trials)
    (marked,) = (line for line in lines if line.endswith("<-"))
    assert str(found.trial.n_bytes) in marked
    assert [int(line.split()[-3 if line != marked else -4]) for line in lines[1:]] == sorted(t.n_bytes for t in found.trials)


def test_a_tiny_field_is_brought_to_a_size(trained: RadianceField, scene: Scene, tmp_path: Path) -> None:
    base = replace(TINY_COMPRESS, steps=10)
    metadata = {"generator": "test"}

    def score(small: object) -> float:
        return evaluate(expand(small), scene.test).psnr  # type: ignore[arg-type]

    dial = FieldDial(base, lambda c: compress(trained, scene, c), score, metadata)
    small, large = (dial.compress(dial.setting(quality)) for quality in (0, 100))
    assert dial.n_bytes(small) < dial.n_bytes(large)
    assert dial.setting(OWN_QUALITY) == base
    wanted = int((dial.n_bytes(small) * dial.n_bytes(large)) ** 0.5)
    tried = []
    found = search(dial, Target("size", wanted), Journal(tmp_path / "journal.json", "tiny"), on_trial=tried.append)
    data = encode(replace(found.result, metadata=metadata))
    assert SIZE_WINDOW * wanted <= len(data) == found.trial.n_bytes <= wanted
    assert found.is_met
    assert score(decode(data)) == pytest.approx(found.trial.psnr)
    n_tuned = len(json.loads((tmp_path / "journal.json").read_text())["trials"])
    assert n_tuned == len([trial for trial in tried if trial.share == 1]) <= 6
