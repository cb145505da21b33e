"""The paper: importance, partition, codebook, joint tuning, quantisation (VQRF, arXiv 2211.16386).

    importance   I(v) = sum over training rays and shaded samples of weight * trilinear share of voxel v        (sec. 3.2)
    partition    the fewest voxels that carry `prune` of the total importance stay; the fewest that carry `keep` of it keep
                 their features; the rest of them share codewords; everything else is PRUNED
    codebook     importance-weighted codewords of the CODED voxels' features; codes that idle are expired
    tuning       codewords, density, kept features and colour MLP learn together, at fixed codes, seen through the very
                 quantisers that the file uses

Departs from the authors' code, each time because theirs loses quality for nothing:
  - codewords are the parameters (tied voxels share one row of a table), not a dense grid averaged every ten steps;
  - PRUNED voxels take no part in anything: theirs pull codewords towards zero;
  - quantisation is inside the tuning, with straight-through gradients, not after it;
  - the codebook is trained by full weighted passes until it settles, not by 1000 decayed mini-batches, and an expired code
    goes where the weighted error is largest;
  - the offset of a quantiser is in the value's own unit and its range is centred on the mean;
  - what a PRUNED voxel is worth is chosen (just too little to be sampled) and written, not a side effect of a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqrf.codec.compressed import CODED, KEPT, PRUNED, CompressedField, Table
from vqrf.compression.codebook import train_codebook
from vqrf.compression.importance import EMPTY_MARGIN, measure_importance, partition_voxels
from vqrf.compression.quantize import Quantizer
from vqrf.compression.tuning import NOWHERE, Checkpoints, Profile, Tuning
from vqrf.compression.web import bake
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField
from vqrf.geometry import Float32
from vqrf.kernels import Gradients, LossWeights, select
from vqrf.kernels.equation import tensors
from vqrf.training.loop import REFRESH_STEPS, Report
from vqrf.training.parameters import Moments
from vqrf.training.stages import FINE_LOSSES

RATE_UNITS = {"softplus": 1.0, "relu": 0.13, "mlp": 1.0, "sh": 1.0, "sh_relu": 0.07}
"""What the rates of a tuning are in units of, by the field's activation and shading: before a ReLU, values are smaller than
logits. Lego at 100x100, Plenoxels of 64^3, 500 steps: 0.29 dB are lost so, 1.65 dB with the units of logits."""


@dataclass(frozen=True)
class CompressConfig:
    """The dials of one compression.

    Attributes:
      prune: share of the total importance that the voxels which are not pruned carry, 0..1.
      keep: share of the total importance that the voxels with features of their own carry, 0..prune.
      n_codes: size of the codebook, 1..65536.
      density_steps: quantiser steps per standard deviation of the density.
      kept_steps: the same for kept features.
      steps: of joint tuning, each of `rays_per_step` rays.
      rate_density, rate_features, rate_mlp: Adam's, at the start of tuning, in `RATE_UNITS`; they decay tenfold.
      profile: "exact", or "web" to bake first.
      bake_steps: of tuning harmonics that share nothing yet, before the partition is made.
    """

    prune: float = 0.999
    keep: float = 0.6
    n_codes: int = 4096
    density_steps: float = 15.0
    kept_steps: float = 15.0
    steps: int = 6000
    rays_per_step: int = 8192
    rate_density: float = 0.15
    rate_features: float = 0.15
    rate_mlp: float = 1.5e-3
    losses: LossWeights = FINE_LOSSES
    profile: Profile = "exact"
    bake_steps: int = 4000

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= self.prune <= 1:
            raise ValueError(f"expected 0 <= keep <= prune <= 1, got keep {self.keep}, prune {self.prune}")
        if not 1 <= self.n_codes <= 1 << 16:
            raise ValueError(f"n_codes: expected 1..65536, got {self.n_codes}")
        if self.steps < 0:
            raise ValueError(f"steps: expected 0 or more, got {self.steps}")
        if self.bake_steps < 0:
            raise ValueError(f"bake_steps: expected 0 or more, got {self.bake_steps}")
        if self.profile not in get_args(Profile):
            raise ValueError(f"profile: expected exact or web, got {self.profile}")


PRESETS = {
    "paper": CompressConfig(),
    "demo": CompressConfig(steps=1000, rays_per_step=4096, n_codes=1024, bake_steps=1000),
}


class TiedModel:
    """A partitioned field under joint tuning; a `train.Model`.

    Codewords and kept features are the rows of one table that voxels point into, so tied voxels share a parameter by
    construction. `volume` always shows what the decoder will show: quantised density and features, half-precision codewords
    and MLP. Gradients pass straight through the quantisers.
    """

    def __init__(
        self,
        field: RadianceField,
        partition: NDArray[np.uint8],
        codebook: Float32,
        codes: NDArray[np.int32],
        config: CompressConfig,
        *,
        device: str = "cpu",
    ) -> None:
        self.field, self.partition, self.codes, self.config, self.device = (
            field,
            partition,
            codes,
            config,
            device,
        )
        self.kernels = select(device)
        self.losses = config.losses
        self.n_codes = len(codebook)
        kept = field.features[partition == KEPT]
        rows = np.full(partition.shape, -1, np.int32)
        rows[partition == CODED] = codes
        rows[partition == KEPT] = self.n_codes + np.arange(len(kept))
        self.rows = torch.from_numpy(rows).to(device)
        self.stored = torch.from_numpy(np.flatnonzero(partition != PRUNED)).to(device)
        self.table = Moments.of(torch.from_numpy(np.concatenate([codebook, kept])).to(device))
        self.density = Moments.of(torch.from_numpy(field.density[..., None].copy()).to(device))
        self.mlp = [Moments.of(torch.from_numpy(a.copy()).to(device)) for pair in field.color_mlp for a in pair]
        self.floor = field.equation.floor
        self.empty = float(np.float32(self.floor - EMPTY_MARGIN))
        self.density_quantizer = Quantizer.around(field.density[partition != PRUNED], config.density_steps)
        self.kept_quantizer = Quantizer.around(kept, config.kept_steps)
        self.shown_density = torch.full(partition.shape, self.empty, device=device)
        self.touched = torch.zeros(partition.shape, dtype=torch.uint8, device=device)
        gradient = torch.zeros(*partition.shape, field.n_channels, device=device)
        self.gradients = Gradients(self.density.gradient[..., 0], gradient, self._layers("gradient"), self.touched)
        self.volume = tensors(field.volume())
        self._show(find_cells=True)

    def _layers(self, attribute: str) -> tuple[tuple[Tensor, Tensor], ...]:
        arrays = [getattr(moments, attribute) for moments in self.mlp]
        if attribute == "values":
            arrays = [array.half().float() for array in arrays]
        return tuple(zip(arrays[::2], arrays[1::2], strict=True))

    def _show(self, *, find_cells: bool) -> None:
        """Bring `volume` to what the parameters decode to."""
        shown = self.density_quantizer(self.density.values.view(-1)[self.stored])
        self.shown_density.view(-1)[self.stored] = shown
        table = self.table.values.clone()
        table[: self.n_codes] = table[: self.n_codes].half().float()
        table[self.n_codes :] = self.kept_quantizer(table[self.n_codes :])
        if find_cells:
            self._cells = self.kernels.find_cells(self.shown_density, self.floor, None)
            self._skip = self.kernels.measure_skip(self._cells)
        self.volume = replace(
            self.volume,
            density=self.shown_density,
            features=table,
            rows=self.rows,
            layers=self._layers("values"),
            cells=self._cells,
            skip=self._skip,
        )

    def prepare(self, step: int) -> bool:
        self._show(find_cells=step % REFRESH_STEPS == 0)
        return step == 0

    def update(self, step: int) -> None:
        decay = 0.1 ** (step / self.config.steps)
        of_density, of_features = (
            decay * RATE_UNITS[kind] for kind in (self.field.equation.activation, self.field.equation.shading)
        )
        features = self.gradients.features.view(-1, self.field.n_channels)
        self.kernels.tie_gradients(features, self.rows.view(-1), self.touched.view(-1), self.table.gradient)
        self.density.update(self.kernels, self.touched, self.config.rate_density * of_density, step + 1)
        self.table.update(self.kernels, None, self.config.rate_features * of_features, step + 1)
        for moments in self.mlp:
            moments.update(self.kernels, None, self.config.rate_mlp * decay, step + 1)
        self.touched.zero_()

    def _named(self) -> list[tuple[str, Moments]]:
        """What is checkpointed whole."""
        return [("table", self.table), *((f"mlp{i}", moments) for i, moments in enumerate(self.mlp))]

    def state(self) -> dict[str, Tensor]:
        state = {f"density.{part}": getattr(self.density, part).view(-1)[self.stored] for part in Moments.KEPT_PARTS}
        for name, moments in self._named():
            state |= {f"{name}.{part}": getattr(moments, part) for part in Moments.KEPT_PARTS}
        return state | {"cells": self._cells}

    def restore(self, state: dict[str, Tensor], step: int) -> None:
        for part in Moments.KEPT_PARTS:
            getattr(self.density, part).view(-1)[self.stored] = state[f"density.{part}"]
            for name, moments in self._named():
                getattr(moments, part).copy_(state[f"{name}.{part}"])
        self._cells, self._skip = state["cells"], self.kernels.measure_skip(state["cells"])
        self._show(find_cells=False)

    def pack(self) -> CompressedField:
        """What the parameters decode to, as integers and small tables: `expand` of it is exactly `volume`."""
        field = self.field
        half: list[Table] = [moments.values.half().cpu().numpy() for moments in self.mlp]
        return CompressedField(
            lattice=field.lattice,
            partition=self.partition,
            density=self.density_quantizer.pack(self.density.values.view(-1)[self.stored]),
            codes=self.codes,
            codebook=self.table.values[: self.n_codes].half().cpu().numpy(),
            kept=self.kept_quantizer.pack(self.table.values[self.n_codes :]),
            color_mlp=tuple(zip(half[::2], half[1::2], strict=True)),
            equation=field.equation,
            empty_density=self.empty,
            metadata={},
        )


def tied_model(
    field: RadianceField,
    importance: NDArray[np.float64],
    config: CompressConfig,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> TiedModel:
    """Partition, cluster, and set up the tuning: the stages of the paper before its last."""
    partition = partition_voxels(importance, prune=config.prune, keep=config.keep)
    coded = partition == CODED
    codebook, codes = train_codebook(field.features[coded], importance[coded], config.n_codes, seed=seed)
    return TiedModel(field, partition, codebook, codes, config, device=device)


def compress(
    field: RadianceField,
    scene: Scene,
    config: CompressConfig,
    *,
    seed: int = 0,
    device: str = "cpu",
    report: Report | None = None,
    checkpoints: Checkpoints = NOWHERE,
) -> CompressedField:
    """Compress a field with the training views of its scene: importance, partition, codebook, tuning, quantisation.

    With the profile `web`, a field with a network is baked first.

    Args:
      report: called after every step of a tuning with "bake" or "tune" and its progress.
      checkpoints: the same call goes on from them.

    Deterministic on the CPU with a given seed, whatever the number of threads.
    """
    tuning = Tuning(RayPool(scene.train), config.rays_per_step, seed, device, report)
    if config.profile == "web" and field.equation.shading == "mlp":
        field = bake(field, scene, tuning, config.losses, config.bake_steps, checkpoints.bake)
    model = tied_model(field, measure_importance(field, tuning.pool), config, seed=seed, device=device)
    tuning.run("tune", model, config.steps, checkpoints.tune)
    return model.pack()
