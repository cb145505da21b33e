"""The presets by name, and `compress`, the one call for whichever is meant.

compact   the default: a sparse pyramid, tuned for its own bytes (`vqrf.compression.compact`)
paper     VQRF as published: a codebook, and voxels kept exactly (`vqrf.compression.paper`)
demo      the same, for small scenes in little time
planes    planes and lines, coded as what they are (`vqrf.compression.planes`)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vqrf.bars import stage_bars
from vqrf.codec.compressed import Compressed
from vqrf.compression.compact import CompactPreset
from vqrf.compression.importance import expect_seen, measure_importance
from vqrf.compression.paper import PaperPreset
from vqrf.compression.planes import PlanesPreset
from vqrf.compression.preset import Preset
from vqrf.compression.tuning import Checkpoints, Tuning
from vqrf.compression.web import bake, is_fast
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene, moved_scene
from vqrf.fields.field import RadianceField
from vqrf.training.loop import Report

PRESETS: dict[str, Preset[Any]] = {
    "compact": CompactPreset(),
    "paper": PaperPreset(),
    "demo": PaperPreset(name="demo", steps=1000, rays_per_step=4096, n_codes=1024, bake_steps=1000),
    "planes": PlanesPreset(),
}


def compress(
    field: RadianceField,
    scene: Scene,
    preset: str | Preset[Any] = "compact",
    *,
    seed: int = 0,
    device: str = "cpu",
    quiet: bool = False,
    report: Report | None = None,
    checkpoints: Checkpoints | None = None,
) -> Compressed:
    """Compress a field with the training views of its scene: measure what matters, choose, tune, round.

    With the profile `web`, a field with a network is baked first.

    Args:
      preset: "compact", "paper", "demo", or settings such as `CompactPreset(bit_price=1e-9)`.
      device: "cpu", or a torch device such as "cuda".
      quiet: draw no bars on the terminal; where there is no terminal there are none in any case.
      report: called after every step of a tuning with "bake", "warm" or "tune" and its progress, instead of the bars.
      checkpoints: the same call goes on from them.

    Deterministic on the CPU with a given seed, whatever the number of threads.

    Raises:
      ValueError: the preset has another name, the scene has no training views, these see nothing of the field, or the preset
        cannot learn from them.
    """
    chosen = preset_of(preset)
    if not scene.train:
        raise ValueError("the scene has no training views")
    chosen.check([view.camera for view in scene.train])
    offset = field.lattice.far_offset()
    if offset.any():  # what is far from the origin is tuned at it, for float32's sake
        scene, field = moved_scene(scene, offset), replace(field, lattice=field.lattice.moved(offset))
    with stage_bars(chosen.stages(), quiet or report is not None) as show:
        pool, kept = RayPool(scene.train), checkpoints or Checkpoints()
        tuning = Tuning(pool, chosen.rays_per_step, seed, device, chosen.ROULETTE, report or show, kept)
        if chosen.profile == "web" and not is_fast(field):
            field = bake(field, scene, tuning, chosen.losses, chosen.bake_steps)
        importance = measure_importance(field, tuning.pool)
        expect_seen(importance)
        small: Compressed = chosen.tune(field, importance, tuning)
    return replace(small, lattice=small.lattice.moved(-offset)) if offset.any() else small


def preset_of(preset: str | Preset[Any]) -> Preset[Any]:
    """The preset of a name; one that is given as settings is what it is.

    Raises:
      ValueError: there is none of that name.
    """
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {preset}")
    return PRESETS[preset]
