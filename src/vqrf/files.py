"""Files that are either whole or not there."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write `data` so that `path` holds the old bytes or all of the new ones, whatever happens in between.

    The bytes go to a file beside it, which is flushed to the disk and renamed; on failure it is removed.
    A path that exists and is no regular file (a device, a pipe) cannot be replaced: it is written directly.

    Raises:
      OSError: the folder is missing, the disk is full, ...; `filename` is `path`.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        _write(path, data, named=path)
        return
    target = path.resolve()  # a link goes on pointing where it did
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        _write(temporary, data, named=path)
        temporary.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, data: bytes, *, named: Path) -> None:
    """Write and flush to the disk; an error carries the name that the caller was asked for."""
    try:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            if path.is_file():
                os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(named)) from error
