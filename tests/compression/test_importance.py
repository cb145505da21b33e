"""Importance and partition: what each voxel gives to the photos, and which voxels stay for it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from changed import changed
from hypothesis import given
from hypothesis import strategies as st

from vqrf.cameras import Camera
from vqrf.codec.compressed import CODED, KEPT, PRUNED
from vqrf.compression.importance import carrying, deal_out, measure_importance, partition_voxels, spread_out
from vqrf.data.rays import RayPool
from vqrf.data.scene import View
from vqrf.fields.field import RadianceField
from vqrf.rendering.render import render


def test_the_importance_of_all_voxels_is_the_light_of_all_rays(ball_field: RadianceField, ball_camera: Camera) -> None:
    bright = changed(ball_field, features=np.full_like(ball_field.features, 50), background=(0.0, 0.0, 0.0))
    view = View(ball_camera, np.zeros((20, 24, 3), np.uint8), "train/r_0")
    importance = measure_importance(ball_field, RayPool([view, view]))
    assert importance.shape == ball_field.lattice.shape and importance.dtype == np.float64
    assert (importance >= 0).all()
    assert importance.sum() == pytest.approx(2 * render(bright, ball_camera).rgb[..., 0].sum(), rel=1e-4)
    place = ball_field.lattice.world_from_index(np.argwhere(importance > 0))
    assert place[:, 2].min() > -0.5  # the camera looks from +z: the ball's far side is never seen


def fewest(values: list[int], least: int) -> int:
    """Brute force: size of the smallest set of values whose sum is at least `least`."""
    sizes = range(len(values) + 1)
    return next(n for n in sizes if any(sum(chosen) >= least for chosen in itertools.combinations(values, n)))


@given(values=st.lists(st.integers(0, 6), min_size=1, max_size=9), part=st.integers(0, 54), reverse=st.booleans())
def test_carrying_takes_the_fewest_voxels_and_of_equals_the_first(values: list[int], part: int, reverse: bool) -> None:
    total = sum(values)
    part = min(part, total)
    mask = carrying(np.array(values, np.float64), part / max(total, 1))
    assert mask.sum() == fewest(values, part)
    assert sum(value for value, taken in zip(values, mask, strict=True) if taken) >= part
    taken, left = (np.flatnonzero(mask), np.flatnonzero(~mask))
    for a, b in itertools.product(taken, left):
        assert values[a] > 0
        assert values[a] > values[b] or (values[a] == values[b] and a < b)


def test_importance_dealt_out_has_as_many_voxels_of_every_kind_and_others() -> None:
    importance = np.random.default_rng(0).exponential(size=(8, 9, 10))
    importance[:4] = 0
    dealt = deal_out(importance, 1)
    np.testing.assert_array_equal(np.sort(dealt, axis=None), np.sort(importance, axis=None))
    assert not dealt[:4].any(), "what no photo sees is not dealt anything"
    by_chance, by_importance = (partition_voxels(values, prune=0.9, keep=0.5) for values in (dealt, importance))
    np.testing.assert_array_equal(np.bincount(by_chance.ravel()), np.bincount(by_importance.ravel()))
    assert importance[by_chance != PRUNED].sum() < 0.8 * importance[by_importance != PRUNED].sum()
    assert not np.array_equal(dealt, deal_out(importance, 2))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_carrying_nothing_needs_no_voxel(share: float) -> None:
    assert not carrying(np.zeros((2, 3, 4)), share).any()


def test_a_share_of_one_is_every_voxel_of_any_importance() -> None:
    importance = np.array([[[1e6, 1e-300, 0.0, 1e-9]]])
    np.testing.assert_array_equal(carrying(importance, 1.0), importance > 0)
    np.testing.assert_array_equal(carrying(importance, 0.0), np.zeros_like(importance, bool))


@given(seed=st.integers(0, 99), keep=st.floats(0, 1), prune=st.floats(0, 1))
def test_the_partition_carries_what_its_dials_say(seed: int, keep: float, prune: float) -> None:
    keep, prune = sorted((keep, prune))
    importance = np.random.default_rng(seed).exponential(size=(3, 4, 5)) ** 3
    importance[importance < 0.1] = 0
    partition = partition_voxels(importance, prune=prune, keep=keep)
    assert partition.dtype == np.uint8 and partition.shape == (3, 4, 5)
    total = importance.sum()
    assert importance[partition == KEPT].sum() >= keep * total * (1 - 1e-9)
    assert importance[partition != PRUNED].sum() >= prune * total * (1 - 1e-9)
    by_rank = partition.ravel()[np.argsort(-importance.ravel(), kind="stable")].astype(int)
    assert (np.diff(by_rank) <= 0).all()  # KEPT = 2, CODED = 1, PRUNED = 0
    assert (partition[importance == 0] == PRUNED).all()


def test_a_partition_at_its_ends() -> None:
    importance = np.random.default_rng(0).random((3, 3, 3))
    assert (partition_voxels(importance, prune=1, keep=1) == KEPT).all()
    assert (partition_voxels(importance, prune=1, keep=0) == CODED).all()
    assert (partition_voxels(importance, prune=0, keep=0) == PRUNED).all()
    assert (partition_voxels(np.zeros((3, 3, 3)), prune=1, keep=1) == PRUNED).all()


def test_importance_that_is_spread_out_keeps_its_sum_and_reaches_one_voxel_further() -> None:
    importance = np.zeros((7, 6, 5))
    importance[3, 2, 2] = 8.0
    spread = spread_out(importance)
    assert spread.sum() == 8.0 and (importance == 0).sum() == importance.size - 1
    assert spread[3, 2, 2] == 1.0 and spread[4, 2, 2] == 0.5 and spread[4, 3, 3] == 0.125
    assert np.count_nonzero(spread) == 27
