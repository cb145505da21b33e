"""Checkpoints of other programs for the tests: where the official ones are, and small ones made here."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vqrf.fields.field import RadianceField
from vqrf.kernels import select

FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"needs the official checkpoints in {FIXTURES}")

NEAR = 2.0
"""What the official renders were made with. It is a depth there and a distance here."""

SIDE = 8


def official_view(folder: Path, view: str, prefix: str = "") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origins, unit directions and official colours of a view.

    The official near is a depth along the camera's axis, ours a distance along the ray: origins are moved so that both are
    the same place.
    """
    origins, directions = (np.load(folder / f"{view}_rays_{part}.npy") for part in ("o", "d"))
    length = np.linalg.norm(directions, axis=-1, keepdims=True)
    directions = directions / length
    origins = origins + directions * NEAR * (length - 1)
    return origins.astype(np.float32), directions.astype(np.float32), np.load(folder / f"{prefix}{view}_rgb.npy").reshape(-1, 3)


def decibels(field: RadianceField, origins: np.ndarray, directions: np.ndarray, colors: np.ndarray) -> float:
    rgb = select().render_rays(field.volume(), origins, directions)[0]
    error = float(np.mean((rgb - colors) ** 2, dtype=np.float64))
    return -10 * math.log10(error) if error else math.inf


def small_tree(seed: int = 0) -> dict[str, Any]:
    """A checkpoint of DirectVoxGO's last era over 8x8x8 voxels, as torch would save it."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    low, high = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([1.0, 1.0, 1.0])
    state = {
        "xyz_min": low,
        "xyz_max": high,
        "act_shift": torch.tensor([-2.0]),
        "viewfreq": torch.tensor([1.0, 2.0]),
        "density.grid": numbers(1, 1, SIDE, SIDE, SIDE),
        "k0.grid": numbers(1, 6, SIDE, SIDE, SIDE),
        "rgbnet.0.weight": numbers(16, 6 + 3 + 12),
        "rgbnet.0.bias": numbers(16),
        "rgbnet.2.0.weight": numbers(16, 16),
        "rgbnet.2.0.bias": numbers(16),
        "rgbnet.3.weight": numbers(3, 16),
        "rgbnet.3.bias": numbers(3),
        "mask_cache.mask": torch.ones(SIDE, SIDE, SIDE, dtype=torch.bool),
        "mask_cache.xyz2ijk_scale": (SIDE - 1) / (high - low),
        "mask_cache.xyz2ijk_shift": -low * (SIDE - 1) / (high - low),
    }
    arguments = {
        "xyz_min": low.numpy(),
        "xyz_max": high.numpy(),
        "num_voxels": SIDE**3,
        "alpha_init": 0.01,
        "voxel_size_ratio": torch.tensor(1.0),
        "fast_color_thres": np.float64(1e-4),
        "rgbnet_direct": True,
    }
    return {"global_step": 7, "model_kwargs": arguments, "model_state_dict": state}


def saved(tree: Any, path: Path, *, legacy: bool = False) -> Path:
    torch.save(tree, path, _use_new_zipfile_serialization=not legacy)
    return path


class Malice:
    """Unpickled by the usual means, it makes a file."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.sign}",)


def object_npy(value: Any) -> bytes:
    """An `.npy` with an object array of shape () that holds the value."""
    array = np.empty((), object)
    array[()] = value
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()
