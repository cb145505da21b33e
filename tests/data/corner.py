"""Photos of the corner of a room with spotted walls, drawn in a moment: something that structure from motion can see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from vqrf.cameras import Camera

SPOT = 0.06
"""World size of the walls' spots."""


def cameras_along(n: int, side: int) -> list[Camera]:
    """Along an arc before the corner, a few degrees from one to the next, looking at its middle."""
    cameras = []
    for turn in np.linspace(0.35, 1.2, n):
        eye = 3.2 * np.array([np.cos(turn), np.sin(turn), 0.45 + 0.1 * np.sin(5 * turn)])
        back = (eye + 0.3) / np.linalg.norm(eye + 0.3)
        right = np.cross([0.0, 0.0, 1.0], back)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3] = np.stack([right, np.cross(back, right), back, eye], 1)
        cameras.append(Camera(pose, 1.1 * side, 1.1 * side, side / 2, side / 2, side, side))
    return cameras


def draw_corner(camera: Camera) -> np.ndarray:
    """[H,W,3] uint8: the planes x = -1, y = -1 and z = -1 from their inside."""
    origins, directions = (array.astype(np.float64) for array in camera.rays())
    with np.errstate(divide="ignore"):
        distances = np.where(directions < 0, (-1 - origins) / directions, np.inf)
    wall = distances.argmin(1)
    points = origins + distances.min(1)[:, None] * directions
    rays = np.arange(len(wall))
    flat = np.stack([points[rays, (wall + 1) % 3], points[rays, (wall + 2) % 3]])
    shade = np.zeros(len(wall))
    for scale, share in ((1, 0.5), (3, 0.3), (9, 0.2)):
        shade += share * _spots(flat / (SPOT * scale), wall)
    tint = np.array([[1.0, 0.9, 0.8], [0.8, 0.9, 1.0], [0.9, 1.0, 0.85]])[wall]
    colors = tint * np.clip(2 * shade - 0.5, 0, 1)[:, None]
    return np.rint(255 * colors).astype(np.uint8).reshape(camera.height, camera.width, 3)


def _spots(place: np.ndarray, wall: np.ndarray) -> np.ndarray:
    table = np.random.default_rng(0).random((3, 128, 128))
    first = np.floor(place).astype(int)
    x, y = place - first
    value = np.zeros(len(wall))
    for right, down in np.ndindex(2, 2):
        spot = table[wall, (first[0] + right) % 128, (first[1] + down) % 128]
        value += spot * (x if right else 1 - x) * (y if down else 1 - y)
    return value


def write_photos(cameras: Sequence[Camera], folder: Path) -> None:
    folder.mkdir(parents=True)
    for i, camera in enumerate(cameras):
        PIL.Image.fromarray(draw_corner(camera)).save(folder / f"photo_{i:02}.png")


def misfit(found: Sequence[np.ndarray], true: Sequence[np.ndarray]) -> tuple[float, float]:
    """How far poses [4,4] are from the true ones after the best similarity: the largest angle in degrees, and the largest
    distance in mean distances of the cameras from their middle."""
    a, b = (np.array([pose[:3, 3] for pose in poses]) for poses in (found, true))
    a, b = a - a.mean(0), b - b.mean(0)
    u, s, v = np.linalg.svd(b.T @ a)
    sign = np.array([1, 1, np.linalg.det(u @ v)])
    turn = u * sign @ v
    scale = (s * sign).sum() / (a**2).sum()
    apart = np.linalg.norm(scale * a @ turn.T - b, axis=-1).max() / np.linalg.norm(b, axis=-1).mean()
    cosines = [(np.trace((turn @ x[:3, :3]).T @ y[:3, :3]) - 1) / 2 for x, y in zip(found, true, strict=True)]
    return float(np.degrees(np.arccos(np.clip(min(cosines), -1, 1)))), float(apart)
