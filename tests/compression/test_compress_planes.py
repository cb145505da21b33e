"""The preset `planes`: what is tuned is what a file decodes to, balancing changes no product, and what cannot be is refused."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY, TINY_PLANES, tiny_scene

from vqrf.bench.jobs import Case, Conditions
from vqrf.codec import planes as coded
from vqrf.codec.bitstream import decode, encode
from vqrf.codec.compressed import PRUNED
from vqrf.codec.container import sections
from vqrf.codec.planes import PlanesField
from vqrf.compression import planes
from vqrf.compression.planes import balanced, thin
from vqrf.compression.presets import compress
from vqrf.compression.priced import Rounding
from vqrf.compression.tuning import Checkpoints
from vqrf.data.scene import Scene, save_scene
from vqrf.fields.cells import closed
from vqrf.fields.factors import Factors
from vqrf.fields.field import RadianceField, expand
from vqrf.rendering.evaluate import evaluate
from vqrf.training.checkpoint import Checkpoint
from vqrf.training.run import save_run
from vqrf.training.stages import Components, LearningRates
from vqrf.training.train import fit_model


@functools.cache
def trained_on() -> tuple[Scene, RadianceField]:
    scene = tiny_scene()
    fine = replace(TINY.fine, components=Components(3, 6), rates=LearningRates(features=0.1, mlp=5e-3))
    model = fit_model(scene, replace(TINY, fine=fine))
    factors = model.grid.factors()
    assert isinstance(factors, Factors)
    return scene, replace(model.field(), factors=factors)


@functools.cache
def compressed() -> PlanesField:
    scene, field = trained_on()
    small = compress(field, scene, TINY_PLANES)
    assert isinstance(small, PlanesField)
    return small


def test_a_file_of_planes_comes_back_to_the_bit_and_looks_like_the_field() -> None:
    (scene, field), small = trained_on(), compressed()
    assert decode(encode(small)) == small
    before, after = (evaluate(one, scene.test, with_ssim=False).psnr for one in (field, expand(small)))
    assert after > before - 1


def test_the_same_call_gives_the_same_bytes_and_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    scene, field = trained_on()
    kept = Checkpoints(tune=Checkpoint(tmp_path / "tune", "x"), warm=Checkpoint(tmp_path / "warm", "x"))

    class Stopped(Exception):
        pass

    def stop(stage: str, progress: object) -> None:
        if stage == "tune":
            raise Stopped

    with pytest.raises(Stopped):
        compress(field, scene, TINY_PLANES, checkpoints=kept, report=stop)
    assert encode(compress(field, scene, TINY_PLANES, checkpoints=kept)) == encode(compressed())


def test_a_dearer_bit_makes_a_smaller_file() -> None:
    scene, field = trained_on()
    dear = compress(field, scene, replace(TINY_PLANES, bit_price=2e-6, warm_price=2e-6))
    assert len(encode(dear)) < len(encode(compressed()))


def test_narrow_gaps_are_occupied_and_take_no_bytes_of_the_list_of_occupied_voxels() -> None:
    scene, field = trained_on()
    bare = compress(field, scene, replace(TINY_PLANES, filled=0))
    filled = compressed()
    assert not ((bare.partition != PRUNED) & (filled.partition == PRUNED)).any()
    assert np.array_equal(filled.partition != PRUNED, closed(bare.partition != PRUNED, planes.FILLED))
    bytes_of = [{name: size for name, _, size in sections(encode(small))}["PART"] for small in (filled, bare)]
    assert bytes_of[0] < bytes_of[1]
    with pytest.raises(ValueError, match="filled: expected 0 or more"):
        replace(TINY_PLANES, filled=-1)


def test_thinning_takes_ones_away_and_nothing_else() -> None:
    small = compressed()
    assert thin(small, 1.0) == small
    for before, after in zip(small.planes, thin(small, 0.0).planes, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(before[:-1], after[:-1], strict=True))
        np.testing.assert_array_equal(after[-1], np.where(np.abs(before[-1]) == 1, 0, before[-1]))
    assert len(encode(thin(small, 0.5))) < len(encode(small))


def test_balancing_changes_no_density_and_no_feature() -> None:
    draw = np.random.default_rng(0)
    plane, line, mix = (draw.standard_normal(shape).astype(np.float32) for shape in ((40, 7), (9, 7), (4, 3)))
    found = [array.numpy() for array in balanced((plane, line, mix), torch.eye(3, dtype=torch.float64), Rounding())]

    def products(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        both = parts[0][:, None] * parts[1]
        return both[..., :3].sum(-1), both[..., 3:] @ parts[2]

    for one, other in zip(products([plane, line, mix]), products(found), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    np.testing.assert_allclose(np.square(found[1]).mean(0), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found[2], axis=1), Rounding().feature_step, rtol=1e-5)


def test_a_field_without_planes_and_a_profile_that_bakes_are_refused() -> None:
    scene, field = trained_on()
    with pytest.raises(ValueError, match="the field has no planes and lines"):
        compress(replace(field, factors=None), scene, TINY_PLANES)
    with pytest.raises(ValueError, match="planes and lines keep the field's own colours"):
        TINY_PLANES.for_profile("web")
    with pytest.raises(ValueError, match="the field has no planes and lines"):
        compress(field, scene, replace(TINY_PLANES, profile="web", bake_steps=1))


def test_factors_of_another_lattice_are_refused() -> None:
    _, field = trained_on()
    assert field.factors is not None
    wrong = Factors(field.factors.planes, field.factors.lines, field.factors.mix[..., :1])
    with pytest.raises(ValueError, match="factors: expected those of"):
        replace(field, factors=wrong)


def test_a_bench_takes_the_planes_that_lie_in_a_run(tmp_path: Path) -> None:
    scene, field = trained_on()
    (tmp_path / "run").mkdir()
    save_run(tmp_path / "run", scene, field, field.factors, {"scene": scene.name, "downscale": 1, "background": "white"})
    save_scene(scene, tmp_path / "data")
    case = Case.read(tmp_path / "run", tmp_path / "data", Conditions(tmp_path / "work"))
    (tmp_path / "work").mkdir()
    small = case.compress(replace(TINY_PLANES, warm_steps=1, steps=1))
    assert isinstance(small, PlanesField) and decode(case.encode(small)).metadata == case.metadata


def test_what_no_program_would_draw_is_refused_before_it_is_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, field = trained_on()
    monkeypatch.setattr(planes.PlanesPreset, "run", lambda *_: pytest.fail("is tuned"))
    with monkeypatch.context() as patch:
        patch.setattr(coded, "MAX_PRODUCTS", 1000)
        with pytest.raises(ValueError, match="more than can be summed up in time: use another preset"):
            compress(field, scene, TINY_PLANES)
    monkeypatch.setattr(planes, "MAX_COMPONENTS", 5)
    with pytest.raises(ValueError, match="more than 5 components"):
        compress(field, scene, TINY_PLANES)
