"""About how long a training takes and how much memory, before it begins. Measured on lego."""

from __future__ import annotations

import math

from vqrf.data.scene import Scene
from vqrf.training.stages import Components, StageConfig, TrainConfig

RAY_SECONDS = {"mlp": 17e-6, "sh": 35e-6, "sh_relu": 35e-6}
"""Of one core, for a ray of a step, by the shading."""

FACTORED, USUAL_INPUTS, INPUT = 1.45, 12, 0.0037
"""Times as long where planes and lines are read at the samples, for so many inputs of the colour network that come from
features; and what each further input adds to that."""

BASE_BYTES, TIMES_GRID = 900_000_000, 2.05
"""PyTorch, and what a step of 8192 rays needs; the last growth holds the old lattice beside the new one, and so does a save."""

FACTOR_ARRAYS = 6
"""Of planes and lines: values, gradients, two moments, means, and what another lattice takes of these when it begins."""

TOUCHED = 0.5
"""Share of the pages of a lattice that hold a voxel whose features are made of factors: once half of the steps are done, and at
the end. Of fog they are all of them."""


def estimate_seconds(config: TrainConfig, n_threads: int) -> float:
    """On so many cores that do nothing else."""
    return sum(map(_stage_seconds, (config.coarse, config.fine))) / max(n_threads, 1)


def _stage_seconds(stage: StageConfig) -> float:
    look, factor = stage.appearance, 1.0
    if stage.components is not None:
        n_inputs = look.channels * (1 + 2 * look.feature_frequencies)
        factor = FACTORED * (1 + INPUT * (n_inputs - USUAL_INPUTS))
    return stage.steps * stage.rays_per_step * RAY_SECONDS[look.shading] * factor


def estimate_bytes(config: TrainConfig, scene: Scene) -> int:
    """At the most, the photos among it."""
    grid = max(_grid_bytes(stage) for stage in (config.coarse, config.fine))
    photos = sum(a.nbytes for view in scene.train for a in (view.image, view.opacity, view.weight) if a is not None)
    return int(BASE_BYTES + grid + photos)


def _grid_bytes(stage: StageConfig) -> float:
    """Of density and features in float32, with gradients and Adam's moments; of factors, of these and of what they make."""
    n_channels = stage.appearance.channels
    if stage.components is None:
        return TIMES_GRID * stage.n_voxels * (1 + n_channels) * 4 * 4
    made = 5 + TOUCHED * n_channels  # the density twice, what photos need in float64, marks, and features
    return 4 * (made * stage.n_voxels + _factor_values(stage.components, stage.n_voxels))


def _factor_values(components: Components, n_voxels: int) -> float:
    """Numbers in all arrays of planes, for a cube; of lines alone, in what these are multiplied to, and its gradient."""
    n_arrays = FACTOR_ARRAYS if components.decomposition == "vm" else 2
    return n_arrays * 3 * math.pow(n_voxels, 2 / 3) * (components.density + components.features)
