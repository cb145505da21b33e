"""The kernels, native and reference side by side in one run, and how far they are from the floor.

    python benchmarks/kernels.py                                                    # a synthetic ball
    python benchmarks/kernels.py --field runs/lego --data nerf_synthetic/lego       # what `vqrf train` made

Times are medians of pairs: native and reference take turns, so that a busy machine slows both. The floor of a stage is the
longer of two times that no implementation escapes: its matrix products at the rate that this machine's PyTorch reaches on
them (the better of float32 and bfloat16; float32 for codes), and its voxels moved once over the measured copy bandwidth.
Marching is in neither. Peak memory is what a stage adds to the resident set (Linux only, otherwise 0).
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated

import numpy as np
import torch
import tyro
from ball import N_CODES, Rays, ball_field, ball_rays, camera, compressed_ball

from vqrf.codec.bitstream import decode, encode
from vqrf.data.load import load_scene
from vqrf.data.rays import RayPool
from vqrf.fields.storage import load_field
from vqrf.kernels import Gradients, Volume, native, reference
from vqrf.rendering.render import render
from vqrf.training.stages import FINE_LOSSES

N_VECTORS = 50_000
MATRIX_ROWS, COPY_BYTES, RATE_RUNS = 1 << 15, 1 << 28, 15


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
      field: run folder of `vqrf train`; a synthetic ball if not given.
      data: dataset folder whose training rays are used; rays at the ball if not given.
      side: of the ball's lattice.
      rays: in a step.
      pairs: of runs that the medians are of.
      threads: of both; all CPUs if 0.
      sides: of the lattice, for the growth of a step and of encoding.
      images: sides of the image, for the growth of rendering.
    """

    field: Path | None = None
    data: Path | None = None
    side: int = 160
    rays: int = 8192
    pairs: int = 3
    threads: int = 0
    sides: tuple[int, ...] = (64, 96, 128, 160, 192, 256)
    images: tuple[int, ...] = (200, 400, 800, 1600)
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False


@dataclass(frozen=True)
class Machine:
    """Measured rates: the best of the MLP's matrix products in GFLOP/s, a copy in GB/s read and written."""

    float32: float
    bfloat16: float
    copy: float

    @classmethod
    def measure(cls) -> Machine:
        def rate(dtype: torch.dtype) -> float:
            rates = []
            for depth, width in ((39, 128), (128, 128), (128, 3)):
                a, b = torch.ones(MATRIX_ROWS, depth, dtype=dtype), torch.ones(depth, width, dtype=dtype)
                rates.append(2 * MATRIX_ROWS * depth * width / least_seconds(lambda: a @ b) / 1e9)  # noqa: B023 (called at once)
            return max(rates)

        source, target = np.ones(COPY_BYTES, np.uint8), np.ones(COPY_BYTES, np.uint8)
        a, b = torch.from_numpy(source), torch.from_numpy(target)
        return cls(rate(torch.float32), rate(torch.bfloat16), 2 * COPY_BYTES / least_seconds(lambda: b.copy_(a)) / 1e9)


def seconds(run: Callable[[], object], times: int) -> float:
    """Median, after one run that does not count."""
    run()
    return statistics.median(timed(run) for _ in range(times))


def least_seconds(run: Callable[[], object]) -> float:
    """What the machine can do: the fastest of some runs, whatever else it is doing."""
    return min(timed(run) for _ in range(RATE_RUNS))


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process in MiB; 0 where there is no /proc."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith(f"{name}:")), 0)


def peak_of(run: Callable[[], object]) -> int:
    """MiB that the resident set grows by at most while `run` runs."""
    before = resident("VmRSS")
    if before:
        with contextlib.suppress(PermissionError):
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    run()
    return max(0, resident("VmHWM") - before)


@dataclass(frozen=True)
class Stage:
    """A kernel call to measure; `reset` puts back what it uses up. Operations and bytes are the floor's."""

    name: str
    run: Callable[[ModuleType], object]
    flops: float
    bytes: float
    reset: Callable[[], object] = lambda: None
    is_float32: bool = False

    def floor(self, machine: Machine) -> float:
        rate = machine.float32 if self.is_float32 else max(machine.float32, machine.bfloat16)
        return max(self.flops / rate, self.bytes / machine.copy) / 1e9


@dataclass
class Step:
    """A field, a batch, and the arrays of one training step."""

    volume: Volume
    rays: Rays
    gradients: Gradients = field(init=False)
    moments: list[tuple[np.ndarray, ...]] = field(init=False)

    def __post_init__(self) -> None:
        v = self.volume
        layers = tuple((np.zeros_like(w), np.zeros_like(b)) for w, b in v.layers)
        touched = np.zeros(v.density.shape, np.uint8)
        self.gradients = Gradients(np.zeros_like(v.density), np.zeros_like(v.features), layers, touched)
        grids = ((v.density[..., None], self.gradients.density[..., None]), (v.features, self.gradients.features))
        self.moments = [
            tuple(a.reshape(-1, a.shape[-1]) for a in (values.copy(), gradient, np.zeros_like(values), np.zeros_like(values)))
            for values, gradient in grids
        ]

    def differentiate(self, kernels: ModuleType) -> dict[str, float]:
        return dict(kernels.render_gradients(self.volume, *self.rays, FINE_LOSSES, self.gradients))

    def update(self, kernels: ModuleType) -> None:
        for arrays in self.moments:
            kernels.masked_adam(*arrays, self.gradients.touched.ravel(), rate=1e-3, step=1)

    def run(self, kernels: ModuleType) -> None:
        self.differentiate(kernels)
        self.update(kernels)
        self.gradients.touched[...] = 0


def stages_of(step: Step, terms: dict[str, float], floor_density: float) -> Iterator[Stage]:
    """Every stage, with what its floor counts: voxels that the batch touches, matrix products of its shaded samples."""
    v, (origins, directions, _) = step.volume, step.rays
    n_touched, n_rays, n_channels = int(step.gradients.touched.sum()), len(origins), v.features.shape[-1]
    width = v.layers[0][0].shape[0]
    per_sample = n_channels * width + (len(v.layers) - 2) * width**2 + 3 * width
    per_ray = (v.layers[0][0].shape[1] - n_channels) * width  # the view's share of the first layer, once for a ray
    forward = 2 * (terms["n_shaded"] * per_sample + n_rays * per_ray)
    values = 4 * n_touched * (1 + n_channels)
    importance = np.zeros(v.density.shape)
    yield Stage("march+importance", lambda k: k.accumulate_importance(v, origins, directions, importance), 0, 20 * n_touched)
    yield Stage("render", lambda k: k.render_rays(v, origins, directions), forward, values)
    yield Stage("gradients", step.differentiate, 3 * forward, 3 * values)
    yield Stage("step", step.run, 3 * forward, 11 * values + v.density.size)
    step.differentiate(native)
    saved = [arrays[1].copy() for arrays in step.moments]

    def give_gradients() -> None:
        for arrays, gradient in zip(step.moments, saved, strict=True):
            arrays[1][...] = gradient

    yield Stage("adam", step.update, 0, 8 * values + v.density.size, give_gradients)
    vectors = v.features.reshape(-1, n_channels)[step.gradients.touched.ravel() != 0][:N_VECTORS]
    codebook = vectors[:: max(1, len(vectors) // N_CODES)][:N_CODES].copy()
    products = 2 * vectors.size * len(codebook)
    yield Stage("assign_codes", lambda k: k.assign_codes(vectors, codebook), products, vectors.nbytes, is_float32=True)
    tv, into = v.features, np.zeros_like(v.features)
    yield Stage("total_variation", lambda k: k.add_total_variation(tv, into, None, weight=1e-6), 0, 3 * tv.nbytes)
    yield Stage("find_cells", lambda k: k.find_cells(v.density, floor_density, None), 0, 5 * v.density.size)


def compare(stage: Stage, machine: Machine, pairs: int) -> dict[str, float | str]:
    """Both twins in turn: median times, their ratio (median of the pairs'), the floor, and peak memory."""
    peaks, times = {}, {}
    for kernels in (native, reference):
        stage.reset()
        peaks[kernels] = peak_of(lambda: stage.run(kernels))  # noqa: B023 (called at once)
        times[kernels] = []
    for _ in range(pairs):
        for kernels in (native, reference):
            stage.reset()
            times[kernels].append(timed(lambda: stage.run(kernels)))  # noqa: B023 (called at once)
    fast, floor = statistics.median(times[native]), stage.floor(machine)
    return {
        "stage": stage.name,
        "native_ms": 1e3 * fast,
        "reference_ms": 1e3 * statistics.median(times[reference]),
        "ratio": statistics.median(slow / quick for quick, slow in zip(times[native], times[reference], strict=True)),
        "floor_ms": 1e3 * floor,
        "of_floor": floor / fast,
        "native_mib": peaks[native],
        "reference_mib": peaks[reference],
    }


def growth(options: Options) -> Iterator[dict[str, float | str]]:
    """How a training step and the codec grow with the lattice, and rendering with the image; the compiled core alone."""
    for side in options.sides:
        ball = ball_field(side)
        step = Step(ball.volume(), ball_rays(options.rays))
        times = [seconds(lambda: step.run(native), options.pairs)]  # noqa: B023 (called at once)
        small = compressed_ball(ball, step.volume)
        data = encode(small)
        times += [timed(lambda: encode(small)), timed(lambda: decode(data))]  # noqa: B023 (called at once)
        names = ("step_ms", "encode_ms", "decode_ms")
        row = {name: 1e3 * t for name, t in zip(names, times, strict=True)}
        yield {"lattice": f"{side}^3", **row, "rays_per_s": options.rays / times[0], "bytes": len(data)}
    volume = ball_field(options.side).volume()
    for side in options.images:
        took = seconds(lambda: render(volume, camera(side)), options.pairs)  # noqa: B023 (called at once)
        yield {"image": f"{side}x{side}", "render_ms": 1e3 * took, "rays_per_s": side**2 / took}


def show(rows: list[dict[str, float | str]]) -> None:
    """A table, its head anew wherever the columns change."""
    head: list[str] = []
    for row in rows:
        if list(row) != head:
            head = list(row)
            print("\n" + " ".join(f"{name:>16}" for name in head))
        print(" ".join(f"{cell:>16}" if isinstance(cell, str) else f"{cell:>16.4g}" for cell in row.values()))


def main(options: Options) -> None:
    """Measure and print."""
    if options.threads:
        native.set_threads(options.threads)
        torch.set_num_threads(options.threads)
    machine = Machine.measure()
    what = ball_field(options.side) if options.field is None else load_field(options.field / "field.safetensors")[0]
    volume = what.volume()
    if options.data is None:
        rays = ball_rays(options.rays)
    else:
        pool = RayPool(load_scene(options.data, splits=("train",)).train)
        pool.keep_hits(volume)
        rays = pool.sample(options.rays, seed=(0,)).arrays
    floor_density = what.equation.floor
    step = Step(volume, rays)
    terms = step.differentiate(native)
    per_ray = {name: terms[name] / options.rays for name in ("n_live", "n_shaded")}
    stages = [compare(stage, machine, options.pairs) for stage in stages_of(step, terms, floor_density)]
    del step
    grown = list(growth(options))
    if options.as_json:
        print(json.dumps({"machine": asdict(machine), "per_ray": per_ray, "stages": stages, "growth": grown}, indent=2))
        return
    print(f"lattice {what.lattice.shape}, {options.rays} rays, kernels {native.instruction_sets()[-1]}")
    print(f"samples of a ray: {per_ray['n_live']:.1f} live, {per_ray['n_shaded']:.1f} shaded")
    print(f"matrix products {machine.float32:.0f} GFLOP/s (bfloat16 {machine.bfloat16:.0f}), copy {machine.copy:.1f} GB/s")
    show(stages)
    show(grown)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
