"""What the voxels of a lattice are while they are learnt: values of their own, or factors.

A grid shows itself to the kernels as density [X,Y,Z] and features [X,Y,Z,C], takes the gradients of these, and can be put on
another lattice over the same box. `VoxelGrid` learns the voxels themselves (DVGO, Plenoxels), `FactorGrid` the planes and lines
whose products they are (TensoRF, arXiv 2203.09517). As bilinear planes times linear lines are trilinear inside a cell, the
second renders by the kernels of the first: before a step the voxels of occupied cells are expanded, after it the gradients of
the voxels that it touched are gathered.

Departs from TensoRF: a step costs what is occupied, and not what is sampled; density and features share a rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vqrf.fields.cells import voxels_of_cells
from vqrf.fields.factors import Factors, LineFactors
from vqrf.kernels import PLANE_AXES, FactorArrays
from vqrf.kernels.contract import Backend
from vqrf.training.parameters import Moments, Parameters

UNSEEN_DENSITY = -100.0
"""Raw density that no bias lifts to a visible alpha: voxels that no camera sees, or that sit in front of a lens."""

Shape = tuple[int, int, int]
Decomposition = Literal["vm", "cp"]


@dataclass(frozen=True)
class Rates:
    """What one step uses: Adam's learning rates, and the weights of what is added to the gradients.

    Attributes:
      density, features: for a `VoxelGrid` of each voxel, if they are tensors. A `FactorGrid` has the second alone.
      mix: of the matrix that makes channels of products.
      density_variation, feature_variation: of the total variation of touched voxels.
      sparsity: of the mean magnitude of the components of density.
    """

    density: float | Tensor
    features: float | Tensor
    mix: float = 0.0
    density_variation: float = 0.0
    feature_variation: float = 0.0
    sparsity: float = 0.0


def resample(values: Tensor, shape: Shape) -> Tensor:
    """Values [X,Y,Z,C] on another corner-aligned lattice over the same box, trilinearly."""
    moved = values.permute(3, 0, 1, 2)[None]
    return interpolate(moved, size=shape, mode="trilinear", align_corners=True)[0].permute(1, 2, 3, 0).contiguous()


def _carried(values: Tensor, shape: Shape, active: Tensor) -> Tensor:
    """Values [X,Y,Z,C] on another lattice, 0 where it is not active."""
    n_channels = values.shape[-1]
    rows = resample(values, shape).view(-1, n_channels)[active]
    carried = torch.zeros(*shape, n_channels, device=values.device)
    carried.view(-1, n_channels)[active] = rows
    return carried


class VoxelGrid:
    """Every voxel with a density and features of its own.

    Args:
      density: [X,Y,Z,1].
      features: [X,Y,Z,C].
      active: the flat numbers of those voxels that are ever looked at.
    """

    def __init__(self, density: Tensor, features: Tensor, active: Tensor) -> None:
        self.density, self.features, self.active = Moments.of(density), Moments.of(features), active
        self.parameters = Parameters({"density": self.density, "features": self.features}, active)
        self.shown = self.density.values[..., 0], self.features.values
        self.gradients = self.density.gradient[..., 0], self.features.gradient

    @classmethod
    def at_rest(cls, shape: Shape, n_channels: int, active: Tensor, density: float) -> VoxelGrid:
        """No features, and the given density where anything is looked at."""
        grid = cls(torch.zeros(*shape, 1, device=active.device), torch.zeros(*shape, n_channels, device=active.device), active)
        grid.density.values.view(-1)[active] = density
        return grid

    def on(self, shape: Shape, active: Tensor) -> VoxelGrid:
        """This grid on another lattice; what is not active there is zero, as a checkpoint has it.

        This one is not to learn any more: at 256^3 voxels what it has beside its values would be a gigabyte.
        """
        del self.gradients
        density, features = (_carried(moments.give_up(), shape, active) for moments in (self.density, self.features))
        return VoxelGrid(density, features, active)

    def show_density(self, kernels: Backend) -> None:
        """Do nothing: the voxels of a VoxelGrid are what it learns."""

    def choose(self, cells: Tensor) -> None:
        """From now on `show` the voxels at the corners of these cells [X-1,Y-1,Z-1] uint8."""

    def show(self, kernels: Backend) -> None:
        """Do nothing: the voxels of a VoxelGrid are what it learns."""

    def update(self, kernels: Backend, touched: Tensor, rates: Rates, step: int) -> None:
        """Apply the gradients of touched voxels, and clear them."""
        for moments, rate, weight in (
            (self.density, rates.density, rates.density_variation),
            (self.features, rates.features, rates.feature_variation),
        ):
            if weight:
                kernels.add_total_variation(moments.values, moments.gradient, touched, weight=weight)
            moments.update(kernels, touched, rate, step)

    def factors(self) -> None:
        """None: the voxels are not products."""
        return


class FactorGrid:
    """Voxels that are sums of products, see `vqrf.kernels.FactorArrays`.

    Args:
      decomposition: "vm": planes and lines. "cp": lines alone, three to a product; each third of the components has its first
        two multiplied to planes.
      arrays: what is learnt, by kind: "planes" [A,B,R], or "firsts" [A,R] and "seconds" [B,R]; "lines" [C,R]; "mix" [3,R_f,C].
      active: the flat numbers of those voxels that are ever looked at.
    """

    def __init__(self, decomposition: Decomposition, arrays: dict[str, Tensor], shape: Shape, active: Tensor) -> None:
        self.decomposition, self.shape, self.active = decomposition, shape, active
        self.parameters = Parameters({name: Moments.of(array) for name, array in arrays.items()})
        n_channels = self.parameters["mix"].values.shape[-1]
        self.shown = (
            torch.full(shape, UNSEEN_DENSITY, device=active.device),
            torch.zeros(*shape, n_channels, device=active.device),
        )
        self.gradients = torch.zeros_like(self.shown[0]), torch.zeros_like(self.shown[1])
        self.active_marks = torch.zeros(shape, dtype=torch.uint8, device=active.device)
        self.active_marks.view(-1)[active] = 1
        self.marks = self.active_marks

    @classmethod
    def at_random(
        cls, decomposition: Decomposition, shape: Shape, sizes: tuple[int, int, int], active: Tensor, seed: int
    ) -> FactorGrid:
        """Small factors; `sizes` are the components of density and of features of each plane, and the channels.

        TensoRF's start but for the lines of a VM, which are about 0.3 and not about 0: the planes learn from the first step on.
        """
        (n_density, n_features, n_channels), generator = sizes, torch.Generator().manual_seed(seed)
        rank = n_density + n_features
        arrays: dict[str, Tensor] = {}
        for p, (a, b, c) in enumerate(PLANE_AXES):
            if decomposition == "vm":
                arrays[f"planes{p}"] = 0.1 * torch.randn(shape[a], shape[b], rank, generator=generator)
                arrays[f"lines{p}"] = 0.3 + 0.1 * torch.randn(shape[c], rank, generator=generator)
            else:
                for name, axis in (("firsts", a), ("seconds", b), ("lines", c)):
                    arrays[f"{name}{p}"] = 0.2 * torch.randn(shape[axis], rank, generator=generator)
        reach = 1 / np.sqrt(3 * n_features)
        arrays["mix"] = reach * (2 * torch.rand(3, n_features, n_channels, generator=generator) - 1)
        return cls(decomposition, {name: array.to(active.device) for name, array in arrays.items()}, shape, active)

    def on(self, shape: Shape, active: Tensor) -> FactorGrid:
        """This grid on another lattice: planes and lines are resampled, which is what resampled voxels would be."""
        arrays = {"mix": self.parameters["mix"].values}
        for p, (a, b, c) in enumerate(PLANE_AXES):
            for name, axes in (("planes", [a, b]), ("firsts", [a]), ("seconds", [b]), ("lines", [c])):
                if f"{name}{p}" in self.parameters:
                    arrays[f"{name}{p}"] = _resampled(self.parameters[f"{name}{p}"].values, [shape[axis] for axis in axes])
        return FactorGrid(self.decomposition, arrays, shape, active)

    def _arrays(self, part: str) -> FactorArrays:
        """Planes, lines and mix of values, or of gradients; planes that are products are made."""
        array = {name: getattr(moments, part) for name, moments in self.parameters.items()}
        lines = [array[f"lines{p}"] for p in range(3)]
        if self.decomposition == "vm":
            planes = [array[f"planes{p}"] for p in range(3)]
        elif part == "values":
            planes = [array[f"firsts{p}"][:, None] * array[f"seconds{p}"] for p in range(3)]
        else:
            sides, rank = self.shape, lines[0].shape[1]
            planes = [torch.zeros(sides[a], sides[b], rank, device=lines[0].device) for a, b, _ in PLANE_AXES]
        return FactorArrays((planes[0], planes[1], planes[2]), (lines[0], lines[1], lines[2]), array["mix"])

    def show_density(self, kernels: Backend) -> None:
        """Bring the density of all active voxels to what was learnt."""
        kernels.expand_factors(self._arrays("values"), self.active_marks, self.shown[0], None)

    def choose(self, cells: Tensor) -> None:
        """From now on `show` the voxels at the corners of these cells [X-1,Y-1,Z-1] uint8; of the others the features are 0."""
        marks = torch.from_numpy(voxels_of_cells(cells.cpu().numpy()).astype(np.uint8)).to(cells.device)
        self.shown[1][(self.marks != 0) & (marks == 0)] = 0
        self.marks = marks

    def show(self, kernels: Backend) -> None:
        """Bring the voxels chosen to what was learnt."""
        kernels.expand_factors(self._arrays("values"), self.marks, *self.shown)

    def update(self, kernels: Backend, touched: Tensor, rates: Rates, step: int) -> None:
        """Carry the gradients of touched voxels to the factors, apply them there, and clear all."""
        values, gradients = self._arrays("values"), self._arrays("gradient")
        kernels.gather_factors(values, touched, *self.gradients, gradients)
        if self.decomposition == "cp":
            self._lower(gradients)
        n_density = values.lines[0].shape[1] - values.mix.shape[1]
        for name, moments in self.parameters.items():
            if rates.sparsity and name != "mix":
                of_density = moments.values[..., :n_density]
                moments.gradient[..., :n_density] += rates.sparsity / of_density.numel() * of_density.sign()
            moments.update(kernels, None, rates.mix if name == "mix" else rates.features, step)

    def _lower(self, gradients: FactorArrays) -> None:
        """From planes that are products to their two lines."""
        for p, plane in enumerate(gradients.planes):
            first, second = self.parameters[f"firsts{p}"], self.parameters[f"seconds{p}"]
            first.gradient += (plane * second.values).sum(1)
            second.gradient += (plane * first.values[:, None]).sum(0)

    def factors(self) -> Factors | LineFactors:
        """What the voxels are products of."""
        array = {name: moments.values.cpu().numpy().copy() for name, moments in self.parameters.items()}
        lines = [array[f"lines{p}"] for p in range(3)]
        if self.decomposition == "vm":
            planes = [array[f"planes{p}"] for p in range(3)]
            return Factors((planes[0], planes[1], planes[2]), (lines[0], lines[1], lines[2]), array["mix"])
        of_axis: list[list[np.ndarray]] = [[], [], []]
        for p, axes in enumerate(PLANE_AXES):
            for name, axis in zip(("firsts", "seconds", "lines"), axes, strict=True):
                of_axis[axis].append(array[f"{name}{p}"])
        n_density = lines[0].shape[1] - array["mix"].shape[1]
        x, y, z = (
            np.concatenate([line[:, :n_density] for line in thirds] + [line[:, n_density:] for line in thirds], 1)
            for thirds in of_axis
        )
        return LineFactors((z, y, x), array["mix"].reshape(-1, array["mix"].shape[-1]))


Grid = VoxelGrid | FactorGrid


def _resampled(array: Tensor, sides: list[int]) -> Tensor:
    """A plane [A,B,R] or a line [A,R] on another corner-aligned lattice."""
    moved = array.movedim(-1, 0)[None]
    mode = "bilinear" if len(sides) == 2 else "linear"
    return interpolate(moved, size=tuple(sides), mode=mode, align_corners=True)[0].movedim(0, -1).contiguous()
