"""Surfaces: of a ball in closed form, and read back by another program."""

from __future__ import annotations

import io
import struct
from dataclasses import replace

import numpy as np
import pytest

from vqrf.fields.field import RadianceField
from vqrf.geometry import Lattice
from vqrf.memory import OverBudget, limited
from vqrf.rendering.surface import LEAST_LEVEL, Surface, glb_of, ply_of, surface_of

pytest.importorskip("skimage", reason="needs scikit-image, which finds surfaces")

RADIUS = 0.6
"""Of the ball; there a way of a voxel, which is two steps, takes half of the light."""


@pytest.fixture(scope="module")
def ball(ball_field: RadianceField) -> Surface:
    return surface_of(ball_field)


def test_the_surface_of_a_ball_is_the_sphere_with_its_normals(ball: Surface) -> None:
    radius = np.linalg.norm(ball.vertices, axis=-1)
    np.testing.assert_allclose(radius, RADIUS, atol=0.01)
    assert ((ball.normals * ball.vertices).sum(-1) / radius > 0.97).all()
    np.testing.assert_allclose(np.linalg.norm(ball.normals, axis=-1), 1, atol=1e-6)


def test_the_surface_is_closed_and_its_triangles_face_outwards(ball: Surface) -> None:
    edges = np.sort(ball.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all(), "every edge has two triangles"
    a, b, c = (ball.vertices[ball.faces[:, corner]].astype(np.float64) for corner in range(3))
    volume = (np.cross(a, b) * c).sum() / 6
    assert volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.03)


def test_a_vertex_has_the_colour_of_the_field_there_whatever_is_behind(ball_field: RadianceField, ball: Surface) -> None:
    """The logits are 4 (x, y, z); a ray goes on a little into the ball, where colours are nearer to gray."""
    expected = 1 / (1 + np.exp(-4 * ball.vertices))
    assert np.abs(ball.colors - expected).max() < 0.1
    black = surface_of(ball_field.with_background((0.0, 0.0, 0.0)))
    np.testing.assert_allclose(black.colors, ball.colors, atol=0.02)


def test_a_higher_level_lies_further_inside(ball_field: RadianceField, ball: Surface) -> None:
    radii = [np.linalg.norm(surface_of(ball_field, level).vertices, axis=-1).mean() for level in (0.05, 0.95)]
    assert radii[0] > np.linalg.norm(ball.vertices, axis=-1).mean() > radii[1]


def test_what_is_cut_off_by_the_box_is_closed(ball_field: RadianceField) -> None:
    full = replace(ball_field, density=np.full_like(ball_field.density, 40.0))
    edges = np.sort(surface_of(full).faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


def test_cells_that_may_hold_nothing_have_no_surface(ball_field: RadianceField) -> None:
    allowed = np.ones((15, 15, 15), np.uint8)
    allowed[8:] = 0
    assert surface_of(replace(ball_field, allowed=allowed)).vertices[:, 0].max() < 0.3


def test_a_surface_far_from_the_origin_is_as_near_to_it_as_float32_is(ball_field: RadianceField, ball: Surface) -> None:
    lattice = Lattice((5e5 - 1, -1.0, -1.0), (5e5 + 1, 1.0, 1.0), ball_field.lattice.shape)
    moved = surface_of(replace(ball_field, lattice=lattice))
    np.testing.assert_allclose(moved.vertices - (5e5, 0, 0), ball.vertices, atol=0.05)
    np.testing.assert_allclose(moved.colors, ball.colors, atol=1e-3)


def test_what_has_no_surface_is_refused(ball_field: RadianceField) -> None:
    with pytest.raises(ValueError, match="has no surface"):
        surface_of(replace(ball_field, density=np.zeros_like(ball_field.density)))
    for level in (0.0, LEAST_LEVEL / 2, 1.0, float("nan")):
        with pytest.raises(ValueError, match="level: expected a value between 1e-06 and 1, got"):
            surface_of(ball_field, level)
    with limited(10_000), pytest.raises(OverBudget, match="surface"):
        surface_of(ball_field)


# ----------------------------------------------------------------------------------------------------- read by another program


def test_trimesh_reads_the_mesh_of_a_ply_file(ball: Surface) -> None:
    trimesh = pytest.importorskip("trimesh", reason="needs trimesh, the other program")
    mesh = trimesh.load(io.BytesIO(ply_of(ball)), file_type="ply", process=False)
    np.testing.assert_array_equal(mesh.vertices.astype(np.float32), ball.vertices)
    np.testing.assert_array_equal(mesh.faces, ball.faces)
    np.testing.assert_array_equal(mesh.visual.vertex_colors[:, :3], np.rint(ball.colors * 255))
    assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.03)


def test_trimesh_reads_points_of_a_ply_file(ball: Surface) -> None:
    trimesh = pytest.importorskip("trimesh", reason="needs trimesh, the other program")
    points = trimesh.load(io.BytesIO(ply_of(ball, with_faces=False)), file_type="ply", process=False)
    assert isinstance(points, trimesh.PointCloud)
    np.testing.assert_array_equal(points.vertices.astype(np.float32), ball.vertices)


@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.0, -1.0, 0.0), (0.6, 0.0, -0.8)])
def test_trimesh_reads_a_glb_file_whose_up_is_y(ball: Surface, up: tuple[float, float, float]) -> None:
    trimesh = pytest.importorskip("trimesh", reason="needs trimesh, the other program")
    scene = trimesh.load(io.BytesIO(glb_of(ball, up)), file_type="glb", process=False)
    (turn,) = [scene.graph.get(name)[0] for name in scene.graph.nodes_geometry]
    np.testing.assert_allclose(turn[:3, :3] @ up, (0, 1, 0), atol=1e-6)
    assert np.linalg.det(turn[:3, :3]) == pytest.approx(1)
    (mesh,) = scene.geometry.values()
    np.testing.assert_array_equal(mesh.vertices.astype(np.float32), ball.vertices)
    np.testing.assert_array_equal(mesh.faces, ball.faces)
    light = np.asarray(mesh.visual.vertex_attributes["color"])[:, :3]
    light = light / np.iinfo(light.dtype).max if light.dtype.kind == "u" else light
    curved = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(curved - ball.colors).max() < 0.05, "glTF's colours are amounts of light; trimesh may have them in 8 bits"


def test_a_glb_file_says_how_long_it_and_its_parts_are(ball: Surface) -> None:
    data = glb_of(ball)
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON" and size % 4 == 0
    rest, kind = struct.unpack("<I4s", data[20 + size : 28 + size])
    assert kind == b"BIN\0" and 28 + size + rest == len(data)
