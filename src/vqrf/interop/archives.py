"""Zips, `.npz` and torch's zips, read without believing what they say of themselves and written plainly.

Nothing is ever unpacked to the disk. A member's declared size is held against limits before it is read, and what is read is
held against it.

Safe for untrusted input.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from vqrf.fields.storage import StorageError
from vqrf.files import expect_file, read_file
from vqrf.interop import dumps, pickles
from vqrf.interop.values import MAX_AXES, Name, NumpyArray, Refused, Storage, is_extent
from vqrf.memory import OverBudget, expect_room

MAX_MEMBERS = 4096
MAX_INFLATED_BYTES = 1 << 28
"""Most bytes that the deflated members of an archive have together: the arrays of the largest VQRF folder are a tenth of it."""

MAX_TABLE_BYTES = 1 << 20
"""Most bytes of a zip's table of contents, which `zipfile` reads whole: a member takes about a hundred of them."""

MAX_PICKLE_BYTES = 1 << 24
"""A checkpoint's pickle has some kilobytes; one with the MLP inside has a hundred."""

TORCH_PICKLE = "data.pkl"
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""The same bytes whenever they are written."""


class CheckpointError(StorageError):
    """A checkpoint of another program that cannot be used: file, place and reason in one line."""


class _Bounded(io.RawIOBase):
    """A file as `zipfile` takes it, of which no read is larger than a table of contents may be, until that is read.

    It is closed without a word when nothing holds it any more, which may be in the ring of an exception and its frames.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.is_open, self._file = False, os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._file)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return os.lseek(self._file, offset, whence)

    def read(self, size: int = -1) -> bytes:
        _expect_table(size, self.is_open)
        if size < 0:
            size = max(os.fstat(self._file).st_size - self.tell(), 0)
        return os.read(self._file, size)


class _BoundedBytes(io.BytesIO):
    """The same of bytes."""

    is_open = False

    def read(self, size: int | None = -1) -> bytes:
        _expect_table(size or 0, self.is_open)
        return super().read(size)


def _expect_table(size: int, is_open: bool) -> None:
    if size > MAX_TABLE_BYTES and not is_open:
        raise zipfile.BadZipFile(f"its table of contents has {size} bytes, the limit is {MAX_TABLE_BYTES}")


def open_zip(file: Path | bytes) -> zipfile.ZipFile:
    """A zip whose table of contents is of a size that a few thousand members ask for.

    Raises:
      OSError: the file cannot be read, or is none.
      BadZipFile, ValueError, NotImplementedError, struct.error: it is no zip, or is damaged.

    Safe for untrusted input.
    """
    if isinstance(file, Path):
        expect_file(file)
    bounded = _Bounded(file) if isinstance(file, Path) else _BoundedBytes(file)
    archive = zipfile.ZipFile(cast(BinaryIO, bounded))
    bounded.is_open = True
    return archive


class Archive:
    """A zip of files or of one folder, read member by member.

    Args:
      file: a path, or the bytes of a zip inside of a file.
      name: what errors call it.
      max_inflated: bytes of all deflated members together.
      max_bytes: the budget of memory, which is larger than the file and than what it inflates to.

    Raises:
      CheckpointError: it is no zip, is damaged, or its table of contents cannot be meant well.
    """

    def __init__(
        self, file: Path | bytes, name: str | Path, max_inflated: int | None = None, max_bytes: int | None = None
    ) -> None:
        most = MAX_INFLATED_BYTES if max_inflated is None else max_inflated
        self.name = name
        try:
            size = file.stat().st_size if isinstance(file, Path) else len(file)
            self._zip = open_zip(file)
        except OSError as error:
            self.refuse("", error.strerror or str(error))
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
            self.refuse("", f"is no zip, or is cut short ({error})")
        self.members = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}
        if len(self._zip.infolist()) > MAX_MEMBERS or len(self.members) < sum(not i.is_dir() for i in self._zip.infolist()):
            self.refuse("", f"has more than {MAX_MEMBERS} members, or two of one name")
        for info in self.members.values():
            self._check(info, size)
        inflated = sum(info.file_size for info in self.members.values() if info.compress_type)
        if inflated > most:
            self.refuse("", f"inflates to {inflated} bytes, the limit is {most}")
        try:
            expect_room(max(size, inflated), max_bytes, "all that is in it")
        except OverBudget as error:
            self.refuse("", str(error))

    def _check(self, info: zipfile.ZipInfo, size: int) -> None:
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in info.filename:
            self.refuse(info.filename, "has a path that leads elsewhere")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            self.refuse(info.filename, "is encrypted, or compressed in a way that is not read")
        if (info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size) or info.compress_size > size:
            self.refuse(info.filename, f"says that it has {info.file_size} bytes, which the file does not")

    def refuse(self, place: str, reason: str) -> NoReturn:
        raise CheckpointError(self.name, f"{place}: {reason}" if place else reason)

    def read(self, member: str) -> bytes:
        """All of a member.

        Raises:
          CheckpointError: it is not there, or is not what its entry says.
        """
        with self.open(member) as file:
            data = file.read(self.members[member].file_size + 1)
        if len(data) != self.members[member].file_size:
            self.refuse(member, f"has {len(data)} bytes, its entry says {self.members[member].file_size}")
        return data

    @contextmanager
    def open(self, member: str) -> Iterator[BinaryIO]:
        """A member to be read from; what is wrong with it is found while that is done.

        Raises:
          CheckpointError: it is not there, or is damaged.
        """
        if member not in self.members:
            self.refuse(member, "is missing")
        try:
            with self._zip.open(self.members[member]) as file:
                yield cast(BinaryIO, file)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
            self.refuse(member, f"is damaged ({error})")

    def read_pickle(self, member: str, storage_of: Callable[[Any], Storage] | None = None) -> Any:
        if member in self.members and self.members[member].file_size > MAX_PICKLE_BYTES:
            self.refuse(member, f"is a pickle of more than {MAX_PICKLE_BYTES} bytes")
        try:
            return pickles.load(io.BytesIO(self.read(member)), storage_of)
        except Refused as error:
            self.refuse(member, str(error))


# --------------------------------------------------------------------------------------------------------- torch


NAMES_SHOWN, NAME_SHOWN = 4, 40
"""Of an archive of something else: how many of its members' names are said, and how much of each."""


def load_torch(path: Path, max_bytes: int | None = None) -> Any:
    """What `torch.save` wrote, zip or legacy; tensors are read when they are asked for.

    Args:
      max_bytes: the budget of memory, which is larger than the file.

    Raises:
      CheckpointError: the file is damaged, or holds anything but tensors, arrays and plain containers.
    """
    try:
        expect_file(path)
        is_zip = zipfile.is_zipfile(path)
        with path.open("rb") as file:
            starts_as_zip = file.read(4) == b"PK\x03\x04"
        if not (is_zip or starts_as_zip):
            return pickles.load_legacy(io.BytesIO(read_file(path, max_bytes)))
    except OSError as error:
        raise CheckpointError(path, error.strerror or str(error)) from error
    except Refused as error:
        raise CheckpointError(path, f"is no file of torch that is read: {error}") from error
    archive = Archive(path, path, max_bytes=max_bytes)
    found = [name for name in archive.members if PurePosixPath(name).name == TORCH_PICKLE]
    if not found:
        names = ", ".join(name[:NAME_SHOWN] for name in list(archive.members)[:NAMES_SHOWN])
        kinds = f"torch's ({TORCH_PICKLE}), svox2's (links.npy) and official VQRF's (metadata.npz)"
        raise CheckpointError(path, f"is no checkpoint that is read, which are {kinds}: it holds {names or 'nothing'}")
    if len(found) != 1:
        archive.refuse(TORCH_PICKLE, f"expected one such member, as torch writes it, found {len(found)}")
    folder = found[0].removesuffix(TORCH_PICKLE)
    if f"{folder}byteorder" in archive.members and archive.read(f"{folder}byteorder") != b"little":
        archive.refuse(f"{folder}byteorder", "is not little-endian")

    def storage_of(identity: Any) -> Storage:
        kind, key, n = pickles.storage_parts(identity)
        member = f"{folder}data/{key}"
        info, storage = archive.members.get(member), Storage(kind, n, lambda: archive.read(member))
        if info is None:
            raise Refused(f"refers to the storage {member!r}, which is not there")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != storage.n_bytes:
            raise Refused(f"says that the storage {member!r} holds {storage.n_bytes} bytes, it has {info.file_size}")
        return storage

    return archive.read_pickle(found[0], storage_of)


def bytes_of_torch(value: Any, name: str) -> bytes:
    """A file as `torch.save` writes it, of plain containers with arrays [...] as tensors; `name` is its folder's."""
    storages: list[NDArray[Any]] = []

    def tensors(item: Any) -> Any:
        if isinstance(item, np.ndarray):
            array = np.ascontiguousarray(item).reshape(item.shape)
            identity = ("storage", Name(f"torch.{dumps.storage_name(array)}"), str(len(storages)), "cpu", array.size)
            storages.append(array)
            return dumps.tensor_call(dumps.Reference(identity), array)
        if isinstance(item, Mapping):
            return {key: tensors(part) for key, part in item.items()}
        return item

    members = {f"{name}/{TORCH_PICKLE}": dumps.dump(tensors(value)), f"{name}/byteorder": b"little"}
    members |= {f"{name}/data/{i}": array.tobytes() for i, array in enumerate(storages)}
    return bytes_of_zip({**members, f"{name}/version": b"3\n"}, zipfile.ZIP_STORED)


def bytes_of_zip(members: Mapping[str, bytes], compression: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, ZIP_DATE)
            info.compress_type = compression
            archive.writestr(info, data)
    return out.getvalue()


# --------------------------------------------------------------------------------------------------------- NumPy


class Npz:
    """An `.npz`, of which no array is read before it is asked for.

    Arguments and errors as of `Archive`.
    """

    def __init__(
        self, data: Path | bytes, name: str | Path, max_inflated: int | None = None, max_bytes: int | None = None
    ) -> None:
        self._archive = Archive(data, name, max_inflated, max_bytes)
        self.keys = {member.removesuffix(".npy"): member for member in self._archive.members}

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    def header(self, key: str) -> Header:
        """What an array is, without its numbers."""
        with self._opened(key) as (file, size):
            return _read_header(file, size)

    def array(self, key: str) -> NDArray[Any] | Any:
        """All of an array; where it holds one object, that, read by `pickles`."""
        with self._opened(key) as (file, size):
            return _npy(file, size)

    def slabs(self, key: str) -> Iterator[NDArray[Any]]:
        """An array piece by piece along its first axis, so that there is never room for more than one."""
        with self._opened(key) as (file, size):
            header = _read_header(file, size)
            if header.is_fortran or header.dtype == np.dtype(object):
                raise Refused("expected an array of numbers whose last axis is fastest")
            n_bytes = math.prod(header.shape[1:]) * header.dtype.itemsize
            for _ in range(header.shape[0]):
                yield np.frombuffer(_exactly(file, n_bytes), header.dtype).reshape(header.shape[1:])
            if file.read(1):
                raise Refused("goes on after its end")

    @contextmanager
    def _opened(self, key: str) -> Iterator[tuple[BinaryIO, int]]:
        member = self.keys[key]
        try:
            with self._archive.open(member) as file:
                yield file, self._archive.members[member].file_size
        except Refused as error:
            self._archive.refuse(member, str(error))


def load_npz(
    data: Path | bytes, name: str | Path, max_inflated: int | None = None, max_bytes: int | None = None
) -> dict[str, NDArray[Any] | Any]:
    """The arrays of an `.npz`; an array that holds one object comes back as the object, read by `pickles`.

    Arguments as of `Archive`.

    Raises:
      CheckpointError: it is damaged, or says sizes that it has not.
    """
    npz = Npz(data, name, max_inflated, max_bytes)
    return {key: npz.array(key) for key in npz.keys}


@dataclass(frozen=True)
class Header:
    """What stands before the numbers of an array.

    Attributes:
      n_left: bytes that follow.
    """

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]
    n_left: int


def _read_header(file: BinaryIO, size: int) -> Header:
    """What an array is; the numbers are held against the bytes that are there."""
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(file)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError) as error:
        raise Refused(f"no array of NumPy ({type(error).__name__})") from error
    left = size - file.tell()
    if len(shape) > MAX_AXES or not all(map(is_extent, shape)):
        raise Refused(f"an array of more than {MAX_AXES} sides, or of sides that are none")
    if dtype != np.dtype(object):
        if dtype.kind not in "biuf" or dtype.hasobject or dtype.byteorder == ">":
            raise Refused(f"an array of {str(dtype)[:40]}")
        if math.prod(shape) * dtype.itemsize != left:
            raise Refused(f"an array of shape {shape} of {dtype} in {left} bytes")
    return Header(shape, is_fortran, dtype, left)


def _npy(file: BinaryIO, size: int) -> Any:
    header = _read_header(file, size)
    if header.dtype == np.dtype(object):
        if header.n_left > MAX_PICKLE_BYTES:
            raise Refused(f"a pickle of more than {MAX_PICKLE_BYTES} bytes")
        made = pickles.load(io.BytesIO(_exactly(file, header.n_left)))
        if not isinstance(made, NumpyArray):
            raise Refused("an object array that unpickles to something else")
        return made.item()
    flat = np.frombuffer(_exactly(file, header.n_left), header.dtype)
    if header.dtype == np.bool_:
        flat = flat.view(np.uint8) != 0
    return flat.reshape(header.shape, order="F" if header.is_fortran else "C")


def _exactly(file: BinaryIO, n_bytes: int) -> bytes:
    data = file.read(n_bytes)
    if len(data) != n_bytes:
        raise Refused(f"has {len(data)} bytes, its entry says {n_bytes}")
    return data


def bytes_of_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A deflated `.npz`."""
    members = {}
    for name, array in arrays.items():
        out = io.BytesIO()
        np.lib.format.write_array(out, array, allow_pickle=False)
        members[f"{name}.npy"] = out.getvalue()
    return bytes_of_zip(members, zipfile.ZIP_DEFLATED)


def bytes_of_object_npz(name: str, value: Any) -> bytes:
    """A deflated `.npz` with one array that holds one object; arrays in it become torch tensors."""

    def tensors(item: Any) -> Any:
        if isinstance(item, np.ndarray):
            return dumps.tensor_in_pickle(item)
        if isinstance(item, Mapping):
            return {key: tensors(part) for key, part in item.items()}
        return item

    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": ()})
    data = head.getvalue() + dumps.dump(dumps.object_array_call(tensors(value)))
    return bytes_of_zip({f"{name}.npy": data}, zipfile.ZIP_DEFLATED)
