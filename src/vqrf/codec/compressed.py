"""The narrow waist: a compressed field as integers and small tables, between `compress` and `encode`.

NumPy only. Every instance is checked when it is made, so that whatever takes one need not ask again. How its
arrays become bytes is in `vqrf.codec.contents`, what they mean to a renderer in FORMAT.md section 4.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vqrf.geometry import Float32, Lattice
from vqrf.kernels.constants import Equation, count_view_frequencies, shading_fault
from vqrf.shown import Showable

Uint8 = NDArray[np.uint8]
Int32 = NDArray[np.int32]

PRUNED, CODED, KEPT = 0, 1, 2
"""What a voxel of the partition is: absent, a row of the codebook, or a row of its own."""

MIN_SIDE, MAX_SIDE = 2, 4096
MAX_VOXELS = 1 << 31
MAX_CHANNELS = 64
MAX_CODEWORDS = 65536
MAX_LAYERS = 16
MAX_LAYER_SIDE = 4096
MAX_METADATA_BYTES = 1 << 20
MAX_METADATA_DEPTH = 200
"""Objects and lists around a value. A bound of our own, as those of JSON readers differ."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """Real numbers as small integers: `offset + scale * levels`.

    Args:
      levels: uint8 or uint16, at least one axis.
      scale, offset: float32, both [1] or both [C], one for each column of the last axis. Finite.

    Raises:
      ValueError: a dtype or a shape is another, or a value is not finite.
    """

    levels: NDArray[np.uint8] | NDArray[np.uint16]
    scale: Float32
    offset: Float32

    def __post_init__(self) -> None:
        if self.levels.dtype not in (np.uint8, np.uint16) or self.levels.ndim < 1:
            raise ValueError(f"levels: expected uint8 or uint16, got {self.levels.dtype}")
        allowed = ((1,), self.levels.shape[-1:])
        for name, values in (("scale", self.scale), ("offset", self.offset)):
            if values.dtype != np.float32 or values.shape not in allowed or values.shape != self.scale.shape:
                raise ValueError(f"{name}: expected float32 [1] or one per column, got {values.dtype} {values.shape}")
            if not np.isfinite(values).all():
                raise ValueError(f"{name} is not finite")
        object.__setattr__(self, "levels", np.ascontiguousarray(self.levels))

    def dequantize(self) -> Float32:
        """`offset + scale * levels` in float32: the product is rounded to float32, then the sum."""
        return self.offset + self.scale * self.levels.astype(np.float32)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Quantized) or self.levels.dtype != other.levels.dtype:
            return False
        pairs = ((self.levels, other.levels), (self.scale, other.scale), (self.offset, other.offset))
        return all(np.array_equal(a, b) for a, b in pairs)


Table: TypeAlias = Quantized | NDArray[np.float16]
"""A small array of numbers: quantised, or float16 as the VQRF paper has it."""


def items_of(table: Table) -> NDArray[Any]:
    """The table's numbers as stored."""
    return table.levels if isinstance(table, Quantized) else table


def float_table(table: Table) -> Float32:
    """The float32 values of a table, whichever way it is stored."""
    return table.dequantize() if isinstance(table, Quantized) else table.astype(np.float32)


@dataclass(frozen=True, eq=False, repr=False)
class Compressed(Showable, ABC):
    """A compressed field of any kind: integers and small tables. What `encode` writes and `expand` makes a field of.

    Args:
      lattice: each side 2..4096, at most 2^31 voxels.
      partition: [X,Y,Z] uint8 of PRUNED, CODED and, where there is a codebook, KEPT.
      color_mlp: ((weight [out,in], bias [out]), ...), at most 16 layers, from C + 3 + 6n + 2CF inputs to 3 outputs;
        empty when the features are rgb logits (then C = 3) or coefficients of spherical harmonics (then C is 12 or 27).
      equation: the constants of rendering, of which a file holds the numbers in float32: they are rounded to it here.
      empty_density: the raw density of every PRUNED voxel, rounded to float32 too.
      metadata: of JSON types (kept as JSON would give it back), at most 1 MiB.

    Raises:
      ValueError: a shape, a dtype or a value is not as said.
    """

    lattice: Lattice
    partition: Uint8
    color_mlp: tuple[tuple[Table, Table], ...]
    equation: Equation
    empty_density: float
    metadata: dict[str, Any]

    def __post_init__(self) -> None:
        sides = self.lattice.shape
        if any(not MIN_SIDE <= side <= MAX_SIDE for side in sides) or self.lattice.n_voxels > MAX_VOXELS:
            raise ValueError(f"lattice: expected sides of 2..4096 and at most 2^31 voxels, got {sides}")
        _expect("partition", self.partition, np.uint8, sides)
        self._check()
        _check_layers(self.color_mlp, self.n_channels, self.equation)
        object.__setattr__(self, "equation", self.equation.in_float32())
        object.__setattr__(self, "empty_density", _finite_float32(self.empty_density))
        object.__setattr__(self, "partition", np.ascontiguousarray(self.partition))
        object.__setattr__(self, "metadata", json.loads(canonical_json(self.metadata)))

    @abstractmethod
    def _check(self) -> None:
        """Raise ValueError unless what this kind has of its own fits the partition."""

    @property
    @abstractmethod
    def n_channels(self) -> int: ...

    @property
    def n_codewords(self) -> int:
        """0 where there is no codebook."""
        return 0

    @property
    def n_coded(self) -> int:
        return _count_kind(self.partition, CODED)

    @property
    def n_kept(self) -> int:
        return _count_kind(self.partition, KEPT)

    def work_fault(self) -> str | None:
        """Why `voxel_values` would take too long; None if it does not. FORMAT.md section 2 has the limit."""
        return None

    @abstractmethod
    def values_bytes(self) -> int:
        """What `voxel_values` takes at most, its result included."""

    @abstractmethod
    def voxel_values(self) -> tuple[Float32, Float32]:
        """Density [N] and features [N,C] of the voxels that are not PRUNED, in raster order."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """How many there are of what only this kind has, by name."""

    def __repr__(self) -> str:
        counts = {"channels": self.n_channels, "voxels coded": self.n_coded, "kept": self.n_kept, **self.sizes()}
        said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return f"{type(self).__name__}({'x'.join(map(str, self.lattice.shape))}, {said})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(_same(getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)


@dataclass(frozen=True, eq=False, repr=False)
class CompressedField(Compressed):
    """A compressed field with a codebook, as VQRF has it.

    Args:
      density: uint8 levels [N] of the voxels that are not PRUNED, in raster order (Z fastest); one scale.
      codes: [N_coded] int32, the codebook's row of each CODED voxel in raster order.
      codebook: [K,C], 1 <= K <= 65536, 1 <= C <= 64.
      kept: uint8 levels [N_kept, C] of the KEPT voxels in raster order.
      lattice, partition, color_mlp, equation, empty_density, metadata: see `Compressed`.

    Raises:
      ValueError: a shape, a dtype or a value is not as said.
    """

    density: Quantized
    codes: Int32
    codebook: Table
    kept: Quantized

    def _check(self) -> None:
        if self.partition.max() > KEPT:
            raise ValueError("partition: a value is none of PRUNED, CODED, KEPT")
        _expect("density", self.density.levels, np.uint8, (self.n_coded + self.n_kept,))
        if self.density.scale.shape != (1,):
            raise ValueError("density: expected one scale")
        _expect_table("codebook", self.codebook, ndim=2)
        n_codewords, n_channels = items_of(self.codebook).shape
        if not 1 <= n_codewords <= MAX_CODEWORDS or not 1 <= n_channels <= MAX_CHANNELS:
            raise ValueError(f"codebook: expected 1..65536 rows of 1..64, got {n_codewords} of {n_channels}")
        _expect("kept", self.kept.levels, np.uint8, (self.n_kept, n_channels))
        _expect("codes", self.codes, np.int32, (self.n_coded,))
        if self.codes.size and not 0 <= self.codes.min() <= self.codes.max() < n_codewords:
            raise ValueError("codes: a code is not below the codebook size")
        object.__setattr__(self, "codes", np.ascontiguousarray(self.codes))

    @property
    def n_channels(self) -> int:
        return int(items_of(self.codebook).shape[1])

    @property
    def n_codewords(self) -> int:
        return int(items_of(self.codebook).shape[0])

    def values_bytes(self) -> int:
        return (
            len(self.density.levels) * (12 + 4 * self.n_channels)
            + 4 * self.codes.size * self.n_channels
            + 12 * self.kept.levels.size
        )

    def voxel_values(self) -> tuple[Float32, Float32]:
        is_kept = np.concatenate([slab[slab != PRUNED] == KEPT for slab in self.partition])  # no mask of all of it
        features = np.empty((len(is_kept), self.n_channels), np.float32)
        features[~is_kept] = float_table(self.codebook)[self.codes]
        features[is_kept] = self.kept.dequantize()
        return self.density.dequantize(), features

    def sizes(self) -> dict[str, int]:
        return {"codewords": self.n_codewords}


def _count_kind(partition: Uint8, kind: int) -> int:
    """How many voxels are of a kind; slab by slab, as a mask of all would be as large as the partition."""
    return sum(int(np.count_nonzero(slab == kind)) for slab in partition)


def _same(a: Any, b: Any) -> bool:
    """Whether two attributes are equal: arrays, tables, tuples of them, or values."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return type(a) is type(b) and bool(np.array_equal(a, b))
    return bool(a == b)


def _expect(name: str, array: NDArray[Any], dtype: type, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name}: expected {dtype.__name__} {list(shape)}, got {array.dtype} {list(array.shape)}")


def _expect_table(name: str, table: Table, ndim: int) -> None:
    items = items_of(table)
    if items.ndim != ndim or (not isinstance(table, Quantized) and items.dtype != np.float16):
        raise ValueError(f"{name}: expected {ndim} axes of float16 or levels, got {items.ndim} of {items.dtype}")
    if not isinstance(table, Quantized) and not np.isfinite(items).all():
        raise ValueError(f"{name}: a value is not finite")


def _finite_float32(value: float) -> float:
    """The nearest float32 value. Raise ValueError if it is not finite."""
    with np.errstate(over="ignore"):
        rounded = float(np.float32(value))
    if not math.isfinite(rounded):
        raise ValueError("a constant is not finite")
    return rounded


def _check_layers(layers: tuple[tuple[Table, Table], ...], n_channels: int, equation: Equation) -> None:
    """Raise ValueError unless the layers lead from the features and the view to rgb, or there need be none."""
    if fault := shading_fault(equation.shading, len(layers), n_channels, equation.feature_frequencies):
        raise ValueError(f"color_mlp: {fault}")
    if len(layers) > MAX_LAYERS:
        raise ValueError(f"color_mlp: {len(layers)} layers, the limit is {MAX_LAYERS}")
    width = 0
    for i, (weight, bias) in enumerate(layers):
        _expect_table("color_mlp", weight, ndim=2)
        _expect_table("color_mlp", bias, ndim=1)
        n_out, n_in = items_of(weight).shape
        if not (1 <= n_in <= MAX_LAYER_SIDE and 1 <= n_out <= MAX_LAYER_SIDE) or items_of(bias).shape != (n_out,):
            raise ValueError(f"color_mlp: layer {i} has weight [{n_out},{n_in}] and bias {items_of(bias).shape}")
        if n_in != width if i else count_view_frequencies(n_in, n_channels, equation.feature_frequencies) is None:
            raise ValueError(f"color_mlp: layer {i} cannot take its {n_in} inputs")
        width = n_out
    if layers and width != 3:
        raise ValueError(f"color_mlp: ends in {width} values, expected rgb")


def canonical_json(metadata: dict[str, Any]) -> bytes:
    if not isinstance(metadata, dict):
        raise ValueError("metadata: expected a dict")
    if not _is_within(metadata, MAX_METADATA_DEPTH):
        raise ValueError(f"metadata is nested more than {MAX_METADATA_DEPTH} deep")
    try:
        text = json.dumps(metadata, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    except TypeError as error:
        raise ValueError(f"metadata: {error}") from None
    if len(text) > MAX_METADATA_BYTES:
        raise ValueError(f"metadata has {len(text)} bytes, the limit is {MAX_METADATA_BYTES}")
    return text


def _is_within(value: Any, depth: int) -> bool:
    """Whether nothing in `value` has more than `depth` objects and lists of it around."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return depth >= 0 and all(_is_within(item, depth - 1) for item in inner)
