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
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqrf.codec.compressed import CODED, KEPT, PRUNED, CompressedField, Quantized, Table
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField, constants_of
from vqrf.geometry import Float32
from vqrf.kernels import Gradients, LossWeights, select
from vqrf.training.bake import HarmonicsModel, bake_harmonics, grow
from vqrf.training.checkpoint import Checkpoint
from vqrf.training.grids import Moments
from vqrf.training.loop import REFRESH_STEPS, Model, Report, optimize, snapshot, torch_threads
from vqrf.training.stages import FINE_LOSSES, STAGES

LEVELS = 256
EMPTY_MARGIN = 1.0
"""How far, in raw density, a PRUNED voxel lies below the density whose alpha is just sampled."""

Profile = Literal["exact", "web"]
"""Whom a file is for: `exact` keeps the field's own colours, `web` bakes them into harmonics that a browser shades fast."""

TUNINGS = ("tune", "bake", "warm")
"""Names of the tunings, each with batches of its own."""

RATE_UNITS = {"softplus": 1.0, "relu": 0.13, "mlp": 1.0, "sh": 1.0, "sh_relu": 0.07}
"""What the rates of a tuning are in units of, by the field's activation and shading: before a ReLU, values are smaller than
logits. Lego at 100x100, Plenoxels of 64^3, 500 steps: 0.29 dB are lost so, 1.65 dB with the units of logits."""

CODEBOOK_PASSES = 24
CODEBOOK_SETTLED = 1e-3
"""The codebook is done when a pass lowers the weighted error by less than this share."""


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


def measure_importance(field: RadianceField, pool: RayPool) -> NDArray[np.float64]:
    """Sum, over every training ray, the weight each voxel gave to the pixel.

        I(v) = sum_rays sum_shaded  w_s * share(v, x_s)

    Returns:
      [X,Y,Z] float64 >= 0. Its sum is the total weight of all shaded samples.

    Source: VQRF sec. 3.2. Departs: none (the official code drops samples below its threshold too).
    """
    kernels = select()
    volume = field.volume()
    importance = np.zeros(field.lattice.shape)
    for rays in pool.chunks():
        kernels.accumulate_importance(volume, *rays, importance)
    return importance


def carrying(importance: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """The fewest voxels that carry at least `share` of the total importance, as a mask of the same shape.

    Voxels of no importance are never among them. Of equally important voxels the first in raster order is taken. Sums are
    rounded: a share that is met to 1e-12 is met. A share of 1 is every voxel that has any importance.
    """
    if share >= 1:
        return importance > 0
    flat = importance.ravel()
    order = np.argsort(-flat, kind="stable")
    carried = np.cumsum(flat[order])
    total = carried[-1] if len(carried) else 0.0
    n = int(np.searchsorted(carried, share * total * (1 - 1e-12))) + 1 if share > 0 and total > 0 else 0
    mask = np.zeros(flat.shape, bool)
    mask[order[:n]] = True
    return (mask & (flat > 0)).reshape(importance.shape)


def partition_voxels(importance: NDArray[np.float64], *, prune: float, keep: float) -> NDArray[np.uint8]:
    """PRUNED, CODED or KEPT for every voxel, uint8 of the importance's shape, by its cumulative share.

    Source: VQRF sec. 3.2. Departs: ties are broken by raster order instead of dropped.
    """
    partition = np.full(importance.shape, PRUNED, np.uint8)
    partition[carrying(importance, prune)] = CODED
    partition[carrying(importance, keep)] = KEPT
    return partition


def train_codebook(
    vectors: Float32, importance: NDArray[np.float64], n_codes: int, *, seed: int = 0
) -> tuple[Float32, NDArray[np.int32]]:
    """Codewords [K,C] float32 and codes [N] int32 of vectors [N,C], each weighted by its importance [N].

    K is at most `n_codes`: codewords that nothing is nearest to are left out (there is one where there are no vectors). On
    return every code is the nearest codeword, and codewords are in `kd_order`.

    Source: VQRF sec. 3.3 (weighted k-means, expiry). Departs: full passes; see the head of this module.
    """
    n_vectors, n_channels = vectors.shape
    if n_vectors == 0:
        return np.zeros((1, n_channels), np.float32), np.zeros(0, np.int32)
    kernels = select()
    random = np.random.default_rng(seed)
    weights = importance / importance.sum() if importance.sum() > 0 else np.full(n_vectors, 1 / n_vectors)
    n_codes = min(n_codes, int(np.count_nonzero(weights)))
    codebook = vectors[random.choice(n_vectors, n_codes, replace=False, p=weights)].copy()
    error = np.inf
    for _ in range(CODEBOOK_PASSES):
        codes, distances = kernels.assign_codes(vectors, codebook)
        sums, totals = kernels.sum_by_code(vectors, weights, codes, n_codes)
        used = totals > 0
        codebook[used] = (sums[used] / totals[used, None]).astype(np.float32)
        expire_codes(codebook, used, vectors, weights * distances)
        previous, error = error, float((weights * distances).sum())
        if used.all() and error > previous * (1 - CODEBOOK_SETTLED):
            break
    codes = kernels.assign_codes(vectors, codebook)[0]
    order = kd_order(codebook, np.flatnonzero(np.bincount(codes, minlength=n_codes)))
    rank = np.zeros(n_codes, np.int32)
    rank[order] = np.arange(len(order))
    return codebook[order], rank[codes]


def kd_order(codebook: Float32, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The given rows so that near codewords get near codes: halved at the median of the widest channel, again and again.

    The order costs nothing and saves about 9 % of the codes' bytes: a code's first bits then say roughly where in feature
    space it is, which its neighbours' first bits predict.
    """
    if len(rows) < 2:
        return rows
    widest = int(np.argmax(np.ptp(codebook[rows], axis=0)))
    ordered = rows[np.argsort(codebook[rows, widest], kind="stable")]
    half = len(ordered) // 2
    return np.concatenate([kd_order(codebook, ordered[:half]), kd_order(codebook, ordered[half:])])


def expire_codes(codebook: Float32, used: NDArray[np.bool_], vectors: Float32, errors: NDArray[np.float64]) -> None:
    """Move every unused codeword, in place, onto one of the vectors with the largest weighted error."""
    idle = np.flatnonzero(~used)
    if len(idle):
        worst = np.argsort(-errors, kind="stable")[: len(idle)]
        codebook[idle[: len(worst)]] = vectors[worst]


@dataclass(frozen=True)
class Quantizer:
    """Real values to levels 0..255: value = offset + scale * level.

    Attributes:
      scale, offset: numbers, or both float32 [1] or one for each column.
    """

    scale: float | Tensor
    offset: float | Tensor

    @classmethod
    def around(cls, values: Tensor | NDArray[np.float32], steps: float) -> Quantizer:
        """`steps` levels per standard deviation, the 256 levels centred on the mean. Values are clipped to their range."""
        if len(values) == 0:
            return cls(1.0, 0.0)
        scale = float(np.float32(max(float(values.std()), 1e-6) / steps))
        return cls(scale, float(np.float32(float(values.mean()) - scale * (LEVELS // 2))))

    def levels(self, values: Tensor) -> Tensor:
        """Float levels, whole numbers 0..255."""
        return torch.clamp(torch.round((values - self.offset) / self.scale), 0, LEVELS - 1)

    def __call__(self, values: Tensor) -> Tensor:
        """The values that a decoder will see."""
        return self.offset + self.scale * self.levels(values)

    def pack(self, values: Tensor) -> Quantized:
        levels = self.levels(values).to(torch.uint8).cpu().numpy()
        parts = (torch.as_tensor(part, dtype=torch.float32) for part in (self.scale, self.offset))
        return Quantized(levels, *(part.cpu().reshape(-1).numpy() for part in parts))


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
        self.floor = field.density_of(field.alpha_threshold)
        self.empty = float(np.float32(self.floor - EMPTY_MARGIN))
        self.density_quantizer = Quantizer.around(field.density[partition != PRUNED], config.density_steps)
        self.kept_quantizer = Quantizer.around(kept, config.kept_steps)
        self.shown_density = torch.full(partition.shape, self.empty, device=device)
        self.touched = torch.zeros(partition.shape, dtype=torch.uint8, device=device)
        gradient = torch.zeros(*partition.shape, field.n_channels, device=device)
        self.gradients = Gradients(self.density.gradient[..., 0], gradient, self._layers("gradient"), self.touched)
        self.volume = field.volume()
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
        of_density, of_features = (decay * RATE_UNITS[kind] for kind in (self.field.activation, self.field.shading))
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
        return state

    def restore(self, state: dict[str, Tensor], step: int) -> None:
        for part in Moments.KEPT_PARTS:
            getattr(self.density, part).view(-1)[self.stored] = state[f"density.{part}"]
            for name, moments in self._named():
                getattr(moments, part).copy_(state[f"{name}.{part}"])
        self._show(find_cells=True)

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
            constants=constants_of(field, self.empty),
            metadata={},
            shading=field.shading,
            activation=field.activation,
            feature_frequencies=field.feature_frequencies,
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


@dataclass(frozen=True)
class Checkpoints:
    """Where the tunings of a compression are saved now and then; nowhere for None.

    Attributes:
      bake, warm: of stages that compressions of a field at other dials have in common. They are saved as their stage ends, and
        so the next compression goes on from there.
      tune: of the last stage.

    All of them stay until the caller removes them, when the result is safe.
    """

    bake: Checkpoint | None = None
    warm: Checkpoint | None = None
    tune: Checkpoint | None = None

    def remove(self) -> None:
        for checkpoint in (self.bake, self.warm, self.tune):
            if checkpoint is not None:
                checkpoint.remove()


NOWHERE = Checkpoints()


@dataclass(frozen=True)
class Tuning:
    """On which rays models are tuned, and who hears of it; the two tunings of a compression have this in common."""

    pool: RayPool
    rays_per_step: int
    seed: int
    device: str
    report: Report | None

    def run(self, stage: str, model: Model, steps: int, checkpoint: Checkpoint | None) -> None:
        for progress in optimize(
            model,
            self.pool,
            steps=steps,
            rays_per_step=self.rays_per_step,
            seed=(self.seed, len(STAGES) + TUNINGS.index(stage)),
            device=self.device,
            checkpoint=checkpoint,
        ):
            if self.report is not None:
                self.report(stage, progress)


def bake(
    field: RadianceField,
    scene: Scene,
    tuning: Tuning,
    losses: LossWeights,
    steps: int,
    checkpoint: Checkpoint | None,
) -> RadianceField:
    """The field in harmonics on a finer lattice, tuned on the photos for so many steps before anything is shared or dropped.

    The checkpoint is saved at the end, so that a call that goes on from it has nothing left to do.
    """
    field = grow(field)
    seen = measure_importance(field, tuning.pool) > 0
    with torch_threads(1):  # with more, the last bits of its products would depend on how many
        field = bake_harmonics(field, [view.camera for view in scene.train], seen)
    model = HarmonicsModel(field, losses, steps, device=tuning.device)
    tuning.run("bake", model, steps, checkpoint)
    if checkpoint is not None:
        checkpoint.save(*snapshot(model, tuning.pool, steps))
    return model.field()


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
    if config.profile == "web" and field.shading == "mlp":
        field = bake(field, scene, tuning, config.losses, config.bake_steps, checkpoints.bake)
    model = tied_model(field, measure_importance(field, tuning.pool), config, seed=seed, device=device)
    tuning.run("tune", model, config.steps, checkpoints.tune)
    return model.pack()
