"""Write the conformance files: `python conformance/generate.py`. Same seeds, same bytes, on every machine.

`valid/NAME.vqrf` decodes to the arrays of `valid/NAME.npz`, `truncated/NAME.vqrf` to those of `truncated/NAME.npz` where a file
that is cut off is asked for. `invalid/NAME.vqrf` is refused, with the section, offset and reason that `invalid/expected.json`
gives. FORMAT.md section 11 says what the arrays are, and any decoder may be held against them.
"""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrf.codec import bitstream, container, contents, entropy, walks
from vqrf.codec.bitstream import encode
from vqrf.codec.compressed import (
    CODED,
    KEPT,
    MAX_METADATA_DEPTH,
    PRUNED,
    Compressed,
    CompressedField,
    Quantized,
    Table,
    canonical_json,
    float_table,
)
from vqrf.codec.container import BitstreamError
from vqrf.codec.planes import PlanesField, Stack, shadows
from vqrf.codec.pyramid import MAX_MAGNITUDE, Int16, Nodes, PyramidField, build_nodes
from vqrf.geometry import Front, Lattice, Unbounded
from vqrf.kernels.constants import Activation, Equation, Shading

HERE = Path(__file__).parent
EQUATION = Equation(-8.5951, 0.5, 0.0143, 0.2, 1e-4, (1.0, 1.0, 1.0))
EMPTY_DENSITY = -3.25


def make_partition(rng: np.random.Generator, shape: tuple[int, int, int], kept: float) -> NDArray[np.uint8]:
    """A ragged shell, of which a patch on one side, with about a share `kept` of the voxels, is KEPT."""
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes)) + 0.08 * np.sin(7 * axes[0]) * np.cos(5 * axes[1])
    occupied = np.abs(radius - 0.65) < 0.13 + 0.02 * rng.standard_normal(shape)
    partition = np.where(occupied, CODED, PRUNED).astype(np.uint8)
    if occupied.any() and kept > 0:
        score = axes[2] + 0.3 * rng.standard_normal(shape)
        partition[occupied & (score > np.quantile(score[occupied], 1 - kept))] = KEPT
    return partition


def make_layers(rng: np.random.Generator, widths: list[int]) -> tuple[tuple[Table, Table], ...]:
    """Float16 layers through `widths`; none for an empty list."""
    pairs = zip(widths[1:], widths[:-1], strict=True) if widths else ()
    return tuple(
        ((0.2 * rng.standard_normal((o, i))).astype(np.float16), rng.standard_normal(o).astype(np.float16)) for o, i in pairs
    )


def quantize(values: NDArray[Any], dtype: type = np.uint8) -> Quantized:
    """Levels with a scale for each column of the last axis: enough for test data."""
    lowest, highest = values.reshape(-1, values.shape[-1]).min(0), values.reshape(-1, values.shape[-1]).max(0)
    scale = ((highest - lowest + 1e-3) / np.iinfo(dtype).max).astype(np.float32)
    levels = np.rint((values - lowest) / scale).astype(dtype)
    return Quantized(levels, scale, lowest.astype(np.float32))


def make_field(
    seed: int,
    shape: tuple[int, int, int],
    *,
    n_channels: int = 12,
    n_codewords: int = 64,
    kept: float = 0.15,
    partition: NDArray[np.uint8] | None = None,
    widths: list[int] | None = None,
    shading: Shading = "mlp",
    activation: Activation = "softplus",
    feature_frequencies: int = 0,
) -> CompressedField:
    """A field with the statistics of a trained one: a shell with smooth, noisy density and features.

    Args:
      widths: of the colour MLP, from its inputs to 3; None for inputs -> 8 -> 3.
    """
    rng = np.random.default_rng(seed)
    partition = make_partition(rng, shape, kept) if partition is None else partition
    where = np.argwhere(partition != PRUNED)
    phase = rng.uniform(0, 6, n_channels + 1)
    waves = np.sin(where @ rng.normal(0, 0.15, (3, n_channels + 1)) + phase)
    noisy = waves + 0.15 * rng.standard_normal(waves.shape)
    density = np.clip(np.rint(128 + 50 * noisy[:, 0]), 0, 255).astype(np.uint8)
    features = 5 * noisy[:, 1:]
    kind = partition[partition != PRUNED]
    codebook = (5 * np.sin(rng.uniform(0, 6, (n_codewords, n_channels)))).astype(np.float16)
    inside = features[kind == CODED]
    if len(inside):
        rows = rng.choice(len(inside), min(n_codewords, len(inside)), replace=False)
        codebook[: len(rows)] = inside[rows]
    codes = nearest(inside, codebook.astype(np.float64))
    levels = np.clip(np.rint(128 + 12 * features[kind == KEPT]), 0, 255).astype(np.uint8)
    one = np.ones(1, np.float32)
    return CompressedField(
        lattice=Lattice((-1.5, -1.0, -0.75), (1.25, 1.0, 1.1), shape),
        partition=partition,
        density=Quantized(density, 0.31 * one, -20 * one),
        codes=codes,
        codebook=codebook,
        kept=Quantized(levels, one / 12, -128 * one / 12),
        color_mlp=make_layers(rng, [n_channels * (1 + 2 * feature_frequencies) + 3 + 6, 8, 3] if widths is None else widths),
        equation=replace(EQUATION, shading=shading, activation=activation, feature_frequencies=feature_frequencies),
        empty_density=EMPTY_DENSITY,
        metadata={"generator": "vqrf conformance", "seed": seed},
    )


def nearest(values: NDArray[Any], codebook: NDArray[Any]) -> NDArray[np.int32]:
    """The row of `codebook` nearest to each of `values`."""
    codes = [np.argmin(((codebook - value) ** 2).sum(1)) for value in values]
    return np.array(codes, np.int32).reshape(len(values))


def make_pyramid(
    seed: int,
    shape: tuple[int, int, int],
    *,
    n_levels: int = 3,
    n_latents: int = 5,
    basis_of: int | None = None,
    partition: NDArray[np.uint8] | None = None,
    widths: list[int] | None = None,
    shading: Shading = "mlp",
    activation: Activation = "softplus",
) -> PyramidField:
    """A pyramid with the statistics of a tuned one: most coefficients 0, great ones rare and side by side.

    Args:
      basis_of: channels that a random basis leads to; None for no basis.
      widths: of the colour MLP, as for `make_field`.
    """
    rng = np.random.default_rng(seed)
    partition = make_partition(rng, shape, 0) if partition is None else partition
    levels = make_levels(rng, build_nodes(partition != PRUNED, n_levels), 1 + n_latents)
    basis = None if basis_of is None else rng.standard_normal((n_latents, basis_of)).astype(np.float32)
    n_channels = n_latents if basis_of is None else basis_of
    return PyramidField(
        lattice=Lattice((-1.5, -1.0, -0.75), (1.25, 1.0, 1.1), shape),
        partition=partition,
        coefficients=levels,
        steps=np.linspace(1, 0.25, 1 + n_latents, dtype=np.float32),
        basis=basis,
        color_mlp=make_layers(rng, [n_channels + 3 + 6, 8, 3] if widths is None else widths),
        equation=replace(EQUATION, shading=shading, activation=activation),
        empty_density=EMPTY_DENSITY,
        metadata={"generator": "vqrf conformance", "seed": seed},
    )


def make_levels(rng: np.random.Generator, nodes: list[Nodes], width: int) -> tuple[Int16, ...]:
    """Coefficients [N_l,width] of the levels, coarsest first, with the ends of every code among them."""
    levels = []
    for level in nodes[::-1]:
        spread = np.exp(rng.normal(-1.5, 1.5, (level.n_nodes, 1))) * np.linspace(3, 0.5, width)
        levels.append(np.rint(rng.laplace(0, 1, spread.shape) * spread).astype(np.int16))
    if levels[0].size:  # the ends of every code: counted up, and beyond
        ends = [14, -15, 16, 17, -18, 8205, MAX_MAGNITUDE, -MAX_MAGNITUDE][: levels[0].size]
        levels[0].ravel()[: len(ends)] = ends
    return tuple(levels)


def make_planes(
    seed: int,
    shape: tuple[int, int, int],
    *,
    n_levels: tuple[int, int] = (2, 1),
    components: tuple[int, int] = (2, 3),
    n_channels: int = 4,
    partition: NDArray[np.uint8] | None = None,
    mix: type | None = np.uint8,
    widths: list[int] | None = None,
    shading: Shading = "mlp",
    activation: Activation = "softplus",
) -> PlanesField:
    """Planes and lines with the statistics of tuned ones.

    Args:
      n_levels: above the finest, of the planes and of the lines.
      components: of a plane, for density and for features.
      mix: type of its levels, with a scale for each column; None for float16.
      widths: of the colour MLP, as for `make_field`.
    """
    rng = np.random.default_rng(seed)
    partition = make_partition(rng, shape, 0) if partition is None else partition
    rank = sum(components)
    stacks = [
        tuple(make_levels(rng, build_nodes(mask, n), rank) for mask in masks)
        for masks, n in zip(shadows(partition), n_levels, strict=True)
    ]
    rows = rng.standard_normal((3 * components[1], n_channels)).astype(np.float32)
    return PlanesField(
        lattice=Lattice((-1.5, -1.0, -0.75), (1.25, 1.0, 1.1), shape),
        partition=partition,
        planes=stacks[0],
        lines=stacks[1],
        plane_steps=rng.uniform(0.05, 0.2, (3, rank)).astype(np.float32),
        line_steps=rng.uniform(0.05, 0.2, (3, rank)).astype(np.float32),
        mix=rows.astype(np.float16) if mix is None else quantize(rows, mix),
        color_mlp=make_layers(rng, [n_channels + 3 + 6, 8, 3] if widths is None else widths),
        equation=replace(EQUATION, shading=shading, activation=activation),
        empty_density=EMPTY_DENSITY,
        metadata={"generator": "vqrf conformance", "seed": seed},
    )


SPACE = Front(((1.0, 0.25, 0.0, 0.5), (0.0, 1.0, -0.125, 0.0), (0.0, 0.0, 0.75, -0.5), (0.0, 0.0, 0.5, 1.0)))
"""A space of numbers that are exact, for files of version 2."""


AROUND = Unbounded(((0.5, 0.0, 0.0, -0.25), (0.0, 0.25, 0.125, 0.0), (0.0, -0.125, 0.25, 1.5), (0.0, 0.0, 0.0, 1.0)))


def in_space(field: Any, space: Front | Unbounded = SPACE) -> Any:
    return replace(field, lattice=replace(field.lattice, space=space))


def smallest_pyramid() -> PyramidField:
    """The field of the file that FORMAT.md section 10 walks through: one voxel of eight, on one level."""
    partition = np.zeros((2, 2, 2), np.uint8)
    partition[0, 1, 1] = CODED
    return PyramidField(
        lattice=Lattice((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), (2, 2, 2)),
        partition=partition,
        coefficients=(np.array([[17, 0, -1, 3]], np.int16),),
        steps=np.array([1, 0.5, 0.5, 0.5], np.float32),
        basis=None,
        color_mlp=(),
        equation=Equation(0.0, 0.5, 0.25, 0.0, 1e-4, (1.0, 1.0, 1.0)),
        empty_density=-8.0,
        metadata={},
    )


def nested(depth: int) -> dict[str, Any]:
    """Metadata in which something has so many objects and lists around."""
    value: Any = 1
    for _ in range(depth - 1):
        value = [value]
    return {"nested": value}


METADATA: dict[str, Any] = {
    "escapes": '"\\\b\f\n\r\t\0\x1f\x7f/\u00e9\u2028\ud800\U0001f600',
    "\uffee": "its key is less than the next by code points, but not by UTF-16 units",
    "\U0001f600": [True, False, None, {}, []],
    "integers": [0, -1, 2**53 + 1, -(10**30)],
    "floats": [0.0, -0.0, 0.1, 1e15, 1e16, 1e-4, 1e-5, 123456789.125, 5e-324, 1.7976931348623157e308],
    **nested(MAX_METADATA_DEPTH),
}
"""What metadata may be."""


def quantized_field() -> CompressedField:
    """Every table quantised: by column, by one scale, in bytes and in 16 bits."""
    field = make_field(2, (12, 14, 10), n_codewords=300)
    weight, bias = (np.asarray(table, np.float32) for table in field.color_mlp[0])
    one = np.ones(1, np.float32)
    layers = (
        (quantize(weight, np.uint16), quantize(bias)),
        tuple(Quantized(quantize(np.float32(t)).levels, one, -one) for t in field.color_mlp[1]),
    )
    kept = Quantized(field.kept.levels, np.linspace(0.1, 0.2, 12, dtype=np.float32), np.zeros(12, np.float32))
    return replace(field, codebook=quantize(np.float32(field.codebook)), kept=kept, color_mlp=layers)


def valid_fields() -> dict[str, CompressedField]:
    """The fields of the valid files, by name."""
    tiny = (2, 3, 5)
    whole = {kind: np.full(tiny, kind, np.uint8) for kind in (PRUNED, CODED, KEPT)}
    wide = make_field(7, (9, 8, 7), n_channels=1, n_codewords=3, kept=0)
    book = Quantized((np.arange(65536) // 512).astype(np.uint8)[:, None], wide.kept.scale, wide.kept.offset)
    rows = (wide.codes * 21845 + 11).astype(np.int32)
    return {
        "shell": make_field(1, (26, 30, 22), n_codewords=128),
        "quantized": quantized_field(),
        "all_pruned": make_field(3, tiny, n_channels=3, n_codewords=1, partition=whole[PRUNED], widths=[]),
        "all_coded": make_field(4, tiny, n_codewords=3, partition=whole[CODED]),
        "all_kept": make_field(5, tiny, n_codewords=1, partition=whole[KEPT]),
        "one_codeword": make_field(6, (7, 6, 5), n_codewords=1),
        "widest_codebook": replace(wide, codebook=book, codes=rows),
        "harmonics1": make_field(9, (6, 9, 7), n_codewords=16, widths=[], shading="sh"),
        "harmonics2": make_field(10, (7, 5, 6), n_channels=27, n_codewords=9, widths=[], shading="sh"),
        "plenoxels": make_field(11, (6, 8, 7), n_channels=27, n_codewords=12, widths=[], shading="sh_relu", activation="relu"),
        "frequencies": make_field(12, (6, 8, 7), n_channels=27, n_codewords=12, feature_frequencies=2),
        "codewords_256": make_field(13, (9, 8, 10), n_channels=3, n_codewords=256, widths=[]),
        "metadata": replace(make_field(14, (4, 4, 4), n_channels=3, n_codewords=2, widths=[]), metadata=METADATA),
        "front": in_space(make_field(15, (9, 8, 7), n_codewords=20)),
        "unbounded": in_space(make_field(16, (8, 7, 9), n_codewords=20), AROUND),
        "no_metadata": replace(make_field(8, (4, 4, 4), n_channels=3, widths=[]), metadata={}),
    }


def valid_pyramids() -> dict[str, PyramidField]:
    """The pyramids of the valid files, by name."""
    tiny = (2, 3, 5)
    whole = {kind: np.full(tiny, kind, np.uint8) for kind in (PRUNED, CODED)}
    relu: dict[str, Any] = {"shading": "sh_relu", "activation": "relu"}
    return {
        "pyramid": make_pyramid(21, (22, 26, 18)),
        "pyramid_flat": make_pyramid(22, (9, 8, 7), n_levels=0),
        "pyramid_harmonics": make_pyramid(23, (6, 9, 7), n_levels=2, n_latents=4, basis_of=12, widths=[], shading="sh"),
        "pyramid_plenoxels": make_pyramid(24, (7, 6, 8), n_levels=1, n_latents=6, basis_of=27, widths=[], **relu),
        "pyramid_all_pruned": make_pyramid(25, tiny, n_levels=2, n_latents=3, partition=whole[PRUNED], widths=[]),
        "pyramid_all_coded": make_pyramid(26, tiny, n_levels=8, n_latents=3, partition=whole[CODED], widths=[]),
        "pyramid_front": in_space(make_pyramid(27, (8, 9, 7), n_levels=1)),
        "pyramid_unbounded": in_space(make_pyramid(28, (9, 7, 8), n_levels=1), AROUND),
        "pyramid_smallest": smallest_pyramid(),
    }


def valid_planes() -> dict[str, PlanesField]:
    """The planes and lines of the valid files, by name."""
    tiny = (2, 3, 5)
    whole = {kind: np.full(tiny, kind, np.uint8) for kind in (PRUNED, CODED)}
    relu: dict[str, Any] = {"shading": "sh_relu", "activation": "relu"}
    return {
        "planes": make_planes(31, (14, 17, 11)),
        "planes_flat": make_planes(32, (9, 8, 7), n_levels=(0, 0), mix=np.uint16),
        "planes_harmonics": make_planes(33, (6, 9, 7), n_levels=(1, 3), n_channels=12, mix=None, widths=[], shading="sh"),
        "planes_plenoxels": make_planes(34, (7, 6, 8), components=(3, 1), n_channels=27, widths=[], **relu),
        "planes_all_pruned": make_planes(35, tiny, n_channels=3, partition=whole[PRUNED], widths=[]),
        "planes_all_coded": make_planes(
            36, tiny, n_levels=(8, 8), components=(1, 1), n_channels=3, partition=whole[CODED], widths=[]
        ),
        "planes_widest": make_planes(37, (4, 4, 4), n_levels=(1, 1), components=(256, 1), n_channels=3, widths=[]),
    }


def sums_of(mask: NDArray[np.bool_], levels: tuple[Int16, ...], steps: NDArray[np.float32]) -> dict[Any, NDArray[np.float64]]:
    """What the coefficients over a mask add up to, by FORMAT.md section 4, place by place and in float64."""
    shapes = [mask.shape]
    for _ in levels[1:]:
        shapes.insert(0, tuple(side // 2 + 1 for side in shapes[0]))
    above: dict[Any, NDArray[np.float64]] = {}
    for shape, level, nodes in zip(shapes, levels, build_nodes(mask, len(levels) - 1)[::-1], strict=True):
        assert nodes.selected.shape == shape
        values = {}
        for place, row in zip(np.argwhere(nodes.selected).tolist(), level * steps.astype(np.float64), strict=True):
            parents = [tuple((i + b) // 2 for i, b in zip(place, p, strict=True)) for p in np.ndindex(2, 2, 2)]
            values[tuple(place)] = row + sum(above[parent] for parent in parents) / 8 if above else row
        above = values
    return above


def values_of(field: PyramidField) -> dict[str, NDArray[np.float32]]:
    """What a pyramid's coefficients are worth at its voxels."""
    sums = sums_of(field.partition != PRUNED, field.coefficients, field.steps)
    rows = np.array(list(sums.values())).reshape(len(sums), len(field.steps))
    features = rows[:, 1:] if field.basis is None else rows[:, 1:] @ field.basis.astype(np.float64)
    return {"density": rows[:, 0].astype(np.float32), "features": features.astype(np.float32)}


def values_of_planes(field: PlanesField) -> dict[str, NDArray[np.float32]]:
    """What planes and lines are worth at the voxels, by FORMAT.md section 12, voxel by voxel and in float64."""
    planes, lines = (
        [sums_of(mask, *of_one) for mask, *of_one in zip(masks, stacks, steps, strict=True)]
        for masks, stacks, steps in zip(
            shadows(field.partition), (field.planes, field.lines), (field.plane_steps, field.line_steps), strict=True
        )
    )
    mix = np.asarray(float_table(field.mix), np.float64).reshape(3, -1, field.n_channels)
    n_density = field.n_components - mix.shape[1]
    density, features = [], []
    for place in np.argwhere(field.partition).tolist():
        products = [
            planes[p][place[a], place[b], 0] * lines[p][place[c], 0, 0]
            for p, (a, b, c) in enumerate(((0, 1, 2), (0, 2, 1), (1, 2, 0)))
        ]
        density.append(sum(product[:n_density].sum() for product in products))
        features.append(sum(product[n_density:] @ rows for product, rows in zip(products, mix, strict=True)))
    n = len(density)
    return {"density": np.float32(density).reshape(n), "features": np.float32(features).reshape(n, field.n_channels)}


def joined(stacks: tuple[Stack, ...], kind: str) -> dict[str, NDArray[np.int16]]:
    """The levels of three planes, or of three lines, one after the other as in the file."""
    levels = [np.concatenate(of_all) for of_all in zip(*stacks, strict=True)]
    return {f"{kind}{number}": level for number, level in enumerate(levels[::-1])}


def arrays_of(field: Compressed) -> dict[str, NDArray[Any]]:
    """What a decoder is expected to give: FORMAT.md section 11."""
    out: dict[str, NDArray[Any]] = {
        "lo": np.array(field.lattice.lo),
        "hi": np.array(field.lattice.hi),
        "constants": np.array([field.empty_density, *field.equation.numbers()], np.float32),
        "metadata": np.frombuffer(canonical_json(field.metadata), np.uint8),
        "partition": field.partition,
        "shading": np.array([contents.number_of_shading(field)], np.uint16),
        "activation": np.array([contents.ACTIVATIONS.index(field.equation.activation)], np.uint16),
    }
    if field.equation.feature_frequencies:
        out["feature_frequencies"] = np.array([field.equation.feature_frequencies], np.uint16)
    if field.lattice.space is not None:
        out["space"] = np.array(field.lattice.space.matrix)
        if isinstance(field.lattice.space, Unbounded):
            out["space_number"] = np.array([2], np.uint16)
    tables: dict[str, Table] = {}
    if isinstance(field, PyramidField):
        out |= {f"LEV{number}": level for number, level in enumerate(field.coefficients[::-1])}
        out |= values_of(field)
        out |= {"steps": field.steps} if field.basis is None else {"steps": field.steps, "basis": field.basis}
    elif isinstance(field, PlanesField):
        out |= joined(field.planes, "PLN") | joined(field.lines, "LIN") | values_of_planes(field)
        out |= {"plane_steps": field.plane_steps, "line_steps": field.line_steps}
        tables = {"mix": field.mix}
    elif isinstance(field, CompressedField):
        out["codes"] = field.codes
        tables = {"density": field.density, "codebook": field.codebook, "kept": field.kept}
    for i, (weight, bias) in enumerate(field.color_mlp):
        tables |= {f"weight{i}": weight, f"bias{i}": bias}
    for name, table in tables.items():
        if isinstance(table, Quantized):
            out[f"{name}_levels"], out[name] = table.levels, table.dequantize()
        else:
            out[name] = table
    return out


# ------------------------------------------------------------------------------------------ bad files


def split(data: bytes) -> list[tuple[bytes, bytes]]:
    """(row of the section table, bytes) of each section."""
    parts = container.sections(data)[1:]
    rows = [data[32 + 32 * i : 64 + 32 * i] for i in range(len(parts))]
    return [(row, data[offset : offset + size]) for row, (_, offset, size) in zip(rows, parts, strict=True)]


def seal(parts: list[tuple[bytes, bytes]]) -> bytes:
    """A file of the sections with every length and checksum right, whatever is in them."""
    table = b""
    for row, body in parts:
        raw = len(body) if row[6:8] == b"\0\0" else struct.unpack("<Q", row[16:24])[0]
        table += row[:8] + struct.pack("<QQI", len(body), raw, zlib.crc32(body)) + row[28:]
    total = 32 + len(table) + sum(len(body) for _, body in parts)
    names = {row[:4] for row, _ in parts if row[4]}
    version = container.SPACE_VERSION if b"SPAC" in names else container.VERSION
    version = container.PLANES_VERSION if b"PLAN" in names else version
    start = container.SIGNATURE + struct.pack("<HHIQI", *version, len(parts), total, 0)
    return start + struct.pack("<I", zlib.crc32(start + table)) + table + b"".join(body for _, body in parts)


def edit(data: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """The file with the bytes of one section changed and the checksums made right again."""
    return seal([(row, change(body) if row[:4] == name.encode() else body) for row, body in split(data)])


def other_end(stream: bytes) -> bytes:
    """The same symbols, by a number of the last interval that is not its lower end."""
    return stream[:-1] + bytes([stream[-1] + 1])


def edit_rows(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The file with the rows of its table changed, lengths and checksums of the sections as they were."""
    table = b"".join(change(row) for row, _ in split(data))
    return data[:28] + struct.pack("<I", zlib.crc32(data[:28] + table)) + table + data[32 + len(table) :]


def put(at: int, layout: str, *values: float) -> Callable[[bytes], bytes]:
    """Overwrite the bytes from `at`."""
    new = struct.pack("<" + layout, *values)
    return lambda body: body[:at] + new + body[at + len(new) :]


def put_row(name: str, at: int, layout: str, *values: float) -> Callable[[bytes], bytes]:
    """Overwrite bytes of one row of the section table."""
    return lambda row: put(at, layout, *values)(row) if row[:4] == name.encode() else row


def with_header(data: bytes, at: int, layout: str, *values: float) -> bytes:
    """Overwrite bytes of the header and correct its checksum."""
    data = put(at, layout, *values)(data)
    end = 32 + 32 * struct.unpack("<I", data[12:16])[0]
    return put(28, "I", zlib.crc32(data[:28] + data[32:end]))(data)


def empty_block() -> bytes:
    """The partition of a 2x3x5 lattice whose two blocks are marked as occupied, the second in vain."""
    coder = entropy.Encoder(walks.PARTITION_CONTEXTS)
    flags, voxels = walks.Border((1, 1, 2)), walks.Border((2, 3, 5))
    for z in range(2):
        coder.bit(flags.occupancy_context(flags.row(0, 0) + z), 1)
        flags.values[flags.row(0, 0) + z] = 1
    for x, y, z in np.ndindex(2, 3, 5):
        at, occupied = voxels.row(x, y) + z, z < 4
        coder.bit(walks.BLOCK_CONTEXTS + voxels.occupancy_context(at), int(occupied))
        if occupied:
            coder.bit(2 * walks.BLOCK_CONTEXTS + voxels.split_context(at), 0)
            voxels.values[at] = CODED
    return coder.finish()


def bad_containers(good: bytes) -> dict[str, tuple[str, str, bytes]]:
    """Files whose header or section table is wrong: name -> (section, part of the reason, bytes)."""
    parts = split(good)
    critical = (b"XTRA" + struct.pack("<HHQQII", 1, 0, 0, 0, 0, 0), b"more")
    return {
        "empty": ("header", "truncated", b""),
        "text": ("header", "not a .vqrf file", b"<!doctype html>\n"),
        "newline_damage": ("header", "not a .vqrf file", good.replace(b"\r\n", b"\n")),
        "short_header": ("header", "truncated", good[:31]),
        "short_table": ("header", "truncated", good[:40]),
        "short_section": ("CODE", "truncated", good[: -len(parts[-1][1]) - 2]),
        "trailing_byte": ("end", "1 trailing bytes", good + b"\0"),
        "older_version": ("header", "version 0.1", put(8, "HH", 0, 1)(good)),
        "draft_version": ("header", "version 0.3", put(8, "HH", 0, 3)(good)),
        "newer_version": ("header", "version 7.1", put(8, "HH", 7, 1)(good)),
        "no_sections": ("header", "section count 0", put(12, "I", 0)(good)),
        "many_sections": ("header", "section count 65", put(12, "I", 65)(good)),
        "header_checksum": ("header", "checksum", put(28, "I", 0)(good)),
        "header_reserved": ("header", "reserved", with_header(good, 24, "I", 1)),
        "length_too_great": ("header", "sum of its parts", with_header(good, 16, "Q", len(good) + 1)),
        "length_overflow": ("header", "sum", edit_rows(good, put_row("DENS", 8, "Q", 2**64 - 8))),
        "section_checksum": ("KEPT", "checksum", good[:-1] + bytes([good[-1] ^ 1])),
        "unknown_checksum": ("XTRA", "checksum", ancillary(good).replace(b"whatever", b"whichever"[1:])),
        "unknown_critical": ("XTRA", "unknown critical", seal([*parts, critical])),
        "name_not_ascii": ("header", "four capital letters", edit_rows(good, put_row("META", 0, "I", 7))),
        "twice": ("KEPT", "twice or out of order", seal([*parts, parts[-1]])),
        "out_of_order": ("DENS", "out of order", seal([*parts[:5], parts[6], parts[5], parts[7]])),
        "missing": ("PART", "missing", seal(parts[:4] + parts[5:])),
        "flags": ("BOOK", "flags are 3", edit_rows(good, put_row("BOOK", 4, "H", 3))),
        "method": ("BOOK", "method 2", edit_rows(good, put_row("BOOK", 6, "H", 2))),
        "row_reserved": ("CODE", "reserved", edit_rows(good, put_row("CODE", 28, "I", 9))),
        "stored_raw_length": ("HEAD", "stored length", edit_rows(good, put_row("HEAD", 16, "Q", 1))),
        "ratio": ("PART", "too great for", edit_rows(good, put_row("PART", 16, "Q", 1 << 30))),
        "over_budget": ("CODE", "more than the limit", edit_rows(good, put_row("CODE", 16, "Q", 1 << 40))),
        "raw_length": ("DENS", "raw length is 7", edit_rows(good, put_row("DENS", 16, "Q", 7))),
    }


def bad_sections(good: bytes, logits: bytes, encoded: bytes, narrow: bytes) -> dict[str, tuple[str, str, bytes]]:
    """Files with all lengths and checksums right and something else wrong.

    Args:
      logits: a good file without layers.
      encoded: one with frequencies of the features.
      narrow: one with a single channel.
    """
    nan = float("nan")
    partition = np.full((2, 3, 5), CODED, np.uint8)
    too_high = walks.encode_codes(partition, 4, np.full(30, 3, np.int32))
    too_deep = json.dumps(nested(MAX_METADATA_DEPTH + 1), separators=(",", ":")).encode()
    infinite = walks.encode_tables([np.full((3, 12), 0x7C00, np.uint16)], True)
    no_layers = struct.pack("<HH", 0, 0) + bytes(4)
    return {
        "bomb": ("HEAD", "voxels, the limit", edit(good, "HEAD", put(48, "3I", 4096, 4096, 4096))),
        "voxels_many": ("HEAD", "voxels, the limit", edit(good, "HEAD", put(48, "3I", 2049, 1024, 1024))),
        "side_of_one": ("HEAD", "side 1 is outside", edit(good, "HEAD", put(52, "I", 1))),
        "side_too_great": ("HEAD", "side 4097", edit(good, "HEAD", put(48, "I", 4097))),
        "no_channels": ("HEAD", "channel count 0", edit(good, "HEAD", put(60, "I", 0))),
        "no_codebook": ("BOOK", "does not belong", edit(good, "HEAD", put(64, "I", 0))),
        "codebook_too_great": ("HEAD", "codebook size 65537", edit(good, "HEAD", put(64, "I", 65537))),
        "too_many_values": ("HEAD", "more voxels", edit(good, "HEAD", put(68, "2I", 2**32 - 1, 2**32 - 1))),
        "head_size": ("HEAD", "expected 116", edit(good, "HEAD", lambda body: body + b"\0")),
        "working_memory": ("HEAD", "decoding takes more", with_wide_planes(good)),
        "bounds_nan": ("HEAD", "bounds", edit(good, "HEAD", put(0, "d", nan))),
        "bounds_reversed": ("HEAD", "bounds", edit(good, "HEAD", put(0, "d", 99.0))),
        "constant_nan": ("HEAD", "a constant", edit(good, "HEAD", put(76, "f", nan))),
        "activation_unknown": ("HEAD", "activation 2", edit(good, "HEAD", put(112, "I", 2))),
        "step_zero": ("HEAD", "step_world", edit(good, "HEAD", put(88, "f", 0.0))),
        "metadata_no_json": ("META", "canonical JSON", edit(good, "META", lambda body: b"{")),
        "metadata_spaces": ("META", "canonical JSON", edit(good, "META", lambda body: b'{"a": 1}')),
        "metadata_twice": ("META", "canonical JSON", edit(good, "META", lambda body: b'{"a":1,"a":1}')),
        "metadata_list": ("META", "canonical JSON", edit(good, "META", lambda body: b"[1]")),
        "metadata_deep": ("META", "canonical JSON", edit(good, "META", lambda body: b"[" * 9000)),
        "metadata_nested": ("META", "canonical JSON", edit(good, "META", lambda body: too_deep)),
        "metadata_empty": ("META", "canonical JSON", edit(good, "META", lambda body: b"{}")),
        "metadata_order": ("META", "canonical JSON", edit(good, "META", lambda body: b'{"\\ud83d\\ude00":1,"\\uffee":2}')),
        "metadata_hex": ("META", "canonical JSON", edit(good, "META", lambda body: b'{"a":"\\u00E9"}')),
        "metadata_escape": ("META", "canonical JSON", edit(good, "META", lambda body: b'{"a":"\\u000a"}')),
        "metadata_delete": ("META", "canonical JSON", edit(good, "META", lambda body: b'{"a":"\x7f"}')),
        "metadata_number": ("META", "canonical JSON", edit(good, "META", lambda body: b'{"a":1e5}')),
        "metadata_digits": ("META", "canonical JSON", edit(good, "META", lambda body: b'{"a":' + b"1" * 4301 + b"}")),
        "scale_nan": ("DENS", "not finite", edit(good, "DENS", put(4, "f", nan))),
        "density_reserved": ("DENS", "reserved", edit(good, "DENS", put(2, "H", 1))),
        "density_is_float": ("DENS", "levels of voxels", edit(good, "DENS", put(0, "BB", 0, 0))),
        "density_by_column": ("DENS", "mode 2", edit(good, "DENS", put(0, "BB", 1, 2))),
        "scales_of_one_column": ("KEPT", "mode 2", edit(narrow, "KEPT", put(0, "BB", 1, 2))),
        "table_type": ("BOOK", "type 3", edit(good, "BOOK", put(0, "BB", 3, 1))),
        "table_cut": ("KEPT", "own header", edit(good, "KEPT", lambda body: body[:9])),
        "float_infinite": ("BOOK", "not finite", edit(good, "BOOK", lambda body: body[:4] + infinite)),
        "layers_missing": ("COLR", "3 channels", edit(good, "COLR", lambda body: no_layers)),
        "shading_unknown": ("COLR", "shading 7", edit(good, "COLR", put(2, "H", 7))),
        "harmonics_with_layers": ("COLR", "have no layers", edit(good, "COLR", put(2, "H", 1))),
        "harmonics_of_no_degree": ("COLR", "have 12 or 27 channels", edit(logits, "COLR", put(2, "H", 1))),
        "frequencies_none": ("COLR", "without one", edit(encoded, "COLR", put(4, "H", 0))),
        "frequencies_many": ("COLR", "11 feature frequencies", edit(encoded, "COLR", put(4, "H", 11))),
        "frequencies_reserved": ("COLR", "reserved", edit(encoded, "COLR", put(6, "H", 1))),
        "frequencies_without_layers": (
            "COLR",
            "without layers",
            edit(logits, "COLR", lambda _: struct.pack("<4H", 0, 3, 2, 0) + bytes(4)),
        ),
        "frequencies_others": ("COLR", "features to rgb", edit(encoded, "COLR", put(4, "H", 3))),
        "layers_many": ("COLR", "17 layers", edit(good, "COLR", put(0, "H", 17))),
        "layers_wide": ("COLR", "layer side 4097", edit(good, "COLR", put(4, "I", 4097))),
        "layers_apart": ("COLR", "features to rgb", edit(good, "COLR", put(8, "I", 22))),
        "block_empty": ("PART", "occupied is empty", edit(good, "PART", lambda body: empty_block())),
        "counts": ("PART", "the head says 29 and 1", edit_counts(good)),
        "stream_short": ("CODE", "damaged", edit(good, "CODE", lambda body: body[:-1])),
        "stream_long": ("CODE", "damaged", edit(good, "CODE", lambda body: body + b"\0")),
        "stream_other_end": ("PART", "damaged", edit(good, "PART", other_end)),
        "stream_of_ones": ("CODE", "damaged", edit(good, "CODE", lambda body: b"\xff" * len(body))),
        "stream_empty": ("CODE", "damaged", edit(good, "CODE", lambda body: b"")),
        "code_too_high": ("CODE", "codebook size", edit(good, "CODE", lambda body: too_high)),
    }


def bad_spaces(good: bytes, box: bytes) -> dict[str, tuple[str, str, bytes]]:
    """Files of version 2 with something wrong in their space.

    Args:
      good: a file of version 2.
      box: one of version 1.
    """
    parts = split(good)
    return {
        "space_size": ("SPAC", "expected 132", edit(good, "SPAC", lambda body: body + b"\0")),
        "space_unknown": ("SPAC", "space 3", edit(good, "SPAC", put(0, "H", 3))),
        "space_not_affine": ("SPAC", "not affine", edit(good, "SPAC", put(0, "H", 2))),
        "space_reserved": ("SPAC", "reserved", edit(good, "SPAC", put(2, "H", 1))),
        "space_infinite": ("SPAC", "not finite", edit(good, "SPAC", put(124, "d", float("inf")))),
        "space_missing": ("SPAC", "missing", with_header(box, 8, "H", 2)),
        "space_in_version_1": ("SPAC", "unknown critical", with_header(good, 8, "H", 1)),
        "space_out_of_order": ("HEAD", "out of order", seal([parts[1], parts[0], *parts[2:]])),
        "space_flags": ("SPAC", "flags are 3", edit_rows(good, put_row("SPAC", 4, "H", 3))),
        "space_raw_length": ("SPAC", "stored length", edit_rows(good, put_row("SPAC", 16, "Q", 1))),
    }


class Insisting(entropy.Encoder):
    """An encoder that says of a node with nothing around that a latent differs from 0, whether one does or not."""

    def bit(self, context: int, value: int) -> int:
        return super().bit(context, 1 if context == 0 else value)


def latents_in_vain() -> bytes:
    """LEV0 of a pyramid like the smallest, whose node has latents, all of them 0."""
    field = smallest_pyramid()
    coder = Insisting(walks.level_contexts(4))
    with contextlib.suppress(entropy.Damaged):
        walks.code_level(coder, field.nodes()[0], None, np.array([[17, 0, 0, 0]], np.int16))
    return coder.finish()


def bad_pyramids(good: bytes, codebook: bytes, smallest: bytes) -> dict[str, tuple[str, str, bytes]]:
    """Files of pyramids with something wrong.

    Args:
      good: a pyramid of levels 8 to 0 without a basis.
      codebook: a good file of the other kind.
      smallest: that of `smallest_pyramid`.
    """
    parts, other = split(good), {row[:4]: (row, body) for row, body in split(codebook)}
    levels = parts[-9:]
    two_lengths = lambda row: put_row("LEV3", 16, "Q", 66)(put_row("LEV1", 16, "Q", 66)(row))  # noqa: E731
    some_nan = struct.pack("<HH4f9f", 3, 1, *[1.0] * 4, *[float("nan")] * 9)
    return {
        "pyramid_with_codes": ("CODE", "does not belong", seal([*parts[:5], other[b"CODE"], *levels])),
        "pyramid_with_codebook": ("BOOK", "does not belong", seal([*parts[:3], other[b"BOOK"], *parts[3:]])),
        "codebook_with_level": ("LEV0", "does not belong", seal([*split(codebook), levels[-1]])),
        "codebook_with_steps": ("STEP", "does not belong", seal([*split(codebook)[:4], parts[3], *split(codebook)[4:]])),
        "pyramid_with_codes_for_steps": ("STEP", "missing", seal([*parts[:3], *parts[4:5], other[b"CODE"], *levels])),
        "pyramid_without_steps": ("STEP", "missing", seal([*parts[:3], *parts[4:]])),
        "pyramid_without_levels": ("LEV0", "missing", seal(parts[:-9])),
        "pyramid_level_missing": ("LEV8", "does not belong", seal([*parts[:-3], *parts[-2:]])),
        "pyramid_finest_missing": ("LEV8", "does not belong", seal(parts[:-1])),
        "pyramid_level_order": ("LEV8", "out of order", seal([*parts[:5], levels[1], levels[0], *levels[2:]])),
        "pyramid_keeps": ("HEAD", "keeps no voxels", edit(good, "HEAD", put(68, "2I", 29, 1))),
        "pyramid_counts": ("PART", "the head says 29 and 0", with_fewer(good)),
        "pyramid_working_memory": ("HEAD", "decoding takes more", with_great_levels(good)),
        "latents_none": ("STEP", "latent count 0", edit(good, "STEP", put(0, "H", 0))),
        "latents_many": ("STEP", "latent count 65", edit(good, "STEP", put(0, "H", 65))),
        "latents_without_basis": ("STEP", "do not lead", edit(good, "STEP", put(0, "H", 2))),
        "basis_flag": ("STEP", "do not lead", edit(good, "STEP", put(2, "H", 2))),
        "basis_missing": ("STEP", "bytes of steps and basis", edit(good, "STEP", put(2, "H", 1))),
        "basis_nan": ("STEP", "not finite", edit(good, "STEP", lambda body: some_nan)),
        "steps_short": ("STEP", "bytes of steps and basis", edit(good, "STEP", lambda body: body[:-4])),
        "steps_cut": ("STEP", "own header", edit(good, "STEP", lambda body: body[:3])),
        "steps_zero": ("STEP", "not positive", edit(good, "STEP", put(8, "f", 0.0))),
        "steps_negative": ("STEP", "not positive", edit(good, "STEP", put(4, "f", -1.0))),
        "steps_infinite": ("STEP", "not finite", edit(good, "STEP", put(4, "f", float("inf")))),
        "level_raw_length": ("LEV0", "raw length is 238", edit_rows(good, put_row("LEV0", 16, "Q", 238))),
        "level_raw_length_above": ("LEV3", "raw length is 66", edit_rows(good, put_row("LEV3", 16, "Q", 66))),
        "level_raw_lengths": ("LEV3", "raw length is 66", edit_rows(good, two_lengths)),
        "level_latents_none": ("LEV0", "damaged", edit(smallest, "LEV0", lambda body: latents_in_vain())),
        "level_other_end": ("LEV0", "damaged", edit(smallest, "LEV0", other_end)),
        "level_short": ("LEV2", "damaged", edit(good, "LEV2", lambda body: body[:-1])),
        "level_long": ("LEV0", "damaged", edit(good, "LEV0", lambda body: body + b"\0")),
        "level_empty": ("LEV8", "damaged", edit(good, "LEV8", lambda body: b"")),
        "level_of_ones": ("LEV1", "damaged", edit(good, "LEV1", lambda body: b"\xff" * len(body))),
        "pyramid_cut_off": ("LEV0", "truncated", good[:-5]),
        "pyramid_cut_off_early": ("LEV8", "truncated", good[: 1 - sum(len(body) for _, body in levels)]),
        "pyramid_trailing_byte": ("end", "1 trailing bytes", good + b"\0"),
    }


def bad_planes(good: bytes, pyramid: bytes) -> dict[str, tuple[str, str, bytes]]:
    """Files of planes and lines with something wrong.

    Args:
      good: one of 30 voxels, levels 8 to 0 of both, and a component of density and one of features.
      pyramid: a good file of another kind.
    """
    parts, other = split(good), {row[:4]: (row, body) for row, body in split(pyramid)}
    planes, lines = parts[-18:-9], parts[-9:]
    nan, infinite = float("nan"), float("inf")
    return {
        "planes_with_steps": ("STEP", "unknown critical", seal([*parts[:3], other[b"STEP"], *parts[3:]])),
        "planes_with_level": ("LEV0", "unknown critical", seal([*parts, other[b"LEV0"]])),
        "planes_in_version_1": ("PLAN", "unknown critical", with_header(good, 8, "H", 1)),
        "planes_in_version_2": ("PLAN", "unknown critical", with_header(good, 8, "H", 2)),
        "pyramid_in_version_3": ("STEP", "unknown critical", with_header(pyramid, 8, "H", 3)),
        "planes_with_codebook": ("HEAD", "no codebook", edit(good, "HEAD", put(64, "I", 5))),
        "planes_keep": ("HEAD", "keeps no voxels", edit(good, "HEAD", put(68, "2I", 29, 1))),
        "planes_counts": ("PART", "the head says 29 and 0", edit(good, "HEAD", put(68, "I", 29))),
        "planes_working_memory": ("HEAD", "decoding takes more", with_great_shadows(good)),
        "planes_without_plan": ("PLAN", "missing", with_header(seal([*parts[:3], *parts[4:]]), 8, "H", 3)),
        "planes_without_mix": ("MIXT", "missing", seal([*parts[:4], *parts[5:]])),
        "planes_without_planes": ("PLN0", "missing", seal([*parts[:-18], *lines])),
        "planes_without_lines": ("LIN0", "missing", seal(parts[:-9])),
        "planes_level_missing": ("PLN8", "does not belong", seal([*parts[:-12], *parts[-11:]])),
        "planes_finest_line_missing": ("LIN8", "does not belong", seal(parts[:-1])),
        "planes_level_order": ("PLN8", "out of order", seal([*parts[:-18], planes[1], planes[0], *planes[2:], *lines])),
        "planes_after_lines": ("PLN8", "out of order", seal([*parts[:-18], *lines, *planes])),
        "plan_cut": ("PLAN", "own header", edit(good, "PLAN", lambda body: body[:3])),
        "plan_short": ("PLAN", "bytes of steps", edit(good, "PLAN", lambda body: body[:-4])),
        "plan_flags": ("PLAN", "flags are 0", edit_rows(good, put_row("PLAN", 4, "H", 0))),
        "plan_method": ("PLAN", "method 1", edit_rows(good, put_row("PLAN", 6, "H", 1))),
        "components_none": ("PLAN", "0 and 1 components", edit(good, "PLAN", put(0, "H", 0))),
        "components_many": ("PLAN", "1 and 257 components", edit(good, "PLAN", put(2, "H", 257))),
        "plane_step_zero": ("PLAN", "a step is not", edit(good, "PLAN", put(4, "f", 0.0))),
        "plane_step_nan": ("PLAN", "a step is not", edit(good, "PLAN", put(8, "f", nan))),
        "line_step_infinite": ("PLAN", "a step is not", edit(good, "PLAN", put(48, "f", infinite))),
        "mix_type": ("MIXT", "type 3", edit(good, "MIXT", put(0, "BB", 3, 1))),
        "mix_mode": ("MIXT", "mode 0", edit(good, "MIXT", put(0, "BB", 1, 0))),
        "mix_reserved": ("MIXT", "reserved", edit(good, "MIXT", put(2, "H", 1))),
        "mix_raw_length": ("MIXT", "raw length is 18", edit_rows(good, put_row("MIXT", 16, "Q", 18))),
        "planes_raw_length": ("PLN0", "raw length is", edit_rows(good, put_row("PLN0", 16, "Q", 126))),
        "lines_raw_length": ("LIN3", "raw length is", edit_rows(good, put_row("LIN3", 16, "Q", 6))),
        "planes_short": ("PLN2", "damaged", edit(good, "PLN2", lambda body: body[:-1])),
        "planes_long": ("PLN0", "damaged", edit(good, "PLN0", lambda body: body + b"\0")),
        "lines_empty": ("LIN8", "damaged", edit(good, "LIN8", lambda body: b"")),
        "lines_of_ones": ("LIN1", "damaged", edit(good, "LIN1", lambda body: b"\xff" * len(body))),
        "lines_other_end": ("LIN0", "damaged", edit(good, "LIN0", other_end)),
        "planes_cut_off": ("LIN0", "truncated", good[:-2]),
        "planes_trailing_byte": ("end", "1 trailing bytes", good + b"\0"),
    }


def with_great_shadows(good: bytes) -> bytes:
    """A lattice whose arrays fit into 1 GiB, but not with the shadows of its voxels."""
    data = edit(good, "HEAD", put(48, "3I", 8, 4096, 4096))
    data = edit(data, "PART", lambda body: bytes(2048))
    data = edit(data, "PLN0", lambda body: bytes(2048))
    return edit_rows(data, lambda row: put_row("PLN0", 16, "Q", 3 << 28)(put_row("PART", 16, "Q", 8 * 4096 * 4096)(row)))


def with_fewer(good: bytes) -> bytes:
    """The head says that 29 of the 30 voxels are CODED, and the length of the finest level agrees with it."""
    return edit_rows(edit(good, "HEAD", put(68, "I", 29)), put_row("LEV0", 16, "Q", 2 * 29 * 4))


def with_great_levels(good: bytes) -> bytes:
    """A lattice whose arrays fit into 1 GiB, but not with the levels that hang above it."""
    data = edit(good, "HEAD", put(48, "3I", 1000, 1000, 1000))
    data = edit(data, "PART", lambda body: bytes(2048))
    return edit_rows(data, put_row("PART", 16, "Q", 1000**3))


def edit_counts(good: bytes) -> bytes:
    """The head says that one of the 30 CODED voxels is KEPT, and the lengths agree with it."""
    data = edit(good, "HEAD", put(68, "2I", 29, 1))
    data = edit_rows(data, put_row("CODE", 16, "Q", 4 * 29))
    return edit_rows(data, put_row("KEPT", 16, "Q", 12))


def with_wide_planes(good: bytes) -> bytes:
    """A lattice whose arrays fit into 1 GiB, but not with the working memory that its planes ask for."""
    data = edit(good, "HEAD", put(48, "3I", 40, 4096, 4096))
    data = edit(data, "PART", lambda body: bytes(2048))
    return edit_rows(data, put_row("PART", 16, "Q", 40 * 4096 * 4096))


def ancillary(data: bytes) -> bytes:
    """The file with a section that nobody knows and anybody may skip."""
    parts = split(data)
    extra = (b"XTRA" + struct.pack("<HHQQII", 0, 9, 0, 5, 0, 77), b"whatever")
    return seal([parts[0], extra, *parts[1:]])


def space_to_skip(data: bytes) -> bytes:
    """The file of version 1 with a section that only version 2 knows, and anybody may skip."""
    parts = split(data)
    return seal([parts[0], (b"SPAC" + struct.pack("<HHQQII", 0, 9, 0, 5, 0, 77), b"whatever"), *parts[1:]])


def cut_off(field: PyramidField) -> dict[str, tuple[bytes, PyramidField]]:
    """Beginnings of a pyramid's file, and what they show: the levels that are not there whole are zeros."""
    data = encode(field)
    *_, finest = levels = [at for name, at, _ in container.sections(data) if name in container.LEVELS]
    ends = {"coarsest_level": levels[1], "within_a_level": levels[2] - 1, "but_one_byte": len(data) - 1}
    assert levels[1] < levels[2] - 1 < finest
    shown = {}
    for name, end in ends.items():
        whole = [at <= end for at in [*levels[1:], len(data)]]
        seen = [level if here else 0 * level for level, here in zip(field.coefficients, whole, strict=True)]
        shown[name] = (data[:end], replace(field, coefficients=tuple(seen)))
    return shown


def write(folder: Path, files: dict[str, tuple[bytes, Any]]) -> None:
    for name, (data, field) in files.items():
        (folder / f"{name}.vqrf").write_bytes(data)
        np.savez_compressed(folder / f"{name}.npz", **arrays_of(field))


def main() -> None:
    for folder in ("valid", "truncated", "invalid"):
        (HERE / folder).mkdir(exist_ok=True)
        for old in (HERE / folder).iterdir():
            old.unlink()
    fields: dict[str, Compressed] = {**valid_fields(), **valid_pyramids(), **valid_planes()}
    files = {name: (encode(field), field) for name, field in fields.items()}
    good, field = files["all_coded"]
    files["unknown_ancillary"] = (ancillary(good), field)
    files["unknown_space"] = (space_to_skip(good), field)
    files["later_minor_version"] = (with_header(good, 10, "H", 7), field)
    write(HERE / "valid", files)
    write(HERE / "truncated", dict(cut_off(valid_pyramids()["pyramid"])))
    expected, wrong = {}, []
    others = (files[name][0] for name in ("all_pruned", "frequencies", "widest_codebook"))
    bad = {**bad_containers(good), **bad_sections(good, *others)}
    bad |= bad_spaces(files["front"][0], good)
    bad |= bad_pyramids(files["pyramid_all_coded"][0], good, files["pyramid_smallest"][0])
    bad |= bad_planes(files["planes_all_coded"][0], files["pyramid_all_coded"][0])
    for name, (section, reason, data) in bad.items():
        (HERE / "invalid" / f"{name}.vqrf").write_bytes(data)
        try:
            bitstream.decode(data)
        except BitstreamError as error:
            if error.section != section or reason not in error.reason:
                wrong.append(f"{name}: expected {section}: ... {reason} ..., got {error}")
            expected[name] = {"section": error.section, "offset": error.offset, "reason": error.reason}
        else:
            wrong.append(f"{name} was accepted")
    if wrong:
        raise AssertionError("\n".join(wrong))
    (HERE / "invalid" / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
