"""The space of cameras amid a place that ends nowhere: its map against itself and the world, and back ends against a scene."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_scenes import LOSSES, SCENES, make_volume, random_targets, zero_gradients

from vqrf.cameras import Camera
from vqrf.fields.field import RadianceField
from vqrf.fields.storage import load_field, save_field
from vqrf.geometry import FARTHEST, Lattice, Unbounded
from vqrf.kernels import Volume, reference, select
from vqrf.kernels.constants import Equation
from vqrf.kernels.equation import LOSS_TERMS, Piece, pieces_of, tensors
from vqrf.rendering.render import render

CENTRE, HALF = np.array([1.0, -2.0, 0.5]), 1.5


def space_of(seed: int) -> Unbounded:
    rng = np.random.default_rng(seed)
    return Unbounded.around(rng.normal(size=3) * 3, float(np.exp(rng.normal())))


def all_around(volume: Volume, reach: float = 1.9) -> Volume:
    """The volume in the places up to so far from the middle, each axis a little otherwise."""
    return replace(
        volume, lo=(-reach, -reach + 0.1, -reach), hi=(reach, reach, reach - 0.2), space=Unbounded.around(CENTRE, HALF)
    )


def rays_amid(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rays that begin in the cube, or far outside of it; some run along an axis, through the middle, or on a seam."""
    rng = np.random.default_rng(n)
    origins = rng.normal(size=(n, 3))
    origins[::4] *= 12
    directions = rng.normal(size=(n, 3))
    directions[::7, rng.integers(3)] = 0
    directions[1::9] = np.eye(3)[rng.integers(3, size=len(directions[1::9]))]
    directions[2::9] = -origins[2::9]
    origins[3::9, 1] = origins[3::9, 0]
    directions[3::9, 1] = directions[3::9, 0]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return origins * HALF + CENTRE, directions


@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_one_map_undoes_the_other(seed: int, at: int) -> None:
    space, rng = space_of(seed), np.random.default_rng(at)
    y = rng.normal(size=(30, 3)) * np.exp(4 * rng.random((30, 1)))
    x = space.centre + space.half * y
    place = space.place_of_world(x)
    size, reach = np.abs(y).max(1), np.abs(place).max(1)
    np.testing.assert_allclose(place[size <= 1], y[size <= 1], atol=1e-9)
    np.testing.assert_allclose(reach[size > 1], (2 * size / (1 + size))[size > 1], atol=1e-9)
    assert (reach < 2).all()
    np.testing.assert_allclose(np.cross(place, y), 0, atol=1e-6)  # what is seen from the middle stays where it is
    np.testing.assert_allclose(space.world_of_place(place), x, rtol=1e-8, atol=1e-8)
    lattice = Lattice((-1.9, -1.9, -1.9), (1.9, 1.9, 1.9), (5, 6, 7), space)
    moved = lattice.moved((1.0, -2.0, 3.0))
    index = lattice.index_from_world(x)
    np.testing.assert_allclose(moved.world_from_index(index), x + np.array((1.0, -2.0, 3.0)), rtol=1e-8, atol=1e-8)
    assert np.isnan(space.world_of_place([2.0, 0.0, 0.0])).all()


def test_the_map_has_no_seams() -> None:
    space, rng = Unbounded.around(CENTRE, HALF), np.random.default_rng(0)
    x = CENTRE + HALF * 4 * rng.normal(size=(2000, 3))
    signs = rng.choice([-1, 1], (len(x[::3]), 3))
    x[::3] = CENTRE + HALF * np.abs(x[::3, :1]) * signs * [1, 1, 0.5]  # where two are the largest
    step = 1e-6 * rng.normal(size=x.shape)
    moved = np.linalg.norm(space.place_of_world(x + step) - space.place_of_world(x), axis=1)
    assert (moved < 4 * np.linalg.norm(step, axis=1) / HALF).all()


def samples_of(volume: Volume, piece: Piece, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and places of the samples of ray `i` in a piece."""
    s = torch.from_numpy(np.arange(piece.enter[i].item(), piece.leave[i].item(), volume.equation.step_world))[None]
    assert piece.begin is not None and piece.rate is not None and piece.bend is not None
    one = replace(piece, begin=piece.begin[i, None], rate=piece.rate[i, None], bend=piece.bend[i, None])
    return one.distances(s)[0].numpy(), piece.origins[i].numpy() + s[0].numpy()[:, None] * piece.directions[i].numpy()


def test_the_pieces_of_a_ray_join_and_lie_on_the_ray() -> None:
    """Each sample is the place of the world point at its distance, a step from the one before it, and none is left out."""
    volume = all_around(make_volume("logits", has_rows=False, dtype=np.float64))
    origins, directions = rays_amid(300)
    assert volume.space is not None
    pieces = list(pieces_of(tensors(volume), torch.from_numpy(origins), torch.from_numpy(directions)))
    assert len(pieces) == Unbounded.n_pieces
    step, n_used = volume.equation.step_world, []
    dense = np.concatenate([np.linspace(0, 40, 8000), np.geomspace(40, 4000, 4000)])
    for i in range(len(origins)):
        found = [samples_of(volume, piece, i) for piece in pieces]
        n_used.append(sum(len(t) > 0 for t, _ in found))
        t, places = (np.concatenate(column) for column in zip(*found, strict=True))
        at = volume.space.place_of_world(origins[i] + dense[:, None] * directions[i])
        inside = ((at > np.add(volume.lo, 1e-9)) & (at < np.add(volume.hi, -1e-9))).all(1) & (dense >= volume.equation.near)
        way = np.where(inside[1:] & inside[:-1], np.linalg.norm(np.diff(at, axis=0), axis=1), 0).sum()
        assert abs(len(t) * step - way) < 2.5 * step
        if not len(t):
            continue
        np.testing.assert_allclose(volume.space.place_of_world(origins[i] + t[:, None] * directions[i]), places, atol=1e-5)
        assert (np.diff(t) > 0).all()
        assert (t >= volume.equation.near - 1e-9).all()
        gaps = np.linalg.norm(np.diff(places, axis=0), axis=1)
        bent = np.linalg.norm(np.diff(places, 2, axis=0), axis=1) if len(t) > 2 else np.zeros(0)
        if inside[np.searchsorted(dense, t[0]) : np.searchsorted(dense, t[-1])].all():  # else it leaves and comes back
            assert (gaps < step * (1 + 1e-6)).all()
            assert (gaps > step / 2).all()  # around a bend
            assert (bent > 1e-6 * step).sum() <= 2 * (Unbounded.n_pieces - 1)
    assert max(n_used) >= 4
    assert min(n_used) == 0


@pytest.mark.parametrize("name", ["native", "warp"])
@pytest.mark.parametrize(("kind", "has_rows"), SCENES[:6])
def test_every_back_end_does_as_the_reference(name: str, kind: str, has_rows: bool) -> None:
    kernels = pytest.importorskip(f"vqrf.kernels.{name}", reason=f"there is nothing to run the back end {name}")
    volume = all_around(make_volume(kind, has_rows, np.float32))
    assert kernels.fault(volume) is None
    rays = tuple(array.astype(np.float32) for array in rays_amid(600))
    hits = kernels.hit_rays(volume, *rays), reference.hit_rays(volume, *rays)
    np.testing.assert_array_equal(*hits)
    assert 0 < hits[0].sum() < 600
    ours, theirs = kernels.render_rays(volume, *rays), reference.render_rays(volume, *rays)
    assert (theirs[1] < 0.5).sum() > 100
    for own, expected, tolerance in zip(ours, theirs, (getattr(kernels, "COLOR_TOLERANCE", 0) + 1e-4, 1e-4, 2e-3), strict=True):
        np.testing.assert_allclose(own, expected, atol=tolerance, rtol=1e-3)
    both = [zero_gradients(volume), zero_gradients(volume)]
    for back_end, into in zip((kernels, reference), both, strict=True):
        back_end.render_gradients(volume, *rays, random_targets(600, np.float32), LOSSES, into)
    for name_of in ("density", "features"):
        own, expected = (getattr(into, name_of) for into in both)
        np.testing.assert_allclose(own, expected, atol=0.02 * np.abs(expected).max())
    np.testing.assert_array_equal(both[0].touched, both[1].touched)
    importance = np.zeros(volume.density.shape), np.zeros(volume.density.shape)
    kernels.accumulate_importance(volume, *rays, importance[0])
    reference.accumulate_importance(volume, *rays, importance[1])
    np.testing.assert_allclose(importance[0], importance[1], atol=1e-3)


def test_gradients_are_those_of_finite_differences() -> None:
    volume = all_around(make_volume("logits", has_rows=False, dtype=np.float64))
    rays, target = rays_amid(60), random_targets(60, np.float64)
    losses = replace(LOSSES, point_color=0.0)  # in which weights are held
    into = zero_gradients(volume)
    reference.render_gradients(volume, *rays, target, losses, into)

    def loss(density: np.ndarray) -> float:
        terms = reference.render_gradients(replace(volume, density=density), *rays, target, losses, zero_gradients(volume))
        return terms["mse"] + sum(getattr(losses, name) * terms[name] for name in LOSS_TERMS)

    rng, n_checked = np.random.default_rng(0), 0
    for at in rng.permutation(np.argwhere(np.abs(into.density) > 1e-3 * np.abs(into.density).max()))[:12]:
        change = np.zeros_like(volume.density)
        change[tuple(at)] = 1e-6
        slope = (loss(volume.density + change) - loss(volume.density - change)) / 2e-6
        assert slope == pytest.approx(into.density[tuple(at)], rel=1e-3, abs=1e-7)
        n_checked += 1
    assert n_checked == 12


def field_of(inside: np.ndarray, lattice: Lattice, step: float = 0.004) -> RadianceField:
    """A solid of the world, red; `inside` [X,Y,Z] is how far its voxels are within it, in places."""
    features = np.broadcast_to(np.array([9.0, -9.0, -9.0], np.float32), (*lattice.shape, 3)).copy()
    equation = Equation(0.0, 0.5, step, 0.1, 1e-4, (0.0, 0.0, 1.0))
    return RadianceField(lattice, np.clip(400 * inside, -20, 40).astype(np.float32), features, (), equation)


def lattice_around(side: int, space: Unbounded) -> Lattice:
    return Lattice((-FARTHEST,) * 3, (FARTHEST,) * 3, (side, side + 1, side + 2), space)


@pytest.mark.parametrize("far", [0.6, 2.2, 9.0])
def test_a_ball_looks_round_and_is_as_far_as_it_is(far: float) -> None:
    """The oracle: where rays meet a ball, by the quadratic formula; in the cube, across its faces and edges, and far off."""
    space = Unbounded.around(CENTRE, HALF)
    direction = np.array([1.0, 0.9, 0.3]) / np.linalg.norm([1.0, 0.9, 0.3])
    middle, radius = CENTRE + HALF * far * direction, HALF * 0.35 * max(far, 1)
    lattice = lattice_around(110, space)
    index = np.stack(np.meshgrid(*[np.arange(side) for side in lattice.shape], indexing="ij"), -1)
    within = radius - np.linalg.norm(lattice.world_from_index(index) - middle, axis=-1)
    field = field_of(within / HALF / max(far, 1), lattice)
    pose = np.eye(4)
    right = np.cross(direction, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    pose[:3, :3] = np.stack([right, np.cross(right, direction), -direction], 1)
    pose[:3, 3] = CENTRE - HALF * (0.9 * direction - 0.2 * right)
    camera = Camera(pose, 60.0, 60.0, 32.0, 32.0, 64, 64)
    image = render(field, camera)
    origins, directions = (array.astype(np.float64) for array in camera.rays())
    towards = ((middle - origins) * directions).sum(1)
    square = radius**2 - ((middle - origins) ** 2).sum(1) + towards**2
    rim = radius - np.sqrt(radius**2 - square).reshape(64, 64)  # how far within its outline a ray passes
    at = lattice.index_from_world(middle)
    voxel = np.linalg.norm(lattice.world_from_index(at + 0.5) - lattice.world_from_index(at - 0.5)) / np.sqrt(3)
    assert (rim > voxel).sum() > 200
    assert (image.opacity[rim > voxel] > 0.5).all()
    assert (image.opacity[rim < -voxel] < 0.5).all()
    surely = square.reshape(64, 64) > 0.2 * radius**2
    distance = (towards - np.sqrt(np.maximum(square, 0))).reshape(64, 64)
    np.testing.assert_allclose(image.depth[surely], distance[surely], atol=voxel)
    np.testing.assert_allclose(image.rgb[surely], np.broadcast_to([1.0, 0.0, 0.0], (surely.sum(), 3)), atol=0.02)


def test_light_that_is_left_is_that_of_the_way_in_places() -> None:
    """Of even fog: exp(-depth of a step * samples), carried from piece to piece."""
    lattice = Lattice((-1.8,) * 3, (1.8,) * 3, (8, 8, 8), Unbounded.around(CENTRE, HALF))
    field = field_of(np.zeros(lattice.shape), lattice)
    thin = Equation(-5.0, 0.01, 0.001, 0.1, 1e-6, (0.0, 0.0, 1.0))
    field = replace(field, density=np.zeros_like(field.density), equation=thin)
    origins, directions = rays_amid(100)
    left = select().render_rays(field.volume(), origins.astype(np.float32), directions.astype(np.float32))[1]
    t = np.concatenate([np.linspace(0.1, 30, 20000), np.geomspace(30, 3000, 8000)])
    assert lattice.space is not None
    for i in range(100):
        places = lattice.space.place_of_world(origins[i] + t[:, None] * directions[i])
        inside = ((places >= lattice.lo) & (places <= lattice.hi)).all(1)
        way = np.where(inside[1:] & inside[:-1], np.linalg.norm(np.diff(places, axis=0), axis=1), 0).sum()
        depth = 0.01 * np.log1p(np.exp(-5.0)) * way / 0.001
        assert left[i] == pytest.approx(np.exp(-depth), abs=3e-3)


def test_no_ray_runs_farther_through_places_than_is_said() -> None:
    volume = all_around(make_volume("logits", has_rows=False, dtype=np.float64))
    pieces = list(pieces_of(tensors(volume), *(torch.from_numpy(array) for array in rays_amid(2000))))
    ways = sum(piece.leave.clamp(min=0) for piece in pieces)
    assert float(ways.max()) < volume.lattice.longest_way  # type: ignore[union-attr]


def test_a_field_is_kept_with_its_space(tmp_path: Path) -> None:
    lattice = lattice_around(6, space_of(4))
    save_field(tmp_path / "field.safetensors", field_of(np.zeros(lattice.shape), lattice), notes={})
    assert load_field(tmp_path / "field.safetensors")[0].lattice == lattice


def test_a_space_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        Unbounded(((np.nan,) * 4,) * 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="affine"):
        Unbounded(((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 1, 1)))
    for matrix, reach, reason in [
        (((1, 0, 0, 0), (1, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)), 1.0, "different points"),
        (((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)), 2.0, "within 1.99"),
        (((1e-13, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)), 1.0, "beyond|different"),
    ]:
        lattice = Lattice((-reach,) * 3, (reach,) * 3, (4, 4, 4), Unbounded(matrix))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=reason):
            field_of(np.zeros(lattice.shape), lattice)
