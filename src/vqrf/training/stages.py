"""The two stages of a training as settings: what each learns, how fast, on how many voxels; and the presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vqrf.data.placement import SpaceName
from vqrf.kernels import LossWeights
from vqrf.kernels.constants import Activation, Shading
from vqrf.training.grids import Decomposition

STAGES = ("coarse", "fine")

DISTORTION = 0.01
"""Weight of the distortion in spaces that are no box, as mip-NeRF 360 and DirectVoxGO have it; at 0.1 photos are fitted worse
(docs/log/front.md#what-does-a-distortion-loss-bring-in-front)."""

ROULETTE = 0.03
"""Weight from which on every sample of a step has a colour. Fainter ones have one by chance: that is half of all samples, in
three fifths of the time (docs/log/speed.md#must-every-sample-of-a-step-have-a-colour)."""

FINE_LOSSES = LossWeights(background_entropy=0.001, point_color=0.01, opacity=0.1)


@dataclass(frozen=True)
class Appearance:
    """What a voxel holds, and how it becomes colour and opacity.

    Attributes:
      channels: features per voxel; with `depth` 0 they are rgb logits and `channels` is 3, or coefficients of harmonics.
      depth, width: layers of the colour MLP, hidden width.
      view_frequencies, feature_frequencies: how many of the direction and of each feature the colour MLP takes.
      shading, activation: as in `vqrf.kernels`. With "relu" density is in the units of `interval_of_step`, without a bias.
    """

    channels: int = 12
    depth: int = 3
    width: int = 128
    view_frequencies: int = 4
    feature_frequencies: int = 0
    shading: Shading = "mlp"
    activation: Activation = "softplus"


@dataclass(frozen=True)
class LearningRates:
    """Adam's, at the start of a stage; they decay exponentially.

    Attributes:
      features: of voxels; where these are products, of planes and lines, density's too.
      mlp: of the colour MLP, and of the mix of products.
      end: share of the rates that is left at the end of the stage.
    """

    density: float = 0.1
    features: float = 0.1
    mlp: float = 1e-3
    end: float = 0.1


@dataclass(frozen=True)
class Sampling:
    """Where rays are sampled.

    Attributes:
      step_voxels: distance between samples, in voxels.
      alpha_init: opacity of one base-voxel step of the empty field.
      alpha_threshold: samples with alpha at or below it do not exist.
      faint_steps: for so many steps at the start the threshold is a tenth of `alpha_init`, so that a field that begins
        fainter than the threshold can rise above it.
      drawn_voxels: distance between samples of the field that is learnt, in voxels; None: as it is learnt.
      roulette: samples of less weight have a colour by chance in a step (`vqrf.kernels.Roulette`); 0: all have one.
    """

    step_voxels: float = 0.5
    alpha_init: float = 1e-2
    alpha_threshold: float = 1e-3
    faint_steps: int = 0
    drawn_voxels: float | None = None
    roulette: float = 0.0


@dataclass(frozen=True)
class Penalties:
    """Weights of what is added to the losses of the photos.

    Attributes:
      density_variation, feature_variation: of the total variation of what a step touches (DVGO's smoothing of unbounded
        scenes; bounded ones do without, but for Plenoxels').
      sparsity: of the mean magnitude of the components of density.
      varied_every: steps between two with total variation, which has so many times the weight then.
    """

    density_variation: float = 0.0
    feature_variation: float = 0.0
    sparsity: float = 0.0
    varied_every: int = 1


PLACE_STEP = 1.0
"""Distance between samples in spaces that are no box, in voxels, as DirectVoxGO has it; half of it takes a quarter more time
(docs/log/front.md#what-does-a-smoother-lattice-bring-in-front)."""

FRONT_DRAWN = 2 / 3
"""The same where a finished field in front is drawn: half as many samples more hit upon what lies between those that were
learnt from. Without bounds they gain nothing (docs/log/front.md#are-more-samples-worth-it-once-a-field-is-learnt)."""

PLACE_SHADED = 1 << 17
"""Samples shaded in a step in spaces that are no box, where a ray has 15 to 40. More steps of fewer rays use time better
(docs/log/unbounded.md#are-more-steps-of-fewer-rays-better-for-a-place)."""

PLACE_PENALTIES = Penalties(density_variation=3e-9, feature_variation=3e-10, varied_every=8)
"""In spaces that are no box; `varied_every` is there for the time that it takes."""


@dataclass(frozen=True)
class Components:
    """How many components a plane has for density and for features, where voxels are products of planes and lines.

    Attributes:
      decomposition: see `vqrf.training.grids.FactorGrid`.
    """

    density: int
    features: int
    decomposition: Decomposition = "vm"


@dataclass(frozen=True)
class StageConfig:
    """One stage.

    Attributes:
      steps, rays_per_step: batches of so many rays, at most.
      shaded_per_step: so many samples are shaded in a step at most, by fewer rays; None: however many there are.
      n_voxels: of the lattice at the end of the stage.
      grow_at: steps at which the number of voxels grows, each time by the same factor.
      first_voxels: of the lattice at the start; None: it doubles each time, from `n_voxels / 2^len(grow_at)`.
      is_sparse: when the lattice grows, only cells that are occupied or next to such a one stay allowed.
      components: where voxels are products of planes and lines; None where they are not.
    """

    steps: int
    n_voxels: int
    rays_per_step: int = 8192
    shaded_per_step: int | None = None
    grow_at: tuple[int, ...] = ()
    first_voxels: int | None = None
    is_sparse: bool = False
    appearance: Appearance = Appearance()
    components: Components | None = None
    sampling: Sampling = Sampling()
    rates: LearningRates = LearningRates()
    losses: LossWeights = FINE_LOSSES
    penalties: Penalties = Penalties()

    def voxels_after(self, n_grown: int) -> int:
        """Of the lattice once it has grown so often.

        >>> five = dict(steps=9, grow_at=(1, 2, 3, 4, 5))
        >>> stage = StageConfig(n_voxels=300**3, first_voxels=128**3, **five)
        >>> [round(stage.voxels_after(n) ** (1 / 3)) for n in range(6)]  # TensoRF's
        [128, 152, 180, 213, 253, 300]
        >>> StageConfig(n_voxels=160**3, **five).voxels_after(4) == 160**3 // 2
        True
        """
        n_left = len(self.grow_at) - n_grown
        return self.n_voxels >> n_left if self.first_voxels is None else round(self.n_voxels / self.growth**n_left)

    def with_steps(self, steps: int) -> StageConfig:
        """The stage in so many steps; its lattice grows at the same shares of them.

        >>> FINE.with_steps(6000).grow_at
        (350, 700, 1050, 1400)
        """
        return replace(self, steps=steps, grow_at=tuple(round(at * steps / self.steps) for at in self.grow_at))

    @property
    def growth(self) -> float:
        """The factor by which the number of voxels grows each time."""
        if self.first_voxels is None or not self.grow_at:
            return 2.0
        return float((self.n_voxels / self.first_voxels) ** (1 / len(self.grow_at)))

    @property
    def halfway(self) -> int:
        """The step at which a fine stage looks what photos need: half of its steps, or the first after the last growth."""
        return max(self.steps // 2, *(at + 1 for at in self.grow_at), 1)


@dataclass(frozen=True)
class TrainConfig:
    """A preset: the images' side it is meant for, and the two stages.

    Attributes:
      coarse: finds where the scene is; of no steps: wherever a photo looks.
      place_voxels: of the lattice at the end of the fine stage in spaces that are no box; None: as in a box.
      learns_exposure: whether photos differ in exposure and white balance, which is learnt and undone (`vqrf.data.exposure`).
    """

    image_side: int
    coarse: StageConfig
    fine: StageConfig
    place_voxels: int | None = None
    learns_exposure: bool = False

    def in_space(self, space: SpaceName) -> TrainConfig:
        """The settings for a scene in such a space.

        Only a box has a coarse stage. In the others every ray ends somewhere, often where few photos look, and what a coarse
        stage misses there would be shut out for good (docs/log/front.md#does-a-space-that-is-no-box-need-a-coarse-stage).
        They have a distortion loss too, which draws fog together, and samples farther apart. Voxels have total variation:
        photos are few for all that they show (docs/log/front.md#what-does-a-smoother-lattice-bring-in-front). All samples have
        a colour: so many are faint that chance loses 0.3 dB.
        """
        if space == "box":
            return self
        penalties = self.fine.penalties
        fine = replace(
            self.fine,
            shaded_per_step=PLACE_SHADED,
            n_voxels=self.place_voxels or self.fine.n_voxels,
            losses=replace(self.fine.losses, distortion=DISTORTION),
            sampling=replace(
                self.fine.sampling,
                step_voxels=PLACE_STEP,
                drawn_voxels=FRONT_DRAWN if space == "front" else None,
                roulette=0.0,
            ),
            penalties=PLACE_PENALTIES if penalties == Penalties() else penalties,
        )
        return replace(self, coarse=replace(self.coarse, steps=0), fine=fine)

    def steps(self) -> dict[str, int]:
        """Of each stage that there is, in order."""
        return {name: stage.steps for name, stage in (("coarse", self.coarse), ("fine", self.fine)) if stage.steps}


COARSE = StageConfig(
    steps=2000,
    n_voxels=100**3,
    rays_per_step=2048,
    appearance=Appearance(channels=3, depth=0),
    sampling=Sampling(alpha_init=1e-6, alpha_threshold=1e-4, faint_steps=200),
    losses=LossWeights(background_entropy=0.01, point_color=0.1, opacity=0.1),
)

FINE = StageConfig(
    steps=12000,
    n_voxels=160**3,
    grow_at=(700, 1400, 2100, 2800),
    sampling=Sampling(roulette=ROULETTE),
    rates=LearningRates(density=0.3, features=0.3, mlp=3e-3, end=0.05),
)

PLENOXELS = replace(
    FINE,
    is_sparse=True,
    sampling=Sampling(),  # harmonics cost next to nothing
    appearance=Appearance(channels=27, depth=0, shading="sh_relu", activation="relu"),
    rates=replace(FINE.rates, density=0.1, features=0.03),
    penalties=Penalties(density_variation=3e-10, feature_variation=2e-9),
)

FACTORS = replace(
    FINE,
    steps=10000,
    n_voxels=200**3,
    rates=replace(FINE.rates, features=0.1),
    penalties=Penalties(sparsity=1e-5),
)
VM, CP = Components(16, 48), Components(32, 96, "cp")

TENSORF = replace(
    FACTORS,
    steps=30000,
    rays_per_step=4096,
    n_voxels=300**3,
    first_voxels=128**3,
    grow_at=(2000, 3000, 4000, 5500, 7000),
    appearance=Appearance(channels=27, view_frequencies=2, feature_frequencies=2),
    components=VM,
    rates=LearningRates(features=0.02, mlp=1e-3),
    penalties=Penalties(sparsity=4e-5),
)
"""TensoRF's own (docs/log/bases.md#what-are-tensorfs-own-settings), but for what `vqrf.training.train` says."""

QUICK: dict[str, Any] = {"steps": 6000, "n_voxels": 128**3, "grow_at": (400, 800, 1200, 1600)}

PRESETS = {
    "demo": TrainConfig(
        200,
        replace(COARSE, steps=1000, n_voxels=80**3),
        replace(FINE, steps=3000, n_voxels=112**3, grow_at=(200, 400, 600, 800), rays_per_step=4096),
    ),
    "quick": TrainConfig(400, COARSE, replace(FINE, **QUICK), place_voxels=200**3),
    "standard": TrainConfig(800, COARSE, FINE, place_voxels=256**3),
    "large": TrainConfig(800, COARSE, replace(FINE, n_voxels=256**3)),
    "plenoxels-quick": TrainConfig(400, COARSE, replace(PLENOXELS, **QUICK)),
    "plenoxels-standard": TrainConfig(
        800, COARSE, replace(PLENOXELS, steps=15000, n_voxels=256**3, grow_at=(800, 1600, 2400, 3400, 4600))
    ),
    "tensorf-quick": TrainConfig(400, COARSE, replace(FACTORS, components=VM, **QUICK)),
    "tensorf-standard": TrainConfig(800, COARSE, TENSORF),
    "tensorf-cp-quick": TrainConfig(400, COARSE, replace(FACTORS, components=CP, **QUICK)),
    "tensorf-cp-standard": TrainConfig(800, COARSE, replace(FACTORS, components=CP)),
}

BY_SIZE = ("demo", "quick", "standard")
"""Of the presets, those for photos of growing size."""


def preset_for(side: int) -> str:
    """The preset for photos of so many pixels on their longest side: the first that is meant for as many.

    >>> preset_for(100), preset_for(400), preset_for(4000)
    ('demo', 'quick', 'standard')
    """
    return next((name for name in BY_SIZE if side <= PRESETS[name].image_side), BY_SIZE[-1])


FEWEST_STEPS, MOST_STEPS = 100, 10_000_000
"""Of a fine stage that is asked for by its steps: a lattice has to have time to grow."""

FULL_SET = 100
"""Photos of its size that a preset's steps are meant for, as the synthetic scenes have."""

SHADED_IN_PLACE = 32
"""Samples that a ray shades where no box is, about (docs/log/unbounded.md#are-more-steps-of-fewer-rays-better-for-a-place)."""

LEAST_STEPS = 0.5
"""Share of a preset's fine steps that the fewest photos get: growing takes a quarter of them."""


def suited_to(config: TrainConfig, n_pixels: int) -> TrainConfig:
    """The settings with as many fine steps as make each of `n_pixels` be looked at as often as those of `FULL_SET` photos.

    More looks at few photos would only learn them by heart (docs/log/training.md#how-long-do-few-photos-take). Where a step has
    fewer rays, as of a place, it takes more steps.
    """
    fine = config.fine
    n_rays = fine.rays_per_step
    if fine.shaded_per_step is not None:
        n_rays = min(n_rays, fine.shaded_per_step // SHADED_IN_PLACE)
    share = max(n_pixels / (FULL_SET * config.image_side**2), LEAST_STEPS) * fine.rays_per_step / n_rays
    return replace(config, fine=replace(fine, steps=round(fine.steps * min(share, 1.0))))


def config_of(preset: str | TrainConfig) -> TrainConfig:
    """The settings of a preset; settings are what they are.

    Raises:
      ValueError: there is no preset of that name.
    """
    if isinstance(preset, TrainConfig):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {preset}")
    return PRESETS[preset]
