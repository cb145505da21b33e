"""The presets of `compress` by name, and one call for whichever is meant.

compact   the default: a sparse pyramid, tuned for its own bytes (`vqrf.rate`)
paper     VQRF as published: a codebook, and voxels kept exactly (`vqrf.compress`)
demo      the same, for small scenes in little time
"""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast

from vqrf.compress import PRESETS as OF_CODEBOOKS
from vqrf.compress import CompressConfig, compress
from vqrf.compressed import CompressedField
from vqrf.field import RadianceField
from vqrf.pyramid import PyramidField
from vqrf.rate import PRESETS as OF_PYRAMIDS
from vqrf.rate import RateConfig, compress_pyramid
from vqrf.scene import Scene
from vqrf.storage import Checkpoint
from vqrf.train import Report

Config: TypeAlias = CompressConfig | RateConfig
Compressed: TypeAlias = CompressedField | PyramidField
Preset = Literal["compact", "paper", "demo"]

PRESETS: ChainMap[str, Config] = ChainMap(cast(dict[str, Config], OF_PYRAMIDS), cast(dict[str, Config], OF_CODEBOOKS))


def stages_of(config: Config) -> dict[str, int]:
    """The steps of every tuning, by its name, in order."""
    bake = {"bake": config.bake_steps} if config.profile == "web" else {}
    if isinstance(config, RateConfig):
        return bake | {"warm": config.warm_steps, "tune": config.steps}
    return bake | {"tune": config.steps}


def warmed(config: Config) -> Config:
    """The settings that the stage `warm` depends on; all of them where there is no such stage."""
    return config.warmed() if isinstance(config, RateConfig) else config


@dataclass(frozen=True)
class Checkpoints:
    """Where a compression is saved now and then; nowhere for None.

    Attributes:
      tune: of the last stage, and, beside it, of baking.
      warm: of the stage `warm` (see `vqrf.rate.compress_pyramid`), which outlives the compression.
    """

    tune: Checkpoint | None = None
    warm: Checkpoint | None = None

    def remove(self, *, warm: bool = True) -> None:
        """Remove what is no longer needed: everything, or all but `warm`."""
        if self.tune is not None:
            self.tune.remove()
        if warm and self.warm is not None:
            self.warm.remove()


NOWHERE = Checkpoints()


def compress_with(
    config: Config,
    field: RadianceField,
    scene: Scene,
    *,
    seed: int = 0,
    device: str = "cpu",
    report: Report | None = None,
    checkpoints: Checkpoints = NOWHERE,
) -> Compressed:
    """Compress by the preset that the settings are of; the other arguments as of `vqrf.compress.compress`."""
    common: dict[str, Any] = {"seed": seed, "device": device, "report": report, "checkpoint": checkpoints.tune}
    if isinstance(config, RateConfig):
        return compress_pyramid(field, scene, config, warm=checkpoints.warm, **common)
    return compress(field, scene, config, **common)


def with_steps(config: Config, steps: int) -> Config:
    """The settings with so many steps of tuning in all.

    Raises:
      ValueError: fewer than none.
    """
    if not isinstance(config, RateConfig):
        return replace(config, steps=steps)
    own = round(steps * config.steps / max(config.steps + config.warm_steps, 1))
    return replace(config, steps=own, warm_steps=steps - own)
