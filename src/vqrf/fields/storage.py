"""Our own weights on disk: safetensors with a JSON header, written atomically, readable without torch.

A run folder holds `field.safetensors` (the trained field), `config.json` (what it was trained with), `metrics.jsonl` (one
line per report) and, while training goes on, checkpoints. Nothing in it names another path: it can be moved.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as tensors_from_bytes

from vqrf.fields.cells import active_voxels
from vqrf.fields.field import RadianceField
from vqrf.files import write_atomically
from vqrf.geometry import Lattice
from vqrf.kernels.constants import Equation

FIELD_FORMAT = "vqrf-field-1"
HEADER_KEY, CRC_KEY = "vqrf", "crc32"
MAX_FIELD_BYTES = 1 << 33
MAX_HEADER_BYTES = 1 << 24
"""Ours have a few kB."""

DTYPES = {
    "bool": "BOOL",
    **{f"{kind}int{bits}": f"{letter}{bits}" for kind, letter in (("", "I"), ("u", "U")) for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
}
"""What safetensors calls NumPy's types."""

Arrays = dict[str, NDArray[Any]]


class StorageError(ValueError):
    """A file of ours that cannot be used: which, and why, in one line."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason


def save_arrays(path: Path, arrays: Arrays, header: Mapping[str, Any]) -> None:
    """Write arrays with a JSON header, whole or not at all."""
    write_atomically(path, bytes_of_arrays(arrays, header))


def bytes_of_arrays(arrays: Arrays, header: Mapping[str, Any]) -> bytes:
    """What `save_arrays` writes: the same bytes for the same arrays and header.

    The format is safetensors', whose own writer puts the keys of `__metadata__` in an order that differs from run to run.
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    text = json.dumps(header, sort_keys=True)
    entries: dict[str, Any] = {"__metadata__": {CRC_KEY: checksum(contiguous, text), HEADER_KEY: text}}
    names, end = sorted(contiguous, key=lambda name: (-contiguous[name].itemsize, name)), 0  # so each starts where it may
    for name in names:
        array = contiguous[name]
        begin, end = end, end + array.nbytes
        entries[name] = {"dtype": DTYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": [begin, end]}
    head = json.dumps(entries, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    little = (contiguous[name].astype(contiguous[name].dtype.newbyteorder("<"), copy=False) for name in names)
    return b"".join([len(head).to_bytes(8, "little"), head, *(array.reshape(-1).view(np.uint8).data for array in little)])


def checksum(arrays: Arrays, header: str) -> str:
    """CRC-32 of header and arrays: safetensors itself does not notice a changed number."""
    crc = zlib.crc32(header.encode())
    for name in sorted(arrays):
        array = arrays[name]
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"


def load_arrays(path: Path, expected_format: str) -> tuple[Arrays, dict[str, Any]]:
    """Read what `save_arrays` wrote.

    Raises:
      StorageError: the file is missing, is none of ours, or is damaged.
    """
    try:
        if path.stat().st_size > MAX_FIELD_BYTES:
            raise StorageError(path, f"is larger than {MAX_FIELD_BYTES} bytes")
        data = path.read_bytes()
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
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
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
        "n_layers": len(field.color_mlp),
        "notes": dict(notes),
        **asdict(field.equation),
    }
    save_arrays(path, arrays, header)


def load_field(path: Path) -> tuple[RadianceField, dict[str, Any]]:
    """Read a field and its notes. Voxels that were not written come back as zeros.

    Raises:
      StorageError: the file cannot be used.
    """
    arrays, header = load_arrays(path, FIELD_FORMAT)
    try:
        lattice = Lattice(tuple(header["lo"]), tuple(header["hi"]), tuple(header["shape"]))
        active = np.unpackbits(arrays["active"], count=lattice.n_voxels).astype(bool).reshape(lattice.shape)
        density = np.zeros(lattice.shape, np.float32)
        density[active] = arrays["density"]
        features = np.zeros((*lattice.shape, arrays["features"].shape[-1]), np.float32)
        features[active] = arrays["features"]
        allowed = None
        if "allowed" in arrays:
            cells = tuple(side - 1 for side in lattice.shape)
            allowed = np.unpackbits(arrays["allowed"], count=int(np.prod(cells))).reshape(cells)
        field = RadianceField(
            lattice=lattice,
            density=density,
            features=features,
            color_mlp=tuple((arrays[f"mlp{i}.weight"], arrays[f"mlp{i}.bias"]) for i in range(header["n_layers"])),
            equation=_equation_of(header),
            allowed=allowed,
        )
        return field, header["notes"]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise StorageError(path, f"holds no usable field ({type(error).__name__}: {error})") from error


def _equation_of(header: Mapping[str, Any]) -> Equation:
    """The constants in the header of a field; what older run folders do not say has the default of then and now."""
    said = {field.name: header[field.name] for field in fields(Equation) if field.name in header}
    return Equation(**said | {"background": tuple(header["background"])})
