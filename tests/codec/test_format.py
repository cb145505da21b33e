"""What FORMAT.md says byte by byte is what the files hold."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from test_entropy import generate

from vqrf.codec import entropy, walks
from vqrf.codec.bitstream import decode
from vqrf.codec.container import KNOWN, sections
from vqrf.codec.pyramid import build_nodes
from vqrf.fields.field import expand

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```\n(.*?)```", (ROOT / "FORMAT.md").read_text().split("## 10. ")[1], re.DOTALL)
SMALLEST = (ROOT / "conformance" / "valid" / "pyramid_smallest.vqrf").read_bytes()


def test_the_dump_is_the_file() -> None:
    at = 0
    data = bytearray()
    for line in BLOCKS[0].splitlines():
        found = re.fullmatch(r"([0-9A-F]{4})  ((?:[0-9A-F]{2} )+) *(\S.*)", line)
        assert found is not None, line
        assert int(found[1], 16) == at
        data += bytes.fromhex(found[2])
        at = len(data)
    assert bytes(data) == SMALLEST
    names = [line.split('"')[1] for line in BLOCKS[0].splitlines() if '"' in line]
    assert names == [name for name, _, _ in sections(SMALLEST)[1:]] == [name for name in KNOWN if name in names]


class Spelling(entropy.Decoder):
    """A decoder that remembers (context, p, bit) of every bit."""

    def __init__(self, n_contexts: int, data: bytes) -> None:
        super().__init__(n_contexts, data)
        self.context = "direct"
        self.read: list[tuple[str, int, int]] = []

    def bit(self, context: int, value: int = 0) -> int:
        self.context = str(context)
        return super().bit(context)

    def _narrow(self, probability: int) -> int:
        bit = super()._narrow(probability)
        self.read.append((self.context, probability, bit))
        self.context = "direct"
        return bit


@pytest.mark.parametrize(("name", "block"), [("PART", 1), ("LEV0", 2)])
def test_the_bits_of_a_stream_are_those_that_the_text_lists(name: str, block: int) -> None:
    expected = [line.split(None, 3) for line in BLOCKS[block].splitlines()]
    (stream,) = (SMALLEST[offset : offset + size] for part, offset, size in sections(SMALLEST) if part == name)
    assert f"code` = {stream[:4].hex().upper()}" in (ROOT / "FORMAT.md").read_text()
    field = generate.smallest_pyramid()
    if name == "PART":
        coder, partition = Spelling(walks.PARTITION_CONTEXTS, stream), np.zeros((2, 2, 2), np.uint8)
        walks.code_partition(coder, partition)
        np.testing.assert_array_equal(partition, field.partition)
    else:
        coder, level = Spelling(walks.level_contexts(4), stream), np.zeros((1, 4), np.int16)
        walks.code_level(coder, build_nodes(field.partition > 0, 0)[0], None, level)
        np.testing.assert_array_equal(level, field.coefficients[0])
    assert coder.is_complete()
    assert coder.read == [(context, int(p), int(bit)) for context, p, bit, _ in expected]


def test_the_voxel_has_the_values_that_the_text_says() -> None:
    field = expand(decode(SMALLEST))
    assert field.density[0, 1, 1] == 17 and field.features[0, 1, 1].tolist() == [0, -0.5, 1.5]
    assert "raw density 17 * 1 = 17 and features (0, -1 * 0.5, 3 * 0.5) = (0, -0.5, 1.5)" in (ROOT / "FORMAT.md").read_text()
