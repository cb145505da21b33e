"""A synthetic field to measure on where no real one is at hand: a ball of which a ray sees about as much as of lego."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vqrf.cameras import Camera
from vqrf.codec.compressed import CODED, PRUNED, CompressedField, Quantized
from vqrf.fields.field import RadianceField
from vqrf.geometry import Float32, Lattice
from vqrf.kernels import Volume
from vqrf.kernels.constants import Equation
from vqrf.training.stages import Appearance, Sampling
from vqrf.training.train import initial_mlp

BALL_RADIUS, CAMERA_DISTANCE, FOCAL = 0.6, 4.0, 1.4
"""World units, in a box of -1..1; focal length in image sides."""

DENSITY_PER_VOXEL, SURFACE_DENSITY, EMPTY_DENSITY = 0.8, -4.0, -20.0
"""Raw density rises with the depth below the ball's surface, so that a ray has about 20 live samples whatever the side."""

N_CODES = 4096

Rays = tuple[Float32, Float32, Float32]
"""Origins, unit directions, colours to compare with."""


def ball_field(side: int) -> RadianceField:
    """A ball with random features and the fine stage's untrained colour MLP."""
    appearance, sampling = Appearance(), Sampling()
    lattice = Lattice((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), (side, side, side))
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    radius = np.sqrt((axis**2)[:, None, None] + (axis**2)[:, None] + axis**2)
    depth = (BALL_RADIUS - radius) * (side - 1) / 2
    features = np.random.default_rng(0).standard_normal((side, side, side, appearance.channels), np.float32)
    mlp = [array.numpy() for array in initial_mlp(appearance, 0, "cpu")]
    return RadianceField(
        lattice=lattice,
        density=np.maximum(SURFACE_DENSITY + DENSITY_PER_VOXEL * depth, EMPTY_DENSITY).astype(np.float32),
        features=features,
        color_mlp=tuple(zip(mlp[::2], mlp[1::2], strict=True)),
        equation=Equation(
            density_bias=float(np.log(1 / (1 - sampling.alpha_init) - 1)),
            interval=sampling.step_voxels,
            step_world=sampling.step_voxels * 2 / (side - 1),
            near=0.2,
            alpha_threshold=sampling.alpha_threshold,
            background=(1.0, 1.0, 1.0),
        ),
    )


def ball_rays(n: int) -> Rays:
    """Rays from all sides that meet the ball, and colours to compare with."""
    random = np.random.default_rng(1)
    origins, goals = random.normal(size=(2, n, 3))
    origins *= CAMERA_DISTANCE / np.linalg.norm(origins, axis=1, keepdims=True)
    goals *= 0.9 * BALL_RADIUS * random.random((n, 1)) / np.linalg.norm(goals, axis=1, keepdims=True)
    directions = (goals - origins) / np.linalg.norm(goals - origins, axis=1, keepdims=True)
    return origins.astype(np.float32), directions.astype(np.float32), random.random((n, 3)).astype(np.float32)


def camera(side: int) -> Camera:
    pose = np.eye(4)
    pose[2, 3] = CAMERA_DISTANCE
    return Camera(pose, FOCAL * side, FOCAL * side, side / 2, side / 2, side, side)


def compressed_ball(ball: RadianceField, volume: Volume) -> CompressedField:
    """Something of a real file's size: the occupied voxels coded, with random codes."""
    stored = np.zeros(ball.lattice.shape, bool)
    stored[:-1, :-1, :-1] = np.asarray(volume.cells, bool)
    random, half = np.random.default_rng(2), np.float16
    levels = (8 * (ball.density[stored] - SURFACE_DENSITY)).clip(0, 255).astype(np.uint8)
    unit = np.ones(1, np.float32)
    return CompressedField(
        lattice=ball.lattice,
        partition=np.where(stored, CODED, PRUNED).astype(np.uint8),
        density=Quantized(levels, unit, unit),
        codes=random.integers(0, N_CODES, len(levels), np.int32),
        codebook=random.standard_normal((N_CODES, ball.n_channels)).astype(half),
        kept=Quantized(np.zeros((0, ball.n_channels), np.uint8), unit, unit),
        color_mlp=tuple((weight.astype(half), bias.astype(half)) for weight, bias in ball.color_mlp),
        equation=replace(ball.equation, alpha_threshold=1e-4),
        empty_density=EMPTY_DENSITY,
        metadata={},
    )
