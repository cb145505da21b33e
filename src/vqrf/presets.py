"""The presets of `compress` by name, and one call for whichever is meant.

compact   the default: a sparse pyramid, tuned for its own bytes (`vqrf.rate`)
paper     VQRF as published: a codebook, and voxels kept exactly (`vqrf.compress`)
demo      the same, for small scenes in little time
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Literal, TypeAlias

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

PRESETS: dict[str, Config] = {**OF_PYRAMIDS, **OF_CODEBOOKS}


def stages_of(config: Config) -> dict[str, int]:
    """The steps of every tuning, by its name, in order."""
    if isinstance(config, RateConfig):
        return {"warm": config.warm_steps, "tune": config.steps}
    return ({"bake": config.bake_steps} if config.profile == "web" else {}) | {"tune": config.steps}


def warm_facts(config: Config) -> dict[str, Any] | None:
    """What the checkpoint of the stage `warm` depends on; None where there is no such stage."""
    if not isinstance(config, RateConfig) or not config.warm_steps:
        return None
    return asdict(config.warmed())


def compress_with(
    config: Config,
    field: RadianceField,
    scene: Scene,
    *,
    seed: int = 0,
    device: str = "cpu",
    report: Report | None = None,
    checkpoint: Checkpoint | None = None,
    warm: Checkpoint | None = None,
) -> Compressed:
    """Compress by the preset that the settings are of; arguments as of `vqrf.compress.compress`.

    Args:
      warm: see `vqrf.rate.compress_pyramid`; not used by the others.
    """
    if isinstance(config, RateConfig):
        return compress_pyramid(field, scene, config, seed=seed, device=device, report=report, checkpoint=checkpoint, warm=warm)
    return compress(field, scene, config, seed=seed, device=device, report=report, checkpoint=checkpoint)


def faster(config: Config, steps: int) -> Config:
    """The settings with so many steps of tuning in all."""
    if isinstance(config, RateConfig) and config.warm_steps:
        share = config.steps / (config.steps + config.warm_steps)
        tune = round(steps * share)
        return replace(config, steps=tune, warm_steps=steps - tune)
    return replace(config, steps=steps)
