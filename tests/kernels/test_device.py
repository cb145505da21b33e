"""On a GPU everything that learns ends where it ends on the CPU, within what the order of sums does to a short training.

The kernels for a GPU also run on the CPU, and the same is asked of them there.
"""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_plenoxels import TINY_PLENOXELS
from test_tensorf import tiny
from tiny import TINY, TINY_COMPRESS, TINY_RATE, Interrupted, Recorder, assert_same_field

from vqrf.codec.bitstream import decode, encode
from vqrf.compression.presets import compress
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField, expand
from vqrf.rendering.evaluate import evaluate
from vqrf.training.checkpoint import Checkpoint, say_that_bits_differ
from vqrf.training.stages import TrainConfig
from vqrf.training.train import fit

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
NO_WARP = pytest.mark.skipif(importlib.util.find_spec("warp") is None, reason="warp-lang is not installed")

There = Callable[[Callable[[str], Any]], Any]
"""Runs a function of a device there."""


@pytest.fixture(
    params=[
        pytest.param("cuda", marks=NO_GPU),
        pytest.param("cpu", marks=[NO_WARP, pytest.mark.slow], id="its kernels on the CPU"),
    ]
)
def there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> There:
    def run(function: Callable[[str], Any]) -> Any:
        with monkeypatch.context() as patch:
            patch.setenv("VQRF_WARP", "1")
            return function(request.param)

    return run


TOLERANCE = 0.5
"""dB. Sums of another order move a short training by a few tenths."""

CONFIGS = {"dvgo": TINY, "plenoxels": TINY_PLENOXELS, "tensorf": tiny("vm"), "tensorf-cp": tiny("cp")}


def psnr(field: RadianceField, scene: Scene) -> float:
    return evaluate(field, scene.test).psnr


@pytest.fixture(scope="module")
def psnr_of(scene: Scene) -> Callable[[TrainConfig, There | None], float]:
    """PSNR of a whole training there, or by the usual kernels; each is done once."""
    known: dict[Any, float] = {}

    def psnr_of(config: TrainConfig, there: There | None = None) -> float:
        run = there or (lambda function: function("cpu"))
        key = config, there and run(str)
        if key not in known:
            known[key] = psnr(run(lambda device: fit(scene, config, device=device)), scene)
        return known[key]

    return psnr_of


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_field_is_trained_as_well(there: There, psnr_of: Callable[..., float], config: TrainConfig) -> None:
    assert psnr_of(config, there) == pytest.approx(psnr_of(config), abs=TOLERANCE)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_with_sums_in_a_fixed_order_two_trainings_are_the_same_to_the_bit(
    there: There, scene: Scene, psnr_of: Callable[..., float], config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        one, other = (there(lambda device: fit(scene, config, device=device)) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same_field(one, other)
    assert psnr(one, scene) == pytest.approx(psnr_of(config), abs=TOLERANCE)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_training_that_was_interrupted_goes_on(
    there: There,
    scene: Scene,
    psnr_of: Callable[..., float],
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(Checkpoint.__init__.__kwdefaults__, "seconds", 0.0)
    with pytest.raises(Interrupted):
        there(lambda device: fit(scene, config, device=device, run=tmp_path, report=Recorder(("fine", 70))))
    last = Recorder(None)
    rest = there(lambda device: fit(scene, config, device=device, run=tmp_path, report=last))
    assert psnr(rest, scene) == pytest.approx(psnr_of(config, there), abs=TOLERANCE)
    assert last.steps["fine"][0] == 65


@pytest.mark.parametrize(("stage", "step", "is_begun_here"), [("coarse", 40, True), ("fine", 1, True), ("fine", 70, False)])
def test_a_training_goes_on_on_the_other_device_and_says_so(
    there: There,
    scene: Scene,
    psnr_of: Callable[..., float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    step: int,
    is_begun_here: bool,
) -> None:
    monkeypatch.setitem(Checkpoint.__init__.__kwdefaults__, "seconds", 0.0)
    said = io.StringIO()

    def learn(report: Recorder, *, is_here: bool) -> RadianceField:
        with redirect_stderr(said):
            if is_here:
                return fit(scene, TINY, run=tmp_path, report=report)
            return there(lambda device: fit(scene, TINY, device=device, run=tmp_path, report=report))

    say_that_bits_differ.cache_clear()
    with pytest.raises(Interrupted):
        learn(Recorder((stage, step)), is_here=is_begun_here)
    assert "goes on by" not in said.getvalue()
    last = Recorder()
    rest = learn(last, is_here=not is_begun_here)
    (line,) = [line for line in said.getvalue().splitlines() if "goes on by" in line]
    assert re.fullmatch("vqrf: begun by .+ on .+, goes on by .+ on .+: it will not end in the bits of either alone", line)
    assert last.steps[stage][0] == (1 if step == 1 else step // 32 * 32 + 1)
    assert psnr(rest, scene) == pytest.approx(psnr_of(TINY), abs=TOLERANCE)


@pytest.mark.parametrize("profile", ["exact", "web"])
def test_a_pyramid_is_tuned_as_well(there: There, trained: RadianceField, scene: Scene, profile: str) -> None:
    config = replace(TINY_RATE, profile=profile, bake_steps=64)
    learnt, here = there(lambda device: compress(trained, scene, config, device=device)), compress(trained, scene, config)
    assert psnr(expand(decode(encode(learnt))), scene) == pytest.approx(psnr(expand(here), scene), abs=TOLERANCE)
    assert len(encode(learnt)) == pytest.approx(len(encode(here)), rel=0.1)


def test_a_codebook_is_tuned_as_well(there: There, trained: RadianceField, scene: Scene) -> None:
    learnt, here = (
        there(lambda device: compress(trained, scene, TINY_COMPRESS, device=device)),
        compress(trained, scene, TINY_COMPRESS),
    )
    assert psnr(expand(decode(encode(learnt))), scene) == pytest.approx(psnr(expand(here), scene), abs=TOLERANCE)
    np.testing.assert_array_equal(learnt.partition, here.partition)
