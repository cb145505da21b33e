"""What the web profile's colours cost and lose: harmonics at every sample, or one small network at every pixel.

    python benchmarks/deferred.py runs/lego nerf_synthetic/lego --downscale 2

Both candidates are made of the same field, grown to the same lattice, and tuned for the same steps on the same rays, each in
its own rendering equation. Harmonics of degree 1 are what `training.bake` makes and tunes. The network is not in the package:

    pixel = D + color_mlp(D, F, waves of the direction)
    D     = sum_i w_i sigmoid(diffuse_i) + background_weight * background
    F     = sum_i w_i sigmoid(features_i)

and a ray that meets nothing keeps its D. It begins as the harmonics' mean over all directions, with a network that answers 0.
D and F are what the kernels make of three channels without a network, so every three channels are a pass of the kernels. The
gradient g of a pixel p goes back through them as that of a squared error against the target p - 3 N g / 2.

Source: SNeRG (arXiv 2103.14645), sec. 4, and its successor MERF (arXiv 2302.12249). Departs: the residual may be negative, so
that it can begin at 0, and nothing keeps it small; the network takes no positions, and density is tuned as under harmonics.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from vqrf.cameras import Camera
from vqrf.compression.importance import measure_importance
from vqrf.data.load import load_scene
from vqrf.data.rays import CameraTable, RayPool
from vqrf.data.scene import View
from vqrf.fields.field import RadianceField
from vqrf.fields.storage import load_field
from vqrf.geometry import Float32
from vqrf.kernels import Gradients, LossWeights, Volume, select
from vqrf.kernels.equation import render as render_samples
from vqrf.kernels.equation import tensors, waves
from vqrf.rendering.evaluate import psnr
from vqrf.rendering.render import render, save_image
from vqrf.training.bake import BAKE_CHANNELS, RATE_DENSITY, RATE_FEATURES, HarmonicsModel, bake_harmonics, grow
from vqrf.training.loop import REFRESH_STEPS, optimize, torch_threads
from vqrf.training.parameters import Moments
from vqrf.training.stages import FINE_LOSSES

WIDTH = 16
"""Units of each of the two hidden layers, as in SNeRG."""

PASS = 3
"""Channels that the kernels sum up at a time."""

VIEW_FREQUENCIES = 4
"""Of the direction, in what the network of a pixel takes."""

DEGREE_0 = 0.28209479177387814
"""The harmonic of degree 0."""

NO_LOSSES = LossWeights(background_entropy=0.0, point_color=0.0)
PIXEL_LOSSES = replace(FINE_LOSSES, point_color=0.0)

COUNTED_RAYS = 2048
"""Training rays over which samples are counted."""

LOGGED_STEPS = 100


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
      run: run folder of `vqrf train`, of a field with a network.
      data: dataset folder.
      downscale: of its images.
      every: of the test views, take each n-th.
      steps: of tuning.
      rays: in a step.
      features: of a voxel, beside its diffuse colour.
      mlp_rates: Adam's at the start, of the deferred network; each is a candidate. They decay tenfold, as all do.
      pictures: folder for the first test view, as photographed and as each candidate shows it.
    """

    run: Annotated[Path, tyro.conf.Positional]
    data: Annotated[Path, tyro.conf.Positional]
    downscale: int = 1
    every: int = 8
    steps: int = 1000
    rays: int = 4096
    features: int = 4
    mlp_rates: tuple[float, ...] = (5e-3, 1e-3)
    pictures: Path | None = None
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False


@dataclass(frozen=True)
class Row:
    """A method, how good it is, and what it costs.

    Attributes:
      channels: of a voxel, beside the density.
      before, psnr: dB on the test views, before the tuning (nan if there is none) and after it.
      train_psnr: dB on some of the training views.
      networks: evaluations of a network in a pixel.
      per_sample, per_pixel: multiply-adds of networks and harmonics for each of them.
      shaded: samples of a ray that meets an occupied cell.
      seconds: of the tuning.
      view_seconds: of rendering a test view.
    """

    method: str
    channels: int
    before: float
    psnr: float
    train_psnr: float
    networks: float
    per_sample: int
    per_pixel: int
    shaded: float
    seconds: float
    view_seconds: float


# ------------------------------------------------------------------------------------------- the deferred network


def diffuse_and_features(baked: RadianceField, seen: np.ndarray, n_features: int) -> list[Float32]:
    """Three channels [X,Y,Z,3] each: the logits of the harmonics' mean colour, then `n_features`, and zeros that fill the last.

    The features begin as the main axes of what the harmonics add to their mean in some directions, each of variance 1.
    """
    harmonics = baked.features[seen].reshape(-1, 3, BAKE_CHANNELS // 3)
    turning = harmonics[..., 1:].reshape(len(harmonics), -1)
    turning = turning - turning.mean(0)
    axes = np.linalg.svd(turning.T @ turning)[0][:, :n_features]
    values = turning @ axes
    n_passes = -(-n_features // PASS)
    table = np.zeros((*baked.lattice.shape, PASS * (1 + n_passes)), np.float32)
    table[seen, :PASS] = harmonics[..., 0] * DEGREE_0
    table[seen, PASS : PASS + n_features] = values / np.maximum(values.std(0), 1e-6)
    return [np.ascontiguousarray(part) for part in np.split(table, 1 + n_passes, -1)]


def residual_mlp(n_features: int) -> nn.Sequential:
    """Diffuse colour, features and encoded direction to what is added to the colour; 0 at first."""
    torch.manual_seed(0)
    n_inputs = PASS + n_features + 3 + 6 * VIEW_FREQUENCIES
    last = nn.Linear(WIDTH, 3)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(n_inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), last)


class DeferredModel:
    """Diffuse colours, features and a network of the pixel under tuning, from the same start as `bake.HarmonicsModel`.

    Args:
      baked: harmonics of degree 1.
      seen: [X,Y,Z], the voxels with harmonics.
      mlp_rate: Adam's, at the start.
      steps: over which the rates decay.
      losses: beside the mean squared error of the pixel; without the colours of points, which are not what a pixel is made of.
    """

    def __init__(
        self,
        baked: RadianceField,
        seen: np.ndarray,
        n_features: int,
        mlp_rate: float,
        steps: int,
        losses: LossWeights = PIXEL_LOSSES,
    ) -> None:
        self.start, self.n_features, self.steps, self.losses, self.kernels = baked, n_features, steps, losses, select()
        self.density = Moments.of(torch.from_numpy(baked.density[..., None].copy()))
        self.parts = [Moments.of(torch.from_numpy(part)) for part in diffuse_and_features(baked, seen, n_features)]
        self.mlp = residual_mlp(n_features)
        self.adam = torch.optim.Adam(self.mlp.parameters(), mlp_rate)
        self.mlp_rate = mlp_rate
        self.touched = torch.zeros(baked.lattice.shape, dtype=torch.uint8)
        self.find_cells()

    def find_cells(self) -> None:
        field = replace(self.start, density=self.density.values[..., 0].numpy())
        base, logits = field.volume(), replace(field.equation, shading="mlp")
        dark = replace(logits, background=(0.0, 0.0, 0.0))
        self.volumes = [
            replace(base, features=part.values.numpy(), equation=dark if number else logits)
            for number, part in enumerate(self.parts)
        ]

    def sums(self, origins: Float32, directions: Float32) -> tuple[list[Tensor], Tensor]:
        """D and F [N,3] of each pass, and where the ray met something [N,1]."""
        seen = [self.kernels.render_rays(volume, origins, directions) for volume in self.volumes]
        return [torch.from_numpy(rgb) for rgb, _, _ in seen], torch.from_numpy(seen[0][1] < 1)[:, None]

    def shade(self, sums: Sequence[Tensor], hit: Tensor, directions: Float32) -> Tensor:
        """The pixels [N,3]."""
        facing = torch.from_numpy(directions)
        features = torch.cat(list(sums[1:]), -1)[:, : self.n_features]
        inputs = torch.cat([sums[0], features, facing, *waves(facing, VIEW_FREQUENCIES)], -1)
        return sums[0] + hit * self.mlp(inputs)

    def differentiate(self, origins: Float32, directions: Float32, targets: Float32) -> float:
        """Add the gradient of the loss over N rays to what is tuned; answers the mean squared error.

        Args:
          targets: [N,3], or [N,4] with the opacity.
        """
        sums, hit = self.sums(origins, directions)
        for total in sums:
            total.requires_grad_()
        error = (self.shade(sums, hit, directions) - torch.from_numpy(targets[:, :3])).square().mean()
        error.backward()
        for number, (volume, part, total) in enumerate(zip(self.volumes, self.parts, sums, strict=True)):
            assert total.grad is not None
            aims = (total.detach() - 1.5 * len(total) * total.grad).numpy()
            if not number:
                aims = np.concatenate([aims, targets[:, 3:]], -1)
            gradients = Gradients(self.density.gradient[..., 0], part.gradient, (), self.touched)
            self.kernels.render_gradients(volume, origins, directions, aims, NO_LOSSES if number else self.losses, gradients)
        return error.item()

    def update(self, step: int) -> None:
        """One step of Adam on everything; clears the gradients."""
        decay = 0.1 ** (step / self.steps)
        for moments, rate in ((self.density, RATE_DENSITY), *((part, RATE_FEATURES) for part in self.parts)):
            moments.update(self.kernels, self.touched, rate * decay, step + 1)
        self.touched.zero_()
        self.adam.param_groups[0]["lr"] = self.mlp_rate * decay
        self.adam.step()
        self.adam.zero_grad()

    def render(self, camera: Camera) -> Float32:
        """[H,W,3]."""
        rays = CameraTable([camera]).rays(np.arange(camera.width * camera.height))
        sums, hit = self.sums(*rays)
        with torch.no_grad():
            pixels = self.shade(sums, hit, rays[1])
        return pixels.clamp(0, 1).numpy().reshape(camera.height, camera.width, 3)


# -------------------------------------------------------------------------------------------------- the measurement


def tune_deferred(model: DeferredModel, pool: RayPool, options: Options) -> None:
    """The loop of `vqrf.training.loop.optimize`, on the same rays."""
    for step in range(options.steps):
        with torch_threads(1):
            if step % REFRESH_STEPS == 0:
                model.find_cells()
            if step == 0:
                pool.keep_hits(model.volumes[0])
            error = model.differentiate(*pool.sample(options.rays, seed=(0, step)).arrays)
            model.update(step)
        log(f"deferred {step + 1}/{options.steps} {-10 * math.log10(error):.2f} dB", step + 1)


def shaded_per_pixel(volume: Volume, pool: RayPool) -> float:
    """Shaded samples of a training ray that meets an occupied cell."""
    pool.keep_hits(volume)
    origins, directions, _ = (torch.from_numpy(array) for array in pool.sample(COUNTED_RAYS, seed=(1,)).arrays)
    with torch.no_grad():
        return len(render_samples(tensors(volume), origins, directions).shaded.ray_id) / COUNTED_RAYS


def multiply_adds(sides: Sequence[tuple[int, ...]]) -> int:
    """Of a network whose weights have these shapes."""
    return sum(int(np.prod(side)) for side in sides)


Draw = Callable[[Camera], Float32]


def mean_psnr(draw: Draw, views: Sequence[View]) -> float:
    return float(np.mean([psnr(draw(view.camera), view.colors()) for view in views]))


def drawn_by(field: RadianceField) -> Draw:
    volume = field.volume()
    return lambda camera: render(volume, camera).rgb


class Measurement:
    """The field, what both candidates begin as, and the scene that they are tuned and judged on."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.scene = load_scene(options.data, downscale=options.downscale, every=options.every)
        self.field = load_field(options.run / "field.safetensors")[0].with_background(self.scene.background)
        self.pool = RayPool(self.scene.train)
        grown = grow(self.field)
        self.seen = measure_importance(grown, self.pool) > 0
        self.baked = bake_harmonics(grown, [view.camera for view in self.scene.train], self.seen)

    def rows(self) -> Iterator[Row]:
        yield self._field()
        yield self._harmonics()
        for rate in self.options.mlp_rates:
            yield self._deferred(rate)

    def _row(self, method: str, draw: Draw, **costs: Any) -> Row:
        """The scores of what is tuned now."""
        start = time.perf_counter()
        score = mean_psnr(draw, self.scene.test)
        view_seconds = (time.perf_counter() - start) / len(self.scene.test)
        if self.options.pictures is not None:
            name = "".join(letter if letter.isalnum() else "_" for letter in method)
            save_image(draw(self.scene.test[0].camera), self.options.pictures / f"{name}.png")
        train_score = mean_psnr(draw, self.scene.train[:: self.options.every])
        return Row(method, psnr=score, train_psnr=train_score, view_seconds=view_seconds, **costs)

    def _field(self) -> Row:
        draw, shaded = drawn_by(self.field), shaded_per_pixel(self.field.volume(), self.pool)
        per_sample = multiply_adds([weight.shape for weight, _ in self.field.color_mlp])
        costs = {"channels": self.field.n_channels, "networks": shaded, "per_sample": per_sample, "per_pixel": 0}
        return self._row("the field", draw, before=math.nan, shaded=shaded, seconds=0.0, **costs)

    def _harmonics(self) -> Row:
        before = mean_psnr(drawn_by(self.baked), self.scene.test)
        model = HarmonicsModel(self.baked, FINE_LOSSES, self.options.steps)
        start = time.perf_counter()
        steps, rays = self.options.steps, self.options.rays
        for progress in optimize(model, self.pool, steps=steps, rays_per_step=rays, seed=(0,)):
            log(f"harmonics {progress.step}/{steps} {progress.psnr:.2f} dB", progress.step)
        seconds = time.perf_counter() - start
        tuned = model.field()
        shaded = shaded_per_pixel(tuned.volume(), self.pool)
        costs = {"channels": BAKE_CHANNELS, "networks": 0.0, "per_sample": BAKE_CHANNELS, "per_pixel": 0}
        return self._row("harmonics of degree 1", drawn_by(tuned), before=before, shaded=shaded, seconds=seconds, **costs)

    def _deferred(self, rate: float) -> Row:
        model = DeferredModel(self.baked, self.seen, self.options.features, rate, self.options.steps)
        before = mean_psnr(model.render, self.scene.test)
        start = time.perf_counter()
        tune_deferred(model, self.pool, self.options)
        seconds = time.perf_counter() - start
        shaded = shaded_per_pixel(model.volumes[0], self.pool)
        per_pixel = multiply_adds([layer.weight.shape for layer in model.mlp if isinstance(layer, nn.Linear)])
        costs = {"channels": PASS + self.options.features, "networks": 1.0, "per_sample": 0, "per_pixel": per_pixel}
        return self._row(f"deferred, rate {rate:g}", model.render, before=before, shaded=shaded, seconds=seconds, **costs)


def log(line: str, step: int) -> None:
    """Now and then, where a person may look."""
    if step % LOGGED_STEPS == 0:
        print(line, file=sys.stderr, flush=True)


def show(rows: Sequence[Row]) -> None:
    print(
        "| method | channels | before | test | training views | networks per pixel | multiply-adds per sample, per pixel | ",
        end="",
    )
    print("shaded samples | tuning | a view |")
    print("|---" * 10 + "|")
    for row in rows:
        before = "" if math.isnan(row.before) else f"{row.before:.2f} dB"
        print(
            f"| {row.method} | {row.channels} | {before} | {row.psnr:.2f} dB | {row.train_psnr:.2f} dB | {row.networks:.1f} |",
            end="",
        )
        print(f" {row.per_sample}, {row.per_pixel} | {row.shaded:.1f} | {row.seconds:.0f} s | {row.view_seconds:.2f} s |")


def main(options: Options) -> None:
    """Measure and print."""
    measurement = Measurement(options)
    if options.pictures is not None:
        save_image(measurement.scene.test[0].colors(), options.pictures / "photo.png")
    rows = []
    for row in measurement.rows():
        log(f"{row}", 0)
        rows.append(row)
    if options.as_json:
        settings = {"lattice": measurement.baked.lattice.shape, "steps": options.steps, "rays": options.rays}
        print(json.dumps(settings | {"rows": [asdict(row) for row in rows]}, indent=2))
        return
    print(f"lattice {measurement.field.lattice.shape}, grown to {measurement.baked.lattice.shape}; ", end="")
    print(f"{options.steps} steps of {options.rays} rays; {len(measurement.scene.test)} test views")
    show(rows)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
