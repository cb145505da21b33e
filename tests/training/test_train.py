"""Training: it learns, it grows without forgetting, and an interruption leaves no trace."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from changed import changed
from tiny import TINY, Interrupted, Recorder, assert_same_field, emptied

from vqrf.data.builtin import built_in_scene
from vqrf.data.rays import Batch, RayPool
from vqrf.data.scene import Scene, camera_bounds
from vqrf.fields.cells import active_voxels
from vqrf.fields.field import RadianceField
from vqrf.fields.storage import StorageError
from vqrf.geometry import Lattice
from vqrf.kernels import Gradients, has_native, select
from vqrf.kernels.constants import Equation
from vqrf.rendering.evaluate import evaluate
from vqrf.rendering.render import render
from vqrf.training.box import MIN_VIEWS, cells_near, coarse_alive, count_views, scene_box
from vqrf.training.checkpoint import Checkpoint, fingerprint
from vqrf.training.grids import UNSEEN_DENSITY, resample
from vqrf.training.loop import REFRESH_STEPS, RaysPerStep, optimize
from vqrf.training.parameters import AVERAGED, Parameters
from vqrf.training.run import COARSE_FILE, clear_run
from vqrf.training.stages import FINE_LOSSES, PRESETS, Penalties, Sampling, TrainConfig, suited_to
from vqrf.training.train import AVERAGE_FROM, FieldModel, coarse_model, fit, fit_model


def tiny_scene_of(side: int) -> Scene:
    """The tiny scene, its photos of another size."""
    return built_in_scene(n_train=12, n_test=3, side=side)


needs_native = pytest.mark.skipif(not has_native(), reason="needs the compiled core")


@pytest.fixture
def frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints as often as may be."""
    monkeypatch.setitem(Checkpoint.__init__.__kwdefaults__, "seconds", 0.0)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Set the number of threads of the core and of torch; afterwards as it was found."""
    from vqrf.kernels import native

    before = torch.get_num_threads()

    def set_both(n: int) -> None:
        native.set_threads(n)
        torch.set_num_threads(n)

    yield set_both
    native.set_threads(os.cpu_count() or 1)
    torch.set_num_threads(before)


# What is learned


def test_a_second_of_training_raises_held_out_psnr_far_above_the_empty_field(scene: Scene, trained: RadianceField) -> None:
    before, after = evaluate(emptied(trained), scene.test).psnr, evaluate(trained, scene.test).psnr
    assert after > before + 3, (before, after)


def test_training_lowers_the_error_of_its_batches_in_both_stages(scene: Scene) -> None:
    seen = Recorder()
    fit(scene, TINY, report=seen)
    assert seen.steps == {"coarse": list(range(1, 65)), "fine": list(range(1, 97))}
    mse = np.array([progress.mse for progress in seen.progress])
    for stage in (mse[:64], mse[64:]):
        assert stage[-8:].mean() < 0.7 * stage[:8].mean()
    last = seen.progress[-1]
    assert last.psnr == pytest.approx(-10 * math.log10(last.mse))
    assert last.n_shaded > 0


def test_another_seed_is_another_field_that_is_as_good(scene: Scene, trained: RadianceField) -> None:
    other = fit(scene, TINY, seed=1)
    assert not np.array_equal(other.density, trained.density)
    assert evaluate(other, scene.test).psnr == pytest.approx(evaluate(trained, scene.test).psnr, abs=1.0)


@pytest.mark.parametrize("n_views", [1, 2])
def test_fewer_photos_than_a_voxel_is_to_be_seen_by_are_learnt_all_the_same(scene: Scene, n_views: int) -> None:
    few = replace(scene, train=scene.train[:n_views])
    field = fit(few, TINY)
    assert evaluate(field, few.train).psnr > evaluate(emptied(field), few.train).psnr + 3


def test_views_of_other_sizes_with_and_without_opacity_are_learnt_together(scene: Scene) -> None:
    small = replace(tiny_scene_of(24), near=scene.near)
    mixed = []
    for number, view in enumerate((*scene.train[:6], *small.train[6:])):
        opacity = np.where((view.image == 255).all(-1), 0, 255).astype(np.uint8)
        mixed.append(replace(view, opacity=opacity if number % 2 else None))
    field = fit(replace(scene, train=tuple(mixed)), TINY)
    assert np.isfinite(field.density).all() and np.isfinite(field.features).all()
    assert evaluate(field, scene.test).psnr > evaluate(emptied(field), scene.test).psnr + 2


def test_what_looks_like_the_background_is_learnt_as_a_surface_where_photos_show_something_everywhere(
    scene: Scene, trained: RadianceField
) -> None:
    """White paper behind the thing, not white light: its pixels are opaque, and the field is shown on its own background."""
    opaque = fit(replace(scene, contrast=(0.0, 0.0, 1.0)), TINY)
    camera = scene.train[0].camera
    before, after = (render(field, camera).opacity.mean() for field in (trained, opaque))
    assert after > before + 0.3, (before, after)
    assert opaque.equation.background == scene.background


# How the lattice grows


def roughness(field: RadianceField) -> float:
    """Mean difference of neighbouring features along z, both voxels in use."""
    active = active_voxels(field)
    pairs = active[..., 1:] & active[..., :-1]
    return float(np.abs(np.diff(field.features, axis=2))[pairs].mean())


def test_total_variation_smooths_the_features(scene: Scene, trained: RadianceField) -> None:
    smooth = fit(scene, replace(TINY, fine=replace(TINY.fine, penalties=Penalties(feature_variation=1e-6))))
    assert roughness(smooth) < 0.8 * roughness(trained)


def test_resampling_keeps_the_values_at_shared_places_and_all_linear_functions() -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3, 5, 2)).astype(np.float32))
    finer = resample(values, (7, 5, 9))
    assert finer.is_contiguous()
    torch.testing.assert_close(finer[::2, ::2, ::2], values, atol=1e-6, rtol=0)

    lo, hi = (-1.0, 0.0, 2.0), (1.0, 3.0, 2.5)
    places = [
        torch.from_numpy(lattice.world_from_index(np.stack(np.meshgrid(*map(np.arange, lattice.shape), indexing="ij"), -1)))
        for lattice in (Lattice(lo, hi, (4, 3, 5)), Lattice(lo, hi, (6, 7, 8)))
    ]
    linear = [(place @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64) + 3).float() for place in places]
    torch.testing.assert_close(resample(linear[0], (6, 7, 8)), linear[1], atol=1e-5, rtol=0)


def coarse_ball(ball_field: RadianceField) -> RadianceField:
    """The ball as a coarse stage would leave it: one voxel per step."""
    return changed(ball_field, interval=1.0)


def test_growing_keeps_the_image_but_for_its_sharpening(scene: Scene, ball_field: RadianceField) -> None:
    stage = replace(TINY.fine, grow_at=(10,), n_voxels=32**3, sampling=Sampling(alpha_init=1e-6))
    inside = replace(scene, near=ball_field.equation.near)
    model = FieldModel(stage, (np.full(3, -1.0), np.full(3, 1.0)), inside, coarse=coarse_ball(ball_field))
    place = model.lattice.world_from_index(np.stack(np.meshgrid(*map(np.arange, model.lattice.shape), indexing="ij"), -1))
    radius = np.linalg.norm(place, axis=-1, keepdims=True)
    ball = torch.from_numpy((20 * (0.6 - radius) - model.equation.density_bias).astype(np.float32))
    active = torch.zeros(model.lattice.n_voxels, dtype=torch.bool)
    active[model.grid.active] = True
    model.grid.density.values.copy_(ball * active.view(*model.lattice.shape, 1))
    model._refresh()
    before = render(model.volume, scene.test[0].camera)
    bias, shape = model.equation.density_bias, model.lattice.shape
    model.prepare(10)
    assert model.lattice.n_voxels > 1.7 * np.prod(shape)
    after = render(changed(model.volume, density_bias=bias), scene.test[0].camera)
    assert 0.02 < before.opacity.mean() < 0.5
    assert np.abs(after.opacity - before.opacity).mean() < 0.03 * before.opacity.mean()
    assert np.abs(after.rgb - before.rgb).mean() < 0.03 * before.opacity.mean()


def test_halfway_cells_that_no_photo_needs_close_and_what_photos_see_stays(scene: Scene, ball_field: RadianceField) -> None:
    stage = replace(TINY.fine, grow_at=(), n_voxels=20**3, sampling=Sampling(alpha_init=1e-6))
    inside = replace(scene, near=ball_field.equation.near)
    model = FieldModel(stage, (np.full(3, -1.0), np.full(3, 1.0)), inside, coarse=coarse_ball(ball_field))
    place = model.lattice.world_from_index(np.stack(np.meshgrid(*map(np.arange, model.lattice.shape), indexing="ij"), -1))
    radius = torch.from_numpy(np.linalg.norm(place, axis=-1))
    model.grid.density.values[..., 0] = torch.where(radius < 0.6, 60.0, -60.0) - model.equation.density_bias
    model.prepare(0)
    assert model.volume.cells[radius[:-1, :-1, :-1] < 0.15].all(), "the inside of the ball is occupied"
    before = render(model.volume, scene.test[0].camera)
    assert model.prepare(stage.halfway)
    assert not model.allowed.view(model.volume.cells.shape)[radius[:-1, :-1, :-1] < 0.15].any()
    np.testing.assert_allclose(render(model.volume, scene.test[0].camera).opacity, before.opacity, atol=1e-3)
    model.prepare(REFRESH_STEPS)
    assert not model.volume.cells[radius[:-1, :-1, :-1] < 0.15].any(), "they stay closed"


def test_a_lattice_grows_by_doublings_to_its_full_size_and_sharpens(scene: Scene) -> None:
    model = FieldModel(TINY.fine, camera_bounds(scene), scene)
    sizes, biases, opacities = [], [], []
    for step in (0, 20, 50):
        model.prepare(step)
        sizes.append(model.lattice.n_voxels)
        biases.append(model.equation.density_bias)
        depth = model.equation.interval * np.logaddexp(0, model.equation.density_bias)
        opacities.append(-math.expm1(-depth))
    np.testing.assert_allclose(np.divide(sizes, 24**3), [0.25, 0.5, 1], rtol=0.25)
    np.testing.assert_allclose(np.diff(biases), -1)  # DVGO's shift at each growth
    assert opacities == sorted(opacities, reverse=True)
    assert model.equation.step_world * 2 == pytest.approx((np.prod(model.lattice.extent) / 24**3) ** (1 / 3))


def test_what_no_cell_can_hold_is_zero_after_growing(scene: Scene, ball_field: RadianceField) -> None:
    stage = replace(TINY.fine, n_voxels=32**3)
    model = FieldModel(stage, (np.full(3, -1.0), np.full(3, 1.0)), scene, coarse=coarse_ball(ball_field))
    for step in (20, 50):
        model.grid.density.values.fill_(3)
        model.grid.features.values.fill_(2)
        model.prepare(step)
        inside = np.zeros(model.lattice.n_voxels, bool)
        inside[model.grid.active.numpy()] = True
        assert 0.02 < inside.mean() < 0.9
        for values in (model.grid.density.values, model.grid.features.values):
            flat = values.numpy().reshape(model.lattice.n_voxels, -1)
            assert not flat[~inside].any()
            assert flat[inside].all()


# Where things may be


def test_views_are_counted_as_projecting_every_voxel_into_every_camera_does(scene: Scene) -> None:
    lattice = Lattice.with_voxels(*camera_bounds(scene), 12**3)
    seen = count_views(scene, lattice)
    assert seen.dtype == np.int32
    for voxel in np.ndindex(lattice.shape):
        place = np.append(lattice.world_from_index(voxel), 1)
        n_seen, near, clear = 0, False, True
        for camera in (view.camera for view in scene.train):
            x, y, z = (np.linalg.inv(camera.pose) @ place)[:3]
            near |= math.hypot(x, y, z) < scene.near
            clear &= abs(math.hypot(x, y, z) - scene.near) > 1e-4
            if z < 0:
                column, row = camera.fx * x / -z + camera.cx, -camera.fy * y / -z + camera.cy
                n_seen += 0 <= column <= camera.width and 0 <= row <= camera.height
                clear &= min(abs(column), abs(column - camera.width), abs(row), abs(row - camera.height)) > 1e-3
        if clear:
            assert seen[voxel] == (0 if near else n_seen), voxel
    assert set(np.unique(seen)) >= {0, len(scene.train)}


def test_the_coarse_stage_begins_empty_where_too_few_views_look(scene: Scene) -> None:
    model = coarse_model(scene, TINY, seed=0, device="cpu")
    seen = count_views(scene, model.lattice)
    density = model.grid.density.values[..., 0].numpy()
    np.testing.assert_array_equal(density, np.where(seen < MIN_VIEWS, UNSEEN_DENSITY, 0))
    assert model.rates is not None
    np.testing.assert_allclose(model.rates.numpy(), seen.ravel() / seen.max(), rtol=1e-6)
    blind = np.lib.stride_tricks.sliding_window_view(seen < MIN_VIEWS, (2, 2, 2)).all((-3, -2, -1))
    assert blind.any()
    np.testing.assert_array_equal(model.volume.cells.numpy() == 0, blind)


def random_coarse(seed: int, share: float) -> RadianceField:
    """7x9x8 coarse voxels of which a random share is alive."""
    random = np.random.default_rng(seed)
    alive = random.random((7, 9, 8)) < share
    return RadianceField(
        lattice=Lattice((-1, -2, 0), (1, 2, 3), (7, 9, 8)),
        density=np.where(alive, 20, -20).astype(np.float32),
        features=np.zeros((7, 9, 8, 3), np.float32),
        color_mlp=(),
        equation=Equation(-4.0, 0.5, 0.2, 0.1, 1e-4, (1, 1, 1)),
    )


def test_coarse_voxels_are_alive_above_an_alpha_of_a_thousandth_per_voxel() -> None:
    coarse = random_coarse(0, 0.5)
    density = np.linspace(-10, 10, coarse.density.size, dtype=np.float32).reshape(coarse.density.shape)
    alpha = -np.expm1(-np.logaddexp(0, density.astype(np.float64) - 4))
    np.testing.assert_array_equal(coarse_alive(replace(coarse, density=density)), alpha > 1e-3)


@pytest.mark.parametrize("share", [0.005, 0.02, 0.5, 1.0])
def test_the_fine_box_holds_every_alive_voxel_and_not_much_else(share: float) -> None:
    coarse = random_coarse(1, share)
    lo, hi = scene_box(coarse)
    alive = np.argwhere(coarse_alive(coarse))
    assert len(alive) > 0
    places = coarse.lattice.world_from_index(alive)
    assert (lo < places).all() and (places < hi).all()
    edge = coarse.lattice.extent / (np.array(coarse.lattice.shape) - 1)
    size = places.max(0) - places.min(0)
    assert (hi - lo <= np.maximum(1.05 * size + 1e-9, 2 * edge)).all()


def test_the_fine_box_is_the_whole_lattice_where_nothing_is_alive() -> None:
    coarse = random_coarse(0, 0.0)
    lo, hi = scene_box(coarse)
    assert (tuple(lo), tuple(hi)) == (coarse.lattice.lo, coarse.lattice.hi)


@pytest.mark.parametrize("shape", [(5, 4, 6), (14, 18, 16), (31, 40, 37)])
def test_cells_near_hold_what_is_alive_and_stay_near_it(shape: tuple[int, int, int]) -> None:
    coarse = random_coarse(2, 0.02)
    lattice = Lattice(*(tuple(edge.tolist()) for edge in scene_box(coarse)), shape)
    cells = cells_near(coarse, lattice)
    assert cells.dtype == np.uint8 and cells.shape == tuple(side - 1 for side in shape)
    alive = np.argwhere(coarse_alive(coarse))
    centres = np.stack(np.meshgrid(*(np.arange(side - 1) + 0.5 for side in shape), indexing="ij"), -1)
    index = coarse.lattice.index_from_world(lattice.world_from_index(centres))  # in coarse voxels
    distance = np.abs(index[..., None, :] - alive).max(-1).min(-1)
    assert cells[distance < 1.499].all()
    assert not cells[distance > 1.501].any()
    assert 0 < cells.mean() < 1


def test_few_photos_get_fewer_steps_in_proportion_and_never_less_than_half() -> None:
    full = PRESETS["standard"]
    steps = {n: suited_to(full, n * 800**2).fine.steps for n in (1, 50, 75, 100, 400)}
    assert steps == {1: 6000, 50: 6000, 75: 9000, 100: 12000, 400: 12000}
    assert replace(suited_to(full, 1), fine=full.fine) == full, "nothing else changes"
    place = full.in_space("front")
    assert suited_to(place, 1).fine.steps == 12000, "of a place a step is a look at half as many rays"
    planes = PRESETS["tensorf-standard"]
    assert planes.fine.rays_per_step == 4096
    assert suited_to(planes.in_space("front"), 1).fine.steps == suited_to(planes, 1).fine.steps == 15000
    assert all(max(preset.fine.grow_at) < suited_to(preset, 1).fine.halfway for preset in PRESETS.values())


# Interruptions


def interrupted(
    scene: Scene, run: Path, *at: tuple[str, int], saves: bool = False, config: TrainConfig = TINY
) -> tuple[RadianceField, list[Recorder]]:
    """Fit with an end at each of some steps, saved or not, and then to the end."""
    recorders = [Recorder(stop, saves=saves) for stop in (*at, None)]
    for recorder in recorders[:-1]:
        with pytest.raises(Interrupted):
            fit(scene, config, report=recorder, run=run)
    return fit(scene, config, report=recorders[-1], run=run), recorders


@needs_native
@pytest.mark.usefixtures("frequent")
@pytest.mark.parametrize(
    ("at", "resumed"),
    [
        ([("coarse", 40)], {"coarse": 33, "fine": 1}),
        ([("fine", 10)], {"fine": 1}),
        ([("fine", 40)], {"fine": 33}),  # after the first growth, before the second
        ([("coarse", 63), ("fine", 64), ("fine", 96)], {"fine": 97}),
    ],
    ids=str,
)
def test_a_run_that_was_interrupted_ends_in_the_very_field_of_one_that_was_not(
    scene: Scene, trained: RadianceField, tmp_path: Path, at: list[tuple[str, int]], resumed: dict[str, int]
) -> None:
    field, recorders = interrupted(scene, tmp_path, *at)
    last = recorders[-1].steps
    first_steps = {stage: steps[0] for stage, steps in last.items()} or {"fine": 97}
    assert first_steps == resumed
    assert_same_field(field, trained)
    clear_run(tmp_path)
    assert list(tmp_path.iterdir()) == []


@needs_native
@pytest.mark.parametrize("at", [("coarse", 41), ("fine", 25), ("fine", 51), ("fine", 95)], ids=str)
def test_a_run_that_saved_the_step_it_was_stopped_at_goes_on_there_to_the_very_field(
    scene: Scene, trained: RadianceField, tmp_path: Path, at: tuple[str, int]
) -> None:
    field, recorders = interrupted(scene, tmp_path, at, saves=True)
    assert_same_field(field, trained)
    assert recorders[-1].steps[at[0]][0] == at[1] + 1


@needs_native
def test_a_run_by_fewer_rays_where_much_is_shaded_goes_on_with_as_many_as_it_had(scene: Scene, tmp_path: Path) -> None:
    config = replace(TINY, fine=replace(TINY.fine, shaded_per_step=6000))
    field, _ = interrupted(scene, tmp_path, ("fine", 25), ("fine", 51), ("fine", 80), saves=True, config=config)
    assert_same_field(field, fit(scene, config))
    assert not np.array_equal(field.density, fit(scene, TINY).density)


def test_steps_of_a_run_without_a_checkpoint_cannot_be_saved(scene: Scene) -> None:
    seen = Recorder(("coarse", 1))
    with pytest.raises(Interrupted):
        fit(scene, TINY, report=seen)
    assert seen.progress[0].save is None


@pytest.mark.usefixtures("frequent")
def test_what_is_found_in_a_run_folder_is_not_computed_again(scene: Scene, tmp_path: Path) -> None:
    short = TrainConfig(48, replace(TINY.coarse, steps=33), replace(TINY.fine, steps=33, grow_at=()))
    for _ in range(2):
        recorder = Recorder()
        fit(scene, short, report=recorder, run=tmp_path)
    assert recorder.steps == {"fine": [33]}


@pytest.mark.usefixtures("frequent")
@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_a_run_of_other_images_or_settings_is_not_gone_on_with(scene: Scene, tmp_path: Path, stage: str) -> None:
    short = TrainConfig(48, replace(TINY.coarse, steps=40), replace(TINY.fine, steps=40, grow_at=()))
    with pytest.raises(Interrupted):
        fit(scene, short, report=Recorder((stage, 35)), run=tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert before
    others = [(scene, short, 1), (scene, replace(short, fine=replace(short.fine, steps=41)), 0)]
    others.append((replace(scene, train=scene.train[1:]), short, 0))
    for other, config, seed in others:
        with pytest.raises(StorageError, match="--overwrite"):
            fit(other, config, seed=seed, run=tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert ((tmp_path / COARSE_FILE) in before) == (stage == "fine")


@needs_native
def test_the_field_does_not_depend_on_the_number_of_threads(
    scene: Scene, trained: RadianceField, set_threads: Callable[[int], None]
) -> None:
    for n in (1, 2):
        set_threads(n)
        assert_same_field(fit(scene, TINY), trained)


class CountingModel:
    """A model that learns nothing and counts its calls."""

    def __init__(self, ball: RadianceField) -> None:
        self.volume, self.losses = ball.volume(), FINE_LOSSES
        zeros = np.zeros_like
        self.gradients = Gradients(zeros(ball.density), zeros(ball.features), (), zeros(ball.density, np.uint8))
        self.total = torch.zeros(1)
        self.prepared: list[int] = []

    def prepare(self, step: int) -> bool:
        self.prepared.append(step)
        return step == 0

    def update(self, step: int) -> None:
        self.total += step

    def state(self) -> dict[str, torch.Tensor]:
        return {"total": self.total}

    def restore(self, state: dict[str, torch.Tensor], step: int) -> None:
        self.total = state["total"].clone()


def test_the_loop_goes_on_from_the_last_step_before_which_cells_are_found_anew(
    scene: Scene, ball_field: RadianceField, tmp_path: Path
) -> None:
    def run(until: int) -> CountingModel:
        model = CountingModel(ball_field)
        checkpoint = Checkpoint(tmp_path / "checkpoint", "", seconds=0)
        for progress in optimize(model, RayPool(scene.train), steps=80, rays_per_step=8, seed=(0,), checkpoint=checkpoint):
            if progress.step == until:
                break
        return model

    assert run(until=31).prepared == list(range(31))
    assert run(until=70).prepared == list(range(70))
    model = run(until=80)
    assert model.prepared == list(range(64, 80))
    assert model.total == sum(range(80))


class CountingPool(RayPool):
    """Photos that count the rays that are taken of them."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene.train)
        self.taken: list[int] = []

    def sample(self, n: int, *, seed: tuple[int, ...]) -> Batch:
        self.taken.append(n)
        return super().sample(n, seed=seed)


def test_steps_shade_as_many_samples_as_they_are_allowed_by_fewer_rays(scene: Scene, ball_field: RadianceField) -> None:
    def shaded(allowed: int | None) -> tuple[list[int], list[float]]:
        pool = CountingPool(scene)
        steps = optimize(CountingModel(ball_field), pool, steps=70, rays_per_step=RaysPerStep(512, allowed), seed=(0,))
        return pool.taken, [float(progress.n_shaded) for progress in steps]

    taken, of_all = shaded(None)
    assert taken == [512] * 70
    allowed = int(of_all[0] / 3)
    taken, few = shaded(allowed)
    assert taken[0] == 512 and taken[1:32] == taken[1:2] * 31, "a batch is what it is until cells are found anew"
    assert np.mean(few[1:]) == pytest.approx(allowed, rel=0.1)
    assert shaded(1)[0][1:] == [64] * 69, "an eighth at least"
    assert shaded(10**9)[0] == [512] * 70


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_grows_within_its_stages_and_fits_the_checkpoints(name: str, scene: Scene) -> None:
    preset = PRESETS[name]
    for stage in (preset.coarse, preset.fine):
        assert list(stage.grow_at) == sorted(set(stage.grow_at))
        assert all(0 < step < stage.steps for step in stage.grow_at)
        assert stage.sampling.faint_steps < stage.steps
    assert preset.coarse.grow_at == ()  # its learning rates by views are counted for one lattice
    assert len(fingerprint(scene, {"config": asdict(preset)})) == 8


def test_the_kernels_are_the_compiled_ones_where_they_are_built() -> None:
    assert select().name == ("the compiled core" if has_native() else "the reference")


def test_training_ends_in_the_mean_of_its_last_parameters(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[dict[str, torch.Tensor], float]] = []
    average = Parameters.average

    def watched(parameters: Parameters, share: float) -> None:
        values = {name: rows.clone() for name, rows in parameters.state().items() if name.endswith(".values")}
        seen.append((values, share))
        average(parameters, share)

    monkeypatch.setattr(Parameters, "average", watched)
    stage = replace(TINY.fine, steps=480)
    model = fit_model(scene, replace(TINY, fine=stage))
    times = [n for n in range(0, stage.steps, REFRESH_STEPS) if n <= AVERAGE_FROM * stage.steps]
    late = seen[-len(times) :]
    share = REFRESH_STEPS / (AVERAGED * stage.steps)
    assert len(times) == 7 and {given for _, given in late} == {share} and 0 < share < 1
    weights = [(1 - share) ** (len(late) - 1), *(share * (1 - share) ** n for n in reversed(range(len(late) - 1)))]
    learnt = model.state()
    for name in late[0][0]:
        expected = sum(weight * values[name].double() for weight, (values, _) in zip(weights, late, strict=True))
        torch.testing.assert_close(learnt[name].double(), expected, rtol=1e-4, atol=1e-5)
    before = model.field()
    model.settle()
    assert_same_field(model.field(), before)
