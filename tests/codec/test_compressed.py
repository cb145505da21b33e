"""Compressed fields before they are bytes: what no file could hold is refused when it is made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from changed import changed
from test_bitstream import TINY, small_field
from test_entropy import generate

from vqrf.codec.compressed import CODED, Quantized
from vqrf.geometry import Lattice


def test_dequantising_rounds_the_product_and_then_the_sum() -> None:
    scale, offset = np.float32([0.1, 3.3e-7]), np.float32([-7.7, 1e-3])
    levels = np.arange(512, dtype=np.uint16).reshape(256, 2)
    exact = levels.astype(np.float64) * scale.astype(np.float64)  # a product of 16 and 24 bits is exact here
    expected = (exact.astype(np.float32).astype(np.float64) + offset).astype(np.float32)
    np.testing.assert_array_equal(Quantized(levels, scale, offset).dequantize(), expected)


def test_constants_are_rounded_to_what_a_file_holds() -> None:
    field = changed(small_field(), empty_density=0.1, step_world=0.01)
    assert (field.empty_density, field.equation.step_world) == (float(np.float32(0.1)), float(np.float32(0.01)))
    assert changed(field, near=0.25).equation == replace(field.equation, near=0.25)


@pytest.mark.parametrize("change", [{"empty_density": 1e39}, {"near": 1e39}, {"interval": 1e-50}], ids=str)
def test_a_constant_that_float32_has_not_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"not finite|not positive"):
        changed(small_field(), **change)


ONE = np.ones(1, np.float32)
BAD_FIELDS: dict[str, dict[str, Any]] = {
    "partition: a value": {"partition": np.full(TINY, 3, np.uint8)},
    "partition: expected uint8": {"partition": np.zeros((2, 3, 4), np.uint8)},
    "density: expected uint8": {"density": Quantized(np.zeros(29, np.uint8), ONE, ONE)},
    "codes: expected int32": {"codes": np.zeros(30, np.int64)},
    "codes: a code": {"codes": np.full(30, 3, np.int32)},
    "codebook: a value": {"codebook": np.full((3, 3), np.inf, np.float16)},
    "codebook: expected 1..65536": {"codebook": np.zeros((0, 3), np.float16)},
    "codebook: expected 2 axes": {"codebook": np.zeros((3, 3), np.float32)},
    "kept: expected uint8": {"kept": Quantized(np.zeros((1, 3), np.uint8), ONE, ONE)},
    "color_mlp: without layers": {
        "codebook": np.zeros((3, 4), np.float16),
        "kept": Quantized(np.zeros((0, 4), np.uint8), ONE, ONE),
    },
    "color_mlp: spherical harmonics have 12 or 27": {"shading": "sh"},
    "color_mlp: spherical harmonics have no layers": {
        "shading": "sh",
        "color_mlp": generate.make_layers(np.random.default_rng(0), [6, 3]),
    },
    "shading phong": {"shading": "phong"},
    "activation exp": {"activation": "exp"},
    "color_mlp: feature frequencies without": {"feature_frequencies": 2},
    "11 feature frequencies": {"feature_frequencies": 11},
    "color_mlp: layer 0 cannot": {"color_mlp": generate.make_layers(np.random.default_rng(0), [7, 3])},
    "color_mlp: ends in 4": {"color_mlp": generate.make_layers(np.random.default_rng(0), [6, 4])},
    "metadata: expected a dict": {"metadata": [1]},
    "metadata: Object of type": {"metadata": {"a": b""}},
    "Out of range float": {"metadata": {"a": float("nan")}},
    "metadata has": {"metadata": {"a": "x" * (1 << 20)}},
    "metadata is nested more than 200 deep": {"metadata": generate.nested(201)},
    "lattice: expected sides": {"lattice": Lattice((0, 0, 0), (1, 1, 1), (2, 2, 4097))},
}  # fmt: skip


@pytest.mark.parametrize("reason", BAD_FIELDS)
def test_a_field_that_no_file_could_hold_is_refused_when_it_is_made(reason: str) -> None:
    field = small_field(partition=np.full(TINY, CODED, np.uint8))
    with pytest.raises(ValueError, match=reason):
        changed(field, **BAD_FIELDS[reason])


@pytest.mark.parametrize("scale", [np.ones(2, np.float32), np.ones(1), np.float32([np.inf]), np.ones((1, 3), np.float32)])
def test_a_scale_of_another_shape_or_type_is_refused(scale: Any) -> None:
    with pytest.raises(ValueError, match="scale"):
        Quantized(np.zeros((5, 3), np.uint8), scale, scale)


def test_fields_differ_when_any_part_of_them_does() -> None:
    field = small_field(partition=np.full(TINY, CODED, np.uint8))
    codes, levels = field.codes.copy(), field.density.levels.copy()
    codes[0], levels[0] = (codes[0] + 1) % 3, levels[0] ^ 1
    others = [
        generate.replace(field, codes=codes),
        generate.replace(field, density=Quantized(levels, field.density.scale, field.density.offset)),
        generate.replace(field, metadata={}),
        generate.replace(field, color_mlp=generate.make_layers(np.random.default_rng(0), [6, 3])),
        changed(field, color_mlp=generate.make_layers(np.random.default_rng(0), [12, 3]), feature_frequencies=1),
        generate.replace(field, codebook=generate.quantize(np.float32(field.codebook))),
        generate.replace(field, lattice=Lattice((-2, -2, -2), (2, 2, 2), TINY)),
    ]
    assert field == generate.replace(field)
    assert all(field != other for other in others)
    assert field != "field"
