"""What the voxels of a lattice are while they are learnt: values of their own, or factors.

A grid shows itself to the kernels as density [X,Y,Z] and features [X,Y,Z,C], or as factors in their place, takes the gradients
of these, and can be put on another lattice over the same box. `VoxelGrid` learns the voxels themselves (DVGO, Plenoxels),
`FactorGrid` the planes and lines whose products they are (TensoRF, arXiv 2203.09517). These are read at the samples of rays: a
step costs what is sampled, and of voxels only the density is made, now and then, to see which cells are occupied.

Departs from TensoRF: density and features share a rate; factors that a step does not reach stay as they are, where TensoRF's
sparsity draws them to 0.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import mmap
import sys
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vqrf.fields.cells import voxels_of_cells
from vqrf.fields.factors import Factors, LineFactors
from vqrf.kernels import PLANE_AXES, FactorArrays, select
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


@dataclass(frozen=True)
class Shown:
    """What the kernels of rays are given of a grid, or its gradient: as in `Volume` and `Gradients`.

    Attributes:
      density: [X,Y,Z].
      features: [X,Y,Z,C]; [0,C] beside factors.
      factors: None where voxels have values of their own.
    """

    density: Tensor
    features: Tensor
    factors: FactorArrays[Tensor] | None = None


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
        self.touched = torch.zeros(density.shape[:3], dtype=torch.uint8, device=density.device)
        self.shown = Shown(self.density.values[..., 0], self.features.values)
        self.gradients = Shown(self.density.gradient[..., 0], self.features.gradient)

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

    def show(self, kernels: Backend) -> None:
        """Do nothing: the voxels of a VoxelGrid are what it learns."""

    def voxels(self, kernels: Backend, cells: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Density [X,Y,Z] and features [X,Y,Z,C]; on the CPU no copies."""
        return self.shown.density.cpu().numpy(), self.shown.features.cpu().numpy()

    def update(self, kernels: Backend, rates: Rates, step: int) -> None:
        """Apply the gradients of touched voxels, and clear these and the marks."""
        for moments, rate, weight in (
            (self.density, rates.density, rates.density_variation),
            (self.features, rates.features, rates.feature_variation),
        ):
            if weight:
                kernels.add_total_variation(moments.values, moments.gradient, self.touched, weight=weight)
            moments.update(kernels, self.touched, rate, step)
        self.touched.zero_()

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
        values, gradients = self._planes("values"), self._planes("gradient")
        lines = [self.parameters[f"lines{p}"] for p in range(3)]
        mix, empty = self.parameters["mix"], torch.zeros(0, arrays["mix"].shape[-1], device=active.device)
        self.shown = Shown(
            torch.full(shape, UNSEEN_DENSITY, device=active.device),
            empty,
            FactorArrays(values, (lines[0].values, lines[1].values, lines[2].values), mix.values),
        )
        self.gradients = Shown(
            torch.zeros(0, device=active.device),
            empty.clone(),
            FactorArrays(gradients, (lines[0].gradient, lines[1].gradient, lines[2].gradient), mix.gradient),
        )
        self.n_rows = [plane.shape[0] * plane.shape[1] for plane in values]
        self.touched = torch.zeros(sum(self.n_rows), dtype=torch.uint8, device=active.device)
        self.active_marks = torch.zeros(shape, dtype=torch.uint8, device=active.device)
        self.active_marks.view(-1)[active] = 1

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

    def _planes(self, part: Literal["values", "gradient"]) -> tuple[Tensor, Tensor, Tensor]:
        """The planes of values, or of gradients; of lines alone, room for what they are products of."""
        if self.decomposition == "vm":
            planes = [getattr(self.parameters[f"planes{p}"], part) for p in range(3)]
        else:
            line = self.parameters["lines0"].values
            planes = [line.new_zeros(self.shape[a], self.shape[b], line.shape[1]) for a, b, _ in PLANE_AXES]
        return planes[0], planes[1], planes[2]

    def show_density(self, kernels: Backend) -> None:
        """Bring the density of all active voxels to what was learnt."""
        self.show(kernels)
        kernels.expand_factors(_there(self.shown), self.active_marks, self.shown.density, None)

    def show(self, kernels: Backend) -> None:
        """Bring planes that are products to what was learnt."""
        if self.decomposition == "cp":
            for p, plane in enumerate(_there(self.shown).planes):
                torch.mul(self.parameters[f"firsts{p}"].values[:, None], self.parameters[f"seconds{p}"].values, out=plane)

    def voxels(self, kernels: Backend, cells: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The density [X,Y,Z] of active voxels as it was last shown, and the features [X,Y,Z,C] at the corners of these cells
        [X-1,Y-1,Z-1] uint8; others have none. Made anew."""
        self.show(kernels)
        density, factors = self.shown.density.cpu().numpy().copy(), _there(self.shown)
        features = _zeros_by_page((*self.shape, factors.mix.shape[-1]))
        planes, lines = ([array.cpu() for array in arrays] for arrays in (factors.planes, factors.lines))
        here = FactorArrays((planes[0], planes[1], planes[2]), (lines[0], lines[1], lines[2]), factors.mix.cpu())
        select().expand_factors(here, voxels_of_cells(cells.cpu().numpy()).astype(np.uint8), density, features)
        return density, features

    def update(self, kernels: Backend, rates: Rates, step: int) -> None:
        """Apply the gradients of rows that were touched, and of all lines; clear all."""
        if self.decomposition == "cp":
            self._lower(_there(self.gradients))
        ends = list(itertools.accumulate(self.n_rows))
        touched = {f"planes{p}": self.touched[end - self.n_rows[p] : end] for p, end in enumerate(ends)}
        n_density = self.parameters["lines0"].values.shape[1] - self.parameters["mix"].values.shape[1]
        for name, moments in self.parameters.items():
            marks, rank = touched.get(name), moments.values.shape[-1]
            if rates.sparsity and name != "mix":
                values, gradient = (array.view(-1, rank) for array in (moments.values, moments.gradient))
                weight = rates.sparsity / (len(values) * n_density)
                kernels.add_sparsity(values, gradient, marks, n_columns=n_density, weight=weight)
            moments.update(kernels, marks, rates.mix if name == "mix" else rates.features, step)
        self.touched.zero_()

    def _lower(self, gradients: FactorArrays[Tensor]) -> None:
        """From planes that are products to their two lines."""
        for p, plane in enumerate(gradients.planes):
            first, second = self.parameters[f"firsts{p}"], self.parameters[f"seconds{p}"]
            first.gradient += (plane * second.values).sum(1)
            second.gradient += (plane * first.values[:, None]).sum(0)
            plane.zero_()

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


def _there(shown: Shown) -> FactorArrays[Tensor]:
    assert shown.factors is not None
    return shown.factors


def _zeros_by_page(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros in float32 that take memory where they are written to, by pages of the least size: NumPy asks for large ones, of
    which the surfaces in a fine lattice leave next to none untouched."""
    if sys.platform != "linux":
        return np.zeros(shape, np.float32)
    room = mmap.mmap(-1, 4 * math.prod(shape), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # where the system has no large pages
        room.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(room, np.float32).reshape(shape)


def _resampled(array: Tensor, sides: list[int]) -> Tensor:
    """A plane [A,B,R] or a line [A,R] on another corner-aligned lattice."""
    moved = array.movedim(-1, 0)[None]
    mode = "bilinear" if len(sides) == 2 else "linear"
    return interpolate(moved, size=tuple(sides), mode=mode, align_corners=True)[0].movedim(0, -1).contiguous()
