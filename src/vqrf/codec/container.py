"""A .vqrf file from outside: the header, the table of its sections, their order and checksums. FORMAT.md section 3.

Nothing here knows what a section says (`vqrf.codec.contents`). Safe for untrusted input: sections tile the file exactly, and a
length is believed only where it is within the bounds.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vqrf.codec import entropy
from vqrf.codec.pyramid import MAX_LEVELS

SIGNATURE = b"\x89VQR\r\n\x1a\n"
VERSION, SPACE_VERSION, PLANES_VERSION = (1, 0), (2, 0), (3, 0)
"""The versions that are written: of a field in a box, of one in another space, and of planes and lines."""
MAJORS = (1, 2, 3)
"""Those that are read, whatever their minor version."""
HEADER_BYTES = 32
ENTRY_BYTES = 32

MAX_SECTIONS = 64
MAX_RATIO_BITS = 19
"""A coded byte describes fewer than 2^19 bytes, because no context is surer than 39/32768."""

STORED, RANGE_CODED = 0, 1
LEVELS = tuple(f"LEV{number}" for number in range(MAX_LEVELS, -1, -1))
"""The levels of a pyramid, coarsest first; a file has those from its coarsest on."""
PLANES, LINES = (tuple(f"{kind}{number}" for number in range(MAX_LEVELS, -1, -1)) for kind in ("PLN", "LIN"))
"""The levels of the three planes, and of the three lines, coarsest first."""
OF_PLANES = ("PLAN", "MIXT", *PLANES, *LINES)
"""What only a file of planes and lines has; of the levels those from its coarsest on."""
KNOWN = (
    "HEAD",
    "SPAC",
    "META",
    "COLR",
    "BOOK",
    "STEP",
    "PLAN",
    "MIXT",
    "PART",
    "DENS",
    "CODE",
    "KEPT",
    *LEVELS,
    *PLANES,
    *LINES,
)
"""The sections of a file, in their order; a version knows some of them. META may be absent, and a reader may skip it."""
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


def assemble(contents: list[tuple[str, int, bytes]]) -> bytes:
    """The file of these sections, in any order: (name, bytes when decoded, bytes); META is left out if it is empty."""
    sections = sorted((s for s in contents if s[0] != "META" or s[2]), key=lambda section: KNOWN.index(section[0]))
    table = b""
    for name, raw, stored in sections:
        method = method_of(name)
        size = raw if method == RANGE_CODED else len(stored)
        table += struct.pack("<4sHHQQII", name.encode(), is_critical(name), method, len(stored), size, zlib.crc32(stored), 0)
    total = HEADER_BYTES + len(table) + sum(len(stored) for _, _, stored in sections)
    names = {name for name, _, _ in sections}
    version = PLANES_VERSION if "PLAN" in names else SPACE_VERSION if "SPAC" in names else VERSION
    start = SIGNATURE + struct.pack("<HHIQI", *version, len(sections), total, 0)
    return b"".join([start, struct.pack("<I", zlib.crc32(start + table)), table, *(s for _, _, s in sections)])


def with_section(data: bytes, name: str, body: bytes) -> bytes:
    """A file with another stored section, or without it where `body` is empty; no byte of another section changes.

    Args:
      data: a file; what is not known in it stays too.
      name: of a section of this version that is stored as it is, such as META.

    Raises:
      BitstreamError: header, table or a checksum is wrong.
    """
    rows, bodies = [], []
    new = struct.pack("<4sHHQQII", name.encode(), is_critical(name), STORED, len(body), len(body), zlib.crc32(body), 0)
    is_due = bool(body)
    for s in read_table(data):
        if is_due and s.name in KNOWN and KNOWN.index(s.name) >= KNOWN.index(name):
            rows.append(new)
            bodies.append(body)
            is_due = False
        if s.name != name:
            rows.append(data[s.entry : s.entry + ENTRY_BYTES])
            bodies.append(data[s.offset : s.offset + s.stored])
    table = b"".join(rows)
    total = HEADER_BYTES + len(table) + sum(map(len, bodies))
    start = data[:12] + struct.pack("<IQI", len(rows), total, 0)
    return b"".join([start, struct.pack("<I", zlib.crc32(start + table)), table, *bodies])


def method_of(name: str) -> int:
    return STORED if name in ("HEAD", "SPAC", "META", "STEP", "PLAN") else RANGE_CODED


def is_critical(name: str) -> bool:
    return name != "META"


def known_sections(data: bytes) -> tuple[str, ...]:
    """The sections that the version of a file knows, in their order."""
    major = major_of(data)
    if major == PLANES_VERSION[0]:
        return ("HEAD", "META", "COLR", "PLAN", "MIXT", "PART", *PLANES, *LINES)
    return tuple(name for name in KNOWN if name not in OF_PLANES and (name != "SPAC" or major > 1))


def major_of(data: bytes) -> int:
    """The major version that the bytes say; 0 where they end before it."""
    return int.from_bytes(data[8:10], "little")


def sections(data: bytes) -> list[tuple[str, int, int]]:
    """(name, offset, bytes) of the header with its table and of every section; the bytes add up to the file.

    Raises:
      BitstreamError: header, table or a checksum is wrong.
    """
    entries = read_table(data)
    return [("header", 0, entries[0].offset), *((s.name, s.offset, s.stored) for s in entries)]


@dataclass(frozen=True)
class Section:
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
    if major not in MAJORS:
        raise BitstreamError("header", 8, f"version {major}.{minor} is not supported: this reader knows 1.x to 3.x")
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


def _read_entry(data: bytes, entry: int, offset: int) -> Section:
    letters, flags, method, stored, raw, crc, reserved = struct.unpack("<4sHHQQII", data[entry : entry + ENTRY_BYTES])
    if any(not (65 <= c <= 90 or 48 <= c <= 57) for c in letters):
        raise BitstreamError("header", entry, "section name is not four capital letters or digits")
    name = letters.decode()
    if name not in known_sections(data):
        if flags & 1:
            raise BitstreamError(name, entry, "unknown critical section")
    elif flags != is_critical(name):
        raise BitstreamError(name, entry + 4, f"flags are {flags}, not the section's")
    elif method != method_of(name):
        raise BitstreamError(name, entry + 6, f"coding method {method} is not supported")
    elif reserved:
        raise BitstreamError(name, entry + 28, "reserved bytes are not zero")
    return Section(name, entry, offset, stored, raw, crc)


def read_table(data: bytes, truncated: bool = False) -> list[Section]:
    """The section table, checked to tile the file exactly, with every checksum right.

    With `truncated`, levels after the coarsest and what follows them may be missing.
    """
    count = _check_header(data)
    (total,) = struct.unpack("<Q", data[16:24])
    bad_sum = BitstreamError("header", 16, f"file length {total} is not the sum of its parts")
    entries: list[Section] = []
    known = known_sections(data)
    end, last_known = HEADER_BYTES + ENTRY_BYTES * count, -1
    for i in range(count):
        s = _read_entry(data, HEADER_BYTES + ENTRY_BYTES * i, end)
        if s.name in known:
            if known.index(s.name) <= last_known:
                raise BitstreamError(s.name, s.entry, "appears twice or out of order")
            last_known = known.index(s.name)
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


def select_known(data: bytes, entries: list[Section], max_bytes: int) -> dict[str, Section]:
    names = known_sections(data)
    known = {s.name: s for s in entries if s.name in names}
    left = max_bytes
    for s in known.values():
        at = s.entry + 16
        if method_of(s.name) == STORED and s.raw != s.stored:
            raise BitstreamError(s.name, at, f"raw length {s.raw} is not the stored length")
        if method_of(s.name) == RANGE_CODED and s.name != "CODE" and s.raw >> MAX_RATIO_BITS > s.stored:
            raise BitstreamError(s.name, at, f"raw length {s.raw} is too great for {s.stored} stored bytes")
        if s.raw > left:
            raise BitstreamError(s.name, at, f"decoded sections take more than the limit of {max_bytes} bytes")
        left -= s.raw
    if "HEAD" not in known:
        raise BitstreamError("HEAD", HEADER_BYTES, "section is missing")
    return known


def check_kind(data: bytes, known: dict[str, Section], is_pyramid: bool) -> None:
    """Check that the sections are those of the file's kind, none too few and none too many."""
    if major_of(data) == PLANES_VERSION[0]:
        own = ("PLAN", "MIXT", *_levels_there(known, PLANES), *_levels_there(known, LINES))
    elif is_pyramid:
        own = ("STEP", *_levels_there(known, LEVELS))
    else:
        own = OF_CODEBOOK
    belong = ("HEAD", "SPAC", "META", "COLR", "PART", *own)
    for name in known_sections(data):
        if name in belong and name not in known and is_critical(name):
            raise BitstreamError(name, HEADER_BYTES, "section is missing")
        if name in known and name not in belong:
            raise BitstreamError(name, known[name].entry, "does not belong to a file of this kind")


def _levels_there(known: dict[str, Section], names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the levels' names that a file must have: as many as it has, the finest among them."""
    return names[-max(1, sum(name in known for name in names)) :]


class Reader:
    """A section's bytes, read from the front."""

    def __init__(self, data: bytes, section: Section) -> None:
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
