"""The viewer's decoder and the compiled one on the same damaged files: `python tests/fuzz_viewer.py N [SEED [NAMES]]`.

NAMES are those of the files that are damaged, such as `planes*.vqrf`; without it, all of them.

Both must say the same of every mutant: accepted, with the same arrays, or refused, with the same section, byte and reason; once
as it is, and once taken as a file that may be cut off. Most mutants have their lengths and checksums put right again, so that
what is behind them is reached.
"""

from __future__ import annotations

import random
import select
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from vqrf.codec.bitstream import decode
from vqrf.codec.compressed import Compressed, CompressedField, items_of
from vqrf.codec.container import PLANES_VERSION, SPACE_VERSION, VERSION, BitstreamError
from vqrf.codec.planes import PlanesField
from vqrf.codec.pyramid import PyramidField

ROOT = Path(__file__).parents[1]
BUDGET = 1 << 22
"""Of the decoded arrays, so that no mutant takes long."""
ANSWER_SECONDS = 60
BATCH = 64
HEADER, ROW = 32, 32
SEALED = 0.85
"""Share of the mutants that are put right."""
CUT_OFF = 0.05
"""Share of the mutants that lack their end and nothing else."""


def split(data: bytes) -> list[tuple[bytes, bytes]]:
    """Rows of the table, and the bytes that each stands for."""
    parts, at = [], HEADER + ROW * struct.unpack_from("<I", data, 12)[0]
    for row in range(HEADER, at, ROW):
        size = struct.unpack_from("<Q", data, row + 8)[0]
        parts.append((data[row : row + ROW], data[at : at + size]))
        at += size
    return parts


def seal(parts: list[tuple[bytes, bytes]]) -> bytes:
    """A file of rows and bytes, with the lengths and checksums as they must be; a stored section's raw length too."""
    rows = b"".join(
        row[:8]
        + struct.pack("<Q", len(body))
        + (row[16:24] if row[6:8] == b"\x01\x00" else struct.pack("<Q", len(body)))
        + struct.pack("<I", zlib.crc32(body))
        + row[28:]
        for row, body in parts
    )
    length = HEADER + len(rows) + sum(len(body) for _, body in parts)
    names = {row[:4] for row, _ in parts}
    version = PLANES_VERSION if b"PLAN" in names else SPACE_VERSION if b"SPAC" in names else VERSION
    head = b"\x89VQR\r\n\x1a\n" + struct.pack("<HHIQI", *version, len(parts), length, 0)
    return head + struct.pack("<I", zlib.crc32(head + rows)) + rows + b"".join(body for _, body in parts)


def changed(rng: random.Random, data: bytes) -> bytes:
    """A few bytes flipped, set, cut out, doubled or put in."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 9))):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.choice((0, 1, 127, 128, 254, 255, rng.randrange(256)))
        elif kind == 2:
            del out[at : at + rng.choice((1, 2, 4, rng.randrange(1, 40)))]
        elif kind == 3:
            out[at:at] = out[at : at + rng.choice((1, 4, 32))]
        elif kind == 4:
            out[at:at] = rng.randbytes(rng.choice((1, 2, 4, 9)))
        else:
            out[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 2, 3, 65535, 65536, 1 << 31, rng.getrandbits(32))))
    return bytes(out)


def mutants(seed: int, n: int, names: str) -> Iterator[bytes]:
    """Damaged files; the same for the same seed."""
    rng = random.Random(seed)
    folders = [ROOT / "conformance" / "valid", ROOT / "viewer" / "test" / "pyramids"]
    files = [path.read_bytes() for folder in folders for path in sorted(folder.glob(names))]
    files = [data for data in files if len(data) < 6000]
    for _ in range(n):
        data = rng.choice(files)
        if rng.random() < CUT_OFF:
            yield seal(split(data))[: rng.randrange(len(data))]
            continue
        if rng.random() > SEALED:
            yield changed(rng, data)
            continue
        parts = split(data)
        at = rng.randrange(len(parts))
        row, body = parts[at]
        kind = rng.randrange(12)
        if kind == 0:
            parts[at] = changed(rng, row)[:ROW].ljust(ROW, b"\0"), body
        elif kind == 1:
            parts[at], other = rng.choice(parts), rng.randrange(len(parts))
            parts[other] = row, body
        elif kind == 2:
            others = {row[:4]: body for row, body in split(rng.choice(files))}
            parts[at] = row, others.get(row[:4], body)
        else:
            parts[at] = row, changed(rng, body)
        yield seal(parts)


def crc_of(field: Compressed) -> int:
    arrays = [field.partition]
    if isinstance(field, PyramidField):
        arrays += [field.steps, *([] if field.basis is None else [field.basis]), *field.coefficients]
    elif isinstance(field, PlanesField):
        arrays += [field.plane_steps, field.line_steps, items_of(field.mix)]
        arrays += [level for stack in (*field.planes, *field.lines) for level in stack]
    elif isinstance(field, CompressedField):
        arrays += [field.codes, field.density.levels, field.kept.levels, items_of(field.codebook)]
    arrays += [items_of(table) for layer in field.color_mlp for table in layer]
    return zlib.crc32(b"".join(array.tobytes() for array in arrays))


def verdict(data: bytes, truncated: bool) -> str:
    """What the decoder of this package says, as `viewer/tools/answer.js` says it."""
    try:
        return f"ok {crc_of(decode(data, max_bytes=BUDGET, truncated=truncated))}"
    except BitstreamError as error:
        return f"{error.section} {error.offset} {error.reason}"


class Answerer:
    """The viewer's decoder in a process of its own."""

    def __init__(self) -> None:
        command = ["node", str(ROOT / "viewer" / "tools" / "answer.js"), str(BUDGET)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Answerer:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def verdicts(self, batch: list[bytes]) -> list[list[str]]:
        """Of each file: what is said of it as it is, and as one that may be cut off.

        Raises AssertionError if an answer does not come: the decoder hangs, or died of an error it must not have.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(b"".join(struct.pack("<I", len(data)) + data for data in batch))
        self.process.stdin.flush()
        lines = b""
        while lines.count(b"\n") < len(batch):
            ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_SECONDS)
            assert ready, "the viewer's decoder hangs"
            chunk = self.process.stdout.read1(1 << 16)
            assert chunk, "the viewer's decoder died"
            lines += chunk
        return [line.split("\t") for line in lines.decode().splitlines()]


def compare(seed: int, n: int, names: str = "*.vqrf") -> Counter[str]:
    """How many mutants ended in which section, or `ok`.

    Raises:
      AssertionError: the decoders disagree; its second argument is the mutant.
    """
    counts: Counter[str] = Counter()
    source = mutants(seed, n, names)
    with Answerer() as answerer:
        while batch := list(islice(source, BATCH)):
            for data, answers in zip(batch, answerer.verdicts(batch), strict=True):
                for truncated, found in zip((False, True), answers, strict=True):
                    expected = verdict(data, truncated)
                    assert found == expected, (f"the viewer says {found!r}, the package {expected!r}", data)
                counts[answers[0].split()[0]] += 1
    return counts


def main() -> None:
    n, seed, names = (*sys.argv[1:], *("", "0", "*.vqrf")[len(sys.argv[1:]) :])
    start = time.perf_counter()
    try:
        counts = compare(int(seed), int(n), names)
    except AssertionError as error:
        reason, data = error.args[0] if isinstance(error.args[0], tuple) else (error.args[0], b"")
        Path("mutant.vqrf").write_bytes(data)
        sys.exit(f"{reason}; see mutant.vqrf")
    print(f"{n} mutants in {time.perf_counter() - start:.0f} s, all alike: {dict(counts.most_common())}")


if __name__ == "__main__":
    main()
