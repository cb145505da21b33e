"""Presets: what each must say of itself, its dial, its trim, and what none of them takes."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY_COMPRESS, TINY_RATE, Recorder, emptied

from vqrf.codec.bitstream import encode
from vqrf.codec.compressed import KEPT, Quantized
from vqrf.compression.compact import CompactPreset
from vqrf.compression.goal import PresetName, Profile
from vqrf.compression.paper import PaperPreset, widen
from vqrf.compression.preset import OWN_QUALITY, Preset
from vqrf.compression.presets import PRESETS, compress
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField
from vqrf.training.bake import bake_harmonics

TINY_PRESETS = {
    "paper": replace(TINY_COMPRESS, steps=2, bake_steps=2),
    "compact": replace(TINY_RATE, steps=2, warm_steps=2, bake_steps=2),
}
each_way = pytest.mark.parametrize("way", TINY_PRESETS)


def test_the_command_line_knows_the_presets_by_their_names() -> None:
    assert list(get_args(PresetName)) == list(PRESETS)
    assert all(preset.name == name for name, preset in PRESETS.items())


def test_a_preset_that_is_none_is_refused(trained: RadianceField, scene: Scene) -> None:
    with pytest.raises(ValueError, match="preset: expected one of compact, paper, demo, planes, got best"):
        compress(trained, scene, "best")


# What no preset takes


@each_way
@pytest.mark.parametrize("profile", ["exact", "web"])
def test_a_field_of_nothing_is_refused_and_nothing_is_tuned(
    way: str, profile: Profile, trained: RadianceField, scene: Scene
) -> None:
    recorder = Recorder()
    with pytest.raises(ValueError, match="no photo sees anything of the field"):
        compress(emptied(trained), scene, TINY_PRESETS[way].for_profile(profile), report=recorder)
    assert recorder.steps == {}


@each_way
def test_a_field_that_no_camera_looks_at_is_refused(way: str, trained: RadianceField, scene: Scene) -> None:
    def turned(pose: np.ndarray) -> np.ndarray:
        return pose @ np.diag([1.0, -1.0, -1.0, 1.0])

    away = tuple(replace(view, camera=replace(view.camera, pose=turned(view.camera.pose))) for view in scene.train)
    with pytest.raises(ValueError, match="the cameras look elsewhere"):
        compress(trained, replace(scene, train=away), TINY_PRESETS[way])


# The profile web


@each_way
def test_a_field_without_a_network_is_not_baked(way: str, trained: RadianceField, importance: np.ndarray, scene: Scene) -> None:
    """Harmonics of Plenoxels, of a baked field, and plain colours: a browser shades all of them fast."""
    preset = TINY_PRESETS[way]
    harmonics = bake_harmonics(trained, [view.camera for view in scene.train], importance > 0)
    of_relu = replace(harmonics.equation, shading="sh_relu", activation="relu", density_bias=0.0)
    plenoxels = replace(harmonics, density=np.maximum(harmonics.density, 0), equation=of_relu)
    logits = np.ascontiguousarray(harmonics.features[..., ::4])
    plain = replace(harmonics, features=logits, equation=replace(harmonics.equation, shading="mlp"))
    for field in (harmonics, plenoxels, plain):
        recorder = Recorder()
        exact = compress(field, scene, preset)
        for_web = compress(field, scene, preset.for_profile("web", is_baked=False), report=recorder)
        assert "bake" not in recorder.steps
        assert encode(for_web) == encode(exact)


def test_only_what_is_baked_is_tuned_for_fewer_steps() -> None:
    baked, fast = (CompactPreset().for_profile("web", is_baked=is_baked).stages() for is_baked in (True, False))
    assert fast == {"bake": 4000, "warm": 5000, "tune": 4500}
    assert baked == {"bake": 4000, "warm": 2500, "tune": 2250}


# The dial


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_the_dial_goes_through_the_preset_s_own_settings_and_leaves_its_tuning(preset: Preset[Any]) -> None:
    assert preset.at_quality(OWN_QUALITY) == preset
    for quality in (0.0, 59.999, 60.001, 100.0):
        turned = preset.at_quality(quality)
        assert (turned.stages(), turned.rates, turned.rays_per_step) == (preset.stages(), preset.rates, preset.rays_per_step)
        assert turned.depends_on("bake") == preset.depends_on("bake")
        near = {name: value for name, value in asdict(turned).items() if isinstance(value, float)}
        if abs(quality - OWN_QUALITY) < 1:
            assert near == pytest.approx({name: asdict(preset)[name] for name in near}, rel=1e-3)


@settings(deadline=None)
@given(st.floats(0, 100), st.floats(0, 100), st.floats(1e-12, 1e-6))
def test_more_quality_is_a_cheaper_bit_and_no_coarser_step_and_one_warm_stage(a: float, b: float, price: float) -> None:
    base = CompactPreset(bit_price=price)
    low, high = base.at_quality(min(a, b)), base.at_quality(max(a, b))
    assert low.bit_price >= high.bit_price
    assert low.rounding.fineness >= high.rounding.fineness
    assert low.depends_on("warm") == high.depends_on("warm")


@settings(deadline=None)
@given(st.floats(0, 100), st.floats(0, 100), st.sampled_from([PaperPreset(), TINY_COMPRESS, PaperPreset(keep=0.999)]))
def test_more_quality_is_never_less_of_anything_of_the_paper_s(a: float, b: float, base: PaperPreset) -> None:
    low, high = base.at_quality(min(a, b)), base.at_quality(max(a, b))
    for name in ("prune", "keep", "n_codes", "density_steps", "kept_steps"):
        assert getattr(low, name) <= getattr(high, name)
    assert low.steps == base.steps


def test_a_quality_outside_the_dial_is_refused() -> None:
    with pytest.raises(ValueError, match=r"quality: expected 0\.\.100, got 101"):
        PaperPreset().at_quality(101)


@settings(deadline=None)
@given(st.floats(0, 1), st.integers(0, 2**32 - 1), st.sampled_from([np.uint8, np.uint16]))
def test_coarser_levels_are_off_by_half_a_step_at_most(share: float, seed: int, kind: type) -> None:
    rng = np.random.default_rng(seed)
    scale, offset = rng.uniform(0.01, 1, 3).astype(np.float32), rng.normal(0, 9, 3).astype(np.float32)
    table = Quantized(rng.integers(0, np.iinfo(kind).max, (40, 3), endpoint=True).astype(kind), scale, offset)
    wide = widen(table, np.float32(2 ** (1 - share)))
    slack = 1e-5 * np.abs(table.dequantize()).max() + 1e-6
    assert (np.abs(wide.dequantize() - table.dequantize()) <= wide.scale / 2 + slack).all()
    assert len(np.unique(wide.levels)) <= len(np.unique(table.levels))


def test_a_trim_makes_the_file_smaller_and_no_voxel_different(trained: RadianceField, scene: Scene) -> None:
    small = compress(trained, scene, replace(TINY_COMPRESS, steps=2))
    assert (small.partition == KEPT).any()
    sizes = [len(encode(PaperPreset().trim(small, share))) for share in (1, 0.6, 0.3, 0)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0]
    assert PaperPreset().trim(small, 1) == small
    np.testing.assert_array_equal(PaperPreset().trim(small, 0).codes, small.codes)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_what_a_file_says_of_its_settings_is_never_longer_than_was_reckoned(
    preset: Preset[Any], trained: RadianceField
) -> None:
    for quality in map(float, range(0, 101, 3)):
        dials = preset.at_quality(quality).dials(trained)
        assert dials.keys() == preset.WIDEST_DIALS.keys()
        for name, value in dials.items():
            assert len(repr(value)) <= len(repr(preset.WIDEST_DIALS[name])) and math.isfinite(value)
