"""What is odd about a file that decodes: things that the format allows and that no encoder of ours writes.

A decoder must take any file that FORMAT.md allows. A file with findings is one that some other program wrote, or that was
made to look like ours: bytes that nothing uses, constants that no training gives, voxels that no ray can see.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vqrf.codec.bitstream import decode, verify
from vqrf.codec.compressed import PRUNED, Compressed, CompressedField, Quantized, Table
from vqrf.codec.container import KNOWN, LEVELS, LINES, PLANES, BitstreamError, sections
from vqrf.codec.planes import PlanesField
from vqrf.codec.pyramid import MAX_MAGNITUDE, PyramidField
from vqrf.geometry import grown

MAX_INTERVAL = 16.0
"""Step lengths of one exponent: training uses 0.5, and more than a few make every cell of a surface opaque."""
MAX_BIAS = 100.0
"""Largest density bias that makes sense: alpha is 0 or 1 to the last bit well before that."""
MIN_STEPS_PER_SIDE = 1e-4
"""Shortest spacing of samples, as a share of the lattice's longest side: a ray has at most some ten thousand samples."""
MAX_HIDDEN_SHARE = 0.01
"""Share of the voxels with values that may be fainter than the threshold. Tuning leaves a few, and more are a mistake."""


@dataclass(frozen=True)
class Finding:
    """Something that is odd about a file.

    Attributes:
      section: "header", "end", or the four letters of a section.
      offset: byte of the file where the section begins, or where it is wrong.
      reason: one line.
    """

    section: str
    offset: int
    reason: str


def inspect(data: bytes, *, max_bytes: int = 1 << 30) -> list[Finding]:
    """Everything odd about a file, in the order of its sections; where it is refused, only why.

    Args:
      data: the whole file.
      max_bytes: as for `vqrf.codec.bitstream.decode`.

    Safe for untrusted input. Deterministic.
    """
    if refused := refusals(data, max_bytes=max_bytes):
        return refused
    field = decode(data, max_bytes=max_bytes)
    parts = sections(data)
    places = {name: offset for name, offset, _ in parts}
    unknown = [
        Finding(name, offset, f"is no section of this version: its {size} bytes are skipped")
        for name, offset, size in parts[1:]
        if name not in KNOWN
    ]
    odd = [*_odd_constants(field), *_odd_layers(field)]
    match field:
        case PyramidField():
            odd += [*_odd_levels(field), *_hidden_voxels(field)]
        case PlanesField():
            odd += [*_odd_planes(field), *_odd_quantizer("MIXT", "mix", field.mix)]
        case CompressedField():
            odd += [*_odd_tables(field), *_odd_codebook(field), *_hidden_voxels(field)]
    found = [Finding(name, places[name], reason) for name, reason in odd]
    return sorted([*unknown, *found], key=lambda finding: finding.offset)


def refusals(data: bytes, *, max_bytes: int = 1 << 30) -> list[Finding]:
    """Why `vqrf.codec.bitstream.verify` refuses a file, or nothing. Safe for untrusted input."""
    try:
        verify(data, max_bytes=max_bytes)
    except BitstreamError as error:
        return [Finding(error.section, error.offset, error.reason)]
    return []


def _odd_constants(field: Compressed) -> Iterator[tuple[str, str]]:
    """(section, reason) of the constants that no training gives."""
    equation, lattice = field.equation, field.lattice
    longest = max(hi - lo for lo, hi in zip(lattice.lo, lattice.hi, strict=True))
    ranges = {
        "density_bias": (-MAX_BIAS, MAX_BIAS),
        "interval": (0.0, MAX_INTERVAL),
        "step_world": (MIN_STEPS_PER_SIDE * longest, longest),
        "near": (0.0, math.inf),
    }
    for name, (least, most) in ranges.items():
        value = getattr(equation, name)
        if not least <= value <= most:
            yield "HEAD", f"{name} is {value:g}, expected {least:g}..{most:g}"
    if equation.fault():
        yield "HEAD", f"alpha_threshold is {equation.alpha_threshold:g}, expected a value between 0 and 1: nothing renders it"
    elif field.empty_density > equation.floor:
        yield "HEAD", f"empty_density is {field.empty_density:g}, above the threshold: PRUNED voxels show beside others"
    if not all(0 <= value <= 1 for value in equation.background):
        yield "HEAD", f"background is {equation.background}, expected 0..1"


def _odd_layers(field: Compressed) -> Iterator[tuple[str, str]]:
    for i, (weight, bias) in enumerate(field.color_mlp):
        yield from _odd_quantizer("COLR", f"weight {i}", weight)
        yield from _odd_quantizer("COLR", f"bias {i}", bias)


def _odd_tables(field: CompressedField) -> Iterator[tuple[str, str]]:
    yield from _odd_quantizer("BOOK", "codebook", field.codebook)
    yield from _odd_quantizer("DENS", "density", field.density)
    yield from _odd_quantizer("KEPT", "kept", field.kept)


def _odd_quantizer(section: str, name: str, table: Table) -> Iterator[tuple[str, str]]:
    """(section, reason) of a quantiser that no values have."""
    if not isinstance(table, Quantized):
        return
    if (table.scale <= 0).any():
        yield section, f"{name}: a scale is not positive, so that levels say nothing or run backwards"
    with np.errstate(over="ignore"):
        most = table.offset + table.scale * np.float32(np.iinfo(table.levels.dtype).max)
    if not np.isfinite(most).all():
        yield section, f"{name}: a level is worth more than float32 holds"


def _odd_levels(field: PyramidField) -> Iterator[tuple[str, str]]:
    """(section, reason) of what a pyramid would not need, or could not mean."""
    with np.errstate(over="ignore"):
        most = field.steps * np.float32(MAX_MAGNITUDE)
    if not np.isfinite(most).all():
        yield "STEP", "a coefficient is worth more than float32 holds"
    if field.basis is not None and not field.basis.any(1).all():
        yield "STEP", "a row of the basis is 0, so that its latent says nothing"
    coarsest = field.coefficients[0]
    if field.n_levels and coarsest.size and not coarsest.any():
        yield LEVELS[-1 - field.n_levels], f"all {coarsest.size} coefficients of the coarsest level are 0: it says nothing"


def _odd_planes(field: PlanesField) -> Iterator[tuple[str, str]]:
    """(section, reason) of what planes and lines would not need, or could not mean."""
    with np.errstate(over="ignore"):
        most = np.float32(MAX_MAGNITUDE) * np.concatenate([field.plane_steps, field.line_steps])
    if not np.isfinite(most).all():
        yield "PLAN", "a coefficient is worth more than float32 holds"
    for names, stacks in ((PLANES, field.planes), (LINES, field.lines)):
        coarsest = [stack[0] for stack in stacks]
        if len(stacks[0]) > 1 and any(level.size for level in coarsest) and not any(map(np.count_nonzero, coarsest)):
            yield names[-len(stacks[0])], "all coefficients of the coarsest level are 0: it says nothing"


def _odd_codebook(field: CompressedField) -> Iterator[tuple[str, str]]:
    """(section, reason) of codewords that nothing names; one must be there, even if no voxel is CODED."""
    used = np.zeros(field.n_codewords, bool)
    used[field.codes] = True
    n_idle = int(np.count_nonzero(~used)) - (field.n_coded == 0)
    if n_idle > 0:
        yield "BOOK", f"{n_idle} of {field.n_codewords} codewords are named by no voxel"


def _hidden_voxels(field: Compressed) -> Iterator[tuple[str, str]]:
    """(section, reason) of voxels that hold values of their own and that no ray can see: those of planes hold none.

    Density is trilinear, so in a cell it is at most that of the densest of its eight voxels. A voxel none of whose cells
    has one above the threshold has no part in any sample.
    """
    stored = field.partition != PRUNED
    if not stored.any() or field.equation.fault():
        return
    with np.errstate(over="ignore", invalid="ignore"):
        faint = np.ones(stored.shape, bool)
        faint[stored] = field.voxel_values()[0] <= field.equation.floor
    hidden = int(np.count_nonzero(stored & ~grown(~faint, 1)))
    n_stored = int(np.count_nonzero(stored))
    if hidden > MAX_HIDDEN_SHARE * n_stored:
        yield "PART", f"{hidden} of the {n_stored} voxels that hold values can be seen by no ray: all around them is empty"
