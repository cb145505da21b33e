"""The promise: what is encoded comes back, what is damaged is refused by name, and both decoders agree."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_entropy import generate, needs_native

from vqrf.codec import bitstream
from vqrf.codec.bitstream import decode, encode, verify
from vqrf.codec.compressed import CODED, KEPT, PRUNED, CompressedField, Quantized
from vqrf.codec.container import BitstreamError, sections
from vqrf.codec.pyramid import PyramidField
from vqrf.geometry import Lattice

CONFORMANCE = Path(__file__).parents[2] / "conformance"
TINY = (2, 3, 5)
CODERS = [pytest.param("0", id="twin"), pytest.param("1", id="native", marks=needs_native)]


@pytest.fixture(params=CODERS)
def coder(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test with the Python twin and with the compiled core."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQRF_NATIVE", request.param)
        yield request.param


def small_field(**options: Any) -> CompressedField:
    return generate.make_field(1, TINY, n_channels=3, n_codewords=3, widths=[], **options)


SPECIAL = {
    "one codeword": lambda: generate.make_field(1, (6, 7, 8), n_codewords=1),
    "three codewords": lambda: generate.make_field(1, (6, 7, 8), n_codewords=3),
    "4096 codewords": lambda: generate.make_field(1, (9, 9, 9), n_channels=3, n_codewords=4096, widths=[]),
    "65536 codewords": lambda: generate.make_field(1, (5, 5, 5), n_channels=1, n_codewords=65536),
    "nothing kept": lambda: generate.make_field(1, (6, 7, 8), kept=0),
    "all kept": lambda: small_field(partition=np.full(TINY, KEPT, np.uint8)),
    "all coded": lambda: small_field(partition=np.full(TINY, CODED, np.uint8)),
    "all pruned": lambda: small_field(partition=np.full(TINY, PRUNED, np.uint8)),
    "64 channels": lambda: generate.make_field(1, (5, 5, 5), n_channels=64),
    "another space": lambda: generate.in_space(generate.make_field(1, (5, 5, 5))),
    "harmonics of degree 1": lambda: generate.make_field(1, (5, 5, 5), widths=[], shading="sh"),
    "harmonics of degree 2": lambda: generate.make_field(1, (5, 5, 5), n_channels=27, widths=[], shading="sh"),
    "plenoxels": lambda: generate.make_field(1, (5, 5, 5), n_channels=27, widths=[], shading="sh_relu", activation="relu"),
    "feature frequencies": lambda: generate.make_field(1, (5, 5, 5), n_channels=4, feature_frequencies=10),
    "quantised tables": generate.quantized_field,
    "no metadata": lambda: generate.replace(small_field(), metadata={}),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_decode_of_what_was_encoded_equals_what_was_encoded(name: str, coder: str) -> None:
    field = SPECIAL[name]()
    data = encode(field)
    assert decode(data) == field
    assert verify(data) == field
    assert encode(decode(data)) == data


@needs_native
def test_the_twin_and_the_core_write_the_same_mid_size_file(monkeypatch: pytest.MonkeyPatch) -> None:
    field = generate.make_field(5, (40, 38, 36), n_codewords=256)
    files = []
    for native in ("0", "1"):
        monkeypatch.setenv("VQRF_NATIVE", native)
        files.append(encode(field))
        assert decode(files[-1]) == field
    assert files[0] == files[1]


tables = st.sampled_from([np.float16, np.uint8, np.uint16])


@st.composite
def compressed_fields(draw: st.DrawFn) -> CompressedField:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(*[st.integers(2, 9)] * 3))
    partition = rng.choice(3, shape, p=rng.dirichlet((1, 1, 1))).astype(np.uint8)
    n_coded, n_kept = int((partition == CODED).sum()), int((partition == KEPT).sum())
    n_channels, n_codewords = draw(st.integers(1, 5)), draw(st.integers(1, 300))

    def table(*table_shape: int) -> Any:
        kind = draw(tables)
        if kind == np.float16:
            return rng.standard_normal(table_shape).astype(np.float16)
        columns = table_shape[-1] if draw(st.booleans()) else 1
        scale, offset = rng.standard_normal((2, columns)).astype(np.float32)
        return Quantized(rng.integers(0, np.iinfo(kind).max, table_shape).astype(kind), scale, offset)

    width = draw(st.integers(1, 6))
    layers = ((table(width, n_channels + 3), table(width)), (table(3, width), table(3)))
    one = np.ones(1, np.float32)
    kept_levels = rng.integers(0, 256, (n_kept, n_channels)).astype(np.uint8)
    kept_scale = np.ones(n_channels if draw(st.booleans()) else 1, np.float32)
    return CompressedField(
        lattice=Lattice((-1.0, 0.1, -3.0), (0.0, 1e9, 7.25), shape),
        partition=partition,
        density=Quantized(rng.integers(0, 256, n_coded + n_kept).astype(np.uint8), one, -one),
        codes=rng.integers(0, n_codewords, n_coded).astype(np.int32),
        codebook=table(n_codewords, n_channels),
        kept=Quantized(kept_levels, kept_scale, -kept_scale),
        color_mlp=() if n_channels == 3 and draw(st.booleans()) else layers,
        equation=generate.EQUATION,
        empty_density=-3.25,
        metadata=draw(st.dictionaries(st.text(max_size=5), st.none() | st.floats(allow_nan=False, allow_infinity=False))),
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=compressed_fields())
def test_any_field_comes_back_and_reencodes_to_the_same_bytes(coder: str, field: CompressedField) -> None:
    data = encode(field)
    assert decode(data) == field
    assert encode(decode(data)) == data


def part_of(data: bytes, at: int) -> str:
    """The name of the part of the file that byte `at` is in."""
    return next(name for name, offset, size in reversed(sections(data)) if at >= offset and size)


def test_every_single_byte_change_is_refused_and_the_section_named(coder: str) -> None:
    data = encode(small_field())
    for at in range(len(data)):
        for flip in (0x01, 0x20, 0x80, 0xFF):
            bad = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
            with pytest.raises(BitstreamError) as refused:
                decode(bad)
            assert refused.value.section == part_of(data, at)


def test_every_prefix_is_refused_and_the_section_named(coder: str) -> None:
    data = encode(small_field())
    for end in range(len(data)):
        with pytest.raises(BitstreamError, match="truncated") as refused:
            decode(data[:end])
        assert refused.value.section == part_of(data, end)
        assert refused.value.offset == end


@pytest.mark.parametrize("version", [(0, 1), (0, 2), (0, 3), (0, 4), (4, 0), (256, 1)], ids=str)
def test_a_file_of_a_draft_or_of_a_later_major_version_is_refused_by_its_version(version: tuple[int, int], coder: str) -> None:
    data = generate.with_header(encode(small_field()), 8, "HH", *version)
    expected = f"header at byte 8: version {version[0]}.{version[1]} is not supported: this reader knows 1.x to 3.x"
    with pytest.raises(BitstreamError, match=f"^{re.escape(expected)}$"):
        decode(data)


@pytest.mark.parametrize("version", [(1, 1), (1, 65535)], ids=str)
def test_a_later_minor_version_is_read_and_its_own_sections_are_skipped(version: tuple[int, int], coder: str) -> None:
    field = small_field()
    assert decode(generate.with_header(encode(field), 8, "HH", *version)) == field
    data = generate.with_header(generate.ancillary(encode(field)), 8, "HH", *version)
    assert decode(data) == field
    assert verify(data) == field


def test_trailing_bytes_are_refused(coder: str) -> None:
    data = encode(small_field())
    with pytest.raises(BitstreamError, match=f"end at byte {len(data)}: 2 trailing bytes"):
        decode(data + b"\0\0")


def outcome(data: bytes, native: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQRF_NATIVE", native)
        try:
            return decode(data, max_bytes=1 << 20)
        except BitstreamError as error:
            return str(error)


@needs_native
@settings(max_examples=400, deadline=None)
@given(st.data())
def test_behind_the_checksums_both_decoders_say_the_same_of_any_damage(data: st.DataObject) -> None:
    """Damage a section and make lengths and checksums right again: only the decoders stand in the way."""
    name = data.draw(st.sampled_from(["small", "quantized"]))
    good = encode(small_field()) if name == "small" else (CONFORMANCE / "valid" / "quantized.vqrf").read_bytes()
    section = data.draw(st.sampled_from([name for name, _, _ in sections(good)[1:]]))

    def damage(body: bytes) -> bytes:
        mutable = bytearray(body)
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, min(len(mutable), 64) - 1))
            mutable[at] = data.draw(st.integers(0, 255))
        return bytes(mutable)

    bad = generate.edit(good, section, damage)
    twin, core = outcome(bad, "0"), outcome(bad, "1")
    assert twin == core
    if isinstance(core, CompressedField):
        assert verify(bad) == core


def check_arrays(field: CompressedField | PyramidField, path: Path) -> None:
    """A decoded field is what the arrays beside its file say, to the bit; sums of a pyramid's levels nearly."""
    found = generate.arrays_of(field)
    with np.load(path.with_suffix(".npz")) as expected:
        assert sorted(expected) == sorted(found)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name], strict=True)
        if isinstance(field, PyramidField):
            for values, name in zip(field.voxel_values(), ("density", "features"), strict=True):
                np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-5 * np.abs(expected[name]).max(initial=0))


@pytest.mark.parametrize("path", sorted((CONFORMANCE / "valid").glob("*.vqrf")), ids=lambda path: path.stem)
def test_valid_conformance_files_decode_to_their_arrays(path: Path, coder: str) -> None:
    check_arrays(verify(path.read_bytes()), path)


@pytest.mark.parametrize("path", sorted((CONFORMANCE / "truncated").glob("*.vqrf")), ids=lambda path: path.stem)
def test_conformance_files_that_are_cut_off_show_what_is_there_when_asked_for(path: Path, coder: str) -> None:
    with pytest.raises(BitstreamError, match="truncated"):
        decode(path.read_bytes())
    check_arrays(decode(path.read_bytes(), truncated=True), path)


EXPECTED = json.loads((CONFORMANCE / "invalid" / "expected.json").read_text())


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_invalid_conformance_files_are_refused_for_their_reason(name: str, coder: str) -> None:
    with pytest.raises(BitstreamError) as refused:
        decode((CONFORMANCE / "invalid" / f"{name}.vqrf").read_bytes())
    error = refused.value
    assert {"section": error.section, "offset": error.offset, "reason": error.reason} == EXPECTED[name]


def test_the_conformance_script_still_writes_these_files(coder: str) -> None:
    fields = {**generate.valid_fields(), **generate.valid_pyramids(), **generate.valid_planes()}
    for name, field in fields.items():
        if coder == "1" or field.partition.size < 2000:
            assert encode(field) == (CONFORMANCE / "valid" / f"{name}.vqrf").read_bytes()
    for name, (data, _) in generate.cut_off(generate.valid_pyramids()["pyramid"]).items():
        assert data == (CONFORMANCE / "truncated" / f"{name}.vqrf").read_bytes()


def test_a_file_over_the_callers_budget_is_refused(coder: str) -> None:
    field = small_field()
    data = encode(field)
    raw = sum(struct.unpack("<Q", row[16:24])[0] for row, _ in generate.split(data))
    assert decode(data, max_bytes=raw) == field
    with pytest.raises(BitstreamError, match=f"more than the limit of {raw - 1} bytes"):
        decode(data, max_bytes=raw - 1)


def test_the_working_memory_of_wide_planes_counts_against_the_budget(coder: str) -> None:
    wide = (2, 240, 240)
    field = generate.make_field(1, wide, n_codewords=1, partition=np.full(wide, PRUNED, np.uint8))
    data = encode(field)
    raw = sum(struct.unpack("<Q", row[16:24])[0] for row, _ in generate.split(data))
    working = 24 * 242 * 242 + 2 * 1 * 60 * 60 - (1 << 20)
    assert working > 0
    assert decode(data, max_bytes=raw + working) == field
    with pytest.raises(BitstreamError, match=f"HEAD .* decoding takes more than the limit of {raw + working - 1} bytes"):
        decode(data, max_bytes=raw + working - 1)


def test_an_unknown_section_that_is_not_critical_is_skipped(coder: str) -> None:
    data = encode(small_field())
    longer = generate.ancillary(data)
    assert "XTRA" in [name for name, _, _ in sections(longer)]
    assert verify(longer) == decode(data)


def test_sections_add_up_to_the_file() -> None:
    data = encode(small_field())
    parts = sections(data)
    assert [name for name, _, _ in parts] == ["header", "HEAD", "META", "COLR", "BOOK", "PART", "DENS", "CODE", "KEPT"]
    assert sum(size for _, _, size in parts) == len(data)
    assert all(a[1] + a[2] == b[1] for a, b in pairwise(parts))


def test_verify_names_a_section_that_would_be_written_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(small_field())
    other = encode(generate.replace(small_field(), metadata={"other": 1}))
    monkeypatch.setattr(bitstream, "encode", lambda field: other)
    with pytest.raises(BitstreamError, match=r"META at byte .*: encodes to other bytes"):
        verify(data)


def test_decoding_imports_no_torch() -> None:
    code = (
        "import sys, pathlib, vqrf.codec.bitstream as b; b.decode(pathlib.Path(sys.argv[1]).read_bytes());"
        "assert 'torch' not in sys.modules"
    )
    path = CONFORMANCE / "valid" / "shell.vqrf"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=with_source_path())


def with_source_path() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
