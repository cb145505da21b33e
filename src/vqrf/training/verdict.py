"""Whether a training came to something: what it made is held against its photos, and what is likely wrong is said in a line.

A wrong sign of an axis, a world of another scale or two photos do not stop an optimiser: it ends with a field of nothing, or of
a wall in front of each camera. Signs of that are looked for after the coarse stage and at the end:

  - no cell of the field is occupied;
  - on its own photos it is no better than a picture of one colour, at the end;
  - most rays whose pixels show something meet nothing;
  - cameras stand inside of what they photographed, or inside of the field's box and look at what is outside of near..far, or
    look away from each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vqrf.data.placement import fault_of, look_of
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField
from vqrf.geometry import Float32
from vqrf.kernels import select

JUDGED_RAYS = 8192
LEAST_GAIN = 1.5
"""dB over a picture of one colour that a field has at least on its own photos. A good one has 8 and more."""

ONE_COLOR = 30.0
"""dB: photos that one colour comes so near to are of nothing, and whatever is made of them is right."""

SHOWN = 0.1
"""How far, in some channel, a pixel is from the background that shows something."""

FEW_VIEWS = 3
"""With fewer photos, what is seen by one alone can be anything."""


@dataclass(frozen=True)
class Findings:
    """What a field is on its photos.

    Attributes:
      psnr, psnr_of_color: of the field, and of the better of the mean colour and the background, in dB.
      is_empty: no cell is occupied.
      hit: share of the pixels that show something whose rays meet an occupied cell.
      inside, in_cells: share of the cameras in the field's box, and in an occupied cell.
    """

    psnr: float
    psnr_of_color: float
    is_empty: bool
    hit: float
    inside: float
    in_cells: float


def look(field: RadianceField, scene: Scene) -> Findings:
    """Hold a field against some pixels of the training views. Deterministic."""
    batch, volume = RayPool(scene.train).sample(JUDGED_RAYS, seed=(0,)), field.volume()
    kernels, pixels = select(), batch.targets[:, :3]
    weights = np.ones(len(pixels)) if batch.weights is None else batch.weights.astype(np.float64)

    def psnr(rgb: Float32) -> float:
        error = ((pixels.astype(np.float64) - rgb) ** 2).mean(1)
        return float(-10 * np.log10(np.average(error, weights=weights) + 1e-12))

    background = np.asarray(scene.background, np.float32)
    mean = np.average(pixels, 0, weights).astype(np.float32)
    rgb = kernels.render_rays(volume, batch.origins, batch.directions)[0]
    shown = np.abs(pixels - background).max(1) > SHOWN
    hits = kernels.hit_rays(volume, batch.origins[shown], batch.directions[shown]) if shown.any() else np.ones(1)
    cells = np.asarray(volume.cells)
    index = field.lattice.index_from_world(np.stack([view.camera.pose[:3, 3] for view in scene.train]))
    index = np.floor(np.nan_to_num(index, nan=-1.0)).astype(int)
    inside = ((index >= 0) & (index < cells.shape)).all(1)
    in_cells = cells[tuple(np.clip(index, 0, np.array(cells.shape) - 1).T)] != 0
    return Findings(
        psnr=psnr(rgb),
        psnr_of_color=max(psnr(background), psnr(mean)),
        is_empty=not cells.any(),
        hit=float(np.mean(hits)),
        inside=float(inside.mean()),
        in_cells=float((inside & in_cells).mean()),
    )


def judge(field: RadianceField, scene: Scene, stage: str) -> str | None:
    """What is wrong with a field as a stage ended, and what is likely to blame, in one line; None where nothing is."""
    seen = look(field, scene)
    if seen.psnr_of_color >= ONE_COLOR:
        return None
    where = "after the coarse stage " if stage == "coarse" else ""
    if seen.is_empty:
        fault = f"{where}nothing is left of the field"
    elif stage == "fine" and seen.psnr < seen.psnr_of_color + LEAST_GAIN:
        scores = f"{seen.psnr:.1f} dB, one colour {seen.psnr_of_color:.1f} dB"
        fault = f"{where}the field is no better on its own photos than a blank picture ({scores})"
    elif seen.hit < 0.5:
        fault = f"{where}{1 - seen.hit:.0%} of the rays whose pixels show something meet nothing of the field"
    elif seen.in_cells > 0.25:
        fault = f"{where}{seen.in_cells:.0%} of the cameras stand inside of what they photographed"
    elif (seen.inside > 0.5 and missed_focus(scene) is not None) or fault_of([view.camera for view in scene.train]) is not None:
        fault = f"{where}the field is a wall in front of each camera"
    else:
        return None
    return f"{fault}: {blame(scene)}"


def blame(scene: Scene) -> str:
    """What is likely wrong with a scene of which nothing came, the likeliest alone."""
    n = len(scene.train)
    if n < FEW_VIEWS:
        return f"{n} photo{'s are' if n > 1 else ' is'} too few, a thing takes some 20 from all around it"
    fault = fault_of([view.camera for view in scene.train])
    if fault is not None:
        return fault
    distance = missed_focus(scene)
    if distance is not None:
        near_far = f"near..far is {scene.near:.3g}..{scene.far:.3g}"
        return f"the cameras stand {distance:.3g} from where they look, and {near_far} (--near and --far set it)"
    return "the poses (camera to world, looking along -z, y up), near and far, or too few photos of the same thing"


def missed_focus(scene: Scene) -> float | None:
    """How far the cameras stand from the place that they all look at, if that is not between near and far; None if it is."""
    looks = look_of(np.stack([view.camera.pose for view in scene.train]))
    distance = float(np.median(looks.distances))
    return distance if looks.is_at_one and not scene.near <= distance <= scene.far else None


def remarks_on(scene: Scene) -> list[str]:
    """What is odd about a scene before anything is learnt, each in a line."""
    n = len(scene.train)
    if n < FEW_VIEWS:
        return [f"only {n} training photo{'s' if n > 1 else ''}: what other cameras see will be guessed"]
    return [] if missed_focus(scene) is None else [blame(scene)]
