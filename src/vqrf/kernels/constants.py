"""The constants of the rendering equation, as one object.

Whatever can be drawn holds an `Equation`: a field, a volume, a compressed field, the header of a file. Its attributes are
spelt out here, and once more where the header of a .vqrf file is written and read (`vqrf.codec.contents`). A new constant of
rendering is an attribute here. Notation: `vqrf.kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import numpy as np

from vqrf.geometry import Float32, Float64, Lattice

Activation = Literal["softplus", "relu"]
"""What makes the interpolated raw density, plus its bias, a density that is not negative."""

Shading = Literal["mlp", "sh", "sh_relu"]
"""How features and a direction become a colour: by the colour MLP (without layers, as rgb logits), or by harmonics through a
sigmoid or through a ReLU."""

HARMONICS_OF_CHANNELS = {12: 4, 27: 9}
"""Number of harmonics by that of channels, three for each."""

MAX_FEATURE_FREQUENCIES = 10
"""Beyond it float32 has no digits left of the angle of a feature of 8192."""

MAX_FLOAT32 = float(np.finfo(np.float32).max)
N_NUMBERS = 8
"""Of an equation's real numbers, with three for the background."""


@dataclass(frozen=True)
class Equation:
    """The constants of the rendering equation: how density, features and a direction become a pixel.

    Attributes:
      density_bias: added to raw density before the activation (DVGO's shift; 0 in Plenoxels).
      interval: what activated density is multiplied with for the optical depth of a step: the step in units of the base voxel.
      step_world: distance between two samples of a ray, world units, > 0.
      near: world distance before which there are no samples.
      alpha_threshold: samples with alpha at or below it do not exist, those with weight at or below it have no colour.
      background: rgb behind everything, 0..1.
      shading: "mlp", or "sh" or "sh_relu": features are coefficients of spherical harmonics, there are no layers, and C is
        12 or 27.
      activation: of the density, "softplus" or "relu".
      feature_frequencies: F, how many frequencies of each feature the colour MLP takes beside the feature,
        0..MAX_FEATURE_FREQUENCIES; 0 without layers.

    Raises:
      ValueError: a number is not finite, interval or step_world is not positive, shading or activation is not known, or there
        are too many frequencies. An `alpha_threshold` with which nothing can be drawn is no error here: see `fault`.
    """

    density_bias: float
    interval: float
    step_world: float
    near: float
    alpha_threshold: float
    background: tuple[float, float, float]
    shading: Shading = "mlp"
    activation: Activation = "softplus"
    feature_frequencies: int = 0

    def __post_init__(self) -> None:
        for name in NUMBERS:
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} is not finite")
        if len(self.numbers()) != N_NUMBERS:
            raise ValueError("background: expected rgb")
        if not (self.interval > 0 and self.step_world > 0):
            raise ValueError("interval or step_world is not positive")
        if self.shading not in get_args(Shading):
            raise ValueError(f"shading {self.shading} is not supported")
        if self.activation not in get_args(Activation):
            raise ValueError(f"activation {self.activation} is not supported")
        if not 0 <= self.feature_frequencies <= MAX_FEATURE_FREQUENCIES:
            raise ValueError(f"{self.feature_frequencies} feature frequencies are outside 0..{MAX_FEATURE_FREQUENCIES}")

    def numbers(self) -> list[float]:
        """The real numbers in the order of the attributes, the background's three last."""
        return [self.density_bias, self.interval, self.step_world, self.near, self.alpha_threshold, *self.background]

    def with_numbers(self, numbers: Sequence[float]) -> Equation:
        """The same with other `numbers()`."""
        density_bias, interval, step_world, near, alpha_threshold, red, green, blue = numbers
        return replace(
            self,
            density_bias=density_bias,
            interval=interval,
            step_world=step_world,
            near=near,
            alpha_threshold=alpha_threshold,
            background=(red, green, blue),
        )

    def in_float32(self) -> Equation:
        """The same with every number rounded to float32, as a .vqrf file holds it.

        Raises:
          ValueError: a number is too large for float32, or interval or step_world too small.
        """
        with np.errstate(over="ignore"):  # what overflows is not finite, and is refused as such
            return self.with_numbers(np.array(self.numbers(), np.float64).astype(np.float32).tolist())

    def density_of(self, alpha: float) -> float:
        """The raw density that gives `alpha`, above 0, over one step; the inverse of the density's activation.

        >>> usual = Equation(-4.6, 0.5, 0.1, 0.0, 1e-4, (1.0, 1.0, 1.0))
        >>> d = usual.density_of(1e-4)
        >>> round(1 - (1 + math.exp(d - 4.6)) ** -0.5, 9)
        0.0001
        >>> linear = replace(usual, density_bias=0.0, activation="relu")
        >>> round(1 - math.exp(-0.5 * linear.density_of(1e-4)), 9)
        0.0001
        """
        depth = -math.log1p(-alpha) / self.interval
        if self.activation == "relu":
            return depth - self.density_bias
        return depth + math.log(-math.expm1(-depth)) - self.density_bias  # log(expm1(depth)), which would overflow

    def depth_of(self, density: Float32) -> Float64:
        """The optical depth of one step, [...] float64, of raw density [...]: alpha is 1 - exp(-depth).

        >>> usual = Equation(-4.6, 0.5, 0.1, 0.0, 1e-4, (1.0, 1.0, 1.0))
        >>> round(float(-np.expm1(-usual.depth_of(np.float32(usual.density_of(0.3))))), 6)
        0.3
        """
        raw = density.astype(np.float64) + self.density_bias
        activated: Float64 = np.maximum(raw, 0) if self.activation == "relu" else np.logaddexp(raw, 0)
        return self.interval * activated

    @property
    def floor(self) -> float:
        """The raw density whose alpha is the threshold: of what is fainter nothing is seen."""
        return self.density_of(self.alpha_threshold)

    def fault(self) -> str | None:
        """Why nothing can be drawn with these constants, which a file may well hold; None if it can."""
        if not 0 < self.alpha_threshold < 1:
            return f"alpha_threshold: expected a value between 0 and 1, got {self.alpha_threshold}"
        least, most = INTERVALS
        if not least <= self.interval <= most or self.alpha_threshold < LEAST_ALPHA:
            return (
                f"interval, alpha_threshold: {self.interval} and {self.alpha_threshold} make no density that can be told apart"
            )
        if not all(abs(number) <= MAX_FLOAT32 for number in self.numbers()):
            return "a constant is beyond float32"
        return None


NUMBERS = tuple(field.name for field in fields(Equation))[: N_NUMBERS - 2]
"""The attributes that are real numbers."""


MAX_SAMPLES = 1 << 16
"""Most samples of a ray, wherever it runs: those on the lattice's diagonal. Fields have about a thousand."""

MAX_RAY_WORK = 1 << 31
"""Samples of a ray times weights of the colour MLP: about a second of one core. TensoRF's fields have a fiftieth of it."""

MAX_COORDINATE = float(1 << 40)
LEAST_EXTENT = 1 / MAX_COORDINATE
"""World units: between these float32 has room for squares and quotients. The Earth is 2^24 metres wide."""

MAX_VALUE = 2.0**100
"""Of raw density and features: what interpolates and shades them stays within float32. Fields have some hundreds."""

MAX_SUM = 2.0**126
"""Of a layer: beyond it float32 may have infinity, and a colour that is none."""

INTERVALS = 2.0**-64, 2.0**64
LEAST_ALPHA = 2.0**-149
"""The least that float32 has."""


def drawing_fault(lattice: Lattice, equation: Equation, n_weights: int = 0) -> str | None:
    """Why nothing can be drawn of a field on a lattice; None if it can. FORMAT.md section 2 has these limits.

    Args:
      n_weights: of the colour MLP, which each sample may need.
    """
    lo, hi = lattice.lo, lattice.hi
    if fault := equation.fault():
        return fault
    with np.errstate(over="ignore"):
        low, high = np.array(lo, np.float64).astype(np.float32), np.array(hi, np.float64).astype(np.float32)
    if not (low < high).all():
        return f"bounds: {tuple(lo)} and {tuple(hi)} are one place in float32, or out of order"
    extents = [b - a for a, b in zip(lo, hi, strict=True)]
    if not all(abs(x) <= MAX_COORDINATE for x in (*lo, *hi)) or not all(x >= LEAST_EXTENT for x in extents):
        return (
            f"bounds: expected coordinates within {MAX_COORDINATE:g} and sides of {LEAST_EXTENT:g} at least, got {lo} and {hi}"
        )
    if lattice.space is not None and (fault := lattice.space.fault(lattice.corners())):
        return fault
    n_samples = lattice.longest_way / equation.step_world + 1
    if not n_samples <= MAX_SAMPLES:
        return f"step_world: of {equation.step_world:g} a ray has {n_samples:.3g} samples, expected 1..{MAX_SAMPLES}"
    if n_samples * n_weights > MAX_RAY_WORK:
        return f"color_mlp: {n_weights} weights for up to {n_samples:.0f} samples of a ray are more than can be drawn in time"
    return None


def interval_of_step(step_world: float, edge: float) -> float:
    """The interval of a field that has density per unit of the world: the step, in the power of two nearest to a voxel's edge.

    Density by that power is then of the same size in every field, and is density per unit to the bit but for its exponent.

    >>> interval_of_step(0.005, 0.01) == 0.005 * 128
    True
    """
    return math.ldexp(step_world, -round(math.log2(edge)))


def shading_fault(shading: str, n_layers: int, n_channels: int, feature_frequencies: int = 0) -> str | None:
    """Why so many layers, channels and frequencies cannot be shaded so; None if they can."""
    if not 0 <= feature_frequencies <= MAX_FEATURE_FREQUENCIES:
        return f"{feature_frequencies} feature frequencies are outside 0..{MAX_FEATURE_FREQUENCIES}"
    if feature_frequencies and not n_layers:
        return "feature frequencies without layers"
    if shading == "mlp":
        return None if n_layers or n_channels == 3 else "without layers there must be 3 channels"
    if shading not in get_args(Shading):
        return f"shading {shading} is not supported"
    if n_layers:
        return "spherical harmonics have no layers"
    if n_channels not in HARMONICS_OF_CHANNELS:
        return "spherical harmonics have 12 or 27 channels"
    return None


def count_view_frequencies(n_inputs: int, n_channels: int, feature_frequencies: int = 0) -> int | None:
    """The n of a first layer's C + 3 + 6n + 2CF inputs; None if there is none.

    >>> count_view_frequencies(150, 27, 2), count_view_frequencies(150, 12)
    (2, None)
    """
    n, rest = divmod(n_inputs - n_channels * (1 + 2 * feature_frequencies) - 3, 6)
    return n if n >= 0 and not rest else None
