"""The viewer's decoder, which is JavaScript: its own tests, its types, the package's verdict on damaged files."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from fuzz_viewer import Answerer, compare, verdict

VIEWER = Path(__file__).parents[2] / "viewer"
N_MUTANTS = 2000
pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="there is no node on the PATH")


def test_the_decoder_passes_its_own_tests() -> None:
    result = subprocess.run(["node", "--test", "test/"], cwd=VIEWER, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:]
    assert "\n# pass 0" not in result.stdout


def test_the_types_of_the_viewer_fit() -> None:
    if not (VIEWER / "node_modules" / "typescript").is_dir():
        pytest.skip("the packages that check the viewer are not installed: npm ci in viewer/")
    result = subprocess.run(["npx", "tsc", "--project", "."], cwd=VIEWER, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_both_decoders_say_the_same_of_damaged_files() -> None:
    counts = compare(seed=3, n=N_MUTANTS)
    assert counts.total() == N_MUTANTS
    assert counts["ok"] and all(
        counts[name]
        for name in ("header", "HEAD", "META", "COLR", "BOOK", "STEP", "PART", "DENS", "CODE", "KEPT", "LEV1", "LEV0")
    )


def test_a_length_that_is_too_great_is_found_before_what_is_wrong_with_a_later_row() -> None:
    """FORMAT.md section 7 goes row by row; checksums are right, as whoever means harm sees to."""
    data = (VIEWER.parent / "conformance" / "valid" / "one_codeword.vqrf").read_bytes()
    (count,) = struct.unpack_from("<I", data, 12)
    table = bytearray(data[32 : 32 + 32 * count])
    struct.pack_into("<Q", table, 8, 1 << 40)  # the first row's stored length
    struct.pack_into("<H", table, 32 + 6, 9)  # the second row's method
    head = data[:28]
    bad = head + struct.pack("<I", zlib.crc32(head + table)) + bytes(table) + data[32 + 32 * count :]
    with Answerer() as answerer:
        ((whole, cut_off),) = answerer.verdicts([bad])
    assert whole == verdict(bad, False) and cut_off == verdict(bad, True)
    assert whole.startswith("header 16 ")
