"""The profile `web`: colours that a browser shades fast, which a network's are not: it is baked into harmonics.

A field without a network is left as it is, whichever its harmonics. Of Plenoxels' 27 the viewer reads seven texels for a run of
samples, and of a baked field's 12 three. But baking puts a field on a lattice of four times as many voxels. The edges that a
network draws between voxels need them; Plenoxels do not. File and textures would be larger, the colours of degree 1 instead of
2, and the field tuned once more (docs/log/bases.md). One preset did so before, the other baked whatever was not "sh".
"""

from __future__ import annotations

from dataclasses import replace

from vqrf.compression.importance import expect_seen, measure_importance
from vqrf.compression.tuning import Tuning
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField
from vqrf.kernels import LossWeights
from vqrf.training.bake import HarmonicsModel, bake_harmonics, grow
from vqrf.training.loop import torch_threads


def is_fast(field: RadianceField) -> bool:
    """Whether a browser shades the field's own colours fast: no network makes them."""
    return not field.color_mlp


def bake(field: RadianceField, scene: Scene, tuning: Tuning, losses: LossWeights, steps: int) -> RadianceField:
    """The field in harmonics on a finer lattice, tuned on the photos for so many steps before anything is shared or dropped.

    Raises:
      ValueError: there is nothing in the field that a photo sees.
    """
    field = grow(replace(field, factors=None))  # which would no longer be those of what it becomes
    seen = measure_importance(field, tuning.pool)
    expect_seen(seen)
    with torch_threads(1):  # with more, the last bits of its products would depend on how many
        field = bake_harmonics(field, [view.camera for view in scene.train], seen > 0)
    model = HarmonicsModel(field, losses, steps, device=tuning.device)
    tuning.run("bake", model, steps)
    tuning.keep("bake", model, steps)
    return model.field()
