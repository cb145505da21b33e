"""Quantisers: what they show is what a decoder computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vqrf.compression.quantize import LEVELS, WEIGHT_NOISE, Quantizer, quantizer_of_weight


@given(
    mean=st.floats(-20, 20),
    deviation=st.floats(0.01, 10),
    steps=st.floats(1, 60),
    seed=st.integers(0, 99),
)
def test_a_quantiser_errs_by_half_a_step_inside_its_range_and_clips_outside(
    mean: float, deviation: float, steps: float, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(mean, deviation, 200).astype(np.float32)
    quantizer = Quantizer.around(values, steps)
    assert quantizer.scale == pytest.approx(values.std() / steps, rel=1e-5)
    lo, hi = quantizer.offset, quantizer.offset + (LEVELS - 1) * quantizer.scale
    assert lo < values.mean() < hi
    wide = torch.from_numpy(np.concatenate([values, [lo - 1, hi + 1]]).astype(np.float32))
    shown = quantizer(wide).numpy()
    slack = 1e-6 * (1 + np.abs(wide.numpy()) + abs(lo))
    clipped = np.clip(wide.numpy(), lo, hi)
    assert (np.abs(shown - clipped) <= quantizer.scale / 2 + slack).all()


def test_what_a_quantiser_shows_is_what_a_decoder_computes() -> None:
    values = np.random.default_rng(0).normal(3, 2, (500, 4)).astype(np.float32)
    quantizer = Quantizer.around(values, 15)
    packed = quantizer.pack(torch.from_numpy(values))
    assert packed.levels.dtype == np.uint8
    np.testing.assert_array_equal(packed.dequantize(), quantizer(torch.from_numpy(values)).numpy())
    again = quantizer(quantizer(torch.from_numpy(values)))
    np.testing.assert_array_equal(again.numpy(), packed.dequantize())


def test_a_quantiser_of_nothing_or_of_one_value_is_a_quantiser() -> None:
    assert Quantizer.around(np.zeros((0, 3), np.float32), 15) == Quantizer(1.0, 0.0)
    single = np.full(7, 2.5, np.float32)
    np.testing.assert_allclose(Quantizer.around(single, 15)(torch.from_numpy(single)).numpy(), single, atol=1e-6)


def test_weights_are_rounded_the_finer_the_more_comes_in_and_none_is_clipped() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.logspace(-1, 1, 64)
    inputs = torch.randn(5000, 64, generator=generator) * spread
    weight = (torch.rand(128, 64, generator=generator) - 0.5) / spread
    sums = inputs @ weight.T
    quantizer = quantizer_of_weight(weight, inputs, sums)
    shown = quantizer(weight)
    np.testing.assert_array_equal(quantizer.pack(weight).dequantize(), shown.numpy())
    error = (inputs @ (shown - weight).T).square().mean().sqrt() / sums.square().mean().sqrt()
    assert float(error) == pytest.approx(WEIGHT_NOISE, rel=0.05)
    effect = torch.as_tensor(quantizer.scale) * inputs.square().mean(0).sqrt()
    np.testing.assert_allclose(effect, effect.mean(), rtol=1e-4)
    weight[5, 7] *= 100  # more than 127 such steps
    inputs[:, 9] = 0  # an input that is never there
    quantizer = quantizer_of_weight(weight, inputs, sums)
    lost, step = (quantizer(weight) - weight).abs(), torch.as_tensor(quantizer.scale)
    assert (lost <= 0.5001 * step).all()
    assert weight[:, 9].abs().max() >= 7.99 * step[9]
