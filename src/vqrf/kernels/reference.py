"""The readable twin: every kernel in plain PyTorch. What these functions answer is the definition.

Any device, float32 or float64: the dtype of the density decides, and the rays are brought to it. NumPy arrays and torch tensors
are both taken; a result is of the kind of the first array argument (of `origins` for the kernels of rays), and arrays that a
kernel adds to are changed in place. `measure_ssim` alone is NumPy's.

Notation: `vqrf.kernels`, and N rays, M samples, V voxels flattened in memory order, C channels, R rows of a table, K codewords.
The rendering equation itself is in `equation`. Deterministic on the CPU; on a GPU sums over samples depend on the order of
atomics.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vqrf.kernels import (
    ADAM_BETAS,
    ADAM_EPSILON,
    PLANE_AXES,
    SKIP_BLOCK,
    A,
    Array,
    FactorArrays,
    Gradients,
    LossWeights,
    Roulette,
    Volume,
)
from vqrf.kernels.contract import B
from vqrf.kernels.equation import (
    LOSS_TERMS,
    Rendering,
    each_factor,
    keep_live,
    loss_terms,
    march,
    plane_rows,
    rays_of,
    render,
    result_like,
    tensor_of,
    tensors,
    weigh,
    writable,
)
from vqrf.kernels.reference_rows import add_rate_gradient as add_rate_gradient
from vqrf.kernels.reference_rows import assign_codes as assign_codes
from vqrf.kernels.reference_rows import lower_gradient as lower_gradient
from vqrf.kernels.reference_rows import move_gradients as move_gradients
from vqrf.kernels.reference_rows import place_rows as place_rows
from vqrf.kernels.reference_rows import raise_level as raise_level
from vqrf.kernels.reference_rows import round_to_steps as round_to_steps
from vqrf.kernels.reference_rows import sum_by_code as sum_by_code
from vqrf.kernels.reference_rows import take_rows as take_rows
from vqrf.kernels.reference_rows import tie_gradients as tie_gradients
from vqrf.kernels.similarity import measure_ssim as measure_ssim

CHUNK_SAMPLES = {"cpu": 2**19, "cuda": 2**23}
"""Places for samples looked at together by the kind of device, occupied or not: 0.8 GB of float32 for 2^19 if all of them are
shaded. Few are; and a GPU waits for its orders rather than for memory."""

MAX_SKIP = 255

CHUNK_VOXELS = 2**18
"""Voxels expanded from factors together: 64 MB for each plane of 64 components."""


def _chunks(volume: Volume[Tensor], n_rays: int) -> Iterator[slice]:
    """The rays in slices of at most CHUNK_SAMPLES places for samples; one empty slice when there are none."""
    per_ray = volume.lattice.longest_way / volume.equation.step_world + 2
    n_together = max(1, int(CHUNK_SAMPLES.get(volume.density.device.type, CHUNK_SAMPLES["cpu"]) / per_ray))
    for start in range(0, max(n_rays, 1), n_together):
        yield slice(start, start + n_together)


def fault(subject: Volume[B] | FactorArrays[B]) -> str | None:
    """Nothing: it does whatever can be done."""
    return None


# -------------------------------------------------------------------------------------- the kernels of rays


def pixel_rays(pixels: A, starts: Array, widths: Array, pinholes: Array, poses: Array) -> tuple[A, A]:
    """Rays of pixels given by number, which counts through the views in order, row by row.

    Args:
      pixels: [N] int64, each in 0..starts[V]-1.
      starts: [V+1] int64, number of each view's first pixel, and of all pixels.
      widths: [V] int64, pixels in a row of each view.
      pinholes: [V,4] float64, fx, fy, cx, cy in pixels.
      poses: [V,3,4] float64, camera to world, OpenGL axes.

    Returns:
      Origins and unit directions, [N,3] float32 each. Oracle: `cameras.Camera.rays`.

    Raises:
      ValueError: a pixel is out of range.
    """
    number, first, width, pinhole, pose = (tensor_of(array) for array in (pixels, starts, widths, pinholes, poses))
    if len(number) and not (int(number.min()) >= 0 and int(number.max()) < int(first[-1])):
        raise ValueError("pixels: out of range")
    view = torch.searchsorted(first, number, right=True) - 1
    local = number - first[view]
    fx, fy, cx, cy = pinhole[view].unbind(-1)
    x = (local % width[view] + 0.5 - cx) / fx
    y = (local // width[view] + 0.5 - cy) / fy
    directions = (pose[view, :, :3] @ torch.stack([x, -y, -torch.ones_like(x)], -1)[..., None])[..., 0]
    directions = directions / directions.norm(dim=-1, keepdim=True)
    return result_like(pose[view, :, 3].float(), pixels), result_like(directions.float(), pixels)


def hit_rays(volume: Volume[B], origins: A, directions: Array) -> A:
    """Say which rays have a sample in an occupied cell; density is not looked at.

    Args:
      origins, directions: [N,3]; directions of unit length.

    Returns:
      [N] uint8, 1 for a hit.
    """
    v = tensors(volume)
    o, d = rays_of(v, origins, directions)
    hit = torch.zeros(len(o), dtype=torch.uint8, device=o.device)
    for part in _chunks(v, len(o)):
        hit[part][march(v, o[part], d[part]).ray_id] = 1
    return result_like(hit, origins)


def render_rays(volume: Volume[B], origins: A, directions: Array) -> tuple[A, A, A]:
    """Render rays.

    Args:
      origins, directions: [N,3]; directions of unit length.

    Returns:
      rgb [N,3], 0 or more, background_weight [N], and depth [N], the sum over live samples of weight * t in
      world units. The background adds nothing to the depth: divide by `1 - background_weight` for the mean
      distance of the rest.

    Differentiable in density, features and layers where these are tensors that require a gradient. Which
    samples are live or shaded is held constant.
    """
    v = tensors(volume)
    o, d = rays_of(v, origins, directions)
    parts = []
    for part in _chunks(v, len(o)):
        seen = render(v, o[part], d[part])
        depth = torch.zeros_like(seen.background_weight)
        depth = depth.index_add(0, seen.samples.ray_id, seen.weight * seen.samples.t)
        parts.append((seen.pixel, seen.background_weight, depth))
    rgb, background_weight, depth = (torch.cat(column) for column in zip(*parts, strict=True))
    return result_like(rgb, origins), result_like(background_weight, origins), result_like(depth, origins)


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
) -> dict[str, float]:
    """Add the gradient of the loss over N rays to `gradients`, in place, and mark the voxels that it reaches.

    Args:
      origins, directions: [N,3]; directions of unit length. Without rays every number is 0.
      targets: [N,3] rgb, 0..1, or [N,4] with the opacity, 0..1; NaN where a ray's opacity is unknown, which is no target then.
      losses: see `LossWeights`.
      weights: [N] >= 0, what each ray counts in every term; None: all count 1. The terms stay sums over rays divided by N. A
        ray of weight 0 is not looked at: it touches no voxel, and its target may be anything.
      gradients: arrays of the volume's dtype. A voxel is marked as touched if it is one of the 8 voxels of a
        live sample. A pruned one (`rows` -1) is not, and gets no gradient, neither for its density nor for
        its features. With `factors`, a row of a plane is marked if it is one of the 4 around a live sample.

    Returns:
      `mse` (mean over N*3 numbers), `background_entropy` (mean over rays), `point_color` (sum over shaded
      samples / N), `opacity` and `distortion` (means over rays), each without its weight, and the counts `n_live` and
      `n_shaded`. The distortion is 0 where it has no weight: it is not looked at then.

    Raises:
      ValueError: an array of `gradients` cannot be written to.

    Density acts through every weight and the background weight; in `point_color` the weights are constant.
    The entropy passes no gradient where the background weight is within ENTROPY_MARGIN of 0 or 1. `backpropagate` of the slopes
    of the loss by pixels does the same, but for `point_color`, which is of samples.
    """
    v = leaves_of(tensors(volume))
    o, d, target = rays_of(v, origins, directions, targets)
    n_rays, share, chances, roulette = max(len(o), 1), None, None, losses.roulette
    spacing = v.equation.step_world / v.lattice.longest_way if losses.distortion else None
    if roulette is not None:
        (chances,) = rays_of(v, roulette.chances)
    if weights is not None:
        (share,) = rays_of(v, weights)
        looked_at = share != 0
        o, d, target, share = o[looked_at], d[looked_at], target[looked_at], share[looked_at]
        chances = None if chances is None else chances[looked_at]
    factors = {name: getattr(losses, name) for name in LOSS_TERMS} | {"mse": 1.0}
    into = writable_gradients(gradients)
    totals = dict.fromkeys(("mse", *LOSS_TERMS, "n_live", "n_shaded"), 0.0)
    for part in _chunks(v, len(o)):
        drawn = None if roulette is None or chances is None else Roulette(roulette.weight, chances[part])
        seen = render(v, o[part], d[part], drawn)
        terms = loss_terms(seen.looks(spacing, target[part]), target[part], None if share is None else share[part], n_rays)
        loss = torch.stack([factors[name] * term for name, term in terms.items()]).sum()
        _add_gradients(v, seen, loss, into)
        for name, term in terms.items():
            totals[name] += term.item()
        totals["n_live"] += len(seen.weight)
        totals["n_shaded"] += len(seen.color)
    return totals


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
    """Add to `gradients`, in place, how a loss changes with a volume, from how it changes with N pixels of it.

    With `render_rays` before it, any loss of pixels can be learnt from: it needs its value and its slopes, and no kernel.

    Args:
      origins, directions: [N,3]; directions of unit length.
      d_rgb, d_background_weight, d_depth: [N,3], [N], [N]; derivatives of the loss by what `render_rays` answers. None: it does
        not depend on that.
      gradients: as of `render_gradients`, and what is marked as touched is too.

    Raises:
      ValueError: an array of `gradients` cannot be written to.
    """
    v = leaves_of(tensors(volume))
    o, d, by_rgb = rays_of(v, origins, directions, d_rgb)
    by_background, by_depth = (None if a is None else rays_of(v, a)[0] for a in (d_background_weight, d_depth))
    into = writable_gradients(gradients)
    for part in _chunks(v, len(o)):
        seen = render(v, o[part], d[part])
        loss = (seen.pixel * by_rgb[part]).sum()
        if by_background is not None:
            loss = loss + (seen.background_weight * by_background[part]).sum()
        if by_depth is not None:
            loss = loss + (seen.weight * seen.samples.t * by_depth[part][seen.samples.ray_id]).sum()
        _add_gradients(v, seen, loss, into)


def writable_gradients(gradients: Gradients[B]) -> Gradients[Tensor]:
    """The same as tensors that share their memory, for a kernel to add to."""
    factors = gradients.factors
    return Gradients(
        density=writable(gradients.density, "gradients.density"),
        features=writable(gradients.features, "gradients.features"),
        layers=tuple((writable(w, "gradients.layers"), writable(b, "gradients.layers")) for w, b in gradients.layers),
        touched=writable(gradients.touched, "gradients.touched"),
        factors=None if factors is None else each_factor(factors, lambda array: writable(array, "gradients.factors")),
    )


def leaves_of(volume: Volume[Tensor]) -> Volume[Tensor]:
    """The volume with what it can learn cut off from where that came from, so that gradients end there."""
    factors = volume.factors
    return replace(
        volume,
        factors=None if factors is None else each_factor(factors, lambda array: array.detach().requires_grad_()),
        density=volume.density.detach().requires_grad_(),
        features=volume.features.detach().requires_grad_(),
        layers=tuple((w.detach().requires_grad_(), b.detach().requires_grad_()) for w, b in volume.layers),
    )


def _add_gradients(volume: Volume[Tensor], seen: Rendering, loss: Tensor, into: Gradients[Tensor]) -> None:
    """Differentiate the loss up to the values at the voxels, then add those where they came from.

    Cutting there keeps the work in proportion to the samples: autograd alone makes a dense lattice per chunk. Planes and lines
    are not cut: they are small.
    """
    weights = [array for layer in volume.layers for array in layer]
    if volume.factors is not None:
        _add_factor_gradients(volume, seen, loss, into)
        return
    by_density, by_features, *by_weights = torch.autograd.grad(
        loss, [seen.density_at_voxels, seen.features_at_voxels, *weights]
    )
    kept = torch.ones_like(into.touched) if volume.rows is None else (volume.rows >= 0).to(into.touched)
    kept = kept.reshape(-1)
    voxels, shaded_voxels = seen.samples.voxels.reshape(-1), seen.shaded.voxels.reshape(-1)
    n_channels = by_features.shape[-1]
    into.touched.view(-1)[voxels[kept[voxels] != 0]] = 1
    into.density.view(-1).index_add_(0, voxels, by_density.reshape(-1) * kept[voxels])
    into.features.view(-1, n_channels).index_add_(
        0, shaded_voxels, by_features.reshape(-1, n_channels) * kept[shaded_voxels, None]
    )
    for target, gradient in zip((array for layer in into.layers for array in layer), by_weights, strict=True):
        target += gradient


def _add_factor_gradients(volume: Volume[Tensor], seen: Rendering, loss: Tensor, into: Gradients[Tensor]) -> None:
    """The same where what is sampled are factors."""
    factors, of_factors = volume.factors, into.factors
    assert factors is not None
    assert of_factors is not None
    leaves, targets = (
        [*arrays.planes, *arrays.lines, arrays.mix, *(array for layer in layers for array in layer)]
        for arrays, layers in ((factors, volume.layers), (of_factors, into.layers))
    )
    for target, gradient in zip(targets, torch.autograd.grad(loss, leaves), strict=True):
        target += gradient
    before = 0
    for plane, (rows, *_) in zip(factors.planes, plane_rows(seen.samples, tuple(volume.density.shape)), strict=True):
        into.touched[before + rows.reshape(-1)] = 1
        before += plane.shape[0] * plane.shape[1]


@torch.no_grad()
def accumulate_importance(
    volume: Volume[B], origins: Array, directions: Array, importance: Array, *, counted: Array | None = None
) -> None:
    """Add to each voxel the weight that it gave to the rays, in place.

        I(v) += sum_rays sum_shaded  w_s * share(v, x_s)

    Args:
      origins, directions: [N,3]; directions of unit length.
      importance: [X,Y,Z] float64. What is added sums to the total weight of the shaded samples that count.
      counted: [X,Y,Z] uint8, at the lowest voxel of each cell whether the samples in it count; None: all do. They weigh the
        same whatever counts.

    Source: VQRF (arXiv 2211.16386), importance score. The paper sums over all samples; here, as in the
    authors' code, only samples with a colour count, that is those with weight above `alpha_threshold`.
    """
    v = tensors(volume)
    o, d = rays_of(v, origins, directions)
    into = writable(importance, "importance").view(-1)
    for part in _chunks(v, len(o)):
        samples = keep_live(v, march(v, o[part], d[part]), len(o[part]))
        weight, _, _ = weigh(v, samples, len(o[part]))
        weight = torch.where(weight > v.equation.alpha_threshold, weight, 0.0)
        if counted is not None:
            weight = torch.where(tensor_of(counted).view(-1)[samples.voxels[:, 0]] != 0, weight, 0.0)
        given = weight[:, None].double() * samples.shares.double()
        into.index_add_(0, samples.voxels.reshape(-1), given.reshape(-1))


# -------------------------------------------------------------------------------------- what may be skipped


def find_cells(density: A, floor: float, allowed: Array | None) -> A:
    """Find the cells that may hold a live sample: allowed, with a corner of density above `floor`.

    Args:
      density: [X,Y,Z] raw density.
      floor: raw density. With that of `alpha_threshold` no other cell holds a live sample (up to rounding):
        trilinear interpolation never exceeds the highest corner.
      allowed: [X-1,Y-1,Z-1] uint8, or None for all.

    Returns:
      [X-1,Y-1,Z-1] uint8.
    """
    highest = tensor_of(density)
    for axis, side in enumerate(highest.shape):
        highest = torch.maximum(highest.narrow(axis, 0, side - 1), highest.narrow(axis, 1, side - 1))
    occupied = highest > floor
    if allowed is not None:
        permit = tensor_of(allowed)
        if permit.shape != occupied.shape:
            raise ValueError(f"allowed: expected {list(occupied.shape)}, got {list(permit.shape)}")
        occupied &= permit != 0
    return result_like(occupied.to(torch.uint8), density)


def measure_skip(cells: A) -> A:
    """Measure how many blocks of SKIP_BLOCK^3 cells lie between each block and the nearest occupied one.

    Args:
      cells: [x,y,z] uint8.

    Returns:
      [ceil(x / SKIP_BLOCK), ...] uint8: Chebyshev distance in blocks to the nearest block with an occupied
      cell, 0 for such a block itself, at most 255, and 255 if there is none.
    """
    occupied = (tensor_of(cells) != 0).float()[None, None]
    reached = F.max_pool3d(occupied, SKIP_BLOCK, ceil_mode=True)[0, 0]
    distance = torch.full(reached.shape, MAX_SKIP, dtype=torch.uint8, device=reached.device)
    for n_blocks in range(MAX_SKIP):
        fresh = (reached != 0) & (distance == MAX_SKIP)
        if not fresh.any():
            break
        distance[fresh] = n_blocks
        reached = F.max_pool3d(reached[None, None], 3, stride=1, padding=1)[0, 0]
    return result_like(distance, cells)


# --------------------------------------------------------------------------------------------- optimisation


@torch.no_grad()
def masked_adam(
    values: Array,
    gradient: Array,
    first: Array,
    second: Array,
    touched: Array | None,
    *,
    rate: float | Array,
    step: int,
) -> None:
    """Take one step of Adam where there is a gradient, in place, and clear the gradient.

        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,   (b1, b2) = ADAM_BETAS
        x <- x - rate * (m / (1 - b1^step)) / (sqrt(v / (1 - b2^step)) + ADAM_EPSILON)

    Args:
      values, gradient, first, second: x, g, m, v; all [V] or all [V,C].
      touched: [V] uint8, the voxels to look at, or None for all. Only elements with gradient != 0 change,
        moments included; then all gradients of these voxels are 0.
      rate: >= 0, one for all or [V].
      step: 1 for the first call. It counts calls, not the updates of an element.

    Source: Adam (arXiv 1412.6980), algorithm 1; skipping elements without gradient as in DirectVoxGO.
    """
    x, g = writable(values, "values"), writable(gradient, "gradient")
    m, v = writable(first, "first"), writable(second, "second")
    n_voxels = len(x)
    has_gradient = g.reshape(n_voxels, -1) != 0
    if touched is not None:
        has_gradient &= (tensor_of(touched) != 0)[:, None]
    voxel, channel = torch.nonzero(has_gradient, as_tuple=True)
    element = voxel * has_gradient.shape[1] + channel

    b1, b2 = ADAM_BETAS
    flat_g = g.view(-1)[element]
    flat_m = b1 * m.view(-1)[element] + (1 - b1) * flat_g
    flat_v = b2 * v.view(-1)[element] + (1 - b2) * flat_g.square()
    m.view(-1)[element], v.view(-1)[element] = flat_m, flat_v
    speed = (flat_m / (1 - b1**step)) / ((flat_v / (1 - b2**step)).sqrt() + ADAM_EPSILON)
    rates = rate if isinstance(rate, float | int) else tensor_of(rate).to(x)[voxel]
    x.view(-1)[element] -= rates * speed
    if touched is None:
        g.zero_()
    else:
        g[tensor_of(touched) != 0] = 0


@torch.no_grad()
def add_total_variation(values: Array, gradient: Array, touched: Array | None, *, weight: float) -> None:
    """Add the slope of a smoothed total variation to the gradient of touched voxels, in place.

        gradient(v) += weight * sum over the up to 6 neighbours n of v of clamp(v - n, -1, 1)

    This is the derivative of `weight` times the sum over pairs of neighbours of their Huber distance
    (threshold 1).

    Args:
      values, gradient: [X,Y,Z,C], or [X,Y,Z].
      touched: [X,Y,Z] uint8, the voxels whose gradient changes, or None for all. Neighbours count in any
      case. weight: >= 0.

    Source: DirectVoxGO, total variation as a gradient of its own.
    """
    x, into = tensor_of(values).detach(), writable(gradient, "gradient")
    slope = torch.zeros_like(x)
    for axis in range(3):
        n_pairs = x.shape[axis] - 1
        rise = (x.narrow(axis, 1, n_pairs) - x.narrow(axis, 0, n_pairs)).clamp(-1, 1)
        slope.narrow(axis, 1, n_pairs).add_(rise)
        slope.narrow(axis, 0, n_pairs).sub_(rise)
    if touched is not None:
        is_touched = tensor_of(touched) != 0
        slope *= is_touched.reshape(*is_touched.shape, *[1] * (x.ndim - 3))
    into.add_(slope, alpha=weight)


# ---------------------------------------------------------------------------------------------------- factors


def products_of_factors(factors: FactorArrays[B], voxels: Tensor) -> tuple[Tensor, Tensor]:
    """The density [N] and features [N,C] that factors stand for at voxels [N,3], see `FactorArrays`. Differentiable in all."""
    mix = tensor_of(factors.mix)
    n_features, n_channels = mix.shape[1:]
    density, features = mix.new_zeros(len(voxels)), mix.new_zeros(len(voxels), n_channels)
    for (a, b, c), plane, line, by_channel in zip(PLANE_AXES, factors.planes, factors.lines, mix, strict=True):
        components = tensor_of(plane)[voxels[:, a], voxels[:, b]] * tensor_of(line)[voxels[:, c]]
        n_density = components.shape[-1] - n_features
        density = density + components[:, :n_density].sum(-1)
        features = features + components[:, n_density:] @ by_channel
    return density, features


@torch.no_grad()
def expand_factors(factors: FactorArrays[B], marks: Array, density: Array, features: Array | None) -> None:
    """Write what factors stand for at marked voxels, in place; nothing is written to the others.

    Args:
      marks: [X,Y,Z] uint8.
      density: [X,Y,Z].
      features: [X,Y,Z,C], or None: the density alone.

    Source: TensoRF (arXiv 2203.09517), eq. 3 and 11. Departs: at voxels, and not at the samples of rays, between which the
    result is the same.
    """
    marked = torch.nonzero(tensor_of(marks))
    for start in range(0, len(marked), CHUNK_VOXELS):
        voxels = marked[start : start + CHUNK_VOXELS]
        made, at = products_of_factors(factors, voxels), voxels.unbind(-1)
        writable(density, "density")[at] = made[0]
        if features is not None:
            writable(features, "features")[at] = made[1]


@torch.no_grad()
def add_sparsity(values: Array, gradient: Array, touched: Array | None, *, n_columns: int, weight: float) -> None:
    """Add the gradient of `weight` times the sum of magnitudes to the first columns of touched rows, in place.

    Args:
      values, gradient: [V,R].
      touched: [V] uint8, or None for all.
      n_columns: how many, 0..R.

    Source: TensoRF (arXiv 2203.09517), sec. 5, the L1 norm of the factors of the density. Departs: of what a step touches.
    """
    slope = weight * tensor_of(values)[:, :n_columns].sign()
    if touched is not None:
        slope *= (tensor_of(touched) != 0)[:, None]
    writable(gradient, "gradient")[:, :n_columns] += slope
