"""Files: read with a bound, and written so that they are either whole or not there."""

from __future__ import annotations

import contextlib
import errno
import functools
import http.client
import os
import secrets
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vqrf.memory import text_of_bytes, usual_budget

try:
    import fcntl
except ImportError:  # where there is none, an open file cannot be removed
    fcntl = None  # type: ignore[assignment]

ANSWER_SECONDS = 30.0
"""For a server to answer, and between two pieces of what it sends."""
URL_SECONDS = 600.0
"""For all of a file that a server has."""
CHUNK_BYTES = 1 << 16

TEMPORARY = ".vqrf-{}.tmp"
"""Name of a file that is being written."""

PIPES_BY_NUMBER = ("/dev/fd/", "/proc/self/fd/", "/dev/stdin")
"""Pipes that somebody opened for us, as a shell does for `<(...)`. One that lies in a folder may wait for ever for a writer."""


def read_file(path: str | Path, max_bytes: int | None = None) -> bytes:
    """All bytes of a file, of which there are no more than the caller has room for.

    Args:
      max_bytes: None for the usual budget of memory (see `vqrf.memory`).

    Raises:
      OSError: it is missing, cannot be read, is larger, or is a folder, a device or a pipe; `filename` is `path`.

    Safe for untrusted input.
    """
    limit = usual_budget() if max_bytes is None else max_bytes
    expect_file(path)
    try:
        with Path(path).open("rb") as file:
            if (size := os.fstat(file.fileno()).st_size) <= limit:
                data = file.read(limit + 1)  # some that are no files say that they have 0 bytes
                size = len(data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    if size > limit:
        raise OSError(errno.EFBIG, f"is larger than the limit of {text_of_bytes(limit)}", str(path))
    return data


def is_url(name: str) -> bool:
    """Whether a name is an address of the web, and not of a file."""
    return name.lower().startswith(("http://", "https://"))


def read_url(url: str, max_bytes: int | None = None) -> bytes:
    """All bytes that a server has at an address, of which there are no more than the caller has room for.

    Args:
      max_bytes: None for the usual budget of memory (see `vqrf.memory`).

    Raises:
      OSError: there is no such server or file, it does not answer in time, or the file is larger; `filename` is `url`.
      ValueError: it is no address.

    Safe for untrusted servers.
    """
    limit = usual_budget() if max_bytes is None else max_bytes
    deadline = time.monotonic() + URL_SECONDS
    chunks: list[bytes] = []
    size = 0
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as response:
            while chunk := response.read(CHUNK_BYTES):
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    raise OSError(errno.EFBIG, f"is larger than the limit of {text_of_bytes(limit)}")
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, f"did not arrive in {URL_SECONDS:.0f} seconds")
    except urllib.error.HTTPError as error:
        raise OSError(errno.ENOENT, f"the server answers {error.code}", url) from None
    except urllib.error.URLError as error:
        raise OSError(errno.EHOSTUNREACH, f"cannot be fetched: {error.reason}", url) from None
    except (OSError, http.client.HTTPException) as error:
        strerror = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise OSError(getattr(error, "errno", None) or errno.EIO, strerror, url) from None
    return b"".join(chunks)


def expect_file(path: str | Path) -> None:
    """Refuse what is not there, and what is there and is no file.

    Raises:
      OSError: as `read_file`.
    """
    try:
        mode = Path(path).stat().st_mode
    except ValueError as error:  # a name with a 0 in it
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "is a folder (directory), expected a file", str(path))
    is_given = stat.S_ISFIFO(mode) and str(path).startswith(PIPES_BY_NUMBER)
    if not stat.S_ISREG(mode) and not is_given:
        raise OSError(errno.EINVAL, "is no file but a device, a pipe or a socket", str(path))


def write_atomically(path: str | Path, *parts: bytes | memoryview) -> None:
    """Write all `parts`, see `write_each_atomically`."""
    write_each_atomically(path, parts)


def write_each_atomically(path: str | Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write all `parts`, one after the other, so that `path` holds the old bytes or all of the new ones, whatever happens.

    Each is asked for when those before it are written, so that they need not all be held.

    The bytes go to a file beside it, which is flushed to the disk and renamed; on failure it is removed, and where this process
    is killed, the next that writes into the folder does so. A path that exists and is no regular file (a device, a pipe) cannot
    be replaced: it is written directly.

    Raises:
      OSError: the folder is missing, the disk is full, ...; `filename` is `path`.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                file.writelines(parts)
        else:
            with _beside(path.resolve()) as (_, file):  # a link goes on pointing where it did
                file.writelines(parts)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def making(path: str | Path) -> Iterator[Path]:
    """The name of a file that others write in place of `path`: it becomes that where the block ends well, and else is removed.

    Raises:
      OSError: as `write_atomically`, but with another name.
    """
    with _beside(Path(path).resolve()) as (temporary, _):
        yield temporary


@contextmanager
def _beside(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside `target`, locked as long as it is there, flushed to the disk and renamed to `target` at the end."""
    _remove_stale_once(target.parent)
    temporary, file = _begin(target)
    try:
        with file:
            with contextlib.suppress(OSError):  # who may read it is as before; there is nothing to keep of a new file
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            yield temporary, file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:
                temporary.replace(target)
        if fcntl is None:  # where an open file cannot be renamed
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _begin(target: Path) -> tuple[Path, BinaryIO]:
    while True:
        temporary = target.with_name(TEMPORARY.format(secrets.token_hex(8)))
        file = temporary.open("xb")
        try:
            if _lock(file, waits=True):
                return temporary, file
        except BaseException:
            file.close()
            temporary.unlink(missing_ok=True)
            raise
        file.close()


@functools.cache
def _remove_stale_once(folder: Path) -> None:
    """Once in a process, as a folder may have many files."""
    remove_stale(folder)


def _lock(file: BinaryIO, *, waits: bool) -> bool:
    """Lock an open file until it is closed, by whatever; False where another has it, or it was removed meanwhile.

    Where there are no locks, a writer does without, and nothing is stale.
    """
    if fcntl is None:
        return waits
    try:
        fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return waits
    return os.fstat(file.fileno()).st_nlink > 0


def remove_stale(folder: Path) -> None:
    """Remove from a folder what writes left there that were killed half-way. Those that go on have a lock and stay."""
    for path in folder.glob(TEMPORARY.format("*")):
        with contextlib.suppress(OSError), path.open("rb") as file:
            if _lock(file, waits=False):
                path.unlink()
