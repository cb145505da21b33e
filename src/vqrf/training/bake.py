"""Bake: make a field whose colours a network makes into one of spherical harmonics that looks alike and is shaded faster.

    f_v = argmin_f  sum over d in D of | Y(d) f - logit(color_mlp(features_v, d)) |^2      for each voxel v and colour

D are directions that training cameras look in, so that what no camera sees pulls at nothing. The lattice grows first: a network
draws edges between voxels, where harmonics only blend. What least squares gives is a start, for it does not know who is seen
from where; tuning does the rest, on the photos and in the rendering equation that the viewer will use.

Source: PlenOctrees (arXiv 2103.14024), which projects a network onto harmonics and then tunes them. Departs: projects by least
squares over the training cameras' directions instead of by an integral over the sphere, onto a finer lattice, at degree 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqrf.cameras import Camera
from vqrf.fields.cells import active_voxels
from vqrf.fields.field import RadianceField
from vqrf.geometry import Lattice
from vqrf.kernels import Gradients, LossWeights, select
from vqrf.kernels.constants import HARMONICS_OF_CHANNELS
from vqrf.kernels.equation import colorize, tensors, view_harmonics
from vqrf.training.box import cells_on
from vqrf.training.grids import resample
from vqrf.training.loop import REFRESH_STEPS
from vqrf.training.parameters import Moments, Parameters, decay

BAKE_CHANNELS = 12
"""Degree 1."""

BAKE_DIRECTIONS = 32
"""Spread over the training cameras; a fit of degree 1 has 4 unknowns."""

MAX_LOGIT = 8.0
"""Colours are held this far from 0 and 1, in logits: beyond, a network means nothing by the difference."""

VOXELS_PER_CHUNK = 4096

FAINT_MARGIN = 1.0
"""Raw density under the least that is sampled, where nothing was ever looked at."""

GROWTH = 4.0
"""Times as many voxels. Lego at 800x800, 122x217x153 voxels, 4000 steps, 13 views, before anything is pruned: 0.97 dB are lost
on twice as many, 0.45 dB on four times."""

MAX_GROWN_VOXELS = 1 << 24
"""A field does not grow beyond, so that its tuning takes 4 GB; one that has more voxels stays as it is."""

RATE_DENSITY, RATE_FEATURES, RATE_END = 0.05, 0.1, 0.1
"""Adam's, at the start of the tuning, and the share of them that is left at its end."""


def grow(field: RadianceField, growth: float = GROWTH) -> RadianceField:
    """The field on a lattice of about `growth` times as many voxels over the same box, trilinearly, with the steps it had."""
    old = field.lattice
    n_voxels = min(int(growth * old.n_voxels), MAX_GROWN_VOXELS)
    if n_voxels <= old.n_voxels:
        return field
    lattice = Lattice.with_voxels(old.lo, old.hi, n_voxels, old.space)
    faint = field.equation.floor - FAINT_MARGIN
    density = np.where(active_voxels(field), field.density, np.float32(faint))  # the others' say nothing
    grids = (density[..., None], field.features)
    density, features = (resample(torch.from_numpy(grid), lattice.shape).numpy() for grid in grids)
    return replace(
        field,
        lattice=lattice,
        density=np.ascontiguousarray(density[..., 0]),
        features=features,
        allowed=None if field.allowed is None else cells_on(field.allowed, lattice),
    )


def bake_harmonics(
    field: RadianceField, cameras: Sequence[Camera], voxels: NDArray[np.bool_], *, n_channels: int = BAKE_CHANNELS
) -> RadianceField:
    """The field with harmonics of `n_channels` in place of its network.

    Args:
      cameras: of the training views, at least one.
      voxels: [X,Y,Z], which to bake; the features of all others are 0.

    Deterministic. With more than one thread of PyTorch, the last bits depend on how many.
    """
    n_harmonics = HARMONICS_OF_CHANNELS[n_channels]
    directions = torch.from_numpy(bake_directions(cameras))
    fit = torch.linalg.pinv(view_harmonics(directions.double(), n_harmonics)).float()
    volume = tensors(field.volume())
    features = torch.from_numpy(field.features[voxels])
    baked = torch.empty(len(features), 3, n_harmonics)
    darkest = 1 / (1 + np.exp(MAX_LOGIT))
    for start in range(0, len(features), VOXELS_PER_CHUNK):
        chunk = features[start : start + VOXELS_PER_CHUNK]
        seen = directions.repeat(len(chunk), 1)
        color = colorize(volume, chunk.repeat_interleave(len(directions), 0), seen).view(len(chunk), len(directions), 3)
        baked[start : start + len(chunk)] = torch.einsum("vdc,kd->vck", color.clamp(darkest, 1 - darkest).logit(), fit)
    table = np.zeros((*field.lattice.shape, n_channels), np.float32)
    table[voxels] = baked.reshape(len(features), n_channels).numpy()
    equation = replace(field.equation, shading="sh", feature_frequencies=0)
    return replace(field, features=table, color_mlp=(), equation=equation)


def bake_directions(cameras: Sequence[Camera]) -> NDArray[np.float32]:
    """Unit directions [D,3] that at most `BAKE_DIRECTIONS` of the cameras, evenly picked, look in."""
    picked = np.unique(np.linspace(0, len(cameras) - 1, BAKE_DIRECTIONS).round().astype(int))
    return np.stack([-cameras[i].pose[:3, 2] for i in picked]).astype(np.float32)


class HarmonicsModel:
    """A field of harmonics under tuning, every voxel with features of its own; a `train.Model`.

    Args:
      field: where to begin; its shading is "sh".
      steps: over which the rates decay.
    """

    def __init__(self, field: RadianceField, losses: LossWeights, steps: int, *, device: str = "cpu") -> None:
        self.start, self.losses, self.steps, self.kernels = field, losses, steps, select(device)
        self.density = Moments.of(torch.from_numpy(field.density[..., None].copy()).to(device))
        self.features = Moments.of(torch.from_numpy(field.features.copy()).to(device))
        active = torch.from_numpy(np.flatnonzero(active_voxels(field))).to(device)
        self.parameters = Parameters({"density": self.density, "features": self.features}, active)
        self.allowed = None if field.allowed is None else torch.from_numpy(field.allowed).to(device)
        self.touched = torch.zeros(field.lattice.shape, dtype=torch.uint8, device=device)
        self.gradients = Gradients(self.density.gradient[..., 0], self.features.gradient, (), self.touched)
        self.volume = replace(tensors(field.volume()), density=self.density.values[..., 0], features=self.features.values)
        self._find_cells()

    def _find_cells(self) -> None:
        cells = self.kernels.find_cells(self.volume.density, self.start.equation.floor, self.allowed)
        self._occupy(cells)

    def _occupy(self, cells: Tensor) -> None:
        self.volume = replace(self.volume, cells=cells, skip=self.kernels.measure_skip(cells))

    def prepare(self, step: int) -> bool:
        if step % REFRESH_STEPS == 0:
            self._find_cells()
        return step == 0

    def update(self, step: int) -> None:
        share = decay(step, self.steps, RATE_END)
        for moments, rate in ((self.density, RATE_DENSITY), (self.features, RATE_FEATURES)):
            moments.update(self.kernels, self.touched, rate * share, step + 1)
        self.touched.zero_()

    def state(self) -> Mapping[str, Tensor]:
        return self.parameters.state() | {"cells": self.volume.cells}

    def restore(self, state: Mapping[str, Tensor], step: int) -> None:
        self.parameters.restore(state)
        self._occupy(state["cells"])

    def field(self) -> RadianceField:
        density, features = (moments.values.cpu().numpy().copy() for moments in (self.density, self.features))
        return replace(self.start, density=density[..., 0], features=features)
