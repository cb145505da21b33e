"""A scene in a notebook: one frame that holds its page, whatever the scene is."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from changed import changed

import vqrf
from vqrf.codec.about import About
from vqrf.codec.bitstream import decode, encode
from vqrf.codec.compressed import canonical_json
from vqrf.codec.container import with_section
from vqrf.fields.field import RadianceField
from vqrf.fields.preview import preview
from vqrf.rendering.page import page_with_scene
from vqrf.shown import Shown


def framed(shown: Shown) -> dict[str, str | None]:
    """The attributes of the frame, which is all that there is."""
    found: list[tuple[str, dict[str, str | None]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, dict(attrs)))

    Reader().feed(shown._repr_html_())
    ((tag, attributes),) = found
    assert tag == "iframe"
    return attributes


def test_fields_files_bytes_and_paths_are_shown_alike(ball_field: RadianceField, tmp_path: Path) -> None:
    small = preview(ball_field)
    data = encode(small)
    page = page_with_scene(data, "scene.vqrf").decode()
    for scene in (ball_field, small, data):
        attributes = framed(vqrf.show(scene, height=300))
        assert attributes["srcdoc"] == page and attributes["sandbox"] == "allow-scripts"
        assert "height:300px" in (attributes["style"] or "")
    path = tmp_path / "a.vqrf"
    path.write_bytes(data)
    for place in (path, str(path)):
        assert framed(vqrf.show(place))["srcdoc"] == page_with_scene(data, "a.vqrf").decode()
    vqrf.show(path).save(tmp_path / "a.html")
    assert (tmp_path / "a.html").read_bytes() == page_with_scene(data, "a.vqrf")


def test_fields_of_all_kinds_show_themselves(ball_field: RadianceField) -> None:
    pyramid = decode((Path(__file__).parents[2] / "conformance" / "valid" / "pyramid.vqrf").read_bytes())
    for field in (ball_field, preview(ball_field), pyramid):
        shown = field.show(height=300)
        assert isinstance(shown, Shown) and shown == vqrf.show(field, height=300)
    with pytest.raises(ValueError, match="height"):
        ball_field.show(height=0)


def test_the_frame_holds_what_the_file_says_and_nothing_leaves_it(ball_field: RadianceField) -> None:
    about = About(title='"></iframe><script>alert(1)</script>')
    data = with_section(encode(preview(ball_field)), "META", canonical_json(about.added_to({})))
    assert framed(vqrf.show(data))["srcdoc"] == page_with_scene(data, "scene.vqrf", about).decode()


def test_what_cannot_be_shown_is_refused(ball_field: RadianceField, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="header at byte 0"):
        vqrf.show(b"nothing")
    with pytest.raises(OSError, match="nothing"):
        vqrf.show(tmp_path / "nothing.vqrf")
    with pytest.raises(ValueError, match="height"):
        vqrf.show(ball_field, height=0)
    with pytest.raises(ValueError, match="cannot be drawn"):
        vqrf.show(encode(changed(preview(ball_field), step_world=1e-9)))
