"""The kernels of arrays of Warp's back end. Twin: `vqrf.kernels.reference`, which holds the documentation.

Arrays are float32, and lie where the first one does. Numbers of rows, voxels and pixels are not looked at, as that would be to
wait for the card: one that is out of range reads and writes elsewhere. None of these functions waits.

Sums of rows by number are atomic, unless `torch.use_deterministic_algorithms(True)` was called: then they are sorted.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vqrf.kernels import ADAM_BETAS, ADAM_EPSILON, SKIP_BLOCK, A, Array, Children, FactorArrays, warp_rows, warp_sums
from vqrf.kernels.contract import B
from vqrf.kernels.equation import each_factor, result_like, tensor_of, writable
from vqrf.kernels.warp_launch import factors_of, flat, launch, numbers, triples


def _expect(name: str, array: Tensor, *shape: int) -> Tensor:
    if tuple(array.shape) != shape:
        raise ValueError(f"{name}: expected {list(shape)}, got {list(array.shape)}")
    return array


def _marks_of(touched: Array | None, device: torch.device) -> Tensor:
    """Marks, flat; none where all rows are to be looked at."""
    return torch.empty(0, dtype=torch.uint8, device=device) if touched is None else tensor_of(touched).reshape(-1)


def add_in_order(targets: Tensor, shares: Tensor, values: Tensor, into: Tensor, first: int = 0) -> None:
    """Add to the columns `first` and on of row t of `into` [R,C'] all shares * values that have the target t, in a fixed order.

    Args:
      targets: [K,n] int32, -1 for none. A few gigabytes are sorted where millions of samples are.
      shares: [K,n].
      values: [K,C], of the dtype of the shares and of `into`.
    """
    found, order = torch.sort(targets.reshape(-1), stable=True)
    arguments = numbers(found), numbers(order), flat(shares), numbers(values), targets.shape[1], first, numbers(into)
    launch(warp_sums.add_in_order, into.device, (len(found), values.shape[1]), *arguments)


def pixel_rays(pixels: A, starts: Array, widths: Array, pinholes: Array, poses: Array) -> tuple[A, A]:
    """A pixel out of range is an error in an array of NumPy; in a tensor it is taken for the nearest that is there."""
    number, first = tensor_of(pixels), tensor_of(starts)
    if isinstance(pixels, np.ndarray) and len(pixels) and not (pixels.min() >= 0 and pixels.max() < starts[-1]):
        raise ValueError("pixels: out of range")
    origins, directions = torch.empty(2, len(number), 3, device=number.device).unbind()
    tables = (numbers(tensor_of(array).to(number.device)) for array in (first, widths, pinholes, poses))
    launch(warp_rows.pixel_rays, number.device, len(number), numbers(number), *tables, triples(origins), triples(directions))
    return result_like(origins, pixels), result_like(directions, pixels)


def find_cells(density: A, floor: float, allowed: Array | None) -> A:
    values = tensor_of(density).contiguous()
    cells = torch.empty([side - 1 for side in values.shape], dtype=torch.uint8, device=values.device)
    permit = _marks_of(None if allowed is None else _expect("allowed", tensor_of(allowed), *cells.shape), values.device)
    arguments = tuple(values.shape), flat(values), floor, flat(permit), flat(cells)
    launch(warp_rows.find_cells, values.device, cells.numel(), *arguments)
    return result_like(cells, density)


def measure_skip(cells: A) -> A:
    """Departs: the distance is found axis by axis and not block by block, in as many kernels whatever it is."""
    occupied = tensor_of(cells).contiguous()
    blocks = tuple(-(-side // SKIP_BLOCK) for side in occupied.shape)
    distance = torch.empty(blocks, dtype=torch.uint8, device=occupied.device)
    launch(
        *(warp_rows.find_blocks, occupied.device, distance.numel()),
        *(tuple(occupied.shape), flat(occupied), blocks, flat(distance)),
    )
    for axis in range(3):
        reached = torch.empty_like(distance)
        launch(warp_rows.reach_along, occupied.device, distance.numel(), blocks, axis, flat(distance), flat(reached))
        distance = reached
    return result_like(distance, cells)


# ------------------------------------------------------------------------------------------------------- optimisation


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
    x, g = writable(values, "values"), writable(gradient, "gradient")
    m, v = writable(first, "first"), writable(second, "second")
    rows = [array.view(len(array), -1) if len(array) else array.view(0, 1) for array in (x, g, m, v)]
    one_rate = rate if isinstance(rate, float | int) else 1.0
    rates = torch.empty(0, device=x.device) if isinstance(rate, float | int) else tensor_of(rate).to(x)
    b1, b2 = ADAM_BETAS
    adam = warp_rows.Adam()
    adam.rate, adam.b1, adam.b2, adam.epsilon = one_rate, b1, b2, ADAM_EPSILON
    adam.scale_first, adam.scale_second = 1 / (1 - b1**step), 1 / (1 - b2**step)
    arguments = *map(numbers, rows), flat(_marks_of(touched, x.device)), flat(rates), adam
    launch(warp_rows.masked_adam, x.device, tuple(rows[0].shape), *arguments)


def add_total_variation(values: Array, gradient: Array, touched: Array | None, *, weight: float) -> None:
    x, into = tensor_of(values).detach().contiguous(), writable(gradient, "gradient")
    voxels = [array.view(into[..., 0].numel() if into.ndim > 3 else into.numel(), -1) for array in (x, into)]
    arguments = tuple(x.shape[:3]), *map(numbers, voxels), flat(_marks_of(touched, x.device)), weight
    launch(warp_rows.add_total_variation, x.device, tuple(voxels[0].shape), *arguments)


def add_sparsity(values: Array, gradient: Array, touched: Array | None, *, n_columns: int, weight: float) -> None:
    x, into = tensor_of(values).detach(), writable(gradient, "gradient")
    arguments = numbers(x), numbers(into), flat(_marks_of(touched, x.device)), weight
    launch(warp_rows.add_sparsity, x.device, (len(x), n_columns), *arguments)


# -------------------------------------------------------------------------------------------------------------- codes


@torch.no_grad()
def assign_codes(vectors: A, codebook: Array) -> tuple[A, A]:
    x, words = tensor_of(vectors).detach().contiguous(), tensor_of(codebook).detach().contiguous()
    if not len(words) or x.shape[1:] != words.shape[1:]:
        raise ValueError(f"codebook: expected [K >= 1,{x.shape[1]}], got {list(words.shape)}")
    codes = torch.empty(len(x), dtype=torch.int32, device=x.device)
    distances = torch.empty(len(x), device=x.device)
    launch(warp_rows.assign_codes, x.device, len(x), numbers(x), numbers(words), numbers(codes), numbers(distances))
    return result_like(codes, vectors), result_like(distances, vectors)


@torch.no_grad()
def sum_by_code(values: A, weights: Array, codes: Array, n_codes: int) -> tuple[A, A]:
    x, weight, code = tensor_of(values).double(), tensor_of(weights).double(), tensor_of(codes).int()
    sums, totals = x.new_zeros(n_codes, x.shape[1]), x.new_zeros(n_codes)
    if torch.are_deterministic_algorithms_enabled():
        for added, into in ((x, sums), (torch.ones_like(weight)[:, None], totals[:, None])):
            add_in_order(code[:, None], weight[:, None], added, into)
        return result_like(sums, values), result_like(totals, values)
    launch(warp_rows.sum_by_code, x.device, tuple(x.shape), *map(numbers, (x, weight, code, sums, totals)))
    return result_like(sums, values), result_like(totals, values)


@torch.no_grad()
def tie_gradients(gradient: Array, rows: Array, touched: Array, table_gradient: Array) -> None:
    from_voxel, into = writable(gradient, "gradient"), writable(table_gradient, "table_gradient")
    row, marks = tensor_of(rows).int(), tensor_of(touched)
    if torch.are_deterministic_algorithms_enabled():
        is_moved = (marks != 0) & (row >= 0)
        targets = torch.where(is_moved, row, -1)[:, None]
        add_in_order(targets, torch.ones_like(targets, dtype=into.dtype), from_voxel, into)
        from_voxel.masked_fill_(is_moved[:, None], 0)
        return
    launch(warp_rows.tie_gradients, from_voxel.device, tuple(from_voxel.shape), *map(numbers, (from_voxel, row, marks, into)))


# ------------------------------------------------------------------------------------------------------------ pyramids


@torch.no_grad()
def raise_level(fine: Array, coarse: Array, parents: Array) -> None:
    into, above = writable(fine, "fine"), tensor_of(coarse)
    links = _expect("parents", tensor_of(parents).int(), len(into), 8)
    _expect("coarse", above, len(above), into.shape[1])
    launch(warp_rows.raise_level, into.device, tuple(into.shape), numbers(into), numbers(above), numbers(links))


@torch.no_grad()
def lower_gradient(fine: Array, coarse: Array, children: Children[B]) -> None:
    below, into = tensor_of(fine), writable(coarse, "coarse")
    first, child, share = (tensor_of(array) for array in (children.first, children.child, children.share))
    _expect("first", first, len(into) + 1)
    _expect("fine", below, len(below), into.shape[1])
    launch(warp_rows.lower_gradient, into.device, tuple(into.shape), *map(numbers, (below, into, first, child, share)))


@torch.no_grad()
def move_gradients(gradient: Array, voxels: Array, touched: Array, matrix: Array | None, row_gradient: Array) -> None:
    from_voxel, into = writable(gradient, "gradient"), writable(row_gradient, "row_gradient")
    number, marks, n_channels = tensor_of(voxels), tensor_of(touched), from_voxel.shape[1]
    turn = from_voxel.new_empty(0, 0) if matrix is None else _expect("matrix", tensor_of(matrix), n_channels, n_channels)
    _expect("row_gradient", into, len(number), n_channels)
    size, moved = tuple(into.shape), [numbers(array) for array in (from_voxel, number, marks)]
    launch(warp_rows.move_gradients, into.device, size, *moved, numbers(turn.contiguous()), numbers(into))
    launch(warp_rows.clear_rows, into.device, size, *moved)


@torch.no_grad()
def place_rows(values: Array, scales: Array, places: Array, table: Array) -> None:
    rows, into, number = tensor_of(values).detach(), writable(table, "table"), tensor_of(places)
    arguments = [numbers(array) for array in (rows, *_expect_places(rows, scales, number, into), into)]
    launch(warp_rows.place_rows, rows.device, tuple(rows.shape), *arguments)


@torch.no_grad()
def take_rows(table: Array, scales: Array, places: Array, values: Array) -> None:
    whole, into, number = writable(table, "table"), writable(values, "values"), tensor_of(places)
    arguments = [numbers(array) for array in (whole, *_expect_places(into, scales, number, whole), into)]
    launch(warp_rows.take_rows, into.device, tuple(into.shape), *arguments)


def _expect_places(values: Tensor, scales: Array, places: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    n_rows, n_channels = values.shape
    _expect("table", table, len(table), n_channels)
    return _expect("scales", tensor_of(scales), n_channels), _expect("places", places, n_rows)


@torch.no_grad()
def round_to_steps(values: Array, steps: Array, dead_zone: float, rounded: Array) -> None:
    x, step, into = tensor_of(values).detach(), tensor_of(steps), writable(rounded, "rounded")
    arguments = numbers(x), numbers(_expect("steps", step, x.shape[1])), 0.5 - dead_zone, numbers(into)
    launch(warp_rows.round_to_steps, x.device, tuple(x.shape), *arguments)


@torch.no_grad()
def add_rate_gradient(values: Array, steps: Array, first_bits: Array, weight: float, gradient: Array) -> None:
    x, step, into = tensor_of(values).detach(), tensor_of(steps), writable(gradient, "gradient")
    bits = _expect("first_bits", tensor_of(first_bits), *x.shape)
    arguments = numbers(x), numbers(_expect("steps", step, x.shape[1])), numbers(bits), weight, numbers(into)
    launch(warp_rows.add_rate_gradient, x.device, tuple(x.shape), *arguments)


# ------------------------------------------------------------------------------------------------------------- factors


@torch.no_grad()
def expand_factors(factors: FactorArrays[B], marks: Array, density: Array, features: Array | None) -> None:
    made, into = each_factor(factors, tensor_of), writable(density, "density")
    n_density = made.lines[0].shape[1] - made.mix.shape[1]
    common: tuple[object, ...] = (factors_of(made), tuple(into.shape), n_density)
    marked = flat(_expect("marks", tensor_of(marks), *into.shape))
    launch(warp_rows.expand_density, into.device, into.numel(), *common, marked, flat(into))
    if features is not None:
        table = writable(features, "features").view(into.numel(), made.mix.shape[2])
        arguments = *common, numbers(made.mix), marked, numbers(table)
        launch(warp_rows.expand_features, into.device, tuple(table.shape), *arguments)
