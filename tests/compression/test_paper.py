"""The paper's preset: what is tuned is what the file holds, and what is tied stays tied."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY_COMPRESS, Interrupted, Recorder, assert_same_compressed

from vqrf.cameras import Camera
from vqrf.codec.bitstream import decode, encode
from vqrf.codec.compressed import CODED, KEPT, PRUNED, CompressedField, float_table
from vqrf.compression.importance import EMPTY_MARGIN, partition_voxels
from vqrf.compression.paper import PaperPreset, TiedModel, UnroundedModel, partition_and_cluster, tied_model
from vqrf.compression.presets import PRESETS, compress
from vqrf.compression.tuning import Checkpoints
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene, View
from vqrf.fields.field import RadianceField, expand
from vqrf.kernels import has_native
from vqrf.rendering.evaluate import evaluate
from vqrf.rendering.render import render
from vqrf.training.bake import bake_harmonics
from vqrf.training.checkpoint import Checkpoint
from vqrf.training.loop import optimize

needs_native = pytest.mark.skipif(not has_native(), reason="needs the compiled core")


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Set the number of threads of the core; afterwards as it was found."""
    from vqrf.kernels import native

    yield native.set_threads
    native.set_threads(os.cpu_count() or 1)


@pytest.fixture
def model(trained: RadianceField, importance: np.ndarray) -> TiedModel:
    return tied_model(trained, importance, TINY_COMPRESS)


def tune(model: TiedModel, scene: Scene, steps: int) -> TiedModel:
    for _ in optimize(model, RayPool(scene.train), steps=steps, rays_per_step=256, seed=(0,)):
        pass
    return model


@pytest.fixture(scope="module")
def tuned(trained: RadianceField, scene: Scene) -> CompressedField:
    return compress(trained, scene, TINY_COMPRESS)


def assert_shows_what_the_file_holds(model: TiedModel, scene: Scene) -> None:
    model.prepare(0)  # brings the volume to the parameters, as before a step
    packed = model.pack()
    read = decode(encode(packed))
    assert read == packed
    field, volume = expand(read), model.volume
    np.testing.assert_array_equal(volume.density.numpy(), field.density)
    rows, table = volume.rows.numpy(), volume.features.numpy()
    np.testing.assert_array_equal(np.where(rows[..., None] < 0, 0, table[rows]), field.features)
    for layer, other in zip(volume.layers, field.color_mlp, strict=True):
        for a, b in zip(layer, other, strict=True):
            np.testing.assert_array_equal(a.numpy(), b)
    camera = scene.test[0].camera
    np.testing.assert_allclose(render(volume, camera).rgb, render(field, camera).rgb, atol=2e-5)


def test_what_is_tuned_is_what_the_file_holds_before_and_after(model: TiedModel, scene: Scene) -> None:
    assert_shows_what_the_file_holds(model, scene)
    assert_shows_what_the_file_holds(tune(model, scene, 5), scene)


def test_the_stages_before_tuning_change_the_image_little(model: TiedModel, trained: RadianceField, scene: Scene) -> None:
    before, after = evaluate(trained, scene.test).psnr, evaluate(expand(model.pack()), scene.test).psnr
    assert after > before - 0.3


def test_voxels_of_one_code_share_a_row_and_kept_ones_have_their_own(
    model: TiedModel, trained: RadianceField, importance: np.ndarray
) -> None:
    partition, rows = model.partition, model.rows.numpy()
    np.testing.assert_array_equal(partition, partition_voxels(importance, prune=0.999, keep=0.6))
    n_kept = int((partition == KEPT).sum())
    assert n_kept > 0 and (partition == CODED).sum() > n_kept
    assert (rows[partition == PRUNED] == -1).all()
    np.testing.assert_array_equal(rows[partition == CODED], model.codes)
    np.testing.assert_array_equal(rows[partition == KEPT], model.n_codes + np.arange(n_kept))
    table = model.table.values.numpy()
    assert len(table) == model.n_codes + n_kept
    np.testing.assert_array_equal(table[rows[partition == KEPT]], trained.features[partition == KEPT])


def test_tuning_moves_every_kind_of_parameter_and_keeps_what_is_tied_tied(model: TiedModel, scene: Scene) -> None:
    before = expand(model.pack())
    after = expand(tune(model, scene, 20).pack())
    for kind in (CODED, KEPT):
        own = model.partition == kind
        assert (after.features[own] != before.features[own]).mean() > 0.5
        assert (after.density[own] != before.density[own]).mean() > 0.1
    assert (after.color_mlp[0][0] != before.color_mlp[0][0]).mean() > 0.5
    coded = after.features[model.partition == CODED]
    for code in np.unique(model.codes):
        assert (coded[model.codes == code] == coded[model.codes == code][0]).all()


def test_pruned_voxels_take_no_part(trained: RadianceField, importance: np.ndarray, scene: Scene) -> None:
    pruned = importance == 0
    pruned |= partition_voxels(importance, prune=0.999, keep=0.6) == PRUNED
    random = np.random.default_rng(0)
    density, features = trained.density.copy(), trained.features.copy()
    density[pruned] = random.normal(size=pruned.sum())
    features[pruned] = random.normal(size=features[pruned].shape)
    packed = [
        tune(tied_model(field, importance, TINY_COMPRESS), scene, 40).pack()
        for field in (trained, replace(trained, density=density, features=features))
    ]
    assert_same_compressed(*packed)
    field = expand(packed[0])
    floor = trained.equation.floor
    np.testing.assert_allclose(field.density[pruned], floor - EMPTY_MARGIN, rtol=1e-6)
    assert not field.features[pruned].any()


def test_tuning_wins_back_quality(tuned: CompressedField, trained: RadianceField, scene: Scene) -> None:
    untuned = compress(trained, scene, replace(TINY_COMPRESS, steps=0))
    scores = [evaluate(expand(field), scene.test).psnr for field in (untuned, tuned)]
    assert scores[1] > scores[0] + 0.3, scores


def test_a_compressed_field_takes_a_small_part_of_its_voxels_as_floats_and_comes_back_whole(
    tuned: CompressedField, trained: RadianceField
) -> None:
    data = encode(tuned)
    assert decode(data) == tuned
    n_stored = np.count_nonzero(tuned.partition != PRUNED)  # of a tight box few voxels are pruned: they would say little
    assert len(data) < n_stored * (1 + trained.n_channels) * 4 / 10


@pytest.mark.parametrize(
    "dials", [{"prune": 1.0, "keep": 1.0}, {"keep": 0.0}, {"prune": 0.0, "keep": 0.0}, {"n_codes": 1}], ids=str
)
def test_the_ends_of_the_dials_give_fields(
    dials: dict[str, float], trained: RadianceField, importance: np.ndarray, scene: Scene
) -> None:
    config = replace(TINY_COMPRESS, **dials)  # type: ignore[arg-type]
    model = tune(tied_model(trained, importance, config), scene, 3)
    assert_shows_what_the_file_holds(model, scene)
    packed = model.pack()
    assert (packed.n_kept == 0) == (config.keep == 0)
    assert (packed.n_coded == 0) == (config.keep == config.prune)
    assert packed.n_codewords <= config.n_codes


def test_without_quantisers_the_model_shows_the_very_field_and_learns(
    trained: RadianceField, importance: np.ndarray, scene: Scene
) -> None:
    whole = replace(TINY_COMPRESS, prune=1.0, keep=1.0)
    partition, *codes = partition_and_cluster(trained, importance, whole, 0)
    model = UnroundedModel(trained, partition, *codes, whole)  # type: ignore[arg-type]
    seen, shown = partition != PRUNED, model.shown()
    np.testing.assert_array_equal(shown.density[seen], trained.density[seen])
    np.testing.assert_array_equal(shown.features[seen], trained.features[seen])
    assert not shown.features[~seen].any()
    for layer, own in zip(shown.color_mlp, trained.color_mlp, strict=True):
        for array, other in zip(layer, own, strict=True):
            np.testing.assert_array_equal(array, other)
    before = evaluate(shown, scene.test).psnr
    assert before == pytest.approx(evaluate(trained, scene.test).psnr, abs=0.05)
    found = partition_and_cluster(trained, importance, replace(TINY_COMPRESS, n_codes=4), 0)
    coarse = UnroundedModel(trained, *found, TINY_COMPRESS)
    before = evaluate(coarse.shown(), scene.test).psnr
    assert evaluate(tune(coarse, scene, 80).shown(), scene.test).psnr > before + 0.1
    images = [render(field, scene.test[0].camera).rgb for field in (coarse.volume, coarse.shown())]
    np.testing.assert_allclose(*images, atol=2e-5)


def test_voxels_by_chance_are_as_many_and_show_less(trained: RadianceField, importance: np.ndarray, scene: Scene) -> None:
    alike = replace(TINY_COMPRESS, prune=0.9, keep=0.9)
    files = [tied_model(trained, importance, config).pack() for config in (alike, replace(alike, is_uniform=True))]
    assert files[0].n_kept == files[1].n_kept > 0 == files[1].n_coded
    by_importance, by_chance = (evaluate(expand(small), scene.test).psnr for small in files)
    assert by_importance > by_chance + 3


WEB = replace(TINY_COMPRESS, profile="web")


@pytest.fixture(scope="module")
def for_web(trained: RadianceField, scene: Scene) -> CompressedField:
    return compress(trained, scene, WEB)


def test_a_file_for_the_web_is_of_harmonics_on_a_finer_lattice_and_comes_back_whole(
    for_web: CompressedField, trained: RadianceField
) -> None:
    assert (for_web.equation.shading, for_web.color_mlp, for_web.n_channels) == ("sh", (), 12)
    assert for_web.lattice.n_voxels > 1.5 * trained.lattice.n_voxels
    assert for_web.equation.step_world == pytest.approx(trained.equation.step_world)
    assert decode(encode(for_web)) == for_web
    assert expand(for_web).equation.shading == "sh"


def test_fast_colours_cost_little_of_the_exact_ones(for_web: CompressedField, tuned: CompressedField, scene: Scene) -> None:
    exact, fast = (evaluate(expand(field), scene.test).psnr for field in (tuned, for_web))
    assert fast > exact - 0.5, (exact, fast)


def test_baking_and_tuning_both_win_back_quality(for_web: CompressedField, trained: RadianceField, scene: Scene) -> None:
    full = evaluate(expand(for_web), scene.test).psnr
    for part in ({"bake_steps": 0}, {"steps": 0}):
        assert full > evaluate(expand(compress(trained, scene, replace(WEB, **part))), scene.test).psnr + 0.1


def test_harmonics_are_tuned_as_the_file_holds_them(trained: RadianceField, importance: np.ndarray, scene: Scene) -> None:
    cameras = [view.camera for view in scene.train]
    model = tied_model(bake_harmonics(trained, cameras, importance > 0), importance, TINY_COMPRESS)
    assert_shows_what_the_file_holds(model, scene)
    assert_shows_what_the_file_holds(tune(model, scene, 5), scene)


def test_a_field_of_plain_colours_compresses_too(ball_field: RadianceField, ball_camera: Camera) -> None:
    image = np.rint(render(ball_field, ball_camera).rgb * 255).astype(np.uint8)
    view = View(ball_camera, image, "train/r_0")
    scene = Scene((view,), (view,), (1.0, 1.0, 1.0), 2.0, 4.0, "ball")
    packed = compress(ball_field, scene, replace(TINY_COMPRESS, n_codes=256, steps=4))
    assert packed.color_mlp == ()
    assert evaluate(expand(packed), scene.test).psnr > 30


@needs_native
@pytest.mark.parametrize("saves", [False, True])
@pytest.mark.parametrize("at", [[40], [33, 70]], ids=str)
def test_a_tuning_that_was_interrupted_ends_as_one_that_was_not(
    tuned: CompressedField, trained: RadianceField, scene: Scene, tmp_path: Path, at: list[int], saves: bool
) -> None:
    path = tmp_path / "checkpoint"
    for step in at:
        with pytest.raises(Interrupted):
            checkpoint = Checkpoint(path, "x", seconds=0)
            report = Recorder(("tune", step), saves=saves)
            compress(trained, scene, TINY_COMPRESS, report=report, checkpoints=Checkpoints(tune=checkpoint))
    recorder = Recorder()
    checkpoint = Checkpoint(path, "x", seconds=0)
    again = compress(trained, scene, TINY_COMPRESS, report=recorder, checkpoints=Checkpoints(tune=checkpoint))
    assert recorder.steps["tune"][0] == (at[-1] if saves else at[-1] // 32 * 32) + 1
    assert_same_compressed(again, tuned)
    assert path.exists()  # until the result is safe


@needs_native
@pytest.mark.parametrize("saves", [False, True])
@pytest.mark.parametrize("at", [[("bake", 40)], [("bake", 33), ("tune", 50)], [("tune", 7)]], ids=str)
def test_a_baking_that_was_interrupted_ends_as_one_that_was_not(
    for_web: CompressedField, trained: RadianceField, scene: Scene, tmp_path: Path, at: list[tuple[str, int]], saves: bool
) -> None:
    def checkpoints() -> Checkpoints:
        return Checkpoints(**{stage: Checkpoint(tmp_path / stage, "x", seconds=0) for stage in ("bake", "tune")})

    for place in at:
        with pytest.raises(Interrupted):
            compress(trained, scene, WEB, report=Recorder(place, saves=saves), checkpoints=checkpoints())
    recorder, left = Recorder(), checkpoints()
    again = compress(trained, scene, WEB, report=recorder, checkpoints=left)
    assert_same_compressed(again, for_web)
    baked = recorder.steps.get("bake", [])
    first = (at[-1][1] if saves else at[-1][1] // 32 * 32) + 1
    assert baked == ([] if at[-1][0] == "tune" else list(range(first, WEB.bake_steps + 1)))
    left.remove()
    assert list(tmp_path.iterdir()) == []


@needs_native
def test_compression_does_not_depend_on_the_number_of_threads(
    tuned: CompressedField,
    for_web: CompressedField,
    trained: RadianceField,
    scene: Scene,
    set_threads: Callable[[int], None],
) -> None:
    for n in (1, 2):
        set_threads(n)
        assert_same_compressed(compress(trained, scene, TINY_COMPRESS), tuned)
        assert_same_compressed(compress(trained, scene, WEB), for_web)


WRONG_DIALS: list[dict[str, float | str]] = [
    {"prune": 1.1},
    {"keep": -0.1},
    {"keep": 0.9, "prune": 0.5},
    {"prune": float("nan")},
    {"n_codes": 0},
    {"n_codes": 65537},
    {"steps": -1},
    {"bake_steps": -1},
    {"profile": "print"},
]


@pytest.mark.parametrize("wrong", WRONG_DIALS, ids=str)
def test_dials_out_of_range_are_refused(wrong: dict[str, float | str]) -> None:
    with pytest.raises(ValueError, match="expected"):
        PaperPreset(**wrong)  # type: ignore[arg-type]


def test_the_paper_preset_has_the_dials_of_the_paper() -> None:
    paper = PRESETS["paper"]
    assert (paper.prune, paper.keep, paper.n_codes) == (0.999, 0.6, 4096)


def test_codewords_and_mlp_are_half_precision(tuned: CompressedField) -> None:
    for table in (tuned.codebook, *(a for layer in tuned.color_mlp for a in layer)):
        assert isinstance(table, np.ndarray) and table.dtype == np.float16
        assert np.isfinite(float_table(table)).all()
