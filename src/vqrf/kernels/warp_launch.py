"""What all functions of Warp's back end start kernels with: arrays that cross without a copy, and the line about compiling."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch
import warp as wp
from torch import Tensor

from vqrf.kernels import FactorArrays, warp_march, warp_rays, warp_rows, warp_sums

wp.config.log_level = wp.LOG_ERROR  # Warp would greet on the output stream, where results are
wp.init()

KERNELS = (warp_rays, warp_rows, warp_sums)


def numbers(tensor: Tensor) -> wp.array:
    """The tensor as Warp has it, sharing its memory."""
    return wp.from_torch(tensor.detach(), requires_grad=False)


def triples(tensor: Tensor) -> wp.array:
    """The same of [N,3], as N vectors."""
    rows = tensor.detach() if len(tensor) else tensor.new_empty(0, 3)  # an empty array may have strides of any size
    return wp.from_torch(rows, dtype=wp.vec3, requires_grad=False)


def flat(tensor: Tensor) -> wp.array:
    return numbers(tensor.reshape(-1))


def factors_of(arrays: FactorArrays[Tensor]) -> warp_march.Factors:
    factors = warp_march.Factors()
    for number, (plane, line) in enumerate(zip(arrays.planes, arrays.lines, strict=True)):
        setattr(factors, f"plane_{number}", numbers(plane.flatten(0, 1)))
        setattr(factors, f"line_{number}", numbers(line))
    return factors


def launch(kernel: wp.Kernel, device: torch.device, size: int | tuple[int, ...], *arguments: object) -> None:
    """Run a kernel in `size` threads, after what PyTorch was told before and before what it is told next."""
    _look_for(kernel.module, device.type)
    stream = wp.stream_from_torch(torch.cuda.current_stream(device)) if device.type == "cuda" else None
    wp.launch(kernel, size, list(arguments), device=wp.device_from_torch(device), stream=stream)


@functools.cache
def _look_for(module: wp.Module, kind: str) -> None:
    """Say on the error stream that kernels are compiled, where Warp's cache has none of the module for this kind of device."""
    threads = 1 if kind == "cpu" else 256  # in a block: the cache has kernels by it
    if not (Path(wp.config.kernel_cache_dir or "") / module.get_module_identifier(threads)).is_dir():
        _say_what_takes_long()


@functools.cache
def _say_what_takes_long() -> None:
    print("vqrf: Warp compiles the kernels, which takes a minute the first time", file=sys.stderr, flush=True)
