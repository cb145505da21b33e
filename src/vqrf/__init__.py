"""vqrf: volumetric radiance fields small enough to send, embed and keep.

Eight verbs: `load_scene`, `fit`, `compress`, `encode`, `decode`, `expand`, `render`, `evaluate`. Names are loaded when they
are first used, so that decoding, rendering and scoring never import torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Camera": "geometry",
    "CompressConfig": "compression.paper",
    "CompressedField": "codec.compressed",
    "BitstreamError": "codec.container",
    "Image": "rendering.render",
    "Lattice": "geometry",
    "PyramidField": "codec.pyramid",
    "RadianceField": "fields.field",
    "RateConfig": "compression.compact",
    "Scene": "data.scene",
    "SceneError": "data.listing",
    "TrainConfig": "training.stages",
    "View": "data.scene",
    "built_in_scene": "data.builtin",
    "compress": "compression.paper",
    "compress_pyramid": "compression.compact",
    "decode": "codec.bitstream",
    "encode": "codec.bitstream",
    "evaluate": "rendering.evaluate",
    "expand": "fields.field",
    "fit": "training.train",
    "load_scene": "data.load",
    "render": "rendering.render",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
