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
import zipfile
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrf.codec.compressed import CODED, KEPT, MAX_SIDE, PRUNED, CompressedField, Quantized, float_table, items_of
from vqrf.fields.field import expand
from vqrf.fields.storage import MAX_FIELD_BYTES
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
from vqrf.interop.dvgo import OWN_KEY, USUAL, Corners, Parts, Sampling, floats, own_numbers
from vqrf.interop.pickles import Refused, array_of
from vqrf.kernels.constants import N_NUMBERS

MEMBERS = (
    *("non_prune_mask", "keep_mask", "non_prune_density", "non_vq_grid"),
    *("vq_indexs", "codebook", "rgbnet", "metadata"),
)
FOLDER = "extreme_saving"
MAX_CODES = 4096
"""The official loader reads codes of 12 bits, whatever the codebook."""

SAME_ZERO = 1e-4
"""A zero point this near to a whole number is one: the official code writes whole numbers, our offsets are rounded."""

LOWEST = 128
"""Official levels are int8, ours uint8."""


def is_vqrf_folder(path: Path) -> bool:
    return path.is_dir() and (path / "metadata.npz").exists()


def load_vqrf(path: Path, *, corners: Corners | None = None, sampling: Sampling = USUAL) -> CompressedField:
    """Read the official code's folder, or the zip of it.

    Args:
      corners: how its grids lie; None: centred, as the official code has them.

    Raises:
      CheckpointError: a part is missing or damaged, holds anything but numbers, or says what the others deny.

    Safe for untrusted input.
    """
    parts = _parts(path)
    try:
        return _compressed(parts, corners or "centred", sampling)
    except CheckpointError:
        raise
    except (ValueError, KeyError, RecursionError) as error:  # Refused, and what CompressedField says
        raise CheckpointError(path, str(error)) from error


def _parts(path: Path) -> dict[str, Any]:
    """The eight members by name: arrays, and what the pickles in two of them hold."""
    if path.is_dir():
        data = {name: _file_bytes(path / f"{name}.npz") for name in MEMBERS}
    else:
        archive = Archive(path, path)
        found: dict[str, list[str]] = {name: [] for name in MEMBERS}
        for member in archive.members:
            found.get(PurePosixPath(member).name.removesuffix(".npz"), []).append(member)
        for name, members in found.items():
            if len(members) != 1:
                archive.refuse(f"{name}.npz", f"expected one such member, found {len(members)}")
        data = {name: archive.read(members[0]) for name, members in found.items()}
    parts = {}
    for name, content in data.items():
        arrays = load_npz(content, f"{path}: {name}.npz")
        if len(arrays) != 1:
            raise CheckpointError(path, f"{name}.npz: expected one array, found {len(arrays)}")
        parts[name] = next(iter(arrays.values()))
    return parts


def _file_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_INFLATED_BYTES:
            raise CheckpointError(path, f"is larger than {MAX_INFLATED_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(path, error.strerror or str(error)) from error


def _array(parts: dict[str, Any], name: str, dtype: type, ndim: int) -> NDArray[Any]:
    array = parts[name]
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != ndim:
        what = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise Refused(f"{name}.npz: expected {np.dtype(dtype)} with {ndim} axes, got {what}")
    return array


def _bits(parts: dict[str, Any], name: str, n: int) -> NDArray[np.uint8]:
    packed = _array(parts, name, np.uint8, 1)
    if len(packed) != -(-n // 8):
        raise Refused(f"{name}.npz: expected {n} bits, got {len(packed)} bytes")
    return np.unpackbits(packed, count=n)


def _compressed(parts: dict[str, Any], corners: Corners, sampling: Sampling) -> CompressedField:
    metadata, layers = parts["metadata"], parts["rgbnet"]
    if not isinstance(metadata, dict) or not isinstance(layers, dict):
        raise Refused("metadata.npz, rgbnet.npz: expected pickled dicts")
    state = dict(metadata.get("model_state_dict") or {})
    said = Parts(metadata.get("model_kwargs"), {**state, **{f"rgbnet.{key}": layer for key, layer in layers.items()}})
    shape = _shape(metadata)
    lattice = _lattice(said, shape, corners)
    n_voxels = int(np.prod(shape))
    used, kept = (_bits(parts, name, n_voxels).astype(bool) for name in ("non_prune_mask", "keep_mask"))
    partition = np.where(used, np.where(kept, KEPT, CODED), PRUNED).astype(np.uint8).reshape(shape)
    codebook = _array(parts, "codebook", np.float16, 3)
    if codebook.shape[0] != 1 or 4 * n_voxels * (1 + codebook.shape[2]) > MAX_FIELD_BYTES:
        raise Refused(f"codebook.npz: shape {list(codebook.shape)}, or a field too large for it")
    kept_levels = _array(parts, "non_vq_grid", np.int8, 2)
    if len(kept_levels) != np.count_nonzero(kept):
        raise Refused(f"non_vq_grid.npz: expected {np.count_nonzero(kept)} rows, got {len(kept_levels)}")
    coded = used != kept  # a voxel that is kept and pruned has a code and features that nobody sees
    small = CompressedField(
        lattice=lattice,
        partition=partition,
        density=_quantized(_array(parts, "non_prune_density", np.int8, 2)[:, 0], metadata.get("density_dequant"), "density"),
        codes=_codes(parts, int(np.count_nonzero(coded)), codebook.shape[1])[used[coded]],
        codebook=codebook[0],
        kept=_quantized(kept_levels[used[kept]], metadata.get("grid_dequant"), "grid"),
        color_mlp=tuple((weight.astype(np.float16), bias.astype(np.float16)) for weight, bias in said.layers()),
        equation=said.equation(sampling),
        empty_density=0.0,
        metadata={},
    )
    if OWN_KEY in metadata:
        return _with_own(small, metadata[OWN_KEY])
    return _ringed(small, said) if corners == "centred" else small


def _shape(metadata: dict[str, Any]) -> tuple[int, int, int]:
    sides = array_of(metadata.get("world_size"), "world_size")
    if sides.shape != (3,) or not ((sides >= 2) & (sides <= MAX_SIDE - 2)).all():
        raise Refused(f"world_size: expected 3 sides of 2..{MAX_SIDE - 2}, got {sides.tolist()}")
    x, y, z = (int(side) for side in sides)
    return x, y, z


def _lattice(said: Parts, shape: tuple[int, int, int], corners: Corners) -> Lattice:
    low, high = said.box()
    inset = (high - low) / shape / 2 if corners == "centred" else np.zeros(3)
    return Lattice(tuple((low + inset).tolist()), tuple((high - inset).tolist()), shape)


def _ringed(small: CompressedField, said: Parts) -> CompressedField:
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
    scale, zero = (array_of(numbers.get(key), f"{name}_dequant {key}") for key in ("scale", "zero_point"))
    if scale.size != 1 or zero.size != 1 or not np.isfinite(scale + zero).all():
        raise Refused(f"metadata {name}_dequant: expected one finite scale and zero point")
    return float(scale.reshape(())), float(zero.reshape(()))


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


def _with_own(small: CompressedField, own: Any) -> CompressedField:
    low, high = own_numbers(own, "lo", 3), own_numbers(own, "hi", 3)
    density_offset, kept_offset = own_numbers(own, "offsets", 2)
    empty_density, *numbers = own_numbers(own, "constants", 1 + N_NUMBERS)
    n_codes, text = own.get("n_codes"), own.get("metadata")
    if not isinstance(n_codes, int) or not 1 <= n_codes <= small.n_codewords or not isinstance(text, str):
        raise Refused(f"{OWN_KEY}: expected the number of codes and metadata")
    return replace(
        small,
        lattice=Lattice((low[0], low[1], low[2]), (high[0], high[1], high[2]), small.lattice.shape),
        density=replace(small.density, offset=np.array([density_offset], np.float32)),
        codebook=items_of(small.codebook)[:n_codes],
        kept=replace(small.kept, offset=np.array([kept_offset], np.float32)),
        equation=small.equation.with_numbers(numbers),
        empty_density=empty_density,
        metadata=json.loads(text),
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
