"""What others published of their codecs: points of rate and distortion, to be drawn beside ours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Anchor:
    """A published point. A mean is one over the eight scenes of Synthetic-NeRF, and belongs to none of them."""

    name: str
    megabytes: float
    psnr: float
    is_mean: bool = False


def _per_scene(name: str, points: dict[str, tuple[float, float]]) -> dict[str, Anchor]:
    return {scene: Anchor(name, *point) for scene, point in points.items()}


PUBLISHED = (
    _per_scene(
        "masked wavelets",
        {
            "chair": (1.03, 34.14),
            "drums": (1.04, 25.53),
            "ficus": (1.06, 32.87),
            "hotdog": (0.55, 35.93),
            "lego": (0.83, 34.93),
            "materials": (1.04, 29.54),
            "mic": (0.58, 33.48),
            "ship": (0.80, 29.15),
        },
    ),
    _per_scene(
        "HAC++ (splats)",
        {
            "chair": (0.69, 33.90),
            "drums": (0.95, 26.17),
            "ficus": (0.68, 34.53),
            "hotdog": (0.47, 36.53),
            "lego": (0.84, 34.33),
            "materials": (0.91, 30.22),
            "mic": (0.46, 35.21),
            "ship": (1.36, 31.26),
        },
    ),
    _per_scene(
        "VQRF, run by others",
        {
            "drums": (0.94, 25.38),
            "ficus": (1.11, 32.71),
            "hotdog": (1.53, 36.49),
            "lego": (1.56, 34.28),
            "materials": (3.25, 29.27),
            "mic": (0.43, 33.12),
            "ship": (2.16, 29.15),
        },
    ),
)
"""Points of one scene each, at 800x800, in 10^6 bytes and dB: the lowest rate that each codec's authors give."""


PUBLISHED_MEANS = (
    Anchor("VQRF", 1.47, 31.77, is_mean=True),
    Anchor("CATRF", 0.448, 32.17, is_mean=True),
    Anchor("CATRF", 0.855, 32.90, is_mean=True),
    Anchor("CNC", 0.43, 33.19, is_mean=True),
    Anchor("HAC++", 0.794, 32.77, is_mean=True),
)


def anchors_of(scene: str) -> list[Anchor]:
    """What was published for a scene, and the means, where the scene is one of those behind them."""
    own = [points[scene] for points in PUBLISHED if scene in points]
    return [*own, *PUBLISHED_MEANS] if own else []
