"""Bake: make a field whose colours a network makes into one of spherical harmonics that looks alike and is shaded faster.

    f_v = argmin_f  sum over d in D of | Y(d) f - logit(color_mlp(features_v, d)) |^2      for each voxel v and colour

D are directions that training cameras look in, so that what no camera sees pulls at nothing.
Only a start: the network knows occlusion no better than least squares does, and what a voxel's neighbours do to the colours
between them is not linear. Tuning (`vqrf.compress`) does the rest, in the rendering equation that the viewer will use.

Source: PlenOctrees (arXiv 2103.14024) sec. 4.2 bakes a network into harmonics and then tunes them. Departs: by least squares
over the training cameras' directions instead of an integral over the sphere, for degree 1, on a field of 128^3 voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from vqrf.field import RadianceField
from vqrf.geometry import Camera
from vqrf.kernels import HARMONICS_OF_CHANNELS
from vqrf.kernels.equation import colorize, tensors, view_harmonics

BAKE_CHANNELS = 12
"""Degree 1."""

BAKE_DIRECTIONS = 32
"""Spread over the training cameras; a fit of degree 1 has 4 unknowns."""

MAX_LOGIT = 8.0
"""Colours are held this far from 0 and 1, in logits: beyond, a network means nothing by the difference."""

VOXELS_PER_CHUNK = 4096


def bake_harmonics(
    field: RadianceField, cameras: Sequence[Camera], voxels: NDArray[np.bool_], *, n_channels: int = BAKE_CHANNELS
) -> RadianceField:
    """The field with harmonics of `n_channels` in place of its network, or itself where it has harmonics already.

    Args:
      cameras: of the training views, at least one.
      voxels: [X,Y,Z], which to bake; the features of all others are 0.

    Deterministic on one machine.
    """
    if field.shading == "sh":
        return field
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
    return replace(field, features=table, color_mlp=(), shading="sh")


def bake_directions(cameras: Sequence[Camera]) -> NDArray[np.float32]:
    """Unit directions [D,3] that at most `BAKE_DIRECTIONS` of the cameras, evenly picked, look in."""
    picked = np.unique(np.linspace(0, len(cameras) - 1, BAKE_DIRECTIONS).round().astype(int))
    return np.stack([-cameras[i].pose[:3, 2] for i in picked]).astype(np.float32)
