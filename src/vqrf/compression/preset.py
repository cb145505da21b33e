"""What a preset is: settings of one way to compress, and all that callers need to know of that way.

A new way is a file with one subclass of `Preset` and the model that it tunes, and a line in `vqrf.compression.presets`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Generic, Self, TypeVar, get_args

from vqrf.cameras import Camera
from vqrf.codec.compressed import Compressed
from vqrf.compression.goal import Profile
from vqrf.compression.tuning import Tuning
from vqrf.fields.field import RadianceField
from vqrf.geometry import Float64
from vqrf.kernels import LossWeights
from vqrf.training.stages import FINE_LOSSES, LearningRates

OWN_QUALITY = 60.0
"""Where a preset's own settings lie on its dial."""

Kind = TypeVar("Kind", bound=Compressed)


RATES = LearningRates(density=0.15, features=0.15, mlp=1.5e-3)
"""Of VQRF's joint tuning."""


MAX_STEPS = 10_000_000
"""Of a tuning: a thousand times as many as the longest has."""


@dataclass(frozen=True)
class Preset(ABC, Generic[Kind]):
    """The settings that every way to compress has, and what it has to say of itself.

    Attributes:
      name: what files and reports call it.
      steps: of the tuning that ends in the file, each of `rays_per_step` rays.
      rates: of that tuning, in the units that the way gives them.
      losses: photometric, of every tuning.
      profile: "exact", or "web" to bake first (`vqrf.compression.web`).
      bake_steps: of tuning harmonics that share nothing yet.
    """

    name: str = ""
    steps: int = 0
    rays_per_step: int = 8192
    rates: LearningRates = RATES
    losses: LossWeights = FINE_LOSSES
    profile: Profile = "exact"
    bake_steps: int = 4000

    RAY_SECONDS: ClassVar[float] = 21e-6
    """Of one core, for a ray of a step of tuning; measured on lego with the field that the way is for."""

    ROULETTE: ClassVar[float] = 0.0
    """Samples of less weight have a colour by chance in a step of tuning (`vqrf.kernels.Roulette`); 0: all have one."""

    WIDEST_DIALS: ClassVar[Mapping[str, float]] = {}
    """Of `dials`, numbers that are as long in a file as any: so its size is known before they are."""

    def __post_init__(self) -> None:
        steps = (*self.stages().values(), self.bake_steps)
        if min(steps) < 0 or max(steps) > MAX_STEPS:
            given = ", ".join(f"{stage} {steps}" for stage, steps in self.stages().items())
            raise ValueError(f"steps: expected 0..{MAX_STEPS}, got {given} and bake_steps {self.bake_steps}")
        if self.profile not in get_args(Profile):
            raise ValueError(f"profile: expected exact or web, got {self.profile}")

    # ---------------------------------------------------------------------------------------- what a way to compress must say

    @abstractmethod
    def tune(self, field: RadianceField, importance: Float64, tuning: Tuning) -> Kind:
        """Compress a field that is as the profile wants it: choose, tune, round.

        Args:
          importance: [X,Y,Z] of the field's voxels, from `measure_importance`; not 0 everywhere.

        Deterministic on the CPU with a given seed, whatever the number of threads.
        """

    @abstractmethod
    def turned(self, below: float, above: float) -> Self:
        """The settings at a place of the dial that is not their own.

        Args:
          below: of the way up from the worst quality to their own, 0..1.
          above: of the way from their own to the best, 0..1; 0 where `below` is less than 1.
        """

    @abstractmethod
    def trim(self, small: Kind, share: float) -> Kind:
        """A result made smaller without tuning: unchanged for share 1, and the smaller the less the share is, down to 0."""

    @abstractmethod
    def dials(self, field: RadianceField) -> dict[str, Any]:
        """What a file says of the settings that it was made with, of JSON types, rounded so that they take little room."""

    # ------------------------------------------------------------------------------------------------- what most ways share

    def check(self, cameras: Sequence[Camera]) -> None:
        """Refuse photos of cameras that the settings cannot learn from, or what they need that is not here.

        Raises:
          ValueError: why.
        """

    def beside_seconds(self, cameras: Sequence[Camera]) -> float:
        """Of one core, and of no more, for what a step of the last tuning takes besides rays of photos of these cameras."""
        return 0.0

    def stages(self) -> dict[str, int]:
        """The steps of every tuning, by its name, in order; the last is the one that depends on all settings."""
        bake = {"bake": self.bake_steps} if self.profile == "web" else {}
        return bake | {"tune": self.steps}

    def depends_on(self, stage: str) -> dict[str, Any]:
        """The settings that a tuning's end depends on: those of one that presets have in common are fewer than all."""
        if stage == "bake":
            return {"steps": self.bake_steps, "rays_per_step": self.rays_per_step, "losses": asdict(self.losses)}
        return asdict(self)

    def with_steps(self, steps: int) -> Self:
        """The settings with so many steps of tuning in all, but for baking.

        Raises:
          ValueError: fewer than none.
        """
        return replace(self, steps=steps)

    def for_profile(self, profile: Profile, *, is_baked: bool = True) -> Self:
        """The settings of a preset, which are those of the profile `exact`, for another profile.

        Args:
          is_baked: whether the field is one that the profile bakes.
        """
        return replace(self, profile=profile)

    def at_quality(self, quality: float) -> Self:
        """The settings at a quality 0..100 on a path through them; their own are at `OWN_QUALITY`. The tuning stays the same.

        Raises:
          ValueError: a quality outside of the dial.
        """
        if not 0 <= quality <= 100:
            raise ValueError(f"quality: expected 0..100, got {quality:g}")
        if quality == OWN_QUALITY:
            return self
        return self.turned(min(quality / OWN_QUALITY, 1.0), max((quality - OWN_QUALITY) / (100 - OWN_QUALITY), 0.0))
