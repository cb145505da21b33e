"""The codebook: nearest codewords, weighted means, and codewords that idle."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqrf.compression.codebook import expire_codes, kd_order, train_codebook


def cloud(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(n, 5)).astype(np.float32), random.exponential(size=n)


def weighted_error(vectors: np.ndarray, importance: np.ndarray, codebook: np.ndarray, codes: np.ndarray) -> float:
    return float((importance * ((vectors - codebook[codes]) ** 2).sum(1)).sum() / importance.sum())


@pytest.mark.parametrize("n_codes", [1, 2, 7, 64])
def test_every_vector_has_the_nearest_codeword_and_every_codeword_a_vector(n_codes: int) -> None:
    vectors, importance = cloud(500)
    codebook, codes = train_codebook(vectors, importance, n_codes)
    assert codebook.dtype == np.float32 and codes.dtype == np.int32
    assert codebook.shape == (n_codes, 5) and codes.shape == (500,)
    distances = ((vectors[:, None].astype(np.float64) - codebook) ** 2).sum(-1)
    np.testing.assert_allclose(distances[np.arange(500), codes], distances.min(1), atol=1e-5)
    assert len(np.unique(codes)) == n_codes


def test_one_codeword_is_the_weighted_mean() -> None:
    vectors, importance = cloud(200)
    codebook, codes = train_codebook(vectors, importance, 1)
    np.testing.assert_allclose(codebook[0], importance @ vectors / importance.sum(), atol=1e-6)
    assert not codes.any()


@pytest.mark.parametrize("n_codes", [2, 8, 40])
def test_codewords_settle_at_the_weighted_means_of_their_vectors(n_codes: int) -> None:
    vectors, importance = cloud(800)
    codebook, codes = train_codebook(vectors, importance, n_codes)
    means = np.stack([np.average(vectors[codes == k], axis=0, weights=importance[codes == k]) for k in range(n_codes)])
    found, least = (weighted_error(vectors, importance, words, codes) for words in (codebook, means))
    assert least <= found < 1.01 * least


def test_more_codewords_and_more_importance_lower_the_error() -> None:
    vectors, importance = cloud(600)
    errors = [weighted_error(vectors, importance, *train_codebook(vectors, importance, n)) for n in (1, 4, 16, 64, 256)]
    assert all(b < 0.9 * a for a, b in itertools.pairwise(errors))

    half = np.where(np.arange(600) < 300, 100.0, 1.0)
    codebook, codes = train_codebook(vectors, half, 16)
    distances = ((vectors - codebook[codes]) ** 2).sum(1)
    assert distances[:300].mean() < 0.9 * distances[300:].mean()


@pytest.mark.parametrize("n_codes", [3, 16, 4096])
def test_few_different_vectors_are_held_exactly_and_no_codeword_twice(n_codes: int) -> None:
    different = cloud(3)[0]
    vectors = different[np.random.default_rng(0).integers(0, 3, 200)]
    codebook, codes = train_codebook(vectors, np.ones(200), n_codes)
    assert len(codebook) == 3
    np.testing.assert_allclose(codebook[codes], vectors, atol=1e-6)


def test_without_expiry_codewords_that_idle_are_missing_at_the_end() -> None:
    vectors = np.concatenate([np.zeros((900, 2)), np.random.default_rng(0).normal(size=(100, 2))]).astype(np.float32)
    (expired, codes), (idle, others) = (train_codebook(vectors, np.ones(1000), 50, has_expiry=b) for b in (True, False))
    assert len(expired) == 50 and len(idle) < 15, "of 50 that were drawn, about 45 are the same"
    errors = [weighted_error(vectors, np.ones(1000), *found) for found in ((expired, codes), (idle, others))]
    assert errors[0] < errors[1] / 2


def test_a_codebook_of_nothing_has_one_codeword() -> None:
    codebook, codes = train_codebook(np.zeros((0, 4), np.float32), np.zeros(0), 16)
    assert codebook.shape == (1, 4) and codes.shape == (0,)


def test_vectors_of_no_importance_move_no_codeword() -> None:
    vectors, importance = cloud(100)
    importance[50:] = 0
    vectors[50:] += 100
    codebook, codes = train_codebook(vectors, importance, 10)
    assert np.abs(codebook).max() < 10
    assert codes.shape == (100,)
    equal, _ = train_codebook(vectors, np.zeros(100), 10)
    assert np.abs(equal).max() > 50  # where nothing is important, all count the same


def test_a_codebook_depends_on_its_seed_and_not_on_the_unit_of_importance() -> None:
    vectors, importance = cloud(300)
    first, scaled, other = (
        train_codebook(vectors, w, 20, seed=s) for w, s in [(importance, 3), (8 * importance, 3), (importance, 4)]
    )
    for a, b in zip(first, scaled, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])


def test_idle_codewords_go_where_the_weighted_error_is_largest() -> None:
    vectors = np.arange(10, dtype=np.float32).reshape(5, 2)
    codebook = np.full((4, 2), -1, np.float32)
    errors = np.array([0.0, 5.0, 1.0, 9.0, 2.0])
    expire_codes(codebook, np.array([True, False, True, False]), vectors, errors)
    np.testing.assert_array_equal(codebook, [[-1, -1], vectors[3], [-1, -1], vectors[1]])
    expire_codes(codebook, np.array([False] * 4), vectors[:2], errors[:2])  # fewer vectors than idle codewords
    np.testing.assert_array_equal(codebook[:2], vectors[[1, 0]])


@given(n=st.integers(0, 40), seed=st.integers(0, 9))
def test_kd_order_is_an_order_that_splits_the_widest_channel_in_halves(n: int, seed: int) -> None:
    codebook = cloud(50, seed)[0]
    rows = np.random.default_rng(seed).permutation(50)[:n]

    def check(order: np.ndarray) -> None:
        if len(order) < 2:
            return
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        widest = np.ptp(codebook[order], axis=0).argmax()
        assert codebook[first, widest].max() <= codebook[second, widest].min()
        check(first)
        check(second)

    order = kd_order(codebook, rows)
    np.testing.assert_array_equal(np.sort(order), np.sort(rows))
    check(order)
