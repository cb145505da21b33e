"""What an untrusted pickle may stand for: numbers that lie in a file, arrays, names, and objects that nothing here looks into.

Nothing here is made by code of a file. Tensors stay references to a storage until `Tensor.array` is asked for. Every size is
bounded by itself before it is multiplied with another, and held against the bytes that are there before anything of that size
is made.

Safe for untrusted input.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_AXES = 8
"""Most axes of an array; a grid of features has five."""

MAX_EXTENT = 1 << 40
"""Greatest side, offset or stride, in numbers: no file has more. Eight of them multiply in no time."""

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

BFLOAT16 = "BFloat16Storage"
"""Storage of the upper halves of float32, for which NumPy has no name."""

KEY_PARTS = (str, bytes, int, float, type(None))


class Refused(ValueError):
    """Bytes that are not read: the message says why."""


@dataclass(eq=False)
class Storage:
    """Numbers that a file holds somewhere: how many of what, and how their bytes are got.

    Attributes:
      kind: torch's name, one of `STORAGES` or `BFLOAT16`.
    """

    kind: str
    n: int
    read: Callable[[], bytes]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers as they lie in the file."""
        return np.dtype("<u2" if self.kind == BFLOAT16 else STORAGES[self.kind])

    @property
    def n_bytes(self) -> int:
        return self.n * self.dtype.itemsize

    def numbers(self) -> NDArray[Any]:
        """[n]: float16 and wider floats, whole numbers, or bool.

        Raises:
          Refused: the file holds another number of bytes.
        """
        flat = np.frombuffer(self.read(), self.dtype)
        if len(flat) != self.n:
            raise Refused(f"a storage holds {len(flat)} numbers, its tensors say {self.n}")
        if self.kind == BFLOAT16:
            return (flat.astype(np.uint32) << 16).view(np.float32)
        return flat.view(np.uint8) != 0 if self.dtype == np.bool_ else flat


@dataclass(frozen=True, eq=False)
class Tensor:
    """A torch tensor: a view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.strides) or len(self.shape) > MAX_AXES:
            raise Refused(f"a tensor of {len(self.shape)} sides and {len(self.strides)} strides, the limit is {MAX_AXES}")
        if not all(map(is_extent, (self.offset, *self.shape, *self.strides))):
            raise Refused("a tensor whose offset, shape and strides are not whole numbers from 0 on")
        last = self.offset + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        n = math.prod(self.shape)
        if n and (last >= self.storage.n or n > self.storage.n):
            raise Refused(f"a tensor of shape {self.shape} in a storage of {self.storage.n} numbers")

    def array(self) -> NDArray[Any]:
        flat = self.storage.numbers()
        if 0 in self.shape:
            return np.zeros(self.shape, flat.dtype)
        steps = [stride * flat.itemsize for stride in self.strides]
        return np.array(np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, steps, writeable=False), order="C")


@dataclass(frozen=True)
class Name:
    """A global that a pickle names: never more than its name."""

    text: str


class Opaque:
    """An object that does no harm and that no field needs, such as a device, a path or a namespace: never looked into."""

    def __init__(self, *_: Any) -> None:
        pass


@dataclass(eq=False)
class NumpyType:
    """A dtype while it is unpickled: its code, and the byte order that comes after."""

    code: str
    order: str = "<"

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|") or any(part for part in state[2:5]):
            raise Refused("a NumPy dtype that is not little-endian and plain")
        self.order = state[1]

    def dtype(self) -> np.dtype[Any]:
        if not re.fullmatch("[biuf][1248]", self.code):
            raise Refused(f"a NumPy dtype {self.code[:20]!r}")
        return np.dtype(self.order + self.code)


@dataclass(eq=False)
class NumpyArray:
    """A NumPy array while it is unpickled: (version, shape, dtype, whether the first axis is fastest, bytes)."""

    state: Any = None

    def build(self, state: Any) -> None:
        self.state = state

    def array(self) -> NDArray[Any]:
        shape, kind, is_fortran, data = self._parts()
        dtype = kind.dtype()
        if not isinstance(data, bytes | bytearray) or not all(map(is_extent, shape)):
            raise Refused("a NumPy array without bytes or shape")
        if math.prod(shape) * dtype.itemsize != len(data):
            raise Refused(f"a NumPy array of shape {shape} in {len(data)} bytes")
        flat = np.frombuffer(data, np.uint8) != 0 if dtype == np.bool_ else np.frombuffer(data, dtype)
        return flat.reshape(shape, order="F" if is_fortran else "C").copy("C")

    def shape(self) -> tuple[int, ...]:
        shape = self._parts()[0]
        if not all(map(is_extent, shape)):
            raise Refused("a NumPy array whose sides are none")
        return shape

    def item(self) -> Any:
        """What an object array of shape () holds."""
        shape, kind, _, data = self._parts()
        if kind.code not in ("O", "O8", "O4") or shape != () or not isinstance(data, list) or len(data) != 1:
            raise Refused("expected a NumPy array that holds one object")
        return data[0]

    def _parts(self) -> tuple[tuple[Any, ...], NumpyType, Any, Any]:
        state = self.state
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], NumpyType):
            raise Refused("a NumPy array without its state")
        if not isinstance(state[1], tuple) or len(state[1]) > MAX_AXES:
            raise Refused(f"a NumPy array whose shape is none, or has more than {MAX_AXES} sides")
        return state[1:]


def is_extent(number: Any) -> bool:
    """Whether this may be a side, an offset or a stride."""
    return type(number) is int and 0 <= number <= MAX_EXTENT


def shape_of(value: Any, what: str) -> tuple[int, ...]:
    """The sides of what `array_of` would make an array, which is not made for it.

    Raises:
      Refused: it is no tensor, no array and no number.
    """
    if isinstance(value, Tensor):
        return value.shape
    if isinstance(value, NumpyArray):
        return value.shape()
    if isinstance(value, list | tuple):
        return (len(value),)
    if isinstance(value, int | float):
        return ()
    raise Refused(f"{what}: expected numbers, got {type(value).__name__}")


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
    except (TypeError, OverflowError) as error:
        raise Refused(f"{what}: no numbers that can be read ({type(error).__name__})") from error
    raise Refused(f"{what}: expected numbers, got {type(value).__name__}")


def dict_of(items: list[Any]) -> dict[Any, Any]:
    """A dict of keys and values in turn. To hash a tuple of tuples can take for ever: the parts of a key have no parts."""
    for key in items[::2]:
        parts = key if isinstance(key, tuple) and len(key) <= MAX_AXES else (key,)
        if not all(isinstance(part, (*KEY_PARTS, Name, Opaque)) for part in parts):
            raise Refused("a dict whose keys are not texts, numbers or short rows of them")
    return dict(zip(items[::2], items[1::2], strict=True))


# ------------------------------------------------------------------------------------------------- what names may build


def _mapping(pairs: Any = (), *_: Any) -> dict[Any, Any]:
    if isinstance(pairs, dict):
        return dict(pairs)
    if not isinstance(pairs, list | tuple) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise Refused("a dict that is not made of pairs")
    return dict_of([part for pair in pairs for part in pair])


def _mapping_with_default(*_: Any) -> dict[Any, Any]:
    """What a missing key would get, nobody asks."""
    return {}


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise Refused("a tensor without a storage, a shape or strides")
    return Tensor(storage, offset, shape, strides)


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _bytes_from_text(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise Refused("a text that is not encoded as latin1")
    return text.encode("latin1")


def _numpy_array(*_: Any) -> NumpyArray:
    return NumpyArray()


def _numpy_array_of_buffer(data: Any, kind: Any, shape: Any, order: Any) -> NumpyArray:
    return NumpyArray((1, shape, kind, order == "F", data))


def _numpy_type(code: Any, *_: Any) -> NumpyType:
    if not isinstance(code, str):
        raise Refused("a NumPy dtype without a code")
    return NumpyType(code)


def _numpy_scalar(kind: Any, data: Any) -> Any:
    if not isinstance(kind, NumpyType):
        raise Refused("a NumPy scalar without a dtype")
    return NumpyArray((1, (), kind, False, data)).array().item()


def _everywhere(modules: tuple[str, ...], names: tuple[str, ...]) -> list[str]:
    return [f"{module}.{name}" for module in modules for name in names]


MAPPINGS = (
    *("collections.OrderedDict", "addict.addict.Dict", "easydict.EasyDict", "munch.Munch"),
    *("mmcv.utils.config.ConfigDict", "mmengine.config.config.ConfigDict"),
    *_everywhere(("builtins", "__builtin__"), ("dict",)),
)
PATHS = ("Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
OPAQUE = (
    *("torch.device", "torch.Generator", "argparse.Namespace", "types.SimpleNamespace", "collections.deque"),
    *_everywhere(("pathlib", "pathlib._local"), PATHS),
    *_everywhere(
        ("builtins", "__builtin__"), ("set", "frozenset", "complex", "slice", "range", "xrange", "bytearray", "object")
    ),
    *_everywhere(("datetime",), ("datetime", "date", "time", "timedelta")),
)
"""Kinds of objects that do no harm, even as their own code would make them."""

NUMBERS = (
    *("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool"),
    *("half", "float", "double", "int", "long", "short"),
)
TYPES = ("int", "float", "bool", "str", "bytes", "list", "tuple", "dict", "set", "object")

BUILDERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(MAPPINGS, _mapping),
    **dict.fromkeys(("collections.defaultdict", "collections.Counter"), _mapping_with_default),
    **dict.fromkeys(OPAQUE, Opaque),
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "_codecs.encode": _bytes_from_text,
    **dict.fromkeys(_everywhere(("numpy.core", "numpy._core"), ("multiarray._reconstruct",)), _numpy_array),
    **dict.fromkeys(_everywhere(("numpy.core", "numpy._core"), ("multiarray.scalar",)), _numpy_scalar),
    **dict.fromkeys(_everywhere(("numpy.core", "numpy._core"), ("numeric._frombuffer",)), _numpy_array_of_buffer),
    "numpy.dtype": _numpy_type,
}
"""What a pickle may name to have it built, and what we build then."""

NAMES = {
    "numpy.ndarray",
    *(f"torch.{name}" for name in (*STORAGES, BFLOAT16)),
    *_everywhere(("torch", "numpy"), NUMBERS),
    *_everywhere(("builtins", "__builtin__"), TYPES),
    "torch.strided",
}
"""What a pickle may name without having it built."""

SHARED = {name for name, build in BUILDERS.items() if build is _numpy_array_of_buffer}
"""What takes bytes and copies none."""
