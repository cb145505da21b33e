"""A field whose voxels are products is trained, resumed, compressed and written as any other, and leaves its factors behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from kernel_scenes import arrays_of, make_rays
from test_cli import succeeds
from test_train import interrupted
from tiny import TINY, TINY_PLANES, TINY_RATE, assert_same_field

from vqrf.codec.bitstream import decode
from vqrf.codec.planes import PlanesField
from vqrf.codec.pyramid import PyramidField
from vqrf.compression.presets import PRESETS as COMPRESS_PRESETS
from vqrf.data.scene import Scene, save_scene
from vqrf.fields.cells import active_voxels
from vqrf.fields.factors import LineFactors, expand
from vqrf.fields.field import RadianceField
from vqrf.fields.run import FACTORS_FILE, FIELD_FILE
from vqrf.fields.storage import load_field
from vqrf.interop import load_checkpoint, load_tensorf
from vqrf.kernels import Gradients, Volume, has_native, reference
from vqrf.kernels.constants import Equation
from vqrf.rendering.evaluate import evaluate
from vqrf.training.checkpoint import Checkpoint
from vqrf.training.cost import estimate_bytes, estimate_seconds
from vqrf.training.grids import Decomposition, FactorGrid, Rates, resample
from vqrf.training.stages import PRESETS, Components, TrainConfig
from vqrf.training.train import FieldModel, fit_model

KINDS: tuple[Decomposition, ...] = ("vm", "cp")
SHAPE, SIZES = (5, 6, 4), (2, 3, 7)


def tiny(kind: Decomposition) -> TrainConfig:
    """Of the official settings, in small: frequencies of the features, and a lattice that grows by another factor than two."""
    components = Components(4, 8) if kind == "vm" else Components(8, 16, "cp")
    appearance = replace(TINY.fine.appearance, view_frequencies=2, feature_frequencies=1)
    rates = replace(TINY.fine.rates, features=0.05)
    return replace(TINY, fine=replace(TINY.fine, components=components, appearance=appearance, rates=rates, first_voxels=14**3))


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Decomposition:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def model(scene: Scene, kind: Decomposition) -> FieldModel:
    return fit_model(scene, tiny(kind))


@pytest.fixture(scope="module")
def tensorf(model: FieldModel) -> RadianceField:
    return model.field()


def grid_of(kind: Decomposition, seed: int = 0) -> FactorGrid:
    return FactorGrid.at_random(kind, SHAPE, SIZES, torch.arange(np.prod(SHAPE)), seed)


def shown(grid: FactorGrid, marks: tuple[slice, ...] = (slice(None),) * 3) -> tuple[np.ndarray, np.ndarray]:
    """Density and features of the voxels of some cells, all by default."""
    cells = torch.zeros([side - 1 for side in grid.shape], dtype=torch.uint8)
    cells[marks] = 1
    grid.show_density(reference)
    return grid.voxels(reference, cells)


def dense_factors(grid: FactorGrid) -> tuple[np.ndarray, np.ndarray]:
    factors = grid.factors()
    return expand(factors.with_planes() if isinstance(factors, LineFactors) else factors)


def test_it_learns_nearly_as_well_as_voxels_do(
    tensorf: RadianceField, trained: RadianceField, scene: Scene, kind: Decomposition
) -> None:
    behind = 1.5 if kind == "vm" else 5.0  # lines alone say little on so small a lattice
    assert evaluate(tensorf, scene.test).psnr > evaluate(trained, scene.test).psnr - behind


def test_it_is_shaded_by_the_frequencies_of_its_settings(tensorf: RadianceField) -> None:
    assert tensorf.equation.feature_frequencies == 1
    assert tensorf.color_mlp[0][0].shape[1] == 6 * (1 + 2) + 3 + 6 * 2


def test_its_lattice_grows_by_equal_factors(model: FieldModel) -> None:
    stage = model.stage
    assert stage.first_voxels == stage.voxels_after(0) == 14**3
    assert stage.voxels_after(2) == stage.n_voxels == 24**3
    assert stage.voxels_after(1) ** 2 == pytest.approx(14**3 * 24**3, rel=1e-3)
    assert model.equation.interval == stage.sampling.step_voxels, "of its last lattice, whose voxels are the base ones"


def test_its_voxels_are_the_products_of_its_factors(model: FieldModel, tensorf: RadianceField) -> None:
    assert isinstance(model.grid, FactorGrid)
    active = active_voxels(tensorf)
    assert 0.01 < active.mean() < 0.9
    for ours, theirs in zip((tensorf.density, tensorf.features), dense_factors(model.grid), strict=True):
        np.testing.assert_allclose(ours[active], theirs[active], atol=1e-4)


def test_what_a_grid_shows_are_its_factors(kind: Decomposition) -> None:
    grid = grid_of(kind)
    for ours, theirs in zip(shown(grid), dense_factors(grid), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_what_no_cell_holds_has_no_features(kind: Decomposition) -> None:
    features = shown(grid_of(kind), (slice(1),) * 3)[1]
    assert (features[:2, :2, :2] != 0).all()
    features[:2, :2, :2] = 0
    assert not features.any()


def test_a_grid_on_another_lattice_is_its_voxels_on_that_lattice(kind: Decomposition) -> None:
    grid = grid_of(kind)
    density, features = shown(grid)
    finer = (8, 11, 7)
    grown = shown(grid.on(finer, torch.arange(np.prod(finer))))
    for ours, before in zip(grown, (density[..., None], features), strict=True):
        expected = resample(torch.from_numpy(before), finer).numpy()
        np.testing.assert_allclose(ours.reshape(expected.shape), expected, atol=1e-5)


def volume_of(grid: FactorGrid) -> Volume:
    """What a grid shows, in colours that are its features; every cell is occupied."""
    cells = np.ones([side - 1 for side in grid.shape], np.uint8)
    rng = np.random.default_rng(2)
    layers = [torch.tensor(rng.normal(size=size), dtype=torch.float32) for size in ((16, SIZES[2] + 9), (16,), (3, 16), (3,))]
    grid.show(reference)
    return Volume(
        lo=(-1.0, -1.0, -1.0),
        hi=(1.0, 1.0, 1.0),
        density=grid.shown.density.numpy(),
        features=grid.shown.features,
        rows=None,
        layers=((layers[0], layers[1]), (layers[2], layers[3])),
        cells=cells,
        skip=reference.measure_skip(cells),
        equation=Equation(1.0, 0.5, 0.11, 0.2, 1e-6, (1.0, 1.0, 1.0)),
        factors=grid.shown.factors,
    )


def test_a_step_goes_against_the_derivative_of_what_is_learnt(kind: Decomposition) -> None:
    """Adam's first step is the rate, against the sign of the derivative; that by finite differences."""
    grid, rng = grid_of(kind), np.random.default_rng(1)
    for moments in grid.parameters.values():  # so large that no slope is lost to float32
        moments.values *= 1.0 if kind == "vm" else 2.5
    rays, weights = make_rays(300, np.float32), rng.normal(1.0, 1.0, (300, 3)).astype(np.float32)

    def objective() -> float:
        return float((reference.render_rays(volume_of(grid), *rays)[0].astype(np.float64) * weights).sum())

    start, reach, slopes = {name: moments.values.clone() for name, moments in grid.parameters.items()}, 1e-3, {}
    for name, moments in grid.parameters.items():
        flat = moments.values.view(-1)
        for at in rng.choice(len(flat), 12, replace=False):
            sides = []
            for sign in (1, -1):
                flat[at] += sign * reach
                sides.append(objective())
                flat.copy_(start[name].view(-1))
            slopes[name, int(at)] = sides[0] - sides[1]
    of, volume = grid.gradients, volume_of(grid)
    of_layers = tuple((torch.zeros_like(weight), torch.zeros_like(bias)) for weight, bias in volume.layers)
    gradients = Gradients(of.density, of.features, of_layers, grid.touched, of.factors)
    reference.backpropagate(volume, *rays, weights, None, None, gradients)
    grid.update(reference, Rates(0.0, 0.5, mix=0.25), 1)
    assert len(slopes) == 12 * len(grid.parameters)
    assert sum(abs(slope) > 1e-4 for slope in slopes.values()) > 30
    for (name, at), slope in slopes.items():
        if abs(slope) > 1e-4:
            moved = float(grid.parameters[name].values.view(-1)[at] - start[name].view(-1)[at])
            assert moved == pytest.approx(-np.sign(slope) * (0.25 if name == "mix" else 0.5), rel=1e-3)
    assert not grid.touched.any()
    assert grid.gradients.factors is not None
    assert not any(array.any() for array in arrays_of(grid.gradients.factors))
    assert not any(moments.gradient.any() for moments in grid.parameters.values())


def test_sparsity_draws_the_density_of_touched_rows_alone_to_nothing(kind: Decomposition) -> None:
    grid = grid_of(kind)
    before = {name: moments.values.clone() for name, moments in grid.parameters.items()}
    grid.touched[7:] = 1
    grid.update(reference, Rates(0.0, 1e-3, mix=1e-3, sparsity=1.0), 1)
    for name, moments in grid.parameters.items():
        change = moments.values - before[name]
        if name == "planes0":
            assert not change.view(-1, change.shape[-1])[:7].any()
        if name != "mix":
            drawn = -1e-3 * before[name][..., : SIZES[0]].sign()
            if name == "planes0":
                drawn.view(-1, SIZES[0])[:7] = 0
            torch.testing.assert_close(change[..., : SIZES[0]], drawn, rtol=1e-2, atol=1e-7)
            change = change[..., SIZES[0] :]
        assert not change.any()


@pytest.mark.skipif(not has_native(), reason="the compiled core is not built")
def test_an_interrupted_run_ends_in_the_very_field_of_one_that_was_not(
    scene: Scene, tensorf: RadianceField, kind: Decomposition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoint, "save_if_due", lambda self, collect: self.save(*collect()))
    config = tiny(kind)
    assert_same_field(interrupted(scene, tmp_path, ("fine", 10), ("fine", 70), config=config)[0], tensorf)
    stopped = interrupted(scene, tmp_path / "saved", ("fine", 9), ("fine", 57), saves=True, config=config)[0]
    assert_same_field(stopped, tensorf)


def test_a_run_leaves_a_checkpoint_of_tensorf_that_draws_the_same_field(
    scene: Scene, tensorf: RadianceField, kind: Decomposition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = {"vm": "tensorf", "cp": "tensorf-cp"}[kind]
    monkeypatch.setitem(PRESETS, f"{base}-quick", tiny(kind))
    for name, preset in (("compact", TINY_RATE), ("planes", TINY_PLANES)):
        monkeypatch.setitem(COMPRESS_PRESETS, name, replace(preset, warm_steps=4, steps=4))
    data, run, th = tmp_path / "data", tmp_path / "run", tmp_path / "again.th"
    save_scene(scene, data)
    succeeds("train", data, "--out", run, "--base", base, "--preset", "quick")
    assert_same_field(load_field(run / FIELD_FILE)[0], tensorf)
    imported = load_checkpoint(run / FACTORS_FILE).field
    np.testing.assert_array_equal(imported.allowed, tensorf.allowed)
    active = active_voxels(tensorf)
    np.testing.assert_allclose(imported.features[active], tensorf.features[active], atol=1e-4)
    assert evaluate(imported, scene.test).psnr == pytest.approx(evaluate(tensorf, scene.test).psnr, abs=1e-3)
    succeeds("convert", run, th)
    for ours, theirs in zip(load_tensorf(th).factors.lines, load_tensorf(run / FACTORS_FILE).factors.lines, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    succeeds("compress", run, "--data", data, "--out", tmp_path / "voxels.vqrf", "--preset", "compact")
    succeeds("verify", tmp_path / "voxels.vqrf", "--strict")
    succeeds("compress", run, "--data", data, "--out", tmp_path / "usual.vqrf")
    succeeds("verify", tmp_path / "usual.vqrf")
    assert isinstance(decode((tmp_path / "usual.vqrf").read_bytes()), PlanesField if kind == "vm" else PyramidField)


def test_a_plan_knows_what_factors_and_their_network_take(scene: Scene) -> None:
    standard = PRESETS["tensorf-standard"]
    fine = standard.fine
    plain = replace(standard, fine=replace(fine, appearance=replace(fine.appearance, feature_frequencies=0)))
    voxels = replace(standard, fine=replace(fine, components=None))
    seconds = [estimate_seconds(config, scene, 2) for config in (standard, plain, voxels)]
    assert seconds == sorted(seconds, reverse=True)
    assert estimate_seconds(standard, scene, 1) == pytest.approx(2 * seconds[0])
    assert estimate_seconds(standard, replace(scene, contrast=(0.0, 0.0, 0.0)), 2) > seconds[0]
    assert estimate_bytes(standard, scene) < estimate_bytes(voxels, scene) / 3
