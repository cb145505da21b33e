"""The readable twin of the kernels of rows: codes, and the levels of pyramids.

A part of `vqrf.kernels.reference`, which has the conventions and the notation.
"""

from __future__ import annotations

import torch

from vqrf.kernels import BITS_UNIT, FIRST_STEP, MAX_STEPS, A, Array, Children
from vqrf.kernels.contract import B
from vqrf.kernels.equation import result_like, tensor_of, writable

CHUNK_DISTANCES = 2**24
"""Vector-to-codeword distances held at once: 64 MiB in float32."""


# ---------------------------------------------------------------------------------------------------- codes


@torch.no_grad()
def assign_codes(vectors: A, codebook: Array) -> tuple[A, A]:
    """Find the nearest codeword of each vector.

    Args:
      vectors: [N,C].
      codebook: [K,C], K >= 1.

    Returns:
      codes [N] int32, the lowest index among codewords that are equally near up to rounding, and the squared
      Euclidean distance [N] float32 to that codeword.

    Raises:
      ValueError: no codeword, or the channels differ.
    """
    x, words = tensor_of(vectors).detach(), tensor_of(codebook).detach()
    if not len(words) or x.shape[1:] != words.shape[1:]:
        raise ValueError(f"codebook: expected [K >= 1,{x.shape[1]}], got {list(words.shape)}")
    codes = torch.empty(len(x), dtype=torch.int64, device=x.device)
    half_norm = words.square().sum(1) / 2
    n_together = max(1, CHUNK_DISTANCES // len(words))
    for start in range(0, len(x), n_together):
        part = slice(start, start + n_together)
        codes[part] = (half_norm - x[part] @ words.T).argmin(1)  # |x - w|^2 = |x|^2 + 2 (|w|^2 / 2 - x.w)
    distance = (x - words[codes]).square().sum(1).float()
    return result_like(codes.int(), vectors), result_like(distance, vectors)


@torch.no_grad()
def sum_by_code(values: A, weights: Array, codes: Array, n_codes: int) -> tuple[A, A]:
    """Sum vectors and weights by code: `sums / totals` are the weighted means.

    Args:
      values: [N,C].
      weights: [N] float64 or float32.
      codes: [N] int32, each in 0..n_codes-1.
      n_codes: K.

    Returns:
      sums [K,C] float64, sum of weight * value by code, and totals [K] float64, sum of weights by code.
    """
    x, weight, code = tensor_of(values).double(), tensor_of(weights).double(), tensor_of(codes).long()
    sums = x.new_zeros(n_codes, x.shape[1]).index_add_(0, code, weight[:, None] * x)
    totals = x.new_zeros(n_codes).index_add_(0, code, weight)
    return result_like(sums, values), result_like(totals, values)


@torch.no_grad()
def tie_gradients(gradient: Array, rows: Array, touched: Array, table_gradient: Array) -> None:
    """Move the gradients of voxels to the rows that they share, in place.

    For every touched voxel with a row: table_gradient[row] += gradient[v], then gradient[v] = 0. The
    derivative of looking a row up.

    Args:
      gradient: [V,C].
      rows: [V] int32, -1 for a pruned voxel.
      touched: [V] uint8.
      table_gradient: [R,C].
    """
    from_voxel, into = writable(gradient, "gradient"), writable(table_gradient, "table_gradient")
    row = tensor_of(rows).long()
    voxel = torch.nonzero((tensor_of(touched) != 0) & (row >= 0)).squeeze(1)
    into.index_add_(0, row[voxel], from_voxel[voxel])
    from_voxel[voxel] = 0


# ------------------------------------------------------------------------------------------------- pyramids


@torch.no_grad()
def raise_level(fine: Array, coarse: Array, parents: Array) -> None:
    """Add to each node of a pyramid's level the mean of its eight parents, in place: trilinear upsampling.

    Args:
      fine: [N,C], added to.
      coarse: [M,C], the next coarser level.
      parents: [N,8] int32, rows of `coarse`, repeated where a node lies on a coarse plane (see `vqrf.codec.pyramid`).
    """
    writable(fine, "fine").add_(tensor_of(coarse)[tensor_of(parents).long()].mean(1))


@torch.no_grad()
def lower_gradient(fine: Array, coarse: Array, children: Children[B]) -> None:
    """The derivative of `raise_level`: add to each parent its share of each child's gradient, in place.

    Args:
      fine: [N,C] gradient.
      coarse: [M,C] gradient, added to.
      children: the parents that `raise_level` takes, seen from above.
    """
    counts = tensor_of(children.first).long().diff()
    parent = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    amounts = tensor_of(fine)[tensor_of(children.child).long()] * tensor_of(children.share)[:, None]
    writable(coarse, "coarse").index_add_(0, parent, amounts)


@torch.no_grad()
def move_gradients(gradient: Array, voxels: Array, touched: Array, matrix: Array | None, row_gradient: Array) -> None:
    """Move the gradients of touched voxels to rows of their own, in place.

    For every i whose voxel v = voxels[i] is touched: row_gradient[i] = gradient[v] @ matrix, then gradient[v] = 0.

    Args:
      gradient: [V,C].
      voxels: [N] int64, flat numbers of voxels, each once.
      touched: [V] uint8.
      matrix: [C,C], the identity if None.
      row_gradient: [N,C], written.
    """
    from_voxel, into = writable(gradient, "gradient"), writable(row_gradient, "row_gradient")
    number = tensor_of(voxels)
    row = torch.nonzero(tensor_of(touched)[number]).squeeze(1)
    moved = from_voxel[number[row]]
    into.index_copy_(0, row, moved if matrix is None else moved @ tensor_of(matrix))
    from_voxel[number[row]] = 0


@torch.no_grad()
def place_rows(values: Array, scales: Array, places: Array, table: Array) -> None:
    """Put rows where they belong: table[places[i]] = values[i] * scales. The other rows of the table stay.

    Args:
      values: [N,C].
      scales: [C].
      places: [N] int64, numbers of rows of the table, each once.
      table: [V,C], written.
    """
    writable(table, "table")[tensor_of(places)] = tensor_of(values) * tensor_of(scales)


@torch.no_grad()
def take_rows(table: Array, scales: Array, places: Array, values: Array) -> None:
    """The derivative of `place_rows`, which is cleared: values[i] = table[places[i]] * scales, then table[places[i]] = 0.

    Args:
      table: [V,C] gradient.
      scales: [C].
      places: [N] int64, as `place_rows` takes them.
      values: [N,C] gradient, written.
    """
    whole, number = writable(table, "table"), tensor_of(places)
    writable(values, "values").copy_(whole[number] * tensor_of(scales))
    whole[number] = 0


@torch.no_grad()
def round_to_steps(values: Array, steps: Array, dead_zone: float, rounded: Array) -> None:
    """Round to the nearest step, but towards zero where the value is less than `dead_zone` of a step nearer to the other.

        rounded = sign(x) * step * min(floor(|x| / step + 1/2 - dead_zone), MAX_STEPS)

    Args:
      values: [N,C] x.
      steps: [C], > 0.
      dead_zone: 0..0.5.
      rounded: [N,C], written.
    """
    x, step = tensor_of(values), tensor_of(steps)
    whole = (x.abs() / step + (0.5 - dead_zone)).floor().clamp(max=MAX_STEPS)
    writable(rounded, "rounded").copy_(torch.copysign(whole * step, x))


@torch.no_grad()
def add_rate_gradient(values: Array, steps: Array, first_bits: Array, weight: float, gradient: Array) -> None:
    """Add the gradient of `weight` times what a coefficient's code length grows like, in place.

        sign(x) * weight / (step + |x|) * (1 + (first - 1) / (1 + r^4)),   r = |x| / (step * FIRST_STEP)

    That is the slope of `weight * log(1 + |x| / step)`, near 0 times what the first step costs.

    Args:
      values: [N,C] x; nothing is added where it is 0.
      steps: [C], > 0.
      first_bits: [N,C] uint8, `first` in units of `BITS_UNIT`.
      weight: >= 0.
      gradient: [N,C], added to.

    Source: the logarithm as a sparse prior is Candes, Wakin and Boyd's (2008, reweighted l1). Departs: what is near 0.
    """
    x, step = tensor_of(values), tensor_of(steps)
    first = tensor_of(first_bits).to(x.dtype) * BITS_UNIT
    factor = 1 + (first - 1) / (1 + (x.abs() / (step * FIRST_STEP)) ** 4)
    writable(gradient, "gradient").add_(weight * x.sign() / (step + x.abs()) * factor)
