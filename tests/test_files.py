"""Files are read no further than there is room for them, and written whole or not at all; what is no file is not waited for."""

from __future__ import annotations

import contextlib
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vqrf.files import is_url, making, read_file, read_url, remove_stale, write_atomically


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


def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"first, and longer", b"second", b""):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_write_keeps_who_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"first")
    usual = path.stat().st_mode
    path.chmod(0o600)
    write_atomically(path, b"second")
    assert path.stat().st_mode & 0o777 == 0o600
    write_atomically(tmp_path / "other", b"x")
    assert (tmp_path / "other").stat().st_mode == usual


def test_a_write_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_atomically(tmp_path / "link", b"data")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"data"


@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "replace")])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, call: str
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(owner, call, fail)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old" and [file.name for file in tmp_path.iterdir()] == ["file"]


def test_an_error_of_writing_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    missing = tmp_path / "gone" / "file"
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(missing, b"data")
    assert caught.value.filename == str(missing)
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path, b"data")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which stands for a full disk")
def test_a_full_disk_is_reported_with_the_name_of_the_file() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically("/dev/full", b"data")
    assert caught.value.filename == "/dev/full"


WRITING = """
import os, sys
from pathlib import Path
from vqrf.files import making, write_atomically
os.fsync = lambda _: (print("half", flush=True), sys.stdin.readline())
write_atomically(sys.argv[1], b"new")
"""


def test_what_a_write_left_that_was_killed_is_removed_and_one_that_goes_on_is_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    (tmp_path / ".another.tmp").touch()
    words = [sys.executable, "-c", WRITING, str(path)]
    going, killed = (
        subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": os.pathsep.join(sys.path)}
        )
        for _ in range(2)
    )
    for process in (going, killed):
        assert process.stdout is not None and process.stdout.readline() == "half\n"
    killed.kill()
    killed.communicate()
    assert len(list(tmp_path.iterdir())) == 4
    remove_stale(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    going.communicate("\n")
    assert going.returncode == 0
    assert path.read_bytes() == b"new" and {file.name for file in tmp_path.iterdir()} == {"file", ".another.tmp"}
    remove_stale(tmp_path / "gone")


def test_the_next_that_writes_into_a_folder_clears_up_after_one_that_was_killed(tmp_path: Path) -> None:
    words = [sys.executable, "-c", WRITING, str(tmp_path / "file")]
    variables = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables) as killed:
        assert killed.stdout is not None and killed.stdout.readline() == "half\n"
        killed.kill()
    assert len(list(tmp_path.iterdir())) == 1
    write = "import sys; from vqrf.files import write_atomically; write_atomically(sys.argv[1], b'')"
    subprocess.run([sys.executable, "-c", write, str(tmp_path / "other")], env=variables, check=True)
    assert [file.name for file in tmp_path.iterdir()] == ["other"]


def test_what_others_write_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "film"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="half"), making(path) as temporary:
        temporary.write_bytes(b"some")
        raise ValueError("half")
    assert path.read_bytes() == b"old" and [file.name for file in tmp_path.iterdir()] == ["film"]
    with making(path) as temporary:
        temporary.write_bytes(b"whole")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"whole" and [file.name for file in tmp_path.iterdir()] == ["film"]


def test_what_a_server_sends_is_bounded() -> None:
    class Endless(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(1 << 16))

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        with pytest.raises(OSError, match="is larger than the limit") as caught:
            read_url(url, 1 << 20)
        server.shutdown()
        thread.join()
    assert caught.value.filename == url


def test_an_address_is_one_of_the_web_alone() -> None:
    assert is_url("https://example.org/a") and is_url("HTTP://a")
    assert not any(map(is_url, ("file:///etc/passwd", "ftp://a", "a.vqrf", "httpx://a")))
