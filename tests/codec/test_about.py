"""What a file says of itself to people: it comes back, it is bounded, and it touches nothing else."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqrf.codec.about import MAX_CHARACTERS, MAX_POSTER_BYTES, NOTHING, About, FirstView, about_of, poster_sides
from vqrf.codec.bitstream import decode, encode, verify
from vqrf.codec.compressed import canonical_json
from vqrf.codec.container import BitstreamError, sections, with_section
from vqrf.codec.contents import metadata_of
from vqrf.fields.field import RadianceField
from vqrf.fields.preview import preview
from vqrf.rendering.html import encoded

POSTER = encoded(np.full((8, 9, 3), 200, np.uint8), "WEBP", 50)
WHOLE = About(
    title="A chair & <others>",
    author="Ä. N. 椅子",
    licence="CC BY 4.0",
    description="What it is.",
    up=(0.0, 1.0, 0.0),
    view=FirstView((1.0, 2.0, 3.0), (0.0, 0.0, 0.5)),
    distance=(0.5, 4.0),
    pitch=(-10.0, 85.0),
    yaw=(-40.0, 45.5),
    poster=POSTER,
)


@pytest.fixture(scope="module")
def file(ball_field: RadianceField) -> bytes:
    return encode(preview(ball_field))


def test_what_is_said_comes_back_from_the_file_and_other_metadata_stays(file: bytes) -> None:
    metadata = {"test": {"psnr": 31.5}, "about": {"title": "old", "pitch": [0, 1]}}
    made = with_section(file, "META", canonical_json(WHOLE.added_to(metadata)))
    found = decode(made).metadata
    assert about_of(found) == WHOLE and found["test"] == metadata["test"]
    assert metadata_of(made) == found
    assert NOTHING.added_to(found) == {"test": metadata["test"]}
    verify(made)


def test_no_byte_of_another_section_changes_and_the_file_comes_back(file: bytes) -> None:
    def bodies(data: bytes) -> dict[str, bytes]:
        return {name: data[at : at + size] for name, at, size in sections(data)[1:]}

    plain = with_section(file, "META", b"")
    made = with_section(plain, "META", canonical_json(WHOLE.added_to({})))
    assert {name: body for name, body in bodies(made).items() if name != "META"} == bodies(plain)
    assert with_section(made, "META", b"") == plain == with_section(plain, "META", b"")
    assert with_section(plain, "META", bodies(made)["META"]) == made
    assert list(bodies(made))[:3] == ["HEAD", "META", "COLR"]


def test_what_a_later_version_added_stays_where_it_is(file: bytes) -> None:
    n = struct.unpack_from("<I", file, 12)[0]
    table, body = file[32 : 32 + 32 * n], b"later"
    row = struct.pack("<4sHHQQII", b"XTRA", 0, 7, len(body), 99, zlib.crc32(body), 5)
    start = file[:8] + struct.pack("<HHIQI", 1, 3, n + 1, len(file) + 32 + len(body), 0)
    later = start + struct.pack("<I", zlib.crc32(start + table + row)) + table + row + file[32 + 32 * n :] + body
    made = with_section(later, "META", canonical_json({"about": {"title": "A"}}))
    assert made[8:12] == later[8:12] and row in made and made.endswith(body)
    assert about_of(decode(made).metadata).title == "A"


def test_a_damaged_file_is_not_made_whole(file: bytes) -> None:
    damaged = file[:-1] + bytes([file[-1] ^ 1])
    for made in (lambda: with_section(damaged, "META", b"{}"), lambda: metadata_of(damaged)):
        with pytest.raises(BitstreamError, match="checksum mismatch"):
            made()


def large(width: int, height: int) -> str:
    """A poster whose head says other sides."""
    return base64.b64encode(POSTER[:26] + struct.pack("<HH", width, height) + POSTER[30:]).decode()


@pytest.mark.parametrize(
    "part",
    [
        {"title": "x" * (MAX_CHARACTERS + 1)},
        {"title": "two\nlines"},
        {"author": "\x1b[31mred"},
        {"author": "turned \u202e round"},
        {"licence": "\ud800"},
        {"description": ["text"]},
        {"up": [0, 0, 0]},
        {"up": [0, 0, True]},
        {"up": [0, 0, 10**400]},
        {"view": {"position": [0, 0, 1]}},
        {"view": {"position": [0, 0, 1], "target": [0, 0, 1]}},
        {"view": [0, 0, 1]},
        {"distance": [0, 1]},
        {"distance": [2, 1]},
        {"pitch": [-91, 0]},
        {"pitch": [10, 0]},
        {"yaw": [10, 20]},
        {"yaw": [-181, 0]},
        {"yaw": [0, 180.5]},
        {"poster": "!"},
        {"poster": base64.b64encode(b"\x89PNG" + bytes(60)).decode()},
        {"poster": base64.b64encode(POSTER + bytes(MAX_POSTER_BYTES)).decode()},
        {"poster": large(513, 8)},
        {"poster": large(8, 0)},
        {"poster": 5},
    ],
    ids=lambda part: f"{next(iter(part))}: {next(iter(part.values()))!r:.20}",
)
def test_a_part_that_is_wrong_does_not_count_and_the_others_do(part: dict[str, Any]) -> None:
    said = {**WHOLE.entry(), **part, "unknown": 1}
    (name,) = part
    assert about_of({"about": said}) == About(**{**vars(WHOLE), name: getattr(NOTHING, name)})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["title", "up", "view", "distance", "pitch", "yaw", "poster"]), json_values) | json_values
)
def test_whatever_stands_there_is_read_without_an_error_and_can_be_written_again(tree: Any) -> None:
    found = about_of({"about": tree})
    assert about_of(found.added_to({})) == found


def test_a_poster_says_its_sides_before_it_is_decoded() -> None:
    assert poster_sides(POSTER) == (9, 8)
    for end in range(30):
        with pytest.raises(ValueError, match="poster: expected a lossy WebP"):
            poster_sides(POSTER[:end])
