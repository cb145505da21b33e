"""Random volumes and rays that the tests of the kernels share."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vqrf.fields.factors import Factors
from vqrf.kernels import PLANE_AXES, FactorArrays, Gradients, LossWeights, Volume, reference
from vqrf.kernels.constants import Equation

WIDTHS: dict[str, tuple[int, ...]] = {
    "logits": (),
    "harmonics1": (),
    "harmonics2": (),
    "plenoxels": (),
    "small": (4 + 15, 16, 3),
    "paper": (12 + 27, 64, 64, 3),
    "frequencies": (5 + 15 + 2 * 5 * 2, 32, 32, 3),
}
"""Kind of colour: widths of its layers. The view frequencies are 2, 4 and 2; harmonics are of degree 1 and 2. The volume
called plenoxels has a ReLU in the place of softplus and sigmoid, and no bias."""

CHANNELS = {"logits": 3, "harmonics1": 12, "harmonics2": 27, "plenoxels": 27, "small": 4, "paper": 12, "frequencies": 5}
FEATURE_FREQUENCIES = {"frequencies": 2}
N_ROWS = 40
SCENES = [(kind, has_rows) for kind in WIDTHS for has_rows in (False, True)]
every_scene = pytest.mark.parametrize(("kind", "has_rows"), SCENES, ids=lambda value: str(value))
LOSSES = LossWeights(background_entropy=0.3, point_color=0.7, opacity=0.4, distortion=0.6)

Rays = tuple[np.ndarray, np.ndarray]


def make_volume(kind: str, has_rows: bool, dtype: type = np.float64, shape: tuple[int, int, int] = (9, 11, 7)) -> Volume:
    """A random volume: thin around a solid core, a third of its cells forbidden, with rows a third pruned."""
    rng = np.random.default_rng([len(kind), has_rows])
    density = (3 * rng.normal(size=shape)).astype(dtype)
    density[tuple(slice(side // 3, side - side // 3) for side in shape)] += 12
    if kind == "plenoxels":  # in units that are as opaque as the others' with their bias
        density /= 2
    rows = rng.integers(-N_ROWS // 2, N_ROWS, shape).clip(-1).astype(np.int32) if has_rows else None
    places = (N_ROWS,) if has_rows else shape
    layers = tuple(
        (
            (rng.normal(size=(o, i)) / math.sqrt(i) * 1.5).astype(dtype),
            (0.3 * rng.normal(size=o)).astype(dtype),
        )
        for i, o in itertools.pairwise(WIDTHS[kind])
    )
    allowed = (rng.random([side - 1 for side in shape]) > 0.3).astype(np.uint8)
    equation = Equation(
        density_bias=0.0 if kind == "plenoxels" else -2.0,
        interval=0.5,
        step_world=0.1234,
        near=0.3,
        alpha_threshold=1e-4,
        background=(1.0, 0.5, 0.2),
        shading="sh" if kind.startswith("harmonics") else "sh_relu" if kind == "plenoxels" else "mlp",
        activation="relu" if kind == "plenoxels" else "softplus",
        feature_frequencies=FEATURE_FREQUENCIES.get(kind, 0),
    )
    cells = reference.find_cells(density, equation.floor, allowed)
    return Volume(
        lo=(-1.0, -1.2, -0.8),
        hi=(1.0, 1.1, 0.9),
        density=density,
        features=(1.5 * rng.normal(size=(*places, CHANNELS[kind]))).astype(dtype),
        rows=rows,
        layers=layers,
        cells=cells,
        skip=reference.measure_skip(cells),
        equation=equation,
    )


def make_rays(n_rays: int, dtype: type = np.float64) -> Rays:
    """Rays from outside and inside the lattice, some of which stand still along an axis or two, or miss."""
    rng = np.random.default_rng(n_rays)
    origins = rng.normal(size=(n_rays, 3))
    origins *= np.where(np.arange(n_rays) % 3 == 0, 0.3, 3.0)[:, None] / np.linalg.norm(origins, axis=1, keepdims=True)
    directions = rng.uniform(-0.8, 0.8, (n_rays, 3)) - origins
    directions[::8, 0] = 0
    directions[::16, 1] = 0
    directions[4::8, 2] = 0
    origins[::16, 0] *= 0.3
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return origins.astype(dtype), directions.astype(dtype)


def factored(volume: Volume, sizes: tuple[int, int]) -> Volume:
    """A volume of random factors in the place of its density and features, `sizes` of density and of features on each plane.

    Its density is that of the voxels that they stand for, and its cells are found there.
    """
    dtype, n_channels = volume.density.dtype, volume.features.shape[-1]
    single = random_factors(np.random.default_rng(sizes), volume.density.shape, *sizes, n_channels)
    planes, lines = (tuple(0.7 * array.astype(dtype) for array in arrays) for arrays in (single.planes, single.lines))
    factors = FactorArrays(planes, lines, single.mix.astype(dtype))
    density = dense(factors)[0].numpy()
    cells = reference.find_cells(density, volume.equation.floor, np.asarray(volume.cells))
    return replace(
        volume,
        density=density,
        features=np.zeros((0, n_channels), dtype),
        rows=None,
        cells=cells,
        skip=reference.measure_skip(cells),
        factors=factors,
    )


def expanded(volume: Volume) -> Volume:
    """The volume of voxels that a factored one stands for."""
    assert volume.factors is not None
    density, features = dense(volume.factors)
    return replace(volume, density=density.numpy(), features=features.numpy(), factors=None)


def dense(factors: FactorArrays) -> tuple[torch.Tensor, torch.Tensor]:
    """Density [X,Y,Z] and features [X,Y,Z,C] of all voxels; differentiable."""
    shape = len(factors.lines[2]), len(factors.lines[1]), len(factors.lines[0])
    density, features = reference.products_of_factors(factors, torch.ones(shape).nonzero())
    return density.view(shape), features.view(*shape, -1)


def arrays_of(factors: FactorArrays) -> tuple[np.ndarray, ...]:
    return (*factors.planes, *factors.lines, factors.mix)


def zero_gradients(volume: Volume) -> Gradients:
    n_channels = volume.features.shape[-1]
    if volume.factors is not None:
        zeros = [np.zeros_like(array) for array in arrays_of(volume.factors)]
        return Gradients(
            density=np.zeros(0, volume.density.dtype),
            features=np.zeros_like(volume.features),
            layers=tuple((np.zeros_like(weight), np.zeros_like(bias)) for weight, bias in volume.layers),
            touched=np.zeros(sum(plane[..., 0].size for plane in zeros[:3]), np.uint8),
            factors=FactorArrays(tuple(zeros[:3]), tuple(zeros[3:6]), zeros[6]),
        )
    return Gradients(
        density=np.zeros_like(volume.density),
        features=np.zeros((*volume.density.shape, n_channels), volume.density.dtype),
        layers=tuple((np.zeros_like(weight), np.zeros_like(bias)) for weight, bias in volume.layers),
        touched=np.zeros(volume.density.shape, np.uint8),
    )


def random_targets(n_rays: int, dtype: type = np.float64) -> np.ndarray:
    """Colours and opacities [n_rays,4]."""
    return np.random.default_rng(5).random((n_rays, 4)).astype(dtype)


def random_factors(
    rng: np.random.Generator, shape: tuple[int, int, int], n_density: int, n_features: int, n_channels: int
) -> Factors:
    rank = n_density + n_features
    planes = [rng.normal(size=(shape[a], shape[b], rank)).astype(np.float32) for a, b, _ in PLANE_AXES]
    lines = [rng.normal(size=(shape[c], rank)).astype(np.float32) for *_, c in PLANE_AXES]
    mix = rng.normal(size=(3, n_features, n_channels)).astype(np.float32)
    return Factors((planes[0], planes[1], planes[2]), (lines[0], lines[1], lines[2]), mix)
