"""The promise: a compressed field as bytes, and back. FORMAT.md is the specification.

`encode` loses nothing and `decode(encode(x)) == x`. `decode` needs the bytes and nothing else: no torch, no
settings, no network. It is safe for untrusted input: every number of the file is bounded before anything is
allocated for it, every section has a checksum, and the one exception it raises says in which section and at
which byte the file is wrong.

The compiled core decodes and encodes when it is here; otherwise this module and `vqrf.codec.entropy` do, to the
same bytes.
"""

from __future__ import annotations

import importlib
import json
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vqrf.codec import entropy
from vqrf.codec.compressed import (
    CODED,
    KEPT,
    MAX_CHANNELS,
    MAX_CODEWORDS,
    MAX_LAYER_SIDE,
    MAX_LAYERS,
    MAX_METADATA_BYTES,
    MAX_SIDE,
    MAX_VOXELS,
    MIN_SIDE,
    PRUNED,
    CompressedField,
    Quantized,
    Table,
    Uint8,
    canonical_json,
    items_of,
)
from vqrf.codec.pyramid import MAX_LEVELS, Int16, Nodes, PyramidField, build_nodes, coarser_shape
from vqrf.geometry import Float32, Lattice
from vqrf.kernels import has_native
from vqrf.kernels.constants import Activation, Equation, Shading, count_view_frequencies, shading_fault

SIGNATURE = b"\x89VQR\r\n\x1a\n"
VERSION = (1, 0)
HEADER_BYTES = 32
ENTRY_BYTES = 32

MAX_SECTIONS = 64
FREE_WORKING_BYTES = 1 << 20
"""Of a decoder's working memory, what does not count against the caller's budget."""
MAX_RATIO_BITS = 19
"""A coded byte describes fewer than 2^19 bytes, because no context is surer than 39/32768."""

HEAD = struct.Struct("<6d3I4I9fI")
STORED, RANGE_CODED = 0, 1
SHADINGS: dict[int, Shading] = {0: "mlp", 1: "sh", 2: "sh_relu", 3: "mlp"}
"""How a field is shaded, by the number that COLR gives."""
ENCODED_FEATURES = 3
"""The number of shading by layers that take frequencies of the features."""
ACTIVATIONS: tuple[Activation, ...] = ("softplus", "relu")
"""The density's activation, by the number that HEAD gives."""
Layers = tuple[tuple[Table, Table], ...]
LEVELS = tuple(f"LEV{number}" for number in range(MAX_LEVELS, -1, -1))
"""The levels of a pyramid, coarsest first; a file has those from its coarsest on."""
KNOWN = ("HEAD", "META", "COLR", "BOOK", "STEP", "PART", "DENS", "CODE", "KEPT", *LEVELS)
"""The sections of a file, in their order. META may be absent, and a reader may skip it."""
OF_CODEBOOK = ("BOOK", "DENS", "CODE", "KEPT")
"""What only a file with a codebook has, and must have."""


class BitstreamError(ValueError):
    """Why a file was refused.

    Attributes:
      section: "header", "end", or the four letters of a section.
      offset: byte of the file.
      reason: one line.
    """

    def __init__(self, section: str, offset: int, reason: str) -> None:
        super().__init__(f"{section} at byte {offset}: {reason}")
        self.section, self.offset, self.reason = section, offset, reason


# ---------------------------------------------------------------------------------------------------- writing


def encode(field: CompressedField | PyramidField) -> bytes:
    """The bytes of a .vqrf file, the same on every machine and with or without the compiled core."""
    coder = importlib.import_module("vqrf._native") if has_native() else entropy
    layers = [table for layer in field.color_mlp for table in layer]
    layer_bits = [_bits_of(table) for table in layers]
    colors = _write_layers(layers, field) + coder.encode_tables(layer_bits, False)
    common = [
        ("HEAD", HEAD.size, _write_head(field)),
        ("META", 0, canonical_json(field.metadata) if field.metadata else b""),
        ("COLR", sum(b.nbytes for b in layer_bits), colors),
        ("PART", field.partition.size, coder.encode_partition(field.partition)),
    ]
    own = _pyramid_sections(field, coder) if isinstance(field, PyramidField) else _codebook_sections(field, coder)
    sections = sorted([*common, *own], key=lambda section: KNOWN.index(section[0]))
    return _assemble([section for section in sections if section[0] != "META" or section[2]])


def _codebook_sections(field: CompressedField, coder: Any) -> list[tuple[str, int, bytes]]:
    partition, codebook = field.partition, _bits_of(field.codebook)
    density = _write_quantizer(field.density) + coder.encode_density(partition, field.density.levels)
    kept = _write_quantizer(field.kept) + coder.encode_kept(partition, field.kept.levels)
    return [
        ("BOOK", codebook.nbytes, _write_quantizer(field.codebook) + coder.encode_tables([codebook], True)),
        ("DENS", field.density.levels.size, density),
        ("CODE", field.codes.nbytes, coder.encode_codes(partition, field.n_codewords, field.codes)),
        ("KEPT", field.kept.levels.size, kept),
    ]


def _pyramid_sections(field: PyramidField, coder: Any) -> list[tuple[str, int, bytes]]:
    steps = struct.pack("<HH", len(field.steps) - 1, field.basis is not None) + field.steps.astype("<f4").tobytes()
    if field.basis is not None:
        steps += field.basis.astype("<f4").tobytes()
    streams = coder.encode_levels(field.partition, list(field.coefficients))
    names = LEVELS[-len(streams) :]
    levels = [(name, level.nbytes, stream) for name, level, stream in zip(names, field.coefficients, streams, strict=True)]
    return [("STEP", len(steps), steps), *levels]


def _assemble(sections: list[tuple[str, int, bytes]]) -> bytes:
    table = b""
    for name, raw, stored in sections:
        method = _method_of(name)
        size = raw if method == RANGE_CODED else len(stored)
        table += struct.pack("<4sHHQQII", name.encode(), _is_critical(name), method, len(stored), size, zlib.crc32(stored), 0)
    total = HEADER_BYTES + len(table) + sum(len(stored) for _, _, stored in sections)
    start = SIGNATURE + struct.pack("<HHIQI", *VERSION, len(sections), total, 0)
    return b"".join([start, struct.pack("<I", zlib.crc32(start + table)), table, *(s for _, _, s in sections)])


def _method_of(name: str) -> int:
    return STORED if name in ("HEAD", "META", "STEP") else RANGE_CODED


def _is_critical(name: str) -> bool:
    return name != "META"


def _write_head(field: CompressedField | PyramidField) -> bytes:
    lattice = field.lattice
    counts = (field.n_channels, 0, field.n_coded, 0)
    if isinstance(field, CompressedField):
        counts = field.n_channels, field.n_codewords, field.n_coded, field.n_kept
    numbers = (field.empty_density, *field.equation.numbers())
    activation = ACTIVATIONS.index(field.equation.activation)
    return HEAD.pack(*lattice.lo, *lattice.hi, *lattice.shape, *counts, *numbers, activation)


def _write_quantizer(table: Table) -> bytes:
    """Type, mode, and scale and offset: what stands before a table's coded items."""
    if not isinstance(table, Quantized):
        return struct.pack("<BBH", 0, 0, 0)
    kind = 1 if table.levels.dtype == np.uint8 else 2
    scales = table.scale.astype("<f4").tobytes() + table.offset.astype("<f4").tobytes()
    return struct.pack("<BBH", kind, 1 if table.scale.size == 1 else 2, 0) + scales


def _write_layers(layers: list[Table], field: CompressedField | PyramidField) -> bytes:
    out = struct.pack("<HH", len(layers) // 2, number_of_shading(field))
    if field.equation.feature_frequencies:
        out += struct.pack("<HH", field.equation.feature_frequencies, 0)
    for table in layers:
        if (items := items_of(table)).ndim == 2:
            out += struct.pack("<II", *items.shape)
        out += _write_quantizer(table)
    return out


def number_of_shading(field: CompressedField | PyramidField) -> int:
    """How COLR says that the field is shaded."""
    if field.equation.feature_frequencies:
        return ENCODED_FEATURES
    return next(number for number, shading in SHADINGS.items() if shading == field.equation.shading)


def _bits_of(table: Table) -> NDArray[Any]:
    """The table as [rows, columns] of uint8 or uint16: levels, or the bits of float16."""
    items = np.ascontiguousarray(items_of(table))
    return np.atleast_2d(items.view(np.uint16) if items.dtype == np.float16 else items)


# ---------------------------------------------------------------------------------------------------- reading


def decode(data: bytes, *, max_bytes: int = 1 << 30, truncated: bool = False) -> CompressedField | PyramidField:
    """The compressed field in the bytes of a .vqrf file.

    Args:
      data: the whole file; with `truncated`, as much of it as there is.
      max_bytes: bound on the decoded arrays, as the file declares them, and on working memory where the lattice asks for
        much of it; a file that needs more is refused. (The compiled core then allocates at most 2 MiB beyond it.)
      truncated: take a pyramid's file that is cut off after its coarsest level: the levels that are not there whole are zeros,
        which shows a coarser scene. Without it a file that is cut off is refused, like every file with a codebook.

    Raises:
      BitstreamError: the bytes are not a file that `encode` wrote; nothing else, whatever they are.

    Safe for untrusted input.
    """
    data = bytes(data)
    reader = _decode_native if has_native() else _decode_twin
    raw = reader(data, max_bytes, truncated)
    metadata = raw.pop("metadata")
    meta_at = next((s.offset for s in _read_table(data, truncated) if s.name == "META"), None)
    try:
        field = PyramidField(metadata={}, **raw) if "coefficients" in raw else CompressedField(metadata={}, **raw)
    except ValueError as error:  # every cause is checked before; this keeps the promise if one is forgotten
        raise BitstreamError("HEAD", 0, str(error)) from None
    if meta_at is not None:
        object.__setattr__(field, "metadata", _read_metadata(metadata, meta_at))
    return field


def verify(data: bytes, *, max_bytes: int = 1 << 30) -> CompressedField | PyramidField:
    """Decode a file and check that encoding what came out gives the same bytes, section by section.

    Sections that this version does not know are not critical and are left out of the comparison.

    Raises:
      BitstreamError: the file is refused, or a section comes out otherwise.
    """
    field = decode(data, max_bytes=max_bytes)
    again = encode(field)
    rewritten = {s.name: again[s.offset : s.offset + s.stored] for s in _read_table(again)}
    for s in _read_table(data):
        if s.name in KNOWN and rewritten.get(s.name) != data[s.offset : s.offset + s.stored]:
            raise BitstreamError(s.name, s.offset, "encodes to other bytes")
    return field


def sections(data: bytes) -> list[tuple[str, int, int]]:
    """(name, offset, bytes) of the header with its table and of every section; the bytes add up to the file.

    Raises:
      BitstreamError: header, table or a checksum is wrong.
    """
    entries = _read_table(data)
    return [("header", 0, entries[0].offset), *((s.name, s.offset, s.stored) for s in entries)]


@dataclass(frozen=True)
class _Section:
    """One row of the section table; `entry` is where the row is."""

    name: str
    entry: int
    offset: int
    stored: int
    raw: int
    crc: int
    is_here: bool = True
    """False for a level that a truncated file lacks."""

    def refuse(self, reason: str) -> BitstreamError:
        return BitstreamError(self.name, self.offset, reason)

    def expect_raw(self, expected: int) -> None:
        if self.raw != expected:
            raise BitstreamError(self.name, self.entry + 16, f"raw length is {self.raw}, expected {expected}")


def _check_header(data: bytes) -> int:
    """Check everything before the sections; the number of sections."""
    n = len(data)
    if data[:8] != SIGNATURE[:n]:
        raise BitstreamError("header", 0, "not a .vqrf file")
    if n < HEADER_BYTES:
        raise BitstreamError("header", n, f"truncated: the header has 32 bytes, the file {n}")
    major, minor, count, _, reserved, crc = struct.unpack("<HHIQII", data[8:HEADER_BYTES])
    if major != VERSION[0]:
        raise BitstreamError("header", 8, f"version {major}.{minor} is not supported: this reader knows 1.x")
    if not 1 <= count <= MAX_SECTIONS:
        raise BitstreamError("header", 12, f"section count {count} is outside 1..64")
    table_end = HEADER_BYTES + ENTRY_BYTES * count
    if n < table_end:
        raise BitstreamError("header", n, f"truncated: header and section table have {table_end} bytes, the file {n}")
    if zlib.crc32(data[:28] + data[HEADER_BYTES:table_end]) != crc:
        raise BitstreamError("header", 28, "checksum mismatch")
    if reserved:
        raise BitstreamError("header", 24, "reserved bytes are not zero")
    return int(count)


def _read_entry(data: bytes, entry: int, offset: int) -> _Section:
    letters, flags, method, stored, raw, crc, reserved = struct.unpack("<4sHHQQII", data[entry : entry + ENTRY_BYTES])
    if any(not (65 <= c <= 90 or 48 <= c <= 57) for c in letters):
        raise BitstreamError("header", entry, "section name is not four capital letters or digits")
    name = letters.decode()
    if name not in KNOWN:
        if flags & 1:
            raise BitstreamError(name, entry, "unknown critical section")
    elif flags != _is_critical(name):
        raise BitstreamError(name, entry + 4, f"flags are {flags}, not the section's")
    elif method != _method_of(name):
        raise BitstreamError(name, entry + 6, f"coding method {method} is not supported")
    elif reserved:
        raise BitstreamError(name, entry + 28, "reserved bytes are not zero")
    return _Section(name, entry, offset, stored, raw, crc)


def _read_table(data: bytes, truncated: bool = False) -> list[_Section]:
    """The section table, checked to tile the file exactly, with every checksum right.

    With `truncated`, levels after the coarsest and what follows them may be missing.
    """
    count = _check_header(data)
    (total,) = struct.unpack("<Q", data[16:24])
    bad_sum = BitstreamError("header", 16, f"file length {total} is not the sum of its parts")
    entries: list[_Section] = []
    end, last_known = HEADER_BYTES + ENTRY_BYTES * count, -1
    for i in range(count):
        s = _read_entry(data, HEADER_BYTES + ENTRY_BYTES * i, end)
        if s.name in KNOWN:
            if KNOWN.index(s.name) <= last_known:
                raise BitstreamError(s.name, s.entry, "appears twice or out of order")
            last_known = KNOWN.index(s.name)
        end += s.stored
        if end > total:
            raise bad_sum
        entries.append(s)
    if end != total:
        raise bad_sum
    optional = False
    for i, s in enumerate(entries):
        if (stop := s.offset + s.stored) > len(data):
            if not (truncated and optional):
                raise BitstreamError(s.name, len(data), f"truncated: ends at byte {stop}, the file has {len(data)}")
            entries[i] = replace(s, is_here=False)
        optional = optional or s.name in LEVELS
    if len(data) > total:
        raise BitstreamError("end", total, f"{len(data) - total} trailing bytes")
    for s in entries:
        if s.is_here and zlib.crc32(data[s.offset : s.offset + s.stored]) != s.crc:
            raise s.refuse("checksum mismatch")
    return entries


def _select_known(entries: list[_Section], max_bytes: int) -> dict[str, _Section]:
    known = {s.name: s for s in entries if s.name in KNOWN}
    left = max_bytes
    for s in known.values():
        at = s.entry + 16
        if _method_of(s.name) == STORED and s.raw != s.stored:
            raise BitstreamError(s.name, at, f"raw length {s.raw} is not the stored length")
        if _method_of(s.name) == RANGE_CODED and s.name != "CODE" and s.raw >> MAX_RATIO_BITS > s.stored:
            raise BitstreamError(s.name, at, f"raw length {s.raw} is too great for {s.stored} stored bytes")
        if s.raw > left:
            raise BitstreamError(s.name, at, f"decoded sections take more than the limit of {max_bytes} bytes")
        left -= s.raw
    if "HEAD" not in known:
        raise BitstreamError("HEAD", HEADER_BYTES, "section is missing")
    return known


def _check_kind(known: dict[str, _Section], is_pyramid: bool) -> None:
    """Check that the sections are those of the file's kind, none too few and none too many."""
    levels = [name for name in LEVELS if name in known] if is_pyramid else []
    own = ("STEP", *LEVELS[-max(1, len(levels)) :]) if is_pyramid else OF_CODEBOOK
    belong = ("HEAD", "META", "COLR", "PART", *own)
    for name in KNOWN:
        if name in belong and name not in known and _is_critical(name):
            raise BitstreamError(name, HEADER_BYTES, "section is missing")
        if name in known and name not in belong:
            raise BitstreamError(name, known[name].entry, "does not belong to a file of this kind")


class _Reader:
    """A section's bytes, read from the front."""

    def __init__(self, data: bytes, section: _Section) -> None:
        self.section = section
        self.rest = data[section.offset : section.offset + section.stored]

    def take(self, layout: str) -> tuple[Any, ...]:
        size = struct.calcsize("<" + layout)
        if len(self.rest) < size:
            raise self.section.refuse("ends inside its own header")
        values = struct.unpack("<" + layout, self.rest[:size])
        self.rest = self.rest[size:]
        return values

    def decode(self, n_contexts: int, walk: Callable[[entropy.Decoder], object]) -> None:
        """Decode the rest with `walk(decoder)`; it must use up every byte."""
        try:
            decoder = entropy.Decoder(n_contexts, self.rest)
            walk(decoder)
            if decoder.is_complete():
                return
        except entropy.Damaged:
            pass
        raise self.section.refuse("coded bytes are damaged")


@dataclass(frozen=True)
class _Head:
    lattice: Lattice
    n_channels: int
    n_codewords: int
    n_coded: int
    n_kept: int
    empty_density: float
    equation: Equation


def _read_head(data: bytes, section: _Section) -> _Head:
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
        empty_density, equation = _equation_of(scalars)
    except ValueError as error:
        raise section.refuse(str(error)) from None
    if number >= len(ACTIVATIONS):
        raise section.refuse(f"activation {number} is not supported")
    n_channels, n_codewords, n_coded, n_kept = counts
    equation = replace(equation, activation=ACTIVATIONS[number])
    return _Head(Lattice(lo, hi, shape), n_channels, n_codewords, n_coded, n_kept, empty_density, equation)


def _equation_of(numbers: Sequence[float]) -> tuple[float, Equation]:
    """The density of PRUNED voxels and the constants of rendering that HEAD's nine numbers are; the rest as by default."""
    empty_density, density_bias, interval, step_world, near, alpha_threshold, red, green, blue = numbers
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a constant is not finite")
    return empty_density, Equation(density_bias, interval, step_world, near, alpha_threshold, (red, green, blue))


def _working_bytes(shape: tuple[int, ...], levels: list[_Section]) -> int:
    """What working memory that grows with the lattice counts against the budget: FORMAT.md section 2."""
    n_blocks = math.prod(-(-side // entropy.BLOCK_SIDE) for side in shape)
    total = 24 * (shape[1] + 2) * (shape[2] + 2) + 2 * n_blocks + sum(s.raw for s in levels) // 2
    for number in range(len(levels) - 1):
        shape = coarser_shape(shape)
        total += math.prod(shape) * (1 if number else 5)
    return max(0, total - FREE_WORKING_BYTES)


def _read_metadata(text: bytes, offset: int) -> dict[str, Any]:
    try:
        metadata = json.loads(text.decode("ascii"))
        if metadata and canonical_json(metadata) == text:
            return cast(dict[str, Any], metadata)
    except (ValueError, RecursionError):
        pass
    raise BitstreamError("META", offset, "metadata is not a canonical JSON object")


def _read_quantizer(reader: _Reader, shape: tuple[int, ...]) -> Table:
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


def _read_items(reader: _Reader, tables: list[Table], by_column: bool) -> None:
    """Fill tables whose shapes and quantisers are known."""
    bits = [_bits_of(table) for table in tables]
    reader.section.expect_raw(sum(b.nbytes for b in bits))
    reader.decode(entropy.table_contexts(bits, by_column), lambda d: entropy.code_tables(d, bits, by_column))
    if any(not np.isfinite(table).all() for table in tables if not isinstance(table, Quantized)):
        raise reader.section.refuse("a value is not finite")


def _read_color_mlp(data: bytes, section: _Section, n_channels: int) -> tuple[Shading, int, Layers]:
    reader = _Reader(data, section)
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


def _read_partition(data: bytes, section: _Section, head: _Head) -> Uint8:
    partition = np.zeros(head.lattice.shape, np.uint8)
    flags: list[Uint8] = []
    _Reader(data, section).decode(entropy.PARTITION_CONTEXTS, lambda d: flags.append(entropy.code_partition(d, partition)))
    if not np.array_equal(flags[0], entropy.find_blocks(partition)):
        raise section.refuse("a block that is marked as occupied is empty")
    n_coded, n_kept = (int(np.count_nonzero(partition == kind)) for kind in (CODED, KEPT))
    if (n_coded, n_kept) != (head.n_coded, head.n_kept):
        said = f"the head says {head.n_coded} and {head.n_kept}"
        raise section.refuse(f"holds {n_coded} coded and {n_kept} kept voxels, {said}")
    return partition


def _read_levels(reader: _Reader, shape: tuple[int, ...], columns: int) -> Quantized:
    """Per-voxel levels of zeros with their quantiser; these are always bytes."""
    table = _read_quantizer(reader, (columns,))
    if not isinstance(table, Quantized) or table.levels.dtype != np.uint8:
        raise reader.section.refuse("levels of voxels are not bytes")
    return Quantized(np.zeros(shape, np.uint8), table.scale, table.offset)


def _read_steps(data: bytes, section: _Section, n_channels: int) -> tuple[Float32, Float32 | None]:
    reader = _Reader(data, section)
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


def _read_level(data: bytes, section: _Section, nodes: Nodes, above: entropy.Rows | None, values: Int16) -> entropy.Rows:
    """Fill a level's coefficients; what the next is to know of them."""
    found: list[entropy.Rows] = []
    contexts = entropy.level_contexts(values.shape[1])
    _Reader(data, section).decode(contexts, lambda d: found.append(entropy.code_level(d, nodes, above, values)))
    return found[0]


def _read_pyramid(data: bytes, known: dict[str, _Section], head: _Head) -> dict[str, Any]:
    """What a `PyramidField` has of its own, and its partition."""
    sections = [known[name] for name in LEVELS if name in known]
    steps, basis = _read_steps(data, known["STEP"], head.n_channels)
    sections[-1].expect_raw(2 * head.n_coded * len(steps))
    partition = _read_partition(data, known["PART"], head)
    levels = build_nodes(partition != PRUNED, len(sections) - 1)[::-1]
    for section, nodes in zip(sections, levels, strict=True):
        section.expect_raw(2 * nodes.n_nodes * len(steps))
    coefficients = tuple(np.zeros((nodes.n_nodes, len(steps)), np.int16) for nodes in levels)
    above: entropy.Rows | None = None
    for section, nodes, values in zip(sections, levels, coefficients, strict=True):
        if not section.is_here:
            break
        above = _read_level(data, section, nodes, above, values)
    return {"partition": partition, "steps": steps, "basis": basis, "coefficients": coefficients}


def _read_codebook(data: bytes, known: dict[str, _Section], head: _Head) -> dict[str, Any]:
    """What a `CompressedField` has of its own, and its partition."""
    reader = _Reader(data, known["BOOK"])
    codebook = _read_quantizer(reader, (head.n_codewords, head.n_channels))
    _read_items(reader, [codebook], by_column=True)
    partition = _read_partition(data, known["PART"], head)
    reader = _Reader(data, known["DENS"])
    density = _read_levels(reader, (head.n_coded + head.n_kept,), 1)
    levels = cast(Uint8, density.levels)
    reader.decode(entropy.DENSITY_CONTEXTS, lambda d: entropy.code_density(d, partition, levels))
    codes = np.zeros(head.n_coded, np.int32)
    _Reader(data, known["CODE"]).decode(
        entropy.code_contexts(head.n_codewords),
        lambda d: entropy.code_codes(d, partition, head.n_codewords, codes),
    )
    if (codes >= head.n_codewords).any():
        raise known["CODE"].refuse("a code is not below the codebook size")
    reader = _Reader(data, known["KEPT"])
    kept = _read_levels(reader, (head.n_kept, head.n_channels), head.n_channels)
    kept_levels = cast(Uint8, kept.levels)
    reader.decode(entropy.KEPT_CONTEXTS, lambda d: entropy.code_kept(d, partition, kept_levels))
    return {"partition": partition, "density": density, "codes": codes, "codebook": codebook, "kept": kept}


def _decode_twin(data: bytes, max_bytes: int, truncated: bool) -> dict[str, Any]:
    """The arguments of the field, metadata as text; by this module and `vqrf.codec.entropy` alone."""
    known = _select_known(_read_table(data, truncated), max_bytes)
    head = _read_head(data, known["HEAD"])
    is_pyramid = head.n_codewords == 0
    _check_kind(known, is_pyramid)
    levels = [s for name, s in known.items() if name in LEVELS]
    if sum(s.raw for s in known.values()) + _working_bytes(head.lattice.shape, levels) > max_bytes:
        raise known["HEAD"].refuse(f"decoding takes more than the limit of {max_bytes} bytes")
    known["PART"].expect_raw(head.lattice.n_voxels)
    if not is_pyramid:
        known["DENS"].expect_raw(head.n_coded + head.n_kept)
        known["CODE"].expect_raw(4 * head.n_coded)
        known["KEPT"].expect_raw(head.n_kept * head.n_channels)
    metadata = b""
    if meta := known.get("META"):
        if meta.stored > MAX_METADATA_BYTES:
            raise meta.refuse(f"metadata has {meta.stored} bytes, the limit is {MAX_METADATA_BYTES}")
        metadata = data[meta.offset : meta.offset + meta.stored]
    shading, feature_frequencies, color_mlp = _read_color_mlp(data, known["COLR"], head.n_channels)
    common = {
        "lattice": head.lattice,
        "color_mlp": color_mlp,
        "equation": replace(head.equation, shading=shading, feature_frequencies=feature_frequencies),
        "empty_density": head.empty_density,
        "metadata": metadata,
    }
    return common | (_read_pyramid if is_pyramid else _read_codebook)(data, known, head)


def _decode_native(data: bytes, max_bytes: int, truncated: bool) -> dict[str, Any]:
    """What `_decode_twin` gives, from the compiled core."""
    raw = importlib.import_module("vqrf._native").decode(data, max_bytes, truncated)
    if isinstance(raw, tuple):
        raise BitstreamError(*raw)
    tables = [_table_from_native(*table) for table in raw["color_mlp"]]
    layers = zip(tables[::2], tables[1::2], strict=True)
    empty_density, equation = _equation_of(raw["constants"].tolist())
    common = {
        "lattice": Lattice(raw["lo"], raw["hi"], raw["partition"].shape),
        "partition": raw["partition"],
        "color_mlp": tuple((weight, _flatten(bias)) for weight, bias in layers),
        "equation": replace(
            equation,
            shading=SHADINGS[raw["shading"]],
            activation=ACTIVATIONS[raw["activation"]],
            feature_frequencies=raw["feature_frequencies"],
        ),
        "empty_density": empty_density,
        "metadata": raw["metadata"],
    }
    if "coefficients" in raw:
        basis = raw["basis"] if raw["basis"].size else None
        return common | {"steps": raw["steps"], "basis": basis, "coefficients": tuple(raw["coefficients"])}
    return common | {
        "density": Quantized(*raw["density"]),
        "codes": raw["codes"],
        "codebook": _table_from_native(*raw["codebook"]),
        "kept": Quantized(*raw["kept"]),
    }


def _table_from_native(kind: int, items: NDArray[Any], scale: Float32, offset: Float32) -> Table:
    return items.view(np.float16) if kind == 0 else Quantized(items, scale, offset)


def _flatten(bias: Table) -> Table:
    """A bias [1, out] as [out]."""
    if isinstance(bias, Quantized):
        return Quantized(bias.levels[0], bias.scale, bias.offset)
    return cast(NDArray[np.float16], bias[0])
