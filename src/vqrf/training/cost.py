"""About how long a training takes and how much memory, before it begins. Measured on lego with two cores (docs/commands.md)."""

from __future__ import annotations

from vqrf.data.scene import Scene
from vqrf.training.stages import StageConfig, TrainConfig

RAY_SECONDS = {"mlp": 17e-6, "sh": 35e-6, "sh_relu": 35e-6}
"""Of one core, for a ray of a step, by the shading."""

FACTORED = 4.0
"""Times as long where voxels are products of planes and lines."""

BASE_BYTES, TIMES_GRID = 900_000_000, 2.05
"""PyTorch, and what a step of 8192 rays needs; the last growth holds the old lattice beside the new one, and so does a save."""


def estimate_seconds(config: TrainConfig, n_threads: int) -> float:
    """On so many cores that do nothing else."""
    return sum(map(_stage_seconds, (config.coarse, config.fine))) / max(n_threads, 1)


def _stage_seconds(stage: StageConfig) -> float:
    factor = 1.0 if stage.components is None else FACTORED
    return stage.steps * stage.rays_per_step * RAY_SECONDS[stage.appearance.shading] * factor


def estimate_bytes(config: TrainConfig, scene: Scene) -> int:
    """At the most, the photos among it."""
    grid = max(_grid_bytes(stage) for stage in (config.coarse, config.fine))
    photos = sum(a.nbytes for view in scene.train for a in (view.image, view.opacity, view.weight) if a is not None)
    return int(BASE_BYTES + TIMES_GRID * grid + photos)


def _grid_bytes(stage: StageConfig) -> int:
    """Of density and features in float32, with their gradients and, where voxels are learnt themselves, Adam's moments."""
    return stage.n_voxels * (1 + stage.appearance.channels) * 4 * (4 if stage.components is None else 2)
