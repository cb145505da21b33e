"""What the walks over sections write: against order 0, constriction and the compiled core."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_entropy import codec, generate, needs_native

from vqrf.codec import walks
from vqrf.codec.compressed import CODED, KEPT, PRUNED
from vqrf.codec.entropy import Decoder, Encoder
from vqrf.codec.pyramid import build_nodes


def order0_bytes(values: np.ndarray) -> float:
    _, counts = np.unique(values, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


def test_contexts_beat_order_0_on_a_shell() -> None:
    field = generate.make_field(3, (32, 30, 28), n_codewords=64)
    partition, density = field.partition, field.density.levels
    assert len(walks.encode_partition(partition)) < 0.6 * order0_bytes(partition)
    one_bit_per_value = len(density) / 8
    assert len(walks.encode_density(partition, density)) < order0_bytes(density) - 0.5 * one_bit_per_value
    assert len(walks.encode_codes(partition, 64, field.codes)) < 0.95 * order0_bytes(field.codes)


def test_codes_alike_cost_less_than_a_bit_each() -> None:
    partition = np.full((8, 8, 8), CODED, np.uint8)
    assert len(walks.encode_codes(partition, 65536, np.full(512, 40_000, np.int32))) < 512 / 8


PARTITIONS = {
    "shell": generate.make_field(1, (12, 11, 10)).partition,
    "all pruned": np.full((5, 6, 7), PRUNED, np.uint8),
    "all coded": np.full((2, 3, 5), CODED, np.uint8),
    "all kept": np.full((4, 4, 9), KEPT, np.uint8),
    "noise": np.random.default_rng(4).integers(0, 3, (9, 5, 13)).astype(np.uint8),
    "one voxel at the end": np.pad(np.full((1, 1, 1), KEPT, np.uint8), ((8, 0), (4, 0), (12, 0))),
}


@needs_native
@pytest.mark.parametrize("name", PARTITIONS)
def test_the_compiled_core_writes_the_same_bytes_as_the_twin(name: str) -> None:
    native = importlib.import_module("vqrf._native")
    rng = np.random.default_rng(9)
    partition = PARTITIONS[name]
    n_coded, n_kept = int((partition == CODED).sum()), int((partition == KEPT).sum())
    assert native.encode_partition(partition) == walks.encode_partition(partition)
    for levels in (rng.integers(0, 256, n_coded + n_kept), np.arange(n_coded + n_kept) // 7 % 256):
        density = levels.astype(np.uint8)
        assert native.encode_density(partition, density) == walks.encode_density(partition, density)
    for size in (1, 2, 3, 300, 65536):
        codes = rng.integers(0, size, n_coded).astype(np.int32) // 2
        assert native.encode_codes(partition, size, codes) == walks.encode_codes(partition, size, codes)
    for n_channels in (1, 3, 12):
        kept = rng.integers(100, 140, (n_kept, n_channels)).astype(np.uint8)
        assert native.encode_kept(partition, kept) == walks.encode_kept(partition, kept)


@needs_native
@pytest.mark.parametrize("by_column", [False, True])
def test_tables_are_written_the_same_too(by_column: bool) -> None:
    native = importlib.import_module("vqrf._native")
    rng = np.random.default_rng(9)
    shapes = [(1, 1), (255, 3), (256, 3), (1, 300)]
    tables = [rng.integers(0, 200, shape).astype(kind) for shape in shapes for kind in (np.uint8, np.uint16)]
    assert native.encode_tables(tables, by_column) == walks.encode_tables(tables, by_column)
    assert native.encode_tables([], by_column) == walks.encode_tables([], by_column) == bytes(4)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_walks_decode_what_they_encoded(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.integers(2, 6)] * 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    partition = rng.choice(3, shape, p=rng.dirichlet((1, 1, 1))).astype(np.uint8)
    decoder = Decoder(walks.PARTITION_CONTEXTS, walks.encode_partition(partition))
    out = np.zeros_like(partition)
    blocks = walks.code_partition(decoder, out)
    np.testing.assert_array_equal(out, partition)
    np.testing.assert_array_equal(blocks, walks.find_blocks(partition))
    assert decoder.is_complete()


# ------------------------------------------------------------------------------------------------- pyramids


@pytest.fixture(scope="module")
def streams() -> list[Any]:
    """Of each level of a pyramid that is neither small nor simple: what the benchmark hears its coder write."""
    field = generate.make_pyramid(7, (40, 36, 44), n_levels=3, n_latents=6)
    streams: list[Any] = codec.listen(field)
    assert [stream.data for stream in streams] == walks.encode_levels(field.partition, field.coefficients)
    assert all(len(stream.heard) > stream.n_values / 3 for stream in streams)
    return streams


def test_levels_are_within_half_a_percent_of_their_models_own_code_length(streams: list[Any]) -> None:
    for stream in streams:
        assert len(stream.data) <= 1.005 * stream.ideal_bytes() + 4


def test_levels_are_not_above_constrictions_size_for_the_same_probabilities(streams: list[Any]) -> None:
    pytest.importorskip("constriction", reason="constriction, the size oracle, is not installed")
    for stream in streams:
        assert len(stream.data) <= 1.005 * stream.constriction_bytes() + 4


def test_the_contexts_of_levels_beat_order_0_where_coefficients_gather() -> None:
    field = generate.make_pyramid(8, (30, 31, 29), n_levels=2, n_latents=6)
    patch = np.argwhere(field.partition != PRUNED).min(1) > 12
    finest = field.coefficients[-1] * patch[:, None]
    levels = [*field.coefficients[:-1], finest.astype(np.int16)]
    data = walks.encode_levels(field.partition, levels)[-1]
    assert len(data) < 0.8 * order0_bytes(finest)


@needs_native
@pytest.mark.parametrize("name", PARTITIONS)
@pytest.mark.parametrize("n_levels", [0, 1, 4, 8])
def test_the_compiled_core_writes_the_same_levels_as_the_twin(name: str, n_levels: int) -> None:
    native = importlib.import_module("vqrf._native")
    partition = np.minimum(PARTITIONS[name], CODED)
    for n_latents in (1, 3, 12):
        field = generate.make_pyramid(n_latents, partition.shape, n_levels=n_levels, n_latents=n_latents, partition=partition)
        levels = list(field.coefficients)
        assert native.encode_levels(partition, levels) == walks.encode_levels(partition, levels)


@pytest.mark.parametrize("magnitude", [1, 2, 13, 14, 15, 16, 17, 29, 30, 45, 46, 8205, 8206, 16396, 16397])
def test_a_coefficient_of_any_size_comes_back(magnitude: int) -> None:
    nodes = build_nodes(np.ones((2, 2, 2), bool), 0)[0]
    values = np.array([[magnitude, -magnitude], [0, magnitude], *[[0, 0]] * 6], np.int16)
    encoder, found = Encoder(walks.level_contexts(2)), np.zeros_like(values)
    walks.code_level(encoder, nodes, None, values.copy())
    decoder = Decoder(walks.level_contexts(2), encoder.finish())
    seen = walks.code_level(decoder, nodes, None, found)
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal([cut for cut, _ in seen], np.clip(values, -15, 15))
    np.testing.assert_array_equal([magnitudes for _, magnitudes in seen], np.minimum(np.abs(values), 15))
    assert decoder.is_complete()
