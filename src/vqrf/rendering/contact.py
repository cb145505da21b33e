"""The contact sheet of a dataset: where its cameras stand, what its photos are like, and what is odd, on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from vqrf.cameras import Camera
from vqrf.data.check import Check, PhotoFacts
from vqrf.data.images import Bytes
from vqrf.data.listing import Box
from vqrf.data.placement import Vector
from vqrf.data.scene import Scene, View
from vqrf.files import write_atomically
from vqrf.geometry import Float64
from vqrf.rendering.html import MAX_IMAGE_BYTES, data_uri, page_of, table_of

THUMBNAIL = 160
"""Pixels of a thumbnail's longer side, or up to twice as many."""

MAX_THUMBNAILS = 120
"""On a page: photos with a doubt first, then an even choice of the others."""

MOST_POINTS = (10, 90)
"""Percentiles of points, on each axis, that a drawing makes room for."""

MAX_POINTS = 3000
"""Points of a model that are drawn."""

SIDE, MARGIN = 360, 14
"""Of a drawing, in its own units."""

FRUSTUM = 0.1
"""How long a camera is drawn, of its distance from the middle."""

HIDDEN = np.array([214.0, 92.0, 158.0])
"""The colour of what is masked."""


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What is drawn beside the cameras.

    Attributes:
      box: that the field is looked for in, None where it is not known.
      points: [N,3] places on surfaces, None where the dataset has none.
    """

    box: Box | None = None
    points: Float64 | None = None


def write_contact_sheet(
    path: str | Path, scene: Scene, check: Check, surroundings: Surroundings, facts: Mapping[str, object]
) -> None:
    """Write the page.

    Args:
      path: the HTML file; written atomically.
      scene: at the size at which it was checked.
      facts: about the whole, for a table.

    Raises:
      OSError: the file cannot be written.
    """
    title = f"Check of {scene.name}"
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in check.warnings)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<ul class="warnings">{warnings}</ul>' if warnings else '<p class="note">Nothing is odd.</p>',
        table_of(facts),
        "<section><h2>Cameras</h2>" + _legend(surroundings) + _drawings(scene, check, surroundings) + "</section>",
        "<section><h2>Photos</h2>" + _thumbnails(scene, check) + "</section>",
    ]
    write_atomically(path, page_of(title, parts))


def frame_of(up: Vector) -> Float64:
    """[3,3] rows: right, away and up of the drawings, a rotation."""
    upward = np.array(up)
    right = np.eye(3)[0] if abs(up[0]) < 0.9 else np.eye(3)[1]
    right = right - (right @ upward) * upward
    right /= np.linalg.norm(right)
    frame: Float64 = np.stack([right, np.cross(upward, right), upward])
    return frame


def _legend(surroundings: Surroundings) -> str:
    drawn = ["<span><b class='train'>▲</b> to train on</span>", "<span><b class='test'>▲</b> held out</span>"]
    drawn.append("<span><b class='doubt'>▲</b> odd</span>")
    drawn += ["<span><b class='box'>□</b> box</span>"] if surroundings.box is not None else []
    drawn += ["<span><b class='point'>·</b> points of the model</span>"] if surroundings.points is not None else []
    return f'<div class="legend">{" ".join(drawn)}</div>'


def _drawings(scene: Scene, check: Check, surroundings: Surroundings) -> str:
    """The cameras from above, from the front and from the right, all at one scale."""
    frame = frame_of(scene.up)
    cameras = [view.camera for view in (*scene.train, *scene.test)]
    lines = np.stack([_frustum(camera, FRUSTUM * check.stand.distance) for camera in cameras])
    box = None if surroundings.box is None else _edges(*surroundings.box)
    points = surroundings.points
    if points is not None:
        points = points[:: max(len(points) // MAX_POINTS, 1)]
    middle, reach = _extent([lines.reshape(-1, 3), np.array([check.stand.middle])], points, frame)
    drawings = []
    for name, across, along in (("from above", 0, 1), ("from the front", 0, 2), ("from the right", 1, 2)):
        plane = frame[[across, along]]

        def place(at: Float64, plane: Float64 = plane) -> Float64:
            flat: Float64 = (at - middle) @ plane.T / reach * (SIDE / 2 - MARGIN)
            return np.add(SIDE / 2, flat * [1, -1])

        drawn = "" if points is None else _dots(place(points))
        drawn += "" if box is None else "".join(_line(place(edge), "box") for edge in box)
        drawn += "".join(
            _line(place(corners), "doubt" if photo.doubts else photo.split)
            for photo, corners in zip(check.photos, lines, strict=True)
        )
        label = f"cameras {name}"
        drawings.append(
            f'<figure><svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{label}">{drawn}</svg>'
            f"<figcaption>{label}</figcaption></figure>"
        )
    return f'<div class="drawings">{"".join(drawings)}</div>'


def _extent(always: Sequence[Float64], points: Float64 | None, frame: Float64) -> tuple[Float64, float]:
    """The middle [3] of what is drawn and how far it reaches on any axis: of all that is always in view, and of most points."""
    turned = np.concatenate(always) @ frame.T
    ends = [turned.min(0), turned.max(0)]
    if points is not None:
        ends += list(np.percentile(points @ frame.T, MOST_POINTS, axis=0))
    lo, hi = np.min(ends, 0), np.max(ends, 0)
    return (lo + hi) / 2 @ frame, float((hi - lo).max()) / 2 * 1.05 or 1.0


def _frustum(camera: Camera, length: float) -> Float64:
    """[12,3] one stroke that draws the pyramid of what a camera sees."""
    corners = np.array([0, camera.width - 1, camera.width * camera.height - 1, camera.width * (camera.height - 1)])
    origins, directions = (array.astype(np.float64) for array in camera.rays(corners))
    eye, (a, b, c, d) = origins[0], origins + length * directions
    return np.stack([eye, a, b, eye, b, c, eye, c, d, eye, d, a])


def _edges(lo: Float64, hi: Float64) -> Float64:
    """[12,2,3] the edges of a box."""
    corners = np.array([[(lo, hi)[bit][axis] for axis, bit in enumerate(bits)] for bits in np.ndindex(2, 2, 2)])
    pairs = [(i, j) for i in range(8) for j in range(i + 1, 8) if (i ^ j).bit_count() == 1]
    return np.stack([corners[list(pair)] for pair in pairs])


def _line(places: Float64, kind: str) -> str:
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'


def _dots(places: Float64) -> str:
    inside = places[((places > 0) & (places < SIDE)).all(-1)]
    return f'<path class="point" d="{"".join(f"M{x:.1f} {y:.1f}h1" for x, y in inside)}"/>'


def _thumbnails(scene: Scene, check: Check) -> str:
    views = dict(zip(check.photos, (*scene.train, *scene.test), strict=True))
    shown = _choose(check.photos)
    each = MAX_IMAGE_BYTES // max(len(shown), 1)
    figures = "".join(_thumbnail(photo, views[photo], each) for photo in shown)
    left = len(check.photos) - len(shown)
    note = f'<p class="note">{left} more are not shown.</p>' if left else ""
    return f'<div class="sheet">{figures}</div>{note}'


def _choose(photos: Sequence[PhotoFacts]) -> list[PhotoFacts]:
    """Those with a doubt, then an even choice; all in their order."""
    odd = [i for i, photo in enumerate(photos) if photo.doubts][:MAX_THUMBNAILS]
    rest = [i for i in range(len(photos)) if i not in set(odd)]
    n = min(MAX_THUMBNAILS - len(odd), len(rest))
    return [photos[i] for i in sorted([*odd, *(rest[k * len(rest) // n] for k in range(n))])]


def _thumbnail(photo: PhotoFacts, view: View, most: int) -> str:
    image = thumbnail_of(view)
    doubts = f'<b class="doubt">{escape(", ".join(photo.doubts))}</b> ' if photo.doubts else ""
    note = "" if photo.split == "train" else "held out, "
    off = "" if photo.off is None else f", {photo.off:.1f} px off"
    size = f'width="{image.shape[1]}" height="{image.shape[0]}"'
    return (
        f'<figure class="{"odd" if photo.doubts else "fine"}"><img src="{data_uri(image, most)}" {size} '
        f'alt="{escape(photo.name)}"><figcaption><div>{escape(photo.name)}</div>{doubts}'
        f"<span>{note}sharpness {photo.sharpness:.0f}{off}</span></figcaption></figure>"
    )


def thumbnail_of(view: View) -> Bytes:
    """The photo made small, [H,W,3] uint8; what does not count, or is transparent, is tinted."""
    height, width = view.image.shape[:2]
    n = max(max(height, width) // THUMBNAIL, 1)
    colors = view.image.astype(np.float64)
    for mask in (view.weight, view.opacity):
        if mask is not None:
            seen = 0.25 + 0.75 * mask[..., None] / 255
            colors = colors * seen + HIDDEN * (1 - seen)
    blocks = colors[: height // n * n, : width // n * n].reshape(height // n, n, width // n, n, 3)
    small: Bytes = np.rint(blocks.mean((1, 3))).astype(np.uint8)
    return small
