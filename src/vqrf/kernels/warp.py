"""The back end for a graphics card, in NVIDIA Warp; on Warp's CPU device too, slowly. Twin: `vqrf.kernels.reference`.

The kernels run where the density of the volume lies, or the first array where there is none. They march, gather, scatter and
composite; the colour network is PyTorch's, on samples that were gathered, and arrays cross without a copy.

The kernels of arrays are in `warp_arrays`; of the contract only `measure_ssim` is the reference's, as pictures are scored where
they are.

Sums of gradients are atomic: on a card they add in no order, and two runs differ in the last digits. After
`torch.use_deterministic_algorithms(True)` they are sorted (`warp_sums`), which takes longer, and two runs are the same. A call
waits for the card once, to learn how many samples its rays have, and once more for each part of many samples; nothing else in a
step waits. As that number decides how large arrays are, steps are not captured as a CUDA graph.

Warp compiles the kernels when they are first used, which takes a minute, and keeps what it made in a cache of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np
import torch
import warp as wp
from torch import Tensor

from vqrf.kernels import A, Array, FactorArrays, Gradients, LossWeights, Roulette, Volume, warp_march, warp_rays, warp_sums
from vqrf.kernels.contract import B
from vqrf.kernels.equation import LOSS_TERMS, Looks, colorize, loss_terms, rays_of, result_like, tensors, writable
from vqrf.kernels.reference import leaves_of, writable_gradients
from vqrf.kernels.warp_arrays import (  # noqa: F401 (the rest of the back end)
    add_in_order,
    add_rate_gradient,
    add_sparsity,
    add_total_variation,
    assign_codes,
    expand_factors,
    find_cells,
    lower_gradient,
    masked_adam,
    measure_skip,
    move_gradients,
    pixel_rays,
    place_rows,
    raise_level,
    round_to_steps,
    sum_by_code,
    take_rows,
    tie_gradients,
)
from vqrf.kernels.warp_launch import factors_of, flat, launch, numbers, triples

CHUNK_SAMPLES = 2**20
"""About how many live samples are coloured together: up to 3 GB with a network of 128 units, if all of them are shaded."""

MAX_VOXELS = 2**31 - 1
"""Voxels are numbered in 32 bits."""


def fault(subject: Volume[B] | FactorArrays[B]) -> str | None:
    """What of a volume is beyond these kernels; None if nothing is."""
    if isinstance(subject, FactorArrays):
        return None
    if "float32" not in str(subject.density.dtype):
        return f"values of {subject.density.dtype}"
    n_voxels = math.prod(subject.density.shape)
    return f"{n_voxels} voxels (at most {MAX_VOXELS})" if n_voxels > MAX_VOXELS else None


def refusal(device: str) -> str | None:
    """Why Warp cannot use a device that PyTorch can; None if it can."""
    if device == "cpu" or wp.is_cuda_available():
        return None
    return f"{device}, as version {wp.__version__} finds no driver that is new enough"


# ------------------------------------------------------------------------------------------------ rays in a volume


def _grid_of(volume: Volume[Tensor]) -> warp_march.Grid:
    grid, equation, factors = warp_march.Grid(), volume.equation, volume.factors
    grid.shape, grid.blocks = wp.vec3i(*volume.density.shape), wp.vec3i(*volume.skip.shape)
    lo, hi, (step, near) = (
        np.array(constants, np.float32).tolist() for constants in (volume.lo, volume.hi, (equation.step_world, equation.near))
    )
    grid.lo, grid.hi, grid.step, grid.near = wp.vec3d(*lo), wp.vec3d(*hi), step, near
    grid.bias, grid.interval, grid.threshold = equation.density_bias, equation.interval, equation.alpha_threshold
    grid.is_relu, grid.is_factored = equation.activation == "relu", factors is not None
    grid.density, grid.cells, grid.skip = flat(volume.density), flat(volume.cells), flat(volume.skip)
    grid.space_kind = warp_march.kind_of(volume.space)
    if volume.space is not None:
        grid.space = wp.mat44d(*np.asarray(volume.space.matrix, np.float64).ravel().tolist())
    if factors is not None:
        grid.n_density = factors.lines[0].shape[1] - factors.mix.shape[1]
        grid.factors = factors_of(factors)
    return grid


@dataclass(frozen=True)
class _Samples:
    """The live samples of n rays, M, and those with a colour, S; `warp_rays.Samples` with what its tensors are needed for.

    Attributes:
      weight: [M].
      live, ray, factor: [S] int32, int64 and float32; number of the live sample, and of the ray; what the weight counts times.
      arrays: the same and more, for kernels.
    """

    weight: Tensor
    live: Tensor
    ray: Tensor
    factor: Tensor
    arrays: warp_rays.Samples

    @property
    def counted(self) -> Tensor:
        """What the samples with a colour count in a pixel, [S]."""
        return self.weight[self.live] * self.factor


class _Rays:
    """N rays in a volume, and how many samples they have. A ray of weight 0 has none; without weights all have theirs.

    Attributes:
      background_weight, depth, owed: [N]; the last is what the target's colour counts, see `Roulette`.
    """

    def __init__(
        self,
        volume: Volume[Tensor],
        origins: Tensor,
        directions: Tensor,
        weights: Tensor | None = None,
        *,
        roulette: Roulette[Tensor] | None = None,
    ) -> None:
        self.roulette = roulette
        self.weights = origins.new_empty(0) if weights is None else weights.contiguous()
        self.volume, self.origins, self.directions = volume, origins.contiguous(), directions.contiguous()
        self.grid, self.device, n = _grid_of(volume), volume.density.device, len(origins)
        self.counts = torch.empty(2, n, dtype=torch.int32, device=self.device)
        sums = torch.empty(3, n, device=self.device)
        self.background_weight, self.depth, self.owed = sums.unbind()
        rays = triples(self.origins), triples(self.directions), numbers(self.weights), self._played(slice(0, n))
        out = numbers(self.counts), numbers(sums)
        launch(warp_rays.count_samples, self.device, n, self.grid, *rays, *out)
        self.n_live, self.n_shaded = self.counts.sum(1).tolist()  # waits for the card

    def parts(self) -> Iterator[tuple[slice, _Samples]]:
        """The rays in slices of about CHUNK_SAMPLES live samples, each with its samples; one slice at least."""
        n = len(self.origins)
        if self.n_live <= CHUNK_SAMPLES:
            yield slice(0, n), self._samples(slice(0, n), self.n_live, self.n_shaded)
            return
        marks = torch.arange(CHUNK_SAMPLES, self.n_live, CHUNK_SAMPLES, device=self.device)
        bounds = torch.searchsorted(self.counts[0].cumsum(0), marks).tolist()
        for start, stop in zip([0, *bounds], [*bounds, n], strict=True):
            part = slice(start, stop)
            yield part, self._samples(part, *self.counts[:, part].sum(1).tolist())

    def _played(self, part: slice) -> warp_rays.Roulette:
        made = warp_rays.Roulette()
        if self.roulette is None:
            made.chances = numbers(self.origins.new_empty(0))
        else:
            made.weight, made.chances = self.roulette.weight, numbers(self.roulette.chances[part].contiguous())
        return made

    def _samples(self, part: slice, n_live: int, n_shaded: int) -> _Samples:
        counts = self.counts[:, part].contiguous()
        starts = (counts.cumsum(1) - counts).int()
        arrays = warp_rays.Samples()
        arrays.spacing = self.volume.equation.step_world / self.volume.lattice.longest_way
        t, way, weight, left, slope = torch.empty(5, n_live, device=self.device).unbind()
        voxel, shaded = torch.empty(2, n_live, dtype=torch.int32, device=self.device).unbind()
        live = torch.empty(n_shaded, dtype=torch.int32, device=self.device)
        ray = torch.empty(n_shaded, dtype=torch.int64, device=self.device)
        factor = torch.empty(n_shaded, device=self.device)
        arrays.t, arrays.way, arrays.weight, arrays.left, arrays.slope = map(numbers, (t, way, weight, left, slope))
        arrays.voxel, arrays.shaded, arrays.live, arrays.ray, arrays.factor = map(numbers, (voxel, shaded, live, ray, factor))
        arrays.owed_color = triples(self.origins[:0])
        arrays.share = triples(torch.empty(n_live, 3, device=self.device))
        arrays.starts, arrays.counts = numbers(starts), numbers(counts)
        weights = self.weights[part] if len(self.weights) else self.weights
        rays = triples(self.origins[part]), triples(self.directions[part]), numbers(weights), self._played(part)
        launch(warp_rays.write_samples, self.device, len(counts[0]), self.grid, *rays, arrays)
        return _Samples(weight, live, ray, factor, arrays)


# ------------------------------------------------------------------------------------------------- what rays look like


def _gather(rays: _Rays, samples: _Samples) -> Tensor:
    """What colours are made of at the shaded samples: features [S,C], or components of factors [S,3,R_f]."""
    volume, n = rays.volume, len(samples.ray)
    if volume.factors is not None:
        values = torch.empty(n, 3, volume.factors.mix.shape[1], device=rays.device)
        launch(warp_rays.gather_components, rays.device, tuple(values.shape), rays.grid, samples.arrays, numbers(values))
        return values
    table = volume.features.flatten(0, -2)
    values = torch.empty(n, table.shape[1], device=rays.device)
    arguments = rays.grid.shape, samples.arrays, numbers(table), _rows_of(volume), numbers(values)
    launch(warp_rays.gather_features, rays.device, tuple(values.shape), *arguments)
    return values


def _rows_of(volume: Volume[Tensor]) -> wp.array:
    """Rows of the voxels; none where each has its own."""
    return flat(_no_rows(volume) if volume.rows is None else volume.rows)


def _no_rows(volume: Volume[Tensor]) -> Tensor:
    return torch.empty(0, dtype=torch.int32, device=volume.density.device)


def _color(rays: _Rays, part: slice, samples: _Samples, values: Tensor) -> Tensor:
    """Colours [S,3] of what `_gather` answers; differentiable."""
    factors = rays.volume.factors
    features = values if factors is None else values.flatten(1) @ factors.mix.flatten(0, 1)
    return colorize(rays.volume, features, rays.directions[part][samples.ray])


def _composite(rays: _Rays, part: slice, samples: _Samples, color: Tensor) -> Tensor:
    """Pixels [n,3]."""
    pixel = torch.empty_like(rays.origins[part])
    background, light = wp.vec3(*rays.volume.equation.background), numbers(rays.background_weight[part])
    arguments = samples.arrays, triples(color.contiguous()), background, light, triples(pixel)
    launch(warp_rays.add_colors, rays.device, len(pixel), *arguments)
    return pixel


def _distortion(rays: _Rays, samples: _Samples, n: int) -> Tensor:
    """[n]"""
    apart = torch.empty(n, device=rays.device)
    launch(warp_rays.measure_distortion, rays.device, n, samples.arrays, numbers(apart))
    return apart


def hit_rays(volume: Volume[B], origins: A, directions: Array) -> A:
    v = tensors(volume)
    o, d = (array.contiguous() for array in rays_of(v, origins, directions))
    hit = torch.empty(len(o), dtype=torch.uint8, device=o.device)
    launch(warp_rays.find_hits, o.device, len(o), _grid_of(v), triples(o), triples(d), numbers(hit))
    return result_like(hit, origins)


@torch.no_grad()
def render_rays(volume: Volume[B], origins: A, directions: Array) -> tuple[A, A, A]:
    v = tensors(volume)
    rays = _Rays(v, *rays_of(v, origins, directions))
    pixels = []
    for part, samples in rays.parts():
        color = _color(rays, part, samples, _gather(rays, samples))
        pixels.append(_composite(rays, part, samples, color))
    rgb = torch.cat(pixels)
    return result_like(rgb, origins), result_like(rays.background_weight, origins), result_like(rays.depth, origins)


# ------------------------------------------------------------------------------------------------------- gradients


@dataclass(frozen=True)
class _Slopes:
    """How a loss changes with what n rays look like: pixel [n,3], background weight, depth, distortion [n], colours [S,3]."""

    pixel: Tensor
    background_weight: Tensor
    depth: Tensor
    distortion: Tensor
    color: Tensor


@torch.enable_grad()
def render_gradients(
    volume: Volume[B],
    origins: Array,
    directions: Array,
    targets: Array,
    losses: LossWeights,
    gradients: Gradients[B],
    *,
    weights: Array | None = None,
) -> Mapping[str, SupportsFloat]:
    """The terms are numbers on the device, which whoever asks for one waits for."""
    v = leaves_of(tensors(volume))
    o, d, target = rays_of(v, origins, directions, targets)
    n_rays, share = max(len(o), 1), torch.ones(len(o), device=o.device)
    if weights is not None:
        (share,) = rays_of(v, weights)
        target = torch.where(share[:, None] != 0, target, 0.0)
    factors = torch.tensor([1.0, *(getattr(losses, name) for name in LOSS_TERMS)], device=o.device)
    played = losses.roulette
    drawn = None if played is None else Roulette(played.weight, rays_of(v, played.chances)[0])
    rays = _Rays(v, o, d, None if weights is None else share, roulette=drawn)
    into = writable_gradients(gradients)
    totals = torch.zeros(len(factors), dtype=torch.float64, device=o.device)
    for part, samples in rays.parts():
        values = _gather(rays, samples).requires_grad_()
        color = _color(rays, part, samples, values)
        colors = target[part, :3].contiguous()
        pixel = _composite(rays, part, samples, color.detach()) + rays.owed[part, None] * colors
        apart = _distortion(rays, samples, len(pixel)) if losses.distortion else torch.zeros_like(pixel[:, 0])
        leaves = [array.detach().requires_grad_() for array in (pixel, rays.background_weight[part], color, apart)]
        seen = Looks(leaves[0], leaves[1], samples.ray, samples.counted, leaves[2], leaves[3])
        terms = loss_terms(seen, target[part], share[part], n_rays)
        each = torch.stack([terms[name] for name in ("mse", *LOSS_TERMS)])
        by_pixel, by_light, by_color, by_apart = torch.autograd.grad((each * factors).sum(), leaves)
        if drawn is not None:
            samples.arrays.owed_color = triples(colors)
        slopes = _Slopes(by_pixel, by_light, torch.zeros_like(by_light), by_apart, by_color)
        _add_gradients(rays, samples, (values, color), slopes, into)
        totals += each.detach()
    named: dict[str, SupportsFloat] = dict(zip(("mse", *LOSS_TERMS), totals.unbind(), strict=True))
    return named | {"n_live": float(rays.n_live), "n_shaded": float(rays.n_shaded)}


@torch.enable_grad()
def backpropagate(
    volume: Volume[B],
    origins: Array,
    directions: Array,
    d_rgb: Array,
    d_background_weight: Array | None,
    d_depth: Array | None,
    gradients: Gradients[B],
) -> None:
    v = leaves_of(tensors(volume))
    o, d, by_rgb = rays_of(v, origins, directions, d_rgb)
    nothing = torch.zeros(len(o), device=o.device)
    by_light, by_depth = (nothing if a is None else rays_of(v, a)[0] for a in (d_background_weight, d_depth))
    rays, into = _Rays(v, o, d), writable_gradients(gradients)
    for part, samples in rays.parts():
        values = _gather(rays, samples).requires_grad_()
        color = _color(rays, part, samples, values)
        slopes = _Slopes(by_rgb[part], by_light[part], by_depth[part], nothing[part], torch.zeros_like(color))
        _add_gradients(rays, samples, (values, color), slopes, into)


@torch.no_grad()
def _add_gradients(rays: _Rays, samples: _Samples, made: tuple[Tensor, Tensor], by: _Slopes, into: Gradients[Tensor]) -> None:
    """Add what slopes make of densities, features and layers; `made` are the values that were gathered and their colours."""
    volume, (values, color) = rays.volume, made
    by_color, by_density = by.color.clone(), torch.empty_like(samples.weight)
    by_light = by.background_weight + by.pixel @ by.pixel.new_tensor(volume.equation.background)
    out = triples(by_color), numbers(by_density)
    of_rays = triples(by.pixel.contiguous()), *(numbers(a.contiguous()) for a in (by_light, by.depth, by.distortion))
    arguments = samples.arrays, triples(color.contiguous()), *of_rays, *out
    launch(warp_rays.differentiate_weights, rays.device, len(by_light), *arguments)
    leaves = [values, *(array for layer in volume.layers for array in layer)]
    targets = [array for layer in into.layers for array in layer]
    if volume.factors is not None:
        assert into.factors is not None
        leaves.append(volume.factors.mix)
        targets.append(into.factors.mix)
    by_values, *by_weights = torch.autograd.grad(color, leaves, by_color)
    for target, gradient in zip(targets, by_weights, strict=True):
        target += gradient
    scatter = _scatter_to_voxels if volume.factors is None else _scatter_to_factors
    scatter(rays, samples, by_density, by_values.contiguous(), into)


def _scatter_to_voxels(
    rays: _Rays, samples: _Samples, by_density: Tensor, by_features: Tensor, into: Gradients[Tensor]
) -> None:
    shape, rows = rays.grid.shape, _rows_of(rays.volume)
    if torch.are_deterministic_algorithms_enabled():
        of_density = _corners(rays, samples, _every(by_density), rows)
        of_features = _corners(rays, samples, samples.live, rows)
        add_in_order(*of_density, by_density[:, None], into.density.view(-1, 1))
        add_in_order(*of_features, by_features, into.features.flatten(0, -2))
        launch(warp_sums.mark, rays.device, of_density[0].numel(), flat(of_density[0]), flat(into.touched))
        return
    arguments = shape, samples.arrays, numbers(by_density), rows, flat(into.density), flat(into.touched)
    launch(warp_rays.scatter_density, rays.device, len(by_density), *arguments)
    features = samples.arrays, numbers(by_features), rows, numbers(into.features.flatten(0, -2))
    launch(warp_rays.scatter_features, rays.device, tuple(by_features.shape), shape, *features)


def _scatter_to_factors(
    rays: _Rays, samples: _Samples, by_density: Tensor, by_components: Tensor, into: Gradients[Tensor]
) -> None:
    assert into.factors is not None
    n_density, gradient = rays.grid.n_density, factors_of(into.factors)
    by_each = by_density[:, None, None].expand(-1, 3, n_density)
    for live, slopes, first in ((_every(by_density), by_each, 0), (samples.live, by_components, n_density)):
        if torch.are_deterministic_algorithms_enabled():
            _add_factors_in_order(rays, samples, live, (slopes, first), into.factors)
            continue
        arguments = rays.grid, samples.arrays, numbers(live), numbers(slopes), first, gradient
        launch(warp_rays.scatter_components, rays.device, tuple(slopes.shape), *arguments)
    launch(warp_rays.mark_rows, rays.device, len(by_density), rays.grid.shape, samples.arrays, flat(into.touched))


# ------------------------------------------------------------------------------------------- sums in a fixed order


def _every(of_samples: Tensor) -> Tensor:
    """The numbers of all live samples."""
    return torch.arange(len(of_samples), dtype=torch.int32, device=of_samples.device)


def _list(kernel: wp.Kernel, rays: _Rays, samples: _Samples, live: Tensor, size: int, *more: object) -> tuple[Tensor, Tensor]:
    """Targets and shares of samples, [K,size] each."""
    targets = torch.empty(len(live), size, dtype=torch.int32, device=rays.device)
    shares = torch.empty(len(live), size, device=rays.device)
    arguments = rays.grid.shape, samples.arrays, numbers(live), *more, numbers(targets), numbers(shares)
    launch(kernel, rays.device, len(live), *arguments)
    return targets, shares


def _corners(rays: _Rays, samples: _Samples, live: Tensor, rows: wp.array) -> tuple[Tensor, Tensor]:
    """The voxels around samples that are not pruned, and the shares of all, [K,8] each."""
    return _list(warp_sums.list_corners, rays, samples, live, 8, rows)


def _add_factors_in_order(
    rays: _Rays, samples: _Samples, live: Tensor, by: tuple[Tensor, int], into: FactorArrays[Tensor]
) -> None:
    """Add slopes [K,3,n] by components from a first one on to planes and lines."""
    slopes, first = by
    by_plane, by_line = torch.empty(2, 3, len(live), slopes.shape[2], device=rays.device).unbind()
    arguments = rays.grid, samples.arrays, numbers(live), numbers(slopes), first, numbers(by_plane), numbers(by_line)
    launch(warp_sums.differentiate_factors, rays.device, tuple(slopes.shape), *arguments)
    for plane in range(3):
        rows = _list(warp_sums.list_rows, rays, samples, live, 4, plane)
        add_in_order(*rows, by_plane[plane], into.planes[plane].flatten(0, 1), first)
        entries = _list(warp_sums.list_entries, rays, samples, live, 2, plane)
        add_in_order(*entries, by_line[plane], into.lines[plane], first)


@torch.no_grad()
def accumulate_importance(
    volume: Volume[B], origins: Array, directions: Array, importance: Array, *, counted: Array | None = None
) -> None:
    v = tensors(volume)
    into = writable(importance, "importance")
    marks = torch.ones_like(into, dtype=torch.uint8) if counted is None else torch.as_tensor(counted, device=into.device)
    rays = _Rays(v, *rays_of(v, origins, directions))
    for _, samples in rays.parts():
        if torch.are_deterministic_algorithms_enabled():
            targets, shares = _corners(rays, samples, samples.live, flat(_no_rows(v)))
            weights = samples.weight[samples.live].double()[:, None]
            weights *= marks.view(-1)[targets[:, :1].long()] != 0
            add_in_order(targets, shares.double(), weights, into.view(-1, 1))
            continue
        launch(
            warp_rays.scatter_weights, rays.device, len(samples.ray), rays.grid.shape, samples.arrays, flat(marks), flat(into)
        )
