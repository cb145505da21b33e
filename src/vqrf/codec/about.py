"""What a file says of itself to people: the object `about` of its metadata. FORMAT.md section 3, META.

All of it may be missing, and none of it matters to a decoder. It is text and numbers of others: whoever shows it takes it from
here, where each part is bounded, and one that is not as the format says does not count.
"""

from __future__ import annotations

import base64
import binascii
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from vqrf.geometry import Vector

Range = tuple[float, float]

KEY = "about"
TEXTS = ("title", "author", "licence", "description")
MAX_CHARACTERS = 300
MAX_POSTER_BYTES = 16384
MAX_POSTER_SIDE = 512
"""Pixels: so that a small file does not become a large picture."""
MAX_COORDINATE = 2.0**40
"""As of the box of what is drawn."""

_WEBP = (b"RIFF", b"WEBPVP8 ", b"\x9d\x01\x2a")
"""At bytes 0, 8 and 23 of a lossy WebP; the sides follow, 14 bits of two bytes each."""


@dataclass(frozen=True)
class FirstView:
    """Where a camera stands, and the point that it looks at and turns around, in the world.

    Raises:
      ValueError: both are one place, or too far off.
    """

    position: Vector
    target: Vector

    def __post_init__(self) -> None:
        _expect_coordinates("view", *self.position, *self.target)
        if math.dist(self.position, self.target) < 1 / MAX_COORDINATE:
            raise ValueError("view: stands where it looks")


@dataclass(frozen=True)
class About:
    """What a file says of itself.

    Attributes:
      title, author, licence, description: one line of text each, at most `MAX_CHARACTERS`; empty where it says nothing.
      up: what is up in the world; +z if it does not say.
      view: from where it is seen first.
      distance: how near and how far an orbit may go, in world units.
      pitch: how low and how high above the horizon it may go, in degrees.
      yaw: how far it may turn about what is up, from the first view to the right (negative) and to the left, in degrees.
      poster: a picture of the first view: a lossy WebP of at most `MAX_POSTER_BYTES`.

    Raises:
      ValueError: a part is not as the format says.
    """

    title: str = ""
    author: str = ""
    licence: str = ""
    description: str = ""
    up: Vector | None = None
    view: FirstView | None = None
    distance: Range | None = None
    pitch: Range | None = None
    yaw: Range | None = None
    poster: bytes | None = None

    def __post_init__(self) -> None:
        for name in TEXTS:
            _expect_line(name, getattr(self, name))
        if self.up is not None:
            _expect_coordinates("up", *self.up)
            if not math.hypot(*self.up) > 1e-6:
                raise ValueError("up: has no length")
        if self.distance is not None and not 0 < self.distance[0] <= self.distance[1] <= MAX_COORDINATE:
            raise ValueError(f"distance: expected the least above 0, then the most, got {self.distance}")
        if self.pitch is not None and not -90 <= self.pitch[0] <= self.pitch[1] <= 90:
            raise ValueError(f"pitch: expected the lowest and the highest in -90..90 degrees, got {self.pitch}")
        if self.yaw is not None and not -180 <= self.yaw[0] <= 0 <= self.yaw[1] <= 180:
            raise ValueError(f"yaw: expected the least in -180..0 and the most in 0..180 degrees, got {self.yaw}")
        if self.poster is not None:
            poster_sides(self.poster)

    def entry(self) -> dict[str, Any]:
        """As metadata has it; what is not said is not there."""
        tree: dict[str, Any] = {name: getattr(self, name) for name in TEXTS if getattr(self, name)}
        numbers = ("up", "distance", "pitch", "yaw")
        tree |= {name: list(value) for name in numbers if (value := getattr(self, name)) is not None}
        if self.view is not None:
            tree["view"] = {"position": list(self.view.position), "target": list(self.view.target)}
        if self.poster is not None:
            tree["poster"] = base64.b64encode(self.poster).decode()
        return tree

    def added_to(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Metadata with this in place of what it said of itself."""
        rest = {key: value for key, value in metadata.items() if key != KEY}
        entry = self.entry()
        return {**rest, KEY: entry} if entry else rest


def about_of(metadata: Mapping[str, Any]) -> About:
    """What metadata says, part by part: one that is wrong is as if it were not there. Safe for untrusted input.

    >>> found = about_of({"about": {"title": "A chair", "author": 7, "pitch": [0, 80]}})
    >>> found.title, found.author, found.pitch
    ('A chair', '', (0.0, 80.0))
    """
    tree = metadata.get(KEY)
    if not isinstance(tree, dict):
        return About()
    said: dict[str, Any] = {}
    for part in fields(About):
        try:
            value = _read(part.name, tree[part.name])
            About(**{part.name: value})
        except (ValueError, KeyError, TypeError):
            continue
        said[part.name] = value
    return About(**said)


def poster_sides(poster: bytes) -> tuple[int, int]:
    """Width and height of a poster, from its first bytes.

    Raises:
      ValueError: it is no lossy WebP, or larger than one may be.
    """
    riff, kind, start = _WEBP
    if len(poster) < 30 or poster[:4] != riff or poster[8:16] != kind or poster[23:26] != start:
        raise ValueError("poster: expected a lossy WebP")
    if len(poster) > MAX_POSTER_BYTES:
        raise ValueError(f"poster: has {len(poster)} bytes, the limit is {MAX_POSTER_BYTES}")
    width, height = (int.from_bytes(poster[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    if not 1 <= min(width, height) <= max(width, height) <= MAX_POSTER_SIDE:
        raise ValueError(f"poster: is {width}x{height}, the limit is {MAX_POSTER_SIDE}x{MAX_POSTER_SIDE}")
    return width, height


def _read(name: str, value: Any) -> Any:
    if name in TEXTS:
        return value if isinstance(value, str) else None
    if name == "poster":
        try:
            return base64.b64decode(value.encode("ascii"), validate=True)
        except (AttributeError, UnicodeEncodeError, binascii.Error):
            raise ValueError(name) from None
    if name == "view":
        return FirstView(_numbers(value["position"], 3), _numbers(value["target"], 3))
    return _numbers(value, 3 if name == "up" else 2)


def _numbers(value: Any, n: int) -> Any:
    """`n` numbers as a tuple."""
    if not isinstance(value, list) or len(value) != n or any(type(x) not in (int, float) for x in value):
        raise ValueError(f"expected {n} numbers")
    try:
        return tuple(map(float, value))
    except OverflowError:
        raise ValueError("expected numbers of 64 bits") from None


def _expect_line(name: str, text: str) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{name}: expected text")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{name}: has {len(text)} characters, the limit is {MAX_CHARACTERS}")
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text):
        raise ValueError(f"{name}: expected one line without control characters")


def _expect_coordinates(name: str, *values: float) -> None:
    if not all(abs(value) <= MAX_COORDINATE for value in values):
        raise ValueError(f"{name}: expected coordinates within 2^40 of 0")


NOTHING = About()
"""What a file says that says nothing."""
