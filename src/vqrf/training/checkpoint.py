"""What a long run keeps on disk of itself, so that one that was killed goes on and ends in the same bytes."""

from __future__ import annotations

import functools
import json
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrf.data.scene import Scene
from vqrf.fields.storage import Arrays, StorageError, load_arrays, save_arrays
from vqrf.training.workers import is_first

CHECKPOINT_FORMAT = "vqrf-checkpoint-3"

SHARE_OF_SAVES = 0.05
"""Share of a long run's time that goes to its checkpoints, at most: those of the largest fields are a gigabyte."""

WRITTEN_A_SECOND = 5e6
"""Bytes of checkpoints a second, in the mean, at most: flash memory wears out by what is written."""

Snapshot = tuple[Mapping[str, NDArray[Any]], dict[str, Any]]
"""What a checkpoint is to hold: arrays, and what is said in JSON."""

BY = "by"
"""Under which name a checkpoint says by what its steps were made."""


@functools.cache
def say_that_bits_differ(before: str | None, now: str) -> None:
    """Once, where the steps before were made by another back end, device or number of workers, if that is known."""
    if before is not None and before != now and is_first():
        print(f"vqrf: begun by {before}, goes on by {now}: it will not end in the bits of either alone", file=sys.stderr)


def fingerprint(scene: Scene, settings: Mapping[str, Any]) -> str:
    """A short name of the training views and settings: a checkpoint goes on only with the ones it began with."""
    said = [
        settings,
        scene.near,
        scene.far,
        scene.background,
        *([] if scene.space == "box" else [scene.space]),
        *(scene.contrast or ()),
    ]
    crc = zlib.crc32(json.dumps(said, sort_keys=True).encode())
    for view in scene.train:
        camera = view.camera
        numbers = [*camera.pose.ravel(), camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height]
        if camera.lens is not None:
            crc = zlib.crc32(repr(camera.lens).encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(view.image).data, zlib.crc32(np.array(numbers, np.float64).data, crc))
        for name, array in (("opacity", view.opacity), ("weight", view.weight)):
            if array is not None:
                crc = zlib.crc32(np.ascontiguousarray(array).data, zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


class Checkpoint:
    """A file that a long run writes now and then, and reads when it is started again.

    Args:
      path: the file; whoever keeps the result removes it then.
      fingerprint: from `fingerprint`; a checkpoint with another one is refused.
      seconds: between two saves, and more where a save takes longer than `SHARE_OF_SAVES` of that or writes more than
        `WRITTEN_A_SECOND`; 0 saves at every chance.
    """

    def __init__(self, path: Path, fingerprint: str, *, seconds: float = 30.0) -> None:
        self.path, self.fingerprint, self.seconds = path, fingerprint, seconds
        self._due = time.monotonic() + seconds

    def load(self) -> tuple[Arrays, dict[str, Any]] | None:
        """What was saved last, or None if nothing was.

        Raises:
          StorageError: the checkpoint is damaged, or belongs to other images or settings.
        """
        if not self.path.exists():
            return None
        arrays, header = load_arrays(self.path, CHECKPOINT_FORMAT)
        if header["fingerprint"] != self.fingerprint:
            raise StorageError(self.path, "belongs to other images or settings; give --overwrite to start afresh")
        return arrays, header["state"]

    def save_if_due(self, collect: Callable[[], Snapshot]) -> None:
        """Save what `collect` returns (arrays and JSON-able state) if the last save is long enough ago."""
        begun = time.monotonic()
        if begun >= self._due:
            self.save(*collect())
            ended, n_bytes = time.monotonic(), self.path.stat().st_size if self.path.exists() else 0
            pause = max(self.seconds, (ended - begun) / SHARE_OF_SAVES, n_bytes / WRITTEN_A_SECOND)
            self._due = ended + (self.seconds and pause)

    def save(self, arrays: Mapping[str, NDArray[Any]], state: Mapping[str, Any]) -> None:
        if not is_first():  # of several workers one writes
            return
        save_arrays(self.path, arrays, {"format": CHECKPOINT_FORMAT, "fingerprint": self.fingerprint, "state": state})

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
