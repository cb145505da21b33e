"""The promise: a compressed field as bytes, and back. FORMAT.md is the specification.

`encode` loses nothing and `decode(encode(x)) == x`. `decode` needs the bytes and nothing else: no torch, no
settings, no network. It is safe for untrusted input: every number of the file is bounded before anything is
allocated for it, every section has a checksum, and the one exception it raises says in which section and at
which byte the file is wrong.

The compiled core decodes and encodes when it is here; otherwise this module and `vqrf.codec.walks` do, to the
same bytes.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vqrf.codec import walks
from vqrf.codec.compressed import MAX_METADATA_BYTES, Compressed, CompressedField, Quantized, Table
from vqrf.codec.container import (
    LEVELS,
    LINES,
    PLANES,
    PLANES_VERSION,
    BitstreamError,
    Section,
    assemble,
    check_kind,
    known_sections,
    major_of,
    read_table,
    select_known,
)
from vqrf.codec.contents import (
    ACTIVATIONS,
    SHADINGS,
    equation_of,
    read_codebook,
    read_color_mlp,
    read_head,
    read_metadata,
    read_planes,
    read_pyramid,
    read_space,
    space_of,
    write_codebook,
    write_common,
    write_planes,
    write_pyramid,
)
from vqrf.codec.planes import PlanesField
from vqrf.codec.pyramid import PyramidField, coarser_shape
from vqrf.geometry import Float32, Lattice
from vqrf.kernels import has_native

FREE_WORKING_BYTES = 1 << 20
"""Bytes of a decoder's working memory that do not count against the caller's budget."""


def encode(field: Compressed) -> bytes:
    """The bytes of a .vqrf file, the same on every machine and with or without the compiled core."""
    coder = _walks()
    match field:
        case PyramidField():
            own = write_pyramid(field, coder)
        case CompressedField():
            own = write_codebook(field, coder)
        case PlanesField():
            own = write_planes(field, coder)
        case _:
            kinds = "a CompressedField, a PyramidField or a PlanesField"
            raise TypeError(f"field: expected {kinds}, got {type(field).__name__}")
    return assemble([*write_common(field, coder), *own])


def decode(data: bytes, *, max_bytes: int = 1 << 30, truncated: bool = False) -> Compressed:
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
    raw = (_decode_native if has_native() else _decode_twin)(data, max_bytes, truncated)
    metadata = raw.pop("metadata")
    meta_at = next((s.offset for s in read_table(data, truncated) if s.name == "META"), None)
    try:
        kind = PyramidField if "coefficients" in raw else PlanesField if "planes" in raw else CompressedField
        field: Compressed = kind(metadata={}, **raw)
    except ValueError as error:  # every cause is checked before; this keeps the promise if one is forgotten
        raise BitstreamError("HEAD", 0, str(error)) from None
    if meta_at is not None:
        object.__setattr__(field, "metadata", read_metadata(metadata, meta_at))
    return field


def verify(data: bytes, *, max_bytes: int = 1 << 30) -> Compressed:
    """Decode a file and check that encoding what came out gives the same bytes, section by section.

    Sections that this version does not know are not critical and are left out of the comparison.

    Raises:
      BitstreamError: the file is refused, or a section comes out otherwise.
    """
    field = decode(data, max_bytes=max_bytes)
    again, known = encode(field), known_sections(data)
    rewritten = {s.name: again[s.offset : s.offset + s.stored] for s in read_table(again)}
    for s in read_table(data):
        if s.name in known and rewritten.get(s.name) != data[s.offset : s.offset + s.stored]:
            raise BitstreamError(s.name, s.offset, "encodes to other bytes")
    return field


def _working_bytes(shape: tuple[int, int, int], known: dict[str, Section]) -> int:
    """What working memory that grows with the lattice counts against the budget: FORMAT.md section 2."""
    x, y, z = shape
    n_blocks = math.prod(-(-side // walks.BLOCK_SIDE) for side in shape)
    total = 24 * (y + 2) * (z + 2) + 2 * n_blocks
    total += sum(s.raw for name, s in known.items() if name in (*LEVELS, *PLANES, *LINES)) // 2
    if "PLAN" in known:
        total += 12 * (x * y + x * z + y * z)
    coarser: tuple[int, ...] = shape
    for number in range(sum(name in LEVELS for name in known) - 1):
        coarser = coarser_shape(coarser)
        total += math.prod(coarser) * (1 if number else 5)
    return max(0, total - FREE_WORKING_BYTES)


def _decode_twin(data: bytes, max_bytes: int, truncated: bool) -> dict[str, Any]:
    """The arguments of the field, metadata as text; by this module and `vqrf.codec.walks` alone."""
    known = select_known(data, read_table(data, truncated), max_bytes)
    head = read_head(data, known["HEAD"])
    is_pyramid = head.n_codewords == 0
    check_kind(data, known, is_pyramid)
    is_planes = major_of(data) == PLANES_VERSION[0]
    if is_planes and not is_pyramid:
        raise known["HEAD"].refuse("planes and lines have no codebook")
    if sum(s.raw for s in known.values()) + _working_bytes(head.lattice.shape, known) > max_bytes:
        raise known["HEAD"].refuse(f"decoding takes more than the limit of {max_bytes} bytes")
    space = read_space(data, known["SPAC"]) if "SPAC" in known else None
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
    shading, feature_frequencies, color_mlp = read_color_mlp(data, known["COLR"], head.n_channels)
    common = {
        "lattice": replace(head.lattice, space=space),
        "color_mlp": color_mlp,
        "equation": replace(head.equation, shading=shading, feature_frequencies=feature_frequencies),
        "empty_density": head.empty_density,
        "metadata": metadata,
    }
    read = read_planes if is_planes else read_pyramid if is_pyramid else read_codebook
    return common | read(data, known, head)


def _walks() -> Any:
    """Who encodes streams: the compiled core, or its twin."""
    return importlib.import_module("vqrf._native") if has_native() else walks


def _decode_native(data: bytes, max_bytes: int, truncated: bool) -> dict[str, Any]:
    """What `_decode_twin` gives, from the compiled core."""
    raw = importlib.import_module("vqrf._native").decode(data, max_bytes, truncated)
    if isinstance(raw, tuple):
        raise BitstreamError(*raw)
    tables = [_table_from_native(*table) for table in raw["color_mlp"]]
    layers = zip(tables[::2], tables[1::2], strict=True)
    empty_density, equation = equation_of(raw["constants"].tolist())
    common = {
        "lattice": Lattice(raw["lo"], raw["hi"], raw["partition"].shape, space_of(*raw["space"]) if raw["space"] else None),
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
    if "planes" in raw:
        stacks = {name: tuple(map(tuple, raw[name])) for name in ("planes", "lines")}
        steps = {name: raw[name] for name in ("plane_steps", "line_steps")}
        return common | stacks | steps | {"mix": _table_from_native(*raw["mix"])}
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
