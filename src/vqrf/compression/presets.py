"""The presets of `compress` by name, and one call for whichever is meant.

compact   the default: a sparse pyramid, tuned for its own bytes (`vqrf.compression.compact`)
paper     VQRF as published: a codebook, and voxels kept exactly (`vqrf.compression.paper`)
demo      the same, for small scenes in little time
"""

from __future__ import annotations

from collections import ChainMap
from dataclasses import asdict, replace
from typing import Any, Literal, TypeAlias, cast

from vqrf.codec.compressed import CompressedField
from vqrf.codec.pyramid import PyramidField
from vqrf.compression.compact import PRESETS as OF_PYRAMIDS
from vqrf.compression.compact import WEB_STEPS, RateConfig, compress_pyramid
from vqrf.compression.paper import PRESETS as OF_CODEBOOKS
from vqrf.compression.paper import CompressConfig, compress
from vqrf.compression.tuning import NOWHERE, Checkpoints, Profile
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField
from vqrf.training.loop import Report

Config: TypeAlias = CompressConfig | RateConfig
Compressed: TypeAlias = CompressedField | PyramidField
Preset = Literal["compact", "paper", "demo"]

PRESETS: ChainMap[str, Config] = ChainMap(cast(dict[str, Config], OF_PYRAMIDS), cast(dict[str, Config], OF_CODEBOOKS))


def for_profile(config: Config, profile: Profile) -> Config:
    """The settings of a preset, which are those of the profile `exact`, for another profile."""
    if profile == "web" and isinstance(config, RateConfig):
        config = replace(config, steps=round(config.steps * WEB_STEPS), warm_steps=round(config.warm_steps * WEB_STEPS))
    return replace(config, profile=profile)


def stages_of(config: Config) -> dict[str, int]:
    """The steps of every tuning, by its name, in order."""
    bake = {"bake": config.bake_steps} if config.profile == "web" else {}
    if isinstance(config, RateConfig):
        return bake | {"warm": config.warm_steps, "tune": config.steps}
    return bake | {"tune": config.steps}


def bake_settings(config: Config) -> dict[str, Any]:
    """What the stage `bake` depends on."""
    return {"steps": config.bake_steps, "rays_per_step": config.rays_per_step, "losses": asdict(config.losses)}


def warmed(config: Config) -> Config:
    """The settings that the stage `warm` depends on; all of them where there is no such stage."""
    return config.warmed() if isinstance(config, RateConfig) else config


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
    """Compress by the preset that the settings are of; the other arguments as of `vqrf.compression.paper.compress`."""
    common: dict[str, Any] = {"seed": seed, "device": device, "report": report, "checkpoints": checkpoints}
    if isinstance(config, RateConfig):
        return compress_pyramid(field, scene, config, **common)
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
