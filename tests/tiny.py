"""The smallest training that shows something: settings that a second is enough for, and a scene for them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from vqrf.codec.compressed import CompressedField
from vqrf.compression.compact import RATES, CompactPreset
from vqrf.compression.paper import PaperPreset
from vqrf.compression.planes import PlanesPreset
from vqrf.data.builtin import built_in_scene
from vqrf.data.scene import Scene
from vqrf.fields.cells import active_voxels
from vqrf.fields.field import RadianceField
from vqrf.kernels import LossWeights
from vqrf.training.loop import Progress
from vqrf.training.perception import STEPS, Features, Lpips
from vqrf.training.stages import Appearance, LearningRates, Sampling, StageConfig, TrainConfig

TINY = TrainConfig(
    image_side=48,
    coarse=StageConfig(
        steps=64,
        n_voxels=24**3,
        rays_per_step=512,
        appearance=Appearance(channels=3, depth=0),
        sampling=Sampling(alpha_init=1e-3, alpha_threshold=1e-4),
        losses=LossWeights(background_entropy=0.01, point_color=0.1),
    ),
    fine=StageConfig(
        steps=96,
        n_voxels=24**3,
        rays_per_step=512,
        grow_at=(20, 50),
        appearance=Appearance(channels=6, depth=2, width=16),
        rates=LearningRates(mlp=5e-3),
    ),
)
"""Checkpoints fall on steps 32 and 64 of the fine stage: after the first growth of the lattice and after the second."""

TINY_RATE = CompactPreset(
    bit_price=2e-8, warm_price=2e-8, n_levels=2, warm_steps=70, steps=40, rays_per_step=512, rates=replace(RATES, mlp=1e-3)
)

TINY_PLANES = PlanesPreset(bit_price=2e-8, warm_price=2e-8, n_levels=2, warm_steps=20, steps=20, rays_per_step=512)

TINY_COMPRESS = PaperPreset(
    name="demo", n_codes=64, steps=80, rays_per_step=512, rates=LearningRates(0.05, 0.05, 5e-4), bake_steps=64
)


def tiny_scene() -> Scene:
    """12 training and 3 test views of 48x48."""
    return built_in_scene(n_train=12, n_test=3, side=48)


def little_lpips(dtype: torch.dtype = torch.float32) -> Lpips:
    """LPIPS by a network of VGG's shape with six channels, of random weights."""
    rng = torch.Generator().manual_seed(0)
    layers, before = [], 3
    for steps in STEPS["vgg"]:
        layer = []
        for _ in steps:
            weight = torch.randn(6, before, 3, 3, generator=rng, dtype=torch.float64) / (3 * before) ** 0.5
            layer.append((weight.to(dtype), 0.1 * torch.randn(6, generator=rng, dtype=torch.float64).to(dtype)))
            before = 6
        layers.append(tuple(layer))
    heads = tuple(torch.rand(1, 6, 1, 1, generator=rng, dtype=torch.float64).to(dtype) for _ in STEPS["vgg"])
    return Lpips(Features("vgg", tuple(layers)), heads)


def emptied(field: RadianceField) -> RadianceField:
    """The field with nothing in it: the background is all that is left."""
    return replace(field, density=np.full_like(field.density, -100))


def assert_same_field(a: RadianceField, b: RadianceField) -> None:
    """To the bit, wherever anything looks."""
    assert (a.lattice, a.equation) == (b.lattice, b.equation)
    np.testing.assert_array_equal(a.allowed, b.allowed)
    active = active_voxels(a)
    np.testing.assert_array_equal(a.density[active], b.density[active])
    np.testing.assert_array_equal(a.features[active], b.features[active])
    for layer, other in zip(a.color_mlp, b.color_mlp, strict=True):
        for x, y in zip(layer, other, strict=True):
            np.testing.assert_array_equal(x, y)


def assert_same_compressed(a: CompressedField, b: CompressedField) -> None:
    np.testing.assert_array_equal(a.density.levels, b.density.levels)
    assert a == b


class Interrupted(BaseException):
    """What a report raises where a run is to end before its time."""


class Recorder:
    """A report that remembers the steps of every stage, and interrupts at one of them.

    Args:
      at: (stage, step) to stop at, or None.
      saves: whether it saves that step before.
    """

    def __init__(self, at: tuple[str, int] | None = None, *, saves: bool = False) -> None:
        self.at, self.saves = at, saves
        self.steps: dict[str, list[int]] = {}
        self.progress: list[Progress] = []

    def __call__(self, stage: str, progress: Progress) -> None:
        self.steps.setdefault(stage, []).append(progress.step)
        self.progress.append(progress)
        if (stage, progress.step) == self.at:
            if self.saves and progress.save is not None:
                progress.save()
            raise Interrupted
