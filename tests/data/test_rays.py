"""Training rays: pixels by number, batches that depend on nothing but their seed, and only rays that meet something."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from vqrf.cameras import Camera
from vqrf.data import rays as rays_module
from vqrf.data.rays import CameraTable, RayPool
from vqrf.data.scene import View
from vqrf.fields.field import RadianceField
from vqrf.kernels import Volume, select


def camera_at(turn: float, width: int, height: int) -> Camera:
    """3 units from the origin, looking at it, turned around y; its principal point is off the centre."""
    c, s = np.cos(turn), np.sin(turn)
    pose = np.array([[c, 0, s, 3 * s], [0, 1, 0, 0.1], [-s, 0, c, 3 * c], [0, 0, 0, 1]])
    return Camera(pose, fx=20.0, fy=25.0, cx=width / 2 - 1.3, cy=height / 2 + 0.7, width=width, height=height)


@pytest.fixture(scope="module")
def views() -> list[View]:
    """Three views of different sizes whose pixels say which they are: (view, row, column)."""
    views = []
    for number, (width, height) in enumerate([(24, 20), (7, 31), (40, 5)]):
        image = np.empty((height, width, 3), np.uint8)
        image[..., 0], image[..., 1], image[..., 2] = number, *np.mgrid[:height, :width]
        views.append(View(camera_at(number, width, height), image, f"train/r_{number}"))
    return views


@pytest.fixture
def pool(views: list[View]) -> RayPool:
    return RayPool(views)


def pixels_of(colors: np.ndarray) -> np.ndarray:
    """[N,3] int: view, row and column that the colours say."""
    return np.rint(colors * 255).astype(int)


def test_the_rays_of_a_pool_are_those_of_its_cameras_in_order(
    views: list[View], pool: RayPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [np.concatenate(arrays) for arrays in zip(*(view.camera.rays() for view in views), strict=True)]
    for size in (1 << 19, 100, 1):
        monkeypatch.setattr(rays_module, "PIXELS_PER_CHUNK", size)
        got = [np.concatenate(arrays) for arrays in zip(*pool.chunks(), strict=True)]
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_allclose(got[1], expected[1], atol=2e-7)


def test_pixels_may_be_asked_for_in_any_order(views: list[View]) -> None:
    table = CameraTable([view.camera for view in views])
    every = table.rays(np.arange(table.n_pixels))
    some = np.random.default_rng(0).integers(0, table.n_pixels, 200)
    for got, expected in zip(table.rays(some), every, strict=True):
        np.testing.assert_array_equal(got, expected[some])


@pytest.mark.parametrize("outside", [-1, 24 * 20 + 7 * 31 + 40 * 5])
def test_a_pixel_that_no_view_has_is_refused(views: list[View], outside: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        CameraTable([view.camera for view in views]).rays(np.array([0, outside]))


def test_every_sampled_ray_comes_with_the_colour_of_its_pixel(views: list[View], pool: RayPool) -> None:
    origins, directions, colors = pool.sample(300, seed=(1, 2)).arrays
    assert (origins.dtype, directions.dtype, colors.dtype) == (np.float32,) * 3
    for (number, row, column), origin, direction in zip(pixels_of(colors), origins, directions, strict=True):
        camera = views[number].camera
        expected = camera.rays(np.array([row * camera.width + column]))
        np.testing.assert_array_equal(origin, expected[0][0])
        np.testing.assert_allclose(direction, expected[1][0], atol=2e-7)


def test_every_pixel_is_as_likely_as_any_other(pool: RayPool) -> None:
    n_pixels = pool.cameras.n_pixels
    codes = pixels_of(pool.sample(100 * n_pixels, seed=(3,)).targets) @ (1, 3, 3 * 256)
    counts = np.unique(codes, return_counts=True)[1]
    assert len(counts) == n_pixels
    assert 45 < counts.min() < counts.max() < 160  # Poisson of mean 100: six standard deviations


def test_a_batch_depends_on_its_seed_alone(views: list[View], pool: RayPool) -> None:
    for step in range(5):
        pool.sample(64, seed=(0, step))
    again = RayPool(views)
    batch, same, other = (some.sample(64, seed=seed) for some, seed in ((pool, (0, 7)), (again, (0, 7)), (again, (0, 8))))
    for a, b in zip(batch.arrays, same.arrays, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (batch.targets != other.targets).any()


def marching_hits(volume: Volume, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The definition, ray by ray: has it a sample in an occupied cell, and is that clear in spite of rounding?"""
    shape = np.array(volume.density.shape)
    hits, clear = np.zeros(len(origins), bool), np.ones(len(origins), bool)
    for i, (origin, direction) in enumerate(zip(origins.astype(np.float64), directions.astype(np.float64), strict=True)):
        bounds = (np.stack([volume.lo, volume.hi]) - origin) / direction
        enter, leave = max(bounds.min(0).max(), volume.equation.near), bounds.max(0).min()
        t = np.arange(enter, leave, volume.equation.step_world)
        u = (origin + t[:, None] * direction - volume.lo) / np.subtract(volume.hi, volume.lo) * (shape - 1)
        cell = np.clip(np.floor(u), 0, shape - 2).astype(int)
        occupied = volume.cells[tuple(cell.T)] != 0
        hits[i] = occupied.any()
        near_face = (np.abs(u[1:] - np.rint(u[1:])) < 1e-4).any(1)  # the first sample is on the lattice's face by definition
        clear[i] = not near_face.any() and (len(t) == 0 or leave - t[-1] < volume.equation.step_world - 1e-4)
    return hits, clear


def test_only_pixels_whose_ray_meets_an_occupied_cell_are_kept(
    views: list[View], pool: RayPool, ball_field: RadianceField
) -> None:
    volume = ball_field.volume()
    pool.keep_hits(volume)
    kept = np.unpackbits(pool.state()["kept_pixels"], count=pool.cameras.n_pixels).astype(bool)
    hits, clear = (np.concatenate(a) for a in zip(*(marching_hits(volume, *v.camera.rays()) for v in views), strict=True))
    np.testing.assert_array_equal(kept[clear], hits[clear])
    assert clear.mean() > 0.9
    assert 0 < kept.sum() == pool.n_kept < len(kept)

    numbers = np.concatenate([v.image.reshape(-1, 3) for v in views]).astype(int) @ (1, 3, 3 * 256)
    sampled = np.unique(pixels_of(pool.sample(100 * pool.n_kept, seed=(0,)).targets) @ (1, 3, 3 * 256))
    np.testing.assert_array_equal(sampled, np.sort(numbers[kept]))


def test_all_pixels_are_kept_where_no_ray_meets_anything(pool: RayPool, ball_field: RadianceField) -> None:
    volume = ball_field.volume()
    cells = np.zeros_like(volume.cells)
    pool.keep_hits(volume)
    pool.keep_hits(replace(volume, cells=cells, skip=select().measure_skip(cells)))
    assert pool.n_kept == pool.cameras.n_pixels


def test_hits_are_looked_for_among_all_pixels_each_time(pool: RayPool, ball_field: RadianceField) -> None:
    volume = ball_field.volume()
    cells = np.zeros_like(volume.cells)
    cells[7, 7, 7] = 1
    pool.keep_hits(volume)
    n_ball = pool.n_kept
    pool.keep_hits(replace(volume, cells=cells, skip=select().measure_skip(cells)))
    assert pool.n_kept < n_ball
    pool.keep_hits(volume)
    assert pool.n_kept == n_ball


def test_what_is_kept_goes_through_its_bits_unchanged(views: list[View], pool: RayPool, ball_field: RadianceField) -> None:
    pool.keep_hits(ball_field.volume())
    again = RayPool(views)
    again.restore(pool.state())
    for a, b in zip(pool.sample(100, seed=(5,)).arrays, again.sample(100, seed=(5,)).arrays, strict=True):
        np.testing.assert_array_equal(a, b)

    again.restore(RayPool(views).state())
    assert again.n_kept == again.cameras.n_pixels


def weighted(views: list[View]) -> list[View]:
    """Only pixels of even columns count in the first view, half as much in odd rows; all in the second; none in the third."""
    first = np.zeros(views[0].image.shape[:2], np.uint8)
    first[::2, ::2], first[1::2, ::2] = 255, 127
    return [replace(views[0], weight=first), views[1], replace(views[2], weight=np.zeros((5, 40), np.uint8))]


def test_weights_come_with_the_rays_and_pixels_of_none_are_never_sampled(views: list[View], ball_field: RadianceField) -> None:
    pool = RayPool(weighted(views))
    n_counting = 24 * 20 // 2 + 7 * 31
    assert pool.n_kept == n_counting == sum(len(origins) for origins, _ in pool.chunks())
    for hits in (False, True):
        if hits:
            pool.keep_hits(ball_field.volume())
            assert pool.n_kept < n_counting
        batch = pool.sample(3000, seed=(4,))
        number, row, column = pixels_of(batch.targets).T
        assert batch.weights is not None and set(number) == {0, 1}
        assert not (column[number == 0] % 2).any()
        expected = np.where((number == 0) & (row % 2 == 1), np.float32(127 / 255), 1)
        np.testing.assert_allclose(batch.weights, expected)
    again = RayPool(weighted(views))
    again.restore(pool.state())
    np.testing.assert_array_equal(again.sample(100, seed=(5,)).targets, pool.sample(100, seed=(5,)).targets)


def test_there_are_no_rays_without_a_pixel_that_counts(views: list[View]) -> None:
    with pytest.raises(ValueError, match="a pixel that counts"):
        RayPool([replace(views[0], weight=np.zeros((20, 24), np.uint8))])


def test_patches_are_whole_squares_of_neighbours_inside_of_their_views(views: list[View]) -> None:
    pool = RayPool(views, patch=4)
    batch = pool.sample(200 * 16, seed=(6,))
    assert batch.patch == 4
    number, row, column = np.moveaxis(pixels_of(batch.targets).reshape(200, 4, 4, 3), -1, 0)
    assert set(number.ravel()) == {0, 1, 2}
    np.testing.assert_array_equal(number, np.broadcast_to(number[:, :1, :1], number.shape))
    np.testing.assert_array_equal(row - row[:, :1, :1], np.broadcast_to(np.arange(4)[:, None], row.shape))
    np.testing.assert_array_equal(column - column[:, :1, :1], np.broadcast_to(np.arange(4), column.shape))
    alone = RayPool(views)
    for pixel in (0, 7, 1000):
        view = views[number.ravel()[pixel]]
        local = row.ravel()[pixel] * view.camera.width + column.ravel()[pixel]
        start = alone.cameras.starts[number.ravel()[pixel]]
        np.testing.assert_array_equal(batch.directions[pixel], alone.cameras.rays(np.array([start + local]))[1][0])
    with pytest.raises(ValueError, match="a multiple of 16 rays"):
        pool.sample(8, seed=(0,))
    with pytest.raises(ValueError, match="at least 6x6 pixels"):
        RayPool(views, patch=6)


def test_a_pool_holds_no_pixel_a_second_time() -> None:
    image = np.zeros((1000, 1000, 3), np.uint8)
    big = [View(camera_at(0, 1000, 1000), image, "train/r_0", image[..., 0].copy())]
    tracemalloc.start()
    pool = RayPool(big)
    pool.sample(100, seed=(0,))
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < image.nbytes / 20


def test_there_are_no_rays_without_views() -> None:
    with pytest.raises(ValueError, match="at least one view"):
        RayPool([])


def test_known_opacities_come_with_the_colours_and_those_of_views_without_any_are_nan(views: list[View]) -> None:
    opaque = [replace(view, opacity=view.image[..., 1] + view.image[..., 2]) for view in views]
    targets = RayPool(opaque).sample(500, seed=(1,)).targets
    assert targets.shape == (500, 4)
    bytes_of = np.rint(targets * 255).astype(int)
    np.testing.assert_array_equal(bytes_of[:, 3], bytes_of[:, 1] + bytes_of[:, 2])
    mixed = RayPool([opaque[0], views[1], opaque[2]]).sample(500, seed=(1,)).targets
    np.testing.assert_array_equal(mixed[:, :3], targets[:, :3])
    is_unknown = pixels_of(mixed[:, :3])[:, 0] == 1
    assert 0 < is_unknown.sum() < 500
    np.testing.assert_array_equal(mixed[:, 3], np.where(is_unknown, np.nan, targets[:, 3]))
