"""Compression: every stage against its definition, and what is tuned is what the file holds."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import TINY_COMPRESS, Interrupted, Recorder, assert_same_compressed

from vqrf.codec.bitstream import decode, encode
from vqrf.codec.compressed import CODED, KEPT, PRUNED, CompressedField
from vqrf.compression.paper import (
    EMPTY_MARGIN,
    LEVELS,
    PRESETS,
    Checkpoints,
    CompressConfig,
    Profile,
    Quantizer,
    TiedModel,
    carrying,
    compress,
    expire_codes,
    kd_order,
    measure_importance,
    partition_voxels,
    tied_model,
    train_codebook,
)
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene, View
from vqrf.fields.field import RadianceField, expand, float_table
from vqrf.geometry import Camera
from vqrf.kernels import has_native
from vqrf.kernels.activation import density_of_alpha
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


# Importance and partition


def test_the_importance_of_all_voxels_is_the_light_of_all_rays(ball_field: RadianceField, ball_camera: Camera) -> None:
    bright = replace(ball_field, features=np.full_like(ball_field.features, 50), background=(0.0, 0.0, 0.0))
    view = View(ball_camera, np.zeros((20, 24, 3), np.uint8), "train/r_0")
    importance = measure_importance(ball_field, RayPool([view, view]))
    assert importance.shape == ball_field.lattice.shape and importance.dtype == np.float64
    assert (importance >= 0).all()
    assert importance.sum() == pytest.approx(2 * render(bright, ball_camera).rgb[..., 0].sum(), rel=1e-4)
    place = ball_field.lattice.world_from_index(np.argwhere(importance > 0))
    assert place[:, 2].min() > -0.5  # the camera looks from +z: the ball's far side is never seen


def fewest(values: list[int], least: int) -> int:
    """Brute force: size of the smallest set of values whose sum is at least `least`."""
    sizes = range(len(values) + 1)
    return next(n for n in sizes if any(sum(chosen) >= least for chosen in itertools.combinations(values, n)))


@given(values=st.lists(st.integers(0, 6), min_size=1, max_size=9), part=st.integers(0, 54), reverse=st.booleans())
def test_carrying_takes_the_fewest_voxels_and_of_equals_the_first(values: list[int], part: int, reverse: bool) -> None:
    total = sum(values)
    part = min(part, total)
    mask = carrying(np.array(values, np.float64), part / max(total, 1))
    assert mask.sum() == fewest(values, part)
    assert sum(value for value, taken in zip(values, mask, strict=True) if taken) >= part
    taken, left = (np.flatnonzero(mask), np.flatnonzero(~mask))
    for a, b in itertools.product(taken, left):
        assert values[a] > 0
        assert values[a] > values[b] or (values[a] == values[b] and a < b)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_carrying_nothing_needs_no_voxel(share: float) -> None:
    assert not carrying(np.zeros((2, 3, 4)), share).any()


def test_a_share_of_one_is_every_voxel_of_any_importance() -> None:
    importance = np.array([[[1e6, 1e-300, 0.0, 1e-9]]])
    np.testing.assert_array_equal(carrying(importance, 1.0), importance > 0)
    np.testing.assert_array_equal(carrying(importance, 0.0), np.zeros_like(importance, bool))


@given(seed=st.integers(0, 99), keep=st.floats(0, 1), prune=st.floats(0, 1))
def test_the_partition_carries_what_its_dials_say(seed: int, keep: float, prune: float) -> None:
    keep, prune = sorted((keep, prune))
    importance = np.random.default_rng(seed).exponential(size=(3, 4, 5)) ** 3
    importance[importance < 0.1] = 0
    partition = partition_voxels(importance, prune=prune, keep=keep)
    assert partition.dtype == np.uint8 and partition.shape == (3, 4, 5)
    total = importance.sum()
    assert importance[partition == KEPT].sum() >= keep * total * (1 - 1e-9)
    assert importance[partition != PRUNED].sum() >= prune * total * (1 - 1e-9)
    by_rank = partition.ravel()[np.argsort(-importance.ravel(), kind="stable")].astype(int)
    assert (np.diff(by_rank) <= 0).all()  # KEPT = 2, CODED = 1, PRUNED = 0
    assert (partition[importance == 0] == PRUNED).all()


def test_a_partition_at_its_ends() -> None:
    importance = np.random.default_rng(0).random((3, 3, 3))
    assert (partition_voxels(importance, prune=1, keep=1) == KEPT).all()
    assert (partition_voxels(importance, prune=1, keep=0) == CODED).all()
    assert (partition_voxels(importance, prune=0, keep=0) == PRUNED).all()
    assert (partition_voxels(np.zeros((3, 3, 3)), prune=1, keep=1) == PRUNED).all()


# Codebook


def cloud(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(n, 5)).astype(np.float32), random.exponential(size=n)


def weighted_error(vectors: np.ndarray, importance: np.ndarray, codebook: np.ndarray, codes: np.ndarray) -> float:
    return float((importance * ((vectors - codebook[codes]) ** 2).sum(1)).sum() / importance.sum())


@pytest.mark.parametrize("n_codes", [1, 2, 7, 64])
def test_every_vector_has_the_nearest_codeword_and_every_codeword_a_vector(n_codes: int) -> None:
    vectors, importance = cloud(500)
    codebook, codes = train_codebook(vectors, importance, n_codes)
    assert codebook.dtype == np.float32 and codes.dtype == np.int32
    assert codebook.shape == (n_codes, 5) and codes.shape == (500,)
    distances = ((vectors[:, None].astype(np.float64) - codebook) ** 2).sum(-1)
    np.testing.assert_allclose(distances[np.arange(500), codes], distances.min(1), atol=1e-5)
    assert len(np.unique(codes)) == n_codes


def test_one_codeword_is_the_weighted_mean() -> None:
    vectors, importance = cloud(200)
    codebook, codes = train_codebook(vectors, importance, 1)
    np.testing.assert_allclose(codebook[0], importance @ vectors / importance.sum(), atol=1e-6)
    assert not codes.any()


@pytest.mark.parametrize("n_codes", [2, 8, 40])
def test_codewords_settle_at_the_weighted_means_of_their_vectors(n_codes: int) -> None:
    vectors, importance = cloud(800)
    codebook, codes = train_codebook(vectors, importance, n_codes)
    means = np.stack([np.average(vectors[codes == k], axis=0, weights=importance[codes == k]) for k in range(n_codes)])
    found, least = (weighted_error(vectors, importance, words, codes) for words in (codebook, means))
    assert least <= found < 1.01 * least


def test_more_codewords_and_more_importance_lower_the_error() -> None:
    vectors, importance = cloud(600)
    errors = [weighted_error(vectors, importance, *train_codebook(vectors, importance, n)) for n in (1, 4, 16, 64, 256)]
    assert all(b < 0.9 * a for a, b in itertools.pairwise(errors))

    half = np.where(np.arange(600) < 300, 100.0, 1.0)
    codebook, codes = train_codebook(vectors, half, 16)
    distances = ((vectors - codebook[codes]) ** 2).sum(1)
    assert distances[:300].mean() < 0.9 * distances[300:].mean()


@pytest.mark.parametrize("n_codes", [3, 16, 4096])
def test_few_different_vectors_are_held_exactly_and_no_codeword_twice(n_codes: int) -> None:
    different = cloud(3)[0]
    vectors = different[np.random.default_rng(0).integers(0, 3, 200)]
    codebook, codes = train_codebook(vectors, np.ones(200), n_codes)
    assert len(codebook) == 3
    np.testing.assert_allclose(codebook[codes], vectors, atol=1e-6)


def test_a_codebook_of_nothing_has_one_codeword() -> None:
    codebook, codes = train_codebook(np.zeros((0, 4), np.float32), np.zeros(0), 16)
    assert codebook.shape == (1, 4) and codes.shape == (0,)


def test_vectors_of_no_importance_move_no_codeword() -> None:
    vectors, importance = cloud(100)
    importance[50:] = 0
    vectors[50:] += 100
    codebook, codes = train_codebook(vectors, importance, 10)
    assert np.abs(codebook).max() < 10
    assert codes.shape == (100,)
    equal, _ = train_codebook(vectors, np.zeros(100), 10)
    assert np.abs(equal).max() > 50  # where nothing is important, all count the same


def test_a_codebook_depends_on_its_seed_and_not_on_the_unit_of_importance() -> None:
    vectors, importance = cloud(300)
    first, scaled, other = (
        train_codebook(vectors, w, 20, seed=s) for w, s in [(importance, 3), (8 * importance, 3), (importance, 4)]
    )
    for a, b in zip(first, scaled, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])


def test_idle_codewords_go_where_the_weighted_error_is_largest() -> None:
    vectors = np.arange(10, dtype=np.float32).reshape(5, 2)
    codebook = np.full((4, 2), -1, np.float32)
    errors = np.array([0.0, 5.0, 1.0, 9.0, 2.0])
    expire_codes(codebook, np.array([True, False, True, False]), vectors, errors)
    np.testing.assert_array_equal(codebook, [[-1, -1], vectors[3], [-1, -1], vectors[1]])
    expire_codes(codebook, np.array([False] * 4), vectors[:2], errors[:2])  # fewer vectors than idle codewords
    np.testing.assert_array_equal(codebook[:2], vectors[[1, 0]])


@given(n=st.integers(0, 40), seed=st.integers(0, 9))
def test_kd_order_is_an_order_that_splits_the_widest_channel_in_halves(n: int, seed: int) -> None:
    codebook = cloud(50, seed)[0]
    rows = np.random.default_rng(seed).permutation(50)[:n]

    def check(order: np.ndarray) -> None:
        if len(order) < 2:
            return
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        widest = np.ptp(codebook[order], axis=0).argmax()
        assert codebook[first, widest].max() <= codebook[second, widest].min()
        check(first)
        check(second)

    order = kd_order(codebook, rows)
    np.testing.assert_array_equal(np.sort(order), np.sort(rows))
    check(order)


# Quantiser


@given(
    mean=st.floats(-20, 20),
    deviation=st.floats(0.01, 10),
    steps=st.floats(1, 60),
    seed=st.integers(0, 99),
)
def test_a_quantiser_errs_by_half_a_step_inside_its_range_and_clips_outside(
    mean: float, deviation: float, steps: float, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(mean, deviation, 200).astype(np.float32)
    quantizer = Quantizer.around(values, steps)
    assert quantizer.scale == pytest.approx(values.std() / steps, rel=1e-5)
    lo, hi = quantizer.offset, quantizer.offset + (LEVELS - 1) * quantizer.scale
    assert lo < values.mean() < hi
    wide = torch.from_numpy(np.concatenate([values, [lo - 1, hi + 1]]).astype(np.float32))
    shown = quantizer(wide).numpy()
    slack = 1e-6 * (1 + np.abs(wide.numpy()) + abs(lo))
    clipped = np.clip(wide.numpy(), lo, hi)
    assert (np.abs(shown - clipped) <= quantizer.scale / 2 + slack).all()


def test_what_a_quantiser_shows_is_what_a_decoder_computes() -> None:
    values = np.random.default_rng(0).normal(3, 2, (500, 4)).astype(np.float32)
    quantizer = Quantizer.around(values, 15)
    packed = quantizer.pack(torch.from_numpy(values))
    assert packed.levels.dtype == np.uint8
    np.testing.assert_array_equal(packed.dequantize(), quantizer(torch.from_numpy(values)).numpy())
    again = quantizer(quantizer(torch.from_numpy(values)))
    np.testing.assert_array_equal(again.numpy(), packed.dequantize())


def test_a_quantiser_of_nothing_or_of_one_value_is_a_quantiser() -> None:
    assert Quantizer.around(np.zeros((0, 3), np.float32), 15) == Quantizer(1.0, 0.0)
    single = np.full(7, 2.5, np.float32)
    np.testing.assert_allclose(Quantizer.around(single, 15)(torch.from_numpy(single)).numpy(), single, atol=1e-6)


# Tuning


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
    floor = density_of_alpha(trained.alpha_threshold, trained.density_bias, trained.interval)
    np.testing.assert_allclose(field.density[pruned], floor - EMPTY_MARGIN, rtol=1e-6)
    assert not field.features[pruned].any()


def test_tuning_wins_back_quality(tuned: CompressedField, trained: RadianceField, scene: Scene) -> None:
    untuned = compress(trained, scene, replace(TINY_COMPRESS, steps=0))
    scores = [evaluate(expand(field), scene.test).psnr for field in (untuned, tuned)]
    assert scores[1] > scores[0] + 0.3, scores


def test_a_compressed_field_takes_a_small_part_of_the_grids_and_comes_back_whole(
    tuned: CompressedField, trained: RadianceField
) -> None:
    data = encode(tuned)
    assert decode(data) == tuned
    assert len(data) < trained.grid_bytes / 20


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


WEB = replace(TINY_COMPRESS, profile="web")


@pytest.fixture(scope="module")
def for_web(trained: RadianceField, scene: Scene) -> CompressedField:
    return compress(trained, scene, WEB)


def test_a_file_for_the_web_is_of_harmonics_on_a_finer_lattice_and_comes_back_whole(
    for_web: CompressedField, trained: RadianceField
) -> None:
    assert (for_web.shading, for_web.color_mlp, for_web.n_channels) == ("sh", (), 12)
    assert for_web.lattice.n_voxels > 1.5 * trained.lattice.n_voxels
    assert for_web.constants.step_world == pytest.approx(trained.step_world)
    assert decode(encode(for_web)) == for_web
    assert expand(for_web).shading == "sh"


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


def test_a_field_of_harmonics_is_fast_already(trained: RadianceField, importance: np.ndarray, scene: Scene) -> None:
    field = bake_harmonics(trained, [view.camera for view in scene.train], importance > 0)
    packed = [compress(field, scene, replace(config, steps=3)) for config in (TINY_COMPRESS, WEB)]
    assert_same_compressed(*packed)


@pytest.mark.parametrize("profile", ["exact", "web"])
def test_an_empty_field_compresses_to_an_empty_file(profile: Profile, trained: RadianceField, scene: Scene) -> None:
    empty = replace(trained, density=np.full_like(trained.density, -100))
    packed = compress(empty, scene, replace(TINY_COMPRESS, profile=profile, steps=2, bake_steps=2))
    assert (packed.partition == PRUNED).all()
    assert not render(expand(decode(encode(packed))), scene.test[0].camera).opacity.any()


def test_a_field_of_plain_colours_compresses_too(ball_field: RadianceField, ball_camera: Camera) -> None:
    image = np.rint(render(ball_field, ball_camera).rgb * 255).astype(np.uint8)
    view = View(ball_camera, image, "train/r_0")
    scene = Scene((view,), (view,), (1.0, 1.0, 1.0), 2.0, 4.0, "ball")
    packed = compress(ball_field, scene, replace(TINY_COMPRESS, n_codes=256, steps=4))
    assert packed.color_mlp == ()
    assert evaluate(expand(packed), scene.test).psnr > 30


@needs_native
@pytest.mark.parametrize("at", [[40], [33, 70]], ids=str)
def test_a_tuning_that_was_interrupted_ends_as_one_that_was_not(
    tuned: CompressedField, trained: RadianceField, scene: Scene, tmp_path: Path, at: list[int]
) -> None:
    path = tmp_path / "checkpoint"
    for step in at:
        with pytest.raises(Interrupted):
            checkpoint = Checkpoint(path, "x", seconds=0)
            compress(trained, scene, TINY_COMPRESS, report=Recorder(("tune", step)), checkpoints=Checkpoints(tune=checkpoint))
    recorder = Recorder()
    checkpoint = Checkpoint(path, "x", seconds=0)
    again = compress(trained, scene, TINY_COMPRESS, report=recorder, checkpoints=Checkpoints(tune=checkpoint))
    assert recorder.steps["tune"][0] == at[-1] // 32 * 32 + 1
    assert_same_compressed(again, tuned)
    assert path.exists()  # until the result is safe


@needs_native
@pytest.mark.parametrize("at", [[("bake", 40)], [("bake", 33), ("tune", 50)], [("tune", 7)]], ids=str)
def test_a_baking_that_was_interrupted_ends_as_one_that_was_not(
    for_web: CompressedField, trained: RadianceField, scene: Scene, tmp_path: Path, at: list[tuple[str, int]]
) -> None:
    def checkpoints() -> Checkpoints:
        return Checkpoints(**{stage: Checkpoint(tmp_path / stage, "x", seconds=0) for stage in ("bake", "tune")})

    for place in at:
        with pytest.raises(Interrupted):
            compress(trained, scene, WEB, report=Recorder(place), checkpoints=checkpoints())
    recorder, left = Recorder(), checkpoints()
    again = compress(trained, scene, WEB, report=recorder, checkpoints=left)
    assert_same_compressed(again, for_web)
    baked = recorder.steps.get("bake", [])
    assert baked == ([] if at[-1][0] == "tune" else list(range(at[-1][1] // 32 * 32 + 1, WEB.bake_steps + 1)))
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
        CompressConfig(**wrong)  # type: ignore[arg-type]


def test_the_paper_preset_has_the_dials_of_the_paper() -> None:
    paper = PRESETS["paper"]
    assert (paper.prune, paper.keep, paper.n_codes) == (0.999, 0.6, 4096)


def test_codewords_and_mlp_are_half_precision(tuned: CompressedField) -> None:
    for table in (tuned.codebook, *(a for layer in tuned.color_mlp for a in layer)):
        assert isinstance(table, np.ndarray) and table.dtype == np.float16
        assert np.isfinite(float_table(table)).all()
