"""The tunings of a compression: on which rays, who hears of them, and where they are saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vqrf.data.rays import RayPool
from vqrf.training.checkpoint import Checkpoint
from vqrf.training.loop import Model, Report, optimize
from vqrf.training.stages import STAGES

Profile = Literal["exact", "web"]
"""Whom a file is for: `exact` keeps the field's own colours, `web` bakes them into harmonics that a browser shades fast."""


TUNINGS = ("tune", "bake", "warm")
"""Names of the tunings, each with batches of its own."""


@dataclass(frozen=True)
class Checkpoints:
    """Where the tunings of a compression are saved now and then; nowhere for None.

    Attributes:
      bake, warm: of stages that compressions of a field at other dials have in common. They are saved as their stage ends, and
        so the next compression goes on from there.
      tune: of the last stage.

    All of them stay until the caller removes them, when the result is safe.
    """

    bake: Checkpoint | None = None
    warm: Checkpoint | None = None
    tune: Checkpoint | None = None

    def remove(self) -> None:
        for checkpoint in (self.bake, self.warm, self.tune):
            if checkpoint is not None:
                checkpoint.remove()


NOWHERE = Checkpoints()


@dataclass(frozen=True)
class Tuning:
    """On which rays models are tuned, and who hears of it; the two tunings of a compression have this in common."""

    pool: RayPool
    rays_per_step: int
    seed: int
    device: str
    report: Report | None

    def run(self, stage: str, model: Model, steps: int, checkpoint: Checkpoint | None) -> None:
        for progress in optimize(
            model,
            self.pool,
            steps=steps,
            rays_per_step=self.rays_per_step,
            seed=(self.seed, len(STAGES) + TUNINGS.index(stage)),
            device=self.device,
            checkpoint=checkpoint,
        ):
            if self.report is not None:
                self.report(stage, progress)
