"""A step on a card: its rays are those of the CPU, made there, and it waits for the card once.

What waits cannot be seen without a card. What would wait can be: each reading of a tensor's numbers by Python, and each
operation whose result has a size that depends on numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_plenoxels import TINY_PLENOXELS
from test_tensorf import tiny
from tiny import TINY, TINY_COMPRESS, TINY_RATE, tiny_scene
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("warp", reason="warp-lang is not installed: pip install warp-lang")

from vqrf.compression import tuning
from vqrf.compression.presets import compress
from vqrf.data.exposure import ExposedPool
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField
from vqrf.training import loop
from vqrf.training.card_pool import CardPool, source_on
from vqrf.training.loop import REFRESH_STEPS, optimize
from vqrf.training.train import coarse_model, fine_model

READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__")
SIZED_BY_NUMBERS = (
    "nonzero",
    "masked_select",
    "unique",
    "_local_scalar_dense",
    "repeat_interleave.Tensor",
    "equal",
    "bincount",
)


class Waits(TorchDispatchMode):
    """Counts what would wait for a card."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        by_mask = name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)
            for part in args[1:2]
            if isinstance(part, list | tuple)
            for index in part
        )
        if by_mask or name.startswith(SIZED_BY_NUMBERS):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """Answers what would have waited since it was asked last."""
    mode = Waits()
    monkeypatch.setenv("VQRF_WARP", "1")
    for name in READS:
        plain = getattr(torch.Tensor, name)

        def read(tensor: torch.Tensor, *arguments: Any, name: str = name, plain: Any = plain) -> Any:
            mode.found.append(name)
            return plain(tensor, *arguments)

        monkeypatch.setattr(torch.Tensor, name, read)

    def since() -> list[str]:
        found, mode.found = mode.found, []
        return found

    with mode:
        yield since


def of_training(kind: str, scene: Scene) -> Any:
    config = {"plenoxels": TINY_PLENOXELS, "tensorf": tiny("vm"), "tensorf-cp": tiny("cp")}.get(kind, TINY)
    model = coarse_model(scene, config, seed=0, device="cpu")
    return model if kind == "coarse" else fine_model(scene, config, model.field(), seed=0, device="cpu")


@pytest.mark.parametrize("kind", ["coarse", "fine", "plenoxels", "tensorf", "tensorf-cp"])
def test_a_step_of_a_training_waits_once(kind: str, waits: Callable[[], list[str]]) -> None:
    scene = tiny_scene()
    model = of_training(kind, scene)
    steps = optimize(model, RayPool(scene.train), steps=6, rays_per_step=64, seed=(0, 0))
    for number, _ in enumerate(steps):
        found = waits()
        assert number == 0 or found == ["tolist"], (number, found)


@pytest.mark.parametrize("preset", [TINY_RATE, TINY_COMPRESS], ids=["compact", "paper"])
def test_a_step_of_a_tuning_waits_once(
    preset: Any, trained: RadianceField, waits: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, counts = tiny_scene(), []

    def watched(*arguments: Any, **named: Any) -> Iterator[loop.Progress]:
        waits()
        for progress in optimize(*arguments, **named):
            counts.append((progress.step, waits()))
            yield progress

    monkeypatch.setattr(tuning, "optimize", watched)
    short = {"steps": 4, "rays_per_step": 64} | ({"warm_steps": 4} if preset is TINY_RATE else {})
    compress(trained, scene, replace(preset, **short))
    assert len(counts) >= 4
    assert all(found == ["tolist"] for step, found in counts if (step - 1) % REFRESH_STEPS), counts


def test_the_numbers_of_a_step_are_waited_for_when_they_are_asked_for(waits: Callable[[], list[str]]) -> None:
    scene = tiny_scene()
    (progress,) = optimize(of_training("coarse", scene), RayPool(scene.train), steps=1, rays_per_step=64, seed=(0, 0))
    waits()
    assert progress.psnr > 0 and "__float__" in waits()


def with_masks(scene: Scene, opacities: str, weights: str) -> RayPool:
    """Photos, the letters saying which have an opacity or weights."""
    rng, views = np.random.default_rng(3), []
    for number, view in enumerate(scene.train[:3]):
        shape = view.image.shape[:2]
        opacity = rng.integers(0, 256, shape, np.uint8) if opacities[number] == "x" else None
        weight = rng.choice(np.uint8([0, 100, 255]), shape) if weights[number] == "x" else None
        views.append(replace(view, opacity=opacity, weight=weight))
    return RayPool(views)


@pytest.mark.parametrize("opacities", ["---", "x-x", "xxx"])
@pytest.mark.parametrize("weights", ["---", "-xx"])
def test_a_cards_rays_are_those_of_the_cpu(
    scene: Scene, opacities: str, weights: str, trained: RadianceField, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VQRF_WARP", "1")
    here, plain = with_masks(scene, opacities, weights), with_masks(scene, opacities, weights)
    there = source_on(here, "cpu")
    assert isinstance(there, CardPool)
    for is_restricted in (False, True):
        if is_restricted:
            there.keep_hits(trained.volume())
            plain.keep_hits(trained.volume())
        ours, theirs = there.sample(700, seed=(1, 2)), plain.sample(700, seed=(1, 2))
        assert (ours.weights is None) == (theirs.weights is None)
        np.testing.assert_array_equal(ours.targets.numpy(), theirs.targets)
        if theirs.weights is not None:
            np.testing.assert_array_equal(ours.weights.numpy(), theirs.weights)
        for mine, its in zip(ours.arrays[:2], theirs.arrays[:2], strict=True):
            np.testing.assert_allclose(mine.numpy(), its, rtol=0, atol=1e-6)
    again = CardPool(with_masks(scene, opacities, weights), "cpu")
    again.restore(there.state())
    np.testing.assert_array_equal(again.sample(50, seed=(3,)).targets, there.sample(50, seed=(3,)).targets)


def test_what_makes_its_rays_on_the_cpu_stays_there(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = RayPool(scene.train)
    assert source_on(pool, "cpu") is pool
    monkeypatch.setenv("VQRF_WARP", "1")
    for source in (ExposedPool(scene), RayPool(scene.train, patch=8)):
        assert source_on(source, "cpu") is source
    assert isinstance(source_on(pool, "cpu"), CardPool)
