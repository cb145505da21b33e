"""About how long a training takes and how much memory, before it begins. Measured on lego, on another machine (`pace`)."""

from __future__ import annotations

import math

from vqrf.data.scene import Scene
from vqrf.training.pace import pace
from vqrf.training.stages import SHADED_IN_PLACE, Components, StageConfig, TrainConfig

RAY_SECONDS = {"mlp": 17e-6, "sh": 35e-6, "sh_relu": 35e-6}
"""Of one core, for a ray of a step, by the shading."""

BY_CHANCE = 0.62
"""Times as long where faint samples have a colour by chance (docs/log/speed.md#must-every-sample-of-a-step-have-a-colour)."""

SHADED = 8
"""Samples that such a ray shades."""

FACTORED, USUAL_INPUTS, INPUT = 2.0, 12, 0.0037
"""Times as long where planes and lines are read at the samples, for so many inputs of the colour network that come from
features; and what each further input adds to that."""

PROGRAM_BYTES, STEP_BYTES, FOG_BYTES = 250_000_000, 100_000_000, 250_000_000
"""PyTorch and this program; what a step of 8192 rays needs, and what it needs besides where all is fog, as at first."""

LEARNT = 4
"""Arrays of the whole lattice that a grid of voxels learns in: values, gradients, two moments. What it grows from has given up
all but its values."""

ACTIVE = {"thing": 0.5, "place": 1.0}
"""Share of a lattice whose voxels a fine stage looks at: half around a thing alone, as around lego; of a place, of which photos
show something at every pixel, it may be all."""

MARK_BYTES = 12
"""Of a voxel: its number, and what is known of it and its cell."""

PIXEL_BYTES = 4
"""The number of a pixel whose ray meets something."""

WRITTEN = 0.25
"""Of the pages of features that are made of factors, those that are held again as rows when they are written."""

FACTOR_ARRAYS = 6
"""Of planes and lines: values, gradients, two moments, means, and what another lattice takes of these when it begins."""


FOGGY = SHADED_IN_PLACE / SHADED
"""Times as long where photos show something at every pixel: rays through a plant before a room have so many more samples that
count (docs/log/speed.md#how-much-longer-does-a-place-take)."""


def fogginess(scene: Scene) -> float:
    """Times as long as around a thing alone that steps take, of training and of tuning."""
    return 1.0 if scene.contrast is None else FOGGY


def estimate_seconds(config: TrainConfig, scene: Scene, n_threads: int) -> float:
    """On so many cores of this machine that do nothing else."""
    foggy = fogginess(scene)
    return pace() * sum(_stage_seconds(stage, foggy) for stage in (config.coarse, config.fine)) / max(n_threads, 1)


def _stage_seconds(stage: StageConfig, foggy: float) -> float:
    look, factor = stage.appearance, 1.0
    if stage.components is not None:
        n_inputs = look.channels * (1 + 2 * look.feature_frequencies)
        factor = FACTORED * (1 + INPUT * (n_inputs - USUAL_INPUTS))
    if stage.sampling.roulette:
        factor *= BY_CHANCE
    rays = foggy * stage.rays_per_step
    if stage.shaded_per_step is not None:
        rays = min(rays, stage.shaded_per_step / SHADED)
    return stage.steps * rays * RAY_SECONDS[look.shading] * factor


def estimate_bytes(config: TrainConfig, scene: Scene) -> int:
    """At the most, the photos among it."""
    active = ACTIVE["thing" if scene.contrast is None else "place"]
    base = PROGRAM_BYTES + STEP_BYTES + active * FOG_BYTES
    grid = max(_grid_bytes(config.coarse, 1.0), _grid_bytes(config.fine, active))
    photos = sum(a.nbytes for view in scene.train for a in (view.image, view.opacity, view.weight) if a is not None)
    kept = active * PIXEL_BYTES * sum(view.camera.width * view.camera.height for view in scene.train)
    return int(base + grid + photos + kept)


def _grid_bytes(stage: StageConfig, active: float) -> float:
    """Of density and features in float32, with gradients and Adam's moments; of factors, of these and of what they make.

    Beside what is learnt there are means of active voxels, and a save, which takes the rows of these of one array at a time. At
    the end there are the values alone, the field, a whole copy, and rows of it that are written: that is less.
    """
    n_channels = stage.appearance.channels
    if stage.components is None:
        n_arrays = LEARNT + 2 * active
        return stage.n_voxels * (MARK_BYTES + n_arrays * 4 * (1 + n_channels))
    made = 4 * (2 + active + (1 + WRITTEN) * active * n_channels)  # the density and its copy; features, a few twice
    return (MARK_BYTES + made) * stage.n_voxels + 4 * _factor_values(stage.components, stage.n_voxels)


def _factor_values(components: Components, n_voxels: int) -> float:
    """Numbers in all arrays of planes, for a cube; of lines alone, in what these are multiplied to, and its gradient."""
    n_arrays = FACTOR_ARRAYS if components.decomposition == "vm" else 2
    return n_arrays * 3 * math.pow(n_voxels, 2 / 3) * (components.density + components.features)
