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

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqrf.codec.compressed import CODED, KEPT, PRUNED, CompressedField, Quantized, Table
from vqrf.compression.codebook import train_codebook
from vqrf.compression.importance import EMPTY_MARGIN, deal_out, partition_voxels
from vqrf.compression.preset import Preset
from vqrf.compression.quantize import Quantizer
from vqrf.compression.tuning import Tuning
from vqrf.fields.field import RadianceField
from vqrf.geometry import Float32, Float64
from vqrf.kernels import Gradients, select
from vqrf.kernels.equation import tensors
from vqrf.training.loop import REFRESH_STEPS
from vqrf.training.parameters import Moments, Parameters, decay

RATE_UNITS = {"softplus": 1.0, "relu": 0.13, "mlp": 1.0, "sh": 1.0, "sh_relu": 0.07}
"""What the rates of a tuning are in units of, by the field's activation and shading: before a ReLU, values are smaller than
logits. Lego at 100x100, Plenoxels of 64^3, 500 steps: 0.29 dB are lost so, 1.65 dB with the units of logits."""


PRUNED_BELOW, PRUNED_ABOVE = 10.0**1.5, 0.1
"""As many times the preset's share of the importance is pruned at the ends of the dial, 0 and 100: 3 % and 0.01 % for 0.1 %."""
CODES_BELOW = 1 / 16
"""Of the codewords, what is left at 0: a code has four bits less."""
COARSER, FINER = 0.4, 1.5
"""Of the quantisers' steps per standard deviation, what there is at 0 and at 100: 6 and 22 for 15."""
KEPT_ABOVE = 0.95
"""Share of the importance whose voxels keep features of their own at 100; at 0 none do.

The path goes through VQRF's published point and moves all of its dials together, each to where it hardly matters any more; no
other path was measured. Lego has 0.59 MB at 30 and 1.09 MB at 60 (README)."""
COARSEST = 2.0
"""By how much a whole trim widens the steps of levels: one bit less for each."""


@dataclass(frozen=True)
class PaperPreset(Preset[CompressedField]):
    """The dials of the paper.

    Attributes:
      prune: share of the total importance that the voxels which are not pruned carry, 0..1.
      keep: share of the total importance that the voxels with features of their own carry, 0..prune.
      n_codes: size of the codebook, 1..65536.
      density_steps: quantiser steps per standard deviation of the density.
      kept_steps: the same for kept features.
      is_weighted: whether codewords are weighted by importance, or are those of plain clustering.
      has_expiry: whether codewords that idle are moved.
      is_uniform: whether voxels are chosen with equal odds among those that any photo sees, as many as by importance.
      rates: in `RATE_UNITS`.
    """

    name: str = "paper"
    steps: int = 6000
    prune: float = 0.999
    keep: float = 0.6
    n_codes: int = 4096
    density_steps: float = 15.0
    kept_steps: float = 15.0
    is_weighted: bool = True
    has_expiry: bool = True
    is_uniform: bool = False

    WIDEST_DIALS: ClassVar[Mapping[str, float]] = {"prune": 0.888888, "keep": 0.888888}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.keep <= self.prune <= 1:
            raise ValueError(f"expected 0 <= keep <= prune <= 1, got keep {self.keep}, prune {self.prune}")
        if not 1 <= self.n_codes <= 1 << 16:
            raise ValueError(f"n_codes: expected 1..65536, got {self.n_codes}")

    def tune(self, field: RadianceField, importance: Float64, tuning: Tuning) -> CompressedField:
        model = tied_model(field, importance, self, seed=tuning.seed, device=tuning.device)
        tuning.run("tune", model, self.steps)
        return model.pack()

    def turned(self, below: float, above: float) -> Self:
        """Fewer voxels and codewords and coarser levels below; above, more and finer.

        >>> PaperPreset().turned(0, 0).keep, PaperPreset().turned(0, 0).n_codes
        (0.0, 256)
        """
        pruned = (1 - self.prune) * PRUNED_BELOW ** (1 - below) * PRUNED_ABOVE**above
        prune = 1 - min(pruned, 1.0)
        steps = COARSER + (1 - COARSER) * below + (FINER - 1) * above
        return replace(
            self,
            prune=prune,
            keep=min(self.keep * below + max(KEPT_ABOVE - self.keep, 0.0) * above, prune),
            n_codes=max(1, round(self.n_codes * CODES_BELOW ** (1 - below))),
            density_steps=self.density_steps * steps,
            kept_steps=self.kept_steps * steps,
        )

    def trim(self, small: CompressedField, share: float) -> CompressedField:
        """Density and kept features get steps wider by `COARSEST` ** (1 - share).

        Levels stay within their range, since they only come nearer to the middle one, whose value does not move.
        """
        factor = np.float32(COARSEST ** (1 - share))
        return replace(small, density=widen(small.density, factor), kept=widen(small.kept, factor))

    def dials(self, field: RadianceField) -> dict[str, Any]:
        return {"prune": round(self.prune, 6), "keep": round(self.keep, 6)}


def widen(table: Quantized, factor: np.float32) -> Quantized:
    """The values nearest to a table's that have steps wider by a factor."""
    if factor == 1:
        return table
    middle = np.float32((np.iinfo(table.levels.dtype).max + 1) // 2)
    levels = np.rint((table.levels - middle) / factor) + middle
    offset = table.offset + table.scale * middle * (1 - factor)
    return Quantized(levels.astype(table.levels.dtype), table.scale * factor, offset.astype(np.float32))


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
        config: PaperPreset,
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
        self.mlp = Parameters.of_layers(torch.from_numpy(a.copy()).to(device) for pair in field.color_mlp for a in pair)
        self.parameters = Parameters({"density": self.density}, self.stored) | Parameters({"table": self.table}) | self.mlp
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
        arrays = [getattr(moments, attribute) for moments in self.mlp.values()]
        if attribute == "values":
            arrays = [self._round_half(array) for array in arrays]
        return tuple(zip(arrays[::2], arrays[1::2], strict=True))

    def _show(self, *, find_cells: bool) -> None:
        """Bring `volume` to what the parameters decode to."""
        shown = self._round(self.density.values.view(-1)[self.stored], self.density_quantizer)
        self.shown_density.view(-1)[self.stored] = shown
        table = self.table.values.clone()
        table[: self.n_codes] = self._round_half(table[: self.n_codes])
        table[self.n_codes :] = self._round(table[self.n_codes :], self.kept_quantizer)
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

    def _round(self, values: Tensor, quantizer: Quantizer) -> Tensor:
        return quantizer(values)

    def _round_half(self, values: Tensor) -> Tensor:
        return values.half().float()

    def prepare(self, step: int) -> bool:
        self._show(find_cells=step % REFRESH_STEPS == 0)
        return step == 0

    def update(self, step: int) -> None:
        rates, equation = self.config.rates, self.field.equation
        share_left = decay(step, self.config.steps, rates.end)
        of_density, of_features = (share_left * RATE_UNITS[kind] for kind in (equation.activation, equation.shading))
        features = self.gradients.features.view(-1, self.field.n_channels)
        self.kernels.tie_gradients(features, self.rows.view(-1), self.touched.view(-1), self.table.gradient)
        self.density.update(self.kernels, self.touched, rates.density * of_density, step + 1)
        self.table.update(self.kernels, None, rates.features * of_features, step + 1)
        self.mlp.update(self.kernels, rates.mlp * share_left, step + 1)
        self.touched.zero_()

    def state(self) -> Mapping[str, Tensor]:
        return self.parameters.state() | {"cells": self._cells}

    def restore(self, state: Mapping[str, Tensor], step: int) -> None:
        self.parameters.restore(state)
        self._cells, self._skip = state["cells"], self.kernels.measure_skip(state["cells"])
        self._show(find_cells=False)

    def pack(self) -> CompressedField:
        """What the parameters decode to, as integers and small tables: `expand` of it is exactly `volume`."""
        field = self.field
        half: list[Table] = [moments.values.half().cpu().numpy() for moments in self.mlp.values()]
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


class UnroundedModel(TiedModel):
    """The same without quantisers: what is tuned and shown is float32, which no file holds; `pack` rounds it all the same."""

    def _round(self, values: Tensor, quantizer: Quantizer) -> Tensor:
        return values

    def _round_half(self, values: Tensor) -> Tensor:
        return values

    def shown(self) -> RadianceField:
        """The field that the parameters are."""
        self._show(find_cells=False)
        rows, table = self.rows.cpu().numpy(), self.table.values.cpu().numpy()
        return replace(
            self.field,
            density=self.shown_density.cpu().numpy(),
            features=np.where(rows[..., None] < 0, np.float32(0), table[rows]),
            color_mlp=tuple((weight.cpu().numpy(), bias.cpu().numpy()) for weight, bias in self._layers("values")),
            allowed=None,
            factors=None,
        )


def tied_model(
    field: RadianceField,
    importance: NDArray[np.float64],
    config: PaperPreset,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> TiedModel:
    """Partition, cluster, and set up the tuning: the stages of the paper before its last."""
    return TiedModel(field, *partition_and_cluster(field, importance, config, seed), config, device=device)


def partition_and_cluster(
    field: RadianceField, importance: NDArray[np.float64], config: PaperPreset, seed: int
) -> tuple[NDArray[np.uint8], Float32, NDArray[np.int32]]:
    """The partition [X,Y,Z], the codewords [K,C], and the codes of the CODED voxels in raster order."""
    chosen = deal_out(importance, seed) if config.is_uniform else importance
    partition = partition_voxels(chosen, prune=config.prune, keep=config.keep)
    coded = partition == CODED
    weights = importance[coded] if config.is_weighted else np.ones(int(coded.sum()))
    found = train_codebook(field.features[coded], weights, config.n_codes, seed=seed, has_expiry=config.has_expiry)
    return partition, *found
