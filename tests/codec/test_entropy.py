"""The range coder against its own arithmetic and constriction, and the twin against the compiled core."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vqrf.codec import entropy
from vqrf.codec.entropy import Damaged, Decoder, Encoder
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
