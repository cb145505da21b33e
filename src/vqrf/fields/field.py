"""What is at this point: the radiance field, as the eight verbs hand it around.

A `RadianceField` is plain NumPy and knows nothing of files, optimisers or codes. The rendering equation that its numbers
enter is in `vqrf.kernels`. Paper: DirectVoxGO (arXiv 2111.11215), sec. 3 and 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vqrf.codec.compressed import PRUNED, Compressed, float_table, items_of
from vqrf.fields.factors import Factors
from vqrf.geometry import Float32, Lattice
from vqrf.kernels import Volume, select
from vqrf.kernels.constants import (
    MAX_SUM,
    MAX_VALUE,
    Equation,
    count_view_frequencies,
    drawing_fault,
    shading_fault,
)
from vqrf.memory import expect_room
from vqrf.shown import Showable

BYTES_BESIDE = 12
"""Bytes of a voxel beside its values: what is allowed, occupied, skipped, masked, and room to find it in."""

Layers = tuple[tuple[Float32, Float32], ...]


@dataclass(frozen=True, eq=False, repr=False)
class RadianceField(Showable):
    """A radiance field: raw density and features on one lattice, coloured by a small MLP or by harmonics.

    Attributes:
      lattice: places the voxels.
      density: [X,Y,Z] float32, raw (before the activation).
      features: [X,Y,Z,C] float32.
      color_mlp: ((weight [out,in] float32, bias [out] float32), ...); empty when the features are rgb logits, or shaded by
        spherical harmonics.
      equation: the constants of rendering.
      allowed: [X-1,Y-1,Z-1] uint8 cells that may hold anything, or None for all (the coarse stage's verdict, or the
        cells next to a voxel that is not pruned).
      factors: the planes and lines that density and features are products of, where they are at hand. Drawing, saving and
        checksums leave them alone.

    Raises:
      ValueError: shapes disagree, the shading does not go with the layers and channels, a value is not finite or too large
        to be drawn (see `values_fault`), or nothing can be drawn with the equation.
    """

    lattice: Lattice
    density: Float32
    features: Float32
    color_mlp: Layers
    equation: Equation
    allowed: NDArray[np.uint8] | None = None
    factors: Factors | None = None

    def __post_init__(self) -> None:
        shape = self.lattice.shape
        if self.density.shape != shape:
            raise ValueError(f"density: expected {list(shape)}, got {list(self.density.shape)}")
        if self.features.ndim != 4 or self.features.shape[:3] != shape:
            raise ValueError(f"features: expected {[*shape, 'C']}, got {list(self.features.shape)}")
        if self.allowed is not None and self.allowed.shape != tuple(side - 1 for side in shape):
            raise ValueError(f"allowed: expected {[side - 1 for side in shape]}, got {list(self.allowed.shape)}")
        if self.factors is not None and (self.factors.shape, self.factors.n_channels) != (shape, self.n_channels):
            raise ValueError(f"factors: expected those of {list(self.features.shape)}, got {list(self.factors.shape)}")
        equation = self.equation
        if fault := shading_fault(equation.shading, len(self.color_mlp), self.n_channels, equation.feature_frequencies):
            raise ValueError(f"features: {fault}")
        if fault := layers_fault(self.color_mlp, self.n_channels, equation.feature_frequencies):
            raise ValueError(f"color_mlp: {fault}")
        if fault := values_fault(self.density, self.features, self.color_mlp):
            raise ValueError(fault)
        n_weights = sum(weight.size for weight, _ in self.color_mlp)
        if fault := drawing_fault(self.lattice, equation, n_weights):
            raise ValueError(fault)

    def __repr__(self) -> str:
        shading = f"{self.equation.shading} of {len(self.color_mlp)} layers" if self.color_mlp else self.equation.shading
        shape = "x".join(map(str, self.lattice.shape))
        return f"RadianceField({shape}, {self.n_channels} channels, {shading}, {self.equation.activation})"

    @property
    def n_channels(self) -> int:
        return int(self.features.shape[3])

    @property
    def grid_bytes(self) -> int:
        """Bytes of density and features as float32: what compression is measured against."""
        return 4 * self.lattice.n_voxels * (1 + self.n_channels)

    def volume(self) -> Volume:
        """The field as the kernels take it on the CPU, with its occupied cells found."""
        kernels = select()
        cells = kernels.find_cells(self.density, self.equation.floor, self.allowed)
        return Volume(
            lo=self.lattice.lo,
            hi=self.lattice.hi,
            density=self.density,
            features=self.features,
            rows=None,
            layers=self.color_mlp,
            cells=cells,
            skip=kernels.measure_skip(cells),
            equation=self.equation,
            space=self.lattice.space,
        )

    def with_background(self, background: tuple[float, float, float]) -> RadianceField:
        return replace(self, equation=replace(self.equation, background=background))


def drawing_fault_of(compressed: Compressed) -> str | None:
    """Why `expand` or a renderer would refuse what a file says; None if they take it. No grid is made."""
    lattice, equation = compressed.lattice, compressed.equation
    n_weights = sum(items_of(weight).size for weight, _ in compressed.color_mlp)
    if fault := drawing_fault(lattice, equation, n_weights) or compressed.work_fault():
        return fault
    with np.errstate(over="ignore", invalid="ignore"):
        layers = tuple((float_table(weight), float_table(bias)) for weight, bias in compressed.color_mlp)
        return values_fault(*compressed.voxel_values(), layers, compressed.empty_density)


def values_fault(density: Float32, features: Float32, layers: Layers, empty_density: float = 0.0) -> str | None:
    """Why float32 cannot hold what a renderer makes of these values; None if it can. FORMAT.md section 2 has these limits."""
    most = {"density": _largest(density), "features": _largest(features), "empty density": abs(empty_density)}
    if not all(map(math.isfinite, (*most.values(), *(_largest(array) for layer in layers for array in layer)))):
        return "the field has a value that is not finite"
    for name, largest in most.items():
        if largest > MAX_VALUE:
            return f"{name}: expected values within {MAX_VALUE:.3g}, got {largest:.3g}"
    bound = max(most["features"], 1.0)  # of what enters a layer: features, directions, waves of both
    for weight, bias in layers:
        bound = float((np.abs(weight).sum(1, dtype=np.float64) * bound + np.abs(bias)).max())
        if bound > MAX_SUM:
            return f"color_mlp: a layer may sum up to {bound:.3g}, which float32 does not hold"
    return None


def _largest(values: Float32) -> float:
    """The largest absolute value; NaN where there is one. No copy is made."""
    return float(max(values.max(), -values.min())) if values.size else 0.0


def layers_fault(layers: Layers, n_channels: int, feature_frequencies: int) -> str | None:
    """Why layers do not lead from the features and the view to rgb; None if they do, or there are none."""
    width = None
    for weight, bias in layers:
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            return f"a layer has weight {list(weight.shape)} and bias {list(bias.shape)}"
        n_out, n_in = weight.shape
        fits = n_in == width if width else count_view_frequencies(n_in, n_channels, feature_frequencies) is not None
        if not fits or not n_out:
            return f"a layer cannot take its {n_in} inputs"
        width = n_out
    return None if width in (None, 3) else f"ends in {width} values, expected rgb"


def dense_bytes(shape: tuple[int, ...], n_channels: int) -> int:
    """Bytes that a field takes at most while it is made, checked, and made a volume of, beside what it is made from."""
    return math.prod(shape) * (4 * (1 + n_channels) + BYTES_BESIDE)


def expand(compressed: Compressed, *, max_bytes: int | None = None) -> RadianceField:
    """The field that a compressed one stands for: dequantise and scatter, no choice made.

    PRUNED voxels get the density that the file says, and zero features.

    Args:
      max_bytes: the budget of memory; None for the usual one (see `vqrf.memory`).

    Raises:
      ValueError: the numbers make no field (see `RadianceField`), or one that takes more memory or too long.
    """
    if fault := compressed.work_fault():
        raise ValueError(fault)
    shape = compressed.lattice.shape
    n_bytes = dense_bytes(shape, compressed.n_channels) + compressed.values_bytes()
    expect_room(n_bytes, max_bytes, f"a lattice of {list(shape)} voxels with {compressed.n_channels} channels")
    density = np.full(shape, compressed.empty_density, np.float32)
    features = np.zeros((*shape, compressed.n_channels), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is not finite, and RadianceField says so
        here = compressed.partition != PRUNED
        density[here], features[here] = compressed.voxel_values()
        color_mlp = tuple((float_table(weight), float_table(bias)) for weight, bias in compressed.color_mlp)
    return RadianceField(
        lattice=compressed.lattice,
        density=density,
        features=features,
        color_mlp=color_mlp,
        equation=compressed.equation,
    )
