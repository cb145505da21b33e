"""Photos of different exposure: the field comes out as if they had none, and an interruption leaves no trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY, Interrupted, Recorder, assert_same_field

from vqrf.data import exposure
from vqrf.data.builtin import built_in_scene
from vqrf.data.images import bytes_from_colors
from vqrf.data.scene import Scene, View
from vqrf.fields.field import RadianceField
from vqrf.kernels import has_native
from vqrf.rendering.evaluate import evaluate
from vqrf.training import loop
from vqrf.training.checkpoint import Checkpoint
from vqrf.training.stages import PRESETS
from vqrf.training.train import fit, fit_model

LEARNING = replace(TINY, learns_exposure=True)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conclusions often, and from the first; checkpoints as often as may be."""
    monkeypatch.setattr(loop, "FOLLOW_STEPS", 8)
    monkeypatch.setattr(exposure, "EXPLAINED", -np.inf)
    monkeypatch.setitem(Checkpoint.__init__.__kwdefaults__, "seconds", 0.0)


@pytest.mark.skipif(not has_native(), reason="needs the compiled core")
@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("at", [("coarse", 40), ("fine", 10), ("fine", 70)], ids=str)
def test_exposures_go_on_where_a_run_was_interrupted(scene: Scene, tmp_path: Path, at: tuple[str, int]) -> None:
    whole = fit_model(scene, LEARNING)
    with pytest.raises(Interrupted):
        fit(scene, LEARNING, report=Recorder(at), run=tmp_path)
    resumed = fit_model(scene, LEARNING, run=tmp_path)
    assert_same_field(resumed.field(), whole.field())
    assert resumed.exposures == whole.exposures
    maps = np.array([*whole.exposures.values()]).reshape(-1, 3, 4)
    assert np.abs(maps - exposure.AS_IT_IS).max() > 1e-3
    np.testing.assert_allclose(maps.mean(0), exposure.AS_IT_IS, atol=1e-6)


def test_a_field_has_exposures_only_where_they_are_asked_for(scene: Scene) -> None:
    assert fit_model(scene, TINY).exposures is None


def with_gains(view: View, gain: np.ndarray) -> View:
    behind = (view.image >= 253).all(-1, keepdims=True)
    return replace(view, image=np.where(behind, view.image, bytes_from_colors((view.colors() * gain).astype(np.float32))))


@pytest.mark.slow
def test_photos_of_different_exposure_make_the_field_of_photos_that_have_none() -> None:
    """Held-out photos that are as they are tell: what the exposures cost is halved at least."""
    scene = built_in_scene(n_train=30, n_test=3, side=100)
    random = np.random.default_rng(0)
    gains = random.uniform(0.7, 1.3, (30, 1)) * random.uniform(0.93, 1.07, (30, 3))
    gains /= gains.mean(0)
    photos = replace(scene, train=tuple(map(with_gains, scene.train, gains)))
    demo = PRESETS["demo"]
    coarse = replace(demo.coarse, steps=400, n_voxels=48**3, rays_per_step=1024)
    fine = replace(demo.fine, steps=500, n_voxels=64**3, grow_at=(50, 100, 150), rays_per_step=1024)
    config = replace(demo, coarse=coarse, fine=fine)

    def score(of: Scene, *, learns: bool) -> float:
        field: RadianceField = fit(of, replace(config, learns_exposure=learns))
        return evaluate(field, scene.test).psnr

    without, learnt, undisturbed = score(photos, learns=False), score(photos, learns=True), score(scene, learns=False)
    assert undisturbed - learnt < (undisturbed - without) / 2, (without, learnt, undisturbed)
