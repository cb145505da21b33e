"""A little of `tests/kill_verbs.py` each time; the long way is `python tests/kill_verbs.py N`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vqrf.kernels import has_native

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="forks, and counts computing as Linux does"),
    pytest.mark.skipif(not has_native(), reason="bytes are promised of the compiled core; the reference takes minutes"),
    pytest.mark.slow,
]

SCRIPT = Path(__file__).parents[1] / "kill_verbs.py"


def test_commands_that_are_killed_anywhere_end_in_the_same_bytes_and_leave_nothing() -> None:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, SCRIPT, "12", "3"], env=variables, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert " 0 faults" in ended.stdout
