"""Checkpoints of DirectVoxGO and VQRF: they look as their own code draws them, and come back as they went."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign import FIXTURES, NEAR, SIDE, decibels, needs_fixtures, official_view, saved, small_tree
from tiny import assert_same_compressed, assert_same_field

from vqrf.cli.convert import ImportOptions, sampling_of
from vqrf.cli.terminal import UsageError
from vqrf.codec.compressed import KEPT, CompressedField
from vqrf.compression.paper import PaperPreset, tied_model
from vqrf.data.images import bytes_from_colors
from vqrf.data.rays import CameraTable
from vqrf.data.scene import Scene, View
from vqrf.fields.field import RadianceField, expand
from vqrf.interop import (
    Sampling,
    archives,
    bytes_of_dvgo,
    files_of_vqrf,
    guess_corners,
    is_checkpoint,
    load_checkpoint,
    load_dvgo,
    load_vqrf,
    zip_of_vqrf,
)
from vqrf.rendering.render import render

OFFICIAL = Sampling(near=NEAR)
ENOUGH = 50.0
"""dB between an official image and ours."""


@pytest.fixture(scope="module")
def small(trained: RadianceField, importance: np.ndarray) -> CompressedField:
    """The trained field compressed, not tuned, with half as many codewords as a file of VQRF has room for."""
    return replace(tied_model(trained, importance, PaperPreset(n_codes=64)).pack(), metadata={"made": "here"})


# ------------------------------------------------------------------------------------------------ the official files


@needs_fixtures
@pytest.mark.parametrize("view", ["view0", "view1"])
@pytest.mark.parametrize(("name", "prefix"), [("fine_last.tar", ""), ("coarse_last.tar", "coarse_")])
def test_a_directvoxgo_checkpoint_looks_as_the_official_code_draws_it(name: str, prefix: str, view: str) -> None:
    field = load_checkpoint(FIXTURES / "dvgo" / name, sampling=OFFICIAL).field
    assert decibels(field, *official_view(FIXTURES / "dvgo", view, prefix)) > ENOUGH


@needs_fixtures
def test_a_mask_that_cuts_cells_is_kept_by_halving_the_edge_and_else_nearly() -> None:
    path = FIXTURES / "dvgo" / "fine_last.tar"
    exact, near = (load_dvgo(path, exact=exact, sampling=OFFICIAL) for exact in (True, False))
    assert exact.n_cut == 0 and near.n_cut > 0
    assert exact.field.lattice.shape == tuple(2 * side - 1 for side in near.field.lattice.shape)
    view = official_view(FIXTURES / "dvgo", "view1")
    assert decibels(exact.field, *view) > 75 > decibels(near.field, *view) > 40


@needs_fixtures
@pytest.mark.parametrize("view", ["view0", "view1"])
@pytest.mark.parametrize("folder", ["vqrf", "vqrf_native"])
def test_official_vqrf_output_looks_as_the_official_code_draws_it(folder: str, view: str) -> None:
    field = load_checkpoint(FIXTURES / folder / "extreme_saving.zip", sampling=OFFICIAL).field
    assert decibels(field, *official_view(FIXTURES / folder, view)) > ENOUGH


@needs_fixtures
@pytest.mark.parametrize("folder", ["vqrf", "vqrf_native"])
def test_official_vqrf_output_expands_to_the_official_grids(folder: str) -> None:
    field = load_checkpoint(FIXTURES / folder / "extreme_saving.zip").field
    official = np.load(FIXTURES / folder / "decompressed_reference.npz")
    inner = (slice(1, -1),) * 3
    np.testing.assert_allclose(field.density[inner], official["density"][0, 0], atol=1e-5)
    np.testing.assert_allclose(field.features[inner], official["k0"][0].transpose(1, 2, 3, 0), atol=1e-5)
    assert (field.density[0] == 0).all() and (field.features[..., -1, :] == 0).all()


@needs_fixtures
@pytest.mark.parametrize(
    ("path", "corners"), [("dvgo/fine_last.tar", "aligned"), ("vqrf_native/extreme_saving.zip", "centred")]
)
def test_a_photo_tells_how_the_grids_lie(path: str, corners: str) -> None:
    import json

    from vqrf.cameras import Camera

    folder = (FIXTURES / path).parent
    meta = json.loads((FIXTURES / "dvgo" / "render_meta.json").read_text())
    camera = Camera(np.array(meta["views"][0]["c2w"]), *(meta["K"][0][0],) * 2, 50.0, 50.0, 100, 100)
    view = View(camera, bytes_from_colors(np.load(folder / "view0_gt.npy")), "view0")
    scores = guess_corners(lambda c: load_checkpoint(FIXTURES / path, corners=c, exact=False).field, [view])
    (best, first), (_, second) = scores.items()
    assert best == corners and first > second + 3


@needs_fixtures
@pytest.mark.parametrize("folder", ["vqrf", "vqrf_native"])
def test_official_vqrf_output_comes_back_from_our_export_to_the_bit(folder: str, tmp_path: Path) -> None:
    first = load_vqrf(FIXTURES / folder / "extreme_saving.zip")
    (tmp_path / "again.zip").write_bytes(zip_of_vqrf(first))
    assert_same_compressed(load_vqrf(tmp_path / "again.zip"), first)


@needs_fixtures
@pytest.mark.parametrize("exact", [True, False])
def test_a_directvoxgo_checkpoint_comes_back_from_our_export_to_the_bit(exact: bool, tmp_path: Path) -> None:
    first = load_dvgo(FIXTURES / "dvgo" / "fine_last.tar", exact=exact).field
    (tmp_path / "again.tar").write_bytes(bytes_of_dvgo(first, "again"))
    assert_same_field(load_dvgo(tmp_path / "again.tar").field, first)


# ------------------------------------------------------------------------------------------------------- round trips


def test_a_field_of_ours_comes_back_from_a_checkpoint_to_the_bit(trained: RadianceField, tmp_path: Path) -> None:
    assert trained.allowed is not None and not trained.allowed.all()
    (tmp_path / "ours.tar").write_bytes(bytes_of_dvgo(trained, "ours"))
    made = load_dvgo(tmp_path / "ours.tar")
    assert_same_field(made.field, trained)
    assert made.n_cut == 0


def test_without_our_own_key_a_checkpoint_of_ours_still_looks_the_same(
    trained: RadianceField, scene: Scene, tmp_path: Path
) -> None:
    """As the official code takes it: float32 corners, the step from the number of voxels, the mask as a grid."""
    (tmp_path / "ours.tar").write_bytes(bytes_of_dvgo(trained, "ours"))
    tree = torch.load(tmp_path / "ours.tar", weights_only=True)
    del tree["vqrf"]
    arguments = tree["model_kwargs"]
    extent = np.subtract(arguments["xyz_max"], arguments["xyz_min"])
    edge = (np.prod(extent) / arguments["num_voxels"]) ** (1 / 3)
    assert tuple((extent / edge).astype(int)) == trained.lattice.shape  # the official code's own rule
    path = saved(tree, tmp_path / "theirs.tar")
    field = load_dvgo(path, sampling=Sampling(step_voxels=trained.equation.step_world / edge, near=trained.equation.near)).field
    camera = scene.test[0].camera
    rays = CameraTable([camera]).rays(np.arange(camera.width * camera.height))
    assert decibels(field, *rays, render(trained, camera).rgb.reshape(-1, 3)) > 80


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_compressed_field_comes_back_from_a_vqrf_folder_to_the_bit(
    as_zip: bool, small: CompressedField, tmp_path: Path
) -> None:
    path = tmp_path / ("small.zip" if as_zip else "extreme_saving")
    if as_zip:
        path.write_bytes(zip_of_vqrf(small))
    else:
        path.mkdir()
        for name, data in files_of_vqrf(small).items():
            (path / name).write_bytes(data)
    assert is_checkpoint(path)
    assert_same_compressed(load_vqrf(path), small)
    with pytest.raises(UsageError, match=f"--cameras: .*{path.name} is none"):
        sampling_of(path, ImportOptions(cameras=tmp_path))


def test_the_official_reading_of_a_vqrf_folder_of_ours_looks_the_same(
    small: CompressedField, scene: Scene, tmp_path: Path
) -> None:
    """Written with densities moved so that PRUNED is 0, in a box half a voxel larger, whose grids are centred."""
    files = files_of_vqrf(small)
    metadata = archives.load_npz(files["metadata.npz"], "metadata")["metadata"]
    tensors = {key: value.array() for key, value in metadata["model_state_dict"].items()}
    metadata |= {"world_size": metadata["world_size"].array(), "model_state_dict": tensors}
    del metadata["vqrf"]
    path = tmp_path / "extreme_saving"
    path.mkdir()
    for name, data in {**files, "metadata.npz": archives.bytes_of_object_npz("metadata", metadata)}.items():
        (path / name).write_bytes(data)
    edge = (np.prod(tensors["xyz_max"] - tensors["xyz_min"]) / metadata["model_kwargs"]["num_voxels"]) ** (1 / 3)
    sampling = Sampling(step_voxels=small.equation.step_world / float(edge), near=small.equation.near)
    ours, theirs = expand(small), load_checkpoint(path, sampling=sampling).field
    assert (load_vqrf(path).partition == KEPT).sum() == small.n_kept
    camera = scene.test[0].camera
    rays = CameraTable([camera]).rays(np.arange(camera.width * camera.height))
    assert decibels(theirs, *rays, render(ours, camera).rgb.reshape(-1, 3)) > 45


def test_numpy_and_torch_read_what_we_write(small: CompressedField, trained: RadianceField, tmp_path: Path) -> None:
    files = files_of_vqrf(small)
    layers = np.load(io.BytesIO(files["rgbnet.npz"]), allow_pickle=True)["arr_0"].item()
    assert layers["0.weight"].dtype == torch.float16 and layers["0.weight"].shape == trained.color_mlp[0][0].shape
    metadata = np.load(io.BytesIO(files["metadata.npz"]), allow_pickle=True)["metadata"].item()
    assert metadata["world_size"].tolist() == list(small.lattice.shape)
    (tmp_path / "a.tar").write_bytes(bytes_of_dvgo(trained, "a"))
    tree = torch.load(tmp_path / "a.tar", weights_only=True)
    np.testing.assert_array_equal(tree["model_state_dict"]["density.grid"][0, 0].numpy(), trained.density)


def test_what_the_official_code_has_no_file_for_is_not_written(small: CompressedField, trained: RadianceField) -> None:
    with pytest.raises(ValueError, match="colour MLP"):
        files_of_vqrf(
            replace(
                small, color_mlp=(), codebook=small.codebook[:, :3], kept=replace(small.kept, levels=small.kept.levels[:, :3])
            )
        )
    flat = replace(trained, lattice=replace(trained.lattice, hi=(50.0, *trained.lattice.hi[1:])))
    with pytest.raises(ValueError, match="its voxels are cubes"):
        bytes_of_dvgo(flat, "flat")


# -------------------------------------------------------------------------------------------------------------- eras


def test_torch_tensors_of_every_kind_come_out_as_torch_has_them(tmp_path: Path) -> None:
    kinds = (
        torch.float32,
        torch.float16,
        torch.float64,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
    tree = {str(kind): (torch.arange(24) % 5).to(kind).reshape(2, 3, 4).permute(2, 0, 1)[1:] for kind in kinds}
    tree["parameter"] = torch.nn.Parameter(torch.ones(2))
    tree["empty"] = torch.zeros(0, 3)
    for legacy in (False, True):
        loaded = archives.load_torch(saved(tree, tmp_path / "kinds", legacy=legacy))
        for key, tensor in tree.items():
            array = loaded[key].array()
            np.testing.assert_array_equal(array, tensor.detach().numpy())
            assert array.dtype == tensor.detach().numpy().dtype


def test_a_file_from_before_torch_1_6_is_the_same_field(tmp_path: Path) -> None:
    new, old = (load_dvgo(saved(small_tree(), tmp_path / f"{legacy}.tar", legacy=legacy)).field for legacy in (False, True))
    assert_same_field(old, new)


def in_era_2(tree: dict[str, Any]) -> None:
    """2022-01: the bias among the arguments, grids by their short names."""
    state = tree["model_state_dict"]
    tree["model_kwargs"]["act_shift"] = float(state.pop("act_shift"))
    state["density"], state["k0"] = state.pop("density.grid"), state.pop("k0.grid")


def in_era_1(tree: dict[str, Any]) -> None:
    """2021-12, a coarse one: no MLP, no mask, the bias nowhere."""
    in_era_2(tree)
    del tree["model_kwargs"]["act_shift"]
    state = tree["model_state_dict"]
    for key in [key for key in state if key.startswith(("rgbnet", "mask_cache", "viewfreq"))]:
        del state[key]
    state["k0"] = state["k0"][:, :3].contiguous()


def test_the_keys_of_2022_01_make_the_same_field(tmp_path: Path) -> None:
    new, old = small_tree(), small_tree()
    in_era_2(old)
    assert_same_field(load_dvgo(saved(old, tmp_path / "old")).field, load_dvgo(saved(new, tmp_path / "new")).field)


def test_the_bias_of_a_first_era_field_follows_from_alpha_init(tmp_path: Path) -> None:
    tree = small_tree()
    in_era_1(tree)
    field = load_dvgo(saved(tree, tmp_path / "old")).field
    assert field.color_mlp == () and field.allowed is None
    assert 1 - (1 + np.exp(field.equation.density_bias)) ** -1 == pytest.approx(tree["model_kwargs"]["alpha_init"])


def test_a_colour_that_is_added_to_three_features_passes_through_the_layers(tmp_path: Path) -> None:
    """`rgbnet_direct` False: rgb = sigmoid(MLP(all but three features, view) + three features)."""
    tree = small_tree()
    state = tree["model_state_dict"]
    tree["model_kwargs"]["rgbnet_direct"] = False
    state["rgbnet.0.weight"] = state["rgbnet.0.weight"][:, 3:].contiguous()
    layers = load_dvgo(saved(tree, tmp_path / "residual")).field.color_mlp
    inputs = torch.randn(50, 6 + 3 + 12, generator=torch.Generator().manual_seed(1))

    def through(hidden: torch.Tensor, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        for i, (weight, bias) in enumerate(pairs):
            hidden = (hidden.relu() if i else hidden) @ weight.T + bias
        return hidden

    official = [(state[f"rgbnet.{i}.weight"], state[f"rgbnet.{i}.bias"]) for i in ("0", "2.0", "3")]
    expected = through(inputs[:, 3:], official) + inputs[:, :3]
    ours = through(inputs, [(torch.from_numpy(weight), torch.from_numpy(bias)) for weight, bias in layers])
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-5)


def test_centred_grids_are_read_where_torch_reads_them(tmp_path: Path) -> None:
    """The oracle: `grid_sample` with `align_corners=False` and zeros beyond the box."""
    tree = small_tree()
    field = load_dvgo(saved(tree, tmp_path / "centred"), corners="centred").field
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1
    grid = tree["model_state_dict"]["density.grid"]
    expected = torch.nn.functional.grid_sample(grid, points.flip(-1)[None, None, None], align_corners=False).reshape(-1)
    index = field.lattice.index_from_world(points.numpy())
    cell = np.minimum(index.astype(int), np.array(field.lattice.shape) - 2)
    part = index - cell
    ours = np.zeros(len(points))
    for corner in np.ndindex(2, 2, 2):
        share = np.prod(np.where(corner, part, 1 - part), -1)
        ours += share * field.density[tuple((cell + corner).T)]
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-5)


def test_what_vqrf_wrote_is_taken_as_centred(tmp_path: Path) -> None:
    tree = small_tree()
    tree["model_kwargs"]["use_vq"] = True
    path = saved(tree, tmp_path / "vq_last.tar")
    assert load_dvgo(path).field.lattice.shape == (SIDE + 2,) * 3
    assert load_dvgo(path, corners="aligned").field.lattice.shape == (SIDE,) * 3
