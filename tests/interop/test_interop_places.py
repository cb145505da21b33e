"""Checkpoints of places: forward-facing and unbounded fields of other programs look as their own code draws them.

No official checkpoint of a place is at hand. So the fields are made here, and drawn by the equations of the official code:
its loader of LLFF's scenes, its rays, its samples.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign import decibels, saved
from foreign_places import (
    BG_LEN,
    CENTER,
    CHANNELS,
    FOCAL,
    HEIGHT,
    N_CAMERAS,
    N_WAVES,
    NEAREST,
    RADIUS,
    SIDES,
    WIDTH,
    contracted_tree,
    front_svox2_arrays,
    front_tensorf_tree,
    mpi_tree,
    poses_of,
    save_cameras,
)
from PIL import Image
from test_cli import refuses, succeeds
from torch import Tensor
from torch.nn.functional import grid_sample, softplus

from vqrf.geometry import Front
from vqrf.interop import CheckpointError, Ndc, Norm, Sampling, load_checkpoint, ndc_of_llff, outline_checkpoint

LIGHT_LEFT = 1e-3


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
    folder = tmp_path_factory.mktemp("llff")
    save_cameras(folder)
    return rays_of(folder, poses_of(), 2)


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
        (mpi, Sampling(norm="inf", ndc=scene.ndc), "--contraction"),
        (tmp_path / "ckpt.npz", Sampling(space="front", ndc=scene.ndc, scale=1.5), "--scale"),
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
    box = saved(front_tensorf_tree(), tmp_path / "box.th")
    refuses("info", box, "--space", "box", "--cameras", data, saying=("--cameras", "box.th is none"))
    refuses("convert", box, tmp_path / "box", "--space", "box", "--cameras", data, saying=("--cameras", "box.th is none"))
    assert not (tmp_path / "box").exists()
