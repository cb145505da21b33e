"""The rendering equation in plain PyTorch, differentiable, any device: samples, weights, colours, pixels.

`reference` makes the kernels of rays of it. Notation: `vqrf.kernels`, and N rays, M samples, C channels. The optical depth of
a sample is -log(1 - alpha).

    march -> keep_live -> weigh -> colorize -> loss_terms
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vqrf.geometry import Unbounded
from vqrf.kernels import PLANE_AXES, STOP_TRANSMITTANCE, A, Array, FactorArrays, Roulette, Volume
from vqrf.kernels.constants import HARMONICS_OF_CHANNELS, count_view_frequencies, shading_fault

ENTROPY_MARGIN = 1e-6
"""The background weight is held this far from 0 and 1 in its entropy, whose slope is infinite there."""

LOSS_TERMS = ("background_entropy", "point_color", "opacity", "distortion")
"""The weighted terms, beside the mean squared error."""

# --------------------------------------------------------------------------------------- arrays and tensors


def tensor_of(array: Array) -> Tensor:
    """The array as a tensor: shared where it can be written to, a copy of a read-only one."""
    if isinstance(array, np.ndarray) and not (array.flags.writeable and array.flags.c_contiguous):
        array = np.array(array, order="C")
    return torch.as_tensor(array)


def writable(array: Array, name: str) -> Tensor:
    """The array as a tensor that shares its memory, for a kernel to write to."""
    if isinstance(array, np.ndarray) and not (array.flags.writeable and array.flags.c_contiguous):
        raise ValueError(f"{name}: expected a contiguous array that can be written to")
    tensor = torch.as_tensor(array)
    if not tensor.is_contiguous():
        raise ValueError(f"{name}: expected a contiguous array")
    return tensor.detach()


def result_like(result: Tensor, array: A) -> A:
    """The result as the same kind of array as the argument."""
    return result if isinstance(array, Tensor) else result.detach().cpu().numpy()


def tensors(volume: Volume[Any]) -> Volume[Tensor]:
    """The volume with tensors for arrays, its shapes checked: of a wrong one other voxels would be read."""
    tensors = replace(
        volume,
        density=tensor_of(volume.density),
        features=tensor_of(volume.features),
        rows=None if volume.rows is None else tensor_of(volume.rows),
        layers=tuple((tensor_of(weight), tensor_of(bias)) for weight, bias in volume.layers),
        cells=tensor_of(volume.cells),
        skip=tensor_of(volume.skip),
        factors=None if volume.factors is None else each_factor(volume.factors, tensor_of),
    )
    if fault := volume.equation.fault():
        raise ValueError(fault)
    shape = tuple(tensors.density.shape)
    if tuple(tensors.cells.shape) != tuple(side - 1 for side in shape):
        raise ValueError(f"cells: expected {[side - 1 for side in shape]}, got {list(tensors.cells.shape)}")
    if tensors.factors is None:
        voxels = tensors.features.shape[:-1] if tensors.rows is None else tensors.rows.shape
        if tuple(voxels) != shape:
            raise ValueError(f"features or rows: expected voxels {list(shape)}, got {list(voxels)}")
    else:
        _expect_factors(tensors.factors, tensors)
    n_channels = tensors.features.shape[-1]
    n_frequencies = volume.equation.feature_frequencies
    if fault := shading_fault(volume.equation.shading, len(tensors.layers), n_channels, n_frequencies):
        raise ValueError(f"features: {fault}")
    if tensors.layers:
        n_inputs = tensors.layers[0][0].shape[1]
        if count_view_frequencies(n_inputs, n_channels, n_frequencies) is None:
            raise ValueError(f"layers: expected {n_channels * (1 + 2 * n_frequencies)} + 3 + 6n inputs, got {n_inputs}")
    return tensors


def each_factor(factors: FactorArrays[Any], change: Callable[[Any], Tensor]) -> FactorArrays[Tensor]:
    """The factors with every array changed alike."""
    planes, lines = (tuple(map(change, arrays)) for arrays in (factors.planes, factors.lines))
    return FactorArrays((planes[0], planes[1], planes[2]), (lines[0], lines[1], lines[2]), change(factors.mix))


def _expect_factors(factors: FactorArrays[Tensor], volume: Volume[Tensor]) -> None:
    """Refuse factors that are not of the volume's lattice and channels."""
    shape, rank = volume.density.shape, factors.lines[0].shape[-1]
    if volume.rows is not None or tuple(volume.features.shape) != (0, factors.mix.shape[-1]):
        raise ValueError(f"features: expected [0, {factors.mix.shape[-1]}] and no rows beside factors")
    for plane, line, (a, b, c) in zip(factors.planes, factors.lines, PLANE_AXES, strict=True):
        if tuple(plane.shape) != (shape[a], shape[b], rank) or tuple(line.shape) != (shape[c], rank):
            raise ValueError(f"factors: expected those of voxels {list(shape)}")


def rays_of(volume: Volume[Tensor], *arrays: Array) -> tuple[Tensor, ...]:
    """Arrays [N,3] as tensors of the volume's dtype and device."""
    return tuple(tensor_of(array).to(volume.density) for array in arrays)


# ------------------------------------------------------------------------------------------ samples of rays


@dataclass(frozen=True)
class Samples:
    """M samples, ray by ray and front to back.

    Attributes:
      ray_id: [M] int64, ascending.
      t: [M] distance along the ray.
      way: [M] which of the samples it is that the ray could have, occupied or not, from 0.
      voxels: [M,8] int64, flat index of the voxels of the sample's cell.
      shares: [M,8] trilinear share of each, >= 0, sum 1.
    """

    ray_id: Tensor
    t: Tensor
    way: Tensor
    voxels: Tensor
    shares: Tensor

    def where(self, mask: Tensor) -> Samples:
        kept = mask.nonzero().squeeze(1)
        return Samples(self.ray_id[kept], self.t[kept], self.way[kept], self.voxels[kept], self.shares[kept])


@dataclass(frozen=True)
class Piece:
    """A straight piece of the way of N rays through the places of a lattice: samples are at `origins + s * directions`,
    s = enter, enter + step_world, ... while s <= leave.

        t = begin + s * rate / (1 - s * bend)

    Attributes:
      origins, directions: [N,3] places, and their unit direction.
      enter, leave: [N]; a miss enters later.
      begin, rate, bend: [N], of the world distance t from s; None where s is that distance, as it is in a box.
    """

    origins: Tensor
    directions: Tensor
    enter: Tensor
    leave: Tensor
    begin: Tensor | None = None
    rate: Tensor | None = None
    bend: Tensor | None = None

    def distances(self, s: Tensor) -> Tensor:
        """World distances along the rays, [N,M] like s."""
        if self.begin is None or self.rate is None or self.bend is None:
            return s
        return self.begin[:, None] + s * self.rate[:, None] / (1 - s * self.bend[:, None])


def pieces_of(volume: Volume[Tensor], origins: Tensor, directions: Tensor) -> Iterator[Piece]:
    """The way of each ray [N,3] through the lattice, `near` of its origin left out: one piece after the other.

    The first sample of a piece is a step after the last one of the piece before it.
    """
    space, near = volume.space, torch.full_like(origins[:, 0], volume.equation.near, dtype=torch.float64)
    if space is None:
        yield Piece(origins, directions, *span(volume, origins, directions))
        return
    matrix = torch.tensor(space.matrix, dtype=torch.float64, device=origins.device)
    a = origins.double() @ matrix[:, :3].T + matrix[:, 3]
    b = directions.double() @ matrix[:, :3].T
    parts = _parts_around(a, b, near) if isinstance(space, Unbounded) else [Part(a, b, near, torch.full_like(near, math.inf))]
    rest = torch.zeros_like(near)
    for part in parts:
        piece, rest = _projective_piece(volume, part, rest)
        yield replace(piece, **{name: array.to(origins) for name, array in vars(piece).items()})


def span(volume: Volume[Tensor], origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Distances ([N], [N]) where each ray enters (`near` at least) and leaves a box; a miss enters later.

    An axis along which the ray stands still bounds nothing if the origin is between its two planes, else all.
    """
    lo, hi = origins.new_tensor(volume.lo), origins.new_tensor(volume.hi)
    still = directions == 0
    speed = torch.where(still, 1.0, directions)
    first, second = (lo - origins) / speed, (hi - origins) / speed
    endless = torch.where((origins >= lo) & (origins <= hi), math.inf, -math.inf).to(origins)
    enter = torch.where(still, -endless, torch.minimum(first, second))
    leave = torch.where(still, endless, torch.maximum(first, second))
    return enter.amax(-1).clamp(min=volume.equation.near), leave.amin(-1)


@dataclass(frozen=True)
class Part:
    """A part of N rays that one projective map takes to places: of a + t b, homogeneous, float64, for t from `first` to `last`.

    Attributes:
      a, b: [N,4].
      first, last: [N].
    """

    a: Tensor
    b: Tensor
    first: Tensor
    last: Tensor


def _parts_around(a: Tensor, b: Tensor, near: Tensor) -> Iterator[Part]:
    """The parts of rays in a space without bounds, of which a + t b [N,4] with last coordinates 1 and 0 are in its cube.

    What places are divided by is the largest of seven functions of t, 1 and (1 +- each coordinate) / 2, each of which grows
    evenly. The next to be the largest is the one that grows faster and first reaches the one that is.
    """
    values = torch.cat([torch.ones_like(a[:, :1]), (1 + a[:, :3]) / 2, (1 - a[:, :3]) / 2], 1)
    slopes = torch.cat([torch.zeros_like(a[:, :1]), b[:, :3] / 2, -b[:, :3] / 2], 1)
    largest, t = (values + near[:, None] * slopes).argmax(1, keepdim=True), near
    for _ in range(Unbounded.n_pieces):
        value, slope = values.gather(1, largest), slopes.gather(1, largest)
        is_faster = slopes > slope
        reaches = torch.where(is_faster, (value - values) / torch.where(is_faster, slopes - slope, 1.0), math.inf)
        until, largest = reaches.min(1, keepdim=True)
        last = torch.maximum(until[:, 0], t)
        yield Part(torch.cat([a[:, :3], value], 1), torch.cat([b[:, :3], slope], 1), t, last)
        t = last


def _projective_piece(volume: Volume[Tensor], part: Part, rest: Tensor) -> tuple[Piece, Tensor]:
    """The piece of a part that is in the lattice, in float64, and how far behind its end the next sample is.

    With w the last coordinate of a + t b, places are (t - t_0) (a_w b - b_w a) / (w w_0) from that at t_0: straight, and the
    nearer together the farther off.

    Args:
      rest: [N], how far the first sample is from the beginning.
    """
    a, b = part.a, part.b
    lo, hi = a.new_tensor(volume.lo), a.new_tensor(volume.hi)
    above, rise = (torch.cat([x[:, :3] - lo * x[:, 3:], hi * x[:, 3:] - x[:, :3]], 1) for x in (a, b))  # inside, all are >= 0
    at = -above / torch.where(rise == 0, 1.0, rise)
    never = torch.where(above < 0, math.inf, -math.inf)
    enter = torch.maximum(torch.where(rise > 0, at, torch.where(rise < 0, -math.inf, never)).amax(-1), part.first)
    leave = torch.minimum(torch.where(rise < 0, at, math.inf).amin(-1), part.last)
    first, last = a + enter[:, None] * b, a + leave[:, None] * b
    turn = a[:, 3:] * b[:, :3] - b[:, 3:] * a[:, :3]
    length = turn.norm(dim=-1)
    depth = first[:, 3]
    hits = (enter <= leave) & (depth > 0) & (last[:, 3] > 0) & (enter < math.inf)
    way = torch.where(hits, (leave - enter) * length / (depth * last[:, 3]), -1.0)
    safe = torch.where(hits, depth, 1.0)
    piece = Piece(
        origins=torch.where(hits[:, None], first[:, :3], 0.0) / safe[:, None],
        directions=turn / length[:, None],
        enter=torch.where(hits, rest, 0.0),
        leave=way,
        begin=torch.where(hits, enter, 0.0),
        rate=safe * safe / length,
        bend=torch.where(hits, safe * b[:, 3] / length, 0.0),
    )
    step = volume.equation.step_world
    n_samples = ((way - rest) / step).floor().clamp(min=-1) + 1
    return piece, torch.where(hits, rest + n_samples * step - way, rest)


def march(volume: Volume[Tensor], origins: Tensor, directions: Tensor) -> Samples:
    """All samples of the rays [N,3] that lie in occupied cells."""
    parts, before = [], torch.zeros(len(origins), dtype=torch.int64, device=origins.device)
    for piece in pieces_of(volume, origins, directions):
        samples, n_steps = _march_piece(volume, piece, before)
        parts.append(samples)
        before = before + n_steps
    if len(parts) == 1:
        return parts[0]
    ray_id, t, way, voxels, shares = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("ray_id", "t", "way", "voxels", "shares")
    )
    order = torch.argsort(ray_id, stable=True)
    return Samples(ray_id[order], t[order], way[order], voxels[order], shares[order])


def _march_piece(volume: Volume[Tensor], piece: Piece, before: Tensor) -> tuple[Samples, Tensor]:
    """The samples of a piece, and how many each ray [N] could have there; `before` is how many it could have had in others."""
    n_steps = ((piece.leave - piece.enter) / volume.equation.step_world).clamp(min=-1).max().item() if len(piece.enter) else -1
    step = torch.arange(int(n_steps) + 2, device=piece.enter.device).to(piece.enter)  # one spare: s <= leave decides
    s = piece.enter[:, None] + step * volume.equation.step_world
    lo, hi = s.new_tensor(volume.lo), s.new_tensor(volume.hi)
    last = torch.tensor(volume.density.shape, device=s.device) - 1
    u = (piece.origins[:, None] + s[..., None] * piece.directions[:, None] - lo) / (hi - lo) * last
    # Rounding may leave the box, and no share may be negative; what is behind it, or of a ray that misses it, may be anywhere.
    u = torch.minimum(u.nan_to_num().clamp(min=0), last.to(u))
    cell = torch.minimum(u.long(), last - 1)
    occupied = volume.cells[tuple(cell.unbind(-1))] != 0
    is_inside = s <= piece.leave[:, None]
    ray_id, step_id = torch.nonzero(occupied & is_inside, as_tuple=True)
    voxels, shares = _corners(cell[ray_id, step_id], u[ray_id, step_id], volume.density.shape)
    way = (before[ray_id] + step_id).to(s)
    return Samples(ray_id, piece.distances(s)[ray_id, step_id], way, voxels, shares), is_inside.sum(1)


def _corners(cell: Tensor, u: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The 8 voxels [M,8] of each cell [M,3], Z fastest, and their trilinear shares [M,8] at u [M,3]."""
    bit = torch.arange(2, device=cell.device)
    x, y, z = ((cell[:, axis, None] + bit) for axis in range(3))
    voxels = (x[:, :, None, None] * shape[1] + y[:, None, :, None]) * shape[2] + z[:, None, None, :]
    upper = u - cell
    share = torch.stack([1 - upper, upper], -1)  # [M, axis, lower or upper]
    shares = share[:, 0, :, None, None] * share[:, 1, None, :, None] * share[:, 2, None, None, :]
    return voxels.reshape(-1, 8), shares.reshape(-1, 8)


def optical_depth(volume: Volume[Tensor], density: Tensor) -> Tensor:
    """-log(1 - alpha) of one step from interpolated raw density: interval * activation(density + density_bias).

    `threshold` is where PyTorch takes softplus(x) = x; its default of 20 is too low for float64.
    """
    if volume.equation.activation == "relu":
        return volume.equation.interval * F.relu(density + volume.equation.density_bias)
    return volume.equation.interval * F.softplus(density + volume.equation.density_bias, threshold=40)


def alpha_from_depth(depth: Tensor) -> Tensor:
    """The opacity of one step, exact for thin steps and without overflow for thick ones."""
    return -torch.expm1(-depth)


def transmittance(depth: Tensor, ray_id: Tensor, n_rays: int) -> tuple[Tensor, Tensor]:
    """Light left before each sample [M] and behind each ray [N], from the optical depths [M] of the samples.

    The product of (1 - alpha) is taken as exp(-sum of depths): its gradient is finite also where a factor is
    0.
    """
    before, total = _sums_before(depth, ray_id, n_rays)
    return torch.exp(-before), torch.exp(-total)


def _sums_before(values: Tensor, ray_id: Tensor, n_rays: int) -> tuple[Tensor, Tensor]:
    """Of values [M] of samples: the sum over those of the same ray that are before each [M], and over all of each ray [N]."""
    n_samples = torch.bincount(ray_id, minlength=n_rays)
    first = n_samples.cumsum(0) - n_samples
    rank = torch.arange(len(ray_id), device=ray_id.device) - first[ray_id]
    width = int(n_samples.max().item()) + 1 if n_rays else 1
    late = values.new_zeros(n_rays, width).index_put((ray_id, rank + 1), values)
    sums = late.cumsum(1)
    return sums[ray_id, rank], sums[:, -1]


def distortion(samples: Samples, weight: Tensor, spacing: float, n_rays: int) -> Tensor:
    """How far the weights [M] of live samples are apart on each ray, [N]; see `LossWeights`.

        sum_ij w_i w_j |s_i - s_j| = 2 sum_i w_i ( s_i sum_{j < i} w_j - sum_{j < i} w_j s_j )

    Args:
      spacing: of samples, by the longest way through the lattice.
    """
    s = samples.way * spacing
    before, _ = _sums_before(weight, samples.ray_id, n_rays)
    moment, _ = _sums_before(weight * s, samples.ray_id, n_rays)
    each = 2 * weight * (s * before - moment) + spacing / 3 * weight.square()
    return weight.new_zeros(n_rays).index_add(0, samples.ray_id, each)


def keep_live(volume: Volume[Tensor], samples: Samples, n_rays: int) -> Samples:
    """The live samples: alpha above the threshold, and light left when they are reached."""
    with torch.no_grad():
        depth = optical_depth(volume, read_density(volume, samples)[0])
        opaque = alpha_from_depth(depth) > volume.equation.alpha_threshold
        samples, depth = samples.where(opaque), depth[opaque]
        before, _ = transmittance(depth, samples.ray_id, n_rays)
        return samples.where(before >= STOP_TRANSMITTANCE)


# ------------------------------------------------------------------------------------ values at the samples


def plane_rows(samples: Samples, shape: tuple[int, ...]) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """For each of the planes of a lattice: the rows [M,4] at the corners around each sample and their shares, and the entries
    [M,2] of the plane's line and their shares."""
    first, share = samples.voxels[:, 0], samples.shares.view(-1, 2, 2, 2)
    cell = first // (shape[1] * shape[2]), first // shape[2] % shape[1], first % shape[2]
    bit, found = torch.arange(2, device=first.device), []
    for a, b, c in PLANE_AXES:
        rows = (cell[a][:, None, None] + bit[:, None]) * shape[b] + cell[b][:, None, None] + bit
        found.append((rows.view(-1, 4), share.sum(1 + c).view(-1, 4), cell[c][:, None] + bit, share.sum((1 + a, 1 + b))))
    return found


def read_factors(volume: Volume[Tensor], samples: Samples) -> list[Tensor]:
    """For each plane: its components at the samples times those of its line, [M,R].

    Source: TensoRF (arXiv 2203.09517), eq. 3 and 12: planes bilinearly, lines linearly.
    """
    assert volume.factors is not None
    products = []
    where = plane_rows(samples, tuple(volume.density.shape))
    for plane, line, (rows, shares, entries, along) in zip(volume.factors.planes, volume.factors.lines, where, strict=True):
        on_plane = (shares[..., None] * plane.reshape(-1, plane.shape[-1])[rows]).sum(1)
        products.append(on_plane * (along[..., None] * line[entries]).sum(1))
    return products


def read_density(volume: Volume[Tensor], samples: Samples) -> tuple[Tensor, Tensor]:
    """Raw density at the samples [M] and at their voxels [M,8]; of factors [M,0], as these are read without voxels."""
    if volume.factors is not None:
        n_density = volume.factors.lines[0].shape[1] - volume.factors.mix.shape[1]
        density = torch.stack([product[:, :n_density].sum(-1) for product in read_factors(volume, samples)]).sum(0)
        return density, density.new_zeros(len(density), 0)
    at_voxels = volume.density.reshape(-1)[samples.voxels]
    return (samples.shares * at_voxels).sum(-1), at_voxels


def read_features(volume: Volume[Tensor], samples: Samples) -> tuple[Tensor, Tensor]:
    """Features at the samples [M,C] and at their voxels [M,8,C]; those of a pruned voxel are 0. Of factors [M,0,C]."""
    if volume.factors is not None:
        mix, products = volume.factors.mix, read_factors(volume, samples)
        parts = [product[:, -mix.shape[1] :] @ by_channel for product, by_channel in zip(products, mix, strict=True)]
        return torch.stack(parts).sum(0), mix.new_zeros(len(products[0]), 0, mix.shape[-1])
    n_channels = volume.features.shape[-1]
    table = volume.features.reshape(-1, n_channels)
    row = samples.voxels
    if volume.rows is not None:
        table = F.pad(table, (0, 0, 0, 1))  # a last row of zeros, where -1 leads
        row = volume.rows.reshape(-1)[samples.voxels].long()
    at_voxels = table[row]
    return (samples.shares[..., None] * at_voxels).sum(1), at_voxels


def waves(values: Tensor, n_frequencies: int) -> list[Tensor]:
    """sin(v 2^k) and cos(v 2^k) for k < n: two blocks [N,An] of [N,A], axis-major."""
    powers = 2.0 ** torch.arange(n_frequencies, device=values.device).to(values)
    angles = (values[:, :, None] * powers).flatten(1)
    return [angles.sin(), angles.cos()]


def inputs_of_layers(volume: Volume[Tensor], features: Tensor, directions: Tensor) -> Tensor:
    """What the first layer takes, in the notation's order: [M, C + 3 + 6n + 2CF]."""
    n_inputs, n_frequencies = volume.layers[0][0].shape[1], volume.equation.feature_frequencies
    n_view = count_view_frequencies(n_inputs, features.shape[1], n_frequencies)
    assert n_view is not None  # `tensors` has looked
    return torch.cat([features, directions, *waves(directions, n_view), *waves(features, n_frequencies)], -1)


def view_harmonics(directions: Tensor, n_harmonics: int) -> Tensor:
    """The first `n_harmonics` (4 or 9) real spherical harmonics of unit directions: [N,3] -> [N,n]."""
    x, y, z = directions.unbind(-1)
    one, scale = math.sqrt(1 / (4 * math.pi)), math.sqrt(3 / (4 * math.pi))
    two = math.sqrt(15 / (4 * math.pi))
    flat = [torch.full_like(x, one), -scale * y, scale * z, -scale * x]
    third = (2 * z * z - x * x - y * y) / math.sqrt(12)
    curved = [two * x * y, -two * y * z, two * third, -two * x * z, two / 2 * (x * x - y * y)]
    return torch.stack([*flat, *curved][:n_harmonics], -1)


def colorize(volume: Volume[Tensor], features: Tensor, directions: Tensor) -> Tensor:
    """The colour [M,3], 0 or more, of features [M,C] seen along unit directions [M,3]; only "sh_relu" goes above 1."""
    if volume.equation.shading != "mlp":
        n_harmonics = HARMONICS_OF_CHANNELS[features.shape[1]]
        harmonics = view_harmonics(directions, n_harmonics)
        total = (features.view(-1, 3, n_harmonics) * harmonics[:, None]).sum(-1)
        return total.sigmoid() if volume.equation.shading == "sh" else (0.5 + total).relu()
    hidden = inputs_of_layers(volume, features, directions) if volume.layers else features
    for number, (weight, bias) in enumerate(volume.layers):
        hidden = F.linear(hidden.relu() if number else hidden, weight, bias)
    return hidden.sigmoid()


@dataclass(frozen=True)
class Looks:
    """What N rays look like, which is what a loss is made of.

    Attributes:
      pixel, background_weight: [N,3], [N].
      ray_id, weight, color: [S], [S], [S,3] of the shaded samples.
      distortion: [N].
    """

    pixel: Tensor
    background_weight: Tensor
    ray_id: Tensor
    weight: Tensor
    color: Tensor
    distortion: Tensor


@dataclass(frozen=True)
class Rendering:
    """What N rays see, and what it was made of.

    Attributes:
      pixel: [N,3].
      background_weight: [N].
      samples: the live ones, M; theirs are `weight` [M] and `density_at_voxels` [M,8].
      shaded: the shaded ones that have a colour, S; theirs are `counted` [S], what they count in the pixel, `color` [S,3] and
        `features_at_voxels` [S,8,C].
      owed: [N] what the target's colour counts in the pixel, which has it not yet; see `Roulette`.
    """

    pixel: Tensor
    background_weight: Tensor
    samples: Samples
    weight: Tensor
    density_at_voxels: Tensor
    shaded: Samples
    counted: Tensor
    color: Tensor
    features_at_voxels: Tensor
    owed: Tensor

    def looks(self, spacing: float | None, target: Tensor) -> Looks:
        """Args: spacing: see `distortion`; None: that is not looked at, and 0. target: [N,3] or more."""
        nothing = torch.zeros_like(self.background_weight)
        apart = nothing if spacing is None else distortion(self.samples, self.weight, spacing, len(self.pixel))
        pixel = self.pixel + self.owed[:, None] * target[:, :3]
        return Looks(pixel, self.background_weight, self.shaded.ray_id, self.counted, self.color, apart)


def weigh(volume: Volume[Tensor], samples: Samples, n_rays: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of live samples [M], background weights of rays [N], and the densities [M,8] they come from."""
    density, at_voxels = read_density(volume, samples)
    depth = optical_depth(volume, density)
    before, background_weight = transmittance(depth, samples.ray_id, n_rays)
    return before * alpha_from_depth(depth), background_weight, at_voxels


@torch.no_grad()
def play(roulette: Roulette[Tensor], weight: Tensor, ray_id: Tensor, n_rays: int) -> Tensor:
    """What the weights [S] of shaded samples count times: 1 / p for those that have a colour, 0 for others. See `Roulette`."""
    share = (weight / roulette.weight).clamp(max=1.0)
    faint = torch.where(share < 1, share, 0.0)
    before, _ = _sums_before(faint, ray_id, n_rays)
    before = before + roulette.chances[ray_id]
    kept = (share >= 1) | ((before + faint).floor() > before.floor())
    return torch.where(kept, 1 / share, 0.0)


def render(volume: Volume[Tensor], origins: Tensor, directions: Tensor, roulette: Roulette[Tensor] | None = None) -> Rendering:
    """The rendering equation; differentiable in density, features and layers."""
    samples = keep_live(volume, march(volume, origins, directions), len(origins))
    weight, background_weight, density_at_voxels = weigh(volume, samples, len(origins))
    has_color = weight > volume.equation.alpha_threshold
    shaded, counted = samples.where(has_color), weight[has_color]
    owed = torch.zeros_like(background_weight)
    if roulette is not None:
        factor = play(roulette, counted, shaded.ray_id, len(origins))
        owed = owed.index_add(0, shaded.ray_id, counted * (1 - factor))
        shaded, counted = shaded.where(factor > 0), (counted * factor)[factor > 0]
    features, features_at_voxels = read_features(volume, shaded)
    color = colorize(volume, features, directions[shaded.ray_id])
    pixel = background_weight[:, None] * origins.new_tensor(volume.equation.background)
    pixel = pixel.index_add(0, shaded.ray_id, counted[:, None] * color)
    return Rendering(
        pixel=pixel,
        background_weight=background_weight,
        samples=samples,
        weight=weight,
        density_at_voxels=density_at_voxels,
        shaded=shaded,
        counted=counted,
        color=color,
        features_at_voxels=features_at_voxels,
        owed=owed,
    )


def loss_terms(seen: Looks, target: Tensor, share: Tensor | None, n_rays: int) -> dict[str, Tensor]:
    """The terms of `LossWeights`, of some of the n_rays rays that they are means over, each with its weight `share`."""
    target, opacity = target[:, :3], target[:, 3:]  # the second is empty where the opacity is unknown
    share = torch.ones_like(seen.background_weight) if share is None else share
    off_opacity = torch.where(opacity.isnan(), 0.0, 1 - seen.background_weight[:, None] - opacity.nan_to_num())
    p = seen.background_weight.clamp(ENTROPY_MARGIN, 1 - ENTROPY_MARGIN)
    entropy = -p * p.log() - (1 - p) * (1 - p).log()
    off = (seen.color - target[seen.ray_id]).square().sum(-1)
    return {
        "mse": (share[:, None] * (seen.pixel - target).square()).sum() / (3 * n_rays),
        "background_entropy": (share * entropy).sum() / n_rays,
        "point_color": (share[seen.ray_id] * seen.weight.detach() * off).sum() / n_rays,
        "opacity": (share[:, None] * off_opacity.square()).sum() / n_rays,
        "distortion": (share * seen.distortion).sum() / n_rays,
    }
