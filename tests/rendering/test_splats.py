"""Splats: what they absorb, what they look like, one of them drawn in closed form, places and boxes, and files read back."""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace

import numpy as np
import pytest

from vqrf.cameras import Camera
from vqrf.codec.about import About, FirstView
from vqrf.fields.field import RadianceField
from vqrf.geometry import Front, Lattice, Unbounded, Vector
from vqrf.memory import OverBudget, limited
from vqrf.rendering.splats import (
    BLUR,
    DEEPEST,
    DENSEST,
    FAR,
    HARMONIC_0,
    HARMONIC_1,
    SPREAD,
    Splats,
    _opacities,
    _placed,
    _score,
    draw_splats,
    splat_ply_of,
    splats_of,
    spz_of,
    turned,
    turns_and_sizes,
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
    axes = np.tile(np.diag(np.full(3, sigma, np.float32)), (len(colors), 1, 1))
    return Splats(np.float32(positions), axes, np.float32(opacities), harmonics)


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
    inside = np.abs(splats.positions).max(-1) < lattice.extent[2] / 6 + 0.4 * splats.axes[0, 0, 0] / 0.6
    cube = Splats(splats.positions[inside], splats.axes[inside], splats.opacities[inside], 0 * splats.harmonics[inside])
    n = round(inside.sum() ** (1 / 3))
    assert n**3 == inside.sum() and n >= 6
    camera = from_front(40.0, 40.0 * 300 / lattice.extent[2], 48)  # so near that drawing widens no splat by much
    light = 1 - draw_splats(cube, camera, np.zeros(3)).mean() / 0.5  # of splats that are gray
    voxel = lattice.extent[2] / (lattice.shape[2] - 1)
    assert -np.log(light) == pytest.approx(depth * n * voxel / (lattice.extent[2] / 3), rel=0.12)


def test_a_ball_looks_alike_and_its_colours_are_the_fields(ball_field: RadianceField, ball: Splats) -> None:
    _, kept = splats_of(ball_field)
    assert (kept.n_seen, kept.share) == (len(ball.positions), 1) and kept.psnr > 21, "it has 20 voxels along a side"
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
    np.testing.assert_allclose(np.exp(columns["scale_1"]), ball.axes[:, 1, 1], rtol=1e-6)
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
    np.testing.assert_allclose(np.exp(sizes.reshape(n, 3) / 16 - 10), np.diagonal(ball.axes, axis1=1, axis2=2), rtol=0.04)
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


# ------------------------------------------------------------------------------------------------------------------ places

C, S = np.cos(0.3), np.sin(0.3)
SPACES = {
    "front": Front.looking(np.array([[C, -S, 0, 0.2], [S, C, 0, 0.3], [0, 0, 1, 0.1], [0, 0, 0, 1]]), 1.0, 1.0),
    "unbounded": Unbounded(((C, -S, 0.0, 0.1), (S, C, 0.0, -0.2), (0.0, 0.0, 1.0, 0.05), (0.0, 0.0, 0.0, 1.0))),
}
LATTICES = {
    "front": Lattice((-0.6, -0.6, 0.1), (0.6, 0.6, 0.8), (37, 37, 22), SPACES["front"]),
    "unbounded": Lattice((-1.9, -1.9, -1.9), (1.9, 1.9, 1.9), (47, 47, 47), SPACES["unbounded"]),
}
AMID = About(view=FirstView((0.7, 0.0, 0.2), (0.0, 0.0, 0.0)), distance=(0.3, 0.8), pitch=(-30.0, 30.0))


def place_of(field: RadianceField, kind: str, *, fog: float | None = None) -> RadianceField:
    """A wall with colours in waves, aslant before cameras or near and far around them; or fog of so deep a voxel."""
    lattice = LATTICES[kind]
    place = lattice.place_from_index(np.stack(np.meshgrid(*map(np.arange, lattice.shape), indexing="ij"), -1))
    voxel = float((lattice.extent / (np.array(lattice.shape) - 1)).mean())
    equation = replace(field.equation, step_world=voxel / 2, near=0.01)
    thick = 2.5 * voxel
    room = np.abs(np.abs(place * (1.0, 1.3, 0.8)).max(-1) - 1.25 - thick)
    slanted = np.maximum(
        np.abs(place[..., 2] + 0.4 * place[..., 0] - 0.45 - thick), np.abs(place[..., :2]).max(-1) + thick - 0.45
    )
    density = 200 * (thick - (slanted if kind == "front" else room)) + 13
    if fog is not None:
        density = np.full(lattice.shape, equation.density_of(1 - float(np.exp(-fog / 2))))
    features = 3 * np.sin(5 * place @ np.array([[1.0, 0.3, 0.2], [0.1, 1.0, 0.4], [0.3, 0.2, 1.0]]))
    return replace(
        field, lattice=lattice, density=density.astype(np.float32), features=features.astype(np.float32), equation=equation
    )


@pytest.mark.parametrize("kind", SPACES)
def test_the_edges_of_a_voxel_are_the_slopes_of_the_map_to_the_world(kind: str) -> None:
    lattice = LATTICES[kind]
    index = np.random.default_rng(1).uniform(0.1, 0.9, (400, 3)) * (np.array(lattice.shape) - 1)
    around = 1e-4 * np.eye(3)
    ahead, behind = (lattice.world_from_index(index[:, None] + sign * around) for sign in (1, -1))
    expected = (ahead - behind).swapaxes(-1, -2) / 2e-4
    is_smooth = np.ones(400, bool)
    if kind == "unbounded":  # two pieces meet where the largest coordinates are equal, or 1
        place = np.sort(np.abs(lattice.place_from_index(index)), -1)
        is_smooth = (np.abs(place[:, 2] - 1) > 1e-3) & (place[:, 2] - place[:, 1] > 1e-3)
        assert (place[:, 2] > 1.5).any() and (place[:, 2] < 1).any()
    assert is_smooth.sum() > 350
    np.testing.assert_allclose(lattice.edges_from_index(index)[is_smooth], expected[is_smooth], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", SPACES)
def test_the_shadow_of_a_splat_is_that_of_its_voxel(kind: str, ball_field: RadianceField) -> None:
    """Seen from amid the cameras: its outline at one standard deviation, against where the edges of the voxel appear."""
    lattice, eyes = LATTICES[kind], np.random.default_rng(2).normal((0.1, 0.1, 0.0), 0.2, (9, 3))
    index = np.random.default_rng(3).uniform(0.05, 0.95, (300, 3)) * (np.array(lattice.shape) - 1)
    positions, axes = _placed(lattice, index, eyes)
    middle = eyes.mean(0)

    def seen(points: np.ndarray) -> np.ndarray:
        away = points - middle
        return away / np.linalg.norm(away, axis=-1, keepdims=True)

    for axis in range(3):
        step = 1e-3 * np.eye(3)[axis]
        moved = (seen(lattice.world_from_index(index + step)) - seen(lattice.world_from_index(index - step))) / 2e-3
        distance = np.linalg.norm(positions - middle, axis=-1, keepdims=True)
        sight = seen(positions)
        across = axes[:, :, axis] - sight * np.einsum("ni,ni->n", sight, axes[:, :, axis])[:, None]
        off = np.linalg.norm(across / distance - SPREAD * moved, axis=-1)
        assert np.quantile(off / np.linalg.norm(SPREAD * moved, axis=-1).clip(1e-3), 0.95) < 2e-2
    deep = np.linalg.norm(np.einsum("ni,nij->nj", seen(positions), axes), axis=-1)
    assert (deep < (DEEPEST + 1e-9) * np.linalg.norm(positions - middle, axis=-1)).all()


def test_what_is_endlessly_far_is_drawn_in_and_looks_as_large() -> None:
    lattice = replace(LATTICES["unbounded"], lo=(-1.9997,) * 3, hi=(1.9997,) * 3)
    eyes = np.eye(3)
    index = np.argwhere(np.ones(lattice.shape, bool))[::97]
    positions, _ = _placed(lattice, index, eyes)
    world = lattice.world_from_index(index)
    before, after = (np.linalg.norm(points - 1 / 3, axis=-1) for points in (world, positions))
    far = FAR * float(np.linalg.norm(eyes - 1 / 3, axis=-1).max())
    assert before.max() > 20 * far and after.max() < 2 * far
    np.testing.assert_allclose(positions[before < far], world[before < far])
    np.testing.assert_allclose((positions - 1 / 3) / after[:, None], (world - 1 / 3) / before[:, None], atol=1e-9)


@pytest.mark.parametrize("kind", SPACES)
def test_splats_of_a_place_absorb_what_the_field_does(kind: str, ball_field: RadianceField) -> None:
    """Fog that is even by places: what a way through some layers of voxels takes, by splats and by a step of places each."""
    lattice = LATTICES[kind]
    field = place_of(ball_field, kind, fog=0.3)
    eye = lattice.space.eye if kind == "front" else np.zeros(3)
    index = np.argwhere(np.ones(lattice.shape, bool))
    place = lattice.place_from_index(index)
    depth = place[:, 2] if kind == "front" else place[:, 0]
    voxel = lattice.extent[0] / (lattice.shape[0] - 1)
    layers = np.unique(np.round(depth, 9))
    first, n = {"front": (8, 9), "unbounded": (32, 10)}[kind]
    index = index[(depth > layers[first] - 1e-6) & (depth < layers[first + n - 1] + 1e-6)]
    eyes = eye + 1e-3 * np.eye(3)
    positions, axes = _placed(lattice, index, eyes)
    opacities = _opacities(field, index, eyes)
    target = positions.mean(0)
    splats = Splats(*(np.float32(x) for x in (positions, axes, opacities, np.zeros((len(index), 4, 3)))))
    back = (eye - target) / np.linalg.norm(eye - target)
    right = np.cross([0.1, 1.0, 0.2], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, eye], 1)
    light = 1 - draw_splats(splats, Camera(pose, 600.0, 600.0, 40.0, 40.0, 80, 80), np.zeros(3)).mean() / 0.5
    rays = Camera(pose, 600.0, 600.0, 40.0, 40.0, 80, 80).rays()[1].astype(np.float64)
    ends = layers[first] - voxel / 2, layers[first + n - 1] + voxel / 2
    way = _ways(lattice, eye, rays, ends, 2 if kind == "front" else 0)
    assert -np.log(light) == pytest.approx(-np.log(np.exp(-0.3 * way / voxel).mean()), rel=0.06)


def _ways(lattice: Lattice, eye: np.ndarray, rays: np.ndarray, ends: tuple[float, float], axis: int) -> np.ndarray:
    """How long the ways of rays [N,3] are, in places, between two values of a coordinate of these."""
    t = np.geomspace(0.2, 100, 4000)
    places = lattice.space.place_of_world(eye + t[:, None, None] * rays[::97])
    inside = (places[1:, :, axis] > ends[0]) & (places[1:, :, axis] < ends[1])
    return (np.linalg.norm(np.diff(places, axis=0), axis=-1) * inside).sum(0)


@pytest.mark.parametrize(("kind", "least"), [("front", 23.0), ("unbounded", 26.0)])
def test_splats_of_a_place_look_like_it_and_do_not_without_the_slope(
    kind: str, least: float, ball_field: RadianceField, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = place_of(ball_field, kind)
    monkeypatch.setattr("vqrf.rendering.splats.SIDE", 64)
    splats, kept = splats_of(field, AMID)
    assert kept.psnr > least and kept.share == pytest.approx(1)
    fewer, less = splats_of(field, AMID, kept.n_seen // 2)
    assert len(fewer.positions) == kept.n_seen // 2 and 0.5 < less.share < 1 and less.n_seen == kept.n_seen
    if kind == "unbounded":  # around the wall in front, the faintest make it wider than it is
        assert less.psnr < kept.psnr
    monkeypatch.setattr("vqrf.rendering.splats.MOST_SIGHTS", 4 * kept.n_seen)  # of every sixth camera
    assert splats_of(field, AMID)[1].psnr > kept.psnr - 1
    mean = np.cbrt(np.abs(np.linalg.det(splats.axes)).mean())
    round_ones = replace(splats, axes=np.broadcast_to(np.float32(mean) * np.eye(3, dtype=np.float32), splats.axes.shape))
    assert _score(round_ones, field, AMID) < least - 3


def test_turns_and_sizes_are_those_of_the_axes_and_no_mirror() -> None:
    rng = np.random.default_rng(4)
    axes = (rng.normal(size=(500, 3, 3)) * np.exp(rng.normal(0, 2, (500, 1, 3)))).astype(np.float32)
    axes[:2] = np.eye(3), np.diag([3.0, 1.0, 2.0])
    turns, sizes = turns_and_sizes(axes)
    np.testing.assert_allclose(np.linalg.norm(turns, axis=-1), 1, atol=1e-9)
    assert turns[:, 3].min() > 0.8
    x, y, z, w = turns.T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix = np.array(rows).transpose(2, 0, 1)
    expected = axes.astype(np.float64) @ axes.astype(np.float64).swapaxes(-1, -2)
    found = matrix * sizes[:, None] ** 2 @ matrix.swapaxes(-1, -2)
    assert (np.abs(found - expected).max((1, 2)) < 1e-6 * np.abs(expected).max((1, 2))).all()
    np.testing.assert_allclose(sizes[:2], [[1, 1, 1], [3, 1, 2]], rtol=1e-6)


def test_a_splat_around_the_camera_is_not_drawn_and_one_that_fills_the_picture_is() -> None:
    camera = from_front(2.0, 20.0, 64)
    around = gray([[0, 0, 1.9]], [0.9], [0.0], 0.3)
    assert (draw_splats(around, camera, WHITE) == 1).all()
    filling = gray([[0, 0, 1.6]] * 3, [0.9] * 3, [0.0] * 3, 0.39)
    assert draw_splats(filling, camera, WHITE).max() < 0.9 and draw_splats(filling, camera, WHITE)[32, 32, 0] < 0.01


def test_pictures_do_not_depend_on_how_many_splats_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    splats = gray(
        rng.normal(0, 0.4, (300, 3)).tolist(), rng.uniform(0.2, 0.9, 300).tolist(), rng.uniform(0, 1, 300).tolist(), 0.1
    )
    camera = from_front(2.0, 40.0, 32)
    expected = draw_splats(splats, camera, WHITE)
    monkeypatch.setattr("vqrf.rendering.splats.PAIRS_PER_BATCH", 50)
    np.testing.assert_allclose(draw_splats(splats, camera, WHITE), expected, atol=2e-4)


def test_what_no_splats_can_be_made_of_is_refused(ball_field: RadianceField, ball: Splats) -> None:
    with pytest.raises(ValueError, match="nothing"):
        splats_of(replace(ball_field, density=np.full_like(ball_field.density, -100.0)))
    with pytest.raises(ValueError, match="does not say where its cameras were"):
        splats_of(place_of(ball_field, "unbounded"))
    with pytest.raises(ValueError, match="at least 1"):
        splats_of(ball_field, most=0)
    for scale in (1e9, 1e5, 1e-6):
        with pytest.raises(ValueError, match="which SPZ cannot tell"):
            spz_of(replace(ball, positions=ball.positions * np.float32(scale), axes=ball.axes * np.float32(scale)))
    with pytest.raises(ValueError, match="which SPZ cannot tell"):
        spz_of(replace(ball, positions=ball.positions + np.float32(1e5)))
    with limited(1 << 16), pytest.raises(OverBudget):
        splats_of(ball_field)
