"""The space of cameras that look one way: its map against itself and the world, and every back end against a known scene."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_scenes import LOSSES, SCENES, make_volume, random_targets, zero_gradients

from vqrf.cameras import Camera
from vqrf.fields.field import RadianceField
from vqrf.fields.storage import load_field, save_field
from vqrf.geometry import Front, Lattice
from vqrf.kernels import Volume, reference, select
from vqrf.kernels.constants import Equation
from vqrf.kernels.equation import pieces_of, tensors
from vqrf.rendering.render import render

NEAR, DEPTH = 1.5, 0.7


def pose_of(seed: int) -> np.ndarray:
    """A random rigid pose, some units from the origin."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation * np.sign(np.linalg.det(rotation)), rng.normal(size=3) * 3
    return pose


def front_of(seed: int) -> Front:
    return Front.looking(pose_of(seed), NEAR, DEPTH)


def in_front(volume: Volume, seed: int = 1) -> Volume:
    """The volume between near and ten times as far, before a camera of a random pose."""
    return replace(volume, lo=(-0.6, -0.5, 0.0), hi=(0.6, 0.5, 0.9 * DEPTH), space=front_of(seed)).moved(np.zeros(3))


def rays_before(n: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Rays of cameras near a pose, most of which look along it; some look across, along an axis, away, or miss."""
    rng, pose = np.random.default_rng(n), pose_of(seed)
    origins = rng.normal(size=(n, 3)) * [0.4, 0.4, 0.3]
    directions = rng.normal(size=(n, 3)) * [0.3, 0.3, 0.0] - [0, 0, 1.0]
    directions[::5] = rng.normal(size=(len(directions[::5]), 3))
    directions[::10, 2] = 0
    directions[1::20] = [0, 0, -1]
    origins[3::10] -= [0, 0, 4.0]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return origins @ pose[:3, :3].T + pose[:3, 3], directions @ pose[:3, :3].T


@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_one_map_undoes_the_other(seed: int, at: int) -> None:
    space, rng = front_of(seed), np.random.default_rng(at)
    pose, depth = pose_of(seed), NEAR * np.exp(3 * rng.random((20, 1)))
    local = np.concatenate([rng.normal(size=(20, 2)), -np.ones((20, 1))], 1) * depth
    x = local @ pose[:3, :3].T + pose[:3, 3]
    place = space.place_of_world(x)
    np.testing.assert_allclose(place[:, :2], local[:, :2] / depth, atol=1e-9)
    np.testing.assert_allclose(place[:, 2:], DEPTH * (1 - NEAR / depth), atol=1e-9)
    np.testing.assert_allclose(space.world_of_place(place), x, atol=1e-7)
    lattice = Lattice((-1.0, -1.0, 0.0), (1.0, 1.0, DEPTH), (5, 6, 7), space)
    np.testing.assert_allclose(lattice.world_from_index(lattice.index_from_world(x)), x, atol=1e-7)
    moved = lattice.moved((1.0, -2.0, 3.0))
    np.testing.assert_allclose(moved.world_from_index(lattice.index_from_world(x)), x + np.array((1.0, -2.0, 3.0)), atol=1e-7)
    assert np.isnan(space.place_of_world(pose[:3, 3] + pose[:3, 2])).all()


def test_what_is_walked_in_places_is_the_ray_in_the_world() -> None:
    """The places of world points on a ray are where its samples are, all of them between the faces that it passes."""
    volume = in_front(make_volume("logits", has_rows=False))
    origins, directions = rays_before(400)
    assert volume.space is not None
    (piece,) = pieces_of(tensors(volume), torch.from_numpy(origins), torch.from_numpy(directions))
    way = (piece.leave - piece.enter).numpy()
    n_hits = 0
    t = np.concatenate([np.linspace(0.01, 40, 2000), np.linspace(40, 4000, 1000)])
    for i in range(len(origins)):
        places = volume.space.place_of_world(origins[i] + t[:, None] * directions[i])
        inside = ((places >= volume.lo) & (places <= volume.hi)).all(1) & (t >= volume.equation.near)
        if way[i] < 0:
            assert not inside.any()
            continue
        n_hits += 1
        s = torch.linspace(0, 1, 9, dtype=torch.float64)[None] * piece.leave[i]
        one = replace(piece, begin=piece.begin[i, None], rate=piece.rate[i, None], bend=piece.bend[i, None])
        distance = one.distances(s)[0].numpy()
        straight = piece.origins[i].numpy() + s[0].numpy()[:, None] * piece.directions[i].numpy()
        np.testing.assert_allclose(
            volume.space.place_of_world(origins[i] + distance[:, None] * directions[i]), straight, atol=1e-9
        )
        assert ((t[inside] >= distance[0] - 1e-9) & (t[inside] <= distance[-1] + 1e-9)).all()
        assert (t[~inside & (t > distance[0] + 1e-9)] >= distance[-1] - 1e-9).all()
    assert 150 < n_hits < 390


@pytest.mark.parametrize("name", ["native", "warp"])
@pytest.mark.parametrize(("kind", "has_rows"), SCENES[:6])
def test_every_back_end_does_as_the_reference(name: str, kind: str, has_rows: bool) -> None:
    kernels = pytest.importorskip(f"vqrf.kernels.{name}", reason=f"there is nothing to run the back end {name}")
    volume = in_front(make_volume(kind, has_rows, np.float32))
    rays = tuple(array.astype(np.float32) for array in rays_before(600))
    np.testing.assert_array_equal(kernels.hit_rays(volume, *rays), reference.hit_rays(volume, *rays))
    ours, theirs = kernels.render_rays(volume, *rays), reference.render_rays(volume, *rays)
    assert (theirs[1] < 0.5).sum() > 100
    for own, expected, tolerance in zip(ours, theirs, (getattr(kernels, "COLOR_TOLERANCE", 0) + 1e-4, 1e-4, 2e-3), strict=True):
        np.testing.assert_allclose(own, expected, atol=tolerance, rtol=1e-3)
    both = [zero_gradients(volume), zero_gradients(volume)]
    for back_end, into in zip((kernels, reference), both, strict=True):
        back_end.render_gradients(volume, *rays, random_targets(600, np.float32), LOSSES, into)
    largest = np.abs(both[1].density).max()
    np.testing.assert_allclose(both[0].density, both[1].density, atol=0.02 * largest)
    np.testing.assert_array_equal(both[0].touched, both[1].touched)
    importance = np.zeros(volume.density.shape), np.zeros(volume.density.shape)
    kernels.accumulate_importance(volume, *rays, importance[0])
    reference.accumulate_importance(volume, *rays, importance[1])
    np.testing.assert_allclose(importance[0], importance[1], atol=1e-3)


def ball(space: Front, shape: tuple[int, int, int], middle: np.ndarray, radius: float) -> RadianceField:
    """A solid ball of the world, red, in the places of a space."""
    lattice = Lattice((-0.6, -0.6, 0.0), (0.6, 0.6, 0.9 * DEPTH), shape, space)
    index = np.stack(np.meshgrid(*[np.arange(side) for side in shape], indexing="ij"), -1)
    inside = radius - np.linalg.norm(lattice.world_from_index(index) - middle, axis=-1)
    equation = Equation(0.0, 0.5, 0.003, 0.1, 1e-4, (0.0, 0.0, 1.0))
    density = np.clip(400 * inside, -20, 40).astype(np.float32)
    features = np.broadcast_to(np.array([9.0, -9.0, -9.0], np.float32), (*shape, 3)).copy()
    return RadianceField(lattice, density, features, (), equation)


def test_a_ball_looks_round_and_is_as_far_as_it_is() -> None:
    """The oracle: where rays meet a ball, by the quadratic formula."""
    pose = pose_of(2)
    forward, right = -pose[:3, 2], pose[:3, 0]
    middle, radius = pose[:3, 3] + 4 * forward + 0.3 * right, 0.9
    field = ball(Front.looking(pose, NEAR, DEPTH), (80, 80, 60), middle, radius)
    moved = pose.copy()
    moved[:3, 3] += 0.5 * right - 0.2 * forward
    camera = Camera(moved, 60.0, 60.0, 32.0, 32.0, 64, 64)
    image = render(field, camera)
    origins, directions = (array.astype(np.float64) for array in camera.rays())
    towards = ((middle - origins) * directions).sum(1)
    square = radius**2 - ((middle - origins) ** 2).sum(1) + towards**2
    expected = square.reshape(64, 64) > 0
    assert (np.abs(image.opacity - expected) > 0.5).mean() < 0.01
    surely = square.reshape(64, 64) > 0.1
    assert surely.sum() > 300
    distance = (towards - np.sqrt(np.maximum(square, 0))).reshape(64, 64)
    np.testing.assert_allclose(image.depth[surely], distance[surely], rtol=0.02)
    np.testing.assert_allclose(image.rgb[surely], np.broadcast_to([1.0, 0.0, 0.0], (surely.sum(), 3)), atol=0.02)


def test_light_that_is_left_is_that_of_the_way_in_places() -> None:
    """Of even fog: exp(-depth of a step * samples), which the places of the ends of the ray's way in the world say."""
    field = ball(front_of(3), (8, 8, 8), np.zeros(3), 0.0)
    thin = replace(field.equation, density_bias=-5.0, step_world=0.001, interval=0.01)
    field = replace(field, density=np.zeros_like(field.density), equation=replace(thin, alpha_threshold=1e-6))
    origins, directions = rays_before(100, seed=3)
    left = select().render_rays(field.volume(), origins.astype(np.float32), directions.astype(np.float32))[1]
    t = np.linspace(0.1, 60, 12000)
    space = field.lattice.space
    assert space is not None
    for i in range(100):
        places = space.place_of_world(origins[i] + t[:, None] * directions[i])
        inside = places[((places >= field.lattice.lo) & (places <= field.lattice.hi)).all(1)]
        way = np.linalg.norm(inside[-1] - inside[0]) if len(inside) else 0.0
        depth = 0.01 * np.log1p(np.exp(-5.0)) * way / 0.001
        assert left[i] == pytest.approx(np.exp(-depth), abs=2e-3)


def test_a_field_is_kept_with_its_space(tmp_path: object) -> None:
    field = ball(front_of(4), (6, 7, 8), np.zeros(3), 1.0)
    path = tmp_path / "field.safetensors"  # type: ignore[operator]
    save_field(path, field, notes={})
    assert load_field(path)[0].lattice == field.lattice


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        (((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 0)), "different points"),
        (((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 1, -5.0)), "not in front"),
        (((1e13, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)), "within"),
    ],
)
def test_a_space_that_is_none_is_refused(matrix: object, reason: str) -> None:
    field = ball(front_of(4), (6, 7, 8), np.zeros(3), 1.0)
    with pytest.raises(ValueError, match=reason):
        replace(field, lattice=replace(field.lattice, space=Front(matrix)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="finite"):
        Front(((np.nan,) * 4,) * 4)  # type: ignore[arg-type]
