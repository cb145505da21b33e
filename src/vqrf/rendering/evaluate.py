"""How good is a field: PSNR and SSIM of its images against held-out views, by the literature's definition.

Images are float [H,W,3] in 0..1; scores are computed in float64 on what the renderer gives, before it is
rounded to bytes. A dataset's score is the mean of its views' scores (not the score of the mean error).

A view is equal to its photo if its rendering, rounded to bytes, is the photo: a photo of nothing but background is the usual
case. Its PSNR is infinite, or tells no more than how numbers were rounded. The mean of PSNR is over the other views, so that it
is finite and one empty photo does not hide the rest. Where every view is equal, the mean is over all of them, each at most
`EQUAL_PSNR`. The mean of SSIM is over all views. Departs: the literature's scenes have no such views, and no word on them.

Pixels that a view does not look at (`View.weight` 0) are in no score: the PSNR is over the others, each as much as it counts,
and for the other scores they are taken to be as in the photo.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import field as attribute
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vqrf.data.images import bytes_from_colors
from vqrf.data.scene import View
from vqrf.fields.field import RadianceField
from vqrf.geometry import Float32
from vqrf.kernels import Volume, has_native, select
from vqrf.kernels.similarity import measure_ssim
from vqrf.rendering.render import Image, render

Floats = NDArray[np.floating]

MetricName = Literal["lpips-alex", "lpips-vgg", "dists", "flip"]
"""What `vqrf.training.perception` has, for which other packages are needed."""

Metric = Callable[[Float32, Float32], float]
"""What an image [H,W,3] in 0..1 and its photo are apart, 0 for equal ones."""

NO_METRICS: Mapping[MetricName, Metric] = {}

EQUAL_PSNR = 100.0
"""dB that an infinite PSNR counts in a mean: an error of 1e-5, a four-hundredth of the step of a byte."""


class MetricError(ValueError):
    """A metric cannot be taken; the message says why."""


@dataclass(frozen=True)
class ViewScore:
    """How well one view was rendered.

    Attributes:
      name: of the view.
      psnr: dB, inf for images that are equal.
      ssim: -1..1, 1 for images that are equal; NaN where it was not asked for.
      seconds: wall time of the rendering.
      is_equal: whether the rendering, rounded to bytes, is the photo.
      metrics: what others say, by name.
    """

    name: str
    psnr: float
    ssim: float
    seconds: float
    is_equal: bool = False
    metrics: Mapping[str, float] = attribute(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_equal", self.is_equal or self.psnr == math.inf)


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Scores of a field on some views and, if it was read from a file, where the file's bytes go.

    Attributes:
      views: at least one.
      file_bytes: size of the one file that the field was decoded from.
      sections: bytes of each of its sections.
    """

    views: tuple[ViewScore, ...]
    file_bytes: int | None = None
    sections: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        if not self.views:
            raise ValueError("evaluation: there are no views")

    def __repr__(self) -> str:
        return f"Evaluation({len(self.views)} views, PSNR {self.psnr:.3f} dB, SSIM {self.ssim:.4f})"

    @property
    def psnr(self) -> float:
        """dB, the mean over the views that are not equal to their photos, or over all where every one is; always finite."""
        others = [view for view in self.views if not view.is_equal]
        counted = [min(view.psnr, EQUAL_PSNR) if view.is_equal else view.psnr for view in others or self.views]
        return sum(counted) / len(counted)

    @property
    def n_equal(self) -> int:
        """How many views are equal to their photos."""
        return sum(view.is_equal for view in self.views)

    @property
    def ssim(self) -> float:
        """The mean over views."""
        return sum(view.ssim for view in self.views) / len(self.views)

    @property
    def metrics(self) -> dict[str, float]:
        """The means over views, by name."""
        return {name: sum(view.metrics[name] for view in self.views) / len(self.views) for name in self.views[0].metrics}

    @property
    def seconds_per_view(self) -> float:
        return sum(view.seconds for view in self.views) / len(self.views)

    def facts(self) -> dict[str, Any]:
        """As what JSON has; it has no infinity, so the PSNR of a view that equals its photo is null."""
        return {
            "psnr": self.psnr,
            "n_equal": self.n_equal,
            "ssim": self.ssim,
            **({"metrics": self.metrics} if self.metrics else {}),
            "seconds_per_view": self.seconds_per_view,
            "file_bytes": self.file_bytes,
            "sections": None if self.sections is None else dict(self.sections),
            "views": [_facts_of_view(view) for view in self.views],
        }

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> Evaluation:
        """What `facts` said of the scores."""
        views = [{**view, "psnr": math.inf if view["psnr"] is None else view["psnr"]} for view in facts["views"]]
        return cls(tuple(ViewScore(**view) for view in views), facts["file_bytes"], facts["sections"])

    def to_text(self, shape: tuple[int, ...]) -> str:
        """As some lines for a person; `shape` [H,W,..] is that of the views."""
        equal = (
            f" ({self.n_equal} of them equal to the photo, and not in the mean of PSNR)"
            if 0 < self.n_equal < len(self.views)
            else ""
        )
        lines = [
            f"{len(self.views)} views of {shape[1]}x{shape[0]}{equal}",
            f"PSNR {self.psnr:.3f} dB",
            f"SSIM {self.ssim:.4f}",
            *(f"{name} {value:.4f}" for name, value in self.metrics.items()),
            f"{self.seconds_per_view:.2f} s per view",
        ]
        if self.file_bytes is not None and self.sections is not None:
            lines.append(f"{self.file_bytes} bytes, {self.file_bytes / 1e6:.3f} MB")
            lines += [f"  {name:6} {size:9}" for name, size in self.sections.items()]
        return "\n".join(lines)


def evaluate(
    field: RadianceField | Volume,
    views: Sequence[View],
    *,
    with_ssim: bool = True,
    metrics: Mapping[MetricName, Metric] = NO_METRICS,
    on_view: Callable[[View, Image, ViewScore], None] | None = None,
) -> Evaluation:
    """Render every view and compare.

    Args:
      field: put it on the background that the views stand on before.
      views: at least one, each at least 11x11.
      with_ssim: a search looks at PSNR alone.
      metrics: others, from `vqrf.training.perception.metric_of`.
      on_view: called after each view with the view, its rendering and its score (progress, saving images).

    Deterministic, but for `seconds`.

    Raises:
      ValueError: there are no views, or one is smaller than SSIM's window.
    """
    volume = field if isinstance(field, Volume) else field.volume()
    scores = []
    for view in views:
        start = time.perf_counter()
        image = render(volume, view.camera)
        seconds = time.perf_counter() - start
        target = view.colors()
        looked_at = image.rgb if view.weight is None else np.where(view.weight[..., None] > 0, image.rgb, target)
        is_equal = np.array_equal(bytes_from_colors(looked_at), bytes_from_colors(target))
        similarity = ssim(looked_at, target) if with_ssim else math.nan
        others: dict[str, float] = {name: metric(looked_at, target) for name, metric in metrics.items()}
        score = ViewScore(view.name, psnr(image.rgb, target, view.weight), similarity, seconds, is_equal, others)
        scores.append(score)
        if on_view is not None:
            on_view(view, image, score)
    return Evaluation(tuple(scores))


def blank_psnr(views: Sequence[View]) -> float:
    """dB, the mean over views of a picture of one colour, the best there is: what a field of another scene has too.

    Raises:
      ValueError: there are no views.
    """
    scores = []
    for view in views:
        colors = view.colors()
        scores.append(min(psnr(np.broadcast_to(colors.mean((0, 1)), colors.shape), colors), EQUAL_PSNR))
    if not scores:
        raise ValueError("blank_psnr: there are no views")
    return sum(scores) / len(scores)


def psnr(image: ArrayLike, target: ArrayLike, weight: NDArray[np.uint8] | None = None) -> float:
    """Peak signal-to-noise ratio in dB of values in 0..1: -10 log10(mean of the squared differences), inf for equal ones.

    Args:
      weight: [H,W] how much each pixel counts, of 255; None: all do. Where none does, the images are equal.

    Raises:
      ValueError: the shapes differ.

    >>> round(psnr(np.full((4, 4, 3), 0.6), np.full((4, 4, 3), 0.5)), 6)
    20.0
    """
    a, b = _pair(image, target)
    apart = np.subtract(a, b, dtype=np.float64)
    if weight is not None:
        apart *= np.sqrt(weight / max(float(weight.mean(dtype=np.float64)), 1e-9))[..., None]
    apart = apart.ravel()
    error = float(apart @ apart) / apart.size
    return -10 * math.log10(error) if error > 0 else math.inf


def ssim(image: ArrayLike, target: ArrayLike) -> float:
    """Structural similarity of values in 0..1, as `vqrf.kernels.similarity` defines it: -1..1, 1 for equal images.

    Raises:
      ValueError: the shapes differ, are not [H,W,C], or the window of 11x11 pixels does not fit.

    >>> image = np.random.default_rng(0).random((16, 16, 3))
    >>> round(ssim(image, image), 9)
    1.0
    """
    a, b = _pair(image, target)
    if a.dtype != b.dtype:
        a, b = a.astype(np.float64), b.astype(np.float64)
    # Where neither the compiled core nor PyTorch is, pictures are scored all the same.
    return select().measure_ssim(a, b) if has_native() else measure_ssim(a, b)


def _pair(image: ArrayLike, target: ArrayLike) -> tuple[Floats, Floats]:
    """As floats: of 32 bits where they were, and else of 64."""
    arrays = np.asarray(image), np.asarray(target)
    a, b = (array if array.dtype == np.float32 else array.astype(np.float64) for array in arrays)
    if a.shape != b.shape:
        raise ValueError(f"expected two images of one shape, got {list(a.shape)} and {list(b.shape)}")
    return a, b


def _facts_of_view(view: ViewScore) -> dict[str, Any]:
    facts = {**asdict(view), "psnr": _finite(view.psnr)}
    return facts if view.metrics else {name: value for name, value in facts.items() if name != "metrics"}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
