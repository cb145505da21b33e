"""What a dataset looks like before an hour is spent on it: how the cameras stand, how sharp and how bright the photos are.

Nothing here refuses anything: what is odd becomes a warning, in words that say what to do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vqrf.cameras import Camera
from vqrf.data.colmap import Observations
from vqrf.data.frames import sharpness
from vqrf.data.listing import Listing
from vqrf.data.placement import Vector
from vqrf.data.scene import Scene, View
from vqrf.geometry import Float64

FEW_VIEWS = 20
"""Training views below which a field has little to go by; Blender's scenes have 100, LLFF's about 20 of one side."""

NARROW = math.radians(50)
"""Angle in radians between the axes of the outermost cameras, below which a thing is seen from one side, whichever that is."""

HALF = math.pi
"""Angle in radians about the middle without a camera, from which on half of the thing is not seen at all."""

BLURRED = 0.35
"""Sharpness below this share of that of the photos around it: a photo that moved, and not one that shows less."""

N_AROUND = 6
"""Of a photo: with how many of the nearest it is compared."""

BURNT_LEVEL, BURNT_SHARE = 253, 0.1
"""A channel of so much is burnt out; a photo with this share of such pixels more than usual is overexposed."""

STOP = 0.5
"""Factors of two in brightness from the photos around it, from which on a photo was exposed differently."""

POINTS_OFF, POINTS_WORSE = 2.0, 3.0
"""Pixels that the points of a model may be off in the middle of all photos; and how many times those around a photo it may be,
beyond that."""

FAR_OFF = 5.0
"""A camera this many times as far from the middle of all as most are stands where none was."""

WIDE_GAP = math.radians(110)
"""Between neighbouring cameras about the middle, from which on what is there is guessed."""

DARK = 0.02
"""Mean brightness of a photo that shows nothing."""

NARROWEST, WIDEST = 0.08, 6.0
"""Diagonal of the image in focal lengths: of a telephoto lens of 500 mm, and of 140 degrees and more."""

PARALLEL = 1e-4
"""Of the axes' spread: below it they meet nowhere."""

GRAY = np.array([0.299, 0.587, 0.114])
"""Brightness of red, green and blue (ITU-R BT.601)."""

NAMES_SHOWN = 5


@dataclass(frozen=True)
class PhotoFacts:
    """One photo as `check_scene` judged it.

    Attributes:
      name, split: as of the view.
      width, height: pixels, as it is trained on.
      sharpness: variance of the Laplacian, levels squared; only photos of the same thing may be compared.
      burnt: share of pixels that are looked at with a channel of `BURNT_LEVEL` or more, 0..1.
      brightness: mean over rgb of pixels that are looked at, 0..1.
      looked_at: share of its pixels that count, or that are not transparent, 0..1.
      off: median distance in pixels, at the size the model is of, between where it shows points of the model and where its
        camera says; None where there are none.
      doubts: what is odd about it, in a word each.
    """

    name: str
    split: str
    width: int
    height: int
    sharpness: float
    burnt: float
    brightness: float
    looked_at: float
    off: float | None = None
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stand:
    """How cameras stand.

    Attributes:
      middle: [3] the place that they look at: nearest to all of their axes.
      distance: median world distance from it.
      spread: largest angle between the axes of two cameras, radians.
      gap: largest angle about `up` without a camera, radians.
      lowest, highest: angles of the lowest and the highest camera above the horizon of the middle, radians.
    """

    middle: Vector
    distance: float
    spread: float
    gap: float
    lowest: float
    highest: float


@dataclass(frozen=True)
class Check:
    """What `check_scene` found.

    Attributes:
      photos: of both splits, those to train on first.
      warnings: for the user, the gravest first.
    """

    photos: tuple[PhotoFacts, ...]
    stand: Stand
    warnings: tuple[str, ...]


def check_scene(scene: Scene, off: Mapping[str, float]) -> Check:
    """Look at the views of a scene, for which small ones will do, and at their cameras.

    Args:
      off: what `reprojection_errors` says, by the views' names.

    Raises:
      ValueError: the scene has no views.
    """
    views = [(split, view) for split in ("train", "test") for view in getattr(scene, split)]
    if not views:
        raise ValueError("check_scene: the scene has no views")
    cameras = [view.camera for _, view in views]
    stand = stand_of(cameras, scene.up)
    photos = [replace(_judge(split, view), off=off.get(view.name)) for split, view in views]
    photos = [_compare(photo, [photos[j] for j in around]) for photo, around in zip(photos, _around(cameras), strict=True)]
    return Check(
        tuple(photos),
        stand,
        (*_doubts_about_cameras(scene, cameras, stand), *_doubts_about_points(photos), *_doubts_about_photos(photos)),
    )


def reprojection_errors(listing: Listing, observations: Iterable[Observations]) -> dict[str, float]:
    """How far each photo's points of the model are from where its camera shows them, by the photo's name: medians in pixels, at
    the size that the model is of. Photos without points are left out; inf where the camera does not even see them."""
    seen = {observed.file: observed for observed in observations}
    errors = {}
    for shot in listing.shots:
        observed = seen.get(shot.file)
        if observed is not None and shot.optics.size is not None:
            camera = shot.optics.camera(shot.pose, shot.optics.size)
            column, row = camera.project(camera.local(observed.points))
            apart = np.hypot(column - observed.places[:, 0], row - observed.places[:, 1])
            errors[shot.name] = float(np.median(np.nan_to_num(apart, nan=np.inf)))
    return errors


def stand_of(cameras: Sequence[Camera], up: Vector) -> Stand:
    """How cameras stand around what they look at; `up` is a unit vector."""
    places = np.array([camera.pose[:3, 3] for camera in cameras])
    axes = np.array([-camera.pose[:3, 2] for camera in cameras])
    upward = np.array(up)
    middle = _meeting_point(places, axes)
    away = places - middle
    distance = np.linalg.norm(away, axis=-1)
    directions = away / np.maximum(distance, 1e-12)[:, None]
    height = np.arcsin(np.clip(directions @ upward, -1, 1))
    across = np.cross(upward, np.eye(3)[np.argmin(np.abs(upward))])  # of any length: angles do not mind
    turns = np.sort(np.arctan2(directions @ np.cross(upward, across), directions @ across))
    gaps = np.diff(np.append(turns, turns[0] + 2 * np.pi))
    return Stand(
        middle=_triple(middle),
        distance=float(np.median(distance)),
        spread=float(np.arccos(np.clip((axes @ axes.T).min(), -1, 1))),
        gap=float(gaps.max()),
        lowest=float(height.min()),
        highest=float(height.max()),
    )


def _meeting_point(places: Float64, axes: Float64) -> Float64:
    """[3] the point nearest to all axes, each a place [N,3] and a unit direction [N,3]; where they are parallel, the point
    before them all that is as far as they are apart."""
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    matrix, apart = across.mean(0), float(np.linalg.norm(places - places.mean(0), axis=-1).mean())
    if np.linalg.eigvalsh(matrix)[0] < PARALLEL:
        far: Float64 = places.mean(0) + axes.mean(0) * (apart or 1.0)
        return far
    met: Float64 = np.linalg.solve(matrix, (across @ places[:, :, None]).mean(0)[:, 0])
    return met


def _judge(split: str, view: View) -> PhotoFacts:
    """What the pixels of one view say."""
    counts = np.ones(view.image.shape[:2], bool)
    for mask in (view.weight, view.opacity):
        counts &= True if mask is None else mask > 127
    pixels = view.image[counts]
    gray = (view.image @ GRAY).astype(np.uint8)
    return PhotoFacts(
        name=view.name,
        split=split,
        width=view.camera.width,
        height=view.camera.height,
        sharpness=sharpness(gray),
        burnt=float((pixels.max(-1) >= BURNT_LEVEL).mean()) if len(pixels) else 0.0,
        brightness=float(pixels.mean() / 255) if len(pixels) else 0.0,
        looked_at=float(counts.mean()),
    )


def _around(cameras: Sequence[Camera]) -> list[list[int]]:
    """For each camera, the numbers of the `N_AROUND` others that look most alike: from near, and the same way."""
    places = np.array([camera.pose[:3, 3] for camera in cameras])
    axes = np.array([camera.pose[:3, 2] for camera in cameras])
    size = max(float(np.linalg.norm(places - places.mean(0), axis=-1).mean()), 1e-12)
    found = []
    for place, axis in zip(places, axes, strict=True):
        apart = np.linalg.norm(places - place, axis=-1) / size + 1 - axes @ axis
        found.append(np.argsort(apart, kind="stable")[1 : N_AROUND + 1].tolist())
    return found


def _compare(photo: PhotoFacts, around: Sequence[PhotoFacts]) -> PhotoFacts:
    """The photo with what is odd about it beside those that look most alike."""
    doubts = []
    usual = float(np.median([other.off for other in around if other.off is not None] or [0.0]))
    if photo.off is not None and photo.off > POINTS_OFF + POINTS_WORSE * usual:
        doubts.append("off its points")
    if not photo.looked_at:
        doubts.append("all masked")
    elif photo.brightness < DARK:
        doubts.append("black")
    elif around:
        if photo.sharpness < BLURRED * np.median([other.sharpness for other in around]):
            doubts.append("blurred")
        if photo.burnt > BURNT_SHARE + np.median([other.burnt for other in around]):
            doubts.append("overexposed")
        stops = math.log2(photo.brightness / max(float(np.median([other.brightness for other in around])), 1e-3))
        if abs(stops) > STOP:
            doubts.append(f"{stops:+.1f} stops of light")
    return replace(photo, doubts=tuple(doubts))


def _doubts_about_cameras(scene: Scene, cameras: Sequence[Camera], stand: Stand) -> list[str]:
    doubts = []
    n_train, n_test = len(scene.train), len(scene.test)
    if n_train < FEW_VIEWS:
        doubts.append(f"few photos: {n_train} to train on; from fewer than {FEW_VIEWS} a field shows little but the photos")
    if not n_test:
        doubts.append("no photos are held out: the field will have no score")
    degrees = {name: round(math.degrees(getattr(stand, name))) for name in ("spread", "gap", "lowest", "highest")}
    if stand.spread < NARROW or stand.gap > HALF:
        doubts.append(f"all cameras are on one side, within {degrees['spread']} degrees: what is behind will be guessed")
    elif stand.gap > WIDE_GAP:
        doubts.append(f"no camera stands in {degrees['gap']} degrees of the circle: from there the thing will be guessed")
    places = np.array([camera.pose[:3, 3] for camera in cameras])
    distance = np.linalg.norm(places - np.median(places, axis=0), axis=-1)
    far = np.flatnonzero(distance > FAR_OFF * max(float(np.median(distance)), 1e-12))
    names = [view.name for view in (*scene.train, *scene.test)]
    if len(far):
        doubts.append(f"{_named(names[i] for i in far)} stand far off: their poses may be wrong")
    middle = np.array(stand.middle)[None]
    unseeing = [name for name, camera in zip(names, cameras, strict=True) if not _sees(camera, middle)]
    if unseeing and stand.spread >= NARROW:
        doubts.append(f"{_named(unseeing)} do not see what the others look at: poses or axes may be wrong")
    lens = sorted({round(math.hypot(c.width, c.height) / math.sqrt(c.fx * c.fy), 3) for c in cameras})
    if lens[0] < NARROWEST or lens[-1] > WIDEST:
        doubts.append("the focal length is none that a camera has: it may be of photos of another size")
    return doubts


def _doubts_about_points(photos: Sequence[PhotoFacts]) -> list[str]:
    """What the points of the model say of all of it; single photos have a doubt of their own."""
    off = [photo.off for photo in photos if photo.off is not None]
    if not off or np.median(off) <= POINTS_OFF:
        return []
    return [f"the points of the model miss their photos by {np.median(off):.1f} pixels: lens or photos are of another model"]


def _doubts_about_photos(photos: Sequence[PhotoFacts]) -> list[str]:
    """One line for each kind of doubt, with the photos that give it."""
    by_kind: dict[str, list[str]] = {}
    for photo in photos:
        for doubt in photo.doubts:
            by_kind.setdefault("of another brightness" if "stops" in doubt else doubt, []).append(photo.name)
    advice = {
        "all masked": "their masks may be inverted",
        "off its points": "their poses may be wrong",
        "blurred": "leave them out",
        "overexposed": "what is burnt out has no colour",
        "of another brightness": "train with --exposure, or leave them out",
    }
    lines = []
    for kind, names in by_kind.items():
        line = f"{len(names)} photos are {kind}: {_named(names)}" if len(names) > 1 else f"{names[0]} is {kind}"
        lines.append(line + (f"; {advice[kind]}" if kind in advice else ""))
    return lines


def _sees(camera: Camera, point: Float64) -> bool:
    column, row = camera.project(camera.local(point))
    return bool(0 <= column[0] <= camera.width and 0 <= row[0] <= camera.height)  # nan is neither


def _named(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:NAMES_SHOWN]) + (f" and {len(listed) - NAMES_SHOWN} more" if len(listed) > NAMES_SHOWN else "")


def _triple(vector: Float64) -> Vector:
    x, y, z = vector.tolist()
    return x, y, z
