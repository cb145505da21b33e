"""The only optimisation loop, and the DVGO, Plenoxels or TensoRF field it optimises: coarse, then fine.

Stages (DirectVoxGO, arXiv 2111.11215, sec. 5): a coarse field of plain colours over everything the cameras see finds where
the scene is; a fine field with a small MLP starts in that box, skips what the coarse one found empty, and doubles its voxels
several times on the way. Learning rates decay exponentially over a stage.

Departs from DVGO:
  - Adam's epsilon (`training.grids`) is small enough for the coarse start: at alpha 1e-6 the gradients are below 1e-8, where
    the usual epsilon swallows them;
  - once what is there has risen above it, the coarse stage samples with the fine stage's alpha threshold, which drops the white
    fog on white that no loss removes and makes a step five times cheaper;
  - occupied cells are found anew every `REFRESH_STEPS` steps, and exactly (`kernels.find_cells`), instead of by a mask that
    only ever shrinks;
  - the fine stage's rates are three times DVGO's, so that a shorter stage gets as far;
  - where photos have an opacity, it is a loss.

A Plenoxels field (arXiv 2112.05131) is a fine stage without a network: its features are coefficients of spherical harmonics,
and a ReLU takes the place of softplus and sigmoid. When its lattice grows, cells with nothing in or next to them are dropped.
Departs from Plenoxels: the coarse stage above finds the first cells, and what is dropped is chosen by density and not by
weight; the lattice doubles its voxels; Adam instead of RMSProp; total variation is that of the voxels that a step touches.

A TensoRF field (arXiv 2203.09517) is a fine stage whose voxels are products of planes and lines (`grids.FactorGrid`).
Departs from TensoRF: the coarse stage's box and cells take the place of its shrinking and its alpha mask; the network takes the
features as they are, and half as many of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool3d

from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene, camera_bounds
from vqrf.fields.field import RadianceField
from vqrf.fields.storage import (
    Arrays,
    Checkpoint,
    StorageError,
    active_voxels,
    fingerprint,
    load_field,
    save_field,
    voxels_of_cells,
)
from vqrf.geometry import Lattice
from vqrf.kernels import Activation, Gradients, LossWeights, Shading, Volume, select
from vqrf.kernels.activation import density_of_alpha, interval_of_step
from vqrf.training.grids import AVERAGED, UNSEEN_DENSITY, Decomposition, FactorGrid, Grid, Means, Moments, Rates, VoxelGrid

STAGES = ("coarse", "fine")
COARSE_FILE = "coarse.safetensors"
CHECKPOINT_FILES = {stage: f"checkpoint-{stage}.safetensors" for stage in STAGES}

REFRESH_STEPS = 32
"""Steps between two looks for occupied cells; finding them costs about a tenth of a step."""

AVERAGE_FROM = 0.4
"""Of a stage's steps, how many are left when the mean of its parameters begins."""

MEAN = "mean."
"""Before the names of the means in a checkpoint."""

VIEW_FREQUENCIES = 4
MIN_VIEWS = 3
"""A voxel that fewer views see is taken as empty (DVGO): one image alone can put anything anywhere."""

BOX_MARGIN = 1.05
COARSE_ALPHA = 1e-3
"""Coarse voxels above it bound the fine box and, one voxel wider, the space where the fine field may be."""


FINE_LOSSES = LossWeights(background_entropy=0.001, point_color=0.01, opacity=0.1)


@dataclass(frozen=True)
class StageConfig:
    """One stage. Steps are batches of `rays_per_step` rays; `rate_*` are Adam's, at the start of the stage.

    Attributes:
      n_voxels: of the lattice at the end of the stage.
      grow_at: steps at which the number of voxels doubles; the stage starts with `n_voxels / 2^len(grow_at)`.
      channels: features per voxel; with `depth` 0 they are rgb logits and `channels` is 3, or coefficients of harmonics.
      depth, width: layers of the colour MLP, hidden width.
      rate_end: share of the rates that is left at the end of the stage; they decay exponentially.
      alpha_init: opacity of one base-voxel step of the empty field.
      alpha_threshold: samples with alpha at or below it do not exist.
      faint_steps: for so many steps at the start the threshold is a tenth of `alpha_init`, so that a field that begins
        fainter than the threshold can rise above it.
      step_voxels: distance between samples, in voxels.
      density_variation, feature_variation: weights of the total variation of what a step touches (DVGO's smoothing of unbounded
        scenes; bounded ones do without, but for Plenoxels').
      is_sparse: when the lattice grows, only cells that are occupied or next to such a one stay allowed.
      shading, activation: as in `vqrf.kernels`. With "relu" density is in the units of `interval_of_step`, without a bias.
      components: of density and of features on each plane, where voxels are products of planes and lines; None where they are
        not. The planes' and lines' rate is `rate_features` then, and that of the mix `rate_mlp`.
      decomposition: see `vqrf.training.grids.FactorGrid`.
      sparsity: weight of the mean magnitude of the components of density.
    """

    steps: int
    n_voxels: int
    grow_at: tuple[int, ...] = ()
    channels: int = 12
    depth: int = 3
    width: int = 128
    rays_per_step: int = 8192
    rate_density: float = 0.1
    rate_features: float = 0.1
    rate_mlp: float = 1e-3
    rate_end: float = 0.1
    alpha_init: float = 1e-2
    alpha_threshold: float = 1e-3
    faint_steps: int = 0
    step_voxels: float = 0.5
    losses: LossWeights = FINE_LOSSES
    density_variation: float = 0.0
    feature_variation: float = 0.0
    is_sparse: bool = False
    shading: Shading = "mlp"
    activation: Activation = "softplus"
    components: tuple[int, int] | None = None
    decomposition: Decomposition = "vm"
    sparsity: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """A preset: the images' side it is meant for, and the two stages."""

    image_side: int
    coarse: StageConfig
    fine: StageConfig


COARSE = StageConfig(
    steps=2000,
    n_voxels=100**3,
    channels=3,
    depth=0,
    rays_per_step=2048,
    alpha_init=1e-6,
    alpha_threshold=1e-4,
    faint_steps=200,
    losses=LossWeights(background_entropy=0.01, point_color=0.1, opacity=0.1),
)

FINE = StageConfig(
    steps=12000,
    n_voxels=160**3,
    grow_at=(700, 1400, 2100, 2800),
    rate_density=0.3,
    rate_features=0.3,
    rate_mlp=3e-3,
    rate_end=0.05,
)

PLENOXELS = replace(
    FINE,
    channels=27,
    depth=0,
    rate_density=0.1,
    rate_features=0.03,
    density_variation=3e-10,
    feature_variation=2e-9,
    is_sparse=True,
    shading="sh_relu",
    activation="relu",
)

TENSORF = replace(FINE, steps=10000, n_voxels=200**3, rate_features=0.1, components=(16, 48), sparsity=1e-5)
TENSORF_CP = replace(TENSORF, components=(32, 96), decomposition="cp")

PRESETS = {
    "demo": TrainConfig(
        200,
        replace(COARSE, steps=1000, n_voxels=80**3),
        replace(FINE, steps=3000, n_voxels=112**3, grow_at=(200, 400, 600, 800), rays_per_step=4096),
    ),
    "quick": TrainConfig(400, COARSE, replace(FINE, steps=6000, n_voxels=128**3, grow_at=(400, 800, 1200, 1600))),
    "standard": TrainConfig(800, COARSE, FINE),
    "large": TrainConfig(800, COARSE, replace(FINE, n_voxels=256**3)),
    "plenoxels-quick": TrainConfig(
        400, COARSE, replace(PLENOXELS, steps=6000, n_voxels=128**3, grow_at=(400, 800, 1200, 1600))
    ),
    "plenoxels-standard": TrainConfig(
        800, COARSE, replace(PLENOXELS, steps=15000, n_voxels=256**3, grow_at=(800, 1600, 2400, 3400, 4600))
    ),
    **{
        f"{base}-{size}": preset
        for base, stage in (("tensorf", TENSORF), ("tensorf-cp", TENSORF_CP))
        for size, preset in (
            ("quick", TrainConfig(400, COARSE, replace(stage, steps=6000, n_voxels=128**3, grow_at=(400, 800, 1200, 1600)))),
            ("standard", TrainConfig(800, COARSE, stage)),
        )
    },
}


class Model(Protocol):
    """What the loop optimises: it shows itself as a volume and takes gradients."""

    volume: Volume
    gradients: Gradients
    losses: LossWeights

    def prepare(self, step: int) -> bool:
        """Make `volume` ready for the step; True when rays should be picked anew by what is occupied."""

    def update(self, step: int) -> None:
        """Apply the summed gradients and clear them."""

    def state(self) -> dict[str, Tensor]:
        """Everything that `restore` needs to go on after a step."""

    def restore(self, state: dict[str, Tensor], step: int) -> None: ...


@dataclass(frozen=True)
class Progress:
    """What the loop reports after a step."""

    step: int
    steps: int
    mse: float
    n_shaded: float

    @property
    def psnr(self) -> float:
        """dB over the batch, all rays of which meet something: lower than an image's."""
        return -10 * math.log10(max(self.mse, 1e-12))


def optimize(
    model: Model,
    pool: RayPool,
    *,
    steps: int,
    rays_per_step: int,
    seed: tuple[int, ...],
    device: str = "cpu",
    checkpoint: Checkpoint | None = None,
) -> Iterator[Progress]:
    """Run `steps` steps of `model` on rays of `pool`, yielding after each.

    The loop of every stage and of the joint tuning. With a `checkpoint` it goes on from what was saved there, and saves now
    and then; the checkpoint stays when the loop ends, for whoever keeps the result to remove. Going on changes nothing: a
    step depends on the seed, its number, the model, and the cells that were found last, before a step that finds them anew.
    """
    kernels = select(device)
    start = 0 if checkpoint is None else resume(model, pool, checkpoint, device)
    for step in range(start, steps):
        with torch_threads(1 if kernels.__name__.endswith("native") else None):
            if model.prepare(step):
                pool.keep_hits(model.volume)
            batch = pool.sample(rays_per_step, seed=(*seed, step))
            rays = tuple(torch.from_numpy(array).to(device) for array in batch)
            terms = kernels.render_gradients(model.volume, *rays, model.losses, model.gradients)
            model.update(step)
        if checkpoint is not None and (step + 1) % REFRESH_STEPS == 0:
            checkpoint.save_if_due(lambda: snapshot(model, pool, step + 1))  # noqa: B023 (called at once)
        yield Progress(step + 1, steps, terms["mse"], terms["n_shaded"])


@contextmanager
def torch_threads(n: int | None) -> Iterator[None]:
    """Let PyTorch use `n` threads inside. Beside the compiled core it needs one: its idle threads spin for a while after each
    operation and take the CPUs away from the kernels. None: as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def snapshot(model: Model, pool: RayPool, step: int) -> tuple[Arrays, dict[str, Any]]:
    """What a checkpoint holds after `step` steps."""
    arrays = {name: tensor.cpu().numpy() for name, tensor in model.state().items()}
    return arrays | {"kept_pixels": pool.kept_bits()}, {"step": step}


def resume(model: Model, pool: RayPool, checkpoint: Checkpoint, device: str) -> int:
    """Put a model on `device` and its pool where the checkpoint left them; returns the steps already done, 0 without one."""
    saved = checkpoint.load()
    if saved is None:
        return 0
    arrays, state = saved
    pool.restore(arrays.pop("kept_pixels"))
    model.restore({name: torch.from_numpy(array).to(device) for name, array in arrays.items()}, state["step"])
    return int(state["step"])


class FieldModel:
    """A DVGO, Plenoxels or TensoRF field under optimisation.

    Args:
      stage: its constants.
      lo, hi: the box of its lattice.
      scene: for near and background.
      coarse: what the coarse stage found, to stay inside of; None in the coarse stage itself.
      seed: of the MLP's start.
    """

    def __init__(
        self,
        stage: StageConfig,
        box: tuple[np.ndarray, np.ndarray],
        scene: Scene,
        *,
        coarse: RadianceField | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.stage, self.device, self.scene, self.coarse = stage, device, scene, coarse
        self.box = box
        self.kernels = select(device)
        self.losses = stage.losses
        self.step = 0
        self.mlp = [Moments.of(array) for array in initial_mlp(stage, seed, device)]
        self.rates: Tensor | None = None
        self.means = Means()
        self.seed = seed
        self._allocate(stage.n_voxels >> len(stage.grow_at))

    def _allocate(self, n_voxels: int, old: Grid | None = None, allowed: np.ndarray | None = None) -> None:
        """Put the lattice at `n_voxels`: at its start, or resampled from the `old` grid.

        Args:
          allowed: cells of the new lattice, flat; None for those that the coarse stage leaves.
        """
        self.lattice = Lattice.with_voxels(*self.box, n_voxels)
        shape = self.lattice.shape
        self.step_world = self.stage.step_voxels * self._edge(n_voxels)
        if self.stage.activation == "relu":
            self.interval, self.density_bias = interval_of_step(self.step_world, self._edge(self.stage.n_voxels)), 0.0
        else:
            self.interval = self.stage.step_voxels * (self.stage.n_voxels / n_voxels) ** (1 / 3)
            self.density_bias = math.log(1 / (1 - self.stage.alpha_init) - 1) - self._n_grown(n_voxels)
        self.allowed, active = None, torch.arange(self.lattice.n_voxels, device=self.device)
        if self.coarse is not None:
            cells = cells_near(self.coarse, self.lattice)
            cells = cells if allowed is None else allowed.reshape(cells.shape)
            self.allowed = torch.from_numpy(cells).to(self.device)
            active = torch.from_numpy(np.flatnonzero(voxels_of_cells(cells))).to(self.device)
        self.grid = self._grid_at_start(active) if old is None else old.on(shape, active)
        self.means.clear()
        self.touched = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        self.gradients = Gradients(*self.grid.gradients, self._layers("gradient"), self.touched)
        self._refresh()

    def _grid_at_start(self, active: Tensor) -> Grid:
        stage, shape = self.stage, self.lattice.shape
        if stage.components is not None:
            return FactorGrid.at_random(stage.decomposition, shape, (*stage.components, stage.channels), active, self.seed)
        faint = self._density_of(stage.alpha_init) if stage.activation == "relu" else 0.0  # a relu at 0 would never learn
        return VoxelGrid.at_rest(shape, stage.channels, active, faint)

    def _edge(self, n_voxels: int) -> float:
        """World size of a voxel of a lattice of so many."""
        return float(np.cbrt(np.prod(self.lattice.extent) / n_voxels))

    def _density_of(self, alpha: float) -> float:
        return density_of_alpha(alpha, self.density_bias, self.interval, self.stage.activation)

    def _n_grown(self, n_voxels: int) -> int:
        """How often the lattice has doubled; each time the bias falls by one, which sharpens what is there (DVGO)."""
        return len(self.stage.grow_at) - round(math.log2(self.stage.n_voxels / n_voxels))

    def _layers(self, attribute: str) -> tuple[tuple[Tensor, Tensor], ...]:
        arrays = [getattr(moments, attribute) for moments in self.mlp]
        return tuple(zip(arrays[::2], arrays[1::2], strict=True))

    def _refresh(self) -> None:
        """Find the occupied cells of the density as it is now."""
        self.grid.show_density(self.kernels)
        density, features = self.grid.shown
        threshold = self.stage.alpha_init / 10 if self.step < self.stage.faint_steps else self.stage.alpha_threshold
        cells = self.kernels.find_cells(density, self._density_of(threshold), self.allowed)
        self.grid.choose(cells)
        self.volume = Volume(
            lo=self.lattice.lo,
            hi=self.lattice.hi,
            density=density,
            features=features,
            rows=None,
            layers=self._layers("values"),
            cells=cells,
            skip=self.kernels.measure_skip(cells),
            density_bias=self.density_bias,
            interval=self.interval,
            step_world=self.step_world,
            near=self.scene.near,
            alpha_threshold=threshold,
            background=self.scene.background,
            shading=self.stage.shading,
            activation=self.stage.activation,
        )

    def hide(self, seen: np.ndarray) -> None:
        """Use how many views see each voxel, [X,Y,Z]: what too few see is emptied, the rest learns in proportion."""
        share = torch.from_numpy((seen / max(seen.max(), 1)).astype(np.float32)).to(self.device)
        self.grid.shown[0][torch.from_numpy(seen < MIN_VIEWS).to(self.device)] = UNSEEN_DENSITY
        self.rates = share.reshape(-1)
        self._refresh()

    def prepare(self, step: int) -> bool:
        self.step = step
        if step in self.stage.grow_at:
            n_voxels = self.stage.n_voxels >> (len(self.stage.grow_at) - 1 - self.stage.grow_at.index(step))
            allowed = self._sparse_cells(n_voxels) if self.stage.is_sparse else None
            self._allocate(n_voxels, self.grid, allowed)
        elif step % REFRESH_STEPS == 0:
            self._refresh()
        self.grid.show(self.kernels)
        return self.coarse is not None and step in (0, *self.stage.grow_at[-1:], self.stage.steps // 2)

    def _sparse_cells(self, n_voxels: int) -> np.ndarray:
        """The cells of a lattice of `n_voxels` in or next to cells that are occupied now."""
        self._refresh()
        near = max_pool3d(self.volume.cells.float()[None, None], 3, stride=1, padding=1)[0, 0] > 0
        return cells_on(near.to(torch.uint8).cpu().numpy(), Lattice.with_voxels(*self.box, n_voxels))

    def update(self, step: int) -> None:
        since = step - max((at for at in self.stage.grow_at if at <= step), default=0) + 1
        decay = self.stage.rate_end ** (step / self.stage.steps)
        share: float | Tensor = 1.0 if self.rates is None else self.rates
        rates = Rates(
            density=share * (self.stage.rate_density * decay),
            features=share * (self.stage.rate_features * decay),
            mix=self.stage.rate_mlp * decay,
            density_variation=self.stage.density_variation,
            feature_variation=self.stage.feature_variation,
            sparsity=self.stage.sparsity,
        )
        self.grid.update(self.kernels, self.touched, rates, since)
        for moments in self.mlp:
            moments.update(self.kernels, None, self.stage.rate_mlp * decay, step + 1)
        self.touched.zero_()
        self._average(self.stage.steps - 1 - step)

    def _average(self, n_left: int) -> None:
        """Take the parameters into their means now and then, once no more than `AVERAGE_FROM` of the steps are left."""
        if n_left % REFRESH_STEPS or n_left > AVERAGE_FROM * self.stage.steps:
            return
        self.means.take(self._parts("values"), min(REFRESH_STEPS / (AVERAGED * self.stage.steps), 1.0))

    def settle(self) -> None:
        """End the stage: take the mean of the last parameters for them. Doing so twice changes nothing."""
        if self.means:
            self._restore(self.means, "values")
            self._refresh()

    def field(self) -> RadianceField:
        """The field as it stands, its cells limited to those occupied now."""
        self.step = self.stage.steps
        self._refresh()
        self.grid.show(self.kernels)
        density, features = (values.cpu().numpy().copy() for values in self.grid.shown)
        arrays = [array.cpu().numpy().copy() for pair in self._layers("values") for array in pair]
        return RadianceField(
            lattice=self.lattice,
            density=density,
            features=features,
            color_mlp=tuple(zip(arrays[::2], arrays[1::2], strict=True)),
            density_bias=self.density_bias,
            interval=self.interval,
            step_world=self.step_world,
            near=self.scene.near,
            alpha_threshold=self.stage.alpha_threshold,
            background=self.scene.background,
            allowed=self.volume.cells.cpu().numpy(),
            shading=self.stage.shading,
            activation=self.stage.activation,
        )

    def _parts(self, *names: str) -> dict[str, Tensor]:
        """Copies of these parts of the moments of grid and network."""
        of_mlp = {f"mlp{i}.{part}": getattr(moments, part).clone() for i, moments in enumerate(self.mlp) for part in names}
        return self.grid.parts(*names) | of_mlp

    def _restore(self, parts: dict[str, Tensor], *names: str) -> None:
        self.grid.restore(parts, *names)
        for i, moments in enumerate(self.mlp):
            for part in names:
                getattr(moments, part).copy_(parts[f"mlp{i}.{part}"])

    def state(self) -> dict[str, Tensor]:
        state = self._parts(*Moments.KEPT_PARTS) | {MEAN + name: mean for name, mean in self.means.items()}
        if self.stage.is_sparse and self.allowed is not None:
            state["allowed"] = self.allowed.reshape(-1)
        return state

    def restore(self, state: dict[str, Tensor], step: int) -> None:
        grown = sum(at < step for at in self.stage.grow_at)
        self.step = step
        allowed = state["allowed"].cpu().numpy() if "allowed" in state else None
        self._allocate(self.stage.n_voxels >> (len(self.stage.grow_at) - grown), allowed=allowed)
        self._restore(state, *Moments.KEPT_PARTS)
        self.means |= {name.removeprefix(MEAN): tensor for name, tensor in state.items() if name.startswith(MEAN)}
        self._refresh()


def initial_mlp(stage: StageConfig, seed: int, device: str) -> list[Tensor]:
    """Weights and biases in turn, uniform in +-1/sqrt(in) as linear layers commonly start; the last bias is 0."""
    if stage.depth == 0:
        return []
    generator = torch.Generator().manual_seed(seed)
    sides = [stage.channels + 3 + 6 * VIEW_FREQUENCIES, *[stage.width] * (stage.depth - 1), 3]
    arrays = []
    for n_in, n_out in itertools.pairwise(sides):
        for shape in ((n_out, n_in), (n_out,)):
            arrays.append((torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(n_in))
    arrays[-1].zero_()
    return [array.to(device) for array in arrays]


def count_views(scene: Scene, lattice: Lattice) -> np.ndarray:
    """How many training views see each voxel, [X,Y,Z] int32; 0 where a voxel is within `near` of a camera.

    Source: DVGO's view-count learning rate. Departs: a voxel counts by projecting it, not by the rays that pass near it.
    """
    index = np.stack(np.meshgrid(*[np.arange(side) for side in lattice.shape], indexing="ij"), -1)
    points = lattice.world_from_index(index.reshape(-1, 3)).astype(np.float32)
    seen = np.zeros(len(points), np.int32)
    covered = np.zeros(len(points), bool)
    for camera in (view.camera for view in scene.train):
        pose = camera.pose.astype(np.float32)
        local = (points - pose[:3, 3]) @ pose[:3, :3]
        depth = np.maximum(-local[:, 2], 1e-6)
        x, y = camera.fx * local[:, 0] / depth + camera.cx, -camera.fy * local[:, 1] / depth + camera.cy
        inside = (local[:, 2] < 0) & (x >= 0) & (x <= camera.width) & (y >= 0) & (y <= camera.height)
        seen += inside
        covered |= (local**2).sum(-1) < scene.near**2
    seen[covered] = 0
    return seen.reshape(lattice.shape)


def coarse_alive(coarse: RadianceField) -> np.ndarray:
    """Coarse voxels [X,Y,Z] bool that are looked at and whose alpha over one voxel is above `COARSE_ALPHA`."""
    return (coarse.density > density_of_alpha(COARSE_ALPHA, coarse.density_bias, 1.0)) & active_voxels(coarse)


def scene_box(coarse: RadianceField) -> tuple[np.ndarray, np.ndarray]:
    """The fine stage's box: around the coarse voxels that are alive, a little wider; everything if none is."""
    alive = np.argwhere(coarse_alive(coarse))
    if len(alive) == 0:
        return np.array(coarse.lattice.lo), np.array(coarse.lattice.hi)
    lo, hi = (coarse.lattice.world_from_index(edge) for edge in (alive.min(0), alive.max(0)))
    half = np.maximum((hi - lo) / 2 * BOX_MARGIN, coarse.lattice.extent / np.array(coarse.lattice.shape))
    centre = (lo + hi) / 2
    return centre - half, centre + half


def cells_near(coarse: RadianceField, lattice: Lattice) -> np.ndarray:
    """Cells [X-1,Y-1,Z-1] uint8 of `lattice` whose centre is within a voxel or so of an alive coarse voxel."""
    alive = torch.from_numpy(coarse_alive(coarse)).float()[None, None]
    wider = max_pool3d(alive, 3, stride=1, padding=1)[0, 0].numpy() > 0
    axes = []
    for axis in range(3):
        centres = np.zeros((lattice.shape[axis] - 1, 3))
        centres[:, axis] = np.arange(lattice.shape[axis] - 1) + 0.5
        index = coarse.lattice.index_from_world(lattice.world_from_index(centres))[:, axis]
        axes.append(np.clip(np.rint(index).astype(int), 0, coarse.lattice.shape[axis] - 1))
    return wider[np.ix_(*axes)].astype(np.uint8)


def cells_on(cells: np.ndarray, lattice: Lattice) -> np.ndarray:
    """The value, for each cell of another lattice over the same box, of the cell that its centre is in."""
    sides = [side - 1 for side in lattice.shape]
    index = [((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(sides, cells.shape, strict=True)]
    return np.ascontiguousarray(cells[np.ix_(*index)])


def coarse_model(scene: Scene, config: TrainConfig, *, seed: int, device: str) -> FieldModel:
    """The model of the coarse stage at its start."""
    model = FieldModel(config.coarse, camera_bounds(scene), scene, seed=seed, device=device)
    model.hide(count_views(scene, model.lattice))
    return model


def fine_model(scene: Scene, config: TrainConfig, coarse: RadianceField, *, seed: int, device: str) -> FieldModel:
    """The model of the fine stage at its start."""
    return FieldModel(config.fine, scene_box(coarse), scene, coarse=coarse, seed=seed, device=device)


Report = Callable[[str, Progress], None]
Watch = Callable[[Callable[[], RadianceField]], None]


def fit(
    scene: Scene,
    config: TrainConfig,
    *,
    seed: int = 0,
    device: str = "cpu",
    report: Report | None = None,
    run: Path | None = None,
    watch: Watch | None = None,
) -> RadianceField:
    """Train a field on the scene's training views: `field` of the model that `fit_model` makes of the same arguments."""
    return fit_model(scene, config, seed=seed, device=device, report=report, run=run, watch=watch).field()


def fit_model(
    scene: Scene,
    config: TrainConfig,
    *,
    seed: int = 0,
    device: str = "cpu",
    report: Report | None = None,
    run: Path | None = None,
    watch: Watch | None = None,
) -> FieldModel:
    """Train a field on the scene's training views: the coarse stage, then the fine one.

    Args:
      report: called after every step with the stage's name and its progress.
      run: a folder for checkpoints; a call that was killed goes on from the last one when it is made again. They stay
        until `clear_run`, when the result is safe.
      watch: called every `REFRESH_STEPS` steps with a function that gives the field as it is then; to call it changes nothing.

    Deterministic on the CPU with a given seed, whatever the number of threads, and however often it was interrupted.

    Raises:
      StorageError: `run` holds the checkpoint of other images or settings.

    Source: DirectVoxGO (arXiv 2111.11215); departures at the head of this module.
    """
    pool = RayPool(scene.train)
    print_of_run = fingerprint(scene, {"config": asdict(config), "seed": seed})
    coarse = None if run is None else _load_coarse(run, print_of_run)
    if coarse is None:
        first = coarse_model(scene, config, seed=seed, device=device)
        _run_stage("coarse", first, pool, seed, report, run, print_of_run, watch)
        coarse = first.field()
        if run is not None:
            save_field(run / COARSE_FILE, coarse, notes={"fingerprint": print_of_run})
            (run / CHECKPOINT_FILES["coarse"]).unlink(missing_ok=True)
    fine = fine_model(scene, config, coarse, seed=seed, device=device)
    _run_stage("fine", fine, pool, seed, report, run, print_of_run, watch)
    return fine


def clear_run(run: Path) -> None:
    """Remove the checkpoints that `fit` left in a run folder."""
    for name in (COARSE_FILE, *CHECKPOINT_FILES.values()):
        (run / name).unlink(missing_ok=True)


def _load_coarse(run: Path, print_of_run: str) -> RadianceField | None:
    """The finished coarse stage of an interrupted run, if there is one."""
    path = run / COARSE_FILE
    if not path.exists():
        return None
    field, notes = load_field(path)
    if notes["fingerprint"] != print_of_run:
        raise StorageError(path, "belongs to other images or settings; give --overwrite to start afresh")
    return field


def _run_stage(
    name: str,
    model: FieldModel,
    pool: RayPool,
    seed: int,
    report: Report | None,
    run: Path | None,
    print_of_run: str,
    watch: Watch | None,
) -> None:
    checkpoint = None if run is None else Checkpoint(run / CHECKPOINT_FILES[name], print_of_run)
    stage = model.stage
    steps = optimize(
        model,
        pool,
        steps=stage.steps,
        rays_per_step=stage.rays_per_step,
        seed=(seed, STAGES.index(name)),
        device=model.device,
        checkpoint=checkpoint,
    )
    for progress in steps:
        if report is not None:
            report(name, progress)
        if watch is not None and progress.step % REFRESH_STEPS == 0:  # the next step finds the cells anew in any case
            watch(model.field)
    model.settle()
