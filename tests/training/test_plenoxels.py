"""A Plenoxels field is trained, resumed, compressed and written as any other: no stage but training knows which one it has."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_cli import refuses, succeeds
from test_train import interrupted
from tiny import TINY, TINY_COMPRESS, assert_same_field

from vqrf.codec.bitstream import decode, encode, verify
from vqrf.compression.presets import PRESETS as COMPRESS_PRESETS
from vqrf.compression.presets import compress
from vqrf.data.scene import Scene, save_scene
from vqrf.fields.cells import active_voxels
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.run import FIELD_FILE
from vqrf.fields.storage import load_field
from vqrf.interop import bytes_of_svox2
from vqrf.kernels import has_native
from vqrf.rendering.evaluate import evaluate
from vqrf.training.box import cells_near
from vqrf.training.checkpoint import Checkpoint
from vqrf.training.stages import PLENOXELS, PRESETS
from vqrf.training.train import fine_model, fit

TINY_PLENOXELS = replace(
    TINY,
    fine=replace(
        PLENOXELS, steps=96, n_voxels=24**3, grow_at=(20, 50), rays_per_step=512, rates=replace(PLENOXELS.rates, features=0.1)
    ),
)


@pytest.fixture(scope="module")
def plenoxels(scene: Scene) -> RadianceField:
    return fit(scene, TINY_PLENOXELS)


def test_a_plenoxels_field_learns_without_a_network(plenoxels: RadianceField, trained: RadianceField, scene: Scene) -> None:
    assert (plenoxels.color_mlp, plenoxels.equation.shading, plenoxels.equation.activation) == ((), "sh_relu", "relu")
    assert plenoxels.n_channels == 27 and plenoxels.equation.density_bias == 0
    assert evaluate(plenoxels, scene.test).psnr > evaluate(trained, scene.test).psnr - 1.5


def test_what_the_direction_adds_is_learned_too(plenoxels: RadianceField, scene: Scene) -> None:
    flat = plenoxels.features.copy()
    flat.reshape(-1, 3, 9)[..., 1:] = 0
    assert evaluate(replace(plenoxels, features=flat), scene.train).psnr < evaluate(plenoxels, scene.train).psnr - 0.5


def test_its_density_is_that_of_svox2_but_for_a_power_of_two(plenoxels: RadianceField) -> None:
    """So a checkpoint of it is in its own world, to the bit."""
    power = math.log2(plenoxels.equation.interval / plenoxels.equation.step_world)
    assert power == round(power)
    sampled = 0.5 * plenoxels.lattice.extent / (np.array(plenoxels.lattice.shape) - 1)
    assert plenoxels.equation.step_world == pytest.approx(np.exp(np.log(sampled).mean()), rel=0.1)
    assert len(bytes_of_svox2(plenoxels)) > 1000


def test_voxels_that_were_never_allowed_stay_at_zero_and_the_others_start_above(scene: Scene) -> None:
    coarse = fit(scene, replace(TINY, fine=replace(TINY.fine, steps=1, grow_at=())))
    model = fine_model(scene, TINY_PLENOXELS, coarse, seed=0, device="cpu")
    density = model.grid.density.values.view(-1).numpy()
    active = np.zeros(len(density), bool)
    active[model.grid.active.numpy()] = True
    assert 0 < active.mean() < 1 and not density[~active].any()
    alpha = 1 - np.exp(-model.equation.interval * density[active])
    np.testing.assert_allclose(alpha, TINY_PLENOXELS.fine.sampling.alpha_init, rtol=1e-4)


def test_a_sparse_lattice_grows_only_where_something_is_or_next_to_it(scene: Scene) -> None:
    coarse = fit(scene, replace(TINY, fine=replace(TINY.fine, steps=1, grow_at=())))
    model = fine_model(scene, TINY_PLENOXELS, coarse, seed=0, device="cpu")
    near = cells_near(coarse, model.lattice)
    density = model.grid.density.values[..., 0]
    density[:, : density.shape[1] // 2] = -1.0
    last = int(np.flatnonzero((density.numpy() > 0).any((0, 2)))[0]) - 2  # the cell before the first that is occupied
    before = model.lattice
    model.prepare(20)
    allowed = model.allowed.numpy()
    edges = before.index_from_world(model.lattice.world_from_index(np.argwhere(allowed) + 0.5))[:, 1]
    assert last <= edges.min() < last + 1.5
    assert 0.2 < allowed.mean() / near.mean() < 0.9


@pytest.mark.skipif(not has_native(), reason="the compiled core is not built")
@pytest.mark.parametrize("at", [[("fine", 10)], [("fine", 40)], [("fine", 64), ("fine", 96)]], ids=str)
def test_an_interrupted_run_ends_in_the_very_field_of_one_that_was_not(
    scene: Scene, plenoxels: RadianceField, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: list[tuple[str, int]]
) -> None:
    monkeypatch.setattr(Checkpoint, "save_if_due", lambda self, collect: self.save(*collect()))
    assert_same_field(interrupted(scene, tmp_path, *at, config=TINY_PLENOXELS)[0], plenoxels)
    saved = interrupted(scene, tmp_path / "saved", ("fine", 9), ("fine", 57), saves=True, config=TINY_PLENOXELS)[0]
    assert_same_field(saved, plenoxels)


def test_it_is_compressed_into_a_file_that_draws_it(plenoxels: RadianceField, scene: Scene) -> None:
    small = compress(plenoxels, scene, TINY_COMPRESS)
    data = encode(small)
    assert verify(data) == small
    again = expand(decode(data))
    assert (again.equation.shading, again.equation.activation, again.n_channels) == ("sh_relu", "relu", 27)
    assert evaluate(again, scene.test).psnr > evaluate(plenoxels, scene.test).psnr - 0.5
    assert len(data) < plenoxels.grid_bytes / 20


def test_it_needs_no_baking_for_the_web(plenoxels: RadianceField, scene: Scene) -> None:
    for_web = compress(plenoxels, scene, replace(TINY_COMPRESS, profile="web", steps=2))
    assert (for_web.equation.shading, for_web.lattice) == ("sh_relu", plenoxels.lattice)


def test_pruned_voxels_hold_just_too_little_to_be_seen(plenoxels: RadianceField, scene: Scene) -> None:
    small = compress(plenoxels, scene, replace(TINY_COMPRESS, steps=2))
    depth = plenoxels.equation.interval * max(small.empty_density, 0)
    assert 1 - math.exp(-depth) <= plenoxels.equation.alpha_threshold
    assert active_voxels(plenoxels).mean() < 1


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("plenoxels")])
def test_its_presets_are_of_degree_two_and_have_no_network(name: str) -> None:
    stage = PRESETS[name].fine
    look = stage.appearance
    assert (look.shading, look.activation, look.channels, look.depth) == ("sh_relu", "relu", 27, 0)


def test_it_is_trained_and_compressed_on_the_command_line(
    scene: Scene, plenoxels: RadianceField, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "plenoxels-quick", TINY_PLENOXELS)
    monkeypatch.setitem(COMPRESS_PRESETS, "demo", TINY_COMPRESS)
    data, run, out = tmp_path / "data", tmp_path / "run", tmp_path / "scene.vqrf"
    save_scene(scene, data)
    succeeds("train", data, "--out", run, "--base", "plenoxels", "--preset", "quick")
    assert_same_field(load_field(run / FIELD_FILE)[0], plenoxels)
    succeeds("compress", run, "--data", data, "--out", out, "--preset", "demo")
    facts = json.loads(succeeds("info", out, "--json").out)
    assert (facts["shading"], facts["activation"], facts["layers"]) == ("sh_relu", "relu", [])
    succeeds("verify", out, "--strict")
    refuses("train", data, "--out", tmp_path / "no", "--base", "plenoxels", "--preset", "demo", saying=("plenoxels-quick",))
