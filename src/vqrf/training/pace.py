"""How fast this machine is, beside those on which the figures of time were measured."""

from __future__ import annotations

import functools
import itertools
import math
import time

import numpy as np

from vqrf.kernels import Gradients, LossWeights, Volume, select
from vqrf.kernels.constants import Equation

N_RAYS, SIDE, N_CHANNELS, WIDTH = 512, 32, 12, 128
"""Of what is tried: a step of few rays through a small lattice, by a network as voxels have it."""

USUAL_SECONDS = 0.95e-6
"""Of one core, for a sample with a colour of such a step. So an EPYC at 2.4 GHz with AVX2 has a pace of 2.3: its steps of
`quick` take so many times as long as `vqrf.training.cost` says."""

TRIES = 3
"""The first is not counted: threads and pages are new to it. Of others the fastest is."""


@functools.cache
def pace() -> float:
    """How many times as long as usual a step takes here, on the CPU.

    To try takes 0.1 s, without the compiled core a few seconds. Seconds are those that cores
    worked, so other programs hardly count.
    """
    kernels, (volume, gradients) = select(), _tried()
    rng = np.random.default_rng(0)
    origins = np.concatenate([rng.uniform(-0.5, 0.5, (N_RAYS, 2)), np.full((N_RAYS, 1), 1.5)], -1).astype(np.float32)
    directions = np.tile(np.array([0.0, 0.0, -1.0], np.float32), (N_RAYS, 1))
    targets, losses = np.full((N_RAYS, 3), 0.5, np.float32), LossWeights(background_entropy=0.0, point_color=0.0)
    seconds, n_shaded = math.inf, 1.0
    for number in range(1 + TRIES):
        begun = time.process_time()
        terms = kernels.render_gradients(volume, origins, directions, targets, losses, gradients)
        if number:
            seconds, n_shaded = min(seconds, time.process_time() - begun), float(terms["n_shaded"])
    return max(seconds / n_shaded / USUAL_SECONDS, 0.01)


def _tried() -> tuple[Volume, Gradients]:
    """A cube half of whose light each step takes, and where its gradients go."""
    rng, shape, step = np.random.default_rng(1), (SIDE, SIDE, SIDE), 1.0 / SIDE
    equation = Equation(0.0, 0.5, step, 0.0, 1e-3, (1.0, 1.0, 1.0))
    density = np.full(shape, math.log(3.0), np.float32)  # alpha 1 - (1 + 3) ^ -0.5
    features = rng.normal(size=(*shape, N_CHANNELS)).astype(np.float32)
    sides = (N_CHANNELS + 3 + 6 * 4, WIDTH, WIDTH, 3)
    layers = tuple(
        (rng.normal(size=(o, i)).astype(np.float32) / math.sqrt(i), np.zeros(o, np.float32))
        for i, o in itertools.pairwise(sides)
    )
    cells = np.ones(tuple(side - 1 for side in shape), np.uint8)
    skip = select().measure_skip(cells)
    volume = Volume((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), density, features, None, layers, cells, skip, equation)
    into = tuple((np.zeros_like(weight), np.zeros_like(bias)) for weight, bias in layers)
    return volume, Gradients(np.zeros_like(density), np.zeros_like(features), into, np.zeros(shape, np.uint8))
