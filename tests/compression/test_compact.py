"""The tuned pyramid: it shows what its file holds, goes on where it stopped, and takes any field."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from changed import changed
from tiny import Interrupted, Recorder

from vqrf.codec.bitstream import decode, encode
from vqrf.codec.compressed import PRUNED
from vqrf.codec.lint import inspect
from vqrf.codec.pyramid import PyramidField
from vqrf.compression.compact import DENSITY_ABOVE, DENSITY_BELOW, CompactPreset, PyramidModel, drop_hidden, thin
from vqrf.compression.goal import Profile
from vqrf.compression.importance import carrying, spread_out
from vqrf.compression.presets import compress
from vqrf.compression.priced import SUITED, Rounding
from vqrf.compression.tuning import Checkpoints
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField, expand
from vqrf.kernels import BITS_UNIT, has_native
from vqrf.rendering.evaluate import evaluate
from vqrf.rendering.render import render
from vqrf.training.checkpoint import Checkpoint
from vqrf.training.loop import optimize

needs_native = pytest.mark.skipif(not has_native(), reason="needs the compiled core")

TINY_RATE = CompactPreset(bit_price=2e-8, n_levels=2, warm_steps=0, steps=80, rays_per_step=512)
FINEST = Rounding(density_step=1e-3, feature_step=1e-4, dead_zone=0.0)
FINE = CompactPreset(prune=1.0, n_levels=3, rounding=FINEST, steps=0)
"""Steps so small that nothing is lost but what no step can say."""


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Set the number of threads of the core; afterwards as it was found."""
    from vqrf.kernels import native

    yield native.set_threads
    native.set_threads(os.cpu_count() or 1)


@pytest.fixture(scope="module")
def tuned(trained: RadianceField, scene: Scene) -> PyramidField:
    return compress(trained, scene, TINY_RATE)


@pytest.fixture
def model(trained: RadianceField, importance: np.ndarray) -> PyramidModel:
    return PyramidModel(trained, importance, TINY_RATE)


def harmonics_field(ball: RadianceField, **changes: object) -> RadianceField:
    """A ball whose colour is 12 smooth harmonics."""
    rng = np.random.default_rng(3)
    waves = np.sin(np.argwhere(np.ones(ball.lattice.shape)) @ rng.normal(0, 0.2, (3, 12)) + rng.uniform(0, 6, 12))
    features = waves.reshape(*ball.lattice.shape, 12).astype(np.float32)
    return changed(ball, features=features, shading="sh", **changes)


def plenoxels_field(ball: RadianceField) -> RadianceField:
    """The same without softplus and sigmoid."""
    density = (10 * (ball.density - ball.density.max() / 2) / ball.density.max()).astype(np.float32)
    return changed(harmonics_field(ball), density=density, density_bias=0.0, shading="sh_relu", activation="relu")


def seen_of(field: RadianceField) -> np.ndarray:
    """An importance: all that shows, more inside."""
    return np.maximum(field.density.astype(np.float64) - field.equation.floor, 0)


def tune(model: PyramidModel, scene: Scene, steps: int) -> PyramidModel:
    for _ in optimize(model, RayPool(scene.train), steps=steps, rays_per_step=256, seed=(0,)):
        pass
    return model


def assert_shows_what_the_file_holds(model: PyramidModel) -> None:
    model.prepare(0)  # brings the volume to the parameters, as before a step
    packed = model.pack()
    read = decode(encode(packed))
    assert read == packed
    field, volume = expand(read), model.volume
    np.testing.assert_allclose(volume.density.numpy(), field.density, rtol=1e-6, atol=1e-5)
    rows, table = volume.rows.numpy(), volume.features.numpy()
    assert ((rows < 0) == (read.partition == PRUNED)).all()
    np.testing.assert_allclose(np.where(rows[..., None] < 0, 0, table[rows]), field.features, rtol=1e-5, atol=1e-4)
    for layer, other in zip(volume.layers, field.color_mlp, strict=True):
        for a, b in zip(layer, other, strict=True):
            np.testing.assert_array_equal(a.numpy(), b)
    assert (volume.equation.shading, volume.equation.activation) == (field.equation.shading, field.equation.activation)
    assert (volume.equation.density_bias, volume.equation.interval, volume.equation.near) == pytest.approx(
        (field.equation.density_bias, field.equation.interval, field.equation.near)
    )


def test_what_is_tuned_is_what_the_file_holds_before_and_after(model: PyramidModel, scene: Scene) -> None:
    assert_shows_what_the_file_holds(model)
    assert_shows_what_the_file_holds(tune(model, scene, 5))


@pytest.mark.parametrize("make", [harmonics_field, plenoxels_field, lambda ball: ball], ids=["sh", "plenoxels", "logits"])
def test_a_field_without_a_network_gets_a_basis_and_comes_back(
    make: Callable[[RadianceField], RadianceField], ball_field: RadianceField
) -> None:
    field = make(ball_field)
    rounding = replace(FINEST, density_step=FINEST.density_step / SUITED[field.equation.activation].density_unit)
    importance, config = seen_of(field), replace(FINE, rounding=rounding)
    model = PyramidModel(field, importance, config)
    assert_shows_what_the_file_holds(model)
    packed = model.pack()
    assert packed.basis is not None and packed.color_mlp == ()
    again, here = expand(packed), spread_out(importance) > 0
    np.testing.assert_array_equal(packed.partition != PRUNED, here)
    floor = field.equation.floor
    expected = np.clip(field.density[here], floor - DENSITY_BELOW, floor + DENSITY_ABOVE)
    most = FINEST.density_step / 2 * (FINE.n_levels + 1)  # each level is rounded for itself
    np.testing.assert_allclose(again.density[here], expected, atol=1.01 * most)
    np.testing.assert_allclose(again.features[here], field.features[here], atol=0.02)
    assert (again.equation.shading, again.equation.activation) == (field.equation.shading, field.equation.activation)


def test_of_all_levels_only_the_finest_loses_by_its_rounding(model: PyramidModel, trained: RadianceField) -> None:
    coded = model.partition != PRUNED
    wanted = np.clip(trained.density[coded], model.floor - DENSITY_BELOW, model.floor + DENSITY_ABOVE)
    lost = np.abs(model.volume.density.numpy()[coded] - wanted)
    rounding = TINY_RATE.rounding
    assert rounding.density_step / 4 < lost.max() <= (0.5 + rounding.dead_zone) * rounding.density_step + 1e-5


def test_finer_steps_of_a_stage_keep_what_coefficients_say(model: PyramidModel, trained: RadianceField) -> None:
    def lost() -> float:
        return float(np.square(model.volume.density.numpy() - trained.density)[model.partition != PRUNED].mean())

    whole, before = model.pack().steps, lost()
    finer = replace(TINY_RATE, rounding=replace(TINY_RATE.rounding, fineness=0.125))
    model.begin(finer, 1.0, 1.0)
    assert lost() < before
    np.testing.assert_array_equal(model.pack().steps, whole / 8)
    assert_shows_what_the_file_holds(model)
    assert finer.warmed() == TINY_RATE.warmed()


def test_tiny_steps_keep_the_image_of_a_field_with_a_network(
    trained: RadianceField, importance: np.ndarray, scene: Scene
) -> None:
    model = PyramidModel(trained, importance, replace(FINE, rounding=replace(FINEST, feature_step=1e-3)))
    assert model.pack().basis is None
    before, after = (evaluate(field, scene.test).psnr for field in (trained, expand(model.pack())))
    assert after > before - 0.2


def test_no_coefficient_is_shown_that_a_file_could_not_hold(ball_field: RadianceField) -> None:
    """Steps so tiny that values end where the code ends: the volume shows the end too."""
    field = harmonics_field(ball_field)
    model = PyramidModel(field, seen_of(field), replace(FINE, rounding=replace(FINEST, feature_step=1e-9, density_step=1e-5)))
    assert max(abs(int(level.min())) for level in model.pack().coefficients) == 16397
    assert_shows_what_the_file_holds(model)


def test_a_field_that_no_ray_meets_is_still_a_field(trained: RadianceField) -> None:
    model = PyramidModel(trained, np.zeros(trained.lattice.shape), TINY_RATE)
    packed = model.pack()
    assert packed.n_coded == 1
    assert_shows_what_the_file_holds(model)


def test_a_field_whose_colour_depends_on_nothing_is_still_a_field(ball_field: RadianceField) -> None:
    """Harmonics far below 0, which the ReLU makes black whatever their coefficients."""
    field = replace(plenoxels_field(ball_field), features=np.full((16, 16, 16, 12), -9, np.float32))
    dark = np.zeros_like(field.features)
    dark[..., ::4] = -90
    field = replace(field, features=dark)
    model = PyramidModel(field, seen_of(field), TINY_RATE)
    assert np.isfinite(model.pack().basis).all()
    assert_shows_what_the_file_holds(model)


def test_voxels_stay_that_carry_the_share_that_is_asked_for(
    model: PyramidModel, importance: np.ndarray, trained: RadianceField
) -> None:
    np.testing.assert_array_equal(model.partition != PRUNED, carrying(spread_out(importance), TINY_RATE.kept_share(trained)))
    fewer = PyramidModel(trained, importance, replace(TINY_RATE, prune=0.9))
    assert (fewer.partition != PRUNED).sum() < (model.partition != PRUNED).sum()


@pytest.mark.parametrize(("given", "of_softplus", "of_relu"), [(None, 0.996, 0.999), (0.9, 0.9, 0.9)])
def test_unless_told_otherwise_a_relu_keeps_more(
    given: float | None, of_softplus: float, of_relu: float, importance: np.ndarray, trained: RadianceField
) -> None:
    for activation, share in (("softplus", of_softplus), ("relu", of_relu)):
        field = changed(trained, activation=activation)
        packed = PyramidModel(field, importance, replace(TINY_RATE, prune=given)).pack()
        np.testing.assert_array_equal(packed.partition != PRUNED, carrying(spread_out(importance), share))


def test_tuning_wins_back_quality_and_a_dearer_bit_makes_a_smaller_file(
    tuned: PyramidField, trained: RadianceField, scene: Scene
) -> None:
    untuned = compress(trained, scene, replace(TINY_RATE, steps=0))
    assert evaluate(expand(tuned), scene.test).psnr > evaluate(expand(untuned), scene.test).psnr + 0.3
    sizes = [len(encode(compress(trained, scene, replace(TINY_RATE, bit_price=price)))) for price in (0, 2e-7)]
    assert sizes[1] < 0.8 * sizes[0]


def test_voxels_that_tuning_hid_are_dropped_and_no_image_changes(
    trained: RadianceField, importance: np.ndarray, scene: Scene
) -> None:
    packed = tune(PyramidModel(trained, importance, replace(TINY_RATE, bit_price=1e-7)), scene, 60).pack()
    fewer = drop_hidden(packed)
    assert 0 < fewer.n_coded < packed.n_coded
    assert len(encode(fewer)) < len(encode(packed))
    assert drop_hidden(fewer) == fewer
    for view in scene.test:
        before, after = (render(expand(field), view.camera).rgb for field in (packed, fewer))
        np.testing.assert_array_equal(before, after)


def test_our_own_pyramids_have_nothing_odd_about_them(tuned: PyramidField) -> None:
    assert inspect(encode(tuned)) == []


def test_cutting_levels_off_leaves_a_coarser_scene(tuned: PyramidField, scene: Scene) -> None:
    data = encode(tuned)
    scores = []
    for n_cut in (0, 1, 2):
        kept = len(data) - sum(len(part) for part in level_bytes(data)[len(tuned.coefficients) - n_cut :])
        scores.append(evaluate(expand(decode(data[:kept], truncated=n_cut > 0)), scene.test).psnr)
    assert scores[0] > scores[1] > scores[2]


def level_bytes(data: bytes) -> list[bytes]:
    from vqrf.codec.container import sections

    return [data[offset : offset + size] for name, offset, size in sections(data) if name.startswith("LEV")]


def test_a_stage_ends_in_the_mean_of_its_last_parameters(trained: RadianceField, importance: np.ndarray, scene: Scene) -> None:
    steps, model = 80, PyramidModel(trained, importance, TINY_RATE)
    assert model.config.steps == steps
    seen = [model.mlp["mlp0"].values.clone()]
    for _ in optimize(model, RayPool(scene.train), steps=steps, rays_per_step=64, seed=(0,)):
        seen.append(model.mlp["mlp0"].values.clone())
    mean = seen[0]
    for values in seen[4::4]:  # half of the newest: four steps of the eight that a tenth of all are
        mean = mean + (values - mean) / 2
    model.settle()
    torch.testing.assert_close(model.mlp["mlp0"].values, mean)
    assert not torch.equal(model.mlp["mlp0"].values, seen[-1])
    assert_shows_what_the_file_holds(model)
    settled = model.pack()
    model.settle()
    assert model.pack() == settled


@needs_native
def test_a_model_that_is_restored_goes_on_as_the_one_that_was_saved(
    trained: RadianceField, importance: np.ndarray, scene: Scene
) -> None:
    saved = tune(PyramidModel(trained, importance, TINY_RATE), scene, 7)
    other = PyramidModel(trained, importance, TINY_RATE)
    other.restore({name: values.clone() for name, values in saved.state().items()}, 7)
    assert other.pack() == saved.pack()
    again = other.state()
    assert saved.state().keys() == again.keys()
    assert all(bool((values == again[name]).all()) for name, values in saved.state().items())
    assert tune(other, scene, 3).pack() == tune(saved, scene, 3).pack()
    for model in (other, saved):
        model.settle()
    assert other.pack() == saved.pack()


@needs_native
@pytest.mark.parametrize(("at", "saves"), [(("tune", 40), False), (("tune", 37), True)])
def test_a_tuning_that_was_interrupted_ends_as_one_that_was_not(
    tuned: PyramidField, trained: RadianceField, scene: Scene, tmp_path: Path, at: tuple[str, int], saves: bool
) -> None:
    def checkpoints() -> Checkpoints:
        return Checkpoints(**{stage: Checkpoint(tmp_path / stage, "x", seconds=0) for stage in ("warm", "tune")})

    with pytest.raises(Interrupted):
        compress(trained, scene, TINY_RATE, report=Recorder(at, saves=saves), checkpoints=checkpoints())
    recorder = Recorder()
    again = compress(trained, scene, TINY_RATE, report=recorder, checkpoints=checkpoints())
    assert recorder.steps[at[0]][0] == (at[1] if saves else at[1] // 32 * 32) + 1
    assert again == tuned


@needs_native
def test_a_pyramid_does_not_depend_on_the_number_of_threads(
    tuned: PyramidField, trained: RadianceField, scene: Scene, set_threads: Callable[[int], None]
) -> None:
    for n in (1, 2):
        set_threads(n)
        assert encode(compress(trained, scene, TINY_RATE)) == encode(tuned)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prune": 0.0},
        {"prune": 1.1},
        {"prune": float("nan")},
        {"bit_price": -1e-9},
        {"bit_price": float("nan")},
        {"n_levels": -1},
        {"n_levels": 9},
        {"steps": -1},
    ],
    ids=str,
)
def test_dials_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(TINY_RATE, **wrong)


@pytest.mark.parametrize(
    "wrong", [{"density_step": 0.0}, {"feature_step": -0.1}, {"dead_zone": -0.1}, {"dead_zone": 0.6}], ids=str
)
def test_rounding_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Rounding(**wrong)


@pytest.mark.parametrize("profile", ["exact", "web"])
def test_every_price_goes_on_from_one_warm_stage(
    profile: Profile, trained: RadianceField, scene: Scene, tmp_path: Path
) -> None:
    """A second price takes the first one's stages and ends as if it had made its own."""
    config = replace(TINY_RATE, warm_steps=40, steps=10, bake_steps=20, profile=profile)
    cheap, dear = replace(config, bit_price=1e-9), replace(config, bit_price=1e-7)
    stages = Checkpoints(**{stage: Checkpoint(tmp_path / stage, "same") for stage in ("bake", "warm")})
    recorders = Recorder(), Recorder()
    small = [
        compress(trained, scene, one, report=recorder, checkpoints=stages)
        for one, recorder in zip((cheap, dear), recorders, strict=True)
    ]
    assert recorders[0].steps.keys() == {"warm", "tune"} | ({"bake"} if profile == "web" else set())
    assert recorders[1].steps.keys() == {"tune"}
    assert small[1] == compress(trained, scene, dear)
    assert len(encode(small[1])) < len(encode(small[0]))


def test_what_is_thinned_is_smaller_by_so_large_a_share_of_its_ones(tuned: PyramidField) -> None:
    ones = [int((np.abs(thin(tuned, share).coefficients[-1][:, 1:]) == 1).sum()) for share in (0.0, 0.25, 0.5, 1.0)]
    assert ones[0] == 0 and ones[1] == ones[3] - round(0.75 * ones[3]) and ones[2] == ones[3] - round(0.5 * ones[3])
    assert thin(tuned, 1.0) == tuned
    assert len(encode(thin(tuned, 0.5))) < len(encode(tuned))


def test_surroundings_speak_in_the_last_stage_alone(model: PyramidModel) -> None:
    kinds = {}
    for config in (TINY_RATE.warmed(), TINY_RATE):
        model.begin(config, 1.0, 1.0)
        model.update(0)
        bits = torch.cat([level.flatten() for level in (*model.density.first_bits, *model.latents.first_bits)])
        kinds[config.by_surroundings] = bits.unique().tolist()
    assert kinds[False] == [round(1 / BITS_UNIT)]
    assert len(kinds[True]) > 10
