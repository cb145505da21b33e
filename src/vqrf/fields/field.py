"""What is at this point: the radiance field, as the eight verbs hand it around.

A `RadianceField` is plain NumPy and knows nothing of files, optimisers or codes. The rendering equation that its numbers
enter is in `vqrf.kernels`. Paper: DirectVoxGO (arXiv 2111.11215), sec. 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vqrf.codec.compressed import PRUNED, Compressed, float_table
from vqrf.geometry import Float32, Lattice
from vqrf.kernels import Volume, select
from vqrf.kernels.constants import Equation, shading_fault

Layers = tuple[tuple[Float32, Float32], ...]


@dataclass(frozen=True, eq=False, repr=False)
class RadianceField:
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

    Raises:
      ValueError: shapes disagree, the shading does not go with the layers and channels, a value is not finite, or nothing can
        be drawn with the equation.
    """

    lattice: Lattice
    density: Float32
    features: Float32
    color_mlp: Layers
    equation: Equation
    allowed: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        shape = self.lattice.shape
        if self.density.shape != shape:
            raise ValueError(f"density: expected {list(shape)}, got {list(self.density.shape)}")
        if self.features.ndim != 4 or self.features.shape[:3] != shape:
            raise ValueError(f"features: expected {[*shape, 'C']}, got {list(self.features.shape)}")
        if self.allowed is not None and self.allowed.shape != tuple(side - 1 for side in shape):
            raise ValueError(f"allowed: expected {[side - 1 for side in shape]}, got {list(self.allowed.shape)}")
        equation = self.equation
        if fault := shading_fault(equation.shading, len(self.color_mlp), self.n_channels, equation.feature_frequencies):
            raise ValueError(f"features: {fault}")
        arrays = [self.density, self.features, *(a for layer in self.color_mlp for a in layer)]
        if not all(np.isfinite(a).all() for a in arrays):
            raise ValueError("the field has a value that is not finite")
        if fault := equation.fault():
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
        )

    def with_background(self, background: tuple[float, float, float]) -> RadianceField:
        return replace(self, equation=replace(self.equation, background=background))


def expand(compressed: Compressed) -> RadianceField:
    """The field that a compressed one stands for: dequantise and scatter, no choice made.

    PRUNED voxels get the density that the file says, and zero features.

    Raises:
      ValueError: the numbers make no field (see `RadianceField`).
    """
    shape = compressed.lattice.shape
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
