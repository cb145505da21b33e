"""The tunings of a compression: on which rays, who hears of them, and where they are saved."""

from __future__ import annotations

from dataclasses import dataclass, field

from vqrf.data.rays import RayPool
from vqrf.training.checkpoint import Checkpoint
from vqrf.training.loop import Model, RaysPerStep, Report, optimize, snapshot
from vqrf.training.patches import Eyes, Patches, read_lpips
from vqrf.training.stages import STAGES

TUNINGS = ("tune", "bake", "warm")
"""Names of the tunings, each with batches of its own. A new one goes to the end: a name's place seeds its batches."""

SAVED_LAYOUT = 2
"""Number of how tunings name and shape what they save; it goes up when that changes, and older checkpoints are refused."""


class Checkpoints(dict[str, Checkpoint]):
    """Where the tunings of a compression are saved now and then, by their names; those that are not in it are not saved.

    They stay until the caller removes them, when the result is safe.
    """

    def remove(self) -> None:
        for checkpoint in self.values():
            checkpoint.remove()


@dataclass(frozen=True)
class Tuning:
    """On which rays models are tuned, and who hears of it; all tunings of a compression have this in common.

    Attributes:
      roulette: see `Preset.ROULETTE`.
      report: called after every step with the tuning's name and its progress.
      checkpoints: what a tuning goes on from, if it is there.
    """

    pool: RayPool
    rays_per_step: int
    seed: int = 0
    device: str = "cpu"
    roulette: float = 0.0
    report: Report | None = None
    checkpoints: Checkpoints = field(default_factory=Checkpoints)

    def run(self, stage: str, model: Model, steps: int, eyes: Eyes | None = None) -> None:
        """Tune a model, or what is left to tune of it.

        Args:
          eyes: what they see counts too, on half of the rays.
        """
        n_rays, beside = self.rays_per_step, None
        if eyes is not None and steps:
            n_rays, n_patches, side = eyes.split(n_rays, self.pool.cameras.least_side)
            lpips = read_lpips(n_patches * side**2)
            beside = Patches(lpips, self.pool, n_patches, side, weight=eyes.weight, device=self.device)
        for progress in optimize(
            model,
            self.pool,
            steps=steps,
            rays_per_step=RaysPerStep(n_rays, roulette=self.roulette),
            seed=(self.seed, len(STAGES) + TUNINGS.index(stage)),
            device=self.device,
            checkpoint=self.checkpoints.get(stage),
            loss=beside,
        ):
            if self.report is not None:
                self.report(stage, progress)

    def keep(self, stage: str, model: Model, steps: int) -> None:
        """Save a model at the end of a stage, so that a call that goes on from there has nothing left to do in it."""
        if stage in self.checkpoints:
            self.checkpoints[stage].save(*snapshot(model, self.pool, steps, self.rays_per_step, self.device))
