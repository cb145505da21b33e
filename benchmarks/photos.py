"""How long large photos take to be read, and how much memory a training on them takes.

    python benchmarks/photos.py /tmp/photos                 # 100 photos of 12 megapixels, made there if there are none
    python benchmarks/photos.py mug --preset quick          # a dataset of your own

Photos are made of the built-in scene on its ground, enlarged and with grain, as JPEG of the size that phones write: always
the same. The training is the preset's with short stages, which grow their lattices as often as the preset does. Memory is the
peak of the resident set of the whole process (Linux only, otherwise 0): after the photos are read, after the coarse stage, and
at the end.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image

from vqrf.data.builtin import built_in_scene
from vqrf.data.load import SceneOptions, load_scene
from vqrf.data.scene import Scene, View
from vqrf.training.stages import PRESETS
from vqrf.training.train import fit_model

WIDTH, HEIGHT, ENLARGED = 4032, 3024, 12
"""Pixels of a phone's photo; how many of them, on a side, come of one that is traced."""

EVERY_PHOTO = SceneOptions(hold_out="0")

GRAIN, QUALITY = 6.0, 92
"""Standard deviation of the grain, in levels of 8 bits, and the JPEG's quality: together some 4 MB a photo."""


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
      folder: a dataset; made if there is none.
      photos: that are made.
      preset: of the training.
      coarse_steps, fine_steps: of the shortened stages; 0 for the preset's own, and for both: no training.
      as_json: print JSON.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    photos: int = 100
    preset: str = "standard"
    coarse_steps: int = 1000
    fine_steps: int = 300
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False


def make_photos(folder: Path, n: int) -> None:
    """Write `n` photos with their cameras, in nerfstudio's layout."""
    side = WIDTH // ENLARGED
    views = built_in_scene(n_train=n, n_test=0, side=side, backdrop="ground").train
    (folder / "images").mkdir(parents=True)
    camera = views[0].camera
    frames = [
        {"file_path": f"images/IMG_{i:04}.jpg", "transform_matrix": view.camera.pose.tolist()} for i, view in enumerate(views)
    ]
    focal = camera.fx * ENLARGED
    optics = {"w": WIDTH, "h": HEIGHT, "fl_x": focal, "fl_y": focal, "cx": WIDTH / 2, "cy": HEIGHT / 2}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for frame, data in zip(frames, pool.map(jpeg_of, views, range(n)), strict=True):
            (folder / frame["file_path"]).write_bytes(data)
    (folder / "transforms.json").write_text(json.dumps({**optics, "frames": frames}))


def jpeg_of(view: View, i: int) -> bytes:
    """The middle of a view, enlarged and with grain."""
    cut = (WIDTH - HEIGHT) // 2 // ENLARGED
    image = Image.fromarray(view.image[cut : view.image.shape[0] - cut]).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(i).standard_normal((HEIGHT, WIDTH, 1), np.float32) * GRAIN
    pixels = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def peak_bytes() -> int:
    """Peak of this process's resident set, 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)


def spread(steps: int, grow_at: tuple[int, ...]) -> tuple[int, ...]:
    """As many growths as a stage has, evenly over so many steps."""
    return tuple(round(steps * (i + 1) / (len(grow_at) + 1)) for i in range(len(grow_at)))


def main(options: Options) -> None:
    if not options.folder.exists():  # in a process of its own, whose memory is not counted
        maker = multiprocessing.get_context("spawn").Process(target=make_photos, args=(options.folder, options.photos))
        maker.start()
        maker.join()
    config = PRESETS[options.preset]
    start, of_cpu = time.perf_counter(), time.process_time()
    scene = load_scene(options.folder, splits=("train",), side=config.image_side, options=EVERY_PHOTO)
    found: dict[str, float] = {
        "photos": len(scene.train),
        "seconds_to_read": time.perf_counter() - start,
        "seconds_of_cpu": time.process_time() - of_cpu,
        "bytes_after_reading": peak_bytes(),
    }
    if options.coarse_steps or options.fine_steps:
        train(scene, options, found)
    if options.as_json:
        print(json.dumps(found))
        return
    print(f"{found['photos']} photos read in {found['seconds_to_read']:.1f} s, {found['seconds_of_cpu']:.1f} s of one core")
    for what in ("after_reading", "after_coarse", "at_the_end"):
        if f"bytes_{what}" in found:
            print(f"{found[f'bytes_{what}'] / 1e9:.2f} GB {what.replace('_', ' ')}")


def train(scene: Scene, options: Options, found: dict[str, float]) -> None:
    """Train with short stages, and add to `found` how much memory that took."""
    config, stages = PRESETS[options.preset], {}
    for name, steps in (("coarse", options.coarse_steps), ("fine", options.fine_steps)):
        stage = getattr(config, name)
        stages[name] = replace(stage, steps=steps, grow_at=spread(steps, stage.grow_at)) if steps else stage

    def judge(*_: object) -> None:
        found["bytes_after_coarse"] = peak_bytes()

    fit_model(scene, replace(config, **stages), judge=judge)
    found["bytes_at_the_end"] = peak_bytes()


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
