"""Several workers that learn one field: processes that `torchrun` started, each on its share of the rays of every step.

All of them sample a step's batch, which is that of one process; each differentiates its share. Then the gradients are added up,
of voxels those that any of them touched, and each takes the same step. So all hold the same field, which is that of one process
but for the order of float32 sums. The first worker alone speaks and writes.

    torchrun --nproc-per-node 2 -m vqrf train nerf_synthetic/lego --out runs/lego --device cuda

Without torchrun there is one worker, nothing here does anything, and PyTorch is not imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, SupportsFloat

from vqrf.data.rays import Batch
from vqrf.kernels import Gradients

if TYPE_CHECKING:
    from torch import Tensor

LAUNCHED, NUMBERED = "TORCHELASTIC_RUN_ID", ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""What torchrun puts into the environment of its processes. Of other launchers, and where it started a shell, some may lack."""


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return LAUNCHED in os.environ and all(os.environ.get(name, "").isdecimal() for name in NUMBERED)


def is_first() -> bool:
    """Whether this worker is the one that speaks and writes."""
    return not is_launched() or os.environ["RANK"] == "0"


def n_workers_here() -> int:
    """How many share this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if is_launched() else 1


def device_of_own(device: str) -> str:
    """Of several workers on cards each has its own."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and is_launched() else device


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Inside, the workers that torchrun started know of each other; on cards they talk by NCCL, else by gloo."""
    if not is_launched():
        yield
        return
    import torch
    import torch.distributed as dist

    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def n_workers() -> int:
    dist = sys.modules.get("torch.distributed")  # who joined has imported it
    return dist.get_world_size() if dist is not None and dist.is_available() and dist.is_initialized() else 1


def decided(decide: Callable[[], bool]) -> bool:
    """What the first worker decides, for all; False for the others where it raises."""
    if n_workers() == 1:
        return decide()
    import torch.distributed as dist

    verdict = [False]
    try:
        if dist.get_rank() == 0:
            verdict[0] = decide()
    finally:
        dist.broadcast_object_list(verdict)
    return verdict[0]


def share_of(batch: Batch[Any]) -> Batch[Any]:
    """The rays of this worker: as many as of any other, or one more; no patch is torn."""
    if n_workers() == 1:
        return batch
    import torch.distributed as dist

    n_of_patch = 1 if batch.patch is None else batch.patch**2
    n_units, worker = len(batch.origins) // n_of_patch, dist.get_rank()
    start, stop = (n_of_patch * (n_units * number // n_workers()) for number in (worker, worker + 1))
    origins, directions, targets = (array[start:stop] for array in batch.arrays)
    weights = None if batch.weights is None else batch.weights[start:stop]
    return replace(batch, origins=origins, directions=directions, targets=targets, weights=weights)


def add_up(
    gradients: Gradients[Tensor], share: float, mse: SupportsFloat, n_shaded: SupportsFloat
) -> tuple[SupportsFloat, SupportsFloat]:
    """Make of each worker's gradients, of the mean over its rays, those of the mean over all, in place; the marks too.

    Args:
      share: of all rays, that of this worker.
      mse, n_shaded: of its rays.

    Returns:
      The same of all rays.
    """
    if n_workers() == 1:
        return mse, n_shaded
    import torch
    import torch.distributed as dist

    dist.all_reduce(gradients.touched, op=dist.ReduceOp.MAX)
    tables, whole = _tables_of(gradients)
    rows = [torch.nonzero(marks).squeeze(1) for _, marks in tables]
    parts = [table[row] for (table, _), row in zip(tables, rows, strict=True)] + whole
    terms = torch.tensor([float(mse), float(n_shaded) / share if share else 0.0], device=gradients.touched.device)
    sums = share * torch.cat([part.reshape(-1) for part in (*parts, terms)])
    dist.all_reduce(sums)
    *added, terms = torch.split(sums, [part.numel() for part in (*parts, terms)])
    for (table, _), row, part in zip(tables, rows, added[: len(rows)], strict=True):
        table[row] = part.view(len(row), -1)
    for array, part in zip(whole, added[len(rows) :], strict=True):
        array.copy_(part.view_as(array))
    return float(terms[0]), float(terms[1])


def _tables_of(gradients: Gradients[Tensor]) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
    """The gradients that have rows, each with the marks of these, and those that are to be added whole."""
    import torch

    marks, whole = gradients.touched.view(-1), [array for layer in gradients.layers for array in layer]
    if gradients.factors is None:
        return [(gradients.density.view(len(marks), 1), marks), (gradients.features.view(len(marks), -1), marks)], whole
    planes = [plane.flatten(0, 1) for plane in gradients.factors.planes]
    of_planes = torch.split(marks, [len(plane) for plane in planes])
    return list(zip(planes, of_planes, strict=True)), [*whole, *gradients.factors.lines, gradients.factors.mix]
