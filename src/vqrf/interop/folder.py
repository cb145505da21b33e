"""What VQRF's official code writes, the folder or zip `extreme_saving`, as a `CompressedField`, in and out.

    non_prune_mask, keep_mask   bits: not PRUNED, KEPT; what is in one of the two is CODED
    non_prune_density           int8; density = (level - zero_point) * scale
    non_vq_grid                 int8; the kept features, likewise
    vq_indexs, codebook         codes of log2(K) bits; float16 codewords
    rgbnet, metadata            pickles: the colour MLP in float16; arguments, world size, quantisers

Everything is kept as the integers that it is. Its grids are centred (see `vqrf.interop.dvgo`): a ring of PRUNED voxels goes
around them, unless all that it would touch is PRUNED too. PRUNED voxels are worth 0 there; so that they are worth it in a
file that we write, all densities are moved by ours and the bias the other way. What a folder of ours was made from is in its
metadata under `vqrf`, and comes back to the bit.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrf.codec.compressed import (
    CODED,
    KEPT,
    MAX_METADATA_BYTES,
    MAX_SIDE,
    MAX_VOXELS,
    PRUNED,
    CompressedField,
    Quantized,
    float_table,
    items_of,
)
from vqrf.fields.field import expand
from vqrf.files import read_file
from vqrf.geometry import Lattice
from vqrf.interop import dvgo
from vqrf.interop.archives import (
    MAX_INFLATED_BYTES,
    Archive,
    CheckpointError,
    bytes_of_npz,
    bytes_of_object_npz,
    bytes_of_zip,
    load_npz,
)
from vqrf.interop.dvgo_parts import DvgoParts
from vqrf.interop.parts import OWN_KEY, USUAL, Corners, Outline, Sampling, expect_box, floats, lattice_of, own_numbers, reading
from vqrf.interop.values import Refused, array_of, shape_of
from vqrf.kernels.constants import N_NUMBERS
from vqrf.memory import expect_room

MEMBERS = (
    *("non_prune_mask", "keep_mask", "non_prune_density", "non_vq_grid"),
    *("vq_indexs", "codebook", "rgbnet", "metadata"),
)
FOLDER = "extreme_saving"
MAX_CODES = 4096
"""The official loader reads codes of 12 bits, whatever the codebook."""

SAME_ZERO = 1e-4
"""A zero point this near to a whole number is one: the official code writes whole numbers, our offsets are rounded."""

BYTES_OF_CODE = 32
"""While it is read: its bits are bytes for a moment."""

LOWEST = 128
"""Official levels are int8, ours uint8."""


def is_vqrf_folder(path: Path) -> bool:
    return path.is_dir() and (path / "metadata.npz").exists()


def load_vqrf(
    path: Path, *, corners: Corners | None = None, sampling: Sampling = USUAL, max_bytes: int | None = None
) -> CompressedField:
    """Read the official code's folder, or the zip of it.

    Args:
      corners: how its grids lie; None: centred, as the official code has them.
      max_bytes: the budget of memory.

    Raises:
      CheckpointError: a part is missing or damaged, holds anything but numbers, or says what the others deny; or the field
        takes more memory.

    Safe for untrusted input.
    """
    parts = _parts(path, max_bytes)
    with reading(path):
        return _Opened(parts, corners or "centred", sampling).compressed(max_bytes)


def outline_vqrf(
    path: Path, *, corners: Corners | None = None, sampling: Sampling = USUAL, max_bytes: int | None = None
) -> Outline:
    """What the official code's output says of its field; arguments and errors as of `load_vqrf`."""
    parts = _parts(path, max_bytes)
    with reading(path):
        return _Opened(parts, corners or "centred", sampling).outline()


def _parts(path: Path, max_bytes: int | None) -> dict[str, Any]:
    """The eight members by name: arrays, and what the pickles in two of them hold."""
    if path.is_dir():
        data = {name: _file_bytes(path / f"{name}.npz") for name in MEMBERS}
    else:
        archive = Archive(path, path, max_bytes=max_bytes)
        found: dict[str, list[str]] = {name: [] for name in MEMBERS}
        for member in archive.members:
            found.get(PurePosixPath(member).name.removesuffix(".npz"), []).append(member)
        for name, members in found.items():
            if len(members) != 1:
                archive.refuse(f"{name}.npz", f"expected one such member, found {len(members)}")
        data = {name: archive.read(members[0]) for name, members in found.items()}
    parts = {}
    for name, content in data.items():
        arrays = load_npz(content, f"{path}: {name}.npz", max_bytes=max_bytes)
        if len(arrays) != 1:
            raise CheckpointError(path, f"{name}.npz: expected one array, found {len(arrays)}")
        parts[name] = next(iter(arrays.values()))
    return parts


def _file_bytes(path: Path) -> bytes:
    try:
        return read_file(path, MAX_INFLATED_BYTES)
    except OSError as error:
        raise CheckpointError(path, error.strerror or str(error)) from error


def _array(parts: dict[str, Any], name: str, dtype: type, ndim: int) -> NDArray[Any]:
    array = parts[name]
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != ndim:
        what = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise Refused(f"{name}.npz: expected {np.dtype(dtype)} with {ndim} axes, got {what}")
    return array


class _Opened:
    """The official parts, of which the masks are bits yet."""

    def __init__(self, parts: dict[str, Any], corners: Corners, sampling: Sampling) -> None:
        metadata, layers = parts["metadata"], parts["rgbnet"]
        if not isinstance(metadata, dict) or not isinstance(layers, dict):
            raise Refused("metadata.npz, rgbnet.npz: expected pickled dicts")
        state = metadata.get("model_state_dict")
        if not isinstance(state, dict):
            raise Refused("metadata.npz: holds no model_state_dict")
        state = {**state, **{f"rgbnet.{key}": layer for key, layer in layers.items() if isinstance(key, str)}}
        self.parts, self.metadata = parts, metadata
        self.said, self.corners = DvgoParts(metadata.get("model_kwargs"), state, sampling), corners
        self.shape = _shape(metadata)
        self.equation = self.said.equation()
        self.codebook = _array(parts, "codebook", np.float16, 3)
        if self.codebook.shape[0] != 1:
            raise Refused(f"codebook.npz: expected one table, got shape {list(self.codebook.shape)}")
        for name in ("non_prune_mask", "keep_mask"):
            packed = _array(parts, name, np.uint8, 1)
            if len(packed) != -(-math.prod(self.shape) // 8):
                raise Refused(f"{name}.npz: expected {math.prod(self.shape)} bits, got {len(packed)} bytes")

    def slabs(self) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """Of each x: which voxels [Y,Z] are not pruned, and which are kept."""
        n = self.shape[1] * self.shape[2]
        masks = [self.parts[name] for name in ("non_prune_mask", "keep_mask")]
        for first in range(0, math.prod(self.shape), n):
            start = first // 8
            bits = [np.unpackbits(mask[start : -(-(first + n) // 8)])[first - 8 * start :][:n] != 0 for mask in masks]
            yield bits[0].reshape(self.shape[1:]), bits[1].reshape(self.shape[1:])

    def outline(self) -> Outline:
        n_used, is_ringed = 0, False
        for x, (used, _) in enumerate(self.slabs()):
            n_used += int(np.count_nonzero(used))
            is_end = x in (0, self.shape[0] - 1)
            is_ringed |= bool(used.any() if is_end else used[[0, -1]].any() or used[:, [0, -1]].any())
        lattice, equation, n_codes = _lattice(self.said, self.shape, self.corners), self.equation, self.codebook.shape[1]
        n_pruned = lattice.n_voxels - n_used
        if OWN_KEY in self.metadata:
            own = _Own(self.metadata[OWN_KEY], n_codes)
            lattice, n_codes = lattice_of(own.low, own.high, self.shape), own.n_codes
            equation = equation.with_numbers(own.numbers)
        elif is_ringed and self.corners == "centred":
            lattice = dvgo.padded_lattice(*self.said.box(), self.shape)
            n_pruned = lattice.n_voxels - n_used
        facts = {"kind": "official VQRF output", "corners": self.corners, "codewords": n_codes, "voxels_pruned": n_pruned}
        return Outline(lattice, self.codebook.shape[2], self.said.layers(), equation, facts)

    def compressed(self, max_bytes: int | None) -> CompressedField:
        n_voxels = math.prod(self.shape)
        expect_room(2 * n_voxels, max_bytes, f"world_size: a partition of {list(self.shape)} voxels")
        partition = np.empty(self.shape, np.uint8)
        has_code, has_row = [], []  # of each voxel with a code, and of each that is kept: whether it is not pruned
        for slab, (used, kept) in zip(partition, self.slabs(), strict=True):
            slab[:] = used * (CODED + (KEPT - CODED) * kept.view(np.uint8))
            has_code.append(used[used != kept])  # one that is kept and pruned has a code and features that nobody sees
            has_row.append(used[kept])
        codes_used, rows_used = np.concatenate(has_code), np.concatenate(has_row)
        kept_levels = _array(self.parts, "non_vq_grid", np.int8, 2)
        if len(kept_levels) != len(rows_used):
            raise Refused(f"non_vq_grid.npz: expected {len(rows_used)} rows, got {len(kept_levels)}")
        density = _array(self.parts, "non_prune_density", np.int8, 2)
        if density.shape[1] != 1:
            raise Refused(f"non_prune_density.npz: expected one column, got shape {list(density.shape)}")
        expect_room(n_voxels + BYTES_OF_CODE * len(codes_used), max_bytes, f"vq_indexs: {len(codes_used)} codes")
        small = CompressedField(
            lattice=_lattice(self.said, self.shape, self.corners),
            partition=partition,
            density=_quantized(density[:, 0], self.metadata.get("density_dequant"), "density"),
            codes=_codes(self.parts, len(codes_used), self.codebook.shape[1])[codes_used],
            codebook=self.codebook[0],
            kept=_quantized(kept_levels[rows_used], self.metadata.get("grid_dequant"), "grid"),
            color_mlp=tuple((weight.astype(np.float16), bias.astype(np.float16)) for weight, bias in self.said.layers()),
            equation=self.equation,
            empty_density=0.0,
            metadata={},
        )
        if OWN_KEY in self.metadata:
            return _with_own(small, _Own(self.metadata[OWN_KEY], small.n_codewords))
        return _ringed(small, self.said) if self.corners == "centred" else small


def _shape(metadata: dict[str, Any]) -> tuple[int, int, int]:
    if shape_of(metadata.get("world_size"), "world_size") != (3,):
        raise Refused("world_size: expected 3 sides")
    sides = array_of(metadata.get("world_size"), "world_size")
    if not ((sides >= 2) & (sides <= MAX_SIDE - 2) & (sides % 1 == 0)).all() or sides.astype(float).prod() > MAX_VOXELS:
        raise Refused(f"world_size: expected 3 sides of 2..{MAX_SIDE - 2}, got {sides.tolist()}")
    x, y, z = (int(side) for side in sides)
    return x, y, z


def _lattice(said: DvgoParts, shape: tuple[int, int, int], corners: Corners) -> Lattice:
    low, high = said.box()
    inset = (high - low) / shape / 2 if corners == "centred" else np.zeros(3)
    return lattice_of(low + inset, high - inset, shape)


def _ringed(small: CompressedField, said: DvgoParts) -> CompressedField:
    """With a ring of PRUNED voxels around it, where the official zeros are, if there is anything that they could touch."""
    partition = small.partition
    if not any(np.take(partition, side, axis).any() for axis in range(3) for side in (0, -1)):
        return small
    lattice = dvgo.padded_lattice(*said.box(), partition.shape)
    return replace(small, lattice=lattice, partition=np.pad(partition, 1, constant_values=PRUNED))


def _quantizer(numbers: Any, name: str) -> tuple[float, float]:
    """Scale and zero point."""
    if not isinstance(numbers, dict):
        raise Refused(f"metadata {name}_dequant: is missing")
    said = [(numbers.get(key), f"{name}_dequant {key}") for key in ("scale", "zero_point")]
    if any(math.prod(shape_of(*one)) != 1 for one in said):
        raise Refused(f"metadata {name}_dequant: expected one finite scale and zero point")
    scale, zero = (float(array_of(*one).reshape(())) for one in said)
    if not math.isfinite(scale + zero):
        raise Refused(f"metadata {name}_dequant: expected one finite scale and zero point")
    return scale, zero


def _quantized(levels: NDArray[np.int8], numbers: Any, name: str) -> Quantized:
    scale, zero = _quantizer(numbers, name)
    ours = (levels.astype(np.int16) + LOWEST).astype(np.uint8)
    return Quantized(ours, np.array([scale], np.float32), np.array([-(LOWEST + zero) * scale], np.float32))


def _codes(parts: dict[str, Any], n: int, n_codes: int) -> NDArray[np.int32]:
    packed = _array(parts, "vq_indexs", np.uint8, 1)
    n_bits = max(n_codes - 1, 1).bit_length()
    if len(packed) != -(-n * n_bits // 8):
        raise Refused(f"vq_indexs.npz: expected {n} codes of {n_bits} bits, got {len(packed)} bytes")
    bits = np.unpackbits(packed, count=n * n_bits).reshape(n, n_bits)
    codes = np.zeros(n, np.int32)
    for bit in range(n_bits):
        codes = codes << 1 | bits[:, bit]
    return codes


class _Own:
    """What a folder of ours was made from."""

    def __init__(self, own: Any, most_codes: int) -> None:
        self.low, self.high = own_numbers(own, "lo", 3), own_numbers(own, "hi", 3)
        self.density_offset, self.kept_offset = own_numbers(own, "offsets", 2)
        self.empty_density, *self.numbers = own_numbers(own, "constants", 1 + N_NUMBERS)
        n_codes, text = own.get("n_codes"), own.get("metadata")
        if type(n_codes) is not int or not 1 <= n_codes <= most_codes or not isinstance(text, str):
            raise Refused(f"{OWN_KEY}: expected the number of codes and metadata")
        if len(text) > MAX_METADATA_BYTES:
            raise Refused(f"{OWN_KEY} metadata: has {len(text)} characters, the limit is {MAX_METADATA_BYTES}")
        self.n_codes: int = n_codes
        self.metadata = json.loads(text)
        if not isinstance(self.metadata, dict):
            raise Refused(f"{OWN_KEY} metadata: expected an object")


def _with_own(small: CompressedField, own: _Own) -> CompressedField:
    return replace(
        small,
        lattice=lattice_of(own.low, own.high, small.lattice.shape),
        density=replace(small.density, offset=np.array([own.density_offset], np.float32)),
        codebook=items_of(small.codebook)[: own.n_codes],
        kept=replace(small.kept, offset=np.array([own.kept_offset], np.float32)),
        equation=small.equation.with_numbers(own.numbers),
        empty_density=own.empty_density,
        metadata=own.metadata,
    )


# ------------------------------------------------------------------------------------------------------------ out


def files_of_vqrf(small: CompressedField) -> dict[str, bytes]:
    """The eight files of `extreme_saving`, which the official code and `load_vqrf` read.

    Raises:
      ValueError: the official code has no such file: no colour MLP, more than 4096 codewords, or a scale for every channel.
    """
    n_codes = small.n_codewords
    if small.equation.feature_frequencies:
        raise ValueError("the colour MLP of VQRF's files takes no frequencies of the features")
    if not small.color_mlp or n_codes > MAX_CODES or small.kept.scale.shape != (1,):
        raise ValueError("VQRF's files have a colour MLP, at most 4096 codewords and one scale for all kept features")
    used, kept = small.partition != PRUNED, small.partition == KEPT
    codebook = np.zeros((1, MAX_CODES, small.n_channels), np.float16)
    codebook[0, :n_codes] = float_table(small.codebook)
    bits = (small.codes[:, None] >> np.arange(MAX_CODES.bit_length() - 2, -1, -1)) & 1
    layers = dvgo.named_layers(tuple((float_table(weight), float_table(bias)) for weight, bias in small.color_mlp))
    arrays: dict[str, NDArray[Any]] = {
        "non_prune_mask": np.packbits(used),
        "keep_mask": np.packbits(kept),
        "non_prune_density": _official(small.density)[:, None],
        "non_vq_grid": _official(small.kept),
        "vq_indexs": np.packbits(bits.astype(np.uint8)),
        "codebook": codebook,
    }
    files = {name: bytes_of_npz({"arr_0": array}) for name, array in arrays.items()}
    files["rgbnet"] = bytes_of_object_npz("arr_0", {key: layer.astype(np.float16) for key, layer in layers.items()})
    files["metadata"] = bytes_of_object_npz("metadata", _metadata(small))
    return {f"{name}.npz": data for name, data in files.items()}


def zip_of_vqrf(small: CompressedField) -> bytes:
    return bytes_of_zip({f"{FOLDER}/{name}": data for name, data in files_of_vqrf(small).items()}, zipfile.ZIP_DEFLATED)


def _official(values: Quantized) -> NDArray[np.int8]:
    return (values.levels.astype(np.int16) - LOWEST).astype(np.int8)


def _dequantizer(values: Quantized, moved: float) -> dict[str, float]:
    scale, offset = float(values.scale[0]), float(values.offset[0])
    zero = (moved - offset) / scale - LOWEST if scale else 0.0
    return {"zero_point": round(zero) if abs(zero - round(zero)) < SAME_ZERO else zero, "scale": scale}


def _metadata(small: CompressedField) -> dict[str, Any]:
    lattice, empty = small.lattice, small.empty_density
    expect_box(lattice)
    half = lattice.extent / (np.array(lattice.shape) - 1) / 2
    low, high = lattice.lo - half, lattice.hi + half  # a centred grid's box
    corners = {"xyz_min": low.astype(np.float32), "xyz_max": high.astype(np.float32)}
    field = expand(small)
    arguments = dvgo.arguments_of(field, high - low)
    arguments |= {"xyz_min": low.tolist(), "xyz_max": high.tolist(), "mask_cache_world_size": list(lattice.shape)}
    arguments |= {"density_factor": 1, "codebook_size": MAX_CODES, "use_cosine_sim": False, "use_vq": True}
    return {
        "global_step": 0,
        "world_size": np.array(lattice.shape, np.int64),
        "model_kwargs": arguments,
        "grid_dequant": _dequantizer(small.kept, 0.0),
        "density_dequant": _dequantizer(small.density, empty),
        "model_state_dict": {
            "act_shift": np.array([small.equation.density_bias + empty], np.float32),
            **dvgo.viewfreq_of(field.color_mlp, field.n_channels),
            **{f"{part}{key}": corner for part in ("", "density.", "k0.") for key, corner in corners.items()},
        },
        OWN_KEY: {
            "lo": floats(lattice.lo),
            "hi": floats(lattice.hi),
            "offsets": [float(small.density.offset[0]), float(small.kept.offset[0])],
            "n_codes": small.n_codewords,
            "constants": floats([empty, *small.equation.numbers()]),
            "metadata": json.dumps(small.metadata),
        },
    }
