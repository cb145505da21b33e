"""Pickles as others read them: the same subset that `vqrf.interop.pickles` reads, for files that torch and NumPy load."""

from __future__ import annotations

import math
import pickle
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrf.interop.pickles import INSIDE, LEGACY_MAGIC, LEGACY_PROTOCOL
from vqrf.interop.values import STORAGES, Name


@dataclass(frozen=True)
class Call:
    """What a pickle calls when it is read: for files that others read."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class Reference:
    """A persistent id."""

    identity: tuple[Any, ...]


def dump(value: Any) -> bytes:
    """A pickle, protocol 2, of plain values, `Name`, `Call` and `Reference`."""
    return b"\x80\x02" + _emit(value) + b"."


def _emit(value: Any) -> bytes:
    if value is None or isinstance(value, bool | int | float | str):
        return pickle.dumps(value, 2)[2:-1]
    if isinstance(value, bytes):  # protocol 2 has no bytes
        return _emit(Call("_codecs.encode", (value.decode("latin1"), "latin1")))
    if isinstance(value, dict):
        return b"}(" + b"".join(_emit(key) + _emit(item) for key, item in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_emit, value)) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_emit, value)) + b"t"
    if isinstance(value, Name):
        module, _, name = value.text.rpartition(".")
        return f"c{module}\n{name}\n".encode()
    if isinstance(value, Call):
        built = b"" if value.state is None else _emit(value.state) + b"b"
        return _emit(Name(value.name)) + _emit(value.arguments) + b"R" + built
    if isinstance(value, Reference):
        return _emit(value.identity) + b"Q"
    raise TypeError(f"cannot pickle {type(value).__name__}")


def storage_name(array: NDArray[Any]) -> str:
    """torch's name of the array's kind of numbers."""
    return next(name for name, code in STORAGES.items() if np.dtype(code) == array.dtype)


def tensor_call(storage: Any, array: NDArray[Any]) -> Call:
    """A tensor over a whole storage, to be dumped."""
    strides = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
    return Call(
        "torch._utils._rebuild_tensor_v2", (storage, 0, array.shape, strides, False, Call("collections.OrderedDict", ()))
    )


def tensor_in_pickle(array: NDArray[Any]) -> Call:
    """A tensor whose storage is in the pickle itself, as pickle (not torch) writes it."""
    array = np.ascontiguousarray(array)
    identity = ("storage", Name(f"torch.{storage_name(array)}"), "0", "cpu", array.size, None)
    system = {"protocol_version": LEGACY_PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    heads = (LEGACY_MAGIC, LEGACY_PROTOCOL, system, Reference(identity), ["0"])
    data = b"".join(map(dump, heads)) + struct.pack("<q", array.size) + array.tobytes()
    return tensor_call(Call(INSIDE, (data,)), array)


def object_array_call(value: Any) -> Call:
    """A NumPy array of shape () that holds one object, to be dumped."""
    kind = Call("numpy.dtype", ("O8", False, True), (3, "|", None, None, None, -1, -1, 63))
    empty = ("numpy.core.multiarray._reconstruct", (Name("numpy.ndarray"), (0,), b"b"))
    return Call(*empty, (1, (), kind, False, [value]))
