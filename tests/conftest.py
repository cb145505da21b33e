"""What every room may use: a coloured ball in closed form with a camera on it, a tiny scene with a field trained on it, and a
place where verbs run apart from the tests. The only such file: pytest reads one module of a name."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from apart import Apart
from hypothesis import settings
from tiny import TINY, tiny_scene

from vqrf.cameras import Camera
from vqrf.compression.importance import measure_importance
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField
from vqrf.geometry import Lattice
from vqrf.kernels.constants import Equation
from vqrf.training.train import fit

settings.register_profile("any machine", deadline=None)  # a busy machine is slow, not wrong
settings.load_profile("any machine")

BALL_RADIUS = 0.6
"""World units, around the origin; here density + bias is 0 and one step has alpha 1 - 2^-0.5 = 0.29."""

BALL_BIAS = -13.0
"""Density bias. Raw density 0 is empty (alpha 1e-6 a step), as in a field that was just begun."""


@pytest.fixture(scope="session")
def ball_field() -> RadianceField:
    """A ball in a lattice of 16^3 voxels over -1..1: red grows with x, green with y, blue with z; white
    around it.

    Raw density is 40 * (BALL_RADIUS - r) - BALL_BIAS, features are the logits 4 * (x, y, z), there is no MLP.
    """
    side = 16
    lattice = Lattice((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), (side, side, side))
    place = lattice.world_from_index(np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1))
    radius = np.linalg.norm(place, axis=-1)
    return RadianceField(
        lattice=lattice,
        density=(40 * (BALL_RADIUS - radius) - BALL_BIAS).astype(np.float32),
        features=(4 * place).astype(np.float32),
        color_mlp=(),
        equation=Equation(
            density_bias=BALL_BIAS,
            interval=0.5,
            step_world=0.5 * 2 / (side - 1),
            near=0.2,
            alpha_threshold=1e-4,
            background=(1.0, 1.0, 1.0),
        ),
    )


@pytest.fixture(scope="session")
def ball_camera() -> Camera:
    """24x20 pixels at (0, 0, 3), looking along -z at the ball, which is about 12 pixels wide."""
    pose = np.eye(4)
    pose[2, 3] = 3.0
    return Camera(pose, fx=30.0, fy=30.0, cx=12.0, cy=10.0, width=24, height=20)


@pytest.fixture(scope="session")
def scene() -> Scene:
    """12 training and 3 test views of 48x48 of the built-in scene."""
    return tiny_scene()


@pytest.fixture(scope="session")
def trained(scene: Scene) -> RadianceField:
    """What `fit` makes of `scene` in `TINY` steps."""
    return fit(scene, TINY)


@pytest.fixture(scope="session")
def importance(scene: Scene, trained: RadianceField) -> np.ndarray:
    """[X,Y,Z] of `trained` on `scene`."""
    return measure_importance(trained, RayPool(scene.train))


@pytest.fixture(scope="module")
def apart() -> Iterator[Apart]:
    """Where verbs run in processes of their own, begun once a module."""
    with Apart() as made:
        yield made
