"""The first view of a field, and a small picture of it: what is seen of a scene before any of it is decoded.

The viewer begins where the file says, and there as here the shorter side of the picture sees `FOV`. So a square poster in the
middle of a window lies where the scene will be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vqrf.cameras import Camera, Z, upright, yaw_of
from vqrf.codec.about import MAX_POSTER_BYTES, About, FirstView
from vqrf.codec.compressed import Compressed
from vqrf.data.images import averaged_colors, bytes_from_colors
from vqrf.data.placement import look_of
from vqrf.fields.field import Layers, RadianceField
from vqrf.geometry import Float64, Front, Unbounded, Vector
from vqrf.rendering.html import encoded
from vqrf.rendering.render import render

FOV = math.radians(40)
"""The angle that the shorter side of the picture sees."""

YAW, PITCH = -0.9, 0.45
"""From where a field is seen first, in radians; the viewer's too (`viewer/src/orbit.js`)."""
FILLED = 0.92
"""Of the picture's side, what is there fills at most so much."""
ASTRAY = 0.01
"""Share of the occupied cells at each end of an axis that the first view does not care for."""

AMID = 0.8
"""How far from the middle of a place without bounds a camera stands of which nothing else is known, by half of its cube: the
farthest camera stood on that, or at 1 / 0.7 of it (`vqrf.data.scene.unbounded_bounds`)."""

DIGITS = 6
"""Of the places of a first view, by how far one is from the other: a file needs no more."""

NEARER, FARTHER, TILT = 0.5, 1.25, 10.0
"""How far beyond the photos an orbit goes: shares of their distances, and degrees."""

STEEP = 0.9
"""Sine of a pitch, 64 degrees, beyond which a camera is on no side."""

OPEN_SIDE = 90.0
"""Degrees: where photos leave so much of a circle out, an orbit does so too."""

TINY = 1e-30
"""World units: no first view is so near."""

POSTER_SIDE = 192
SAMPLE_WORK = 500
"""Products that take as long as a sample without its network, or as a layer besides its own products."""
TILE = 16
"""Inputs, and outputs, of a layer that are multiplied at once, so a side of a layer counts as a whole number of them."""
MAX_POSTER_WORK = 3.6e11
"""Products, of some seconds. Ship, with a fifth of its cells, may need 3.5e11 by that, and needs a quarter."""
MAX_FIELD_BYTES = 1 << 30
POSTER_BYTES = 3000
"""What a poster is to take; no more than `MAX_POSTER_BYTES`."""
QUALITIES = (80, 70, 60, 50, 40, 30, 20)


def first_view(field: RadianceField, up: Vector = Z) -> FirstView:
    """A view that has all of a field in it, whatever way it is turned about `up`; a few cells that are astray do not count.

    Of what cameras saw from one side, the view from amid them; of a place without bounds, one from within the cube that held
    them.

    Raises:
      ValueError: the field is so large that a camera before it would be too far off.
    """
    space, box = field.lattice.space, _bounds(field)
    if isinstance(space, Front) and np.isfinite(space.eye).all():
        return _rounded(space.eye, field.lattice.world_from_index(box.mean(0)))
    if isinstance(space, Unbounded):
        return _rounded(space.centre + AMID * space.half * _away(up), space.centre)
    return _view_of(field.lattice.world_from_index(box), up)


def view_amid(cameras: Sequence[Camera], up: Vector = Z) -> About | None:
    """Where to begin, and how far people may go, in a place of which photos show all that there is, and nothing from elsewhere.

    The view is that of the camera amid the others, towards what they look at. An orbit may come half as near as the nearest, a
    quarter farther than the farthest, and 10 degrees lower and higher than any. If the cameras leave a side of the place out,
    it turns at most 10 degrees farther than they do.

    Returns:
      An `About` of `view`, `distance`, `pitch` and, with such a side, `yaw`; None where the cameras look at no one place, or it
      is too far off.
    """
    poses = np.stack([camera.pose for camera in cameras])
    looks = look_of(poses)
    if not looks.is_at_one:
        return None
    away = poses[:, :3, 3] - looks.centre
    distances = np.linalg.norm(away, axis=-1)
    back = away / distances[:, None]
    pitches = np.degrees(np.arcsin(np.clip(back @ np.array(up) / np.linalg.norm(up), -1, 1)))
    amid, unit = int((back @ back.mean(0)).argmax()), np.array(up) / np.linalg.norm(up)
    yaws = _yaws(back, amid, unit)
    if yaws is not None and max(-yaws[0], yaws[1]) > 180:  # most photos are from near an end: begin at the middle
        middle = float(yaw_of(back[amid], unit)) + math.radians(sum(yaws) / 2)
        amid = int(np.cos(yaw_of(back, unit) - middle).argmax())
        yaws = _yaws(back, amid, unit)
    try:
        return About(
            view=_rounded(poses[amid, :3, 3], looks.centre),
            distance=(NEARER * float(distances.min()), FARTHER * float(distances.max())),
            pitch=(max(float(pitches.min()) - TILT, -90.0), min(float(pitches.max()) + TILT, 90.0)),
            yaw=None if yaws is None else (max(yaws[0], -180.0), min(yaws[1], 180.0)),
        )
    except ValueError:
        return None


def _yaws(back: Float64, amid: int, up: Float64) -> tuple[float, float] | None:
    """How far cameras, by their directions back [N,3], stand from the one amid them, in degrees about `up`, and `TILT` more.

    None if they are all around. Those that look steeply down or up count for no side, unless all do.
    """
    turns = np.degrees(yaw_of(back, up))
    steep = np.abs(back @ up) > STEEP
    turns = np.append(np.sort((turns[~steep | steep.all()] - turns[amid]) % 360.0), 360.0)
    gaps = np.diff(turns)
    widest = int(gaps.argmax())
    if gaps[widest] < OPEN_SIDE:
        return None
    left, right = float(turns[widest]), float(turns[widest + 1]) - 360.0
    return right - TILT, left + TILT


def camera_of(view: FirstView, side: tuple[int, int], up: Vector = Z) -> Camera:
    """The camera of a view, with pictures of `side` pixels, width and height.

    >>> camera_of(FirstView((0.0, -2.0, 0.0), (0.0, 0.0, 0.0)), (8, 8)).pose[:3, 2].tolist()
    [0.0, -1.0, 0.0]
    """
    position = np.array(view.position)
    back = position - view.target
    back /= np.linalg.norm(back)
    upwards = np.array(up) / np.linalg.norm(up)
    right = np.cross(upwards, back)
    if np.linalg.norm(right) < 1e-6:  # it looks straight down or up
        right = upright(upwards) @ (1.0, 0.0, 0.0)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, position], 1)
    focal = min(side) / 2 / math.tan(FOV / 2)
    return Camera(pose + 0.0, focal, focal, side[0] / 2, side[1] / 2, *side)


def poster_of(field: RadianceField, view: FirstView, up: Vector = Z) -> bytes:
    """A square picture of a view, as a lossy WebP of about `POSTER_BYTES`.

    Deterministic, with one version of Pillow.
    """
    rgb = render(field, camera_of(view, (2 * POSTER_SIDE, 2 * POSTER_SIDE), up)).rgb
    image = averaged_colors(bytes_from_colors(rgb), 2)
    data = b""
    for quality in QUALITIES:
        data = encoded(image, "WEBP", quality)
        if len(data) <= POSTER_BYTES:
            break
    assert len(data) <= MAX_POSTER_BYTES, "the coarsest WebP of so few pixels is smaller"
    return data


def is_expanded_soon(small: Compressed) -> bool:
    """Whether the field of a file takes a gigabyte at most."""
    return 4 * (1 + small.n_channels) * small.partition.size <= MAX_FIELD_BYTES


def is_drawn_soon(field: RadianceField) -> bool:
    """Whether a poster of a field takes seconds at most, by what its rays may meet.

    The format allows files of which a picture takes minutes, so none is drawn of those that nobody asked to be drawn.
    """
    lattice = field.lattice
    n_shaded = (lattice.longest_way / field.equation.step_world + 1) * float((field.volume().cells != 0).mean())
    products = SAMPLE_WORK * (1 + len(field.color_mlp)) + _multiplied(field.color_mlp)
    return (2 * POSTER_SIDE) ** 2 * n_shaded * products <= MAX_POSTER_WORK


def _multiplied(layers: Layers) -> int:
    """Products of a sample in the compiled core, which fills every hidden layer up to the widest."""
    if not layers:
        return 0
    n_in, n_out = _in_tiles(layers[0][0].shape[1]), _in_tiles(layers[-1][0].shape[0])
    width = max((_in_tiles(weight.shape[0]) for weight, _ in layers[:-1]), default=n_out)
    return width * (n_in + n_out + max(len(layers) - 2, 0) * width)


def _in_tiles(side: int) -> int:
    return -(-side // TILE) * TILE


def _bounds(field: RadianceField) -> Float64:
    """The corners [2,3], continuous voxel coordinates, of the box that holds nearly all of what can be seen."""
    cells = field.volume().cells != 0
    box = np.array([(0, side) for side in cells.shape]).T
    for axis in range(3):
        along = cells.sum(tuple(other for other in range(3) if other != axis), dtype=np.int64).cumsum()
        if along[-1]:
            low, high = np.searchsorted(along, [ASTRAY * along[-1], (1 - ASTRAY) * along[-1]])
            box[:, axis] = low, high + 1
    return box.astype(np.float64)


def _view_of(box: Float64, up: Vector) -> FirstView:
    turn = upright(np.array(up) / np.linalg.norm(up))
    middle = box.mean(0)
    corners = np.array([[box[b, axis] for axis, b in enumerate(bits)] for bits in np.ndindex(2, 2, 2)])
    x, y, z = ((corners - middle) @ turn).T
    yaws = np.linspace(0, 2 * np.pi, 32, endpoint=False)[:, None]
    ahead, aside = x * np.cos(yaws) + y * np.sin(yaws), y * np.cos(yaws) - x * np.sin(yaws)
    back = math.cos(PITCH) * ahead + math.sin(PITCH) * z
    above = math.cos(PITCH) * z - math.sin(PITCH) * ahead
    distance = float((back + np.maximum(np.abs(aside), np.abs(above)) / (FILLED * math.tan(FOV / 2))).max())
    return _rounded(middle + distance * _away(up), middle)


def _away(up: Vector) -> Float64:
    """The unit vector [3] from what is seen first to who sees it."""
    turn = upright(np.array(up) / np.linalg.norm(up))
    away: Float64 = turn @ (math.cos(PITCH) * math.cos(YAW), math.cos(PITCH) * math.sin(YAW), math.sin(PITCH))
    return away


def _rounded(eye: Float64, middle: Float64) -> FirstView:
    n_digits = DIGITS - 1 - math.floor(math.log10(max(float(np.abs(eye - middle).max()), TINY)))
    position, target = (tuple(round(float(x), n_digits) for x in place) for place in (eye, middle))
    return FirstView((position[0], position[1], position[2]), (target[0], target[1], target[2]))
