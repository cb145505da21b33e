"""Cameras as JSON spells them: one reader for datasets and for camera paths.

Blender's export, instant-ngp, nerfstudio and what imitates them write a tree with `frames`, each with a `transform_matrix`:
camera to world, x right, y up, looking along -z. How the camera sees stands in the frame or in the tree: `fl_x fl_y cx cy w h`
in pixels, or `camera_angle_x`. A key that could change the picture is honoured or refused by name (`expect_known`); a key that
is known to be harmless is passed over.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vqrf.cameras import MAX_ROTATION_ERROR, Camera
from vqrf.data.listing import MAX_SIDE, WORDS_SHOWN, Optics, SceneError, some_names
from vqrf.files import read_file
from vqrf.geometry import Float64
from vqrf.lens import Lens

Tree = dict[str, Any]

MAX_JSON_BYTES = 64 << 20
"""100 frames are 70 kB; what is a thousand times that is not a list of cameras."""

MAX_JSON_VALUES = 4_000_000
"""Brackets and commas, which bound what Python makes of the text: 100 bytes each. 20,000 frames have 600,000."""

FOCAL_KEYS = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y", "x_fov", "y_fov")
PIXEL_KEYS = ("fl_x", "fl_y", "cx", "cy")
CAMERA_KEYS = (*FOCAL_KEYS, "cx", "cy", "w", "h", "camera_model", "is_fisheye")
FLAT_MODELS = (None, "PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "SIMPLE_RADIAL", "RADIAL", "FULL_OPENCV")
FISHEYE_MODELS = ("OPENCV_FISHEYE", "FISHEYE", "SIMPLE_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
LENS_KEYS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")

PLACING_KEYS = ("aabb", "aabb_scale", "render_aabb", "scale", "offset", "up", "applied_transform", "applied_scale")
TASTE_KEYS = ("orientation_override", "auto_scale_poses_override", "importance_sampling", "description", "labels", "version")
QUALITY_KEYS = ("sharpness", "blur_score", "motion_blur_score", "rotation", "lightdir", "n_frames")
NUMBERING_KEYS = (
    "colmap_im_id",
    "colmap_image_id",
    "colmap_id",
    "image_id",
    "image_idx",
    "frame_id",
    "frame_idx",
    "index",
    "idx",
)
ORIGIN_KEYS = ("id", "original_fname", "original_file_path", "capture_time", "lat", "lon", "altitude", "gps", "cloud_id")
STAMP_KEYS = ("timestamp", "timestamps", "timestamp_ns")
DEPTH_KEYS = ("depth_file_path", "depth_path", "depth_conf_path", "depth_unit_scale_factor", "integer_depth_scale")
BESIDE_KEYS = (
    "enable_depth_loading",
    "enable_ray_loading",
    "normal_file_path",
    "normal_path",
    "semantics_path",
    "ply_file_path",
)
HARMLESS_KEYS = frozenset(
    (
        *PLACING_KEYS,
        *TASTE_KEYS,
        *QUALITY_KEYS,
        *NUMBERING_KEYS,
        *ORIGIN_KEYS,
        *STAMP_KEYS,
        *DEPTH_KEYS,
        *BESIDE_KEYS,
    )
)
"""Where the scene stands in other programs, how sharp a photo is, what lies beside it, when and by whom it was taken."""

SUSPECT = re.compile(
    r"dist|lens|shift|skew|focal|fov|fl_|fl$|fx|fy|^c[xy]|^[bkps]\d|camera|intrins|extrins|ax[ei]s|conven|coord|hand|pose|rot|"
    r"transf|matrix|scale|mask|alpha|premul|gamma|colou?r|white|black|background|bg|exposure|crop|flip|mirror|orient|time|model|"
    r"type|proj|shutter|near|far|bound|box|unit|offset|cent|radius|fish|equi|pano|latlong|ortho|stereo|from_|w2c|c2w|opencv|opengl|"
    r"width|height|resol|^[hw]{2}f?$|^[fkrt]$|theta|hdr|linear|srgb|cam2|2cam|world|roll|tilt|zoom|invert|negat|"
    r"split|train|test|valid|^val|skip|ignor|exclu|disab|bad",
    re.IGNORECASE,
)
"""What is in the names of keys that change pictures, or which photos there are. Any other key is passed over with a remark."""


def read_json(path: Path) -> Tree:
    """The JSON object in a file.

    Raises:
      SceneError: there is no such file, or it holds no object.

    Safe for untrusted input: bounded by `MAX_JSON_BYTES` and `MAX_JSON_VALUES`.
    """
    if not path.is_file():
        raise SceneError(path, "is a folder, expected JSON" if path.is_dir() else "there is no such file")

    def expect_once(pairs: list[tuple[str, Any]]) -> Tree:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
            raise SceneError(path, f"the key {twice[:WORDS_SHOWN]!a} comes twice in one object: which is meant is not clear")
        return found

    try:
        data = read_file(path, MAX_JSON_BYTES)
    except OSError as error:
        raise SceneError(path, error.strerror or str(error)) from error
    if (n := sum(map(data.count, (b"[", b"{", b",")))) > MAX_JSON_VALUES:
        raise SceneError(path, f"holds {n} values, the limit is {MAX_JSON_VALUES}")
    try:
        tree = json.loads(data.decode("utf-8-sig"), object_pairs_hook=expect_once)
    except SceneError:
        raise
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise SceneError(path, f"is not JSON: {error.msg}, {where}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of 5000 digits, endless nesting
        raise SceneError(path, f"is not JSON: {type(error).__name__}") from None
    if not isinstance(tree, dict):
        raise SceneError(path, f"expected a JSON object, got {type(tree).__name__}")
    return tree


def expect_known(tree: Tree, known: Iterable[str]) -> list[str]:
    """Keys of `tree` that are neither among `known` nor harmless by name, and are no more than a remark.

    Raises:
      ValueError: one of them could change the picture.
    """
    strange = sorted(
        {key for key, value in tree.items() if value is not None} - {*known, *CAMERA_KEYS, *LENS_KEYS} - HARMLESS_KEYS
    )
    for key in strange:
        if SUSPECT.search(key):
            raise ValueError(
                f"key {key[:WORDS_SHOWN]!r} is not known here and may change the picture: remove it if it does not"
            )
    return strange


def remark_of_keys(keys: Iterable[str]) -> tuple[str, ...]:
    """What to say about keys that were passed over."""
    unknown = sorted(set(keys))
    return (f"keys that are not known were passed over: {some_names(map(ascii, unknown))}",) if unknown else ()


def number(tree: Tree, key: str) -> float | None:
    """The number at a key, None where there is none. Raises ValueError where it is something else."""
    value = tree.get(key)
    if value is None:
        return None
    if not is_number(value):
        raise ValueError(f"{key}: expected a number, got {str(value)[:40]!r}")
    return float(value)


def is_number(value: object) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < 1 << 53)


def size_of(tree: Tree, frame: Tree) -> tuple[int, int] | None:
    """Width and height that a frame, or the tree, says. Raises ValueError."""
    sides = {}
    for key in ("w", "h"):
        side = number(frame if key in frame else tree, key)
        if side is not None:
            if not 1 <= side <= MAX_SIDE or side != int(side):
                raise ValueError(f"{key}: expected a number of pixels, got {side:g}")
            sides[key] = int(side)
    return (sides["w"], sides["h"]) if len(sides) == 2 else None


def expect_whole_size(tree: Tree, frame: Tree) -> None:
    """Refuse pixels that are of an image of which one side alone is said. Raises ValueError."""
    said = {key for key in ("w", "h", *PIXEL_KEYS) if frame.get(key, tree.get(key)) is not None}
    if len(said & {"w", "h"}) == 1 and not said.isdisjoint(PIXEL_KEYS):
        raise ValueError(f"{'h' if 'w' in said else 'w'}: is missing, and {', '.join(sorted(said))} are there")


def optics_of(tree: Tree, frame: Tree) -> Optics:
    """How the camera of a frame sees, by the frame's keys or else the tree's.

    Raises:
      ValueError: no focal length is said, or something that cannot be.
    """
    said = {key: number(frame if key in frame else tree, key) for key in (*FOCAL_KEYS, "cx", "cy")}
    return Optics(
        fx=said["fl_x"],
        fy=said["fl_y"],
        angle_x=_angle(said, "x"),
        angle_y=_angle(said, "y"),
        cx=said["cx"],
        cy=said["cy"],
        size=size_of(tree, frame),
        lens=lens_of(tree, frame),
    )


def _angle(said: dict[str, float | None], axis: str) -> float | None:
    angle, degrees = said[f"camera_angle_{axis}"], said[f"{axis}_fov"]
    return math.radians(degrees) if angle is None and degrees is not None else angle


def lens_of(tree: Tree, frame: Tree) -> Lens | None:
    """How the lens of a frame bends, by `camera_model`, or `is_fisheye`, and the numbers `k1..k6, p1, p2`; None: not at all.

    What instant-ngp and nerfstudio write beside OPENCV are its first terms: k3 is that of r^6. k4 alone means one thing to
    nerfstudio and another to OpenCV.

    Raises:
      ValueError: the model is not known, or has no such number.
    """
    said = {key: frame.get(key, tree.get(key)) for key in ("camera_model", "is_fisheye")}
    model, is_fisheye = said["camera_model"], said["is_fisheye"]
    if is_fisheye not in (None, True, False):  # which 0 and 1 are too
        raise ValueError(f"is_fisheye: expected true or false, got {str(is_fisheye)[:WORDS_SHOWN]!a}")
    if model is not None and not isinstance(model, str):
        raise ValueError(f"camera_model: expected a name, got {str(model)[:WORDS_SHOWN]!a}")
    k1, k2, k3, k4, k5, k6, p1, p2 = (number(frame if key in frame else tree, key) or 0.0 for key in LENS_KEYS)
    if model == "EQUIRECTANGULAR":
        return Lens(model)
    if is_fisheye or model in FISHEYE_MODELS:
        if k5 or k6 or p1 or p2:
            raise ValueError("k5, k6, p1, p2: a fisheye has no such numbers")
        return Lens("OPENCV_FISHEYE", (k1, k2, k3, k4))
    if model not in FLAT_MODELS:
        raise ValueError(f"camera_model {model[:WORDS_SHOWN]!a} is not read" if model else "camera_model is empty")
    if k4 and not (k5 or k6) and model != "FULL_OPENCV":
        raise ValueError("k4: which term it is is not clear: say camera_model FULL_OPENCV or OPENCV_FISHEYE")
    lens = Lens("FULL_OPENCV", (k1, k2, p1, p2, k3, k4, k5, k6))
    return None if lens.is_straight else lens


def pose_of(rows: object, what: str = "transform_matrix") -> Float64:
    """A matrix as [4,4] float64; its last row may be left out, and its axes may share a scale that is not 1.

    Args:
      what: the matrix is called, for the message.

    Raises:
      ValueError: it is none, or none that a camera can have.
    """
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ValueError(f"{what}: expected 4 rows of 4 numbers")
    if [len(row) for row in rows] not in ([4, 4, 4], [4, 4, 4, 4]):
        raise ValueError(f"{what}: expected 4 rows of 4 numbers")
    if not all(is_number(value) for row in rows for value in row):
        raise ValueError(f"{what}: expected numbers")
    pose = np.array([*rows, [0, 0, 0, 1]][:4], np.float64)
    rotation = pose[:3, :3]
    with np.errstate(all="ignore"):
        scale = float(np.cbrt(abs(np.linalg.det(rotation)))) if np.isfinite(rotation).all() else 1.0
        if 1e-3 < scale < 1e3 and abs(scale - 1) > MAX_ROTATION_ERROR:
            pose[:3, :3] = rotation / scale
    return Camera(pose, 1.0, 1.0, 0.0, 0.0, 1, 1).pose
