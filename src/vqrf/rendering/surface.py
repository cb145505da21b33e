"""A field's surface as triangles with colours, for programs that know nothing of fields: PLY and GLB.

The surface is where a way of one voxel through the field takes `level` of the light. A vertex has the colour that the field
shows to who looks straight at it; how colours change with the view is lost, and so is what is half transparent.

Source: marching cubes by Lewiner et al. (2003), as scikit-image has them. Departs: a layer of empty voxels closes the lattice.
"""

from __future__ import annotations

import importlib
import json
import math
import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrf.fields.cells import active_voxels
from vqrf.fields.field import RadianceField
from vqrf.geometry import Float32, Float64, far_origin
from vqrf.kernels import select
from vqrf.memory import expect_room

LEVEL = 0.5
"""Half of the light: a surface that was learnt well is where it is from 0.1 to 0.9 too, to a voxel."""

LEAST_LEVEL = 1e-6
"""Below it, density is as good as none."""

BYTES_OF_VOXEL, BYTES_OF_VERTEX = 16, 240
"""While the surface is looked for: of the lattice, and of vertices with their two triangles."""

BEFORE_SURFACE = 1.5
"""Voxels outside of the surface, where a ray begins that looks for its colour."""

RAYS_PER_BATCH = 1 << 17

FLOAT, UINT32, UINT16 = 5126, 5125, 5123
"""Kinds of numbers, as glTF numbers them."""

ARRAY_BUFFER, INDEX_BUFFER = 34962, 34963
GLTF_MAGIC, GLTF_VERSION, JSON_CHUNK, BINARY_CHUNK = b"glTF", 2, b"JSON", b"BIN\0"


@dataclass(frozen=True, eq=False)
class Surface:
    """Triangles.

    Attributes:
      vertices: [V,3] float32, world units.
      normals: [V,3] float32, of unit length, outwards.
      colors: [V,3] float32, 0..1, as a screen shows them (sRGB).
      faces: [F,3] int32, counter-clockwise seen from outside.
    """

    vertices: Float32
    normals: Float32
    colors: Float32
    faces: NDArray[np.int32]


def surface_of(field: RadianceField, level: float = LEVEL) -> Surface:
    """The surface of a field.

    Args:
      level: between `LEAST_LEVEL` and 1, the share of light that a way of one voxel takes.

    Deterministic.

    Raises:
      ValueError: the level is no share, nothing in the field takes as much, or the field is in no box.
      OverBudget: it takes too much memory.
      ModuleNotFoundError: scikit-image is not installed.
    """
    if not LEAST_LEVEL <= level < 1:
        raise ValueError(f"level: expected a value between {LEAST_LEVEL:g} and 1, got {level:g}")
    if field.lattice.space is not None:
        raise ValueError(f"is in the space {field.lattice.space.name}, of which no surface is made")
    measure = importlib.import_module("skimage.measure")
    lattice = field.lattice
    expect_room(BYTES_OF_VOXEL * lattice.n_voxels, None, f"the surface of {lattice.n_voxels} voxels")
    voxel = float((lattice.extent / (np.array(lattice.shape) - 1)).mean())
    raw = field.equation.density_of(1 - (1 - level) ** (field.equation.step_world / voxel))
    density = np.where(active_voxels(field), field.density, min(float(field.density.min()), raw - 1))
    n_vertices = _count_crossings(density > raw)
    if not n_vertices:
        raise ValueError(f"has no surface: nowhere does a voxel take {level:g} of the light, and the one beside it less")
    expect_room(BYTES_OF_VERTEX * n_vertices, None, f"a surface of {n_vertices} vertices")
    closed = np.pad(density, 1, constant_values=min(float(density.min()), raw - 1))
    index, faces, _, _ = measure.marching_cubes(closed, raw, gradient_direction="ascent", allow_degenerate=False)
    offset = far_origin(lattice.lo, lattice.hi)
    vertices = lattice.moved(offset).world_from_index(index.astype(np.float64) - 1)
    normals = _normals(vertices, faces)
    colors = _colors(field, offset, vertices, normals, voxel)
    world = (vertices - offset).astype(np.float32)
    return Surface(world, normals.astype(np.float32), colors, np.ascontiguousarray(faces, np.int32))


def _count_crossings(inside: NDArray[np.bool_]) -> int:
    """Edges of the lattice with one end inside: each has a vertex. What lies at the border has one beyond it."""
    n = 0
    for axis in range(3):
        along = np.moveaxis(inside, axis, 0)
        n += int(np.count_nonzero(along[1:] != along[:-1])) + int(along[0].sum()) + int(along[-1].sum())
    return n


def _normals(vertices: Float64, faces: NDArray[Any]) -> Float64:
    """Of unit length, the mean over the triangles around a vertex by their areas; upwards where they cancel."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    of_faces = np.cross(b - a, c - a)
    sums: Float64 = np.stack(
        [sum(np.bincount(faces[:, corner], of_faces[:, axis], len(vertices)) for corner in range(3)) for axis in range(3)],
        -1,
    )
    lengths = np.linalg.norm(sums, axis=-1, keepdims=True)
    return np.where(lengths > 0, sums / np.maximum(lengths, np.finfo(np.float64).tiny), (0.0, 0.0, 1.0))


def _colors(field: RadianceField, offset: Float64, vertices: Float64, normals: Float64, voxel: float) -> Float32:
    """What a ray along the normal sees first, [V,3] in 0..1, without the background behind it."""
    volume = field.volume()
    lo, hi = (np.add(corner, offset).tolist() for corner in (volume.lo, volume.hi))
    volume = replace(volume, lo=tuple(lo), hi=tuple(hi))
    before = field.equation.near + BEFORE_SURFACE * voxel
    background = np.array(field.equation.background, np.float32)
    kernels, colors = select(), np.empty(vertices.shape, np.float32)
    for start in range(0, len(vertices), RAYS_PER_BATCH):
        batch = slice(start, start + RAYS_PER_BATCH)
        origins = (vertices[batch] + before * normals[batch]).astype(np.float32)
        directions = -normals[batch].astype(np.float32)
        rgb, background_weight, _ = kernels.render_rays(volume, origins, directions)
        light = 1 - background_weight[:, None]
        colors[batch] = (rgb - background_weight[:, None] * background) / np.maximum(light, 1e-3)
    return np.clip(colors, 0, 1)


# ------------------------------------------------------------------------------------------------------------------- files


def ply_of(surface: Surface, *, with_faces: bool = True) -> bytes:
    """A binary PLY file, little-endian; without faces a cloud of points that lie on the surface."""
    names = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")] + [(name, "u1") for name in ("red", "green", "blue")]
    rows = np.empty(len(surface.vertices), names)
    for part, columns in ((surface.vertices, "xyz"), (surface.normals, ("nx", "ny", "nz"))):
        for axis, name in enumerate(columns):
            rows[name] = part[:, axis]
    for axis, name in enumerate(("red", "green", "blue")):
        rows[name] = np.rint(surface.colors[:, axis] * 255)
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    head += [f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, kind in names]
    body = rows.tobytes()
    if with_faces:
        faces = np.empty(len(surface.faces), [("n", "u1"), ("corners", "<i4", 3)])
        faces["n"], faces["corners"] = 3, surface.faces
        head += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
        body += faces.tobytes()
    return "\n".join([*head, "end_header\n"]).encode() + body


def glb_of(surface: Surface, up: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> bytes:
    """A binary glTF 2.0 file, unlit, with colours of vertices; turned so that `up` is glTF's, which is y.

    Args:
      up: in the field's world.
    """
    colors = np.ones((len(surface.colors), 4), "<u2")
    colors[:, :3], colors[:, 3] = np.rint(linear_of(surface.colors) * 65535), 65535
    parts = (surface.vertices, surface.normals, colors, surface.faces.astype("<u4"))
    views, accessors, data = [], [], b""
    kinds = (("VEC3", FLOAT), ("VEC3", FLOAT), ("VEC4", UINT16), ("SCALAR", UINT32))
    for number, (part, (kind, component)) in enumerate(zip(parts, kinds, strict=True)):
        raw = np.ascontiguousarray(part).tobytes()
        target = INDEX_BUFFER if kind == "SCALAR" else ARRAY_BUFFER
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": len(raw), "target": target})
        n = part.size if kind == "SCALAR" else len(part)
        accessor: dict[str, Any] = {"bufferView": number, "componentType": component, "count": n, "type": kind}
        if component == UINT16:
            accessor["normalized"] = True
        if number == 0:
            accessor |= {"min": part.min(0).tolist(), "max": part.max(0).tolist()}
        accessors.append(accessor)
        data += raw  # each is a whole number of four bytes
    tree = {
        "extensionsUsed": ["KHR_materials_unlit"],
        "nodes": [{"mesh": 0, "rotation": turn_up(up)}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "NORMAL": 1, "COLOR_0": 2}, "indices": 3, "material": 0}]}],
        "materials": [{"extensions": {"KHR_materials_unlit": {}}, "pbrMetallicRoughness": {"metallicFactor": 0.0}}],
        "bufferViews": views,
        "accessors": accessors,
    }
    return glb_file(tree, data)


def glb_file(tree: dict[str, Any], data: bytes) -> bytes:
    """A binary glTF 2.0 file of one scene with one node.

    Args:
      tree: of JSON, but for the scene, the buffer, and who wrote it.
      data: the buffer, a whole number of four bytes.
    """
    scene = {"asset": {"version": "2.0", "generator": "vqrf"}, "scene": 0, "scenes": [{"nodes": [0]}]}
    text = json.dumps(scene | tree | {"buffers": [{"byteLength": len(data)}]}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = b"".join(
        struct.pack("<I", len(chunk)) + kind + chunk for kind, chunk in ((JSON_CHUNK, text), (BINARY_CHUNK, data))
    )
    return GLTF_MAGIC + struct.pack("<II", GLTF_VERSION, 12 + len(chunks)) + chunks


def linear_of(colors: Float32) -> Float32:
    """sRGB colours, 0..1, as amounts of light, which is how glTF has colours of vertices (IEC 61966-2-1)."""
    curved: Float32 = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4).astype(np.float32)
    return curved


def srgb_of(light: Float32) -> Float32:
    """Amounts of light, 0..1, as sRGB colours; the inverse of `linear_of`."""
    curved: Float32 = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055).astype(np.float32)
    return curved


def turn_up(up: tuple[float, float, float]) -> list[float]:
    """The quaternion x, y, z, w of the shortest turn that takes `up` to y."""
    x, y, z = (value / math.hypot(*up) for value in up)
    if y < -1 + 1e-9:
        return [1.0, 0.0, 0.0, 0.0]
    turn = np.array([-z, 0.0, x, 1 + y])  # up cross y, and 1 + up dot y
    found: list[float] = (turn / np.linalg.norm(turn)).tolist()
    return found


def rotation_of(turn: list[float]) -> Float64:
    """The matrix [3,3] of a quaternion x, y, z, w of unit length."""
    x, y, z, w = turn
    across = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix: Float64 = np.eye(3) + 2 * w * across + 2 * across @ across
    return matrix
