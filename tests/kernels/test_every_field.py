"""Whatever `verify` accepts, every back end draws, and as the reference does."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernel_scenes import LOSSES, make_rays, random_targets, zero_gradients

from vqrf.codec.bitstream import encode, verify
from vqrf.codec.compressed import CODED, KEPT, CompressedField, Quantized
from vqrf.fields.field import expand
from vqrf.geometry import Lattice
from vqrf.kernels import Volume, has_native, reference, select
from vqrf.kernels.constants import Equation, Shading

CHANNELS: dict[Shading, tuple[int, ...]] = {"mlp": (1, 3, 4, 12, 27, 64), "sh": (12, 27), "sh_relu": (12, 27)}
SIDE = 4


@st.composite
def fields(draw: Any) -> CompressedField:
    """Small fields with colour networks of every size that a file may have, or harmonics, or bare colours."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shading: Shading = draw(st.sampled_from(("mlp", "mlp", "mlp", "sh", "sh_relu")))
    n_channels = draw(st.sampled_from(CHANNELS[shading]))
    n_layers = draw(st.integers(0 if n_channels == 3 else 1, 16)) if shading == "mlp" else 0
    n_of_features = draw(st.integers(0, 10)) if n_layers else 0
    layers: list[tuple[Any, Any]] = []
    n_in = n_channels * (1 + 2 * n_of_features) + 3 + 6 * draw(st.integers(0, 12))
    for number in range(n_layers):
        n_out = 3 if number + 1 == n_layers else draw(st.integers(1, 300) | st.sampled_from((16, 64, 128, 134, 256)))
        weight = rng.normal(size=(n_out, n_in)) / math.sqrt(n_in)
        layers.append((weight.astype(np.float16), (0.3 * rng.normal(size=n_out)).astype(np.float16)))
        n_in = n_out
    shape = (SIDE, SIDE + 1, SIDE + 2)
    partition = rng.integers(0, 3, shape).astype(np.uint8)
    n_coded, n_kept = int((partition == CODED).sum()), int((partition == KEPT).sum())
    one, density = np.ones(1, np.float32), rng.integers(0, 256, n_coded + n_kept).astype(np.uint8)
    return CompressedField(
        lattice=Lattice((-1.0, -1.2, -0.8), (1.0, 1.1, 0.9), shape),
        partition=partition,
        density=Quantized(density, one / 16, one * -5),
        codes=rng.integers(0, 7, n_coded).astype(np.int32),
        codebook=rng.normal(size=(7, n_channels)).astype(np.float16),
        kept=Quantized(rng.integers(0, 256, (n_kept, n_channels)).astype(np.uint8), one / 64, one * -2),
        color_mlp=tuple(layers),
        equation=Equation(
            density_bias=draw(st.sampled_from((-2.0, 0.0, 1.5))),
            interval=draw(st.sampled_from((0.5, 0.7))),
            step_world=0.1234,
            near=0.2,
            alpha_threshold=1e-6,  # rounding may put a sample on either side of it, and takes no more than this from a colour
            background=(1.0, 0.5, 0.0),
            shading=shading,
            activation=draw(st.sampled_from(("softplus", "relu"))),
            feature_frequencies=n_of_features,
        ),
        empty_density=-100.0,
        metadata={},
    )


@contextmanager
def instruction_set(name: str | None) -> Iterator[float]:
    """The compiled core with one of its instruction sets: how far a colour may be off. None: without the core."""
    if name is None:
        yield 1e-5
        return
    native = importlib.import_module("vqrf.kernels.native")
    native.use_instruction_set(name)
    try:
        yield native.COLOR_TOLERANCE
    finally:
        native.use_instruction_set(native.instruction_sets()[-1])


def instruction_sets() -> list[str | None]:
    return importlib.import_module("vqrf.kernels.native").instruction_sets() if has_native() else [None]


def assert_drawn(volume: Volume, tolerance: float) -> None:
    """That the back end of this machine draws, learns from and weighs a volume as the reference does."""
    rays, targets = make_rays(24, np.float32), random_targets(24, np.float32)
    backend = select()
    for ours, theirs, off in zip(
        backend.render_rays(volume, *rays), reference.render_rays(volume, *rays), (tolerance, 1e-5, 1e-4), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=off, rtol=1e-3)
    ours, theirs = (np.zeros(volume.density.shape) for _ in range(2))
    backend.accumulate_importance(volume, *rays, ours)
    reference.accumulate_importance(volume, *rays, theirs)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    here, there = zero_gradients(volume), zero_gradients(volume)
    backend.render_gradients(volume, *rays, targets, LOSSES, here)
    reference.render_gradients(volume, *rays, targets, LOSSES, there)
    np.testing.assert_array_equal(here.touched, there.touched)
    assert all(np.isfinite(array).all() for layer in here.layers for array in layer)
    if tolerance > 1e-5:
        return  # in bfloat16 hidden units fall on the other side of their ReLUs, and in some layers there is but one
    for ours, theirs in ((here.density, there.density), (here.features, there.features)):
        assert np.linalg.norm(ours - theirs) <= 0.15 * np.linalg.norm(theirs) + 1e-6


@pytest.mark.parametrize("name", instruction_sets())
@settings(max_examples=10, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(field=fields())
def test_every_field_that_verify_accepts_is_drawn_by_every_back_end(name: str | None, field: CompressedField) -> None:
    volume = expand(verify(encode(field))).volume()
    with instruction_set(name) as tolerance:
        assert_drawn(volume, tolerance)
