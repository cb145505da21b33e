"""Pickles without calls: what is in them is read as data by a machine of our own, which imports nothing and calls nothing.

A pickle is a program. Ours understands the part of it that builds numbers, texts, containers, NumPy arrays and torch tensors;
a global is never looked up, it is a name, and a name that is not in `BUILDERS` or `NAMES` ends the reading. Tensors stay
references to a storage until `Tensor.array` is asked for, and every size is held against the bytes that are there before
anything of that size is made. `dump` writes the same subset, for files that torch and NumPy read.

Safe for untrusted input.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of a file that torch before 1.6 wrote, or a later one was told to."""

LEGACY_PROTOCOL = 1001
MAX_OPCODES = 1 << 20
"""A checkpoint of one field takes about a thousand."""

MAX_COPIED_BYTES = 1 << 25
"""Most bytes that are copied out of a pickle; the MLP in one needs a hundred kilobytes."""

MAX_INT_BITS = 128
"""`LEGACY_MAGIC` is the longest that torch writes. With long ones, arithmetic takes long too."""

INSIDE = "torch.storage._load_from_bytes"
"""A file of torch inside of a pickle."""

STORAGES = {
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "DoubleStorage": "<f8",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
"""torch's name of a storage, and NumPy's of its numbers."""


class Refused(ValueError):
    """Bytes that are not read: the message says why."""


@dataclass(eq=False)
class Storage:
    """Numbers that a file holds somewhere: how many of what, and how their bytes are got."""

    dtype: np.dtype[Any]
    n: int
    read: Callable[[], bytes]


@dataclass(frozen=True, eq=False)
class Tensor:
    """A torch tensor: a view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or any(type(n) is not int or n < 0 for n in numbers):
            raise Refused("a tensor whose offset, shape and strides are not whole numbers from 0 on")
        last = self.offset + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        n = math.prod(self.shape)
        if n and (last >= self.storage.n or n > self.storage.n):
            raise Refused(f"a tensor of shape {self.shape} in a storage of {self.storage.n} numbers")

    def array(self) -> NDArray[Any]:
        flat = np.frombuffer(self.storage.read(), self.storage.dtype)
        if len(flat) != self.storage.n:
            raise Refused(f"a storage holds {len(flat)} numbers, its tensors say {self.storage.n}")
        if 0 in self.shape:
            return np.zeros(self.shape, self.storage.dtype)
        steps = [stride * flat.itemsize for stride in self.strides]
        return np.array(np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, steps, writeable=False), order="C")


@dataclass(frozen=True)
class Name:
    """A global that a pickle names: never more than its name."""

    text: str


@dataclass(eq=False)
class NumpyType:
    """A dtype while it is unpickled: its code, and the byte order that comes after."""

    code: str
    order: str = "<"

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or state[1] not in ("<", "|") or any(part for part in state[2:5]):
            raise Refused("a NumPy dtype that is not little-endian and plain")
        self.order = state[1]

    def dtype(self) -> np.dtype[Any]:
        if not re.fullmatch("[biuf][1248]", self.code):
            raise Refused(f"a NumPy dtype {self.code[:20]!r}")
        return np.dtype(self.order + self.code)


@dataclass(eq=False)
class NumpyArray:
    """A NumPy array while it is unpickled."""

    state: Any = None

    def build(self, state: Any) -> None:
        self.state = state

    def array(self) -> NDArray[Any]:
        _, shape, kind, is_fortran, data = self._parts()
        dtype = kind.dtype()
        if not isinstance(data, bytes) or any(type(side) is not int or side < 0 for side in shape):
            raise Refused("a NumPy array without bytes or shape")
        if math.prod(shape) * dtype.itemsize != len(data):
            raise Refused(f"a NumPy array of shape {shape} in {len(data)} bytes")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C").copy("C")

    def item(self) -> Any:
        """What an object array of shape () holds."""
        _, shape, kind, _, data = self._parts()
        if kind.code not in ("O", "O8", "O4") or shape != () or not isinstance(data, list) or len(data) != 1:
            raise Refused("expected a NumPy array that holds one object")
        return data[0]

    def _parts(self) -> tuple[Any, ...]:
        state = self.state
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], NumpyType):
            raise Refused("a NumPy array without its state")
        return state


# ------------------------------------------------------------------------------------------------- what names may build


def _mapping(pairs: Any = ()) -> dict[Any, Any]:
    return _dict([part for pair in pairs for part in pair])


def _dict(items: list[Any]) -> dict[Any, Any]:
    """Keys and values in turn. To hash a tuple of tuples can take for ever, so only texts and numbers are keys."""
    if not all(isinstance(key, str | int) for key in items[::2]):
        raise Refused("a dict whose keys are not texts and whole numbers")
    return dict(zip(items[::2], items[1::2], strict=True))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise Refused("a tensor without a storage")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _storage_from_bytes(data: Any) -> Any:
    if not isinstance(data, bytes):
        raise Refused("a torch storage that is not in bytes")
    return load_legacy(io.BytesIO(data), is_inside=True)


def _bytes_from_text(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise Refused(f"a text encoded as {str(encoding)[:20]!r}")
    return text.encode("latin1")


def _numpy_array(*_: Any) -> NumpyArray:
    return NumpyArray()


def _numpy_type(code: Any, *_: Any) -> NumpyType:
    if not isinstance(code, str):
        raise Refused("a NumPy dtype without a code")
    return NumpyType(code)


def _numpy_scalar(kind: Any, data: Any) -> Any:
    if not isinstance(kind, NumpyType):
        raise Refused("a NumPy scalar without a dtype")
    return NumpyArray((1, (), kind, False, data)).array().item()


BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "addict.addict.Dict": _mapping,
    "mmcv.utils.config.ConfigDict": _mapping,
    "mmengine.config.config.ConfigDict": _mapping,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    INSIDE: _storage_from_bytes,
    "_codecs.encode": _bytes_from_text,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray._reconstruct": _numpy_array,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.dtype": _numpy_type,
}
"""What a pickle may name to have it built, and what we build then."""

NAMES = {"numpy.ndarray", *(f"torch.{name}" for name in STORAGES)}
"""What a pickle may name without having it built."""


# ------------------------------------------------------------------------------------------------------------ reading

PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "STRING", "SHORT_BINSTRING", "BINSTRING"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
NOTHING = {"PROTO", "FRAME"}


@dataclass(eq=False)
class _Machine:
    """Reads one pickle.

    Attributes:
      storage_of: makes the storage that a persistent id stands for; None where a file may hold none.
      is_inside: whether the pickle lies in another one: there may be none in it then.
      n_copied: characters and bytes that were made of others so far: a pickle may name one text many times.
    """

    storage_of: Callable[[Any], Storage] | None
    is_inside: bool
    n_copied: int = 0
    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, file: BinaryIO) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count >= MAX_OPCODES:
                raise Refused(f"a pickle of more than {MAX_OPCODES} steps")
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise Refused("a pickle without an end")

    def step(self, name: str, argument: Any) -> None:
        if name in PUSHED:
            if isinstance(argument, int) and argument.bit_length() > MAX_INT_BITS:
                raise Refused(f"a whole number of {argument.bit_length()} bits")
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in TUPLES:
            parts = self.stack[-TUPLES[name] :]
            if len(parts) < TUPLES[name]:
                raise Refused("a pickle that takes what it has not put down")
            self.stack[-TUPLES[name] :] = [tuple(parts)]
        elif name not in NOTHING:
            step = getattr(self, f"do_{name.lower()}", None)
            if step is None:
                raise Refused(f"a pickle with the step {name}")
            step(argument)

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def do_mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def do_tuple(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append(tuple(items))

    def do_list(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append(items)

    def do_dict(self, _: Any) -> None:
        items = self.since_mark()
        self.stack.append(_dict(items))

    def do_empty_list(self, _: Any) -> None:
        self.stack.append([])

    def do_empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def do_append(self, _: Any) -> None:
        self.extend([self.stack.pop()])

    def do_appends(self, _: Any) -> None:
        self.extend(self.since_mark())

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise Refused("a pickle that appends to what is no list")
        self.stack[-1].extend(items)

    def do_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key, value])

    def do_setitems(self, _: Any) -> None:
        self.update(self.since_mark())

    def update(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise Refused("a pickle that sets an item of what is no dict")
        self.stack[-1].update(_dict(items))

    def do_put(self, number: Any) -> None:
        self.memo[number] = self.stack[-1]

    do_binput = do_long_binput = do_put

    def do_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_get(self, number: Any) -> None:
        self.stack.append(self.memo[number])

    do_binget = do_long_binget = do_get

    def do_global(self, argument: str) -> None:
        self.push_name(*argument.split(" ", 1))

    def do_stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push_name(module, name)

    def push_name(self, module: Any, name: Any) -> None:
        text = f"{module}.{name}"
        if text not in BUILDERS and text not in NAMES:
            raise Refused(f"a pickle that names {text[:80]!r}, which is no tensor, array or plain container; it was not run")
        self.stack.append(Name(text))

    def do_reduce(self, _: Any) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Name) or name.text not in BUILDERS or not isinstance(arguments, tuple):
            raise Refused("a pickle that calls what is no name, or a name without arguments; it was not run")
        if name.text == INSIDE and self.is_inside:
            raise Refused("a pickle in a pickle in a pickle")
        self.n_copied += sum(len(argument) for argument in arguments if isinstance(argument, str | bytes | list | tuple))
        if self.n_copied > MAX_COPIED_BYTES:
            raise Refused(f"a pickle that copies more than {MAX_COPIED_BYTES} bytes")
        self.stack.append(BUILDERS[name.text](*arguments))

    do_newobj = do_reduce

    def do_build(self, _: Any) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, NumpyType | NumpyArray):
            made.build(state)
        elif not isinstance(made, dict):  # of a dict: attributes such as torch's _metadata, which nothing here reads
            raise Refused("a pickle that sets the state of what has none")

    def do_binpersid(self, _: Any) -> None:
        if self.storage_of is None:
            raise Refused("a pickle that refers to something outside of it")
        self.stack.append(self.storage_of(self.stack.pop()))


def load(file: BinaryIO, storage_of: Callable[[Any], Storage] | None = None, *, is_inside: bool = False) -> Any:
    """The next pickle of a file, as plain containers, numbers, texts, `Tensor` and `NumpyArray`.

    Raises:
      Refused: it holds anything else, or is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of escapes in a text that Python does not know
            return _Machine(storage_of, is_inside).run(file)
    except Refused:
        raise
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        OverflowError,
        RecursionError,
        MemoryError,
        struct.error,
    ) as error:
        raise Refused(f"a damaged pickle ({type(error).__name__}: {str(error)[:80]})") from error


def storage_parts(identity: Any) -> tuple[np.dtype[Any], str, int]:
    """Dtype, key and number of items of a persistent id ('storage', type, key, device, numel[, view])."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise Refused("a reference that is no torch storage")
    kind, key, n = identity[1], identity[2], identity[4]
    name = kind.text.removeprefix("torch.") if isinstance(kind, Name) else ""
    if name not in STORAGES or not isinstance(key, str) or type(n) is not int or n < 0 or identity[5:] not in ((), (None,)):
        raise Refused(f"a torch storage of type {name or type(kind).__name__}, or of a size that is none")
    return np.dtype(STORAGES[name]), key, n


def load_legacy(file: BinaryIO, *, is_inside: bool = False) -> Any:
    """What `torch.save` wrote before its files were zips: a row of pickles, then the bytes of the storages.

    Raises:
      Refused: as `load`; or a storage does not lie in the file.
    """
    if load(file) != LEGACY_MAGIC or load(file) != LEGACY_PROTOCOL:
        raise Refused("no file that torch wrote")
    if not isinstance(system := load(file), dict) or not system.get("little_endian"):
        raise Refused("a torch file that is not little-endian")
    storages: dict[str, Storage] = {}

    def storage_of(identity: Any) -> Storage:
        dtype, key, n = storage_parts(identity)
        storage = storages.setdefault(key, Storage(dtype, n, _absent))
        if (storage.dtype, storage.n) != (dtype, n):
            raise Refused(f"a storage {key[:40]!r} of two kinds")
        return storage

    made = load(file, storage_of, is_inside=is_inside)
    keys = load(file)
    if not isinstance(keys, list):
        raise Refused("a torch file without a list of its storages")
    for key in keys:
        if not isinstance(key, str) or key not in storages:
            raise Refused("a storage that nothing refers to")
        _find_bytes(file, storages[key])
    return made


def _absent() -> bytes:
    raise Refused("a torch storage that is not in the file")


def _find_bytes(file: BinaryIO, storage: Storage) -> None:
    """Where the bytes of a storage of a legacy file are; the file is left behind them."""
    head = file.read(8)
    if len(head) < 8 or struct.unpack("<q", head)[0] != storage.n:
        raise Refused(f"a storage that says another size than its tensors, which say {storage.n}")
    start, size = file.tell(), storage.n * storage.dtype.itemsize
    end = file.seek(0, io.SEEK_END)
    if start + size > end:
        raise Refused(f"a storage of {size} bytes where {end - start} are left")
    file.seek(start + size)

    def read() -> bytes:
        file.seek(start)
        return file.read(size)

    storage.read = read


def array_of(value: Any, what: str) -> NDArray[Any]:
    """A tensor, an array or a number as an array.

    Raises:
      Refused: it is none of them.
    """
    parts = value if isinstance(value, list | tuple) else [value]
    try:
        if isinstance(value, Tensor | NumpyArray):
            return value.array()
        if all(isinstance(part, int | float) for part in parts):
            return np.array(value, np.float64)
    except (TypeError, OverflowError, MemoryError, struct.error) as error:
        raise Refused(f"{what}: no numbers that can be read ({type(error).__name__})") from error
    raise Refused(f"{what}: expected numbers, got {type(value).__name__}")


# ------------------------------------------------------------------------------------------------------------ writing


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
    return tensor_call(Call("torch.storage._load_from_bytes", (data,)), array)


def object_array_call(value: Any) -> Call:
    """A NumPy array of shape () that holds one object, to be dumped."""
    kind = Call("numpy.dtype", ("O8", False, True), (3, "|", None, None, None, -1, -1, 63))
    empty = ("numpy.core.multiarray._reconstruct", (Name("numpy.ndarray"), (0,), b"b"))
    return Call(*empty, (1, (), kind, False, [value]))
