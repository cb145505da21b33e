"""Results that several machines share without a common file system: each works in a folder of its own, an object store has all.

A store is a URL that fsspec knows, such as s3://bucket/tables. What a job needs of other jobs is fetched before it, and what it
made is sent before its row is, which is what others look for. A file is sent whole, by the store's own put, which is atomic in
an object store. Without a URL the folder is all there is, and nothing is done here.

Two programs that write the same rows at the same time may lose some of each other's: those are made again by the next.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vqrf.fields.run import FIELD_FILE
from vqrf.files import TEMPORARY, making

LOCAL = ("file", "local")
HELD: set[tuple[Path, str]] = set()
"""Run folders of which this process knows that the store has them as they are here, each with the URL."""


@dataclass(frozen=True)
class Store:
    """A folder of results, and where they are shared.

    Attributes:
      folder: on this machine.
      url: empty where the folder is all there is.
    """

    folder: Path
    url: str = ""

    def fetch(self, *paths: Path) -> None:
        """Bring files and folders of `folder` to what the store has.

        A file that it does not have is removed here. A folder that it does not have stays, as something may be going on in it;
        a run folder whose field it has is whole, and fetched once in a process.

        Raises:
          OSError: the store cannot be reached, or has a file whose name leads out of the folder; `filename` is the URL.
        """
        if not self.url:
            return
        with self._opened() as (files, root):
            for path in paths:
                if (path, self.url) in HELD:
                    continue
                sizes = files.find(f"{root}/{self._name(path)}", detail=True)
                found = {PurePosixPath(name).relative_to(root): about["size"] for name, about in sizes.items()}
                for name in sorted(found, key=_comes_last):
                    if ".." in name.parts:
                        raise OSError(errno.EINVAL, f"has a file that leads out of it: {str(name)[:200]!a}")
                    target = self.folder / name
                    if target != path and target.is_file() and target.stat().st_size == found[name]:
                        continue  # what a folder holds is named by what it is made of, and does not change
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with making(target) as temporary:
                        files.get_file(f"{root}/{name}", str(temporary))
                if any(name.name == FIELD_FILE for name in found):
                    HELD.add((path, self.url))
                elif not found and path.is_file():
                    path.unlink()

    def send(self, *paths: Path) -> None:
        """Bring the store to what `folder` has of files and folders that are there.

        Raises:
          OSError: the store cannot be reached or written; `filename` is the URL.
        """
        if not self.url:
            return
        with self._opened() as (files, root):
            for path in paths:
                for each in sorted(_files_of(path), key=_comes_last):
                    files.put_file(str(each), f"{root}/{self._name(each)}")
                if (path / FIELD_FILE).exists():
                    HELD.add((path, self.url))

    def expect_writable(self) -> None:
        """Refuse, before anything is made, a store that takes nothing.

        Raises:
          OSError: as `send`.
        """
        if self.url:
            with self._opened() as (files, root):
                files.pipe_file(name := f"{root}/{TEMPORARY.format(secrets.token_hex(8))}", b"vqrf")
                files.rm_file(name)

    def remove(self, *paths: Path) -> None:
        """Remove files, here and there."""
        for path in paths:
            path.unlink(missing_ok=True)
        if self.url:
            with self._opened() as (files, root):
                for path in paths:
                    if files.exists(name := f"{root}/{self._name(path)}"):
                        files.rm_file(name)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, str]]:
        """The file system, with nothing remembered, and the place of the folder in it. Its errors are told by the URL."""
        import fsspec

        try:
            files, root = fsspec.url_to_fs(self.url)
            files.invalidate_cache()
            yield files, root.rstrip("/")
        except Exception as error:  # each kind of store has its own
            if isinstance(error, OSError) and str(error.filename).startswith(str(self.folder)):
                raise  # of this machine
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise OSError(getattr(error, "errno", None) or errno.EIO, reason, self.url) from error


def is_shared(out: str) -> bool:
    """Whether the name of a folder is the URL of a store."""
    return scheme_of(out) not in ("", *LOCAL)


def scheme_of(out: str) -> str:
    """What stands before `://`, one protocol or several with `::` between them; empty where nothing does."""
    found = re.match(r"([a-z][a-z0-9+.:-]*)://", out, re.IGNORECASE)
    return found[1].lower() if found else ""


def store_of(out: str) -> Store:
    """The store of a folder's name, or of a URL; one of a URL works in a folder below the user's cache.

    Raises:
      OSError: the URL of a local folder names a host, as `file://tables` does; `filename` is the URL.
    """
    if is_shared(out):
        url = out.rstrip("/")
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return Store((cache / "vqrf" / "tables" / f"{zlib.crc32(url.encode()):08x}").resolve(), url)
    if scheme_of(out):
        _, host, path, _, _ = urllib.parse.urlsplit(out)
        if host not in ("", "localhost"):
            raise OSError(errno.EINVAL, "names a host; expected three slashes before a folder's path", out)
        return Store(Path(urllib.request.url2pathname(path)).resolve())
    return Store(Path(out).resolve())


def _files_of(path: Path) -> Iterable[Path]:
    if path.is_file():
        return [path]
    return [each for each in path.rglob("*") if each.is_file() and not each.match(TEMPORARY.format("*"))]


def _comes_last(path: Path | PurePosixPath) -> tuple[bool, str]:
    """A run folder is whole where its field is there."""
    return path.name == FIELD_FILE, str(path)
