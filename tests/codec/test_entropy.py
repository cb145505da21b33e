"""The range coder against its own arithmetic and constriction, and the twin against the compiled core."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vqrf.codec import entropy
from vqrf.codec.compressed import CODED, KEPT, PRUNED
from vqrf.codec.entropy import Damaged, Decoder, Encoder
from vqrf.codec.pyramid import build_nodes
from vqrf.kernels import has_native


def load_script(name: str) -> ModuleType:
    """A script of the repository that is in no package."""
    path = Path(__file__).parents[2] / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load_script("conformance/generate.py")
codec = load_script("benchmarks/codec.py")
needs_native = pytest.mark.skipif(not has_native(), reason="the compiled core is not built")

symbols = st.lists(
    st.one_of(
        st.tuples(st.just("bit"), st.integers(0, 2), st.integers(0, 1)),
        st.tuples(st.just("tree"), st.just(8), st.integers(0, 255)),
        st.tuples(st.just("direct"), st.just(12), st.integers(0, 4095)),
    ),
    max_size=400,
)


def run(coder: Encoder | Decoder, script: list[tuple[str, int, int]]) -> list[int]:
    """Code bits (contexts 0..2), trees (contexts 4..) and direct numbers; the values that the coder saw."""
    seen = []
    for kind, parameter, value in script:
        if kind == "bit":
            seen.append(coder.bit(parameter, value))
        elif kind == "tree":
            seen.append(coder.tree(4, parameter, value))
        else:
            seen.append(coder.direct(parameter, value))
    return seen


@given(symbols)
@example([])
@example([("bit", 0, 1)] * 3000 + [("bit", 0, 0)] + [("bit", 0, 1)] * 3000)
@example([("bit", 0, 0)] * 3000 + [("bit", 1, 1)] * 3000)
def test_what_was_encoded_is_decoded_and_the_stream_ends_exactly_there(
    script: list[tuple[str, int, int]],
) -> None:
    encoder = Encoder(4 + 256)
    run(encoder, script)
    data = encoder.finish()
    decoder = Decoder(4 + 256, data)
    blank = [(kind, parameter, 0) for kind, parameter, _ in script]
    assert run(decoder, blank) == [value for _, _, value in script]
    assert decoder.is_complete()
    if script:
        with pytest.raises(Damaged):
            short = Decoder(4 + 256, data[:3])
            run(short, blank)
        longer = Decoder(4 + 256, data + b"\0")
        run(longer, blank)
        assert not longer.is_complete()


def test_a_carry_runs_through_waiting_bytes() -> None:
    """Zeros of a nearly certain 1 push `low` up to ...FFFF; the encoder must hold those bytes back."""
    rng = np.random.default_rng(5)
    n_waiting = 0
    for _ in range(300):
        encoder = Encoder(1)
        bits = (rng.random(200) < rng.random() ** 4).astype(int).tolist()
        for bit in bits:
            encoder.bit(0, bit)
            n_waiting = max(n_waiting, encoder._n_waiting)
        decoder = Decoder(1, encoder.finish())
        assert [decoder.bit(0) for _ in bits] == bits
    assert n_waiting >= 1


def test_no_probability_leaves_39_to_32728() -> None:
    model = entropy._Model(1)
    for bit in (0, 1):
        for _ in range(5000):
            model.update(0, bit)
            assert 39 <= model.probability(0) <= 32728
        assert model.probability(0) == (39, 32728)[bit]


def skewed_bits(n: int) -> list[tuple[int, int]]:
    """(context, bit): contexts of every certainty."""
    rng = np.random.default_rng(11)
    chances = rng.uniform(0, 1, 64) ** 6
    contexts = rng.integers(0, 64, n)
    return list(zip(contexts.tolist(), (rng.random(n) < chances[contexts]).astype(int).tolist(), strict=True))


def test_the_bytes_are_within_half_a_percent_of_the_models_own_code_length() -> None:
    script = skewed_bits(100_000)
    encoder, model, ideal = Encoder(64), entropy._Model(64), 0.0
    for context, bit in script:
        p = model.probability(context) / 32768
        ideal -= math.log2(p if bit else 1 - p)
        model.update(context, bit)
        encoder.bit(context, bit)
    assert 8 * len(encoder.finish()) <= 1.005 * ideal + 32


def test_the_bytes_are_not_above_constrictions_for_the_same_probabilities() -> None:
    constriction = pytest.importorskip("constriction", reason="constriction, the size oracle, is not installed")
    script = skewed_bits(100_000)
    encoder, model = Encoder(64), entropy._Model(64)
    chances = []
    for context, bit in script:
        chances.append(model.probability(context) / 32768)
        model.update(context, bit)
        encoder.bit(context, bit)
    oracle = constriction.stream.queue.RangeEncoder()
    family = constriction.stream.model.Bernoulli(perfect=False)
    oracle.encode(np.array([bit for _, bit in script], np.int32), family, np.array(chances, np.float64))
    assert len(encoder.finish()) <= 1.005 * 4 * len(oracle.get_compressed()) + 4


def test_adaptation_costs_little_over_the_static_order_0_entropy() -> None:
    rng = np.random.default_rng(2)
    values = np.clip(rng.normal(128, 12, 20_000), 0, 255).astype(int)
    encoder = Encoder(256)
    for value in values.tolist():
        encoder.tree(0, 8, value)
    counts = np.bincount(values)[np.bincount(values) > 0]
    order0 = -(counts * np.log2(counts / counts.sum())).sum()
    assert 8 * len(encoder.finish()) <= 1.02 * order0 + 8 * 256


def order0_bytes(values: np.ndarray) -> float:
    _, counts = np.unique(values, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


def test_contexts_beat_order_0_on_a_shell() -> None:
    field = generate.make_field(3, (32, 30, 28), n_codewords=64)
    partition, density = field.partition, field.density.levels
    assert len(entropy.encode_partition(partition)) < 0.6 * order0_bytes(partition)
    one_bit_per_value = len(density) / 8
    assert len(entropy.encode_density(partition, density)) < order0_bytes(density) - 0.5 * one_bit_per_value
    assert len(entropy.encode_codes(partition, 64, field.codes)) < 0.95 * order0_bytes(field.codes)


def test_codes_alike_cost_less_than_a_bit_each() -> None:
    partition = np.full((8, 8, 8), CODED, np.uint8)
    assert len(entropy.encode_codes(partition, 65536, np.full(512, 40_000, np.int32))) < 512 / 8


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
    assert native.encode_partition(partition) == entropy.encode_partition(partition)
    for levels in (rng.integers(0, 256, n_coded + n_kept), np.arange(n_coded + n_kept) // 7 % 256):
        density = levels.astype(np.uint8)
        assert native.encode_density(partition, density) == entropy.encode_density(partition, density)
    for size in (1, 2, 3, 300, 65536):
        codes = rng.integers(0, size, n_coded).astype(np.int32) // 2
        assert native.encode_codes(partition, size, codes) == entropy.encode_codes(partition, size, codes)
    for n_channels in (1, 3, 12):
        kept = rng.integers(100, 140, (n_kept, n_channels)).astype(np.uint8)
        assert native.encode_kept(partition, kept) == entropy.encode_kept(partition, kept)


@needs_native
@pytest.mark.parametrize("by_column", [False, True])
def test_tables_are_written_the_same_too(by_column: bool) -> None:
    native = importlib.import_module("vqrf._native")
    rng = np.random.default_rng(9)
    shapes = [(1, 1), (255, 3), (256, 3), (1, 300)]
    tables = [rng.integers(0, 200, shape).astype(kind) for shape in shapes for kind in (np.uint8, np.uint16)]
    assert native.encode_tables(tables, by_column) == entropy.encode_tables(tables, by_column)
    assert native.encode_tables([], by_column) == entropy.encode_tables([], by_column) == bytes(4)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_walks_decode_what_they_encoded(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.integers(2, 6)] * 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    partition = rng.choice(3, shape, p=rng.dirichlet((1, 1, 1))).astype(np.uint8)
    decoder = Decoder(entropy.PARTITION_CONTEXTS, entropy.encode_partition(partition))
    out = np.zeros_like(partition)
    blocks = entropy.code_partition(decoder, out)
    np.testing.assert_array_equal(out, partition)
    np.testing.assert_array_equal(blocks, entropy.find_blocks(partition))
    assert decoder.is_complete()


# ------------------------------------------------------------------------------------------------- pyramids


@pytest.fixture(scope="module")
def streams() -> list[Any]:
    """Of each level of a pyramid that is neither small nor simple: what the benchmark hears its coder write."""
    field = generate.make_pyramid(7, (40, 36, 44), n_levels=3, n_latents=6)
    streams: list[Any] = codec.listen(field)
    assert [stream.data for stream in streams] == entropy.encode_levels(field.partition, field.coefficients)
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
    data = entropy.encode_levels(field.partition, levels)[-1]
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
        assert native.encode_levels(partition, levels) == entropy.encode_levels(partition, levels)


@pytest.mark.parametrize("magnitude", [1, 2, 13, 14, 15, 16, 17, 29, 30, 45, 46, 8205, 8206, 16396, 16397])
def test_a_coefficient_of_any_size_comes_back(magnitude: int) -> None:
    nodes = build_nodes(np.ones((2, 2, 2), bool), 0)[0]
    values = np.array([[magnitude, -magnitude], [0, magnitude], *[[0, 0]] * 6], np.int16)
    encoder, found = Encoder(entropy.level_contexts(2)), np.zeros_like(values)
    entropy.code_level(encoder, nodes, None, values.copy())
    decoder = Decoder(entropy.level_contexts(2), encoder.finish())
    seen = entropy.code_level(decoder, nodes, None, found)
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal([cut for cut, _ in seen], np.clip(values, -15, 15))
    np.testing.assert_array_equal([magnitudes for _, magnitudes in seen], np.minimum(np.abs(values), 15))
    assert decoder.is_complete()
