"""Both decoders on the same damaged files: `python tests/fuzz/differential.py REPLAY N FILE...`.

REPLAY is the program of `replay.cpp`. Of every file it makes N mutants; of each, the Python twin and the compiled core must
say the same: the same field, or the same section, byte and reason. A field must encode to the file it came from.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from vqrf.codec.bitstream import decode, verify
from vqrf.codec.compressed import CompressedField
from vqrf.codec.container import BitstreamError
from vqrf.codec.pyramid import PyramidField

MAX_BYTES = 1 << 20
"""The budget, small enough that the twin takes no minute for the largest field that it lets pass."""


def mutants_of(replay: Path, n_mutants: int, files: Sequence[Path]) -> Iterator[bytes]:
    """What `replay write` makes of the files."""
    command = [str(replay), "write", str(n_mutants), *map(str, files)]
    out = subprocess.run(command, check=True, capture_output=True).stdout
    at = 0
    while at < len(out):
        (size,) = struct.unpack_from("<I", out, at)
        yield out[at + 4 : at + 4 + size]
        at += 4 + size


def outcome(data: bytes, native: str, truncated: bool) -> CompressedField | PyramidField | tuple[str, int, str]:
    """What one of the decoders says of a file, or of one that may be cut off."""
    os.environ["VQRF_NATIVE"] = native
    try:
        return decode(data, max_bytes=MAX_BYTES, truncated=truncated)
    except BitstreamError as error:
        return error.section, error.offset, error.reason


def compare(mutants: Iterator[bytes]) -> tuple[int, int]:
    """How many mutants were tried, and how many of them were accepted.

    Raises:
      AssertionError: the decoders disagree; the mutant is its second argument.
    """
    before = os.environ.get("VQRF_NATIVE")
    n_tried = n_accepted = 0
    try:
        for data in mutants:
            core, twin = outcome(data, "1", False), outcome(data, "0", False)
            if core != twin:
                raise AssertionError(f"the core says {core}, the twin {twin}", data)
            if isinstance(core, tuple) and core[2].startswith("truncated"):
                core_cut, twin_cut = outcome(data, "1", True), outcome(data, "0", True)
                if core_cut != twin_cut:
                    raise AssertionError(f"of what is cut off the core says {core_cut}, the twin {twin_cut}", data)
            n_tried += 1
            if not isinstance(core, tuple):
                n_accepted += 1
                os.environ["VQRF_NATIVE"] = "1"
                verify(data, max_bytes=MAX_BYTES)
    finally:
        if before is None:
            os.environ.pop("VQRF_NATIVE", None)
        else:
            os.environ["VQRF_NATIVE"] = before
    return n_tried, n_accepted


def main() -> None:
    start = time.perf_counter()
    replay, n_mutants, *files = sys.argv[1:]
    try:
        n_tried, n_accepted = compare(mutants_of(Path(replay), int(n_mutants), [Path(file) for file in files]))
    except AssertionError as error:
        reason, data = error.args
        Path("mutant.vqrf").write_bytes(data)
        sys.exit(f"{reason}; see mutant.vqrf")
    print(f"{n_tried} tried, {n_accepted} accepted, all alike, in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
