"""A size or a quality that the user names, reached: one dial from 0 to 100, turned until the file fits.

A dial maps a quality to settings, settings to a compressed field, and says how large and how good that is. Size and PSNR
grow with the quality, but nobody knows how fast before trying, and a try is a whole tuning. So the search takes the curve of a
scene for that of all, moved and stretched to go through what it has measured (log bytes, or dB, over quality), and the last few
per cent are taken off by a trim, which costs no tuning: coarser levels in the field that was just too large.

What was tried is kept in a journal, from which the same search goes on and another one on the same field begins better.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np

from vqrf.codec.bitstream import encode
from vqrf.codec.compressed import Compressed
from vqrf.compression.preset import Preset
from vqrf.files import write_atomically

MAX_TRIALS = 20
"""Most tunings of one search. It takes two or three, and 15 at worst on curves with sharp bends
(docs/log/search.md#does-the-curve-of-one-scene-tell-where-to-look-on-another). So many mean that size does not
follow the dial."""
MAX_TRIMS = 16
OVERSHOOT = 1.2
"""Times as far as a curve through two points on one side of the target says, so that the next is on the other."""
LEAST_AWAY = 1 / 8
"""Of the way to the end of a dial, that it goes at least where no point is on the other side of the target."""
RESOLUTION = 1e-4
"""Of a dial, as a share of its whole: what is nearer together is the same."""

SIZE_WINDOW = 0.96
"""Of the target: a file of this share or more fills it. 0.95 is promised; metadata may be some bytes shorter than reckoned."""
PSNR_WINDOW = 0.02
"""dB above the target: a field that is no better than this meets it."""
TRIM_REACH = {"size": math.log(1.2), "psnr": 0.2}
"""How far above the target (in log bytes, in dB) a trial is trimmed rather than tuned anew."""
USUAL = (0.0, 15.0, 30.0, 45.0, 60.0, 80.0, 100.0)
USUAL_VALUES = {
    "size": tuple(map(math.log, (101_361, 175_217, 289_972, 410_012, 499_050, 750_795, 1_538_851))),
    "psnr": (29.64, 31.80, 33.17, 33.82, 34.05, 34.28, 34.49),
}
"""Of lego, by `compact`, at these qualities (docs/log/search.md#what-does-the-whole-curve-look-like-at-4500-steps)."""

Setting = TypeVar("Setting")
Result = TypeVar("Result")


class Dial(Protocol[Setting, Result]):
    """One way to compress, with a quality 0..100 in front of it. Deterministic: the same quality gives the same result."""

    def setting(self, quality: float) -> Setting:
        """The settings of a quality; size and PSNR of what they give grow with it."""

    def compress(self, setting: Setting) -> Result:
        """Compress and tune: the part that takes time."""

    def trim(self, result: Result, share: float) -> Result:
        """The result made smaller without tuning: unchanged for share 1, and the less the smaller share is, down to 0."""

    def n_bytes(self, result: Result) -> int:
        """Of the file that would be written."""

    def psnr(self, result: Result) -> float:
        """dB, on the views that the target is about."""


@dataclass(frozen=True)
class Target:
    """What a search is for.

    Attributes:
      kind: size in bytes, never exceeded; or psnr in dB, never missed.
      value: more than 0.
    """

    kind: Literal["size", "psnr"]
    value: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value > 0):
            raise ValueError(f"target: expected a {self.kind} above 0, got {self.value:g}")

    @property
    def window(self) -> tuple[float, float]:
        """Least and greatest value, in log bytes or dB, that meets the target."""
        if self.kind == "size":
            return math.log(SIZE_WINDOW * self.value), math.log(self.value)
        return self.value, self.value + PSNR_WINDOW

    def value_of(self, n_bytes: int, psnr: float) -> float:
        """What the target is about, in the window's unit."""
        return math.log(n_bytes) if self.kind == "size" else psnr

    def allows(self, value: float) -> bool:
        """Whether a file of this value may be handed out, be it near the target or not."""
        least, greatest = self.window
        return value <= greatest if self.kind == "size" else value >= least


@dataclass(frozen=True)
class Trial:
    """One point of the curve: what a quality came to.

    Attributes:
      quality: 0..100.
      share: of `Dial.trim`; 1 for what was tuned.
      psnr: dB.
      seconds: wall time of the tuning, 0 where there was none.
    """

    quality: float
    share: float
    n_bytes: int
    psnr: float
    seconds: float


@dataclass(frozen=True)
class Found(Generic[Result]):
    """The end of a search.

    Attributes:
      trial: the point that was chosen.
      result: what the dial gave for it.
      is_met: whether the target is met within its window; if not, this is the nearest that it allows.
      trials: all that were measured, from the smallest on.
    """

    trial: Trial
    result: Result
    is_met: bool
    trials: tuple[Trial, ...]

    def facts(self) -> dict[str, Any]:
        """Everything but the result, of JSON types."""
        return {"is_met": self.is_met, "chosen": asdict(self.trial), "trials": [asdict(trial) for trial in self.trials]}


class Journal:
    """The tunings of a field and a preset, in a JSON file beside the output.

    Args:
      path: the file; None keeps nothing.
      fingerprint: of everything but the quality. A file with another one is begun anew.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint
        self.trials: list[Trial] = []
        if path is not None and path.is_file():
            self.trials = self._load(path)

    def _load(self, path: Path) -> list[Trial]:
        """What is in the file; nothing if it is not ours or of another field."""
        try:
            tree = json.loads(path.read_bytes())
            if tree["fingerprint"] != self.fingerprint:
                return []
            return [
                Trial(float(t["quality"]), 1.0, int(t["n_bytes"]), float(t["psnr"]), float(t["seconds"]))
                for t in tree["trials"]
            ]
        except (ValueError, KeyError, TypeError):
            return []

    def clear(self) -> None:
        """Forget every trial, on the disk too."""
        self.trials = []
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def add(self, trial: Trial) -> None:
        """Remember a trial, on the disk too."""
        self.trials = [old for old in self.trials if old.quality != trial.quality] + [trial]
        if self.path is not None:
            tree = {"fingerprint": self.fingerprint, "trials": [asdict(t) for t in self.trials]}
            write_atomically(self.path, json.dumps(tree, indent=1).encode())


Table = tuple[Sequence[float], Sequence[float]]
"""A growing curve: places and values."""


def next_setting(
    points: Mapping[float, float], window: tuple[float, float], ends: tuple[float, float], usual: Table | None = None
) -> float | None:
    """Where to look next for a value inside the window; None where it is found, or nowhere.

    Between a point that is too low and one that is too high the value is interpolated, and later every second time the interval
    is halved, so that no shape of the curve takes more than about twice the steps of bisection. Depends on nothing but its
    arguments.

    Args:
      points: value by place; values grow with the place, more or less.
      window: least and greatest value wanted.
      ends: the first and the last place.
      usual: the shape that the curve is taken to have, from one end to the other; None: straight.

    >>> next_setting({}, (4, 5), (0, 100))
    50.0
    >>> next_setting({50.0: 3.0}, (4, 5), (0, 100), ((0, 100), (0, 10)))
    65.0
    >>> next_setting({50.0: 3.0, 65.0: 4.2}, (4, 5), (0, 100)) is None
    True
    """
    least, greatest = window
    first, last = ends
    if any(least <= value <= greatest for value in points.values()):
        return None
    if not points:
        return (first + last) / 2
    to_height, to_place = _between(*(usual or (ends, ends)))
    heights = {place: to_height(place) for place in points}
    places, goal = sorted(points), (least + greatest) / 2
    for low, high in pairwise(places):
        if points[low] < least and points[high] > greatest:
            if high - low <= RESOLUTION * (last - first):
                return None
            if len(points) % 2 == 1 and len(points) > 3:
                return (low + high) / 2
            share = min(max((goal - points[low]) / (points[high] - points[low]), 0.05), 0.95)
            return to_place(heights[low] + share * (heights[high] - heights[low]))
    is_low = points[places[-1]] < least
    tried, *others = places[::-1] if is_low else places
    end = last if is_low else first
    if tried == end:
        return None
    if usual is None:
        return end if others else (tried + end) / 2
    rise = points[tried] - points[others[0]] if others else 0.0
    pace = 1.0 if not others else OVERSHOOT * (heights[tried] - heights[others[0]]) / rise if rise else math.inf
    missing = math.copysign(pace * (goal - points[tried]), end - tried)  # also where size falls with quality
    away = max(abs(to_place(heights[tried] + missing) - tried), LEAST_AWAY * abs(end - tried))
    return end if away >= abs(end - tried) else tried + math.copysign(away, end - tried)


def _between(places: Sequence[float], values: Sequence[float]) -> tuple[Callable[[float], float], Callable[[float], float]]:
    """The value at a place and the place of a value, straight between those of a growing curve and no farther than its ends."""
    return (lambda place: float(np.interp(place, places, values))), (lambda value: float(np.interp(value, values, places)))


def search(
    dial: Dial[Setting, Result],
    target: Target,
    journal: Journal,
    *,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> Found[Result]:
    """Turn the dial until the target is met, or until it is clear that it cannot be.

    Args:
      journal: trials in it are taken as measured; new ones are added.
      on_trial: called with every trial that is measured.

    Returns:
      What meets the target, or else the nearest that the target allows: the largest file that is not above a size, the
      smallest that is not below a PSNR.

    Raises:
      ValueError: nothing that the dial gives is allowed: the smallest is too large, or the best not good enough.

    Deterministic for a deterministic dial, and the same after an interruption.
    """
    tuned: dict[float, Result] = {}
    trimmed: dict[Trial, Result] = {}
    untrimmable: set[float] = set()

    def measure(quality: float) -> Trial:
        start = time.perf_counter()
        tuned[quality] = result = dial.compress(dial.setting(quality))
        seconds = round(time.perf_counter() - start, 1)
        trial = Trial(quality, 1.0, dial.n_bytes(result), dial.psnr(result), seconds)
        journal.add(trial)
        on_trial(trial)
        return trial

    while len(tuned) < MAX_TRIALS:
        points = {trial.quality: target.value_of(trial.n_bytes, trial.psnr) for trial in journal.trials}
        quality = next_setting(points, target.window, (0.0, 100.0), (USUAL, USUAL_VALUES[target.kind]))
        too_much = _worth_trimming(points, target, untrimmable, can_tune=quality is not None)
        if too_much is not None:
            if too_much not in tuned:
                measure(too_much)
            result = _trim(dial, tuned[too_much], target)
            if result is None:
                untrimmable.add(too_much)
                continue
            share, smaller = result
            trial = Trial(too_much, share, dial.n_bytes(smaller), dial.psnr(smaller), 0.0)
            on_trial(trial)
            trimmed[trial] = smaller
            break
        if quality is None:
            break
        measure(quality)
    return _choose(dial, target, journal, tuned, trimmed, measure)


def _worth_trimming(points: Mapping[float, float], target: Target, untrimmable: set[float], can_tune: bool) -> float | None:
    """The quality that is nearest above the target, if it is near enough and nothing meets the target yet.

    A trim loses about twice the dB that a tuning to as many bytes does, so a field that is nearer from below is better than
    what a trim would leave: between the two is tuned, if that is possible.
    """
    least, greatest = target.window
    if any(least <= value <= greatest for value in points.values()):
        return None
    above = {q: v for q, v in points.items() if greatest < v <= greatest + TRIM_REACH[target.kind] and q not in untrimmable}
    if not above:
        return None
    nearest = min(above, key=lambda quality: above[quality])
    is_nearer_below = any(greatest - value < above[nearest] - greatest for value in points.values() if value < least)
    return None if can_tune and is_nearer_below else nearest


def _trim(dial: Dial[Any, Result], result: Result, target: Target) -> tuple[float, Result] | None:
    """The share of a trim that brings the result into the window, and what comes of it."""

    def value_of(smaller: Result) -> float:
        return target.value_of(dial.n_bytes(smaller), dial.psnr(smaller) if target.kind == "psnr" else 0.0)

    points = {1.0: value_of(result)}
    least, greatest = target.window
    for _ in range(MAX_TRIMS):
        share = next_setting(points, target.window, (0.0, 1.0))
        if share is None:
            return None
        smaller = dial.trim(result, share)
        points[share] = value_of(smaller)
        if least <= points[share] <= greatest:
            return share, smaller
    return None


def _choose(
    dial: Dial[Any, Result],
    target: Target,
    journal: Journal,
    tuned: dict[float, Result],
    trimmed: dict[Trial, Result],
    measure: Callable[[float], Trial],
) -> Found[Result]:
    """The nearest to the target of all that it allows."""
    least, greatest = target.window
    trials = sorted({*journal.trials, *trimmed}, key=lambda trial: (trial.n_bytes, trial.psnr))
    values = {trial: target.value_of(trial.n_bytes, trial.psnr) for trial in trials}
    allowed = [trial for trial in trials if target.allows(values[trial])]
    if not allowed:
        smallest, best = trials[0], max(trials, key=lambda trial: trial.psnr)
        reason = (
            f"the smallest file has {smallest.n_bytes} bytes" if target.kind == "size" else f"the best has {best.psnr:.2f} dB"
        )
        raise ValueError(f"cannot be met: {reason}")
    chosen = max(allowed, key=values.__getitem__) if target.kind == "size" else min(allowed, key=values.__getitem__)
    if chosen not in trimmed and chosen.quality not in tuned:
        chosen = measure(chosen.quality)
    result = trimmed[chosen] if chosen in trimmed else tuned[chosen.quality]
    is_met = least <= target.value_of(chosen.n_bytes, chosen.psnr) <= greatest
    return Found(chosen, result, is_met, tuple(trials))


@dataclass(frozen=True)
class FieldDial:
    """The dial of a trained field.

    Attributes:
      base: the preset whose dial it is.
      tune: settings to a compressed field.
      score: PSNR in dB of a compressed field, on the views that count.
      metadata: what will be in the file with it, or as much.
    """

    base: Preset[Any]
    tune: Callable[[Preset[Any]], Compressed]
    score: Callable[[Compressed], float]
    metadata: Mapping[str, Any]

    def setting(self, quality: float) -> Preset[Any]:
        return self.base.at_quality(quality)

    def compress(self, setting: Preset[Any]) -> Compressed:
        return self.tune(setting)

    def trim(self, result: Compressed, share: float) -> Compressed:
        smaller: Compressed = self.base.trim(result, share)
        return smaller

    def n_bytes(self, result: Compressed) -> int:
        return len(encode(replace(result, metadata=dict(self.metadata))))

    def psnr(self, result: Compressed) -> float:
        return self.score(result)


def describe_curve(trials: Sequence[Trial], chosen: Trial | None) -> str:
    """The curve as a table of text, the chosen point marked."""
    lines = ["quality   trim      bytes       MB     PSNR"]
    for trial in trials:
        mark = " <-" if trial == chosen else ""
        trim = "" if trial.share == 1 else f"{trial.share:.3f}"
        lines.append(f"{trial.quality:7.2f}  {trim:>5}  {trial.n_bytes:9}  {trial.n_bytes / 1e6:7.3f}  {trial.psnr:7.3f}{mark}")
    return "\n".join(lines)


def trials_of(facts: Mapping[str, Any]) -> tuple[list[Trial], Trial]:
    """The trials, and the chosen one, of what `Found.facts` gave."""
    return [Trial(**trial) for trial in facts["trials"]], Trial(**facts["chosen"])
