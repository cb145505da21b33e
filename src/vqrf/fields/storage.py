"""Our own weights on disk: safetensors with a JSON header, written atomically, readable without torch."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as tensors_from_bytes

from vqrf.codec.compressed import MAX_LAYERS
from vqrf.fields.cells import active_voxels
from vqrf.fields.field import RadianceField, dense_bytes, layers_fault
from vqrf.files import read_file, write_each_atomically
from vqrf.geometry import Front, Lattice, Space, Unbounded
from vqrf.kernels.constants import NUMBERS, Equation
from vqrf.memory import expect_room

FIELD_FORMAT = "vqrf-field-1"
HEADER_KEY, CRC_KEY = "vqrf", "crc32"
MAX_FIELD_BYTES = 1 << 33
MAX_SIDE = 8192
"""Longest side of a lattice: one at half the edge of the largest that a .vqrf file holds."""
MAX_STORED_CHANNELS = 4096
MAX_NUMBER = 1e300
"""Greatest number of a header: with a greater one, no product is finite."""
MAX_HEADER_BYTES = 1 << 24
"""Ours have a few kB."""

DTYPES = {
    "bool": "BOOL",
    **{f"{kind}int{bits}": f"{letter}{bits}" for kind, letter in (("", "I"), ("u", "U")) for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
}
"""What safetensors calls NumPy's types."""

Arrays = dict[str, NDArray[Any]]
T = TypeVar("T")


class StorageError(ValueError):
    """A file of ours that cannot be used: which, and why, in one line."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason


class Made(Mapping[str, T]):
    """What is made when it is asked for, each time anew: of rows of large arrays, a file is written without holding them all.

    Args:
      makers: what makes it, by name.
    """

    def __init__(self, makers: Mapping[str, Callable[[], T]]) -> None:
        self._makers = dict(makers)

    def __getitem__(self, name: str) -> T:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __or__(self, other: Mapping[str, T]) -> Made[T]:
        return Made(self._makers | {name: partial(other.__getitem__, name) for name in other})


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> None:
    """Write arrays with a JSON header, whole or not at all. Each is asked for twice, and one is held at a time."""
    write_each_atomically(path, _parts_of_arrays(arrays, header))


def bytes_of_arrays(arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> bytes:
    """What `save_arrays` writes: the same bytes for the same arrays and header."""
    return b"".join(_parts_of_arrays(arrays, header))


def _parts_of_arrays(arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> Iterator[bytes | memoryview]:
    """These bytes, of arrays no copies.

    The format is safetensors', whose own writer puts the keys of `__metadata__` in an order that differs from run to run.
    """
    text = json.dumps(header, sort_keys=True)
    crc, kinds = _looked_through(arrays, text)
    entries: dict[str, Any] = {"__metadata__": {CRC_KEY: crc, HEADER_KEY: text}}
    names, end = sorted(kinds, key=lambda name: (-kinds[name][0].itemsize, name)), 0  # so each starts where it may
    for name in names:
        dtype, shape = kinds[name]
        begin, end = end, end + dtype.itemsize * math.prod(shape)
        entries[name] = {"dtype": DTYPES[dtype.name], "shape": list(shape), "data_offsets": [begin, end]}
    head = json.dumps(entries, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    yield len(head).to_bytes(8, "little")
    yield head
    for name in names:  # none gets a name here, under which it would be held while the next is made
        yield _bytes_of(np.asarray(arrays[name], kinds[name][0].newbyteorder("<")))


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return np.asarray(array, order="C").reshape(-1).view(np.uint8).data


def checksum(arrays: Mapping[str, NDArray[Any]], header: str) -> str:
    """CRC-32 of header and arrays: safetensors itself does not notice a changed number."""
    return _looked_through(arrays, header)[0]


def _looked_through(
    arrays: Mapping[str, NDArray[Any]], header: str
) -> tuple[str, dict[str, tuple[np.dtype[Any], tuple[int, ...]]]]:
    """The checksum, and type and shape of each array by name."""
    crc, kinds = zlib.crc32(header.encode()), {}
    for name in sorted(arrays):
        array = arrays[name]
        kinds[name] = array.dtype, array.shape
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(_bytes_of(array), crc)
        del array  # or it would be held while the next is made
    return f"{crc:08x}", kinds


def field_checksum(field: RadianceField) -> str:
    """CRC-32 of a whole field: density, features, network, cells and constants, so that nothing is taken for another's."""
    arrays: Arrays = {"density": field.density, "features": field.features}
    if field.allowed is not None:
        arrays["allowed"] = field.allowed
    for i, (weight, bias) in enumerate(field.color_mlp):
        arrays |= {f"mlp{i}.weight": weight, f"mlp{i}.bias": bias}
    return checksum(arrays, f"{field.lattice}{field.lattice.space or ''} {field.equation}")


def load_arrays(path: Path, expected_format: str) -> tuple[Arrays, dict[str, Any]]:
    """Read what `save_arrays` wrote.

    Raises:
      StorageError: the file is missing, is none of ours, or is damaged.
    """
    try:
        if path.stat().st_size > MAX_FIELD_BYTES:
            raise StorageError(path, f"is larger than {MAX_FIELD_BYTES} bytes")
        data = read_file(path)
    except OSError as error:
        raise StorageError(path, error.strerror or str(error)) from error
    return arrays_from_bytes(data, path, expected_format)


def read_header(path: Path, expected_format: str) -> dict[str, Any]:
    """The header alone of what `save_arrays` wrote. It is not held against the checksum, which would take all of the file.

    Raises:
      StorageError: the file is missing or is none of ours.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            head = file.read(min(length, MAX_HEADER_BYTES))
        header = json.loads(json.loads(head)["__metadata__"][HEADER_KEY])
    except OSError as error:
        raise StorageError(path, error.strerror or str(error)) from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise StorageError(path, f"is no file of this program, or is damaged ({type(error).__name__})") from error
    return _expect_format(header, path, expected_format)


def _expect_format(header: Any, path: str | Path, expected_format: str) -> dict[str, Any]:
    found = header.get("format") if isinstance(header, dict) else None
    if not isinstance(header, dict) or found != expected_format:
        raise StorageError(path, f"expected format {expected_format}, got {found}")
    return header


def arrays_from_bytes(data: bytes, path: str | Path, expected_format: str) -> tuple[Arrays, dict[str, Any]]:
    """As `load_arrays`, of bytes that are at hand.

    Args:
      path: what they are called in an error.
    """
    try:
        arrays = tensors_from_bytes(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        header = json.loads(metadata[HEADER_KEY])
    except (SafetensorError, LookupError, AttributeError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise StorageError(path, f"is no file of this program, or is damaged ({reason})") from error
    if metadata.get(CRC_KEY) != checksum(arrays, metadata[HEADER_KEY]):
        raise StorageError(path, "is damaged: its checksum is wrong")
    return arrays, _expect_format(header, path, expected_format)


def save_field(path: Path, field: RadianceField, *, notes: Mapping[str, Any]) -> None:
    """Write a field: only voxels of allowed cells, since nothing else is ever looked at.

    Args:
      notes: JSON-able facts to keep with it (how it was trained).
    """
    active = active_voxels(field)
    arrays: Arrays = {
        "active": np.packbits(active),
        "density": field.density[active],
        "features": field.features[active],
    }
    if field.allowed is not None:
        arrays["allowed"] = np.packbits(field.allowed)
    for i, (weight, bias) in enumerate(field.color_mlp):
        arrays |= {f"mlp{i}.weight": weight, f"mlp{i}.bias": bias}
    header = {
        "format": FIELD_FORMAT,
        "lo": field.lattice.lo,
        "hi": field.lattice.hi,
        "shape": field.lattice.shape,
        **({} if field.lattice.space is None else {field.lattice.space.name: field.lattice.space.matrix}),
        "n_layers": len(field.color_mlp),
        "notes": dict(notes),
        **asdict(field.equation),
    }
    save_arrays(path, arrays, header)


def load_field(path: Path, *, max_bytes: int | None = None) -> tuple[RadianceField, dict[str, Any]]:
    """Read a field and its notes. Voxels that were not written come back as zeros.

    Args:
      max_bytes: the budget of memory; None for the usual one (see `vqrf.memory`).

    Raises:
      StorageError: the file cannot be used, or its field takes more memory.

    Safe for untrusted input.
    """
    arrays, header = load_arrays(path, FIELD_FORMAT)
    with _reading(path):
        said = _Said(arrays, header)
        shape, n_channels = said.lattice.shape, said.n_channels
        expect_room(dense_bytes(shape, n_channels), max_bytes, f"a lattice of {list(shape)} voxels")
        active = _bits(arrays, "active", shape)
        density, features = np.zeros(shape, np.float32), np.zeros((*shape, n_channels), np.float32)
        density[active], features[active] = arrays["density"], arrays["features"]
        allowed = _bits(arrays, "allowed", tuple(side - 1 for side in shape)).view(np.uint8) if "allowed" in arrays else None
        return RadianceField(said.lattice, density, features, said.layers, said.equation, allowed), said.notes


def describe_field(path: Path) -> dict[str, Any]:
    """What a file says of its field, of which no grid is made; errors as of `load_field`."""
    arrays, header = load_arrays(path, FIELD_FORMAT)
    with _reading(path):
        said = _Said(arrays, header)
        return {
            "shape": list(said.lattice.shape),
            "lo": list(said.lattice.lo),
            "hi": list(said.lattice.hi),
            "channels": said.n_channels,
            "shading": said.equation.shading,
            "activation": said.equation.activation,
            "grid_bytes": 4 * said.lattice.n_voxels * (1 + said.n_channels),
            "layers": [list(weight.shape) for weight, _ in said.layers],
            "notes": said.notes,
            **({} if said.lattice.space is None else {"space": said.lattice.space.name}),
        }


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except (LookupError, TypeError, ArithmeticError, ValueError) as error:
        raise StorageError(path, f"holds no usable field ({type(error).__name__}: {error})") from error


class _Said:
    """What the header and the small arrays of a field say, checked one by one, as anybody may have written them."""

    def __init__(self, arrays: Arrays, header: Mapping[str, Any]) -> None:
        lo, hi, shape = (_list(header, key, 3) for key in ("lo", "hi", "shape"))
        if not all(type(side) is int and 2 <= side <= MAX_SIDE for side in shape):
            raise ValueError(f"shape: expected three sides of 2..{MAX_SIDE}, got {shape}")
        self.lattice = Lattice((lo[0], lo[1], lo[2]), (hi[0], hi[1], hi[2]), (shape[0], shape[1], shape[2]), _space_of(header))
        self.notes: dict[str, Any] = header["notes"] if isinstance(header.get("notes"), dict) else {}
        self.equation = _equation_of(header)
        density, features = arrays["density"], arrays["features"]
        if density.dtype != np.float32 or features.dtype != np.float32 or density.ndim != 1 or features.ndim != 2:
            raise ValueError("density, features: expected float32 [N] and [N,C]")
        if len(density) != len(features) or not 1 <= features.shape[1] <= MAX_STORED_CHANNELS:
            raise ValueError(f"features: expected {len(density)} rows of 1..{MAX_STORED_CHANNELS}, got {list(features.shape)}")
        self.n_channels = features.shape[1]
        n_layers = header["n_layers"]
        if type(n_layers) is not int or not 0 <= n_layers <= MAX_LAYERS:
            raise ValueError(f"n_layers: expected 0..{MAX_LAYERS}, got {n_layers}")
        self.layers = tuple((arrays[f"mlp{i}.weight"], arrays[f"mlp{i}.bias"]) for i in range(n_layers))
        if any(array.dtype != np.float32 for layer in self.layers for array in layer):
            raise ValueError("color_mlp: expected float32")
        if fault := layers_fault(self.layers, self.n_channels, self.equation.feature_frequencies):
            raise ValueError(f"color_mlp: {fault}")


def _list(header: Mapping[str, Any], key: str, n: int) -> list[Any]:
    """Finite numbers of a header."""
    values = header.get(key)
    if not isinstance(values, list) or len(values) != n or not all(_is_number(value) for value in values):
        raise ValueError(f"{key}: expected {n} finite numbers")
    return values


def _space_of(header: Mapping[str, Any]) -> Space | None:
    """The space of a field; a box where the header names none."""
    kind = next((kind for kind in (Front, Unbounded) if header.get(kind.name) is not None), None)
    if kind is None:
        return None
    rows = header[kind.name]
    if not isinstance(rows, list) or len(rows) != 4:
        raise ValueError(f"{kind.name}: expected 4 rows of 4 finite numbers")
    a, b, c, d = ((w, x, y, z) for w, x, y, z in (_list({kind.name: row}, kind.name, 4) for row in rows))
    return kind((a, b, c, d))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= MAX_NUMBER


def _bits(arrays: Arrays, key: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    packed, n = arrays[key], math.prod(shape)
    if packed.dtype != np.uint8 or packed.shape != (-(-n // 8),):
        raise ValueError(f"{key}: expected {n} bits, got {packed.dtype} {list(packed.shape)}")
    return np.unpackbits(packed, count=n).view(np.bool_).reshape(shape)


def _equation_of(header: Mapping[str, Any]) -> Equation:
    """The constants in the header of a field; what older run folders do not say has the default of then and now."""
    said = {field.name: header[field.name] for field in fields(Equation) if field.name in header}
    for name in NUMBERS:
        if name != "background" and not _is_number(said.get(name)):
            raise ValueError(f"{name}: expected a finite number")
    if type(said.get("feature_frequencies", 0)) is not int:
        raise ValueError("feature_frequencies: expected a whole number")
    for name in ("shading", "activation"):
        if not isinstance(said.get(name, ""), str):
            raise ValueError(f"{name}: expected a text")
    red, green, blue = _list(header, "background", 3)
    return Equation(**said | {"background": (red, green, blue)})
