"""vqrf: volumetric radiance fields small enough to send, embed and keep.

Eight verbs: `load_scene`, `fit`, `compress`, `encode`, `decode`, `expand`, `render`, `evaluate`. Names are loaded when they
are first used, so that decoding, rendering and scoring never import torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Camera": "geometry",
    "CompressConfig": "compress",
    "CompressedField": "compressed",
    "BitstreamError": "bitstream",
    "Image": "render",
    "Lattice": "geometry",
    "PyramidField": "pyramid",
    "RadianceField": "field",
    "RateConfig": "rate",
    "Scene": "scene",
    "SceneError": "scene",
    "TrainConfig": "train",
    "View": "scene",
    "built_in_scene": "builtin",
    "compress": "compress",
    "compress_pyramid": "rate",
    "decode": "bitstream",
    "encode": "bitstream",
    "evaluate": "evaluate",
    "expand": "field",
    "fit": "train",
    "load_scene": "scene",
    "render": "render",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """The package, in which a room never takes the place of the verb it is named after.

    Importing `vqrf.render` would bind the room to `vqrf.render`; users mean the function. Rooms stay importable with
    `from vqrf.render import ...`.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
