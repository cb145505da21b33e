"""Exposures: found where they are known, undone, and of no effect where there is nothing to find."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vqrf.data.exposure import (
    AS_IT_IS,
    ExposedPool,
    exposures_of,
    inverses_of,
    is_background,
    maps_of,
    without_exposure,
    without_exposures,
)
from vqrf.data.images import bytes_from_colors
from vqrf.data.rays import RayPool
from vqrf.data.scene import Scene, View
from vqrf.fields.field import RadianceField
from vqrf.rendering.render import render

WHITE = np.ones(3, np.float32)


def random_maps(n: int, seed: int = 0) -> np.ndarray:
    """Exposures of up to 30 % with a white balance and an offset."""
    random = np.random.default_rng(seed)
    gains = random.uniform(0.7, 1.3, (n, 1)) * random.uniform(0.9, 1.1, (n, 3))
    return np.concatenate([np.eye(3) * gains[:, None], random.uniform(-0.02, 0.02, (n, 3, 1))], -1)


def sums_of(maps: np.ndarray, n_pixels: int = 4000) -> np.ndarray:
    """What pixels of random colours say of these maps."""
    sums = []
    for seed, each in enumerate(maps):
        colors = np.random.default_rng(seed).uniform(0, 0.7, (n_pixels, 3)) ** 2
        seen = np.concatenate([colors, np.ones((n_pixels, 1))], 1)
        sums.append(seen.T @ np.concatenate([seen, seen @ each.T], 1))
    return np.stack(sums)


def test_where_nothing_is_known_photos_are_as_they_are() -> None:
    np.testing.assert_array_equal(maps_of(np.zeros((5, 4, 7))), np.broadcast_to(AS_IT_IS, (5, 3, 4)))


def test_the_mean_of_what_is_found_is_as_it_is() -> None:
    found = maps_of(sums_of(random_maps(9) * 0.8))
    np.testing.assert_allclose(found.mean(0), AS_IT_IS, atol=1e-12)


def test_exposures_are_found_but_for_what_all_photos_have() -> None:
    maps = random_maps(40)
    found = maps_of(sums_of(maps))
    color = np.array([0.3, 0.3, 0.3, 1.0])
    wanted = maps @ color
    left = (found @ color) / wanted
    assert (left / left.mean(0)).std() < (wanted / wanted.mean(0)).std() / 5


def test_an_inverse_undoes_a_map() -> None:
    maps = random_maps(6)
    colors = np.random.default_rng(1).uniform(0.1, 0.6, (6, 3)).astype(np.float32)
    photos = (maps[..., :3] @ colors[..., None])[..., 0] + maps[..., 3]
    undone = without_exposure(photos.astype(np.float32), inverses_of(maps), WHITE)
    np.testing.assert_allclose(undone, colors, atol=1e-5)


def test_a_photo_of_one_colour_or_none_is_not_blown_up() -> None:
    maps = np.stack([np.zeros((3, 4)), 100 * AS_IT_IS])
    assert np.abs(np.linalg.norm(inverses_of(maps)[..., :3], 2, (1, 2))).max() <= 4 + 1e-6


def test_what_stands_behind_the_thing_stays_as_it_is() -> None:
    inverses = np.broadcast_to(inverses_of(2 * AS_IT_IS[None]), (4, 3, 4))
    pixels = np.array([[1, 1, 1, 0], [0.75, 0.75, 0.75, 0.5], [0.5, 0.5, 0.5, 1], [1, 1, 1, np.nan]], np.float32)
    expected = np.array([1, 0.625, 0.25, 1])[:, None] * np.ones(3)
    np.testing.assert_allclose(without_exposure(pixels, inverses, WHITE), expected, atol=1e-6)
    np.testing.assert_array_equal(is_background(pixels, WHITE), [False, False, False, True])
    gray = np.array([[0.5, 0.5, 0.5, np.nan]], np.float32)
    assert not is_background(gray, gray[0, :3]).any(), "a mean colour is behind no photo"


def exposed(scene: Scene, field: RadianceField, maps: np.ndarray) -> Scene:
    """The scene with renders for training photos, seen through these maps."""

    def photo(view: View, each: np.ndarray) -> View:
        image = render(field, view.camera)
        opacity = image.opacity[..., None]
        of_thing = np.concatenate([image.rgb - (1 - opacity), opacity], -1)
        photo = (of_thing @ each.T + 1 - opacity).astype(np.float32)
        return replace(view, image=bytes_from_colors(photo), opacity=bytes_from_colors(image.opacity))

    return replace(scene, train=tuple(map(photo, scene.train, maps)))


def test_a_pool_finds_the_exposures_of_photos_of_a_field(scene: Scene, ball_field: RadianceField) -> None:
    maps = random_maps(len(scene.train))
    maps[..., 3] = 0
    maps[..., :3] = maps[..., :3] @ np.linalg.inv(maps[..., :3].mean(0))
    photos = exposed(scene, ball_field, maps)
    pool, plain = ExposedPool(photos), RayPool(exposed(scene, ball_field, np.broadcast_to(AS_IT_IS, maps.shape)).train)

    def off() -> float:
        batches = [source.sample(4000, seed=(5,)).targets for source in (pool, plain)]
        return float(np.abs(batches[0] - batches[1]).mean())

    before = off()
    for step in range(20):
        pool.follow(ball_field.volume(), seed=(0, step))
    assert off() < before / 4
    again = ExposedPool(photos)
    again.restore(pool.state())
    np.testing.assert_array_equal(again.sample(100, seed=(1,)).targets, pool.sample(100, seed=(1,)).targets)


def test_nothing_is_concluded_from_a_field_that_explains_nothing(scene: Scene, ball_field: RadianceField) -> None:
    pool = ExposedPool(scene)
    empty = replace(ball_field, density=np.full_like(ball_field.density, -100))
    pool.follow(empty.volume(), seed=(0,))
    np.testing.assert_array_equal(pool.sums, 0)
    np.testing.assert_array_equal(pool.sample(99, seed=(1,)).targets, RayPool(scene.train).sample(99, seed=(1,)).targets)


def test_the_notes_of_a_field_give_its_photos_as_it_learnt_them(scene: Scene, ball_field: RadianceField) -> None:
    maps = random_maps(len(scene.train))
    photos = exposed(scene, ball_field, maps)
    undone = without_exposures(photos, exposures_of(photos, maps))
    plain = exposed(scene, ball_field, np.broadcast_to(AS_IT_IS, maps.shape))
    off = [np.abs(a.image.astype(int) - b.image).mean() for a, b in zip(undone.train, plain.train, strict=True)]
    assert max(off) < 3  # what was too bright is lost
    assert undone.test == photos.test


@pytest.mark.parametrize("said", [None, 3, [], {"train/r_0": 1}, {"train/r_0": ["x"] * 12}, {"train/r_0": [float("nan")] * 12}])
def test_notes_that_say_nonsense_change_nothing(scene: Scene, said: object) -> None:
    assert all(v.image is w.image for v, w in zip(without_exposures(scene, said).train, scene.train, strict=True))
