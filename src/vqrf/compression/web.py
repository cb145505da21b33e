"""The profile `web`: a field's colours baked into harmonics, which a browser shades fast."""

from __future__ import annotations

from vqrf.compression.importance import measure_importance
from vqrf.compression.tuning import Tuning
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField
from vqrf.kernels import LossWeights
from vqrf.training.bake import HarmonicsModel, bake_harmonics, grow
from vqrf.training.checkpoint import Checkpoint
from vqrf.training.loop import snapshot, torch_threads


def bake(
    field: RadianceField,
    scene: Scene,
    tuning: Tuning,
    losses: LossWeights,
    steps: int,
    checkpoint: Checkpoint | None,
) -> RadianceField:
    """The field in harmonics on a finer lattice, tuned on the photos for so many steps before anything is shared or dropped.

    The checkpoint is saved at the end, so that a call that goes on from it has nothing left to do.
    """
    field = grow(field)
    seen = measure_importance(field, tuning.pool) > 0
    with torch_threads(1):  # with more, the last bits of its products would depend on how many
        field = bake_harmonics(field, [view.camera for view in scene.train], seen)
    model = HarmonicsModel(field, losses, steps, device=tuning.device)
    tuning.run("bake", model, steps, checkpoint)
    if checkpoint is not None:
        checkpoint.save(*snapshot(model, tuning.pool, steps))
    return model.field()
