"""What a user asks of a compression, in words that need no PyTorch to be read: a preset, a profile, a goal."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from vqrf.memory import parse_bytes

PresetName = Literal["compact", "paper", "demo", "planes"]

Profile = Literal["exact", "web"]
"""Whom a file is for: `exact` keeps the field's own colours, `web` those that a browser shades fast (`compression.web`)."""

TunedFor = Literal["psnr", "perceptual"]
"""What distortion means to a tuning: the squared error of pixels, or also what eyes see (`vqrf.training.patches`)."""


@dataclass(frozen=True)
class Goal:
    """What the file should be, instead of settings. Give at most one of these.

    Attributes:
      quality: 0 to 100 on the preset's scale of quality; the preset's own settings are at 60.
      target_size: size of the file, such as 1MB or 500kB; 95 to 100 % of it are used.
      max_drop: how many dB the file may lose against the trained field.
      target_psnr: PSNR that the file should reach, in dB.
    """

    quality: float | None = None
    target_size: str | None = None
    max_drop: float | None = None
    target_psnr: float | None = None

    @property
    def is_searched(self) -> bool:
        return any(value is not None for value in (self.target_size, self.max_drop, self.target_psnr))

    def n_bytes(self) -> int:
        """The target size.

        Raises:
          ValueError: it is no size.
        """
        return parse_bytes(self.target_size or "")

    def check(self) -> None:
        """Refuse two goals, or one that cannot be.

        Raises:
          ValueError: which, in the words of the command line.
        """
        given = [name for name, value in asdict(self).items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"expected one of --{' and --'.join(given).replace('_', '-')}, not both")
        if self.target_size is not None:
            self.n_bytes()
        decibels = (self.max_drop or 0, self.target_psnr or 1)
        if not all(map(math.isfinite, decibels)) or decibels[1] <= 0:
            raise ValueError("--max-drop and --target-psnr: expected dB")


NO_GOAL = Goal()
"""The settings as they are."""


def is_unfinished(out: Path) -> bool:
    """Whether a job may have been killed after it wrote this file."""
    return out.is_file() and out.with_name(f"{out.name}.unfinished").is_file()
