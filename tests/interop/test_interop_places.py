"""Checkpoints of places: forward-facing and unbounded fields of other programs look as their own code draws them.

No official checkpoint of a place is at hand. So the fields are made here, and drawn by the equations of the official code:
its loader of LLFF's scenes, its rays, its samples.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign import decibels, saved
from PIL import Image
from test_cli import refuses, succeeds
from torch import Tensor
from torch.nn.functional import grid_sample, softplus

from vqrf.geometry import Front
from vqrf.interop import CheckpointError, Ndc, Norm, Sampling, load_checkpoint, ndc_of_llff, outline_checkpoint

N_CAMERAS, WIDTH, HEIGHT, FOCAL, NEAREST = 9, 60, 45, 50.0, 4.0
SIDES = 15, 13, 17
CHANNELS = 4
LIGHT_LEFT = 1e-3


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


@dataclass(frozen=True)
class Scene:
    """A folder in LLFF's layout, and one camera's rays: in its world, and as the official loaders have them.

    Attributes:
      origins, directions: [N,3], directions of unit length.
      view: [N,3] directions in the axes of the mean camera.
      ndc_origins, ndc_directions: [N,3] in normalised device coordinates, from the first place to the last.
    """

    folder: Path
    origins: np.ndarray
    directions: np.ndarray
    view: Tensor
    ndc_origins: Tensor
    ndc_directions: Tensor

    @property
    def ndc(self) -> Ndc:
        return ndc_of_llff(self.folder)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder, poses = tmp_path_factory.mktemp("llff"), poses_of()
    rows = np.zeros((N_CAMERAS, 17))
    for row, pose in zip(rows, poses, strict=True):
        columns = np.stack([-pose[:, 1], pose[:, 0], pose[:, 2], pose[:, 3], [HEIGHT, WIDTH, FOCAL]], 1)
        row[:15], row[15:] = columns.ravel(), (NEAREST, 40.0)
    np.save(folder / "poses_bounds.npy", rows)
    return rays_of(folder, poses, 2)


def rays_of(folder: Path, poses: np.ndarray, which: int, of: int | None = None) -> Scene:
    """The rays of one of the cameras, by the official loaders; the mean is that of the first `of`."""
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    local = np.stack([(x - WIDTH / 2) / FOCAL, (HEIGHT / 2 - y) / FOCAL, -np.ones_like(x)], -1).reshape(-1, 3)
    world = local @ poses[which, :, :3].T
    origins = np.broadcast_to(poses[which, :, 3], world.shape)
    # as the official loaders: scaled by the nearest bound, then seen from the mean camera
    unit, centre = 0.75 * NEAREST, poses[:of, :, 3].mean(0)
    z = poses[:of, :, 2].sum(0)
    z = z / np.linalg.norm(z)
    right = np.cross(poses[:of, :, 1].sum(0), z)
    right = right / np.linalg.norm(right)
    axes = np.stack([right, np.cross(z, right), z], 1)
    o, d = (origins - centre) / unit @ axes, world @ axes
    o = o - (1 + o[:, 2:]) / d[:, 2:] * d  # on the plane one unit away
    slopes = 2 * FOCAL / WIDTH, 2 * FOCAL / HEIGHT
    start = np.stack([-slopes[0] * o[:, 0] / o[:, 2], -slopes[1] * o[:, 1] / o[:, 2], 1 + 2 / o[:, 2]], -1)
    way = np.stack(
        [
            -slopes[0] * (d[:, 0] / d[:, 2] - o[:, 0] / o[:, 2]),
            -slopes[1] * (d[:, 1] / d[:, 2] - o[:, 1] / o[:, 2]),
            -2 / o[:, 2],
        ],
        -1,
    )
    length = np.linalg.norm(world, axis=-1, keepdims=True)
    as_tensor = torch.from_numpy
    return Scene(
        folder,
        np.ascontiguousarray(origins, np.float32),
        (world / length).astype(np.float32),
        as_tensor(world / length @ axes),
        as_tensor(start),
        as_tensor(way),
    )


def smooth(seed: int, *shape: int) -> Tensor:
    """Random numbers of this shape, whose last three axes are smooth."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, math.prod(shape[:-3]), 5, 5, 5, generator=generator, dtype=torch.float64)
    fine = torch.nn.functional.interpolate(coarse, size=shape[-3:], mode="trilinear", align_corners=True)
    return fine.reshape(shape)


def sampled(grid: Tensor, places: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """[N,C] of a grid [1,C,X,Y,Z], trilinear between corners."""
    at = ((places - low) / (high - low) * 2 - 1).flip(-1).reshape(1, 1, 1, -1, 3)
    return grid_sample(grid, at, align_corners=True)[0, :, 0, 0].T


def composed(alpha: Tensor, colors: Tensor, threshold: float, background: float) -> np.ndarray:
    """Pixels of samples [N,S] of rays, faint ones left out; the last light sees the background."""
    alpha = torch.where(alpha > threshold, alpha, 0)
    before = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha], 1), 1)
    going = torch.cat([torch.ones_like(alpha[:, :1], dtype=torch.bool), before[:, 1:-1] >= LIGHT_LEFT], 1)
    weights = alpha * before[:, :-1] * going
    left = (torch.where(going, 1 - alpha, 1)).prod(1)
    weights_seen = torch.where(weights > threshold, weights, 0)
    return ((weights_seen[..., None] * colors).sum(1) + background * left[:, None]).numpy()


# ------------------------------------------------------------------------------------------ DirectVoxGO, forward-facing


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


def network(state: dict[str, Tensor], features: Tensor, view: Tensor) -> Tensor:
    hidden = torch.cat([features, view], -1) @ state["rgbnet.0.weight"].double().T + state["rgbnet.0.bias"]
    return (hidden.relu() @ state["rgbnet.2.weight"].double().T + state["rgbnet.2.bias"]).sigmoid()


def drawn_by_mpi(tree: dict[str, Any], scene: Scene, step: float, background: float = 1.0) -> np.ndarray:
    """DirectMPIGO's equations: samples at even places along the third axis, however steep the ray."""
    state, arguments = tree["model_state_dict"], tree["model_kwargs"]
    low, high = state["xyz_min"].double(), state["xyz_max"].double()
    n_samples = int((arguments["mpi_depth"] - 1) / step) + 1
    t = torch.linspace(0, 1, n_samples).double()
    places = scene.ndc_origins[:, None] + scene.ndc_directions[:, None] * t[:, None]
    inside = ((places >= low - 1e-9) & (places <= high + 1e-9)).all(-1)
    entries = torch.round(places * state["mask_cache.xyz2ijk_scale"].double() + state["mask_cache.xyz2ijk_shift"]).long()
    entries = torch.minimum(entries.clamp(min=0), torch.tensor(SIDES) - 1)
    inside &= state["mask_cache.mask"][entries[..., 0], entries[..., 1], entries[..., 2]]
    flat = places.reshape(-1, 3)
    raw = sampled(state["density.grid"].double(), flat, low, high) + sampled(state["act_shift.grid"].double(), flat, low, high)
    alpha = 1 - (1 + raw[:, 0].exp()) ** (-step * arguments["voxel_size_ratio"])
    alpha = torch.where(inside, alpha.reshape(inside.shape), 0)
    features = sampled(state["k0.grid"].double(), flat, low, high)
    view = scene.view[:, None].expand(*inside.shape, 3).reshape(-1, 3)
    colors = network(state, features, view).reshape(*inside.shape, 3)
    return composed(alpha, colors, arguments["fast_color_thres"], background)


@pytest.mark.parametrize("step", [1.0, 0.5])
def test_a_forward_facing_field_of_directvoxgo_looks_as_its_own_code_draws_it(
    scene: Scene, step: float, tmp_path: Path
) -> None:
    tree = mpi_tree()
    path = saved(tree, tmp_path / "fine_last.tar")
    made = load_checkpoint(path, sampling=Sampling(step_voxels=step, ndc=scene.ndc))
    colors = drawn_by_mpi(tree, scene, step)
    assert colors.std() > 0.05
    assert isinstance(made.field.lattice.space, Front) and made.facts["space"] == "front"
    assert decibels(made.field, scene.origins, scene.directions, colors) > 45


def test_without_waves_of_directions_the_turn_of_the_world_is_in_the_network(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="waves of directions"):
        load_checkpoint(saved(mpi_tree(n_view=2), tmp_path / "a.tar"), sampling=Sampling(ndc=scene.ndc))
    unturned = Ndc(np.eye(3), scene.ndc.middle, scene.ndc.unit, scene.ndc.slopes)
    assert load_checkpoint(saved(mpi_tree(n_view=2), tmp_path / "b.tar"), sampling=Sampling(ndc=unturned)).field.color_mlp


# ---------------------------------------------------------------------------------------------- TensoRF, forward-facing


@pytest.fixture(scope="module")
def middle(scene: Scene) -> Scene:
    """The mean camera's rays."""
    ndc = scene.ndc
    pose = np.concatenate([ndc.turn.T, ndc.middle[:, None]], 1)
    return rays_of(scene.folder, np.concatenate([poses_of(), pose[None]]), N_CAMERAS, of=N_CAMERAS)


N_DENSITY, N_FEATURES, N_WAVES = 3, 4, 1


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


def waves(values: Tensor) -> Tensor:
    angles = (values[..., None] * 2.0 ** torch.arange(N_WAVES)).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], -1)


def drawn_by_tensorf(tree: dict[str, Any], scene: Scene, background: float = 1.0) -> np.ndarray:
    """TensoRF's equations with `ndc_ray`: opacity by the way in normalised device coordinates, colours seen along it."""
    state = {key: value.double() for key, value in tree["state_dict"].items()}
    arguments = tree["kwargs"]
    low, high = arguments["aabb"].double()
    step = ((high - low) / (torch.tensor(SIDES) - 1)).mean() * arguments["step_ratio"]
    n_samples = int((high - low).norm() / step) + 1
    t = torch.linspace(0, 1, n_samples).double()
    places = scene.ndc_origins[:, None] + scene.ndc_directions[:, None] * t[:, None]
    inside = ((places >= low - 1e-9) & (places <= high + 1e-9)).all(-1)
    length = scene.ndc_directions.norm(dim=-1, keepdim=True)
    at = ((places - low) / (high - low) * 2 - 1).reshape(1, 1, -1, 3)
    products: dict[str, list[Tensor]] = {"density": [], "app": []}
    for name, made in products.items():
        for p, (a, b, c) in enumerate([(0, 1, 2), (0, 2, 1), (1, 2, 0)]):
            plane = grid_sample(state[f"{name}_plane.{p}"], at[..., [a, b]], align_corners=True)
            along = torch.stack([torch.zeros_like(at[..., c]), at[..., c]], -1)
            made.append((plane * grid_sample(state[f"{name}_line.{p}"], along, align_corners=True))[0, :, 0])
    sigma = torch.cat(products["density"]).sum(0).relu().reshape(inside.shape)
    distances = torch.cat([(t[1:] - t[:-1]), torch.zeros(1)]) * length
    alpha = torch.where(inside, 1 - (-sigma * distances * arguments["distance_scale"]).exp(), 0)
    features = torch.cat(products["app"]).T @ state["basis_mat.weight"].T
    view = (scene.ndc_directions / length)[:, None].expand(*inside.shape, 3).reshape(-1, 3)
    hidden = torch.cat([features, view, waves(features), waves(view)], -1)
    hidden = (hidden @ state["renderModule.mlp.0.weight"].T + state["renderModule.mlp.0.bias"]).relu()
    colors = (hidden @ state["renderModule.mlp.2.weight"].T + state["renderModule.mlp.2.bias"]).sigmoid()
    return composed(alpha, colors.reshape(*inside.shape, 3), arguments["rayMarch_weight_thres"], background)


def test_a_forward_facing_field_of_tensorf_looks_as_its_own_code_draws_it(scene: Scene, middle: Scene, tmp_path: Path) -> None:
    """Of any camera where colours are the same in all directions, and of the mean camera where they are not."""
    sampling = Sampling(space="front", ndc=scene.ndc)
    tree = front_tensorf_tree()
    field = load_checkpoint(saved(tree, tmp_path / "a.th"), sampling=sampling).field
    colors = drawn_by_tensorf(tree, middle)
    assert colors.std() > 0.05 and decibels(field, middle.origins, middle.directions, colors) > 45
    first = tree["state_dict"]["renderModule.mlp.0.weight"]
    first[:, CHANNELS : CHANNELS + 3] = 0
    first[:, -6 * N_WAVES :] = 0
    field = load_checkpoint(saved(tree, tmp_path / "b.th"), sampling=sampling).field
    assert decibels(field, scene.origins, scene.directions, drawn_by_tensorf(tree, scene)) > 45


# ------------------------------------------------------------------------------------------------- svox2, forward-facing


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


def drawn_by_svox2(arrays: dict[str, np.ndarray], scene: Scene, step: float, background: float = 1.0) -> np.ndarray:
    """svox2's equations: a step is one length in voxels, colours are harmonics of the direction in its coordinates."""
    grid, radius = np.array(SIDES), arrays["radius"].astype(float)
    turned = torch.tensor([1.0, -1.0, 1.0])  # its second axis points down
    direction = scene.ndc_directions * turned / scene.ndc_directions.norm(dim=-1, keepdim=True)
    scaling = torch.from_numpy(grid / (2 * radius))
    start = (scene.ndc_origins * turned + torch.from_numpy(radius)) * scaling - 0.5  # in voxels
    way = direction * scaling
    world_step = 1 / way.norm(dim=-1, keepdim=True)
    way = way * world_step
    ends = torch.stack([(-0.5 - start) / way, (torch.from_numpy(grid) - 0.5 - start) / way])
    enter, leave = ends.amin(0).amax(-1).clamp(min=0), ends.amax(0).amin(-1)
    t = enter[:, None] + torch.arange(int(np.linalg.norm(grid) / step) + 1) * step
    inside = t <= leave[:, None]
    places = (start[:, None] + way[:, None] * t[..., None]).clamp(torch.zeros(3), torch.from_numpy(grid - 1))
    low, high = torch.zeros(3), torch.from_numpy(grid - 1)
    flat = places.reshape(-1, 3)
    values = [torch.from_numpy(arrays[key].astype(float)).T.reshape(1, -1, *SIDES) for key in ("density_data", "sh_data")]
    density = sampled(values[0], flat, low, high)[:, 0].relu().reshape(inside.shape)
    alpha = torch.where(inside, 1 - (-density * world_step * step).exp(), 0)
    x, y, z = (direction[:, None].expand(*inside.shape, 3).reshape(-1, 3)).T
    basis = torch.stack(
        [
            torch.full_like(x, 0.28209479),
            *(-0.48860251 * y, 0.48860251 * z, -0.48860251 * x),
            *(1.09254843 * x * y, -1.09254843 * y * z, 0.31539157 * (2 * z * z - x * x - y * y)),
            *(-1.09254843 * x * z, 0.54627422 * (x * x - y * y)),
        ],
        -1,
    )
    features = sampled(values[1], flat, low, high).reshape(-1, 3, 9)
    colors = ((features * basis[:, None]).sum(-1) + 0.5).relu()
    return composed(alpha, colors.reshape(*inside.shape, 3), 0.0, background)


@pytest.mark.parametrize("is_flat", [True, False])
def test_a_forward_facing_field_of_svox2_looks_as_its_own_code_draws_it(
    scene: Scene, middle: Scene, is_flat: bool, tmp_path: Path
) -> None:
    """Of any camera where colours are the same in all directions, and of the mean camera where they are not."""
    arrays = front_svox2_arrays(is_flat=is_flat)
    np.savez(tmp_path / "ckpt.npz", **arrays)
    sampling = Sampling(step_voxels=0.25, space="front", ndc=scene.ndc)
    field = load_checkpoint(tmp_path / "ckpt.npz", sampling=sampling).field
    seen = scene if is_flat else middle
    colors = drawn_by_svox2(arrays, seen, 0.25)
    assert colors.std() > 0.05 and decibels(field, seen.origins, seen.directions, colors) > 37


# ----------------------------------------------------------------------------------------------- DirectVoxGO, unbounded


BG_LEN, CENTER, RADIUS = 0.3, (2.0, -1.0, 0.5), 1.5


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


def drawn_by_contraction(tree: dict[str, Any], origins: np.ndarray, directions: np.ndarray, norm: str) -> np.ndarray:
    """Its equations, with the steps of the limit: opacity by the way in contracted coordinates, taken finely."""
    state, arguments = tree["model_state_dict"], tree["model_kwargs"]
    low, high, fine = state["xyz_min"].double(), state["xyz_max"].double(), 4000
    edge = float((high - low)[0]) / arguments["num_voxels"] ** (1 / 3)
    o, d = (torch.from_numpy(array.astype(float)) for array in (origins, directions))
    o = (o - torch.tensor(CENTER).double()) / RADIUS
    s = torch.linspace(0, 1, fine).double()[:-1]
    points = o[:, None] + d[:, None] * (3 * s / (1 - s))[:, None]
    size = points.abs().amax(-1, keepdim=True) if norm == "inf" else points.norm(dim=-1, keepdim=True)
    places = torch.where(size <= 1, points, points / size * (1 + BG_LEN - BG_LEN / size))
    way = (places[:, 1:] - places[:, :-1]).norm(dim=-1)
    flat = ((places[:, 1:] + places[:, :-1]) / 2).reshape(-1, 3)
    raw = sampled(state["density.grid"].double(), flat, low, high)[:, 0] + state["act_shift"].double()
    alpha = 1 - (-softplus(raw).reshape(way.shape) * way / edge * arguments["voxel_size_ratio"]).exp()
    features = sampled(state["k0.grid"].double(), flat, low, high)
    view = d[:, None].expand(*way.shape, 3).reshape(-1, 3)
    return composed(alpha, network(state, features, view).reshape(*way.shape, 3), 0.0, 1.0)


@pytest.mark.parametrize(("norm", "enough"), [("inf", 36), ("l2", 32)])
def test_an_unbounded_field_of_directvoxgo_looks_nearly_as_its_own_code_draws_it(
    norm: Norm, enough: float, tmp_path: Path
) -> None:
    """It is sampled anew, for another contraction."""
    tree = contracted_tree()
    made = load_checkpoint(saved(tree, tmp_path / "fine_last.tar"), sampling=Sampling(norm=norm))
    rng = np.random.default_rng(0)
    origins = (np.array(CENTER) + rng.uniform(-0.5, 0.5, (600, 3)) * RADIUS).astype(np.float32)
    directions = rng.normal(size=(600, 3))
    directions = (directions / np.linalg.norm(directions, axis=-1, keepdims=True)).astype(np.float32)
    colors = drawn_by_contraction(tree, origins, directions, norm)
    assert made.facts["space"] == "unbounded" and colors.std() > 0.05
    assert decibels(made.field, origins, directions, colors) > enough


# ------------------------------------------------------------------------------------------------ what nobody has said


def test_what_a_checkpoint_of_a_place_does_not_say_is_asked_for(scene: Scene, tmp_path: Path) -> None:
    mpi = saved(mpi_tree(), tmp_path / "mpi.tar")
    tensorf = saved(front_tensorf_tree(), tmp_path / "a.th")
    contracted = saved(contracted_tree(), tmp_path / "c.tar")
    np.savez(tmp_path / "ckpt.npz", **front_svox2_arrays(is_flat=True))
    for path, sampling, words in (
        (mpi, Sampling(), "--cameras"),
        (mpi, Sampling(space="box", ndc=scene.ndc), "itself says"),
        (tensorf, Sampling(ndc=scene.ndc), "--space front"),
        (tensorf, Sampling(space="front"), "--cameras"),
        (tmp_path / "ckpt.npz", Sampling(ndc=scene.ndc), "--space front"),
        (tmp_path / "ckpt.npz", Sampling(space="front"), "--cameras"),
    ):
        for read in (load_checkpoint, outline_checkpoint):
            with pytest.raises(CheckpointError, match=words):
                read(path, sampling=sampling)
    with pytest.raises(CheckpointError, match="--contraction"):
        load_checkpoint(contracted)
    for path in (tensorf, tmp_path / "ckpt.npz"):
        made = load_checkpoint(path, sampling=Sampling(space="box"))
        assert made.field.lattice.space is None and made.facts["space"] == "box"


def test_an_outline_says_of_a_place_what_its_field_is(scene: Scene, tmp_path: Path) -> None:
    for path, sampling in (
        (saved(mpi_tree(), tmp_path / "mpi.tar"), Sampling(ndc=scene.ndc)),
        (saved(front_tensorf_tree(), tmp_path / "a.th"), Sampling(space="front", ndc=scene.ndc)),
        (saved(contracted_tree(), tmp_path / "c.tar"), Sampling(norm="inf")),
    ):
        field = load_checkpoint(path, sampling=sampling, exact=False).field
        outline = outline_checkpoint(path, sampling=sampling)
        assert (outline.lattice, outline.equation, outline.n_channels) == (field.lattice, field.equation, field.n_channels)


def test_with_its_photos_a_forward_facing_checkpoint_is_evaluated_converted_and_refused_as_a_box(
    scene: Scene, tmp_path: Path
) -> None:
    """The photos are drawn by DirectMPIGO's equations, so that all is to be as there: the loader, the cameras, the field."""
    tree, data = mpi_tree(), tmp_path / "data"
    path, run = saved(tree, tmp_path / "fine_last.tar"), tmp_path / "run"
    (data / "images").mkdir(parents=True)
    shutil.copy(scene.folder / "poses_bounds.npy", data)
    for i in range(N_CAMERAS):
        colors = drawn_by_mpi(tree, rays_of(data, poses_of(), i), 1.0).reshape(HEIGHT, WIDTH, 3)
        Image.fromarray(np.rint(255 * colors).astype(np.uint8)).save(data / "images" / f"{i}.png")
    said = json.loads(succeeds("eval", path, "--data", data, "--json").out)
    assert said["psnr"] > 45
    succeeds("convert", path, run, "--cameras", data, "--exact")
    assert json.loads(succeeds("eval", run, "--data", data, "--json").out)["psnr"] == said["psnr"]
    assert json.loads(succeeds("info", path, "--json").out)["space"] == "front"  # wherever it lies
    refuses("eval", path, "--data", data, "--space", "box", saying=("itself says", "front"))
    refuses("eval", path, "--data", data, "--cameras", tmp_path, saying=("poses_bounds.npy",))
