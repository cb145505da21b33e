"""The viewer's decoder, which is JavaScript: its own tests, its types, the package's verdict on damaged files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from fuzz_viewer import compare

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
