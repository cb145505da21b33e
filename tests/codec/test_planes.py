"""Planes and lines: bytes round-trip to the bit, by either coder; damage is refused; values are those of the factors."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest

from vqrf.codec import planes
from vqrf.codec.bitstream import decode, encode, verify
from vqrf.codec.compressed import Quantized
from vqrf.codec.container import BitstreamError, sections
from vqrf.codec.lint import inspect
from vqrf.codec.planes import PlanesField, count_nodes, shadows
from vqrf.fields.factors import Factors
from vqrf.fields.factors import expand as expand_factors
from vqrf.fields.field import drawing_fault_of, expand
from vqrf.geometry import Lattice
from vqrf.kernels import has_native
from vqrf.kernels.constants import Equation

EQUATION = Equation(-4.0, 0.5, 0.05, 0.1, 1e-3, (1.0, 1.0, 1.0))


def planes_field(seed: int = 0, shape: tuple[int, int, int] = (9, 7, 11), n_levels: int = 2, rank: int = 5) -> PlanesField:
    """A field of `rank` components, two of them of density, and a network that is a single layer."""
    draw = np.random.default_rng(seed)
    partition = (draw.random(shape) < 0.2).astype(np.uint8)
    partition[0, 0, 0] = 1

    def stacks(masks: list[np.ndarray]) -> tuple[tuple[np.ndarray, ...], ...]:
        return tuple(
            tuple(np.rint(2 * draw.standard_normal((n, rank)) ** 3).astype(np.int16) for n in counts)
            for counts in count_nodes(masks, n_levels)
        )

    def table(*sides: int) -> Quantized:
        return Quantized(
            draw.integers(0, 256, sides).astype(np.uint8), np.array([0.01], np.float32), np.array([-1.28], np.float32)
        )

    of_planes, of_lines = shadows(partition)
    return PlanesField(
        lattice=Lattice((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), shape),
        partition=partition,
        color_mlp=((table(3, 4 + 3), table(3)),),
        equation=EQUATION,
        empty_density=-9.0,
        metadata={"generator": "a test"},
        planes=stacks(of_planes),
        lines=stacks(of_lines),
        plane_steps=draw.uniform(0.1, 1, (3, rank)).astype(np.float32),
        line_steps=draw.uniform(0.1, 1, (3, rank)).astype(np.float32),
        mix=table(3 * (rank - 2), 4),
    )


@pytest.fixture(params=["twin", "native"])
def coder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "twin":
        monkeypatch.setenv("VQRF_NATIVE", "0")
    elif not has_native():
        pytest.skip("the compiled core is not built")
    return str(request.param)


@pytest.mark.parametrize("n_levels", [0, 2, 8])
def test_planes_come_back_to_the_bit(coder: str, n_levels: int) -> None:
    field = planes_field(n_levels=n_levels)
    data = encode(field)
    assert decode(data) == field
    assert verify(data) == field
    assert data[8:12] == struct.pack("<HH", 3, 0)


@pytest.mark.skipif(not has_native(), reason="the compiled core is not built")
def test_both_coders_write_the_same_bytes_and_read_the_same_field(monkeypatch: pytest.MonkeyPatch) -> None:
    field = planes_field(rank=20, shape=(12, 13, 10))
    data = encode(field)
    found = decode(data)
    monkeypatch.setenv("VQRF_NATIVE", "0")
    assert encode(field) == data
    assert decode(data) == found == field


@pytest.mark.skipif(not has_native(), reason="the compiled core is not built")
def test_both_coders_find_the_same_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    data, draw = encode(planes_field(shape=(5, 4, 6), n_levels=1, rank=3)), np.random.default_rng(2)

    def answer(changed: bytes, native: str) -> str | PlanesField:
        monkeypatch.setenv("VQRF_NATIVE", native)
        try:
            return decode(changed, max_bytes=1 << 20)
        except BitstreamError as error:
            return str(error)

    for _ in range(150):
        changed = bytearray(data)
        changed[int(draw.integers(32, len(data)))] ^= 1 << int(draw.integers(0, 8))
        whole = mended(bytes(changed))
        assert answer(whole, "1") == answer(whole, "0")


def test_a_voxel_is_worth_the_products_of_its_planes_and_lines(coder: str) -> None:
    field = planes_field()
    made = field.factors()
    density, features = expand_factors(Factors(made.planes, made.lines, made.mix), field.partition)
    here = field.partition != 0
    for found, wanted in zip(field.voxel_values(), (density[here], features[here]), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    whole = expand(field)
    assert (whole.density[~here] == -9).all()
    np.testing.assert_array_equal(whole.density[here], field.voxel_values()[0])


def test_of_a_flat_level_a_plane_is_its_coefficients_times_its_steps() -> None:
    field = planes_field(n_levels=0)
    made = field.factors()
    for arrays, stacks, steps, masks in zip(
        (made.planes, made.lines),
        (field.planes, field.lines),
        (field.plane_steps, field.line_steps),
        shadows(field.partition),
        strict=True,
    ):
        for array, stack, step, mask in zip(arrays, stacks, steps, masks, strict=True):
            np.testing.assert_array_equal(array[mask.reshape(array.shape[:-1])], stack[0].astype(np.float32) * step)
            assert not array[~mask.reshape(array.shape[:-1])].any()


def mended(data: bytes) -> bytes:
    """The file with its checksums right again."""
    (n,) = struct.unpack_from("<I", data, 12)
    table = bytearray(data[32 : 32 + 32 * n])
    at = 32 + 32 * n
    for row in range(0, 32 * n, 32):
        (stored,) = struct.unpack_from("<Q", table, row + 8)
        struct.pack_into("<I", table, row + 24, zlib.crc32(data[at : at + stored]))
        at += stored
    crc = zlib.crc32(data[:28] + table)
    return data[:28] + struct.pack("<I", crc) + bytes(table) + data[32 + 32 * n :]


def test_a_file_that_is_cut_off_or_changed_is_refused_in_one_line(coder: str) -> None:
    data = encode(planes_field(shape=(5, 4, 6), n_levels=1, rank=3))
    draw = np.random.default_rng(1)
    for end in draw.integers(0, len(data), 40).tolist():
        with pytest.raises(BitstreamError) as caught:
            decode(data[:end], truncated=True)
        assert "\n" not in str(caught.value)
    n_refused = 0
    for _ in range(150):
        changed = bytearray(data)
        changed[int(draw.integers(12, len(data)))] ^= 1 << int(draw.integers(0, 8))
        try:
            verify(mended(bytes(changed)), max_bytes=1 << 20)
        except BitstreamError as error:
            n_refused += 1
            assert "\n" not in str(error)
    assert n_refused > 75


@pytest.mark.parametrize(
    ("section", "at", "value", "reason"),
    [
        ("PLAN", 0, b"\0\0", "outside 1..256"),
        ("PLAN", 2, b"\1\1", "outside 1..256"),
        ("PLAN", 2, b"\7\0", "bytes of steps"),
        ("PLAN", 4, b"\0\0\0\0", "not finite and positive"),
        ("HEAD", 64, b"\5\0\0\0", "no codebook"),
    ],
)
def test_what_cannot_be_is_refused_where_it_stands(section: str, at: int, value: bytes, reason: str) -> None:
    data = bytearray(encode(planes_field()))
    start = next(offset for name, offset, _ in sections(bytes(data)) if name == section)
    data[start + at : start + at + len(value)] = value
    with pytest.raises(BitstreamError, match=reason) as caught:
        decode(mended(bytes(data)))
    assert caught.value.section == section


def test_a_budget_is_kept_before_anything_is_made() -> None:
    with pytest.raises(BitstreamError, match="take more than the limit"):
        decode(encode(planes_field()), max_bytes=2000)


def test_a_field_that_says_what_cannot_be_is_refused() -> None:
    field = planes_field()
    with pytest.raises(ValueError, match="planes: expected int16"):
        replace(field, planes=(field.planes[1], field.planes[0], field.planes[2]))
    with pytest.raises(ValueError, match="line_steps: expected finite positive"):
        replace(field, line_steps=-field.line_steps)
    with pytest.raises(ValueError, match="components of density"):
        replace(field, mix=Quantized(np.zeros((15, 4), np.uint8), np.ones(1, np.float32), np.zeros(1, np.float32)))


def test_a_sound_file_of_planes_has_no_findings_that_are_faults() -> None:
    assert not [finding for finding in inspect(encode(planes_field())) if finding.section != "HEAD"]


def test_a_field_of_more_products_than_anybody_waits_for_is_not_multiplied_out(monkeypatch: pytest.MonkeyPatch) -> None:
    field = planes_field()
    n_products = field.n_coded * 3 * (2 + 3 * 4)
    monkeypatch.setattr(planes, "MAX_PRODUCTS", n_products)
    assert drawing_fault_of(field) is None
    monkeypatch.setattr(planes, "MAX_PRODUCTS", n_products - 1)
    assert "more than can be summed up in time" in str(drawing_fault_of(field))
    with pytest.raises(ValueError, match="in time"):
        expand(field)


def test_what_planes_say_in_vain_is_reported() -> None:
    field = planes_field()
    quiet = replace(field, lines=tuple((0 * stack[0], *stack[1:]) for stack in field.lines))
    assert [finding.section for finding in inspect(encode(quiet)) if finding.section[:3] in ("PLN", "LIN")] == ["LIN2"]
    loud = replace(field, plane_steps=np.full_like(field.plane_steps, 3e38))
    assert [finding.section for finding in inspect(encode(loud)) if finding.section == "PLAN"] == ["PLAN"]
