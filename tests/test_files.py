"""A file is read no further than there is room for it, and what is no file is not waited for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vqrf.files import read_file


def test_a_file_is_read_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_file(path) == read_file(path, 5) == b"12345"
    with pytest.raises(OSError, match="is larger than the limit of 4 bytes") as caught:
        read_file(path, 4)
    assert caught.value.filename == str(path)


def test_a_great_file_with_nothing_in_it_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="is larger than the limit"):
        read_file(path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there are no devices of this kind")
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        ("/dev/zero", "is no file"),
        (tmp_path / "pipe", "is no file"),
        (tmp_path, "is a folder"),
        (tmp_path / "gone", "No such file"),
        ("a\0b", "null byte"),
    ):
        with pytest.raises(OSError, match=reason):
            read_file(path)


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="there are no pipes of this kind")
def test_a_pipe_that_was_opened_for_us_is_read_and_only_so_far() -> None:
    code = "import sys; from vqrf.files import read_file; print(len(read_file('/dev/stdin', int(sys.argv[1]))))"
    words, paths = [sys.executable, "-c", code], {"PYTHONPATH": ":".join(sys.path)}
    fits, exceeds = (subprocess.run([*words, n], input=b"12345", capture_output=True, env=paths, check=False) for n in "54")
    assert fits.stdout == b"5\n"
    assert b"is larger than the limit" in exceeds.stderr
