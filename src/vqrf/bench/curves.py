"""Rate against distortion: scenes x presets x qualities, measured, drawn beside what others published, and compared.

A job is one file: a trained field, compressed at one quality, encoded, decoded, and scored on held-out views; or a contest, one
file of another way to compress (`vqrf.bench.alternatives`) and one of ours that has as many bytes. Finished jobs
are rows of a CSV file, which is written anew, whole, after each: a run that was killed goes on with the jobs that are missing.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

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


# ---------------------------------------------------------------------------------------------------------------- the jobs


class Keyed(Protocol):
    """A job, or its row; both have the same key."""

    @property
    def key(self) -> tuple[Any, ...]: ...


AnyJob = TypeVar("AnyJob", bound=Keyed)
AnyRow = TypeVar("AnyRow", Row, ContestRow)

Runner = Callable[[Sequence[Any], Callable[[Any], Any]], Iterable[Any]]
"""Does jobs and gives their rows in the order in which they end."""


def run_in_turn(jobs: Sequence[AnyJob], work: Callable[[AnyJob], AnyRow]) -> Iterator[AnyRow]:
    """One job after the other, in this process."""
    return map(work, jobs)


def run_on_ray(jobs: Sequence[AnyJob], work: Callable[[AnyJob], AnyRow]) -> Iterator[AnyRow]:
    """On the Ray cluster that the environment names, or else on one of this machine; a job takes one CPU.

    Raises:
      ModuleNotFoundError: Ray is not installed.
    """
    import ray

    is_mine = not ray.is_initialized()
    if is_mine:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        task: Any = ray.remote(lambda job: work(job))  # Ray takes functions, and not what is only called like one
        waiting = [task.remote(job) for job in jobs]
        while waiting:
            ready, waiting = ray.wait(waiting)
            yield from ray.get(ready)
    finally:
        if is_mine:
            ray.shutdown()


def choose_runner() -> Runner:
    """Ray where it is installed."""
    return run_on_ray if importlib.util.find_spec("ray") else run_in_turn


def run_jobs(
    jobs: Sequence[AnyJob],
    path: Path,
    kind: type[AnyRow],
    work: Callable[[AnyJob], AnyRow],
    runner: Runner,
    *,
    on_row: Callable[[AnyRow], None] = lambda row: None,
) -> list[AnyRow]:
    """The rows of all jobs, of which those that are in the file already are not done again.

    Args:
      kind: what the file has rows of.
      path: the CSV file. Rows in it that belong to none of the jobs stay there and are not returned.
      on_row: called with every row that is new.

    Raises:
      ValueError: the file is there and holds something else.
    """
    rows = {row.key: row for row in load_rows(path, kind)} if path.exists() else {}
    for row in runner([job for job in jobs if job.key not in rows], work):
        rows[row.key] = row
        save_rows(path, kind, rows.values())
        on_row(row)
    return [rows[job.key] for job in jobs]


def save_rows(path: Path, kind: type[AnyRow], rows: Iterable[AnyRow]) -> None:
    """Write the CSV file, whole or not at all, in the order of the keys."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [column.name for column in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in sorted(rows, key=lambda row: row.key))
    write_atomically(path, text.getvalue().encode())


def load_rows(path: Path, kind: type[AnyRow]) -> list[AnyRow]:
    """Read what `save_rows` wrote.

    Raises:
      ValueError: a line is none of its rows.
    """
    columns = fields(kind)
    lines = list(csv.reader(io.StringIO(path.read_text())))
    if not lines or lines[0] != [column.name for column in columns]:
        raise ValueError(f"{path}: line 1 is not {','.join(column.name for column in columns)}")
    parse: dict[Any, Callable[[str], Any]] = {"str": str, "int": int, "float": float}
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            rows.append(kind(*(parse[column.type](text) for column, text in zip(columns, line, strict=True))))
        except ValueError:
            raise ValueError(f"{path}: line {number} is no row: {','.join(line)}") from None
    return rows


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


@dataclass(frozen=True)
class Anchor:
    """A published point. A mean is one over the eight scenes of Synthetic-NeRF, and belongs to none of them."""

    name: str
    megabytes: float
    psnr: float
    is_mean: bool = False


def _per_scene(name: str, points: dict[str, tuple[float, float]]) -> dict[str, Anchor]:
    return {scene: Anchor(name, *point) for scene, point in points.items()}


PUBLISHED = (
    _per_scene(
        "masked wavelets",
        {
            "chair": (1.03, 34.14),
            "drums": (1.04, 25.53),
            "ficus": (1.06, 32.87),
            "hotdog": (0.55, 35.93),
            "lego": (0.83, 34.93),
            "materials": (1.04, 29.54),
            "mic": (0.58, 33.48),
            "ship": (0.80, 29.15),
        },
    ),
    _per_scene(
        "HAC++ (splats)",
        {
            "chair": (0.69, 33.90),
            "drums": (0.95, 26.17),
            "ficus": (0.68, 34.53),
            "hotdog": (0.47, 36.53),
            "lego": (0.84, 34.33),
            "materials": (0.91, 30.22),
            "mic": (0.46, 35.21),
            "ship": (1.36, 31.26),
        },
    ),
    _per_scene(
        "VQRF, run by others",
        {
            "drums": (0.94, 25.38),
            "ficus": (1.11, 32.71),
            "hotdog": (1.53, 36.49),
            "lego": (1.56, 34.28),
            "materials": (3.25, 29.27),
            "mic": (0.43, 33.12),
            "ship": (2.16, 29.15),
        },
    ),
)
"""Points of one scene each, at 800x800, in 10^6 bytes and dB: the lowest rate that each codec's authors give."""

PUBLISHED_MEANS = (
    Anchor("VQRF", 1.47, 31.77, is_mean=True),
    Anchor("CATRF", 0.448, 32.17, is_mean=True),
    Anchor("CATRF", 0.855, 32.90, is_mean=True),
    Anchor("CNC", 0.43, 33.19, is_mean=True),
    Anchor("HAC++", 0.794, 32.77, is_mean=True),
)


def anchors_of(scene: str) -> list[Anchor]:
    """What was published for a scene, and the means, where the scene is one of those behind them."""
    own = [points[scene] for points in PUBLISHED if scene in points]
    return [*own, *PUBLISHED_MEANS] if own else []


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
