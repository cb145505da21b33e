"""Splats: what they absorb, what they look like, one of them drawn in closed form, and files read back."""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace

import numpy as np
import pytest

from vqrf.fields.field import RadianceField
from vqrf.geometry import Camera, Vector
from vqrf.memory import OverBudget, limited
from vqrf.rendering.splats import (
    BLUR,
    DENSEST,
    HARMONIC_0,
    HARMONIC_1,
    Splats,
    draw_splats,
    splat_ply_of,
    splats_of,
    spz_of,
    turned,
)
from vqrf.rendering.surface import turn_up

WHITE = np.ones(3)


@pytest.fixture(scope="module")
def ball(ball_field: RadianceField) -> Splats:
    return splats_of(ball_field)[0]


def from_front(distance: float, focal: float, side: int) -> Camera:
    """On the z axis, looking at the origin."""
    pose = np.eye(4)
    pose[2, 3] = distance
    return Camera(pose, focal, focal, side / 2, side / 2, side, side)


def gray(positions: list[list[float]], opacities: list[float], colors: list[float], sigma: float) -> Splats:
    """Of one colour each, whatever the direction."""
    harmonics = np.zeros((len(colors), 4, 3), np.float32)
    harmonics[:, 0] = ((np.array(colors) - 0.5) / HARMONIC_0)[:, None]
    return Splats(np.float32(positions), np.full(3, sigma, np.float32), np.float32(opacities), harmonics)


def test_one_splat_is_its_gaussian_widened_by_what_drawing_adds() -> None:
    camera, sigma = from_front(2.0, 100.0, 33), 0.05
    image = draw_splats(gray([[0, 0, 0]], [0.8], [0.25], sigma), camera, WHITE)
    y, x = np.mgrid[:33, :33] + 0.5 - 16.5
    alpha = 0.8 * np.exp(-(x**2 + y**2) / 2 / ((100 * sigma / 2) ** 2 + BLUR))
    expected = np.where((alpha >= 1 / 255) & (np.hypot(x, y) < 3 * np.sqrt((100 * sigma / 2) ** 2 + BLUR)), alpha, 0)
    seen = (1 - image[..., 0]) / 0.75
    np.testing.assert_allclose(seen[expected > 0], expected[expected > 0], atol=1e-5)
    assert seen.max() == pytest.approx(0.8, abs=1e-5) and seen[0, 0] == 0


def test_the_nearest_splat_is_in_front_and_what_is_behind_the_camera_is_not_there() -> None:
    splats = gray([[0, 0, -1], [0, 0, 0.5], [0, 0, 5]], [0.9, 0.6, 0.9], [0.0, 0.5, 0.0], 0.3)
    middle = draw_splats(splats, from_front(2.0, 20.0, 9), WHITE)[4, 4, 0]
    assert middle == pytest.approx(0.6 * 0.5 + 0.4 * 0.9 * 0.0 + 0.4 * 0.1, abs=1e-5)


@pytest.mark.parametrize("depth", [0.5, 2.0])
def test_splats_absorb_what_the_field_does(ball_field: RadianceField, depth: float) -> None:
    """A box that is even everywhere: a ray straight through its middle has an optical depth of `depth` in a third of it.

    (Of much less, splats are so faint that those who draw them leave a part of them out.)
    """
    lattice, equation = ball_field.lattice, ball_field.equation
    per_step = depth * equation.step_world / (lattice.extent[2] / 3)
    raw = equation.density_of(1 - float(np.exp(-per_step)))
    field = replace(ball_field, density=np.full(lattice.shape, raw, np.float32))
    splats, _ = splats_of(field)
    inside = np.abs(splats.positions).max(-1) < lattice.extent[2] / 6 + 0.4 * splats.sigmas[0] / 0.6
    cube = Splats(splats.positions[inside], splats.sigmas, splats.opacities[inside], 0 * splats.harmonics[inside])
    n = round(inside.sum() ** (1 / 3))
    assert n**3 == inside.sum() and n >= 6
    camera = from_front(40.0, 40.0 * 300 / lattice.extent[2], 48)  # so near that drawing widens no splat by much
    light = 1 - draw_splats(cube, camera, np.zeros(3)).mean() / 0.5  # of splats that are gray
    voxel = lattice.extent[2] / (lattice.shape[2] - 1)
    assert -np.log(light) == pytest.approx(depth * n * voxel / (lattice.extent[2] / 3), rel=0.12)


def test_a_ball_looks_alike_and_its_colours_are_the_fields(ball_field: RadianceField, ball: Splats) -> None:
    _, score = splats_of(ball_field)
    assert score > 21, "it has 20 voxels along a side"
    expected = 1 / (1 + np.exp(-4 * ball.positions))  # the logits are 4 (x, y, z), whatever the direction
    np.testing.assert_allclose(0.5 + HARMONIC_0 * ball.harmonics[:, 0], expected, atol=2e-3)
    assert np.abs(ball.harmonics[:, 1:]).max() < 5e-3
    assert (ball.opacities > 0).all() and ball.opacities.max() <= DENSEST
    assert np.linalg.norm(ball.positions, axis=-1).max() < 0.8, "what is not seen has no splat"


def test_colours_that_change_with_the_direction_do_so_in_splats() -> None:
    """The sign of each harmonic is told by what a camera on either side sees."""
    for harmonic, axis, sign in ((1, 1, -1), (2, 2, 1), (3, 0, -1)):
        splat = gray([[0, 0, 0]], [0.9], [0.5], 0.3)
        splat.harmonics[:, harmonic] = 0.2
        position = 2.0 * np.eye(3)[axis]
        back = position / 2
        right = np.roll(back, 1)
        pose = np.eye(4)
        pose[:3] = np.stack([right, np.cross(back, right), back, position], 1)
        seen = draw_splats(splat, Camera(pose, 20.0, 20.0, 4.5, 4.5, 9, 9), np.zeros(3))[4, 4, 0]
        assert seen == pytest.approx(0.9 * (0.5 - sign * HARMONIC_1 * 0.2), abs=1e-5)


def test_a_ply_has_the_properties_of_3d_gaussian_splatting(ball: Splats) -> None:
    data = splat_ply_of(ball, (0.0, -2.0, 0.0))  # which is up in such files, so that nothing is turned
    head, _, body = data.partition(b"end_header\n")
    names = [line.split()[2] for line in head.decode().splitlines() if line.startswith("property float")]
    assert names[:3] == ["x", "y", "z"] and len(names) == 23 and f"element vertex {len(ball.positions)}\n" in head.decode()
    rows = np.frombuffer(body, "<f4").reshape(-1, len(names))
    columns = dict(zip(names, rows.T, strict=True))
    np.testing.assert_array_equal(rows[:, :3], ball.positions)
    np.testing.assert_allclose(1 / (1 + np.exp(-columns["opacity"])), ball.opacities, atol=1e-6)
    np.testing.assert_allclose(np.exp(columns["scale_1"]), ball.sigmas[1], rtol=1e-6)
    for c in range(3):
        np.testing.assert_array_equal(columns[f"f_dc_{c}"], ball.harmonics[:, 0, c])
        for k in range(3):
            np.testing.assert_array_equal(columns[f"f_rest_{3 * c + k}"], ball.harmonics[:, 1 + k, c])
    assert (columns["rot_0"] == 1).all() and not any(columns[f"rot_{i}"].any() for i in (1, 2, 3))


def test_an_spz_has_the_same_within_its_steps(ball: Splats) -> None:
    raw = gzip.decompress(spz_of(ball, (0.0, 3.0, 0.0)))
    magic, version, n, degree, bits, flags, reserved = struct.unpack_from("<IIIBBBB", raw)
    assert (raw[:4], version, n, degree, flags, reserved) == (b"NGSP", 2, len(ball.positions), 1, 0, 0)
    assert magic == 0x5053474E and len(raw) == 16 + n * (9 + 1 + 3 + 3 + 3 + 9)
    body = np.frombuffer(raw, np.uint8, offset=16)
    places, opacities, colors, sizes, turns, rest = np.split(body, np.cumsum([9 * n, n, 3 * n, 3 * n, 3 * n]))
    whole = np.zeros((3 * n, 4), np.uint8)
    whole[:, 1:] = places.reshape(-1, 3)
    positions = (whole.view("<i4") >> 8).reshape(n, 3) / 2**bits
    np.testing.assert_allclose(positions, ball.positions, atol=0.51 / 2**bits)
    np.testing.assert_allclose(opacities / 255, ball.opacities, atol=0.51 / 255)
    np.testing.assert_allclose((colors.reshape(n, 3) / 255 - 0.5) / 0.15, ball.harmonics[:, 0], atol=0.51 / 255 / 0.15)
    np.testing.assert_allclose(np.exp(sizes.reshape(n, 3) / 16 - 10), np.tile(ball.sigmas, (n, 1)), rtol=0.04)
    assert (np.abs(turns / 127.5 - 1) < 0.005).all()
    np.testing.assert_allclose((rest.reshape(n, 3, 3) - 128.0) / 128, ball.harmonics[:, 1:], atol=0.51 / 128)


@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (0.6, 0.0, -0.8), (2.0, 3.0, 6.0)])
def test_splats_that_are_turned_look_as_before_to_a_camera_that_is_too(up: Vector) -> None:
    rng = np.random.default_rng(1)
    splats = gray(rng.normal(0, 0.3, (6, 3)).tolist(), [0.7] * 6, [0.5] * 6, 0.1)
    splats.harmonics[:] = rng.normal(0, 0.2, (6, 4, 3))
    turn = turn_up(up)
    found = turned(splats, turn)
    x, y, z, w = turn
    matrix = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    np.testing.assert_allclose(matrix @ up / np.linalg.norm(up), (0, 1, 0), atol=1e-12)
    camera = from_front(2.0, 40.0, 24)
    pose = camera.pose.copy()
    pose[:3] = matrix @ pose[:3]
    image = draw_splats(found, replace(camera, pose=pose), WHITE)
    np.testing.assert_allclose(image, draw_splats(splats, camera, WHITE), atol=1e-5)


def test_what_no_splats_can_be_made_of_is_refused(ball_field: RadianceField, ball: Splats) -> None:
    with pytest.raises(ValueError, match="nothing"):
        splats_of(replace(ball_field, density=np.full_like(ball_field.density, -100.0)))
    for scale in (1e9, 1e5, 1e-6):
        with pytest.raises(ValueError, match="which SPZ cannot tell"):
            spz_of(replace(ball, positions=ball.positions * np.float32(scale), sigmas=ball.sigmas * np.float32(scale)))
    with pytest.raises(ValueError, match="which SPZ cannot tell"):
        spz_of(replace(ball, positions=ball.positions + np.float32(1e5)))
    with limited(1 << 16), pytest.raises(OverBudget):
        splats_of(ball_field)
