"""Zips, `.npz` and torch's zips, read without believing what they say of themselves and written plainly.

Nothing is ever unpacked to the disk. A member's declared size is held against limits before it is read, and what is read is
held against it.

Safe for untrusted input.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from vqrf.fields.storage import MAX_FIELD_BYTES, StorageError
from vqrf.interop import pickles
from vqrf.interop.pickles import NumpyArray, Refused, Storage

MAX_MEMBERS = 4096
MAX_INFLATED_BYTES = 1 << 28
"""Most bytes that the deflated members of an archive have together: the arrays of the largest VQRF folder are a tenth of it."""

MAX_PICKLE_BYTES = 1 << 24
"""A checkpoint's pickle has some kilobytes; one with the MLP inside has a hundred."""

TORCH_PICKLE = "data.pkl"
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""The same bytes whenever they are written."""


class CheckpointError(StorageError):
    """A checkpoint of another program that cannot be used: file, place and reason in one line."""


class Archive:
    """A zip of files or of one folder, read member by member.

    Args:
      file: a path, or the bytes of a zip inside of a file.
      name: what errors call it.
      max_inflated: bytes of all deflated members together.

    Raises:
      CheckpointError: it is no zip, is damaged, or its table of contents cannot be meant well.
    """

    def __init__(self, file: Path | bytes, name: str | Path, max_inflated: int | None = None) -> None:
        most = MAX_INFLATED_BYTES if max_inflated is None else max_inflated
        self.name = name
        try:
            size = file.stat().st_size if isinstance(file, Path) else len(file)
            if size > MAX_FIELD_BYTES:
                self.refuse("", f"is larger than {MAX_FIELD_BYTES} bytes")
            self._zip = zipfile.ZipFile(file if isinstance(file, Path) else io.BytesIO(file))
        except OSError as error:
            self.refuse("", error.strerror or str(error))
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
            self.refuse("", f"is no zip, or is cut short ({error})")
        self.members = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}
        if len(self._zip.infolist()) > MAX_MEMBERS or len(self.members) < sum(not i.is_dir() for i in self._zip.infolist()):
            self.refuse("", f"has more than {MAX_MEMBERS} members, or two of one name")
        inflated = 0
        for info in self.members.values():
            self._check(info, size)
            inflated += info.file_size if info.compress_type else 0
        if inflated > most:
            self.refuse("", f"inflates to {inflated} bytes, the limit is {most}")

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
        if member not in self.members:
            self.refuse(member, "is missing")
        try:
            with self._zip.open(self.members[member]) as file:
                data = file.read(self.members[member].file_size + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
            self.refuse(member, f"is damaged ({error})")
        if len(data) != self.members[member].file_size:
            self.refuse(member, f"has {len(data)} bytes, its entry says {self.members[member].file_size}")
        return data

    def read_pickle(self, member: str, storage_of: Callable[[Any], Storage] | None = None) -> Any:
        if member in self.members and self.members[member].file_size > MAX_PICKLE_BYTES:
            self.refuse(member, f"is a pickle of more than {MAX_PICKLE_BYTES} bytes")
        try:
            return pickles.load(io.BytesIO(self.read(member)), storage_of)
        except Refused as error:
            self.refuse(member, str(error))


# --------------------------------------------------------------------------------------------------------- torch


def load_torch(path: Path) -> Any:
    """What `torch.save` wrote, zip or legacy; tensors are read when they are asked for.

    Raises:
      CheckpointError: the file is damaged, or holds anything but tensors, arrays and plain containers.
    """
    try:
        is_zip = zipfile.is_zipfile(path)
        with path.open("rb") as file:
            starts_as_zip = file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise CheckpointError(path, error.strerror or str(error)) from error
    if not (is_zip or starts_as_zip):
        return _load_legacy(path)
    archive = Archive(path, path)
    found = [name for name in archive.members if PurePosixPath(name).name == TORCH_PICKLE]
    if len(found) != 1:
        archive.refuse(TORCH_PICKLE, f"expected one such member, as torch writes it, found {len(found)}")
    folder = found[0].removesuffix(TORCH_PICKLE)
    if f"{folder}byteorder" in archive.members and archive.read(f"{folder}byteorder") != b"little":
        archive.refuse(f"{folder}byteorder", "is not little-endian")

    def storage_of(identity: Any) -> Storage:
        dtype, key, n = pickles.storage_parts(identity)
        member = f"{folder}data/{key}"
        info = archive.members.get(member)
        if info is None:
            raise Refused(f"refers to the storage {member!r}, which is not there")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != n * dtype.itemsize:
            raise Refused(f"says that the storage {member!r} holds {n * dtype.itemsize} bytes, it has {info.file_size}")
        return Storage(dtype, n, lambda: archive.read(member))

    return archive.read_pickle(found[0], storage_of)


def _load_legacy(path: Path) -> Any:
    if path.stat().st_size > MAX_FIELD_BYTES:
        raise CheckpointError(path, f"is larger than {MAX_FIELD_BYTES} bytes")
    try:
        return pickles.load_legacy(io.BytesIO(path.read_bytes()))
    except Refused as error:
        raise CheckpointError(path, f"is no file of torch that is read: {error}") from error


def bytes_of_torch(value: Any, name: str) -> bytes:
    """A file as `torch.save` writes it, of plain containers with arrays [...] as tensors; `name` is its folder's."""
    storages: list[NDArray[Any]] = []

    def tensors(item: Any) -> Any:
        if isinstance(item, np.ndarray):
            array = np.ascontiguousarray(item).reshape(item.shape)
            identity = ("storage", pickles.Name(f"torch.{pickles.storage_name(array)}"), str(len(storages)), "cpu", array.size)
            storages.append(array)
            return pickles.tensor_call(pickles.Reference(identity), array)
        if isinstance(item, Mapping):
            return {key: tensors(part) for key, part in item.items()}
        return item

    members = {f"{name}/{TORCH_PICKLE}": pickles.dump(tensors(value)), f"{name}/byteorder": b"little"}
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


def load_npz(data: Path | bytes, name: str | Path, max_inflated: int | None = None) -> dict[str, NDArray[Any] | Any]:
    """The arrays of an `.npz`; an array that holds one object comes back as the object, read by `pickles`.

    Arguments as of `Archive`.

    Raises:
      CheckpointError: it is damaged, or says sizes that it has not.
    """
    archive = Archive(data, name, max_inflated)
    arrays = {}
    for member in archive.members:
        try:
            arrays[member.removesuffix(".npy")] = _npy(io.BytesIO(archive.read(member)), archive.members[member].file_size)
        except Refused as error:
            archive.refuse(member, str(error))
    return arrays


def _npy(file: BinaryIO, size: int) -> Any:
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(file)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise Refused(f"no array of NumPy ({type(error).__name__})") from error
    left = size - file.tell()
    if dtype == np.dtype(object):
        if left > MAX_PICKLE_BYTES:
            raise Refused(f"a pickle of more than {MAX_PICKLE_BYTES} bytes")
        made = pickles.load(file)
        if not isinstance(made, NumpyArray):
            raise Refused("an object array that unpickles to something else")
        return made.item()
    if dtype.kind not in "biuf" or dtype.hasobject or dtype.byteorder == ">":
        raise Refused(f"an array of {dtype}")
    if math.prod(shape) * dtype.itemsize != left:
        raise Refused(f"an array of shape {shape} of {dtype} in {left} bytes")
    return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if is_fortran else "C")


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
            return pickles.tensor_in_pickle(item)
        if isinstance(item, Mapping):
            return {key: tensors(part) for key, part in item.items()}
        return item

    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": ()})
    data = head.getvalue() + pickles.dump(pickles.object_array_call(tensors(value)))
    return bytes_of_zip({f"{name}.npy": data}, zipfile.ZIP_DEFLATED)
