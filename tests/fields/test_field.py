"""The field: what it refuses to be, and how a compressed field becomes one."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from changed import changed
from hypothesis import given
from hypothesis import strategies as st

from vqrf.cameras import Camera
from vqrf.codec.compressed import CODED, KEPT, PRUNED, CompressedField, Quantized, Table, float_table
from vqrf.fields.field import RadianceField, expand
from vqrf.geometry import Lattice
from vqrf.kernels import reference
from vqrf.kernels.constants import Activation, Equation
from vqrf.rendering.render import render


def quantized(random: np.random.Generator, *shape: int) -> Quantized:
    levels = random.integers(0, 256, shape, dtype=np.uint8)
    return Quantized(levels, np.array([0.05], np.float32), np.array([-3.0], np.float32))


def random_compressed(seed: int, codebook: Table | None = None) -> CompressedField:
    """3x4x5 voxels, a third of each kind, 4 channels, 6 codewords, one hidden layer."""
    random = np.random.default_rng(seed)
    partition = random.permutation(np.arange(60, dtype=np.uint8) % 3).reshape(3, 4, 5)
    if codebook is None:
        codebook = random.normal(size=(6, 4)).astype(np.float16)
    sides = (4 + 3 + 6, 8, 3)
    layers = tuple(
        (random.normal(size=(n_out, n_in)).astype(np.float16), random.normal(size=n_out).astype(np.float16))
        for n_in, n_out in itertools.pairwise(sides)
    )
    return CompressedField(
        lattice=Lattice((-1, -1, -1), (1, 1, 1), (3, 4, 5)),
        partition=partition,
        density=quantized(random, 40),
        codes=random.integers(0, 6, 20).astype(np.int32),
        codebook=codebook,
        kept=quantized(random, 20, 4),
        color_mlp=layers,
        equation=Equation(-2.0, 0.5, 0.2, 0.1, 1e-3, (1.0, 0.5, 0.0)),
        empty_density=-20.0,
        metadata={},
    )


@pytest.mark.parametrize("codebook", [None, quantized(np.random.default_rng(9), 6, 4)], ids=["float16", "levels"])
def test_expanding_puts_every_number_where_the_partition_says(codebook: Table | None) -> None:
    compressed = random_compressed(0, codebook)
    field = expand(compressed)
    stored, coded, kept = iter(compressed.density.dequantize()), iter(compressed.codes), iter(compressed.kept.dequantize())
    rows = float_table(compressed.codebook)
    for voxel in np.ndindex(compressed.lattice.shape):  # raster order, as FORMAT.md has it
        kind = compressed.partition[voxel]
        assert field.density[voxel] == (-20.0 if kind == PRUNED else next(stored))
        expected = {PRUNED: lambda: np.zeros(4), CODED: lambda: rows[next(coded)], KEPT: lambda: next(kept)}[kind]()
        np.testing.assert_array_equal(field.features[voxel], expected)
    for (weight, bias), (table, other) in zip(field.color_mlp, compressed.color_mlp, strict=True):
        np.testing.assert_array_equal(weight, table)
        np.testing.assert_array_equal(bias, other)
    assert field.equation == compressed.equation


@pytest.mark.filterwarnings("error")
def test_levels_that_stand_for_infinity_make_no_field() -> None:
    huge = Quantized(np.full((20, 4), 255, np.uint8), np.array([3e38], np.float32), np.array([0], np.float32))
    with pytest.raises(ValueError, match="not finite"):
        expand(replace(random_compressed(0), kept=huge))


@given(
    alpha=st.floats(1e-6, 0.99),
    bias=st.floats(-15, 5),
    interval=st.floats(0.01, 4),
    activation=st.sampled_from(["softplus", "relu"]),
)
def test_density_of_alpha_inverts_the_activation(alpha: float, bias: float, interval: float, activation: Activation) -> None:
    density = Equation(bias, interval, 1.0, 0.0, 1e-4, (1.0, 1.0, 1.0), activation=activation).density_of(alpha)
    depth = interval * (np.logaddexp(0, density + bias) if activation == "softplus" else max(density + bias, 0))
    assert -math.expm1(-depth) == pytest.approx(alpha, rel=1e-6)


def test_density_of_alpha_of_a_tiny_interval_does_not_overflow() -> None:
    assert Equation(0.0, 1e-30, 1.0, 0.0, 1e-4, (1.0, 1.0, 1.0)).density_of(0.5) == pytest.approx(math.log(2) * 1e30)


def test_a_volume_has_every_cell_that_holds_something_and_no_forbidden_one(ball_field: RadianceField) -> None:
    allowed = np.ones([side - 1 for side in ball_field.lattice.shape], np.uint8)
    allowed[:8] = 0
    cells = replace(ball_field, allowed=allowed).volume().cells
    floor = ball_field.equation.floor
    np.testing.assert_array_equal(cells, reference.find_cells(ball_field.density, floor, allowed))
    assert not cells[:8].any()
    np.testing.assert_array_equal(cells[8:], ball_field.volume().cells[8:])


def test_another_background_shows_where_nothing_is(ball_field: RadianceField, ball_camera: Camera) -> None:
    white = render(ball_field, ball_camera)
    blue = render(ball_field.with_background((0.0, 0.0, 1.0)), ball_camera)
    through = 1 - white.opacity[..., None]
    np.testing.assert_allclose(blue.rgb - white.rgb, through * [-1, -1, 0], atol=1e-5)


def test_grid_bytes_are_those_of_the_float32_arrays(ball_field: RadianceField) -> None:
    assert ball_field.grid_bytes == ball_field.density.nbytes + ball_field.features.nbytes


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "density of another shape": ({"density": np.zeros((16, 16, 15), np.float32)}, "density"),
    "features of another shape": ({"features": np.zeros((16, 15, 16, 3), np.float32)}, "features"),
    "features without channels": ({"features": np.zeros((16, 16, 16), np.float32)}, "features"),
    "four channels and no MLP": ({"features": np.zeros((16, 16, 16, 4), np.float32)}, "3 channels"),
    "harmonics of no degree": ({"shading": "sh"}, "have 12 or 27 channels"),
    "harmonics through an MLP": (
        {
            "shading": "sh",
            "features": np.zeros((16, 16, 16, 12), np.float32),
            "color_mlp": ((np.zeros((3, 15), np.float32), np.zeros(3, np.float32)),),
        },
        "have no layers",
    ),
    "a shading that is none": ({"shading": "phong"}, "shading phong"),
    "an activation that is none": ({"activation": "exp"}, "activation"),
    "cells as many as voxels": ({"allowed": np.ones((16, 16, 16), np.uint8)}, "allowed"),
    "density that is not a number": ({"density": np.full((16, 16, 16), np.nan, np.float32)}, "not finite"),
    "a threshold of zero": ({"alpha_threshold": 0.0}, "alpha_threshold"),
    "a threshold of one": ({"alpha_threshold": 1.0}, "alpha_threshold"),
    "a threshold that is not a number": ({"alpha_threshold": math.nan}, "alpha_threshold"),
    "no interval": ({"interval": 0.0}, "interval"),
    "a step backwards": ({"step_world": -0.1}, "step_world"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_field_that_cannot_be_is_refused(ball_field: RadianceField, case: str) -> None:
    change, reason = WRONG[case]
    with pytest.raises(ValueError, match=reason):
        changed(ball_field, **change)
