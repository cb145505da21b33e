"""A field as voxels in a glTF 2.0 file, for programs that draw such: EXT_primitive_voxels, a draft by Cesium.

The voxels fill a box around all that absorbs light. Each is four bytes: its colour, as a screen shows it, and its opacity on a
way of one voxel. It loses what a volume does (see `vqrf.rendering.vdb`) and what bytes do not tell apart.

Source: the drafts EXT_primitive_voxels and KHR_implicit_shapes, and EXT_structural_metadata, which are extensions of glTF. The
axes of voxels are glTF's, which are x, z and -y of a world whose z is up: CesiumJS knows of no others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vqrf.cameras import Z
from vqrf.geometry import Vector
from vqrf.memory import expect_room
from vqrf.rendering.surface import glb_file, rotation_of, srgb_of, turn_up
from vqrf.rendering.vdb import Fog

VOXELS, UINT8 = 0x7FFFFFFF, 5121
"""The mode of a primitive that has voxels, and the kind of their numbers, as glTF has these."""

BYTES_OF_CELL = 96
"""While voxels are written, of those in the box."""

DRAFTS = ["EXT_primitive_voxels", "KHR_implicit_shapes"]
"""Without which there is nothing to draw."""

COLOR: dict[str, Any] = {"type": "VEC4", "componentType": "UINT8", "normalized": True, "required": True}
METADATA: dict[str, Any] = {
    "schema": {"id": "vqrf", "classes": {"voxel": {"properties": {"color": COLOR}}}},
    "propertyAttributes": [{"class": "voxel", "properties": {"color": {"attribute": "_COLOR"}}}],
}
"""Says that the attribute `_COLOR` is the property `color` of the class `voxel`."""


def voxel_glb_of(fog: Fog, up: Vector = Z) -> bytes:
    """A binary glTF 2.0 file with the voxels of a volume, turned so that `up` is glTF's, which is y. Deterministic.

    Args:
      up: in the field's world.

    Raises:
      OverBudget: it takes too much memory.
    """
    lattice, index = fog.lattice, np.argwhere(fog.colored)
    low, high = index.min(0), index.max(0) + 1
    n_cells = int((high - low).prod())
    expect_room(BYTES_OF_CELL * n_cells, None, f"a box of {n_cells} voxels")
    part = tuple(slice(*ends) for ends in zip(low, high, strict=True))
    voxel = lattice.extent / (np.array(lattice.shape) - 1)
    opacity = -np.expm1(-fog.density[part] * voxel.mean())
    voxels = np.concatenate([srgb_of(fog.colors[part]), opacity[..., None]], -1)
    data = np.rint(voxels * 255).astype(np.uint8).transpose(1, 2, 0, 3)[::-1].tobytes()  # x is fastest, then z, then -y
    pose = np.eye(4)
    pose[:3, :3] = rotation_of(turn_up(up)) @ rotation_of(turn_up(Z)).T
    pose[:3, 3] = rotation_of(turn_up(up)) @ (lattice.lo + voxel * (low + high - 1) / 2)
    x, y, z = (high - low).tolist()
    width, depth, height = (voxel * (high - low)).tolist()
    primitive = {
        "attributes": {"_COLOR": 0},
        "mode": VOXELS,
        "extensions": {
            "EXT_primitive_voxels": {"shape": 0, "dimensions": [x, z, y]},
            "EXT_structural_metadata": {"propertyAttributes": [0]},
        },
    }
    tree = {
        "extensionsUsed": [*DRAFTS, "EXT_structural_metadata"],
        "extensionsRequired": DRAFTS,
        "extensions": {
            "KHR_implicit_shapes": {"shapes": [{"type": "box", "box": {"size": [width, height, depth]}}]},
            "EXT_structural_metadata": METADATA,
        },
        "nodes": [{"mesh": 0, "matrix": pose.T.ravel().tolist()}],
        "meshes": [{"primitives": [primitive]}],
        "bufferViews": [{"buffer": 0, "byteLength": len(data)}],
        "accessors": [{"bufferView": 0, "componentType": UINT8, "normalized": True, "count": n_cells, "type": "VEC4"}],
    }
    return glb_file(tree, data)
