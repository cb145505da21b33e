"""Checkpoints of places for the tests, as other programs would save them: forward-facing ones, unbounded ones, and the cameras
that the first are of. No official ones are at hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

N_CAMERAS, WIDTH, HEIGHT, FOCAL, NEAREST = 9, 60, 45, 50.0, 4.0
SIDES = 15, 13, 17
CHANNELS = 4
N_DENSITY, N_FEATURES, N_WAVES = 3, 4, 1
"""Components of a plane, and frequencies that the network of a TensoRF sees."""

BG_LEN, CENTER, RADIUS = 0.3, (2.0, -1.0, 0.5), 1.5
"""Of an unbounded field: the thickness of its shell, and its cube."""


def poses_of(seed: int = 0, *, spread: float = 0.3) -> np.ndarray:
    """[N,3,4] cameras side by side in a world that is turned and moved."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    poses = []
    for _ in range(N_CAMERAS):
        tilt = np.linalg.qr(np.eye(3) + rng.normal(scale=0.03, size=(3, 3)))[0]
        tilt *= np.sign(np.diag(tilt))
        axes = turn @ tilt * np.sign(np.linalg.det(tilt))
        poses.append(np.concatenate([axes, (turn @ rng.normal(scale=spread, size=3) + [5, -3, 2])[:, None]], 1))
    return np.stack(poses)


def save_cameras(folder: Path) -> None:
    """What a folder in LLFF's layout says of them."""
    rows = np.zeros((N_CAMERAS, 17))
    for row, pose in zip(rows, poses_of(), strict=True):
        columns = np.stack([-pose[:, 1], pose[:, 0], pose[:, 2], pose[:, 3], [HEIGHT, WIDTH, FOCAL]], 1)
        row[:15], row[15:] = columns.ravel(), (NEAREST, 40.0)
    np.save(folder / "poses_bounds.npy", rows)


def smooth(seed: int, *shape: int) -> Tensor:
    """Random numbers of this shape, whose last three axes are smooth."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, math.prod(shape[:-3]), 5, 5, 5, generator=generator, dtype=torch.float64)
    fine = torch.nn.functional.interpolate(coarse, size=shape[-3:], mode="trilinear", align_corners=True)
    return fine.reshape(shape)


def mpi_tree(*, n_view: int = 0) -> dict[str, Any]:
    """A DirectMPIGO as torch would save it, with a mask that cuts a corner off."""
    n_planes = SIDES[2]
    low, high = torch.tensor([-1.4, -1.3, -1.0]).double(), torch.tensor([1.4, 1.3, 1.0]).double()
    density = smooth(1, 1, 1, *SIDES) * 3 - 2
    shift = torch.linspace(-2, 0, n_planes).double().reshape(1, 1, 1, 1, -1).clone()
    shift[..., -1] = 10
    mask = torch.ones(SIDES, dtype=torch.bool)
    mask[:4, :5] = False
    generator = torch.Generator().manual_seed(3)
    state = {
        "xyz_min": low,
        "xyz_max": high,
        "act_shift.grid": shift,
        "density.grid": density,
        "k0.grid": smooth(2, 1, CHANNELS, *SIDES),
        "viewfreq": 2.0 ** torch.arange(n_view),
        "rgbnet.0.weight": torch.randn(8, CHANNELS + 3 + 6 * n_view, generator=generator),
        "rgbnet.0.bias": torch.randn(8, generator=generator),
        "rgbnet.2.weight": torch.randn(3, 8, generator=generator),
        "rgbnet.2.bias": torch.randn(3, generator=generator),
        "mask_cache.mask": mask,
        "mask_cache.xyz2ijk_scale": (torch.tensor(SIDES) - 1) / (high - low),
        "mask_cache.xyz2ijk_shift": -low * (torch.tensor(SIDES) - 1) / (high - low),
    }
    arguments = {
        "xyz_min": low.numpy(),
        "xyz_max": high.numpy(),
        "num_voxels": math.prod(SIDES),
        "mpi_depth": n_planes,
        "voxel_size_ratio": 256 / n_planes,
        "fast_color_thres": 1e-3,
        "rgbnet_dim": CHANNELS,
    }
    floats = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    return {"global_step": 9, "model_kwargs": arguments, "model_state_dict": floats}


def front_tensorf_tree() -> dict[str, Any]:
    """A TensoRF of the official settings for LLFF's scenes, but for a network that sees waves of all."""
    generator = torch.Generator().manual_seed(5)
    state: dict[str, Tensor] = {}
    for name, n in (("density", N_DENSITY), ("app", N_FEATURES)):
        for p, (a, b, c) in enumerate([(0, 1, 2), (0, 2, 1), (1, 2, 0)]):
            state[f"{name}_plane.{p}"] = smooth(10 * p + n, 1, n, SIDES[b], SIDES[a], 5)[..., 2].float()
            state[f"{name}_line.{p}"] = smooth(10 * p + n + 5, 1, n, SIDES[c], 5, 5)[..., :1, 2].float()
    state["basis_mat.weight"] = torch.randn(CHANNELS, 3 * N_FEATURES, generator=generator)
    n_inputs = CHANNELS * (1 + 2 * N_WAVES) + 3 + 6 * N_WAVES
    for layer, (n_in, n_out) in enumerate([(n_inputs, 8), (8, 3)]):
        state[f"renderModule.mlp.{2 * layer}.weight"] = torch.randn(n_out, n_in, generator=generator)
        state[f"renderModule.mlp.{2 * layer}.bias"] = torch.randn(n_out, generator=generator)
    arguments = {
        "aabb": torch.tensor([[-1.5, -1.4, -1.0], [1.5, 1.4, 1.0]]),
        "gridSize": list(SIDES),
        "distance_scale": 4.0,
        "rayMarch_weight_thres": 1e-4,
        "fea2denseAct": "relu",
        "near_far": [0.0, 1.0],
        "step_ratio": 0.1,
        "shadingMode": "MLP_Fea",
        "view_pe": N_WAVES,
        "fea_pe": N_WAVES,
    }
    return {"kwargs": arguments, "state_dict": state}


def front_svox2_arrays(*, is_flat: bool) -> dict[str, np.ndarray]:
    """A Plenoxels of LLFF's loader, all of whose voxels have something."""
    n = math.prod(SIDES)
    harmonics = smooth(8, 27, *SIDES).reshape(27, n).T.numpy() * 0.4
    if is_flat:
        harmonics.reshape(n, 3, 9)[..., 1:] = 0
    return {
        "radius": np.array([1.4, 1.3, 1.0], np.float32),
        "center": np.zeros(3, np.float32),
        "links": np.arange(n, dtype=np.int32).reshape(SIDES),
        "density_data": (smooth(7, *SIDES).numpy() * 3).reshape(n, 1).astype(np.float32),
        "sh_data": harmonics.astype(np.float16),
        "basis_type": np.array(1),
    }


def contracted_tree() -> dict[str, Any]:
    """A DirectContractedVoxGO as torch would save it."""
    tree = mpi_tree(n_view=0)
    state, arguments = tree["model_state_dict"], tree["model_kwargs"]
    del state["act_shift.grid"]
    side = 27
    corner = torch.full((3,), 1 + BG_LEN)
    state |= {
        "scene_center": torch.tensor(CENTER),
        "scene_radius": torch.full((3,), RADIUS),
        "xyz_min": -corner,
        "xyz_max": corner,
        "act_shift": torch.tensor([-3.0]),
        "density.grid": smooth(1, 1, 1, side, side, side).float() * 3,
        "k0.grid": smooth(2, 1, CHANNELS, side, side, side).float(),
        "mask_cache.mask": torch.ones(side, side, side, dtype=torch.bool),
        "mask_cache.xyz2ijk_scale": (side - 1) / (2 * corner),
        "mask_cache.xyz2ijk_shift": torch.full((3,), (side - 1) / 2),
    }
    arguments |= {
        "xyz_min": -corner.numpy(),
        "xyz_max": corner.numpy(),
        "num_voxels": side**3,
        "voxel_size_ratio": 1.0,
        "fast_color_thres": 1e-6,
    }
    return tree
