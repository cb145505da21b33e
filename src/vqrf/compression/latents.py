"""Latents: features turned and scaled by what they do to a colour, so that one step is worth the same in each of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqrf.fields.field import RadianceField
from vqrf.kernels.equation import colorize, tensors

SENSITIVITY_DRAWS = 20000


FLATTEST = 1e-4
"""A direction of feature space that colour hardly depends on counts as if it had this share of the strongest one's effect."""


@dataclass(frozen=True)
class Looks:
    """Places that matter, and where they are looked at from.

    Attributes:
      rows: [M] int64, of voxels by importance.
      directions: [M,3] unit.
    """

    rows: Tensor
    directions: Tensor

    @classmethod
    def draw(cls, share: Tensor, seed: int) -> Looks:
        """So many looks at voxels of which each has its share [N]."""
        generator = torch.Generator().manual_seed(seed)
        rows = torch.multinomial(share, SENSITIVITY_DRAWS, replacement=True, generator=generator)
        return cls(rows, torch.nn.functional.normalize(torch.randn(len(rows), 3, generator=generator), dim=1))


def effect_on_colour(field: RadianceField, features: Tensor, looks: Looks) -> Tensor:
    """[C,C] float64: mean of J^T J, J the derivative of colour by features [N,C], over the looks."""
    x = features[looks.rows].clone().requires_grad_(True)
    layers = tuple((torch.from_numpy(weight), torch.from_numpy(bias)) for weight, bias in field.color_mlp)
    color = colorize(replace(tensors(field.volume()), layers=layers), x, looks.directions)
    slopes = [torch.autograd.grad(color[:, k].sum(), x, retain_graph=True)[0].double() for k in range(3)]
    return torch.stack([s.T @ s for s in slopes]).sum(0) / (3 * len(x))


def latent_basis(
    field: RadianceField, features: Tensor, share: Tensor, looks: Looks, step: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A [C,C] and its inverse: latents = features @ A, in which one unit changes a colour by `step` rms in every direction.

    With G the `effect_on_colour` of features, over directions and voxels by importance, A is sqrt(G) turned into the principal
    axes of the features and divided by `step`; the first latent varies most.
    """
    effect, axes = torch.linalg.eigh(effect_on_colour(field, features, looks))
    strongest = float(effect.max())
    root = effect.clamp(min=strongest * FLATTEST if strongest > 0 else 1.0).sqrt()  # all alike where no colour depends on any
    whiten, undo = axes @ torch.diag(root) @ axes.T, axes @ torch.diag(1 / root) @ axes.T
    white = features.double() @ whiten
    centred = white - share @ white
    turn = torch.linalg.eigh((centred * share[:, None]).T @ centred)[1].flip(1)
    return (whiten @ turn / step).numpy(), (turn.T @ undo * step).numpy()
