"""On a GPU everything that learns ends where it ends on the CPU, within what the order of sums does to a short training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_plenoxels import TINY_PLENOXELS
from test_tensorf import tiny
from tiny import TINY, TINY_COMPRESS, TINY_RATE, Interrupted, Recorder

from vqrf.codec.bitstream import decode, encode
from vqrf.compression.presets import compress
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField, expand
from vqrf.rendering.evaluate import evaluate
from vqrf.training.checkpoint import Checkpoint
from vqrf.training.stages import TrainConfig
from vqrf.training.train import fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

TOLERANCE = 0.5
"""dB. Sums of another order move a short training by a few tenths."""

CONFIGS = {"dvgo": TINY, "plenoxels": TINY_PLENOXELS, "tensorf": tiny("vm"), "tensorf-cp": tiny("cp")}


def psnr(field: RadianceField, scene: Scene) -> float:
    return evaluate(field, scene.test).psnr


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_field_is_trained_as_well(scene: Scene, config: TrainConfig) -> None:
    there, here = (psnr(fit(scene, config, device=device), scene) for device in ("cuda", "cpu"))
    assert there == pytest.approx(here, abs=TOLERANCE)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_training_that_was_interrupted_goes_on(
    scene: Scene, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Checkpoint.__init__.__kwdefaults__, "seconds", 0.0)
    whole = fit(scene, config, device="cuda")
    with pytest.raises(Interrupted):
        fit(scene, config, device="cuda", run=tmp_path, report=Recorder(("fine", 70)))
    last = Recorder(None)
    assert psnr(fit(scene, config, device="cuda", run=tmp_path, report=last), scene) == pytest.approx(
        psnr(whole, scene), abs=TOLERANCE
    )
    assert last.steps["fine"][0] == 65


@pytest.mark.parametrize("profile", ["exact", "web"])
def test_a_pyramid_is_tuned_as_well(trained: RadianceField, scene: Scene, profile: str) -> None:
    config = replace(TINY_RATE, profile=profile, bake_steps=64)
    there, here = (compress(trained, scene, config, device=device) for device in ("cuda", "cpu"))
    assert psnr(expand(decode(encode(there))), scene) == pytest.approx(psnr(expand(here), scene), abs=TOLERANCE)
    assert len(encode(there)) == pytest.approx(len(encode(here)), rel=0.1)


def test_a_codebook_is_tuned_as_well(trained: RadianceField, scene: Scene) -> None:
    there, here = (compress(trained, scene, TINY_COMPRESS, device=device) for device in ("cuda", "cpu"))
    assert psnr(expand(decode(encode(there))), scene) == pytest.approx(psnr(expand(here), scene), abs=TOLERANCE)
    np.testing.assert_array_equal(there.partition, here.partition)
