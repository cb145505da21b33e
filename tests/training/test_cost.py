"""What a training is told to take is what it takes, or a little more."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_scene

from vqrf.kernels import LossWeights, select
from vqrf.training import cost, pace
from vqrf.training.cost import FOGGY, SHADED, estimate_seconds
from vqrf.training.stages import PLACE_SHADED, PRESETS

CHILD = """
import sys
from dataclasses import replace
from pathlib import Path
from tiny import TINY, tiny_scene
from vqrf.cli.terminal import Common, UsageError
from vqrf.cli.train import train_into
from vqrf.training.checkpoint import Checkpoint
from vqrf.training.cost import PROGRAM_BYTES, estimate_bytes
from vqrf.training.stages import Appearance, TrainConfig

def held(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))

Checkpoint.__init__.__kwdefaults__["seconds"] = 0.0  # it saves at every chance
fine = replace(TINY.fine, n_voxels=128**3, steps=32, grow_at=(1, 2, 3), rays_per_step=2048, appearance=Appearance())
scene, config = replace(tiny_scene(), contrast=(0.0, 0.0, 1.0)), TrainConfig(48, TINY.coarse, fine)
before = held("VmRSS")
try:
    train_into(Path(sys.argv[1]), scene, "tiny", config, {}, Common(quiet=True, threads=1, device="cpu"))
except UsageError:  # so short a training ends in nothing that could be seen
    pass
print(estimate_bytes(config, scene) - PROGRAM_BYTES, held("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_a_training_takes_the_memory_that_it_is_told_to_take_or_a_little_less(tmp_path: Path) -> None:
    """In a lattice that is looked at nearly everywhere; but for the program, which differs between versions of PyTorch."""
    paths = [str(Path(__file__).parents[1]), *(path for path in sys.path if path)]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "VQRF_WARP": "0"}
    words = [sys.executable, "-c", CHILD, str(tmp_path / "run")]
    said = subprocess.run(words, env=variables, capture_output=True, text=True, check=True).stdout
    told, taken = map(int, said.split())
    assert taken <= told <= 1.3 * taken, (told, taken)


def test_a_machine_half_as_fast_is_told_twice_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    for here in (1.5, 3.0):
        monkeypatch.setattr(cost, "pace", lambda here=here: here)
        told.append(estimate_seconds(PRESETS["standard"], tiny_scene(), 2))
    assert told[1] == pytest.approx(2 * told[0])


def test_what_tells_how_fast_a_machine_is_shades_as_many_samples_as_a_thing() -> None:
    volume, gradients = pace._tried()
    ray = np.float32([[0.1, 0.2, 1.5]]), np.float32([[0.0, 0.0, -1.0]])
    terms = select().render_gradients(volume, *ray, np.zeros((1, 3), np.float32), LossWeights(0.0, 0.0), gradients)
    assert 8 <= terms["n_shaded"] <= 12
    assert pace.pace() == pace.pace() > 0


def test_a_place_is_reckoned_by_what_its_steps_may_shade() -> None:
    scene = replace(tiny_scene(), contrast=(0.0, 0.0, 1.0))
    for size in ("quick", "standard"):
        config = PRESETS[size]
        thing, place = (estimate_seconds(config, replace(scene, contrast=contrast), 2) for contrast in (None, scene.contrast))
        assert place == pytest.approx(FOGGY * thing), "in a box it has all rays"
        in_front = config.in_space("front")
        limited = estimate_seconds(in_front, scene, 2)
        assert limited < estimate_seconds(replace(in_front, fine=replace(in_front.fine, shaded_per_step=None)), scene, 2)
        few = replace(in_front, fine=replace(in_front.fine, rays_per_step=64))
        assert estimate_seconds(few, scene, 2) == pytest.approx(limited * FOGGY * 64 / (PLACE_SHADED / SHADED))
