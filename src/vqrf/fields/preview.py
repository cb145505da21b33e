"""A field as a .vqrf without any choosing: what the viewer is shown of a field that is not compressed yet.

Every voxel at the corner of an occupied cell is KEPT, in bytes; nothing is trained. The file is larger than one that `compress`
makes, and is made at once.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vqrf.codec.about import NOTHING, About
from vqrf.codec.compressed import KEPT, PRUNED, CompressedField, Quantized
from vqrf.fields.cells import voxels_of_cells
from vqrf.fields.field import RadianceField
from vqrf.geometry import Float32
from vqrf.memory import expect_room

LEVELS = 255
BELOW_FLOOR = 10.0
"""Raw density under the floor of what can be seen that is still told apart."""
BYTES_OF_VALUE = 16
"""While a value is put into a byte: a copy of it, what comes before it is rounded, and its own level."""
OPAQUE = 1 - 1e-6
"""The alpha of one step above which densities look the same."""


def preview(field: RadianceField, about: About = NOTHING) -> CompressedField:
    """The voxels of a field that can be seen, in bytes.

    Args:
      about: what it says of itself to people.

    Deterministic. Changes nothing.

    Raises:
      ValueError: the lattice or the MLP is larger than a file can hold, or the values take more memory than there is.
    """
    is_seen = voxels_of_cells(field.volume().cells)
    n_values = int(np.count_nonzero(is_seen)) * (1 + field.n_channels)
    expect_room(BYTES_OF_VALUE * n_values, None, f"{n_values} values in bytes")
    floor = field.equation.floor
    ceiling = field.equation.density_of(OPAQUE)
    density = np.clip(field.density[is_seen], floor - BELOW_FLOOR, ceiling)
    n_channels = field.n_channels
    return CompressedField(
        lattice=field.lattice,
        partition=np.where(is_seen, KEPT, PRUNED).astype(np.uint8),
        density=_in_bytes(density),
        codes=np.zeros(0, np.int32),
        codebook=np.zeros((1, n_channels), np.float16),
        kept=_in_bytes(field.features[is_seen]),
        color_mlp=tuple((weight.astype(np.float16), bias.astype(np.float16)) for weight, bias in field.color_mlp),
        equation=field.equation,
        empty_density=floor - BELOW_FLOOR,
        metadata=about.added_to({"generator": "vqrf preview"}),
    )


def _in_bytes(values: Float32) -> Quantized:
    """[N] or [N,C] floats as bytes, each column from its least to its greatest value."""
    if not len(values):
        values = np.zeros((1, *values.shape[1:]), np.float32)
        return replace(_in_bytes(values), levels=np.zeros((0, *values.shape[1:]), np.uint8))
    low, high = np.atleast_1d(values.min(0)), np.atleast_1d(values.max(0))
    scale = np.maximum((high - low) / LEVELS, np.finfo(np.float32).tiny).astype(np.float32)
    offset = low.astype(np.float32)
    levels: NDArray[np.uint8] = np.clip(np.rint((values - offset) / scale), 0, LEVELS).astype(np.uint8)
    return Quantized(levels, scale, offset)
