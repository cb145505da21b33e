"""Files of pyramids: what is encoded comes back, what is damaged is refused by name, what is cut off shows what is there."""

from __future__ import annotations

import itertools
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_bitstream import CONFORMANCE, coder, outcome, part_of
from test_entropy import generate, needs_native
from test_pyramid import TINY, small_pyramid

from vqrf.codec.bitstream import decode, encode, verify
from vqrf.codec.compressed import CODED, PRUNED
from vqrf.codec.container import BitstreamError, sections
from vqrf.codec.pyramid import MAX_LEVELS, MAX_MAGNITUDE, PyramidField, build_nodes
from vqrf.geometry import Lattice

__all__ = ["coder"]

VALID = sorted((CONFORMANCE / "valid").glob("pyramid*.vqrf"))

SPECIAL = {
    "no levels above": lambda: small_pyramid(n_levels=0),
    "eight levels above": lambda: small_pyramid(n_levels=8),
    "all pruned": lambda: small_pyramid(n_levels=3, partition=np.full(TINY, PRUNED, np.uint8)),
    "64 latents and channels": lambda: small_pyramid(n_latents=64, basis_of=64, widths=None),
    "another space": lambda: generate.in_space(small_pyramid()),
    "a latent for 27 channels": lambda: small_pyramid(n_latents=1, basis_of=27, shading="sh_relu", activation="relu"),
    "no metadata": lambda: generate.replace(small_pyramid(), metadata={}),
    "greatest magnitudes": lambda: with_levels(small_pyramid(), lambda level: np.full_like(level, MAX_MAGNITUDE)),
    "least numbers": lambda: with_levels(small_pyramid(), lambda level: np.full_like(level, -MAX_MAGNITUDE)),
    "all zero": lambda: with_levels(small_pyramid(n_levels=2), np.zeros_like),
    "steps of every size": lambda: generate.replace(small_pyramid(), steps=np.float32([1e-45, 3e38, 1e-3, 7])),
}


def with_levels(field: PyramidField, change: Any) -> PyramidField:
    return generate.replace(field, coefficients=tuple(change(level) for level in field.coefficients))


@pytest.mark.parametrize("name", SPECIAL)
def test_a_pyramid_comes_back_and_reencodes_to_the_same_bytes(name: str, coder: str) -> None:
    field = SPECIAL[name]()
    data = encode(field)
    assert decode(data) == field
    assert verify(data) == field
    assert encode(decode(data)) == data
    assert decode(data, truncated=True) == field


@needs_native
def test_the_twin_and_the_core_write_the_same_pyramid(monkeypatch: pytest.MonkeyPatch) -> None:
    field = generate.make_pyramid(5, (24, 21, 28), n_levels=4, n_latents=9)
    files = []
    for native in ("0", "1"):
        monkeypatch.setenv("VQRF_NATIVE", native)
        files.append(encode(field))
        assert decode(files[-1]) == field
    assert files[0] == files[1]


@st.composite
def pyramids(draw: st.DrawFn) -> PyramidField:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(*[st.integers(2, 7)] * 3))
    partition = (rng.random(shape) < draw(st.sampled_from([0, 0.05, 0.5, 1]))).astype(np.uint8)
    n_latents = draw(st.integers(1, 5))
    levels = []
    for nodes in build_nodes(partition == CODED, draw(st.integers(0, MAX_LEVELS)))[::-1]:
        most = draw(st.sampled_from([0, 1, 3, 40, MAX_MAGNITUDE]))
        level = rng.integers(-most, most + 1, (nodes.n_nodes, 1 + n_latents))
        levels.append((level * (rng.random(level.shape) < draw(st.sampled_from([0.1, 1])))).astype(np.int16))
    n_channels = draw(st.integers(1, 6))
    has_basis = draw(st.booleans())
    n_channels = n_channels if has_basis else n_latents
    return PyramidField(
        lattice=Lattice((-1.0, 0.1, -3.0), (0.0, 1e9, 7.25), shape),
        partition=partition,
        coefficients=tuple(levels),
        steps=np.exp(rng.normal(0, 5, 1 + n_latents)).astype(np.float32),
        basis=rng.standard_normal((n_latents, n_channels)).astype(np.float32) if has_basis else None,
        color_mlp=() if n_channels == 3 and draw(st.booleans()) else generate.make_layers(rng, [n_channels + 9, 4, 3]),
        equation=replace(generate.EQUATION, activation=draw(st.sampled_from(["softplus", "relu"]))),
        empty_density=-3.25,
        metadata=draw(st.dictionaries(st.text(max_size=5), st.none() | st.integers())),
    )


@needs_native
@settings(max_examples=60, deadline=None)
@given(field=pyramids())
def test_any_pyramid_comes_back_and_both_coders_write_the_same_bytes(field: PyramidField) -> None:
    files = []
    for native in ("0", "1"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VQRF_NATIVE", native)
            files.append(encode(field))
            assert decode(files[-1]) == field
    assert files[0] == files[1]


def test_every_single_byte_change_of_a_pyramid_is_refused_and_the_section_named(coder: str) -> None:
    data = encode(small_pyramid())
    for at, flip in itertools.product(range(len(data)), (0x01, 0x80, 0xFF)):
        bad = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
        for truncated in (False, True):
            with pytest.raises(BitstreamError) as refused:
                decode(bad, truncated=truncated)
            assert refused.value.section == part_of(data, at)


def test_every_prefix_of_a_pyramid_is_refused_and_the_section_named(coder: str) -> None:
    data = encode(small_pyramid())
    for end in range(len(data)):
        with pytest.raises(BitstreamError, match="truncated") as refused:
            decode(data[:end])
        assert refused.value.section == part_of(data, end)
        assert refused.value.offset == end


def test_what_is_there_of_a_pyramid_that_is_cut_off_is_shown_when_asked_for(coder: str) -> None:
    """Levels that are whole are as they were, the others 0; what cannot be done without must be there."""
    field = small_pyramid(n_levels=3)
    data = encode(field)
    ends = [offset + size for name, offset, size in sections(data) if name.startswith("LEV")]
    assert len(ends) == 4
    for end in range(len(data) + 1):
        if end < ends[0]:
            with pytest.raises(BitstreamError, match="truncated") as refused:
                decode(data[:end], truncated=True)
            assert (refused.value.section, refused.value.offset) == (part_of(data, end), end)
            continue
        n_whole = sum(stop <= end for stop in ends)
        levels = [level if i < n_whole else np.zeros_like(level) for i, level in enumerate(field.coefficients)]
        assert decode(data[:end], truncated=True) == generate.replace(field, coefficients=tuple(levels))


@pytest.mark.parametrize("name", ["all_coded", "shell"])
def test_a_file_with_a_codebook_is_refused_when_it_is_cut_off_whatever_is_asked_for(name: str, coder: str) -> None:
    data = (CONFORMANCE / "valid" / f"{name}.vqrf").read_bytes()
    for end in (0, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(BitstreamError, match="truncated"):
            decode(data[:end], truncated=True)


def test_only_the_end_may_be_missing(coder: str) -> None:
    data = encode(small_pyramid(n_levels=2))
    (level,) = (offset for name, offset, _ in sections(data) if name == "LEV1")
    with pytest.raises(BitstreamError, match=r"LEV1 .* checksum mismatch"):
        decode(data[: level + 1] + bytes([data[level + 1] ^ 1]) + data[level + 2 :], truncated=True)
    with pytest.raises(BitstreamError, match=r"1 trailing bytes"):
        decode(data + b"\0", truncated=True)
    with pytest.raises(BitstreamError, match=r"LEV0 .* damaged"):
        decode(generate.edit(data, "LEV0", lambda body: body[:-1]), truncated=True)
    with pytest.raises(BitstreamError, match=r"LEV0 .* raw length is 7"):
        decode(generate.edit_rows(data, generate.put_row("LEV0", 16, "Q", 7))[:-1], truncated=True)


def test_levels_that_are_missing_are_still_bounded_by_what_their_bytes_can_say(coder: str) -> None:
    data = encode(small_pyramid())
    row = generate.put_row("LEV0", 16, "Q", 1 << 40)
    with pytest.raises(BitstreamError, match=r"LEV0 .* too great for"):
        decode(generate.edit_rows(data, row)[:-1], truncated=True, max_bytes=1 << 62)


def test_no_two_levels_can_change_places(coder: str) -> None:
    data = encode(small_pyramid(n_levels=2))
    parts = generate.split(data)
    for order in itertools.permutations(range(3)):
        if order != (0, 1, 2):
            with pytest.raises(BitstreamError, match=r"LEV[12] .* out of order|LEV0 .* out of order"):
                decode(generate.seal([*parts[:-3], *(parts[-3 + i] for i in order)]))


def test_the_levels_of_a_pyramid_leave_no_gap(coder: str) -> None:
    parts = generate.split(encode(small_pyramid(n_levels=8)))
    for gap in range(1, 9):  # counted from the end: LEV0 to LEV7
        with pytest.raises(BitstreamError, match=r"LEV8 .* does not belong"):
            decode(generate.seal(parts[: len(parts) - gap] + parts[len(parts) - gap + 1 :]))


@pytest.mark.parametrize("version", [(1, 1), (1, 7), (1, 65535)], ids=str)
def test_a_later_minor_version_is_read_with_sections_that_are_not_known(version: tuple[int, int], coder: str) -> None:
    field = small_pyramid()
    data = generate.with_header(generate.ancillary(encode(field)), 8, "HH", *version)
    assert decode(data) == field
    assert verify(data) == field


def test_the_memory_of_the_levels_counts_against_the_budget(coder: str) -> None:
    wide = (128, 130, 132)
    partition = np.zeros(wide, np.uint8)
    partition[64, 64, 64] = CODED
    field = generate.make_pyramid(1, wide, n_levels=2, n_latents=3, partition=partition, widths=[])
    data = encode(field)
    raws = {row[:4]: struct.unpack("<Q", row[16:24])[0] for row, _ in generate.split(data)}
    coefficients = raws[b"LEV2"] + raws[b"LEV1"] + raws[b"LEV0"]
    planes, blocks = 24 * 132 * 134, 2 * 32 * 33 * 33
    working = planes + blocks + coefficients // 2 + 5 * 65 * 66 * 67 + 33 * 34 * 34 - (1 << 20)
    most = sum(raws.values()) + working
    assert working > 0
    assert decode(data, max_bytes=most) == field
    with pytest.raises(BitstreamError, match=rf"HEAD .* decoding takes more than the limit of {most - 1} bytes"):
        decode(data, max_bytes=most - 1)


@needs_native
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_behind_the_checksums_both_decoders_say_the_same_of_a_damaged_pyramid(data: st.DataObject) -> None:
    good = data.draw(st.sampled_from(VALID)).read_bytes()
    section = data.draw(st.sampled_from([name for name, _, size in sections(good)[1:] if size]))

    def damage(body: bytes) -> bytes:
        mutable = bytearray(body)
        for _ in range(data.draw(st.integers(1, 3))):
            mutable[data.draw(st.integers(0, len(mutable) - 1))] = data.draw(st.integers(0, 255))
        return bytes(mutable)

    bad = generate.edit(good, section, damage)
    twin, core = outcome(bad, "0"), outcome(bad, "1")
    assert twin == core
    if isinstance(core, PyramidField):
        assert verify(bad) == core
