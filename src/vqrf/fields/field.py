"""What is at this point: the radiance field, as the eight verbs hand it around.

A `RadianceField` is plain NumPy and knows nothing of files, optimisers or codes. The rendering equation that its numbers
enter is in `vqrf.kernels`. Paper: DirectVoxGO (arXiv 2111.11215), sec. 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from vqrf.codec.compressed import CODED, KEPT, PRUNED, CompressedField, Constants, Quantized, Table
from vqrf.codec.pyramid import PyramidField
from vqrf.geometry import Float32, Lattice
from vqrf.kernels import Activation, Shading, Volume, select, shading_fault
from vqrf.kernels.activation import density_of_alpha

Layers = tuple[tuple[Float32, Float32], ...]


@dataclass(frozen=True, eq=False)
class RadianceField:
    """A radiance field: raw density and features on one lattice, coloured by a small MLP or by harmonics.

    Attributes:
      lattice: places the voxels.
      density: [X,Y,Z] float32, raw (before the activation).
      features: [X,Y,Z,C] float32.
      color_mlp: ((weight [out,in] float32, bias [out] float32), ...); empty when the features are rgb logits, or shaded by
        spherical harmonics.
      density_bias: added to raw density before the activation (DVGO's shift; 0 in Plenoxels).
      interval: what activated density is multiplied with for the optical depth of a step: the step in units of the base voxel.
      step_world: distance between two samples of a ray, world units.
      near: world distance before which nothing is sampled.
      alpha_threshold: samples with alpha at or below it do not exist, those with weight at or below it have no colour.
      background: rgb behind everything, 0..1.
      allowed: [X-1,Y-1,Z-1] uint8 cells that may hold anything, or None for all (the coarse stage's verdict, or the
        cells next to a voxel that is not pruned).
      shading: "mlp", or "sh" or "sh_relu": features are coefficients of spherical harmonics, C is 12 or 27; see `vqrf.kernels`.
      activation: of the density, "softplus" or "relu" (see there).
      feature_frequencies: how many frequencies of each feature the colour MLP takes beside the feature (see `vqrf.kernels`).

    Raises:
      ValueError: shapes disagree, `shading` does not go with the layers and channels, a value is not finite, `alpha_threshold`
        is not between 0 and 1, `interval` or `step_world` is not positive, or `activation` is not known.
    """

    lattice: Lattice
    density: Float32
    features: Float32
    color_mlp: Layers
    density_bias: float
    interval: float
    step_world: float
    near: float
    alpha_threshold: float
    background: tuple[float, float, float]
    allowed: NDArray[np.uint8] | None = None
    shading: Shading = "mlp"
    activation: Activation = "softplus"
    feature_frequencies: int = 0

    def __post_init__(self) -> None:
        shape = self.lattice.shape
        if self.density.shape != shape:
            raise ValueError(f"density: expected {list(shape)}, got {list(self.density.shape)}")
        if self.features.ndim != 4 or self.features.shape[:3] != shape:
            raise ValueError(f"features: expected {[*shape, 'C']}, got {list(self.features.shape)}")
        if self.allowed is not None and self.allowed.shape != tuple(side - 1 for side in shape):
            raise ValueError(f"allowed: expected {[side - 1 for side in shape]}, got {list(self.allowed.shape)}")
        if fault := shading_fault(self.shading, len(self.color_mlp), self.n_channels, self.feature_frequencies):
            raise ValueError(f"features: {fault}")
        arrays = [self.density, self.features, *(a for layer in self.color_mlp for a in layer)]
        if not all(np.isfinite(a).all() for a in arrays):
            raise ValueError("the field has a value that is not finite")
        if not 0 < self.alpha_threshold < 1:
            raise ValueError(f"alpha_threshold: expected a value between 0 and 1, got {self.alpha_threshold}")
        if not (self.interval > 0 and self.step_world > 0):
            raise ValueError(f"interval and step_world: expected positive values, got {self.interval}, {self.step_world}")
        if self.activation not in get_args(Activation):
            raise ValueError(f"activation: expected softplus or relu, got {self.activation}")

    @property
    def n_channels(self) -> int:
        return int(self.features.shape[3])

    @property
    def grid_bytes(self) -> int:
        """Bytes of density and features as float32: what compression is measured against."""
        return 4 * self.lattice.n_voxels * (1 + self.n_channels)

    def density_of(self, alpha: float) -> float:
        """The raw density that gives `alpha` over one step."""
        return density_of_alpha(alpha, self.density_bias, self.interval, self.activation)

    def volume(self) -> Volume:
        """The field as the kernels take it on the CPU, with its occupied cells found."""
        kernels = select()
        cells = kernels.find_cells(self.density, self.density_of(self.alpha_threshold), self.allowed)
        return Volume(
            lo=self.lattice.lo,
            hi=self.lattice.hi,
            density=self.density,
            features=self.features,
            rows=None,
            layers=self.color_mlp,
            cells=cells,
            skip=kernels.measure_skip(cells),
            density_bias=self.density_bias,
            interval=self.interval,
            step_world=self.step_world,
            near=self.near,
            alpha_threshold=self.alpha_threshold,
            background=self.background,
            shading=self.shading,
            activation=self.activation,
            feature_frequencies=self.feature_frequencies,
        )

    def with_background(self, background: tuple[float, float, float]) -> RadianceField:
        return replace(self, background=background)


def expand(compressed: CompressedField | PyramidField) -> RadianceField:
    """The field that a compressed one stands for: dequantise and scatter, no choice made.

    PRUNED voxels get the density that the file says, and zero features.

    Raises:
      ValueError: the numbers make no field (see `RadianceField`).
    """
    shape, constants = compressed.lattice.shape, compressed.constants
    density = np.full(shape, constants.empty_density, np.float32)
    features = np.zeros((*shape, compressed.n_channels), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is not finite, and RadianceField says so
        here = compressed.partition != PRUNED
        if isinstance(compressed, PyramidField):
            density[here], features[here] = compressed.voxel_values()
        else:
            density[here] = compressed.density.dequantize()
            features[compressed.partition == CODED] = float_table(compressed.codebook)[compressed.codes]
            features[compressed.partition == KEPT] = compressed.kept.dequantize()
        color_mlp = tuple((float_table(weight), float_table(bias)) for weight, bias in compressed.color_mlp)
    return RadianceField(
        lattice=compressed.lattice,
        density=density,
        features=features,
        color_mlp=color_mlp,
        density_bias=constants.density_bias,
        interval=constants.interval,
        step_world=constants.step_world,
        near=constants.near,
        alpha_threshold=constants.alpha_threshold,
        background=constants.background,
        shading=compressed.shading,
        activation=compressed.activation,
        feature_frequencies=compressed.feature_frequencies,
    )


def constants_of(field: RadianceField, empty_density: float) -> Constants:
    """The scalars of rendering that a compressed field takes over, and what its PRUNED voxels are worth."""
    return Constants(
        empty_density=empty_density,
        density_bias=field.density_bias,
        interval=field.interval,
        step_world=field.step_world,
        near=field.near,
        alpha_threshold=field.alpha_threshold,
        background=field.background,
    )


def float_table(table: Table) -> Float32:
    """The float32 values of a table, whichever way it is stored."""
    return table.dequantize() if isinstance(table, Quantized) else table.astype(np.float32)
