"""How well a place is learnt at all depths: the built-in scene in a hall twenty times its size, whose depths are known.

    python benchmarks/hall.py                        # 80 photos of 200x200, the preset quick
    python benchmarks/hall.py --space box --json     # the same voxels in a box

Three figures of the held-out views, each the mean over views of the PSNR of the pixels that show something so far away: the
thing and what it stands on, the floor behind it, and the wall. Beside them how far the field's depth is off in the median.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from vqrf.data.builtin import built_in_scene, depths_in_hall
from vqrf.data.images import bytes_from_colors, png_from_image
from vqrf.data.scene import Scene
from vqrf.fields.field import RadianceField
from vqrf.rendering.evaluate import psnr
from vqrf.rendering.render import render
from vqrf.training.stages import PRESETS
from vqrf.training.train import fit

NEAR_ENDS, FAR_BEGINS = 5.5, 12.0
"""World distances from the eye: the thing ends within the one, the wall begins beyond the other."""


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
      photos: to learn from.
      side: of the photos, in pixels.
      preset: of the training; its stage for places.
      steps: of the training; 0 for the preset's.
      space: how the hall lies in the voxels.
      pictures: a folder for the held-out views beside the photos.
      as_json: print JSON.
    """

    photos: int = 80
    side: int = 200
    preset: str = "quick"
    steps: int = 0
    space: Literal["unbounded", "box"] = "unbounded"
    pictures: Path | None = None
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False


@dataclass(frozen=True)
class Figures:
    """Of the held-out views: PSNR in dB by how far away things are, the median relative error of depth, and seconds."""

    near: float
    middle: float
    far: float
    depth_error: float
    seconds: float


def judged(scene: Scene, field: RadianceField, seconds: float, pictures: Path | None) -> Figures:
    """Render the held-out views and compare them with the truth."""
    rows, errors = [], []
    for view in scene.test:
        drawn, depth = render(field, view.camera), depths_in_hall(view.camera)
        colors = view.colors()
        parts = depth < NEAR_ENDS, (depth >= NEAR_ENDS) & (depth <= FAR_BEGINS), depth > FAR_BEGINS
        rows.append([psnr(drawn.rgb[part], colors[part]) for part in parts])
        errors.append(np.abs(drawn.depth / depth - 1).ravel())
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            both = bytes_from_colors(np.concatenate([colors, drawn.rgb], 1))
            (pictures / f"{Path(view.name).name}.png").write_bytes(png_from_image(both))
    return Figures(*np.mean(rows, 0).tolist(), float(np.median(np.concatenate(errors))), seconds)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    scene = built_in_scene(n_train=options.photos, side=options.side, backdrop="hall")
    config = PRESETS[options.preset]
    if options.steps:
        config = replace(config, fine=config.fine.with_steps(options.steps))
    if options.space == "box":
        fine = replace(config.fine, n_voxels=config.place_voxels or config.fine.n_voxels)
        scene, config = replace(scene, space="box"), replace(config, fine=fine)
    begun = time.monotonic()
    field = fit(scene, config)
    figures = judged(scene, field.with_background(scene.background), time.monotonic() - begun, options.pictures)
    if options.as_json:
        print(json.dumps(asdict(options) | asdict(figures), default=str))
        return
    print(f"near {figures.near:.2f} dB, middle {figures.middle:.2f} dB, far {figures.far:.2f} dB")
    print(f"depth off by {100 * figures.depth_error:.1f} % in the median; {figures.seconds:.0f} s")


if __name__ == "__main__":
    main()
