"""What a graphics card brings: kernels of rays by the back end for it and by the reference, on the same device; one table.

    python benchmarks/device.py
    VQRF_WARP=1 python benchmarks/device.py --device cpu --side 24 --rays 64 --width 32 --height 20    # without a card

Times are medians, after a first call that compiles; the two take turns. Memory is PyTorch's at the peak of a call, arrays that
were there before included; without a card it is not measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
import torch
import tyro
from ball import ball_field, ball_rays, camera

from vqrf.kernels import Gradients, Volume, reference, select
from vqrf.kernels.contract import Backend
from vqrf.training.stages import FINE_LOSSES

MIB = 1 << 20


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
      device: a torch device.
      side: of the ball's lattice.
      rays: of a training step.
      width, height: of a view.
      runs: that the medians are of.
    """

    device: str = "cuda"
    side: int = 160
    rays: int = 8192
    width: int = 1920
    height: int = 1080
    runs: int = 5


def on(device: str, array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array, device=device)


def volume_on(device: str, side: int) -> Volume[torch.Tensor]:
    volume = ball_field(side).volume()
    arrays = {name: on(device, getattr(volume, name)) for name in ("density", "features", "cells", "skip")}
    return replace(volume, layers=tuple((on(device, w), on(device, b)) for w, b in volume.layers), **arrays)


def gradients_for(volume: Volume[torch.Tensor]) -> Gradients[torch.Tensor]:
    zeros = torch.zeros_like
    layers = tuple((zeros(weight), zeros(bias)) for weight, bias in volume.layers)
    return Gradients(zeros(volume.density), zeros(volume.features), layers, zeros(volume.density, dtype=torch.uint8))


def seconds_of(run: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds that a call takes, and MiB at its peak."""
    is_card = device.startswith("cuda")
    if is_card:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    run()
    if is_card:
        torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated() / MIB if is_card else float("nan")


Kernels = Backend | ModuleType


def drawing(kernels: Kernels, volume: Volume[torch.Tensor], width: int, height: int) -> Callable[[], object]:
    view = replace(camera(max(width, height)), width=width, height=height, cx=width / 2, cy=height / 2)
    rays = tuple(on(volume.density.device.type, array) for array in view.rays())
    return lambda: kernels.render_rays(volume, *rays)


def learning(kernels: Kernels, volume: Volume[torch.Tensor], n_rays: int) -> Callable[[], object]:
    step = tuple(on(volume.density.device.type, array) for array in ball_rays(n_rays))
    into = gradients_for(volume)
    return lambda: kernels.render_gradients(volume, *step, FINE_LOSSES, into)


def main(options: Options) -> None:
    device, width, height = options.device, options.width, options.height
    card = torch.cuda.get_device_name(device) if device.startswith("cuda") else "the CPU: a rehearsal, its times mean nothing"
    both = select(device), reference
    print(f"{card}; {both[0].name} against the reference; a ball in {options.side}^3 voxels\n")
    volume = volume_on(device, options.side)
    square = height * 800 // 1080
    cases = {
        f"a step's gradients, {options.rays} rays": [learning(kernels, volume, options.rays) for kernels in both],
        f"a view of {square}x{square}": [drawing(kernels, volume, square, square) for kernels in both],
        f"a view of {width}x{height}": [drawing(kernels, volume, width, height) for kernels in both],
    }
    print("| kernel | back end, ms | reference, ms | times as fast | MiB, back end | MiB, reference |")
    print("|---|---|---|---|---|---|")
    for name, pair in cases.items():
        for run in pair:
            seconds_of(run, device)
        timed = [[seconds_of(run, device) for run in pair] for _ in range(options.runs)]
        own, twin = ([statistics.median(column) for column in zip(*runs, strict=True)] for runs in zip(*timed, strict=True))
        times = f"{1e3 * own[0]:.2f} | {1e3 * twin[0]:.2f} | {twin[0] / own[0]:.1f}"
        print(f"| {name} | {times} | {own[1]:.0f} | {twin[1]:.0f} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
