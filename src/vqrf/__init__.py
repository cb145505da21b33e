"""vqrf: volumetric radiance fields small enough to send, embed and keep.

Eight verbs: `load_scene`, `fit`, `compress`, `encode`, `decode`, `expand`, `render`, `evaluate`. Names are loaded when they
are first used, so that decoding, rendering and scoring never import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` gives, for type checkers and editors
    from vqrf.cameras import Camera as Camera
    from vqrf.codec.bitstream import decode as decode
    from vqrf.codec.bitstream import encode as encode
    from vqrf.codec.compressed import Compressed as Compressed
    from vqrf.codec.compressed import CompressedField as CompressedField
    from vqrf.codec.container import BitstreamError as BitstreamError
    from vqrf.codec.planes import PlanesField as PlanesField
    from vqrf.codec.pyramid import PyramidField as PyramidField
    from vqrf.compression.compact import CompactPreset as CompactPreset
    from vqrf.compression.goal import Goal as Goal
    from vqrf.compression.job import Job as Job
    from vqrf.compression.job import compress_file as compress_file
    from vqrf.compression.paper import PaperPreset as PaperPreset
    from vqrf.compression.presets import compress as compress
    from vqrf.data.builtin import built_in_scene as built_in_scene
    from vqrf.data.listing import SceneError as SceneError
    from vqrf.data.load import load_scene as load_scene
    from vqrf.data.scene import Scene as Scene
    from vqrf.data.scene import View as View
    from vqrf.fields.field import RadianceField as RadianceField
    from vqrf.fields.field import expand as expand
    from vqrf.geometry import Lattice as Lattice
    from vqrf.rendering.evaluate import Evaluation as Evaluation
    from vqrf.rendering.evaluate import evaluate as evaluate
    from vqrf.rendering.follow import Viewer as Viewer
    from vqrf.rendering.render import Image as Image
    from vqrf.rendering.render import render as render
    from vqrf.rendering.show import show as show
    from vqrf.training.stages import TrainConfig as TrainConfig
    from vqrf.training.train import fit as fit

__version__ = "0.1.0"

_HOMES = {
    "Camera": "cameras",
    "CompactPreset": "compression.compact",
    "Compressed": "codec.compressed",
    "CompressedField": "codec.compressed",
    "BitstreamError": "codec.container",
    "Evaluation": "rendering.evaluate",
    "Goal": "compression.goal",
    "Image": "rendering.render",
    "Job": "compression.job",
    "Lattice": "geometry",
    "PaperPreset": "compression.paper",
    "PlanesField": "codec.planes",
    "PyramidField": "codec.pyramid",
    "RadianceField": "fields.field",
    "Scene": "data.scene",
    "SceneError": "data.listing",
    "TrainConfig": "training.stages",
    "View": "data.scene",
    "Viewer": "rendering.follow",
    "built_in_scene": "data.builtin",
    "compress": "compression.presets",
    "compress_file": "compression.job",
    "decode": "codec.bitstream",
    "encode": "codec.bitstream",
    "evaluate": "rendering.evaluate",
    "expand": "fields.field",
    "fit": "training.train",
    "load_scene": "data.load",
    "render": "rendering.render",
    "show": "rendering.show",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return ["__version__", *__all__]
