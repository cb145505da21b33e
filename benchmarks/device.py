"""What a graphics card brings: kernels of rays by the back end for it and by the reference, on the same device; one table.

    python benchmarks/device.py
    VQRF_WARP=1 python benchmarks/device.py --device cpu --side 24 --rays 64 --width 32 --height 20    # without a card

Times are medians, after a first call that compiles; the two take turns. Memory is PyTorch's at the peak of a call, arrays that
were there before included; without a card it is not measured. Below the table stands what sums in a fixed order cost, and which
shares of what the device can do are reached by a step's network and by Adam.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import SupportsFloat

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


def learning(kernels: Kernels, volume: Volume[torch.Tensor], n_rays: int) -> Callable[[], Mapping[str, SupportsFloat]]:
    step = tuple(on(volume.density.device.type, array) for array in ball_rays(n_rays))
    into = gradients_for(volume)
    return lambda: kernels.render_gradients(volume, *step, FINE_LOSSES, into)


def median_seconds(run: Callable[[], object], device: str, runs: int) -> float:
    """After a first call, which is not counted."""
    return statistics.median([seconds_of(run, device)[0] for _ in range(runs + 1)][1:])


def tell_shares(kernels: Kernels, volume: Volume[torch.Tensor], options: Options) -> None:
    """Compare a step's network and Adam with the device's own rates: of products of matrices, and of copies."""
    device, runs = options.device, options.runs
    side, n = (8192, 2**28) if device.startswith("cuda") else (256, 2**18)
    matrix, array = torch.ones(side, side, device=device), torch.ones(n, device=device)
    product = 2 * side**3 / median_seconds(lambda: matrix @ matrix, device, runs)
    copy = 2 * 4 * n / median_seconds(array.clone, device, runs)
    print(f"\nthe device: products of float32 matrices {product / 1e12:.3g} TFLOP/s, copies {copy / 1e9:.4g} GB/s")

    step = learning(kernels, volume, options.rays)
    seconds, n_shaded = median_seconds(step, device, runs), float(step()["n_shaded"])
    work = 6 * n_shaded * sum(weight.numel() for weight, _ in volume.layers)  # forth, and back to values and to weights
    print(f"a step's network: {100 * work / seconds / product:.2g} % of these products, over all of the step")
    torch.use_deterministic_algorithms(True)
    ordered = median_seconds(step, device, runs)
    torch.use_deterministic_algorithms(False)
    print(f"a step with sums in a fixed order: {1e3 * ordered:.2f} ms, without {1e3 * seconds:.2f} ms")

    values, gradient, first, second = torch.zeros(4, *volume.features.flatten(0, 2).shape, device=device).unbind()

    def adam() -> None:
        gradient.fill_(1)
        kernels.masked_adam(values, gradient, first, second, None, rate=0.1, step=1)

    moved = 9 * 4 * values.numel()  # four arrays are read and written, and one is filled before
    print(f"Adam on all features: {100 * moved / median_seconds(adam, device, runs) / copy:.3g} % of a copy's rate")


def main(options: Options) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses a fixed order
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
    tell_shares(both[0], volume, options)


if __name__ == "__main__":
    main(tyro.cli(Options))
