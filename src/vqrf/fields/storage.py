"""Our own weights on disk: safetensors with a JSON header, written atomically, readable without torch.

A run folder holds `field.safetensors` (the trained field), `config.json` (what it was trained with), `metrics.jsonl` (one
line per report) and, while training goes on, checkpoints. Nothing in it names another path: it can be moved.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as tensors_from_bytes
from safetensors.numpy import save as bytes_from_tensors

from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField
from vqrf.files import write_atomically
from vqrf.geometry import Lattice

FIELD_FORMAT = "vqrf-field-1"
CHECKPOINT_FORMAT = "vqrf-checkpoint-1"
HEADER_KEY, CRC_KEY = "vqrf", "crc32"
MAX_FIELD_BYTES = 1 << 33

SHARE_OF_SAVES = 0.05
"""Of a long run's time, at most, go to its checkpoints: those of the largest fields are a gigabyte."""

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
    """What `save_arrays` writes."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps(header, sort_keys=True)
    return bytes(bytes_from_tensors(contiguous, {HEADER_KEY: text, CRC_KEY: checksum(contiguous, text)}))


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
    found = header.get("format") if isinstance(header, dict) else None
    if found != expected_format:
        raise StorageError(path, f"expected format {expected_format}, got {found}")
    return arrays, header


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
    names = ("density_bias", "interval", "step_world", "near", "alpha_threshold", "background")
    header = {
        "format": FIELD_FORMAT,
        "lo": field.lattice.lo,
        "hi": field.lattice.hi,
        "shape": field.lattice.shape,
        "n_layers": len(field.color_mlp),
        "shading": field.shading,
        "activation": field.activation,
        "feature_frequencies": field.feature_frequencies,
        "notes": dict(notes),
        **{name: getattr(field, name) for name in names},
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
            density_bias=header["density_bias"],
            interval=header["interval"],
            step_world=header["step_world"],
            near=header["near"],
            alpha_threshold=header["alpha_threshold"],
            background=tuple(header["background"]),
            allowed=allowed,
            shading=header.get("shading", "mlp"),  # older run folders know no other
            activation=header.get("activation", "softplus"),
            feature_frequencies=header.get("feature_frequencies", 0),
        )
        return field, header["notes"]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise StorageError(path, f"holds no usable field ({type(error).__name__}: {error})") from error


def active_voxels(field: RadianceField) -> NDArray[np.bool_]:
    """Voxels [X,Y,Z] bool that belong to an allowed cell: nothing looks at the others."""
    if field.allowed is None:
        return np.ones(field.lattice.shape, bool)
    return voxels_of_cells(field.allowed)


def voxels_of_cells(cells: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Voxels [X,Y,Z] bool at a corner of one of the given cells [X-1,Y-1,Z-1]."""
    voxels = np.zeros(tuple(side + 1 for side in cells.shape), bool)
    for corner in np.ndindex(2, 2, 2):
        view = tuple(slice(offset, offset + side) for offset, side in zip(corner, cells.shape, strict=True))
        voxels[view] |= cells != 0
    return voxels


def fingerprint(scene: Scene, settings: Mapping[str, Any]) -> str:
    """A short name of the training views and settings: a checkpoint goes on only with the ones it began with."""
    crc = zlib.crc32(json.dumps([settings, scene.near, scene.far, scene.background], sort_keys=True).encode())
    for view in scene.train:
        camera = view.camera
        numbers = [*camera.pose.ravel(), camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height]
        crc = zlib.crc32(np.ascontiguousarray(view.image).data, zlib.crc32(np.array(numbers, np.float64).data, crc))
        if view.opacity is not None:
            crc = zlib.crc32(np.ascontiguousarray(view.opacity).data, crc)
    return f"{crc:08x}"


class Checkpoint:
    """A file that a long run writes now and then, and reads when it is started again.

    Args:
      path: the file; whoever keeps the result removes it then.
      fingerprint: from `fingerprint`; a checkpoint with another one is refused.
      seconds: between two saves, and more where a save takes longer than `SHARE_OF_SAVES` of that; 0 saves at every chance.
    """

    def __init__(self, path: Path, fingerprint: str, *, seconds: float = 30.0) -> None:
        self.path, self.fingerprint, self.seconds = path, fingerprint, seconds
        self._due = time.monotonic() + seconds

    def load(self) -> tuple[Arrays, dict[str, Any]] | None:
        """What was saved last, or None if nothing was.

        Raises:
          StorageError: the checkpoint is damaged, or belongs to other images or settings.
        """
        if not self.path.exists():
            return None
        arrays, header = load_arrays(self.path, CHECKPOINT_FORMAT)
        if header["fingerprint"] != self.fingerprint:
            raise StorageError(self.path, "belongs to other images or settings; give --overwrite to start afresh")
        return arrays, header["state"]

    def save_if_due(self, collect: Callable[[], tuple[Arrays, dict[str, Any]]]) -> None:
        """Save what `collect` returns (arrays and JSON-able state) if the last save is long enough ago."""
        begun = time.monotonic()
        if begun >= self._due:
            self.save(*collect())
            ended = time.monotonic()
            self._due = ended + (self.seconds and max(self.seconds, (ended - begun) / SHARE_OF_SAVES))

    def save(self, arrays: Arrays, state: Mapping[str, Any]) -> None:
        save_arrays(self.path, arrays, {"format": CHECKPOINT_FORMAT, "fingerprint": self.fingerprint, "state": state})

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
