"""What presets have in common in whose loss a bit has a price: two stages, a dial, and how values become whole numbers.

`warm` brings a field to a usual price, which every file of it has in common; `tune` goes on from there at the price that was
asked for. See `vqrf.compression.compact`, which has the reasons and the sources.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

from vqrf.cameras import Camera
from vqrf.codec.pyramid import MAX_LEVELS
from vqrf.compression.goal import Profile
from vqrf.compression.preset import Kind, Preset
from vqrf.compression.tuning import Tuning
from vqrf.fields.field import RadianceField
from vqrf.training.loop import Model
from vqrf.training.patches import PIXEL_SECONDS, Eyes, expect_eyes


@dataclass(frozen=True)
class Suited:
    """What suits fields by the activation of their density.

    Attributes:
      density_unit: what the step and the rate of densities are in units of: before a ReLU, values are smaller.
      fineness: share of the steps of density and latents that is taken.
      kept_share: of the importance, what the voxels carry that are not pruned, if the settings do not say.
    """

    density_unit: float
    fineness: float
    kept_share: float


SUITED = {"softplus": Suited(1.0, 1.0, 0.996), "relu": Suited(0.13, 0.58, 0.999)}
"""A ReLU leaves much that is faint, and pruning it costs more. Where a bit costs a third (`HARMONICS_PRICE`), step sizes are
1/sqrt(3): at high rates the price of a bit is as the square of the step size
(docs/log/pyramid.md#why-did-plenoxels-lose-so-much)."""


HANDOVER = 0.3
"""Share of the learning rates at which `tune` takes over from `warm`."""

WEB_STEPS = 1 / 2
"""Share of the steps of `exact` that the profile `web` tunes for: on its finer lattice a step takes about twice as long."""

DEAREST, CHEAPEST = 128.0, 1 / 30
"""Bit price at quality 0 and at quality 100, as a multiple of the preset's own."""
FINEST = 1 / 4
"""Step sizes at quality 100, as a share of the preset's own. A low bit price gains nothing unless step sizes shrink too
(docs/log/pyramid.md#what-should-the-dial-turn-above-60)."""


@dataclass(frozen=True)
class Rounding:
    """How values become whole numbers.

    Attributes:
      density_step, feature_step: of raw density, and of a latent as the rms change of a colour; `SUITED` scales them.
      fineness: share of these steps that the stage `tune` takes, above 0.
      dead_zone: by how much of a step a coefficient is rounded towards zero rather than to the nearest.
    """

    density_step: float = 0.5
    feature_step: float = 0.02
    fineness: float = 1.0
    dead_zone: float = 0.05

    def __post_init__(self) -> None:
        steps = self.density_step, self.feature_step, self.fineness
        if not min(steps) > 0:
            raise ValueError("density_step, feature_step and fineness: expected more than 0, got {}, {}, {}".format(*steps))
        if not 0 <= self.dead_zone <= 0.5:
            raise ValueError(f"dead_zone: expected 0..0.5, got {self.dead_zone}")


class PricedModel(Model, Protocol):
    """What is tuned at a price."""

    def begin(self, config: Any, first: float, last: float) -> None:
        """Start a stage of a preset's `steps` at its price, with `first` to `last` of the learning rates."""

    def settle(self) -> None:
        """End a stage: take the mean of the last parameters for them."""


@dataclass(frozen=True)
class PricedPreset(Preset[Kind]):
    """The dials of a preset in whose loss a bit has a price.

    Attributes:
      bit_price: mean squared error (of colours in 0..1) that one bit may cost; of harmonics, `HARMONICS_PRICE` of it.
      warm_price, warm_steps: the price of the stage before, and its steps.
      prune: share of the total importance, spread out, that the voxels which are not pruned carry, 0..1; `SUITED` if None.
      n_levels: of the pyramid, above the lattice's own, 0..8.
      by_surroundings: whether a first step away from 0 costs what its surroundings say, or one bit.
      eyes: how much counts in `tune` what eyes see; None: single pixels alone. `warm` is the same for both.
    """

    bit_price: float = 2.1e-10
    warm_price: float = 3.5e-10
    warm_steps: int = 5000
    prune: float | None = None
    n_levels: int = 4
    rounding: Rounding = Rounding()
    by_surroundings: bool = True
    eyes: Eyes | None = None

    WIDEST_DIALS: ClassVar[Mapping[str, float]] = {"prune": 0.888888, "bit_price": 8.8888e-10}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prune is not None and not 0 < self.prune <= 1:
            raise ValueError(f"prune: expected a share above 0 and at most 1, got {self.prune}")
        if not 0 <= self.n_levels <= MAX_LEVELS:
            raise ValueError(f"n_levels: expected 0..{MAX_LEVELS}, got {self.n_levels}")
        if not (0 <= self.bit_price < math.inf and 0 <= self.warm_price < math.inf):
            raise ValueError(f"bit_price and warm_price: expected 0 or more, got {self.bit_price}, {self.warm_price}")

    def check(self, cameras: Sequence[Camera]) -> None:
        if self.eyes is not None:
            if not self.steps:
                raise ValueError("what eyes see is learnt in the last stage of the tuning, which has no steps")
            expect_eyes(cameras)

    def beside_seconds(self, cameras: Sequence[Camera]) -> float:
        if self.eyes is None:
            return 0.0
        _, n, side = self.eyes.split(self.rays_per_step, min(min(camera.width, camera.height) for camera in cameras))
        return n * side**2 * PIXEL_SECONDS

    def kept_share(self, field: RadianceField) -> float:
        """`prune`, or what is usual for the field."""
        return SUITED[field.equation.activation].kept_share if self.prune is None else self.prune

    def warmed(self) -> Self:
        """The settings of the stage `warm`, which are the same for every price."""
        whole = replace(self.rounding, fineness=1.0)
        usual = replace(self, bit_price=self.warm_price, steps=self.warm_steps, by_surroundings=False, rounding=whole)
        return replace(usual, eyes=None)

    def stages(self) -> dict[str, int]:
        *before, tune = super().stages().items()
        return dict([*before, ("warm", self.warm_steps), tune])

    def depends_on(self, stage: str) -> dict[str, Any]:
        return self.warmed().depends_on("tune") if stage == "warm" else super().depends_on(stage)

    def with_steps(self, steps: int) -> Self:
        own = round(steps * self.steps / max(self.steps + self.warm_steps, 1))
        return replace(self, steps=own, warm_steps=steps - own)

    def for_profile(self, profile: Profile, *, is_baked: bool = True) -> Self:
        shorter = WEB_STEPS if profile == "web" and is_baked else 1
        return replace(self, steps=round(self.steps * shorter), warm_steps=round(self.warm_steps * shorter), profile=profile)

    def run(self, model: PricedModel, tuning: Tuning) -> None:
        """Take a model through both stages."""
        if self.warm_steps:
            model.begin(self.warmed(), 1.0, HANDOVER)
            tuning.run("warm", model, self.warm_steps)
            model.settle()
            tuning.keep("warm", model, self.warm_steps)
            model.begin(self, HANDOVER, self.rates.end)
        tuning.run("tune", model, self.steps, self.eyes)
        model.settle()

    def turned(self, below: float, above: float) -> Self:
        """The price of a bit changes, and above also the steps.

        >>> from vqrf.compression.compact import CompactPreset
        >>> CompactPreset(bit_price=1e-9).turned(0, 0).bit_price, CompactPreset().turned(1, 1).rounding.fineness
        (1.28e-07, 0.25)
        """
        rounding = replace(self.rounding, fineness=self.rounding.fineness * FINEST**above)
        return replace(self, bit_price=self.bit_price * DEAREST ** (1 - below) * CHEAPEST**above, rounding=rounding)

    def dials(self, field: RadianceField) -> dict[str, Any]:
        dials = {"prune": round(self.kept_share(field), 6), "bit_price": float(f"{self.bit_price:.4e}")}
        return dials | ({} if self.eyes is None else {"tuned_for": "perceptual"})
