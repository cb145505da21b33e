"""The only optimisation loop: steps of a model on rays of photos, and how a run that was killed goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, SupportsFloat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqrf.data.rays import Batch, RaySource
from vqrf.fields.storage import Arrays, Made
from vqrf.kernels import Gradients, LossWeights, Roulette, Volume, select
from vqrf.kernels.contract import Backend
from vqrf.training.card_pool import source_on
from vqrf.training.checkpoint import BY, Checkpoint, Snapshot, say_that_bits_differ
from vqrf.training.losses import Loss, Pixels, Slopes, squared_error
from vqrf.training.workers import add_up, n_workers, share_of

REFRESH_STEPS = 32
"""Steps between two looks for occupied cells; finding them costs about a tenth of a step."""

FOLLOW_STEPS = 64
"""Steps between two looks of a source at the field."""

SOURCE, BESIDE = "source.", "beside."
"""Before the names of what a source, and what steps learn from beside it, keep in a checkpoint."""

BESIDE_SEED = 1 << 16
"""At the end of the seeds of what steps learn from beside their rays."""

ROULETTE_SEED = BESIDE_SEED + 1
"""At the end of the seeds by which samples are passed over."""


class Model(Protocol):
    """What the loop optimises: it shows itself as a volume and takes gradients."""

    volume: Volume[Tensor]
    gradients: Gradients[Tensor]
    losses: LossWeights

    def prepare(self, step: int) -> bool:
        """Make `volume` ready for the step; True when rays should be picked anew by what is occupied."""

    def update(self, step: int) -> None:
        """Apply the summed gradients and clear them."""

    def state(self) -> Mapping[str, Tensor]:
        """Everything that `restore` needs to go on after a step, the cells that were found last among it; as it is when it is
        asked for."""

    def restore(self, state: Mapping[str, Tensor], step: int) -> None: ...


class Beside(Protocol):
    """What steps learn from beside their rays: others, by a loss of their own that is added to that of the rays."""

    def begin(self, kernels: Backend, volume: Volume[Tensor], *, seed: tuple[int, ...]) -> None:
        """Called before the first step of all, and not where a run goes on."""

    def sample(self, *, seed: tuple[int, ...]) -> Batch[Any]:
        """The rays of a step, which depend on nothing but `seed` and what the source of the others keeps."""

    def loss(self, pixels: Pixels) -> Slopes: ...

    def state(self) -> dict[str, NDArray[Any]]:
        """What `restore` needs to go on; names are its own."""

    def restore(self, state: dict[str, NDArray[Any]]) -> None: ...


@dataclass(frozen=True)
class Progress:
    """What the loop reports after a step.

    Attributes:
      mse, n_shaded: of the step's rays; on a card, numbers that are waited for when they are asked for.
      save: keeps this very step in the run's checkpoint, for whoever means to stop; None where the run has none.
    """

    step: int
    steps: int
    mse: SupportsFloat
    n_shaded: SupportsFloat
    save: Callable[[], None] | None = field(default=None, repr=False, compare=False)

    @property
    def psnr(self) -> float:
        """dB over the batch, all rays of which meet something: lower than an image's."""
        return -10 * math.log10(max(float(self.mse), 1e-12))


@dataclass(frozen=True)
class RaysPerStep:
    """How many rays a step has, and which of their samples have a colour.

    Attributes:
      most: so many where little is shaded.
      shaded: about so many samples are shaded in a step, by fewer rays where that takes it, an eighth of `most` at least; None:
        however many there are.
      roulette: the weight of `Roulette`, where steps learn from `Model.losses`; 0: every shaded sample has a colour.
    """

    most: int
    shaded: int | None = None
    roulette: float = 0.0

    def suited(self, n_rays: int, n_shaded: float) -> int:
        """How many rays the next steps have, where `n_rays` shaded `n_shaded` samples.

        >>> RaysPerStep(8192, 100_000).suited(8192, 400_000), RaysPerStep(8192, 100_000).suited(2048, 40_000)
        (2048, 5120)
        """
        if self.shaded is None:
            return self.most
        return int(min(max(self.shaded * n_rays / max(n_shaded, 1.0), self.most / 8), self.most))


def optimize(
    model: Model,
    source: RaySource,
    *,
    steps: int,
    rays_per_step: int | RaysPerStep,
    seed: tuple[int, ...],
    device: str = "cpu",
    checkpoint: Checkpoint | None = None,
    loss: Loss | Beside | None = None,
) -> Iterator[Progress]:
    """Run `steps` steps of `model` on rays of `source`, yielding after each.

    The loop of every stage and of the joint tuning. With a `checkpoint` it goes on from what was saved there, and saves now
    and then; the checkpoint stays when the loop ends, for whoever keeps the result to remove. Going on changes nothing: a
    step depends on the seed, its number and the model's state. Of several workers (`vqrf.training.workers`) each takes its
    share of a step's rays.

    Args:
      rays_per_step: so many always, or what `RaysPerStep` says.
      loss: to learn from; None: `model.losses`, which the kernels differentiate as they render. Of a `Beside` every step learns
        besides these; each worker from the whole of it.
    """
    kernels, source = select(device), source_on(source, device)
    size = rays_per_step if isinstance(rays_per_step, RaysPerStep) else RaysPerStep(rays_per_step)
    start, n_rays = 0, size.most
    of_rays, beside = (loss, None) if loss is None or callable(loss) else (None, loss)
    if checkpoint is not None:
        start, n_rays = resume(model, source, checkpoint, device, n_rays, beside)
    for step in range(start, steps):
        with torch_threads(kernels.torch_threads):
            if model.prepare(step):
                source.keep_hits(model.volume)
            if step % FOLLOW_STEPS == 0:
                source.follow(model.volume, seed=(*seed, step, FOLLOW_STEPS))
            batch = share_of(source.sample(n_rays, seed=(*seed, step)))
            played = _play(size.roulette, len(batch.origins), (*seed, step, ROULETTE_SEED), device)
            terms = _differentiate(kernels, model, batch, of_rays, device, played)
            if beside is not None:
                _learn_beside(kernels, model, beside, (*seed, step, BESIDE_SEED), device)
            mse, n_shaded = add_up(model.gradients, len(batch.origins) / n_rays, terms["mse"], terms["n_shaded"])
            model.update(step)
        if size.shaded is not None and (step == 0 or (step + 1) % REFRESH_STEPS == 0):
            n_rays = size.suited(n_rays, float(n_shaded))
        save = None
        if checkpoint is not None:
            collect = partial(snapshot, model, source, step + 1, n_rays, device, beside)
            save = partial(_save, checkpoint, collect)
            if (step + 1) % REFRESH_STEPS == 0:
                checkpoint.save_if_due(collect)
        yield Progress(step + 1, steps, mse, n_shaded, save)


def _play(weight: float, n_rays: int, seed: tuple[int, ...], device: str) -> Roulette[Tensor] | None:
    """Which samples of a step's rays are passed over, see `Roulette`; None where none are."""
    if not weight:
        return None
    return Roulette(weight, torch.from_numpy(np.random.default_rng(seed).random(n_rays, np.float32)).to(device))


def _differentiate(
    kernels: Backend,
    model: Model,
    batch: Batch[Any],
    loss: Loss | None,
    device: str,
    roulette: Roulette[Tensor] | None = None,
) -> Mapping[str, SupportsFloat]:
    """Add the gradient of the loss over a batch to the model's; `mse` of the colours, and `n_shaded`, where it is counted."""
    origins, directions, targets = (torch.as_tensor(array, device=device) for array in batch.arrays)
    weights = None if batch.weights is None else torch.as_tensor(batch.weights, device=device)
    if loss is not None and not len(origins):  # the share of one worker of many
        return {"mse": 0.0, "n_shaded": math.nan}
    if loss is None:
        losses = replace(model.losses, roulette=roulette)
        return kernels.render_gradients(model.volume, origins, directions, targets, losses, model.gradients, weights=weights)
    seen = kernels.render_rays(model.volume, origins, directions)
    pixels = Pixels(*seen, targets, weights, batch.patch)
    slopes = loss(pixels)
    slopes_of = slopes.d_rgb, slopes.d_background_weight, slopes.d_depth
    kernels.backpropagate(model.volume, origins, directions, *slopes_of, model.gradients)
    return {"mse": squared_error(pixels).value, "n_shaded": math.nan}


def _learn_beside(kernels: Backend, model: Model, beside: Beside, seed: tuple[int, ...], device: str) -> None:
    """Add the gradient of what a step learns from beside its rays; `seed` ends in the step's number and another."""
    if seed[-2] == 0:
        beside.begin(kernels, model.volume, seed=seed)
    _differentiate(kernels, model, beside.sample(seed=seed), beside.loss, device)


def _save(checkpoint: Checkpoint, collect: Callable[[], Snapshot]) -> None:
    checkpoint.save(*collect())


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


def maker_of(device: str) -> str:
    """By what steps are made, in words: their bits depend on it."""
    workers = f" and {n_workers()} workers" if n_workers() > 1 else ""
    return f"{select(device).name} on {torch.device(device).type}{workers}"


def snapshot(model: Model, source: RaySource, step: int, n_rays: int, device: str, beside: Beside | None = None) -> Snapshot:
    """What a checkpoint holds after `step` steps, if the next one has `n_rays`. To be written before that: it holds no copy."""
    tensors = model.state()
    arrays: Made[NDArray[Any]] = Made({name: partial(_as_array, tensors, name) for name in tensors})
    for prefix, kept in ((SOURCE, source.state()), (BESIDE, {} if beside is None else beside.state())):
        arrays = arrays | {prefix + name: array for name, array in kept.items()}
    return arrays, {
        "step": step,
        "rays": n_rays,
        BY: maker_of(device),
    }


def _as_array(tensors: Mapping[str, Tensor], name: str) -> NDArray[Any]:
    array: NDArray[Any] = tensors[name].cpu().numpy()
    return array


def resume(
    model: Model, source: RaySource, checkpoint: Checkpoint, device: str, n_rays: int, beside: Beside | None = None
) -> tuple[int, int]:
    """Put a model on `device`, its source and what is beside it where the checkpoint left them.

    Returns the steps already done and the rays of the next one: 0 and `n_rays` where there is no checkpoint, and `n_rays` where
    it does not say. The steps may have been done on another device: a line says that the bits differ then.
    """
    saved = checkpoint.load()
    if saved is None:
        return 0, n_rays
    arrays, state = saved
    say_that_bits_differ(state.get(BY), maker_of(device))
    source.restore(_kept(arrays, SOURCE))
    if beside is not None:
        beside.restore(_kept(arrays, BESIDE))
    of_model = {name: array for name, array in arrays.items() if not name.startswith((SOURCE, BESIDE))}
    model.restore({name: torch.from_numpy(array).to(device) for name, array in of_model.items()}, state["step"])
    return int(state["step"]), int(state.get("rays", n_rays))


def _kept(arrays: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


Report = Callable[[str, Progress], None]
