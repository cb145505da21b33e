"""Train a DVGO, Plenoxels or TensoRF field on photos: coarse, then fine.

Stages (DirectVoxGO, arXiv 2111.11215, sec. 5): a coarse field of plain colours over everything the cameras see finds where
the scene is; a fine field with a small MLP starts in that box, skips what the coarse one found empty, and doubles its voxels
several times on the way. Learning rates decay exponentially over a stage.

Departs from DVGO:
  - Adam's epsilon (`vqrf.kernels`) is small enough for the coarse start: at alpha 1e-6 the gradients are below 1e-8, where
    the usual epsilon swallows them;
  - once what is there has risen above it, the coarse stage samples with the fine stage's alpha threshold, which drops the white
    fog on white that no loss removes and makes a step five times cheaper;
  - occupied cells are found anew every `REFRESH_STEPS` steps, and exactly (`kernels.find_cells`), instead of by a mask that
    only ever shrinks;
  - halfway through the fine stage, cells that photos do not need are closed (`box.needed_cells`);
  - only a box has a coarse stage (`TrainConfig.in_space`): in the other spaces the fine stage begins where a photo looks;
  - the fine stage's rates are three times DVGO's, so that a shorter stage gets as far;
  - in the other spaces a step has as many rays as shade a number of samples (`stages.PLACE_SHADED`);
  - where photos have an opacity, it is a loss.

A Plenoxels field (arXiv 2112.05131) is a fine stage without a network: its features are coefficients of spherical harmonics,
and a ReLU takes the place of softplus and sigmoid. When its lattice grows, cells with nothing in or next to them are dropped.
Departs from Plenoxels: the coarse stage above finds the first cells, and what is dropped is chosen by density and not by
weight; the lattice doubles its voxels; Adam instead of RMSProp; total variation is that of the voxels that a step touches.

A TensoRF field (arXiv 2203.09517) is a fine stage whose voxels are products of planes and lines (`grids.FactorGrid`), which the
kernels read at the samples of rays.
Departs from TensoRF: the coarse stage's box and cells, found anew on the way, take the place of its shrinking and its alpha
mask; density has the bias and the interval of a DVGO field, and losses are those of one; rays are not jittered; with the preset
`quick` the network takes the features as they are, and half as many of them.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool3d

from vqrf.bars import stage_bars
from vqrf.data.exposure import ExposedPool, Exposures, exposures_of
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene, camera_bounds, front_bounds, moved_scene, opaque_scene, unbounded_bounds
from vqrf.fields.cells import voxels_of_cells
from vqrf.fields.field import RadianceField
from vqrf.fields.storage import Made
from vqrf.geometry import Lattice, Space, Unbounded, far_origin
from vqrf.kernels import Gradients, Volume, select
from vqrf.kernels.constants import Equation, interval_of_step
from vqrf.training.box import (
    cells_beside_cameras,
    cells_near,
    cells_on,
    count_views,
    least_views,
    needed_cells,
    needed_part,
    scene_box,
    seen_part,
)
from vqrf.training.checkpoint import BY, say_that_bits_differ
from vqrf.training.grids import UNSEEN_DENSITY, FactorGrid, Grid, Rates, VoxelGrid
from vqrf.training.loop import REFRESH_STEPS, RaysPerStep, Report, maker_of, optimize
from vqrf.training.parameters import Parameters, decay, share_of_newest
from vqrf.training.run import Run
from vqrf.training.stages import STAGES, Appearance, StageConfig, TrainConfig, config_of, preset_for

AVERAGE_FROM = 0.4
"""Share of a stage's steps that remain when the mean of its parameters begins."""


class FieldModel:
    """A DVGO, Plenoxels or TensoRF field under optimisation.

    Args:
      stage: its constants.
      box: of its lattice, lowest and highest place.
      scene: for near and background.
      space: of the lattice.
      coarse: what the coarse stage found, to stay inside of; None in the coarse stage itself.
      seed: of the MLP's start.
    """

    def __init__(
        self,
        stage: StageConfig,
        box: tuple[np.ndarray, np.ndarray],
        scene: Scene,
        *,
        space: Space | None = None,
        coarse: RadianceField | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.space = space
        self.stage, self.device, self.scene, self.coarse = stage, device, scene, coarse
        self.box = box
        self.kernels = select(device)
        self.losses = stage.losses
        self.step = 0
        self.mlp = Parameters.of_layers(initial_mlp(stage.appearance, seed, device))
        self.rates: Tensor | None = None
        self.seed = seed
        self.origin = np.zeros(3)
        self.exposures: Exposures | None = None
        self._allocate(0)

    def _allocate(self, n_grown: int, old: Grid | None = None, reach: np.ndarray | None = None) -> None:
        """Put the lattice where it is once it has grown so often: at its start, or resampled from the `old` grid.

        Args:
          reach: cells of the new lattice, flat, whose voxels it holds; None for those that the coarse stage leaves.
        """
        self.lattice = Lattice.with_voxels(*self.box, self.stage.voxels_after(n_grown), self.space)
        shape = self.lattice.shape
        self.equation = self._equation_after(n_grown)
        self.reach, self.allowed, active = None, None, torch.arange(self.lattice.n_voxels, device=self.device)
        if self.coarse is not None:
            cells = cells_near(self.coarse, self.lattice)
            cells = cells if reach is None else reach.reshape(cells.shape)
            if self.space is not None:  # cameras stand amid what they look at
                cells = cells & ~cells_beside_cameras(self.scene, self.lattice)
            self.reach = self.allowed = torch.from_numpy(cells).to(self.device)
            active = torch.from_numpy(np.flatnonzero(voxels_of_cells(cells))).to(self.device)
        self.grid = self._grid_at_start(active) if old is None else old.on(shape, active)
        self.parameters = self.grid.parameters | self.mlp
        of = self.grid.gradients
        self.gradients = Gradients(of.density, of.features, self._layers("gradient"), self.grid.touched, of.factors)
        self._refresh()

    def _grid_at_start(self, active: Tensor) -> Grid:
        stage, shape = self.stage, self.lattice.shape
        if stage.components is not None:
            of = stage.components
            sizes = (of.density, of.features, stage.appearance.channels)
            return FactorGrid.at_random(of.decomposition, shape, sizes, active, self.seed)
        is_relu = stage.appearance.activation == "relu"
        faint = self.equation.density_of(stage.sampling.alpha_init) if is_relu else 0.0  # a relu at 0 would never learn
        return VoxelGrid.at_rest(shape, stage.appearance.channels, active, faint)

    def _edge(self, n_voxels: int) -> float:
        """World size of a voxel of a lattice of so many."""
        return float(np.cbrt(np.prod(self.lattice.extent) / n_voxels))

    def _equation_after(self, n_grown: int) -> Equation:
        """The constants of the stage once the lattice has grown so often.

        With each doubling the bias falls by one, which sharpens what is there (DVGO).
        """
        sampling, appearance, n_voxels = self.stage.sampling, self.stage.appearance, self.stage.voxels_after(n_grown)
        step_world = sampling.step_voxels * self._edge(n_voxels)
        if appearance.activation == "relu":
            interval, density_bias = interval_of_step(step_world, self._edge(self.stage.n_voxels)), 0.0
        else:
            interval = sampling.step_voxels * (self.stage.n_voxels / n_voxels) ** (1 / 3)
            density_bias = math.log(1 / (1 - sampling.alpha_init) - 1) - n_grown * math.log2(self.stage.growth)
        return Equation(
            density_bias=density_bias,
            interval=interval,
            step_world=step_world,
            near=self.scene.near,
            alpha_threshold=sampling.alpha_threshold,
            background=self.scene.learnt_on,
            shading=appearance.shading,
            activation=appearance.activation,
            feature_frequencies=appearance.feature_frequencies,
        )

    def _layers(self, attribute: str) -> tuple[tuple[Tensor, Tensor], ...]:
        arrays = [getattr(moments, attribute) for moments in self.mlp.values()]
        return tuple(zip(arrays[::2], arrays[1::2], strict=True))

    def _refresh(self) -> None:
        """Find the occupied cells of the density as it is now."""
        self.grid.show_density(self.kernels)
        equation, sampling = self.equation, self.stage.sampling
        if self.step < sampling.faint_steps:
            equation = replace(equation, alpha_threshold=sampling.alpha_init / 10)
        self._occupy(self.kernels.find_cells(self.grid.shown.density, equation.floor, self.allowed), equation)

    def _occupy(self, cells: Tensor, equation: Equation) -> None:
        """Show what is learnt in these cells."""
        shown = self.grid.shown
        self.volume = Volume(
            lo=self.lattice.lo,
            hi=self.lattice.hi,
            density=shown.density,
            features=shown.features,
            rows=None,
            layers=self._layers("values"),
            cells=cells,
            skip=self.kernels.measure_skip(cells),
            equation=equation,
            factors=shown.factors,
            space=self.lattice.space,
        )

    def hide(self, seen: np.ndarray) -> None:
        """Use how many views see each voxel, [X,Y,Z]: what too few see is emptied, the rest learns in proportion.

        Not in proportion where nothing is without bounds: what is far off is seen by few, and would be learnt last.
        Where no place is seen by as many as it takes, as with one photo or two, those have to do that are seen by most.
        """
        least = max(min(least_views(self.space), int(seen.max())), 1)
        share = torch.from_numpy((seen / max(seen.max(), 1)).astype(np.float32)).to(self.device)
        self.grid.shown.density[torch.from_numpy(seen < least).to(self.device)] = UNSEEN_DENSITY
        if not isinstance(self.space, Unbounded):
            self.rates = share.reshape(-1)
        self._refresh()

    def prepare(self, step: int) -> bool:
        self.step = step
        if step in self.stage.grow_at:
            n_grown = self.stage.grow_at.index(step) + 1
            reach = self._sparse_cells(self.stage.voxels_after(n_grown)) if self.stage.is_sparse else None
            del self.gradients  # the grid gives them up
            self._allocate(n_grown, self.grid, reach)
        elif self.coarse is not None and step == self.stage.halfway:
            self._close_unneeded()
        elif step % REFRESH_STEPS == 0:
            self._refresh()
        self.grid.show(self.kernels)
        return self.coarse is not None and step in (0, *self.stage.grow_at[-1:], self.stage.halfway)

    def _sparse_cells(self, n_voxels: int) -> np.ndarray:
        """The cells of a lattice of `n_voxels` in or next to cells that are occupied now."""
        self._refresh()
        near = max_pool3d(self.volume.cells.float()[None, None], 3, stride=1, padding=1)[0, 0] > 0
        return cells_on(near.to(torch.uint8).cpu().numpy(), Lattice.with_voxels(*self.box, n_voxels, self.space))

    def _close_unneeded(self) -> None:
        """Allow nothing any more in cells that no photos need (`box.needed_cells`): fog that none of them shows.

        Half of the steps are left, in which what stays learns to do without it.
        """
        assert self.allowed is not None
        needed = needed_cells(self._colorless(), self.scene)
        if needed.any():
            self.allowed = self.allowed & torch.from_numpy(needed).to(self.device)
        self._refresh()

    def update(self, step: int) -> None:
        since = step - max((at for at in self.stage.grow_at if at <= step), default=0) + 1
        share_left = decay(step, self.stage.steps, self.stage.rates.end)
        share: float | Tensor = 1.0 if self.rates is None else self.rates
        penalties = self.stage.penalties
        variation = penalties.varied_every if step % penalties.varied_every == 0 else 0
        rates = Rates(
            density=share * (self.stage.rates.density * share_left),
            features=share * (self.stage.rates.features * share_left),
            mix=self.stage.rates.mlp * share_left,
            density_variation=variation * penalties.density_variation,
            feature_variation=variation * penalties.feature_variation,
            sparsity=penalties.sparsity,
        )
        self.grid.update(self.kernels, rates, since)
        self.mlp.update(self.kernels, self.stage.rates.mlp * share_left, step + 1)
        self._average(self.stage.steps - 1 - step)

    def _average(self, n_left: int) -> None:
        """Take the parameters into their means now and then, once no more than `AVERAGE_FROM` of the steps are left."""
        if n_left % REFRESH_STEPS or n_left > AVERAGE_FROM * self.stage.steps:
            return
        self.parameters.average(share_of_newest(REFRESH_STEPS, self.stage.steps))

    def settle(self) -> None:
        """End the stage: take the mean of the last parameters for them. Doing so twice changes nothing."""
        self.parameters.settle()
        self._refresh()

    def let_go(self) -> None:
        """Keep what is learnt, and nothing that learning needs: a field and its file take as much memory again."""
        del self.gradients, self.grid.gradients
        self.parameters.let_go()

    def field(self) -> RadianceField:
        """The field as it stands, its cells limited to those occupied now."""
        self.step = self.stage.steps
        self._refresh()
        here = self._here().with_background(self.scene.background)
        here = replace(here, equation=self._drawn(here.equation))
        if isinstance(self.grid, VoxelGrid):
            here = copy.deepcopy(here)
        return replace(here, lattice=here.lattice.moved(self.origin)) if self.origin.any() else here

    def _drawn(self, equation: Equation) -> Equation:
        """The constants that the finished field is drawn with: the same opacities, by the steps for it."""
        sampling = self.stage.sampling
        share = 1.0 if sampling.drawn_voxels is None else sampling.drawn_voxels / sampling.step_voxels
        return replace(equation, step_world=share * equation.step_world, interval=share * equation.interval)

    def _here(self) -> RadianceField:
        """The field in the cells found last and in the world that it is learnt in; the voxels of a `VoxelGrid` are no copy."""
        density, features = self.grid.voxels(self.kernels, self.volume.cells)
        arrays = [array.cpu().numpy().copy() for pair in self._layers("values") for array in pair]
        return RadianceField(
            lattice=self.lattice,
            density=density,
            features=features,
            color_mlp=tuple(zip(arrays[::2], arrays[1::2], strict=True)),
            equation=self.equation,
            allowed=self.volume.cells.cpu().numpy(),
        )

    def _colorless(self) -> RadianceField:
        """The field in the cells found last, without what it looks like, which of factors would have to be made."""
        density = self.grid.shown.density.cpu().numpy()
        features = np.zeros((*density.shape, 3), np.float32)  # never read by a ray, and no memory before it is written to
        equation = replace(self.equation, shading="mlp", feature_frequencies=0)
        return RadianceField(self.lattice, density, features, (), equation, self.volume.cells.cpu().numpy())

    def state(self) -> Made[Tensor]:
        threshold = torch.tensor(self.volume.equation.alpha_threshold, dtype=torch.float64)
        state = self.parameters.state() | {"cells": self.volume.cells, "alpha_threshold": threshold}
        if self.reach is None or self.allowed is None:
            return state
        return state | {"reach": self.reach.reshape(-1), "allowed": self.allowed}

    def restore(self, state: Mapping[str, Tensor], step: int) -> None:
        grown = sum(at < step for at in self.stage.grow_at)
        self.step = step
        reach = state["reach"].cpu().numpy() if "reach" in state else None
        self._allocate(grown, reach=reach)
        self.allowed = state.get("allowed")
        self.parameters.restore(state)
        self._occupy(state["cells"], replace(self.equation, alpha_threshold=float(state["alpha_threshold"])))


def initial_mlp(appearance: Appearance, seed: int, device: str) -> list[Tensor]:
    """Weights and biases in turn, uniform in +-1/sqrt(in) as linear layers commonly start; the last bias is 0."""
    if appearance.depth == 0:
        return []
    generator = torch.Generator().manual_seed(seed)
    n_inputs = appearance.channels * (1 + 2 * appearance.feature_frequencies) + 3 + 6 * appearance.view_frequencies
    sides = [n_inputs, *[appearance.width] * (appearance.depth - 1), 3]
    arrays = []
    for n_in, n_out in itertools.pairwise(sides):
        for shape in ((n_out, n_in), (n_out,)):
            arrays.append((torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(n_in))
    arrays[-1].zero_()
    return [array.to(device) for array in arrays]


def bounds_of(scene: Scene) -> tuple[Space | None, np.ndarray, np.ndarray]:
    """The space of the scene's lattice, and its lowest and highest place."""
    if scene.space == "front":
        return front_bounds(scene)
    return unbounded_bounds(scene) if scene.space == "unbounded" else (None, *camera_bounds(scene))


def coarse_model(scene: Scene, config: TrainConfig, *, seed: int, device: str) -> FieldModel:
    """The model of the coarse stage at its start."""
    space, lo, hi = bounds_of(scene)
    model = FieldModel(config.coarse, (lo, hi), scene, space=space, seed=seed, device=device)
    model.hide(count_views(scene, model.lattice))
    return model


def fine_model(scene: Scene, config: TrainConfig, coarse: RadianceField, *, seed: int, device: str) -> FieldModel:
    """The model of the fine stage at its start."""
    space = coarse.lattice.space
    return FieldModel(config.fine, scene_box(coarse), scene, space=space, coarse=coarse, seed=seed, device=device)


Watch = Callable[[Callable[[], RadianceField]], None]
Judge = Callable[[str, RadianceField], None]


def fit(
    scene: Scene,
    preset: str | TrainConfig | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    quiet: bool = False,
    report: Report | None = None,
    run: Path | None = None,
    watch: Watch | None = None,
) -> RadianceField:
    """Train a radiance field on the scene's training views.

    Args:
      preset: a name of `vqrf.training.stages.PRESETS`, such as "demo", "quick", "standard", "large", "plenoxels-quick" or
        "tensorf-quick"; or settings. None: by the size of the photos, "demo" up to 200 pixels, "quick" up to 400, "standard"
        beyond: minutes on two cores, up to a quarter of an hour.
      device: "cpu", or a torch device such as "cuda".
      quiet: draw no bars on the terminal; where there is no terminal there are none in any case.
      report: called after every step with the stage's name and its progress, instead of the bars.
      run: a folder for checkpoints; see `fit_model`.
      watch: called now and then with a function that gives the field as it is then, such as `vqrf.Viewer().watch`.

    Deterministic on the CPU with a given seed, whatever the number of threads.

    Raises:
      ValueError: the scene has no training views, or there is no preset of that name.
      StorageError: `run` holds the checkpoint of other images or settings.

    Source: DirectVoxGO (arXiv 2111.11215); departures at the head of this module.
    """
    if not scene.train:
        raise ValueError("the scene has no training views")
    side = max(max(view.camera.width, view.camera.height) for view in scene.train)
    config = config_of(preset_for(side) if preset is None else preset).in_space(scene.space)
    with stage_bars(config.steps(), quiet or report is not None) as show:
        return fit_model(scene, config, seed=seed, device=device, report=report or show, run=run, watch=watch).field()


def fit_model(
    scene: Scene,
    config: TrainConfig,
    *,
    seed: int = 0,
    device: str = "cpu",
    report: Report | None = None,
    run: Path | None = None,
    watch: Watch | None = None,
    judge: Judge | None = None,
) -> FieldModel:
    """Train a field on the scene's training views: the coarse stage in a box, then the fine one.

    Args:
      report: called after every step with the stage's name and its progress.
      run: a folder for checkpoints; a call that was killed goes on from the last one when it is made again. They stay
        until `clear_run`, when the result is safe.
      watch: called every `REFRESH_STEPS` steps with a function that gives the field as it is then; to call it changes nothing.
      judge: called with "coarse" and the field of that stage; what it raises ends the training there.

    Deterministic on the CPU with a given seed, whatever the number of threads, and however often it was interrupted.

    Raises:
      StorageError: `run` holds the checkpoint of other images or settings.

    Source: DirectVoxGO (arXiv 2111.11215); departures at the head of this module.
    """
    config = config.in_space(scene.space)
    offset = far_origin(*camera_bounds(scene))
    scene = moved_scene(scene, offset)  # a scene far from the origin is learnt at it, where float32 is fine enough
    shown = opaque_scene(scene)
    pool = ExposedPool(shown) if config.learns_exposure else RayPool(shown.train)
    kept = None if run is None else Run.of(run, scene, config, seed)
    if run is not None:
        run.mkdir(parents=True, exist_ok=True)
    watched = Watched(report, watch)
    found = None if kept is None else kept.load_coarse()
    if not config.coarse.steps:
        coarse = seen_part(coarse_model(scene, config, seed=seed, device=device).field())
    elif found is None:
        first = coarse_model(scene, config, seed=seed, device=device)
        _run_stage("coarse", first, pool, seed, kept, watched)
        coarse = needed_part(first.field(), scene)
        if kept is not None:
            learnt = pool.sums.tolist() if isinstance(pool, ExposedPool) else None
            kept.save_coarse(coarse, {"learnt": learnt, BY: maker_of(device)})
    else:
        coarse, notes = found
        say_that_bits_differ(notes.get(BY), maker_of(device))
        if isinstance(pool, ExposedPool):
            pool.learn(np.array(notes["learnt"], np.float64))
    if judge is not None and config.coarse.steps:
        judge("coarse", coarse)
    fine = fine_model(scene, config, coarse, seed=seed, device=device)
    fine.origin = -offset
    _run_stage("fine", fine, pool, seed, kept, watched)
    fine.exposures = exposures_of(scene, pool.maps) if isinstance(pool, ExposedPool) else None
    return fine


@dataclass(frozen=True)
class Watched:
    """Who hears of steps, see `fit_model`."""

    report: Report | None
    watch: Watch | None


def _run_stage(name: str, model: FieldModel, pool: RayPool, seed: int, kept: Run | None, watched: Watched) -> None:
    steps = optimize(
        model,
        pool,
        steps=model.stage.steps,
        rays_per_step=RaysPerStep(model.stage.rays_per_step, model.stage.shaded_per_step, model.stage.sampling.roulette),
        seed=(seed, STAGES.index(name)),
        device=model.device,
        checkpoint=None if kept is None else kept.checkpoint(name),
    )
    for progress in steps:
        if watched.report is not None:
            watched.report(name, progress)
        if watched.watch is not None and progress.step % REFRESH_STEPS == 0:  # the next step finds the cells anew in any case
            watched.watch(model.field)
    model.settle()
    model.let_go()
