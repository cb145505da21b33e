"""What the sections of a .vqrf file say, one function each way for each of them. FORMAT.md sections 4 to 7.

`write_*` give the bytes of a section, `read_*` what these mean, or a `BitstreamError` that says where they are wrong: every
number is bounded before anything is allocated for it. `vqrf.codec.walks` code what is coded.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vqrf.codec import walks
from vqrf.codec.compressed import (
    CODED,
    KEPT,
    MAX_CHANNELS,
    MAX_CODEWORDS,
    MAX_LAYER_SIDE,
    MAX_LAYERS,
    MAX_SIDE,
    MAX_VOXELS,
    MIN_SIDE,
    PRUNED,
    Compressed,
    CompressedField,
    Quantized,
    Table,
    Uint8,
    canonical_json,
    items_of,
)
from vqrf.codec.container import LEVELS, LINES, PLANES, BitstreamError, Reader, Section, read_table
from vqrf.codec.planes import MAX_COMPONENTS, PlanesField, Stack, shadows
from vqrf.codec.pyramid import Int16, Nodes, PyramidField, build_nodes
from vqrf.geometry import Float32, Front, Lattice, Space, Unbounded
from vqrf.kernels.constants import Activation, Equation, Shading, count_view_frequencies, shading_fault

HEAD = struct.Struct("<6d3I4I9fI")
SPACE = struct.Struct("<HH16d")
SPACES: dict[int, type[Front | Unbounded]] = {1: Front, 2: Unbounded}
"""What SPAC names by number."""
"""The number of the space of a projective map; a box has no section."""
SHADINGS: dict[int, Shading] = {0: "mlp", 1: "sh", 2: "sh_relu", 3: "mlp"}
"""How a field is shaded, by the number that COLR gives."""
ENCODED_FEATURES = 3
"""The number of shading by layers that take frequencies of the features."""
ACTIVATIONS: tuple[Activation, ...] = ("softplus", "relu")
"""The density's activation, by the number that HEAD gives."""
Content = tuple[str, int, bytes]
"""A section: its name, its size when decoded, and its bytes in the file."""
Layers = tuple[tuple[Table, Table], ...]

# ---------------------------------------------------------------------------------------------------- writing


def write_common(field: Compressed, coder: Any) -> list[Content]:
    """The sections that files of all kinds have."""
    layers = [table for layer in field.color_mlp for table in layer]
    bits = [bits_of(table) for table in layers]
    return [
        ("HEAD", HEAD.size, _write_head(field)),
        *([] if field.lattice.space is None else [("SPAC", SPACE.size, _write_space(field.lattice.space))]),
        ("META", 0, canonical_json(field.metadata) if field.metadata else b""),
        ("COLR", sum(b.nbytes for b in bits), _write_layers(layers, field) + coder.encode_tables(bits, False)),
        ("PART", field.partition.size, coder.encode_partition(field.partition)),
    ]


def _write_head(field: Compressed) -> bytes:
    lattice = field.lattice
    counts = field.n_channels, field.n_codewords, field.n_coded, field.n_kept
    numbers = (field.empty_density, *field.equation.numbers())
    activation = ACTIVATIONS.index(field.equation.activation)
    return HEAD.pack(*lattice.lo, *lattice.hi, *lattice.shape, *counts, *numbers, activation)


def _write_space(space: Space) -> bytes:
    number = next(number for number, kind in SPACES.items() if isinstance(space, kind))
    return SPACE.pack(number, 0, *(value for row in space.matrix for value in row))


def _write_quantizer(table: Table) -> bytes:
    """Type, mode, and scale and offset: what stands before a table's coded items."""
    if not isinstance(table, Quantized):
        return struct.pack("<BBH", 0, 0, 0)
    kind = 1 if table.levels.dtype == np.uint8 else 2
    scales = table.scale.astype("<f4").tobytes() + table.offset.astype("<f4").tobytes()
    return struct.pack("<BBH", kind, 1 if table.scale.size == 1 else 2, 0) + scales


def _write_layers(layers: list[Table], field: Compressed) -> bytes:
    out = struct.pack("<HH", len(layers) // 2, number_of_shading(field))
    if field.equation.feature_frequencies:
        out += struct.pack("<HH", field.equation.feature_frequencies, 0)
    for table in layers:
        if (items := items_of(table)).ndim == 2:
            out += struct.pack("<II", *items.shape)
        out += _write_quantizer(table)
    return out


def number_of_shading(field: Compressed) -> int:
    """How COLR says that the field is shaded."""
    if field.equation.feature_frequencies:
        return ENCODED_FEATURES
    return next(number for number, shading in SHADINGS.items() if shading == field.equation.shading)


def bits_of(table: Table) -> NDArray[Any]:
    """The table as [rows, columns] of uint8 or uint16: levels, or the bits of float16."""
    items = np.ascontiguousarray(items_of(table))
    return np.atleast_2d(items.view(np.uint16) if items.dtype == np.float16 else items)


def write_codebook(field: CompressedField, coder: Any) -> list[Content]:
    """The sections that only a file with a codebook has."""
    partition, codebook = field.partition, bits_of(field.codebook)
    density = _write_quantizer(field.density) + coder.encode_density(partition, field.density.levels)
    kept = _write_quantizer(field.kept) + coder.encode_kept(partition, field.kept.levels)
    return [
        ("BOOK", codebook.nbytes, _write_quantizer(field.codebook) + coder.encode_tables([codebook], True)),
        ("DENS", field.density.levels.size, density),
        ("CODE", field.codes.nbytes, coder.encode_codes(partition, field.n_codewords, field.codes)),
        ("KEPT", field.kept.levels.size, kept),
    ]


def write_pyramid(field: PyramidField, coder: Any) -> list[Content]:
    """The sections that only a file of a pyramid has."""
    steps = struct.pack("<HH", len(field.steps) - 1, field.basis is not None) + field.steps.astype("<f4").tobytes()
    if field.basis is not None:
        steps += field.basis.astype("<f4").tobytes()
    streams = coder.encode_levels(field.partition, list(field.coefficients))
    names = LEVELS[-len(streams) :]
    levels = [(name, level.nbytes, stream) for name, level, stream in zip(names, field.coefficients, streams, strict=True)]
    return [("STEP", len(steps), steps), *levels]


def write_planes(field: PlanesField, coder: Any) -> list[Content]:
    """The sections that only a file of planes and lines has."""
    mix, (planes, lines) = bits_of(field.mix), shadows(field.partition)
    n_features = len(mix) // 3
    counts = struct.pack("<HH", field.n_components - n_features, n_features)
    steps = counts + b"".join(steps.astype("<f4").tobytes() for steps in (field.plane_steps, field.line_steps))
    return [
        ("PLAN", len(steps), steps),
        ("MIXT", mix.nbytes, _write_quantizer(field.mix) + coder.encode_tables([mix], False)),
        *_write_stacks(PLANES, planes, field.planes, coder),
        *_write_stacks(LINES, lines, field.lines, coder),
    ]


def _write_stacks(
    names: tuple[str, ...], masks: list[NDArray[np.bool_]], stacks: tuple[Stack, ...], coder: Any
) -> list[Content]:
    streams = coder.encode_stacks([np.ascontiguousarray(mask).view(np.uint8) for mask in masks], [list(s) for s in stacks])
    sizes = [sum(level.nbytes for level in levels) for levels in zip(*stacks, strict=True)]
    return list(zip(names[-len(streams) :], sizes, streams, strict=True))


# ---------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Head:
    lattice: Lattice
    n_channels: int
    n_codewords: int
    n_coded: int
    n_kept: int
    empty_density: float
    equation: Equation


def read_head(data: bytes, section: Section) -> Head:
    if section.stored != HEAD.size:
        raise section.refuse(f"has {section.stored} bytes, expected {HEAD.size}")
    values = HEAD.unpack(data[section.offset : section.offset + HEAD.size])
    lo, hi, shape, counts, scalars, number = values[:3], values[3:6], values[6:9], values[9:13], values[13:22], values[22]
    for side in shape:
        if not MIN_SIDE <= side <= MAX_SIDE:
            raise section.refuse(f"side {side} is outside 2..4096")
    n_voxels = math.prod(shape)
    if n_voxels > MAX_VOXELS:
        raise section.refuse(f"{n_voxels} voxels, the limit is {MAX_VOXELS}")
    if not 1 <= counts[0] <= MAX_CHANNELS:
        raise section.refuse(f"channel count {counts[0]} is outside 1..64")
    if counts[1] > MAX_CODEWORDS:
        raise section.refuse(f"codebook size {counts[1]} is outside 1..65536")
    if counts[1] == 0 and counts[3]:
        raise section.refuse("a pyramid keeps no voxels")
    if counts[2] + counts[3] > n_voxels:
        raise section.refuse("more voxels hold values than there are")
    if not all(map(math.isfinite, lo + hi)) or any(a >= b for a, b in zip(lo, hi, strict=True)):
        raise section.refuse("bounds are not finite with lo < hi")
    try:
        empty_density, equation = equation_of(scalars)
    except ValueError as error:
        raise section.refuse(str(error)) from None
    if number >= len(ACTIVATIONS):
        raise section.refuse(f"activation {number} is not supported")
    n_channels, n_codewords, n_coded, n_kept = counts
    equation = replace(equation, activation=ACTIVATIONS[number])
    return Head(Lattice(lo, hi, shape), n_channels, n_codewords, n_coded, n_kept, empty_density, equation)


def read_space(data: bytes, section: Section) -> Space:
    if section.stored != SPACE.size:
        raise section.refuse(f"has {section.stored} bytes, expected {SPACE.size}")
    number, reserved, *values = SPACE.unpack(data[section.offset : section.offset + SPACE.size])
    if number not in SPACES:
        raise section.refuse(f"space {number} is not supported")
    if reserved:
        raise section.refuse("reserved bytes are not zero")
    if not all(map(math.isfinite, values)):
        raise section.refuse("a number of the space is not finite")
    try:
        return space_of(number, values)
    except ValueError:
        raise section.refuse("the map of the space is not affine") from None


def space_of(number: int, values: Sequence[float]) -> Space:
    """The space that SPAC names by number and 16 values, row by row.

    Raises:
      ValueError: the values make none.
    """
    a, b, c, d = ((values[i], values[i + 1], values[i + 2], values[i + 3]) for i in range(0, 16, 4))
    return SPACES[number]((a, b, c, d))


def equation_of(numbers: Sequence[float]) -> tuple[float, Equation]:
    """The density of PRUNED voxels and the constants of rendering that HEAD's nine numbers are; the rest as by default."""
    empty_density, density_bias, interval, step_world, near, alpha_threshold, red, green, blue = numbers
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a constant is not finite")
    return empty_density, Equation(density_bias, interval, step_world, near, alpha_threshold, (red, green, blue))


def metadata_of(data: bytes) -> dict[str, Any]:
    """The metadata of a file, of which nothing else is decoded; empty where it has none. Safe for untrusted input.

    Raises:
      BitstreamError: header, table, a checksum or the metadata is wrong.
    """
    for s in read_table(data):
        if s.name == "META":
            return read_metadata(data[s.offset : s.offset + s.stored], s.offset)
    return {}


def read_metadata(text: bytes, offset: int) -> dict[str, Any]:
    try:
        metadata = json.loads(text.decode("ascii"))
        if metadata and canonical_json(metadata) == text:
            return cast(dict[str, Any], metadata)
    except (ValueError, RecursionError):
        pass
    raise BitstreamError("META", offset, "metadata is not a canonical JSON object")


def _read_quantizer(reader: Reader, shape: tuple[int, ...]) -> Table:
    """A table of zeros of the type that its record says; its items follow later."""
    kind, mode, reserved = reader.take("BBH")
    if reserved:
        raise reader.section.refuse("reserved bytes are not zero")
    if kind > 2:
        raise reader.section.refuse(f"table type {kind} is not supported")
    if mode > 2 or (mode == 0) != (kind == 0) or (mode == 2 and shape[-1] == 1):
        raise reader.section.refuse(f"quantiser mode {mode} does not fit the table")
    if kind == 0:
        return np.zeros(shape, np.float16)
    n = 1 if mode == 1 else shape[-1]
    scale, offset = (np.array(reader.take(f"{n}f"), np.float32) for _ in range(2))
    if not np.isfinite([scale, offset]).all():
        raise reader.section.refuse("scale or offset is not finite")
    if kind == 1:
        return Quantized(np.zeros(shape, np.uint8), scale, offset)
    return Quantized(np.zeros(shape, np.uint16), scale, offset)


def _read_items(reader: Reader, tables: list[Table], by_column: bool) -> None:
    """Fill tables whose shapes and quantisers are known."""
    bits = [bits_of(table) for table in tables]
    reader.section.expect_raw(sum(b.nbytes for b in bits))
    reader.decode(walks.table_contexts(bits, by_column), lambda d: walks.code_tables(d, bits, by_column))
    if any(not np.isfinite(table).all() for table in tables if not isinstance(table, Quantized)):
        raise reader.section.refuse("a value is not finite")


def read_color_mlp(data: bytes, section: Section, n_channels: int) -> tuple[Shading, int, Layers]:
    reader = Reader(data, section)
    n_layers, number = reader.take("HH")
    if n_layers > MAX_LAYERS:
        raise section.refuse(f"{n_layers} layers, the limit is 16")
    if number not in SHADINGS:
        raise section.refuse(f"shading {number} is not supported")
    n_frequencies = 0
    if number == ENCODED_FEATURES:
        n_frequencies, reserved = reader.take("HH")
        if not n_frequencies or reserved:
            raise section.refuse("feature frequencies without one, or reserved bytes that are not zero")
    if fault := shading_fault(SHADINGS[number], n_layers, n_channels, n_frequencies):
        raise section.refuse(fault)
    layers: list[tuple[Table, Table]] = []
    width = 0
    for i in range(n_layers):
        n_out, n_in = reader.take("II")
        for side in (n_out, n_in):
            if not 1 <= side <= MAX_LAYER_SIDE:
                raise section.refuse(f"layer side {side} is outside 1..4096")
        fits = n_in == width if i else count_view_frequencies(n_in, n_channels, n_frequencies) is not None
        if not fits or (i + 1 == n_layers and n_out != 3):
            raise section.refuse("layers do not lead from the features to rgb")
        layers.append((_read_quantizer(reader, (n_out, n_in)), _read_quantizer(reader, (n_out,))))
        width = n_out
    _read_items(reader, [table for layer in layers for table in layer], by_column=False)
    return SHADINGS[number], n_frequencies, tuple(layers)


def _read_partition(data: bytes, section: Section, head: Head) -> Uint8:
    partition = np.zeros(head.lattice.shape, np.uint8)
    found: list[Uint8] = []
    Reader(data, section).decode(walks.PARTITION_CONTEXTS, lambda d: found.append(walks.code_partition(d, partition)))
    if not np.array_equal(found[0], walks.find_blocks(partition)):
        raise section.refuse("a block that is marked as occupied is empty")
    n_coded, n_kept = (int(np.count_nonzero(partition == kind)) for kind in (CODED, KEPT))
    if (n_coded, n_kept) != (head.n_coded, head.n_kept):
        said = f"the head says {head.n_coded} and {head.n_kept}"
        raise section.refuse(f"holds {n_coded} coded and {n_kept} kept voxels, {said}")
    return partition


def _read_levels(reader: Reader, shape: tuple[int, ...], columns: int) -> Quantized:
    """Per-voxel levels of zeros with their quantiser; these are always bytes."""
    table = _read_quantizer(reader, (columns,))
    if not isinstance(table, Quantized) or table.levels.dtype != np.uint8:
        raise reader.section.refuse("levels of voxels are not bytes")
    return Quantized(np.zeros(shape, np.uint8), table.scale, table.offset)


def _read_steps(data: bytes, section: Section, n_channels: int) -> tuple[Float32, Float32 | None]:
    reader = Reader(data, section)
    n_latents, has_basis = reader.take("HH")
    if not 1 <= n_latents <= MAX_CHANNELS:
        raise section.refuse(f"latent count {n_latents} is outside 1..64")
    if has_basis > 1 or (not has_basis and n_latents != n_channels):
        raise section.refuse("latents do not lead to the features")
    expected = 4 * (1 + n_latents + has_basis * n_latents * n_channels)
    if len(reader.rest) != expected:
        raise section.refuse(f"has {len(reader.rest)} bytes of steps and basis, expected {expected}")
    values = np.frombuffer(reader.rest, "<f4").astype(np.float32)
    steps = values[: 1 + n_latents]
    if not np.isfinite(values).all() or not (steps > 0).all():
        raise section.refuse("a step is not positive, or a value not finite")
    return steps, values[1 + n_latents :].reshape(n_latents, n_channels) if has_basis else None


def _read_level(data: bytes, section: Section, nodes: Nodes, above: walks.Rows | None, values: Int16) -> walks.Rows:
    """Fill a level's coefficients; what the next is to know of them."""
    found: list[walks.Rows] = []
    contexts = walks.level_contexts(values.shape[1])
    Reader(data, section).decode(contexts, lambda d: found.append(walks.code_level(d, nodes, above, values)))
    return found[0]


def read_pyramid(data: bytes, known: dict[str, Section], head: Head) -> dict[str, Any]:
    """What a `PyramidField` has of its own, and its partition."""
    sections = [known[name] for name in LEVELS if name in known]
    steps, basis = _read_steps(data, known["STEP"], head.n_channels)
    sections[-1].expect_raw(2 * head.n_coded * len(steps))
    partition = _read_partition(data, known["PART"], head)
    levels = build_nodes(partition != PRUNED, len(sections) - 1)[::-1]
    for section, nodes in zip(sections, levels, strict=True):
        section.expect_raw(2 * nodes.n_nodes * len(steps))
    coefficients = tuple(np.zeros((nodes.n_nodes, len(steps)), np.int16) for nodes in levels)
    above: walks.Rows | None = None
    for section, nodes, values in zip(sections, levels, coefficients, strict=True):
        if not section.is_here:
            break
        above = _read_level(data, section, nodes, above, values)
    return {"partition": partition, "steps": steps, "basis": basis, "coefficients": coefficients}


def read_planes(data: bytes, known: dict[str, Section], head: Head) -> dict[str, Any]:
    """What a `PlanesField` has of its own, and its partition."""
    section = known["PLAN"]
    reader = Reader(data, section)
    n_density, n_features = reader.take("HH")
    if not (1 <= n_density <= MAX_COMPONENTS and 1 <= n_features <= MAX_COMPONENTS):
        raise section.refuse(f"{n_density} and {n_features} components are outside 1..{MAX_COMPONENTS}")
    rank = n_density + n_features
    if len(reader.rest) != 24 * rank:
        raise section.refuse(f"has {len(reader.rest)} bytes of steps, expected {24 * rank}")
    steps = np.frombuffer(reader.rest, "<f4").astype(np.float32).reshape(2, 3, rank)
    if not (np.isfinite(steps).all() and (steps > 0).all()):
        raise section.refuse("a step is not finite and positive")
    reader = Reader(data, known["MIXT"])
    mix = _read_quantizer(reader, (3 * n_features, head.n_channels))
    _read_items(reader, [mix], by_column=False)
    partition = _read_partition(data, known["PART"], head)
    planes, lines = shadows(partition)
    return {
        "partition": partition,
        "planes": _read_stacks(data, [known[name] for name in PLANES if name in known], planes, rank),
        "lines": _read_stacks(data, [known[name] for name in LINES if name in known], lines, rank),
        "plane_steps": steps[0],
        "line_steps": steps[1],
        "mix": mix,
    }


def _read_stacks(data: bytes, sections: list[Section], masks: list[NDArray[np.bool_]], width: int) -> tuple[Stack, ...]:
    """The levels of three planes, or of three lines; their raw lengths are checked before there is room for them."""
    levels = list(zip(*(build_nodes(mask, len(sections) - 1)[::-1] for mask in masks), strict=True))
    for section, of_masks in zip(sections, levels, strict=True):
        section.expect_raw(2 * sum(nodes.n_nodes for nodes in of_masks) * width)
    stacks = [[np.zeros((nodes.n_nodes, width), np.int16) for nodes in of_masks] for of_masks in levels]
    above: list[walks.Rows | None] = [None] * len(masks)
    for section, of_masks, values in zip(sections, levels, stacks, strict=True):
        walk = partial(walks.code_stacks, nodes=of_masks, above=above, values=values)
        Reader(data, section).decode(walks.level_contexts(width), walk)
    return tuple(zip(*stacks, strict=True))


def read_codebook(data: bytes, known: dict[str, Section], head: Head) -> dict[str, Any]:
    """What a `CompressedField` has of its own, and its partition."""
    reader = Reader(data, known["BOOK"])
    codebook = _read_quantizer(reader, (head.n_codewords, head.n_channels))
    _read_items(reader, [codebook], by_column=True)
    partition = _read_partition(data, known["PART"], head)
    reader = Reader(data, known["DENS"])
    density = _read_levels(reader, (head.n_coded + head.n_kept,), 1)
    levels = cast(Uint8, density.levels)
    reader.decode(walks.DENSITY_CONTEXTS, lambda d: walks.code_density(d, partition, levels))
    codes = np.zeros(head.n_coded, np.int32)
    Reader(data, known["CODE"]).decode(
        walks.code_contexts(head.n_codewords),
        lambda d: walks.code_codes(d, partition, head.n_codewords, codes),
    )
    if (codes >= head.n_codewords).any():
        raise known["CODE"].refuse("a code is not below the codebook size")
    reader = Reader(data, known["KEPT"])
    kept = _read_levels(reader, (head.n_kept, head.n_channels), head.n_channels)
    kept_levels = cast(Uint8, kept.levels)
    reader.decode(walks.KEPT_CONTEXTS, lambda d: walks.code_kept(d, partition, kept_levels))
    return {"partition": partition, "density": density, "codes": codes, "codebook": codebook, "kept": kept}
