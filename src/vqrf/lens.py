"""How lenses bend: from a place in the image to a direction, and back.

Notation. Image places `x, y` are in focal lengths from the principal point: `(column - cx) / fx` and `(row - cy) / fy`.
Directions are in the axes of OpenCV and COLMAP: x right, y down, z forward; their length means nothing. A lens first lays the
direction onto a plane: a *flat* one, `(X/Z, Y/Z)`, or that of a *fisheye*, `angle * (X, Y) / |(X, Y)|`. There it distorts, with
r the distance from the middle:

    stretch = (1 + k1 r^2 + k2 r^4 + ...) / (1 + d1 r^2 + d2 r^4 + d3 r^6)
    x' = x stretch + 2 p1 x y + p2 (r^2 + 2 x^2) + s1 r^2 + s2 r^4
    y' = y stretch + 2 p2 x y + p1 (r^2 + 2 y^2) + s3 r^2 + s4 r^4

From a place to a direction this is solved by Newton's method. Models and their numbers have COLMAP's names and order;
those of OpenCV, instant-ngp and nerfstudio are among them. Four have closed forms of their own.

Sources: Brown (1971) and OpenCV's `calib3d` for the flat models, Kannala and Brandt (2006) for the fisheyes, Devernay and
Faugeras (2001) for FOV, Fitzgibbon (2001) for DIVISION, Khomutenko et al. (2016) for EUCM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

BROWN = {
    "SIMPLE_RADIAL": ("flat", "k1"),
    "RADIAL": ("flat", "k1 k2"),
    "OPENCV": ("flat", "k1 k2 p1 p2"),
    "FULL_OPENCV": ("flat", "k1 k2 p1 p2 k3 d1 d2 d3"),
    "SIMPLE_FISHEYE": ("fisheye", ""),
    "FISHEYE": ("fisheye", ""),
    "SIMPLE_RADIAL_FISHEYE": ("fisheye", "k1"),
    "RADIAL_FISHEYE": ("fisheye", "k1 k2"),
    "OPENCV_FISHEYE": ("fisheye", "k1 k2 k3 k4"),
    "THIN_PRISM_FISHEYE": ("fisheye", "k1 k2 p1 p2 k3 k4 s1 s3"),
    "RAD_TAN_THIN_PRISM_FISHEYE": ("fisheye", "k1 k2 k3 k4 k5 k6 p2 p1 s1 s2 s3 s4"),
}
"""Models that distort by the formula above: the plane, and which number is which. FULL_OPENCV's k4 to k6 are d1 to d3 here. The
last model bends twice: by the k alone, then by the others."""

CLOSED = {"FOV": ("omega",), "SIMPLE_DIVISION": ("k",), "DIVISION": ("k",), "EUCM": ("alpha", "beta"), "EQUIRECTANGULAR": ()}

TERMS = "k1 k2 k3 k4 k5 k6 d1 d2 d3 p1 p2 s1 s2 s3 s4".split()  # noqa: SIM905
N_STRETCH = 9
"""The first so many terms stretch, the rest moves."""

NEWTON_STEPS = 20
NEWTON_END = 1e-8
"""Length of the last Newton step, in focal lengths; the error is its square by then."""

SOLVED = 1e-9
"""How far the solution may be from the place that was asked for, focal lengths; what is farther has no solution."""

MAX_RADIUS = 30.0
"""Radius on the flat plane, in focal lengths: 88 degrees from the axis. A flat lens sees nothing beyond it."""

LIMIT_STEPS = 4000
"""Radii at which it is looked whether a lens still stretches."""


@dataclass(frozen=True)
class Lens:
    """A lens that bends.

    Args:
      model: a name of `BROWN` or `CLOSED`.
      numbers: as many as the model has, in COLMAP's order, without focal lengths and principal point.

    Raises:
      ValueError: the model is not known, has another number of numbers, or one is not finite or cannot be.
    """

    model: str
    numbers: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        names = names_of(self.model)
        if len(self.numbers) != len(names):
            raise ValueError(f"{self.model}: expected {len(names)} numbers, got {len(self.numbers)}")
        if not all(abs(number) < 1e6 for number in self.numbers):
            raise ValueError(f"{self.model}: expected numbers that can be, got {self.numbers}")
        if self.model == "EUCM" and not (0 <= self.numbers[0] <= 1 and self.numbers[1] > 0):
            raise ValueError(f"EUCM: expected alpha in 0..1 and beta above 0, got {self.numbers}")
        if self.model == "FOV" and not 0 < self.numbers[0] < np.pi:
            raise ValueError(f"FOV: expected omega between 0 and pi, got {self.numbers[0]}")

    @property
    def is_straight(self) -> bool:
        """Whether it bends nothing: a flat model all of whose numbers are 0."""
        return BROWN.get(self.model, ("",))[0] == "flat" and not any(self.numbers)

    def directions(self, x: Float64, y: Float64) -> Float64:
        """Directions [N,3] of image places [N], nan where no direction is seen."""
        return directions_of([self], np.zeros(len(x), np.int64), x, y)

    def places(self, directions: Float64) -> tuple[Float64, Float64]:
        """Image places [N] of directions [N,3], nan where the lens does not see."""
        places = _CLOSED_PLACES.get(self.model)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if places is not None:
                return places(np.array(self.numbers), directions)
            is_fisheye = BROWN[self.model][0] == "fisheye"
            a, b = _laid(directions, is_fisheye)
            terms = terms_of(self)
            beyond = np.hypot(a, b) > limit_of(terms, np.pi if is_fisheye else MAX_RADIUS)
            for row in terms:
                a, b = _bent(row, a, b)[:2]
        return np.where(beyond, np.nan, a), np.where(beyond, np.nan, b)


def names_of(model: str) -> tuple[str, ...]:
    """What a model's numbers are called in this room. Raises ValueError where there is no such model."""
    if model in CLOSED:
        return CLOSED[model]
    if model not in BROWN:
        raise ValueError(f"camera model {model[:40]!a} is not known: expected PINHOLE, {', '.join([*BROWN, *CLOSED])}")
    return tuple(BROWN[model][1].split())


def directions_of(lenses: Sequence[Lens], which: NDArray[np.int64], x: Float64, y: Float64) -> Float64:
    """Directions [N,3] of image places [N] of several lenses, nan where no direction is seen.

    Args:
      which: [N] the number of each place's lens.
    """
    found = np.empty((len(x), 3))
    kinds = np.array([_kind(lens) for lens in lenses])
    for kind in set(kinds.tolist()):
        here = np.flatnonzero(kinds[which] == kind) if len(set(kinds.tolist())) > 1 else slice(None)
        found[here] = _directions(kind, lenses, which[here], x[here], y[here])
    return found


def _kind(lens: Lens) -> str:
    """What lenses have to share to be solved together."""
    return BROWN[lens.model][0] if lens.model in BROWN else lens.model


def _directions(kind: str, lenses: Sequence[Lens], which: NDArray[np.int64], x: Float64, y: Float64) -> Float64:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if kind in CLOSED:
            numbers = np.array([lens.numbers if _kind(lens) == kind else (0.0,) * len(CLOSED[kind]) for lens in lenses])
            return _CLOSED_DIRECTIONS[kind](numbers[which].T, x, y)
        terms = [terms_of(lens) if _kind(lens) == kind else np.zeros((1, len(TERMS))) for lens in lenses]
        for bend in reversed(range(max(map(len, terms)))):
            rows = np.array([of_lens[bend] if bend < len(of_lens) else np.zeros(len(TERMS)) for of_lens in terms])
            is_one = len(lenses) == 1
            x, y = _unbent(rows[0] if is_one else np.ascontiguousarray(rows[which].T), x, y)
        return _risen(x, y, is_fisheye=kind == "fisheye")


def terms_of(lens: Lens) -> Float64:
    """[B,15] the numbers of a lens of `BROWN` by term, one row for each time that it bends."""
    named = dict(zip(names_of(lens.model), lens.numbers, strict=True))
    rows = np.zeros((1, len(TERMS)))
    for i, term in enumerate(TERMS):
        rows[0, i] = named.get(term, 0.0)
    if lens.model == "RAD_TAN_THIN_PRISM_FISHEYE":
        rows = np.repeat(rows, 2, 0)
        rows[0, N_STRETCH:] = rows[1, :N_STRETCH] = 0
    return rows


def limit_of(terms: Float64, most: float) -> float:
    """The distance from the middle up to which a lens that bends by `terms` stretches; beyond it, it would fold the image."""
    r = np.linspace(0, most, LIMIT_STEPS)
    stretched = r * _stretch(terms[0], r * r)[0]
    folds = np.flatnonzero(~(np.diff(stretched) > 0))
    return float(r[folds[0]]) if len(folds) else most


def _laid(directions: Float64, is_fisheye: bool) -> tuple[Float64, Float64]:
    """Where directions meet the plane; nan behind a flat one."""
    x, y, z = directions.T
    if not is_fisheye:
        z = np.where(z > 0, z, np.nan)
        return x / z, y / z
    across = np.hypot(x, y)
    scale = np.where(across > 0, np.arctan2(across, z) / np.where(across > 0, across, 1), 1 / np.where(z > 0, z, np.nan))
    return x * scale, y * scale


def _risen(a: Float64, b: Float64, is_fisheye: bool) -> Float64:
    """Directions [N,3] of places on the plane."""
    if not is_fisheye:
        return np.stack([a, b, np.where(np.isnan(a), np.nan, 1.0)], -1)
    angle = np.hypot(a, b)
    angle = np.where(angle <= np.pi, angle, np.nan)
    across = np.sinc(angle / np.pi)
    return np.stack([a * across, b * across, np.cos(angle)], -1)


def _stretch(terms: Float64, square: Float64) -> tuple[Float64, Float64]:
    """What the radius is multiplied with, and its derivative by the radius' square."""
    top, slope = np.zeros_like(square), np.zeros_like(square)
    for k in terms[5::-1]:
        slope = slope * square + top
        top = top * square + k
    slope, top = slope * square + top, top * square + 1
    if not np.any(terms[6:9]):
        return top, slope
    low, low_slope = np.zeros_like(square), np.zeros_like(square)
    for d in terms[8:5:-1]:
        low_slope = low_slope * square + low
        low = low * square + d
    low_slope, low = low_slope * square + low, low * square + 1
    return top / low, (slope * low - top * low_slope) / low**2


def _bent(terms: Float64, a: Float64, b: Float64) -> tuple[Float64, ...]:
    """The formula at the head: x', y' and their derivatives xx, xy, yx, yy by a and b. `terms` is [15] or [15,N]."""
    square = a * a + b * b
    stretch, slope = _stretch(terms, square)
    across = 2 * a * b * slope
    x, y = a * stretch, b * stretch
    xx, yy = stretch + 2 * a * a * slope, stretch + 2 * b * b * slope
    if not np.any(terms[N_STRETCH:]):
        return x, y, xx, across, across, yy
    p1, p2, s1, s2, s3, s4 = terms[N_STRETCH:]
    x = x + 2 * p1 * a * b + p2 * (square + 2 * a * a) + (s1 + s2 * square) * square
    y = y + 2 * p2 * a * b + p1 * (square + 2 * b * b) + (s3 + s4 * square) * square
    turn = 2 * (p1 * a + p2 * b)
    prism_x, prism_y = 2 * (s1 + 2 * s2 * square), 2 * (s3 + 2 * s4 * square)
    xx = xx + 2 * p1 * b + 6 * p2 * a + prism_x * a
    yy = yy + 2 * p2 * a + 6 * p1 * b + prism_y * b
    return x, y, xx, across + turn + prism_x * b, across + turn + prism_y * a, yy


def _unbent(terms: Float64, x: Float64, y: Float64) -> tuple[Float64, Float64]:
    """The places that bend to x, y, nan where none does: Newton's method, from where there is no distortion."""
    if not np.any(terms):
        return x, y
    a, b = x, y
    for _ in range(NEWTON_STEPS):
        got_x, got_y, xx, xy, yx, yy = _bent(terms, a, b)
        off_x, off_y = got_x - x, got_y - y
        inverse = 1 / (xx * yy - xy * yx)
        step_a, step_b = (yy * off_x - xy * off_y) * inverse, (xx * off_y - yx * off_x) * inverse
        a, b = a - step_a, b - step_b
        if not np.nanmax(np.abs([step_a, step_b]), initial=0.0) > NEWTON_END:
            break
    got_x, got_y, xx, xy, yx, yy = _bent(terms, a, b)
    is_solved = (np.hypot(got_x - x, got_y - y) < SOLVED) & (xx * yy - xy * yx > 0) & (xx + yy > 0)
    return np.where(is_solved, a, np.nan), np.where(is_solved, b, np.nan)


# Models with a closed form, from a place to a direction. `numbers` is [K,N], or [K] the other way.


def _fov_directions(numbers: Float64, x: Float64, y: Float64) -> Float64:
    (omega,) = numbers
    radius = np.hypot(x, y)
    angle = radius * omega
    angle = np.where(angle < np.pi / 2, angle, np.nan)
    scale = np.where(radius > 0, np.tan(angle) / np.where(radius > 0, radius, 1), omega) / (2 * np.tan(omega / 2))
    return np.stack([x * scale, y * scale, np.where(np.isnan(scale), np.nan, 1.0)], -1)


def _fov_places(numbers: Float64, directions: Float64) -> tuple[Float64, Float64]:
    (omega,) = numbers
    a, b = _laid(directions, is_fisheye=False)
    radius, wide = np.hypot(a, b), 2 * np.tan(omega / 2)
    scale = np.where(radius > 0, np.arctan(radius * wide) / np.where(radius > 0, radius, 1), wide) / omega
    return a * scale, b * scale


def _division_directions(numbers: Float64, x: Float64, y: Float64) -> Float64:
    (k,) = numbers
    z = 1 + k * (x * x + y * y)
    z = np.where(z > 0, z, np.nan)
    return np.stack([x, y, z], -1)


def _division_places(numbers: Float64, directions: Float64) -> tuple[Float64, Float64]:
    (k,) = numbers
    a, b = _laid(directions, is_fisheye=False)
    scale = 2 / (1 + np.sqrt(1 - 4 * k * (a * a + b * b)))
    return a * scale, b * scale


def _eucm_directions(numbers: Float64, x: Float64, y: Float64) -> Float64:
    alpha, beta = numbers
    square = beta * (x * x + y * y)
    z = (1 - alpha**2 * square) / (alpha * np.sqrt(1 - (2 * alpha - 1) * square) + 1 - alpha)
    return np.stack([np.where(np.isnan(z), np.nan, x), np.where(np.isnan(z), np.nan, y), z], -1)


def _eucm_places(numbers: Float64, directions: Float64) -> tuple[Float64, Float64]:
    alpha, beta = numbers
    x, y, z = directions.T
    radius = np.sqrt(beta * (x * x + y * y) + z * z)
    least = -(1 - alpha) / alpha if alpha > 0.5 else -alpha / (1 - alpha)  # of z / radius, that the lens still sees
    divisor = np.where(z > least * radius, alpha * radius + (1 - alpha) * z, np.nan)
    return x / divisor, y / divisor


def _equirectangular_directions(numbers: Float64, x: Float64, y: Float64) -> Float64:
    return np.stack([np.sin(x) * np.cos(y), np.sin(y), np.cos(x) * np.cos(y)], -1)


def _equirectangular_places(numbers: Float64, directions: Float64) -> tuple[Float64, Float64]:
    x, y, z = directions.T
    return np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))


_CLOSED_DIRECTIONS = {
    "FOV": _fov_directions,
    "SIMPLE_DIVISION": _division_directions,
    "DIVISION": _division_directions,
    "EUCM": _eucm_directions,
    "EQUIRECTANGULAR": _equirectangular_directions,
}
_CLOSED_PLACES = {
    "FOV": _fov_places,
    "SIMPLE_DIVISION": _division_places,
    "DIVISION": _division_places,
    "EUCM": _eucm_places,
    "EQUIRECTANGULAR": _equirectangular_places,
}
