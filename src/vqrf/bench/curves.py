"""Rate against distortion: scenes x presets x qualities, measured, drawn beside what others published, and compared.

A job is one file: a trained field, compressed at one quality, encoded, decoded, and scored on held-out views; or a contest, one
file of another way to compress (`vqrf.bench.alternatives`) and one of ours that has as many bytes. Finished jobs
are rows of a CSV file, which is written anew, whole, after each: a run that was killed goes on with the jobs that are missing.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vqrf.bench.published import Anchor, anchors_of
from vqrf.files import write_atomically

MIN_POINTS = 4
"""Of a curve that is compared: the fewest that common test conditions use."""


Key = tuple[str, str, float, str]
ContestKey = tuple[str, str, str, str, str, str]
"""What a job and its row have in common."""


@dataclass(frozen=True)
class Job:
    """One point of a curve that is to be measured.

    Attributes:
      run: run folder of the trained field.
      data: its dataset folder.
      preset: of the settings whose dial is turned.
      quality: 0..100 on that dial.
      settings: a fingerprint of everything else that the result depends on.
    """

    run: str
    data: str
    scene: str
    preset: str
    quality: float
    settings: str

    @property
    def key(self) -> Key:
        return self.scene, self.preset, self.quality, self.settings


@dataclass(frozen=True)
class Row:
    """One point of a curve, measured.

    Attributes:
      scene, preset, quality, settings: of the job.
      n_bytes: of the one file.
      psnr, ssim: means over the test views, of what the file decodes to.
      field_psnr: dB of the field before compression.
      seconds: wall time of compression and tuning.
    """

    scene: str
    preset: str
    quality: float
    settings: str
    n_bytes: int
    psnr: float
    ssim: float
    field_psnr: float
    seconds: float

    @property
    def key(self) -> Key:
        return self.scene, self.preset, self.quality, self.settings


@dataclass(frozen=True)
class Contest:
    """An alternative at one point of its own dial, to be measured against ours at as many bytes.

    Attributes:
      run, data, scene: as of a `Job`.
      method: "prune" or "truncate", see `vqrf.bench.alternatives`.
      point: the number of the round, or the components of density and of features, such as 16+48.
      preset: ours.
      mark: a fingerprint of everything that the alternative's file depends on.
      settings: the same of ours.
    """

    run: str
    data: str
    scene: str
    method: str
    point: str
    preset: str
    mark: str
    settings: str

    @property
    def key(self) -> ContestKey:
        return self.scene, self.method, self.point, self.preset, self.mark, self.settings


@dataclass(frozen=True)
class ContestRow:
    """A contest, measured.

    Attributes:
      scene, method, point, preset, mark, settings: of the contest.
      n_bytes: of the alternative's one file.
      psnr: dB over the test views, of what that decodes to.
      ours_n_bytes: of our file: at most as many and at least 95 % of them where our dial reaches that, else the nearest.
      ours_psnr: of what that decodes to.
      difference: dB that ours is better.
      field_psnr: dB of the field before compression.
      seconds: wall time of both, less what was there already.
    """

    scene: str
    method: str
    point: str
    preset: str
    mark: str
    settings: str
    n_bytes: int
    psnr: float
    ours_n_bytes: int
    ours_psnr: float
    difference: float
    field_psnr: float
    seconds: float

    @property
    def key(self) -> ContestKey:
        return self.scene, self.method, self.point, self.preset, self.mark, self.settings


# ------------------------------------------------------------------------------------------------------------- comparison


@dataclass(frozen=True)
class Curve:
    """Sizes and PSNRs of one codec on one scene, both growing.

    Attributes:
      n_bytes, psnr: one for each point.
    """

    name: str
    n_bytes: tuple[float, ...]
    psnr: tuple[float, ...]

    @classmethod
    def of_points(cls, name: str, points: Iterable[tuple[float, float]]) -> Curve:
        """The curve through (bytes, PSNR); a point that another one beats in both is not on it.

        >>> Curve.of_points("a", [(3, 30), (1, 20), (2, 31), (4, 33)]).n_bytes
        (1, 2, 4)
        """
        best: list[tuple[float, float]] = []
        for size, psnr in sorted(points, key=lambda point: (point[0], -point[1])):
            if not best or psnr > best[-1][1]:
                best.append((size, psnr))
        return cls(name, tuple(size for size, _ in best), tuple(psnr for _, psnr in best))


def curves_of(rows: Sequence[Row]) -> dict[str, list[Curve]]:
    """The curves of each scene, one for each preset, in the order of the rows."""
    curves: dict[str, list[Curve]] = {}
    for scene in dict.fromkeys(row.scene for row in rows):
        of_scene = [row for row in rows if row.scene == scene]
        for preset in dict.fromkeys(row.preset for row in of_scene):
            points = [(float(row.n_bytes), row.psnr) for row in of_scene if row.preset == preset]
            curves.setdefault(scene, []).append(Curve.of_points(preset, points))
    return curves


def rate_difference(curve: Curve, anchor: Curve, *, method: Literal["pchip", "akima"] = "pchip") -> float:
    """How many per cent more bytes a curve takes than another at the same PSNR; fewer if negative.

        100 (exp(mean over the common PSNR range of ln bytes(curve) - ln bytes(anchor)) - 1)

    Each curve's ln bytes are interpolated over PSNR by piecewise cubics, which do not swing between points as the single
    cubic of the first publication does.

    Raises:
      ValueError: a curve has fewer than four points, or the curves have no PSNR in common.

    Source: Bjontegaard, VCEG-M33, 2001; piecewise as in JVET's common test conditions (pchip), and as Herglotz et al., "The
    Bjontegaard bible", IEEE TIP 2024, recommend (akima).
    """
    from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

    for one in (curve, anchor):
        if len(one.psnr) < MIN_POINTS:
            raise ValueError(f"{one.name}: a curve to compare has at least {MIN_POINTS} points, this one has {len(one.psnr)}")
    low, high = max(curve.psnr[0], anchor.psnr[0]), min(curve.psnr[-1], anchor.psnr[-1])
    if not low < high:
        raise ValueError(f"{curve.name} and {anchor.name} have no PSNR in common")
    make = PchipInterpolator if method == "pchip" else Akima1DInterpolator
    areas = [float(make(one.psnr, np.log(one.n_bytes)).integrate(low, high)) for one in (curve, anchor)]
    return float(100 * np.expm1((areas[0] - areas[1]) / (high - low)))


def differences(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Scene, curve, anchor, and the rate difference in per cent (None where it has none) of every two curves of a scene."""
    found: list[dict[str, Any]] = []
    for scene, curves in curves_of(rows).items():
        for curve, anchor in itertools.permutations(curves, 2):
            try:
                percent = rate_difference(curve, anchor)
            except ValueError:
                percent = None
            found.append({"scene": scene, "curve": curve.name, "anchor": anchor.name, "rate_difference": percent})
    return found


# ---------------------------------------------------------------------------------------------------------------- the plot


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the curves of every scene with the published points into a PNG, SVG or PDF file, by its ending.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = curves_of(rows)
    figure = Figure(figsize=(7.5, 5.5 * len(curves)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(curves), squeeze=False)[:, 0]
    for plot, (scene, of_scene) in zip(axes, curves.items(), strict=True):
        for curve in of_scene:
            plot.plot(np.array(curve.n_bytes) / 1e6, curve.psnr, marker="o", markersize=4, label=curve.name)
        for field_psnr in sorted({round(row.field_psnr, 3) for row in rows if row.scene == scene}):
            plot.axhline(field_psnr, color="gray", linewidth=0.8, linestyle=":")
            plot.annotate("field", (0.6, field_psnr), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="gray")
        _draw_anchors(plot, anchors_of(scene))
        plot.set(title=scene, xlabel="file, MB (10⁶ bytes)", ylabel="PSNR, dB", xscale="log")
        plot.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        plot.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.1g}"[-1] in "235" else "")
        plot.grid(which="both", alpha=0.25)
        plot.margins(x=0.25)  # room for names beside the last points
        plot.legend(loc="upper left")
    text = io.BytesIO()
    figure.savefig(text, format=path.suffix.lstrip(".") or "png", dpi=120)
    write_atomically(path, text.getvalue())


def _draw_anchors(plot: Any, anchors: Sequence[Anchor]) -> None:
    """Published points with their names beside them; means are hollow."""
    for anchor in anchors:
        face = "none" if anchor.is_mean else "black"
        plot.plot(anchor.megabytes, anchor.psnr, "D", markersize=5, markerfacecolor=face, markeredgecolor="black")
        name = f"{anchor.name}, mean" if anchor.is_mean else anchor.name
        is_crowded = any(0 < a.psnr - anchor.psnr < 0.3 and abs(a.megabytes - anchor.megabytes) < 0.2 for a in anchors)
        offset = (5, -9 if is_crowded else 4)
        plot.annotate(name, (anchor.megabytes, anchor.psnr), xytext=offset, textcoords="offset points", fontsize=7)
    if any(anchor.is_mean for anchor in anchors):
        plot.plot([], [], "D", markerfacecolor="none", markeredgecolor="black", label="published, mean of 8 scenes")
    if any(not anchor.is_mean for anchor in anchors):
        plot.plot([], [], "D", color="black", label="published, this scene")
