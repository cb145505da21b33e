"""The compiled core behind the kernel contract. Twin: `vqrf.kernels.reference`, which holds the documentation.

Takes NumPy arrays or CPU tensors, without copying. Results never depend on the number of threads: the core works in fixed
pieces and adds them in a fixed order. Any two functions may be called from two Python threads: the second waits.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vqrf._native as _native
from vqrf.kernels import (
    ADAM_BETAS,
    ADAM_EPSILON,
    SKIP_BLOCK,
    A,
    Array,
    Children,
    FactorArrays,
    Gradients,
    LossWeights,
    Volume,
)
from vqrf.kernels.constants import count_view_frequencies
from vqrf.kernels.contract import B

LIMITS: dict[str, float] = _native.constants()
"""What the core was compiled for, and what it takes the contract's constants to be, by their names."""

COLOR_TOLERANCE: float = _native.color_tolerance()
"""Absolute error of a colour against float32 arithmetic: the core multiplies in bfloat16 where the CPU can."""


def set_threads(n: int) -> None:
    """Use `n` threads from now on; the number of CPUs is the default."""
    _native.set_threads(n)


def use_instruction_set(name: str) -> None:
    """Use the kernels of one of `instruction_sets()`; the best is the default.

    Raises:
      ValueError: this CPU or this build does not have it.
    """
    global COLOR_TOLERANCE
    _native.use_instruction_set(name)
    COLOR_TOLERANCE = _native.color_tolerance()


def instruction_sets() -> list[str]:
    """What this CPU can run, slowest first."""
    return list(_native.instruction_sets())


def fault(subject: Volume[B] | FactorArrays[B]) -> str | None:
    """What of a volume or of factors is beyond the core's limits; None if nothing is.

    Hidden layers of any width up to the limit, and of several, are no fault: they are padded with units that do nothing.
    """
    if isinstance(subject, FactorArrays):
        _, n_features, n_channels = subject.mix.shape
        counts = {"MAX_RANK": n_features, "MAX_CHANNELS": n_channels}
    else:
        if subject.factors is not None and (reason := fault(subject.factors)) is not None:
            return reason
        widths = [len(bias) for _, bias in subject.layers[:-1]]
        if len(subject.layers) == 1:
            return "a single colour layer"
        counts = {
            "MAX_VOXELS": int(np.prod(subject.density.shape, dtype=np.int64)),
            "MAX_CHANNELS": subject.features.shape[-1],
            "MAX_LAYERS": len(subject.layers),
            "MAX_WIDTH": max(widths, default=0),
            "MAX_VIEW_FREQUENCIES": _count_view_frequencies(subject),
        }
    beyond = ((count, name) for name, count in counts.items() if count > LIMITS[name])
    return next((f"{count} {NOUNS[name]} (at most {LIMITS[name]})" for count, name in beyond), None)


NOUNS = {
    "MAX_RANK": "components of a feature",
    "MAX_CHANNELS": "channels",
    "MAX_VOXELS": "voxels",
    "MAX_LAYERS": "colour layers",
    "MAX_WIDTH": "units in a colour layer",
    "MAX_VIEW_FREQUENCIES": "frequencies of the view",
}
"""What is counted."""


def _count_view_frequencies(volume: Volume[B]) -> int:
    if not volume.layers:
        return 0
    n_inputs, n_channels = volume.layers[0][0].shape[1], volume.features.shape[-1]
    return count_view_frequencies(n_inputs, n_channels, volume.equation.feature_frequencies) or 0


def _like(array: A, result: NDArray[np.generic]) -> A:
    """`result` as the kind of array that came in."""
    if isinstance(array, np.ndarray):
        return result
    tensor: A = sys.modules["torch"].from_numpy(result)
    return tensor


def pixel_rays(pixels: A, starts: Array, widths: Array, pinholes: Array, poses: Array) -> tuple[A, A]:
    origins, directions = np.empty((len(pixels), 3), np.float32), np.empty((len(pixels), 3), np.float32)
    _native.pixel_rays(pixels, starts, widths, pinholes, poses, origins, directions)
    return _like(pixels, origins), _like(pixels, directions)


def find_cells(density: A, floor: float, allowed: Array | None) -> A:
    cells = np.empty(tuple(side - 1 for side in density.shape), np.uint8)
    _native.find_cells(density, floor, allowed, cells)
    return _like(density, cells)


def measure_skip(cells: A) -> A:
    skip = np.empty(tuple(-(-side // SKIP_BLOCK) for side in cells.shape), np.uint8)
    _native.measure_skip(cells, skip)
    return _like(cells, skip)


def hit_rays(volume: Volume[B], origins: A, directions: Array) -> A:
    hit = np.empty(len(origins), np.uint8)
    _native.hit_rays(volume, origins, directions, hit)
    return _like(origins, hit)


def render_rays(volume: Volume[B], origins: A, directions: Array) -> tuple[A, A, A]:
    n = len(origins)
    out = np.empty((n, 3), np.float32), np.empty(n, np.float32), np.empty(n, np.float32)
    _native.render_rays(volume, origins, directions, *out)
    rgb, background_weight, depth = (_like(origins, array) for array in out)
    return rgb, background_weight, depth


def render_gradients(
    volume: Volume[B],
    origins: Array,
    directions: Array,
    targets: Array,
    losses: LossWeights,
    gradients: Gradients[B],
    *,
    weights: Array | None = None,
) -> dict[str, float]:
    return dict(_native.render_gradients(volume, origins, directions, targets, losses, gradients, weights))


def backpropagate(
    volume: Volume[B],
    origins: Array,
    directions: Array,
    d_rgb: Array,
    d_background_weight: Array | None,
    d_depth: Array | None,
    gradients: Gradients[B],
) -> None:
    _native.backpropagate(volume, origins, directions, d_rgb, d_background_weight, d_depth, gradients)


def accumulate_importance(
    volume: Volume[B], origins: Array, directions: Array, importance: Array, *, counted: Array | None = None
) -> None:
    _native.accumulate_importance(volume, origins, directions, importance, counted)


def masked_adam(
    values: Array,
    gradient: Array,
    first: Array,
    second: Array,
    touched: Array | None,
    *,
    rate: float | Array,
    step: int,
) -> None:
    if isinstance(rate, int | float):
        _native.masked_adam(values, gradient, first, second, touched, None, rate, step, ADAM_EPSILON, ADAM_BETAS)
    else:
        _native.masked_adam(values, gradient, first, second, touched, rate, 1.0, step, ADAM_EPSILON, ADAM_BETAS)


def add_total_variation(values: Array, gradient: Array, touched: Array | None, *, weight: float) -> None:
    _native.add_total_variation(values, gradient, touched, weight)


def assign_codes(vectors: A, codebook: Array) -> tuple[A, A]:
    codes, distances = np.empty(len(vectors), np.int32), np.empty(len(vectors), np.float32)
    _native.assign_codes(vectors, codebook, codes, distances)
    return _like(vectors, codes), _like(vectors, distances)


def sum_by_code(values: A, weights: Array, codes: Array, n_codes: int) -> tuple[A, A]:
    sums, totals = np.zeros((n_codes, values.shape[1])), np.zeros(n_codes)
    _native.sum_by_code(values, np.asarray(weights, np.float64), codes, sums, totals)
    return _like(values, sums), _like(values, totals)


def tie_gradients(gradient: Array, rows: Array, touched: Array, table_gradient: Array) -> None:
    _native.tie_gradients(gradient, rows, touched, table_gradient)


def raise_level(fine: Array, coarse: Array, parents: Array) -> None:
    _native.raise_level(fine, coarse, parents)


def lower_gradient(fine: Array, coarse: Array, children: Children[B]) -> None:
    _native.lower_gradient(fine, coarse, children.first, children.child, children.share)


def move_gradients(gradient: Array, voxels: Array, touched: Array, matrix: Array | None, row_gradient: Array) -> None:
    _native.move_gradients(gradient, voxels, touched, matrix, row_gradient)


def place_rows(values: Array, scales: Array, places: Array, table: Array) -> None:
    _native.place_rows(values, scales, places, table)


def take_rows(table: Array, scales: Array, places: Array, values: Array) -> None:
    _native.take_rows(table, scales, places, values)


def round_to_steps(values: Array, steps: Array, dead_zone: float, rounded: Array) -> None:
    _native.round_to_steps(values, steps, dead_zone, rounded)


def add_rate_gradient(values: Array, steps: Array, first_bits: Array, weight: float, gradient: Array) -> None:
    _native.add_rate_gradient(values, steps, first_bits, weight, gradient)


def expand_factors(factors: FactorArrays[B], marks: Array, density: Array, features: Array | None) -> None:
    _native.expand_factors(factors, marks, density, features)


def add_sparsity(values: Array, gradient: Array, touched: Array | None, *, n_columns: int, weight: float) -> None:
    _native.add_sparsity(values, gradient, touched, n_columns, weight)


def measure_ssim(image: NDArray[Any], target: NDArray[Any]) -> float:
    return float(_native.measure_ssim(np.ascontiguousarray(image), np.ascontiguousarray(target)))
