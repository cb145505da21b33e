"""Voxels in glTF: which voxel stands where, in which colour."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from vqrf.cameras import Z
from vqrf.geometry import Lattice, Vector
from vqrf.memory import OverBudget, limited
from vqrf.rendering.surface import linear_of, rotation_of, srgb_of, turn_up
from vqrf.rendering.vdb import Fog
from vqrf.rendering.voxels import voxel_glb_of

UPS: list[Vector] = [Z, (0.0, 1.0, 0.0), (0.0, 0.0, -2.0), (0.6, 0.0, -0.8)]


def block() -> Fog:
    """Few voxels of many kinds, in a lattice of 1/2, 1/4 and 1/8, each of another colour and opacity."""
    shape, draw = (7, 6, 9), np.random.default_rng(3)
    lattice = Lattice((4.0, -2.0, 1.0), (4 + 6 / 2, -2 + 5 / 4, 1 + 8 / 8), shape)
    colored = np.zeros(shape, bool)
    colored[1:6, 1:5, 2:8] = True
    absorbs = np.zeros(shape, bool)
    absorbs[2:5, 2:4, 3:7] = True
    density = np.where(absorbs, draw.uniform(0.1, 9, shape), 0).astype(np.float32)
    colors = np.where(colored[..., None], draw.uniform(0, 1, (*shape, 3)), 0).astype(np.float32)
    return Fog(lattice, absorbs, density, colored, colors)


def parts_of(glb: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON of a binary glTF file, and its buffer."""
    magic, version, length, size = struct.unpack_from("<4sIII", glb)
    assert (magic, version, length) == (b"glTF", 2, len(glb))
    return json.loads(glb[20 : 20 + size]), glb[28 + size :]


@pytest.mark.parametrize("up", UPS)
def test_each_voxel_stands_in_its_cell_of_the_box_with_its_colour_and_opacity(up: Vector) -> None:
    """By the extension: cells of a box around the node's origin, x fastest, then y, then z."""
    fog = block()
    tree, data = parts_of(voxel_glb_of(fog, up))
    (primitive,) = tree["meshes"][0]["primitives"]
    n = primitive["extensions"]["EXT_primitive_voxels"]["dimensions"]
    size = np.array(tree["extensions"]["KHR_implicit_shapes"]["shapes"][0]["box"]["size"])
    rows = np.frombuffer(data, np.uint8).reshape(-1, 4)
    assert tree["accessors"][0]["count"] == len(rows) == np.prod(n) == fog.colored.sum()
    cell = np.stack(np.unravel_index(np.arange(len(rows)), n, order="F"), -1)
    matrix = np.reshape(tree["nodes"][0]["matrix"], (4, 4)).T
    world = ((cell + 0.5) / n * size - size / 2) @ matrix[:3, :3].T + matrix[:3, 3]
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
    index = np.argwhere(fog.colored)
    places = fog.lattice.world_from_index(index)
    turn = rotation_of(turn_up(up))
    assert np.linalg.det(turn) == pytest.approx(1)
    np.testing.assert_allclose(turn @ up / np.linalg.norm(up), (0, 1, 0), atol=1e-9)
    nearest = np.linalg.norm((places @ turn.T)[:, None] - world, axis=-1)
    assert nearest.min(1).max() < 1e-9
    found = rows[nearest.argmin(1)] / 255
    np.testing.assert_allclose(found[:, :3], srgb_of(fog.colors)[fog.colored], atol=0.5 / 255 + 1e-6)
    way = np.mean([1 / 2, 1 / 4, 1 / 8])
    np.testing.assert_allclose(found[:, 3], 1 - np.exp(-fog.density[fog.colored] * way), atol=0.5 / 255 + 1e-6)


def test_a_box_that_takes_too_much_memory_is_refused() -> None:
    with limited(5_000), pytest.raises(OverBudget, match="a box of 120 voxels"):
        voxel_glb_of(block())


def test_light_and_colours_are_inverse_to_each_other() -> None:
    colors = np.linspace(0, 1, 256, dtype=np.float32)
    np.testing.assert_allclose(srgb_of(linear_of(colors)), colors, atol=1e-6)
