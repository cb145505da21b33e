"""The verb `meta`: what a file says of itself to people, shown and changed; and the flags for it that `compress` has too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.table import Table
from rich.text import Text

from vqrf.cameras import Camera, Z, upright, yaw_of
from vqrf.cli.terminal import NO_LIMITS, LimitFlags, UsageError, named, one_line, print_json, print_whole, read_bytes, say
from vqrf.cli.view import expect_drawable
from vqrf.codec.about import NOTHING, TEXTS, About, FirstView, about_of, poster_sides
from vqrf.codec.bitstream import decode
from vqrf.codec.compressed import canonical_json
from vqrf.codec.container import with_section
from vqrf.codec.contents import metadata_of
from vqrf.fields.field import RadianceField, expand
from vqrf.fields.run import up_of
from vqrf.files import write_atomically
from vqrf.geometry import Vector
from vqrf.memory import decoding_budget
from vqrf.rendering.poster import first_view, poster_of, view_amid

LINK_NUMBERS = 6
"""Of the view in the address of a page: target, yaw, pitch, distance (`viewer/src/orbit.js`)."""


@dataclass(frozen=True)
class Saying:
    """What the file says about itself. An empty text, "", removes an entry.

    Attributes:
      title: title of the scene, which pages show.
      author: who made the scene.
      licence: terms on which others may use the scene, such as "CC BY 4.0".
      description: one sentence about the scene, which people see beside a link to its page.
    """

    title: str | None = None
    author: str | None = None
    licence: str | None = None
    description: str | None = None

    def about(self, before: About = NOTHING) -> About:
        """What the file says then.

        Raises:
          UsageError: it is more than may be said.
        """
        said = {name: value.strip() for name in TEXTS if (value := getattr(self, name)) is not None}
        return _checked(before, said)


@dataclass(frozen=True)
class Presenting(Saying):
    """What the file says about itself. An empty text, "", removes an entry.

    Attributes:
      poster: put a small picture of the scene into the file, of some 3 kB, which pages show at once.
      report: where to write the report page. Without it, beside the file, with the ending .report.html.
    """

    poster: bool = True
    report: Path | None = None


SayingFlags = Annotated[Saying, tyro.conf.arg(name="about"), tyro.conf.OmitArgPrefixes]
PresentingFlags = Annotated[Presenting, tyro.conf.arg(name="about"), tyro.conf.OmitArgPrefixes]
UNSAID = Saying()
SHOWN = Presenting()


@dataclass(frozen=True)
class Meta:
    """Show or change what a .vqrf file says about itself: title, author, first view. No other byte of the file changes."""

    scene: tyro.conf.Positional[Path]
    """A .vqrf file."""
    said: SayingFlags = UNSAID
    up: tuple[float, float, float] | None = None
    """Direction that is up in the scene; 0 0 1 if the file does not say."""
    view: str | None = None
    """First view: the six numbers after #view= in the address of the scene's page. "" removes it."""
    distance: tuple[float, float] | None = None
    """Smallest and largest distance that the camera may have, in world units."""
    pitch: tuple[float, float] | None = None
    """How low and how high the camera may go, in degrees above the horizon."""
    yaw: tuple[float, float] | None = None
    """How far the camera may turn from the first view to the right (negative) and to the left, in degrees."""
    poster: Literal["new", "none"] | None = None
    """new: draw the picture of the first view again. none: remove it."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON."""
    limits: LimitFlags = NO_LIMITS

    def run(self) -> None:
        data = read_bytes(self.scene)
        with named(self.scene):
            metadata = metadata_of(data)
        before = about_of(metadata)
        after = self._changed(before, metadata, data)
        if after != before:
            changed = after.added_to(metadata)
            with named(self.scene):
                data = with_section(data, "META", canonical_json(changed) if changed else b"")
            write_atomically(self.scene, data)
        if self.as_json:
            print_json({"about": in_short(after), "bytes": len(data)})
        elif after == NOTHING:
            say(False, f"{self.scene}: says nothing of itself")
        else:
            table = Table(show_header=False, box=None)
            for name, value in in_short(after).items():
                table.add_row(Text(name), Text(one_line(_in_words(value))))
            print_whole(table)

    def _changed(self, before: About, metadata: Mapping[str, Any], data: bytes) -> About:
        """What the file is to say."""
        numbers = {name: value for name in ("up", "distance", "pitch", "yaw") if (value := getattr(self, name)) is not None}
        after = _checked(self.said.about(before), numbers)
        training = metadata.get("training")
        up = up_of(after, training if isinstance(training, dict) else {})
        if self.view is not None:
            view = _view_of_link(self.view, up) if self.view else None
            yaw = after.yaw if self.yaw is not None else _yaw_from(after, view, up)
            if after.yaw is not None and yaw is None:
                say(self.as_json, f"{self.scene}: how far it turns counts from the first view, and is not said any more")
            after = _checked(after, {"view": view, "yaw": yaw})
        if self.poster == "none":
            after = replace(after, poster=None)
        if self.poster == "new":
            with named(self.scene):
                small = decode(data, max_bytes=decoding_budget())
                expect_drawable(small)
                after = presented(after, expand(small), up)
        if self.yaw is not None and after.view is None:
            raise UsageError("--yaw: counts from the first view, and the file has none: give --view, or --poster new")
        return after


def presented(about: About, field: RadianceField, up: Vector = Z, cameras: Sequence[Camera] = ()) -> About:
    """With a first view, where there is none, and a picture of it.

    Args:
      cameras: amid which people are to stay, where nothing is known of elsewhere; see `view_amid`.
    """
    amid = view_amid(cameras, up) if cameras else None
    if amid is not None and about.view in (None, amid.view):
        limits = {name: getattr(about, name) or getattr(amid, name) for name in ("distance", "pitch", "yaw")}
        about = replace(about, view=amid.view, **limits)
    view = about.view or first_view(field, up)
    return replace(about, view=view, up=about.up or (None if up == Z else up), poster=poster_of(field, view, up))


def in_short(about: About) -> dict[str, Any]:
    """As metadata has it, of the poster only how large it is."""
    facts = about.entry()
    if about.poster is not None:
        width, height = poster_sides(about.poster)
        facts["poster"] = {"width": width, "height": height, "bytes": len(about.poster)}
    return facts


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " ".join(map(_in_words, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _checked(about: About, changes: Mapping[str, Any]) -> About:
    try:
        return replace(about, **changes)
    except ValueError as error:
        raise UsageError(f"--{error}") from None


def _yaw_from(about: About, view: FirstView | None, up: Vector) -> tuple[float, float] | None:
    """The limits of `about` counted from another first view, in degrees; None where that is not between them."""
    if about.yaw is None or about.view is None or view is None:
        return None
    unit = np.array(up) / np.linalg.norm(up)
    new, old = (float(yaw_of(np.subtract(v.position, v.target), unit)) for v in (view, about.view))
    turn = (math.degrees(new - old) + 180) % 360 - 180
    low, high = about.yaw[0] - turn, about.yaw[1] - turn
    return (low, high) if -180 <= low <= 0 <= high <= 180 else None


def _view_of_link(text: str, up: Vector) -> FirstView:
    """The view that an address of a page names."""
    try:
        numbers = [float(number) for number in text.rpartition("view=")[2].replace("%2C", ",").split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != LINK_NUMBERS or not all(map(math.isfinite, numbers)):
        raise UsageError("--view: expected the six numbers that stand after #view= in the address of the page")
    (x, y, z), (yaw, pitch, distance) = numbers[:3], numbers[3:]
    length = math.hypot(*up)
    turn = upright([value / length for value in up])
    back = turn @ (math.cos(pitch) * math.cos(yaw), math.cos(pitch) * math.sin(yaw), math.sin(pitch))
    position = np.array([x, y, z]) + distance * back
    try:
        return FirstView((float(position[0]), float(position[1]), float(position[2])), (x, y, z))
    except ValueError as error:
        raise UsageError(f"--{error}") from None
