"""What a file says of itself, shown and changed from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_cli_view import vqrf

from vqrf.codec.about import about_of
from vqrf.codec.bitstream import decode, encode
from vqrf.codec.container import sections
from vqrf.fields.field import RadianceField
from vqrf.fields.preview import preview
from vqrf.rendering.poster import first_view


@pytest.fixture
def file(ball_field: RadianceField, tmp_path: Path) -> Path:
    path = tmp_path / "ball.vqrf"
    path.write_bytes(encode(preview(ball_field)))
    return path


def test_a_file_is_given_words_a_view_limits_and_a_poster_and_says_them(file: Path, ball_field: RadianceField) -> None:
    before = file.read_bytes()
    assert vqrf("meta", file) == (0, f"{file}: says nothing of itself\n", "")
    words = ("--title", "A ball", "--author", "Ä. N.", "--licence", "CC0")
    assert vqrf("meta", file, *words, "--pitch", -5, 80, "--distance", 1, 9, "--poster", "new")[0] == 0
    data = file.read_bytes()
    about = about_of(decode(data).metadata)
    assert (about.title, about.author, about.licence) == ("A ball", "Ä. N.", "CC0")
    assert about.pitch == (-5, 80) and about.distance == (1, 9) and about.view == first_view(ball_field)
    assert [row for row in sections(data)[1:] if row[0] != "META"][-1][2] == sections(before)[-1][2]
    code, text, _ = vqrf("meta", file)
    assert code == 0 and "A ball" in text and "width 192" in text
    tree = json.loads(vqrf("meta", file, "--json")[1])
    assert tree["about"]["poster"] == {"width": 192, "height": 192, "bytes": len(about.poster or b"")}
    assert tree["bytes"] == len(data) and json.loads(vqrf("info", file, "--json")[1])["about"] == tree["about"]
    assert file.read_bytes() == data  # who only looks changes nothing


def test_what_is_taken_away_leaves_the_file_as_it_was(file: Path) -> None:
    before = file.read_bytes()
    vqrf("meta", file, "--title", "A ball", "--poster", "new")
    assert vqrf("meta", file, "--title", "", "--poster", "none", "--view", "")[0] == 0
    assert file.read_bytes() == before


def test_the_view_of_a_link_becomes_the_first_view(file: Path) -> None:
    assert vqrf("meta", file, "--view", "file:///a.html#view=0.5,0,0,0,0,2")[0] == 0
    view = about_of(decode(file.read_bytes()).metadata).view
    assert view and view.target == (0.5, 0, 0)
    np.testing.assert_allclose(view.position, (2.5, 0, 0))
    assert vqrf("meta", file, "--up", 0, 1, 0, "--view", "0,0,0,0,1.5707963,2")[0] == 0
    view = about_of(decode(file.read_bytes()).metadata).view
    assert view
    np.testing.assert_allclose(view.position, (0, 2, 0), atol=1e-6)


def test_limits_of_turning_stay_where_they_are_when_the_first_view_moves(file: Path) -> None:
    vqrf("meta", file, "--view", "0,0,0,0.5,0.2,2", "--yaw", -30, 60)
    vqrf("meta", file, "--view", "0,0,0,0.7,0.3,3")
    yaw = about_of(decode(file.read_bytes()).metadata).yaw
    turned = np.degrees(0.2)
    np.testing.assert_allclose(yaw, (-30 - turned, 60 - turned), atol=1e-6)
    code, out, _ = vqrf("meta", file, "--view", "0,0,0,3.0,0.3,3")
    assert code == 0 and "not said any more" in out
    assert about_of(decode(file.read_bytes()).metadata).yaw is None


@pytest.mark.parametrize(
    ("flags", "saying"),
    [
        (("--title", "a\x1b[31m"), "--title: expected one line without control characters"),
        (("--author", "x" * 301), "--author: has 301 characters, the limit is 300"),
        (("--pitch", 10, 100), "--pitch: "),
        (("--yaw", 10, 100), "--yaw: "),
        (("--yaw", -10, 100), "--yaw: counts from the first view"),
        (("--distance", 0, 1), "--distance: "),
        (("--up", 0, 0, 0), "--up: "),
        (("--view", "1,2,3"), "--view: expected the six numbers"),
        (("--view", "1,2,3,0,0,0"), "--view: stands where it looks"),
    ],
)
def test_what_cannot_be_said_is_refused_and_the_file_stays(file: Path, flags: tuple[object, ...], saying: str) -> None:
    before = file.read_bytes()
    code, out, err = vqrf("meta", file, *flags)
    assert (code, out) == (2, "") and err.splitlines()[-1].startswith(f"vqrf: {saying}")
    assert file.read_bytes() == before


def test_text_of_others_is_no_command_to_a_terminal(file: Path) -> None:
    small = decode(file.read_bytes())
    object.__setattr__(small, "metadata", {"about": {"title": "good", "author": "\x1b[2J"}})
    file.write_bytes(encode(small))
    for verb in ("meta", "info"):
        _, out, _ = vqrf(verb, file)
        assert "\x1b" not in out and "good" in out


def test_a_damaged_file_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])
    code, _, err = vqrf("meta", file, "--title", "A")
    assert code == 2 and "KEPT at byte" in err
