"""Another field as a source of training rays: distillation without photos in between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vqrf.cameras import Camera
from vqrf.data.rays import PixelSource
from vqrf.fields.field import RadianceField
from vqrf.geometry import Float32
from vqrf.kernels import select


class Teacher(PixelSource):
    """What a field looks like, as a `RaySource`: its colours and opacities where a ray asks for them, never rounded to bytes.

    Args:
      field: the teacher, on the background that the student has too.
      cameras: whose pixels are asked for, at least one.
      patch: as of `PixelSource`.

    Deterministic. Nothing is rendered before it is asked for.
    """

    def __init__(self, field: RadianceField, cameras: Sequence[Camera], *, patch: int | None = None) -> None:
        super().__init__(cameras, patch=patch)
        self._volume = field.volume()

    def look_up(self, pixels: NDArray[np.int64], origins: Float32, directions: Float32) -> tuple[Float32, Float32 | None]:
        """Targets [N,4]; all rays count alike."""
        rgb, background_weight, _ = select().render_rays(self._volume, origins, directions)
        return np.concatenate([rgb, 1 - background_weight[:, None]], 1), None
