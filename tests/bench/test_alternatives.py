"""Other ways to make a field small do what their papers say, and are measured against ours at the bytes of their files."""

# ruff: noqa: F811 (fixtures of test_cli are parameters here)

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_cli import data, refuses, run, succeeds  # noqa: F401 (fixtures)
from tiny import TINY, TINY_COMPRESS, TINY_RATE, assert_same_compressed

from vqrf.bench import alternatives, jobs
from vqrf.bench.alternatives import Derivatives, PruneConfig, decode_factors, encode_factors, measure_derivatives, prune_round
from vqrf.bench.curves import ContestRow
from vqrf.bench.runners import load_rows
from vqrf.cli import bench as cli_bench
from vqrf.codec.bitstream import decode, encode
from vqrf.codec.compressed import KEPT, PRUNED, CompressedField
from vqrf.compression.presets import PRESETS as COMPRESS_PRESETS
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene
from vqrf.fields.cells import active_voxels
from vqrf.fields.factors import LineFactors, truncate_lines
from vqrf.fields.factors import expand as expand_factors
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.run import FACTORS_FILE
from vqrf.fields.storage import StorageError
from vqrf.interop import TensorfField, tensorf_of
from vqrf.rendering.evaluate import evaluate
from vqrf.training.stages import PRESETS as TRAIN_PRESETS
from vqrf.training.stages import Components
from vqrf.training.train import fit_model


@pytest.fixture(scope="module", autouse=True)
def tiny_presets() -> Iterator[None]:
    """In this module the presets take a second, and there are two rounds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TRAIN_PRESETS, "demo", TINY)
        fine = replace(TINY.fine, components=Components(4, 8), rates=replace(TINY.fine.rates, features=0.05))
        patch.setitem(TRAIN_PRESETS, "tensorf-demo", replace(TINY, fine=fine))
        patch.setitem(COMPRESS_PRESETS, "compact", TINY_RATE)
        patch.setattr(alternatives, "ROUNDS", 2)
        patch.setattr(alternatives, "PruneConfig", lambda: TINY_PRUNE)
        yield


TINY_PRUNE = PruneConfig(n_batches=4, tuning=replace(TINY_COMPRESS, steps=40))


def neighbours(mask: np.ndarray) -> np.ndarray:
    """Voxels of a mask and the 26 around each, one by one."""
    grown = np.zeros_like(mask)
    for x, y, z in np.argwhere(mask):
        grown[max(x - 1, 0) : x + 2, max(y - 1, 0) : y + 2, max(z - 1, 0) : z + 2] = True
    return grown


# Remove, re-include


@pytest.fixture(scope="module")
def first(trained: RadianceField, scene: Scene) -> CompressedField:
    return prune_round(trained, scene, None, TINY_PRUNE)


def test_an_effect_is_what_the_loss_changes_by_to_first_order(ball_field: RadianceField) -> None:
    """Where density d becomes `empty` and features f become 0: |d - empty| * |dL/dd| + sum_c |f_c| * |dL/df_c|."""
    rng = np.random.default_rng(0)
    slopes = Derivatives(rng.random(ball_field.density.shape, np.float32), rng.random(ball_field.features.shape, np.float32))
    effects = slopes.effects(ball_field, -3.0)
    x, y, z = 3, 7, 11
    expected = abs(float(ball_field.density[x, y, z]) + 3) * slopes.density[x, y, z]
    expected += sum(abs(ball_field.features[x, y, z, c]) * slopes.features[x, y, z, c] for c in range(3))
    assert effects[x, y, z] == pytest.approx(expected, rel=1e-5)


def test_derivatives_are_of_what_rays_meet_and_of_nothing_else(trained: RadianceField, scene: Scene) -> None:
    slopes = measure_derivatives(trained, RayPool(scene.train), TINY_PRUNE)
    seen = (slopes.density > 0) | (slopes.features > 0).any(-1)
    assert 0.01 < seen.mean() < 0.9
    assert (seen <= active_voxels(trained)).all()
    again = measure_derivatives(trained, RayPool(scene.train), TINY_PRUNE)
    np.testing.assert_array_equal(again.features, slopes.features)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_those_are_removed_that_matter_least(share: float) -> None:
    rng = np.random.default_rng(1)
    effects = rng.random((6, 5, 4), np.float32) * (rng.random((6, 5, 4)) < 0.7)
    present = rng.random((6, 5, 4)) < 0.8
    kept = alternatives.remove(effects, present, share)
    effective = present & (effects > 0)
    assert (kept <= effective).all()
    assert kept.sum() == round((1 - share) * effective.sum())
    assert effects[kept].min() >= effects[effective & ~kept].max()


def test_one_voxel_stays_and_none_where_nothing_matters() -> None:
    effects = np.zeros((3, 3, 3), np.float32)
    everywhere = np.ones((3, 3, 3), bool)
    assert not alternatives.remove(effects, everywhere, 0.9).any()
    effects[1, 1, 1] = 1
    assert np.argwhere(alternatives.remove(effects, everywhere, 0.9)).tolist() == [[1, 1, 1]]


def test_only_wanted_neighbours_of_what_is_kept_come_back() -> None:
    kept = np.zeros((9, 5, 5), bool)
    kept[2, 2, 2] = True
    slopes = np.zeros(kept.shape, np.float32)
    slopes[2, 2, 2] = 1
    slopes[3, 3, 3] = 2  # beside it
    slopes[4, 3, 3] = 2  # beside one that comes back
    slopes[1, 2, 2] = 0.5  # beside it, and not wanted
    slopes[7, 2, 2] = 9  # wanted, and beside nothing
    slopes[2, 3, 2] = 9  # wanted, and no candidate
    candidates = np.ones(kept.shape, bool)
    candidates[2, 3, 2] = False
    for of_features in (False, True):
        nothing = np.zeros_like(slopes)
        density, features = (nothing, slopes) if of_features else (slopes, nothing)
        grown = alternatives.reinclude(kept, candidates, Derivatives(density, features[..., None]))
        assert np.argwhere(grown).tolist() == [[2, 2, 2], [3, 3, 3], [4, 3, 3]]


def test_nothing_is_beside_nothing() -> None:
    nothing = np.zeros((3, 3, 3), bool)
    slopes = Derivatives(np.ones((3, 3, 3), np.float32), np.ones((3, 3, 3, 2), np.float32))
    assert not alternatives.reinclude(nothing, ~nothing, slopes).any()


def test_a_round_halves_the_voxels_and_takes_neighbours_back(
    trained: RadianceField,
    scene: Scene,
    first: CompressedField,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    removed: list[np.ndarray] = []
    remove = alternatives.remove

    def spied(*arguments: object) -> np.ndarray:
        removed.append(remove(*arguments))  # type: ignore[arg-type]
        return removed[-1]

    monkeypatch.setattr(alternatives, "remove", spied)
    second = prune_round(trained, scene, first, TINY_PRUNE)
    here, before = second.partition == KEPT, first.partition == KEPT
    (kept,) = removed
    assert (kept <= before).all() and kept.sum() <= before.sum() / 2 + 1
    assert (kept <= here).all()
    back = here & ~kept
    assert back.any() and (back <= active_voxels(trained)).all()
    grown = kept
    while (wider := neighbours(grown) & here).sum() > grown.sum():
        grown = wider
    np.testing.assert_array_equal(grown, here)  # every one hangs on what was kept


def test_what_is_left_of_a_round_is_kept_and_fits_the_container(first: CompressedField) -> None:
    assert set(np.unique(first.partition)) == {PRUNED, KEPT}
    assert_same_compressed(decode(encode(first)), first)  # type: ignore[arg-type]


def test_a_round_costs_little_and_a_removed_half_without_tuning_more(
    trained: RadianceField,
    scene: Scene,
    first: CompressedField,
) -> None:
    before, after = evaluate(trained, scene.test).psnr, evaluate(expand(first), scene.test).psnr
    untuned = prune_round(trained, scene, None, replace(TINY_PRUNE, tuning=replace(TINY_COMPRESS, steps=0)))
    assert after > before - 1.5
    assert after > evaluate(expand(untuned), scene.test).psnr


def test_settings_that_cannot_be_are_refused() -> None:
    for change in ({"share": 0.0}, {"share": 1.0}, {"n_batches": 0}):
        with pytest.raises(ValueError, match=next(iter(change))):
            PruneConfig(**change)  # type: ignore[arg-type]


# Fewer components


@pytest.fixture(scope="module", params=["vm", "cp"])
def tensorf(request: pytest.FixtureRequest, scene: Scene) -> tuple[TensorfField, RadianceField]:
    components = Components(4, 8) if request.param == "vm" else Components(8, 16, "cp")
    fine = replace(TINY.fine, components=components, rates=replace(TINY.fine.rates, features=0.05))
    model = fit_model(scene, replace(TINY, fine=fine))
    field, factors = model.field(), model.grid.factors()
    assert factors is not None
    return tensorf_of(field, factors, scene.far), field


def test_all_components_are_the_field_but_for_rounding(tensorf: tuple[TensorfField, RadianceField], scene: Scene) -> None:
    made, field = tensorf
    n_density, n_features = made.factors.n_density, made.factors.n_features
    whole = alternatives.truncated(made.factors, n_density, n_features)
    coded = encode_factors(replace(made, factors=whole), field.allowed)
    read = decode_factors(coded, Path("whole.xz"))
    np.testing.assert_array_equal(read.allowed, field.allowed)
    assert read.equation.density_bias == field.equation.density_bias
    assert read.equation.step_world == pytest.approx(field.equation.step_world)
    before, after = (evaluate(one, scene.test).psnr for one in (field, read.with_background(scene.background)))
    assert after == pytest.approx(before, abs=0.15)
    assert len(coded) < made.factors.n_values + 20000


def test_with_fewer_components_there_are_fewer_bytes(tensorf: tuple[TensorfField, RadianceField]) -> None:
    made, field = tensorf
    sizes = []
    for share in alternatives.SHARES:
        n_density, n_features = alternatives.components_at(made.factors, share)
        small = alternatives.truncated(made.factors, n_density, n_features)
        assert (small.n_density, small.n_features) == (n_density, n_features)
        sizes.append(len(encode_factors(replace(made, factors=small), field.allowed)))
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.7 * sizes[0]


def test_quantized_components_reach_all_values_and_are_half_a_step_off_at_most() -> None:
    values = np.random.default_rng(2).normal(size=(7, 9, 3)).astype(np.float32) * np.array([1, 100, 0], np.float32)
    values[0, 0, 0] = 50  # far out
    table = alternatives.quantize_components(values)
    assert (np.abs(table.dequantize() - values) <= 0.501 * table.scale + 1e-5).all()


def test_of_lines_those_stay_that_say_most() -> None:
    lines = LineFactors(
        tuple(np.random.default_rng(i).normal(size=(5, 6)).astype(np.float32) for i in range(3)),  # type: ignore[arg-type]
        np.ones((4, 7), np.float32),
    )
    for faint in (0, 3, 5):
        lines.lines[1][:, faint] *= 1e-5
    short = truncate_lines(lines, 1, 2)
    assert (short.n_density, short.n_features) == (1, 2)
    for ours, theirs in zip(short.lines, lines.lines, strict=True):
        np.testing.assert_array_equal(ours, theirs[:, [1, 2, 4]])
    for ours, theirs in zip(*(expand_factors(one.with_planes()) for one in (short, lines)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-2)
    with pytest.raises(ValueError, match=r"expected 1\.\.2 and 1\.\.4"):
        truncate_lines(lines, 3, 1)


def test_a_damaged_file_of_factors_is_refused(tensorf: tuple[TensorfField, RadianceField]) -> None:
    made, _ = tensorf
    coded = encode_factors(made, None)
    changed = bytearray(lzma.decompress(coded))
    changed[-1] ^= 1
    for damaged in (lzma.compress(changed), coded[:-9], b"none"):
        with pytest.raises(StorageError, match=r"mine\.xz: is damaged"):
            decode_factors(damaged, Path("mine.xz"))


# The verb


class Killed(BaseException):
    """What ends a run before its time."""


def contest(*arguments: object) -> list[ContestRow]:
    return [ContestRow(**row) for row in json.loads(succeeds(*arguments, "--json").out)["rows"]]


def test_pruning_is_measured_against_ours_and_a_run_that_was_killed_goes_on(
    run: Path, data: Path, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    flags = ("bench", "alternatives", "--runs", run, "--data", data, "--out", out, "--steps", 16)
    made: list[CompressedField | None] = []

    def spied(field: RadianceField, scene: Scene, before: CompressedField | None, *rest: object, **more: object) -> object:
        made.append(before)
        return prune_round(field, scene, before, *rest, **more)  # type: ignore[arg-type]

    def killed(*arguments: object) -> None:
        raise Killed

    monkeypatch.setattr(alternatives, "prune_round", spied)
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "search_ours", killed)
        with pytest.raises(Killed):
            succeeds(*flags)
    assert len(made) == 1 and not (out / cli_bench.CONTESTS_FILE).exists()
    printed = succeeds(*flags).out
    assert len(made) == 2 and made[1] is not None  # the first round was there
    assert "prune 1:" in printed and "prune 2:" in printed
    rows = contest(*flags)
    assert len(made) == 2 and rows == load_rows(out / cli_bench.CONTESTS_FILE, ContestRow)
    assert [(row.method, row.point, row.preset) for row in rows] == [("prune", "1", "compact"), ("prune", "2", "compact")]
    assert rows[0].n_bytes > rows[1].n_bytes
    for row in rows:
        (file,) = out.glob(f"*-prune-{row.point}-*.vqrf")
        assert file.stat().st_size == row.n_bytes
        read = expand(decode(file.read_bytes())).with_background(scene.background)
        assert row.psnr == pytest.approx(evaluate(read, scene.test).psnr, abs=1e-3)
        assert row.difference == pytest.approx(row.ours_psnr - row.psnr, abs=1e-3)
        assert row.ours_n_bytes > 0 and row.ours_psnr > 10


def test_truncation_is_measured_of_a_run_that_holds_factors(data: Path, tmp_path: Path) -> None:
    tensorf_run, out = tmp_path / "run", tmp_path / "out"
    succeeds("train", data, "--out", tensorf_run, "--base", "tensorf", "--preset", "demo")
    assert (tensorf_run / FACTORS_FILE).exists()
    flags = ("bench", "alternatives", "--runs", tensorf_run, "--data", data, "--out", out, "--steps", 16)
    rows = contest(*flags)
    assert [(row.method, row.point) for row in rows] == [("truncate", point) for point in ("4+8", "2+4", "1+2", "1+1")]
    assert rows[0].psnr == pytest.approx(rows[0].field_psnr, abs=0.2)
    assert [row.n_bytes for row in rows] == sorted((row.n_bytes for row in rows), reverse=True)
    for row in rows:
        (file,) = out.glob(f"*-truncate-{row.point}-*.xz")
        assert file.stat().st_size == row.n_bytes
    (tensorf_run / FACTORS_FILE).write_bytes(b"none")
    refuses(*flags, saying=(tensorf_run / FACTORS_FILE,))
    (tensorf_run / FACTORS_FILE).unlink()  # and without factors its voxels are pruned
    assert {row.method for row in contest(*flags)} == {"prune"}


def test_where_none_of_ours_is_so_small_the_smallest_is_compared(run: Path, data: Path, tmp_path: Path) -> None:
    flags = ("bench", "alternatives", "--runs", run, "--data", data, "--out", tmp_path, "--steps", 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alternatives, "ROUNDS", 1)
        patch.setattr(alternatives, "PruneConfig", lambda: replace(TINY_PRUNE, share=0.999))
        (row,) = contest(*flags)
    assert row.ours_n_bytes > row.n_bytes


def test_bench_alternatives_refuses_what_cannot_be(run: Path, data: Path, tmp_path: Path) -> None:
    flags = ("bench", "alternatives", "--data", data, "--out", tmp_path / "out", "--quiet", "--runs")
    refuses(*flags, run, run, saying=("come twice",))
    refuses(*flags, run, "--presets", "compact", "compact", saying=("come twice",))
    refuses(*flags, run, "--steps", -8, saying=("steps",))
    refuses(*flags, tmp_path, saying=(tmp_path, "run folder"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / cli_bench.CONTESTS_FILE).write_text("mine\n")
    refuses(*flags, run, saying=(cli_bench.CONTESTS_FILE, "line 1"))
